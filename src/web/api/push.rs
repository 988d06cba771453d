//! Servers that report by themselves: registration and heartbeats.

use std::collections::BTreeMap;

use http::{StatusCode, header};
use serde_json::{Map, Value, json};
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply};
use super::servers::ServerJson;
use crate::collect::pushed::{self, BadField};
use crate::fleet::{Registered, Registration, Report};
use crate::model::shown;
use crate::services::Services;

/// Largest heartbeat: an hour of readings of a usual server; the agent halves what is refused.
pub(super) const HEARTBEAT_LIMIT_BYTES: usize = 4 * 1024 * 1024;
/// Longest value of a metadata entry that is not a text.
const VALUE_CHARS: usize = 1000;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::post("/api/v1/fleet/register", Access::Reporter, register)
            .summary(
                "Registers the server that asks, or recognises it by its host name; answers its own token",
            )
            .takes("Registration")
            .gives("Registered"),
        Route::post("/api/v1/fleet/servers/{id}/heartbeat", Access::Reporter, heartbeat)
            .summary("Readings of the server, oldest first, or plain figures")
            .body_limit(HEARTBEAT_LIMIT_BYTES)
            .takes("Heartbeat")
            .gives("Heard"),
        Route::post("/api/v1/fleet/servers/{id}/token", Access::ADMIN, renew)
            .summary("Another token for a server that reports by itself; the present one ends in an hour")
            .gives("ServerToken"),
    ]
}

/// A member that is a text. None: missing, `null` or empty.
pub(super) fn text(members: &Map<String, Value>, name: &str) -> Result<Option<String>, BadField> {
    match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.trim().is_empty())),
        Some(_) => Err(BadField::new(name, "must be a text")),
    }
}

/// A member that is a list of texts. Empty: missing or `null`.
fn texts(members: &Map<String, Value>, name: &str) -> Result<Vec<String>, BadField> {
    let wrong = || BadField::new(name, "must be a list of texts");
    match members.get(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_str().map(ToOwned::to_owned).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

/// The body of a registration, at the newer and at the older address.
pub(super) fn registration(mut members: Map<String, Value>) -> Result<Registration, Failure> {
    let facts = members.remove("facts").filter(|facts| !facts.is_null()).map(pushed::facts).transpose()?;
    let metadata: BTreeMap<String, String> = match members.get("metadata") {
        None | Some(Value::Null) => BTreeMap::new(),
        Some(Value::Object(entries)) => entries
            .iter()
            .map(|(key, value)| match value {
                Value::String(text) => (key.clone(), text.clone()),
                other => (key.clone(), shown(&other.to_string(), VALUE_CHARS)),
            })
            .collect(),
        Some(_) => return Err(BadField::new("metadata", "must be an object").into()),
    };
    let interval_ms = match members.get("interval_ms") {
        None | Some(Value::Null) => None,
        Some(value) => {
            let wrong = || BadField::new("interval_ms", "must be a whole number of milliseconds");
            Some(value.as_u64().ok_or_else(wrong)?)
        }
    };
    let of = |name: &str| text(&members, name);
    Ok(Registration {
        name: of("name")?,
        hostname: of("hostname")?,
        address: of("ip")?.or(of("host")?),
        description: of("description")?.unwrap_or_default(),
        region: of("region")?,
        environment: of("environment")?,
        tags: texts(&members, "tags")?,
        metadata,
        services: texts(&members, "services")?,
        agent_version: of("agent_version")?.or(of("version")?),
        interval_ms,
        facts,
        ..Registration::default()
    })
}

/// The server's token: the new one, or the one with which it has just shown who it is.
fn own_token(request: &Request, registered: &Registered) -> Option<String> {
    let shown_just_now = || {
        let value = request.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        value.split_once(' ').map(|(_, token)| token.trim().to_owned())
    };
    registered.token.as_ref().map(|text| text.expose().clone()).or_else(shown_just_now)
}

/// Registers whoever asks; the answer of both addresses.
pub(super) async fn register(request: Request, services: Services) -> Result<Response, Failure> {
    let registration = registration(request.json()?)?;
    let registered = services.fleet.register(request.reporter()?, registration).await?;
    let id = registered.state.server.id;
    json_reply(StatusCode::OK, &json!({ "id": id, "token": own_token(&request, &registered) }))
}

/// A report from the body of a heartbeat, and how many readings or figures it has.
pub(super) fn report(mut members: Map<String, Value>) -> Result<(Report, usize), Failure> {
    let Some(readings) = members.remove("readings") else {
        let samples = pushed::figures(&members)?;
        let count = samples.len();
        return Ok((Report::Figures(samples), count));
    };
    let sent_at_ms = match members.get("sent_at_ms") {
        None | Some(Value::Null) => None,
        Some(value) => {
            let wrong = || BadField::new("sent_at_ms", "must be Unix time in milliseconds");
            Some(value.as_u64().filter(|ms| *ms <= u64::MAX / 4).ok_or_else(wrong)?)
        }
    };
    let readings = pushed::readings(readings)?;
    let count = readings.len();
    Ok((Report::Readings { readings, sent_at_ms }, count))
}

/// Takes in a heartbeat; the answer of both addresses.
pub(super) async fn heartbeat(request: Request, services: Services) -> Result<Response, Failure> {
    let (report, accepted) = report(request.json()?)?;
    let heard = services.fleet.heartbeat(request.reporter()?, request.param(0), report).await?;
    let mut answer = json!({
        "success": true, "accepted": accepted, "interval_ms": heard.interval_ms,
        "heavy_interval_ms": heard.heavy_interval_ms,
    });
    if let (Some(notice), Some(members)) = (heard.notice, answer.as_object_mut()) {
        members.insert("notice".to_owned(), notice.into());
    }
    json_reply(StatusCode::OK, &answer)
}

async fn renew(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let text = services.fleet.renew_push_token(caller, request.param(0)).await?;
    let id = services.fleet.get(caller, request.param(0))?.server.id;
    json_reply(StatusCode::OK, &json!({ "id": id, "token": text.expose() }))
}

/// A server with its token, which is in this answer only.
pub(super) fn with_token(status: StatusCode, registered: &Registered) -> Result<Response, Failure> {
    let server = serde_json::to_value(ServerJson::of(&registered.state));
    let mut server = server.map_err(|error| Failure::Internal(error.to_string()))?;
    if let (Some(members), Some(token)) = (server.as_object_mut(), &registered.token) {
        members.insert("token".to_owned(), token.expose().clone().into());
    }
    json_reply(status, &server)
}
