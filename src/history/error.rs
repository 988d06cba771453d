//! What can go wrong with history, as decisions for the caller.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use super::level::Level;

/// Why history could not be opened, read or changed. Trying again is safe for all of them.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Start a newer program, or restore the copy that was made before its migration.
    #[error(
        "the history file is of version {found}, this program knows versions up to {known}; start the newer program again or restore a backup"
    )]
    NewerVersion { found: i64, known: i64 },
    /// The file cannot be read as a whole. (A damaged chunk alone is skipped and counted.)
    #[error(
        "the history file {} is damaged ({cause}); move it away to start with an empty history, or restore a backup",
        path.display()
    )]
    Damaged { path: PathBuf, cause: String },
    #[error("the history file cannot be used: {0}")]
    Database(#[source] rusqlite::Error),
    #[error("the history file cannot be opened: {0}")]
    Start(#[from] std::io::Error),
    #[error("the history file cannot be brought up to date: {0}")]
    Migration(#[source] rusqlite_migration::Error),
    #[error("{given} points were asked for; ask for 1 to {most}")]
    BadPoints { given: usize, most: usize },
    #[error("the range ends before it begins")]
    BadRange,
    /// No series of this metric was ever seen, of no server.
    #[error("there is no history of a metric named '{0}'")]
    UnknownMetric(String),
    #[error("a percentile is a number from 0 to 100, not {0}")]
    BadPercentile(f64),
    #[error("{} history cannot be kept for {given} days: {why}", level.name())]
    BadRetention { level: Level, given: u32, why: String },
    /// Expired values stay until this is mended.
    #[error("expired values cannot be archived in {}: {cause}", path.display())]
    Archive { path: PathBuf, cause: std::io::Error },
    #[error("the answer would have over {most} points; ask for fewer points a series")]
    TooManyPoints { most: usize },
    /// A bucket could not be made into a chunk; it stays in memory and in the journal.
    #[error("values could not be sealed: {0}")]
    Seal(String),
    /// After [`super::History::close`], or the writer has ended.
    #[error("history is closed")]
    Closed,
}

impl HistoryError {
    pub(super) fn of(path: &Path, error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged { path: path.to_owned(), cause: error.to_string() }
            }
            _ => Self::Database(error),
        }
    }
}
