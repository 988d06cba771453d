//! `import`: reads a list of servers with the rights of whoever runs it (Include, group_vars, keys), and sends what it found.

pub(super) mod files;
mod report;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use super::client::{Client, segment};
use super::error::CliError;
use super::machine::small_file;
use super::output::{Output, text};
use super::{known_hosts, private_key};
use crate::fleet::import::{Candidate, Entry, Format, Found, read};
use files::{KeyFile, Machine};

/// How often the progress is asked for.
const ASK_EVERY: Duration = Duration::from_millis(300);

#[derive(Debug, Args)]
#[command(
    after_help = "Formats are found out by themselves: the client configuration of OpenSSH, Ansible inventories (INI, YAML), \
    CSV, JSON, lines like 'root@10.0.0.5:22 name=web tags=a,b'.\n\
    Without --accept-new, a server is added when its host key stands in ~/.ssh/known_hosts.\n\
    Exit codes: 0 every server is added, 1 some could not be or a line is wrong, 2 wrong use, 3 no Roundsman reached."
)]
pub struct Import {
    /// File with the list; - is standard input
    #[arg(value_name = "FILE", required_unless_present = "ssh_config", conflicts_with = "ssh_config")]
    file: Option<PathBuf>,
    /// Read the client configuration of OpenSSH, with what it includes [default: ~/.ssh/config]
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "~/.ssh/config")]
    ssh_config: Option<PathBuf>,
    /// auto, ssh_config, ansible_ini, ansible_yaml, csv, json or lines
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    format: String,
    /// Only show what would become of each line
    #[arg(long)]
    dry_run: bool,
    /// Leave out lines that cannot be imported instead of adding nothing
    #[arg(long)]
    skip_invalid: bool,
    /// Approve whatever host keys the servers show now; only where nobody can stand between
    #[arg(long)]
    accept_new: bool,
    /// Store servers that cannot be reached now, or whose host key is not approved yet
    #[arg(long)]
    unchecked: bool,
    /// Tag for every server; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// File whose first line is the passphrase of the private keys, where they have one
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl Import {
    pub(super) async fn run(self: Box<Self>, client: &Client, output: &Output) -> Result<ExitCode, CliError> {
        let machine = Machine::new(self.path());
        let (format, mut entries) = self.read(&machine)?;
        let keys = bring_keys(&mut entries, &machine);
        let mut body = self.body(format, &entries, &keys, &machine);
        body.insert("dry_run".to_owned(), json!(true));
        let report = post(client, &body).await?;
        let is_clean = report.get("is_clean").and_then(Value::as_bool).unwrap_or_default();
        if self.dry_run || (!is_clean && !self.skip_invalid) {
            return self.show(&report, is_clean, output);
        }
        report::problems(&report, output)?;
        if report::count(&report, "add") == 0 {
            if output.json {
                output.value(&report)?;
            } else {
                output.line(&report::summary(&report))?;
            }
            return Ok(ExitCode::from(u8::from(!is_clean)));
        }
        body.insert("dry_run".to_owned(), json!(false));
        body.insert("skip_invalid".to_owned(), json!(self.skip_invalid));
        body.insert("accept_new".to_owned(), json!(self.accept_new));
        body.insert("unchecked".to_owned(), json!(self.unchecked));
        body.insert("keys".to_owned(), self.read_keys(&report, output)?);
        if let Some(lines) = known_hosts::lines_for_all(&names_in_known_hosts(&report)) {
            body.insert("known_hosts".to_owned(), json!(lines));
        }
        let begun = post(client, &body).await?;
        follow(client, text(&begun, "id"), is_clean, output).await
    }

    /// The file that is read. None: standard input.
    fn path(&self) -> Option<&Path> {
        self.ssh_config.as_deref().or(self.file.as_deref()).filter(|path| *path != Path::new("-"))
    }

    fn read(&self, machine: &Machine) -> Result<(Format, Vec<Entry>), CliError> {
        let format = Format::parse(&self.format).map_err(|error| CliError::usage(error.to_string()))?;
        let format = if self.ssh_config.is_some() { Some(Format::SshConfig) } else { format };
        let format = format.or_else(|| self.path().and_then(files::format_by_name));
        let text = machine.text(self.path()).map_err(CliError::failed)?;
        Ok(read(&text, format, Some(machine)))
    }

    fn body(
        &self,
        format: Format,
        entries: &[Entry],
        keys: &[String],
        machine: &Machine,
    ) -> Map<String, Value> {
        let mut body = Map::new();
        body.insert("format".to_owned(), json!(format.name()));
        body.insert("entries".to_owned(), json!(entries));
        body.insert("tags".to_owned(), json!(self.tags));
        let keys: Vec<Value> = keys.iter().map(|path| json!({ "source_path": path })).collect();
        body.insert("keys".to_owned(), json!(keys));
        // Ansible leaves the user to ssh, and ssh takes the one who asks.
        if matches!(format, Format::AnsibleIni | Format::AnsibleYaml) {
            body.insert("username".to_owned(), json!(machine.user()));
        }
        body
    }

    fn show(&self, report: &Value, is_clean: bool, output: &Output) -> Result<ExitCode, CliError> {
        if output.json {
            output.value(report)?;
        } else {
            report::table(report, output)?;
            output.line(&report::summary(report))?;
        }
        if self.dry_run || is_clean {
            return Ok(ExitCode::from(u8::from(!is_clean)));
        }
        Err(CliError::failed("nothing was added; put the lines right, or leave them out with --skip-invalid"))
    }

    /// The private keys that servers to be added need, each read once.
    fn read_keys(&self, report: &Value, output: &Output) -> Result<Value, CliError> {
        let mut keys = Vec::new();
        for path in report::keys(report) {
            match private_key::read(Path::new(&path), self.passphrase_file.as_deref(), output) {
                Ok(key) => keys.push(json!({
                    "source_path": path,
                    "private_key": key.text.expose(),
                    "passphrase": key.passphrase.map(|passphrase| passphrase.expose().clone()),
                    "certificate": certificate(report, &path, output)?,
                })),
                // Its servers then say that Roundsman keeps no such key.
                Err(error) if self.skip_invalid => output.remark(&format!("{path}: {error}"))?,
                Err(error) => return Err(error),
            }
        }
        Ok(json!(keys))
    }
}

/// The certificate that servers name for a key, if it can be read.
fn certificate(report: &Value, key: &str, output: &Output) -> Result<Option<String>, CliError> {
    let Some(path) = report::certificate_of(report, key) else { return Ok(None) };
    match small_file(Path::new(&path)) {
        Ok(text) => Ok(Some(text.expose().trim().to_owned())),
        Err(error) => {
            output.remark(&format!("{error}; the key is offered alone"))?;
            Ok(None)
        }
    }
}

async fn post(client: &Client, body: &Map<String, Value>) -> Result<Value, CliError> {
    client.post("/api/v1/import", &Value::Object(body.clone())).await
}

/// For each server the first of its keys that is there; answers the paths of all of them. Where only the public half is
/// there, an ssh-agent signs, as in OpenSSH.
fn bring_keys(entries: &mut [Entry], machine: &Machine) -> Vec<String> {
    let mut paths = Vec::new();
    let mut bring =
        |candidate: &mut Candidate| match candidate.identities.iter().find_map(|path| machine.key(path)) {
            Some(KeyFile::Private(path)) => {
                if candidate.certificate.is_none() {
                    candidate.certificate = machine.certificate_beside(&path);
                }
                if !paths.contains(&path) {
                    paths.push(path.clone());
                }
                candidate.identities = vec![path];
            }
            Some(KeyFile::Public(line)) => candidate.agent_key = Some(line),
            None => {}
        };
    for entry in entries {
        if let Found::Server(candidate) = &mut entry.found {
            bring(candidate);
            candidate.jump.iter_mut().for_each(&mut bring);
        }
    }
    paths
}

/// What known_hosts may call the servers that are to be added.
fn names_in_known_hosts(report: &Value) -> HashSet<String> {
    let servers = report::additions(report);
    let names = servers.flat_map(|server| [text(server, "hostname"), text(server, "host_key_alias")]);
    names.filter(|name| !name.is_empty()).map(str::to_lowercase).collect()
}

/// Tells of each server as it is done, until the last.
async fn follow(client: &Client, id: &str, is_clean: bool, output: &Output) -> Result<ExitCode, CliError> {
    let path = format!("/api/v1/import/{}", segment(id)?);
    let mut told = HashSet::new();
    let progress = loop {
        let progress = client.get(&path).await?;
        if !output.json {
            report::tell(&progress, &mut told, output)?;
        }
        if text(&progress, "state") != "running" {
            break progress;
        }
        tokio::time::sleep(ASK_EVERY).await;
    };
    let failed = report::count_of(&progress, "failed");
    let is_whole = text(&progress, "state") == "completed";
    if output.json {
        output.value(&progress)?;
    } else {
        output.line(&report::result(&progress))?;
    }
    Ok(ExitCode::from(u8::from(failed > 0 || !is_whole || !is_clean)))
}
