//! One run of a task: handed to the executor as an operation, followed to its end, tried again where that was asked for.
//!
//! What is guaranteed: the operation's id is written down before the operation is begun, and the operation's rows before
//! anything is sent. So after a stop at any moment it is known whether a run was begun: it is begun once, or not yet.

use std::time::Duration;

use super::{TaskError, Tasks, change_of};
use crate::auth;
use crate::model::{
    Actor, Caller, Cause, OperationId, OperationStatus, Overlap, Role, RunStatus, Selector, TargetStatus,
    Task, TaskChange, TaskRun, TaskRunId,
};
use crate::operations::{OperationError, OperationView, Order, Strategy, WhenBusy, stored_action};
use crate::store::audit::{self, Entry};
use crate::store::{StoreError, tasks as rows};

/// An operation that is under way in no process and has no end is looked at again so often.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// What cannot be written is tried again so often: the end of a run must not be lost.
const WRITE_AGAIN: Duration = Duration::from_secs(5);
/// Servers that a sentence names.
const NAMED: usize = 5;

/// What the executor said to an order.
type Begun = Result<OperationView, TaskError>;

impl Tasks {
    /// Starts a run now, with the rights of the caller.
    ///
    /// # Errors
    /// [`TaskError::UnderWay`] where runs must not overlap; what the executor refuses, which the history keeps, too.
    pub async fn run_now(&self, caller: &Caller, reference: &str) -> Result<TaskRun, TaskError> {
        auth::require(caller, Role::Operator)?;
        let task = self.find(caller, reference).await?;
        let action = stored_action(&task.kind, &task.parameters)?;
        auth::require(caller, action.role())?;
        let now = self.inner.clock.now();
        let operation = OperationId::new(self.inner.clock.new_uuid());
        let run = TaskRun {
            id: TaskRunId::new(self.inner.clock.new_uuid()),
            task: task.id,
            organization: task.organization,
            due_at: now,
            attempt: 1,
            cause: Cause::Manual,
            status: RunStatus::Starting,
            start_at: now,
            operation: Some(operation),
            reason: None,
            started_by: caller.actor.to_string(),
            started_at: Some(now),
            ended_at: None,
        };
        let (claimed, may_overlap) = (run.clone(), task.overlap == Overlap::Allow);
        let entry = Entry::by(caller, "task.run", &task.name).detail(format!("operation {operation}"));
        self.inner
            .store
            .write(move |tx| {
                let busy = rows::unfinished_of(tx, claimed.task)?;
                let begun = busy.iter().find(|other| other.status != RunStatus::Waiting);
                if let Some(other) = begun.filter(|_| !may_overlap) {
                    return Err(TaskError::UnderWay { operation: other.operation });
                }
                rows::insert_run(tx, &claimed)?;
                Ok(audit::append(tx, now, &entry)?)
            })
            .await?;
        let begun = self.begin(&task, &run, operation, caller).await;
        self.begun(task, run.clone(), begun).await?;
        let id = run.id;
        Ok(self.inner.store.read(move |c| rows::run_by_id(c, id)).await?.unwrap_or(run))
    }

    /// Starts a run whose time has come, with the rights of the owner. It was claimed by nobody else.
    pub(super) async fn launch(&self, task: Task, mut run: TaskRun) -> Result<(), TaskError> {
        let operation = OperationId::new(self.inner.clock.new_uuid());
        run.status = RunStatus::Starting;
        run.operation = Some(operation);
        run.started_at = Some(self.inner.clock.now());
        run.reason = None;
        let claimed = run.clone();
        if !self.inner.store.write(move |tx| rows::advance_run(tx, &claimed, RunStatus::Waiting)).await? {
            // Given up meanwhile: the task was disabled, changed or removed.
            return Ok(());
        }
        let caller = match self.caller_for(&task).await? {
            Ok(caller) => caller,
            Err(why) => {
                run.operation = None;
                // Nothing that time would mend.
                return self.settle(&task, run, RunStatus::Failed, Some(why), false).await;
            }
        };
        let begun = self.begin(&task, &run, operation, &caller).await;
        match self.begun(task, run, begun).await {
            Err(TaskError::Store(error)) => Err(error.into()),
            // What was refused stands in the history and was told.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    async fn begin(&self, task: &Task, run: &TaskRun, operation: OperationId, caller: &Caller) -> Begun {
        let order = self.order(task, run, caller).await?;
        Ok(self.inner.operations.begin_as(operation, caller, order).await?)
    }

    /// What the run is to do: everything, or for a retry what did not succeed.
    async fn order(&self, task: &Task, run: &TaskRun, caller: &Caller) -> Result<Order, TaskError> {
        let action = stored_action(&task.kind, &task.parameters)?;
        let mut strategy: Strategy = serde_json::from_value(task.strategy.clone())
            .map_err(|error| TaskError::invalid("strategy", error.to_string()))?;
        if task.overlap == Overlap::Allow && matches!(strategy.when_busy, None | Some(WhenBusy::Share)) {
            // The same is never done twice at once on one server: there it waits.
            strategy.when_busy = Some(WhenBusy::Queue);
        }
        let mut selector = task.selector.clone();
        let named = selector.servers.len();
        selector.servers.retain(|id| self.inner.fleet.get(caller, id).is_ok());
        if selector.servers.is_empty() && named > 0 && !selector.chooses() {
            let message = "every server that it was for is removed; edit the task";
            return Err(TaskError::invalid("server_ids", message));
        }
        let mut retry_of = None;
        if let Some(before) = self.attempt_before(run).await? {
            let again = failed_servers(&self.inner.operations.get(caller, &before.to_string()).await?);
            if !again.is_empty() {
                (selector, retry_of) = (Selector::of_servers(again), Some(before));
            }
        }
        Ok(Order { action, selector, strategy, retry_of })
    }

    /// The operation that this run tries again. None: there was none.
    async fn attempt_before(&self, run: &TaskRun) -> Result<Option<OperationId>, StoreError> {
        let Some(number) = run.attempt.checked_sub(1).filter(|number| *number > 0) else { return Ok(None) };
        let (task, due) = (run.task, run.due_at);
        let before = self.inner.store.read(move |c| rows::attempt(c, task, due, number)).await?;
        Ok(before.and_then(|before| before.operation))
    }

    /// Notes what the executor said; what was begun is followed. Err: what it refused, which is noted as well.
    async fn begun(&self, task: Task, mut run: TaskRun, begun: Begun) -> Result<(), TaskError> {
        if let Err(error) = begun {
            run.operation = None;
            self.settle(&task, run, RunStatus::Failed, Some(error.to_string()), true).await?;
            return Err(error);
        }
        run.status = RunStatus::Running;
        let running = run.clone();
        self.inner.store.write(move |tx| rows::advance_run(tx, &running, RunStatus::Starting)).await?;
        self.tell(&task, TaskChange::Started, run.operation, None);
        self.inner.work.spawn(self.clone().follow(task, run));
        Ok(())
    }

    /// Waits for the end of an operation and notes what became of the run.
    async fn follow(self, task: Task, run: TaskRun) {
        let Some(operation) = run.operation else { return };
        let watch = async {
            loop {
                self.inner.operations.ended(operation).await;
                let pause = match self.ending(&task, operation).await {
                    Ok(Some(ending)) => match self.settle_ended(&task, &run, ending).await {
                        Ok(()) => return,
                        Err(error) => {
                            tracing::warn!(task = %task.id, %operation, %error, "the end of a run is not written yet");
                            WRITE_AGAIN
                        }
                    },
                    Ok(None) => LOOK_AGAIN,
                    Err(error) => {
                        tracing::warn!(task = %task.id, %operation, %error, "the end of a run cannot be read yet");
                        WRITE_AGAIN
                    }
                };
                tokio::time::sleep(pause).await;
            }
        };
        // A stop leaves the row as it is: the next start finds the operation and goes on here.
        tokio::select! {
            () = watch => {}
            () = self.inner.stop.cancelled() => {}
        }
    }

    async fn settle_ended(&self, task: &Task, run: &TaskRun, ending: Ending) -> Result<(), TaskError> {
        let Ending { status, reason, is_mendable } = ending;
        self.settle(task, run.clone(), status, reason, is_mendable).await
    }

    /// What became of an operation. None: it has not ended.
    async fn ending(&self, task: &Task, operation: OperationId) -> Result<Option<Ending>, TaskError> {
        let caller = Caller {
            organization: task.organization,
            actor: Actor::Task { name: task.name.clone(), owner: task.owner_name.clone() },
            role: Role::Viewer,
            from: None,
        };
        match self.inner.operations.get(&caller, &operation.to_string()).await {
            Ok(view) => Ok(ending_of(&view)),
            // It expired while Roundsman was down.
            Err(OperationError::NoSuchOperation(_)) => Ok(Some(Ending {
                status: RunStatus::Failed,
                reason: Some("its operation is not kept any more".to_owned()),
                is_mendable: false,
            })),
            Err(other) => Err(other.into()),
        }
    }

    /// Writes the end of a run, and the next attempt where there is one left.
    pub(super) async fn settle(
        &self,
        task: &Task,
        mut run: TaskRun,
        status: RunStatus,
        reason: Option<String>,
        is_mendable: bool,
    ) -> Result<(), TaskError> {
        let (from, now) = (run.status, self.inner.clock.now());
        (run.status, run.reason, run.ended_at) = (status, reason, Some(now));
        let again = TaskRun {
            id: TaskRunId::new(self.inner.clock.new_uuid()),
            attempt: run.attempt + 1,
            status: RunStatus::Waiting,
            start_at: now + task.retry_wait,
            operation: None,
            reason: None,
            started_by: format!("{} by the task {}", task.owner_name, task.name),
            started_at: None,
            ended_at: None,
            ..run.clone()
        };
        let wants_more = is_mendable && status.is_failure() && run.cause != Cause::Manual;
        let (ended, task_id) = (run.clone(), task.id);
        let is_tried_again = self
            .inner
            .store
            .write(move |tx| {
                let is_ours = rows::advance_run(tx, &ended, from)?;
                // As it is now: it may have been changed or removed since the run began.
                let task =
                    rows::by_id(tx, task_id)?.filter(|task| task.enabled && ended.attempt <= task.retries);
                if is_ours && wants_more && task.is_some() {
                    return rows::insert_run(tx, &again);
                }
                Ok::<_, StoreError>(false)
            })
            .await?;
        if run.status.is_failure() {
            tracing::warn!(task = %task.name, run = %run.id, reason = run.reason.as_deref(), is_tried_again, "a run of a task did not succeed");
        }
        self.tell(task, change_of(status, is_tried_again), run.operation, run.reason.as_deref());
        self.inner.changed.notify_one();
        Ok(())
    }

    /// What became of the runs that the last stop cut off.
    pub(super) async fn recover(&self) -> Result<(), TaskError> {
        let (tasks, runs) =
            self.inner.store.read(|c| Ok::<_, StoreError>((rows::all(c)?, rows::unfinished(c)?))).await?;
        for mut run in runs {
            let Some(task) = tasks.iter().find(|task| task.id == run.task) else { continue };
            if run.status == RunStatus::Starting && !self.was_begun(task, &run).await? {
                // Its operation has no row, so nothing was sent: it has still to begin.
                (run.status, run.operation, run.started_at) = (RunStatus::Waiting, None, None);
                if run.cause == Cause::Manual {
                    (run.status, run.ended_at) = (RunStatus::Cancelled, Some(self.inner.clock.now()));
                    run.reason = Some("Roundsman was stopped before it began; nothing was sent".to_owned());
                }
                self.inner.store.write(move |tx| rows::advance_run(tx, &run, RunStatus::Starting)).await?;
                continue;
            }
            if run.status == RunStatus::Waiting {
                continue;
            }
            // Before the first look: a run whose operation has ended is in nobody's way.
            if let Some(operation) = run.operation
                && let Some(ending) = self.ending(task, operation).await?
            {
                self.settle_ended(task, &run, ending).await?;
                continue;
            }
            let from = run.status;
            run.status = RunStatus::Running;
            let running = run.clone();
            self.inner.store.write(move |tx| rows::advance_run(tx, &running, from)).await?;
            self.inner.work.spawn(self.clone().follow(task.clone(), run));
        }
        Ok(())
    }

    async fn was_begun(&self, task: &Task, run: &TaskRun) -> Result<bool, TaskError> {
        let Some(operation) = run.operation else { return Ok(false) };
        let caller = Caller { organization: task.organization, ..Caller::roundsman() };
        match self.inner.operations.get(&caller, &operation.to_string()).await {
            Ok(_) => Ok(true),
            Err(OperationError::NoSuchOperation(_)) => Ok(false),
            Err(other) => Err(other.into()),
        }
    }
}

/// How an operation ended, as a run's end.
#[derive(Debug, PartialEq, Eq)]
struct Ending {
    status: RunStatus,
    reason: Option<String>,
    /// Some servers can be tried again without doing anything twice.
    is_mendable: bool,
}

/// Where nothing was done, or it failed: what is sent there again is not done twice. An unknown end may have been a success.
fn failed_servers(view: &OperationView) -> Vec<String> {
    let may_again = |status| matches!(status, TargetStatus::Failed | TargetStatus::Unreachable);
    let failed = view.targets.iter().filter(|target| may_again(target.target.status));
    failed.map(|target| target.target.server.to_string()).collect()
}

fn ending_of(view: &OperationView) -> Option<Ending> {
    let status = match view.operation.status {
        OperationStatus::Pending | OperationStatus::Running => return None,
        OperationStatus::Completed => RunStatus::Completed,
        OperationStatus::Failed => RunStatus::Failed,
        OperationStatus::Partial => RunStatus::Partial,
        OperationStatus::Cancelled => RunStatus::Cancelled,
    };
    let failures: Vec<_> =
        view.targets.iter().filter(|target| target.target.status != TargetStatus::Succeeded).collect();
    let named: Vec<String> = failures
        .iter()
        .take(NAMED)
        .map(|view| {
            format!(
                "{}: {}",
                view.target.server_name,
                view.target.error.as_deref().unwrap_or(view.target.status.name())
            )
        })
        .collect();
    let more = failures.len().saturating_sub(NAMED);
    let reason = match (failures.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(named.join("; ")),
        (false, more) => Some(format!("{}; and {more} more", named.join("; "))),
    };
    let is_cancelled = view.targets.iter().any(|target| target.target.status == TargetStatus::Cancelled);
    Some(Ending { status, reason, is_mendable: !is_cancelled && !failed_servers(view).is_empty() })
}
