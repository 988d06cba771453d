//! A server that cannot be read: what it is said to be then, and when it is worth another attempt.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;

use super::{Poller, Shared};
use crate::fleet::registry::Entry;
use crate::model::{Event, Health, Layer, Reachability, Timestamp};
use crate::ssh::{SessionState, SshError};

/// After a probe that does not work at all the next attempt waits, so that a broken login shell is not hammered; twice as
/// long each time, because a jump host without a shell stays as it is.
pub(super) const PROBE_PAUSE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_mins(5));
/// When a jump host is back, those behind it dial again within this, not all at once.
const JUMP_SPREAD: Duration = Duration::from_secs(3);

impl Poller {
    /// The connection cannot be made: says which layer failed and what to do.
    pub(super) fn refused(&self, error: &SshError) {
        let is_known = matches!(self.entry.live().reachability, Reachability::Unreachable { .. });
        if is_known && matches!(error, SshError::Closed { .. }) {
            // Roundsman itself cut the connection of a server that did not answer; the reason given then says more.
            self.entry.checks.send_modify(|count| *count += 1);
            return;
        }
        let (health, seen) = match error {
            SshError::HostKeyChanged { seen, .. } | SshError::HostKeyRevoked { seen, .. } => {
                (Health::Critical, Some((**seen).clone()))
            }
            SshError::HostKeyUnknown { seen, .. } => (Health::Unreachable, Some((**seen).clone())),
            _ => (Health::Unreachable, None),
        };
        if seen.is_some() {
            self.entry.live().offered_host_key = seen;
        }
        self.unreachable(health, error.layer(), format!("{error} {}", error.advice()));
    }

    pub(super) fn no_answer(&self, layer: Option<Layer>, reason: String) {
        self.unreachable(Health::Unreachable, layer, reason);
    }

    fn unreachable(&self, health: Health, layer: Option<Layer>, reason: String) {
        self.shared.counts.failed(layer);
        unreachable(&self.entry, &self.shared, health, layer, reason);
    }

    pub(super) fn publish_health(&self, at: Timestamp) {
        publish_health(&self.entry, &self.shared, at);
    }
}

/// Says of a server that nobody can even try to log in there: a key of an agent that is not there, for example.
pub fn cannot_log_in(entry: &Entry, shared: &Shared, reason: &str) {
    unreachable(entry, shared, Health::Unreachable, Some(Layer::Authentication), reason.to_owned());
}

fn unreachable(entry: &Entry, shared: &Shared, health: Health, layer: Option<Layer>, reason: String) {
    let now = shared.clock.now();
    let changed = {
        let mut live = entry.live();
        live.last_health_check_at = Some(now);
        let since = match &live.reachability {
            Reachability::Unreachable { since, .. } => *since,
            _ => now,
        };
        live.reachability = Reachability::Unreachable { layer, reason: reason.clone(), since };
        live.figures = Arc::default();
        live.standing.no_reading(health, reason)
    };
    if changed {
        let server = entry.server();
        let reason = entry.live().standing.shown.reasons.join(" ");
        tracing::warn!(server = %server.name, %health, reason, "a server cannot be read");
        publish_health(entry, shared, now);
    }
    entry.checks.send_modify(|count| *count += 1);
}

fn publish_health(entry: &Entry, shared: &Shared, at: Timestamp) {
    let event = {
        let live = entry.live();
        Event::Health {
            organization: live.server.organization,
            server: live.server.id,
            health: live.standing.shown.health,
            reachability: live.reachability.clone(),
            at,
        }
    };
    drop(shared.events.send(event));
}

/// Ends when the jump host has a connection again after it had none; never where there is no jump host.
pub(super) async fn back_again(jump: Option<&Entry>) {
    let Some(entry) = jump else { return std::future::pending().await };
    let mut sessions = entry.sessions();
    let mut was_down = false;
    loop {
        let session = sessions.borrow_and_update().clone();
        if let Some(session) = session {
            let mut states = session.state();
            loop {
                let is_up = matches!(*states.borrow_and_update(), SessionState::Ready { .. });
                if is_up && was_down {
                    let share = rand::rng().random_range(0.0..1.0);
                    return tokio::time::sleep(JUMP_SPREAD.mul_f64(share)).await;
                }
                was_down |= !is_up;
                tokio::select! {
                    changed = states.changed() => if changed.is_err() { break },
                    changed = sessions.changed() => {
                        if changed.is_ok() {
                            sessions.mark_changed();
                        }
                        break;
                    }
                }
            }
        }
        was_down = true;
        if sessions.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// The wait after `failures` probes in a row that did not work.
pub(super) fn probe_pause(failures: u32) -> Duration {
    PROBE_PAUSE.0.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(PROBE_PAUSE.1)
}
