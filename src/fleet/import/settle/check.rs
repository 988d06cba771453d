//! One server by itself: every field parsed by the same rules as anywhere else.

use super::super::super::FleetError;
use super::super::super::input;
use super::super::found::{Candidate, word};
use super::super::plan::{Login, Planned, Surroundings};
use crate::model::{Port, ProxyAddress, Tag};

/// Tags of one server; the groups of a large inventory may be more.
const TAGS: usize = 64;
/// Limits of a single connection attempt that make sense; what is outside is moved to the nearer end.
const CONNECT_TIMEOUT_MS: (u64, u64) = (1000, 120_000);

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
        input::interval_ms("interval_ms", millis).map_err(wrong)?;
    }
    Ok(Planned {
        name: String::new(),
        hostname,
        port: port.get(),
        username,
        certificate: certificate(candidate.certificate, &login, around, remarks),
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

/// The certificate of a key that comes along; one of a kept key is attached to that key.
fn certificate(
    path: Option<String>,
    login: &Login,
    around: &Surroundings,
    remarks: &mut Vec<String>,
) -> Option<String> {
    let path = path?;
    if matches!(login, Login::Key(key) if around.brought.contains(key)) {
        return Some(path);
    }
    remarks.push(format!(
        "the certificate '{}' is left out; attach it to the key that Roundsman keeps",
        word(&path)
    ));
    None
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

/// A proxy as it is stored. The usual ports are filled in, as nc and ncat do.
fn proxy(text: &str) -> Result<String, Wrong> {
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("socks5://{text}") };
    let usual = if with_scheme.starts_with("http:") { 3128 } else { 1080 };
    let parsed = ProxyAddress::parse(&with_scheme).or_else(|error| {
        ProxyAddress::parse(&format!("{}:{usual}", with_scheme.trim_end_matches('/'))).map_err(|_| error)
    });
    match parsed.map_err(|error| wrong(error.into()))? {
        (_, Some(_)) => {
            let message = "the password of a proxy does not belong into a list; set it on the server's page";
            Err(("proxy", message.to_owned()))
        }
        (address, None) => Ok(address.to_string()),
    }
}
