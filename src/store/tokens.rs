//! Bearer tokens of programs: with a role, with the scope `enrol`, or of one server.

use std::net::IpAddr;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{StoreError, corrupt, parse};
use crate::model::{OrganizationId, Rights, ServerId, Timestamp, TokenId};

/// A network whose addresses may use a token, as it was written: `10.0.0.0/8`, `192.0.2.7`, `fd00::/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// None: it is neither an address nor a network.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.trim().split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text.trim(), None),
        };
        let address = address.parse::<IpAddr>().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = prefix.map_or(Some(longest), |digits| digits.parse().ok())?;
        (prefix_bits <= longest).then_some(Self { address, prefix_bits })
    }

    /// An IPv4 address that came over an IPv6 socket is judged as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let shared = |left: u128, right: u128, bits: u32| {
            let unused = bits.saturating_sub(u32::from(self.prefix_bits));
            left.checked_shr(unused).unwrap_or(0) == right.checked_shr(unused).unwrap_or(0)
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                shared(own.to_bits().into(), other.to_bits().into(), u32::BITS)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => shared(own.to_bits(), other.to_bits(), u128::BITS),
            _ => false,
        }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

/// A bearer token of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub id: TokenId,
    pub organization: OrganizationId,
    pub name: String,
    pub rights: Rights,
    /// SHA-256 of its secret part.
    pub secret_hash: Vec<u8>,
    /// The secret before the last rotation and when it ends.
    pub previous: Option<(Vec<u8>, Timestamp)>,
    pub created_by: String,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    /// Empty: from anywhere.
    pub allowed_from: Vec<Network>,
    /// None: no limit.
    pub requests_per_minute: Option<u32>,
}

const COLUMNS: &str = "id, organization_id, name, role, secret_hash, created_by, created_at, expires_at, last_used_at, \
     revoked_at, server_id, allowed_from, requests_per_minute, previous_hash, previous_until";

fn rights(word: &str, server: Option<String>) -> Result<Rights, rusqlite::Error> {
    match (word, server) {
        ("enrol", None) => Ok(Rights::Enrol),
        ("server", Some(id)) => Ok(Rights::Server(parse(&id, "server of a token")?)),
        (role, None) => Ok(Rights::Role(parse(role, "role of a token")?)),
        (other, Some(_)) => Err(corrupt(format!("a token of one server with the role {other}"))),
    }
}

fn from_row(row: &Row<'_>) -> Result<Token, rusqlite::Error> {
    let text = |index: usize| row.get::<_, String>(index);
    let time =
        |index: usize| row.get::<_, Option<i64>>(index).map(|millis| millis.map(Timestamp::from_millis));
    let networks: Vec<String> =
        serde_json::from_str(&text(11)?).map_err(|e| corrupt(format!("networks of a token: {e}")))?;
    Ok(Token {
        id: parse(&text(0)?, "token id")?,
        organization: parse(&text(1)?, "organization of a token")?,
        name: text(2)?,
        rights: rights(&text(3)?, row.get(10)?)?,
        secret_hash: row.get(4)?,
        previous: row.get::<_, Option<Vec<u8>>>(13)?.zip(time(14)?),
        created_by: text(5)?,
        created_at: Timestamp::from_millis(row.get(6)?),
        expires_at: time(7)?,
        last_used_at: time(8)?,
        revoked_at: time(9)?,
        allowed_from: networks
            .iter()
            .map(|text| Network::parse(text).ok_or_else(|| corrupt(format!("network of a token: {text}"))))
            .collect::<Result<_, _>>()?,
        requests_per_minute: row.get(12)?,
    })
}

/// # Errors
/// [`StoreError`] of the database.
pub fn insert(tx: &Transaction<'_>, token: &Token) -> Result<(), StoreError> {
    let server = match token.rights {
        Rights::Server(id) => Some(id.to_string()),
        Rights::Role(_) | Rights::Enrol => None,
    };
    let networks: Vec<String> = token.allowed_from.iter().map(ToString::to_string).collect();
    tx.execute(
        "INSERT INTO tokens (id, organization_id, name, role, secret_hash, created_by, created_at, expires_at, server_id,
             allowed_from, requests_per_minute)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        params![
            token.id.to_string(),
            token.organization.to_string(),
            token.name,
            token.rights.name(),
            token.secret_hash,
            token.created_by,
            token.created_at.as_millis(),
            token.expires_at.map(Timestamp::as_millis),
            server,
            serde_json::to_string(&networks).map_err(|e| StoreError::Corrupt(e.to_string()))?,
            token.requests_per_minute,
        ],
    )?;
    Ok(())
}

/// # Errors
/// [`StoreError`] of the database.
pub fn by_id(c: &Connection, id: TokenId) -> Result<Option<Token>, StoreError> {
    Ok(c.prepare_cached(&format!("SELECT {COLUMNS} FROM tokens WHERE id = ?1"))?
        .query_row([id.to_string()], from_row)
        .optional()?)
}

/// The token of a server that is still valid as far as revocation goes, the newest first. None: it has none.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn of_server(c: &Connection, server: ServerId) -> Result<Option<Token>, StoreError> {
    Ok(c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM tokens WHERE server_id = ?1 AND revoked_at IS NULL ORDER BY created_at DESC LIMIT 1"
    ))?
    .query_row([server.to_string()], from_row)
    .optional()?)
}

/// Tokens of an organization, newest first.
///
/// # Errors
/// [`StoreError`] of the database.
pub fn of_organization(c: &Connection, organization: OrganizationId) -> Result<Vec<Token>, StoreError> {
    let mut statement = c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM tokens WHERE organization_id = ?1 ORDER BY created_at DESC"
    ))?;
    let rows = statement.query_map([organization.to_string()], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// # Errors
/// [`StoreError`] of the database.
pub fn touch(tx: &Transaction<'_>, id: TokenId, at: Timestamp) -> Result<(), StoreError> {
    tx.execute("UPDATE tokens SET last_used_at = ?2 WHERE id = ?1", params![id.to_string(), at.as_millis()])?;
    Ok(())
}

/// Gives a token another secret; the present one is accepted until `previous_until`.
///
/// # Errors
/// [`StoreError::NotFound`] when the organization has no such token that is still valid.
pub fn rotate(
    tx: &Transaction<'_>,
    organization: OrganizationId,
    id: TokenId,
    secret_hash: &[u8],
    previous_until: Timestamp,
) -> Result<(), StoreError> {
    let changed = tx.execute(
        "UPDATE tokens SET previous_hash = secret_hash, previous_until = ?4, secret_hash = ?3
         WHERE organization_id = ?1 AND id = ?2 AND revoked_at IS NULL",
        params![organization.to_string(), id.to_string(), secret_hash, previous_until.as_millis()],
    )?;
    if changed == 0 { Err(StoreError::NotFound) } else { Ok(()) }
}

/// # Errors
/// [`StoreError::NotFound`] when the organization has no such token that is still valid.
pub fn revoke(
    tx: &Transaction<'_>,
    organization: OrganizationId,
    id: TokenId,
    at: Timestamp,
) -> Result<(), StoreError> {
    let changed = tx.execute(
        "UPDATE tokens SET revoked_at = ?3 WHERE organization_id = ?1 AND id = ?2 AND revoked_at IS NULL",
        params![organization.to_string(), id.to_string(), at.as_millis()],
    )?;
    if changed == 0 { Err(StoreError::NotFound) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_own_addresses_only() {
        let holds = |network: &str, address: &str| {
            Network::parse(network).unwrap().contains(address.parse().unwrap())
        };
        for (network, address) in [
            ("10.0.0.0/8", "10.200.3.4"),
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7", "::ffff:192.0.2.7"),
            ("0.0.0.0/0", "8.8.8.8"),
            ("fd00::/8", "fdab::1"),
            ("::/0", "2001:db8::1"),
        ] {
            assert!(holds(network, address), "{network} {address}");
        }
        for (network, address) in [
            ("10.0.0.0/8", "11.0.0.1"),
            ("192.0.2.7", "192.0.2.8"),
            ("0.0.0.0/0", "::1"),
            ("fd00::/8", "fe80::1"),
        ] {
            assert!(!holds(network, address), "{network} {address}");
        }
        for bad in ["", "10.0.0.0/33", "example.com", "::/129", "10.0.0.0/-1", "10.0.0/8"] {
            assert!(Network::parse(bad).is_none(), "{bad}");
        }
    }
}
