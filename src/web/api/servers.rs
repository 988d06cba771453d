//! `/api/v1/fleet/servers`: enrol, list, change, remove, look at, check.

mod input;
mod shown;

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply, no_content};
use super::selection::chosen;
use super::{page, push};
use crate::fleet::Checked;
use crate::services::Services;
use crate::ssh::preflight::Outcome;
pub use input::{ServerInput, ServerPatch};
pub use shown::ServerJson;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    const LIST: &str = "/api/v1/fleet/servers";
    const ONE: &str = "/api/v1/fleet/servers/{id}";
    vec![
        Route::get(LIST, Access::VIEWER, list)
            .summary("The servers, by name")
            .query("search", "part of the name, the address or the description")
            .query("status", "active, maintenance, inactive, or unreachable")
            .query("health", "healthy, degraded, critical, unreachable or unknown")
            .query("server", "this server, by id or name; as all that follows, may be given several times")
            .query("group", "a member of this group")
            .query("region", "exactly this region")
            .query("environment", "exactly this environment")
            .query("tag", "has this tag; of several, all")
            .query("limit", "entries on the page, 1 to 1000, 100 by default")
            .query("cursor", "next_cursor of the page before")
            .gives("ServerList"),
        Route::post(LIST, Access::ADMIN, add)
            .summary("Enrols a server; 409 with the fingerprint until its host key is approved")
            .takes("ServerInput")
            .gives("Server")
            .status(201),
        Route::get(ONE, Access::VIEWER, get).summary("One server, by id or name").gives("Server"),
        Route::new(Method::PUT, ONE, Access::ADMIN, replace)
            .summary("Replaces what is said of a server; what is left out is emptied")
            .takes("ServerInput")
            .gives("Server"),
        Route::new(Method::PATCH, ONE, Access::ADMIN, patch)
            .summary("Changes what is given and leaves the rest")
            .takes("ServerPatch")
            .gives("Server"),
        Route::new(Method::DELETE, ONE, Access::ADMIN, remove)
            .summary("Removes a server and its samples")
            .status(204),
        Route::post("/api/v1/fleet/servers/{id}/test", Access::OPERATOR, test)
            .summary("Goes through the stages of a connection, with one login of its own")
            .gives("Preflight"),
        Route::post("/api/v1/fleet/servers/{id}/host-key", Access::ADMIN, approve_host_key)
            .summary("Approves the host key that the server offers now")
            .takes("HostKeyApproval")
            .gives("Server"),
        Route::post("/api/v1/fleet/preflight", Access::ADMIN, preflight)
            .summary("Goes through the stages for a server that is not enrolled; stores nothing")
            .takes("ServerInput")
            .gives("Preflight"),
        Route::get("/api/v1/fleet/summary", Access::VIEWER, summary)
            .summary("Counts and averages over the fleet")
            .gives("Summary"),
    ]
}

/// Approval of a host key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostKeyApproval {
    /// The line in `offered_host_key` of the server.
    host_key: String,
}

async fn list(request: Request, services: Services) -> Result<Response, Failure> {
    page(&request, chosen(&request, &services)?.iter().map(ServerJson::of).collect())
}

async fn add(request: Request, services: Services) -> Result<Response, Failure> {
    let input = request.json::<ServerInput>()?;
    if input.transport.as_deref() == Some("push") {
        let registered = services.fleet.add_push(request.caller()?, input.registration()).await?;
        return push::with_token(StatusCode::CREATED, &registered);
    }
    let state = if input.transport.as_deref() == Some("http")
        || (input.transport.is_none() && input.api_url.is_some())
    {
        services.fleet.add_http(request.caller()?, input.http_server()?).await?
    } else {
        services.fleet.add(request.caller()?, input.new_server()?).await?
    };
    json_reply(StatusCode::CREATED, &ServerJson::of(&state))
}

async fn get(request: Request, services: Services) -> Result<Response, Failure> {
    let state = services.fleet.get(request.caller()?, request.param(0))?;
    json_reply(StatusCode::OK, &ServerJson::of(&state))
}

async fn replace(request: Request, services: Services) -> Result<Response, Failure> {
    let edit = request.json::<ServerInput>()?.replacement()?;
    let state = services.fleet.edit(request.caller()?, request.param(0), edit).await?;
    json_reply(StatusCode::OK, &ServerJson::of(&state))
}

async fn patch(request: Request, services: Services) -> Result<Response, Failure> {
    let edit = request.json::<ServerPatch>()?.into();
    let state = services.fleet.edit(request.caller()?, request.param(0), edit).await?;
    json_reply(StatusCode::OK, &ServerJson::of(&state))
}

async fn remove(request: Request, services: Services) -> Result<Response, Failure> {
    services.fleet.remove(request.caller()?, request.param(0)).await?;
    Ok(no_content())
}

fn checked(done: &Checked) -> Result<Response, Failure> {
    let steps = done.steps.iter().chain(done.action_steps.iter().flatten());
    let ok = !steps.into_iter().any(|step| matches!(step.outcome, Outcome::Failed | Outcome::NeedsApproval));
    let answer = json!({
        "ok": ok, "steps": done.steps, "action_steps": done.action_steps, "host_key": done.seen,
    });
    json_reply(StatusCode::OK, &answer)
}

async fn test(request: Request, services: Services) -> Result<Response, Failure> {
    checked(&services.fleet.test(request.caller()?, request.param(0)).await?)
}

async fn preflight(request: Request, services: Services) -> Result<Response, Failure> {
    let new = request.json::<ServerInput>()?.new_server()?;
    checked(&services.fleet.preflight(request.caller()?, &new).await?)
}

async fn approve_host_key(request: Request, services: Services) -> Result<Response, Failure> {
    let HostKeyApproval { host_key } = request.json()?;
    let state = services.fleet.approve_host_key(request.caller()?, request.param(0), &host_key).await?;
    json_reply(StatusCode::OK, &ServerJson::of(&state))
}

async fn summary(request: Request, services: Services) -> Result<Response, Failure> {
    json_reply(StatusCode::OK, &services.fleet.summary(request.caller()?)?)
}
