//! Makes the rows of the roll-ups from the rows of the level below, in the writer's transactions.
//!
//! Nothing of an open step is kept in memory: a row is made when its span is over, from what is sealed by then,
//! so a kill at any moment costs nothing and a start rebuilds nothing. Together with a row of [`Level::Minute`],
//! the raw chunks of the same six hours become one: the codec does better on many values.

use std::collections::HashSet;

use rusqlite::Connection;

use super::Shared;
use super::chunk::{Chunk, MAX_SERIES_PER_ROW};
use super::column::Effort;
use super::database::{self, Table};
use super::error::HistoryError;
use super::head::{self, BUCKET_MS, CHUNK_BUCKETS};
use super::level::Level;
use super::rollup::Row;
use super::series::SeriesId;
use super::stored::{self, Stored};

/// Samples that are joined into one chunk: a server with more keeps the chunks as they are. 24 MB while it is done.
const MAX_JOINED_SAMPLES: u64 = 2_000_000;

/// Part of a row that is made anew: from `from_ms`, before `to_ms`, whole steps.
#[derive(Debug, Clone, Copy)]
struct Window {
    from_ms: i64,
    to_ms: i64,
}

/// Why a row is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// There is none yet: of what is damaged, the rest is better than nothing.
    First,
    /// There is one. It may know what is damaged by now, so it is not made anew from less.
    Mend,
}

/// What [`roll`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// What it is made from is not there yet.
    NotYet,
}

/// Makes the next row of a level of a server and notes the progress in the file. Where there is nothing to roll
/// up there is no row.
pub(super) fn roll(
    db: &Connection,
    shared: &Shared,
    level: Level,
    server: u32,
) -> Result<Outcome, HistoryError> {
    let failed = |error| HistoryError::of(&shared.path, error);
    let Some(row) = shared.memory().progress.next(server, level) else { return Ok(Outcome::Done) };
    let start_ms = row * level.span_ms();
    let window = Window { from_ms: start_ms, to_ms: start_ms + level.span_ms() };
    if !is_complete(shared, level, server, window.to_ms) {
        return Ok(Outcome::NotYet);
    }
    make(db, shared, level, server, row, window, Purpose::First)?;
    if level == Level::Minute {
        join(db, shared, server, row, window)?;
    }
    database::save_progress(db, &shared.memory().progress, server).map_err(failed)?;
    database::save_next(db, server, level, row + 1).map_err(failed)?;
    Ok(Outcome::Done)
}

/// Brings what was sealed late in `bucket` into every row that was made before.
pub(super) fn mend(db: &Connection, shared: &Shared, server: u32, bucket: i64) -> Result<(), HistoryError> {
    let from_ms = bucket * BUCKET_MS;
    for level in Level::ROLL_UPS {
        let until_ms = shared.memory().progress.until_ms(server, level);
        if until_ms.is_none_or(|until| from_ms >= until) {
            continue;
        }
        let step_ms = level.step_ms();
        let window = Window {
            from_ms: from_ms.div_euclid(step_ms) * step_ms,
            to_ms: (from_ms + BUCKET_MS - 1).div_euclid(step_ms) * step_ms + step_ms,
        };
        make(db, shared, level, server, level.row_of(from_ms), window, Purpose::Mend)?;
    }
    Ok(())
}

fn is_complete(shared: &Shared, level: Level, server: u32, end_ms: i64) -> bool {
    let memory = shared.memory();
    match level.below() {
        Some(below) if below != Level::Raw => {
            memory.progress.until_ms(server, below).is_some_and(|until| until >= end_ms)
        }
        _ => memory.oldest_unsealed_of(server).is_none_or(|bucket| bucket * BUCKET_MS >= end_ms),
    }
}

fn make(
    db: &Connection,
    shared: &Shared,
    level: Level,
    server: u32,
    row: i64,
    window: Window,
    purpose: Purpose,
) -> Result<(), HistoryError> {
    let failed = |error| HistoryError::of(&shared.path, error);
    let table = Table::Level(level);
    let start_ms = row * level.span_ms();
    let mut fresh = Row::default();
    match level.below() {
        Some(below) if below != Level::Raw => {
            for finer in below.row_of(window.from_ms)..=below.row_of(window.to_ms - 1) {
                if let Some(finer_row) = read_row(db, shared, below, server, finer)? {
                    fresh.add_row(level, start_ms, below, finer * below.span_ms(), &finer_row);
                }
            }
        }
        _ => {
            let mut chunks = Vec::new();
            let damaged = each_chunk(db, shared, server, window, |_, chunk| chunks.push(chunk))?;
            if damaged > 0 && purpose == Purpose::Mend {
                return Ok(());
            }
            // In the order of time, whatever table they stand in.
            let all = chunks.into_iter().reduce(Chunk::merged).unwrap_or_default();
            fresh.add_samples(level, start_ms, &all);
        }
    }
    if fresh.is_empty() {
        return Ok(());
    }
    let index = |at_ms: i64| u32::try_from((at_ms - start_ms) / level.step_ms()).unwrap_or(0);
    let mut made = read_row(db, shared, level, server, row)?.unwrap_or_default();
    made.overlay(fresh, index(window.from_ms), index(window.to_ms - 1));
    if made.series.len() > MAX_SERIES_PER_ROW {
        let beyond = made.series.keys().nth(MAX_SERIES_PER_ROW).copied();
        let cut = beyond.map(|first| made.series.split_off(&first)).unwrap_or_default();
        tracing::warn!(
            server,
            level = level.name(),
            series = cut.len(),
            "history: too many series for one row"
        );
    }
    let whole: HashSet<SeriesId> = {
        let memory = shared.memory();
        let is_whole = |id: &SeriesId| memory.dictionary.get(*id).is_some_and(|series| series.scale == 1);
        made.series.keys().copied().filter(is_whole).collect()
    };
    let chunk = made.to_chunk(|id| whole.contains(&id));
    let bytes = chunk.encode(Effort::Thorough).map_err(|error| HistoryError::Seal(error.to_string()))?;
    database::put_row(db, table, row, server, &bytes).map_err(failed)
}

fn read_row(
    db: &Connection,
    shared: &Shared,
    level: Level,
    server: u32,
    row: i64,
) -> Result<Option<Row>, HistoryError> {
    let table = Table::Level(level);
    let Stored::Chunk(chunk) = stored::read(db, shared, table, row, server, |_| true)? else {
        return Ok(None);
    };
    let read = Row::of_chunk(&chunk);
    if read.is_none() {
        shared.damaged(table, row, server, "its columns do not fit together");
    }
    Ok(read)
}

/// Raw chunks of a server that may hold values of a window. A damaged one is reported and left out; answers how
/// many were.
fn each_chunk(
    db: &Connection,
    shared: &Shared,
    server: u32,
    window: Window,
    mut chunk: impl FnMut(Option<i64>, Chunk),
) -> Result<u64, HistoryError> {
    let mut damaged = 0;
    let last_ms = window.to_ms - 1;
    let long =
        (Table::Long.row_of(window.from_ms)..=Table::Long.row_of(last_ms)).map(|row| (Table::Long, row));
    let first = head::bucket_of(window.from_ms) - (CHUNK_BUCKETS - 1);
    let raw = (first..=head::bucket_of(last_ms)).map(|bucket| (Table::Level(Level::Raw), bucket));
    for (table, row) in long.chain(raw) {
        match stored::read(db, shared, table, row, server, |_| true)? {
            Stored::Missing => {}
            Stored::Damaged => damaged += 1,
            Stored::Chunk(read) => chunk((table != Table::Long).then_some(row), read),
        }
    }
    Ok(damaged)
}

/// Makes the chunks of six hours one. A damaged one stays where it is, and so do the others then.
fn join(db: &Connection, shared: &Shared, server: u32, row: i64, window: Window) -> Result<(), HistoryError> {
    let failed = |error| HistoryError::of(&shared.path, error);
    let mut chunks = Vec::new();
    let mut buckets = Vec::new();
    let damaged = each_chunk(db, shared, server, window, |bucket, chunk| {
        let inside = chunk.times_ms.first().is_some_and(|first| *first >= window.from_ms)
            && chunk.times_ms.last().is_some_and(|last| *last < window.to_ms);
        if inside {
            chunks.push(chunk);
            buckets.extend(bucket);
        }
    })?;
    let samples: u64 = chunks.iter().map(Chunk::samples).sum();
    if damaged > 0 || buckets.is_empty() || samples > MAX_JOINED_SAMPLES {
        return Ok(());
    }
    let Some(joined) = chunks.into_iter().reduce(Chunk::merged).filter(Chunk::fits) else { return Ok(()) };
    let bytes = joined.encode(Effort::Thorough).map_err(|error| HistoryError::Seal(error.to_string()))?;
    database::put_row(db, Table::Long, row, server, &bytes).map_err(failed)?;
    for bucket in buckets {
        database::delete_row(db, Table::Level(Level::Raw), bucket, server).map_err(failed)?;
    }
    Ok(())
}
