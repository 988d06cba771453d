//! A JSON list of objects with the field names of the API, alone or as `servers` or `items` of an object.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::address;
use super::found::{self, Candidate, Findings, Place, word};
use crate::fleet::input::Metadata;

/// Fields that the API shows of a server and that are not for telling it: an export is imported without a word on each.
const SHOWN_ONLY: &[&str] = &[
    "id",
    "organization_id",
    "ip_address",
    "ssh_host",
    "transport",
    "api_url",
    "status",
    "health_status",
    "health_reasons",
    "reachability",
    "last_seen_at",
    "last_health_check_at",
    "version",
    "cpu_cores",
    "total_ram_gb",
    "total_disk_gb",
    "host_key_fingerprint",
    "offered_host_key",
    "offered_host_key_fingerprint",
    "figures",
    "current",
    "created_at",
    "updated_at",
    "logins_today",
];

#[derive(serde::Deserialize)]
struct Wrapped<'a> {
    #[serde(borrow, alias = "items")]
    servers: Vec<&'a RawValue>,
}

pub(super) fn read(text: &str, findings: &mut Findings) {
    let trimmed = text.trim_start();
    let parsed = if trimmed.starts_with('{') {
        serde_json::from_str::<Wrapped<'_>>(text).map(|wrapped| wrapped.servers)
    } else {
        serde_json::from_str::<Vec<&RawValue>>(text)
    };
    let items = match parsed {
        Ok(items) => items,
        Err(error) => {
            let message = format!("this is not a JSON list of servers, or {{\"servers\": [...]}}: {error}");
            findings.invalid(Place::line(error.line().max(1)), "text", message);
            return;
        }
    };
    let mut lines = LineOf { text, offset: 0, line: 1 };
    for item in items {
        if findings.is_full() {
            return;
        }
        let at = Place::line(lines.of(item.get()));
        match serde_json::from_str::<Value>(item.get()) {
            Ok(Value::Object(object)) if other_way(&object).is_some() => {
                findings.unsupported(at, other_way(&object).unwrap_or_default());
            }
            Ok(Value::Object(object)) => match server(object) {
                Ok((candidate, remarks)) => findings.server(at, candidate, remarks),
                Err((field, message)) => findings.invalid(at, &field, message),
            },
            Ok(Value::String(text)) => match address::parse(&text) {
                Ok(candidate) => findings.server(at, candidate, Vec::new()),
                Err(message) => findings.invalid(at, "hostname", message),
            },
            _ => findings.invalid(at, "line", "this is neither an object nor an address"),
        }
    }
}

/// Lines of parts of one text, asked for in their order.
struct LineOf<'a> {
    text: &'a str,
    offset: usize,
    line: usize,
}

impl LineOf<'_> {
    /// `part` is a slice of the text.
    fn of(&mut self, part: &str) -> usize {
        let offset = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let passed = self.text.get(self.offset..offset).unwrap_or_default();
        self.line += passed.bytes().filter(|byte| *byte == b'\n').count();
        self.offset = offset.max(self.offset);
        self.line
    }
}

type Wrong = (String, String);

/// Why an object is no server over SSH: to log in to it as if it were one would be wrong. None: it is one.
fn other_way(object: &Map<String, Value>) -> Option<&'static str> {
    let given = |field: &str| object.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    found::other_way(given("transport").or_else(|| given("api_url").map(|_| "http")))
}

fn server(object: Map<String, Value>) -> Result<(Candidate, Vec<String>), Wrong> {
    let mut candidate = Candidate::default();
    let mut remarks = Vec::new();
    for (field, value) in object {
        if value.is_null() {
            continue;
        }
        match field.as_str() {
            "name" => candidate.name = Some(text(&field, value)?),
            "hostname" | "host" | "address" => {
                let found =
                    address::parse(&text(&field, value)?).map_err(|why| ("hostname".to_owned(), why))?;
                candidate.host = found.host;
                candidate.port = candidate.port.or(found.port);
                candidate.user = candidate.user.take().or(found.user);
            }
            "port" => candidate.port = Some(number(&field, &value)?),
            "username" | "user" => candidate.user = Some(text(&field, value)?),
            "description" => candidate.description = text(&field, value)?,
            "region" => candidate.region = Some(text(&field, value)?),
            "environment" => candidate.environment = Some(text(&field, value)?),
            "tags" => candidate.tags = texts(&field, value)?,
            "metadata" => candidate.metadata = pairs(value)?,
            "identity" | "ssh_key_path" => candidate.identities = vec![text(&field, value)?],
            "jump_host" | "jump" => {
                let jump = text(&field, value)?;
                candidate.jump = address::parse_hops(&jump).map_err(|why| (field.clone(), why))?;
            }
            "proxy" => candidate.proxy = Some(text(&field, value)?),
            "host_key_alias" => candidate.host_key_alias = Some(text(&field, value)?),
            "connect_timeout_ms" => candidate.connect_timeout_ms = Some(positive(&field, &value)?),
            "interval_ms" => candidate.interval_ms = Some(positive(&field, &value)?),
            "private_key" | "password" | "passphrase" => {
                let message = "secrets do not belong into a list; keep the key first and name it as identity";
                return Err((field, message.to_owned()));
            }
            known if SHOWN_ONLY.contains(&known) => {}
            other => remarks.push(format!("the field '{}' is not known and is left out", word(other))),
        }
    }
    if candidate.host.is_empty() {
        return Err(("hostname".to_owned(), "hostname is missing".to_owned()));
    }
    Ok((candidate, remarks))
}

fn wrong(field: &str, expected: &str) -> Wrong {
    (field.to_owned(), format!("{field} has to be {expected}"))
}

fn text(field: &str, value: Value) -> Result<String, Wrong> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(wrong(field, "a text")),
    }
}

fn number(field: &str, value: &Value) -> Result<i64, Wrong> {
    value.as_i64().ok_or_else(|| wrong(field, "a whole number"))
}

fn positive(field: &str, value: &Value) -> Result<u64, Wrong> {
    value.as_u64().ok_or_else(|| wrong(field, "a whole number"))
}

fn texts(field: &str, value: Value) -> Result<Vec<String>, Wrong> {
    match value {
        Value::Array(items) => items.into_iter().map(|item| text(field, item)).collect(),
        Value::String(text) => {
            Ok(text.split([',', ' ']).filter(|tag| !tag.is_empty()).map(str::to_owned).collect())
        }
        _ => Err(wrong(field, "a list of texts")),
    }
}

fn pairs(value: Value) -> Result<Metadata, Wrong> {
    let Value::Object(object) = value else { return Err(wrong("metadata", "an object of texts")) };
    object.into_iter().map(|(key, value)| Ok((key, text("metadata", value)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::found::Found;
    use super::*;

    fn read_all(text: &str) -> Vec<(u32, Found)> {
        let mut findings = Findings::default();
        read(text, &mut findings);
        findings.into_entries().into_iter().map(|entry| (entry.at.line, entry.found)).collect()
    }

    #[test]
    fn objects_have_the_fields_of_the_api_and_know_their_lines() {
        let found = read_all(
            "{\"servers\": [\n {\"hostname\": \"10.0.0.1\", \"port\": 2222, \"username\": \"joe\", \"name\": \"web\",\n\
             \"tags\": [\"a\"], \"metadata\": {\"owner\": \"ops\"}, \"region\": null, \"jump_host\": \"gate\"},\n \
             {\"hostname\": \"x\", \"port\": \"22\"},\n \"root@db:22\", 7, {\"name\": \"nowhere\"},\n {\"hostname\": \"y\", \"password\": \"z\"}]}",
        );
        assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 4, 5, 5, 5, 6]);
        let Found::Server(web) = &found[0].1 else { panic!("{found:?}") };
        assert_eq!((web.host.as_str(), web.port, web.user.as_deref()), ("10.0.0.1", Some(2222), Some("joe")));
        assert_eq!((web.tags.as_slice(), web.jump.len()), (["a".to_owned()].as_slice(), 1));
        let fields: Vec<&str> = found
            .iter()
            .filter_map(|(_, found)| match found {
                Found::Invalid { field, .. } => Some(field.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(fields, ["port", "line", "hostname", "password"]);
    }

    #[test]
    fn servers_that_are_reached_in_another_way_are_named_and_not_logged_in_to() {
        let found = read_all(
            "[{\"hostname\": \"a\", \"transport\": \"ssh\"},\n{\"hostname\": \"b\", \"transport\": \"http\"},\n\
             {\"hostname\": \"c\", \"api_url\": \"https://c\"},\n{\"hostname\": \"d\", \"transport\": \"push\"}]",
        );
        let told = |index: usize, words: &str| matches!(&found[index].1, Found::Unsupported { what } if what.contains(words));
        assert!(matches!(found[0].1, Found::Server(_)), "{found:?}");
        assert!(told(1, "add --http") && told(2, "add --http") && told(3, "registers itself"), "{found:?}");
    }

    #[test]
    fn what_is_no_list_is_one_wrong_line() {
        let found = read_all("{\"servers\": [\n{\"hostname\": \n}");
        assert!(matches!(found.as_slice(), [(3, Found::Invalid { .. })]), "{found:?}");
        assert_eq!(read_all("{\"items\": []}"), []);
    }
}
