//! Preflight and enrolment: what works, what does not, and the exact fix.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::time::Duration;

use roundsman::model::Port;
use roundsman::ssh::preflight::{Outcome, Preflight, Stage, preflight, preflight_with};
use roundsman::ssh::{
    ExecRequest, HostKey, Identity, ProxyKind, SshError, Target, connect, enrol_with_password, keys,
};
use support::credentials::KeyRing;
use support::in_time;
use support::reach::{Bastion, WorkingProxy};
use support::sshd::{PASSWORD, Sshd, free_port};

async fn look(target: &Target, known: Option<&str>) -> Preflight {
    in_time("a preflight", preflight(target, known)).await
}

fn outcome(preflight: &Preflight, stage: Stage) -> Outcome {
    preflight.step(stage).unwrap().outcome
}

fn fix(preflight: &Preflight, stage: Stage) -> String {
    preflight.step(stage).unwrap().fix.clone().unwrap()
}

fn stages(preflight: &Preflight) -> Vec<Stage> {
    preflight.steps.iter().map(|step| step.stage).collect()
}

#[tokio::test]
async fn a_good_server_passes_every_stage_in_order_and_leaves_a_connection() {
    let sshd = Sshd::start().await;
    let mut reported = Vec::new();
    let result =
        in_time("a preflight", preflight_with(&sshd.target(), None, &mut |step| reported.push(step.clone())))
            .await;
    assert_eq!(stages(&result), Stage::ALL[1..]);
    assert_eq!(reported, result.steps);
    for stage in &Stage::ALL[1..10] {
        assert_eq!(outcome(&result, *stage), Outcome::Passed, "{:?}", result.step(*stage));
    }
    assert!(result.passed());
    assert_eq!(result.seen.as_ref(), Some(sshd.host_key()));
    let connection = result.connection.unwrap();
    assert!(connection.exec(ExecRequest::new("true")).await.unwrap().success());
    assert_eq!(sshd.logins(), 1);
    let json = serde_json::to_value(&result.steps[3]).unwrap();
    assert_eq!((&json["stage"], &json["outcome"]), (&"key_exchange".into(), &"passed".into()));
}

#[tokio::test]
async fn a_refused_port_fails_at_tcp_and_the_rest_is_not_looked_at() {
    let identity = Identity::Key(keys::generate_ed25519("x").unwrap().0);
    let target = Target {
        connect_timeout: Duration::from_secs(30),
        ..Target::new("127.0.0.1", Port::of(i64::from(free_port())).unwrap(), "root", identity)
    };
    let result = look(&target, None).await;
    assert_eq!(stages(&result), Stage::ALL[1..]);
    assert_eq!(outcome(&result, Stage::Name), Outcome::Passed);
    assert_eq!(outcome(&result, Stage::Tcp), Outcome::Failed);
    assert!(fix(&result, Stage::Tcp).contains("systemctl start ssh"));
    assert!(result.steps[2..].iter().all(|step| step.outcome == Outcome::Skipped));
    assert!(!result.passed() && result.connection.is_none() && result.seen.is_none());
}

#[tokio::test]
async fn an_unknown_host_key_asks_for_approval_and_says_what_known_hosts_knows() {
    let sshd = Sshd::start().await;
    let target = Target { pinned: None, ..sshd.target() };
    let name = format!("[127.0.0.1]:{}", sshd.port());
    let other = HostKey::parse(&keys::generate_ed25519("other").unwrap().1).unwrap();
    let cases = [
        (None, Outcome::NeedsApproval, "Nobody has approved it yet"),
        (Some(String::new()), Outcome::NeedsApproval, "known_hosts does not have this key"),
        (Some(format!("{name} {}", sshd.host_key())), Outcome::NeedsApproval, "known_hosts has the same key"),
        (Some(format!("{name} {other}")), Outcome::NeedsApproval, "known_hosts has another key"),
        (Some(format!("@revoked {name} {}", sshd.host_key())), Outcome::Failed, "revoked"),
    ];
    for (known, expected, words) in cases {
        let result = look(&target, known.as_deref()).await;
        let step = result.step(Stage::HostKey).unwrap();
        assert_eq!(step.outcome, expected, "{step:?}");
        assert!(
            step.detail.contains(words) && step.detail.contains(&sshd.host_key().fingerprint()),
            "{step:?}"
        );
        assert_eq!(outcome(&result, Stage::KeyExchange), Outcome::Passed);
        assert_eq!(outcome(&result, Stage::Authentication), Outcome::Skipped);
        assert_eq!(result.seen.as_ref(), Some(sshd.host_key()));
        assert!(!result.passed());
    }
    assert_eq!(sshd.login_attempts(), 0);
}

#[tokio::test]
async fn a_refused_login_gives_the_command_that_installs_the_key() {
    let sshd = Sshd::start().await;
    let identity = Identity::Key(keys::generate_ed25519("wrong").unwrap().0);
    let result = look(&Target { identity, ..sshd.target() }, None).await;
    assert_eq!(outcome(&result, Stage::HostKey), Outcome::Passed);
    assert_eq!(outcome(&result, Stage::Authentication), Outcome::Failed);
    assert!(fix(&result, Stage::Authentication).contains("ssh-copy-id"));
    assert_eq!(outcome(&result, Stage::Docker), Outcome::Skipped);
}

#[tokio::test]
async fn a_login_without_a_shell_fails_at_the_shell() {
    let sshd = Sshd::with_login_shell("echo 'no logins here'; exit 1").await;
    let result = look(&sshd.target(), None).await;
    assert_eq!(outcome(&result, Stage::Authentication), Outcome::Passed);
    let step = result.step(Stage::Shell).unwrap();
    assert!(step.outcome == Outcome::Failed && step.detail.contains("no logins here"), "{step:?}");
    assert!(fix(&result, Stage::Shell).contains("chsh -s /bin/sh root"));
}

#[tokio::test]
async fn a_user_without_rights_is_warned_with_the_exact_sudoers_line() {
    let sshd = Sshd::with_password("").await;
    let target = Target { user: "deploy".to_owned(), ..sshd.password_target(PASSWORD) };
    let result = look(&target, None).await;
    assert_eq!(outcome(&result, Stage::Shell), Outcome::Passed, "{:?}", result.steps);
    assert_eq!(outcome(&result, Stage::Sudo), Outcome::Warning);
    assert!(fix(&result, Stage::Sudo).contains("deploy ALL=(ALL) NOPASSWD: ALL"));
    assert!(result.passed());
}

#[tokio::test]
async fn enrolling_with_a_password_installs_the_key_once_and_the_key_then_logs_in() {
    for sshd in [Sshd::with_password("").await, Sshd::dropbear().await] {
        let (private, line) = keys::generate_ed25519("roundsman").unwrap();
        for _ in 0..2 {
            let target = sshd.password_target(PASSWORD);
            in_time("the enrolment", enrol_with_password(&target, &line)).await.unwrap();
        }
        let installed = std::fs::read_to_string(sshd.home().join(".ssh/authorized_keys")).unwrap();
        assert_eq!(installed.matches(&line).count(), 1, "{installed}");
        let target = Target { identity: Identity::Key(private), ..sshd.target() };
        let connection = in_time("a login", connect(&target, &mut |_| {})).await.unwrap();
        assert!(connection.exec(ExecRequest::new("true")).await.unwrap().success());
    }
}

#[tokio::test]
async fn enrolling_sends_no_password_to_an_unapproved_server() {
    let sshd = Sshd::with_password("").await;
    let (_, line) = keys::generate_ed25519("roundsman").unwrap();
    let target = Target { pinned: None, ..sshd.password_target(PASSWORD) };
    let error = in_time("an error", enrol_with_password(&target, &line)).await.unwrap_err();
    assert!(matches!(&error, SshError::HostKeyUnknown { .. }), "{error:?}");
    assert_eq!(sshd.login_attempts(), 0);
}

#[tokio::test]
async fn a_home_that_cannot_be_written_is_told() {
    let sshd = Sshd::with_password("").await;
    let (_, line) = keys::generate_ed25519("roundsman").unwrap();
    let target = Target { user: "deploy".to_owned(), ..sshd.password_target(PASSWORD) };
    let error = in_time("an error", enrol_with_password(&target, &line)).await.unwrap_err();
    assert!(matches!(&error, SshError::RemoteFailed { .. }), "{error:?}");
    assert!(!error.to_string().contains(PASSWORD));
}

#[tokio::test]
async fn over_a_jump_host_or_a_proxy_the_way_is_a_step_of_its_own() {
    let (jump, sshd) = (Sshd::start().await, Sshd::start().await);
    let proxy = WorkingProxy::start(ProxyKind::Socks5, false).await;
    for (route, words) in [
        (Bastion::route("bastion", jump.target()), "The jump host bastion is logged in to."),
        (proxy.route(None), "The proxy socks5://127.0.0.1:"),
    ] {
        let result = look(&Target { route, ..sshd.target() }, None).await;
        assert_eq!(stages(&result), Stage::ALL);
        let way = result.step(Stage::Route).unwrap();
        assert!(way.outcome == Outcome::Passed && way.detail.starts_with(words), "{way:?}");
        assert_eq!(outcome(&result, Stage::Name), Outcome::Skipped);
        assert_eq!(outcome(&result, Stage::Tcp), Outcome::Passed);
        assert!(result.passed());
        assert!(result.connection.unwrap().exec(ExecRequest::new("true")).await.unwrap().success());
    }
    assert_eq!((jump.logins(), sshd.logins()), (1, 2));
}

#[tokio::test]
async fn the_login_tells_what_was_agreed_on_and_what_of_it_is_weak() {
    let ring = KeyRing::new();
    ring.key("host", &["rsa", "-b", "2048"]);
    let config = format!("HostKey {}\nHostKeyAlgorithms rsa-sha2-512", ring.path("host").display());
    let sshd = Sshd::start_with(&config).await;
    let result = look(&Target { pinned: Some(ring.public("host")), ..sshd.target() }, None).await;
    let login = result.step(Stage::Authentication).unwrap();
    assert_eq!(login.outcome, Outcome::Passed);
    assert!(login.detail.contains(", rsa-sha2-512, "), "{login:?}");
    assert!(login.detail.ends_with("The RSA key has 2048 bits; 3072 are recommended."), "{login:?}");
}
