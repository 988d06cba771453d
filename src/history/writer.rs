//! The one thread that writes: a journal transaction a second, sealing, roll-ups, removal.
//!
//! It owns the only connection that may write. A disk that takes nothing stops none of its callers:
//! what was not written waits, is tried again each second, and [`super::History::health`] tells.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use super::chunk::Chunk;
use super::column::Effort;
use super::database::Table;
use super::database::{self, Journal};
use super::error::HistoryError;
use super::head::{self, BUCKET_MS};
use super::level::{DAY_MS, Level};
use super::memory::{MAX_AHEAD_MS, MAX_PENDING_BYTES, PendingRow, Taken};
use super::recover::{Filled, TableState};
use super::removal::{self, Cause};
use super::retention::Removal;
use super::rolling::{self, Outcome};
use super::series::Changes;
use super::stored::{self, Stored};
use super::{Settings, Shared};

/// Time between two journal transactions: with the time that one takes, under the 2 s that may be lost.
const ROUND: Duration = Duration::from_secs(1);

/// Chunks sealed in one round: four times what 5,000 servers need, so that a backlog after a pause shrinks.
const SEALS_PER_ROUND: usize = 128;

/// Rows rolled up in one round: a hundred times what 5,000 servers need, for the catching up after a pause.
const ROLLS_PER_ROUND: usize = 256;

/// Rows rolled up in one transaction, and for how long a round does so.
const ROLLS_PER_COMMIT: usize = 8;
/// Rows looked at for one transaction: those that cannot be made yet cost little each, but there may be thousands.
const TRIES_PER_COMMIT: usize = 64;
const ROLL_BUDGET: Duration = Duration::from_millis(150);

/// How often expired values are looked for, and when first: a start has other things to do.
const REMOVAL_EVERY: Duration = Duration::from_secs(3600);
pub(super) const FIRST_REMOVAL: Duration = Duration::from_secs(120);

/// Between two rounds the clock may differ by this from the time that passed; more is a step of the clock.
const CLOCK_STEP_MS: i64 = 5_000;

/// Sealing leaves the journal waiting no longer than this.
const SEAL_BUDGET: Duration = Duration::from_millis(300);

/// Requests that may wait for the writer; callers wait for a place.
pub(super) const REQUESTS: usize = 16;

#[derive(Debug)]
pub(super) enum Request {
    /// One round now.
    Sync(oneshot::Sender<Result<(), HistoryError>>),
    Forget(u32, oneshot::Sender<Result<(), HistoryError>>),
    Configure(Settings, oneshot::Sender<Result<(), HistoryError>>),
    /// Answers when all that has expired is removed.
    Remove(oneshot::Sender<Result<Removal, HistoryError>>),
    Close(oneshot::Sender<Result<(), HistoryError>>),
}

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) db: Connection,
    pub(super) shared: Arc<Shared>,
    pub(super) j0: TableState,
    pub(super) j1: TableState,
    pub(super) active: Journal,
    pub(super) next_key: i64,
    pub(super) backlog: VecDeque<PendingRow>,
    pub(super) rejournal: bool,
    pub(super) removal: Option<removal::Run>,
    pub(super) removal_wanted: Vec<oneshot::Sender<Result<Removal, HistoryError>>>,
    pub(super) next_removal: Instant,
    /// When the last round was, by the clock and really.
    pub(super) last_round: Option<(i64, Instant)>,
}

impl Writer {
    /// Until closed, or until nobody holds a handle any more.
    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let request = tokio::select! {
                biased;
                _ = rounds.tick() => {
                    // The error is in the health already, and the next round tries again.
                    let _seen = self.round();
                    continue;
                }
                request = requests.recv() => request,
            };
            match request {
                Some(Request::Sync(done)) => answer(done, self.round()),
                Some(Request::Forget(server, done)) => {
                    let outcome = self.forget(server);
                    answer(done, self.note(outcome));
                }
                Some(Request::Configure(settings, done)) => {
                    let outcome = self.configure(settings);
                    answer(done, outcome);
                }
                Some(Request::Remove(done)) => {
                    self.removal_wanted.push(done);
                    // Begins anew where one goes on: a person wants all of it.
                    self.removal = None;
                    self.remove_and_tell();
                }
                Some(Request::Close(done)) => {
                    let outcome = self.end();
                    drop(self.db);
                    answer(done, outcome);
                    return;
                }
                None => {
                    if let Err(error) = self.end() {
                        tracing::error!(%error, "history: the last values could not be written");
                    }
                    return;
                }
            }
        }
    }

    fn end(&mut self) -> Result<(), HistoryError> {
        self.shared.memory().close();
        let outcome = self.write_journal();
        self.note(outcome)?;
        let emptied = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        emptied.map_err(|error| self.error(error))
    }

    fn round(&mut self) -> Result<(), HistoryError> {
        self.watch_clock();
        let written = self.write_journal();
        if written.is_err() {
            return self.note(written);
        }
        // What one of them cannot do for one server is no reason to leave the others undone.
        let (sealed, emptied, rolled) = (self.seal_due(), self.empty_journal(), self.roll_due());
        let outcome = self.note(sealed.and(emptied).and(rolled));
        self.remove_and_tell();
        outcome
    }

    /// An archive that cannot be written is no trouble of the readings: it is told by itself.
    fn remove_and_tell(&mut self) {
        if let Err(error) = self.remove_expired() {
            tracing::error!(%error, "history: expired values stay where they are");
            self.shared.health().removal_error = Some(error.to_string());
        }
    }

    /// Counts and reports the steps of the clock.
    fn watch_clock(&mut self) {
        let (now_ms, really) = (self.shared.clock.now().as_millis(), Instant::now());
        if let Some((before_ms, before)) = self.last_round.replace((now_ms, really)) {
            let passed_ms = i64::try_from(really.duration_since(before).as_millis()).unwrap_or(i64::MAX);
            let step_ms = now_ms - before_ms - passed_ms;
            if step_ms.abs() > CLOCK_STEP_MS {
                self.shared.health().clock_steps += 1;
                tracing::warn!(
                    step_seconds = step_ms / 1000,
                    "history: the clock of this machine was set; values are kept at the times that it says"
                );
            }
        }
    }

    fn error(&self, error: rusqlite::Error) -> HistoryError {
        HistoryError::of(&self.shared.path, error)
    }

    /// Keeps the health and logs when it turns.
    fn note(&self, outcome: Result<(), HistoryError>) -> Result<(), HistoryError> {
        let mut health = self.shared.health();
        match &outcome {
            Ok(()) => {
                if health.last_error.take().is_some() {
                    tracing::info!("history: the file takes values again, nothing waits");
                    self.shared.trouble.send_replace(None);
                }
            }
            Err(error) => {
                if health.last_error.is_none() {
                    tracing::error!(%error, "history: the file takes no values; they wait in memory");
                    self.shared.trouble.send_replace(Some(error.to_string()));
                }
                health.last_error = Some(error.to_string());
            }
        }
        outcome
    }

    fn write_journal(&mut self) -> Result<(), HistoryError> {
        let now = self.shared.clock.now();
        let Taken { rows, changes, rejournal } = self.shared.memory().take_pending();
        self.rejournal |= rejournal;
        self.backlog.extend(rows);
        if self.backlog.iter().map(|row| row.bytes.len()).sum::<usize>() > MAX_PENDING_BYTES {
            self.backlog.clear();
            self.rejournal = true;
        }
        if !self.backlog.is_empty() || !changes.is_empty() || self.rejournal {
            self.write_backlog(&changes).map_err(|error| self.error(error))?;
        }
        self.shared.health().written_until = now;
        Ok(())
    }

    fn write_backlog(&mut self, changes: &Changes) -> rusqlite::Result<()> {
        let tx = self.db.transaction()?;
        let generation = self.shared.memory().generation;
        let (j0, j1, active, next_key) = (self.j0, self.j1, self.active, self.next_key);
        let mut cursor = Cursor { j0, j1, active, next_key, generation };
        database::save_series(&tx, changes)?;
        for row in &self.backlog {
            cursor.insert(&tx, row)?;
        }
        if self.rejournal {
            let servers: Vec<u32> = self.shared.memory().servers.keys().copied().collect();
            for server in servers {
                // The lock is held for one server at a time.
                let rows = self.shared.memory().journal_of(server);
                for row in rows {
                    cursor.insert(&tx, &row)?;
                }
            }
        }
        tx.commit()?;
        Cursor { j0: self.j0, j1: self.j1, active: self.active, next_key: self.next_key, .. } = cursor;
        self.backlog.clear();
        self.rejournal = false;
        let mut memory = self.shared.memory();
        memory.generation = cursor.generation;
        memory.dictionary.saved(changes);
        Ok(())
    }

    fn seal_due(&mut self) -> Result<(), HistoryError> {
        let due = self.shared.memory().due(self.shared.clock.now(), SEALS_PER_ROUND);
        if due.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let mut failed = HashSet::new();
        let mut sealed = Vec::new();
        let mut first_error = None;
        let mut tx = self.db.transaction().map_err(|error| HistoryError::of(&self.shared.path, error))?;
        for (server, bucket) in due {
            if started.elapsed() > SEAL_BUDGET {
                break;
            }
            // What is on disk of a server is always its oldest part: later buckets wait for this one.
            if failed.contains(&server) {
                continue;
            }
            let Some(chunk) = self.shared.memory().chunk(server, bucket) else { continue };
            let part = tx.savepoint().map_err(|error| HistoryError::of(&self.shared.path, error))?;
            let outcome = self
                .shared
                .seal(&part, server, bucket, &chunk)
                .and_then(|()| part.commit().map_err(|error| HistoryError::of(&self.shared.path, error)));
            match outcome {
                Ok(()) => sealed.push((server, bucket, chunk)),
                Err(error) => {
                    failed.insert(server);
                    first_error.get_or_insert(error);
                }
            }
        }
        // A late value may have brought a series since the journal was written: no chunk may name a number
        // that the file does not know.
        let changes = self.shared.memory().dictionary.unsaved();
        let named = database::save_series(&tx, &changes);
        named.and_then(|()| tx.commit()).map_err(|error| HistoryError::of(&self.shared.path, error))?;
        let now_ms = self.shared.clock.now().as_millis();
        let mut memory = self.shared.memory();
        memory.dictionary.saved(&changes);
        for (server, bucket, chunk) in sealed {
            let series = chunk.columns.iter().map(|column| column.series);
            memory.dictionary.seen(series, now_ms.div_euclid(DAY_MS));
            memory.progress.saved(server);
            if let Some(head) = memory.servers.get_mut(&server) {
                head.sealed(bucket, &chunk, now_ms + MAX_AHEAD_MS);
            }
        }
        drop(memory);
        first_error.map_or(Ok(()), Err)
    }

    /// Empties the table that is not written to, once all that it holds is sealed.
    fn empty_journal(&mut self) -> Result<(), HistoryError> {
        let idle = self.active.other();
        let state = match idle {
            Journal::J0 => &mut self.j0,
            Journal::J1 => &mut self.j1,
        };
        let Some(filled) = state.filled else { return Ok(()) };
        if self.shared.memory().oldest_generation().is_some_and(|oldest| oldest <= filled.generation) {
            return Ok(());
        }
        let emptied = self.db.transaction().and_then(|tx| {
            database::empty_journal(&tx, idle)?;
            tx.commit()
        });
        emptied.map_err(|error| HistoryError::of(&self.shared.path, error))?;
        state.filled = None;
        Ok(())
    }

    /// Rolls up the rows whose time has come, a few in one transaction.
    fn roll_due(&mut self) -> Result<(), HistoryError> {
        let started = Instant::now();
        let mut rolled = 0;
        while rolled < ROLLS_PER_ROUND && started.elapsed() < ROLL_BUDGET {
            let mut done = Vec::new();
            if let Err(error) = self.roll_some(&mut done) {
                // The file has none of it: the rows are made again.
                let progress = &mut self.shared.memory().progress;
                for (server, level, row) in done.into_iter().rev() {
                    progress.set(server, level, row);
                }
                return Err(error);
            }
            if done.is_empty() {
                return Ok(());
            }
            rolled += done.len();
        }
        Ok(())
    }

    /// One transaction; `done` has what it changed in the progress, with the rows that were next before. The row
    /// that was due first is made first, so that each level finds the one below.
    fn roll_some(&mut self, done: &mut Vec<(u32, Level, i64)>) -> Result<(), HistoryError> {
        let failed = |error| HistoryError::of(&self.shared.path, error);
        let now_ms = self.shared.clock.now().as_millis();
        let mut tx = self.db.transaction().map_err(failed)?;
        for _ in 0..TRIES_PER_COMMIT {
            if done.len() >= ROLLS_PER_COMMIT {
                break;
            }
            let Some((level, server)) = self.shared.memory().progress.due(now_ms) else { break };
            let row = self.shared.memory().progress.next(server, level).unwrap_or(0);
            let mut part = tx.savepoint().map_err(failed)?;
            let outcome = match rolling::roll(&mut part, &self.shared, level, server) {
                Ok(outcome) => {
                    part.commit().map_err(failed)?;
                    outcome
                }
                // This row alone: the other servers' roll-ups go on.
                Err(error @ (HistoryError::Damaged { .. } | HistoryError::Seal(_))) => {
                    drop(part);
                    self.shared.damaged(Table::Level(level), row, server, &error);
                    self.shared.memory().progress.stuck(server, level);
                    Outcome::NotYet
                }
                Err(error) => return Err(error),
            };
            let progress = &mut self.shared.memory().progress;
            match outcome {
                Outcome::Done => {
                    progress.set(server, level, row + 1);
                    done.push((server, level, row));
                }
                Outcome::NotYet => progress.postpone(server, level, now_ms),
            }
        }
        tx.commit().map_err(failed)
    }

    fn configure(&mut self, settings: Settings) -> Result<(), HistoryError> {
        let text = serde_json::to_string(&settings)
            .map_err(|error| HistoryError::Start(std::io::Error::other(error)))?;
        database::put_setting(&self.db, super::SETTINGS, &text).map_err(|error| self.error(error))?;
        *self.shared.settings() = settings;
        self.removal = None;
        Ok(())
    }

    /// A step of the removal that goes on, or of a new one when its hour has come.
    fn remove_expired(&mut self) -> Result<(), HistoryError> {
        let person = !self.removal_wanted.is_empty();
        if self.removal.is_none() {
            if !person && Instant::now() < self.next_removal {
                return Ok(());
            }
            self.next_removal = Instant::now() + REMOVAL_EVERY;
            let seen = self.shared.memory().dictionary.seen_days();
            let saved = self.db.transaction().and_then(|tx| {
                database::save_seen(&tx, &seen)?;
                tx.commit()
            });
            saved.map_err(|error| self.error(error))?;
            let Settings { retention, archive, .. } = self.shared.settings().clone();
            let cause = if person { Cause::Person } else { Cause::Hourly };
            let plan = removal::Run::plan(&self.db, &self.shared, &retention, archive, cause);
            self.removal = Some(self.or_refuse(plan)?);
        }
        let Some(mut run) = self.removal.take() else { return Ok(()) };
        let step = run.step(&mut self.db, &self.shared);
        match self.or_refuse(step)? {
            None => self.removal = Some(run),
            Some(removal) => {
                removal::log(&removal);
                let mut health = self.shared.health();
                health.removal_error = None;
                health.last_removal = Some(removal.clone());
                drop(health);
                for done in self.removal_wanted.drain(..) {
                    answer(done, Ok(removal.clone()));
                }
            }
        }
        Ok(())
    }

    /// Tells those who wait for a removal that it failed.
    fn or_refuse<T>(&mut self, outcome: Result<T, HistoryError>) -> Result<T, HistoryError> {
        if let Err(error) = &outcome {
            // Before the answer: whoever asked may look at the health next.
            self.shared.health().removal_error = Some(error.to_string());
            for done in self.removal_wanted.drain(..) {
                answer(done, Err(HistoryError::Seal(error.to_string())));
            }
        }
        outcome
    }

    fn forget(&mut self, server: u32) -> Result<(), HistoryError> {
        // First what waits: it may hold values of this server, which must be in the journal before the note
        // that says to skip them.
        self.write_journal()?;
        let deleted = database::insert_forgotten(&self.db, server)
            .and_then(|()| database::delete_server(&mut self.db, server));
        deleted.map_err(|error| self.error(error))
    }
}

/// Where the next journal row goes; becomes the writer's own when the transaction is through.
struct Cursor {
    j0: TableState,
    j1: TableState,
    active: Journal,
    next_key: i64,
    generation: u64,
}

impl Cursor {
    const fn state(&mut self, journal: Journal) -> &mut TableState {
        match journal {
            Journal::J0 => &mut self.j0,
            Journal::J1 => &mut self.j1,
        }
    }

    fn insert(&mut self, db: &Connection, row: &PendingRow) -> rusqlite::Result<()> {
        let bucket = head::bucket_of(row.span.last_ms);
        let other = self.active.other();
        let written = self.state(self.active).filled;
        if written.is_some_and(|filled| bucket != filled.bucket) && self.state(other).filled.is_none() {
            self.active = other;
            self.generation += 1;
        }
        database::insert_journal(db, self.active, self.next_key, &row.bytes)?;
        self.next_key += 1;
        let generation = self.generation;
        let active = self.active;
        self.state(active).filled = Some(Filled { generation, bucket });
        Ok(())
    }
}

impl Shared {
    /// Writes a chunk. Where one exists (values that came after it was sealed), they become one; and where they
    /// are rolled up already, that is mended.
    fn seal(&self, db: &Connection, server: u32, bucket: i64, chunk: &Chunk) -> Result<(), HistoryError> {
        let failed = |error| HistoryError::of(&self.path, error);
        let table = Table::Level(Level::Raw);
        self.begin_progress(db, server, bucket)?;
        let merged = match stored::read(db, self, table, bucket, server, |_| true)? {
            Stored::Chunk(before) => Some(Chunk::merged(before, chunk.clone())),
            Stored::Missing | Stored::Damaged => None,
        };
        if merged.as_ref().is_some_and(|merged| !merged.fits()) {
            self.memory().dropped.over_limit += chunk.samples();
            tracing::warn!(
                server,
                bucket,
                "history: a chunk is full; later values of its bucket are dropped"
            );
            return Ok(());
        }
        let bytes = merged
            .as_ref()
            .unwrap_or(chunk)
            .encode(Effort::Quick)
            .map_err(|error| HistoryError::Seal(error.to_string()))?;
        database::put_row(db, table, bucket, server, &bytes).map_err(failed)?;
        rolling::mend(db, self, server, bucket)
    }

    /// The first chunk of a server says from when on it is to be rolled up.
    fn begin_progress(&self, db: &Connection, server: u32, bucket: i64) -> Result<(), HistoryError> {
        let mut memory = self.memory();
        if memory.is_forgotten(server) {
            return Ok(());
        }
        memory.progress.begin(server, bucket * BUCKET_MS);
        if memory.progress.is_saved(server) {
            return Ok(());
        }
        database::save_progress(db, &memory.progress, server)
            .map_err(|error| HistoryError::of(&self.path, error))
    }
}

fn answer<T>(to: oneshot::Sender<T>, outcome: T) {
    if to.send(outcome).is_err() {
        tracing::debug!("history: nobody waits for the writer's answer any more");
    }
}
