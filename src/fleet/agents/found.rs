//! A serve agent that somebody else has started on a server: Roundsman reads it through SSH and leaves it alone.

use super::super::{Fleet, FleetError, ServerState};
use crate::auth;
use crate::model::{AgentMode, Caller, InstalledAgent, Port, Role, Secret, Transport};
use crate::store::audit::{self, Entry as AuditEntry};

/// Longest token that the agent takes.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 8..=512;

impl Fleet {
    /// Reads the server by the agent that answers on this port of its loopback from now on, in place of one that was
    /// deployed. Whether it answers is seen at the next reading; until it does, the shell probe goes on and the page says why.
    ///
    /// # Errors
    /// [`FleetError::Unavailable`] for a server that is not read over SSH; [`FleetError::Invalid`].
    pub async fn use_agent_on_port(
        &self,
        caller: &Caller,
        reference: &str,
        port: i64,
        token: Option<Secret<String>>,
    ) -> Result<ServerState, FleetError> {
        auth::require(caller, Role::Admin)?;
        let port = Port::of(port)?;
        if let Some(token) = &token {
            let fits = TOKEN_BYTES.contains(&token.expose().len())
                && token.expose().bytes().all(|byte| byte.is_ascii_graphic());
            if !fits {
                return Err(FleetError::invalid(
                    "token",
                    "a token has 8 to 512 printable characters without blanks",
                ));
            }
        }
        let entry = self.find(caller, reference)?;
        let server = entry.server();
        if server.transport != Transport::Ssh {
            return Err(FleetError::Unavailable(format!("{} is not read over SSH", server.name)));
        }
        let architecture = entry.live().facts.as_ref().and_then(|facts| facts.architecture.clone());
        let agent = InstalledAgent {
            mode: AgentMode::Serve,
            path: String::new(),
            sha256: String::new(),
            version: String::new(),
            architecture: architecture.unwrap_or_default(),
            port: Some(port.get()),
            deployed_at: self.inner.clock.now(),
        };
        self.keep_agent(caller, &entry, Some(agent), token)
            .await
            .map_err(|stuck| FleetError::Unavailable(stuck.0))?;
        let now = self.inner.clock.now();
        let record = AuditEntry::by(caller, "server.use-agent", server.name.as_str())
            .detail(format!("the agent on its 127.0.0.1:{port}"));
        self.inner.store.write(move |tx| audit::append(tx, now, &record)).await?;
        Ok(self.state_of(&entry))
    }
}
