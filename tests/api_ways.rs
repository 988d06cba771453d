//! The way in to a server through the API: every field is kept, shown without its secrets, changed and cleared.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use roundsman::model::Role;
use serde_json::{Value, json};
use support::app::{TestApp, Who};
use support::sshd::free_port;

const SERVERS: &str = "/api/v1/fleet/servers";
/// What must never come out again.
const SECRETS: [&str; 4] = ["main hunter2", "acting hunter2", "sudo hunter2", "proxy-hunter2"];

fn one(name: &str) -> String {
    format!("{SERVERS}/{name}")
}

/// A server that is stored and not contacted.
async fn add(app: &TestApp, admin: &Who, name: &str, more: Value) -> Value {
    let mut body = json!({
        "name": name, "hostname": "127.0.0.1", "port": free_port(), "status": "inactive", "unchecked": true,
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    app.post(SERVERS).by(admin).json(&body).send().await.expect(201)
}

async fn patch(app: &TestApp, admin: &Who, name: &str, body: Value, status: u16) -> Value {
    app.call("PATCH", &one(name)).by(admin).json(&body).send().await.expect(status)
}

#[tokio::test]
async fn the_way_in_is_kept_shown_without_its_secrets_and_cleared_with_null() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    add(&app, &admin, "bastion", json!({})).await;
    let plain = app.get(&one("bastion")).by(&admin).send().await.expect(200);
    for (field, value) in [
        ("login_method", json!("key")),
        ("identity", json!("default")),
        ("jump_host", Value::Null),
        ("proxy", Value::Null),
        ("connect_timeout_ms", json!(10_000)),
        ("action_login", Value::Null),
        ("has_password", json!(false)),
        ("has_sudo_password", json!(false)),
    ] {
        assert_eq!(plain[field], value, "{field}");
    }
    let added = add(
        &app,
        &admin,
        "web-1",
        json!({
            "login_method": "password", "password": SECRETS[0], "jump_host": "bastion", "connect_timeout_ms": 3000,
            "action_login": { "username": "deploy", "login_method": "password", "password": SECRETS[1] },
            "sudo_password": SECRETS[2],
        }),
    )
    .await;
    assert_eq!((&added["login_method"], &added["has_password"]), (&json!("password"), &json!(true)));
    assert_eq!((&added["jump_host"], &added["jump_host_id"]), (&json!("bastion"), &plain["id"]));
    assert_eq!((&added["connect_timeout_ms"], &added["has_sudo_password"]), (&json!(3000), &json!(true)));
    assert_eq!(
        added["action_login"],
        json!({ "username": "deploy", "login_method": "password", "identity": null, "agent_key": null, "has_password": true })
    );
    let through = patch(
        &app,
        &admin,
        "web-1",
        json!({ "jump_host": null, "proxy": "socks5://me:proxy-hunter2@10.0.0.9:1080" }),
        200,
    )
    .await;
    assert_eq!(
        (&through["jump_host"], &through["proxy"]),
        (&Value::Null, &json!("socks5://me@10.0.0.9:1080"))
    );

    let database = std::fs::read(app.data().join("roundsman.db")).unwrap();
    let journal = std::fs::read(app.data().join("roundsman.db-wal")).unwrap_or_default();
    let audit = app.get("/api/v1/audit").by(&admin).send().await.text();
    let page = app.login(Role::Admin).await;
    let page = app.get("/servers/web-1/configuration").by(&page).send().await.text();
    for secret in SECRETS {
        let held = |bytes: &[u8]| bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
        assert!(!held(&database) && !held(&journal), "{secret} is stored in clear");
        assert!(!audit.contains(secret) && !page.contains(secret) && !through.to_string().contains(secret));
    }
    for said in ["password set", "action login deploy with password", "proxy socks5://me@10.0.0.9:1080"] {
        assert!(audit.contains(said), "{said}: {audit}");
    }

    let cleared = patch(
        &app,
        &admin,
        "web-1",
        json!({
            "proxy": null, "action_login": null, "sudo_password": null, "connect_timeout_ms": null, "identity": null,
        }),
        200,
    )
    .await;
    for field in [
        "login_method",
        "identity",
        "proxy",
        "action_login",
        "connect_timeout_ms",
        "has_password",
        "has_sudo_password",
    ] {
        assert_eq!(cleared[field], plain[field], "{field}");
    }
    let put = json!({ "name": "web-1", "jump_host": "bastion" });
    let put = app.call("PUT", &one("web-1")).by(&admin).json(&put).send().await.expect(200);
    assert_eq!((&put["jump_host"], &put["description"]), (&json!("bastion"), &json!("")));
    let put = json!({ "name": "web-1", "description": "again" });
    let put = app.call("PUT", &one("web-1")).by(&admin).json(&put).send().await.expect(200);
    assert_eq!(put["jump_host"], "bastion", "a new description does not cut a server off");
}

#[tokio::test]
async fn what_cannot_be_meant_names_its_field_and_changes_nothing() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    add(&app, &admin, "bastion", json!({})).await;
    add(&app, &admin, "web-1", json!({ "jump_host": "bastion" })).await;
    let before = app.get(&one("web-1")).by(&admin).send().await.expect(200);
    for (body, field) in [
        (json!({ "jump_host": "nobody" }), "jump_host"),
        (json!({ "jump_host": "web-1" }), "jump_host"),
        (json!({ "proxy": "socks5://proxy:1080" }), "proxy"),
        (json!({ "jump_host": null, "proxy": "ftp://proxy:21" }), "proxy"),
        (json!({ "connect_timeout_ms": 999 }), "connect_timeout_ms"),
        (json!({ "connect_timeout_ms": 120_001 }), "connect_timeout_ms"),
        (json!({ "login_method": "password" }), "password"),
        (json!({ "login_method": "key", "password": "hunter2" }), "password"),
        (json!({ "login_method": "agent" }), "agent_key"),
        (json!({ "agent_key": "SHA256:nothing" }), "agent_key"),
        (json!({ "password": "two\nlines" }), "password"),
        (json!({ "sudo_password": "" }), "sudo_password"),
        (json!({ "action_login": {} }), "action_login"),
        (json!({ "action_login": { "username": "-l" } }), "username"),
        (json!({ "action_login": { "username": "a", "login_method": "password" } }), "action_login.password"),
    ] {
        let refused = patch(&app, &admin, "web-1", body.clone(), 422).await;
        assert_eq!(refused["field"], field, "{body}: {refused}");
        assert!(!refused.to_string().contains("hunter2"));
    }
    patch(&app, &admin, "web-1", json!({ "identity": "no such key" }), 404).await;
    patch(&app, &admin, "web-1", json!({ "login_method": "telepathy" }), 422).await;
    let operator = app.token(Role::Operator).await;
    patch(&app, &operator, "web-1", json!({ "jump_host": null }), 403).await;
    let after = app.get(&one("web-1")).by(&admin).send().await.expect(200);
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_circle_of_jump_hosts_is_refused() {
    let app = TestApp::start().await;
    app.services.fleet.ensure_local("here").await.unwrap();
    let admin = app.token(Role::Admin).await;
    add(&app, &admin, "a", json!({})).await;
    add(&app, &admin, "b", json!({ "jump_host": "a" })).await;
    add(&app, &admin, "c", json!({ "jump_host": "b" })).await;
    let refused = patch(&app, &admin, "a", json!({ "jump_host": "c" }), 422).await;
    assert!(refused["detail"].as_str().unwrap().contains("lead through a to a itself"), "{refused}");
    let here = json!({ "name": "d", "hostname": "127.0.0.1", "unchecked": true, "status": "inactive", "jump_host": "d" });
    app.post(SERVERS).by(&admin).json(&here).send().await.expect(422);
    let refused = patch(&app, &admin, "a", json!({ "jump_host": "here" }), 422).await;
    assert!(refused["detail"].as_str().unwrap().contains("not reached over SSH"), "{refused}");
    let foreign = app.foreign_server("elsewhere").await.to_string();
    patch(&app, &admin, "a", json!({ "jump_host": foreign }), 422).await;
}

#[tokio::test]
async fn a_jump_host_is_not_taken_away_from_those_behind_it() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    add(&app, &admin, "bastion", json!({ "status": "active" })).await;
    add(&app, &admin, "web-1", json!({ "jump_host": "bastion", "status": "active" })).await;
    add(&app, &admin, "web-2", json!({ "jump_host": "bastion" })).await;
    let refused = patch(&app, &admin, "bastion", json!({ "status": "inactive" }), 409).await;
    assert_eq!(refused["type"], "urn:roundsman:problem:in-use");
    assert!(refused["detail"].as_str().unwrap().contains("jump host of web-1 and"), "{refused}");
    let refused = app.call("DELETE", &one("bastion")).by(&admin).send().await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("web-1, web-2"), "{refused}");
    for name in ["web-1", "web-2"] {
        patch(&app, &admin, name, json!({ "jump_host": null }), 200).await;
    }
    app.call("DELETE", &one("bastion")).by(&admin).send().await.expect(204);
}

#[tokio::test]
async fn the_way_in_survives_a_restart() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    add(&app, &admin, "zulu", json!({ "proxy": "http://me:proxy-hunter2@[fd00::1]:3128" })).await;
    add(
        &app,
        &admin,
        "alpha",
        json!({ "jump_host": "zulu", "action_login": { "username": "deploy", "identity": "default" }, "sudo_password": "x" }),
    )
    .await;
    let before = ["zulu", "alpha"].map(|name| app.state(name).way);
    let again = app.restart().await;
    let after = ["zulu", "alpha"].map(|name| again.state(name).way);
    assert_eq!(before, after);
    assert_eq!(again.state("alpha").jump.unwrap().as_str(), "zulu");
}
