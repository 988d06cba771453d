//! The last raw snapshot of each server, for those who pass it on as it is: Prometheus, a long-term store.
//!
//! The poller keeps it anyway, to compare the next one with; here it is shared, not copied.

use std::sync::Arc;

use super::registry::Entry;
use super::state::ServiceTable;
use super::{Fleet, FleetError};
use crate::model::{
    Caller, Facts, Filesystem, Reachability, Server, ServerId, Snapshot, TcpStates, Timestamp,
};

/// The clock of a server and our arithmetic move the boot time by less; more is a clock that was set.
const BOOT_TOLERANCE_MS: u64 = 5_000;

/// One snapshot as it came. Filesystems and the sections that are not in every reading are elsewhere in [`RawState`].
#[derive(Debug, Clone)]
pub struct RawReading {
    /// When it arrived, by our clock.
    pub at: Timestamp,
    pub snapshot: Arc<Snapshot>,
    /// When the server booted, Unix time in milliseconds; the same for every reading of one boot.
    pub boot_at_ms: Option<u64>,
}

impl RawReading {
    /// The reading after `before`.
    #[must_use]
    pub fn after(before: Option<&Self>, at: Timestamp, snapshot: Arc<Snapshot>) -> Self {
        let computed =
            snapshot.taken_at_ms.zip(snapshot.uptime_ms).and_then(|(now, uptime)| now.checked_sub(uptime));
        let known = before
            .filter(|before| before.snapshot.boot_id.is_some() && before.snapshot.boot_id == snapshot.boot_id)
            .and_then(|before| before.boot_at_ms);
        let boot_at_ms = match (known, computed) {
            (Some(known), Some(computed)) if known.abs_diff(computed) < BOOT_TOLERANCE_MS => Some(known),
            _ => computed,
        };
        Self { at, snapshot, boot_at_ms }
    }
}

/// Everything raw that is known of a server now.
#[derive(Debug, Clone)]
pub struct RawState {
    pub server: Arc<Server>,
    pub reading: RawReading,
    pub filesystems: Arc<[Filesystem]>,
    /// As of the last time that the sockets were gone through.
    pub tcp_states: Option<TcpStates>,
    pub facts: Option<Arc<Facts>>,
    /// As of their last reading.
    pub services: Option<ServiceTable>,
}

impl Fleet {
    /// The last raw reading of a server.
    ///
    /// # Errors
    /// [`FleetError::NoSuchServer`]; [`FleetError::Unavailable`] while the server is not reached, so that nobody takes
    /// what was for what is.
    pub fn raw(&self, caller: &Caller, reference: &str) -> Result<RawState, FleetError> {
        crate::auth::require(caller, crate::model::Role::Viewer)?;
        let entry = self.find(caller, reference)?;
        of(&entry).ok_or_else(|| {
            let live = entry.live();
            let reason = match &live.reachability {
                Reachability::Unreachable { reason, .. } => reason.clone(),
                _ => "it has not been read yet".to_owned(),
            };
            FleetError::Unavailable(format!("there is no current reading of {}: {reason}", live.server.name))
        })
    }

    /// What is enrolled under this id, in any organization.
    #[must_use]
    pub fn server_of(&self, id: ServerId) -> Option<Arc<Server>> {
        Some(self.inner.registry.get(id)?.server())
    }

    /// The last raw reading of a server of any organization. None: it is gone, or not reached now.
    #[must_use]
    pub fn raw_of(&self, id: ServerId) -> Option<RawState> {
        of(&*self.inner.registry.get(id)?)
    }
}

fn of(entry: &Entry) -> Option<RawState> {
    let live = entry.live();
    let reading = live.raw.clone().filter(|_| live.reachability == Reachability::Reachable)?;
    Some(RawState {
        server: Arc::clone(&live.server),
        reading,
        filesystems: Arc::clone(&live.filesystems),
        tcp_states: live.tcp_states.clone(),
        facts: live.facts.clone(),
        services: live.services.as_ref().and_then(super::packed::PackedServices::open),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_time_stays_the_same_until_the_next_boot() {
        let reading = |before: Option<&RawReading>, boot: &str, now: u64, uptime: u64| {
            let snapshot = Snapshot {
                boot_id: Some(boot.to_owned()),
                taken_at_ms: Some(now),
                uptime_ms: Some(uptime),
                ..Snapshot::default()
            };
            RawReading::after(before, Timestamp::from_millis(0), Arc::new(snapshot))
        };
        let first = reading(None, "a", 1_000_000, 5_000);
        assert_eq!(first.boot_at_ms, Some(995_000));
        let second = reading(Some(&first), "a", 1_005_020, 10_000);
        assert_eq!(second.boot_at_ms, Some(995_000), "20 ms of jitter are no boot");
        let set = reading(Some(&second), "a", 9_005_000, 10_000);
        assert_eq!(set.boot_at_ms, Some(8_995_000), "the clock was set");
        let rebooted = reading(Some(&second), "b", 1_006_000, 10_500);
        assert_eq!(rebooted.boot_at_ms, Some(995_500));
    }
}
