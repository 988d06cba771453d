//! What the API takes of a server: a new one, all that is said of one, or changes.
//!
//! The two bodies name many fields twice. Each refuses fields that it does not know, and a part that both share would take
//! that away (serde knows either `flatten` or `deny_unknown_fields`).

use std::collections::BTreeMap;

use serde::Deserialize;
use utoipa::ToSchema;

use super::super::super::error::Failure;
use super::super::ways::{ActionLoginInput, given, key};
use crate::fleet::{
    HttpEdit, Identification, LoginEdit, NewHttpServer, NewServer, Registration, ServerEdit, SshAddress,
    WayEdit,
};
use crate::model::{LoginMethod, Secret, Status};

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
    pub(super) transport: Option<String>,
    /// `https://host[:port][/path]`: what stands before /health and /api/v1/metrics/current.
    pub(super) api_url: Option<String>,
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
    pub(in crate::web::api) fn new_server(self) -> Result<NewServer, Failure> {
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
    pub(super) fn http_server(self) -> Result<NewHttpServer, Failure> {
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
    pub(super) fn registration(self) -> Registration {
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
    pub(super) fn replacement(self) -> Result<ServerEdit, Failure> {
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
