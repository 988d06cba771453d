//! Enrolment: from an address to a server that is read, in stages that a person can follow.

use crate::auth;
use crate::model::{
    Caller, KeyId, Port, Role, Secret, Server, ServerId, ServerName, ServerNumber, Status, Transport,
};
use crate::ssh::enrol::install_public_key;
use crate::ssh::known_hosts;
use crate::ssh::preflight::{Outcome, Preflight, Step, preflight};
use crate::ssh::{Connection, HostKey, Identity, Target};
use crate::store::StoreError;
use crate::store::audit::{self, Entry as AuditEntry};
use crate::store::servers::{self, StoredServer};

use super::input::{self, Metadata, ServerEdit};
use super::keys::{BroughtKey, free_name};
use super::state::HostKeyView;
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
    pub identification: Identification,
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
    key: Option<KeyId>,
    /// A private key that the caller brought; kept only when the server is.
    brought: Option<BroughtKey>,
}

impl Fleet {
    /// Goes through the stages without storing anything.
    ///
    /// # Errors
    /// [`FleetError::Invalid`] for a field that cannot be meant; a failing stage is a step, not an error.
    pub async fn preflight(&self, caller: &Caller, new: &NewServer) -> Result<Checked, FleetError> {
        auth::require(caller, Role::Admin)?;
        let candidate = self.candidate(caller, new).await?;
        let done = preflight(&candidate.target, new.known_hosts.as_deref()).await;
        Ok(Checked { seen: done.seen.as_ref().map(HostKeyView::of), steps: done.steps })
    }

    /// Goes through the stages for a server that is enrolled, with one login of its own.
    ///
    /// # Errors
    /// [`FleetError::Unavailable`] for a transport without SSH.
    pub async fn test(&self, caller: &Caller, reference: &str) -> Result<Checked, FleetError> {
        auth::require(caller, Role::Operator)?;
        let entry = self.find(caller, reference)?;
        let target = self.target_of(&entry).await?.ok_or_else(|| {
            FleetError::Unavailable(
                "this server is not reached over SSH, so there is nothing to test".to_owned(),
            )
        })?;
        let done = preflight(&target, None).await;
        if done.connection.is_some() {
            entry.live().logins.add(1, self.inner.clock.now());
        }
        Ok(Checked { seen: done.seen.as_ref().map(HostKeyView::of), steps: done.steps })
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
        let connection = self.reach(caller, &mut candidate, &new).await?;
        let host_key = candidate.target.pinned.clone();
        let key = match candidate.brought {
            Some(brought) => Some(self.keep_key(caller, brought).await?.id),
            None => candidate.key,
        };
        let stored = self.insert(caller, server, key, host_key).await?;
        let entry = Arc::new(self.entry_of(stored)?);
        self.inner.registry.insert(Arc::clone(&entry));
        let was_reached = connection.is_some();
        self.poll(&entry, connection).await?;
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
        let mut server = edit.apply(&self.blank(&caller)?)?;
        server.transport = Transport::Local;
        "The machine that Roundsman runs on".clone_into(&mut server.description);
        let stored = self.insert(&caller, server, None, None).await?;
        let entry = Arc::new(self.entry_of(stored)?);
        self.inner.registry.insert(Arc::clone(&entry));
        self.poll(&entry, None).await
    }

    fn blank(&self, caller: &Caller) -> Result<Server, FleetError> {
        let now = self.inner.clock.now();
        let interval = u64::try_from(self.inner.default_interval.as_millis()).unwrap_or(u64::MAX);
        Ok(Server {
            id: ServerId::new(self.inner.clock.new_uuid()),
            number: ServerNumber(0),
            organization: caller.organization,
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
            interval_ms: input::interval_ms(interval)?,
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
            key: None,
        };
        edit.apply(&self.blank(caller)?)
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
        let organization = caller.organization;
        let (mut key, mut brought) = (None, None);
        let identity = match &new.identification {
            Identification::DefaultKey => self.identity(organization, None).await?,
            Identification::KeptKey(reference) => {
                let kept = self.key_by_reference(caller, reference).await?;
                key = Some(kept.id);
                self.identity(organization, key).await?
            }
            Identification::PrivateKey { text, passphrase, source_path } => {
                let opened = BroughtKey::open(text, passphrase.as_ref(), source_path.clone())?;
                let identity = Identity::Key(opened.private.clone());
                brought = Some(opened);
                identity
            }
            Identification::PasswordOnce(password) => Identity::Password(password.clone()),
        };
        let target = Target { pinned, ..Target::new(host, port, user, identity) };
        Ok(Candidate { target, key, brought })
    }

    /// Makes the connection that the new server will be read over. None: it is to be stored unchecked.
    async fn reach(
        &self,
        caller: &Caller,
        candidate: &mut Candidate,
        new: &NewServer,
    ) -> Result<Option<Connection>, FleetError> {
        let known_hosts = new.known_hosts.as_deref();
        if let Some(pinned) = &candidate.target.pinned {
            refuse_known_otherwise(&candidate.target, known_hosts, pinned, false)?;
        }
        let mut done = preflight(&candidate.target, known_hosts).await;
        if candidate.target.pinned.is_none()
            && let Some(seen) = &done.seen
        {
            refuse_known_otherwise(&candidate.target, known_hosts, seen, new.accept_new)?;
        }
        if done.connection.is_none()
            && new.accept_new
            && candidate.target.pinned.is_none()
            && let Some(seen) = done.seen.take()
        {
            candidate.target.pinned = Some(seen);
            done = preflight(&candidate.target, known_hosts).await;
        }
        if let Identification::PasswordOnce(_) = new.identification
            && let Some(connection) = done.connection.take()
        {
            done = self.install_default_key(caller, candidate, connection).await?;
        }
        match done {
            Preflight { connection: Some(connection), .. } => Ok(Some(connection)),
            _ if new.unchecked => Ok(None),
            Preflight { seen: Some(seen), steps, .. } if candidate.target.pinned.is_none() => {
                Err(FleetError::HostKeyUnknown { seen: HostKeyView::of(&seen), steps })
            }
            Preflight { steps, .. } => Err(failed_preflight(steps)),
        }
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
        Ok(preflight(&candidate.target, None).await)
    }

    async fn insert(
        &self,
        caller: &Caller,
        mut server: Server,
        key: Option<KeyId>,
        host_key: Option<HostKey>,
    ) -> Result<StoredServer, FleetError> {
        let now = self.inner.clock.now();
        let name = server.name.clone();
        let host_key = host_key.map(|key| key.to_string());
        let detail = host_key.as_deref().map_or_else(String::new, |line| format!("host key {line}"));
        let entry = AuditEntry::by(caller, "server.add", name.as_str()).detail(detail);
        self.inner
            .store
            .write(move |tx| {
                server.number = servers::next_number(tx, server.id)?;
                let stored = StoredServer { server, key, host_key };
                servers::save(tx, &stored)?;
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
fn name_from_address(host: &str) -> String {
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
