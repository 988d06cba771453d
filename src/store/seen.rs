//! When each server was last read.

use std::collections::HashMap;

use rusqlite::{Connection, Transaction, params};

use super::{StoreError, parse};
use crate::model::{ServerId, Timestamp};

/// Notes when servers were read; those that are gone are left out.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn set(tx: &Transaction<'_>, seen: &[(ServerId, Timestamp)]) -> Result<(), StoreError> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO servers_seen (server_id, last_seen_at) SELECT id, ?2 FROM servers WHERE id = ?1
         ON CONFLICT (server_id) DO UPDATE SET last_seen_at = excluded.last_seen_at",
    )?;
    for (server, at) in seen {
        statement.execute(params![server.to_string(), at.as_millis()])?;
    }
    Ok(())
}

/// When each server was last read, as far as it is noted; those that never were are missing.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn all(c: &Connection) -> Result<HashMap<ServerId, Timestamp>, StoreError> {
    let mut statement = c.prepare_cached("SELECT server_id, last_seen_at FROM servers_seen")?;
    let rows = statement.query_map([], |row| {
        let id: String = row.get(0)?;
        Ok((parse(&id, "server that was seen")?, Timestamp::from_millis(row.get(1)?)))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
