//! `op`: which operations there are, what became of one, and a word with one that runs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::answers::{Look, exit_code, of_several, results, show_all};
use super::client::{Client, segment};
use super::error::CliError;
use super::follow::{OnInterrupt, follow};
use super::output::{Output, ago, text, text_or_unknown};
use crate::model::TargetStatus;

pub(super) const OPERATIONS: &str = "/api/v1/fleet/operations";

/// Which operations are listed; everything that is given has to hold.
#[derive(Debug, Args)]
pub struct Found {
    /// Any of these: pending, running, completed, failed, partial, cancelled
    #[arg(long, value_name = "STATUS,…")]
    status: Option<String>,
    /// Any of these: run_command, restart_service, …
    #[arg(long, value_name = "ACTION,…")]
    action: Option<String>,
    /// With this server among its targets; of one that was removed, its id
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// Begun by this one, as the list names them
    #[arg(long, value_name = "WHO")]
    by: Option<String>,
    /// Begun at or after this: 2026-01-31T08:00:00Z or Unix time
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Begun before this
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
}

impl Found {
    fn query(&self) -> Vec<(&'static str, &str)> {
        [
            ("status", &self.status),
            ("action", &self.action),
            ("server", &self.server),
            ("initiated_by", &self.by),
            ("from", &self.from),
            ("to", &self.to),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_deref()?)))
        .collect()
    }
}

/// What became of operations.
#[derive(Debug, Subcommand)]
pub enum OperationCommand {
    /// List operations, newest first
    List(Found),
    /// Show one operation with the result of each server
    Show {
        /// Id of the operation
        id: String,
        /// Wait for its end first
        #[arg(long)]
        follow: bool,
        #[command(flatten)]
        look: Look,
    },
    /// Fetch the archives that collect_diagnostics made, as SERVER.tar.gz
    Diagnostics {
        /// Id of the operation
        id: String,
        /// Where to
        #[arg(value_name = "DIR", default_value = ".")]
        folder: PathBuf,
    },
    /// Send nothing more and end what runs
    Cancel {
        /// Id of the operation
        id: String,
    },
    /// Send nothing more until it is resumed; what runs goes on
    Pause {
        /// Id of the operation
        id: String,
    },
    /// Go on with a paused operation; of an ended one, begin anew with what was never sent
    Resume {
        #[command(flatten)]
        again: Again,
    },
    /// Do it again on the servers where it failed, or that were unreachable or unknown
    Retry {
        #[command(flatten)]
        again: Again,
        /// Only those in one of these states: failed, unreachable, unknown, cancelled, skipped, succeeded
        #[arg(long, value_name = "STATE,…", value_delimiter = ',')]
        only: Vec<TargetStatus>,
        /// Only these of its servers; without --only whatever became of them
        #[arg(long = "server", value_name = "NAME,…", value_delimiter = ',')]
        servers: Vec<String>,
    },
}

/// An operation that is done again, as a new one.
#[derive(Debug, Args)]
pub struct Again {
    /// Id of the operation
    id: String,
    /// Do not wait for the end of the new operation; print its id
    #[arg(long)]
    no_wait: bool,
}

impl OperationCommand {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<ExitCode, CliError> {
        match self {
            Self::List(found) => found.show(client, output).await?,
            Self::Show { id, follow, look } => show(&id, follow, look, client, output).await?,
            Self::Diagnostics { id, folder } => return diagnostics(&id, &folder, client, output).await,
            Self::Cancel { id } => {
                change(client, output, &id, "cancel", "The operation is being cancelled.").await?;
            }
            Self::Pause { id } => {
                change(client, output, &id, "pause", "Nothing more is sent until it is resumed.").await?;
            }
            Self::Resume { again } => return again.run("resume", &json!({}), client, output).await,
            Self::Retry { again, only, servers } => {
                let wanted = json!({ "states": only, "servers": servers });
                return again.run("retry", &wanted, client, output).await;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Found {
    async fn show(&self, client: &Client, output: &Output) -> Result<(), CliError> {
        let items = client.all(OPERATIONS, &self.query()).await?;
        if output.json {
            return output.value(&Value::Array(items));
        }
        let row = |item: &Value| {
            ["id", "title", "status", "total_servers", "initiated_by"]
                .iter()
                .map(|name| text_or_unknown(item, name))
                .chain([ago(text(item, "created_at"))])
                .collect()
        };
        let rows = items.iter().map(row).collect();
        output.table(&["ID", "TITLE", "STATUS", "SERVERS", "BY", "WHEN"], &[3], rows)
    }
}

async fn show(id: &str, waits: bool, look: Look, client: &Client, output: &Output) -> Result<(), CliError> {
    let mut operation = client.get(&format!("{OPERATIONS}/{}", segment(id)?)).await?;
    if waits {
        operation = follow(client, operation, false, OnInterrupt::Leave).await?;
    }
    if output.json {
        return output.value(&operation);
    }
    let retry_of = text(&operation, "retry_of");
    let mut lines = vec![
        ("Operation", text_or_unknown(&operation, "title")),
        ("Status", text_or_unknown(&operation, "status")),
        ("By", text_or_unknown(&operation, "initiated_by")),
        ("Begun", text_or_unknown(&operation, "created_at")),
    ];
    if operation.get("paused").and_then(Value::as_bool) == Some(true) {
        lines.push(("Paused", format!("yes; go on with 'roundsman op resume {id}'")));
    }
    if !retry_of.is_empty() {
        lines.push(("Retry of", retry_of.to_owned()));
    }
    for (title, value) in lines {
        output.line(&format!("{title:<10} {value}"))?;
    }
    show_all(&operation, look, output)
}

/// The archive of each server that has one; the status is 0 when all have, 1 when some, 2 when none.
async fn diagnostics(
    id: &str,
    folder: &Path,
    client: &Client,
    output: &Output,
) -> Result<ExitCode, CliError> {
    let path = format!("{OPERATIONS}/{}", segment(id)?);
    let operation = client.get(&path).await?;
    let failed = |error: std::io::Error| CliError::failed(format!("{}: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let (mut files, mut fetched) = (Vec::new(), Vec::new());
    for result in results(&operation) {
        let name = text(result, "server_name");
        let mut archive = Vec::new();
        let from = format!("{path}/diagnostics/{}", segment(text(result, "server_id"))?);
        let got = client.download(&from, None, &mut archive).await;
        fetched.push(got.is_ok());
        match got {
            // A name has no slash in it, and the ending keeps it from being a directory.
            Ok(()) => {
                let file = folder.join(format!("{name}.tar.gz"));
                std::fs::write(&file, &archive).map_err(failed)?;
                let shown = file.display().to_string();
                if !output.json {
                    output.line(&format!("{name}: {shown}: {} bytes", archive.len()))?;
                }
                files.push(json!({ "server_name": name, "file": shown, "size_bytes": archive.len() }));
            }
            Err(error @ CliError::Refused { .. }) => output.remark(&format!("{name}: {error}"))?,
            Err(error) => return Err(error),
        }
    }
    if output.json {
        output.value(&Value::Array(files))?;
    }
    Ok(of_several(fetched.into_iter()))
}

impl Again {
    /// The status is that of `exec`, where a new operation begins and is waited for.
    async fn run(
        self,
        verb: &str,
        body: &Value,
        client: &Client,
        output: &Output,
    ) -> Result<ExitCode, CliError> {
        let path = format!("{OPERATIONS}/{}/{verb}", segment(&self.id)?);
        let operation = client.post(&path, body).await?;
        let new = text(&operation, "id").to_owned();
        if new == self.id {
            if output.json {
                output.value(&operation)?;
            } else {
                output.remark("It goes on.")?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        if self.no_wait {
            if output.json {
                output.value(&operation)?;
            } else {
                output.line(&new)?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        output.remark(&format!("It begins again, as operation {new}."))?;
        let done = follow(client, operation, false, OnInterrupt::Cancel).await?;
        if output.json {
            output.value(&done)?;
        } else {
            show_all(&done, Look::default(), output)?;
        }
        Ok(exit_code(&done))
    }
}

async fn change(
    client: &Client,
    output: &Output,
    id: &str,
    verb: &str,
    remark: &str,
) -> Result<(), CliError> {
    let operation = client.post(&format!("{OPERATIONS}/{}/{verb}", segment(id)?), &json!({})).await?;
    if output.json { output.value(&operation) } else { output.remark(remark) }
}
