//! What happened to a server in a span of time: operations, restarts of the machine, times without readings.
//!
//! Operations come from their rows; the other two are seen in the history of its uptime. Nothing is stored here.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::{OperationError, Operations};
use crate::auth;
use crate::fleet::Span;
use crate::history::Point;
use crate::model::{Caller, OperationId, Role, ServerId, Timestamp};
use crate::ssh::printable;
use crate::store::timeline::{self, Done};

/// Marks of one kind in an answer; more cannot be told apart on a chart.
const MARKS_OF_A_KIND: usize = 200;
/// Longest title of a mark.
const TITLE_CHARS: usize = 200;
/// Spans in which the uptime is looked at: two for each pixel of a usual chart.
const UPTIME_POINTS: usize = 1500;
/// So many intervals without a reading are an outage, and so many spans where a span is longer than that.
const MISSED_INTERVALS: u32 = 3;
const MISSED_SPANS_TENTHS: i64 = 21;
/// Uptime and our clock run apart by less than this within one span.
const CLOCK_SLACK_S: f64 = 5.0;

/// What a mark stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MarkKind {
    Operation,
    Reboot,
    /// No reading arrived: the server, the way to it or Roundsman itself was down.
    Outage,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Mark {
    pub kind: MarkKind,
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// None: a moment, or not over yet.
    #[schema(value_type = Option<String>)]
    pub until: Option<Timestamp>,
    pub title: String,
    #[schema(value_type = Option<String>)]
    pub operation_id: Option<OperationId>,
    /// Of an operation.
    pub status: Option<&'static str>,
    pub initiated_by: Option<String>,
}

/// The marks of one server, in the order of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Timeline {
    #[schema(value_type = String)]
    pub server_id: ServerId,
    pub server: String,
    #[schema(value_type = String)]
    pub from: Timestamp,
    #[schema(value_type = String)]
    pub to: Timestamp,
    pub items: Vec<Mark>,
    /// There were more of a kind than are listed; the newest are.
    pub truncated: bool,
}

impl Operations {
    /// What happened to a server from `from` to `to`.
    ///
    /// # Errors
    /// [`crate::fleet::FleetError::NoSuchServer`], or a range that cannot be meant.
    pub async fn timeline(
        &self,
        caller: &Caller,
        reference: &str,
        (from, to): (Timestamp, Timestamp),
    ) -> Result<Timeline, OperationError> {
        auth::require(caller, Role::Viewer)?;
        let server = self.inner.fleet.get(caller, reference)?.server;
        let span = Span { from, to, points: UPTIME_POINTS };
        let (resolution, found) = self
            .inner
            .fleet
            .metric_ranges(caller, &[reference.to_owned()], &["uptime_seconds".to_owned()], span)
            .await?;
        let series = found.into_iter().flat_map(|metric| metric.servers).flat_map(|server| server.series);
        let points = series.map(|(_, points)| points).next().unwrap_or_default();
        let span_ms = resolution.span_ms;
        let interval = Duration::from_millis(server.interval_ms.into());
        let outages = outages(&points, interval, span_ms, to.min(self.inner.clock.now()));
        let reboots = reboots(&points);
        let (organization, id) = (caller.organization, server.id);
        let limit = u32::try_from(MARKS_OF_A_KIND + 1).unwrap_or(u32::MAX);
        let done = self
            .inner
            .store
            .read(move |c| timeline::operations_of_server(c, organization, id, (from, to), limit))
            .await?;
        let mut items = Vec::new();
        let mut truncated = false;
        // Operations come newest first, the others oldest first.
        for mut kind in [done.into_iter().map(mark_of).rev().collect(), reboots, outages] {
            truncated |= kind.len() > MARKS_OF_A_KIND;
            let surplus = kind.len().saturating_sub(MARKS_OF_A_KIND);
            items.extend(kind.drain(surplus..));
        }
        items.sort_by_key(|mark| mark.at);
        Ok(Timeline { server_id: id, server: server.name.to_string(), from, to, items, truncated })
    }
}

fn mark_of(done: Done) -> Mark {
    Mark {
        kind: MarkKind::Operation,
        at: done.at,
        until: done.completed_at,
        title: printable::line(done.title.as_bytes(), TITLE_CHARS),
        operation_id: Some(done.id),
        status: Some(done.status.name()),
        initiated_by: Some(done.initiated_by),
    }
}

fn seen(kind: MarkKind, at: Timestamp, until: Option<Timestamp>, title: &str) -> Mark {
    Mark { kind, at, until, title: title.to_owned(), operation_id: None, status: None, initiated_by: None }
}

/// Times without a reading between the first and the last, and since the last where it is long ago at `end`.
fn outages(points: &[Point], interval: Duration, span_ms: i64, end: Timestamp) -> Vec<Mark> {
    let missed_ms = i64::try_from((interval * MISSED_INTERVALS).as_millis()).unwrap_or(i64::MAX);
    let longest_ms = missed_ms.max(span_ms.saturating_mul(MISSED_SPANS_TENTHS) / 10);
    let mut found: Vec<Mark> = points
        .iter()
        .zip(points.iter().skip(1))
        .filter(|(before, after)| after.at.as_millis() - before.at.as_millis() > longest_ms)
        // The reading before may have come at the end of its span.
        .map(|(before, after)| {
            let at = Timestamp::from_millis((before.at.as_millis() + span_ms).min(after.at.as_millis()));
            seen(MarkKind::Outage, at, Some(after.at), "No readings")
        })
        .collect();
    if let Some(last) = points.last().filter(|last| end.as_millis() - last.at.as_millis() > longest_ms) {
        found.push(seen(MarkKind::Outage, last.at, None, "No readings since"));
    }
    found
}

/// Uptime that fell from one point to the next, at the time that the new uptime tells.
#[expect(clippy::cast_possible_truncation, reason = "milliseconds of an uptime; a cast saturates")]
fn reboots(points: &[Point]) -> Vec<Mark> {
    let mut found = Vec::new();
    // The point before, and the uptime that may not be fallen below: its largest, unless a restart is in it.
    let mut before: Option<(&Point, f64)> = None;
    for point in points {
        let fell = before.filter(|(_, floor)| point.min + CLOCK_SLACK_S < *floor);
        if let Some((before, _)) = fell {
            let booted = Timestamp::from_millis(point.at.as_millis() - (point.min.max(0.0) * 1000.0) as i64);
            found.push(seen(MarkKind::Reboot, booted.max(before.at), None, "Restarted"));
        }
        before = Some((point, if fell.is_some() { point.min } else { point.max }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN_MS: i64 = 10_000;

    fn point(at_s: i64, min: f64, max: f64) -> Point {
        Point { at: Timestamp::from_millis(at_s * 1000), avg: min.midpoint(max), min, max, count: 2 }
    }

    fn times(marks: &[Mark]) -> Vec<(i64, Option<i64>)> {
        marks
            .iter()
            .map(|mark| (mark.at.as_millis() / 1000, mark.until.map(|at| at.as_millis() / 1000)))
            .collect()
    }

    #[test]
    fn a_hole_of_three_intervals_is_an_outage_and_a_shorter_one_is_not() {
        let points = [point(0, 0.0, 5.0), point(10, 10.0, 15.0), point(100, 100.0, 105.0)];
        let end = Timestamp::from_millis(110_000);
        let found = outages(&points, Duration::from_secs(5), SPAN_MS, end);
        assert_eq!(times(&found), [(20, Some(100))]);
        assert!(outages(&points, Duration::from_secs(60), SPAN_MS, end).is_empty());
    }

    #[test]
    fn a_server_that_is_silent_now_has_an_outage_without_an_end() {
        let end = Timestamp::from_millis(100_000);
        let found = outages(&[point(0, 0.0, 5.0)], Duration::from_secs(5), SPAN_MS, end);
        assert_eq!(times(&found), [(0, None)]);
        assert!(outages(&[], Duration::from_secs(5), SPAN_MS, end).is_empty());
    }

    #[test]
    fn uptime_that_falls_is_a_restart_at_the_time_that_it_tells() {
        let points = [point(0, 900.0, 905.0), point(10, 910.0, 915.0), point(60, 8.0, 13.0)];
        assert_eq!(times(&reboots(&points)), [(52, None)]);
        assert!(reboots(&points[..2]).is_empty());
        // In one span with what was before, and counted once.
        let within = [point(0, 900.0, 905.0), point(10, 1.0, 913.0), point(20, 8.0, 17.0)];
        assert_eq!(times(&reboots(&within)), [(9, None)]);
    }
}
