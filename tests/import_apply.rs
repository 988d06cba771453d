//! Imports by the API and by the page: what is added, what is refused, what is never touched.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::time::Duration;

use roundsman::model::{Caller, Role};
use serde_json::{Value, json};
use support::app::{TestApp, Who};
use support::in_time;
use support::sshd::{Sshd, free_port};

async fn post(app: &TestApp, who: &Who, body: &Value) -> (u16, Value) {
    let answer = app.post("/api/v1/import").by(who).json(body).send().await;
    (answer.status, answer.json())
}

/// Begins an import and waits for its end.
async fn imported(app: &TestApp, who: &Who, body: &Value) -> Value {
    let (status, begun) = post(app, who, body).await;
    assert_eq!(status, 202, "{begun}");
    over(app, who, begun["id"].as_str().unwrap()).await
}

async fn over(app: &TestApp, who: &Who, id: &str) -> Value {
    in_time("the end of the import", async {
        loop {
            let progress = app.get(&format!("/api/v1/import/{id}")).by(who).send().await.json();
            if progress["state"] != "running" {
                return progress;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

fn names(app: &TestApp) -> Vec<String> {
    let all =
        app.services.fleet.list(&Caller::roundsman(), &roundsman::fleet::ServerFilter::default()).unwrap();
    all.iter().map(|state| state.server.name.to_string()).collect()
}

#[tokio::test]
async fn nothing_is_added_while_a_line_is_wrong_unless_it_is_to_be_left_out() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    let text = format!("root@127.0.0.1:{} name=good\nbad:0\n", free_port());
    let (status, problem) = post(&app, &admin, &json!({ "text": text })).await;
    assert_eq!((status, problem["type"].as_str()), (422, Some("urn:roundsman:problem:import-refused")));
    assert_eq!(
        (&problem["lines"][1]["verdict"], &problem["lines"][1]["at"]["line"]),
        (&json!("invalid"), &json!(2))
    );
    assert!(names(&app).is_empty());
    let (status, report) = post(&app, &admin, &json!({ "text": text, "dry_run": true })).await;
    assert_eq!((status, &report["counts"]["add"]), (200, &json!(1)));
    assert!(names(&app).is_empty());
    let progress =
        imported(&app, &admin, &json!({ "text": text, "skip_invalid": true, "unchecked": true })).await;
    assert_eq!((&progress["state"], &progress["unchecked"]), (&json!("completed"), &json!(1)));
    assert_eq!(names(&app), ["good"]);
    let (status, _) = post(&app, &admin, &json!({ "text": "x", "entries": [] })).await;
    assert_eq!(status, 422);
    let operator = app.token(Role::Operator).await;
    assert_eq!(post(&app, &operator, &json!({ "text": "x", "dry_run": true })).await.0, 403);
}

#[tokio::test]
async fn a_pasted_text_reads_no_file_and_runs_nothing() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    let dir = tempfile::tempdir().unwrap();
    let (secret, ran) = (dir.path().join("secret"), dir.path().join("ran"));
    std::fs::write(&secret, "Host from-the-secret-file\n").unwrap();
    let text = format!(
        "Include /etc/passwd {secret}\nMatch exec \"touch {ran}\"\n  User evil\nHost web\n  HostName 127.0.0.1\n  \
         IdentityFile /etc/shadow\n  IdentityFile {secret}\n  CertificateFile {secret}\nHost cmd\n  ProxyCommand touch {ran}\n",
        secret = secret.display(),
        ran = ran.display()
    );
    let (status, report) = post(&app, &admin, &json!({ "text": text, "dry_run": true })).await;
    assert_eq!(status, 200);
    let said = report.to_string();
    assert!(!said.contains("from-the-secret-file") && !said.contains("root:x:"), "{said}");
    assert!(
        said.contains("only the command line follows Include")
            && said.contains("is not one that Roundsman keeps")
    );
    let web = report["lines"].as_array().unwrap().iter().find(|line| line["verdict"] == "add").unwrap();
    assert_eq!((&web["server"]["name"], &web["server"]["login"]), (&json!("web"), &json!("default")));
    imported(&app, &admin, &json!({ "text": text, "skip_invalid": true, "unchecked": true })).await;
    // What the command line sends is no better trusted: paths in it are names as well.
    let entries = json!([{ "at": { "line": 1 }, "found": { "server": { "host": "127.0.0.1", "port": 9, "identities": ["/etc/shadow"] } } }]);
    let progress = imported(&app, &admin, &json!({ "entries": entries, "unchecked": true })).await;
    assert_eq!(progress["unchecked"], 1);
    assert!(!ran.exists());
    assert_eq!(app.services.fleet.keys(&Caller::roundsman()).await.unwrap().len(), 1, "no key was read");
}

#[tokio::test]
async fn servers_behind_a_jump_host_are_added_after_it_and_over_it() {
    let (gate, inner) = (Sshd::start().await, Sshd::start().await);
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    let body = json!({
        "text": format!(
            "Host inner\n HostName 127.0.0.1\n Port {}\n User root\n IdentityFile inner-key\n ProxyJump gate\n\
             Host gate\n HostName 127.0.0.1\n Port {}\n User root\n IdentityFile gate-key\n",
            inner.port(), gate.port()
        ),
        "accept_new": true,
        "tags": ["imported"],
        "keys": [
            { "source_path": "gate-key", "private_key": gate.client_key().expose() },
            { "source_path": "inner-key", "private_key": inner.client_key().expose() },
        ],
    });
    let progress = imported(&app, &admin, &body).await;
    assert_eq!((&progress["added"], &progress["failed"]), (&json!(2), &json!(0)), "{progress}");
    let state = app.state("inner");
    assert_eq!(state.jump.unwrap().as_str(), "gate");
    assert_eq!(state.server.tags[0].as_str(), "imported");
    assert_eq!(gate.logins(), 1);
    let again = post(&app, &admin, &json!({ "text": body["text"], "dry_run": true })).await.1;
    assert_eq!((&again["counts"]["exists"], &again["counts"]["add"]), (&json!(2), &json!(0)), "{again}");
}

#[tokio::test]
async fn what_stands_behind_a_jump_host_that_failed_is_not_tried() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    let text = format!("root@127.0.0.1:{} name=gate\n10.99.0.1 name=inner jump=gate\n", free_port());
    let progress = imported(&app, &admin, &json!({ "text": text })).await;
    assert_eq!(progress["failed"], 2);
    assert_eq!(progress["items"][1]["message"], "its jump host gate was not added");
    assert!(names(&app).is_empty());
}

#[tokio::test]
async fn one_import_at_a_time_and_its_keys_and_lines_are_audited_without_secrets() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    let text = format!("root@127.0.0.1:{} name=silent\n", silent.local_addr().unwrap().port());
    let (status, begun) = post(&app, &admin, &json!({ "text": text })).await;
    assert_eq!(status, 202);
    let (status, problem) = post(&app, &admin, &json!({ "text": "root@127.0.0.1:1 name=second" })).await;
    assert_eq!(status, 409, "{problem}");
    drop(silent);
    let progress = over(&app, &admin, begun["id"].as_str().unwrap()).await;
    assert_eq!(progress["failed"], 1);
    let audit = app.get("/api/v1/audit?limit=20").by(&admin).send().await.json();
    assert!(audit.to_string().contains("server.import"), "{audit}");
    assert_eq!(app.get("/api/v1/import/nothing").by(&admin).send().await.status, 404);
}

#[tokio::test]
async fn a_list_of_5000_servers_is_planned_within_the_limit_of_a_request() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    let entries: Vec<Value> = (1..=5000)
        .map(|number| {
            json!({ "at": { "file": "/home/somebody/.ssh/config.d/customers.conf", "line": number }, "found": { "server": {
                "name": format!("customer-server-{number}.example.com"), "host": format!("10.{}.{}.1", number / 250, number % 250),
                "user": "deploy", "identities": ["/home/somebody/.ssh/id_customers_ed25519"], "tags": ["customers", "imported"],
            } } })
        })
        .collect();
    let body = json!({ "entries": entries, "dry_run": true });
    assert!(body.to_string().len() > 1024 * 1024);
    let (status, report) = in_time("5,000 lines", post(&app, &admin, &body)).await;
    assert_eq!((status, &report["counts"]["add"]), (200, &json!(5000)));
}

#[tokio::test]
async fn the_page_shows_a_plan_and_adds_it_and_tells_how_far_it_is() {
    let app = TestApp::start().await;
    let admin = app.login(Role::Admin).await;
    let text = format!("root@127.0.0.1:{} name=one tags=a\nbad:0\n", free_port());
    let page = app.get("/import").by(&admin).send().await.text();
    assert!(page.contains("Show what would be added") && !page.contains("/import/start"), "{page}");
    let shown = app.post("/import").by(&admin).form(&[("text", &text), ("format", "auto")]).send().await;
    let page = shown.text();
    assert!(
        shown.status == 200 && page.contains("Add 1 server<") && page.contains("not user@host"),
        "{page}"
    );
    let refused =
        app.post("/import/start").by(&admin).form(&[("text", &text), ("format", "auto")]).send().await;
    assert!(
        refused.status == 422 && refused.text().contains("1 lines cannot be imported"),
        "{}",
        refused.text()
    );
    let fields = [
        ("text", text.as_str()),
        ("format", "lines"),
        ("tags", "b"),
        ("skip_invalid", "true"),
        ("unchecked", "true"),
    ];
    let begun = app.post("/import/start").by(&admin).form(&fields).send().await;
    assert_eq!(begun.status, 303);
    let place = begun.headers["location"].to_str().unwrap().to_owned();
    let page = in_time("the end of the import", async {
        loop {
            let page = app.get(&place).by(&admin).send().await.text();
            if !page.contains("data-refresh") {
                return page;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(
        page.contains("<h1>Imported</h1>")
            && page.contains("Unchecked")
            && page.contains("href=\"/servers/one\""),
        "{page}"
    );
    let tags: Vec<String> = app.state("one").server.tags.iter().map(ToString::to_string).collect();
    assert_eq!(tags, ["a", "b"]);
}
