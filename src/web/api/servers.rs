//! `/api/v1/fleet/servers`: enrol, list, change, remove, look at, check.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply, no_content};
use super::selection::chosen;
use super::ways::{ActionLoginInput, WayJson, given, key};
use super::{page, push};
use crate::fleet::{
    Cadence, Checked, Figures, HttpEdit, Identification, LoginEdit, NewHttpServer, NewServer, Registration,
    ServerEdit, ServerState, SshAddress, WayEdit,
};
use crate::model::{LoginMethod, Reachability, Secret, Status, Timestamp};
use crate::services::Services;
use crate::ssh::preflight::Outcome;
use crate::store::push::Pushing;

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    const LIST: &str = "/api/v1/fleet/servers";
    const ONE: &str = "/api/v1/fleet/servers/{id}";
    vec![
        Route::get(LIST, Access::VIEWER, list)
            .summary("The servers, by name")
            .query("search", "part of the name, the address or the description")
            .query("status", "active, maintenance, inactive, or unreachable")
            .query("health", "healthy, degraded, critical, unreachable or unknown")
            .query("server", "this server, by id or name; as all that follows, may be given several times")
            .query("group", "a member of this group")
            .query("region", "exactly this region")
            .query("environment", "exactly this environment")
            .query("tag", "has this tag; of several, all")
            .query("limit", "entries on the page, 1 to 1000, 100 by default")
            .query("cursor", "next_cursor of the page before")
            .gives("ServerList"),
        Route::post(LIST, Access::ADMIN, add)
            .summary("Enrols a server; 409 with the fingerprint until its host key is approved")
            .takes("ServerInput")
            .gives("Server")
            .status(201),
        Route::get(ONE, Access::VIEWER, get).summary("One server, by id or name").gives("Server"),
        Route::new(Method::PUT, ONE, Access::ADMIN, replace)
            .summary("Replaces what is said of a server; what is left out is emptied")
            .takes("ServerInput")
            .gives("Server"),
        Route::new(Method::PATCH, ONE, Access::ADMIN, patch)
            .summary("Changes what is given and leaves the rest")
            .takes("ServerPatch")
            .gives("Server"),
        Route::new(Method::DELETE, ONE, Access::ADMIN, remove)
            .summary("Removes a server and its samples")
            .status(204),
        Route::post("/api/v1/fleet/servers/{id}/test", Access::OPERATOR, test)
            .summary("Goes through the stages of a connection, with one login of its own")
            .gives("Preflight"),
        Route::post("/api/v1/fleet/servers/{id}/host-key", Access::ADMIN, approve_host_key)
            .summary("Approves the host key that the server offers now")
            .takes("HostKeyApproval")
            .gives("Server"),
        Route::post("/api/v1/fleet/preflight", Access::ADMIN, preflight)
            .summary("Goes through the stages for a server that is not enrolled; stores nothing")
            .takes("ServerInput")
            .gives("Preflight"),
        Route::get("/api/v1/fleet/summary", Access::VIEWER, summary)
            .summary("Counts and averages over the fleet")
            .gives("Summary"),
    ]
}

/// A server as the API shows it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServerJson {
    id: String,
    organization_id: String,
    name: String,
    description: String,
    hostname: Option<String>,
    /// The first address that the server says it has, or the address it is reached at.
    ip_address: Option<String>,
    ssh_host: Option<String>,
    transport: String,
    username: Option<String>,
    port: Option<u16>,
    /// Of an http server.
    api_url: Option<String>,
    region: Option<String>,
    environment: Option<String>,
    tags: Vec<String>,
    metadata: BTreeMap<String, String>,
    /// What an administrator says: active, maintenance, inactive.
    status: String,
    /// What Roundsman says: healthy, degraded, critical, unreachable, unknown.
    health_status: String,
    health_reasons: Vec<String>,
    #[schema(value_type = Object)]
    reachability: Reachability,
    #[schema(value_type = Option<String>)]
    last_seen_at: Option<Timestamp>,
    #[schema(value_type = Option<String>)]
    last_health_check_at: Option<Timestamp>,
    /// Of the agent, where one reports.
    version: Option<String>,
    interval_ms: u32,
    /// Time between two readings of the heavy sections (processes, services, containers, users); null: the default.
    heavy_interval_ms: Option<u32>,
    /// What is read how often at present.
    #[schema(value_type = Object)]
    cadence: Cadence,
    cpu_cores: Option<u32>,
    total_ram_gb: Option<f64>,
    total_disk_gb: Option<f64>,
    host_key_fingerprint: Option<String>,
    /// A host key that waits for approval, as an OpenSSH public key line.
    offered_host_key: Option<String>,
    offered_host_key_fingerprint: Option<String>,
    logins_today: u32,
    #[serde(flatten)]
    way: WayJson,
    #[schema(value_type = Object)]
    current: Figures,
    #[schema(value_type = String)]
    created_at: Timestamp,
    #[schema(value_type = String)]
    updated_at: Timestamp,
}

#[expect(clippy::cast_precision_loss, reason = "sizes in GiB are rounded to two decimals anyway")]
fn gib(bytes: u64) -> f64 {
    (bytes as f64 / GIB * 100.0).round() / 100.0
}

impl ServerJson {
    pub(super) fn of(state: &ServerState) -> Self {
        let server = &state.server;
        let ssh = server.ssh_host().is_some();
        let facts = state.facts.as_deref();
        let address_of_host = server.hostname.clone().filter(|host| host.parse::<std::net::IpAddr>().is_ok());
        let disk_bytes: u64 = state.filesystems.iter().map(|filesystem| filesystem.size_bytes).sum();
        let registered = |bytes: fn(&Pushing) -> Option<u64>| {
            state.push.as_ref().and_then(|pushing| bytes(pushing)).map(gib)
        };
        Self {
            id: server.id.to_string(),
            organization_id: server.organization.to_string(),
            name: server.name.to_string(),
            description: server.description.clone(),
            hostname: server.hostname.clone(),
            ip_address: address_of_host.or_else(|| facts.and_then(|facts| facts.addresses.first().cloned())),
            ssh_host: server.hostname.clone().filter(|_| ssh),
            transport: server.transport.to_string(),
            username: server.username.clone(),
            port: ssh.then(|| server.port.get()),
            api_url: state.http.as_ref().map(|source| source.url.to_string()),
            region: server.region.clone(),
            environment: server.environment.clone(),
            tags: server.tags.iter().map(ToString::to_string).collect(),
            metadata: server.metadata.clone(),
            status: server.status.to_string(),
            health_status: state.health.to_string(),
            health_reasons: state.health_reasons.clone(),
            reachability: state.reachability.clone(),
            last_seen_at: state.last_seen_at,
            last_health_check_at: state.last_health_check_at,
            version: state.push.as_ref().and_then(|pushing| pushing.agent_version.clone()),
            interval_ms: server.interval_ms,
            heavy_interval_ms: server.heavy_interval_ms,
            cadence: state.cadence,
            cpu_cores: facts.and_then(|facts| facts.cpu_cores),
            total_ram_gb: state
                .figures
                .memory_total_bytes
                .map(|bytes| (bytes / GIB * 100.0).round() / 100.0)
                .or_else(|| registered(|pushing| pushing.total_ram_bytes)),
            total_disk_gb: (disk_bytes > 0)
                .then(|| gib(disk_bytes))
                .or_else(|| registered(|pushing| pushing.total_disk_bytes)),
            host_key_fingerprint: state.host_key.as_ref().map(|key| key.fingerprint.clone()),
            offered_host_key: state.offered_host_key.as_ref().map(|key| key.line.clone()),
            offered_host_key_fingerprint: state.offered_host_key.as_ref().map(|key| key.fingerprint.clone()),
            logins_today: state.logins_today,
            way: WayJson::of(state),
            current: (*state.figures).clone(),
            created_at: server.created_at,
            updated_at: server.updated_at,
        }
    }
}

/// A server to be enrolled, or all that is said of one.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerInput {
    /// Made from the address when it is missing.
    name: Option<String>,
    /// Name or address.
    #[serde(alias = "host", alias = "ssh_host")]
    hostname: Option<String>,
    /// `ssh`, `push` for a server that reports by itself, `http` for one whose API is asked (also where api_url is given).
    transport: Option<String>,
    /// `https://host[:port][/path]`: what stands before /health and /api/v1/metrics/current.
    api_url: Option<String>,
    /// What the API asks for; kept, sealed.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    api_token: Option<Option<Secret<String>>>,
    /// Authorities in PEM, in place of the system's.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    api_ca: Option<Option<String>>,
    /// SHA-256 of the only certificate that is taken.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    api_pin: Option<Option<String>>,
    /// 22 by default.
    #[serde(alias = "ssh_port")]
    port: Option<i64>,
    /// `root` by default.
    #[serde(alias = "ssh_user")]
    username: Option<String>,
    #[serde(default)]
    description: String,
    region: Option<String>,
    environment: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[schema(value_type = Option<String>)]
    status: Option<Status>,
    /// Time between two readings, 1,000 to 3,600,000 ms.
    interval_ms: Option<u64>,
    /// Time between two readings of the heavy sections, 1,000 to 3,600,000 ms; `null` is the default.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    heavy_interval_ms: Option<Option<u64>>,
    /// `default`, or the id or name of a kept key, or the path that one was imported from.
    #[serde(alias = "ssh_key_path")]
    identity: Option<String>,
    /// A private key to keep and use.
    #[schema(value_type = Option<String>)]
    private_key: Option<Secret<String>>,
    #[schema(value_type = Option<String>)]
    passphrase: Option<Secret<String>>,
    /// Where the private key came from, for people.
    source_path: Option<String>,
    /// Used once to install Roundsman's key, then forgotten; with the login method `password` it is kept, sealed.
    #[schema(value_type = Option<String>)]
    password: Option<Secret<String>>,
    /// key (also where it is missing), agent or password.
    #[schema(value_type = Option<String>)]
    login_method: Option<LoginMethod>,
    /// Public line or SHA-256 fingerprint of a key that the ssh-agent holds now.
    agent_key: Option<String>,
    /// Name or id of the enrolled server over which this one is reached.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    jump_host: Option<Option<String>>,
    /// `socks5://user:password@host:port` or `http://…`; the password is kept, sealed.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    proxy: Option<Option<Secret<String>>>,
    /// The limit of each step of connecting, 1,000 to 120,000; 10,000 by default.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    connect_timeout_ms: Option<Option<u64>>,
    /// The second identity, for actions, logs, files and the terminal; the first then only reads.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<ActionLoginInput>)]
    action_login: Option<Option<ActionLoginInput>>,
    /// What sudo asks for; kept, sealed.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    sudo_password: Option<Option<Secret<String>>>,
    /// The approved host key as an OpenSSH public key line.
    host_key: Option<String>,
    /// Approve whatever host key the server shows now.
    #[serde(default)]
    accept_new: bool,
    /// Store the server even if it cannot be reached now.
    #[serde(default)]
    unchecked: bool,
    /// known_hosts lines to match a new host key against.
    known_hosts: Option<String>,
}

impl ServerInput {
    pub(super) fn new_server(self) -> Result<NewServer, Failure> {
        match self.transport.as_deref() {
            None | Some("ssh") => {}
            Some("local") => {
                return Err(Failure::invalid("the local machine is enrolled by itself at the first start"));
            }
            Some(other) => {
                return Err(Failure::invalid(format!(
                    "transport '{other}' cannot be enrolled here; use ssh, push or http"
                )));
            }
        }
        let hostname = self
            .hostname
            .ok_or_else(|| Failure::invalid("hostname is missing: the name or address of the server"))?;
        let identification = identification(
            self.login_method,
            self.identity,
            self.private_key,
            self.password,
            self.agent_key,
        )?;
        let identification = match identification {
            Identification::PrivateKey { text, .. } => Identification::PrivateKey {
                text,
                passphrase: self.passphrase,
                source_path: self.source_path,
            },
            other => other,
        };
        Ok(NewServer {
            name: self.name,
            hostname,
            port: self.port,
            username: self.username,
            description: self.description,
            region: self.region,
            environment: self.environment,
            tags: self.tags,
            metadata: self.metadata,
            status: self.status,
            interval_ms: self.interval_ms,
            heavy_interval_ms: self.heavy_interval_ms.flatten(),
            identification,
            jump_host: self.jump_host.flatten(),
            proxy: self.proxy.flatten(),
            connect_timeout_ms: self.connect_timeout_ms.flatten(),
            action_login: self.action_login.flatten().map(Into::into),
            sudo_password: self.sudo_password.flatten(),
            host_key: self.host_key,
            accept_new: self.accept_new,
            unchecked: self.unchecked,
            known_hosts: self.known_hosts,
        })
    }

    /// A server whose API is asked; with a user it has an SSH address for actions too.
    fn http_server(self) -> Result<NewHttpServer, Failure> {
        let api_url = self.api_url.ok_or_else(|| Failure::Field {
            field: "api_url".to_owned(),
            message: "api_url is missing: the https address of its API".to_owned(),
        })?;
        Ok(NewHttpServer {
            name: self.name,
            hostname: self.hostname,
            api_url,
            api_token: self.api_token.flatten(),
            api_ca: self.api_ca.flatten(),
            api_pin: self.api_pin.flatten(),
            port: self.port,
            username: self.username,
            description: self.description,
            region: self.region,
            environment: self.environment,
            tags: self.tags,
            metadata: self.metadata,
            status: self.status,
            interval_ms: self.interval_ms,
            unchecked: self.unchecked,
        })
    }

    /// A server that will report by itself; with a user it has an SSH address for actions too.
    fn registration(self) -> Registration {
        let ssh = self.hostname.clone().zip(self.username).map(|(host, username)| SshAddress {
            host,
            port: self.port,
            username: Some(username),
        });
        Registration {
            name: self.name,
            address: self.hostname,
            description: self.description,
            region: self.region,
            environment: self.environment,
            tags: self.tags,
            metadata: self.metadata,
            interval_ms: self.interval_ms,
            ssh,
            ..Registration::default()
        }
    }

    /// Everything that the caller may say of an enrolled server; what is left out is emptied, but for the way in, which
    /// stays as it is: who writes a new description does not mean to cut the server off.
    fn replacement(self) -> Result<ServerEdit, Failure> {
        let name = self.name.ok_or_else(|| Failure::invalid("name is missing; PUT replaces everything"))?;
        let kept_password = self.login_method == Some(LoginMethod::Password);
        if self.private_key.is_some()
            || self.host_key.is_some()
            || (self.password.is_some() && !kept_password)
        {
            return Err(Failure::invalid(
                "private_key, host_key and a password without login_method 'password' belong to enrolment; leave them out here",
            ));
        }
        Ok(ServerEdit {
            name: Some(name),
            description: Some(self.description),
            hostname: self.hostname,
            port: self.port,
            username: self.username,
            region: Some(self.region),
            environment: Some(self.environment),
            tags: Some(self.tags),
            metadata: Some(self.metadata),
            status: Some(self.status.unwrap_or(Status::Active)),
            interval_ms: self.interval_ms,
            heavy_interval_ms: self.heavy_interval_ms,
            login: LoginEdit {
                method: self.login_method,
                key: self.identity.map(|identity| key(Some(identity))),
                agent_key: self.agent_key,
                password: self.password,
            },
            way: WayEdit {
                jump: self.jump_host,
                proxy: self.proxy,
                connect_timeout_ms: self.connect_timeout_ms,
                action: self.action_login.map(|action| action.map(Into::into)),
                sudo_password: self.sudo_password,
            },
            http: HttpEdit { url: self.api_url, token: self.api_token, ca: self.api_ca, pin: self.api_pin },
        })
    }
}

/// How a new server is logged in to; what was given says it, or has to agree with the method that was named.
fn identification(
    method: Option<LoginMethod>,
    identity: Option<String>,
    private_key: Option<Secret<String>>,
    password: Option<Secret<String>>,
    agent_key: Option<String>,
) -> Result<Identification, Failure> {
    let ways = [private_key.is_some(), password.is_some(), identity.is_some(), agent_key.is_some()];
    if ways.iter().filter(|given| **given).count() > 1 {
        return Err(Failure::invalid("give only one of identity, private_key, password and agent_key"));
    }
    match (method, private_key, password, agent_key) {
        (Some(LoginMethod::Password), None, Some(password), None) if identity.is_none() => {
            Ok(Identification::Password(password))
        }
        (Some(LoginMethod::Password), ..) => {
            Err(Failure::invalid("the login method 'password' needs a password and nothing else"))
        }
        (Some(LoginMethod::Agent) | None, None, None, Some(key)) => Ok(Identification::Agent(key)),
        (Some(LoginMethod::Agent), ..) => Err(Failure::invalid(
            "the login method 'agent' needs agent_key: the public line or SHA256 fingerprint of a key that the agent holds",
        )),
        (Some(LoginMethod::Key), _, _, Some(_)) => {
            Err(Failure::invalid("agent_key belongs to the login method 'agent'"))
        }
        (_, Some(text), ..) => Ok(Identification::PrivateKey { text, passphrase: None, source_path: None }),
        (_, None, Some(password), _) => Ok(Identification::PasswordOnce(password)),
        (_, None, None, None) => {
            Ok(key(identity).map_or(Identification::DefaultKey, Identification::KeptKey))
        }
    }
}

/// Changes to a server; what is missing stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerPatch {
    name: Option<String>,
    description: Option<String>,
    hostname: Option<String>,
    port: Option<i64>,
    username: Option<String>,
    /// `null` empties it.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    region: Option<Option<String>>,
    /// `null` empties it.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    environment: Option<Option<String>>,
    tags: Option<Vec<String>>,
    metadata: Option<BTreeMap<String, String>>,
    #[schema(value_type = Option<String>)]
    status: Option<Status>,
    interval_ms: Option<u64>,
    /// 1,000 to 3,600,000; `null` is the default.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    heavy_interval_ms: Option<Option<u64>>,
    /// key, agent or password; where it is missing, what else is given says it.
    #[schema(value_type = Option<String>)]
    login_method: Option<LoginMethod>,
    /// `default` (or `null`), or the id or name of a kept key.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    identity: Option<Option<String>>,
    /// Public line or SHA-256 fingerprint of a key that the ssh-agent holds now.
    agent_key: Option<String>,
    /// Of the login method `password`; kept, sealed.
    #[schema(value_type = Option<String>)]
    password: Option<Secret<String>>,
    /// Name or id of an enrolled server; `null` removes it.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    jump_host: Option<Option<String>>,
    /// `null` removes it.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    proxy: Option<Option<Secret<String>>>,
    /// 1,000 to 120,000; `null` is the default.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    connect_timeout_ms: Option<Option<u64>>,
    /// The second identity; `null` removes it.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<ActionLoginInput>)]
    action_login: Option<Option<ActionLoginInput>>,
    /// `null` removes it.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    sudo_password: Option<Option<Secret<String>>>,
    /// Of an http server; another address needs the token once more.
    api_url: Option<String>,
    /// `null` removes it, as in the two that follow.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    api_token: Option<Option<Secret<String>>>,
    /// Authorities in PEM.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    api_ca: Option<Option<String>>,
    /// SHA-256 of the certificate.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    api_pin: Option<Option<String>>,
}

impl From<ServerPatch> for ServerEdit {
    fn from(patch: ServerPatch) -> Self {
        Self {
            name: patch.name,
            description: patch.description,
            hostname: patch.hostname,
            port: patch.port,
            username: patch.username,
            region: patch.region,
            environment: patch.environment,
            tags: patch.tags,
            metadata: patch.metadata,
            status: patch.status,
            interval_ms: patch.interval_ms,
            heavy_interval_ms: patch.heavy_interval_ms,
            login: LoginEdit {
                method: patch.login_method,
                key: patch.identity.map(key),
                agent_key: patch.agent_key,
                password: patch.password,
            },
            way: WayEdit {
                jump: patch.jump_host,
                proxy: patch.proxy,
                connect_timeout_ms: patch.connect_timeout_ms,
                action: patch.action_login.map(|action| action.map(Into::into)),
                sudo_password: patch.sudo_password,
            },
            http: HttpEdit {
                url: patch.api_url,
                token: patch.api_token,
                ca: patch.api_ca,
                pin: patch.api_pin,
            },
        }
    }
}

/// Approval of a host key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostKeyApproval {
    /// The line in `offered_host_key` of the server.
    host_key: String,
}

async fn list(request: Request, services: Services) -> Result<Response, Failure> {
    page(&request, chosen(&request, &services)?.iter().map(ServerJson::of).collect())
}

async fn add(request: Request, services: Services) -> Result<Response, Failure> {
    let input = request.json::<ServerInput>()?;
    if input.transport.as_deref() == Some("push") {
        let registered = services.fleet.add_push(request.caller()?, input.registration()).await?;
        return push::with_token(StatusCode::CREATED, &registered);
    }
    let state = if input.transport.as_deref() == Some("http")
        || (input.transport.is_none() && input.api_url.is_some())
    {
        services.fleet.add_http(request.caller()?, input.http_server()?).await?
    } else {
        services.fleet.add(request.caller()?, input.new_server()?).await?
    };
    json_reply(StatusCode::CREATED, &ServerJson::of(&state))
}

async fn get(request: Request, services: Services) -> Result<Response, Failure> {
    let state = services.fleet.get(request.caller()?, request.param(0))?;
    json_reply(StatusCode::OK, &ServerJson::of(&state))
}

async fn replace(request: Request, services: Services) -> Result<Response, Failure> {
    let edit = request.json::<ServerInput>()?.replacement()?;
    let state = services.fleet.edit(request.caller()?, request.param(0), edit).await?;
    json_reply(StatusCode::OK, &ServerJson::of(&state))
}

async fn patch(request: Request, services: Services) -> Result<Response, Failure> {
    let edit = request.json::<ServerPatch>()?.into();
    let state = services.fleet.edit(request.caller()?, request.param(0), edit).await?;
    json_reply(StatusCode::OK, &ServerJson::of(&state))
}

async fn remove(request: Request, services: Services) -> Result<Response, Failure> {
    services.fleet.remove(request.caller()?, request.param(0)).await?;
    Ok(no_content())
}

fn checked(done: &Checked) -> Result<Response, Failure> {
    let steps = done.steps.iter().chain(done.action_steps.iter().flatten());
    let ok = !steps.into_iter().any(|step| matches!(step.outcome, Outcome::Failed | Outcome::NeedsApproval));
    let answer = json!({
        "ok": ok, "steps": done.steps, "action_steps": done.action_steps, "host_key": done.seen,
    });
    json_reply(StatusCode::OK, &answer)
}

async fn test(request: Request, services: Services) -> Result<Response, Failure> {
    checked(&services.fleet.test(request.caller()?, request.param(0)).await?)
}

async fn preflight(request: Request, services: Services) -> Result<Response, Failure> {
    let new = request.json::<ServerInput>()?.new_server()?;
    checked(&services.fleet.preflight(request.caller()?, &new).await?)
}

async fn approve_host_key(request: Request, services: Services) -> Result<Response, Failure> {
    let HostKeyApproval { host_key } = request.json()?;
    let state = services.fleet.approve_host_key(request.caller()?, request.param(0), &host_key).await?;
    json_reply(StatusCode::OK, &ServerJson::of(&state))
}

async fn summary(request: Request, services: Services) -> Result<Response, Failure> {
    json_reply(StatusCode::OK, &services.fleet.summary(request.caller()?)?)
}
