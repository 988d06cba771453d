//! Which keys an ssh-agent holds. Only asks; signing is part of logging in.

use std::path::Path;
use std::time::Duration;

use russh::keys::HashAlg;
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;

use super::printable;

/// An agent is a process of this machine; a hardware token behind it may take a moment.
const LIMIT: Duration = Duration::from_secs(5);

/// A public key whose private half an ssh-agent holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentKey {
    /// Algorithm and key as in `authorized_keys`, without the comment.
    pub line: String,
    /// `SHA256:…`
    pub fingerprint: String,
}

/// The plain keys of the agent behind this socket; certificates are left out.
///
/// # Errors
/// Why it did not answer, a sentence for a person.
pub async fn agent_keys(socket: &Path) -> Result<Vec<AgentKey>, String> {
    let at = socket.display();
    let asked = async {
        let mut agent = AgentClient::connect_uds(socket).await?;
        agent.request_identities().await
    };
    let identities = match tokio::time::timeout(LIMIT, asked).await {
        Err(_) => return Err(format!("the ssh-agent at {at} did not answer within {} s", LIMIT.as_secs())),
        Ok(Err(error)) => {
            let cause = printable::line(error.to_string().as_bytes(), 200);
            return Err(format!("the ssh-agent at {at} does not answer: {cause}"));
        }
        Ok(Ok(identities)) => identities,
    };
    let keys = identities.into_iter().filter_map(|identity| match identity {
        AgentIdentity::PublicKey { mut key, .. } => {
            key.set_comment("");
            let line = key.to_openssh().ok()?;
            Some(AgentKey { line, fingerprint: key.fingerprint(HashAlg::Sha256).to_string() })
        }
        AgentIdentity::Certificate { .. } => None,
    });
    Ok(keys.collect())
}
