//! SSH keys that Roundsman keeps; the private half is stored sealed.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{StoreError, parse};
use crate::model::{KeyId, OrganizationId, ServerId, Timestamp};

/// A kept key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptKey {
    pub id: KeyId,
    pub organization: OrganizationId,
    pub name: String,
    /// `ssh-ed25519 AAAA… comment`.
    pub public_line: String,
    /// Sealed by [`crate::vault::Vault`] with the id as row.
    pub sealed_private: Vec<u8>,
    /// Where the command line read it from, if it came from a file.
    pub source_path: Option<String>,
    pub is_default: bool,
    /// The OpenSSH user certificate that is offered with the key: one line without comment.
    pub certificate: Option<String>,
    pub created_at: Timestamp,
}

const COLUMNS: &str = "id, organization_id, name, public_line, sealed_private, source_path, is_default, certificate, created_at";

fn from_row(row: &Row<'_>) -> Result<KeptKey, rusqlite::Error> {
    let id: String = row.get(0)?;
    let organization: String = row.get(1)?;
    Ok(KeptKey {
        id: parse(&id, "key id")?,
        organization: parse(&organization, "organization of a key")?,
        name: row.get(2)?,
        public_line: row.get(3)?,
        sealed_private: row.get(4)?,
        source_path: row.get(5)?,
        is_default: row.get(6)?,
        certificate: row.get(7)?,
        created_at: Timestamp::from_millis(row.get(8)?),
    })
}

/// # Errors
/// [`StoreError::Conflict`] when the name is taken or a second default is stored.
pub fn insert(tx: &Transaction<'_>, key: &KeptKey) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO keys (id, organization_id, name, public_line, sealed_private, source_path, is_default,
             certificate, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            key.id.to_string(),
            key.organization.to_string(),
            key.name,
            key.public_line,
            key.sealed_private,
            key.source_path,
            key.is_default,
            key.certificate,
            key.created_at.as_millis(),
        ],
    )?;
    Ok(())
}

/// All kept keys of an organization, the default first.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn list(c: &Connection, organization: OrganizationId) -> Result<Vec<KeptKey>, StoreError> {
    let mut statement = c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM keys WHERE organization_id = ?1 ORDER BY is_default DESC, name"
    ))?;
    let rows = statement.query_map([organization.to_string()], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// # Errors
/// [`StoreError`] of the database.
pub fn by_id(c: &Connection, organization: OrganizationId, id: KeyId) -> Result<Option<KeptKey>, StoreError> {
    Ok(c.prepare_cached(&format!("SELECT {COLUMNS} FROM keys WHERE organization_id = ?1 AND id = ?2"))?
        .query_row([organization.to_string(), id.to_string()], from_row)
        .optional()?)
}

/// The key that new servers use.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn default_of(c: &Connection, organization: OrganizationId) -> Result<Option<KeptKey>, StoreError> {
    Ok(c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM keys WHERE organization_id = ?1 AND is_default = 1"
    ))?
    .query_row([organization.to_string()], from_row)
    .optional()?)
}

/// Changes what may change of a key: its name and its certificate.
///
/// # Errors
/// [`StoreError::Conflict`] when the name is taken, [`StoreError::NotFound`] when there is no such key.
pub fn update(
    tx: &Transaction<'_>,
    organization: OrganizationId,
    id: KeyId,
    name: &str,
    certificate: Option<&str>,
) -> Result<(), StoreError> {
    let changed = tx.execute(
        "UPDATE keys SET name = ?3, certificate = ?4 WHERE organization_id = ?1 AND id = ?2",
        params![organization.to_string(), id.to_string(), name, certificate],
    )?;
    if changed == 0 { Err(StoreError::NotFound) } else { Ok(()) }
}

/// Makes `id` the key of new servers. Logins that used the old default without naming it name it from now on, so
/// that none of them changes.
///
/// # Errors
/// [`StoreError::NotFound`] when there is no such key.
pub fn set_default(tx: &Transaction<'_>, organization: OrganizationId, id: KeyId) -> Result<(), StoreError> {
    let owner = organization.to_string();
    if let Some(old) = default_of(tx, organization)? {
        tx.execute(
            "UPDATE servers SET key_id = ?2
             WHERE organization_id = ?1 AND key_id IS NULL AND login_method = 'key' AND transport <> 'local'",
            params![owner, old.id.to_string()],
        )?;
        tx.execute(
            "UPDATE action_logins SET key_id = ?2 WHERE key_id IS NULL AND login_method = 'key'
             AND server_id IN (SELECT id FROM servers WHERE organization_id = ?1)",
            params![owner, old.id.to_string()],
        )?;
    }
    tx.execute("UPDATE keys SET is_default = 0 WHERE organization_id = ?1 AND is_default = 1", [&owner])?;
    let made = tx.execute(
        "UPDATE keys SET is_default = 1 WHERE organization_id = ?1 AND id = ?2",
        params![owner, id.to_string()],
    )?;
    if made == 0 { Err(StoreError::NotFound) } else { Ok(()) }
}

/// # Errors
/// [`StoreError::Conflict`] while a server names the key, [`StoreError::NotFound`] when there is no such key.
pub fn remove(tx: &Transaction<'_>, organization: OrganizationId, id: KeyId) -> Result<(), StoreError> {
    let removed = tx.execute(
        "DELETE FROM keys WHERE organization_id = ?1 AND id = ?2",
        [organization.to_string(), id.to_string()],
    )?;
    if removed == 0 { Err(StoreError::NotFound) } else { Ok(()) }
}

/// What a login is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginOf {
    /// Readings, and everything else where the server has one identity only.
    Main,
    /// The second identity, for actions.
    Actions,
}

/// A login that uses a kept key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUse {
    pub key: KeyId,
    pub server: ServerId,
    pub server_name: String,
    pub login: LoginOf,
    /// The account on the server; empty: root.
    pub username: String,
    /// The server names the key; otherwise it uses it because it is the default.
    pub named: bool,
}

/// Every login of the organization that uses one of its kept keys, by the server's name.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn uses(c: &Connection, organization: OrganizationId) -> Result<Vec<KeyUse>, StoreError> {
    let default = default_of(c, organization)?.map(|key| key.id);
    let mut statement = c.prepare_cached(
        "SELECT s.id, s.name, 0, coalesce(s.username, ''), s.key_id FROM servers s
         WHERE s.organization_id = ?1 AND s.transport <> 'local' AND s.hostname IS NOT NULL
             AND (s.key_id IS NOT NULL OR s.login_method = 'key')
         UNION ALL
         SELECT s.id, s.name, 1, a.username, a.key_id FROM action_logins a JOIN servers s ON s.id = a.server_id
         WHERE s.organization_id = ?1 AND (a.key_id IS NOT NULL OR a.login_method = 'key')
         ORDER BY 2, 3",
    )?;
    let rows = statement.query_map([organization.to_string()], |row| {
        let key: Option<String> = row.get(4)?;
        let named = key.map(|id| parse::<KeyId>(&id, "key of a login")).transpose()?;
        let Some(key) = named.or(default) else { return Ok(None) };
        Ok(Some(KeyUse {
            key,
            server: parse(&row.get::<_, String>(0)?, "server of a login")?,
            server_name: row.get(1)?,
            login: if row.get::<_, i64>(2)? == 0 { LoginOf::Main } else { LoginOf::Actions },
            username: row.get(3)?,
            named: named.is_some(),
        }))
    })?;
    Ok(rows.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// Gives one login of a server another key. None: the default key.
///
/// # Errors
/// [`StoreError::NotFound`] when the server has no such login.
pub fn set_key_of_login(
    tx: &Transaction<'_>,
    organization: OrganizationId,
    server: ServerId,
    login: LoginOf,
    key: Option<KeyId>,
) -> Result<(), StoreError> {
    let statement = match login {
        LoginOf::Main => "UPDATE servers SET key_id = ?3 WHERE organization_id = ?1 AND id = ?2",
        LoginOf::Actions => {
            "UPDATE action_logins SET key_id = ?3 WHERE server_id = ?2
             AND server_id IN (SELECT id FROM servers WHERE organization_id = ?1)"
        }
    };
    let changed = tx.execute(
        statement,
        params![organization.to_string(), server.to_string(), key.map(|key| key.to_string())],
    )?;
    if changed == 0 { Err(StoreError::NotFound) } else { Ok(()) }
}
