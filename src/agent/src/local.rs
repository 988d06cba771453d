//! Reads the machine it runs on, or a tree of files that looks like one.
//!
//! Files are read directly. std knows no statvfs(3) and this crate has no unsafe code, so filesystems are asked
//! for by `stat -f` (or `df -P`) on chosen local mounts in one process with a time limit; network and fuse
//! filesystems are never touched. `systemctl` and `uname` are run the same way.

mod containers;
mod init;
mod sockets;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::kept::Kept;
use crate::proc::{facts, mounts, packages, services};
use crate::reading::{
    BASE_FILES, CGROUP_V1_FILES, CGROUP_V2_FILES, FilesystemText, ServicesText, Texts, assembled, boot_id,
};
use crate::scan::{Count, Scan};
use crate::snapshot::{Sections, Snapshot};
use crate::{json, limits};

/// How long one helper command may take. A healthy `systemctl show` of 500 units takes 50 ms.
const COMMAND_TIME_LIMIT: Duration = Duration::from_secs(5);

/// How long the package manager may take: the script ends each of its two questions after 8 s.
const PACKAGES_TIME_LIMIT: Duration = Duration::from_secs(18);

/// Keys of the auxiliary vector. Source: getauxval(3), elf.h.
const AT_PAGESZ: u64 = 6;
const AT_CLKTCK: u64 = 17;

/// Page size where the kernel does not say: that of x86 and of most ARM systems.
const DEFAULT_PAGE_BYTES: u64 = 4096;

const MOUNTS: &str = "/proc/self/mountinfo";

/// As [`limits::FILE_BYTES`].
const FILE_BYTES: usize = 4 * 1024 * 1024;

/// How long mounts, the fill of filesystems, the lists of sensors and network cards, and [`SLOW_FILES`] stand: asking costs a
/// process or many files, and they change slowly. The shell probe's usual four readings take as long.
const SLOW_TIME_LIMIT: Duration = Duration::from_secs(20);

/// Base files that hardly ever change. The last of them must not stay open: whether it can be opened is what it tells.
const SLOW_FILES: [&str; 3] = [MOUNTS, "/proc/sys/kernel/random/boot_id", "/proc/1/comm"];

/// Folders of devices whose list is refreshed.
const DEVICES: &str = "/sys/class/";

/// What a reader of the same machine need not ask for every time.
#[derive(Debug, Default)]
pub struct Memory {
    scan: Scan,
    count: Count,
    kept: Kept,
    /// Files by their path as the last reading found them; their room is used again.
    files: BTreeMap<String, Vec<u8>>,
    sensors: Vec<String>,
    cards: Vec<String>,
    filesystems: Option<FilesystemText>,
    /// When what changes slowly was read.
    slow_at: Option<Instant>,
    /// Whether the last reading listed the processes.
    has_list: bool,
}

/// Reads one machine, again and again.
#[derive(Debug, Clone)]
pub struct Reader {
    root: PathBuf,
    ticks_per_second: Option<u32>,
    page_bytes: u64,
    architecture: Option<String>,
}

/// What never changes while a machine runs.
#[derive(Debug, Clone, Copy)]
pub struct Constants<'a> {
    pub ticks_per_second: Option<u32>,
    pub page_bytes: u64,
    pub architecture: Option<&'a str>,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new(Path::new("/"))
    }
}

impl Reader {
    /// A reader of the machine whose file tree begins at `root`; `/` but in tests. Asks once what does not
    /// change: clock ticks, page size, architecture.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        let auxv = read_capped(Path::new("/proc/self/auxv"), limits::AUXV_BYTES).unwrap_or_default();
        Self {
            root: root.to_owned(),
            ticks_per_second: auxiliary(&auxv, AT_CLKTCK).and_then(|ticks| u32::try_from(ticks).ok()),
            page_bytes: auxiliary(&auxv, AT_PAGESZ).filter(|&bytes| bytes > 0).unwrap_or(DEFAULT_PAGE_BYTES),
            architecture: run("uname", ["-m"]).and_then(|output| crate::text::first_line(&output)),
        }
    }

    #[must_use]
    pub fn constants(&self) -> Constants<'_> {
        Constants {
            ticks_per_second: self.ticks_per_second,
            page_bytes: self.page_bytes,
            architecture: self.architecture.as_deref(),
        }
    }

    /// `/proc/sys/kernel/random/boot_id`, where it looks like one.
    #[must_use]
    pub fn boot_id(&self) -> Option<String> {
        boot_id(&self.file("/proc/sys/kernel/random/boot_id")?)
    }

    /// One reading of the base and of the wanted sections. Blocks for some milliseconds; at most for the time
    /// limit of the helper commands.
    #[must_use]
    pub fn read(&self, sections: Sections) -> Snapshot {
        self.read_again(sections, &mut Memory::default())
    }

    /// [`read`](Self::read) for one who reads the same machine again and again: what changes slowly is taken from
    /// `memory`. Mounts and filesystems may then be 20 s old, idle processes as `scan` says.
    #[must_use]
    pub fn read_again(&self, sections: Sections, memory: &mut Memory) -> Snapshot {
        let mut snapshot = self.all_but_processes(sections, memory);
        snapshot.processes = memory.has_list.then(|| memory.scan.processes());
        snapshot
    }

    /// [`read_again`](Self::read_again) as JSON at the end of `out`; see [`json::append_with`] for `handed_on`.
    ///
    /// # Errors
    /// Those of `handed_on`.
    pub fn write_again<E>(
        &self,
        sections: Sections,
        memory: &mut Memory,
        out: &mut String,
        handed_on: impl FnMut(&mut String) -> Result<(), E>,
    ) -> Result<(), E> {
        let snapshot = self.all_but_processes(sections, memory);
        if memory.has_list {
            return json::append_with(&snapshot, &memory.scan, out, handed_on);
        }
        json::append(&snapshot, out);
        Ok(())
    }

    fn all_but_processes(&self, sections: Sections, memory: &mut Memory) -> Snapshot {
        self.refresh(memory);
        let taken_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let proc = self.path("/proc");
        let counted = if sections.processes { None } else { memory.count.processes(&proc) };
        let entries = if counted.is_some() { None } else { memory.count.list(&proc) };
        let listed = entries.as_ref().map(Vec::len);
        memory.has_list = sections.processes && entries.is_some();
        if let Some(entries) = entries.filter(|_| sections.processes) {
            memory.scan.read(&self.root, &entries, self.page_bytes);
        }
        let mut texts = Texts {
            files: std::mem::take(&mut memory.files),
            cards: memory.cards.clone(),
            process_count: counted.or_else(|| u64::try_from(listed?).ok()),
            processes_listed: listed.filter(|_| sections.processes),
            filesystems: memory.filesystems.clone(),
            taken_at_ms: u64::try_from(taken_at.as_millis()).ok(),
            clock_ms: u64::try_from(taken_at.as_millis()).ok(),
            ticks_per_second: self.ticks_per_second,
            ..Texts::default()
        };
        if sections.services {
            texts.services = Some(self.services());
        }
        if sections.users {
            texts.sessions = self.sessions();
            texts.utmp = self.file("/run/utmp").or_else(|| self.file("/var/run/utmp"));
        }
        if sections.containers {
            texts.containers = Some(self.containers());
        }
        if sections.packages {
            let script = format!("{}packages", packages::SCRIPT);
            texts.packages = run_within(PACKAGES_TIME_LIMIT, "sh", ["-c", &script]);
        }
        if sections.sockets {
            texts.sockets = Some(self.tcp_sockets(&texts.files));
        }
        if sections.facts {
            self.add_facts(&mut texts);
        }
        let snapshot = assembled(&mut texts, sections);
        memory.files = texts.files;
        if sections.facts {
            for path in facts::FILES.iter().chain(facts::FIRST_LINES.iter().map(|(path, _)| path)) {
                memory.files.remove(*path);
            }
        }
        snapshot
    }

    /// Reads the files of the base: those that change slowly only now and then.
    fn refresh(&self, memory: &mut Memory) {
        let is_slow = memory.slow_at.is_none_or(|at| at.elapsed() >= SLOW_TIME_LIMIT);
        if is_slow {
            memory.slow_at = Some(Instant::now());
            memory.files.retain(|path, _| !path.starts_with(DEVICES));
            memory.sensors = self.sensors();
            memory.cards = self.cards();
            for path in SLOW_FILES {
                memory.files.remove(path);
                self.add(&mut memory.files, path);
            }
            memory.filesystems = memory.files.get(MOUNTS).map(|table| fill(table));
        }
        let Memory { files, kept, sensors, .. } = memory;
        let base = BASE_FILES.iter().chain(&CGROUP_V2_FILES).chain(&CGROUP_V1_FILES).copied();
        let base = base.filter(|path| !SLOW_FILES.contains(path));
        for path in base.chain(sensors.iter().map(String::as_str)) {
            // The room of the reading before is used again; a new name is made for a new file only.
            let is_read = match files.get_mut(path) {
                Some(content) => kept.read(&self.root, path, FILE_BYTES, content),
                None => {
                    let mut content = Vec::new();
                    let is_read = kept.read(&self.root, path, FILE_BYTES, &mut content);
                    if is_read {
                        files.insert(path.to_owned(), content);
                    }
                    is_read
                }
            };
            if !is_read {
                files.remove(path);
            }
        }
    }

    fn add_facts(&self, texts: &mut Texts) {
        for path in facts::FILES {
            self.add(&mut texts.files, path);
        }
        for &(path, lines) in facts::FIRST_LINES {
            texts.files.extend(self.file(path).map(|content| (path.to_owned(), first_lines(content, lines))));
        }
        texts.markers.extend(
            facts::MARKERS.iter().filter(|path| self.path(path).exists()).map(|&path| path.to_owned()),
        );
        texts.architecture.clone_from(&self.architecture);
        texts.localtime = fs::read_link(self.path("/etc/localtime"))
            .ok()
            .and_then(|target| target.into_os_string().into_string().ok());
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn file(&self, path: &str) -> Option<Vec<u8>> {
        read_capped(&self.path(path), limits::FILE_BYTES)
    }

    fn add(&self, files: &mut BTreeMap<String, Vec<u8>>, path: &str) {
        files.extend(self.file(path).map(|content| (path.to_owned(), content)));
    }

    /// Names in a directory; empty where there is none.
    fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Paths of the files of the sensors.
    fn sensors(&self) -> Vec<String> {
        let mut paths = Vec::new();
        for (class, wanted) in
            [("/sys/class/hwmon", is_hwmon_file as fn(&str) -> bool), ("/sys/class/thermal", is_zone_file)]
        {
            for device in self.names(class) {
                let folder = format!("{class}/{device}");
                let names = self.names(&folder);
                paths.extend(names.iter().filter(|name| wanted(name)).map(|name| format!("{folder}/{name}")));
            }
        }
        paths.truncate(limits::SENSORS * 3);
        paths
    }

    fn cards(&self) -> Vec<String> {
        let mut names = self.names("/sys/class/net");
        names.retain(|name| self.path(&format!("/sys/class/net/{name}/device/uevent")).exists());
        names
    }

    fn services(&self) -> ServicesText {
        if !self.path("/run/systemd/system").exists() {
            return self.init().map_or_else(
                || ServicesText::Unknown(services::NO_MANAGER.to_owned()),
                |text| ServicesText::Init(Box::new(text)),
            );
        }
        let property = format!("--property={}", services::PROPERTIES);
        run("systemctl", ["show", "*.service", "--all", "--no-pager", &property]).map_or_else(
            || ServicesText::Unknown("systemctl does not answer".to_owned()),
            ServicesText::Systemctl,
        )
    }

    fn sessions(&self) -> Option<Vec<Vec<u8>>> {
        let folder = "/run/systemd/sessions";
        self.path(folder).is_dir().then(|| {
            let names = self.names(folder);
            // A session `7` has a fifo `7.ref` beside it, which would block a reader for ever.
            let files = names.iter().filter(|name| !name.contains('.')).take(limits::USERS);
            files.filter_map(|name| self.file(&format!("{folder}/{name}"))).collect()
        })
    }
}

/// What the kernel told this process at its start: pairs of words, ended by a zero key. Source: proc_pid_auxv(5).
fn auxiliary(auxv: &[u8], wanted: u64) -> Option<u64> {
    let word = |bytes: &[u8]| -> Option<u64> {
        bytes.try_into().map(usize::from_ne_bytes).ok().and_then(|word| u64::try_from(word).ok())
    };
    auxv.chunks_exact(2 * size_of::<usize>()).find_map(|pair| {
        let (key, value) = pair.split_at_checked(size_of::<usize>())?;
        (word(key)? == wanted).then(|| word(value))?
    })
}

fn is_hwmon_file(name: &str) -> bool {
    name == "name" || (name.starts_with("temp") && (name.ends_with("_input") || name.ends_with("_label")))
}

fn is_zone_file(name: &str) -> bool {
    matches!(name, "type" | "temp")
}

fn fill(mountinfo: &[u8]) -> FilesystemText {
    let chosen = mounts::choose(&mounts::mountinfo(mountinfo));
    if chosen.is_empty() {
        return FilesystemText::Statfs(Vec::new());
    }
    let paths = || chosen.iter().map(|mount| mount.path.as_str());
    let began = Instant::now();
    if let Some(output) = run("stat", ["-f", "-c", mounts::STATFS_FORMAT].into_iter().chain(paths())) {
        return FilesystemText::Statfs(output);
    }
    if began.elapsed() >= COMMAND_TIME_LIMIT {
        // df would wait for the same filesystem.
        return FilesystemText::Unknown("stat -f does not answer: a filesystem hangs".to_owned());
    }
    run("df", ["-P", "-k"].into_iter().chain(paths())).map_or_else(
        || FilesystemText::Unknown("neither stat -f nor df answers".to_owned()),
        FilesystemText::Df,
    )
}

fn first_lines(mut content: Vec<u8>, lines: usize) -> Vec<u8> {
    let end = content.iter().enumerate().filter(|&(_, &byte)| byte == b'\n').nth(lines.saturating_sub(1));
    if let Some(end) = end.map(|(position, _)| position + 1) {
        content.truncate(end);
    }
    content
}

/// What the kernel gives of a file, at most `limit_bytes`. Read into a buffer first: the result is then as large as the
/// file, and nothing large is allocated and given back two dozen times a reading.
fn read_capped(path: &Path, limit_bytes: u64) -> Option<Vec<u8>> {
    let mut file = File::open(path).ok()?.take(limit_bytes);
    let mut scratch = [0; 4096];
    let mut content = Vec::new();
    loop {
        match file.read(&mut scratch) {
            Ok(0) => return Some(content),
            Ok(count) => content.extend_from_slice(scratch.get(..count)?),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// Lowers this process's priority to that niceness. Best effort: std knows no setpriority(2), and where `renice` is
/// missing the agent is merely less polite.
pub fn be_nice(niceness: u8) {
    let _ = run("renice", ["-n", &niceness.to_string(), "-p", &std::process::id().to_string()]);
}

/// Standard output of a command, however it ended. `None`: it is not there, said nothing, or took longer than
/// the time limit (then it is killed).
fn run<I, A>(program: &str, arguments: I) -> Option<Vec<u8>>
where
    I: IntoIterator<Item = A>,
    A: AsRef<OsStr>,
{
    run_within(COMMAND_TIME_LIMIT, program, arguments)
}

fn run_within<I, A>(limit: Duration, program: &str, arguments: I) -> Option<Vec<u8>>
where
    I: IntoIterator<Item = A>,
    A: AsRef<OsStr>,
{
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let stdout = child.stdout.take()?;
    let (sender, receiver) = mpsc::channel();
    // A process in uninterruptible sleep survives its kill and keeps the pipe: the reading is then left to a
    // thread of its own, which ends with it.
    std::thread::spawn(move || {
        let mut output = Vec::new();
        let whole = stdout.take(limits::COMMAND_BYTES).read_to_end(&mut output).is_ok();
        let _ = sender.send(whole.then_some(output));
    });
    let output = receiver.recv_timeout(limit).ok().flatten();
    if output.is_none() {
        let _ = child.kill();
    }
    // Reaps the child; one that cannot die is left to a thread, for the same reason.
    std::thread::spawn(move || {
        let _ = child.wait();
    });
    output.filter(|output| !output.is_empty())
}
