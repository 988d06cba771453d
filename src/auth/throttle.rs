//! Slows down guessing: after a few failures in a row a door stays shut, each time twice as long.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::model::Timestamp;

/// Failures that cost nothing: people mistype.
const FREE_FAILURES: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Doors remembered at most; an attacker with many names and addresses must not fill the memory.
const DOORS: usize = 10_000;

/// One address trying one name. Not the name alone: a stranger must not be able to lock an administrator out.
pub(super) type Door = (Option<IpAddr>, String);

#[derive(Debug, Default)]
pub(super) struct Throttle {
    doors: HashMap<Door, Failures>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Timestamp,
}

/// How long a door stays shut after this many failures in a row.
fn wait_after(count: u32) -> Duration {
    match count.checked_sub(FREE_FAILURES) {
        None => Duration::ZERO,
        Some(extra) => FIRST_WAIT.saturating_mul(1 << extra.min(16)).min(LONGEST_WAIT),
    }
}

impl Throttle {
    /// How long this door is still shut. None: it is open.
    fn wait(&self, door: &Door, now: Timestamp) -> Option<Duration> {
        let failures = self.doors.get(door)?;
        let left = wait_after(failures.count).checked_sub(now.since(failures.last))?;
        (left > Duration::ZERO).then_some(left)
    }

    /// Lets one attempt in and counts it as failed until [`Self::succeeded`] says otherwise: attempts at the same
    /// time must not all find the door open. Err: how long it is still shut.
    pub(super) fn enter(&mut self, door: &Door, now: Timestamp) -> Result<(), Duration> {
        match self.wait(door, now) {
            Some(left) => Err(left),
            None => {
                self.failed(door.clone(), now);
                Ok(())
            }
        }
    }

    fn failed(&mut self, door: Door, now: Timestamp) {
        if self.doors.len() >= DOORS && !self.doors.contains_key(&door) {
            self.doors.retain(|_, failures| now.since(failures.last) < LONGEST_WAIT);
            if self.doors.len() >= DOORS {
                let oldest = self.doors.iter().min_by_key(|(_, f)| f.last).map(|(door, _)| door.clone());
                if let Some(oldest) = oldest {
                    self.doors.remove(&oldest);
                }
            }
        }
        let failures = self.doors.entry(door).or_insert(Failures { count: 0, last: now });
        failures.count = failures.count.saturating_add(1);
        failures.last = now;
    }

    pub(super) fn succeeded(&mut self, door: &Door) {
        self.doors.remove(door);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_failures_are_free_and_then_the_door_shuts_longer_and_longer() {
        let mut throttle = Throttle::default();
        let door = (None, "admin".to_owned());
        let mut now = Timestamp::from_millis(0);
        for _ in 0..FREE_FAILURES {
            assert_eq!(throttle.wait(&door, now), None);
            throttle.failed(door.clone(), now);
        }
        assert_eq!(throttle.wait(&door, now), Some(Duration::from_secs(2)));
        now = now + Duration::from_secs(2);
        assert_eq!(throttle.wait(&door, now), None);
        throttle.failed(door.clone(), now);
        assert_eq!(throttle.wait(&door, now), Some(Duration::from_secs(4)));
        throttle.succeeded(&door);
        assert_eq!(throttle.wait(&door, now), None);
    }

    #[test]
    fn attempts_at_the_same_time_are_counted_before_they_are_judged() {
        let mut throttle = Throttle::default();
        let (door, now) = ((None, "admin".to_owned()), Timestamp::from_millis(0));
        let let_in = (0..200).filter(|_| throttle.enter(&door, now).is_ok()).count();
        assert_eq!(let_in, usize::try_from(FREE_FAILURES).unwrap());
    }

    #[test]
    fn another_address_is_another_door() {
        let mut throttle = Throttle::default();
        let now = Timestamp::from_millis(0);
        for _ in 0..20 {
            throttle.failed((Some([127, 0, 0, 2].into()), "admin".to_owned()), now);
        }
        assert_eq!(throttle.wait(&(Some([127, 0, 0, 3].into()), "admin".to_owned()), now), None);
    }

    #[test]
    fn many_doors_do_not_fill_the_memory() {
        let mut throttle = Throttle::default();
        let now = Timestamp::from_millis(0);
        for number in 0..DOORS + 500 {
            throttle.failed((None, number.to_string()), now);
        }
        assert!(throttle.doors.len() <= DOORS);
    }
}
