//! The servers that a selector means now.

use std::collections::HashSet;

use super::state::ServerState;
use super::{Fleet, FleetError};
use crate::auth;
use crate::model::{Caller, Role, SELECTED_WORDS, Selector};

impl Fleet {
    /// The servers that are meant, each once: those named, in their order, then the chosen ones by name.
    ///
    /// # Errors
    /// [`FleetError::NoSuchServer`] and [`FleetError::NoSuchGroup`] for what is named and not there;
    /// [`FleetError::Invalid`] for a selector of more than [`SELECTED_WORDS`] words. No server is no error.
    pub fn select(&self, caller: &Caller, selector: &Selector) -> Result<Vec<ServerState>, FleetError> {
        auth::require(caller, Role::Viewer)?;
        if selector.words() > SELECTED_WORDS {
            let message = format!("a selection has at most {SELECTED_WORDS} names and conditions");
            return Err(FleetError::invalid("servers", message));
        }
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        for reference in &selector.servers {
            let entry = self.find(caller, reference)?;
            if seen.insert(entry.id) {
                found.push(self.state_of(&entry));
            }
        }
        if let Some(group) = selector.groups.first() {
            return Err(FleetError::NoSuchGroup(group.chars().take(80).collect()));
        }
        if selector.chooses() {
            for entry in self.inner.registry.of(caller) {
                let state = self.state_of(&entry);
                if fits(selector, &state) && seen.insert(entry.id) {
                    found.push(state);
                }
            }
        }
        Ok(found)
    }
}

/// Whether the server is what the conditions say, groups aside.
fn fits(selector: &Selector, state: &ServerState) -> bool {
    let server = &state.server;
    let one_of = |wanted: &[String], found: Option<&String>| {
        wanted.is_empty() || found.is_some_and(|found| wanted.contains(found))
    };
    one_of(&selector.regions, server.region.as_ref())
        && one_of(&selector.environments, server.environment.as_ref())
        && (selector.health.is_empty() || selector.health.contains(&state.health))
        && selector.status.is_none_or(|status| server.status == status)
        && selector.tags.iter().all(|wanted| server.tags.iter().any(|tag| tag.as_str() == wanted))
}
