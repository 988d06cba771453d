//! What happened, for whoever listens: open pages, alerts.

use std::sync::Arc;

use super::{Health, OperationId, OrganizationId, Reachability, Sample, ServerId, TaskId, Timestamp};

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
    /// A target of an operation changed, or printed something.
    Operation {
        organization: OrganizationId,
        operation: OperationId,
        server: ServerId,
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
    /// A task was changed, or a run of it began or ended.
    Task {
        organization: OrganizationId,
        task: TaskId,
        name: Arc<str>,
        change: TaskChange,
        /// Of the run, where there is one.
        operation: Option<OperationId>,
        /// Why a run failed or was left out.
        reason: Option<Arc<str>>,
    },
    /// History cannot be written, or is written again. Once at each change; it concerns everybody.
    History {
        at: Timestamp,
        /// Why the file takes nothing. None: it takes values again.
        error: Option<String>,
    },
}

/// What happened to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskChange {
    Created,
    /// Edited, enabled or disabled.
    Changed,
    Removed,
    Started,
    /// Every server succeeded.
    Completed,
    /// A run did not succeed and is not tried again.
    Failed,
    /// A run did not succeed and is tried again.
    Retrying,
    /// A run was left out, missed or cancelled.
    Skipped,
}

impl TaskChange {
    /// As the events of the API name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "task.created",
            Self::Changed => "task.changed",
            Self::Removed => "task.removed",
            Self::Started => "task.started",
            Self::Completed => "task.completed",
            Self::Failed => "task.failed",
            Self::Retrying => "task.retrying",
            Self::Skipped => "task.skipped",
        }
    }
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
            | Self::Task { organization, .. }
            | Self::Transfer { organization, .. } => Some(*organization),
            Self::History { .. } => None,
        }
    }

    /// Whether somebody of this organization may hear of it.
    #[must_use]
    pub fn concerns(&self, organization: OrganizationId) -> bool {
        self.organization().is_none_or(|of| of == organization)
    }

    /// The server that it is about. None: it is about no server.
    #[must_use]
    pub const fn server(&self) -> Option<ServerId> {
        match self {
            Self::Reading { server, .. }
            | Self::Health { server, .. }
            | Self::ServerChanged { server, .. }
            | Self::ServerRemoved { server, .. }
            | Self::Operation { server, .. }
            | Self::Transfer { server, .. } => Some(*server),
            Self::Task { .. } | Self::History { .. } => None,
        }
    }
}
