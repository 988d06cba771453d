//! Operations: one action done to one or many servers, through one executor, whoever asks.
//!
//! A row is written before anything is sent, so that a stop at any moment leaves the truth behind.

mod fanout;
mod fold;
mod ledger;
mod repeat;
mod rolling;
mod strategy;
mod timeline;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::actions::{Action, ActionError, Plan, mask};
use crate::auth::{self, AuthError};
use crate::clock::Clock;
use crate::fleet::{ActionTarget, Fleet, FleetError};
use crate::model::{
    Caller, OperationId, OperationStatus, Role, Selector, ServerId, TargetStatus, Timestamp, Transport,
};
use crate::store::audit::{self, Entry};
use crate::store::operations::{self as rows, CommandRecord, Operation, Target};
use crate::store::{Store, StoreError};
use ledger::Ledger;
use rolling::Switch;

pub use fold::{Cluster, Side, cluster_summary, clusters};
pub use repeat::{parameter, stored_action};
pub use strategy::{InvalidStrategy, Share, Strategy, WhenBusy, parse_batches};
pub use timeline::{Mark, MarkKind, Timeline};

/// Servers of one operation at most; as many as one Roundsman looks after, with room.
pub const TARGETS: usize = 10_000;
/// Commands that run at the same time, over all operations: sshd on the other side is slower than we are.
const AT_ONCE: usize = 64;

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
    #[error("what this operation did was not stored whole, because secrets are not kept; begin it anew")]
    NotRepeatable,
    #[error(transparent)]
    Strategy(#[from] InvalidStrategy),
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

/// One server of a new operation, with the command that it would get.
#[derive(Debug, Clone)]
pub struct Planned {
    pub server: ServerId,
    pub name: String,
    /// Err: why nothing can be sent to it.
    pub plan: Result<Plan, String>,
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
    allow_local: bool,
    running: Mutex<HashMap<OperationId, Arc<Running>>>,
    permits: Arc<Semaphore>,
    /// Commands at the same time on one server, so that what waits for one server keeps no place from the others.
    servers: Mutex<HashMap<ServerId, Arc<Semaphore>>>,
    /// Rings when a target has ended, for those who wait for their turn on a server.
    turned: Notify,
    /// Operations get a number each as they begin: who waits, waits for lower ones only.
    begun: AtomicU64,
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
}

impl fmt::Debug for Operations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Operations")
    }
}

impl Operations {
    /// Marks what an earlier stop interrupted, then is ready.
    ///
    /// # Errors
    /// [`OperationError::Store`].
    pub async fn start(
        store: Store,
        fleet: Fleet,
        clock: Arc<dyn Clock>,
        allow_local: bool,
    ) -> Result<Self, OperationError> {
        let now = clock.now();
        let interrupted = store.write(move |tx| rows::mark_interrupted(tx, now)).await?;
        if interrupted > 0 {
            tracing::warn!(
                operations = interrupted,
                "operations were interrupted by the last stop; their targets say what is known"
            );
        }
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                fleet,
                clock,
                allow_local,
                running: Mutex::default(),
                permits: Arc::new(Semaphore::new(AT_ONCE)),
                servers: Mutex::default(),
                turned: Notify::new(),
                begun: AtomicU64::new(0),
                tasks: TaskTracker::new(),
                stop: CancellationToken::new(),
            }),
        })
    }

    /// Ends what runs (as a cancellation does) and waits until that is written.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// What would be sent where, without sending anything.
    ///
    /// # Errors
    /// [`OperationError::Fleet`] for an unknown server, [`OperationError::NoTargets`], [`OperationError::TooManyTargets`].
    pub fn plan(&self, caller: &Caller, new: &NewOperation) -> Result<Vec<Planned>, OperationError> {
        self.plan_order(caller, &new.clone().into())
    }

    /// As [`Self::plan`], in the order in which it would be sent.
    ///
    /// # Errors
    /// As [`Self::plan`], and [`OperationError::Strategy`].
    pub fn plan_order(&self, caller: &Caller, order: &Order) -> Result<Vec<Planned>, OperationError> {
        auth::require(caller, order.action.role())?;
        order.strategy.check()?;
        let targets = self.targets(caller, &order.selector)?;
        Ok(targets.iter().map(|target| self.planned(caller, &order.action, target)).collect())
    }

    fn targets(&self, caller: &Caller, selector: &Selector) -> Result<Vec<ActionTarget>, OperationError> {
        if selector.is_empty() {
            return Err(OperationError::NoTargets);
        }
        // Named twice, by id and by name perhaps: acted on once.
        let states = self.inner.fleet.select(caller, selector)?;
        if states.is_empty() {
            return Err(OperationError::NoneFits);
        }
        if states.len() > TARGETS {
            return Err(OperationError::TooManyTargets);
        }
        let target = |id: ServerId| Ok(self.inner.fleet.action_target(caller, &id.to_string())?);
        states.iter().map(|state| target(state.server.id)).collect()
    }

    fn planned(&self, caller: &Caller, action: &Action, target: &ActionTarget) -> Planned {
        let plan = match target.transport {
            Transport::Local if matches!(action, Action::DeployAgent(_) | Action::RemoveAgent) => {
                Err("this machine is read by Roundsman itself, which does what the agent does".to_owned())
            }
            Transport::Local if !self.inner.allow_local => {
                Err("this is the machine that Roundsman runs on; whoever acts on it owns every key, so set \
                 allow_local_actions = true in the configuration file first"
                    .to_owned())
            }
            Transport::Local if !caller.may(Role::Admin) => {
                Err("this is the machine that Roundsman runs on; only an administrator acts on it".to_owned())
            }
            Transport::Ssh | Transport::Http | Transport::Push if target.impediment.is_some() => {
                Err(target.impediment.clone().unwrap_or_default())
            }
            Transport::Local | Transport::Ssh | Transport::Http | Transport::Push => {
                action.plan(target.surroundings).map_err(|error| error.to_string())
            }
        };
        let plan = plan.and_then(|plan| match target.transport {
            Transport::Local if !plan.how.is_plain() => Err(
                "environment, input, another user and containers are for servers over SSH; write them into the command here"
                    .to_owned(),
            ),
            _ => Ok(plan),
        });
        Planned { server: target.id, name: target.name.to_string(), plan }
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
        let order: Order = order.into();
        let planned = self.plan_order(caller, &order)?;
        if let [Planned { plan: Err(reason), .. }] = planned.as_slice() {
            return Err(ActionError::NotHere(reason.clone()).into());
        }
        let now = self.inner.clock.now();
        let operation = self.operation_of(id, caller, &order, now);
        let mut batches = vec![0; planned.len()];
        for (number, batch) in (0_u32..).zip(order.strategy.split(planned.len())) {
            batches.get_mut(batch).into_iter().flatten().for_each(|batch| *batch = number);
        }
        let targets = (0_u32..)
            .zip(planned.iter().zip(batches))
            .map(|(position, (planned, batch))| Target { batch, ..target_of(planned, position, now) })
            .collect();
        let running = self.admit(operation.id, &order, &planned, targets)?;
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
        Ok(OperationView { operation, targets: running.ledger.views() })
    }

    fn operation_of(&self, id: OperationId, caller: &Caller, order: &Order, now: Timestamp) -> Operation {
        let action = &order.action;
        let mut parameters = serde_json::to_value(action).unwrap_or_default();
        if let (Action::RunCommand { command, .. }, Some(members)) = (action, parameters.as_object_mut()) {
            members.insert("command".to_owned(), mask(command).into());
        }
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
        targets: Vec<Target>,
    ) -> Result<Arc<Running>, OperationError> {
        let keys: HashSet<(ServerId, Action)> =
            planned.iter().map(|planned| (planned.server, order.action.clone())).collect();
        let mut running = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner);
        for (other, others) in running.iter().filter(|_| order.strategy.when_busy != WhenBusy::Queue) {
            for planned in planned.iter().filter(|planned| !others.ledger.has_ended(planned.server)) {
                let (server, operation) = (planned.name.clone(), *other);
                if others.keys.contains(&(planned.server, order.action.clone())) {
                    return Err(OperationError::AlreadyRunning { server, operation });
                }
                if order.strategy.when_busy == WhenBusy::Refuse {
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
        });
        running.insert(id, Arc::clone(&entry));
        Ok(entry)
    }

    /// Waits until the operations that began earlier have ended on a server, where this one queues.
    async fn free_for(&self, mine: &Running, server: ServerId) {
        if mine.strategy.when_busy != WhenBusy::Queue {
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

    /// One operation of the caller's organization.
    ///
    /// # Errors
    /// [`OperationError::NoSuchOperation`].
    pub async fn get(&self, caller: &Caller, id: &str) -> Result<OperationView, OperationError> {
        auth::require(caller, Role::Viewer)?;
        let unknown = || OperationError::NoSuchOperation(id.chars().take(80).collect());
        let wanted: OperationId = id.parse().map_err(|_| unknown())?;
        let organization = caller.organization;
        // Taken before the rows are read: if it ends in between, the rows are complete.
        let running = self.find_running(wanted);
        let found = self
            .inner
            .store
            .read(move |c| {
                let Some(operation) = rows::by_id(c, organization, wanted)? else {
                    return Ok::<_, StoreError>(None);
                };
                let targets = rows::targets(c, wanted)?;
                let records = rows::records_of_operation(c, &targets)?;
                Ok(Some((operation, targets, records)))
            })
            .await?;
        let (operation, targets, records) = found.ok_or_else(unknown)?;
        let mut records: HashMap<_, _> = records.into_iter().map(|record| (record.id, record)).collect();
        let mut views: Vec<TargetView> = targets
            .into_iter()
            .map(|target| TargetView { record: target.record.and_then(|id| records.remove(&id)), target })
            .collect();
        if let Some(running) = running {
            running.ledger.add_live_output(&mut views);
        }
        Ok(OperationView { operation, targets: views })
    }

    /// The operations of the caller's organization, newest first.
    ///
    /// # Errors
    /// [`OperationError::Store`].
    pub async fn list(
        &self,
        caller: &Caller,
        limit: u32,
        offset: u32,
    ) -> Result<Vec<OperationView>, OperationError> {
        auth::require(caller, Role::Viewer)?;
        let organization = caller.organization;
        let found = self
            .inner
            .store
            .read(move |c| {
                let operations = rows::list(c, organization, limit, offset)?;
                operations
                    .into_iter()
                    .map(|operation| {
                        let targets = rows::targets(c, operation.id)?
                            .into_iter()
                            .map(|target| TargetView { target, record: None })
                            .collect();
                        Ok(OperationView { operation, targets })
                    })
                    .collect::<Result<Vec<_>, StoreError>>()
            })
            .await?;
        Ok(found)
    }

    /// The records of the commands that a server got, newest first.
    ///
    /// # Errors
    /// [`OperationError::Fleet`] for an unknown server.
    pub async fn records(
        &self,
        caller: &Caller,
        reference: &str,
        limit: u32,
        offset: u32,
    ) -> Result<Vec<CommandRecord>, OperationError> {
        auth::require(caller, Role::Viewer)?;
        let server = self.inner.fleet.get(caller, reference)?.server.id;
        let organization = caller.organization;
        Ok(self
            .inner
            .store
            .read(move |c| rows::records_of_server(c, organization, server, limit, offset))
            .await?)
    }

    /// Ends an operation: what was not sent is not sent, what runs is ended on its server.
    ///
    /// # Errors
    /// [`OperationError::NoSuchOperation`], or [`OperationError::Ended`].
    pub async fn cancel(&self, caller: &Caller, id: &str) -> Result<(), OperationError> {
        auth::require(caller, Role::Operator)?;
        let view = self.get(caller, id).await?;
        let running = self.find_running(view.operation.id).ok_or(OperationError::Ended)?;
        let now = self.inner.clock.now();
        let entry = Entry::by(caller, "operation.cancel", id).detail(view.operation.title);
        self.inner.store.write(move |tx| audit::append(tx, now, &entry)).await?;
        running.cancel.cancel();
        Ok(())
    }

    async fn set_paused(
        &self,
        caller: &Caller,
        view: &OperationView,
        paused: bool,
    ) -> Result<(), OperationError> {
        let id = view.operation.id;
        let running = self.find_running(id).ok_or(OperationError::Ended)?;
        if !running.switch.pause(paused) {
            return Err(if paused { OperationError::AlreadyPaused } else { OperationError::NotPaused });
        }
        let now = self.inner.clock.now();
        let action = if paused { "operation.pause" } else { "operation.resume" };
        let entry = Entry::by(caller, action, &id.to_string()).detail(view.operation.title.clone());
        self.inner
            .store
            .write(move |tx| {
                rows::set_paused(tx, id, paused.then_some(now))?;
                audit::append(tx, now, &entry)
            })
            .await?;
        for target in view.targets.iter().take(1) {
            rolling::tell(self, &view.operation, target.target.server);
        }
        Ok(())
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
        batch: 0,
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
