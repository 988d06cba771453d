//! One target of an operation: every step is written before the next, and its command is sent when its turn has come.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use super::{Operations, Running, news, rolling};
use crate::actions::{Action, ContainerEngine, FileChange, Plan, Variable, mask};
use crate::fleet::Hand;
use crate::model::{Caller, OperationStatus, RecordId, Secret, ServerId, TargetStatus};
use crate::ssh::{ContainerExec, Engine, ExecRequest, Output, Piece, SshError, Sudo, printable};
use crate::store::audit::{self, Entry};
use crate::store::operations::{self as rows, CommandRecord, Operation};
use crate::store::{StoreError, Transaction};

/// How long a target may wait for a connection that is being made.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// Pieces of output on their way to the ledger; a slow ledger misses some, the record has them all.
const PIECES: usize = 64;
/// Open pages hear of new output at most this often for one target.
const TELL_EVERY: Duration = Duration::from_millis(150);

/// A reason with what to do about it.
pub(super) const REASON_CHARS: usize = 1000;

/// Longest pause between two attempts to write.
const LONGEST_WRITE_PAUSE: Duration = Duration::from_secs(30);

/// One target under way.
pub(super) struct Leg {
    pub(super) operations: Operations,
    pub(super) caller: Caller,
    pub(super) operation: Operation,
    pub(super) running: Arc<Running>,
    pub(super) position: u32,
    pub(super) server: ServerId,
    pub(super) name: String,
    pub(super) action: Action,
    pub(super) plan: Plan,
}

/// The places that a target holds while its command runs.
struct Turn {
    operation: OwnedSemaphorePermit,
    server: OwnedSemaphorePermit,
    executor: OwnedSemaphorePermit,
    /// Among the detached ones.
    detached: Option<OwnedSemaphorePermit>,
}

/// How a target ended.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) status: TargetStatus,
    pub(super) error: Option<String>,
    pub(super) output: Output,
}

impl Leg {
    /// Waits for its turn, sends, and writes how it ended.
    pub(super) async fn run(self) {
        let ready = tokio::select! {
            biased;
            () = self.running.cancel.cancelled() => {
                Err(Ending::without(TargetStatus::Cancelled, "cancelled before it was sent"))
            }
            ready = self.turn() => ready,
        };
        let (turn, hand) = match ready {
            Ok(ready) => ready,
            Err(ending) => return self.finish(None, ending).await,
        };
        let sudo_password = match self.sudo_password().await {
            Ok(password) => password,
            Err(reason) => return self.finish(None, Ending::without(TargetStatus::Failed, &reason)).await,
        };
        let record = match self.write_sent().await {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(operation = %self.operation.id, server = %self.name, %error, "nothing is sent that cannot be recorded");
                let reason = format!("nothing was sent, because it could not be recorded: {error}");
                return self.finish(None, Ending::without(TargetStatus::Failed, &reason)).await;
            }
        };
        self.tell();
        if self.plan.how.detached {
            return self.run_detached(record, (turn, hand), sudo_password).await;
        }
        let (tap, pieces) = mpsc::channel(PIECES);
        let started = Instant::now();
        let outcome = tokio::select! {
            biased;
            // Dropping the future ends the command on the server.
            () = self.running.cancel.cancelled() => None,
            outcome = async { tokio::join!(self.perform(&hand, sudo_password, tap), self.listen(pieces)).0 } => Some(outcome),
        };
        let mut ending = match outcome {
            Some(outcome) => Ending::of(outcome, &self.plan).of_steps(&self.action),
            None => Ending::without(TargetStatus::Cancelled, "cancelled while it ran; the command was ended"),
        };
        if let Action::WatchedService { name, verb } = &self.action
            && ending.status == TargetStatus::Succeeded
        {
            self.operations.inner.fleet.watched_was_acted_on(self.server, name, *verb);
        }
        if ending.output.wall.is_zero() {
            // Its end was not seen: what it printed until then is all there is.
            ending.output.wall = started.elapsed();
            (ending.output.stdout, ending.output.stderr) = self.running.ledger.printed(self.position);
        }
        if ending.status == TargetStatus::Unknown && self.is_removed() {
            ending.error = Some(
                "its server was removed from Roundsman while it ran; it may have run to its end".to_owned(),
            );
        }
        self.finish(Some(record), ending).await;
    }

    /// Begins a command that goes on by itself and follows it; meanwhile it holds its places in the operation and among the
    /// detached ones only.
    async fn run_detached(
        self,
        record: CommandRecord,
        (turn, hand): (Turn, Hand),
        sudo_password: Option<Secret<String>>,
    ) {
        let Turn { operation, server, executor, detached } = turn;
        let begun = tokio::select! {
            biased;
            // It may have begun; following it finds out, and ends it.
            () = self.running.cancel.cancelled() => Ok(()),
            begun = self.begin_detached(&hand, &record, sudo_password) => begun,
        };
        drop((hand, server, executor));
        match begun {
            Ok(()) => self.follow_to_its_end(record, false).await,
            Err(ending) => self.finish(Some(record), ending).await,
        }
        drop((operation, detached));
    }

    /// Follows a command that goes on by itself. `taken_up`: an earlier Roundsman began it.
    pub(super) async fn follow_to_its_end(&self, record: CommandRecord, taken_up: bool) {
        if let Some((ending, in_memory)) = self.follow_detached(&record, taken_up).await {
            self.finish(Some(record.clone()), ending).await;
            drop(in_memory);
            self.sweep_detached(&record).await;
        }
    }

    /// Its server is none of Roundsman's any more.
    pub(super) fn is_removed(&self) -> bool {
        self.operations.inner.fleet.get(&self.caller, &self.server.to_string()).is_err()
    }

    /// Places and a connection, as soon as something may be sent. Err: how the target ends without.
    async fn turn(&self) -> Result<(Turn, Hand), Ending> {
        self.operations.free_for(&self.running, self.server).await;
        if let Some(why) = self.running.unmet(self.server) {
            return Err(Ending::without(TargetStatus::Skipped, &format!("nothing was sent: {why}")));
        }
        let mut detached = if self.plan.how.detached {
            Arc::clone(&self.operations.inner.detached).acquire_owned().await.ok()
        } else {
            None
        };
        loop {
            self.may_send().await?;
            // The semaphores are never closed; without a permit the leg would only be one too many.
            let own = Arc::clone(&self.running.permits).acquire_owned().await;
            let place = self.operations.places_of(self.server).acquire_owned().await;
            let turn = Arc::clone(&self.operations.inner.permits).acquire_owned().await;
            let connecting = self.operations.inner.fleet.hand(&self.caller, self.server);
            let hand = match tokio::time::timeout(CONNECT_LIMIT, connecting).await {
                Ok(Ok(hand)) => hand,
                Ok(Err(reason)) => return Err(Ending::without(TargetStatus::Unreachable, &reason)),
                Err(_) => {
                    let reason = format!("there was no connection within {} s", CONNECT_LIMIT.as_secs());
                    return Err(Ending::without(TargetStatus::Unreachable, &reason));
                }
            };
            if self.running.switch.now().allows()
                && let (Ok(operation), Ok(server), Ok(executor)) = (own, place, turn)
            {
                return Ok((Turn { operation, server, executor, detached: detached.take() }, hand));
            }
            // Paused or halted meanwhile: nobody waits for the places of one that waits.
        }
    }

    async fn may_send(&self) -> Result<(), Ending> {
        self.running
            .switch
            .open()
            .await
            .map_err(|why| Ending::without(TargetStatus::Skipped, &format!("nothing was sent: {why}")))
    }

    /// One command, or what only the fleet can do.
    async fn perform(
        &self,
        hand: &Hand,
        sudo_password: Option<Secret<String>>,
        tap: mpsc::Sender<Piece>,
    ) -> Result<Output, SshError> {
        match &self.action {
            Action::RotateKey(rotation) => {
                let fleet = &self.operations.inner.fleet;
                // Boxed: logins and readings inside make it large, and every target carries it.
                Ok(Box::pin(fleet.rotate_key(&self.caller, self.server, rotation, tap)).await)
            }
            Action::DeployAgent(deployment) => {
                let fleet = &self.operations.inner.fleet;
                Ok(Box::pin(fleet.deploy_agent(&self.caller, self.server, deployment.clone(), tap)).await)
            }
            Action::RemoveAgent => {
                let fleet = &self.operations.inner.fleet;
                Ok(Box::pin(fleet.remove_agent(&self.caller, self.server, tap)).await)
            }
            Action::File(change) => {
                let request = self.file_request(change, sudo_password)?;
                hand.exec(request.timeout(self.plan.timeout).tap(tap)).await
            }
            Action::Reboot(reboot) => {
                let fleet = &self.operations.inner.fleet;
                let (command, limit) = (request(&self.plan, sudo_password), reboot.wait());
                Ok(Box::pin(fleet.reboot(&self.caller, self.server, command, limit, tap)).await)
            }
            Action::HealthCheck => {
                let fleet = &self.operations.inner.fleet;
                Ok(Box::pin(fleet.health_report(&self.caller, self.server, tap)).await)
            }
            Action::CollectDiagnostics(_) => {
                // An archive is nothing to follow live.
                drop(tap);
                let (archives, now) = (&self.operations.inner.archives, self.operations.inner.clock.now());
                let request = request(&self.plan, sudo_password).timeout(self.plan.timeout);
                archives.collect(hand, request, (self.operation.id, self.server), now).await
            }
            Action::KillProcess { .. }
            | Action::Service { .. }
            | Action::WatchedService { .. }
            | Action::Container(_)
            | Action::RunCommand { .. }
            | Action::RunScript(_)
            | Action::UpdatePackages(_) => {
                let request = request(&self.plan, sudo_password).timeout(self.plan.timeout).tap(tap);
                hand.exec(request).await
            }
        }
    }

    fn file_request(
        &self,
        change: &FileChange,
        sudo_password: Option<Secret<String>>,
    ) -> Result<ExecRequest, SshError> {
        let refused = |cause: String| SshError::InvalidCommand { cause };
        let values = self
            .operations
            .template_values(&self.caller, self.server)
            .map_err(|error| refused(error.to_string()))?;
        let (text, content) = change.sent(&self.plan, &values).map_err(|error| refused(error.to_string()))?;
        let request = ExecRequest::new(text).stdin(content);
        if self.plan.sudo {
            return Ok(request.sudo(sudo_password.map_or(Sudo::NonInteractive, Sudo::Password)));
        }
        Ok(request)
    }

    /// What sudo is told, where the command needs sudo and something is kept.
    pub(super) async fn sudo_password(&self) -> Result<Option<Secret<String>>, String> {
        if !self.plan.sudo {
            return Ok(None);
        }
        let kept = self.operations.inner.fleet.sudo_password(self.server).await;
        kept.map_err(|error| {
            format!("nothing was sent, because the kept password for sudo cannot be read: {error}")
        })
    }

    /// Takes the output to the ledger while the command runs.
    async fn listen(&self, mut pieces: mpsc::Receiver<Piece>) {
        let mut told: Option<Instant> = None;
        while let Some(piece) = pieces.recv().await {
            self.running.ledger.said(self.position, piece);
            if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
                self.tell();
                told = Some(Instant::now());
            }
        }
    }

    pub(super) fn tell(&self) {
        news::tell(&self.operations, &self.operation, self.server);
    }

    /// Writes that the command is about to be sent.
    async fn write_sent(&self) -> Result<CommandRecord, StoreError> {
        let now = self.operations.inner.clock.now();
        let id = RecordId::new(self.operations.inner.clock.new_uuid());
        let record = CommandRecord {
            organization: self.operation.organization,
            operation_id: Some(self.operation.id),
            initiated_by: self.operation.initiated_by.clone(),
            label: self.operation.title.clone(),
            command: mask(&self.plan.command),
            container_command: self.plan.container_command.as_deref().map(mask),
            ..CommandRecord::begun(id, self.server, self.name.clone(), now)
        };
        let (stored, operation, position) = (record.clone(), self.operation.id, self.position);
        let detached = self.plan.how.detached;
        self.operations
            .inner
            .store
            .write(move |tx| {
                rows::insert_record(tx, &stored)?;
                rows::set_target_sent(tx, operation, position, &stored, detached)?;
                rows::set_status(tx, operation, OperationStatus::Running, now)
            })
            .await?;
        self.running.ledger.sent(self.position, &record);
        Ok(record)
    }

    /// Writes how it ended: target, record and audit entry in one transaction.
    async fn finish(&self, record: Option<CommandRecord>, ending: Ending) {
        let record = record.map(|record| ending.complete(record));
        let entry = self.audit_entry(&ending);
        let (operation, position, now) =
            (self.operation.id, self.position, self.operations.inner.clock.now());
        let (status, error) = (ending.status, ending.error.clone());
        let outcome = Arc::new((record, error, entry));
        persist(&self.operations, "the end of a command", || {
            let outcome = Arc::clone(&outcome);
            move |tx| {
                let (record, error, entry) = &*outcome;
                if let Some(record) = record {
                    rows::complete_record(tx, record)?;
                }
                rows::set_target_ended(tx, operation, position, status, error.as_deref(), now)?;
                audit::append(tx, now, entry)
            }
        })
        .await;
        self.running.ledger.finished(self.position, ending.status, ending.error.as_deref());
        rolling::watch_failures(&self.operations, &self.operation, &self.running).await;
        self.operations.inner.turned.notify_waiters();
        self.tell();
    }

    fn audit_entry(&self, ending: &Ending) -> Entry {
        let mut entry = Entry::by(&self.caller, &self.operation.kind, &self.name);
        ending.status.name().clone_into(&mut entry.result);
        let how = match (&ending.output.exit_status, &ending.output.signal, &ending.error) {
            (Some(status), ..) => format!("exit status {status}"),
            (None, Some(signal), _) => format!("ended by signal {signal}"),
            (None, None, Some(error)) => error.clone(),
            (None, None, None) => "no exit status".to_owned(),
        };
        entry.detail(format!("{}; {how}; operation {}", mask(&self.plan.command), self.operation.id))
    }
}

/// The command as it is sent, with the usual time limit. Where its text says everything, that text is what goes.
#[must_use]
pub fn request(plan: &Plan, sudo_password: Option<Secret<String>>) -> ExecRequest {
    if plan.how.is_plain() && sudo_password.is_none() {
        return ExecRequest::new(plan.command.clone());
    }
    let mut request = ExecRequest::new(plan.inner.clone());
    if plan.sudo {
        request = request.sudo(sudo_password.map_or(Sudo::NonInteractive, Sudo::Password));
    }
    if let Some(user) = &plan.how.run_as {
        request = request.run_as(user);
    }
    for (name, value) in &plan.how.environment {
        request = match value {
            Variable::Plain(text) => request.env(name, text),
            Variable::Secret(secret) => request.secret_env(name, secret.clone()),
        };
    }
    if let Some(container) = &plan.how.container {
        let engine = match container.engine {
            ContainerEngine::Docker => Engine::Docker,
            ContainerEngine::Podman => Engine::Podman,
        };
        request = request.container(ContainerExec { engine, container: container.name.clone() });
    }
    if let Some(input) = &plan.how.stdin {
        request = request.stdin(input.expose().clone().into_bytes());
    }
    request
}

/// Writes what became of something, again and again while the disk is full: what happened on a server must not be lost.
pub(super) async fn persist<W>(operations: &Operations, what: &str, work: impl Fn() -> W)
where
    W: FnOnce(&Transaction<'_>) -> Result<(), StoreError> + Send + 'static,
{
    let mut wait = Duration::from_secs(1);
    loop {
        match operations.inner.store.write(work()).await {
            Ok(()) => return,
            Err(error) => tracing::error!(%error, what, "cannot be written yet"),
        }
        if operations.inner.stop.is_cancelled() {
            return;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WRITE_PAUSE);
    }
}

impl Ending {
    pub(super) fn without(status: TargetStatus, reason: &str) -> Self {
        Self { status, error: Some(reason.to_owned()), output: Output::default() }
    }

    pub(super) fn of(outcome: Result<Output, SshError>, plan: &Plan) -> Self {
        match outcome {
            Ok(output) if output.success() => Self { status: TargetStatus::Succeeded, error: None, output },
            Ok(output) => {
                let error = match (output.exit_status, &output.signal) {
                    (Some(status), _) => format!("exit status {status}"),
                    (None, Some(signal)) => format!("ended by signal {signal}"),
                    (None, None) => "the server did not say how it ended".to_owned(),
                };
                Self { status: TargetStatus::Failed, error: Some(error), output }
            }
            Err(SshError::CommandTimedOut { partial, .. }) => {
                let error = format!("it did not end within {} s and was ended", plan.timeout.as_secs());
                Self { status: TargetStatus::Failed, error: Some(error), output: *partial }
            }
            Err(error @ SshError::Closed { .. }) => {
                let reason =
                    format!("the connection was lost while it ran; it may have run to its end ({error})");
                Self::without(TargetStatus::Unknown, &reason)
            }
            Err(error @ (SshError::ChannelRefused { .. } | SshError::TimedOut { .. })) => {
                Self::without(TargetStatus::Unreachable, &format!("{error} {}", error.advice()))
            }
            Err(error) => Self::without(TargetStatus::Failed, &format!("{error} {}", error.advice())),
        }
    }

    /// Where several steps were done, its own sentence says more than an exit status.
    fn of_steps(mut self, action: &Action) -> Self {
        if action.is_in_steps() && !self.output.stderr.is_empty() {
            self.error = Some(printable::line(&self.output.stderr, REASON_CHARS));
        }
        self
    }

    pub(super) fn complete(&self, mut record: CommandRecord) -> CommandRecord {
        record.duration_ms = u64::try_from(self.output.wall.as_millis()).ok();
        record.exit_status = self.output.exit_status;
        record.signal.clone_from(&self.output.signal);
        // An exit status says it all; anything else needs its sentence.
        record.error = self.error.clone().filter(|_| self.output.exit_status.is_none());
        let (stdout, cut) = kept(&self.output.stdout);
        record.stdout = stdout;
        record.stdout_dropped_bytes = self.output.stdout_dropped_bytes + cut;
        let (stderr, cut) = kept(&self.output.stderr);
        record.stderr = stderr;
        record.stderr_dropped_bytes = self.output.stderr_dropped_bytes + cut;
        record
    }
}

/// An output as text of at most the size that was kept of it, and the bytes that had to go: what is not UTF-8 takes
/// three bytes for one as a replacement character.
fn kept(output: &[u8]) -> (String, u64) {
    let mut text = printable::text(output, usize::MAX);
    let limit = ExecRequest::DEFAULT_OUTPUT_LIMIT;
    if text.len() <= limit {
        return (text, 0);
    }
    let end = (0..=limit).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let cut = u64::try_from(text.len() - end).unwrap_or(u64::MAX);
    text.truncate(end);
    (text, cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_that_is_not_text_does_not_grow_over_the_limit() {
        let (text, cut) = kept(&vec![0xff; 1024 * 1024]);
        assert!(text.len() <= 1024 * 1024 && cut > 0);
        assert_eq!(kept(b"plain"), ("plain".to_owned(), 0));
    }
}
