//! The fleet: which servers there are, the task that reads each of them, and what is known of them now.
//!
//! Every function takes the caller and obeys it: role first, then the caller's organization only.

mod acting;
mod agents;
mod aggregate;
mod bulk;
mod cadence;
mod container_sizes;
mod containers;
mod counts;
mod custom;
mod custom_run;
mod dependencies;
mod enrol;
mod files;
mod filter;
mod findings;
mod groups;
mod hands;
mod health;
mod health_check;
mod hostkeys;
mod http;
pub mod import;
mod input;
mod key_view;
mod keys;
mod known;
mod logins;
mod metrics;
mod packed;
mod poller;
mod push;
mod raw;
mod reboot;
mod registry;
mod rotation;
mod seen;
mod select;
mod servers;
mod stamp;
mod state;
mod steps;
mod watched;
mod ways;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use acting::Lease;
pub use agents::{AgentBinaries, AgentOffer};
pub use aggregate::{Aggregate, AggregateQuery, Aggregated, FleetAggregates, TOP_MAX, TopSeries};
pub use bulk::{BulkChange, BulkOutcome};
pub use cadence::Cadence;
pub use containers::ContainerTable;
pub use counts::Counted;
pub use custom::{CustomMetricEdit, CustomMetricState, DEFAULT_INTERVAL, DEFAULT_TIMEOUT, Trial};
pub use custom_run::RunState;
pub use dependencies::{DependencyInput, DependencyView};
pub use enrol::{Checked, Identification, NewServer};
pub use filter::ServerFilter;
pub use findings::blind_spots;
pub use groups::{GroupInput, GroupView};
pub use hands::{ActionTarget, Hand};
pub use health::{Thresholds, thresholds, used_percent};
pub use hostkeys::{HostKeyReport, HostKeyState};
pub use http::{HttpEdit, NewHttpServer};
pub use input::{ActionLoginEdit, LoginEdit, Metadata, ServerEdit, WayEdit};
pub use key_view::{CertificateView, KeyDetail, KeySummary, KeyUseView, Validity};
pub use keys::ImportedKey;
pub use known::{ImportReport, KnownHostLine, LineOutcome, LineReport};
pub use metrics::{
    LastReading, METRICS_A_QUERY, MetricRange, Resolution, SERVERS_A_QUERY, ServerSeries, Span, near,
};
pub use poller::Report;
pub use push::{Heard, Registered, Registration, SshAddress};
pub use raw::{RawReading, RawState};
pub use rotation::RotationScope;
pub use state::{
    Figures, HostKeyView, ProcessTable, ServerState, ServiceTable, Summary, UpdateState, UserTable,
};
pub use watched::{WatchedHere, WatchedServiceEdit};
pub use ways::proxy;

use crate::auth::AuthError;
use crate::clock::Clock;
use crate::collect::http::HttpRules;
use crate::history::{History, HistoryError};
use crate::model::{Caller, Event, HttpSource, ServerId};
use crate::ssh::preflight::Step;
use crate::store::servers::StoredServer;
use crate::store::{self, Store, StoreError};
use crate::vault::{Vault, VaultError};
use counts::Counts;
use logins::LoginBook;
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
    #[error("there is no custom metric '{0}'")]
    NoSuchCustomMetric(String),
    #[error("there is no watched service '{0}'")]
    NoSuchWatchedService(String),
    #[error("there is no group '{0}'")]
    NoSuchGroup(String),
    #[error("there is no dependency '{0}'")]
    NoSuchDependency(String),
    #[error("there is a group named '{0}' already; choose another name")]
    GroupNameTaken(String),
    #[error("Roundsman keeps no key '{0}'; see the keys in the settings")]
    NoSuchKey(String),
    #[error("no imported known_hosts line has the id '{0}'")]
    NoSuchKnownHost(String),
    #[error("there is no import '{0}'; the results of the last few are kept until Roundsman restarts")]
    NoSuchImport(String),
    #[error("there is a key named '{0}' already; choose another name")]
    KeyNameTaken(String),
    /// Nothing was deleted.
    #[error("the key '{name}' is in use on {places}")]
    KeyInUse { name: String, places: String },
    #[error("there is a server named '{0}' already; choose another name")]
    NameTaken(String),
    #[error("there is a custom metric named '{0}' already; choose another name")]
    CustomMetricNameTaken(String),
    #[error("there is a watched service named '{0}' already; choose another name")]
    WatchedServiceNameTaken(String),
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
    /// Lines of an import cannot be done, and they were not to be left out. Nothing was added.
    #[error("{wrong} lines cannot be imported, so nothing was added; put them right, or skip them")]
    ImportRefused { wrong: usize, plan: Box<import::Plan> },
    /// Other servers need this one.
    #[error("{0}")]
    InUse(String),
    #[error(transparent)]
    Transfer(#[from] crate::ssh::transfer::TransferError),
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

/// What the operator decided about the fleet as a whole.
#[derive(Debug, Clone)]
pub struct FleetSettings {
    /// For new servers that name no interval.
    pub default_interval: Duration,
    pub polling: Polling,
    /// Socket of the ssh-agent that may sign for logins.
    pub ssh_agent: Option<PathBuf>,
    /// Directory of the agents that can be deployed, `roundsman-agent-ARCHITECTURE` each.
    pub agents: PathBuf,
    /// Commands may run on the machine that Roundsman runs on.
    pub allow_local_actions: bool,
    /// Servers that are asked over HTTPS may have link-local and metadata addresses.
    pub allow_link_local_servers: bool,
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
    registry: Arc<Registry>,
    groups: groups::GroupBook,
    dependencies: dependencies::DependencyBook,
    shared: Arc<Shared>,
    events: broadcast::Sender<Event>,
    /// For new servers that name no interval.
    default_interval: Duration,
    polling: Polling,
    ssh_agent: Option<PathBuf>,
    /// One at a time: whoever encrypted a key chose what opening it costs.
    opening_keys: Arc<tokio::sync::Semaphore>,
    /// Held while jump hosts are chosen or removed: two edits at once could make a circle.
    wiring: tokio::sync::Mutex<()>,
    /// Places of the questions about history that take much memory.
    wide_questions: Arc<Semaphore>,
    stop: CancellationToken,
    pollers: TaskTracker,
    imports: import::Jobs,
    agents: AgentBinaries,
    push: push::Desk,
    http: HttpRules,
    custom: custom_run::CustomMetrics,
    watched: watched::WatchBook,
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
        settings: FleetSettings,
    ) -> Result<Self, FleetError> {
        let agents = AgentBinaries::load(settings.agents).await;
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let registry = Arc::new(Registry::default());
        let shared = Arc::new(Shared {
            registry: Arc::clone(&registry),
            logins: LoginBook::default(),
            history: history.clone(),
            clock: Arc::clone(&clock),
            events: events.clone(),
            gate: Arc::new(Semaphore::new(DIALS)),
            counts: Counts::default(),
            cadence: cadence::CadenceBook::default(),
            epoch: Instant::now(),
        });
        let fleet = Self {
            inner: Arc::new(Inner {
                store,
                vault,
                history,
                clock,
                registry,
                groups: groups::GroupBook::default(),
                dependencies: dependencies::DependencyBook::default(),
                shared,
                events,
                default_interval: settings.default_interval,
                polling: settings.polling,
                ssh_agent: settings.ssh_agent,
                opening_keys: Arc::new(tokio::sync::Semaphore::new(1)),
                wiring: tokio::sync::Mutex::new(()),
                wide_questions: Arc::new(Semaphore::new(metrics::WIDE_QUESTIONS)),
                stop: CancellationToken::new(),
                pollers: TaskTracker::new(),
                imports: import::Jobs::default(),
                agents,
                push: push::Desk::default(),
                http: HttpRules::new(settings.allow_link_local_servers),
                custom: custom_run::CustomMetrics::new(settings.allow_local_actions),
                watched: watched::WatchBook::default(),
            }),
        };
        fleet.ensure_default_key().await?;
        fleet.forget_removed().await?;
        fleet.load_groups().await?;
        fleet.load_dependencies().await?;
        fleet.load_cadence().await?;
        let now = fleet.inner.clock.now();
        let (stored, logins, seen, mut deployed, pushing, sources) = fleet
            .inner
            .store
            .read(move |c| {
                Ok::<_, StoreError>((
                    store::servers::all(c)?,
                    store::logins::counts_of_day(c, logins::day_of(now))?,
                    store::seen::all(c)?,
                    store::agents::all(c)?,
                    store::push::all(c)?,
                    store::http::all(c)?,
                ))
            })
            .await?;
        let mut pushing: HashMap<ServerId, store::push::Pushing> = pushing.into_iter().collect();
        let mut sources: HashMap<ServerId, HttpSource> = sources.into_iter().collect();
        let mut entries = Vec::with_capacity(stored.len());
        for server in stored {
            let entry = Arc::new(fleet.entry_of(server)?);
            entry.live().agent = deployed.remove(&entry.id).map(Arc::new);
            entry.live().logins.add(logins.get(&entry.id).copied().unwrap_or(0), now);
            entry.live().last_seen_at = seen.get(&entry.id).copied();
            entry.live().push = pushing.remove(&entry.id).map(Arc::new);
            entry.live().http = sources.remove(&entry.id).map(Arc::new);
            fleet.inner.registry.insert(Arc::clone(&entry));
            entries.push(entry);
        }
        fleet.load_container_prefixes().await?;
        fleet.start_watching().await?;
        // Only when all are known: a server may be behind one that comes later in the alphabet.
        let mut common = ways::Common::default();
        for entry in &entries {
            fleet.poll_with(entry, None, &mut common).await?;
        }
        drop(common);
        fleet.start_custom_metrics().await?;
        fleet.start_container_sizes();
        let (store, stop) = (fleet.inner.store.clone(), fleet.inner.stop.clone());
        let (shared, clock) = (Arc::clone(&fleet.inner.shared), Arc::clone(&fleet.inner.clock));
        fleet.inner.pollers.spawn(async move { shared.logins.keep(&store, &*clock, &stop).await });
        let (store, stop) = (fleet.inner.store.clone(), fleet.inner.stop.clone());
        let registry = Arc::clone(&fleet.inner.registry);
        fleet.inner.pollers.spawn(async move { seen::keep(&registry, &store, seen, &stop).await });
        fleet.inner.pollers.spawn(fleet.clone().tell_of_history());
        Ok(fleet)
    }

    /// Sends an event when history cannot be written, and when it is written again.
    async fn tell_of_history(self) {
        let mut trouble = self.inner.history.trouble();
        let mut told = None;
        loop {
            let error = trouble.borrow_and_update().clone();
            if error.is_some() != told.is_some() {
                self.publish(Event::History { at: self.inner.clock.now(), error: error.clone() });
                told = error;
            }
            tokio::select! {
                () = self.inner.stop.cancelled() => return,
                changed = trouble.changed() => if changed.is_err() { return },
            }
        }
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
        let mut state = entry.state(&self.inner.history, self.inner.clock.now());
        let jump = state.way.jump.and_then(|id| self.inner.registry.get(id));
        state.jump = jump.map(|jump| jump.server().name.clone());
        state.cadence = self.inner.shared.cadence.of(&state.server, entry.is_looked_at(Instant::now()));
        state.groups = self.inner.groups.of_server(&state.server, state.health);
        state
    }

    fn entry_of(&self, stored: StoredServer) -> Result<Entry, FleetError> {
        let host_key =
            stored.host_key.as_deref().map(crate::ssh::HostKey::parse).transpose().map_err(|error| {
                StoreError::Corrupt(format!("host key of {}: {error}", stored.server.name))
            })?;
        Ok(Entry::new(stored.server, stored.way, host_key, stored.findings))
    }

    /// Starts the poller of a server, in place of one that may be running.
    async fn poll(
        &self,
        entry: &Arc<Entry>,
        adopted: Option<crate::ssh::Connection>,
    ) -> Result<(), FleetError> {
        self.poll_with(entry, adopted, &mut ways::Common::default()).await
    }

    /// As [`Self::poll`], with what is known from other servers already.
    async fn poll_with(
        &self,
        entry: &Arc<Entry>,
        adopted: Option<crate::ssh::Connection>,
        common: &mut ways::Common,
    ) -> Result<(), FleetError> {
        if self.inner.polling == Polling::Off {
            return Ok(());
        }
        let stop = entry.next_poller(&self.inner.stop);
        let way = match self.way_to(entry, adopted, common).await {
            Ok(Some(way)) => way,
            Ok(None) => return Ok(()),
            // One server whose login cannot be used is its own trouble, not a reason for the fleet to stand still.
            Err(FleetError::Unavailable(reason)) => {
                poller::cannot_log_in(entry, &self.inner.shared, &reason);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let poller = Poller::new(Arc::clone(entry), Arc::clone(&self.inner.shared), stop);
        self.inner.pollers.spawn(poller.run(way));
        Ok(())
    }

    fn server_changed(&self, caller: &Caller, server: ServerId) {
        self.publish(Event::ServerChanged { organization: caller.organization, server });
    }
}
