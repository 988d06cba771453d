//! SSH keys that Roundsman keeps; the private half is stored sealed.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{StoreError, parse};
use crate::model::{KeyId, OrganizationId, Timestamp};

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
    pub created_at: Timestamp,
}

const COLUMNS: &str =
    "id, organization_id, name, public_line, sealed_private, source_path, is_default, created_at";

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
        created_at: Timestamp::from_millis(row.get(7)?),
    })
}

/// # Errors
/// [`StoreError::Conflict`] when the name is taken or a second default is stored.
pub fn insert(tx: &Transaction<'_>, key: &KeptKey) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO keys (id, organization_id, name, public_line, sealed_private, source_path, is_default, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            key.id.to_string(),
            key.organization.to_string(),
            key.name,
            key.public_line,
            key.sealed_private,
            key.source_path,
            key.is_default,
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
