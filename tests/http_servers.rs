//! Servers whose API Roundsman asks over HTTPS: figures, health, and every way in which that can fail.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/https.rs"]
mod https;
#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::time::Duration;

use https::{Answer, Https, Kind};
use roundsman::model::{Health, Labels, Layer, MetricName, Reachability, Role, SeriesKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use support::app::{TestApp, Who};

const SERVERS: &str = "/api/v1/fleet/servers";
const TOKEN: &str = "api-token-of-web-1";

fn well(server: &Https) {
    server.answers(
        "/health",
        Answer::json(&json!({ "status": "healthy", "version": "3.2", "database": { "status": "up", "response_time_ms": 4 }, "redis": "up" })),
    );
    server.answers(
        "/api/v1/metrics/current",
        Answer::json(&json!({
            "timestamp": "2026-01-01T00:00:00Z", "cpu_percent": 12.5, "memory_percent": 40, "disk_percent": 55,
            "network_rx_bytes": 1000, "network_tx_bytes": 2000, "active_services": 4, "failed_services": 0, "total_services": 4,
            "active_users": 17, "llm_requests": 9, "llm_cost_usd": 0.25,
        })),
    );
}

fn body(server: &Https) -> Value {
    json!({
        "name": "web-1", "hostname": "web-1.example.net", "api_url": server.url(), "api_token": TOKEN,
        "region": "eu", "environment": "production", "tags": ["web"], "api_ca": server.ca_pem, "interval_ms": 1000,
    })
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

async fn added(app: &TestApp, admin: &Who, server: &Https) -> Value {
    well(server);
    app.post(SERVERS).by(admin).json(&body(server)).send().await.expect(201)
}

#[tokio::test]
async fn an_api_is_asked_with_its_token_and_shows_the_figures_of_every_other_server() {
    let (app, server) = (TestApp::start().await, Https::start().await);
    let admin = app.token(Role::Admin).await;
    let made = added(&app, &admin, &server).await;
    assert_eq!((&made["transport"], &made["api_url"]), (&json!("http"), &json!(server.url())));
    assert_eq!(
        (&made["region"], &made["environment"], &made["tags"]),
        (&json!("eu"), &json!("production"), &json!(["web"]))
    );
    let state = app.until("web-1", "read", |state| state.figures.cpu_percent.is_some()).await;
    assert_eq!((state.health, &state.reachability), (Health::Healthy, &Reachability::Reachable));
    let figures = &state.figures;
    assert_eq!(
        (figures.memory_percent, figures.disk_percent, figures.active_users),
        (Some(40.0), Some(55.0), Some(17.0))
    );
    assert_eq!(
        (figures.active_services, figures.failed_services, figures.total_services),
        (Some(4.0), Some(0.0), Some(4.0))
    );
    assert_eq!(
        (figures.custom.get("llm_requests"), figures.custom.get("llm_cost_usd")),
        (Some(&9.0), Some(&0.25))
    );
    assert!(figures.response_time_ms.is_some_and(|ms| ms > 0.0));
    for request in server.requests() {
        assert!(request.contains(&format!("authorization: Bearer {TOKEN}")), "{request}");
    }
    let shown = app.get(&format!("{SERVERS}/web-1")).by(&admin).send().await.expect(200);
    assert_eq!(
        (&shown["current"]["network_tx_bytes"], &shown["current"]["llm_requests"]),
        (&json!(2000.0), &json!(9.0))
    );
    let health = app.get(&format!("{SERVERS}/web-1/health")).by(&admin).send().await.expect(200);
    assert_eq!(
        health["api"]["components"][0],
        json!({
            "name": "database", "health": "healthy", "status": "up", "response_time_ms": 4, "error_message": null, "error_details": null,
        })
    );
    let page = app.get("/servers/web-1").by(&app.login(Role::Viewer).await).send().await;
    for words in ["HTTPS", "Components", "database", "redis", "40", "production"] {
        assert!(page.text().contains(words), "{words}: {}", page.text());
    }
    let number = state.server.number;
    let reads = |state: &roundsman::fleet::ServerState| state.last_seen_at;
    let first = reads(&state);
    app.until("web-1", "read again", |state| reads(state) > first).await;
    let (from, to) = (state.server.created_at, app.services.clock.now() + Duration::from_secs(1));
    for metric in ["cpu_percent", "response_time_ms"] {
        let points = app.history.range(number, &SeriesKey::plain(metric), from, to, 100).await.unwrap();
        assert!(points.len() >= 2, "{metric}: {points:?}");
    }
}

#[tokio::test]
async fn a_restart_asks_again_and_the_token_is_stored_sealed_and_shown_nowhere() {
    let (app, server) = (TestApp::start().await, Https::start().await);
    let admin = app.token(Role::Admin).await;
    let made = added(&app, &admin, &server).await;
    assert!(!made.to_string().contains(TOKEN));
    for path in [SERVERS.to_owned(), format!("{SERVERS}/web-1"), "/api/v1/audit".to_owned()] {
        let said = app.get(&path).by(&admin).send().await.expect(200);
        assert!(!said.to_string().contains(TOKEN), "{path}: {said}");
    }
    let login = app.login(Role::Admin).await;
    let page = app.get("/servers/web-1/configuration").by(&login).send().await.text();
    assert!(
        page.contains("name=\"api_url\"") && page.contains(&server.url()) && !page.contains(TOKEN),
        "{page}"
    );
    app.until("web-1", "read", |state| state.health == Health::Healthy).await;
    server.answers("/health", Answer::json(&json!({ "status": "healthy", "version": "4" })));
    let app = app.restart().await;
    let asked = |state: &roundsman::fleet::ServerState| {
        state.health == Health::Healthy
            && state.api.as_ref().is_some_and(|api| api.version.as_deref() == Some("4"))
    };
    app.until("web-1", "asked again", asked).await;
    let database = std::fs::read(app.data().join("roundsman.db")).unwrap();
    let wal = std::fs::read(app.data().join("roundsman.db-wal")).unwrap_or_default();
    for file in [database, wal] {
        assert!(!file.windows(TOKEN.len()).any(|part| part == TOKEN.as_bytes()));
    }
}

/// The refusal of a server that cannot be added: its sentence, and the stage that failed.
async fn refused(app: &TestApp, admin: &Who, body: &Value) -> (String, String) {
    let answer = app.post(SERVERS).by(admin).json(body).send().await;
    assert!(answer.status >= 400, "{}", answer.text());
    let problem = answer.json();
    assert!(!problem.to_string().contains(TOKEN), "{problem}");
    let steps = problem["steps"].as_array().cloned().unwrap_or_default();
    let failed = steps.iter().find(|step| step["outcome"] == "failed");
    let stage = failed.map(|step| step["stage"].as_str().unwrap().to_owned()).unwrap_or_default();
    (problem["detail"].as_str().unwrap().to_owned(), stage)
}

#[tokio::test]
async fn each_way_to_fail_is_named_with_its_layer_and_nothing_is_stored() {
    let (app, server) = (TestApp::start().await, Https::start().await);
    let admin = app.token(Role::Admin).await;
    let long = format!("{{\"x\":\"{}\"}}", "y".repeat(300 * 1024));
    for (answer, words, stage) in [
        (Answer::status(401, "{}"), "token is not accepted", "authentication"),
        (Answer::status(403, "no"), "token is not accepted", "authentication"),
        (Answer::status(200, "<html>hello\u{1b}[2J"), "is no JSON", "answer"),
        (Answer::status(404, "gone"), "answers 404", "answer"),
        (Answer::status(502, "bad gateway"), "answers 502", "answer"),
        (
            Answer::Say(302, "Location: https://169.254.169.254/\r\n".to_owned(), String::new()),
            "redirect",
            "answer",
        ),
        (Answer::status(200, &long), "longer than", "answer"),
    ] {
        well(&server);
        server.answers("/health", answer);
        let (said, at) = refused(&app, &admin, &body(&server)).await;
        assert!(said.contains(words) && at == stage, "{words}, {stage}: {said} at {at}");
        assert!(!said.contains('\u{1b}'));
    }
    well(&server);
    server.answers("/api/v1/metrics/current", Answer::status(200, "[1, 2"));
    let (said, _) = refused(&app, &admin, &body(&server)).await;
    assert!(said.contains("/api/v1/metrics/current is no JSON"), "{said}");
    let listed = app.get(SERVERS).by(&admin).send().await.expect(200);
    assert_eq!(listed["items"], json!([]));
}

#[tokio::test]
async fn a_certificate_that_is_not_right_gets_no_token() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    for (kind, words) in [
        (Kind::Expired, "It has expired"),
        (Kind::OfAnotherName, "another name"),
        (Kind::Plain, "does not speak TLS"),
    ] {
        let server = Https::of(kind).await;
        well(&server);
        let (said, stage) = refused(&app, &admin, &body(&server)).await;
        assert!(said.contains(words) && stage == "tls", "{kind:?}: {said} at {stage}");
        assert!(!server.requests().iter().any(|request| request.contains(TOKEN)), "{:?}", server.requests());
    }
    let (server, other) = (Https::start().await, Https::start().await);
    well(&server);
    let (said, stage) = refused(&app, &admin, &with(body(&server), "api_ca", json!(other.ca_pem))).await;
    assert!(said.contains("No authority that Roundsman trusts") && stage == "tls", "{said}");
    let (said, _) = refused(&app, &admin, &with(body(&server), "api_ca", Value::Null)).await;
    assert!(said.contains("No authority") || said.contains("cannot judge certificates"), "{said}");
    let pin = |server: &Https| {
        let digest = Sha256::digest(&server.certificate);
        digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let (said, stage) = refused(&app, &admin, &with(body(&server), "api_pin", json!(pin(&other)))).await;
    assert!(said.contains("not the pinned one") && stage == "tls", "{said}");
    let seen = pin(&server).to_uppercase();
    assert!(said.replace(':', "").contains(&seen), "{said} {seen}");
    assert!(server.requests().is_empty(), "nothing was sent: {:?}", server.requests());
    let pinned = with(body(&server), "api_pin", json!(pin(&server)));
    app.post(SERVERS).by(&admin).json(&pinned).send().await.expect(201);
}

#[tokio::test]
async fn addresses_that_must_not_be_called_and_values_that_cannot_be_are_refused() {
    let (app, server) = (TestApp::start().await, Https::start().await);
    let admin = app.token(Role::Admin).await;
    well(&server);
    for (name, value, field) in [
        ("api_url", json!(server.url().replace("https", "http")), "api_url"),
        ("api_url", json!("https://me:hunter2@127.0.0.1"), "api_url"),
        ("api_url", json!("ftp://127.0.0.1"), "api_url"),
        ("api_ca", json!("not pem"), "api_ca"),
        ("api_pin", json!("abc"), "api_pin"),
        ("api_token", json!("two words"), "api_token"),
        ("interval_ms", json!(1), "interval_ms"),
    ] {
        let answer = app.post(SERVERS).by(&admin).json(&with(body(&server), name, value)).send().await;
        assert_eq!((answer.status, &answer.json()["field"]), (422, &json!(field)), "{}", answer.text());
        assert!(!answer.text().contains("hunter2"));
    }
    for unchecked in [false, true] {
        for host in ["169.254.169.254", "[fd00:ec2::254]", "[fe80::1]"] {
            let wanted = with(body(&server), "api_url", json!(format!("https://{host}/x")));
            let (said, stage) = refused(&app, &admin, &with(wanted, "unchecked", json!(unchecked))).await;
            assert!(said.contains("metadata address") && stage == "name", "{said} at {stage}");
        }
    }
    let operator = app.token(Role::Operator).await;
    app.post(SERVERS).by(&operator).json(&body(&server)).send().await.expect(403);
    let app_closed = "https://127.0.0.1:1";
    let (said, stage) = refused(&app, &admin, &with(body(&server), "api_url", json!(app_closed))).await;
    assert!(said.contains("no connection") && stage == "tcp", "{said} at {stage}");
    let (said, stage) =
        refused(&app, &admin, &with(body(&server), "api_url", json!("https://no-such-host.invalid"))).await;
    assert!(said.contains("has no address") && stage == "name", "{said} at {stage}");
}

fn layer(reachability: &Reachability) -> Option<Layer> {
    match reachability {
        Reachability::Unreachable { layer, .. } => *layer,
        _ => None,
    }
}

#[tokio::test]
async fn two_failed_readings_make_it_unreachable_and_the_first_good_one_brings_it_back() {
    let (app, server) = (TestApp::start().await, Https::start().await);
    let admin = app.token(Role::Admin).await;
    added(&app, &admin, &server).await;
    for (answer, at, words) in [
        (Answer::status(401, "{}"), Layer::Authentication, "token"),
        (Answer::status(200, "no json"), Layer::Http, "no JSON"),
        (Answer::Silence, Layer::Http, "no answer within"),
    ] {
        app.until("web-1", "healthy", |state| state.health == Health::Healthy).await;
        let before = server.requests().len();
        server.answers("/health", answer);
        let state = app.until("web-1", "unreachable", |state| state.health == Health::Unreachable).await;
        assert_eq!(layer(&state.reachability), Some(at), "{:?}", state.reachability);
        let Reachability::Unreachable { reason, .. } = &state.reachability else { unreachable!() };
        assert!(reason.contains(words), "{reason}");
        assert!(server.requests().len() >= before + 2, "one failure is no outage");
        assert_eq!(state.figures.cpu_percent, None, "unknown is unknown");
        let page = app.get("/servers/web-1").by(&app.login(Role::Admin).await).send().await;
        assert!(page.text().contains(at.title()) && !page.text().contains("SSH banner"), "{}", page.text());
        well(&server);
    }
    app.until("web-1", "healthy", |state| state.health == Health::Healthy).await;
}

#[tokio::test]
async fn what_the_api_says_of_itself_is_part_of_the_health() {
    let (app, server) = (TestApp::start().await, Https::start().await);
    let admin = app.token(Role::Admin).await;
    added(&app, &admin, &server).await;
    app.until("web-1", "healthy", |state| state.health == Health::Healthy).await;
    let sick = json!({
        "status": "degraded",
        "components": { "database": { "status": "down", "error": "refused <b>\u{1b}[1m", "error_details": { "code": 7 } }, "redis": true },
    });
    server.answers("/health", Answer::json(&sick));
    let state = app.until("web-1", "degraded", |state| state.health == Health::Degraded).await;
    assert!(
        state.health_reasons[0].starts_with("its API says degraded: database is down (refused <b>"),
        "{:?}",
        state.health_reasons
    );
    let page = app.get("/servers/web-1").by(&app.login(Role::Admin).await).send().await.text();
    assert!(page.contains("refused &#60;b&#62;") && !page.contains('\u{1b}'), "{page}");
    server.answers("/health", Answer::status(503, &json!({ "status": "unhealthy" }).to_string()));
    let state = app.until("web-1", "critical", |state| state.health == Health::Critical).await;
    assert_eq!(state.reachability, Reachability::Reachable, "it answers");
    server.answers(
        "/api/v1/metrics/current",
        Answer::json(&json!({ "cpu_percent": 101, "memory_percent": 41 })),
    );
    let state = app.until("web-1", "read", |state| state.figures.memory_percent == Some(41.0)).await;
    assert_eq!(state.figures.cpu_percent, None);
    assert!(
        state.gaps.iter().any(|gap| gap.reason.starts_with("cpu_percent is left out")),
        "{:?}",
        state.gaps
    );
}

/// A past state of a component can be looked up, on the page and in the API.
#[tokio::test]
async fn states_of_components_have_a_history() {
    let (app, server) = (TestApp::start().await, Https::start().await);
    let admin = app.token(Role::Admin).await;
    added(&app, &admin, &server).await;
    app.until("web-1", "healthy", |state| state.health == Health::Healthy).await;
    let part = |database: &str| json!({ "status": "degraded", "database": { "status": database, "response_time_ms": 4 }, "redis": "up" });
    for (said, shown) in [("degraded", Health::Degraded), ("down", Health::Critical)] {
        server.answers("/health", Answer::json(&part(said)));
        app.until("web-1", said, |state| {
            let parts = state.api.as_ref().map(|api| api.components.as_slice()).unwrap_or_default();
            parts.iter().any(|part| part.name == "database" && part.health == shown)
        })
        .await;
    }
    let state = app.state("web-1");
    app.until("web-1", "read again", |now| now.last_seen_at > state.last_seen_at).await;
    let (from, to) = (state.server.created_at, app.services.clock.now() + Duration::from_secs(1));
    let values = async |name: &str| {
        let key = SeriesKey { metric: MetricName::known("component_up"), labels: Labels::of(name) };
        let points = app.history.range(state.server.number, &key, from, to, 1000).await.unwrap();
        (
            points.iter().map(|point| point.min).fold(1.0, f64::min),
            points.iter().map(|point| point.max).fold(0.0, f64::max),
            points.len(),
        )
    };
    let (least, most, count) = values("database").await;
    assert!(least == 0.0 && most == 1.0 && count >= 3, "{least} {most} {count}");
    let (least, most, _) = values("redis").await;
    assert_eq!((least, most), (1.0, 1.0));
    let asked = format!("{SERVERS}/web-1/metrics?metric=component_up");
    let answer = app.get(&asked).by(&admin).send().await.expect(200).to_string();
    assert!(answer.contains("\"database\"") && answer.contains("\"redis\""), "{answer}");
    let login = app.login(Role::Viewer).await;
    let page = app.get("/servers/web-1/metrics").by(&login).send().await.text();
    assert!(page.contains("data-metrics=\"component_up\""), "{page}");
    let overview = app.get("/servers/web-1").by(&login).send().await.text();
    assert!(overview.contains("How each was before"), "{overview}");
}

#[tokio::test]
async fn another_address_needs_the_token_once_more_and_edits_are_audited() {
    let (app, server, other) = (TestApp::start().await, Https::start().await, Https::start().await);
    let admin = app.token(Role::Admin).await;
    added(&app, &admin, &server).await;
    well(&other);
    let one = format!("{SERVERS}/web-1");
    let moved = json!({ "api_url": other.url(), "api_ca": other.ca_pem });
    let refused = app.call("PATCH", &one).by(&admin).json(&moved).send().await.expect(422);
    assert_eq!(refused["field"], "api_token");
    assert!(other.requests().is_empty());
    let moved = with(moved, "api_token", json!("another-token"));
    app.call("PATCH", &one).by(&admin).json(&moved).send().await.expect(200);
    support::eventually("the other API is asked", || {
        other.requests().iter().any(|request| request.contains("Bearer another-token"))
    })
    .await;
    assert!(!other.requests().iter().any(|request| request.contains(TOKEN)));
    let audit = app.get("/api/v1/audit").by(&admin).send().await.expect(200).to_string();
    assert!(
        audit.contains(&format!("API at {}", other.url())) && !audit.contains("another-token"),
        "{audit}"
    );
    let test = app.post(&format!("{one}/test")).by(&admin).json(&json!({})).send().await.expect(200);
    assert_eq!((&test["ok"], &test["steps"][2]["stage"]), (&json!(true), &json!("tls")), "{test}");
    let ssh = app
        .post(&format!("{one}/actions"))
        .by(&admin)
        .json(&json!({ "action": "run_command", "command": "id" }));
    let ssh = ssh.send().await;
    assert_eq!(ssh.status, 409, "{}", ssh.text());
    assert!(ssh.text().contains("no SSH address"), "{}", ssh.text());
    app.call("DELETE", &one).by(&admin).send().await.expect(204);
}

#[tokio::test]
async fn the_form_adds_a_server_after_it_answered_and_keeps_what_was_typed() {
    let (app, server) = (TestApp::start().await, Https::start().await);
    let admin = app.login(Role::Admin).await;
    let page = app.get("/servers/new/http").by(&admin).send().await;
    assert!(page.status == 200 && page.text().contains("name=\"api_url\""), "{}", page.text());
    let pairs = |url: &str| {
        vec![
            ("name", "web-1".to_owned()),
            ("api_url", url.to_owned()),
            ("api_token", TOKEN.to_owned()),
            ("api_ca", server.ca_pem.replace('\n', "\r\n")),
            ("tags", "web blue".to_owned()),
            ("interval_seconds", "1".to_owned()),
        ]
    };
    let send = |pairs: Vec<(&'static str, String)>| {
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
        app.post("/servers/new/http").by(&admin).form(&pairs).send()
    };
    let refused = send(pairs(&server.url().replace("https", "http"))).await;
    assert_eq!(refused.status, 422);
    assert!(
        refused.text().contains("Plain http would show the token") && refused.text().contains("web blue")
    );
    assert!(!refused.text().contains(TOKEN));
    let refused = send(pairs(&server.url())).await;
    assert!(refused.status >= 400 && refused.text().contains("answers 404"), "{}", refused.text());
    well(&server);
    let added = send(pairs(&server.url())).await;
    assert_eq!(added.status, 303, "{}", added.text());
    app.until("web-1", "healthy", |state| state.health == Health::Healthy).await;
    let viewer = app.login(Role::Viewer).await;
    assert_eq!(app.get("/servers/new/http").by(&viewer).send().await.status, 403);
}
