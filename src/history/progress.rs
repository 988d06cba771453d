//! How far each level of each server is rolled up, and which row is next. In memory; the file has the same in
//! the table `progress`. No I/O, no clock.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::level::Level;
use super::memory::spread_ms;

const MINUTE_MS: i64 = 60_000;

/// A row whose lower level is not complete yet is looked at again after this.
const AGAIN_MS: i64 = MINUTE_MS;

/// After the end of a row, so that what it is made from is complete: sealing takes the first minutes, and each
/// level the hour after the one below.
const fn delay_ms(level: Level) -> i64 {
    match level {
        Level::Raw | Level::Minute => 5 * MINUTE_MS,
        Level::FiveMinutes => 60 * MINUTE_MS,
        Level::QuarterHour => 120 * MINUTE_MS,
        Level::Hour => 180 * MINUTE_MS,
        Level::Day => 240 * MINUTE_MS,
    }
}

/// Servers are spread over this, so that no second has much to do.
const SPREAD_MS: i64 = 45 * MINUTE_MS;

/// Numbers of the next row of each roll-up, by [`Level::index`] - 1.
type Next = [i64; Level::ROLL_UPS.len()];

#[derive(Debug, Default)]
pub(super) struct Progress {
    next: HashMap<u32, Next>,
    due: BTreeSet<(i64, Level, u32)>,
    due_at: HashMap<(Level, u32), i64>,
    /// Levels whose next row cannot be written because the file is damaged there.
    stuck: HashSet<(u32, Level)>,
    /// Servers of which the file knows.
    saved: HashSet<u32>,
}

impl Progress {
    /// A server whose first values are of this time. Known servers stay as they are.
    pub(super) fn begin(&mut self, server: u32, at_ms: i64) {
        if self.next.contains_key(&server) {
            return;
        }
        let next = Level::ROLL_UPS.map(|level| level.row_of(at_ms));
        self.next.insert(server, next);
        for (level, row) in Level::ROLL_UPS.into_iter().zip(next) {
            self.schedule(server, level, due_ms(level, server, row));
        }
    }

    pub(super) fn servers(&self) -> impl Iterator<Item = u32> {
        self.next.keys().copied()
    }

    /// Whether a transaction that brought this server to the file is through.
    pub(super) fn is_saved(&self, server: u32) -> bool {
        self.saved.contains(&server)
    }

    pub(super) fn saved(&mut self, server: u32) {
        if self.next.contains_key(&server) {
            self.saved.insert(server);
        }
    }

    /// The next row of a level; None: the server is not known, or the level is raw.
    pub(super) fn next(&self, server: u32, level: Level) -> Option<i64> {
        self.next.get(&server)?.get(level.index().checked_sub(1)?).copied()
    }

    /// Everything before this is rolled up.
    pub(super) fn until_ms(&self, server: u32, level: Level) -> Option<i64> {
        Some(self.next(server, level)?.saturating_mul(level.span_ms()))
    }

    /// Everything of all servers before this is rolled up, but of those whose roll-up is stuck at this level or below:
    /// one damaged place must not keep everything for ever. None: there are no others.
    pub(super) fn all_until_ms(&self, level: Level) -> Option<i64> {
        let servers = self.next.keys().filter(|server| !self.is_stuck(**server, level));
        servers.filter_map(|server| self.until_ms(*server, level)).min()
    }

    fn is_stuck(&self, server: u32, level: Level) -> bool {
        let mut below = Level::ROLL_UPS.into_iter().filter(|below| *below <= level);
        !self.stuck.is_empty() && below.any(|below| self.stuck.contains(&(server, below)))
    }

    /// The next row cannot be written. It is tried again, until what it is made from has expired.
    pub(super) fn stuck(&mut self, server: u32, level: Level) {
        self.stuck.insert((server, level));
    }

    /// The row that was due first.
    pub(super) fn due(&self, now_ms: i64) -> Option<(Level, u32)> {
        let (due_ms, level, server) = self.due.first()?;
        (*due_ms <= now_ms).then_some((*level, *server))
    }

    /// The next row of a level from now on.
    pub(super) fn set(&mut self, server: u32, level: Level, row: i64) {
        let place = self.next.get_mut(&server).zip(level.index().checked_sub(1));
        if let Some(next) = place.and_then(|(next, place)| next.get_mut(place)) {
            *next = row;
            self.stuck.remove(&(server, level));
            self.schedule(server, level, due_ms(level, server, row));
        }
    }

    pub(super) fn postpone(&mut self, server: u32, level: Level, now_ms: i64) {
        self.schedule(server, level, now_ms + AGAIN_MS);
    }

    fn schedule(&mut self, server: u32, level: Level, at_ms: i64) {
        if let Some(before_ms) = self.due_at.insert((level, server), at_ms) {
            self.due.remove(&(before_ms, level, server));
        }
        self.due.insert((at_ms, level, server));
    }

    pub(super) fn forget(&mut self, server: u32) {
        self.next.remove(&server);
        self.saved.remove(&server);
        for level in Level::ROLL_UPS {
            self.stuck.remove(&(server, level));
            if let Some(at_ms) = self.due_at.remove(&(level, server)) {
                self.due.remove(&(at_ms, level, server));
            }
        }
    }
}

fn due_ms(level: Level, server: u32, row: i64) -> i64 {
    let end_ms = row.saturating_add(1).saturating_mul(level.span_ms());
    end_ms.saturating_add(delay_ms(level) + spread_ms(server, SPREAD_MS))
}
