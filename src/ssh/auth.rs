//! Logging in with the one chosen identity.
//!
//! Runs only after the host key was found to be the pinned one. Never tries another identity.

use std::sync::Arc;

use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::{Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg};
use russh::{MethodKind, MethodSet};

use crate::model::{Layer, Secret};

use super::error::{Cause, SshError, path_text};
use super::handler::{Gatekeeper, Observed};
use super::keys;
use super::target::{Identity, Target};

/// A server that asks more often than this is not asking for a password.
const MAX_PROMPT_ROUNDS: usize = 4;

pub(super) async fn log_in(
    handle: &mut Handle<Gatekeeper>,
    observed: &Observed,
    target: &Target,
) -> Result<(), SshError> {
    let (result, offered) = match &target.identity {
        Identity::KeyFile { path, passphrase } => {
            let name = path_text(path);
            let text = keys::load_file(path).await?;
            let key = keys::decode_slowly(name.clone(), text, passphrase.clone()).await?;
            let offered = format!("{} from {name}", describe(&key));
            (with_key(handle, &target.user, key).await, offered)
        }
        Identity::Key(text) => {
            let key = keys::decode_slowly("that Roundsman keeps".to_owned(), text.clone(), None).await?;
            let offered = describe(&key);
            (with_key(handle, &target.user, key).await, offered)
        }
        Identity::Certificate { .. } | Identity::Agent { .. } => {
            let cause = "this form of login cannot be used yet".to_owned();
            return Err(SshError::KeyUnreadable { path: "of the server".to_owned(), cause });
        }
        Identity::Password(password) => {
            (with_password(handle, &target.user, password).await, "a password".to_owned())
        }
    };
    let at = Box::new(target.endpoint());
    let lost = |detail: String| {
        let cause = match observed.reason.get() {
            Some(said) => Cause::HungUp { said: said.clone() },
            None => Cause::Broken { detail },
        };
        SshError::Unreachable { at: at.clone(), layer: Layer::Authentication, cause }
    };
    match result {
        Ok(AuthResult::Success) => Ok(()),
        // A session that dies here looks like a refusal without any method left.
        Ok(AuthResult::Failure { .. }) if handle.is_closed() => Err(lost("the connection ended".to_owned())),
        Ok(AuthResult::Failure { remaining_methods, partial_success }) => {
            let offered = if partial_success { format!("{offered} alone") } else { offered };
            let accepts = remaining_methods.iter().map(String::from).collect();
            Err(SshError::AuthRefused { at: at.clone(), offered, accepts })
        }
        Err(error) => Err(lost(super::printable::line(error.to_string().as_bytes(), 200))),
    }
}

fn describe(key: &PrivateKey) -> String {
    format!("the {} key {}", key.algorithm().as_str(), key.fingerprint(HashAlg::Sha256))
}

async fn with_key(
    handle: &mut Handle<Gatekeeper>,
    user: &str,
    key: PrivateKey,
) -> Result<AuthResult, russh::Error> {
    let key = Arc::new(key);
    let rsa = matches!(key.algorithm(), Algorithm::Rsa { .. });
    if !rsa {
        return handle.authenticate_publickey(user, PrivateKeyWithHashAlg::new(key, None)).await;
    }
    match handle.best_supported_rsa_hash().await? {
        Some(hash) => handle.authenticate_publickey(user, PrivateKeyWithHashAlg::new(key, hash)).await,
        // The server does not say what it takes: OpenSSH before 7.2 knows SHA-1 only, most others SHA-2.
        None => {
            let sha2 = PrivateKeyWithHashAlg::new(Arc::clone(&key), Some(HashAlg::Sha512));
            match handle.authenticate_publickey(user, sha2).await? {
                AuthResult::Failure { partial_success: false, .. } if !handle.is_closed() => {
                    handle.authenticate_publickey(user, PrivateKeyWithHashAlg::new(key, None)).await
                }
                other => Ok(other),
            }
        }
    }
}

/// `password`, or `keyboard-interactive` where the server has only that. Asking first which of them it takes keeps the
/// count of failed logins at one, however often the password is wrong.
async fn with_password(
    handle: &mut Handle<Gatekeeper>,
    user: &str,
    password: &Secret<String>,
) -> Result<AuthResult, russh::Error> {
    let methods = match handle.authenticate_none(user).await? {
        AuthResult::Success => return Ok(AuthResult::Success),
        AuthResult::Failure { remaining_methods, .. } => remaining_methods,
    };
    if methods.contains(&MethodKind::Password) {
        handle.authenticate_password(user, password.expose().as_str()).await
    } else if methods.contains(&MethodKind::KeyboardInteractive) {
        answer_prompts(handle, user, password).await
    } else {
        Ok(AuthResult::Failure { remaining_methods: methods, partial_success: false })
    }
}

/// The password answers one hidden prompt. Any other question gets no secret: it may ask for something else.
async fn answer_prompts(
    handle: &mut Handle<Gatekeeper>,
    user: &str,
    password: &Secret<String>,
) -> Result<AuthResult, russh::Error> {
    let mut response = handle.authenticate_keyboard_interactive_start(user, None).await?;
    let mut given = false;
    for _ in 0..MAX_PROMPT_ROUNDS {
        let prompts = match response {
            KeyboardInteractiveAuthResponse::Success => return Ok(AuthResult::Success),
            KeyboardInteractiveAuthResponse::Failure { remaining_methods, partial_success } => {
                return Ok(AuthResult::Failure { remaining_methods, partial_success });
            }
            KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => prompts,
        };
        let asks_for_password = prompts.len() == 1 && prompts.iter().all(|prompt| !prompt.echo);
        let answers = if asks_for_password && !given {
            given = true;
            vec![password.expose().clone()]
        } else if prompts.is_empty() {
            Vec::new()
        } else {
            break;
        };
        response = handle.authenticate_keyboard_interactive_respond(answers).await?;
    }
    let asked: &[MethodKind] = &[MethodKind::KeyboardInteractive];
    Ok(AuthResult::Failure { remaining_methods: MethodSet::from(asked), partial_success: false })
}
