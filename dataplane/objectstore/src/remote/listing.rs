//! Lists as lines of JSON: both ends, so that neither holds a whole list in memory.

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{Error, ObjectMeta, Result};
use reqwest::{Method, Response};

use super::protocol::{ListLine, ListRequest, Listed, ObjectInfo, Refusal};
use super::transport::Transport;

/// Longest line: a path of 1 KiB, its escapes, the numbers.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// Objects sent in one piece, as far as they are there already.
const OBJECTS_PER_CHUNK: usize = 256;

/// Writes a list as lines. Ends with [`ListLine::End`] or [`ListLine::Failed`].
pub(super) fn lines(
    objects: BoxStream<'static, Result<ObjectMeta>>,
) -> BoxStream<'static, Result<Bytes, serde_json::Error>> {
    objects
        .map(|object| match object {
            Ok(meta) => ListLine::Object(listed(&meta)),
            Err(error) => ListLine::Failed(Refusal::from(error)),
        })
        .chain(stream::once(async { ListLine::End }))
        .ready_chunks(OBJECTS_PER_CHUNK)
        .map(|chunk| {
            let mut text = Vec::new();
            for line in chunk {
                serde_json::to_writer(&mut text, &line)?;
                text.push(b'\n');
            }
            Ok(Bytes::from(text))
        })
        .boxed()
}

/// An object as it is listed.
pub(super) fn listed(meta: &ObjectMeta) -> Listed {
    Listed {
        location: meta.location.to_string(),
        info: ObjectInfo::new(meta, 0..0),
    }
}

/// The object that was listed.
pub(super) fn meta(listed: Listed) -> Result<ObjectMeta> {
    Ok(listed.info.meta(Path::parse(listed.location)?))
}

/// Asks for a list and reads its lines as they come.
pub(super) fn list(
    transport: Transport,
    request: ListRequest,
) -> BoxStream<'static, Result<ObjectMeta>> {
    let begin = async move {
        let path = request.prefix.clone().unwrap_or_default();
        let build = || transport.request(Method::GET, ["list"]).query(&request);
        let response = transport
            .send_repeatable(&path, transport.timeout, build)
            .await?;
        Ok::<_, Error>(read(Lines::new(transport, response)))
    };
    stream::once(begin).try_flatten().boxed()
}

fn read(lines: Lines) -> BoxStream<'static, Result<ObjectMeta>> {
    stream::try_unfold(lines, |mut lines| async move {
        match lines.next().await? {
            ListLine::Object(listed) => Ok(Some((meta(listed)?, lines))),
            ListLine::Failed(refusal) => Err(refusal.into_error("")),
            ListLine::End => Ok(None),
        }
    })
    .boxed()
}

/// The lines of an answer.
struct Lines {
    transport: Transport,
    chunks: BoxStream<'static, reqwest::Result<Bytes>>,
    buffer: BytesMut,
}

impl Lines {
    fn new(transport: Transport, response: Response) -> Self {
        Self {
            transport,
            chunks: response.bytes_stream().boxed(),
            buffer: BytesMut::new(),
        }
    }

    async fn next(&mut self) -> Result<ListLine> {
        let mut searched = 0;
        loop {
            let end = self.buffer[searched..]
                .iter()
                .position(|byte| *byte == b'\n');
            if let Some(end) = end {
                let line = self.buffer.split_to(searched + end + 1);
                let line = serde_json::from_slice(&line);
                return Ok(line.map_err(|error| self.transport.unreadable(error))?);
            }
            searched = self.buffer.len();
            if searched > MAX_LINE_BYTES {
                return Err(self.transport.cut_off().into());
            }
            match tokio::time::timeout(self.transport.timeout, self.chunks.next()).await {
                Err(_) => return Err(self.transport.timed_out(self.transport.timeout).into()),
                Ok(None) => return Err(self.transport.cut_off().into()),
                Ok(Some(Err(error))) => return Err(self.transport.unreachable(error).into()),
                Ok(Some(Ok(chunk))) => self.buffer.extend_from_slice(&chunk),
            }
        }
    }
}
