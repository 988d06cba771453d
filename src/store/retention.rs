//! Rows that have expired, and how large each table is.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, Transaction, params};
use serde::Serialize;
use serde_json::{Map, Value};

use super::StoreError;
use super::audit::hex;
use crate::model::Timestamp;

/// A kind of row that expires by itself. Audit entries do too, but only as the beginning of their chain
/// ([`super::audit::remove_up_to`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiring {
    CommandRecords,
    /// Finished ones, with their targets.
    Operations,
}

impl Expiring {
    pub const ALL: [Self; 2] = [Self::CommandRecords, Self::Operations];

    #[must_use]
    pub const fn table(self) -> &'static str {
        match self {
            Self::CommandRecords => "command_records",
            Self::Operations => "operations",
        }
    }
}

/// The rows from before `cutoff`, oldest first, with their ids.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn expired(
    c: &Connection,
    kind: Expiring,
    cutoff: Timestamp,
    limit: u32,
) -> Result<Vec<(String, Value)>, StoreError> {
    let sql = match kind {
        // A command whose end was not seen, and is not known to be lost, may still run.
        Expiring::CommandRecords => {
            "SELECT * FROM command_records WHERE started_at < ?1 AND (duration_ms IS NOT NULL OR error IS NOT NULL)
             ORDER BY started_at LIMIT ?2"
        }
        Expiring::Operations => {
            "SELECT *, (SELECT json_group_array(json_object('server_id', server_id, 'server_name', server_name,
                 'status', status, 'command', command, 'error', error))
                 FROM operation_targets WHERE operation_id = operations.id) AS targets
             FROM operations WHERE completed_at < ?1 ORDER BY completed_at LIMIT ?2"
        }
    };
    let mut statement = c.prepare_cached(sql)?;
    let rows = statement.query_map(params![cutoff.as_millis(), limit], |row| {
        Ok((row.get::<_, String>("id")?, as_json(row)?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// When the oldest row that may expire was made (or its operation ended). None: there is none.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn oldest(c: &Connection, kind: Expiring) -> Result<Option<Timestamp>, StoreError> {
    let sql = match kind {
        Expiring::CommandRecords => {
            "SELECT min(started_at) FROM command_records WHERE duration_ms IS NOT NULL OR error IS NOT NULL"
        }
        Expiring::Operations => "SELECT min(completed_at) FROM operations",
    };
    let at: Option<i64> = c.query_row(sql, [], |row| row.get(0))?;
    Ok(at.map(Timestamp::from_millis))
}

/// Audit entries up to `last`, as they are stored, with their hashes.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn audit_up_to(c: &Connection, last: i64) -> Result<Vec<Value>, StoreError> {
    let mut statement = c.prepare_cached("SELECT * FROM audit WHERE sequence <= ?1 ORDER BY sequence")?;
    let rows = statement.query_map([last], as_json)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Removes rows by id. How many there were.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn remove(tx: &Transaction<'_>, kind: Expiring, ids: &[String]) -> Result<usize, StoreError> {
    let mut statement = tx.prepare_cached(match kind {
        Expiring::CommandRecords => "DELETE FROM command_records WHERE id = ?1",
        Expiring::Operations => "DELETE FROM operations WHERE id = ?1",
    })?;
    let mut removed = 0;
    for id in ids {
        removed += statement.execute([id])?;
    }
    Ok(removed)
}

/// A whole row by the names of its columns; bytes as hexadecimal, JSON columns as what they hold.
fn as_json(row: &Row<'_>) -> Result<Value, rusqlite::Error> {
    let names: Vec<String> = row.as_ref().column_names().iter().map(ToString::to_string).collect();
    let mut object = Map::new();
    for (at, name) in names.into_iter().enumerate() {
        let value = match row.get_ref(at)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(number) => Value::from(number),
            ValueRef::Real(number) => Value::from(number),
            ValueRef::Text(text) => {
                let text = String::from_utf8_lossy(text);
                match name.as_str() {
                    "parameters" | "targets" => serde_json::from_str(&text).unwrap_or_else(|_| text.into()),
                    _ => text.into(),
                }
            }
            ValueRef::Blob(bytes) => hex(bytes).into(),
        };
        object.insert(name, value);
    }
    Ok(Value::Object(object))
}

/// How large a table is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableSize {
    pub table: String,
    pub rows: i64,
    /// On disk, with its indexes.
    pub size_bytes: i64,
    /// Rows of the last 24 hours. None: the table does not say when a row came.
    pub rows_last_day: Option<i64>,
}

/// Sizes of all tables, the largest first. Reads the whole file.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn sizes(c: &Connection, day_ago: Timestamp) -> Result<Vec<TableSize>, StoreError> {
    let mut statement = c.prepare(
        "SELECT m.tbl_name, sum(d.bytes) FROM (SELECT name, sum(pgsize) AS bytes FROM dbstat GROUP BY name) d
         JOIN sqlite_master m ON m.name = d.name WHERE m.tbl_name NOT LIKE 'sqlite%'
         GROUP BY m.tbl_name ORDER BY 2 DESC",
    )?;
    let tables: Vec<(String, i64)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let mut found = Vec::with_capacity(tables.len());
    for (table, size_bytes) in tables {
        // Names of our own schema, not of a caller.
        let rows = c.query_row(&format!("SELECT count(*) FROM \"{table}\""), [], |row| row.get(0))?;
        let time = match table.as_str() {
            "command_records" => Some("started_at"),
            "operations" => Some("created_at"),
            "audit" => Some("at"),
            _ => None,
        };
        let rows_last_day = time
            .map(|column| {
                let sql = format!("SELECT count(*) FROM \"{table}\" WHERE {column} >= ?1");
                c.query_row(&sql, [day_ago.as_millis()], |row| row.get(0))
            })
            .transpose()?;
        found.push(TableSize { table, rows, size_bytes, rows_last_day });
    }
    Ok(found)
}
