//! The list of processes, again and again, for little.
//!
//! A process that used no CPU between its last two readings is idle: it is read again every 8th time, and at the
//! latest after [`IDLE_TIME_LIMIT`], so its memory and state may be that old. Users and command lines are read when a
//! process is seen first, once more when it is read again (it may have been between fork and exec), and when its
//! name changes. A reused pid is told by the inode number of its directory, which readdir(3) gives away.
//! A command line over [`KEPT_LINE_BYTES`] is not kept but read again whenever it is told, or two thousand of them would be
//! most of the agent's memory.
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

/// Usual command lines are shorter, and two thousand of these leave the agent under its 1.5 MiB; reading one again takes four
/// microseconds.
const KEPT_LINE_BYTES: usize = 96;

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

/// What the readings before found: some 110 bytes a process, so that thousands leave the agent small.
#[derive(Debug)]
pub struct Scan {
    /// By pid.
    known: Vec<Known>,
    turn: u32,
    /// Where `known` were read.
    proc: PathBuf,
    users: HashMap<u32, String>,
    /// Modification time and size of `/etc/passwd` when `users` was read.
    users_of: Option<(i64, i64, u64)>,
    /// What `Known::read_at_ms` counts from.
    begun: Instant,
}

impl Default for Scan {
    fn default() -> Self {
        Self {
            known: Vec::new(),
            turn: 0,
            proc: PathBuf::new(),
            users: HashMap::new(),
            users_of: None,
            begun: Instant::now(),
        }
    }
}

/// A [`Process`] without its three strings: the name of its user stands in the table of all, its other texts in one piece.
#[derive(Debug)]
struct Known {
    inode: u64,
    user_ticks: u64,
    system_ticks: u64,
    rss_bytes: u64,
    start_ticks: u64,
    /// The name, then the command line unless it `has_long_line`.
    text: Box<str>,
    pid: u32,
    parent_pid: u32,
    /// [`NO_UID`]: it could not be read.
    uid: u32,
    threads: u32,
    /// After [`Scan::begun`]; turns over after 49 days, which no idle process is left alone for.
    read_at_ms: u32,
    name_bytes: u16,
    /// Printable ASCII, as the parser takes no other.
    state: u8,
    idle: bool,
    /// Its command line is not among `text`.
    has_long_line: bool,
    /// User and command line were read at two times.
    settled: bool,
    /// The reading that is under way has found it.
    seen: bool,
}

/// chown(2) keeps it for "no change", so that it is nobody's.
const NO_UID: u32 = u32::MAX;

/// Room that a burst of processes left behind is given back where it is more than this many entries.
const SPARE_ENTRIES: usize = 1024;

impl Known {
    fn is_due(&self, turn: u32, now_ms: u32) -> bool {
        let rested = Duration::from_millis(now_ms.wrapping_sub(self.read_at_ms).into());
        !self.idle || self.pid % TURNS == turn % TURNS || rested >= IDLE_TIME_LIMIT
    }

    fn name(&self) -> &str {
        self.text.get(..self.name_bytes.into()).unwrap_or_default()
    }

    fn command_line(&self) -> Option<&str> {
        self.text.get(self.name_bytes.into()..).filter(|line| !line.is_empty())
    }

    /// Takes over the counters of a newer reading of the same process or of its successor.
    fn update(&mut self, fresh: &Process, one: &One) {
        self.inode = one.entry.inode;
        self.read_at_ms = one.now_ms;
        self.user_ticks = fresh.user_ticks;
        self.system_ticks = fresh.system_ticks;
        self.rss_bytes = fresh.rss_bytes;
        self.start_ticks = fresh.start_ticks;
        self.parent_pid = fresh.parent_pid;
        self.threads = fresh.threads;
        self.state = u8::try_from(fresh.state).unwrap_or(b'?');
    }

    /// Takes over the texts and the user.
    fn describe(&mut self, fresh: &Process) {
        let line = fresh.command_line.as_deref().unwrap_or_default();
        self.has_long_line = line.len() > KEPT_LINE_BYTES;
        let line = if self.has_long_line { "" } else { line };
        let mut text = String::with_capacity(fresh.name.len() + line.len());
        text.push_str(&fresh.name);
        text.push_str(line);
        self.name_bytes = u16::try_from(fresh.name.len()).unwrap_or(0);
        self.text = text.into_boxed_str();
        self.uid = fresh.uid.unwrap_or(NO_UID);
    }

    /// Fills `process` with what is known, whose strings keep their room. A long command line is read in `proc`; it is unknown
    /// where the process has ended since.
    fn tell(&self, users: &HashMap<u32, String>, proc: &mut PathBuf, process: &mut Process) {
        let Process {
            pid,
            parent_pid,
            uid,
            user,
            state,
            name,
            command_line,
            user_ticks,
            system_ticks,
            rss_bytes,
            threads,
            start_ticks,
        } = process;
        *uid = Some(self.uid).filter(|uid| *uid != NO_UID);
        fill(user, uid.and_then(|uid| users.get(&uid)).map(String::as_str));
        name.clear();
        name.push_str(self.name());
        if self.has_long_line {
            proc.push(self.pid.to_string());
            let mut scratch = [0; limits::COMMAND_LINE_BYTES];
            *command_line = read_file(proc, "cmdline", &mut scratch).and_then(process::command_line);
            proc.pop();
        } else {
            fill(command_line, self.command_line());
        }
        (*pid, *parent_pid, *threads) = (self.pid, self.parent_pid, self.threads);
        (*user_ticks, *system_ticks) = (self.user_ticks, self.system_ticks);
        (*rss_bytes, *start_ticks, *state) = (self.rss_bytes, self.start_ticks, self.state.into());
    }
}

fn fill(place: &mut Option<String>, text: Option<&str>) {
    match text {
        Some(text) => {
            let room = place.get_or_insert_default();
            room.clear();
            room.push_str(text);
        }
        None => *place = None,
    }
}

impl Scan {
    /// Reads all processes of `entries` that still exist. `root` is `/` but in tests.
    pub fn read(&mut self, root: &Path, entries: &[Entry], page_bytes: u64) {
        self.turn = self.turn.wrapping_add(1);
        self.refresh_users(&root.join("etc/passwd"));
        // Only the lowest bits count.
        let now_ms = (self.begun.elapsed().as_millis() % (1 << 32)).try_into().unwrap_or(0);
        let mut folder = root.join("proc");
        self.proc.clone_from(&folder);
        let mut fresh = Vec::with_capacity(entries.len().saturating_sub(self.known.len()));
        let mut known = self.known.iter_mut().peekable();
        for entry in entries.iter().take(limits::PROCESSES) {
            while known.next_if(|known| known.pid < entry.pid).is_some() {}
            let before = known.next_if(|known| known.pid == entry.pid);
            let one = One { entry: *entry, page_bytes, now_ms };
            if let Some(known) = before {
                let is_same = known.inode == entry.inode;
                known.seen = (is_same && !known.is_due(self.turn, now_ms))
                    || one.read_again(&mut folder, known, is_same);
            } else {
                fresh.extend(one.read(&mut folder));
            }
        }
        self.known.retain_mut(|known| std::mem::take(&mut known.seen));
        self.add(fresh);
    }

    fn add(&mut self, mut fresh: Vec<Known>) {
        if self.known.is_empty() {
            // Sorted, as the entries are.
            self.known = fresh;
        } else if !fresh.is_empty() {
            self.known.reserve_exact(fresh.len());
            self.known.append(&mut fresh);
            self.known.sort_unstable_by_key(|known| known.pid);
        }
        if self.known.capacity() > self.known.len() + SPARE_ENTRIES {
            self.known.shrink_to_fit();
        }
    }

    /// The processes of the last reading, by pid, each in the same place: no list of them is made.
    ///
    /// # Errors
    /// Those of `each`, which ends the telling.
    pub fn tell<E>(&self, mut each: impl FnMut(&Process) -> Result<(), E>) -> Result<(), E> {
        let (mut process, mut proc) = (Process::default(), self.proc.clone());
        self.known.iter().try_for_each(|known| {
            known.tell(&self.users, &mut proc, &mut process);
            each(&process)
        })
    }

    /// The processes of the last reading, by pid.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let mut proc = self.proc.clone();
        let told = |known: &Known| {
            let mut process = Process::default();
            known.tell(&self.users, &mut proc, &mut process);
            process
        };
        self.known.iter().map(told).collect()
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
    }
}

/// One process that is to be read.
struct One {
    entry: Entry,
    page_bytes: u64,
    now_ms: u32,
}

impl One {
    /// `None`: the process has ended.
    fn stat(&self, folder: &mut PathBuf) -> Option<Process> {
        let mut scratch = [0; STAT_BYTES];
        let stat = read_file(folder, "stat", &mut scratch)?;
        let files = process::ProcessFiles { stat, status: None, command_line: None };
        process::process(&files, self.page_bytes, &HashMap::new())
    }

    fn describe(folder: &mut PathBuf, process: &mut Process) {
        let mut scratch = [0; STATUS_BYTES];
        process.uid = read_file(folder, "status", &mut scratch).and_then(process::uid);
        let room = scratch.get_mut(..limits::COMMAND_LINE_BYTES).unwrap_or_default();
        process.command_line = read_file(folder, "cmdline", room).and_then(process::command_line);
    }

    /// One that is seen first.
    fn read(&self, folder: &mut PathBuf) -> Option<Known> {
        folder.push(self.entry.pid.to_string());
        let process = self.stat(folder).map(|mut process| {
            Self::describe(folder, &mut process);
            process
        });
        folder.pop();
        let process = process?;
        let mut known = Known {
            inode: 0,
            user_ticks: 0,
            system_ticks: 0,
            rss_bytes: 0,
            start_ticks: 0,
            text: Box::default(),
            pid: process.pid,
            parent_pid: 0,
            uid: NO_UID,
            threads: 0,
            read_at_ms: 0,
            name_bytes: 0,
            state: 0,
            idle: false,
            has_long_line: false,
            settled: false,
            seen: false,
        };
        known.update(&process, self);
        known.describe(&process);
        Some(known)
    }

    /// One that was seen before, if it `is_same` and no other with its pid. False: it has ended.
    fn read_again(&self, folder: &mut PathBuf, known: &mut Known, is_same: bool) -> bool {
        folder.push(self.entry.pid.to_string());
        let stat = self.stat(folder);
        let is_there = stat.is_some();
        if let Some(mut fresh) = stat {
            let is_same = is_same && known.start_ticks == fresh.start_ticks;
            known.idle = is_same
                && known.user_ticks == fresh.user_ticks
                && known.system_ticks == fresh.system_ticks
                && fresh.state != 'R';
            known.update(&fresh, self);
            if !(is_same && known.settled && known.name() == fresh.name) {
                Self::describe(folder, &mut fresh);
                known.describe(&fresh);
                known.settled = is_same;
            }
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
