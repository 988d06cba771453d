//! How large history is and whether it is whole. Reads only, with short statements.

use rusqlite::Connection;
use serde::Serialize;

use super::Shared;
use super::chunk::Chunk;
use super::damage;
use super::database::{self, Table};
use super::error::HistoryError;
use super::level::{DAY_MS, Level};
use super::retention::Retention;
use super::rollup::Row;
use crate::model::Timestamp;

/// Problems that a report lists; the rest is counted.
const MAX_PROBLEMS: usize = 100;

/// One level of the history.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LevelSize {
    pub level: Level,
    /// One row holds all series of one server for a span of time.
    pub rows: u64,
    pub bytes: u64,
    /// Start of the oldest and end of the newest row. None: there is no row.
    pub oldest: Option<Timestamp>,
    pub newest: Option<Timestamp>,
    /// How many bytes a day of history takes at this level; 0 where there is less than one row.
    pub bytes_a_day: f64,
    pub retention_days: u32,
    /// What this level will take when its retention is full, if the fleet stays as it is.
    pub expected_bytes: f64,
}

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sizes {
    pub levels: Vec<LevelSize>,
    /// `history.db` with its write-ahead log.
    pub file_bytes: u64,
    /// Of these, free for what comes.
    pub free_bytes: u64,
    /// Not sealed yet.
    pub journal_rows: u64,
    pub series: u64,
}

/// What [`super::History::check_integrity`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Integrity {
    /// Sentences, at most 100; empty: all is well.
    pub problems: Vec<String>,
    /// How many there are.
    pub problem_count: u64,
    /// Rows that were read and decoded.
    pub rows: u64,
}

impl Integrity {
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        self.problem_count == 0
    }

    fn add(&mut self, problem: String) {
        self.problem_count += 1;
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }
}

pub(super) fn sizes(db: &Connection, shared: &Shared, retention: &Retention) -> rusqlite::Result<Sizes> {
    let mut levels: Vec<LevelSize> = Vec::new();
    for table in Table::ALL {
        let (rows, bytes) = database::totals(db, table)?;
        let span = database::row_span(db, table)?;
        let oldest = span.map(|(first, _)| Timestamp::from_millis(first.saturating_mul(table.span_ms())));
        let newest = span.map(|(_, last)| Timestamp::from_millis((last + 1).saturating_mul(table.span_ms())));
        let level = table.level();
        let retention_days = retention.days(level);
        if let Some(known) = levels.iter_mut().find(|known| known.level == level) {
            known.rows += rows;
            known.bytes += bytes;
            known.oldest = known.oldest.into_iter().chain(oldest).min();
            known.newest = known.newest.into_iter().chain(newest).max();
            continue;
        }
        let (bytes_a_day, expected_bytes) = (0.0, 0.0);
        levels.push(LevelSize {
            level,
            rows,
            bytes,
            oldest,
            newest,
            bytes_a_day,
            retention_days,
            expected_bytes,
        });
    }
    for level in &mut levels {
        if let (Some(oldest), Some(newest)) = (level.oldest, level.newest) {
            let days = newest.since(oldest).as_millis() as f64 / DAY_MS as f64;
            level.bytes_a_day = level.bytes as f64 / days.max(f64::MIN_POSITIVE);
            level.expected_bytes = level.bytes_a_day * f64::from(level.retention_days);
        }
    }
    let (page, free) = database::free_pages(db)?;
    Ok(Sizes {
        levels,
        file_bytes: file_bytes(shared),
        free_bytes: page.saturating_mul(free),
        journal_rows: database::journal_rows(db)?,
        series: shared.memory().dictionary.len() as u64,
    })
}

fn file_bytes(shared: &Shared) -> u64 {
    let mut log = shared.path.clone().into_os_string();
    log.push("-wal");
    let length = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |data| data.len());
    length(&shared.path) + length(std::path::Path::new(&log))
}

/// SQLite's own check, then every row of every table.
pub(super) fn check(db: &Connection, shared: &Shared) -> Result<Integrity, HistoryError> {
    let failed = |error| HistoryError::of(&shared.path, error);
    let mut found = Integrity { problems: Vec::new(), problem_count: 0, rows: 0 };
    for problem in database::integrity(db, MAX_PROBLEMS).map_err(failed)? {
        found.add(format!("history.db: {problem}"));
    }
    for table in Table::ALL {
        let name = table.name();
        let keys = database::keys_from(db, table, 0).map_err(failed)?;
        if keys.damaged > 0 {
            found.add(format!("{name}: {} pages cannot be read, and the rows on them", keys.damaged));
        }
        for key in keys.keys {
            let (row, server) = database::split_key(key);
            let problem = match database::get_row(db, table, row, server) {
                // Removed meanwhile.
                Ok(None) => continue,
                Ok(Some(blob)) => problem_of(table, &blob),
                Err(error) if damage::is_damage(&error) => Some(error.to_string()),
                Err(error) => return Err(failed(error)),
            };
            found.rows += 1;
            if let Some(problem) = problem {
                shared.damaged(table, row, server, &problem);
                let from = Timestamp::from_millis(row.saturating_mul(table.span_ms()));
                found.add(format!("{name} of server {server} from {from}: {problem}"));
            }
        }
    }
    Ok(found)
}

fn problem_of(table: Table, blob: &[u8]) -> Option<String> {
    match Chunk::decode(blob, |_| true) {
        Ok(_) if table.level() == Level::Raw => None,
        Ok(chunk) if Row::of_chunk(&chunk).is_some() => None,
        Ok(_) => Some("its columns do not fit together".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}
