//! How long rows are kept, and how much there is of them.

use http::StatusCode;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply};
use crate::model::Retention;
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

async fn sizes(request: Request, services: Services) -> Result<Response, Failure> {
    let items = services.export.sizes(request.caller()?).await?;
    json_reply(StatusCode::OK, &serde_json::json!({ "items": items, "next_cursor": null }))
}
