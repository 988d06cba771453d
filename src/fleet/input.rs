//! What people and programs say of a server, parsed once: afterwards it is valid.

use std::collections::BTreeMap;
use std::time::Duration;

use super::FleetError;
use super::http::HttpEdit;
use crate::config::INTERVAL_RANGE;
use crate::model::{InvalidServer, LoginMethod, Port, Secret, Server, ServerName, Status, Tag, Transport};

/// Free key=value pairs of a server.
pub type Metadata = BTreeMap<String, String>;

pub const DESCRIPTION_CHARS: usize = 1000;
const WORD_CHARS: usize = 63;
const TAGS: usize = 64;
const METADATA_ENTRIES: usize = 64;
const METADATA_VALUE_CHARS: usize = 1000;
const HOSTNAME_CHARS: usize = 253;
const USERNAME_CHARS: usize = 64;
/// Longer than what any login or sudo takes.
const PASSWORD_BYTES: usize = 1024;
/// A second is enough on the other side of the room; two minutes are where nobody waits any longer.
const CONNECT_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1_000..=120_000;

/// Changes to a server. `None` leaves a field as it is; `Some(None)` empties one that may be empty.
#[derive(Debug, Clone, Default)]
pub struct ServerEdit {
    pub name: Option<String>,
    pub description: Option<String>,
    pub hostname: Option<String>,
    pub port: Option<i64>,
    pub username: Option<String>,
    pub region: Option<Option<String>>,
    pub environment: Option<Option<String>>,
    pub tags: Option<Vec<String>>,
    pub metadata: Option<Metadata>,
    pub status: Option<Status>,
    pub interval_ms: Option<u64>,
    /// `Some(None)` is the default.
    pub heavy_interval_ms: Option<Option<u64>>,
    pub login: LoginEdit,
    pub way: WayEdit,
    /// Of a server that is asked over HTTPS.
    pub http: HttpEdit,
}

/// Changes to an identity. Where only one of the last three is given, it says the method too.
#[derive(Debug, Clone, Default)]
pub struct LoginEdit {
    pub method: Option<LoginMethod>,
    /// Name or id of a kept key; `Some(None)` is the default key.
    pub key: Option<Option<String>>,
    /// Public key line or SHA-256 fingerprint of a key that the ssh-agent holds.
    pub agent_key: Option<String>,
    /// To be kept, sealed.
    pub password: Option<Secret<String>>,
}

/// Changes to the second identity, for actions.
#[derive(Debug, Clone, Default)]
pub struct ActionLoginEdit {
    /// None: as it is, and where there was no second identity the user of the first.
    pub username: Option<String>,
    pub login: LoginEdit,
}

/// Changes to the rest of the way. `None` leaves a part as it is; `Some(None)` removes it.
#[derive(Debug, Clone, Default)]
pub struct WayEdit {
    /// Name or id of an enrolled server.
    pub jump: Option<Option<String>>,
    /// `socks5://user:password@host:port` or `http://…`.
    pub proxy: Option<Option<Secret<String>>>,
    /// 1,000 to 120,000 ms; `Some(None)` is the default.
    pub connect_timeout_ms: Option<Option<u64>>,
    pub action: Option<Option<ActionLoginEdit>>,
    pub sudo_password: Option<Option<Secret<String>>>,
}

impl From<InvalidServer> for FleetError {
    fn from(error: InvalidServer) -> Self {
        let field = match &error {
            InvalidServer::Name(_) => "name",
            InvalidServer::Port(_) => "port",
            InvalidServer::Tag(_) => "tags",
            InvalidServer::Transport(_) => "transport",
            InvalidServer::Status(_) => "status",
            InvalidServer::Health(_) => "health",
            InvalidServer::LoginMethod(_) => "login_method",
            InvalidServer::Proxy(_) => "proxy",
        };
        Self::Invalid { field, message: error.to_string() }
    }
}

impl ServerEdit {
    /// The server with these changes; `login`, `way` and `http` are the fleet's business.
    ///
    /// # Errors
    /// [`FleetError::Invalid`] names the field and what would be accepted.
    pub fn apply(&self, server: &Server) -> Result<Server, FleetError> {
        let mut next = server.clone();
        if let Some(name) = &self.name {
            next.name = ServerName::parse(name.trim())?;
        }
        if let Some(text) = &self.description {
            next.description = free_text("description", text, DESCRIPTION_CHARS)?;
        }
        if let Some(host) = &self.hostname {
            next.hostname = Some(hostname(host)?);
        }
        if let Some(port) = self.port {
            next.port = Port::of(port)?;
        }
        if let Some(name) = &self.username {
            // Without a user, a server that is not read over SSH has no SSH address.
            let may_have_none = matches!(server.transport, Transport::Http | Transport::Push);
            next.username =
                if may_have_none && name.trim().is_empty() { None } else { Some(username(name)?) };
        }
        if let Some(region) = &self.region {
            next.region = word("region", region.as_deref())?;
        }
        if let Some(environment) = &self.environment {
            next.environment = word("environment", environment.as_deref())?;
        }
        if let Some(list) = &self.tags {
            next.tags = tags(list)?;
        }
        if let Some(pairs) = &self.metadata {
            next.metadata = metadata(pairs)?;
        }
        if let Some(status) = self.status {
            next.status = status;
        }
        if let Some(millis) = self.interval_ms {
            next.interval_ms = interval_ms("interval_ms", millis)?;
        }
        if let Some(millis) = self.heavy_interval_ms {
            next.heavy_interval_ms =
                millis.map(|millis| interval_ms("heavy_interval_ms", millis)).transpose()?;
        }
        Ok(next)
    }
}

pub fn free_text(field: &'static str, text: &str, limit: usize) -> Result<String, FleetError> {
    if text.chars().count() > limit || text.chars().any(|c| c.is_control() && c != '\n') {
        return Err(FleetError::invalid(
            field,
            format!("the {field} may have at most {limit} characters and no control characters"),
        ));
    }
    Ok(text.trim().to_owned())
}

pub fn word(field: &'static str, text: Option<&str>) -> Result<Option<String>, FleetError> {
    match text.map(str::trim) {
        None | Some("") => Ok(None),
        Some(text) => free_text(field, text, WORD_CHARS).map(Some),
    }
}

/// A name, an IPv4 or an IPv6 address (with or without brackets).
///
/// # Errors
/// [`FleetError::Invalid`] says what would be accepted.
pub fn hostname(text: &str) -> Result<String, FleetError> {
    let host = text.trim();
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    let valid = !host.is_empty()
        && host.chars().count() <= HOSTNAME_CHARS
        && host.chars().all(allowed)
        && !host.starts_with('-');
    if valid {
        Ok(host.to_owned())
    } else {
        Err(FleetError::invalid(
            "hostname",
            format!(
                "'{}' is not a host name or address; use for example web-1.example.com, 10.0.0.5 or fd00::5",
                shown(text)
            ),
        ))
    }
}

/// # Errors
/// [`FleetError::Invalid`] says what would be accepted.
pub fn username(text: &str) -> Result<String, FleetError> {
    let name = text.trim();
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '@' | '+' | '$' | '\\');
    let valid = (1..=USERNAME_CHARS).contains(&name.chars().count())
        && name.chars().all(allowed)
        && !name.starts_with('-');
    if valid {
        Ok(name.to_owned())
    } else {
        Err(FleetError::invalid("username", format!("'{}' is not a user name", shown(text))))
    }
}

/// # Errors
/// [`FleetError::Invalid`] for one that no program could send as a line.
pub fn password(field: &'static str, secret: &Secret<String>) -> Result<(), FleetError> {
    let text = secret.expose();
    if text.is_empty() || text.len() > PASSWORD_BYTES || text.chars().any(char::is_control) {
        let message = format!("a password has 1 to {PASSWORD_BYTES} bytes and no control characters");
        return Err(FleetError::invalid(field, message));
    }
    Ok(())
}

/// # Errors
/// [`FleetError::Invalid`] outside 1 to 120 s.
pub fn connect_timeout_ms(millis: u64) -> Result<u32, FleetError> {
    u32::try_from(millis).ok().filter(|_| CONNECT_TIMEOUT_MS.contains(&millis)).ok_or_else(|| {
        FleetError::invalid(
            "connect_timeout_ms",
            "the time limit of connecting must be 1,000 (1 s) to 120,000 (2 min) milliseconds",
        )
    })
}

fn tags(list: &[String]) -> Result<Vec<Tag>, FleetError> {
    if list.len() > TAGS {
        return Err(FleetError::invalid("tags", format!("a server has at most {TAGS} tags")));
    }
    let mut tags = list.iter().map(|tag| Tag::parse(tag)).collect::<Result<Vec<_>, _>>()?;
    tags.sort();
    tags.dedup();
    Ok(tags)
}

pub fn metadata(pairs: &Metadata) -> Result<Metadata, FleetError> {
    let bad = |message: String| FleetError::invalid("metadata", message);
    if pairs.len() > METADATA_ENTRIES {
        return Err(bad(format!("a server has at most {METADATA_ENTRIES} metadata entries")));
    }
    for (key, value) in pairs {
        let key_fits = (1..=WORD_CHARS).contains(&key.chars().count()) && !key.chars().any(char::is_control);
        if !key_fits || key.contains('=') {
            return Err(bad(format!(
                "'{}' is not a metadata key: use 1 to {WORD_CHARS} characters without =",
                shown(key)
            )));
        }
        free_text("metadata", value, METADATA_VALUE_CHARS)?;
    }
    Ok(pairs.clone())
}

/// # Errors
/// [`FleetError::Invalid`] outside 1 s to 1 h.
pub fn interval_ms(field: &'static str, millis: u64) -> Result<u32, FleetError> {
    let span = Duration::from_millis(millis);
    u32::try_from(millis).ok().filter(|_| (INTERVAL_RANGE.0..=INTERVAL_RANGE.1).contains(&span)).ok_or_else(
        || FleetError::invalid(field, "the interval must be 1,000 (1 s) to 3,600,000 (1 h) milliseconds"),
    )
}

fn shown(text: &str) -> String {
    crate::model::shown(text, 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_names_or_ip_addresses_and_nothing_that_a_shell_or_ssh_would_read() {
        for good in ["web-1", "web.example.com", "10.0.0.5", "fd00::5", "[fd00::5]", "fe80::1%eth0"] {
            assert!(hostname(good).is_ok(), "{good}");
        }
        for bad in ["", "-oProxyCommand=x", "a b", "a;b", "a'b", "<script>", "$(id)", "a/b", "a\nb"] {
            assert!(hostname(bad).is_err(), "{bad}");
        }
        assert!(username("-l").is_err());
        assert!(username("deploy").is_ok());
    }

    #[test]
    fn intervals_outside_one_second_to_one_hour_are_refused() {
        assert_eq!(interval_ms("x", 1000).unwrap(), 1000);
        assert!(interval_ms("x", 999).is_err());
        assert!(interval_ms("x", 3_600_001).is_err());
    }
}
