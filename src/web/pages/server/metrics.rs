//! The charts of a server. The page says which metrics stand in which chart; the browser fetches them.

use askama::Template;

use crate::fleet::{MetricRange, ServerState};
use crate::history::metric;
use crate::model::{MetricName, Timestamp};

use super::super::charts::{About, ChartQuery, ChartSet, ChartTable, Figure, Source};
use super::super::{Chrome, Viewer};
use super::{Head, Tab};

/// The charts, in the order of the page: title and the metrics that share its axes (all of one unit).
const CHARTS: [(&str, &[&str]); 32] = [
    ("CPU", &["cpu_percent"]),
    (
        "CPU by mode",
        &[
            "cpu_user_percent",
            "cpu_system_percent",
            "cpu_nice_percent",
            "cpu_iowait_percent",
            "cpu_irq_percent",
            "cpu_steal_percent",
        ],
    ),
    ("Memory", &["memory_percent", "swap_percent"]),
    (
        "Memory in use",
        &[
            "memory_used_bytes",
            "memory_available_bytes",
            "memory_buffers_bytes",
            "memory_cached_bytes",
            "swap_used_bytes",
        ],
    ),
    ("Load", &["load1", "load5", "load15"]),
    ("Network", &["network_rx_bytes", "network_tx_bytes"]),
    ("Network by interface", &["interface_rx_bytes", "interface_tx_bytes"]),
    ("Errors by interface", &["interface_errors"]),
    ("Disk", &["disk_read_bytes", "disk_written_bytes"]),
    ("Disk by disk", &["disk_device_read_bytes", "disk_device_written_bytes"]),
    ("Filesystems", &["filesystem_percent"]),
    ("Disk busy", &["disk_device_busy_percent"]),
    (
        "Pressure",
        &[
            "pressure_cpu_percent",
            "pressure_memory_percent",
            "pressure_io_percent",
            "pressure_memory_full_percent",
            "pressure_io_full_percent",
        ],
    ),
    ("CPU by core", &["core_percent"]),
    ("TCP sockets", &["tcp_established", "tcp_time_wait", "tcp_in_use"]),
    ("TCP sockets by state", &["tcp_close_wait", "tcp_listen", "tcp_syn_recv", "tcp_syn_sent"]),
    (
        "TCP sockets being closed",
        &["tcp_fin_wait1", "tcp_fin_wait2", "tcp_last_ack", "tcp_closing", "tcp_close"],
    ),
    ("Processes", &["processes", "threads"]),
    ("Waiting to run", &["processes_running", "processes_blocked"]),
    ("Context switches", &["context_switches"]),
    ("Processes started", &["forks"]),
    ("Open file handles", &["file_handles_used"]),
    ("Temperature", &["temperature_celsius"]),
    ("Inodes", &["filesystem_inodes_percent"]),
    ("Logged-in users", &["active_users"]),
    ("Services", &["active_services", "failed_services", "total_services"]),
    ("Updates pending", &["pending_updates", "pending_security_updates"]),
    ("Reboot pending", &["reboot_required"]),
    ("Clock offset", &["clock_offset_seconds"]),
    ("Uptime", &["uptime_seconds"]),
    ("Containers running", &["containers_running"]),
    ("Time of a reading", &["response_time_ms"]),
];
/// Of servers with an API that tells of its components.
const COMPONENT_CHARTS: [(&str, &[&str]); 2] = [
    ("Components: 1 up, 0.5 degraded, 0 down", &["component_up"]),
    ("Answers of components", &["component_response_time_ms"]),
];
/// Custom metrics that have a chart of their own; more are reached through the API and `/charts`.
const CUSTOM_CHARTS: usize = 24;

/// `GET /servers/{name}/metrics`. The view is read from the address by the page's script.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/server_metrics.html")]
pub struct MetricsPage {
    pub chrome: Chrome,
    head: Head,
    set: ChartSet,
}

impl MetricsPage {
    /// `names`: metrics that the server has history of. `known_servers`: to compare with. `found`: the history of the
    /// range, only for the view as tables.
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        state: &ServerState,
        query: &ChartQuery,
        names: &[MetricName],
        known_servers: Vec<String>,
        found: &[MetricRange],
        now: Timestamp,
    ) -> Self {
        let own = state.server.name.to_string();
        let mut servers = vec![own.clone()];
        servers.extend(query.servers.iter().filter(|name| **name != own).cloned());
        let about = About {
            place: &own,
            servers: &servers,
            own: Some(&own),
            known_servers: known_servers.into_iter().filter(|name| !servers.contains(name)).collect(),
            figures: figures(names),
        };
        let mut set = ChartSet::new(query, about, now);
        let span = query.span(now);
        set.set_tables(|figure| ChartTable::new(figure, found, span));
        Self {
            chrome: super::chrome(viewer, state, Tab::Metrics, now),
            head: Head::new(state, Tab::Metrics, now),
            set,
        }
    }
}

/// The charts of the catalogue, those of components where there are any, and one for each custom metric.
#[must_use]
pub fn figures(names: &[MetricName]) -> Vec<Figure> {
    let custom = names.iter().filter(|name| metric::find(name.as_str()).is_none()).take(CUSTOM_CHARTS);
    let known = |metrics: &[&str]| names.iter().any(|name| metrics.contains(&name.as_str()));
    CHARTS
        .into_iter()
        .chain(COMPONENT_CHARTS.into_iter().filter(|(_, metrics)| known(metrics)))
        .filter_map(|(title, metrics)| Figure::new(title, metrics, Source::Servers))
        .chain(custom.filter_map(|name| Figure::new(name.as_str(), &[name.as_str()], Source::Servers)))
        .collect()
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

    #[test]
    fn every_metric_that_every_server_may_have_is_in_a_chart() {
        let all = || CHARTS.iter().chain(&COMPONENT_CHARTS);
        let charted = |name: &str| all().any(|(_, names)| names.contains(&name));
        // Sizes that hardly change, of which the share is charted; the fullest filesystem is one of those charted;
        // containers have charts beside their table.
        let left_out = [
            "memory_total_bytes",
            "swap_total_bytes",
            "filesystem_used_bytes",
            "filesystem_size_bytes",
            "disk_percent",
        ];
        let missing: Vec<&str> = metric::CATALOGUE
            .iter()
            .map(|metric| metric.name)
            .filter(|name| !charted(name) && !left_out.contains(name) && !name.starts_with("container_"))
            .collect();
        assert_eq!(missing, [""; 0]);
    }

    #[test]
    fn a_custom_metric_has_a_chart_of_its_own() {
        let custom = [MetricName::custom("llm_cost_usd".to_owned()), MetricName::known("cpu_percent")];
        assert_eq!(figures(&custom).len(), CHARTS.len() + 1);
    }

    #[test]
    fn all_charts_of_a_page_are_one_question() {
        let custom = (0..=CUSTOM_CHARTS).map(|number| MetricName::custom(format!("custom_{number}")));
        let component = COMPONENT_CHARTS.iter().flat_map(|(_, names)| names.iter().copied());
        let names: Vec<MetricName> = component.map(MetricName::known).chain(custom).collect();
        let asked = figures(&names).iter().flat_map(Figure::metric_names).count();
        assert!(asked <= crate::fleet::METRICS_A_QUERY, "{asked}");
    }

    #[test]
    fn components_have_charts_on_the_servers_that_have_components() {
        let names = [MetricName::known("component_up"), MetricName::known("response_time_ms")];
        assert_eq!(figures(&names).len(), CHARTS.len() + 1);
        assert_eq!(figures(&names[1..]).len(), CHARTS.len());
    }
}
