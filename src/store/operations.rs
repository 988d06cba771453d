//! Operations, their targets, and the records of the commands that were sent.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params, params_from_iter};
use serde::Serialize;

use super::{StoreError, parse};
use crate::model::{
    OperationId, OperationStatus, OrganizationId, RecordId, ServerId, TargetStatus, Timestamp,
};

/// One action done to one or many servers.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    pub id: OperationId,
    pub organization: OrganizationId,
    /// `restart_service`, `run_command`, …
    pub kind: String,
    pub title: String,
    /// The action as JSON, secrets masked.
    pub parameters: serde_json::Value,
    pub initiated_by: String,
    pub status: OperationStatus,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
    /// Which servers were meant, in the words of the one who began it: a selector as JSON.
    pub selector: serde_json::Value,
    /// How it goes over its servers, as JSON.
    pub strategy: serde_json::Value,
    /// The operation whose targets it tries again.
    pub retry_of: Option<OperationId>,
    /// What is stored of the action is all of it.
    pub is_repeatable: bool,
    /// Since when nothing more is sent because a person said so.
    pub paused_at: Option<Timestamp>,
    /// Why nothing more was sent.
    pub halted: Option<String>,
}

/// One server of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub position: u32,
    pub server: ServerId,
    pub server_name: String,
    pub status: TargetStatus,
    /// The exact command, secrets masked. None: none could be built.
    pub command: Option<String>,
    pub error: Option<String>,
    pub record: Option<RecordId>,
    /// From 0.
    pub batch: u32,
    /// When its command was sent.
    pub started_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
}

/// One remote command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommandRecord {
    pub id: RecordId,
    #[serde(skip)]
    pub organization: OrganizationId,
    pub server_id: ServerId,
    pub server_name: String,
    pub operation_id: Option<OperationId>,
    pub initiated_by: String,
    pub label: String,
    /// Secrets masked.
    pub command: String,
    pub container_command: Option<String>,
    pub started_at: Timestamp,
    /// None: its end was not seen (yet).
    pub duration_ms: Option<u64>,
    pub exit_status: Option<u32>,
    pub signal: Option<String>,
    pub error: Option<String>,
    pub stdout: String,
    pub stderr: String,
    /// Bytes that came after the limit was reached.
    pub stdout_dropped_bytes: u64,
    pub stderr_dropped_bytes: u64,
    /// Characters of both that are stored and left out of this answer, because many records were asked for.
    pub omitted_chars: u64,
}

impl CommandRecord {
    /// Of a command that is about to be sent: nothing came of it yet, and neither the command nor who asked is named.
    #[must_use]
    pub const fn begun(
        id: RecordId,
        server_id: ServerId,
        server_name: String,
        started_at: Timestamp,
    ) -> Self {
        Self {
            id,
            organization: OrganizationId::DEFAULT,
            server_id,
            server_name,
            operation_id: None,
            initiated_by: String::new(),
            label: String::new(),
            command: String::new(),
            container_command: None,
            started_at,
            duration_ms: None,
            exit_status: None,
            signal: None,
            error: None,
            stdout: String::new(),
            stderr: String::new(),
            stdout_dropped_bytes: 0,
            stderr_dropped_bytes: 0,
            omitted_chars: 0,
        }
    }
}

pub(super) fn operation_from_row(row: &Row<'_>) -> Result<Operation, rusqlite::Error> {
    let text = |index: usize| row.get::<_, String>(index);
    let time =
        |index: usize| row.get::<_, Option<i64>>(index).map(|millis| millis.map(Timestamp::from_millis));
    Ok(Operation {
        id: parse(&text(0)?, "operation id")?,
        organization: parse(&text(1)?, "organization of an operation")?,
        kind: text(2)?,
        title: text(3)?,
        parameters: parse(&text(4)?, "parameters of an operation")?,
        initiated_by: text(5)?,
        status: parse(&text(6)?, "status of an operation")?,
        created_at: Timestamp::from_millis(row.get(7)?),
        started_at: time(8)?,
        completed_at: time(9)?,
        selector: parse(&text(10)?, "selector of an operation")?,
        strategy: parse(&text(11)?, "strategy of an operation")?,
        retry_of: row
            .get::<_, Option<String>>(12)?
            .map(|id| parse(&id, "operation that is tried again"))
            .transpose()?,
        is_repeatable: row.get(13)?,
        paused_at: time(14)?,
        halted: row.get(15)?,
    })
}

pub(super) const OPERATION_COLUMNS: &str = "id, organization_id, kind, title, parameters, initiated_by, status, created_at, started_at, completed_at, \
     selector, strategy, retry_of, is_repeatable, paused_at, halted";

/// Writes a new operation with its targets.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn insert(tx: &Transaction<'_>, operation: &Operation, targets: &[Target]) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO operations (id, organization_id, kind, title, parameters, initiated_by, status, created_at,
             selector, strategy, retry_of, is_repeatable)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        params![
            operation.id.to_string(),
            operation.organization.to_string(),
            operation.kind,
            operation.title,
            operation.parameters.to_string(),
            operation.initiated_by,
            operation.status.name(),
            operation.created_at.as_millis(),
            operation.selector.to_string(),
            operation.strategy.to_string(),
            operation.retry_of.map(|id| id.to_string()),
            operation.is_repeatable,
        ],
    )?;
    let mut statement = tx.prepare_cached(
        "INSERT INTO operation_targets (operation_id, position, server_id, server_name, status, command, error, batch,
             completed_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    for target in targets {
        statement.execute(params![
            operation.id.to_string(),
            target.position,
            target.server.to_string(),
            target.server_name,
            target.status.name(),
            target.command,
            target.error,
            target.batch,
            target.completed_at.map(Timestamp::as_millis),
        ])?;
    }
    Ok(())
}

/// Sets the status, and the times that belong to it.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn set_status(
    tx: &Transaction<'_>,
    id: OperationId,
    status: OperationStatus,
    at: Timestamp,
) -> Result<(), StoreError> {
    let ended = !matches!(status, OperationStatus::Pending | OperationStatus::Running);
    tx.prepare_cached(
        "UPDATE operations SET status = ?2, started_at = coalesce(started_at, ?3),
             completed_at = CASE WHEN ?4 THEN ?3 ELSE NULL END WHERE id = ?1",
    )?
    .execute(params![id.to_string(), status.name(), at.as_millis(), ended])?;
    Ok(())
}

/// Since when nothing more is sent; None: it goes on.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn set_paused(tx: &Transaction<'_>, id: OperationId, since: Option<Timestamp>) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE operations SET paused_at = ?2 WHERE id = ?1")?
        .execute(params![id.to_string(), since.map(Timestamp::as_millis)])?;
    Ok(())
}

/// Why nothing more is sent.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn set_halted(tx: &Transaction<'_>, id: OperationId, why: &str) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE operations SET halted = ?2 WHERE id = ?1")?
        .execute(params![id.to_string(), why])?;
    Ok(())
}

/// Writes that the command of a target is about to be sent.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn set_target_sent(
    tx: &Transaction<'_>,
    id: OperationId,
    position: u32,
    record: &CommandRecord,
    detached: bool,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE operation_targets SET status = 'sent', record_id = ?3, started_at = ?4, detached = ?5
         WHERE operation_id = ?1 AND position = ?2",
    )?
    .execute(params![
        id.to_string(),
        position,
        record.id.to_string(),
        record.started_at.as_millis(),
        detached
    ])?;
    Ok(())
}

/// Writes how a target ended.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn set_target_ended(
    tx: &Transaction<'_>,
    id: OperationId,
    position: u32,
    status: TargetStatus,
    error: Option<&str>,
    at: Timestamp,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE operation_targets SET status = ?3, error = coalesce(?4, error), completed_at = ?5
         WHERE operation_id = ?1 AND position = ?2",
    )?
    .execute(params![id.to_string(), position, status.name(), error, at.as_millis()])?;
    Ok(())
}

/// # Errors
/// [`StoreError`] of the database.
pub fn by_id(
    c: &Connection,
    organization: OrganizationId,
    id: OperationId,
) -> Result<Option<Operation>, StoreError> {
    Ok(c.prepare_cached(&format!(
        "SELECT {OPERATION_COLUMNS} FROM operations WHERE organization_id = ?1 AND id = ?2"
    ))?
    .query_row([organization.to_string(), id.to_string()], operation_from_row)
    .optional()?)
}

/// Which operations are meant; everything that is given has to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperationFilter {
    /// Any of these.
    pub statuses: Vec<OperationStatus>,
    /// As the API spells it: `restart_service`. Any of these.
    pub kinds: Vec<String>,
    /// It has this server among its targets. A server that was removed is still found.
    pub server: Option<ServerId>,
    pub initiated_by: Option<String>,
    /// Begun at or after this.
    pub from: Option<Timestamp>,
    /// Begun before this.
    pub to: Option<Timestamp>,
}

/// Operations of an organization, newest first.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn list(
    c: &Connection,
    organization: OrganizationId,
    filter: &OperationFilter,
    limit: u32,
    offset: u32,
) -> Result<Vec<Operation>, StoreError> {
    let mut conditions = String::from("organization_id = ?");
    let mut values = vec![Value::Text(organization.to_string())];
    let mut add = |condition: &str, new: &mut dyn Iterator<Item = Value>| {
        conditions.push_str(" AND ");
        conditions.push_str(condition);
        values.extend(new);
    };
    let marks = |count: usize| vec!["?"; count].join(", ");
    if !filter.statuses.is_empty() {
        let names = &mut filter.statuses.iter().map(|status| Value::Text(status.name().to_owned()));
        add(&format!("status IN ({})", marks(filter.statuses.len())), names);
    }
    if !filter.kinds.is_empty() {
        let names = &mut filter.kinds.iter().map(|kind| Value::Text(kind.clone()));
        add(&format!("kind IN ({})", marks(filter.kinds.len())), names);
    }
    if let Some(server) = filter.server {
        let ids = &mut std::iter::once(Value::Text(server.to_string()));
        add("id IN (SELECT operation_id FROM operation_targets WHERE server_id = ?)", ids);
    }
    if let Some(who) = &filter.initiated_by {
        add("initiated_by = ?", &mut std::iter::once(Value::Text(who.clone())));
    }
    for (condition, time) in [("created_at >= ?", filter.from), ("created_at < ?", filter.to)] {
        if let Some(time) = time {
            add(condition, &mut std::iter::once(Value::Integer(time.as_millis())));
        }
    }
    values.extend([Value::Integer(limit.into()), Value::Integer(offset.into())]);
    let mut statement = c.prepare_cached(&format!(
        "SELECT {OPERATION_COLUMNS} FROM operations WHERE {conditions}
         ORDER BY created_at DESC, id DESC LIMIT ? OFFSET ?"
    ))?;
    let rows = statement.query_map(params_from_iter(&values), operation_from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The targets of an operation, in their order.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn targets(c: &Connection, id: OperationId) -> Result<Vec<Target>, StoreError> {
    let mut statement = c.prepare_cached(
        "SELECT position, server_id, server_name, status, command, error, record_id, batch, started_at, completed_at
         FROM operation_targets WHERE operation_id = ?1 ORDER BY position",
    )?;
    let rows = statement.query_map([id.to_string()], |row| {
        let record: Option<String> = row.get(6)?;
        let time =
            |index: usize| row.get::<_, Option<i64>>(index).map(|millis| millis.map(Timestamp::from_millis));
        Ok(Target {
            position: row.get(0)?,
            server: parse(&row.get::<_, String>(1)?, "server of a target")?,
            server_name: row.get(2)?,
            status: parse(&row.get::<_, String>(3)?, "status of a target")?,
            command: row.get(4)?,
            error: row.get(5)?,
            record: record.map(|id| parse(&id, "record of a target")).transpose()?,
            batch: row.get(7)?,
            started_at: time(8)?,
            completed_at: time(9)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// One target of an operation of some kind, with what was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct OperationLeg {
    pub parameters: serde_json::Value,
    pub server: ServerId,
    pub status: TargetStatus,
    /// Something was begun on the server.
    pub was_sent: bool,
}

/// Every target of an organization's operations of one kind, oldest operation first.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn legs_of(
    c: &Connection,
    organization: OrganizationId,
    kind: &str,
) -> Result<Vec<OperationLeg>, StoreError> {
    let mut statement = c.prepare_cached(
        "SELECT o.parameters, t.server_id, t.status, t.record_id IS NOT NULL
         FROM operations o JOIN operation_targets t ON t.operation_id = o.id
         WHERE o.organization_id = ?1 AND o.kind = ?2 ORDER BY o.created_at, o.id, t.position",
    )?;
    let rows = statement.query_map(params![organization.to_string(), kind], |row| {
        Ok(OperationLeg {
            parameters: parse(&row.get::<_, String>(0)?, "parameters of an operation")?,
            server: parse(&row.get::<_, String>(1)?, "server of a target")?,
            status: parse(&row.get::<_, String>(2)?, "status of a target")?,
            was_sent: row.get(3)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Writes a record before its command is sent.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn insert_record(tx: &Transaction<'_>, record: &CommandRecord) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO command_records (id, organization_id, server_id, server_name, operation_id, initiated_by, label,
             command, container_command, started_at, stdout, stderr, stdout_dropped_bytes, stderr_dropped_bytes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, '', '', 0, 0)",
    )?
    .execute(params![
        record.id.to_string(),
        record.organization.to_string(),
        record.server_id.to_string(),
        record.server_name,
        record.operation_id.map(|id| id.to_string()),
        record.initiated_by,
        record.label,
        record.command,
        record.container_command,
        record.started_at.as_millis(),
    ])?;
    Ok(())
}

/// Completes a record with what became of its command.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn complete_record(tx: &Transaction<'_>, record: &CommandRecord) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE command_records SET duration_ms = ?2, exit_status = ?3, signal = ?4, error = ?5, stdout = ?6, stderr = ?7,
             stdout_dropped_bytes = ?8, stderr_dropped_bytes = ?9 WHERE id = ?1",
    )?
    .execute(params![
        record.id.to_string(),
        record.duration_ms.and_then(|millis| i64::try_from(millis).ok()),
        record.exit_status,
        record.signal,
        record.error,
        record.stdout,
        record.stderr,
        i64::try_from(record.stdout_dropped_bytes).unwrap_or(i64::MAX),
        i64::try_from(record.stderr_dropped_bytes).unwrap_or(i64::MAX),
    ])?;
    Ok(())
}

const RECORD_COLUMNS: &str = "id, organization_id, server_id, server_name, operation_id, initiated_by, label, command, \
     container_command, started_at, duration_ms, exit_status, signal, error, substr(stdout, 1, ?1), \
     substr(stderr, 1, ?1), stdout_dropped_bytes, stderr_dropped_bytes, \
     max(length(stdout) - ?1, 0) + max(length(stderr) - ?1, 0)";

fn record_from_row(row: &Row<'_>) -> Result<CommandRecord, rusqlite::Error> {
    let text = |index: usize| row.get::<_, String>(index);
    let count = |index: usize| row.get::<_, i64>(index).map(|n| u64::try_from(n).unwrap_or(0));
    let operation: Option<String> = row.get(4)?;
    Ok(CommandRecord {
        id: parse(&text(0)?, "record id")?,
        organization: parse(&text(1)?, "organization of a record")?,
        server_id: parse(&text(2)?, "server of a record")?,
        server_name: text(3)?,
        operation_id: operation.map(|id| parse(&id, "operation of a record")).transpose()?,
        initiated_by: text(5)?,
        label: text(6)?,
        command: text(7)?,
        container_command: row.get(8)?,
        started_at: Timestamp::from_millis(row.get(9)?),
        duration_ms: row.get::<_, Option<i64>>(10)?.and_then(|millis| u64::try_from(millis).ok()),
        exit_status: row.get(11)?,
        signal: row.get(12)?,
        error: row.get(13)?,
        stdout: text(14)?,
        stderr: text(15)?,
        stdout_dropped_bytes: count(16)?,
        stderr_dropped_bytes: count(17)?,
        omitted_chars: count(18)?,
    })
}

/// Characters of one answer's outputs together; each record has its share, so that no list of hostile outputs fills
/// the memory.
const ANSWER_CHARS: usize = 4 * 1024 * 1024;
/// A record's share is at least this much of each stream.
const SHARE_CHARS: usize = 2 * 1024;

fn share(records: usize) -> i64 {
    i64::try_from((ANSWER_CHARS / 2 / records.max(1)).max(SHARE_CHARS)).unwrap_or(i64::MAX)
}

/// Records of a server, newest first.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn records_of_server(
    c: &Connection,
    organization: OrganizationId,
    server: ServerId,
    limit: u32,
    offset: u32,
) -> Result<Vec<CommandRecord>, StoreError> {
    let share = share(usize::try_from(limit).unwrap_or(usize::MAX));
    let mut statement = c.prepare_cached(&format!(
        "SELECT {RECORD_COLUMNS} FROM command_records WHERE organization_id = ?2 AND server_id = ?3
         ORDER BY started_at DESC, id DESC LIMIT ?4 OFFSET ?5"
    ))?;
    let rows = statement.query_map(
        params![share, organization.to_string(), server.to_string(), limit, offset],
        record_from_row,
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The records of an operation.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn records_of_operation(c: &Connection, targets: &[Target]) -> Result<Vec<CommandRecord>, StoreError> {
    let ids: Vec<Value> =
        targets.iter().filter_map(|target| target.record).map(|id| Value::Text(id.to_string())).collect();
    let share = Value::Integer(share(ids.len()));
    let mut records = Vec::with_capacity(ids.len());
    // SQLite takes 32,766 parameters; a few hundred at a time keep the statements small.
    for part in ids.chunks(500) {
        let marks = vec!["?"; part.len()].join(", ");
        let mut statement =
            c.prepare(&format!("SELECT {RECORD_COLUMNS} FROM command_records WHERE id IN ({marks})"))?;
        let parameters = std::iter::once(&share).chain(part);
        let rows = statement.query_map(params_from_iter(parameters), record_from_row)?;
        for record in rows {
            records.push(record?);
        }
    }
    Ok(records)
}
