//! Which keys an ssh-agent holds. Only asks; signing is part of logging in.

use std::path::Path;
use std::time::Duration;

use russh::keys::HashAlg;
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;

use super::printable;

/// An agent is a process of this machine; a hardware token behind it may take a moment.
const LIMIT: Duration = Duration::from_secs(5);

/// A key or certificate that an ssh-agent signs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentKey {
    /// Algorithm and key or certificate, without the comment.
    pub line: String,
    /// `SHA256:…` of the public key.
    pub fingerprint: String,
}

/// What the agent behind this socket holds.
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
        AgentIdentity::Certificate { mut certificate, .. } => {
            certificate.set_comment("");
            let line = certificate.to_openssh().ok()?;
            let fingerprint = certificate.public_key().fingerprint(HashAlg::Sha256).to_string();
            Some(AgentKey { line, fingerprint })
        }
    });
    Ok(keys.collect())
}
