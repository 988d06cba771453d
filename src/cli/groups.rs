//! `group`: list, show, create, edit, delete; put servers in and take them out.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, segment};
use super::error::CliError;
use super::output::{Output, list, number, text};
use super::selection::Selection;

const GROUPS: &str = "/api/v1/fleet/groups";
/// Names that are shown before servers are put in or taken out; the rest is counted.
const NAMED: usize = 20;

#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// The groups with the health of their servers
    List,
    /// One group and its servers
    Show(Named),
    /// Make a group: of servers put in by hand, or with conditions that choose them
    Create(Create),
    /// Change what is said of a group; what is left out stays
    Edit(Edit),
    /// Delete a group; its servers stay
    Delete(Named),
    /// Put servers into a group
    Add(Members),
    /// Take servers out of a group
    Remove(Members),
}

#[derive(Debug, Args)]
pub struct Named {
    /// Name or id of the group
    #[arg(value_name = "GROUP")]
    name: String,
}

/// What may be said of a group beside its name.
#[derive(Debug, Args)]
pub struct About {
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Colour of its chip
    #[arg(
        long,
        visible_alias = "colour",
        value_name = "grey|blue|teal|green|olive|amber|brown|red|pink|violet|#rrggbb"
    )]
    color: Option<String>,
    /// Its servers have this tag; of several, all
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Its servers are of this region; of several, of any
    #[arg(long = "region", value_name = "REGION")]
    regions: Vec<String>,
    /// Its servers are of this environment; of several, of any
    #[arg(long = "environment", value_name = "NAME")]
    environments: Vec<String>,
    /// Its servers are of this health; of several, of any
    #[arg(long = "health", value_name = "healthy|degraded|critical|unreachable|unknown")]
    health: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Create {
    #[arg(value_name = "GROUP")]
    name: String,
    #[command(flatten)]
    about: About,
    /// Put this server in; may be given several times
    #[arg(long = "server", value_name = "NAME", value_delimiter = ',')]
    servers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Edit {
    /// Name or id of the group
    #[arg(value_name = "GROUP")]
    group: String,
    /// The new name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    about: About,
    /// Take all conditions away: servers are put in by hand from now on
    #[arg(long = "static", conflicts_with_all = ["tags", "regions", "environments", "health"])]
    by_hand: bool,
}

#[derive(Debug, Args)]
pub struct Members {
    /// Name or id of the group
    #[arg(value_name = "GROUP")]
    name: String,
    /// Names or ids of the servers
    #[arg(value_name = "SERVER")]
    servers: Vec<String>,
    #[command(flatten)]
    selection: Selection,
}

impl GroupCommand {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        match self {
            Self::List => show_all(client, output).await,
            Self::Show(named) => show(&named.name, client, output).await,
            Self::Create(command) => command.run(client, output).await,
            Self::Edit(command) => command.run(client, output).await,
            Self::Delete(named) => {
                client.delete(&address(&named.name)?).await?;
                output.remark(&format!("{} is deleted; its servers stay.", named.name))
            }
            Self::Add(members) => members.add(client, output).await,
            Self::Remove(members) => members.take_out(client, output).await,
        }
    }
}

fn address(group: &str) -> Result<String, CliError> {
    Ok(format!("{GROUPS}/{}", segment(group)?))
}

fn count(group: &Value, name: &str) -> String {
    group.get(name).and_then(Value::as_u64).unwrap_or_default().to_string()
}

/// What chooses the members, in a few words.
fn chosen_by(group: &Value) -> String {
    if text(group, "kind") == "static" {
        return "by hand".to_owned();
    }
    ["tags", "regions", "environments", "health"]
        .into_iter()
        .map(|name| (name, list(group, name)))
        .filter(|(_, words)| !words.is_empty())
        .map(|(name, words)| format!("{name}: {words}"))
        .collect::<Vec<_>>()
        .join("; ")
}

async fn show_all(client: &Client, output: &Output) -> Result<(), CliError> {
    let groups = client.all(GROUPS, &[]).await?;
    if output.json {
        return output.value(&Value::Array(groups));
    }
    if groups.is_empty() {
        return output.remark("There are no groups yet; make one with 'roundsman group create NAME'.");
    }
    let header = ["GROUP", "SERVERS", "HEALTHY", "DEGRADED", "CRITICAL", "UNREACHABLE", "CPU", "CHOSEN"];
    let row = |group: &Value| {
        vec![
            text(group, "name").to_owned(),
            count(group, "total_servers"),
            count(group, "healthy_servers"),
            count(group, "degraded_servers"),
            count(group, "critical_servers"),
            count(group, "unreachable_servers"),
            number(group, "average_cpu_percent", " %"),
            chosen_by(group),
        ]
    };
    output.table(&header, &[1, 2, 3, 4, 5, 6], groups.iter().map(row).collect())
}

async fn show(name: &str, client: &Client, output: &Output) -> Result<(), CliError> {
    let group = client.get(&address(name)?).await?;
    let members = client.all(&format!("{}/servers", address(name)?), &[]).await?;
    if output.json {
        return output.value(&json!({ "group": group, "servers": members }));
    }
    let lines = [
        ("Name", text(&group, "name").to_owned()),
        ("Id", text(&group, "id").to_owned()),
        ("Description", text(&group, "description").to_owned()),
        ("Colour", text(&group, "color").to_owned()),
        ("Chosen", chosen_by(&group)),
        ("Average CPU", number(&group, "average_cpu_percent", " %")),
        ("Servers", members.len().to_string()),
    ];
    for (title, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        output.line(&format!("{title:<14} {value}"))?;
    }
    members.iter().try_for_each(|server| {
        output.line(&format!("  {} {}", text(server, "name"), text(server, "health_status")))
    })
}

impl Create {
    async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        let about = self.about;
        let body = json!({
            "name": self.name, "description": about.description, "color": about.color, "tags": about.tags,
            "regions": about.regions, "environments": about.environments, "health": about.health,
        });
        let mut made = client.post(GROUPS, &body).await?;
        if !self.servers.is_empty() {
            let place = format!("{}/servers", address(text(&made, "id"))?);
            made = client.post(&place, &json!({ "server_ids": self.servers })).await?;
        }
        told(&made, output)
    }
}

fn told(group: &Value, output: &Output) -> Result<(), CliError> {
    if output.json {
        return output.value(group);
    }
    let (name, total) = (text(group, "name"), count(group, "total_servers"));
    output.line(&format!("{name}: {total} servers, chosen {}", chosen_by(group)))
}

impl Edit {
    async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        let place = address(&self.group)?;
        let before = client.get(&place).await?;
        let about = self.about;
        let conditions = |new: Vec<String>, name: &str| {
            if self.by_hand {
                return json!([]);
            }
            if new.is_empty() { before.get(name).cloned().unwrap_or_default() } else { json!(new) }
        };
        let body = json!({
            "name": self.name.as_deref().unwrap_or_else(|| text(&before, "name")),
            "description": about.description.as_deref().unwrap_or_else(|| text(&before, "description")),
            "color": about.color.as_deref().unwrap_or_else(|| text(&before, "color")),
            "tags": conditions(about.tags, "tags"),
            "regions": conditions(about.regions, "regions"),
            "environments": conditions(about.environments, "environments"),
            "health": conditions(about.health, "health"),
        });
        told(&client.put(&place, &body).await?, output)
    }
}

impl Members {
    /// Ids of the servers that are meant, after saying which they are.
    async fn chosen(&self, what: &str, client: &Client, output: &Output) -> Result<Vec<String>, CliError> {
        let mut selection = self.selection.clone();
        selection.servers.extend(self.servers.iter().cloned());
        let servers = selection.preview(client).await?;
        if servers.is_empty() {
            return Err(CliError::failed("no server fits; nothing was changed"));
        }
        let names: Vec<&str> = servers.iter().take(NAMED).map(|server| text(server, "server_name")).collect();
        let more = match servers.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        output.remark(&format!("{what} {}: {}{more}", self.name, names.join(", ")))?;
        Ok(servers.iter().map(|server| text(server, "server_id").to_owned()).collect())
    }

    async fn add(self, client: &Client, output: &Output) -> Result<(), CliError> {
        let place = format!("{}/servers", address(&self.name)?);
        let servers = self.chosen("Into", client, output).await?;
        told(&client.post(&place, &json!({ "server_ids": servers })).await?, output)
    }

    async fn take_out(self, client: &Client, output: &Output) -> Result<(), CliError> {
        let place = address(&self.name)?;
        for server in self.chosen("Out of", client, output).await? {
            client.delete(&format!("{place}/servers/{}", segment(&server)?)).await?;
        }
        told(&client.get(&place).await?, output)
    }
}
