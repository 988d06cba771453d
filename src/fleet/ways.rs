//! How a server is reached, decided: references become a [`WayIn`], and a way becomes a [`Target`].
//!
//! The one place that opens stored passwords, and hands them to SSH only.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::model::{
    ActionLogin, Caller, Login, LoginMethod, OrganizationId, Port, ProxyAddress, ProxyScheme, Secret,
    SecretKind, ServerId, Transport, WayIn,
};
use crate::ssh::{
    Connection, Endpoint, HostKey, Identity, JumpHost, Proxy, ProxyKind, Route, SshError, Target, agent_keys,
};
use crate::store::logins;

use super::input::{self, ActionLoginEdit, LoginEdit, WayEdit};
use super::registry::Entry;
use super::{Fleet, FleetError};

mod decided;
mod once;

pub(super) use decided::{DecidedWay, SealedSecrets, SecretChange, write_secrets};
pub(super) use once::Common;

/// Jump hosts in a row; more is a mistake, and each adds its round trip to every reading.
const MAX_HOPS: usize = 8;
/// How long those behind a jump host wait for its first attempt to begin, at the start of Roundsman or after an edit.
const JUMP_PATIENCE: Duration = Duration::from_secs(5);

/// Whose login leads to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Readings,
    /// The second identity, where there is one.
    Actions,
}

/// What is trusted or refused at a place beyond the pinned key.
pub(super) struct Trust {
    pub authorities: Arc<[HostKey]>,
    pub revoked: Arc<[HostKey]>,
}

/// Where a target is, as SSH dials it.
pub(super) struct Place {
    pub host: String,
    pub port: Port,
    pub user: String,
    pub trust: Trust,
}

impl Fleet {
    /// The way in with the changes of an edit.
    ///
    /// # Errors
    /// [`FleetError::Invalid`] names the field; [`FleetError::NoSuchKey`], [`FleetError::NoSuchServer`].
    pub(super) async fn decide_way(
        &self,
        caller: &Caller,
        server: Option<ServerId>,
        before: &WayIn,
        login: &LoginEdit,
        edit: &WayEdit,
    ) -> Result<DecidedWay, FleetError> {
        let mut decided = DecidedWay { way: before.clone(), secrets: Vec::new() };
        let kept = before.keeps(SecretKind::Password);
        let (login, change) = self.decide_login(caller, &before.login, login, kept, "password").await?;
        decided.way.login = login;
        if let Some(change) = change {
            decided.change(SecretKind::Password, change);
        }
        if let Some(action) = &edit.action {
            self.decide_action(caller, &mut decided, action.as_ref()).await?;
        }
        match &edit.sudo_password {
            None => {}
            Some(None) => decided.change(SecretKind::SudoPassword, SecretChange::Remove),
            Some(Some(secret)) => {
                input::password("sudo_password", secret)?;
                decided.change(SecretKind::SudoPassword, SecretChange::Set(secret.clone()));
            }
        }
        match &edit.connect_timeout_ms {
            None => {}
            Some(None) => decided.way.connect_timeout_ms = WayIn::DEFAULT_CONNECT_TIMEOUT_MS,
            Some(Some(millis)) => decided.way.connect_timeout_ms = input::connect_timeout_ms(*millis)?,
        }
        if let Some(jump) = &edit.jump {
            decided.way.jump =
                jump.as_deref().map(|reference| self.jump_of(caller, server, reference)).transpose()?;
        }
        if let Some(proxy) = &edit.proxy {
            decide_proxy(&mut decided, proxy.as_ref().map(|text| text.expose().as_str()))?;
        }
        if decided.way.jump.is_some() && decided.way.proxy.is_some() {
            return Err(FleetError::invalid(
                "proxy",
                "a server is reached through a jump host or through a proxy; give the proxy to the jump host instead",
            ));
        }
        Ok(decided)
    }

    /// The identity, and what becomes of its stored password. `kept`: there is one.
    async fn decide_login(
        &self,
        caller: &Caller,
        before: &Login,
        edit: &LoginEdit,
        kept: bool,
        field: &'static str,
    ) -> Result<(Login, Option<SecretChange>), FleetError> {
        let method = match (edit.method, &edit.agent_key, &edit.password, &edit.key) {
            (Some(method), ..) => method,
            (None, Some(_), ..) => LoginMethod::Agent,
            (None, None, Some(_), _) => LoginMethod::Password,
            (None, None, None, Some(_)) => LoginMethod::Key,
            (None, None, None, None) => before.method,
        };
        if edit.password.is_some() && method != LoginMethod::Password {
            return Err(FleetError::invalid(
                field,
                format!("a stored password belongs to the login method 'password', not '{method}'"),
            ));
        }
        let forgotten = kept.then_some(SecretChange::Remove);
        match method {
            LoginMethod::Key => {
                let key = match &edit.key {
                    None if before.method == LoginMethod::Key => before.key,
                    None | Some(None) => None,
                    Some(Some(reference)) => Some(self.key_by_reference(caller, reference).await?.id),
                };
                Ok((Login { method, key, agent_key: None }, forgotten))
            }
            LoginMethod::Agent => {
                let agent_key = match (&edit.agent_key, &before.agent_key) {
                    (Some(reference), _) => self.agent_key(caller.organization, reference).await?,
                    (None, Some(line)) if before.method == LoginMethod::Agent => line.clone(),
                    (None, _) => {
                        return Err(FleetError::invalid(
                            "agent_key",
                            "name the key of the agent: its public line or its SHA256:… fingerprint (ssh-add -l)",
                        ));
                    }
                };
                Ok((Login { method, key: None, agent_key: Some(agent_key) }, forgotten))
            }
            LoginMethod::Password => {
                let change = match &edit.password {
                    Some(secret) => {
                        input::password(field, secret)?;
                        Some(SecretChange::Set(secret.clone()))
                    }
                    None if kept => None,
                    None => {
                        return Err(FleetError::invalid(
                            field,
                            "the login method 'password' needs a password",
                        ));
                    }
                };
                Ok((Login { method, key: None, agent_key: None }, change))
            }
        }
    }

    async fn decide_action(
        &self,
        caller: &Caller,
        decided: &mut DecidedWay,
        edit: Option<&ActionLoginEdit>,
    ) -> Result<(), FleetError> {
        let kept = decided.way.keeps(SecretKind::ActionPassword);
        let Some(edit) = edit else {
            decided.way.action = None;
            if kept {
                decided.change(SecretKind::ActionPassword, SecretChange::Remove);
            }
            return Ok(());
        };
        let before = decided.way.action.clone();
        let username = match (&edit.username, &before) {
            (Some(name), _) => input::username(name)?,
            (None, Some(before)) => before.username.clone(),
            (None, None) => {
                return Err(FleetError::invalid(
                    "action_login",
                    "name the user who acts: username is missing",
                ));
            }
        };
        let before = before.map(|action| action.login).unwrap_or_default();
        let (login, change) =
            self.decide_login(caller, &before, &edit.login, kept, "action_login.password").await?;
        if let Some(change) = change {
            decided.change(SecretKind::ActionPassword, change);
        }
        decided.way.action = Some(ActionLogin { username, login });
        Ok(())
    }

    /// The public line of a key that the agent holds now.
    ///
    /// # Errors
    /// [`FleetError::Invalid`]: no agent, or it does not hold this key.
    pub(super) async fn agent_key(
        &self,
        organization: OrganizationId,
        reference: &str,
    ) -> Result<String, FleetError> {
        let refused = |message: String| FleetError::invalid("agent_key", message);
        if organization != AGENTS_ORGANIZATION {
            return Err(refused(NOT_THEIR_AGENT.to_owned()));
        }
        let Some(socket) = &self.inner.ssh_agent else { return Err(refused(NO_AGENT.to_owned())) };
        let wanted = reference.trim();
        let material: Vec<&str> = wanted.split_whitespace().take(2).collect();
        let held = agent_keys(socket).await.map_err(refused)?;
        let found = held.iter().find(|key| {
            key.fingerprint == wanted || key.line.split_whitespace().eq(material.iter().copied())
        });
        found.map(|key| key.line.clone()).ok_or_else(|| {
            refused(format!(
                "the ssh-agent at {} does not hold this key; it holds {}",
                socket.display(),
                match held.as_slice() {
                    [] => "none (ssh-add adds one)".to_owned(),
                    keys => keys
                        .iter()
                        .take(10)
                        .map(|key| key.fingerprint.as_str())
                        .collect::<Vec<_>>()
                        .join(", "),
                }
            ))
        })
    }

    /// The enrolled server that a jump host's name or id means; a way that led back to `server` is refused.
    fn jump_of(
        &self,
        caller: &Caller,
        server: Option<ServerId>,
        reference: &str,
    ) -> Result<ServerId, FleetError> {
        let refused = |message: String| FleetError::invalid("jump_host", message);
        let entry = self.find(caller, reference.trim()).map_err(|_| {
            let name = crate::model::shown(reference, 80);
            refused(format!("there is no server '{name}' to jump over; enrol the jump host first"))
        })?;
        let first = entry.id;
        let (mut at, mut hops) = (entry, 1);
        loop {
            let (name, transport, next) = {
                let live = at.live();
                (live.server.name.clone(), live.server.transport, live.way.jump)
            };
            if Some(at.id) == server {
                return Err(refused(format!("the way would lead through {name} to {name} itself")));
            }
            if transport != Transport::Ssh {
                return Err(refused(format!("{name} is not reached over SSH, so nothing can go through it")));
            }
            let Some(next) = next.and_then(|id| self.inner.registry.get(id)) else { return Ok(first) };
            hops += 1;
            if hops > MAX_HOPS {
                return Err(refused(format!("more than {MAX_HOPS} jump hosts in a row are not supported")));
            }
            at = next;
        }
    }

    /// Seals what is to be kept of a decided way.
    pub(super) fn seal_secrets(
        &self,
        server: ServerId,
        changes: &[(SecretKind, SecretChange)],
    ) -> Result<SealedSecrets, FleetError> {
        changes
            .iter()
            .map(|(kind, change)| {
                let sealed = match change {
                    SecretChange::Set(secret) => {
                        Some(self.inner.vault.seal(&logins::secret_row(server, *kind), secret)?)
                    }
                    SecretChange::Remove => None,
                };
                Ok((*kind, sealed))
            })
            .collect()
    }

    /// A kept secret of a server. None: there is none.
    pub(super) async fn kept_secret(
        &self,
        server: ServerId,
        kind: SecretKind,
    ) -> Result<Option<Secret<String>>, FleetError> {
        let sealed = self.inner.store.read(move |c| logins::secret(c, server, kind)).await?;
        let row = logins::secret_row(server, kind);
        Ok(sealed.map(|sealed| self.inner.vault.open_sealed(&row, &sealed)).transpose()?)
    }

    /// The server as SSH sees it. None: it is not reached over SSH.
    pub(super) async fn target_of(
        &self,
        entry: &Entry,
        purpose: Purpose,
    ) -> Result<Option<Target>, FleetError> {
        self.target_sharing(entry, purpose, &mut Common::default()).await
    }

    /// As [`Self::target_of`], with what is known from other servers already.
    pub(super) async fn target_sharing(
        &self,
        entry: &Entry,
        purpose: Purpose,
        common: &mut Common,
    ) -> Result<Option<Target>, FleetError> {
        let (server, way, pinned) = {
            let live = entry.live();
            (Arc::clone(&live.server), Arc::clone(&live.way), live.host_key.clone())
        };
        let Some(host) = server.ssh_host().map(ToOwned::to_owned) else { return Ok(None) };
        let main = || server.username.clone().unwrap_or_else(|| "root".to_owned());
        let (user, login, kind) = match &way.action {
            Some(action) if purpose == Purpose::Actions => {
                (action.username.clone(), &action.login, SecretKind::ActionPassword)
            }
            _ => (main(), &way.login, SecretKind::Password),
        };
        let identity = match login.method {
            LoginMethod::Key => common.identity(self, server.organization, login.key).await?,
            LoginMethod::Password => {
                let password = self.kept_secret(entry.id, kind).await?;
                self.identity_of(server.organization, login, password).await?
            }
            LoginMethod::Agent => self.identity_of(server.organization, login, None).await?,
        };
        let proxy_password = match &way.proxy {
            Some(_) => self.kept_secret(entry.id, SecretKind::ProxyPassword).await?,
            None => None,
        };
        let trust = common.marked(self, server.organization).await?.trust_at(&host, server.port).await?;
        let place = Place { host, port: server.port, user, trust };
        self.target_at(place, identity, pinned, &way, proxy_password).map(Some)
    }

    /// What a login offers.
    pub(super) async fn identity_of(
        &self,
        organization: OrganizationId,
        login: &Login,
        password: Option<Secret<String>>,
    ) -> Result<Identity, FleetError> {
        match login.method {
            LoginMethod::Key => self.identity(organization, login.key).await,
            LoginMethod::Agent if organization != AGENTS_ORGANIZATION => {
                Err(FleetError::Unavailable(NOT_THEIR_AGENT.to_owned()))
            }
            LoginMethod::Agent => match (&self.inner.ssh_agent, &login.agent_key) {
                (Some(socket), Some(line)) => {
                    Ok(Identity::Agent { socket: socket.clone(), public_key: line.clone() })
                }
                _ => Err(FleetError::Unavailable(NO_AGENT.to_owned())),
            },
            LoginMethod::Password => password.map(Identity::Password).ok_or_else(|| {
                FleetError::Unavailable("no password is kept for this login; give it again".to_owned())
            }),
        }
    }

    /// Puts together where, as whom, through what, and what is trusted there.
    pub(super) fn target_at(
        &self,
        place: Place,
        identity: Identity,
        pinned: Option<HostKey>,
        way: &WayIn,
        proxy_password: Option<Secret<String>>,
    ) -> Result<Target, FleetError> {
        let Trust { authorities, revoked } = place.trust;
        let route = match (&way.jump, &way.proxy) {
            (Some(id), _) => Route::Jump(self.through(*id)?),
            (None, Some(address)) => Route::Proxy(proxy(address, proxy_password)),
            (None, None) => Route::Direct,
        };
        Ok(Target {
            pinned,
            authorities,
            revoked,
            route,
            connect_timeout: Duration::from_millis(u64::from(way.connect_timeout_ms)),
            ..Target::new(place.host, place.port, place.user, identity)
        })
    }

    fn through(&self, jump: ServerId) -> Result<Arc<dyn JumpHost>, FleetError> {
        let entry = self.inner.registry.get(jump).ok_or_else(|| {
            FleetError::Unavailable("its jump host is not enrolled any longer; choose another way".to_owned())
        })?;
        Ok(Arc::new(Through { name: entry.server().name.to_string(), entry: Arc::downgrade(&entry) }))
    }
}

/// The agent belongs to whoever started Roundsman, so to the organization of the installation and to no other.
const AGENTS_ORGANIZATION: OrganizationId = OrganizationId::DEFAULT;
const NOT_THEIR_AGENT: &str =
    "the ssh-agent belongs to the first organization of this installation; choose a key that Roundsman keeps";
const NO_AGENT: &str =
    "Roundsman was started without an ssh-agent; set ssh_agent in the configuration file, or SSH_AUTH_SOCK";

fn decide_proxy(decided: &mut DecidedWay, text: Option<&str>) -> Result<(), FleetError> {
    let kept = decided.way.keeps(SecretKind::ProxyPassword);
    let Some(text) = text else {
        decided.way.proxy = None;
        if kept {
            decided.change(SecretKind::ProxyPassword, SecretChange::Remove);
        }
        return Ok(());
    };
    let (address, password) = ProxyAddress::parse(text)?;
    // The address as it is shown has no password; sent back like that, it means the one that is kept.
    let same = decided.way.proxy.as_ref() == Some(&address);
    match password {
        Some(secret) => decided.change(SecretKind::ProxyPassword, SecretChange::Set(secret)),
        None if kept && !same => decided.change(SecretKind::ProxyPassword, SecretChange::Remove),
        None => {}
    }
    decided.way.proxy = Some(address);
    Ok(())
}

/// The proxy at an address, with the password that is kept for it.
#[must_use]
pub fn proxy(address: &ProxyAddress, password: Option<Secret<String>>) -> Proxy {
    Proxy {
        kind: match address.scheme {
            ProxyScheme::Socks5 => ProxyKind::Socks5,
            ProxyScheme::Http => ProxyKind::Http,
        },
        host: address.host.clone(),
        port: address.port,
        login: address
            .user
            .clone()
            .map(|user| (user, password.unwrap_or_else(|| Secret::new(String::new())))),
    }
}

/// A server as the jump host of others: always the session that it has at the moment.
struct Through {
    entry: Weak<Entry>,
    /// For the time when the entry is gone.
    name: String,
}

impl fmt::Debug for Through {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Through").field(&self.name).finish()
    }
}

impl Through {
    fn unavailable(&self, entry: Option<&Entry>, cause: &str) -> SshError {
        let server = entry.map(Entry::server);
        let of = |text: Option<String>, other: &str| text.unwrap_or_else(|| other.to_owned());
        let at = Endpoint {
            user: of(server.as_ref().and_then(|server| server.username.clone()), "root"),
            host: of(server.as_ref().and_then(|server| server.hostname.clone()), &self.name),
            port: server.map_or(Port::SSH, |server| server.port),
        };
        SshError::Closed { at: Box::new(at), cause: cause.to_owned() }
    }
}

impl JumpHost for Through {
    fn name(&self) -> String {
        self.entry.upgrade().map_or_else(|| self.name.clone(), |entry| entry.server().name.to_string())
    }

    fn connection(&self) -> Pin<Box<dyn Future<Output = Result<Connection, SshError>> + Send + '_>> {
        Box::pin(async move {
            let Some(entry) = self.entry.upgrade() else {
                return Err(self.unavailable(None, "it is not enrolled any longer"));
            };
            let mut sessions = entry.sessions();
            let present =
                async { sessions.wait_for(Option::is_some).await.ok().and_then(|found| found.clone()) };
            match tokio::time::timeout(JUMP_PATIENCE, present).await.ok().flatten() {
                Some(session) => session.connection().await,
                None => Err(self.unavailable(
                    Some(&entry),
                    "it is not being contacted (inactive, or its login cannot be used)",
                )),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(proxy: Option<&str>, kept: &[SecretKind]) -> DecidedWay {
        let proxy = proxy.map(|text| ProxyAddress::parse(text).unwrap().0);
        let way = WayIn { proxy, secrets: kept.to_vec(), ..WayIn::default() };
        DecidedWay { way, secrets: Vec::new() }
    }

    #[test]
    fn a_proxy_sent_back_as_it_is_shown_keeps_its_password_and_another_one_does_not() {
        let kept = [SecretKind::ProxyPassword];
        let mut same = decided(Some("socks5://me@proxy:1080"), &kept);
        decide_proxy(&mut same, Some("socks5://me@proxy:1080")).unwrap();
        assert!(same.way.keeps(SecretKind::ProxyPassword) && same.secrets.is_empty());
        let mut other = decided(Some("socks5://me@proxy:1080"), &kept);
        decide_proxy(&mut other, Some("socks5://me@elsewhere:1080")).unwrap();
        assert!(!other.way.keeps(SecretKind::ProxyPassword));
        assert!(matches!(other.secrets.as_slice(), [(SecretKind::ProxyPassword, SecretChange::Remove)]));
        let mut given = decided(None, &[]);
        decide_proxy(&mut given, Some("http://me:hunter2@proxy:8080")).unwrap();
        assert_eq!(given.way.proxy.as_ref().unwrap().to_string(), "http://me@proxy:8080");
        assert_eq!(given.given(SecretKind::ProxyPassword).unwrap().expose(), "hunter2");
        assert!(!format!("{given:?}").contains("hunter2"));
    }
}
