//! One metric over many servers: average, sum, extremes, percentiles for each span of time, and the highest of them.
//!
//! The folding is pure and goes along with the reading; only [`Fleet::aggregated`] reads history.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use futures_util::{Stream, StreamExt, TryStreamExt, stream};

use super::metrics::{POINTS_MAX, Resolution, Span, Tally};
use super::{Fleet, FleetError, ServerFilter, ServerState};
use crate::history::metric::{self, Metric};
use crate::history::{Point, percentile};
use crate::model::{Caller, Labels, MetricName, ServerId, Timestamp, shown};

/// Reads under way at the same time: as many as history does.
const READS: usize = 4;
/// Most servers of a list of the highest.
pub const TOP_MAX: usize = 100;

/// What is made of the values of all servers in one span; each series of a metric with labels (a core, a mount) is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregate {
    /// Of the averages of the series.
    Avg,
    /// Of the averages of the series.
    Sum,
    /// The least single sample.
    Min,
    /// The greatest single sample.
    Max,
    /// Of the averages of the series, between two of them in proportion; 1 to 99.
    Percentile(u8),
    /// Series with a value.
    Count,
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Avg => f.write_str("avg"),
            Self::Sum => f.write_str("sum"),
            Self::Min => f.write_str("min"),
            Self::Max => f.write_str("max"),
            Self::Percentile(rank) => write!(f, "p{rank}"),
            Self::Count => f.write_str("count"),
        }
    }
}

impl FromStr for Aggregate {
    type Err = FleetError;

    fn from_str(text: &str) -> Result<Self, FleetError> {
        let rank = |text: &str| text.strip_prefix('p')?.parse().ok().filter(|rank| (1..=99).contains(rank));
        match text {
            "avg" | "average" | "mean" => Ok(Self::Avg),
            "sum" => Ok(Self::Sum),
            "min" => Ok(Self::Min),
            "max" => Ok(Self::Max),
            "median" => Ok(Self::Percentile(50)),
            "count" => Ok(Self::Count),
            other => rank(other).map(Self::Percentile).ok_or_else(|| {
                FleetError::invalid(
                    "aggregate",
                    format!(
                        "'{}' is no aggregate; use avg, sum, min, max, count or p1 to p99",
                        shown(other, 40)
                    ),
                )
            }),
        }
    }
}

/// Which servers, which span, what is made of them.
#[derive(Debug, Clone)]
pub struct AggregateQuery {
    pub filter: ServerFilter,
    /// Ids or names; empty: every server that the filter accepts.
    pub servers: Vec<String>,
    pub metrics: Vec<String>,
    pub aggregates: Vec<Aggregate>,
    pub span: Span,
    /// How many of the highest.
    pub top: usize,
}

/// Every metric that was asked for.
#[derive(Debug, Clone)]
pub struct FleetAggregates {
    pub resolution: Resolution,
    /// Servers that were asked about.
    pub total_servers: usize,
    pub metrics: Vec<Aggregated>,
}

/// One metric over the servers.
#[derive(Debug, Clone)]
pub struct Aggregated {
    pub name: MetricName,
    /// None: a custom metric.
    pub known: Option<&'static Metric>,
    /// Servers that have a value in the span.
    pub servers: usize,
    pub aggregates: Vec<(Aggregate, Vec<(Timestamp, f64)>)>,
    /// The highest by their average over the whole span, highest first.
    pub top: Vec<TopSeries>,
}

/// One of the highest.
#[derive(Debug, Clone)]
pub struct TopSeries {
    pub server: ServerId,
    pub name: String,
    pub labels: Labels,
    /// Average over the whole span.
    pub value: f64,
    pub points: Vec<Point>,
}

impl Fleet {
    /// Aggregates over the servers of the query that the caller may see.
    ///
    /// # Errors
    /// [`FleetError::NoSuchServer`], [`FleetError::NoSuchMetric`], [`FleetError::Invalid`] for too much at once, and
    /// [`FleetError::History`] for a span that cannot be meant.
    pub async fn aggregated(
        &self,
        caller: &Caller,
        query: &AggregateQuery,
    ) -> Result<FleetAggregates, FleetError> {
        let resolution = self.resolution(query.span).await?;
        let states = self.meant(caller, query)?;
        if query.top > TOP_MAX {
            return Err(FleetError::invalid("top", format!("at most {TOP_MAX} are listed")));
        }
        if states.len().saturating_mul(query.span.points) > POINTS_MAX {
            let most = POINTS_MAX / states.len().max(1);
            let message = format!("{} servers allow at most {most} points; ask for fewer", states.len());
            return Err(FleetError::invalid("points", message));
        }
        let references: Vec<String> = states.iter().map(|state| state.server.id.to_string()).collect();
        let mut answer = Vec::with_capacity(query.metrics.len());
        // What is folded is counted anew for each metric, what is kept of all of them together.
        let (mut folded, mut kept) = (Tally::default(), Tally::default());
        for name in self.known_metrics(caller, &references, &query.metrics)? {
            let mut folding = Folding::new(query.top);
            let mut reads = self.read_all(&states, &name, query.span);
            while let Some(found) = reads.try_next().await? {
                self.count(&mut folded, found.points()).await?;
                folding.add(found);
            }
            drop(reads);
            folded.points = 0;
            let metric = folding.finish(name, &query.aggregates);
            kept.add(metric.points())?;
            answer.push(metric);
        }
        Ok(FleetAggregates { resolution, total_servers: states.len(), metrics: answer })
    }

    fn meant(&self, caller: &Caller, query: &AggregateQuery) -> Result<Vec<ServerState>, FleetError> {
        if query.servers.is_empty() {
            return self.list(caller, &query.filter);
        }
        let named: Result<Vec<ServerState>, FleetError> =
            query.servers.iter().map(|reference| self.get(caller, reference)).collect();
        Ok(named?.into_iter().filter(|state| query.filter.accepts(state)).collect())
    }

    /// The series of every server, in the order of the servers, a few read ahead.
    fn read_all(
        &self,
        states: &[ServerState],
        name: &MetricName,
        span: Span,
    ) -> impl Stream<Item = Result<OfServer, FleetError>> + Unpin + use<> {
        let servers: Vec<_> = states.iter().map(|state| Arc::clone(&state.server)).collect();
        let (fleet, metric) = (self.clone(), name.clone());
        let reads = servers.into_iter().map(move |server| {
            let (fleet, metric) = (fleet.clone(), metric.clone());
            async move {
                let series = fleet.series_of(server.number, &metric, span).await?;
                Ok::<_, FleetError>(OfServer { server: server.id, name: server.name.to_string(), series })
            }
        });
        Box::pin(stream::iter(reads).buffered(READS))
    }
}

impl Aggregated {
    /// Points that the answer holds of this metric.
    fn points(&self) -> usize {
        let folded: usize = self.aggregates.iter().map(|(_, points)| points.len()).sum();
        folded + self.top.iter().map(|series| series.points.len()).sum::<usize>()
    }
}

/// The series of one server.
#[derive(Debug)]
struct OfServer {
    server: ServerId,
    name: String,
    series: Vec<(Labels, Vec<Point>)>,
}

impl OfServer {
    fn points(&self) -> usize {
        self.series.iter().map(|(_, points)| points.len()).sum()
    }
}

/// All values of one span.
#[derive(Debug)]
struct Cell {
    averages: Vec<f64>,
    min: f64,
    max: f64,
}

/// One metric while its servers come one after the other: of each only the averages stay, and the highest.
#[derive(Debug)]
struct Folding {
    cells: BTreeMap<Timestamp, Cell>,
    servers: usize,
    /// Highest first, at most `most`.
    top: Vec<TopSeries>,
    most: usize,
}

impl Folding {
    const fn new(most: usize) -> Self {
        Self { cells: BTreeMap::new(), servers: 0, top: Vec::new(), most }
    }

    fn add(&mut self, found: OfServer) {
        self.servers += usize::from(found.series.iter().any(|(_, points)| !points.is_empty()));
        for point in found.series.iter().flat_map(|(_, points)| points) {
            let cell = self.cells.entry(point.at).or_insert_with(|| Cell {
                averages: Vec::new(),
                min: f64::INFINITY,
                max: f64::NEG_INFINITY,
            });
            cell.averages.push(point.avg);
            cell.min = cell.min.min(point.min);
            cell.max = cell.max.max(point.max);
        }
        let OfServer { server, name, series } = found;
        for (labels, points) in series {
            let Some(value) = mean(&points) else { continue };
            let place = self.top.partition_point(|higher| higher.value.total_cmp(&value).is_ge());
            if place < self.most {
                self.top.truncate(self.most - 1);
                self.top.insert(place, TopSeries { server, name: name.clone(), labels, value, points });
            }
        }
    }

    fn finish(mut self, name: MetricName, aggregates: &[Aggregate]) -> Aggregated {
        for cell in self.cells.values_mut() {
            cell.averages.sort_unstable_by(f64::total_cmp);
        }
        let of = |aggregate: Aggregate| {
            let cells = self.cells.iter();
            (aggregate, cells.filter_map(|(at, cell)| Some((*at, cell.value(aggregate)?))).collect())
        };
        Aggregated {
            known: metric::find(name.as_str()),
            name,
            servers: self.servers,
            aggregates: aggregates.iter().map(|aggregate| of(*aggregate)).collect(),
            top: self.top,
        }
    }
}

impl Cell {
    /// The averages are in order.
    #[expect(clippy::cast_precision_loss, reason = "as many values as series")]
    fn value(&self, aggregate: Aggregate) -> Option<f64> {
        let count = self.averages.len();
        let sum: f64 = self.averages.iter().sum();
        match aggregate {
            Aggregate::Avg => (count > 0).then(|| sum / count as f64),
            Aggregate::Sum => Some(sum),
            Aggregate::Min => Some(self.min),
            Aggregate::Max => Some(self.max),
            Aggregate::Percentile(rank) => percentile(&self.averages, f64::from(rank)),
            Aggregate::Count => Some(count as f64),
        }
    }
}

/// By samples: a span that is half empty counts half. None: no point.
fn mean(points: &[Point]) -> Option<f64> {
    let (sum, samples) = points.iter().fold((0.0, 0.0), |(sum, samples), point| {
        let weight = f64::from(point.count);
        (point.avg.mul_add(weight, sum), samples + weight)
    });
    (samples > 0.0).then(|| sum / samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at: i64, avg: f64, min: f64, max: f64) -> Point {
        Point { at: Timestamp::from_millis(at), avg, min, max, count: 1 }
    }

    fn of_server(number: u128, points: Vec<Point>) -> OfServer {
        let server = ServerId::new(uuid::Uuid::from_u128(number));
        OfServer { server, name: format!("s{number}"), series: vec![(Labels::NONE, points)] }
    }

    #[test]
    fn aggregates_are_over_the_servers_that_have_a_value_in_the_span() {
        use Aggregate::{Avg, Count, Max, Min, Percentile, Sum};
        let found = vec![
            of_server(1, vec![point(0, 10.0, 1.0, 20.0), point(9, 50.0, 50.0, 50.0)]),
            of_server(2, vec![point(0, 30.0, 25.0, 90.0)]),
            of_server(3, Vec::new()),
        ];
        let all = [Avg, Sum, Min, Max, Percentile(50), Percentile(95), Count];
        let mut folding = Folding::new(1);
        found.into_iter().for_each(|found| folding.add(found));
        let folded = folding.finish(MetricName::known("cpu_percent"), &all);
        let first: Vec<f64> = folded.aggregates.iter().map(|(_, points)| points[0].1).collect();
        assert_eq!(first, [20.0, 40.0, 1.0, 90.0, 20.0, 29.0, 2.0]);
        assert_eq!(folded.aggregates[0].1[1], (Timestamp::from_millis(9), 50.0));
        assert_eq!(folded.servers, 2);
        assert_eq!((folded.top.len(), folded.top[0].name.as_str(), folded.top[0].value), (1, "s1", 30.0));
    }

    #[test]
    fn the_highest_are_kept_in_order_and_no_more_than_asked_for() {
        for (most, names) in [(0, &[][..]), (2, &["s4", "s2"]), (9, &["s4", "s2", "s3", "s1"])] {
            let mut folding = Folding::new(most);
            for (number, value) in [(1, 1.0), (2, 5.0), (3, 5.0), (4, 9.0)] {
                folding.add(of_server(number, vec![point(0, value, value, value)]));
            }
            let top = folding.finish(MetricName::known("cpu_percent"), &[]).top;
            assert_eq!(top.iter().map(|series| series.name.as_str()).collect::<Vec<_>>(), names);
        }
    }

    #[test]
    fn aggregates_are_named_by_words() {
        for word in ["avg", "sum", "min", "max", "count", "p95", "p1"] {
            assert_eq!(word.parse::<Aggregate>().unwrap().to_string(), word);
        }
        for bad in ["", "p0", "p100", "p", "avg2", "percentile"] {
            assert!(bad.parse::<Aggregate>().is_err(), "{bad}");
        }
    }
}
