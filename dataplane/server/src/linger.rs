//! Ends a connection so that the peer reads all that was sent to it.
//!
//! A socket that is closed while it holds bytes nobody read is reset by the kernel, and what the peer
//! has not fetched yet is gone. A client that reads a large answer says all the time how much more it
//! can take, also after the last byte was given to the kernel: such a message then costs it the end of
//! the answer. So only our side is ended first, and what still comes is thrown away until the peer ends
//! its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A peer that does not end its side in this time may lose what it did not fetch. Send buffers of a
/// few MiB get through a slow line in it.
const LONGEST: Duration = Duration::from_secs(10);

/// A stream whose shutdown is over when the peer's side has ended too, or after [`LONGEST`].
///
/// Dropping it before that ends it at once.
pub(crate) struct Lingering<S> {
    stream: S,
    state: State,
}

enum State {
    Open,
    /// Our side has ended.
    Waits(Pin<Box<Sleep>>),
    Ended,
}

impl<S> Lingering<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            state: State::Open,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, state } = self.get_mut();
        loop {
            match state {
                State::Open => {
                    ready!(Pin::new(&mut *stream).poll_shutdown(context))?;
                    *state = State::Waits(Box::pin(tokio::time::sleep(LONGEST)));
                }
                State::Waits(limit) => {
                    let mut bytes = [0; 1024];
                    let mut buffer = ReadBuf::new(&mut bytes);
                    let is_over = limit.as_mut().poll(context).is_ready()
                        || match ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer)) {
                            Ok(()) => buffer.filled().is_empty(),
                            // Gone, which is an end as well.
                            Err(_) => true,
                        };
                    if is_over {
                        *state = State::Ended;
                    }
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::Instant;

    use super::*;

    const ANSWER_BYTES: usize = 1 << 20;
    /// Much less, so that the end of the answer still is on our side when all is written.
    const RECEIVE_BUFFER_BYTES: u32 = 16 << 10;

    /// S4-8: no stream is cut off.
    #[tokio::test]
    async fn bytes_nobody_read_cost_the_peer_no_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = client.connect(address).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        client.write_all(b"go on").await.unwrap();
        server.peek(&mut [0; 5]).await.unwrap();
        let mut server = Lingering::new(server);
        let serving = tokio::spawn(async move {
            server.write_all(&vec![1; ANSWER_BYTES]).await.unwrap();
            server.shutdown().await.unwrap();
        });
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer.len(), ANSWER_BYTES);
        drop(client);
        serving.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stays_is_not_waited_for_without_end() {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let mut server = Lingering::new(server);
        client.write_all(b"not read").await.unwrap();
        let began = Instant::now();
        server.shutdown().await.unwrap();
        assert_eq!(began.elapsed(), LONGEST);
    }
}
