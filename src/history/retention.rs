//! How long each level is kept, and what was removed. Values and rules; the removal itself is the writer's.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::HistoryError;
use super::level::{DAY_MS, Level};
use crate::model::Timestamp;

/// Longest retention: what a mistyped number must not exceed.
const MAX_DAYS: u32 = 36_500;

/// Days that each level is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    #[serde(rename = "raw")]
    pub raw_days: u32,
    #[serde(rename = "1m")]
    pub minute_days: u32,
    #[serde(rename = "5m")]
    pub five_minutes_days: u32,
    #[serde(rename = "15m")]
    pub quarter_hour_days: u32,
    #[serde(rename = "1h")]
    pub hour_days: u32,
    #[serde(rename = "1d")]
    pub day_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            raw_days: 5,
            minute_days: 15,
            five_minutes_days: 30,
            quarter_hour_days: 90,
            hour_days: 365,
            day_days: 5 * 365,
        }
    }
}

impl Retention {
    #[must_use]
    pub const fn days(&self, level: Level) -> u32 {
        match level {
            Level::Raw => self.raw_days,
            Level::Minute => self.minute_days,
            Level::FiveMinutes => self.five_minutes_days,
            Level::QuarterHour => self.quarter_hour_days,
            Level::Hour => self.hour_days,
            Level::Day => self.day_days,
        }
    }

    /// Fewest days of a level: two rows of the level above, so that a roll-up always finds what it is made
    /// from, also when values come a day late.
    #[must_use]
    pub fn fewest_days(level: Level) -> u32 {
        let span_ms = level.above().map_or(level.span_ms(), Level::span_ms);
        u32::try_from(2 * span_ms / DAY_MS).unwrap_or(1).max(2)
    }

    /// # Errors
    /// [`HistoryError::BadRetention`] names the level and what is possible.
    pub fn validate(&self) -> Result<(), HistoryError> {
        for level in Level::ALL {
            let fewest = Self::fewest_days(level);
            let below = level.below().map_or(0, |below| self.days(below));
            let given = self.days(level);
            if given < fewest || given > MAX_DAYS {
                let why = format!("keep it for {fewest} to {MAX_DAYS} days");
                return Err(HistoryError::BadRetention { level, given, why });
            }
            if given < below {
                let why = format!("a coarser level is kept at least as long as a finer one ({below} days)");
                return Err(HistoryError::BadRetention { level, given, why });
            }
        }
        Ok(())
    }
}

/// What one run of the removal took away at one level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removed {
    pub level: Level,
    /// One row holds all series of one server for a span of time.
    pub rows: u64,
    pub bytes: u64,
    /// Everything before this is gone.
    pub before: Timestamp,
    /// The directory with the archive that the values were written to first.
    pub archived_to: Option<PathBuf>,
}

/// What the last run of the removal did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removal {
    pub at: Timestamp,
    /// Levels of which something was removed; empty: nothing had expired.
    pub removed: Vec<Removed>,
    /// More had expired than one run takes away; the next run goes on.
    pub more: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_what_the_documentation_says_and_is_valid() {
        let retention = Retention::default();
        retention.validate().unwrap();
        assert_eq!(Level::ALL.map(|level| retention.days(level)), [5, 15, 30, 90, 365, 1825]);
    }

    #[test]
    fn a_retention_that_would_starve_a_roll_up_is_refused_by_name() {
        let cases = [
            (Retention { raw_days: 0, ..Retention::default() }, Level::Raw),
            (Retention { quarter_hour_days: 31, ..Retention::default() }, Level::QuarterHour),
            (Retention { minute_days: 4, ..Retention::default() }, Level::Minute),
            (Retention { day_days: 100_000, ..Retention::default() }, Level::Day),
        ];
        for (retention, wanted) in cases {
            let refused = retention.validate().unwrap_err();
            assert!(
                matches!(refused, HistoryError::BadRetention { level, .. } if level == wanted),
                "{refused}"
            );
        }
    }
}
