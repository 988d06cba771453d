//! `…/metrics`: the history of a server, one metric at a time.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply};
use crate::history::metric;
use crate::model::{MetricName, Timestamp};
use crate::services::Services;

const DEFAULT_PERIOD: Duration = Duration::from_secs(3600);
/// Points of one series when the caller names no number: about two pixels each on a wide chart.
const DEFAULT_POINTS: usize = 600;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/api/v1/fleet/servers/{id}/metrics", Access::VIEWER, metrics)
            .summary("History of one metric; without one, the current figures and the names of the metrics")
            .query("metric", "name of a metric, for example cpu_percent")
            .query("period", "how far back from to: 15m, 1h, 24h, 7d; 1h by default")
            .query("from", "start, RFC 3339 or Unix time")
            .query("to", "end, RFC 3339 or Unix time; now by default")
            .query("points", "points a series at most, 1 to 5000, 600 by default")
            .query("limit", "the same as points")
            .gives("Metrics"),
        Route::get("/api/v1/metrics", Access::VIEWER, catalogue)
            .summary("Every built-in metric: name, title, unit, label")
            .gives("Catalogue"),
    ]
}

/// `15m`, `1h`, `24h`, `7d`, `2w` or seconds.
fn period(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text.get(digits.len()..)? {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        "w" => 7 * 24 * 3600,
        _ => return None,
    };
    digits.parse::<u64>().ok().filter(|n| *n > 0)?.checked_mul(factor).map(Duration::from_secs)
}

fn time(request: &Request, name: &str) -> Result<Option<Timestamp>, Failure> {
    request
        .query(name)
        .filter(|text| !text.is_empty())
        .map(|text| {
            Timestamp::parse(text).ok_or_else(|| {
                Failure::invalid(format!(
                    "{name} is not a time; use RFC 3339 such as 2026-01-31T08:00:00Z, or Unix time"
                ))
            })
        })
        .transpose()
}

pub(super) fn range(request: &Request, now: Timestamp) -> Result<(Timestamp, Timestamp), Failure> {
    let to = time(request, "to")?.unwrap_or(now);
    let back = match request.query("period").filter(|text| !text.is_empty()) {
        None => DEFAULT_PERIOD,
        Some(text) => period(text).ok_or_else(|| {
            Failure::invalid(format!("'{text}' is not a period; use for example 15m, 1h, 24h or 7d"))
        })?,
    };
    let from = time(request, "from")?.unwrap_or(to - back);
    Ok((from, to))
}

pub(super) fn points(request: &Request) -> Result<usize, Failure> {
    match request.query("points").or_else(|| request.query("limit")) {
        None => Ok(DEFAULT_POINTS),
        Some(text) => {
            text.parse().map_err(|_| Failure::invalid(format!("'{text}' is not a number of points")))
        }
    }
}

async fn metrics(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let state = services.fleet.get(caller, request.param(0))?;
    let Some(name) = request.query("metric").filter(|name| !name.is_empty()) else {
        let names: Vec<String> =
            services.fleet.metric_names(caller, request.param(0))?.iter().map(ToString::to_string).collect();
        let body = json!({ "server_id": state.server.id, "current": *state.figures, "metrics": names });
        return json_reply(StatusCode::OK, &body);
    };
    let known = metric::find(name);
    let has_history = || {
        services
            .fleet
            .metric_names(caller, request.param(0))
            .is_ok_and(|names| names.iter().any(|known| known.as_str() == name))
    };
    if known.is_none() && !has_history() {
        let shown: String = name.chars().take(80).collect();
        return Err(Failure::NotFound(format!(
            "there is no metric '{shown}'; GET /api/v1/metrics lists them"
        )));
    }
    let (from, to) = range(&request, services.clock.now())?;
    let metric_name =
        known.map_or_else(|| MetricName::custom(name.to_owned()), |m| MetricName::known(m.name));
    let found =
        services.fleet.metrics(caller, request.param(0), metric_name, (from, to), points(&request)?).await?;
    let series: Vec<Value> = found
        .iter()
        .map(|(labels, points)| {
            let points: Vec<Value> =
                points.iter().map(|p| json!([p.at.as_millis(), p.avg, p.min, p.max])).collect();
            let label = (!labels.is_empty()).then(|| labels.as_str());
            json!({ "label": label, "points": points })
        })
        .collect();
    let body = json!({
        "server_id": state.server.id,
        "metric": name,
        "title": known.map_or(name, |metric| metric.title),
        "unit": known.map_or("number", |metric| metric.unit.name()),
        "label_name": known.and_then(|metric| metric.label),
        "from": from,
        "to": to,
        "series": series,
    });
    json_reply(StatusCode::OK, &body)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_numbers_with_a_unit() {
        assert_eq!(period("15m"), Some(Duration::from_secs(900)));
        assert_eq!(period("7d"), Some(Duration::from_secs(604_800)));
        for bad in ["", "0h", "-1h", "1y", "h", "99999999999999999999d"] {
            assert_eq!(period(bad), None, "{bad}");
        }
    }
}
