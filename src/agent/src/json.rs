//! A snapshot as JSON, written without a library: the agent program has no dependencies.
//!
//! The shape is that of the type: every field under its name, unknown as `null`. The central server reads
//! it with serde; a test keeps both equal.

use std::fmt::Write as _;

use crate::scan::Scan;
use crate::snapshot::{
    Account, Container, CpuCore, CpuTimes, Disk, Facts, Filesystem, Gap, Interface, LoadAverage,
    LoggedInUser, Memory, Pressure, Process, Service, ServiceManager, Snapshot, TcpSockets, TcpStates,
    Temperature, Updates,
};

/// Text of a list that is handed on at once: as much as an SSH packet carries.
const PIECE_BYTES: usize = 32 * 1024;

/// One line of JSON, without a line break.
#[must_use]
pub fn to_json(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    snapshot.write(&mut out);
    out
}

/// [`to_json`] at the end of `out`.
pub fn append(snapshot: &Snapshot, out: &mut String) {
    snapshot.write(out);
}

/// The facts of a machine as JSON.
#[must_use]
pub fn facts(facts: &Facts) -> String {
    let mut out = String::new();
    facts.write(&mut out);
    out
}

/// A list of processes as JSON.
#[must_use]
pub fn processes(processes: &Vec<Process>) -> String {
    let mut out = String::new();
    processes.write(&mut out);
    out
}

/// A string as JSON, with its quotes; `None` as `null`.
#[must_use]
pub fn string(text: Option<&str>) -> String {
    let mut out = String::new();
    match text {
        Some(text) => text.write(&mut out),
        None => out.push_str("null"),
    }
    out
}

trait Json {
    fn write(&self, out: &mut String);
}

macro_rules! numbers {
    ($($kind:ty),*) => { $(impl Json for $kind {
        fn write(&self, out: &mut String) {
            // Writing to a String cannot fail.
            let _ = write!(out, "{self}");
        }
    })* };
}

numbers!(i64, bool);

impl Json for u64 {
    /// A reading of thousands of processes has tens of thousands of numbers; the formatter takes three times as long.
    fn write(&self, out: &mut String) {
        let (mut digits, mut rest, mut count) = ([0; 20], *self, 0);
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            count += 1;
            if rest == 0 {
                break;
            }
        }
        let written = digits.get(digits.len() - count..).unwrap_or_default();
        out.push_str(std::str::from_utf8(written).unwrap_or_default());
    }
}

impl Json for u32 {
    fn write(&self, out: &mut String) {
        u64::from(*self).write(out);
    }
}

/// Writes some fields of an object, each behind a comma.
macro_rules! members {
    ($out:ident: $($field:ident),* $(,)?) => { $(
        $out.push_str(concat!(",\"", stringify!($field), "\":"));
        $field.write($out);
    )* };
}

/// Writes a snapshot whose list of processes `list` writes. The destructuring makes a field that is forgotten an error.
fn snapshot_with<E>(
    snapshot: &Snapshot,
    out: &mut String,
    list: impl FnOnce(&mut String) -> Result<(), E>,
) -> Result<(), E> {
    let Snapshot {
        taken_at_ms,
        clock_ms,
        boot_id,
        uptime_ms,
        ticks_per_second,
        cpu,
        cores,
        cgroup_cpu_us,
        cpu_limit_x1000,
        load,
        memory,
        pressure,
        filesystems,
        disks,
        interfaces,
        tcp,
        tcp_states,
        temperatures,
        context_switches,
        forks,
        processes_total,
        threads_total,
        processes_running,
        processes_blocked,
        file_handles_used,
        file_handles_max,
        processes: _,
        services,
        users,
        facts,
        containers,
        updates,
        gaps,
    } = snapshot;
    out.push_str("{\"taken_at_ms\":");
    taken_at_ms.write(out);
    members!(out: clock_ms, boot_id, uptime_ms, ticks_per_second, cpu, cores, cgroup_cpu_us, cpu_limit_x1000, load, memory, pressure);
    members!(out: filesystems, disks, interfaces, tcp, tcp_states, temperatures, context_switches, forks, processes_total);
    members!(out: threads_total, processes_running, processes_blocked, file_handles_used, file_handles_max);
    out.push_str(",\"processes\":");
    list(out)?;
    members!(out: services, users, facts, containers, updates, gaps);
    out.push('}');
    Ok(())
}

impl Json for Snapshot {
    fn write(&self, out: &mut String) {
        let Ok(()) = snapshot_with(self, out, |out| {
            self.processes.write(out);
            Ok::<(), std::convert::Infallible>(())
        });
    }
}

/// [`append`] with the processes that `scan` tells in place of those of the snapshot. `handed_on` gets the text whenever there
/// are some kilobytes of it, and empties it: a list of thousands never stands in memory, neither as processes nor as text.
///
/// # Errors
/// Those of `handed_on`.
pub fn append_with<E>(
    snapshot: &Snapshot,
    scan: &Scan,
    out: &mut String,
    mut handed_on: impl FnMut(&mut String) -> Result<(), E>,
) -> Result<(), E> {
    snapshot_with(snapshot, out, |out| {
        out.push('[');
        let mut is_first = true;
        scan.tell(|process| {
            if !std::mem::take(&mut is_first) {
                out.push(',');
            }
            process.write(out);
            if out.len() >= PIECE_BYTES { handed_on(out) } else { Ok(()) }
        })?;
        out.push(']');
        Ok(())
    })
}

/// Writes a struct as an object. The destructuring makes a field that is forgotten here an error.
macro_rules! objects {
    ($($kind:ident { $first:ident $(, $field:ident)* $(,)? })*) => { $(impl Json for $kind {
        fn write(&self, out: &mut String) {
            let $kind { $first $(, $field)* } = self;
            out.push_str(concat!("{\"", stringify!($first), "\":"));
            $first.write(out);
            $(
                out.push_str(concat!(",\"", stringify!($field), "\":"));
                $field.write(out);
            )*
            out.push('}');
        }
    })* };
}

impl Json for str {
    fn write(&self, out: &mut String) {
        out.push('"');
        // What needs no escape is copied as a whole. Every byte of a character beyond ASCII is 128 or more.
        let mut rest = self;
        while let Some(at) = rest.bytes().position(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
            let (plain, after) = rest.split_at(at);
            out.push_str(plain);
            let mut after = after.chars();
            match after.next() {
                Some('"') => out.push_str("\\\""),
                Some('\\') => out.push_str("\\\\"),
                Some('\n') => out.push_str("\\n"),
                Some('\r') => out.push_str("\\r"),
                Some('\t') => out.push_str("\\t"),
                Some('\u{8}') => out.push_str("\\b"),
                Some('\u{c}') => out.push_str("\\f"),
                other => {
                    let _ = write!(out, "\\u{:04x}", other.map_or(0, u32::from));
                }
            }
            rest = after.as_str();
        }
        out.push_str(rest);
        out.push('"');
    }
}

impl Json for String {
    fn write(&self, out: &mut String) {
        self.as_str().write(out);
    }
}

impl Json for char {
    fn write(&self, out: &mut String) {
        self.encode_utf8(&mut [0; 4]).write(out);
    }
}

impl<T: Json> Json for Option<T> {
    fn write(&self, out: &mut String) {
        match self {
            Some(value) => value.write(out),
            None => out.push_str("null"),
        }
    }
}

impl<T: Json> Json for Vec<T> {
    fn write(&self, out: &mut String) {
        out.push('[');
        for (position, value) in self.iter().enumerate() {
            if position > 0 {
                out.push(',');
            }
            value.write(out);
        }
        out.push(']');
    }
}

impl Json for ServiceManager {
    fn write(&self, out: &mut String) {
        out.push_str(match self {
            Self::Systemd => "\"systemd\"",
            Self::OpenRc => "\"open_rc\"",
            Self::SysV => "\"sys_v\"",
            Self::Unknown => "\"unknown\"",
        });
    }
}

objects! {
    Gap { section, reason }
    CpuTimes {
        user_ticks, nice_ticks, system_ticks, idle_ticks, iowait_ticks, irq_ticks, softirq_ticks, steal_ticks,
    }
    CpuCore { index, times }
    LoadAverage { one_x100, five_x100, fifteen_x100 }
    Memory {
        total_bytes, free_bytes, available_bytes, buffers_bytes, cached_bytes, swap_total_bytes,
        swap_free_bytes, zfs_arc_bytes, limit_bytes,
    }
    Pressure { cpu_some_us, memory_some_us, memory_full_us, io_some_us, io_full_us }
    Filesystem {
        mount, device, fs_type, size_bytes, used_bytes, available_bytes, inodes_total, inodes_used,
    }
    Disk { name, reads, read_bytes, writes, written_bytes, busy_ms }
    Interface {
        name, rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors, tx_dropped,
        counted_elsewhere,
    }
    TcpSockets { established, time_wait, in_use }
    TcpStates {
        established, syn_sent, syn_recv, fin_wait1, fin_wait2, time_wait, close, close_wait, last_ack, listen, closing,
    }
    Temperature { sensor, millidegrees_celsius }
    Process {
        pid, parent_pid, uid, user, state, name, command_line, user_ticks, system_ticks, rss_bytes, threads,
        start_ticks,
    }
    Service {
        name, description, state, sub_state, enabled, main_pid, memory_bytes, restarts, since_ms,
    }
    LoggedInUser { name, terminal, remote_host, since_ms }
    Container {
        engine, id, name, image, state, health, cpu_us, memory_bytes, memory_limit_bytes, rx_bytes, tx_bytes,
        block_read_bytes, block_written_bytes, restarts, ports, labels, size_bytes, created_ms, started_ms,
        exit_code,
    }
    Updates { manager, pending, security }
    Facts {
        hostname, os_name, os_id, os_version, kernel, architecture, cpu_model, cpu_cores, virtualisation,
        in_container, service_manager, addresses, machine_vendor, machine_model, reboot_required, timezone, accounts,
    }
    Account { name, uid, full_name, home, shell, is_administrator }
}
