//! Metrics that an administrator defined as commands, and the prefix by which the containers of a server are chosen.

use std::collections::HashMap;
use std::time::Duration;

use rusqlite::{Connection, Row, Transaction, params};

use super::{StoreError, parse};
use crate::model::{CustomMetric, CustomMetricId, OrganizationId, Selector, ServerId, Timestamp};

const COLUMNS: &str = "id, organization_id, name, description, command, sudo, interval_ms, timeout_ms, selector, enabled, \
                       created_at, updated_at, updated_by";

fn from_row(row: &Row<'_>) -> Result<CustomMetric, rusqlite::Error> {
    let text = |index: usize| row.get::<_, String>(index);
    let span = |index: usize| {
        let ms: i64 = row.get(index)?;
        Ok::<_, rusqlite::Error>(Duration::from_millis(u64::try_from(ms).unwrap_or_default()))
    };
    let selector: Selector = serde_json::from_str(&text(8)?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(8, rusqlite::types::Type::Text, Box::new(error))
    })?;
    Ok(CustomMetric {
        id: parse(&text(0)?, "id of a custom metric")?,
        organization: parse(&text(1)?, "organization of a custom metric")?,
        name: text(2)?,
        description: text(3)?,
        command: text(4)?,
        sudo: row.get(5)?,
        interval: span(6)?,
        timeout: span(7)?,
        selector,
        enabled: row.get(9)?,
        created_at: Timestamp::from_millis(row.get(10)?),
        updated_at: Timestamp::from_millis(row.get(11)?),
        updated_by: text(12)?,
    })
}

/// Every custom metric of every organization, by name.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn all(c: &Connection) -> Result<Vec<CustomMetric>, StoreError> {
    let mut statement = c.prepare_cached(&format!("SELECT {COLUMNS} FROM custom_metrics ORDER BY name"))?;
    let rows = statement.query_map([], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Stores a new metric, or a changed one in its place.
///
/// # Errors
/// [`StoreError::Conflict`]: another metric has that name.
pub fn save(tx: &Transaction<'_>, metric: &CustomMetric) -> Result<(), StoreError> {
    let selector = serde_json::to_string(&metric.selector)
        .map_err(|error| StoreError::Corrupt(format!("selector of {}: {error}", metric.name)))?;
    let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    tx.prepare_cached(&format!(
        "INSERT INTO custom_metrics ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, description = excluded.description,
             command = excluded.command, sudo = excluded.sudo, interval_ms = excluded.interval_ms,
             timeout_ms = excluded.timeout_ms, selector = excluded.selector, enabled = excluded.enabled,
             updated_at = excluded.updated_at, updated_by = excluded.updated_by"
    ))?
    .execute(params![
        metric.id.to_string(),
        metric.organization.to_string(),
        metric.name,
        metric.description,
        metric.command,
        metric.sudo,
        ms(metric.interval),
        ms(metric.timeout),
        selector,
        metric.enabled,
        metric.created_at.as_millis(),
        metric.updated_at.as_millis(),
        metric.updated_by,
    ])?;
    Ok(())
}

/// # Errors
/// [`StoreError::NotFound`] when the organization has no such metric.
pub fn remove(
    tx: &Transaction<'_>,
    organization: OrganizationId,
    id: CustomMetricId,
) -> Result<(), StoreError> {
    let removed = tx.execute(
        "DELETE FROM custom_metrics WHERE organization_id = ?1 AND id = ?2",
        [organization.to_string(), id.to_string()],
    )?;
    if removed == 0 { Err(StoreError::NotFound) } else { Ok(()) }
}

/// The beginnings of the names of containers that are looked at, by server; a server without one shows all.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn container_prefixes(c: &Connection) -> Result<HashMap<ServerId, String>, StoreError> {
    let mut statement = c.prepare_cached("SELECT server_id, prefix FROM container_filters")?;
    let rows = statement.query_map([], |row| {
        let id: String = row.get(0)?;
        Ok((parse(&id, "server of a container filter")?, row.get(1)?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Sets the beginning of the names of the containers that are looked at; empty: all.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn set_container_prefix(tx: &Transaction<'_>, server: ServerId, prefix: &str) -> Result<(), StoreError> {
    if prefix.is_empty() {
        tx.execute("DELETE FROM container_filters WHERE server_id = ?1", [server.to_string()])?;
    } else {
        tx.prepare_cached(
            "INSERT INTO container_filters (server_id, prefix) VALUES (?1, ?2)
             ON CONFLICT (server_id) DO UPDATE SET prefix = excluded.prefix",
        )?
        .execute(params![server.to_string(), prefix])?;
    }
    Ok(())
}
