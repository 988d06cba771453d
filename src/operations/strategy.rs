//! How an operation goes over its servers: batches, pauses, the failure limit, the health gate. Pure.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::{TargetStatus, WhenBusy};

/// Sizes of batches that one strategy names; the last one repeats.
const BATCH_SIZES: usize = 20;
/// Longest pause between two batches, and longest wait for health: a working day.
const LONGEST_WAIT_S: u64 = 12 * 3600;
/// Commands of one operation at the same time; the executor has a limit of its own over all.
const PARALLELISM: u32 = 1000;

/// A strategy that cannot be meant; says what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidStrategy {
    pub field: &'static str,
    message: String,
}

/// Servers by number, or by their part of all servers of the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    Count(u32),
    /// 1 to 100.
    Percent(u8),
}

impl Share {
    /// So many of `total`, at least one.
    fn of(self, total: usize) -> usize {
        match self {
            Self::Count(count) => usize::try_from(count).unwrap_or(usize::MAX),
            Self::Percent(percent) => total.saturating_mul(usize::from(percent)).div_ceil(100),
        }
        .max(1)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let share = match text.strip_suffix('%') {
            Some(percent) => {
                percent.trim().parse().ok().filter(|percent| (1..=100).contains(percent)).map(Self::Percent)
            }
            None => text.parse().ok().filter(|count| *count > 0).map(Self::Count),
        };
        share.ok_or_else(|| {
            let shown: String = text.chars().filter(|c| !c.is_control()).take(20).collect();
            format!("'{shown}' is neither a number of servers (5) nor a part of them (10%)")
        })
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Number(u32),
            Text(String),
        }
        let text = match Given::deserialize(deserializer)? {
            Given::Number(number) => number.to_string(),
            Given::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// How an operation goes over its servers. The default sends everything at once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Strategy {
    /// Commands at the same time. None: as many as the executor runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<u32>,
    /// Sizes of the batches, one after the other; the last repeats until all servers had their turn.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub batches: Vec<Share>,
    /// Between two batches.
    #[serde(skip_serializing_if = "is_zero")]
    pub pause_s: u64,
    /// With so many that did not succeed, nothing more is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<Share>,
    /// The next batch begins when the servers of the last are healthy; after so long without it, nothing more is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_gate_s: Option<u64>,
    /// None: as this Roundsman is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when_busy: Option<WhenBusy>,
    /// The batches follow from what servers need of each other: a server comes after those that it needs, and not at all
    /// where one of them did not succeed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub by_dependencies: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// `1,10%,50%`: sizes of batches.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn parse_batches(text: &str) -> Result<Vec<Share>, String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(Share::from_str).collect()
}

impl Strategy {
    /// # Errors
    /// [`InvalidStrategy`] names the field and what would be accepted.
    pub fn check(&self) -> Result<(), InvalidStrategy> {
        let refused = |field, message: String| Err(InvalidStrategy { field, message });
        if self.batches.len() > BATCH_SIZES {
            return refused("batches", format!("name at most {BATCH_SIZES} sizes; the last one repeats"));
        }
        if self.parallelism.is_some_and(|count| !(1..=PARALLELISM).contains(&count)) {
            return refused("parallelism", format!("parallelism is 1 to {PARALLELISM}"));
        }
        let wait = format!("use at most {LONGEST_WAIT_S} seconds");
        if self.pause_s > LONGEST_WAIT_S {
            return refused("pause_s", wait);
        }
        if self.health_gate_s.is_some_and(|limit| limit == 0 || limit > LONGEST_WAIT_S) {
            return refused("health_gate_s", format!("use 1 to {LONGEST_WAIT_S} seconds"));
        }
        if self.by_dependencies && !self.batches.is_empty() {
            let message = "the order of dependencies makes the batches; leave out one of the two".to_owned();
            return refused("by_dependencies", message);
        }
        Ok(())
    }

    /// The positions of each batch.
    #[must_use]
    pub fn split(&self, total: usize) -> Vec<Range<usize>> {
        let mut batches = Vec::new();
        let mut sizes = self.batches.iter();
        let mut size = total.max(1);
        let mut start = 0;
        while start < total {
            if let Some(share) = sizes.next() {
                size = share.of(total);
            }
            let end = start.saturating_add(size).min(total);
            batches.push(start..end);
            start = end;
        }
        batches
    }

    /// Why nothing more may be sent. None: it goes on.
    #[must_use]
    pub fn limit_reached(&self, statuses: &[TargetStatus]) -> Option<String> {
        let limit = self.max_failures?;
        let failures = statuses.iter().filter(|status| status.is_failure()).count();
        (failures >= limit.of(statuses.len())).then(|| {
            let servers = if failures == 1 { "server" } else { "servers" };
            format!("{failures} {servers} did not succeed, and the limit is {limit}")
        })
    }

    /// Between two batches.
    #[must_use]
    pub const fn pause(&self) -> Duration {
        Duration::from_secs(self.pause_s)
    }

    /// It does anything but sending everything at once.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TargetStatus::{Cancelled, Failed, Pending, Succeeded, Unknown, Unreachable};

    fn strategy(batches: &str) -> Strategy {
        Strategy { batches: parse_batches(batches).unwrap(), ..Strategy::default() }
    }

    #[test]
    fn batches_are_counts_or_percents_and_the_last_repeats() {
        let sizes = |text: &str, total: usize| {
            strategy(text).split(total).iter().map(ExactSizeIterator::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes("", 7), [7]);
        assert_eq!(sizes("3", 7), [3, 3, 1]);
        assert_eq!(sizes("1,10%,50%,100%", 20), [1, 2, 10, 7]);
        assert_eq!(sizes("1,50%", 5), [1, 3, 1]);
        assert_eq!(sizes("1%", 3), [1, 1, 1]);
        assert!(sizes("5", 0).is_empty());
    }

    #[test]
    fn what_is_no_batch_says_so() {
        for text in ["0", "0%", "101%", "-1", "many", "1,,x"] {
            assert!(parse_batches(text).unwrap_err().contains("neither a number"), "{text}");
        }
    }

    #[test]
    fn the_failure_limit_counts_what_did_not_succeed_and_what_was_given_up_not() {
        let limited =
            |limit: &str| Strategy { max_failures: Some(limit.parse().unwrap()), ..Strategy::default() };
        let states = [Failed, Unreachable, Unknown, Cancelled, Succeeded, Pending];
        assert!(limited("3").limit_reached(&states).unwrap().contains("3 servers"));
        assert_eq!(limited("4").limit_reached(&states), None);
        assert!(limited("50%").limit_reached(&states).is_some());
        assert_eq!(limited("51%").limit_reached(&states), None);
        assert_eq!(Strategy::default().limit_reached(&states), None);
    }

    #[test]
    fn a_strategy_is_read_as_it_is_written() {
        let text = r#"{"batches":[1,"10%"],"pause_s":5,"max_failures":"20%","when_busy":"queue"}"#;
        let read: Strategy = serde_json::from_str(text).unwrap();
        assert_eq!(read.batches, [Share::Count(1), Share::Percent(10)]);
        let written = serde_json::to_string(&read).unwrap();
        assert_eq!(serde_json::from_str::<Strategy>(&written).unwrap(), read);
        assert!(Strategy { health_gate_s: Some(0), ..read }.check().is_err());
    }
}
