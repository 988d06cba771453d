//! Makes the rows of the roll-ups from the rows of the level below, in the writer's transactions.
//!
//! Nothing of an open step is kept in memory: a row is made when its span is over, from what is sealed by then,
//! so a kill at any moment costs nothing and a start rebuilds nothing. Together with a row of [`Level::Minute`],
//! the raw chunks of the same six hours become one: the codec does better on many values.

use std::collections::HashSet;

use rusqlite::{Connection, Savepoint};

use super::Shared;
use super::chunk::{Chunk, MAX_SERIES_PER_ROW};
use super::column::Effort;
use super::damage;
use super::database::{self, Table};
use super::error::HistoryError;
use super::head::{self, BUCKET_MS, CHUNK_BUCKETS};
use super::level::Level;
use super::rollup::Row;
use super::series::SeriesId;
use super::stored::{self, Stored};

/// Samples that are in memory at once, 24 MB: a server with more keeps its chunks as they are, and its rows are made of
/// a part of its series after the other.
const MAX_SAMPLES_AT_ONCE: u64 = 2_000_000;

/// Parts at the most: the samples of a few series in six hours are never too many.
const MAX_PARTS: u32 = 1024;

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
    db: &mut Savepoint<'_>,
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
        let part = db.savepoint().map_err(failed)?;
        match join(&part, shared, server, row, window) {
            Ok(()) => part.commit().map_err(failed)?,
            // The chunks stay as they are; the roll-up is made all the same.
            Err(error @ HistoryError::Damaged { .. }) => shared.damaged(Table::Long, row, server, &error),
            Err(error) => return Err(error),
        }
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
        let row = level.row_of(from_ms);
        match make(db, shared, level, server, row, window, Purpose::Mend) {
            // What was sealed is kept; the roll-up stays as it was.
            Err(error @ HistoryError::Damaged { .. }) => {
                shared.damaged(Table::Level(level), row, server, &error);
            }
            made => made?,
        }
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
            let blobs = Blobs::read(db, shared, server, window)?;
            let (made, is_whole) = of_samples(&blobs, shared, level, start_ms, MAX_SAMPLES_AT_ONCE);
            if !is_whole && purpose == Purpose::Mend {
                return Ok(());
            }
            fresh = made;
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

/// The steps of a row that begins at `start_ms`, with at most `limit` samples decoded at a time. False: something of it is
/// damaged and was left out.
fn of_samples(blobs: &Blobs, shared: &Shared, level: Level, start_ms: i64, limit: u64) -> (Row, bool) {
    let mut parts = 1;
    loop {
        if let Some(made) = of_parts(blobs, shared, level, start_ms, limit, parts) {
            return made;
        }
        parts *= 4;
    }
}

/// The series in so many parts. None: one of them has too many samples.
fn of_parts(
    blobs: &Blobs,
    shared: &Shared,
    level: Level,
    start_ms: i64,
    limit: u64,
    parts: u32,
) -> Option<(Row, bool)> {
    let limit = if parts < MAX_PARTS { limit } else { u64::MAX };
    let mut fresh = Row::default();
    let mut is_whole = blobs.damaged == 0;
    for part in 0..parts {
        let decoded = blobs.decode(shared, limit, |id| id.0 % parts == part)?;
        is_whole &= decoded.damaged == 0;
        // In the order of time, whatever table they stand in.
        let chunks = decoded.chunks.into_iter().map(|(_, chunk)| chunk);
        fresh.add_samples(level, start_ms, &chunks.reduce(Chunk::merged).unwrap_or_default());
    }
    Some((fresh, is_whole))
}

/// Raw chunks of a server that may hold values of a window, as they are stored: a tenth of what they are in memory, or
/// less.
struct Blobs {
    server: u32,
    /// With table and row.
    stored: Vec<(Table, i64, Vec<u8>)>,
    /// How many could not be read. Reported.
    damaged: u64,
}

/// What [`Blobs::decode`] found.
struct Decoded {
    /// With the bucket, where it is no joined one.
    chunks: Vec<(Option<i64>, Chunk)>,
    damaged: u64,
}

impl Blobs {
    fn read(db: &Connection, shared: &Shared, server: u32, window: Window) -> Result<Self, HistoryError> {
        let mut blobs = Self { server, stored: Vec::new(), damaged: 0 };
        let last_ms = window.to_ms - 1;
        let long =
            (Table::Long.row_of(window.from_ms)..=Table::Long.row_of(last_ms)).map(|row| (Table::Long, row));
        let first = head::bucket_of(window.from_ms) - (CHUNK_BUCKETS - 1);
        let raw = (first..=head::bucket_of(last_ms)).map(|bucket| (Table::Level(Level::Raw), bucket));
        for (table, row) in long.chain(raw) {
            match database::get_row(db, table, row, server) {
                Ok(Some(blob)) => blobs.stored.push((table, row, blob)),
                Ok(None) => {}
                Err(error) if damage::is_damage(&error) => {
                    shared.damaged(table, row, server, &error);
                    blobs.damaged += 1;
                }
                Err(error) => return Err(HistoryError::of(&shared.path, error)),
            }
        }
        Ok(blobs)
    }

    /// None: they hold more than `limit` samples of what is wanted. A damaged one is reported and left out.
    fn decode(&self, shared: &Shared, limit: u64, wanted: impl Fn(SeriesId) -> bool) -> Option<Decoded> {
        let mut decoded = Decoded { chunks: Vec::new(), damaged: self.damaged };
        let mut samples = 0;
        for (table, row, blob) in &self.stored {
            match Chunk::decode(blob, &wanted) {
                Ok(chunk) => {
                    samples += chunk.samples();
                    if samples > limit {
                        return None;
                    }
                    decoded.chunks.push(((*table != Table::Long).then_some(*row), chunk));
                }
                Err(error) => {
                    shared.damaged(*table, *row, self.server, &error);
                    decoded.damaged += 1;
                }
            }
        }
        Some(decoded)
    }
}

/// Makes the chunks of six hours one. A damaged one stays where it is, and so do the others then.
fn join(db: &Connection, shared: &Shared, server: u32, row: i64, window: Window) -> Result<(), HistoryError> {
    let failed = |error| HistoryError::of(&shared.path, error);
    let blobs = Blobs::read(db, shared, server, window)?;
    let Some(Decoded { chunks: read, damaged }) = blobs.decode(shared, MAX_SAMPLES_AT_ONCE, |_| true) else {
        return Ok(());
    };
    let mut chunks = Vec::new();
    let mut buckets = Vec::new();
    for (bucket, chunk) in read {
        let inside = chunk.times_ms.first().is_some_and(|first| *first >= window.from_ms)
            && chunk.times_ms.last().is_some_and(|last| *last < window.to_ms);
        if inside {
            chunks.push(chunk);
            buckets.extend(bucket);
        }
    }
    if damaged > 0 || buckets.is_empty() {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::History;
    use super::super::chunk::Column;
    use super::super::series::Kind;
    use super::*;
    use crate::clock::ManualClock;
    use crate::model::Timestamp;

    #[tokio::test]
    async fn a_server_with_more_samples_than_memory_may_hold_is_rolled_up_part_by_part() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_800_000_000)));
        let history = History::open(&directory.path().join("history.db"), clock).unwrap();
        let blob = |bucket: i64| {
            let times_ms: Vec<i64> = (0..100).map(|tick| bucket * BUCKET_MS + tick * 1000).collect();
            let column = |series: u32| Column {
                series: SeriesId(series),
                kind: Kind::Integer,
                ticks: (0..100).collect(),
                raw: (0..100).map(|tick| i64::from(series) + tick).collect(),
            };
            let chunk = Chunk { times_ms, columns: (1..=50).map(column).collect() };
            (Table::Level(Level::Raw), bucket, chunk.encode(Effort::Quick).unwrap())
        };
        let blobs = Blobs { server: 1, stored: (0..6).map(blob).collect(), damaged: 0 };
        let all = 50 * 100 * 6;
        assert!(blobs.decode(&history.shared, all, |_| true).is_some());
        assert!(blobs.decode(&history.shared, all - 1, |_| true).is_none());
        let (at_once, is_whole) = of_samples(&blobs, &history.shared, Level::Minute, 0, all);
        assert!(is_whole && at_once.series.len() == 50);
        for limit in [all - 1, all / 10, 1] {
            let (in_parts, is_whole) = of_samples(&blobs, &history.shared, Level::Minute, 0, limit);
            assert!(is_whole);
            assert_eq!(format!("{:?}", in_parts.series), format!("{:?}", at_once.series), "{limit}");
        }
        history.close().await.unwrap();
    }
}
