//! The containers of the machine: asks the engines over their sockets and reads the cgroups of what runs.
//!
//! HTTP/1.0 over a Unix socket: the engine answers without chunks and closes. Only GET, only the two questions below.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Reader, read_capped};
use crate::limits;
use crate::proc::containers::{ContainersText, EngineText, id_of_cgroup};

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

impl Reader {
    pub(super) fn containers(&self) -> ContainersText {
        let mut text = ContainersText::default();
        for (engine, sockets) in [
            ("podman", ["/run/podman/podman.sock", "/var/run/podman/podman.sock"]),
            ("docker", ["/run/docker.sock", "/var/run/docker.sock"]),
        ] {
            let mut sockets = sockets.iter().map(|path| self.path(path));
            if let Some(socket) = sockets.find(|path| is_socket(path)) {
                text.engines.push((engine, ask(&socket)));
            }
        }
        if text.engines.iter().any(|(_, said)| matches!(said, EngineText::Answered { .. })) {
            self.add_groups(&mut text);
        }
        text
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
        for group in GROUPS {
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
            return EngineText::Denied { user: std::env::var("USER").unwrap_or_default() };
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

/// The ids in a list, each once.
fn ids(list: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(list);
    let found = text.split("\"Id\":\"").skip(1).filter_map(|rest| rest.get(..64));
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
