//! Two snapshots to samples: counters become rates, sizes become shares. Pure.
//!
//! A value that cannot be known is no sample: after a reboot, a counter that ran backwards, a first reading or
//! too short an interval there is a gap, never a 0 and never a spike.

use std::collections::{HashMap, HashSet};

use crate::history::metric;
use crate::model::{
    Container, ContainerUsage, CpuTimes, Disk, Interface, Labels, MetricName, Process, ProcessUsage, Sample,
    SeriesKey, Service, Snapshot,
};

/// Below this the resolution of the counters (10 ms) makes a rate mostly noise.
pub const SHORTEST_INTERVAL_MS: u64 = 200;

/// Ticks a second where the machine does not say; all common kernels show user space this many.
const DEFAULT_TICKS_PER_SECOND: u32 = 100;

/// Every metric of the catalogue that these snapshots tell, but `response_time_ms`, which only the caller can
/// know. `previous` must be an earlier snapshot of the same server, or `None`.
#[must_use]
pub fn samples(previous: Option<&Snapshot>, next: &Snapshot) -> Vec<Sample> {
    let mut out = Samples::default();
    instant(&mut out, next);
    filesystems(&mut out, next);
    let since = previous.and_then(|previous| Some((previous, elapsed_ms(previous, next)?)));
    if let Some((previous, elapsed_ms)) = since {
        cpu(&mut out, previous, next, elapsed_ms);
        pressure(&mut out, previous, next, elapsed_ms);
        disks(&mut out, previous, next, elapsed_ms);
        network(&mut out, previous, next, elapsed_ms);
        let rate = |old: Option<u64>, new: Option<u64>| per_second(difference(old?, new?)?, elapsed_ms);
        out.plain("context_switches", rate(previous.context_switches, next.context_switches));
        out.plain("forks", rate(previous.forks, next.forks));
    }
    out.0
}

/// Time between two snapshots of one boot. `None`: rebooted in between, not known, or too short.
fn elapsed_ms(previous: &Snapshot, next: &Snapshot) -> Option<u64> {
    if previous.boot_id != next.boot_id {
        return None;
    }
    elapsed_uptime_ms(previous.uptime_ms?, next.uptime_ms?)
}

fn elapsed_uptime_ms(previous_ms: u64, next_ms: u64) -> Option<u64> {
    difference(previous_ms, next_ms).filter(|&elapsed| elapsed >= SHORTEST_INTERVAL_MS)
}

/// How far a counter went. `None`: backwards, so it began anew (a wrap at 32 bits looks the same).
const fn difference(old: u64, new: u64) -> Option<u64> {
    new.checked_sub(old)
}

#[expect(clippy::cast_precision_loss, reason = "counts over 2^53 are no longer exact, and nobody sees it")]
const fn float(count: u64) -> f64 {
    count as f64
}

fn per_second(count: u64, elapsed_ms: u64) -> Option<f64> {
    (elapsed_ms > 0).then(|| float(count) * 1000.0 / float(elapsed_ms))
}

/// `part` of `whole` in percent. `None`: there is no whole.
fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| (float(part) * 100.0 / float(whole)).min(100.0))
}

#[derive(Default)]
struct Samples(Vec<Sample>);

impl Samples {
    fn plain(&mut self, name: &'static str, value: Option<f64>) {
        self.push(name, Labels::NONE, value);
    }

    fn count(&mut self, name: &'static str, value: Option<u64>) {
        self.plain(name, value.map(float));
    }

    fn each(&mut self, name: &'static str, label: &str, value: Option<f64>) {
        self.push(name, Labels::of(label), value);
    }

    fn push(&mut self, name: &'static str, labels: Labels, value: Option<f64>) {
        debug_assert!(metric::find(name).is_some_and(|metric| metric.label.is_none() == labels.is_empty()));
        if let Some(value) = value.filter(|value| value.is_finite()) {
            self.0.push(Sample { key: SeriesKey { metric: MetricName::known(name), labels }, value });
        }
    }
}

/// What one snapshot tells by itself.
fn instant(out: &mut Samples, next: &Snapshot) {
    if let Some(load) = &next.load {
        out.plain("load1", Some(float(load.one_x100) / 100.0));
        out.plain("load5", Some(float(load.five_x100) / 100.0));
        out.plain("load15", Some(float(load.fifteen_x100) / 100.0));
    }
    memory(out, next);
    if let Some(tcp) = &next.tcp {
        out.count("tcp_established", tcp.established);
        out.count("tcp_time_wait", tcp.time_wait);
        out.count("tcp_in_use", tcp.in_use);
    }
    if let Some(states) = &next.tcp_states {
        // Established and TIME-WAIT come with every reading, above.
        out.count("tcp_listen", Some(states.listen));
        out.count("tcp_syn_sent", Some(states.syn_sent));
        out.count("tcp_syn_recv", Some(states.syn_recv));
        out.count("tcp_fin_wait1", Some(states.fin_wait1));
        out.count("tcp_fin_wait2", Some(states.fin_wait2));
        out.count("tcp_close_wait", Some(states.close_wait));
        out.count("tcp_last_ack", Some(states.last_ack));
        out.count("tcp_closing", Some(states.closing));
        out.count("tcp_close", Some(states.close));
    }
    for temperature in next.temperatures.iter().filter(|temperature| !temperature.sensor.is_empty()) {
        let thousandths = i32::try_from(temperature.millidegrees_celsius).ok().map(f64::from);
        out.each("temperature_celsius", &temperature.sensor, thousandths.map(|value| value / 1000.0));
    }
    out.plain("uptime_seconds", next.uptime_ms.map(|ms| float(ms / 1000)));
    out.count("processes", next.processes_total);
    out.count("threads", next.threads_total);
    out.count("processes_running", next.processes_running);
    out.count("processes_blocked", next.processes_blocked);
    out.count("file_handles_used", next.file_handles_used);
    out.count("active_users", next.users.as_ref().and_then(|users| u64::try_from(users.len()).ok()));
    if let Some(updates) = &next.updates {
        out.count("pending_updates", updates.pending);
        out.count("pending_security_updates", updates.security);
    }
    out.count("reboot_required", next.facts.as_ref().and_then(|facts| facts.reboot_required.map(u64::from)));
    if let Some(services) = &next.services {
        let count = |wanted: fn(&Service) -> bool| {
            u64::try_from(services.iter().filter(|service| wanted(service)).count()).ok()
        };
        out.count("active_services", count(|service| service.state == "active"));
        out.count("failed_services", count(|service| service.state == "failed"));
        out.count("total_services", count(|_| true));
    }
}

/// Used is what cannot be had without swapping: total - available. The ZFS cache gives way, so it counts as
/// available; in a container with a limit, the limit is the total and the host's cache is not its own.
fn memory(out: &mut Samples, next: &Snapshot) {
    let Some(memory) = &next.memory else { return };
    let total = memory.limit_bytes.unwrap_or(memory.total_bytes);
    let arc = memory.zfs_arc_bytes.filter(|_| memory.limit_bytes.is_none()).unwrap_or(0);
    let available = memory.available_bytes.map(|available| available.saturating_add(arc).min(total));
    let used = available.map(|available| total - available);
    out.plain("memory_percent", used.and_then(|used| percent(used, total)));
    out.count("memory_used_bytes", used);
    out.count("memory_available_bytes", available);
    out.count("memory_total_bytes", Some(total));
    out.count("memory_buffers_bytes", memory.buffers_bytes);
    out.count("memory_cached_bytes", memory.cached_bytes);
    let swap_used =
        memory.swap_total_bytes.zip(memory.swap_free_bytes).map(|(total, free)| total.saturating_sub(free));
    let swap_percent = swap_used.zip(memory.swap_total_bytes).and_then(|(used, total)| percent(used, total));
    out.plain("swap_percent", swap_percent);
    out.count("swap_used_bytes", swap_used);
    out.count("swap_total_bytes", memory.swap_total_bytes);
}

/// As `df` computes it: used of what is used or may still be written, root's reserve left out.
fn filesystems(out: &mut Samples, next: &Snapshot) {
    let mut fullest: Option<f64> = None;
    for filesystem in next.filesystems.iter().filter(|filesystem| !filesystem.mount.is_empty()) {
        let writable = filesystem.used_bytes.saturating_add(filesystem.available_bytes);
        let used = percent(filesystem.used_bytes, writable);
        let inodes = filesystem.inodes_used.zip(filesystem.inodes_total);
        let mount = filesystem.mount.as_str();
        out.each("filesystem_percent", mount, used);
        out.each("filesystem_used_bytes", mount, Some(float(filesystem.used_bytes)));
        out.each("filesystem_size_bytes", mount, Some(float(filesystem.size_bytes)));
        let inodes_percent = inodes.and_then(|(used, total)| percent(used, total));
        out.each("filesystem_inodes_percent", mount, inodes_percent);
        fullest = [fullest, used].into_iter().flatten().reduce(f64::max);
    }
    out.plain("disk_percent", fullest);
}

/// Ticks spent between two readings, by mode.
struct CpuSpent {
    total: u64,
    times: CpuTimes,
}

impl CpuSpent {
    /// `None`: a mode ran backwards, or no tick passed.
    fn between(old: &CpuTimes, new: &CpuTimes) -> Option<Self> {
        let times = CpuTimes {
            user_ticks: difference(old.user_ticks, new.user_ticks)?,
            nice_ticks: difference(old.nice_ticks, new.nice_ticks)?,
            system_ticks: difference(old.system_ticks, new.system_ticks)?,
            idle_ticks: difference(old.idle_ticks, new.idle_ticks)?,
            iowait_ticks: difference(old.iowait_ticks, new.iowait_ticks)?,
            irq_ticks: difference(old.irq_ticks, new.irq_ticks)?,
            softirq_ticks: difference(old.softirq_ticks, new.softirq_ticks)?,
            steal_ticks: difference(old.steal_ticks, new.steal_ticks)?,
        };
        let total = [
            times.user_ticks,
            times.nice_ticks,
            times.system_ticks,
            times.idle_ticks,
            times.iowait_ticks,
            times.irq_ticks,
            times.softirq_ticks,
            times.steal_ticks,
        ]
        .into_iter()
        .try_fold(0_u64, u64::checked_add)
        .filter(|&total| total > 0)?;
        Some(Self { total, times })
    }

    fn share(&self, ticks: u64) -> Option<f64> {
        percent(ticks, self.total)
    }

    /// Time not idle; waiting for I/O counts as idle.
    fn busy(&self) -> Option<f64> {
        self.share(self.total - self.times.idle_ticks - self.times.iowait_ticks)
    }
}

/// CPU use of a container in percent of what it may use. None: it has no limit of its own, or that changed.
fn limited_cpu(previous: &Snapshot, next: &Snapshot, elapsed_ms: u64) -> Option<f64> {
    let limit = next.cpu_limit_x1000.filter(|limit| previous.cpu_limit_x1000 == Some(*limit))?;
    let used_us = difference(previous.cgroup_cpu_us?, next.cgroup_cpu_us?)?;
    // A thousandth of a core is one microsecond a millisecond.
    percent(used_us, limit.checked_mul(elapsed_ms)?)
}

/// In a container with a limit the total is judged against that; the modes stay shares of all that the kernel shows.
fn cpu(out: &mut Samples, previous: &Snapshot, next: &Snapshot, elapsed_ms: u64) {
    let limited = next.cpu_limit_x1000.is_some() && next.cgroup_cpu_us.is_some();
    let both = previous.cpu.as_ref().zip(next.cpu.as_ref());
    if let Some(spent) = both.and_then(|(old, new)| CpuSpent::between(old, new)) {
        let times = &spent.times;
        let busy = if limited { limited_cpu(previous, next, elapsed_ms) } else { spent.busy() };
        out.plain("cpu_percent", busy);
        out.plain("cpu_user_percent", spent.share(times.user_ticks));
        out.plain("cpu_system_percent", spent.share(times.system_ticks));
        out.plain("cpu_nice_percent", spent.share(times.nice_ticks));
        out.plain("cpu_iowait_percent", spent.share(times.iowait_ticks));
        out.plain("cpu_irq_percent", spent.share(times.irq_ticks.saturating_add(times.softirq_ticks)));
        out.plain("cpu_steal_percent", spent.share(times.steal_ticks));
    }
    let before: HashMap<u32, &CpuTimes> =
        previous.cores.iter().map(|core| (core.index, &core.times)).collect();
    for core in &next.cores {
        let spent = before.get(&core.index).and_then(|old| CpuSpent::between(old, &core.times));
        out.each("core_percent", &core.index.to_string(), spent.and_then(|spent| spent.busy()));
    }
}

fn pressure(out: &mut Samples, previous: &Snapshot, next: &Snapshot, elapsed_ms: u64) {
    let (Some(old), Some(new)) = (&previous.pressure, &next.pressure) else { return };
    let elapsed_us = elapsed_ms.saturating_mul(1000);
    let share = |old: Option<u64>, new: Option<u64>| percent(difference(old?, new?)?, elapsed_us);
    out.plain("pressure_cpu_percent", share(old.cpu_some_us, new.cpu_some_us));
    out.plain("pressure_memory_percent", share(old.memory_some_us, new.memory_some_us));
    out.plain("pressure_io_percent", share(old.io_some_us, new.io_some_us));
    out.plain("pressure_memory_full_percent", share(old.memory_full_us, new.memory_full_us));
    out.plain("pressure_io_full_percent", share(old.io_full_us, new.io_full_us));
}

/// A total over things that come and go: of those that were there both times. `None`: there is none, or one
/// of them began anew, so that the total would dip.
#[derive(Default)]
struct Total {
    sum: Option<u64>,
    broken: bool,
}

impl Total {
    fn add(&mut self, part: Option<u64>) {
        match part {
            Some(part) => self.sum = Some(self.sum.unwrap_or(0).saturating_add(part)),
            None => self.broken = true,
        }
    }

    fn per_second(&self, elapsed_ms: u64) -> Option<f64> {
        per_second(self.sum.filter(|_| !self.broken)?, elapsed_ms)
    }
}

fn disks(out: &mut Samples, previous: &Snapshot, next: &Snapshot, elapsed_ms: u64) {
    let before: HashMap<&str, &Disk> = previous.disks.iter().map(|disk| (disk.name.as_str(), disk)).collect();
    let (mut all_read, mut all_written) = (Total::default(), Total::default());
    for disk in next.disks.iter().filter(|disk| !disk.name.is_empty()) {
        let Some(old) = before.get(disk.name.as_str()) else { continue };
        let read = difference(old.read_bytes, disk.read_bytes);
        let written = difference(old.written_bytes, disk.written_bytes);
        // busy_ms has 32 bits in the kernel and wraps every 49 days of work.
        let busy = difference(old.busy_ms, disk.busy_ms);
        all_read.add(read);
        all_written.add(written);
        let rate = |bytes: Option<u64>| per_second(bytes?, elapsed_ms);
        out.each("disk_device_read_bytes", &disk.name, rate(read));
        out.each("disk_device_written_bytes", &disk.name, rate(written));
        out.each("disk_device_busy_percent", &disk.name, busy.and_then(|busy| percent(busy, elapsed_ms)));
    }
    out.plain("disk_read_bytes", all_read.per_second(elapsed_ms));
    out.plain("disk_written_bytes", all_written.per_second(elapsed_ms));
}

fn network(out: &mut Samples, previous: &Snapshot, next: &Snapshot, elapsed_ms: u64) {
    let before: HashMap<&str, &Interface> =
        previous.interfaces.iter().map(|interface| (interface.name.as_str(), interface)).collect();
    let (mut all_rx, mut all_tx) = (Total::default(), Total::default());
    for interface in next.interfaces.iter().filter(|interface| !interface.name.is_empty()) {
        let Some(old) = before.get(interface.name.as_str()) else { continue };
        // One counter that ran backwards means a new interface: the others mean nothing either.
        let kept = difference(old.rx_packets, interface.rx_packets)
            .and(difference(old.tx_packets, interface.tx_packets));
        let rx = kept.and(difference(old.rx_bytes, interface.rx_bytes));
        let tx = kept.and(difference(old.tx_bytes, interface.tx_bytes));
        let errors = |of: &Interface| of.rx_errors.saturating_add(of.tx_errors);
        let errors = kept.and(difference(errors(old), errors(interface)));
        if !interface.counted_elsewhere && !old.counted_elsewhere {
            all_rx.add(rx);
            all_tx.add(tx);
        }
        let rate = |count: Option<u64>| per_second(count?, elapsed_ms);
        out.each("interface_rx_bytes", &interface.name, rate(rx));
        out.each("interface_tx_bytes", &interface.name, rate(tx));
        out.each("interface_errors", &interface.name, rate(errors));
    }
    out.plain("network_rx_bytes", all_rx.per_second(elapsed_ms));
    out.plain("network_tx_bytes", all_tx.per_second(elapsed_ms));
}

/// The containers of `next` with their rates since `previous`, by name.
///
/// None where `next` holds none. A container is the same only with the same boot, id and start; a counter that ran
/// backwards began anew: no rate.
#[must_use]
pub fn containers(previous: Option<&ContainerCounts>, next: &Snapshot) -> Option<Vec<ContainerUsage>> {
    let since = previous.and_then(|previous| Some((previous, previous.elapsed_ms(next)?)));
    let (before, elapsed_ms): (HashMap<&str, &Container>, u64) = match since {
        Some((before, elapsed_ms)) => {
            (before.containers.iter().map(|one| (one.id.as_str(), one)).collect(), elapsed_ms)
        }
        None => (HashMap::new(), 0),
    };
    let usage = |container: &Container| {
        let old = before.get(container.id.as_str()).filter(|old| old.started_ms == container.started_ms);
        let rate = |of: fn(&Container) -> Option<u64>| {
            old.and_then(|old| per_second(difference(of(old)?, of(container)?)?, elapsed_ms))
        };
        ContainerUsage {
            // Microseconds a second are millionths of a core.
            cpu_percent: rate(|one| one.cpu_us).map(|us| us / 10_000.0),
            rx_per_second: rate(|one| one.rx_bytes),
            tx_per_second: rate(|one| one.tx_bytes),
            block_read_per_second: rate(|one| one.block_read_bytes),
            block_written_per_second: rate(|one| one.block_written_bytes),
            container: container.clone(),
        }
    };
    Some(next.containers.as_ref()?.iter().map(usage).collect())
}

/// The samples of these containers. Two of one name (of two engines) would be one series: the first has it.
#[must_use]
pub fn container_samples(usages: &[ContainerUsage]) -> Vec<Sample> {
    let mut out = Samples::default();
    let mut seen = HashSet::new();
    for usage in usages {
        let container = &usage.container;
        let name = container.name.as_str();
        if name.is_empty() || !seen.insert(name) {
            continue;
        }
        out.each("container_cpu_percent", name, usage.cpu_percent);
        out.each("container_memory_bytes", name, container.memory_bytes.map(float));
        out.each("container_rx_bytes", name, usage.rx_per_second);
        out.each("container_tx_bytes", name, usage.tx_per_second);
        out.each("container_block_read_bytes", name, usage.block_read_per_second);
        out.each("container_block_written_bytes", name, usage.block_written_per_second);
        out.each("container_restarts", name, container.restarts.map(float));
    }
    let running = usages.iter().filter(|usage| usage.container.state == "running").count();
    out.count("containers_running", u64::try_from(running).ok());
    out.0
}

/// What the next reading of containers is compared with.
#[derive(Debug, Clone)]
pub struct ContainerCounts {
    boot_id: Option<String>,
    uptime_ms: Option<u64>,
    containers: Box<[Container]>,
}

impl ContainerCounts {
    /// None: the snapshot holds no containers.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Option<Self> {
        let counts = |container: &Container| Container {
            id: container.id.clone(),
            cpu_us: container.cpu_us,
            rx_bytes: container.rx_bytes,
            tx_bytes: container.tx_bytes,
            block_read_bytes: container.block_read_bytes,
            block_written_bytes: container.block_written_bytes,
            started_ms: container.started_ms,
            ..Container::default()
        };
        Some(Self {
            boot_id: snapshot.boot_id.clone(),
            uptime_ms: snapshot.uptime_ms,
            containers: snapshot.containers.as_ref()?.iter().map(counts).collect(),
        })
    }

    fn elapsed_ms(&self, next: &Snapshot) -> Option<u64> {
        if self.boot_id != next.boot_id {
            return None;
        }
        elapsed_uptime_ms(self.uptime_ms?, next.uptime_ms?)
    }
}

/// All processes of `next`, taken out of it, with their CPU use since `previous`: the busiest first, then the largest.
///
/// Empty where `next` holds none. A process is the same only with the same boot, pid and start; a new one, or
/// one whose previous state is not known, has no CPU figure.
#[must_use]
pub fn processes(previous: Option<&ProcessTimes>, next: &mut Snapshot) -> Vec<ProcessUsage> {
    let taken = next.processes.take().unwrap_or_default();
    let since = previous.and_then(|previous| Some((&previous.times, previous.elapsed_ms(next)?)));
    let (before, elapsed_ms): (HashMap<(u32, u64), &ProcessTime>, u64) = match since {
        Some((before, elapsed_ms)) => (before.iter().map(|time| (time.identity, time)).collect(), elapsed_ms),
        None => (HashMap::new(), 0),
    };
    let ticks_per_second =
        next.ticks_per_second.filter(|&ticks| ticks > 0).unwrap_or(DEFAULT_TICKS_PER_SECOND);
    let ms = |ticks: u64| ticks.checked_mul(1000).map(|ticks| ticks / u64::from(ticks_per_second));
    let boot_at_ms = next.taken_at_ms.zip(next.uptime_ms).and_then(|(now, up)| now.checked_sub(up));
    let usage = |process: Process| {
        let spent = before.get(&identity(&process)).and_then(|old| {
            let user = difference(old.user_ticks, process.user_ticks)?;
            ms(user.checked_add(difference(old.system_ticks, process.system_ticks)?)?)
        });
        ProcessUsage {
            cpu_percent: spent.map(|spent_ms| float(spent_ms) * 100.0 / float(elapsed_ms)),
            started_at_ms: boot_at_ms.and_then(|boot| boot.checked_add(ms(process.start_ticks)?)),
            process,
        }
    };
    let mut all: Vec<ProcessUsage> = taken.into_iter().map(usage).collect();
    all.sort_by(|a, b| {
        let cpu = |usage: &ProcessUsage| usage.cpu_percent.unwrap_or(-1.0);
        cpu(b).total_cmp(&cpu(a)).then_with(|| by_memory(a, b))
    });
    all
}

/// When a process of this snapshot started, Unix time in milliseconds.
#[must_use]
pub fn started_at_ms(snapshot: &Snapshot, process: &Process) -> Option<u64> {
    let boot_at_ms = snapshot.taken_at_ms?.checked_sub(snapshot.uptime_ms?)?;
    let ticks = snapshot.ticks_per_second.filter(|&ticks| ticks > 0).unwrap_or(DEFAULT_TICKS_PER_SECOND);
    boot_at_ms.checked_add(process.start_ticks.checked_mul(1000)? / u64::from(ticks))
}

/// What the next reading of processes is compared with: a fiftieth of the snapshot that it comes from, and there is
/// one for every server.
#[derive(Debug, Clone)]
pub struct ProcessTimes {
    boot_id: Option<String>,
    uptime_ms: Option<u64>,
    times: Box<[ProcessTime]>,
}

#[derive(Debug, Clone)]
struct ProcessTime {
    identity: (u32, u64),
    user_ticks: u64,
    system_ticks: u64,
}

impl ProcessTimes {
    /// None: the snapshot holds no processes.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Option<Self> {
        let time = |process: &Process| ProcessTime {
            identity: identity(process),
            user_ticks: process.user_ticks,
            system_ticks: process.system_ticks,
        };
        Some(Self {
            boot_id: snapshot.boot_id.clone(),
            uptime_ms: snapshot.uptime_ms,
            times: snapshot.processes.as_ref()?.iter().map(time).collect(),
        })
    }

    fn elapsed_ms(&self, next: &Snapshot) -> Option<u64> {
        if self.boot_id != next.boot_id {
            return None;
        }
        elapsed_uptime_ms(self.uptime_ms?, next.uptime_ms?)
    }
}

const fn identity(process: &Process) -> (u32, u64) {
    (process.pid, process.start_ticks)
}

fn by_memory(a: &ProcessUsage, b: &ProcessUsage) -> std::cmp::Ordering {
    b.process.rss_bytes.cmp(&a.process.rss_bytes).then(a.process.pid.cmp(&b.process.pid))
}

/// The first `n` of `usages` (as [`processes`] sorts them, the busiest), and the `n` largest by memory where
/// they are not among those, with the ancestors of each, in the order of `usages`.
#[must_use]
pub fn top(mut usages: Vec<ProcessUsage>, n: usize) -> Vec<ProcessUsage> {
    let mut largest: Vec<&ProcessUsage> = usages.iter().collect();
    largest.sort_by(|a, b| by_memory(a, b));
    let large: HashSet<u32> = largest.into_iter().take(n).map(|usage| usage.process.pid).collect();
    let mut kept = large;
    kept.extend(usages.iter().take(n).map(|usage| usage.process.pid));
    let parents: HashMap<u32, u32> =
        usages.iter().map(|usage| (usage.process.pid, usage.process.parent_pid)).collect();
    let mut rising: Vec<u32> = kept.iter().copied().collect();
    while let Some(pid) = rising.pop() {
        let parent = parents.get(&pid).copied().filter(|parent| parents.contains_key(parent));
        rising.extend(parent.filter(|parent| kept.insert(*parent)));
    }
    usages.retain(|usage| kept.contains(&usage.process.pid));
    usages.shrink_to_fit();
    usages
}
