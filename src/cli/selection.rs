//! Which servers a command is about: the options that `list`, `exec`, `op` and others share.

use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::error::CliError;
use super::output::{Output, text};
use crate::model::{Health, Selector, Status};

/// Where the servers that a selection means are listed before anything is done to them.
const SELECTION: &str = "/api/v1/fleet/selection";
/// Names that are told before something is done; the rest is counted.
const NAMED: usize = 20;

/// Options that choose servers; flatten it into the arguments of a command. The ids keep clear of the command's own fields.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Which servers")]
pub struct Selection {
    /// These servers, by name or id: --server a,b or several times
    #[arg(id = "selected-server", long = "server", value_name = "NAME", value_delimiter = ',')]
    pub servers: Vec<String>,
    /// The members of this group; of several, the members of any
    #[arg(id = "selected-group", long = "group", value_name = "GROUP", value_delimiter = ',')]
    pub groups: Vec<String>,
    /// Servers with this tag; of several, all are needed
    #[arg(id = "selected-tag", long = "tag", value_name = "TAG", value_delimiter = ',')]
    pub tags: Vec<String>,
    /// Servers of this region; of several, of any
    #[arg(id = "selected-region", long = "region", value_name = "REGION")]
    pub regions: Vec<String>,
    /// Servers of this environment; of several, of any
    #[arg(id = "selected-environment", long = "environment", value_name = "NAME")]
    pub environments: Vec<String>,
    /// Servers of this health; of several, of any
    #[arg(
        id = "selected-health",
        long = "health",
        value_name = "healthy|degraded|critical|unreachable|unknown",
        value_delimiter = ','
    )]
    pub health: Vec<Health>,
    /// Servers of this status
    #[arg(id = "selected-status", long = "status", value_name = "active|maintenance|inactive")]
    pub status: Option<Status>,
    /// Every server, narrowed by the other options
    #[arg(id = "selected-all", long = "all")]
    pub all: bool,
}

impl Selection {
    /// The same in the words of the API.
    #[must_use]
    pub fn selector(&self) -> Selector {
        Selector {
            all: self.all,
            servers: self.servers.clone(),
            groups: self.groups.clone(),
            tags: self.tags.clone(),
            regions: self.regions.clone(),
            environments: self.environments.clone(),
            health: self.health.clone(),
            status: self.status,
        }
    }

    /// The same as a query of `GET /fleet/servers` and `GET /fleet/selection`.
    #[must_use]
    pub(super) fn query(&self) -> Vec<(&'static str, &str)> {
        let lists = [
            ("server", &self.servers),
            ("group", &self.groups),
            ("tag", &self.tags),
            ("region", &self.regions),
            ("environment", &self.environments),
        ];
        let mut pairs: Vec<(&str, &str)> = lists
            .into_iter()
            .flat_map(|(name, values)| values.iter().map(move |value| (name, value.as_str())))
            .collect();
        pairs.extend(self.health.iter().map(|health| ("health", health.name())));
        pairs.extend(self.status.map(|status| ("status", status.name())));
        if self.all {
            pairs.push(("all", "true"));
        }
        pairs
    }

    /// The servers that are meant now: `server_id`, `server_name`, `impediment` each.
    ///
    /// # Errors
    /// [`CliError::Usage`] when nothing was chosen; what the server refuses, such as a name that it does not know.
    pub(super) async fn preview(&self, client: &Client) -> Result<Vec<Value>, CliError> {
        if self.selector().is_empty() {
            return Err(CliError::usage(
                "say which servers: --server, --group, --tag, --region, --environment, --health, --status or --all",
            ));
        }
        client.all(SELECTION, &self.query()).await
    }

    /// Tells a person which servers are meant, where they were chosen by what they are and not by name.
    ///
    /// # Errors
    /// As [`Self::preview`].
    pub(super) async fn announce(&self, client: &Client, output: &Output) -> Result<(), CliError> {
        if output.json || !self.selector().chooses() {
            return Ok(());
        }
        let found = self.preview(client).await?;
        match found.len() {
            0 => Ok(()),
            1 => output.remark(&format!("On {}.", names(&found))),
            count => output.remark(&format!("On {count} servers: {}.", names(&found))),
        }
    }
}

/// The servers of a preview for a sentence; of many, the first and how many more.
pub(super) fn names(found: &[Value]) -> String {
    let named: Vec<&str> = found.iter().take(NAMED).map(|server| text(server, "server_name")).collect();
    match found.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Chosen {
        #[command(flatten)]
        selection: Selection,
    }

    fn chosen(arguments: &[&str]) -> Selection {
        Chosen::try_parse_from(std::iter::once("chosen").chain(arguments.iter().copied())).unwrap().selection
    }

    #[test]
    fn the_options_become_a_selector() {
        let selection = chosen(&["--server", "a,b", "--tag", "prod", "--tag", "eu", "--health", "critical"]);
        let selector = selection.selector();
        assert_eq!(selector.servers, ["a", "b"]);
        assert_eq!(selector.tags, ["prod", "eu"]);
        assert_eq!(selector.health, [Health::Critical]);
        assert_eq!(
            selection.query(),
            [("server", "a"), ("server", "b"), ("tag", "prod"), ("tag", "eu"), ("health", "critical")]
        );
        assert!(chosen(&[]).selector().is_empty());
        assert!(!chosen(&["--all"]).selector().is_empty());
    }

    #[test]
    fn a_health_that_is_none_is_refused_with_those_that_are() {
        let refused = Chosen::try_parse_from(["chosen", "--health", "fine"]).unwrap_err().to_string();
        assert!(refused.contains("healthy, degraded, critical"), "{refused}");
    }
}
