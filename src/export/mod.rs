//! What leaves the house: tables as CSV and JSON, Prometheus, remote-write, backups; and how long rows are kept.
//!
//! Reads what others wrote; the only rows that it changes are the settings of retention and the rows that have expired.

pub mod backup;
mod discovery;
pub mod exposition;
pub mod format;
mod keeper;
pub mod manifest;
pub mod node;
mod own;
mod process;
pub mod remote_write;
pub mod restore;
pub mod sealed_key;
pub mod tables;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{self, AuthError};
use crate::clock::Clock;
use crate::config::RemoteWrite;
use crate::fleet::{Fleet, FleetError, ServerFilter};
use crate::history::{History, HistoryError};
use crate::model::{Caller, InvalidRetention, OrganizationId, Retention, Role, Timestamp};
use crate::store::{Store, StoreError, audit};
use crate::vault::{Vault, VaultError};
pub use discovery::TargetGroup;
use exposition::Text;
pub use keeper::Removed;
pub use own::HttpCounts;
use own::OwnView;
use remote_write::{RemoteWriteError, RemoteWriter, Sent};
use sealed_key::SealedKeyError;

/// Files of the data directory whose sizes are shown.
const FILES: [&str; 4] = ["roundsman.db", "roundsman.db-wal", "history.db", "history.db-wal"];

/// Why something was not exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    Fleet(FleetError),
    /// What was asked for cannot be meant.
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Retention(#[from] InvalidRetention),
    /// There is nothing current to show of a server.
    #[error("{0}")]
    NotRead(String),
    /// Only the first organization's administrators may touch what belongs to all of them.
    #[error("this concerns every organization of this Roundsman; ask an administrator of the first one")]
    FirstOrganization,
    #[error("another backup is being made; try again when it is done")]
    Busy,
    #[error(
        "a backup needs {needed_bytes} free bytes in the data directory, and {free_bytes} are free; make room first"
    )]
    NoSpace { needed_bytes: u64, free_bytes: u64 },
    #[error(transparent)]
    SealedKey(#[from] SealedKeyError),
    #[error("a file cannot be read or written: {0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    RemoteWrite(#[from] RemoteWriteError),
}

impl From<FleetError> for ExportError {
    fn from(error: FleetError) -> Self {
        match error {
            FleetError::Auth(error) => Self::Auth(error),
            FleetError::Unavailable(reason) => Self::NotRead(reason),
            other => Self::Fleet(other),
        }
    }
}

/// What the configuration says about exports.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The data directory.
    pub data: PathBuf,
    pub metrics_without_login: bool,
    pub remote_write: Option<RemoteWrite>,
    /// What holds until an administrator sets it on the settings page. None: the defaults.
    pub retention: Option<Retention>,
}

/// What exports are made from.
#[derive(Debug, Clone)]
pub struct Sources {
    pub store: Store,
    pub vault: Vault,
    pub history: History,
    pub fleet: Fleet,
    pub clock: Arc<dyn Clock>,
}

/// A handle; clones share what is behind it.
#[derive(Clone)]
pub struct Export {
    inner: Arc<Inner>,
}

struct Inner {
    sources: Sources,
    options: Options,
    started_at: Timestamp,
    http: HttpCounts,
    remote: Option<RemoteWriter>,
    /// One backup at a time: each fills as much disk as there is data.
    backups: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Export")
    }
}

impl Export {
    /// # Errors
    /// [`ExportError::RemoteWrite`] when the long-term store of the configuration may not be called;
    /// [`ExportError::Retention`] when the configured days are not possible.
    pub fn new(sources: Sources, options: Options) -> Result<Self, ExportError> {
        keeper::obey_configuration(&sources.history, options.retention.as_ref())?;
        let remote = options.remote_write.clone().map(RemoteWriter::new).transpose()?;
        let started_at = sources.clock.now();
        Ok(Self {
            inner: Arc::new(Inner {
                sources,
                options,
                started_at,
                http: HttpCounts::default(),
                remote,
                backups: Arc::new(Semaphore::new(1)),
                stop: CancellationToken::new(),
                tasks: TaskTracker::new(),
            }),
        })
    }

    /// Begins what goes on by itself: remote-write and the hourly removal of expired rows.
    pub fn start(&self) {
        let inner = &self.inner;
        backup::forget_old_copies(&inner.options.data);
        inner.tasks.spawn(self.clone().keep());
        if let Some(remote) = inner.remote.clone() {
            inner.tasks.spawn(remote.run(inner.sources.fleet.clone(), inner.stop.clone()));
        }
    }

    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Where the web counts its answers.
    #[must_use]
    pub fn http(&self) -> &HttpCounts {
        &self.inner.http
    }

    /// Whether `/metrics` answers this machine without login.
    #[must_use]
    pub fn metrics_without_login(&self) -> bool {
        self.inner.options.metrics_without_login
    }

    /// What became of the samples for the long-term store. None: there is none.
    #[must_use]
    pub fn remote_write(&self) -> Option<Sent> {
        self.inner.remote.as_ref().map(RemoteWriter::sent)
    }

    /// Roundsman's own state in Prometheus' text format.
    ///
    /// # Errors
    /// [`ExportError::Auth`]; [`ExportError::FirstOrganization`], because sizes and counts are those of all.
    pub fn own_metrics(&self, caller: &Caller, version: &'static str) -> Result<String, ExportError> {
        if caller.organization != OrganizationId::DEFAULT {
            return Err(ExportError::FirstOrganization);
        }
        let inner = &self.inner;
        let sources = &inner.sources;
        let size =
            |name: &'static str| Some((name, std::fs::metadata(inner.options.data.join(name)).ok()?.len()));
        let view = OwnView {
            version,
            started_at: inner.started_at,
            summary: sources.fleet.summary(caller)?,
            counted: sources.fleet.counted(),
            history: sources.history.health(),
            store: sources.store.counts(),
            files: FILES.into_iter().filter_map(size).collect(),
            http: inner.http.now(),
            sent: self.remote_write(),
            process: process::Usage::now(),
        };
        let mut text = Text::default();
        view.write(&mut text);
        Ok(text.finish())
    }

    /// One server as if it ran node_exporter, in Prometheus' text format.
    ///
    /// # Errors
    /// [`ExportError::Fleet`] for a server that is not there; [`ExportError::NotRead`] while it is not reached, so that
    /// the scrape fails and Prometheus' own `up` is 0.
    pub fn node_metrics(&self, caller: &Caller, reference: &str) -> Result<String, ExportError> {
        let state = self.inner.sources.fleet.raw(caller, reference)?;
        let mut text = Text::default();
        node::NodeView::of(&state).write(&mut text);
        Ok(text.finish())
    }

    /// Checks the audit log, which is one chain over all organizations.
    ///
    /// # Errors
    /// [`ExportError::Auth`], [`ExportError::FirstOrganization`], or the log cannot be read.
    pub async fn verify_audit(&self, caller: &Caller) -> Result<audit::Chain, ExportError> {
        auth::require(caller, Role::Admin)?;
        if caller.organization != OrganizationId::DEFAULT {
            return Err(ExportError::FirstOrganization);
        }
        Ok(self.inner.sources.store.read(audit::verify).await?)
    }

    /// The servers as scrape targets behind `host`, the address under which the caller reached us.
    ///
    /// # Errors
    /// [`ExportError::Auth`].
    pub fn scrape_targets(
        &self,
        caller: &Caller,
        host: &str,
        filter: &ServerFilter,
    ) -> Result<Vec<TargetGroup>, ExportError> {
        auth::require(caller, Role::Viewer)?;
        Ok(discovery::targets(host, &self.inner.sources.fleet.list(caller, filter)?))
    }
}
