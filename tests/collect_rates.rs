//! Two snapshots to samples: every metric, and every reason for a gap.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use proptest::prelude::*;
use roundsman::collect::rates::{self, ProcessTimes, processes, samples, top};
use roundsman::history::metric;
use roundsman::model::{
    Container, CpuCore, CpuTimes, Disk, Facts, Filesystem, Interface, LoadAverage, LoggedInUser, Memory,
    Pressure, Process, Sample, Service, Snapshot, TcpSockets, TcpStates, Temperature, Updates,
};
use rstest::rstest;

const GIB: u64 = 1 << 30;

fn times(user: u64, system: u64, idle: u64, iowait: u64) -> CpuTimes {
    CpuTimes {
        user_ticks: user,
        system_ticks: system,
        idle_ticks: idle,
        iowait_ticks: iowait,
        ..CpuTimes::default()
    }
}

/// A machine 1,000 s after its boot, with something of everything.
fn first() -> Snapshot {
    Snapshot {
        taken_at_ms: Some(1_700_000_000_000),
        boot_id: Some("a".to_owned()),
        uptime_ms: Some(1_000_000),
        ticks_per_second: Some(100),
        cpu: Some(times(1000, 500, 8000, 100)),
        cores: vec![CpuCore { index: 0, times: times(1000, 500, 8000, 100) }],
        load: Some(LoadAverage { one_x100: 150, five_x100: 75, fifteen_x100: 5 }),
        memory: Some(Memory {
            total_bytes: 8 * GIB,
            free_bytes: Some(GIB),
            available_bytes: Some(6 * GIB),
            buffers_bytes: Some(10),
            cached_bytes: Some(20),
            swap_total_bytes: Some(4 * GIB),
            swap_free_bytes: Some(3 * GIB),
            ..Memory::default()
        }),
        pressure: Some(Pressure {
            cpu_some_us: Some(1_000),
            memory_some_us: Some(0),
            memory_full_us: Some(0),
            io_some_us: Some(5_000),
            io_full_us: Some(1_000),
        }),
        filesystems: vec![
            Filesystem {
                mount: "/".to_owned(),
                size_bytes: 1000,
                used_bytes: 300,
                available_bytes: 600,
                inodes_total: Some(200),
                inodes_used: Some(50),
                ..Filesystem::default()
            },
            Filesystem {
                mount: "/var".to_owned(),
                size_bytes: 100,
                used_bytes: 90,
                available_bytes: 10,
                ..Filesystem::default()
            },
        ],
        disks: vec![
            Disk {
                name: "sda".to_owned(),
                read_bytes: 1000,
                written_bytes: 50,
                busy_ms: 10,
                ..Disk::default()
            },
            Disk { name: "sdb".to_owned(), ..Disk::default() },
        ],
        interfaces: vec![
            Interface {
                name: "eth0".to_owned(),
                rx_bytes: 100,
                tx_bytes: 200,
                rx_errors: 1,
                ..Interface::default()
            },
            Interface { name: "br0".to_owned(), counted_elsewhere: true, ..Interface::default() },
        ],
        tcp: Some(TcpSockets { established: Some(12), time_wait: Some(3), in_use: Some(20) }),
        tcp_states: Some(TcpStates { close_wait: 7, listen: 4, ..TcpStates::default() }),
        temperatures: vec![Temperature { sensor: "cpu".to_owned(), millidegrees_celsius: -1_500 }],
        context_switches: Some(100),
        forks: Some(10),
        processes_total: Some(60),
        threads_total: Some(90),
        processes_running: Some(2),
        processes_blocked: Some(0),
        file_handles_used: Some(400),
        file_handles_max: Some(1000),
        processes: Some(vec![process(1, 5, 0, 10), process(50, 100, 0, 300), process(51, 100, 0, 200)]),
        services: Some(vec![service("active"), service("active"), service("failed"), service("inactive")]),
        users: Some(vec![LoggedInUser::default()]),
        facts: Some(Facts { reboot_required: Some(true), ..Facts::default() }),
        updates: Some(Updates { manager: "apt".to_owned(), pending: Some(12), security: Some(3) }),
        ..Snapshot::default()
    }
}

/// The same machine two seconds later.
fn second() -> Snapshot {
    let mut next = first();
    next.taken_at_ms = Some(1_700_000_002_000);
    next.uptime_ms = Some(1_002_000);
    next.cpu = Some(times(1100, 550, 8200, 150));
    next.cores = vec![
        CpuCore { index: 0, times: times(1100, 550, 8200, 150) },
        CpuCore { index: 1, times: times(1, 1, 1, 1) },
    ];
    next.pressure = Some(Pressure {
        cpu_some_us: Some(201_000),
        memory_some_us: Some(0),
        memory_full_us: Some(0),
        io_some_us: Some(9_000_000),
        io_full_us: Some(501_000),
    });
    next.disks[0].read_bytes += 4096;
    next.disks[0].written_bytes += 2048;
    next.disks[0].busy_ms += 500;
    next.disks[1].read_bytes += 1024;
    next.interfaces[0].rx_bytes += 10_000;
    next.interfaces[0].tx_bytes += 3_000;
    next.interfaces[0].rx_errors += 1;
    next.interfaces[0].tx_errors += 2;
    next.interfaces[1].rx_bytes += 7_000;
    next.context_switches = Some(5_100);
    next.forks = Some(13);
    next.processes =
        Some(vec![process(1, 5, 10, 10), process(50, 100, 250, 300), process(51, 9_999, 20, 900)]);
    next
}

fn process(pid: u32, start_ticks: u64, user_ticks: u64, rss_bytes: u64) -> Process {
    Process { pid, start_ticks, user_ticks, rss_bytes, state: 'S', ..Process::default() }
}

fn service(state: &str) -> Service {
    Service { state: state.to_owned(), ..Service::default() }
}

fn value(samples: &[Sample], name: &str, label: &str) -> Option<f64> {
    let wanted = |sample: &&Sample| sample.key.metric.as_str() == name && sample.key.labels.as_str() == label;
    let found: Vec<_> = samples.iter().filter(wanted).collect();
    assert!(found.len() < 2, "{name} {label} twice");
    found.first().map(|sample| sample.value)
}

fn between(change: impl FnOnce(&mut Snapshot)) -> Vec<Sample> {
    let mut next = second();
    change(&mut next);
    samples(Some(&first()), &next)
}

#[rstest]
#[case("cpu_percent", "", 37.5)]
#[case("cpu_user_percent", "", 25.0)]
#[case("cpu_system_percent", "", 12.5)]
#[case("cpu_iowait_percent", "", 12.5)]
#[case("cpu_nice_percent", "", 0.0)]
#[case("cpu_irq_percent", "", 0.0)]
#[case("cpu_steal_percent", "", 0.0)]
#[case("core_percent", "0", 37.5)]
#[case("load1", "", 1.5)]
#[case("load5", "", 0.75)]
#[case("load15", "", 0.05)]
#[case("memory_percent", "", 25.0)]
#[case("memory_used_bytes", "", 2_147_483_648.0)]
#[case("memory_available_bytes", "", 6_442_450_944.0)]
#[case("memory_total_bytes", "", 8_589_934_592.0)]
#[case("memory_buffers_bytes", "", 10.0)]
#[case("memory_cached_bytes", "", 20.0)]
#[case("swap_percent", "", 25.0)]
#[case("swap_used_bytes", "", 1_073_741_824.0)]
#[case("swap_total_bytes", "", 4_294_967_296.0)]
#[case("pressure_cpu_percent", "", 10.0)]
#[case("pressure_memory_percent", "", 0.0)]
#[case("pressure_io_percent", "", 100.0)]
#[case("pressure_memory_full_percent", "", 0.0)]
#[case("pressure_io_full_percent", "", 25.0)]
#[case("disk_percent", "", 90.0)]
#[case("filesystem_percent", "/", 100.0 / 3.0)]
#[case("filesystem_percent", "/var", 90.0)]
#[case("filesystem_used_bytes", "/", 300.0)]
#[case("filesystem_size_bytes", "/", 1000.0)]
#[case("filesystem_inodes_percent", "/", 25.0)]
#[case("disk_read_bytes", "", 2560.0)]
#[case("disk_written_bytes", "", 1024.0)]
#[case("disk_device_read_bytes", "sda", 2048.0)]
#[case("disk_device_written_bytes", "sda", 1024.0)]
#[case("disk_device_busy_percent", "sda", 25.0)]
#[case("network_rx_bytes", "", 5000.0)]
#[case("network_tx_bytes", "", 1500.0)]
#[case("interface_rx_bytes", "br0", 3500.0)]
#[case("interface_tx_bytes", "eth0", 1500.0)]
#[case("interface_errors", "eth0", 1.5)]
#[case("tcp_established", "", 12.0)]
#[case("tcp_time_wait", "", 3.0)]
#[case("tcp_in_use", "", 20.0)]
#[case("tcp_close_wait", "", 7.0)]
#[case("tcp_listen", "", 4.0)]
#[case("tcp_closing", "", 0.0)]
#[case("reboot_required", "", 1.0)]
#[case("temperature_celsius", "cpu", -1.5)]
#[case("uptime_seconds", "", 1002.0)]
#[case("processes", "", 60.0)]
#[case("threads", "", 90.0)]
#[case("processes_running", "", 2.0)]
#[case("processes_blocked", "", 0.0)]
#[case("context_switches", "", 2500.0)]
#[case("forks", "", 1.5)]
#[case("file_handles_used", "", 400.0)]
#[case("active_users", "", 1.0)]
#[case("active_services", "", 2.0)]
#[case("failed_services", "", 1.0)]
#[case("total_services", "", 4.0)]
fn each_metric_has_its_value(#[case] name: &str, #[case] label: &str, #[case] expected: f64) {
    assert_eq!(value(&between(|_| {}), name, label), Some(expected));
}

#[test]
fn every_metric_of_the_catalogue_is_told_but_the_response_time() {
    // Containers are told apart from the rest, as they are read less often.
    let all = [between(|_| {}), container_samples()].concat();
    let missing: Vec<_> = metric::CATALOGUE
        .iter()
        .filter(|metric| !all.iter().any(|sample| sample.key.metric.as_str() == metric.name))
        .map(|metric| metric.name)
        .collect();
    // The clock and the time only the one who asked can know, and components the API of an http server.
    let elsewhere =
        ["clock_offset_seconds", "component_up", "component_response_time_ms", "response_time_ms"];
    assert_eq!(missing, elsewhere);
}

fn container_samples() -> Vec<Sample> {
    let at = |uptime_ms: u64, counter: u64| Snapshot {
        boot_id: Some("one".to_owned()),
        uptime_ms: Some(uptime_ms),
        containers: Some(vec![Container {
            id: "c".repeat(64),
            name: "web".to_owned(),
            state: "running".to_owned(),
            cpu_us: Some(counter * 15_000_000),
            memory_bytes: Some(4096),
            rx_bytes: Some(counter * 1000),
            tx_bytes: Some(counter * 2000),
            block_read_bytes: Some(counter * 3000),
            block_written_bytes: Some(counter * 4000),
            restarts: Some(2),
            started_ms: Some(5),
            ..Container::default()
        }]),
        ..Snapshot::default()
    };
    let previous = rates::ContainerCounts::of(&at(1000, 1)).unwrap();
    let usages = rates::containers(Some(&previous), &at(11_000, 2)).unwrap();
    let restarted = rates::containers(Some(&previous), &at(11_000, 0)).unwrap();
    assert_eq!((restarted[0].cpu_percent, restarted[0].rx_per_second), (None, None));
    let rebooted = Snapshot { boot_id: Some("two".to_owned()), ..at(11_000, 2) };
    assert_eq!(rates::containers(Some(&previous), &rebooted).unwrap()[0].cpu_percent, None);
    rates::container_samples(&usages)
}

#[rstest]
#[case("container_cpu_percent", "web", 150.0)]
#[case("container_memory_bytes", "web", 4096.0)]
#[case("container_rx_bytes", "web", 100.0)]
#[case("container_tx_bytes", "web", 200.0)]
#[case("container_block_read_bytes", "web", 300.0)]
#[case("container_block_written_bytes", "web", 400.0)]
#[case("container_restarts", "web", 2.0)]
#[case("containers_running", "", 1.0)]
fn each_metric_of_containers_has_its_value(#[case] name: &str, #[case] label: &str, #[case] expected: f64) {
    assert_eq!(value(&container_samples(), name, label), Some(expected));
}

/// Names of the samples that need two readings.
const RATES: &[&str] = &[
    "cpu_percent",
    "core_percent",
    "pressure_cpu_percent",
    "disk_read_bytes",
    "disk_device_busy_percent",
    "network_rx_bytes",
    "interface_rx_bytes",
    "context_switches",
    "forks",
];

fn no_rates(all: &[Sample]) -> bool {
    !all.iter().any(|sample| RATES.contains(&sample.key.metric.as_str()))
}

#[test]
fn a_first_reading_has_no_rates() {
    let all = samples(None, &second());
    assert!(no_rates(&all));
    assert_eq!(value(&all, "load1", ""), Some(1.5));
}

#[rstest]
#[case::other_boot(|next: &mut Snapshot| next.boot_id = Some("b".to_owned()))]
#[case::boot_unknown_now(|next: &mut Snapshot| next.boot_id = None)]
#[case::clock_backwards(|next: &mut Snapshot| next.uptime_ms = Some(999_999))]
#[case::uptime_unknown(|next: &mut Snapshot| next.uptime_ms = None)]
#[case::too_soon(|next: &mut Snapshot| next.uptime_ms = Some(1_000_199))]
#[case::same_reading(|next: &mut Snapshot| next.uptime_ms = Some(1_000_000))]
fn without_a_true_interval_there_are_no_rates(#[case] change: fn(&mut Snapshot)) {
    assert!(no_rates(&between(change)));
}

#[test]
fn two_hundred_milliseconds_are_an_interval() {
    let all = between(|next| next.uptime_ms = Some(1_000_200));
    assert_eq!(value(&all, "context_switches", ""), Some(25_000.0));
}

#[test]
fn a_counter_that_ran_backwards_is_a_gap() {
    let all = between(|next| {
        next.context_switches = Some(5);
        next.cpu.as_mut().unwrap().iowait_ticks = 99;
        next.disks[1].read_bytes = 0;
        next.disks[0].read_bytes = 999;
        next.pressure.as_mut().unwrap().io_some_us = Some(0);
    });
    for name in
        ["context_switches", "cpu_percent", "cpu_user_percent", "disk_read_bytes", "pressure_io_percent"]
    {
        assert_eq!(value(&all, name, ""), None, "{name}");
    }
    assert_eq!(value(&all, "disk_device_read_bytes", "sda"), None);
    assert_eq!(value(&all, "disk_device_read_bytes", "sdb"), Some(0.0));
    assert_eq!(value(&all, "disk_written_bytes", ""), Some(1024.0));
    assert_eq!(value(&all, "core_percent", "0"), Some(37.5));
}

#[test]
fn a_wrapped_32_bit_counter_is_a_gap() {
    let mut before = first();
    before.interfaces[0].rx_bytes = u64::from(u32::MAX) - 10;
    let mut next = second();
    next.interfaces[0].rx_bytes = 500;
    let all = samples(Some(&before), &next);
    assert_eq!(value(&all, "interface_rx_bytes", "eth0"), None);
    assert_eq!(value(&all, "network_rx_bytes", ""), None);
    assert_eq!(value(&all, "network_tx_bytes", ""), Some(1500.0));
}

#[test]
fn an_interface_made_anew_is_a_gap_in_all_its_counters() {
    let mut before = first();
    before.interfaces[0].rx_packets = 1000;
    let mut next = second();
    next.interfaces[0].rx_packets = 3;
    let all = samples(Some(&before), &next);
    for name in ["interface_rx_bytes", "interface_tx_bytes", "interface_errors"] {
        assert_eq!(value(&all, name, "eth0"), None, "{name}");
    }
}

#[test]
fn what_is_new_adds_nothing_to_a_total_yet() {
    let all = between(|next| {
        next.interfaces.push(Interface { name: "eth1".to_owned(), rx_bytes: GIB, ..Interface::default() });
        next.disks.push(Disk { name: "sdc".to_owned(), read_bytes: GIB, ..Disk::default() });
    });
    assert_eq!(value(&all, "network_rx_bytes", ""), Some(5000.0));
    assert_eq!(value(&all, "disk_read_bytes", ""), Some(2560.0));
    assert_eq!(value(&all, "interface_rx_bytes", "eth1"), None);
    assert_eq!(value(&all, "core_percent", "1"), None);
}

#[test]
fn what_is_unknown_is_no_sample() {
    let all = samples(Some(&Snapshot::default()), &Snapshot::default());
    assert_eq!(all, []);
    let mut next = second();
    next.memory = Some(Memory { total_bytes: GIB, ..Memory::default() });
    next.services = None;
    let all = samples(None, &next);
    for name in ["memory_percent", "memory_used_bytes", "swap_percent", "swap_total_bytes", "active_services"]
    {
        assert_eq!(value(&all, name, ""), None, "{name}");
    }
}

#[test]
fn the_zfs_cache_counts_as_available() {
    let all = between(|next| next.memory.as_mut().unwrap().zfs_arc_bytes = Some(GIB));
    assert_eq!(value(&all, "memory_used_bytes", ""), Some(1_073_741_824.0));
    let all = between(|next| next.memory.as_mut().unwrap().zfs_arc_bytes = Some(u64::MAX));
    assert_eq!(value(&all, "memory_percent", ""), Some(0.0));
}

#[test]
fn a_container_is_judged_by_its_limit() {
    let all = between(|next| {
        let memory = next.memory.as_mut().unwrap();
        memory.limit_bytes = Some(2 * GIB);
        memory.available_bytes = Some(GIB / 2);
        memory.zfs_arc_bytes = Some(GIB);
    });
    assert_eq!(value(&all, "memory_total_bytes", ""), Some(2_147_483_648.0));
    assert_eq!(value(&all, "memory_percent", ""), Some(75.0));
}

#[test]
fn a_machine_without_swap_has_no_share_of_it() {
    let all = between(|next| {
        let memory = next.memory.as_mut().unwrap();
        (memory.swap_total_bytes, memory.swap_free_bytes) = (Some(0), Some(0));
    });
    assert_eq!(value(&all, "swap_percent", ""), None);
    assert_eq!(value(&all, "swap_used_bytes", ""), Some(0.0));
}

#[test]
fn processes_are_told_apart_by_their_start() {
    let all = processes(ProcessTimes::of(&first()).as_ref(), &mut second());
    let told: Vec<_> = all.iter().map(|usage| (usage.process.pid, usage.cpu_percent)).collect();
    assert_eq!(told, [(50, Some(125.0)), (1, Some(5.0)), (51, None)]);
    assert_eq!(all[0].started_at_ms, Some(1_700_000_002_000 - 1_002_000 + 1_000));
}

#[test]
fn processes_of_another_boot_have_no_cpu_figure() {
    let mut before = first();
    before.boot_id = Some("earlier".to_owned());
    let all = processes(ProcessTimes::of(&before).as_ref(), &mut second());
    assert!(all.iter().all(|usage| usage.cpu_percent.is_none()));
    let by_memory: Vec<_> = all.iter().map(|usage| usage.process.pid).collect();
    assert_eq!(by_memory, [51, 50, 1]);
    assert!(processes(None, &mut Snapshot::default()).is_empty());
}

#[test]
fn a_process_whose_counter_ran_backwards_has_no_figure() {
    let mut next = second();
    let mut before = first();
    before.processes.as_mut().unwrap()[1].user_ticks = 1000;
    next.ticks_per_second = Some(0);
    let all = processes(ProcessTimes::of(&before).as_ref(), &mut next);
    assert_eq!(all.iter().find(|usage| usage.process.pid == 50).unwrap().cpu_percent, None);
}

#[test]
fn the_top_is_the_busiest_and_the_largest() {
    let all = processes(ProcessTimes::of(&first()).as_ref(), &mut second());
    let pids = |n: usize| -> Vec<u32> { top(all.clone(), n).iter().map(|usage| usage.process.pid).collect() };
    assert_eq!(pids(0), [] as [u32; 0]);
    assert_eq!(pids(1), [50, 51]);
    assert_eq!(pids(2), [50, 1, 51]);
    assert_eq!(pids(99), [50, 1, 51]);
}

#[test]
fn the_top_keeps_the_ancestors_of_what_it_keeps() {
    let process = |pid: u32, parent_pid: u32, rss_bytes: u64| Process {
        pid,
        parent_pid,
        rss_bytes,
        ..Process::default()
    };
    // 40 is the largest; 8 and 9 say to be each other's parents.
    let list =
        vec![process(1, 0, 1), process(20, 1, 2), process(40, 20, 99), process(8, 9, 3), process(9, 8, 4)];
    let snapshot = Snapshot { processes: Some(list), ..Snapshot::default() };
    let mut kept: Vec<u32> =
        top(processes(None, &mut snapshot.clone()), 1).iter().map(|usage| usage.process.pid).collect();
    kept.sort_unstable();
    assert_eq!(kept, [1, 20, 40]);
    assert_eq!(top(processes(None, &mut snapshot.clone()), 2).len(), 5, "a circle ends");
}

#[test]
fn a_container_with_a_cpu_limit_is_judged_against_it() {
    let limited = |mut snapshot: Snapshot, used_us: u64, limit: Option<u64>| {
        (snapshot.cgroup_cpu_us, snapshot.cpu_limit_x1000) = (Some(used_us), limit);
        snapshot
    };
    let percent = |old: &Snapshot, new: &Snapshot| {
        let all = samples(Some(old), new);
        all.iter().find(|sample| sample.key.metric.as_str() == "cpu_percent").map(|sample| sample.value)
    };
    // Half a core, of which it used a quarter of a second in two.
    let old = limited(first(), 1_000_000, Some(500));
    assert_eq!(percent(&old, &limited(second(), 1_250_000, Some(500))), Some(25.0));
    assert_eq!(percent(&old, &limited(second(), 999_999_999, Some(500))), Some(100.0));
    assert_eq!(
        percent(&old, &limited(second(), 999, Some(500))),
        None,
        "a counter that ran backwards is a gap"
    );
    assert_eq!(
        percent(&old, &limited(second(), 1_250_000, Some(1000))),
        None,
        "the limit changed in between"
    );
    let host = percent(&first(), &second());
    assert_eq!(percent(&limited(first(), 1, None), &limited(second(), 2, None)), host);
}

proptest! {
    /// Whatever a server claims, a share is a share and no sample is infinite or negative.
    #[test]
    fn no_claim_makes_a_senseless_sample(old in any::<[u64; 12]>(), new in any::<[u64; 12]>(), small in any::<bool>()) {
        let fold = |numbers: [u64; 12]| numbers.map(|number| if small { number % 5000 } else { number });
        let all = samples(Some(&claim(fold(old))), &claim(fold(new)));
        for sample in &all {
            prop_assert!(sample.value.is_finite() && sample.value >= 0.0, "{:?}", sample);
            let known = metric::find(sample.key.metric.as_str()).unwrap();
            prop_assert!(known.unit != metric::Unit::Percent || sample.value <= 100.0, "{:?}", sample);
        }
        for usage in processes(ProcessTimes::of(&claim(fold(old))).as_ref(), &mut claim(fold(new))) {
            prop_assert!(usage.cpu_percent.is_none_or(|percent| percent.is_finite() && percent >= 0.0));
        }
    }
}

fn claim(n: [u64; 12]) -> Snapshot {
    let mut claimed = first();
    claimed.uptime_ms = Some(n[0]);
    claimed.cpu = Some(times(n[1], n[2], n[3], n[4]));
    claimed.memory = Some(Memory {
        total_bytes: n[5],
        available_bytes: Some(n[6]),
        swap_total_bytes: Some(n[7]),
        swap_free_bytes: Some(n[8]),
        zfs_arc_bytes: Some(n[9]),
        ..Memory::default()
    });
    claimed.pressure = Some(Pressure { io_some_us: Some(n[10]), ..Pressure::default() });
    claimed.filesystems[0].used_bytes = n[11];
    claimed.filesystems[0].available_bytes = n[1];
    claimed.disks[0] = Disk { name: "sda".to_owned(), read_bytes: n[2], busy_ms: n[3], ..Disk::default() };
    claimed.interfaces[0].rx_bytes = n[4];
    claimed.interfaces[0].tx_errors = n[5];
    claimed.temperatures.clear();
    claimed.processes = Some(vec![process(1, 1, n[6], n[7])]);
    claimed
}
