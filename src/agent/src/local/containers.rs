//! The containers of the machine: asks the engines over their sockets and reads the cgroups of what runs.
//!
//! HTTP/1.0 over a Unix socket: the engine answers without chunks and closes. Only GET, only the two questions below.
//! Podman, which mostly runs without a socket, is asked by its program then, in the same order as the shell probe does.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Reader, read_capped, run_within};
use crate::limits;
use crate::proc::containers::{ContainersText, EngineText, INSPECT_FORMAT, id_of_cgroup};

/// All questions to one engine together; it answers a list of 200 containers in 50 ms.
const TIME_LIMIT: Duration = Duration::from_secs(3);

/// Containers that are asked for one by one, at 1 ms each.
const DETAILS: usize = 256;

/// Bytes of one answer of an engine: 1,000 containers with many labels.
const ANSWER_BYTES: u64 = 4 * 1024 * 1024;

/// Bytes of one file of a cgroup; `memory.stat` has about 2 KiB.
const FILE_BYTES: u64 = 64 * 1024;

/// Where containers have their cgroups, `*` for one folder of that beginning: Docker and Podman, under systemd or not.
const GROUPS: [&str; 4] =
    ["system.slice/docker-*", "machine.slice/libpod-*", "docker/*", "libpod_parent/libpod-*"];

/// Where root's Podman keeps its containers.
const STORAGE: &str = "/var/lib/containers/storage";

impl Reader {
    pub(super) fn containers(&self) -> ContainersText {
        let mut text = ContainersText::default();
        for engine in ["podman", "docker"] {
            if let Some(said) = self.engine(engine) {
                text.engines.push((engine, said));
            }
        }
        if text.engines.iter().any(|(_, said)| matches!(said, EngineText::Answered { .. })) {
            self.add_groups(&mut text);
        }
        text
    }

    /// What an engine says over the first socket that this user may use. None: it is not there.
    fn engine(&self, engine: &str) -> Option<EngineText> {
        let mut said = None;
        for socket in self.sockets(engine).iter().filter(|socket| is_socket(socket)) {
            let answer = ask(socket);
            let is_denied = matches!(answer, EngineText::Denied { .. });
            said = Some(answer);
            if !is_denied {
                return said;
            }
        }
        // A tree of files has no programs.
        if engine == "podman" && self.root == Path::new("/") && is_program("podman") {
            return self.podman_by_program().or(said);
        }
        said
    }

    fn sockets(&self, engine: &str) -> Vec<PathBuf> {
        let name = if engine == "podman" { "podman/podman.sock" } else { "docker.sock" };
        let mut folders = vec!["/run".to_owned(), "/var/run".to_owned()];
        folders.extend(std::env::var("XDG_RUNTIME_DIR").ok().filter(|folder| folder.starts_with('/')));
        folders.iter().map(|folder| self.path(&format!("{folder}/{name}"))).collect()
    }

    /// Root is asked for all, a user for what is its own. Denied: only root has any.
    fn podman_by_program(&self) -> Option<EngineText> {
        let is_root = self.path("/proc/self").metadata().is_ok_and(|found| found.uid() == 0);
        let of_root = self.path(STORAGE).exists();
        let home = std::env::var("HOME").unwrap_or_default();
        let own = self.path(&format!("{home}/.local/share/containers/storage")).is_dir();
        if own || (is_root && of_root) {
            return Some(ask_podman().unwrap_or(EngineText::Silent));
        }
        of_root.then(denied)
    }

    fn add_groups(&self, text: &mut ContainersText) {
        let unified = self.path("/sys/fs/cgroup/cgroup.controllers").exists();
        let roots: &[(&str, &[&str])] = if unified {
            &[("/sys/fs/cgroup", &["cpu.stat", "memory.current", "memory.stat", "memory.max", "io.stat"])]
        } else {
            &[
                ("/sys/fs/cgroup/memory", &["memory.usage_in_bytes", "memory.stat", "memory.limit_in_bytes"]),
                ("/sys/fs/cgroup/cpuacct", &["cpuacct.usage"]),
                ("/sys/fs/cgroup/blkio", &["blkio.throttle.io_service_bytes"]),
            ]
        };
        for (root, files) in roots {
            for group in self.groups(root) {
                for file in *files {
                    let path = format!("{group}/{file}");
                    if let Some(content) = read_capped(&self.path(&path), FILE_BYTES) {
                        text.cgroups.insert(path, content);
                    }
                }
                if let Some(pid) = self.process_of(&group) {
                    text.pids.insert(group, pid);
                }
            }
        }
        let read = |pid: &u32| {
            let content = read_capped(&self.path(&format!("/proc/{pid}/net/dev")), FILE_BYTES)?;
            Some((*pid, content))
        };
        text.networks = text.pids.values().filter_map(read).collect::<HashMap<_, _>>();
    }

    /// Paths of the cgroups of containers below `root`.
    fn groups(&self, root: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut wanted: Vec<String> = GROUPS.iter().map(|group| (*group).to_owned()).collect();
        for slice in self.names(&format!("{root}/user.slice")) {
            // user-1000.slice has user@1000.service, below which the engines of that user make theirs.
            let Some(uid) = slice.strip_prefix("user-").and_then(|rest| rest.strip_suffix(".slice")) else {
                continue;
            };
            for engine in ["docker", "libpod"] {
                wanted.push(format!("user.slice/{slice}/user@{uid}.service/user.slice/{engine}-*"));
            }
        }
        for group in &wanted {
            let Some((folder, prefix)) = group.trim_end_matches('*').rsplit_once('/') else { continue };
            for name in self.names(&format!("{root}/{folder}")) {
                let path = format!("{root}/{folder}/{name}");
                if name.starts_with(prefix)
                    && id_of_cgroup(&path).is_some()
                    && found.len() < limits::CONTAINERS
                {
                    found.push(path);
                }
            }
        }
        found
    }

    /// A process in a cgroup or in one right below it: an init of its own makes more.
    fn process_of(&self, group: &str) -> Option<u32> {
        let first = |folder: &str| {
            let content = read_capped(&self.path(&format!("{folder}/cgroup.procs")), FILE_BYTES)?;
            crate::text::first_line(&content)?.parse::<u32>().ok().filter(|pid| *pid > 0)
        };
        first(group).or_else(|| {
            let below = self.names(group);
            below.iter().find_map(|name| first(&format!("{group}/{name}")))
        })
    }
}

fn is_socket(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.file_type().is_socket())
}

fn ask(socket: &Path) -> EngineText {
    let until = Instant::now() + TIME_LIMIT;
    let list = match get(socket, "/containers/json?all=1", until) {
        Ok(list) => list,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return denied();
        }
        Err(_) => return EngineText::Silent,
    };
    let mut more = Vec::new();
    for id in ids(&list).into_iter().take(DETAILS) {
        // A container that went away meanwhile, and an engine that has become slow, only leave details out.
        let Ok(detail) = get(socket, &format!("/containers/{id}/json"), until) else { break };
        more.extend_from_slice(&detail);
    }
    EngineText::Answered { list, more }
}

/// As the shell probe names the user.
fn denied() -> EngineText {
    let name = |variable| std::env::var(variable).ok().filter(|name| !name.is_empty());
    EngineText::Denied { user: name("LOGNAME").or_else(|| name("USER")).unwrap_or_default() }
}

fn is_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// None: it does not answer in time, or with an error.
fn ask_podman() -> Option<EngineText> {
    let until = Instant::now() + TIME_LIMIT;
    // As JSON it says `[]` where it has none: no output at all is an error.
    let listed = run_within(TIME_LIMIT, "podman", ["ps", "-a", "--format", "json"])?;
    let ids = ids(&listed);
    if ids.is_empty() {
        return Some(EngineText::Answered { list: Vec::new(), more: Vec::new() });
    }
    let mut arguments = vec!["inspect", "--type", "container", "--format", INSPECT_FORMAT];
    arguments.extend(ids.iter().take(DETAILS).map(String::as_str));
    let left = until.saturating_duration_since(Instant::now());
    let list = run_within(left, "podman", arguments)?;
    Some(EngineText::Answered { list, more: Vec::new() })
}

/// The ids in a list, each once.
fn ids(list: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(list);
    let found =
        text.split("\"Id\":").skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"')?.get(..64));
    let is_id = |id: &&str| id.bytes().all(|byte| byte.is_ascii_hexdigit());
    found.filter(is_id).map(|id| (id.to_owned(), ())).collect::<BTreeMap<_, _>>().into_keys().collect()
}

/// The body of an answer, whatever its status: an engine that refuses says so in the body.
fn get(socket: &Path, path: &str, until: Instant) -> std::io::Result<Vec<u8>> {
    let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
    let mut stream = UnixStream::connect(socket)?;
    let left =
        until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()).ok_or_else(late)?;
    stream.set_read_timeout(Some(left))?;
    stream.set_write_timeout(Some(left))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut part = [0_u8; 16 * 1024];
    loop {
        let count = stream.read(&mut part)?;
        let got = part.get(..count).unwrap_or_default();
        answer.extend_from_slice(got);
        let is_full = u64::try_from(answer.len()).is_ok_and(|bytes| bytes > ANSWER_BYTES);
        // An engine that trickles would otherwise stay within the limit of each read for ever.
        if is_full || Instant::now() > until {
            return Err(late());
        }
        if count == 0 {
            break;
        }
    }
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
    Ok(body.map(|at| answer.split_off(at)).unwrap_or_default())
}
