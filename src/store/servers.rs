//! Servers as they are stored, with the key and the approved host key that reach them.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{StoreError, corrupt, parse};
use crate::model::{KeyId, OrganizationId, Port, Server, ServerId, ServerName, ServerNumber, Tag, Timestamp};

/// A server and the way to it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredServer {
    pub server: Server,
    /// None: the default key of the organization.
    pub key: Option<KeyId>,
    /// The approved host key as an OpenSSH public key line. None: not approved, or no SSH.
    pub host_key: Option<String>,
}

const COLUMNS: &str = "id, number, organization_id, name, description, transport, hostname, port, username, key_id, \
     host_key, region, environment, tags, metadata, status, interval_ms, created_at, updated_at";

fn from_row(row: &Row<'_>) -> Result<StoredServer, rusqlite::Error> {
    let text = |index: usize| row.get::<_, String>(index);
    let tags: Vec<String> = serde_json::from_str(&text(13)?).map_err(|e| corrupt(format!("tags: {e}")))?;
    let metadata: BTreeMap<String, String> =
        serde_json::from_str(&text(14)?).map_err(|e| corrupt(format!("metadata: {e}")))?;
    let key: Option<String> = row.get(9)?;
    Ok(StoredServer {
        server: Server {
            id: parse(&text(0)?, "server id")?,
            number: ServerNumber(row.get(1)?),
            organization: parse(&text(2)?, "organization of a server")?,
            name: ServerName::parse(&text(3)?).map_err(|e| corrupt(e.to_string()))?,
            description: text(4)?,
            transport: parse(&text(5)?, "transport")?,
            hostname: row.get(6)?,
            port: Port::of(row.get(7)?).map_err(|e| corrupt(e.to_string()))?,
            username: row.get(8)?,
            region: row.get(11)?,
            environment: row.get(12)?,
            tags: tags
                .iter()
                .map(|tag| Tag::parse(tag).map_err(|e| corrupt(e.to_string())))
                .collect::<Result<_, _>>()?,
            metadata,
            status: parse(&text(15)?, "status")?,
            interval_ms: row.get(16)?,
            created_at: Timestamp::from_millis(row.get(17)?),
            updated_at: Timestamp::from_millis(row.get(18)?),
        },
        key: key.map(|id| parse::<KeyId>(&id, "key of a server")).transpose()?,
        host_key: row.get(10)?,
    })
}

/// Gives a new server its number in the history.
///
/// # Errors
/// [`StoreError::Conflict`] when the id has one already.
pub fn next_number(tx: &Transaction<'_>, id: ServerId) -> Result<ServerNumber, StoreError> {
    let number = tx.query_row(
        "INSERT INTO server_numbers (server_id) VALUES (?1) RETURNING number",
        [id.to_string()],
        |row| row.get(0),
    )?;
    Ok(ServerNumber(number))
}

/// Writes the server, new or changed.
///
/// # Errors
/// [`StoreError::Conflict`] when another server of the organization has the name.
pub fn save(tx: &Transaction<'_>, stored: &StoredServer) -> Result<(), StoreError> {
    let server = &stored.server;
    let tags: Vec<&str> = server.tags.iter().map(Tag::as_str).collect();
    tx.prepare_cached(
        "INSERT INTO servers (id, number, organization_id, name, description, transport, hostname, port, username,
             key_id, host_key, region, environment, tags, metadata, status, interval_ms, created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, description = excluded.description,
             transport = excluded.transport, hostname = excluded.hostname, port = excluded.port,
             username = excluded.username, key_id = excluded.key_id, host_key = excluded.host_key,
             region = excluded.region, environment = excluded.environment, tags = excluded.tags,
             metadata = excluded.metadata, status = excluded.status, interval_ms = excluded.interval_ms,
             updated_at = excluded.updated_at",
    )?
    .execute(params![
        server.id.to_string(),
        server.number.0,
        server.organization.to_string(),
        server.name.as_str(),
        server.description,
        server.transport.name(),
        server.hostname,
        server.port.get(),
        server.username,
        stored.key.map(|key| key.to_string()),
        stored.host_key,
        server.region,
        server.environment,
        serde_json::to_string(&tags).map_err(|e| StoreError::Corrupt(e.to_string()))?,
        serde_json::to_string(&server.metadata).map_err(|e| StoreError::Corrupt(e.to_string()))?,
        server.status.name(),
        server.interval_ms,
        server.created_at.as_millis(),
        server.updated_at.as_millis(),
    ])?;
    Ok(())
}

/// Every server of every organization, for the start of the fleet.
///
/// # Errors
/// [`StoreError::Corrupt`] names the value that does not parse.
pub fn all(c: &Connection) -> Result<Vec<StoredServer>, StoreError> {
    let mut statement = c.prepare(&format!("SELECT {COLUMNS} FROM servers ORDER BY name"))?;
    let rows = statement.query_map([], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// # Errors
/// [`StoreError`] of the database.
pub fn by_name(
    c: &Connection,
    organization: OrganizationId,
    name: &ServerName,
) -> Result<Option<StoredServer>, StoreError> {
    Ok(c.prepare_cached(&format!("SELECT {COLUMNS} FROM servers WHERE organization_id = ?1 AND name = ?2"))?
        .query_row([organization.to_string(), name.to_string()], from_row)
        .optional()?)
}

/// Removes the server; its number in the history is not given again.
///
/// # Errors
/// [`StoreError::NotFound`] when the organization has no such server.
pub fn remove(tx: &Transaction<'_>, organization: OrganizationId, id: ServerId) -> Result<(), StoreError> {
    let removed = tx.execute(
        "DELETE FROM servers WHERE organization_id = ?1 AND id = ?2",
        [organization.to_string(), id.to_string()],
    )?;
    if removed == 0 { Err(StoreError::NotFound) } else { Ok(()) }
}

/// Whether a server of this transport was ever enrolled, even if it was removed since.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn ever_enrolled(c: &Connection, transport: crate::model::Transport) -> Result<bool, StoreError> {
    let known: i64 = c.query_row(
        "SELECT (SELECT count(*) FROM servers WHERE transport = ?1) + (SELECT count(*) FROM server_numbers)",
        [transport.name()],
        |row| row.get(0),
    )?;
    Ok(known > 0)
}
