//! Enrolment: from an address to a server that is read, in stages that a person can follow.

use crate::auth;
use crate::model::{
    Caller, Findings, HttpSource, Login, OrganizationId, Port, Role, Secret, SecretKind, Server, ServerId,
    ServerName, ServerNumber, Status, Transport, WayIn,
};
use crate::ssh::enrol::install_public_key;
use crate::ssh::known_hosts;
use crate::ssh::preflight::{Outcome, Preflight, Step, preflight};
use crate::ssh::{Connection, HostKey, Identity, Target};
use crate::store::StoreError;
use crate::store::audit::{self, Entry as AuditEntry};
use crate::store::http as http_servers;
use crate::store::servers::{self, StoredServer};

use super::findings::{findings, look_for_checksums, look_for_readings};
use super::input::{self, ActionLoginEdit, LoginEdit, Metadata, ServerEdit, WayEdit};
use super::keys::{BroughtKey, free_name};
use super::known::{joined, knows};
use super::registry::Entry;
use super::state::HostKeyView;
use super::ways::{DecidedWay, Place, Purpose, write_secrets};
use super::{Fleet, FleetError, ServerState};
use std::sync::Arc;

/// How Roundsman logs in to a new server.
#[derive(Debug, Clone, Default)]
pub enum Identification {
    /// The default key, which stands in the server's `authorized_keys` already.
    #[default]
    DefaultKey,
    /// A kept key by name, id or the path that it was imported from.
    KeptKey(String),
    /// A private key that the caller brings; it is kept, sealed, when the server is enrolled.
    PrivateKey { text: Secret<String>, passphrase: Option<Secret<String>>, source_path: Option<String> },
    /// Logs in once, installs the default key and is forgotten.
    PasswordOnce(Secret<String>),
    /// Kept, sealed, and used for every login.
    Password(Secret<String>),
    /// A key of the ssh-agent: its public line or its SHA-256 fingerprint.
    Agent(String),
}

/// A server to be enrolled.
#[derive(Debug, Clone, Default)]
pub struct NewServer {
    /// Made from the address when it is missing.
    pub name: Option<String>,
    pub hostname: String,
    pub port: Option<i64>,
    /// `root` when it is missing.
    pub username: Option<String>,
    pub description: String,
    pub region: Option<String>,
    pub environment: Option<String>,
    pub tags: Vec<String>,
    pub metadata: Metadata,
    pub status: Option<Status>,
    pub interval_ms: Option<u64>,
    /// None: the default.
    pub heavy_interval_ms: Option<u64>,
    pub identification: Identification,
    /// Name or id of the enrolled server over which this one is reached.
    pub jump_host: Option<String>,
    /// `socks5://user:password@host:port` or `http://…`.
    pub proxy: Option<Secret<String>>,
    /// The limit of each step of connecting, 1,000 to 120,000 ms.
    pub connect_timeout_ms: Option<u64>,
    /// The second identity, for actions; the first then only reads.
    pub action_login: Option<ActionLoginEdit>,
    /// What sudo asks the user of the actions for; kept, sealed.
    pub sudo_password: Option<Secret<String>>,
    /// The host key line that a person approved.
    pub host_key: Option<String>,
    /// Approve whatever key the server shows now.
    pub accept_new: bool,
    /// Store the server even when it cannot be reached now; its host key is approved later.
    pub unchecked: bool,
    /// The caller's own known_hosts lines, against which a new host key is matched.
    pub known_hosts: Option<String>,
}

/// What the stages of the preflight said.
#[derive(Debug)]
pub struct Checked {
    pub steps: Vec<Step>,
    /// Of the second identity, where there is one and the first came through.
    pub action_steps: Option<Vec<Step>>,
    pub seen: Option<HostKeyView>,
}

/// A server that is stored.
pub(super) struct Enrolled {
    pub state: ServerState,
    /// False: it was stored unchecked.
    pub was_reached: bool,
}

/// The way to a server that is being enrolled.
struct Candidate {
    target: Target,
    decided: DecidedWay,
    /// A private key that the caller brought; kept only when the server is.
    brought: Option<BroughtKey>,
}

/// A candidate that was looked at.
struct Reached {
    /// None: it is to be stored unchecked.
    connection: Option<Connection>,
    findings: Findings,
    /// Logins beyond the one of `connection`.
    more_logins: u64,
}

impl Fleet {
    /// Goes through the stages without storing anything.
    ///
    /// # Errors
    /// [`FleetError::Invalid`] for a field that cannot be meant; a failing stage is a step, not an error.
    pub async fn preflight(&self, caller: &Caller, new: &NewServer) -> Result<Checked, FleetError> {
        auth::require(caller, Role::Admin)?;
        let candidate = self.candidate(caller, new).await?;
        let imported = self.imported_lines(caller.organization, &candidate.target).await?;
        let known_hosts = joined(new.known_hosts.as_deref(), &imported);
        let done = self.look_at(&candidate.target, known_hosts.as_deref()).await;
        let action_steps = match (&done.connection, self.action_candidate(caller, &candidate).await?) {
            (Some(_), Some(target)) => Some(preflight(&target, None).await.steps),
            _ => None,
        };
        Ok(Checked { seen: done.seen.as_ref().map(HostKeyView::of), steps: done.steps, action_steps })
    }

    /// Goes through the stages for a server that is enrolled, with one login of its own for each identity, and keeps what
    /// cannot be seen or done there.
    ///
    /// # Errors
    /// [`FleetError::Unavailable`] for a transport without SSH.
    pub async fn test(&self, caller: &Caller, reference: &str) -> Result<Checked, FleetError> {
        auth::require(caller, Role::Operator)?;
        let entry = self.find(caller, reference)?;
        if entry.server().transport == Transport::Http && entry.server().ssh_host().is_none() {
            return self.test_http(&entry).await;
        }
        let target = self.target_of(&entry, Purpose::Readings).await?.ok_or_else(|| {
            FleetError::Unavailable(
                "this server is not reached over SSH, so there is nothing to test".to_owned(),
            )
        })?;
        let mut done = self.look_at(&target, None).await;
        let acts_apart = entry.live().way.action.is_some();
        if target.pinned.is_none() && entry.server().transport != Transport::Ssh {
            // No poller of ours knocks there, so this is where its key is seen.
            entry.live().offered_host_key.clone_from(&done.seen);
        }
        let mut action_steps = None;
        if let Some(connection) = done.connection.take() {
            self.count_logins(&entry, 1);
            let mut checksums = look_for_checksums(&connection).await;
            connection.close().await;
            if acts_apart && let Some(target) = self.target_of(&entry, Purpose::Actions).await? {
                let acted = preflight(&target, None).await;
                if let Some(connection) = acted.connection {
                    self.count_logins(&entry, 1);
                    checksums = look_for_checksums(&connection).await;
                    connection.close().await;
                }
                action_steps = Some(acted.steps);
            }
            let mut found = findings(&done.steps, action_steps.as_deref(), self.inner.clock.now());
            found.spots.extend(checksums);
            self.keep_findings(&entry, found).await?;
            self.server_changed(caller, entry.id);
        }
        Ok(Checked { seen: done.seen.as_ref().map(HostKeyView::of), steps: done.steps, action_steps })
    }

    async fn keep_findings(&self, entry: &Entry, found: Findings) -> Result<(), FleetError> {
        let (id, kept) = (entry.id, found.clone());
        self.inner.store.write(move |tx| servers::set_findings(tx, id, &kept)).await?;
        entry.live().findings = Arc::new(found);
        Ok(())
    }

    fn count_logins(&self, entry: &Entry, count: u64) {
        self.inner.shared.logins.count(entry, count, self.inner.clock.now());
    }

    /// The stages; where no shell answers, whether the readings come through all the same.
    async fn look_at(&self, target: &Target, known_hosts: Option<&str>) -> Preflight {
        let mut done = preflight(target, known_hosts).await;
        if let Some(connection) = &done.connection {
            look_for_readings(connection, &mut done.steps).await;
        }
        done
    }

    /// Enrols a server: checks it, stores it, starts reading it.
    ///
    /// # Errors
    /// [`FleetError::HostKeyUnknown`] until its host key is approved, [`FleetError::Preflight`] when a stage
    /// fails, [`FleetError::NameTaken`], [`FleetError::Invalid`]. In each case nothing is stored.
    pub async fn add(&self, caller: &Caller, new: NewServer) -> Result<ServerState, FleetError> {
        Ok(self.enrol(caller, new).await?.state)
    }

    /// As [`Fleet::add`], and says whether the server was reached.
    pub(super) async fn enrol(&self, caller: &Caller, new: NewServer) -> Result<Enrolled, FleetError> {
        auth::require(caller, Role::Admin)?;
        let server = self.draft(caller, &new)?;
        let mut candidate = self.candidate(caller, &new).await?;
        let reached = self.reach(caller, &mut candidate, &new).await?;
        let host_key = candidate.target.pinned.clone();
        let mut decided = candidate.decided;
        if let Some(brought) = candidate.brought {
            decided.way.login =
                Login { key: Some(self.keep_key(caller, brought).await?.id), ..Login::default() };
        }
        let stored = self.insert(caller, server, decided, host_key, reached.findings, None).await?;
        let entry = Arc::new(self.entry_of(stored)?);
        self.inner.registry.insert(Arc::clone(&entry));
        self.count_logins(&entry, reached.more_logins);
        let was_reached = reached.connection.is_some();
        self.poll(&entry, reached.connection).await?;
        self.server_changed(caller, entry.id);
        Ok(Enrolled { state: self.state_of(&entry), was_reached })
    }

    /// Enrols the machine that Roundsman runs on, unless it is there already or was removed on purpose.
    ///
    /// # Errors
    /// [`FleetError::Store`].
    pub async fn ensure_local(&self, hostname: &str) -> Result<(), FleetError> {
        let caller = Caller::roundsman();
        let started_before = self.inner.store.read(|c| servers::ever_enrolled(c, Transport::Local)).await?;
        if started_before {
            return Ok(());
        }
        let wanted = hostname.split('.').next().unwrap_or_default();
        let wanted = if ServerName::parse(wanted).is_ok() { wanted } else { "local" };
        let edit = ServerEdit { name: Some(wanted.to_owned()), ..ServerEdit::default() };
        let mut server = edit.apply(&self.blank(caller.organization)?)?;
        server.transport = Transport::Local;
        "The machine that Roundsman runs on".clone_into(&mut server.description);
        let way = DecidedWay::default();
        let stored = self.insert(&caller, server, way, None, Findings::default(), None).await?;
        let entry = Arc::new(self.entry_of(stored)?);
        self.inner.registry.insert(Arc::clone(&entry));
        self.poll(&entry, None).await
    }

    pub(super) fn blank(&self, organization: OrganizationId) -> Result<Server, FleetError> {
        let now = self.inner.clock.now();
        let interval = u64::try_from(self.inner.default_interval.as_millis()).unwrap_or(u64::MAX);
        Ok(Server {
            id: ServerId::new(self.inner.clock.new_uuid()),
            number: ServerNumber(0),
            organization,
            name: ServerName::parse("new")?,
            description: String::new(),
            transport: Transport::Ssh,
            hostname: None,
            port: Port::SSH,
            username: None,
            region: None,
            environment: None,
            tags: Vec::new(),
            metadata: Metadata::new(),
            status: Status::Active,
            interval_ms: input::interval_ms("interval_ms", interval)?,
            heavy_interval_ms: None,
            created_at: now,
            updated_at: now,
        })
    }

    /// The server as it would be stored.
    fn draft(&self, caller: &Caller, new: &NewServer) -> Result<Server, FleetError> {
        let taken = |name: &str| self.inner.registry.find(caller, name).is_some();
        let name = match new.name.as_deref().map(str::trim).filter(|name| !name.is_empty()) {
            Some(name) if taken(name) => return Err(FleetError::NameTaken(name.to_owned())),
            Some(name) => name.to_owned(),
            None => free_name(&name_from_address(&new.hostname), taken),
        };
        let edit = ServerEdit {
            name: Some(name),
            description: Some(new.description.clone()),
            hostname: Some(new.hostname.clone()),
            port: Some(new.port.unwrap_or_else(|| Port::SSH.get().into())),
            username: Some(new.username.clone().unwrap_or_else(|| "root".to_owned())),
            region: Some(new.region.clone()),
            environment: Some(new.environment.clone()),
            tags: Some(new.tags.clone()),
            metadata: Some(new.metadata.clone()),
            status: new.status,
            interval_ms: new.interval_ms,
            heavy_interval_ms: new.heavy_interval_ms.map(Some),
            ..ServerEdit::default()
        };
        edit.apply(&self.blank(caller.organization)?)
    }

    async fn candidate(&self, caller: &Caller, new: &NewServer) -> Result<Candidate, FleetError> {
        let host = input::hostname(&new.hostname)?;
        let port = new.port.map_or(Ok(Port::SSH), Port::of)?;
        let user = new.username.as_deref().map_or_else(|| Ok("root".to_owned()), input::username)?;
        let pinned = new
            .host_key
            .as_deref()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(HostKey::parse)
            .transpose()
            .map_err(|error| FleetError::invalid("host_key", error.to_string()))?;
        let (login, brought) = match &new.identification {
            Identification::DefaultKey | Identification::PasswordOnce(_) => (LoginEdit::default(), None),
            Identification::KeptKey(reference) => {
                (LoginEdit { key: Some(Some(reference.clone())), ..LoginEdit::default() }, None)
            }
            Identification::PrivateKey { text, passphrase, source_path } => {
                let opened = self.open_key(text, passphrase.as_ref(), source_path.clone()).await?;
                (LoginEdit::default(), Some(opened))
            }
            Identification::Password(password) => {
                (LoginEdit { password: Some(password.clone()), ..LoginEdit::default() }, None)
            }
            Identification::Agent(key) => {
                (LoginEdit { agent_key: Some(key.clone()), ..LoginEdit::default() }, None)
            }
        };
        let way = WayEdit {
            jump: new.jump_host.clone().map(Some),
            proxy: new.proxy.clone().map(Some),
            connect_timeout_ms: new.connect_timeout_ms.map(Some),
            action: new.action_login.clone().map(Some),
            sudo_password: new.sudo_password.clone().map(Some),
        };
        let decided = self.decide_way(caller, None, &WayIn::default(), &login, &way).await?;
        let identity = match (&new.identification, &brought) {
            (Identification::PasswordOnce(password), _) => Identity::Password(password.clone()),
            (_, Some(brought)) => Identity::Key(brought.private.clone()),
            _ => {
                let password = decided.given(SecretKind::Password).cloned();
                self.identity_of(caller.organization, &decided.way.login, password).await?
            }
        };
        let trust = self.trust_of(caller.organization, &host, port).await?;
        let place = Place { host, port, user, trust };
        let proxy_password = decided.given(SecretKind::ProxyPassword).cloned();
        let target = self.target_at(place, identity, pinned, &decided.way, proxy_password)?;
        Ok(Candidate { target, decided, brought })
    }

    /// Where the second identity of a candidate logs in. None: it has none.
    async fn action_candidate(
        &self,
        caller: &Caller,
        candidate: &Candidate,
    ) -> Result<Option<Target>, FleetError> {
        let Some(action) = &candidate.decided.way.action else { return Ok(None) };
        let password = candidate.decided.given(SecretKind::ActionPassword).cloned();
        let identity = self.identity_of(caller.organization, &action.login, password).await?;
        Ok(Some(Target { user: action.username.clone(), identity, ..candidate.target.clone() }))
    }

    /// Makes the connection that the new server will be read over, and finds out what it lets Roundsman do.
    async fn reach(
        &self,
        caller: &Caller,
        candidate: &mut Candidate,
        new: &NewServer,
    ) -> Result<Reached, FleetError> {
        let imported = self.imported_lines(caller.organization, &candidate.target).await?;
        let known_hosts = joined(new.known_hosts.as_deref(), &imported);
        let known_hosts = known_hosts.as_deref();
        if let Some(pinned) = &candidate.target.pinned {
            refuse_known_otherwise(&candidate.target, known_hosts, pinned, false)?;
        }
        let mut done = self.look_at(&candidate.target, known_hosts).await;
        if candidate.target.pinned.is_none()
            && let Some(seen) = &done.seen
        {
            refuse_known_otherwise(&candidate.target, known_hosts, seen, new.accept_new)?;
        }
        if done.connection.is_none()
            && candidate.target.pinned.is_none()
            // Whoever imported the file has approved what stands in it.
            && (new.accept_new || done.seen.as_ref().is_some_and(|seen| knows(&imported, &candidate.target, seen)))
            && let Some(seen) = done.seen.take()
        {
            candidate.target.pinned = Some(seen);
            done = self.look_at(&candidate.target, known_hosts).await;
        }
        let mut more_logins = 0;
        if let Identification::PasswordOnce(_) = new.identification
            && let Some(connection) = done.connection.take()
        {
            more_logins += 1;
            done = self.install_default_key(caller, candidate, connection).await?;
        }
        let Some(connection) = done.connection else {
            return match done.seen {
                _ if new.unchecked => {
                    Ok(Reached { connection: None, findings: Findings::default(), more_logins })
                }
                Some(seen) if candidate.target.pinned.is_none() => {
                    Err(FleetError::HostKeyUnknown { seen: HostKeyView::of(&seen), steps: done.steps })
                }
                _ => Err(failed_preflight(done.steps)),
            };
        };
        let mut checksums = look_for_checksums(&connection).await;
        let mut action_steps = None;
        if let Some(target) = self.action_candidate(caller, candidate).await? {
            let acted = preflight(&target, None).await;
            match acted.connection {
                Some(connection) => {
                    more_logins += 1;
                    checksums = look_for_checksums(&connection).await;
                    connection.close().await;
                }
                None if new.unchecked => {}
                None => return Err(failed_action_login(acted.steps)),
            }
            action_steps = Some(acted.steps);
        }
        let mut findings = findings(&done.steps, action_steps.as_deref(), self.inner.clock.now());
        findings.spots.extend(checksums);
        Ok(Reached { connection: Some(connection), findings, more_logins })
    }

    /// Installs the default key with the password, then proves that it opens the door; the password is not used again.
    async fn install_default_key(
        &self,
        caller: &Caller,
        candidate: &mut Candidate,
        connection: Connection,
    ) -> Result<Preflight, FleetError> {
        let organization = caller.organization;
        let public_line = self.default_public_key(organization).await?;
        let installed = install_public_key(&connection, &public_line).await;
        connection.close().await;
        installed.map_err(|error| FleetError::Preflight {
            message: format!("{error} {}", error.advice()),
            steps: Vec::new(),
        })?;
        candidate.target.identity = self.identity(organization, None).await?;
        Ok(self.look_at(&candidate.target, None).await)
    }

    pub(super) async fn insert(
        &self,
        caller: &Caller,
        mut server: Server,
        decided: DecidedWay,
        host_key: Option<HostKey>,
        findings: Findings,
        http: Option<HttpSource>,
    ) -> Result<StoredServer, FleetError> {
        // The jump host may have been removed since it was named.
        let _stays = self.inner.wiring.lock().await;
        if let Some(jump) = decided.way.jump
            && self.inner.registry.get(jump).is_none()
        {
            return Err(FleetError::invalid("jump_host", "the jump host was removed just now"));
        }
        let now = self.inner.clock.now();
        let name = server.name.clone();
        let host_key = host_key.map(|key| key.to_string());
        let mut detail = vec![super::servers::changes(&WayIn::default(), &decided)];
        detail.extend(host_key.as_deref().map(|line| format!("host key {line}")));
        detail.extend(super::http::changes(None, http.as_ref()));
        detail.retain(|part| !part.is_empty());
        let entry = AuditEntry::by(caller, "server.add", name.as_str()).detail(detail.join("; "));
        let sealed = self.seal_secrets(server.id, &decided.secrets)?;
        self.inner
            .store
            .write(move |tx| {
                server.number = servers::next_number(tx, server.id)?;
                let stored = StoredServer { server, way: decided.way, host_key, findings };
                servers::save(tx, &stored)?;
                servers::set_findings(tx, stored.server.id, &stored.findings)?;
                write_secrets(tx, stored.server.id, &sealed)?;
                if let Some(source) = &http {
                    http_servers::save(tx, stored.server.id, source)?;
                }
                audit::append(tx, now, &entry)?;
                Ok::<_, StoreError>(stored)
            })
            .await
            .map_err(|error| match error {
                StoreError::Conflict => FleetError::NameTaken(name.to_string()),
                other => FleetError::Store(other),
            })
    }
}

/// A name for a server that was given none: its address, with what a name may not contain replaced.
pub(super) fn name_from_address(host: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let host = host.trim().trim_matches(['[', ']']);
    let name: String = host.chars().map(|c| if allowed(c) { c } else { '-' }).take(50).collect();
    let name = name.trim_matches('-').to_owned();
    if ServerName::parse(&name).is_ok() { name } else { format!("server-{name}") }
}

/// What the caller's own known_hosts says against a host key: it is revoked there, or (for a key that no person
/// compared) another one is known. OpenSSH's accept-new refuses both as well.
fn refuse_known_otherwise(
    target: &Target,
    known_hosts: Option<&str>,
    seen: &HostKey,
    unseen_by_a_person: bool,
) -> Result<(), FleetError> {
    let Some(text) = known_hosts else { return Ok(()) };
    let known = known_hosts::lookup(text, target.bare_host(), target.port);
    let refused = |message: String| Err(FleetError::Preflight { message, steps: Vec::new() });
    if known.iter().any(|entry| entry.revoked && entry.key == *seen) {
        return refused(format!(
            "the host key {} is marked as revoked in your known_hosts; whoever shows it cannot be trusted",
            seen.fingerprint()
        ));
    }
    let mut trusted =
        known.iter().filter(|entry| !entry.revoked && entry.key.algorithm() == seen.algorithm()).peekable();
    if unseen_by_a_person && trusted.peek().is_some() && !trusted.any(|entry| entry.key == *seen) {
        return refused(format!(
            "your known_hosts knows another host key for this server than {}; if the server was reinstalled, remove the old \
             line (ssh-keygen -R) and try again",
            seen.fingerprint()
        ));
    }
    Ok(())
}

fn failed_preflight(steps: Vec<Step>) -> FleetError {
    let message = steps.iter().find(|step| step.outcome == Outcome::Failed).map_or_else(
        || "the server cannot be reached".to_owned(),
        |step| match &step.fix {
            Some(fix) => format!("{} {fix}", step.detail),
            None => step.detail.clone(),
        },
    );
    FleetError::Preflight { message, steps }
}

/// The stages of the second identity, which nobody mistakes for those of the first.
fn failed_action_login(steps: Vec<Step>) -> FleetError {
    match failed_preflight(steps) {
        FleetError::Preflight { message, steps } => {
            FleetError::Preflight { message: format!("the action login: {message}"), steps }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_a_name_is_called_by_its_address() {
        for (host, name) in [
            ("10.0.0.5", "10.0.0.5"),
            ("[fd00::5]", "fd00--5"),
            ("[::1]", "server-1"),
            ("12345", "server-12345"),
            ("web", "web"),
        ] {
            assert_eq!(name_from_address(host), name);
        }
    }
}
