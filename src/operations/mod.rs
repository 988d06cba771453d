//! Operations: one action done to one or many servers, through one executor, whoever asks.
//!
//! A row is written before anything is sent, so that a stop at any moment leaves the truth behind.

mod fanout;
mod ledger;
mod timeline;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::actions::{Action, ActionError, Plan, mask};
use crate::auth::{self, AuthError};
use crate::clock::Clock;
use crate::fleet::{ActionTarget, Fleet, FleetError};
use crate::model::{
    Caller, OperationId, OperationStatus, Role, ServerId, TargetStatus, Timestamp, Transport,
};
use crate::store::audit::{self, Entry};
use crate::store::operations::{self as rows, CommandRecord, Operation, Target};
use crate::store::{Store, StoreError};
use ledger::Ledger;

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
    #[error("an operation has at most {TARGETS} servers")]
    TooManyTargets,
    #[error("the same is running on {server} already (operation {operation}); wait for it or cancel it")]
    AlreadyRunning { server: String, operation: OperationId },
    #[error("there is no operation '{0}'")]
    NoSuchOperation(String),
    #[error("this operation has ended already")]
    Ended,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is to be done, and to which servers (ids or names).
#[derive(Debug, Clone)]
pub struct NewOperation {
    pub action: Action,
    pub servers: Vec<String>,
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
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// An operation under way.
struct Running {
    cancel: CancellationToken,
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
        auth::require(caller, new.action.role())?;
        let targets = self.targets(caller, new)?;
        Ok(targets.iter().map(|target| self.planned(caller, &new.action, target)).collect())
    }

    fn targets(&self, caller: &Caller, new: &NewOperation) -> Result<Vec<ActionTarget>, OperationError> {
        if new.servers.is_empty() {
            return Err(OperationError::NoTargets);
        }
        if new.servers.len() > TARGETS {
            return Err(OperationError::TooManyTargets);
        }
        let mut seen = HashSet::new();
        let mut targets = Vec::with_capacity(new.servers.len());
        for reference in &new.servers {
            let target = self.inner.fleet.action_target(caller, reference)?;
            // Named twice, by id and by name perhaps: acted on once.
            if seen.insert(target.id) {
                targets.push(target);
            }
        }
        Ok(targets)
    }

    fn planned(&self, caller: &Caller, action: &Action, target: &ActionTarget) -> Planned {
        let plan = match target.transport {
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
    pub async fn begin(&self, caller: &Caller, new: NewOperation) -> Result<OperationView, OperationError> {
        let planned = self.plan(caller, &new)?;
        if let [Planned { plan: Err(reason), .. }] = planned.as_slice() {
            return Err(ActionError::NotHere(reason.clone()).into());
        }
        let now = self.inner.clock.now();
        let operation = self.operation_of(caller, &new.action, now);
        let targets =
            planned.iter().zip(0_u32..).map(|(planned, position)| target_of(planned, position)).collect();
        let running = self.admit(operation.id, &new.action, &planned, targets)?;
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
        let work = fanout::run(
            self.clone(),
            caller.clone(),
            operation.clone(),
            new.action,
            planned,
            Arc::clone(&running),
        );
        self.inner.tasks.spawn(work);
        Ok(OperationView { operation, targets: running.ledger.views() })
    }

    fn operation_of(&self, caller: &Caller, action: &Action, now: Timestamp) -> Operation {
        let mut parameters = serde_json::to_value(action).unwrap_or_default();
        if let (Action::RunCommand { command, .. }, Some(members)) = (action, parameters.as_object_mut()) {
            members.insert("command".to_owned(), mask(command).into());
        }
        Operation {
            id: OperationId::new(self.inner.clock.new_uuid()),
            organization: caller.organization,
            kind: action.kind().to_owned(),
            title: mask(&action.title()),
            parameters,
            initiated_by: caller.actor.to_string(),
            status: OperationStatus::Pending,
            created_at: now,
            started_at: None,
            completed_at: None,
        }
    }

    /// Takes the operation among the running ones, unless the same runs on one of its servers.
    fn admit(
        &self,
        id: OperationId,
        action: &Action,
        planned: &[Planned],
        targets: Vec<Target>,
    ) -> Result<Arc<Running>, OperationError> {
        let keys: HashSet<(ServerId, Action)> =
            planned.iter().map(|planned| (planned.server, action.clone())).collect();
        let mut running = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner);
        for (other, others) in running.iter() {
            let ended = |server: ServerId| others.ledger.has_ended(server);
            if let Some((server, _)) = keys.intersection(&others.keys).find(|(server, _)| !ended(*server)) {
                let name = planned.iter().find(|planned| planned.server == *server).map(|p| p.name.clone());
                let server = name.unwrap_or_default();
                return Err(OperationError::AlreadyRunning { server, operation: *other });
            }
        }
        let cancel = self.inner.stop.child_token();
        let entry = Arc::new(Running { cancel, ledger: Ledger::new(targets), keys });
        running.insert(id, Arc::clone(&entry));
        Ok(entry)
    }

    fn places_of(&self, server: ServerId) -> Arc<Semaphore> {
        let mut servers = self.inner.servers.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(servers.entry(server).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE_ON_ONE))))
    }

    fn forget(&self, id: OperationId) {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
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
}

fn target_of(planned: &Planned, position: u32) -> Target {
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
    }
}

/// The servers as the audit log names them.
fn subject(planned: &[Planned]) -> String {
    const NAMED: usize = 20;
    let names: Vec<&str> = planned.iter().take(NAMED).map(|planned| planned.name.as_str()).collect();
    let more = planned.len().saturating_sub(NAMED);
    if more > 0 { format!("{} and {more} more", names.join(", ")) } else { names.join(", ") }
}
