//! Groups with the members that were chosen by hand, and what services need each other.

use rusqlite::{Connection, Row, Transaction, params};

use super::{StoreError, corrupt, parse};
use crate::model::{Dependency, Group, GroupId, GroupName, OrganizationId, ServerId, Timestamp};

/// Groups by name, and which server was put into which by hand.
pub type Stored = (Vec<Group>, Vec<(GroupId, ServerId)>);

fn group_from_row(row: &Row<'_>) -> Result<Group, rusqlite::Error> {
    let text = |index: usize| row.get::<_, String>(index);
    let filter = row
        .get::<_, Option<String>>(5)?
        .map(|filter| serde_json::from_str(&filter).map_err(|e| corrupt(format!("filter of a group: {e}"))))
        .transpose()?;
    Ok(Group {
        id: parse(&text(0)?, "id of a group")?,
        organization: parse(&text(1)?, "organization of a group")?,
        name: GroupName::parse(&text(2)?).map_err(|e| corrupt(e.to_string()))?,
        description: text(3)?,
        colour: parse(&text(4)?, "colour of a group")?,
        filter,
        created_at: Timestamp::from_millis(row.get(6)?),
        updated_at: Timestamp::from_millis(row.get(7)?),
    })
}

fn all(c: &Connection) -> Result<Vec<Group>, StoreError> {
    let mut statement = c.prepare_cached(
        "SELECT id, organization_id, name, description, colour, filter, created_at, updated_at
         FROM server_groups ORDER BY name",
    )?;
    let rows = statement.query_map([], group_from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn members(c: &Connection) -> Result<Vec<(GroupId, ServerId)>, StoreError> {
    let mut statement = c.prepare_cached("SELECT group_id, server_id FROM group_members")?;
    let rows = statement.query_map([], |row| {
        Ok((
            parse(&row.get::<_, String>(0)?, "group of a member")?,
            parse(&row.get::<_, String>(1)?, "server of a group")?,
        ))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Every group with the members that were chosen by hand.
///
/// # Errors
/// [`StoreError::Corrupt`] names the value that does not parse.
pub fn all_with_members(c: &Connection) -> Result<Stored, StoreError> {
    Ok((all(c)?, members(c)?))
}

/// Writes a group, new or changed.
///
/// # Errors
/// [`StoreError::Conflict`] when another group of the organization has the name.
pub fn save(tx: &Transaction<'_>, group: &Group) -> Result<(), StoreError> {
    let filter = group
        .filter
        .as_ref()
        .map(serde_json::to_string)
        .transpose()
        .map_err(|error| StoreError::Corrupt(error.to_string()))?;
    tx.prepare_cached(
        "INSERT INTO server_groups (id, organization_id, name, description, colour, filter, created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, description = excluded.description,
             colour = excluded.colour, filter = excluded.filter, updated_at = excluded.updated_at",
    )?
    .execute(params![
        group.id.to_string(),
        group.organization.to_string(),
        group.name.as_str(),
        group.description,
        group.colour.name(),
        filter,
        group.created_at.as_millis(),
        group.updated_at.as_millis(),
    ])?;
    Ok(())
}

/// Deletes a group; its servers stay.
///
/// # Errors
/// [`StoreError::NotFound`] when the organization has no such group.
pub fn delete(tx: &Transaction<'_>, organization: OrganizationId, id: GroupId) -> Result<(), StoreError> {
    let deleted = tx.execute(
        "DELETE FROM server_groups WHERE organization_id = ?1 AND id = ?2",
        [organization.to_string(), id.to_string()],
    )?;
    if deleted == 0 { Err(StoreError::NotFound) } else { Ok(()) }
}

/// Puts a server into a group; again is no error.
///
/// # Errors
/// [`StoreError::Conflict`] when group or server are gone.
pub fn add_member(
    tx: &Transaction<'_>,
    organization: OrganizationId,
    group: GroupId,
    server: ServerId,
    now: Timestamp,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO group_members (group_id, server_id, organization_id, added_at) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (group_id, server_id) DO NOTHING",
    )?
    .execute(params![
        group.to_string(),
        server.to_string(),
        organization.to_string(),
        now.as_millis()
    ])?;
    Ok(())
}

/// Takes a server out of a group; one that is not in it is no error.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn remove_member(
    tx: &Transaction<'_>,
    organization: OrganizationId,
    group: GroupId,
    server: ServerId,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "DELETE FROM group_members WHERE group_id = ?1 AND server_id = ?2 AND organization_id = ?3",
    )?
    .execute([group.to_string(), server.to_string(), organization.to_string()])?;
    Ok(())
}

/// Every dependency of every organization, in the order in which they were made.
///
/// # Errors
/// [`StoreError::Corrupt`] names the value that does not parse.
pub fn dependencies(c: &Connection) -> Result<Vec<Dependency>, StoreError> {
    let mut statement = c.prepare_cached(
        "SELECT id, organization_id, server_id, service, needs_server_id, needs_service, created_at
         FROM service_dependencies ORDER BY created_at, id",
    )?;
    let rows = statement.query_map([], |row| {
        let text = |index: usize| row.get::<_, String>(index);
        Ok(Dependency {
            id: parse(&text(0)?, "id of a dependency")?,
            organization: parse(&text(1)?, "organization of a dependency")?,
            server: parse(&text(2)?, "server of a dependency")?,
            service: text(3)?,
            needs_server: parse(&text(4)?, "needed server of a dependency")?,
            needs_service: text(5)?,
            created_at: Timestamp::from_millis(row.get(6)?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// # Errors
/// [`StoreError::Conflict`] when it is there already, or one of the servers is gone.
pub fn add_dependency(tx: &Transaction<'_>, new: &Dependency) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO service_dependencies
             (id, organization_id, server_id, service, needs_server_id, needs_service, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        new.id.to_string(),
        new.organization.to_string(),
        new.server.to_string(),
        new.service,
        new.needs_server.to_string(),
        new.needs_service,
        new.created_at.as_millis(),
    ])?;
    Ok(())
}

/// # Errors
/// [`StoreError::NotFound`] when the organization has no such dependency.
pub fn remove_dependency(
    tx: &Transaction<'_>,
    organization: OrganizationId,
    id: crate::model::DependencyId,
) -> Result<(), StoreError> {
    let removed = tx.execute(
        "DELETE FROM service_dependencies WHERE organization_id = ?1 AND id = ?2",
        [organization.to_string(), id.to_string()],
    )?;
    if removed == 0 { Err(StoreError::NotFound) } else { Ok(()) }
}
