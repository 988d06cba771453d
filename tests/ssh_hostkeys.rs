//! Host keys on the wire: pinned, certified, revoked; no credential leaves before the host is trusted.

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::sync::Arc;

use roundsman::ssh::{CertificateProblem, Connection, HostKey, SshError, Target, connect};
use support::credentials::KeyRing;
use support::in_time;
use support::sshd::{PASSWORD, Sshd};

async fn dial(target: &Target) -> Result<Connection, SshError> {
    in_time("a connection or an error", Box::pin(connect(target, &mut |_| {}))).await
}

/// A ring with the authority 'ca' and the host key 'host', signed by it with these words.
fn ring(kind: &[&str], words: &[&str]) -> KeyRing {
    let ring = KeyRing::new();
    ring.key("ca", &["ed25519"]);
    ring.key("host", kind);
    ring.sign("ca", "host", &[&["-h"], words].concat());
    ring
}

/// An sshd that shows the certificate of a ring, and has its own plain ed25519 key as well, where 'host' is of another kind.
async fn certified(ring: &KeyRing) -> Sshd {
    let (key, certificate) = (ring.path("host"), ring.path("host-cert.pub"));
    Sshd::with_password(&format!("HostKey {}\nHostCertificate {}", key.display(), certificate.display()))
        .await
}

/// Nothing pinned; 'ca' may vouch.
fn trusting(sshd: &Sshd, ring: &KeyRing) -> Target {
    Target { pinned: None, authorities: Arc::from([ring.public("ca")]), ..sshd.target() }
}

async fn nobody_tried_to_log_in(sshd: &Sshd) {
    sshd.wait_for_log("Connection ").await;
    assert_eq!(sshd.login_attempts(), 0, "{}", sshd.log());
}

#[tokio::test]
async fn a_host_certificate_of_a_known_authority_needs_no_pinned_key() {
    for kind in [&["ed25519"][..], &["ecdsa"], &["rsa", "-b", "2048"]] {
        let ring = ring(kind, &["-n", "127.0.0.1"]);
        let sshd = certified(&ring).await;
        let connection =
            dial(&trusting(&sshd, &ring)).await.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        assert_eq!(connection.host_key(), Some(&ring.public("host")));
        let algorithms = connection.algorithms();
        assert!(algorithms.host_key.ends_with("-cert-v01@openssh.com"), "{algorithms:?}");
    }
}

#[tokio::test]
async fn an_expired_or_foreign_host_certificate_is_refused_before_credentials_are_sent() {
    let expired: &[&str] = &["-n", "127.0.0.1", "-V", "20240101000000Z:20240201000000Z"];
    for (words, expected) in
        [(expired, "it expired at 2024-02-01"), (&["-n", "web.example.com"], "it is for web.example.com")]
    {
        let ring = ring(&["ed25519"], words);
        let sshd = certified(&ring).await;
        for target in [
            trusting(&sshd, &ring),
            Target { identity: sshd.password_target(PASSWORD).identity, ..trusting(&sshd, &ring) },
        ] {
            let error = dial(&target).await.unwrap_err();
            assert!(matches!(&error, SshError::HostCertificateRefused { .. }), "{error:?}");
            assert!(error.to_string().contains(expected), "{error}");
            assert!(
                error.needs_a_person() && error.advice().contains("ssh-keygen -s CA -h"),
                "{}",
                error.advice()
            );
        }
        nobody_tried_to_log_in(&sshd).await;
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_known_signed_needs_approval_of_its_key() {
    let ring = ring(&["ed25519"], &["-n", "127.0.0.1"]);
    ring.key("other-ca", &["ed25519"]);
    let sshd = certified(&ring).await;
    let target = Target { authorities: Arc::from([ring.public("other-ca")]), ..trusting(&sshd, &ring) };
    let error = dial(&target).await.unwrap_err();
    let SshError::HostKeyUnknown { seen, .. } = &error else { panic!("{error:?}") };
    assert_eq!(**seen, ring.public("host"));
    nobody_tried_to_log_in(&sshd).await;
    dial(&Target { pinned: Some(ring.public("host")), ..target }).await.unwrap();
}

#[tokio::test]
async fn a_pinned_plain_key_keeps_working_beside_certificates_of_any_kind() {
    let expired: &[&str] = &["-n", "127.0.0.1", "-V", "20240101000000Z:20240201000000Z"];
    for (kind, words) in
        [(&["ecdsa"][..], expired), (&["ecdsa"], &["-n", "127.0.0.1"]), (&["rsa", "-b", "2048"], expired)]
    {
        let ring = ring(kind, words);
        ring.key("other-ca", &["ed25519"]);
        let sshd = certified(&ring).await;
        for authorities in [vec![], vec![ring.public("ca")], vec![ring.public("other-ca")]] {
            let target = Target { authorities: Arc::from(authorities), ..sshd.target() };
            assert_eq!(target.pinned.as_ref(), Some(sshd.host_key()));
            dial(&target).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_revoked_key_or_authority_is_refused_before_credentials_are_sent() {
    let ring = ring(&["ecdsa"], &["-n", "127.0.0.1"]);
    let sshd = certified(&ring).await;
    let pinned = Target { revoked: Arc::from([sshd.host_key().clone()]), ..sshd.target() };
    let by_key = Target { revoked: Arc::from([ring.public("host")]), ..trusting(&sshd, &ring) };
    let by_authority = Target { revoked: Arc::from([ring.public("ca")]), ..trusting(&sshd, &ring) };
    let password = Target { identity: sshd.password_target(PASSWORD).identity, ..pinned.clone() };
    for target in [pinned, by_key, by_authority, password] {
        let error = dial(&target).await.unwrap_err();
        assert!(matches!(&error, SshError::HostKeyRevoked { .. }), "{error:?}");
        assert!(error.needs_a_person() && error.to_string().contains("No credentials were sent"));
    }
    nobody_tried_to_log_in(&sshd).await;
}

#[tokio::test]
async fn a_changed_key_is_refused_although_an_authority_is_known() {
    let ring = ring(&["ed25519"], &["-n", "127.0.0.1"]);
    let sshd = Sshd::start().await;
    let pinned: HostKey = ring.public("host");
    let target = Target { pinned: Some(pinned), ..trusting(&sshd, &ring) };
    let error = dial(&target).await.unwrap_err();
    assert!(matches!(&error, SshError::HostKeyChanged { .. }), "{error:?}");
    nobody_tried_to_log_in(&sshd).await;
}

#[tokio::test]
async fn an_authority_vouches_for_the_new_key_of_a_reinstalled_server() {
    let ring = ring(&["ed25519"], &["-n", "127.0.0.1"]);
    ring.key("before", &["ed25519"]);
    let sshd = certified(&ring).await;
    let target = Target { pinned: Some(ring.public("before")), ..trusting(&sshd, &ring) };
    assert_eq!(dial(&target).await.unwrap().host_key(), Some(&ring.public("host")));
}

#[tokio::test]
async fn what_was_negotiated_is_recorded_and_weak_algorithms_are_named() {
    let ring = KeyRing::new();
    ring.key("rsa", &["rsa", "-b", "1024"]);
    let sshd = Sshd::start().await;
    let algorithms = dial(&sshd.target()).await.unwrap().algorithms();
    assert_eq!(algorithms.host_key, "ssh-ed25519");
    assert!(
        !algorithms.kex.is_empty() && !algorithms.cipher_in.is_empty() && algorithms.weaknesses().is_empty()
    );

    let config = format!(
        "HostKey {}\nHostKeyAlgorithms ssh-rsa\nCiphers aes256-ctr\nMACs hmac-sha2-256\nRequiredRSASize 1024",
        ring.path("rsa").display()
    );
    let old = Sshd::start_with(&config).await;
    let connection = dial(&Target { pinned: Some(ring.public("rsa")), ..old.target() }).await.unwrap();
    let algorithms = connection.algorithms();
    assert_eq!((algorithms.cipher_out.as_str(), algorithms.mac_in.as_str()), ("aes256-ctr", "hmac-sha2-256"));
    assert_eq!(algorithms.weaknesses(), ["The host signs with ssh-rsa, which is SHA-1."]);
    assert_eq!(
        connection.host_key().unwrap().weaknesses(),
        ["The RSA key has only 1024 bits and can be broken."]
    );
}

#[test]
fn a_certificate_problem_is_one_clause() {
    let problem = CertificateProblem::OtherPrincipals { wanted: "web".to_owned(), named: Vec::new() };
    assert_eq!(problem.to_string(), "it names no principal, so not 'web' either");
}
