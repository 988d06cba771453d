//! `/fleet/metrics/aggregated`: metrics over the servers that a filter accepts, as JSON or CSV.

use std::time::Duration;

use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply};
use super::metrics::{SeriesJson, ThresholdsJson, described, download, format, rounded};
use super::range::{given, list, named_period, points, range};
use super::selection::filter;
use crate::export::format::{Format, Writer};
use crate::fleet::{Aggregate, AggregateQuery, Aggregated, Span, thresholds};
use crate::model::Timestamp;
use crate::services::Services;
use crate::web::pages::charts::USUAL_METRICS;

/// Length of a span where the caller names neither it nor how many there are to be.
const DEFAULT_PERIOD: Duration = Duration::from_secs(3600);
const DEFAULT_RANGE: Duration = Duration::from_secs(24 * 3600);

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/api/v1/fleet/metrics/aggregated", Access::VIEWER, aggregated)
            .summary("Metrics over many servers: average, sum, extremes, percentiles, and the highest")
            .query("metric", "names of metrics, apart by commas; CPU, memory, disk and network by default")
            .query(
                "aggregate",
                "avg, sum, min, max, count, p1 to p99, apart by commas; avg,min,max by default",
            )
            .query("top", "how many of the highest to list, 0 to 100, none by default")
            .query("server_ids", "ids or names, apart by commas; all that the filter accepts by default")
            .query("period", "length of a span: 1m, 1h, 1d; 1h by default")
            .query("points", "in place of period: how many spans at most")
            .query("time_range", "how far back from to: 1h, 24h, 7d; 24h by default")
            .query("from", "start, RFC 3339 or Unix time")
            .query("to", "end, RFC 3339 or Unix time; now by default")
            .query("region", "exactly this region")
            .query("environment", "exactly this environment")
            .query("tag", "has this tag; may be given several times")
            .query("status", "active, maintenance, inactive, or unreachable")
            .query("health", "healthy, degraded, critical, unreachable or unknown")
            .query("search", "part of the name, the address or the description")
            .query("format", "json (default) or csv")
            .gives("AggregatedMetrics"),
    ]
}

/// The values of one aggregate.
#[derive(Debug, Serialize, ToSchema)]
pub struct AggregateJson {
    /// avg, sum, min, max, count, p95, …
    aggregate: String,
    /// [Unix milliseconds, value] of each span in which a server has a value.
    #[schema(value_type = Vec<Vec<f64>>)]
    points: Vec<(i64, f64)>,
}

/// One of the highest.
#[derive(Debug, Serialize, ToSchema)]
pub struct TopJson {
    server_id: String,
    server: String,
    /// A core, a mount, an interface, …
    label: Option<String>,
    /// Average over the whole time.
    value: f64,
    /// [Unix milliseconds, average, minimum, maximum].
    #[schema(value_type = Vec<Vec<f64>>)]
    points: Vec<(i64, f64, f64, f64)>,
}

/// One metric over the servers.
#[derive(Debug, Serialize, ToSchema)]
pub struct AggregatedMetric {
    metric: String,
    title: String,
    unit: String,
    thresholds: Option<ThresholdsJson>,
    /// Servers with a value in this time.
    servers: usize,
    aggregates: Vec<AggregateJson>,
    top: Vec<TopJson>,
}

/// Answer of `/fleet/metrics/aggregated`.
#[derive(Debug, Serialize, ToSchema)]
pub struct AggregatedMetrics {
    #[schema(value_type = String)]
    from: Timestamp,
    #[schema(value_type = String)]
    to: Timestamp,
    /// raw, 1m, 5m, 15m, 1h or 1d: the coarsest level that was read.
    level: &'static str,
    /// Length of each span.
    span_ms: i64,
    /// Servers that were asked about.
    total_servers: usize,
    metrics: Vec<AggregatedMetric>,
}

impl AggregatedMetric {
    fn of(found: &Aggregated) -> Self {
        let (title, unit, _) = described(&found.name);
        let round = |value| rounded(value, found.known.is_some());
        Self {
            metric: found.name.to_string(),
            title,
            unit,
            thresholds: thresholds(found.name.as_str()).map(ThresholdsJson::of),
            servers: found.servers,
            aggregates: found
                .aggregates
                .iter()
                .map(|(aggregate, points)| AggregateJson {
                    aggregate: aggregate.to_string(),
                    points: points.iter().map(|(at, value)| (at.as_millis(), round(*value))).collect(),
                })
                .collect(),
            top: found
                .top
                .iter()
                .map(|one| {
                    let series = SeriesJson::of(&one.points, one.labels.as_str(), found.known.is_some());
                    TopJson {
                        server_id: one.server.to_string(),
                        server: one.name.clone(),
                        label: series.label,
                        value: round(one.value),
                        points: series.points,
                    }
                })
                .collect(),
        }
    }
}

/// What the parameters ask for.
fn query(request: &Request, now: Timestamp) -> Result<AggregateQuery, Failure> {
    let (from, to) =
        range(request, Some(named_period(request, "time_range")?.unwrap_or(DEFAULT_RANGE)), now)?;
    let period = named_period(request, "period")?.unwrap_or(DEFAULT_PERIOD);
    let length_ms = to.as_millis().saturating_sub(from.as_millis());
    let period_ms = i64::try_from(period.as_millis()).unwrap_or(i64::MAX);
    // One more than fit: both ends of a range lie within a span, and a span is not to be longer than was asked for.
    let by_period = usize::try_from(length_ms.saturating_add(period_ms - 1) / period_ms)
        .unwrap_or(usize::MAX)
        .saturating_add(1);
    let or_usual = |found: Vec<String>, usual: &[&str]| {
        if found.is_empty() { usual.iter().map(|word| (*word).to_owned()).collect() } else { found }
    };
    let aggregates = or_usual(list(request, "aggregate"), &["avg", "min", "max"]);
    let top = given(request, "top")
        .map_or(Ok(0), |text| text.parse().map_err(|_| Failure::invalid("top is a number from 0 to 100")))?;
    Ok(AggregateQuery {
        filter: filter(request)?,
        servers: list(request, "server_ids"),
        metrics: or_usual(list(request, "metric"), &USUAL_METRICS),
        aggregates: aggregates.iter().map(|word| word.parse()).collect::<Result<Vec<Aggregate>, _>>()?,
        span: Span { from, to, points: points(request, by_period)? },
        top,
    })
}

const COLUMNS: [&str; 6] = ["time", "metric", "aggregate", "server", "label", "value"];

/// A row a span and aggregate; the highest follow as rows of their server.
fn table(found: &[Aggregated]) -> String {
    let mut writer = Writer::new(Format::Csv, COLUMNS.to_vec());
    let mut text = String::new();
    writer.begin(&mut text);
    for metric in found {
        let name = json!(metric.name.as_str());
        let round = |value: f64| json!(rounded(value, metric.known.is_some()));
        for (aggregate, points) in &metric.aggregates {
            let aggregate = json!(aggregate.to_string());
            for (at, value) in points {
                let cells =
                    [json!(at), name.clone(), aggregate.clone(), Value::Null, Value::Null, round(*value)];
                writer.row(&mut text, &cells);
            }
        }
        for one in &metric.top {
            let (server, label) = (json!(one.name), json!(one.labels.as_str()));
            for point in &one.points {
                let cells = [
                    json!(point.at),
                    name.clone(),
                    json!("top"),
                    server.clone(),
                    label.clone(),
                    round(point.avg),
                ];
                writer.row(&mut text, &cells);
            }
        }
    }
    text
}

async fn aggregated(request: Request, services: Services) -> Result<Response, Failure> {
    let format = format(&request)?;
    let query = query(&request, services.clock.now())?;
    let found = services.fleet.aggregated(request.caller()?, &query).await?;
    if format == Format::Csv {
        return Ok(download(table(&found.metrics), "fleet"));
    }
    let body = AggregatedMetrics {
        from: query.span.from,
        to: query.span.to,
        level: found.resolution.level.name(),
        span_ms: found.resolution.span_ms,
        total_servers: found.total_servers,
        metrics: found.metrics.iter().map(AggregatedMetric::of).collect(),
    };
    json_reply(StatusCode::OK, &body)
}
