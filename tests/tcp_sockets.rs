//! TCP sockets by state: counted by both probes as `ss` counts them, kept, shown and exported.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use roundsman::collect::{LocalProbe, ShellProbe};
use roundsman::model::{Role, Sections, SeriesKey};
use roundsman::ssh::connect;
use support::app::TestApp;
use support::in_time;
use support::rounds::rounds;
use support::sshd::Sshd;

/// More than this machine has of its own.
const HELD: usize = 64;
/// What other tests open and close between two looks.
const OTHERS: u64 = 40;

/// Connections whose other end has closed: each is one socket in CLOSE-WAIT while this lives.
fn in_close_wait() -> Vec<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let held = (0..HELD).map(|_| {
        let client = TcpStream::connect(address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        drop(client);
        // The end of what came says that the close has arrived.
        assert_eq!(accepted.peek(&mut [0]).unwrap(), 0);
        accepted
    });
    held.collect()
}

/// How many `ss` shows in this state.
fn said_by_ss(state: &str) -> u64 {
    let output = Command::new("ss").args(["-tanH", "state", state]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success());
    u64::try_from(String::from_utf8(output.stdout).unwrap().lines().count()).unwrap()
}

#[tokio::test]
async fn sockets_in_close_wait_are_counted_by_both_probes_as_ss_does() {
    let held = in_close_wait();
    let sshd = Sshd::start().await;
    let connection = in_time("a connection", connect(&sshd.target(), &mut |_| {})).await.unwrap();
    let stream = connection.open(roundsman::collect::shell::COMMAND).await.unwrap();
    let mut shell = in_time("the shell probe", ShellProbe::start(stream)).await.unwrap();
    let asked = Sections { sockets: true, ..Sections::BASE };
    let before = said_by_ss("close-wait");
    assert!(before >= u64::try_from(HELD).unwrap());
    for snapshot in [shell.read(asked).await.unwrap(), LocalProbe::new().read(asked).await.unwrap()] {
        let states = snapshot.tcp_states.unwrap();
        assert!(states.close_wait.abs_diff(before) <= OTHERS, "{states:?}, ss says {before}");
        assert!(states.close_wait >= u64::try_from(HELD).unwrap(), "{states:?}");
        assert!(states.listen.abs_diff(said_by_ss("listening")) <= OTHERS, "{states:?}");
        assert!(states.established > 0, "that of this very connection: {states:?}");
    }
    assert_eq!(shell.read(Sections::BASE).await.unwrap().tcp_states, None, "nobody asked");
    drop(held);
}

#[tokio::test]
async fn states_of_sockets_come_with_heavy_sections_into_history_page_and_exports() {
    let held = in_close_wait();
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    let server = app.with_server("web", &sshd).await;
    rounds(&app, &server, 3).await;
    let state = app.state("web");
    let counted = state.tcp_states.unwrap().close_wait;
    assert!(counted >= u64::try_from(HELD).unwrap());
    let (from, to) = (state.server.created_at, app.services.clock.now() + Duration::from_secs(1));
    let key = SeriesKey::plain("tcp_close_wait");
    let points = app.history.range(state.server.number, &key, from, to, 100).await.unwrap();
    assert!(!points.is_empty() && points.iter().all(|point| point.max >= 64.0), "{points:?}");
    let person = app.login(Role::Viewer).await;
    let page = app.get("/servers/web").by(&person).send().await.text();
    assert!(page.contains("CLOSE-WAIT</dt>") && page.contains("Counted every"), "{page}");
    let charts = app.get("/servers/web/metrics").by(&person).send().await.text();
    assert!(charts.contains("tcp_close_wait,tcp_listen"), "{charts}");
    let admin = app.token(Role::Admin).await;
    let node = app.get("/metrics?target=web").by(&admin).send().await.text();
    assert!(node.contains("node_tcp_connection_states{state=\"close_wait\"} "), "{node}");
    drop(held);
}
