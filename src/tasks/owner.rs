//! As whom a task acts: its owner with the rights that they have at that moment, never those that they had.

use super::{TaskError, Tasks};
use crate::model::{Actor, Caller, Owner, Rights, Role, Task};
use crate::store::{StoreError, tokens, users};

/// Who answers for a task that the caller saves.
pub(super) fn owner_of(caller: &Caller) -> Result<Owner, TaskError> {
    Ok(match &caller.actor {
        Actor::User { id, .. } => Owner::User(*id),
        Actor::Token { id, .. } => Owner::Token(*id),
        Actor::System { uid, .. } => Owner::System(*uid),
        Actor::Roundsman => Owner::Roundsman,
        Actor::Task { .. } => return Err(TaskError::invalid("name", "a task makes no tasks")),
    })
}

impl Tasks {
    /// The owner of a task as a caller. Err: why they have no rights any more.
    pub(super) async fn caller_for(&self, task: &Task) -> Result<Result<Caller, String>, StoreError> {
        let role = match task.owner {
            Owner::User(id) => {
                let user = self.inner.store.read(move |c| users::user_by_id(c, id)).await?;
                user.filter(|user| user.organization == task.organization)
                    .map(|user| user.role)
                    .ok_or("there is no such user any more")
            }
            Owner::Token(id) => {
                let now = self.inner.clock.now();
                let token = self.inner.store.read(move |c| tokens::by_id(c, id)).await?;
                match token.filter(|token| token.organization == task.organization) {
                    None => Err("there is no such token any more"),
                    Some(token) if token.revoked_at.is_some() => Err("that token is revoked"),
                    Some(token) if token.expires_at.is_some_and(|end| end <= now) => {
                        Err("that token has expired")
                    }
                    Some(token) => match token.rights {
                        Rights::Role(role) => Ok(role),
                        Rights::Enrol | Rights::Server(_) => Err("that token carries no role"),
                    },
                }
            }
            // The same as at the control socket.
            Owner::System(uid) if uid == 0 || uid == rustix::process::geteuid().as_raw() => Ok(Role::Admin),
            Owner::System(_) => Err("that user of the machine does not own Roundsman any more"),
            Owner::Roundsman => Ok(Role::Admin),
        };
        let owner = task.owner_name.clone();
        Ok(match role {
            Ok(role) => Ok(Caller {
                organization: task.organization,
                actor: Actor::Task { name: task.name.clone(), owner },
                role,
                from: None,
            }),
            Err(why) => {
                Err(format!("{owner}, who owns the task, may not act: {why}; save it as somebody else"))
            }
        })
    }
}
