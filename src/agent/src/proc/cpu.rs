//! `/proc/stat`: CPU times, context switches, forks, run queue. Source: proc_stat(5).

use crate::limits;
use crate::snapshot::{CpuCore, CpuTimes};
use crate::text::lines;

/// What `/proc/stat` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stat {
    pub cpu: Option<CpuTimes>,
    pub cores: Vec<CpuCore>,
    pub context_switches: Option<u64>,
    pub forks: Option<u64>,
    pub processes_running: Option<u64>,
    pub processes_blocked: Option<u64>,
    /// Unix time of the boot, in whole seconds.
    pub boot_time_s: Option<u64>,
}

/// Parses `/proc/stat`. The `intr` and `softirq` lines are skipped unread.
#[must_use]
pub fn stat(bytes: &[u8]) -> Stat {
    let mut stat = Stat::default();
    for raw in bytes.split(|&byte| byte == b'\n') {
        if raw.starts_with(b"intr") || raw.starts_with(b"softirq") {
            continue;
        }
        let Ok(line) = std::str::from_utf8(raw) else { continue };
        let Some((key, rest)) = line.split_once(' ') else { continue };
        let number = || rest.trim().parse().ok();
        match key {
            "cpu" => stat.cpu = times(rest),
            "ctxt" => stat.context_switches = number(),
            "processes" => stat.forks = number(),
            "procs_running" => stat.processes_running = number(),
            "procs_blocked" => stat.processes_blocked = number(),
            "btime" => stat.boot_time_s = number(),
            _ => {
                let core = key.strip_prefix("cpu").and_then(|index| index.parse().ok()).zip(times(rest));
                if let Some((index, times)) = core.filter(|_| stat.cores.len() < limits::CORES) {
                    stat.cores.push(CpuCore { index, times });
                }
            }
        }
    }
    stat
}

/// The numbers of a `cpu` line. Kernels before 2.6.11 have no steal; fewer than four are no CPU line.
fn times(text: &str) -> Option<CpuTimes> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse::<u64>);
    let (user, nice, system, idle) =
        (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    let mut or_zero = || numbers.next().and_then(Result::ok).unwrap_or(0);
    Some(CpuTimes {
        user_ticks: user,
        nice_ticks: nice,
        system_ticks: system,
        idle_ticks: idle,
        iowait_ticks: or_zero(),
        irq_ticks: or_zero(),
        softirq_ticks: or_zero(),
        steal_ticks: or_zero(),
    })
}

/// Logical cores that `/proc/stat` lists, for the facts.
#[must_use]
pub fn core_count(bytes: &[u8]) -> Option<u32> {
    let count = lines(bytes)
        .filter(|line| {
            line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
        .count();
    u32::try_from(count).ok().filter(|&count| count > 0)
}
