//! What happened, for whoever listens: open pages, alerts.

use std::sync::Arc;

use super::{Health, OperationId, OrganizationId, Reachability, Sample, ServerId, Timestamp};

/// One change. Cheap to clone: it goes to every open page.
#[derive(Debug, Clone)]
pub enum Event {
    /// A reading arrived and is the latest of its server.
    Reading {
        organization: OrganizationId,
        server: ServerId,
        at: Timestamp,
        samples: Arc<[Sample]>,
    },
    /// Health or reachability changed.
    Health {
        organization: OrganizationId,
        server: ServerId,
        health: Health,
        reachability: Reachability,
        at: Timestamp,
    },
    /// A server was added or edited.
    ServerChanged {
        organization: OrganizationId,
        server: ServerId,
    },
    ServerRemoved {
        organization: OrganizationId,
        server: ServerId,
    },
    /// Targets of an operation changed, or printed something.
    Operation {
        organization: OrganizationId,
        operation: OperationId,
        servers: Arc<[ServerId]>,
    },
    /// A file is on its way to a server or from it.
    Transfer {
        organization: OrganizationId,
        server: ServerId,
        direction: Direction,
        path: String,
        done_bytes: u64,
        total_bytes: u64,
    },
    /// History cannot be written, or is written again. Once at each change; it concerns everybody.
    History {
        at: Timestamp,
        /// Why the file takes nothing. None: it takes values again.
        error: Option<String>,
    },
}

/// Which way a file goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Up,
    Down,
}

impl Event {
    /// Whose event it is. None: everybody's.
    #[must_use]
    pub const fn organization(&self) -> Option<OrganizationId> {
        match self {
            Self::Reading { organization, .. }
            | Self::Health { organization, .. }
            | Self::ServerChanged { organization, .. }
            | Self::ServerRemoved { organization, .. }
            | Self::Operation { organization, .. }
            | Self::Transfer { organization, .. } => Some(*organization),
            Self::History { .. } => None,
        }
    }

    /// Whether somebody of this organization may hear of it.
    #[must_use]
    pub fn concerns(&self, organization: OrganizationId) -> bool {
        self.organization().is_none_or(|of| of == organization)
    }

    /// The one server that it is about. None: it is about none, or about several.
    #[must_use]
    pub const fn server(&self) -> Option<ServerId> {
        match self {
            Self::Reading { server, .. }
            | Self::Health { server, .. }
            | Self::ServerChanged { server, .. }
            | Self::ServerRemoved { server, .. }
            | Self::Transfer { server, .. } => Some(*server),
            Self::Operation { .. } | Self::History { .. } => None,
        }
    }
}
