//! `host-keys`: what servers proved to be; `known-hosts`: lines of known_hosts files that are taken in.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, segment};
use super::error::CliError;
use super::machine::confirmed;
use super::output::{Output, ago, text, text_or_unknown};

const HOST_KEYS: &str = "/api/v1/host-keys";
/// Larger files are no known_hosts of a person.
const FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Sent at once; a request takes 1 MiB, and JSON makes the text a little longer.
const PART_BYTES: usize = 512 * 1024;

#[derive(Debug, Args)]
pub struct HostKeys {
    #[command(subcommand)]
    command: Option<HostKeyCommand>,
    /// Only those that a person should look at: changed, unapproved, revoked, weak, shared
    #[arg(long)]
    attention: bool,
}

#[derive(Debug, Subcommand)]
pub enum HostKeyCommand {
    /// Approve the key that a server shows now, new or changed
    Approve {
        /// Name or id of the server
        name: String,
        /// The fingerprint that the server itself says, SHA256:…; without it you are asked
        #[arg(long, value_name = "SHA256:…")]
        fingerprint: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum KnownHostsCommand {
    /// Take in a known_hosts file and say what became of each line
    Import {
        /// The file; - is standard input
        file: PathBuf,
        /// Only say what would become of each line
        #[arg(long)]
        dry_run: bool,
    },
    /// List the lines that were taken in
    List,
    /// Forget a line
    Remove {
        /// Id of the line, as 'known-hosts list' shows it
        id: String,
    },
}

impl HostKeys {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        match self.command {
            Some(HostKeyCommand::Approve { name, fingerprint }) => {
                approve(client, output, &name, fingerprint.as_deref()).await
            }
            None => list(client, output, self.attention).await,
        }
    }
}

async fn list(client: &Client, output: &Output, attention: bool) -> Result<(), CliError> {
    let query: &[(&str, &str)] = if attention { &[("attention", "true")] } else { &[] };
    let rows = client.all(HOST_KEYS, query).await?;
    if output.json {
        return output.value(&Value::Array(rows));
    }
    let table = rows
        .iter()
        .map(|row| {
            let key =
                [row.get("host_key"), row.get("offered")].into_iter().flatten().find(|key| key.is_object());
            let of_key = |name: &str| key.map_or_else(String::new, |key| text(key, name).to_owned());
            let mut remarks = words(row, "weaknesses");
            let shared = words(row, "shared_with");
            if !shared.is_empty() {
                remarks.push(format!("same key as {}", shared.join(", ")));
            }
            vec![
                text(row, "server_name").to_owned(),
                text(row, "state").to_owned(),
                of_key("algorithm"),
                of_key("fingerprint"),
                text_or_unknown(row, "cipher"),
                remarks.join(" "),
            ]
        })
        .collect();
    output.table(&["SERVER", "STATE", "ALGORITHM", "FINGERPRINT", "CIPHER", "LOOK AT"], &[], table)
}

fn words(object: &Value, name: &str) -> Vec<String> {
    let items = object.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

async fn approve(
    client: &Client,
    output: &Output,
    name: &str,
    fingerprint: Option<&str>,
) -> Result<(), CliError> {
    let path = format!("/api/v1/fleet/servers/{}", segment(name)?);
    let server = client.get(&path).await?;
    let (line, shown) = (text(&server, "offered_host_key"), text(&server, "offered_host_key_fingerprint"));
    if line.is_empty() {
        return Err(CliError::failed(format!("{name} shows no key that waits for approval")));
    }
    match fingerprint {
        Some(expected) if expected == shown => {}
        Some(_) => {
            return Err(CliError::failed(format!(
                "{name} shows {shown}, not that fingerprint; nothing was approved"
            )));
        }
        None if output.interactive => {
            let before = text(&server, "host_key_fingerprint");
            if !before.is_empty() {
                output.remark(&format!("Approved before: {before}"))?;
            }
            output.remark(&format!("Shown now:       {shown}"))?;
            output.remark("Compare it with what the server itself says: for f in /etc/ssh/ssh_host_*_key.pub; do ssh-keygen -lf $f; done")?;
            if !confirmed("Is it the same key? [yes/no]")? {
                return Err(CliError::failed("the host key was not approved; nothing was changed"));
            }
        }
        None => {
            return Err(CliError::usage(
                "name the key with --fingerprint SHA256:… where nobody can be asked",
            ));
        }
    }
    let approved = client.post(&format!("{path}/host-key"), &json!({ "host_key": line })).await?;
    if output.json { output.value(&approved) } else { output.line(&format!("Approved {shown} for {name}.")) }
}

impl KnownHostsCommand {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<ExitCode, CliError> {
        match self {
            Self::Import { file, dry_run } => return import(client, output, &file, dry_run).await,
            Self::List => {
                let lines = client.all(&format!("{HOST_KEYS}/known"), &[]).await?;
                if output.json {
                    output.value(&Value::Array(lines))?;
                    return Ok(ExitCode::SUCCESS);
                }
                let rows = lines.iter().map(|line| {
                    let mut row: Vec<String> = ["id", "marker", "hosts", "algorithm", "fingerprint"]
                        .iter()
                        .map(|name| text(line, name).to_owned())
                        .collect();
                    row.push(ago(text(line, "created_at")));
                    row
                });
                output.table(
                    &["ID", "MARKER", "HOSTS", "ALGORITHM", "FINGERPRINT", "WHEN"],
                    &[],
                    rows.collect(),
                )?;
            }
            Self::Remove { id } => {
                client.delete(&format!("{HOST_KEYS}/known/{}", segment(&id)?)).await?;
                if output.json {
                    output.value(&json!({ "removed": id }))?;
                } else {
                    output.line(&format!("Removed {id}."))?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn read(path: &Path) -> Result<String, CliError> {
    let failed = |cause: String| CliError::failed(format!("cannot read {}: {cause}", path.display()));
    let source: Box<dyn std::io::Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(|error| failed(error.to_string()))?)
    };
    let mut bytes = Vec::new();
    source.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(failed("it is larger than 64 MiB".to_owned()));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whole lines, each part with the number of lines before it.
fn parts(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        match found.last_mut() {
            Some((_, part)) if part.len() + line.len() < PART_BYTES => {
                part.push_str(line);
                part.push('\n');
            }
            _ => found.push((at, format!("{line}\n"))),
        }
    }
    found.retain(|(_, part)| {
        part.lines().any(|line| !matches!(line.trim().as_bytes().first(), None | Some(b'#')))
    });
    found
}

/// Succeeds when every line could be read and none contradicts an approved key.
async fn import(client: &Client, output: &Output, file: &Path, dry_run: bool) -> Result<ExitCode, CliError> {
    let parts = parts(&read(file)?);
    if parts.is_empty() {
        return Err(CliError::failed(format!(
            "there is no line of a known_hosts file in {}",
            file.display()
        )));
    }
    let mut lines = Vec::new();
    for (before, part) in parts {
        let body = json!({ "text": part, "dry_run": dry_run });
        let mut report = client.post(&format!("{HOST_KEYS}/import"), &body).await?;
        for line in report.get_mut("lines").and_then(Value::as_array_mut).into_iter().flatten() {
            let number = line.get("line").and_then(Value::as_u64).unwrap_or_default();
            if let Some(members) = line.as_object_mut() {
                members.insert("line".to_owned(), json!(number + before as u64));
            }
            lines.push(line.take());
        }
    }
    let count = |outcome: &str| lines.iter().filter(|line| text(line, "outcome") == outcome).count();
    let (conflicts, unreadable) = (count("conflict"), count("unreadable"));
    if output.json {
        output.value(&json!({
            "dry_run": dry_run, "added": count("added"), "already_there": count("already_there"),
            "approved": count("approved"), "conflicts": conflicts, "unreadable": unreadable, "lines": lines,
        }))?;
    } else {
        for line in &lines {
            let marker = text(line, "marker");
            let marker = if marker.is_empty() { String::new() } else { format!("@{marker} ") };
            let number = line.get("line").and_then(Value::as_u64).unwrap_or_default();
            let outcome = text(line, "outcome").replace('_', " ");
            output.line(&format!(
                "line {number}: {outcome}: {marker}{} {}; {}",
                text(line, "hosts"),
                text(line, "fingerprint"),
                text(line, "detail")
            ))?;
        }
        let verb = if dry_run { "would be added" } else { "added" };
        output.remark(&format!(
            "{} {verb}, {} there already, {} approved, {conflicts} in conflict, {unreadable} not readable.",
            count("added"),
            count("already_there"),
            count("approved"),
        ))?;
    }
    Ok(if conflicts + unreadable == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_file_is_sent_in_whole_lines_with_their_numbers() {
        let line = format!("host ssh-ed25519 {}", "A".repeat(1000));
        let text = format!("{line}\n").repeat(1200);
        let parts = parts(&text);
        assert!(parts.len() > 2 && parts.iter().all(|(_, part)| part.len() <= PART_BYTES));
        let lines: usize = parts.iter().map(|(_, part)| part.lines().count()).sum();
        assert_eq!(lines, 1200);
        assert_eq!(parts[1].0, parts[0].1.lines().count());
        assert!(super::parts("# only\n\n").is_empty());
    }
}
