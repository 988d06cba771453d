//! Processes by id: who descends from whom, and signals. Never by name.

use std::process::Command;

/// Every process that descends from `root`, without it. Source: field 4 of /proc/PID/stat, proc(5).
pub(crate) fn descendants(root: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, after_name)) = stat.rsplit_once(')') else { continue };
        let parent = after_name.split_whitespace().nth(1).and_then(|field| field.parse::<u32>().ok());
        parents.push((pid, parent.unwrap_or(0)));
    }
    let mut family = vec![root];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    family.split_off(1)
}

/// Sends a signal to each of `pids`; those that are gone already do not matter.
pub(crate) fn signal(name: &str, pids: &[u32]) {
    if pids.is_empty() {
        return;
    }
    let list: Vec<String> = pids.iter().map(ToString::to_string).collect();
    let script = format!("for p in {}; do kill -{name} $p 2>/dev/null; done; true", list.join(" "));
    assert!(Command::new("/bin/sh").args(["-c", &script]).status().unwrap().success());
}

/// Whether the process exists and is not a zombie.
pub(crate) fn lives(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')),
        Err(_) => false,
    }
}
