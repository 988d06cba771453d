//! What applies to one name: Host and Match blocks in their order, the first value of each option.

use super::super::found::{Candidate, Local, Place};
use super::Statement;
use super::glob::list_matches;
use super::options::Setting;

/// One condition of a Match line.
#[derive(Debug)]
pub(super) enum Criterion {
    All { is_negated: bool },
    Host { is_negated: bool, list: String },
    OriginalHost { is_negated: bool, list: String },
    User { is_negated: bool, list: String },
    LocalUser { is_negated: bool, list: String },
}

impl Criterion {
    /// Length of its patterns.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::All { .. } => 1,
            Self::Host { list, .. }
            | Self::OriginalHost { list, .. }
            | Self::User { list, .. }
            | Self::LocalUser { list, .. } => u64::try_from(list.len()).unwrap_or(u64::MAX),
        }
    }
}

/// The first value of each option that applies to a name.
#[derive(Debug, Default)]
pub(super) struct Resolved<'a> {
    pub(super) host_name: Option<&'a str>,
    pub(super) user: Option<&'a str>,
    pub(super) port: Option<u16>,
    pub(super) identity_files: Vec<&'a str>,
    pub(super) certificate_files: Vec<&'a str>,
    /// Empty: `none`, which overrules a ProxyCommand further down.
    pub(super) jump: Option<&'a [Candidate]>,
    pub(super) proxy_command: Option<(&'a str, &'a Place)>,
    pub(super) host_key_alias: Option<&'a str>,
    pub(super) connect_timeout_s: Option<Option<u64>>,
    /// A Host line that names it applies.
    pub(super) is_listed: bool,
}

pub(super) fn resolve<'a>(all: &'a [Statement], name: &str, local: &Local) -> Resolved<'a> {
    let mut resolver = Resolver { name, local, found: Resolved::default() };
    resolver.walk(all, true);
    resolver.found
}

struct Resolver<'a, 'n> {
    name: &'n str,
    local: &'n Local,
    found: Resolved<'a>,
}

impl<'a> Resolver<'a, '_> {
    /// `applies`: an Include below a block that does not apply is read, and nothing in it applies.
    fn walk(&mut self, statements: &'a [Statement], applies: bool) {
        let mut is_active = applies;
        for statement in statements {
            match statement {
                Statement::Host { patterns, .. } => {
                    let fits = applies
                        && patterns.iter().any(|pattern| !pattern.is_negated && pattern.matches(self.name))
                        && !patterns.iter().any(|pattern| pattern.is_negated && pattern.matches(self.name));
                    is_active = fits;
                    self.found.is_listed |=
                        fits && patterns.iter().any(|pattern| pattern.name() == Some(self.name));
                }
                Statement::Match { criteria } => {
                    is_active = applies && criteria.as_deref().is_some_and(|criteria| self.fits(criteria));
                }
                // What a file sets ends with it: its last block goes on in no other file.
                Statement::Include { files } => {
                    for file in files {
                        self.walk(file, is_active);
                    }
                }
                Statement::Set { at, setting } if is_active => self.set(setting, at),
                Statement::Set { .. } => {}
            }
        }
    }

    fn fits(&self, criteria: &[Criterion]) -> bool {
        let host = self.found.host_name.map_or_else(
            || self.name.to_lowercase(),
            |host| host.replace("%h", self.name).replace("%%", "%").to_lowercase(),
        );
        let user = self.found.user.unwrap_or(&self.local.user);
        criteria.iter().all(|criterion| match criterion {
            Criterion::All { is_negated } => !is_negated,
            Criterion::Host { is_negated, list } => list_matches(list, &host) != *is_negated,
            Criterion::OriginalHost { is_negated, list } => {
                list_matches(list, &self.name.to_lowercase()) != *is_negated
            }
            Criterion::User { is_negated, list } => list_matches(list, user) != *is_negated,
            Criterion::LocalUser { is_negated, list } => list_matches(list, &self.local.user) != *is_negated,
        })
    }

    fn set(&mut self, setting: &'a Setting, at: &'a Place) {
        let found = &mut self.found;
        match setting {
            Setting::HostName(text) => first(&mut found.host_name, text),
            Setting::User(text) => first(&mut found.user, text),
            Setting::Port(port) => found.port = found.port.or(Some(*port)),
            Setting::HostKeyAlias(text) => first(&mut found.host_key_alias, text),
            Setting::ConnectTimeout(limit) => {
                found.connect_timeout_s = found.connect_timeout_s.or(Some(*limit))
            }
            Setting::IdentityFile(text) => add(&mut found.identity_files, text),
            Setting::CertificateFile(text) => add(&mut found.certificate_files, text),
            // Whichever of the two comes first overrules the other.
            Setting::ProxyJump(hops) if found.jump.is_none() && found.proxy_command.is_none() => {
                found.jump = Some(hops);
            }
            Setting::ProxyCommand(command) if found.jump.is_none() && found.proxy_command.is_none() => {
                found.proxy_command = Some((command, at));
            }
            Setting::ProxyJump(_) | Setting::ProxyCommand(_) => {}
        }
    }
}

fn first<'a>(slot: &mut Option<&'a str>, text: &'a str) {
    if slot.is_none() {
        *slot = Some(text);
    }
}

fn add<'a>(list: &mut Vec<&'a str>, text: &'a str) {
    if !list.contains(&text) {
        list.push(text);
    }
}
