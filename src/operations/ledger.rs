//! What is known of the targets of a running operation, in memory: states and the output so far.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::TargetView;
use crate::model::{ServerId, TargetStatus};
use crate::ssh::{Piece, printable};
use crate::store::operations::{CommandRecord, Target};

/// Output of a running command that an open page shows: its end.
const LIVE_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Ledger {
    targets: Mutex<Vec<Line>>,
    /// Where each server stands among them; every server stands there once.
    places: HashMap<ServerId, usize>,
}

#[derive(Debug)]
struct Line {
    target: Target,
    record: Option<CommandRecord>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Ledger {
    pub(super) fn new(targets: Vec<Target>) -> Self {
        let line = |target| Line { target, record: None, stdout: Vec::new(), stderr: Vec::new() };
        let places = targets.iter().enumerate().map(|(place, target)| (target.server, place)).collect();
        Self { targets: Mutex::new(targets.into_iter().map(line).collect()), places }
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn targets(&self) -> Vec<Target> {
        self.lines().iter().map(|line| line.target.clone()).collect()
    }

    pub(super) fn statuses(&self) -> Vec<TargetStatus> {
        self.lines().iter().map(|line| line.target.status).collect()
    }

    /// Name and state of a target. None: it is none of this operation.
    pub(super) fn status_of(&self, server: ServerId) -> Option<(String, TargetStatus)> {
        let place = *self.places.get(&server)?;
        let lines = self.lines();
        lines.get(place).map(|line| (line.target.server_name.clone(), line.target.status))
    }

    /// Whether nothing more happens on this server.
    pub(super) fn has_ended(&self, server: ServerId) -> bool {
        let Some(place) = self.places.get(&server) else { return true };
        self.lines().get(*place).is_none_or(|line| line.target.status.is_final())
    }

    pub(super) fn views(&self) -> Vec<TargetView> {
        self.lines()
            .iter()
            .map(|line| TargetView { target: line.target.clone(), record: line.record.clone() })
            .collect()
    }

    pub(super) fn sent(&self, position: u32, record: &CommandRecord) {
        self.change(position, |line| {
            line.target.status = TargetStatus::Sent;
            line.record = Some(record.clone());
        });
    }

    pub(super) fn finished(&self, position: u32, status: TargetStatus, error: Option<&str>) {
        self.change(position, |line| {
            line.target.status = status;
            line.target.error = error.map(ToOwned::to_owned);
            line.stdout = Vec::new();
            line.stderr = Vec::new();
        });
    }

    /// Adds a piece of output; only the end of a long one is kept here, the record gets it all.
    pub(super) fn said(&self, position: u32, piece: Piece) {
        self.change(position, |line| {
            let (kept, bytes) = match piece {
                Piece::Stdout(bytes) => (&mut line.stdout, bytes),
                Piece::Stderr(bytes) => (&mut line.stderr, bytes),
            };
            kept.extend_from_slice(&bytes);
            let surplus = kept.len().saturating_sub(LIVE_BYTES);
            kept.drain(..surplus);
        });
    }

    /// The end of what a target has printed so far: standard output and standard error.
    pub(super) fn printed(&self, position: u32) -> (Vec<u8>, Vec<u8>) {
        let index = usize::try_from(position).unwrap_or(usize::MAX);
        self.lines().get(index).map(|line| (line.stdout.clone(), line.stderr.clone())).unwrap_or_default()
    }

    fn change(&self, position: u32, change: impl FnOnce(&mut Line)) {
        let mut lines = self.lines();
        let index = usize::try_from(position).unwrap_or(usize::MAX);
        if let Some(line) = lines.get_mut(index) {
            change(line);
        }
    }

    /// Fills in the output so far of what still runs.
    pub(super) fn add_live_output(&self, views: &mut [TargetView]) {
        for (line, view) in self.lines().iter().zip(views) {
            if line.target.status != TargetStatus::Sent {
                continue;
            }
            if let Some(record) = &mut view.record
                && record.duration_ms.is_none()
            {
                record.stdout = printable::text(&line.stdout, usize::MAX);
                record.stderr = printable::text(&line.stderr, usize::MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_live_output_keeps_its_end() {
        let target = Target {
            position: 0,
            server: ServerId::new(uuid::Uuid::nil()),
            server_name: "a".to_owned(),
            status: TargetStatus::Sent,
            command: None,
            error: None,
            record: None,
            batch: 0,
            started_at: None,
            completed_at: None,
        };
        let ledger = Ledger::new(vec![target]);
        for number in 0..20_000 {
            ledger.said(0, Piece::Stdout(format!("line {number}\n").into_bytes()));
        }
        let kept = ledger.lines()[0].stdout.clone();
        assert!(kept.len() <= LIVE_BYTES && kept.ends_with(b"line 19999\n"));
    }
}
