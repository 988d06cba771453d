//! A command that goes on without its connection: begun, looked at again and again, ended, and found again after a stop of
//! Roundsman.
//!
//! What is known of it stands on its server (see `script`), so a lost connection or a restart loses nothing. Only its end is
//! decided here; how that is written is `fanout`'s.

mod script;

use std::time::Duration;

use tokio::time::Instant;

use super::fanout::{CONNECT_LIMIT, Ending, Leg, REASON_CHARS, request};
use crate::actions::{How, Plan};
use crate::fleet::Hand;
use crate::model::{Secret, TargetStatus, Timestamp};
use crate::ssh::{ExecRequest, Output, Piece, SshError, printable};
use crate::store::operations::CommandRecord;
use script::{Job, LOOK_BYTES, Seen, State, Stream};

/// Bytes of each stream that are kept, as for any command.
const OUTPUT_LIMIT: usize = ExecRequest::DEFAULT_OUTPUT_LIMIT;
/// One of the scripts; none of them waits for the command.
const SCRIPT_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks: quick at first, because most commands are, and never more than a person waits for news.
const FIRST_PAUSE: Duration = Duration::from_millis(150);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Between two attempts to reach a server that is away.
const AWAY_PAUSE: Duration = Duration::from_secs(2);
/// A run of which nothing is there may be about to begin for so long: its request may be under way on an old connection.
const BEGIN_LIMIT: Duration = Duration::from_secs(10);
/// The command has ended, and something that it started holds its outputs open: so long its last words are waited for.
const LINGER: Duration = Duration::from_secs(2);
/// The command is over its time limit for so long and the server still is not back: nobody waits for it any longer.
const LOST_AFTER: Duration = Duration::from_hours(1);

/// What was read of a run so far.
#[derive(Debug, Default)]
struct Read {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    dropped: (u64, u64),
    /// Since when nothing of it is to be found.
    missing: Option<Instant>,
    /// Since when its exit status is there.
    ended: Option<Instant>,
}

impl Read {
    fn room(&self) -> (usize, usize) {
        let room = |kept: &[u8]| OUTPUT_LIMIT.saturating_sub(kept.len()).min(LOOK_BYTES);
        (room(&self.stdout), room(&self.stderr))
    }

    /// Keeps what is new. True: there is more to be fetched.
    fn take(&mut self, seen: &Seen) -> bool {
        let take = |kept: &mut Vec<u8>, dropped: &mut u64, stream: &Stream| {
            let room = OUTPUT_LIMIT.saturating_sub(kept.len()).min(stream.new.len());
            kept.extend_from_slice(stream.new.get(..room).unwrap_or_default());
            let kept_bytes = u64::try_from(kept.len()).unwrap_or(u64::MAX);
            let left = stream.bytes.saturating_sub(kept_bytes);
            *dropped = left.saturating_add(stream.more);
            left > 0 && kept.len() < OUTPUT_LIMIT && !stream.new.is_empty()
        };
        let stdout = take(&mut self.stdout, &mut self.dropped.0, &seen.stdout);
        take(&mut self.stderr, &mut self.dropped.1, &seen.stderr) || stdout
    }

    fn output(self, exit_status: Option<u32>, wall: Duration) -> Output {
        Output {
            exit_status,
            signal: None,
            stdout: self.stdout,
            stderr: self.stderr,
            stdout_dropped_bytes: self.dropped.0,
            stderr_dropped_bytes: self.dropped.1,
            wall,
        }
    }
}

/// What a look means.
enum Verdict {
    /// It goes on.
    Wait,
    /// There is more to be fetched at once.
    More,
    Ended(Option<u32>),
    /// It was ended because its time was over.
    Late,
    /// Its end will not be seen any more, and why.
    Lost(&'static str),
}

/// Pure: what to make of what was seen, `now` given what was read before.
fn judge(seen: &Seen, read: &mut Read, now: Instant) -> Verdict {
    let there = !matches!(seen.state, State::Absent | State::Starting);
    let missing = *read.missing.get_or_insert(now);
    if there {
        read.missing = None;
    }
    let more = read.take(seen);
    if more {
        return Verdict::More;
    }
    let over = || if seen.late { Verdict::Late } else { Verdict::Ended(seen.exit_status) };
    match seen.state {
        State::Done => over(),
        _ if seen.exit_status.is_some() => {
            let ended = *read.ended.get_or_insert(now);
            if now.duration_since(ended) >= LINGER || seen.state != State::Runs {
                over()
            } else {
                Verdict::Wait
            }
        }
        State::Runs => Verdict::Wait,
        State::Absent | State::Starting if now.duration_since(missing) < BEGIN_LIMIT => Verdict::Wait,
        State::Starting => Verdict::Lost("it was not begun: its directory is there and no process is in it"),
        State::Absent => Verdict::Lost(
            "there is nothing of it on the server: it was never begun, or its files were removed",
        ),
        State::Gone => Verdict::Lost(
            "it is gone and left no exit status; it was killed together with what stood beside it",
        ),
        State::Rebooted => Verdict::Lost("the server was restarted while it ran"),
    }
}

impl Leg {
    /// A word that no other run has, and that stands in the record.
    fn run_id(record: &CommandRecord) -> String {
        record.id.to_string()
    }

    /// The plan with another text in place of its command.
    fn scripted(&self, script: String, with_surroundings: bool) -> Plan {
        let how = if with_surroundings {
            self.plan.how.clone()
        } else {
            How { environment: std::collections::BTreeMap::new(), stdin: None, ..self.plan.how.clone() }
        };
        Plan { inner: script, how, ..self.plan.clone() }
    }

    /// Begins the command on its server and answers at once. Err: nothing was begun, and how the target ends by it.
    pub(super) async fn begin_detached(
        &self,
        hand: &Hand,
        record: &CommandRecord,
        sudo_password: Option<Secret<String>>,
    ) -> Result<(), Ending> {
        let job = Job {
            command: &self.plan.inner,
            limit_s: self.plan.timeout.as_secs().max(1),
            output_limit: OUTPUT_LIMIT,
            has_input: self.plan.how.stdin.is_some(),
        };
        let script = script::begin(&Self::run_id(record), &job)
            .map_err(|error| Ending::without(TargetStatus::Failed, &error.to_string()))?;
        let request = request(&self.scripted(script, true), sudo_password).timeout(SCRIPT_LIMIT);
        match hand.exec(request).await {
            Ok(output) if output.success() => Ok(()),
            Ok(output) => {
                let said = printable::line(&output.stderr, REASON_CHARS);
                let reason = format!("nothing was begun: {said}");
                Err(Ending { output, ..Ending::without(TargetStatus::Failed, &reason) })
            }
            // It may have begun all the same; its server knows.
            Err(SshError::Closed { .. } | SshError::CommandTimedOut { .. }) => Ok(()),
            outcome @ Err(_) => Err(Ending::of(outcome, &self.plan)),
        }
    }

    /// Follows a run to its end. None: Roundsman stops, and the run goes on.
    pub(super) async fn follow_detached(&self, record: &CommandRecord, taken_up: bool) -> Option<Ending> {
        let mut read = Read::default();
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let wait = tokio::select! {
                biased;
                () = self.running.cancel.cancelled() => return self.give_up(record, read, begun).await,
                looked = self.look(record, &mut read) => match looked {
                    Err(why) => match self.is_lost(record, &why) {
                        Some(reason) => return Some(Self::unseen(&reason, read, begun)),
                        None => AWAY_PAUSE,
                    },
                    Ok((_, Verdict::More)) => Duration::ZERO,
                    Ok((_, Verdict::Wait)) => {
                        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
                        pause
                    }
                    Ok((_, Verdict::Lost(reason))) => return Some(Self::unseen(reason, read, begun)),
                    Ok((seen, verdict)) => {
                        // Of what ended while nobody looked, only the server's clock says how long it took.
                        let by_server = seen.seconds.map(Duration::from_secs).filter(|_| taken_up);
                        let wall = by_server.unwrap_or_else(|| begun.elapsed()).max(Duration::from_millis(1));
                        return Some(self.ended(&verdict, read.output(None, wall)));
                    }
                },
            };
            tokio::select! {
                biased;
                () = self.running.cancel.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn ended(&self, verdict: &Verdict, output: Output) -> Ending {
        match verdict {
            Verdict::Ended(exit_status) => {
                Ending::of(Ok(Output { exit_status: *exit_status, ..output }), &self.plan)
            }
            _ => {
                let error = format!("it did not end within {} s and was ended", self.plan.timeout.as_secs());
                Ending { status: TargetStatus::Failed, error: Some(error), output }
            }
        }
    }

    /// Its end was not seen; what it printed until then is kept.
    fn unseen(reason: &str, read: Read, begun: Instant) -> Ending {
        let output = read.output(None, begun.elapsed().max(Duration::from_millis(1)));
        Ending { output, ..Ending::without(TargetStatus::Unknown, reason) }
    }

    /// One look, and what it means; what is new goes to those who watch.
    async fn look(&self, record: &CommandRecord, read: &mut Read) -> Result<(Seen, Verdict), String> {
        let script = script::look(&Self::run_id(record), (read.stdout.len(), read.stderr.len()), read.room())
            .map_err(|error| error.to_string())?;
        let output = self.ask(script).await?;
        let seen = Seen::parse(&output.stdout).ok_or_else(|| {
            let said = printable::line(&[output.stdout.as_slice(), output.stderr.as_slice()].concat(), 200);
            format!("the server does not say how far it is, but '{said}'")
        })?;
        let news = [(&seen.stdout.new, Piece::Stdout as fn(_) -> _), (&seen.stderr.new, Piece::Stderr)];
        for (new, piece) in news.into_iter().filter(|(new, _)| !new.is_empty()) {
            self.running.ledger.said(self.position, piece(new.clone()));
            self.tell();
        }
        let verdict = judge(&seen, read, Instant::now());
        Ok((seen, verdict))
    }

    /// Runs one of the scripts, in the turn that any command has. Err: there is no answer now, and why.
    async fn ask(&self, script: String) -> Result<Output, String> {
        let place = self.operations.places_of(self.server).acquire_owned().await;
        let turn = std::sync::Arc::clone(&self.operations.inner.permits).acquire_owned().await;
        let connecting = self.operations.inner.fleet.hand(&self.caller, self.server);
        let hand = tokio::time::timeout(CONNECT_LIMIT, connecting)
            .await
            .map_err(|_| format!("there was no connection within {} s", CONNECT_LIMIT.as_secs()))??;
        let sudo_password = self.sudo_password().await?;
        // Both streams of a look, and its first line.
        let request = request(&self.scripted(script, false), sudo_password)
            .timeout(SCRIPT_LIMIT)
            .output_limit(2 * LOOK_BYTES + 1024);
        let answer = hand.exec(request).await.map_err(|error| format!("{error} {}", error.advice()));
        drop((place, turn));
        answer
    }

    /// Why nobody waits for the server any longer. None: it may come back.
    fn is_lost(&self, record: &CommandRecord, why: &str) -> Option<String> {
        if self.is_removed() {
            return Some("its server was removed from Roundsman; the command may still run there".to_owned());
        }
        let waited: Timestamp = record.started_at + (self.plan.timeout + LOST_AFTER);
        (self.operations.inner.clock.now() > waited)
            .then(|| format!("its server did not come back until long after its time limit: {why}"))
    }

    /// Ends the command on its server, unless only Roundsman stops.
    async fn give_up(&self, record: &CommandRecord, mut read: Read, begun: Instant) -> Option<Ending> {
        if self.operations.inner.stop.is_cancelled() {
            tracing::info!(operation = %self.operation.id, server = %self.name, "a detached command goes on without Roundsman");
            return None;
        }
        let ended = match script::end(&Self::run_id(record)) {
            Ok(script) => self.ask(script).await.map(drop),
            Err(error) => Err(error.to_string()),
        };
        let seen = match ended {
            Ok(()) => self.look(record, &mut read).await.map(|(seen, _)| seen),
            Err(why) => Err(why),
        };
        let (status, reason) = match seen {
            Ok(seen) if seen.state == State::Runs && seen.exit_status.is_none() => {
                (TargetStatus::Unknown, "cancelled while it ran; it does not end on its server".to_owned())
            }
            Ok(_) => (TargetStatus::Cancelled, "cancelled while it ran; the command was ended".to_owned()),
            Err(why) => {
                let reason = format!("cancelled, but its server gives no answer, so it may still run: {why}");
                (TargetStatus::Unknown, reason)
            }
        };
        Some(Ending { status, ..Self::unseen(&reason, read, begun) })
    }

    /// Removes what a run left on its server, once its end is written. What cannot be removed now goes with a later run.
    pub(super) async fn sweep_detached(&self, record: &CommandRecord) {
        let Ok(script) = script::sweep(&Self::run_id(record)) else { return };
        if let Err(why) = self.ask(script).await {
            tracing::info!(server = %self.name, %why, "the files of a detached command stay until a later one");
        }
    }
}
