//! What an administrator set while the program runs: one JSON value a name, for each organization.

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{StoreError, parse};
use crate::model::{OrganizationId, ServerNumber, Timestamp};

/// Name of [`crate::model::Retention`].
pub const RETENTION: &str = "retention";

/// How often heavy sections are read where a server says nothing of its own: milliseconds, `u32`.
pub const HEAVY_INTERVAL: &str = "heavy_interval_ms";

/// What happens where another operation is under way: [`crate::model::WhenBusy`].
pub const WHEN_BUSY: &str = "when_busy";

/// Numbers of removed servers whose samples may still be there: `Vec<u32>`.
const TO_FORGET: &str = "servers_to_forget";

/// Numbers of the servers whose samples are to go from history.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn to_forget(c: &Connection) -> Result<Vec<ServerNumber>, StoreError> {
    let numbers: Option<Vec<u32>> = get(c, OrganizationId::DEFAULT, TO_FORGET)?;
    Ok(numbers.unwrap_or_default().into_iter().map(ServerNumber).collect())
}

/// Notes, together with the removal of a server, that its samples are to go too.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn note_to_forget(tx: &Transaction<'_>, at: Timestamp, number: ServerNumber) -> Result<(), StoreError> {
    let mut numbers = to_forget(tx)?;
    numbers.push(number);
    set_to_forget(tx, at, &numbers)
}

/// History has forgotten this server.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn forgotten(tx: &Transaction<'_>, at: Timestamp, number: ServerNumber) -> Result<(), StoreError> {
    let mut numbers = to_forget(tx)?;
    numbers.retain(|other| *other != number);
    set_to_forget(tx, at, &numbers)
}

fn set_to_forget(tx: &Transaction<'_>, at: Timestamp, numbers: &[ServerNumber]) -> Result<(), StoreError> {
    let numbers: Vec<u32> = numbers.iter().map(|number| number.0).collect();
    set(tx, OrganizationId::DEFAULT, TO_FORGET, &numbers, (at, "roundsman"))
}

/// The stored value. None: nobody set it, so it has its default.
///
/// # Errors
/// [`StoreError::Corrupt`] when what is stored is no such value.
pub fn get<T: DeserializeOwned>(
    c: &Connection,
    organization: OrganizationId,
    name: &str,
) -> Result<Option<T>, StoreError> {
    let text: Option<String> = c
        .prepare_cached("SELECT value FROM settings WHERE organization_id = ?1 AND name = ?2")?
        .query_row([organization.to_string().as_str(), name], |row| row.get(0))
        .optional()?;
    text.map(|text| {
        serde_json::from_str(&text).map_err(|error| StoreError::Corrupt(format!("setting {name}: {error}")))
    })
    .transpose()
}

/// What was set under this name, by organization.
///
/// # Errors
/// [`StoreError::Corrupt`] when what is stored is no such value.
pub fn of_all<T: DeserializeOwned>(
    c: &Connection,
    name: &str,
) -> Result<Vec<(OrganizationId, T)>, StoreError> {
    let mut statement = c.prepare_cached("SELECT organization_id, value FROM settings WHERE name = ?1")?;
    let rows = statement.query_map([name], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    rows.map(|row| {
        let (organization, text) = row?;
        let value = serde_json::from_str(&text)
            .map_err(|error| StoreError::Corrupt(format!("setting {name}: {error}")))?;
        Ok((parse(&organization, "organization of a setting")?, value))
    })
    .collect()
}

/// Stores a value in place of the one before.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn set<T: Serialize>(
    tx: &Transaction<'_>,
    organization: OrganizationId,
    name: &str,
    value: &T,
    (at, by): (Timestamp, &str),
) -> Result<(), StoreError> {
    let text = serde_json::to_string(value)
        .map_err(|error| StoreError::Corrupt(format!("setting {name}: {error}")))?;
    tx.prepare_cached(
        "INSERT INTO settings (organization_id, name, value, updated_at, updated_by) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (organization_id, name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at,
             updated_by = excluded.updated_by",
    )?
    .execute(params![organization.to_string(), name, text, at.as_millis(), by])?;
    Ok(())
}
