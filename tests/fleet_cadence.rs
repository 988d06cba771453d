//! How often each part of a server is read: by default, of its own, and while somebody looks; changed while it runs.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use roundsman::model::{Caller, Role, Timestamp};
use serde_json::json;
use support::app::{TestApp, Who};
use support::rounds::{assert_on_time, rounds};
use support::sshd::Sshd;

const SETTING: &str = "/api/v1/settings/cadence";

fn processes_of(app: &TestApp, name: &str) -> Timestamp {
    app.services.fleet.processes(&Caller::roundsman(), name).unwrap().taken_at
}

async fn set_default(app: &TestApp, who: &Who, millis: u32) {
    let set = app.call("PUT", SETTING).by(who).json(&json!({ "heavy_interval_ms": millis })).send().await;
    assert_eq!(set.expect(200)["heavy_interval_ms"], millis);
}

#[tokio::test]
async fn heavy_sections_follow_the_server_then_the_default_and_nobody_waits_for_a_change() {
    let (one, two) = (Sshd::start().await, Sshd::start().await);
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    assert_eq!(app.get(SETTING).by(&admin).send().await.expect(200)["heavy_interval_ms"], 30_000);
    set_default(&app, &admin, 3_600_000).await;
    let (web, db) = (app.with_server("web", &one).await, app.with_server("db", &two).await);
    // The first two readings bring everything.
    rounds(&app, &web, 3).await;
    rounds(&app, &db, 3).await;
    let mut events = app.services.fleet.subscribe();
    let (web_read, db_read) = (processes_of(&app, "web"), processes_of(&app, "db"));
    rounds(&app, &web, 2).await;
    assert_eq!(processes_of(&app, "web"), web_read, "an hour has not passed");

    let patch = app.call("PATCH", "/api/v1/fleet/servers/web").by(&admin);
    let patched = patch.json(&json!({ "heavy_interval_ms": 1000 })).send().await.expect(200);
    assert_eq!(patched["heavy_interval_ms"], 1000);
    assert_eq!(patched["cadence"]["heavy_interval_ms"], 1000);
    rounds(&app, &web, 2).await;
    assert!(processes_of(&app, "web") > web_read);
    assert_eq!(processes_of(&app, "db"), db_read, "another server goes on as it was");

    set_default(&app, &admin, 1000).await;
    rounds(&app, &db, 2).await;
    assert!(processes_of(&app, "db") > db_read);
    assert_on_time(&app, &mut events, &db);
    assert_eq!((one.logins(), two.logins()), (1, 1), "nothing was opened anew");

    let patch = app.call("PATCH", "/api/v1/fleet/servers/web").by(&admin);
    let back = patch.json(&json!({ "heavy_interval_ms": null })).send().await.expect(200);
    assert!(back["heavy_interval_ms"].is_null());
    let app = app.restart().await;
    let kept = app.get(SETTING).by(&admin).send().await.expect(200);
    assert_eq!(kept["heavy_interval_ms"], 1000, "the default outlives the program");
}

#[tokio::test]
async fn while_somebody_looks_heavy_sections_come_with_every_reading_and_the_page_says_so() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    let (admin, person) = (app.token(Role::Admin).await, app.login(Role::Viewer).await);
    set_default(&app, &admin, 3_600_000).await;
    let server = app.with_server("web", &sshd).await;
    rounds(&app, &server, 3).await;
    let read = processes_of(&app, "web");
    let page = app.get("/servers/web").by(&person).send().await.text();
    assert!(page.contains("every 1\u{a0}h (the default)") && !page.contains("somebody looks"), "{page}");
    app.get("/servers/web/processes").by(&person).send().await;
    assert!(app.state("web").cadence.is_looked_at);
    rounds(&app, &server, 2).await;
    assert!(processes_of(&app, "web") > read);
    let page = app.get("/servers/web").by(&person).send().await.text();
    assert!(page.contains("with every reading now, because somebody looks at them"), "{page}");
    let shown = app.get("/api/v1/fleet/servers/web").by(&admin).send().await.expect(200);
    assert_eq!(shown["cadence"]["is_looked_at"], true);
    assert_eq!(shown["cadence"]["facts_interval_ms"], 600_000);
}

#[tokio::test]
async fn the_forms_take_a_time_and_name_a_wrong_one() {
    let app = TestApp::start().await;
    app.with_inactive("web").await;
    let (person, admin) = (app.login(Role::Admin).await, app.token(Role::Admin).await);
    let save = |seconds: &str| {
        let fields = [
            ("name", "web"),
            ("hostname", "127.0.0.1"),
            ("port", "22"),
            ("username", "root"),
            ("status", "inactive"),
            ("interval_seconds", "5"),
            ("heavy_seconds", seconds),
            ("identity", "kept"),
            ("kept_key", "default"),
        ];
        app.post("/servers/web/configuration").by(&person).form(&fields).send()
    };
    assert_eq!(save("90").await.status, 303);
    assert_eq!(app.state("web").server.heavy_interval_ms, Some(90_000));
    let wrong = save("0.5").await;
    assert_eq!(wrong.status, 422);
    assert!(wrong.text().contains("is not an interval"), "{}", wrong.text());
    assert_eq!(save("").await.status, 303);
    assert_eq!(app.state("web").server.heavy_interval_ms, None);

    let set =
        |seconds: &str| app.post("/settings/cadence").by(&person).form(&[("heavy_seconds", seconds)]).send();
    let wrong = set("a day").await;
    assert_eq!(wrong.status, 422);
    assert!(wrong.text().contains("value=\"a day\""), "what was typed comes back");
    assert_eq!(set("60").await.status, 303);
    assert_eq!(app.get(SETTING).by(&admin).send().await.expect(200)["heavy_interval_ms"], 60_000);
    let refused = app.call("PUT", SETTING).by(&admin).json(&json!({ "heavy_interval_ms": 999 })).send().await;
    assert!(refused.expect(422).to_string().contains("heavy_interval_ms"));
}
