//! One long-lived channel as a byte stream: stdout comes in, stdin goes out.
//!
//! A task of its own always reads the channel, so that a slow reader never holds up the connection. What nobody has read
//! yet is bounded; over the bound the stream ends with an error, and the connection lives on.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use russh::ChannelMsg;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use super::budget::Use;
use super::channel::{BEGINNINGS, Running};
use super::connection::Connection;
use super::error::SshError;
use super::printable;
use super::remote::{Ending, Found, Prelude};

/// What may wait for the reader. A full reading of a machine with 2,000 processes is under 1 MiB.
pub const MAX_BUFFERED_BYTES: usize = 2 * 1024 * 1024;
/// The last of stderr, to say why a command ended.
const STDERR_TAIL_BYTES: usize = 2 * 1024;
/// Login shells that ask a directory service or a network home take seconds.
const START_LIMIT: Duration = Duration::from_secs(15);
/// For a command to see the end of its input and go.
const PATIENCE: Duration = Duration::from_secs(2);

/// The output and input of a running command. Dropping it closes the command's input, and ends it if it does not go.
pub struct Stream {
    incoming: mpsc::UnboundedReceiver<Bytes>,
    current: Bytes,
    outgoing: Pin<Box<dyn AsyncWrite + Send>>,
    // A writer that waits for the server's window would wait for ever when the session dies.
    ended_while_writing: Pin<Box<WaitForCancellationFutureOwned>>,
    shared: Arc<Shared>,
    _stops_when_dropped: DropGuard,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("ended", &self.shared.ended.is_cancelled()).finish_non_exhaustive()
    }
}

struct Shared {
    buffered_bytes: AtomicUsize,
    /// Why it ended, when that was not the command's own end.
    failure: OnceLock<SshError>,
    stderr_tail: Mutex<Vec<u8>>,
    ended: CancellationToken,
}

struct Started {
    incoming: mpsc::UnboundedReceiver<Bytes>,
    outgoing: Pin<Box<dyn AsyncWrite + Send>>,
    shared: Arc<Shared>,
}

impl Connection {
    /// Starts a command on a channel that stays open, without a terminal. Returns when its shell runs; what the login
    /// shell printed before is gone.
    ///
    /// # Errors
    /// [`SshError::NoShell`], [`SshError::ChannelRefused`], [`SshError::TimedOut`], [`SshError::Closed`].
    pub async fn open(&self, command: &str) -> Result<Stream, SshError> {
        self.open_as(command, Use::Stream).await
    }

    /// As [`Self::open`], for the one channel that readings come over: it is the next that gets a place. Whoever holds
    /// it minds [`Self::readings_are_to_give_way`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_readings(&self, command: &str) -> Result<Stream, SshError> {
        self.open_as(command, Use::Readings).await
    }

    async fn open_as(&self, command: &str, kind: Use) -> Result<Stream, SshError> {
        let line = self
            .shared()
            .marker
            .wrap(command, false)
            .map_err(|error| SshError::InvalidCommand { cause: error.to_string() })?;
        let (report, reported) = oneshot::channel();
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        tokio::spawn(pump(self.clone(), line, kind, report, stop));
        let started = reported.await.map_err(|_| self.lost())??;
        Ok(Stream {
            incoming: started.incoming,
            current: Bytes::new(),
            outgoing: started.outgoing,
            ended_while_writing: Box::pin(started.shared.ended.clone().cancelled_owned()),
            shared: started.shared,
            _stops_when_dropped: guard,
        })
    }
}

impl Stream {
    /// The last that the command said on stderr, cleaned, for a person. Often empty.
    #[must_use]
    pub fn complaint(&self) -> String {
        printable::line(&self.shared.stderr_tail.lock().unwrap_or_else(PoisonError::into_inner), 300)
    }

    /// Why a read or a write failed, in the words of this layer. None: the command ended by itself.
    #[must_use]
    pub fn failure(&self) -> Option<SshError> {
        self.shared.failure.get().cloned()
    }
}

impl Shared {
    fn error(&self) -> io::Error {
        match self.failure.get() {
            Some(error) => io::Error::other(error.clone()),
            None => io::Error::new(io::ErrorKind::BrokenPipe, "the command has ended"),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.current.is_empty() {
            match std::task::ready!(this.incoming.poll_recv(cx)) {
                Some(bytes) => {
                    this.shared.buffered_bytes.fetch_sub(bytes.len(), Ordering::Relaxed);
                    this.current = bytes;
                }
                None if this.shared.failure.get().is_some() => return Poll::Ready(Err(this.shared.error())),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = this.current.remaining().min(buf.remaining());
        buf.put_slice(&this.current.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.shared.ended.is_cancelled() || this.ended_while_writing.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(this.shared.error()));
        }
        this.outgoing.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.shared.ended.is_cancelled() {
            return Poll::Ready(Ok(()));
        }
        self.outgoing.as_mut().poll_shutdown(cx)
    }
}

/// Reads the channel from its opening to its end, whoever listens.
async fn pump(
    connection: Connection,
    line: String,
    kind: Use,
    report: oneshot::Sender<Result<Started, SshError>>,
    stop: CancellationToken,
) {
    let (mut running, pid, first) = match begin(&connection, line, kind, &stop).await {
        Ok(begun) => begun,
        Err(error) => {
            let _nobody_waits_any_longer = report.send(Err(error));
            return;
        }
    };
    let ending = pid.map(Ending::of_group);
    let (outbox, incoming) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        buffered_bytes: AtomicUsize::new(0),
        failure: OnceLock::new(),
        stderr_tail: Mutex::default(),
        ended: CancellationToken::new(),
    });
    let _ended_when_dropped = shared.ended.clone().drop_guard();
    let outgoing = Box::pin(running.write.make_writer());
    let started = Started { incoming, outgoing, shared: Arc::clone(&shared) };
    if report.send(Ok(started)).is_err() {
        return running.end_politely(ending, PATIENCE).await;
    }
    let delivery = Delivery { outbox, shared };
    if !delivery.push(first) {
        return running.end(ending).await;
    }
    match delivery.deliver(&connection, &mut running, &stop).await {
        End::Closed => {}
        End::Stopped => running.end_politely(ending, PATIENCE).await,
        End::Overfull => {
            // Whoever reads has to learn it now, not when the command is gone.
            drop(delivery);
            running.end(ending).await;
        }
    }
}

/// The running command, its process id, and the first of its output.
async fn begin(
    connection: &Connection,
    line: String,
    kind: Use,
    stop: &CancellationToken,
) -> Result<(Running, Option<u32>, Bytes), SshError> {
    let mut left = BEGINNINGS;
    loop {
        left -= 1;
        let mut running = Running::start(connection, line.clone(), kind, stop.cancelled()).await?;
        match await_start(connection, &mut running).await {
            Ok((pid, first)) => return Ok((running, pid, first)),
            // Nothing has run.
            Err((_, Answered(false))) if left > 0 => {}
            Err((error, _)) => {
                running.end(None).await;
                return Err(error);
            }
        }
    }
}

/// Whether the server said that it runs, or does not run, the command.
struct Answered(bool);

/// Goes on although nobody may wait any longer: without the process id, the command could not be ended.
async fn await_start(
    connection: &Connection,
    running: &mut Running,
) -> Result<(Option<u32>, Bytes), (SshError, Answered)> {
    let deadline = Instant::now() + START_LIMIT;
    let mut prelude = Prelude::of(&connection.shared().marker);
    let mut complaint = Vec::new();
    let at = || Box::new(connection.shared().at.clone());
    let mut answered = false;
    loop {
        let over = match timeout_at(deadline, running.read.wait()).await {
            Err(_) => {
                let after_ms = u64::try_from(START_LIMIT.as_millis()).unwrap_or(u64::MAX);
                let late = SshError::TimedOut { at: at(), layer: crate::model::Layer::Shell, after_ms };
                return Err((late, Answered(true)));
            }
            Ok(None) => return Err((connection.lost(), Answered(true))),
            Ok(Some(ChannelMsg::Data { data })) => match prelude.feed(&data) {
                Found::Start { pid, rest } => return Ok((pid, rest.into())),
                Found::NotYet => false,
                Found::TooMuch => true,
            },
            Ok(Some(ChannelMsg::ExtendedData { data, .. })) => {
                keep_tail(&mut complaint, &data);
                false
            }
            Ok(Some(ChannelMsg::Close)) => true,
            Ok(Some(ChannelMsg::Failure)) => {
                answered = true;
                true
            }
            Ok(Some(ChannelMsg::Success)) => {
                answered = true;
                false
            }
            Ok(Some(_)) => false,
        };
        if over {
            complaint.extend_from_slice(prelude.held().get(..STDERR_TAIL_BYTES).unwrap_or(prelude.held()));
            let no_shell = SshError::NoShell { at: at(), said: printable::line(&complaint, 200) };
            return Err((no_shell, Answered(answered)));
        }
    }
}

fn keep_tail(tail: &mut Vec<u8>, data: &[u8]) {
    tail.extend_from_slice(data);
    let excess = tail.len().saturating_sub(STDERR_TAIL_BYTES);
    tail.drain(..excess);
}

struct Delivery {
    outbox: mpsc::UnboundedSender<Bytes>,
    shared: Arc<Shared>,
}

enum End {
    Closed,
    Stopped,
    Overfull,
}

impl Delivery {
    async fn deliver(&self, connection: &Connection, running: &mut Running, stop: &CancellationToken) -> End {
        loop {
            let message = tokio::select! {
                message = running.read.wait() => message,
                () = stop.cancelled() => return End::Stopped,
            };
            match message {
                None => {
                    let _first_stays = self.shared.failure.set(connection.lost());
                    return End::Closed;
                }
                Some(ChannelMsg::Close) => return End::Closed,
                Some(ChannelMsg::Data { data }) => {
                    if !self.push(data) {
                        return End::Overfull;
                    }
                }
                Some(ChannelMsg::ExtendedData { data, .. }) => {
                    keep_tail(
                        &mut self.shared.stderr_tail.lock().unwrap_or_else(PoisonError::into_inner),
                        &data,
                    );
                }
                Some(_) => {}
            }
        }
    }

    /// False: more waits than anybody reads.
    fn push(&self, data: Bytes) -> bool {
        if data.is_empty() {
            return true;
        }
        let waiting = self.shared.buffered_bytes.fetch_add(data.len(), Ordering::Relaxed) + data.len();
        if waiting > MAX_BUFFERED_BYTES {
            let _first_stays =
                self.shared.failure.set(SshError::OutputTooLarge { limit_bytes: MAX_BUFFERED_BYTES });
            self.shared.ended.cancel();
            return false;
        }
        // Nobody listens any longer: the stop token says so too.
        let _nobody_listens = self.outbox.send(data);
        true
    }
}
