//! Ranges: sealed chunks and the head together, as buckets of average, least and greatest.
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
use super::database;
use super::error::HistoryError;
use super::head;
use super::memory::Unsealed;
use super::series::{Series, SeriesId};
use crate::model::{Labels, Timestamp};

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

/// From `from_ms` to `to_ms`, both included, in `points` spans of equal length.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    from_ms: i64,
    to_ms: i64,
    width_ms: i64,
}

impl Range {
    pub(super) fn new(from: Timestamp, to: Timestamp, points: usize) -> Result<Self, HistoryError> {
        if !(1..=MAX_POINTS).contains(&points) {
            return Err(HistoryError::BadPoints { given: points, most: MAX_POINTS });
        }
        let (from_ms, to_ms) = (from.as_millis(), to.as_millis());
        let length =
            to_ms.checked_sub(from_ms).filter(|length| *length >= 0).ok_or(HistoryError::BadRange)?;
        let points = i64::try_from(points).unwrap_or(1);
        Ok(Self { from_ms, to_ms, width_ms: length / points + 1 })
    }

    /// Start of the span that a time belongs to. None: outside.
    const fn span_of(&self, at_ms: i64) -> Option<i64> {
        if at_ms < self.from_ms || at_ms > self.to_ms {
            return None;
        }
        Some(at_ms - (at_ms - self.from_ms) % self.width_ms)
    }
}

/// Points of one series, filled in the order of time.
#[derive(Debug, Default)]
struct Fold {
    points: Vec<Point>,
    sum: f64,
}

impl Fold {
    /// Answers whether a point was begun.
    fn add(&mut self, span_ms: i64, value: f64) -> bool {
        let at = Timestamp::from_millis(span_ms);
        match self.points.last_mut().filter(|point| point.at == at) {
            Some(point) => {
                self.sum += value;
                point.count = point.count.saturating_add(1);
                point.min = point.min.min(value);
                point.max = point.max.max(value);
                // Rounding must not put the average outside of what was measured.
                point.avg = (self.sum / f64::from(point.count)).clamp(point.min, point.max);
                false
            }
            None => {
                self.sum = value;
                self.points.push(Point { at, avg: value, min: value, max: value, count: 1 });
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

/// Points by series, only of series that have some.
pub(super) async fn range(
    shared: Arc<Shared>,
    server: u32,
    wanted: Vec<Series>,
    range: Range,
) -> Result<Vec<(Labels, Vec<Point>)>, HistoryError> {
    let permit =
        Arc::clone(&shared.readers.permits).acquire_owned().await.map_err(|_closed| HistoryError::Closed)?;
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let read = tokio::task::spawn_blocking(move || {
        let outcome = read(&shared, server, &wanted, range);
        drop(permit);
        outcome
    });
    read.await.map_err(|error| HistoryError::Start(std::io::Error::other(error)))?
}

fn read(
    shared: &Shared,
    server: u32,
    wanted: &[Series],
    range: Range,
) -> Result<Vec<(Labels, Vec<Point>)>, HistoryError> {
    // The head first: what is sealed between this and the disk is then seen twice, never missed, and the
    // time of the head's first tick tells what to leave out of the chunks.
    let unsealed = shared.memory().unsealed_values(server, wanted, range.from_ms, range.to_ms);
    let mut answer = Answer {
        range,
        series: wanted.iter().map(|series| (series.id, (series, Fold::default()))).collect(),
        points: 0,
    };
    let db = shared.readers.take().map_err(|error| HistoryError::of(&shared.path, error))?;
    let outcome = answer.add_chunks(shared, &db, server, unsealed.first_ms);
    shared.readers.give_back(db);
    outcome?;
    answer.add_unsealed(&unsealed)?;
    let mut series: Vec<(Labels, Vec<Point>)> = answer
        .series
        .into_values()
        .filter(|(_, fold)| !fold.points.is_empty())
        .map(|(series, fold)| (series.key.labels.clone(), fold.points))
        .collect();
    // Cores and the like by number, the rest by name.
    series.sort_by_cached_key(|(labels, _)| {
        let text = labels.as_str().to_owned();
        (text.parse::<u32>().map_or((1, 0), |number| (0, number)), text)
    });
    Ok(series)
}

struct Answer<'a> {
    range: Range,
    series: HashMap<SeriesId, (&'a Series, Fold)>,
    points: usize,
}

impl Answer<'_> {
    fn add(&mut self, id: SeriesId, at_ms: i64, raw: i64) -> Result<(), HistoryError> {
        let Some(span) = self.range.span_of(at_ms) else { return Ok(()) };
        let Some((series, fold)) = self.series.get_mut(&id) else { return Ok(()) };
        self.points += usize::from(fold.add(span, series.restore(raw)));
        if self.points > MAX_ANSWER_POINTS {
            return Err(HistoryError::TooManyPoints { most: MAX_ANSWER_POINTS });
        }
        Ok(())
    }

    fn add_chunks(
        &mut self,
        shared: &Shared,
        db: &Connection,
        server: u32,
        until_ms: Option<i64>,
    ) -> Result<(), HistoryError> {
        let failed = |error| HistoryError::of(&shared.path, error);
        let Some((first, last)) = database::bucket_span(db).map_err(failed)? else { return Ok(()) };
        let until_ms = until_ms.unwrap_or(i64::MAX);
        let first = head::bucket_of(self.range.from_ms).max(first);
        let last = head::bucket_of(self.range.to_ms.min(until_ms)).min(last);
        for bucket in first..=last {
            let Some(blob) = database::get_chunk(db, bucket, server).map_err(failed)? else { continue };
            let chunk = match Chunk::decode(&blob, |id| self.series.contains_key(&id)) {
                Ok(chunk) => chunk,
                Err(error) => {
                    shared.damaged(bucket, server, &error);
                    continue;
                }
            };
            for column in &chunk.columns {
                for (tick, raw) in column.ticks.iter().zip(&column.raw) {
                    let at_ms = chunk.times_ms.get(*tick as usize).copied().filter(|at_ms| *at_ms < until_ms);
                    if let Some(at_ms) = at_ms {
                        self.add(column.series, at_ms, *raw)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn add_unsealed(&mut self, unsealed: &Unsealed) -> Result<(), HistoryError> {
        for (series, values) in &unsealed.values {
            for (at_ms, raw) in values {
                self.add(*series, *at_ms, *raw)?;
            }
        }
        Ok(())
    }
}
