//! Older addresses of tasks: start, stop or restart a service of the local server by a cron line.

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use warp::reply::Response;

use super::super::super::error::Failure;
use super::super::super::request::{Access, Request};
use super::super::super::routes::{Route, json as json_reply};
use crate::actions::Action;
use crate::fleet::ServerFilter;
use crate::model::{Caller, Selector, ServiceVerb, Transport};
use crate::services::Services;
use crate::tasks::{TaskEdit, TaskView, machine_zone};

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    const ONE: &str = "/api/tasks/{name}";
    vec![
        Route::get("/api/tasks", Access::VIEWER, list)
            .summary("Older address: the tasks, by name")
            .gives("OlderTasks"),
        Route::post("/api/tasks", Access::OPERATOR, create)
            .summary("Older address: starts, stops or restarts a service of the local server by a cron line")
            .takes("OlderTaskInput")
            .gives("OlderTask")
            .status(201),
        Route::new(Method::PUT, ONE, Access::OPERATOR, change)
            .summary("Older address: changes what is given and leaves the rest")
            .takes("OlderTaskInput")
            .gives("OlderTask"),
        Route::new(Method::DELETE, ONE, Access::OPERATOR, remove)
            .summary("Older address: removes a task")
            .gives("OlderAnswer"),
    ]
}

/// What older programs send; members that meant something to them only are passed over.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OlderTask {
    name: Option<String>,
    cron_expression: Option<String>,
    /// start, stop, restart.
    action: Option<String>,
    service_name: Option<String>,
    enabled: Option<bool>,
}

/// A task of today in the older shape; what it could not say is null.
fn older(view: &TaskView) -> Value {
    let task = &view.task;
    let action = task.kind.strip_suffix("_service").unwrap_or(&task.kind);
    json!({
        "id": task.id,
        "name": task.name,
        "cron_expression": task.cron,
        "action": action,
        "service_name": task.parameters.get("name"),
        "enabled": task.enabled,
        "last_run": view.last_run.as_ref().map(|run| run.started_at.unwrap_or(run.due_at)),
        "last_status": view.last_run.as_ref().map(|run| run.status.name()),
        "next_run": view.schedule.iter().flat_map(|found| &found.next_runs).map(|(at, _)| *at).next()
            .filter(|_| task.enabled),
        "created_at": task.created_at,
        "updated_at": task.updated_at,
    })
}

impl OlderTask {
    /// `before`: what is not given stays as it is there.
    fn edit(self, before: Option<&TaskView>) -> Result<TaskEdit, Failure> {
        let known = |name: &str| {
            let parameters = before.map(|view| &view.task.parameters)?;
            parameters.get(name).and_then(Value::as_str).map(str::to_owned)
        };
        let action = if self.action.is_some() || self.service_name.is_some() || before.is_none() {
            let field = |field: &str, message: &str| Failure::Field {
                field: field.to_owned(),
                message: message.to_owned(),
            };
            let verb = match self.action.or_else(|| known("verb")).as_deref() {
                Some("start") => ServiceVerb::Start,
                Some("stop") => ServiceVerb::Stop,
                Some("restart") => ServiceVerb::Restart,
                _ => return Err(field("action", "action is start, stop or restart")),
            };
            let service = self.service_name.or_else(|| known("name"));
            let service = service.ok_or_else(|| field("service_name", "service_name is missing"))?;
            Some(Action::service(&service, verb)?)
        } else {
            None
        };
        Ok(TaskEdit {
            name: self.name,
            cron: self.cron_expression,
            action,
            enabled: self.enabled,
            ..TaskEdit::default()
        })
    }
}

/// The machine that Roundsman runs on.
fn local_server(services: &Services, caller: &Caller) -> Result<Selector, Failure> {
    let states = services.fleet.list(caller, &ServerFilter::default())?;
    let local = states.iter().find(|state| state.server.transport == Transport::Local);
    let local = local.ok_or_else(|| {
        Failure::invalid(
            "older tasks act on the machine that Roundsman runs on, and it is not enrolled; use /api/v1/tasks",
        )
    })?;
    Ok(Selector::of_servers(vec![local.server.id.to_string()]))
}

async fn list(request: Request, services: Services) -> Result<Response, Failure> {
    let tasks = services.tasks.list(request.caller()?).await?;
    json_reply(StatusCode::OK, &tasks.iter().map(older).collect::<Vec<_>>())
}

async fn create(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let edit = request.json::<OlderTask>()?.edit(None)?;
    let selector = Some(local_server(&services, caller)?);
    // Their times were those of the machine.
    let edit = TaskEdit { selector, time_zone: Some(machine_zone()), ..edit };
    json_reply(StatusCode::CREATED, &older(&services.tasks.create(caller, edit).await?))
}

async fn change(request: Request, services: Services) -> Result<Response, Failure> {
    let (caller, name) = (request.caller()?, request.param(0));
    let before = services.tasks.get(caller, name).await?;
    let edit = request.json::<OlderTask>()?.edit(Some(&before))?;
    json_reply(StatusCode::OK, &older(&services.tasks.edit(caller, name, edit).await?))
}

async fn remove(request: Request, services: Services) -> Result<Response, Failure> {
    let (caller, name) = (request.caller()?, request.param(0));
    let name = services.tasks.get(caller, name).await?.task.name;
    services.tasks.remove(caller, &name).await?;
    json_reply(StatusCode::OK, &json!({ "success": true, "message": format!("{name} is removed") }))
}
