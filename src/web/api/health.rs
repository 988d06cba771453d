//! The health of one server, as it is known or by a look at it now.

use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply};
use crate::fleet::ServerState;
use crate::model::{ApiHealth, Reachability, Timestamp};
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/api/v1/fleet/servers/{id}/health", Access::VIEWER, health)
            .summary("Health and reachability now")
            .gives("ServerHealth"),
        Route::post("/api/v1/fleet/servers/{id}/check", Access::OPERATOR, check)
            .summary("Reads the server now and answers its health")
            .gives("ServerHealth"),
    ]
}

/// Health of one server.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServerHealth {
    server_id: String,
    name: String,
    status: String,
    health_status: String,
    #[schema(value_type = Object)]
    reachability: Reachability,
    reasons: Vec<String>,
    #[schema(value_type = Option<String>)]
    last_seen_at: Option<Timestamp>,
    #[schema(value_type = Option<String>)]
    last_health_check_at: Option<Timestamp>,
    response_time_ms: Option<f64>,
    /// Of an http server: what its API said last, with its components.
    #[schema(value_type = Option<Object>)]
    api: Option<ApiHealth>,
}

impl ServerHealth {
    fn of(state: &ServerState) -> Self {
        Self {
            server_id: state.server.id.to_string(),
            name: state.server.name.to_string(),
            status: state.server.status.to_string(),
            health_status: state.health.to_string(),
            reachability: state.reachability.clone(),
            reasons: state.health_reasons.clone(),
            last_seen_at: state.last_seen_at,
            last_health_check_at: state.last_health_check_at,
            response_time_ms: state.figures.response_time_ms,
            api: state.api.as_deref().cloned(),
        }
    }
}

async fn health(request: Request, services: Services) -> Result<Response, Failure> {
    let state = services.fleet.get(request.caller()?, request.param(0))?;
    json_reply(StatusCode::OK, &ServerHealth::of(&state))
}

async fn check(request: Request, services: Services) -> Result<Response, Failure> {
    let state = services.fleet.check(request.caller()?, request.param(0)).await?;
    json_reply(StatusCode::OK, &ServerHealth::of(&state))
}
