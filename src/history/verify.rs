//! Whether every row of the history file holds what was written: for `doctor --integrity`.
//!
//! Needs no running history: rows of all tables begin with their version and a CRC-32 of the rest.

use std::path::Path;

use super::damage;
use super::database;
use super::error::HistoryError;

/// Bytes of a row before what its checksum covers: version, CRC-32.
const HEADER_BYTES: usize = 5;
/// Damaged rows that are named; more are counted.
const NAMED: usize = 20;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verified {
    pub rows: u64,
    pub damaged: u64,
    /// Places that SQLite could not read; each hides one row or more, which are not in `rows`.
    pub unreadable: u64,
    /// The first damaged rows: table and key.
    pub named: Vec<String>,
}

/// Reads every chunk, roll-up and journal row of a file and compares it with its checksum. Works beside a running
/// server. A place that cannot be read is counted and stepped over.
///
/// # Errors
/// [`HistoryError`] when the file cannot be read as a database, or hardly anything in it can.
pub fn verify(path: &Path) -> Result<Verified, HistoryError> {
    let failed = |error| HistoryError::of(path, error);
    let db = database::open_reader(path).map_err(failed)?;
    let mut verified = Verified::default();
    for table in database::blob_tables(&db).map_err(failed)? {
        let seen = damage::each_blob(&db, &table, |key, bytes| {
            verified.rows += 1;
            if !is_whole(bytes) {
                verified.damaged += 1;
                if verified.named.len() < NAMED {
                    verified.named.push(format!("{table} {key}"));
                }
            }
        });
        let unreadable = seen.map_err(failed)?;
        verified.unreadable += unreadable;
        if unreadable > 0 && verified.named.len() < NAMED {
            verified.named.push(format!("{table}: {unreadable} unreadable places"));
        }
    }
    Ok(verified)
}

fn is_whole(row: &[u8]) -> bool {
    let Some((header, body)) = row.split_at_checked(HEADER_BYTES) else { return false };
    header.get(1..) == Some(crc32fast::hash(body).to_le_bytes().as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_changed_bit_of_a_row_is_seen() {
        let mut row = vec![1, 0, 0, 0, 0, 7, 7, 7];
        let crc = crc32fast::hash(&row[HEADER_BYTES..]);
        row[1..5].copy_from_slice(&crc.to_le_bytes());
        assert!(is_whole(&row));
        row[6] ^= 1;
        assert!(!is_whole(&row));
        assert!(!is_whole(&row[..4]));
    }
}
