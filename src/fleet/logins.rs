//! How often each server saw a login of Roundsman today, kept over a restart.
//!
//! Counted in memory at once, written a little later: a thousand connections that come back together are one transaction.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::registry::{DAY_MS, Entry};
use crate::clock::Clock;
use crate::model::{ServerId, Timestamp};
use crate::store::{Store, logins};

/// A kill loses the counts of at most this long.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// Counts that are not written yet.
#[derive(Debug, Default)]
pub struct LoginBook {
    unwritten: Mutex<HashMap<i64, HashMap<ServerId, u32>>>,
    changed: Notify,
}

impl LoginBook {
    /// A server accepted `count` logins.
    pub fn count(&self, entry: &Entry, count: u64, now: Timestamp) {
        if count == 0 {
            return;
        }
        let today = {
            let mut live = entry.live();
            live.logins.add(u32::try_from(count).unwrap_or(u32::MAX), now);
            live.logins.today(now)
        };
        let mut unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
        unwritten.entry(day_of(now)).or_default().insert(entry.id, today);
        drop(unwritten);
        self.changed.notify_one();
    }

    /// Writes what is counted, until stopped, and once more then.
    pub async fn keep(&self, store: &Store, clock: &dyn Clock, stop: &CancellationToken) {
        let today = day_of(clock.now());
        if let Err(error) = store.write(move |tx| logins::forget_counts_before(tx, today)).await {
            tracing::warn!(%error, "old counts of logins cannot be removed");
        }
        loop {
            let stopped = tokio::select! {
                biased;
                () = stop.cancelled() => true,
                () = self.changed.notified() => {
                    tokio::select! {
                        () = stop.cancelled() => true,
                        () = tokio::time::sleep(WRITE_EVERY) => false,
                    }
                }
            };
            self.write(store).await;
            if stopped {
                return;
            }
        }
    }

    async fn write(&self, store: &Store) {
        let days = std::mem::take(&mut *self.unwritten.lock().unwrap_or_else(PoisonError::into_inner));
        for (day, counts) in days {
            let writing = counts.clone();
            let Err(error) = store.write(move |tx| logins::set_counts(tx, day, &writing)).await else {
                continue;
            };
            tracing::error!(%error, servers = counts.len(), "counts of logins cannot be written; they are kept for the next time");
            let mut unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
            let newer = unwritten.entry(day).or_default();
            for (server, count) in counts {
                newer.entry(server).or_insert(count);
            }
        }
    }
}

/// Days since 1970, UTC.
pub fn day_of(now: Timestamp) -> i64 {
    now.as_millis().div_euclid(DAY_MS)
}
