//! A server as the API shows it.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::super::ways::WayJson;
use crate::fleet::{Cadence, Figures, ServerState};
use crate::model::{Reachability, Timestamp};
use crate::store::push::Pushing;

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

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
    pub(in crate::web::api) fn of(state: &ServerState) -> Self {
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
