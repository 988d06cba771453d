//! Tasks: operations on a schedule. Here is what people do with them; `runner` sees to their times, `run` to one run.
//!
//! A task has no executor of its own: a run is an operation, begun with the rights of the task's owner as they are then.

mod cron;
mod edit;
mod owner;
mod plan;
mod run;
mod runner;
mod schedule;
mod words;

use std::fmt;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::actions::{Action, ActionError, mask};
use crate::auth::{self, AuthError};
use crate::clock::Clock;
use crate::fleet::{Fleet, FleetError, Polling};
use crate::model::{
    Caller, Event, OperationId, Role, RunStatus, Task, TaskChange, TaskId, TaskRun, Timestamp,
};
use crate::operations::{OperationError, Operations, stored_action};
use crate::store::audit::{self, Entry};
use crate::store::{Store, StoreError, tasks as rows};

pub use cron::{CRON_CHARS, InvalidCron};
pub use edit::{DEFAULT_ZONE, TaskEdit, machine_zone};
pub use schedule::{InvalidSchedule, Schedule};

/// Next runs that are shown.
pub const NEXT_RUNS: usize = 5;
/// Tasks of one organization; more than this nobody keeps an eye on.
const TASKS: usize = 1_000;

/// Why a task is not as it was to be.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error(transparent)]
    Operation(#[from] OperationError),
    #[error("{message}")]
    Invalid { field: &'static str, message: String },
    #[error("there is no task '{0}'")]
    NoSuchTask(String),
    #[error("another task is called '{0}'; choose another name")]
    NameTaken(String),
    #[error("a run of this task is under way; wait for its end, cancel its operation, or let runs overlap")]
    UnderWay { operation: Option<OperationId> },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl TaskError {
    fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { field, message: message.into() }
    }
}

impl From<ActionError> for TaskError {
    fn from(error: ActionError) -> Self {
        Self::Operation(error.into())
    }
}

impl From<InvalidSchedule> for TaskError {
    fn from(error: InvalidSchedule) -> Self {
        let field = match error {
            InvalidSchedule::Cron(_) => "cron",
            InvalidSchedule::Zone { .. } => "time_zone",
        };
        Self::invalid(field, error.to_string())
    }
}

/// When a schedule runs, for whoever thinks about one.
#[derive(Debug, Clone)]
pub struct Preview {
    pub words: String,
    pub time_zone: String,
    /// With the clock on the wall there; [`NEXT_RUNS`] of them.
    pub next_runs: Vec<(Timestamp, String)>,
}

/// A task as it is now.
#[derive(Debug, Clone)]
pub struct TaskView {
    pub task: Task,
    /// What it does, for a person.
    pub title: String,
    /// Names of the servers that are named, those that are gone by their id.
    pub server_names: Vec<String>,
    /// Err: why its schedule means nothing on this machine.
    pub schedule: Result<Preview, String>,
    pub last_run: Option<TaskRun>,
}

/// A handle; clones share the runner.
#[derive(Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    fleet: Fleet,
    operations: Operations,
    clock: Arc<dyn Clock>,
    /// Rings when the runner has to look again.
    changed: Notify,
    work: TaskTracker,
    stop: CancellationToken,
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tasks")
    }
}

/// The next runs of a schedule after `now`, and the schedule in words.
///
/// # Errors
/// [`InvalidSchedule`]: what is wrong with the line or the zone.
pub fn preview(cron: &str, time_zone: &str, now: Timestamp) -> Result<Preview, InvalidSchedule> {
    let schedule = Schedule::parse(cron, time_zone)?;
    let next = schedule.next_runs(now, NEXT_RUNS);
    Ok(Preview {
        words: words::in_words(&schedule.cron),
        time_zone: schedule.zone_name().to_owned(),
        next_runs: next.into_iter().map(|at| (at, schedule.wall(at))).collect(),
    })
}

impl Tasks {
    /// Finds out what became of the runs that the last stop cut off, and sees to the times of the tasks from now on; without
    /// polling, only to what somebody starts.
    ///
    /// # Errors
    /// [`TaskError::Store`].
    pub async fn start(
        store: Store,
        fleet: Fleet,
        operations: Operations,
        clock: Arc<dyn Clock>,
        polling: Polling,
    ) -> Result<Self, TaskError> {
        let inner = Inner {
            store,
            fleet,
            operations,
            clock,
            changed: Notify::new(),
            work: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        let tasks = Self { inner: Arc::new(inner) };
        tasks.recover().await?;
        if polling == Polling::On {
            tasks.inner.work.spawn(runner::run(tasks.clone()));
        }
        Ok(tasks)
    }

    /// Begins nothing more. What runs is the executor's; the next start finds out what became of it.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.work.close();
        self.inner.work.wait().await;
    }

    /// Looks at the clock now: it was set, or a test has set it.
    pub fn look(&self) {
        self.inner.changed.notify_one();
    }

    /// The tasks of the organization, by name.
    ///
    /// # Errors
    /// [`TaskError::Store`].
    pub async fn list(&self, caller: &Caller) -> Result<Vec<TaskView>, TaskError> {
        auth::require(caller, Role::Viewer)?;
        let organization = caller.organization;
        let found = self
            .inner
            .store
            .read(move |c| {
                let tasks = rows::of_organization(c, organization)?;
                tasks
                    .into_iter()
                    .map(|task| Ok((rows::runs(c, task.id, 1, 0)?.into_iter().next(), task)))
                    .collect::<Result<Vec<_>, StoreError>>()
            })
            .await?;
        Ok(found.into_iter().map(|(last_run, task)| self.view(caller, task, last_run)).collect())
    }

    /// One by id or name.
    ///
    /// # Errors
    /// [`TaskError::NoSuchTask`].
    pub async fn get(&self, caller: &Caller, reference: &str) -> Result<TaskView, TaskError> {
        auth::require(caller, Role::Viewer)?;
        let task = self.find(caller, reference).await?;
        let id = task.id;
        let last_run = self.inner.store.read(move |c| rows::runs(c, id, 1, 0)).await?.into_iter().next();
        Ok(self.view(caller, task, last_run))
    }

    /// Its runs, newest first.
    ///
    /// # Errors
    /// [`TaskError::NoSuchTask`].
    pub async fn runs(
        &self,
        caller: &Caller,
        reference: &str,
        limit: u32,
        offset: u32,
    ) -> Result<Vec<TaskRun>, TaskError> {
        auth::require(caller, Role::Viewer)?;
        let id = self.find(caller, reference).await?.id;
        Ok(self.inner.store.read(move |c| rows::runs(c, id, limit, offset)).await?)
    }

    /// The name of the task whose run an operation of the caller's organization is. None: it is none's.
    ///
    /// # Errors
    /// [`TaskError::Store`].
    pub async fn of_operation(&self, id: OperationId) -> Result<Option<String>, TaskError> {
        Ok(self.inner.store.read(move |c| rows::task_of_operation(c, id)).await?)
    }

    async fn find(&self, caller: &Caller, reference: &str) -> Result<Task, TaskError> {
        let organization = caller.organization;
        let id: Option<TaskId> = reference.parse().ok();
        let tasks = self.inner.store.read(move |c| rows::of_organization(c, organization)).await?;
        tasks
            .into_iter()
            .find(|task| Some(task.id) == id || task.name == reference)
            .ok_or_else(|| TaskError::NoSuchTask(crate::model::shown(reference, 80)))
    }

    fn view(&self, caller: &Caller, task: Task, last_run: Option<TaskRun>) -> TaskView {
        let name = |id: &String| {
            self.inner
                .fleet
                .get(caller, id)
                .map_or_else(|_| id.clone(), |state| state.server.name.to_string())
        };
        let title = stored_action(&task.kind, &task.parameters)
            .map_or_else(|_| task.kind.replace('_', " "), |action| mask(&action.title()));
        // What comes up to its jitter later is shown at its time.
        let schedule =
            preview(&task.cron, &task.time_zone, self.inner.clock.now()).map_err(|error| error.to_string());
        TaskView {
            title,
            server_names: task.selector.servers.iter().map(name).collect(),
            schedule,
            last_run,
            task,
        }
    }

    /// Makes a task, owned by the caller.
    ///
    /// # Errors
    /// [`TaskError::Invalid`], [`TaskError::NameTaken`], [`TaskError::Fleet`] for what the selector names.
    pub async fn create(&self, caller: &Caller, edit: TaskEdit) -> Result<TaskView, TaskError> {
        auth::require(caller, Role::Operator)?;
        let organization = caller.organization;
        let count = self.inner.store.read(move |c| rows::of_organization(c, organization)).await?.len();
        if count >= TASKS {
            return Err(TaskError::invalid("name", format!("there may be at most {TASKS} tasks")));
        }
        let id = TaskId::new(self.inner.clock.new_uuid());
        let task = edit.create(id, caller, &self.inner.fleet, self.inner.clock.now())?;
        self.save(caller, "task.create", TaskChange::Created, task, None).await
    }

    /// Changes what is given; the task is the caller's own from then on, because it does what they said.
    ///
    /// # Errors
    /// As [`Self::create`], and [`TaskError::NoSuchTask`].
    pub async fn edit(
        &self,
        caller: &Caller,
        reference: &str,
        edit: TaskEdit,
    ) -> Result<TaskView, TaskError> {
        let before = self.manageable(caller, reference).await?;
        let task = edit.apply(before.clone(), caller, &self.inner.fleet, self.inner.clock.now())?;
        let waits = (!task.enabled || task.cron != before.cron || task.time_zone != before.time_zone)
            .then_some("the task was changed before it began");
        self.save(caller, "task.edit", TaskChange::Changed, task, waits).await
    }

    /// Switches a task on or off. Times that pass while it is off are not missed ones; its owner stays.
    ///
    /// # Errors
    /// [`TaskError::NoSuchTask`].
    pub async fn set_enabled(
        &self,
        caller: &Caller,
        reference: &str,
        enabled: bool,
    ) -> Result<TaskView, TaskError> {
        let mut task = self.manageable(caller, reference).await?;
        let now = self.inner.clock.now();
        if enabled && !task.enabled {
            task.considered_at = now;
        }
        (task.enabled, task.updated_at) = (enabled, now);
        let (action, waits) = if enabled {
            ("task.enable", None)
        } else {
            ("task.disable", Some("the task was disabled before it began"))
        };
        self.save(caller, action, TaskChange::Changed, task, waits).await
    }

    /// Removes a task and its history; operations that it began stay.
    ///
    /// # Errors
    /// [`TaskError::NoSuchTask`].
    pub async fn remove(&self, caller: &Caller, reference: &str) -> Result<(), TaskError> {
        let task = self.manageable(caller, reference).await?;
        let (organization, id, now) = (caller.organization, task.id, self.inner.clock.now());
        let entry = Entry::by(caller, "task.remove", &task.name);
        self.inner
            .store
            .write(move |tx| {
                rows::remove(tx, organization, id)?;
                audit::append(tx, now, &entry)
            })
            .await?;
        self.tell(&task, TaskChange::Removed, None, None);
        Ok(())
    }

    /// A task that the caller may change: one whose action they might do themselves.
    async fn manageable(&self, caller: &Caller, reference: &str) -> Result<Task, TaskError> {
        auth::require(caller, Role::Operator)?;
        let task = self.find(caller, reference).await?;
        let needed = stored_action(&task.kind, &task.parameters).as_ref().map_or(Role::Admin, Action::role);
        auth::require(caller, needed)?;
        Ok(task)
    }

    /// Stores a task; runs that wait are given up for the reason `waits`.
    async fn save(
        &self,
        caller: &Caller,
        action: &str,
        change: TaskChange,
        task: Task,
        waits: Option<&'static str>,
    ) -> Result<TaskView, TaskError> {
        let now = self.inner.clock.now();
        let entry = Entry::by(caller, action, &task.name).detail(detail(&task));
        let (stored, id) = (task.clone(), task.id);
        self.inner
            .store
            .write(move |tx| {
                rows::save(tx, &stored)?;
                if let Some(reason) = waits {
                    rows::drop_waiting(tx, id, reason, now)?;
                }
                audit::append(tx, now, &entry)
            })
            .await
            .map_err(|error| match error {
                StoreError::Conflict => TaskError::NameTaken(task.name.clone()),
                other => TaskError::Store(other),
            })?;
        self.inner.changed.notify_one();
        self.tell(&task, change, None, None);
        self.get(caller, &id.to_string()).await
    }

    fn tell(&self, task: &Task, change: TaskChange, operation: Option<OperationId>, reason: Option<&str>) {
        self.inner.fleet.publish(Event::Task {
            organization: task.organization,
            task: task.id,
            name: Arc::from(task.name.as_str()),
            change,
            operation,
            reason: reason.map(Arc::from),
        });
    }
}

fn detail(task: &Task) -> String {
    let state = if task.enabled { "enabled" } else { "disabled" };
    let title = stored_action(&task.kind, &task.parameters)
        .map_or_else(|_| task.kind.clone(), |action| mask(&action.title()));
    format!("{state}, '{}' in {}, as {}: {title}", task.cron, task.time_zone, task.owner_name)
}

/// What the end of a run is for whoever listens.
const fn change_of(status: RunStatus, is_tried_again: bool) -> TaskChange {
    match status {
        RunStatus::Completed => TaskChange::Completed,
        RunStatus::Failed | RunStatus::Partial if is_tried_again => TaskChange::Retrying,
        RunStatus::Failed | RunStatus::Partial => TaskChange::Failed,
        RunStatus::Waiting | RunStatus::Starting | RunStatus::Running => TaskChange::Started,
        RunStatus::Cancelled | RunStatus::Skipped | RunStatus::Missed => TaskChange::Skipped,
    }
}
