//! The serving side: HTTP in, a call of the store, HTTP out.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, Query, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use futures::StreamExt as _;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ObjectStore,
    ObjectStoreExt as _, RenameOptions, RenameTargetMode,
};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use super::listing;
use super::protocol::{
    CopyRequest, ERROR_HEADER, Kind, Level, ListRequest, OBJECT_HEADER, ObjectInfo, Refusal,
    header_value,
};
use super::receive::{Receiver, Upload};

/// Bytes read from a file at a time.
const READ_BYTES: usize = 256 * 1024;

/// What every request needs.
#[derive(Debug, Clone)]
struct Served {
    store: Arc<dyn ObjectStore>,
    receiver: Receiver,
}

/// Serves a store below `/objects/v1/`.
///
/// Paths are those of `object_store`: nothing outside the store can be named. Whoever can send a
/// request is trusted with all objects: mount it behind mutual TLS only.
pub fn router(store: Arc<dyn ObjectStore>) -> Router {
    let receiver = Receiver::new(Arc::clone(&store));
    Router::new()
        .route(
            "/objects/v1/data/{*location}",
            get(read).put(write).delete(delete),
        )
        .route("/objects/v1/list", get(list))
        .route("/objects/v1/list-delimited", get(list_level))
        .route("/objects/v1/copy", post(copy))
        .with_state(Served { store, receiver })
}

async fn read(
    State(served): State<Served>,
    UrlPath(location): UrlPath<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let location = parse(&location)?;
    let options = GetOptions {
        if_match: text(&headers, IF_MATCH)?,
        if_none_match: text(&headers, IF_NONE_MATCH)?,
        range: text(&headers, RANGE)?
            .map(|range| parse_range(&range))
            .transpose()?,
        head: method == Method::HEAD,
        ..GetOptions::default()
    };
    let (head, partial) = (options.head, options.range.is_some());
    let result = served.store.get_opts(&location, options).await?;
    let info = ObjectInfo::new(&result.meta, result.range.clone());
    let length = result.range.end.saturating_sub(result.range.start);
    let e_tag = result.meta.e_tag.as_deref().and_then(header_value);
    let body = if head {
        Body::empty()
    } else {
        content(result, length).await?
    };
    let mut response = Response::new(body);
    if partial {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, length.into());
    headers.insert(OBJECT_HEADER, json_header(&info)?);
    if let Some(e_tag) = e_tag {
        headers.insert(ETAG, e_tag);
    }
    Ok(response)
}

/// The content of an object as a body. Files are read in larger pieces than `object_store` does.
async fn content(result: GetResult, length: u64) -> Result<Body, Refusal> {
    let start = result.range.start;
    match result.payload {
        GetResultPayload::File(file, _) => {
            let mut file = tokio::fs::File::from_std(file);
            let sought = file.seek(std::io::SeekFrom::Start(start)).await;
            sought.map_err(|error| Refusal {
                kind: Kind::Generic,
                message: format!("can't read from byte {start}: {error}"),
            })?;
            Ok(Body::from_stream(ReaderStream::with_capacity(
                file.take(length),
                READ_BYTES,
            )))
        }
        GetResultPayload::Stream(stream) => Ok(Body::from_stream(stream)),
    }
}

async fn write(
    State(served): State<Served>,
    UrlPath(location): UrlPath<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let upload = Upload::new(parse(&location)?, &headers)?;
    let stored = served
        .receiver
        .receive(upload, body.into_data_stream().boxed())
        .await?;
    json(&stored)
}

async fn delete(
    State(served): State<Served>,
    UrlPath(location): UrlPath<String>,
) -> Result<StatusCode, Refusal> {
    served.store.delete(&parse(&location)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list(
    State(served): State<Served>,
    Query(request): Query<ListRequest>,
) -> Result<Response, Refusal> {
    let prefix = request.prefix.as_deref().map(parse).transpose()?;
    let offset = request.offset.as_deref().map(parse).transpose()?;
    let objects = match &offset {
        Some(offset) => served.store.list_with_offset(prefix.as_ref(), offset),
        None => served.store.list(prefix.as_ref()),
    };
    let content_type = [(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    )];
    Ok((content_type, Body::from_stream(listing::lines(objects))).into_response())
}

async fn list_level(
    State(served): State<Served>,
    Query(request): Query<ListRequest>,
) -> Result<Response, Refusal> {
    let prefix = request.prefix.as_deref().map(parse).transpose()?;
    let level = served.store.list_with_delimiter(prefix.as_ref()).await?;
    json(&Level {
        objects: level.objects.iter().map(listing::listed).collect(),
        common_prefixes: level
            .common_prefixes
            .iter()
            .map(ToString::to_string)
            .collect(),
    })
}

async fn copy(State(served): State<Served>, body: Bytes) -> Result<StatusCode, Refusal> {
    let request: CopyRequest = serde_json::from_slice(&body)
        .map_err(|error| Refusal::invalid(format!("can't read the copy request: {error}")))?;
    let CopyRequest {
        from,
        to,
        create,
        rename,
    } = request;
    let (from, to) = (parse(&from)?, parse(&to)?);
    match (rename, create) {
        (true, false) => {
            served
                .store
                .rename_opts(&from, &to, RenameOptions::default())
                .await?
        }
        (true, true) => {
            let options = RenameOptions::new().with_target_mode(RenameTargetMode::Create);
            served.store.rename_opts(&from, &to, options).await?;
        }
        (false, false) => {
            served
                .store
                .copy_opts(&from, &to, CopyOptions::default())
                .await?
        }
        (false, true) => {
            let options = CopyOptions::new().with_mode(CopyMode::Create);
            served.store.copy_opts(&from, &to, options).await?;
        }
    }
    Ok(StatusCode::NO_CONTENT)
}

/// A location as the client must have it: already in the form of `object_store`, without `..`, empty
/// segments or control characters.
fn parse(location: &str) -> Result<Path, Refusal> {
    match Path::parse(location) {
        Ok(path) if path.as_ref() == location => Ok(path),
        Ok(_) => Err(Refusal::invalid(format!(
            "{location:?} begins or ends with a slash"
        ))),
        Err(error) => Err(Refusal::invalid(error.to_string())),
    }
}

/// Reads one range of a `Range` header: `bytes=a-b`, `bytes=a-` or `bytes=-n`.
fn parse_range(header: &str) -> Result<GetRange, Refusal> {
    let invalid = || Refusal::invalid(format!("can't understand the range {header:?}"));
    let number = |text: &str| text.parse::<u64>().map_err(|_| invalid());
    let range = header
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'));
    match range.ok_or_else(invalid)? {
        ("", length) => Ok(GetRange::Suffix(number(length)?)),
        (start, "") => Ok(GetRange::Offset(number(start)?)),
        (start, last) => match (number(start)?, number(last)?.checked_add(1)) {
            (start, Some(end)) if start < end => Ok(GetRange::Bounded(start..end)),
            _ => Err(invalid()),
        },
    }
}

fn text(headers: &HeaderMap, name: http::HeaderName) -> Result<Option<String>, Refusal> {
    match headers.get(&name).map(HeaderValue::to_str) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text.to_owned())),
        Some(Err(_)) => Err(Refusal::invalid(format!("header {name} is not text"))),
    }
}

fn json_header(info: &ObjectInfo) -> Result<HeaderValue, Refusal> {
    let text = serde_json::to_string(info).map_err(unwritable)?;
    header_value(&text).ok_or_else(|| Refusal {
        kind: Kind::Generic,
        message: "the metadata of the object don't fit into a header".to_owned(),
    })
}

fn json(value: &impl Serialize) -> Result<Response, Refusal> {
    let body = serde_json::to_vec(value).map_err(unwritable)?;
    let content_type = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((content_type, body).into_response())
}

fn unwritable(error: serde_json::Error) -> Refusal {
    Refusal {
        kind: Kind::Generic,
        message: format!("can't write the answer: {error}"),
    }
}

impl axum::response::IntoResponse for Refusal {
    fn into_response(self) -> Response {
        if self.kind == Kind::Generic {
            tracing::warn!(error = %self.message, "object store call failed");
        }
        let headers = [
            (ERROR_HEADER, HeaderValue::from_static(self.kind.as_str())),
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        ];
        let body = serde_json::to_vec(&self).unwrap_or_default();
        (self.kind.status(), headers, body).into_response()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn ranges_are_read_as_http_writes_them() {
        for (header, expected) in [
            ("bytes=0-0", Some(GetRange::Bounded(0..1))),
            ("bytes=5-9", Some(GetRange::Bounded(5..10))),
            ("bytes=5-", Some(GetRange::Offset(5))),
            ("bytes=-7", Some(GetRange::Suffix(7))),
            ("bytes=9-5", None),
            ("bytes=0-18446744073709551615", None),
            ("bytes=", None),
            ("bytes=a-b", None),
            ("bytes=1-2,4-5", None),
            ("rows=1-2", None),
        ] {
            assert_eq!(parse_range(header).ok(), expected, "{header}");
        }
    }

    #[test]
    fn only_plain_locations_are_taken() {
        for good in [
            "a",
            "a/b.parquet",
            "date=2026-11-21/ä b",
            "a%2F..%2Fb",
            "...",
            "a/#x",
        ] {
            assert_eq!(parse(good).unwrap().as_ref(), good);
        }
        for bad in [
            "..", "../a", "a/../b", "a/..", "./a", "/a", "a/", "a//b", "a\0", "a/\n",
        ] {
            assert_eq!(parse(bad).unwrap_err().kind, Kind::Invalid, "{bad:?}");
        }
    }
}
