//! Services of OpenRC and of SysV init, told from the files that they keep: nothing is run but `grep` and `stat`.
//!
//! OpenRC holds a service's state as links under `/run/openrc` (librc, rc.h) and what it started under `daemons` and
//! `options`. SysV init keeps nothing: a service is a script in `/etc/init.d` that links in `/etc/rc?.d` start, and its
//! process is the one in the pid file that the script names (LSB, "System Initialization").

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::services::since;
use crate::limits;
use crate::snapshot::{Process, Service, ServiceManager};
use crate::text::{clean, first_line};

/// Folders whose entries say which services there are, which are enabled and in which state they are. A `*` stands for
/// any name of a folder; an entry counts where its name begins with the prefix.
pub const FOLDERS: &[(&str, &str)] = &[
    ("/etc/init.d", ""),
    ("/etc/rc2.d", "S"),
    ("/etc/rc3.d", "S"),
    ("/etc/rc4.d", "S"),
    ("/etc/rc5.d", "S"),
    ("/etc/rcS.d", "S"),
    ("/var/lock/subsys", ""),
    ("/etc/runlevels/*", ""),
    ("/run/openrc/started", ""),
    ("/run/openrc/starting", ""),
    ("/run/openrc/stopping", ""),
    ("/run/openrc/inactive", ""),
    ("/run/openrc/failed", ""),
];

/// Folders of links whose time is that of the state.
pub const DATED: [&str; 2] = ["/run/openrc/started", "/run/openrc/failed"];

/// What OpenRC keeps of a service that it supervises or started in the background.
pub const OPTIONS: [&str; 3] = ["child_pid", "pidfile", "start_count"];

/// Files in `/etc/init.d` that are no services.
const NO_SERVICES: [&str; 7] =
    ["README", "functions", "functions.sh", "rc", "rcS", "skeleton", "skeleton.compat"];

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InitText {
    pub manager: ServiceManager,
    /// Entries of [`FOLDERS`].
    pub paths: Vec<String>,
    /// Script and line: those lines of the scripts that [`is_telling`] chooses.
    pub lines: Vec<(String, String)>,
    /// Links in [`DATED`] and when they were made, Unix time in seconds.
    pub dates: Vec<(String, u64)>,
    /// Files under `/run/openrc/daemons` and [`OPTIONS`] under `/run/openrc/options`, by path.
    pub values: BTreeMap<String, Vec<u8>>,
    /// Pid files and the number in them.
    pub pids: Vec<(String, u32)>,
    /// Those of the named processes that exist.
    pub processes: BTreeMap<u32, Process>,
    /// All processes are seen: one that was not found does not exist.
    pub sees_all: bool,
}

/// When the machine booted (Unix time in milliseconds), and its clock ticks a second.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    pub boot_at_ms: Option<u64>,
    pub ticks_per_second: Option<u32>,
}

/// A line of a script that says something: the same as the shell probe asks `grep` for.
#[must_use]
pub fn is_telling(line: &str) -> bool {
    let small = line.to_ascii_lowercase();
    ["description=", "name=", "# short-description:", "# default-start:"]
        .iter()
        .any(|start| small.starts_with(start))
        || small.contains("pidfile")
        || small.contains("pid_file")
}

/// [`is_telling`] for `grep -iE`.
pub const TELLING: &str = "^(description|name)=|^# (Short-Description|Default-Start):|pid_?file";

/// Every service that the scripts in `/etc/init.d` make.
#[must_use]
pub fn services(text: &InitText, clock: Clock) -> Vec<Service> {
    let known = Known::new(text);
    let names: BTreeSet<&str> =
        known.entries("/etc/init.d").iter().copied().filter(|name| is_service(name)).collect();
    let made = names.into_iter().filter_map(|name| match text.manager {
        ServiceManager::OpenRc => Some(known.openrc(name, clock)),
        _ => known.sysv(name, clock),
    });
    made.take(limits::SERVICES).collect()
}

fn is_service(name: &str) -> bool {
    !NO_SERVICES.contains(&name)
        && !name.starts_with('.')
        && ![".dpkg-old", ".dpkg-new", ".dpkg-dist", ".rpmsave", ".rpmnew", ".apk-new", ".orig", "~"]
            .iter()
            .any(|end| name.ends_with(end))
}

/// `/var/run` is `/run` wherever both are there.
fn plain(path: &str) -> &str {
    path.strip_prefix("/var").filter(|rest| rest.starts_with("/run/")).unwrap_or(path)
}

struct Known<'a> {
    text: &'a InitText,
    folders: HashMap<&'a str, Vec<&'a str>>,
    lines: HashMap<&'a str, Vec<&'a str>>,
    dates: HashMap<&'a str, u64>,
    pids: HashMap<&'a str, u32>,
}

/// What the process of a service is.
enum Daemon<'a> {
    Alive(&'a Process),
    /// Its number is known and there is no such process.
    Gone,
    /// No number is known, or processes of others are hidden.
    Unknown,
}

impl<'a> Known<'a> {
    fn new(text: &'a InitText) -> Self {
        let mut folders: HashMap<&str, Vec<&str>> = HashMap::new();
        for (folder, name) in text.paths.iter().filter_map(|path| path.rsplit_once('/')) {
            folders.entry(folder).or_default().push(name);
        }
        let mut lines: HashMap<&str, Vec<&str>> = HashMap::new();
        for (script, line) in &text.lines {
            lines.entry(script.as_str()).or_default().push(line.as_str());
        }
        Self {
            text,
            folders,
            lines,
            dates: text.dates.iter().map(|(path, seconds)| (path.as_str(), *seconds)).collect(),
            pids: text.pids.iter().map(|(path, pid)| (plain(path), *pid)).collect(),
        }
    }

    fn entries(&self, folder: &str) -> &[&'a str] {
        self.folders.get(folder).map_or(&[], Vec::as_slice)
    }

    fn is_in(&self, folder: &str, name: &str) -> bool {
        self.entries(folder).contains(&name)
    }

    fn lines(&self, name: &str) -> &[&'a str] {
        self.lines.get(format!("/etc/init.d/{name}").as_str()).map_or(&[], Vec::as_slice)
    }

    /// The value of `key` in the header or among the variables of a script.
    fn value(&self, name: &str, key: &str) -> Option<&'a str> {
        self.lines(name).iter().find_map(|line| {
            let rest = line
                .get(..key.len())
                .filter(|start| start.eq_ignore_ascii_case(key))
                .and(line.get(key.len()..))?;
            Some(rest.trim().trim_matches(['"', '\'']))
        })
    }

    fn described(&self, name: &str) -> String {
        let said = self.value(name, "description=").or_else(|| self.value(name, "# Short-Description:"));
        clean(said.unwrap_or_default().as_bytes(), limits::TEXT_BYTES)
    }

    fn daemon(&self, pid: Option<u32>) -> Daemon<'a> {
        let Some(pid) = pid else { return Daemon::Unknown };
        match self.text.processes.get(&pid) {
            Some(process) if !matches!(process.state, 'Z' | 'X' | 'x') => Daemon::Alive(process),
            None if !self.text.sees_all => Daemon::Unknown,
            _ => Daemon::Gone,
        }
    }

    fn option(&self, name: &str, option: &str) -> Option<String> {
        first_line(self.text.values.get(&format!("/run/openrc/options/{name}/{option}"))?)
    }

    /// The process that OpenRC keeps of a service: the child of its supervisor, or what its pid file names.
    fn openrc_pid(&self, name: &str) -> Option<u32> {
        if let Some(child) = self.option(name, "child_pid").and_then(|pid| pid.parse().ok()) {
            return Some(child);
        }
        let folder = format!("/run/openrc/daemons/{name}/");
        let kept = self.text.values.range(folder.clone()..).take_while(|(path, _)| path.starts_with(&folder));
        let named = kept.flat_map(|(_, content)| crate::text::lines(content)).find_map(|line| {
            line.strip_prefix("pidfile=").map(|path| path.trim().to_owned()).filter(|path| !path.is_empty())
        });
        let path = named.or_else(|| self.option(name, "pidfile"))?;
        self.pids.get(plain(&path)).copied()
    }

    fn openrc(&self, name: &str, clock: Clock) -> Service {
        let in_state = |state: &str| self.is_in(&format!("/run/openrc/{state}"), name);
        let daemon = self.daemon(self.openrc_pid(name));
        let (state, sub_state) = if in_state("starting") {
            ("activating", "starting")
        } else if in_state("stopping") {
            ("deactivating", "stopping")
        } else if in_state("inactive") {
            ("inactive", "inactive")
        } else if in_state("started") {
            match daemon {
                Daemon::Gone => ("failed", "crashed"),
                _ => ("active", "started"),
            }
        } else if in_state("failed") {
            ("failed", "failed")
        } else {
            ("inactive", "stopped")
        };
        let enabled = self
            .folders
            .iter()
            .any(|(folder, names)| folder.starts_with("/etc/runlevels/") && names.contains(&name));
        let dated = DATED.iter().find_map(|folder| self.dates.get(format!("{folder}/{name}").as_str()));
        let mut service = self.service(name, (state, sub_state), enabled, &daemon, clock);
        service.restarts = self.option(name, "start_count").and_then(|count| count.parse().ok());
        service.since_ms = dated.and_then(|seconds| seconds.checked_mul(1000)).or(service.since_ms);
        service
    }

    /// `None`: a step of the boot or of the shutdown, not a service.
    fn sysv(&self, name: &str, clock: Clock) -> Option<Service> {
        let named = self.pid_files(name);
        let usual = [format!("/run/{name}.pid"), format!("/run/{name}/{name}.pid")];
        let pid = named.iter().chain(&usual).find_map(|path| self.pids.get(plain(path))).copied();
        let daemon = self.daemon(pid);
        let levels = self.value(name, "# Default-Start:");
        let is_step = levels.is_some_and(|levels| !levels.contains(['2', '3', '4', '5']));
        if is_step && !matches!(daemon, Daemon::Alive(_)) {
            return None;
        }
        let locked = self.is_in("/var/lock/subsys", name);
        let state = match (&daemon, locked) {
            (Daemon::Alive(_), _) => ("active", "running"),
            (Daemon::Gone, _) => ("failed", "dead, its pid file is left"),
            // A lock without a process is all that a script without a daemon leaves.
            (Daemon::Unknown, true) if named.is_empty() => ("active", "exited"),
            (Daemon::Unknown, true) => ("failed", "dead, its lock is left"),
            (Daemon::Unknown, false) if named.is_empty() => ("unknown", ""),
            (Daemon::Unknown, false) if self.text.sees_all => ("inactive", "stopped"),
            (Daemon::Unknown, false) => ("unknown", ""),
        };
        let starts = |link: &&str| link.get(3..) == Some(name);
        let enabled = ["2", "3", "4", "5", "S"]
            .iter()
            .any(|level| self.entries(&format!("/etc/rc{level}.d")).iter().any(starts));
        Some(self.service(name, state, enabled, &daemon, clock))
    }

    /// The pid files that a script names, with its own name filled in.
    fn pid_files(&self, name: &str) -> Vec<String> {
        let own = self.value(name, "NAME=").filter(|own| !own.contains('$')).unwrap_or(name);
        let mut found = Vec::new();
        for line in self.lines(name) {
            let line = line.replace("${NAME}", own).replace("$NAME", own);
            let words = line
                .split(|c: char| c.is_whitespace() || matches!(c, '=' | '"' | '\'' | ':' | ';' | '(' | ')'));
            found.extend(
                words
                    .filter(|word| word.starts_with('/') && word.ends_with(".pid") && !word.contains('$'))
                    .map(str::to_owned),
            );
        }
        found
    }

    fn service(
        &self,
        name: &str,
        (state, sub_state): (&str, &str),
        enabled: bool,
        daemon: &Daemon<'_>,
        clock: Clock,
    ) -> Service {
        let process = match daemon {
            Daemon::Alive(process) => Some(*process),
            _ => None,
        };
        Service {
            name: clean(name.as_bytes(), limits::TEXT_BYTES),
            description: self.described(name),
            state: state.to_owned(),
            sub_state: sub_state.to_owned(),
            enabled: Some(if enabled { "enabled" } else { "disabled" }.to_owned()),
            main_pid: process.map(|process| process.pid),
            memory_bytes: process.map(|process| process.rss_bytes),
            restarts: None,
            since_ms: process.and_then(|process| since(process.start_ticks, clock)),
        }
    }
}
