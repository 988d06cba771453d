//! Watched services: define, change, remove.

use http::{Method, StatusCode};
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply, no_content};
use super::page;
use crate::fleet::WatchedServiceEdit;
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    const ONE: &str = "/api/v1/watched-services/{id}";
    vec![
        Route::get("/api/v1/watched-services", Access::ADMIN, list)
            .summary("Services that are watched by their processes, by name")
            .query("limit", "entries on the page, 1 to 1000, 100 by default")
            .query("cursor", "next_cursor of the page before")
            .gives("WatchedServiceList"),
        Route::post("/api/v1/watched-services", Access::ADMIN, add)
            .summary("Watches a service: name and selector are needed")
            .takes("WatchedServiceEdit")
            .gives("WatchedService")
            .status(201),
        Route::get(ONE, Access::ADMIN, get).summary("One, by id or name").gives("WatchedService"),
        Route::new(Method::PATCH, ONE, Access::ADMIN, patch)
            .summary("Changes what is given")
            .takes("WatchedServiceEdit")
            .gives("WatchedService"),
        Route::new(Method::DELETE, ONE, Access::ADMIN, remove)
            .summary("No longer watches it, on any server")
            .status(204),
    ]
}

async fn list(request: Request, services: Services) -> Result<Response, Failure> {
    let watched = services.fleet.watched_services(request.caller()?)?;
    page(&request, watched.iter().map(|one| (**one).clone()).collect())
}

async fn add(request: Request, services: Services) -> Result<Response, Failure> {
    let edit: WatchedServiceEdit = request.json()?;
    json_reply(StatusCode::CREATED, &*services.fleet.add_watched_service(request.caller()?, edit).await?)
}

async fn get(request: Request, services: Services) -> Result<Response, Failure> {
    json_reply(StatusCode::OK, &*services.fleet.watched_service(request.caller()?, request.param(0))?)
}

async fn patch(request: Request, services: Services) -> Result<Response, Failure> {
    let edit: WatchedServiceEdit = request.json()?;
    let watched = services.fleet.edit_watched_service(request.caller()?, request.param(0), edit).await?;
    json_reply(StatusCode::OK, &*watched)
}

async fn remove(request: Request, services: Services) -> Result<Response, Failure> {
    services.fleet.remove_watched_service(request.caller()?, request.param(0)).await?;
    Ok(no_content())
}
