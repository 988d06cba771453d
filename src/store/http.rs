//! Servers that are asked over HTTPS: where their API is and how it proves itself.

use rusqlite::{Connection, Transaction, params};

use super::{StoreError, corrupt, parse};
use crate::model::{ApiUrl, CertificatePin, HttpSource, ServerId};

/// Of every organization, for the start of the fleet.
///
/// # Errors
/// [`StoreError::Corrupt`] names the value that does not parse.
pub fn all(c: &Connection) -> Result<Vec<(ServerId, HttpSource)>, StoreError> {
    let mut statement =
        c.prepare("SELECT server_id, api_url, ca_pem, certificate_sha256 FROM http_servers")?;
    let rows = statement.query_map([], |row| {
        let (id, url): (String, String) = (row.get(0)?, row.get(1)?);
        let pin: Option<String> = row.get(3)?;
        let wrong = |error: crate::model::InvalidHttpServer| corrupt(error.to_string());
        let source = HttpSource {
            url: ApiUrl::parse(&url).map_err(wrong)?,
            ca_pem: row.get(2)?,
            pin: pin.as_deref().map(CertificatePin::parse).transpose().map_err(wrong)?,
        };
        Ok((parse(&id, "server of an API")?, source))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Writes it, new or changed.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn save(tx: &Transaction<'_>, server: ServerId, source: &HttpSource) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO http_servers (server_id, api_url, ca_pem, certificate_sha256) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (server_id) DO UPDATE SET api_url = excluded.api_url, ca_pem = excluded.ca_pem,
             certificate_sha256 = excluded.certificate_sha256",
    )?
    .execute(params![
        server.to_string(),
        source.url.to_string(),
        source.ca_pem,
        source.pin.map(|pin| pin.to_string()),
    ])?;
    Ok(())
}
