//! Which probe reads a server: the agent where one was deployed and works, the shell probe everywhere else.
//!
//! An agent that fails costs one reading at most: the shell probe goes on at once, the page says why, and the agent is
//! tried again later.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::served::ServedAgent;
use super::{Ended, Poller};
use crate::collect::{AgentProbe, LocalProbe, ProbeError, ShellProbe, agent, shell};
use crate::model::{AgentMode, Gap, InstalledAgent, Port, ProbeKind, Secret, Sections, Snapshot};
use crate::ssh::{Connection, SshError, Stream};

/// An agent that failed is tried again after this, twice as long each time: one that was removed by hand stays away.
const AGAIN_AFTER: (Duration, Duration) = (Duration::from_mins(1), Duration::from_mins(30));
/// So many readings in a row say that the agent works.
const WORKS_AFTER: u64 = 10;

/// Where readings come from.
pub(super) enum Probe {
    Local(Box<LocalProbe>),
    Shell(Box<ShellProbe<Stream>>),
    /// Where there is a service: why it is not asked, and when that is tried again.
    Agent(Box<AgentProbe<Stream>>, Arc<InstalledAgent>, Option<(String, Instant)>),
    /// The agent is a service there.
    Served(Box<ServedAgent>, Arc<InstalledAgent>),
}

impl Probe {
    pub(super) async fn read(&mut self, sections: Sections) -> Result<Snapshot, ProbeError> {
        match self {
            Self::Local(probe) => probe.read(sections).await,
            Self::Shell(probe) => probe.read(sections).await,
            Self::Agent(probe, ..) => probe.read(sections).await,
            Self::Served(probe, _) => probe.read(sections).await,
        }
    }

    pub(super) const fn kind(&self) -> ProbeKind {
        match self {
            Self::Local(_) => ProbeKind::Local,
            Self::Shell(_) => ProbeKind::Shell,
            Self::Agent(..) | Self::Served(..) => ProbeKind::Agent,
        }
    }

    pub(super) async fn shell(connection: &Connection) -> Result<Result<Self, ProbeError>, SshError> {
        let stream = connection.open_readings(shell::COMMAND).await?;
        Ok(ShellProbe::start(stream).await.map(|probe| Self::Shell(Box::new(probe))))
    }

    /// Asks the service where there is one, or starts the agent that was deployed.
    pub(super) async fn agent(
        connection: &Connection,
        installed: Arc<InstalledAgent>,
        name: &str,
        token: Option<Secret<String>>,
    ) -> Result<Result<Self, ProbeError>, SshError> {
        let mut not_asked = None;
        let port = installed.port.filter(|_| installed.mode == AgentMode::Serve).map(i64::from);
        if let Some(port) = port.and_then(|port| Port::of(port).ok()) {
            match ServedAgent::find(connection, name, port, token).await {
                Ok(found) => return Ok(Ok(Self::Served(Box::new(found), installed))),
                // Nothing was deployed that could be started in its place.
                Err(error) if installed.path.is_empty() => return Ok(Err(error)),
                Err(ProbeError::NoAgent { reason }) => {
                    not_asked = Some((reason, Instant::now() + AGAIN_AFTER.1));
                }
                Err(error) => not_asked = Some((error.to_string(), Instant::now() + AGAIN_AFTER.1)),
            }
        }
        let command = match agent::command(&installed.path, &installed.sha256) {
            Ok(command) => command,
            Err(error) => return Ok(Err(ProbeError::NoAgent { reason: error.to_string() })),
        };
        let stream = connection.open_readings(&command).await?;
        let started = AgentProbe::start(stream, &installed.sha256).await;
        Ok(started.map(|probe| Self::Agent(Box::new(probe), installed, not_asked)))
    }
}

/// What is known of how well the agent of a server works.
#[derive(Debug, Default)]
pub(super) struct AgentTrust {
    /// The one that failed, why, and when it is tried again.
    failed: Option<(Arc<InstalledAgent>, String, Instant)>,
    failures: u32,
}

impl AgentTrust {
    /// The agent to read with now. None: there is none, or it failed a moment ago.
    pub(super) fn choose(
        &self,
        installed: Option<&Arc<InstalledAgent>>,
        now: Instant,
    ) -> Option<Arc<InstalledAgent>> {
        let installed = installed?;
        match &self.failed {
            Some((failed, _, again_at)) if Arc::ptr_eq(failed, installed) && now < *again_at => None,
            _ => Some(Arc::clone(installed)),
        }
    }

    /// Whether another probe than this one is to read from now on.
    pub(super) fn wants_another(
        &self,
        probe: &Probe,
        installed: Option<&Arc<InstalledAgent>>,
        now: Instant,
    ) -> bool {
        match (probe, self.choose(installed, now)) {
            (Probe::Local(_), _) | (Probe::Shell(_), None) => false,
            (Probe::Shell(_), Some(_)) => true,
            (Probe::Agent(.., Some((_, again_at))), Some(_)) if now >= *again_at => true,
            (Probe::Agent(_, running, _) | Probe::Served(_, running), chosen) => {
                !chosen.is_some_and(|chosen| Arc::ptr_eq(running, &chosen))
            }
        }
    }

    pub(super) fn fails(
        &mut self,
        installed: Arc<InstalledAgent>,
        reason: String,
        readings: u64,
        now: Instant,
    ) {
        let is_another = !self.failed.as_ref().is_some_and(|(before, ..)| Arc::ptr_eq(before, &installed));
        if is_another || readings >= WORKS_AFTER {
            self.failures = 0;
        }
        let pause = AGAIN_AFTER.0.saturating_mul(2_u32.saturating_pow(self.failures)).min(AGAIN_AFTER.1);
        self.failures = self.failures.saturating_add(1);
        self.failed = Some((installed, reason, now + pause));
    }

    /// What the page says while the shell probe reads in the agent's place.
    pub(super) fn gap(&self, probe: &Probe, installed: Option<&Arc<InstalledAgent>>) -> Option<Gap> {
        if let Probe::Agent(.., Some((reason, _))) = probe {
            let reason = reason.trim_end_matches('.');
            let reason = format!("The agent is started over SSH in place of its service: {reason}.");
            return Some(Gap { section: "agent".to_owned(), reason });
        }
        let (failed, reason, _) = self.failed.as_ref()?;
        let applies = matches!(probe, Probe::Shell(_))
            && installed.is_some_and(|installed| Arc::ptr_eq(failed, installed));
        applies.then(|| Gap {
            section: "agent".to_owned(),
            reason: format!("The shell probe reads in place of the agent: {reason}. Deploy the agent again."),
        })
    }
}

impl Poller {
    /// As [`Self::read_over`], with the agent. None: it failed and the connection did not, so the shell probe goes on.
    pub(super) async fn read_by_agent(
        &mut self,
        connection: &Connection,
        agent: Arc<InstalledAgent>,
    ) -> Result<Option<Ended>, SshError> {
        let before = self.readings;
        let (name, token) = {
            let live = self.entry.live();
            (live.server.name.to_string(), live.agent_token.clone())
        };
        let reason = match Probe::agent(connection, Arc::clone(&agent), &name, token).await {
            // A channel that is refused is no fault of the agent's, but that of a server or connection.
            Err(error @ SshError::NoShell { .. }) => error.to_string(),
            Err(error) => return Err(error),
            Ok(Err(error)) => error.to_string(),
            Ok(Ok(mut probe)) => match self.readings(&mut probe, Some(connection)).await {
                Ended::Probe(error) => error.to_string(),
                Ended::Silent { after } => format!("it did not answer within {} s", after.as_secs()),
                ended => return Ok(Some(ended)),
            },
        };
        if connection.is_closed() {
            return Ok(Some(Ended::Probe(ProbeError::Closed)));
        }
        tracing::warn!(server = %self.entry.server().name, reason, "the agent failed; the shell probe goes on");
        self.trust.fails(agent, reason, self.readings - before, Instant::now());
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    fn installed() -> Arc<InstalledAgent> {
        Arc::new(InstalledAgent {
            mode: AgentMode::Stream,
            path: "/a".to_owned(),
            sha256: String::new(),
            version: String::new(),
            architecture: String::new(),
            port: None,
            deployed_at: Timestamp::from_millis(0),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_fails_is_tried_again_later_and_a_new_one_at_once() {
        let (mut trust, agent) = (AgentTrust::default(), installed());
        let start = Instant::now();
        assert!(trust.choose(Some(&agent), start).is_some() && trust.choose(None, start).is_none());
        trust.fails(Arc::clone(&agent), "it died".to_owned(), 3, start);
        assert!(trust.choose(Some(&agent), start + Duration::from_secs(59)).is_none());
        assert!(trust.choose(Some(&agent), start + Duration::from_secs(60)).is_some());
        trust.fails(Arc::clone(&agent), "it died".to_owned(), 3, start);
        assert!(trust.choose(Some(&agent), start + Duration::from_secs(119)).is_none());
        assert!(trust.choose(Some(&installed()), start).is_some(), "another one was deployed");
        for _ in 0..99 {
            trust.fails(Arc::clone(&agent), "it died".to_owned(), 0, start);
        }
        assert!(trust.choose(Some(&agent), start + AGAIN_AFTER.1).is_some());
        trust.fails(Arc::clone(&agent), "it died".to_owned(), WORKS_AFTER, start);
        assert!(trust.choose(Some(&agent), start + AGAIN_AFTER.0).is_some(), "it had worked in between");
    }
}
