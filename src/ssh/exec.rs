//! Runs one command to its end: exit status, output apart, time limit, output cap, stdin.
//!
//! A non-zero exit is an [`Output`], not an error. The command runs under `/bin/sh` whatever the login shell is; what
//! the login shell's start-up files print is not part of the output (see `remote`). Over its time limit, or when
//! nobody waits for it any longer, its process group is ended: TERM, then KILL after two seconds.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use russh::ChannelMsg;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::budget::Use;
use super::channel::{BEGINNINGS, Running};
use super::connection::Connection;
use super::error::SshError;
use super::printable;
use super::remote::{Found, Marker, Prelude, Raise};
use super::request::{ExecRequest, Plan};
use super::spare::Ahead;

/// How long a channel may stay open in silence after its command has ended: a daemon that was started in it and kept its
/// outputs would hold it for ever. The rest of a large output comes without such a pause.
const LINGER: Duration = Duration::from_secs(2);

/// A piece of a running command's output, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
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
    /// [`SshError::InvalidCommand`] for a request that cannot be written as a command; [`SshError::SudoRefused`], nothing of
    /// the command ran; [`SshError::CommandTimedOut`] with what it printed so far, once the command is ended, which a server that does not
    /// answer delays by up to 10 s; [`SshError::NoShell`] when the login runs no
    /// commands; [`SshError::ChannelRefused`], [`SshError::TimedOut`] and [`SshError::Closed`] from the connection. After
    /// `Closed` it is unknown whether the command ran.
    pub async fn exec(&self, request: ExecRequest) -> Result<Output, SshError> {
        let (_stops_when_dropped, stop) = oneshot::channel();
        // A task of its own: the channel has to be read to its end even if nobody waits for the result.
        match tokio::spawn(run(self.clone(), request, stop)).await {
            Ok(result) => result,
            Err(_) => Err(self.lost()),
        }
    }
}

/// Ends when nobody waits for the command any longer; nothing is ever sent.
type Stop = oneshot::Receiver<std::convert::Infallible>;

async fn run(connection: Connection, mut request: ExecRequest, mut stop: Stop) -> Result<Output, SshError> {
    let stdin = request.stdin.take().map(Bytes::from);
    let shared = connection.shared();
    let is_silent = shared.login_noise.is_silent();
    let plan = request.plan(&shared.marker, &shared.at.user, shared.next_run(), is_silent)?;
    let mut left = BEGINNINGS;
    loop {
        left -= 1;
        let started = Instant::now();
        let kind = Use::Command(request.asker);
        let mut running = Running::start(&connection, plan.line.clone(), kind, &mut stop).await?;
        let mut collected = Collected::new(&shared.marker, &plan, request.output_limit, request.tap.clone());
        let deadline = Instant::now() + request.timeout;
        let end = collect(&mut running, &mut collected, &plan, stdin.clone(), deadline, &mut stop).await;
        if matches!(end, End::NotBegun) && left > 0 {
            continue;
        }
        if let Some(is_noisy) = collected.login_noise() {
            shared.login_noise.learn(is_noisy);
        }
        return conclude(&connection, running, collected, &plan, end, Asked { started, request: &request })
            .await;
    }
}

struct Asked<'a> {
    started: Instant,
    request: &'a ExecRequest,
}

async fn conclude(
    connection: &Connection,
    mut running: Running,
    mut collected: Collected,
    plan: &Plan,
    end: End,
    asked: Asked<'_>,
) -> Result<Output, SshError> {
    if matches!(end, End::Stopped | End::Late) {
        learn_pid(&mut running, &mut collected).await;
    }
    let ending = collected.stdout_gate.pid.and_then(|pid| plan.ending(pid));
    match end {
        End::Closed => {}
        End::Lost if collected.output.exit_status.is_some() => {}
        End::Lost => return Err(connection.lost()),
        // What it left running holds the outputs open; it is not ours to end.
        End::Lingers => running.close_from_here().await,
        End::NotBegun => return Err(no_shell(connection, "")),
        End::Refused => {
            running.end(None).await;
            return Err(no_shell(connection, "the server refused to run a command"));
        }
        End::TooMuchGreeting => {
            running.end(None).await;
            return Err(no_shell(connection, &collected.greeting()));
        }
        End::NotRaised => {
            running.end(ending).await;
            return Err(collected.not_raised(connection));
        }
        End::Stopped => {
            running.end(ending).await;
            return Err(connection.lost());
        }
        End::Late => {
            running.end(ending).await;
            let after_ms = u64::try_from(asked.request.timeout.as_millis()).unwrap_or(u64::MAX);
            let partial = Box::new(collected.finish(asked.started.elapsed()));
            return Err(SshError::CommandTimedOut { after_ms, partial });
        }
    }
    match collected.stdout_gate.stage() {
        Stage::Open => Ok(collected.finish(asked.started.elapsed())),
        Stage::Raising => Err(collected.not_raised(connection)),
        Stage::Login => Err(no_shell(connection, &collected.greeting())),
    }
}

/// A command that was given up before its marker came would run on, because nobody knows what to end. A login shell that
/// is slower than this finds its output closed when it comes to the marker.
const PID_LIMIT: Duration = Duration::from_secs(5);

async fn learn_pid(running: &mut Running, collected: &mut Collected) {
    let until = Instant::now() + PID_LIMIT;
    while collected.stdout_gate.pid.is_none() {
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
    /// The channel was closed before the server said that it runs the command.
    NotBegun,
    Refused,
    TooMuchGreeting,
    /// sudo asks for something that is not the password, or asks no end.
    NotRaised,
    Late,
    /// Nobody waits for the result any longer.
    Stopped,
}

/// How long sudo may take to let a command through: it looks up names, and waits after a wrong password.
const RAISE_LIMIT: Duration = Duration::from_secs(30);

/// What is written next to the command's input.
enum Step {
    Password,
    /// Everything that is left: secrets, then the command's own input, then its end.
    Rest,
    /// Its end.
    Nothing,
}

async fn feed(
    write: &russh::ChannelWriteHalf<russh::client::Msg>,
    plan: &Plan,
    stdin: Option<Bytes>,
    mut steps: Option<mpsc::UnboundedReceiver<Step>>,
) {
    // A command that reads none of it is no failure; a lost connection is seen by the reader.
    while let Some(steps) = &mut steps
        && let Some(step) = steps.recv().await
    {
        match step {
            Step::Password => {
                if let Some(password) = plan.raise.as_ref().and_then(Raise::password) {
                    let _seen_by_the_reader = write.data_bytes(format!("{}\n", password.expose())).await;
                }
                continue;
            }
            Step::Rest => {
                if !plan.head.expose().is_empty() {
                    let _seen_by_the_reader = write.data_bytes(plan.head.expose().clone()).await;
                }
                if let Some(stdin) = stdin {
                    let _seen_by_the_reader = write.data_bytes(stdin).await;
                }
            }
            Step::Nothing => {}
        }
        break;
    }
    let _seen_by_the_reader = write.eof().await;
}

async fn opened(ahead: &mut Option<Ahead>) {
    match ahead {
        Some(ahead) => ahead.opened().await,
        None => std::future::pending().await,
    }
}

/// What came already is taken before anything else is looked at, which costs less; not for ever, or a flood would outlast the
/// time limit.
const FAIR_TURN: usize = 32;

async fn collect(
    running: &mut Running,
    collected: &mut Collected,
    plan: &Plan,
    stdin: Option<Bytes>,
    deadline: Instant,
    stop: &mut Stop,
) -> End {
    let has_input = stdin.is_some() || !plan.head.expose().is_empty();
    let asks = plan.raise.as_ref().is_some_and(|raise| raise.password().is_some());
    // Input waits for the command to run: start-up files of the login shell, or sudo, must not eat it.
    let mut rest_is_due = has_input || asks;
    // At most three steps: two questions of sudo and the rest.
    let (steps, next) = rest_is_due.then(mpsc::unbounded_channel).unzip();
    let tell = |step| {
        let _all_is_written = steps.as_ref().map(|steps: &mpsc::UnboundedSender<Step>| steps.send(step));
    };
    let feed = feed(&running.write, plan, stdin, next);
    tokio::pin!(feed);
    let (mut fed, mut over, mut answered, mut questions) = (false, false, false, 0);
    let late = tokio::time::sleep_until(deadline);
    tokio::pin!(late);
    let mut silent_until = deadline;
    let raising = tokio::time::sleep_until(deadline.min(Instant::now() + RAISE_LIMIT));
    tokio::pin!(raising);
    let mut turn = 0_usize;
    loop {
        let is_fair_turn = turn.is_multiple_of(FAIR_TURN);
        turn += 1;
        let came = if is_fair_turn { None } else { running.read.wait().now_or_never() };
        let message = match came {
            Some(message) => message,
            None => tokio::select! {
                message = running.read.wait() => message,
                () = &mut feed, if !fed => { fed = true; continue }
                () = opened(&mut running.ahead) => { running.ahead = None; continue }
                () = tokio::time::sleep_until(silent_until), if over => return End::Lingers,
                () = &mut raising, if asks && rest_is_due => return End::NotRaised,
                () = &mut late => return End::Late,
                _ = &mut *stop => return End::Stopped,
            },
        };
        over |= matches!(message, Some(ChannelMsg::ExitStatus { .. } | ChannelMsg::ExitSignal { .. }));
        if over {
            silent_until = Instant::now() + LINGER;
        }
        match message {
            None => return End::Lost,
            Some(ChannelMsg::Close) if !answered && collected.is_empty() => return End::NotBegun,
            Some(ChannelMsg::Close) => return End::Closed,
            Some(ChannelMsg::Failure) => return End::Refused,
            Some(ChannelMsg::Success) => answered = true,
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
        while rest_is_due && asks && collected.questions() > questions {
            questions += 1;
            let step = if questions == 1 { Step::Password } else { Step::Nothing };
            tell(step);
        }
        if rest_is_due && matches!(collected.stdout_gate.stage(), Stage::Open) {
            rest_is_due = false;
            tell(Step::Rest);
        }
    }
}

/// How far the way to the command is open on one of its outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// What the login shell prints.
    Login,
    /// What sudo or su prints.
    Raising,
    /// What the command prints.
    Open,
}

/// Holds back what does not come from the command.
struct Gate {
    ahead: VecDeque<Prelude>,
    /// Of the login's shell, once it has said so.
    pid: Option<u32>,
    raises: bool,
    /// Of the login's shell: whether something came before its marker, once that has come.
    is_noisy: Option<bool>,
}

impl Gate {
    fn new(marker: &Marker, raises: bool) -> Self {
        let mut ahead = VecDeque::from([Prelude::of(marker)]);
        if raises {
            ahead.push_back(Prelude::of_raised(marker));
        }
        Self { ahead, pid: None, raises, is_noisy: None }
    }

    fn stage(&self) -> Stage {
        match (self.ahead.len(), self.raises) {
            (0, _) => Stage::Open,
            (1, true) => Stage::Raising,
            _ => Stage::Login,
        }
    }

    fn held(&self) -> &[u8] {
        self.ahead.front().map_or(&[], Prelude::held)
    }

    /// Takes what came while the way is not open.
    fn feed(&mut self, data: &[u8]) -> Found {
        let mut data = data.to_vec();
        while let Some(prelude) = self.ahead.front_mut() {
            match prelude.feed(&data) {
                Found::Start { pid, rest } => {
                    self.pid = self.pid.or(pid);
                    self.is_noisy = self.is_noisy.or(Some(prelude.is_noisy()));
                    data = rest;
                    self.ahead.pop_front();
                }
                other => return other,
            }
        }
        Found::Start { pid: self.pid, rest: data }
    }
}

/// The output so far, cut at its limit.
struct Collected {
    output: Output,
    limit: usize,
    tap: Option<mpsc::Sender<Piece>>,
    prompt: String,
    stdout_gate: Gate,
    stderr_gate: Gate,
    /// No marker comes on stderr, or came in all that may come before one.
    stderr_is_open: bool,
}

impl Collected {
    fn new(marker: &Marker, plan: &Plan, limit: usize, tap: Option<mpsc::Sender<Piece>>) -> Self {
        let raises = plan.raise.is_some();
        Self {
            output: Output::default(),
            limit,
            tap,
            prompt: marker.prompt().to_owned(),
            stdout_gate: Gate::new(marker, raises),
            stderr_gate: Gate::new(marker, raises),
            stderr_is_open: !plan.marks_stderr,
        }
    }

    fn is_empty(&self) -> bool {
        self.stdout_gate.pid.is_none()
            && self.stdout_gate.held().is_empty()
            && self.stderr_gate.held().is_empty()
            && self.output.stderr.is_empty()
    }

    /// Whether the login shell printed to standard error. None: this command cannot tell.
    fn login_noise(&self) -> Option<bool> {
        self.stderr_gate.is_noisy
    }

    /// False: the greeting does not end.
    fn stdout(&mut self, data: &[u8]) -> bool {
        if self.stdout_gate.stage() == Stage::Open {
            self.keep_stdout(data);
            return true;
        }
        match self.stdout_gate.feed(data) {
            Found::NotYet => {}
            Found::TooMuch => return false,
            Found::Start { rest, .. } => self.keep_stdout(&rest),
        }
        true
    }

    fn keep_stdout(&mut self, data: &[u8]) {
        let kept = keep(&mut self.output.stdout, &mut self.output.stdout_dropped_bytes, data, self.limit);
        tell(self.tap.as_ref(), kept, Piece::Stdout);
    }

    fn stderr(&mut self, data: &[u8]) {
        let own = if self.stderr_is_open || self.stderr_gate.stage() == Stage::Open {
            data.to_vec()
        } else {
            match self.stderr_gate.feed(data) {
                Found::NotYet => return,
                Found::Start { rest, .. } => rest,
                // Keep what there is, it may say why.
                Found::TooMuch => {
                    self.stderr_is_open = true;
                    self.stderr_gate.held().to_vec()
                }
            }
        };
        let kept = keep(&mut self.output.stderr, &mut self.output.stderr_dropped_bytes, &own, self.limit);
        tell(self.tap.as_ref(), kept, Piece::Stderr);
    }

    /// How often sudo has asked for the password.
    fn questions(&self) -> usize {
        if self.stderr_gate.stage() != Stage::Raising {
            return 0;
        }
        let held = self.stderr_gate.held();
        memchr::memmem::find_iter(held, self.prompt.as_bytes()).count()
    }

    /// What was said instead of running the command, for a person.
    fn greeting(&self) -> String {
        let mut said = self.stdout_gate.held().to_vec();
        said.extend_from_slice(self.stderr_gate.held());
        said.extend_from_slice(&self.output.stderr);
        printable::line(&said, 200)
    }

    fn not_raised(&self, connection: &Connection) -> SshError {
        let held = String::from_utf8_lossy(self.stderr_gate.held()).replace(&self.prompt, "");
        SshError::SudoRefused {
            at: Box::new(connection.shared().at.clone()),
            wrong_password: self.questions() > 1,
            said: printable::line(held.as_bytes(), 300),
        }
    }

    fn finish(mut self, wall: Duration) -> Output {
        if !self.stderr_is_open {
            let held = self.stderr_gate.held();
            keep(&mut self.output.stderr, &mut self.output.stderr_dropped_bytes, held, self.limit);
        }
        self.output.wall = wall;
        self.output
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
