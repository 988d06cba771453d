//! Control data: servers, people, keys, audit. One SQLite file, one writer thread, a few readers.
//!
//! SQL lives here and in [`crate::history`] only. The functions of the submodules take a connection or
//! a transaction, so that callers compose them in one.

pub mod agents;
pub mod audit;
pub mod backup;
pub mod custom_metrics;
pub mod export;
pub mod groups;
pub mod http;
pub mod keys;
pub mod known_hosts;
pub mod logins;
pub mod operations;
pub mod push;
pub mod retention;
pub mod sealed;
pub mod seen;
pub mod servers;
pub mod settings;
pub mod tasks;
pub mod timeline;
pub mod tokens;
pub mod unfinished;
pub mod users;
pub mod watched;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use rusqlite_migration::{M, Migrations};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Writes that may wait for the writer thread; more than this many waiting callers wait for a place.
const WRITE_QUEUE: usize = 256;
/// Connections for reading at the same time; queries are short, more would only fight over two cores.
const READERS: usize = 4;
const BUSY_TIMEOUT_MS: u64 = 5_000;

const MIGRATIONS: &[M<'static>] = &[
    M::up(include_str!("migrations/0001_initial.sql")),
    M::up(include_str!("migrations/0002_operations.sql")),
    M::up(include_str!("migrations/0003_reach.sql")),
    M::up(include_str!("migrations/0004_host_keys.sql")),
    M::up(include_str!("migrations/0005_settings.sql")),
    M::up(include_str!("migrations/0006_seen.sql")),
    M::up(include_str!("migrations/0007_agents.sql")),
    M::up(include_str!("migrations/0008_push.sql")),
    M::up(include_str!("migrations/0009_custom_metrics.sql")),
    M::up(include_str!("migrations/0010_groups.sql")),
    M::up(include_str!("migrations/0011_operation_strategy.sql")),
    M::up(include_str!("migrations/0012_detached.sql")),
    M::up(include_str!("migrations/0013_tasks.sql")),
    M::up(include_str!("migrations/0014_watched.sql")),
    M::up(include_str!("migrations/0015_cadence.sql")),
    M::up(include_str!("migrations/0016_http.sql")),
];

/// What went wrong in the store; each variant is a decision for the caller.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the database {path}: {cause}")]
    Open { path: PathBuf, cause: String },
    #[error(
        "the database {path} was written by a newer Roundsman (schema {found}, this program knows {known}): \
         install that version again or restore a backup"
    )]
    NewerVersion { path: PathBuf, found: i64, known: usize },
    /// A name or id is taken.
    #[error("it exists already")]
    Conflict,
    #[error("no such entry")]
    NotFound,
    /// The disk is full or fails; nothing of the transaction was written.
    #[error("the database cannot be written: {0}")]
    Io(String),
    /// A stored value does not parse: the file was changed by something else.
    #[error(
        "the database holds what cannot be read: {0}; restore a backup, or move the file away to begin anew"
    )]
    Corrupt(String),
    #[error("the database is closed")]
    Closed,
    #[error("the database refused: {0}")]
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match &error {
            rusqlite::Error::QueryReturnedNoRows => Self::NotFound,
            rusqlite::Error::SqliteFailure(failure, message) => match failure.code {
                ErrorCode::ConstraintViolation => Self::Conflict,
                ErrorCode::DiskFull | ErrorCode::SystemIoFailure | ErrorCode::ReadOnly => {
                    Self::Io(message.clone().unwrap_or_else(|| failure.to_string()))
                }
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Corrupt(error.to_string()),
                _ => Self::Sql(error),
            },
            rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..) => {
                Self::Corrupt(error.to_string())
            }
            _ => Self::Sql(error),
        }
    }
}

/// One transaction, for callers that compose the functions of the submodules.
pub type Transaction<'a> = rusqlite::Transaction<'a>;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A handle; clones share the writer and the readers.
#[derive(Clone)]
pub struct Store {
    writer: mpsc::Sender<Job>,
    readers: Arc<Readers>,
    written: Arc<Written>,
}

/// Transactions since the start.
#[derive(Debug, Default)]
struct Written {
    writes: AtomicU64,
    failures: AtomicU64,
}

/// What the writer has done since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreCounts {
    pub writes: u64,
    /// Transactions that were undone: refused by their own caller, or by the disk.
    pub failures: u64,
    /// Transactions that wait for the writer now.
    pub waiting: u64,
}

struct Readers {
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Opens or makes the file and brings it to the newest schema, after a copy of it.
    ///
    /// # Errors
    /// [`StoreError::Open`], [`StoreError::NewerVersion`] or [`StoreError::Corrupt`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let opening = |error: rusqlite::Error| match StoreError::from(error) {
            StoreError::Corrupt(cause) => StoreError::Corrupt(format!("{}: {cause}", path.display())),
            other => StoreError::Open { path: path.to_owned(), cause: other.to_string() },
        };
        let mut connection = Connection::open(path).map_err(opening)?;
        configure(&connection).map_err(opening)?;
        migrate(path, &mut connection)?;
        let mut idle = Vec::with_capacity(READERS);
        for _ in 0..READERS {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let reader = Connection::open_with_flags(path, flags).map_err(opening)?;
            reader.busy_timeout(std::time::Duration::from_millis(BUSY_TIMEOUT_MS)).map_err(opening)?;
            idle.push(reader);
        }
        let (writer, mut jobs) = mpsc::channel::<Job>(WRITE_QUEUE);
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                while let Some(job) = jobs.blocking_recv() {
                    job(&mut connection);
                }
            })
            .map_err(|error| StoreError::Open { path: path.to_owned(), cause: error.to_string() })?;
        let permits = Arc::new(Semaphore::new(READERS));
        let readers = Arc::new(Readers { idle: Mutex::new(idle), permits });
        Ok(Self { writer, readers, written: Arc::default() })
    }

    /// Runs `work` in one transaction; it is on disk when this returns Ok, and undone when `work` fails.
    ///
    /// # Errors
    /// What `work` returned, or [`StoreError`] when the transaction cannot be begun or kept.
    pub async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let written = Arc::clone(&self.written);
        let job: Job = Box::new(move |connection| {
            let outcome = in_transaction(connection, work);
            written.writes.fetch_add(1, Ordering::Relaxed);
            written.failures.fetch_add(u64::from(outcome.is_err()), Ordering::Relaxed);
            // The caller may have gone away; the transaction is complete either way.
            drop(answer.send(outcome));
        });
        self.writer.send(job).await.map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    /// Writes the file anew without what was deleted or replaced in it, and empties the log of changes: what stood there
    /// is not to be found any more.
    ///
    /// # Errors
    /// [`StoreError::Io`] when there is no space for a copy; everything is as before.
    pub async fn compact(&self) -> Result<(), StoreError> {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let done = connection.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)");
            drop(answer.send(done.map_err(StoreError::from)));
        });
        self.writer.send(job).await.map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    /// What the writer has done since the start.
    #[must_use]
    pub fn counts(&self) -> StoreCounts {
        StoreCounts {
            writes: self.written.writes.load(Ordering::Relaxed),
            failures: self.written.failures.load(Ordering::Relaxed),
            waiting: WRITE_QUEUE.saturating_sub(self.writer.capacity()) as u64,
        }
    }

    /// Runs `work` on a connection that cannot write.
    ///
    /// # Errors
    /// What `work` returned, or [`StoreError::Closed`].
    pub async fn read<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    {
        let permit = self.readers.permits.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let readers = Arc::clone(&self.readers);
        let done = tokio::task::spawn_blocking(move || {
            let connection = readers.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = connection.ok_or(StoreError::Closed)?;
            let outcome = work(&connection);
            readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            drop(permit);
            outcome
        });
        done.await.map_err(|_| StoreError::Closed)?
    }
}

fn in_transaction<T, E: From<StoreError>>(
    connection: &mut Connection,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(StoreError::from)?;
    let value = work(&transaction)?;
    transaction.commit().map_err(StoreError::from)?;
    Ok(value)
}

/// Asks SQLite whether a database file is whole, without changing it. Works beside a running server.
///
/// # Errors
/// [`StoreError::Corrupt`] with the first finding; [`StoreError::Open`] when it cannot be read.
pub fn quick_check(path: &Path) -> Result<(), StoreError> {
    let opening = |error: rusqlite::Error| match StoreError::from(error) {
        StoreError::Corrupt(cause) => StoreError::Corrupt(format!("{}: {cause}", path.display())),
        other => StoreError::Open { path: path.to_owned(), cause: other.to_string() },
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(opening)?;
    connection.busy_timeout(std::time::Duration::from_millis(BUSY_TIMEOUT_MS)).map_err(opening)?;
    let verdict: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(opening)?;
    if verdict == "ok" { Ok(()) } else { Err(StoreError::Corrupt(format!("{}: {verdict}", path.display()))) }
}

fn configure(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.busy_timeout(std::time::Duration::from_millis(BUSY_TIMEOUT_MS))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")
}

fn migrate(path: &Path, connection: &mut Connection) -> Result<(), StoreError> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(StoreError::NewerVersion { path: path.to_owned(), found, known: MIGRATIONS.len() });
    }
    if found > 0 && found < known {
        let copy = path.with_extension(format!("db.before-{known}"));
        if copy.exists() {
            // Of an attempt that was cut short; it holds the same, or a part of it.
            drop(std::fs::remove_file(&copy));
        }
        connection.execute("VACUUM INTO ?1", [copy.to_string_lossy()])?;
    }
    Migrations::from_slice(MIGRATIONS)
        .to_latest(connection)
        .map_err(|error| StoreError::Open { path: path.to_owned(), cause: error.to_string() })
}

/// Parses a stored text; a failure means that the file was changed by something else.
fn parse<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, rusqlite::Error>
where
    T::Err: fmt::Display,
{
    text.parse::<T>().map_err(|error| corrupt(format!("{what}: {error}")))
}

fn corrupt(message: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_transaction_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("roundsman.db")).unwrap();
        let refused: Result<(), StoreError> = store
            .write(|tx| {
                tx.execute("INSERT INTO organizations VALUES ('x', 'other', 0)", [])?;
                Err(StoreError::Conflict)
            })
            .await;
        assert!(matches!(refused, Err(StoreError::Conflict)));
        let count: Result<i64, StoreError> = store
            .read(|c| Ok(c.query_row("SELECT count(*) FROM organizations", [], |row| row.get(0))?))
            .await;
        assert_eq!(count.unwrap(), 1);
    }

    #[test]
    fn a_database_from_a_newer_version_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("roundsman.db");
        drop(Store::open(&path).unwrap());
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        drop(connection);
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::NewerVersion { found: 99, .. }), "{error}");
    }

    #[test]
    fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("roundsman.db");
        std::fs::write(&path, "this is a shopping list, not a database at all, believe me").unwrap();
        assert!(Store::open(&path).is_err());
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("this is a shopping list"));
    }

    #[test]
    fn every_migration_applies_to_an_empty_database() {
        Migrations::from_slice(MIGRATIONS).validate().unwrap();
    }

    #[test]
    fn audit_entries_cannot_be_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("roundsman.db");
        drop(Store::open(&path).unwrap());
        let mut connection = Connection::open(&path).unwrap();
        let tx = connection.transaction().unwrap();
        let entry = audit::Entry::by(&crate::model::Caller::roundsman(), "test", "x");
        audit::append(&tx, crate::model::Timestamp::from_millis(1), &entry).unwrap();
        assert!(tx.execute("UPDATE audit SET actor = 'nobody'", []).is_err());
    }
}
