//! Copies of a database that is in use, and what makes sure that a database is whole.
//!
//! Works on paths, so that it serves both databases, and a copy that lies in a backup as well as one that is in use.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::audit::{self, Entry};
use super::{BUSY_TIMEOUT_MS, StoreError};
use crate::model::Timestamp;

/// Findings that are told; a file with more is lost anyway.
const FINDINGS: u32 = 20;

/// A value that the master key opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedValue {
    /// For a person: `key default`, `password of a server`.
    pub what: String,
    /// Associated data of [`crate::vault::Vault::seal`].
    pub row: String,
    pub sealed: Vec<u8>,
}

fn opening(path: &Path) -> impl Fn(rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    move |error| match StoreError::from(error) {
        StoreError::Corrupt(cause) => StoreError::Corrupt(format!("{}: {cause}", path.display())),
        StoreError::Io(cause) => StoreError::Io(format!("{}: {cause}", path.display())),
        other => StoreError::Open { path: path.clone(), cause: other.to_string() },
    }
}

fn open_to_read(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(opening(path))?;
    connection.busy_timeout(Duration::from_millis(BUSY_TIMEOUT_MS)).map_err(opening(path))?;
    Ok(connection)
}

/// Writes a consistent copy of the database at `from` to the new file `to`. One read transaction: writers go on, and
/// only the write-ahead log grows meanwhile. Free pages and the log are not copied.
///
/// # Errors
/// [`StoreError`] when it cannot be read or written; `to` may then hold a part.
pub fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    let connection = open_to_read(from)?;
    connection.execute("VACUUM INTO ?1", [to.to_string_lossy()]).map_err(opening(to))?;
    Ok(())
}

/// Everything that SQLite finds wrong with a file; empty: it is whole. Reads all of it: seconds for each gigabyte.
///
/// # Errors
/// [`StoreError`] when it cannot be opened at all.
pub fn integrity(path: &Path) -> Result<Vec<String>, StoreError> {
    let connection = open_to_read(path)?;
    let look = || -> Result<Vec<String>, rusqlite::Error> {
        let mut statement = connection.prepare(&format!("PRAGMA integrity_check({FINDINGS})"))?;
        let mut found: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let mut keys = connection.prepare("PRAGMA foreign_key_check")?;
        let orphans = keys.query_map([], |row| row.get::<_, String>(0))?;
        for table in orphans.take(FINDINGS as usize) {
            found.push(format!("a row of {} refers to one that is not there", table?));
        }
        found.retain(|line| line != "ok");
        Ok(found)
    };
    look().map_err(opening(path))
}

/// How many migrations the database has seen.
///
/// # Errors
/// [`StoreError`] when it is no database.
pub fn schema(path: &Path) -> Result<i64, StoreError> {
    let connection = open_to_read(path)?;
    connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(opening(path))
}

/// Migrations of the control data that this program knows.
#[must_use]
pub const fn known_schema() -> usize {
    super::MIGRATIONS.len()
}

/// Every value of a control database that the master key must open, of all organizations.
///
/// # Errors
/// [`StoreError`] when it cannot be read.
pub fn sealed_values(path: &Path) -> Result<Vec<SealedValue>, StoreError> {
    let connection = open_to_read(path)?;
    let read = || -> Result<Vec<SealedValue>, rusqlite::Error> {
        let mut found = Vec::new();
        let mut statement = connection.prepare("SELECT id, name, sealed_private FROM keys ORDER BY id")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let name: String = row.get(1)?;
            found.push(SealedValue { what: format!("key {name}"), row: row.get(0)?, sealed: row.get(2)? });
        }
        let has_secrets: bool = connection.query_row(
            "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'server_secrets')",
            [],
            |row| row.get(0),
        )?;
        if !has_secrets {
            return Ok(found);
        }
        let mut statement = connection.prepare(
            "SELECT s.server_id, s.kind, s.sealed, coalesce(servers.name, s.server_id) FROM server_secrets s
             LEFT JOIN servers ON servers.id = s.server_id ORDER BY s.server_id, s.kind",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (server, kind): (String, String) = (row.get(0)?, row.get(1)?);
            let name: String = row.get(3)?;
            found.push(SealedValue {
                what: format!("{kind} of {name}"),
                row: format!("{server} {kind}"),
                sealed: row.get(2)?,
            });
        }
        Ok(found)
    };
    read().map_err(opening(path))
}

/// Checks the audit chain of a control database.
///
/// # Errors
/// [`StoreError`] when it cannot be read.
pub fn audit_chain(path: &Path) -> Result<audit::Chain, StoreError> {
    audit::verify(&open_to_read(path)?)
}

/// Adds an entry to the audit log of a database that nobody uses.
///
/// # Errors
/// [`StoreError`] when it cannot be written.
pub fn note(path: &Path, at: Timestamp, entry: &Entry) -> Result<(), StoreError> {
    let mut connection = Connection::open(path).map_err(opening(path))?;
    super::in_transaction(&mut connection, |tx| audit::append(tx, at, entry))
}
