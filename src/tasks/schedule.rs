//! When a task runs: a cron line in a time zone, and what the changes of a clock do to it. Pure.
//!
//! The rule, as docs/tasks.md says it:
//! - Clock goes forward: a time that does not exist runs at the first moment after the change, once. Where the hour is a
//!   wildcard (`*`, `*/2`) nothing is made up for: no hour was lost to what runs every hour.
//! - Clock goes back: a time that comes twice runs at its first coming. Where the hour or the minute is a wildcard it runs at
//!   both.

use std::time::Duration;

use jiff::ToSpan as _;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use sha2::{Digest as _, Sha256};

use super::cron::{Cron, InvalidCron};
use crate::model::{TaskId, Timestamp};

/// Longest name of a time zone; the longest of the database has 32.
const ZONE_CHARS: usize = 64;
/// Zones that an error suggests.
const SUGGESTED: usize = 3;
/// Changes of the clock that a search passes: it leaps over those that are far from the next time.
const CHANGES: usize = 64;
/// Farther away than the civil times of two zones can be: Samoa left out a whole day.
const MARGIN_DAYS: i64 = 3;

/// What is wrong with a schedule: with which half of it, and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSchedule {
    #[error(transparent)]
    Cron(#[from] InvalidCron),
    #[error("there is no time zone '{name}'{}", perhaps(near))]
    Zone { name: String, near: Vec<String> },
}

fn perhaps(near: &[String]) -> String {
    if near.is_empty() {
        "; use a name such as Europe/Berlin, America/New_York or UTC".to_owned()
    } else {
        format!(", perhaps {} is meant", near.join(" or "))
    }
}

/// A cron line in a time zone.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub(super) cron: Cron,
    zone: TimeZone,
}

/// The zone of this name, upper or lower case.
fn zone_of(name: &str) -> Result<TimeZone, InvalidSchedule> {
    let name = name.trim();
    let refused = || InvalidSchedule::Zone { name: crate::model::shown(name, ZONE_CHARS), near: near(name) };
    // "local" and "posixrules" are the machine's own affair: a task means the same on every machine.
    let is_name = !name.is_empty() && name.len() <= ZONE_CHARS && !name.eq_ignore_ascii_case("posixrules");
    if !is_name {
        return Err(refused());
    }
    let zone = TimeZone::get(name).map_err(|_| refused())?;
    if zone.iana_name().is_some() { Ok(zone) } else { Err(refused()) }
}

/// Zones that may have been meant: by their city, or with a slip.
fn near(wanted: &str) -> Vec<String> {
    let plain = |name: &str| name.to_lowercase().replace([' ', '-'], "_");
    let wanted = plain(&wanted.chars().take(ZONE_CHARS).collect::<String>());
    if wanted.len() < 3 {
        return Vec::new();
    }
    let city = wanted.rsplit('/').next().unwrap_or_default().to_owned();
    let names: Vec<String> = jiff::tz::db().available().map(|name| name.as_str().to_owned()).collect();
    let by_city =
        |name: &&String| name.contains('/') && plain(name).rsplit('/').next() == Some(city.as_str());
    let mut found: Vec<String> = names.iter().filter(by_city).cloned().collect();
    found.sort_by_key(|name| (name.matches('/').count(), name.clone()));
    let lower: Vec<String> = names.iter().map(|name| plain(name)).collect();
    for close in crate::fleet::near(&wanted, lower.iter().map(String::as_str)) {
        found.extend(names.iter().filter(|name| plain(name) == close).cloned());
    }
    let mut seen = std::collections::HashSet::new();
    found.retain(|name| seen.insert(name.clone()));
    found.truncate(SUGGESTED);
    found
}

/// A stretch of time in which the clock on the wall runs evenly.
struct Stretch {
    offset: Offset,
    /// Exclusive.
    end: Option<jiff::Timestamp>,
    /// Civil times below this one came before the change already.
    repeated_until: Option<DateTime>,
}

impl Schedule {
    /// # Errors
    /// [`InvalidSchedule`]: what is wrong with the line, or the zones that may have been meant.
    pub fn parse(cron: &str, zone: &str) -> Result<Self, InvalidSchedule> {
        Ok(Self { cron: Cron::parse(cron)?, zone: zone_of(zone)? })
    }

    /// The zone's name as its database spells it.
    #[must_use]
    pub fn zone_name(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }

    /// The first run after this time. None: none before the end of the calendar.
    #[must_use]
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let after = jiff::Timestamp::from_millisecond(after.as_millis()).ok()?;
        let found = self.search(after)?;
        Some(Timestamp::from_millis(found.as_millisecond()))
    }

    /// The next runs after this time.
    #[must_use]
    pub fn next_runs(&self, after: Timestamp, count: usize) -> Vec<Timestamp> {
        std::iter::successors(self.next_after(after), |last| self.next_after(*last)).take(count).collect()
    }

    /// A time as the zone's clock shows it, with its distance from UTC: `Sun 2027-03-28 03:00 +02:00`.
    #[must_use]
    pub fn wall(&self, at: Timestamp) -> String {
        match jiff::Timestamp::from_millisecond(at.as_millis()) {
            Ok(at) => at.to_zoned(self.zone.clone()).strftime("%a %Y-%m-%d %H:%M %:z").to_string(),
            Err(_) => at.to_string(),
        }
    }

    fn search(&self, after: jiff::Timestamp) -> Option<jiff::Timestamp> {
        let mut stretch = self.stretch(after)?;
        // The first whole minute behind `after`.
        let local = stretch.offset.to_datetime(after);
        let mut from =
            local.with().second(0).subsec_nanosecond(0).build().ok()?.checked_add(1.minute()).ok()?;
        for _ in 0..CHANGES {
            if let Some(until) = stretch.repeated_until
                && from < until
                && !self.repeats()
            {
                from = until;
            }
            let civil = self.cron.next_from(from)?;
            let found = stretch.offset.to_timestamp(civil).ok()?;
            let Some(end) = stretch.end.filter(|end| found >= *end) else { return Some(found) };
            let leap = found.checked_sub((MARGIN_DAYS * 24).hours()).ok()?;
            if leap > end {
                // Nothing is scheduled before `civil`, so changes of the clock until then touch nothing.
                stretch = self.stretch(leap)?;
                from = stretch.offset.to_datetime(leap);
                continue;
            }
            let before = stretch.offset;
            stretch = self.stretch(end)?;
            from = stretch.offset.to_datetime(end);
            let left_out = before.to_datetime(end)..from;
            if !self.cron.hours.is_wild
                && self.cron.next_from(left_out.start).is_some_and(|time| left_out.contains(&time))
            {
                return Some(end);
            }
        }
        None
    }

    /// The stretch that a moment lies in.
    fn stretch(&self, at: jiff::Timestamp) -> Option<Stretch> {
        let offset = self.zone.to_offset(at);
        let end = self.zone.following(at).next().map(|change| change.timestamp());
        let just_after = at.checked_add(1.nanosecond()).ok()?;
        let change = self.zone.preceding(just_after).next().map(|change| change.timestamp());
        let repeated_until = change.and_then(|change| {
            let before = self.zone.to_offset(change.checked_sub(1.nanosecond()).ok()?);
            (before > offset).then(|| before.to_datetime(change))
        });
        Some(Stretch { offset, end, repeated_until })
    }

    /// A time that comes twice is meant twice.
    const fn repeats(&self) -> bool {
        self.cron.hours.is_wild || self.cron.minutes.is_wild
    }
}

/// How much later than its time a run begins: up to `jitter`, and the same whenever it is asked for, so that a restart in
/// between changes nothing.
#[must_use]
pub fn delay(task: TaskId, due: Timestamp, jitter: Duration) -> Duration {
    let digest = Sha256::digest(format!("{task} {}", due.as_millis()));
    let number = digest.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    Duration::from_secs(number % (jitter.as_secs() + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let after = Timestamp::parse(after).unwrap();
        let schedule = Schedule::parse(cron, zone).unwrap();
        schedule.next_runs(after, count).into_iter().map(|at| schedule.wall(at)).collect()
    }

    /// The hours and minutes with their offset, of one day.
    fn times(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        runs(cron, zone, after, count).iter().map(|wall| wall[15..].to_owned()).collect()
    }

    #[test]
    fn a_time_that_does_not_exist_runs_at_the_next_existing_moment_once() {
        let berlin = "Europe/Berlin";
        assert_eq!(
            runs("30 2 * * *", berlin, "2027-03-27T00:00:00Z", 3),
            ["Sat 2027-03-27 02:30 +01:00", "Sun 2027-03-28 03:00 +02:00", "Mon 2027-03-29 02:30 +02:00"]
        );
        // Two times fall into the hour that is left out, and a third is its end: one run.
        assert_eq!(
            times("0,30 2,3 * * *", berlin, "2027-03-27T12:00:00Z", 3),
            ["03:00 +02:00", "03:30 +02:00", "02:00 +02:00"]
        );
        assert_eq!(
            times("*/10 2 * * *", berlin, "2027-03-27T12:00:00Z", 2),
            ["03:00 +02:00", "02:00 +02:00"]
        );
        let new_york = "America/New_York";
        assert_eq!(
            runs("15 2 * * *", new_york, "2027-03-14T00:00:00Z", 2),
            ["Sun 2027-03-14 03:00 -04:00", "Mon 2027-03-15 02:15 -04:00"]
        );
        // Half an hour: 2:00 to 2:29 does not exist.
        assert_eq!(
            runs("10 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", 2),
            ["Sun 2026-10-04 02:30 +11:00", "Mon 2026-10-05 02:10 +11:00"]
        );
        assert_eq!(
            runs("40 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", 1),
            ["Sun 2026-10-04 02:40 +11:00"]
        );
    }

    #[test]
    fn a_time_that_comes_twice_runs_once_and_wildcards_run_in_both_hours() {
        let berlin = "Europe/Berlin";
        assert_eq!(
            runs("30 2 * * *", berlin, "2027-10-30T12:00:00Z", 2),
            ["Sun 2027-10-31 02:30 +02:00", "Mon 2027-11-01 02:30 +01:00"]
        );
        assert_eq!(
            times("0,30 2,3 * * *", berlin, "2027-10-30T12:00:00Z", 5),
            ["02:00 +02:00", "02:30 +02:00", "03:00 +01:00", "03:30 +01:00", "02:00 +01:00"]
        );
        assert_eq!(
            times("30 * * * *", berlin, "2027-10-30T23:00:00Z", 4),
            ["01:30 +02:00", "02:30 +02:00", "02:30 +01:00", "03:30 +01:00"]
        );
        assert_eq!(
            times("*/30 2 * * *", berlin, "2027-10-30T12:00:00Z", 5),
            ["02:00 +02:00", "02:30 +02:00", "02:00 +01:00", "02:30 +01:00", "02:00 +01:00"]
        );
        assert_eq!(
            runs("30 1 * * *", "America/New_York", "2026-11-01T00:00:00Z", 2),
            ["Sun 2026-11-01 01:30 -04:00", "Mon 2026-11-02 01:30 -05:00"]
        );
        assert_eq!(
            times("*/15 * * * *", "Australia/Lord_Howe", "2027-04-03T14:29:00Z", 5),
            ["01:30 +11:00", "01:45 +11:00", "01:30 +10:30", "01:45 +10:30", "02:00 +10:30"]
        );
        assert_eq!(
            runs("45 1 * * *", "Australia/Lord_Howe", "2027-04-03T00:00:00Z", 2),
            ["Sun 2027-04-04 01:45 +11:00", "Mon 2027-04-05 01:45 +10:30"]
        );
    }

    #[test]
    fn what_runs_every_hour_keeps_its_pace_when_the_clock_goes_forward() {
        assert_eq!(
            times("30 * * * *", "Europe/Berlin", "2027-03-27T23:00:00Z", 4),
            ["00:30 +01:00", "01:30 +01:00", "03:30 +02:00", "04:30 +02:00"]
        );
        let mut every_minute = Schedule::parse("* * * * *", "America/New_York")
            .unwrap()
            .next_runs(Timestamp::parse("2027-03-14T06:00:00Z").unwrap(), 180);
        every_minute.dedup();
        let first = every_minute[0];
        for (number, at) in every_minute.iter().enumerate() {
            assert_eq!(at.since(first), Duration::from_secs(number as u64 * 60));
        }
    }

    #[test]
    fn asked_from_any_moment_around_a_change_the_answer_is_the_same() {
        for (zone, start) in [
            ("Europe/Berlin", "2027-03-27T22:00:00Z"),
            ("Europe/Berlin", "2027-10-30T22:00:00Z"),
            ("Australia/Lord_Howe", "2027-04-03T12:00:00Z"),
            ("Australia/Lord_Howe", "2026-10-03T12:00:00Z"),
        ] {
            for cron in ["*/7 * * * *", "10,40 2 * * *", "*/20 2 * * *", "0 3 * * *", "30 1,2 * * *"] {
                let schedule = Schedule::parse(cron, zone).unwrap();
                let start = Timestamp::parse(start).unwrap();
                let all = schedule.next_runs(start, 80);
                for seconds in (0..6 * 3600).step_by(97) {
                    let at = start + Duration::from_millis(seconds * 1000 + 1);
                    let expected = all.iter().find(|run| **run > at).copied();
                    assert_eq!(schedule.next_after(at), expected, "{cron} {zone} at {at}");
                }
            }
        }
    }

    #[test]
    fn a_day_that_a_country_left_out_is_made_up_for() {
        // Samoa went from the 29th to the 31st of December 2011.
        assert_eq!(
            runs("0 12 30 12 *", "Pacific/Apia", "2011-12-01T00:00:00Z", 2),
            ["Sat 2011-12-31 00:00 +14:00", "Sun 2012-12-30 12:00 +14:00"]
        );
    }

    #[test]
    fn a_leap_day_years_away_is_found_at_its_hour() {
        assert_eq!(
            runs("30 2 29 2 *", "Europe/Berlin", "2026-11-21T00:00:00Z", 2),
            ["Tue 2028-02-29 02:30 +01:00", "Sun 2032-02-29 02:30 +01:00"]
        );
    }

    #[test]
    fn an_unknown_zone_is_answered_with_the_ones_that_may_be_meant() {
        let error = |zone: &str| Schedule::parse("@daily", zone).unwrap_err().to_string();
        assert!(error("Berlin").contains("Europe/Berlin"), "{}", error("Berlin"));
        assert!(error("new york").contains("America/New_York"), "{}", error("new york"));
        assert!(error("Europe/Berlim").contains("Europe/Berlin"), "{}", error("Europe/Berlim"));
        for zone in ["", "../../etc/passwd", "Mars/Olympus", "local", "posixrules", &"x".repeat(5000)] {
            assert!(Schedule::parse("@daily", zone).is_err(), "{zone}");
        }
        assert_eq!(Schedule::parse("@daily", "europe/berlin").unwrap().zone_name(), "Europe/Berlin");
        assert_eq!(Schedule::parse("@daily", "utc").unwrap().zone_name(), "UTC");
    }

    #[test]
    fn a_delay_is_the_same_each_time_and_within_its_limit() {
        let id = TaskId::new(uuid::Uuid::from_u128(9));
        let jitter = Duration::from_secs(60);
        let delays: std::collections::HashSet<Duration> =
            (0..200).map(|minute| delay(id, Timestamp::from_millis(minute * 60_000), jitter)).collect();
        assert!(delays.len() > 30 && delays.iter().all(|delay| *delay <= jitter), "{delays:?}");
        let due = Timestamp::from_millis(5);
        assert_eq!(delay(id, due, jitter), delay(id, due, jitter));
        assert_eq!(delay(id, due, Duration::ZERO), Duration::ZERO);
    }
}
