//! Kept keys as pages, API and command line show them: never the secret half.

use serde::Serialize;

use crate::model::{KeyId, ServerId, Timestamp};
use crate::ssh::keyring::{PublicFacts, UserCertificate};
use crate::store::keys::{KeptKey, KeyUse, LoginOf};

/// A certificate is called for renewal this long before its end, or in the last quarter of a shorter life.
const EXPIRES_SOON_MS: i64 = 14 * 24 * 3600 * 1000;

/// A kept key without its secret half.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeySummary {
    pub id: KeyId,
    pub name: String,
    /// `ssh-ed25519 AAAA… comment`.
    pub public_key: String,
    /// `ssh-ed25519`, `ssh-rsa`, …
    pub algorithm: String,
    pub bits: Option<u32>,
    /// `SHA256:…`
    pub fingerprint: String,
    /// Why it should be replaced.
    pub weakness: Option<String>,
    pub is_default: bool,
    pub source_path: Option<String>,
    pub certificate: Option<CertificateView>,
    /// Logins that use it: a server with a second identity may count twice.
    pub logins: usize,
    pub created_at: Timestamp,
}

/// How a certificate stands against the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Validity {
    Valid,
    NotYet,
    ExpiresSoon,
    Expired,
}

/// The user certificate of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateView {
    pub line: String,
    pub key_id: String,
    pub serial: u64,
    pub principals: Vec<String>,
    pub valid_after: Timestamp,
    /// None: for ever.
    pub valid_before: Option<Timestamp>,
    pub critical_options: Vec<String>,
    /// Fingerprint of the authority.
    pub authority: String,
    pub validity: Validity,
}

impl CertificateView {
    pub(super) fn of(certificate: UserCertificate, now: Timestamp) -> Self {
        Self {
            validity: validity(certificate.valid_after, certificate.valid_before, now),
            line: certificate.line,
            key_id: certificate.key_id,
            serial: certificate.serial,
            principals: certificate.principals,
            valid_after: certificate.valid_after,
            valid_before: certificate.valid_before,
            critical_options: certificate.critical_options,
            authority: certificate.authority,
        }
    }
}

fn validity(after: Timestamp, before: Option<Timestamp>, now: Timestamp) -> Validity {
    if now < after {
        return Validity::NotYet;
    }
    let Some(before) = before else { return Validity::Valid };
    let life = before.as_millis().saturating_sub(after.as_millis());
    match before.as_millis().saturating_sub(now.as_millis()) {
        left if left <= 0 => Validity::Expired,
        left if left < EXPIRES_SOON_MS.min(life / 4) => Validity::ExpiresSoon,
        _ => Validity::Valid,
    }
}

/// A login that uses a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyUseView {
    pub server_id: ServerId,
    pub server_name: String,
    /// `main` reads (and acts where there is no other), `actions` only acts.
    pub login: LoginOf,
    pub username: String,
    /// False: it uses the key because it is the default.
    pub named: bool,
}

/// One key with where it is used and how a server is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyDetail {
    #[serde(flatten)]
    pub key: KeySummary,
    pub used_by: Vec<KeyUseView>,
    /// Servers on which a replacement of this key began and was not brought to its end, by name.
    pub unfinished: Vec<String>,
    /// To paste into a shell of a server, as the user that Roundsman shall be.
    pub install_command: String,
}

impl From<KeyUse> for KeyUseView {
    fn from(of: KeyUse) -> Self {
        let username = if of.username.is_empty() { "root".to_owned() } else { of.username };
        Self { server_id: of.server, server_name: of.server_name, login: of.login, username, named: of.named }
    }
}

impl KeySummary {
    /// `uses` are all logins of the organization.
    pub(super) fn of(key: KeptKey, uses: &[KeyUse], now: Timestamp) -> Self {
        let facts = PublicFacts::of(&key.public_line);
        let certificate = key
            .certificate
            .as_deref()
            .and_then(|line| UserCertificate::of_key(line, &key.public_line).ok())
            .map(|certificate| CertificateView::of(certificate, now));
        Self {
            logins: uses.iter().filter(|of| of.key == key.id).count(),
            id: key.id,
            name: key.name,
            algorithm: facts.as_ref().map_or_else(
                || key.public_line.split(' ').next().unwrap_or_default().to_owned(),
                |facts| facts.algorithm.clone(),
            ),
            bits: facts.as_ref().and_then(|facts| facts.bits),
            fingerprint: facts.as_ref().map(|facts| facts.fingerprint.clone()).unwrap_or_default(),
            weakness: facts.and_then(|facts| facts.weakness),
            public_key: key.public_line,
            is_default: key.is_default,
            source_path: key.source_path,
            certificate,
            created_at: key.created_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_called_for_renewal_before_it_ends() {
        const DAY_MS: i64 = 24 * 3600 * 1000;
        let at = |days: i64| Timestamp::from_millis(days * DAY_MS);
        let of = |now: i64| validity(at(100), Some(at(465)), at(now));
        assert_eq!(of(99), Validity::NotYet);
        assert_eq!(of(100), Validity::Valid);
        assert_eq!(of(450), Validity::Valid);
        assert_eq!(of(452), Validity::ExpiresSoon);
        assert_eq!(of(465), Validity::Expired);
        assert_eq!(validity(at(100), Some(at(104)), at(102)), Validity::Valid, "short lives are no warning");
        assert_eq!(validity(at(100), None, at(90_000)), Validity::Valid);
    }
}
