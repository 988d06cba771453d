//! Reach: jump hosts, proxies, IPv6; each hop is named when it is the trouble, and none holds up another.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::sync::Arc;
use std::time::Duration;

use roundsman::model::{Layer, Port};
use roundsman::ssh::{
    Connection, ExecRequest, Hop, Identity, ProxyKind, Refusal, Route, Session, SessionState, SshError,
    Target, connect, keys,
};
use support::namespaces::{Namespaces, ip};
use support::reach::{Bastion, PROXY_LOGIN, WorkingProxy};
use support::sshd::Sshd;
use support::{eventually, in_time};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

async fn dial(target: &Target) -> Result<Connection, SshError> {
    in_time("a connection or an error", Box::pin(connect(target, &mut |_| {}))).await
}

async fn works(connection: &Connection) {
    let output = in_time("a command", connection.exec(ExecRequest::new("echo works"))).await.unwrap();
    assert_eq!(output.stdout, b"works\n");
}

fn through(name: &'static str, jump: Target, target: Target) -> Target {
    Target { route: Bastion::route(name, jump), ..target }
}

fn session(target: Target, gate: &Arc<Semaphore>) -> (Session, tokio_util::sync::DropGuard) {
    let token = CancellationToken::new();
    (Session::start(target, Arc::clone(gate), token.clone()), token.drop_guard())
}

fn open_gate() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(64))
}

/// Greets every connection as an SSH server does, then does this.
async fn after_the_banner<F>(then: impl Fn(tokio::net::TcpStream) -> F + Send + 'static) -> Port
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            socket.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
            tokio::spawn(then(socket));
        }
    });
    Port::of(i64::from(port)).unwrap()
}

#[tokio::test]
async fn a_server_is_reached_over_a_chain_of_jump_hosts() {
    let (first, second, last) = (Sshd::start().await, Sshd::dropbear().await, Sshd::start().await);
    let chain = through("second", through("first", first.target(), second.target()), last.target());
    let connection = dial(&chain).await.unwrap();
    works(&connection).await;
    assert_eq!([first.logins(), second.logins(), last.logins()], [1, 1, 1]);
    drop(connection);
    eventually("every session is gone", || {
        first.session_processes() + second.session_processes() + last.session_processes() == 0
    })
    .await;
}

#[tokio::test]
async fn dropbear_is_reached_over_openssh_and_openssh_over_dropbear() {
    let (openssh, dropbear) = (Sshd::start().await, Sshd::dropbear().await);
    works(&dial(&through("openssh", openssh.target(), dropbear.target())).await.unwrap()).await;
    works(&dial(&through("dropbear", dropbear.target(), openssh.target())).await.unwrap()).await;
}

#[tokio::test]
async fn of_several_hops_the_one_that_fails_is_named() {
    let (first, second, last) = (Sshd::start().await, Sshd::start().await, Sshd::start().await);
    let wrong = |target: Target| Target {
        identity: Identity::Key(keys::generate_ed25519("wrong").unwrap().0),
        ..target
    };
    let chain =
        |first: Target, second: Target| through("second", through("first", first, second), last.target());
    for (target, name) in [
        (chain(wrong(first.target()), second.target()), "first"),
        (chain(first.target(), wrong(second.target())), "second"),
    ] {
        let error = dial(&target).await.unwrap_err();
        assert_eq!(error.hop(), Some(&Hop::JumpHost(name.to_owned())), "{error:?}");
        assert!(error.to_string().starts_with(&format!("The jump host {name}: ")), "{error}");
        assert_eq!(error.layer(), Some(Layer::Authentication));
        assert!(!error.needs_a_person());
    }
    dial(&chain(first.target(), second.target())).await.unwrap();
    let error = dial(&through("first", first.target(), wrong(last.target()))).await.unwrap_err();
    assert!(error.hop().is_none() && error.needs_a_person(), "{error:?}");
}

#[tokio::test]
async fn the_death_of_a_jump_host_ends_what_runs_over_it_and_is_named() {
    let (jump, sshd) = (Sshd::start().await, Sshd::start().await);
    let connection = dial(&through("bastion", jump.target(), sshd.target())).await.unwrap();
    let running = tokio::spawn({
        let connection = connection.clone();
        async move { connection.exec(ExecRequest::new("echo begun; sleep 1000")).await }
    });
    eventually("the command runs", || sshd.log().contains("Starting session")).await;
    jump.kill_sessions();
    in_time("the end of the connection", connection.closed()).await;
    let error = in_time("an error", running).await.unwrap().unwrap_err();
    let SshError::Closed { cause, .. } = &error else { panic!("{error:?}") };
    assert!(cause.contains("the connection to the jump host bastion ended"), "{cause}");
    eventually("the session on the server is gone", || sshd.session_processes() == 0).await;
}

#[tokio::test]
async fn an_end_behind_a_jump_host_leaves_the_jump_host_alone() {
    let (jump, sshd) = (Sshd::start_with("MaxSessions 1").await, Sshd::start().await);
    let (bastion, _ends) = session(jump.target(), &open_gate());
    let target = Target { route: Route::Jump(Arc::new(bastion.clone())), ..sshd.target() };
    for round in 0..10 {
        let connection = dial(&target).await.unwrap();
        works(&connection).await;
        match round % 3 {
            0 => connection.kill(),
            1 => in_time("the goodbye", connection.close()).await,
            _ => sshd.kill_sessions(),
        }
        in_time("the end of the connection", connection.closed()).await;
        eventually("the server's session is gone", || sshd.session_processes() == 0).await;
    }
    works(&bastion.connection().await.unwrap()).await;
    assert_eq!((jump.logins(), bastion.logins()), (1, 1));
}

#[tokio::test]
async fn a_tunnel_that_nobody_reads_does_not_block_the_jump_host() {
    let (stopped, mut floods) = tokio::sync::mpsc::unbounded_channel();
    let port = after_the_banner(move |mut socket| {
        let stopped = stopped.clone();
        async move {
            let junk = vec![0; 64 * 1024];
            let mut sent = 0;
            while socket.write_all(&junk).await.is_ok() {
                sent += junk.len();
            }
            let _the_test_may_be_over = stopped.send(sent);
        }
    })
    .await;
    let (jump, sshd) = (Sshd::start().await, Sshd::start().await);
    let (bastion, _ends) = session(jump.target(), &open_gate());
    let route = Route::Jump(Arc::new(bastion.clone()));
    // Behind a gate that nobody opens, the server's bytes are left lying.
    let closed = Arc::new(Semaphore::new(0));
    let (flooded, _ends_too) = session(Target { port, route: route.clone(), ..sshd.target() }, &closed);
    let mut state = flooded.state();
    let waits = |state: &SessionState| matches!(state, SessionState::Connecting { layer: Layer::Banner });
    in_time("the banner", state.wait_for(waits)).await.unwrap();
    for _ in 0..20 {
        works(&bastion.connection().await.unwrap()).await;
    }
    works(&dial(&Target { route, ..sshd.target() }).await.unwrap()).await;
    assert_eq!(bastion.logins(), 1);
    // The flood was cut off at a bound: 8 MiB of backlog, and what buffers on the way hold.
    let sent = in_time("the end of the flood", floods.recv()).await.unwrap();
    assert!((4 << 20..64 << 20).contains(&sent), "{sent} bytes");
    closed.add_permits(1);
    let error = in_time("an error", flooded.connection()).await.unwrap_err();
    assert_eq!(error.layer(), Some(Layer::KeyExchange), "{error:?}");
}

#[tokio::test]
async fn a_flood_through_a_jump_host_is_read_to_its_end() {
    let (jump, sshd) = (Sshd::start().await, Sshd::start().await);
    let connection = dial(&through("bastion", jump.target(), sshd.target())).await.unwrap();
    let request = ExecRequest::new("head -c 50000000 /dev/zero; echo end >&2").output_limit(1024);
    let output = in_time("fifty megabytes", connection.exec(request)).await.unwrap();
    assert_eq!((output.stdout.len(), output.stderr.as_slice()), (1024, &b"end\n"[..]));
}

#[tokio::test]
async fn many_servers_behind_one_jump_host_share_its_one_login() {
    let (jump, sshd) = (Sshd::start().await, Sshd::start().await);
    let gate = open_gate();
    let (bastion, _ends) = session(jump.target(), &gate);
    let target = Target { route: Route::Jump(Arc::new(bastion)), ..sshd.target() };
    let sessions: Vec<_> = (0..40).map(|_| session(target.clone(), &gate)).collect();
    for (session, _) in &sessions {
        works(&in_time("a connection", session.connection()).await.unwrap()).await;
    }
    assert_eq!((jump.logins(), sshd.logins()), (1, 40));
}

#[tokio::test]
async fn servers_that_stall_after_their_banner_give_way_to_others() {
    let port = after_the_banner(|mut socket| async move {
        let _until_they_hang_up = socket.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let sshd = Sshd::start().await;
    let gate = Arc::new(Semaphore::new(1));
    let stalled: Vec<_> = (0..4).map(|_| session(Target { port, ..sshd.target() }, &gate)).collect();
    for (stalled, _) in &stalled {
        let mut state = stalled.state();
        let begun = |state: &SessionState| matches!(state, SessionState::Connecting { layer } if *layer >= Layer::Banner);
        in_time("the banner", state.wait_for(begun)).await.unwrap();
    }
    let (living, _ends) = session(sshd.target(), &gate);
    works(&in_time("a connection", living.connection()).await.unwrap()).await;
    for (stalled, _) in &stalled {
        assert!(matches!(*stalled.state().borrow(), SessionState::Connecting { .. }));
    }
}

#[tokio::test]
async fn an_attempt_that_is_given_up_leaves_nothing_behind() {
    let (hung_up, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let port = after_the_banner(move |mut socket| {
        let hung_up = hung_up.clone();
        async move {
            let _until_they_hang_up = socket.read_to_end(&mut Vec::new()).await;
            let _the_test_may_be_over = hung_up.send(());
        }
    })
    .await;
    let (jump, sshd) = (Sshd::start().await, Sshd::start().await);
    let (bastion, _ends) = session(jump.target(), &open_gate());
    for route in [Route::Direct, Route::Jump(Arc::new(bastion.clone()))] {
        let (attempt, ends) = session(Target { port, route, ..sshd.target() }, &open_gate());
        let begun =
            |state: &SessionState| matches!(state, SessionState::Connecting { layer: Layer::KeyExchange });
        in_time("the key exchange", attempt.state().wait_for(begun)).await.unwrap();
        drop(ends);
        in_time("the end at the other side", seen.recv()).await.unwrap();
    }
    works(&bastion.connection().await.unwrap()).await;
}

#[tokio::test]
async fn a_proxy_resolves_the_name_and_carries_the_connection() {
    let sshd = Sshd::start().await;
    for kind in [ProxyKind::Socks5, ProxyKind::Http] {
        for login in [None, Some(PROXY_LOGIN)] {
            let proxy = WorkingProxy::start(kind, login.is_some()).await;
            let target =
                Target { host: "web.internal".to_owned(), route: proxy.route(login), ..sshd.target() };
            works(&dial(&target).await.unwrap()).await;
            assert_eq!(proxy.asked(), [format!("web.internal {}", sshd.port())]);
        }
    }
}

#[tokio::test]
async fn a_proxy_that_wants_a_login_says_so_and_the_password_is_nowhere() {
    let sshd = Sshd::start().await;
    for kind in [ProxyKind::Socks5, ProxyKind::Http] {
        let proxy = WorkingProxy::start(kind, true).await;
        for (login, expected) in
            [(None, Refusal::LoginWanted), (Some(("me", "secret guess")), Refusal::LoginRefused)]
        {
            let target = Target { route: proxy.route(login), ..sshd.target() };
            let error = dial(&target).await.unwrap_err();
            let SshError::HopRefuses { refusal, .. } = &error else { panic!("{error:?}") };
            assert_eq!(*refusal, expected);
            assert!(error.needs_a_person() && error.to_string().starts_with("The proxy "), "{error}");
            assert!(!format!("{error:?} {error} {} {target:?}", error.advice()).contains("secret guess"));
        }
    }
}

#[tokio::test]
async fn an_ipv6_address_is_reached_directly_and_over_every_kind_of_hop() {
    let sshd = Sshd::start_with("ListenAddress ::1").await;
    let jump = Sshd::start().await;
    let socks = WorkingProxy::start(ProxyKind::Socks5, false).await;
    let http = WorkingProxy::start(ProxyKind::Http, false).await;
    for host in ["::1", "[::1]"] {
        for route in
            [Route::Direct, Bastion::route("bastion", jump.target()), socks.route(None), http.route(None)]
        {
            let target = Target { host: host.to_owned(), route, ..sshd.target() };
            works(&dial(&target).await.unwrap()).await;
        }
    }
    assert_eq!(socks.asked()[0], format!("::1 {}", sshd.port()));
    assert_eq!(http.asked()[0], format!("[::1] {}", sshd.port()));
}

#[tokio::test]
async fn a_server_two_networks_away_is_reached_over_two_jump_hosts() {
    let nets = Namespaces::in_a_row(3);
    let mut daemons = Vec::new();
    for number in 0..3 {
        daemons.push(Sshd::in_namespace(nets.name(number), &nets.address(number)).await);
    }
    let target = |number: usize| Target { host: nets.address(number), ..daemons[number].target() };
    let short = Target { connect_timeout: Duration::from_secs(1), ..target(2) };
    let error = dial(&short).await.unwrap_err();
    assert_eq!(error.layer(), Some(Layer::Tcp), "there is a way around the jump hosts: {error}");

    let chain = through("inner", through("outer", target(0), target(1)), target(2));
    works(&dial(&chain).await.unwrap()).await;

    // Nobody has this address: the jump host waits for an answer for seconds, and we no longer than we said.
    ip(&format!("-n {} route add 203.0.113.7/32 dev {}", nets.name(0), nets.link_to(1)));
    let nobody = Target { host: "203.0.113.7".to_owned(), ..short };
    let error = dial(&through("outer", target(0), nobody)).await.unwrap_err();
    assert!(matches!(&error, SshError::TimedOut { layer: Layer::Tcp, after_ms: 1000, .. }), "{error:?}");
}
