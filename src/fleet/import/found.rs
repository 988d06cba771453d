//! What the readers of the formats find: servers as they were written down, and lines that are none.

use serde::{Deserialize, Serialize};

use super::super::input::Metadata;
use super::{REPORT_LINES, SERVERS};
use crate::model::shown;

/// As much of a foreign word as a report repeats.
const SHOWN_CHARS: usize = 120;

/// Where something stood.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Place {
    /// None: the text that was given itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// From 1.
    pub line: u32,
}

impl Place {
    pub(super) fn line(line: usize) -> Self {
        Self { file: None, line: u32::try_from(line).unwrap_or(u32::MAX) }
    }

    pub(super) fn in_file(file: Option<&str>, line: usize) -> Self {
        Self { file: file.map(str::to_owned), ..Self::line(line) }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{file}:{}", self.line),
            None => write!(f, "{}", self.line),
        }
    }
}

/// A server as somebody wrote it down. Nothing is checked yet: whoever sends this may be hostile.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Candidate {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub host: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Names, ids or paths of keys, the preferred one first. Only one that Roundsman keeps, or that comes with the
    /// request, can be meant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<String>,
    /// The public key line of the key that an ssh-agent is to sign with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_key: Option<String>,
    /// Path of an OpenSSH user certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Jump hosts in the order of the way, each without jump hosts of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub jump: Vec<Self>,
    /// `socks5://host:port` or `http://host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// The name that known_hosts knows the server by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_key_alias: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
}

/// What one entry of a text is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    Server(Box<Candidate>),
    /// It cannot be meant.
    Invalid {
        field: String,
        message: String,
    },
    /// It means something that Roundsman does not do; a server that depends on it could not be reached.
    Unsupported {
        what: String,
    },
    /// It was read and changes nothing.
    Note {
        text: String,
    },
}

/// One entry with its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub at: Place,
    pub found: Found,
    /// What was adapted or left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

/// The machine and the person that the command line runs for.
#[derive(Debug, Clone, Default)]
pub struct Local {
    pub user: String,
    pub home: String,
    pub hostname: String,
    pub uid: u32,
}

/// What a text refers to, read with the rights of whoever runs the command line.
pub trait Files {
    fn local(&self) -> &Local;

    fn variable(&self, name: &str) -> Option<String>;

    /// The files that an Include of ssh_config names, in the order of their names, each with its text.
    ///
    /// # Errors
    /// Why one cannot be read.
    fn include(&self, pattern: &str) -> Result<Vec<(String, String)>, String>;

    /// The files below `group_vars` or `host_vars` beside the inventory that speak of `name`.
    ///
    /// # Errors
    /// Why one cannot be read.
    fn variables(&self, folder: &str, name: &str) -> Result<Vec<(String, String)>, String>;
}

/// Why a server with this transport is not one that an import adds. None: it is reached over SSH, or the word is unknown.
pub(super) fn other_way(transport: Option<&str>) -> Option<&'static str> {
    match transport? {
        "http" => Some(
            "it is asked over HTTPS with a token of its own, which no list carries: use 'roundsman add --http'",
        ),
        "push" => Some("it registers itself: use 'roundsman add --push' for its token"),
        "local" => Some("it is the machine that Roundsman runs on, which is enrolled at the first start"),
        _ => None,
    }
}

/// A foreign word for a sentence.
pub(super) fn word(text: &str) -> String {
    shown(text, SHOWN_CHARS)
}

/// Entries in the making, within their limits.
#[derive(Debug, Default)]
pub(super) struct Findings {
    entries: Vec<Entry>,
    servers: usize,
    /// The report is full, or there are too many servers: said once.
    is_full: bool,
}

/// One value of a text; longer ones are no path, name or list of arguments, and groups and patterns repeat them.
pub(super) const VALUE_BYTES: usize = 4096;
/// All that a text says of one server together: `Host *` gives the same to each of thousands.
const SERVER_BYTES: usize = 16 * 1024;

impl Candidate {
    /// What its texts take.
    fn bytes(&self) -> usize {
        let optional = [
            &self.name,
            &self.user,
            &self.agent_key,
            &self.certificate,
            &self.proxy,
            &self.host_key_alias,
            &self.region,
            &self.environment,
        ];
        let lists = self.identities.iter().chain(&self.tags).map(String::len).sum::<usize>();
        let metadata = self.metadata.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        optional.into_iter().flatten().map(String::len).sum::<usize>()
            + lists
            + metadata
            + self.host.len()
            + self.description.len()
            + self.jump.iter().map(Self::bytes).sum::<usize>()
    }
}

impl Findings {
    fn push(&mut self, at: Place, found: Found, remarks: Vec<String>) {
        if self.is_full {
            return;
        }
        let too_many_servers = self.servers >= SERVERS && matches!(found, Found::Server(_));
        if too_many_servers || self.entries.len() >= REPORT_LINES {
            self.is_full = true;
            let message = if too_many_servers {
                format!("more than {SERVERS} servers; those from here on are left out, import them apart")
            } else {
                format!("more than {REPORT_LINES} entries; those from here on are left out")
            };
            let found = Found::Invalid { field: "text".to_owned(), message };
            self.entries.push(Entry { at, found, remarks: Vec::new() });
            return;
        }
        self.servers += usize::from(matches!(found, Found::Server(_)));
        self.entries.push(Entry { at, found, remarks });
    }

    /// Whether reading on is of no use.
    pub(super) const fn is_full(&self) -> bool {
        self.is_full
    }

    pub(super) fn server(&mut self, at: Place, candidate: Candidate, remarks: Vec<String>) {
        if candidate.bytes() > SERVER_BYTES {
            let message = format!("what is said of this server is longer than {SERVER_BYTES} bytes");
            return self.invalid(at, "text", message);
        }
        self.push(at, Found::Server(Box::new(candidate)), remarks);
    }

    pub(super) fn invalid(&mut self, at: Place, field: &str, message: impl Into<String>) {
        let found = Found::Invalid { field: field.to_owned(), message: message.into() };
        self.push(at, found, Vec::new());
    }

    pub(super) fn unsupported(&mut self, at: Place, what: impl Into<String>) {
        self.push(at, Found::Unsupported { what: what.into() }, Vec::new());
    }

    pub(super) fn note(&mut self, at: Place, text: impl Into<String>) {
        self.push(at, Found::Note { text: text.into() }, Vec::new());
    }

    pub(super) fn into_entries(self) -> Vec<Entry> {
        self.entries
    }
}
