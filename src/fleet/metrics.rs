//! History of several servers and metrics at once: what charts and programs ask for.
//!
//! Finds the servers that the caller may see and the metrics that exist; history does the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::{Fleet, FleetError, ServerState};
use crate::auth;
use crate::history::metric::{self, Metric};
use crate::history::{HistoryHealth, Level, Point, Removal, Sizes};
use crate::model::{Caller, Labels, MetricName, Role, ServerId, ServerNumber, Timestamp};

/// Servers of one question; more lines than this nobody tells apart.
pub const SERVERS_A_QUERY: usize = 50;
/// Metrics of one question: all charts of a page, with room.
pub const METRICS_A_QUERY: usize = 128;
/// Points of one answer, and values that one metric of the fleet is folded from: 80 MB. Labels count, so this is known
/// only while it is read.
pub(super) const POINTS_MAX: usize = 2_000_000;
/// Points from which on a question is a wide one, of which only [`WIDE_QUESTIONS`] are answered at once: 4 MB.
const WIDE_POINTS: usize = 100_000;
/// Wide questions that are answered at the same time: 320 MB at the very most; the others wait.
pub(super) const WIDE_QUESTIONS: usize = 4;
/// Names that a misspelt one is answered with.
const NEAR_NAMES: usize = 3;
/// What an answer about the last samples holds of the catalogue; custom metrics come beside.
const LAST_METRICS: [&str; 15] = [
    "cpu_percent",
    "memory_percent",
    "disk_percent",
    "network_rx_bytes",
    "network_tx_bytes",
    "load1",
    "load5",
    "load15",
    "swap_percent",
    "uptime_seconds",
    "processes",
    "active_services",
    "failed_services",
    "total_services",
    "active_users",
];
/// Spans of the window of the last samples: short enough that two readings never share one.
const LAST_SPANS: usize = 5000;

/// Letters by which a misspelt name may differ from one that is meant.
const SLIPS: usize = 4;

/// A span of time in at most `points` parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub from: Timestamp,
    pub to: Timestamp,
    pub points: usize,
}

/// How finely history answers a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolution {
    /// The coarsest that was read.
    pub level: Level,
    /// Length of the parts whose values are one point; a part without values has none.
    pub span_ms: i64,
}

/// A metric with the history of every server that was asked for.
#[derive(Debug, Clone)]
pub struct MetricRange {
    pub name: MetricName,
    /// None: a custom metric.
    pub known: Option<&'static Metric>,
    pub servers: Vec<ServerSeries>,
}

/// Every series of one metric on one server.
#[derive(Debug, Clone)]
pub struct ServerSeries {
    pub server: ServerId,
    pub name: String,
    pub interval_ms: u32,
    pub series: Vec<(Labels, Vec<Point>)>,
}

/// Points that one question has read so far, and its place among the wide ones.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) points: usize,
    place: Option<OwnedSemaphorePermit>,
}

impl Tally {
    /// # Errors
    /// [`FleetError::Invalid`]: more than [`POINTS_MAX`].
    pub(super) fn add(&mut self, points: usize) -> Result<(), FleetError> {
        self.points += points;
        if self.points > POINTS_MAX {
            let message = format!(
                "the answer takes more than {POINTS_MAX} points, because each series of a metric with labels counts; \
                 ask for fewer points, servers or metrics"
            );
            return Err(FleetError::invalid("points", message));
        }
        Ok(())
    }
}

/// One reading as it is kept: its time and its values.
pub type LastReading = (Timestamp, Vec<(MetricName, f64)>);

impl Fleet {
    /// The history of each metric on each server, both in the order that was asked for.
    ///
    /// # Errors
    /// [`FleetError::NoSuchServer`], [`FleetError::NoSuchMetric`], [`FleetError::Invalid`] for too many of either or of
    /// points, and [`FleetError::History`] for a span that cannot be meant.
    pub async fn metric_ranges(
        &self,
        caller: &Caller,
        servers: &[String],
        metrics: &[String],
        span: Span,
    ) -> Result<(Resolution, Vec<MetricRange>), FleetError> {
        let resolution = self.resolution(span).await?;
        let states = self.chosen(caller, servers)?;
        let metrics = self.known_metrics(caller, servers, metrics)?;
        let mut answer = Vec::with_capacity(metrics.len());
        let mut tally = Tally::default();
        for name in metrics {
            let mut found = Vec::with_capacity(states.len());
            for state in &states {
                let series = self.series_of(state.server.number, &name, span).await?;
                self.count(&mut tally, series.iter().map(|(_, points)| points.len()).sum()).await?;
                found.push(ServerSeries {
                    server: state.server.id,
                    name: state.server.name.to_string(),
                    interval_ms: state.server.interval_ms,
                    series,
                });
            }
            answer.push(MetricRange { known: metric::find(name.as_str()), name, servers: found });
        }
        Ok((resolution, answer))
    }

    /// Counts what a question has read. It waits for its place when it has become a wide one.
    ///
    /// # Errors
    /// As [`Tally::add`].
    pub(super) async fn count(&self, tally: &mut Tally, points: usize) -> Result<(), FleetError> {
        tally.add(points)?;
        if tally.points > WIDE_POINTS && tally.place.is_none() {
            let place = Arc::clone(&self.inner.wide_questions).acquire_owned().await;
            tally.place = Some(place.map_err(|error| FleetError::Unavailable(error.to_string()))?);
        }
        Ok(())
    }

    /// How finely a span is answered.
    ///
    /// # Errors
    /// [`FleetError::History`] for a span that cannot be meant.
    pub async fn resolution(&self, span: Span) -> Result<Resolution, FleetError> {
        let nothing = self.inner.history.ranges(&[], span.from, span.to, span.points).await?;
        Ok(Resolution { level: nothing.level, span_ms: nothing.width_ms })
    }

    /// Every series of a metric on a server, only those that have a value.
    pub(super) async fn series_of(
        &self,
        server: ServerNumber,
        metric: &MetricName,
        span: Span,
    ) -> Result<Vec<(Labels, Vec<Point>)>, FleetError> {
        let found = self.inner.history.range_all(server, metric, span.from, span.to, span.points).await?;
        Ok(found.series.into_iter().map(|series| (series.key.labels, series.points)).collect())
    }

    /// The last readings of a server, oldest first, at most `count`: the time of each (to a few hundredths of the
    /// interval) and the values of the metrics that have one series.
    ///
    /// # Errors
    /// [`FleetError::NoSuchServer`], or history cannot be read.
    pub async fn last_samples(
        &self,
        caller: &Caller,
        reference: &str,
        count: usize,
    ) -> Result<Vec<LastReading>, FleetError> {
        let state = self.get(caller, reference)?;
        let custom = self.custom_names(caller, &[reference.to_owned()])?;
        let names = LAST_METRICS.into_iter().map(MetricName::known);
        let window = Duration::from_millis(state.server.interval_ms.into())
            * u32::try_from(count).unwrap_or(u32::MAX).saturating_add(1);
        let to = state.last_seen_at.unwrap_or_else(|| self.inner.clock.now());
        let mut readings: BTreeMap<Timestamp, Vec<(MetricName, f64)>> = BTreeMap::new();
        for name in names.chain(custom.into_iter().map(MetricName::custom)) {
            let span = Span { from: to - window, to, points: LAST_SPANS };
            let found = self.series_of(state.server.number, &name, span).await?;
            for point in found.iter().filter(|(labels, _)| labels.is_empty()).flat_map(|(_, points)| points) {
                readings.entry(point.at).or_default().push((name.clone(), point.avg));
            }
        }
        let surplus = readings.len().saturating_sub(count);
        Ok(readings.into_iter().skip(surplus).collect())
    }

    fn chosen(&self, caller: &Caller, servers: &[String]) -> Result<Vec<ServerState>, FleetError> {
        if !(1..=SERVERS_A_QUERY).contains(&servers.len()) {
            return Err(FleetError::invalid("server", format!("name 1 to {SERVERS_A_QUERY} servers")));
        }
        servers.iter().map(|reference| self.get(caller, reference)).collect()
    }

    /// The metrics of these names: those of the catalogue, and custom ones that one of the servers has.
    ///
    /// # Errors
    /// [`FleetError::NoSuchMetric`] names the first that is neither.
    pub fn known_metrics(
        &self,
        caller: &Caller,
        servers: &[String],
        names: &[String],
    ) -> Result<Vec<MetricName>, FleetError> {
        if !(1..=METRICS_A_QUERY).contains(&names.len()) {
            return Err(FleetError::invalid("metric", format!("name 1 to {METRICS_A_QUERY} metrics")));
        }
        let mut custom: Option<BTreeSet<String>> = None;
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            if let Some(known) = metric::find(name) {
                found.push(MetricName::known(known.name));
                continue;
            }
            let custom = match &custom {
                Some(custom) => custom,
                None => custom.insert(self.custom_names(caller, servers)?),
            };
            if !custom.contains(name) {
                let known = metric::CATALOGUE.iter().map(|metric| metric.name);
                let near = near(name, known.chain(custom.iter().map(String::as_str)));
                return Err(FleetError::NoSuchMetric { name: crate::model::shown(name, 80), near });
            }
            found.push(MetricName::custom(name.clone()));
        }
        Ok(found)
    }

    fn custom_names(&self, caller: &Caller, servers: &[String]) -> Result<BTreeSet<String>, FleetError> {
        let mut names = BTreeSet::new();
        for server in servers {
            let of_server = self.metric_names(caller, server)?;
            names.extend(
                of_server.iter().map(ToString::to_string).filter(|name| metric::find(name).is_none()),
            );
        }
        Ok(names)
    }

    /// How much there is of each level of history, and how fast it grows.
    ///
    /// # Errors
    /// [`FleetError::Auth`], or the file cannot be read.
    pub async fn history_sizes(&self, caller: &Caller) -> Result<Sizes, FleetError> {
        auth::require(caller, Role::Admin)?;
        Ok(self.inner.history.sizes().await?)
    }

    /// What the last removal of expired values did. None: there was none since the start.
    ///
    /// # Errors
    /// [`FleetError::Auth`].
    pub fn history_removal(&self, caller: &Caller) -> Result<Option<Removal>, FleetError> {
        auth::require(caller, Role::Admin)?;
        Ok(self.inner.history.last_removal())
    }

    /// What everybody is to know of history on every page. None: all is well, or the caller may not look.
    #[must_use]
    pub fn history_alarm(&self, caller: &Caller) -> Option<String> {
        self.history_health(caller).ok().as_ref().and_then(alarm)
    }

    /// How the keeping of history does.
    ///
    /// # Errors
    /// [`FleetError::Auth`].
    pub fn history_health(&self, caller: &Caller) -> Result<HistoryHealth, FleetError> {
        auth::require(caller, Role::Viewer)?;
        Ok(self.inner.history.health())
    }
}

/// Seconds of values that may wait in memory before everybody is told: a slow disk is no trouble yet.
const BEHIND_S: u64 = 30;

/// What everybody is to know of history. None: all is well.
fn alarm(health: &HistoryHealth) -> Option<String> {
    let waiting = match health.behind_s {
        0 | 1 => String::new(),
        seconds => format!(" {seconds} s of them so far;"),
    };
    match &health.last_error {
        Some(error) => Some(format!(
            "History is not written: {}. Readings go on and wait in memory;{waiting} what is longer than memory holds is \
             lost. Free space on the disk of the data directory, or see the log.",
            error.trim_end_matches('.')
        )),
        None if health.behind_s > BEHIND_S => Some(format!(
            "History is {} s behind: the disk of the data directory is slower than the readings come.",
            health.behind_s
        )),
        None => None,
    }
}

/// The end of a sentence about a misspelt name.
pub(super) fn perhaps(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!(", perhaps {} is meant", near.join(" or ")) }
}

/// The names that `wanted` may be a slip of, the nearest first.
pub fn near<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let wanted: String = wanted.chars().take(80).collect::<String>().to_lowercase();
    let mut scored: Vec<(usize, &str)> = names
        .filter_map(|name| {
            let slips = distance(&wanted, name);
            let part = wanted.len() >= 3 && name.contains(&wanted);
            match slips {
                slips if slips <= SLIPS.min(wanted.len() / 2) => Some((slips, name)),
                _ if part => Some((SLIPS + 1, name)),
                _ => None,
            }
        })
        .collect();
    scored.sort_unstable();
    scored.into_iter().take(NEAR_NAMES).map(|(_, name)| name.to_owned()).collect()
}

/// Letters to insert, remove or replace until one text is the other (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, letter) in left.chars().enumerate() {
        let mut diagonal = index;
        let mut before = index + 1;
        for (cell, other) in row.iter_mut().skip(1).zip(&right) {
            let above = *cell;
            before = (diagonal + usize::from(letter != *other)).min(above + 1).min(before + 1);
            diagonal = above;
            *cell = before;
        }
        if let Some(first) = row.first_mut() {
            *first = index + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_metric_is_answered_with_the_names_that_are_near() {
        let catalogue = || metric::CATALOGUE.iter().map(|metric| metric.name);
        assert_eq!(near("cpu_precent", catalogue()).first().unwrap(), "cpu_percent");
        assert_eq!(near("swap", catalogue()), ["swap_percent", "swap_total_bytes", "swap_used_bytes"]);
        assert!(near("qqqqqqqqqqqqqqqqqqqqqqqqq", catalogue()).is_empty());
        assert!(near("", catalogue()).is_empty());
    }

    #[test]
    fn everybody_is_told_when_history_is_not_written_and_nobody_when_it_is() {
        let health = |last_error: Option<&str>, behind_s: u64| HistoryHealth {
            last_error: last_error.map(ToOwned::to_owned),
            behind_s,
            ..HistoryHealth::default()
        };
        assert_eq!(alarm(&health(None, 2)), None);
        let full = alarm(&health(Some("database or disk is full"), 12)).unwrap();
        assert!(full.contains("disk is full") && full.contains("12 s"), "{full}");
        assert!(alarm(&health(None, 31)).unwrap().contains("31 s behind"));
    }

    #[test]
    fn an_answer_of_too_many_points_is_refused_while_it_is_counted() {
        let mut tally = Tally::default();
        tally.add(POINTS_MAX).unwrap();
        let refused = tally.add(1).unwrap_err();
        assert!(matches!(&refused, FleetError::Invalid { field: "points", .. }), "{refused}");
    }

    #[test]
    fn distance_counts_slips() {
        for (left, right, slips) in
            [("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3), ("abc", "", 3)]
        {
            assert_eq!(distance(left, right), slips, "{left} {right}");
        }
    }
}
