//! Who may come in, and as whom: first set-up, passwords, browser sessions, tokens.
//!
//! Every door ends in a [`Caller`]. Secrets are stored as hashes only and leave this module once, to their owner.

mod limits;
mod password;
mod throttle;
mod tokens;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::clock::Clock;
use crate::model::{Actor, Caller, OrganizationId, Role, Secret, SessionId, Timestamp, UserId};
use crate::store::audit::{self, Entry, Recorded};
use crate::store::users::{self, Session, User};
use crate::store::{Store, StoreError};
use limits::Limits;
pub use password::PASSWORD_MIN_CHARS;
use password::Passwords;
use throttle::{Door, Throttle};
pub use tokens::{Bearer, LONGEST_GRACE, NewToken, renewed, server_token};

/// How long the one-time set-up address is valid.
pub const SETUP_VALID: Duration = Duration::from_secs(3600);
/// A session that was not used for so long is over.
pub const SESSION_IDLE: Duration = Duration::from_secs(14 * 24 * 3600);
/// The time of last use is written at most this often.
const TOUCH_EVERY: Duration = Duration::from_secs(60);
const SECRET_BYTES: usize = 32;
/// Longest User-Agent that is kept, in characters.
const USER_AGENT_CHARS: usize = 200;

/// Why somebody may not come in or do this.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("log in, or send a valid token as 'Authorization: Bearer …'")]
    Unauthenticated,
    #[error("the user name or the password is wrong")]
    WrongPassword,
    #[error("too many failed attempts; try again in {} s", retry_after.as_secs().max(1))]
    Throttled { retry_after: Duration },
    #[error("this needs the role {needed}; you are {role}", role = .has)]
    Forbidden { needed: Role, has: Role },
    /// A token that reports about servers was shown where a role is needed.
    #[error(
        "this needs the role {needed}; this token may register servers and report about them, nothing else"
    )]
    OutOfScope { needed: Role },
    #[error(
        "this token may not report for that server; use the server's own token, or the one that enrolled it"
    )]
    NotItsServer,
    #[error("this token may not be used from this address; its administrator named the networks that may")]
    NotFromHere,
    #[error("too many requests; try again in {} s", retry_after.as_secs().max(1))]
    TooOften { retry_after: Duration },
    #[error(
        "this set-up address was used already or has been replaced; log in, or restart Roundsman for a new one"
    )]
    SetupGone,
    #[error(
        "this set-up address is older than an hour; restart Roundsman and use the address that it prints"
    )]
    SetupExpired,
    #[error("{0}")]
    Invalid(String),
    #[error("there is no such {0}")]
    NotFound(&'static str),
    #[error("that name is taken")]
    Taken,
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for AuthError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict => Self::Taken,
            other => Self::Store(other),
        }
    }
}

/// Where a request came from, for sessions, throttling and the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub address: Option<IpAddr>,
    pub user_agent: String,
}

/// A new browser session: the cookie value goes to the browser and nowhere else.
#[derive(Debug)]
pub struct LoggedIn {
    pub caller: Caller,
    pub cookie: Secret<String>,
}

/// A browser session that was recognised.
#[derive(Debug, Clone)]
pub struct Recognised {
    pub caller: Caller,
    /// Must come back with every change that the browser asks for.
    pub csrf_token: String,
}

/// Authentication; clones share the throttle.
#[derive(Clone)]
pub struct Auth {
    store: Store,
    clock: Arc<dyn Clock>,
    passwords: Arc<Passwords>,
    throttle: Arc<Mutex<Throttle>>,
    limits: Arc<Mutex<Limits>>,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Auth")
    }
}

/// Requires a role of a caller.
///
/// # Errors
/// [`AuthError::Forbidden`] names both roles.
pub const fn require(caller: &Caller, needed: Role) -> Result<(), AuthError> {
    if caller.role as u8 >= needed as u8 {
        Ok(())
    } else {
        Err(AuthError::Forbidden { needed, has: caller.role })
    }
}

impl Auth {
    #[must_use]
    pub fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            clock,
            passwords: Arc::new(Passwords::new()),
            throttle: Arc::new(Mutex::new(Throttle::default())),
            limits: Arc::new(Mutex::new(Limits::default())),
        }
    }

    /// True while there is no user at all.
    ///
    /// # Errors
    /// [`AuthError::Store`].
    pub async fn needs_setup(&self) -> Result<bool, AuthError> {
        Ok(self.store.read(users::count_users).await? == 0)
    }

    /// Makes a new one-time set-up secret, which replaces any older one. None: there is a user already.
    ///
    /// # Errors
    /// [`AuthError::Store`].
    pub async fn begin_setup(&self) -> Result<Option<Secret<String>>, AuthError> {
        let (secret, hash) = new_secret();
        let expires = self.clock.now() + SETUP_VALID;
        let wanted = self
            .store
            .write(move |tx| {
                if users::count_users(tx)? > 0 {
                    users::clear_setup(tx)?;
                    return Ok::<_, StoreError>(false);
                }
                users::set_setup(tx, &hash, expires)?;
                Ok(true)
            })
            .await?;
        Ok(wanted.then_some(secret))
    }

    /// Whether this set-up secret may still be used.
    ///
    /// # Errors
    /// [`AuthError::SetupGone`] or [`AuthError::SetupExpired`].
    pub async fn check_setup(&self, secret: &str) -> Result<(), AuthError> {
        let now = self.clock.now();
        let stored = self.store.read(users::setup).await?;
        judge_setup(stored, secret, now)
    }

    /// Makes the first administrator and logs the browser in; the secret is gone afterwards.
    ///
    /// # Errors
    /// [`AuthError::SetupGone`], [`AuthError::SetupExpired`], or [`AuthError::Invalid`] for a poor name or password.
    pub async fn complete_setup(
        &self,
        secret: &str,
        name: &str,
        password: Secret<String>,
        origin: &Origin,
    ) -> Result<LoggedIn, AuthError> {
        self.check_setup(secret).await?;
        let user = self.new_user(name, password, Role::Admin).await?;
        let now = self.clock.now();
        let secret = secret.to_owned();
        let stored = user.clone();
        let entry = entry_of(&user, origin, "setup.complete");
        self.store
            .write(move |tx| {
                judge_setup(users::setup(tx)?, &secret, now)?;
                users::clear_setup(tx)?;
                users::insert_user(tx, &stored)?;
                audit::append(tx, now, &entry)?;
                Ok::<_, AuthError>(())
            })
            .await?;
        self.open_session(&user, origin).await
    }

    /// Makes the first administrator from the configuration. False: there is a user already.
    ///
    /// # Errors
    /// [`AuthError::Invalid`] for a poor password.
    pub async fn create_first_admin(&self, password: Secret<String>) -> Result<bool, AuthError> {
        if !self.needs_setup().await? {
            return Ok(false);
        }
        let user = self.new_user("admin", password, Role::Admin).await?;
        let now = self.clock.now();
        self.store
            .write(move |tx| {
                users::clear_setup(tx)?;
                users::insert_user(tx, &user)?;
                let entry = Entry::by(&Caller::roundsman(), "user.create", &user.name);
                audit::append(tx, now, &entry.detail("password from the configuration"))?;
                Ok::<_, AuthError>(())
            })
            .await?;
        Ok(true)
    }

    async fn new_user(&self, name: &str, password: Secret<String>, role: Role) -> Result<User, AuthError> {
        let name = valid_user_name(name)?;
        password::check_strength(&password, &name)?;
        let password_hash = self.passwords.hash(password).await?;
        let now = self.clock.now();
        Ok(User {
            id: UserId::new(self.clock.new_uuid()),
            organization: OrganizationId::DEFAULT,
            name,
            email: None,
            role,
            password_hash,
            created_at: now,
            updated_at: now,
        })
    }

    /// # Errors
    /// [`AuthError::WrongPassword`], the same for an unknown name; [`AuthError::Throttled`] after failures in a row.
    pub async fn login(
        &self,
        name: &str,
        password: Secret<String>,
        origin: &Origin,
    ) -> Result<LoggedIn, AuthError> {
        let now = self.clock.now();
        let door = (origin.address, name.chars().take(64).collect::<String>());
        self.enter(&door, now)?;
        let wanted = name.to_owned();
        let user = self.store.read(move |c| users::user_by_name(c, &wanted)).await?;
        let hash = user.as_ref().map(|user| user.password_hash.clone());
        let right = self.passwords.verify(password, hash).await?;
        match user {
            Some(user) if right => {
                self.throttle.lock().unwrap_or_else(PoisonError::into_inner).succeeded(&door);
                let entry = entry_of(&user, origin, "login");
                self.store.write(move |tx| audit::append(tx, now, &entry)).await.map_err(AuthError::Store)?;
                self.open_session(&user, origin).await
            }
            _ => {
                let mut entry = Entry::by(&Caller::roundsman(), "login", &door.1);
                "nobody".clone_into(&mut entry.actor);
                entry.address = origin.address.map(|address| address.to_string());
                let entry = entry.refused("wrong name or password");
                self.store.write(move |tx| audit::append(tx, now, &entry)).await.map_err(AuthError::Store)?;
                Err(AuthError::WrongPassword)
            }
        }
    }

    /// Counts an attempt at a door, or says how long it is shut.
    fn enter(&self, door: &Door, now: Timestamp) -> Result<(), AuthError> {
        let entered = self.throttle.lock().unwrap_or_else(PoisonError::into_inner).enter(door, now);
        entered.map_err(|retry_after| AuthError::Throttled { retry_after })
    }

    async fn open_session(&self, user: &User, origin: &Origin) -> Result<LoggedIn, AuthError> {
        let (secret, secret_hash) = new_secret();
        let now = self.clock.now();
        let session = Session {
            id: SessionId::new(self.clock.new_uuid()),
            organization: user.organization,
            user: user.id,
            secret_hash,
            address: origin.address.map(|address| address.to_string()),
            user_agent: origin.user_agent.chars().take(USER_AGENT_CHARS).collect(),
            created_at: now,
            last_used_at: now,
        };
        let cookie = Secret::new(format!("{}.{}", session.id, secret.expose()));
        let caller = caller_of(user, session.id, origin.address);
        self.store
            .write(move |tx| {
                users::remove_old_sessions(tx, now - SESSION_IDLE)?;
                users::insert_session(tx, &session)
            })
            .await
            .map_err(AuthError::Store)?;
        Ok(LoggedIn { caller, cookie })
    }

    /// Whose cookie this is. None: nobody's, or the session is over.
    ///
    /// # Errors
    /// [`AuthError::Store`].
    pub async fn session(
        &self,
        cookie: &str,
        address: Option<IpAddr>,
    ) -> Result<Option<Recognised>, AuthError> {
        let Some((id, secret)) = cookie.split_once('.') else { return Ok(None) };
        let Ok(id) = id.parse::<SessionId>() else { return Ok(None) };
        let found = self
            .store
            .read(move |c| {
                let Some(session) = users::session_by_id(c, id)? else { return Ok::<_, StoreError>(None) };
                let user = users::user_by_id(c, session.user)?;
                Ok(user.map(|user| (session, user)))
            })
            .await?;
        let Some((session, user)) = found else { return Ok(None) };
        let now = self.clock.now();
        if !same(&hash_of(secret), &session.secret_hash) || now.since(session.last_used_at) > SESSION_IDLE {
            return Ok(None);
        }
        if now.since(session.last_used_at) > TOUCH_EVERY {
            self.store.write(move |tx| users::touch_session(tx, id, now)).await.map_err(AuthError::Store)?;
        }
        Ok(Some(Recognised { caller: caller_of(&user, id, address), csrf_token: csrf_token(secret) }))
    }

    /// Ends the session behind the caller.
    ///
    /// # Errors
    /// [`AuthError::Store`].
    pub async fn logout(&self, caller: &Caller) -> Result<(), AuthError> {
        if let Actor::User { id, session, .. } = caller.actor {
            match self.store.write(move |tx| users::remove_session(tx, id, session)).await {
                Ok(()) | Err(StoreError::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The sessions of the person behind the caller; empty for a program.
    ///
    /// # Errors
    /// [`AuthError::Store`].
    pub async fn sessions(&self, caller: &Caller) -> Result<Vec<Session>, AuthError> {
        let Actor::User { id, .. } = caller.actor else { return Ok(Vec::new()) };
        Ok(self.store.read(move |c| users::sessions_of(c, id)).await?)
    }

    /// Ends one of the caller's own sessions.
    ///
    /// # Errors
    /// [`AuthError::NotFound`].
    pub async fn revoke_session(&self, caller: &Caller, session: SessionId) -> Result<(), AuthError> {
        let Actor::User { id, .. } = caller.actor else { return Err(AuthError::NotFound("session")) };
        let now = self.clock.now();
        let entry = Entry::by(caller, "session.revoke", &session.to_string());
        self.store
            .write(move |tx| {
                users::remove_session(tx, id, session)?;
                audit::append(tx, now, &entry)
            })
            .await
            .map_err(|error| not_found(error, "session"))
    }

    /// Changes the caller's own password; every other session of theirs ends.
    ///
    /// # Errors
    /// [`AuthError::WrongPassword`] for the old one, [`AuthError::Invalid`] for a poor new one.
    pub async fn change_password(
        &self,
        caller: &Caller,
        old: Secret<String>,
        new: Secret<String>,
    ) -> Result<(), AuthError> {
        let Actor::User { id, session, .. } = caller.actor else {
            return Err(AuthError::Invalid("a token has no password".to_owned()));
        };
        let user = self.store.read(move |c| users::user_by_id(c, id)).await?;
        let user = user.ok_or(AuthError::NotFound("user"))?;
        let door = (caller.from, format!("password of {}", user.name));
        self.enter(&door, self.clock.now())?;
        if !self.passwords.verify(old, Some(user.password_hash.clone())).await? {
            return Err(AuthError::WrongPassword);
        }
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner).succeeded(&door);
        self.set_password(caller, &user, new, Some(session), "user.change-password").await
    }

    /// Sets anybody's password, from the command line on the machine itself; all their sessions end.
    ///
    /// # Errors
    /// [`AuthError::Forbidden`], [`AuthError::NotFound`] or [`AuthError::Invalid`].
    pub async fn reset_password(
        &self,
        caller: &Caller,
        name: &str,
        new: Secret<String>,
    ) -> Result<(), AuthError> {
        require(caller, Role::Admin)?;
        let wanted = name.to_owned();
        let user = self.store.read(move |c| users::user_by_name(c, &wanted)).await?;
        let user = user
            .filter(|user| user.organization == caller.organization)
            .ok_or(AuthError::NotFound("user"))?;
        self.set_password(caller, &user, new, None, "user.reset-password").await
    }

    async fn set_password(
        &self,
        caller: &Caller,
        user: &User,
        new: Secret<String>,
        keep: Option<SessionId>,
        action: &str,
    ) -> Result<(), AuthError> {
        password::check_strength(&new, &user.name)?;
        let hash = self.passwords.hash(new).await?;
        let (id, now) = (user.id, self.clock.now());
        let entry = Entry::by(caller, action, &user.name);
        self.store
            .write(move |tx| {
                users::set_password(tx, id, &hash, keep, now)?;
                audit::append(tx, now, &entry)
            })
            .await
            .map_err(|error| not_found(error, "user"))
    }

    /// The newest audit entries of the caller's organization.
    ///
    /// # Errors
    /// [`AuthError::Forbidden`].
    pub async fn audit(&self, caller: &Caller, limit: u32, offset: u32) -> Result<Vec<Recorded>, AuthError> {
        require(caller, Role::Admin)?;
        let organization = caller.organization;
        Ok(self.store.read(move |c| audit::newest(c, organization, limit, offset)).await?)
    }
}

fn judge_setup(stored: Option<(Vec<u8>, Timestamp)>, secret: &str, now: Timestamp) -> Result<(), AuthError> {
    match stored {
        Some((hash, expires)) if same(&hash_of(secret), &hash) => {
            if now >= expires {
                Err(AuthError::SetupExpired)
            } else {
                Ok(())
            }
        }
        _ => Err(AuthError::SetupGone),
    }
}

fn valid_user_name(text: &str) -> Result<String, AuthError> {
    let name = text.trim();
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '@' | '+');
    if (1..=64).contains(&name.chars().count()) && name.chars().all(allowed) {
        Ok(name.to_owned())
    } else {
        Err(AuthError::Invalid("a user name has 1 to 64 letters, digits or . _ - @ +".to_owned()))
    }
}

fn caller_of(user: &User, session: SessionId, address: Option<IpAddr>) -> Caller {
    Caller {
        organization: user.organization,
        actor: Actor::User { id: user.id, name: user.name.clone(), session },
        role: user.role,
        from: address,
    }
}

fn entry_of(user: &User, origin: &Origin, action: &str) -> Entry {
    Entry {
        organization: user.organization,
        actor: user.name.clone(),
        address: origin.address.map(|address| address.to_string()),
        action: action.to_owned(),
        subject: user.name.clone(),
        result: "ok".to_owned(),
        detail: String::new(),
    }
}

fn not_found(error: StoreError, what: &'static str) -> AuthError {
    match error {
        StoreError::NotFound => AuthError::NotFound(what),
        other => other.into(),
    }
}

/// A new random secret and its hash.
fn new_secret() -> (Secret<String>, Vec<u8>) {
    let mut bytes = zeroize::Zeroizing::new([0_u8; SECRET_BYTES]);
    rand::rng().fill_bytes(bytes.as_mut_slice());
    let text = URL_SAFE_NO_PAD.encode(bytes.as_slice());
    let hash = hash_of(&text);
    (Secret::new(text), hash)
}

fn hash_of(secret: &str) -> Vec<u8> {
    Sha256::digest(secret.as_bytes()).to_vec()
}

fn csrf_token(secret: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(format!("csrf:{secret}").as_bytes()))
}

fn same(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

#[cfg(test)]
mod tests;
