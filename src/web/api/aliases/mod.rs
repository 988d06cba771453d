//! Older addresses, in the older shapes, answered by the same services as the newer ones.

mod reports;
mod servers;
mod tasks;

use http::StatusCode;
use serde_json::{Map, Value, json};
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply};
use crate::fleet::{ServerFilter, ServerState, Summary};
use crate::model::Health;
use crate::services::Services;

/// Samples of one answer about a server.
const LAST_SAMPLES: usize = 200;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    let mut routes = vec![
        Route::get("/api/metrics/summary", Access::VIEWER, summary)
            .summary("Older address: counts and averages over the fleet, and the last metrics of each server")
            .gives("OlderSummary"),
        Route::get("/api/metrics/{id}", Access::VIEWER, samples)
            .summary("Older address: the last 200 samples of a server, newest first")
            .gives("OlderSamples"),
    ];
    routes.extend(servers::routes());
    routes.extend(reports::routes());
    routes.extend(tasks::routes());
    routes
}

/// `online`, `offline` or `unknown`.
const fn status(health: Health) -> &'static str {
    match health {
        Health::Healthy | Health::Degraded | Health::Critical => "online",
        Health::Unreachable => "offline",
        Health::Unknown => "unknown",
    }
}

/// The first address that the server says it has, or the one that it is reached at.
fn address(state: &ServerState) -> Option<String> {
    let host = state.server.hostname.clone().filter(|host| host.parse::<std::net::IpAddr>().is_ok());
    host.or_else(|| state.facts.as_ref().and_then(|facts| facts.addresses.first().cloned()))
}

/// A ServerNode of old, with what older lists of servers show beside it.
fn server(state: &ServerState) -> Value {
    let figures = &state.figures;
    json!({
        "id": state.server.id,
        "number": state.server.number.0,
        "name": state.server.name.as_str(),
        "host": state.server.hostname,
        "ip": address(state),
        "username": state.server.username,
        "port": state.server.port.get(),
        "description": state.server.description,
        "tags": state.server.tags.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "services": state.push.as_ref().map(|pushing| pushing.services.clone()).unwrap_or_default(),
        "metadata": state.server.metadata,
        "status": status(state.health),
        "last_seen": state.last_seen_at,
        "last_metrics": {
            "cpu_percent": figures.cpu_percent,
            "memory_percent": figures.memory_percent,
            "disk_percent": figures.disk_percent,
            "network_rx_bytes": figures.network_rx_bytes,
            "network_tx_bytes": figures.network_tx_bytes,
            "active_services": figures.active_services,
            "failed_services": figures.failed_services,
            "active_users": figures.active_users,
        },
    })
}

/// Sum over the servers that know the figure. None: no server does.
fn sum(states: &[ServerState], figure: impl Fn(&ServerState) -> Option<f64>) -> Option<f64> {
    states.iter().filter_map(figure).fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

async fn summary(request: Request, services: Services) -> Result<Response, Failure> {
    let states = services.fleet.list(request.caller()?, &ServerFilter::default())?;
    let summary = Summary::of(&states);
    let count = |word: &str| states.iter().filter(|state| status(state.health) == word).count();
    let body = json!({
        "timestamp": services.clock.now(),
        "total_servers": summary.total_servers,
        "online_servers": count("online"),
        "offline_servers": count("offline"),
        "unknown_servers": count("unknown"),
        "avg_cpu_percent": summary.average_cpu_percent,
        "avg_memory_percent": summary.average_memory_percent,
        "avg_disk_percent": summary.average_disk_percent,
        "network_rx_bytes": sum(&states, |state| state.figures.network_rx_bytes),
        "network_tx_bytes": sum(&states, |state| state.figures.network_tx_bytes),
        "servers": states.iter().map(server).collect::<Vec<_>>(),
    });
    json_reply(StatusCode::OK, &body)
}

async fn samples(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let state = services.fleet.get(caller, request.param(0))?;
    let id = state.server.id.to_string();
    let rows = services.fleet.last_samples(caller, &id, LAST_SAMPLES).await?;
    let items: Vec<Value> = rows
        .into_iter()
        .rev()
        .map(|(at, values)| {
            let mut row = Map::new();
            row.insert("server_id".to_owned(), json!(id));
            row.insert("timestamp".to_owned(), json!(at));
            row.extend(values.into_iter().map(|(name, value)| (name.to_string(), json!(value))));
            Value::Object(row)
        })
        .collect();
    json_reply(StatusCode::OK, &items)
}
