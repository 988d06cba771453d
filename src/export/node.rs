//! A server as if it ran node_exporter: its names, labels, units and types, from the last snapshot.
//!
//! Pure, and nothing is invented: what the snapshot does not know has no series. Counters are passed on raw, so a
//! restart of Roundsman resets nothing. Names: node_exporter 1.5 to 1.9, <https://github.com/prometheus/node_exporter>.

use super::exposition::{Family, Sink};
use crate::fleet::{RawReading, RawState};
use crate::model::{
    CpuTimes, Disk, Facts, Filesystem, Interface, Memory, Pressure, Service, ServiceManager, Snapshot,
    TcpStates,
};

/// Everything that is known of a server now.
#[derive(Debug, Clone, Copy)]
pub struct NodeView<'a> {
    pub reading: &'a RawReading,
    pub filesystems: &'a [Filesystem],
    /// None: not gone through, or too many.
    pub tcp_states: Option<&'a TcpStates>,
    pub facts: Option<&'a Facts>,
    /// None: not read, or not of systemd.
    pub services: Option<&'a [Service]>,
}

impl<'a> NodeView<'a> {
    #[must_use]
    pub fn of(state: &'a RawState) -> Self {
        Self {
            reading: &state.reading,
            filesystems: &state.filesystems,
            tcp_states: state.tcp_states.as_ref(),
            facts: state.facts.as_deref(),
            services: state.services.as_ref().map(|table| table.services.as_slice()),
        }
    }

    /// Gives every series to `sink`, family by family.
    pub fn write(&self, sink: &mut impl Sink) {
        let snapshot = &*self.reading.snapshot;
        cpu(snapshot, sink);
        kernel(snapshot, self.reading.boot_at_ms, sink);
        if let Some(memory) = &snapshot.memory {
            memory_bytes(memory, sink);
        }
        if let Some(pressure) = &snapshot.pressure {
            pressure_seconds(pressure, sink);
        }
        filesystems(self.filesystems, sink);
        disks(&snapshot.disks, sink);
        interfaces(&snapshot.interfaces, sink);
        sockets(snapshot, sink);
        tcp_states(self.tcp_states, sink);
        temperatures(snapshot, sink);
        if let Some(facts) = self.facts {
            of_facts(facts, sink);
        }
        let systemd = self.facts.is_some_and(|facts| facts.service_manager == ServiceManager::Systemd);
        if let Some(services) = self.services.filter(|_| systemd) {
            units(services, sink);
        }
        self.collectors(sink);
    }

    /// Which of node_exporter's collectors have something to say.
    fn collectors(&self, sink: &mut impl Sink) {
        const SUCCESS: Family = Family::gauge(
            "node_scrape_collector_success",
            "Whether Roundsman's last reading of the server had this part.",
        );
        let snapshot = &*self.reading.snapshot;
        let collectors = [
            ("cpu", !snapshot.cores.is_empty()),
            ("diskstats", !snapshot.disks.is_empty()),
            ("filefd", snapshot.file_handles_used.is_some()),
            ("filesystem", !self.filesystems.is_empty()),
            ("hwmon", !snapshot.temperatures.is_empty()),
            ("loadavg", snapshot.load.is_some()),
            ("meminfo", snapshot.memory.is_some()),
            ("netdev", !snapshot.interfaces.is_empty()),
            ("os", self.facts.is_some()),
            ("pressure", snapshot.pressure.is_some()),
            ("sockstat", snapshot.tcp.is_some()),
            ("stat", snapshot.cpu.is_some()),
            ("systemd", self.services.is_some()),
            ("tcpstat", self.tcp_states.is_some()),
            ("time", snapshot.taken_at_ms.is_some()),
            ("uname", self.facts.is_some()),
        ];
        for (collector, success) in collectors {
            sink.sample(&SUCCESS, &[("collector", collector)], f64::from(u8::from(success)));
        }
    }
}

/// Counters beyond 2^53 lose their last digits, as they do in Prometheus itself.
#[expect(clippy::cast_precision_loss, reason = "a sample of Prometheus is a double")]
const fn number(value: u64) -> f64 {
    value as f64
}

fn plain(sink: &mut impl Sink, family: Family, value: Option<f64>) {
    if let Some(value) = value {
        sink.sample(&family, &[], value);
    }
}

fn cpu(snapshot: &Snapshot, sink: &mut impl Sink) {
    const SECONDS: Family = Family::counter("node_cpu_seconds_total", "Seconds the CPUs spent in each mode.");
    let Some(ticks) = snapshot.ticks_per_second.filter(|ticks| *ticks > 0) else { return };
    let modes = |times: &CpuTimes| {
        [
            ("idle", times.idle_ticks),
            ("iowait", times.iowait_ticks),
            ("irq", times.irq_ticks),
            ("nice", times.nice_ticks),
            ("softirq", times.softirq_ticks),
            ("steal", times.steal_ticks),
            ("system", times.system_ticks),
            ("user", times.user_ticks),
        ]
    };
    for core in &snapshot.cores {
        let index = core.index.to_string();
        for (mode, count) in modes(&core.times) {
            sink.sample(&SECONDS, &[("cpu", &index), ("mode", mode)], number(count) / f64::from(ticks));
        }
    }
}

fn kernel(snapshot: &Snapshot, boot_at_ms: Option<u64>, sink: &mut impl Sink) {
    let seconds = |millis: u64| number(millis) / 1000.0;
    let load = |x100: u64| number(x100) / 100.0;
    let loads = snapshot.load.as_ref();
    let gauges = [
        (Family::gauge("node_load1", "1m load average."), loads.map(|l| load(l.one_x100))),
        (Family::gauge("node_load5", "5m load average."), loads.map(|l| load(l.five_x100))),
        (Family::gauge("node_load15", "15m load average."), loads.map(|l| load(l.fifteen_x100))),
        // node_exporter says whole seconds, as the kernel does.
        (
            Family::gauge("node_boot_time_seconds", "Node boot time, in unixtime."),
            boot_at_ms.map(|millis| number(millis / 1000)),
        ),
        (
            Family::gauge("node_time_seconds", "System time in seconds since epoch (1970)."),
            snapshot.taken_at_ms.map(seconds),
        ),
        (
            Family::gauge("node_procs_running", "Number of processes in runnable state."),
            snapshot.processes_running.map(number),
        ),
        (
            Family::gauge("node_procs_blocked", "Number of processes blocked waiting for I/O to complete."),
            snapshot.processes_blocked.map(number),
        ),
        (Family::gauge("node_processes_pids", "Number of PIDs"), snapshot.processes_total.map(number)),
        (
            Family::gauge("node_processes_threads", "Allocated threads in system"),
            snapshot.threads_total.map(number),
        ),
        (
            Family::gauge("node_filefd_allocated", "File descriptor statistics: allocated."),
            snapshot.file_handles_used.map(number),
        ),
        (
            Family::gauge("node_filefd_maximum", "File descriptor statistics: maximum."),
            snapshot.file_handles_max.map(number),
        ),
        (
            Family::counter("node_context_switches_total", "Total number of context switches."),
            snapshot.context_switches.map(number),
        ),
        (Family::counter("node_forks_total", "Total number of forks."), snapshot.forks.map(number)),
    ];
    for (family, value) in gauges {
        plain(sink, family, value);
    }
}

fn memory_bytes(memory: &Memory, sink: &mut impl Sink) {
    let fields = [
        (
            Family::gauge("node_memory_MemTotal_bytes", "Memory information field MemTotal_bytes."),
            Some(memory.total_bytes),
        ),
        (
            Family::gauge("node_memory_MemFree_bytes", "Memory information field MemFree_bytes."),
            memory.free_bytes,
        ),
        (
            Family::gauge("node_memory_MemAvailable_bytes", "Memory information field MemAvailable_bytes."),
            memory.available_bytes,
        ),
        (
            Family::gauge("node_memory_Buffers_bytes", "Memory information field Buffers_bytes."),
            memory.buffers_bytes,
        ),
        (
            Family::gauge("node_memory_Cached_bytes", "Memory information field Cached_bytes."),
            memory.cached_bytes,
        ),
        (
            Family::gauge("node_memory_SwapTotal_bytes", "Memory information field SwapTotal_bytes."),
            memory.swap_total_bytes,
        ),
        (
            Family::gauge("node_memory_SwapFree_bytes", "Memory information field SwapFree_bytes."),
            memory.swap_free_bytes,
        ),
        (Family::gauge("node_zfs_arc_size", "kstat.zfs.misc.arcstats.size"), memory.zfs_arc_bytes),
    ];
    for (family, value) in fields {
        plain(sink, family, value.map(number));
    }
}

fn pressure_seconds(pressure: &Pressure, sink: &mut impl Sink) {
    let fields = [
        (
            Family::counter(
                "node_pressure_cpu_waiting_seconds_total",
                "Total time in seconds that processes have waited for CPU time",
            ),
            pressure.cpu_some_us,
        ),
        (
            Family::counter(
                "node_pressure_io_waiting_seconds_total",
                "Total time in seconds that processes have waited due to IO congestion",
            ),
            pressure.io_some_us,
        ),
        (
            Family::counter(
                "node_pressure_io_stalled_seconds_total",
                "Total time in seconds no process could make progress due to IO congestion",
            ),
            pressure.io_full_us,
        ),
        (
            Family::counter(
                "node_pressure_memory_waiting_seconds_total",
                "Total time in seconds that processes have waited for memory",
            ),
            pressure.memory_some_us,
        ),
        (
            Family::counter(
                "node_pressure_memory_stalled_seconds_total",
                "Total time in seconds no process could make progress due to memory congestion",
            ),
            pressure.memory_full_us,
        ),
    ];
    for (family, value) in fields {
        plain(sink, family, value.map(|micros| number(micros) / 1e6));
    }
}

type Column<T> = (Family, fn(&T) -> Option<f64>);

fn columns<T>(
    sink: &mut impl Sink,
    rows: &[T],
    columns: &[Column<T>],
    labels: impl Fn(&T) -> Vec<(&str, &str)>,
) {
    for (family, value) in columns {
        for row in rows {
            if let Some(value) = value(row) {
                sink.sample(family, &labels(row), value);
            }
        }
    }
}

fn filesystems(found: &[Filesystem], sink: &mut impl Sink) {
    let all: [Column<Filesystem>; 5] = [
        (Family::gauge("node_filesystem_size_bytes", "Filesystem size in bytes."), |f| {
            Some(number(f.size_bytes))
        }),
        (Family::gauge("node_filesystem_free_bytes", "Filesystem free space in bytes."), |f| {
            f.size_bytes.checked_sub(f.used_bytes).map(number)
        }),
        (
            Family::gauge(
                "node_filesystem_avail_bytes",
                "Filesystem space available to non-root users in bytes.",
            ),
            |f| Some(number(f.available_bytes)),
        ),
        (Family::gauge("node_filesystem_files", "Filesystem total file nodes."), |f| {
            f.inodes_total.map(number)
        }),
        (Family::gauge("node_filesystem_files_free", "Filesystem total free file nodes."), |f| {
            f.inodes_total?.checked_sub(f.inodes_used?).map(number)
        }),
    ];
    columns(sink, found, &all, |f| {
        vec![("device", f.device.as_str()), ("fstype", f.fs_type.as_str()), ("mountpoint", f.mount.as_str())]
    });
}

fn disks(found: &[Disk], sink: &mut impl Sink) {
    let all: [Column<Disk>; 5] = [
        (
            Family::counter(
                "node_disk_reads_completed_total",
                "The total number of reads completed successfully.",
            ),
            |d| Some(number(d.reads)),
        ),
        (
            Family::counter("node_disk_read_bytes_total", "The total number of bytes read successfully."),
            |d| Some(number(d.read_bytes)),
        ),
        (
            Family::counter(
                "node_disk_writes_completed_total",
                "The total number of writes completed successfully.",
            ),
            |d| Some(number(d.writes)),
        ),
        (
            Family::counter(
                "node_disk_written_bytes_total",
                "The total number of bytes written successfully.",
            ),
            |d| Some(number(d.written_bytes)),
        ),
        (Family::counter("node_disk_io_time_seconds_total", "Total seconds spent doing I/Os."), |d| {
            Some(number(d.busy_ms) / 1000.0)
        }),
    ];
    columns(sink, found, &all, |d| vec![("device", d.name.as_str())]);
}

fn interfaces(found: &[Interface], sink: &mut impl Sink) {
    let all: [Column<Interface>; 8] = [
        (
            Family::counter("node_network_receive_bytes_total", "Network device statistic receive_bytes."),
            |i| Some(number(i.rx_bytes)),
        ),
        (
            Family::counter(
                "node_network_receive_packets_total",
                "Network device statistic receive_packets.",
            ),
            |i| Some(number(i.rx_packets)),
        ),
        (Family::counter("node_network_receive_errs_total", "Network device statistic receive_errs."), |i| {
            Some(number(i.rx_errors))
        }),
        (Family::counter("node_network_receive_drop_total", "Network device statistic receive_drop."), |i| {
            Some(number(i.rx_dropped))
        }),
        (
            Family::counter("node_network_transmit_bytes_total", "Network device statistic transmit_bytes."),
            |i| Some(number(i.tx_bytes)),
        ),
        (
            Family::counter(
                "node_network_transmit_packets_total",
                "Network device statistic transmit_packets.",
            ),
            |i| Some(number(i.tx_packets)),
        ),
        (
            Family::counter("node_network_transmit_errs_total", "Network device statistic transmit_errs."),
            |i| Some(number(i.tx_errors)),
        ),
        (
            Family::counter("node_network_transmit_drop_total", "Network device statistic transmit_drop."),
            |i| Some(number(i.tx_dropped)),
        ),
    ];
    columns(sink, found, &all, |i| vec![("device", i.name.as_str())]);
}

fn sockets(snapshot: &Snapshot, sink: &mut impl Sink) {
    let Some(tcp) = &snapshot.tcp else { return };
    let fields = [
        (Family::gauge("node_sockstat_TCP_inuse", "Number of TCP sockets in state inuse."), tcp.in_use),
        (Family::gauge("node_sockstat_TCP_tw", "Number of TCP sockets in state tw."), tcp.time_wait),
        (Family::gauge("node_netstat_Tcp_CurrEstab", "Statistic TcpCurrEstab."), tcp.established),
    ];
    for (family, value) in fields {
        plain(sink, family, value.map(number));
    }
}

/// As node_exporter's collector `tcpstat` does, which is off unless asked for.
fn tcp_states(states: Option<&TcpStates>, sink: &mut impl Sink) {
    const STATES: Family = Family::gauge("node_tcp_connection_states", "Number of connection states.");
    for (state, count) in states.into_iter().flat_map(TcpStates::named) {
        sink.sample(&STATES, &[("state", state)], number(count));
    }
}

/// A reading names a sensor `chip label` where it comes from hwmon, and by its type alone where it is a thermal zone.
fn temperatures(snapshot: &Snapshot, sink: &mut impl Sink) {
    const HWMON: Family =
        Family::gauge("node_hwmon_temp_celsius", "Hardware monitor for temperature (input)");
    const ZONE: Family = Family::gauge("node_thermal_zone_temp", "Zone temperature in Celsius");
    #[expect(clippy::cast_precision_loss, reason = "no sensor shows 2^53 millidegrees")]
    let celsius = |millidegrees: i64| millidegrees as f64 / 1000.0;
    for found in &snapshot.temperatures {
        if let Some((chip, sensor)) = found.sensor.split_once(' ') {
            let value = celsius(found.millidegrees_celsius);
            sink.sample(&HWMON, &[("chip", chip), ("sensor", sensor)], value);
        }
    }
    for found in snapshot.temperatures.iter().filter(|found| !found.sensor.contains(' ')) {
        sink.sample(&ZONE, &[("type", &found.sensor)], celsius(found.millidegrees_celsius));
    }
}

fn info(sink: &mut impl Sink, family: &Family, pairs: &[(&str, Option<&str>)]) {
    let known: Vec<(&str, &str)> =
        pairs.iter().filter_map(|(name, value)| Some((*name, (*value)?))).collect();
    if !known.is_empty() {
        sink.sample(family, &known, 1.0);
    }
}

fn of_facts(facts: &Facts, sink: &mut impl Sink) {
    const UNAME: Family =
        Family::gauge("node_uname_info", "Labeled system information as provided by the uname system call.");
    const OS: Family = Family::gauge(
        "node_os_info",
        "A metric with a constant '1' value labeled by id, pretty_name and version_id of os-release.",
    );
    const DMI: Family = Family::gauge(
        "node_dmi_info",
        "A metric with a constant '1' value labeled by product_name and system_vendor of DMI.",
    );
    let uname = [
        ("machine", facts.architecture.as_deref()),
        ("nodename", facts.hostname.as_deref()),
        ("release", facts.kernel.as_deref()),
    ];
    if uname.iter().any(|(_, value)| value.is_some()) {
        // Roundsman reads Linux only.
        info(sink, &UNAME, &[uname.as_slice(), &[("sysname", Some("Linux"))]].concat());
    }
    info(
        sink,
        &OS,
        &[
            ("id", facts.os_id.as_deref()),
            ("pretty_name", facts.os_name.as_deref()),
            ("version_id", facts.os_version.as_deref()),
        ],
    );
    info(
        sink,
        &DMI,
        &[
            ("product_name", facts.machine_model.as_deref()),
            ("system_vendor", facts.machine_vendor.as_deref()),
        ],
    );
}

/// The states that node_exporter's systemd collector knows.
const UNIT_STATES: [&str; 5] = ["activating", "active", "deactivating", "failed", "inactive"];

fn units(services: &[Service], sink: &mut impl Sink) {
    const STATE: Family = Family::gauge("node_systemd_unit_state", "Systemd unit");
    for service in services {
        let name = format!("{}.service", service.name);
        for state in UNIT_STATES {
            let value = f64::from(u8::from(service.state == state));
            sink.sample(&STATE, &[("name", &name), ("state", state)], value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::exposition::Text;
    use super::*;
    use crate::model::{CpuCore, LoadAverage, TcpSockets, Temperature, Timestamp};

    fn text(view: &NodeView<'_>) -> String {
        let mut text = Text::default();
        view.write(&mut text);
        text.finish()
    }

    fn reading(snapshot: Snapshot) -> RawReading {
        RawReading {
            at: Timestamp::from_millis(0),
            snapshot: Arc::new(snapshot),
            boot_at_ms: Some(1_700_000_000_900),
        }
    }

    #[test]
    fn series_have_the_names_labels_and_units_of_node_exporter() {
        let times = CpuTimes { user_ticks: 250, idle_ticks: 1000, ..CpuTimes::default() };
        let reading = reading(Snapshot {
            ticks_per_second: Some(100),
            taken_at_ms: Some(1_700_000_100_500),
            cores: vec![CpuCore { index: 3, times }],
            load: Some(LoadAverage { one_x100: 150, five_x100: 70, fifteen_x100: 5 }),
            memory: Some(Memory { total_bytes: 4096, free_bytes: Some(0), ..Memory::default() }),
            pressure: Some(Pressure { io_full_us: Some(1_500_000), ..Pressure::default() }),
            disks: vec![Disk { name: "sda".to_owned(), busy_ms: 2500, ..Disk::default() }],
            interfaces: vec![Interface { name: "eth0".to_owned(), rx_bytes: 7, ..Interface::default() }],
            tcp: Some(TcpSockets { established: Some(2), ..TcpSockets::default() }),
            temperatures: vec![
                Temperature { sensor: "coretemp Package id 0".to_owned(), millidegrees_celsius: 41_500 },
                Temperature { sensor: "acpitz".to_owned(), millidegrees_celsius: 27_000 },
            ],
            ..Snapshot::default()
        });
        let filesystems = [Filesystem {
            mount: "/var".to_owned(),
            device: "/dev/sda1".to_owned(),
            fs_type: "ext4".to_owned(),
            size_bytes: 100,
            used_bytes: 40,
            available_bytes: 50,
            inodes_total: None,
            inodes_used: None,
        }];
        let facts = Facts {
            hostname: Some("web-1".to_owned()),
            kernel: Some("6.1.0".to_owned()),
            service_manager: ServiceManager::Systemd,
            ..Facts::default()
        };
        let services = [Service { name: "ssh".to_owned(), state: "active".to_owned(), ..Service::default() }];
        let view = NodeView {
            reading: &reading,
            filesystems: &filesystems,
            tcp_states: Some(&TcpStates { close_wait: 4, ..TcpStates::default() }),
            facts: Some(&facts),
            services: Some(&services),
        };
        let text = text(&view);
        for line in [
            "node_cpu_seconds_total{cpu=\"3\",mode=\"user\"} 2.5",
            "# TYPE node_cpu_seconds_total counter",
            "node_load1 1.5",
            "node_boot_time_seconds 1700000000",
            "node_time_seconds 1700000100.5",
            "node_memory_MemTotal_bytes 4096",
            "node_memory_MemFree_bytes 0",
            "node_pressure_io_stalled_seconds_total 1.5",
            "node_filesystem_free_bytes{device=\"/dev/sda1\",fstype=\"ext4\",mountpoint=\"/var\"} 60",
            "node_disk_io_time_seconds_total{device=\"sda\"} 2.5",
            "node_network_receive_bytes_total{device=\"eth0\"} 7",
            "node_netstat_Tcp_CurrEstab 2",
            "node_tcp_connection_states{state=\"close_wait\"} 4",
            "node_tcp_connection_states{state=\"closing\"} 0",
            "node_hwmon_temp_celsius{chip=\"coretemp\",sensor=\"Package id 0\"} 41.5",
            "node_thermal_zone_temp{type=\"acpitz\"} 27",
            "node_uname_info{nodename=\"web-1\",release=\"6.1.0\",sysname=\"Linux\"} 1",
            "node_systemd_unit_state{name=\"ssh.service\",state=\"active\"} 1",
            "node_systemd_unit_state{name=\"ssh.service\",state=\"failed\"} 0",
            "node_scrape_collector_success{collector=\"filefd\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        for unknown in
            ["node_memory_MemAvailable", "node_filesystem_files", "node_sockstat_TCP_tw", "cpu_waiting"]
        {
            assert!(!text.contains(unknown), "{unknown} was invented:\n{text}");
        }
    }

    #[test]
    fn a_snapshot_that_knows_nothing_gives_no_values() {
        let reading = RawReading { boot_at_ms: None, ..reading(Snapshot::default()) };
        let view =
            NodeView { reading: &reading, filesystems: &[], tcp_states: None, facts: None, services: None };
        let text = text(&view);
        let mut values = text.lines().filter(|line| !line.starts_with('#'));
        assert!(
            values.all(|line| line.starts_with("node_scrape_collector_success") && line.ends_with(" 0")),
            "{text}"
        );
    }
}
