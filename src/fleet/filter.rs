//! Which servers of a list are meant.

use super::state::ServerState;
use crate::model::{Health, Status};

/// Every given condition must hold; an empty filter means all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerFilter {
    /// Part of the name, the address or the description, in any case.
    pub search: Option<String>,
    pub status: Option<Status>,
    pub health: Option<Health>,
    pub region: Option<String>,
    pub environment: Option<String>,
    /// All of them.
    pub tags: Vec<String>,
    /// A member of any of them, by id or name; empty: whatever their group. [`super::Fleet::list`] knows the groups,
    /// [`ServerFilter::accepts`] does not.
    pub groups: Vec<String>,
}

impl ServerFilter {
    #[must_use]
    pub fn accepts(&self, state: &ServerState) -> bool {
        let server = &state.server;
        let equal = |wanted: &Option<String>, found: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| found.as_ref() == Some(wanted))
        };
        self.status.is_none_or(|status| server.status == status)
            && self.health.is_none_or(|health| state.health == health)
            && equal(&self.region, &server.region)
            && equal(&self.environment, &server.environment)
            && self.tags.iter().all(|wanted| server.tags.iter().any(|tag| tag.as_str() == wanted))
            && self.search.as_ref().is_none_or(|needle| {
                let needle = needle.to_lowercase();
                [server.name.as_str(), &server.description, server.hostname.as_deref().unwrap_or("")]
                    .iter()
                    .any(|text| text.to_lowercase().contains(&needle))
            })
    }
}
