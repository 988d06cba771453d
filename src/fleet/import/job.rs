//! Carrying a plan out: each server through the same door as any other, several at once, jump hosts before those behind
//! them. What became of each line can be asked for while it goes on and a while afterwards.

mod enrol;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::super::{Fleet, FleetError, ServerFilter};
use super::{Entry, Format, KnownKey, Place, Plan, Planned, REPORT_LINES, Surroundings};
use crate::auth;
use crate::model::{Caller, KeyId, OrganizationId, Role, Secret, ServerId, Timestamp};
use crate::store::audit;

/// Servers that are looked at at the same time: enough that dead addresses do not hold up the others for long, few
/// enough that pollers still find free dials.
const AT_ONCE: usize = 16;
/// Imports whose results are kept, of all organizations; the oldest go first. A restart forgets them, the servers stay.
const KEPT: usize = 16;
/// Keys of one request: each costs a key derivation when it has a passphrase.
pub(super) const KEYS: usize = 64;

/// A private key that the caller brings for some of the servers.
#[derive(Debug, Clone)]
pub struct Brought {
    /// What the entries call it.
    pub source_path: String,
    pub private_key: Secret<String>,
    pub passphrase: Option<Secret<String>>,
    /// The OpenSSH user certificate that is offered with it.
    pub certificate: Option<String>,
}

/// A plan to be carried out.
#[derive(Debug, Clone)]
pub struct Import {
    pub plan: Plan,
    /// Leave out the lines that cannot be done instead of doing nothing at all.
    pub skip_invalid: bool,
    /// Approve whatever host keys the servers show now.
    pub accept_new: bool,
    /// Store servers that cannot be reached, or whose host key nobody approved yet.
    pub unchecked: bool,
    /// The caller's own known_hosts lines, which approve the keys that they name.
    pub known_hosts: Option<Arc<str>>,
    pub keys: Vec<Brought>,
}

/// What became of one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ItemState {
    Waiting,
    Working,
    Added {
        server_id: ServerId,
    },
    /// Stored without having been reached, or without an approved host key.
    Unchecked {
        server_id: ServerId,
    },
    Failed {
        message: String,
        /// SHA-256 of the host key that nobody approved, where that is what is missing.
        #[serde(skip_serializing_if = "Option::is_none")]
        fingerprint: Option<String>,
    },
}

impl ItemState {
    fn failed(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), fingerprint: None }
    }
}

/// One server of an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobItem {
    pub at: Place,
    pub name: String,
    /// `user@host:port`, for a person.
    pub address: String,
    #[serde(flatten)]
    pub state: ItemState,
}

/// Where an import stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportState {
    Running,
    /// Every line has its result.
    Completed,
    /// Roundsman was stopped before the end.
    Interrupted,
}

/// What is known of an import.
#[derive(Debug, Clone, Serialize)]
pub struct Progress {
    pub id: String,
    pub state: ImportState,
    pub started_at: Timestamp,
    pub total: usize,
    pub added: usize,
    pub unchecked: usize,
    pub failed: usize,
    pub items: Vec<JobItem>,
}

/// An import that was begun.
pub struct ImportJob {
    id: String,
    organization: OrganizationId,
    started_at: Timestamp,
    is_over: AtomicBool,
    items: Mutex<Vec<JobItem>>,
}

impl fmt::Debug for ImportJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportJob").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A poisoned list is still a list: whoever panicked had only set one state.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ImportJob {
    fn set(&self, item: usize, state: ItemState) {
        if let Some(item) = locked(&self.items).get_mut(item) {
            item.state = state;
        }
    }

    fn is_added(&self, item: usize) -> bool {
        let items = locked(&self.items);
        items
            .get(item)
            .is_some_and(|item| matches!(item.state, ItemState::Added { .. } | ItemState::Unchecked { .. }))
    }

    fn progress(&self) -> Progress {
        let items = locked(&self.items).clone();
        let count = |wanted: fn(&ItemState) -> bool| items.iter().filter(|item| wanted(&item.state)).count();
        let unfinished = count(|state| matches!(state, ItemState::Waiting | ItemState::Working));
        let state = match (self.is_over.load(Ordering::Acquire), unfinished) {
            (false, _) => ImportState::Running,
            (true, 0) => ImportState::Completed,
            (true, _) => ImportState::Interrupted,
        };
        Progress {
            id: self.id.clone(),
            state,
            started_at: self.started_at,
            total: items.len(),
            added: count(|state| matches!(state, ItemState::Added { .. })),
            unchecked: count(|state| matches!(state, ItemState::Unchecked { .. })),
            failed: count(|state| matches!(state, ItemState::Failed { .. })),
            items,
        }
    }
}

/// The imports of the last time.
#[derive(Debug, Default)]
pub(in crate::fleet) struct Jobs {
    jobs: Mutex<VecDeque<Arc<ImportJob>>>,
}

impl Jobs {
    /// Takes a job up, unless one of this organization is still going on.
    fn begin(&self, job: &Arc<ImportJob>) -> Result<(), FleetError> {
        let mut jobs = locked(&self.jobs);
        let busy = |known: &Arc<ImportJob>| {
            known.organization == job.organization && !known.is_over.load(Ordering::Acquire)
        };
        if jobs.iter().any(busy) {
            return Err(FleetError::Unavailable(
                "an import is going on already; wait for its end, then begin the next".to_owned(),
            ));
        }
        jobs.push_back(Arc::clone(job));
        while jobs.len() > KEPT {
            // Those at the front are over, or of another organization whose own is the newest.
            let Some(oldest) = jobs.iter().position(|known| known.is_over.load(Ordering::Acquire)) else {
                break;
            };
            jobs.remove(oldest);
        }
        Ok(())
    }

    fn find(&self, organization: OrganizationId, id: &str) -> Option<Arc<ImportJob>> {
        locked(&self.jobs).iter().find(|job| job.organization == organization && job.id == id).cloned()
    }
}

/// Ends with the task that carries an import out, however that ends.
struct Over(Arc<ImportJob>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Release);
    }
}

impl Fleet {
    /// What a plan is made against: servers and kept keys of the caller's organization.
    async fn surroundings(&self, caller: &Caller) -> Result<Surroundings, FleetError> {
        let keys = self.keys(caller).await?.into_iter().filter(|key| !key.is_default);
        let keys =
            keys.map(|key| KnownKey { id: key.id.to_string(), name: key.name, source_path: key.source_path });
        let states = self.list(caller, &ServerFilter::default())?;
        let servers = states.iter().map(enrol::known).collect();
        Ok(Surroundings { servers, keys: keys.collect(), ..Surroundings::default() })
    }

    /// What would become of a text. Reads no file and contacts nobody.
    ///
    /// # Errors
    /// [`FleetError::Auth`] below admin.
    pub async fn plan_import(
        &self,
        caller: &Caller,
        text: String,
        format: Option<Format>,
        wishes: Surroundings,
    ) -> Result<Plan, FleetError> {
        self.planned(caller, wishes, move |around| super::plan(&text, format, around)).await
    }

    /// What would become of entries that the command line has read on its machine.
    ///
    /// # Errors
    /// [`FleetError::Auth`] below admin; [`FleetError::Invalid`] for too many entries.
    pub async fn plan_entries(
        &self,
        caller: &Caller,
        format: Format,
        entries: Vec<Entry>,
        wishes: Surroundings,
    ) -> Result<Plan, FleetError> {
        if entries.len() > REPORT_LINES + 1 {
            return Err(FleetError::invalid("entries", format!("at most {REPORT_LINES} entries at a time")));
        }
        self.planned(caller, wishes, move |around| super::settle(format, entries, around)).await
    }

    /// `wishes` says what is to be done with every server; what is there is filled in here.
    async fn planned(
        &self,
        caller: &Caller,
        wishes: Surroundings,
        make: impl FnOnce(&Surroundings) -> Plan + Send + 'static,
    ) -> Result<Plan, FleetError> {
        auth::require(caller, Role::Admin)?;
        let known = self.surroundings(caller).await?;
        let around = Surroundings { servers: known.servers, keys: known.keys, ..wishes };
        // Up to a second of arithmetic for the largest texts.
        tokio::task::spawn_blocking(move || make(&around))
            .await
            .map_err(|error| FleetError::Unavailable(format!("the text could not be read: {error}")))
    }

    /// Begins to add the servers of a plan, and answers the id to ask for the progress with.
    ///
    /// # Errors
    /// [`FleetError::ImportRefused`] when lines are wrong and are not to be left out; [`FleetError::Invalid`] when nothing is to be added;
    /// [`FleetError::Unavailable`] while another import goes on. In each case nothing was added.
    pub async fn start_import(&self, caller: &Caller, import: Import) -> Result<String, FleetError> {
        auth::require(caller, Role::Admin)?;
        let counts = import.plan.counts();
        let wrong = counts.invalid + counts.unsupported;
        if wrong > 0 && !import.skip_invalid {
            return Err(FleetError::ImportRefused { wrong, plan: Box::new(import.plan) });
        }
        if counts.add == 0 {
            return Err(FleetError::invalid("text", "there is nothing to add in this text"));
        }
        if import.keys.len() > KEYS {
            return Err(FleetError::invalid("keys", format!("at most {KEYS} keys at a time")));
        }
        let job = Arc::new(ImportJob {
            id: self.inner.clock.new_uuid().to_string(),
            organization: caller.organization,
            started_at: self.inner.clock.now(),
            is_over: AtomicBool::new(false),
            items: Mutex::new(
                import.plan.additions().map(|(index, server)| item(&import.plan, index, server)).collect(),
            ),
        });
        self.inner.imports.begin(&job)?;
        let over = Over(Arc::clone(&job));
        let now = self.inner.clock.now();
        let detail = format!("{} servers from {}", counts.add, import.plan.format.title());
        let entry = audit::Entry::by(caller, "server.import", &job.id).detail(detail);
        self.inner.store.write(move |tx| audit::append(tx, now, &entry)).await?;
        let (fleet, caller, stop) = (self.clone(), caller.clone(), self.inner.stop.child_token());
        let id = job.id.clone();
        self.inner.pollers.spawn(async move {
            let job = &over.0;
            tokio::select! {
                () = stop.cancelled() => {}
                () = fleet.carry_out(&caller, &import, job, &stop) => {}
            }
        });
        Ok(id)
    }

    /// Where an import stands.
    ///
    /// # Errors
    /// [`FleetError::NoSuchImport`], also for one of another organization.
    pub fn import_progress(&self, caller: &Caller, id: &str) -> Result<Progress, FleetError> {
        auth::require(caller, Role::Admin)?;
        let job = self.inner.imports.find(caller.organization, id);
        job.map(|job| job.progress()).ok_or_else(|| FleetError::NoSuchImport(crate::model::shown(id, 80)))
    }

    async fn carry_out(&self, caller: &Caller, import: &Import, job: &ImportJob, stop: &CancellationToken) {
        let keys = self.keep_brought(caller, import).await;
        let additions: Vec<(usize, &Planned)> = import.plan.additions().collect();
        let item_of: HashMap<usize, usize> =
            additions.iter().enumerate().map(|(item, (line, _))| (*line, item)).collect();
        let mut waiting: Vec<(usize, &Planned)> =
            additions.iter().enumerate().map(|(item, (_, server))| (item, *server)).collect();
        let parent = |server: &Planned| server.behind.and_then(|line| item_of.get(&line)).copied();
        let mut done = vec![false; waiting.len()];
        // A round adds what stands behind the rounds before it; what is left at the end stands behind itself.
        while !waiting.is_empty() && !stop.is_cancelled() {
            let is_due =
                |server: &Planned| parent(server).is_none_or(|item| done.get(item).copied().unwrap_or(true));
            let (due, later): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(_, server)| is_due(server));
            if due.is_empty() {
                for (item, _) in later {
                    job.set(item, ItemState::failed("the way over its jump hosts comes back to itself"));
                }
                return;
            }
            let keys = &keys;
            stream::iter(due.iter().copied())
                .for_each_concurrent(AT_ONCE, async |(item, server)| {
                    let is_cut_off = parent(server).is_some_and(|parent| !job.is_added(parent));
                    let state = if is_cut_off {
                        let jump = server.jump_host.as_deref().unwrap_or_default();
                        ItemState::failed(format!("its jump host {jump} was not added"))
                    } else {
                        job.set(item, ItemState::Working);
                        self.enrol_planned(caller, import, server, keys).await
                    };
                    job.set(item, state);
                })
                .await;
            for (item, _) in due {
                if let Some(done) = done.get_mut(item) {
                    *done = true;
                }
            }
            waiting = later;
        }
    }

    /// Keeps the keys that some server needs. By path: the key, or why it cannot be had.
    async fn keep_brought(&self, caller: &Caller, import: &Import) -> HashMap<String, Result<KeyId, String>> {
        let mut kept = HashMap::new();
        for brought in &import.keys {
            let is_needed = |server: &Planned| matches!(&server.login, super::Login::Key(key) if *key == brought.source_path);
            if !import.plan.additions().any(|(_, server)| is_needed(server)) {
                continue;
            }
            let result = self.keep(caller, brought).await.map_err(|error| error.to_string());
            kept.insert(brought.source_path.clone(), result);
        }
        kept
    }
}

fn item(plan: &Plan, index: usize, server: &Planned) -> JobItem {
    let host = if server.hostname.contains(':') {
        format!("[{}]", server.hostname)
    } else {
        server.hostname.clone()
    };
    let user = server.username.as_deref().unwrap_or("root");
    JobItem {
        at: plan.lines.get(index).map(|line| line.at.clone()).unwrap_or_default(),
        name: server.name.clone(),
        address: format!("{user}@{host}:{}", server.port),
        state: ItemState::Waiting,
    }
}
