//! The snapshot type: raw counters of one machine at one time. Integers only, no rates.

/// Derives what every part of a snapshot derives.
macro_rules! part {
    ($(#[$meta:meta])* pub struct $name:ident { $($body:tt)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "serde", serde(default))]
        pub struct $name { $($body)* }
    };
}

/// Which parts of a reading are wanted. The base (CPU, memory, load, disks, network, …) always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sections {
    pub processes: bool,
    pub services: bool,
    pub users: bool,
    pub facts: bool,
    pub containers: bool,
    /// Pending updates; slow, and asked for seldom.
    pub packages: bool,
    /// TCP sockets by state.
    pub sockets: bool,
}

impl Sections {
    pub const BASE: Self = Self {
        processes: false,
        services: false,
        users: false,
        facts: false,
        containers: false,
        packages: false,
        sockets: false,
    };
    /// Everything that may be read again and again; a package manager takes seconds.
    pub const DETAILS: Self = Self { packages: false, ..Self::ALL };
    pub const ALL: Self = Self {
        processes: true,
        services: true,
        users: true,
        facts: true,
        containers: true,
        packages: true,
        sockets: true,
    };
}

part! {
/// One reading of one machine.
pub struct Snapshot {
    /// Wall clock of the machine that was read, Unix time in milliseconds. None: it did not say.
    pub taken_at_ms: Option<u64>,
    /// What the machine's clock said during this reading, exact to some milliseconds. None: it was not asked
    /// (`taken_at_ms` may then be told from the boot time and be off).
    pub clock_ms: Option<u64>,
    /// `/proc/sys/kernel/random/boot_id`; changes with every boot.
    pub boot_id: Option<String>,
    /// Since boot, `/proc/uptime`.
    pub uptime_ms: Option<u64>,
    /// Clock ticks a second of every `*_ticks` field (`getconf CLK_TCK`, 100 on all common kernels).
    pub ticks_per_second: Option<u32>,
    /// All cores together: first line of `/proc/stat`.
    pub cpu: Option<CpuTimes>,
    /// One entry a core that is online, `cpuN` lines of `/proc/stat`.
    pub cores: Vec<CpuCore>,
    /// CPU time that this container has used, where the machine is one with a cgroup of its own. Source: `cpu.stat`
    /// (version 2), `cpuacct.usage` (version 1).
    pub cgroup_cpu_us: Option<u64>,
    /// What the container may use, in thousandths of a core; None: no limit. Source: `cpu.max`, `cpu.cfs_quota_us`.
    pub cpu_limit_x1000: Option<u64>,
    pub load: Option<LoadAverage>,
    pub memory: Option<Memory>,
    pub pressure: Option<Pressure>,
    /// Real local filesystems only, each once.
    pub filesystems: Vec<Filesystem>,
    /// Whole disks only, no partitions, loop or ram devices.
    pub disks: Vec<Disk>,
    /// All interfaces but `lo`.
    pub interfaces: Vec<Interface>,
    pub tcp: Option<TcpSockets>,
    /// None: not asked for, or too many to count (then `gaps` says so).
    pub tcp_states: Option<TcpStates>,
    pub temperatures: Vec<Temperature>,
    /// `ctxt` of `/proc/stat`, since boot.
    pub context_switches: Option<u64>,
    /// `processes` of `/proc/stat`: forks since boot.
    pub forks: Option<u64>,
    /// Processes that exist now.
    pub processes_total: Option<u64>,
    /// Scheduling entities that exist now: the number after the slash in `/proc/loadavg`.
    pub threads_total: Option<u64>,
    pub processes_running: Option<u64>,
    pub processes_blocked: Option<u64>,
    /// First and third number of `/proc/sys/fs/file-nr`.
    pub file_handles_used: Option<u64>,
    pub file_handles_max: Option<u64>,
    /// None: not asked for in this reading.
    pub processes: Option<Vec<Process>>,
    /// None: not asked for, or the service manager cannot be read (then `gaps` says why).
    pub services: Option<Vec<Service>>,
    pub users: Option<Vec<LoggedInUser>>,
    pub facts: Option<Facts>,
    /// None: not asked for, or there is no container engine that may be asked (then `gaps` says why, where there is one).
    pub containers: Option<Vec<Container>>,
    /// None: not asked for, or no package manager is known.
    pub updates: Option<Updates>,
    /// What was asked for and could not be read.
    pub gaps: Vec<Gap>,
}
}

part! {
/// Something that could not be read, for the page that says so.
pub struct Gap {
    /// `cpu`, `memory`, `filesystems`, `processes`, `services`, `users`, `facts`, …
    pub section: String,
    /// One sentence for a person: what is missing and why.
    pub reason: String,
}
}

part! {
/// Time spent in each mode since boot, in ticks. Source: proc(5), `/proc/stat`.
/// `guest` is already contained in `user`, `guest_nice` in `nice`.
pub struct CpuTimes {
    pub user_ticks: u64,
    pub nice_ticks: u64,
    pub system_ticks: u64,
    pub idle_ticks: u64,
    pub iowait_ticks: u64,
    pub irq_ticks: u64,
    pub softirq_ticks: u64,
    pub steal_ticks: u64,
}
}

part! {
pub struct CpuCore {
    pub index: u32,
    pub times: CpuTimes,
}
}

part! {
/// Load averages times 100.
pub struct LoadAverage {
    pub one_x100: u64,
    pub five_x100: u64,
    pub fifteen_x100: u64,
}
}

part! {
/// Source: `/proc/meminfo`, converted to bytes.
pub struct Memory {
    pub total_bytes: u64,
    pub free_bytes: Option<u64>,
    /// `MemAvailable`; kernels before 3.14 do not say: then free + buffers + cached.
    /// In a container with a limit: what the limit leaves, if that is less.
    pub available_bytes: Option<u64>,
    pub buffers_bytes: Option<u64>,
    pub cached_bytes: Option<u64>,
    pub swap_total_bytes: Option<u64>,
    pub swap_free_bytes: Option<u64>,
    /// ZFS ARC size from `/proc/spl/kstat/zfs/arcstats`; counts as reclaimable.
    pub zfs_arc_bytes: Option<u64>,
    /// cgroup limit of this machine when it is a container, smaller than `total_bytes`.
    pub limit_bytes: Option<u64>,
}
}

part! {
/// Pressure stall totals in microseconds since boot, `/proc/pressure/*` (Linux 4.20+).
pub struct Pressure {
    pub cpu_some_us: Option<u64>,
    pub memory_some_us: Option<u64>,
    pub memory_full_us: Option<u64>,
    pub io_some_us: Option<u64>,
    pub io_full_us: Option<u64>,
}
}

part! {
pub struct Filesystem {
    pub mount: String,
    pub device: String,
    pub fs_type: String,
    pub size_bytes: u64,
    /// size - free (as df: blocks used, root's reserve not counted as used).
    pub used_bytes: u64,
    /// What an unprivileged user may still write.
    pub available_bytes: u64,
    /// None where the filesystem has no fixed number of inodes.
    pub inodes_total: Option<u64>,
    pub inodes_used: Option<u64>,
}
}

part! {
/// Counters since boot. Source: `/proc/diskstats` (sectors of 512 bytes converted).
pub struct Disk {
    pub name: String,
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub written_bytes: u64,
    /// Time with at least one request in flight.
    pub busy_ms: u64,
}
}

part! {
/// Counters since boot or since the interface was created. Source: `/proc/net/dev`.
pub struct Interface {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
    /// True: another interface carries the same bytes (bridge, veth, bond, VLAN, tunnel); totals leave it out.
    pub counted_elsewhere: bool,
}
}

part! {
/// Sockets now. Source: `/proc/net/sockstat`, `/proc/net/snmp` (CurrEstab).
pub struct TcpSockets {
    pub established: Option<u64>,
    pub time_wait: Option<u64>,
    pub in_use: Option<u64>,
}
}

part! {
/// TCP sockets in each state, IPv4 and IPv6 together. Source: `/proc/net/tcp`, `/proc/net/tcp6`.
pub struct TcpStates {
    pub established: u64,
    pub syn_sent: u64,
    pub syn_recv: u64,
    pub fin_wait1: u64,
    pub fin_wait2: u64,
    pub time_wait: u64,
    pub close: u64,
    pub close_wait: u64,
    pub last_ack: u64,
    pub listen: u64,
    pub closing: u64,
}
}

impl TcpStates {
    /// Each state under its name in node_exporter.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, u64); 11] {
        [
            ("established", self.established),
            ("syn_sent", self.syn_sent),
            ("syn_recv", self.syn_recv),
            ("fin_wait1", self.fin_wait1),
            ("fin_wait2", self.fin_wait2),
            ("time_wait", self.time_wait),
            ("close", self.close),
            ("close_wait", self.close_wait),
            ("last_ack", self.last_ack),
            ("listen", self.listen),
            ("closing", self.closing),
        ]
    }
}

part! {
/// Source: `/sys/class/hwmon`, else `/sys/class/thermal`.
pub struct Temperature {
    pub sensor: String,
    pub millidegrees_celsius: i64,
}
}

part! {
/// Source: `/proc/PID/stat`, `status`, `cmdline`.
pub struct Process {
    pub pid: u32,
    pub parent_pid: u32,
    /// None: the uid could not be read.
    pub uid: Option<u32>,
    /// None: no name for the uid is known.
    pub user: Option<String>,
    /// As in proc(5): R, S, D, Z, T, …
    pub state: char,
    /// `comm`: at most 15 bytes, any bytes; not UTF-8 is replaced.
    pub name: String,
    /// Arguments joined by spaces, capped; None: kernel thread, or not readable.
    pub command_line: Option<String>,
    pub user_ticks: u64,
    pub system_ticks: u64,
    pub rss_bytes: u64,
    pub threads: u32,
    /// After boot, in ticks. With the pid and the boot id it identifies a process.
    pub start_ticks: u64,
}
}

/// What runs the services of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum ServiceManager {
    Systemd,
    OpenRc,
    SysV,
    #[default]
    Unknown,
}

part! {
/// One service as its manager describes it.
pub struct Service {
    /// Without a suffix of the manager where that is `.service`: `nginx`.
    pub name: String,
    pub description: String,
    /// `active`, `inactive`, `failed`, `activating`, `deactivating`, `reloading`; `unknown` where nobody can tell.
    pub state: String,
    /// As the manager words it: `running`, `exited`, `dead`, `started`, `crashed`, …
    pub sub_state: String,
    /// `enabled`, `disabled`, `static`, `masked`, …; None: not known.
    pub enabled: Option<String>,
    pub main_pid: Option<u32>,
    pub memory_bytes: Option<u64>,
    pub restarts: Option<u64>,
    /// Since when it is in its state, Unix time in milliseconds.
    pub since_ms: Option<u64>,
}
}

part! {
pub struct LoggedInUser {
    pub name: String,
    pub terminal: Option<String>,
    pub remote_host: Option<String>,
    /// Unix time in milliseconds.
    pub since_ms: Option<u64>,
}
}

part! {
/// One container as its engine describes it. Counters are since the container was started.
pub struct Container {
    /// `docker` or `podman`.
    pub engine: String,
    /// The whole id, 64 hexadecimal digits.
    pub id: String,
    pub name: String,
    pub image: String,
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited`, `dead`.
    pub state: String,
    /// `healthy`, `unhealthy`, `starting`; None: it has no health check.
    pub health: Option<String>,
    /// CPU time used, all cores together.
    pub cpu_us: Option<u64>,
    /// Without the page cache that can be given back.
    pub memory_bytes: Option<u64>,
    /// None: no limit.
    pub memory_limit_bytes: Option<u64>,
    pub rx_bytes: Option<u64>,
    pub tx_bytes: Option<u64>,
    pub block_read_bytes: Option<u64>,
    pub block_written_bytes: Option<u64>,
    pub restarts: Option<u64>,
    /// As the engine's `ps` shows them: `0.0.0.0:80->80/tcp`.
    pub ports: Vec<String>,
    /// `name=value`.
    pub labels: Vec<String>,
    /// Its own layer on disk; read seldom.
    pub size_bytes: Option<u64>,
    /// Unix time in milliseconds.
    pub created_ms: Option<u64>,
    pub started_ms: Option<u64>,
    pub exit_code: Option<i64>,
}
}

part! {
/// Packages with a newer version in the lists that the machine has; nothing is fetched.
pub struct Updates {
    /// `apt`, `dnf`, `zypper`, `apk`, `pacman`.
    pub manager: String,
    pub pending: Option<u64>,
    /// Of these, from a security archive, where the manager tells them apart.
    pub security: Option<u64>,
}
}

part! {
/// What changes rarely.
pub struct Facts {
    pub hostname: Option<String>,
    /// `PRETTY_NAME` of os-release.
    pub os_name: Option<String>,
    /// `ID` of os-release: `debian`, `alpine`, …
    pub os_id: Option<String>,
    pub os_version: Option<String>,
    pub kernel: Option<String>,
    /// As `uname -m` says it.
    pub architecture: Option<String>,
    pub cpu_model: Option<String>,
    /// Logical cores online.
    pub cpu_cores: Option<u32>,
    /// `kvm`, `lxc`, `docker`, `none`, …
    pub virtualisation: Option<String>,
    /// True: CPU and memory are judged against this container's limits.
    pub in_container: Option<bool>,
    pub service_manager: ServiceManager,
    /// Addresses of all interfaces but loopback, without prefix length.
    pub addresses: Vec<String>,
    pub machine_vendor: Option<String>,
    pub machine_model: Option<String>,
    pub reboot_required: Option<bool>,
    pub timezone: Option<String>,
    /// Accounts of `/etc/passwd` that may log in; those of a directory service are not among them.
    pub accounts: Vec<Account>,
}
}

part! {
/// One account that has a login shell.
pub struct Account {
    pub name: String,
    pub uid: u32,
    /// As its owner wrote it: the first field of the comment.
    pub full_name: Option<String>,
    pub home: String,
    pub shell: String,
    /// Root, or in a group that sudo usually knows: `sudo`, `wheel`, `admin`.
    pub is_administrator: bool,
}
}
