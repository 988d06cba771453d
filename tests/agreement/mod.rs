//! One machine read by the shell probe, by the agent and by its own tools, metric by metric.
//!
//! They take turns: tools, shell probe, tools, agent, tools. So a counter that only grows needs no tolerance: what a probe
//! says lies between what the tools said before and after it. What goes up and down lies within what the tools said
//! around it, give or take what stands beside it here. The rest is equal.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a comparison that fails says so by panicking"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use roundsman::collect::{AgentProbe, ShellProbe, agent, shell};
use roundsman::model::{CpuTimes, Sections, Snapshot};
use roundsman::ssh::{Target, connect};

/// Everything but containers and packages, which have tests of their own.
pub(crate) const ASKED: Sections = Sections { containers: false, packages: false, ..Sections::ALL };
/// Longer than a reading may take on a loaded two-core machine; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(120);
const TOOLS: &str = include_str!("tools.sh");
const MIB: u64 = 1 << 20;

/// What the tools said: the words after each key, a line for each time that it came.
pub(crate) struct Tools(BTreeMap<String, Vec<Vec<String>>>);

impl Tools {
    fn of(said: &str) -> Self {
        let mut lines: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
        for line in said.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            let Some(key) = words.next() else { continue };
            lines.entry(key).or_default().push(words.collect());
        }
        Self(lines)
    }

    fn words(&self, key: &str) -> &[String] {
        self.0.get(key).and_then(|lines| lines.first()).map_or(&[], Vec::as_slice)
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.words(key).first().map(String::as_str)
    }

    fn number(&self, key: &str, at: usize) -> Option<u64> {
        self.words(key).get(at)?.parse().ok()
    }

    /// The line of a key that begins with this name, without it.
    fn named(&self, key: &str, name: &str, at: usize) -> Option<u64> {
        let line = self.0.get(key)?.iter().find(|line| line.first().is_some_and(|first| first == name))?;
        line.get(at + 1)?.parse().ok()
    }
}

/// The readings, each with what the tools said before and after it.
pub(crate) struct Readings {
    pub(crate) shell: Snapshot,
    pub(crate) agent: Snapshot,
    tools: [Tools; 3],
}

async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    let Ok(done) = tokio::time::timeout(PATIENCE, work).await else { panic!("waited in vain for: {what}") };
    done
}

/// Takes the turns. `on_host` runs a script there and answers its output.
pub(crate) async fn take_turns(
    target: &Target,
    file: &str,
    sha256: &str,
    asked: Sections,
    on_host: impl Fn(&str) -> String,
) -> Readings {
    let connection = in_time("a connection", connect(target, &mut |_| {})).await.unwrap();
    let stream = connection.open(shell::COMMAND).await.unwrap();
    let mut by_shell = in_time("the shell probe", ShellProbe::start(stream)).await.unwrap();
    let stream = connection.open(&agent::command(file, sha256).unwrap()).await.unwrap();
    let mut by_agent = in_time("the agent", AgentProbe::start(stream, sha256)).await.unwrap();
    // The agent keeps what moves slowly for a while; its first reading has all of it fresh.
    let before = Tools::of(&on_host(TOOLS));
    let shell = in_time("a reading", by_shell.read(asked)).await.unwrap();
    let between = Tools::of(&on_host(TOOLS));
    let agent = in_time("a reading", by_agent.read(asked)).await.unwrap();
    let after = Tools::of(&on_host(TOOLS));
    Readings { shell, agent, tools: [before, between, after] }
}

/// Both probes with the tools, and with each other.
pub(crate) fn agree(readings: &Readings) {
    let [before, between, after] = &readings.tools;
    let with = |probe, reading, before, after| Turn { probe, reading, before, after }.agrees();
    with("shell", &readings.shell, before, between);
    with("agent", &readings.agent, between, after);
    alike(&readings.shell, &readings.agent);
}

/// One reading and its neighbours.
struct Turn<'a> {
    probe: &'a str,
    reading: &'a Snapshot,
    before: &'a Tools,
    after: &'a Tools,
}

/// Where a figure stands in what the tools said.
#[derive(Clone, Copy)]
enum At<'a> {
    Word(&'a str, usize),
    Named(&'a str, &'a str, usize),
}

impl Turn<'_> {
    fn said(&self, at: At<'_>) -> Option<(u64, u64)> {
        let of = |tools: &Tools| match at {
            At::Word(key, at) => tools.number(key, at),
            At::Named(key, name, at) => tools.named(key, name, at),
        };
        Some((of(self.before)?, of(self.after)?))
    }

    /// A counter: never behind what was said before, never ahead of what was said after. Unknown to the tools is
    /// unknown to the probe.
    fn counter(&self, what: &str, value: Option<u64>, at: At<'_>) {
        self.counter_in(what, value, at, 1);
    }

    /// As [`Turn::counter`], of which the tools tell so many of the probe's unit at a time.
    fn counter_in(&self, what: &str, value: Option<u64>, at: At<'_>, unit: u64) {
        let probe = self.probe;
        match (value, self.said(at)) {
            (Some(value), Some((before, after))) => {
                let (from, to) = (before * unit, after * unit + (unit - 1));
                assert!(
                    (from..=to).contains(&value),
                    "{what}: {probe} says {value}, the tools {from} to {to}"
                );
            }
            (value, said) => assert!(
                value.is_none() && said.is_none(),
                "{what}: {probe} says {value:?}, the tools {said:?}"
            ),
        }
    }

    /// What goes up and down: within both, give or take `tolerance`.
    fn gauge(&self, what: &str, value: Option<u64>, at: At<'_>, tolerance: u64) {
        let probe = self.probe;
        match (value, self.said(at)) {
            (Some(value), Some((before, after))) => {
                let (from, to) = (before.min(after).saturating_sub(tolerance), before.max(after) + tolerance);
                assert!(
                    (from..=to).contains(&value),
                    "{what}: {probe} says {value}, the tools {from} to {to}"
                );
            }
            (value, said) => assert!(
                value.is_none() && said.is_none(),
                "{what}: {probe} says {value:?}, the tools {said:?}"
            ),
        }
    }

    fn agrees(&self) {
        self.times();
        self.memory();
        self.storage();
        self.network();
        self.counts();
        self.facts();
    }

    fn times(&self) {
        let reading = self.reading;
        self.counter_in("uptime", reading.uptime_ms, At::Word("uptime_cs", 0), 10);
        // `date` of a small system knows no fractions, so half a second may be added.
        let clock_s = reading.clock_ms.map(|ms| ms / 1000);
        self.gauge("clock", clock_s, At::Word("clock_s", 0), 1);
        let cpu = reading.cpu.clone().unwrap_or_default();
        for (what, ticks) in modes(&cpu) {
            self.counter(what, Some(ticks), At::Word(what, 0));
        }
        // The kernel corrects idle and iowait now and then, even backwards: proc(5). A second of each core.
        let slack = 100 * u64::try_from(reading.cores.len()).unwrap();
        self.gauge("idle", Some(cpu.idle_ticks), At::Word("idle", 0), slack);
        self.gauge("iowait", Some(cpu.iowait_ticks), At::Word("iowait", 0), slack);
        let cores = self.before.0.get("core").map_or(0, Vec::len);
        assert_eq!(reading.cores.len(), cores, "cores");
        for core in &reading.cores {
            let name = core.index.to_string();
            self.counter("user of a core", Some(core.times.user_ticks), At::Named("core", &name, 0));
            self.counter("system of a core", Some(core.times.system_ticks), At::Named("core", &name, 1));
            self.gauge("idle of a core", Some(core.times.idle_ticks), At::Named("core", &name, 2), 100);
        }
        let load = reading.load.clone().unwrap();
        // It is made anew every 5 s, in between the turns or not: by one runnable task in eight of a minute's load.
        for (what, value, at, tolerance) in [
            ("load1", load.one_x100, 0, 1_000),
            ("load5", load.five_x100, 1, 400),
            ("load15", load.fifteen_x100, 2, 200),
        ] {
            self.gauge(what, Some(value), At::Word("load", at), tolerance);
        }
        let pressure = reading.pressure.clone().unwrap_or_default();
        for (what, value) in [
            ("cpu-some", pressure.cpu_some_us),
            ("memory-some", pressure.memory_some_us),
            ("memory-full", pressure.memory_full_us),
            ("io-some", pressure.io_some_us),
            ("io-full", pressure.io_full_us),
        ] {
            self.counter(what, value, At::Named("pressure", what, 0));
        }
    }

    fn memory(&self) {
        let memory = self.reading.memory.clone().unwrap();
        self.counter("memory", Some(memory.total_bytes), At::Word("memory", 0));
        // Others work on this machine: a tenth of it comes and goes within a second.
        let tolerance = memory.total_bytes / 10;
        self.gauge("memory free", memory.free_bytes, At::Word("memory", 1), tolerance);
        self.gauge("buffers", memory.buffers_bytes, At::Word("buffers", 0), tolerance);
        self.gauge("cached", memory.cached_bytes, At::Word("cached", 0), tolerance);
        self.counter("swap", memory.swap_total_bytes, At::Word("swap", 0));
        self.gauge(
            "swap free",
            memory.swap_free_bytes,
            At::Word("swap", 1),
            memory.swap_total_bytes.unwrap_or(0) / 4,
        );
        let limit = self.before.number("limit", 0).filter(|limit| *limit < memory.total_bytes);
        assert_eq!(memory.limit_bytes, limit, "limit of the container");
        match limit {
            None => self.gauge("memory available", memory.available_bytes, At::Word("memory", 2), tolerance),
            Some(limit) => {
                // What is in use, without the page cache that can be given back.
                let (before, after) = self.said(At::Word("usage", 0)).unwrap();
                let used = limit - memory.available_bytes.unwrap();
                assert!(used <= before.max(after) + 64 * MIB, "in use: {used} of {before} to {after}");
            }
        }
    }

    fn storage(&self) {
        assert!(self.reading.filesystems.iter().any(|one| one.mount == "/"), "the root filesystem is read");
        for one in &self.reading.filesystems {
            let at = |position| At::Named("filesystem", &one.mount, position);
            // df rounds to KiB.
            self.gauge("size", Some(one.size_bytes), at(0), 1024);
            self.gauge("used", Some(one.used_bytes), at(1), 512 * MIB);
            self.gauge("room", Some(one.available_bytes), at(2), 512 * MIB);
            // df of BusyBox may not know inodes.
            if self.before.0.contains_key("inodes") && one.inodes_total.is_some() {
                self.gauge("inodes", one.inodes_total, At::Named("inodes", &one.mount, 0), 0);
                self.gauge("inodes used", one.inodes_used, At::Named("inodes", &one.mount, 1), 20_000);
            }
        }
        for one in &self.reading.disks {
            let counts = [one.reads, one.read_bytes, one.writes, one.written_bytes, one.busy_ms];
            for (at, value) in counts.into_iter().enumerate() {
                self.counter(&one.name, Some(value), At::Named("disk", &one.name, at));
            }
        }
        // Whole disks that were ever used; what is made of memory or of files is no disk.
        let real = |name: &str| {
            !["loop", "ram", "zram", "dm-", "md", "sr", "fd"].iter().any(|kind| name.starts_with(kind))
        };
        for line in self.before.0.get("disk").into_iter().flatten() {
            let (name, reads) = (&line[0], &line[1]);
            let is_read = self.reading.disks.iter().any(|one| one.name == *name);
            assert!(is_read || !real(name) || reads == "0", "{} leaves out {name}", self.probe);
        }
    }

    fn network(&self) {
        for one in &self.reading.interfaces {
            let counts =
                [one.rx_bytes, one.rx_packets, one.tx_bytes, one.tx_packets, one.rx_errors, one.tx_errors];
            for (at, value) in counts.into_iter().enumerate() {
                let at = At::Named("interface", &one.name, at);
                // Other tests make and remove interfaces meanwhile.
                if self.said(at).is_some() {
                    self.counter(&one.name, Some(value), at);
                }
            }
        }
        let names = |tools: &Tools| -> Vec<String> {
            tools
                .0
                .get("interface")
                .into_iter()
                .flatten()
                .map(|line| line[0].clone())
                .filter(|name| name != "lo")
                .collect()
        };
        let after = names(self.after);
        for name in names(self.before).iter().filter(|name| after.contains(name)) {
            assert!(
                self.reading.interfaces.iter().any(|one| one.name == *name),
                "{} leaves out {name}",
                self.probe
            );
        }
        let tcp = self.reading.tcp.clone().unwrap();
        self.gauge("established", tcp.established, At::Word("tcp", 0), 100);
        self.gauge("TIME-WAIT", tcp.time_wait, At::Word("tcp", 1), 500);
        self.sockets();
    }

    /// In each state between what `ss` (or netstat) said before and after, give or take what others open and close meanwhile.
    fn sockets(&self) {
        let states = self.reading.tcp_states.clone().unwrap_or_else(|| panic!("{:?}", self.reading.gaps));
        let said = |tools: &Tools, state: &str| tools.named("sockets", state, 0).unwrap_or(0);
        for (state, count) in states.named() {
            let tolerance = if state == "time_wait" { 500 } else { 100 };
            let (before, after) = (said(self.before, state), said(self.after, state));
            let (from, to) = (before.min(after).saturating_sub(tolerance), before.max(after) + tolerance);
            assert!(
                (from..=to).contains(&count),
                "{state}: {} says {count}, the tools {from} to {to}",
                self.probe
            );
        }
    }

    fn counts(&self) {
        let reading = self.reading;
        self.counter("context switches", reading.context_switches, At::Word("context_switches", 0));
        self.counter("forks", reading.forks, At::Word("forks", 0));
        self.gauge("processes", reading.processes_total, At::Word("processes", 0), 60);
        self.gauge("threads", reading.threads_total, At::Word("threads", 0), 1_000);
        self.gauge("running", reading.processes_running, At::Word("running", 0), 100);
        self.gauge("blocked", reading.processes_blocked, At::Word("blocked", 0), 100);
        self.gauge("open files", reading.file_handles_used, At::Word("files", 0), 10_000);
        self.gauge("most open files", reading.file_handles_max, At::Word("files", 2), 0);
    }

    fn facts(&self) {
        let (reading, probe, tools) = (self.reading, self.probe, self.after);
        let facts = reading.facts.clone().unwrap();
        assert_eq!(reading.boot_id.as_deref(), tools.text("boot_id"), "{probe}");
        assert_eq!(facts.hostname.as_deref(), tools.text("hostname"), "{probe}");
        assert_eq!(facts.kernel.as_deref(), tools.text("kernel"), "{probe}");
        assert_eq!(facts.architecture.as_deref(), tools.text("machine"), "{probe}");
        assert_eq!(facts.os_id.as_deref(), tools.text("os"), "{probe}");
        assert_eq!(facts.os_version, tools.words("os").get(1).cloned(), "{probe}");
        assert_eq!(facts.cpu_cores.map(u64::from), self.reading.cores.len().try_into().ok(), "{probe}");
        assert_eq!(
            facts.reboot_required.unwrap_or(false).to_string(),
            tools.text("reboot").unwrap(),
            "{probe}"
        );
        let mut accounts: Vec<String> = facts.accounts.iter().map(|account| account.name.clone()).collect();
        accounts.sort();
        assert_eq!(accounts, tools.words("accounts"), "{probe}");
        for address in tools.words("addresses").iter().filter(|address| !address.starts_with("fe80")) {
            let is_told =
                facts.addresses.contains(address) || !self.before.words("addresses").contains(address);
            assert!(is_told, "{probe} leaves out {address}: {:?}", facts.addresses);
        }
        // Sessions come and go with this test's own logins; whose they are stays.
        let mut users: Vec<String> = reading.users.iter().flatten().map(|user| user.name.clone()).collect();
        users.sort();
        users.dedup();
        let of_tools = tools.words("users");
        assert!(
            users.iter().all(|user| of_tools.contains(user)),
            "{probe}: {users:?}, the tools {of_tools:?}"
        );
    }
}

/// Idle and iowait have a rule of their own.
fn modes(cpu: &CpuTimes) -> [(&'static str, u64); 6] {
    [
        ("user", cpu.user_ticks),
        ("nice", cpu.nice_ticks),
        ("system", cpu.system_ticks),
        ("irq", cpu.irq_ticks),
        ("softirq", cpu.softirq_ticks),
        ("steal", cpu.steal_ticks),
    ]
}

/// The two probes with each other, in what no tool tells or what a probe chooses.
fn alike(shell: &Snapshot, agent: &Snapshot) {
    // BusyBox has no getconf to ask; the kernel tells the agent.
    assert!(shell.ticks_per_second.is_none() || shell.ticks_per_second == agent.ticks_per_second);
    assert_eq!(shell.cpu_limit_x1000, agent.cpu_limit_x1000);
    assert_eq!(shell.cgroup_cpu_us.is_some(), agent.cgroup_cpu_us.is_some());
    assert!(shell.cgroup_cpu_us <= agent.cgroup_cpu_us);
    let mounts = |snapshot: &Snapshot| -> Vec<_> {
        let each = snapshot.filesystems.iter();
        each.map(|one| {
            (one.mount.clone(), one.device.clone(), one.fs_type.clone(), one.size_bytes, one.inodes_total)
        })
        .collect()
    };
    assert_eq!(mounts(shell), mounts(agent));
    let disks =
        |snapshot: &Snapshot| -> Vec<_> { snapshot.disks.iter().map(|one| one.name.clone()).collect() };
    assert_eq!(disks(shell), disks(agent));
    for one in &shell.interfaces {
        if let Some(other) = agent.interfaces.iter().find(|other| other.name == one.name) {
            assert_eq!(one.counted_elsewhere, other.counted_elsewhere, "{}", one.name);
        }
    }
    let sensors = |snapshot: &Snapshot| -> Vec<_> {
        snapshot.temperatures.iter().map(|one| one.sensor.clone()).collect()
    };
    assert_eq!(sensors(shell), sensors(agent));
    for (one, other) in shell.temperatures.iter().zip(&agent.temperatures) {
        // Sensors of a processor jump by degrees.
        assert!(one.millidegrees_celsius.abs_diff(other.millidegrees_celsius) <= 15_000, "{}", one.sensor);
    }
    let tcp = |snapshot: &Snapshot| snapshot.tcp.as_ref().and_then(|tcp| tcp.in_use);
    assert!(tcp(shell).zip(tcp(agent)).is_none_or(|(one, other)| one.abs_diff(other) <= 500));
    assert_eq!(shell.facts, agent.facts);
    processes_alike(shell, agent);
}

/// What lives on is the same process in all that does not change.
fn processes_alike(shell: &Snapshot, agent: &Snapshot) {
    let all = |snapshot: &Snapshot| snapshot.processes.clone().unwrap();
    let (of_shell, of_agent) = (all(shell), all(agent));
    let mut both = 0;
    for one in &of_shell {
        let other =
            of_agent.iter().find(|other| (other.pid, other.start_ticks) == (one.pid, one.start_ticks));
        let Some(other) = other else { continue };
        both += 1;
        assert_eq!((one.uid, &one.user), (other.uid, &other.user), "{one:?}");
        // An idle process may be ten seconds old in the agent's reading, and never younger in the shell's.
        let used = |process: &roundsman::model::Process| process.user_ticks + process.system_ticks;
        assert!(used(one) <= used(other), "{one:?} {other:?}");
        // sshd counts in its own title ("… 1 of 200-200 startups"); nothing else that is compared here rewrites it.
        let is_titled = one.command_line.as_ref().is_some_and(|line| line.starts_with("sshd: "));
        if one.name == other.name && !is_titled {
            assert_eq!(one.command_line, other.command_line, "{one:?}");
        }
    }
    assert!(both * 2 >= of_shell.len(), "{both} of {} processes are in both readings", of_shell.len());
}
