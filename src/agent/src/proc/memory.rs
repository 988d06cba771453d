//! Memory: `/proc/meminfo`, the ZFS cache, the limit of a container.

use crate::snapshot::Memory;
use crate::text::{first_line, lines};

/// The files that together say how much memory there is; absent ones are `None`.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryFiles<'a> {
    pub meminfo: Option<&'a [u8]>,
    /// `/proc/spl/kstat/zfs/arcstats`.
    pub arcstats: Option<&'a [u8]>,
    /// `memory.max` (cgroup v2) or `memory.limit_in_bytes` (v1) of the cgroup that is the root here.
    pub limit: Option<&'a [u8]>,
    /// `memory.current` or `memory.usage_in_bytes`.
    pub usage: Option<&'a [u8]>,
    /// `memory.stat`.
    pub stat: Option<&'a [u8]>,
}

/// Memory of the machine. `None`: no `MemTotal`.
///
/// In a container with a limit below the memory of its host, `available_bytes` is what the limit leaves:
/// limit - (usage - inactive page cache), never more than the host has. Source: proc_meminfo(5),
/// Documentation/admin-guide/cgroup-v2.rst.
#[must_use]
pub fn memory(files: &MemoryFiles<'_>) -> Option<Memory> {
    let mut memory = meminfo(files.meminfo?)?;
    memory.zfs_arc_bytes = files.arcstats.and_then(arc_size);
    let number = |file: Option<&[u8]>| first_line(file?)?.parse::<u64>().ok();
    memory.limit_bytes = number(files.limit).filter(|&limit| limit > 0 && limit < memory.total_bytes);
    if let (Some(limit), Some(usage)) = (memory.limit_bytes, number(files.usage)) {
        let reclaimable = files.stat.and_then(inactive_file).unwrap_or(0);
        let left = limit.saturating_sub(usage.saturating_sub(reclaimable));
        memory.available_bytes = Some(memory.available_bytes.map_or(left, |host| host.min(left)));
    }
    Some(memory)
}

fn meminfo(bytes: &[u8]) -> Option<Memory> {
    let mut total = None;
    let mut memory = Memory::default();
    for line in lines(bytes) {
        let Some((key, rest)) = line.split_once(':') else { continue };
        let value = rest
            .split_ascii_whitespace()
            .next()
            .and_then(|word| word.parse::<u64>().ok())
            .and_then(|kibibytes| kibibytes.checked_mul(1024));
        match key {
            "MemTotal" => total = value,
            "MemFree" => memory.free_bytes = value,
            "MemAvailable" => memory.available_bytes = value,
            "Buffers" => memory.buffers_bytes = value,
            "Cached" => memory.cached_bytes = value,
            "SwapTotal" => memory.swap_total_bytes = value,
            "SwapFree" => memory.swap_free_bytes = value,
            _ => {}
        }
    }
    memory.total_bytes = total?;
    if memory.available_bytes.is_none() {
        let parts = [memory.free_bytes, memory.buffers_bytes, memory.cached_bytes];
        let sum = parts.into_iter().try_fold(0_u64, |sum, part| sum.checked_add(part?));
        memory.available_bytes = sum.map(|sum| sum.min(memory.total_bytes));
    }
    Some(memory)
}

/// The `size` row of arcstats: `size 4 1234`.
fn arc_size(bytes: &[u8]) -> Option<u64> {
    lines(bytes).find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "size").then(|| words.nth(1)?.parse().ok())?
    })
}

/// `total_inactive_file` (v1, with all children) or `inactive_file` (v2).
fn inactive_file(bytes: &[u8]) -> Option<u64> {
    let row = |name: &str| {
        lines(bytes).find_map(|line| {
            let (key, value) = line.split_once(' ')?;
            (key == name).then(|| value.trim().parse().ok())?
        })
    };
    row("total_inactive_file").or_else(|| row("inactive_file"))
}
