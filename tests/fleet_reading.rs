//! The rounds: servers are read on time, and each kind of trouble is named without disturbing the others.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use roundsman::fleet::{NewServer, ServerEdit, ServerState};
use roundsman::model::{Caller, Event, Health, Layer, Reachability, Role, Status};
use serde_json::json;
use support::app::{TestApp, of_sshd};
use support::eventually;
use support::rounds::{SECOND, assert_on_time, rounds};
use support::sshd::{Sshd, free_port};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::Instant;

async fn edit(app: &TestApp, name: &str, edit: ServerEdit) -> ServerState {
    app.services.fleet.edit(&Caller::roundsman(), name, edit).await.unwrap()
}

/// The layer and the sentence of a server that cannot be read.
async fn trouble(app: &TestApp, name: &str) -> (Option<Layer>, String) {
    let unreachable = |state: &ServerState| matches!(state.reachability, Reachability::Unreachable { .. });
    let state = app.until(name, "in trouble", unreachable).await;
    assert_eq!(state.health, Health::Unreachable, "{state:?}");
    assert_eq!(state.figures.cpu_percent, None, "figures of a server that is gone are unknown");
    let Reachability::Unreachable { layer, reason, .. } = state.reachability else { unreachable!() };
    assert!(reason.chars().count() < 1500 && !reason.contains(char::is_control), "{reason}");
    assert_eq!(state.health_reasons.join("\n"), reason);
    (layer, reason)
}

#[tokio::test]
async fn first_metrics_are_there_within_two_seconds_of_approval() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    let admin = app.token(Role::Admin).await;
    let body = json!({
        "name": "web-1", "hostname": "127.0.0.1", "port": sshd.port(), "host_key": sshd.host_key().to_string(),
        "private_key": sshd.client_key().expose(),
    });
    app.post("/api/v1/fleet/servers").by(&admin).json(&body).send().await.expect(201);
    let approved = Instant::now();
    app.until("web-1", "read", |state| state.figures.memory_percent.is_some()).await;
    assert!(approved.elapsed() < 2 * SECOND, "{:?}", approved.elapsed());
    // Rates need a second reading, which comes early.
    app.until("web-1", "read twice", |state| state.figures.cpu_percent.is_some()).await;
    assert!(approved.elapsed() < 4 * SECOND, "{:?}", approved.elapsed());
}

#[tokio::test]
async fn readings_and_edits_of_what_is_said_need_one_login() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    let server = app.with_server("web-1", &sshd).await;
    rounds(&app, &server, 2).await;
    edit(&app, "web-1", ServerEdit { name: Some("web-2".to_owned()), ..ServerEdit::default() }).await;
    rounds(&app, &server, 1).await;
    edit(&app, "web-2", ServerEdit { tags: Some(vec!["blue".to_owned()]), ..ServerEdit::default() }).await;
    edit(&app, "web-2", ServerEdit { region: Some(Some("eu".to_owned())), ..ServerEdit::default() }).await;
    rounds(&app, &server, 2).await;
    assert_eq!(sshd.logins(), 1, "{}", sshd.log());
    assert_eq!(app.state("web-2").logins_today, 1);
    assert!(!app.state("web-2").cpu_recent.iter().flatten().collect::<Vec<_>>().is_empty());
}

#[tokio::test]
async fn a_stopped_server_is_unreachable_at_once_and_healthy_after_its_return() {
    let (mut gone, stays) = (Sshd::start().await, Sshd::start().await);
    let app = TestApp::start().await;
    let lost = app.with_server("gone", &gone).await;
    let other = app.with_server("stays", &stays).await;
    rounds(&app, &lost, 3).await;
    rounds(&app, &other, 2).await;
    let mut events = app.services.fleet.subscribe();
    gone.stop();
    let stopped = Instant::now();
    let (layer, reason) = trouble(&app, "gone").await;
    assert!(stopped.elapsed() <= 3 * SECOND, "{:?}", stopped.elapsed());
    assert_eq!(layer, Some(Layer::Tcp), "{reason}");
    assert!(reason.contains("systemctl start ssh"), "{reason}");
    rounds(&app, &other, 2).await;
    gone.restart().await;
    let back = Instant::now();
    app.until("gone", "healthy", |state| state.health == Health::Healthy).await;
    assert!(back.elapsed() < 60 * SECOND);
    assert_eq!(app.state("gone").reachability, Reachability::Reachable);
    assert_on_time(&app, &mut events, &other);
    assert_eq!((gone.logins(), app.state("gone").logins_today), (2, 2), "{}", gone.log());
}

#[tokio::test]
async fn sessions_that_are_killed_alone_are_made_again_without_a_word() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    let server = app.with_server("web-1", &sshd).await;
    rounds(&app, &server, 2).await;
    let mut events = app.services.fleet.subscribe();
    sshd.kill_sessions();
    rounds(&app, &server, 2).await;
    while let Ok(event) = events.try_recv() {
        if let Event::Health { health, .. } = event {
            assert_eq!(health, Health::Healthy);
        }
    }
    assert_eq!(sshd.logins(), 2, "{}", sshd.log());
}

#[tokio::test]
async fn a_frozen_server_is_unreachable_within_three_intervals_and_healthy_after_its_return() {
    let (frozen, stays) = (Sshd::start().await, Sshd::start().await);
    let app = TestApp::start().await;
    let interval = 2 * SECOND;
    let new = NewServer { name: Some("frozen".to_owned()), interval_ms: Some(2000), ..of_sshd(&frozen) };
    let lost = app.add(new).await;
    let other = app.with_server("stays", &stays).await;
    rounds(&app, &lost, 3).await;
    let mut events = app.services.fleet.subscribe();
    frozen.freeze();
    let at = Instant::now();
    let (layer, reason) = trouble(&app, "frozen").await;
    assert!(at.elapsed() <= 3 * interval, "{:?}", at.elapsed());
    assert_eq!(layer, Some(Layer::Channel), "{reason}");
    assert!(reason.contains("did not answer"), "{reason}");
    rounds(&app, &other, 2).await;
    frozen.thaw();
    let back = Instant::now();
    app.until("frozen", "healthy", |state| state.health == Health::Healthy).await;
    assert!(back.elapsed() < 60 * SECOND);
    assert_on_time(&app, &mut events, &other);
}

#[tokio::test]
async fn a_changed_host_key_is_critical_and_nothing_is_sent_until_it_is_approved() {
    let (app, mut sshd) = (TestApp::start().await, Sshd::start().await);
    let admin = app.token(Role::Admin).await;
    let server = app.with_server("web-1", &sshd).await;
    rounds(&app, &server, 1).await;
    let (pinned, attempts) = (sshd.host_key().clone(), sshd.login_attempts());
    sshd.reinstall().await;
    app.until("web-1", "critical", |state| state.health == Health::Critical).await;
    assert_eq!(sshd.login_attempts(), attempts, "{}", sshd.log());
    let shown = app.get("/api/v1/fleet/servers/web-1").by(&admin).send().await.expect(200);
    assert_eq!(shown["host_key_fingerprint"], pinned.fingerprint());
    assert_eq!(shown["offered_host_key_fingerprint"], sshd.host_key().fingerprint());
    assert_eq!(shown["reachability"]["layer"], "host_key");
    let person = app.login(Role::Admin).await;
    for path in ["/servers/web-1", "/servers/web-1/configuration"] {
        let page = app.get(path).by(&person).send().await.text();
        for fingerprint in [pinned.fingerprint(), sshd.host_key().fingerprint()] {
            assert!(
                page.contains(&fingerprint.replace('+', "&#43;")) || page.contains(&fingerprint),
                "{path}"
            );
        }
    }
    // Only the key that is offered now can be approved, and only by an administrator.
    let approve = async |line: String, role: Role| {
        let who = app.token(role).await;
        app.post("/api/v1/fleet/servers/web-1/host-key")
            .by(&who)
            .json(&json!({ "host_key": line }))
            .send()
            .await
    };
    let unrelated = roundsman::ssh::keys::generate_ed25519("unrelated").unwrap().1;
    assert_eq!(approve(unrelated, Role::Admin).await.status, 422);
    assert_eq!(approve(sshd.host_key().to_string(), Role::Operator).await.status, 403);
    assert_eq!(sshd.login_attempts(), attempts, "{}", sshd.log());
    assert_eq!(approve(sshd.host_key().to_string(), Role::Admin).await.status, 200);
    let state = app.until("web-1", "healthy", |state| state.health == Health::Healthy).await;
    assert_eq!(state.host_key.unwrap().fingerprint, sshd.host_key().fingerprint());
    assert_eq!(state.offered_host_key.map(|key| key.fingerprint), None);
}

/// A listener that says `greeting` to everybody and then nothing.
async fn listener_that_says(greeting: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                // Both fail when the other side has hung up, as it should.
                drop(socket.write_all(greeting).await);
                drop(socket.read_to_end(&mut Vec::new()).await);
            });
        }
    });
    port
}

/// Stores a server without a look at it, then points it at `port` and lets it be read.
async fn read_at(app: &TestApp, name: &str, port: u16) {
    let new = NewServer {
        name: Some(name.to_owned()),
        hostname: "127.0.0.1".to_owned(),
        port: Some(free_port().into()),
        status: Some(Status::Inactive),
        unchecked: true,
        ..NewServer::default()
    };
    app.add(new).await;
    let (port, status) = (Some(i64::from(port)), Some(Status::Active));
    edit(app, name, ServerEdit { port, status, ..ServerEdit::default() }).await;
}

#[tokio::test]
async fn each_trouble_on_the_way_is_named_and_disturbs_nobody() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    let good = app.with_server("good", &sshd).await;
    let mut events = app.services.fleet.subscribe();
    read_at(&app, "refused", free_port()).await;
    read_at(&app, "silent", listener_that_says(b"").await).await;
    read_at(
        &app,
        "garbage",
        listener_that_says(b"HTTP/1.1 400 Bad\x1b[31m\r\n\r\n<script>alert(1)</script>").await,
    )
    .await;
    read_at(&app, "mute", listener_that_says(b"SSH-2.0-OpenSSH_9.2\r\n").await).await;
    read_at(&app, "unapproved", sshd.port().get()).await;
    let of = |name: &str| NewServer { name: Some(name.to_owned()), unchecked: true, ..of_sshd(&sshd) };
    app.add(NewServer { username: Some("nobody-here".to_owned()), ..of("wrong-user") }).await;
    app.add(NewServer { identification: Default::default(), ..of("wrong-key") }).await;
    app.add(NewServer { hostname: "no-such-host.invalid".to_owned(), ..of("nowhere") }).await;
    let before = sshd.login_attempts();
    for (name, expected, words) in [
        ("refused", Layer::Tcp, "systemctl start ssh"),
        ("garbage", Layer::Banner, "HTTP/1.1 400 Bad"),
        ("unapproved", Layer::HostKey, "SHA256:"),
        ("wrong-user", Layer::Authentication, "'nobody-here'"),
        ("wrong-key", Layer::Authentication, "ssh-copy-id"),
        ("nowhere", Layer::Name, "no-such-host.invalid"),
        ("silent", Layer::Banner, ""),
        ("mute", Layer::KeyExchange, ""),
    ] {
        let (layer, reason) = trouble(&app, name).await;
        assert_eq!(layer, Some(expected), "{name}: {reason}");
        assert!(reason.contains(words) && reason.len() > 20, "{name}: {reason}");
    }
    assert_on_time(&app, &mut events, &good);
    assert!(
        sshd.login_attempts() - before < 10,
        "a refused login is not tried again and again: {}",
        sshd.log()
    );
    let person = app.login(Role::Viewer).await;
    for path in ["/", "/servers/garbage"] {
        assert!(!app.get(path).by(&person).send().await.text().contains("<script>alert"), "{path}");
    }
}

#[tokio::test]
async fn a_login_shell_that_prints_banners_is_read_all_the_same() {
    let banner = "printf 'Welcome!\\n\\033[31mAuthorized use only\\033[0m\\n'; echo warning >&2";
    let sshd = Sshd::with_login_shell(&format!("{banner}; eval \"$SSH_ORIGINAL_COMMAND\"")).await;
    let app = TestApp::start().await;
    let server = app.with_server("web-1", &sshd).await;
    rounds(&app, &server, 3).await;
    let state = app.until("web-1", "healthy", |state| state.health == Health::Healthy).await;
    assert!(state.figures.cpu_percent.is_some() && state.facts.is_some());
    assert_eq!(sshd.logins(), 1, "{}", sshd.log());
}

#[tokio::test]
async fn hostile_output_of_a_login_shell_is_named_and_disturbs_nobody() {
    let good_sshd = Sshd::start().await;
    let app = TestApp::start().await;
    let good = app.with_server("good", &good_sshd).await;
    let proof = app.data().join("executed");
    let mut events = app.services.fleet.subscribe();
    let run = format!("$(touch {0}); `touch {0}`; touch {0}", proof.display());
    let mut daemons = Vec::new();
    for (name, script) in [
        ("endless", "exec yes 'all work and no play'".to_owned()),
        ("binary", "exec cat /dev/urandom".to_owned()),
        ("html", format!("cat <<'EOF'\n<html><script>alert(1)</script>{run}\n\nEOF\nexit 0")),
        ("escapes", "printf '\\033]0;owned\\007\\033[2J\\r\\0'; exit 3".to_owned()),
        ("closed", "exit 0".to_owned()),
    ] {
        let sshd = Sshd::with_login_shell(&script).await;
        app.add(NewServer { name: Some(name.to_owned()), unchecked: true, ..of_sshd(&sshd) }).await;
        daemons.push((name, sshd));
    }
    let person = app.login(Role::Viewer).await;
    for (name, _sshd) in &daemons {
        let (layer, reason) = trouble(&app, name).await;
        assert!(matches!(layer, Some(Layer::Shell | Layer::Channel)), "{name}: {layer:?} {reason}");
        let page = app.get(&format!("/servers/{name}")).by(&person).send().await;
        assert_eq!(page.status, 200, "{name}");
        assert!(!page.text().contains("<script>alert") && !page.text().contains('\u{1b}'), "{name}");
    }
    rounds(&app, &good, 3).await;
    assert!(!proof.exists(), "something that a server said was executed");
    assert_on_time(&app, &mut events, &good);
}

#[tokio::test]
async fn an_inactive_server_is_left_alone_until_it_is_active_again() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    let server = app.with_server("web-1", &sshd).await;
    rounds(&app, &server, 1).await;
    let status = |status| ServerEdit { status: Some(status), ..ServerEdit::default() };
    let state = edit(&app, "web-1", status(Status::Inactive)).await;
    assert_eq!((state.health, state.reachability), (Health::Unknown, Reachability::Unknown));
    eventually("the session ends", || sshd.session_processes() == 0).await;
    let connections = sshd.log().matches("Connection from").count();
    let admin = app.token(Role::Operator).await;
    let check = app.post("/api/v1/fleet/servers/web-1/check").by(&admin).send().await.expect(409);
    assert!(check["detail"].as_str().unwrap().contains("inactive"), "{check}");
    let other = app.with_unchecked("other", free_port()).await;
    assert_eq!(other.server.status, Status::Active);
    assert_eq!(sshd.log().matches("Connection from").count(), connections, "{}", sshd.log());
    edit(&app, "web-1", status(Status::Active)).await;
    rounds(&app, &server, 1).await;
    assert_eq!(sshd.logins(), 2);
    assert_eq!(app.state("web-1").health, Health::Healthy);
}

#[tokio::test]
async fn removing_a_server_ends_its_session_and_deletes_its_history() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    let server = app.with_server("web-1", &sshd).await;
    rounds(&app, &server, 2).await;
    let number = server.server.number;
    assert!(!app.history.series(number).is_empty());
    app.services.fleet.remove(&Caller::roundsman(), "web-1").await.unwrap();
    eventually("the session ends", || sshd.session_processes() == 0).await;
    assert_eq!(app.history.series(number).len(), 0);
    assert_eq!(app.history.latest(number).len(), 0);
    // The same machine under the same name begins anew.
    let again = app.with_server("web-1", &sshd).await;
    assert_ne!(again.server.number, number);
    rounds(&app, &again, 1).await;
    assert_eq!(app.history.series(number).len(), 0);
}

#[tokio::test]
async fn a_new_interval_counts_at_once_and_costs_no_login() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    let new = NewServer { name: Some("web-1".to_owned()), interval_ms: Some(3_600_000), ..of_sshd(&sshd) };
    let server = app.add(new).await;
    rounds(&app, &server, 2).await;
    let changed = Instant::now();
    edit(&app, "web-1", ServerEdit { interval_ms: Some(1000), ..ServerEdit::default() }).await;
    rounds(&app, &server, 3).await;
    assert!(changed.elapsed() < 4 * SECOND, "{:?}", changed.elapsed());
    assert_eq!(sshd.logins(), 1, "{}", sshd.log());
}

#[tokio::test]
async fn when_a_server_was_last_seen_is_known_after_a_restart() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    app.with_server("web-1", &sshd).await;
    app.with_inactive("never").await;
    let seen = app.until("web-1", "read", |state| state.last_seen_at.is_some()).await.last_seen_at.unwrap();
    // Gone, so that nothing but the store can know.
    drop(sshd);
    let app = app.restart().await;
    assert!(app.state("web-1").last_seen_at.unwrap() >= seen);
    assert_eq!(app.state("never").last_seen_at, None);
}
