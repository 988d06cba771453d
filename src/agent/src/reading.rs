//! What was read, as text, put together to a [`Snapshot`]. Pure; both ways of reading end here, so that
//! they cannot disagree on what a text means.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::limits;
use crate::proc::mounts::Mount;
use crate::proc::{
    containers, cpu, disks, facts, init, kernel, memory, mounts, network, packages, sensors, services,
    sockets, users,
};
use crate::snapshot::{Gap, LoggedInUser, Process, Sections, Snapshot};

/// Files of every reading. Those that a machine does not have are simply absent.
pub const BASE_FILES: &[&str] = &[
    "/proc/stat",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/uptime",
    "/proc/net/dev",
    "/proc/diskstats",
    "/proc/net/sockstat",
    "/proc/net/sockstat6",
    "/proc/net/snmp",
    "/proc/self/mountinfo",
    "/proc/sys/fs/file-nr",
    "/proc/sys/kernel/random/boot_id",
    "/proc/pressure/cpu",
    "/proc/pressure/memory",
    "/proc/pressure/io",
    "/proc/spl/kstat/zfs/arcstats",
    // Readable only to those who may see the processes of others (hidepid of /proc, see proc(5)).
    "/proc/1/comm",
];

/// Memory limit, use and statistics of the cgroup that is the root here, then its CPU time and limit: version 2, then
/// version 1.
pub const CGROUP_V2_FILES: [&str; 5] = [
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory.current",
    "/sys/fs/cgroup/memory.stat",
    "/sys/fs/cgroup/cpu.stat",
    "/sys/fs/cgroup/cpu.max",
];
pub const CGROUP_V1_FILES: [&str; 6] = [
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    "/sys/fs/cgroup/memory/memory.stat",
    "/sys/fs/cgroup/cpuacct/cpuacct.usage",
    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
    "/sys/fs/cgroup/cpu/cpu.cfs_period_us",
];

/// How the fill of filesystems was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilesystemText {
    /// Output of `stat -f -c` with [`mounts::STATFS_FORMAT`].
    Statfs(Vec<u8>),
    /// Output of `df -P -k`.
    Df(Vec<u8>),
    /// Neither tool is there, or it did not answer: why, in a sentence.
    Unknown(String),
}

/// Output of the service manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServicesText {
    /// Output of `systemctl show`.
    Systemctl(Vec<u8>),
    /// What OpenRC or SysV init has left in files.
    Init(Box<init::InitText>),
    /// Why there is none, in a sentence.
    Unknown(String),
}

/// One reading as text.
#[derive(Debug, Clone, Default)]
pub struct Texts {
    /// Path to content: [`BASE_FILES`], cgroup, sensors, and for the facts [`facts::FILES`].
    pub files: BTreeMap<String, Vec<u8>>,
    /// Interfaces with a `device` under `/sys/class/net`.
    pub cards: Vec<String>,
    /// Processes counted under `/proc`.
    pub process_count: Option<u64>,
    /// Processes that are written apart from the snapshot, if they are.
    pub processes_listed: Option<usize>,
    /// What [`mounts::choose`] makes of the table of mounts, where that is known already: tables hardly ever change, and
    /// taking one apart costs more than the rest of a reading. `None`: the table among the files says it.
    pub mounts: Option<Arc<[Mount]>>,
    /// `None`: not asked (no mounts were known yet).
    pub filesystems: Option<FilesystemText>,
    /// Wall clock of the machine, where every reading has it exactly.
    pub taken_at_ms: Option<u64>,
    /// The same, where this reading asked for it.
    pub clock_ms: Option<u64>,
    pub ticks_per_second: Option<u32>,
    /// `None`: not asked for.
    pub processes: Option<Vec<Process>>,
    pub services: Option<ServicesText>,
    pub containers: Option<containers::ContainersText>,
    /// TCP sockets, gone through.
    pub sockets: Option<sockets::Walk>,
    /// Output of [`packages::SCRIPT`].
    pub packages: Option<Vec<u8>>,
    /// Session files of logind; `None`: there is no such directory.
    pub sessions: Option<Vec<Vec<u8>>>,
    pub utmp: Option<Vec<u8>>,
    pub markers: BTreeSet<String>,
    pub architecture: Option<String>,
    pub localtime: Option<String>,
}

impl Texts {
    fn file(&self, path: &str) -> Option<&[u8]> {
        self.files.get(path).map(Vec::as_slice)
    }
}

/// Builds the snapshot of the wanted sections. Whatever is missing stays `None`; what a person should know
/// of it stands in `gaps`.
#[must_use]
pub fn assemble(mut texts: Texts, sections: Sections) -> Snapshot {
    assembled(&mut texts, sections)
}

/// [`assemble`], which leaves the files to be filled anew.
pub(crate) fn assembled(texts: &mut Texts, sections: Sections) -> Snapshot {
    let processes = texts.processes.take().filter(|_| sections.processes);
    let texts = &*texts;
    let mut gaps = Gaps::default();
    let stat = texts.file("/proc/stat").map(cpu::stat).unwrap_or_default();
    let uptime_ms = texts.file("/proc/uptime").and_then(kernel::uptime_ms);
    let taken_at_ms = texts.taken_at_ms.or_else(|| clock(stat.boot_time_s, uptime_ms));
    let boot_at_ms = taken_at_ms.zip(uptime_ms).map(|(now, up)| now.saturating_sub(up));
    let (load, threads_total) = texts.file("/proc/loadavg").map_or((None, None), kernel::loadavg);
    let (file_handles_used, file_handles_max) =
        texts.file("/proc/sys/fs/file-nr").map_or((None, None), kernel::file_handles);
    let memory = machine_memory(texts);
    let sees_all = texts.files.contains_key("/proc/1/comm");
    let listed = processes.as_ref().map(Vec::len).or(texts.processes_listed);
    gaps.judge(&Seen { cpu: stat.cpu.is_some(), memory: memory.is_some(), sees_all, listed });
    let filesystems = filled(texts, &mut gaps);
    let mut interfaces = texts.file("/proc/net/dev").map(network::dev).unwrap_or_default();
    network::mark_totals(&mut interfaces, &texts.cards);
    let clock = init::Clock { boot_at_ms, ticks_per_second: texts.ticks_per_second };
    let services = sections.services.then(|| known_services(texts, clock, &mut gaps)).flatten();
    let users = sections.users.then(|| logged_in(texts, &mut gaps)).flatten();
    let facts = sections.facts.then(|| known_facts(texts));
    let containers = texts.containers.as_ref().filter(|_| sections.containers);
    let updates = texts.packages.as_deref().filter(|_| sections.packages);
    let updates = updates.and_then(|output| pending_updates(output, &mut gaps));
    let tcp_states = texts.sockets.as_ref().filter(|_| sections.sockets);
    let tcp_states = tcp_states.and_then(|walk| known_states(walk, &mut gaps));
    let (cgroup_cpu_us, cpu_limit_x1000) = container_cpu(texts);
    let (containers, container_gaps) = containers.map(containers::containers).unwrap_or_default();
    gaps.0.extend(container_gaps);
    Snapshot {
        taken_at_ms,
        clock_ms: texts.clock_ms,
        boot_id: texts.file("/proc/sys/kernel/random/boot_id").and_then(boot_id),
        uptime_ms,
        ticks_per_second: texts.ticks_per_second,
        cpu: stat.cpu,
        cores: stat.cores,
        cgroup_cpu_us,
        cpu_limit_x1000,
        load,
        memory,
        pressure: kernel::pressure(
            texts.file("/proc/pressure/cpu"),
            texts.file("/proc/pressure/memory"),
            texts.file("/proc/pressure/io"),
        ),
        filesystems,
        disks: texts.file("/proc/diskstats").map(disks::diskstats).unwrap_or_default(),
        interfaces,
        tcp: network::tcp(
            texts.file("/proc/net/sockstat"),
            texts.file("/proc/net/sockstat6"),
            texts.file("/proc/net/snmp"),
        ),
        tcp_states,
        temperatures: sensors::temperatures(&texts.files),
        context_switches: stat.context_switches,
        forks: stat.forks,
        // A count of one's own processes is not a count of the machine's.
        processes_total: texts.process_count.filter(|_| sees_all),
        threads_total,
        processes_running: stat.processes_running,
        processes_blocked: stat.processes_blocked,
        file_handles_used,
        file_handles_max,
        processes,
        services,
        users,
        facts,
        containers,
        updates,
        gaps: gaps.0,
    }
}

#[derive(Default)]
struct Gaps(Vec<Gap>);

impl Gaps {
    fn add(&mut self, section: &str, reason: &str) {
        if self.0.len() < limits::GAPS {
            self.0.push(Gap { section: section.to_owned(), reason: reason.to_owned() });
        }
    }
}

/// What the base reading came to, for the gaps that it leaves.
struct Seen {
    cpu: bool,
    memory: bool,
    sees_all: bool,
    /// Processes that were listed; None: nobody asked for them.
    listed: Option<usize>,
}

impl Gaps {
    fn judge(&mut self, seen: &Seen) {
        if !seen.cpu {
            self.add("cpu", "/proc/stat cannot be read");
        }
        if !seen.memory {
            self.add("memory", "/proc/meminfo cannot be read");
        }
        if !seen.sees_all {
            let reason = "partial: /proc is mounted with hidepid, so this user sees its own processes only";
            self.add("processes", reason);
        }
        if seen.listed.is_some_and(|listed| listed >= limits::PROCESSES) {
            self.add("processes", "partial: more processes than one reading takes");
        }
    }
}

fn mount_table(texts: &Texts) -> Vec<Mount> {
    texts.file("/proc/self/mountinfo").map(mounts::mountinfo).unwrap_or_default()
}

fn known_facts(texts: &Texts) -> crate::Facts {
    facts::facts(&facts::FactSources {
        files: &texts.files,
        markers: &texts.markers,
        mounts: &mount_table(texts),
        architecture: texts.architecture.as_deref(),
        localtime: texts.localtime.as_deref(),
        cpu_cores: texts.file("/proc/stat").and_then(cpu::core_count),
    })
}

/// The wall clock out of the boot time and the uptime: late by less than a second, as the boot time is cut
/// to whole seconds. It saves the shell probe a process a reading.
fn clock(boot_time_s: Option<u64>, uptime_ms: Option<u64>) -> Option<u64> {
    boot_time_s?.checked_mul(1000)?.checked_add(uptime_ms?)
}

/// A UUID as the kernel prints it; anything else is not a boot id.
pub(crate) fn boot_id(bytes: &[u8]) -> Option<String> {
    let line = crate::text::first_line(bytes)?;
    let valid = line.len() == 36 && line.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    valid.then_some(line)
}

fn machine_memory(texts: &Texts) -> Option<crate::Memory> {
    let [v2, v2_usage, v2_stat, ..] = CGROUP_V2_FILES;
    let [v1, v1_usage, v1_stat, ..] = CGROUP_V1_FILES;
    let is_v2 = texts.files.contains_key(v2);
    let (limit, usage, stat) = if is_v2 { (v2, v2_usage, v2_stat) } else { (v1, v1_usage, v1_stat) };
    memory::memory(&memory::MemoryFiles {
        meminfo: texts.file("/proc/meminfo"),
        arcstats: texts.file("/proc/spl/kstat/zfs/arcstats"),
        limit: texts.file(limit),
        usage: texts.file(usage),
        stat: texts.file(stat),
    })
}

fn container_cpu(texts: &Texts) -> (Option<u64>, Option<u64>) {
    let [_, _, _, stat, max] = CGROUP_V2_FILES.map(|path| texts.file(path));
    let [_, _, _, usage, quota, period] = CGROUP_V1_FILES.map(|path| texts.file(path));
    kernel::cgroup_cpu(&kernel::CgroupCpu { stat, max, usage, quota, period })
}

fn pending_updates(output: &[u8], gaps: &mut Gaps) -> Option<crate::Updates> {
    match packages::updates(output) {
        Ok(updates) => updates,
        Err(reason) => {
            gaps.add("packages", &reason);
            None
        }
    }
}

fn known_states(walk: &sockets::Walk, gaps: &mut Gaps) -> Option<crate::TcpStates> {
    walk.states().map_err(|reason| gaps.add("sockets", &reason)).ok()
}

fn filled(texts: &Texts, gaps: &mut Gaps) -> Vec<crate::Filesystem> {
    let Some(said) = &texts.filesystems else { return Vec::new() };
    if let FilesystemText::Unknown(reason) = said {
        gaps.add("filesystems", reason);
        return Vec::new();
    }
    let chosen = texts.mounts.clone().unwrap_or_else(|| mounts::choose(&mount_table(texts)).into());
    let filled = match said {
        FilesystemText::Statfs(output) => mounts::statfs(output, &chosen),
        FilesystemText::Df(output) => mounts::df(output, &chosen),
        FilesystemText::Unknown(_) => Vec::new(),
    };
    if filled.is_empty() && !chosen.is_empty() {
        gaps.add("filesystems", "neither stat -f nor df answers");
    }
    filled
}

fn known_services(texts: &Texts, clock: init::Clock, gaps: &mut Gaps) -> Option<Vec<crate::Service>> {
    let reason = match texts.services.as_ref()? {
        ServicesText::Unknown(reason) => reason.as_str(),
        ServicesText::Systemctl(output) => {
            let services = services::systemctl_show(output, clock.boot_at_ms);
            if !services.is_empty() {
                return Some(services);
            }
            "systemctl says nothing of any service"
        }
        ServicesText::Init(text) => return Some(init::services(text, clock)),
    };
    gaps.add("services", reason);
    None
}

/// logind's sessions where it has any; else utmp, which also knows logins that pass logind by (dropbear).
fn logged_in(texts: &Texts, gaps: &mut Gaps) -> Option<Vec<LoggedInUser>> {
    let sessions: Option<Vec<LoggedInUser>> = texts
        .sessions
        .as_ref()
        .map(|files| files.iter().filter_map(|file| users::session(file)).take(limits::USERS).collect());
    let found = match (sessions, texts.utmp.as_deref()) {
        (Some(sessions), _) if !sessions.is_empty() => Some(sessions),
        (_, Some(utmp)) => Some(users::utmp(utmp)),
        (sessions, None) => sessions,
    };
    if found.is_none() {
        gaps.add("users", "this system keeps no list of logins (neither systemd-logind nor utmp)");
    }
    found
}
