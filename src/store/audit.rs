//! Audit entries: append-only, each with the hash of the one before.

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::StoreError;
use crate::model::{Caller, OrganizationId, Timestamp};

/// What is about to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub organization: OrganizationId,
    pub actor: String,
    pub address: Option<String>,
    /// A verb of the product: `server.add`, `token.create`, `login`.
    pub action: String,
    /// What it was done to, as a person knows it.
    pub subject: String,
    pub result: String,
    /// More about it, never a secret.
    pub detail: String,
}

impl Entry {
    /// An action of `caller` that succeeded.
    #[must_use]
    pub fn by(caller: &Caller, action: &str, subject: &str) -> Self {
        Self {
            organization: caller.organization,
            actor: caller.actor.to_string(),
            address: caller.from.map(|address| address.to_string()),
            action: action.to_owned(),
            subject: subject.to_owned(),
            result: "ok".to_owned(),
            detail: String::new(),
        }
    }

    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    #[must_use]
    pub fn refused(mut self, reason: impl Into<String>) -> Self {
        "refused".clone_into(&mut self.result);
        self.detail = reason.into();
        self
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recorded {
    pub sequence: i64,
    pub at: Timestamp,
    pub actor: String,
    pub address: Option<String>,
    pub action: String,
    pub subject: String,
    pub result: String,
    pub detail: String,
}

/// SHA-256 over the previous hash and every field, each preceded by its length so that fields cannot run together.
fn chain(previous: &[u8], at: Timestamp, entry: &Entry) -> Vec<u8> {
    let mut hash = Sha256::new();
    let organization = entry.organization.to_string();
    let address = entry.address.as_deref().unwrap_or("");
    let at = at.as_millis().to_string();
    let fields: [&[u8]; 9] = [
        previous,
        organization.as_bytes(),
        at.as_bytes(),
        entry.actor.as_bytes(),
        address.as_bytes(),
        entry.action.as_bytes(),
        entry.subject.as_bytes(),
        entry.result.as_bytes(),
        entry.detail.as_bytes(),
    ];
    for field in fields {
        hash.update((field.len() as u64).to_le_bytes());
        hash.update(field);
    }
    hash.finalize().to_vec()
}

/// Writes one entry behind the last one.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn append(tx: &Transaction<'_>, at: Timestamp, entry: &Entry) -> Result<(), StoreError> {
    let previous: Vec<u8> = tx
        .query_row("SELECT hash FROM audit ORDER BY sequence DESC LIMIT 1", [], |row| row.get(0))
        .optional()?
        .unwrap_or_default();
    let hash = chain(&previous, at, entry);
    tx.prepare_cached(
        "INSERT INTO audit (organization_id, at, actor, address, action, subject, result, detail, previous_hash, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        entry.organization.to_string(),
        at.as_millis(),
        entry.actor,
        entry.address,
        entry.action,
        entry.subject,
        entry.result,
        entry.detail,
        previous,
        hash,
    ])?;
    Ok(())
}

/// The newest entries of an organization, newest first.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn newest(
    c: &Connection,
    organization: OrganizationId,
    limit: u32,
    offset: u32,
) -> Result<Vec<Recorded>, StoreError> {
    let mut statement = c.prepare_cached(
        "SELECT sequence, at, actor, address, action, subject, result, detail FROM audit
         WHERE organization_id = ?1 ORDER BY sequence DESC LIMIT ?2 OFFSET ?3",
    )?;
    let rows = statement.query_map(params![organization.to_string(), limit, offset], |row| {
        Ok(Recorded {
            sequence: row.get(0)?,
            at: Timestamp::from_millis(row.get(1)?),
            actor: row.get(2)?,
            address: row.get(3)?,
            action: row.get(4)?,
            subject: row.get(5)?,
            result: row.get(6)?,
            detail: row.get(7)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Checks the whole chain. None: intact; else the sequence number of the first entry that does not fit.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn first_broken(c: &Connection) -> Result<Option<i64>, StoreError> {
    let mut statement = c.prepare(
        "SELECT sequence, organization_id, at, actor, address, action, subject, result, detail, previous_hash, hash
         FROM audit ORDER BY sequence",
    )?;
    let mut rows = statement.query([])?;
    let mut previous: Vec<u8> = Vec::new();
    while let Some(row) = rows.next()? {
        let sequence: i64 = row.get(0)?;
        let organization: String = row.get(1)?;
        let entry = Entry {
            organization: super::parse(&organization, "audit organization")?,
            actor: row.get(3)?,
            address: row.get(4)?,
            action: row.get(5)?,
            subject: row.get(6)?,
            result: row.get(7)?,
            detail: row.get(8)?,
        };
        let stored_previous: Vec<u8> = row.get(9)?;
        let stored: Vec<u8> = row.get(10)?;
        let at = Timestamp::from_millis(row.get(2)?);
        if stored_previous != previous || chain(&previous, at, &entry) != stored {
            return Ok(Some(sequence));
        }
        previous = stored;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_entry_breaks_the_chain_at_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("roundsman.db");
        drop(super::super::Store::open(&path).unwrap());
        let mut connection = Connection::open(&path).unwrap();
        let tx = connection.transaction().unwrap();
        for subject in ["a", "b", "c"] {
            let entry = Entry::by(&Caller::roundsman(), "server.add", subject);
            append(&tx, Timestamp::from_millis(5), &entry).unwrap();
        }
        tx.commit().unwrap();
        assert_eq!(first_broken(&connection).unwrap(), None);
        connection.execute("DROP TRIGGER audit_never_changes", []).unwrap();
        connection.execute("UPDATE audit SET subject = 'x' WHERE subject = 'b'", []).unwrap();
        assert_eq!(first_broken(&connection).unwrap(), Some(2));
    }
}
