//! The list of processes, again and again, for little.
//!
//! A process that used no CPU between its last two readings is idle: it is read again every 8th time, and at the
//! latest after [`IDLE_TIME_LIMIT`], so its memory and state may be that old. Users and command lines are read when a
//! process is seen first, once more when it is read again (it may have been between fork and exec), and when its
//! name changes. A reused pid is told by the inode number of its directory, which readdir(3) gives away.
//! To list the pids of thousands of processes costs more than all the rest of a reading; see [`Count`].

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::limits;
use crate::proc::process;
use crate::snapshot::Process;

/// Idle processes take turns by pid, so that every reading costs the same.
const TURNS: u32 = 8;

/// Where readings are far apart, turns would take too long.
const IDLE_TIME_LIMIT: Duration = Duration::from_secs(10);

/// `stat` has about 350 bytes; a name and 52 numbers at their longest stay under this.
const STAT_BYTES: usize = 2048;

/// `status` has about 1.5 KB, with `Uid:` in the first half.
const STATUS_BYTES: usize = 4096;

/// One numbered directory under `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub pid: u32,
    inode: u64,
}

/// The processes there are, by pid; `None`: the directory cannot be read.
#[must_use]
pub fn entries(proc: &Path) -> Option<Vec<Entry>> {
    let numbered = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some(Entry { pid, inode: entry.ino() })
    };
    let mut found: Vec<Entry> = fs::read_dir(proc).ok()?.flatten().filter_map(numbered).collect();
    found.sort_unstable_by_key(|entry| entry.pid);
    Some(found)
}

/// How many processes there are, without listing them: the number of links of `/proc` is that of the processes and of some
/// folders, whose number a list tells. Source: proc_root_getattr in fs/proc/root.c.
///
/// That number is of the whole machine, so it is of no use where `/proc` shows a part of it (a PID namespace, hidepid).
#[derive(Debug, Clone, Copy, Default)]
pub struct Count {
    /// Links that are no processes. None: not known, or not to be told.
    others: Option<u64>,
}

/// `/proc` has some ten folders beside the processes; where there are more links than these, they are of processes that this
/// user or namespace does not see.
const OTHER_LINKS: std::ops::RangeInclusive<u64> = 2..=64;

/// The PID namespace of a machine that is no container. Source: PROC_PID_INIT_INO in include/linux/proc_ns.h.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

impl Count {
    /// Processes now, if that can be told without a list.
    #[must_use]
    pub fn processes(self, proc: &Path) -> Option<u64> {
        links(proc)?.checked_sub(self.others?)
    }

    /// Lists the processes, and learns how to count them.
    pub fn list(&mut self, proc: &Path) -> Option<Vec<Entry>> {
        let before = links(proc);
        let found = entries(proc);
        self.others = None;
        let is_first =
            || fs::read_link(proc.join("self/ns/pid")).is_ok_and(|name| name.as_os_str() == FIRST_NAMESPACE);
        if let (Some(links_before), Some(found)) = (before, &found)
            && links(proc) == before
            && is_first()
        {
            let listed = u64::try_from(found.len()).unwrap_or(u64::MAX);
            self.others = links_before.checked_sub(listed).filter(|others| OTHER_LINKS.contains(others));
        }
        found
    }
}

fn links(proc: &Path) -> Option<u64> {
    fs::metadata(proc).ok().map(|data| data.nlink())
}

/// What the readings before found.
#[derive(Debug, Default)]
pub struct Scan {
    /// By pid.
    known: Vec<Known>,
    turn: u32,
    users: HashMap<u32, String>,
    /// Modification time and size of `/etc/passwd` when `users` was read.
    users_of: Option<(i64, i64, u64)>,
}

#[derive(Debug)]
struct Known {
    inode: u64,
    process: Process,
    read_at: Instant,
    idle: bool,
    /// User and command line were read at two times.
    settled: bool,
    /// It was there at the last reading.
    seen: bool,
}

impl Known {
    fn is_due(&self, turn: u32, now: Instant) -> bool {
        !self.idle
            || self.process.pid % TURNS == turn % TURNS
            || now.duration_since(self.read_at) >= IDLE_TIME_LIMIT
    }
}

impl Scan {
    /// Reads all processes of `entries` that still exist. `root` is `/` but in tests.
    pub fn read(&mut self, root: &Path, entries: &[Entry], page_bytes: u64) {
        self.turn = self.turn.wrapping_add(1);
        self.refresh_users(&root.join("etc/passwd"));
        let now = Instant::now();
        let mut folder = root.join("proc");
        let mut fresh = Vec::with_capacity(entries.len().saturating_sub(self.known.len()));
        let mut known = self.known.iter_mut().peekable();
        for entry in entries.iter().take(limits::PROCESSES) {
            while known.next_if(|known| known.process.pid < entry.pid).is_some() {}
            let before = known.next_if(|known| known.process.pid == entry.pid);
            if let Some(known) = before {
                let is_same = known.inode == entry.inode;
                known.seen = (is_same && !known.is_due(self.turn, now)) || {
                    let one = One { entry: *entry, users: &self.users, page_bytes, now };
                    one.read_again(&mut folder, known, is_same)
                };
            } else {
                let one = One { entry: *entry, users: &self.users, page_bytes, now };
                fresh.extend(one.read(&mut folder));
            }
        }
        self.known.retain_mut(|known| std::mem::take(&mut known.seen));
        if !fresh.is_empty() {
            self.known.reserve_exact(fresh.len());
            self.known.append(&mut fresh);
            self.known.sort_unstable_by_key(|known| known.process.pid);
        }
    }

    /// The processes of the last reading, by pid.
    pub fn processes(&self) -> impl ExactSizeIterator<Item = &Process> {
        self.known.iter().map(|known| &known.process)
    }

    fn refresh_users(&mut self, path: &Path) {
        let stamp = fs::metadata(path).ok().map(|data| (data.mtime(), data.mtime_nsec(), data.len()));
        if stamp.is_some() && stamp == self.users_of {
            return;
        }
        let mut content = Vec::new();
        let read = File::open(path).and_then(|file| file.take(limits::FILE_BYTES).read_to_end(&mut content));
        // Names that cannot be read now are unknown, and asked for again the next time.
        self.users = if read.is_ok() { process::passwd(&content) } else { HashMap::new() };
        self.users_of = stamp.filter(|_| read.is_ok());
        for known in &mut self.known {
            known.process.user = known.process.uid.and_then(|uid| self.users.get(&uid).cloned());
        }
    }
}

/// One process that is to be read.
struct One<'a> {
    entry: Entry,
    users: &'a HashMap<u32, String>,
    page_bytes: u64,
    now: Instant,
}

impl One<'_> {
    /// `None`: the process has ended.
    fn stat(&self, folder: &mut PathBuf) -> Option<Process> {
        let mut scratch = [0; STAT_BYTES];
        let stat = read_file(folder, "stat", &mut scratch)?;
        let files = process::ProcessFiles { stat, status: None, command_line: None };
        process::process(&files, self.page_bytes, self.users)
    }

    fn describe(&self, folder: &mut PathBuf, process: &mut Process) {
        let mut scratch = [0; STATUS_BYTES];
        process.uid = read_file(folder, "status", &mut scratch).and_then(process::uid);
        process.user = process.uid.and_then(|uid| self.users.get(&uid).cloned());
        let room = scratch.get_mut(..limits::COMMAND_LINE_BYTES).unwrap_or_default();
        process.command_line = read_file(folder, "cmdline", room).and_then(process::command_line);
    }

    /// One that is seen first.
    fn read(&self, folder: &mut PathBuf) -> Option<Known> {
        folder.push(self.entry.pid.to_string());
        let process = self.stat(folder).map(|mut process| {
            self.describe(folder, &mut process);
            process
        });
        folder.pop();
        let (inode, read_at) = (self.entry.inode, self.now);
        Some(Known { inode, process: process?, read_at, idle: false, settled: false, seen: true })
    }

    /// One that was seen before, if it `is_same` and no other with its pid. False: it has ended.
    fn read_again(&self, folder: &mut PathBuf, known: &mut Known, is_same: bool) -> bool {
        folder.push(self.entry.pid.to_string());
        let stat = self.stat(folder);
        let is_there = stat.is_some();
        if let Some(mut fresh) = stat {
            let before = &mut known.process;
            let is_same = is_same && before.start_ticks == fresh.start_ticks;
            let idle = is_same
                && before.user_ticks == fresh.user_ticks
                && before.system_ticks == fresh.system_ticks
                && fresh.state != 'R';
            if is_same && known.settled && before.name == fresh.name {
                fresh.uid = before.uid;
                fresh.user = before.user.take();
                fresh.command_line = before.command_line.take();
            } else {
                self.describe(folder, &mut fresh);
                known.settled = is_same;
            }
            known.process = fresh;
            (known.inode, known.read_at, known.idle) = (self.entry.inode, self.now, idle);
        }
        folder.pop();
        is_there
    }
}

/// What of a file fits: the kernel gives these files by one read(2).
fn read_file<'a>(folder: &mut PathBuf, name: &str, room: &'a mut [u8]) -> Option<&'a [u8]> {
    folder.push(name);
    let file = File::open(&*folder);
    folder.pop();
    let filled = file.ok()?.read(room).ok()?;
    room.get(..filled)
}
