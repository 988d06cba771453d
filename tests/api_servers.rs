//! `/api/v1/fleet/servers`: enrolment against real daemons, and what programs may say and hear of servers.

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use roundsman::fleet::NewServer;
use roundsman::model::{Caller, Health, OrganizationId, Role, Status};
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

/// A server that is stored and not contacted.
async fn inactive(app: &TestApp, name: &str) {
    app.add(NewServer {
        name: Some(name.to_owned()),
        hostname: "127.0.0.1".to_owned(),
        port: Some(free_port().into()),
        status: Some(Status::Inactive),
        unchecked: true,
        ..NewServer::default()
    })
    .await;
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
    inactive(&app, "web-1").await;
    inactive(&app, "web-2").await;
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
    inactive(&app, "web-1").await;
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
    inactive(&app, "web-1").await;
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
    inactive(&app, "web-1").await;
    assert_eq!(app.call("DELETE", &one("web-1")).by(&admin).send().await.expect(204), Value::Null);
    for (method, path) in [("GET", one("web-1")), ("DELETE", one("web-1")), ("POST", one("web-1/check"))] {
        assert_eq!(app.call(method, &path).by(&admin).send().await.expect(404)["status"], 404);
    }
    let audit = app.get("/api/v1/audit").by(&admin).send().await.expect(200);
    assert_eq!(
        (&audit["items"][0]["action"], &audit["items"][0]["subject"]),
        (&json!("server.remove"), &json!("web-1"))
    );
    inactive(&app, "web-1").await;
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let app = TestApp::start().await;
    let (admin, viewer) = (app.token(Role::Admin).await, app.token(Role::Viewer).await);
    for (name, region, tags) in
        [("a", "eu", "web"), ("b", "us", "web"), ("c", "eu", "db"), ("d", "eu", "web"), ("e", "us", "db")]
    {
        inactive(&app, name).await;
        let body = json!({ "region": region, "tags": [tags, "all"] });
        app.call("PATCH", &one(name)).by(&admin).json(&body).send().await.expect(200);
    }
    let names = async |query: &str| {
        let list = app.get(&format!("{SERVERS}?{query}")).by(&viewer).send().await.expect(200);
        let names: String =
            list["items"].as_array().unwrap().iter().map(|item| text(&item["name"])).collect();
        (names, list["next_cursor"].clone())
    };
    for (query, expected) in [
        ("", "abcde"),
        ("region=eu", "acd"),
        ("region=eu&tag=web", "ad"),
        ("tag=web&tag=all", "abd"),
        ("tags=db,all", "ce"),
        ("status=inactive", "abcde"),
        ("status=active", ""),
        ("status=unreachable", ""),
        ("health=unknown&region=us", "be"),
        ("search=D", "d"),
        ("environment=production", ""),
    ] {
        assert_eq!(names(query).await.0, expected, "{query}");
    }
    let (mut all, mut cursor, mut pages) = (String::new(), String::new(), 0);
    loop {
        let (page, next) = names(&format!("limit=2{cursor}")).await;
        assert!(page.len() <= 2);
        all.push_str(&page);
        pages += 1;
        let Some(next) = next.as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!((all.as_str(), pages), ("abcde", 3));
    for bad in ["limit=0", "limit=1001", "limit=x", "cursor=x", "status=gone", "health=fine"] {
        app.get(&format!("{SERVERS}?{bad}")).by(&viewer).send().await.expect(422);
    }
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
        "period=1y",
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
    inactive(&app, "web-1").await;
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
async fn hostile_values_are_refused_with_the_field_named() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    let long = "x".repeat(10_000);
    let cases = [
        ("name", json!("<script>alert(1)</script>")),
        ("name", json!("a'b\"c")),
        ("name", json!(long)),
        ("name", json!("a\u{0}b\u{1b}[31m")),
        ("name", json!("12345")),
        ("name", json!("01890000-0000-7000-8000-000000000001")),
        ("name", json!("..")),
        ("name", json!("a/../b")),
        ("hostname", json!("<script>")),
        ("hostname", json!("$(id)")),
        ("hostname", json!("-oProxyCommand=id")),
        ("hostname", json!("a\u{1b}[2Jb")),
        ("hostname", json!("")),
        ("hostname", json!(long)),
        ("username", json!("-l root")),
        ("username", json!("a;b")),
        ("username", json!(long)),
        ("tags", json!(["<script>"])),
        ("tags", json!(["a\u{7}b"])),
        ("tags", json!([long])),
        ("tags", json!((0..100).map(|n| n.to_string()).collect::<Vec<_>>())),
        ("region", json!(long)),
        ("region", json!("a\u{1b}b")),
        ("environment", json!(long)),
        ("description", json!(long)),
        ("description", json!("a\u{0}b")),
        ("metadata", json!({ "a=b": "c" })),
        ("metadata", json!({ "a": long })),
        ("metadata", json!({ long.clone(): "a" })),
        ("port", json!(0)),
        ("port", json!(65_536)),
        ("port", json!(-1)),
        ("interval_ms", json!(999)),
        ("interval_ms", json!(3_600_001)),
        ("host_key", json!("ssh-ed25519 nonsense")),
        ("host_key", json!(long)),
    ];
    inactive(&app, "web-1").await;
    for (field, value) in cases {
        let shown: String = value.to_string().chars().take(60).collect();
        let body = with(json!({ "name": "web-2", "hostname": "127.0.0.1" }), field, value.clone());
        let mut answers = vec![app.post(SERVERS).by(&admin).json(&body).send().await];
        if field != "host_key" {
            let body = with(json!({}), field, value);
            answers.push(app.call("PATCH", &one("web-1")).by(&admin).json(&body).send().await);
        }
        for answer in answers {
            assert!(answer.body.len() < 2000, "{field} {shown}: an answer of {} bytes", answer.body.len());
            let refused = answer.expect(422);
            assert_eq!(refused["field"], field, "{shown}: {refused}");
            assert!(!text(&refused["detail"]).contains(char::is_control), "{refused}");
        }
    }
    assert_eq!(app.get(SERVERS).by(&admin).send().await.expect(200)["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn hostile_free_text_is_kept_as_it_is_and_escaped_on_every_page() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    inactive(&app, "web-1").await;
    let evil = "<script>alert(1)</script>\"'&";
    let body =
        json!({ "description": evil, "region": evil, "environment": evil, "metadata": { "a<b": evil } });
    let kept = app.call("PATCH", &one("web-1")).by(&admin).json(&body).send().await.expect(200);
    for field in ["description", "region", "environment"] {
        assert_eq!(kept[field], evil);
    }
    let person = app.login(Role::Admin).await;
    for path in [
        "/",
        "/servers/web-1",
        "/servers/web-1/metrics",
        "/servers/web-1/processes",
        "/servers/web-1/services",
        "/servers/web-1/configuration",
        "/settings",
    ] {
        let page = app.get(path).by(&person).send().await;
        assert_eq!(page.status, 200, "{path}");
        assert!(!page.text().contains("<script>alert"), "{path}");
    }
    let page = app.get("/servers/web-1/configuration").by(&person).send().await.text();
    assert!(page.contains("alert(1)"), "the text is shown");
}

#[tokio::test]
async fn servers_of_another_organization_do_not_exist() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    let id = app.foreign_server("elsewhere").await.to_string();
    assert_eq!(app.get(SERVERS).by(&admin).send().await.expect(200)["items"], json!([]));
    for reference in ["elsewhere", id.as_str()] {
        for (method, what) in [
            ("GET", ""),
            ("GET", "/health"),
            ("GET", "/metrics"),
            ("GET", "/processes"),
            ("GET", "/services"),
            ("GET", "/facts"),
            ("GET", "/users"),
            ("POST", "/check"),
            ("POST", "/test"),
            ("DELETE", ""),
        ] {
            let answer = app.call(method, &one(&format!("{reference}{what}"))).by(&admin).send().await;
            assert_eq!(answer.status, 404, "{method} {reference}{what}: {}", answer.text());
        }
        for (method, body) in
            [("PATCH", json!({ "description": "mine" })), ("PUT", json!({ "name": "mine", "hostname": "a" }))]
        {
            app.call(method, &one(reference)).by(&admin).json(&body).send().await.expect(404);
        }
        let person = app.login(Role::Admin).await;
        assert_eq!(app.get(&format!("/servers/{reference}")).by(&person).send().await.status, 404);
    }
    // Its name is free for others.
    inactive(&app, "elsewhere").await;
    let list = app.get(SERVERS).by(&admin).send().await.expect(200);
    assert_ne!(list["items"][0]["id"], id);
}

#[tokio::test]
async fn the_open_api_document_is_the_route_table() {
    let app = TestApp::start().await;
    let viewer = app.token(Role::Viewer).await;
    let document = app.get("/api/openapi.json").by(&viewer).send().await.expect(200);
    let mut described: Vec<String> = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        described.extend(
            operations.as_object().unwrap().keys().map(|method| format!("{} {path}", method.to_uppercase())),
        );
    }
    let mut served: Vec<String> = roundsman::web::table()
        .iter()
        .filter(|route| route.path.starts_with("/api/"))
        .map(|route| format!("{} {}", route.method, route.path))
        .collect();
    described.sort();
    served.sort();
    assert_eq!(described, served);
}

#[tokio::test]
async fn every_problem_has_the_members_of_rfc_9457() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    let problems = [
        app.get(SERVERS).send().await,
        app.get(&one("ghost")).by(&admin).send().await,
        app.call("PATCH", SERVERS).by(&admin).send().await,
        app.post(SERVERS).by(&admin).send().await,
        app.post(SERVERS).by(&app.token(Role::Viewer).await).send().await,
        app.get("/api/v1/events").by(&admin).send().await,
    ];
    for answer in problems {
        let (status, problem) = (answer.status, answer.json());
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!(problem["status"], status);
        assert!(text(&problem["type"]).starts_with("urn:roundsman:problem:"), "{problem}");
        assert!(!text(&problem["title"]).is_empty() && !text(&problem["detail"]).is_empty(), "{problem}");
    }
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
