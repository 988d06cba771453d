//! The REST API under `/api/v1`: JSON in, JSON out, problem details when something is refused.

mod agents;
mod aggregated;
mod aliases;
mod backup;
mod containers;
mod custom_metrics;
mod events;
mod export;
mod files;
mod groups;
pub(super) mod host_keys;
mod import;
mod keeping;
pub(super) mod keys;
mod metrics;
mod openapi;
mod operations;
mod people;
mod prometheus;
mod push;
mod range;
mod selection;
mod servers;
mod tasks;
mod ways;

pub(super) use selection::chosen;

use http::StatusCode;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use warp::reply::Response;

use super::error::Failure;
use super::request::{Access, Request};
use super::routes::{Route, json as json_reply};
use crate::services::{Services, VERSION};

/// Entries on a page of a list when the caller names no number, and at most.
const PAGE: (usize, usize) = (100, 1000);

/// Every route of the API.
#[must_use]
pub fn routes() -> Vec<Route> {
    let mut routes = vec![
        Route::get("/api/health", Access::Public, health).summary("Whether Roundsman answers").gives("Alive"),
        Route::get("/api/openapi.json", Access::VIEWER, openapi::document)
            .summary("This description of the API"),
    ];
    routes.extend(servers::routes());
    routes.extend(agents::routes());
    routes.extend(files::routes());
    routes.extend(groups::routes());
    routes.extend(selection::routes());
    routes.extend(containers::routes());
    routes.extend(custom_metrics::routes());
    routes.extend(import::routes());
    routes.extend(metrics::routes());
    routes.extend(aggregated::routes());
    routes.extend(operations::routes());
    routes.extend(tasks::routes());
    routes.extend(people::routes());
    routes.extend(keys::routes());
    routes.extend(host_keys::routes());
    routes.extend(events::routes());
    routes.extend(push::routes());
    routes.extend(aliases::routes());
    routes.extend(prometheus::routes());
    routes.extend(backup::routes());
    routes.extend(keeping::routes());
    routes.extend(export::routes());
    routes
}

/// Answer of `/api/health`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Alive {
    /// Always `ok`: a program that cannot say so does not answer.
    status: String,
    version: String,
}

async fn health(_: Request, _: Services) -> Result<Response, Failure> {
    json_reply(StatusCode::OK, &json!({ "status": "ok", "version": VERSION }))
}

/// Limit and start of the page that a caller asks for.
fn window(request: &Request) -> Result<(usize, usize), Failure> {
    let limit = match request.query("limit") {
        None => PAGE.0,
        Some(text) => text
            .parse::<usize>()
            .ok()
            .filter(|limit| (1..=PAGE.1).contains(limit))
            .ok_or_else(|| Failure::invalid(format!("limit must be a number from 1 to {}", PAGE.1)))?,
    };
    let start = match request.query("cursor") {
        None => 0,
        Some(text) => text
            .parse::<u32>()
            .ok()
            .and_then(|start| usize::try_from(start).ok())
            .ok_or_else(|| Failure::invalid("cursor must come from next_cursor of the page before"))?,
    };
    Ok((limit, start))
}

/// Limit and offset for a query that fetches one entry more, to know whether there are more.
fn rows(window: (usize, usize)) -> (u32, u32) {
    (u32::try_from(window.0 + 1).unwrap_or(u32::MAX), u32::try_from(window.1).unwrap_or(u32::MAX))
}

/// One page of a list that was fetched with one entry more than the page has.
fn fetched_page<T: Serialize>(window: (usize, usize), mut items: Vec<T>) -> Result<Response, Failure> {
    let (limit, start) = window;
    let next_cursor = (items.len() > limit).then(|| (start + limit).to_string());
    items.truncate(limit);
    json_reply(StatusCode::OK, &json!({ "items": items, "next_cursor": next_cursor }))
}

/// One page of a list. The cursor is the position after the last entry; it is opaque to callers.
fn page<T: Serialize>(request: &Request, items: Vec<T>) -> Result<Response, Failure> {
    let (limit, start) = window(request)?;
    let more = items.len() > start.saturating_add(limit);
    let next_cursor = more.then(|| (start + limit).to_string());
    let items: Vec<T> = items.into_iter().skip(start).take(limit).collect();
    json_reply(StatusCode::OK, &json!({ "items": items, "next_cursor": next_cursor }))
}
