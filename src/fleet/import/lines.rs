//! One server a line: an address as ssh takes it, then options `name=value`.

use super::address;
use super::found::{Candidate, Findings, Place, word};

/// What may stand before the `=`, for the sentence that names them.
const OPTIONS: &str =
    "name, user, port, tags, region, environment, description, identity, jump, proxy, alias or meta.KEY";

/// Whether a text has an option of ours; a line of ssh_config has none.
pub(super) fn has_option(text: &str) -> bool {
    text.split_whitespace().any(|word| {
        word.split_once('=').is_some_and(|(name, value)| {
            !value.is_empty() && matches!(name, "name" | "tags" | "region" | "environment" | "description")
        })
    })
}

pub(super) fn read(text: &str, findings: &mut Findings) {
    for (index, line) in text.lines().enumerate() {
        if findings.is_full() {
            return;
        }
        let at = Place::line(index + 1);
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match server(line) {
            Ok(candidate) => findings.server(at, candidate, Vec::new()),
            Err((field, message)) => findings.invalid(at, &field, message),
        }
    }
}

fn server(line: &str) -> Result<Candidate, (String, String)> {
    // A comment behind the address begins with a blank and #, as shlex has it.
    let words =
        shlex::split(line).ok_or_else(|| ("line".to_owned(), "a quotation mark is not closed".to_owned()))?;
    let mut words = words.into_iter();
    let first = words.next().unwrap_or_default();
    let mut candidate =
        address::parse(first.trim_end_matches(',')).map_err(|why| ("hostname".to_owned(), why))?;
    for option in words {
        let Some((name, value)) = option.split_once('=') else {
            let message = format!("'{}' is not name=value; known are {OPTIONS}", word(&option));
            return Err(("line".to_owned(), message));
        };
        set(&mut candidate, name, value)?;
    }
    Ok(candidate)
}

fn set(candidate: &mut Candidate, name: &str, value: &str) -> Result<(), (String, String)> {
    let value = value.trim().to_owned();
    let some = || Some(value.clone()).filter(|value| !value.is_empty());
    match name.to_ascii_lowercase().as_str() {
        "name" => candidate.name = some(),
        "user" | "username" => candidate.user = some(),
        "port" => {
            let port = value.parse().map_err(|_| {
                ("port".to_owned(), format!("'{}' is not a port: use a number from 1 to 65535", word(&value)))
            })?;
            candidate.port = Some(port);
        }
        "tag" | "tags" | "groups" => {
            candidate
                .tags
                .extend(value.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned));
        }
        "region" => candidate.region = some(),
        "environment" | "env" => candidate.environment = some(),
        "description" => candidate.description = value,
        "identity" | "key" => candidate.identities.extend(some()),
        "jump" | "proxyjump" => {
            candidate.jump = address::parse_hops(&value).map_err(|why| ("jump".to_owned(), why))?;
        }
        "proxy" => candidate.proxy = some(),
        "alias" => candidate.host_key_alias = some(),
        other => match other.strip_prefix("meta.") {
            Some(key) => {
                candidate.metadata.insert(key.to_owned(), value);
            }
            None => {
                let message = format!("'{}' is not known; known are {OPTIONS}", word(other));
                return Err(("line".to_owned(), message));
            }
        },
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::found::Found;
    use super::*;

    fn read_all(text: &str) -> Vec<(u32, Result<Candidate, String>)> {
        let mut findings = Findings::default();
        read(text, &mut findings);
        let entries = findings.into_entries().into_iter();
        entries
            .map(|entry| match entry.found {
                Found::Server(candidate) => (entry.at.line, Ok(*candidate)),
                Found::Invalid { field, .. } => (entry.at.line, Err(field)),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_line_is_an_address_and_options() {
        let found = read_all(
            "# servers\n\nroot@10.0.0.1:2222\nweb-2 name=web tags=a,b region=eu description=\"two words\" meta.owner=ops\n\
             [fd00::5]:22   # the new one\nssh://joe@db:22 jump=gate,joe@inner:2200 identity=work\n",
        );
        assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [3, 4, 5, 6]);
        let servers: Vec<&Candidate> = found.iter().map(|(_, found)| found.as_ref().unwrap()).collect();
        assert_eq!((servers[0].user.as_deref(), servers[0].port), (Some("root"), Some(2222)));
        assert_eq!(servers[1].name.as_deref(), Some("web"));
        assert_eq!(servers[1].tags, ["a", "b"]);
        assert_eq!(servers[1].description, "two words");
        assert_eq!(servers[1].metadata["owner"], "ops");
        assert_eq!((servers[2].host.as_str(), servers[2].port), ("fd00::5", Some(22)));
        assert_eq!(servers[3].jump.len(), 2);
        assert_eq!(servers[3].identities, ["work"]);
    }

    #[test]
    fn a_line_that_cannot_be_meant_names_its_field() {
        let found =
            read_all("host:0\nweb colour=red\nweb port=x\nweb jump=a:b:c,:1\nweb \"open\nweb plain\n");
        let fields: Vec<&str> = found.iter().map(|(_, found)| found.as_ref().unwrap_err().as_str()).collect();
        assert_eq!(fields, ["hostname", "line", "port", "jump", "line", "line"]);
    }
}
