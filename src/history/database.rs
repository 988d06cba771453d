//! The file: how it is opened, and every statement on it.
//!
//! Functions take a connection or a transaction, so that the writer composes them in one.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use rusqlite_migration::{M, Migrations};

use super::error::HistoryError;
use super::series::{Dictionary, Kind, Series, SeriesId};

const MIGRATIONS: &[M<'_>] = &[M::up(include_str!("migrations/0001_raw.sql"))];

/// How long a statement waits for a lock that another process (a backup) holds. Kept under a round of
/// the writer; the writer tries again anyway.
const BUSY: Duration = Duration::from_millis(500);

/// The write-ahead log is cut back to this after a checkpoint; a burst may make it longer for a while.
const WAL_BYTES: i64 = 16 << 20;

/// Chunks deleted in one transaction: a month and a half of one server, some milliseconds.
const DELETES: usize = 2_000;

/// One of the two journal tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Journal {
    J0,
    J1,
}

impl Journal {
    pub(super) const BOTH: [Self; 2] = [Self::J0, Self::J1];

    pub(super) const fn other(self) -> Self {
        match self {
            Self::J0 => Self::J1,
            Self::J1 => Self::J0,
        }
    }

    pub(super) const fn table(self) -> &'static str {
        match self {
            Self::J0 => "j0",
            Self::J1 => "j1",
        }
    }
}

/// Key of a chunk.
pub(super) const fn chunk_key(bucket: i64, server: u32) -> i64 {
    bucket << super::memory::SERVER_BITS | server as i64
}

/// Bucket and server of a chunk's key.
pub(super) fn split_key(key: i64) -> (i64, u32) {
    let bits = super::memory::SERVER_BITS;
    (key >> bits, u32::try_from(key & ((1 << bits) - 1)).unwrap_or(0))
}

/// Opens the file for writing, creates or migrates it.
pub(super) fn open(path: &Path) -> Result<Connection, HistoryError> {
    let migrations = Migrations::from_slice(MIGRATIONS);
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let mut db = Connection::open(path).map_err(|error| HistoryError::of(path, error))?;
    let found = prepare(&db).map_err(|error| HistoryError::of(path, error))?;
    if found > known {
        return Err(HistoryError::NewerVersion { found, known });
    }
    if found > 0 && found < known {
        copy_before(path, &db, known).map_err(|error| HistoryError::of(path, error))?;
    }
    migrations.to_latest(&mut db).map_err(|error| match error {
        rusqlite_migration::Error::RusqliteError { err, .. } => HistoryError::of(path, err),
        other => HistoryError::Migration(other),
    })?;
    Ok(db)
}

/// A copy of the file as it is, before it becomes of version `known`.
fn copy_before(path: &Path, db: &Connection, known: i64) -> rusqlite::Result<()> {
    let copy = path.with_extension(format!("db.before-{known}"));
    if copy.exists() {
        // Of an attempt that was cut short; it holds the same, or a part of it.
        drop(std::fs::remove_file(&copy));
    }
    db.execute("VACUUM INTO ?", [copy.to_string_lossy()])?;
    Ok(())
}

/// Answers the version of the file. A file of a newer version is not changed.
fn prepare(db: &Connection) -> rusqlite::Result<i64> {
    db.busy_timeout(BUSY)?;
    let found = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found <= i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX) {
        db.pragma_update(None, "page_size", 4096)?;
        db.pragma_update(None, "journal_mode", "wal")?;
        // NORMAL lost up to 21 s at a power cut, and FULL costs 0.1 ms a transaction.
        db.pragma_update(None, "synchronous", "full")?;
        db.pragma_update(None, "journal_size_limit", WAL_BYTES)?;
    }
    Ok(found)
}

/// Migrations that this program knows.
pub(super) const fn known_schema() -> usize {
    MIGRATIONS.len()
}

/// The tables of checksummed rows, whatever their level.
pub(super) fn blob_tables(db: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = db.prepare(
        "SELECT t.name FROM sqlite_master t WHERE t.type = 'table'
           AND (SELECT group_concat(c.name) FROM pragma_table_info(t.name) c) = 'k,b' ORDER BY t.name",
    )?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// Every row of one of [`blob_tables`], one in memory at a time.
pub(super) fn each_blob(
    db: &Connection,
    table: &str,
    mut visit: impl FnMut(i64, &[u8]),
) -> rusqlite::Result<()> {
    let mut statement = db.prepare(&format!("SELECT k, b FROM \"{table}\" ORDER BY k"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        visit(row.get(0)?, row.get_ref(1)?.as_blob()?);
    }
    Ok(())
}

/// A connection for one short read after the other.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    db.busy_timeout(BUSY)?;
    Ok(db)
}

pub(super) fn insert_series(db: &Connection, series: &Series) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO series (id, metric, labels, scale, kind) VALUES (?, ?, ?, ?, ?)")?
        .execute(params![
            series.id.0,
            series.key.metric.as_str(),
            series.key.labels.as_str(),
            series.scale,
            series.kind.code()
        ])?;
    Ok(())
}

/// Answers how many rows were none that this program writes.
pub(super) fn load_series(db: &Connection, dictionary: &mut Dictionary) -> rusqlite::Result<u64> {
    let mut statement = db.prepare("SELECT id, metric, labels, scale, kind FROM series ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut unknown = 0;
    while let Some(row) = rows.next()? {
        let (id, scale, kind): (i64, i64, i64) = (row.get(0)?, row.get(3)?, row.get(4)?);
        let labels: String = row.get(2)?;
        let loaded = match (u32::try_from(id), u32::try_from(scale), Kind::from_code(kind)) {
            (Ok(id), Ok(scale), Some(kind)) => {
                dictionary.load(SeriesId(id), row.get(1)?, &labels, kind, scale)
            }
            _ => false,
        };
        unknown += u64::from(!loaded);
    }
    Ok(unknown)
}

pub(super) fn insert_journal(
    db: &Connection,
    journal: Journal,
    k: i64,
    bytes: &[u8],
) -> rusqlite::Result<()> {
    let sql = match journal {
        Journal::J0 => "INSERT INTO j0 (k, b) VALUES (?, ?)",
        Journal::J1 => "INSERT INTO j1 (k, b) VALUES (?, ?)",
    };
    db.prepare_cached(sql)?.execute(params![k, bytes])?;
    Ok(())
}

/// Keys of a journal table in the order of writing.
pub(super) fn journal_keys(db: &Connection, journal: Journal) -> rusqlite::Result<Vec<i64>> {
    let mut statement = db.prepare(match journal {
        Journal::J0 => "SELECT k FROM j0 ORDER BY k",
        Journal::J1 => "SELECT k FROM j1 ORDER BY k",
    })?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// Also lets go of removed servers that no journal table names any more.
pub(super) fn empty_journal(db: &Connection, journal: Journal) -> rusqlite::Result<()> {
    db.execute_batch(match journal {
        Journal::J0 => "DELETE FROM j0; UPDATE forgotten SET in_j0 = 0;",
        Journal::J1 => "DELETE FROM j1; UPDATE forgotten SET in_j1 = 0;",
    })?;
    db.execute("DELETE FROM forgotten WHERE in_j0 = 0 AND in_j1 = 0", [])?;
    Ok(())
}

/// The blob of a row, at most its first `limit` bytes; reads no more than these from the disk.
pub(super) fn blob_start(db: &Connection, table: &str, key: i64, limit: usize) -> rusqlite::Result<Vec<u8>> {
    let blob = db.blob_open("main", table, "b", key, true)?;
    let mut start = vec![0; blob.len().min(limit)];
    blob.read_at_exact(&mut start, 0)?;
    Ok(start)
}

pub(super) fn put_chunk(db: &Connection, bucket: i64, server: u32, bytes: &[u8]) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO raw (k, b) VALUES (?, ?)")?
        .execute(params![chunk_key(bucket, server), bytes])?;
    Ok(())
}

pub(super) fn get_chunk(db: &Connection, bucket: i64, server: u32) -> rusqlite::Result<Option<Vec<u8>>> {
    db.prepare_cached("SELECT b FROM raw WHERE k = ?")?
        .query_row([chunk_key(bucket, server)], |row| row.get(0))
        .optional()
}

/// Keys of all chunks from a bucket on, newest first.
pub(super) fn chunk_keys_from(db: &Connection, bucket: i64) -> rusqlite::Result<Vec<i64>> {
    let mut statement = db.prepare("SELECT k FROM raw WHERE k >= ? ORDER BY k DESC")?;
    statement.query_map([chunk_key(bucket, 0)], |row| row.get(0))?.collect()
}

/// First and last bucket of which a chunk exists.
pub(super) fn bucket_span(db: &Connection) -> rusqlite::Result<Option<(i64, i64)>> {
    let (first, last): (Option<i64>, Option<i64>) = db
        .prepare_cached("SELECT (SELECT min(k) FROM raw), (SELECT max(k) FROM raw)")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(first.zip(last).map(|(first, last)| (split_key(first).0, split_key(last).0)))
}

/// Deletes all chunks of a server, a few at a time. Doing it again does no harm.
pub(super) fn delete_chunks(db: &mut Connection, server: u32) -> rusqlite::Result<()> {
    let Some((first, last)) = bucket_span(db)? else { return Ok(()) };
    let mut buckets = first..=last;
    loop {
        let part: Vec<i64> = buckets.by_ref().take(DELETES).collect();
        if part.is_empty() {
            return Ok(());
        }
        let tx = db.transaction()?;
        for bucket in part {
            tx.prepare_cached("DELETE FROM raw WHERE k = ?")?.execute([chunk_key(bucket, server)])?;
        }
        tx.commit()?;
    }
}

/// Values of this server that stand in the journal count no more.
pub(super) fn insert_forgotten(db: &Connection, server: u32) -> rusqlite::Result<()> {
    db.execute("INSERT OR REPLACE INTO forgotten (server, in_j0, in_j1) VALUES (?, 1, 1)", [server])?;
    Ok(())
}

pub(super) fn forgotten(db: &Connection) -> rusqlite::Result<Vec<u32>> {
    let mut statement = db.prepare("SELECT server FROM forgotten")?;
    statement.query_map([], |row| row.get(0))?.collect()
}
