//! A snapshot that somebody else wrote, made harmless: caps, cleaned text, no two things of one name. Pure.

use std::collections::HashSet;
use std::hash::Hash;

use roundsman_agent::limits;
use roundsman_agent::text::clean;

use crate::model::{Account, Container, Facts, Sections, Snapshot};

/// Ports and labels of one container.
const LABELS: usize = 256;
/// Containers of one machine; a large host runs some hundreds.
const CONTAINERS: usize = 5_000;

/// The same snapshot with what a page, the history or the memory can bear, and only what was asked for.
pub(super) fn checked(mut snapshot: Snapshot, sections: Sections) -> Snapshot {
    tidy(&mut snapshot.boot_id);
    snapshot.ticks_per_second = snapshot.ticks_per_second.filter(|ticks| (1..=1_000_000).contains(ticks));
    unique(&mut snapshot.cores, limits::CORES, |core| core.index);
    filesystems(&mut snapshot);
    for disk in &mut snapshot.disks {
        text(&mut disk.name);
    }
    unique(&mut snapshot.disks, limits::DISKS, |disk| disk.name.clone());
    for interface in &mut snapshot.interfaces {
        text(&mut interface.name);
    }
    unique(&mut snapshot.interfaces, limits::INTERFACES, |interface| interface.name.clone());
    for sensor in &mut snapshot.temperatures {
        text(&mut sensor.sensor);
    }
    unique(&mut snapshot.temperatures, limits::SENSORS, |sensor| sensor.sensor.clone());
    snapshot.processes = snapshot.processes.filter(|_| sections.processes);
    snapshot.services = snapshot.services.filter(|_| sections.services);
    snapshot.users = snapshot.users.filter(|_| sections.users);
    snapshot.facts = snapshot.facts.filter(|_| sections.facts);
    snapshot.containers = snapshot.containers.filter(|_| sections.containers);
    snapshot.updates = snapshot.updates.filter(|_| sections.packages);
    snapshot.tcp_states = snapshot.tcp_states.filter(|_| sections.sockets);
    details(&mut snapshot);
    snapshot.gaps.truncate(limits::GAPS);
    for gap in &mut snapshot.gaps {
        text(&mut gap.section);
        text(&mut gap.reason);
    }
    snapshot
}

fn filesystems(snapshot: &mut Snapshot) {
    for filesystem in &mut snapshot.filesystems {
        cut(&mut filesystem.mount, limits::PATH_BYTES);
        cut(&mut filesystem.device, limits::PATH_BYTES);
        text(&mut filesystem.fs_type);
    }
    unique(&mut snapshot.filesystems, limits::FILESYSTEMS, |filesystem| filesystem.mount.clone());
}

/// The heavy sections.
fn details(snapshot: &mut Snapshot) {
    if let Some(processes) = &mut snapshot.processes {
        unique(processes, limits::PROCESSES, |process| process.pid);
        for process in processes {
            tidy(&mut process.user);
            text(&mut process.name);
            cut_some(&mut process.command_line, limits::COMMAND_LINE_BYTES);
            if process.state.is_control() {
                process.state = '?';
            }
        }
    }
    if let Some(services) = &mut snapshot.services {
        for service in &mut *services {
            for word in
                [&mut service.name, &mut service.description, &mut service.state, &mut service.sub_state]
            {
                text(word);
            }
            tidy(&mut service.enabled);
        }
        unique(services, limits::SERVICES, |service| service.name.clone());
    }
    if let Some(users) = &mut snapshot.users {
        users.truncate(limits::USERS);
        for user in users {
            text(&mut user.name);
            tidy(&mut user.terminal);
            tidy(&mut user.remote_host);
        }
    }
    if let Some(containers) = &mut snapshot.containers {
        containers.iter_mut().for_each(container);
        unique(containers, CONTAINERS, |container| (container.engine.clone(), container.id.clone()));
    }
    if let Some(updates) = &mut snapshot.updates {
        text(&mut updates.manager);
    }
    if let Some(facts) = &mut snapshot.facts {
        self::facts(facts);
    }
}

fn container(container: &mut Container) {
    let Container { engine, id, name, image, state, health, ports, labels, .. } = container;
    for word in [engine, id, name, image, state] {
        text(word);
    }
    tidy(health);
    for list in [ports, labels] {
        list.truncate(LABELS);
        list.iter_mut().for_each(text);
    }
}

fn facts(facts: &mut Facts) {
    let Facts {
        hostname,
        os_name,
        os_id,
        os_version,
        kernel,
        architecture,
        cpu_model,
        virtualisation,
        machine_vendor,
        machine_model,
        timezone,
        addresses,
        accounts,
        ..
    } = facts;
    for word in [
        hostname,
        os_name,
        os_id,
        os_version,
        kernel,
        architecture,
        cpu_model,
        virtualisation,
        machine_vendor,
        machine_model,
        timezone,
    ] {
        tidy(word);
    }
    accounts.truncate(limits::LOGIN_ACCOUNTS);
    for account in accounts {
        let Account { name, home, shell, full_name, .. } = account;
        for word in [name, home, shell] {
            text(word);
        }
        tidy(full_name);
    }
    addresses.truncate(limits::ADDRESSES);
    addresses.iter_mut().for_each(text);
}

fn cut(word: &mut String, limit: usize) {
    *word = clean(word.as_bytes(), limit);
}

fn text(word: &mut String) {
    cut(word, limits::TEXT_BYTES);
}

fn cut_some(word: &mut Option<String>, limit: usize) {
    *word = word.take().map(|word| clean(word.as_bytes(), limit)).filter(|word| !word.is_empty());
}

fn tidy(word: &mut Option<String>) {
    cut_some(word, limits::TEXT_BYTES);
}

/// The first of each key, at most so many: a series has one value at a time.
fn unique<T, K: Eq + Hash>(list: &mut Vec<T>, limit: usize, key: impl Fn(&T) -> K) {
    list.truncate(limit);
    let mut seen = HashSet::with_capacity(list.len());
    list.retain(|item| seen.insert(key(item)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Interface, Process};

    #[test]
    fn names_are_cleaned_lists_capped_and_doubles_dropped() {
        let interface = |name: &str| Interface { name: name.to_owned(), ..Interface::default() };
        let mut snapshot = Snapshot {
            interfaces: vec![interface("e\u{1b}[31mth0"), interface("eth0"), interface("\u{202e}eth1")],
            ticks_per_second: Some(0),
            processes: Some(vec![
                Process {
                    pid: 7,
                    name: "\"); DROP <script>\n)".to_owned(),
                    command_line: Some("x".repeat(5000)),
                    state: '\n',
                    ..Process::default()
                },
                Process { pid: 7, name: "twice".to_owned(), ..Process::default() },
            ]),
            ..Snapshot::default()
        };
        snapshot.gaps = vec![crate::model::Gap::default(); 1000];
        let done = checked(snapshot, Sections::ALL);
        let names: Vec<&str> = done.interfaces.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["eth0", "eth1"]);
        assert_eq!((done.ticks_per_second, done.gaps.len()), (None, limits::GAPS));
        let processes = done.processes.unwrap();
        assert_eq!(processes.len(), 1);
        assert_eq!((processes[0].name.as_str(), processes[0].state), ("\"); DROP <script> )", '?'));
        assert_eq!(processes[0].command_line.as_deref().map(str::len), Some(limits::COMMAND_LINE_BYTES));
    }
}
