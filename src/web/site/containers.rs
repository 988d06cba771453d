//! The page of a server's containers.

use http::StatusCode;
use warp::reply::Response;

use super::super::error::{Failure, problem};
use super::super::pages::Fragment;
use super::super::pages::form::FieldProblem;
use super::super::pages::server::{ContainerQuery, ContainersPage, containers_fragments};
use super::super::request::{Access, Request};
use super::super::routes::{Route, see_other};
use super::acting::acting;
use super::{done, field_problems, show, viewer};
use crate::fleet::ServerState;
use crate::model::Caller;
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/servers/{id}/containers", Access::VIEWER, containers),
        Route::post("/servers/{id}/container-filter", Access::ADMIN, filter),
    ]
}

async fn containers(request: Request, services: Services) -> Result<Response, Failure> {
    services.fleet.look(request.caller()?, request.param(0))?;
    let prefix = services.fleet.container_prefix(request.caller()?, request.param(0))?;
    page(&request, &services, StatusCode::OK, (&prefix, &[]))
}

async fn filter(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let prefix = form.text("prefix");
    match services.fleet.set_container_prefix(request.caller()?, request.param(0), prefix).await {
        Ok(()) => Ok(see_other(&format!("/servers/{}/containers?done=saved", name(&request, &services)?))),
        Err(error) => {
            let Some(problems) = field_problems(&error) else { return Err(error.into()) };
            let status = problem(&error.into()).status;
            page(&request, &services, status, (prefix, &problems))
        }
    }
}

fn name(request: &Request, services: &Services) -> Result<String, Failure> {
    Ok(services.fleet.get(request.caller()?, request.param(0))?.server.name.to_string())
}

fn page(
    request: &Request,
    services: &Services,
    status: StatusCode,
    form: (&str, &[FieldProblem]),
) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let state = services.fleet.get(caller, request.param(0))?;
    let table = services.fleet.containers(caller, request.param(0)).map_err(|error| error.to_string());
    let pairs = request.query.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let query = ContainerQuery::from_pairs(pairs);
    let table = table.as_ref().map_err(String::as_str);
    let mut page = ContainersPage::new(
        &viewer(request)?,
        &state,
        &acting(services, caller, &state),
        table,
        &query,
        form,
        services.clock.now(),
    );
    page.chrome.notice = done(request);
    show(status, &page)
}

/// What changes on the open page when a reading arrives.
pub(super) fn fragments(
    services: &Services,
    caller: &Caller,
    state: &ServerState,
    query: &[(String, String)],
) -> Vec<Fragment> {
    let id = state.server.id.to_string();
    let table = services.fleet.containers(caller, &id).map_err(|error| error.to_string());
    let query = ContainerQuery::from_pairs(query.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let acting = acting(services, caller, state);
    containers_fragments(state, &acting, table.as_ref().map_err(String::as_str), &query, services.clock.now())
}
