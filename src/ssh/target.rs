//! Where a connection goes, as whom, and what is expected there.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Port, Secret};

use super::connection::Connection;
use super::error::{Endpoint, SshError};
use super::hostkey::HostKey;

/// What is offered to log in: one thing only, so that "too many authentication failures" cannot happen.
#[derive(Debug, Clone)]
pub enum Identity {
    /// A private key in a file that this process can read.
    KeyFile { path: PathBuf, passphrase: Option<Secret<String>> },
    /// The text of a private key, as OpenSSH writes it, without a passphrase.
    Key(Secret<String>),
    /// A private key without a passphrase, and the OpenSSH user certificate that an authority signed for it
    /// (`ssh-ed25519-cert-v01@openssh.com AAAA…`).
    Certificate { key: Secret<String>, certificate: String },
    /// One key of an ssh-agent, which signs; the private key is never seen. `public_key` is its line.
    Agent { socket: PathBuf, public_key: String },
    /// Also answers the one hidden prompt of keyboard-interactive.
    Password(Secret<String>),
}

/// How the bytes get to the server.
#[derive(Debug, Clone, Default)]
pub enum Route {
    /// TCP from here.
    #[default]
    Direct,
    /// TCP through a proxy that this process can reach.
    Proxy(Proxy),
    /// Over a channel of another server's connection; that server may itself be behind one.
    Jump(Arc<dyn JumpHost>),
}

/// A proxy that makes TCP connections for others.
#[derive(Debug, Clone)]
pub struct Proxy {
    pub kind: ProxyKind,
    pub host: String,
    pub port: Port,
    /// User name and password, where it wants them.
    pub login: Option<(String, Secret<String>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// RFC 1928; names are resolved by the proxy.
    Socks5,
    /// The CONNECT method of RFC 9110, section 9.3.6.
    Http,
}

/// A server whose connection carries those of others.
pub trait JumpHost: fmt::Debug + Send + Sync {
    /// How a person knows it.
    fn name(&self) -> String;

    /// Its one connection, dialled if there is none.
    ///
    /// # Errors
    /// Why there is none.
    fn connection(&self) -> Pin<Box<dyn Future<Output = Result<Connection, SshError>> + Send + '_>>;
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
    /// [`SshError::HostKeyUnknown`].
    pub pinned: Option<HostKey>,
    /// Keys that may sign host certificates for this host; whoever shows such a certificate needs no pinned key.
    pub authorities: Arc<[HostKey]>,
    /// Keys that are refused whatever else is known, also as the signer of a certificate.
    pub revoked: Arc<[HostKey]>,
    pub route: Route,
    /// The limit of each step: name, TCP, banner, key exchange. Authentication gets twice as long, because
    /// servers look up names and ask directories meanwhile.
    pub connect_timeout: Duration,
}

impl Target {
    /// Long enough for a server at the other end of the world that is busy.
    pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

    /// Directly, with the usual time limit, and no host key approved yet.
    #[must_use]
    pub fn new(host: impl Into<String>, port: Port, user: impl Into<String>, identity: Identity) -> Self {
        Self {
            host: host.into(),
            port,
            user: user.into(),
            identity,
            pinned: None,
            authorities: Arc::from([]),
            revoked: Arc::from([]),
            route: Route::Direct,
            connect_timeout: Self::DEFAULT_CONNECT_TIMEOUT,
        }
    }

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
