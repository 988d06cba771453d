//! The charts of a server. The page says which metrics stand in which chart; the browser fetches them.

use askama::Template;

use crate::fleet::ServerState;
use crate::history::metric::{self, Unit};
use crate::model::Timestamp;

use super::super::{Chrome, Viewer};
use super::{Head, Tab};

/// The time ranges on offer: name in the address, words, length in seconds.
const RANGES: [(&str, &str, u32); 5] = [
    ("15m", "15 min", 900),
    ("1h", "1 h", 3600),
    ("6h", "6 h", 21_600),
    ("24h", "24 h", 86_400),
    ("7d", "7 d", 604_800),
];

/// The charts, in the order of the page: title and the metrics that share its axes (all of one unit).
const CHARTS: [(&str, &[&str]); 18] = [
    ("CPU", &["cpu_percent"]),
    ("CPU by mode", &["cpu_user_percent", "cpu_system_percent", "cpu_iowait_percent", "cpu_steal_percent"]),
    ("Memory", &["memory_percent", "swap_percent"]),
    ("Load", &["load1", "load5", "load15"]),
    ("Network", &["network_rx_bytes", "network_tx_bytes"]),
    ("Network by interface", &["interface_rx_bytes", "interface_tx_bytes"]),
    ("Disk", &["disk_read_bytes", "disk_written_bytes"]),
    ("Filesystems", &["filesystem_percent"]),
    ("Disk busy", &["disk_device_busy_percent"]),
    ("Pressure", &["pressure_cpu_percent", "pressure_memory_percent", "pressure_io_percent"]),
    ("CPU by core", &["core_percent"]),
    ("TCP sockets", &["tcp_established", "tcp_time_wait"]),
    ("Processes", &["processes", "threads"]),
    ("Waiting to run", &["processes_running", "processes_blocked"]),
    ("Context switches", &["context_switches"]),
    ("Temperature", &["temperature_celsius"]),
    ("Inodes", &["filesystem_inodes_percent"]),
    ("Time of a reading", &["response_time_ms"]),
];

/// `GET /servers/{name}/metrics`. The range is read from the address by the page's script.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/server_metrics.html")]
pub struct MetricsPage {
    pub chrome: Chrome,
    head: Head,
    server_id: String,
    /// Between two readings: a longer hole is a gap, not a line.
    interval_ms: u32,
    ranges: Vec<Range>,
    charts: Vec<Chart>,
}

#[derive(Debug, Clone)]
struct Range {
    name: &'static str,
    text: &'static str,
    seconds: u32,
}

#[derive(Debug, Clone)]
struct Chart {
    title: &'static str,
    unit: &'static str,
    /// `cpu_user_percent=CPU in user mode|…`
    metrics: String,
    /// Percent that cannot go over 100.
    is_share: bool,
}

impl MetricsPage {
    #[must_use]
    pub fn new(viewer: &Viewer, state: &ServerState, now: Timestamp) -> Self {
        Self {
            chrome: super::chrome(viewer, state, Tab::Metrics, now),
            head: Head::new(state, Tab::Metrics, now),
            server_id: state.server.id.to_string(),
            interval_ms: state.server.interval_ms,
            ranges: RANGES.into_iter().map(|(name, text, seconds)| Range { name, text, seconds }).collect(),
            charts: CHARTS.into_iter().filter_map(|(title, names)| Chart::new(title, names)).collect(),
        }
    }
}

impl Chart {
    fn new(title: &'static str, names: &[&str]) -> Option<Self> {
        let metrics: Vec<_> = names.iter().filter_map(|name| metric::find(name)).collect();
        let unit = metrics.first()?.unit;
        let described = metrics.iter().map(|metric| format!("{}={}", metric.name, metric.title));
        Some(Self {
            title,
            unit: unit.name(),
            metrics: described.collect::<Vec<_>>().join("|"),
            is_share: unit == Unit::Percent,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chart_names_metrics_of_the_catalogue_and_of_one_unit() {
        for (title, names) in CHARTS {
            let units: Vec<_> = names.iter().map(|name| metric::find(name).unwrap().unit).collect();
            assert!(units.windows(2).all(|pair| pair[0] == pair[1]), "{title}");
        }
    }
}
