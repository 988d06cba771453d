//! Tasks: operations on a schedule, and what became of each of their runs.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::words::words;
use super::{OperationId, OrganizationId, Selector, TaskId, TaskRunId, Timestamp, TokenId, UserId};

/// A stored word that is none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTask {
    #[error("'{0}' is not what to do while the last run is under way; use skip, queue or allow")]
    Overlap(String),
    #[error("'{0}' is not what to do about missed runs; use skip, once or all")]
    Missed(String),
    #[error("'{0}' is not a state of a run")]
    Status(String),
    #[error("'{0}' is not a cause of a run")]
    Cause(String),
    #[error("'{0}' owns no task")]
    Owner(String),
}

words! {
    /// What happens when a run is due while the last one is under way.
    Overlap, InvalidTask::Overlap {
        /// It is left out.
        Skip = "skip",
        /// It begins when the last one has ended.
        Queue = "queue",
        /// It begins beside it; on a server where the last one still runs it waits for that.
        Allow = "allow",
    }
}

words! {
    /// What happens with runs whose time passed while Roundsman was not running.
    Missed, InvalidTask::Missed {
        /// They are left out.
        Skip = "skip",
        /// The last one is made up for.
        Once = "once",
        /// The last ones are made up for, one after the other.
        All = "all",
    }
}

words! {
    /// Why a run began.
    Cause, InvalidTask::Cause {
        Schedule = "schedule",
        /// Its time had passed while Roundsman was not running.
        Missed = "missed",
        /// Somebody said so.
        Manual = "manual",
    }
}

words! {
    /// What became of a run.
    RunStatus, InvalidTask::Status {
        /// Its time has come and it was taken down; it begins soon.
        Waiting = "waiting",
        /// It is being handed to the executor.
        Starting = "starting",
        Running = "running",
        Completed = "completed",
        /// Some servers did not succeed.
        Partial = "partial",
        Failed = "failed",
        Cancelled = "cancelled",
        /// The last run was under way.
        Skipped = "skipped",
        /// Roundsman was not running.
        Missed = "missed",
    }
}

impl RunStatus {
    /// Nothing more will happen to it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Waiting | Self::Starting | Self::Running)
    }

    /// It did not do all that it was to do.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Partial)
    }
}

/// As whom a task acts: the one who saved it last. Stored as one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    User(UserId),
    Token(TokenId),
    /// Someone on the machine itself, by uid.
    System(u32),
    Roundsman,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "user:{id}"),
            Self::Token(id) => write!(f, "token:{id}"),
            Self::System(uid) => write!(f, "system:{uid}"),
            Self::Roundsman => f.write_str("roundsman"),
        }
    }
}

impl FromStr for Owner {
    type Err = InvalidTask;

    fn from_str(text: &str) -> Result<Self, InvalidTask> {
        let unknown = || InvalidTask::Owner(super::shown(text, 80));
        match text.split_once(':') {
            None if text == "roundsman" => Ok(Self::Roundsman),
            Some(("user", id)) => id.parse().map(Self::User).map_err(|_| unknown()),
            Some(("token", id)) => id.parse().map(Self::Token).map_err(|_| unknown()),
            Some(("system", uid)) => uid.parse().map(Self::System).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

/// An operation on a schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    pub id: TaskId,
    pub organization: OrganizationId,
    /// Unique in its organization.
    pub name: String,
    pub description: String,
    /// Five fields, or one of the words with `@`.
    pub cron: String,
    /// IANA name.
    pub time_zone: String,
    /// `restart_service`, `run_command`, …
    pub kind: String,
    /// The action as JSON; it holds no secret.
    pub parameters: serde_json::Value,
    /// Servers by id.
    pub selector: Selector,
    /// How the operation goes over its servers, as JSON.
    pub strategy: serde_json::Value,
    /// A run begins up to so much later, always the same for the same time.
    pub jitter: Duration,
    pub overlap: Overlap,
    pub missed: Missed,
    /// Runs that [`Missed::All`] makes up for at most.
    pub missed_limit: u32,
    /// What was to begin longer ago is not made up for.
    pub missed_grace: Duration,
    /// How often a run that failed is tried again.
    pub retries: u32,
    pub retry_wait: Duration,
    pub enabled: bool,
    pub owner: Owner,
    /// As the audit log names the owner.
    pub owner_name: String,
    /// Times up to this one were taken down as runs.
    pub considered_at: Timestamp,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// One run of a task, or why there was none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRun {
    pub id: TaskRunId,
    pub task: TaskId,
    pub organization: OrganizationId,
    /// The time of the schedule, or when somebody said so.
    pub due_at: Timestamp,
    /// From 1; more are retries.
    pub attempt: u32,
    pub cause: Cause,
    pub status: RunStatus,
    /// Not before this time.
    pub start_at: Timestamp,
    /// Chosen before the operation is begun, so that a stop in between leaves no doubt.
    pub operation: Option<OperationId>,
    /// Why it failed, was left out, or still waits.
    pub reason: Option<String>,
    pub started_by: String,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_read_as_it_is_written() {
        let id = uuid::Uuid::from_u128(7);
        for owner in
            [Owner::User(UserId::new(id)), Owner::Token(TokenId::new(id)), Owner::System(0), Owner::Roundsman]
        {
            assert_eq!(owner.to_string().parse(), Ok(owner));
        }
        for bad in ["", "user:", "user:x", "system:-1", "root"] {
            assert!(bad.parse::<Owner>().is_err(), "{bad}");
        }
    }
}
