//! Audit entries: append-only, each with the hash of the one before.

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::StoreError;
use crate::model::{Caller, OrganizationId, Reporter, Timestamp};

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

    /// As [`Self::by`], of whoever reports about servers.
    #[must_use]
    pub fn of(reporter: &Reporter, action: &str, subject: &str) -> Self {
        Self {
            organization: reporter.organization,
            actor: reporter.actor.to_string(),
            address: reporter.from.map(|address| address.to_string()),
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

/// Action of the entry that stands for removed ones.
const REMOVED: &str = "audit.remove";

/// What an [`REMOVED`] entry says in its detail: which entries went, and the hash that the next one continues.
#[derive(Debug, Serialize, Deserialize)]
struct Anchor {
    first: i64,
    last: i64,
    /// Of entry `last`, in hexadecimal.
    hash: String,
}

/// What a look at the whole chain found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Chain {
    pub entries: u64,
    /// Sequence number of the first entry there is. None: there is none.
    pub first: Option<i64>,
    pub last: Option<i64>,
    /// The first entry that does not fit: it was changed, or one before it is missing without a trace.
    pub broken_at: Option<i64>,
}

/// Checks the whole chain. Entries that retention removed are accounted for: the first one that is left continues the
/// hash that a later entry of the chain names.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn verify(c: &Connection) -> Result<Chain, StoreError> {
    let mut statement = c.prepare(
        "SELECT sequence, organization_id, at, actor, address, action, subject, result, detail, previous_hash, hash
         FROM audit ORDER BY sequence",
    )?;
    let mut rows = statement.query([])?;
    let mut chain_found = Chain::default();
    let mut previous: Vec<u8> = Vec::new();
    let mut before_first: Vec<u8> = Vec::new();
    let mut anchored = true;
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
        if chain_found.entries == 0 {
            anchored = stored_previous.is_empty();
            chain_found.first = Some(sequence);
            previous.clone_from(&stored_previous);
            before_first.clone_from(&stored_previous);
        }
        if stored_previous != previous || chain(&previous, at, &entry) != stored {
            chain_found.broken_at = Some(sequence);
            return Ok(chain_found);
        }
        anchored = anchored || accounts_for(&entry, chain_found.first, &before_first);
        previous = stored;
        chain_found.entries += 1;
        chain_found.last = Some(sequence);
    }
    if !anchored {
        chain_found.broken_at = chain_found.first;
    }
    Ok(chain_found)
}

/// Whether this entry says that everything before `first` was removed, up to the hash that `first` continues.
fn accounts_for(entry: &Entry, first: Option<i64>, before_first: &[u8]) -> bool {
    let anchor = || serde_json::from_str::<Anchor>(&entry.detail).ok();
    entry.action == REMOVED
        && anchor()
            .zip(first)
            .is_some_and(|(anchor, first)| anchor.last < first && anchor.hash == hex(before_first))
}

/// Bytes in lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The time of the first entry. None: there is none.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn oldest(c: &Connection) -> Result<Option<Timestamp>, StoreError> {
    let first =
        c.query_row("SELECT at FROM audit ORDER BY sequence LIMIT 1", [], |row| row.get(0)).optional()?;
    Ok(first.map(Timestamp::from_millis))
}

/// The last of the oldest entries that are all from before `cutoff`, looking at `limit` at most. None: the oldest entry
/// is not.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn last_before(c: &Connection, cutoff: Timestamp, limit: u32) -> Result<Option<i64>, StoreError> {
    let mut statement = c.prepare_cached("SELECT sequence, at FROM audit ORDER BY sequence LIMIT ?1")?;
    let mut rows = statement.query([limit])?;
    let mut last = None;
    while let Some(row) = rows.next()? {
        // A clock that was set back leaves later entries with earlier times: only the beginning of the chain goes.
        if row.get::<_, i64>(1)? >= cutoff.as_millis() {
            break;
        }
        last = Some(row.get(0)?);
    }
    Ok(last)
}

/// Removes the entries up to `last`, and leaves one that accounts for them. How many went.
///
/// # Errors
/// [`StoreError::NotFound`] when there is no such entry.
pub fn remove_up_to(tx: &Transaction<'_>, at: Timestamp, last: i64) -> Result<usize, StoreError> {
    let (first, hash): (i64, Vec<u8>) = tx.query_row(
        "SELECT (SELECT min(sequence) FROM audit), hash FROM audit WHERE sequence = ?1",
        [last],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let anchor = Anchor { first, last, hash: hex(&hash) };
    let detail = serde_json::to_string(&anchor).map_err(|error| StoreError::Corrupt(error.to_string()))?;
    let entry =
        Entry::by(&Caller::roundsman(), REMOVED, &format!("entries {first} to {last}")).detail(detail);
    append(tx, at, &entry)?;
    Ok(tx.execute("DELETE FROM audit WHERE sequence <= ?1", [last])?)
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
        let broken = |c: &Connection| verify(c).unwrap().broken_at;
        assert_eq!(broken(&connection), None);
        connection.execute("DROP TRIGGER audit_never_changes", []).unwrap();
        connection.execute("UPDATE audit SET subject = 'x' WHERE subject = 'b'", []).unwrap();
        assert_eq!(broken(&connection), Some(2));
    }

    #[test]
    fn entries_that_retention_removed_are_accounted_for_and_others_are_missed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("roundsman.db");
        drop(super::super::Store::open(&path).unwrap());
        let mut connection = Connection::open(&path).unwrap();
        let at = Timestamp::from_millis;
        let tx = connection.transaction().unwrap();
        for time in 1..=6 {
            append(&tx, at(time), &Entry::by(&Caller::roundsman(), "server.add", "x")).unwrap();
        }
        assert_eq!(last_before(&tx, at(1), 100).unwrap(), None);
        assert_eq!(last_before(&tx, at(100), 2).unwrap(), Some(2), "no more than asked for");
        assert_eq!(remove_up_to(&tx, at(100), 2).unwrap(), 2);
        assert_eq!(remove_up_to(&tx, at(100), 3).unwrap(), 1);
        let whole = verify(&tx).unwrap();
        assert_eq!((whole.entries, whole.first, whole.last, whole.broken_at), (5, Some(4), Some(8), None));
        tx.execute("DELETE FROM audit WHERE sequence = 4", []).unwrap();
        assert_eq!(verify(&tx).unwrap().broken_at, Some(5), "nobody accounts for entry 4");
    }
}
