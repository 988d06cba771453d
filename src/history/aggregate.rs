//! One metric over many servers: average, sum, extremes, percentile, the top of them. Reads one server after the
//! other and keeps only what the answer needs.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use rusqlite::Connection;
use serde::Serialize;

use super::Shared;
use super::error::HistoryError;
use super::level::Level;
use super::query::{self, Point, Range, SeriesRange};
use super::series::Series;
use crate::model::{SeriesKey, ServerNumber, Timestamp};

/// Values that a percentile looks at: 5,000 servers and 800 spans, 32 MB.
const MAX_VALUES: usize = 4_000_000;

/// Servers that a top list may name.
pub const MAX_TOP: usize = 100;

/// What is made of the values of many servers in one span. A server counts with its average in the span, but for
/// `Min` and `Max`, which know its extremes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aggregate {
    Avg,
    Sum,
    Min,
    Max,
    /// 0 to 100, of the servers' averages; between two servers in proportion.
    Percentile(f64),
    /// The servers with the highest average over the whole range, at most [`MAX_TOP`].
    TopN(usize),
}

/// One span of an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AggregatePoint {
    /// Start of the span.
    pub at: Timestamp,
    pub value: f64,
    /// How many servers have a value in it, at least 1.
    pub servers: u32,
}

/// What many servers say together.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregated {
    /// As in [`super::Ranges`].
    pub level: Level,
    pub from: Timestamp,
    pub width_ms: i64,
    /// Spans without a value of any server have no point. Empty for `TopN`.
    pub points: Vec<AggregatePoint>,
    /// `TopN` only: highest first, with the average over the range.
    pub top: Vec<(f64, SeriesRange)>,
}

#[derive(Debug, Default)]
struct Span {
    servers: u32,
    sum: f64,
    least: f64,
    greatest: f64,
    /// Percentiles only.
    values: Vec<f64>,
}

impl Span {
    fn add(&mut self, point: &Point, keep: bool) {
        let first = self.servers == 0;
        self.least = if first { point.min } else { self.least.min(point.min) };
        self.greatest = if first { point.max } else { self.greatest.max(point.max) };
        self.sum += point.avg;
        self.servers += 1;
        if keep {
            self.values.push(point.avg);
        }
    }

    fn value(&mut self, how: Aggregate) -> f64 {
        match how {
            Aggregate::Avg | Aggregate::TopN(_) => self.sum / f64::from(self.servers.max(1)),
            Aggregate::Sum => self.sum,
            Aggregate::Min => self.least,
            Aggregate::Max => self.greatest,
            Aggregate::Percentile(share) => {
                self.values.sort_unstable_by(f64::total_cmp);
                percentile(&self.values, share).unwrap_or(0.0)
            }
        }
    }
}

/// A percentile (0 to 100) of values in order: linear between the two nearest (type 7 of Hyndman and Fan, as in most
/// tools). None: there are no values.
#[must_use]
pub fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share / 100.0 * sorted.len().saturating_sub(1) as f64;
    let (below, above) = (sorted.get(place.floor() as usize)?, sorted.get(place.ceil() as usize)?);
    Some(below + (above - below) * place.fract())
}

/// # Errors
/// A percentile that is none, or more values than fit.
pub(super) fn check(how: Aggregate, servers: usize, points: usize) -> Result<(), HistoryError> {
    match how {
        Aggregate::Percentile(share) if !(0.0..=100.0).contains(&share) => {
            Err(HistoryError::BadPercentile(share))
        }
        Aggregate::Percentile(_) if servers.saturating_mul(points) > MAX_VALUES => {
            Err(HistoryError::TooManyPoints { most: MAX_VALUES })
        }
        Aggregate::TopN(count) if count == 0 || count > MAX_TOP => {
            Err(HistoryError::BadPoints { given: count, most: MAX_TOP })
        }
        _ => Ok(()),
    }
}

pub(super) fn aggregate(
    shared: &Shared,
    db: &Connection,
    servers: &[ServerNumber],
    series: &Series,
    how: Aggregate,
    range: Range,
) -> Result<Aggregated, HistoryError> {
    let mut spans: BTreeMap<Timestamp, Span> = BTreeMap::new();
    let mut top: Vec<(f64, SeriesRange)> = Vec::new();
    for server in servers {
        let mut count = 0;
        let wanted = std::slice::from_ref(series);
        let folds = query::fold_server(shared, db, server.0, wanted, range, &mut count)?;
        let points = folds.into_iter().next().map(|fold| fold.points).unwrap_or_default();
        if let Aggregate::TopN(most) = how {
            keep_top(&mut top, most, *server, &series.key, points);
            continue;
        }
        for point in &points {
            spans.entry(point.at).or_default().add(point, matches!(how, Aggregate::Percentile(_)));
        }
    }
    let points = spans.into_iter().map(|(at, mut span)| AggregatePoint {
        at,
        value: span.value(how),
        servers: span.servers,
    });
    let (level, width_ms) = (range.level, range.width_ms);
    let from = Timestamp::from_millis(range.from_ms);
    Ok(Aggregated { level, from, width_ms, points: points.collect(), top })
}

fn keep_top(
    top: &mut Vec<(f64, SeriesRange)>,
    most: usize,
    server: ServerNumber,
    key: &SeriesKey,
    points: Vec<Point>,
) {
    let count: f64 = points.iter().map(|point| f64::from(point.count)).sum();
    if count == 0.0 {
        return;
    }
    let average = points.iter().map(|point| point.avg * f64::from(point.count)).sum::<f64>() / count;
    let place = top.partition_point(|(other, _)| other.total_cmp(&average) != Ordering::Less);
    if place < most {
        top.insert(place, (average, SeriesRange { server, key: key.clone(), points }));
        top.truncate(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_lies_between_its_neighbours() {
        let values = [10.0, 20.0, 30.0, 40.0];
        let cases = [(0.0, 10.0), (50.0, 25.0), (100.0, 40.0), (90.0, 37.0)];
        for (share, wanted) in cases {
            assert!((percentile(&values, share).unwrap() - wanted).abs() < 1e-9, "{share}");
        }
        assert_eq!((percentile(&[7.0], 99.0), percentile(&[], 50.0)), (Some(7.0), None));
    }
}
