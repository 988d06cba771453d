//! One server by itself: every field parsed by the same rules as anywhere else.

use super::super::super::FleetError;
use super::super::super::input;
use super::super::address;
use super::super::found::{Candidate, word};
use super::super::plan::{Login, Planned, Surroundings};
use crate::model::{Port, Tag};

/// Tags of one server; the groups of a large inventory may be more.
const TAGS: usize = 64;
/// Limits of a single connection attempt that make sense; what is outside is moved to the nearer end.
const CONNECT_TIMEOUT_MS: (u64, u64) = (1000, 60_000);

type Wrong = (&'static str, String);

fn wrong(error: FleetError) -> Wrong {
    match error {
        FleetError::Invalid { field, message } => (field, message),
        other => ("line", other.to_string()),
    }
}

/// The fields as they would be stored; the name comes later. What is adapted is remarked.
pub(super) fn check(
    candidate: Candidate,
    around: &Surroundings,
    remarks: &mut Vec<String>,
) -> Result<Planned, Wrong> {
    let hostname = input::hostname(&candidate.host).map_err(wrong)?;
    let port = candidate.port.map_or(Ok(Port::SSH), Port::of).map_err(|error| wrong(error.into()))?;
    let username = candidate.user.as_deref().or(around.username.as_deref());
    let username = username.map(input::username).transpose().map_err(wrong)?;
    let login = login(&candidate, around, remarks);
    let alias = candidate.host_key_alias.as_deref().map(input::hostname).transpose();
    let host_key_alias = alias.map_err(|_| ("host_key_alias", "the alias is no host name".to_owned()))?;
    let connect_timeout_ms = candidate.connect_timeout_ms.map(|millis| {
        let (least, most) = CONNECT_TIMEOUT_MS;
        if !(least..=most).contains(&millis) {
            remarks.push(format!(
                "the connect time limit is moved into {} to {} s",
                least / 1000,
                most / 1000
            ));
        }
        millis.clamp(least, most)
    });
    if let Some(millis) = candidate.interval_ms {
        input::interval_ms(millis).map_err(wrong)?;
    }
    Ok(Planned {
        name: String::new(),
        hostname,
        port: port.get(),
        username,
        certificate: candidate.certificate.filter(|_| matches!(login, Login::Key(_))),
        login,
        jump_host: None,
        proxy: candidate.proxy.as_deref().map(proxy).transpose()?,
        host_key_alias,
        connect_timeout_ms,
        region: input::word("region", candidate.region.as_deref()).map_err(wrong)?,
        environment: input::word("environment", candidate.environment.as_deref()).map_err(wrong)?,
        tags: tags(candidate.tags.iter().chain(&around.tags), remarks)?,
        metadata: input::metadata(&candidate.metadata).map_err(wrong)?,
        description: input::free_text("description", &candidate.description, input::DESCRIPTION_CHARS)
            .map_err(wrong)?,
        interval_ms: candidate.interval_ms,
        behind: None,
    })
}

/// The first identity that can be had. A path never makes Roundsman read a file: it is the name of a key.
fn login(candidate: &Candidate, around: &Surroundings, remarks: &mut Vec<String>) -> Login {
    if let Some(line) = &candidate.agent_key {
        return Login::Agent(line.clone());
    }
    for wanted in &candidate.identities {
        if wanted == "default" {
            return Login::Default;
        }
        if around.brought.contains(wanted) {
            return Login::Key(wanted.clone());
        }
        let kept = around.keys.iter().find(|key| {
            key.id == *wanted || key.name == *wanted || key.source_path.as_deref() == Some(wanted)
        });
        if let Some(key) = kept.or_else(|| of_somebodys_home(wanted, around)) {
            return Login::Key(key.id.clone());
        }
    }
    if let Some(first) = candidate.identities.first() {
        remarks.push(format!(
            "the key '{}' is not one that Roundsman keeps, so its default key is used; keep it first, or import with the \
             command line, which brings it along",
            word(first)
        ));
    }
    Login::Default
}

/// `~/.ssh/work` is a kept key whose path ends so, if there is only one.
fn of_somebodys_home<'a>(wanted: &str, around: &'a Surroundings) -> Option<&'a super::super::KnownKey> {
    let below = wanted.strip_prefix('~').filter(|rest| rest.starts_with('/'))?;
    let mut fitting =
        around.keys.iter().filter(|key| key.source_path.as_deref().is_some_and(|path| path.ends_with(below)));
    fitting.next().filter(|_| fitting.next().is_none())
}

fn tags<'a>(
    wanted: impl Iterator<Item = &'a String>,
    remarks: &mut Vec<String>,
) -> Result<Vec<String>, Wrong> {
    let mut tags: Vec<String> = Vec::new();
    for text in wanted {
        let tag = match Tag::parse(text) {
            Ok(tag) => tag.as_str().to_owned(),
            Err(_) => {
                let allowed =
                    |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '/' | '@' | '=');
                let adapted: String =
                    text.trim().chars().map(|c| if allowed(c) { c } else { '-' }).take(63).collect();
                let tag = Tag::parse(&adapted).map_err(|error| ("tags", error.to_string()))?;
                remarks.push(format!("'{}' becomes the tag {tag}", word(text)));
                tag.as_str().to_owned()
            }
        };
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    if tags.len() > TAGS {
        remarks.push(format!("of {} tags the first {TAGS} are taken", tags.len()));
        tags.truncate(TAGS);
    }
    Ok(tags)
}

fn proxy(text: &str) -> Result<String, Wrong> {
    let bad = |why: &str| ("proxy", format!("'{}' is no proxy: {why}", word(text)));
    let (scheme, rest) = text.split_once("://").unwrap_or(("socks5", text));
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "socks5" | "socks5h" => "socks5",
        "http" => "http",
        _ => return Err(bad("use socks5://host:port or http://host:port")),
    };
    let rest = rest.trim_end_matches('/');
    if rest.rsplit_once('@').is_some_and(|(login, _)| login.contains(':')) {
        return Err((
            "proxy",
            "the password of a proxy does not belong into a list; set it on the server's page".to_owned(),
        ));
    }
    let found = address::parse(rest).map_err(|_| bad("use socks5://host:port or http://host:port"))?;
    let host = input::hostname(&found.host).map_err(|_| bad("its host is no name or address"))?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let port = found.port.unwrap_or(if scheme == "http" { 3128 } else { 1080 });
    let user = found.user.map(|user| format!("{user}@")).unwrap_or_default();
    Ok(format!("{scheme}://{user}{host}:{port}"))
}
