//! CSV with a line of names: comma, semicolon or tab, quotes as in RFC 4180.

use super::address;
use super::found::{self, Candidate, Findings, Place, word};

/// Columns of one table; more is something else.
const COLUMNS: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Column {
    Name,
    Host,
    Port,
    User,
    Tags,
    Region,
    Environment,
    Description,
    Identity,
    Jump,
    Proxy,
    Alias,
    ConnectTimeoutMs,
    IntervalMs,
    Transport,
    Metadata(String),
    Unknown,
}

impl Column {
    fn of(name: &str) -> Self {
        let plain = name.trim().trim_start_matches('\u{feff}').to_lowercase().replace([' ', '-'], "_");
        match plain.as_str() {
            "name" | "server" | "server_name" => Self::Name,
            "hostname" | "host" | "address" | "ip" | "ip_address" | "fqdn" | "ssh_host" => Self::Host,
            "port" | "ssh_port" => Self::Port,
            "username" | "user" | "login" | "ssh_user" => Self::User,
            "tags" | "tag" | "groups" | "group" => Self::Tags,
            "region" | "site" | "location" => Self::Region,
            "environment" | "env" => Self::Environment,
            "description" | "comment" | "notes" => Self::Description,
            "identity" | "identity_file" | "key" | "ssh_key" | "ssh_key_path" => Self::Identity,
            "jump" | "jump_host" | "proxy_jump" | "proxyjump" | "bastion" => Self::Jump,
            "proxy" => Self::Proxy,
            "transport" => Self::Transport,
            "host_key_alias" => Self::Alias,
            "connect_timeout_ms" => Self::ConnectTimeoutMs,
            "interval_ms" => Self::IntervalMs,
            other => match other.strip_prefix("metadata.").or_else(|| other.strip_prefix("meta.")) {
                // The key keeps its capitals.
                Some(key) if !key.is_empty() => {
                    Self::Metadata(name.trim().split_once('.').map_or(key, |(_, key)| key).to_owned())
                }
                _ => Self::Unknown,
            },
        }
    }
}

/// The separator that a line of names has most of.
fn delimiter(header: &str) -> u8 {
    let count = |c: char| header.matches(c).count();
    [(',', b','), (';', b';'), ('\t', b'\t')]
        .into_iter()
        .max_by_key(|(c, byte)| (count(*c), *byte == b','))
        .map_or(b',', |(_, byte)| byte)
}

/// Whether a line looks like names of columns: several, and one of them is the address.
pub(super) fn has_header(line: &str) -> bool {
    let separator = char::from(delimiter(line));
    let names: Vec<Column> = line.split(separator).map(|name| Column::of(name.trim_matches('"'))).collect();
    names.contains(&Column::Host) && (names.len() > 1 || line.trim().eq_ignore_ascii_case("hostname"))
}

pub(super) fn read(text: &str, findings: &mut Findings) {
    let header = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter(header))
        .has_headers(false)
        .flexible(true)
        .comment(Some(b'#'))
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let mut columns: Option<Vec<Column>> = None;
    let mut lines = LineOf { text, offset: 0, line: 1 };
    for record in reader.records() {
        if findings.is_full() {
            return;
        }
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let line = error.position().map_or(1, |position| lines.of(position.byte()));
                findings.invalid(Place::line(line), "line", "the row cannot be read as CSV");
                continue;
            }
        };
        let place = Place::line(record.position().map_or(1, |position| lines.of(position.byte())));
        if record.iter().all(str::is_empty) {
            continue;
        }
        let Some(columns) = &columns else {
            match names(&record, &place, findings) {
                Some(found) => columns = Some(found),
                None => return,
            }
            continue;
        };
        if record.len() > columns.len() {
            let message =
                format!("the row has {} values and the first line names {}", record.len(), columns.len());
            findings.invalid(place, "line", message);
            continue;
        }
        let transport = columns.iter().position(|column| *column == Column::Transport);
        if let Some(what) = found::other_way(transport.and_then(|index| record.get(index))) {
            findings.unsupported(place, what);
            continue;
        }
        match server(columns, &record) {
            Ok(candidate) => findings.server(place, candidate, Vec::new()),
            Err((field, message)) => findings.invalid(place, field, message),
        }
    }
}

/// Lines of records, asked for in their order. The reader's own count stands before the empty lines and comments that it
/// skips.
struct LineOf<'a> {
    text: &'a str,
    offset: usize,
    line: usize,
}

impl LineOf<'_> {
    fn of(&mut self, byte: u64) -> usize {
        let start = usize::try_from(byte).unwrap_or(usize::MAX).max(self.offset);
        self.pass(start);
        while let Some(rest) = self.text.get(self.offset..) {
            let Some((line, _)) = rest.split_once('\n') else { break };
            if !line.trim().is_empty() && !line.starts_with('#') {
                break;
            }
            self.pass(self.offset + line.len() + 1);
        }
        self.line
    }

    fn pass(&mut self, to: usize) {
        let passed = self.text.as_bytes().get(self.offset..to).unwrap_or_default();
        self.line += passed.iter().filter(|byte| **byte == b'\n').count();
        self.offset = to.min(self.text.len());
    }
}

fn names(record: &csv::StringRecord, place: &Place, findings: &mut Findings) -> Option<Vec<Column>> {
    if record.len() > COLUMNS {
        findings.invalid(place.clone(), "line", format!("more than {COLUMNS} columns"));
        return None;
    }
    let columns: Vec<Column> = record.iter().map(Column::of).collect();
    if !columns.contains(&Column::Host) {
        let message = "the first line has to name the columns, and one of them has to be hostname (or host, address, ip)";
        findings.invalid(place.clone(), "hostname", message);
        return None;
    }
    for (name, _) in record.iter().zip(&columns).filter(|(_, column)| **column == Column::Unknown) {
        findings.note(place.clone(), format!("the column '{}' is not known and is left out", word(name)));
    }
    Some(columns)
}

fn server(columns: &[Column], record: &csv::StringRecord) -> Result<Candidate, (&'static str, String)> {
    let mut candidate = Candidate::default();
    let number = |field: &'static str, value: &str| {
        value.parse::<u64>().map_err(|_| (field, format!("'{}' is not a number", word(value))))
    };
    for (column, value) in columns.iter().zip(record.iter()).filter(|(_, value)| !value.is_empty()) {
        let text = || Some(value.to_owned());
        match column {
            Column::Name => candidate.name = text(),
            Column::Host => {
                let found = address::parse(value).map_err(|why| ("hostname", why))?;
                candidate.host = found.host;
                candidate.port = candidate.port.or(found.port);
                candidate.user = candidate.user.take().or(found.user);
            }
            Column::Port => {
                let port = value.parse().map_err(|_| {
                    ("port", format!("'{}' is not a port: use a number from 1 to 65535", word(value)))
                })?;
                candidate.port = Some(port);
            }
            Column::User => candidate.user = text(),
            Column::Tags => {
                let tags = value.split([',', ';', '|', ' ']).filter(|tag| !tag.is_empty());
                candidate.tags.extend(tags.map(str::to_owned));
            }
            Column::Region => candidate.region = text(),
            Column::Environment => candidate.environment = text(),
            Column::Description => value.clone_into(&mut candidate.description),
            Column::Identity => candidate.identities.extend(text()),
            Column::Jump => candidate.jump = address::parse_hops(value).map_err(|why| ("jump", why))?,
            Column::Proxy => candidate.proxy = text(),
            Column::Alias => candidate.host_key_alias = text(),
            Column::ConnectTimeoutMs => {
                candidate.connect_timeout_ms = Some(number("connect_timeout_ms", value)?);
            }
            Column::IntervalMs => candidate.interval_ms = Some(number("interval_ms", value)?),
            Column::Metadata(key) => {
                candidate.metadata.insert(key.clone(), value.to_owned());
            }
            Column::Transport | Column::Unknown => {}
        }
    }
    if candidate.host.is_empty() {
        return Err(("hostname", "the address is missing".to_owned()));
    }
    Ok(candidate)
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

    fn server_of(found: &Found) -> &Candidate {
        match found {
            Found::Server(candidate) => candidate,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn columns_are_found_by_name_whatever_separates_them() {
        for text in [
            "Name,Host,Port,User,Tags,metadata.Owner\nweb,10.0.0.1,2222,joe,\"a,b\",ops\n",
            "name;hostname;port;username;tags;metadata.Owner\nweb;10.0.0.1;2222;joe;\"a,b\";ops\n",
            "name\tip\tssh-port\tssh user\tgroups\tmeta.Owner\nweb\t10.0.0.1\t2222\tjoe\ta|b\tops\n",
        ] {
            let found = read_all(text);
            assert_eq!(found.len(), 1, "{found:?}");
            let server = server_of(&found[0].1);
            assert_eq!(found[0].0, 2);
            assert_eq!((server.name.as_deref(), server.host.as_str()), (Some("web"), "10.0.0.1"));
            assert_eq!((server.port, server.user.as_deref()), (Some(2222), Some("joe")));
            assert_eq!(server.tags, ["a", "b"]);
            assert_eq!(server.metadata.get("Owner").map(String::as_str), Some("ops"));
        }
    }

    #[test]
    fn a_quoted_value_may_have_lines_and_the_line_numbers_stay_true() {
        let found = read_all(
            "host,description\nweb,\"one\ntwo \"\"three\"\"\"\n\ndb:0,x\nx,y,z\n,only a description\n",
        );
        assert_eq!(server_of(&found[0].1).description, "one\ntwo \"three\"");
        let lines: Vec<u32> = found.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 5, 6, 7]);
        let is_invalid = |index: usize, name: &str| matches!(&found[index].1, Found::Invalid { field, .. } if field == name);
        assert!(is_invalid(1, "hostname") && is_invalid(2, "line") && is_invalid(3, "hostname"), "{found:?}");
    }

    #[test]
    fn a_table_without_an_address_column_is_refused_and_unknown_columns_are_named() {
        assert!(
            matches!(&read_all("name,port\nweb,22\n")[0].1, Found::Invalid { field, .. } if field == "hostname")
        );
        let found = read_all("host,transport\nweb,ssh\napi,http\n");
        assert!(
            matches!(&found[1].1, Found::Unsupported { what } if what.contains("add --http")),
            "{found:?}"
        );
        let found = read_all("host,colour\nweb,red\n");
        assert!(matches!(&found[0].1, Found::Note { text } if text.contains("colour")), "{found:?}");
        assert_eq!(server_of(&found[1].1).host, "web");
    }
}
