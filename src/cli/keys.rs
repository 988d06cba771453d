//! `key`: the SSH keys that Roundsman keeps. Files are read here, as the user who runs the command; no command prints a
//! private key.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::answers::{Look, show_all};
use super::client::{Client, segment};
use super::connect::{self, NotOpened, StandAlone};
use super::error::CliError;
use super::follow::{OnInterrupt, follow};
use super::machine::{confirmed, small_file};
use super::output::{Output, UNKNOWN, text, text_or_unknown};
use super::{Global, private_key};

const KEYS: &str = "/api/v1/keys";

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List the keys that Roundsman keeps
    List,
    /// Show one key: its public line, where it is used, how a server is told of it
    Show {
        /// Name or id of the key
        name: String,
    },
    /// Make a key
    Create(Create),
    /// Keep a private key, encrypted: OpenSSH, PEM, PKCS#8 or PuTTY
    Import(Import),
    /// Give a key another name
    Rename {
        /// Name or id of the key
        name: String,
        /// The new name
        new_name: String,
    },
    /// Make a key the one of new servers; who used the old default goes on with it
    Default {
        /// Name or id of the key
        name: String,
    },
    /// Attach an OpenSSH user certificate to a key, or remove it
    Certificate(Certificate),
    /// Replace a key by another one on its servers: installed, proven, kept, and only then the old one removed
    Rotate(Rotate),
    /// Forget a key for good; refused while a server uses it
    Delete(Delete),
    /// Replace the master key under which keys and passwords are stored; Roundsman must not be running
    Reseal(Reseal),
}

#[derive(Debug, Args)]
pub struct Create {
    /// Name of the key
    name: String,
    /// What servers before OpenSSH 6.5 want is ecdsa or rsa-4096
    #[arg(long, value_name = "ed25519|ecdsa|rsa-4096", default_value = "ed25519")]
    kind: String,
}

#[derive(Debug, Args)]
pub struct Import {
    /// The private key file; - is standard input
    file: PathBuf,
    /// Name of the key [default: name of the file]
    #[arg(long)]
    name: Option<String>,
    /// File whose first line is the passphrase; - is standard input
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Certificate {
    /// Name or id of the key
    name: String,
    /// The certificate, usually a file that ends in -cert.pub; - is standard input
    #[arg(required_unless_present = "remove")]
    file: Option<PathBuf>,
    /// Offer the key without a certificate from now on
    #[arg(long, conflicts_with = "file")]
    remove: bool,
}

#[derive(Debug, Args)]
pub struct Rotate {
    /// Name or id of the key that goes
    old: String,
    /// Name or id of the key that comes; make it with 'key create' first
    new: String,
    /// Only on this server; may be given several times [default: all that use the old key]
    #[arg(long = "server", value_name = "NAME")]
    servers: Vec<String>,
    /// Only on servers with this tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// Try the old key at the end, which has to be refused; such a login may count for fail2ban
    #[arg(long)]
    verify_old: bool,
    /// Only say what would be sent where
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Reseal {
    /// File with the new master key, 32 bytes in base64, readable for its owner only: (umask 077; head -c 32 /dev/urandom | base64 >FILE)
    #[arg(long, value_name = "FILE")]
    new_master_key_file: PathBuf,
}

impl Reseal {
    pub(super) async fn run(
        self,
        global: &Global,
        stand_alone: &dyn StandAlone,
        output: &Output,
    ) -> Result<(), CliError> {
        let data = connect::data_of(global)?.ok_or_else(|| {
            CliError::usage("the master key is replaced on the machine of the Roundsman itself, with --data")
        })?;
        let shown = data.display();
        if !data.join("roundsman.db").exists() {
            return Err(CliError::Unreachable(format!("there is no data of a Roundsman in {shown}")));
        }
        let (count, in_file) = match stand_alone.reseal(&data, &self.new_master_key_file).await {
            Ok(done) => done,
            Err(NotOpened::Locked) => {
                return Err(CliError::failed(format!(
                    "a Roundsman runs on {shown}; stop it first, then try again"
                )));
            }
            Err(NotOpened::Failed(message)) => return Err(CliError::Failed(message)),
        };
        if output.json {
            return output.value(&json!({ "resealed": count }));
        }
        output.line(&format!("{count} secrets are sealed with the new master key."))?;
        output.remark(if in_file {
            "It stands in master.key of the data directory now. Keep a copy apart from it; backups from before open with the old key only."
        } else {
            "Give it to Roundsman in place of the old one (ROUNDSMAN_MASTER_KEY) before the next start; backups from before open with the old key only."
        })
    }
}

#[derive(Debug, Args)]
pub struct Delete {
    /// Name or id of the key
    name: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl KeyCommand {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<ExitCode, CliError> {
        let done = match self {
            Self::Rotate(command) => return command.run(client, output).await,
            Self::List => list(client, output).await,
            Self::Show { name } => show(client, output, &name).await,
            Self::Create(command) => {
                let body = json!({ "name": command.name, "kind": command.kind });
                made(&client.post(KEYS, &body).await?, output, "Made")
            }
            Self::Import(command) => command.run(client, output).await,
            Self::Rename { name, new_name } => {
                let key = client.patch(&path(&name)?, &json!({ "name": new_name })).await?;
                said(&key, output, &format!("It is called {} now.", text(&key, "name")))
            }
            Self::Default { name } => {
                let key = client.patch(&path(&name)?, &json!({ "is_default": true })).await?;
                said(&key, output, &format!("New servers use {} from now on.", text(&key, "name")))
            }
            Self::Certificate(command) => command.run(client, output).await,
            Self::Delete(command) => command.run(client, output).await,
            // Done before anybody is connected to.
            Self::Reseal(_) => Ok(()),
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}

impl Rotate {
    async fn run(self, client: &Client, output: &Output) -> Result<ExitCode, CliError> {
        let body = json!({
            "to": self.new, "servers": self.servers, "tag": self.tag, "verify_old": self.verify_old,
            "dry_run": self.dry_run,
        });
        let begun = client.post(&format!("{}/rotate", path(&self.old)?), &body).await?;
        if self.dry_run {
            return dry_run(&begun, output).map(|()| ExitCode::SUCCESS);
        }
        let done = follow(client, begun, false, OnInterrupt::Cancel).await?;
        if output.json {
            output.value(&done)?;
        } else {
            show_all(&done, Look::EACH, output)?;
        }
        let completed = text(&done, "status") == "completed";
        Ok(if completed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn dry_run(planned: &Value, output: &Output) -> Result<(), CliError> {
    if output.json {
        return output.value(planned);
    }
    for target in planned.get("targets").and_then(Value::as_array).into_iter().flatten() {
        let reason = text(target, "error");
        let what = if reason.is_empty() { "would get the new key" } else { reason };
        output.line(&format!("{}: {what}", text(target, "server_name")))?;
    }
    Ok(())
}

fn path(name: &str) -> Result<String, CliError> {
    Ok(format!("{KEYS}/{}", segment(name)?))
}

fn said(key: &Value, output: &Output, sentence: &str) -> Result<(), CliError> {
    if output.json { output.value(key) } else { output.line(sentence) }
}

/// The public line is what goes on: scripts take it with $(…).
fn made(key: &Value, output: &Output, verb: &str) -> Result<(), CliError> {
    if output.json {
        return output.value(key);
    }
    output.remark(&format!("{verb} {}, {}.", text(key, "name"), text(key, "fingerprint")))?;
    warn(key, output)?;
    output.line(text(key, "public_key"))
}

fn warn(key: &Value, output: &Output) -> Result<(), CliError> {
    let weakness = text(key, "weakness");
    if weakness.is_empty() { Ok(()) } else { output.remark(&format!("Weak: {weakness}.")) }
}

async fn list(client: &Client, output: &Output) -> Result<(), CliError> {
    let keys = client.all(KEYS, &[]).await?;
    if output.json {
        return output.value(&Value::Array(keys));
    }
    let rows = keys
        .iter()
        .map(|key| {
            let is_default = key.get("is_default").and_then(Value::as_bool) == Some(true);
            vec![
                text(key, "name").to_owned(),
                kind_of(key),
                text(key, "fingerprint").to_owned(),
                key.get("logins").and_then(Value::as_u64).map_or(UNKNOWN.to_owned(), |n| n.to_string()),
                key.get("certificate").filter(|certificate| certificate.is_object()).map_or_else(
                    || UNKNOWN.to_owned(),
                    |certificate| text(certificate, "validity").replace('_', " "),
                ),
                if is_default { "default".to_owned() } else { String::new() },
            ]
        })
        .collect();
    output.table(&["NAME", "KIND", "FINGERPRINT", "LOGINS", "CERTIFICATE", ""], &[3], rows)
}

fn kind_of(key: &Value) -> String {
    let algorithm = text_or_unknown(key, "algorithm");
    match key.get("bits").and_then(Value::as_u64) {
        Some(bits) if algorithm == "ssh-rsa" => format!("{algorithm} {bits}"),
        _ => algorithm,
    }
}

async fn show(client: &Client, output: &Output, name: &str) -> Result<(), CliError> {
    let key = client.get(&path(name)?).await?;
    if output.json {
        return output.value(&key);
    }
    let line = |title: &str, value: &str| output.line(&format!("{title:<13} {value}"));
    line("Name", text(&key, "name"))?;
    line("Kind", &kind_of(&key))?;
    line("Fingerprint", text(&key, "fingerprint"))?;
    if let Some(certificate) = key.get("certificate").filter(|certificate| certificate.is_object()) {
        let until = text(certificate, "valid_before");
        let until = if until.is_empty() { "without an end".to_owned() } else { format!("until {until}") };
        let validity = text(certificate, "validity").replace('_', " ");
        line("Certificate", &format!("{}, {until} ({validity})", text(certificate, "key_id")))?;
        line("Principals", &listed(certificate, "principals", Value::as_str))?;
    }
    warn(&key, output)?;
    let uses = listed(&key, "used_by", |of| of.get("server_name")?.as_str());
    line("Used by", if uses.is_empty() { "no server" } else { &uses })?;
    let unfinished = listed(&key, "unfinished", Value::as_str);
    if !unfinished.is_empty() {
        line("Unfinished", &format!("replaced, but not yet removed from {unfinished}"))?;
    }
    line("Public key", text(&key, "public_key"))?;
    line("To install", text(&key, "install_command"))
}

fn listed<'a>(object: &'a Value, name: &str, word: impl Fn(&'a Value) -> Option<&'a str>) -> String {
    let items = object.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut words: Vec<&str> = items.iter().filter_map(word).collect();
    words.dedup();
    words.join(", ")
}

impl Import {
    async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        let key = private_key::read(&self.file, self.passphrase_file.as_deref(), output)?;
        let mut body = Map::new();
        body.insert("private_key".to_owned(), json!(key.text.expose()));
        // Standard input has no place to find it again.
        if self.file.as_os_str() != "-" {
            body.insert("source_path".to_owned(), json!(key.source_path));
        }
        if let Some(name) = &self.name {
            body.insert("name".to_owned(), json!(name));
        }
        if let Some(passphrase) = key.passphrase {
            body.insert("passphrase".to_owned(), json!(passphrase.expose()));
        }
        made(&client.post(&format!("{KEYS}/import"), &Value::Object(body)).await?, output, "Keeping")
    }
}

impl Certificate {
    async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        let path = format!("{}/certificate", path(&self.name)?);
        let Some(file) = &self.file else {
            let key = client.delete_for(&path).await?;
            return said(&key, output, "It is offered without a certificate from now on.");
        };
        let line = small_file(file)?;
        let key = client.put(&path, &json!({ "certificate": line.expose() })).await?;
        let certificate = key.get("certificate").cloned().unwrap_or_default();
        if text(&certificate, "validity") != "valid" {
            output.remark(&format!(
                "Look at its dates: {}.",
                text(&certificate, "validity").replace('_', " ")
            ))?;
        }
        let principals = listed(&certificate, "principals", Value::as_str);
        said(&key, output, &format!("Attached {} for {principals}.", text(&certificate, "key_id")))
    }
}

impl Delete {
    async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        let key = client.get(&path(&self.name)?).await?;
        let (name, id) = (text(&key, "name"), text(&key, "id"));
        if !self.yes {
            if !output.interactive {
                return Err(CliError::usage("say --yes to delete a key where nobody can be asked"));
            }
            output.remark(&format!("{name}, {}, cannot be brought back.", text(&key, "fingerprint")))?;
            if !confirmed("Delete it? [yes/no]")? {
                return Err(CliError::failed("nothing was deleted"));
            }
        }
        client.delete(&path(id)?).await?;
        said(&json!({ "deleted": id }), output, &format!("Deleted {name}."))
    }
}
