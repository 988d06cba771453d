//! Runs one command to its end: exit status, output apart, time limit, output cap, stdin.
//!
//! A non-zero exit is an [`Output`], not an error. The command runs under `/bin/sh` whatever the login shell is; what
//! the login shell's start-up files print is not part of the output (see `remote`). Over its time limit, or when
//! nobody waits for it any longer, its process group is ended: TERM, then KILL after two seconds.

use std::time::Duration;

use russh::ChannelMsg;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::channel::Running;
use super::connection::Connection;
use super::error::SshError;
use super::printable;
use super::remote::{Found, Marker, Prelude};

/// How long a channel may stay open in silence after its command has ended: a daemon that was started in it and kept its
/// outputs would hold it for ever. The rest of a large output comes without such a pause.
const LINGER: Duration = Duration::from_secs(2);

/// A piece of a running command's output, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
}

/// A command and its limits.
#[derive(Debug, Clone)]
pub struct ExecRequest {
    /// POSIX shell text. Values in it were quoted by [`quote`](crate::quote::quote).
    pub command: String,
    /// None: the command reads the end of its input at once.
    pub stdin: Option<Vec<u8>>,
    /// From the start of the command, not of the wait for a free channel.
    pub timeout: Duration,
    /// How much of stdout is kept, and of stderr; the rest is counted.
    pub output_limit: usize,
    /// Receives the kept output while the command runs. A listener that is slow misses pieces; the command never waits for it.
    pub tap: Option<mpsc::Sender<Piece>>,
}

impl ExecRequest {
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
    pub const DEFAULT_OUTPUT_LIMIT: usize = 1024 * 1024;

    #[must_use]
    pub fn new(command: impl Into<String>) -> Self {
        Self {
            command: command.into(),
            stdin: None,
            timeout: Self::DEFAULT_TIMEOUT,
            output_limit: Self::DEFAULT_OUTPUT_LIMIT,
            tap: None,
        }
    }

    #[must_use]
    pub fn tap(mut self, tap: mpsc::Sender<Piece>) -> Self {
        self.tap = Some(tap);
        self
    }

    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    #[must_use]
    pub const fn output_limit(mut self, bytes: usize) -> Self {
        self.output_limit = bytes;
        self
    }
}

/// What a command left behind. The bytes are as the server sent them: hostile until cleaned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// None: it was ended by a signal, or the server did not say.
    pub exit_status: Option<u32>,
    /// The name without SIG, as in RFC 4254, section 6.10: `TERM`, `KILL`.
    pub signal: Option<String>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Bytes that came after the limit was reached.
    pub stdout_dropped_bytes: u64,
    pub stderr_dropped_bytes: u64,
    /// From the request to the last byte, network included.
    pub wall: Duration,
}

impl Output {
    #[must_use]
    pub fn success(&self) -> bool {
        self.exit_status == Some(0)
    }

    /// Standard output for a person: cleaned of escape codes and control characters.
    #[must_use]
    pub fn stdout_text(&self) -> String {
        printable::text(&self.stdout, usize::MAX)
    }

    /// Standard error for a person: cleaned of escape codes and control characters.
    #[must_use]
    pub fn stderr_text(&self) -> String {
        printable::text(&self.stderr, usize::MAX)
    }
}

impl Connection {
    /// Runs a command. Dropping the future ends the command on the server too.
    ///
    /// # Errors
    /// [`SshError::CommandTimedOut`] with what it printed so far, once the command is ended, which a server that does not
    /// answer delays by up to 10 s; [`SshError::NoShell`] when the login runs no
    /// commands; [`SshError::ChannelRefused`], [`SshError::TimedOut`] and [`SshError::Closed`] from the connection. After
    /// `Closed` it is unknown whether the command ran.
    pub async fn exec(&self, request: ExecRequest) -> Result<Output, SshError> {
        let stop = CancellationToken::new();
        let _stops_when_dropped = stop.clone().drop_guard();
        // A task of its own: the channel has to be read to its end even if nobody waits for the result.
        match tokio::spawn(run(self.clone(), request, stop)).await {
            Ok(result) => result,
            Err(_) => Err(self.lost()),
        }
    }
}

async fn run(
    connection: Connection,
    request: ExecRequest,
    stop: CancellationToken,
) -> Result<Output, SshError> {
    let marker = &connection.shared().marker;
    let line = marker
        .wrap(&request.command, true)
        .map_err(|error| SshError::InvalidCommand { cause: error.to_string() })?;
    let mut collected = Collected::new(marker, request.output_limit, request.tap);
    let _turn = tokio::select! {
        turn = connection.command_slot() => turn?,
        () = stop.cancelled() => return Err(connection.lost()),
    };
    if stop.is_cancelled() {
        return Err(connection.lost());
    }
    let started = Instant::now();
    let mut running = Running::start(&connection, line).await?;
    let end =
        collect(&mut running, &mut collected, request.stdin, Instant::now() + request.timeout, &stop).await;
    if matches!(end, End::Stopped | End::Late) {
        learn_pid(&mut running, &mut collected).await;
    }
    let pid = collected.pid;
    match end {
        End::Closed => {}
        End::Lost if collected.output.exit_status.is_some() => {}
        End::Lost => return Err(connection.lost()),
        // What it left running holds the outputs open; it is not ours to end.
        End::Lingers => running.close_from_here().await,
        End::Refused => {
            running.end(None).await;
            return Err(no_shell(&connection, "the server refused to run a command"));
        }
        End::TooMuchGreeting => {
            running.end(None).await;
            return Err(no_shell(&connection, &collected.greeting()));
        }
        End::Stopped => {
            running.end(pid).await;
            return Err(connection.lost());
        }
        End::Late => {
            running.end(pid).await;
            let after_ms = u64::try_from(request.timeout.as_millis()).unwrap_or(u64::MAX);
            let partial = Box::new(collected.finish(started.elapsed()).0);
            return Err(SshError::CommandTimedOut { after_ms, partial });
        }
    }
    let greeting = collected.greeting();
    match collected.finish(started.elapsed()) {
        (output, true) => Ok(output),
        (_, false) => Err(no_shell(&connection, &greeting)),
    }
}

/// A command that was given up before its marker came would run on, because nobody knows what to end. A login shell that
/// is slower than this finds its output closed when it comes to the marker.
const PID_LIMIT: Duration = Duration::from_secs(5);

async fn learn_pid(running: &mut Running, collected: &mut Collected) {
    let until = Instant::now() + PID_LIMIT;
    while collected.before_stdout.is_some() {
        match timeout_at(until, running.read.wait()).await {
            Ok(Some(ChannelMsg::Data { data })) => {
                if !collected.stdout(&data) {
                    return;
                }
            }
            Err(_) | Ok(None | Some(ChannelMsg::Close)) => return,
            Ok(Some(_)) => {}
        }
    }
}

fn no_shell(connection: &Connection, said: &str) -> SshError {
    SshError::NoShell { at: Box::new(connection.shared().at.clone()), said: said.to_owned() }
}

enum End {
    Closed,
    /// The command has ended, and something that it started keeps the channel open.
    Lingers,
    /// The connection ended before the channel did.
    Lost,
    Refused,
    TooMuchGreeting,
    Late,
    /// Nobody waits for the result any longer.
    Stopped,
}

async fn collect(
    running: &mut Running,
    collected: &mut Collected,
    stdin: Option<Vec<u8>>,
    deadline: Instant,
    stop: &CancellationToken,
) -> End {
    let write = &running.write;
    let feed = async {
        // A command that reads none of it is no failure; a lost connection is seen by the reader.
        if let Some(bytes) = stdin {
            let _seen_by_the_reader = write.data_bytes(bytes).await;
        }
        let _seen_by_the_reader = write.eof().await;
    };
    tokio::pin!(feed);
    let mut fed = false;
    let late = tokio::time::sleep_until(deadline);
    tokio::pin!(late);
    let mut over = false;
    let silent = tokio::time::sleep_until(deadline);
    tokio::pin!(silent);
    loop {
        let message = tokio::select! {
            message = running.read.wait() => message,
            () = &mut feed, if !fed => { fed = true; continue }
            () = &mut silent, if over => return End::Lingers,
            () = &mut late => return End::Late,
            () = stop.cancelled() => return End::Stopped,
        };
        over |= matches!(message, Some(ChannelMsg::ExitStatus { .. } | ChannelMsg::ExitSignal { .. }));
        if over {
            silent.as_mut().reset(Instant::now() + LINGER);
        }
        match message {
            None => return End::Lost,
            Some(ChannelMsg::Close) => return End::Closed,
            Some(ChannelMsg::Failure) => return End::Refused,
            Some(ChannelMsg::Data { data }) => {
                if !collected.stdout(&data) {
                    return End::TooMuchGreeting;
                }
            }
            Some(ChannelMsg::ExtendedData { data, .. }) => collected.stderr(&data),
            Some(ChannelMsg::ExitStatus { exit_status }) => collected.output.exit_status = Some(exit_status),
            Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                let name = format!("{signal_name:?}");
                let name = name.strip_prefix("Custom(").unwrap_or(&name).trim_matches(['"', ')']);
                collected.output.signal = Some(printable::line(name.as_bytes(), 20));
            }
            // Eof is not the end: the exit status comes after it.
            Some(_) => {}
        }
    }
}

/// The output so far, cut at its limit.
struct Collected {
    output: Output,
    limit: usize,
    tap: Option<mpsc::Sender<Piece>>,
    pid: Option<u32>,
    /// None: the marker was seen.
    before_stdout: Option<Prelude>,
    before_stderr: Option<Prelude>,
}

impl Collected {
    fn new(marker: &Marker, limit: usize, tap: Option<mpsc::Sender<Piece>>) -> Self {
        Self {
            output: Output::default(),
            limit,
            tap,
            pid: None,
            before_stdout: Some(Prelude::of(marker)),
            before_stderr: Some(Prelude::of(marker)),
        }
    }

    /// False: the greeting does not end.
    fn stdout(&mut self, data: &[u8]) -> bool {
        match self.before_stdout.as_mut().map(|prelude| prelude.feed(data)) {
            None => self.keep_stdout(data),
            Some(Found::NotYet) => {}
            Some(Found::TooMuch) => return false,
            Some(Found::Start { pid, rest }) => {
                self.before_stdout = None;
                self.pid = pid;
                self.keep_stdout(&rest);
            }
        }
        true
    }

    fn keep_stdout(&mut self, data: &[u8]) {
        let kept = keep(&mut self.output.stdout, &mut self.output.stdout_dropped_bytes, data, self.limit);
        tell(self.tap.as_ref(), kept, Piece::Stdout);
    }

    fn stderr(&mut self, data: &[u8]) {
        let own = match self.before_stderr.as_mut().map(|prelude| prelude.feed(data)) {
            None => data.to_vec(),
            Some(Found::NotYet) => return,
            Some(Found::Start { rest, .. }) => rest,
            // No marker came: keep what there is, it may say why.
            Some(Found::TooMuch) => self.before_stderr.as_ref().map_or_else(Vec::new, |p| p.held().to_vec()),
        };
        self.before_stderr = None;
        let kept = keep(&mut self.output.stderr, &mut self.output.stderr_dropped_bytes, &own, self.limit);
        tell(self.tap.as_ref(), kept, Piece::Stderr);
    }

    /// What was said instead of running the command, for a person.
    fn greeting(&self) -> String {
        let held = |prelude: &Option<Prelude>| prelude.as_ref().map_or_else(Vec::new, |p| p.held().to_vec());
        let mut said = held(&self.before_stdout);
        said.extend(held(&self.before_stderr));
        printable::line(&said, 200)
    }

    /// The output, and whether the command was started at all.
    fn finish(mut self, wall: Duration) -> (Output, bool) {
        if let Some(prelude) = &self.before_stderr {
            keep(&mut self.output.stderr, &mut self.output.stderr_dropped_bytes, prelude.held(), self.limit);
        }
        self.output.wall = wall;
        (self.output, self.before_stdout.is_none())
    }
}

/// Keeps what has room, counts the rest, and answers what was kept.
fn keep<'a>(kept: &mut Vec<u8>, dropped: &mut u64, data: &'a [u8], limit: usize) -> &'a [u8] {
    let room = limit.saturating_sub(kept.len()).min(data.len());
    let (head, tail) = data.split_at(room);
    kept.extend_from_slice(head);
    *dropped = dropped.saturating_add(u64::try_from(tail.len()).unwrap_or(u64::MAX));
    head
}

fn tell(tap: Option<&mpsc::Sender<Piece>>, kept: &[u8], piece: impl Fn(Vec<u8>) -> Piece) {
    if let Some(tap) = tap
        && !kept.is_empty()
    {
        // A full queue means a slow listener: it reads the whole output when the command has ended.
        drop(tap.try_send(piece(kept.to_vec())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_kept_to_the_limit_and_the_rest_counted() {
        let (mut kept, mut dropped) = (Vec::new(), 0);
        for piece in [&b"abc"[..], b"def", b"ghi"] {
            keep(&mut kept, &mut dropped, piece, 4);
        }
        assert_eq!((kept.as_slice(), dropped), (&b"abcd"[..], 5));
    }
}
