//! What a connection writes, gathered until its task has nothing more to write: the answers of several HTTP/2 calls are then
//! one packet and one system call. (Left alone, every frame of more than a few hundred bytes is sent by itself.)

use bytes::{Buf, BytesMut};
use futures::ready;
use parking_lot::Mutex;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// More is sent at once.
const GATHERED_BYTES_MAX: usize = 64 << 10;
/// A piece of this size is worth a system call, and not worth a copy.
const PIECE_BYTES: usize = 16 << 10;

/// A stream that gathers what is written. Whoever has the other handle calls [`Outbox::send`] when everything that can be
/// written has been; shutting the stream down sends the rest too.
#[derive(Debug)]
pub(crate) struct Outbox<S>(Arc<Mutex<Gathering<S>>>);

#[derive(Debug)]
struct Gathering<S> {
    stream: S,
    waiting: BytesMut,
}

impl<S> Clone for Outbox<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: AsyncWrite + Unpin> Outbox<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self(Arc::new(Mutex::new(Gathering { stream, waiting: BytesMut::new() })))
    }

    /// Sends what waits, as far as the peer takes it. Never ready; an error is found by whoever writes or shuts down next.
    pub(crate) fn send(&self, context: &mut Context<'_>) -> Poll<Infallible> {
        // Errors come again.
        let _ = self.0.lock().empty(context);
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    /// Ready when nothing waits any more.
    fn empty(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(context, &self.waiting))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(sent);
        }
        Poll::Ready(Ok(()))
    }

    fn write(&mut self, context: &mut Context<'_>, pieces: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let bytes = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        if bytes < PIECE_BYTES && self.waiting.len() + bytes <= GATHERED_BYTES_MAX {
            pieces.iter().for_each(|piece| self.waiting.extend_from_slice(piece));
            return Poll::Ready(Ok(bytes));
        }
        ready!(self.empty(context))?;
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Outbox<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Outbox<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, piece: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().write(context, &[io::IoSlice::new(piece)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().write(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing is sent yet, see [`Outbox::send`].
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathering = self.0.lock();
        ready!(gathering.empty(context))?;
        Pin::new(&mut gathering.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn pieces_of_every_size_arrive_in_order_through_a_narrow_pipe() {
        let (here, mut there) = tokio::io::duplex(1_000);
        let mut outbox = Outbox::new(here);
        let other = outbox.clone();
        let pieces: Vec<Vec<u8>> = [1, 100, 20_000, 3, 70_000, 60_000, 5, 0, 9]
            .iter()
            .zip(1..)
            .map(|(size, n)| vec![n; *size])
            .collect();
        let expected = pieces.concat();
        let reading = tokio::spawn(async move {
            let mut got = Vec::new();
            there.read_to_end(&mut got).await.map(|_| got)
        });
        for piece in &pieces {
            let sending = poll_fn(|context| other.send(context));
            tokio::select! {
                biased;
                written = outbox.write_all(piece) => written.unwrap(),
                never = sending => match never {},
            }
        }
        outbox.shutdown().await.unwrap();
        assert_eq!(reading.await.unwrap().unwrap(), expected);
    }

    #[tokio::test]
    async fn what_is_written_together_is_sent_together_and_a_broken_pipe_is_told() {
        let (here, mut there) = tokio::io::duplex(1 << 20);
        let mut outbox = Outbox::new(here);
        for _ in 0..3 {
            outbox.write_all(b"abc").await.unwrap();
            outbox.flush().await.unwrap();
        }
        let mut got = [0; 100];
        assert!(futures::FutureExt::now_or_never(there.read(&mut got)).is_none(), "nothing is sent yet");
        poll_fn(|context| {
            assert!(outbox.send(context).is_pending());
            Poll::Ready(())
        })
        .await;
        assert_eq!(there.read(&mut got).await.unwrap(), 9);
        drop(there);
        outbox.write_all(b"abc").await.unwrap();
        assert!(outbox.shutdown().await.is_err());
    }
}
