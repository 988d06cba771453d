//! What was done to a server in a span of time, for the marks on its charts. Reads only.

use rusqlite::{Connection, params};

use super::{StoreError, parse};
use crate::model::{OperationId, OperationStatus, OrganizationId, ServerId, Timestamp};

/// One operation that had the server among its targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    pub id: OperationId,
    pub title: String,
    pub status: OperationStatus,
    pub initiated_by: String,
    /// When it began, or was asked for while it waits.
    pub at: Timestamp,
    /// None: it runs.
    pub completed_at: Option<Timestamp>,
}

/// The operations of a server that began from `from` to `to`, newest first, at most `limit`.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn operations_of_server(
    c: &Connection,
    organization: OrganizationId,
    server: ServerId,
    (from, to): (Timestamp, Timestamp),
    limit: u32,
) -> Result<Vec<Done>, StoreError> {
    let mut statement = c.prepare_cached(
        "SELECT o.id, o.title, o.status, o.initiated_by, o.created_at, o.started_at, o.completed_at
         FROM operation_targets t JOIN operations o ON o.id = t.operation_id
         WHERE t.server_id = ?1 AND o.organization_id = ?2
           AND coalesce(o.started_at, o.created_at) BETWEEN ?3 AND ?4
         ORDER BY o.created_at DESC, o.id DESC LIMIT ?5",
    )?;
    let parameters =
        params![server.to_string(), organization.to_string(), from.as_millis(), to.as_millis(), limit];
    let rows = statement.query_map(parameters, |row| {
        let time = |index: usize| row.get::<_, Option<i64>>(index).map(|ms| ms.map(Timestamp::from_millis));
        Ok(Done {
            id: parse(&row.get::<_, String>(0)?, "operation id")?,
            title: row.get(1)?,
            status: parse(&row.get::<_, String>(2)?, "status of an operation")?,
            initiated_by: row.get(3)?,
            at: time(5)?.unwrap_or(Timestamp::from_millis(row.get(4)?)),
            completed_at: time(6)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
