//! Replacing a key on servers without ever locking Roundsman out.

use std::sync::Arc;

use super::ways::Purpose;
use super::{Fleet, FleetError};
use crate::model::{Caller, KeyId, Login, LoginMethod, ServerId};
use crate::store::keys;

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
        let organization = caller.organization;
        let default = self.inner.store.read(move |c| keys::default_of(c, organization)).await?;
        let default = default.map(|kept| kept.id);
        for entry in self.inner.registry.of(caller) {
            let way = Arc::clone(&entry.live().way);
            let uses = |login: &Login| login.method == LoginMethod::Key && login.key.or(default) == Some(key);
            if uses(&way.login)
                && let Some(session) = entry.session()
                && let Some(target) = self.target_of(&entry, Purpose::Readings).await?
            {
                session.renew(target).await;
            }
            if way.action.as_ref().is_some_and(|action| uses(&action.login))
                && let Some(session) = entry.acting.session()
                && let Some(target) = self.target_of(&entry, Purpose::Actions).await?
            {
                session.renew(target).await;
            }
        }
        Ok(())
    }
}
