//! The second identity's connection: made when an action needs it, closed when none did for a while.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::registry::Entry;
use super::ways::Purpose;
use super::{Fleet, FleetError};
use crate::ssh::Session;

/// Between two commands of one piece of work people think this long; then the server's login may end.
const IDLE: Duration = Duration::from_mins(10);
/// How often an open connection is asked whether it is used.
const LOOK_EVERY: Duration = Duration::from_secs(20);

/// Held while something runs over the second identity's connection. Dropping it lets the connection go idle.
#[derive(Debug, Clone)]
pub struct Lease {
    _counted: Arc<()>,
}

/// The session of the second identity.
#[derive(Debug, Clone)]
struct Acting {
    session: Session,
    stop: CancellationToken,
    in_use: Arc<()>,
}

impl Acting {
    fn lease(&self) -> Lease {
        Lease { _counted: Arc::clone(&self.in_use) }
    }
}

/// One server's second connection, while it has one.
#[derive(Debug, Default)]
pub struct ActingSlot(Mutex<Option<Acting>>);

impl ActingSlot {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Acting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection: another identity, another address, or no server any longer.
    pub fn close(&self) {
        if let Some(acting) = self.lock().take() {
            acting.stop.cancel();
        }
    }

    /// The session that there is now.
    pub fn session(&self) -> Option<Session> {
        self.present().map(|(session, _)| session)
    }

    /// The session with a lease on it. None: there is none now.
    fn present(&self) -> Option<(Session, Lease)> {
        let slot = self.lock();
        let acting = slot.as_ref().filter(|acting| !acting.stop.is_cancelled())?;
        Some((acting.session.clone(), acting.lease()))
    }
}

impl Fleet {
    /// The session for actions, dialled now if there is none.
    ///
    /// # Errors
    /// Why there can be none: an agent that is not there, a secret that does not open.
    pub(super) async fn acting_session(&self, entry: &Arc<Entry>) -> Result<(Session, Lease), FleetError> {
        if let Some(present) = entry.acting.present() {
            return Ok(present);
        }
        let target = self.target_of(entry, Purpose::Actions).await?.ok_or_else(|| {
            FleetError::Unavailable("this server has no SSH address, so nothing can be run on it".to_owned())
        })?;
        let mut slot = entry.acting.lock();
        // Another caller may have been faster while the target was being put together.
        if let Some(acting) = slot.as_ref().filter(|acting| !acting.stop.is_cancelled()) {
            return Ok((acting.session.clone(), acting.lease()));
        }
        let stop = self.inner.stop.child_token();
        let session = Session::start(target, Arc::clone(&self.inner.shared.gate), stop.clone());
        let acting = Acting { session: session.clone(), stop, in_use: Arc::new(()) };
        let lease = acting.lease();
        *slot = Some(acting.clone());
        drop(slot);
        self.inner.pollers.spawn(attend(self.clone(), Arc::clone(entry), acting));
        Ok((session, lease))
    }
}

/// Counts the logins of a second connection and ends it when it is idle.
async fn attend(fleet: Fleet, entry: Arc<Entry>, acting: Acting) {
    let mut states = acting.session.state();
    let mut counted = 0;
    let mut used_at = Instant::now();
    let shared = &fleet.inner.shared;
    loop {
        tokio::select! {
            () = acting.stop.cancelled() => break,
            changed = states.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let logins = acting.session.logins();
        shared.logins.count(&entry, logins.saturating_sub(counted), shared.clock.now());
        counted = logins;
        let mut slot = entry.acting.lock();
        // The slot and this task hold one each. Under the lock nobody can take another.
        if Arc::strong_count(&acting.in_use) > 2 {
            used_at = Instant::now();
        } else if used_at.elapsed() >= IDLE {
            acting.stop.cancel();
            *slot = None;
            return;
        }
    }
}
