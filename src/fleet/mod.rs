//! The fleet: which servers there are, the task that reads each of them, and what is known of them now.
//!
//! Every function takes the caller and obeys it: role first, then the caller's organization only.

mod aggregate;
mod counts;
mod enrol;
mod filter;
mod hands;
mod health;
mod input;
mod keys;
mod metrics;
mod packed;
mod poller;
mod raw;
mod registry;
mod servers;
mod state;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use aggregate::{Aggregate, AggregateQuery, Aggregated, FleetAggregates, TOP_MAX, TopSeries};
pub use counts::Counted;
pub use enrol::{Checked, Identification, NewServer};
pub use filter::ServerFilter;
pub use hands::{ActionTarget, Hand};
pub use health::{Thresholds, thresholds, used_percent};
pub use input::{Metadata, ServerEdit};
pub use keys::KeySummary;
pub use metrics::{
    LastReading, METRICS_A_QUERY, MetricRange, Resolution, SERVERS_A_QUERY, ServerSeries, Span,
};
pub use raw::{RawReading, RawState};
pub use state::{Figures, HostKeyView, ProcessTable, ServerState, ServiceTable, Summary, UserTable};

use crate::auth::AuthError;
use crate::clock::Clock;
use crate::history::{History, HistoryError};
use crate::model::{Caller, Event, ServerId};
use crate::ssh::preflight::Step;
use crate::store::servers::StoredServer;
use crate::store::{self, Store, StoreError};
use crate::vault::{Vault, VaultError};
use counts::Counts;
use poller::{Poller, Shared};
use registry::{Entry, Registry};

/// SSH dials at the same time; more would trip over each other on two cores.
const DIALS: usize = 64;
/// Events that a slow listener may lag behind before it misses some; it is told when it does.
const EVENT_BACKLOG: usize = 4096;

/// Why the fleet refused; each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("there is no server '{0}'")]
    NoSuchServer(String),
    #[error("Roundsman keeps no key '{0}'; see the keys in the settings")]
    NoSuchKey(String),
    #[error("there is a server named '{0}' already; choose another name")]
    NameTaken(String),
    /// `near`: names that it may be a slip of.
    #[error("there is no metric '{name}'{}; GET /api/v1/metrics lists them", metrics::perhaps(near))]
    NoSuchMetric { name: String, near: Vec<String> },
    #[error("{message}")]
    Invalid { field: &'static str, message: String },
    /// Nothing was stored. The same request with `host_key` set to the line in `seen` approves it.
    #[error(
        "the host key is not approved yet: {} {}; compare it with the server's own, then approve it",
        seen.algorithm, seen.fingerprint
    )]
    HostKeyUnknown { seen: HostKeyView, steps: Vec<Step> },
    /// Nothing was stored.
    #[error("{message}")]
    Preflight { message: String, steps: Vec<Step> },
    /// The question has no answer for this server now.
    #[error("{0}")]
    Unavailable(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    History(#[from] HistoryError),
}

impl FleetError {
    fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { field, message: message.into() }
    }
}

/// Whether the servers are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polling {
    On,
    /// For the command line while no server runs: things are looked up and changed, nobody is contacted.
    Off,
}

/// A handle; clones share the fleet.
#[derive(Clone)]
pub struct Fleet {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    vault: Vault,
    history: History,
    clock: Arc<dyn Clock>,
    registry: Registry,
    shared: Arc<Shared>,
    events: broadcast::Sender<Event>,
    /// For new servers that name no interval.
    default_interval: Duration,
    polling: Polling,
    stop: CancellationToken,
    pollers: TaskTracker,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fleet")
    }
}

impl Fleet {
    /// Loads every server and starts its poller.
    ///
    /// # Errors
    /// [`FleetError::Store`] or [`FleetError::Vault`] when what is stored cannot be read.
    pub async fn start(
        store: Store,
        vault: Vault,
        history: History,
        clock: Arc<dyn Clock>,
        default_interval: Duration,
        polling: Polling,
    ) -> Result<Self, FleetError> {
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let shared = Arc::new(Shared {
            history: history.clone(),
            clock: Arc::clone(&clock),
            events: events.clone(),
            gate: Arc::new(Semaphore::new(DIALS)),
            counts: Counts::default(),
            epoch: Instant::now(),
        });
        let fleet = Self {
            inner: Arc::new(Inner {
                store,
                vault,
                history,
                clock,
                registry: Registry::default(),
                shared,
                events,
                default_interval,
                polling,
                stop: CancellationToken::new(),
                pollers: TaskTracker::new(),
            }),
        };
        fleet.ensure_default_key().await?;
        let stored = fleet.inner.store.read(store::servers::all).await?;
        for server in stored {
            let entry = Arc::new(fleet.entry_of(server)?);
            fleet.inner.registry.insert(Arc::clone(&entry));
            fleet.poll(&entry, None).await?;
        }
        Ok(fleet)
    }

    /// Ends every poller and its connection.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.pollers.close();
        self.inner.pollers.wait().await;
    }

    /// What happens from now on. A listener that lags too far behind is told so by its receiver.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    fn find(&self, caller: &Caller, reference: &str) -> Result<Arc<Entry>, FleetError> {
        self.inner
            .registry
            .find(caller, reference)
            .ok_or_else(|| FleetError::NoSuchServer(reference.chars().take(80).collect()))
    }

    fn state_of(&self, entry: &Entry) -> ServerState {
        entry.state(&self.inner.history, self.inner.clock.now())
    }

    fn entry_of(&self, stored: StoredServer) -> Result<Entry, FleetError> {
        let host_key =
            stored.host_key.as_deref().map(crate::ssh::HostKey::parse).transpose().map_err(|error| {
                StoreError::Corrupt(format!("host key of {}: {error}", stored.server.name))
            })?;
        Ok(Entry::new(stored.server, stored.key, host_key))
    }

    /// Starts the poller of a server, in place of one that may be running.
    async fn poll(
        &self,
        entry: &Arc<Entry>,
        adopted: Option<crate::ssh::Connection>,
    ) -> Result<(), FleetError> {
        if self.inner.polling == Polling::Off {
            return Ok(());
        }
        let stop = entry.next_poller(&self.inner.stop);
        let Some(way) = self.way_to(entry, adopted).await? else { return Ok(()) };
        let poller = Poller::new(Arc::clone(entry), Arc::clone(&self.inner.shared), stop);
        self.inner.pollers.spawn(poller.run(way));
        Ok(())
    }

    fn server_changed(&self, caller: &Caller, server: ServerId) {
        self.publish(Event::ServerChanged { organization: caller.organization, server });
    }
}
