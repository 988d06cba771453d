//! Reads one row of the file. Damage, by the row's checksum or by SQLite's word, is reported and costs this row alone.

use rusqlite::Connection;

use super::Shared;
use super::chunk::Chunk;
use super::damage;
use super::database::{self, Table};
use super::error::HistoryError;
use super::series::SeriesId;

/// What the file has of a row.
#[derive(Debug)]
pub(super) enum Stored {
    Missing,
    /// There is something, and it cannot be read. Counted and logged.
    Damaged,
    Chunk(Chunk),
}

/// The columns of a row that are `wanted`.
///
/// # Errors
/// The file as a whole cannot be read now.
pub(super) fn read(
    db: &Connection,
    shared: &Shared,
    table: Table,
    row: i64,
    server: u32,
    wanted: impl Fn(SeriesId) -> bool,
) -> Result<Stored, HistoryError> {
    let blob = match database::get_row(db, table, row, server) {
        Ok(Some(blob)) => blob,
        Ok(None) => return Ok(Stored::Missing),
        Err(error) if damage::is_damage(&error) => {
            shared.damaged(table, row, server, &error);
            return Ok(Stored::Damaged);
        }
        Err(error) => return Err(HistoryError::of(&shared.path, error)),
    };
    match Chunk::decode(&blob, wanted) {
        Ok(chunk) => Ok(Stored::Chunk(chunk)),
        Err(error) => {
            shared.damaged(table, row, server, &error);
            Ok(Stored::Damaged)
        }
    }
}
