//! The containers of a server, and which of them are looked at.

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply};
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/api/v1/fleet/servers/{id}/containers", Access::VIEWER, list)
            .summary("The containers of all engines with their figures: CPU in percent of one core, bytes a second")
            .gives("ContainerTable"),
        Route::new(Method::PUT, "/api/v1/fleet/servers/{id}/container-filter", Access::ADMIN, filter)
            .summary("Looks only at containers whose name begins like this; an empty prefix means all")
            .takes("ContainerFilter")
            .gives("ContainerFilter"),
    ]
}

/// Which containers are looked at.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContainerFilter {
    /// The beginning of their names; empty: all.
    prefix: String,
}

async fn list(request: Request, services: Services) -> Result<Response, Failure> {
    json_reply(StatusCode::OK, &services.fleet.containers(request.caller()?, request.param(0))?)
}

async fn filter(request: Request, services: Services) -> Result<Response, Failure> {
    let ContainerFilter { prefix } = request.json()?;
    services.fleet.set_container_prefix(request.caller()?, request.param(0), &prefix).await?;
    let prefix = services.fleet.container_prefix(request.caller()?, request.param(0))?;
    json_reply(StatusCode::OK, &json!({ "prefix": prefix }))
}
