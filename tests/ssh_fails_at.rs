//! A preflight against something that fails exactly at one step: the step, the reason and the fix, and nothing after it.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::sync::Arc;
use std::time::Duration;

use roundsman::model::{Port, Secret};
use roundsman::ssh::preflight::{Outcome, Preflight, Stage, preflight};
use roundsman::ssh::{Identity, Proxy, ProxyKind, Route, Target, keys};
use support::credentials::KeyRing;
use support::in_time;
use support::reach::{Bastion, socks5_that_answers};
use support::sshd::{PASSWORD, Sshd, free_port};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// What is to be seen at the step that fails.
struct Expected<'a> {
    stage: Stage,
    outcome: Outcome,
    reason: &'a str,
    fix: &'a str,
}

const fn at<'a>(stage: Stage, reason: &'a str, fix: &'a str) -> Expected<'a> {
    Expected { stage, outcome: Outcome::Failed, reason, fix }
}

async fn fails(target: &Target, expected: Expected<'_>) -> Preflight {
    let result = in_time("a preflight", preflight(target, None)).await;
    let step = result.step(expected.stage).unwrap();
    assert_eq!(step.outcome, expected.outcome, "{step:?}");
    assert!(step.detail.contains(expected.reason), "{step:?}");
    let fix = step.fix.as_deref().unwrap_or_default();
    assert!(fix.contains(expected.fix), "{step:?}");
    for other in &result.steps {
        let fits = match other.outcome {
            Outcome::Passed => other.stage < expected.stage || expected.outcome == Outcome::Warning,
            Outcome::Skipped => other.stage > expected.stage || other.stage == Stage::Name,
            _ => other.stage == expected.stage,
        };
        assert!(fits, "{other:?} beside {step:?}");
    }
    result
}

fn unreachable(host: &str, port: u16) -> Target {
    let identity = Identity::Password(Secret::new("never sent".to_owned()));
    Target {
        connect_timeout: Duration::from_secs(30),
        ..Target::new(host, Port::of(i64::from(port)).unwrap(), "root", identity)
    }
}

/// Greets every connection with this, and keeps it open.
async fn listener_that_says(greeting: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                socket.write_all(greeting).await.unwrap();
                let _until_they_hang_up = socket.read_to_end(&mut Vec::new()).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn no_such_name() {
    let target = unreachable("no-such-host.invalid", 22);
    fails(&target, at(Stage::Name, "the name was not found", "Check the spelling of 'no-such-host.invalid'"))
        .await;
}

#[tokio::test]
async fn a_refused_port() {
    let target = unreachable("127.0.0.1", free_port());
    fails(&target, at(Stage::Tcp, "nothing listens there", "systemctl start ssh")).await;
}

#[tokio::test]
async fn a_port_that_drops_what_comes() {
    // A full queue of connections that nobody accepts: the kernel drops further ones, as a firewall does.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap();
    let port = address.as_socket().unwrap().port();
    let _waiting: Vec<_> = (0..4)
        .map(|_| {
            let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            let _in_progress = client.connect(&address);
            client
        })
        .collect();
    let target = Target { connect_timeout: Duration::from_secs(1), ..unreachable("127.0.0.1", port) };
    fails(&target, at(Stage::Tcp, "did not answer in 1000 ms", "a firewall lets TCP port")).await;
}

#[tokio::test]
async fn a_port_that_says_nothing() {
    let port = listener_that_says(b"").await;
    let target = Target { connect_timeout: Duration::from_secs(1), ..unreachable("127.0.0.1", port) };
    fails(&target, at(Stage::Banner, "did not answer in 1000 ms", "check that it is sshd")).await;
}

#[tokio::test]
async fn something_that_is_not_ssh() {
    let port = listener_that_says(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let expected = at(Stage::Banner, "it said 'HTTP/1.1 400 Bad Request'", "sshd -T | grep ^port");
    fails(&unreachable("127.0.0.1", port), expected).await;
}

#[tokio::test]
async fn silence_after_the_banner() {
    let port = listener_that_says(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    let target = Target { connect_timeout: Duration::from_secs(1), ..unreachable("127.0.0.1", port) };
    fails(&target, at(Stage::KeyExchange, "did not answer in 1000 ms", "The server is overloaded or hangs"))
        .await;
}

#[tokio::test]
async fn no_common_algorithm() {
    for (config, kind) in [
        ("KexAlgorithms diffie-hellman-group14-sha1", "no common key exchange algorithm"),
        ("Ciphers aes128-cbc", "no common cipher algorithm"),
        ("Ciphers aes128-ctr\nMACs hmac-md5", "no common message authentication algorithm"),
    ] {
        let sshd = Sshd::start_with(config).await;
        fails(&sshd.target(), at(Stage::KeyExchange, kind, "Update the server's SSH daemon")).await;
    }
}

#[tokio::test]
async fn an_unknown_host_key() {
    let sshd = Sshd::start().await;
    let target = Target { pinned: None, ..sshd.target() };
    let fingerprint = sshd.host_key().fingerprint();
    let expected = Expected {
        outcome: Outcome::NeedsApproval,
        ..at(Stage::HostKey, &fingerprint, "if the fingerprint of 127.0.0.1")
    };
    let result = fails(&target, expected).await;
    assert_eq!(result.seen.as_ref(), Some(sshd.host_key()));
}

#[tokio::test]
async fn a_changed_host_key() {
    let mut sshd = Sshd::start().await;
    let target = sshd.target();
    sshd.reinstall().await;
    let target = Target { port: sshd.port(), ..target };
    let fingerprint = sshd.host_key().fingerprint();
    let result = fails(&target, at(Stage::HostKey, &fingerprint, "let an administrator accept it")).await;
    assert!(result.step(Stage::HostKey).unwrap().detail.contains("No credentials were sent"));
    assert_eq!(sshd.login_attempts(), 0, "{}", sshd.log());
}

#[tokio::test]
async fn a_revoked_host_key() {
    let sshd = Sshd::start().await;
    let target = Target { revoked: Arc::from([sshd.host_key().clone()]), ..sshd.target() };
    fails(&target, at(Stage::HostKey, "is revoked", "ssh-keygen -A")).await;
    assert_eq!(sshd.login_attempts(), 0, "{}", sshd.log());
}

#[tokio::test]
async fn an_expired_host_certificate() {
    let ring = KeyRing::new();
    ring.key("ca", &["ed25519"]);
    ring.key("host", &["ecdsa"]);
    ring.sign("ca", "host", &["-h", "-n", "127.0.0.1", "-V", "20240101000000Z:20240201000000Z"]);
    let (key, certificate) = (ring.path("host"), ring.path("host-cert.pub"));
    let sshd =
        Sshd::start_with(&format!("HostKey {}\nHostCertificate {}", key.display(), certificate.display()))
            .await;
    let target = Target { pinned: None, authorities: Arc::from([ring.public("ca")]), ..sshd.target() };
    fails(&target, at(Stage::HostKey, "it expired at 2024-02-01", "ssh-keygen -s CA -h")).await;
}

#[tokio::test]
async fn a_rejected_key() {
    let sshd = Sshd::start().await;
    let identity = Identity::Key(keys::generate_ed25519("wrong").unwrap().0);
    let target = Target { identity, ..sshd.target() };
    fails(&target, at(Stage::Authentication, "refused the login of 'root'", "ssh-copy-id -f -i KEY.pub"))
        .await;
}

#[tokio::test]
async fn an_expired_user_certificate() {
    let ring = KeyRing::new();
    ring.key("ca", &["ed25519"]);
    ring.key("key", &["ed25519"]);
    ring.sign("ca", "key", &["-n", "root", "-V", "20240101000000Z:20240201000000Z"]);
    let sshd = Sshd::start_with(&format!("TrustedUserCAKeys {}", ring.path("ca.pub").display())).await;
    let identity = Identity::Certificate { key: ring.private("key"), certificate: ring.certificate("key") };
    let target = Target { identity, ..sshd.target() };
    let expected = at(Stage::Authentication, "it expired at 2024-02-01", "ssh-keygen -s CA -I ID -n USER");
    fails(&target, expected).await;
}

#[tokio::test]
async fn an_agent_that_is_not_there() {
    let ring = KeyRing::new();
    ring.key("key", &["ed25519"]);
    let sshd = Sshd::start().await;
    let identity = Identity::Agent { socket: ring.path("agent.sock"), public_key: ring.text("key.pub") };
    let target = Target { identity, ..sshd.target() };
    fails(&target, at(Stage::Authentication, "it does not answer", "ssh-agent -a")).await;
}

#[tokio::test]
async fn a_wrong_password() {
    let sshd = Sshd::with_password("").await;
    let target = sshd.password_target("wrong horse");
    let result =
        fails(&target, at(Stage::Authentication, "with a password; it accepts:", "ssh-copy-id")).await;
    assert!(!format!("{:?}", result.steps).contains("wrong horse"));
}

#[tokio::test]
async fn a_locked_passphrase() {
    let ring = KeyRing::new();
    ring.keygen(&["-t", "ed25519", "-N", "open sesame", "-f", "key"]);
    let sshd = Sshd::start().await;
    let wrong = Some(Secret::new("open barley".to_owned()));
    for (passphrase, reason) in
        [(None, "it is protected by a passphrase"), (wrong, "the passphrase is wrong")]
    {
        let identity = Identity::KeyFile { path: ring.path("key"), passphrase };
        let target = Target { identity, ..sshd.target() };
        fails(&target, at(Stage::Authentication, reason, "give its passphrase")).await;
    }
    assert_eq!(sshd.login_attempts(), 0, "{}", sshd.log());
}

#[tokio::test]
async fn a_login_shell_that_lets_nobody_in() {
    let sshd = Sshd::with_login_shell("exec /usr/sbin/nologin").await;
    let expected = at(Stage::Shell, "This account is currently not available", "chsh -s /bin/sh root");
    let result = fails(&sshd.target(), expected).await;
    assert!(result.connection.is_some());
}

#[tokio::test]
async fn a_forced_command_instead_of_a_shell() {
    let sshd = Sshd::start_with("ForceCommand echo backups only").await;
    fails(&sshd.target(), at(Stage::Shell, "backups only", "a forced command in its authorized_keys")).await;
}

#[tokio::test]
async fn no_proc() {
    let script = "exec unshare --mount sh -c 'mount -t tmpfs none /proc; eval \"$SSH_ORIGINAL_COMMAND\"'";
    let sshd = Sshd::with_login_shell(script).await;
    let target = sshd.target();
    let result = in_time("a preflight", preflight(&target, None)).await;
    let step = result.step(Stage::Proc).unwrap();
    assert_eq!(step.outcome, Outcome::Failed, "{step:?}");
    assert!(step.detail.contains("/proc cannot be read") && step.detail.contains("No such file"), "{step:?}");
    assert!(step.fix.as_ref().unwrap().contains("mount -t proc proc /proc"));
}

#[tokio::test]
async fn no_sudo() {
    let tools = KeyRing::new();
    let busybox =
        std::process::Command::new("busybox").arg("--install").arg("-s").arg(tools.path("")).status();
    assert!(busybox.unwrap().success());
    make_readable(&tools);
    let sshd = Sshd::with_password(&format!("SetEnv PATH={}", tools.path("").display())).await;
    let target = Target { user: "deploy".to_owned(), ..sshd.password_target(PASSWORD) };
    let expected = Expected {
        outcome: Outcome::Warning,
        ..at(Stage::Sudo, "sudo is not installed", "Install sudo, then")
    };
    assert!(fails(&target, expected).await.passed());
}

fn make_readable(ring: &KeyRing) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(ring.path(""), mode).unwrap();
}

#[tokio::test]
async fn a_jump_host_that_does_not_let_us_in() {
    let (jump, sshd) = (Sshd::start().await, Sshd::start().await);
    let identity = Identity::Key(keys::generate_ed25519("wrong").unwrap().0);
    let route = Bastion::route("bastion", Target { identity, ..jump.target() });
    let target = Target { route, ..sshd.target() };
    let reason = "The jump host bastion: 127.0.0.1";
    let result = fails(&target, at(Stage::Route, reason, "ssh-copy-id -f -i KEY.pub")).await;
    assert!(result.step(Stage::Route).unwrap().detail.contains("refused the login"));
    assert_eq!(sshd.log().matches("Connection ").count(), 0);
}

#[tokio::test]
async fn a_jump_host_whose_key_nobody_approved() {
    let (jump, sshd) = (Sshd::start().await, Sshd::start().await);
    let route = Bastion::route("bastion", Target { pinned: None, ..jump.target() });
    let target = Target { route, ..sshd.target() };
    let result =
        fails(&target, at(Stage::Route, "The jump host bastion: The host key of", "approve the key")).await;
    assert_eq!(result.seen, None);
}

#[tokio::test]
async fn a_jump_host_that_forwards_nothing() {
    let restricted = Sshd::start().await;
    let (private, line) = keys::generate_ed25519("restricted").unwrap();
    restricted.authorize(&format!("restrict {line}"));
    let jumps = [
        (Sshd::start_with("AllowTcpForwarding no").await, None),
        (Sshd::start_with("PermitOpen none").await, None),
        (Sshd::dropbear_with(" -j").await, None),
        (restricted, Some(Identity::Key(private))),
    ];
    let sshd = Sshd::start().await;
    for (jump, identity) in jumps {
        let mut through = jump.target();
        through.identity = identity.unwrap_or(through.identity);
        let target = Target { route: Bastion::route("bastion", through), ..sshd.target() };
        let reason = "the jump host bastion does not allow forwarding to it";
        fails(&target, at(Stage::Tcp, reason, "On bastion set `AllowTcpForwarding yes`")).await;
    }
}

#[tokio::test]
async fn a_server_that_the_jump_host_cannot_reach() {
    let jump = Sshd::start().await;
    let port = free_port();
    let target = Target { route: Bastion::route("bastion", jump.target()), ..unreachable("127.0.0.1", port) };
    let fix = format!("nc -vz 127.0.0.1 {port}");
    fails(&target, at(Stage::Tcp, "the jump host bastion could not connect to it", &fix)).await;
}

#[tokio::test]
async fn a_proxy_that_is_not_there_or_refuses() {
    let sshd = Sshd::start().await;
    let through = |port: u16, kind| Target {
        route: Route::Proxy(Proxy {
            kind,
            host: "127.0.0.1".to_owned(),
            port: Port::of(i64::from(port)).unwrap(),
            login: None,
        }),
        ..sshd.target()
    };
    let gone = through(free_port(), ProxyKind::Http);
    fails(&gone, at(Stage::Route, "The proxy http://127.0.0.1:", "systemctl start")).await;
    let silent = Target {
        connect_timeout: Duration::from_secs(1),
        ..through(listener_that_says(b"").await, ProxyKind::Socks5)
    };
    fails(&silent, at(Stage::Route, "did not answer in time", "Check the proxy's kind")).await;
    let other = through(listener_that_says(b"SSH-2.0-OpenSSH_9.2\r\n").await, ProxyKind::Http);
    fails(&other, at(Stage::Route, "is not such a proxy", "Check the proxy's kind")).await;
    for (reply, reason) in [
        (1, "could not connect to it ('general failure')"),
        (2, "does not allow forwarding to it"),
        (3, "has no way to it"),
        (4, "has no way to it"),
        (5, "was refused there: nothing listens on the port"),
        (6, "waited for it in vain"),
        (7, "does not know how to connect ('command not supported')"),
        (8, "does not know how to connect ('address kind not supported')"),
    ] {
        let target = through(socks5_that_answers(reply).await, ProxyKind::Socks5);
        fails(&target, at(Stage::Tcp, reason, "")).await;
    }
}
