//! `service`: services that are watched by their processes.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::client::{Client, segment};
use super::error::CliError;
use super::machine::confirmed;
use super::output::{Output, UNKNOWN, list, text};
use super::selection::Selection;

const WATCHED: &str = "/api/v1/watched-services";

#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// List the services that are watched by their processes
    List,
    /// Show one: how its processes are found, its commands, where it is watched
    Show(Named),
    /// Watch a service that no service manager knows
    Create(Create),
    /// Change one; what is not given stays as it is
    Edit(Edit),
    /// Watch it no longer, on any server
    Delete {
        #[command(flatten)]
        named: Named,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub struct Named {
    /// Name or id of the service
    #[arg(value_name = "SERVICE")]
    name: String,
}

#[derive(Debug, Args)]
pub struct Create {
    /// Its name: letters, digits and ':', '.', '_', '@', '-'
    #[arg(value_name = "SERVICE")]
    name: String,
    #[command(flatten)]
    what: Definition,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, Args)]
pub struct Edit {
    #[command(flatten)]
    named: Named,
    /// Another name
    #[arg(long = "name", id = "new-name", value_name = "SERVICE")]
    new_name: Option<String>,
    #[command(flatten)]
    what: Definition,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, Args)]
pub struct Definition {
    /// Stands in the command line of its processes; of several, all do. None: the program is called as the service is
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    keyword: Option<Vec<String>>,
    /// What it is, for people
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// POSIX shell text that starts it and returns; empty for none
    #[arg(long = "start-with", value_name = "TEXT")]
    start_with: Option<String>,
    /// POSIX shell text that stops it; empty for none
    #[arg(long = "stop-with", value_name = "TEXT")]
    stop_with: Option<String>,
    /// Both commands as root, through sudo where the login is another
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    sudo: Option<bool>,
}

impl Definition {
    /// What is given, as the API takes it.
    fn body(self, name: Option<String>, selection: &Selection) -> Result<Value, CliError> {
        let mut body = Map::new();
        let mut set = |field: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(field.to_owned(), value);
            }
        };
        set("name", name.map(Value::String));
        set("keywords", self.keyword.map(|words| json!(words)));
        set("description", self.description.map(Value::String));
        set("start_command", self.start_with.map(Value::String));
        set("stop_command", self.stop_with.map(Value::String));
        set("sudo", self.sudo.map(Value::Bool));
        let selector = selection.selector();
        if !selector.is_empty() {
            let value =
                serde_json::to_value(&selector).map_err(|error| CliError::failed(error.to_string()))?;
            set("selector", Some(value));
        }
        Ok(Value::Object(body))
    }
}

fn path(name: &str) -> Result<String, CliError> {
    Ok(format!("{WATCHED}/{}", segment(name)?))
}

impl ServiceCommand {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        match self {
            Self::List => listed(client, output).await,
            Self::Show(Named { name }) => show(&name, client, output).await,
            Self::Create(Create { name, what, selection }) => {
                let made = client.post(WATCHED, &what.body(Some(name), &selection)?).await?;
                told(&made, "watched from the next reading on", output)
            }
            Self::Edit(Edit { named, new_name, what, selection }) => {
                let changed = client.patch(&path(&named.name)?, &what.body(new_name, &selection)?).await?;
                told(&changed, "changed", output)
            }
            Self::Delete { named: Named { name }, yes } => {
                if !yes && !confirmed(&format!("Watch {name} no longer, on any server? [yes/no]"))? {
                    return Ok(());
                }
                client.delete(&path(&name)?).await?;
                if output.json {
                    output.value(&json!({ "removed": name }))
                } else {
                    output.line(&format!("{name} is no longer watched."))
                }
            }
        }
    }
}

fn told(service: &Value, what: &str, output: &Output) -> Result<(), CliError> {
    if output.json {
        return output.value(service);
    }
    output.line(&format!("{} is {what}.", text(service, "name")))
}

/// The words of a selector: `tags web, eu; environments production`.
fn place(service: &Value) -> String {
    let members = service.get("selector").and_then(Value::as_object);
    let words = |(field, value): (&String, &Value)| match value {
        Value::Bool(true) => Some("every server".to_owned()),
        Value::String(word) => Some(format!("{field} {word}")),
        Value::Array(all) => {
            let all: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
            (!all.is_empty()).then(|| format!("{field} {}", all.join(", ")))
        }
        _ => None,
    };
    members.into_iter().flatten().filter_map(words).collect::<Vec<_>>().join("; ")
}

async fn listed(client: &Client, output: &Output) -> Result<(), CliError> {
    let services = client.all(WATCHED, &[]).await?;
    if output.json {
        return output.value(&Value::Array(services));
    }
    let row =
        |service: &Value| vec![text(service, "name").to_owned(), list(service, "keywords"), place(service)];
    output.table(&["SERVICE", "KEYWORDS", "WHERE"], &[], services.iter().map(row).collect())
}

async fn show(name: &str, client: &Client, output: &Output) -> Result<(), CliError> {
    let service = client.get(&path(name)?).await?;
    if output.json {
        return output.value(&service);
    }
    let keywords = list(&service, "keywords");
    let or_none = |field: &str| {
        let command = text(&service, field);
        if command.is_empty() { "none".to_owned() } else { command.to_owned() }
    };
    let found = if keywords == UNKNOWN || keywords.is_empty() {
        "by a program of its name".to_owned()
    } else {
        format!("by {keywords}")
    };
    let as_root = service.get("sudo").and_then(Value::as_bool) == Some(true);
    output.line(&format!("{}: {}", text(&service, "name"), text(&service, "description")))?;
    output.line(&format!("Found   {found}"))?;
    output.line(&format!("Where   {}", place(&service)))?;
    output.line(&format!("Start   {}", or_none("start_command")))?;
    output.line(&format!("Stop    {}", or_none("stop_command")))?;
    output.line(&format!("As      {}", if as_root { "root" } else { "the login" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_told_in_words() {
        let of = |selector: Value| place(&json!({ "selector": selector }));
        assert_eq!(of(json!({ "all": true, "tags": ["web", "eu"] })), "every server; tags web, eu");
        assert_eq!(
            of(json!({ "servers": ["a"], "groups": [], "status": "active" })),
            "servers a; status active"
        );
    }
}
