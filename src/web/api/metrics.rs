//! History over the API: one server or several, one metric or many, as JSON or CSV; and what happened meanwhile.

use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply, with_type};
use super::range::{given, list, named_period, range, span};
use crate::export::format::{Format, Writer};
use crate::fleet::{MetricRange, Resolution, Span, Thresholds, thresholds};
use crate::history::{Point, metric};
use crate::model::{MetricName, Timestamp};
use crate::services::Services;

/// Decimals of a built-in metric that are worth sending: its stored integers have two at most, averages a little more.
const DECIMALS: f64 = 10_000.0;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        with_span(Route::get("/api/v1/fleet/servers/{id}/metrics", Access::VIEWER, of_server))
            .summary(
                "History of a metric of one server, or of several (then the answer is that of /fleet/metrics); without \
                 one, the current figures and the names of the metrics",
            )
            .query("metric", "name of a metric, for example cpu_percent; several apart by commas")
            .gives("Metrics"),
        with_span(Route::get("/api/v1/fleet/metrics", Access::VIEWER, of_servers))
            .summary("History of several metrics of several servers, in one answer")
            .query("server", "ids or names, apart by commas or given several times; at most 50")
            .query("metric", "names of metrics, apart by commas or given several times; at most 64")
            .gives("MetricRanges"),
        Route::get("/api/v1/fleet/servers/{id}/timeline", Access::VIEWER, timeline)
            .summary("What happened to a server: operations, restarts, times without readings")
            .query("period", "how far back from to: 15m, 1h, 24h, 7d, 1y; 1h by default")
            .query("from", "start, RFC 3339 or Unix time")
            .query("to", "end, RFC 3339 or Unix time; now by default")
            .gives("Timeline"),
        Route::get("/api/v1/metrics", Access::VIEWER, catalogue)
            .summary("Every built-in metric: name, title, unit, label")
            .gives("Catalogue"),
    ]
}

fn with_span(route: Route) -> Route {
    route
        .query("period", "how far back from to: 15m, 1h, 24h, 7d, 1y; 1h by default")
        .query("from", "start, RFC 3339 or Unix time")
        .query("to", "end, RFC 3339 or Unix time; now by default")
        .query("points", "points a series at most, 1 to 5000, 600 by default")
        .query("limit", "the same as points")
        .query("format", "json (default) or csv")
}

/// # Errors
/// [`Failure::Invalid`] for any word but csv and json.
pub fn format(request: &Request) -> Result<Format, Failure> {
    given(request, "format").map_or(Ok(Format::Json), |word| word.parse().map_err(Failure::Invalid))
}

/// One line of a chart.
#[derive(Debug, Serialize, ToSchema)]
pub struct SeriesJson {
    /// A core, a mount, an interface, …; null for a metric with one series a server.
    pub(super) label: Option<String>,
    /// [Unix milliseconds, average, minimum, maximum] of each span that has samples.
    #[schema(value_type = Vec<Vec<f64>>)]
    pub(super) points: Vec<(i64, f64, f64, f64)>,
}

/// The series of one metric on one server.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServerRange {
    server_id: String,
    server: String,
    /// Between two readings.
    interval_ms: u32,
    series: Vec<SeriesJson>,
}

/// From where on health is degraded, and critical.
#[derive(Debug, Serialize, ToSchema)]
pub struct ThresholdsJson {
    degraded: f64,
    critical: f64,
}

/// One metric on every server that was asked for.
#[derive(Debug, Serialize, ToSchema)]
pub struct MetricRangeJson {
    metric: String,
    title: String,
    unit: String,
    label_name: Option<String>,
    thresholds: Option<ThresholdsJson>,
    servers: Vec<ServerRange>,
}

/// Answer of `/fleet/metrics`.
#[derive(Debug, Serialize, ToSchema)]
pub struct MetricRanges {
    #[schema(value_type = String)]
    from: Timestamp,
    #[schema(value_type = String)]
    to: Timestamp,
    /// raw, 1m, 5m, 15m, 1h or 1d: the coarsest level that was read.
    level: &'static str,
    /// Length of the spans that values are put together in.
    span_ms: i64,
    metrics: Vec<MetricRangeJson>,
}

/// Averages need no more digits than the values that they were made of; custom metrics may be of any size.
pub fn rounded(value: f64, is_known: bool) -> f64 {
    if is_known { (value * DECIMALS).round() / DECIMALS } else { value }
}

impl SeriesJson {
    pub(super) fn of(points: &[Point], label: &str, is_known: bool) -> Self {
        let round = |value| rounded(value, is_known);
        Self {
            label: (!label.is_empty()).then(|| label.to_owned()),
            points: points
                .iter()
                .map(|point| (point.at.as_millis(), round(point.avg), round(point.min), round(point.max)))
                .collect(),
        }
    }
}

impl ThresholdsJson {
    pub(super) const fn of(at: Thresholds) -> Self {
        Self { degraded: at.degraded, critical: at.critical }
    }
}

/// Title, unit and label's name of a metric; a custom one has its name and no unit.
pub fn described(name: &MetricName) -> (String, String, Option<String>) {
    metric::find(name.as_str()).map_or_else(
        || (name.to_string(), "number".to_owned(), None),
        |known| (known.title.to_owned(), known.unit.name().to_owned(), known.label.map(ToOwned::to_owned)),
    )
}

impl MetricRangeJson {
    fn of(found: &MetricRange) -> Self {
        let (title, unit, label_name) = described(&found.name);
        let servers = found.servers.iter().map(|server| ServerRange {
            server_id: server.server.to_string(),
            server: server.name.clone(),
            interval_ms: server.interval_ms,
            series: server
                .series
                .iter()
                .map(|(labels, points)| SeriesJson::of(points, labels.as_str(), found.known.is_some()))
                .collect(),
        });
        Self {
            metric: found.name.to_string(),
            title,
            unit,
            label_name,
            thresholds: thresholds(found.name.as_str()).map(ThresholdsJson::of),
            servers: servers.collect(),
        }
    }
}

impl MetricRanges {
    fn of(found: &[MetricRange], span: Span, resolution: Resolution) -> Self {
        Self {
            from: span.from,
            to: span.to,
            level: resolution.level.name(),
            span_ms: resolution.span_ms,
            metrics: found.iter().map(MetricRangeJson::of).collect(),
        }
    }
}

/// A file to keep, named after what is in it.
pub fn download(text: String, name: &str) -> Response {
    let mut response = with_type(StatusCode::OK, "text/csv; charset=utf-8", text.into());
    let safe: String = name
        .chars()
        .take(100)
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' })
        .collect();
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{safe}.csv\"")) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    }
    response
}

const COLUMNS: [&str; 8] = ["time", "server", "metric", "label", "average", "minimum", "maximum", "samples"];

/// A row a point and series, so that series of different times stand in one table.
fn table(found: &[MetricRange]) -> String {
    let mut writer = Writer::new(Format::Csv, COLUMNS.to_vec());
    let mut text = String::new();
    writer.begin(&mut text);
    for metric in found {
        let round = |value: f64| json!(rounded(value, metric.known.is_some()));
        for server in &metric.servers {
            for (labels, points) in &server.series {
                for point in points {
                    let name = [json!(point.at), json!(server.name), json!(metric.name.as_str())];
                    let values = [round(point.avg), round(point.min), round(point.max), json!(point.count)];
                    let label = json!(labels.as_str());
                    let cells: Vec<Value> = name.into_iter().chain([label]).chain(values).collect();
                    writer.row(&mut text, &cells);
                }
            }
        }
    }
    text
}

/// `web-1_cpu_percent`, or how many there are of each.
fn file_name(found: &[MetricRange]) -> String {
    let servers = match found.first().map(|metric| metric.servers.as_slice()) {
        Some([one]) => one.name.clone(),
        Some(many) => format!("{}_servers", many.len()),
        None => String::new(),
    };
    match found {
        [one] => format!("{servers}_{}", one.name),
        many => format!("{servers}_{}_metrics", many.len()),
    }
}

async fn answer(
    request: &Request,
    services: &Services,
    servers: &[String],
    metrics: &[String],
) -> Result<(Vec<MetricRange>, Span, Resolution), Failure> {
    let span = span(request, services.clock.now())?;
    let (resolution, found) = services.fleet.metric_ranges(request.caller()?, servers, metrics, span).await?;
    Ok((found, span, resolution))
}

async fn of_server(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let state = services.fleet.get(caller, request.param(0))?;
    let metrics = list(&request, "metric");
    if metrics.is_empty() {
        let names: Vec<String> =
            services.fleet.metric_names(caller, request.param(0))?.iter().map(ToString::to_string).collect();
        let body = json!({ "server_id": state.server.id, "current": *state.figures, "metrics": names });
        return json_reply(StatusCode::OK, &body);
    }
    let format = format(&request)?;
    let (found, span, resolution) =
        answer(&request, &services, &[state.server.id.to_string()], &metrics).await?;
    if format == Format::Csv {
        return Ok(download(table(&found), &file_name(&found)));
    }
    match found.as_slice() {
        [one] => json_reply(StatusCode::OK, &of_one(one, span, resolution)),
        several => json_reply(StatusCode::OK, &MetricRanges::of(several, span, resolution)),
    }
}

/// The answer about one metric of one server.
fn of_one(found: &MetricRange, span: Span, resolution: Resolution) -> Value {
    let mut one = MetricRangeJson::of(found);
    let server = one.servers.pop();
    json!({
        "server_id": server.as_ref().map(|server| server.server_id.as_str()),
        "interval_ms": server.as_ref().map(|server| server.interval_ms),
        "metric": one.metric,
        "title": one.title,
        "unit": one.unit,
        "label_name": one.label_name,
        "thresholds": one.thresholds,
        "from": span.from,
        "to": span.to,
        "level": resolution.level.name(),
        "span_ms": resolution.span_ms,
        "series": server.map(|server| server.series).unwrap_or_default(),
    })
}

async fn of_servers(request: Request, services: Services) -> Result<Response, Failure> {
    let format = format(&request)?;
    let (servers, metrics) = (list(&request, "server"), list(&request, "metric"));
    let (found, span, resolution) = answer(&request, &services, &servers, &metrics).await?;
    match format {
        Format::Csv => Ok(download(table(&found), &file_name(&found))),
        Format::Json => json_reply(StatusCode::OK, &MetricRanges::of(&found, span, resolution)),
    }
}

async fn timeline(request: Request, services: Services) -> Result<Response, Failure> {
    let asked = range(&request, named_period(&request, "period")?, services.clock.now())?;
    let found = services.operations.timeline(request.caller()?, request.param(0), asked).await?;
    json_reply(StatusCode::OK, &found)
}

async fn catalogue(_: Request, _: Services) -> Result<Response, Failure> {
    let items: Vec<Value> = metric::CATALOGUE
        .iter()
        .map(|metric| {
            json!({
                "name": metric.name,
                "title": metric.title,
                "unit": metric.unit.name(),
                "label_name": metric.label,
            })
        })
        .collect();
    json_reply(StatusCode::OK, &json!({ "items": items, "next_cursor": null }))
}
