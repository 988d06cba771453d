//! Which hosts a command goes to that is run without a Roundsman: addresses as they are written, or names that the
//! client configuration of OpenSSH knows.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::super::error::CliError;
use super::super::import::files::Machine;
use super::super::output::printable;
use crate::fleet::import::{Candidate, Entry, Format, Found, SERVERS, read};
use crate::ssh::known_hosts::glob;

/// A host and the way to it.
#[derive(Debug, Clone)]
pub(super) struct Host {
    /// As it was written.
    pub(super) name: String,
    pub(super) at: Candidate,
}

/// The hosts that `words` mean, each once, in their order. With a configuration its options apply, and words with `*` or `?`
/// mean every name of it that fits.
///
/// # Errors
/// [`CliError::Usage`] for a word that means no host; [`CliError::Failed`] when the configuration cannot be read.
pub(super) fn chosen(
    words: &[String],
    config: Option<&Path>,
    all: bool,
    machine: &Machine,
) -> Result<Vec<Host>, CliError> {
    let mut hosts = match config {
        None if all => {
            return Err(CliError::usage("--all means every host of --ssh-config; name that as well"));
        }
        None => words.iter().map(|word| plain(word)).collect::<Result<Vec<_>, _>>()?,
        Some(path) => {
            let text = machine.text(Some(path)).map_err(|cause| no_config(path, &cause))?;
            configured(words, &text, all, machine)?
        }
    };
    let mut seen = HashSet::new();
    hosts.retain(|host| seen.insert(host.name.clone()));
    match hosts.len() {
        0 => Err(CliError::usage("name hosts with --hosts, or take all of a --ssh-config with --all")),
        count if count > SERVERS => Err(CliError::usage(format!("{count} hosts are more than {SERVERS}"))),
        _ => Ok(hosts),
    }
}

/// The word behind `--ssh-config` is its file; that it was meant as a host is the usual mistake.
fn no_config(path: &Path, cause: &str) -> CliError {
    CliError::failed(format!("{cause}; if '{}' is a host, name it with --hosts", path.display()))
}

/// `user@host:port`.
fn plain(word: &str) -> Result<Host, CliError> {
    let (_, entries) = read(word, Some(Format::Lines), None);
    match entries.into_iter().next().map(|entry| entry.found) {
        Some(Found::Server(at)) => Ok(Host { name: word.to_owned(), at: *at }),
        Some(Found::Invalid { message, .. }) => Err(CliError::usage(message)),
        _ => Err(CliError::usage(format!("'{}' is no host", printable(word)))),
    }
}

fn configured(words: &[String], text: &str, all: bool, machine: &Machine) -> Result<Vec<Host>, CliError> {
    let mut text = text.to_owned();
    let mut wanted = Vec::new();
    for word in words {
        if word.contains(['*', '?']) {
            wanted.push(Wanted::Pattern(word));
            continue;
        }
        let host = plain(word)?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if !host.at.host.chars().all(is_name) || host.at.host.starts_with('-') {
            return Err(CliError::usage(format!("'{}' is no host name", printable(word))));
        }
        // Any name has its options in a configuration, also where only patterns speak of it.
        text.push_str("\nHost ");
        text.push_str(&host.at.host);
        wanted.push(Wanted::One(Box::new(host)));
    }
    text.push('\n');
    let known = Known::of(read(&text, Some(Format::SshConfig), Some(machine)).1);
    let mut hosts = Vec::new();
    if all {
        hosts.extend(known.hosts(|_| true));
    }
    for want in wanted {
        match want {
            Wanted::One(host) => hosts.push(known.resolve(*host)?),
            Wanted::Pattern(pattern) => {
                let before = hosts.len();
                hosts.extend(known.hosts(|name| glob(pattern.as_bytes(), name.as_bytes())));
                if hosts.len() == before {
                    let message = format!("no host of the configuration is like '{}'", printable(pattern));
                    return Err(CliError::usage(message));
                }
            }
        }
    }
    Ok(hosts)
}

enum Wanted<'a> {
    One(Box<Host>),
    Pattern(&'a str),
}

/// What a configuration says.
struct Known {
    names: Vec<String>,
    servers: HashMap<String, Candidate>,
    /// What is wrong with it, or has no meaning here.
    remarks: Vec<String>,
}

impl Known {
    fn of(entries: Vec<Entry>) -> Self {
        let mut known = Self { names: Vec::new(), servers: HashMap::new(), remarks: Vec::new() };
        for entry in entries {
            match entry.found {
                Found::Server(at) => {
                    if let Some(name) = at.name.clone() {
                        known.names.push(name.clone());
                        known.servers.insert(name, *at);
                    }
                }
                Found::Invalid { message, .. } => known.remarks.push(message),
                Found::Unsupported { what } => known.remarks.push(what),
                Found::Note { text } => known.remarks.push(text),
            }
        }
        known
    }

    fn hosts(&self, fits: impl Fn(&str) -> bool) -> impl Iterator<Item = Host> {
        let names = self.names.iter().filter(move |name| fits(name));
        names.filter_map(|name| Some(Host { name: name.clone(), at: self.servers.get(name)?.clone() }))
    }

    /// With what the configuration says of it; user and port of the word win, as with ssh.
    fn resolve(&self, host: Host) -> Result<Host, CliError> {
        let Some(found) = self.servers.get(&host.at.host) else {
            let about = self.remarks.iter().find(|remark| remark.contains(&host.at.host));
            let about = about.or_else(|| self.remarks.first()).map_or("it cannot be used", String::as_str);
            return Err(CliError::usage(format!("{}: {}", printable(&host.name), printable(about))));
        };
        let at = Candidate {
            user: host.at.user.or_else(|| found.user.clone()),
            port: host.at.port.or(found.port),
            ..found.clone()
        };
        Ok(Host { name: host.name, at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn short(hosts: &[Host]) -> Vec<String> {
        let one = |host: &Host| {
            let at = &host.at;
            let user = at.user.as_deref().unwrap_or("-");
            format!("{} {user} {} {}", host.name, at.host, at.port.unwrap_or(0))
        };
        hosts.iter().map(one).collect()
    }

    #[test]
    fn addresses_are_hosts_each_once() {
        let machine = Machine::new(None);
        let all = words(&["root@10.0.0.5:2222", "[fd00::5]:22", "web-1", "web-1"]);
        let found = chosen(&all, None, false, &machine).unwrap();
        assert_eq!(
            short(&found),
            ["root@10.0.0.5:2222 root 10.0.0.5 2222", "[fd00::5]:22 - fd00::5 22", "web-1 - web-1 0"]
        );
        for bad in [&["host:0"][..], &["#x"], &[""], &[]] {
            let refused = chosen(&words(bad), None, false, &machine).unwrap_err();
            assert!(matches!(refused, CliError::Usage(_)), "{bad:?}: {refused}");
        }
    }

    #[test]
    fn names_patterns_and_all_follow_the_configuration() {
        let text = "Host web-1 web-2\n  HostName %h.lab\n  User deploy\nHost db\n  Port 2022\n\
                    Host odd\n  ProxyCommand ./own %h\nHost *.lan\n  User lan\n";
        let machine = Machine::new(None);
        let of = |names: &[&str], all: bool| configured(&words(names), text, all, &machine);
        assert_eq!(
            short(&of(&["web-?"], false).unwrap()),
            ["web-1 deploy web-1.lab 0", "web-2 deploy web-2.lab 0"]
        );
        assert_eq!(short(&of(&["root@web-2:99"], false).unwrap()), ["root@web-2:99 root web-2.lab 99"]);
        assert_eq!(short(&of(&["nas.lan"], false).unwrap()), ["nas.lan lan nas.lan 0"]);
        assert_eq!(of(&[], true).unwrap().len(), 3, "the one that cannot be reached is left out");
        let refused = of(&["odd"], false).unwrap_err().to_string();
        assert!(refused.contains("ProxyCommand"), "{refused}");
        assert!(of(&["x-*"], false).unwrap_err().to_string().contains("x-*"));
        assert!(of(&["a\"b"], false).is_err());
    }
}
