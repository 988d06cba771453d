//! One planned server through the door of enrolment, and the keys that come along.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::super::enrol::Enrolled;
use super::super::super::{Fleet, FleetError, Identification, NewServer, ServerState};
use super::super::{KnownServer, Login, Planned};
use super::{Brought, Import, ItemState};
use crate::model::{Caller, KeyId, Port, Secret};
use crate::ssh::{HostKey, known_hosts};

/// A server that is there, as a plan compares it.
pub(super) fn known(state: &ServerState) -> KnownServer {
    let server = &state.server;
    KnownServer {
        name: server.name.to_string(),
        hostname: server.hostname.clone(),
        port: server.port.get(),
        jump_host: state.jump.as_ref().map(ToString::to_string),
        proxy: state.way.proxy.as_ref().map(ToString::to_string),
    }
}

/// The known_hosts lines that speak of this server; where it has an alias, what they say of that. Hashed names cost an
/// HMAC for each line.
fn known_lines(text: &str, server: &Planned) -> String {
    let Some(alias) = &server.host_key_alias else {
        let host = server.hostname.trim_matches(['[', ']']);
        let port = Port::of(server.port.into()).unwrap_or(Port::SSH);
        return known_hosts::lines_about(text, host, port);
    };
    // With an alias the port is no part of the name (ssh_config(5), HostKeyAlias).
    let lines = known_hosts::lookup(text, alias, Port::SSH).into_iter().map(|known| {
        let marker = if known.revoked { "@revoked " } else { "" };
        format!("{marker}{} {}\n", name_in_file(server), known.key)
    });
    lines.collect()
}

fn name_in_file(server: &Planned) -> String {
    if server.port == Port::SSH.get() {
        server.hostname.clone()
    } else {
        format!("[{}]:{}", server.hostname, server.port)
    }
}

/// Whether the caller's known_hosts has this very key for the server.
fn is_known(new: &NewServer, line: &str) -> bool {
    let (Some(text), Ok(seen)) = (&new.known_hosts, HostKey::parse(line)) else { return false };
    let port = new.port.map_or(Ok(Port::SSH), Port::of).unwrap_or(Port::SSH);
    let known = known_hosts::lookup(text, &new.hostname, port);
    known.iter().any(|known| !known.revoked && known.key == seen)
        && !known.iter().any(|known| known.revoked && known.key == seen)
}

/// The server as enrolment takes it.
fn new_server(
    server: &Planned,
    identification: Identification,
    import: &Import,
    known_hosts: Option<String>,
) -> NewServer {
    NewServer {
        name: Some(server.name.clone()),
        hostname: server.hostname.clone(),
        port: Some(server.port.into()),
        username: server.username.clone(),
        description: server.description.clone(),
        region: server.region.clone(),
        environment: server.environment.clone(),
        tags: server.tags.clone(),
        metadata: server.metadata.clone(),
        status: None,
        interval_ms: server.interval_ms,
        heavy_interval_ms: None,
        identification,
        jump_host: server.jump_host.clone(),
        proxy: server.proxy.clone().map(Secret::new),
        connect_timeout_ms: server.connect_timeout_ms,
        action_login: None,
        sudo_password: None,
        host_key: None,
        accept_new: import.accept_new,
        unchecked: import.unchecked,
        known_hosts,
    }
}

impl Fleet {
    /// Keeps a key that came along, with its certificate.
    pub(super) async fn keep(&self, caller: &Caller, brought: &Brought) -> Result<KeyId, FleetError> {
        let path = Some(brought.source_path.clone());
        let opened = self.open_key(&brought.private_key, brought.passphrase.as_ref(), path).await?;
        let kept = self.keep_key(caller, opened).await?;
        if let Some(line) = &brought.certificate
            && kept.certificate.as_deref() != Some(line.trim())
        {
            self.attach_certificate(caller, &kept.id.to_string(), line).await?;
        }
        Ok(kept.id)
    }

    /// What the caller's known_hosts says of one server, looked for where it holds up no request.
    async fn lines_of(
        &self,
        known_hosts: Option<&Arc<str>>,
        server: &Planned,
    ) -> Result<Option<String>, FleetError> {
        let Some(text) = known_hosts.map(Arc::clone) else { return Ok(None) };
        let server = server.clone();
        super::super::super::known::aside(move || known_lines(&text, &server)).await.map(Some)
    }

    pub(super) async fn enrol_planned(
        &self,
        caller: &Caller,
        import: &Import,
        server: &Planned,
        keys: &HashMap<String, Result<KeyId, String>>,
    ) -> ItemState {
        let identification = match &server.login {
            Login::Default => Identification::DefaultKey,
            Login::Key(reference) => match keys.get(reference) {
                Some(Ok(id)) => Identification::KeptKey(id.to_string()),
                Some(Err(why)) => return ItemState::failed(format!("its key cannot be used: {why}")),
                None => Identification::KeptKey(reference.clone()),
            },
            Login::Agent(line) => Identification::Agent(line.clone()),
        };
        let known_hosts = match self.lines_of(import.known_hosts.as_ref(), server).await {
            Ok(lines) => lines,
            Err(error) => return ItemState::failed(error.to_string()),
        };
        let new = new_server(server, identification, import, known_hosts);
        // A key that known_hosts has is looked for before anything is stored unchecked.
        let first_look = NewServer { unchecked: new.unchecked && new.known_hosts.is_none(), ..new.clone() };
        let mut enrolled = self.enrol(caller, first_look).await;
        match &enrolled {
            Err(FleetError::HostKeyUnknown { seen, .. }) if is_known(&new, &seen.line) => {
                let approved = NewServer { host_key: Some(seen.line.clone()), ..new };
                enrolled = self.enrol(caller, approved).await;
            }
            Err(FleetError::HostKeyUnknown { .. } | FleetError::Preflight { .. }) if new.unchecked => {
                enrolled = self.enrol(caller, new).await;
            }
            _ => {}
        }
        match enrolled {
            Ok(Enrolled { state, was_reached: true }) => ItemState::Added { server_id: state.server.id },
            Ok(Enrolled { state, .. }) => ItemState::Unchecked { server_id: state.server.id },
            Err(FleetError::HostKeyUnknown { seen, .. }) => ItemState::Failed {
                message: format!(
                    "its host key {} {} is approved by nobody yet",
                    seen.algorithm, seen.fingerprint
                ),
                fingerprint: Some(seen.fingerprint),
            },
            Err(error) => ItemState::failed(error.to_string()),
        }
    }
}
