//! `/live` and `/api/v1/events`: what arrives is on the socket at once, for those whom it concerns.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::time::Duration;

use roundsman::fleet::{NewServer, ServerEdit};
use roundsman::model::{Caller, Event, Health, Role, Status};
use serde_json::Value;
use support::app::{TestApp, Who};
use support::in_time;
use support::socket::Socket;
use support::sshd::free_port;
use tokio::time::Instant;

/// From the arrival of a reading to the open page (SPEC 12.4).
const ON_THE_PAGE_WITHIN: Duration = Duration::from_millis(250);

async fn with_local_server() -> TestApp {
    let app = TestApp::start().await;
    app.services.fleet.ensure_local("here").await.unwrap();
    app.until("here", "read", |state| state.figures.cpu_percent.is_some()).await;
    app
}

async fn message(socket: &mut Socket) -> Value {
    serde_json::from_str(&in_time("a message", socket.text()).await.unwrap()).unwrap()
}

/// Reads what earlier readings have left behind; readings are a second apart.
async fn drain(socket: &mut Socket) {
    while tokio::time::timeout(Duration::from_millis(300), socket.text()).await.is_ok() {}
}

/// The least time that a socket needed after the arrival of a reading, over a few: one late wake-up of a loaded machine
/// is no property of the program.
async fn quickest(app: &TestApp, socket: &mut Socket, concerns: impl Fn(&Value) -> bool) -> Duration {
    let mut quickest = Duration::MAX;
    for _ in 0..3 {
        drain(socket).await;
        let mut events = app.services.fleet.subscribe();
        let reading = async {
            while !matches!(events.recv().await, Ok(Event::Reading { .. })) {}
            Instant::now()
        };
        let page = async {
            while !concerns(&message(socket).await) {}
            Instant::now()
        };
        let (arrived, shown) = tokio::join!(in_time("a reading", reading), page);
        quickest = quickest.min(shown.saturating_duration_since(arrived));
    }
    quickest
}

#[tokio::test]
async fn a_reading_is_on_open_pages_within_250_ms() {
    let app = with_local_server().await;
    let (viewer, id) = (app.login(Role::Viewer).await, app.state("here").server.id);
    let address = app.listen().await;
    for view in [
        "fleet".to_owned(),
        format!("server:{id}:overview"),
        format!("server:{id}:metrics"),
        format!("server:{id}:processes"),
    ] {
        let mut socket = app.socket(address, &format!("/live?view={view}"), &viewer).await;
        let took = quickest(&app, &mut socket, |message| message["fragments"].is_array()).await;
        assert!(took <= ON_THE_PAGE_WITHIN, "{view}: {took:?}");
    }
}

#[tokio::test]
async fn a_reading_is_an_event_within_250_ms_with_its_values() {
    let app = with_local_server().await;
    let viewer = app.token(Role::Viewer).await;
    let mut socket = app.socket(app.listen().await, "/api/v1/events", &viewer).await;
    let reading =
        |message: &Value| message["type"] == "server.reading" && message["values"]["cpu_percent"].is_number();
    let took = quickest(&app, &mut socket, reading).await;
    assert!(took <= ON_THE_PAGE_WITHIN, "{took:?}");
}

#[tokio::test]
async fn the_metrics_page_receives_the_samples_for_its_charts() {
    let app = with_local_server().await;
    let (viewer, id) = (app.login(Role::Viewer).await, app.state("here").server.id);
    let view = format!("/live?view=server:{id}:metrics");
    let mut socket = app.socket(app.listen().await, &view, &viewer).await;
    loop {
        let update = message(&mut socket).await;
        let Some(sample) = update["samples"].get(0) else { continue };
        assert_eq!(sample["server"], id.to_string());
        assert!(sample["at"].is_i64() && sample["values"]["memory_percent"].is_number(), "{sample}");
        break;
    }
}

#[tokio::test]
async fn changes_of_the_fleet_are_told() {
    let app = TestApp::start().await;
    let viewer = app.token(Role::Viewer).await;
    let address = app.listen().await;
    let mut events = app.socket(address, "/api/v1/events", &viewer).await;
    let mut page = app.socket(address, "/live?view=fleet", &viewer).await;
    let server = app.with_unchecked("web-1", free_port()).await.server.id.to_string();
    let mut next = async |kind: &str| loop {
        let told = message(&mut events).await;
        if told["type"] == kind {
            assert_eq!(told["server_id"], server);
            return told;
        }
    };
    next("server.changed").await;
    let health = next("server.health").await;
    assert_eq!(
        (&health["health_status"], &health["reachability"]["layer"]),
        (&"unreachable".into(), &"tcp".into())
    );
    while message(&mut page).await["reload"] != true {}
    app.services.fleet.remove(&Caller::roundsman(), "web-1").await.unwrap();
    next("server.removed").await;
    while message(&mut page).await["reload"] != true {}
}

/// Events of another organization's server, and then one of our own that ends the wait.
async fn listen_for_strangers(app: &TestApp, socket: &mut Socket, own: &str) {
    let other = Caller { organization: app.another_organization().await, ..Caller::roundsman() };
    let new = NewServer {
        name: Some("stranger".to_owned()),
        hostname: "127.0.0.1".to_owned(),
        port: Some(free_port().into()),
        unchecked: true,
        identification: roundsman::fleet::Identification::PrivateKey {
            text: roundsman::ssh::keys::generate_ed25519("stranger").unwrap().0,
            passphrase: None,
            source_path: None,
        },
        ..NewServer::default()
    };
    let stranger = app.services.fleet.add(&other, new).await.unwrap().server.id.to_string();
    let mut events = app.services.fleet.subscribe();
    let gone = async {
        loop {
            if let Ok(Event::Health { health: Health::Unreachable, server, .. }) = events.recv().await
                && server.to_string() == stranger
            {
                return;
            }
        }
    };
    if app.services.fleet.get(&other, "stranger").unwrap().health != Health::Unreachable {
        in_time("the stranger's event", gone).await;
    }
    app.services.fleet.remove(&other, "stranger").await.unwrap();
    let edit = ServerEdit { description: Some("ours".to_owned()), ..ServerEdit::default() };
    app.services.fleet.edit(&Caller::roundsman(), own, edit).await.unwrap();
    loop {
        let text = in_time("a message", socket.text()).await.unwrap();
        assert!(!text.contains(&stranger) && !text.contains("stranger"), "{text}");
        if text.contains("server.changed") || text.contains("\"reload\":true") {
            return;
        }
    }
}

#[tokio::test]
async fn a_history_that_cannot_be_written_is_told_once_and_so_is_its_return() {
    let app = with_local_server().await;
    let (viewer, browser) = (app.token(Role::Viewer).await, app.login(Role::Viewer).await);
    let address = app.listen().await;
    let mut events = app.socket(address, "/api/v1/events", &viewer).await;
    let mut page = app.socket(address, "/live?view=fleet", &browser).await;
    assert!(!app.get("/").by(&browser).send().await.text().contains("History is not written"));
    let file = rusqlite::Connection::open(app.data().join("history.db")).unwrap();
    file.busy_timeout(Duration::from_secs(30)).unwrap();
    let full = |table: &str| {
        format!(
            "CREATE TRIGGER full_{table} BEFORE INSERT ON {table} BEGIN SELECT RAISE(FAIL, 'disk is full'); END;"
        )
    };
    file.execute_batch(&(full("j0") + &full("j1"))).unwrap();
    let failing = of_history(&mut events).await;
    assert_eq!(failing["type"], "history.failing");
    assert!(
        failing["error"].as_str().unwrap().contains("disk is full") && failing["at"].is_string(),
        "{failing}"
    );
    while message(&mut page).await["reload"] != true {}
    assert!(app.get("/").by(&browser).send().await.text().contains("History is not written"));
    // A few more rounds fail, and nothing more is told of them.
    for _ in 0..3 {
        app.history.sync().await.unwrap_err();
    }
    file.execute_batch("DROP TRIGGER full_j0; DROP TRIGGER full_j1").unwrap();
    let recovered = of_history(&mut events).await;
    assert_eq!((&recovered["type"], &recovered["error"]), (&"history.recovered".into(), &Value::Null));
    while message(&mut page).await["reload"] != true {}
    assert!(!app.get("/").by(&browser).send().await.text().contains("History is not written"));
}

/// The next event about history.
async fn of_history(events: &mut Socket) -> Value {
    loop {
        let event = message(events).await;
        if event.get("type").unwrap().as_str().unwrap().starts_with("history.") {
            return event;
        }
    }
}

#[tokio::test]
async fn events_of_another_organization_never_arrive() {
    let app = TestApp::start().await;
    let viewer: Who = app.token(Role::Viewer).await;
    let address = app.listen().await;
    let own = NewServer {
        name: Some("ours".to_owned()),
        hostname: "127.0.0.1".to_owned(),
        port: Some(free_port().into()),
        status: Some(Status::Inactive),
        unchecked: true,
        ..NewServer::default()
    };
    app.add(own).await;
    for path in ["/api/v1/events", "/live?view=fleet"] {
        let mut socket = app.socket(address, path, &viewer).await;
        listen_for_strangers(&app, &mut socket, "ours").await;
    }
    let foreign = app.foreign_server("elsewhere").await;
    // A page of a server that does not exist for the caller stays silent; its socket answers and ends like any other.
    let mut socket = app.socket(address, &format!("/live?view=server:{foreign}:overview"), &viewer).await;
    let heard = tokio::time::timeout(Duration::from_millis(500), socket.text()).await;
    assert!(!matches!(heard, Ok(Some(_))), "{heard:?}");
}

#[tokio::test]
async fn pages_that_do_not_read_hold_up_nobody_and_are_cut_off() {
    let app = with_local_server().await;
    let (viewer, id) = (app.login(Role::Viewer).await, app.state("here").server.id);
    let address = app.listen().await;
    let mut deaf = Vec::new();
    for _ in 0..8 {
        // Tables of processes fill the narrow connection with a few readings.
        deaf.push(app.narrow_socket(address, &format!("/live?view=server:{id}:processes"), &viewer).await);
    }
    let mut socket = app.socket(address, "/api/v1/events", &viewer).await;
    let mut last: Option<Instant> = None;
    // Longer than a browser may leave a message lying.
    for _ in 0..16 {
        while message(&mut socket).await["type"] != "server.reading" {}
        let gap = last.map_or(Duration::ZERO, |at| at.elapsed());
        assert!(gap < Duration::from_millis(2500), "{gap:?}");
        last = Some(Instant::now());
    }
    for mut page in deaf {
        in_time("the end of what was sent before", async { while page.text().await.is_some() {} }).await;
    }
}

#[tokio::test]
async fn an_unknown_view_and_a_message_that_is_too_long_end_the_socket() {
    let app = TestApp::start().await;
    let viewer = app.token(Role::Viewer).await;
    let address = app.listen().await;
    for path in ["/live", "/live?view=nothing", "/live?view=server:x:nothing"] {
        let mut socket = app.socket(address, path, &viewer).await;
        assert_eq!(in_time("the end", socket.text()).await, None, "{path}");
    }
    let mut socket = app.socket(address, "/api/v1/events", &viewer).await;
    socket.say(&vec![b'x'; 64 * 1024]).await;
    assert_eq!(in_time("the end", socket.text()).await, None);
}
