//! Ansible inventories: hosts with what their groups and they themselves say, groups as tags.
//!
//! Source: "How to build your inventory" of the Ansible documentation. Variables of the connection only; templates are
//! not evaluated and vaults not opened.

mod connection;
mod ini;
mod yaml;
mod yaml_tree;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::found::{Files, Findings, Place, VALUE_BYTES, word};

/// Hosts that one inventory may come to, ranges expanded; the import itself takes fewer.
const HOSTS: usize = 20_000;
const GROUPS: usize = 5_000;
/// Hosts in groups, counted for each place that names one: a line of ten bytes with a range names them all.
const MEMBERSHIPS: usize = 200_000;
/// Names of groups and patterns of hosts; a host name has at most 253 (RFC 1035), and ranges repeat what is here.
const NAME_BYTES: usize = 512;
/// Groups that one host may be in; each becomes a tag.
const GROUPS_OF_HOST: usize = 200;
/// Groups inside groups.
const GROUP_DEPTH: usize = 32;

/// What a variable holds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    /// Shared, because a range gives it to thousands of hosts.
    Text(Arc<str>),
    /// More than [`VALUE_BYTES`].
    TooLong,
    /// Encrypted by ansible-vault.
    Vault,
    /// A list or a map.
    Other,
}

impl Value {
    fn of(text: &str) -> Self {
        if text.starts_with("$ANSIBLE_VAULT") {
            Self::Vault
        } else if text.len() > VALUE_BYTES {
            Self::TooLong
        } else {
            Self::Text(text.into())
        }
    }
}

type Variables = BTreeMap<String, Value>;

#[derive(Debug, Default)]
struct Group {
    children: BTreeSet<String>,
    variables: Variables,
}

#[derive(Debug)]
struct Host {
    name: String,
    at: Place,
    groups: BTreeSet<String>,
    variables: Variables,
}

/// What an inventory says, whatever it is written in.
#[derive(Debug, Default)]
struct Inventory {
    hosts: Vec<Host>,
    by_name: HashMap<String, usize>,
    groups: BTreeMap<String, Group>,
    memberships: usize,
}

impl Inventory {
    fn group(&mut self, name: &str) -> Option<&mut Group> {
        let is_full = self.groups.len() >= GROUPS && !self.groups.contains_key(name);
        if is_full || name.len() > NAME_BYTES {
            return None;
        }
        Some(self.groups.entry(name.to_owned()).or_default())
    }

    /// Adds what is said of a host in one place. False: there are too many.
    fn host(&mut self, name: &str, at: &Place, group: &str, variables: &Variables) -> bool {
        self.memberships += 1;
        if self.memberships > MEMBERSHIPS {
            return false;
        }
        let index = match self.by_name.get(name) {
            Some(index) => *index,
            None if self.hosts.len() >= HOSTS => return false,
            None => {
                let (name, at) = (name.to_owned(), at.clone());
                self.by_name.insert(name.clone(), self.hosts.len());
                self.hosts.push(Host { name, at, groups: BTreeSet::new(), variables: Variables::new() });
                self.hosts.len() - 1
            }
        };
        if let Some(host) = self.hosts.get_mut(index) {
            host.groups.insert(group.to_owned());
            host.variables.extend(variables.clone());
        }
        true
    }

    /// Parents of each group.
    fn parents(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut parents: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, group) in &self.groups {
            for child in &group.children {
                parents.entry(child).or_default().push(name);
            }
        }
        parents
    }

    /// How far each group is below `all`; what is deeper overrules. A group inside itself ends at the limit.
    fn depths(&self) -> BTreeMap<&str, usize> {
        let mut depths: BTreeMap<&str, usize> =
            self.groups.keys().map(|name| (name.as_str(), usize::from(name != "all"))).collect();
        for _ in 0..GROUP_DEPTH {
            let mut is_settled = true;
            for (name, group) in &self.groups {
                let below = depths.get(name.as_str()).copied().unwrap_or(0) + 1;
                for child in &group.children {
                    let depth = depths.entry(child).or_insert(1);
                    if *depth < below && below <= GROUP_DEPTH {
                        *depth = below;
                        is_settled = false;
                    }
                }
            }
            if is_settled {
                break;
            }
        }
        depths
    }
}

pub(super) fn read_ini(text: &str, files: Option<&dyn Files>, findings: &mut Findings) {
    let inventory = ini::parse(text, findings);
    found(inventory, files, findings);
}

pub(super) fn read_yaml(text: &str, files: Option<&dyn Files>, findings: &mut Findings) {
    let inventory = yaml::parse(text, findings);
    found(inventory, files, findings);
}

/// Every group that a host belongs to, `all` included.
fn groups_of<'a>(host: &'a Host, parents: &BTreeMap<&'a str, Vec<&'a str>>) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::from(["all"]);
    let mut waiting: Vec<&str> = host.groups.iter().map(String::as_str).collect();
    while let Some(group) = waiting.pop() {
        if found.insert(group) {
            waiting.extend(parents.get(group).into_iter().flatten());
        }
    }
    found
}

/// The hosts as servers: variables of their groups from the outermost in, then their own.
fn found(mut inventory: Inventory, files: Option<&dyn Files>, findings: &mut Findings) {
    if let Some(files) = files {
        files_of_groups(&mut inventory, files, findings);
    }
    let (parents, depths) = (inventory.parents(), inventory.depths());
    for host in &inventory.hosts {
        if findings.is_full() {
            return;
        }
        let mut groups: Vec<&str> = groups_of(host, &parents).into_iter().collect();
        groups.sort_by_key(|name| (depths.get(name).copied().unwrap_or(0), *name));
        let mut variables = Variables::new();
        for group in groups.iter().filter_map(|name| inventory.groups.get(*name)) {
            variables.extend(group.variables.clone());
        }
        variables.extend(host.variables.clone());
        if let Some(files) = files {
            variables.extend(variables_from(files, "host_vars", &host.name, &host.at, findings));
        }
        groups.retain(|name| !matches!(*name, "all" | "ungrouped"));
        if groups.len() > GROUPS_OF_HOST {
            let message = format!("{} is in more than {GROUPS_OF_HOST} groups", word(&host.name));
            findings.invalid(host.at.clone(), "group", message);
            continue;
        }
        groups.sort_unstable();
        connection::server(host, &variables, &groups, findings);
    }
}

fn files_of_groups(inventory: &mut Inventory, files: &dyn Files, findings: &mut Findings) {
    for name in ["all", "ungrouped"] {
        inventory.groups.entry(name.to_owned()).or_default();
    }
    for (name, group) in &mut inventory.groups {
        group.variables.extend(variables_from(files, "group_vars", name, &Place::line(1), findings));
    }
}

fn variables_from(
    files: &dyn Files,
    folder: &str,
    name: &str,
    at: &Place,
    findings: &mut Findings,
) -> Variables {
    let mut variables = Variables::new();
    match files.variables(folder, name) {
        Ok(found) => {
            for (path, text) in found {
                variables.extend(yaml::variables_of_file(&path, &text, findings));
            }
        }
        Err(why) => findings.invalid(at.clone(), folder, why),
    }
    variables
}

/// Whether a variable says how a host is reached; nothing else is kept.
fn is_wanted(name: &str) -> bool {
    connection::WANTED.contains(&name)
}

/// The names that `web[01:20].example.com` means; several ranges are all combined.
///
/// # Errors
/// What is wrong with the range.
fn expand(pattern: &str) -> Result<Vec<String>, String> {
    if pattern.len() > NAME_BYTES {
        return Err(format!("'{}' is longer than {NAME_BYTES} bytes", word(pattern)));
    }
    let mut names = vec![String::new()];
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('[') {
        let (range, behind) =
            after.split_once(']').ok_or_else(|| format!("'{}': the ] is missing", word(pattern)))?;
        let steps = steps(range)
            .ok_or_else(|| format!("'{}': a range looks like [01:20], [a:f] or [1:10:2]", word(pattern)))?;
        if names.len().saturating_mul(steps.len()) > HOSTS {
            return Err(format!("'{}' means more than {HOSTS} hosts", word(pattern)));
        }
        names = names
            .iter()
            .flat_map(|name| steps.iter().map(move |step| format!("{name}{before}{step}")))
            .collect();
        rest = behind;
    }
    for name in &mut names {
        name.push_str(rest);
    }
    Ok(names)
}

/// `01:20`, `a:f`, `1:10:2`; a first number with zeros in front keeps its width.
fn steps(range: &str) -> Option<Vec<String>> {
    let mut parts = range.split(':');
    let (from, to) = (parts.next()?, parts.next()?);
    let step = parts.next().map_or(Some(1), |step| step.parse::<usize>().ok()).filter(|step| *step > 0)?;
    if parts.next().is_some() {
        return None;
    }
    let from = if from.is_empty() { "0" } else { from };
    if let (Ok(first), Ok(last)) = (from.parse::<u32>(), to.parse::<u32>()) {
        let width = if from.starts_with('0') && from.len() > 1 { from.len() } else { 0 };
        let count = usize::try_from(last.checked_sub(first)?).ok()? / step + 1;
        if count > HOSTS || width > 10 {
            return None;
        }
        return Some((first..=last).step_by(step).map(|number| format!("{number:0width$}")).collect());
    }
    let letter = |text: &str| {
        let mut chars = text.chars();
        chars.next().filter(|c| c.is_ascii_alphabetic() && chars.next().is_none())
    };
    let (first, last) = (letter(from)?, letter(to)?);
    (first <= last).then(|| (first..=last).step_by(step).map(String::from).collect())
}

#[cfg(test)]
mod tests {
    use super::super::found::Found;
    use super::*;

    #[test]
    fn ranges_are_expanded_as_ansible_does() {
        let names = |pattern: &str| expand(pattern).unwrap();
        assert_eq!(names("web[01:03].lan"), ["web01.lan", "web02.lan", "web03.lan"]);
        assert_eq!(names("db-[a:c]"), ["db-a", "db-b", "db-c"]);
        assert_eq!(names("x[1:7:3]y[a:b]"), ["x1ya", "x1yb", "x4ya", "x4yb", "x7ya", "x7yb"]);
        assert_eq!(names("plain"), ["plain"]);
        for bad in
            ["web[1:2", "web[]", "web[2:1]", "web[a:3]", "web[1:2:0]", "web[1:999999]", "w[1:999][1:999]"]
        {
            assert!(expand(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_long_value_is_refused_before_a_range_repeats_it() {
        let long = "x".repeat(500_000);
        let refused = |text: &str| {
            let mut findings = Findings::default();
            read_ini(text, None, &mut findings);
            let entries = findings.into_entries();
            assert!(
                entries.iter().all(|entry| !matches!(entry.found, Found::Server(_))),
                "{}",
                entries.len()
            );
            assert!(!entries.is_empty());
        };
        refused(&format!("{long}[1:20000]\n"));
        refused(&format!("web[1:300] ansible_user={long}\n"));
        refused(&format!("web ansible_ssh_private_key_file={long}\n"));
        refused(&format!("[{long}]\n"));
        let mut findings = Findings::default();
        read_yaml(&format!("all:\n  hosts:\n    web:\n      ansible_user: {long}\n"), None, &mut findings);
        let entries = findings.into_entries();
        assert!(
            matches!(&entries[0].found, Found::Invalid { message, .. } if message.contains("4096 bytes"))
        );
        let mut inventory = Inventory::default();
        let none = Variables::new();
        let is_taken = |inventory: &mut Inventory| inventory.host("web", &Place::line(1), "a", &none);
        assert!((0..MEMBERSHIPS).all(|_| is_taken(&mut inventory)) && !is_taken(&mut inventory));
    }

    #[test]
    fn a_group_inside_itself_ends() {
        let mut inventory = Inventory::default();
        inventory.group("a").unwrap().children.insert("b".to_owned());
        inventory.group("b").unwrap().children.insert("a".to_owned());
        assert!(inventory.host("web", &Place::line(1), "a", &Variables::new()));
        assert!(inventory.depths().values().all(|depth| *depth <= GROUP_DEPTH));
        assert_eq!(groups_of(&inventory.hosts[0], &inventory.parents()), BTreeSet::from(["a", "all", "b"]));
    }
}
