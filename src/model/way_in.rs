//! How Roundsman gets to a server and logs in there, beyond the server's address; and what it may not see once there.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::server::SHOWN_CHARS;
use super::words::words;
use super::{InvalidServer, KeyId, LoginMethod, Port, Secret, ServerId, Timestamp, shown};

/// A stored word for a secret that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a kind of secret")]
pub struct UnknownSecret(String);

words! {
    /// What Roundsman keeps of a server because it has to send it; sealed, and never shown.
    SecretKind, UnknownSecret {
        /// Of the main login.
        Password = "password",
        ActionPassword = "action_password",
        /// What sudo asks the user of the actions for.
        SudoPassword = "sudo_password",
        ProxyPassword = "proxy_password",
        /// What an http server's API asks for.
        ApiToken = "api_token",
        /// What a serve agent asks for before it shows command lines.
        AgentToken = "agent_token",
    }
}

/// As whom, apart from the user's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub method: LoginMethod,
    /// None: the default key. Without meaning where the method is not `key`.
    pub key: Option<KeyId>,
    /// The public key line that the ssh-agent is to sign with, where the method is `agent`.
    pub agent_key: Option<String>,
}

impl Default for Login {
    fn default() -> Self {
        Self { method: LoginMethod::Key, key: None, agent_key: None }
    }
}

/// The second identity: where there is one, the first only reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionLogin {
    pub username: String,
    pub login: Login,
}

/// All that is stored of the way to a server, but for its address and its host key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayIn {
    pub login: Login,
    /// For actions, logs, files and the terminal. None: the one for readings.
    pub action: Option<ActionLogin>,
    /// The server over whose connection this one is reached.
    pub jump: Option<ServerId>,
    pub proxy: Option<ProxyAddress>,
    /// The limit of each step of connecting.
    pub connect_timeout_ms: u32,
    /// Which secrets are kept, in the order of [`SecretKind::ALL`].
    pub secrets: Vec<SecretKind>,
}

impl WayIn {
    /// Long enough for a server at the other end of the world that is busy.
    pub const DEFAULT_CONNECT_TIMEOUT_MS: u32 = 10_000;

    #[must_use]
    pub fn keeps(&self, secret: SecretKind) -> bool {
        self.secrets.contains(&secret)
    }
}

impl Default for WayIn {
    fn default() -> Self {
        Self {
            login: Login::default(),
            action: None,
            jump: None,
            proxy: None,
            connect_timeout_ms: Self::DEFAULT_CONNECT_TIMEOUT_MS,
            secrets: Vec::new(),
        }
    }
}

words! {
    /// How a proxy is spoken to, as its address begins.
    ProxyScheme, InvalidServer::Proxy {
        /// RFC 1928.
        Socks5 = "socks5",
        /// The CONNECT method of HTTP.
        Http = "http",
    }
}

/// A proxy, without its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyAddress {
    pub scheme: ProxyScheme,
    /// An IPv6 address stands here without brackets.
    pub host: String,
    pub port: Port,
    pub user: Option<String>,
}

const LONGEST_PROXY_BYTES: usize = 1024;

impl ProxyAddress {
    /// Reads `socks5://user:password@host:port` or `http://…`; `socks5h` is the same as `socks5`, because names are resolved
    /// by the proxy anyway. The password comes back apart.
    ///
    /// # Errors
    /// [`InvalidServer::Proxy`], without the password.
    pub fn parse(text: &str) -> Result<(Self, Option<Secret<String>>), InvalidServer> {
        let text = text.trim();
        // What is wrong may be where the password ends, so nothing behind the scheme is repeated.
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let refused = || InvalidServer::Proxy(format!("{}://…", shown(scheme, SHOWN_CHARS)));
        let named = match scheme.to_ascii_lowercase().as_str() {
            "socks5" | "socks5h" => ProxyScheme::Socks5,
            "http" => ProxyScheme::Http,
            _ => return Err(refused()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => (Some(login), place),
            None => (None, rest),
        };
        let (host, port) = match place.strip_prefix('[').and_then(|inner| inner.split_once("]:")) {
            Some(found) => found,
            None => place.split_once(':').ok_or_else(refused)?,
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        let fits = !host.is_empty() && host.chars().all(allowed) && !host.starts_with('-');
        if !fits || text.len() > LONGEST_PROXY_BYTES {
            return Err(refused());
        }
        let port = Port::parse(port).map_err(|_| refused())?;
        let decoded = |part: &str| {
            let text = percent_decode_str(part).decode_utf8().map_err(|_| refused())?.into_owned();
            if text.chars().any(char::is_control) { Err(refused()) } else { Ok(text) }
        };
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            None | Some(("", "")) => (None, None),
            Some((user, "")) => (Some(decoded(user)?), None),
            Some((user, password)) => (Some(decoded(user)?), Some(Secret::new(decoded(password)?))),
        };
        Ok((Self { scheme: named, host: host.to_owned(), port, user }, password))
    }
}

impl ProxyAddress {
    /// The address as it is given, password and all. None: without a user there is nobody to have one.
    #[must_use]
    pub fn with_password(&self, password: &Secret<String>) -> Option<Secret<String>> {
        let user = utf8_percent_encode(self.user.as_deref()?, IN_USER).to_string();
        let password = Secret::new(utf8_percent_encode(password.expose(), IN_USER).to_string());
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        Some(Secret::new(format!("{}://{user}:{}@{host}:{}", self.scheme, password.expose(), self.port)))
    }
}

/// What stands for itself in the user part of an address.
const IN_USER: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl fmt::Display for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        if let Some(user) = &self.user {
            write!(f, "{}@", utf8_percent_encode(user, IN_USER))?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Something that cannot be seen or done on a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlindSpot {
    /// What it is about: `sudo`, `Docker`, `processes`.
    pub subject: String,
    /// One sentence or two, cleaned.
    pub reason: String,
    /// The line that would change it.
    pub fix: Option<String>,
}

/// What the last preflight found out about the login that readings use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Findings {
    /// None: nobody has looked yet.
    pub looked_at: Option<Timestamp>,
    /// The key's forced command lets the readings through and nothing else.
    pub readings_only: bool,
    pub spots: Vec<BlindSpot>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_read_and_shown_without_its_password() {
        for (text, shown, password) in [
            ("socks5://proxy:1080", "socks5://proxy:1080", None),
            ("socks5h://me@proxy:1080", "socks5://me@proxy:1080", None),
            ("http://me:s%40cret@[fd00::1]:3128/", "http://me@[fd00::1]:3128", Some("s@cret")),
            ("http://a%20b:p:q@10.0.0.1:8080", "http://a%20b@10.0.0.1:8080", Some("p:q")),
        ] {
            let (proxy, found) = ProxyAddress::parse(text).unwrap();
            assert_eq!(proxy.to_string(), shown);
            assert_eq!(found.as_ref().map(|secret| secret.expose().as_str()), password, "{text}");
            assert_eq!(ProxyAddress::parse(&proxy.to_string()).unwrap().0, proxy);
            if let Some(found) = found {
                let whole = proxy.with_password(&found).unwrap();
                assert_eq!(ProxyAddress::parse(whole.expose()).unwrap(), (proxy, Some(found)));
            }
        }
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_repeating_a_password() {
        for bad in [
            "",
            "proxy:1080",
            "ftp://proxy:1080",
            "socks5://proxy",
            "socks5://proxy:0",
            "socks5://:1080",
            "socks5://a b:1080",
            "http://me:hunter2@-oProxy:1",
            "http://me:hunter2@proxy",
            "http://me:hun%0ater2@proxy:1",
        ] {
            let error = ProxyAddress::parse(bad).unwrap_err();
            assert!(!error.to_string().contains("hun"), "{error}");
        }
    }
}
