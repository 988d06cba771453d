//! The catalogue of built-in metrics: name, unit, label, scale.
//!
//! A value is stored as the integer `round(value * scale)`. A metric that is not in the catalogue is a
//! custom one and is stored as a float.

/// What a value counts, for axes and tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// 0 to 100.
    Percent,
    Bytes,
    BytesPerSecond,
    PerSecond,
    Count,
    Seconds,
    Milliseconds,
    Celsius,
    /// A plain number (load average).
    Number,
}

impl Unit {
    /// As the API spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Percent => "percent",
            Self::Bytes => "bytes",
            Self::BytesPerSecond => "bytes_per_second",
            Self::PerSecond => "per_second",
            Self::Count => "count",
            Self::Seconds => "seconds",
            Self::Milliseconds => "milliseconds",
            Self::Celsius => "celsius",
            Self::Number => "number",
        }
    }
}

/// One built-in metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    /// For a person, as the title of a chart.
    pub title: &'static str,
    pub unit: Unit,
    /// Name of the label that tells its series apart; None: one series a server.
    pub label: Option<&'static str>,
    /// Stored integers a unit.
    pub scale: u32,
}

const fn plain(name: &'static str, title: &'static str, unit: Unit, scale: u32) -> Metric {
    Metric { name, title, unit, label: None, scale }
}

const fn each(
    label: &'static str,
    name: &'static str,
    title: &'static str,
    unit: Unit,
    scale: u32,
) -> Metric {
    Metric { name, title, unit, label: Some(label), scale }
}

/// Every built-in metric, in the order of the pages.
pub const CATALOGUE: &[Metric] = &[
    plain("cpu_percent", "CPU", Unit::Percent, 100),
    plain("cpu_user_percent", "CPU in user mode", Unit::Percent, 100),
    plain("cpu_system_percent", "CPU in system mode", Unit::Percent, 100),
    plain("cpu_nice_percent", "CPU in nice mode", Unit::Percent, 100),
    plain("cpu_iowait_percent", "CPU waiting for I/O", Unit::Percent, 100),
    plain("cpu_irq_percent", "CPU in interrupts", Unit::Percent, 100),
    plain("cpu_steal_percent", "CPU stolen by the host", Unit::Percent, 100),
    each("core", "core_percent", "CPU by core", Unit::Percent, 100),
    plain("load1", "Load, 1 minute", Unit::Number, 100),
    plain("load5", "Load, 5 minutes", Unit::Number, 100),
    plain("load15", "Load, 15 minutes", Unit::Number, 100),
    // Used is total - available: what cannot be had without swapping.
    plain("memory_percent", "Memory used", Unit::Percent, 100),
    plain("memory_used_bytes", "Memory used", Unit::Bytes, 1),
    plain("memory_available_bytes", "Memory available", Unit::Bytes, 1),
    plain("memory_total_bytes", "Memory", Unit::Bytes, 1),
    plain("memory_buffers_bytes", "Memory in buffers", Unit::Bytes, 1),
    plain("memory_cached_bytes", "Memory in the page cache", Unit::Bytes, 1),
    plain("swap_percent", "Swap used", Unit::Percent, 100),
    plain("swap_used_bytes", "Swap used", Unit::Bytes, 1),
    plain("swap_total_bytes", "Swap", Unit::Bytes, 1),
    // Share of the time in which at least one task (some) or all tasks (full) waited.
    plain("pressure_cpu_percent", "Waiting for CPU", Unit::Percent, 100),
    plain("pressure_memory_percent", "Waiting for memory", Unit::Percent, 100),
    plain("pressure_io_percent", "Waiting for I/O", Unit::Percent, 100),
    plain("pressure_memory_full_percent", "All waiting for memory", Unit::Percent, 100),
    plain("pressure_io_full_percent", "All waiting for I/O", Unit::Percent, 100),
    // The fullest real filesystem: the one that runs out first.
    plain("disk_percent", "Fullest filesystem", Unit::Percent, 100),
    each("mount", "filesystem_percent", "Filesystem used", Unit::Percent, 100),
    each("mount", "filesystem_used_bytes", "Filesystem used", Unit::Bytes, 1),
    each("mount", "filesystem_size_bytes", "Filesystem size", Unit::Bytes, 1),
    each("mount", "filesystem_inodes_percent", "Inodes used", Unit::Percent, 100),
    plain("disk_read_bytes", "Disk reads", Unit::BytesPerSecond, 1),
    plain("disk_written_bytes", "Disk writes", Unit::BytesPerSecond, 1),
    each("disk", "disk_device_read_bytes", "Disk reads by disk", Unit::BytesPerSecond, 1),
    each("disk", "disk_device_written_bytes", "Disk writes by disk", Unit::BytesPerSecond, 1),
    each("disk", "disk_device_busy_percent", "Disk busy", Unit::Percent, 100),
    // All physical and virtual interfaces but loopback, bridges and veth pairs, so that nothing counts twice.
    plain("network_rx_bytes", "Network received", Unit::BytesPerSecond, 1),
    plain("network_tx_bytes", "Network sent", Unit::BytesPerSecond, 1),
    each("interface", "interface_rx_bytes", "Received by interface", Unit::BytesPerSecond, 1),
    each("interface", "interface_tx_bytes", "Sent by interface", Unit::BytesPerSecond, 1),
    each("interface", "interface_errors", "Errors by interface", Unit::PerSecond, 100),
    plain("tcp_established", "TCP connections", Unit::Count, 1),
    plain("tcp_time_wait", "TCP sockets in TIME-WAIT", Unit::Count, 1),
    plain("tcp_in_use", "TCP sockets in use", Unit::Count, 1),
    // Gone through with the heavy sections.
    plain("tcp_listen", "TCP sockets in LISTEN", Unit::Count, 1),
    plain("tcp_syn_sent", "TCP sockets in SYN-SENT", Unit::Count, 1),
    plain("tcp_syn_recv", "TCP sockets in SYN-RECV", Unit::Count, 1),
    plain("tcp_fin_wait1", "TCP sockets in FIN-WAIT-1", Unit::Count, 1),
    plain("tcp_fin_wait2", "TCP sockets in FIN-WAIT-2", Unit::Count, 1),
    // The other side has closed and the program here has not: what piles up here is a leak.
    plain("tcp_close_wait", "TCP sockets in CLOSE-WAIT", Unit::Count, 1),
    plain("tcp_last_ack", "TCP sockets in LAST-ACK", Unit::Count, 1),
    plain("tcp_closing", "TCP sockets in CLOSING", Unit::Count, 1),
    plain("tcp_close", "TCP sockets in CLOSE", Unit::Count, 1),
    each("sensor", "temperature_celsius", "Temperature", Unit::Celsius, 10),
    plain("uptime_seconds", "Uptime", Unit::Seconds, 1),
    plain("processes", "Processes", Unit::Count, 1),
    plain("threads", "Threads", Unit::Count, 1),
    plain("processes_running", "Processes running", Unit::Count, 1),
    plain("processes_blocked", "Processes waiting for I/O", Unit::Count, 1),
    plain("context_switches", "Context switches", Unit::PerSecond, 1),
    plain("forks", "Processes started", Unit::PerSecond, 100),
    plain("file_handles_used", "Open file handles", Unit::Count, 1),
    // 1: pending, 0: not. Read with the facts, and only where the system says.
    plain("reboot_required", "Reboot pending", Unit::Count, 1),
    // In the lists that the server has; read every hour, nothing is fetched.
    plain("pending_updates", "Updates pending", Unit::Count, 1),
    plain("pending_security_updates", "Security updates pending", Unit::Count, 1),
    // The server's clock against that of Roundsman; over 0: it is ahead.
    plain("clock_offset_seconds", "Clock offset", Unit::Seconds, 1000),
    plain("active_users", "Logged-in users", Unit::Count, 1),
    plain("active_services", "Services active", Unit::Count, 1),
    plain("failed_services", "Services failed", Unit::Count, 1),
    plain("total_services", "Services", Unit::Count, 1),
    plain("containers_running", "Containers running", Unit::Count, 1),
    // Of one core, so that two busy cores are 200, as container engines count.
    each("container", "container_cpu_percent", "CPU by container", Unit::Percent, 100),
    each("container", "container_memory_bytes", "Memory by container", Unit::Bytes, 1),
    each("container", "container_rx_bytes", "Received by container", Unit::BytesPerSecond, 1),
    each("container", "container_tx_bytes", "Sent by container", Unit::BytesPerSecond, 1),
    each("container", "container_block_read_bytes", "Disk reads by container", Unit::BytesPerSecond, 1),
    each("container", "container_block_written_bytes", "Disk writes by container", Unit::BytesPerSecond, 1),
    each("container", "container_restarts", "Restarts by container", Unit::Count, 1),
    // Of an http server: what its /health says of its parts. 1: well, 0.5: degraded, 0: critical, so that the average is
    // the share of the time in which it was up; no sample where it says no word that is known.
    each("component", "component_up", "Components up", Unit::Number, 100),
    each("component", "component_response_time_ms", "Answers of components", Unit::Milliseconds, 1),
    // Time from the request of a reading to its last byte, as the central server saw it.
    plain("response_time_ms", "Time of a reading", Unit::Milliseconds, 1),
];

/// The built-in metric of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Metric> {
    CATALOGUE.iter().find(|metric| metric.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_stands_in_the_catalogue_once() {
        for metric in CATALOGUE {
            assert_eq!(
                CATALOGUE.iter().filter(|other| other.name == metric.name).count(),
                1,
                "{}",
                metric.name
            );
        }
    }
}
