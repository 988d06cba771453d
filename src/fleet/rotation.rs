//! Replacing a key on servers without ever locking Roundsman out.

use super::{Fleet, FleetError};
use crate::model::{Caller, KeyId, ServerId};

impl Fleet {
    /// Servers on which a replacement of this key began and was not brought to its end, with their names.
    pub(super) async fn unfinished_rotations(
        &self,
        _caller: &Caller,
        _key: KeyId,
    ) -> Result<Vec<(ServerId, String)>, FleetError> {
        Ok(Vec::new())
    }

    /// What logs in with this key takes its present form (with or without certificate) from the next login on; who
    /// waits because the old form was refused tries at once.
    pub(super) async fn identity_changed(&self, caller: &Caller, key: KeyId) -> Result<(), FleetError> {
        for entry in self.inner.registry.of(caller) {
            let (uses, session) = {
                let live = entry.live();
                (live.key, live.session.clone())
            };
            let Some(session) = session else { continue };
            let organization = caller.organization;
            let id = match uses {
                Some(id) => Some(id),
                None => self
                    .inner
                    .store
                    .read(move |c| crate::store::keys::default_of(c, organization))
                    .await?
                    .map(|kept| kept.id),
            };
            if id == Some(key)
                && let Some(target) = self.target_of(&entry).await?
            {
                session.renew(target).await;
            }
        }
        Ok(())
    }
}
