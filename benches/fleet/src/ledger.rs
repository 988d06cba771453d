//! When each server was asked, by the generator's own clock: how late, how often missed.
//!
//! Knows no network and no product. The product never gets to judge itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a span without a request means for a server that is to be asked every interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// How far the span exceeds the interval.
    pub late: Duration,
    /// Whole intervals in which a request was due and none came.
    pub missed: u64,
}

/// Judges the span between two requests.
#[must_use]
pub fn judge(span: Duration, interval: Duration) -> Judgement {
    let whole = span.as_nanos().checked_div(interval.as_nanos()).unwrap_or(0);
    Judgement {
        late: span.saturating_sub(interval),
        missed: u64::try_from(whole.saturating_sub(1)).unwrap_or(u64::MAX),
    }
}

/// One server's account.
#[derive(Debug, Default, Clone)]
struct Account {
    last_request: Option<Instant>,
    requests_ever: u64,
    requests: u64,
    late_us: Vec<u64>,
    missed: u64,
    logins: u64,
    invalid: u64,
    other_commands: u64,
    first_complaint: Option<String>,
}

/// The accounts of all servers.
#[derive(Debug)]
pub struct Ledger {
    accounts: Vec<Mutex<Account>>,
    interval: Duration,
    measuring: AtomicBool,
    sent_bytes: Mutex<u64>,
}

/// What the ledger says at the end.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub requests: u64,
    pub sent_bytes: u64,
    pub missed: u64,
    pub invalid: u64,
    /// Since the start: commands beside the probe, such as those of the preflight.
    pub other_commands: u64,
    pub complaints: Vec<String>,
    /// Logins since the start: fewest and most that one server saw.
    pub logins: (u64, u64),
    /// Sorted, microseconds, one for each request of the window.
    late_us: Vec<u64>,
}

impl Outcome {
    /// Lateness in milliseconds that `share` (0..=1) of the requests did not exceed.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index of at most some millions"
    )]
    pub fn late_ms(&self, share: f64) -> f64 {
        let last = self.late_us.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        self.late_us.get(at).map_or(0.0, |&us| us as f64 / 1000.0)
    }
}

impl Ledger {
    #[must_use]
    pub fn new(servers: usize, interval: Duration) -> Self {
        Self {
            accounts: (0..servers).map(|_| Mutex::default()).collect(),
            interval,
            measuring: AtomicBool::new(false),
            sent_bytes: Mutex::default(),
        }
    }

    fn account(&self, server: usize) -> Option<MutexGuard<'_, Account>> {
        self.accounts.get(server).map(|account| account.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn login(&self, server: usize) {
        if let Some(mut account) = self.account(server) {
            account.logins += 1;
        }
    }

    /// A request for a reading has come; `answer_bytes` go back.
    pub fn request(&self, server: usize, at: Instant, answer_bytes: usize) {
        let Some(mut account) = self.account(server) else { return };
        let before = account.last_request.replace(at);
        account.requests_ever += 1;
        if self.measuring.load(Ordering::Relaxed) {
            account.requests += 1;
            *self.sent_bytes.lock().unwrap_or_else(PoisonError::into_inner) +=
                u64::try_from(answer_bytes).unwrap_or(u64::MAX);
            if let Some(before) = before {
                let judged = judge(at.duration_since(before), self.interval);
                account.missed += judged.missed;
                account.late_us.push(u64::try_from(judged.late.as_micros()).unwrap_or(u64::MAX));
            }
        }
    }

    /// A command came that is not the probe; it is refused.
    pub fn other_command(&self, server: usize) {
        if let Some(mut account) = self.account(server) {
            account.other_commands += 1;
        }
    }

    /// Something came that the real script would not have understood.
    pub fn complain(&self, server: usize, what: &str) {
        if let Some(mut account) = self.account(server) {
            account.invalid += 1;
            account.first_complaint.get_or_insert_with(|| format!("server {server}: {what}"));
        }
    }

    /// Servers that were asked at least `times` since the start.
    #[must_use]
    pub fn asked(&self, times: u64) -> usize {
        (0..self.accounts.len())
            .filter(|&server| self.account(server).is_some_and(|account| account.requests_ever >= times))
            .count()
    }

    /// Starts the window of the measurement.
    pub fn begin(&self) {
        self.measuring.store(true, Ordering::Relaxed);
    }

    /// Ends the window; a server that waits since too long is counted as well.
    #[must_use]
    pub fn finish(&self, begun: Instant, now: Instant) -> Outcome {
        self.measuring.store(false, Ordering::Relaxed);
        let mut outcome = Outcome { logins: (u64::MAX, 0), ..Outcome::default() };
        for server in 0..self.accounts.len() {
            let Some(mut account) = self.account(server) else { continue };
            let since = account.last_request.unwrap_or(begun);
            let open = judge(now.duration_since(since), self.interval);
            outcome.requests += account.requests;
            outcome.missed += account.missed + open.missed;
            outcome.invalid += account.invalid;
            outcome.other_commands += account.other_commands;
            outcome.complaints.extend(account.first_complaint.take());
            outcome.logins.0 = outcome.logins.0.min(account.logins);
            outcome.logins.1 = outcome.logins.1.max(account.logins);
            outcome.late_us.append(&mut account.late_us);
            if !open.late.is_zero() {
                outcome.late_us.push(u64::try_from(open.late.as_micros()).unwrap_or(u64::MAX));
            }
        }
        outcome.sent_bytes = *self.sent_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.late_us.sort_unstable();
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(5);

    #[test]
    fn a_span_is_late_by_what_exceeds_the_interval_and_misses_whole_intervals() {
        let cases =
            [(4.0, 0, 0), (5.0, 0, 0), (5.3, 300, 0), (9.9, 4900, 0), (10.0, 5000, 1), (21.0, 16_000, 3)];
        for (span, late_ms, missed) in cases {
            let judged = judge(Duration::from_secs_f64(span), INTERVAL);
            assert_eq!(judged, Judgement { late: Duration::from_millis(late_ms), missed }, "{span}");
        }
    }

    #[test]
    fn a_server_that_is_never_asked_counts_as_missed() {
        let ledger = Ledger::new(2, INTERVAL);
        let start = Instant::now();
        ledger.begin();
        for step in 0..4 {
            ledger.request(0, start + INTERVAL * step, 10);
        }
        let outcome = ledger.finish(start, start + INTERVAL * 3);
        assert_eq!((outcome.requests, outcome.missed, outcome.sent_bytes), (4, 2, 40));
        assert!(outcome.late_ms(1.0) >= 10_000.0);
        assert!(outcome.late_ms(0.5) < 1.0);
    }

    #[test]
    fn what_came_before_the_window_is_only_a_starting_point() {
        let ledger = Ledger::new(1, INTERVAL);
        let start = Instant::now();
        ledger.request(0, start, 10);
        ledger.request(0, start + INTERVAL * 3, 10);
        ledger.begin();
        ledger.request(0, start + INTERVAL * 4, 10);
        let outcome = ledger.finish(start + INTERVAL * 3, start + INTERVAL * 4);
        assert_eq!((outcome.requests, outcome.missed), (1, 0));
        assert_eq!(ledger.asked(3), 1);
    }
}
