//! Keys for the tests of the pages.

use crate::fleet::{
    CertificateView, HostKeyReport, HostKeyState, HostKeyView, KeyDetail, KeySummary, KeyUseView,
    KnownHostLine, Validity,
};
use crate::model::{KeyId, KnownHostId, ServerId};
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

fn host_key(fingerprint: &str, algorithm: &str) -> HostKeyView {
    HostKeyView {
        line: format!("{algorithm} AAAAC3NzaC1lZDI1NTE5AAAAI{fingerprint}"),
        algorithm: algorithm.to_owned(),
        fingerprint: format!("SHA256:{fingerprint}"),
    }
}

/// An approved, a changed, a weak and shared, and a revoked one.
pub(crate) fn host_keys() -> Vec<HostKeyReport> {
    let usual = HostKeyReport {
        server_id: ServerId::new(uuid::Uuid::from_u128(1)),
        server_name: "web-1".to_owned(),
        address: "10.0.0.1:22".to_owned(),
        state: HostKeyState::Approved,
        host_key: Some(host_key("nThbg6kXUpJWGl7E1IGOCspRomTxdCARLviKw6E5SY8", "ssh-ed25519")),
        bits: Some(256),
        offered: None,
        kex: Some("mlkem768x25519-sha256".to_owned()),
        host_key_algorithm: Some("ssh-ed25519".to_owned()),
        cipher: Some("aes256-gcm@openssh.com".to_owned()),
        mac: Some("implicit".to_owned()),
        daemon: Some("SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3".to_owned()),
        shared_with: Vec::new(),
        weaknesses: Vec::new(),
    };
    let changed = HostKeyReport {
        server_name: "db-1".to_owned(),
        address: "db.example.com:2222".to_owned(),
        state: HostKeyState::Changed,
        offered: Some(host_key("uNiVztksCsDhcc0u9e8BrooFoMgS0tTjTP5mxGp1sGY", "ssh-ed25519")),
        kex: None,
        ..usual.clone()
    };
    let weak = HostKeyReport {
        server_name: "web-2".to_owned(),
        host_key: Some(host_key("Yk3vQmZ1YU0Jw1hX8p2m5qT7rLkVn4sB6cD9eF0gH2I", "ssh-rsa")),
        bits: Some(1024),
        kex: Some("diffie-hellman-group14-sha1".to_owned()),
        cipher: Some("aes128-cbc".to_owned()),
        mac: Some("hmac-sha1".to_owned()),
        shared_with: vec!["web-3".to_owned()],
        weaknesses: vec![
            "The RSA key has only 1024 bits and can be broken.".to_owned(),
            "The key exchange diffie-hellman-group14-sha1 uses SHA-1.".to_owned(),
        ],
        ..usual.clone()
    };
    let revoked = HostKeyReport {
        server_name: "old-1".to_owned(),
        state: HostKeyState::Revoked,
        offered: Some(host_key("2m5qT7rLkVn4sB6cD9eF0gH2IYk3vQmZ1YU0Jw1hX8p", "ssh-ed25519")),
        kex: None,
        ..usual.clone()
    };
    vec![usual, changed, weak, revoked]
}

/// An authority and a hashed line.
pub(crate) fn known_hosts() -> Vec<KnownHostLine> {
    let line = |id: u128, marker: &str, hosts: &str, servers: &[&str]| KnownHostLine {
        id: KnownHostId::new(uuid::Uuid::from_u128(id)),
        marker: marker.to_owned(),
        hosts: hosts.to_owned(),
        host_key: "ssh-ed25519 AAAA".to_owned(),
        algorithm: "ssh-ed25519".to_owned(),
        fingerprint: "SHA256:nThbg6kXUpJWGl7E1IGOCspRomTxdCARLviKw6E5SY8".to_owned(),
        servers: servers.iter().map(|name| (*name).to_owned()).collect(),
        created_at: seconds_ago(3600),
        created_by: "anna".to_owned(),
    };
    vec![
        line(1, "cert-authority", "*.example.com", &["db-1", "web-1"]),
        line(2, "", "|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg=", &[]),
    ]
}
