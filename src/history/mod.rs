//! History: what every series of every server was, for years, in one small file.
//!
//! A value goes into the head of its server (memory) and into a journal row (disk, once a second for all
//! servers). When its bucket of wall time is over, the head is sealed into one chunk, and the journal
//! table of that time is emptied. Roll-ups are made from what is sealed, level by level, and each level is kept as
//! long as [`Retention`] says. Nothing here asks a server anything; nothing here blocks a reading.

mod aggregate;
mod archive;
mod chunk;
mod column;
mod damage;
mod database;
mod error;
mod head;
mod health;
mod journal;
mod level;
mod memory;
pub mod metric;
mod packed;
mod progress;
mod query;
mod recover;
mod removal;
mod retention;
mod rolling;
mod rollup;
mod series;
mod sizes;
mod stored;
mod varint;
mod verify;
mod writer;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::Clock;
use crate::model::{MetricName, Sample, SeriesKey, ServerNumber, Timestamp};
use health::HealthState;
use memory::Memory;
use query::{Range, Readers};
use recover::Recovered;
use series::Series;
use writer::{Request, Writer};

pub use aggregate::{Aggregate, AggregatePoint, Aggregated, MAX_TOP, percentile};
pub use error::HistoryError;
pub use head::MAX_SERIES_PER_SERVER;
pub use health::{HistoryHealth, Limited};
pub use level::Level;
pub use memory::Dropped;
pub use query::{MAX_POINTS, Point, Ranges, SeriesRange};
pub use retention::{Removal, Removed, Retention};
pub use sizes::{Integrity, LevelSize, Sizes};
pub use verify::{Verified, verify};

/// Name of what was set, in the file.
const SETTINGS: &str = "history";

/// What was set while the program ran.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Settings {
    retention: Retention,
    archive: Option<PathBuf>,
    /// It stands in the file: somebody set it.
    #[serde(skip)]
    is_set: bool,
}

/// What the writer and the readers share.
#[derive(Debug)]
struct Shared {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    memory: Mutex<Memory>,
    health: Mutex<HealthState>,
    settings: Mutex<Settings>,
    /// As [`HistoryHealth::last_error`], for whoever waits for the change.
    trouble: watch::Sender<Option<String>>,
    readers: Readers,
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn health(&self) -> MutexGuard<'_, HealthState> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The history of all servers. Cheap to clone; all clones are the same history.
///
/// Times are those of the readings. What comes late (up to 24 hours) finds its place and its roll-ups are made
/// anew; a time that the server had already is dropped and counted ([`Dropped`]). A clock that is set back costs
/// nothing but the values of times that were there before.
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
        let failed = |error| HistoryError::of(path, error);
        finish_removals(&mut db).map_err(failed)?;
        let Recovered { memory, j0, j1, active, next_key, damaged } =
            recover::recover(&db, clock.now()).map_err(failed)?;
        database::save_all_progress(&mut db, &memory.progress).map_err(failed)?;
        let settings = read_settings(&db).map_err(failed)?;
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
            settings: Mutex::new(settings),
            trouble: watch::Sender::new(None),
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
            removal: None,
            removal_wanted: Vec::new(),
            next_removal: tokio::time::Instant::now() + writer::FIRST_REMOVAL,
            last_round: None,
        };
        let (requests, inbox) = mpsc::channel(writer::REQUESTS);
        std::thread::Builder::new().name("history".to_owned()).spawn(move || write(writer, inbox))?;
        Ok(Self { shared, requests })
    }

    /// Keeps the samples of one reading. Never waits for the disk: they are in memory when this returns
    /// and on disk about a second later. What cannot be kept is counted in [`HistoryHealth::dropped`]:
    /// values that are not finite, repeated times, times over 5 minutes ahead of the clock or over 24 hours
    /// behind it, and series beyond the limits.
    pub fn append(&self, server: ServerNumber, at: Timestamp, samples: &[Sample]) {
        let now = self.shared.clock.now();
        self.shared.memory().append(server.0, at, now, samples);
    }

    /// The newest value of each series with its time, in no special order. A series that was not seen for
    /// 60 readings and a bucket (30 minutes) is gone from here; empty: nothing is known of the server.
    #[must_use]
    pub fn latest(&self, server: ServerNumber) -> Vec<(SeriesKey, Timestamp, f64)> {
        let now = self.shared.clock.now();
        self.shared.memory().latest(server.0, now)
    }

    /// The newest value of one series of many servers, from memory, in their order; servers without it are
    /// left out.
    #[must_use]
    pub fn latest_of(
        &self,
        servers: &[ServerNumber],
        key: &SeriesKey,
    ) -> Vec<(ServerNumber, Timestamp, f64)> {
        let now = self.shared.clock.now();
        let memory = self.shared.memory();
        let Some(series) = memory.dictionary.find(key) else { return Vec::new() };
        let newest = servers.iter().filter_map(|server| {
            let (at, value) = memory.latest_one(server.0, series, now)?;
            Some((*server, at, value))
        });
        newest.collect()
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
    /// appended a moment ago is there. A span without samples has no point. Of a roll-up, a step that only begins at
    /// `to` is left out. Which level it came from says
    /// [`Self::ranges`].
    ///
    /// # Errors
    /// As [`Self::ranges`].
    pub async fn range(
        &self,
        server: ServerNumber,
        key: &SeriesKey,
        from: Timestamp,
        to: Timestamp,
        points: usize,
    ) -> Result<Vec<Point>, HistoryError> {
        let answer = self.ranges(&[(server, key.clone())], from, to, points).await?;
        Ok(answer.series.into_iter().next().map(|series| series.points).unwrap_or_default())
    }

    /// Several series of several servers over the same time, in the order in which they are wanted. The level is
    /// chosen by the length of a span and by what is still kept; spans are whole steps of it.
    ///
    /// # Errors
    /// [`HistoryError::BadPoints`] (1 to [`MAX_POINTS`]), [`HistoryError::BadRange`],
    /// [`HistoryError::UnknownMetric`], [`HistoryError::TooManyPoints`], or the file cannot be read. A damaged
    /// row is left out, logged and counted.
    pub async fn ranges(
        &self,
        wanted: &[(ServerNumber, SeriesKey)],
        from: Timestamp,
        to: Timestamp,
        points: usize,
    ) -> Result<Ranges, HistoryError> {
        let range = self.span(from, to, points)?;
        let mut series: HashMap<SeriesKey, Series> = HashMap::new();
        {
            let memory = self.shared.memory();
            for (_, key) in wanted {
                if let Some(found) = memory.known(key)? {
                    series.insert(key.clone(), found.clone());
                }
            }
        }
        // Rows hold all series of a server: each is read once.
        let mut by_server: Vec<(ServerNumber, Vec<Series>)> = Vec::new();
        let mut places: HashMap<ServerNumber, usize> = HashMap::new();
        for (server, key) in wanted {
            let Some(series) = series.get(key) else { continue };
            let place = *places.entry(*server).or_insert_with(|| {
                by_server.push((*server, Vec::new()));
                by_server.len() - 1
            });
            if let Some((_, of_server)) = by_server.get_mut(place)
                && !of_server.iter().any(|known| known.id == series.id)
            {
                of_server.push(series.clone());
            }
        }
        let read =
            move |shared: &Shared, db: &rusqlite::Connection| query::ranges(shared, db, &by_server, range);
        let found = query::run(Arc::clone(&self.shared), read).await?;
        let mut found: HashMap<(ServerNumber, SeriesKey), Vec<Point>> =
            found.into_iter().map(|series| ((series.server, series.key), series.points)).collect();
        let in_order = wanted.iter().map(|(server, key)| SeriesRange {
            server: *server,
            key: key.clone(),
            points: found.remove(&(*server, key.clone())).unwrap_or_default(),
        });
        Ok(answer(range, in_order.collect()))
    }

    /// Every series of a metric (each core, each mount) that has something in the range, ordered by label.
    ///
    /// # Errors
    /// As [`Self::ranges`].
    pub async fn range_all(
        &self,
        server: ServerNumber,
        metric: &MetricName,
        from: Timestamp,
        to: Timestamp,
        points: usize,
    ) -> Result<Ranges, HistoryError> {
        let range = self.span(from, to, points)?;
        let wanted = vec![(server, self.shared.memory().series_of(metric))];
        let read =
            move |shared: &Shared, db: &rusqlite::Connection| query::ranges(shared, db, &wanted, range);
        let mut series = query::run(Arc::clone(&self.shared), read).await?;
        series.retain(|series| !series.points.is_empty());
        // Cores and the like by number, the rest by name.
        series.sort_by_cached_key(|series| {
            let text = series.key.labels.as_str().to_owned();
            (text.parse::<u32>().map_or((1, 0), |number| (0, number)), text)
        });
        Ok(answer(range, series))
    }

    /// One series of many servers as one, or the top of them. Asking for fewer points makes a coarser level do,
    /// and that is what it costs: of a day, 288 points are read from the level of 5 minutes.
    ///
    /// # Errors
    /// As [`Self::ranges`], and [`HistoryError::BadPercentile`].
    pub async fn aggregate(
        &self,
        servers: &[ServerNumber],
        key: &SeriesKey,
        how: Aggregate,
        from: Timestamp,
        to: Timestamp,
        points: usize,
    ) -> Result<Aggregated, HistoryError> {
        let range = self.span(from, to, points)?;
        aggregate::check(how, servers.len(), points)?;
        let series = self.shared.memory().known(key)?.cloned();
        let Some(series) = series else {
            let Ranges { level, from, width_ms, .. } = answer(range, Vec::new());
            return Ok(Aggregated { level, from, width_ms, points: Vec::new(), top: Vec::new() });
        };
        let servers = servers.to_vec();
        let read = move |shared: &Shared, db: &rusqlite::Connection| {
            aggregate::aggregate(shared, db, &servers, &series, how, range)
        };
        query::run(Arc::clone(&self.shared), read).await
    }

    fn span(&self, from: Timestamp, to: Timestamp, points: usize) -> Result<Range, HistoryError> {
        let retention = self.retention();
        Range::new(from, to, points, self.shared.clock.now(), &retention)
    }

    /// How long each level is kept.
    #[must_use]
    pub fn retention(&self) -> Retention {
        self.shared.settings().retention
    }

    /// Where expiring values go before they are removed; None: nowhere.
    #[must_use]
    pub fn archive(&self) -> Option<PathBuf> {
        self.shared.settings().archive.clone()
    }

    /// Sets how long each level is kept and where expiring values are archived first (a directory, made where it
    /// is missing). It is in the file afterwards; what has expired by it goes with the next hourly run, or with
    /// [`Self::remove_expired`].
    ///
    /// # Errors
    /// [`HistoryError::BadRetention`], or the file cannot be written; then nothing has changed.
    pub async fn set_retention(
        &self,
        retention: Retention,
        archive: Option<PathBuf>,
    ) -> Result<(), HistoryError> {
        retention.validate()?;
        self.ask(|done| Request::Configure(Settings { retention, archive, is_set: true }, done)).await
    }

    /// What holds for as long as nothing was set in the file with [`Self::set_retention`]. It is not written anywhere:
    /// whoever opens the file says it again.
    ///
    /// # Errors
    /// [`HistoryError::BadRetention`]; then nothing has changed.
    pub fn set_default_retention(
        &self,
        retention: Retention,
        archive: Option<PathBuf>,
    ) -> Result<(), HistoryError> {
        retention.validate()?;
        let mut settings = self.shared.settings();
        if !settings.is_set {
            *settings = Settings { retention, archive, is_set: false };
        }
        Ok(())
    }

    /// Removes all that has expired now, and answers when it is done. The hourly run does the same, but never
    /// more than two days at a time, so that a clock that jumps ahead does not take the past with it.
    ///
    /// # Errors
    /// [`HistoryError::Archive`] or the file cannot be written; what is not removed stays for the next run.
    pub async fn remove_expired(&self) -> Result<Removal, HistoryError> {
        self.ask(Request::Remove).await
    }

    /// What the last run of the removal did. None: there was none since the start.
    #[must_use]
    pub fn last_removal(&self) -> Option<Removal> {
        self.shared.health().last_removal.clone()
    }

    /// How much there is of each level, and how fast it grows.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn sizes(&self) -> Result<Sizes, HistoryError> {
        let retention = self.retention();
        let read = move |shared: &Shared, db: &rusqlite::Connection| {
            sizes::sizes(db, shared, &retention).map_err(|error| HistoryError::of(&shared.path, error))
        };
        query::run(Arc::clone(&self.shared), read).await
    }

    /// Reads and checks the whole file; of a large one that takes minutes. Readings go on meanwhile.
    ///
    /// # Errors
    /// The file cannot be read at all. Damage is no error but what the report is about.
    pub async fn check_integrity(&self) -> Result<Integrity, HistoryError> {
        query::run(Arc::clone(&self.shared), |shared: &Shared, db| sizes::check(db, shared)).await
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

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, HistoryError>>) -> Request,
    ) -> Result<T, HistoryError> {
        let (done, answer) = oneshot::channel();
        self.requests.send(request(done)).await.map_err(|_gone| HistoryError::Closed)?;
        answer.await.map_err(|_gone| HistoryError::Closed)?
    }
}

fn answer(range: Range, series: Vec<SeriesRange>) -> Ranges {
    Ranges {
        level: range.level,
        from: Timestamp::from_millis(range.from_ms),
        width_ms: range.width_ms,
        series,
    }
}

/// What was set; the default where the file has nothing or nothing valid.
fn read_settings(db: &rusqlite::Connection) -> rusqlite::Result<Settings> {
    let Some(text) = database::setting(db, SETTINGS)? else { return Ok(Settings::default()) };
    let read = serde_json::from_str::<Settings>(&text).map_err(|error| error.to_string());
    let valid = read.and_then(|settings| match settings.retention.validate() {
        Ok(()) => Ok(Settings { is_set: true, ..settings }),
        Err(error) => Err(error.to_string()),
    });
    Ok(valid.unwrap_or_else(|error| {
        tracing::error!(error, "history: the stored retention cannot be used; the default holds");
        Settings::default()
    }))
}

/// A removal that the end of the program cut short goes on.
fn finish_removals(db: &mut rusqlite::Connection) -> rusqlite::Result<()> {
    for server in database::forgotten(db)? {
        database::delete_server(db, server)?;
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
