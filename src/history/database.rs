//! The file: how it is opened, and every statement on it.
//!
//! Functions take a connection or a transaction, so that the writer composes them in one.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use rusqlite_migration::{M, Migrations};

use super::damage::{Keys, is_damage, readable_above, readable_below, readable_keys};
use super::error::HistoryError;
use super::level::Level;
use super::progress::Progress;
use super::series::{Changes, Dictionary, Kind, SeriesId, Stored};

const MIGRATIONS: &[M<'_>] =
    &[M::up(include_str!("migrations/0001_raw.sql")), M::up(include_str!("migrations/0002_rollups.sql"))];

/// How long a statement waits for a lock that another process (a backup) holds. Kept under a round of
/// the writer; the writer tries again anyway.
const BUSY: Duration = Duration::from_millis(500);

/// The write-ahead log is cut back to this after a checkpoint; a burst may make it longer for a while.
const WAL_BYTES: i64 = 16 << 20;

/// Rows looked for in one transaction of a server's removal: some milliseconds.
const DELETES: usize = 2_000;

/// Statements that a connection keeps prepared: each of a handful for each of eleven tables.
const STATEMENTS: usize = 64;

/// Setting: the number of the next new series.
const NEXT_SERIES: &str = "next_series";

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

/// A table of rows by span and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Table {
    Level(Level),
    /// Raw chunks that were joined; its rows span what those of [`Level::Minute`] do.
    Long,
}

impl Table {
    pub(super) const ALL: [Self; 7] = [
        Self::Level(Level::Raw),
        Self::Long,
        Self::Level(Level::Minute),
        Self::Level(Level::FiveMinutes),
        Self::Level(Level::QuarterHour),
        Self::Level(Level::Hour),
        Self::Level(Level::Day),
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Level(level) => level.table(),
            Self::Long => "long",
        }
    }

    /// Whose values it holds.
    pub(super) const fn level(self) -> Level {
        match self {
            Self::Level(level) => level,
            Self::Long => Level::Raw,
        }
    }

    pub(super) const fn span_ms(self) -> i64 {
        match self {
            Self::Level(level) => level.span_ms(),
            Self::Long => Level::Minute.span_ms(),
        }
    }

    pub(super) const fn row_of(self, at_ms: i64) -> i64 {
        at_ms.div_euclid(self.span_ms())
    }
}

/// Key of a row.
pub(super) const fn chunk_key(bucket: i64, server: u32) -> i64 {
    bucket << super::memory::SERVER_BITS | server as i64
}

/// Row and server of a key.
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
    db.set_prepared_statement_cache_capacity(STATEMENTS);
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

/// A connection for one short read after the other.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    db.busy_timeout(BUSY)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(db)
}

/// What the dictionary says of its changes.
pub(super) fn save_series(db: &Connection, changes: &Changes) -> rusqlite::Result<()> {
    for id in &changes.removed {
        db.prepare_cached("DELETE FROM series WHERE id = ?")?.execute([id.0])?;
    }
    let sql =
        "INSERT INTO series (id, metric, labels, scale, kind, owner, seen_day) VALUES (?, ?, ?, ?, ?, ?, ?)";
    for series in &changes.added {
        let (metric, labels) = (series.key.metric.as_str(), series.key.labels.as_str());
        db.prepare_cached(sql)?.execute(params![
            series.id.0,
            metric,
            labels,
            series.scale,
            series.kind.code(),
            series.owner,
            series.seen_day
        ])?;
    }
    if !changes.is_empty() {
        put_setting(db, NEXT_SERIES, &changes.next_id.to_string())?;
    }
    Ok(())
}

pub(super) fn save_seen(db: &Connection, seen: &[(SeriesId, i64)]) -> rusqlite::Result<()> {
    let mut statement =
        db.prepare_cached("UPDATE series SET seen_day = ?2 WHERE id = ?1 AND seen_day <> ?2")?;
    for (id, day) in seen {
        statement.execute(params![id.0, day])?;
    }
    Ok(())
}

/// Answers how many rows were none that this program writes.
pub(super) fn load_series(db: &Connection, dictionary: &mut Dictionary) -> rusqlite::Result<u64> {
    let mut statement =
        db.prepare("SELECT id, metric, labels, scale, kind, owner, seen_day FROM series ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut unknown = 0;
    while let Some(row) = rows.next()? {
        let (id, scale, kind): (i64, i64, i64) = (row.get(0)?, row.get(3)?, row.get(4)?);
        let owner: i64 = row.get(5)?;
        let loaded = match (u32::try_from(id), u32::try_from(scale), Kind::from_code(kind)) {
            (Ok(id), Ok(scale), Some(kind)) => dictionary.load(Stored {
                id: SeriesId(id),
                metric: row.get(1)?,
                labels: row.get(2)?,
                kind,
                scale,
                owner: u32::try_from(owner).unwrap_or(0),
                seen_day: row.get(6)?,
            }),
            _ => false,
        };
        unknown += u64::from(!loaded);
    }
    let next = setting(db, NEXT_SERIES)?.and_then(|text| text.parse().ok());
    dictionary.continue_from(next.unwrap_or(1));
    Ok(unknown)
}

pub(super) fn setting(db: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    db.prepare_cached("SELECT value FROM settings WHERE name = ?")?
        .query_row([name], |row| row.get(0))
        .optional()
}

pub(super) fn put_setting(db: &Connection, name: &str, value: &str) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)")?
        .execute([name, value])?;
    Ok(())
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
pub(super) fn journal_keys(db: &Connection, journal: Journal) -> rusqlite::Result<Keys> {
    let mut found = readable_keys(db, journal.table(), i64::MIN)?;
    found.keys.reverse();
    Ok(found)
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

/// Writes a row in place of the one that may be there.
pub(super) fn put_row(
    db: &Connection,
    table: Table,
    row: i64,
    server: u32,
    bytes: &[u8],
) -> rusqlite::Result<()> {
    let (name, key) = (table.name(), chunk_key(row, server));
    let before: Option<i64> = db
        .prepare_cached(&format!("SELECT length(b) FROM {name} WHERE k = ?"))?
        .query_row([key], |row| row.get(0))
        .optional()?;
    db.prepare_cached(&format!("INSERT OR REPLACE INTO {name} (k, b) VALUES (?, ?)"))?
        .execute(params![key, bytes])?;
    let length = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
    count(db, table, i64::from(before.is_none()), length - before.unwrap_or(0))
}

pub(super) fn get_row(
    db: &Connection,
    table: Table,
    row: i64,
    server: u32,
) -> rusqlite::Result<Option<Vec<u8>>> {
    db.prepare_cached(&format!("SELECT b FROM {} WHERE k = ?", table.name()))?
        .query_row([chunk_key(row, server)], |row| row.get(0))
        .optional()
}

pub(super) fn delete_row(db: &Connection, table: Table, row: i64, server: u32) -> rusqlite::Result<()> {
    let deleted: Option<i64> = db
        .prepare_cached(&format!("DELETE FROM {} WHERE k = ? RETURNING length(b)", table.name()))?
        .query_row([chunk_key(row, server)], |row| row.get(0))
        .optional()?;
    deleted.map_or(Ok(()), |bytes| count(db, table, -1, -bytes))
}

/// Deletes rows in one transaction; where the file is damaged each in its own, and `stays` hears of those that stand where
/// SQLite cannot write.
pub(super) fn delete_rows(
    db: &mut Connection,
    table: Table,
    rows: &[(i64, u32)],
    mut stays: impl FnMut(i64, u32),
) -> rusqlite::Result<()> {
    match delete_together(db, table, rows) {
        Err(error) if is_damage(&error) => {}
        outcome => return outcome,
    }
    for (row, server) in rows {
        match delete_together(db, table, &[(*row, *server)]) {
            Err(error) if is_damage(&error) => stays(*row, *server),
            outcome => outcome?,
        }
    }
    Ok(())
}

fn delete_together(db: &mut Connection, table: Table, rows: &[(i64, u32)]) -> rusqlite::Result<()> {
    let tx = db.transaction()?;
    for (row, server) in rows {
        delete_row(&tx, table, *row, *server)?;
    }
    tx.commit()
}

/// The first rows after `after` (a key) and before `row`, oldest first; what cannot be read is stepped over.
pub(super) fn rows_between(
    db: &Connection,
    table: Table,
    after: i64,
    row: i64,
    limit: u32,
) -> rusqlite::Result<Vec<(i64, u32)>> {
    let before = chunk_key(row, 0);
    let read = |first: i64| -> rusqlite::Result<Vec<(i64, u32)>> {
        let sql = format!("SELECT k FROM {} WHERE k >= ? AND k < ? ORDER BY k LIMIT ?", table.name());
        let mut statement = db.prepare_cached(&sql)?;
        let mut rows = statement.query(params![first, before, limit])?;
        let mut found = Vec::new();
        loop {
            match rows.next() {
                Ok(Some(row)) => found.push(split_key(row.get(0)?)),
                Ok(None) => return Ok(found),
                // The next call begins at the damage.
                Err(error) if is_damage(&error) && !found.is_empty() => return Ok(found),
                Err(error) => return Err(error),
            }
        }
    };
    let first = after.saturating_add(1);
    match read(first) {
        Err(error) if is_damage(&error) => {
            let next = readable_above(db, table.name(), first, before.saturating_sub(1))?;
            next.map_or(Ok(Vec::new()), read)
        }
        found => found,
    }
}

/// Size of a page and number of pages that hold nothing.
pub(super) fn free_pages(db: &Connection) -> rusqlite::Result<(u64, u64)> {
    let ask = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (page, free) = (ask("page_size")?, ask("freelist_count")?);
    Ok((page.try_into().unwrap_or(0), free.try_into().unwrap_or(0)))
}

pub(super) fn journal_rows(db: &Connection) -> rusqlite::Result<u64> {
    let rows: i64 = db
        .prepare_cached("SELECT (SELECT count(*) FROM j0) + (SELECT count(*) FROM j1)")?
        .query_row([], |row| row.get(0))?;
    Ok(rows.try_into().unwrap_or(0))
}

/// What SQLite's check complains of; at most `limit` lines.
pub(super) fn integrity(db: &Connection, limit: usize) -> rusqlite::Result<Vec<String>> {
    let mut statement = db.prepare(&format!("PRAGMA integrity_check({limit})"))?;
    let mut lines = Vec::new();
    let mut rows = statement.query([])?;
    loop {
        match rows.next() {
            Ok(Some(row)) => lines.push(row.get::<_, String>(0)?),
            Ok(None) => break,
            // Of some damage it makes an error in place of a line.
            Err(error) if is_damage(&error) => {
                lines.push(error.to_string());
                break;
            }
            Err(error) => return Err(error),
        }
    }
    lines.retain(|line| line != "ok");
    Ok(lines)
}

fn count(db: &Connection, table: Table, rows: i64, bytes: i64) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE totals SET rows = rows + ?2, bytes = bytes + ?3 WHERE name = ?1")?
        .execute(params![table.name(), rows, bytes])?;
    Ok(())
}

/// Rows and bytes of a table.
pub(super) fn totals(db: &Connection, table: Table) -> rusqlite::Result<(u64, u64)> {
    db.prepare_cached("SELECT rows, bytes FROM totals WHERE name = ?")?.query_row([table.name()], |row| {
        let (rows, bytes): (i64, i64) = (row.get(0)?, row.get(1)?);
        Ok((rows.try_into().unwrap_or(0), bytes.try_into().unwrap_or(0)))
    })
}

pub(super) fn save_next(db: &Connection, server: u32, level: Level, next: i64) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT OR REPLACE INTO progress (server, level, next_row) VALUES (?, ?, ?)")?
        .execute(params![server, i64::try_from(level.index()).unwrap_or(0), next])?;
    Ok(())
}

/// Where a server stands at all levels: a level that is missing in the file would begin anew.
pub(super) fn save_progress(db: &Connection, progress: &Progress, server: u32) -> rusqlite::Result<()> {
    for level in Level::ROLL_UPS {
        if let Some(next) = progress.next(server, level) {
            save_next(db, server, level, next)?;
        }
    }
    Ok(())
}

/// Where the file has none, as after an update from the first version.
pub(super) fn save_all_progress(db: &mut Connection, memory: &Progress) -> rusqlite::Result<()> {
    if !progress(db)?.is_empty() {
        return Ok(());
    }
    let tx = db.transaction()?;
    for server in memory.servers() {
        save_progress(&tx, memory, server)?;
    }
    tx.commit()
}

/// Server, number of the level, next row.
pub(super) fn progress(db: &Connection) -> rusqlite::Result<Vec<(u32, u8, i64)>> {
    let mut statement = db.prepare("SELECT server, level, next_row FROM progress")?;
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
}

/// Servers that have sealed raw chunks, each with its oldest bucket. Reads all keys.
pub(super) fn first_buckets(db: &Connection) -> rusqlite::Result<Vec<(u32, i64)>> {
    let mut first = HashMap::new();
    for key in keys_from(db, Table::Level(Level::Raw), 0)?.keys {
        let (bucket, server) = split_key(key);
        // Newest first: what stays is the oldest.
        first.insert(server, bucket);
    }
    Ok(first.into_iter().collect())
}

/// Keys of a table from a row on, newest first.
pub(super) fn keys_from(db: &Connection, table: Table, row: i64) -> rusqlite::Result<Keys> {
    readable_keys(db, table.name(), chunk_key(row, 0))
}

/// First and last row of a table, as far as they can be read.
pub(super) fn row_span(db: &Connection, table: Table) -> rusqlite::Result<Option<(i64, i64)>> {
    let name = table.name();
    let edge = |function: &str| -> rusqlite::Result<Option<i64>> {
        let sql = format!("SELECT {function}(k) FROM {name}");
        match db.prepare_cached(&sql)?.query_row([], |row| row.get(0)) {
            Err(error) if is_damage(&error) && function == "min" => readable_above(db, name, 0, i64::MAX),
            Err(error) if is_damage(&error) => readable_below(db, name, 0, i64::MAX),
            found => found,
        }
    };
    let (first, last) = (edge("min")?, edge("max")?);
    Ok(first.zip(last).map(|(first, last)| (split_key(first).0, split_key(last).0)))
}

/// Deletes all rows of a server, a few at a time. Doing it again does no harm.
pub(super) fn delete_server(db: &mut Connection, server: u32) -> rusqlite::Result<()> {
    for table in Table::ALL {
        let Some((first, last)) = row_span(db, table)? else { continue };
        let mut rows = first..=last;
        loop {
            let part: Vec<i64> = rows.by_ref().take(DELETES).collect();
            if part.is_empty() {
                break;
            }
            let part: Vec<(i64, u32)> = part.into_iter().map(|row| (row, server)).collect();
            // What cannot be deleted cannot be read either.
            delete_rows(db, table, &part, |_, _| {})?;
        }
    }
    db.execute("DELETE FROM progress WHERE server = ?", [server])?;
    Ok(())
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
