//! At start: the heads as they were, from sealed chunks and the journal.
//!
//! Only reads. A damaged row is reported and counted, the rest lives.

use rusqlite::Connection;

use super::chunk::{self, Chunk};
use super::database::{self, Journal};
use super::head::{self, RECENT_TICKS, Ticks};
use super::journal;
use super::memory::Memory;

/// What is known of a journal table.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TableState {
    /// Newest bucket that a value in it belongs to. None: the table is empty.
    pub(super) newest_bucket: Option<i64>,
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

pub(super) fn recover(db: &Connection) -> rusqlite::Result<Recovered> {
    let mut memory = Memory::default();
    let mut damaged = database::load_series(db, &mut memory.dictionary)?;
    for server in database::forgotten(db)? {
        memory.forget(server);
    }
    let keys = [database::journal_keys(db, Journal::J0)?, database::journal_keys(db, Journal::J1)?];
    let mut tables: Vec<(Journal, Vec<i64>)> = Journal::BOTH.into_iter().zip(keys).collect();
    // The writer changes to the other table only when that is empty: one is wholly older.
    tables.sort_by_key(|(_, keys)| keys.first().copied().unwrap_or(i64::MIN));

    if let Some(first_ms) = first_time_ms(db, &tables)? {
        note_sealed(db, &mut memory, head::bucket_of(first_ms))?;
    }
    let mut states = [TableState::default(), TableState::default()];
    for (journal, keys) in &tables {
        let state = match journal {
            Journal::J0 => &mut states[0],
            Journal::J1 => &mut states[1],
        };
        for key in keys {
            damaged += u64::from(!replay(db, &mut memory, *journal, *key, state)?);
        }
    }
    damaged += load_recent(db, &mut memory)?;
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

/// The earliest time in the journal.
fn first_time_ms(db: &Connection, tables: &[(Journal, Vec<i64>)]) -> rusqlite::Result<Option<i64>> {
    let mut first = None;
    for (journal, keys) in tables {
        for key in keys {
            let start = database::blob_start(db, journal.table(), *key, journal::FIXED_BYTES)?;
            let span = journal::span_of(&start);
            first = first.into_iter().chain(span.map(|span| span.first_ms)).min();
        }
    }
    Ok(first)
}

/// Tells the heads what is sealed already, so that the journal does not bring it a second time.
fn note_sealed(db: &Connection, memory: &mut Memory, bucket: i64) -> rusqlite::Result<()> {
    for key in database::chunk_keys_from(db, bucket)? {
        let (_, server) = database::split_key(key);
        let last_ms = chunk::last_time_ms(&database::blob_start(db, "raw", key, chunk::HEADER_BYTES)?);
        memory.servers.entry(server).or_default().sealed_until(last_ms);
    }
    Ok(())
}

/// False: the row is damaged.
fn replay(
    db: &Connection,
    memory: &mut Memory,
    journal: Journal,
    key: i64,
    state: &mut TableState,
) -> rusqlite::Result<bool> {
    let row = database::blob_start(db, journal.table(), key, usize::MAX)?;
    let span = journal::read(&row, |server, at_ms, values| memory.restore(server, at_ms, values));
    // A damaged row, too, must be deleted one day: it counts as of the first bucket.
    let newest = span.map_or(i64::MIN, |span| head::bucket_of(span.last_ms));
    state.newest_bucket = state.newest_bucket.max(Some(newest));
    if span.is_none() {
        tracing::error!(
            table = journal.table(),
            row = key,
            "history: a journal row is damaged and is skipped"
        );
    }
    Ok(span.is_some())
}

/// Servers that have little in the journal get the end of their newest chunk. Answers how many were damaged.
fn load_recent(db: &Connection, memory: &mut Memory) -> rusqlite::Result<u64> {
    let Some((_, newest)) = database::bucket_span(db)? else { return Ok(0) };
    let mut damaged = 0;
    for key in database::chunk_keys_from(db, newest - 1)? {
        let (bucket, server) = database::split_key(key);
        let head = memory.servers.entry(server).or_default();
        if head.has_recent() || head.all_unsealed().map(Ticks::len).sum::<usize>() >= RECENT_TICKS {
            continue;
        }
        let Some(blob) = database::get_chunk(db, bucket, server)? else { continue };
        match Chunk::decode(&blob, |_| true) {
            Ok(chunk) => head.load_recent(&chunk),
            Err(error) => {
                damaged += 1;
                tracing::error!(server, bucket, %error, "history: a chunk is damaged and is skipped");
            }
        }
    }
    Ok(damaged)
}
