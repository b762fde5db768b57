//! Keeps shared access signatures of Azure out of messages.
//!
//! Such a signature is part of the URL of every request. `object_store` leaves the URL out of errors
//! when it has one, but not out of those of deletions, and they are logged.

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What the signature follows in a URL.
const PARAMETER: &str = "sig=";

/// A store whose errors hold no signature.
#[derive(Debug)]
pub(crate) struct WithoutSignatures<T> {
    inner: T,
}

impl<T> WithoutSignatures<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner }
    }
}

impl<T: fmt::Display> fmt::Display for WithoutSignatures<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl<T: ObjectStore> ObjectStore for WithoutSignatures<T> {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations).map_err(hide).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// The error with its text alone as the cause, since each of its causes may have the URL as well.
fn hide(error: Error) -> Error {
    match error {
        Error::Generic { store, source } => {
            let text = source.to_string();
            let source = if text.contains(PARAMETER) {
                without_signatures(&text).into()
            } else {
                source
            };
            Error::Generic { store, source }
        }
        other => other,
    }
}

fn without_signatures(text: &str) -> String {
    let mut parts = text.split(PARAMETER);
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // Base64, as it is or with its signs encoded for a URL.
        let of_signature = |c: char| c.is_ascii_alphanumeric() || "%+/=-_".contains(c);
        kept.push_str(PARAMETER);
        kept.push('…');
        kept.push_str(part.trim_start_matches(of_signature));
    }
    kept
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn a_signature_is_hidden_and_the_rest_is_told() {
        let generic = |text: &str| Error::Generic {
            store: "MicrosoftAzure",
            source: text.into(),
        };
        let told = hide(generic(
            "POST http://a/b?comp=batch&sig=Y6%2FGMG+I=/x-_&se=1 and http://a/b?sig=abc: 500",
        ));
        assert_eq!(
            told.to_string(),
            generic("POST http://a/b?comp=batch&sig=…&se=1 and http://a/b?sig=…: 500").to_string()
        );
        let mut cause = std::error::Error::source(&told);
        while let Some(inner) = cause {
            assert!(!inner.to_string().contains("abc"));
            cause = inner.source();
        }
        let plain = hide(generic("503"));
        assert_eq!(plain.to_string(), generic("503").to_string());
    }
}
