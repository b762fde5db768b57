//! A stream whose first bytes were read already and are given again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection with the bytes in front that were read to recognise it.
#[derive(Debug)]
pub struct Prefixed<IO> {
    prefix: [u8; 4],
    start: u8,
    end: u8,
    inner: IO,
}

impl<IO> Prefixed<IO> {
    pub(crate) fn new(prefix: [u8; 4], length: usize, inner: IO) -> Self {
        Self {
            prefix,
            start: 0,
            end: length.min(4) as u8,
            inner,
        }
    }

    /// The connection itself, for its addresses and options.
    pub fn get_ref(&self) -> &IO {
        &self.inner
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Prefixed<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (start, end) = (usize::from(self.start), usize::from(self.end));
        if start == end {
            return Pin::new(&mut self.inner).poll_read(context, buffer);
        }
        let count = buffer.remaining().min(end - start);
        buffer.put_slice(&self.prefix[start..start + count]);
        self.start += count as u8;
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Prefixed<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
