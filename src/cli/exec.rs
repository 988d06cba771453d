//! `exec`: one command on one or many servers, by a Roundsman or straight over SSH.
//!
//! For one server its output and exit status are those of the command, as with ssh. For several, equal outputs
//! are shown once, and the status is 0 when all succeeded, 1 when some did, 2 when none did.

use std::io::Read as _;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value, json};

use super::alone::{Alone, Job};
use super::answers::Look;
use super::client::Client;
use super::error::CliError;
use super::follow::{OnInterrupt, carry_out};
use super::operations::OPERATIONS;
use super::output::{Output, text};
use super::parameters::Environment;
use super::rolling::Rolling;
use super::selection::Selection;
use crate::actions::STDIN_LIMIT_BYTES;
use crate::config::parse_interval;
use crate::model::Selector;

#[derive(Debug, Args)]
pub struct Exec {
    /// Names or ids of the servers; with --hosts or --ssh-config, hosts
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Only say what would be sent where
    #[arg(long)]
    dry_run: bool,
    /// Run as root with sudo; it gets the password that is kept for the server, or must not ask
    #[arg(long)]
    sudo: bool,
    /// Run as this user
    #[arg(long, value_name = "USER")]
    run_as: Option<String>,
    #[command(flatten)]
    environment: Environment,
    /// Run inside this container, which is Docker's unless podman: stands before its name
    #[arg(long, value_name = "[ENGINE:]NAME")]
    container: Option<String>,
    /// Give the command what stands on roundsman's own standard input, up to 256 KiB
    #[arg(long)]
    stdin: bool,
    /// Let it go on when the connection is lost or Roundsman restarts
    #[arg(long, visible_alias = "detached")]
    detach: bool,
    /// What to call it in lists and records
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// End the command after this time, 1s to 1h
    #[arg(long, value_name = "TIME", default_value = "60s")]
    timeout: String,
    #[command(flatten)]
    look: Look,
    /// The command; several words are joined by blanks, as ssh does
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    alone: Alone,
    #[command(flatten)]
    rolling: Rolling,
}

impl Exec {
    /// Whether no Roundsman is needed.
    pub(super) const fn is_alone(&self) -> bool {
        self.alone.is_meant()
    }

    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<ExitCode, CliError> {
        let mut selector = self.selection.selector();
        selector.servers.extend(self.names.iter().cloned());
        if selector.is_empty() {
            return Err(CliError::usage(
                "name servers, or choose them with --server, --tag, --region, … or --all; \
                 --hosts and --ssh-config go without a Roundsman",
            ));
        }
        let body = json!({
            "operation_type": "run_command",
            "filter_criteria": selector,
            "strategy": self.rolling.strategy()?,
            "parameters": self.parameters()?,
            "dry_run": self.dry_run,
        });
        if self.dry_run {
            return show_plan(&client.post(OPERATIONS, &body).await?, output);
        }
        self.selection.announce(client, output).await?;
        let on_interrupt = if self.detach { OnInterrupt::Leave } else { OnInterrupt::Cancel };
        carry_out(client, &body, on_interrupt, self.look, output).await
    }

    /// Straight to hosts, without a Roundsman.
    pub(super) async fn run_alone(self, output: &Output) -> Result<ExitCode, CliError> {
        let selector = self.selection.selector();
        if !(Selector { all: false, ..selector.clone() }).is_empty() {
            return Err(CliError::usage(
                "--server, --group, --tag and the like choose among the servers of a Roundsman; \
                 leave them out, or --hosts and --ssh-config",
            ));
        }
        if self.detach {
            return Err(CliError::usage(
                "--detach needs a Roundsman, which looks for the command later on; leave out --hosts and --ssh-config",
            ));
        }
        let job = Job {
            parameters: self.parameters()?,
            strategy: self.rolling.strategy()?,
            words: self.names,
            all: selector.all,
            look: self.look,
            dry_run: self.dry_run,
        };
        self.alone.run(job, output).await
    }
}

impl Exec {
    /// Those of `run_command`.
    fn parameters(&self) -> Result<Map<String, Value>, CliError> {
        let timeout = parse_interval(&self.timeout).map_err(CliError::usage)?;
        let mut parameters = Map::new();
        let mut set = |name: &str, value: Value| {
            parameters.insert(name.to_owned(), value);
        };
        set("command", json!(self.command.join(" ")));
        set("sudo", json!(self.sudo));
        set("timeout_s", json!(timeout.as_secs().max(1)));
        for (name, value) in [("run_as", &self.run_as), ("label", &self.label)] {
            if let Some(value) = value {
                set(name, json!(value));
            }
        }
        if self.detach {
            set("detached", json!(true));
        }
        if let Some(name) = &self.container {
            set("container", container(name));
        }
        if self.stdin {
            set("stdin", json!(own_input()?));
        }
        self.environment.add_to(&mut parameters)?;
        Ok(parameters)
    }
}

/// `[ENGINE:]NAME` in the words of the API.
pub(super) fn container(text: &str) -> Value {
    let (engine, name) = text.split_once(':').unwrap_or(("docker", text));
    json!({ "engine": engine, "name": name })
}

/// What would be sent where, and how many go together.
pub(super) fn show_plan(plan: &Value, output: &Output) -> Result<ExitCode, CliError> {
    if output.json {
        output.value(plan)?;
        return Ok(ExitCode::SUCCESS);
    }
    let targets = plan.get("targets").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let sizes = plan.get("batches").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut batches = (1_usize..).zip(sizes).flat_map(|(number, size)| {
        std::iter::repeat_n(number, size.as_u64().and_then(|n| n.try_into().ok()).unwrap_or(0))
    });
    let rows = targets
        .iter()
        .map(|target| {
            let batch = batches.next().map_or_else(String::new, |number| number.to_string());
            let error = text(target, "error");
            let what = if error.is_empty() {
                text(target, "command").to_owned()
            } else {
                format!("cannot: {error}")
            };
            vec![batch, text(target, "server_name").to_owned(), what]
        })
        .collect();
    output.table(&["BATCH", "SERVER", "WOULD BE SENT"], &[0], rows)?;
    Ok(ExitCode::SUCCESS)
}

/// All of our own standard input, as text.
fn own_input() -> Result<String, CliError> {
    let mut text = String::new();
    let limit = u64::try_from(STDIN_LIMIT_BYTES).unwrap_or(u64::MAX);
    std::io::stdin().take(limit + 1).read_to_string(&mut text)?;
    if text.len() > STDIN_LIMIT_BYTES {
        return Err(CliError::usage(format!(
            "--stdin: more than {STDIN_LIMIT_BYTES} bytes; upload a file instead"
        )));
    }
    Ok(text)
}
