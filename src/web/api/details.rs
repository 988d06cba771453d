//! What is read of a server less often: processes, services, logged-in users, facts.

use http::StatusCode;
use serde::Serialize;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply, no_content};
use crate::fleet::UpdateState;
use crate::model::Facts;
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/api/v1/fleet/servers/{id}/processes", Access::VIEWER, processes)
            .summary("The largest processes by CPU and by memory")
            .gives("ProcessTable"),
        Route::get("/api/v1/fleet/servers/{id}/services", Access::VIEWER, services_of)
            .summary("The services as their manager describes them")
            .gives("ServiceTable"),
        Route::get("/api/v1/fleet/servers/{id}/users", Access::VIEWER, users)
            .summary("Who is logged in")
            .gives("UserTable"),
        Route::get("/api/v1/fleet/servers/{id}/facts", Access::VIEWER, facts)
            .summary("What changes rarely: system, kernel, hardware, addresses")
            .gives("Facts"),
        Route::post("/api/v1/fleet/servers/{id}/facts/refresh", Access::OPERATOR, refresh_facts)
            .summary("Reads facts and pending updates with the next reading, at once")
            .status(204),
    ]
}

/// The facts, and what is known with them.
#[derive(Debug, Serialize)]
struct FactsJson<'a> {
    #[serde(flatten)]
    facts: &'a Facts,
    updates: Option<&'a UpdateState>,
    /// Over 0: the server's clock is ahead of ours.
    clock_offset_seconds: Option<f64>,
    /// What the CPU and memory of a container are judged against.
    cpu_limit_cores: Option<f64>,
    memory_limit_bytes: Option<u64>,
}

async fn processes(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    services.fleet.look(caller, request.param(0))?;
    json_reply(StatusCode::OK, &*services.fleet.processes(caller, request.param(0))?)
}

async fn services_of(request: Request, services: Services) -> Result<Response, Failure> {
    json_reply(StatusCode::OK, &*services.fleet.services(request.caller()?, request.param(0))?)
}

async fn users(request: Request, services: Services) -> Result<Response, Failure> {
    json_reply(StatusCode::OK, &*services.fleet.users(request.caller()?, request.param(0))?)
}

async fn facts(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let state = services.fleet.get(caller, request.param(0))?;
    let facts = services.fleet.facts(caller, request.param(0))?;
    #[expect(clippy::cast_precision_loss, reason = "a limit in thousandths of a core needs no 53 bits")]
    let cpu_limit_cores = state.cpu_limit_x1000.map(|limit| limit as f64 / 1000.0);
    let answer = FactsJson {
        facts: &facts,
        updates: state.updates.as_deref(),
        clock_offset_seconds: state.figures.clock_offset_seconds,
        cpu_limit_cores,
        memory_limit_bytes: state.memory_limit_bytes,
    };
    json_reply(StatusCode::OK, &answer)
}

async fn refresh_facts(request: Request, services: Services) -> Result<Response, Failure> {
    services.fleet.refresh_facts(request.caller()?, request.param(0)).await?;
    Ok(no_content())
}
