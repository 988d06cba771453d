//! What stands between here and a server, and how it says no.
//!
//! One vocabulary for jump hosts, SOCKS5 and HTTP proxies: each refusal is a sentence and an advice for a person.

use std::fmt;

use super::error::Endpoint;

/// Something on the way that makes connections for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hop {
    /// A server, by the name that people know it by.
    JumpHost(String),
    /// The server itself, whose own ports are meant.
    Server(String),
    /// `socks5://10.0.0.1:1080`, without a login.
    Proxy(String),
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JumpHost(name) => write!(f, "the jump host {name}"),
            Self::Server(name) => f.write_str(name),
            Self::Proxy(address) => write!(f, "the proxy {address}"),
        }
    }
}

impl Hop {
    /// As a sentence begins with it.
    pub(super) fn at_the_start(&self) -> String {
        match self {
            Self::JumpHost(name) => format!("The jump host {name}"),
            Self::Server(name) => name.clone(),
            Self::Proxy(address) => format!("The proxy {address}"),
        }
    }
}

/// Why a hop made no connection to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It makes no such connection, for anybody or for us.
    Forbidden,
    /// It tried, and there was no connection: no such name, no way, or nothing listens.
    NoConnection { said: String },
    /// The name is not known to it.
    NoSuchName,
    /// No way from there to the server's network or address.
    NoRoute,
    /// From there, nothing listens on the server's port.
    Refused,
    /// It waited for the server in vain.
    TimedOut,
    /// It has not answered in time.
    Silent,
    /// It has no room for one more.
    Full,
    /// It wants a login, and none was given.
    LoginWanted,
    /// It does not take the login.
    LoginRefused,
    /// It does not know how to do this.
    NotSupported { said: String },
    /// What answers there is no such proxy.
    NotAProxy { said: String },
    /// It hung up in the middle.
    HungUp,
}

impl Refusal {
    /// Whether the hop itself is the trouble, and not what lies behind it.
    pub(super) const fn is_about_the_hop(&self) -> bool {
        matches!(
            self,
            Self::LoginWanted | Self::LoginRefused | Self::NotAProxy { .. } | Self::HungUp | Self::Silent
        )
    }

    /// One clause, without a full stop. `by` names the hop.
    pub(super) fn told(&self, by: &str) -> String {
        let what = match self {
            Self::Forbidden => "does not allow forwarding to it",
            Self::NoConnection { said } if said.is_empty() => {
                "could not connect to it (the name is unknown there, nothing listens, or there is no way)"
            }
            Self::NoConnection { said } => return format!("{by} could not connect to it ('{said}')"),
            Self::NoSuchName => "does not know the name",
            Self::NoRoute => "has no way to it",
            Self::Refused => "was refused there: nothing listens on the port",
            Self::TimedOut => "waited for it in vain",
            Self::Silent => "did not answer in time",
            Self::Full => "has no room for another connection",
            Self::LoginWanted => "wants a user name and a password",
            Self::LoginRefused => "does not take the user name and the password",
            Self::NotSupported { said } => return format!("{by} does not know how to connect ('{said}')"),
            Self::NotAProxy { said } => return format!("{by} is not such a proxy; it said '{said}'"),
            Self::HungUp => "hung up",
        };
        format!("{by} {what}")
    }

    /// `at` is the server that was asked for, where that matters.
    pub(super) fn advice(&self, by: &Hop, at: Option<&Endpoint>) -> String {
        let (host, port) = match at {
            Some(Endpoint { host, port, .. }) => (host.as_str(), port.to_string()),
            None => ("HOST", "PORT".to_owned()),
        };
        match (self, by) {
            (Self::Forbidden, Hop::JumpHost(name) | Hop::Server(name)) => format!(
                "On {name} set `AllowTcpForwarding yes` (or `local`) in /etc/ssh/sshd_config, with `PermitOpen {host}:{port}` if only \
                 some servers are allowed, then `systemctl reload ssh`. The key's line in authorized_keys must not say \
                 `restrict` or `no-port-forwarding` without `port-forwarding`; dropbear must not run with `-j`."
            ),
            (Self::Forbidden, Hop::Proxy(_)) => {
                format!(
                    "Allow CONNECT to {host}, port {port}, in the proxy's rules (squid: `acl SSL_ports port {port}`)."
                )
            }
            (
                Self::NoConnection { .. } | Self::NoSuchName | Self::NoRoute | Self::Refused | Self::TimedOut,
                _,
            ) => {
                format!(
                    "Try it from there: `nc -vz {host} {port}`. Check that the name '{host}' means the same there as here, that \
                     sshd listens, and that a firewall lets TCP port {port} through."
                )
            }
            (Self::Full, Hop::JumpHost(name) | Hop::Server(name)) => {
                format!(
                    "Look at the limits of processes and memory on {name}, and at `journalctl -u ssh` there."
                )
            }
            (Self::Full, Hop::Proxy(_)) => "Raise the proxy's limit of connections.".to_owned(),
            (Self::LoginWanted | Self::LoginRefused, _) => {
                "Give the proxy's user name and password with the server's address.".to_owned()
            }
            (Self::NotSupported { .. } | Self::NotAProxy { .. }, _) => {
                "Check the proxy's kind (socks5 or http), address and port.".to_owned()
            }
            (Self::HungUp | Self::Silent, _) => {
                format!(
                    "Check the proxy's kind (socks5 or http), and look at the log of {by} for the reason."
                )
            }
        }
    }
}
