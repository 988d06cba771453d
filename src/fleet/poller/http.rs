//! The task of a server that is asked over HTTPS.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::arrival::Arrival;
use super::{Poller, reading_limit};
use crate::collect::http::{HttpFailure, HttpProbe, HttpReading, mapping::component_samples};
use crate::model::{Gap, Sample, SeriesKey};

/// A failed reading is tried again after this or the interval, whichever is shorter; twice as long each time.
const AGAIN_AFTER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// Readings in a row that fail before a server that answered is unreachable.
const MISSED: u32 = 2;
/// The section under whose name the page tells of figures that were left out.
const SECTION: &str = "figures";

impl Poller {
    /// Asks until stopped.
    pub(super) async fn run_http(&mut self, probe: Result<Box<HttpProbe>, HttpFailure>) {
        let mut failures = 0_u32;
        let probe = match probe {
            Ok(probe) => probe,
            // Only another configuration changes that, and it starts another task.
            Err(failure) => loop {
                self.no_answer(Some(failure.layer()), failure.to_string());
                self.entry.wake.notified().await;
            },
        };
        loop {
            let started = Instant::now();
            let next = match probe.read(reading_limit(self.interval())).await {
                Ok(reading) => {
                    failures = 0;
                    self.take_api(reading);
                    self.next_reading(started)
                }
                Err(failure) => {
                    failures = failures.saturating_add(1);
                    // One that has never answered is not given a second chance before somebody is told.
                    if failures >= MISSED || self.readings == 0 {
                        self.no_answer(Some(failure.layer()), failure.to_string());
                    } else {
                        self.entry.checks.send_modify(|count| *count += 1);
                    }
                    Instant::now() + pause(self.interval(), failures)
                }
            };
            tokio::select! {
                () = tokio::time::sleep_until(next) => self.shared.counts.begun(next.elapsed()),
                () = self.entry.wake.notified() => {}
            }
        }
    }

    fn take_api(&mut self, reading: HttpReading) {
        let HttpReading { health, mut samples, left_out, response_time } = reading;
        let took = response_time.as_secs_f64() * 1000.0;
        samples.retain(|sample| sample.key != SeriesKey::plain("response_time_ms"));
        samples.push(Sample { key: SeriesKey::plain("response_time_ms"), value: took });
        samples.extend(component_samples(&health));
        let gap = |(member, reason): (String, String)| Gap {
            section: SECTION.to_owned(),
            reason: format!("{member} is left out: {reason}"),
        };
        {
            let mut live = self.entry.live();
            live.api = Some(Arc::new(health));
            live.gaps = left_out.into_iter().map(gap).collect();
        }
        let now = self.shared.clock.now();
        self.take_values(samples, &Arrival { at: now, now, response_time_ms: Some(took), is_newest: true });
    }
}

fn pause(interval: Duration, failures: u32) -> Duration {
    let first = interval.min(AGAIN_AFTER.0);
    first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(AGAIN_AFTER.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_api_is_asked_soon_and_then_less_often() {
        let seconds = |interval, failures| pause(Duration::from_secs(interval), failures).as_secs();
        assert_eq!([1, 2, 3, 4, 9].map(|failures| seconds(1, failures)), [1, 2, 4, 8, 30]);
        assert_eq!([1, 2, 3, 4, 99].map(|failures| seconds(3600, failures)), [5, 10, 20, 30, 30]);
    }
}
