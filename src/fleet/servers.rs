//! What can be asked of enrolled servers, and changed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::auth;
use crate::model::{
    Caller, Event, Facts, Health, HttpSource, MetricName, Reachability, Role, SecretKind, Selector, ServerId,
    ServerNumber, Status, Timestamp, Transport, WayIn,
};
use crate::ssh::{Connection, HostKey};
use crate::store::StoreError;
use crate::store::audit::{self, Entry as AuditEntry};
use crate::store::http as http_servers;
use crate::store::servers::{self, StoredServer};
use crate::store::settings;

use super::input::ServerEdit;
use super::poller::{Way, delivery_queue};
use super::registry::Entry;
use super::state::{ProcessTable, ServerState, ServiceTable, Summary, UserTable};
use super::ways::{Common, DecidedWay, Purpose, SealedSecrets, write_secrets};
use super::{Fleet, FleetError, ServerFilter, health};

/// How long a check that was asked for may take before its caller is told what is known so far.
const CHECK_LIMIT: Duration = Duration::from_secs(15);

impl Fleet {
    /// The servers that the caller may see and the filter accepts, by name.
    ///
    /// # Errors
    /// [`FleetError::Auth`]; [`FleetError::NoSuchGroup`] for a group of the filter that is not there.
    pub fn list(&self, caller: &Caller, filter: &ServerFilter) -> Result<Vec<ServerState>, FleetError> {
        auth::require(caller, Role::Viewer)?;
        if !filter.groups.is_empty() {
            let selector = Selector { groups: filter.groups.clone(), ..Selector::default() };
            let mut members = self.select(caller, &selector)?;
            members.retain(|state| filter.accepts(state));
            return Ok(members);
        }
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

    /// Whether a reading that was asked for after `since`, of its services too, found the server healthy. The health that
    /// pages show is slower on purpose: services are read now and then, and one bad reading changes nothing. Asking here
    /// brings such readings. Of a server that reports by itself, a reading that arrived since counts.
    ///
    /// # Errors
    /// [`FleetError::NoSuchServer`].
    pub fn is_well_since(
        &self,
        caller: &Caller,
        server: ServerId,
        since: (Timestamp, Instant),
    ) -> Result<bool, FleetError> {
        let entry = self.find(caller, &server.to_string())?;
        entry.look();
        let live = entry.live();
        let (seen_since, asked_since) = since;
        let is_fresh = live.last_seen_at.is_some_and(|seen| seen > seen_since)
            && live.asked_at.is_none_or(|asked| asked >= asked_since)
            // Where services cannot be read, the rest decides.
            && live.services_asked_at.is_none_or(|asked| asked >= asked_since);
        let verdict = health::judge(&live.figures, &live.filesystems, &live.failed_services);
        Ok(is_fresh && live.reachability == Reachability::Reachable && verdict.health == Health::Healthy)
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

    /// Facts and pending updates that were read before are old: an action has changed them.
    pub(crate) fn facts_changed(&self, server: ServerId) {
        if let Some(entry) = self.inner.registry.get(server) {
            entry.ask_for_facts();
        }
    }

    /// Reads facts and pending updates with the next reading, at once.
    ///
    /// # Errors
    /// [`FleetError::NoSuchServer`]; [`FleetError::Unavailable`] for one that reports by itself.
    pub async fn refresh_facts(&self, caller: &Caller, reference: &str) -> Result<(), FleetError> {
        auth::require(caller, Role::Operator)?;
        let entry = self.find(caller, reference)?;
        let server = entry.server();
        if !matches!(server.transport, Transport::Ssh | Transport::Local) {
            let reason = format!("{} reports by itself; it cannot be asked", server.name);
            return Err(FleetError::Unavailable(reason));
        }
        let now = self.inner.clock.now();
        let record = AuditEntry::by(caller, "server.facts-refresh", server.name.as_str());
        self.inner.store.write(move |tx| audit::append(tx, now, &record)).await?;
        entry.ask_for_facts();
        Ok(())
    }

    pub(super) fn detail<T>(
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
        if entry.server().transport == Transport::Ssh && entry.session().is_none() {
            // Its login could not even be tried; what was missing may be there now.
            self.poll(&entry, None).await?;
        }
        entry.wake.notify_one();
        // A closed channel cannot be: the entry is held here. Too slow: the state says what is known.
        drop(tokio::time::timeout(CHECK_LIMIT, checks.changed()).await);
        Ok(self.state_of(&entry))
    }

    /// Changes a server. Its connection lives on unless the way to it changed.
    ///
    /// # Errors
    /// [`FleetError::Invalid`], [`FleetError::NameTaken`], [`FleetError::NoSuchKey`]; [`FleetError::InUse`] for a jump
    /// host that would become inactive while others are behind it.
    pub async fn edit(
        &self,
        caller: &Caller,
        reference: &str,
        edit: ServerEdit,
    ) -> Result<ServerState, FleetError> {
        auth::require(caller, Role::Admin)?;
        let _no_circle = self.inner.wiring.lock().await;
        let entry = self.find(caller, reference)?;
        let _alone = entry.changing.lock().await;
        // It may have been removed while another change was waited for.
        self.find(caller, &entry.id.to_string())?;
        let (server, way, host_key, source) = {
            let live = entry.live();
            (Arc::clone(&live.server), Arc::clone(&live.way), live.host_key.clone(), live.http.clone())
        };
        let mut next = edit.apply(&server)?;
        if server.transport == Transport::Local && next.hostname != server.hostname {
            return Err(FleetError::invalid("hostname", "the local machine has no address to change"));
        }
        if next.status == Status::Inactive && server.status != Status::Inactive {
            self.refuse_while_others_are_behind(caller, &entry, "made inactive", |behind| {
                behind.server().status != Status::Inactive
            })?;
        }
        next.updated_at = self.inner.clock.now();
        let mut decided = self.decide_way(caller, Some(entry.id), &way, &edit.login, &edit.way).await?;
        let source_next = self.decide_http(&server, source.as_deref(), &edit.http, &mut decided)?;
        if server.transport == Transport::Local && decided.way != *way {
            return Err(FleetError::invalid(
                "login_method",
                "the local machine is read directly, without a login",
            ));
        }
        let sealed = self.seal_secrets(entry.id, &decided.secrets)?;
        // Another address is another machine as far as trust goes: its key needs approval of its own.
        let moved = next.hostname != server.hostname || next.port != server.port;
        let host_key = host_key.filter(|_| !moved);
        let same_way = !moved
            && next.username == server.username
            && reads_the_same_way(&way, &decided)
            && source_next.is_none()
            && (next.status == Status::Inactive) == (server.status == Status::Inactive);
        let same_actions = same_way && acts_the_same_way(&way, &decided);
        let mut detail = vec![changes(&way, &decided)];
        detail.extend(super::http::changes(source.as_deref(), source_next.as_ref()));
        detail.retain(|part| !part.is_empty());
        let detail = detail.join("; ");
        let stored = StoredServer {
            server: next.clone(),
            way: decided.way.clone(),
            host_key: host_key.as_ref().map(ToString::to_string),
            findings: (*entry.live().findings).clone(),
        };
        self.save(caller, "server.edit", stored, sealed, source_next.clone(), detail).await?;
        {
            let mut live = entry.live();
            if let Some(source) = source_next {
                live.http = Some(Arc::new(source));
            }
            live.server = Arc::new(next);
            live.way = Arc::new(decided.way);
            live.host_key = host_key;
        }
        if same_way {
            if !same_actions {
                entry.acting.close();
            }
            entry.wake.notify_one();
        } else {
            self.poll(&entry, None).await?;
        }
        self.server_changed(caller, entry.id);
        Ok(self.state_of(&entry))
    }

    /// A jump host carries others: whoever takes it away has to know whom that cuts off.
    fn refuse_while_others_are_behind(
        &self,
        caller: &Caller,
        entry: &Entry,
        what: &str,
        counts: impl Fn(&Entry) -> bool,
    ) -> Result<(), FleetError> {
        /// Names in the sentence; the rest is counted.
        const NAMED: usize = 10;
        let behind = self.inner.registry.behind(caller.organization, entry.id);
        let names: Vec<String> = behind
            .iter()
            .filter(|behind| counts(behind))
            .map(|behind| behind.server().name.to_string())
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        let more = match names.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let listed = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        Err(FleetError::InUse(format!(
            "{} is the jump host of {listed}{more} and cannot be {what} before they have another way",
            entry.server().name
        )))
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
        let (stored, offered) = {
            let live = entry.live();
            let stored = StoredServer {
                server: (*live.server).clone(),
                way: (*live.way).clone(),
                host_key: Some(approved.to_string()),
                findings: (*live.findings).clone(),
            };
            (stored, live.offered_host_key.clone())
        };
        if offered.as_ref() != Some(&approved) {
            return Err(FleetError::invalid(
                "host_key",
                "the server does not offer this key now; reload the page and compare the fingerprint again",
            ));
        }
        self.refuse_revoked(caller, &entry, &approved).await?;
        let before = entry.live().host_key.as_ref().map(HostKey::fingerprint);
        let detail = match before {
            Some(before) => format!("host key {} in place of {before}", approved.fingerprint()),
            None => format!("host key {}", approved.fingerprint()),
        };
        self.save(caller, "server.approve-host-key", stored, SealedSecrets::new(), None, detail).await?;
        {
            let mut live = entry.live();
            live.host_key = Some(approved);
            live.offered_host_key = None;
            if live.server.transport == Transport::Ssh {
                live.reachability = Reachability::Connecting;
            }
        }
        self.poll(&entry, None).await?;
        self.server_changed(caller, entry.id);
        Ok(self.state_of(&entry))
    }

    async fn save(
        &self,
        caller: &Caller,
        action: &str,
        stored: StoredServer,
        secrets: SealedSecrets,
        source: Option<HttpSource>,
        detail: String,
    ) -> Result<(), FleetError> {
        let now = self.inner.clock.now();
        let name = stored.server.name.to_string();
        let entry = AuditEntry::by(caller, action, &name).detail(detail);
        self.inner
            .store
            .write(move |tx| {
                servers::save(tx, &stored)?;
                write_secrets(tx, stored.server.id, &secrets)?;
                if let Some(source) = &source {
                    http_servers::save(tx, stored.server.id, source)?;
                }
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
    /// [`FleetError::NoSuchServer`]; [`FleetError::InUse`] for a jump host that others are behind.
    pub async fn remove(&self, caller: &Caller, reference: &str) -> Result<(), FleetError> {
        auth::require(caller, Role::Admin)?;
        let _no_circle = self.inner.wiring.lock().await;
        let entry = self.find(caller, reference)?;
        let _alone = entry.changing.lock().await;
        // It may have been removed while another change was waited for.
        self.find(caller, &entry.id.to_string())?;
        self.refuse_while_others_are_behind(caller, &entry, "removed", |_| true)?;
        let server = entry.server();
        let (organization, id, now) = (caller.organization, entry.id, self.inner.clock.now());
        let number = server.number;
        let record = AuditEntry::by(caller, "server.remove", server.name.as_str());
        self.inner
            .store
            .write(move |tx| {
                servers::remove(tx, organization, id)?;
                settings::note_to_forget(tx, now, number)?;
                audit::append(tx, now, &record)
            })
            .await?;
        entry.stop_poller();
        self.inner.registry.remove(id);
        let forgotten = self.forget_samples(number).await;
        // It is gone, whatever became of its samples.
        self.publish(Event::ServerRemoved { organization, server: id });
        forgotten
    }

    /// Removes the samples of a server that is removed. What fails is done again at the next start.
    async fn forget_samples(&self, number: ServerNumber) -> Result<(), FleetError> {
        self.inner.history.forget(number).await?;
        let now = self.inner.clock.now();
        Ok(self.inner.store.write(move |tx| settings::forgotten(tx, now, number)).await?)
    }

    /// Removes the samples of servers at whose removal the program ended, or history could not be written.
    pub(super) async fn forget_removed(&self) -> Result<(), FleetError> {
        for number in self.inner.store.read(settings::to_forget).await? {
            if let Err(error) = self.forget_samples(number).await {
                tracing::error!(%error, number = number.0, "the samples of a removed server are still there; the next start tries again");
            }
        }
        Ok(())
    }

    /// How a server is reached now. None: not at all (inactive).
    pub(super) async fn way_to(
        &self,
        entry: &Entry,
        adopted: Option<Connection>,
        common: &mut Common,
    ) -> Result<Option<Way>, FleetError> {
        let server = entry.server();
        if server.status == Status::Inactive {
            let mut live = entry.live();
            live.reachability = Reachability::Unknown;
            live.standing = super::health::Standing::default();
            live.figures = Arc::default();
            return Ok(None);
        }
        if server.transport == Transport::Local {
            return Ok(Some(Way::Local));
        }
        if server.transport == Transport::Push {
            let (sender, inbox) = delivery_queue();
            entry.set_inbox(Some(sender));
            return Ok(Some(Way::Push { inbox }));
        }
        if server.transport == Transport::Http {
            return Ok(Some(Way::Http { probe: self.http_probe(entry).await?.map(Box::new) }));
        }
        let asks = {
            let live = entry.live();
            live.agent_token.is_none() && live.way.keeps(SecretKind::AgentToken)
        };
        if asks {
            let token = self.kept_secret(entry.id, SecretKind::AgentToken).await?;
            entry.live().agent_token = token;
        }
        let jump = entry.live().way.jump.and_then(|id| self.inner.registry.get(id));
        let target = self.target_sharing(entry, Purpose::Readings, common).await?;
        Ok(target.map(|target| Way::Ssh { target: Box::new(target), adopted, jump }))
    }
}

fn changed_secret(decided: &DecidedWay, kind: SecretKind) -> bool {
    decided.secrets.iter().any(|(changed, _)| *changed == kind)
}

/// Whether the connection of the readings can stay.
fn reads_the_same_way(before: &WayIn, decided: &DecidedWay) -> bool {
    let after = &decided.way;
    before.login == after.login
        && before.jump == after.jump
        && before.proxy == after.proxy
        && before.connect_timeout_ms == after.connect_timeout_ms
        && !changed_secret(decided, SecretKind::Password)
        && !changed_secret(decided, SecretKind::ProxyPassword)
        && !changed_secret(decided, SecretKind::ApiToken)
}

/// Whether the connection of the second identity can stay.
fn acts_the_same_way(before: &WayIn, decided: &DecidedWay) -> bool {
    before.action == decided.way.action && !changed_secret(decided, SecretKind::ActionPassword)
}

/// What an edit changed of the way in, for the audit log: names of fields, never a secret.
pub(super) fn changes(before: &WayIn, decided: &DecidedWay) -> String {
    let after = &decided.way;
    let mut changed = Vec::new();
    let mut note = |differs: bool, what: String| {
        if differs {
            changed.push(what);
        }
    };
    note(before.login != after.login, format!("login method {}", after.login.method));
    note(
        before.action != after.action,
        match &after.action {
            Some(action) => format!("action login {} with {}", action.username, action.login.method),
            None => "no action login".to_owned(),
        },
    );
    note(
        before.jump != after.jump,
        after.jump.map_or_else(|| "no jump host".to_owned(), |id| format!("jump host {id}")),
    );
    note(
        before.proxy != after.proxy,
        after.proxy.as_ref().map_or_else(|| "no proxy".to_owned(), |proxy| format!("proxy {proxy}")),
    );
    note(
        before.connect_timeout_ms != after.connect_timeout_ms,
        format!("connect timeout {} ms", after.connect_timeout_ms),
    );
    for (kind, change) in &decided.secrets {
        let what = kind.name().replace('_', " ");
        changed.push(match change {
            super::ways::SecretChange::Set(_) => format!("{what} set"),
            super::ways::SecretChange::Remove => format!("{what} removed"),
        });
    }
    changed.join("; ")
}
