//! Small files with a few numbers: load, uptime, file handles, pressure.

use crate::snapshot::{LoadAverage, Pressure};
use crate::text::{decimal, first_line, lines};

/// `/proc/loadavg`: the averages and the number of scheduling entities that exist. Source: proc_loadavg(5).
#[must_use]
pub fn loadavg(bytes: &[u8]) -> (Option<LoadAverage>, Option<u64>) {
    let Some(line) = first_line(bytes) else { return (None, None) };
    let mut words = line.split_ascii_whitespace();
    let mut next = || words.next().and_then(|word| decimal(word, 2));
    let load = match (next(), next(), next()) {
        (Some(one_x100), Some(five_x100), Some(fifteen_x100)) => {
            Some(LoadAverage { one_x100, five_x100, fifteen_x100 })
        }
        _ => None,
    };
    let threads = words.next().and_then(|word| word.split_once('/')).and_then(|(_, all)| all.parse().ok());
    (load, threads)
}

/// `/proc/uptime` in milliseconds (the kernel counts hundredths). Source: proc_uptime(5).
#[must_use]
pub fn uptime_ms(bytes: &[u8]) -> Option<u64> {
    decimal(first_line(bytes)?.split_ascii_whitespace().next()?, 3)
}

/// `/proc/sys/fs/file-nr`: handles in use and their maximum. Source: proc_sys_fs(5).
#[must_use]
pub fn file_handles(bytes: &[u8]) -> (Option<u64>, Option<u64>) {
    let Some(line) = first_line(bytes) else { return (None, None) };
    let mut words = line.split_ascii_whitespace();
    let allocated: Option<u64> = words.next().and_then(|word| word.parse().ok());
    // The second number is always 0 since Linux 2.6; before, free handles counted as allocated.
    let free: Option<u64> = words.next().and_then(|word| word.parse().ok());
    let used = allocated.zip(free).map(|(allocated, free)| allocated.saturating_sub(free));
    (used, words.next().and_then(|word| word.parse().ok()))
}

/// The files that say what CPU a container has used and may use; absent ones are `None`.
#[derive(Debug, Clone, Copy, Default)]
pub struct CgroupCpu<'a> {
    /// `cpu.stat` and `cpu.max` of version 2.
    pub stat: Option<&'a [u8]>,
    pub max: Option<&'a [u8]>,
    /// `cpuacct.usage`, `cpu.cfs_quota_us` and `cpu.cfs_period_us` of version 1.
    pub usage: Option<&'a [u8]>,
    pub quota: Option<&'a [u8]>,
    pub period: Option<&'a [u8]>,
}

/// CPU time used in microseconds, and the limit in thousandths of a core. Source:
/// Documentation/admin-guide/cgroup-v2.rst, Documentation/scheduler/sched-bwc.rst.
///
/// Time is told only of a cgroup that is not the root of all: in version 2 that has no `cpu.max`, in version 1 only a
/// limit tells it apart.
#[must_use]
pub fn cgroup_cpu(files: &CgroupCpu<'_>) -> (Option<u64>, Option<u64>) {
    let number = |file: Option<&[u8]>| first_line(file?)?.parse::<u64>().ok();
    let thousandths =
        |quota: u64, period: u64| quota.checked_mul(1000)?.checked_div(period).filter(|&limit| limit > 0);
    if let Some(max) = files.max.and_then(first_line) {
        let (quota, period) = max.split_once(' ').unwrap_or((max.as_str(), "100000"));
        let limit = quota
            .parse()
            .ok()
            .zip(period.trim().parse().ok())
            .and_then(|(quota, period)| thousandths(quota, period));
        let used = files.stat.and_then(|stat| {
            lines(stat).find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse().ok())
        });
        return (used, limit);
    }
    // Without a limit the quota is -1, which is no such number.
    let limit =
        number(files.quota).zip(number(files.period)).and_then(|(quota, period)| thousandths(quota, period));
    (number(files.usage).filter(|_| limit.is_some()).map(|ns| ns / 1000), limit)
}

/// The three files of `/proc/pressure` (Linux 4.20+, may be switched off). `None`: none of them says anything.
/// Source: Documentation/accounting/psi.rst.
#[must_use]
pub fn pressure(cpu: Option<&[u8]>, memory: Option<&[u8]>, io: Option<&[u8]>) -> Option<Pressure> {
    let total = |file: Option<&[u8]>, kind: &str| {
        lines(file?).find_map(|line| {
            let rest = line.strip_prefix(kind)?.strip_prefix(' ')?;
            rest.split_ascii_whitespace().find_map(|word| word.strip_prefix("total=")?.parse().ok())
        })
    };
    let pressure = Pressure {
        cpu_some_us: total(cpu, "some"),
        memory_some_us: total(memory, "some"),
        memory_full_us: total(memory, "full"),
        io_some_us: total(io, "some"),
        io_full_us: total(io, "full"),
    };
    (pressure != Pressure::default()).then_some(pressure)
}
