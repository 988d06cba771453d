//! The client configuration of OpenSSH: each name of a Host line that is no pattern is a server, and everything that
//! applies to it is gathered as ssh does.
//!
//! Source: ssh_config(5), readconf.c of OpenSSH 9.2; tests/import_ssh_config.rs compares with `ssh -G`.

mod arguments;
mod glob;
mod options;
mod resolve;
mod syntax;

use std::collections::HashSet;

use super::HOPS;
use super::address::{self, Way};
use super::found::{Candidate, Files, Findings, Local, Place, word};
use options::Setting;
use resolve::{Resolved, resolve};

pub(super) use arguments::{ArgumentsRefused, arguments};
pub(super) use options::is_keyword;

/// Files that Include may follow one from another; as READCONF_MAX_DEPTH of OpenSSH.
const INCLUDE_DEPTH: usize = 16;
/// Steps that comparing names with patterns may take, about a second: 5,000 names under 5,000 patterns with a star each
/// need less, a text that was made to keep a processor busy is given up.
const WORK: u64 = 2_000_000_000;
/// Lines of all files together: files that include each other twice at every level would have no end.
const LINES: usize = 100_000;

/// Host names of services that keep code and offer no shell.
const CODE_HOSTS: &[&str] =
    &["github.com", "gitlab.com", "bitbucket.org", "codeberg.org", "git.sr.ht", "ssh.dev.azure.com"];

/// One line that means something, in the order of the text.
#[derive(Debug)]
enum Statement {
    Host { at: Place, patterns: Vec<glob::Pattern> },
    Match { criteria: Option<Vec<resolve::Criterion>> },
    Set { at: Place, setting: Setting },
    Include { files: Vec<Vec<Self>> },
}

pub(super) fn read(text: &str, files: Option<&dyn Files>, findings: &mut Findings) {
    let mut reader = syntax::Reader::new(files, findings);
    let statements = reader.statements(text, None, 0);
    let nobody = Local::default();
    let local = files.map_or(&nobody, Files::local);
    let mut work = Work::of(&statements);
    let mut seen = HashSet::new();
    let mut found = Servers { all: &statements, files, local, findings };
    found.walk(&statements, &mut seen, &mut work);
}

/// What resolving one name costs, and what is left to be spent.
struct Work {
    /// Steps for each name, and for each byte of a name.
    plain: u64,
    per_byte: u64,
    left: u64,
}

impl Work {
    fn of(statements: &[Statement]) -> Self {
        let mut work = Self { plain: 0, per_byte: 0, left: WORK };
        work.add(statements);
        work
    }

    fn add(&mut self, statements: &[Statement]) {
        for statement in statements {
            self.plain += 1;
            match statement {
                Statement::Host { patterns, .. } => {
                    for pattern in patterns {
                        let bytes = u64::try_from(pattern.text.len()).unwrap_or(u64::MAX);
                        let slot =
                            if pattern.text.contains('*') { &mut self.per_byte } else { &mut self.plain };
                        *slot = slot.saturating_add(bytes + 1);
                    }
                }
                Statement::Include { files } => files.iter().for_each(|file| self.add(file)),
                Statement::Match { criteria } => {
                    let bytes = criteria.iter().flatten().map(resolve::Criterion::bytes).sum();
                    self.per_byte = self.per_byte.saturating_add(bytes);
                }
                Statement::Set { .. } => {}
            }
        }
    }

    /// Whether there is enough left for this name.
    fn spend(&mut self, name: &str) -> bool {
        let bytes = u64::try_from(name.len()).unwrap_or(u64::MAX);
        let cost = self.plain.saturating_add(self.per_byte.saturating_mul(bytes));
        self.left = self.left.saturating_sub(cost);
        self.left > 0
    }
}

struct Servers<'a, 'f> {
    all: &'a [Statement],
    files: Option<&'a dyn Files>,
    local: &'a Local,
    findings: &'f mut Findings,
}

impl Servers<'_, '_> {
    /// Every server of these statements, in their order.
    fn walk(&mut self, part: &[Statement], seen: &mut HashSet<String>, work: &mut Work) {
        for statement in part {
            match statement {
                Statement::Include { files } => files.iter().for_each(|file| self.walk(file, seen, work)),
                Statement::Host { at, patterns } => {
                    for name in patterns.iter().filter_map(glob::Pattern::name) {
                        if self.findings.is_full() || work.left == 0 {
                            return;
                        }
                        if !seen.insert(name.to_owned()) {
                            continue;
                        }
                        if work.spend(name) {
                            server(name, at, self.all, self.files, self.local, self.findings);
                        } else {
                            let message = "too many names and patterns to compare; import the file in parts";
                            self.findings.invalid(at.clone(), "Host", message);
                        }
                    }
                }
                Statement::Match { .. } | Statement::Set { .. } => {}
            }
        }
    }
}

fn server(
    name: &str,
    at: &Place,
    all: &[Statement],
    files: Option<&dyn Files>,
    local: &Local,
    findings: &mut Findings,
) {
    let found = resolve(all, name, local);
    if !found.is_listed {
        let text =
            format!("'{}' is ruled out by another pattern around it, so nothing applies to it", word(name));
        findings.note(at.clone(), text);
        return;
    }
    let mut chain = Chain { all, files, local, names: vec![name.to_owned()] };
    match chain.candidate(name, &found) {
        Ok((candidate, _)) if is_code_host(&candidate) => {
            let text = format!("'{}' keeps code and is no server to look after", word(name));
            findings.note(at.clone(), text);
        }
        Ok((candidate, remarks)) => findings.server(at.clone(), candidate, remarks),
        Err(Stop::Invalid(field, message)) => {
            findings.invalid(at.clone(), field, format!("{}: {message}", word(name)))
        }
        Err(Stop::Unsupported(what)) => findings.unsupported(at.clone(), format!("{}: {what}", word(name))),
    }
}

fn is_code_host(candidate: &Candidate) -> bool {
    candidate.user.as_deref() == Some("git") || CODE_HOSTS.contains(&candidate.host.as_str())
}

enum Stop {
    Invalid(&'static str, String),
    Unsupported(String),
}

/// From a name to the server that ssh would reach by it, jump hosts and all.
struct Chain<'a> {
    all: &'a [Statement],
    files: Option<&'a dyn Files>,
    local: &'a Local,
    /// The names on the way, against loops.
    names: Vec<String>,
}

impl Chain<'_> {
    fn candidate(&mut self, name: &str, found: &Resolved<'_>) -> Result<(Candidate, Vec<String>), Stop> {
        let mut remarks = Vec::new();
        let host = host_name(name, found)?;
        let user = found
            .user
            .map(str::to_owned)
            .or_else(|| Some(self.local.user.clone()).filter(|user| !user.is_empty()));
        let mut candidate = Candidate {
            name: Some(name.to_owned()),
            port: found.port.map(i64::from),
            user,
            host_key_alias: found.host_key_alias.map(str::to_owned),
            connect_timeout_ms: found.connect_timeout_s.flatten().map(|seconds| seconds.saturating_mul(1000)),
            host,
            ..Candidate::default()
        };
        match (found.jump, found.proxy_command) {
            (Some(hops), _) => candidate.jump = self.hops(hops)?,
            (None, Some((command, at))) => match address::way_of_command(command) {
                Some(Way::Direct) => {}
                Some(Way::Jump(hops)) => candidate.jump = self.hops(&hops)?,
                Some(Way::Proxy(proxy)) => candidate.proxy = Some(proxy),
                None => {
                    return Err(Stop::Unsupported(format!("it is reached by the ProxyCommand of line {at}")));
                }
            },
            (None, None) => {}
        }
        let expand = |text: &str| self.expanded(text, name, &candidate);
        let identities =
            found.identity_files.iter().filter(|file| !is_none(file)).map(|file| expand(file)).collect();
        let certificate =
            found.certificate_files.first().filter(|file| !is_none(file)).map(|file| expand(file));
        candidate.identities = identities;
        candidate.certificate = certificate;
        if found.certificate_files.len() > 1 {
            remarks.push("of several CertificateFiles the first is taken".to_owned());
        }
        if candidate.identities.len() > 1 {
            remarks.push(
                "of several IdentityFiles the first that can be had is offered, and no other".to_owned(),
            );
        }
        Ok((candidate, remarks))
    }

    /// The way that ProxyJump says: the first hop by its own entry, every further one through the hop before it.
    fn hops(&mut self, hops: &[Candidate]) -> Result<Vec<Candidate>, Stop> {
        let mut way = Vec::new();
        for (index, hop) in hops.iter().enumerate() {
            if self.names.contains(&hop.host) {
                let message = format!("the way over '{}' comes back to itself", word(&hop.host));
                return Err(Stop::Invalid("ProxyJump", message));
            }
            if self.names.len() > HOPS {
                return Err(Stop::Invalid("ProxyJump", format!("more than {HOPS} jump hosts")));
            }
            let found = resolve(self.all, &hop.host, self.local);
            self.names.push(hop.host.clone());
            // What is behind another hop has its own ProxyJump overruled, as `ssh -J` does.
            let found =
                if index == 0 { found } else { Resolved { jump: None, proxy_command: None, ..found } };
            let (mut resolved, _) = self.candidate(&hop.host, &found)?;
            way.append(&mut resolved.jump);
            resolved.port = hop.port.or(resolved.port);
            if hop.user.is_some() {
                resolved.user.clone_from(&hop.user);
            }
            way.push(resolved);
        }
        Ok(way)
    }

    /// `~`, `%` tokens and `${VARIABLE}` in the path of a key. Where nobody's files are meant, the path stays a name.
    fn expanded(&self, text: &str, name: &str, candidate: &Candidate) -> String {
        let Some(files) = self.files else { return text.to_owned() };
        let local = self.local;
        let port = candidate.port.unwrap_or(22).to_string();
        let uid = local.uid.to_string();
        let user = candidate.user.as_deref().unwrap_or_default();
        let short = local.hostname.split('.').next().unwrap_or_default();
        let alias = candidate.host_key_alias.as_deref().unwrap_or(name);
        let hop = candidate.jump.last().map_or("", |hop| hop.host.as_str());
        let token = |c: char| match c {
            '%' => Some("%"),
            'd' => Some(local.home.as_str()),
            'u' => Some(local.user.as_str()),
            'i' => Some(uid.as_str()),
            'l' => Some(local.hostname.as_str()),
            'L' => Some(short),
            'h' => Some(candidate.host.as_str()),
            'n' => Some(name),
            'p' => Some(port.as_str()),
            'r' => Some(user),
            'k' => Some(alias),
            'j' => Some(hop),
            _ => None,
        };
        let text = match text.strip_prefix("~/") {
            Some(rest) => format!("{}/{rest}", local.home),
            None => text.to_owned(),
        };
        variables(&tokens(&text, token), |name| files.variable(name))
    }
}

fn is_none(file: &str) -> bool {
    file.eq_ignore_ascii_case("none")
}

/// HostName with its only token, `%h`; in small letters unless it is an address, as ssh has it.
fn host_name(name: &str, found: &Resolved<'_>) -> Result<String, Stop> {
    let host = found.host_name.unwrap_or("%h");
    let mut rest = host;
    while let Some((_, after)) = rest.split_once('%') {
        rest = match after.as_bytes().first() {
            Some(b'%' | b'h') => after.get(1..).unwrap_or_default(),
            _ => {
                let message = format!("'{}' has another token than %h", word(host));
                return Err(Stop::Invalid("HostName", message));
            }
        };
    }
    let host = tokens(host, |c| if c == 'h' { Some(name) } else { Some("%") });
    Ok(if host.parse::<std::net::IpAddr>().is_ok() { host } else { host.to_lowercase() })
}

/// `%x` becomes what `token` says; what it does not know stays.
fn tokens<'a>(text: &str, token: impl Fn(char) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let Some(name) = chars.next() else {
            out.push('%');
            break;
        };
        match token(name) {
            Some(value) => out.push_str(value),
            None => out.extend(['%', name]),
        }
    }
    out
}

/// `${NAME}` becomes the variable; one that is not there stays as it is and names no file.
fn variables(text: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let Some((name, behind)) = after.split_once('}') else {
            out.push_str("${");
            rest = after;
            continue;
        };
        match variable(name) {
            Some(value) => out.push_str(&value),
            None => out.push_str(&format!("${{{name}}}")),
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests;
