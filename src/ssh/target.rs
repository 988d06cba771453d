//! Where a connection goes, as whom, and what is expected there.

use std::path::PathBuf;
use std::time::Duration;

use crate::model::{Port, Secret};

use super::error::Endpoint;
use super::hostkey::HostKey;

/// What is offered to log in: one thing only, so that "too many authentication failures" cannot happen.
#[derive(Debug, Clone)]
pub enum Identity {
    /// A private key in a file that this process can read.
    KeyFile {
        path: PathBuf,
        passphrase: Option<Secret<String>>,
    },
    /// The text of a private key, as OpenSSH writes it, without a passphrase.
    Key(Secret<String>),
    Password(Secret<String>),
}

/// A server as SSH sees it.
#[derive(Debug, Clone)]
pub struct Target {
    /// A name or an address; an IPv6 address may stand in brackets.
    pub host: String,
    pub port: Port,
    pub user: String,
    pub identity: Identity,
    /// None: nobody approved a key yet, and connecting ends with
    /// [`SshError::HostKeyUnknown`](super::SshError::HostKeyUnknown).
    pub pinned: Option<HostKey>,
    /// The limit of each step: name, TCP, banner, key exchange. Authentication gets twice as long, because
    /// servers look up names and ask directories meanwhile.
    pub connect_timeout: Duration,
}

impl Target {
    /// Long enough for a server at the other end of the world that is busy.
    pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { user: self.user.clone(), host: self.bare_host().to_owned(), port: self.port }
    }

    /// The host without the brackets of an IPv6 address.
    #[must_use]
    pub fn bare_host(&self) -> &str {
        let host = self.host.trim();
        host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
    }
}
