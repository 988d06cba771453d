//! Servers that report by themselves: registered with an enrol token or added by hand, then heard by their heartbeats.
//!
//! What they send arrives here parsed and in range ([`crate::collect::pushed`]); who may send it is judged here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::auth::{self, AuthError, renewed, server_token};
use crate::model::{
    Caller, Facts, Findings, OrganizationId, Reporter, Role, Scope, Secret, Server, ServerId, ServerName,
    Timestamp, TokenId, Transport, WayIn,
};
use crate::store::StoreError;
use crate::store::audit::{self, Entry as AuditEntry};
use crate::store::push::{self, Pushing};
use crate::store::servers::{self, StoredServer};
use crate::store::tokens;

use super::enrol::name_from_address;
use super::input::{self, Metadata, ServerEdit};
use super::keys::free_name;
use super::poller::{Delivery, Report};
use super::registry::Entry;
use super::{Fleet, FleetError, ServerState};

/// Servers that one token may enrol: as many as one Roundsman looks after, with room. A stolen token fills no disk.
const SERVERS_A_TOKEN: usize = 10_000;
/// The token that a server had before it registered again is accepted this long: its last heartbeats may be on the way.
const GRACE: Duration = Duration::from_secs(3600);
/// Services that a server names.
const SERVICES: usize = 200;
/// A refused attempt is audited at most this often for one token and server: whoever tries every second fills no log.
const AUDIT_AGAIN: Duration = Duration::from_secs(3600);
/// Refused attempts that are remembered for that.
const REFUSALS: usize = 10_000;
/// Room for the number that makes a name unique.
const NAME_CHARS: usize = 58;

/// Where a server that reports by itself takes actions.
#[derive(Debug, Clone, Default)]
pub struct SshAddress {
    pub host: String,
    pub port: Option<i64>,
    /// `root` when it is missing.
    pub username: Option<String>,
}

/// What a server says of itself when it registers, or an administrator says of one.
#[derive(Debug, Clone, Default)]
pub struct Registration {
    /// Made from the host name when it is missing; made unique when it is taken.
    pub name: Option<String>,
    /// As the server calls itself: by this it is known when it comes again.
    pub hostname: Option<String>,
    /// Its address, where it says one.
    pub address: Option<String>,
    pub description: String,
    pub region: Option<String>,
    pub environment: Option<String>,
    pub tags: Vec<String>,
    pub metadata: Metadata,
    pub services: Vec<String>,
    pub agent_version: Option<String>,
    /// Between two heartbeats.
    pub interval_ms: Option<u64>,
    pub facts: Option<Facts>,
    pub total_ram_bytes: Option<u64>,
    pub total_disk_bytes: Option<u64>,
    pub ssh: Option<SshAddress>,
}

/// A server that is registered.
#[derive(Debug)]
pub struct Registered {
    pub state: ServerState,
    /// The server's own token, shown this once. None: it registered with it.
    pub token: Option<Secret<String>>,
}

/// What a heartbeat is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// When the next one is expected.
    pub interval_ms: u32,
    /// How often the heavy sections are wanted.
    pub heavy_interval_ms: u32,
    /// What a person should know, for example of the server's clock.
    pub notice: Option<String>,
}

/// What registrations and heartbeats share.
#[derive(Debug, Default)]
pub(super) struct Desk {
    /// Held while a server is registered: the same host name twice at once must not make two servers.
    registering: tokio::sync::Mutex<()>,
    refusals: Mutex<HashMap<(String, ServerId), Timestamp>>,
}

impl Desk {
    /// Whether this refusal is to be audited now.
    fn is_news(&self, actor: String, server: ServerId, now: Timestamp) -> bool {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.len() >= REFUSALS {
            refusals.retain(|_, at| now.since(*at) < AUDIT_AGAIN);
        }
        if refusals.len() >= REFUSALS {
            refusals.clear();
        }
        let before = refusals.get(&(actor.clone(), server)).copied();
        let is_news = before.is_none_or(|at| now.since(at) >= AUDIT_AGAIN);
        if is_news {
            refusals.insert((actor, server), now);
        }
        is_news
    }
}

impl Fleet {
    /// Registers the server that asks, or recognises it: the same host name answers the same server.
    ///
    /// # Errors
    /// [`AuthError::NotItsServer`] when another token enrolled it (audited); [`FleetError::Invalid`].
    pub async fn register(
        &self,
        reporter: &Reporter,
        registration: Registration,
    ) -> Result<Registered, FleetError> {
        let registration = checked(registration)?;
        let _alone = self.inner.push.registering.lock().await;
        let known = match reporter.scope {
            Scope::Server(id) => Some(self.inner.registry.get(id).ok_or(AuthError::Unauthenticated)?),
            Scope::Enrol(_) | Scope::Admin => {
                let hostname = registration.hostname.as_deref().unwrap_or_default();
                self.known_as(reporter.organization, hostname)
            }
        };
        match known {
            Some(entry) => {
                self.judge(reporter, &entry, "server.register").await?;
                self.register_again(reporter, &entry, registration).await
            }
            None => self.register_new(reporter, registration).await,
        }
    }

    /// Adds a server that will report by itself; its token is in the answer only.
    ///
    /// # Errors
    /// [`FleetError::NameTaken`], [`FleetError::Invalid`].
    pub async fn add_push(
        &self,
        caller: &Caller,
        registration: Registration,
    ) -> Result<Registered, FleetError> {
        auth::require(caller, Role::Admin)?;
        let name = registration.name.as_deref().unwrap_or_default().trim();
        if name.is_empty() {
            return Err(FleetError::invalid("name", "name is missing: how the server is to be called here"));
        }
        if self.inner.registry.find(caller, name).is_some() {
            return Err(FleetError::NameTaken(name.to_owned()));
        }
        let (organization, actor) = (caller.organization, caller.actor.clone());
        let reporter = Reporter { organization, actor, scope: Scope::Admin, from: caller.from };
        let _alone = self.inner.push.registering.lock().await;
        self.register_new(&reporter, Registration { hostname: None, ..checked(registration)? }).await
    }

    /// Gives a server that reports by itself another token; the present one is accepted for an hour more.
    ///
    /// # Errors
    /// [`FleetError::Unavailable`] for a server that Roundsman reads.
    pub async fn renew_push_token(
        &self,
        caller: &Caller,
        reference: &str,
    ) -> Result<Secret<String>, FleetError> {
        auth::require(caller, Role::Admin)?;
        let entry = self.find(caller, reference)?;
        if entry.server().transport != Transport::Push {
            return Err(not_reporting(&entry));
        }
        let record = AuditEntry::by(caller, "server.renew-token", entry.server().name.as_str());
        self.give_token(&entry, caller.actor.to_string(), None, record).await
    }

    /// Takes in a heartbeat: when this returns, it is in the history.
    ///
    /// # Errors
    /// [`FleetError::NoSuchServer`]; [`AuthError::NotItsServer`] (audited); [`FleetError::Unavailable`] for an inactive
    /// server; [`AuthError::TooOften`] while the one before is taken in: send it again a moment later.
    pub async fn heartbeat(
        &self,
        reporter: &Reporter,
        reference: &str,
        report: Report,
    ) -> Result<Heard, FleetError> {
        let entry = self
            .inner
            .registry
            .find_in(reporter.organization, reference)
            .ok_or_else(|| FleetError::NoSuchServer(crate::model::shown(reference, 80)))?;
        self.judge(reporter, &entry, "server.heartbeat").await?;
        let inbox = entry.inbox().ok_or_else(|| {
            FleetError::Unavailable(
                "the server is inactive here; an administrator has to set its status to active".to_owned(),
            )
        })?;
        let (reply, answer) = oneshot::channel();
        let busy = || AuthError::TooOften { retry_after: Duration::from_secs(1) };
        inbox.try_send(Delivery { report, reply }).map_err(|_| busy())?;
        let notice = answer.await.map_err(|_| busy())?;
        let server = entry.server();
        let heavy_interval_ms = self.inner.shared.cadence.of(&server, false).heavy_interval_ms;
        Ok(Heard { interval_ms: server.interval_ms, heavy_interval_ms, notice })
    }

    /// A server that reports by itself, for whoever may report for it.
    ///
    /// # Errors
    /// As [`Self::heartbeat`].
    pub async fn reported(&self, reporter: &Reporter, reference: &str) -> Result<ServerState, FleetError> {
        let found = self.inner.registry.find_in(reporter.organization, reference);
        let entry = found.ok_or_else(|| FleetError::NoSuchServer(crate::model::shown(reference, 80)))?;
        self.judge(reporter, &entry, "server.heartbeat").await?;
        Ok(self.state_of(&entry))
    }

    /// Whether the reporter may speak for this server; a refusal is audited.
    async fn judge(&self, reporter: &Reporter, entry: &Entry, action: &str) -> Result<(), FleetError> {
        let (name, transport, enrolled_by, organization) = {
            let live = entry.live();
            let by = live.push.as_ref().and_then(|pushing| pushing.enrolled_by);
            (live.server.name.clone(), live.server.transport, by, live.server.organization)
        };
        let may = organization == reporter.organization
            && match reporter.scope {
                Scope::Admin => true,
                Scope::Server(id) => id == entry.id,
                Scope::Enrol(token) => transport == Transport::Push && enrolled_by == Some(token),
            };
        if may {
            return if transport == Transport::Push { Ok(()) } else { Err(not_reporting(entry)) };
        }
        let now = self.inner.clock.now();
        if self.inner.push.is_news(reporter.actor.to_string(), entry.id, now) {
            let record = AuditEntry::of(reporter, action, name.as_str())
                .refused("a token that neither is the server's own nor enrolled it");
            self.inner.store.write(move |tx| audit::append(tx, now, &record)).await?;
        }
        Err(AuthError::NotItsServer.into())
    }

    fn known_as(&self, organization: OrganizationId, hostname: &str) -> Option<Arc<Entry>> {
        self.inner.registry.all().into_iter().find(|entry| {
            let live = entry.live();
            live.server.organization == organization
                && live
                    .push
                    .as_ref()
                    .and_then(|pushing| pushing.hostname.as_deref())
                    .is_some_and(|known| !hostname.is_empty() && known == hostname)
        })
    }

    fn enrolled_by(&self, token: TokenId) -> usize {
        let all = self.inner.registry.all();
        let is_its = |entry: &&Arc<Entry>| {
            entry.live().push.as_ref().is_some_and(|pushing| pushing.enrolled_by == Some(token))
        };
        all.iter().filter(is_its).count()
    }

    async fn register_new(
        &self,
        reporter: &Reporter,
        registration: Registration,
    ) -> Result<Registered, FleetError> {
        let enrolled_by = match reporter.scope {
            Scope::Enrol(token) => Some(token),
            Scope::Server(_) | Scope::Admin => None,
        };
        if enrolled_by.is_some_and(|token| self.enrolled_by(token) >= SERVERS_A_TOKEN) {
            return Err(FleetError::Unavailable(format!(
                "this token has enrolled {SERVERS_A_TOKEN} servers; make another one"
            )));
        }
        let mut server = self.pushed_server(reporter, &registration)?;
        let pushing = told(Pushing { enrolled_by, ..Pushing::default() }, &registration);
        let made_by = reporter.actor.to_string();
        let organization = reporter.organization;
        let (token, text) =
            server_token(&*self.inner.clock, organization, server.id, server.name.as_str(), made_by);
        let detail = match &pushing.hostname {
            Some(hostname) => format!("transport push; host name {hostname}"),
            None => "transport push".to_owned(),
        };
        let record = AuditEntry::of(reporter, "server.add", server.name.as_str()).detail(detail);
        let (now, kept) = (self.inner.clock.now(), pushing.clone());
        let name = server.name.to_string();
        let stored = self
            .inner
            .store
            .write(move |tx| {
                server.number = servers::next_number(tx, server.id)?;
                let (way, findings) = (WayIn::default(), Findings::default());
                let stored = StoredServer { server, way, host_key: None, findings };
                servers::save(tx, &stored)?;
                push::save(tx, stored.server.id, &kept)?;
                tokens::insert(tx, &token)?;
                audit::append(tx, now, &record)?;
                Ok::<_, StoreError>(stored)
            })
            .await
            .map_err(|error| match error {
                StoreError::Conflict => FleetError::NameTaken(name),
                other => FleetError::Store(other),
            })?;
        let entry = Arc::new(self.entry_of(stored)?);
        {
            let mut live = entry.live();
            live.push = Some(Arc::new(pushing));
            live.facts = registration.facts.map(Arc::new);
        }
        self.inner.registry.insert(Arc::clone(&entry));
        self.poll(&entry, None).await?;
        self.announce(organization, entry.id);
        Ok(Registered { state: self.state_of(&entry), token: Some(text) })
    }

    async fn register_again(
        &self,
        reporter: &Reporter,
        entry: &Arc<Entry>,
        registration: Registration,
    ) -> Result<Registered, FleetError> {
        let _alone = entry.changing.lock().await;
        let (mut stored, pushing) = {
            let live = entry.live();
            let stored = StoredServer {
                server: (*live.server).clone(),
                way: (*live.way).clone(),
                host_key: live.host_key.as_ref().map(ToString::to_string),
                findings: (*live.findings).clone(),
            };
            (stored, live.push.as_deref().cloned().unwrap_or_default())
        };
        // What people have said of it since stays: a server adds, and never empties or moves itself.
        let mut tags: Vec<String> = stored.server.tags.iter().map(ToString::to_string).collect();
        tags.extend(registration.tags.iter().cloned());
        let mut metadata = stored.server.metadata.clone();
        metadata.extend(registration.metadata.clone());
        let edit = ServerEdit { tags: Some(tags), metadata: Some(metadata), ..ServerEdit::default() };
        let next = edit.apply(&stored.server)?;
        let pushing = told(pushing, &registration);
        let record = AuditEntry::of(reporter, "server.register", next.name.as_str())
            .detail(format!("host name {}", pushing.hostname.as_deref().unwrap_or("not said")));
        if next != stored.server {
            stored.server = Server { updated_at: self.inner.clock.now(), ..next };
        }
        let server = Arc::new(stored.server.clone());
        let change = Some((stored, pushing.clone()));
        let text = match reporter.scope {
            Scope::Server(_) => {
                self.keep_registration(change, record).await?;
                None
            }
            Scope::Enrol(_) | Scope::Admin => {
                Some(self.give_token(entry, reporter.actor.to_string(), change, record).await?)
            }
        };
        {
            let mut live = entry.live();
            live.server = server;
            live.push = Some(Arc::new(pushing));
            if let Some(facts) = registration.facts {
                live.facts = Some(Arc::new(facts));
            }
        }
        self.announce(reporter.organization, entry.id);
        Ok(Registered { state: self.state_of(entry), token: text })
    }

    async fn keep_registration(
        &self,
        change: Option<(StoredServer, Pushing)>,
        record: AuditEntry,
    ) -> Result<(), FleetError> {
        let now = self.inner.clock.now();
        let write = move |tx: &crate::store::Transaction<'_>| {
            if let Some((stored, pushing)) = &change {
                servers::save(tx, stored)?;
                push::save(tx, stored.server.id, pushing)?;
            }
            audit::append(tx, now, &record)
        };
        Ok(self.inner.store.write(write).await?)
    }

    /// Another secret for the server's token, or a token where it has none, together with a change of the server.
    pub(super) async fn give_token(
        &self,
        entry: &Entry,
        made_by: String,
        change: Option<(StoredServer, Pushing)>,
        record: AuditEntry,
    ) -> Result<Secret<String>, FleetError> {
        let (id, server) = (entry.id, entry.server());
        let organization = server.organization;
        let now = self.inner.clock.now();
        let (fresh, fresh_text) =
            server_token(&*self.inner.clock, organization, id, server.name.as_str(), made_by);
        let text = self
            .inner
            .store
            .write(move |tx| {
                if let Some((stored, pushing)) = &change {
                    servers::save(tx, stored)?;
                    push::save(tx, stored.server.id, pushing)?;
                }
                let text = match tokens::of_server(tx, id)? {
                    Some(token) => {
                        let (text, hash) = renewed(token.id);
                        tokens::rotate(tx, organization, token.id, &hash, now + GRACE)?;
                        text
                    }
                    None => {
                        tokens::insert(tx, &fresh)?;
                        fresh_text
                    }
                };
                audit::append(tx, now, &record)?;
                Ok::<_, StoreError>(text)
            })
            .await?;
        Ok(text)
    }

    fn announce(&self, organization: OrganizationId, server: ServerId) {
        self.publish(crate::model::Event::ServerChanged { organization, server });
    }

    /// The server as it would be stored.
    fn pushed_server(&self, reporter: &Reporter, of: &Registration) -> Result<Server, FleetError> {
        let wanted = of.name.as_deref().or(of.hostname.as_deref()).or(of.address.as_deref());
        let wanted = name_from_address(wanted.unwrap_or("server"));
        let short: String = wanted.chars().take(NAME_CHARS).collect();
        let taken = |name: &str| self.inner.registry.find_in(reporter.organization, name).is_some();
        let edit = ServerEdit {
            name: Some(free_name(&short, taken)),
            description: Some(of.description.clone()),
            hostname: match (&of.ssh, &of.address, &of.hostname) {
                (Some(ssh), ..) => Some(ssh.host.clone()),
                (None, address, hostname) => address.clone().or_else(|| hostname.clone()),
            },
            port: of.ssh.as_ref().and_then(|ssh| ssh.port),
            username: of.ssh.as_ref().map(|ssh| ssh.username.clone().unwrap_or_else(|| "root".to_owned())),
            region: Some(of.region.clone()),
            environment: Some(of.environment.clone()),
            tags: Some(of.tags.clone()),
            metadata: Some(of.metadata.clone()),
            interval_ms: of.interval_ms,
            ..ServerEdit::default()
        };
        let mut blank = self.blank(reporter.organization)?;
        blank.transport = Transport::Push;
        edit.apply(&blank)
    }
}

fn not_reporting(entry: &Entry) -> FleetError {
    FleetError::Unavailable(format!(
        "Roundsman reads {} itself; it does not report (its transport is not push)",
        entry.server().name
    ))
}

/// What a registration adds to what is known.
fn told(before: Pushing, of: &Registration) -> Pushing {
    Pushing {
        enrolled_by: before.enrolled_by,
        hostname: of.hostname.clone().or(before.hostname),
        agent_version: of.agent_version.clone().or(before.agent_version),
        services: if of.services.is_empty() { before.services } else { of.services.clone() },
        total_ram_bytes: of.total_ram_bytes.or(before.total_ram_bytes),
        total_disk_bytes: of.total_disk_bytes.or(before.total_disk_bytes),
    }
}

/// The registration with its texts in order; what [`ServerEdit`] checks is left to it.
fn checked(mut of: Registration) -> Result<Registration, FleetError> {
    if let Some(name) = of.name.as_deref().map(str::trim).filter(|name| !name.is_empty()) {
        of.name = Some(ServerName::parse(name)?.to_string());
    } else {
        of.name = None;
    }
    let host = |text: Option<String>| match text.as_deref().map(str::trim) {
        None | Some("") => Ok(None),
        Some(text) => input::hostname(text).map(Some),
    };
    of.hostname = host(of.hostname)?.map(|name| name.to_lowercase());
    of.address = host(of.address)?;
    if of.name.is_none() && of.hostname.is_none() {
        return Err(FleetError::invalid("hostname", "hostname is missing: how the server calls itself"));
    }
    // Older programs say only a name; by that they are known when they come again.
    if of.hostname.is_none() {
        of.hostname = of.name.as_deref().map(str::to_lowercase);
    }
    of.agent_version = input::word("agent_version", of.agent_version.as_deref())?;
    if of.services.len() > SERVICES {
        return Err(FleetError::invalid("services", format!("a server names at most {SERVICES} services")));
    }
    for service in &mut of.services {
        let name = input::word("services", Some(service))?;
        *service = name.ok_or_else(|| FleetError::invalid("services", "a service has no name"))?;
    }
    Ok(of)
}
