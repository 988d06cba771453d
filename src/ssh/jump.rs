//! A channel of a jump host's connection, as the carrier of another connection.
//!
//! A channel that nobody reads would block everything else on the jump host's connection, so a task always reads it into a
//! bounded backlog, and a reader that falls too far behind loses its own connection only.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelOpenFailure, ChannelReadHalf, ChannelWriteHalf, Error};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use crate::model::Layer;

use super::connection::Connection;
use super::error::{Cause, Endpoint, SshError};
use super::session::Session;
use super::target::JumpHost;
use super::way::{Hop, Refusal};

/// Key exchanges and logins at once with servers behind one jump host: all of that traffic passes its one CPU-bound
/// connection, and the servers behind one jump host are often virtual machines of one host.
pub(super) const MAX_HANDSHAKES: usize = 16;

/// What may wait for a reader of one tunnel. The library grants the server new window as soon as data has arrived, not when it was
/// read, so nothing but this bounds it. At 100 MB/s it is a delay of 80 ms in which the reader gets no CPU.
const BACKLOG_BYTES: usize = 8 * 1024 * 1024;
/// What keeping a piece costs beside its bytes, so that many tiny pieces are bounded too.
const PIECE_OVERHEAD_BYTES: usize = 64;

/// How long the far end may take to close after we said that nothing more comes. A local close leaks memory in the
/// library, so it is the second choice.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// RFC 4254, section 7.2, wants an originator; sshd only logs it.
const ORIGINATOR: (&str, u32) = ("127.0.0.1", 0);

impl JumpHost for Session {
    fn name(&self) -> String {
        self.at.to_string()
    }

    fn connection(&self) -> Pin<Box<dyn Future<Output = Result<Connection, SshError>> + Send + '_>> {
        Box::pin(self.connection())
    }
}

impl Connection {
    /// A TCP connection from this server to `host` and `port`, which the server resolves and dials. `hop` is how a person knows
    /// this server. Takes no channel of the budget: sshd's MaxSessions does not count such channels.
    pub(super) async fn open_tcp(
        &self,
        hop: &Hop,
        at: &Endpoint,
        limit: Duration,
    ) -> Result<Tunnel, SshError> {
        let shared = Arc::clone(self.shared());
        let (host, port) = (at.host.clone(), u32::from(at.port.get()));
        let mut opening = Box::pin(async move {
            shared.handle.channel_open_direct_tcpip(host, port, ORIGINATOR.0, ORIGINATOR.1).await
        });
        let refused = |refusal| SshError::Unreachable {
            at: Box::new(at.clone()),
            layer: Layer::Tcp,
            cause: Cause::Relay { by: hop.clone(), refusal },
        };
        match timeout(limit, &mut opening).await {
            Ok(Ok(channel)) => Ok(Tunnel::begin(channel, self.clone(), hop.clone())),
            Ok(Err(Error::ChannelOpenFailure(reason))) => Err(refused(refusal(&reason))),
            Ok(Err(_)) => Err(SshError::OnTheWay { hop: hop.clone(), error: Box::new(self.lost()) }),
            Err(_) => {
                // Let it finish: an opening that nobody waits for would leave a channel open for ever.
                let jump = self.clone();
                tokio::spawn(async move {
                    if let Ok(channel) = opening.await {
                        jump.count_local_close();
                        let _lost_is_as_good = channel.close().await;
                    }
                });
                let after_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                Err(SshError::TimedOut { at: Box::new(at.clone()), layer: Layer::Tcp, after_ms })
            }
        }
    }
}

fn refusal(reason: &ChannelOpenFailure) -> Refusal {
    match reason {
        ChannelOpenFailure::AdministrativelyProhibited => Refusal::Forbidden,
        ChannelOpenFailure::ConnectFailed => Refusal::NoConnection { said: String::new() },
        ChannelOpenFailure::ResourceShortage => Refusal::Full,
        ChannelOpenFailure::UnknownChannelType => {
            Refusal::NotSupported { said: "unknown channel type".to_owned() }
        }
        ChannelOpenFailure::Other { code, .. } => Refusal::NoConnection { said: format!("code {code}") },
    }
}

/// The bytes of one forwarded connection. Dropping it ends the forwarding.
pub(super) struct Tunnel {
    incoming: mpsc::UnboundedReceiver<Bytes>,
    current: Bytes,
    writer: Pin<Box<dyn AsyncWrite + Send>>,
    // A write that waits for window would wait for ever on a connection that is gone.
    ended_while_writing: Pin<Box<WaitForCancellationFutureOwned>>,
    state: Arc<State>,
    _dropped: DropGuard,
}

#[derive(Default)]
struct State {
    backlog_bytes: AtomicUsize,
    /// Why it ended, where it did not end by itself.
    broken: OnceLock<String>,
    /// There is nobody to write to any more.
    ended: CancellationToken,
    /// There is nobody to read for any more.
    dropped: CancellationToken,
}

impl State {
    fn end(&self) -> io::Result<()> {
        match self.broken.get() {
            Some(cause) => Err(io::Error::other(cause.clone())),
            None => Ok(()),
        }
    }
}

impl Tunnel {
    fn begin(channel: Channel<Msg>, jump: Connection, hop: Hop) -> Self {
        // Bounded by BACKLOG_BYTES, which counts every piece.
        let (sender, incoming) = mpsc::unbounded_channel();
        let state = Arc::<State>::default();
        let (read, write) = channel.split();
        let writer = Box::pin(write.make_writer());
        let ended_while_writing = Box::pin(state.ended.clone().cancelled_owned());
        tokio::spawn(Carry { jump, hop, state: Arc::clone(&state), sender: Some(sender) }.run(read, write));
        let _dropped = state.dropped.clone().drop_guard();
        Self { incoming, current: Bytes::new(), writer, ended_while_writing, state, _dropped }
    }

    /// Ready when there is nobody to write to any more.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.state.ended.is_cancelled() || self.ended_while_writing.as_mut().poll(cx).is_ready() {
            return Poll::Ready(self.state.end().err().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()));
        }
        Poll::Pending
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.current.is_empty() {
            match ready!(self.incoming.poll_recv(cx)) {
                None => return Poll::Ready(self.state.end()),
                Some(piece) => {
                    self.state.backlog_bytes.fetch_sub(cost(&piece), Ordering::Relaxed);
                    self.current = piece;
                }
            }
        }
        let length = self.current.remaining().min(buf.remaining());
        buf.put_slice(&self.current.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.poll_ended(cx) {
            Poll::Ready(error) => Poll::Ready(Err(error)),
            Poll::Pending => self.writer.as_mut().poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_ended(cx) {
            Poll::Ready(error) => Poll::Ready(Err(error)),
            Poll::Pending => self.writer.as_mut().poll_flush(cx),
        }
    }

    /// The task says that nothing more comes, when the tunnel is dropped.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

const fn cost(piece: &Bytes) -> usize {
    piece.len() + PIECE_OVERHEAD_BYTES
}

/// The task between a channel and its tunnel. It keeps the jump host's connection.
struct Carry {
    jump: Connection,
    hop: Hop,
    state: Arc<State>,
    /// None: the server has said that nothing more comes.
    sender: Option<mpsc::UnboundedSender<Bytes>>,
}

#[derive(Clone, Copy)]
enum Ended {
    /// They have closed the channel.
    Closed,
    /// It went with the jump host's connection.
    WithJumpHost,
    /// Nobody here uses the tunnel any more.
    Dropped,
    Overrun,
}

impl Carry {
    async fn run(mut self, mut read: ChannelReadHalf, write: ChannelWriteHalf<Msg>) {
        let (jump, dropped) = (self.jump.clone(), self.state.dropped.clone());
        let ended = tokio::select! {
            ended = self.receive(&mut read) => ended,
            () = jump.closed() => Ended::WithJumpHost,
            () = dropped.cancelled() => Ended::Dropped,
        };
        let cause = match ended {
            Ended::Overrun => {
                Some(format!("over {BACKLOG_BYTES} bytes from {} were waiting to be read", self.hop))
            }
            Ended::WithJumpHost => {
                // The library drops its channels before it says why it ended.
                let _said_or_not = timeout(CLOSE_LIMIT, jump.closed()).await;
                Some(format!("the connection to {} ended: {}", self.hop, jump.why_closed()))
            }
            Ended::Closed | Ended::Dropped => None,
        };
        if let Some(cause) = cause {
            let _first_stays = self.state.broken.set(cause);
        }
        // The reader and the writer are woken only now, so that they find the cause.
        self.sender = None;
        self.state.ended.cancel();
        match ended {
            Ended::Closed | Ended::WithJumpHost => {}
            Ended::Dropped if timeout(CLOSE_LIMIT, finish(&mut read, &write)).await.is_ok() => {}
            Ended::Dropped | Ended::Overrun => {
                jump.count_local_close();
                let _lost_is_as_good = timeout(CLOSE_LIMIT, write.close()).await;
            }
        }
    }

    async fn receive(&mut self, read: &mut ChannelReadHalf) -> Ended {
        while let Some(message) = read.wait().await {
            match message {
                ChannelMsg::Data { data } => {
                    let Some(sender) = &self.sender else { continue };
                    let waiting = self.state.backlog_bytes.fetch_add(cost(&data), Ordering::Relaxed);
                    if waiting > BACKLOG_BYTES {
                        return Ended::Overrun;
                    }
                    let _a_dropped_tunnel_ends_this = sender.send(data);
                }
                // sshd keeps the channel open until we say the same, which whoever reads this end brings about.
                ChannelMsg::Eof => self.sender = None,
                ChannelMsg::Close => return Ended::Closed,
                _ => {}
            }
        }
        Ended::WithJumpHost
    }
}

/// Says that nothing more comes and waits until they close.
async fn finish(read: &mut ChannelReadHalf, write: &ChannelWriteHalf<Msg>) {
    let _lost_is_as_good = write.eof().await;
    while let Some(message) = read.wait().await {
        if matches!(message, ChannelMsg::Close) {
            break;
        }
    }
}
