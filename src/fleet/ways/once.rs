//! What the ways to many servers have in common, read once for all of them.

use std::collections::HashMap;

use crate::fleet::known::Marked;
use crate::fleet::{Fleet, FleetError};
use crate::model::{KeyId, OrganizationId};
use crate::ssh::Identity;

/// What the ways to many servers have in common: read once for all of them, at the start, when nothing changes meanwhile.
#[derive(Default)]
pub(in crate::fleet) struct Common {
    identities: HashMap<(OrganizationId, Option<KeyId>), Identity>,
    marked: HashMap<OrganizationId, Marked>,
}

impl Common {
    pub(super) async fn identity(
        &mut self,
        fleet: &Fleet,
        organization: OrganizationId,
        key: Option<KeyId>,
    ) -> Result<Identity, FleetError> {
        if let Some(known) = self.identities.get(&(organization, key)) {
            return Ok(known.clone());
        }
        let identity = fleet.identity(organization, key).await?;
        self.identities.insert((organization, key), identity.clone());
        Ok(identity)
    }

    pub(super) async fn marked(
        &mut self,
        fleet: &Fleet,
        organization: OrganizationId,
    ) -> Result<Marked, FleetError> {
        if let Some(known) = self.marked.get(&organization) {
            return Ok(known.clone());
        }
        let marked = fleet.marked(organization).await?;
        self.marked.insert(organization, marked.clone());
        Ok(marked)
    }
}
