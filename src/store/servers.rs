//! Servers as they are stored, with the way in and the approved host key that reach them.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{StoreError, corrupt, logins, parse};
use crate::model::{
    ActionLogin, Findings, OrganizationId, Port, ProxyAddress, Server, ServerId, ServerName, ServerNumber,
    Tag, Timestamp, WayIn,
};

/// A server and the way to it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredServer {
    pub server: Server,
    pub way: WayIn,
    /// The approved host key as an OpenSSH public key line. None: not approved, or no SSH.
    pub host_key: Option<String>,
    pub findings: Findings,
}

const COLUMNS: &str = "id, number, organization_id, name, description, transport, hostname, port, servers.username, \
     servers.key_id, host_key, region, environment, tags, metadata, status, interval_ms, created_at, updated_at, \
     servers.login_method, servers.agent_key, jump_id, proxy, connect_timeout_ms, findings, \
     a.username, a.login_method, a.key_id, a.agent_key, \
     (SELECT group_concat(kind) FROM server_secrets WHERE server_id = servers.id), heavy_interval_ms";
const TABLES: &str = "servers LEFT JOIN action_logins a ON a.server_id = servers.id";

/// The columns from `login_method` on.
fn way_from_row(row: &Row<'_>) -> Result<WayIn, rusqlite::Error> {
    let text = |index: usize| row.get::<_, Option<String>>(index);
    let proxy = text(22)?
        .map(|proxy| ProxyAddress::parse(&proxy).map_err(|error| corrupt(error.to_string())))
        .transpose()?;
    let action = match (text(25)?, text(26)?) {
        (Some(username), Some(method)) => {
            let login = logins::login(&method, text(27)?.as_deref(), text(28)?)?;
            Some(ActionLogin { username, login })
        }
        _ => None,
    };
    Ok(WayIn {
        login: logins::login(&row.get::<_, String>(19)?, text(9)?.as_deref(), text(20)?)?,
        action,
        jump: text(21)?.map(|id| parse(&id, "jump host of a server")).transpose()?,
        proxy: proxy.map(|(address, _)| address),
        connect_timeout_ms: row.get(23)?,
        secrets: logins::kinds(text(29)?.as_deref())?,
    })
}

fn from_row(row: &Row<'_>) -> Result<StoredServer, rusqlite::Error> {
    let text = |index: usize| row.get::<_, String>(index);
    let tags: Vec<String> = serde_json::from_str(&text(13)?).map_err(|e| corrupt(format!("tags: {e}")))?;
    let metadata: BTreeMap<String, String> =
        serde_json::from_str(&text(14)?).map_err(|e| corrupt(format!("metadata: {e}")))?;
    let findings = serde_json::from_str(&text(24)?).map_err(|e| corrupt(format!("findings: {e}")))?;
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
            heavy_interval_ms: row.get(30)?,
            created_at: Timestamp::from_millis(row.get(17)?),
            updated_at: Timestamp::from_millis(row.get(18)?),
        },
        way: way_from_row(row)?,
        host_key: row.get(10)?,
        findings,
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

/// Writes the server, new or changed, with its second identity. Its secrets and findings are written apart.
///
/// # Errors
/// [`StoreError::Conflict`] when another server of the organization has the name.
pub fn save(tx: &Transaction<'_>, stored: &StoredServer) -> Result<(), StoreError> {
    let (server, way) = (&stored.server, &stored.way);
    let tags: Vec<&str> = server.tags.iter().map(Tag::as_str).collect();
    tx.prepare_cached(
        "INSERT INTO servers (id, number, organization_id, name, description, transport, hostname, port, username,
             key_id, host_key, region, environment, tags, metadata, status, interval_ms, created_at, updated_at,
             login_method, agent_key, jump_id, proxy, connect_timeout_ms, heavy_interval_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22,
             ?23, ?24, ?25)
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, description = excluded.description,
             transport = excluded.transport, hostname = excluded.hostname, port = excluded.port,
             username = excluded.username, key_id = excluded.key_id, host_key = excluded.host_key,
             region = excluded.region, environment = excluded.environment, tags = excluded.tags,
             metadata = excluded.metadata, status = excluded.status, interval_ms = excluded.interval_ms,
             updated_at = excluded.updated_at, login_method = excluded.login_method, agent_key = excluded.agent_key,
             jump_id = excluded.jump_id, proxy = excluded.proxy, connect_timeout_ms = excluded.connect_timeout_ms,
             heavy_interval_ms = excluded.heavy_interval_ms",
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
        way.login.key.map(|key| key.to_string()),
        stored.host_key,
        server.region,
        server.environment,
        serde_json::to_string(&tags).map_err(|e| StoreError::Corrupt(e.to_string()))?,
        serde_json::to_string(&server.metadata).map_err(|e| StoreError::Corrupt(e.to_string()))?,
        server.status.name(),
        server.interval_ms,
        server.created_at.as_millis(),
        server.updated_at.as_millis(),
        way.login.method.name(),
        way.login.agent_key,
        way.jump.map(|id| id.to_string()),
        way.proxy.as_ref().map(ToString::to_string),
        way.connect_timeout_ms,
        server.heavy_interval_ms,
    ])?;
    logins::set_action(tx, server.id, way.action.as_ref())
}

/// Keeps what a preflight found.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn set_findings(tx: &Transaction<'_>, id: ServerId, findings: &Findings) -> Result<(), StoreError> {
    let text = serde_json::to_string(findings).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    tx.execute("UPDATE servers SET findings = ?2 WHERE id = ?1", params![id.to_string(), text])?;
    Ok(())
}

/// Every server of every organization, for the start of the fleet.
///
/// # Errors
/// [`StoreError::Corrupt`] names the value that does not parse.
pub fn all(c: &Connection) -> Result<Vec<StoredServer>, StoreError> {
    let mut statement = c.prepare(&format!("SELECT {COLUMNS} FROM {TABLES} ORDER BY name"))?;
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
    Ok(c.prepare_cached(&format!("SELECT {COLUMNS} FROM {TABLES} WHERE organization_id = ?1 AND name = ?2"))?
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
