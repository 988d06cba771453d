//! What carries a connection: a socket, or a channel of a jump host; what was read before the library took over; and the
//! kill switch.
//!
//! Knows nothing of SSH but that both sides begin with a line of text.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::jump::Tunnel;

/// A stream of bytes to a server.
pub(super) enum Carrier {
    Tcp(TcpStream),
    Tunnel(Tunnel),
}

impl AsyncRead for Carrier {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_shutdown(cx),
        }
    }
}

/// The library asks for the four bytes of a packet's length, then for the packet. Reading more at once, and keeping it only
/// while it waits, saves most of the system calls and no memory is held by a silent connection.
const READ_AHEAD_BYTES: usize = 4096;

/// A carrier that fails every read and write, waiting ones too, once its token is cancelled.
///
/// The library has no way to end a session whose peer is frozen: a write waits for the socket, and dropping the
/// handle waits for the write.
pub(super) struct Wire {
    carrier: Carrier,
    /// Read already, and given to whoever reads next.
    replay: Bytes,
    /// How much of what is written next was sent already.
    already_sent: usize,
    killed: CancellationToken,
    // One future can wake one waiter only; reading and writing wait apart.
    killed_while_reading: Pin<Box<WaitForCancellationFutureOwned>>,
    killed_while_writing: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Wire {
    pub(super) fn new(
        carrier: Carrier,
        replay: Bytes,
        already_sent: usize,
        killed: CancellationToken,
    ) -> Self {
        Self {
            carrier,
            replay,
            already_sent,
            killed_while_reading: Box::pin(killed.clone().cancelled_owned()),
            killed_while_writing: Box::pin(killed.clone().cancelled_owned()),
            killed,
        }
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was cut off from this side")
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.killed.is_cancelled() || this.killed_while_reading.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(cut_off()));
        }
        if this.replay.has_remaining() {
            let length = this.replay.remaining().min(buf.remaining());
            buf.put_slice(&this.replay.split_to(length));
            return Poll::Ready(Ok(()));
        }
        if buf.remaining() >= READ_AHEAD_BYTES {
            return Pin::new(&mut this.carrier).poll_read(cx, buf);
        }
        let mut ahead = [0; READ_AHEAD_BYTES];
        let mut read = ReadBuf::new(&mut ahead);
        std::task::ready!(Pin::new(&mut this.carrier).poll_read(cx, &mut read))?;
        let length = read.filled().len().min(buf.remaining());
        let (now, later) = read.filled().split_at(length);
        buf.put_slice(now);
        if !later.is_empty() {
            this.replay = Bytes::copy_from_slice(later);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.killed.is_cancelled() || this.killed_while_writing.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(cut_off()));
        }
        if this.already_sent > 0 {
            let skipped = this.already_sent.min(buf.len());
            this.already_sent -= skipped;
            return Poll::Ready(Ok(skipped));
        }
        Pin::new(&mut this.carrier).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.carrier).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.carrier).poll_shutdown(cx)
    }
}
