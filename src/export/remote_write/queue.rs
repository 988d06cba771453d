//! What waits for the long-term store: bounded, the oldest gives way.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Samples of one request at most; receivers refuse bodies of many megabytes, and this is about one unpacked.
const BATCH_SAMPLES: usize = 5_000;

/// One reading, packed with snappy: series of one server are alike, so this is a tenth of what is sent.
#[derive(Debug)]
struct Waiting {
    packed: Box<[u8]>,
    samples: usize,
}

/// Readings in the order in which they came.
#[derive(Debug)]
pub struct Queue {
    inner: Mutex<Inner>,
    arrived: Notify,
    limit_samples: usize,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Waiting>,
    samples: usize,
    dropped: u64,
}

/// Encoded series that go into one request.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    pub series: Vec<u8>,
    pub samples: usize,
}

impl Queue {
    #[must_use]
    pub fn new(limit_samples: usize) -> Self {
        Self { inner: Mutex::default(), arrived: Notify::new(), limit_samples }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never waits: where there is no room the oldest readings are given up and counted.
    pub fn push(&self, series: &[u8], samples: usize) {
        if samples == 0 {
            return;
        }
        let packed = match snap::raw::Encoder::new().compress_vec(series) {
            Ok(packed) => packed.into_boxed_slice(),
            Err(error) => {
                tracing::error!(%error, "remote-write: a reading could not be packed and is given up");
                self.inner().dropped += samples as u64;
                return;
            }
        };
        {
            let mut inner = self.inner();
            inner.samples += samples;
            inner.waiting.push_back(Waiting { packed, samples });
            while inner.samples > self.limit_samples {
                let Some(oldest) = inner.waiting.pop_front() else { break };
                inner.samples -= oldest.samples;
                inner.dropped += oldest.samples as u64;
            }
        }
        self.arrived.notify_one();
    }

    /// The next readings for one request, as soon as there is one.
    pub async fn take(&self) -> Batch {
        loop {
            let arrived = self.arrived.notified();
            if let Some(batch) = self.take_now() {
                return batch;
            }
            arrived.await;
        }
    }

    fn take_now(&self) -> Option<Batch> {
        let mut batch = Batch { series: Vec::new(), samples: 0 };
        let mut inner = self.inner();
        while let Some(next) = inner.waiting.pop_front() {
            if batch.samples > 0 && batch.samples + next.samples > BATCH_SAMPLES {
                inner.waiting.push_front(next);
                break;
            }
            inner.samples -= next.samples;
            match snap::raw::Decoder::new().decompress_vec(&next.packed) {
                Ok(series) => {
                    batch.series.extend_from_slice(&series);
                    batch.samples += next.samples;
                }
                Err(error) => {
                    tracing::error!(%error, "remote-write: a packed reading does not open and is given up");
                    inner.dropped += next.samples as u64;
                }
            }
        }
        (batch.samples > 0).then_some(batch)
    }

    /// Samples that wait, and samples that were given up since the start.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let inner = self.inner();
        (inner.samples as u64, inner.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_gives_up_the_oldest_and_counts_them() {
        let queue = Queue::new(10);
        for name in [b"a", b"b", b"c"] {
            queue.push(name, 4);
        }
        assert_eq!(queue.counts(), (8, 4));
        assert_eq!(queue.take().await, Batch { series: b"bc".to_vec(), samples: 8 });
        assert_eq!(queue.counts(), (0, 4));
        queue.push(b"whole fleet", 11);
        assert_eq!(queue.counts(), (0, 15), "larger than the queue itself");
    }
}
