//! Every way in, as the fleet lives with it: over jump hosts and proxies, with agents, passwords and two identities.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use roundsman::fleet::{
    ActionLoginEdit, FleetError, Hand, Identification, LoginEdit, NewServer, ServerEdit, ServerState, WayEdit,
};
use roundsman::model::{Caller, Health, Layer, Reachability, Role, Secret};
use roundsman::ssh::{ExecRequest, keys};
use serde_json::json;
use support::app::{TestApp, of_sshd};
use support::credentials::{Agent, KeyRing};
use support::rounds::{SECOND, assert_on_time, rounds};
use support::sshd::{PASSWORD, Sshd};
use support::{eventually, in_time};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

fn behind(sshd: &Sshd, name: &str, jump: &str) -> NewServer {
    NewServer { name: Some(name.to_owned()), jump_host: Some(jump.to_owned()), ..of_sshd(sshd) }
}

fn secret(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

/// The sentence of a server that cannot be read.
async fn trouble(app: &TestApp, name: &str) -> String {
    let state = app
        .until(name, "in trouble", |state| matches!(state.reachability, Reachability::Unreachable { .. }))
        .await;
    let Reachability::Unreachable { reason, .. } = state.reachability else { unreachable!() };
    reason
}

async fn healthy(app: &TestApp, name: &str) -> ServerState {
    app.until(name, "healthy", |state| state.health == Health::Healthy).await
}

/// What a command printed, run as an action is.
async fn act(app: &TestApp, name: &str, command: &str) -> Result<String, String> {
    let id = app.state(name).server.id;
    let hand = in_time("a hand", app.services.fleet.hand(&Caller::roundsman(), id)).await?;
    let output = in_time("a command", hand.exec(ExecRequest::new(command))).await;
    output.map(|output| String::from_utf8(output.stdout).unwrap()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_server_is_read_and_acted_on_over_a_chain_of_jump_hosts_with_one_login_each() {
    let (first, second, last) = (Sshd::start().await, Sshd::dropbear().await, Sshd::start().await);
    let app = TestApp::start().await;
    app.with_server("first", &first).await;
    app.add(behind(&second, "second", "first")).await;
    let server = app.add(behind(&last, "last", "second")).await;
    rounds(&app, &server, 3).await;
    assert!(act(&app, "last", "echo $SSH_CONNECTION").await.unwrap().starts_with("127.0.0.1"));
    for name in ["first", "second", "last"] {
        healthy(&app, name).await;
    }
    assert_eq!([first.logins(), second.logins(), last.logins()], [1, 1, 1]);
    assert!(second.log().contains("127.0.0.1"));
    // The session of the last hop runs over the first: without it there is none.
    first.kill_sessions();
    eventually("the far ends notice", || last.session_processes() + second.session_processes() == 0).await;
    rounds(&app, &server, 2).await;
    assert_eq!([first.logins(), second.logins(), last.logins()], [2, 2, 2]);
}

#[tokio::test]
async fn a_dead_jump_host_is_named_delays_nobody_else_and_those_behind_it_come_back() {
    let (mut bastion, inner, other) = (Sshd::start().await, Sshd::start().await, Sshd::start().await);
    let app = TestApp::start().await;
    let good = app.with_server("good", &other).await;
    app.with_server("bastion", &bastion).await;
    let mut hidden = Vec::new();
    for number in 0..5 {
        let name = format!("inner-{number}");
        hidden.push((app.add(behind(&inner, &name, "bastion")).await, name));
    }
    let mut events = app.services.fleet.subscribe();
    rounds(&app, &hidden[4].0, 2).await;
    bastion.stop();
    for (_, name) in &hidden {
        let reason = trouble(&app, name).await;
        assert!(reason.contains("jump host bastion"), "{name}: {reason}");
    }
    rounds(&app, &good, 3).await;
    assert_on_time(&app, &mut events, &good);
    bastion.restart().await;
    let back = Instant::now();
    for (_, name) in &hidden {
        healthy(&app, name).await;
    }
    assert!(back.elapsed() < 60 * SECOND, "{:?}", back.elapsed());
    assert_eq!(bastion.logins(), 2, "{}", bastion.log());
}

#[tokio::test]
async fn a_new_address_of_a_jump_host_moves_those_behind_it() {
    let (old, inner) = (Sshd::start().await, Sshd::start().await);
    let new = Sshd::start().await;
    new.authorize(&keys::public_line(old.client_key(), None).unwrap());
    let app = TestApp::start().await;
    app.with_server("bastion", &old).await;
    let server = app.add(behind(&inner, "inner", "bastion")).await;
    rounds(&app, &server, 1).await;
    let fleet = &app.services.fleet;
    let edit = ServerEdit { port: Some(new.port().get().into()), ..ServerEdit::default() };
    fleet.edit(&Caller::roundsman(), "bastion", edit).await.unwrap();
    let offered =
        app.until("bastion", "waiting for approval", |state| state.offered_host_key.is_some()).await;
    let line = offered.offered_host_key.unwrap().line;
    fleet.approve_host_key(&Caller::roundsman(), "bastion", &line).await.unwrap();
    healthy(&app, "bastion").await;
    rounds(&app, &server, 2).await;
    healthy(&app, "inner").await;
    eventually("the old jump host is left", || old.session_processes() == 0).await;
    assert_eq!((new.logins(), inner.logins()), (1, 2), "{}", inner.log());
}

#[tokio::test]
async fn a_jump_host_without_a_shell_carries_others_and_says_why_it_is_not_read() {
    let inner = Sshd::start().await;
    let app = TestApp::start().await;
    for (name, bastion) in [
        ("nologin", Sshd::with_login_shell("echo 'This account is not available.'; exit 1").await),
        ("no-sessions", Sshd::start_with("MaxSessions 0").await),
    ] {
        app.with_server(name, &bastion).await;
        let server = app.add(behind(&inner, &format!("behind-{name}"), name)).await;
        let reason = trouble(&app, name).await;
        assert!(reason.contains("no shell") || reason.contains("channel"), "{name}: {reason}");
        rounds(&app, &server, 3).await;
        // A check makes the probe try again, and fail again; the connection stays.
        app.services.fleet.check(&Caller::roundsman(), name).await.unwrap();
        app.services.fleet.check(&Caller::roundsman(), name).await.unwrap();
        rounds(&app, &server, 2).await;
        assert_eq!(bastion.logins(), 1, "{}", bastion.log());
        assert!(matches!(app.state(name).reachability, Reachability::Unreachable { .. }));
        app.services.fleet.remove(&Caller::roundsman(), &format!("behind-{name}")).await.unwrap();
    }
}

/// A proxy of the CONNECT method that wants `me` and `hunter2`; counts the tunnels that it made.
async fn http_proxy() -> (u16, Arc<AtomicUsize>) {
    // `me:hunter2` in base64.
    const LOGIN: &str = "Basic bWU6aHVudGVyMg==";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tunnels = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tunnels);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                if !head.contains(LOGIN) {
                    client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await.unwrap();
                    return;
                }
                let place = head.split(' ').nth(1).unwrap();
                let mut server = TcpStream::connect(place).await.unwrap();
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
            });
        }
    });
    (port, tunnels)
}

#[tokio::test]
async fn a_proxy_leads_to_a_server_with_its_kept_password() {
    let (sshd, (port, tunnels)) = (Sshd::start().await, http_proxy().await);
    let app = TestApp::start().await;
    let through = |login: &str| NewServer {
        name: Some("web-1".to_owned()),
        proxy: Some(Secret::new(format!("http://{login}127.0.0.1:{port}"))),
        ..of_sshd(&sshd)
    };
    let refused = app.services.fleet.add(&Caller::roundsman(), through("me:wrong-hunter2@")).await;
    let Err(FleetError::Preflight { message, .. }) = refused else { panic!("{refused:?}") };
    assert!(message.contains("the proxy") && !message.contains("hunter2"), "{message}");
    let server = app.add(through("me:hunter2@")).await;
    rounds(&app, &server, 2).await;
    assert_eq!((tunnels.load(Ordering::Relaxed), sshd.logins()), (1, 1));
    let app = app.restart().await;
    healthy(&app, "web-1").await;
    assert_eq!((tunnels.load(Ordering::Relaxed), sshd.logins()), (2, 2));
}

#[tokio::test]
async fn a_key_of_the_agent_logs_in_and_has_to_be_there_when_it_is_chosen() {
    let (ring, sshd) = (KeyRing::new(), Sshd::start().await);
    for name in ["mine", "another"] {
        ring.key(name, &["ed25519"]);
    }
    let agent = Agent::start(&ring).await;
    agent.add(&ring, &["mine"]);
    sshd.authorize(&ring.text("mine.pub"));
    let app = TestApp::with_agent(agent.socket()).await;
    let with = |key: &str| NewServer {
        name: Some("web-1".to_owned()),
        identification: Identification::Agent(key.to_owned()),
        ..of_sshd(&sshd)
    };
    let fleet = &app.services.fleet;
    let refused = fleet.add(&Caller::roundsman(), with(&ring.text("another.pub"))).await;
    let Err(FleetError::Invalid { field: "agent_key", message }) = refused else { panic!("{refused:?}") };
    assert!(message.contains(&ring.public("mine").fingerprint()), "{message}");
    let foreign = Caller { organization: app.another_organization().await, ..Caller::roundsman() };
    let refused = fleet.add(&foreign, with(&ring.public("mine").fingerprint())).await;
    let Err(FleetError::Invalid { field: "agent_key", message }) = refused else { panic!("{refused:?}") };
    assert!(message.contains("first organization") && !message.contains("SHA256:"), "{message}");
    let server = app.add(with(&ring.public("mine").fingerprint())).await;
    rounds(&app, &server, 2).await;
    let way = &app.state("web-1").way;
    assert_eq!(way.login.agent_key.as_deref(), Some(ring.public("mine").to_string().as_str()));
    agent.add(&ring, &["-D"]);
    sshd.kill_sessions();
    let reason = trouble(&app, "web-1").await;
    assert!(reason.contains("ssh-agent"), "{reason}");
    agent.add(&ring, &["mine"]);
    fleet.check(&Caller::roundsman(), "web-1").await.unwrap();
    healthy(&app, "web-1").await;
    // Without any agent the server says so, and the others are served.
    let app = app.restart_with(None).await;
    let reason = trouble(&app, "web-1").await;
    assert!(reason.contains("without an ssh-agent"), "{reason}");
}

#[tokio::test]
async fn a_kept_key_logs_in_with_its_certificate() {
    let ring = KeyRing::new();
    for name in ["authority", "mine"] {
        ring.key(name, &["ed25519"]);
    }
    ring.sign("authority", "mine", &["-n", "root"]);
    let sshd = Sshd::start_with(&format!("TrustedUserCAKeys {}", ring.path("authority.pub").display())).await;
    let app = TestApp::start().await;
    let fleet = &app.services.fleet;
    let kept = fleet.import_key(&Caller::roundsman(), &ring.private("mine"), None).await.unwrap();
    let reference = kept.id.to_string();
    let new = || NewServer {
        name: Some("web-1".to_owned()),
        identification: Identification::KeptKey(reference.clone()),
        ..of_sshd(&sshd)
    };
    let refused = fleet.add(&Caller::roundsman(), new()).await;
    assert!(matches!(refused, Err(FleetError::Preflight { .. })), "{refused:?}");
    let line = ring.certificate("mine");
    fleet.attach_certificate(&Caller::roundsman(), &reference, &line).await.unwrap();
    let server = app.add(new()).await;
    rounds(&app, &server, 2).await;
    assert!(sshd.log().contains("ID mine"), "{}", sshd.log());
}

#[tokio::test]
async fn a_kept_password_logs_in_again_after_a_restart_and_never_once_forgotten() {
    let sshd = Sshd::with_password("").await;
    let app = TestApp::start().await;
    let server = app
        .add(NewServer {
            name: Some("web-1".to_owned()),
            identification: Identification::Password(secret(PASSWORD)),
            ..of_sshd(&sshd)
        })
        .await;
    rounds(&app, &server, 2).await;
    assert_eq!((sshd.logins(), app.state("web-1").logins_today), (1, 1));
    let app = app.restart().await;
    healthy(&app, "web-1").await;
    assert_eq!(sshd.logins(), 2);
    assert_eq!(app.state("web-1").logins_today, 2, "logins of the day outlive a restart");
    assert!(!std::fs::read_to_string(sshd.path("home/.ssh/authorized_keys")).unwrap().contains("roundsman"));
    let to_key =
        ServerEdit { login: LoginEdit { key: Some(None), ..LoginEdit::default() }, ..ServerEdit::default() };
    app.services.fleet.edit(&Caller::roundsman(), "web-1", to_key).await.unwrap();
    let reason = trouble(&app, "web-1").await;
    assert!(reason.contains("refused the login"), "{reason}");
    assert!(app.state("web-1").way.secrets.is_empty());
}

/// A daemon that lets one key take readings only, and another key everything.
async fn with_two_keys(ring: &KeyRing) -> Sshd {
    let sshd = Sshd::start().await;
    for name in ["reading", "acting"] {
        ring.key(name, &["ed25519"]);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/readings.sh");
    sshd.authorize(&format!(
        "restrict,command=\"/bin/sh {}\" {}",
        script.display(),
        ring.text("reading.pub").trim()
    ));
    sshd.authorize(&ring.text("acting.pub"));
    sshd
}

fn own(key: Secret<String>) -> Identification {
    Identification::PrivateKey { text: key, passphrase: None, source_path: None }
}

#[tokio::test]
async fn a_key_that_may_only_read_is_enrolled_and_actions_wait_for_a_second_identity() {
    let ring = KeyRing::new();
    let sshd = with_two_keys(&ring).await;
    let app = TestApp::start().await;
    let name = || Some("web-1".to_owned());
    let server = app
        .add(NewServer { name: name(), identification: own(ring.private("reading")), ..of_sshd(&sshd) })
        .await;
    assert!(server.findings.readings_only, "{:?}", server.findings);
    rounds(&app, &server, 2).await;
    let state = app.until("web-1", "read", |state| state.figures.cpu_percent.is_some()).await;
    assert!(state.facts.is_some() && state.health == Health::Healthy, "{state:?}");
    assert_eq!(sshd.logins(), 1, "{}", sshd.log());
    let refused = act(&app, "web-1", "id").await.unwrap_err();
    assert!(refused.contains("action login"), "{refused}");

    let fleet = &app.services.fleet;
    let kept = fleet.import_key(&Caller::roundsman(), &ring.private("acting"), None).await.unwrap();
    let action = ActionLoginEdit {
        username: Some("root".to_owned()),
        login: LoginEdit { key: Some(Some(kept.id.to_string())), ..LoginEdit::default() },
    };
    let way = WayEdit { action: Some(Some(action)), ..WayEdit::default() };
    fleet.edit(&Caller::roundsman(), "web-1", ServerEdit { way, ..ServerEdit::default() }).await.unwrap();
    rounds(&app, &server, 1).await;
    assert_eq!(sshd.logins(), 1, "a second identity does not disturb the first: {}", sshd.log());
    assert_eq!(act(&app, "web-1", "id -u").await.unwrap(), "0\n");
    assert_eq!(act(&app, "web-1", "echo again").await.unwrap(), "again\n");
    rounds(&app, &server, 2).await;
    assert_eq!(sshd.logins(), 2, "{}", sshd.log());
    eventually("both logins are counted", || app.state("web-1").logins_today == 2).await;
    let operator = app.token(Role::Operator).await;
    let tested = app.post("/api/v1/fleet/servers/web-1/test").by(&operator).send().await.expect(200);
    assert_eq!(tested["ok"], true, "{tested}");
    assert_eq!(
        tested["steps"].as_array().unwrap().iter().filter(|step| step["outcome"] == "warning").count(),
        1
    );
    assert!(tested["action_steps"].as_array().unwrap().iter().all(|step| step["outcome"] != "failed"));
    // Whoever is inactive has no connection, not even for actions.
    let inactive = ServerEdit { status: Some("inactive".parse().unwrap()), ..ServerEdit::default() };
    fleet.edit(&Caller::roundsman(), "web-1", inactive).await.unwrap();
    eventually("both sessions end", || sshd.session_processes() == 0).await;
}

#[tokio::test]
async fn two_identities_are_enrolled_together_and_a_wrong_second_one_is_told_apart() {
    let ring = KeyRing::new();
    let sshd = with_two_keys(&ring).await;
    let app = TestApp::start().await;
    let fleet = &app.services.fleet;
    let kept = fleet.import_key(&Caller::roundsman(), &ring.private("acting"), None).await.unwrap();
    let new = |key: Option<String>| NewServer {
        name: Some("web-1".to_owned()),
        identification: own(ring.private("reading")),
        action_login: Some(ActionLoginEdit {
            username: Some("root".to_owned()),
            login: LoginEdit { key: Some(key), ..LoginEdit::default() },
        }),
        ..of_sshd(&sshd)
    };
    let refused = fleet.add(&Caller::roundsman(), new(None)).await;
    let Err(FleetError::Preflight { message, .. }) = refused else { panic!("{refused:?}") };
    assert!(message.starts_with("the action login: "), "{message}");
    let server = app.add(new(Some(kept.id.to_string()))).await;
    rounds(&app, &server, 1).await;
    assert!(matches!(fleet.hand(&Caller::roundsman(), server.server.id).await, Ok(Hand::Ssh(_, Some(_)))));
    assert!(server.findings.spots.iter().all(|spot| spot.subject != "Shell"), "{:?}", server.findings);
}

#[tokio::test]
async fn a_key_that_may_only_read_lets_nothing_else_through() {
    let ring = KeyRing::new();
    let sshd = with_two_keys(&ring).await;
    let target = roundsman::ssh::Target {
        identity: roundsman::ssh::Identity::Key(ring.private("reading")),
        ..sshd.target()
    };
    let connection = in_time("a login", roundsman::ssh::connect(&target, &mut |_| {})).await.unwrap();
    let proof = sshd.path("proof");
    let touch = format!("touch {}", proof.display());
    for command in [touch.clone(), "exec /bin/sh".to_owned(), format!("{touch}\nexec /bin/sh")] {
        let refused = in_time("an answer", connection.exec(ExecRequest::new(command))).await.unwrap_err();
        assert!(refused.to_string().contains("may only take readings"), "{refused}");
    }
    // The probe's own start, with another script behind it.
    let mut stream = in_time("a stream", connection.open("exec /bin/sh")).await.unwrap();
    stream.write_all(format!("{touch}\nn=$({touch})\nmain; exit 0\n{touch}\n").as_bytes()).await.unwrap();
    let mut said = String::new();
    in_time("the end", stream.read_to_string(&mut said)).await.unwrap();
    assert!(said.is_empty() && stream.complaint().contains("may only take readings"), "{said}");
    let mut stream = in_time("a stream", connection.open("exec /bin/sh")).await.unwrap();
    stream.write_all(format!("n=abc\nmain; exit 0\n{touch}\nr 1 -d\n").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    in_time("the end", stream.read_to_string(&mut said)).await.unwrap();
    assert!(said.contains("@abc hello"), "{said}");
    assert!(!proof.exists());
}

#[tokio::test]
async fn changed_host_key_makes_the_server_critical_and_waits_for_an_admin() {
    let mut sshd = Sshd::start().await;
    let app = TestApp::start().await;
    let server = app.with_server("web-1", &sshd).await;
    rounds(&app, &server, 1).await;
    let before = sshd.host_key().clone();
    let mut events = app.services.fleet.subscribe();
    sshd.reinstall().await;
    let attempts = sshd.login_attempts();
    let critical = app.until("web-1", "critical", |state| state.health == Health::Critical).await;
    let told = async {
        loop {
            if let Ok(roundsman::model::Event::Health { health: Health::Critical, reachability, .. }) =
                events.recv().await
            {
                return reachability;
            }
        }
    };
    let Reachability::Unreachable { layer, reason, .. } = in_time("the event", told).await else {
        panic!("{critical:?}")
    };
    assert_eq!(layer, Some(Layer::HostKey));
    let both = [before.fingerprint(), sshd.host_key().fingerprint()];
    let (admin, operator) = (app.token(Role::Admin).await, app.token(Role::Operator).await);
    let shown = app.get("/api/v1/fleet/servers/web-1").by(&operator).send().await.expect(200);
    assert_eq!(shown["host_key_fingerprint"], both[0]);
    assert_eq!(shown["offered_host_key_fingerprint"], both[1]);
    let person = app.login(Role::Admin).await;
    let page = app.get("/servers/web-1/configuration").by(&person).send().await.text();
    for fingerprint in &both {
        assert!(reason.contains(fingerprint) && page.contains(fingerprint), "{fingerprint}: {reason}");
    }
    assert_eq!(sshd.login_attempts(), attempts, "no credential is sent: {}", sshd.log());
    let path = "/api/v1/fleet/servers/web-1/host-key";
    let approval = json!({ "host_key": shown["offered_host_key"] });
    app.post(path).by(&operator).json(&approval).send().await.expect(403);
    let other = json!({ "host_key": before.to_string() });
    app.post(path).by(&admin).json(&other).send().await.expect(422);
    app.post(path).by(&admin).json(&approval).send().await.expect(200);
    healthy(&app, "web-1").await;
    let audit = app.get("/api/v1/audit").by(&admin).send().await.expect(200);
    let entry =
        audit["items"].as_array().unwrap().iter().find(|entry| entry["action"] == "server.approve-host-key");
    let detail = entry.unwrap()["detail"].as_str().unwrap().to_owned();
    assert!(both.iter().all(|fingerprint| detail.contains(fingerprint)), "{detail}");
}

#[tokio::test]
async fn sixty_four_servers_that_stall_after_the_banner_delay_no_other_reading() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let met = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&met);
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            drop(socket.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await);
            counted.fetch_add(1, Ordering::Relaxed);
            kept.push(socket);
        }
    });
    let good = app.with_server("good", &sshd).await;
    for number in 0..64 {
        app.with_inactive(&format!("stalled-{number}")).await;
        let edit = ServerEdit {
            port: Some(port.into()),
            status: Some("active".parse().unwrap()),
            ..ServerEdit::default()
        };
        let name = format!("stalled-{number}");
        app.services.fleet.edit(&Caller::roundsman(), &name, edit).await.unwrap();
    }
    eventually("all of them hang", || met.load(Ordering::Relaxed) >= 64).await;
    let mut events = app.services.fleet.subscribe();
    // A server that connects only now has to get its turn between them.
    let late = Sshd::start().await;
    let begun = Instant::now();
    let new = NewServer { unchecked: true, status: Some("inactive".parse().unwrap()), ..of_sshd(&late) };
    app.add(NewServer { name: Some("late".to_owned()), ..new }).await;
    let edit = ServerEdit { status: Some("active".parse().unwrap()), ..ServerEdit::default() };
    app.services.fleet.edit(&Caller::roundsman(), "late", edit).await.unwrap();
    app.until("late", "read", |state| state.last_seen_at.is_some()).await;
    assert!(begun.elapsed() < 10 * SECOND, "{:?}", begun.elapsed());
    rounds(&app, &good, 3).await;
    assert_on_time(&app, &mut events, &good);
}
