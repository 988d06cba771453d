//! Access tokens of programs: made, listed, rotated, revoked, recognised.

use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::Duration;

use super::{Auth, AuthError, TOUCH_EVERY, hash_of, new_secret, not_found, require, same};
use crate::clock::Clock;
use crate::model::{
    Actor, Caller, OrganizationId, Reporter, Rights, Role, Scope, Secret, ServerId, Timestamp, TokenId, shown,
};
use crate::store::audit::{self, Entry};
use crate::store::tokens::{self, Network, Token};

/// What an access token starts with, so that secret scanners and people recognise one.
const TOKEN_PREFIX: &str = "rdm_";
/// Networks of one token.
const NETWORKS: usize = 32;
/// Requests a minute that may be set.
const REQUESTS_A_MINUTE: std::ops::RangeInclusive<u32> = 1..=1_000_000;
/// Of the token of one server: two heartbeats a second, and more than the agent ever sends after an outage.
const SERVER_REQUESTS_A_MINUTE: u32 = 600;
/// How long the secret before a rotation may be accepted: a month is where nobody remembers the rotation.
pub const LONGEST_GRACE: Duration = Duration::from_secs(31 * 24 * 3600);

/// A token to be made.
#[derive(Debug, Clone)]
pub struct NewToken {
    pub name: String,
    pub rights: Rights,
    pub expires_at: Option<Timestamp>,
    /// Addresses and networks (`10.0.0.0/8`); empty: from anywhere.
    pub allowed_from: Vec<String>,
    /// None: no limit.
    pub requests_per_minute: Option<u32>,
}

impl NewToken {
    /// Without an end, from anywhere.
    #[must_use]
    pub fn of(name: &str, rights: Rights) -> Self {
        Self {
            name: name.to_owned(),
            rights,
            expires_at: None,
            allowed_from: Vec::new(),
            requests_per_minute: None,
        }
    }
}

/// Whose token was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bearer {
    /// It carries a role.
    Caller(Caller),
    /// It may report about servers and nothing else.
    Reporter(Reporter),
}

/// The token of one server, ready to be stored, and its text, which is not kept.
#[must_use]
pub fn server_token(
    clock: &dyn Clock,
    organization: OrganizationId,
    server: ServerId,
    name: &str,
    created_by: String,
) -> (Token, Secret<String>) {
    let (secret, secret_hash) = new_secret();
    let token = Token {
        id: TokenId::new(clock.new_uuid()),
        organization,
        name: name.to_owned(),
        rights: Rights::Server(server),
        secret_hash,
        previous: None,
        created_by,
        created_at: clock.now(),
        expires_at: None,
        last_used_at: None,
        revoked_at: None,
        allowed_from: Vec::new(),
        requests_per_minute: Some(SERVER_REQUESTS_A_MINUTE),
    };
    let text = text_of(token.id, &secret);
    (token, text)
}

/// Another secret for a token: the text, which is not kept, and the hash of its secret part.
#[must_use]
pub fn renewed(id: TokenId) -> (Secret<String>, Vec<u8>) {
    let (secret, hash) = new_secret();
    (text_of(id, &secret), hash)
}

fn text_of(id: TokenId, secret: &Secret<String>) -> Secret<String> {
    Secret::new(format!("{TOKEN_PREFIX}{}_{}", id.uuid().simple(), secret.expose()))
}

impl Auth {
    /// Makes a token with a role that opens every door of that role from anywhere. The text is shown once and not kept.
    ///
    /// # Errors
    /// [`AuthError::Forbidden`] or [`AuthError::Invalid`].
    pub async fn create_token(
        &self,
        caller: &Caller,
        name: &str,
        role: Role,
        expires_at: Option<Timestamp>,
    ) -> Result<(Token, Secret<String>), AuthError> {
        self.make_token(caller, NewToken { expires_at, ..NewToken::of(name, Rights::Role(role)) }).await
    }

    /// Makes a token with a role or the scope `enrol`. The text is shown once and not kept.
    ///
    /// # Errors
    /// [`AuthError::Forbidden`] or [`AuthError::Invalid`].
    pub async fn make_token(
        &self,
        caller: &Caller,
        new: NewToken,
    ) -> Result<(Token, Secret<String>), AuthError> {
        require(caller, Role::Admin)?;
        let name = new.name.trim();
        if name.is_empty() || name.chars().count() > 64 || name.chars().any(char::is_control) {
            return Err(AuthError::Invalid("a token needs a name of 1 to 64 characters".to_owned()));
        }
        if matches!(new.rights, Rights::Server(_)) {
            return Err(AuthError::Invalid("a server gets its token when it is registered".to_owned()));
        }
        let now = self.clock.now();
        if new.expires_at.is_some_and(|at| at <= now) {
            return Err(AuthError::Invalid("the token would have expired already".to_owned()));
        }
        if new.requests_per_minute.is_some_and(|limit| !REQUESTS_A_MINUTE.contains(&limit)) {
            return Err(AuthError::Invalid("the limit must be 1 to 1,000,000 requests a minute".to_owned()));
        }
        let (secret, secret_hash) = new_secret();
        let token = Token {
            id: TokenId::new(self.clock.new_uuid()),
            organization: caller.organization,
            name: name.to_owned(),
            rights: new.rights,
            secret_hash,
            previous: None,
            created_by: caller.actor.to_string(),
            created_at: now,
            expires_at: new.expires_at,
            last_used_at: None,
            revoked_at: None,
            allowed_from: networks(&new.allowed_from)?,
            requests_per_minute: new.requests_per_minute,
        };
        let what = match token.rights {
            Rights::Role(role) => format!("role {role}"),
            other => format!("scope {}", other.name()),
        };
        let entry = Entry::by(caller, "token.create", name).detail(what);
        let stored = token.clone();
        self.store
            .write(move |tx| {
                tokens::insert(tx, &stored)?;
                audit::append(tx, now, &entry)
            })
            .await
            .map_err(AuthError::Store)?;
        let text = text_of(token.id, &secret);
        Ok((token, text))
    }

    /// Gives a token another secret, shown once; the present one is accepted for `grace` more.
    ///
    /// # Errors
    /// [`AuthError::Forbidden`], [`AuthError::Invalid`] for a grace over [`LONGEST_GRACE`], [`AuthError::NotFound`].
    pub async fn rotate_token(
        &self,
        caller: &Caller,
        id: TokenId,
        grace: Duration,
    ) -> Result<Secret<String>, AuthError> {
        require(caller, Role::Admin)?;
        if grace > LONGEST_GRACE {
            return Err(AuthError::Invalid("the old secret may be accepted for at most 31 days".to_owned()));
        }
        let (organization, now) = (caller.organization, self.clock.now());
        let (text, hash) = renewed(id);
        let entry = Entry::by(caller, "token.rotate", &id.to_string())
            .detail(format!("the old secret ends in {} s", grace.as_secs()));
        self.store
            .write(move |tx| {
                tokens::rotate(tx, organization, id, &hash, now + grace)?;
                audit::append(tx, now, &entry)
            })
            .await
            .map_err(|error| not_found(error, "token"))?;
        Ok(text)
    }

    /// # Errors
    /// [`AuthError::Forbidden`].
    pub async fn tokens(&self, caller: &Caller) -> Result<Vec<Token>, AuthError> {
        require(caller, Role::Admin)?;
        let organization = caller.organization;
        Ok(self.store.read(move |c| tokens::of_organization(c, organization)).await?)
    }

    /// # Errors
    /// [`AuthError::Forbidden`], or [`AuthError::NotFound`] when it is revoked already.
    pub async fn revoke_token(&self, caller: &Caller, id: TokenId) -> Result<(), AuthError> {
        require(caller, Role::Admin)?;
        let (organization, now) = (caller.organization, self.clock.now());
        let entry = Entry::by(caller, "token.revoke", &id.to_string());
        self.store
            .write(move |tx| {
                tokens::revoke(tx, organization, id, now)?;
                audit::append(tx, now, &entry)
            })
            .await
            .map_err(|error| not_found(error, "token"))
    }

    /// Whose token this is. The rights are the token's own.
    ///
    /// # Errors
    /// [`AuthError::Unauthenticated`] for an unknown, expired or revoked one; [`AuthError::NotFromHere`] for an address
    /// that it does not name; [`AuthError::TooOften`] over its limit.
    pub async fn bearer(&self, text: &str, address: Option<IpAddr>) -> Result<Bearer, AuthError> {
        let (id, secret) = text
            .strip_prefix(TOKEN_PREFIX)
            .and_then(|rest| rest.split_once('_'))
            .ok_or(AuthError::Unauthenticated)?;
        let id: TokenId = id.parse().map_err(|_| AuthError::Unauthenticated)?;
        let token = self.store.read(move |c| tokens::by_id(c, id)).await?;
        let token = token.ok_or(AuthError::Unauthenticated)?;
        let now = self.clock.now();
        let over = token.revoked_at.is_some() || token.expires_at.is_some_and(|at| at <= now);
        let hash = hash_of(secret);
        let before =
            token.previous.as_ref().is_some_and(|(previous, until)| now < *until && same(&hash, previous));
        if over || !(same(&hash, &token.secret_hash) || before) {
            return Err(AuthError::Unauthenticated);
        }
        let from_here = |address| token.allowed_from.iter().any(|network| network.contains(address));
        if !token.allowed_from.is_empty() && !address.is_some_and(from_here) {
            return Err(AuthError::NotFromHere);
        }
        if let Some(limit) = token.requests_per_minute {
            let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
            limits.enter(id, limit, now).map_err(|retry_after| AuthError::TooOften { retry_after })?;
        }
        if token.last_used_at.is_none_or(|at| now.since(at) > TOUCH_EVERY) {
            self.store.write(move |tx| tokens::touch(tx, id, now)).await.map_err(AuthError::Store)?;
        }
        Ok(bearer_of(token, address))
    }
}

fn bearer_of(token: Token, from: Option<IpAddr>) -> Bearer {
    let organization = token.organization;
    let actor = Actor::Token { id: token.id, name: token.name };
    let scope = match token.rights {
        Rights::Role(role) => return Bearer::Caller(Caller { organization, actor, role, from }),
        Rights::Enrol => Scope::Enrol(token.id),
        Rights::Server(server) => Scope::Server(server),
    };
    Bearer::Reporter(Reporter { organization, actor, scope, from })
}

fn networks(texts: &[String]) -> Result<Vec<Network>, AuthError> {
    if texts.len() > NETWORKS {
        return Err(AuthError::Invalid(format!("a token names at most {NETWORKS} networks")));
    }
    texts
        .iter()
        .map(|text| {
            Network::parse(text).ok_or_else(|| {
                let text = shown(text, 80);
                AuthError::Invalid(format!("'{text}' is no network; use for example 10.0.0.0/8 or 192.0.2.7"))
            })
        })
        .collect()
}
