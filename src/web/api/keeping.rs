//! How long rows are kept, how much there is of them, and how often heavy sections are read.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply};
use crate::model::{Retention, WhenBusy};
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/api/v1/settings/retention", Access::VIEWER, retention)
            .summary("How many days each kind of row is kept")
            .gives("Retention"),
        Route::new(http::Method::PUT, "/api/v1/settings/retention", Access::ADMIN, set_retention)
            .summary("Changes how long rows are kept; fields that are left out get their default")
            .takes("Retention")
            .gives("Retention"),
        Route::get("/api/v1/settings/cadence", Access::VIEWER, cadence)
            .summary("How often heavy sections are read where a server says nothing of its own")
            .gives("CadenceSettings"),
        Route::new(http::Method::PUT, "/api/v1/settings/cadence", Access::ADMIN, set_cadence)
            .summary("Changes how often heavy sections are read, from the next reading of each server on")
            .takes("CadenceSettings")
            .gives("CadenceSettings"),
        Route::get("/api/v1/settings/operations", Access::VIEWER, operations)
            .summary("What happens where another operation is under way on a server and an operation does not say it")
            .gives("OperationSettings"),
        Route::new(http::Method::PUT, "/api/v1/settings/operations", Access::ADMIN, set_operations)
            .summary("Changes it, for operations that begin from now on; it goes before the configuration file")
            .takes("OperationSettings")
            .gives("OperationSettings"),
        Route::get("/api/v1/settings/sizes", Access::ADMIN, sizes)
            .summary("Rows, size and growth of every table of the control data")
            .gives("Sizes"),
    ]
}

async fn retention(request: Request, services: Services) -> Result<Response, Failure> {
    json_reply(StatusCode::OK, &services.export.retention(request.caller()?).await?)
}

async fn set_retention(request: Request, services: Services) -> Result<Response, Failure> {
    let wanted: Retention = request.json()?;
    services.export.set_retention(request.caller()?, wanted).await?;
    retention(request, services).await
}

/// The default of the organization.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CadenceSettings {
    /// Processes, services, containers, users: 1,000 to 3,600,000 ms.
    heavy_interval_ms: u64,
}

async fn cadence(request: Request, services: Services) -> Result<Response, Failure> {
    let heavy_interval_ms = services.fleet.default_heavy_interval_ms(request.caller()?)?.into();
    json_reply(StatusCode::OK, &CadenceSettings { heavy_interval_ms })
}

async fn set_cadence(request: Request, services: Services) -> Result<Response, Failure> {
    let CadenceSettings { heavy_interval_ms } = request.json()?;
    services.fleet.set_default_heavy_interval(request.caller()?, heavy_interval_ms).await?;
    cadence(request, services).await
}

/// The default of the organization.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OperationSettings {
    /// share (side by side; only the same action is refused), queue, refuse.
    #[schema(value_type = String)]
    when_busy: WhenBusy,
}

async fn operations(request: Request, services: Services) -> Result<Response, Failure> {
    let when_busy = services.operations.when_busy(request.caller()?)?;
    json_reply(StatusCode::OK, &OperationSettings { when_busy })
}

async fn set_operations(request: Request, services: Services) -> Result<Response, Failure> {
    let OperationSettings { when_busy } = request.json()?;
    services.operations.set_when_busy(request.caller()?, when_busy).await?;
    operations(request, services).await
}

async fn sizes(request: Request, services: Services) -> Result<Response, Failure> {
    let items = services.export.sizes(request.caller()?).await?;
    json_reply(StatusCode::OK, &serde_json::json!({ "items": items, "next_cursor": null }))
}
