//! History: what every series of every server was, for years, in one small file.
//!
//! A value goes into the head of its server (memory) and into a journal row (disk, once a second for all
//! servers). When its bucket of wall time is over, the head is sealed into one chunk, and the journal
//! table of that time is emptied. Nothing here asks a server anything; nothing here blocks a reading.

mod chunk;
mod column;
mod database;
mod error;
mod head;
mod journal;
mod memory;
pub mod metric;
mod packed;
mod query;
mod recover;
mod series;
mod varint;
mod verify;
mod writer;

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::model::{Labels, MetricName, Sample, SeriesKey, ServerNumber, Timestamp};
use chunk::ChunkError;
use memory::Memory;
use query::{Range, Readers};
use recover::Recovered;
use writer::{Request, Writer};

pub use error::HistoryError;
pub use head::MAX_SERIES_PER_SERVER;
pub use memory::Dropped;
pub use query::{MAX_POINTS, Point};
pub use verify::{Verified, verify};

/// Damaged chunks that are remembered so that each is logged once.
const MAX_DAMAGED_KNOWN: usize = 1024;

const WRITER_ENDED: &str = "the thread that writes history has ended; restart the program";

/// How history does.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct HistoryHealth {
    /// Why the file took nothing the last time. None: it took everything.
    pub last_error: Option<String>,
    /// Seconds of values that are in memory only. 0 or 1 when all is well.
    pub behind_s: u64,
    /// Rows of the file that could not be read since the start; each was skipped.
    pub damaged_rows: u64,
    pub dropped: Dropped,
    /// Memory that the unsealed values take.
    pub head_bytes: u64,
}

/// What the writer and the readers share.
#[derive(Debug)]
struct Shared {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    memory: Mutex<Memory>,
    health: Mutex<HealthState>,
    readers: Readers,
}

#[derive(Debug, Default)]
struct HealthState {
    last_error: Option<String>,
    written_until: Timestamp,
    damaged_rows: u64,
    damaged_known: HashSet<i64>,
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self) -> MutexGuard<'_, HealthState> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts and logs a damaged chunk, the first time that it is met.
    fn damaged(&self, bucket: i64, server: u32, error: &ChunkError) {
        let mut health = self.health();
        let known = &mut health.damaged_known;
        if known.len() < MAX_DAMAGED_KNOWN && known.insert(database::chunk_key(bucket, server)) {
            health.damaged_rows += 1;
            tracing::error!(server, bucket, %error, "history: a chunk is damaged and is skipped");
        }
    }
}

/// The history of all servers. Cheap to clone; all clones are the same history.
///
/// Times are those of the readings. A tick must be later than all of its server before it: values that
/// come late or twice are dropped and counted ([`Dropped`]), so a clock that is set back by an hour costs
/// an hour of values.
#[derive(Debug, Clone)]
pub struct History {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
}

impl History {
    /// Opens `history.db` (made where it is missing; its directory must exist) and brings back into memory
    /// what was not sealed. Starts the writer's thread.
    ///
    /// # Errors
    /// [`HistoryError::NewerVersion`], [`HistoryError::Damaged`], or why it cannot be used. The file is
    /// then as it was.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, HistoryError> {
        let started = tokio::time::Instant::now();
        let mut db = database::open(path)?;
        finish_removals(&mut db).map_err(|error| HistoryError::of(path, error))?;
        let Recovered { memory, j0, j1, active, next_key, damaged } =
            recover::recover(&db).map_err(|error| HistoryError::of(path, error))?;
        let health =
            HealthState { written_until: clock.now(), damaged_rows: damaged, ..HealthState::default() };
        tracing::info!(
            servers = memory.servers.len(),
            damaged,
            elapsed_ms = started.elapsed().as_millis(),
            "history is open"
        );
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            clock,
            memory: Mutex::new(memory),
            health: Mutex::new(health),
            readers: Readers::new(path.to_owned()),
        });
        let writer = Writer {
            db,
            shared: Arc::clone(&shared),
            j0,
            j1,
            active,
            next_key,
            backlog: VecDeque::new(),
            rejournal: false,
        };
        let (requests, inbox) = mpsc::channel(writer::REQUESTS);
        std::thread::Builder::new().name("history".to_owned()).spawn(move || write(writer, inbox))?;
        Ok(Self { shared, requests })
    }

    /// Keeps the samples of one reading. Never waits for the disk: they are in memory when this returns
    /// and on disk about a second later. What cannot be kept is counted in [`HistoryHealth::dropped`]:
    /// values that are not finite, late or repeated times, times over 5 minutes ahead of the clock, and
    /// series beyond [`MAX_SERIES_PER_SERVER`].
    pub fn append(&self, server: ServerNumber, at: Timestamp, samples: &[Sample]) {
        let now = self.shared.clock.now();
        self.shared.memory().append(server.0, at, now, samples);
    }

    /// The newest value of each series with its time, in no special order. A series that was not seen for
    /// 60 readings and a bucket (30 minutes) is gone from here; empty: nothing is known of the server.
    #[must_use]
    pub fn latest(&self, server: ServerNumber) -> Vec<(SeriesKey, Timestamp, f64)> {
        self.shared.memory().latest(server.0)
    }

    /// The values at the last `count` readings, oldest first, from memory: at least the last 60 readings
    /// are there. None: a reading without this series, or readings are missing between two.
    #[must_use]
    pub fn recent(&self, server: ServerNumber, key: &SeriesKey, count: usize) -> Vec<Option<f64>> {
        self.shared.memory().recent(server.0, key, count)
    }

    /// The series that the server had lately (as in [`Self::latest`]), in order.
    #[must_use]
    pub fn series(&self, server: ServerNumber) -> Vec<SeriesKey> {
        let memory = self.shared.memory();
        let ids = memory.series_ids(server.0);
        let mut keys: Vec<SeriesKey> = ids
            .into_iter()
            .filter_map(|id| memory.dictionary.get(id))
            .map(|series| series.key.clone())
            .collect();
        keys.sort_unstable();
        keys
    }

    /// One series from `from` to `to`, both included, in at most `points` spans of equal length; what was
    /// appended a moment ago is there. A span without samples has no point.
    ///
    /// # Errors
    /// [`HistoryError::BadPoints`] (1 to [`MAX_POINTS`]), [`HistoryError::BadRange`], or the file cannot be
    /// read. A damaged chunk is left out, logged and counted.
    pub async fn range(
        &self,
        server: ServerNumber,
        key: &SeriesKey,
        from: Timestamp,
        to: Timestamp,
        points: usize,
    ) -> Result<Vec<Point>, HistoryError> {
        let range = Range::new(from, to, points)?;
        let wanted = self.shared.memory().series_of(&key.metric, Some(&key.labels));
        let series = query::range(Arc::clone(&self.shared), server.0, wanted, range).await?;
        Ok(series.into_iter().next().map(|(_, points)| points).unwrap_or_default())
    }

    /// Every series of a metric (each core, each mount) as [`Self::range`] gives one, ordered by label.
    ///
    /// # Errors
    /// As [`Self::range`], and [`HistoryError::TooManyPoints`].
    pub async fn range_all(
        &self,
        server: ServerNumber,
        metric: &MetricName,
        from: Timestamp,
        to: Timestamp,
        points: usize,
    ) -> Result<Vec<(Labels, Vec<Point>)>, HistoryError> {
        let range = Range::new(from, to, points)?;
        let wanted = self.shared.memory().series_of(metric, None);
        query::range(Arc::clone(&self.shared), server.0, wanted, range).await
    }

    /// Removes all values of a server for good. Its number must never be used again: what is appended for
    /// it from now on is dropped.
    ///
    /// # Errors
    /// The file cannot be written; calling again is safe.
    pub async fn forget(&self, server: ServerNumber) -> Result<(), HistoryError> {
        self.shared.memory().forget(server.0);
        self.ask(|done| Request::Forget(server.0, done)).await
    }

    /// Runs one round of the writer now: what was appended before is on disk, and buckets whose time has
    /// come are sealed.
    ///
    /// # Errors
    /// The file cannot be written; the values wait in memory and the next round tries again.
    pub async fn sync(&self) -> Result<(), HistoryError> {
        self.ask(Request::Sync).await
    }

    /// Writes what waits and ends the writer: what was appended before is on disk. Later values are
    /// dropped, later reads answer [`HistoryError::Closed`]. Closing twice is no error.
    ///
    /// # Errors
    /// The last values could not be written.
    pub async fn close(&self) -> Result<(), HistoryError> {
        self.shared.readers.close().await;
        match self.ask(Request::Close).await {
            Err(HistoryError::Closed) => Ok(()),
            outcome => outcome,
        }
    }

    /// Migrations of the history file that this program knows.
    #[must_use]
    pub const fn known_schema() -> usize {
        database::known_schema()
    }

    #[must_use]
    pub fn health(&self) -> HistoryHealth {
        let now = self.shared.clock.now();
        let (dropped, waiting, head_bytes, closed) = {
            let memory = self.shared.memory();
            (memory.dropped, memory.has_pending(), memory.memory_bytes(), memory.is_closed())
        };
        let health = self.shared.health();
        let waiting = waiting || health.last_error.is_some();
        let ended = self.requests.is_closed() && !closed;
        HistoryHealth {
            last_error: if ended { Some(WRITER_ENDED.to_owned()) } else { health.last_error.clone() },
            behind_s: if waiting { now.since(health.written_until).as_secs() } else { 0 },
            damaged_rows: health.damaged_rows,
            dropped,
            head_bytes: head_bytes as u64,
        }
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, HistoryError>>) -> Request,
    ) -> Result<T, HistoryError> {
        let (done, answer) = oneshot::channel();
        self.requests.send(request(done)).await.map_err(|_gone| HistoryError::Closed)?;
        answer.await.map_err(|_gone| HistoryError::Closed)?
    }
}

/// A removal that the end of the program cut short goes on.
fn finish_removals(db: &mut rusqlite::Connection) -> rusqlite::Result<()> {
    for server in database::forgotten(db)? {
        database::delete_chunks(db, server)?;
    }
    Ok(())
}

/// The writer's thread.
fn write(writer: Writer, inbox: mpsc::Receiver<Request>) {
    match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime.block_on(writer.run(inbox)),
        Err(error) => tracing::error!(%error, "history: the writer cannot start"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[tokio::test]
    async fn a_journal_that_gave_up_is_written_anew_from_the_heads() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.db");
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_800_000_000)));
        let history = History::open(&path, clock.clone()).unwrap();
        let key = SeriesKey::plain("cpu_percent");
        let append = |value: f64| {
            history.append(ServerNumber(1), clock.now(), &[Sample { key: key.clone(), value }]);
            clock.advance(std::time::Duration::from_secs(1));
        };
        append(1.0);
        append(2.0);
        history.shared.memory().overflow();
        append(3.0);
        history.sync().await.unwrap();
        append(4.0);
        history.close().await.unwrap();
        let history = History::open(&path, clock.clone()).unwrap();
        assert_eq!(history.recent(ServerNumber(1), &key, 9), [1.0, 2.0, 3.0, 4.0].map(Some));
    }
}
