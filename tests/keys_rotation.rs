//! Replacing a key on real daemons: whatever fails, a key opens the server and Roundsman knows which.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::os::unix::fs::PermissionsExt as _;

use roundsman::fleet::{Identification, NewServer};
use roundsman::model::{Caller, Role};
use serde_json::{Value, json};
use support::app::{TestApp, Who, of_sshd};
use support::in_time;
use support::sshd::Sshd;

/// The app with a key `new`, and an administrator.
async fn app_with_new_key(kind: &str) -> (TestApp, Who, String, String) {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    let old = app.services.fleet.default_public_key(Caller::roundsman().organization).await.unwrap();
    let body = json!({ "name": "new", "kind": kind });
    let made = app.post("/api/v1/keys").by(&admin).json(&body).send().await.expect(201);
    let new = made["public_key"].as_str().unwrap().to_owned();
    (app, admin, old, new)
}

fn keys_file(sshd: &Sshd) -> std::path::PathBuf {
    sshd.home().join(".ssh/authorized_keys")
}

fn set_keys(sshd: &Sshd, text: &str) {
    std::fs::write(keys_file(sshd), text).unwrap();
}

fn keys_of(sshd: &Sshd) -> String {
    std::fs::read_to_string(keys_file(sshd)).unwrap()
}

/// Logs in with the default key.
fn by_default_key(name: &str, sshd: &Sshd) -> NewServer {
    NewServer { name: Some(name.to_owned()), identification: Identification::DefaultKey, ..of_sshd(sshd) }
}

async fn rotated(app: &TestApp, admin: &Who, from: &str, body: &Value) -> Value {
    let path = format!("/api/v1/keys/{from}/rotate");
    let begun = app.post(&path).by(admin).json(body).send().await.expect(202);
    let path = format!("/api/v1/fleet/operations/{}", begun["id"].as_str().unwrap());
    in_time("the end of the replacement", async {
        loop {
            let operation = app.get(&path).by(admin).send().await.expect(200);
            if !matches!(operation["status"].as_str().unwrap(), "pending" | "running") {
                return operation;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

fn key_of(app: &TestApp, name: &str) -> Option<String> {
    app.state(name).way.login.key.map(|key| key.to_string())
}

async fn id_of(app: &TestApp, admin: &Who, name: &str) -> String {
    let key = app.get(&format!("/api/v1/keys/{name}")).by(admin).send().await.expect(200);
    key["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_key_is_replaced_with_its_options_and_the_old_one_is_refused() {
    let (sshd, (app, admin, old, new)) = (Sshd::start().await, app_with_new_key("ed25519").await);
    let others = keys_of(&sshd);
    set_keys(&sshd, &format!("{others}restrict,from=\"127.0.0.1\" {old}\n"));
    std::fs::set_permissions(keys_file(&sshd), std::fs::Permissions::from_mode(0o640)).unwrap();
    app.add(by_default_key("web-1", &sshd)).await;
    let before = app.until("web-1", "read", |state| state.last_seen_at.is_some()).await;

    let operation = rotated(&app, &admin, "default", &json!({ "to": "new", "verify_old": true })).await;
    let result = &operation["results"][0];
    assert_eq!(
        (&operation["status"], &operation["operation_type"]),
        (&json!("completed"), &json!("rotate_key")),
        "{result}"
    );
    assert_eq!(keys_of(&sshd), format!("{others}restrict,from=\"127.0.0.1\" {new}\n"));
    assert_eq!(std::fs::metadata(keys_file(&sshd)).unwrap().permissions().mode() & 0o777, 0o640);
    let steps = result["stdout"].as_str().unwrap();
    for step in [
        "new is installed",
        "logged in with new alone",
        "a reading over this login arrived",
        "new is its key",
        "1 removed",
        "default is refused",
    ] {
        assert!(steps.contains(step), "{step}: {steps}");
    }
    assert!(result["command"].as_str().unwrap().contains("authorized_keys"));
    assert_eq!(key_of(&app, "web-1"), Some(id_of(&app, &admin, "new").await));
    assert_eq!(sshd.logins(), 2, "enrolment and the proof; the connection of the readings lives on");
    app.until("web-1", "read on", |state| state.last_seen_at > before.last_seen_at).await;
    let tested = app.post("/api/v1/fleet/servers/web-1/test").by(&admin).send().await.expect(200);
    assert_eq!(tested["ok"], true, "{tested}");
    let audit = app.services.auth.audit(&Caller::roundsman(), 50, 0).await.unwrap();
    for action in ["operation.rotate_key", "server.key", "rotate_key"] {
        assert!(audit.iter().any(|entry| entry.action == action && entry.subject == "web-1"), "{action}");
    }
    let old = app.get("/api/v1/keys/default").by(&admin).send().await.expect(200);
    assert_eq!((&old["used_by"], &old["unfinished"]), (&json!([]), &json!([])));
}

#[tokio::test]
async fn a_key_is_replaced_on_dropbear() {
    let (sshd, (app, admin, old, new)) = (Sshd::dropbear().await, app_with_new_key("ecdsa").await);
    let others = keys_of(&sshd);
    set_keys(&sshd, &format!("{others}{old}"));
    app.add(by_default_key("router", &sshd)).await;
    let operation = rotated(&app, &admin, "default", &json!({ "to": "new", "verify_old": true })).await;
    assert_eq!(operation["status"], "completed", "{operation}");
    assert_eq!(keys_of(&sshd), format!("{others}{new}\n"));
}

#[tokio::test]
async fn a_new_key_that_does_not_open_the_server_leaves_the_old_one() {
    let sshd = Sshd::start_with("PubkeyAcceptedAlgorithms ssh-ed25519").await;
    let (app, admin, old, _) = app_with_new_key("ecdsa").await;
    set_keys(&sshd, &format!("{old}\n"));
    app.add(by_default_key("web-1", &sshd)).await;
    let operation = rotated(&app, &admin, "default", &json!({ "to": "new" })).await;
    let result = &operation["results"][0];
    assert_eq!((&operation["status"], &result["status"]), (&json!("failed"), &json!("failed")));
    let error = result["error"].as_str().unwrap();
    assert!(error.contains("logging in with the new key alone failed"), "{error}");
    assert!(error.contains("The old key still opens it"), "{error}");
    assert!(keys_of(&sshd).contains(&old), "{}", keys_of(&sshd));
    assert_eq!(key_of(&app, "web-1"), None);
    let tested = app.post("/api/v1/fleet/servers/web-1/test").by(&admin).send().await.expect(200);
    assert_eq!(tested["ok"], true, "{tested}");
}

#[tokio::test]
async fn a_replacement_that_was_not_finished_is_named_and_finished_by_the_next_one() {
    // Another source of keys, as a directory service would be.
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("keys");
    std::fs::write(&file, "").unwrap();
    let source = format!("AuthorizedKeysCommand /bin/cat {}\nAuthorizedKeysCommandUser root", file.display());
    let (sshd, (app, admin, old, new)) = (Sshd::start_with(&source).await, app_with_new_key("ed25519").await);
    set_keys(&sshd, &format!("{old}\n"));
    std::fs::write(&file, format!("{old}\n")).unwrap();
    app.add(by_default_key("web-1", &sshd)).await;
    let body = json!({ "to": "new", "verify_old": true });
    let operation = rotated(&app, &admin, "default", &body).await;
    let error = operation["results"][0]["error"].as_str().unwrap();
    assert!(error.contains("default still opens it"), "{error}");
    assert_eq!(keys_of(&sshd), format!("{new}\n"));
    assert_eq!(
        key_of(&app, "web-1"),
        Some(id_of(&app, &admin, "new").await),
        "the new key opens it and is used"
    );
    let shown = app.get("/api/v1/keys/default").by(&admin).send().await.expect(200);
    assert_eq!((&shown["used_by"], &shown["unfinished"]), (&json!([]), &json!(["web-1"])));
    std::fs::write(&file, "").unwrap();
    let operation = rotated(&app, &admin, "default", &body).await;
    assert_eq!(operation["status"], "completed", "{operation}");
    assert!(operation["results"][0]["stdout"].as_str().unwrap().contains("new is its key already"));
    let shown = app.get("/api/v1/keys/default").by(&admin).send().await.expect(200);
    assert_eq!(shown["unfinished"], json!([]));
}

#[tokio::test]
async fn a_jump_host_and_the_server_behind_it_get_the_new_key_and_lose_no_connection() {
    let (jump, inner) = tokio::join!(Sshd::start(), Sshd::start());
    let (app, admin, old, new) = app_with_new_key("ed25519").await;
    for sshd in [&jump, &inner] {
        set_keys(sshd, &format!("{old}\n"));
    }
    app.add(by_default_key("jump", &jump)).await;
    let behind = NewServer { jump_host: Some("jump".to_owned()), ..by_default_key("inner", &inner) };
    app.add(behind).await;
    let operation = rotated(&app, &admin, "default", &json!({ "to": "new", "verify_old": true })).await;
    assert_eq!(
        (&operation["status"], &operation["total_servers"]),
        (&json!("completed"), &json!(2)),
        "{operation}"
    );
    for (name, sshd) in [("jump", &jump), ("inner", &inner)] {
        assert_eq!(keys_of(sshd), format!("{new}\n"), "{name}");
        assert_eq!(sshd.logins(), 2, "{name}: one login more than enrolment");
    }
}

#[tokio::test]
async fn a_key_that_may_only_read_is_replaced_by_the_action_login_and_stays_restricted() {
    let (sshd, (app, admin, old, new)) = (Sshd::start().await, app_with_new_key("ed25519").await);
    let acting = keys_of(&sshd);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/readings.sh");
    set_keys(&sshd, &format!("restrict,command=\"sh {script}\" {old}\n{acting}"));
    let body = json!({ "name": "hands", "private_key": sshd.client_key().expose() });
    app.post("/api/v1/keys/import").by(&admin).json(&body).send().await.expect(201);
    let server = json!({
        "name": "web-1", "hostname": "127.0.0.1", "port": sshd.port().get(), "interval_ms": 1000,
        "host_key": sshd.host_key().to_string(),
        "action_login": { "username": "root", "identity": "hands" },
    });
    app.post("/api/v1/fleet/servers").by(&admin).json(&server).send().await.expect(201);
    app.until("web-1", "read", |state| state.last_seen_at.is_some()).await;
    let operation = rotated(&app, &admin, "default", &json!({ "to": "new", "verify_old": true })).await;
    assert_eq!(operation["status"], "completed", "{operation}");
    assert_eq!(keys_of(&sshd), format!("{acting}restrict,command=\"sh {script}\" {new}\n"));
    // And the key of the actions, which the actions themselves replace.
    let body = json!({ "name": "new hands" });
    let hands = app.post("/api/v1/keys").by(&admin).json(&body).send().await.expect(201);
    let operation = rotated(&app, &admin, "hands", &json!({ "to": "new hands", "verify_old": true })).await;
    assert_eq!(operation["status"], "completed", "{operation}");
    let expected =
        format!("restrict,command=\"sh {script}\" {new}\n{}\n", hands["public_key"].as_str().unwrap());
    assert_eq!(keys_of(&sshd), expected);
    let action = app.state("web-1").way.action.clone().unwrap();
    assert_eq!(action.login.key.unwrap().to_string(), hands["id"].as_str().unwrap());
    let exec = json!({ "operation_type": "run_command", "server_ids": ["web-1"], "parameters": { "command": "true" } });
    app.post("/api/v1/fleet/operations").by(&admin).json(&exec).send().await.expect(202);
}

#[tokio::test]
async fn both_identities_with_one_key_are_replaced_together() {
    let (sshd, (app, admin, old, new)) = (Sshd::start().await, app_with_new_key("ed25519").await);
    set_keys(&sshd, &format!("{old}\n"));
    let server = json!({
        "name": "web-1", "hostname": "127.0.0.1", "port": sshd.port().get(), "interval_ms": 1000,
        "host_key": sshd.host_key().to_string(), "action_login": { "username": "root" },
    });
    app.post("/api/v1/fleet/servers").by(&admin).json(&server).send().await.expect(201);
    let used = app.get("/api/v1/keys/default").by(&admin).send().await.expect(200);
    assert_eq!(used["logins"], 2, "{used}");
    let operation = rotated(&app, &admin, "default", &json!({ "to": "new", "verify_old": true })).await;
    assert_eq!(operation["status"], "completed", "{operation}");
    assert_eq!(keys_of(&sshd), format!("{new}\n"));
    let used = app.get("/api/v1/keys/new").by(&admin).send().await.expect(200);
    assert_eq!(used["logins"], 2, "{used}");
}

#[tokio::test]
async fn what_cannot_be_replaced_is_refused_before_anything_is_sent() {
    let (sshd, (app, admin, old, _)) = (Sshd::start().await, app_with_new_key("ed25519").await);
    set_keys(&sshd, &format!("{old}\n"));
    let ask = |from: &str, body: Value| {
        app.post(&format!("/api/v1/keys/{from}/rotate")).by(&admin).json(&body).send()
    };
    let none = ask("new", json!({ "to": "default" })).await.expect(422);
    assert!(none["detail"].as_str().unwrap().contains("no server of this choice"), "{none}");
    app.add(by_default_key("web-1", &sshd)).await;
    assert_eq!(ask("default", json!({ "to": "default" })).await.expect(422)["field"], "to");
    ask("default", json!({ "to": "nothing" })).await.expect(404);
    ask("default", json!({ "to": "new", "servers": ["ghost"] })).await.expect(404);
    ask("default", json!({ "to": "new", "tag": "db" })).await.expect(422);
    let dry = ask("default", json!({ "to": "new", "dry_run": true })).await.expect(200);
    let command = dry["targets"][0]["command"].as_str().unwrap();
    assert!(
        command.contains("authorized_keys") && command.contains("logs in with the new key alone"),
        "{command}"
    );
    let operator = app.token(Role::Operator).await;
    let refused = app.post("/api/v1/keys/default/rotate").by(&operator).json(&json!({ "to": "new" }));
    assert_eq!(refused.send().await.status, 403);
    let smuggled = json!({ "operation_type": "rotate_key", "server_ids": ["web-1"], "parameters": {} });
    assert_eq!(app.post("/api/v1/fleet/operations").by(&admin).json(&smuggled).send().await.status, 422);
    assert_eq!((sshd.logins(), keys_of(&sshd)), (1, format!("{old}\n")));
}

#[tokio::test]
async fn a_server_that_is_down_is_unreachable_and_keeps_its_key() {
    let (mut sshd, (app, admin, old, _)) = (Sshd::start().await, app_with_new_key("ed25519").await);
    set_keys(&sshd, &format!("{old}\n"));
    app.add(by_default_key("web-1", &sshd)).await;
    sshd.stop();
    app.until("web-1", "unreachable", |state| state.health == roundsman::model::Health::Unreachable).await;
    let operation = rotated(&app, &admin, "default", &json!({ "to": "new" })).await;
    assert_eq!(operation["results"][0]["status"], "unreachable", "{operation}");
    assert_eq!(key_of(&app, "web-1"), None);
    let shown = app.get("/api/v1/keys/default").by(&admin).send().await.expect(200);
    assert_eq!(shown["unfinished"], json!([]), "nothing was begun");
}

#[tokio::test]
async fn the_form_on_the_page_begins_a_replacement_and_leads_to_it() {
    let (sshd, (app, _, old, new)) = (Sshd::start().await, app_with_new_key("ed25519").await);
    set_keys(&sshd, &format!("{old}\n"));
    app.add(by_default_key("web-1", &sshd)).await;
    let admin = app.login(Role::Admin).await;
    let page = app.get("/keys/default").by(&admin).send().await.text();
    assert!(page.contains("Replace it on its servers") && page.contains("web-1"), "{page}");
    let id = id_of(&app, &admin, "new").await;
    let wrong =
        app.post("/keys/default/rotate").by(&admin).form(&[("to", &id), ("servers", "ghost")]).send().await;
    assert_eq!(wrong.status, 422);
    assert!(wrong.text().contains("no server &#39;ghost&#39;"), "{}", wrong.text());
    let begun =
        app.post("/keys/default/rotate").by(&admin).form(&[("to", &id), ("servers", "")]).send().await;
    assert!(begun.header("location").starts_with("/operations/"), "{}", begun.text());
    in_time("the new key alone", async {
        while keys_of(&sshd) != format!("{new}\n") {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let shown = app.get(begun.header("location")).by(&admin).send().await.text();
    assert!(shown.contains("Replace the key default by new"), "{shown}");
}

#[tokio::test]
async fn a_resumed_replacement_leaves_the_old_key_until_the_new_one_opens_the_server_again() {
    let (sshd, (app, admin, old, new)) = (Sshd::start().await, app_with_new_key("ed25519").await);
    set_keys(&sshd, &format!("{old}\n"));
    app.add(by_default_key("web-1", &sshd)).await;
    let body = json!({ "to": "new" });
    let operation = rotated(&app, &admin, "default", &body).await;
    assert_eq!(operation["status"], "completed", "{operation}");
    // Somebody put the old line back, and the new key got a certificate that this server does not know.
    set_keys(&sshd, &format!("{old}\n{new}\n"));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key.pub"), format!("{new}\n")).unwrap();
    for arguments in [
        &["-q", "-t", "ed25519", "-N", "", "-f", "ca"][..],
        &["-q", "-s", "ca", "-I", "roundsman", "-n", "root", "key.pub"],
    ] {
        let mut keygen = std::process::Command::new("ssh-keygen");
        assert!(keygen.args(arguments).current_dir(dir.path()).status().unwrap().success());
    }
    let certificate = std::fs::read_to_string(dir.path().join("key-cert.pub")).unwrap();
    let certificate = json!({ "certificate": certificate });
    app.call("PUT", "/api/v1/keys/new/certificate").by(&admin).json(&certificate).send().await.expect(200);
    let again = json!({ "to": "new", "servers": ["web-1"] });
    let operation = rotated(&app, &admin, "default", &again).await;
    let error = operation["results"][0]["error"].as_str().unwrap_or_default();
    assert!(error.contains("logging in with the new key alone failed"), "{operation}");
    assert_eq!(keys_of(&sshd), format!("{old}\n{new}\n"));
}

#[tokio::test]
async fn the_old_key_stays_while_another_entry_opens_the_same_account_with_it() {
    let (sshd, (app, admin, old, new)) = (Sshd::start().await, app_with_new_key("ed25519").await);
    set_keys(&sshd, &format!("{old}\n"));
    app.add(by_default_key("web-1", &sshd)).await;
    app.add(NewServer { hostname: "localhost".to_owned(), ..by_default_key("web-2", &sshd) }).await;
    let only = |name: &str| json!({ "to": "new", "servers": [name] });
    let operation = rotated(&app, &admin, "default", &only("web-1")).await;
    let error = operation["results"][0]["error"].as_str().unwrap_or_default();
    assert!(error.contains("web-2 shows the same host key"), "{operation}");
    assert_eq!(keys_of(&sshd), format!("{old}\n{new}\n"));
    for name in ["web-2", "web-1"] {
        let operation = rotated(&app, &admin, "default", &only(name)).await;
        assert_eq!(operation["status"], "completed", "{operation}");
        assert_eq!(keys_of(&sshd), format!("{new}\n"));
    }
}
