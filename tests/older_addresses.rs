//! The older addresses: bodies that older programs send are accepted, answers have the shapes that they expect.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::time::Duration;

use roundsman::model::{Labels, MetricName, Role, SeriesKey};
use serde_json::{Value, json};
use support::app::{TestApp, Who};

/// What an older program sends and expects, from `tests/fixtures/older`.
fn fixture(name: &str) -> Value {
    let path = format!("{}/tests/fixtures/older/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn assert_members(answer: &Value, names: &Value) {
    for name in names.as_array().unwrap() {
        assert!(answer.get(name.as_str().unwrap()).is_some(), "{name} is missing in {answer}");
    }
}

#[tokio::test]
async fn a_server_registers_and_reports_in_the_older_shapes() {
    let app = TestApp::start().await;
    let enrol = app.enrol_token().await;
    let viewer = app.token(Role::Viewer).await;
    let register = fixture("register");
    let post = app.post("/api/servers/register").by(&enrol).json(&register["request"]);
    let answer = post.send().await.expect(200);
    assert_members(&answer, &register["response_members"]);
    let own = Who::Token(answer["token"].as_str().unwrap().to_owned());
    let node = app.get("/api/servers/edge-1").by(&viewer).send().await.expect(200);
    assert_eq!((&node["status"], &node["id"]), (&json!("unknown"), &answer["id"]));
    let heartbeat = fixture("heartbeat");
    let number = node["number"].to_string();
    for reference in [number.as_str(), "edge-1", answer["id"].as_str().unwrap()] {
        let path = format!("/api/servers/{reference}/heartbeat");
        let heard = app.post(&path).by(&own).json(&heartbeat["request"]).send().await.expect(200);
        assert_eq!(heard["success"], true);
    }
    let node = app.get(&format!("/api/servers/{number}")).by(&viewer).send().await.expect(200);
    assert_eq!((&node["status"], &node["last_metrics"]), (&json!("online"), &heartbeat["node"]));
    assert_eq!((&node["host"], &node["ip"]), (&json!("192.0.2.10"), &json!("192.0.2.10")));
    assert_eq!((&node["tags"], &node["services"]), (&json!(["edge"]), &json!(["nginx", "redis"])));
    assert_eq!(node["metadata"], json!({ "rack": "r7", "slots": "4" }));
    let samples = app.get(&format!("/api/metrics/{number}")).by(&viewer).send().await.expect(200);
    assert_eq!((&samples[0]["cpu_percent"], &samples[0]["requests_total"]), (&json!(25.5), &json!(9.0)));
    let bad = json!({ "cpu_percent": 250 });
    let refused = app.post("/api/servers/edge-1/heartbeat").by(&own).json(&bad).send().await;
    assert_eq!((refused.status, &refused.json()["field"]), (422, &json!("cpu_percent")));
    let numeric = json!({ "name": "12345" });
    let refused = app.post("/api/servers/register").by(&enrol).json(&numeric).send().await;
    assert_eq!((refused.status, &refused.json()["field"]), (422, &json!("name")));
    assert_eq!(app.post("/api/servers/register").json(&numeric).send().await.status, 401);
}

#[tokio::test]
async fn older_programs_add_change_list_and_remove_servers() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    let create = fixture("create");
    let mut body = create["request"].clone();
    body["port"] = json!(support::sshd::free_port());
    let made = app.post("/api/servers").by(&admin).json(&body).send().await.expect(201);
    assert_members(&made, &create["response_members"]);
    let path = format!("/api/servers/{}", made["number"]);
    let change = json!({ "description": "new", "host": "127.0.0.1", "agent_port": 1, "status": "online" });
    let changed = app.call("PUT", &path).by(&admin).json(&change).send().await.expect(200);
    assert_eq!((&changed["description"], &changed["name"]), (&json!("new"), &json!("db-1")));
    let list = app.get("/api/servers").by(&admin).send().await.expect(200);
    assert_eq!(list.as_array().unwrap().len(), 1);
    for (method, path) in [("POST", "/api/servers"), ("PUT", path.as_str()), ("DELETE", path.as_str())] {
        let viewer = app.token(Role::Viewer).await;
        assert_eq!(app.call(method, path).by(&viewer).json(&body).send().await.status, 403, "{method}");
    }
    let removed = app.call("DELETE", &path).by(&admin).send().await.expect(200);
    assert_eq!(removed["success"], true);
    assert_eq!(app.get(&path).by(&admin).send().await.status, 404);
}

#[tokio::test]
async fn older_stats_and_actions_answer_for_one_server_and_for_all() {
    let app = TestApp::start().await;
    app.services.fleet.ensure_local("here").await.unwrap();
    app.until("here", "read twice", |state| state.figures.cpu_percent.is_some()).await;
    let operator = app.token(Role::Operator).await;
    let all = app.get("/api/remote/stats/all").by(&operator).send().await.expect(200);
    let one = app.get("/api/remote/stats/here").by(&operator).send().await.expect(200);
    assert_eq!((all.as_array().unwrap().len(), &all[0]["server_id"]), (1, &one["server_id"]));
    assert_eq!((&one["status"], &one["error"]), (&json!("online"), &Value::Null));
    for name in ["cpu_percent", "memory_percent", "memory_total", "disks", "load_average", "uptime"] {
        assert!(!one["stats"][name].is_null(), "{name}: {one}");
    }
    let act = json!({ "action": "restart_service", "service_name": "cron" });
    let refused = app.post("/api/remote/action/here").by(&operator).json(&act).send().await;
    assert_eq!(refused.status, 409, "the machine itself is read-only: {}", refused.text());
    let unknown = json!({ "action": "explode" });
    let refused = app.post("/api/remote/action/here").by(&operator).json(&unknown).send().await;
    assert_eq!(refused.status, 422, "{}", refused.text());
}

#[tokio::test]
async fn trpc_bodies_are_unwrapped_and_pods_become_containers() {
    let app = TestApp::start().await;
    let enrol = app.enrol_token().await;
    let register = fixture("register_server");
    let path = "/api/trpc/servers.registerServer";
    let answer = app.post(path).by(&enrol).json(&register).send().await.expect(200);
    let id = &answer["result"]["data"]["json"]["id"];
    assert_eq!(answer, json!({ "result": { "data": { "json": { "id": id } } } }));
    let again = app.post(path).by(&enrol).json(&register).send().await.expect(200);
    assert_eq!(again, answer, "the same host name is the same server");
    let admin = app.token(Role::Admin).await;
    let server = app.get("/api/v1/fleet/servers/pod-host").by(&admin).send().await.expect(200);
    for (name, value) in [
        ("ssh_host", json!("192.0.2.20")),
        ("port", json!(2222)),
        ("username", json!("ops")),
        ("cpu_cores", json!(8)),
        ("total_ram_gb", json!(16.0)),
        ("total_disk_gb", json!(100.0)),
    ] {
        assert_eq!(server[name], value, "{name}");
    }
    let mut report = fixture("report_metrics");
    report["json"]["serverId"] = id.clone();
    let path = "/api/trpc/servers.reportMetrics";
    let done = app.post(path).by(&enrol).json(&report).send().await.expect(200);
    assert_eq!(done, json!({ "result": { "data": { "json": { "success": true } } } }));
    let state = app.state("pod-host");
    assert_eq!((state.figures.cpu_percent, state.figures.memory_percent), (Some(10.0), Some(25.0)));
    assert_eq!(state.figures.disk_percent, Some(25.0));
    let key = SeriesKey {
        metric: MetricName::custom("container_memory_bytes".to_owned()),
        labels: Labels::of("pod-a"),
    };
    let now = app.services.clock.now();
    let (from, to) = (now - Duration::from_secs(60), now + Duration::from_secs(1));
    let points = app.history.range(state.server.number, &key, from, to, 10).await.unwrap();
    assert_eq!(points.iter().map(|point| point.avg).collect::<Vec<_>>(), [512.0 * 1024.0 * 1024.0]);
}

#[tokio::test]
async fn trpc_errors_come_in_the_envelope_of_trpc() {
    let app = TestApp::start().await;
    let enrol = app.enrol_token().await;
    let path = "/api/trpc/servers.registerServer";
    let wrong_key = Who::Token("rdm_0_wrong".to_owned());
    let cases = [
        (&wrong_key, json!({ "json": { "hostname": "a" } }), 401, "UNAUTHORIZED", Value::Null),
        (&enrol, json!({ "hostname": "a" }), 422, "BAD_REQUEST", json!("json")),
        (
            &enrol,
            json!({ "json": { "hostname": "a", "totalRamGb": -1 } }),
            422,
            "BAD_REQUEST",
            json!("totalRamGb"),
        ),
    ];
    for (who, body, status, code, field) in cases {
        let answer = app.post(path).by(who).json(&body).send().await;
        assert_eq!(answer.status, status, "{}", answer.text());
        let error = &answer.json()["error"]["json"];
        assert_eq!((&error["data"]["code"], &error["data"]["field"]), (&json!(code), &field), "{error}");
        assert_eq!(error["data"]["path"], "servers.registerServer");
        assert!(error["message"].is_string() && error["code"].is_i64(), "{error}");
    }
}
