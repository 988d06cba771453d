//! What carries a connection: a socket, or a channel of a jump host; what was read before the library took over; and the
//! kill switch.
//!
//! Knows nothing of SSH but that both sides begin with a line of text.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

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

/// A packet without content of its own, of any cipher; a larger write holds more than the answer that may wait.
const SMALL_BYTES: usize = 64;
/// How long an answer waits for something to ride with.
const RIDE_LIMIT: Duration = Duration::from_millis(500);
/// As much of a write as goes into one packet together with what waited for it.
const TOGETHER_BYTES: usize = 4096;

/// Lets the answer to a channel's end, which nobody waits for, go in one packet with the next command of a series.
///
/// The order of what is sent stays as it is, so the server sees the old channel's end before it is asked for anything new.
#[derive(Debug, Default)]
pub(super) struct Ride {
    more_follows: AtomicBool,
    may_wait: AtomicBool,
}

impl Ride {
    /// Whether another command is likely to follow soon.
    pub(super) fn expect_more(&self, more_follows: bool) {
        self.more_follows.store(more_follows, Ordering::Relaxed);
    }

    /// The next thing that is written is an answer that nobody waits for.
    pub(super) fn answer_follows(&self) {
        if self.more_follows.load(Ordering::Relaxed) {
            self.may_wait.store(true, Ordering::Relaxed);
        }
    }

    fn take(&self) -> bool {
        self.may_wait.load(Ordering::Relaxed) && self.may_wait.swap(false, Ordering::Relaxed)
    }
}

/// The kill switch of a connection, in its owner's hands: dropping it cuts the connection off.
#[derive(Debug, Default)]
pub(super) struct Kill(Arc<Switch>);

/// Asked at each read, so asking costs one load.
#[derive(Debug, Default)]
pub(super) struct Switch {
    is_cut: AtomicBool,
    /// The task that reads and writes: the library has one for both.
    task: AtomicWaker,
    /// Whoever else waits for the end.
    others: CancellationToken,
}

impl Kill {
    pub(super) fn switch(&self) -> Arc<Switch> {
        Arc::clone(&self.0)
    }

    pub(super) fn cut(&self) {
        self.0.is_cut.store(true, Ordering::Release);
        self.0.task.wake();
        self.0.others.cancel();
    }

    pub(super) fn is_cut(&self) -> bool {
        self.0.is_cut()
    }

    /// Waits until the connection is cut off.
    pub(super) async fn is_used(&self) {
        self.0.others.cancelled().await;
    }
}

impl Drop for Kill {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Switch {
    fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    /// What the carrier answered. Who has to wait is woken by the switch as well.
    fn unless_cut<T>(&self, cx: &Context<'_>, answer: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if answer.is_pending() {
            self.task.register(cx.waker());
            if self.is_cut() {
                return Poll::Ready(Err(cut_off()));
            }
        }
        answer
    }
}

/// What waits to be sent, and for how long.
struct Waiting {
    bytes: Bytes,
    limit: Pin<Box<Sleep>>,
}

/// A carrier that fails every read and write, waiting ones too, once its kill switch is used.
///
/// The library has no way to end a session whose peer is frozen: a write waits for the socket, and dropping the
/// handle waits for the write.
pub(super) struct Wire {
    carrier: Carrier,
    /// Read already, and given to whoever reads next.
    replay: Bytes,
    /// How much of what is written next was sent already.
    already_sent: usize,
    ride: Arc<Ride>,
    waiting: Option<Waiting>,
    switch: Arc<Switch>,
}

impl Wire {
    pub(super) fn new(carrier: Carrier, replay: Bytes, already_sent: usize, switch: Arc<Switch>) -> Self {
        Self { carrier, replay, already_sent, ride: Arc::default(), waiting: None, switch }
    }

    pub(super) const fn ride(&self) -> &Arc<Ride> {
        &self.ride
    }

    /// Sends what waits, together with the head of `next`; answers how much of that was sent. It is 0 only where nothing
    /// waits any more.
    fn poll_send_waiting(&mut self, cx: &mut Context<'_>, next: &[u8]) -> Poll<io::Result<usize>> {
        while let Some(waiting) = &mut self.waiting {
            let length = waiting.bytes.len();
            let (head, _) = next.split_at(next.len().min(TOGETHER_BYTES));
            let together = [&waiting.bytes, head].concat();
            let sent = ready!(Pin::new(&mut self.carrier).poll_write(cx, &together))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            waiting.bytes.advance(sent.min(length));
            if sent >= length {
                self.waiting = None;
                return Poll::Ready(Ok(sent - length));
            }
        }
        Poll::Ready(Ok(0))
    }

    /// Sends what has waited for long enough. The task that reads is the one that writes, so it is woken by either.
    fn send_overdue(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let is_overdue =
            self.waiting.as_mut().is_some_and(|waiting| waiting.limit.as_mut().poll(cx).is_ready());
        if is_overdue && let Poll::Ready(sent) = self.poll_send_waiting(cx, &[]) {
            sent?;
        }
        Ok(())
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
        // What was read ahead is short; the next look at the socket sees the switch.
        if this.replay.has_remaining() {
            let length = this.replay.remaining().min(buf.remaining());
            buf.put_slice(&this.replay.split_to(length));
            return Poll::Ready(Ok(()));
        }
        if this.switch.is_cut() {
            return Poll::Ready(Err(cut_off()));
        }
        this.send_overdue(cx)?;
        if buf.remaining() >= READ_AHEAD_BYTES {
            let answer = Pin::new(&mut this.carrier).poll_read(cx, buf);
            return this.switch.unless_cut(cx, answer);
        }
        let mut ahead = [MaybeUninit::uninit(); READ_AHEAD_BYTES];
        let mut read = ReadBuf::uninit(&mut ahead);
        let answer = Pin::new(&mut this.carrier).poll_read(cx, &mut read);
        ready!(this.switch.unless_cut(cx, answer))?;
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
        if this.switch.is_cut() {
            return Poll::Ready(Err(cut_off()));
        }
        if this.already_sent > 0 {
            let skipped = this.already_sent.min(buf.len());
            this.already_sent -= skipped;
            return Poll::Ready(Ok(skipped));
        }
        let answer = this.poll_send_waiting(cx, buf);
        let sent = ready!(this.switch.unless_cut(cx, answer))?;
        if sent > 0 {
            return Poll::Ready(Ok(sent));
        }
        if this.ride.take() && buf.len() <= SMALL_BYTES {
            let limit = Box::pin(sleep(RIDE_LIMIT));
            this.waiting = Some(Waiting { bytes: Bytes::copy_from_slice(buf), limit });
            return Poll::Ready(Ok(buf.len()));
        }
        let answer = Pin::new(&mut this.carrier).poll_write(cx, buf);
        this.switch.unless_cut(cx, answer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.carrier).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send_waiting(cx, &[]))?;
        Pin::new(&mut self.carrier).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    const LIMIT: Duration = Duration::from_secs(20);

    /// A wire to a peer that never reads and says nothing.
    async fn silent(kill: &Kill) -> (Wire, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        (Wire::new(Carrier::Tcp(socket), Bytes::new(), 0, kill.switch()), peer)
    }

    #[tokio::test]
    async fn a_read_that_waits_fails_when_the_owner_of_the_kill_switch_is_gone() {
        let kill = Kill::default();
        let (mut wire, _peer) = silent(&kill).await;
        let reading = tokio::spawn(async move { wire.read_u8().await });
        tokio::task::yield_now().await;
        assert!(!reading.is_finished());
        drop(kill);
        let error = timeout(LIMIT, reading).await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn a_write_that_waits_fails_when_the_kill_switch_is_used_and_so_does_every_later_one() {
        let kill = Kill::default();
        let (mut wire, _peer) = silent(&kill).await;
        let writing = tokio::spawn(async move {
            let endless = vec![0; 64 * 1024];
            while wire.write_all(&endless).await.is_ok() {}
            wire.write_u8(0).await
        });
        let is_full = timeout(Duration::from_millis(300), async {
            while !writing.is_finished() {
                tokio::task::yield_now().await;
            }
        });
        assert!(is_full.await.is_err(), "the peer takes no end of bytes");
        kill.cut();
        let error = timeout(LIMIT, writing).await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        timeout(LIMIT, kill.is_used()).await.unwrap();
    }
}
