//! The calling side: another process's objects behind the trait of `object_store`.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use http::header::{IF_MATCH, IF_NONE_MATCH, RANGE};
use object_store::path::Path;
use object_store::{
    Attributes, CopyMode, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload,
    ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, RenameOptions, RenameTargetMode, Result,
};
use reqwest::{Body, Method, Response};

use super::listing;
use super::protocol::{
    CopyRequest, LENGTH_HEADER, Level, ListRequest, OBJECT_HEADER, ObjectInfo, PeerError, STORE,
    Stored,
};
use super::transport::{RemoteEndpoint, SetupError, Transport};
use super::upload::RemoteUpload;

/// Deletions under way at a time.
const PARALLEL_DELETES: usize = 10;

/// The objects of another process. See the [module](super).
///
/// - Retry: reads and lists are sent up to three times when they get no answer. What changes something is
///   sent once, and may have been carried out: a first attempt that comes late could undo what a second one,
///   or another caller, did since.
/// - Not supported: attributes, versions, conditions on times, `PutMode::Update`.
#[derive(Debug, Clone)]
pub struct RemoteStore {
    transport: Transport,
}

impl RemoteStore {
    /// Prepares calls. Connects when the first call is made.
    pub fn new(endpoint: RemoteEndpoint) -> Result<Self, SetupError> {
        Ok(Self {
            transport: Transport::new(endpoint)?,
        })
    }

    async fn copy_or_rename(&self, request: CopyRequest) -> Result<()> {
        let path = request.from.clone();
        let built = self
            .transport
            .request(Method::POST, ["copy"])
            .json(&request);
        self.transport
            .send_once(&path, self.transport.timeout, built)
            .await?;
        Ok(())
    }

    /// The body as it arrives, which must have the announced length.
    fn content(&self, response: Response, length: u64) -> BoxStream<'static, Result<Bytes>> {
        let transport = self.transport.clone();
        let chunks = response.bytes_stream().boxed();
        stream::try_unfold((chunks, length), move |(mut chunks, left)| {
            let transport = transport.clone();
            async move {
                match tokio::time::timeout(transport.timeout, chunks.next()).await {
                    Err(_) => Err(transport.timed_out(transport.timeout).into()),
                    Ok(Some(Err(error))) => Err(transport.unreachable(error).into()),
                    Ok(None) if left == 0 => Ok(None),
                    Ok(None) => Err(transport.cut_off().into()),
                    Ok(Some(Ok(chunk))) => match left.checked_sub(chunk.len() as u64) {
                        Some(left) => Ok(Some((chunk, (chunks, left)))),
                        None => Err(transport.cut_off().into()),
                    },
                }
            }
        })
        .boxed()
    }

    fn info(&self, response: &Response) -> Result<ObjectInfo> {
        let header = response.headers().get(OBJECT_HEADER);
        let info = header.ok_or_else(|| {
            self.transport
                .unreadable(PeerError("it has no metadata of the object".to_owned()))
        })?;
        Ok(serde_json::from_slice(info.as_bytes()).map_err(|e| self.transport.unreadable(e))?)
    }

    fn not_implemented<T>(&self, operation: &str) -> Result<T> {
        Err(Error::NotImplemented {
            operation: operation.to_owned(),
            implementer: self.to_string(),
        })
    }
}

impl fmt::Display for RemoteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{STORE}({})", self.transport.place)
    }
}

/// The `Range` header for a part of an object.
fn range_header(range: &GetRange) -> Result<String> {
    match range {
        GetRange::Bounded(range) if range.is_empty() => {
            let source = format!("can't read the empty range {}..{}", range.start, range.end);
            Err(Error::Generic {
                store: STORE,
                source: source.into(),
            })
        }
        GetRange::Bounded(range) => Ok(format!("bytes={}-{}", range.start, range.end - 1)),
        GetRange::Offset(offset) => Ok(format!("bytes={offset}-")),
        GetRange::Suffix(length) => Ok(format!("bytes=-{length}")),
    }
}

#[async_trait]
impl ObjectStore for RemoteStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        if !opts.attributes.is_empty() {
            return self.not_implemented("put with attributes");
        }
        let build = || {
            let chunks = payload.clone().into_iter().map(Ok::<Bytes, std::io::Error>);
            self.transport
                .object(Method::PUT, location)
                .header(LENGTH_HEADER, payload.content_length())
                .body(Body::wrap_stream(stream::iter(chunks)))
        };
        let path = location.as_ref();
        let limit = self.transport.limit_for(payload.content_length());
        let permit = self.transport.upload_permit().await?;
        let response = match opts.mode {
            // Sent once: a stalled first attempt could replace, unsynced, what a second one stored.
            PutMode::Overwrite => self.transport.send_once(path, limit, build()).await?,
            // A repeat would find what the lost first one had created.
            PutMode::Create => {
                self.transport
                    .send_once(path, limit, build().header(IF_NONE_MATCH, "*"))
                    .await?
            }
            PutMode::Update(_) => return self.not_implemented("put with a version to update"),
        };
        drop(permit);
        let stored: Stored = response
            .json()
            .await
            .map_err(|e| self.transport.unreadable(e))?;
        Ok(PutResult {
            e_tag: stored.e_tag,
            version: stored.version,
        })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if !opts.attributes.is_empty() {
            return self.not_implemented("upload with attributes");
        }
        Ok(Box::new(RemoteUpload::start(
            self.transport.clone(),
            location,
        )))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let GetOptions {
            if_match,
            if_none_match,
            if_modified_since,
            if_unmodified_since,
            range,
            version,
            head,
            extensions: _,
        } = options;
        if if_modified_since.is_some() || if_unmodified_since.is_some() || version.is_some() {
            return self.not_implemented("get with a time or version");
        }
        let range = range.as_ref().map(range_header).transpose()?;
        let method = if head { Method::HEAD } else { Method::GET };
        let headers = [
            (IF_MATCH, if_match),
            (IF_NONE_MATCH, if_none_match),
            (RANGE, range),
        ];
        let build = || {
            let mut request = self.transport.object(method.clone(), location);
            for (name, value) in &headers {
                if let Some(value) = value {
                    request = request.header(name, value);
                }
            }
            request
        };
        let response = self
            .transport
            .send_repeatable(location.as_ref(), self.transport.timeout, build)
            .await?;
        let info = self.info(&response)?;
        let length = if head {
            0
        } else {
            info.range.end.saturating_sub(info.range.start)
        };
        Ok(GetResult {
            meta: info.meta(location.clone()),
            range: info.range,
            payload: GetResultPayload::Stream(self.content(response, length)),
            attributes: Attributes::default(),
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let transport = self.transport.clone();
        locations
            .map(move |location| {
                let transport = transport.clone();
                async move {
                    let location = location?;
                    let request = transport.object(Method::DELETE, &location);
                    transport
                        .send_once(location.as_ref(), transport.timeout, request)
                        .await?;
                    Ok(location)
                }
            })
            .buffered(PARALLEL_DELETES)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.map(ToString::to_string);
        listing::list(
            self.transport.clone(),
            ListRequest {
                prefix,
                offset: None,
            },
        )
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.map(ToString::to_string);
        let request = ListRequest {
            prefix,
            offset: Some(offset.to_string()),
        };
        listing::list(self.transport.clone(), request)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let request = ListRequest {
            prefix: prefix.map(ToString::to_string),
            offset: None,
        };
        let path = request.prefix.clone().unwrap_or_default();
        let build = || {
            self.transport
                .request(Method::GET, ["list-delimited"])
                .query(&request)
        };
        let response = self
            .transport
            .send_repeatable(&path, self.transport.timeout, build)
            .await?;
        let level: Level = response
            .json()
            .await
            .map_err(|e| self.transport.unreadable(e))?;
        let objects = level
            .objects
            .into_iter()
            .map(listing::meta)
            .collect::<Result<_>>()?;
        let parse = |prefix| Ok::<_, Error>(Path::parse(prefix)?);
        let common_prefixes = level
            .common_prefixes
            .into_iter()
            .map(parse)
            .collect::<Result<_>>()?;
        Ok(ListResult {
            objects,
            common_prefixes,
        })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let create = match options.mode {
            CopyMode::Overwrite => false,
            CopyMode::Create => true,
        };
        let (from, to) = (from.to_string(), to.to_string());
        self.copy_or_rename(CopyRequest {
            from,
            to,
            create,
            rename: false,
        })
        .await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let create = match options.target_mode {
            RenameTargetMode::Overwrite => false,
            RenameTargetMode::Create => true,
        };
        let (from, to) = (from.to_string(), to.to_string());
        self.copy_or_rename(CopyRequest {
            from,
            to,
            create,
            rename: true,
        })
        .await
    }
}
