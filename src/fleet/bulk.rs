//! The same change to many servers: each is a change of its own, audited as such, and says for itself whether it was made.

use super::{Fleet, FleetError, ServerEdit};
use crate::auth;
use crate::model::{Caller, Role, Selector, ServerName, Status};

/// What is changed on each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BulkChange {
    AddTags(Vec<String>),
    RemoveTags(Vec<String>),
    Status(Status),
    /// With their samples; the audit log keeps what was done.
    Remove,
}

/// What became of one server.
#[derive(Debug)]
pub struct BulkOutcome {
    pub server: ServerName,
    pub result: Result<(), FleetError>,
}

impl Fleet {
    /// Changes the servers one after another. One that cannot be changed does not keep the others from it.
    ///
    /// # Errors
    /// [`FleetError::Auth`], [`FleetError::NoSuchServer`] and [`FleetError::Invalid`] before anything is changed.
    pub async fn change_many(
        &self,
        caller: &Caller,
        servers: &[String],
        change: &BulkChange,
    ) -> Result<Vec<BulkOutcome>, FleetError> {
        auth::require(caller, Role::Admin)?;
        if let BulkChange::AddTags(tags) | BulkChange::RemoveTags(tags) = change
            && tags.is_empty()
        {
            return Err(FleetError::invalid("tags", "say which tags"));
        }
        let states = self.select(caller, &Selector::of_servers(servers.to_vec()))?;
        if states.is_empty() {
            return Err(FleetError::invalid("server", "no server was chosen"));
        }
        let mut outcomes = Vec::with_capacity(states.len());
        for state in states {
            let id = state.server.id.to_string();
            let now: Vec<String> = state.server.tags.iter().map(ToString::to_string).collect();
            let tags = match change {
                BulkChange::AddTags(added) => Some(now.iter().chain(added).cloned().collect()),
                BulkChange::RemoveTags(gone) => {
                    Some(now.iter().filter(|tag| !gone.contains(tag)).cloned().collect())
                }
                BulkChange::Status(_) | BulkChange::Remove => None,
            };
            let status = if let BulkChange::Status(status) = change { Some(*status) } else { None };
            let result = if *change == BulkChange::Remove {
                self.remove(caller, &id).await
            } else {
                let edit = ServerEdit { tags, status, ..ServerEdit::default() };
                self.edit(caller, &id, edit).await.map(drop)
            };
            outcomes.push(BulkOutcome { server: state.server.name.clone(), result });
        }
        Ok(outcomes)
    }
}
