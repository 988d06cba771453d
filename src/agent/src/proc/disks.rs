//! `/proc/diskstats`: I/O counters of whole disks. Source: Documentation/admin-guide/iostats.rst.

use crate::limits;
use crate::snapshot::Disk;
use crate::text::{clean, lines};

/// Bytes of a sector in `/proc/diskstats`, whatever the disk's own size.
const SECTOR_BYTES: u64 = 512;

/// Devices that are not disks, or whose I/O is counted again by the disk beneath.
const NOT_DISKS: &[&str] =
    &["loop", "ram", "zram", "sr", "fd", "dm-", "md", "zd", "drbd", "bcache", "mtdblock"];

/// Parses `/proc/diskstats`. Partitions are told from their disk by name, as `/sys` is not at hand:
/// `sda1` is one where `sda` exists, `nvme0n1p2` where `nvme0n1` does; a lone `xvda1` is a disk.
#[must_use]
pub fn diskstats(bytes: &[u8]) -> Vec<Disk> {
    let all: Vec<Disk> = lines(bytes).filter_map(|line| disk(&line)).take(limits::DISKS * 4).collect();
    let names: std::collections::HashSet<&str> = all.iter().map(|disk| disk.name.as_str()).collect();
    all.iter()
        .filter(|disk| !NOT_DISKS.iter().any(|prefix| numbered(&disk.name, prefix)))
        .filter(|disk| !is_partition(&disk.name, &names))
        // A network block device that is not connected.
        .filter(|disk| !(numbered(&disk.name, "nbd") && disk.reads == 0 && disk.writes == 0))
        .take(limits::DISKS)
        .cloned()
        .collect()
}

fn numbered(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn is_partition(name: &str, names: &std::collections::HashSet<&str>) -> bool {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    if stem.len() == name.len() {
        return false;
    }
    let by_p = stem.strip_suffix('p').filter(|disk| disk.ends_with(|c: char| c.is_ascii_digit()));
    names.contains(stem) || by_p.is_some_and(|disk| names.contains(disk))
}

fn disk(line: &str) -> Option<Disk> {
    let mut words = line.split_ascii_whitespace().skip(2);
    let name = clean(words.next()?.as_bytes(), limits::TEXT_BYTES);
    let mut numbers = [0_u64; 10];
    for number in &mut numbers {
        *number = words.next()?.parse().ok()?;
    }
    let [reads, _, sectors_read, _, writes, _, sectors_written, _, _, busy_ms] = numbers;
    Some(Disk {
        name,
        reads,
        read_bytes: sectors_read.checked_mul(SECTOR_BYTES)?,
        writes,
        written_bytes: sectors_written.checked_mul(SECTOR_BYTES)?,
        busy_ms,
    })
}
