//! Which servers a command is about: the options that `list`, `exec`, `op` and others share.

use clap::Args;

use crate::model::{Health, Selector, Status};

/// Options that choose servers; flatten it into the arguments of a command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Which servers")]
pub struct Selection {
    /// These servers, by name or id: --server a,b or several times
    #[arg(long = "server", value_name = "NAME", value_delimiter = ',')]
    pub servers: Vec<String>,
    /// The members of this group; of several, the members of any
    #[arg(long = "group", value_name = "GROUP", value_delimiter = ',')]
    pub groups: Vec<String>,
    /// Servers with this tag; of several, all are needed
    #[arg(long = "tag", value_name = "TAG", value_delimiter = ',')]
    pub tags: Vec<String>,
    /// Servers of this region; of several, of any
    #[arg(long = "region", value_name = "REGION")]
    pub regions: Vec<String>,
    /// Servers of this environment; of several, of any
    #[arg(long = "environment", value_name = "NAME")]
    pub environments: Vec<String>,
    /// Servers of this health; of several, of any
    #[arg(
        long = "health",
        value_name = "healthy|degraded|critical|unreachable|unknown",
        value_delimiter = ','
    )]
    pub health: Vec<Health>,
    /// Servers of this status
    #[arg(long = "status", value_name = "active|maintenance|inactive")]
    pub status: Option<Status>,
    /// Every server, narrowed by the other options
    #[arg(long = "all")]
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
