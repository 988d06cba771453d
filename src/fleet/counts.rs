//! What the pollers have done since the start, in numbers, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Fleet;
use crate::model::Layer;

/// A reading that begins later than this is late (SPEC 15.1).
const LATE: Duration = Duration::from_secs(1);

/// Counters that all pollers share.
#[derive(Debug, Default)]
pub struct Counts {
    readings: AtomicU64,
    late_readings: AtomicU64,
    lateness_us: AtomicU64,
    logins: AtomicU64,
    failures: [AtomicU64; Layer::ALL.len()],
    other_failures: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    pub readings: u64,
    /// Readings that began more than a second after their time.
    pub late_readings: u64,
    /// Sum over all readings of the time between when one was due and when it began.
    pub lateness: Duration,
    pub logins: u64,
    /// Attempts to reach or read a server that failed. None: at no layer of the way.
    pub failures: Vec<(Option<Layer>, u64)>,
}

impl Counts {
    pub fn reading(&self) {
        self.readings.fetch_add(1, Ordering::Relaxed);
    }

    /// A reading begins so long after its time.
    pub fn begun(&self, late: Duration) {
        let micros = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        self.lateness_us.fetch_add(micros, Ordering::Relaxed);
        self.late_readings.fetch_add(u64::from(late > LATE), Ordering::Relaxed);
    }

    pub fn logins(&self, new: u32) {
        self.logins.fetch_add(u64::from(new), Ordering::Relaxed);
    }

    pub fn failed(&self, layer: Option<Layer>) {
        let place = Layer::ALL.iter().zip(&self.failures).find(|(at, _)| Some(**at) == layer);
        place.map_or(&self.other_failures, |(_, count)| count).fetch_add(1, Ordering::Relaxed);
    }

    fn now(&self) -> Counted {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let layers = Layer::ALL.iter().zip(&self.failures).map(|(layer, count)| (Some(*layer), read(count)));
        Counted {
            readings: read(&self.readings),
            late_readings: read(&self.late_readings),
            lateness: Duration::from_micros(read(&self.lateness_us)),
            logins: read(&self.logins),
            failures: layers.chain([(None, read(&self.other_failures))]).collect(),
        }
    }
}

impl Fleet {
    /// What the pollers of all organizations have done since the start.
    #[must_use]
    pub fn counted(&self) -> Counted {
        self.inner.shared.counts.now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_counts_at_its_layer_and_a_late_reading_as_late() {
        let counts = Counts::default();
        counts.failed(Some(Layer::Tcp));
        counts.failed(Some(Layer::Tcp));
        counts.failed(None);
        counts.begun(Duration::from_millis(1500));
        counts.begun(Duration::from_millis(500));
        let now = counts.now();
        assert_eq!((now.late_readings, now.lateness), (1, Duration::from_secs(2)));
        let nonzero: Vec<_> = now.failures.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(nonzero, [(Some(Layer::Tcp), 2), (None, 1)]);
    }
}
