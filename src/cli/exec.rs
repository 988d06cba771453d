//! `exec`: one command on one or many servers, and `op`: what became of operations.
//!
//! For one server its output and exit status are those of the command, as with ssh. For several, equal outputs
//! are shown once, and the status is 0 when all succeeded, 1 when some did, 2 when none did.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, segment};
use super::error::CliError;
use super::output::{Output, ago, printable, text, text_or_unknown};
use super::selection::Selection;
use crate::actions::STDIN_LIMIT_BYTES;
use crate::config::parse_interval;
use crate::operations::{Share, Strategy, WhenBusy, parse_batches};

const OPERATIONS: &str = "/api/v1/fleet/operations";
/// How often a running operation is asked for: quick at first, because most commands are.
const ASK_EVERY: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
];
/// As ssh answers when it could not run the command at all.
const NOT_RUN: u8 = 255;

#[derive(Debug, Args)]
pub struct Exec {
    /// Names or ids of the servers
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    rolling: Rolling,
    /// Only say what would be sent where
    #[arg(long)]
    dry_run: bool,
    /// Run as root with sudo; it gets the password that is kept for the server, or must not ask
    #[arg(long)]
    sudo: bool,
    /// Run as this user
    #[arg(long, value_name = "USER")]
    run_as: Option<String>,
    /// Variable of the environment; may be given several times
    #[arg(long = "env", value_name = "NAME=VALUE")]
    environment: Vec<String>,
    /// Variable whose value is taken from roundsman's own environment and stands in no process list and no record
    #[arg(long = "secret-env", value_name = "NAME")]
    secret_environment: Vec<String>,
    /// Run inside this container, which is Docker's unless podman: stands before its name
    #[arg(long, value_name = "[ENGINE:]NAME")]
    container: Option<String>,
    /// Give the command what stands on roundsman's own standard input, up to 256 KiB
    #[arg(long)]
    stdin: bool,
    /// Let it go on when the connection is lost or Roundsman restarts
    #[arg(long)]
    detach: bool,
    /// What to call it in lists and records
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// End the command after this time, 1s to 1h
    #[arg(long, value_name = "TIME", default_value = "60s")]
    timeout: String,
    /// Show the output of each server, also where it is the same
    #[arg(long)]
    no_fold: bool,
    /// The command; several words are joined by blanks, as ssh does
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// How an operation goes over its servers.
#[derive(Debug, Args)]
#[command(next_help_heading = "How it goes over them")]
pub(super) struct Rolling {
    /// Sizes of the batches as numbers or percents, for example 1,10%,50%; the last repeats
    #[arg(long, value_name = "SIZES", value_parser = batches)]
    batch: Option<Batches>,
    /// Pause between two batches
    #[arg(long, value_name = "TIME")]
    pause: Option<String>,
    /// Send nothing more once so many did not succeed: a number or a percent
    #[arg(long, value_name = "LIMIT")]
    max_failures: Option<Share>,
    /// Begin the next batch only when the servers of the last are healthy; stop if they are not after this time
    #[arg(long, value_name = "TIME")]
    health_gate: Option<String>,
    /// Commands at the same time
    #[arg(long, value_name = "N")]
    parallel: Option<u32>,
    /// Wait for what other operations do on a server
    #[arg(long)]
    queue: bool,
    /// First the servers that others need; those whose needs did not succeed get nothing. Makes the batches
    #[arg(long)]
    by_dependencies: bool,
}

/// Sizes of batches, as one argument.
#[derive(Debug, Clone)]
struct Batches(Vec<Share>);

fn batches(text: &str) -> Result<Batches, String> {
    parse_batches(text).map(Batches)
}

impl Rolling {
    pub(super) fn strategy(&self) -> Result<Strategy, CliError> {
        let seconds = |text: &Option<String>| {
            let text = text.as_deref();
            text.map(|text| parse_interval(text).map(|time| time.as_secs()).map_err(CliError::usage))
                .transpose()
        };
        let strategy = Strategy {
            parallelism: self.parallel,
            batches: self.batch.as_ref().map(|batches| batches.0.clone()).unwrap_or_default(),
            pause_s: seconds(&self.pause)?.unwrap_or(0),
            max_failures: self.max_failures,
            health_gate_s: seconds(&self.health_gate)?,
            when_busy: self.queue.then_some(WhenBusy::Queue),
            by_dependencies: self.by_dependencies,
        };
        strategy.check().map_err(|error| CliError::usage(error.to_string()))?;
        Ok(strategy)
    }
}

impl Exec {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<ExitCode, CliError> {
        let timeout = parse_interval(&self.timeout).map_err(CliError::usage)?;
        let mut selector = self.selection.selector();
        selector.servers.extend(self.names.iter().cloned());
        if selector.is_empty() {
            return Err(CliError::usage(
                "name servers, or choose them with --server, --tag, --region, … or --all",
            ));
        }
        let body = json!({
            "operation_type": "run_command",
            "filter_criteria": selector,
            "strategy": self.rolling.strategy()?,
            "parameters": self.parameters(timeout)?,
            "dry_run": self.dry_run,
        });
        let begun = client.post(OPERATIONS, &body).await?;
        if self.dry_run {
            return show_plan(&begun, output);
        }
        let single = results(&begun).len() == 1 && !output.json;
        let done = follow(client, begun, single).await?;
        if output.json {
            output.value(&done)?;
        } else if !single {
            show_all(&done, self.no_fold)?;
        }
        Ok(exit_code(&done))
    }
}

impl Exec {
    fn parameters(&self, timeout: Duration) -> Result<Value, CliError> {
        let mut parameters = json!({
            "command": self.command.join(" "),
            "sudo": self.sudo,
            "timeout_s": timeout.as_secs().max(1),
        });
        let mut set = |name: &str, value: Value| {
            if let Some(members) = parameters.as_object_mut() {
                members.insert(name.to_owned(), value);
            }
        };
        for (name, value) in [("run_as", &self.run_as), ("label", &self.label)] {
            if let Some(value) = value {
                set(name, json!(value));
            }
        }
        if self.detach {
            set("detached", json!(true));
        }
        if let Some(container) = &self.container {
            let (engine, name) = container.split_once(':').unwrap_or(("docker", container));
            set("container", json!({ "engine": engine, "name": name }));
        }
        let mut environment = serde_json::Map::new();
        for pair in &self.environment {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| CliError::usage(format!("--env: '{}' is not NAME=VALUE", printable(pair))))?;
            environment.insert(name.to_owned(), json!(value));
        }
        for name in &self.secret_environment {
            let value = std::env::var(name).map_err(|_| {
                CliError::usage(format!("--secret-env: there is no variable {} here", printable(name)))
            })?;
            environment.insert(name.clone(), json!({ "secret": value }));
        }
        if !environment.is_empty() {
            set("environment", Value::Object(environment));
        }
        if self.stdin {
            set("stdin", json!(own_input()?));
        }
        Ok(parameters)
    }
}

/// What would be sent where, and how many go together.
fn show_plan(plan: &Value, output: &Output) -> Result<ExitCode, CliError> {
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

fn results(operation: &Value) -> &[Value] {
    operation.get("results").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn has_ended(operation: &Value) -> bool {
    !matches!(text(operation, "status"), "pending" | "running")
}

/// Waits for the end; shows the output of a single server as it comes.
pub(super) async fn follow(client: &Client, begun: Value, live: bool) -> Result<Value, CliError> {
    let path = format!("{OPERATIONS}/{}", segment(text(&begun, "id"))?);
    let mut operation = begun;
    let mut shown = Shown::default();
    let mut waits = ASK_EVERY.iter();
    let mut wait = ASK_EVERY[0];
    loop {
        let ended = has_ended(&operation);
        if live && let [result] = results(&operation) {
            shown.show(result, ended)?;
        }
        if ended {
            return Ok(operation);
        }
        wait = waits.next().copied().unwrap_or(wait);
        tokio::time::sleep(wait).await;
        operation = client.get(&path).await?;
    }
}

/// What of a single server's output is on the terminal already.
#[derive(Default)]
struct Shown {
    stdout: String,
    stderr: String,
}

impl Shown {
    fn show(&mut self, result: &Value, ended: bool) -> Result<(), CliError> {
        let new = fresh(&mut self.stdout, text(result, "stdout"), ended);
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(new.as_bytes())?;
        stdout.flush()?;
        let new = fresh(&mut self.stderr, text(result, "stderr"), ended);
        let mut stderr = std::io::stderr().lock();
        stderr.write_all(new.as_bytes())?;
        if ended {
            for (name, stream) in
                [("stdout_dropped_bytes", "output"), ("stderr_dropped_bytes", "error output")]
            {
                if let Some(dropped @ 1..) = result.get(name).and_then(Value::as_u64) {
                    writeln!(stderr, "roundsman: {dropped} more bytes of {stream} were not kept")?;
                }
            }
            if result.get("exit_status").is_none_or(Value::is_null) {
                let error = printable(text(result, "error"));
                writeln!(stderr, "roundsman: {}: {error}", printable(text(result, "server_name")))?;
            }
        }
        Ok(())
    }
}

/// What is to be added to `shown` now: whole lines while the command runs, everything at its end. While it runs the
/// server keeps the end of a long output only; what cannot be joined to what was shown waits for the end.
fn fresh(shown: &mut String, whole: &str, ended: bool) -> String {
    let Some(rest) = whole.strip_prefix(shown.as_str()) else {
        return if ended { whole.to_owned() } else { String::new() };
    };
    let upto = if ended { rest.len() } else { rest.rfind('\n').map_or(0, |at| at + 1) };
    let new = rest.get(..upto).unwrap_or_default().to_owned();
    shown.push_str(&new);
    new
}

/// How a target ended, in a few words.
fn ending(result: &Value) -> String {
    match (result.get("exit_status").and_then(Value::as_u64), text(result, "error")) {
        (Some(status), _) => format!("exit status {status}"),
        (None, "") => text(result, "status").to_owned(),
        (None, error) => format!("{}: {}", text(result, "status"), printable(error)),
    }
}

pub(super) fn show_all(operation: &Value, no_fold: bool) -> Result<(), CliError> {
    let mut groups: BTreeMap<(usize, String), Vec<&Value>> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    for (index, result) in results(operation).iter().enumerate() {
        let same =
            format!("{}\u{0}{}\u{0}{}", ending(result), text(result, "stdout"), text(result, "stderr"));
        let key = if no_fold { format!("{index}") } else { same };
        let at = order.iter().position(|known| *known == key).unwrap_or_else(|| {
            order.push(key.clone());
            order.len() - 1
        });
        groups.entry((at, key)).or_default().push(result);
    }
    let mut stdout = std::io::stdout().lock();
    for members in groups.values() {
        let names: Vec<String> =
            members.iter().map(|result| printable(text(result, "server_name"))).collect();
        let count = if members.len() > 1 { format!(" ({} servers)", members.len()) } else { String::new() };
        let Some(first) = members.first() else { continue };
        writeln!(stdout, "── {}{count}: {}", names.join(", "), ending(first))?;
        for name in ["stdout", "stderr"] {
            let output = text(first, name);
            if !output.is_empty() {
                stdout.write_all(output.as_bytes())?;
                if !output.ends_with('\n') {
                    writeln!(stdout)?;
                }
            }
        }
    }
    Ok(stdout.flush()?)
}

pub(super) fn exit_code(operation: &Value) -> ExitCode {
    let results = results(operation);
    if let [result] = results {
        let status = result.get("exit_status").and_then(Value::as_u64);
        return ExitCode::from(status.and_then(|status| u8::try_from(status).ok()).unwrap_or(NOT_RUN));
    }
    let succeeded = results.iter().filter(|result| text(result, "status") == "succeeded").count();
    ExitCode::from(match succeeded {
        all if all == results.len() => 0,
        0 => 2,
        _ => 1,
    })
}

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
        /// Id of the operation
        id: String,
    },
    /// Do it again on the servers where it failed, or that were unreachable or unknown
    Retry {
        /// Id of the operation
        id: String,
    },
}

impl OperationCommand {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        match self {
            Self::List(found) => {
                let items = client.all(OPERATIONS, &found.query()).await?;
                if output.json {
                    return output.value(&Value::Array(items));
                }
                let rows = items
                    .iter()
                    .map(|item| {
                        ["id", "title", "status", "total_servers", "initiated_by"]
                            .iter()
                            .map(|name| text_or_unknown(item, name))
                            .chain([ago(text(item, "created_at"))])
                            .collect()
                    })
                    .collect();
                output.table(&["ID", "TITLE", "STATUS", "SERVERS", "BY", "WHEN"], &[3], rows)
            }
            Self::Show { id } => {
                let operation = client.get(&format!("{OPERATIONS}/{}", segment(&id)?)).await?;
                if output.json {
                    return output.value(&operation);
                }
                for (title, name) in [
                    ("Operation", "title"),
                    ("Status", "status"),
                    ("By", "initiated_by"),
                    ("Begun", "created_at"),
                ] {
                    output.line(&format!("{title:<10} {}", text_or_unknown(&operation, name)))?;
                }
                show_all(&operation, false)
            }
            Self::Cancel { id } => {
                change(client, output, &id, "cancel", "The operation is being cancelled.").await
            }
            Self::Pause { id } => {
                change(client, output, &id, "pause", "Nothing more is sent until it is resumed.").await
            }
            Self::Resume { id } => change(client, output, &id, "resume", "It goes on.").await,
            Self::Retry { id } => change(client, output, &id, "retry", "It begins again.").await,
        }
    }
}

async fn change(
    client: &Client,
    output: &Output,
    id: &str,
    verb: &str,
    remark: &str,
) -> Result<(), CliError> {
    let path = format!("{OPERATIONS}/{}/{verb}", segment(id)?);
    let operation = client.post(&path, &json!({})).await?;
    if output.json {
        return output.value(&operation);
    }
    let new = text(&operation, "id");
    if new == id { output.remark(remark) } else { output.remark(&format!("{remark} Operation {new}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(statuses: &[(&str, Option<u64>)]) -> Value {
        let results: Vec<Value> = statuses
            .iter()
            .map(|(status, exit)| json!({ "status": status, "exit_status": exit, "server_name": "a" }))
            .collect();
        json!({ "status": "completed", "results": results })
    }

    #[test]
    fn one_server_answers_with_the_status_of_the_command_and_several_with_all_some_none() {
        let code = |statuses: &[(&str, Option<u64>)]| format!("{:?}", exit_code(&operation(statuses)));
        let expected = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(code(&[("failed", Some(7))]), expected(7));
        assert_eq!(code(&[("unreachable", None)]), expected(255));
        assert_eq!(code(&[("succeeded", Some(0)), ("succeeded", Some(0))]), expected(0));
        assert_eq!(code(&[("succeeded", Some(0)), ("failed", Some(1))]), expected(1));
        assert_eq!(code(&[("unreachable", None), ("failed", Some(1))]), expected(2));
    }

    #[test]
    fn live_output_is_shown_line_by_line_and_nothing_twice() {
        let mut shown = String::new();
        assert_eq!(fresh(&mut shown, "one\ntw", false), "one\n");
        assert_eq!(fresh(&mut shown, "one\ntwo\n", false), "two\n");
        assert_eq!(fresh(&mut shown, "one\ntwo\nthree", true), "three");
    }
}
