//! The INI form of an inventory: hosts below `[group]`, `[group:children]`, `[group:vars]`.

use super::super::found::{Findings, Place, word};
use super::{HOSTS, Inventory, Value, Variables, expand, is_wanted};

enum Section {
    Hosts(String),
    Children(String),
    Variables(String),
    /// Nothing in it can be meant.
    Unknown,
}

pub(super) fn parse(text: &str, findings: &mut Findings) -> Inventory {
    let mut inventory = Inventory::default();
    let mut section = Section::Hosts("ungrouped".to_owned());
    for (index, line) in text.lines().enumerate() {
        let at = Place::line(index + 1);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if findings.is_full() {
            break;
        }
        if let Some(header) = header(line) {
            section = named(header);
            let known = match &section {
                Section::Hosts(name) | Section::Children(name) | Section::Variables(name) => {
                    inventory.group(name)
                }
                Section::Unknown => None,
            };
            if known.is_none() {
                let message = format!("[{}] is neither a group nor its children or vars", word(header));
                findings.invalid(at, "group", message);
                section = Section::Unknown;
            }
            continue;
        }
        match &section {
            Section::Hosts(group) => {
                if let Err((field, message)) = host_line(line, &at, group, &mut inventory) {
                    findings.invalid(at, field, message);
                }
            }
            Section::Children(group) => {
                let child = line.split([' ', '\t', '#']).next().unwrap_or_default().to_owned();
                if inventory.group(&child).is_some()
                    && let Some(group) = inventory.group(group)
                {
                    group.children.insert(child);
                }
            }
            Section::Variables(group) => match line.split_once('=') {
                Some((name, value)) if is_wanted(name.trim()) => {
                    let value = Value::of(unquoted(value.trim()));
                    if let Some(group) = inventory.group(group) {
                        group.variables.insert(name.trim().to_owned(), value);
                    }
                }
                Some(_) => {}
                None => findings.invalid(at, "vars", "a variable is written name=value"),
            },
            Section::Unknown => {}
        }
    }
    inventory
}

/// What stands in the brackets of a section; a comment may follow.
fn header(line: &str) -> Option<&str> {
    let (name, after) = line.strip_prefix('[')?.split_once(']')?;
    let after = after.trim();
    // A host may begin with a range, or be an IPv6 address.
    (after.is_empty() && !is_address(name) || after.starts_with(['#', ';'])).then_some(name)
}

fn is_address(name: &str) -> bool {
    name.parse::<std::net::Ipv6Addr>().is_ok()
}

fn named(header: &str) -> Section {
    let valid = |name: &str| !name.is_empty() && !name.contains(char::is_whitespace);
    match header.rsplit_once(':') {
        None if valid(header) => Section::Hosts(header.to_owned()),
        Some((name, "hosts")) if valid(name) => Section::Hosts(name.to_owned()),
        Some((name, "children")) if valid(name) => Section::Children(name.to_owned()),
        Some((name, "vars")) if valid(name) => Section::Variables(name.to_owned()),
        _ => Section::Unknown,
    }
}

fn host_line(
    line: &str,
    at: &Place,
    group: &str,
    inventory: &mut Inventory,
) -> Result<(), (&'static str, String)> {
    let words = shlex::split(line).ok_or_else(|| ("line", "a quotation mark is not closed".to_owned()))?;
    let Some((pattern, options)) = words.split_first() else { return Ok(()) };
    let mut variables = Variables::new();
    let pattern = match port_of(pattern) {
        Some((pattern, port)) => {
            variables.insert("ansible_port".to_owned(), Value::of(port));
            pattern
        }
        None => pattern.as_str(),
    };
    for option in options {
        let Some((name, value)) = option.split_once('=') else {
            return Err(("line", format!("'{}' is not name=value", word(option))));
        };
        if is_wanted(name) {
            variables.insert(name.to_owned(), Value::of(value));
        }
    }
    for name in expand(pattern).map_err(|message| ("hostname", message))? {
        if !inventory.host(&name, at, group, &variables) {
            return Err(("hostname", format!("more than {HOSTS} hosts, or too many groups of theirs")));
        }
    }
    Ok(())
}

/// `name:2222`, where the colon is neither of a range nor of an IPv6 address.
fn port_of(pattern: &str) -> Option<(&str, &str)> {
    let (name, port) = pattern.rsplit_once(':')?;
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let is_inside = name.matches('[').count() != name.matches(']').count() || is_address(pattern);
    (is_port && !is_inside).then_some((name, port))
}

fn unquoted(text: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inside) = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inside;
        }
    }
    text
}
