//! Reads the machine it runs on, or a tree of files that looks like one.
//!
//! Files are read directly. std knows no statvfs(3) and this crate has no unsafe code, so filesystems are asked
//! for by `stat -f` (or `df -P`) on chosen local mounts in one process with a time limit; network and fuse
//! filesystems are never touched. `systemctl`, `getconf` and `uname` are run the same way.

mod containers;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::limits;
use crate::proc::{facts, mounts, process, services};
use crate::reading::{
    BASE_FILES, CGROUP_V1_FILES, CGROUP_V2_FILES, FilesystemText, ServicesText, Texts, assemble,
};
use crate::snapshot::{Process, Sections, Snapshot};

/// How long one helper command may take. A healthy `systemctl show` of 500 units takes 50 ms.
const COMMAND_TIME_LIMIT: Duration = Duration::from_secs(5);

/// Page size where `getconf` does not say: that of x86 and of most ARM systems.
const DEFAULT_PAGE_BYTES: u64 = 4096;

/// Reads one machine, again and again.
#[derive(Debug, Clone)]
pub struct Reader {
    root: PathBuf,
    ticks_per_second: Option<u32>,
    page_bytes: u64,
    architecture: Option<String>,
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
        let number = |name: &str| -> Option<u64> {
            let output = run("getconf", [name])?;
            std::str::from_utf8(&output).ok()?.trim().parse().ok()
        };
        Self {
            root: root.to_owned(),
            ticks_per_second: number("CLK_TCK").and_then(|ticks| u32::try_from(ticks).ok()),
            page_bytes: number("PAGESIZE").filter(|&bytes| bytes > 0).unwrap_or(DEFAULT_PAGE_BYTES),
            architecture: run("uname", ["-m"]).and_then(|output| crate::text::first_line(&output)),
        }
    }

    /// One reading of the base and of the wanted sections. Blocks for some milliseconds; at most for the time
    /// limit of the helper commands.
    #[must_use]
    pub fn read(&self, sections: Sections) -> Snapshot {
        let mut files = BTreeMap::new();
        for path in BASE_FILES.iter().chain(&CGROUP_V2_FILES).chain(&CGROUP_V1_FILES) {
            self.add(&mut files, path);
        }
        self.add_sensors(&mut files);
        let taken_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let pids = self.pids();
        let mut texts = Texts {
            cards: self.cards(),
            process_count: pids.as_ref().and_then(|pids| u64::try_from(pids.len()).ok()),
            filesystems: files.get("/proc/self/mountinfo").map(|table| fill(table)),
            taken_at_ms: u64::try_from(taken_at.as_millis()).ok(),
            ticks_per_second: self.ticks_per_second,
            ..Texts::default()
        };
        if sections.processes {
            texts.processes = pids.map(|pids| self.processes(&pids));
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

    fn pids(&self) -> Option<Vec<u32>> {
        let entries = fs::read_dir(self.path("/proc")).ok()?;
        let mut pids: Vec<u32> =
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        pids.sort_unstable();
        Some(pids)
    }

    fn processes(&self, pids: &[u32]) -> Vec<Process> {
        let users: HashMap<u32, String> =
            self.file("/etc/passwd").map(|content| process::passwd(&content)).unwrap_or_default();
        let one = |&pid: &u32| {
            let folder = self.path(&format!("/proc/{pid}"));
            let stat = read_capped(&folder.join("stat"), limits::COMMAND_LINE_BYTES as u64 * 4)?;
            let status = read_capped(&folder.join("status"), limits::COMMAND_LINE_BYTES as u64 * 16);
            let command_line = read_capped(&folder.join("cmdline"), limits::COMMAND_LINE_BYTES as u64);
            let files = process::ProcessFiles {
                stat: &stat,
                status: status.as_deref(),
                command_line: command_line.as_deref(),
            };
            process::process(&files, self.page_bytes, &users)
        };
        pids.iter().take(limits::PROCESSES).filter_map(one).collect()
    }

    fn services(&self) -> ServicesText {
        if !self.path("/run/systemd/system").exists() {
            return ServicesText::Unknown("systemd is not the init of this machine".to_owned());
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

fn read_capped(path: &Path, limit_bytes: u64) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path).ok()?.take(limit_bytes).read_to_end(&mut content).ok()?;
    Some(content)
}

/// Standard output of a command, however it ended. `None`: it is not there, said nothing, or took longer than
/// the time limit (then it is killed).
fn run<I, A>(program: &str, arguments: I) -> Option<Vec<u8>>
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
    let output = receiver.recv_timeout(COMMAND_TIME_LIMIT).ok().flatten();
    if output.is_none() {
        let _ = child.kill();
    }
    // Reaps the child; one that cannot die is left to a thread, for the same reason.
    std::thread::spawn(move || {
        let _ = child.wait();
    });
    output.filter(|output| !output.is_empty())
}
