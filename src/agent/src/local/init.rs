//! What OpenRC and SysV init leave in files, read from this machine.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::{Reader, read_capped};
use crate::limits;
use crate::proc::init::{DATED, FOLDERS, InitText, OPTIONS, is_telling};
use crate::proc::process::{ProcessFiles, process};
use crate::snapshot::ServiceManager;
use crate::text::{first_line, lines};

/// Bytes of a script that are looked at; its header and its variables stand at the beginning.
const SCRIPT_BYTES: u64 = 64 * 1024;
/// Bytes of a pid file or of a value of OpenRC's.
const VALUE_BYTES: u64 = 4096;

impl Reader {
    /// `None`: neither OpenRC nor SysV init runs here.
    pub(super) fn init(&self) -> Option<InitText> {
        let is_init =
            || self.file("/proc/1/comm").and_then(|comm| first_line(&comm)).as_deref() == Some("init");
        let manager = if self.path("/run/openrc").is_dir() {
            ServiceManager::OpenRc
        } else if self.path("/etc/init.d").is_dir() && is_init() {
            ServiceManager::SysV
        } else {
            return None;
        };
        let mut text = InitText {
            manager,
            sees_all: self.path("/proc/1/comm").exists() && self.file("/proc/1/comm").is_some(),
            ..InitText::default()
        };
        for (folder, prefix) in FOLDERS {
            for folder in self.folders(folder) {
                let names = self.sorted_names(&folder).into_iter().filter(|name| name.starts_with(prefix));
                text.paths.extend(names.map(|name| format!("{folder}/{name}")));
            }
        }
        text.paths.truncate(limits::INIT_LINES);
        for name in self.sorted_names("/etc/init.d") {
            self.add_lines(&mut text, &format!("/etc/init.d/{name}"));
        }
        for folder in DATED {
            for name in self.sorted_names(folder) {
                let path = format!("{folder}/{name}");
                let made = fs::symlink_metadata(self.path(&path)).ok();
                text.dates.extend(made.and_then(|data| Some((path, u64::try_from(data.mtime()).ok()?))));
            }
        }
        self.add_values(&mut text);
        self.add_processes(&mut text);
        Some(text)
    }

    fn sorted_names(&self, folder: &str) -> Vec<String> {
        let mut names = self.names(folder);
        names.sort_unstable();
        names.truncate(limits::INIT_LINES);
        names
    }

    /// The folders that a name with a `*` at its end means.
    fn folders(&self, pattern: &str) -> Vec<String> {
        match pattern.strip_suffix("/*") {
            Some(parent) => {
                self.sorted_names(parent).into_iter().map(|name| format!("{parent}/{name}")).collect()
            }
            None => vec![pattern.to_owned()],
        }
    }

    fn add_lines(&self, text: &mut InitText, script: &str) {
        let Some(content) = self.regular(script, SCRIPT_BYTES) else { return };
        for line in lines(&content).filter(|line| is_telling(line)) {
            if text.lines.len() < limits::INIT_LINES {
                text.lines.push((script.to_owned(), line.into_owned()));
            }
        }
    }

    /// A fifo would block its reader for ever.
    fn regular(&self, path: &str, limit_bytes: u64) -> Option<Vec<u8>> {
        let path = self.path(path);
        path.is_file().then(|| read_capped(&path, limit_bytes)).flatten()
    }

    fn add_values(&self, text: &mut InitText) {
        let mut add = |path: String| {
            if text.values.len() < limits::INIT_LINES {
                text.values.extend(self.regular(&path, VALUE_BYTES).map(|content| (path, content)));
            }
        };
        for folder in self.folders("/run/openrc/daemons/*") {
            for name in self.sorted_names(&folder) {
                add(format!("{folder}/{name}"));
            }
        }
        for folder in self.folders("/run/openrc/options/*") {
            OPTIONS.iter().for_each(|option| add(format!("{folder}/{option}")));
        }
    }

    fn add_processes(&self, text: &mut InitText) {
        let mut roots = vec!["/run"];
        if !fs::symlink_metadata(self.path("/var/run")).is_ok_and(|data| data.is_symlink()) {
            roots.push("/var/run");
        }
        let mut files = Vec::new();
        for root in roots {
            for name in self.sorted_names(root) {
                let path = format!("{root}/{name}");
                if name.ends_with(".pid") {
                    files.push(path);
                } else {
                    let within = self.sorted_names(&path).into_iter().filter(|name| name.ends_with(".pid"));
                    files.extend(within.map(|name| format!("{path}/{name}")));
                }
            }
        }
        for folder in self.folders("/run/openrc/options/*") {
            files.push(format!("{folder}/child_pid"));
        }
        files.truncate(limits::PID_FILES);
        for path in files {
            let pid = self.regular(&path, VALUE_BYTES).and_then(|content| first_line(&content)?.parse().ok());
            text.pids.extend(pid.map(|pid: u32| (path, pid)));
        }
        let stat = |pid: u32| {
            let stat = read_capped(&self.path(&format!("/proc/{pid}/stat")), VALUE_BYTES)?;
            let files = ProcessFiles { stat: &stat, status: None, command_line: None };
            Some((pid, process(&files, self.page_bytes, &std::collections::HashMap::new())?))
        };
        let found: BTreeMap<_, _> = text.pids.iter().filter_map(|(_, pid)| stat(*pid)).collect();
        text.processes = found;
    }
}

/// Kept apart so that a test of a tree of files can be sure of it.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_service_manager_has_no_init_to_read() {
        let empty = std::env::temp_dir().join(format!("roundsman-no-init-{}", std::process::id()));
        fs::create_dir_all(&empty).unwrap();
        assert_eq!(Reader::new(&empty).init(), None);
        fs::remove_dir_all(&empty).unwrap();
    }
}
