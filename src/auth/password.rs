//! Passwords: argon2id, a few at a time, because each check takes tens of milliseconds and 19 MiB.

use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use tokio::sync::Semaphore;

use super::AuthError;
use crate::model::Secret;
use crate::store::StoreError;

/// Checks at the same time: a flood of logins must leave a core for the readings.
const AT_ONCE: usize = 1;
/// Checks that may wait; at some 15 ms each, more would keep an administrator waiting behind a flood.
const LINE: usize = 32;
/// Shortest password that is accepted, in characters.
pub const PASSWORD_MIN_CHARS: usize = 8;
const MAX_BYTES: usize = 256;

#[derive(Debug)]
pub(super) struct Passwords {
    permits: Arc<Semaphore>,
    /// Places in the line for a permit.
    line: Arc<Semaphore>,
}

impl Passwords {
    pub(super) fn new() -> Self {
        Self { permits: Arc::new(Semaphore::new(AT_ONCE)), line: Arc::new(Semaphore::new(LINE)) }
    }

    pub(super) async fn hash(&self, password: Secret<String>) -> Result<String, AuthError> {
        self.run(move || {
            Argon2::default()
                .hash_password(password.expose().as_bytes())
                .map(|hash| hash.to_string())
                .map_err(|error| AuthError::Invalid(format!("this password cannot be used: {error}")))
        })
        .await?
    }

    /// Compares with a stored hash. Without one (unknown user) it does the same work and says no, so
    /// that the time taken does not tell which names exist.
    pub(super) async fn verify(
        &self,
        password: Secret<String>,
        stored: Option<String>,
    ) -> Result<bool, AuthError> {
        if password.expose().len() > MAX_BYTES {
            return Ok(false);
        }
        self.run(move || match stored {
            Some(stored) => {
                let parsed = PasswordHash::new(&stored)
                    .map_err(|error| StoreError::Corrupt(format!("password hash: {error}")))?;
                Ok(Argon2::default().verify_password(password.expose().as_bytes(), &parsed).is_ok())
            }
            None => {
                let work = Argon2::default().hash_password(password.expose().as_bytes());
                Ok(work.is_ok() && false_for_unknown())
            }
        })
        .await?
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, AuthError> {
        let _place = self
            .line
            .clone()
            .try_acquire_owned()
            .map_err(|_| AuthError::Throttled { retry_after: Duration::from_secs(2) })?;
        let permit =
            self.permits.clone().acquire_owned().await.map_err(|_| AuthError::Store(StoreError::Closed))?;
        tokio::task::spawn_blocking(move || {
            let value = work();
            drop(permit);
            value
        })
        .await
        .map_err(|_| AuthError::Store(StoreError::Closed))
    }
}

/// An unknown user is never right; a function so that the hash above is not optimised away.
#[inline(never)]
const fn false_for_unknown() -> bool {
    false
}

/// # Errors
/// [`AuthError::Invalid`] says what a password must be.
pub(super) fn check_strength(password: &Secret<String>, name: &str) -> Result<(), AuthError> {
    let text = password.expose();
    if text.chars().count() < PASSWORD_MIN_CHARS {
        return Err(AuthError::Invalid(format!(
            "the password needs at least {PASSWORD_MIN_CHARS} characters"
        )));
    }
    if text.len() > MAX_BYTES {
        return Err(AuthError::Invalid(format!("the password may have at most {MAX_BYTES} bytes")));
    }
    if text.eq_ignore_ascii_case(name) {
        return Err(AuthError::Invalid("the password must not be the user name".to_owned()));
    }
    Ok(())
}
