//! What happens where another operation is under way on a server and nobody said it with the operation: what an administrator
//! set for the organization, else what the configuration says.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use super::{OperationError, Operations};
use crate::auth;
use crate::model::{Caller, OrganizationId, Role, WhenBusy};
use crate::store::Store;
use crate::store::audit::{self, Entry};
use crate::store::settings;

/// What administrators set; asked by every operation that begins.
#[derive(Debug)]
pub(super) struct Book {
    set: RwLock<HashMap<OrganizationId, WhenBusy>>,
    /// Held while one is changed, so that memory and store agree on which change was the last.
    changing: tokio::sync::Mutex<()>,
}

impl Book {
    pub(super) async fn load(store: &Store) -> Result<Self, OperationError> {
        let stored = store.read(|c| settings::of_all::<WhenBusy>(c, settings::WHEN_BUSY)).await?;
        Ok(Self { set: RwLock::new(stored.into_iter().collect()), changing: tokio::sync::Mutex::default() })
    }
}

impl Operations {
    pub(super) fn busy_policy(&self, organization: OrganizationId) -> WhenBusy {
        let set = self.inner.busy.set.read().unwrap_or_else(PoisonError::into_inner);
        set.get(&organization).copied().unwrap_or(self.inner.policy.when_busy)
    }

    /// What happens where another operation is under way and an operation does not say it itself.
    ///
    /// # Errors
    /// [`OperationError::Auth`].
    pub fn when_busy(&self, caller: &Caller) -> Result<WhenBusy, OperationError> {
        auth::require(caller, Role::Viewer)?;
        Ok(self.busy_policy(caller.organization))
    }

    /// Sets it for the organization, in place of what the configuration says; what is under way goes on as it began.
    ///
    /// # Errors
    /// [`OperationError::Auth`], [`OperationError::Store`].
    pub async fn set_when_busy(&self, caller: &Caller, wanted: WhenBusy) -> Result<(), OperationError> {
        auth::require(caller, Role::Admin)?;
        let _alone = self.inner.busy.changing.lock().await;
        let organization = caller.organization;
        let before = self.busy_policy(organization);
        let (now, by) = (self.inner.clock.now(), caller.actor.to_string());
        let entry = Entry::by(caller, "operations.when_busy", "operations").detail(format!(
            "{} in place of {}",
            wanted.name(),
            before.name()
        ));
        self.inner
            .store
            .write(move |tx| {
                settings::set(tx, organization, settings::WHEN_BUSY, &wanted, (now, &by))?;
                audit::append(tx, now, &entry)
            })
            .await?;
        self.inner.busy.set.write().unwrap_or_else(PoisonError::into_inner).insert(organization, wanted);
        Ok(())
    }
}
