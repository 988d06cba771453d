//! A server: a managed machine, and what is known of its state.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::words::words;
use super::{OrganizationId, ServerId, Timestamp};

/// Why a field of a server was refused. The text is for a person and says what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidServer {
    #[error(
        "'{0}' is not a server name: use 1 to 63 letters, digits, dots, dashes or underscores, not only digits and not a UUID"
    )]
    Name(String),
    #[error("'{0}' is not a port: use a number from 1 to 65535")]
    Port(String),
    #[error("'{0}' is not a tag: use 1 to 63 letters, digits or . _ - : / @ =")]
    Tag(String),
    #[error("'{0}' is not a transport: use ssh, local, http or push")]
    Transport(String),
    #[error("'{0}' is not a status: use active, maintenance or inactive")]
    Status(String),
    #[error("'{0}' is not a way to log in: use key, agent or password")]
    LoginMethod(String),
    #[error("'{0}' is not a proxy: use socks5://host:port or http://user:password@host:port")]
    Proxy(String),
    #[error("'{0}' is not a health: use healthy, degraded, critical, unreachable or unknown")]
    Health(String),
}

/// The beginning of what somebody sent, for a sentence: without control characters, which a terminal or a log would
/// obey, and at most `limit_chars` long.
#[must_use]
pub fn shown(text: &str, limit_chars: usize) -> String {
    let mut chars = text.chars().filter(|c| !c.is_control());
    let mut shown: String = chars.by_ref().take(limit_chars).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

/// As much of a refused value as a sentence shows.
pub(super) const SHOWN_CHARS: usize = 80;

/// The rule for names of servers and groups: it can stand in an address and cannot be taken for an id.
pub(super) fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let numeric = text.chars().all(|c| c.is_ascii_digit());
    let dots = text.chars().all(|c| c == '.');
    (1..=63).contains(&text.len())
        && text.chars().all(allowed)
        && !numeric
        && !dots
        && uuid::Uuid::try_parse(text).is_err()
}

/// Unique in its organization; `[A-Za-z0-9._-]{1,63}`, not numeric, not a UUID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ServerName(String);

impl ServerName {
    /// # Errors
    /// [`InvalidServer::Name`] with what would be accepted.
    pub fn parse(text: &str) -> Result<Self, InvalidServer> {
        if is_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidServer::Name(shown(text, SHOWN_CHARS)))
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A TCP port, 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Port(u16);

impl Port {
    pub const SSH: Self = Self(22);

    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// # Errors
    /// [`InvalidServer::Port`] for 0 or more than 65535.
    pub fn of(number: i64) -> Result<Self, InvalidServer> {
        match u16::try_from(number) {
            Ok(port) if port > 0 => Ok(Self(port)),
            _ => Err(InvalidServer::Port(number.to_string())),
        }
    }

    /// # Errors
    /// [`InvalidServer::Port`] for what is not a number from 1 to 65535.
    pub fn parse(text: &str) -> Result<Self, InvalidServer> {
        let number = text.trim().parse::<i64>().map_err(|_| InvalidServer::Port(shown(text, SHOWN_CHARS)))?;
        Self::of(number)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A word to find and select servers by: `web`, `role:db`, `owner=ops`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Tag(String);

impl Tag {
    /// # Errors
    /// [`InvalidServer::Tag`] with what would be accepted.
    pub fn parse(text: &str) -> Result<Self, InvalidServer> {
        let text = text.trim();
        let allowed = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '/' | '@' | '=');
        if (1..=63).contains(&text.chars().count()) && text.chars().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidServer::Tag(shown(text, SHOWN_CHARS)))
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

words! {
    /// How a server is reached.
    Transport, InvalidServer::Transport {
        Ssh = "ssh",
        /// The machine that Roundsman runs on.
        Local = "local",
        Http = "http",
        Push = "push",
    }
}

words! {
    /// What an administrator says of a server.
    Status, InvalidServer::Status {
        /// Read and watched.
        Active = "active",
        /// Read, but nobody is told of its troubles.
        Maintenance = "maintenance",
        /// Not contacted.
        Inactive = "inactive",
    }
}

words! {
    /// How Roundsman proves to a server who it is.
    LoginMethod, InvalidServer::LoginMethod {
        /// A key that Roundsman keeps, with its certificate if it has one.
        Key = "key",
        /// One key of the ssh-agent that Roundsman was started with.
        Agent = "agent",
        /// A stored password, also as the answer to keyboard-interactive.
        Password = "password",
    }
}

words! {
    /// What Roundsman says of a server.
    Health, InvalidServer::Health {
        Healthy = "healthy",
        Degraded = "degraded",
        Critical = "critical",
        Unreachable = "unreachable",
        /// Not read yet, or inactive.
        Unknown = "unknown",
    }
}

/// Where on the way to a server something failed, in the order of the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    Name,
    Tcp,
    Banner,
    KeyExchange,
    HostKey,
    Authentication,
    Channel,
    Shell,
    /// Of an http server: its certificate, or that it speaks TLS at all.
    Tls,
    /// Of an http server: what it answers.
    Http,
}

impl Layer {
    /// In the order of the way over SSH, then what is of HTTPS only.
    pub const ALL: [Self; 10] = [
        Self::Name,
        Self::Tcp,
        Self::Banner,
        Self::KeyExchange,
        Self::HostKey,
        Self::Authentication,
        Self::Channel,
        Self::Shell,
        Self::Tls,
        Self::Http,
    ];
    /// The way to an API over HTTPS.
    pub const HTTPS: [Self; 5] = [Self::Name, Self::Tcp, Self::Tls, Self::Authentication, Self::Http];
    /// The way over SSH.
    pub const SSH: [Self; 8] = [
        Self::Name,
        Self::Tcp,
        Self::Banner,
        Self::KeyExchange,
        Self::HostKey,
        Self::Authentication,
        Self::Channel,
        Self::Shell,
    ];

    /// As a person reads it.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Tcp => "TCP",
            Self::Banner => "SSH banner",
            Self::KeyExchange => "key exchange",
            Self::HostKey => "host key",
            Self::Authentication => "authentication",
            Self::Channel => "channel",
            Self::Shell => "shell",
            Self::Tls => "TLS",
            Self::Http => "answer",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

/// Whether a server answers, and where it stops when it does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Reachability {
    /// Not tried yet.
    Unknown,
    Connecting,
    Reachable,
    /// `reason` is one sentence for a person, with what to do about it.
    Unreachable {
        layer: Option<Layer>,
        reason: String,
        since: Timestamp,
    },
}

/// A server's number in the history; given once, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct ServerNumber(pub u32);

/// A managed machine as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    pub id: ServerId,
    pub number: ServerNumber,
    pub organization: OrganizationId,
    pub name: ServerName,
    pub description: String,
    pub transport: Transport,
    /// Name or address. None for `local`.
    pub hostname: Option<String>,
    pub port: Port,
    pub username: Option<String>,
    pub region: Option<String>,
    /// `production`, `staging`, `development`, or a word of one's own.
    pub environment: Option<String>,
    pub tags: Vec<Tag>,
    pub metadata: BTreeMap<String, String>,
    pub status: Status,
    /// Time between two readings, 1 s to 1 h.
    pub interval_ms: u32,
    /// Time between two readings of the heavy sections, 1 s to 1 h. None: the default of the organization.
    pub heavy_interval_ms: Option<u32>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Server {
    /// Where SSH reaches it. A server that reports or is asked over HTTPS has an SSH address once it has a user name for
    /// it. None: it cannot be reached over SSH.
    #[must_use]
    pub fn ssh_host(&self) -> Option<&str> {
        match self.transport {
            Transport::Ssh => self.hostname.as_deref(),
            Transport::Http | Transport::Push => self.hostname.as_deref().filter(|_| self.username.is_some()),
            Transport::Local => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names_follow_the_rule() {
        for good in ["web-1", "a", "db.example.com", "x_1", &"a".repeat(63)] {
            assert!(ServerName::parse(good).is_ok(), "{good}");
        }
        let long = "a".repeat(64);
        for bad in
            ["", "12345", "a b", "<script>", "a'b", "ü", "..", "01890000-0000-7000-8000-000000000001", &long]
        {
            assert!(ServerName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_are_1_to_65535() {
        assert_eq!(Port::parse("22"), Ok(Port::SSH));
        for bad in ["0", "65536", "-1", "ssh", ""] {
            assert!(Port::parse(bad).is_err(), "{bad}");
        }
    }
}
