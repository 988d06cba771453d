//! A command that goes on without its connection: begun, looked at again and again, ended, and found again after a stop of
//! Roundsman.
//!
//! What is known of it stands on its server (see `script`), so a lost connection or a restart loses nothing. Only its end is
//! decided here; how that is written is `fanout`'s.

mod script;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
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
/// Looks that bring a whole output, with room; a server that brings less at a time than it has is left with the rest.
const GATHER_LOOKS: usize = 4 * OUTPUT_LIMIT.div_ceil(LOOK_BYTES);
/// A run took time, however little.
const LEAST_WALL: Duration = Duration::from_millis(1);

/// How far a run was read. What it printed is not kept here: hundreds may run for hours.
#[derive(Debug, Default)]
struct Read {
    /// Bytes of each stream that were passed on.
    passed: (usize, usize),
    /// Since when nothing of it is to be found.
    missing: Option<Instant>,
    /// Since when its exit status is there.
    ended: Option<Instant>,
}

impl Read {
    /// True: there is more to be passed on.
    fn take(&mut self, seen: &Seen) -> bool {
        let take = |passed: &mut usize, stream: &Stream| {
            *passed = passed.saturating_add(stream.new.len()).min(OUTPUT_LIMIT);
            !stream.new.is_empty() && is_behind(*passed, stream)
        };
        let stdout = take(&mut self.passed.0, &seen.stdout);
        take(&mut self.passed.1, &seen.stderr) || stdout
    }
}

/// There is more of a stream than the `read` bytes, and it is wanted.
fn is_behind(read: usize, stream: &Stream) -> bool {
    read < OUTPUT_LIMIT && u64::try_from(read).is_ok_and(|read| read < stream.bytes)
}

/// Bytes of each stream that the next look may bring.
fn room((stdout, stderr): (usize, usize)) -> (usize, usize) {
    let room = |read: usize| OUTPUT_LIMIT.saturating_sub(read).min(LOOK_BYTES);
    (room(stdout), room(stderr))
}

/// Keeps what is new of a stream and counts what is not kept. True: there is more to be fetched.
fn keep(kept: &mut Vec<u8>, dropped: &mut u64, stream: &Stream) -> bool {
    let room = OUTPUT_LIMIT.saturating_sub(kept.len()).min(stream.new.len());
    kept.extend_from_slice(stream.new.get(..room).unwrap_or_default());
    let whole = u64::try_from(kept.len()).unwrap_or(u64::MAX);
    *dropped = stream.bytes.saturating_sub(whole).saturating_add(stream.more);
    !stream.new.is_empty() && is_behind(kept.len(), stream)
}

/// How a run ended, and the place in memory that its output takes until it is written.
type Concluded = (Ending, Option<OwnedSemaphorePermit>);

/// What a look means.
enum Verdict {
    /// It goes on.
    Wait,
    /// There is more to be fetched soon.
    More,
    Ended,
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
    // Of what has ended everything is gathered.
    if more && seen.exit_status.is_none() {
        return Verdict::More;
    }
    let over = || if seen.late { Verdict::Late } else { Verdict::Ended };
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
    pub(super) async fn follow_detached(&self, record: &CommandRecord, taken_up: bool) -> Option<Concluded> {
        let mut read = Read::default();
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let looked = tokio::select! {
                biased;
                () = self.running.cancel.cancelled() => return self.give_up(record, begun).await,
                looked = self.look(record, &mut read) => looked,
            };
            let concluded = match looked {
                Ok((_, Verdict::More)) => {
                    pause = FIRST_PAUSE;
                    Ok(None)
                }
                Ok((_, Verdict::Wait)) => {
                    pause = (pause * 3 / 2).min(LONGEST_PAUSE);
                    Ok(None)
                }
                Ok((seen, verdict)) => {
                    // Of what ended while nobody looked, only the server's clock says how long it took.
                    let by_server = seen.seconds.map(Duration::from_secs).filter(|_| taken_up);
                    let wall = by_server.unwrap_or_else(|| begun.elapsed());
                    self.conclude(record, &seen, &verdict, wall).await.map(Some)
                }
                Err(why) => Err(why),
            };
            let wait = match concluded {
                Ok(Some(concluded)) => return Some(concluded),
                Ok(None) => pause,
                Err(why) => match self.is_lost(record, &why) {
                    Some(reason) => return Some((self.unseen(&reason, begun.elapsed()), None)),
                    None => AWAY_PAUSE,
                },
            };
            tokio::select! {
                biased;
                () = self.running.cancel.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// The end of a run, with all of its output that is kept. Err: there is no answer now.
    async fn conclude(
        &self,
        record: &CommandRecord,
        seen: &Seen,
        verdict: &Verdict,
        wall: Duration,
    ) -> Result<Concluded, String> {
        if matches!(seen.state, State::Absent | State::Starting)
            && let Verdict::Lost(reason) = verdict
        {
            return Ok((self.unseen(reason, wall), None));
        }
        let (output, place) = self.gather(record).await?;
        let output = Output { wall: wall.max(LEAST_WALL), ..output };
        let ending = match verdict {
            Verdict::Lost(reason) => Ending { output, ..Ending::without(TargetStatus::Unknown, reason) },
            Verdict::Late => {
                let error = format!("it did not end within {} s and was ended", self.plan.timeout.as_secs());
                Ending { output, ..Ending::without(TargetStatus::Failed, &error) }
            }
            _ => Ending::of(Ok(Output { exit_status: seen.exit_status, ..output }), &self.plan),
        };
        Ok((ending, place))
    }

    /// Its end was not seen; of what it printed, the last that was passed on is kept.
    fn unseen(&self, reason: &str, wall: Duration) -> Ending {
        let (stdout, stderr) = self.running.ledger.printed(self.position);
        let output = Output { stdout, stderr, wall: wall.max(LEAST_WALL), ..Output::default() };
        Ending { output, ..Ending::without(TargetStatus::Unknown, reason) }
    }

    /// One look, and what it means; what is new goes to those who watch.
    async fn look(&self, record: &CommandRecord, read: &mut Read) -> Result<(Seen, Verdict), String> {
        let seen = self.seen(record, read.passed).await?;
        let news = [(&seen.stdout.new, Piece::Stdout as fn(_) -> _), (&seen.stderr.new, Piece::Stderr)];
        for (new, piece) in news.into_iter().filter(|(new, _)| !new.is_empty()) {
            self.running.ledger.said(self.position, piece(new.clone()));
            self.tell();
        }
        let verdict = judge(&seen, read, Instant::now());
        Ok((seen, verdict))
    }

    async fn seen(&self, record: &CommandRecord, read: (usize, usize)) -> Result<Seen, String> {
        let script =
            script::look(&Self::run_id(record), read, room(read)).map_err(|error| error.to_string())?;
        let output = self.ask(script).await?;
        Seen::parse(&output.stdout).ok_or_else(|| {
            let said = printable::line(&[output.stdout.as_slice(), output.stderr.as_slice()].concat(), 200);
            format!("the server does not say how far it is, but '{said}'")
        })
    }

    /// All that is kept of its output, once a place in memory is free for it.
    async fn gather(&self, record: &CommandRecord) -> Result<(Output, Option<OwnedSemaphorePermit>), String> {
        let place = Arc::clone(&self.operations.inner.gathering).acquire_owned().await.ok();
        let mut output = Output::default();
        for _ in 0..GATHER_LOOKS {
            let seen = self.seen(record, (output.stdout.len(), output.stderr.len())).await?;
            let more = keep(&mut output.stdout, &mut output.stdout_dropped_bytes, &seen.stdout);
            if !keep(&mut output.stderr, &mut output.stderr_dropped_bytes, &seen.stderr) && !more {
                break;
            }
        }
        Ok((output, place))
    }

    /// Runs one of the scripts, in the turn that any command has. Err: there is no answer now, and why.
    async fn ask(&self, script: String) -> Result<Output, String> {
        let place = self.operations.places_of(self.server).acquire_owned().await;
        let turn = Arc::clone(&self.operations.inner.permits).acquire_owned().await;
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
    async fn give_up(&self, record: &CommandRecord, begun: Instant) -> Option<Concluded> {
        if self.operations.inner.stop.is_cancelled() {
            tracing::info!(operation = %self.operation.id, server = %self.name, "a detached command goes on without Roundsman");
            return None;
        }
        let ended = async {
            let script = script::end(&Self::run_id(record)).map_err(|error| error.to_string())?;
            self.ask(script).await?;
            let seen = self.seen(record, (0, 0)).await?;
            Ok::<_, String>((seen, self.gather(record).await?))
        };
        Some(match ended.await {
            Ok((seen, (output, place))) => {
                let still_runs = seen.state == State::Runs && seen.exit_status.is_none();
                let (status, reason) = if still_runs {
                    (TargetStatus::Unknown, "cancelled while it ran; it does not end on its server")
                } else {
                    (TargetStatus::Cancelled, "cancelled while it ran; the command was ended")
                };
                let output = Output { wall: begun.elapsed().max(LEAST_WALL), ..output };
                (Ending { output, ..Ending::without(status, reason) }, place)
            }
            Err(why) => {
                let reason = format!("cancelled, but its server gives no answer, so it may still run: {why}");
                (self.unseen(&reason, begun.elapsed()), None)
            }
        })
    }

    /// Removes what a run left on its server, once its end is written. What cannot be removed now goes with a later run.
    pub(super) async fn sweep_detached(&self, record: &CommandRecord) {
        let Ok(script) = script::sweep(&Self::run_id(record)) else { return };
        if let Err(why) = self.ask(script).await {
            tracing::info!(server = %self.name, %why, "the files of a detached command stay until a later one");
        }
    }
}
