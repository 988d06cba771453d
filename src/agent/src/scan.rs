//! The list of processes, again and again, for little.
//!
//! A process that used no CPU between its last two readings is idle: it is read again every 8th time, and at the
//! latest after [`IDLE_TIME_LIMIT`], so its memory and state may be that old. Users and command lines are read when a
//! process is seen first, once more when it is read again (it may have been between fork and exec), and when its
//! name changes. A reused pid is told by the inode number of its directory, which readdir(3) gives away.

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

/// What the readings before found.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    known: HashMap<u32, Known>,
    turn: u32,
    users: HashMap<u32, String>,
    /// Modification time and size of `/etc/passwd` when `users` was read.
    users_of: Option<(i64, i64, u64)>,
}

#[derive(Debug, Clone)]
struct Known {
    inode: u64,
    process: Process,
    read_at: Instant,
    idle: bool,
    /// User and command line were read at two times.
    settled: bool,
}

impl Known {
    fn is_due(&self, turn: u32, now: Instant) -> bool {
        !self.idle
            || self.process.pid % TURNS == turn % TURNS
            || now.duration_since(self.read_at) >= IDLE_TIME_LIMIT
    }
}

impl Scan {
    /// All processes of `entries` that still exist. `root` is `/` but in tests.
    pub fn read(&mut self, root: &Path, entries: &[Entry], page_bytes: u64) -> Vec<Process> {
        self.turn = self.turn.wrapping_add(1);
        self.refresh_users(&root.join("etc/passwd"));
        let now = Instant::now();
        let mut known = HashMap::with_capacity(entries.len().min(limits::PROCESSES));
        let mut list = Vec::with_capacity(entries.len().min(limits::PROCESSES));
        let mut folder = root.join("proc");
        for entry in entries.iter().take(limits::PROCESSES) {
            let before = self.known.remove(&entry.pid).filter(|known| known.inode == entry.inode);
            let after = match before {
                Some(known) if !known.is_due(self.turn, now) => known,
                before => {
                    folder.push(entry.pid.to_string());
                    let read = self.one(&mut folder, entry.inode, before, page_bytes, now);
                    folder.pop();
                    let Some(read) = read else { continue };
                    read
                }
            };
            list.push(after.process.clone());
            known.insert(entry.pid, after);
        }
        self.known = known;
        list
    }

    /// `None`: the process has ended.
    fn one(
        &self,
        folder: &mut PathBuf,
        inode: u64,
        before: Option<Known>,
        page_bytes: u64,
        now: Instant,
    ) -> Option<Known> {
        let mut scratch = [0; STATUS_BYTES];
        let stat = read_file(folder, "stat", scratch.get_mut(..STAT_BYTES)?)?;
        let files = process::ProcessFiles { stat, status: None, command_line: None };
        let mut fresh = process::process(&files, page_bytes, &self.users)?;
        let before = before.filter(|known| known.process.start_ticks == fresh.start_ticks);
        let idle = before.as_ref().is_some_and(|known| {
            known.process.user_ticks == fresh.user_ticks
                && known.process.system_ticks == fresh.system_ticks
                && fresh.state != 'R'
        });
        match before {
            Some(known) if known.settled && known.process.name == fresh.name => {
                fresh.uid = known.process.uid;
                fresh.user = known.process.user;
                fresh.command_line = known.process.command_line;
                Some(Known { inode, process: fresh, read_at: now, idle, settled: true })
            }
            before => {
                fresh.uid = read_file(folder, "status", &mut scratch).and_then(process::uid);
                fresh.user = fresh.uid.and_then(|uid| self.users.get(&uid).cloned());
                let room = scratch.get_mut(..limits::COMMAND_LINE_BYTES)?;
                fresh.command_line = read_file(folder, "cmdline", room).and_then(process::command_line);
                Some(Known { inode, process: fresh, read_at: now, idle, settled: before.is_some() })
            }
        }
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
        for known in self.known.values_mut() {
            known.process.user = known.process.uid.and_then(|uid| self.users.get(&uid).cloned());
        }
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
