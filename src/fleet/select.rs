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
        let mut groups = HashSet::new();
        for reference in &selector.groups {
            groups.insert(self.find_group(caller, reference)?.id);
        }
        if selector.chooses() {
            for entry in self.inner.registry.of(caller) {
                let state = self.state_of(&entry);
                let is_member =
                    groups.is_empty() || state.groups.iter().any(|group| groups.contains(&group.id));
                if is_member && selector.fits(&state.server, state.health) && seen.insert(entry.id) {
                    found.push(state);
                }
            }
        }
        Ok(found)
    }
}
