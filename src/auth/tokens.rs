//! Access tokens of programs: made, listed, revoked, recognised.

use std::net::IpAddr;

use super::{Auth, AuthError, TOUCH_EVERY, hash_of, new_secret, not_found, require, same};
use crate::model::{Actor, Caller, Role, Secret, Timestamp, TokenId};
use crate::store::audit::{self, Entry};
use crate::store::users::{self, Token};

/// What an access token starts with, so that secret scanners and people recognise one.
const TOKEN_PREFIX: &str = "rdm_";

impl Auth {
    /// Makes a token of at most the caller's role. The text is shown once and not kept.
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
        require(caller, Role::Admin)?;
        let name = name.trim();
        if name.is_empty() || name.chars().count() > 64 || name.chars().any(char::is_control) {
            return Err(AuthError::Invalid("a token needs a name of 1 to 64 characters".to_owned()));
        }
        let now = self.clock.now();
        if expires_at.is_some_and(|at| at <= now) {
            return Err(AuthError::Invalid("the token would have expired already".to_owned()));
        }
        let (secret, secret_hash) = new_secret();
        let token = Token {
            id: TokenId::new(self.clock.new_uuid()),
            organization: caller.organization,
            name: name.to_owned(),
            role,
            secret_hash,
            created_by: caller.actor.to_string(),
            created_at: now,
            expires_at,
            last_used_at: None,
            revoked_at: None,
        };
        let text = Secret::new(format!("{TOKEN_PREFIX}{}_{}", token.id.uuid().simple(), secret.expose()));
        let entry = Entry::by(caller, "token.create", name).detail(format!("role {role}"));
        let stored = token.clone();
        self.store
            .write(move |tx| {
                users::insert_token(tx, &stored)?;
                audit::append(tx, now, &entry)
            })
            .await
            .map_err(AuthError::Store)?;
        Ok((token, text))
    }

    /// # Errors
    /// [`AuthError::Forbidden`].
    pub async fn tokens(&self, caller: &Caller) -> Result<Vec<Token>, AuthError> {
        require(caller, Role::Admin)?;
        let organization = caller.organization;
        Ok(self.store.read(move |c| users::tokens(c, organization)).await?)
    }

    /// # Errors
    /// [`AuthError::Forbidden`], or [`AuthError::NotFound`] when it is revoked already.
    pub async fn revoke_token(&self, caller: &Caller, id: TokenId) -> Result<(), AuthError> {
        require(caller, Role::Admin)?;
        let (organization, now) = (caller.organization, self.clock.now());
        let entry = Entry::by(caller, "token.revoke", &id.to_string());
        self.store
            .write(move |tx| {
                users::revoke_token(tx, organization, id, now)?;
                audit::append(tx, now, &entry)
            })
            .await
            .map_err(|error| not_found(error, "token"))
    }

    /// Whose token this is. The role is the token's own.
    ///
    /// # Errors
    /// [`AuthError::Unauthenticated`] for an unknown, expired or revoked one.
    pub async fn bearer(&self, text: &str, address: Option<IpAddr>) -> Result<Caller, AuthError> {
        let (id, secret) = text
            .strip_prefix(TOKEN_PREFIX)
            .and_then(|rest| rest.split_once('_'))
            .ok_or(AuthError::Unauthenticated)?;
        let id: TokenId = id.parse().map_err(|_| AuthError::Unauthenticated)?;
        let token = self.store.read(move |c| users::token_by_id(c, id)).await?;
        let token = token.ok_or(AuthError::Unauthenticated)?;
        let now = self.clock.now();
        let over = token.revoked_at.is_some() || token.expires_at.is_some_and(|at| at <= now);
        if over || !same(&hash_of(secret), &token.secret_hash) {
            return Err(AuthError::Unauthenticated);
        }
        if token.last_used_at.is_none_or(|at| now.since(at) > TOUCH_EVERY) {
            self.store.write(move |tx| users::touch_token(tx, id, now)).await.map_err(AuthError::Store)?;
        }
        Ok(Caller {
            organization: token.organization,
            actor: Actor::Token { id, name: token.name },
            role: token.role,
            from: address,
        })
    }
}
