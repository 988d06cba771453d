//! Sends a command to many hosts at once and gathers what they answer: batches, the failure limit, Ctrl-C.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;

use super::super::answers::{exit_code, operation_of, result_of, show_all};
use super::super::error::CliError;
use super::super::follow::Shown;
use super::super::output::Output;
use super::super::progress::Progress;
use super::reach::Reach;
use super::{Job, Leg};
use crate::clock::{Clock as _, SystemClock};
use crate::model::TargetStatus;
use crate::operations::{Strategy, TargetView, Unkept, request};
use crate::ssh::{ExecRequest, Piece, SshError, printable};

/// Connections at the same time where nobody says how many: a key exchange takes about a millisecond of one processor.
const AT_ONCE: usize = 64;
/// Outputs of all hosts together in memory.
const OUTPUT_BYTES: usize = 512 * 1024 * 1024;
/// Each host may say at least this much, however many there are.
const LEAST_OUTPUT_BYTES: usize = 64 * 1024;
/// Pieces of output on their way to the terminal.
const PIECES: usize = 256;
/// How often a person hears how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// After Ctrl-C, for the word to the servers that their commands are to end.
const FAREWELL: Duration = Duration::from_secs(1);

pub(super) async fn run(
    legs: Arc<Vec<Leg>>,
    reach: Arc<Reach>,
    job: &Job,
    output: &Output,
) -> Result<ExitCode, CliError> {
    let single = legs.len() == 1 && !output.json;
    let (pieces, said) = mpsc::channel(PIECES);
    let sender = Sender {
        output_limit: (OUTPUT_BYTES / legs.len().max(1))
            .clamp(LEAST_OUTPUT_BYTES, ExecRequest::DEFAULT_OUTPUT_LIMIT),
        tap: single.then_some(pieces),
        halted: Arc::new(AtomicBool::new(false)),
        legs,
        reach,
    };
    let work = async {
        let (all, shown) = tokio::join!(sender.all(&job.strategy), show_live(said));
        (all, shown)
    };
    let ((targets, halted), shown) = tokio::select! {
        done = work => done,
        said = tokio::signal::ctrl_c() => {
            said.map_err(|error| CliError::failed(format!("no signals can be received: {error}")))?;
            // What was dropped above ends its commands in tasks of their own.
            tokio::time::sleep(FAREWELL).await;
            return Err(CliError::failed("interrupted; the commands that ran were ended"));
        }
    };
    let done = operation_of(&targets, halted.as_deref());
    if output.json {
        output.value(&done)?;
    } else if let (true, [target]) = (single, targets.as_slice()) {
        shown?.show(&result_of(target), true)?;
    } else {
        show_all(&done, job.look, output)?;
    }
    Ok(exit_code(&done))
}

struct Sender {
    legs: Arc<Vec<Leg>>,
    reach: Arc<Reach>,
    output_limit: usize,
    /// The output of a single host is shown as it comes.
    tap: Option<mpsc::Sender<Piece>>,
    /// Nothing more is to be sent.
    halted: Arc<AtomicBool>,
}

impl Sender {
    /// Every host in its batch; answers the targets in their order, and why some got nothing.
    async fn all(self, strategy: &Strategy) -> (Vec<TargetView>, Option<String>) {
        let total = self.legs.len();
        let at_once = strategy.parallelism.and_then(|count| usize::try_from(count).ok()).unwrap_or(AT_ONCE);
        let mut progress = Progress::of_servers(total);
        let mut done: Vec<Option<TargetView>> = std::iter::repeat_with(|| None).take(total).collect();
        let mut statuses = vec![TargetStatus::Pending; total];
        let mut halted = None;
        let (mut ended, mut failed) = (0_u64, 0_u64);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        for (batch, range) in (0_u32..).zip(strategy.split(total)) {
            if batch > 0 && halted.is_none() {
                tokio::time::sleep(strategy.pause()).await;
            }
            let sender = &self;
            let legs = self.legs.get(range.clone()).unwrap_or_default();
            let under_way =
                range.zip(legs).map(|(at, leg)| async move { (at, sender.one(leg, batch).await) });
            let mut under_way = std::pin::pin!(stream::iter(under_way).buffer_unordered(at_once));
            loop {
                let ending = tokio::select! {
                    ending = under_way.next() => ending,
                    _ = looks.tick() => {
                        progress.at(ended, remark(failed));
                        continue;
                    }
                };
                let Some((at, view)) = ending else { break };
                ended += 1;
                failed += u64::from(view.target.status.is_failure());
                if let Some(status) = statuses.get_mut(at) {
                    *status = view.target.status;
                }
                if let Some(place) = done.get_mut(at) {
                    *place = Some(view);
                }
                if halted.is_none() {
                    halted = strategy.limit_reached(&statuses);
                    self.halted.store(halted.is_some(), Ordering::Relaxed);
                }
            }
        }
        (done.into_iter().flatten().collect(), halted.filter(|_| statuses.contains(&TargetStatus::Skipped)))
    }

    async fn one(&self, leg: &Leg, batch: u32) -> TargetView {
        let started_at = SystemClock.now();
        let target = Unkept { name: &leg.name, plan: &leg.plan, batch, started_at };
        if self.halted.load(Ordering::Relaxed) {
            return target.without(TargetStatus::Skipped, "too many before it did not succeed");
        }
        let connection = match self.reach.connection(&leg.way).await {
            Ok(connection) => connection,
            Err(error) => return target.without(TargetStatus::Unreachable, &told(&error)),
        };
        let mut request = request(&leg.plan, None).timeout(leg.plan.timeout).output_limit(self.output_limit);
        request.tap.clone_from(&self.tap);
        target.answered(connection.exec(request).await)
    }
}

fn remark(failed: u64) -> String {
    if failed > 0 { format!(", {failed} failed") } else { String::new() }
}

/// What went wrong, and what to do about it from here.
fn told(error: &SshError) -> String {
    let mut at_fault = error;
    while let SshError::OnTheWay { error, .. } = at_fault {
        at_fault = error;
    }
    let advice = match at_fault {
        SshError::HostKeyUnknown { .. } => {
            "Compare it with what the server says of itself and connect with ssh once, or take it with --accept-new."
                .to_owned()
        }
        SshError::HostKeyChanged { at, .. } => format!(
            "If {at} was reinstalled, compare the new key on the server and take the old line out of known_hosts \
             (ssh-keygen -R). If not, somebody may be between you and the server."
        ),
        SshError::AuthRefused { .. } | SshError::KeyUnreadable { .. } => {
            "Name the right user and key: user@host, --identity.".to_owned()
        }
        other => other.advice(),
    };
    format!("{error} {advice}")
}

/// Shows the output of a single host until its end; answers what was shown.
async fn show_live(mut pieces: mpsc::Receiver<Piece>) -> Result<Shown, CliError> {
    let mut shown = Shown::default();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(piece) = pieces.recv().await {
        match piece {
            Piece::Stdout(bytes) => stdout.extend(bytes),
            Piece::Stderr(bytes) => stderr.extend(bytes),
        }
        shown.add(&whole_lines(&mut stdout), &whole_lines(&mut stderr))?;
    }
    Ok(shown)
}

/// Takes whole lines only: an escape code that has come by half would not be known for one.
fn whole_lines(bytes: &mut Vec<u8>) -> String {
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let lines: Vec<u8> = bytes.drain(..end).collect();
    printable::text(&lines, usize::MAX)
}
