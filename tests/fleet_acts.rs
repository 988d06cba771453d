//! Commands with more around them than their text: environment, input, another user, sudo that asks, a second identity.
#![expect(clippy::indexing_slicing, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use roundsman::fleet::{ActionLoginEdit, LoginEdit, NewServer};
use roundsman::model::{Role, Secret};
use serde_json::{Value, json};
use support::app::{TestApp, Who, of_sshd};
use support::sshd::{PASSWORD, Sshd};
use support::{eventually, in_time};

/// Runs a command through the API and answers the operation at its end.
async fn run(app: &TestApp, who: &Who, parameters: Value) -> Value {
    let body = json!({ "operation_type": "run_command", "server_ids": ["web-1"], "parameters": parameters });
    let begun = app.post("/api/v1/fleet/operations").by(who).json(&body).send().await.expect(202);
    let path = format!("/api/v1/fleet/operations/{}", begun["id"].as_str().unwrap_or_default());
    in_time("the end of an operation", async {
        loop {
            let now = app.get(&path).by(who).send().await.expect(200);
            if !matches!(now["status"].as_str(), Some("pending" | "running")) {
                return now;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Everything that is kept of what was run, as an administrator sees it.
async fn all_records(app: &TestApp, who: &Who) -> String {
    let mut text = String::new();
    for path in ["/api/v1/fleet/operations", "/api/v1/fleet/servers/web-1/commands", "/api/v1/audit"] {
        text += &app.get(path).by(who).send().await.text();
    }
    text
}

#[tokio::test]
async fn a_command_gets_its_environment_and_input_and_no_secret_is_recorded() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    app.with_server("web-1", &sshd).await;
    let admin = app.token(Role::Admin).await;
    let done = run(
        &app,
        &admin,
        json!({
            "command": "echo \"$PLAIN|${#KEY}\"; tr a-z A-Z; tr '\\0' ' ' </proc/$PPID/cmdline | grep -c 'h[u]nter2' || :",
            "environment": { "PLAIN": "it's \"quoted\" $HOME", "KEY": { "secret": "hunter2 in\ntwo lines" } },
            "stdin": "shout hunter3\n",
            "label": "Say it loud",
        }),
    )
    .await;
    let result = &done["results"][0];
    assert_eq!(result["stdout"], "it's \"quoted\" $HOME|20\nSHOUT HUNTER3\n0\n", "{done}");
    assert_eq!(done["title"], "Say it loud");
    let parameters = &done["parameters"];
    assert_eq!(
        parameters["environment"],
        json!({ "PLAIN": "it's \"quoted\" $HOME", "KEY": "*****" }),
        "{parameters}"
    );
    assert_eq!(parameters["stdin_bytes"], 14);
    let kept = all_records(&app, &admin).await;
    assert!(!kept.contains("hunter2") && !kept.contains("hunter3"), "{kept}");
}

#[tokio::test]
async fn a_command_in_a_container_is_recorded_whole_and_by_its_inner_half() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    app.with_server("web-1", &sshd).await;
    let admin = app.token(Role::Admin).await;
    let parameters =
        json!({ "command": "cat /etc/hostname", "container": { "engine": "podman", "name": "web" } });
    let body = json!({ "operation_type": "run_command", "server_ids": ["web-1"], "parameters": parameters, "dry_run": true });
    let planned = app.post("/api/v1/fleet/operations").by(&admin).json(&body).send().await.expect(200);
    let whole = "podman exec -i web /bin/sh -c 'cat /etc/hostname'";
    assert_eq!(planned["targets"][0]["command"], whole);
    let done = run(&app, &admin, parameters).await;
    assert_eq!(done["results"][0]["command"], whole);
    let records = app.get("/api/v1/fleet/servers/web-1/commands").by(&admin).send().await.expect(200);
    assert_eq!(records["items"][0]["command"], whole);
    assert_eq!(records["items"][0]["container_command"], "cat /etc/hostname");
    for (field, value) in [
        ("run_as", json!("-u")),
        ("container", json!("--privileged")),
        ("environment", json!({ "A B": "1" })),
    ] {
        let body = json!({ "operation_type": "run_command", "server_ids": ["web-1"], "parameters": { "command": "id", field: value } });
        let refused = app.post("/api/v1/fleet/operations").by(&admin).json(&body).send().await.expect(422);
        assert_eq!(refused["field"], field, "{refused}");
    }
}

#[tokio::test]
async fn sudo_that_asks_gets_the_kept_password_and_nobody_else_sees_it() {
    let sshd = Sshd::with_password("").await;
    let app = TestApp::start().await;
    let secret = || Secret::new(PASSWORD.to_owned());
    app.add(NewServer {
        name: Some("web-1".to_owned()),
        action_login: Some(ActionLoginEdit {
            username: Some("deploy".to_owned()),
            login: LoginEdit { password: Some(secret()), ..LoginEdit::default() },
        }),
        sudo_password: Some(secret()),
        ..of_sshd(&sshd)
    })
    .await;
    let admin = app.token(Role::Admin).await;
    let plain = run(&app, &admin, json!({ "command": "id -un" })).await;
    assert_eq!(plain["results"][0]["stdout"], "deploy\n", "{plain}");
    let raised =
        run(&app, &admin, json!({ "command": "id -un; cat", "sudo": true, "stdin": "and its own input\n" }))
            .await;
    assert_eq!(raised["results"][0]["stdout"], "root\nand its own input\n", "{raised}");
    assert_eq!(raised["results"][0]["command"], "sudo -- sh -c 'id -un; cat'");
    eventually("all logins are counted", || app.state("web-1").logins_today == 3).await;
    assert!(!all_records(&app, &admin).await.contains(PASSWORD));
    let spots = &app.state("web-1").findings.spots;
    assert!(
        spots.iter().any(|spot| spot.subject == "sudo"),
        "sudo asks, so the preflight says so: {spots:?}"
    );
    let shown = app.get("/api/v1/fleet/servers/web-1").by(&admin).send().await.expect(200);
    let told =
        shown["blind_spots"].as_array().map(|spots| spots.iter().any(|spot| spot["subject"] == "sudo"));
    assert_eq!(told, Some(false), "with its password kept it is no trouble: {shown}");
    let forgotten = json!({ "sudo_password": null });
    app.call("PATCH", "/api/v1/fleet/servers/web-1").by(&admin).json(&forgotten).send().await.expect(200);
    let refused = run(&app, &admin, json!({ "command": "id -un", "sudo": true })).await;
    assert_eq!(refused["status"], "failed", "{refused}");
    assert!(
        refused["results"][0]["stderr"].as_str().is_some_and(|said| said.contains("password")),
        "{refused}"
    );
}
