//! What was done and what is being done: operations, and the commands that a server got.

use std::collections::HashSet;

use http::StatusCode;
use warp::reply::Response;

use super::super::error::{Failure, problem};
use super::super::pages::operation::{OperationPage, opened_target, operation_fragments};
use super::super::pages::operation_look::Look;
use super::super::pages::operations::{ListQuery, OperationsPage, PER_PAGE};
use super::super::pages::remote::Pager;
use super::super::pages::server::{CommandForm, CommandsPage, RECORDS_PER_PAGE, records_fragment};
use super::super::pages::{Fragment, Notice, Viewer};
use super::super::request::{Access, Request};
use super::super::routes::{Route, download_whole, html, see_other};
use super::acting::acting;
use super::{done, doors, show, tags, viewer};
use crate::fleet::{FleetError, ServerState};
use crate::model::{Caller, Role, ServerId, UnknownState};
use crate::operations::{Again, OperationError, OperationQuery, OperationView};
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/operations", Access::VIEWER, operations),
        Route::get("/operations/{id}", Access::VIEWER, operation),
        Route::get("/operations/{id}/targets/{position}", Access::VIEWER, target),
        Route::post("/operations/{id}/cancel", Access::OPERATOR, cancel),
        Route::post("/operations/{id}/pause", Access::OPERATOR, pause),
        Route::post("/operations/{id}/resume", Access::OPERATOR, resume),
        Route::post("/operations/{id}/retry", Access::OPERATOR, retry),
        Route::get("/operations/{id}/diagnostics/{sid}", Access::OPERATOR, archive),
        Route::post("/operations/{id}/diagnostics/{sid}/remove", Access::OPERATOR, remove_archive),
        Route::get("/servers/{id}/commands", Access::VIEWER, commands),
    ]
}

async fn operations(request: Request, services: Services) -> Result<Response, Failure> {
    let pager = Pager::of(request.query("page"));
    let (limit, offset) = pager.window(PER_PAGE);
    let (views, wrong) = match found(&request, request.caller()?, &services, (limit, offset)).await {
        Ok(views) => (views, None),
        // What was typed into the filter means nothing: the list says so and stays usable.
        Err(
            error
            @ (OperationError::InvalidQuery { .. } | OperationError::Fleet(FleetError::NoSuchServer(_))),
        ) => (Vec::new(), Some(problem(&error.into()))),
        Err(error) => return Err(error.into()),
    };
    let (viewer, query) = (viewer(&request)?, ListQuery::of(|name| request.query(name)));
    let mut page = OperationsPage::new(&viewer, &views, &query, pager, services.clock.now());
    let status = wrong.as_ref().map_or(StatusCode::OK, |problem| problem.status);
    page.chrome.notice = wrong.map(|problem| Notice::problem(doors::sentence(&problem.detail)));
    show(status, &page)
}

/// The operations that the address means.
async fn found(
    request: &Request,
    caller: &Caller,
    services: &Services,
    (limit, offset): (u32, u32),
) -> Result<Vec<OperationView>, OperationError> {
    let query = OperationQuery::parse(|name| request.query(name))?;
    services.operations.find(caller, &query, limit, offset).await
}

async fn operation(request: Request, services: Services) -> Result<Response, Failure> {
    operation_page(&request, &services, StatusCode::OK, done(&request)).await
}

async fn operation_page(
    request: &Request,
    services: &Services,
    status: StatusCode,
    notice: Option<Notice>,
) -> Result<Response, Failure> {
    let view = services.operations.get(request.caller()?, request.param(0)).await?;
    let look = Look::of(|name| request.query(name));
    let task = match services.tasks.of_operation(view.operation.id).await? {
        Some(name) => services.tasks.get(request.caller()?, &name).await.ok(),
        None => None,
    };
    let page = OperationPage::new(&viewer(request)?, &view, &look, services.clock.now());
    let mut page = page.begun_by(task.as_ref().map(|view| &view.task));
    page.chrome.notice = notice;
    show(status, &page)
}

/// One server of an operation, opened: a part of its page.
async fn target(request: Request, services: Services) -> Result<Response, Failure> {
    let view = services.operations.get(request.caller()?, request.param(0)).await?;
    let part = opened_target(&view, request.param(1), services.clock.now());
    part.map(|part| html(StatusCode::OK, part))
        .ok_or_else(|| Failure::NotFound("the operation has no such server".to_owned()))
}

async fn cancel(request: Request, services: Services) -> Result<Response, Failure> {
    match services.operations.cancel(request.caller()?, request.param(0)).await {
        Ok(()) => Ok(see_other(&format!("/operations/{}?done=cancelled", request.param(0)))),
        Err(error) => not_done(&request, &services, error).await,
    }
}

async fn archive(request: Request, services: Services) -> Result<Response, Failure> {
    let (id, server) = (request.param(0), request.param(1));
    let (name, content) = services.operations.archive(request.caller()?, id, server).await?;
    Ok(download_whole("application/gzip", &name, content))
}

async fn remove_archive(request: Request, services: Services) -> Result<Response, Failure> {
    let (id, server) = (request.param(0), request.param(1));
    match services.operations.remove_archive(request.caller()?, id, server).await {
        Ok(()) => Ok(see_other(&format!("/operations/{id}?done=archive-removed"))),
        Err(error) => not_done(&request, &services, error).await,
    }
}

async fn pause(request: Request, services: Services) -> Result<Response, Failure> {
    let outcome = services.operations.pause(request.caller()?, request.param(0)).await;
    gone_on(&request, &services, outcome).await
}

async fn resume(request: Request, services: Services) -> Result<Response, Failure> {
    let outcome = services.operations.resume(request.caller()?, request.param(0)).await;
    gone_on(&request, &services, outcome).await
}

async fn retry(request: Request, services: Services) -> Result<Response, Failure> {
    let outcome = match wanted(&request)? {
        Some(wanted) => services.operations.retry(request.caller()?, request.param(0), &wanted).await,
        None => Err(OperationError::NothingToRepeat),
    };
    gone_on(&request, &services, outcome).await
}

/// What the form says is tried again. The button alone means what did not succeed; a form in which nothing is ticked, nothing (None).
fn wanted(request: &Request) -> Result<Option<Again>, Failure> {
    let form = request.form()?;
    let is_chosen = !form.text("chosen").is_empty();
    let (mut again, unknown) = (Again::default(), |error: UnknownState| Failure::invalid(error.to_string()));
    for (name, value) in form.pairs() {
        match name.as_str() {
            "state" => again.states.push(value.parse().map_err(unknown)?),
            "server" => again.servers.extend(tags(&value)),
            _ => {}
        }
    }
    Ok((!is_chosen || !again.states.is_empty() || !again.servers.is_empty()).then_some(again))
}

/// To the page of the operation that goes on, which may be a new one.
async fn gone_on(
    request: &Request,
    services: &Services,
    outcome: Result<OperationView, OperationError>,
) -> Result<Response, Failure> {
    match outcome {
        Ok(view) => Ok(see_other(&format!("/operations/{}", view.operation.id))),
        Err(error) => not_done(request, services, error).await,
    }
}

/// The page of the operation says why a button had no effect: it may have ended while the button was pressed.
async fn not_done(
    request: &Request,
    services: &Services,
    error: OperationError,
) -> Result<Response, Failure> {
    if matches!(
        error,
        OperationError::NoSuchOperation(_) | OperationError::Auth(_) | OperationError::Store(_)
    ) {
        return Err(error.into());
    }
    let problem = problem(&error.into());
    let notice = Notice::problem(doors::sentence(&problem.detail));
    operation_page(request, services, problem.status, Some(notice)).await
}

async fn commands(request: Request, services: Services) -> Result<Response, Failure> {
    let state = services.fleet.get(request.caller()?, request.param(0))?;
    commands_page(&request, &services, &state, CommandForm::default(), None).await
}

/// The Commands tab; `refused` says with which status and why a command was not run.
pub(super) async fn commands_page(
    request: &Request,
    services: &Services,
    state: &ServerState,
    form: CommandForm,
    refused: Option<(StatusCode, Notice)>,
) -> Result<Response, Failure> {
    let (caller, id) = (request.caller()?, state.server.id.to_string());
    let pager = Pager::of(request.query("page"));
    let (limit, offset) = pager.window(RECORDS_PER_PAGE);
    let records = services.operations.records(caller, &id, limit, offset).await?;
    let is_root = caller.may(Role::Operator)
        && services.fleet.action_target(caller, &id).is_ok_and(|target| target.surroundings.is_root);
    let acting = (acting(services, caller, state), is_root);
    let now = services.clock.now();
    let mut page = CommandsPage::new(&viewer(request)?, state, acting, form, &records, pager, now);
    let (status, notice) = refused.map_or((StatusCode::OK, None), |(status, notice)| (status, Some(notice)));
    page.chrome.notice = notice;
    show(status, &page)
}

/// What changes on the open Commands tab of a server when an operation touches the server.
pub(in crate::web) async fn command_fragments(
    services: &Services,
    caller: &Caller,
    server: &str,
    query: &[(String, String)],
) -> Vec<Fragment> {
    let page = query.iter().find(|(name, _)| name == "page").map(|(_, value)| value.as_str());
    let pager = Pager::of(page);
    let (limit, offset) = pager.window(RECORDS_PER_PAGE);
    match services.operations.records(caller, server, limit, offset).await {
        Ok(records) => records_fragment(&records, pager, services.clock.now()).into_iter().collect(),
        Err(error) => {
            tracing::debug!(%error, server, "an open page shows commands that cannot be read");
            Vec::new()
        }
    }
}

/// What changes on the open page of an operation. `changed` None: everything.
pub(in crate::web) async fn fragments_of_operation(
    services: &Services,
    caller: &Caller,
    viewer: &Viewer,
    (id, look): (&str, &Look),
    changed: Option<&HashSet<ServerId>>,
) -> Vec<Fragment> {
    match services.operations.get(caller, id).await {
        Ok(view) => operation_fragments(viewer, &view, look, changed, services.clock.now()),
        Err(error) => {
            tracing::debug!(%error, operation = id, "an open page shows an operation that cannot be read");
            Vec::new()
        }
    }
}
