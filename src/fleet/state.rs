//! What is known of a server now: the values that pages, API and command line show.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::cadence::Cadence;
use super::watched::WatchedHere;
use crate::model::{
    ApiHealth, Facts, Filesystem, Findings, Gap, Group, Health, HttpSource, InstalledAgent, Interface,
    LoggedInUser, ProbeKind, ProcessUsage, Reachability, Sample, Server, ServerName, Service, Status,
    TcpStates, Timestamp, Updates, WayIn,
};
use crate::ssh::HostKey;
use crate::store::push::Pushing;

/// Declares the figures once: the struct, how a sample sets one, and how one is read by name.
macro_rules! figures {
    ($($(#[$meta:meta])* $name:ident,)*) => {
        /// Current figures of one server, under the names of the metrics and of the API. None: unknown.
        #[derive(Debug, Clone, PartialEq, Default, Serialize)]
        pub struct Figures {
            $($(#[$meta])* pub $name: Option<f64>,)*
            /// Custom metrics that have one series, under their own names.
            #[serde(flatten, serialize_with = "members")]
            pub custom: Arc<BTreeMap<String, f64>>,
        }

        impl Figures {
            /// Forgets what every reading brings and takes in the samples of one; figures of sections that
            /// are read less often stay until they are read again.
            #[must_use]
            pub fn after(&self, samples: &[Sample]) -> Self {
                let mut next = Self {
                    active_services: self.active_services,
                    failed_services: self.failed_services,
                    total_services: self.total_services,
                    active_users: self.active_users,
                    clock_offset_seconds: self.clock_offset_seconds,
                    pending_updates: self.pending_updates,
                    pending_security_updates: self.pending_security_updates,
                    containers_running: self.containers_running,
                    custom: Arc::clone(&self.custom),
                    ..Self::default()
                };
                for sample in samples.iter().filter(|sample| sample.key.labels.is_empty()) {
                    match sample.key.metric.as_str() {
                        $(stringify!($name) => next.$name = Some(sample.value),)*
                        name if sample.key.metric.is_custom() => {
                            Arc::make_mut(&mut next.custom).insert(name.to_owned(), sample.value);
                        }
                        _ => {}
                    }
                }
                next
            }
        }
    };
}

figures! {
    cpu_percent,
    memory_percent,
    memory_used_bytes,
    memory_total_bytes,
    swap_percent,
    /// The fullest real filesystem.
    disk_percent,
    /// Bytes a second over all interfaces.
    network_rx_bytes,
    network_tx_bytes,
    disk_read_bytes,
    disk_written_bytes,
    load1,
    load5,
    load15,
    uptime_seconds,
    processes,
    active_services,
    failed_services,
    total_services,
    active_users,
    containers_running,
    /// Over 0: the server's clock is ahead of ours.
    clock_offset_seconds,
    pending_updates,
    pending_security_updates,
    response_time_ms,
}

fn members<S: Serializer>(custom: &Arc<BTreeMap<String, f64>>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(custom.iter())
}

/// A host key as a person compares it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostKeyView {
    /// The OpenSSH public key line.
    pub line: String,
    pub algorithm: String,
    /// `SHA256:…`, as ssh-keygen prints it.
    pub fingerprint: String,
}

impl HostKeyView {
    #[must_use]
    pub fn of(key: &HostKey) -> Self {
        Self { line: key.to_string(), algorithm: key.algorithm().to_owned(), fingerprint: key.fingerprint() }
    }
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
    /// TCP sockets by state, as they were last gone through. None: not yet, or too many.
    pub tcp_states: Option<TcpStates>,
    /// What cannot be seen on this server, and why.
    pub gaps: Arc<[Gap]>,
    /// Services that are watched by their processes.
    pub watched: Arc<[WatchedHere]>,
    /// Pending updates, as they were last asked for. None: not yet, or unknown.
    pub updates: Option<Arc<UpdateState>>,
    /// What a container may use of the CPU, in thousandths of a core. None: no limit.
    pub cpu_limit_x1000: Option<u64>,
    /// What a container may use of the memory. None: no limit.
    pub memory_limit_bytes: Option<u64>,
    /// SSH logins that this server saw from Roundsman since midnight UTC.
    pub logins_today: u32,
    pub way: Arc<WayIn>,
    /// The name of its jump host.
    pub jump: Option<ServerName>,
    /// Its groups, by name.
    pub groups: Vec<Arc<Group>>,
    /// What the last preflight found about the login for readings.
    pub findings: Arc<Findings>,
    /// Channels that the server allows at once, as far as that is known.
    pub channels_allowed: Option<usize>,
    /// The agent that was deployed there.
    pub agent: Option<Arc<InstalledAgent>>,
    /// What the last reading came from. None: there was none.
    pub probe: Option<ProbeKind>,
    /// Of a server that reports by itself.
    pub push: Option<Arc<Pushing>>,
    /// Of a server that is asked over HTTPS: where its API is.
    pub http: Option<Arc<HttpSource>>,
    /// What its API said of itself last.
    pub api: Option<Arc<ApiHealth>>,
    /// How often each part of it is read.
    pub cadence: Cadence,
    /// The approved host key.
    pub host_key: Option<HostKeyView>,
    /// A key that the server offered and nobody approved: a new server's, or a changed one.
    pub offered_host_key: Option<HostKeyView>,
    /// CPU percent of the last readings, oldest first, for the sparkline. None: a gap.
    pub cpu_recent: Vec<Option<f64>>,
    pub memory_recent: Vec<Option<f64>>,
}

/// Processes as they were last read.
#[derive(Debug, Clone, Serialize)]
pub struct ProcessTable {
    pub taken_at: Timestamp,
    pub total: usize,
    /// The largest by CPU and by memory.
    pub processes: Vec<ProcessUsage>,
}

/// Services as they were last read.
#[derive(Debug, Clone, Serialize)]
pub struct ServiceTable {
    pub taken_at: Timestamp,
    pub services: Vec<Service>,
}

/// Logged-in users as they were last read.
#[derive(Debug, Clone, Serialize)]
pub struct UserTable {
    pub taken_at: Timestamp,
    pub users: Vec<LoggedInUser>,
}

/// Pending updates as they were last asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UpdateState {
    pub taken_at: Timestamp,
    #[serde(flatten)]
    pub updates: Updates,
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
    pub regions: BTreeMap<String, u32>,
    pub environments: BTreeMap<String, u32>,
}

impl Summary {
    #[must_use]
    pub fn of(states: &[ServerState]) -> Self {
        Self::of_these(states.iter())
    }

    /// As [`Summary::of`], of servers that stand in several places.
    #[must_use]
    pub fn of_these<'a>(states: impl Iterator<Item = &'a ServerState> + Clone) -> Self {
        let mut summary = Self::default();
        for state in states.clone() {
            summary.total_servers += 1;
            *match state.server.status {
                Status::Active => &mut summary.active_servers,
                Status::Maintenance => &mut summary.maintenance_servers,
                Status::Inactive => &mut summary.inactive_servers,
            } += 1;
            *match state.health {
                Health::Healthy => &mut summary.healthy_servers,
                Health::Degraded => &mut summary.degraded_servers,
                Health::Critical => &mut summary.critical_servers,
                Health::Unreachable => &mut summary.unreachable_servers,
                Health::Unknown => &mut summary.unknown_servers,
            } += 1;
            if let Some(region) = &state.server.region {
                *summary.regions.entry(region.clone()).or_default() += 1;
            }
            if let Some(environment) = &state.server.environment {
                *summary.environments.entry(environment.clone()).or_default() += 1;
            }
        }
        summary.average_cpu_percent = average(states.clone(), |figures| figures.cpu_percent);
        summary.average_memory_percent = average(states.clone(), |figures| figures.memory_percent);
        summary.average_disk_percent = average(states, |figures| figures.disk_percent);
        summary
    }
}

fn average<'a>(
    states: impl Iterator<Item = &'a ServerState>,
    figure: impl Fn(&Figures) -> Option<f64>,
) -> Option<f64> {
    let (sum, count) = states
        .filter_map(|state| figure(&state.figures))
        .fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SeriesKey;

    #[test]
    fn figures_of_a_section_that_was_not_read_stay_and_the_others_go() {
        let sample = |metric, value| Sample { key: SeriesKey::plain(metric), value };
        let full = Figures::default().after(&[sample("cpu_percent", 5.0), sample("failed_services", 1.0)]);
        let next = full.after(&[sample("load1", 0.5)]);
        assert_eq!(next.cpu_percent, None);
        assert_eq!(next.failed_services, Some(1.0));
        assert_eq!(next.load1, Some(0.5));
    }
}
