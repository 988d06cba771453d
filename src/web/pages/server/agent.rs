//! What the settings of a server say of its agent.

use crate::fleet::{AgentOffer, ServerState};
use crate::model::{AgentMode, InstalledAgent, ProbeKind, Timestamp, Transport};
use crate::web::view::{self, When};

use super::super::capital;

/// Digits of a hash that tell two apart.
const HASH_CHARS: usize = 12;

/// The panel of the agent. None is shown for what is not read over SSH.
#[derive(Debug, Clone)]
pub(super) struct AgentPanel {
    pub(super) now: &'static str,
    pub(super) facts: Vec<(&'static str, String)>,
    pub(super) deployed: Option<When>,
    pub(super) reason: Option<String>,
    pub(super) may_deploy: bool,
    pub(super) may_remove: bool,
    pub(super) deploy: &'static str,
    /// It reports by itself, so no other mode makes sense.
    pub(super) reports: bool,
    /// Where to.
    pub(super) report_to: Option<String>,
}

impl AgentPanel {
    /// `central`: where a server that reports by itself reaches Roundsman.
    pub(super) fn new(
        state: &ServerState,
        offer: &AgentOffer,
        central: Option<&str>,
        now: Timestamp,
    ) -> Option<Self> {
        let reports = state.server.transport == Transport::Push && state.server.ssh_host().is_some();
        if state.server.transport != Transport::Ssh && !reports {
            return None;
        }
        let installed = state.agent.as_deref();
        let reason = match offer {
            AgentOffer::None(reason) => Some(format!("{}.", capital(reason))),
            AgentOffer::Available { is_current: true } => {
                Some("This is the agent that this Roundsman has to offer.".to_owned())
            }
            AgentOffer::Available { is_current: false } if installed.is_some() => {
                Some("Roundsman has another version to offer.".to_owned())
            }
            _ => None,
        };
        Some(Self {
            now: if reports {
                "The agent on this server reports by itself. Roundsman can install it there over SSH, as a service with a new token."
            } else {
                sentence(state.probe, installed.is_some())
            },
            report_to: central.filter(|_| reports).map(ToOwned::to_owned),
            reports,
            facts: installed.map(facts).unwrap_or_default(),
            deployed: installed.map(|agent| When::new(Some(agent.deployed_at), now)),
            reason: reason.map(|reason| view::clean(&reason, view::TEXT_CHARS)),
            may_deploy: !matches!(offer, AgentOffer::None(_)),
            may_remove: installed.is_some(),
            deploy: match (installed, offer) {
                (None, _) => "Deploy it",
                (Some(_), AgentOffer::Available { is_current: false }) => "Upgrade it",
                (Some(_), _) => "Deploy it again",
            },
        })
    }
}

const fn sentence(probe: Option<ProbeKind>, is_installed: bool) -> &'static str {
    match (probe, is_installed) {
        (Some(ProbeKind::Agent), _) => {
            "Readings come from the agent over the SSH connection; it opens no port to the network."
        }
        (_, true) => "The agent is deployed, but readings come from the shell probe now.",
        (_, false) => {
            "Readings come from the shell probe, which needs nothing on the server. The agent makes them cheaper and richer."
        }
    }
}

fn facts(agent: &InstalledAgent) -> Vec<(&'static str, String)> {
    let hash: String = agent.sha256.chars().take(HASH_CHARS).collect();
    let mode = match (agent.mode, agent.port) {
        (AgentMode::Serve, Some(port)) => format!("service on 127.0.0.1:{port}"),
        (mode, _) => mode.name().to_owned(),
    };
    if agent.path.is_empty() {
        return vec![("Mode", format!("{mode}, which somebody else keeps"))];
    }
    vec![
        (
            "Version",
            format!(
                "{} ({}, {hash}…)",
                view::clean(&agent.version, 40),
                view::clean(&agent.architecture, 40)
            ),
        ),
        ("Mode", mode),
        ("File", view::clean(&agent.path, view::TEXT_CHARS)),
    ]
}
