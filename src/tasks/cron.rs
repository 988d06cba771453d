//! Cron lines of five fields: what they mean on a calendar and a clock on the wall. Pure; knows no time zone.
//!
//! Written by us and not taken from a library: the one that was looked at (croner) calls a list of hours an interval, so that
//! `0,30 2 * * *` is lost when the clock goes forward, gives up on changes of more than two hours, and cannot say which field is wrong.
//! Source of the meaning: crontab(5) of Debian's cron.

use std::ops::RangeInclusive;

use jiff::ToSpan as _;
use jiff::civil::{Date, DateTime, Time};

/// Longest line; one that lists every minute of the hour fits.
pub const CRON_CHARS: usize = 250;
/// Years in which a line that fires at all has fired: 29 February is left out in 2100, and on a given weekday it comes every
/// 28 years, every 40 around such a year.
const HORIZON_YEARS: i16 = 45;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// Days of each month at most.
const LONGEST: [u8; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// The words that stand for a whole line.
const WORDS: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// A line that means nothing; says what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidCron(String);

fn invalid<T>(message: impl Into<String>) -> Result<T, InvalidCron> {
    Err(InvalidCron(message.into()))
}

/// The values of one field as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field {
    bits: u64,
    /// It begins with `*`.
    pub(super) is_wild: bool,
}

impl Field {
    pub(super) const fn has(self, value: u8) -> bool {
        self.bits >> value & 1 == 1
    }

    /// The first value that is not below `from`.
    fn next(self, from: u8) -> Option<u8> {
        let rest = self.bits.checked_shr(from.into()).unwrap_or(0);
        let above = u8::try_from(rest.trailing_zeros()).ok()?;
        (rest != 0).then(|| from + above)
    }

    pub(super) fn values(self) -> Vec<u8> {
        (0..64).filter(|value| self.has(*value)).collect()
    }
}

/// What a field may hold.
struct Kind {
    name: &'static str,
    range: RangeInclusive<u8>,
    /// Names of its values, beginning with the value `first`.
    names: &'static [&'static str],
    first: u8,
}

const KINDS: [Kind; 5] = [
    Kind { name: "minute", range: 0..=59, names: &[], first: 0 },
    Kind { name: "hour", range: 0..=23, names: &[], first: 0 },
    Kind { name: "day of the month", range: 1..=31, names: &[], first: 0 },
    Kind { name: "month", range: 1..=12, names: &MONTHS, first: 1 },
    // 7 is Sunday, too.
    Kind { name: "day of the week", range: 0..=7, names: &WEEKDAYS, first: 0 },
];

/// A line that was understood and fires at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    pub(super) minutes: Field,
    pub(super) hours: Field,
    pub(super) days: Field,
    pub(super) months: Field,
    /// 0 is Sunday.
    pub(super) weekdays: Field,
}

impl Cron {
    /// # Errors
    /// [`InvalidCron`] names the field and what would be accepted; also for a line that never fires.
    pub fn parse(line: &str) -> Result<Self, InvalidCron> {
        let line = line.trim();
        if line.is_empty() {
            return invalid(
                "the schedule is missing: five fields (minute hour day month weekday), or @daily",
            );
        }
        if line.chars().count() > CRON_CHARS {
            return invalid(format!("a schedule has at most {CRON_CHARS} characters"));
        }
        let lower = line.to_lowercase();
        let fields = match WORDS.iter().find(|(word, _)| *word == lower) {
            Some((_, fields)) => fields,
            None if lower.starts_with('@') => {
                return invalid(format!(
                    "'{}' is no schedule; use @hourly, @daily, @weekly, @monthly, @yearly or five fields",
                    crate::model::shown(line, 40)
                ));
            }
            None => lower.as_str(),
        };
        let parts: Vec<&str> = fields.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts.as_slice() else {
            let seconds = if parts.len() == 6 { "; seconds and years are not supported" } else { "" };
            return invalid(format!(
                "a schedule has five fields (minute, hour, day of the month, month, day of the week), this has {}{seconds}",
                parts.len()
            ));
        };
        let [minutes, hours, days, months, weekdays] = &KINDS;
        let mut cron = Self {
            minutes: field(minutes, minute)?,
            hours: field(hours, hour)?,
            days: field(days, day)?,
            months: field(months, month)?,
            weekdays: field(weekdays, weekday)?,
        };
        if cron.weekdays.has(7) {
            cron.weekdays.bits |= 1;
        }
        cron.weekdays.bits &= 0x7f;
        if cron.fires() { Ok(cron) } else { invalid(cron.never()) }
    }

    /// Some day is in one of its months.
    fn fires(&self) -> bool {
        // A day of the week comes in every month; a star beside it asks for days that every month has.
        !self.weekdays.is_wild && !self.days.is_wild
            || (1..=12_u8)
                .zip(LONGEST)
                .any(|(month, longest)| self.months.has(month) && (1..=longest).any(|day| self.days.has(day)))
    }

    fn never(&self) -> String {
        let months: Vec<&str> = self
            .months
            .values()
            .into_iter()
            .filter_map(|month| MONTHS.get(usize::from(month).checked_sub(1)?).copied())
            .collect();
        let days: Vec<String> = self.days.values().iter().map(u8::to_string).collect();
        format!("this never runs: no day {} is in {}", days.join(" or "), months.join(" or "))
    }

    /// The day is one of those meant: both fields where one of them begins with `*`, else any of the two.
    fn has_day(&self, date: Date) -> bool {
        let number = |value: i8| u8::try_from(value).unwrap_or(0);
        let day = self.days.has(number(date.day()));
        let weekday = self.weekdays.has(number(date.weekday().to_sunday_zero_offset()));
        if self.days.is_wild || self.weekdays.is_wild { day && weekday } else { day || weekday }
    }

    /// The first time of the schedule that is not before `from`; a clock on the wall that never changes.
    /// None: there is none before the end of the calendar.
    #[must_use]
    pub fn next_from(&self, from: DateTime) -> Option<DateTime> {
        let mut from = from;
        if from.second() != 0 || from.subsec_nanosecond() != 0 {
            from = from.with().second(0).subsec_nanosecond(0).build().ok()?.checked_add(1.minute()).ok()?;
        }
        let end = from.year().saturating_add(HORIZON_YEARS);
        let mut date = from.date();
        let mut earliest = Some(from.time());
        while date.year() <= end {
            if !self.months.has(u8::try_from(date.month()).ok()?) {
                date = date.last_of_month().tomorrow().ok()?;
                earliest = None;
                continue;
            }
            if self.has_day(date)
                && let Some(time) = self.next_time(earliest.unwrap_or(Time::midnight()))
            {
                return Some(date.to_datetime(time));
            }
            date = date.tomorrow().ok()?;
            earliest = None;
        }
        None
    }

    /// The first time of a day that is not before `from`.
    fn next_time(&self, from: Time) -> Option<Time> {
        let (hour, minute) = (u8::try_from(from.hour()).ok()?, u8::try_from(from.minute()).ok()?);
        let at =
            |hour: u8, minute: u8| Time::new(i8::try_from(hour).ok()?, i8::try_from(minute).ok()?, 0, 0).ok();
        if self.hours.has(hour)
            && let Some(minute) = self.minutes.next(minute)
        {
            return at(hour, minute);
        }
        at(self.hours.next(hour + 1)?, self.minutes.next(0)?)
    }
}

fn field(kind: &Kind, text: &str) -> Result<Field, InvalidCron> {
    let mut bits = 0;
    for part in text.split(',') {
        bits |= part_of(kind, part)?;
    }
    Ok(Field { bits, is_wild: text.starts_with('*') })
}

/// `*`, `5`, `mon`, `1-5`, and all but a single value with `/step`.
fn part_of(kind: &Kind, part: &str) -> Result<u64, InvalidCron> {
    let shown = crate::model::shown(part, 40);
    let (range, step) = match part.split_once('/') {
        None => (part, 1),
        Some((range, step)) => match step.parse::<u8>() {
            Ok(step) if step > 0 => (range, step),
            _ => {
                return invalid(format!("{}: '{shown}' has no step that is a number above 0", kind.name));
            }
        },
    };
    let (low, high) = (*kind.range.start(), *kind.range.end());
    let values = match range.split_once('-') {
        None if range == "*" => low..=high,
        None => {
            let value = value_of(kind, range, &shown)?;
            if part.contains('/') {
                return invalid(format!(
                    "{}: '{shown}' steps from one value; write {value}-{high}/{step} or */{step}",
                    kind.name
                ));
            }
            value..=value
        }
        Some((from, to)) => {
            let from = value_of(kind, from, &shown)?;
            let to = match value_of(kind, to, &shown)? {
                // sat-sun
                0 if !kind.names.is_empty() && kind.first == 0 && from > 0 => 7,
                to => to,
            };
            if from > to {
                return invalid(format!(
                    "{}: '{shown}' ends before it begins; write {from}-{high},{low}-{to}",
                    kind.name
                ));
            }
            from..=to
        }
    };
    Ok(values.step_by(step.into()).fold(0, |bits, value| bits | 1_u64 << value))
}

fn value_of(kind: &Kind, text: &str, shown: &str) -> Result<u8, InvalidCron> {
    if let Some(place) = kind.names.iter().position(|name| *name == text) {
        return Ok(kind.first + u8::try_from(place).unwrap_or(0));
    }
    let is_number = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = text.parse::<u8>().ok().filter(|value| is_number && kind.range.contains(value));
    let names = match kind.names {
        [first, .., last] => format!(" or {first} to {last}"),
        _ => String::new(),
    };
    let (low, high) = (kind.range.start(), kind.range.end());
    value.map_or_else(
        || invalid(format!("{}: '{shown}' is not {low} to {high}{names}, *, a range or a list", kind.name)),
        Ok,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(line: &str, from: &str) -> String {
        let found = Cron::parse(line).unwrap().next_from(from.parse().unwrap()).unwrap();
        found.to_string().trim_end_matches(":00").to_owned()
    }

    #[test]
    fn five_fields_mean_what_crontab_says() {
        // 2026-11-21 is a Saturday.
        for (line, from, expected) in [
            ("* * * * *", "2026-11-21T08:00:01", "2026-11-21T08:01"),
            ("* * * * *", "2026-11-21T08:00:00", "2026-11-21T08:00"),
            ("*/15 * * * *", "2026-11-21T08:46:00", "2026-11-21T09"),
            ("5-59/20 8-10 * * *", "2026-11-21T10:46:00", "2026-11-22T08:05"),
            ("30 3 * * mon-fri", "2026-11-21T00:00:00", "2026-11-23T03:30"),
            ("0 12 * * SAT,sun", "2026-11-21T12:01:00", "2026-11-22T12"),
            ("0 12 * * sat-sun", "2026-11-22T12:01:00", "2026-11-28T12"),
            ("0 12 * * 7", "2026-11-21T12:01:00", "2026-11-22T12"),
            ("0 0 1,15 * *", "2026-11-21T00:00:00", "2026-12-01"),
            ("0 0 31 * *", "2026-11-01T00:00:00", "2026-12-31"),
            ("0 0 29 2 *", "2026-11-21T00:00:00", "2028-02-29"),
            ("0 0 29 feb *", "2096-03-01T00:00:00", "2104-02-29"),
            ("59 23 31 DEC *", "2026-11-21T00:00:00", "2026-12-31T23:59"),
            ("@hourly", "2026-11-21T08:00:30", "2026-11-21T09"),
            ("@daily", "2026-11-21T08:00:00", "2026-11-22"),
            ("@weekly", "2026-11-21T08:00:00", "2026-11-22"),
            ("@monthly", "2026-11-21T08:00:00", "2026-12-01"),
            ("@Yearly", "2026-11-21T08:00:00", "2027-01-01"),
        ] {
            let expected: DateTime = if expected.len() == 10 {
                format!("{expected}T00:00").parse().unwrap()
            } else if expected.len() == 13 {
                format!("{expected}:00").parse().unwrap()
            } else {
                expected.parse().unwrap()
            };
            let found: DateTime = Cron::parse(line).unwrap().next_from(from.parse().unwrap()).unwrap();
            assert_eq!(found, expected, "{line} from {from}");
        }
        assert!(next("0 8 * * *", "2026-11-21T08:00:00").starts_with("2026-11-21T08"));
    }

    #[test]
    fn a_day_of_the_month_and_a_day_of_the_week_are_any_of_the_two_unless_one_is_a_star() {
        // The 13th, or any Friday.
        assert!(next("0 0 13 * 5", "2026-11-21T00:00:00").starts_with("2026-11-27"));
        assert!(next("0 0 13 * 5", "2026-12-12T00:00:00").starts_with("2026-12-13"));
        // Every other day, if it is a Friday: a field that begins with a star narrows.
        assert!(next("0 0 */2 * 5", "2026-11-21T00:00:00").starts_with("2026-11-27"));
        assert!(next("0 0 */2 * 5", "2026-11-28T00:00:00").starts_with("2026-12-11"));
    }

    #[test]
    fn what_means_nothing_is_refused_and_the_field_is_named() {
        for (line, says) in [
            ("", "missing"),
            ("   ", "missing"),
            ("* * * *", "five fields"),
            ("0 * * * * *", "seconds and years are not supported"),
            ("* * * * * * *", "five fields"),
            ("@reboot", "@hourly"),
            ("60 * * * *", "minute: '60' is not 0 to 59"),
            ("* 24 * * *", "hour"),
            ("* * 0 * *", "day of the month"),
            ("* * 32 * *", "day of the month"),
            ("* * * 13 *", "month"),
            ("* * * foo *", "jan to dec"),
            ("* * * * 8", "day of the week"),
            ("* * * * funday", "sun to sat"),
            ("*/0 * * * *", "step"),
            ("*/x * * * *", "step"),
            ("5/15 * * * *", "write 5-59/15"),
            ("30-10 * * * *", "write 30-59,0-10"),
            ("1,,2 * * * *", "minute"),
            ("-1 * * * *", "minute"),
            ("+1 * * * *", "minute"),
            ("1e1 * * * *", "minute"),
            ("٣ * * * *", "minute"),
            ("0 0 L * *", "day of the month"),
            ("0 0 30 2 *", "no day 30 is in feb"),
            ("0 0 31 2,4,6,9,11 *", "never runs"),
        ] {
            let error = Cron::parse(line).unwrap_err().to_string();
            assert!(error.contains(says), "{line}: {error}");
        }
        assert!(Cron::parse(&"1,".repeat(200)).unwrap_err().to_string().contains("at most"));
        assert!(Cron::parse("0 0 30 2 1").is_ok(), "every Monday in February");
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_typed_is_understood_or_refused(line in ".{0,60}") {
            drop(Cron::parse(&line));
        }

        #[test]
        fn the_next_time_fits_the_line_and_none_before_it_does(
            minute in 0_u8..60, hour in 0_u8..24, step in 1_u8..30, start in 0_i64..2_000_000,
        ) {
            let line = format!("{minute},*/{step} {hour},*/{step} * * *");
            let cron = Cron::parse(&line).unwrap();
            let from: DateTime = "2026-01-01T00:00".parse().unwrap();
            let from = from.checked_add(start.minutes()).unwrap();
            let found = cron.next_from(from).unwrap();
            let fits = |at: DateTime| {
                let (h, m) = (u8::try_from(at.hour()).unwrap(), u8::try_from(at.minute()).unwrap());
                (h == hour || h % step == 0) && (m == minute || m % step == 0)
            };
            let mut at = from;
            while at < found {
                proptest::prop_assert!(!fits(at), "{line}: {at} was left out before {found}");
                at = at.checked_add(1.minute()).unwrap();
            }
            proptest::prop_assert!(fits(found));
        }
    }
}
