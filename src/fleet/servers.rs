//! What can be asked of enrolled servers, and changed.

use std::sync::Arc;
use std::time::Duration;

use crate::auth;
use crate::model::{Caller, Event, Facts, MetricName, Reachability, Role, ServerNumber, Status, Transport};
use crate::ssh::{Connection, HostKey, Target};
use crate::store::StoreError;
use crate::store::audit::{self, Entry as AuditEntry};
use crate::store::servers::{self, StoredServer};

use super::input::ServerEdit;
use super::poller::{Way, is_polled};
use super::registry::Entry;
use super::state::{ProcessTable, ServerState, ServiceTable, Summary, UserTable};
use super::{Fleet, FleetError, ServerFilter};

/// How long a check that was asked for may take before its caller is told what is known so far.
const CHECK_LIMIT: Duration = Duration::from_secs(15);

impl Fleet {
    /// The servers that the caller may see and the filter accepts, by name.
    ///
    /// # Errors
    /// [`FleetError::Auth`].
    pub fn list(&self, caller: &Caller, filter: &ServerFilter) -> Result<Vec<ServerState>, FleetError> {
        auth::require(caller, Role::Viewer)?;
        let entries = self.inner.registry.of(caller);
        Ok(entries.iter().map(|entry| self.state_of(entry)).filter(|state| filter.accepts(state)).collect())
    }

    /// One server by id or name.
    ///
    /// # Errors
    /// [`FleetError::NoSuchServer`], also for a server of another organization.
    pub fn get(&self, caller: &Caller, reference: &str) -> Result<ServerState, FleetError> {
        auth::require(caller, Role::Viewer)?;
        Ok(self.state_of(&*self.find(caller, reference)?))
    }

    /// # Errors
    /// [`FleetError::Auth`].
    pub fn summary(&self, caller: &Caller) -> Result<Summary, FleetError> {
        Ok(Summary::of(&self.list(caller, &ServerFilter::default())?))
    }

    /// Says that the caller looks at the details of a server, so that they are read at every interval.
    ///
    /// # Errors
    /// [`FleetError::NoSuchServer`].
    pub fn look(&self, caller: &Caller, reference: &str) -> Result<(), FleetError> {
        auth::require(caller, Role::Viewer)?;
        self.find(caller, reference)?.look();
        Ok(())
    }

    /// # Errors
    /// [`FleetError::Unavailable`] while they have not been read.
    pub fn processes(&self, caller: &Caller, reference: &str) -> Result<Arc<ProcessTable>, FleetError> {
        self.detail(caller, reference, "processes", |entry| {
            entry.live().processes.as_ref()?.open().map(Arc::new)
        })
    }

    /// # Errors
    /// [`FleetError::Unavailable`] while they have not been read, with the reason.
    pub fn services(&self, caller: &Caller, reference: &str) -> Result<Arc<ServiceTable>, FleetError> {
        self.detail(caller, reference, "services", |entry| {
            entry.live().services.as_ref()?.open().map(Arc::new)
        })
    }

    /// # Errors
    /// [`FleetError::Unavailable`] while they have not been read.
    pub fn users(&self, caller: &Caller, reference: &str) -> Result<Arc<UserTable>, FleetError> {
        self.detail(caller, reference, "users", |entry| entry.live().users.clone())
    }

    /// # Errors
    /// [`FleetError::Unavailable`] while they have not been read.
    pub fn facts(&self, caller: &Caller, reference: &str) -> Result<Arc<Facts>, FleetError> {
        self.detail(caller, reference, "facts", |entry| entry.live().facts.clone())
    }

    fn detail<T>(
        &self,
        caller: &Caller,
        reference: &str,
        section: &str,
        take: impl Fn(&Entry) -> Option<T>,
    ) -> Result<T, FleetError> {
        auth::require(caller, Role::Viewer)?;
        let entry = self.find(caller, reference)?;
        take(&entry).ok_or_else(|| {
            let live = entry.live();
            let gap = live.gaps.iter().find(|gap| gap.section == section).map(|gap| gap.reason.clone());
            let reason = gap.unwrap_or_else(|| match &live.reachability {
                Reachability::Unreachable { reason, .. } => reason.clone(),
                _ if live.server.status == Status::Inactive => "the server is inactive".to_owned(),
                _ => "they have not been read yet; try again in a moment".to_owned(),
            });
            FleetError::Unavailable(format!("the {section} of {} are not known: {reason}", live.server.name))
        })
    }

    fn number(&self, caller: &Caller, reference: &str) -> Result<ServerNumber, FleetError> {
        Ok(self.find(caller, reference)?.live().server.number)
    }

    /// The metrics that a server has history of.
    ///
    /// # Errors
    /// [`FleetError::NoSuchServer`].
    pub fn metric_names(&self, caller: &Caller, reference: &str) -> Result<Vec<MetricName>, FleetError> {
        auth::require(caller, Role::Viewer)?;
        let number = self.number(caller, reference)?;
        let mut names: Vec<MetricName> =
            self.inner.history.series(number).into_iter().map(|key| key.metric).collect();
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Reads the server now, connecting at once if it was given up for a while.
    ///
    /// # Errors
    /// [`FleetError::Unavailable`] for a server that is not read.
    pub async fn check(&self, caller: &Caller, reference: &str) -> Result<ServerState, FleetError> {
        auth::require(caller, Role::Operator)?;
        let entry = self.find(caller, reference)?;
        if entry.live().server.status == Status::Inactive {
            return Err(FleetError::Unavailable(
                "the server is inactive; set its status to active first".to_owned(),
            ));
        }
        let mut checks = entry.checks.subscribe();
        checks.mark_unchanged();
        entry.wake.notify_one();
        // A closed channel cannot be: the entry is held here. Too slow: the state says what is known.
        drop(tokio::time::timeout(CHECK_LIMIT, checks.changed()).await);
        Ok(self.state_of(&entry))
    }

    /// Changes a server. Its connection lives on unless the way to it changed.
    ///
    /// # Errors
    /// [`FleetError::Invalid`], [`FleetError::NameTaken`], [`FleetError::NoSuchKey`].
    pub async fn edit(
        &self,
        caller: &Caller,
        reference: &str,
        edit: ServerEdit,
    ) -> Result<ServerState, FleetError> {
        auth::require(caller, Role::Admin)?;
        let entry = self.find(caller, reference)?;
        let _alone = entry.changing.lock().await;
        // It may have been removed while another change was waited for.
        self.find(caller, &entry.id.to_string())?;
        let (server, key_before, host_key) = {
            let live = entry.live();
            (Arc::clone(&live.server), live.key, live.host_key.clone())
        };
        let mut next = edit.apply(&server)?;
        if server.transport == Transport::Local && next.hostname != server.hostname {
            return Err(FleetError::invalid("hostname", "the local machine has no address to change"));
        }
        next.updated_at = self.inner.clock.now();
        let key = match &edit.key {
            None => key_before,
            Some(None) => None,
            Some(Some(reference)) => Some(self.key_by_reference(caller, reference).await?.id),
        };
        // Another address is another machine as far as trust goes: its key needs approval of its own.
        let moved = next.hostname != server.hostname || next.port != server.port;
        let host_key = host_key.filter(|_| !moved);
        let same_way = !moved
            && next.username == server.username
            && key == key_before
            && (next.status == Status::Inactive) == (server.status == Status::Inactive);
        self.save(caller, "server.edit", &next, key, host_key.as_ref()).await?;
        {
            let mut live = entry.live();
            live.server = Arc::new(next);
            live.key = key;
            live.host_key = host_key;
        }
        if same_way {
            entry.wake.notify_one();
        } else {
            self.poll(&entry, None).await?;
        }
        self.server_changed(caller, entry.id);
        Ok(self.state_of(&entry))
    }

    /// Approves the host key of a server, new or changed, and connects with it.
    ///
    /// # Errors
    /// [`FleetError::Invalid`] when the line is no host key or not the one that the server offered last.
    pub async fn approve_host_key(
        &self,
        caller: &Caller,
        reference: &str,
        line: &str,
    ) -> Result<ServerState, FleetError> {
        auth::require(caller, Role::Admin)?;
        let entry = self.find(caller, reference)?;
        let _alone = entry.changing.lock().await;
        // It may have been removed while another change was waited for.
        self.find(caller, &entry.id.to_string())?;
        let approved = HostKey::parse(line.trim())
            .map_err(|error| FleetError::invalid("host_key", error.to_string()))?;
        let (server, key, offered) = {
            let live = entry.live();
            (Arc::clone(&live.server), live.key, live.offered_host_key.clone())
        };
        if offered.as_ref() != Some(&approved) {
            return Err(FleetError::invalid(
                "host_key",
                "the server does not offer this key now; reload the page and compare the fingerprint again",
            ));
        }
        self.save(caller, "server.approve-host-key", &server, key, Some(&approved)).await?;
        {
            let mut live = entry.live();
            live.host_key = Some(approved);
            live.offered_host_key = None;
            live.reachability = Reachability::Connecting;
        }
        self.poll(&entry, None).await?;
        self.server_changed(caller, entry.id);
        Ok(self.state_of(&entry))
    }

    async fn save(
        &self,
        caller: &Caller,
        action: &str,
        server: &crate::model::Server,
        key: Option<crate::model::KeyId>,
        host_key: Option<&HostKey>,
    ) -> Result<(), FleetError> {
        let now = self.inner.clock.now();
        let name = server.name.to_string();
        let entry = AuditEntry::by(caller, action, &name)
            .detail(host_key.map_or_else(String::new, |key| format!("host key {}", key.fingerprint())));
        let stored =
            StoredServer { server: server.clone(), key, host_key: host_key.map(ToString::to_string) };
        self.inner
            .store
            .write(move |tx| {
                servers::save(tx, &stored)?;
                audit::append(tx, now, &entry)
            })
            .await
            .map_err(|error| match error {
                StoreError::Conflict => FleetError::NameTaken(name),
                other => FleetError::Store(other),
            })
    }

    /// Removes a server, its samples with it; the audit log keeps what was done.
    ///
    /// # Errors
    /// [`FleetError::NoSuchServer`].
    pub async fn remove(&self, caller: &Caller, reference: &str) -> Result<(), FleetError> {
        auth::require(caller, Role::Admin)?;
        let entry = self.find(caller, reference)?;
        let _alone = entry.changing.lock().await;
        // It may have been removed while another change was waited for.
        self.find(caller, &entry.id.to_string())?;
        let server = entry.server();
        let (organization, id, now) = (caller.organization, entry.id, self.inner.clock.now());
        let record = AuditEntry::by(caller, "server.remove", server.name.as_str());
        self.inner
            .store
            .write(move |tx| {
                servers::remove(tx, organization, id)?;
                audit::append(tx, now, &record)
            })
            .await?;
        entry.stop_poller();
        self.inner.registry.remove(id);
        self.inner.history.forget(server.number).await?;
        self.publish(Event::ServerRemoved { organization, server: id });
        Ok(())
    }

    /// How a server is reached now. None: not at all (inactive, or not read by a poller).
    pub(super) async fn way_to(
        &self,
        entry: &Entry,
        adopted: Option<Connection>,
    ) -> Result<Option<Way>, FleetError> {
        let server = entry.server();
        if server.status == Status::Inactive || !is_polled(server.transport) {
            let mut live = entry.live();
            live.reachability = Reachability::Unknown;
            live.standing = super::health::Standing::default();
            live.figures = Arc::default();
            return Ok(None);
        }
        if server.transport == Transport::Local {
            return Ok(Some(Way::Local));
        }
        let target = self.target_of(entry).await?;
        Ok(target.map(|target| Way::Ssh { target: Box::new(target), adopted }))
    }

    /// The server as SSH sees it. None: it is not reached over SSH.
    pub(super) async fn target_of(&self, entry: &Entry) -> Result<Option<Target>, FleetError> {
        let (server, key, pinned) = {
            let live = entry.live();
            (Arc::clone(&live.server), live.key, live.host_key.clone())
        };
        let (Transport::Ssh, Some(host)) = (server.transport, server.hostname.clone()) else {
            return Ok(None);
        };
        let identity = self.identity(server.organization, key).await?;
        let user = server.username.clone().unwrap_or_else(|| "root".to_owned());
        Ok(Some(Target { pinned, ..Target::new(host, server.port, user, identity) }))
    }
}
