//! The times of pushed readings on our clock: pure.
//!
//! The rules: a reading keeps the server's own time as long as that clock can be right. If the server said when it sent
//! them and that differs from our clock by more than [`SLACK_MS`], all are moved by the difference. If it did not say, and
//! the newest is in the future or older than history takes, the newest gets the time of its arrival. Older ones keep
//! their distance from the newest, measured by the time since boot, which no setting of the clock moves.

use crate::model::{Snapshot, Timestamp};

/// What transport and a clock without discipline may cost; within it nothing is moved.
const SLACK_MS: i64 = 10_000;
/// A server's clock that is further off than this is worth a notice.
const NOTICED_MS: i64 = 5 * 60 * 1000;
/// History takes values that are up to a day late.
const LATE_MS: i64 = 24 * 3_600_000;

/// Times in the order of the readings, and what a person should know of the server's clock.
#[derive(Debug, PartialEq, Eq)]
pub struct Stamped {
    pub at: Vec<Timestamp>,
    pub notice: Option<String>,
}

/// The times under which `readings` (oldest first) are kept.
#[must_use]
pub fn stamped(readings: &[Snapshot], sent_at_ms: Option<u64>, now: Timestamp) -> Stamped {
    let now_ms = now.as_millis();
    let signed = |ms: Option<u64>| ms.and_then(|ms| i64::try_from(ms).ok());
    let taken = |reading: &Snapshot| signed(reading.taken_at_ms);
    let Some(newest) = readings.last() else { return Stamped { at: Vec::new(), notice: None } };
    let newest_ms = taken(newest);
    let ahead_ms = match (signed(sent_at_ms), newest_ms) {
        (Some(sent), _) => sent.saturating_sub(now_ms),
        (None, Some(newest)) if newest > now_ms + NOTICED_MS || newest < now_ms - LATE_MS => {
            newest.saturating_sub(now_ms)
        }
        (None, _) => 0,
    };
    let moved_ms = if ahead_ms.saturating_abs() > SLACK_MS { ahead_ms } else { 0 };
    let newest_at_ms = newest_ms.map_or(now_ms, |ms| ms.saturating_sub(moved_ms));
    let at = readings.iter().map(|reading| {
        let same_boot = reading.boot_id.is_some() && reading.boot_id == newest.boot_id;
        let by_boot = newest.uptime_ms.zip(reading.uptime_ms).filter(|_| same_boot);
        let before_ms = by_boot
            .and_then(|(new, old)| i64::try_from(new.checked_sub(old)?).ok())
            .or_else(|| Some(newest_ms?.saturating_sub(taken(reading)?)))
            .filter(|distance| *distance >= 0)
            .unwrap_or(0);
        Timestamp::from_millis(newest_at_ms.saturating_sub(before_ms))
    });
    Stamped { at: at.collect(), notice: (moved_ms.saturating_abs() > NOTICED_MS).then(|| notice(moved_ms)) }
}

fn notice(ahead_ms: i64) -> String {
    let seconds = ahead_ms.unsigned_abs() / 1000;
    let span = match seconds {
        0..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", (seconds + 1_800) / 3600),
        _ => format!("{} days", (seconds + 43_200) / 86_400),
    };
    let side = if ahead_ms > 0 { "ahead of" } else { "behind" };
    format!(
        "the clock of this server is {span} {side} Roundsman's; its readings are kept under the time at which they arrived. \
         Set its clock (for example with timedatectl set-ntp true)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_790_000_000_000;
    const YEAR_MS: i64 = 365 * 86_400_000;

    /// A reading of `ago_s` seconds ago by a clock that is `off_ms` off.
    fn reading(ago_s: i64, off_ms: i64) -> Snapshot {
        Snapshot {
            boot_id: Some("a".to_owned()),
            uptime_ms: Some(u64::try_from(5_000_000 - ago_s * 1000).unwrap()),
            taken_at_ms: u64::try_from(NOW + off_ms - ago_s * 1000).ok(),
            ..Snapshot::default()
        }
    }

    fn ago(stamped: &Stamped) -> Vec<i64> {
        stamped.at.iter().map(|at| (NOW - at.as_millis()) / 1000).collect()
    }

    #[test]
    fn buffered_readings_keep_their_own_times() {
        let readings = [reading(60, 0), reading(55, 0), reading(1, 0)];
        let stamped = stamped(&readings, None, Timestamp::from_millis(NOW));
        assert_eq!((ago(&stamped), stamped.notice), (vec![60, 55, 1], None));
        let batch = [reading(3600, 0), reading(3595, 0)];
        let sent = u64::try_from(NOW).ok();
        let early = super::stamped(&batch, sent, Timestamp::from_millis(NOW));
        assert_eq!((ago(&early), early.notice), (vec![3600, 3595], None));
    }

    #[test]
    fn a_clock_one_year_off_is_said_and_the_readings_keep_their_distance() {
        for off in [YEAR_MS, -YEAR_MS] {
            let readings = [reading(10, off), reading(5, off), reading(0, off)];
            for sent in [None, u64::try_from(NOW + off).ok()] {
                let stamped = stamped(&readings, sent, Timestamp::from_millis(NOW));
                assert_eq!(ago(&stamped), [10, 5, 0]);
                let notice = stamped.notice.unwrap();
                let word = if off > 0 { "365 days ahead of" } else { "365 days behind" };
                assert!(notice.contains(word), "{notice}");
            }
        }
    }

    #[test]
    fn a_clock_that_is_set_between_two_readings_moves_none_of_them() {
        let readings = [reading(10, -YEAR_MS), reading(5, 3_000), reading(0, 0)];
        let stamped = stamped(&readings, None, Timestamp::from_millis(NOW));
        assert_eq!((ago(&stamped), stamped.notice), (vec![10, 5, 0], None));
    }

    #[test]
    fn a_reading_without_a_time_is_of_now() {
        let stamped = stamped(&[Snapshot::default()], None, Timestamp::from_millis(NOW));
        assert_eq!(ago(&stamped), [0]);
    }
}
