//! `metric`: custom metrics, commands whose output is values.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::client::{Client, segment};
use super::error::CliError;
use super::machine::{confirmed, small_file};
use super::output::{Output, UNKNOWN, ago, text};

const METRICS: &str = "/api/v1/custom-metrics";

#[derive(Debug, Subcommand)]
pub enum MetricCommand {
    /// List the custom metrics
    List,
    /// Show one metric: its command, and how it does on each server
    Show {
        /// Name or id of the metric
        name: String,
    },
    /// Define a metric
    Create(Create),
    /// Change a metric; what is not given stays as it is
    Edit(Edit),
    /// Run it from now on
    Enable {
        /// Name or id of the metric
        name: String,
    },
    /// Run it no longer; its history stays
    Disable {
        /// Name or id of the metric
        name: String,
    },
    /// Remove a metric; its history stays
    Delete {
        /// Name or id of the metric
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Run a command once on a server and show what its output means; nothing is kept
    Try(Try),
}

#[derive(Debug, Args)]
pub struct Create {
    /// Name of the metric: lowercase letters, digits and '_'
    name: String,
    #[command(flatten)]
    what: Definition,
}

#[derive(Debug, Args)]
pub struct Edit {
    /// Name or id of the metric
    name: String,
    #[command(flatten)]
    what: Definition,
}

#[derive(Debug, Args)]
pub struct Definition {
    /// POSIX shell text that prints 'name value' lines, Prometheus text, JSON or Nagios performance data
    #[arg(long, value_name = "TEXT", conflicts_with = "command_file")]
    command: Option<String>,
    /// The command from a file, '-' for standard input
    #[arg(long, value_name = "FILE")]
    command_file: Option<std::path::PathBuf>,
    /// What it means, for people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Seconds between two runs, 5 to 86400 [default: 60]
    #[arg(long, value_name = "SECONDS")]
    every: Option<u64>,
    /// Seconds after which the command is ended, 1 to 60 [default: 10]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// As root, through sudo where the login is another
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    sudo: Option<bool>,
    /// On every server, narrowed by tags, groups, regions and environments
    #[arg(long)]
    all: bool,
    /// On this server; may be given several times
    #[arg(long, value_name = "NAME")]
    server: Vec<String>,
    /// On the servers of this group; may be given several times
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// On servers with this tag, with all of them if there are several
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// On servers of this region; may be given several times
    #[arg(long, value_name = "REGION")]
    region: Vec<String>,
    /// On servers of this environment; may be given several times
    #[arg(long, value_name = "ENVIRONMENT")]
    environment: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Try {
    /// Name of the server
    server: String,
    /// POSIX shell text
    command: String,
    /// As root
    #[arg(long)]
    sudo: bool,
    /// Seconds after which the command is ended
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

impl Definition {
    /// What is given, as the API takes it.
    fn body(&self) -> Result<Map<String, Value>, CliError> {
        let mut body = Map::new();
        let command = match (&self.command, &self.command_file) {
            (Some(command), _) => Some(command.clone()),
            (None, Some(file)) => {
                // The largest file that is read is larger than what the server takes, which then says so.
                Some(small_file(file)?.expose().clone())
            }
            (None, None) => None,
        };
        let ms = |seconds: u64| seconds.saturating_mul(1000);
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(name.to_owned(), value);
            }
        };
        set("command", command.map(Value::String));
        set("description", self.description.clone().map(Value::String));
        set("interval_ms", self.every.map(|seconds| json!(ms(seconds))));
        set("timeout_ms", self.timeout.map(|seconds| json!(ms(seconds))));
        set("sudo", self.sudo.map(Value::Bool));
        let lists = [&self.server, &self.group, &self.tag, &self.region, &self.environment];
        if self.all || lists.iter().any(|list| !list.is_empty()) {
            set(
                "selector",
                Some(json!({
                    "all": self.all, "servers": self.server, "groups": self.group, "tags": self.tag,
                    "regions": self.region, "environments": self.environment,
                })),
            );
        }
        Ok(body)
    }
}

fn path(name: &str) -> Result<String, CliError> {
    Ok(format!("{METRICS}/{}", segment(name)?))
}

impl MetricCommand {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        match self {
            Self::List => list(client, output).await,
            Self::Show { name } => show(&name, client, output).await,
            Self::Create(Create { name, what }) => {
                let mut body = what.body()?;
                body.insert("name".to_owned(), Value::String(name));
                let metric = client.post(METRICS, &Value::Object(body)).await?;
                told(&metric, "defined", output)
            }
            Self::Edit(Edit { name, what }) => {
                let metric = client.patch(&path(&name)?, &Value::Object(what.body()?)).await?;
                told(&metric, "changed", output)
            }
            Self::Enable { name } => {
                told(&client.patch(&path(&name)?, &json!({ "enabled": true })).await?, "enabled", output)
            }
            Self::Disable { name } => {
                told(&client.patch(&path(&name)?, &json!({ "enabled": false })).await?, "disabled", output)
            }
            Self::Delete { name, yes } => {
                if !yes && !confirmed(&format!("Remove the metric {name}? [yes/no]"))? {
                    return Ok(());
                }
                client.delete(&path(&name)?).await?;
                if output.json {
                    output.value(&json!({ "removed": name }))
                } else {
                    output.line(&format!("{name} is removed; its history stays."))
                }
            }
            Self::Try(command) => command.run(client, output).await,
        }
    }
}

fn told(metric: &Value, what: &str, output: &Output) -> Result<(), CliError> {
    if output.json {
        return output.value(metric);
    }
    output.line(&format!("{} is {what}.", text(metric, "name")))
}

async fn list(client: &Client, output: &Output) -> Result<(), CliError> {
    let metrics = client.all(METRICS, &[]).await?;
    if output.json {
        return output.value(&Value::Array(metrics));
    }
    let row = |metric: &Value| {
        let enabled = metric.get("enabled").and_then(Value::as_bool) == Some(true);
        vec![
            text(metric, "name").to_owned(),
            if enabled { "enabled" } else { "disabled" }.to_owned(),
            seconds(metric, "interval_ms"),
            text(metric, "command").to_owned(),
        ]
    };
    output.table(&["NAME", "STATE", "EVERY", "COMMAND"], &[], metrics.iter().map(row).collect())
}

fn seconds(metric: &Value, field: &str) -> String {
    let ms = metric.get(field).and_then(Value::as_u64);
    ms.map_or_else(|| UNKNOWN.to_owned(), |ms| format!("{} s", ms / 1000))
}

async fn show(name: &str, client: &Client, output: &Output) -> Result<(), CliError> {
    let metric = client.get(&path(name)?).await?;
    let servers = client.all(&format!("{}/servers", path(name)?), &[]).await?;
    if output.json {
        return output.value(&json!({ "metric": metric, "servers": servers }));
    }
    output.line(&format!(
        "{}: every {}, {}",
        text(&metric, "name"),
        seconds(&metric, "interval_ms"),
        text(&metric, "command")
    ))?;
    let row = |one: &Value| {
        let ran = text(one, "last_run_at");
        let error = text(one, "error");
        let said = if error.is_empty() { values(one) } else { error.to_owned() };
        vec![
            text(one, "server_name").to_owned(),
            if ran.is_empty() { "not yet".to_owned() } else { ago(ran) },
            said,
        ]
    };
    output.table(&["SERVER", "RUN", "VALUES"], &[], servers.iter().map(row).collect())
}

/// `name value, name{label} value`.
fn values(of: &Value) -> String {
    let found = of.get("values").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let one = |value: &Value| {
        let (name, label) = (text(value, "name"), text(value, "label"));
        let number = value.get("value").map(ToString::to_string).unwrap_or_default();
        if label.is_empty() { format!("{name} {number}") } else { format!("{name}{{{label}}} {number}") }
    };
    found.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl Try {
    async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        let mut body = json!({ "server": self.server, "command": self.command, "sudo": self.sudo });
        if let (Some(seconds), Some(members)) = (self.timeout, body.as_object_mut()) {
            members.insert("timeout_ms".to_owned(), json!(seconds.saturating_mul(1000)));
        }
        let trial = client.post(&format!("{METRICS}/try"), &body).await?;
        if output.json {
            return output.value(&trial);
        }
        for (part, stream) in [("stdout", "It printed:"), ("stderr", "It said to standard error:")] {
            let said = text(&trial, part);
            if !said.is_empty() {
                output.remark(&format!("{stream}\n{said}"))?;
            }
        }
        let error = text(&trial, "error");
        if !error.is_empty() {
            return Err(CliError::failed(error.to_owned()));
        }
        let parsed = trial.get("parsed").cloned().unwrap_or_default();
        for notice in parsed.get("notices").and_then(Value::as_array).into_iter().flatten() {
            output.remark(notice.as_str().unwrap_or_default())?;
        }
        let found = parsed.get("values").and_then(Value::as_array).cloned().unwrap_or_default();
        if found.is_empty() {
            return Err(CliError::failed("no value was found in what it printed"));
        }
        for value in found {
            output.line(&values(&json!({ "values": [value] })))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_with_their_labels() {
        let of = json!({ "values": [
            { "name": "a", "label": "", "value": 1.5 }, { "name": "b", "label": "x", "value": 2 },
        ] });
        assert_eq!(values(&of), "a 1.5, b{x} 2");
    }
}
