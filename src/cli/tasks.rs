//! `task`: operations on a schedule.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::answers::{Look, show_all};
use super::client::{Client, segment};
use super::error::CliError;
use super::follow::{OnInterrupt, follow};
use super::output::{Output, ago, printable, text};
use super::parameters::Parameters;
use super::rolling::Rolling;
use super::selection::Selection;
use crate::model::{Missed, Overlap};
use crate::operations::Strategy;

const TASKS: &str = "/api/v1/tasks";
/// Runs that `show` lists.
const RUNS: &str = "20";

#[derive(Debug, Subcommand)]
pub enum TaskCommand {
    /// The tasks with their next run and their last result
    List,
    /// One task, its next runs and its history
    Show(Named),
    /// Make a task; it acts with your rights
    Add(Box<Add>),
    /// Change a task; what is left out stays, and it acts with your rights from then on
    Edit(Box<Edit>),
    /// Switch a task on; times that passed while it was off are not made up for
    Enable(Named),
    /// Switch a task off; what runs goes on
    Disable(Named),
    /// Run a task now, with your rights, and wait for its end
    Run(Run),
    /// Remove a task and its history; operations that it began stay
    Remove(Named),
}

#[derive(Debug, Args)]
pub struct Named {
    /// Name or id of the task
    #[arg(value_name = "TASK")]
    name: String,
}

#[derive(Debug, Args)]
pub struct Add {
    #[arg(value_name = "TASK")]
    name: String,
    /// When: five fields (minute hour day month weekday), or @hourly, @daily, @weekly, @monthly, @yearly
    #[arg(long, value_name = "SCHEDULE")]
    cron: String,
    /// Make it switched off
    #[arg(long)]
    disabled: bool,
    #[command(flatten)]
    what: What,
}

#[derive(Debug, Args)]
pub struct Edit {
    /// Name or id of the task
    #[arg(value_name = "TASK")]
    task: String,
    /// The new name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// When: five fields, or @hourly, @daily, @weekly, @monthly, @yearly
    #[arg(long, value_name = "SCHEDULE")]
    cron: Option<String>,
    #[command(flatten)]
    what: What,
}

#[derive(Debug, Args)]
pub struct Run {
    /// Name or id of the task
    #[arg(value_name = "TASK")]
    name: String,
    /// Do not wait for its end
    #[arg(long)]
    no_wait: bool,
}

/// What may be said of a task beside its name and its schedule.
#[derive(Debug, Args)]
struct What {
    /// Time zone of the schedule [default: UTC]
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// While the last run is under way, the next is left out, waits, or begins beside it
    #[arg(long, value_name = "skip|queue|allow")]
    overlap: Option<Overlap>,
    /// Runs whose time passed while Roundsman was not running are left out, or the last or all of them are made up for
    #[arg(long, value_name = "skip|once|all")]
    missed: Option<Missed>,
    /// Make up for so many missed runs at most
    #[arg(long, value_name = "N")]
    missed_limit: Option<u32>,
    /// Make up for nothing that was to begin longer ago
    #[arg(long, value_name = "TIME")]
    missed_grace: Option<String>,
    /// Try a run that failed again so often
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// Time before each retry
    #[arg(long, value_name = "TIME")]
    retry_wait: Option<String>,
    /// Begin up to so much later than the schedule says
    #[arg(long, value_name = "TIME")]
    jitter: Option<String>,
    #[command(flatten)]
    action: ActionWords,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    rolling: Rolling,
}

/// What is done, by one of these.
#[derive(Debug, Args)]
#[command(next_help_heading = "What is done")]
#[group(multiple = true)]
struct ActionWords {
    /// Run a command
    #[arg(long = "run", value_name = "COMMAND", conflicts_with_all = ["restart", "start", "stop", "reload", "action"])]
    command: Option<String>,
    /// Restart a service
    #[arg(long, value_name = "SERVICE", conflicts_with_all = ["start", "stop", "reload", "action"])]
    restart: Option<String>,
    /// Start a service
    #[arg(long, value_name = "SERVICE", conflicts_with_all = ["stop", "reload", "action"])]
    start: Option<String>,
    /// Stop a service
    #[arg(long, value_name = "SERVICE", conflicts_with_all = ["reload", "action"])]
    stop: Option<String>,
    /// Reload a service
    #[arg(long, value_name = "SERVICE", conflicts_with = "action")]
    reload: Option<String>,
    /// Any other kind of action, as 'roundsman action' names it
    #[arg(long, value_name = "KIND")]
    action: Option<String>,
    #[command(flatten)]
    parameters: Parameters,
    /// Run the command as root with sudo
    #[arg(long)]
    sudo: bool,
    /// End the command after this time
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
}

/// A span such as `90`, `90s`, `5m`, `2h`, `7d`, in seconds; the server knows which are too long.
fn seconds(option: &str, given: Option<&String>) -> Result<Option<u64>, CliError> {
    let parse = |text: &String| {
        let text = text.trim();
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let factor = match text.get(digits.len()..) {
            Some("" | "s") => Some(1),
            Some("m" | "min") => Some(60),
            Some("h") => Some(3600),
            Some("d") => Some(86_400),
            _ => None,
        };
        let found =
            digits.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
        found.ok_or_else(|| {
            CliError::usage(format!(
                "{option}: '{}' is no span; use for example 90s, 5m, 2h or 7d",
                printable(text)
            ))
        })
    };
    given.map(parse).transpose()
}

/// The kind of an action and its parameters.
type Spoken = (String, Map<String, Value>);

impl ActionWords {
    /// None: none is said.
    fn body(&self) -> Result<Option<Spoken>, CliError> {
        let mut parameters = Map::new();
        self.parameters.add_to(&mut parameters)?;
        let services = [
            ("start_service", &self.start),
            ("stop_service", &self.stop),
            ("restart_service", &self.restart),
            ("reload_service", &self.reload),
        ];
        let kind = if let Some(command) = &self.command {
            parameters.insert("command".to_owned(), json!(command));
            parameters.insert("sudo".to_owned(), json!(self.sudo));
            if let Some(limit) = seconds("--timeout", self.timeout.as_ref())? {
                parameters.insert("timeout_s".to_owned(), json!(limit));
            }
            "run_command"
        } else if let Some((kind, Some(service))) =
            services.into_iter().find(|(_, service)| service.is_some())
        {
            parameters.insert("service".to_owned(), json!(service));
            kind
        } else if let Some(kind) = &self.action {
            kind
        } else if self.parameters.is_empty() && !self.sudo && self.timeout.is_none() {
            return Ok(None);
        } else {
            return Err(CliError::usage(
                "say what is done as well: --run, --restart, --start, --stop, --reload or --action",
            ));
        };
        Ok(Some((kind.to_owned(), parameters)))
    }
}

impl What {
    fn body(&self) -> Result<Map<String, Value>, CliError> {
        let mut body = Map::new();
        let mut set = |name: &str, value: Value| {
            if !value.is_null() {
                body.insert(name.to_owned(), value);
            }
        };
        set("time_zone", json!(self.time_zone));
        set("description", json!(self.description));
        if let Some((kind, parameters)) = self.action.body()? {
            set("operation_type", json!(kind));
            set("parameters", Value::Object(parameters));
        }
        let selector = self.selection.selector();
        if !selector.is_empty() {
            set("filter_criteria", json!(selector));
        }
        let strategy = self.rolling.strategy()?;
        if strategy != Strategy::default() {
            set("strategy", json!(strategy));
        }
        set("overlap", json!(self.overlap));
        set("missed", json!(self.missed));
        set("missed_limit", json!(self.missed_limit));
        set("missed_grace_s", json!(seconds("--missed-grace", self.missed_grace.as_ref())?));
        set("retries", json!(self.retries));
        set("retry_wait_s", json!(seconds("--retry-wait", self.retry_wait.as_ref())?));
        set("jitter_s", json!(seconds("--jitter", self.jitter.as_ref())?));
        Ok(body)
    }
}

fn address(task: &str) -> Result<String, CliError> {
    Ok(format!("{TASKS}/{}", segment(task)?))
}

impl TaskCommand {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<ExitCode, CliError> {
        match self {
            Self::List => list(client, output).await?,
            Self::Show(named) => show(&named.name, client, output).await?,
            Self::Add(add) => {
                let mut body = add.what.body()?;
                body.insert("name".to_owned(), json!(add.name));
                body.insert("cron".to_owned(), json!(add.cron));
                body.insert("enabled".to_owned(), json!(!add.disabled));
                told(&client.post(TASKS, &Value::Object(body)).await?, output)?;
            }
            Self::Edit(edit) => {
                let mut body = edit.what.body()?;
                for (name, value) in [("name", edit.name), ("cron", edit.cron)] {
                    if let Some(value) = value {
                        body.insert(name.to_owned(), json!(value));
                    }
                }
                told(&client.patch(&address(&edit.task)?, &Value::Object(body)).await?, output)?;
            }
            Self::Enable(named) => switch(&named.name, "enable", client, output).await?,
            Self::Disable(named) => switch(&named.name, "disable", client, output).await?,
            Self::Run(run) => return run.run(client, output).await,
            Self::Remove(named) => {
                client.delete(&address(&named.name)?).await?;
                output.remark(&format!(
                    "{} is removed; operations that it began stay.",
                    printable(&named.name)
                ))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn switch(name: &str, to: &str, client: &Client, output: &Output) -> Result<(), CliError> {
    told(&client.post(&format!("{}/{to}", address(name)?), &json!({})).await?, output)
}

/// The next run, or why there is none.
fn next(task: &Value) -> String {
    let next = task.get("next_runs").and_then(|runs| runs.get(0)).and_then(Value::as_str);
    match (task.get("enabled").and_then(Value::as_bool), next, text(task, "schedule_problem")) {
        (Some(false), ..) => "disabled".to_owned(),
        (_, Some(next), _) => next.get(..16).map_or_else(|| next.to_owned(), |text| text.replace('T', " ")),
        (_, None, problem) => printable(problem),
    }
}

fn told(task: &Value, output: &Output) -> Result<(), CliError> {
    if output.json {
        return output.value(task);
    }
    let next = next(task);
    let what = text(task, "schedule");
    output.line(&format!(
        "{}: {what}, {}; next run (UTC): {next}",
        text(task, "name"),
        text(task, "time_zone")
    ))
}

fn last(task: &Value) -> String {
    let Some(run) = task.get("last_run").filter(|run| !run.is_null()) else { return String::new() };
    format!("{} {}", text(run, "status"), ago(text(run, "due_at")))
}

async fn list(client: &Client, output: &Output) -> Result<(), CliError> {
    let tasks = client.all(TASKS, &[]).await?;
    if output.json {
        return output.value(&Value::Array(tasks));
    }
    if tasks.is_empty() {
        return output.remark("There are no tasks yet; make one with 'roundsman task add'.");
    }
    let row = |task: &Value| {
        vec![
            text(task, "name").to_owned(),
            text(task, "schedule").to_owned(),
            text(task, "time_zone").to_owned(),
            text(task, "title").to_owned(),
            next(task),
            last(task),
        ]
    };
    let header = ["TASK", "SCHEDULE", "TIME ZONE", "DOES", "NEXT (UTC)", "LAST"];
    output.table(&header, &[], tasks.iter().map(row).collect())
}

async fn show(name: &str, client: &Client, output: &Output) -> Result<(), CliError> {
    let task = client.get(&address(name)?).await?;
    let page = client.get(&format!("{}/runs?limit={RUNS}", address(name)?)).await?;
    let runs = page.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    if output.json {
        return output.value(&json!({ "task": task, "runs": runs }));
    }
    let number = |name: &str| task.get(name).and_then(Value::as_u64).unwrap_or_default();
    let names = super::output::list(&task, "server_names");
    let conditions = task.get("filter_criteria").filter(|value| !value.is_null()).map(Value::to_string);
    let lines = [
        ("Name", text(&task, "name").to_owned()),
        ("Id", text(&task, "id").to_owned()),
        ("Description", text(&task, "description").to_owned()),
        (
            "Schedule",
            format!("{} ({}), {}", text(&task, "cron"), text(&task, "schedule"), text(&task, "time_zone")),
        ),
        ("Does", text(&task, "title").to_owned()),
        ("Servers", names),
        ("Groups", super::output::list(&task, "group_ids")),
        ("Conditions", conditions.unwrap_or_default()),
        ("Acts as", text(&task, "owner").to_owned()),
        ("Overlap", text(&task, "overlap").to_owned()),
        ("Missed", text(&task, "missed").to_owned()),
        ("Retries", format!("{}, {} s apart", number("retries"), number("retry_wait_s"))),
        ("Next (UTC)", super::output::list(&task, "next_runs")),
    ];
    for (title, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        output.line(&format!("{title:<12} {}", printable(value)))?;
    }
    let row = |run: &Value| {
        vec![
            text(run, "due_at").get(..16).unwrap_or_default().replace('T', " "),
            text(run, "status").to_owned(),
            text(run, "cause").to_owned(),
            text(run, "operation_id").to_owned(),
            text(run, "reason").to_owned(),
        ]
    };
    if runs.is_empty() {
        return output.line("It has not run yet.");
    }
    output.table(&["DUE (UTC)", "STATUS", "CAUSE", "OPERATION", "WHY"], &[], runs.iter().map(row).collect())
}

impl Run {
    /// The status is 0 when all servers succeeded, 1 when some did, 2 when none did, as with `exec`.
    async fn run(self, client: &Client, output: &Output) -> Result<ExitCode, CliError> {
        let run = client.post(&format!("{}/run", address(&self.name)?), &json!({})).await?;
        let id = text(&run, "operation_id").to_owned();
        if self.no_wait {
            if output.json {
                output.value(&run)?;
            } else {
                output.line(&format!("operation {id}"))?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        let begun = client.get(&format!("/api/v1/fleet/operations/{}", segment(&id)?)).await?;
        let done = follow(client, begun, false, OnInterrupt::Cancel).await?;
        if output.json {
            output.value(&done)?;
        } else {
            show_all(&done, Look::default(), output)?;
        }
        Ok(match text(&done, "status") {
            "completed" => ExitCode::SUCCESS,
            "partial" => ExitCode::from(1),
            _ => ExitCode::from(2),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Given {
        #[command(flatten)]
        what: What,
    }

    fn body(arguments: &[&str]) -> Result<Map<String, Value>, CliError> {
        Given::try_parse_from(std::iter::once("task").chain(arguments.iter().copied())).unwrap().what.body()
    }

    #[test]
    fn the_options_say_only_what_was_given() {
        assert!(body(&[]).unwrap().is_empty());
        let given =
            body(&["--restart", "nginx", "--tag", "web", "--missed-grace", "2h", "--jitter", "0"]).unwrap();
        assert_eq!(given["operation_type"], "restart_service");
        assert_eq!(given["parameters"], json!({ "service": "nginx" }));
        assert_eq!(given["filter_criteria"], json!({ "tags": ["web"] }));
        assert_eq!((&given["missed_grace_s"], &given["jitter_s"]), (&json!(7200), &json!(0)));
        let given =
            body(&["--run", "apt-get update", "--sudo", "--timeout", "5m", "--overlap", "queue"]).unwrap();
        assert_eq!(
            given["parameters"],
            json!({ "command": "apt-get update", "sudo": true, "timeout_s": 300 })
        );
        assert!(body(&["--sudo"]).is_err(), "sudo for what?");
        assert!(Given::try_parse_from(["task", "--start", "a", "--stop", "b"]).is_err());
    }
}
