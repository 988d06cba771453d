//! The YAML form of an inventory: groups with `hosts`, `children` and `vars`.

use super::super::found::{Findings, Place, word};
use super::yaml_tree::{self, Kind, Node};
use super::{GROUP_DEPTH, HOSTS, Inventory, Value, Variables, expand, is_wanted};

pub(super) fn parse(text: &str, findings: &mut Findings) -> Inventory {
    let mut inventory = Inventory::default();
    let root = match yaml_tree::parse(text) {
        Ok(root) => root,
        Err(error) => {
            findings.invalid(Place::line(error.line), "text", error.message);
            return inventory;
        }
    };
    let Kind::Map(groups) = &root.kind else {
        findings.invalid(
            Place::line(root.line),
            "text",
            "an inventory is a map of groups, for example 'all:'",
        );
        return inventory;
    };
    for (name, body) in groups {
        group(name, body, 0, &mut inventory, findings);
    }
    inventory
}

fn group(name: &Node, body: &Node, depth: usize, inventory: &mut Inventory, findings: &mut Findings) {
    let at = Place::line(name.line);
    let Some(group_name) = name.text() else {
        return findings.invalid(at, "group", "the name of a group is a word");
    };
    if depth > GROUP_DEPTH || inventory.group(group_name).is_none() {
        return findings.invalid(at, "group", "there are too many groups, or too many inside one another");
    }
    let members = match &body.kind {
        Kind::Map(members) => members,
        _ if body.is_null() => return,
        _ => {
            let message = format!("'{}' has to be a map with hosts, children or vars", word(group_name));
            return findings.invalid(at, "group", message);
        }
    };
    for (key, value) in members {
        match (key.text(), &value.kind) {
            (Some("hosts"), Kind::Map(hosts)) => {
                for (host, variables) in hosts {
                    one_host(host, variables, group_name, inventory, findings);
                }
            }
            (Some("children"), Kind::Map(children)) => {
                for (child, body) in children {
                    if let (Some(child), Some(parent)) = (child.text(), inventory.group(group_name)) {
                        parent.children.insert(child.to_owned());
                    }
                    group(child, body, depth + 1, inventory, findings);
                }
            }
            (Some("vars"), Kind::Map(_)) => {
                if let Some(group) = inventory.group(group_name) {
                    group.variables.extend(variables(value));
                }
            }
            (Some("hosts" | "children" | "vars"), _) if value.is_null() => {}
            (Some(key @ ("hosts" | "children" | "vars")), _) => {
                let message = format!("'{key}' has to be a map: each name with a colon behind it");
                findings.invalid(Place::line(value.line), "group", message);
            }
            (other, _) => {
                let message = format!(
                    "'{}' is not known here; a group has hosts, children and vars",
                    word(other.unwrap_or_default())
                );
                findings.invalid(Place::line(key.line), "group", message);
            }
        }
    }
}

fn one_host(name: &Node, body: &Node, group: &str, inventory: &mut Inventory, findings: &mut Findings) {
    let at = Place::line(name.line);
    let Some(pattern) = name.text() else {
        return findings.invalid(at, "hostname", "the name of a host is a word");
    };
    if !matches!(body.kind, Kind::Map(_)) && !body.is_null() {
        let message = format!("what stands below '{}' has to be a map of variables", word(pattern));
        return findings.invalid(at, "hostname", message);
    }
    let variables = variables(body);
    match expand(pattern) {
        Err(message) => findings.invalid(at, "hostname", message),
        Ok(names) => {
            if !names.iter().all(|name| inventory.host(name, &at, group, &variables)) {
                findings.invalid(
                    at,
                    "hostname",
                    format!("more than {HOSTS} hosts, or too many groups of theirs"),
                );
            }
        }
    }
}

/// The wanted variables of a map.
fn variables(node: &Node) -> Variables {
    let Kind::Map(pairs) = &node.kind else { return Variables::new() };
    pairs
        .iter()
        .filter_map(|(name, value)| Some((name.text()?, value)))
        .filter(|(name, _)| is_wanted(name))
        .map(|(name, value)| (name.to_owned(), value_of(value)))
        .collect()
}

fn value_of(node: &Node) -> Value {
    match &node.kind {
        Kind::Scalar { tag: Some(tag), .. } if tag == "vault" || tag == "vault-encrypted" => Value::Vault,
        Kind::Scalar { text, .. } => Value::of(text),
        Kind::Map(_) | Kind::List(_) => Value::Other,
    }
}

/// The wanted variables of a file below group_vars or host_vars.
pub(super) fn variables_of_file(path: &str, text: &str, findings: &mut Findings) -> Variables {
    if text.starts_with("$ANSIBLE_VAULT") {
        let at = Place::in_file(Some(path), 1);
        findings.note(at, "the file is encrypted by ansible-vault and is left out");
        return Variables::new();
    }
    match yaml_tree::parse(text) {
        Ok(root) => variables(&root),
        Err(error) => {
            findings.invalid(Place::in_file(Some(path), error.line), "vars", error.message);
            Variables::new()
        }
    }
}
