//! How often each part of a server is read: the base on the server's own interval, heavy sections more seldom, facts hardly
//! ever. A change is obeyed from the next reading on; no poller is restarted for it.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use serde::Serialize;

use super::{Fleet, FleetError, input};
use crate::auth;
use crate::model::{Caller, OrganizationId, Role, Server};
use crate::store::audit::{self, Entry as AuditEntry};
use crate::store::settings;

/// Heavy sections (processes, services, containers, users) where nobody set anything: a page that is opened asks for them at
/// once, so this only bounds how old failed services and container figures are.
const HEAVY_INTERVAL_MS: u32 = 30_000;
/// Facts change with installations and reboots.
pub(super) const FACTS_EVERY: Duration = Duration::from_secs(600);

/// What is read how often at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cadence {
    pub interval_ms: u32,
    /// While nobody looks.
    pub heavy_interval_ms: u32,
    /// What it would be if the server had none of its own.
    pub default_heavy_interval_ms: u32,
    pub facts_interval_ms: u32,
    /// Somebody looks at heavy sections now, so they come with every reading.
    pub is_looked_at: bool,
}

impl Default for Cadence {
    fn default() -> Self {
        Self {
            interval_ms: 5_000,
            heavy_interval_ms: HEAVY_INTERVAL_MS,
            default_heavy_interval_ms: HEAVY_INTERVAL_MS,
            facts_interval_ms: u32::try_from(FACTS_EVERY.as_millis()).unwrap_or(u32::MAX),
            is_looked_at: false,
        }
    }
}

/// The defaults of the organizations, read by every poller before every reading.
#[derive(Debug, Default)]
pub struct CadenceBook {
    heavy_ms: RwLock<HashMap<OrganizationId, u32>>,
    /// Held while one is changed, so that memory and store agree on which change was the last.
    changing: tokio::sync::Mutex<()>,
}

impl CadenceBook {
    fn default_ms(&self, organization: OrganizationId) -> u32 {
        let heavy_ms = self.heavy_ms.read().unwrap_or_else(PoisonError::into_inner);
        heavy_ms.get(&organization).copied().unwrap_or(HEAVY_INTERVAL_MS)
    }

    fn set(&self, organization: OrganizationId, millis: u32) {
        self.heavy_ms.write().unwrap_or_else(PoisonError::into_inner).insert(organization, millis);
    }

    /// How often the heavy sections of this server are read while nobody looks.
    #[must_use]
    pub fn heavy(&self, server: &Server) -> Duration {
        let millis = server.heavy_interval_ms.unwrap_or_else(|| self.default_ms(server.organization));
        Duration::from_millis(millis.into())
    }

    #[must_use]
    pub fn of(&self, server: &Server, is_looked_at: bool) -> Cadence {
        let default_heavy_interval_ms = self.default_ms(server.organization);
        Cadence {
            interval_ms: server.interval_ms,
            heavy_interval_ms: server.heavy_interval_ms.unwrap_or(default_heavy_interval_ms),
            default_heavy_interval_ms,
            is_looked_at,
            ..Cadence::default()
        }
    }
}

/// Whether a part that is wanted `every` so often belongs to this reading, `since` after the last that had it. Readings come
/// one `interval` apart, give or take some milliseconds: the nearest one is taken, or 30 s would be 35 s every other time.
#[must_use]
pub(super) fn is_due(since: Duration, interval: Duration, every: Duration) -> bool {
    since + interval / 2 >= every
}

impl Fleet {
    /// How often heavy sections of servers without an interval of their own are read, in milliseconds.
    ///
    /// # Errors
    /// [`FleetError::Auth`].
    pub fn default_heavy_interval_ms(&self, caller: &Caller) -> Result<u32, FleetError> {
        auth::require(caller, Role::Viewer)?;
        Ok(self.inner.shared.cadence.default_ms(caller.organization))
    }

    /// Sets it, from the next reading of each server on.
    ///
    /// # Errors
    /// [`FleetError::Invalid`] outside 1 s to 1 h.
    pub async fn set_default_heavy_interval(&self, caller: &Caller, millis: u64) -> Result<u32, FleetError> {
        auth::require(caller, Role::Admin)?;
        let millis = input::interval_ms("heavy_interval_ms", millis)?;
        let _alone = self.inner.shared.cadence.changing.lock().await;
        let before = self.inner.shared.cadence.default_ms(caller.organization);
        let (now, organization) = (self.inner.clock.now(), caller.organization);
        let entry = AuditEntry::by(caller, "cadence.set", "cadence")
            .detail(format!("heavy sections every {millis} ms in place of {before} ms"));
        let by = caller.actor.to_string();
        self.inner
            .store
            .write(move |tx| {
                settings::set(tx, organization, settings::HEAVY_INTERVAL, &millis, (now, &by))?;
                audit::append(tx, now, &entry)
            })
            .await?;
        self.inner.shared.cadence.set(organization, millis);
        Ok(millis)
    }

    pub(super) async fn load_cadence(&self) -> Result<(), FleetError> {
        let stored = self.inner.store.read(|c| settings::of_all::<u32>(c, settings::HEAVY_INTERVAL)).await?;
        for (organization, millis) in stored {
            self.inner.shared.cadence.set(organization, millis);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heavy_sections_come_with_the_reading_that_is_nearest_to_their_time() {
        let ms = Duration::from_millis;
        assert!(is_due(ms(29_998), ms(5_000), ms(30_000)), "not five seconds late for two milliseconds");
        assert!(!is_due(ms(25_002), ms(5_000), ms(30_000)));
        assert!(is_due(ms(3_600_000), ms(3_600_000), ms(30_000)), "a slow server brings them every time");
        assert!(is_due(ms(1_000), ms(1_000), ms(1_000)));
    }
}
