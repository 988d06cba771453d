//! The agent on a server: how it works there, and what was deployed.

use serde::Serialize;

use super::Timestamp;
use super::words::words;

/// A word that names no way of working.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a mode of the agent; use stream, serve or push")]
pub struct UnknownAgentMode(pub String);

words! {
    /// How the agent works on a server.
    AgentMode, UnknownAgentMode {
        /// Only while Roundsman reads, over SSH; no process and no port between.
        Stream = "stream",
        /// A service that answers on the server's loopback, where Roundsman reads it through SSH.
        Serve = "serve",
        /// A service that reports by itself.
        Push = "push",
    }
}

words! {
    /// What the readings of a server come from now.
    ProbeKind, UnknownAgentMode {
        Shell = "shell",
        Agent = "agent",
        /// The machine that Roundsman runs on, read without a shell.
        Local = "local",
    }
}

/// An agent that was deployed and is there as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InstalledAgent {
    pub mode: AgentMode,
    /// Absolute, on the server.
    pub path: String,
    /// Hexadecimal.
    pub sha256: String,
    pub version: String,
    /// As `uname -m` says it.
    pub architecture: String,
    /// Where it answers on the server's loopback. None: it is no service.
    pub port: Option<u16>,
    pub deployed_at: Timestamp,
}
