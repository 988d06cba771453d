//! Reading around damage: what SQLite can still read of a table when a page of the file makes no sense.
//!
//! Never writes.

use rusqlite::{Connection, OptionalExtension};

/// Damaged pages that a look at the keys of a table steps over; a file with more is lost anyway.
const MAX_DAMAGED_PAGES: u64 = 64;

/// Whether SQLite says that what it read makes no sense: one page may be all that is wrong.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt)
}

/// Keys of a table, as far as they can be read.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pub(super) keys: Vec<i64>,
    /// Places that SQLite could not read; each hides some keys.
    pub(super) damaged: u64,
}

/// Keys from `least` on, newest first; a page that makes no sense is stepped over.
pub(super) fn readable_keys(db: &Connection, table: &str, least: i64) -> rusqlite::Result<Keys> {
    let mut found = Keys::default();
    let mut most = i64::MAX;
    let sql = format!("SELECT k FROM {table} WHERE k BETWEEN ? AND ? ORDER BY k DESC");
    let mut statement = db.prepare(&sql)?;
    loop {
        let mut rows = statement.query([least, most])?;
        let damage = loop {
            match rows.next() {
                Ok(Some(row)) => found.keys.push(row.get(0)?),
                Ok(None) => return Ok(found),
                Err(error) if is_damage(&error) => break error,
                Err(error) => return Err(error),
            }
        };
        found.damaged += 1;
        let above = found.keys.last().map_or(most, |last| last.saturating_sub(1));
        tracing::error!(table, error = %damage, "history: a page is damaged; its rows are skipped");
        match (found.damaged < MAX_DAMAGED_PAGES).then(|| readable_below(db, table, least, above)) {
            Some(Ok(Some(next))) => most = next,
            Some(Err(error)) => return Err(error),
            Some(Ok(None)) | None => return Ok(found),
        }
    }
}

/// The greatest key up to `most` behind a place that cannot be read. None: there is none from `least` on.
pub(super) fn readable_below(
    db: &Connection,
    table: &str,
    least: i64,
    most: i64,
) -> rusqlite::Result<Option<i64>> {
    let sql = format!("SELECT k FROM {table} WHERE k BETWEEN ?1 AND ?2 ORDER BY k DESC LIMIT 1");
    search(db, &sql, most, least, |tried| [least, tried])
}

/// The least key from `least` on behind a place that cannot be read. None: there is none up to `most`.
pub(super) fn readable_above(
    db: &Connection,
    table: &str,
    least: i64,
    most: i64,
) -> rusqlite::Result<Option<i64>> {
    let sql = format!("SELECT k FROM {table} WHERE k BETWEEN ?1 AND ?2 ORDER BY k LIMIT 1");
    search(db, &sql, least, most, |tried| [tried, most])
}

/// Halves the way from `near`, where nothing can be read, to `far`, until it stands behind the damage: some 60 questions.
fn search(
    db: &Connection,
    sql: &str,
    near: i64,
    far: i64,
    bounds: impl Fn(i64) -> [i64; 2],
) -> rusqlite::Result<Option<i64>> {
    let mut statement = db.prepare_cached(sql)?;
    let (mut near, mut far) = (i128::from(near), i128::from(far));
    let mut best = None;
    loop {
        let tried = near + (far - near) / 2;
        let asked = i64::try_from(tried).unwrap_or(i64::MAX);
        match statement.query_row(bounds(asked), |row| row.get(0)).optional() {
            Ok(found) => {
                best = found.or(best);
                if far == tried {
                    return Ok(best);
                }
                far = tried;
            }
            Err(error) if is_damage(&error) => {
                if near == tried {
                    return Ok(best);
                }
                near = tried;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Every row of a table with the columns `k` and `b` that can be read, in order of its key, one in memory at a time. The answer is how many
/// places SQLite could not read; each hides one row or more.
pub(super) fn each_blob(
    db: &Connection,
    table: &str,
    mut visit: impl FnMut(i64, &[u8]),
) -> rusqlite::Result<u64> {
    let mut statement = db.prepare(&format!("SELECT k, b FROM {table} WHERE k >= ? ORDER BY k"))?;
    let (mut next, mut damaged) = (i64::MIN, 0);
    loop {
        let mut rows = statement.query([next])?;
        let damage = loop {
            match rows.next() {
                Ok(Some(row)) => {
                    let key: i64 = row.get(0)?;
                    visit(key, row.get_ref(1)?.as_blob()?);
                    match key.checked_add(1) {
                        Some(above) => next = above,
                        None => return Ok(damaged),
                    }
                }
                Ok(None) => return Ok(damaged),
                Err(error) if is_damage(&error) => break error,
                Err(error) => return Err(error),
            }
        };
        damaged += 1;
        if damaged >= MAX_DAMAGED_PAGES {
            return Err(damage);
        }
        match readable_above(db, table, next, i64::MAX)? {
            // Its key can be read and its value cannot.
            Some(key) if key == next => next = next.saturating_add(1),
            Some(key) => next = key,
            None => return Ok(damaged),
        }
    }
}
