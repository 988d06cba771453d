//! Tasks: make, change, run, remove; their runs; what a schedule means.

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply, no_content};
use super::{fetched_page, page, rows, window};
use crate::actions::Action;
use crate::model::{Missed, Overlap, Selector, TaskRun, Timestamp};
use crate::operations::{Strategy, parameter};
use crate::services::Services;
use crate::tasks::{DEFAULT_ZONE, Preview, TaskEdit, TaskView, preview};

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    const ONE: &str = "/api/v1/tasks/{id}";
    vec![
        Route::get("/api/v1/tasks", Access::VIEWER, list)
            .summary("Operations on a schedule, by name")
            .query("limit", "entries on the page, 1 to 1000, 100 by default")
            .query("cursor", "next_cursor of the page before")
            .gives("TaskList"),
        Route::post("/api/v1/tasks", Access::OPERATOR, create)
            .summary("Makes a task: name, cron, operation_type and servers are needed; it acts with the rights of who saves it")
            .takes("TaskInput")
            .gives("Task")
            .status(201),
        Route::get("/api/v1/tasks/schedule", Access::VIEWER, schedule)
            .summary("What a schedule means: in words, and its next five runs")
            .query("cron", "five fields, or @hourly, @daily, @weekly, @monthly, @yearly")
            .query("time_zone", "IANA name, UTC by default")
            .gives("SchedulePreview"),
        Route::get(ONE, Access::VIEWER, get).summary("One, by id or name").gives("Task"),
        Route::new(Method::PATCH, ONE, Access::OPERATOR, change)
            .summary("Changes what is given; the task belongs to who saves it")
            .takes("TaskInput")
            .gives("Task"),
        Route::new(Method::PUT, ONE, Access::OPERATOR, change)
            .summary("As PATCH: what is not given stays")
            .takes("TaskInput")
            .gives("Task"),
        Route::new(Method::DELETE, ONE, Access::OPERATOR, remove)
            .summary("Removes a task and its history; operations that it began stay")
            .status(204),
        Route::post("/api/v1/tasks/{id}/enable", Access::OPERATOR, enable)
            .summary("Switches it on; times that passed while it was off are not made up for")
            .gives("Task"),
        Route::post("/api/v1/tasks/{id}/disable", Access::OPERATOR, disable)
            .summary("Switches it off; what runs goes on")
            .gives("Task"),
        Route::post("/api/v1/tasks/{id}/run", Access::OPERATOR, run)
            .summary("Runs it now, with the rights of the caller")
            .gives("TaskRun")
            .status(202),
        Route::get("/api/v1/tasks/{id}/runs", Access::VIEWER, runs)
            .summary("Its runs, newest first")
            .query("limit", "entries on the page, 1 to 1000, 100 by default")
            .query("cursor", "next_cursor of the page before")
            .gives("TaskRunList"),
    ]
}

/// A new task, or what is to change of one.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TaskInput {
    name: Option<String>,
    description: Option<String>,
    /// Five fields, or @hourly, @daily, @weekly, @monthly, @yearly.
    cron: Option<String>,
    /// IANA name; UTC by default.
    time_zone: Option<String>,
    /// As of an operation.
    operation_type: Option<String>,
    #[schema(value_type = Object)]
    parameters: Option<Map<String, Value>>,
    /// Ids or names. These three say the servers together; where one of them is given, all three are set.
    server_ids: Option<Vec<String>>,
    group_ids: Option<Vec<String>>,
    /// Servers by what they are when it runs: all, tags, regions, environments, health, status.
    #[schema(value_type = Object)]
    filter_criteria: Option<Selector>,
    /// parallelism, batches, pause_s, max_failures, health_gate_s, when_busy.
    #[schema(value_type = Object)]
    strategy: Option<Strategy>,
    /// A run begins up to so much later: 0 to 3,600.
    jitter_s: Option<u64>,
    /// While the last run is under way: skip, queue, allow.
    #[schema(value_type = Option<String>)]
    overlap: Option<Overlap>,
    /// Runs whose time passed while Roundsman was not running: skip, once, all.
    #[schema(value_type = Option<String>)]
    missed: Option<Missed>,
    /// So many of them at most with all: 1 to 100.
    missed_limit: Option<u32>,
    /// Only those that were to begin so long ago or less; up to 604,800.
    missed_grace_s: Option<u64>,
    /// How often a run that failed is tried again on the servers where it did: 0 to 10.
    retries: Option<u32>,
    /// Up to 86,400.
    retry_wait_s: Option<u64>,
    enabled: Option<bool>,
}

impl TaskInput {
    /// `kind` of the task as it is, for parameters that are given alone.
    fn edit(self, kind: Option<&str>) -> Result<TaskEdit, Failure> {
        let kind = self.operation_type.as_deref().or(kind.filter(|_| self.parameters.is_some()));
        let action = match kind {
            Some(kind) => Some(Action::parse(kind, parameter(&self.parameters.unwrap_or_default()))?),
            None => None,
        };
        let says_servers =
            self.server_ids.is_some() || self.group_ids.is_some() || self.filter_criteria.is_some();
        let selector = says_servers.then(|| {
            let mut selector = self.filter_criteria.unwrap_or_default();
            selector.servers.extend(self.server_ids.into_iter().flatten());
            selector.groups.extend(self.group_ids.into_iter().flatten());
            selector
        });
        Ok(TaskEdit {
            name: self.name,
            description: self.description,
            cron: self.cron,
            time_zone: self.time_zone,
            action,
            selector,
            strategy: self.strategy,
            jitter_s: self.jitter_s,
            overlap: self.overlap,
            missed: self.missed,
            missed_limit: self.missed_limit,
            missed_grace_s: self.missed_grace_s,
            retries: self.retries,
            retry_wait_s: self.retry_wait_s,
            enabled: self.enabled,
        })
    }
}

/// A run of a task.
#[derive(Debug, Serialize, ToSchema)]
pub struct TaskRunJson {
    id: String,
    task_id: String,
    /// The time of the schedule, or when somebody said so.
    #[schema(value_type = String)]
    due_at: Timestamp,
    /// From 1; more are retries.
    attempt: u32,
    /// schedule, missed, manual.
    cause: String,
    /// waiting, starting, running, completed, partial, failed, cancelled, skipped, missed.
    status: String,
    operation_id: Option<String>,
    /// Why it failed, was left out, or still waits.
    reason: Option<String>,
    started_by: String,
    #[schema(value_type = Option<String>)]
    started_at: Option<Timestamp>,
    #[schema(value_type = Option<String>)]
    ended_at: Option<Timestamp>,
}

impl TaskRunJson {
    pub(super) fn of(run: &TaskRun) -> Self {
        Self {
            id: run.id.to_string(),
            task_id: run.task.to_string(),
            due_at: run.due_at,
            attempt: run.attempt,
            cause: run.cause.to_string(),
            status: run.status.to_string(),
            operation_id: run.operation.map(|id| id.to_string()),
            reason: run.reason.clone(),
            started_by: run.started_by.clone(),
            started_at: run.started_at,
            ended_at: run.ended_at,
        }
    }
}

/// A task as the API shows it.
#[derive(Debug, Serialize, ToSchema)]
pub struct TaskJson {
    id: String,
    name: String,
    description: String,
    cron: String,
    time_zone: String,
    /// The schedule in words.
    schedule: Option<String>,
    /// Why the schedule means nothing on this machine any more.
    schedule_problem: Option<String>,
    /// The next five, where it is enabled; each begins up to jitter_s later.
    #[schema(value_type = Vec<String>)]
    next_runs: Vec<Timestamp>,
    operation_type: String,
    title: String,
    #[schema(value_type = Object)]
    parameters: Value,
    server_ids: Vec<String>,
    server_names: Vec<String>,
    group_ids: Vec<String>,
    #[schema(value_type = Option<Object>)]
    filter_criteria: Option<Value>,
    #[schema(value_type = Object)]
    strategy: Value,
    jitter_s: u64,
    overlap: String,
    missed: String,
    missed_limit: u32,
    missed_grace_s: u64,
    retries: u32,
    retry_wait_s: u64,
    enabled: bool,
    /// As whom it acts.
    owner: String,
    last_run: Option<TaskRunJson>,
    #[schema(value_type = String)]
    created_at: Timestamp,
    #[schema(value_type = String)]
    updated_at: Timestamp,
}

impl TaskJson {
    pub(super) fn of(view: &TaskView) -> Self {
        let task = &view.task;
        let selector = task.selector.clone();
        let conditions = Selector { servers: Vec::new(), groups: Vec::new(), ..selector.clone() };
        let next = view.schedule.iter().flat_map(|schedule| &schedule.next_runs).map(|(at, _)| *at);
        Self {
            id: task.id.to_string(),
            name: task.name.clone(),
            description: task.description.clone(),
            cron: task.cron.clone(),
            time_zone: task.time_zone.clone(),
            schedule: view.schedule.as_ref().ok().map(|schedule| schedule.words.clone()),
            schedule_problem: view.schedule.as_ref().err().cloned(),
            next_runs: next.filter(|_| task.enabled).collect(),
            operation_type: task.kind.clone(),
            title: view.title.clone(),
            parameters: task.parameters.clone(),
            server_ids: selector.servers,
            server_names: view.server_names.clone(),
            group_ids: selector.groups,
            filter_criteria: conditions.chooses().then(|| json!(conditions)),
            strategy: task.strategy.clone(),
            jitter_s: task.jitter.as_secs(),
            overlap: task.overlap.to_string(),
            missed: task.missed.to_string(),
            missed_limit: task.missed_limit,
            missed_grace_s: task.missed_grace.as_secs(),
            retries: task.retries,
            retry_wait_s: task.retry_wait.as_secs(),
            enabled: task.enabled,
            owner: task.owner_name.clone(),
            last_run: view.last_run.as_ref().map(TaskRunJson::of),
            created_at: task.created_at,
            updated_at: task.updated_at,
        }
    }
}

/// What a schedule means.
#[derive(Debug, Serialize, ToSchema)]
pub struct SchedulePreview {
    words: String,
    time_zone: String,
    next_runs: Vec<NextRun>,
}

/// A time as UTC, and as the clock on the wall shows it there.
#[derive(Debug, Serialize, ToSchema)]
pub struct NextRun {
    #[schema(value_type = String)]
    at: Timestamp,
    local: String,
}

async fn list(request: Request, services: Services) -> Result<Response, Failure> {
    let tasks = services.tasks.list(request.caller()?).await?;
    page(&request, tasks.iter().map(TaskJson::of).collect())
}

async fn create(request: Request, services: Services) -> Result<Response, Failure> {
    let edit = request.json::<TaskInput>()?.edit(None)?;
    json_reply(StatusCode::CREATED, &TaskJson::of(&services.tasks.create(request.caller()?, edit).await?))
}

async fn schedule(request: Request, services: Services) -> Result<Response, Failure> {
    let zone = request.query("time_zone").filter(|zone| !zone.is_empty()).unwrap_or(DEFAULT_ZONE);
    let found = preview(request.query("cron").unwrap_or_default(), zone, services.clock.now())?;
    let Preview { words, time_zone, next_runs } = found;
    let next_runs = next_runs.into_iter().map(|(at, local)| NextRun { at, local }).collect();
    json_reply(StatusCode::OK, &SchedulePreview { words, time_zone, next_runs })
}

async fn get(request: Request, services: Services) -> Result<Response, Failure> {
    let view = services.tasks.get(request.caller()?, request.param(0)).await?;
    json_reply(StatusCode::OK, &TaskJson::of(&view))
}

async fn change(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let before = services.tasks.get(caller, request.param(0)).await?;
    let edit = request.json::<TaskInput>()?.edit(Some(&before.task.kind))?;
    json_reply(StatusCode::OK, &TaskJson::of(&services.tasks.edit(caller, request.param(0), edit).await?))
}

async fn remove(request: Request, services: Services) -> Result<Response, Failure> {
    services.tasks.remove(request.caller()?, request.param(0)).await?;
    Ok(no_content())
}

async fn enable(request: Request, services: Services) -> Result<Response, Failure> {
    let view = services.tasks.set_enabled(request.caller()?, request.param(0), true).await?;
    json_reply(StatusCode::OK, &TaskJson::of(&view))
}

async fn disable(request: Request, services: Services) -> Result<Response, Failure> {
    let view = services.tasks.set_enabled(request.caller()?, request.param(0), false).await?;
    json_reply(StatusCode::OK, &TaskJson::of(&view))
}

async fn run(request: Request, services: Services) -> Result<Response, Failure> {
    let run = services.tasks.run_now(request.caller()?, request.param(0)).await?;
    json_reply(StatusCode::ACCEPTED, &TaskRunJson::of(&run))
}

async fn runs(request: Request, services: Services) -> Result<Response, Failure> {
    let window = window(&request)?;
    let (limit, offset) = rows(window);
    let runs = services.tasks.runs(request.caller()?, request.param(0), limit, offset).await?;
    fetched_page(window, runs.iter().map(TaskRunJson::of).collect())
}
