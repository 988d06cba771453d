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
use crate::actions::{Action, CONTENT_LIMIT_BYTES};
use crate::model::{OperationStatus, Selector, TargetStatus, Timestamp};
use crate::operations::{
    Again, Cluster, NewOperation, OperationQuery, OperationView, Order, Planned, Strategy, TargetView,
    batch_sizes, cluster_summary, clusters, parameter,
};
use crate::services::Services;

/// The content of a file in Base64, or with every second sign escaped, and what is said with it.
const BODY_BYTES: usize = 3 * CONTENT_LIMIT_BYTES;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::post("/api/v1/fleet/servers/{id}/actions", Access::OPERATOR, act)
            .summary("Does one thing to one server: action and its parameters; answers the operation at once")
            .body_limit(BODY_BYTES)
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
            .query("status", "any of these, with commas between: pending, running, completed, failed, partial, cancelled")
            .query("action", "any of these, with commas between: run_command, restart_service, …")
            .query("server", "id or name of a server among its targets; the id of one that was removed too")
            .query("initiated_by", "who began it, as operations name it")
            .query("from", "begun at or after this: RFC 3339 or Unix time")
            .query("to", "begun before this: RFC 3339 or Unix time")
            .query("limit", "entries on the page, 1 to 1000, 100 by default")
            .query("cursor", "next_cursor of the page before")
            .gives("OperationList"),
        Route::post("/api/v1/fleet/operations", Access::OPERATOR, begin)
            .summary("Does one thing to one or many servers; with dry_run it only says what would be sent")
            .body_limit(BODY_BYTES)
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
        Route::post("/api/v1/fleet/operations/{id}/pause", Access::OPERATOR, pause)
            .summary("Sends nothing more until it is resumed; what runs goes on")
            .gives("Operation"),
        Route::post("/api/v1/fleet/operations/{id}/resume", Access::OPERATOR, resume)
            .summary("Goes on with a paused operation; of one that has ended, begins a new one with what was never sent")
            .status(202)
            .gives("Operation"),
        Route::post("/api/v1/fleet/operations/{id}/retry", Access::OPERATOR, retry)
            .summary("Begins a new operation with the servers on which this one failed, or that were unreachable or unknown; or with those that are named")
            .takes("RetryInput")
            .status(202)
            .gives("Operation"),
    ]
}

/// One server of an operation.
#[derive(Debug, Serialize, ToSchema)]
pub struct ResultJson {
    server_id: String,
    server_name: String,
    /// pending, sent, succeeded, failed, unreachable, unknown, cancelled, skipped.
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
    #[schema(value_type = Option<String>)]
    completed_at: Option<Timestamp>,
    /// From 0: with which batch of the operation it goes.
    batch: u32,
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
            completed_at: target.completed_at,
            batch: target.batch,
            error: target.error.clone(),
        }
    }
}

/// Servers that ended alike and said the same.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClusterJson {
    status: String,
    /// `exit status 0`, or why there is none.
    ending: String,
    server_ids: Vec<String>,
    server_names: Vec<String>,
    /// Against the first cluster, a line each, marked as diff -u does; empty for the first.
    diff: Vec<String>,
    diff_left_out: usize,
}

impl ClusterJson {
    fn of(cluster: &Cluster, targets: &[TargetView]) -> Self {
        let members = || cluster.members.iter().filter_map(|index| targets.get(*index));
        Self {
            status: cluster.status.to_string(),
            ending: cluster.ending.clone(),
            server_ids: members().map(|view| view.target.server.to_string()).collect(),
            server_names: members().map(|view| view.target.server_name.clone()).collect(),
            diff: cluster.diff.iter().map(|(side, line)| format!("{}{line}", side.mark())).collect(),
            diff_left_out: cluster.diff_left_out,
        }
    }
}

/// An operation as the API shows it.
#[derive(Debug, Serialize, ToSchema)]
pub struct OperationJson {
    id: String,
    operation_type: String,
    title: String,
    /// Those that were found when it began, in their order.
    server_ids: Vec<String>,
    /// The groups that were named.
    group_ids: Vec<String>,
    /// The conditions that chose servers, as they were given.
    #[schema(value_type = Option<Object>)]
    filter_criteria: Option<Value>,
    /// parallelism, batches, pause_s, max_failures, health_gate_s, when_busy, by_dependencies.
    #[schema(value_type = Object)]
    strategy: Value,
    /// The operation whose servers it tries again.
    retry_of: Option<String>,
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
    /// A person has stopped it for now.
    paused: bool,
    /// Why nothing more was sent.
    halted: Option<String>,
    /// Absent in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<Vec<ResultJson>>,
    /// Equal answers as one, the largest first; absent in lists and until it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    clusters: Option<Vec<ClusterJson>>,
    /// "47 identical, 2 differ, 1 unreachable".
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_summary: Option<String>,
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
        let ended = !matches!(operation.status, OperationStatus::Pending | OperationStatus::Running);
        let folded = (with_results && ended).then(|| clusters(&view.targets));
        let selector: Selector = serde_json::from_value(operation.selector.clone()).unwrap_or_default();
        let conditions = Selector { servers: Vec::new(), groups: Vec::new(), ..selector.clone() };
        Self {
            id: operation.id.to_string(),
            operation_type: operation.kind.clone(),
            title: operation.title.clone(),
            server_ids: view.targets.iter().map(|target| target.target.server.to_string()).collect(),
            group_ids: selector.groups,
            filter_criteria: conditions.chooses().then(|| json!(conditions)),
            strategy: operation.strategy.clone(),
            retry_of: operation.retry_of.map(|id| id.to_string()),
            parameters: operation.parameters.clone(),
            initiated_by: operation.initiated_by.clone(),
            status: operation.status.to_string(),
            total_servers: view.targets.len(),
            completed_servers: count(&TargetStatus::is_final),
            failed_servers: count(&failed),
            paused: operation.paused_at.is_some(),
            halted: operation.halted.clone(),
            cluster_summary: folded.as_deref().and_then(|found| cluster_summary(found, &view.targets)),
            clusters: folded
                .map(|found| found.iter().map(|one| ClusterJson::of(one, &view.targets)).collect()),
            results: with_results.then(|| view.targets.iter().map(ResultJson::of).collect()),
            error_summary: Some(summary).filter(|summary| !summary.is_empty()),
            started_at: operation.started_at,
            completed_at: operation.completed_at,
            created_at: operation.created_at,
        }
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
    /// kill_process; start_, stop_, restart_, reload_, enable_ or disable_service; start_, stop_, restart_, pause_,
    /// unpause_ or remove_container, container_logs, container_exec; run_command, run_script, update_packages, reboot,
    /// health_check, collect_diagnostics, upload_file, upload_template, update_configuration, deploy_agent, remove_agent. docs/actions.md says what each takes.
    operation_type: String,
    /// Ids or names.
    #[serde(default)]
    server_ids: Vec<String>,
    /// Ids or names: their members now.
    #[serde(default)]
    group_ids: Vec<String>,
    /// Servers by what they are: all, tags, regions, environments, health, status.
    #[serde(default)]
    #[schema(value_type = Object)]
    filter_criteria: Option<Selector>,
    /// parallelism, batches (sizes as numbers or "10%"; the last repeats), pause_s, max_failures (number or "10%"),
    /// health_gate_s, when_busy (share, queue, refuse; else as it is configured), by_dependencies (what a server needs goes
    /// first; makes the batches).
    #[serde(default)]
    #[schema(value_type = Object)]
    strategy: Option<Strategy>,
    /// Of the action: pid, start_ticks, signal, or process, containing, user, signal, most, compare; service; container {engine, name}, force, lines; command, sudo, timeout_s,
    /// run_as, environment (texts, or {"secret": text}), stdin, label, detached (goes on without its connection and without
    /// Roundsman); script, interpreter, arguments; packages; of a file:
    /// path, content or content_base64, template, mode, owner, sudo, validate, reload, compare, show_diff, timeout_s.
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
    let mut selector = input.filter_criteria.unwrap_or_default();
    selector.servers.extend(input.server_ids);
    selector.groups.extend(input.group_ids);
    let new = Order { action, selector, strategy: input.strategy.unwrap_or_default(), retry_of: None };
    if input.dry_run {
        let plan = services.operations.plan_order(request.caller()?, &new)?;
        let batches = batch_sizes(&plan);
        let targets: Vec<Value> = plan.iter().map(planned).collect();
        return json_reply(
            StatusCode::OK,
            &json!({ "dry_run": true, "batches": batches, "targets": targets }),
        );
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

async fn pause(request: Request, services: Services) -> Result<Response, Failure> {
    let view = services.operations.pause(request.caller()?, request.param(0)).await?;
    json_reply(StatusCode::OK, &OperationJson::of(&view, true))
}

async fn resume(request: Request, services: Services) -> Result<Response, Failure> {
    let view = services.operations.resume(request.caller()?, request.param(0)).await?;
    json_reply(StatusCode::ACCEPTED, &OperationJson::of(&view, true))
}

/// Body of `POST …/retry`; may be empty.
#[derive(Debug, Default, serde::Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetryInput {
    /// The states to try again: failed, unreachable, unknown (these where nothing is said), cancelled, skipped, succeeded.
    #[schema(value_type = Vec<String>)]
    states: Vec<TargetStatus>,
    /// Only these of its servers, by name or id; without `states` whatever became of them.
    servers: Vec<String>,
}

async fn retry(request: Request, services: Services) -> Result<Response, Failure> {
    let input: RetryInput = if request.body.is_empty() { RetryInput::default() } else { request.json()? };
    let wanted = Again { states: input.states, servers: input.servers.into_iter().collect() };
    let view = services.operations.retry(request.caller()?, request.param(0), &wanted).await?;
    json_reply(StatusCode::ACCEPTED, &OperationJson::of(&view, true))
}

async fn list(request: Request, services: Services) -> Result<Response, Failure> {
    let window = window(&request)?;
    let (limit, offset) = rows(window);
    let query = OperationQuery::parse(|name| request.query(name))?;
    let views = services.operations.find(request.caller()?, &query, limit, offset).await?;
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
