//! How Roundsman logs in to servers: the second identity, what it has to send, and how often it logged in.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{StoreError, corrupt, parse};
use crate::model::{ActionLogin, KeyId, Login, LoginMethod, SecretKind, ServerId};

/// Days of login counts that are kept: a month, to compare with.
const KEPT_DAYS: i64 = 31;

/// A login from three columns: method, key, agent key.
pub(super) fn login(
    method: &str,
    key: Option<&str>,
    agent_key: Option<String>,
) -> Result<Login, rusqlite::Error> {
    Ok(Login {
        method: parse::<LoginMethod>(method, "login method")?,
        key: key.map(|id| parse::<KeyId>(id, "key of a login")).transpose()?,
        agent_key,
    })
}

/// Writes the second identity of a server, or that it has none.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn set_action(
    tx: &Transaction<'_>,
    server: ServerId,
    action: Option<&ActionLogin>,
) -> Result<(), StoreError> {
    let Some(ActionLogin { username, login }) = action else {
        tx.prepare_cached("DELETE FROM action_logins WHERE server_id = ?1")?.execute([server.to_string()])?;
        return Ok(());
    };
    tx.prepare_cached(
        "INSERT INTO action_logins (server_id, username, login_method, key_id, agent_key) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (server_id) DO UPDATE SET username = excluded.username, login_method = excluded.login_method,
             key_id = excluded.key_id, agent_key = excluded.agent_key",
    )?
    .execute(params![
        server.to_string(),
        username,
        login.method.name(),
        login.key.map(|key| key.to_string()),
        login.agent_key,
    ])?;
    Ok(())
}

/// The associated data under which a secret of a server is sealed: it opens for this server and this use only.
#[must_use]
pub fn secret_row(server: ServerId, kind: SecretKind) -> String {
    format!("{server} {kind}")
}

/// Keeps a sealed secret in place of an earlier one; None removes it.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn set_secret(
    tx: &Transaction<'_>,
    server: ServerId,
    kind: SecretKind,
    sealed: Option<&[u8]>,
) -> Result<(), StoreError> {
    match sealed {
        Some(sealed) => tx
            .prepare_cached(
                "INSERT INTO server_secrets (server_id, kind, sealed) VALUES (?1, ?2, ?3)
                 ON CONFLICT (server_id, kind) DO UPDATE SET sealed = excluded.sealed",
            )?
            .execute(params![server.to_string(), kind.name(), sealed])?,
        None => tx
            .prepare_cached("DELETE FROM server_secrets WHERE server_id = ?1 AND kind = ?2")?
            .execute(params![server.to_string(), kind.name()])?,
    };
    Ok(())
}

/// A sealed secret. None: there is none.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn secret(c: &Connection, server: ServerId, kind: SecretKind) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(c.prepare_cached("SELECT sealed FROM server_secrets WHERE server_id = ?1 AND kind = ?2")?
        .query_row(params![server.to_string(), kind.name()], |row| row.get(0))
        .optional()?)
}

/// Which kinds a comma-separated list of stored words names, in the order of [`SecretKind::ALL`].
pub(super) fn kinds(words: Option<&str>) -> Result<Vec<SecretKind>, rusqlite::Error> {
    let mut kinds = words
        .into_iter()
        .flat_map(|words| words.split(','))
        .map(|word| word.parse().map_err(|error| corrupt(format!("secret of a server: {error}"))))
        .collect::<Result<Vec<SecretKind>, _>>()?;
    kinds.sort();
    Ok(kinds)
}

/// Sets how often servers were logged in to on a day (days since 1970, UTC); servers that are gone are left out.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn set_counts(tx: &Transaction<'_>, day: i64, counts: &HashMap<ServerId, u32>) -> Result<(), StoreError> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO login_counts (server_id, day, logins) SELECT id, ?2, ?3 FROM servers WHERE id = ?1
         ON CONFLICT (server_id, day) DO UPDATE SET logins = excluded.logins",
    )?;
    for (server, logins) in counts {
        statement.execute(params![server.to_string(), day, logins])?;
    }
    Ok(())
}

/// How often each server was logged in to on a day; those that were not are missing.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn counts_of_day(c: &Connection, day: i64) -> Result<HashMap<ServerId, u32>, StoreError> {
    let mut statement = c.prepare_cached("SELECT server_id, logins FROM login_counts WHERE day = ?1")?;
    let rows = statement.query_map([day], |row| {
        let id: String = row.get(0)?;
        Ok((parse(&id, "server of a login count")?, row.get(1)?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Removes the counts of days that nobody compares with any longer.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn forget_counts_before(tx: &Transaction<'_>, today: i64) -> Result<(), StoreError> {
    tx.execute("DELETE FROM login_counts WHERE day < ?1", [today - KEPT_DAYS])?;
    Ok(())
}
