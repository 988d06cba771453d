//! `GET /api/v1/events`: a WebSocket that tells programs what changes, a JSON object a message.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::MissedTickBehavior;
use warp::ws::{Message, WebSocket};

use super::super::live::values;
use super::super::request::{Access, REVISIT, Request, still_welcome};
use super::super::routes::Route;
use crate::auth;
use crate::model::{Caller, Event, Role};
use crate::services::Services;

/// A listener that takes no message for so long is gone; it must not hold a task for ever.
const SEND_LIMIT: Duration = Duration::from_secs(10);

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::socket("/api/v1/events", Access::VIEWER, attend)
            .summary("WebSocket: readings, health changes, servers added, changed, removed, operations, tasks and their runs, history that cannot be written or is written again; to administrators files on their way"),
    ]
}

/// An event as programs receive it: `type` and the members of that type.
fn message(event: &Event) -> Value {
    match event {
        Event::Reading { server, at, samples, .. } => {
            json!({ "type": "server.reading", "server_id": server, "at": at, "values": values(samples) })
        }
        Event::Health { server, health, reachability, at, .. } => json!({
            "type": "server.health",
            "server_id": server,
            "at": at,
            "health_status": health,
            "reachability": reachability,
        }),
        Event::Operation { operation, server, .. } => {
            json!({ "type": "operation.changed", "operation_id": operation, "server_id": server })
        }
        Event::Task { task, name, change, operation, reason, .. } => json!({
            "type": change.name(),
            "task_id": task,
            "name": &**name,
            "operation_id": operation,
            "reason": reason.as_deref(),
        }),
        Event::Transfer { server, direction, path, done_bytes, total_bytes, .. } => json!({
            "type": "transfer.progress",
            "server_id": server,
            "direction": direction,
            "path": path,
            "done_bytes": done_bytes,
            "total_bytes": total_bytes,
        }),
        Event::History { at, error } => json!({
            "type": if error.is_some() { "history.failing" } else { "history.recovered" },
            "at": at,
            "error": error,
        }),
        Event::ServerChanged { server, .. } => json!({ "type": "server.changed", "server_id": server }),
        Event::ServerRemoved { server, .. } => json!({ "type": "server.removed", "server_id": server }),
    }
}

/// Events of the caller's organization; files on their way are an administrator's, as is the transfer itself.
fn is_for(event: &Event, caller: &Caller) -> bool {
    let is_transfer = matches!(event, Event::Transfer { .. });
    event.concerns(caller.organization) && (!is_transfer || auth::require(caller, Role::Admin).is_ok())
}

async fn attend(request: Request, services: Services, socket: WebSocket) {
    let headers = request.headers;
    let Some(caller) = request.caller else { return };
    let mut events = services.fleet.subscribe();
    let (mut outgoing, mut incoming) = socket.split();
    let mut revisit = tokio::time::interval(REVISIT);
    revisit.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next = tokio::select! {
            event = events.recv() => event,
            said = incoming.next() => match said {
                Some(Ok(said)) if !said.is_close() => continue,
                _ => return,
            },
            _ = revisit.tick() => {
                if still_welcome(&headers, caller.from, &services).await {
                    continue;
                }
                return;
            }
        };
        let text = match next {
            Ok(event) if !is_for(&event, &caller) => continue,
            Ok(event) => message(&event).to_string(),
            Err(RecvError::Lagged(missed)) => json!({ "type": "missed", "count": missed }).to_string(),
            Err(RecvError::Closed) => return,
        };
        let sent = tokio::time::timeout(SEND_LIMIT, outgoing.send(Message::text(text))).await;
        if !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
}
