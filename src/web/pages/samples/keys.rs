//! Keys for the tests of the pages.

use crate::fleet::{CertificateView, KeyDetail, KeySummary, KeyUseView, Validity};
use crate::model::{KeyId, ServerId};
use crate::store::keys::LoginOf;

use super::{now, seconds_ago};

/// A default key with a certificate, used on two logins of one server.
pub(crate) fn key_detail() -> KeyDetail {
    let day = 24 * 3600;
    let key = KeySummary {
        id: KeyId::new(uuid::Uuid::from_u128(7)),
        name: "default".to_owned(),
        public_key:
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDXIknrsiZLK41GH+G1jPZ7X5FhOdRVtLlUeyXWbt9JM roundsman"
                .to_owned(),
        algorithm: "ssh-ed25519".to_owned(),
        bits: Some(256),
        fingerprint: "SHA256:M3rVMO1EbXiZ2DOtYPxoMAmmiYXzpps0fKj7EBFCfRs".to_owned(),
        weakness: None,
        is_default: true,
        source_path: None,
        certificate: Some(CertificateView {
            line: "ssh-ed25519-cert-v01@openssh.com AAAA".to_owned(),
            key_id: "roundsman 2026".to_owned(),
            serial: 12,
            principals: vec!["root".to_owned(), "deploy".to_owned()],
            valid_after: seconds_ago(360 * day),
            valid_before: Some(seconds_ago(-5 * day)),
            critical_options: vec!["source-address=203.0.113.9".to_owned()],
            authority: "SHA256:nThbg6kXUpJWGl7E1IGOCspRomTxdCARLviKw6E5SY8".to_owned(),
            validity: Validity::ExpiresSoon,
        }),
        logins: 2,
        created_at: now(),
    };
    let used = |login, username: &str, named| KeyUseView {
        server_id: ServerId::new(uuid::Uuid::from_u128(9)),
        server_name: "web-1".to_owned(),
        login,
        username: username.to_owned(),
        named,
    };
    KeyDetail {
        install_command: "umask 077; mkdir -p ~/.ssh && touch ~/.ssh/authorized_keys && echo 'ssh-ed25519 AAAA' >> ~/.ssh/authorized_keys".to_owned(),
        used_by: vec![used(LoginOf::Main, "monitor", false), used(LoginOf::Actions, "deploy", true)],
        unfinished: vec!["db-1".to_owned()],
        key,
    }
}
