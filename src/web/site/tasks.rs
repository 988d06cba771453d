//! The pages of tasks and their forms.

use http::StatusCode;
use warp::reply::Response;

use super::super::error::{Failure, problem};
use super::super::pages::Notice;
use super::super::pages::form::FieldProblem;
use super::super::pages::operation_kinds::offered_as;
use super::super::pages::remote::Pager;
use super::super::pages::task_form::{TaskForm, TaskFormPage, empty_form, form_of};
use super::super::pages::tasks::{PER_PAGE, TaskPage, TasksPage};
use super::super::request::{Access, Request};
use super::super::routes::{Route, see_other};
use super::{done, doors, operation_new, show, viewer};
use crate::actions::Action;
use crate::fleet::ServerFilter;
use crate::model::Role;
use crate::operations::stored_action;
use crate::services::Services;
use crate::tasks::{TaskEdit, TaskView, preview};

/// A file, and the names of a fleet.
const FORM_BYTES: usize = 2 * 1024 * 1024;
/// As the button says it that asks for the fields of another kind.
const LOOKS_AT_FIELDS: &str = "fields";

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/tasks", Access::VIEWER, list),
        Route::get("/tasks/new", Access::OPERATOR, new),
        Route::post("/tasks/new", Access::OPERATOR, create).body_limit(FORM_BYTES),
        Route::get("/tasks/{id}", Access::VIEWER, task),
        Route::get("/tasks/{id}/edit", Access::OPERATOR, edit),
        Route::post("/tasks/{id}/edit", Access::OPERATOR, save).body_limit(FORM_BYTES),
        Route::post("/tasks/{id}/run", Access::OPERATOR, run),
        Route::post("/tasks/{id}/enable", Access::OPERATOR, enable),
        Route::post("/tasks/{id}/disable", Access::OPERATOR, disable),
        Route::post("/tasks/{id}/remove", Access::OPERATOR, remove),
    ]
}

async fn list(request: Request, services: Services) -> Result<Response, Failure> {
    let tasks = services.tasks.list(request.caller()?).await?;
    let mut page = TasksPage::new(&viewer(&request)?, &tasks, services.clock.now());
    page.chrome.notice = done(&request);
    show(StatusCode::OK, &page)
}

async fn task(request: Request, services: Services) -> Result<Response, Failure> {
    task_page(&request, &services, StatusCode::OK, done(&request)).await
}

async fn task_page(
    request: &Request,
    services: &Services,
    status: StatusCode,
    notice: Option<Notice>,
) -> Result<Response, Failure> {
    let (caller, id) = (request.caller()?, request.param(0));
    let view = services.tasks.get(caller, id).await?;
    let pager = Pager::of(request.query("page"));
    let (limit, offset) = pager.window(PER_PAGE);
    let runs = services.tasks.runs(caller, id, limit, offset).await?;
    let mut page = TaskPage::new(&viewer(request)?, &view, &runs, pager, services.clock.now());
    page.chrome.notice = notice;
    show(status, &page)
}

fn form_page(
    request: &Request,
    services: &Services,
    task: Option<&TaskView>,
    form: &TaskForm,
    problems: &[FieldProblem],
) -> Result<TaskFormPage, Failure> {
    let (caller, now) = (request.caller()?, services.clock.now());
    let task = task.map(|view| (view.task.id.to_string(), view.task.name.clone()));
    let known = preview(form.text("cron"), form.text("time_zone"), now).ok();
    let all = (&*services.fleet.list(caller, &ServerFilter::default())?, &*services.fleet.groups(caller)?);
    Ok(TaskFormPage::new(&viewer(request)?, task, form, all, problems, now).previewed(known))
}

async fn new(request: Request, services: Services) -> Result<Response, Failure> {
    // From elsewhere, with something chosen: that goes before.
    let mut form = TaskForm(request.query.clone());
    form.0.extend(empty_form().0);
    show(StatusCode::OK, &form_page(&request, &services, None, &form, &[])?)
}

async fn edit(request: Request, services: Services) -> Result<Response, Failure> {
    let view = services.tasks.get(request.caller()?, request.param(0)).await?;
    show(StatusCode::OK, &form_page(&request, &services, Some(&view), &form_of(&view), &[])?)
}

/// The form again, with what is wrong at its field, or above it.
fn refused(
    request: &Request,
    services: &Services,
    task: Option<&TaskView>,
    form: &TaskForm,
    failure: &Failure,
) -> Result<Response, Failure> {
    let problem = problem(failure);
    let sentence = doors::sentence(&problem.detail);
    let field = problem.more.get("field").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    let problems = [FieldProblem { field, sentence: sentence.clone() }];
    let mut page = form_page(request, services, task, form, &problems)?;
    page.chrome.notice = Some(Notice::problem(sentence));
    show(problem.status, &page)
}

/// What is done. A kind that the form does not offer stays as it was.
fn action(form: &TaskForm, before: Option<&TaskView>, role: Role) -> Result<Action, Failure> {
    let (word, order) = (form.text("operation_type"), form.order());
    match (offered_as(role, word), before) {
        (Some(kind), _) => Ok(Action::parse(kind.word, |name| order.parameter(kind, name))?),
        (None, Some(view)) if view.task.kind == word => {
            Ok(stored_action(&view.task.kind, &view.task.parameters)?)
        }
        (None, _) => Err(Failure::invalid("choose what the task does")),
    }
}

/// What the form says.
fn said(form: &TaskForm, before: Option<&TaskView>, role: Role) -> Result<TaskEdit, Failure> {
    let action = action(form, before, role)?;
    let order = form.order();
    let strategy = operation_new::strategy(&order)?;
    let selector = operation_new::selector(&order)?;
    let number = |name: &'static str| match form.text(name) {
        "" => Ok(None),
        text => text.parse::<u32>().map(Some).map_err(|_| Failure::Field {
            field: name.to_owned(),
            message: format!("'{}' is not a number", crate::model::shown(text, 40)),
        }),
    };
    let word = |name: &'static str| Some(form.text(name)).filter(|text| !text.is_empty());
    let invalid = |field: &str, error: crate::model::InvalidTask| Failure::Field {
        field: field.to_owned(),
        message: error.to_string(),
    };
    Ok(TaskEdit {
        name: Some(form.text("name").to_owned()),
        description: Some(form.text("description").to_owned()),
        cron: Some(form.text("cron").to_owned()),
        time_zone: Some(form.text("time_zone").to_owned()),
        action: Some(action),
        selector: Some(selector),
        strategy: Some(strategy),
        jitter_s: number("jitter_s")?.map(u64::from),
        overlap: word("overlap").map(str::parse).transpose().map_err(|error| invalid("overlap", error))?,
        missed: word("missed").map(str::parse).transpose().map_err(|error| invalid("missed", error))?,
        missed_limit: number("missed_limit")?,
        missed_grace_s: number("missed_grace_s")?.map(u64::from),
        retries: number("retries")?,
        retry_wait_s: number("retry_wait_s")?.map(u64::from),
        enabled: Some(form.text("enabled") == "true"),
    })
}

/// Only the next runs of what was typed are asked for, or the fields of another kind of action.
fn only_looks(form: &TaskForm) -> bool {
    !form.text("look").is_empty()
}

fn looked(
    request: &Request,
    services: &Services,
    task: Option<&TaskView>,
    form: &TaskForm,
) -> Result<Response, Failure> {
    match preview(form.text("cron"), form.text("time_zone"), services.clock.now()) {
        Err(error) if form.text("look") != LOOKS_AT_FIELDS => {
            refused(request, services, task, form, &error.into())
        }
        _ => show(StatusCode::OK, &form_page(request, services, task, form, &[])?),
    }
}

async fn create(request: Request, services: Services) -> Result<Response, Failure> {
    let form = TaskForm(request.form()?.pairs());
    if only_looks(&form) {
        return looked(&request, &services, None, &form);
    }
    let made = match said(&form, None, request.caller()?.role) {
        Ok(edit) => services.tasks.create(request.caller()?, edit).await.map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    match made {
        Ok(view) => Ok(see_other(&format!("/tasks/{}?done=task-made", view.task.id))),
        Err(failure) => refused(&request, &services, None, &form, &failure),
    }
}

async fn save(request: Request, services: Services) -> Result<Response, Failure> {
    let (caller, id) = (request.caller()?, request.param(0));
    let view = services.tasks.get(caller, id).await?;
    let form = TaskForm(request.form()?.pairs());
    if only_looks(&form) {
        return looked(&request, &services, Some(&view), &form);
    }
    let saved = match said(&form, Some(&view), caller.role) {
        Ok(edit) => services.tasks.edit(caller, id, edit).await.map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    match saved {
        Ok(view) => Ok(see_other(&format!("/tasks/{}?done=saved", view.task.id))),
        Err(failure) => refused(&request, &services, Some(&view), &form, &failure),
    }
}

/// Begins a run and shows its operation; where that was refused, the task says why.
async fn run(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    services.tasks.get(caller, request.param(0)).await?;
    match services.tasks.run_now(caller, request.param(0)).await.map_err(Failure::from) {
        Ok(run) => Ok(see_other(&match run.operation {
            Some(operation) => format!("/operations/{operation}"),
            None => format!("/tasks/{}", run.task),
        })),
        Err(failure @ Failure::Auth(_)) => Err(failure),
        Err(failure) => {
            let problem = problem(&failure);
            let notice = Notice::problem(doors::sentence(&problem.detail));
            task_page(&request, &services, problem.status, Some(notice)).await
        }
    }
}

async fn enable(request: Request, services: Services) -> Result<Response, Failure> {
    switched(&request, &services, true).await
}

async fn disable(request: Request, services: Services) -> Result<Response, Failure> {
    switched(&request, &services, false).await
}

/// Back to where the switch was.
async fn switched(request: &Request, services: &Services, on: bool) -> Result<Response, Failure> {
    let view = services.tasks.set_enabled(request.caller()?, request.param(0), on).await?;
    let word = if on { "task-on" } else { "task-off" };
    let is_list = request.form()?.optional("list").is_some();
    Ok(see_other(&if is_list {
        format!("/tasks?done={word}")
    } else {
        format!("/tasks/{}?done={word}", view.task.id)
    }))
}

async fn remove(request: Request, services: Services) -> Result<Response, Failure> {
    services.tasks.remove(request.caller()?, request.param(0)).await?;
    Ok(see_other("/tasks?done=task-removed"))
}
