//! Actions and operations: do something to one or many servers, follow it, look it up.

use http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply};
use super::{fetched_page, rows, window};
use crate::actions::Action;
use crate::model::{TargetStatus, Timestamp};
use crate::operations::{NewOperation, OperationView, Planned, TargetView};
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::post("/api/v1/fleet/servers/{id}/actions", Access::OPERATOR, act)
            .summary("Does one thing to one server: action and its parameters; answers the operation at once")
            .takes("ActionInput")
            .gives("Operation")
            .status(202),
        Route::get("/api/v1/fleet/servers/{id}/commands", Access::VIEWER, commands)
            .summary("Records of the commands that the server got, newest first")
            .query("limit", "entries on the page, 1 to 1000, 100 by default")
            .query("cursor", "next_cursor of the page before")
            .gives("CommandList"),
        Route::get("/api/v1/fleet/operations", Access::VIEWER, list)
            .summary("Operations, newest first, without their results")
            .query("limit", "entries on the page, 1 to 1000, 100 by default")
            .query("cursor", "next_cursor of the page before")
            .gives("OperationList"),
        Route::post("/api/v1/fleet/operations", Access::OPERATOR, begin)
            .summary("Does one thing to one or many servers; with dry_run it only says what would be sent")
            .takes("OperationInput")
            .gives("Operation")
            .status(202),
        Route::get("/api/v1/fleet/operations/{id}", Access::VIEWER, get)
            .summary("One operation with the result of each server; of those that run, the output so far")
            .gives("Operation"),
        Route::post("/api/v1/fleet/operations/{id}/cancel", Access::OPERATOR, cancel)
            .summary("Sends nothing more and ends what runs")
            .status(202)
            .gives("Operation"),
    ]
}

/// One server of an operation.
#[derive(Debug, Serialize, ToSchema)]
pub struct ResultJson {
    server_id: String,
    server_name: String,
    /// pending, sent, succeeded, failed, unreachable, unknown, cancelled.
    status: String,
    /// The exact command.
    command: Option<String>,
    exit_status: Option<u32>,
    signal: Option<String>,
    stdout: Option<String>,
    stderr: Option<String>,
    stdout_dropped_bytes: u64,
    stderr_dropped_bytes: u64,
    /// Characters of the output left out here because the operation has many servers; the server's own list of
    /// commands has them.
    omitted_chars: u64,
    duration_ms: Option<u64>,
    #[schema(value_type = Option<String>)]
    started_at: Option<Timestamp>,
    error: Option<String>,
}

impl ResultJson {
    fn of(view: &TargetView) -> Self {
        let (target, record) = (&view.target, view.record.as_ref());
        Self {
            server_id: target.server.to_string(),
            server_name: target.server_name.clone(),
            status: target.status.to_string(),
            command: target.command.clone(),
            exit_status: record.and_then(|record| record.exit_status),
            signal: record.and_then(|record| record.signal.clone()),
            stdout: record.map(|record| record.stdout.clone()),
            stderr: record.map(|record| record.stderr.clone()),
            stdout_dropped_bytes: record.map_or(0, |record| record.stdout_dropped_bytes),
            stderr_dropped_bytes: record.map_or(0, |record| record.stderr_dropped_bytes),
            omitted_chars: record.map_or(0, |record| record.omitted_chars),
            duration_ms: record.and_then(|record| record.duration_ms),
            started_at: record.map(|record| record.started_at),
            error: target.error.clone(),
        }
    }
}

/// An operation as the API shows it.
#[derive(Debug, Serialize, ToSchema)]
pub struct OperationJson {
    id: String,
    operation_type: String,
    title: String,
    server_ids: Vec<String>,
    group_ids: Vec<String>,
    #[schema(value_type = Option<Object>)]
    filter_criteria: Option<Value>,
    #[schema(value_type = Object)]
    parameters: Value,
    initiated_by: String,
    /// pending, running, completed, failed, partial, cancelled.
    status: String,
    total_servers: usize,
    /// That have ended, however.
    completed_servers: usize,
    /// That ended and did not succeed.
    failed_servers: usize,
    /// Absent in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<Vec<ResultJson>>,
    error_summary: Option<String>,
    #[schema(value_type = Option<String>)]
    started_at: Option<Timestamp>,
    #[schema(value_type = Option<String>)]
    completed_at: Option<Timestamp>,
    #[schema(value_type = String)]
    created_at: Timestamp,
}

impl OperationJson {
    pub(super) fn of(view: &OperationView, with_results: bool) -> Self {
        let operation = &view.operation;
        let count = |wanted: &dyn Fn(TargetStatus) -> bool| {
            view.targets.iter().filter(|target| wanted(target.target.status)).count()
        };
        let failed = |status: TargetStatus| status.is_final() && status != TargetStatus::Succeeded;
        let summary = view
            .targets
            .iter()
            .filter(|target| failed(target.target.status))
            .map(|target| {
                let why = target.target.error.as_deref().unwrap_or_else(|| target.target.status.name());
                format!("{}: {why}", target.target.server_name)
            })
            .take(10)
            .collect::<Vec<_>>()
            .join("; ");
        Self {
            id: operation.id.to_string(),
            operation_type: operation.kind.clone(),
            title: operation.title.clone(),
            server_ids: view.targets.iter().map(|target| target.target.server.to_string()).collect(),
            group_ids: Vec::new(),
            filter_criteria: None,
            parameters: operation.parameters.clone(),
            initiated_by: operation.initiated_by.clone(),
            status: operation.status.to_string(),
            total_servers: view.targets.len(),
            completed_servers: count(&TargetStatus::is_final),
            failed_servers: count(&failed),
            results: with_results.then(|| view.targets.iter().map(ResultJson::of).collect()),
            error_summary: Some(summary).filter(|summary| !summary.is_empty()),
            started_at: operation.started_at,
            completed_at: operation.completed_at,
            created_at: operation.created_at,
        }
    }
}

/// A parameter of a JSON object as the text that a form would send.
pub(super) fn parameter<'a>(members: &'a Map<String, Value>) -> impl Fn(&str) -> Option<String> + 'a {
    |name| match members.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        // Parameters with parts (environment, container) are read as JSON by the action.
        object @ Value::Object(_) => Some(object.to_string()),
        // Older bodies name a list of services; one at a time is what an action does.
        Value::Array(items) => match items.as_slice() {
            [Value::String(text)] => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}

async fn act(request: Request, services: Services) -> Result<Response, Failure> {
    let members: Map<String, Value> = request.json()?;
    let kind = parameter(&members)("action")
        .ok_or_else(|| Failure::invalid("action is missing, for example \"restart_service\""))?;
    let action = Action::parse(&kind, parameter(&members))?;
    let new = NewOperation { action, servers: vec![request.param(0).to_owned()] };
    let view = services.operations.begin(request.caller()?, new).await?;
    json_reply(StatusCode::ACCEPTED, &OperationJson::of(&view, true))
}

/// Body of `POST /fleet/operations`.
#[derive(Debug, serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OperationInput {
    /// kill_process, start_service, stop_service, restart_service, reload_service, run_command.
    operation_type: String,
    /// Ids or names.
    server_ids: Vec<String>,
    /// Of the action: pid, start_ticks, signal; service; command, sudo, timeout_s, run_as, environment (texts, or
    /// {"secret": text}), stdin, container {engine, name}, label.
    #[serde(default)]
    #[schema(value_type = Object)]
    parameters: Map<String, Value>,
    /// Only say what would be sent where.
    #[serde(default)]
    dry_run: bool,
}

/// One target of a dry run.
pub(super) fn planned(planned: &Planned) -> Value {
    match &planned.plan {
        Ok(plan) => {
            json!({ "server_id": planned.server, "server_name": planned.name, "command": plan.command })
        }
        Err(reason) => json!({ "server_id": planned.server, "server_name": planned.name, "error": reason }),
    }
}

async fn begin(request: Request, services: Services) -> Result<Response, Failure> {
    let input: OperationInput = request.json()?;
    let action = Action::parse(&input.operation_type, parameter(&input.parameters))?;
    let new = NewOperation { action, servers: input.server_ids };
    if input.dry_run {
        let plan = services.operations.plan(request.caller()?, &new)?;
        let targets: Vec<Value> = plan.iter().map(planned).collect();
        return json_reply(StatusCode::OK, &json!({ "dry_run": true, "targets": targets }));
    }
    let view = services.operations.begin(request.caller()?, new).await?;
    json_reply(StatusCode::ACCEPTED, &OperationJson::of(&view, true))
}

async fn get(request: Request, services: Services) -> Result<Response, Failure> {
    let view = services.operations.get(request.caller()?, request.param(0)).await?;
    json_reply(StatusCode::OK, &OperationJson::of(&view, true))
}

async fn cancel(request: Request, services: Services) -> Result<Response, Failure> {
    services.operations.cancel(request.caller()?, request.param(0)).await?;
    let view = services.operations.get(request.caller()?, request.param(0)).await?;
    json_reply(StatusCode::ACCEPTED, &OperationJson::of(&view, true))
}

async fn list(request: Request, services: Services) -> Result<Response, Failure> {
    let window = window(&request)?;
    let (limit, offset) = rows(window);
    let views = services.operations.list(request.caller()?, limit, offset).await?;
    fetched_page(window, views.iter().map(|view| OperationJson::of(view, false)).collect())
}

async fn commands(request: Request, services: Services) -> Result<Response, Failure> {
    let window = window(&request)?;
    let (limit, offset) = rows(window);
    fetched_page(
        window,
        services.operations.records(request.caller()?, request.param(0), limit, offset).await?,
    )
}
