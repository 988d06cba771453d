//! When each server was last read, kept over a restart.
//!
//! The poller notes it in memory; here it goes to the store once a minute, all servers in one transaction.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::registry::Registry;
use crate::model::{ServerId, Timestamp};
use crate::store::{Store, seen};

/// A kill makes a server look unseen for at most this long before it was; 5,000 rows a minute are a few milliseconds.
const WRITE_EVERY: Duration = Duration::from_secs(60);

/// Writes what changed since the last time, until stopped, and once more then. `written` is what the store has.
pub async fn keep(
    registry: &Registry,
    store: &Store,
    mut written: HashMap<ServerId, Timestamp>,
    stop: &CancellationToken,
) {
    let mut rounds = tokio::time::interval_at(tokio::time::Instant::now() + WRITE_EVERY, WRITE_EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let stopped = tokio::select! {
            biased;
            () = stop.cancelled() => true,
            _ = rounds.tick() => false,
        };
        let seen = seen_now(registry);
        let changed: Vec<(ServerId, Timestamp)> =
            seen.iter().filter(|(id, at)| written.get(*id) != Some(*at)).map(|(id, at)| (*id, *at)).collect();
        if !changed.is_empty() {
            let servers = changed.len();
            match store.write(move |tx| seen::set(tx, &changed)).await {
                Ok(()) => written = seen,
                Err(error) => {
                    tracing::warn!(%error, servers, "when servers were last seen cannot be written; the next minute tries again");
                }
            }
        }
        if stopped {
            return;
        }
    }
}

fn seen_now(registry: &Registry) -> HashMap<ServerId, Timestamp> {
    registry.all().iter().filter_map(|entry| Some((entry.id, entry.live().last_seen_at?))).collect()
}
