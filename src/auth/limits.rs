//! How often a token may ask: a number of requests in each minute of the clock.

use std::collections::HashMap;
use std::time::Duration;

use crate::model::{Timestamp, TokenId};

const MINUTE_MS: i64 = 60_000;
/// Tokens counted at most; only those with a limit are, and a fleet has some thousands.
const COUNTED: usize = 100_000;

/// Requests of the present minute, by token.
#[derive(Debug, Default)]
pub(super) struct Limits {
    minute: i64,
    counts: HashMap<TokenId, u32>,
}

impl Limits {
    /// Counts one request. Err: the minute's are used up, and when the next one begins.
    pub(super) fn enter(&mut self, token: TokenId, limit: u32, now: Timestamp) -> Result<(), Duration> {
        let minute = now.as_millis().div_euclid(MINUTE_MS);
        if minute != self.minute || self.counts.len() >= COUNTED {
            self.minute = minute;
            self.counts.clear();
        }
        let count = self.counts.entry(token).or_insert(0);
        if *count >= limit {
            let left = MINUTE_MS - now.as_millis().rem_euclid(MINUTE_MS);
            return Err(Duration::from_millis(u64::try_from(left).unwrap_or(0)));
        }
        *count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_over_its_limit_waits_for_the_next_minute_and_others_do_not() {
        let mut limits = Limits::default();
        let token = |number| TokenId::new(uuid::Uuid::from_u128(number));
        let now = Timestamp::from_millis(20 * MINUTE_MS + 45_000);
        assert!(limits.enter(token(1), 2, now).is_ok() && limits.enter(token(1), 2, now).is_ok());
        assert_eq!(limits.enter(token(1), 2, now), Err(Duration::from_secs(15)));
        assert!(limits.enter(token(2), 2, now).is_ok());
        assert!(limits.enter(token(1), 2, now + Duration::from_secs(15)).is_ok());
    }
}
