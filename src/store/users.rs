//! People who may come in: users, browser sessions, and the one-time set-up secret.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{StoreError, parse};
use crate::model::{OrganizationId, Role, SessionId, Timestamp, UserId};

/// A person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub id: UserId,
    pub organization: OrganizationId,
    pub name: String,
    pub email: Option<String>,
    pub role: Role,
    /// argon2id in PHC form.
    pub password_hash: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A browser that is logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub id: SessionId,
    pub organization: OrganizationId,
    pub user: UserId,
    /// SHA-256 of the secret in the cookie.
    pub secret_hash: Vec<u8>,
    pub address: Option<String>,
    pub user_agent: String,
    pub created_at: Timestamp,
    pub last_used_at: Timestamp,
}

const USER_COLUMNS: &str = "id, organization_id, name, email, role, password_hash, created_at, updated_at";

fn user_from_row(row: &Row<'_>) -> Result<User, rusqlite::Error> {
    let text = |index: usize| row.get::<_, String>(index);
    Ok(User {
        id: parse(&text(0)?, "user id")?,
        organization: parse(&text(1)?, "organization of a user")?,
        name: text(2)?,
        email: row.get(3)?,
        role: parse(&text(4)?, "role of a user")?,
        password_hash: text(5)?,
        created_at: Timestamp::from_millis(row.get(6)?),
        updated_at: Timestamp::from_millis(row.get(7)?),
    })
}

/// # Errors
/// [`StoreError::Conflict`] when the name is taken.
pub fn insert_user(tx: &Transaction<'_>, user: &User) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO users (id, organization_id, name, email, role, password_hash, created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            user.id.to_string(),
            user.organization.to_string(),
            user.name,
            user.email,
            user.role.name(),
            user.password_hash,
            user.created_at.as_millis(),
            user.updated_at.as_millis(),
        ],
    )?;
    Ok(())
}

/// Sets a new password and ends every session of the user but `keep`.
///
/// # Errors
/// [`StoreError::NotFound`] when there is no such user.
pub fn set_password(
    tx: &Transaction<'_>,
    user: UserId,
    password_hash: &str,
    keep: Option<SessionId>,
    at: Timestamp,
) -> Result<(), StoreError> {
    let changed = tx.execute(
        "UPDATE users SET password_hash = ?2, updated_at = ?3 WHERE id = ?1",
        params![user.to_string(), password_hash, at.as_millis()],
    )?;
    if changed == 0 {
        return Err(StoreError::NotFound);
    }
    let keep = keep.map(|id| id.to_string()).unwrap_or_default();
    tx.execute("DELETE FROM sessions WHERE user_id = ?1 AND id <> ?2", [user.to_string(), keep])?;
    Ok(())
}

/// # Errors
/// [`StoreError`] of the database.
pub fn user_by_name(c: &Connection, name: &str) -> Result<Option<User>, StoreError> {
    Ok(c.prepare_cached(&format!("SELECT {USER_COLUMNS} FROM users WHERE name = ?1"))?
        .query_row([name], user_from_row)
        .optional()?)
}

/// # Errors
/// [`StoreError`] of the database.
pub fn user_by_id(c: &Connection, id: UserId) -> Result<Option<User>, StoreError> {
    Ok(c.prepare_cached(&format!("SELECT {USER_COLUMNS} FROM users WHERE id = ?1"))?
        .query_row([id.to_string()], user_from_row)
        .optional()?)
}

/// # Errors
/// [`StoreError`] of the database.
pub fn count_users(c: &Connection) -> Result<u32, StoreError> {
    Ok(c.query_row("SELECT count(*) FROM users", [], |row| row.get(0))?)
}

/// Replaces the one-time set-up secret.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn set_setup(tx: &Transaction<'_>, secret_hash: &[u8], expires_at: Timestamp) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO setup (id, secret_hash, expires_at) VALUES (1, ?1, ?2)
         ON CONFLICT (id) DO UPDATE SET secret_hash = excluded.secret_hash, expires_at = excluded.expires_at",
        params![secret_hash, expires_at.as_millis()],
    )?;
    Ok(())
}

/// The hash of the set-up secret and when it ends. None: there is none, or it was used.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn setup(c: &Connection) -> Result<Option<(Vec<u8>, Timestamp)>, StoreError> {
    Ok(c.query_row("SELECT secret_hash, expires_at FROM setup", [], |row| {
        Ok((row.get(0)?, Timestamp::from_millis(row.get(1)?)))
    })
    .optional()?)
}

/// # Errors
/// [`StoreError`] of the database.
pub fn clear_setup(tx: &Transaction<'_>) -> Result<(), StoreError> {
    tx.execute("DELETE FROM setup", [])?;
    Ok(())
}

const SESSION_COLUMNS: &str =
    "id, organization_id, user_id, secret_hash, address, user_agent, created_at, last_used_at";

fn session_from_row(row: &Row<'_>) -> Result<Session, rusqlite::Error> {
    let text = |index: usize| row.get::<_, String>(index);
    Ok(Session {
        id: parse(&text(0)?, "session id")?,
        organization: parse(&text(1)?, "organization of a session")?,
        user: parse(&text(2)?, "user of a session")?,
        secret_hash: row.get(3)?,
        address: row.get(4)?,
        user_agent: text(5)?,
        created_at: Timestamp::from_millis(row.get(6)?),
        last_used_at: Timestamp::from_millis(row.get(7)?),
    })
}

/// # Errors
/// [`StoreError`] of the database.
pub fn insert_session(tx: &Transaction<'_>, session: &Session) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO sessions (id, organization_id, user_id, secret_hash, address, user_agent, created_at, last_used_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            session.id.to_string(),
            session.organization.to_string(),
            session.user.to_string(),
            session.secret_hash,
            session.address,
            session.user_agent,
            session.created_at.as_millis(),
            session.last_used_at.as_millis(),
        ],
    )?;
    Ok(())
}

/// # Errors
/// [`StoreError`] of the database.
pub fn session_by_id(c: &Connection, id: SessionId) -> Result<Option<Session>, StoreError> {
    Ok(c.prepare_cached(&format!("SELECT {SESSION_COLUMNS} FROM sessions WHERE id = ?1"))?
        .query_row([id.to_string()], session_from_row)
        .optional()?)
}

/// Sessions of a user, the one used last first.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn sessions_of(c: &Connection, user: UserId) -> Result<Vec<Session>, StoreError> {
    let mut statement = c.prepare_cached(&format!(
        "SELECT {SESSION_COLUMNS} FROM sessions WHERE user_id = ?1 ORDER BY last_used_at DESC"
    ))?;
    let rows = statement.query_map([user.to_string()], session_from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// # Errors
/// [`StoreError`] of the database.
pub fn touch_session(tx: &Transaction<'_>, id: SessionId, at: Timestamp) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE sessions SET last_used_at = ?2 WHERE id = ?1",
        params![id.to_string(), at.as_millis()],
    )?;
    Ok(())
}

/// # Errors
/// [`StoreError::NotFound`] when the user has no such session.
pub fn remove_session(tx: &Transaction<'_>, user: UserId, id: SessionId) -> Result<(), StoreError> {
    let removed = tx
        .execute("DELETE FROM sessions WHERE user_id = ?1 AND id = ?2", [user.to_string(), id.to_string()])?;
    if removed == 0 { Err(StoreError::NotFound) } else { Ok(()) }
}

/// Removes sessions that were last used before `before`.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn remove_old_sessions(tx: &Transaction<'_>, before: Timestamp) -> Result<usize, StoreError> {
    Ok(tx.execute("DELETE FROM sessions WHERE last_used_at < ?1", [before.as_millis()])?)
}
