//! The agent of a server: what it has, what can be deployed, and deploying it.

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply};
use super::operations::{OperationJson, planned};
use crate::actions::{Action, AgentDeployment};
use crate::fleet::AgentOffer;
use crate::model::{InstalledAgent, ProbeKind, Secret};
use crate::operations::NewOperation;
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::post("/api/v1/fleet/servers/{id}/deploy", Access::ADMIN, deploy)
            .summary("Deploys the agent, or the newer one; answers the operation at once. remove_agent among the actions takes it away")
            .takes("DeployInput")
            .gives("Operation")
            .status(202),
        Route::new(Method::PUT, "/api/v1/fleet/servers/{id}/agent", Access::ADMIN, use_agent)
            .summary("Reads the server by the serve agent that runs there already, through SSH")
            .takes("AgentOnPort")
            .gives("ServerAgent"),
        Route::get("/api/v1/fleet/servers/{id}/agent", Access::VIEWER, agent)
            .summary("What the readings come from, the agent that is there, and whether there is one for the server")
            .gives("ServerAgent"),
    ]
}

/// How the agent is to work.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployInput {
    /// stream (only while Roundsman reads; the default), serve (a service on the server's loopback) or push (a service that
    /// reports; for a server with the transport push and an SSH address).
    mode: Option<String>,
    /// Where a serve agent answers, 8083 by default.
    port: Option<u16>,
    /// Where a push agent reports to: this Roundsman, as the server reaches it.
    url: Option<String>,
    /// Only say what would be sent.
    #[serde(default)]
    dry_run: bool,
}

/// A serve agent that somebody else has started.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentOnPort {
    /// On the server's loopback.
    port: i64,
    /// What its token file holds; kept, sealed. Without it there are no command lines.
    #[schema(value_type = Option<String>)]
    token: Option<Secret<String>>,
}

/// The agent of a server.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServerAgent {
    /// shell, agent or local; null before the first reading.
    #[schema(value_type = Option<String>)]
    probe: Option<ProbeKind>,
    #[schema(value_type = Option<Object>)]
    installed: Option<InstalledAgent>,
    /// There is an agent for the server's processor; null: the processor is not known yet.
    available: Option<bool>,
    /// The server has the agent that would be deployed.
    is_current: bool,
    /// Why there is none.
    reason: Option<String>,
}

async fn deploy(request: Request, services: Services) -> Result<Response, Failure> {
    let DeployInput { mode, port, url, dry_run } = request.json()?;
    let port = port.map(|port| port.to_string());
    let action =
        Action::DeployAgent(AgentDeployment::parse(mode.as_deref(), port.as_deref(), url.as_deref())?);
    let (caller, new) =
        (request.caller()?, NewOperation { action, servers: vec![request.param(0).to_owned()] });
    if dry_run {
        let targets: Vec<Value> = services.operations.plan(caller, &new)?.iter().map(planned).collect();
        return json_reply(StatusCode::OK, &json!({ "dry_run": true, "targets": targets }));
    }
    let view = services.operations.begin(caller, new).await?;
    json_reply(StatusCode::ACCEPTED, &OperationJson::of(&view, true))
}

async fn use_agent(request: Request, services: Services) -> Result<Response, Failure> {
    let AgentOnPort { port, token } = request.json()?;
    services.fleet.use_agent_on_port(request.caller()?, request.param(0), port, token).await?;
    agent(request, services).await
}

async fn agent(request: Request, services: Services) -> Result<Response, Failure> {
    let state = services.fleet.get(request.caller()?, request.param(0))?;
    let offer = services.fleet.agent_offer(request.caller()?, request.param(0))?;
    let (available, is_current, reason) = match offer {
        AgentOffer::Available { is_current } => (Some(true), is_current, None),
        AgentOffer::None(reason) => (Some(false), false, Some(reason)),
        AgentOffer::Unknown => (None, false, None),
    };
    let installed = state.agent.as_deref().cloned();
    json_reply(StatusCode::OK, &ServerAgent { probe: state.probe, installed, available, is_current, reason })
}
