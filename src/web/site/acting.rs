//! Doing something to one server: the confirmation, and the form that begins the operation.

use http::StatusCode;
use warp::reply::Response;

use super::super::error::{Failure, problem};
use super::super::pages::Notice;
use super::super::pages::server::{Acting, Asked, CommandForm, ConfirmPage};
use super::super::request::{Access, Request};
use super::super::routes::{Route, see_other};
use super::{doors, operating, show, viewer};
use crate::actions::Action;
use crate::fleet::ServerState;
use crate::model::{Caller, Role, Status};
use crate::operations::{NewOperation, OperationError};
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/servers/{id}/act", Access::OPERATOR, confirm),
        Route::post("/servers/{id}/act", Access::OPERATOR, act),
    ]
}

/// Whether the caller may do something to this server now.
pub(super) fn acting(services: &Services, caller: &Caller, state: &ServerState) -> Acting {
    if !caller.may(Role::Operator) {
        return Acting::NotAllowed;
    }
    if state.server.status == Status::Inactive {
        return Acting::Impossible("The server is inactive; set its status to active first.".to_owned());
    }
    // The simplest action there is: what stands in its way stands in the way of all.
    let planned = Action::run_command("true", false, None)
        .map_err(OperationError::from)
        .and_then(|action| command_for(services, caller, state, &action));
    match planned {
        Ok(Ok(_)) => Acting::Possible,
        Ok(Err(reason)) => Acting::Impossible(reason),
        Err(error) => Acting::Impossible(doors::sentence(&error.to_string())),
    }
}

/// Why the caller can do nothing to this server now. None: nothing is known to stand in the way.
pub(in crate::web) fn impediment(
    services: &Services,
    caller: &Caller,
    state: &ServerState,
) -> Option<String> {
    match acting(services, caller, state) {
        Acting::Possible => None,
        Acting::Impossible(reason) => Some(reason),
        Acting::NotAllowed => Some("The role viewer only sees.".to_owned()),
    }
}

/// The exact command for one server; the inner Err says why nothing can be sent to it.
fn command_for(
    services: &Services,
    caller: &Caller,
    state: &ServerState,
    action: &Action,
) -> Result<Result<String, String>, OperationError> {
    let new = NewOperation { action: action.clone(), servers: vec![state.server.id.to_string()] };
    let planned = services.operations.plan(caller, &new)?;
    let first = planned.into_iter().next().ok_or(OperationError::NoTargets)?;
    Ok(first.plan.map(|plan| plan.command).map_err(|reason| doors::sentence(&reason)))
}

/// A parameter of an action among decoded pairs. Browsers send line ends as CR LF, which no shell understands.
fn parameter(pairs: &[(String, String)], name: &str) -> Option<String> {
    let (_, value) = pairs.iter().find(|(key, _)| key == name)?;
    Some(value.replace("\r\n", "\n")).filter(|value| !value.trim().is_empty())
}

fn parse(pairs: &[(String, String)]) -> Result<Action, OperationError> {
    let kind = parameter(pairs, "action").unwrap_or_default();
    Ok(Action::parse(&kind, |name| parameter(pairs, name))?)
}

async fn confirm(request: Request, services: Services) -> Result<Response, Failure> {
    let state = services.fleet.get(request.caller()?, request.param(0))?;
    match parse(&request.query) {
        Ok(action) => {
            let page = page_of(&request, &services, &state, Some(&action))?;
            let status = if page.chrome.notice.is_some() { StatusCode::CONFLICT } else { StatusCode::OK };
            show(status, &page)
        }
        Err(error) => refused(&request, &services, &state, None, error),
    }
}

fn page_of(
    request: &Request,
    services: &Services,
    state: &ServerState,
    action: Option<&Action>,
) -> Result<ConfirmPage, Failure> {
    let (caller, id) = (request.caller()?, state.server.id.to_string());
    let viewer = viewer(request)?;
    let now = services.clock.now();
    let Some(action) = action else { return Ok(ConfirmPage::new(&viewer, state, None, now)) };
    // Not read yet is no reason against an action; the page says that it is not known.
    let processes = services.fleet.processes(caller, &id).ok();
    let table = services.fleet.services(caller, &id).ok();
    let asked = Asked {
        action,
        command: command_for(services, caller, state, action)?,
        process: match action {
            Action::KillProcess { pid, .. } => processes
                .as_ref()
                .and_then(|table| table.processes.iter().find(|usage| usage.process.pid == *pid)),
            _ => None,
        },
        service: match action {
            Action::Service { name, .. } | Action::WatchedService { name, .. } => {
                table.as_ref().and_then(|table| table.services.iter().find(|service| service.name == *name))
            }
            _ => None,
        },
    };
    Ok(ConfirmPage::new(&viewer, state, Some(&asked), now))
}

/// The confirmation again, with what stands in the way.
fn refused(
    request: &Request,
    services: &Services,
    state: &ServerState,
    action: Option<&Action>,
    error: OperationError,
) -> Result<Response, Failure> {
    let running = match &error {
        OperationError::Action(_) => None,
        OperationError::AlreadyRunning { operation, .. } => Some(*operation),
        _ => return Err(error.into()),
    };
    let mut page = page_of(request, services, state, action)?;
    if let Some(operation) = running {
        page.already_running(operation);
    }
    let problem = problem(&error.into());
    page.chrome.notice = Some(Notice::problem(doors::sentence(&problem.detail)));
    show(problem.status, &page)
}

async fn act(request: Request, services: Services) -> Result<Response, Failure> {
    let pairs = request.form()?.pairs();
    let caller = request.caller()?;
    let state = services.fleet.get(caller, request.param(0))?;
    let parsed = parse(&pairs);
    let action = parsed.as_ref().ok().cloned();
    let outcome = match parsed {
        Ok(action) => {
            let new = NewOperation { action, servers: vec![state.server.id.to_string()] };
            services.operations.begin(caller, new).await
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(view) => Ok(see_other(&format!("/operations/{}", view.operation.id))),
        // A command goes without a confirmation, so what was typed comes back where it was typed.
        Err(OperationError::Action(error))
            if parameter(&pairs, "action").as_deref() == Some("run_command") =>
        {
            let typed = CommandForm::from_pairs(pairs);
            let problem = problem(&error.into());
            let notice = Notice::problem(doors::sentence(&problem.detail));
            operating::commands_page(&request, &services, &state, typed, Some((problem.status, notice))).await
        }
        Err(error) => refused(&request, &services, &state, action.as_ref(), error),
    }
}
