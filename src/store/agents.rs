//! The agents that were deployed, one a server at most.

use std::collections::HashMap;

use rusqlite::{Connection, Transaction, params};

use super::{StoreError, corrupt, parse};
use crate::model::{InstalledAgent, ServerId, Timestamp};

/// Every agent that is known to be on a server.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn all(c: &Connection) -> Result<HashMap<ServerId, InstalledAgent>, StoreError> {
    let mut statement = c.prepare_cached(
        "SELECT server_id, mode, path, sha256, version, architecture, port, deployed_at FROM agents",
    )?;
    let rows = statement.query_map([], |row| {
        let (id, mode): (String, String) = (row.get(0)?, row.get(1)?);
        let port: Option<i64> = row.get(6)?;
        let port = port.map(u16::try_from).transpose().map_err(|_| corrupt("port of an agent".to_owned()))?;
        let agent = InstalledAgent {
            mode: parse(&mode, "mode of an agent")?,
            path: row.get(2)?,
            sha256: row.get(3)?,
            version: row.get(4)?,
            architecture: row.get(5)?,
            port,
            deployed_at: Timestamp::from_millis(row.get(7)?),
        };
        Ok((parse(&id, "server of an agent")?, agent))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Keeps what was deployed, in place of what was before.
///
/// # Errors
/// [`StoreError::Conflict`]: the server is gone.
pub fn set(tx: &Transaction<'_>, server: ServerId, agent: &InstalledAgent) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO agents (server_id, mode, path, sha256, version, architecture, port, deployed_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (server_id) DO UPDATE SET mode = excluded.mode, path = excluded.path, sha256 = excluded.sha256,
             version = excluded.version, architecture = excluded.architecture, port = excluded.port,
             deployed_at = excluded.deployed_at",
    )?
    .execute(params![
        server.to_string(),
        agent.mode.name(),
        agent.path,
        agent.sha256,
        agent.version,
        agent.architecture,
        agent.port,
        agent.deployed_at.as_millis(),
    ])?;
    Ok(())
}

/// Forgets the agent of a server.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn remove(tx: &Transaction<'_>, server: ServerId) -> Result<(), StoreError> {
    tx.prepare_cached("DELETE FROM agents WHERE server_id = ?1")?.execute([server.to_string()])?;
    Ok(())
}
