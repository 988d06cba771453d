//! Older addresses of servers and of actions on them, in the older shapes.

use http::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use warp::reply::Response;

use super::super::super::error::Failure;
use super::super::super::request::{Access, Request};
use super::super::super::routes::{Route, json as json_reply};
use super::super::servers::{ServerInput, ServerPatch};
use super::{server, status};
use crate::actions::Action;
use crate::fleet::{ServerFilter, ServerState};
use crate::model::{Caller, Reachability};
use crate::operations::NewOperation;
use crate::operations::parameter;
use crate::services::Services;

/// Longest sentence of the JSON parser that is passed on.
const JSON_ERROR_CHARS: usize = 300;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    const ONE: &str = "/api/servers/{id}";
    vec![
        Route::get("/api/servers", Access::VIEWER, list)
            .summary("Older address: the servers, by name")
            .gives("OlderServers"),
        Route::post("/api/servers", Access::ADMIN, add)
            .summary(
                "Older address: adds a server over SSH; its host key is approved later where it is unknown",
            )
            .takes("OlderInput")
            .gives("OlderServer")
            .status(201),
        Route::get(ONE, Access::VIEWER, get)
            .summary("Older address: one server, also by its short number")
            .gives("OlderServer"),
        Route::new(Method::PUT, ONE, Access::ADMIN, change)
            .summary("Older address: changes what is given and leaves the rest")
            .takes("OlderInput")
            .gives("OlderServer"),
        Route::new(Method::DELETE, ONE, Access::ADMIN, remove)
            .summary("Older address: removes a server and its samples")
            .gives("OlderAnswer"),
        Route::get("/api/remote/stats/all", Access::VIEWER, all_stats)
            .summary("Older address: current figures of every server")
            .gives("OlderStats"),
        Route::get("/api/remote/stats/{id}", Access::VIEWER, stats)
            .summary("Older address: current figures of a server")
            .gives("OlderStats"),
        Route::post("/api/remote/action/{id}", Access::OPERATOR, act)
            .summary("Older address: does one thing to one server: action and its parameters")
            .takes("ActionInput")
            .gives("OlderAnswer")
            .status(202),
    ]
}

async fn list(request: Request, services: Services) -> Result<Response, Failure> {
    let states = services.fleet.list(request.caller()?, &ServerFilter::default())?;
    json_reply(StatusCode::OK, &states.iter().map(server).collect::<Vec<_>>())
}

async fn get(request: Request, services: Services) -> Result<Response, Failure> {
    json_reply(StatusCode::OK, &server(&services.fleet.get(request.caller()?, request.param(0))?))
}

/// The newer body for an older one: members that mean nothing to a server of today are left out.
fn newer<T: DeserializeOwned>(mut members: Map<String, Value>) -> Result<T, Failure> {
    for name in ["agent_port", "id", "number", "status", "last_seen", "created_at", "updated_at"] {
        members.remove(name);
    }
    for (older, newer) in [("host", "hostname"), ("ssh_key_path", "identity")] {
        if let Some(value) = members.remove(older) {
            members.entry(newer).or_insert(value);
        }
    }
    // A description that is null stays empty.
    members.retain(|_, value| !value.is_null());
    serde_json::from_value(Value::Object(members)).map_err(|error| {
        let sentence = crate::model::shown(&error.to_string(), JSON_ERROR_CHARS);
        Failure::invalid(format!("the body is not what is expected here: {sentence}"))
    })
}

/// The port of an agent that an older program knows of.
fn agent_port(members: &Map<String, Value>) -> Result<Option<i64>, Failure> {
    match members.get("agent_port") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let wrong = || Failure::Field {
                field: "agent_port".to_owned(),
                message: "agent_port must be a number from 1 to 65535".to_owned(),
            };
            value.as_i64().filter(|port| (1..=65_535).contains(port)).map(Some).ok_or_else(wrong)
        }
    }
}

async fn add(request: Request, services: Services) -> Result<Response, Failure> {
    let members: Map<String, Value> = request.json()?;
    let port = agent_port(&members)?;
    let mut new = newer::<ServerInput>(members)?.new_server()?;
    // Older programs do not ask about host keys: the server is stored, and contacted once its key is approved.
    new.unchecked = true;
    let mut state = services.fleet.add(request.caller()?, new).await?;
    if let Some(port) = port {
        let id = state.server.id.to_string();
        state = services.fleet.use_agent_on_port(request.caller()?, &id, port, None).await?;
    }
    json_reply(StatusCode::CREATED, &server(&state))
}

async fn change(request: Request, services: Services) -> Result<Response, Failure> {
    let edit = newer::<ServerPatch>(request.json()?)?.into();
    let state = services.fleet.edit(request.caller()?, request.param(0), edit).await?;
    json_reply(StatusCode::OK, &server(&state))
}

async fn remove(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let name = services.fleet.get(caller, request.param(0))?.server.name.to_string();
    services.fleet.remove(caller, request.param(0)).await?;
    json_reply(StatusCode::OK, &json!({ "success": true, "message": format!("{name} is removed") }))
}

fn stats_of(services: &Services, caller: &Caller, state: &ServerState) -> Value {
    let error = match &state.reachability {
        Reachability::Unreachable { reason, .. } => Some(reason.clone()),
        _ => None,
    };
    let id = state.server.id.to_string();
    let processes = services.fleet.processes(caller, &id).ok();
    let (figures, facts) = (&state.figures, state.facts.as_deref());
    let disks: Vec<Value> = state
        .filesystems
        .iter()
        .map(|disk| {
            json!({
                "mount": disk.mount, "total": disk.size_bytes, "used": disk.used_bytes, "free": disk.available_bytes,
                "percent": crate::fleet::used_percent(disk),
            })
        })
        .collect();
    json!({
        "server_id": id,
        "server_name": state.server.name.as_str(),
        "status": status(state.health),
        "timestamp": state.last_seen_at,
        "stats": {
            "cpu_percent": figures.cpu_percent,
            "memory_percent": figures.memory_percent,
            "memory_used": figures.memory_used_bytes,
            "memory_total": figures.memory_total_bytes,
            "disk_percent": figures.disk_percent,
            "disks": disks,
            "network_rx_bytes": figures.network_rx_bytes,
            "network_tx_bytes": figures.network_tx_bytes,
            "load_average": [figures.load1, figures.load5, figures.load15],
            "uptime": figures.uptime_seconds,
            "process_count": figures.processes,
            "hostname": facts.and_then(|facts| facts.hostname.clone()),
            "os": facts.and_then(|facts| facts.os_name.clone()),
            "processes": processes.as_ref().map(|table| &table.processes),
        },
        "error": error,
    })
}

async fn stats(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let state = services.fleet.get(caller, request.param(0))?;
    json_reply(StatusCode::OK, &stats_of(&services, caller, &state))
}

async fn all_stats(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let states = services.fleet.list(caller, &ServerFilter::default())?;
    let items: Vec<Value> = states.iter().map(|state| stats_of(&services, caller, state)).collect();
    json_reply(StatusCode::OK, &items)
}

/// Older programs name a process by its pid alone: it is the one that the last reading shows.
fn with_start(members: &mut Map<String, Value>, services: &Services, caller: &Caller, server: &str) {
    if members.get("action").and_then(Value::as_str) != Some("kill_process")
        || members.contains_key("start_ticks")
    {
        return;
    }
    let Some(pid) = members.get("pid").and_then(Value::as_u64) else { return };
    let Ok(table) = services.fleet.processes(caller, server) else { return };
    if let Some(found) = table.processes.iter().find(|usage| u64::from(usage.process.pid) == pid) {
        members.insert("start_ticks".to_owned(), found.process.start_ticks.into());
    }
}

async fn act(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let id = services.fleet.get(caller, request.param(0))?.server.id.to_string();
    let mut members: Map<String, Value> = request.json()?;
    with_start(&mut members, &services, caller, &id);
    let kind = parameter(&members)("action")
        .ok_or_else(|| Failure::invalid("action is missing, for example \"restart_service\""))?;
    let action = Action::parse(&kind, parameter(&members))?;
    let view = services.operations.begin(caller, NewOperation { action, servers: vec![id] }).await?;
    let body = json!({
        "success": true,
        "operation_id": view.operation.id,
        "status": view.operation.status.to_string(),
        "message": view.operation.title,
    });
    json_reply(StatusCode::ACCEPTED, &body)
}
