//! A plan: what would become of each entry of an import, and what was known when it was made.

use serde::Serialize;

use super::super::input::Metadata;
use super::{Format, Place};

/// A server that is there already.
#[derive(Debug, Clone, Default)]
pub struct KnownServer {
    pub name: String,
    pub hostname: Option<String>,
    pub port: u16,
    /// Name of the server that this one is reached over.
    pub jump_host: Option<String>,
    pub proxy: Option<String>,
}

/// A key that Roundsman keeps.
#[derive(Debug, Clone)]
pub struct KnownKey {
    pub id: String,
    pub name: String,
    pub source_path: Option<String>,
}

/// What a plan depends on besides the text.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    pub servers: Vec<KnownServer>,
    pub keys: Vec<KnownKey>,
    /// Paths of the keys that come with the request.
    pub brought: Vec<String>,
    /// Tags for every server.
    pub tags: Vec<String>,
    /// For entries that name no user.
    pub username: Option<String>,
}

/// How Roundsman would log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Login {
    /// Roundsman's own key.
    Default,
    /// A kept key by its id, or one that comes with the request by its path.
    Key(String),
    /// The ssh-agent that Roundsman was started with, by public key line.
    Agent(String),
}

/// A server that would be added; every field was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Planned {
    pub name: String,
    pub hostname: String,
    pub port: u16,
    /// None: `root`.
    pub username: Option<String>,
    pub login: Login,
    /// Path of an OpenSSH user certificate, which comes with its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Name of the server over which this one is reached: one that is there, or one of this plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jump_host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_key_alias: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout_ms: Option<u64>,
    pub region: Option<String>,
    pub environment: Option<String>,
    pub tags: Vec<String>,
    pub metadata: Metadata,
    pub description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
    /// The line of this plan that adds the jump host; it comes first.
    #[serde(skip)]
    pub behind: Option<usize>,
}

/// What would become of one entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    Add {
        server: Box<Planned>,
    },
    /// The server is there already, under this name.
    Exists {
        name: String,
    },
    /// It was said before.
    Duplicate {
        of: Place,
        name: String,
    },
    Invalid {
        field: String,
        message: String,
    },
    Unsupported {
        what: String,
    },
    Note {
        text: String,
    },
}

/// One line of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    pub at: Place,
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What was adapted or left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

/// How many lines have which verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    pub add: usize,
    pub exists: usize,
    pub duplicate: usize,
    pub invalid: usize,
    pub unsupported: usize,
    pub notes: usize,
}

/// What would become of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub format: Format,
    pub lines: Vec<Line>,
}

impl Plan {
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for line in &self.lines {
            let slot = match &line.verdict {
                Verdict::Add { .. } => &mut counts.add,
                Verdict::Exists { .. } => &mut counts.exists,
                Verdict::Duplicate { .. } => &mut counts.duplicate,
                Verdict::Invalid { .. } => &mut counts.invalid,
                Verdict::Unsupported { .. } => &mut counts.unsupported,
                Verdict::Note { .. } => &mut counts.notes,
            };
            *slot += 1;
        }
        counts
    }

    /// Whether every line can be done as it stands.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let counts = self.counts();
        counts.invalid == 0 && counts.unsupported == 0
    }

    /// The servers that would be added, with the number of their line.
    pub fn additions(&self) -> impl Iterator<Item = (usize, &Planned)> {
        self.lines.iter().enumerate().filter_map(|(index, line)| match &line.verdict {
            Verdict::Add { server } => Some((index, &**server)),
            _ => None,
        })
    }
}
