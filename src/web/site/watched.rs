//! The form on a server's services: watches a service by its processes, changes that, or watches it no longer.

use warp::reply::Response;

use super::super::error::{Failure, problem};
use super::super::pages::form::FieldProblem;
use super::super::pages::server::WatchForm;
use super::super::request::{Access, Form, Request};
use super::super::routes::{Route, see_other};
use super::{field_problems, looking, tags};
use crate::fleet::{FleetError, WatchedServiceEdit};
use crate::model::Selector;
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::post("/servers/{id}/watched", Access::ADMIN, add),
        Route::post("/servers/{id}/watched/{name}", Access::ADMIN, change),
        Route::post("/servers/{id}/watched/{name}/remove", Access::ADMIN, remove),
    ]
}

async fn add(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let state = services.fleet.get(caller, request.param(0))?;
    let form = request.form()?;
    let name = state.server.name.to_string();
    match services.fleet.add_watched_service(caller, edit(&form, &name, None)).await {
        Ok(_) => Ok(see_other(&format!("/servers/{name}/services?done=watched"))),
        Err(error) => {
            let mut typed = typed(&form);
            typed.problems = problems(&error)?;
            let status = problem(&error.into()).status;
            looking::services_page(&request, &services, status, Some(&typed))
        }
    }
}

async fn change(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let name = services.fleet.get(caller, request.param(0))?.server.name.to_string();
    let watched = services.fleet.watched_service(caller, request.param(1))?;
    let form = request.form()?;
    let edit = edit(&form, &name, Some(&watched.selector));
    match services.fleet.edit_watched_service(caller, request.param(1), edit).await {
        Ok(_) => Ok(see_other(&format!("/servers/{name}/services?done=saved"))),
        Err(error) => {
            let mut typed = typed(&form);
            (typed.edited, typed.problems) = (Some(watched.name.clone()), problems(&error)?);
            let status = problem(&error.into()).status;
            looking::services_page(&request, &services, status, Some(&typed))
        }
    }
}

async fn remove(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let name = services.fleet.get(caller, request.param(0))?.server.name.clone();
    services.fleet.remove_watched_service(caller, request.param(1)).await?;
    Ok(see_other(&format!("/servers/{name}/services?done=unwatched")))
}

/// What is wrong with which field; an error that is about none goes on.
fn problems(error: &FleetError) -> Result<Vec<FieldProblem>, Failure> {
    let field = match error {
        FleetError::WatchedServiceNameTaken(_) => Some("name"),
        FleetError::NoSuchGroup(_) => Some("groups"),
        _ => None,
    };
    if let Some(field) = field {
        let sentence = super::doors::sentence(&error.to_string());
        return Ok(vec![FieldProblem { field: field.to_owned(), sentence }]);
    }
    field_problems(error).ok_or_else(|| Failure::invalid(error.to_string()))
}

fn names(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// What the form says. Conditions that it has no field for stay as they were, and so do all of them while nobody changes
/// its tags and groups.
fn edit(form: &Form, server: &str, before: Option<&Selector>) -> WatchedServiceEdit {
    let (tags, groups) = (tags(form.text("tags")), names(form.text("groups")));
    let own = if tags.is_empty() && groups.is_empty() { vec![server.to_owned()] } else { Vec::new() };
    let selector = match before {
        Some(before) if before.tags == tags && before.groups == groups => before.clone(),
        before => Selector { servers: own, tags, groups, ..before.cloned().unwrap_or_default() },
    };
    let text = |name: &str| Some(form.text(name).to_owned());
    WatchedServiceEdit {
        name: text("name"),
        description: text("description"),
        keywords: Some(form.text("keywords").lines().map(str::to_owned).collect()),
        start_command: text("start_command"),
        stop_command: text("stop_command"),
        sudo: Some(form.optional("sudo").is_some()),
        selector: Some(selector),
    }
}

fn typed(form: &Form) -> WatchForm {
    let text = |name: &str| form.text(name).to_owned();
    WatchForm {
        edited: None,
        name: text("name"),
        keywords: text("keywords"),
        description: text("description"),
        start_command: text("start_command"),
        stop_command: text("stop_command"),
        sudo: form.optional("sudo").is_some(),
        tags: text("tags"),
        groups: text("groups"),
        problems: Vec::new(),
    }
}
