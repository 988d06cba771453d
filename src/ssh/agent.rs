//! An ssh-agent, as the one who signs with the chosen key.
//!
//! Only that key is asked for; what else the agent holds is counted, for the sentence, and never offered.

use std::path::Path;
use std::time::Duration;

use russh::AgentAuthError;
use russh::client::{AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{HashAlg, PublicKey};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::auth::{Failed, describe_certificate, describe_key, rsa_hash};
use super::certificate::Certificate;
use super::error::{AgentProblem, SshError, path_text};
use super::handler::Gatekeeper;
use super::hostkey::HostKey;

/// An agent is a process on this machine. Only signing may take long, where it asks a person first; the limit of the login
/// ends that.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What the agent is to sign with.
enum Chosen {
    Key(PublicKey),
    /// The agent holds the certificate and its key, as `ssh-add` loads them together.
    Certificate(Box<Certificate>),
}

impl Chosen {
    fn parse(line: &str) -> Option<Self> {
        if let Ok(certificate) = Certificate::parse(line) {
            return Some(Self::Certificate(Box::new(certificate)));
        }
        let key = HostKey::parse(line).ok()?;
        Some(Self::Key(PublicKey::new(key.key_data().clone(), "")))
    }

    fn describe(&self) -> String {
        match self {
            Self::Key(key) => describe_key(key),
            Self::Certificate(certificate) => describe_certificate(certificate),
        }
    }

    fn is(&self, held: &AgentIdentity) -> bool {
        match (self, held) {
            (Self::Key(key), AgentIdentity::PublicKey { key: held, .. }) => key.key_data() == held.key_data(),
            (Self::Certificate(certificate), AgentIdentity::Certificate { certificate: held, .. }) => {
                certificate.inner().signature() == held.signature()
                    && certificate.inner().public_key() == held.public_key()
            }
            _ => false,
        }
    }
}

/// Logs in with one key of the agent at `socket`; answers with the outcome and what was offered.
pub(super) async fn log_in(
    handle: &mut Handle<Gatekeeper>,
    user: &str,
    socket: &Path,
    line: &str,
) -> Result<(Result<AuthResult, russh::Error>, String), Failed> {
    let problem = |problem| SshError::AgentUnusable { socket: path_text(socket), problem };
    let chosen = Chosen::parse(line).ok_or_else(|| problem(AgentProblem::NotAKey))?;
    let mut agent = match timeout(ANSWER_LIMIT, open(socket, handle, &chosen)).await {
        Ok(opened) => opened.map_err(problem)?,
        Err(_) => {
            let detail = format!("no answer in {} s", ANSWER_LIMIT.as_secs());
            return Err(problem(AgentProblem::NotThere { detail }).into());
        }
    };
    let offered = format!("{} of the ssh-agent", chosen.describe());
    let outcome = match &chosen {
        Chosen::Key(key) => {
            let hash = rsa_hash(handle, &key.algorithm()).await?;
            sign_in(handle, user, key, hash, &mut agent).await
        }
        Chosen::Certificate(certificate) => {
            let certificate = certificate.inner().clone();
            let hash = rsa_hash(handle, &certificate.algorithm()).await?;
            handle.authenticate_certificate_with(user, certificate, hash, &mut agent).await
        }
    };
    match outcome {
        Ok(outcome) => Ok((Ok(outcome), offered)),
        Err(AgentAuthError::Send(_)) => Ok((Err(russh::Error::SendError), offered)),
        Err(AgentAuthError::Key(russh::keys::Error::IO(error))) => {
            Err(problem(AgentProblem::NotThere { detail: said(&error) }).into())
        }
        Err(AgentAuthError::Key(_)) => {
            Err(problem(AgentProblem::RefusedToSign { wanted: chosen.describe() }).into())
        }
    }
}

/// Connects, and makes sure that the key is there.
async fn open(
    socket: &Path,
    handle: &Handle<Gatekeeper>,
    chosen: &Chosen,
) -> Result<AgentClient<UnixStream>, AgentProblem> {
    let mut agent = AgentClient::connect_uds(socket)
        .await
        .map_err(|error| AgentProblem::NotThere { detail: said(&error) })?;
    if let Some(binding) = handle.agent_session_binding() {
        // Keys that are for some hosts only are shown after this; agents that do not know it say no, and need it not.
        let _older_agents_refuse = agent.bind_session(binding, false).await;
    }
    look_for(&mut agent, chosen).await?;
    Ok(agent)
}

async fn sign_in(
    handle: &mut Handle<Gatekeeper>,
    user: &str,
    key: &PublicKey,
    hash: Option<HashAlg>,
    agent: &mut AgentClient<UnixStream>,
) -> Result<AuthResult, AgentAuthError> {
    handle.authenticate_publickey_with(user, key.clone(), hash, agent).await
}

fn said(error: &impl std::fmt::Display) -> String {
    super::printable::line(error.to_string().as_bytes(), 200)
}

async fn look_for(agent: &mut AgentClient<UnixStream>, chosen: &Chosen) -> Result<(), AgentProblem> {
    let held = match agent.request_identities().await {
        Ok(held) => held,
        Err(russh::keys::Error::IO(error)) => {
            return Err(AgentProblem::NotThere { detail: said(&error) });
        }
        // One key of a kind that the library does not read must not hide the others: the signature will tell.
        Err(_) => return Ok(()),
    };
    if held.is_empty() {
        return Err(AgentProblem::Empty);
    }
    if held.iter().any(|identity| chosen.is(identity)) {
        return Ok(());
    }
    Err(AgentProblem::Lacks { wanted: chosen.describe(), held: held.len() })
}
