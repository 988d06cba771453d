//! The one thread that writes: a journal transaction a second, sealing, removal.
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
use super::database::{self, Journal};
use super::error::HistoryError;
use super::head;
use super::memory::{MAX_PENDING_BYTES, PendingRow, Taken};
use super::recover::TableState;
use super::{Shared, series::Series};

/// Time between two journal transactions: with the time that one takes, under the 2 s that may be lost.
const ROUND: Duration = Duration::from_secs(1);

/// Chunks sealed in one round: five times what 5,000 servers need, so that a backlog after a pause shrinks.
const SEALS_PER_ROUND: usize = 64;

/// Sealing leaves the journal waiting no longer than this.
const SEAL_BUDGET: Duration = Duration::from_millis(300);

/// Requests that may wait for the writer; callers wait for a place.
pub(super) const REQUESTS: usize = 16;

#[derive(Debug)]
pub(super) enum Request {
    /// One round now.
    Sync(oneshot::Sender<Result<(), HistoryError>>),
    Forget(u32, oneshot::Sender<Result<(), HistoryError>>),
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
        let outcome = self.write_journal().and_then(|()| self.seal_due()).and_then(|()| self.empty_journal());
        self.note(outcome)
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
                }
            }
            Err(error) => {
                if health.last_error.is_none() {
                    tracing::error!(%error, "history: the file takes no values; they wait in memory");
                }
                health.last_error = Some(error.to_string());
            }
        }
        outcome
    }

    fn write_journal(&mut self) -> Result<(), HistoryError> {
        let now = self.shared.clock.now();
        let Taken { rows, series, rejournal } = self.shared.memory().take_pending();
        self.rejournal |= rejournal;
        self.backlog.extend(rows);
        if self.backlog.iter().map(|row| row.bytes.len()).sum::<usize>() > MAX_PENDING_BYTES {
            self.backlog.clear();
            self.rejournal = true;
        }
        if !self.backlog.is_empty() || !series.is_empty() || self.rejournal {
            self.write_backlog(&series).map_err(|error| self.error(error))?;
        }
        self.shared.health().written_until = now;
        Ok(())
    }

    fn write_backlog(&mut self, series: &[Series]) -> rusqlite::Result<()> {
        let tx = self.db.transaction()?;
        let mut cursor = Cursor { j0: self.j0, j1: self.j1, active: self.active, next_key: self.next_key };
        for series in series {
            database::insert_series(&tx, series)?;
        }
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
        Cursor { j0: self.j0, j1: self.j1, active: self.active, next_key: self.next_key } = cursor;
        self.backlog.clear();
        self.rejournal = false;
        self.shared.memory().dictionary.saved(series);
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
        let tx = self.db.transaction().map_err(|error| HistoryError::of(&self.shared.path, error))?;
        for (server, bucket) in due {
            if started.elapsed() > SEAL_BUDGET {
                break;
            }
            // What is on disk of a server is always its oldest part: later buckets wait for this one.
            if failed.contains(&server) {
                continue;
            }
            let Some(chunk) = self.shared.memory().chunk(server, bucket) else { continue };
            match self.shared.seal(&tx, server, bucket, &chunk) {
                Ok(()) => sealed.push((server, bucket, chunk)),
                Err(error) => {
                    failed.insert(server);
                    first_error.get_or_insert(error);
                }
            }
        }
        // A late value may have brought a series since the journal was written: no chunk may name a number
        // that the file does not know.
        let series = self.shared.memory().dictionary.unsaved();
        let named = series.iter().try_for_each(|series| database::insert_series(&tx, series));
        named.and_then(|()| tx.commit()).map_err(|error| HistoryError::of(&self.shared.path, error))?;
        self.shared.memory().dictionary.saved(&series);
        for (server, bucket, chunk) in sealed {
            if let Some(head) = self.shared.memory().servers.get_mut(&server) {
                head.sealed(bucket, &chunk);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Empties the table that is not written to, once all that it holds is sealed.
    fn empty_journal(&mut self) -> Result<(), HistoryError> {
        let idle = self.active.other();
        let state = match idle {
            Journal::J0 => &mut self.j0,
            Journal::J1 => &mut self.j1,
        };
        let Some(newest) = state.newest_bucket else { return Ok(()) };
        if self.shared.memory().oldest_unsealed().is_some_and(|oldest| oldest <= newest) {
            return Ok(());
        }
        let emptied = self.db.transaction().and_then(|tx| {
            database::empty_journal(&tx, idle)?;
            tx.commit()
        });
        emptied.map_err(|error| HistoryError::of(&self.shared.path, error))?;
        state.newest_bucket = None;
        Ok(())
    }

    fn forget(&mut self, server: u32) -> Result<(), HistoryError> {
        // First what waits: it may hold values of this server, which must be in the journal before the note
        // that says to skip them.
        self.write_journal()?;
        let deleted = database::insert_forgotten(&self.db, server)
            .and_then(|()| database::delete_chunks(&mut self.db, server));
        deleted.map_err(|error| self.error(error))
    }
}

/// Where the next journal row goes; becomes the writer's own when the transaction is through.
struct Cursor {
    j0: TableState,
    j1: TableState,
    active: Journal,
    next_key: i64,
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
        let written = self.state(self.active).newest_bucket;
        let other = self.active.other();
        if written.is_some_and(|newest| bucket > newest) && self.state(other).newest_bucket.is_none() {
            self.active = other;
        }
        database::insert_journal(db, self.active, self.next_key, &row.bytes)?;
        self.next_key += 1;
        let active = self.active;
        let state = self.state(active);
        state.newest_bucket = state.newest_bucket.max(Some(bucket));
        Ok(())
    }
}

impl Shared {
    /// Writes a chunk. Where one exists (values that came after it was sealed), they become one.
    fn seal(&self, db: &Connection, server: u32, bucket: i64, chunk: &Chunk) -> Result<(), HistoryError> {
        let before =
            database::get_chunk(db, bucket, server).map_err(|error| HistoryError::of(&self.path, error))?;
        let merged = before.and_then(|blob| match Chunk::decode(&blob, |_| true) {
            Ok(mut merged) => {
                merged.extend(chunk.clone());
                Some(merged)
            }
            Err(error) => {
                self.damaged(bucket, server, &error);
                None
            }
        });
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
            .encode()
            .map_err(|error| HistoryError::Seal(error.to_string()))?;
        database::put_chunk(db, bucket, server, &bytes).map_err(|error| HistoryError::of(&self.path, error))
    }
}

fn answer<T>(to: oneshot::Sender<T>, outcome: T) {
    if to.send(outcome).is_err() {
        tracing::debug!("history: nobody waits for the writer's answer any more");
    }
}
