//! Targets that no record is kept of: a command that was run without a Roundsman, in the same words as an operation.
//!
//! Pure, so that what is told of it, and how equal answers become one, is the same everywhere.

use uuid::Uuid;

use super::TargetView;
use super::fanout::Ending;
use crate::actions::{Plan, mask};
use crate::model::{RecordId, ServerId, TargetStatus, Timestamp};
use crate::ssh::{Output, SshError};
use crate::store::operations::{CommandRecord, Target};

/// One server of a command that is run without a Roundsman.
#[derive(Debug, Clone, Copy)]
pub struct Unkept<'a> {
    pub name: &'a str,
    pub plan: &'a Plan,
    /// From 0: with which batch it goes.
    pub batch: u32,
    pub started_at: Timestamp,
}

impl Unkept<'_> {
    /// Nothing was sent; `reason` says why.
    #[must_use]
    pub fn without(&self, status: TargetStatus, reason: &str) -> TargetView {
        TargetView { target: self.target(&Ending::without(status, reason)), record: None }
    }

    /// It was sent, and this came of it.
    #[must_use]
    pub fn answered(&self, outcome: Result<Output, SshError>) -> TargetView {
        let ending = Ending::of(outcome, self.plan);
        let (id, server) = (RecordId::new(Uuid::nil()), ServerId::new(Uuid::nil()));
        let record = CommandRecord {
            command: mask(&self.plan.command),
            container_command: self.plan.container_command.as_deref().map(mask),
            ..CommandRecord::begun(id, server, self.name.to_owned(), self.started_at)
        };
        TargetView { target: self.target(&ending), record: Some(ending.complete(record)) }
    }

    fn target(&self, ending: &Ending) -> Target {
        Target {
            position: 0,
            server: ServerId::new(Uuid::nil()),
            server_name: self.name.to_owned(),
            status: ending.status,
            command: Some(mask(&self.plan.command)),
            error: ending.error.clone(),
            record: None,
            batch: self.batch,
            started_at: Some(self.started_at),
            completed_at: None,
        }
    }
}
