//! Tables as CSV or JSON, streamed.

use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, download};
use super::range::{list, span};
use super::selection::filter;
use crate::export::format::Format;
use crate::export::tables::{MetricsWanted, Table, Wanted};
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/api/v1/export/{name}", Access::VIEWER, export)
            .summary(
                "A whole table as a file: servers, report, operations, command_records, audit, keys, users, metrics",
            )
            .query("format", "csv or json; csv by default")
            .query("server", "name or id, for servers, report and metrics; may be given several times")
            .query("metric", "for metrics: name of a metric; may be given several times")
            .query("period", "for metrics: how far back from to: 15m, 1h, 24h, 7d; 1h by default")
            .query("from", "for metrics: start, RFC 3339 or Unix time")
            .query("to", "for metrics: end, RFC 3339 or Unix time; now by default")
            .query("points", "for metrics: points a series at most, 1 to 5000, 600 by default")
            .query("region", "exactly this region")
            .query("environment", "exactly this environment")
            .query("tag", "has this tag; may be given several times")
            .query("health", "healthy, degraded, critical, unreachable or unknown")
            .query("status", "active, maintenance, inactive, or unreachable")
            .query("search", "part of the name, the address or the description"),
    ]
}

fn metrics(request: &Request, services: &Services) -> Result<Option<MetricsWanted>, Failure> {
    let metrics = list(request, "metric");
    if metrics.is_empty() {
        return Ok(None);
    }
    Ok(Some(MetricsWanted { metrics, span: span(request, services.clock.now())? }))
}

async fn export(request: Request, services: Services) -> Result<Response, Failure> {
    let name = request.param(0);
    let table: Table = name.parse().map_err(Failure::NotFound)?;
    let format: Format = request.query("format").unwrap_or("csv").parse().map_err(Failure::Invalid)?;
    let wanted = Wanted {
        table,
        format,
        filter: filter(&request)?,
        servers: list(&request, "server"),
        metrics: metrics(&request, &services)?,
    };
    let parts = services.export.table(request.caller()?, wanted)?;
    Ok(download(format.media_type(), &format!("roundsman-{name}.{}", format.name()), parts))
}
