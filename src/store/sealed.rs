//! Every value that is stored sealed, for a change of the master key: nothing may stay under the old one.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{StoreError, logins, parse};
use crate::model::SecretKind;

/// The columns that hold sealed values; a test holds this list against the schema.
#[cfg(test)]
const COLUMNS: [(&str, &str); 2] = [("keys", "sealed_private"), ("server_secrets", "sealed")];

/// One sealed value, with the row that is authenticated with it.
struct Value {
    place: Place,
    row: String,
    sealed: Vec<u8>,
}

enum Place {
    Key { id: String },
    ServerSecret { server: String, kind: String },
}

fn all(c: &Connection) -> Result<Vec<Value>, StoreError> {
    let mut found = Vec::new();
    let mut keys = c.prepare("SELECT id, sealed_private FROM keys")?;
    let mut rows = keys.query([])?;
    while let Some(row) = rows.next()? {
        let id: String = row.get(0)?;
        found.push(Value { row: id.clone(), place: Place::Key { id }, sealed: row.get(1)? });
    }
    let mut secrets = c.prepare("SELECT server_id, kind, sealed FROM server_secrets")?;
    let mut rows = secrets.query([])?;
    while let Some(row) = rows.next()? {
        let (server, kind): (String, String) = (row.get(0)?, row.get(1)?);
        let of: SecretKind = parse(&kind, "kind of a secret")?;
        let name = logins::secret_row(parse(&server, "server of a secret")?, of);
        found.push(Value { row: name, place: Place::ServerSecret { server, kind }, sealed: row.get(2)? });
    }
    Ok(found)
}

/// Replaces every sealed value by what `reseal` makes of it (row, sealed before); answers how many there were.
///
/// # Errors
/// What `reseal` answered, or [`StoreError`] of the database; then nothing is changed.
pub fn replace_all<E: From<StoreError>>(
    tx: &Transaction<'_>,
    reseal: impl Fn(&str, &[u8]) -> Result<Vec<u8>, E>,
) -> Result<usize, E> {
    let values = all(tx)?;
    for Value { place, row, sealed } in &values {
        let sealed = reseal(row, sealed)?;
        let changed = match place {
            Place::Key { id } => {
                tx.execute("UPDATE keys SET sealed_private = ?2 WHERE id = ?1", params![id, sealed])
            }
            Place::ServerSecret { server, kind } => tx.execute(
                "UPDATE server_secrets SET sealed = ?3 WHERE server_id = ?1 AND kind = ?2",
                params![server, kind, sealed],
            ),
        };
        changed.map_err(StoreError::from)?;
    }
    Ok(values.len())
}

/// One sealed value with its row, to try a master key on. None: nothing is sealed yet.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn sample(c: &Connection) -> Result<Option<(String, Vec<u8>)>, StoreError> {
    Ok(c.query_row("SELECT id, sealed_private FROM keys LIMIT 1", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_for_sealed_values_is_known_here() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("roundsman.db");
        drop(super::super::Store::open(&path).unwrap());
        let connection = Connection::open(&path).unwrap();
        let sql = "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c
                   WHERE m.type = 'table' AND c.name LIKE '%sealed%' ORDER BY 1";
        let mut statement = connection.prepare(sql).unwrap();
        let found: Vec<(String, String)> = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        let known: Vec<(String, String)> =
            COLUMNS.iter().map(|(table, column)| ((*table).to_owned(), (*column).to_owned())).collect();
        assert_eq!(found, known, "a new sealed column has to be resealed with the others");
    }
}
