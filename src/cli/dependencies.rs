//! `dependency`: which service of a server needs which service of another.
//!
//! Operations go in this order with `--by-dependencies`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, segment};
use super::error::CliError;
use super::output::{Output, printable, text};

const DEPENDENCIES: &str = "/api/v1/fleet/dependencies";

#[derive(Debug, Subcommand)]
pub enum DependencyCommand {
    /// What needs what
    List {
        /// Only what has to do with this server
        #[arg(long, value_name = "NAME")]
        server: Option<String>,
    },
    /// Say that a service needs another; a circle is refused
    Add(Pair),
    /// Take it back
    Remove(Pair),
}

/// Two services that have to do with each other.
#[derive(Debug, Args)]
pub struct Pair {
    /// The one that needs the other
    #[arg(value_name = "SERVER:SERVICE")]
    service: String,
    /// The one that is needed
    #[arg(value_name = "SERVER:SERVICE")]
    needs: String,
}

impl Pair {
    fn parts(&self) -> Result<[&str; 4], CliError> {
        let split = |text: &'_ str| {
            CliError::usage(format!("'{}' is not SERVER:SERVICE, such as web-1:nginx", printable(text)))
        };
        let (server, service) = self.service.split_once(':').ok_or_else(|| split(&self.service))?;
        let (needs_server, needs) = self.needs.split_once(':').ok_or_else(|| split(&self.needs))?;
        Ok([server, service, needs_server, needs])
    }
}

impl DependencyCommand {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        match self {
            Self::List { server } => list(server.as_deref(), client, output).await,
            Self::Add(pair) => {
                let [server, service, needs_server, needs] = pair.parts()?;
                let body = json!({
                    "server_id": server, "service": service,
                    "needs_server_id": needs_server, "needs_service": needs,
                });
                let made = client.post(DEPENDENCIES, &body).await?;
                if output.json { output.value(&made) } else { output.line(&sentence(&made)) }
            }
            Self::Remove(pair) => {
                let [server, service, needs_server, needs] = pair.parts()?;
                let all = client.all(DEPENDENCIES, &[]).await?;
                let is_one = |one: &&Value| {
                    of(one, "server", server)
                        && text(one, "service") == service
                        && of(one, "needs_server", needs_server)
                        && text(one, "needs_service") == needs
                };
                let Some(found) = all.iter().find(is_one) else {
                    return Err(CliError::failed(format!("{} does not need {}", pair.service, pair.needs)));
                };
                client.delete(&format!("{DEPENDENCIES}/{}", segment(text(found, "id"))?)).await?;
                output.remark(&format!("It is no longer said that {}.", sentence(found)))
            }
        }
    }
}

/// Whether the server is this one, by name or id.
fn of(dependency: &Value, role: &str, server: &str) -> bool {
    [format!("{role}_name"), format!("{role}_id")].iter().any(|name| text(dependency, name) == server)
}

fn sentence(dependency: &Value) -> String {
    let said = |name: &str| text(dependency, name).to_owned();
    format!(
        "{}:{} needs {}:{}",
        said("server_name"),
        said("service"),
        said("needs_server_name"),
        said("needs_service")
    )
}

async fn list(server: Option<&str>, client: &Client, output: &Output) -> Result<(), CliError> {
    let mut found = client.all(DEPENDENCIES, &[]).await?;
    if let Some(server) = server {
        found.retain(|one| of(one, "server", server) || of(one, "needs_server", server));
    }
    if output.json {
        return output.value(&Value::Array(found));
    }
    let row = |one: &Value| {
        ["server_name", "service", "needs_server_name", "needs_service"]
            .iter()
            .map(|name| text(one, name).to_owned())
            .collect()
    };
    output.table(&["SERVER", "SERVICE", "NEEDS", "ITS SERVICE"], &[], found.iter().map(row).collect())
}
