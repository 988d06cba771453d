//! What a person does to an operation under way: hold it, end it.

use super::{OperationError, OperationView, Operations, news};
use crate::auth;
use crate::model::{Caller, Role};
use crate::store::audit::{self, Entry};
use crate::store::operations as rows;

impl Operations {
    /// Sends nothing more until [`Self::resume`]; what runs goes on.
    ///
    /// # Errors
    /// [`OperationError::Ended`]; [`OperationError::AlreadyPaused`].
    pub async fn pause(&self, caller: &Caller, id: &str) -> Result<OperationView, OperationError> {
        auth::require(caller, Role::Operator)?;
        let view = self.get(caller, id).await?;
        self.set_paused(caller, &view, true).await?;
        self.get(caller, id).await
    }

    /// Ends an operation: what was not sent is not sent, what runs is ended on its server.
    ///
    /// # Errors
    /// [`OperationError::NoSuchOperation`], or [`OperationError::Ended`].
    pub async fn cancel(&self, caller: &Caller, id: &str) -> Result<(), OperationError> {
        auth::require(caller, Role::Operator)?;
        let view = self.get(caller, id).await?;
        let running = self.find_running(view.operation.id).ok_or(OperationError::Ended)?;
        let now = self.inner.clock.now();
        let entry = Entry::by(caller, "operation.cancel", id).detail(view.operation.title);
        self.inner.store.write(move |tx| audit::append(tx, now, &entry)).await?;
        running.cancel.cancel();
        Ok(())
    }

    /// Holds it, or lets it go on.
    pub(super) async fn set_paused(
        &self,
        caller: &Caller,
        view: &OperationView,
        paused: bool,
    ) -> Result<(), OperationError> {
        let id = view.operation.id;
        let running = self.find_running(id).ok_or(OperationError::Ended)?;
        let _alone = running.changing.lock().await;
        if running.switch.now().paused == paused {
            return Err(if paused { OperationError::AlreadyPaused } else { OperationError::NotPaused });
        }
        let now = self.inner.clock.now();
        let action = if paused { "operation.pause" } else { "operation.resume" };
        let entry = Entry::by(caller, action, &id.to_string()).detail(view.operation.title.clone());
        self.inner
            .store
            .write(move |tx| {
                rows::set_paused(tx, id, paused.then_some(now))?;
                audit::append(tx, now, &entry)
            })
            .await?;
        // What is not written has no effect: after a stop nobody would know of it.
        running.switch.pause(paused);
        for target in view.targets.iter().take(1) {
            news::tell(self, &view.operation, target.target.server);
        }
        Ok(())
    }
}
