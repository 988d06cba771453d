//! The pages of groups and their forms.

use http::StatusCode;
use warp::reply::Response;

use super::super::error::{Failure, problem};
use super::super::pages::form::FieldProblem;
use super::super::pages::groups::{GroupForm, GroupFormPage, GroupPage, GroupsPage};
use super::super::request::{Access, Request};
use super::super::routes::{Route, see_other};
use super::{done, doors, field_problems, show, viewer};
use crate::fleet::{FleetError, ServerFilter};
use crate::model::Role;
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/groups", Access::VIEWER, groups),
        Route::post("/groups", Access::ADMIN, create),
        Route::get("/groups/new", Access::ADMIN, new),
        Route::post("/groups/members", Access::ADMIN, put_into),
        Route::get("/groups/{id}", Access::VIEWER, group),
        Route::get("/groups/{id}/edit", Access::ADMIN, edit),
        Route::post("/groups/{id}/edit", Access::ADMIN, save),
        Route::post("/groups/{id}/add", Access::ADMIN, add),
        Route::post("/groups/{id}/delete", Access::ADMIN, delete),
    ]
}

async fn groups(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let groups = services.fleet.groups(caller)?;
    let servers = services.fleet.list(caller, &ServerFilter::default())?;
    let mut page = GroupsPage::new(&viewer(&request)?, &groups, &servers, services.clock.now());
    page.chrome.notice = done(&request);
    show(StatusCode::OK, &page)
}

async fn group(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let (view, members) = services.fleet.group(caller, request.param(0))?;
    let mut others = Vec::new();
    if caller.may(Role::Admin) && view.group.filter.is_none() {
        others = services.fleet.list(caller, &ServerFilter::default())?;
        others.retain(|state| !state.groups.iter().any(|group| group.id == view.group.id));
    }
    let mut page = GroupPage::new(&viewer(&request)?, &view, &members, &others, services.clock.now());
    page.chrome.notice = done(&request);
    show(StatusCode::OK, &page)
}

fn form_page(
    request: &Request,
    services: &Services,
    (status, group): (StatusCode, Option<&str>),
    form: &GroupForm,
    problems: &[FieldProblem],
) -> Result<Response, Failure> {
    show(status, &GroupFormPage::new(&viewer(request)?, group, form, problems, services.clock.now()))
}

async fn new(request: Request, services: Services) -> Result<Response, Failure> {
    form_page(&request, &services, (StatusCode::OK, None), &GroupForm::default(), &[])
}

async fn edit(request: Request, services: Services) -> Result<Response, Failure> {
    let (view, _) = services.fleet.group(request.caller()?, request.param(0))?;
    let name = view.group.name.to_string();
    form_page(&request, &services, (StatusCode::OK, Some(&name)), &GroupForm::of(&view.group), &[])
}

/// The form again with what is wrong, where that is about a field.
fn refused(
    request: &Request,
    services: &Services,
    group: Option<&str>,
    form: &GroupForm,
    error: FleetError,
) -> Result<Response, Failure> {
    let problems = match &error {
        FleetError::GroupNameTaken(_) => {
            vec![FieldProblem { field: "name".to_owned(), sentence: doors::sentence(&error.to_string()) }]
        }
        // These have no field of the usual kind, whose sentence would be lost.
        FleetError::Invalid { field: "color" | "health", .. } => return Err(error.into()),
        _ => match field_problems(&error) {
            Some(problems) => problems,
            None => return Err(error.into()),
        },
    };
    let status = problem(&error.into()).status;
    form_page(request, services, (status, group), form, &problems)
}

async fn create(request: Request, services: Services) -> Result<Response, Failure> {
    let form = GroupForm::from_pairs(&request.form()?.pairs());
    match services.fleet.create_group(request.caller()?, &form.input()).await {
        Ok(view) => Ok(see_other(&format!("/groups/{}?done=group-made", view.group.name))),
        Err(error) => refused(&request, &services, None, &form, error),
    }
}

async fn save(request: Request, services: Services) -> Result<Response, Failure> {
    let form = GroupForm::from_pairs(&request.form()?.pairs());
    match services.fleet.edit_group(request.caller()?, request.param(0), &form.input()).await {
        Ok(view) => Ok(see_other(&format!("/groups/{}?done=saved", view.group.name))),
        Err(error) => refused(&request, &services, Some(request.param(0)), &form, error),
    }
}

/// Every value of a form under this name.
pub(super) fn all_of(pairs: &[(String, String)], name: &str) -> Vec<String> {
    pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
}

async fn put_into(request: Request, services: Services) -> Result<Response, Failure> {
    let pairs = request.form()?.pairs();
    let group = all_of(&pairs, "group").pop().unwrap_or_default();
    services.fleet.add_to_group(request.caller()?, &group, &all_of(&pairs, "server")).await?;
    Ok(see_other("/groups?done=grouped"))
}

async fn add(request: Request, services: Services) -> Result<Response, Failure> {
    let servers = all_of(&request.form()?.pairs(), "server");
    services.fleet.add_to_group(request.caller()?, request.param(0), &servers).await?;
    Ok(see_other(&format!("/groups/{}?done=grouped", request.param(0))))
}

async fn delete(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let (view, _) = services.fleet.group(request.caller()?, request.param(0))?;
    if form.text("confirm").trim() != view.group.name.as_str() {
        let message = format!("type the name '{}' to confirm; nothing was deleted", view.group.name);
        return Err(Failure::invalid(message));
    }
    services.fleet.delete_group(request.caller()?, request.param(0)).await?;
    Ok(see_other("/groups?done=group-deleted"))
}
