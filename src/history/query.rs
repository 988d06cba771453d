//! Ranges: roll-ups, sealed chunks and the heads together, as spans of average, least and greatest.
//!
//! Reads with short statements on connections of its own; never writes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::Shared;
use super::chunk::Chunk;
use super::database::{self, Table};
use super::error::HistoryError;
use super::head::{BUCKET_MS, CHUNK_BUCKETS};
use super::level::{DAY_MS, Level};
use super::memory::Unsealed;
use super::retention::Retention;
use super::rollup::{self, Row};
use super::series::{Series, SeriesId};
use super::stored::{self, Stored};
use crate::model::{SeriesKey, ServerNumber, Timestamp};

/// 31 December 9999: nobody asks for more, and sums of times stay far from overflow.
const END_OF_TIME_MS: i64 = 253_402_300_799_999;

/// Points of one series: two for each pixel of a wide screen.
pub const MAX_POINTS: usize = 5000;

/// Points of one answer over all its series: about 12 MB.
pub(super) const MAX_ANSWER_POINTS: usize = 1 << 18;

/// Reads at one time. More would only fight for two or four cores; the rest wait in line.
const READERS: usize = 4;

/// The values of one span of a range. Spans without a value have no point.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Start of the span.
    pub at: Timestamp,
    pub avg: f64,
    pub min: f64,
    pub max: f64,
    /// Samples in it, at least 1.
    pub count: u32,
}

/// One series of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesRange {
    pub server: ServerNumber,
    pub key: SeriesKey,
    /// Empty: there is nothing of it in the range.
    pub points: Vec<Point>,
}

/// What a range says of some series.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranges {
    /// The coarsest level that was read; what it does not have yet came from finer ones.
    pub level: Level,
    /// Start of the first span: what was asked for, or the start of the step of the level in which that is.
    pub from: Timestamp,
    /// Length of a span: whole steps of the level.
    pub width_ms: i64,
    pub series: Vec<SeriesRange>,
}

/// From `from_ms` to `to_ms`, both included, in spans of equal length.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) from_ms: i64,
    pub(super) to_ms: i64,
    pub(super) width_ms: i64,
    pub(super) level: Level,
}

impl Range {
    /// In at most `points` spans. The level is the coarsest that shows as much, or where that is not kept any
    /// more, the finest that is.
    pub(super) fn new(
        from: Timestamp,
        to: Timestamp,
        points: usize,
        now: Timestamp,
        retention: &Retention,
    ) -> Result<Self, HistoryError> {
        if !(1..=MAX_POINTS).contains(&points) {
            return Err(HistoryError::BadPoints { given: points, most: MAX_POINTS });
        }
        let (from_ms, to_ms) = (from.as_millis().max(0), to.as_millis().min(END_OF_TIME_MS));
        if to < from || to_ms < from_ms {
            return Err(HistoryError::BadRange);
        }
        let points = i64::try_from(points).unwrap_or(1);
        let width_ms = (to_ms - from_ms + 1) / points;
        let by_width = Level::ALL.into_iter().rev().find(|level| level.step_ms() <= width_ms);
        let is_kept = |level: Level| from_ms >= now.as_millis() - i64::from(retention.days(level)) * DAY_MS;
        let by_age = Level::ALL.into_iter().find(|level| is_kept(*level)).unwrap_or(Level::Day);
        let level = by_width.unwrap_or(Level::Raw).max(by_age);
        let step_ms = level.step_ms();
        // A range that ends where a step begins does not want that step.
        let to_ms = if level > Level::Raw && to_ms > from_ms { to_ms - 1 } else { to_ms };
        let from_ms = from_ms - from_ms % step_ms;
        let to_ms = to_ms - to_ms % step_ms + step_ms - 1;
        let width_ms = (to_ms - from_ms) / points + 1;
        Ok(Self { from_ms, to_ms, width_ms: (width_ms + step_ms - 1) / step_ms * step_ms, level })
    }

    /// Start of the span that a time belongs to. None: outside.
    pub(super) const fn span_of(&self, at_ms: i64) -> Option<i64> {
        if at_ms < self.from_ms || at_ms > self.to_ms {
            return None;
        }
        Some(at_ms - (at_ms - self.from_ms) % self.width_ms)
    }
}

/// Points of one series, filled in the order of time.
#[derive(Debug, Default)]
pub(super) struct Fold {
    pub(super) points: Vec<Point>,
    sum: f64,
}

impl Fold {
    /// Adds what is known of some time within a span: one sample or one step. Answers whether a point was begun.
    fn add(&mut self, value: Point) -> bool {
        match self.points.last_mut().filter(|point| point.at == value.at) {
            Some(point) => {
                self.sum += value.avg * f64::from(value.count);
                point.count = point.count.saturating_add(value.count);
                point.min = point.min.min(value.min);
                point.max = point.max.max(value.max);
                // Rounding must not put the average outside of what was measured.
                point.avg = (self.sum / f64::from(point.count)).clamp(point.min, point.max);
                false
            }
            None => {
                self.sum = value.avg * f64::from(value.count);
                self.points.push(value);
                true
            }
        }
    }
}

/// Connections for reading, made when first needed.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, permits: Arc::new(Semaphore::new(READERS)), idle: Mutex::new(Vec::new()) }
    }

    /// Waits for reads under way and refuses later ones.
    pub(super) async fn close(&self) {
        let all = u32::try_from(READERS).unwrap_or(1);
        // The only error is "closed already", which is what is wanted.
        let waited = self.permits.acquire_many(all).await;
        self.permits.close();
        drop(waited);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn take(&self) -> rusqlite::Result<Connection> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| database::open_reader(&self.path), Ok)
    }

    fn give_back(&self, db: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(db);
    }
}

/// Runs a read on a thread for it when its turn comes.
pub(super) async fn run<T: Send + 'static>(
    shared: Arc<Shared>,
    work: impl FnOnce(&Shared, &Connection) -> Result<T, HistoryError> + Send + 'static,
) -> Result<T, HistoryError> {
    let permit =
        Arc::clone(&shared.readers.permits).acquire_owned().await.map_err(|_closed| HistoryError::Closed)?;
    let read = tokio::task::spawn_blocking(move || {
        let db = shared.readers.take().map_err(|error| HistoryError::of(&shared.path, error))?;
        let outcome = work(&shared, &db);
        shared.readers.give_back(db);
        drop(permit);
        outcome
    });
    read.await.map_err(|error| HistoryError::Start(std::io::Error::other(error)))?
}

/// Several series of several servers, in the order in which they are wanted.
pub(super) fn ranges(
    shared: &Shared,
    db: &Connection,
    wanted: &[(ServerNumber, Vec<Series>)],
    range: Range,
) -> Result<Vec<SeriesRange>, HistoryError> {
    let mut found = Vec::new();
    let mut points = 0;
    for (server, series) in wanted {
        let folds = fold_server(shared, db, server.0, series, range, &mut points)?;
        found.extend(series.iter().zip(folds).map(|(series, fold)| SeriesRange {
            server: *server,
            key: series.key.clone(),
            points: fold.points,
        }));
    }
    Ok(found)
}

/// The points of some series of one server, a fold for each. `points` counts those of the whole answer.
pub(super) fn fold_server(
    shared: &Shared,
    db: &Connection,
    server: u32,
    wanted: &[Series],
    range: Range,
    points: &mut usize,
) -> Result<Vec<Fold>, HistoryError> {
    let places = wanted.iter().enumerate().map(|(place, series)| (series.id, place)).collect();
    let folds = wanted.iter().map(|_| Fold::default()).collect();
    let mut reading = Reading { shared, db, server, wanted, places, range, folds, points };
    reading.read()?;
    Ok(reading.folds)
}

struct Reading<'a> {
    shared: &'a Shared,
    db: &'a Connection,
    server: u32,
    wanted: &'a [Series],
    places: HashMap<SeriesId, usize>,
    range: Range,
    folds: Vec<Fold>,
    points: &'a mut usize,
}

impl Reading<'_> {
    fn read(&mut self) -> Result<(), HistoryError> {
        // Memory first: what is sealed or rolled up between this and the disk is then seen twice, never missed;
        // samples of one time count once.
        let (unsealed, rolled_until) = {
            let memory = self.shared.memory();
            let Range { from_ms, to_ms, .. } = self.range;
            let unsealed = memory.unsealed_values(self.server, self.wanted, from_ms, to_ms);
            let until = Level::ROLL_UPS.map(|level| memory.progress.until_ms(self.server, level));
            (unsealed, until)
        };
        // One view of the file for all that follows: a join between two reads would hide its samples from both.
        let db = self.db;
        let _view = db.unchecked_transaction().map_err(|error| self.failed(error))?;
        let unsealed_ms = unsealed.first_bucket.map_or(i64::MAX, |bucket| bucket.saturating_mul(BUCKET_MS));
        let mut from_ms = self.range.from_ms;
        for (level, until_ms) in Level::ROLL_UPS.into_iter().zip(rolled_until).rev() {
            if level > self.range.level {
                continue;
            }
            // A clock that was set back leaves roll-ups ahead of what is not sealed.
            let until_ms = until_ms.unwrap_or(0).min(unsealed_ms).min(self.range.to_ms + 1);
            let until_ms = until_ms - until_ms.rem_euclid(level.step_ms());
            if from_ms < until_ms {
                self.add_rows(level, from_ms, until_ms)?;
                from_ms = until_ms;
            }
        }
        self.add_samples(from_ms, unsealed)
    }

    fn add(&mut self, series: SeriesId, at_ms: i64, value: Point) -> Result<(), HistoryError> {
        let Some(span) = self.range.span_of(at_ms) else { return Ok(()) };
        let Some(fold) = self.places.get(&series).and_then(|place| self.folds.get_mut(*place)) else {
            return Ok(());
        };
        *self.points += usize::from(fold.add(Point { at: Timestamp::from_millis(span), ..value }));
        if *self.points > MAX_ANSWER_POINTS {
            return Err(HistoryError::TooManyPoints { most: MAX_ANSWER_POINTS });
        }
        Ok(())
    }

    fn failed(&self, error: rusqlite::Error) -> HistoryError {
        HistoryError::of(&self.shared.path, error)
    }

    /// Steps of a level from `from_ms`, before `to_ms`.
    fn add_rows(&mut self, level: Level, from_ms: i64, to_ms: i64) -> Result<(), HistoryError> {
        let table = Table::Level(level);
        let Some((first, last)) = database::row_span(self.db, table).map_err(|error| self.failed(error))?
        else {
            return Ok(());
        };
        for row in level.row_of(from_ms).max(first)..=level.row_of(to_ms - 1).min(last) {
            let places = &self.places;
            let is_wanted = |column| places.contains_key(&rollup::series_of_column(column));
            let Some(chunk) = self.chunk(table, row, is_wanted)? else { continue };
            let Some(rolled) = Row::of_chunk(&chunk) else {
                self.shared.damaged(table, row, self.server, "its columns do not fit together");
                continue;
            };
            let start_ms = row * level.span_ms();
            for (id, rolled) in rolled.series {
                let Some(series) = self.places.get(&id).and_then(|place| self.wanted.get(*place)) else {
                    continue;
                };
                for step in rolled.steps {
                    let at_ms = start_ms + i64::from(step.index) * level.step_ms();
                    if !(from_ms..to_ms).contains(&at_ms) {
                        continue;
                    }
                    let [avg, min, max] = [step.avg, step.min, step.max].map(|value| series.unscale(value));
                    let at = Timestamp::from_millis(at_ms);
                    self.add(id, at_ms, Point { at, avg, min, max, count: step.count })?;
                }
            }
        }
        Ok(())
    }

    /// Raw samples from `from_ms` on.
    fn add_samples(&mut self, from_ms: i64, unsealed: Unsealed) -> Result<(), HistoryError> {
        let to_ms = self.range.to_ms;
        let mut values: Vec<Vec<(i64, i64)>> = self.wanted.iter().map(|_| Vec::new()).collect();
        for table in [Table::Long, Table::Level(Level::Raw)] {
            let span = database::row_span(self.db, table).map_err(|error| self.failed(error))?;
            let Some((first, last)) = span else { continue };
            // A chunk of the first version reaches into the buckets behind its own.
            let before = if table == Table::Long { 0 } else { CHUNK_BUCKETS - 1 };
            for row in (table.row_of(from_ms) - before).max(first)..=table.row_of(to_ms).min(last) {
                let places = &self.places;
                let Some(chunk) = self.chunk(table, row, |id| places.contains_key(&id))? else { continue };
                for column in &chunk.columns {
                    let place = self.places.get(&column.series);
                    let Some(values) = place.and_then(|place| values.get_mut(*place)) else { continue };
                    let cells =
                        column.ticks.iter().zip(&column.raw).filter_map(|(tick, raw)| {
                            Some((chunk.times_ms.get(*tick as usize).copied()?, *raw))
                        });
                    values.extend(cells.filter(|(at_ms, _)| (from_ms..=to_ms).contains(at_ms)));
                }
            }
        }
        for (id, more) in unsealed.values {
            if let Some(values) = self.places.get(&id).and_then(|place| values.get_mut(*place)) {
                values.extend(more.into_iter().filter(|(at_ms, _)| *at_ms >= from_ms));
            }
        }
        for (series, mut values) in self.wanted.iter().zip(values) {
            if !values.is_sorted_by(|a, b| a.0 < b.0) {
                values.sort_by_key(|(at_ms, _)| *at_ms);
                values.dedup_by_key(|(at_ms, _)| *at_ms);
            }
            for (at_ms, raw) in values {
                let value = series.restore(raw);
                let at = Timestamp::from_millis(at_ms);
                self.add(series.id, at_ms, Point { at, avg: value, min: value, max: value, count: 1 })?;
            }
        }
        Ok(())
    }

    fn chunk(
        &self,
        table: Table,
        row: i64,
        wanted: impl Fn(SeriesId) -> bool,
    ) -> Result<Option<Chunk>, HistoryError> {
        Ok(match stored::read(self.db, self.shared, table, row, self.server, wanted)? {
            Stored::Chunk(chunk) => Some(chunk),
            Stored::Missing | Stored::Damaged => None,
        })
    }
}
