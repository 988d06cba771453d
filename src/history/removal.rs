//! Takes away what is older than its retention, a few rows at a time between two rounds of the writer.
//!
//! Freed pages are used again; the file does not shrink. Nothing goes before it is rolled up, and before it is
//! in the archive where one is wanted.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use tokio::time::Instant;

use super::Shared;
use super::archive::Archive;
use super::damage;
use super::database::{self, Table};
use super::error::HistoryError;
use super::level::{DAY_MS, Level};
use super::retention::{Removal, Removed, Retention};
use crate::model::Timestamp;

/// Rows of one transaction, and the longest time that readings wait for it.
const ROWS_AT_ONCE: u32 = 64;
const BUDGET: Duration = Duration::from_millis(50);

/// A run by the clock goes at most so far beyond the oldest row of a level: an hourly run needs an hour. Where the
/// clock jumps a year ahead, the past is not gone before somebody sees it.
const LONGEST_STEP_MS: i64 = 2 * DAY_MS;

/// Who wants a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Hourly,
    /// Goes all the way.
    Person,
}

/// One run while it goes on.
#[derive(Debug)]
pub(super) struct Run {
    at: Timestamp,
    /// With the last key that was looked at, and the row before which all goes.
    tables: VecDeque<(Table, i64, i64)>,
    removed: Vec<Removed>,
    more: bool,
    archive: Option<Archive>,
}

impl Run {
    pub(super) fn plan(
        db: &Connection,
        shared: &Shared,
        retention: &Retention,
        archive: Option<PathBuf>,
        cause: Cause,
    ) -> Result<Self, HistoryError> {
        let at = shared.clock.now();
        let mut run = Self {
            at,
            tables: VecDeque::new(),
            removed: Vec::new(),
            more: false,
            archive: archive.map(Archive::new),
        };
        for table in Table::ALL {
            let level = table.level();
            let mut before_ms = at.as_millis() - i64::from(retention.days(level)) * DAY_MS;
            // What is not rolled up yet stays, however late that is.
            if let Some(above) = level.above() {
                let rolled_ms = shared.memory().progress.all_until_ms(above);
                before_ms = before_ms.min(rolled_ms.unwrap_or(i64::MAX));
            }
            let span =
                database::row_span(db, table).map_err(|error| HistoryError::of(&shared.path, error))?;
            let Some((oldest, _)) = span else { continue };
            let end_ms = (oldest + 1).saturating_mul(table.span_ms());
            let step_ms = LONGEST_STEP_MS.max(table.span_ms());
            if cause == Cause::Hourly && before_ms > end_ms.saturating_add(step_ms) {
                before_ms = end_ms + step_ms;
                run.more = true;
            }
            if end_ms <= before_ms {
                run.tables.push_back((table, i64::MIN, table.row_of(before_ms)));
            }
        }
        Ok(run)
    }

    /// One step. The report when all is done.
    pub(super) fn step(
        &mut self,
        db: &mut Connection,
        shared: &Shared,
    ) -> Result<Option<Removal>, HistoryError> {
        let started = Instant::now();
        while let Some((table, after, before)) = self.tables.front().copied() {
            let rows = database::rows_between(db, table, after, before, ROWS_AT_ONCE)
                .map_err(|error| HistoryError::of(&shared.path, error))?;
            if rows.is_empty() {
                self.tables.pop_front();
                continue;
            }
            let looked_at = self.remove(db, shared, table, before, &rows)?;
            // A row that cannot be removed is not met a second time in this run.
            let last = looked_at.checked_sub(1).and_then(|last| rows.get(last));
            if let (Some((row, server)), Some(front)) = (last, self.tables.front_mut()) {
                front.1 = database::chunk_key(*row, *server);
            }
            if started.elapsed() > BUDGET {
                return Ok(None);
            }
        }
        let removed = std::mem::take(&mut self.removed);
        Ok(Some(Removal { at: self.at, removed, more: self.more }))
    }

    /// Answers how many of the rows it looked at, from the first on.
    fn remove(
        &mut self,
        db: &mut Connection,
        shared: &Shared,
        table: Table,
        before: i64,
        rows: &[(i64, u32)],
    ) -> Result<usize, HistoryError> {
        let failed = |error| HistoryError::of(&shared.path, error);
        let mut rows = rows;
        if let Some(archive) = &mut self.archive {
            let started = Instant::now();
            let mut archived = 0;
            for (row, server) in rows {
                match database::get_row(db, table, *row, *server) {
                    Ok(Some(blob)) => archive.add(shared, table, *row, *server, &blob)?,
                    Ok(None) => {}
                    // It has nothing to give any more.
                    Err(error) if damage::is_damage(&error) => {
                        shared.damaged(table, *row, *server, &error);
                    }
                    Err(error) => return Err(failed(error)),
                }
                archived += 1;
                if started.elapsed() > BUDGET || archive.is_full() {
                    break;
                }
            }
            archive.flush()?;
            rows = rows.get(..archived).unwrap_or_default();
        }
        let (_, bytes_before) = database::totals(db, table).map_err(failed)?;
        let mut gone = rows.len() as u64;
        database::delete_rows(db, table, rows, |row, server| {
            gone = gone.saturating_sub(1);
            shared.damaged(table, row, server, "it has expired and cannot be removed");
        })
        .map_err(failed)?;
        let (_, bytes_after) = database::totals(db, table).map_err(failed)?;
        let (count, bytes) = (gone, bytes_before.saturating_sub(bytes_after));
        let level = table.level();
        if let Some(removed) = self.removed.iter_mut().find(|removed| removed.level == level) {
            removed.rows += count;
            removed.bytes += bytes;
        } else {
            let before = Timestamp::from_millis(before.saturating_mul(table.span_ms()));
            let archived_to = self.archive.as_ref().map(|archive| archive.directory().to_owned());
            self.removed.push(Removed { level, rows: count, bytes, before, archived_to });
        }
        Ok(rows.len())
    }
}

/// One line a level for the log.
pub(super) fn log(removal: &Removal) {
    for removed in &removal.removed {
        tracing::info!(
            level = removed.level.name(),
            rows = removed.rows,
            bytes = removed.bytes,
            before = %removed.before,
            archived = removed.archived_to.is_some(),
            "history: expired values are removed"
        );
    }
    if removal.removed.is_empty() {
        tracing::debug!("history: nothing had expired");
    }
    let raw = removal.removed.iter().any(|removed| removed.level == Level::Raw);
    if removal.more && raw {
        tracing::info!("history: more has expired than one run takes away; the next one goes on");
    }
}
