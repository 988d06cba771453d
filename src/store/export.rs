//! Whole tables in parts, for exports: each part begins behind the last row of the one before, so that a table of any
//! size passes through a little memory and no read is long.

use rusqlite::{Connection, Row, params};
use serde_json::Value;

use super::StoreError;
use super::audit::hex;
use crate::model::{OrganizationId, Timestamp};

/// A table that is exported from the database as it is. Secrets and hashes of passwords are not among the columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredTable {
    Operations,
    CommandRecords,
    Audit,
    Keys,
    Users,
}

/// Where a part ended: time (or number) and id of its last row.
pub type Position = (i64, String);

/// What a column holds, for those that are not shown as they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    /// Milliseconds since 1970, shown as RFC 3339.
    Time,
    /// JSON text, shown as what it says.
    Json,
    /// 0 or 1.
    Flag,
}

use Form::{Flag, Json, Plain, Time};

type Column = (&'static str, &'static str, Form);

const OPERATIONS: &[Column] = &[
    ("id", "id", Plain),
    ("operation_type", "kind", Plain),
    ("title", "title", Plain),
    ("status", "status", Plain),
    ("initiated_by", "initiated_by", Plain),
    ("created_at", "created_at", Time),
    ("started_at", "started_at", Time),
    ("completed_at", "completed_at", Time),
    ("total_servers", "(SELECT count(*) FROM operation_targets WHERE operation_id = t.id)", Plain),
    (
        "completed_servers",
        "(SELECT count(*) FROM operation_targets WHERE operation_id = t.id AND status = 'succeeded')",
        Plain,
    ),
    (
        "failed_servers",
        "(SELECT count(*) FROM operation_targets WHERE operation_id = t.id AND status IN ('failed', 'unreachable', 'unknown'))",
        Plain,
    ),
    ("parameters", "parameters", Json),
];

const COMMAND_RECORDS: &[Column] = &[
    ("id", "id", Plain),
    ("server_id", "server_id", Plain),
    ("server_name", "server_name", Plain),
    ("operation_id", "operation_id", Plain),
    ("initiated_by", "initiated_by", Plain),
    ("label", "label", Plain),
    ("command", "command", Plain),
    ("container_command", "container_command", Plain),
    ("started_at", "started_at", Time),
    ("duration_ms", "duration_ms", Plain),
    ("exit_status", "exit_status", Plain),
    ("signal", "signal", Plain),
    ("error", "error", Plain),
    ("stdout", "stdout", Plain),
    ("stderr", "stderr", Plain),
    ("stdout_dropped_bytes", "stdout_dropped_bytes", Plain),
    ("stderr_dropped_bytes", "stderr_dropped_bytes", Plain),
];

const AUDIT: &[Column] = &[
    ("sequence", "sequence", Plain),
    ("at", "at", Time),
    ("actor", "actor", Plain),
    ("address", "address", Plain),
    ("action", "action", Plain),
    ("subject", "subject", Plain),
    ("result", "result", Plain),
    ("detail", "detail", Plain),
    ("previous_hash", "previous_hash", Plain),
    ("hash", "hash", Plain),
];

const KEYS: &[Column] = &[
    ("id", "id", Plain),
    ("name", "name", Plain),
    ("public_key", "public_line", Plain),
    ("certificate", "certificate", Plain),
    ("source_path", "source_path", Plain),
    ("is_default", "is_default", Flag),
    ("created_at", "created_at", Time),
];

const USERS: &[Column] = &[
    ("id", "id", Plain),
    ("name", "name", Plain),
    ("email", "email", Plain),
    ("role", "role", Plain),
    ("created_at", "created_at", Time),
    ("updated_at", "updated_at", Time),
];

impl StoredTable {
    const fn columns(self) -> &'static [Column] {
        match self {
            Self::Operations => OPERATIONS,
            Self::CommandRecords => COMMAND_RECORDS,
            Self::Audit => AUDIT,
            Self::Keys => KEYS,
            Self::Users => USERS,
        }
    }

    /// Names of the columns in their order.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        self.columns().iter().map(|(name, _, _)| *name).collect()
    }

    /// Table, and what its rows are ordered by: a number and a unique text.
    const fn order(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Operations => ("operations", "created_at", "id"),
            Self::CommandRecords => ("command_records", "started_at", "id"),
            Self::Audit => ("audit", "sequence", "''"),
            Self::Keys => ("keys", "created_at", "id"),
            Self::Users => ("users", "created_at", "id"),
        }
    }
}

/// The rows behind `after` (None: from the first), oldest first, and where they end. Empty: there are no more.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn rows_after(
    c: &Connection,
    table: StoredTable,
    organization: OrganizationId,
    after: Option<&Position>,
    limit: u32,
) -> Result<(Vec<Vec<Value>>, Option<Position>), StoreError> {
    let (name, number, id) = table.order();
    let columns: Vec<&str> = table.columns().iter().map(|(_, expression, _)| *expression).collect();
    let sql = format!(
        "SELECT {number}, {id}, {} FROM {name} t WHERE organization_id = ?1 AND ({number}, {id}) > (?2, ?3)
         ORDER BY {number}, {id} LIMIT ?4",
        columns.join(", ")
    );
    let (from, behind) = after.map_or((i64::MIN, ""), |(number, id)| (*number, id.as_str()));
    let mut statement = c.prepare_cached(&sql)?;
    let mut rows = statement.query(params![organization.to_string(), from, behind, limit])?;
    let mut found = Vec::new();
    let mut last = None;
    while let Some(row) = rows.next()? {
        last = Some((row.get(0)?, row.get(1)?));
        found.push(cells(row, table.columns())?);
    }
    Ok((found, last))
}

fn cells(row: &Row<'_>, columns: &[Column]) -> Result<Vec<Value>, rusqlite::Error> {
    use rusqlite::types::ValueRef;
    let cell = |(at, (_, _, form)): (usize, &Column)| {
        Ok(match (row.get_ref(at + 2)?, form) {
            (ValueRef::Null, _) => Value::Null,
            (ValueRef::Integer(millis), Time) => Timestamp::from_millis(millis).to_string().into(),
            (ValueRef::Integer(number), Flag) => (number != 0).into(),
            (ValueRef::Integer(number), _) => number.into(),
            (ValueRef::Real(number), _) => number.into(),
            (ValueRef::Text(text), Json) => {
                serde_json::from_slice(text).unwrap_or_else(|_| String::from_utf8_lossy(text).into())
            }
            (ValueRef::Text(text), _) => String::from_utf8_lossy(text).into(),
            (ValueRef::Blob(bytes), _) => hex(bytes).into(),
        })
    };
    columns.iter().enumerate().map(cell).collect()
}
