//! Connecting: what a person learns at each step, and that no credential leaves before the host key is the pinned one.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::time::Duration;

use roundsman::model::{Layer, Port, Secret};
use roundsman::ssh::{Cause, Connection, ExecRequest, HostKey, Identity, SshError, Target, connect, keys};
use support::sshd::{PASSWORD, Sshd, free_port};
use support::{eventually, in_time};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

async fn dial(target: &Target) -> Result<Connection, SshError> {
    in_time("a connection or an error", connect(target, &mut |_| {})).await
}

/// A target where nothing SSH-like is expected to answer.
fn target_at(host: &str, port: u16) -> Target {
    let identity = Identity::Password(Secret::new("never sent".to_owned()));
    Target {
        connect_timeout: Duration::from_secs(30),
        ..Target::new(host, Port::of(i64::from(port)).unwrap(), "root", identity)
    }
}

fn other_host_key() -> HostKey {
    HostKey::parse(&keys::generate_ed25519("other").unwrap().1).unwrap()
}

#[tokio::test]
async fn a_connection_reports_its_steps_and_logs_in_once() {
    let sshd = Sshd::start().await;
    let mut steps = Vec::new();
    let connection = connect(&sshd.target(), &mut |layer| steps.push(layer)).await.unwrap();
    assert_eq!(steps, Layer::ALL[..6]);
    assert_eq!(connection.host_key(), Some(sshd.host_key()));
    assert!(connection.server_id().starts_with("SSH-2.0-OpenSSH"));
    for number in 0..20 {
        let output = connection.exec(ExecRequest::new(format!("echo {number}"))).await.unwrap();
        assert_eq!(output.stdout, format!("{number}\n").into_bytes());
    }
    assert_eq!(sshd.logins(), 1);
    connection.close().await;
    assert!(connection.is_closed());
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_connection() {
    let sshd = Sshd::start().await;
    drop(dial(&sshd.target()).await.unwrap());
    eventually("the session is gone", || sshd.session_processes() == 0).await;
}

#[tokio::test]
async fn an_unknown_name_says_so() {
    let error = dial(&target_at("no-such-host.invalid", 22)).await.unwrap_err();
    assert_eq!(error.layer(), Some(Layer::Name), "{error}");
    assert!(error.advice().contains("no-such-host.invalid"), "{}", error.advice());
}

#[tokio::test]
async fn a_refused_port_says_how_to_start_ssh() {
    let error = dial(&target_at("127.0.0.1", free_port())).await.unwrap_err();
    assert!(
        matches!(&error, SshError::Unreachable { layer: Layer::Tcp, cause: Cause::Refused, .. }),
        "{error}"
    );
    assert!(error.advice().contains("systemctl start ssh"), "{}", error.advice());
}

/// Accepts one connection, says `greeting`, and keeps it open.
async fn listener_that_says(greeting: &'static [u8]) -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(greeting).await.unwrap();
        let mut heard = Vec::new();
        let _until_they_hang_up = socket.read_to_end(&mut heard).await;
    });
    (port, task)
}

#[tokio::test]
async fn a_silent_port_times_out_at_the_banner() {
    let (port, _task) = listener_that_says(b"").await;
    let target = Target { connect_timeout: Duration::from_secs(1), ..target_at("127.0.0.1", port) };
    let error = dial(&target).await.unwrap_err();
    assert!(matches!(&error, SshError::TimedOut { layer: Layer::Banner, after_ms: 1000, .. }), "{error}");
}

#[tokio::test]
async fn a_web_server_is_named_as_not_ssh_and_its_escape_codes_are_removed() {
    let (port, _task) = listener_that_says(b"HTTP/1.1 400 Bad\x1b[31m Request\r\n\r\n<script>").await;
    let error = dial(&target_at("127.0.0.1", port)).await.unwrap_err();
    let SshError::Unreachable { layer: Layer::Banner, cause: Cause::NotSsh { said }, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(said.starts_with("HTTP/1.1 400 Bad Request"), "{said}");
    assert!(!error.to_string().contains('\u{1b}'));
}

#[tokio::test]
async fn an_endless_greeting_is_cut_off() {
    let (port, _task) = listener_that_says(&[b'x'; 64 * 1024]).await;
    let error = dial(&target_at("127.0.0.1", port)).await.unwrap_err();
    assert!(
        matches!(&error, SshError::Unreachable { layer: Layer::Banner, cause: Cause::NotSsh { .. }, .. }),
        "{error}"
    );
    assert!(error.to_string().len() < 400);
}

#[tokio::test]
async fn a_server_that_hangs_up_says_why() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut id = [0; 8];
        socket.read_exact(&mut id).await.unwrap();
        socket.write_all(b"Exceeded MaxStartups\r\n").await.unwrap();
        socket.shutdown().await.unwrap();
        let _until_they_hang_up = socket.read_to_end(&mut Vec::new()).await;
    });
    let error = dial(&target_at("127.0.0.1", port)).await.unwrap_err();
    let SshError::Unreachable { layer: Layer::Banner, cause: Cause::HungUp { said }, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(said, "Exceeded MaxStartups");
    assert!(error.advice().contains("MaxStartups"));
}

#[tokio::test]
async fn a_server_that_is_silent_after_its_banner_times_out_at_key_exchange() {
    let (port, _task) = listener_that_says(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    let target = Target { connect_timeout: Duration::from_secs(1), ..target_at("127.0.0.1", port) };
    let error = dial(&target).await.unwrap_err();
    assert!(matches!(&error, SshError::TimedOut { layer: Layer::KeyExchange, .. }), "{error}");
}

#[tokio::test]
async fn garbage_after_the_banner_fails_at_key_exchange() {
    let (port, _task) =
        listener_that_says(b"SSH-2.0-x\r\n\x00\x00\x00\x10\x04garbage garbage garbage garbage").await;
    let error = dial(&target_at("127.0.0.1", port)).await.unwrap_err();
    assert!(matches!(&error, SshError::Unreachable { layer: Layer::KeyExchange, .. }), "{error}");
}

#[tokio::test]
async fn no_common_algorithm_names_the_kind_and_what_the_server_offers() {
    let sshd = Sshd::start_with("KexAlgorithms diffie-hellman-group14-sha1").await;
    let error = dial(&sshd.target()).await.unwrap_err();
    let SshError::Unreachable {
        layer: Layer::KeyExchange,
        cause: Cause::NoCommonAlgorithm { kind, offered },
        ..
    } = &error
    else {
        panic!("{error:?}")
    };
    assert_eq!(kind, "key exchange");
    assert!(offered.contains("diffie-hellman-group14-sha1"), "{offered}");
}

#[tokio::test]
async fn a_server_with_one_good_algorithm_of_each_kind_is_enough() {
    for config in [
        "KexAlgorithms sntrup761x25519-sha512@openssh.com,curve25519-sha256",
        "KexAlgorithms ecdh-sha2-nistp256",
        "KexAlgorithms ecdh-sha2-nistp384",
        "KexAlgorithms ecdh-sha2-nistp521",
        "KexAlgorithms diffie-hellman-group-exchange-sha256",
        "KexAlgorithms diffie-hellman-group14-sha256",
        "Ciphers chacha20-poly1305@openssh.com",
        "Ciphers aes256-gcm@openssh.com",
        "Ciphers aes192-ctr\nMACs hmac-sha2-256-etm@openssh.com",
        "Ciphers aes256-ctr\nMACs hmac-sha2-512",
    ] {
        let sshd = Sshd::start_with(config).await;
        dial(&sshd.target()).await.unwrap_or_else(|error| panic!("{config}: {error}"));
    }
}

#[tokio::test]
async fn an_unknown_host_key_is_shown_before_credentials_are_sent() {
    let sshd = Sshd::start().await;
    let error = dial(&Target { pinned: None, ..sshd.target() }).await.unwrap_err();
    let SshError::HostKeyUnknown { seen, .. } = &error else { panic!("{error:?}") };
    assert_eq!(**seen, *sshd.host_key());
    assert!(error.to_string().contains(&sshd.host_key().fingerprint()));
    sshd.wait_for_log("Connection ").await;
    assert_eq!(sshd.login_attempts(), 0, "{}", sshd.log());
}

#[tokio::test]
async fn changed_host_key_refuses_before_credentials_are_sent() {
    let sshd = Sshd::with_password("").await;
    let pinned = other_host_key();
    for target in [sshd.target(), sshd.password_target(PASSWORD)] {
        let error = dial(&Target { pinned: Some(pinned.clone()), ..target }).await.unwrap_err();
        let SshError::HostKeyChanged { pinned: expected, seen, .. } = &error else { panic!("{error:?}") };
        assert_eq!((&**expected, &**seen), (&pinned, sshd.host_key()));
        assert!(error.to_string().contains(&pinned.fingerprint()));
        assert!(error.to_string().contains(&sshd.host_key().fingerprint()));
    }
    sshd.wait_for_log("Connection ").await;
    assert_eq!(sshd.login_attempts(), 0, "{}", sshd.log());
}

#[tokio::test]
async fn a_server_with_several_host_keys_shows_the_pinned_one() {
    let dir = tempfile::tempdir().unwrap();
    let more: Vec<String> = ["ecdsa", "rsa"]
        .iter()
        .map(|kind| {
            let path = dir.path().join(kind);
            let made = std::process::Command::new("ssh-keygen")
                .args(["-q", "-N", "", "-t", kind, "-f"])
                .arg(&path)
                .status();
            assert!(made.unwrap().success());
            path.display().to_string()
        })
        .collect();
    let sshd = Sshd::start_with(&format!("HostKey {}\nHostKey {}", more[0], more[1])).await;
    for path in more {
        let pinned = HostKey::parse(&std::fs::read_to_string(format!("{path}.pub")).unwrap()).unwrap();
        let connection = dial(&Target { pinned: Some(pinned.clone()), ..sshd.target() }).await.unwrap();
        assert_eq!(connection.host_key(), Some(&pinned));
    }
    dial(&sshd.target()).await.unwrap();
}

#[tokio::test]
async fn a_wrong_key_is_refused_with_one_attempt_and_the_command_that_helps() {
    let sshd = Sshd::start().await;
    let (wrong, _) = keys::generate_ed25519("wrong").unwrap();
    let error = dial(&Target { identity: Identity::Key(wrong), ..sshd.target() }).await.unwrap_err();
    let SshError::AuthRefused { offered, accepts, .. } = &error else { panic!("{error:?}") };
    assert!(offered.starts_with("the ssh-ed25519 key SHA256:"), "{offered}");
    assert_eq!(*accepts, ["publickey"]);
    assert!(error.advice().contains(&format!("ssh-copy-id -f -i KEY.pub -p {} root@127.0.0.1", sshd.port())));
    assert_eq!(sshd.logins(), 0);
}

#[tokio::test]
async fn a_wrong_user_is_refused() {
    let sshd = Sshd::start().await;
    let error = dial(&Target { user: "nobody-here".to_owned(), ..sshd.target() }).await.unwrap_err();
    assert!(matches!(&error, SshError::AuthRefused { .. }), "{error:?}");
    assert!(error.to_string().contains("'nobody-here'"), "{error}");
}

#[tokio::test]
async fn keys_from_files_of_every_usual_kind_log_in() {
    let sshd = Sshd::start().await;
    for (kind, passphrase) in [("ed25519", ""), ("ecdsa", ""), ("rsa", ""), ("ed25519", "open sesame")] {
        let path = sshd.path(&format!("{kind}{}", passphrase.len()));
        let made = std::process::Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-N", passphrase, "-f"])
            .arg(&path)
            .status();
        assert!(made.unwrap().success());
        let line = std::fs::read_to_string(path.with_extension("pub")).unwrap();
        std::fs::write(sshd.path("home/.ssh/authorized_keys"), line).unwrap();
        let passphrase = Some(passphrase.to_owned()).filter(|text| !text.is_empty()).map(Secret::new);
        let identity = Identity::KeyFile { path, passphrase };
        dial(&Target { identity, ..sshd.target() }).await.unwrap_or_else(|error| panic!("{kind}: {error}"));
    }
    assert!(sshd.log().contains("RSA"), "{}", sshd.log());
}

#[tokio::test]
async fn a_missing_key_file_is_named() {
    let sshd = Sshd::start().await;
    let identity = Identity::KeyFile { path: "/no/such/key".into(), passphrase: None };
    let error = dial(&Target { identity, ..sshd.target() }).await.unwrap_err();
    assert!(
        matches!(&error, SshError::KeyUnreadable { .. }) && error.to_string().contains("/no/such/key"),
        "{error}"
    );
}

#[tokio::test]
async fn a_password_logs_in_and_a_wrong_one_is_refused() {
    for sshd in [Sshd::with_password("").await, Sshd::dropbear().await] {
        let connection = dial(&sshd.password_target(PASSWORD)).await.unwrap();
        assert!(connection.exec(ExecRequest::new("true")).await.unwrap().success());
        let error = dial(&sshd.password_target("wrong horse")).await.unwrap_err();
        assert!(matches!(&error, SshError::AuthRefused { .. }), "{error:?}");
        assert!(!format!("{error} {error:?} {}", error.advice()).contains("wrong horse"));
    }
}

#[tokio::test]
async fn dropbear_is_spoken_to_as_well() {
    let sshd = Sshd::dropbear().await;
    let connection = dial(&sshd.target()).await.unwrap();
    let output = connection.exec(ExecRequest::new("echo hello; echo oops >&2; exit 7")).await.unwrap();
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice(), output.exit_status),
        (&b"hello\n"[..], &b"oops\n"[..], Some(7))
    );
    let error = dial(&Target { pinned: Some(other_host_key()), ..sshd.target() }).await.unwrap_err();
    assert!(matches!(&error, SshError::HostKeyChanged { .. }), "{error:?}");
    assert_eq!(sshd.logins(), 1);
}
