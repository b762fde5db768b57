//! Room for messages on their way in.
//!
//! A gRPC message is put together in memory before anybody can look at it, one for each stream of each
//! client. Its length stands in front of it: a message waits here until there is room for all of it, and
//! is refused when that takes too long. First come, first served, and for whole messages: streams that had
//! room for a part of theirs would wait for each other.
//!
//! # Uploads
//! The transport keeps the memory of a stream's last message until the next one comes, however long that
//! takes, and for as many streams as there are. So the messages of an upload are put together and decoded
//! here, and reach the service through its [`Inbox`]; the transport gets an empty message for each.
//! Everything else it does (order, end, errors, cancellation) stays as it is.
//!
//! A message is put together where its body comes to lie as Arrow wants it, so that its rows are read in
//! place, without a second copy of all that is uploaded.
//!
//! Room is given back when the next message of the stream is asked for: whoever took the message counts it
//! by then.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arrow_flight::FlightData;
use axum::body::Body;
use bytes::{Buf as _, Bytes};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use flightcluster_wire::BODY_ALIGNMENT;

use crate::status::{ErrorCode, Failure};

/// Longest wait for room. A waiting message keeps a part of its connection's window, which others on the
/// same connection may need to be done.
const PATIENCE: Duration = Duration::from_secs(20);
/// When a refused client should come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Messages up to this size need no room: they are no larger than what a connection may send anyway, and
/// must not wait behind large ones.
const SMALL_BYTES: usize = 64 << 10;
/// Before each message: a flag, and the length in four bytes (gRPC over HTTP/2, Length-Prefixed-Message).
const PREFIX_BYTES: usize = 5;
/// Field of a message of an upload that holds its body, the last one with every known client.
const BODY_FIELD: u32 = 1000;
/// A message without a field.
const EMPTY_MESSAGE: &[u8] = &[0; PREFIX_BYTES];

/// Bytes that the messages being received may have together. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub struct ReceiveBudget {
    room: Arc<Semaphore>,
    bytes: u32,
    max_message_bytes: usize,
}

/// The messages of one upload that were received and not taken yet: at most one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inbox(Arc<Mutex<VecDeque<FlightData>>>);

impl Inbox {
    /// The message that stands behind an empty one of the transport.
    pub(crate) fn take(&self) -> Option<FlightData> {
        self.0.lock().pop_front()
    }
}

impl ReceiveBudget {
    /// `bytes`: of all messages; a larger one is let in alone. `max_message_bytes`: what is larger gets no
    /// room, because it is refused before more of it is taken.
    #[must_use]
    pub fn new(bytes: u64, max_message_bytes: usize) -> Self {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).max(1);
        Self {
            room: Arc::new(Semaphore::new(bytes as usize)),
            bytes,
            max_message_bytes,
        }
    }

    /// The body of a call, whose messages wait for room; those of an upload go into its `inbox`.
    /// `request_id` names the call when one is refused.
    pub(crate) fn admit(&self, body: Body, inbox: Option<Inbox>, request_id: &str) -> Body {
        Body::new(Received {
            body,
            budget: self.clone(),
            inbox,
            request_id: request_id.to_owned(),
            data: Bytes::new(),
            message: Vec::new(),
            begins: 0,
            length: None,
            waiting: None,
            room: None,
            passes: false,
            ended: false,
        })
    }

    async fn take(self, bytes: u32) -> Result<OwnedSemaphorePermit, Failure> {
        let wanted = Arc::clone(&self.room).acquire_many_owned(bytes.min(self.bytes));
        match tokio::time::timeout(PATIENCE, wanted).await {
            Ok(Ok(room)) => Ok(room),
            _ => {
                let text = format!(
                    "no room for a message of {bytes} bytes: {} bytes of messages are being received; \
                     send it again later, or send fewer at once",
                    self.bytes
                );
                Err(Failure::new(ErrorCode::Overloaded, text).retry_after(RETRY_AFTER))
            }
        }
    }
}

/// See the module documentation.
struct Received {
    body: Body,
    budget: ReceiveBudget,
    inbox: Option<Inbox>,
    request_id: String,
    /// What came and was not looked at.
    data: Bytes,
    /// The message that is put together, with its prefix, behind `begins` bytes without a meaning.
    message: Vec<u8>,
    begins: usize,
    /// Bytes it will have, with its prefix, once they are known.
    length: Option<usize>,
    waiting: Option<BoxFuture<'static, Result<OwnedSemaphorePermit, Failure>>>,
    room: Option<OwnedSemaphorePermit>,
    /// What is wrong with the rest is the transport's to say.
    passes: bool,
    ended: bool,
}

type Polled = Option<Result<Frame<Bytes>, axum::Error>>;

impl Received {
    fn fail(&mut self, status: Status) -> Polled {
        self.ended = true;
        Some(Err(axum::Error::new(status)))
    }

    /// What was put together so far and all that came.
    fn pass(&mut self) -> Bytes {
        self.passes = true;
        let mut passed = self.take_message().to_vec();
        passed.extend_from_slice(&std::mem::take(&mut self.data));
        passed.into()
    }

    /// What was put together so far.
    fn take_message(&mut self) -> Bytes {
        let begins = std::mem::take(&mut self.begins);
        Bytes::from(std::mem::take(&mut self.message)).slice(begins..)
    }

    /// Takes from what came until the message has `length` bytes; whether it has.
    fn fill(&mut self, length: usize) -> bool {
        if self.message.len() == PREFIX_BYTES && length > PREFIX_BYTES {
            self.make_room(length);
        }
        let missing = self.begins + length - self.message.len();
        let taken = missing.min(self.data.len());
        self.message.extend_from_slice(&self.data[..taken]);
        self.data.advance(taken);
        taken == missing
    }

    /// Memory for all of a message of which the prefix is there and what follows it has come. The body is
    /// at its place when it begins in what has come, and it nearly always does; the decoder copies others.
    fn make_room(&mut self, length: usize) {
        let prefix = std::mem::take(&mut self.message);
        let mut message: Vec<u8> = Vec::with_capacity(BODY_ALIGNMENT + length);
        if let Some(offset) = body_offset(&self.data) {
            let body = message.as_ptr().wrapping_add(PREFIX_BYTES + offset);
            self.begins = body.align_offset(BODY_ALIGNMENT);
            message.resize(self.begins, 0);
        }
        message.extend_from_slice(&prefix);
        self.message = message;
    }

    /// Looks at the prefix of a message: bytes to pass on, or nothing when it is to be put together.
    fn begin(&mut self) -> Option<Bytes> {
        let [flag, a, b, c, d] = self.message[..] else {
            return None;
        };
        let bytes = u32::from_be_bytes([a, b, c, d]);
        // Compressed, or too large: both are refused by the transport.
        if flag != 0 || bytes as usize > self.budget.max_message_bytes {
            return Some(self.pass());
        }
        self.length = Some(PREFIX_BYTES + bytes as usize);
        if bytes as usize > SMALL_BYTES {
            self.waiting = Some(self.budget.clone().take(bytes).boxed());
        }
        None
    }

    /// Goes on with what came: something for the transport, or nothing when more has to come or room is
    /// waited for.
    fn advance(&mut self) -> Option<Polled> {
        while !self.passes && self.waiting.is_none() && !self.data.is_empty() {
            let length = self.length;
            if !self.fill(length.unwrap_or(PREFIX_BYTES)) {
                return None;
            }
            if length.is_some() {
                return Some(self.finish());
            }
            if let Some(passed) = self.begin() {
                return Some(Some(Ok(Frame::data(passed))));
            }
            if self.length == Some(PREFIX_BYTES) {
                return Some(self.finish());
            }
        }
        None
    }

    /// The message is complete.
    fn finish(&mut self) -> Polled {
        self.length = None;
        let message = self.take_message();
        let Some(inbox) = &self.inbox else {
            return Some(Ok(Frame::data(message)));
        };
        match FlightData::decode(message.slice(PREFIX_BYTES..)) {
            Ok(mut decoded) => {
                // Rows are to keep no more in memory than what they are counted for: header and body.
                let counted = decoded.data_header.len() + decoded.data_body.len();
                if counted < message.len() / 8 * 7 {
                    decoded.data_header = Bytes::copy_from_slice(&decoded.data_header);
                    decoded.data_body = Bytes::copy_from_slice(&decoded.data_body);
                }
                inbox.0.lock().push_back(decoded);
                Some(Ok(Frame::data(Bytes::from_static(EMPTY_MESSAGE))))
            }
            Err(error) => {
                let text = format!("a message of the upload is malformed: {error}");
                let failure = Failure::new(ErrorCode::InvalidData, text);
                self.fail(failure.into_status(&self.request_id))
            }
        }
    }
}

/// Where the body begins in a message of an upload that begins with these bytes; `None` when they don't say.
fn body_offset(message: &[u8]) -> Option<usize> {
    let mut rest = message;
    loop {
        let (field, wire_type) = decode_key(&mut rest).ok()?;
        if wire_type != WireType::LengthDelimited {
            return None;
        }
        let length = decode_varint(&mut rest).ok()?;
        if field == BODY_FIELD {
            return Some(message.len() - rest.len());
        }
        rest = rest.get(usize::try_from(length).ok()?..)?;
    }
}

impl HttpBody for Received {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Polled> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        if this.length.is_none() {
            // The message before was taken.
            this.room = None;
        }
        loop {
            if let Some(waiting) = &mut this.waiting {
                let room = ready!(waiting.as_mut().poll(cx));
                this.waiting = None;
                match room {
                    Ok(room) => this.room = Some(room),
                    Err(failure) => {
                        let status = failure.into_status(&this.request_id);
                        return Poll::Ready(this.fail(status));
                    }
                }
            }
            if let Some(polled) = this.advance() {
                return Poll::Ready(polled);
            }
            if this.waiting.is_some() {
                continue;
            }
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if this.passes => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    Ok(data) => this.data = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                None if !this.message.is_empty() => {
                    // The transport says what it makes of half a message.
                    this.ended = true;
                    return Poll::Ready(Some(Ok(Frame::data(this.pass()))));
                }
                other => return Poll::Ready(other),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let nothing = self.data.is_empty() && self.message.is_empty() && self.length.is_none();
        self.ended || (nothing && self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self.inbox {
            Some(_) => SizeHint::default(),
            None => self.body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use futures::StreamExt as _;
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::sync::mpsc;

    use super::*;

    /// More than a small message, so that it needs room.
    const LARGE: usize = 100_000;

    /// A message of `length` bytes with its prefix.
    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&(length as u32).to_be_bytes());
        bytes.resize(PREFIX_BYTES + length, 7);
        bytes
    }

    fn body_of(pieces: Vec<Vec<u8>>) -> Body {
        let frames = pieces
            .into_iter()
            .map(|piece| Ok::<_, axum::Error>(Frame::data(piece.into())));
        Body::new(StreamBody::new(futures::stream::iter(frames)))
    }

    #[tokio::test]
    async fn whatever_the_pieces_the_bytes_come_through_as_they_were() {
        let lengths = [0, 3, LARGE, 1, 0, LARGE / 2, 7];
        let mut whole: Vec<u8> = lengths.into_iter().flat_map(message).collect();
        // The last one ends in the middle.
        whole.truncate(whole.len() - 2);
        for size in [1, 2, 3, 4, 5, 6, 7, 1000, LARGE, LARGE + 13, whole.len()] {
            let pieces = whole.chunks(size).map(<[u8]>::to_vec).collect();
            let budget = ReceiveBudget::new(50, LARGE);
            let body = budget.admit(body_of(pieces), None, "");
            let through = body.collect().await.unwrap().to_bytes();
            assert_eq!(through, whole, "pieces of {size}");
            assert_eq!(budget.room.available_permits(), 50);
        }
    }

    #[tokio::test]
    async fn messages_of_an_upload_are_in_the_inbox_one_at_a_time() {
        let sent: Vec<FlightData> = [LARGE, 0, 30, LARGE]
            .into_iter()
            .map(|bytes| FlightData {
                app_metadata: vec![8; bytes].into(),
                ..FlightData::default()
            })
            .collect();
        let whole = encoded(&sent);
        for size in [5, 1000, whole.len()] {
            let (budget, inbox) = (ReceiveBudget::new(1 << 20, 1 << 20), Inbox::default());
            let pieces = whole.chunks(size).map(<[u8]>::to_vec).collect();
            let mut body = budget.admit(body_of(pieces), Some(inbox.clone()), "");
            for message in &sent {
                let frame = body.frame().await.unwrap().unwrap();
                assert_eq!(frame.into_data().unwrap(), EMPTY_MESSAGE);
                assert_eq!(inbox.take().as_ref(), Some(message));
                let has_room = budget.room.available_permits() < 1 << 20;
                assert_eq!(has_room, message.app_metadata.len() > SMALL_BYTES);
                assert!(inbox.take().is_none());
            }
            assert!(body.frame().await.is_none());
            assert_eq!(budget.room.available_permits(), 1 << 20);
        }
        let malformed = vec![vec![0, 0, 0, 0, 1, 255]];
        let budget = ReceiveBudget::new(1 << 20, 1 << 20);
        let mut body = budget.admit(body_of(malformed), Some(Inbox::default()), "id");
        let failure = failure_of(body.frame().await);
        assert_eq!(failure.code, ErrorCode::InvalidData);
    }

    /// The messages as a client sends them.
    fn encoded(sent: &[FlightData]) -> Vec<u8> {
        let mut whole = Vec::new();
        for message in sent {
            whole.push(0);
            whole.extend_from_slice(&(message.encoded_len() as u32).to_be_bytes());
            message.encode(&mut whole).unwrap();
        }
        whole
    }

    #[tokio::test]
    async fn a_body_comes_to_lie_where_it_is_read_in_place() {
        let sent: Vec<FlightData> = (0..40)
            .map(|number| FlightData {
                data_header: vec![1; 200 + number].into(),
                app_metadata: vec![2; number % 3].into(),
                data_body: vec![number as u8; LARGE + number].into(),
                ..FlightData::default()
            })
            .collect();
        let whole = encoded(&sent);
        for size in [16 << 10, whole.len()] {
            let (budget, inbox) = (ReceiveBudget::new(1 << 20, 1 << 20), Inbox::default());
            let pieces = whole.chunks(size).map(<[u8]>::to_vec).collect();
            let mut body = budget.admit(body_of(pieces), Some(inbox.clone()), "");
            let mut in_place = 0;
            while body.frame().await.is_some() {
                let taken = inbox.take().unwrap();
                in_place += usize::from(taken.data_body.as_ptr().align_offset(BODY_ALIGNMENT) == 0);
                assert_eq!(taken, sent[usize::from(taken.data_body[0])]);
            }
            // A few begin at the end of a piece, which does not say yet where their body will be.
            assert!(in_place >= 36, "{in_place} of 40 in pieces of {size}");
        }
    }

    #[tokio::test]
    async fn rows_do_not_keep_a_message_in_memory_that_is_mostly_something_else() {
        let message = |metadata, rows| FlightData {
            app_metadata: vec![2; metadata].into(),
            data_header: vec![1; 100].into(),
            data_body: vec![3; rows].into(),
            ..FlightData::default()
        };
        let sent = [
            message(LARGE, 64),
            message(LARGE, 2 * LARGE),
            message(64, LARGE),
        ];
        let (budget, inbox) = (ReceiveBudget::new(1 << 20, 1 << 20), Inbox::default());
        let pieces = vec![encoded(&sent)];
        let mut body = budget.admit(body_of(pieces), Some(inbox.clone()), "");
        for (apart, message) in [(true, &sent[0]), (true, &sent[1]), (false, &sent[2])] {
            body.frame().await.unwrap().unwrap();
            let taken = inbox.take().unwrap();
            assert_eq!(&taken, message);
            // In a message nothing but its tag and length is between them.
            let behind = taken.app_metadata.as_ptr_range().end as usize;
            let place = taken.data_body.as_ptr() as usize;
            assert_ne!((behind..behind + 16).contains(&place), apart);
        }
    }

    /// What the service makes of the end of a body.
    fn failure_of(frame: Polled) -> Failure {
        let error = frame.unwrap().unwrap_err();
        Failure::of_client_stream(Status::from_error(Box::new(error)))
    }

    /// A body that is fed by the test.
    fn fed(budget: &ReceiveBudget) -> (mpsc::UnboundedSender<Vec<u8>>, Body) {
        let (feed, pieces) = mpsc::unbounded_channel::<Vec<u8>>();
        let frames = tokio_stream::wrappers::UnboundedReceiverStream::new(pieces)
            .map(|piece| Ok::<_, axum::Error>(Frame::data(piece.into())));
        (
            feed,
            budget.admit(Body::new(StreamBody::new(frames)), None, "id"),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_waits_for_room_and_is_refused_when_there_is_none() {
        let budget = ReceiveBudget::new(150_000, 1 << 30);
        let (first, mut one) = fed(&budget);
        let (second, mut two) = fed(&budget);
        first.send(message(LARGE)[..20].to_vec()).unwrap();
        assert!(one.frame().now_or_never().is_none());
        assert_eq!(budget.room.available_permits(), 50_000);

        // A small one need not wait.
        second.send(message(10)).unwrap();
        two.frame().await.unwrap().unwrap();
        second.send(message(LARGE)).unwrap();
        let failure = failure_of(two.frame().await);
        assert_eq!(failure.code, ErrorCode::Overloaded);
        assert_eq!(failure.retry_after, Some(RETRY_AFTER));
        assert!(two.frame().await.is_none());

        // The end of the first, then the question for what follows it: there is room again.
        let (third, mut three) = fed(&budget);
        third.send(message(LARGE)).unwrap();
        first.send(message(LARGE)[20..].to_vec()).unwrap();
        first.send(message(1)).unwrap();
        let ends = async {
            one.frame().await.unwrap().unwrap();
            one.frame().await.unwrap().unwrap();
        };
        let (waited, ()) = tokio::join!(three.frame(), ends);
        waited.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_stream_that_ends_in_the_middle_gives_its_room_back() {
        let budget = ReceiveBudget::new(100_000, 1 << 30);
        let (feed, mut body) = fed(&budget);
        feed.send(message(1 << 20)[..20].to_vec()).unwrap();
        assert!(body.frame().now_or_never().is_none());
        assert_eq!(budget.room.available_permits(), 0, "a larger one has all");
        drop(body);
        assert_eq!(budget.room.available_permits(), 100_000);
    }
}
