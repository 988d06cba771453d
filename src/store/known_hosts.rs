//! Lines of imported known_hosts files: what an administrator trusts, or refuses, beyond the pinned keys.

use rusqlite::{Connection, Row, Transaction, params};

use super::{StoreError, parse};
use crate::model::{KnownHostId, OrganizationId, Timestamp};

/// One line as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLine {
    pub id: KnownHostId,
    pub organization: OrganizationId,
    /// Empty, `cert-authority` or `revoked`.
    pub marker: String,
    /// Patterns, or one hashed name.
    pub hosts: String,
    /// An OpenSSH public key line without comment.
    pub host_key: String,
    pub created_at: Timestamp,
    pub created_by: String,
}

const COLUMNS: &str = "id, organization_id, marker, hosts, host_key, created_at, created_by";

fn from_row(row: &Row<'_>) -> Result<StoredLine, rusqlite::Error> {
    let text = |index: usize| row.get::<_, String>(index);
    Ok(StoredLine {
        id: parse(&text(0)?, "id of a known host")?,
        organization: parse(&text(1)?, "organization of a known host")?,
        marker: text(2)?,
        hosts: text(3)?,
        host_key: text(4)?,
        created_at: Timestamp::from_millis(row.get(5)?),
        created_by: text(6)?,
    })
}

/// False: the same line is kept already.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn insert(tx: &Transaction<'_>, line: &StoredLine) -> Result<bool, StoreError> {
    let added = tx
        .prepare_cached(
            "INSERT INTO known_hosts (id, organization_id, marker, hosts, host_key, created_at, created_by)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (organization_id, marker, hosts, host_key) DO NOTHING",
        )?
        .execute(params![
            line.id.to_string(),
            line.organization.to_string(),
            line.marker,
            line.hosts,
            line.host_key,
            line.created_at.as_millis(),
            line.created_by,
        ])?;
    Ok(added > 0)
}

/// All lines of an organization, newest first.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn all(c: &Connection, organization: OrganizationId) -> Result<Vec<StoredLine>, StoreError> {
    let mut statement = c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM known_hosts WHERE organization_id = ?1 ORDER BY created_at DESC, id DESC"
    ))?;
    let rows = statement.query_map([organization.to_string()], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Authorities and revocations of an organization: few, and asked for at every login.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn marked(c: &Connection, organization: OrganizationId) -> Result<Vec<StoredLine>, StoreError> {
    let mut statement = c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM known_hosts
         WHERE organization_id = ?1 AND marker IN ('cert-authority', 'revoked') ORDER BY id"
    ))?;
    let rows = statement.query_map([organization.to_string()], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// # Errors
/// [`StoreError::NotFound`] when the organization keeps no such line.
pub fn remove(tx: &Transaction<'_>, organization: OrganizationId, id: KnownHostId) -> Result<(), StoreError> {
    let removed = tx.execute(
        "DELETE FROM known_hosts WHERE organization_id = ?1 AND id = ?2",
        [organization.to_string(), id.to_string()],
    )?;
    if removed == 0 { Err(StoreError::NotFound) } else { Ok(()) }
}
