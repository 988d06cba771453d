//! Custom metrics: define, change, try, remove; how each does on its servers.

use http::{Method, StatusCode};
use serde::Deserialize;
use utoipa::ToSchema;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply, no_content};
use super::page;
use crate::fleet::CustomMetricEdit;
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/api/v1/custom-metrics", Access::ADMIN, list)
            .summary("Metrics that are commands, by name")
            .query("limit", "entries on the page, 1 to 1000, 100 by default")
            .query("cursor", "next_cursor of the page before")
            .gives("CustomMetricList"),
        Route::post("/api/v1/custom-metrics", Access::ADMIN, add)
            .summary("Defines a metric: name, command and selector are needed")
            .takes("CustomMetricEdit")
            .gives("CustomMetric")
            .status(201),
        Route::post("/api/v1/custom-metrics/try", Access::ADMIN, attempt)
            .summary("Runs a command once on one server and answers with its output and the values in it")
            .takes("CustomMetricTrial")
            .gives("Trial"),
        Route::get("/api/v1/custom-metrics/{id}", Access::ADMIN, get)
            .summary("One, by id or name")
            .gives("CustomMetric"),
        Route::new(Method::PATCH, "/api/v1/custom-metrics/{id}", Access::ADMIN, patch)
            .summary("Changes what is given")
            .takes("CustomMetricEdit")
            .gives("CustomMetric"),
        Route::new(Method::DELETE, "/api/v1/custom-metrics/{id}", Access::ADMIN, remove)
            .summary("Removes it; what it has read stays in history")
            .status(204),
        Route::get("/api/v1/custom-metrics/{id}/servers", Access::ADMIN, servers)
            .summary("How its last run went on each server: values, what was left out, or why there is none")
            .query("limit", "entries on the page, 1 to 1000, 100 by default")
            .query("cursor", "next_cursor of the page before")
            .gives("CustomMetricStateList"),
    ]
}

/// A command to be tried.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CustomMetricTrial {
    /// Id or name.
    server: String,
    command: String,
    #[serde(default)]
    sudo: bool,
    /// 1,000 to 60,000; 10,000 by default.
    timeout_ms: Option<u64>,
    /// Names a value that the output gives no name.
    name: Option<String>,
}

async fn list(request: Request, services: Services) -> Result<Response, Failure> {
    let metrics = services.fleet.custom_metrics(request.caller()?)?;
    page(&request, metrics.iter().map(|metric| (**metric).clone()).collect())
}

async fn add(request: Request, services: Services) -> Result<Response, Failure> {
    let edit: CustomMetricEdit = request.json()?;
    json_reply(StatusCode::CREATED, &*services.fleet.add_custom_metric(request.caller()?, edit).await?)
}

async fn attempt(request: Request, services: Services) -> Result<Response, Failure> {
    let CustomMetricTrial { server, command, sudo, timeout_ms, name } = request.json()?;
    let edit = CustomMetricEdit {
        name,
        command: Some(command),
        sudo: Some(sudo),
        timeout_ms,
        ..CustomMetricEdit::default()
    };
    json_reply(StatusCode::OK, &services.fleet.try_custom_metric(request.caller()?, &edit, &server).await?)
}

async fn get(request: Request, services: Services) -> Result<Response, Failure> {
    json_reply(StatusCode::OK, &*services.fleet.custom_metric(request.caller()?, request.param(0))?)
}

async fn patch(request: Request, services: Services) -> Result<Response, Failure> {
    let edit: CustomMetricEdit = request.json()?;
    let metric = services.fleet.edit_custom_metric(request.caller()?, request.param(0), edit).await?;
    json_reply(StatusCode::OK, &*metric)
}

async fn remove(request: Request, services: Services) -> Result<Response, Failure> {
    services.fleet.remove_custom_metric(request.caller()?, request.param(0)).await?;
    Ok(no_content())
}

async fn servers(request: Request, services: Services) -> Result<Response, Failure> {
    page(&request, services.fleet.custom_metric_states(request.caller()?, request.param(0))?)
}
