//! What the connection variables of a host come to.

use super::super::address;
use super::super::found::{Candidate, Findings, VALUE_BYTES, word};
use super::super::ssh_config::{ArgumentsRefused, arguments};
use super::{Host, Value, Variables};

/// Variables that say how a host is reached; the older spellings too.
pub(super) const WANTED: &[&str] = &[
    "ansible_become_pass",
    "ansible_become_password",
    "ansible_connection",
    "ansible_host",
    "ansible_password",
    "ansible_port",
    "ansible_private_key_file",
    "ansible_ssh_args",
    "ansible_ssh_common_args",
    "ansible_ssh_extra_args",
    "ansible_ssh_host",
    "ansible_ssh_pass",
    "ansible_ssh_port",
    "ansible_ssh_private_key_file",
    "ansible_ssh_timeout",
    "ansible_ssh_user",
    "ansible_sudo_pass",
    "ansible_timeout",
    "ansible_user",
];

/// Ways that are SSH by another name.
const OVER_SSH: &[&str] = &[
    "ssh",
    "smart",
    "paramiko",
    "paramiko_ssh",
    "ansible.builtin.ssh",
    "ansible.builtin.paramiko_ssh",
    "ansible.netcommon.libssh",
];

enum Stop {
    Note(String),
    Invalid(String, String),
    Unsupported(String),
}

pub(super) fn server(host: &Host, variables: &Variables, groups: &[&str], findings: &mut Findings) {
    let shown = word(&host.name);
    let at = host.at.clone();
    match candidate(host, variables, groups) {
        Ok((candidate, remarks)) => findings.server(at, candidate, remarks),
        Err(Stop::Note(text)) => findings.note(at, format!("{shown}: {text}")),
        Err(Stop::Invalid(field, message)) => findings.invalid(at, &field, format!("{shown}: {message}")),
        Err(Stop::Unsupported(what)) => findings.unsupported(at, format!("{shown}: {what}")),
    }
}

/// The first of these variables that is there, as text.
fn text<'a>(variables: &'a Variables, names: &[&str]) -> Result<Option<&'a str>, Stop> {
    let Some((name, value)) = names.iter().find_map(|name| variables.get_key_value(*name)) else {
        return Ok(None);
    };
    match value {
        Value::Text(text) if text.contains("{{") || text.contains("{%") => {
            let message =
                format!("'{}' is a template; Roundsman evaluates none, write the value", word(text));
            Err(Stop::Invalid(name.clone(), message))
        }
        Value::Text(text) => Ok(Some(text.trim()).filter(|text| !text.is_empty())),
        Value::Vault => Err(Stop::Unsupported(format!(
            "{name} is encrypted by ansible-vault (!vault), which is not opened"
        ))),
        Value::TooLong => {
            Err(Stop::Invalid(name.clone(), format!("{name} has more than {VALUE_BYTES} bytes")))
        }
        Value::Other => Err(Stop::Invalid(name.clone(), format!("{name} has to be a text"))),
    }
}

fn candidate(host: &Host, variables: &Variables, groups: &[&str]) -> Result<(Candidate, Vec<String>), Stop> {
    let mut remarks = Vec::new();
    match text(variables, &["ansible_connection"])? {
        None => {}
        Some(way) if OVER_SSH.contains(&way) => {}
        Some("local" | "ansible.builtin.local") => {
            return Err(Stop::Note(
                "ansible_connection=local is the machine itself, not reached over SSH".to_owned(),
            ));
        }
        Some(other) => {
            return Err(Stop::Unsupported(format!("ansible_connection={} is not SSH", word(other))));
        }
    }
    let invalid = |field: &str| {
        let field = field.to_owned();
        move |message: String| Stop::Invalid(field, message)
    };
    let address = text(variables, &["ansible_host", "ansible_ssh_host"])?.unwrap_or(&host.name);
    let parsed = address::parse(address).map_err(invalid("ansible_host"))?;
    let mut candidate = Candidate { name: Some(host.name.clone()), ..parsed };
    if let Some(port) = text(variables, &["ansible_port", "ansible_ssh_port"])? {
        let wrong = || Stop::Invalid("ansible_port".to_owned(), format!("'{}' is not a port", word(port)));
        candidate.port = Some(port.parse().map_err(|_| wrong())?);
    }
    if let Some(user) = text(variables, &["ansible_user", "ansible_ssh_user"])? {
        candidate.user = Some(user.to_owned());
    }
    if let Some(file) = text(variables, &["ansible_ssh_private_key_file", "ansible_private_key_file"])? {
        candidate.identities.push(file.to_owned());
    }
    if let Some(seconds) = text(variables, &["ansible_ssh_timeout", "ansible_timeout"])? {
        candidate.connect_timeout_ms =
            seconds.parse::<u64>().ok().map(|seconds| seconds.saturating_mul(1000));
    }
    for name in ["ansible_ssh_common_args", "ansible_ssh_extra_args", "ansible_ssh_args"] {
        let Some(list) = text(variables, &[name])? else { continue };
        arguments(list, &mut candidate, &mut remarks).map_err(|refused| match refused {
            ArgumentsRefused::Invalid(message) => Stop::Invalid(name.to_owned(), message),
            ArgumentsRefused::Unsupported(what) => Stop::Unsupported(format!("{name}: {what}")),
        })?;
    }
    let passwords = [
        "ansible_password",
        "ansible_ssh_pass",
        "ansible_become_password",
        "ansible_become_pass",
        "ansible_sudo_pass",
    ];
    if let Some(name) = passwords.into_iter().find(|name| variables.contains_key(*name)) {
        remarks.push(format!("{name} is not taken over; Roundsman logs in with a key"));
    }
    candidate.tags = groups.iter().map(|group| (*group).to_owned()).collect();
    Ok((candidate, remarks))
}
