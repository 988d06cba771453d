//! Reads the machine it runs on, or a tree of files that looks like one.
//!
//! Files are read directly. std knows no statvfs(3) and this crate has no unsafe code, so filesystems are asked
//! for by `stat -f` (or `df -P`) on chosen local mounts in one process with a time limit; network and fuse
//! filesystems are never touched. `systemctl` and `uname` are run the same way.

mod containers;
mod init;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::limits;
use crate::proc::{facts, mounts, packages, services};
use crate::reading::{
    BASE_FILES, CGROUP_V1_FILES, CGROUP_V2_FILES, FilesystemText, ServicesText, Texts, assemble, boot_id,
};
use crate::scan::{self, Scan};
use crate::snapshot::{Sections, Snapshot};

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

/// How long mounts and the fill of filesystems stand: asking costs a process, and disks fill slowly. The shell probe's usual
/// four readings take as long.
const FILESYSTEMS_TIME_LIMIT: Duration = Duration::from_secs(20);

/// What a reader of the same machine need not ask for every time.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    scan: Scan,
    /// The table of mounts, what was said of them, and when.
    filesystems: Option<(Vec<u8>, FilesystemText, Instant)>,
}

impl Memory {
    /// The table of mounts of a reading that is young enough: to list it costs as much as the five next files.
    fn mounts(&self) -> Option<&Vec<u8>> {
        let (table, _, asked_at) = self.filesystems.as_ref()?;
        (asked_at.elapsed() < FILESYSTEMS_TIME_LIMIT).then_some(table)
    }

    fn fill(&mut self, mountinfo: &[u8]) -> FilesystemText {
        if let Some((table, text, asked_at)) = &self.filesystems {
            if table == mountinfo && asked_at.elapsed() < FILESYSTEMS_TIME_LIMIT {
                return text.clone();
            }
        }
        let text = fill(mountinfo);
        self.filesystems = Some((mountinfo.to_owned(), text.clone(), Instant::now()));
        text
    }
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
        let mut files = BTreeMap::new();
        files.extend(memory.mounts().map(|table| (MOUNTS.to_owned(), table.clone())));
        for path in BASE_FILES.iter().chain(&CGROUP_V2_FILES).chain(&CGROUP_V1_FILES) {
            if !files.contains_key(*path) {
                self.add(&mut files, path);
            }
        }
        self.add_sensors(&mut files);
        let taken_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let entries = scan::entries(&self.path("/proc"));
        let mut texts = Texts {
            cards: self.cards(),
            process_count: entries.as_ref().and_then(|entries| u64::try_from(entries.len()).ok()),
            filesystems: files.get(MOUNTS).map(|table| memory.fill(table)),
            taken_at_ms: u64::try_from(taken_at.as_millis()).ok(),
            clock_ms: u64::try_from(taken_at.as_millis()).ok(),
            ticks_per_second: self.ticks_per_second,
            ..Texts::default()
        };
        if sections.processes {
            texts.processes = entries.map(|entries| memory.scan.read(&self.root, &entries, self.page_bytes));
        }
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
        if sections.facts {
            for path in facts::FILES {
                self.add(&mut files, path);
            }
            for &(path, lines) in facts::FIRST_LINES {
                files.extend(self.file(path).map(|content| (path.to_owned(), first_lines(content, lines))));
            }
            texts.markers.extend(
                facts::MARKERS.iter().filter(|path| self.path(path).exists()).map(|&path| path.to_owned()),
            );
            texts.architecture.clone_from(&self.architecture);
            texts.localtime = fs::read_link(self.path("/etc/localtime"))
                .ok()
                .and_then(|target| target.into_os_string().into_string().ok());
        }
        texts.files = files;
        assemble(texts, sections)
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

    fn add_sensors(&self, files: &mut BTreeMap<String, Vec<u8>>) {
        for (class, wanted) in
            [("/sys/class/hwmon", is_hwmon_file as fn(&str) -> bool), ("/sys/class/thermal", is_zone_file)]
        {
            for device in self.names(class) {
                let folder = format!("{class}/{device}");
                for name in self.names(&folder).iter().filter(|name| wanted(name)) {
                    if files.len() < BASE_FILES.len() + limits::SENSORS * 3 {
                        self.add(files, &format!("{folder}/{name}"));
                    }
                }
            }
        }
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
    if let Some(output) = run("stat", ["-f", "-c", mounts::STATFS_FORMAT].into_iter().chain(paths())) {
        return FilesystemText::Statfs(output);
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
