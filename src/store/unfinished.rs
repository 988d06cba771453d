//! What a stop of Roundsman left unfinished, told as it is.

use rusqlite::{Transaction, params};

use super::StoreError;
use super::operations::{OPERATION_COLUMNS, Operation, Target, operation_from_row, set_status, targets};
use crate::model::{OperationStatus, TargetStatus, Timestamp};

/// What a stop of Roundsman left unfinished.
#[derive(Debug, Default)]
pub struct Interrupted {
    /// Operations that are at their end by it.
    pub ended: usize,
    /// Those with commands that go on without Roundsman, with all of their targets; of those that are still sent, the
    /// commands are to be looked for.
    pub going_on: Vec<(Operation, Vec<Target>)>,
}

/// Tells the truth about what a stop of Roundsman interrupted: what was sent may have run, what was not was not, and what was
/// sent detached stays as it is.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn mark_interrupted(tx: &Transaction<'_>, at: Timestamp) -> Result<Interrupted, StoreError> {
    const SENT: &str = "Roundsman stopped while the command ran; it may have run to its end";
    const NOT_SENT: &str = "Roundsman stopped before this was sent";
    tx.execute(
        "UPDATE command_records SET error = ?1 WHERE duration_ms IS NULL AND error IS NULL AND id NOT IN
             (SELECT record_id FROM operation_targets t JOIN operations o ON o.id = t.operation_id
              WHERE o.status IN ('pending', 'running') AND t.status = 'sent' AND t.detached AND record_id IS NOT NULL)",
        [SENT],
    )?;
    tx.execute("UPDATE operations SET paused_at = NULL WHERE paused_at IS NOT NULL", [])?;
    let unfinished: Vec<Operation> = tx
        .prepare(&format!(
            "SELECT {OPERATION_COLUMNS} FROM operations WHERE status IN ('pending', 'running') ORDER BY created_at, id"
        ))?
        .query_map([], operation_from_row)?
        .collect::<Result<_, _>>()?;
    let mut interrupted = Interrupted::default();
    for operation in unfinished {
        let id = operation.id.to_string();
        tx.execute(
            "UPDATE operation_targets SET status = 'unknown', error = ?2, completed_at = ?3
             WHERE operation_id = ?1 AND status = 'sent' AND NOT detached",
            params![id.as_str(), SENT, at.as_millis()],
        )?;
        tx.execute(
            "UPDATE operation_targets SET status = 'cancelled', error = ?2, completed_at = ?3
             WHERE operation_id = ?1 AND status = 'pending'",
            params![id.as_str(), NOT_SENT, at.as_millis()],
        )?;
        let targets = targets(tx, operation.id)?;
        let states: Vec<TargetStatus> = targets.iter().map(|target| target.status).collect();
        let status = OperationStatus::of(&states);
        if status == OperationStatus::Running {
            interrupted.going_on.push((operation, targets));
        } else {
            set_status(tx, operation.id, status, at)?;
            interrupted.ended += 1;
        }
    }
    Ok(interrupted)
}
