//! Servers that report by themselves: who enrolled them, and what they said of themselves.

use rusqlite::{Connection, Row, Transaction, params};

use super::{StoreError, corrupt, parse};
use crate::model::{ServerId, TokenId};

/// What is known of a server with the transport `push` beyond what every server has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pushing {
    /// The enrol token that registered it. None: a person did.
    pub enrolled_by: Option<TokenId>,
    /// As the server calls itself, in lower case. None: it has not registered yet.
    pub hostname: Option<String>,
    pub agent_version: Option<String>,
    /// The services that it named.
    pub services: Vec<String>,
    /// As it was registered.
    pub total_ram_bytes: Option<u64>,
    pub total_disk_bytes: Option<u64>,
}

fn from_row(row: &Row<'_>) -> Result<(ServerId, Pushing), rusqlite::Error> {
    let id: String = row.get(0)?;
    let token: Option<String> = row.get(1)?;
    let services: String = row.get(4)?;
    let bytes = |index: usize| -> Result<Option<u64>, rusqlite::Error> {
        Ok(row.get::<_, Option<i64>>(index)?.and_then(|bytes| u64::try_from(bytes).ok()))
    };
    let pushing = Pushing {
        enrolled_by: token.map(|id| parse(&id, "token that enrolled a server")).transpose()?,
        hostname: row.get(2)?,
        agent_version: row.get(3)?,
        services: serde_json::from_str(&services).map_err(|e| corrupt(format!("services: {e}")))?,
        total_ram_bytes: bytes(5)?,
        total_disk_bytes: bytes(6)?,
    };
    Ok((parse(&id, "server id")?, pushing))
}

/// Of every organization, for the start of the fleet.
///
/// # Errors
/// [`StoreError::Corrupt`] names the value that does not parse.
pub fn all(c: &Connection) -> Result<Vec<(ServerId, Pushing)>, StoreError> {
    let mut statement = c.prepare(
        "SELECT server_id, enrolled_by, hostname, agent_version, services, total_ram_bytes, total_disk_bytes
         FROM push_servers",
    )?;
    let rows = statement.query_map([], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Writes it, new or changed.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn save(tx: &Transaction<'_>, server: ServerId, pushing: &Pushing) -> Result<(), StoreError> {
    let bytes = |bytes: Option<u64>| bytes.and_then(|bytes| i64::try_from(bytes).ok());
    tx.execute(
        "INSERT INTO push_servers (server_id, enrolled_by, hostname, agent_version, services, total_ram_bytes,
             total_disk_bytes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (server_id) DO UPDATE SET enrolled_by = excluded.enrolled_by, hostname = excluded.hostname,
             agent_version = excluded.agent_version, services = excluded.services,
             total_ram_bytes = excluded.total_ram_bytes, total_disk_bytes = excluded.total_disk_bytes",
        params![
            server.to_string(),
            pushing.enrolled_by.map(|id| id.to_string()),
            pushing.hostname,
            pushing.agent_version,
            serde_json::to_string(&pushing.services).map_err(|e| StoreError::Corrupt(e.to_string()))?,
            bytes(pushing.total_ram_bytes),
            bytes(pushing.total_disk_bytes),
        ],
    )?;
    Ok(())
}
