//! Tasks and their runs.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{StoreError, corrupt, parse};
use crate::model::{OperationId, OrganizationId, RunStatus, Task, TaskId, TaskRun, TaskRunId, Timestamp};

/// Runs of one task that are kept: what runs every minute shows its last day.
const KEPT_RUNS: u32 = 1_500;

const TASK: &str = "id, organization_id, name, description, cron, time_zone, kind, parameters, selector, strategy, \
     jitter_s, overlap, missed, missed_limit, missed_grace_s, retries, retry_wait_s, enabled, owner, owner_name, \
     considered_at, created_at, updated_at";
const RUN: &str = "id, task_id, organization_id, due_at, attempt, cause, status, start_at, operation_id, reason, \
     started_by, started_at, ended_at";
const UNFINISHED: &str = "status IN ('waiting', 'starting', 'running')";

fn seconds(span: Duration) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}

fn task_from_row(row: &Row<'_>) -> Result<Task, rusqlite::Error> {
    let text = |index: usize| row.get::<_, String>(index);
    let time = |index: usize| row.get(index).map(Timestamp::from_millis);
    let span = |index: usize| {
        let seconds: i64 = row.get(index)?;
        Ok::<_, rusqlite::Error>(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
    };
    let selector =
        serde_json::from_str(&text(8)?).map_err(|error| corrupt(format!("selector of a task: {error}")))?;
    Ok(Task {
        id: parse(&text(0)?, "id of a task")?,
        organization: parse(&text(1)?, "organization of a task")?,
        name: text(2)?,
        description: text(3)?,
        cron: text(4)?,
        time_zone: text(5)?,
        kind: text(6)?,
        parameters: parse(&text(7)?, "parameters of a task")?,
        selector,
        strategy: parse(&text(9)?, "strategy of a task")?,
        jitter: span(10)?,
        overlap: parse(&text(11)?, "overlap of a task")?,
        missed: parse(&text(12)?, "missed runs of a task")?,
        missed_limit: row.get(13)?,
        missed_grace: span(14)?,
        retries: row.get(15)?,
        retry_wait: span(16)?,
        enabled: row.get(17)?,
        owner: parse(&text(18)?, "owner of a task")?,
        owner_name: text(19)?,
        considered_at: time(20)?,
        created_at: time(21)?,
        updated_at: time(22)?,
    })
}

fn run_from_row(row: &Row<'_>) -> Result<TaskRun, rusqlite::Error> {
    let text = |index: usize| row.get::<_, String>(index);
    let time =
        |index: usize| row.get::<_, Option<i64>>(index).map(|millis| millis.map(Timestamp::from_millis));
    Ok(TaskRun {
        id: parse(&text(0)?, "id of a run")?,
        task: parse(&text(1)?, "task of a run")?,
        organization: parse(&text(2)?, "organization of a run")?,
        due_at: Timestamp::from_millis(row.get(3)?),
        attempt: row.get(4)?,
        cause: parse(&text(5)?, "cause of a run")?,
        status: parse(&text(6)?, "status of a run")?,
        start_at: Timestamp::from_millis(row.get(7)?),
        operation: row.get::<_, Option<String>>(8)?.map(|id| parse(&id, "operation of a run")).transpose()?,
        reason: row.get(9)?,
        started_by: text(10)?,
        started_at: time(11)?,
        ended_at: time(12)?,
    })
}

/// Stores a new task, or a changed one in its place.
///
/// # Errors
/// [`StoreError::Conflict`]: another task has that name.
pub fn save(tx: &Transaction<'_>, task: &Task) -> Result<(), StoreError> {
    let selector = serde_json::to_string(&task.selector)
        .map_err(|error| StoreError::Corrupt(format!("selector of {}: {error}", task.name)))?;
    tx.prepare_cached(&format!(
        "INSERT INTO tasks ({TASK}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,
             ?18, ?19, ?20, ?21, ?22, ?23)
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, description = excluded.description, cron = excluded.cron,
             time_zone = excluded.time_zone, kind = excluded.kind, parameters = excluded.parameters,
             selector = excluded.selector, strategy = excluded.strategy, jitter_s = excluded.jitter_s,
             overlap = excluded.overlap, missed = excluded.missed, missed_limit = excluded.missed_limit,
             missed_grace_s = excluded.missed_grace_s, retries = excluded.retries,
             retry_wait_s = excluded.retry_wait_s, enabled = excluded.enabled, owner = excluded.owner,
             owner_name = excluded.owner_name, considered_at = excluded.considered_at,
             updated_at = excluded.updated_at"
    ))?
    .execute(params![
        task.id.to_string(),
        task.organization.to_string(),
        task.name,
        task.description,
        task.cron,
        task.time_zone,
        task.kind,
        task.parameters.to_string(),
        selector,
        task.strategy.to_string(),
        seconds(task.jitter),
        task.overlap.name(),
        task.missed.name(),
        task.missed_limit,
        seconds(task.missed_grace),
        task.retries,
        seconds(task.retry_wait),
        task.enabled,
        task.owner.to_string(),
        task.owner_name,
        task.considered_at.as_millis(),
        task.created_at.as_millis(),
        task.updated_at.as_millis(),
    ])?;
    Ok(())
}

/// Removes a task with its history.
///
/// # Errors
/// [`StoreError::NotFound`] when the organization has no such task.
pub fn remove(tx: &Transaction<'_>, organization: OrganizationId, id: TaskId) -> Result<(), StoreError> {
    let removed = tx.execute(
        "DELETE FROM tasks WHERE organization_id = ?1 AND id = ?2",
        [organization.to_string(), id.to_string()],
    )?;
    if removed == 0 { Err(StoreError::NotFound) } else { Ok(()) }
}

/// The tasks of an organization, by name.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn of_organization(c: &Connection, organization: OrganizationId) -> Result<Vec<Task>, StoreError> {
    let mut statement =
        c.prepare_cached(&format!("SELECT {TASK} FROM tasks WHERE organization_id = ?1 ORDER BY name"))?;
    let rows = statement.query_map([organization.to_string()], task_from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Every task of every organization.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn all(c: &Connection) -> Result<Vec<Task>, StoreError> {
    let mut statement = c.prepare_cached(&format!("SELECT {TASK} FROM tasks ORDER BY id"))?;
    let rows = statement.query_map([], task_from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// # Errors
/// [`StoreError`] of the database.
pub fn by_id(c: &Connection, id: TaskId) -> Result<Option<Task>, StoreError> {
    Ok(c.prepare_cached(&format!("SELECT {TASK} FROM tasks WHERE id = ?1"))?
        .query_row([id.to_string()], task_from_row)
        .optional()?)
}

/// Notes that the times up to `at` stand among the runs. False: the task was changed since it was read as `seen`.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn consider(tx: &Transaction<'_>, seen: &Task, at: Timestamp) -> Result<bool, StoreError> {
    let changed = tx
        .prepare_cached(
            "UPDATE tasks SET considered_at = ?2 WHERE id = ?1 AND considered_at = ?3 AND updated_at = ?4 AND enabled",
        )?
        .execute(params![
            seen.id.to_string(),
            at.as_millis(),
            seen.considered_at.as_millis(),
            seen.updated_at.as_millis(),
        ])?;
    Ok(changed == 1)
}

/// Writes a run, unless this time of the schedule was taken down before. False: it was.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn insert_run(tx: &Transaction<'_>, run: &TaskRun) -> Result<bool, StoreError> {
    let inserted = tx
        .prepare_cached(&format!(
            "INSERT INTO task_runs ({RUN}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
             ON CONFLICT DO NOTHING"
        ))?
        .execute(params![
            run.id.to_string(),
            run.task.to_string(),
            run.organization.to_string(),
            run.due_at.as_millis(),
            run.attempt,
            run.cause.name(),
            run.status.name(),
            run.start_at.as_millis(),
            run.operation.map(|id| id.to_string()),
            run.reason,
            run.started_by,
            run.started_at.map(Timestamp::as_millis),
            run.ended_at.map(Timestamp::as_millis),
        ])?;
    tx.prepare_cached(&format!(
        "DELETE FROM task_runs WHERE task_id = ?1 AND NOT {UNFINISHED} AND id IN (
             SELECT id FROM task_runs WHERE task_id = ?1 ORDER BY due_at DESC, attempt DESC LIMIT 100 OFFSET ?2)"
    ))?
    .execute(params![run.task.to_string(), KEPT_RUNS])?;
    Ok(inserted == 1)
}

/// Writes what became of a run that is `from` now. False: it is something else by now.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn advance_run(tx: &Transaction<'_>, run: &TaskRun, from: RunStatus) -> Result<bool, StoreError> {
    let changed = tx
        .prepare_cached(
            "UPDATE task_runs SET status = ?3, operation_id = ?4, reason = ?5, started_at = ?6, ended_at = ?7
             WHERE id = ?1 AND status = ?2",
        )?
        .execute(params![
            run.id.to_string(),
            from.name(),
            run.status.name(),
            run.operation.map(|id| id.to_string()),
            run.reason,
            run.started_at.map(Timestamp::as_millis),
            run.ended_at.map(Timestamp::as_millis),
        ])?;
    Ok(changed == 1)
}

/// Every run that has not ended, in the order in which they are to begin.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn unfinished(c: &Connection) -> Result<Vec<TaskRun>, StoreError> {
    let mut statement = c.prepare_cached(&format!(
        "SELECT {RUN} FROM task_runs WHERE {UNFINISHED} ORDER BY start_at, due_at, attempt"
    ))?;
    let rows = statement.query_map([], run_from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The runs of one task that have not ended.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn unfinished_of(c: &Connection, task: TaskId) -> Result<Vec<TaskRun>, StoreError> {
    let mut statement = c.prepare_cached(&format!(
        "SELECT {RUN} FROM task_runs WHERE task_id = ?1 AND {UNFINISHED} ORDER BY start_at, due_at, attempt"
    ))?;
    let rows = statement.query_map([task.to_string()], run_from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Ends the runs of a task that only wait. How many there were.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn drop_waiting(
    tx: &Transaction<'_>,
    task: TaskId,
    reason: &str,
    at: Timestamp,
) -> Result<usize, StoreError> {
    Ok(tx.execute(
        "UPDATE task_runs SET status = 'cancelled', reason = ?2, ended_at = ?3 WHERE task_id = ?1 AND status = 'waiting'",
        params![task.to_string(), reason, at.as_millis()],
    )?)
}

/// The runs of a task, newest first.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn runs(c: &Connection, task: TaskId, limit: u32, offset: u32) -> Result<Vec<TaskRun>, StoreError> {
    let mut statement = c.prepare_cached(&format!(
        "SELECT {RUN} FROM task_runs WHERE task_id = ?1 ORDER BY due_at DESC, attempt DESC LIMIT ?2 OFFSET ?3"
    ))?;
    let rows = statement.query_map(params![task.to_string(), limit, offset], run_from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// One run of a task by its time and attempt.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn attempt(
    c: &Connection,
    task: TaskId,
    due: Timestamp,
    attempt: u32,
) -> Result<Option<TaskRun>, StoreError> {
    Ok(c.prepare_cached(&format!(
        "SELECT {RUN} FROM task_runs WHERE task_id = ?1 AND due_at = ?2 AND attempt = ?3 AND cause <> 'manual'"
    ))?
    .query_row(params![task.to_string(), due.as_millis(), attempt], run_from_row)
    .optional()?)
}

/// # Errors
/// [`StoreError`] of the database.
pub fn run_by_id(c: &Connection, id: TaskRunId) -> Result<Option<TaskRun>, StoreError> {
    Ok(c.prepare_cached(&format!("SELECT {RUN} FROM task_runs WHERE id = ?1"))?
        .query_row([id.to_string()], run_from_row)
        .optional()?)
}

/// The name of the task whose run an operation is. None: it is none's, or the task is gone.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn task_of_operation(c: &Connection, operation: OperationId) -> Result<Option<String>, StoreError> {
    Ok(c.prepare_cached(
        "SELECT tasks.name FROM task_runs JOIN tasks ON tasks.id = task_runs.task_id WHERE task_runs.operation_id = ?1",
    )?
    .query_row([operation.to_string()], |row| row.get(0))
    .optional()?)
}
