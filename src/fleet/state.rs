//! What is known of a server now: the values that pages, API and command line show.

use std::sync::Arc;

use serde::Serialize;

use crate::model::{Facts, Filesystem, Gap, Health, Interface, Reachability, Server, Timestamp};

/// Current figures of one server, under the names of the API. None: unknown.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Figures {
    pub cpu_percent: Option<f64>,
    pub memory_percent: Option<f64>,
    pub memory_used_bytes: Option<f64>,
    pub memory_total_bytes: Option<f64>,
    pub swap_percent: Option<f64>,
    /// The fullest real filesystem.
    pub disk_percent: Option<f64>,
    /// Bytes a second over all interfaces.
    pub network_rx_bytes: Option<f64>,
    pub network_tx_bytes: Option<f64>,
    pub disk_read_bytes: Option<f64>,
    pub disk_written_bytes: Option<f64>,
    pub load1: Option<f64>,
    pub load5: Option<f64>,
    pub load15: Option<f64>,
    pub uptime_seconds: Option<f64>,
    pub processes: Option<f64>,
    pub active_services: Option<f64>,
    pub failed_services: Option<f64>,
    pub total_services: Option<f64>,
    pub active_users: Option<f64>,
    pub response_time_ms: Option<f64>,
}

/// One server with all that is known of it now. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ServerState {
    pub server: Arc<Server>,
    pub health: Health,
    /// Why it is not healthy, a sentence each.
    pub health_reasons: Vec<String>,
    pub reachability: Reachability,
    /// Time of the last reading that arrived. None: never.
    pub last_seen_at: Option<Timestamp>,
    pub last_health_check_at: Option<Timestamp>,
    pub figures: Arc<Figures>,
    /// From the last reading that brought them.
    pub facts: Option<Arc<Facts>>,
    pub filesystems: Arc<[Filesystem]>,
    pub interfaces: Arc<[Interface]>,
    /// What cannot be seen on this server, and why.
    pub gaps: Arc<[Gap]>,
    /// SSH logins that this server saw from Roundsman since midnight UTC.
    pub logins_today: u32,
    /// CPU percent of the last readings, oldest first, for the sparkline. None: a gap.
    pub cpu_recent: Vec<Option<f64>>,
    pub memory_recent: Vec<Option<f64>>,
}

/// Counts over the servers that a caller may see.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Summary {
    pub total_servers: u32,
    pub active_servers: u32,
    pub maintenance_servers: u32,
    pub inactive_servers: u32,
    pub healthy_servers: u32,
    pub degraded_servers: u32,
    pub critical_servers: u32,
    pub unreachable_servers: u32,
    pub unknown_servers: u32,
    /// Averages over the servers with a current figure. None: no server has one.
    pub average_cpu_percent: Option<f64>,
    pub average_memory_percent: Option<f64>,
    pub average_disk_percent: Option<f64>,
    pub regions: std::collections::BTreeMap<String, u32>,
    pub environments: std::collections::BTreeMap<String, u32>,
}
