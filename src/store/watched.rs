//! Watched services: their definitions.

use rusqlite::{Connection, Row, Transaction, params};

use super::{StoreError, parse};
use crate::model::{OrganizationId, Timestamp, WatchedService, WatchedServiceId};

const COLUMNS: &str = "id, organization_id, name, description, keywords, start_command, stop_command, sudo, selector, \
                       created_at, updated_at, updated_by";

fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, index: usize) -> Result<T, rusqlite::Error> {
    serde_json::from_str(&row.get::<_, String>(index)?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, Box::new(error))
    })
}

fn from_row(row: &Row<'_>) -> Result<WatchedService, rusqlite::Error> {
    let text = |index: usize| row.get::<_, String>(index);
    Ok(WatchedService {
        id: parse(&text(0)?, "id of a watched service")?,
        organization: parse(&text(1)?, "organization of a watched service")?,
        name: text(2)?,
        description: text(3)?,
        keywords: json(row, 4)?,
        start_command: row.get(5)?,
        stop_command: row.get(6)?,
        sudo: row.get(7)?,
        selector: json(row, 8)?,
        created_at: Timestamp::from_millis(row.get(9)?),
        updated_at: Timestamp::from_millis(row.get(10)?),
        updated_by: text(11)?,
    })
}

/// Every watched service of every organization, by name.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn all(c: &Connection) -> Result<Vec<WatchedService>, StoreError> {
    let mut statement = c.prepare_cached(&format!("SELECT {COLUMNS} FROM watched_services ORDER BY name"))?;
    let rows = statement.query_map([], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Stores a new definition, or a changed one in its place.
///
/// # Errors
/// [`StoreError::Conflict`]: another one has that name.
pub fn save(tx: &Transaction<'_>, watched: &WatchedService) -> Result<(), StoreError> {
    let wrong = |error: serde_json::Error| StoreError::Corrupt(format!("{}: {error}", watched.name));
    let keywords = serde_json::to_string(&watched.keywords).map_err(wrong)?;
    let selector = serde_json::to_string(&watched.selector).map_err(wrong)?;
    tx.prepare_cached(&format!(
        "INSERT INTO watched_services ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, description = excluded.description,
             keywords = excluded.keywords, start_command = excluded.start_command,
             stop_command = excluded.stop_command, sudo = excluded.sudo, selector = excluded.selector,
             updated_at = excluded.updated_at, updated_by = excluded.updated_by"
    ))?
    .execute(params![
        watched.id.to_string(),
        watched.organization.to_string(),
        watched.name,
        watched.description,
        keywords,
        watched.start_command,
        watched.stop_command,
        watched.sudo,
        selector,
        watched.created_at.as_millis(),
        watched.updated_at.as_millis(),
        watched.updated_by,
    ])?;
    Ok(())
}

/// # Errors
/// [`StoreError::NotFound`] when the organization has none of this id.
pub fn remove(
    tx: &Transaction<'_>,
    organization: OrganizationId,
    id: WatchedServiceId,
) -> Result<(), StoreError> {
    let removed = tx.execute(
        "DELETE FROM watched_services WHERE organization_id = ?1 AND id = ?2",
        [organization.to_string(), id.to_string()],
    )?;
    if removed == 0 { Err(StoreError::NotFound) } else { Ok(()) }
}
