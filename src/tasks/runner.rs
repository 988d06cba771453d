//! Sees to the times of the tasks: takes down what is due, starts what was taken down, sleeps until the next.
//!
//! The store is the only memory: a look reads the tasks and the runs that have not ended, and writes what follows from them
//! before it acts. So a stop between any two steps loses nothing and repeats nothing.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::plan::{self, Turn};
use super::schedule::Schedule;
use super::{TaskError, Tasks, change_of};
use crate::model::{RunStatus, Task, TaskChange, TaskId, TaskRun, TaskRunId, Timestamp};
use crate::store::{StoreError, tasks as rows};

/// The clock may be set while we sleep, and nobody tells: it is looked at so often. Costs one read of the store.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// After a look that failed (the disk is full): soon again, not at once.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Runs until the end of the program.
pub(super) async fn run(tasks: Tasks) {
    let mut broken = HashSet::new();
    loop {
        let pause = match tasks.look_around(&mut broken).await {
            // With nothing to do, only a change can bring something.
            Ok(None) => None,
            Ok(Some(next)) => Some(next.since(tasks.inner.clock.now()).min(LOOK_EVERY)),
            Err(error) => {
                tracing::error!(%error, "the times of the tasks cannot be seen to; trying again");
                Some(AFTER_FAILURE)
            }
        };
        let sleep = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tasks.inner.stop.cancelled() => return,
            () = tasks.inner.changed.notified() => {}
            () = sleep => {}
        }
    }
}

impl Tasks {
    /// Takes down and starts what is due. When to look again at the latest; None: there is nothing to wait for.
    async fn look_around(&self, broken: &mut HashSet<TaskId>) -> Result<Option<Timestamp>, TaskError> {
        let tasks = self.inner.store.read(rows::all).await?;
        let mut next = None;
        let mut earliest = |at: Option<Timestamp>| next = next.into_iter().chain(at).min();
        for task in tasks.iter().filter(|task| task.enabled) {
            match Schedule::parse(&task.cron, &task.time_zone) {
                Ok(schedule) => {
                    self.take_down(task, &schedule).await?;
                    earliest(schedule.next_after(self.inner.clock.now()));
                    broken.remove(&task.id);
                }
                Err(error) => {
                    // It was understood when it was saved: the machine's time zones changed. Said once.
                    if broken.insert(task.id) {
                        tracing::error!(task = %task.name, %error, "a task does not run, because its schedule means nothing any more");
                        self.tell(task, TaskChange::Failed, None, Some(&error.to_string()));
                    }
                }
            }
            // Many tasks after a long downtime must not hold up the rest of the program.
            tokio::task::yield_now().await;
        }
        let by_id: HashMap<TaskId, Task> = tasks.into_iter().map(|task| (task.id, task)).collect();
        let runs = self.inner.store.read(rows::unfinished).await?;
        let now = self.inner.clock.now();
        let mut begun: HashSet<TaskRunId> = HashSet::new();
        for run in runs.iter().filter(|run| run.status == RunStatus::Waiting) {
            let Some(task) = by_id.get(&run.task) else { continue };
            if run.start_at > now {
                earliest(Some(run.start_at));
            } else if self.take_turn(task, run, &runs, &begun, now).await? {
                begun.insert(run.id);
            }
        }
        Ok(next)
    }

    /// Writes down the runs whose time has come since the last look.
    async fn take_down(&self, task: &Task, schedule: &Schedule) -> Result<(), TaskError> {
        let now = self.inner.clock.now();
        let is_set_back = task.considered_at > now;
        let claims = if is_set_back { Vec::new() } else { plan::claims(task, schedule, now) };
        if claims.is_empty() && !is_set_back {
            return Ok(());
        }
        if is_set_back && task.considered_at.since(now) > plan::LATE {
            tracing::warn!(task = %task.name, "the clock was set back; times that come again are not run again");
        }
        let started_by = format!("{} by the task {}", task.owner_name, task.name);
        let new_runs: Vec<TaskRun> = claims
            .into_iter()
            .map(|claim| TaskRun {
                id: TaskRunId::new(self.inner.clock.new_uuid()),
                task: task.id,
                organization: task.organization,
                due_at: claim.due_at,
                attempt: 1,
                cause: claim.cause,
                status: claim.status,
                start_at: claim.start_at,
                operation: None,
                reason: claim.reason,
                started_by: started_by.clone(),
                started_at: None,
                ended_at: claim.status.is_final().then_some(now),
            })
            .collect();
        let (seen, written) = (task.clone(), new_runs.clone());
        let is_written = self
            .inner
            .store
            .write(move |tx| {
                // Changed meanwhile: the change has rung, and the next look sees it.
                if !rows::consider(tx, &seen, now)? {
                    return Ok::<_, StoreError>(false);
                }
                for run in &written {
                    rows::insert_run(tx, run)?;
                }
                Ok(true)
            })
            .await?;
        for run in new_runs.iter().filter(|run| is_written && run.status.is_final()) {
            self.tell(task, change_of(run.status, false), None, run.reason.as_deref());
        }
        Ok(())
    }

    /// Starts a run, leaves it out, or lets it wait. True: it was started.
    async fn take_turn(
        &self,
        task: &Task,
        run: &TaskRun,
        runs: &[TaskRun],
        begun: &HashSet<TaskRunId>,
        now: Timestamp,
    ) -> Result<bool, TaskError> {
        let is_before = |other: &&TaskRun| {
            let has_begun = other.status != RunStatus::Waiting || begun.contains(&other.id);
            other.task == run.task
                && other.id != run.id
                && (has_begun || (other.due_at, other.attempt) < (run.due_at, run.attempt))
        };
        let before: Vec<&TaskRun> = runs.iter().filter(is_before).collect();
        match plan::turn(task, run, &before, now) {
            Turn::Start => {
                self.launch(task.clone(), run.clone()).await?;
                Ok(true)
            }
            Turn::Wait => {
                if run.reason.is_none() {
                    let waiting = TaskRun {
                        reason: Some("waits for the end of the run before it".to_owned()),
                        ..run.clone()
                    };
                    self.inner
                        .store
                        .write(move |tx| rows::advance_run(tx, &waiting, RunStatus::Waiting))
                        .await?;
                }
                Ok(false)
            }
            Turn::LeaveOut(status, reason) => {
                self.settle(task, run.clone(), status, Some(reason), false).await?;
                Ok(false)
            }
        }
    }
}
