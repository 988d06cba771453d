//! Operations: one action done to one or many servers, through one executor, whoever asks.
//!
//! A row is written before anything is sent, so that a stop at any moment leaves the truth behind.

mod archives;
mod busy;
mod detached;
mod fanout;
mod fold;
mod ledger;
mod listing;
mod news;
mod planning;
mod repeat;
mod rolling;
mod steer;
mod strategy;
mod take_up;
mod timeline;
mod unkept;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::actions::{Action, ActionError, TemplateValues, mask};
use crate::auth::AuthError;
use crate::clock::Clock;
use crate::fleet::{Fleet, FleetError};
use crate::model::{Caller, OperationId, OperationStatus, Selector, ServerId, TargetStatus, Timestamp};
use crate::store::audit::{self, Entry};
use crate::store::operations::{self as rows, CommandRecord, Operation, Target};
use crate::store::{Store, StoreError, unfinished};
use archives::Archives;
use ledger::Ledger;
use rolling::Switch;

pub use crate::model::WhenBusy;
pub use archives::ArchiveView;
pub use fanout::request;
pub use fold::{Cluster, Side, cluster_summary, clusters};
pub use listing::OperationQuery;
pub use planning::{Planned, batch_sizes};
pub use repeat::{Again, parameter, stored_action};
pub use strategy::{InvalidStrategy, Share, Strategy, parse_batches};
pub use timeline::{Mark, MarkKind, Timeline};
pub use unkept::Unkept;

/// Servers of one operation at most; as many as one Roundsman looks after, with room.
pub const TARGETS: usize = 10_000;
/// Commands that run at the same time, over all operations: sshd on the other side is slower than we are.
const AT_ONCE: usize = 64;

/// Detached commands that are followed at the same time: the last 64 KiB of each output of each are in memory.
const DETACHED_AT_ONCE: usize = 1000;
/// Whole outputs of detached commands in memory at the same time, 2 MiB each at most.
const GATHERED_AT_ONCE: usize = 32;
/// Commands at the same time on one server: as many as its connection has channels for them.
const AT_ONCE_ON_ONE: usize = 6;

/// Why an operation was not begun, or cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error(transparent)]
    Action(#[from] ActionError),
    #[error("name at least one server")]
    NoTargets,
    /// What was asked for chooses by what servers are, and none is like that.
    #[error("no server is meant: none fits what was asked for")]
    NoneFits,
    #[error("an operation has at most {TARGETS} servers")]
    TooManyTargets,
    #[error("the same is running on {server} already (operation {operation}); wait for it or cancel it")]
    AlreadyRunning { server: String, operation: OperationId },
    #[error("there is no operation '{0}'")]
    NoSuchOperation(String),
    #[error(
        "{server} is busy with operation {operation}; wait for it, or begin this one with when_busy \"queue\""
    )]
    Busy { server: String, operation: OperationId },
    #[error("this operation has ended already")]
    Ended,
    #[error("this operation is paused already")]
    AlreadyPaused,
    #[error("this operation is not paused")]
    NotPaused,
    #[error("this operation still runs; wait for its end or cancel it first")]
    StillRunning,
    #[error("no server of this operation is left to do it on again")]
    NothingToRepeat,
    #[error("'{0}' is no server of this operation")]
    NoSuchTarget(String),
    #[error("what this operation did was not stored whole, because secrets are not kept; begin it anew")]
    NotRepeatable,
    #[error("there is no such archive; it was removed, or its days are over")]
    NoSuchArchive,
    #[error("the archives of diagnostics cannot be read or written: {0}")]
    Archive(std::io::Error),
    #[error(transparent)]
    Strategy(#[from] InvalidStrategy),
    /// What was asked for cannot be what operations are found by; says what would be accepted.
    #[error("{field}: {message}")]
    InvalidQuery { field: &'static str, message: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is to be done, and to which servers (ids or names).
#[derive(Debug, Clone)]
pub struct NewOperation {
    pub action: Action,
    pub servers: Vec<String>,
}

/// As [`NewOperation`], with everything that can be said about it.
#[derive(Debug, Clone)]
pub struct Order {
    pub action: Action,
    pub selector: Selector,
    pub strategy: Strategy,
    /// The operation whose targets are tried again.
    pub retry_of: Option<OperationId>,
}

impl From<NewOperation> for Order {
    fn from(new: NewOperation) -> Self {
        let selector = Selector::of_servers(new.servers);
        Self { action: new.action, selector, strategy: Strategy::default(), retry_of: None }
    }
}

/// One target as it is now.
#[derive(Debug, Clone)]
pub struct TargetView {
    pub target: Target,
    /// What was sent and what came of it; while it runs, its output so far.
    pub record: Option<CommandRecord>,
}

/// An operation as it is now.
#[derive(Debug, Clone)]
pub struct OperationView {
    pub operation: Operation,
    pub targets: Vec<TargetView>,
    /// Servers whose diagnostics of this operation are still kept; only [`Operations::get`] looks.
    pub archived: Vec<ServerId>,
}

/// What the configuration says of operations.
#[derive(Debug, Clone, Copy, Default)]
pub struct Policy {
    /// Actions on the machine that Roundsman runs on.
    pub allow_local: bool,
    /// Where an operation does not say it itself.
    pub when_busy: WhenBusy,
}

/// A handle; clones share the running operations.
#[derive(Clone)]
pub struct Operations {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    fleet: Fleet,
    clock: Arc<dyn Clock>,
    policy: Policy,
    busy: busy::Book,
    archives: Archives,
    running: Mutex<HashMap<OperationId, Arc<Running>>>,
    permits: Arc<Semaphore>,
    detached: Arc<Semaphore>,
    gathering: Arc<Semaphore>,
    /// Commands at the same time on one server, so that what waits for one server keeps no place from the others.
    servers: Mutex<HashMap<ServerId, Arc<Semaphore>>>,
    /// Rings when a target has ended, for those who wait for their turn on a server.
    turned: Notify,
    /// Operations get a number each as they begin: who waits, waits for lower ones only.
    begun: AtomicU64,
    news: news::News,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// An operation under way.
struct Running {
    number: u64,
    cancel: CancellationToken,
    switch: Switch,
    strategy: Strategy,
    /// Commands of this operation at the same time.
    permits: Arc<Semaphore>,
    ledger: Ledger,
    /// What is being done where, so that the same is not begun twice.
    keys: HashSet<(ServerId, Action)>,
    /// Which servers of this operation each needs to have succeeded before its turn.
    needs: HashMap<ServerId, Vec<ServerId>>,
    /// Held while the switch and its row change together.
    changing: tokio::sync::Mutex<()>,
}

impl Running {
    /// Why a server has no turn: one that it needs did not succeed. Asked when those have ended.
    fn unmet(&self, server: ServerId) -> Option<String> {
        let needed = self.needs.get(&server)?;
        needed.iter().find_map(|needed| {
            let (name, status) = self.ledger.status_of(*needed)?;
            let reason = match status {
                TargetStatus::Succeeded => return None,
                TargetStatus::Skipped | TargetStatus::Cancelled => "got nothing either",
                _ => "did not succeed",
            };
            Some(format!("it needs {name}, which {reason}"))
        })
    }
}

impl fmt::Debug for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Operations")
    }
}

impl Operations {
    /// Marks what an earlier stop interrupted, looks for what goes on without Roundsman, then is ready. Diagnostics are
    /// kept in `archives`.
    ///
    /// # Errors
    /// [`OperationError::Store`].
    pub async fn start(
        store: Store,
        fleet: Fleet,
        clock: Arc<dyn Clock>,
        policy: Policy,
        archives: PathBuf,
    ) -> Result<Self, OperationError> {
        let now = clock.now();
        let interrupted = store.write(move |tx| unfinished::mark_interrupted(tx, now)).await?;
        if interrupted.ended > 0 {
            tracing::warn!(
                operations = interrupted.ended,
                "operations were interrupted by the last stop; their targets say what is known"
            );
        }
        let operations = Self {
            inner: Arc::new(Inner {
                fleet,
                clock,
                policy,
                busy: busy::Book::load(&store).await?,
                archives: Archives::new(archives),
                store,
                running: Mutex::default(),
                permits: Arc::new(Semaphore::new(AT_ONCE)),
                detached: Arc::new(Semaphore::new(DETACHED_AT_ONCE)),
                gathering: Arc::new(Semaphore::new(GATHERED_AT_ONCE)),
                servers: Mutex::default(),
                turned: Notify::new(),
                begun: AtomicU64::new(0),
                news: news::News::default(),
                tasks: TaskTracker::new(),
                stop: CancellationToken::new(),
            }),
        };
        operations.inner.tasks.spawn(archives::sweep_on(operations.clone()));
        for (operation, targets) in interrupted.going_on {
            operations.take_up(operation, targets).await?;
        }
        Ok(operations)
    }

    /// Ends what runs (as a cancellation does) and waits until that is written. What runs detached goes on.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// What a template may name of a server.
    fn template_values(&self, caller: &Caller, server: ServerId) -> Result<TemplateValues, OperationError> {
        Ok(TemplateValues::from(&*self.inner.fleet.get(caller, &server.to_string())?.server))
    }

    /// Begins an operation and answers at once; what becomes of it is followed with [`Self::get`] and the events.
    ///
    /// # Errors
    /// [`OperationError`]; nothing was sent.
    pub async fn begin(
        &self,
        caller: &Caller,
        order: impl Into<Order>,
    ) -> Result<OperationView, OperationError> {
        self.begin_as(OperationId::new(self.inner.clock.new_uuid()), caller, order).await
    }

    /// As [`Self::begin`], under an id that the caller chose: whoever wrote it down first knows after a stop whether the
    /// operation was begun.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub async fn begin_as(
        &self,
        id: OperationId,
        caller: &Caller,
        order: impl Into<Order>,
    ) -> Result<OperationView, OperationError> {
        let mut order: Order = order.into();
        order.strategy.when_busy = order.strategy.when_busy.or(Some(self.busy_policy(caller.organization)));
        let planned = self.plan_order(caller, &order)?;
        if let [Planned { plan: Err(reason), .. }] = planned.as_slice() {
            return Err(ActionError::NotHere(reason.clone()).into());
        }
        let now = self.inner.clock.now();
        let operation = self.operation_of(id, caller, &order, now);
        let targets = (0_u32..).zip(&planned).map(|(position, one)| target_of(one, position, now)).collect();
        let needs = self.needs(caller, &order.strategy, &planned)?;
        let running = self.admit(operation.id, &order, &planned, (targets, needs))?;
        let rows = running.ledger.targets();
        let entry = Entry::by(caller, &format!("operation.{}", operation.kind), &subject(&planned))
            .detail(format!("operation {}: {}", operation.id, mask(&operation.title)));
        let stored = operation.clone();
        let written = self
            .inner
            .store
            .write(move |tx| {
                rows::insert(tx, &stored, &rows)?;
                audit::append(tx, now, &entry)
            })
            .await;
        if let Err(error) = written {
            self.forget(operation.id);
            return Err(error.into());
        }
        let work = rolling::run(
            self.clone(),
            caller.clone(),
            operation.clone(),
            order.action,
            planned,
            Arc::clone(&running),
        );
        self.inner.tasks.spawn(work);
        Ok(OperationView { operation, targets: running.ledger.views(), archived: Vec::new() })
    }

    fn operation_of(&self, id: OperationId, caller: &Caller, order: &Order, now: Timestamp) -> Operation {
        let action = &order.action;
        let parameters = action.stored();
        let is_repeatable =
            repeat::stored_action(action.kind(), &parameters).is_ok_and(|stored| stored == *action);
        Operation {
            id,
            organization: caller.organization,
            kind: action.kind().to_owned(),
            title: mask(&action.title()),
            parameters,
            initiated_by: caller.actor.to_string(),
            status: OperationStatus::Pending,
            created_at: now,
            started_at: None,
            completed_at: None,
            selector: serde_json::to_value(&order.selector).unwrap_or_default(),
            strategy: serde_json::to_value(&order.strategy).unwrap_or_default(),
            retry_of: order.retry_of,
            is_repeatable,
            paused_at: None,
            halted: None,
        }
    }

    /// Takes the operation among the running ones, unless one of its servers is taken.
    fn admit(
        &self,
        id: OperationId,
        order: &Order,
        planned: &[Planned],
        (targets, needs): (Vec<Target>, HashMap<ServerId, Vec<ServerId>>),
    ) -> Result<Arc<Running>, OperationError> {
        let when_busy = order.strategy.when_busy.unwrap_or_default();
        let keys: HashSet<(ServerId, Action)> =
            planned.iter().map(|planned| (planned.server, order.action.clone())).collect();
        let mut running = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner);
        for (other, others) in running.iter().filter(|_| when_busy != WhenBusy::Queue) {
            for planned in planned.iter().filter(|planned| !others.ledger.has_ended(planned.server)) {
                let (server, operation) = (planned.name.clone(), *other);
                if others.keys.contains(&(planned.server, order.action.clone())) {
                    return Err(OperationError::AlreadyRunning { server, operation });
                }
                if when_busy == WhenBusy::Refuse {
                    return Err(OperationError::Busy { server, operation });
                }
            }
        }
        let at_once = order.strategy.parallelism.and_then(|count| usize::try_from(count).ok());
        let entry = Arc::new(Running {
            number: self.inner.begun.fetch_add(1, Ordering::Relaxed),
            cancel: self.inner.stop.child_token(),
            switch: Switch::new(),
            strategy: order.strategy.clone(),
            permits: Arc::new(Semaphore::new(at_once.unwrap_or(Semaphore::MAX_PERMITS))),
            ledger: Ledger::new(targets),
            keys,
            needs,
            changing: tokio::sync::Mutex::default(),
        });
        running.insert(id, Arc::clone(&entry));
        Ok(entry)
    }

    /// Waits until the operations that began earlier have ended on a server, where this one queues.
    async fn free_for(&self, mine: &Running, server: ServerId) {
        if mine.strategy.when_busy != Some(WhenBusy::Queue) {
            return;
        }
        loop {
            let turned = self.inner.turned.notified();
            tokio::pin!(turned);
            // Listening begins before looking: an end in between is not missed.
            turned.as_mut().enable();
            let is_busy = {
                let running = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner);
                running.values().any(|other| other.number < mine.number && !other.ledger.has_ended(server))
            };
            if !is_busy {
                return;
            }
            turned.await;
        }
    }

    fn places_of(&self, server: ServerId) -> Arc<Semaphore> {
        let mut servers = self.inner.servers.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(servers.entry(server).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE_ON_ONE))))
    }

    fn forget(&self, id: OperationId) {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.inner.turned.notify_waiters();
    }

    /// Waits while an operation is under way in this process; what became of it is then in the store.
    pub async fn ended(&self, id: OperationId) {
        loop {
            let turned = self.inner.turned.notified();
            tokio::pin!(turned);
            turned.as_mut().enable();
            if self.find_running(id).is_none() {
                return;
            }
            turned.await;
        }
    }

    fn find_running(&self, id: OperationId) -> Option<Arc<Running>> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }
}

fn target_of(planned: &Planned, position: u32, now: Timestamp) -> Target {
    let (status, command, error) = match &planned.plan {
        Ok(plan) => (TargetStatus::Pending, Some(mask(&plan.command)), None),
        Err(reason) => (TargetStatus::Failed, None, Some(reason.clone())),
    };
    Target {
        position,
        server: planned.server,
        server_name: planned.name.clone(),
        status,
        command,
        error,
        record: None,
        batch: planned.batch,
        started_at: None,
        completed_at: status.is_final().then_some(now),
    }
}

/// The servers as the audit log names them.
fn subject(planned: &[Planned]) -> String {
    const NAMED: usize = 20;
    let names: Vec<&str> = planned.iter().take(NAMED).map(|planned| planned.name.as_str()).collect();
    let more = planned.len().saturating_sub(NAMED);
    if more > 0 { format!("{} and {more} more", names.join(", ")) } else { names.join(", ") }
}
