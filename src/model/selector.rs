//! Which servers are meant: the words that pages, API, command line, tasks and metrics share.

use serde::{Deserialize, Serialize};

use super::{Health, Server, Status};

/// Names, groups, tags, … of one selector at most: a fleet of 5,000 named one by one, with room.
pub const SELECTED_WORDS: usize = 10_000;

/// Servers by name, and servers by what they are.
///
/// `servers` are meant whatever else is said. To them come those that fit every other condition that is given: one of the
/// `groups`, one of the `regions`, one of the `environments`, one of the `health` states, all of the `tags`, the `status`.
/// With `all` these conditions narrow the whole fleet. Nothing given means no server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selector {
    /// Every server of the organization, narrowed by the conditions.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Ids or names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<String>,
    /// Ids or names of groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub environments: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub health: Vec<Health>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

impl Selector {
    /// These servers and no others.
    #[must_use]
    pub fn of_servers(servers: Vec<String>) -> Self {
        Self { servers, ..Self::default() }
    }

    /// It can mean no server, whatever the fleet is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty() && !self.chooses()
    }

    /// Some servers are chosen by what they are.
    #[must_use]
    pub fn chooses(&self) -> bool {
        self.all
            || !self.groups.is_empty()
            || !self.tags.is_empty()
            || !self.regions.is_empty()
            || !self.environments.is_empty()
            || !self.health.is_empty()
            || self.status.is_some()
    }

    /// Whether a server of this health is what the conditions say, groups aside.
    #[must_use]
    pub fn fits(&self, server: &Server, health: Health) -> bool {
        let one_of = |wanted: &[String], found: Option<&String>| {
            wanted.is_empty() || found.is_some_and(|found| wanted.contains(found))
        };
        one_of(&self.regions, server.region.as_ref())
            && one_of(&self.environments, server.environment.as_ref())
            && (self.health.is_empty() || self.health.contains(&health))
            && self.status.is_none_or(|status| server.status == status)
            && self.tags.iter().all(|wanted| server.tags.iter().any(|tag| tag.as_str() == wanted))
    }

    /// How many words it is made of.
    #[must_use]
    pub fn words(&self) -> usize {
        self.servers.len()
            + self.groups.len()
            + self.tags.len()
            + self.regions.len()
            + self.environments.len()
            + self.health.len()
    }
}
