//! The page of the dependencies between services, and its forms.

use http::StatusCode;
use warp::reply::Response;

use super::super::error::{Failure, problem};
use super::super::pages::dependencies::DependenciesPage;
use super::super::pages::form::FieldProblem;
use super::super::request::{Access, Request};
use super::super::routes::{Route, see_other};
use super::{done, doors, show, viewer};
use crate::fleet::{DependencyInput, FleetError};
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/dependencies", Access::VIEWER, dependencies),
        Route::post("/dependencies", Access::ADMIN, note),
        Route::post("/dependencies/{id}/remove", Access::ADMIN, forget),
    ]
}

fn page(
    request: &Request,
    services: &Services,
    status: StatusCode,
    typed: &DependencyInput,
    problems: &[FieldProblem],
) -> Result<Response, Failure> {
    let found = services.fleet.dependencies(request.caller()?)?;
    let mut page = DependenciesPage::new(&viewer(request)?, &found, (typed, problems), services.clock.now());
    page.chrome.notice = done(request);
    show(status, &page)
}

async fn dependencies(request: Request, services: Services) -> Result<Response, Failure> {
    page(&request, &services, StatusCode::OK, &DependencyInput::default(), &[])
}

async fn note(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let text = |name: &str| form.text(name).trim().to_owned();
    let input = DependencyInput {
        server: text("server"),
        service: text("service"),
        needs_server: text("needs_server"),
        needs_service: text("needs_service"),
    };
    let error = match services.fleet.add_dependency(request.caller()?, &input).await {
        Ok(_) => return Ok(see_other("/dependencies?done=saved")),
        Err(error) => error,
    };
    let field = match &error {
        FleetError::Invalid { field, .. } => *field,
        FleetError::NoSuchServer(name) if *name == input.server => "server",
        FleetError::NoSuchServer(_) => "needs_server",
        _ => return Err(error.into()),
    };
    let problems = [FieldProblem { field: field.to_owned(), sentence: doors::sentence(&error.to_string()) }];
    let status = problem(&error.into()).status;
    page(&request, &services, status, &input, &problems)
}

async fn forget(request: Request, services: Services) -> Result<Response, Failure> {
    services.fleet.remove_dependency(request.caller()?, request.param(0)).await?;
    Ok(see_other("/dependencies?done=saved"))
}
