//! The levels of history: raw samples and five roll-ups, with the time that a row of each covers.
//!
//! Numbers only. A roll-up is made from the level below it, so every span is a whole number of spans below.

use serde::{Deserialize, Serialize};

use super::head::BUCKET_MS;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
pub(super) const DAY_MS: i64 = 24 * HOUR_MS;

/// How fine history is, finest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Level {
    /// Samples as they came.
    #[serde(rename = "raw")]
    Raw,
    #[serde(rename = "1m")]
    Minute,
    #[serde(rename = "5m")]
    FiveMinutes,
    #[serde(rename = "15m")]
    QuarterHour,
    #[serde(rename = "1h")]
    Hour,
    /// Days of UTC.
    #[serde(rename = "1d")]
    Day,
}

impl Level {
    pub const ALL: [Self; 6] =
        [Self::Raw, Self::Minute, Self::FiveMinutes, Self::QuarterHour, Self::Hour, Self::Day];

    /// The levels that are made by Roundsman.
    pub const ROLL_UPS: [Self; 5] =
        [Self::Minute, Self::FiveMinutes, Self::QuarterHour, Self::Hour, Self::Day];

    /// `raw`, `1m`, `5m`, `15m`, `1h`, `1d`, as in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Minute => "1m",
            Self::FiveMinutes => "5m",
            Self::QuarterHour => "15m",
            Self::Hour => "1h",
            Self::Day => "1d",
        }
    }

    /// Time that one value stands for; 1 ms for raw samples.
    #[must_use]
    pub const fn step_ms(self) -> i64 {
        match self {
            Self::Raw => 1,
            Self::Minute => MINUTE_MS,
            Self::FiveMinutes => 5 * MINUTE_MS,
            Self::QuarterHour => 15 * MINUTE_MS,
            Self::Hour => HOUR_MS,
            Self::Day => DAY_MS,
        }
    }

    /// Time that one row of one server covers. 288 to 384 steps: enough for the codec to learn a column,
    /// few enough to read a day of one series in a handful of rows.
    pub(super) const fn span_ms(self) -> i64 {
        match self {
            Self::Raw => BUCKET_MS,
            Self::Minute => 6 * HOUR_MS,
            Self::FiveMinutes => DAY_MS,
            Self::QuarterHour => 4 * DAY_MS,
            Self::Hour => 16 * DAY_MS,
            Self::Day => 32 * DAY_MS,
        }
    }

    /// The row that a time belongs to.
    pub(super) const fn row_of(self, at_ms: i64) -> i64 {
        at_ms.div_euclid(self.span_ms())
    }

    pub(super) const fn table(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Minute => "r1m",
            Self::FiveMinutes => "r5m",
            Self::QuarterHour => "r15m",
            Self::Hour => "r1h",
            Self::Day => "r1d",
        }
    }

    /// What this level is made from. None: it is not made.
    pub(super) const fn below(self) -> Option<Self> {
        match self {
            Self::Raw => None,
            Self::Minute => Some(Self::Raw),
            Self::FiveMinutes => Some(Self::Minute),
            Self::QuarterHour => Some(Self::FiveMinutes),
            Self::Hour => Some(Self::QuarterHour),
            Self::Day => Some(Self::Hour),
        }
    }

    /// What is made from this level.
    pub(super) fn above(self) -> Option<Self> {
        Self::ROLL_UPS.into_iter().find(|level| level.below() == Some(self))
    }

    /// Place in [`Self::ALL`]; also its number in the file.
    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_made_of_whole_rows_and_steps_of_the_level_below() {
        for level in Level::ROLL_UPS {
            let below = level.below().unwrap();
            assert_eq!(below.above(), Some(level));
            assert_eq!(level.span_ms() % below.span_ms(), 0);
            assert_eq!(level.step_ms() % below.step_ms(), 0);
            assert_eq!(level.span_ms() % level.step_ms(), 0);
            assert!(level.span_ms() / level.step_ms() <= 384);
            assert_eq!(Level::ALL[level.index()], level);
        }
    }
}
