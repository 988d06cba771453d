//! `/api/v1/fleet/servers`: enrolment against real daemons, and what programs may say and hear of servers.
#![expect(clippy::indexing_slicing, clippy::panic, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use roundsman::model::{Caller, Health, OrganizationId, Role};
use serde_json::{Value, json};
use support::app::{TestApp, Who};
use support::sshd::{PASSWORD, Sshd, free_port};

const SERVERS: &str = "/api/v1/fleet/servers";

/// A body that enrols this daemon with the key that it knows.
fn body_of(sshd: &Sshd, name: &str) -> Value {
    json!({
        "name": name, "hostname": "127.0.0.1", "port": sshd.port(), "interval_ms": 1000,
        "private_key": sshd.client_key().expose(),
    })
}

fn with(mut body: Value, field: &str, value: impl Into<Value>) -> Value {
    body[field] = value.into();
    body
}

fn one(name: &str) -> String {
    format!("{SERVERS}/{name}")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

#[tokio::test]
async fn an_unknown_host_key_is_shown_and_enrolled_after_approval() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    let admin = app.token(Role::Admin).await;
    let body = body_of(&sshd, "web-1");
    let refused = app.post(SERVERS).by(&admin).json(&body).send().await;
    assert_eq!(refused.header("content-type"), "application/problem+json");
    let refused = refused.expect(409);
    assert_eq!(refused["type"], "urn:roundsman:problem:host-key-unknown");
    assert_eq!(refused["fingerprint"], sshd.host_key().fingerprint());
    assert_eq!(refused["host_key"], sshd.host_key().to_string());
    assert!(text(&refused["detail"]).contains(&sshd.host_key().fingerprint()));
    assert_eq!(refused["steps"][4]["stage"], "host_key");
    assert_eq!(refused["steps"][4]["outcome"], "needs_approval");
    assert_eq!(sshd.login_attempts(), 0, "{}", sshd.log());
    assert_eq!(app.get(SERVERS).by(&admin).send().await.expect(200)["items"], json!([]));
    assert_eq!(
        app.get("/api/v1/keys").by(&admin).send().await.expect(200)["items"].as_array().unwrap().len(),
        1
    );

    let body = with(body, "host_key", refused["host_key"].clone());
    let added = app.post(SERVERS).by(&admin).json(&body).send().await.expect(201);
    assert_eq!(added["host_key_fingerprint"], sshd.host_key().fingerprint());
    app.until("web-1", "healthy", |state| state.last_seen_at.is_some()).await;
    assert_eq!(sshd.logins(), 1, "{}", sshd.log());
}

#[tokio::test]
async fn a_wrong_approved_key_is_refused_before_credentials_are_sent() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    let admin = app.token(Role::Admin).await;
    let other = roundsman::ssh::keys::generate_ed25519("other").unwrap().1;
    for accept_new in [false, true] {
        let body = with(with(body_of(&sshd, "web-1"), "host_key", other.clone()), "accept_new", accept_new);
        let refused = app.post(SERVERS).by(&admin).json(&body).send().await.expect(422);
        assert_eq!(refused["type"], "urn:roundsman:problem:preflight-failed");
        assert!(text(&refused["detail"]).contains(&sshd.host_key().fingerprint()), "{refused}");
    }
    assert_eq!(sshd.login_attempts(), 0, "{}", sshd.log());
}

#[tokio::test]
async fn accept_new_enrols_at_once_with_the_default_key() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    let admin = app.token(Role::Admin).await;
    sshd.authorize(&app.services.fleet.default_public_key(OrganizationId::DEFAULT).await.unwrap());
    let body = json!({ "hostname": "127.0.0.1", "port": sshd.port(), "accept_new": true });
    let added = app.post(SERVERS).by(&admin).json(&body).send().await.expect(201);
    assert_eq!((text(&added["name"]), text(&added["username"])), ("127.0.0.1", "root"));
    assert_eq!(added["host_key_fingerprint"], sshd.host_key().fingerprint());
    assert_eq!(sshd.logins(), 1);
    // A second server at the same address is given a name of its own.
    let added = app.post(SERVERS).by(&admin).json(&body).send().await.expect(201);
    assert_ne!(added["name"], "127.0.0.1");
}

#[tokio::test]
async fn a_server_is_shown_with_the_fields_that_the_specification_names() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    let viewer = app.token(Role::Viewer).await;
    let added = app.with_server("web-1", &sshd).await;
    app.until("web-1", "read twice", |state| state.figures.cpu_percent.is_some() && state.facts.is_some())
        .await;
    let by_name = app.get(&one("web-1")).by(&viewer).send().await.expect(200);
    let by_id = app.get(&one(&added.server.id.to_string())).by(&viewer).send().await.expect(200);
    assert_eq!(by_name["id"], by_id["id"]);
    for field in "id name description hostname transport username port api_url region environment tags metadata status \
                  health_status last_seen_at last_health_check_at version \
                  organization_id ip_address cpu_cores total_ram_gb total_disk_gb ssh_host created_at updated_at"
        .split_whitespace()
    {
        assert!(by_name.get(field).is_some(), "{field} is missing in {by_name}");
    }
    for field in "cpu_percent memory_percent disk_percent network_rx_bytes network_tx_bytes active_services \
                  failed_services total_services active_users"
        .split_whitespace()
    {
        assert!(by_name["current"].get(field).is_some(), "{field} is missing in {by_name}");
    }
    let figures = ["cpu_percent", "memory_percent", "network_rx_bytes"].map(|name| &by_name["current"][name]);
    for figure in [&by_name["total_ram_gb"], &by_name["cpu_cores"]].into_iter().chain(figures) {
        assert!(figure.as_f64().is_some_and(|number| number >= 0.0), "{by_name}");
    }
    for field in ["created_at", "updated_at", "last_seen_at"] {
        assert!(text(&by_name[field]).ends_with('Z'), "{field}: {by_name}");
    }
    assert_eq!(by_name["transport"], "ssh");
    assert_eq!(by_name["logins_today"], 1);
}

#[tokio::test]
async fn a_taken_name_is_409_and_nobody_is_contacted() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    let admin = app.token(Role::Admin).await;
    app.with_inactive("web-1").await;
    app.with_inactive("web-2").await;
    let refused = app.post(SERVERS).by(&admin).json(&body_of(&sshd, "web-1")).send().await.expect(409);
    assert_eq!(refused["type"], "urn:roundsman:problem:name-taken");
    assert!(text(&refused["detail"]).contains("'web-1'"));
    assert!(!sshd.log().contains("Connection from"), "{}", sshd.log());
    let rename = app.call("PATCH", &one("web-2")).by(&admin).json(&json!({ "name": "web-1" })).send().await;
    assert_eq!(rename.expect(409)["type"], "urn:roundsman:problem:name-taken");
    assert_eq!(app.get(&one("web-2")).by(&admin).send().await.status, 200);
}

#[tokio::test]
async fn patch_changes_what_is_given_and_null_empties() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    app.with_inactive("web-1").await;
    let patch = async |body: Value| app.call("PATCH", &one("web-1")).by(&admin).json(&body).send().await;
    let first = patch(json!({
        "description": "front", "region": "eu", "environment": "production", "tags": ["web", "blue", "web"],
        "metadata": { "rack": "7" }, "interval_ms": 2000, "username": "deploy",
    }));
    let first = first.await.expect(200);
    assert_eq!(first["tags"], json!(["blue", "web"]));
    assert_eq!((&first["region"], &first["interval_ms"]), (&json!("eu"), &json!(2000)));
    let second = patch(json!({ "region": null, "description": "" })).await.expect(200);
    assert_eq!((&second["region"], &second["description"]), (&Value::Null, &json!("")));
    for field in
        ["environment", "tags", "metadata", "interval_ms", "username", "hostname", "port", "name", "status"]
    {
        assert_eq!(first[field], second[field], "{field}");
    }
    let refused = patch(json!({ "colour": "red" })).await.expect(422);
    assert!(text(&refused["detail"]).contains("colour"), "{refused}");
    let refused = patch(json!({ "tags": ["ok"], "port": 70_000 })).await.expect(422);
    assert_eq!(refused["field"], "port");
    assert_eq!(app.get(&one("web-1")).by(&admin).send().await.expect(200)["tags"], json!(["blue", "web"]));
}

#[tokio::test]
async fn put_replaces_everything_that_is_said_of_a_server() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    app.with_inactive("web-1").await;
    let put = async |body: Value| app.call("PUT", &one("web-1")).by(&admin).json(&body).send().await;
    let full = json!({
        "name": "web-1", "hostname": "127.0.0.1", "status": "inactive", "region": "eu", "tags": ["a"],
        "description": "x", "metadata": { "a": "b" },
    });
    assert_eq!(put(full).await.expect(200)["region"], "eu");
    let less =
        put(json!({ "name": "web-1", "hostname": "127.0.0.1", "status": "inactive" })).await.expect(200);
    assert_eq!(
        (&less["region"], &less["tags"], &less["description"], &less["metadata"]),
        (&Value::Null, &json!([]), &json!(""), &json!({}))
    );
    assert!(text(&put(json!({ "hostname": "127.0.0.1" })).await.expect(422)["detail"]).contains("name"));
    let key = json!({ "name": "web-1", "password": "hunter2 hunter2" });
    assert!(!put(key).await.expect(422).to_string().contains("hunter2"));
}

#[tokio::test]
async fn delete_removes_the_server_and_audit_keeps_it() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    app.with_inactive("web-1").await;
    assert_eq!(app.call("DELETE", &one("web-1")).by(&admin).send().await.expect(204), Value::Null);
    for (method, path) in [("GET", one("web-1")), ("DELETE", one("web-1")), ("POST", one("web-1/check"))] {
        assert_eq!(app.call(method, &path).by(&admin).send().await.expect(404)["status"], 404);
    }
    let audit = app.get("/api/v1/audit").by(&admin).send().await.expect(200);
    assert_eq!(
        (&audit["items"][0]["action"], &audit["items"][0]["subject"]),
        (&json!("server.remove"), &json!("web-1"))
    );
    app.with_inactive("web-1").await;
}

#[tokio::test]
async fn what_is_read_of_a_server_is_shown() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    let operator = app.token(Role::Operator).await;
    app.with_server("web-1", &sshd).await;
    app.until("web-1", "read twice", |state| state.figures.cpu_percent.is_some()).await;
    let get = async |what: &str| app.get(&one(&format!("web-1/{what}"))).by(&operator).send().await;
    let processes = get("processes").await.expect(200);
    assert!(processes["processes"][0]["pid"].is_u64(), "{processes}");
    assert!(processes["total"].as_u64().unwrap() > 0);
    let facts = get("facts").await.expect(200);
    assert!(text(&facts["kernel"]).starts_with(|c: char| c.is_ascii_digit()), "{facts}");
    let users = get("users").await;
    let services = get("services").await;
    for answer in [users, services] {
        // A machine without systemd or utmp says so instead of showing an empty list.
        assert!(answer.status == 200 || text(&answer.json()["detail"]).contains("not known: "), "{answer:?}");
    }
    let health = get("health").await.expect(200);
    assert_eq!(health["reachability"]["state"], "reachable");
    let before = app.state("web-1").last_seen_at;
    let checked = app.post(&one("web-1/check")).by(&operator).send().await.expect(200);
    assert!(app.state("web-1").last_seen_at > before, "{checked}");
    let logins = sshd.logins();
    let tested = app.post(&one("web-1/test")).by(&operator).send().await.expect(200);
    assert_eq!((&tested["ok"], tested["steps"].as_array().unwrap().len()), (&json!(true), 10));
    assert_eq!(sshd.logins(), logins + 1);
}

#[tokio::test]
async fn the_history_of_a_metric_is_asked_for_by_range() {
    let app = TestApp::start().await;
    let viewer = app.token(Role::Viewer).await;
    app.services.fleet.ensure_local("here").await.unwrap();
    app.until("here", "read", |state| state.cpu_recent.iter().flatten().count() >= 2).await;
    let get = async |query: &str| app.get(&one(&format!("here/metrics?{query}"))).by(&viewer).send().await;
    let names = get("").await.expect(200);
    assert!(names["metrics"].as_array().unwrap().contains(&json!("cpu_percent")), "{names}");
    assert!(names["current"]["memory_percent"].is_number());
    for query in [
        "metric=cpu_percent",
        "metric=cpu_percent&period=15m",
        "metric=cpu_percent&period=3650d&points=50",
        "metric=cpu_percent&from=0",
    ] {
        let found = get(query).await.expect(200);
        let points = found["series"][0]["points"].as_array().unwrap();
        assert!(!points.is_empty(), "{query}: {found}");
        for point in points {
            let [average, least, most] = [1, 2, 3].map(|index| point[index].as_f64().unwrap());
            assert!(least <= average && average <= most && (0.0..=100.0).contains(&most), "{point}");
        }
        assert_eq!((&found["unit"], &found["metric"]), (&json!("percent"), &json!("cpu_percent")));
    }
    let labelled = get("metric=core_percent").await.expect(200);
    assert_eq!((&labelled["label_name"], &labelled["series"][0]["label"]), (&json!("core"), &json!("0")));
    let empty = get("metric=cpu_percent&from=2001-01-01T00:00:00Z&to=2001-01-02T00:00:00Z").await.expect(200);
    assert!(
        empty["series"].as_array().unwrap().iter().all(|series| series["points"] == json!([])),
        "{empty}"
    );
    for bad in [
        "points=0",
        "points=-1",
        "points=100000",
        "points=x",
        "period=0h",
        "period=1z",
        "period=soon",
        "from=yesterday",
        "from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z",
    ] {
        let refused = get(&format!("metric=cpu_percent&{bad}")).await.expect(422);
        assert_eq!(refused["type"], "urn:roundsman:problem:invalid", "{bad}");
    }
    for huge in ["period=18446744073709551615s", "from=-9223372036854775808", "to=9223372036854775807"] {
        assert!(get(&format!("metric=cpu_percent&{huge}")).await.status < 500, "{huge}");
    }
    for unknown in ["gpu_percent", "%3Cscript%3E", &"x".repeat(5000)] {
        let refused = get(&format!("metric={unknown}")).await;
        assert!(refused.body.len() < 1000, "{}", refused.text());
        refused.expect(404);
    }
}

#[tokio::test]
async fn the_summary_counts_the_servers_of_the_caller() {
    let app = TestApp::start().await;
    let viewer = app.token(Role::Viewer).await;
    app.foreign_server("elsewhere").await;
    app.with_inactive("web-1").await;
    app.with_unchecked("web-2", free_port()).await;
    app.until("web-2", "unreachable", |state| state.health == Health::Unreachable).await;
    let summary = app.get("/api/v1/fleet/summary").by(&viewer).send().await.expect(200);
    for (field, count) in [
        ("total_servers", 2),
        ("active_servers", 1),
        ("inactive_servers", 1),
        ("unreachable_servers", 1),
        ("unknown_servers", 1),
        ("healthy_servers", 0),
    ] {
        assert_eq!(summary[field], count, "{field}: {summary}");
    }
    assert_eq!(summary["average_cpu_percent"], Value::Null);
    let found = app.get(&format!("{SERVERS}?status=unreachable")).by(&viewer).send().await.expect(200);
    assert_eq!(found["items"][0]["name"], "web-2");
}

#[tokio::test]
async fn a_refused_port_names_the_stage_and_the_fix() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    let body = json!({ "name": "web-1", "hostname": "127.0.0.1", "port": free_port() });
    let refused = app.post(SERVERS).by(&admin).json(&body).send().await.expect(422);
    assert_eq!(refused["type"], "urn:roundsman:problem:preflight-failed");
    let steps = refused["steps"].as_array().unwrap();
    let failed = steps.iter().find(|step| step["outcome"] == "failed").unwrap();
    assert_eq!(failed["stage"], "tcp");
    assert!(text(&failed["fix"]).contains("systemctl start ssh"), "{failed}");
    let looked = app.post("/api/v1/fleet/preflight").by(&admin).json(&body).send().await.expect(200);
    assert_eq!(looked["ok"], false);
    let stored = app.post(SERVERS).by(&admin).json(&with(body, "unchecked", true)).send().await.expect(201);
    assert_eq!(stored["name"], "web-1");
}

#[tokio::test]
async fn only_one_way_to_log_in_may_be_given() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    let body = json!({ "hostname": "127.0.0.1", "password": "hunter2 hunter2", "identity": "default" });
    let refused = app.post(SERVERS).by(&admin).json(&body).send().await.expect(422);
    assert!(text(&refused["detail"]).contains("only one"), "{refused}");
    let body = json!({ "hostname": "127.0.0.1", "identity": "/etc/shadow" });
    app.post(SERVERS).by(&admin).json(&body).send().await.expect(404);
    assert_eq!(app.services.fleet.list(&Caller::roundsman(), &Default::default()).unwrap().len(), 0);
}

#[tokio::test]
async fn a_wrong_password_enrols_nothing_and_is_shown_nowhere() {
    let (app, sshd) = (TestApp::start().await, Sshd::with_password("").await);
    let admin: Who = app.token(Role::Admin).await;
    let body = json!({ "hostname": "127.0.0.1", "port": sshd.port(), "password": "wrong battery staple", "accept_new": true });
    let refused = app.post(SERVERS).by(&admin).json(&body).send().await.expect(422);
    assert!(
        refused["steps"]
            .as_array()
            .unwrap()
            .iter()
            .any(|step| step["stage"] == "authentication" && step["outcome"] == "failed")
    );
    assert!(!refused.to_string().contains("battery"), "{refused}");
    let body = with(body, "password", PASSWORD);
    app.post(SERVERS).by(&admin).json(&body).send().await.expect(201);
}
