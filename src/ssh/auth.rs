//! Logging in with the one chosen identity.
//!
//! Runs only after the host key was found to be trusted. Never tries another identity.

use std::sync::Arc;

use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::agent::AgentIdentity;
use russh::keys::signature::Signer as _;
use russh::keys::ssh_encoding::Encode as _;
use russh::keys::ssh_key::private::KeypairData;
use russh::keys::ssh_key::{self, Signature};
use russh::keys::{Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey};
use russh::{MethodKind, MethodSet};

use crate::clock::{Clock as _, SystemClock};
use crate::model::{Layer, Secret};

use super::certificate::{Certificate, CertificateProblem, Purpose};
use super::error::{Cause, SshError, path_text};
use super::handler::{Gatekeeper, Observed};
use super::target::{Identity, Target};
use super::{agent, keys};

/// A server that asks more often than this is not asking for a password.
const MAX_PROMPT_ROUNDS: usize = 4;

/// Why there was no answer from the server to what was offered.
pub(super) enum Failed {
    /// The identity is the trouble.
    Here(SshError),
    /// The connection is.
    Lost(russh::Error),
}

impl From<SshError> for Failed {
    fn from(error: SshError) -> Self {
        Self::Here(error)
    }
}

impl From<russh::Error> for Failed {
    fn from(error: russh::Error) -> Self {
        Self::Lost(error)
    }
}

pub(super) async fn log_in(
    handle: &mut Handle<Gatekeeper>,
    observed: &Observed,
    target: &Target,
) -> Result<(), SshError> {
    let at = Box::new(target.endpoint());
    let lost = |detail: String| {
        let cause = match observed.reason.get() {
            Some(said) => Cause::HungUp { said: said.clone() },
            None => Cause::Broken { detail },
        };
        SshError::Unreachable { at: at.clone(), layer: Layer::Authentication, cause }
    };
    let broken = |error: &russh::Error| lost(super::printable::line(error.to_string().as_bytes(), 200));
    let (result, offered) = match offer(handle, target).await {
        Ok(answer) => answer,
        Err(Failed::Here(error)) => return Err(error),
        Err(Failed::Lost(error)) => return Err(broken(&error)),
    };
    match result {
        Ok(AuthResult::Success) => Ok(()),
        // A session that dies here looks like a refusal without any method left.
        Ok(AuthResult::Failure { .. }) if handle.is_closed() && !had_enough(observed) => {
            Err(lost("the connection ended".to_owned()))
        }
        Ok(AuthResult::Failure { mut remaining_methods, partial_success }) => {
            if let Some(error) = why_no_certificate(target) {
                return Err(error);
            }
            if remaining_methods.is_empty() && handle.is_closed() {
                remaining_methods.push(method(&target.identity));
            }
            let offered = if partial_success { format!("{offered} alone") } else { offered };
            let accepts = remaining_methods.iter().map(String::from).collect();
            Err(SshError::AuthRefused { at: at.clone(), offered, accepts })
        }
        Err(error) => Err(broken(&error)),
    }
}

/// With `MaxAuthTries 1` sshd hangs up instead of refusing; dropbear says it in other words.
fn had_enough(observed: &Observed) -> bool {
    let said = observed.reason.get().map(|said| said.to_ascii_lowercase()).unwrap_or_default();
    said.contains("too many auth") || said.contains("max auth tries")
}

const fn method(identity: &Identity) -> MethodKind {
    match identity {
        Identity::Password(_) => MethodKind::Password,
        _ => MethodKind::PublicKey,
    }
}

/// Offers the identity: what the server made of it, and how a person calls it.
async fn offer(
    handle: &mut Handle<Gatekeeper>,
    target: &Target,
) -> Result<(Result<AuthResult, russh::Error>, String), Failed> {
    let user = target.user.as_str();
    Ok(match &target.identity {
        Identity::KeyFile { path, passphrase } => {
            let name = path_text(path);
            let text = keys::load_file(path).await?;
            let key = keys::decode_slowly(name.clone(), text, passphrase.clone()).await?;
            let offered = format!("{} from {name}", describe_key(key.public_key()));
            (with_key(handle, user, key).await, offered)
        }
        Identity::Key(text) => {
            let key = keys::decode_slowly("that Roundsman keeps".to_owned(), text.clone(), None).await?;
            let offered = describe_key(key.public_key());
            (with_key(handle, user, key).await, offered)
        }
        Identity::Certificate { key, certificate } => {
            with_certificate(handle, user, key, certificate).await?
        }
        Identity::Agent { socket, public_key } => agent::log_in(handle, user, socket, public_key).await?,
        Identity::Password(password) => {
            (with_password(handle, user, password).await, "a password".to_owned())
        }
    })
}

pub(super) fn describe_key(key: &PublicKey) -> String {
    format!("the {} key {}", key.algorithm().as_str(), key.fingerprint(HashAlg::Sha256))
}

pub(super) fn describe_certificate(certificate: &Certificate) -> String {
    let key = certificate.key();
    format!("the certificate '{}' of the {} key {}", certificate.id(), key.algorithm(), key.fingerprint())
}

/// The hash to sign with: None for other keys than RSA. A server that does not say what it takes gets SHA-2; all but
/// OpenSSH before 7.2 take it.
pub(super) async fn rsa_hash(
    handle: &Handle<Gatekeeper>,
    algorithm: &Algorithm,
) -> Result<Option<HashAlg>, russh::Error> {
    if !matches!(algorithm, Algorithm::Rsa { .. }) {
        return Ok(None);
    }
    Ok(handle.best_supported_rsa_hash().await?.unwrap_or(Some(HashAlg::Sha512)))
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

/// Dates are looked at before anything is offered: an expired certificate would only be "refused".
async fn with_certificate(
    handle: &mut Handle<Gatekeeper>,
    user: &str,
    key: &Secret<String>,
    line: &str,
) -> Result<(Result<AuthResult, russh::Error>, String), Failed> {
    let key = keys::decode_slowly("that Roundsman keeps".to_owned(), key.clone(), None).await?;
    let certificate = Certificate::parse(line).map_err(|problem| unusable("that was given", problem))?;
    let name = format!("'{}'", certificate.id());
    if certificate.inner().public_key() != key.public_key().key_data() {
        return Err(unusable(&name, CertificateProblem::OtherKey).into());
    }
    certificate.check(Purpose::User, SystemClock.now()).map_err(|problem| unusable(&name, problem))?;
    let offered = describe_certificate(&certificate);
    let hash = rsa_hash(handle, &key.algorithm()).await?;
    let certificate = certificate.inner().clone();
    // The library's own way signs with SHA-512 whatever the server takes, and names the algorithm ssh-rsa.
    let mut signer = OwnKey(key);
    match handle.authenticate_certificate_with(user, certificate, hash, &mut signer).await {
        Ok(outcome) => Ok((Ok(outcome), offered)),
        Err(NotSigned::Lost) => Ok((Err(russh::Error::SendError), offered)),
        Err(NotSigned::Key(error)) => {
            let cause = super::printable::line(error.to_string().as_bytes(), 200);
            Err(SshError::KeyUnreadable { path: "that Roundsman keeps".to_owned(), cause }.into())
        }
    }
}

fn unusable(name: &str, problem: CertificateProblem) -> SshError {
    SshError::CertificateUnusable { name: name.to_owned(), problem: Box::new(problem) }
}

/// A server may map other principals to the user (AuthorizedPrincipalsFile), so names that do not fit are no reason not to
/// offer a certificate; after a refusal they are the likely one.
fn why_no_certificate(target: &Target) -> Option<SshError> {
    let line = match &target.identity {
        Identity::Certificate { certificate, .. } => certificate,
        Identity::Agent { public_key, .. } => public_key,
        _ => return None,
    };
    let certificate = Certificate::parse(line).ok()?;
    let problem = certificate
        .check(Purpose::User, SystemClock.now())
        .and_then(|()| certificate.is_for(Purpose::User, &target.user))
        .err()?;
    Some(unusable(&format!("'{}'", certificate.id()), problem))
}

/// Signs with a private key that is here, with the hash that was agreed on.
struct OwnKey(PrivateKey);

enum NotSigned {
    Lost,
    Key(ssh_key::Error),
}

impl From<russh::SendError> for NotSigned {
    fn from(_: russh::SendError) -> Self {
        Self::Lost
    }
}

impl russh::Signer for OwnKey {
    type Error = NotSigned;

    /// Appends the signature to what was signed, as a string of RFC 4251.
    async fn auth_sign(
        &mut self,
        _identity: &AgentIdentity,
        hash: Option<HashAlg>,
        mut to_sign: Vec<u8>,
    ) -> Result<Vec<u8>, NotSigned> {
        let signature: ssh_key::Result<Signature> = match self.0.key_data() {
            KeypairData::Rsa(pair) => (pair, hash).try_sign(&to_sign).map_err(Into::into),
            other => other.try_sign(&to_sign).map_err(Into::into),
        };
        let signature = signature.map_err(NotSigned::Key)?;
        signature.encode_prefixed(&mut to_sign).map_err(|error| NotSigned::Key(error.into()))?;
        Ok(to_sign)
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
