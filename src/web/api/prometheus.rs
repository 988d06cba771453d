//! `/metrics` of Roundsman and of every server, and the list of targets for Prometheus.

use http::{StatusCode, header};
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply, with_type};
use super::selection::filter;
use crate::auth::AuthError;
use crate::model::{Caller, Role};
use crate::services::{Services, VERSION};

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Headers of a proxy: behind one, the address of the connection says nothing of who asks.
const PROXY_HEADERS: [&str; 3] = ["forwarded", "x-forwarded-for", "via"];
/// Longest host name with its port.
const HOST_CHARS: usize = 260;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        // Public to the table: the handler lets in viewers, and this machine itself where the configuration says so.
        Route::get("/metrics", Access::Public, metrics)
            .summary("Roundsman's own state for Prometheus; with target, a server as if it ran node_exporter")
            .query("target", "name or id of a server"),
        Route::get("/api/v1/sd", Access::VIEWER, targets)
            .summary("The servers as scrape targets: HTTP service discovery of Prometheus")
            .query("search", "part of the name, the address or the description")
            .query("status", "active, maintenance, inactive, or unreachable")
            .query("health", "healthy, degraded, critical, unreachable or unknown")
            .query("region", "exactly this region")
            .query("environment", "exactly this environment")
            .query("tag", "has this tag; may be given several times")
            .gives("Targets"),
    ]
}

/// Who asks. Without login it is a viewer of the first organization, if the configuration lets this machine in so.
fn reader(request: &Request, services: &Services) -> Result<Caller, Failure> {
    if let Some(caller) = &request.caller {
        return Ok(caller.clone());
    }
    let here = request.address.is_some_and(|address| address.to_canonical().is_loopback());
    let direct = !PROXY_HEADERS.iter().any(|name| request.headers.contains_key(*name));
    if services.export.metrics_without_login() && here && direct {
        return Ok(Caller { role: Role::Viewer, from: request.address, ..Caller::roundsman() });
    }
    Err(Failure::Auth(AuthError::Unauthenticated))
}

async fn metrics(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = reader(&request, &services)?;
    let text = match request.query("target") {
        Some(target) => services.export.node_metrics(&caller, target)?,
        None => services.export.own_metrics(&caller, VERSION)?,
    };
    Ok(with_type(StatusCode::OK, TEXT, text.into()))
}

async fn targets(request: Request, services: Services) -> Result<Response, Failure> {
    let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']' | '_');
    if host.is_empty() || host.len() > HOST_CHARS || !host.chars().all(plain) {
        return Err(Failure::invalid("the request names no host, so targets have no address"));
    }
    let found = services.export.scrape_targets(request.caller()?, host, &filter(&request)?)?;
    json_reply(StatusCode::OK, &found)
}
