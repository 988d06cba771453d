//! The parsers and the local reader against file trees of machines, each with its own traps.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use roundsman_agent::proc::{
    cpu, disks, facts, kernel, memory, mounts, network, process, sensors, services, users,
};
use roundsman_agent::{
    Process, Sections, ServiceManager, Snapshot, TcpStates, json, limits, local::Reader, text,
};

fn root(machine: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/proc").join(machine)
}

fn file(machine: &str, path: &str) -> Vec<u8> {
    std::fs::read(root(machine).join(path)).unwrap()
}

fn read(machine: &str) -> Snapshot {
    Reader::new(&root(machine)).read(Sections::DETAILS)
}

fn of(snapshot: &Snapshot, pid: u32) -> Process {
    snapshot.processes.iter().flatten().find(|process| process.pid == pid).unwrap().clone()
}

fn reason(snapshot: &Snapshot, section: &str) -> Option<String> {
    snapshot.gaps.iter().find(|gap| gap.section == section).map(|gap| gap.reason.clone())
}

fn chosen(machine: &str) -> Vec<String> {
    let table = mounts::mountinfo(&file(machine, "proc/self/mountinfo"));
    mounts::choose(&table).into_iter().map(|mount| mount.path).collect()
}

#[test]
fn debian_12_is_read_whole() {
    let snapshot = read("debian-12");
    assert_eq!(snapshot.boot_id.as_deref(), Some("7f8946dd-91fe-4686-9da8-c7bd802171b9"));
    let cpu = snapshot.cpu.clone().unwrap();
    assert_eq!(
        (cpu.user_ticks, cpu.nice_ticks, cpu.system_ticks, cpu.idle_ticks),
        (42_563, 169, 17_521, 326_356)
    );
    assert_eq!((cpu.iowait_ticks, cpu.irq_ticks, cpu.softirq_ticks, cpu.steal_ticks), (1_965, 0, 237, 65));
    assert_eq!(snapshot.cores.len(), 2);
    assert_eq!(snapshot.context_switches, Some(1_485_886));
    assert_eq!(snapshot.memory.clone().unwrap().total_bytes, 24_684_092 * 1024);
    assert!(snapshot.pressure.clone().unwrap().cpu_some_us.is_some());
    assert_eq!(snapshot.disks.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>(), ["vda"]);
    let names: Vec<_> =
        snapshot.interfaces.iter().map(|one| (one.name.as_str(), one.counted_elsewhere)).collect();
    assert_eq!(names, [("ifb0", true), ("ifb1", true), ("eth0", false)]);
    let sockets = TcpStates {
        listen: 3,
        established: 1,
        close_wait: 2,
        time_wait: 1,
        syn_sent: 1,
        syn_recv: 1,
        fin_wait2: 1,
        last_ack: 1,
        ..TcpStates::default()
    };
    assert_eq!(snapshot.tcp_states, Some(sockets));
    assert_eq!(snapshot.processes_total, Some(5));
    assert!(snapshot.taken_at_ms.is_some());
}

#[test]
fn debian_12_facts_are_told() {
    let facts = read("debian-12").facts.unwrap();
    assert_eq!(facts.hostname.as_deref(), Some("web-1"));
    assert_eq!(facts.os_name.as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
    assert_eq!((facts.os_id.as_deref(), facts.os_version.as_deref()), (Some("debian"), Some("12")));
    assert_eq!(facts.kernel.as_deref(), Some("6.1.0-28-amd64"));
    assert_eq!(facts.cpu_model.as_deref(), Some("Intel(R) Xeon(R) Gold 6138 CPU @ 2.00GHz"));
    assert_eq!(facts.cpu_cores, Some(2));
    assert_eq!((facts.virtualisation.as_deref(), facts.in_container), (Some("qemu"), Some(false)));
    assert_eq!(facts.service_manager, ServiceManager::Systemd);
    assert_eq!(facts.addresses, ["10.0.0.5", "2001:db8::5"]);
    assert_eq!(facts.machine_vendor.as_deref(), Some("QEMU"));
    assert_eq!(facts.reboot_required, Some(true));
    assert_eq!(facts.timezone.as_deref(), Some("Europe/Paris"));
}

#[test]
fn accounts_that_may_log_in_are_told_apart() {
    let accounts = read("debian-12").facts.unwrap().accounts;
    let rows: Vec<_> = accounts
        .iter()
        .map(|one| (one.name.as_str(), one.uid, one.is_administrator, one.shell.as_str()))
        .collect();
    assert_eq!(
        rows,
        [("root", 0, true, "/bin/bash"), ("mario", 1000, true, "/bin/bash"), ("toor", 0, true, "/bin/sh")]
    );
    assert_eq!((accounts[1].full_name.as_deref(), accounts[1].home.as_str()), (Some("Mario"), "/home/mario"));
}

#[test]
fn cpu_use_and_limit_of_a_container_are_read_in_both_versions_of_cgroups() {
    let cpu = kernel::CgroupCpu::default();
    let v2 = |max: &'static [u8]| {
        kernel::cgroup_cpu(&kernel::CgroupCpu {
            stat: Some(b"usage_usec 1234567\nuser_usec 1\n"),
            max: Some(max),
            ..cpu
        })
    };
    assert_eq!(v2(b"150000 100000\n"), (Some(1_234_567), Some(1500)));
    assert_eq!(v2(b"max 100000\n"), (Some(1_234_567), None));
    assert_eq!(v2(b"99 0\n"), (Some(1_234_567), None));
    let v1 = |quota: &'static [u8]| {
        kernel::cgroup_cpu(&kernel::CgroupCpu {
            usage: Some(b"5000000\n"),
            quota: Some(quota),
            period: Some(b"100000\n"),
            ..cpu
        })
    };
    assert_eq!(v1(b"50000\n"), (Some(5000), Some(500)));
    assert_eq!(v1(b"-1\n"), (None, None), "without a limit this may be the host itself");
    assert_eq!(kernel::cgroup_cpu(&cpu), (None, None));
    let stat_of_a_host = kernel::CgroupCpu { stat: Some(b"usage_usec 7\n"), ..cpu };
    assert_eq!(kernel::cgroup_cpu(&stat_of_a_host), (None, None));
}

#[test]
fn names_of_processes_may_hold_anything() {
    let snapshot = read("debian-12");
    let odd = of(&snapshot, 702);
    assert_eq!((odd.name.as_str(), odd.state, odd.parent_pid), ("a) R 1 (b c", 'S', 1));
    assert_eq!(odd.command_line.as_deref(), Some("/opt/odd name --flag=a b"));
    let red = of(&snapshot, 703);
    assert_eq!((red.name.as_str(), red.state), ("\u{fffd}\u{fffd}red", 'R'));
    assert!(!red.command_line.unwrap().contains('\u{1b}'));
    let nginx = of(&snapshot, 601);
    assert_eq!(nginx.command_line.as_deref(), Some("nginx: worker process"));
    assert_eq!((nginx.uid, nginx.user.as_deref()), (Some(33), Some("www-data")));
    assert_eq!((nginx.user_ticks, nginx.system_ticks, nginx.threads, nginx.start_ticks), (5, 7, 1, 2501));
    assert_eq!(nginx.rss_bytes % 1800, 0);
    assert_eq!(of(&snapshot, 2).command_line, None);
    assert_eq!(of(&snapshot, 1).user.as_deref(), Some("root"));
}

#[test]
fn only_sessions_of_people_count_as_logins() {
    let users = read("debian-12").users.unwrap();
    assert_eq!(users.len(), 1);
    assert_eq!((users[0].name.as_str(), users[0].terminal.as_deref()), ("mario", Some("pts/0")));
    assert_eq!(users[0].remote_host.as_deref(), Some("10.0.0.9"));
    assert_eq!(users[0].since_ms, Some(1_795_213_100_123));
}

#[test]
fn utmp_is_read_where_logind_is_missing() {
    let users = read("rocky-8").users.unwrap();
    let names: Vec<_> = users.iter().map(|user| (user.name.as_str(), user.terminal.as_deref())).collect();
    assert_eq!(names, [("alice", Some("pts/0")), ("root", Some("tty1"))]);
    assert_eq!(users[0].remote_host.as_deref(), Some("198.51.100.7"));
    assert_eq!(users[0].since_ms, Some(1_700_000_500_000));
    assert_eq!(users[1].remote_host, None);
}

#[test]
fn a_wide_utmp_record_is_told_by_its_size() {
    let mut record = vec![0_u8; 400];
    record[0] = 7;
    record[8..13].copy_from_slice(b"pts/3");
    record[44..47].copy_from_slice(b"bob");
    record[344..352].copy_from_slice(&1_700_000_000_u64.to_le_bytes());
    let users = users::utmp(&record);
    assert_eq!(users.len(), 1);
    assert_eq!((users[0].name.as_str(), users[0].since_ms), ("bob", Some(1_700_000_000_000)));
}

#[test]
fn systemd_services_are_read_from_systemctl_show() {
    let services = services::systemctl_show(&file("debian-12", "systemctl-show.txt"), Some(1_000_000));
    let names: Vec<_> = services.iter().map(|one| (one.name.as_str(), one.state.as_str())).collect();
    let expected =
        [("nginx", "active"), ("backup", "failed"), ("getty@tty1", "inactive"), ("apparmor", "inactive")];
    assert_eq!(names, expected);
    let nginx = &services[0];
    assert_eq!((nginx.main_pid, nginx.memory_bytes, nginx.restarts), (Some(601), Some(15_204_352), Some(2)));
    assert_eq!((nginx.sub_state.as_str(), nginx.enabled.as_deref()), ("running", Some("enabled")));
    assert_eq!(nginx.since_ms, Some(1_025_010));
    let backup = &services[1];
    assert_eq!(
        (backup.description.as_str(), backup.main_pid, backup.memory_bytes),
        ("Nightly backup", None, None)
    );
    assert_eq!((services[2].since_ms, services[2].memory_bytes), (None, None));
    assert_eq!(services[3].enabled.as_deref(), Some("masked"));
}

#[test]
fn alpine_is_read_without_systemd() {
    let snapshot = read("alpine-3.20");
    let facts = snapshot.facts.clone().unwrap();
    assert_eq!(facts.service_manager, ServiceManager::OpenRc);
    assert_eq!(facts.machine_model.as_deref(), Some("linux,dummy-virt"));
    assert_eq!((facts.reboot_required, facts.cpu_cores), (None, Some(1)));
    assert_eq!((snapshot.services.as_deref(), reason(&snapshot, "services")), (Some(&[][..]), None));
    assert_eq!(snapshot.users, None);
    assert!(reason(&snapshot, "users").is_some());
    assert_eq!(snapshot.pressure, None);
    assert_eq!(snapshot.uptime_ms, Some(8_445_630));
    let tcp = snapshot.tcp.clone().unwrap();
    assert_eq!((tcp.established, tcp.time_wait, tcp.in_use), (Some(3), Some(2), Some(7)));
    assert_eq!(snapshot.disks.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>(), ["vda"]);
    assert_eq!((snapshot.disks[0].read_bytes, snapshot.disks[0].busy_ms), (400_000 * 512, 1200));
    assert_eq!(snapshot.temperatures[0].sensor, "cpu-thermal");
    assert_eq!(snapshot.temperatures[0].millidegrees_celsius, 45_123);
    assert_eq!(chosen("alpine-3.20"), ["/", "/boot"]);
}

#[test]
fn a_large_server_keeps_disks_cards_and_sensors_apart() {
    let snapshot = read("rocky-8");
    let cores: Vec<_> = snapshot.cores.iter().map(|core| core.index).collect();
    assert_eq!(cores, [0, 1, 3]);
    assert_eq!((snapshot.processes_running, snapshot.processes_blocked), (Some(3), Some(2)));
    let disks: Vec<_> = snapshot.disks.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(disks, ["sda", "nvme0n1", "xvda1", "mmcblk0"]);
    let counted: Vec<_> = snapshot
        .interfaces
        .iter()
        .filter(|one| !one.counted_elsewhere)
        .map(|one| one.name.as_str())
        .collect();
    assert_eq!(counted, ["eno1", "eno2"]);
    let bridge = snapshot.interfaces.iter().find(|one| one.name == "virbr0").unwrap();
    assert_eq!(bridge.rx_bytes, u64::MAX);
    let sensors: Vec<_> =
        snapshot.temperatures.iter().map(|one| (one.sensor.as_str(), one.millidegrees_celsius)).collect();
    let expected = [
        ("coretemp Package id 0", 52_000),
        ("coretemp Core 0", 50_000),
        ("drivetemp temp1", 31_000),
        ("drivetemp temp1 2", 33_000),
    ];
    assert_eq!(sensors, expected);
    let load = snapshot.load.clone().unwrap();
    assert_eq!((load.one_x100, load.five_x100, load.fifteen_x100), (1234, 560, 10_000));
    assert_eq!(snapshot.threads_total, Some(1234));
    assert_eq!(snapshot.facts.unwrap().virtualisation.as_deref(), Some("none"));
}

#[test]
fn network_and_fuse_filesystems_are_never_chosen() {
    assert_eq!(chosen("rocky-8"), ["/", "/boot", "/boot/efi"]);
}

#[test]
fn each_real_filesystem_counts_once() {
    let expected = ["/", "/home", "/mnt/odd$(reboot)`x`'q\"", "/mnt/twice", "/tank"];
    assert_eq!(chosen("ubuntu-22.04-docker"), expected);
    let table = mounts::mountinfo(&file("ubuntu-22.04-docker", "proc/self/mountinfo"));
    assert!(table.iter().any(|mount| mount.path == "/srv/my data\\x"));
    let twice = mounts::choose(&table).into_iter().find(|mount| mount.path == "/mnt/twice").unwrap();
    assert_eq!(twice.source, "/dev/sde2");
}

#[test]
fn overlay_is_real_only_as_the_root() {
    let line = "36 30 0:60 / / rw,relatime - overlay overlay rw,lowerdir=/a\n\
                37 36 8:1 /h /etc/hosts rw - ext4 /dev/sda1 rw\n\
                38 36 8:1 /v /data rw - ext4 /dev/sda1 rw\n";
    let paths: Vec<_> =
        mounts::choose(&mounts::mountinfo(line.as_bytes())).into_iter().map(|mount| mount.path).collect();
    assert_eq!(paths, ["/", "/data"]);
}

#[test]
fn fill_comes_from_stat_or_from_df() {
    let table = mounts::mountinfo(&file("ubuntu-22.04-docker", "proc/self/mountinfo"));
    let table = mounts::choose(&table);
    let statfs = b"4096 1000 400 300 500 100 /\n4096 10 5 5 0 0 /home\n4096 0 0 0 0 0 /tank\n4096 9 1 1 0 0 /gone\nnoise\n";
    let found = mounts::statfs(statfs, &table);
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].mount.as_str(), found[0].device.as_str()), ("/", "/dev/sda2"));
    assert_eq!((found[0].size_bytes, found[0].used_bytes), (4_096_000, 600 * 4096));
    assert_eq!(found[0].available_bytes, 300 * 4096);
    assert_eq!((found[0].inodes_total, found[0].inodes_used), (Some(500), Some(400)));
    assert_eq!((found[1].inodes_total, found[1].inodes_used), (None, None));
    let df = b"Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/sda2 4000 2400 1200 67% /\n/dev/sdb1 40 20 20 50% /home\n";
    let found = mounts::df(df, &table);
    assert_eq!(found.len(), 2);
    assert_eq!(
        (found[0].mount.as_str(), found[0].size_bytes, found[0].used_bytes),
        ("/", 4_096_000, 2_457_600)
    );
    assert_eq!((found[1].available_bytes, found[1].inodes_total), (20_480, None));
}

#[test]
fn a_container_host_counts_its_card_only() {
    let snapshot = read("ubuntu-22.04-docker");
    let counted: Vec<_> = snapshot
        .interfaces
        .iter()
        .filter(|one| !one.counted_elsewhere)
        .map(|one| one.name.as_str())
        .collect();
    assert_eq!(counted, ["ens3"]);
    assert_eq!(snapshot.memory.unwrap().zfs_arc_bytes, Some(6_000_000_000));
}

#[test]
fn a_container_is_judged_against_its_limit() {
    let snapshot = read("lxc-debian-12");
    let memory = snapshot.memory.clone().unwrap();
    assert_eq!(memory.limit_bytes, Some(1 << 30));
    // 1 GiB less 768 MiB in use, of which 256 MiB are cache that gives way.
    assert_eq!(memory.available_bytes, Some(512 << 20));
    let counted: Vec<_> = snapshot
        .interfaces
        .iter()
        .filter(|one| !one.counted_elsewhere)
        .map(|one| one.name.as_str())
        .collect();
    assert_eq!(counted, ["eth0"]);
    let facts = snapshot.facts.unwrap();
    assert_eq!((facts.virtualisation.as_deref(), facts.in_container), (Some("lxc"), Some(true)));
    assert_eq!(chosen("lxc-debian-12"), ["/"]);
}

#[test]
fn a_machine_built_from_a_container_image_is_no_container() {
    let told = |mountinfo: &str| {
        let mounts = mounts::mountinfo(mountinfo.as_bytes());
        facts::facts(&facts::FactSources {
            files: &std::collections::BTreeMap::new(),
            markers: &["/.dockerenv".to_owned()].into(),
            mounts: &mounts,
            architecture: None,
            localtime: None,
            cpu_cores: None,
        })
    };
    assert_eq!(told("27 1 254:0 / / rw - ext4 /dev/vda rw").in_container, Some(false));
    let in_docker = told("27 1 0:60 / / rw - overlay overlay rw");
    assert_eq!((in_docker.in_container, in_docker.virtualisation.as_deref()), (Some(true), Some("docker")));
}

#[test]
fn hidepid_is_a_gap_and_no_count() {
    let snapshot = read("kernel-3.2-hidepid");
    assert_eq!(snapshot.processes_total, None);
    assert!(reason(&snapshot, "processes").unwrap().contains("hidepid"));
    assert_eq!(of(&snapshot, 1234).uid, Some(1000));
}

#[test]
fn an_old_kernel_says_less_and_is_still_read() {
    let snapshot = read("kernel-3.2-hidepid");
    assert_eq!(snapshot.cpu.unwrap().steal_ticks, 0);
    assert_eq!(snapshot.memory.unwrap().available_bytes, Some(700_000 * 1024));
    assert_eq!(snapshot.interfaces[0].rx_bytes, 123_456);
    assert_eq!((snapshot.pressure, snapshot.tcp, snapshot.boot_id), (None, None, None));
}

#[test]
fn a_tree_without_proc_is_gaps_and_no_figures() {
    let empty = tempfile::tempdir().unwrap();
    let snapshot = Reader::new(empty.path()).read(Sections::BASE);
    assert_eq!((snapshot.cpu.clone(), snapshot.memory.clone(), snapshot.uptime_ms), (None, None, None));
    assert!(reason(&snapshot, "cpu").is_some() && reason(&snapshot, "memory").is_some());
    assert_eq!(snapshot.processes_total, None);
}

#[test]
fn the_agents_json_is_what_serde_writes() {
    for machine in ["debian-12", "alpine-3.20", "rocky-8", "lxc-debian-12", "kernel-3.2-hidepid"] {
        let snapshot = read(machine);
        assert_eq!(json::to_json(&snapshot), serde_json::to_string(&snapshot).unwrap(), "{machine}");
    }
    let own = Reader::default().read(Sections::DETAILS);
    let text = json::to_json(&own);
    assert_eq!(text, serde_json::to_string(&own).unwrap());
    assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), own);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_in_json_is_what_serde_writes(word in any::<String>(), state in any::<char>(), degrees in any::<i64>()) {
        let snapshot = Snapshot {
            boot_id: Some(word.clone()),
            processes: Some(vec![Process { state, name: word.clone(), ..Process::default() }]),
            temperatures: vec![roundsman_agent::Temperature { sensor: word, millidegrees_celsius: degrees }],
            ..Snapshot::default()
        };
        prop_assert_eq!(json::to_json(&snapshot), serde_json::to_string(&snapshot).unwrap());
    }

    #[test]
    fn no_parser_trusts_its_input(bytes in hostile()) {
        every_parser(&bytes);
    }

    #[test]
    fn cleaned_text_is_short_and_printable(bytes in proptest::collection::vec(any::<u8>(), 0..4000), limit in 0_usize..300) {
        let clean = text::clean(&bytes, limit);
        prop_assert!(clean.len() <= limit);
        prop_assert!(!clean.chars().any(char::is_control));
    }
}

/// Arbitrary bytes, arbitrary words of the formats, and real files with bytes changed.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "cpu ",
        "cpu0 ",
        "1 ",
        "18446744073709551615 ",
        "99999999999999999999 ",
        "-1 ",
        "\n",
        " - ",
        "(",
        ")",
        "MemTotal:",
        "Tcp:",
        "CurrEstab ",
        "eth0:",
        "Id=a.service\n",
        "LoadState=loaded\n",
        "ActiveState=active\n",
        "total=",
        "some ",
        "\\040",
        "\\777",
        "0:1 / / rw - ext4 x rw",
        "|-- 1.2.3.4\n",
        "/32 host LOCAL\n",
        "Uid:\t",
        ":",
        "=",
        "\0",
        "size 4 ",
        "vda ",
        "nvme0n1p",
        "limit",
        "\u{1b}[",
        "ä",
    ]);
    let real = prop::sample::select(vec![
        "proc/stat",
        "proc/meminfo",
        "proc/net/dev",
        "proc/diskstats",
        "proc/net/snmp",
        "proc/self/mountinfo",
        "proc/601/stat",
        "proc/601/status",
        "systemctl-show.txt",
        "proc/net/fib_trie",
        "etc/passwd",
    ]);
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20);
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..2000),
        proptest::collection::vec(words, 0..80).prop_map(|words| words.concat().into_bytes()),
        (real, changes).prop_map(|(path, changes)| {
            let mut bytes = file("debian-12", path);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        }),
    ]
}

fn every_parser(bytes: &[u8]) {
    assert!(cpu::stat(bytes).cores.len() <= limits::CORES);
    let _ = cpu::core_count(bytes);
    let _ = kernel::loadavg(bytes);
    let _ = kernel::uptime_ms(bytes);
    let _ = kernel::file_handles(bytes);
    let _ = kernel::pressure(Some(bytes), Some(bytes), Some(bytes));
    let all = Some(bytes);
    let _ = memory::memory(&memory::MemoryFiles {
        meminfo: all,
        arcstats: all,
        limit: all,
        usage: all,
        stat: all,
    });
    let table = mounts::mountinfo(bytes);
    let chosen = mounts::choose(&table);
    assert!(chosen.len() <= limits::FILESYSTEMS);
    assert!(chosen.iter().all(|mount| mount.path.starts_with('/') && !mount.path.contains('\n')));
    let _ = mounts::statfs(bytes, &chosen);
    let _ = mounts::df(bytes, &chosen);
    assert!(disks::diskstats(bytes).len() <= limits::DISKS);
    let mut interfaces = network::dev(bytes);
    network::mark_totals(&mut interfaces, &["eth0".to_owned()]);
    let _ = network::tcp(all, all, all);
    let names = process::passwd(bytes);
    let files = process::ProcessFiles { stat: bytes, status: all, command_line: all };
    let _ = process::process(&files, u64::MAX, &names);
    let sensor = |path: &str| (path.to_owned(), bytes.to_vec());
    let _ = sensors::temperatures(&[sensor("/sys/class/hwmon/hwmon0/temp1_input")].into());
    let listed = services::systemctl_show(bytes, Some(u64::MAX));
    assert!(
        listed
            .iter()
            .all(|one| one.name.len() <= limits::TEXT_BYTES && one.description.len() <= limits::TEXT_BYTES)
    );
    let _ = users::session(bytes);
    let _ = users::utmp(bytes);
    let files = facts::FILES
        .iter()
        .map(|path| sensor(path))
        .chain([sensor("/proc/cpuinfo"), sensor("/proc/net/fib_trie")]);
    let told = facts::facts(&facts::FactSources {
        files: &files.collect(),
        markers: &std::collections::BTreeSet::new(),
        mounts: &table,
        architecture: std::str::from_utf8(bytes).ok(),
        localtime: std::str::from_utf8(bytes).ok(),
        cpu_cores: None,
    });
    assert!(told.addresses.len() <= limits::ADDRESSES);
    assert!(told.os_name.is_none_or(|name| !name.chars().any(char::is_control)));
}
