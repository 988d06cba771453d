//! At start: the heads as they were, from sealed chunks and the journal.
//!
//! Only reads. A damaged row is reported and counted, the rest lives.

use std::collections::HashMap;

use rusqlite::Connection;

use super::chunk::{self, Chunk};
use super::damage;
use super::database::{self, Journal, Table};
use super::head::{self, BUCKET_MS, RECENT_TICKS};
use super::journal;
use super::level::Level;
use super::memory::Memory;
use crate::model::Timestamp;

/// Buckets that are searched for the recent past of a server: two hours.
const RECENT_BUCKETS: i64 = 12;

/// What is known of a journal table.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TableState {
    /// None: the table is empty.
    pub(super) filled: Option<Filled>,
}

/// What is in a journal table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filled {
    /// See [`Memory::generation`].
    pub(super) generation: u64,
    /// Bucket of its last row.
    pub(super) bucket: i64,
}

/// Where the writer goes on.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) memory: Memory,
    pub(super) j0: TableState,
    pub(super) j1: TableState,
    pub(super) active: Journal,
    pub(super) next_key: i64,
    /// Rows that could not be read.
    pub(super) damaged: u64,
}

pub(super) fn recover(db: &Connection, now: Timestamp) -> rusqlite::Result<Recovered> {
    let mut memory = Memory::default();
    let mut damaged = database::load_series(db, &mut memory.dictionary)?;
    for server in database::forgotten(db)? {
        memory.forget(server);
    }
    load_progress(db, &mut memory)?;
    let found = [database::journal_keys(db, Journal::J0)?, database::journal_keys(db, Journal::J1)?];
    damaged += found.iter().map(|found| found.damaged).sum::<u64>();
    let keys = found.map(|found| found.keys);
    let mut tables: Vec<(Journal, Vec<i64>)> = Journal::BOTH.into_iter().zip(keys).collect();
    // The writer changes to the other table only when that is empty: one is wholly older.
    tables.sort_by_key(|(_, keys)| keys.first().copied().unwrap_or(i64::MIN));

    if let Some(first_ms) = first_time_ms(db, &tables)? {
        damaged += note_sealed(db, &mut memory, first_ms)?;
    }
    let mut states = [TableState::default(), TableState::default()];
    for (journal, keys) in &tables {
        let state = match journal {
            Journal::J0 => &mut states[0],
            Journal::J1 => &mut states[1],
        };
        memory.generation += 1;
        for key in keys {
            damaged += u64::from(!replay(db, &mut memory, *journal, *key, now, state)?);
        }
    }
    damaged += load_recent(db, &mut memory, now)?;
    let newest = tables.last();
    let [j0, j1] = states;
    Ok(Recovered {
        memory,
        j0,
        j1,
        active: newest.map_or(Journal::J0, |(journal, _)| *journal),
        next_key: newest.and_then(|(_, keys)| keys.last()).map_or(1, |key| key + 1),
        damaged,
    })
}

/// Servers of a file that has no roll-ups yet begin with the oldest that they have.
fn load_progress(db: &Connection, memory: &mut Memory) -> rusqlite::Result<()> {
    let stored = database::progress(db)?;
    if stored.is_empty() {
        for (server, bucket) in database::first_buckets(db)? {
            memory.progress.begin(server, bucket * BUCKET_MS);
        }
        return Ok(());
    }
    let mut rows: HashMap<u32, Vec<(Level, i64)>> = HashMap::new();
    for (server, level, next) in stored {
        if let Some(level) = Level::ALL.get(usize::from(level)) {
            rows.entry(server).or_default().push((*level, next));
        }
    }
    for (server, rows) in rows {
        // A level that is not in the file has not ended its first row: it begins where the finest one does.
        let first = rows.iter().map(|(level, next)| next.saturating_mul(level.span_ms())).min();
        memory.progress.begin(server, first.unwrap_or(0));
        for (level, next) in rows {
            memory.progress.set(server, level, next);
        }
        memory.progress.saved(server);
    }
    Ok(())
}

/// The earliest time in the journal.
fn first_time_ms(db: &Connection, tables: &[(Journal, Vec<i64>)]) -> rusqlite::Result<Option<i64>> {
    let mut first = None;
    for (journal, keys) in tables {
        for key in keys {
            let start = match database::blob_start(db, journal.table(), *key, journal::FIXED_BYTES) {
                // Counted when it is replayed.
                Err(error) if damage::is_damage(&error) => continue,
                start => start?,
            };
            let span = journal::span_of(&start);
            first = first.into_iter().chain(span.map(|span| span.first_ms)).min();
        }
    }
    Ok(first)
}

/// Tells the heads what is sealed already, so that the journal does not bring it a second time. Answers how many
/// pages were damaged: what they hold the journal brings once more.
fn note_sealed(db: &Connection, memory: &mut Memory, first_ms: i64) -> rusqlite::Result<u64> {
    let mut damaged = 0;
    for table in [Table::Level(Level::Raw), Table::Long] {
        let found = database::keys_from(db, table, table.row_of(first_ms))?;
        damaged += found.damaged;
        for key in found.keys {
            let (_, server) = database::split_key(key);
            let start = match database::blob_start(db, table.name(), key, chunk::HEADER_BYTES) {
                // The journal brings it once more.
                Err(error) if damage::is_damage(&error) => continue,
                start => start?,
            };
            let last_ms = chunk::last_time_ms(&start);
            memory.servers.entry(server).or_default().sealed_until(last_ms);
        }
    }
    Ok(damaged)
}

/// False: the row is damaged.
fn replay(
    db: &Connection,
    memory: &mut Memory,
    journal: Journal,
    key: i64,
    now: Timestamp,
    state: &mut TableState,
) -> rusqlite::Result<bool> {
    let row = match database::blob_start(db, journal.table(), key, usize::MAX) {
        // Nothing in it is of our form: it is counted below.
        Err(error) if damage::is_damage(&error) => Vec::new(),
        row => row?,
    };
    let now_ms = now.as_millis();
    let span = journal::read(&row, |source, at_ms, values| memory.restore(source, at_ms, now_ms, values));
    let bucket = span.map(|span| head::bucket_of(span.last_ms));
    let bucket = bucket.or(state.filled.map(|filled| filled.bucket)).unwrap_or(i64::MIN);
    state.filled = Some(Filled { generation: memory.generation, bucket });
    if span.is_none() {
        tracing::error!(
            table = journal.table(),
            row = key,
            "history: a journal row is damaged and is skipped"
        );
    }
    Ok(span.is_some())
}

/// Servers that have little in the journal get the end of their newest chunks. Answers how many were damaged.
fn load_recent(db: &Connection, memory: &mut Memory, now: Timestamp) -> rusqlite::Result<u64> {
    let table = Table::Level(Level::Raw);
    let Some((_, newest)) = database::row_span(db, table)? else { return Ok(0) };
    let newest = newest.min(head::bucket_of(now.as_millis()));
    let mut damaged = 0;
    let found = database::keys_from(db, table, newest - RECENT_BUCKETS)?;
    damaged += found.damaged;
    for key in found.keys {
        let (bucket, server) = database::split_key(key);
        let head = memory.servers.entry(server).or_default();
        if head.ticks_in_memory() >= RECENT_TICKS {
            continue;
        }
        let blob = match database::get_row(db, table, bucket, server) {
            Ok(Some(blob)) => blob,
            Ok(None) => continue,
            Err(error) if damage::is_damage(&error) => {
                damaged += 1;
                tracing::error!(server, bucket, %error, "history: a row is damaged and is skipped");
                continue;
            }
            Err(error) => return Err(error),
        };
        match Chunk::decode(&blob, |_| true) {
            Ok(chunk) => head.load_recent(chunk),
            Err(error) => {
                damaged += 1;
                tracing::error!(server, bucket, %error, "history: a chunk is damaged and is skipped");
            }
        }
    }
    Ok(damaged)
}
