//! Login: every form of it, one identity offered each time, and a sentence that says what is wrong with it.

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use roundsman::model::Secret;
use roundsman::ssh::{
    AgentProblem, CertificateProblem, Connection, Identity, SshError, Target, connect, keys,
};
use support::credentials::{Agent, KeyRing};
use support::sshd::{PASSWORD, Sshd};
use support::{eventually, in_time};

async fn dial(target: &Target) -> Result<Connection, SshError> {
    in_time("a connection or an error", Box::pin(connect(target, &mut |_| {}))).await
}

/// An sshd that trusts the authority 'ca' of a ring, and lets nobody guess twice.
async fn with_authority(ring: &KeyRing, config: &str) -> Sshd {
    let ca = ring.path("ca.pub");
    Sshd::start_with(&format!("MaxAuthTries 1\nTrustedUserCAKeys {}\n{config}", ca.display())).await
}

fn certified(sshd: &Sshd, ring: &KeyRing, key: &str) -> Target {
    let identity = Identity::Certificate { key: ring.private(key), certificate: ring.certificate(key) };
    Target { identity, ..sshd.target() }
}

fn agent_target(sshd: &Sshd, agent: &Agent, line: String) -> Target {
    let identity = Identity::Agent { socket: agent.socket().to_owned(), public_key: line };
    Target { identity, ..sshd.target() }
}

#[tokio::test]
async fn user_certificates_of_every_kind_of_key_log_in() {
    let ring = KeyRing::new();
    ring.key("ca", &["ed25519"]);
    let sshd = with_authority(&ring, "").await;
    for (name, kind) in [
        ("ed", &["ed25519"][..]),
        ("p256", &["ecdsa"]),
        ("p521", &["ecdsa", "-b", "521"]),
        ("rsa", &["rsa", "-b", "2048"]),
    ] {
        ring.key(name, kind);
        ring.sign("ca", name, &["-n", "root"]);
        dial(&certified(&sshd, &ring, name)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        sshd.wait_for_log(&format!("ID {name} ")).await;
    }
    eventually("the logins are logged", || sshd.logins() == 4).await;
}

#[tokio::test]
async fn an_expired_certificate_is_told_before_anything_is_offered() {
    let ring = KeyRing::new();
    ring.key("ca", &["ed25519"]);
    ring.key("old", &["ed25519"]);
    ring.sign("ca", "old", &["-n", "root", "-V", "20240101000000Z:20240201000000Z"]);
    let sshd = with_authority(&ring, "").await;
    let error = dial(&certified(&sshd, &ring, "old")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "The certificate 'old' cannot be used: it expired at 2024-02-01T00:00:00.000Z."
    );
    assert!(error.needs_a_person() && error.advice().contains("ssh-keygen -s CA -I ID -n USER"));
    sshd.wait_for_log("Connection ").await;
    assert!(!sshd.log().contains("userauth"), "{}", sshd.log());
}

#[tokio::test]
async fn a_certificate_for_other_users_is_refused_with_the_names_that_it_has() {
    let ring = KeyRing::new();
    ring.key("ca", &["ed25519"]);
    ring.key("key", &["ed25519"]);
    ring.sign("ca", "key", &["-n", "deploy,backup"]);
    let sshd = with_authority(&ring, "").await;
    let error = dial(&certified(&sshd, &ring, "key")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "The certificate 'key' cannot be used: it is for deploy, backup, not for 'root'."
    );
}

#[tokio::test]
async fn a_server_may_map_other_principals_to_the_user() {
    let ring = KeyRing::new();
    ring.key("ca", &["ed25519"]);
    ring.key("key", &["ed25519"]);
    ring.sign("ca", "key", &["-n", "operations"]);
    std::fs::write(ring.path("principals"), "operations\n").unwrap();
    let config = format!("AuthorizedPrincipalsFile {}", ring.path("principals").display());
    let sshd = with_authority(&ring, &config).await;
    dial(&certified(&sshd, &ring, "key")).await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_another_key_or_another_authority_is_told() {
    let ring = KeyRing::new();
    for name in ["ca", "other-ca", "key", "other"] {
        ring.key(name, &["ed25519"]);
    }
    ring.sign("other-ca", "key", &["-n", "root"]);
    let sshd = with_authority(&ring, "").await;
    let error = dial(&certified(&sshd, &ring, "key")).await.unwrap_err();
    let SshError::AuthRefused { offered, .. } = &error else { panic!("{error:?}") };
    assert!(offered.starts_with("the certificate 'key' of the ssh-ed25519 key SHA256:"), "{offered}");
    let identity = Identity::Certificate { key: ring.private("other"), certificate: ring.certificate("key") };
    let error = dial(&Target { identity, ..sshd.target() }).await.unwrap_err();
    let SshError::CertificateUnusable { problem, .. } = &error else { panic!("{error:?}") };
    assert_eq!(**problem, CertificateProblem::OtherKey);
}

#[tokio::test]
async fn of_an_agent_with_ten_keys_only_the_chosen_one_is_offered() {
    let ring = KeyRing::new();
    let agent = Agent::start(&ring).await;
    for number in 0..10 {
        let name = format!("key{number}");
        let kind: &[&str] = if number == 7 { &["rsa", "-b", "2048"] } else { &["ed25519"] };
        ring.key(&name, kind);
        agent.add(&ring, &[&name]);
    }
    let sshd = Sshd::start_with("MaxAuthTries 1").await;
    for chosen in ["key9", "key7"] {
        sshd.authorize(&ring.text(&format!("{chosen}.pub")));
        dial(&agent_target(&sshd, &agent, ring.text(&format!("{chosen}.pub")))).await.unwrap();
    }
    eventually("the logins are logged", || sshd.logins() == 2).await;
    assert!(!sshd.log().contains("Failed") && !sshd.log().contains("Too many"), "{}", sshd.log());
    let error = dial(&agent_target(&sshd, &agent, ring.text("key1.pub"))).await.unwrap_err();
    let SshError::AuthRefused { offered, .. } = &error else { panic!("{error:?}") };
    assert!(offered.contains(&ring.public("key1").fingerprint()), "{offered}");
}

#[tokio::test]
async fn a_certificate_of_an_agent_logs_in() {
    let ring = KeyRing::new();
    let agent = Agent::start(&ring).await;
    ring.key("ca", &["ed25519"]);
    for (name, kind) in [("ed", &["ed25519"][..]), ("rsa", &["rsa", "-b", "2048"])] {
        ring.key(name, kind);
        ring.sign("ca", name, &["-n", "root"]);
        agent.add(&ring, &[name]);
    }
    let sshd = with_authority(&ring, "").await;
    for name in ["ed", "rsa"] {
        dial(&agent_target(&sshd, &agent, ring.certificate(name))).await.unwrap();
    }
}

#[tokio::test]
async fn an_agent_that_is_missing_locked_frozen_or_without_the_key_says_so() {
    let ring = KeyRing::new();
    ring.key("key", &["ed25519"]);
    ring.key("wanted", &["ed25519"]);
    let sshd = Sshd::start().await;
    let problem = |error: SshError| match error {
        SshError::AgentUnusable { problem, .. } => problem,
        other => panic!("{other:?}"),
    };
    let missing = Identity::Agent { socket: ring.path("nobody.sock"), public_key: ring.text("wanted.pub") };
    let error = dial(&Target { identity: missing, ..sshd.target() }).await.unwrap_err();
    assert!(error.advice().contains("ssh-agent -a"), "{}", error.advice());
    assert!(matches!(problem(error), AgentProblem::NotThere { .. }));

    let agent = Agent::start(&ring).await;
    let target = agent_target(&sshd, &agent, ring.text("wanted.pub"));
    assert_eq!(problem(dial(&target).await.unwrap_err()), AgentProblem::Empty);
    agent.add(&ring, &["key"]);
    let error = dial(&target).await.unwrap_err();
    assert!(error.to_string().contains("it holds one key, and not the ssh-ed25519 key SHA256:"), "{error}");
    agent.add(&ring, &["wanted"]);
    agent.add(&ring, &["-x"]);
    assert_eq!(problem(dial(&target).await.unwrap_err()), AgentProblem::Empty);
    assert_eq!(sshd.login_attempts(), 0, "{}", sshd.log());
    let frozen = tokio::net::UnixListener::bind(ring.path("frozen.sock")).unwrap();
    let identity = Identity::Agent { socket: ring.path("frozen.sock"), public_key: ring.text("key.pub") };
    let error = dial(&Target { identity, ..sshd.target() }).await.unwrap_err();
    assert!(error.to_string().contains("it does not answer (no answer in 5 s)"), "{error}");
    drop(frozen);
    let wrong = agent_target(&sshd, &agent, "not a key".to_owned());
    assert_eq!(problem(dial(&wrong).await.unwrap_err()), AgentProblem::NotAKey);
}

#[tokio::test]
async fn one_try_is_enough_for_every_identity() {
    let ring = KeyRing::new();
    ring.key("rsa", &["rsa", "-b", "2048"]);
    let sshd = Sshd::with_password("MaxAuthTries 1").await;
    sshd.authorize(&ring.text("rsa.pub"));
    dial(&sshd.target()).await.unwrap();
    dial(&Target { identity: Identity::Key(ring.private("rsa")), ..sshd.target() }).await.unwrap();
    let file = Identity::KeyFile { path: ring.path("rsa"), passphrase: None };
    dial(&Target { identity: file, ..sshd.target() }).await.unwrap();
    dial(&sshd.password_target(PASSWORD)).await.unwrap();
    eventually("the logins are logged", || sshd.logins() == 4).await;
}

#[tokio::test]
async fn key_files_of_every_kind_and_form_log_in() {
    let ring = KeyRing::new();
    let sshd = Sshd::start_with("MaxAuthTries 1").await;
    let kinds: [(&str, &[&str]); 5] = [
        ("ed25519", &["ed25519"]),
        ("p256", &["ecdsa", "-b", "256"]),
        ("p384", &["ecdsa", "-b", "384"]),
        ("p521", &["ecdsa", "-b", "521"]),
        ("rsa", &["rsa", "-b", "2048"]),
    ];
    let mut logins = 0;
    for (name, kind) in kinds {
        // ssh-keygen writes PEM (PKCS#1 for RSA, SEC 1 for ECDSA) and PKCS#8 for all but ed25519.
        let forms: &[(&str, &str)] = if name == "ed25519" {
            &[("RFC4716", "")]
        } else {
            &[("RFC4716", ""), ("PEM", ""), ("PKCS8", "")]
        };
        let sealed: &[(&str, &str)] = match name {
            "ed25519" => &[("RFC4716", "open sesame")],
            "rsa" => &[("RFC4716", "open sesame"), ("PKCS8", "open sesame"), ("PEM", "open sesame")],
            _ => &[("RFC4716", "open sesame"), ("PKCS8", "open sesame")],
        };
        for (form, passphrase) in forms.iter().chain(sealed) {
            let file = format!("{name}-{form}-{}", passphrase.len());
            ring.keygen(&[&["-N", passphrase, "-m", form, "-f", &file, "-t"], kind].concat());
            sshd.authorize(&ring.text(&format!("{file}.pub")));
            let passphrase =
                Some(*passphrase).filter(|text| !text.is_empty()).map(|text| Secret::new(text.to_owned()));
            let identity = Identity::KeyFile { path: ring.path(&file), passphrase };
            dial(&Target { identity, ..sshd.target() })
                .await
                .unwrap_or_else(|error| panic!("{file}: {error}"));
            logins += 1;
        }
    }
    eventually("the logins are logged", || sshd.logins() == logins).await;
}

#[tokio::test]
async fn a_password_goes_through_pams_one_hidden_prompt() {
    let config = "UsePAM yes\nKbdInteractiveAuthentication yes\nPasswordAuthentication no\nMaxAuthTries 2";
    let sshd = Sshd::with_password(config).await;
    dial(&sshd.password_target(PASSWORD)).await.unwrap();
    sshd.wait_for_log("Accepted keyboard-interactive").await;
    let error = dial(&sshd.password_target("wrong horse")).await.unwrap_err();
    assert!(matches!(&error, SshError::AuthRefused { .. }), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("wrong horse"));
}

#[tokio::test]
async fn keys_that_openssl_made_log_in() {
    let ring = KeyRing::new();
    let sshd = Sshd::start().await;
    let kinds: [(&str, &[&str]); 3] = [
        ("ed25519", &["-algorithm", "ed25519"]),
        ("ec", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]),
        ("rsa", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
    ];
    for (name, kind) in kinds {
        let sealed: &[&str] = &["-aes-256-cbc", "-pass", "pass:open sesame"];
        for (more, passphrase) in [(&[][..], None), (sealed, Some("open sesame"))] {
            let mut openssl = std::process::Command::new("openssl");
            let made = openssl.arg("genpkey").args(kind).args(more).output().unwrap();
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            let path = ring.path(name);
            std::fs::write(&path, made.stdout).unwrap();
            let passphrase = passphrase.map(|text| Secret::new(text.to_owned()));
            let text = Secret::new(ring.text(name));
            let line = keys::public_line(&text, passphrase.as_ref());
            sshd.authorize(&line.unwrap_or_else(|error| panic!("{name} {more:?}: {error}")));
            let identity = Identity::KeyFile { path, passphrase };
            dial(&Target { identity, ..sshd.target() }).await.unwrap();
        }
    }
}

#[tokio::test]
async fn dropbear_takes_keys_of_every_kind_and_those_of_an_agent() {
    let ring = KeyRing::new();
    let agent = Agent::start(&ring).await;
    let dropbear = Sshd::dropbear().await;
    for (name, kind) in
        [("ed25519", &["ed25519"][..]), ("ecdsa", &["ecdsa"]), ("rsa", &["rsa", "-b", "2048"])]
    {
        ring.key(name, kind);
        agent.add(&ring, &[name]);
        let line = ring.text(&format!("{name}.pub"));
        dropbear.authorize(&line);
        let kept = Target { identity: Identity::Key(ring.private(name)), ..dropbear.target() };
        dial(&kept).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        dial(&agent_target(&dropbear, &agent, line)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    eventually("the logins are logged", || dropbear.logins() == 6).await;
}

#[tokio::test]
async fn the_algorithms_of_openssh_6_6_are_enough() {
    let ring = KeyRing::new();
    ring.key("host", &["rsa", "-b", "2048"]);
    ring.key("key", &["rsa", "-b", "2048"]);
    let config = format!(
        "HostKey {}\nHostKeyAlgorithms ssh-rsa\nKexAlgorithms curve25519-sha256@libssh.org\nCiphers aes128-ctr\n\
         MACs hmac-sha2-256",
        ring.path("host").display()
    );
    let sshd = Sshd::start_with(&config).await;
    sshd.authorize(&ring.text("key.pub"));
    let identity = Identity::Key(ring.private("key"));
    let target = Target { identity, pinned: Some(ring.public("host")), ..sshd.target() };
    dial(&target).await.unwrap();
}
