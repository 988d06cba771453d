//! What the API refuses and what it does not show: hostile values, strangers' servers, lists, the shape of problems.
#![expect(clippy::panic, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use roundsman::model::Role;
use serde_json::{Value, json};
use support::app::TestApp;

const SERVERS: &str = "/api/v1/fleet/servers";

fn one(name: &str) -> String {
    format!("{SERVERS}/{name}")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let app = TestApp::start().await;
    let (admin, viewer) = (app.token(Role::Admin).await, app.token(Role::Viewer).await);
    for (name, region, tags) in
        [("a", "eu", "web"), ("b", "us", "web"), ("c", "eu", "db"), ("d", "eu", "web"), ("e", "us", "db")]
    {
        app.with_inactive(name).await;
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
    app.with_inactive("web-1").await;
    for (field, value) in cases {
        let shown: String = value.to_string().chars().take(60).collect();
        let mut body = json!({ "name": "web-2", "hostname": "127.0.0.1" });
        body[field] = value.clone();
        let mut answers = vec![app.post(SERVERS).by(&admin).json(&body).send().await];
        if field != "host_key" {
            let body = json!({ (field): value });
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
    app.with_inactive("web-1").await;
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
    app.with_inactive("elsewhere").await;
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
