//! Custom metrics: what outputs mean, and commands over a real sshd up to history, sums and the page.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use proptest::prelude::*;
use roundsman::collect::custom::{Format, NAME_CHARS, VALUES, parse};
use roundsman::fleet::NewServer;
use roundsman::model::{Role, Timestamp};
use rstest::rstest;
use serde_json::{Value, json};
use support::app::{TestApp, Who, of_sshd};
use support::eventually;
use support::sshd::Sshd;

#[rstest]
#[case::lone_number("42\n", Format::Lines, &[("own", "", 42.0)])]
#[case::lines("llm_requests 12\nllm_cost_usd=0.5\nqueue depth: 3\n# a comment\n", Format::Lines,
    &[("llm_requests", "", 12.0), ("llm_cost_usd", "", 0.5), ("queue_depth", "", 3.0)])]
#[case::exposition("# HELP http_requests_total All.\n# TYPE http_requests_total counter\n\
    http_requests_total{code=\"200\",method=\"get\"} 1027 1395066363000\nup 1\nlatency{q=\"a \\\"b\\\"\"} 1.5e-3\n",
    Format::Prometheus, &[("http_requests_total", "code=200 method=get", 1027.0), ("up", "", 1.0),
    ("latency", "a \"b\"", 0.0015)])]
#[case::json("{\"users\": 3, \"queue\": {\"size\": 2.5, \"name\": \"x\"}, \"lanes\": [1, 2], \"ok\": true}",
    Format::Json, &[("lanes_0", "", 1.0), ("lanes_1", "", 2.0), ("queue_size", "", 2.5), ("users", "", 3.0)])]
#[case::nagios("PING OK - rta 0.80 ms | rta=0.80ms;3000;5000;0 'packet loss'=0%;80;100;0 size=2KB unknown=U\n",
    Format::Nagios, &[("rta", "", 0.0008), ("packet_loss", "", 0.0), ("size", "", 2048.0)])]
#[case::nagios_of_several_lines("DISK OK | /=2643MB;5948;5958;0;5968\nlong text\n| /boot=68MB /home=69357MB\n",
    Format::Nagios, &[("boot", "", 68.0 * 1_048_576.0), ("home", "", 69_357.0 * 1_048_576.0)])]
fn the_format_is_detected(
    #[case] output: &str,
    #[case] format: Format,
    #[case] expected: &[(&str, &str, f64)],
) {
    let parsed = parse(output.as_bytes(), "own");
    assert_eq!(parsed.format, format, "{parsed:?}");
    // Labels of mount points begin with a slash, which becomes a `_`.
    let found: Vec<_> = parsed
        .values
        .iter()
        .filter(|one| one.name != "_")
        .map(|one| (one.name.trim_start_matches('_'), one.label.as_str(), one.value))
        .collect();
    assert_eq!(found.len(), expected.len(), "{parsed:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!((found.0, found.1), (expected.0, expected.1));
        assert!((found.2 - expected.2).abs() < 1e-9, "{found:?} {expected:?}");
    }
}

#[rstest]
#[case::own_metric("active_users 5", "Roundsman's own")]
#[case::not_a_number("load NaN", "not a number")]
#[case::no_number("hello world", "no name with a number")]
#[case::broken_json("{\"a\": 1", "no JSON")]
#[case::broken_exposition("# TYPE a counter\na{b=\"c} 1", "no line of the Prometheus")]
#[case::twice("a 1\na 2", "came twice")]
fn what_is_left_out_is_told(#[case] output: &str, #[case] told: &str) {
    let parsed = parse(output.as_bytes(), "own");
    assert!(parsed.values.len() <= 1);
    assert!(parsed.notices.iter().any(|notice| notice.contains(told)), "{parsed:?}");
}

#[test]
fn values_and_notices_are_limited() {
    let many: String = (0..1000).map(|number| format!("value_{number} 1\n")).collect();
    let parsed = parse(many.as_bytes(), "own");
    assert_eq!(parsed.values.len(), VALUES);
    assert!(parsed.notices[0].contains("800 were left out"), "{:?}", parsed.notices);
    let noise = "no number here\n".repeat(100_000);
    assert!(parse(noise.as_bytes(), "own").notices.len() <= 12);
}

proptest! {
    #[test]
    fn no_output_makes_a_value_that_cannot_be_kept(
        output in prop_oneof![
            any::<Vec<u8>>(),
            any::<String>().prop_map(String::into_bytes),
            "[{}\\[\\]|=',;\"a-z0-9_.: \\n#-]{0,300}".prop_map(String::into_bytes),
        ],
    ) {
        let parsed = parse(&output, "own");
        prop_assert!(parsed.values.len() <= VALUES && parsed.notices.len() <= 13);
        for one in &parsed.values {
            prop_assert!(one.value.is_finite() && !one.name.is_empty() && one.name.len() <= NAME_CHARS);
            prop_assert!(one.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
            prop_assert!(!one.label.chars().any(char::is_control));
        }
    }
}

async fn define(app: &TestApp, admin: &Who, body: &Value) -> Value {
    app.post("/api/v1/custom-metrics").json(body).by(admin).send().await.expect(201)
}

async fn states(app: &TestApp, admin: &Who, name: &str) -> Vec<Value> {
    let path = format!("/api/v1/custom-metrics/{name}/servers");
    let answer = app.get(&path).by(admin).send().await.expect(200);
    answer["items"].as_array().unwrap().clone()
}

/// Waits until every server of the metric has run it.
async fn ran(app: &TestApp, admin: &Who, name: &str) -> Vec<Value> {
    let deadline = tokio::time::Instant::now() + support::PATIENCE;
    loop {
        let found = states(app, admin, name).await;
        if !found.is_empty() && found.iter().all(|one| !one["last_run_at"].is_null()) {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for {name}: {found:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_command_becomes_figures_history_and_sums_over_the_fleet() {
    let (one, two) = tokio::join!(Sshd::start(), Sshd::start());
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    for (name, sshd) in [("api-1", &one), ("api-2", &two)] {
        let tags = vec!["llm".to_owned()];
        app.add(NewServer { name: Some(name.to_owned()), tags, ..of_sshd(sshd) }).await;
    }
    let body = json!({ "name": "llm", "command": "printf 'llm_requests 20\\nllm_cost_usd 1.25\\n'",
        "interval_ms": 5000, "timeout_ms": 5000, "selector": { "tags": ["llm"] } });
    let metric = define(&app, &admin, &body).await;
    assert_eq!((metric["enabled"].as_bool(), metric["interval_ms"].as_u64()), (Some(true), Some(5000)));
    for name in ["api-1", "api-2"] {
        app.until(name, "seen with its figures", |state| state.figures.custom.contains_key("llm_requests"))
            .await;
    }
    let viewer = app.token(Role::Viewer).await;
    let server = app.get("/api/v1/fleet/servers/api-1").by(&viewer).send().await.expect(200);
    assert!(server.to_string().contains("\"llm_requests\":20"), "{server}");
    let to = app.services.clock.now();
    let span = format!("from={}&to={}", time(to, -60), time(to, 60));
    let path = format!("/api/v1/fleet/servers/api-1/metrics?metric=llm_cost_usd&{span}");
    let history = app.get(&path).by(&viewer).send().await.expect(200).to_string();
    assert!(history.contains("1.25"), "{history}");
    let path = format!("/api/v1/fleet/metrics/aggregated?metric=llm_requests&aggregate=sum&{span}");
    let sum = app.get(&path).by(&viewer).send().await.expect(200);
    assert!(sum.to_string().contains("40.0"), "{sum}");
    let states = states(&app, &admin, "llm").await;
    assert_eq!(states.len(), 2);
    assert_eq!(states[0]["values"][0]["name"], "llm_requests");
    app.get("/api/v1/custom-metrics").by(&viewer).send().await.expect(403);
}

fn time(at: Timestamp, seconds: i64) -> String {
    Timestamp::from_millis(at.as_millis() + seconds * 1000).to_string()
}

#[tokio::test]
async fn a_command_that_fails_or_hangs_is_told_and_is_no_outage() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    app.with_server("web", &sshd).await;
    app.until("web", "read", |state| state.last_seen_at.is_some()).await;
    for (name, command) in [
        ("fails", "echo 'no such table' >&2; exit 3"),
        ("hangs", "sleep 300"),
        ("endless", "yes"),
        ("binary", "head -c 3000000 /dev/urandom; printf '\\033[31m<script>alert(1)</script>' >&2"),
        ("warns", "echo 'WARNING | waiting=7;5;9'; exit 1"),
    ] {
        let body = json!({ "name": name, "command": command, "timeout_ms": 1000, "selector": { "servers": ["web"] } });
        define(&app, &admin, &body).await;
    }
    let error = |found: &[Value]| found[0]["error"].as_str().unwrap_or_default().to_owned();
    let fails = error(&ran(&app, &admin, "fails").await);
    assert!(fails.contains("status 3") && fails.contains("no such table"), "{fails}");
    assert!(error(&ran(&app, &admin, "hangs").await).contains("did not end within 1 s"));
    assert!(error(&ran(&app, &admin, "endless").await).contains("did not end within 1 s"));
    let binary = ran(&app, &admin, "binary").await;
    assert!(!binary[0].to_string().contains('\u{1b}'));
    let warns = ran(&app, &admin, "warns").await;
    assert_eq!(warns[0]["exit_status"], 1);
    assert_eq!(warns[0]["values"][0], json!({ "name": "waiting", "label": "", "value": 7.0 }));
    let page = app.get("/custom-metrics/fails").by(&admin).send().await;
    assert!(page.status == 200 && page.text().contains("no such table"), "{}", page.text());
    let state = app.state("web");
    assert_eq!(state.reachability, roundsman::model::Reachability::Reachable);
    eventually("no process stays", || {
        let list = std::process::Command::new("pgrep").args(["-fx", "sleep 300"]).output().unwrap();
        list.stdout.is_empty()
    })
    .await;
}

#[tokio::test]
async fn definitions_are_checked_changed_removed_and_audited() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    app.with_server("web", &sshd).await;
    let good = json!({ "name": "jobs", "command": "echo jobs_waiting 4", "interval_ms": 5000, "timeout_ms": 5000,
        "selector": { "all": true } });
    for (field, value) in [
        ("name", json!("cpu_percent")),
        ("name", json!("Jobs")),
        ("name", json!("")),
        ("command", json!("  ")),
        ("command", json!("a\u{0}b")),
        ("interval_ms", json!(1000)),
        ("timeout_ms", json!(60_001)),
        ("timeout_ms", json!(6000)),
        ("selector", json!({})),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let answer = app.post("/api/v1/custom-metrics").json(&body).by(&admin).send().await;
        assert_eq!(answer.status, 422, "{field}: {}", answer.text());
        assert!(answer.text().contains(field), "{}", answer.text());
    }
    let mut unknown = good.clone();
    unknown["selector"] = json!({ "servers": ["nobody"] });
    app.post("/api/v1/custom-metrics").json(&unknown).by(&admin).send().await.expect(404);
    define(&app, &admin, &good).await;
    app.post("/api/v1/custom-metrics").json(&good).by(&admin).send().await.expect(409);
    app.until("web", "seen with jobs", |state| state.figures.custom.contains_key("jobs_waiting")).await;

    let change = |body: Value| app.call("PATCH", "/api/v1/custom-metrics/jobs").json(&body).by(&admin).send();
    change(json!({ "command": "echo jobs_open 5" })).await.expect(200);
    let state = app.until("web", "read anew", |state| state.figures.custom.contains_key("jobs_open")).await;
    assert!(!state.figures.custom.contains_key("jobs_waiting"), "the old figure is current no longer");
    assert_eq!(change(json!({ "enabled": false })).await.expect(200)["enabled"], false);
    app.until("web", "without figures", |state| state.figures.custom.is_empty()).await;
    let app = app.restart().await;
    let kept = app.get("/api/v1/custom-metrics/jobs").by(&admin).send().await.expect(200);
    assert_eq!(
        (kept["enabled"].as_bool(), kept["command"].as_str()),
        (Some(false), Some("echo jobs_open 5"))
    );
    app.call("DELETE", "/api/v1/custom-metrics/jobs").by(&admin).send().await.expect(204);
    app.get("/api/v1/custom-metrics/jobs").by(&admin).send().await.expect(404);
    let audit = app.get("/api/v1/audit").by(&admin).send().await.expect(200).to_string();
    for action in ["custom-metric.add", "custom-metric.edit", "custom-metric.remove"] {
        assert!(audit.contains(action), "{action}: {audit}");
    }
}

#[tokio::test]
async fn a_metric_of_a_group_that_was_deleted_is_meant_for_nobody() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    app.with_server("web", &sshd).await;
    let group = json!({ "name": "front" });
    app.post("/api/v1/fleet/groups").json(&group).by(&admin).send().await.expect(201);
    let member = json!({ "group_id": "front", "server_id": "web" });
    app.post("/api/v1/fleet/groups/members").json(&member).by(&admin).send().await;
    let body = json!({ "name": "jobs", "command": "echo jobs_waiting 4", "interval_ms": 5000, "timeout_ms": 5000,
        "selector": { "groups": ["front"], "status": "active" } });
    define(&app, &admin, &body).await;
    assert_eq!(states(&app, &admin, "jobs").await.len(), 1);
    app.call("DELETE", "/api/v1/fleet/groups/front").by(&admin).send().await.expect(204);
    assert_eq!(states(&app, &admin, "jobs").await.len(), 0);
}

#[tokio::test]
async fn a_command_is_tried_before_it_is_kept() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    app.with_server("web", &sshd).await;
    app.until("web", "read", |state| state.last_seen_at.is_some()).await;
    let body = json!({ "server": "web", "command": "echo '{\"a\": 1}'; echo oops >&2; exit 2", "name": "x" });
    let trial = app.post("/api/v1/custom-metrics/try").json(&body).by(&admin).send().await.expect(200);
    assert_eq!(
        (trial["exit_status"].as_u64(), trial["stderr"].as_str()),
        (Some(2), Some("oops\n")),
        "{trial}"
    );
    assert_eq!(trial["parsed"]["values"][0]["name"], "a");
    assert_eq!(trial["parsed"]["format"], "json");
    let late = json!({ "server": "web", "command": "echo a 1; sleep 60", "timeout_ms": 1000 });
    let trial = app.post("/api/v1/custom-metrics/try").json(&late).by(&admin).send().await.expect(200);
    assert!(trial["error"].as_str().unwrap().contains("did not end") && trial["parsed"].is_null(), "{trial}");
    let operator = app.token(Role::Operator).await;
    app.post("/api/v1/custom-metrics/try").json(&body).by(&operator).send().await.expect(403);
    let audit = app.get("/api/v1/audit").by(&admin).send().await.expect(200).to_string();
    assert!(audit.contains("custom-metric.try"), "{audit}");
}

#[tokio::test]
async fn commands_on_this_machine_need_the_switch_of_the_configuration() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    app.services.fleet.ensure_local("here").await.unwrap();
    let body = json!({ "server": "here", "command": "id" });
    let trial = app.post("/api/v1/custom-metrics/try").json(&body).by(&admin).send().await.expect(200);
    assert!(trial["error"].as_str().unwrap().contains("allow_local_actions"), "{trial}");
}

#[tokio::test]
async fn the_pages_define_try_change_and_remove() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web", &sshd).await;
    app.until("web", "read", |state| state.last_seen_at.is_some()).await;
    let admin = app.login(Role::Admin).await;
    let form = [
        ("name", "jobs"),
        ("command", "echo jobs_waiting 4"),
        ("interval_s", "5"),
        ("timeout_s", "5"),
        ("servers", "web"),
        ("enabled", "true"),
    ];
    let tried = app
        .post("/custom-metrics")
        .form(&[&form[..], &[("try", "1"), ("try_server", "web")]].concat())
        .by(&admin)
        .send()
        .await;
    assert_eq!(tried.status, 200, "{}", tried.text());
    assert!(tried.text().contains("jobs_waiting") && tried.text().contains("echo jobs_waiting 4"));
    let wrong = app
        .post("/custom-metrics")
        .form(&[("name", "cpu_percent"), ("command", "x")])
        .by(&admin)
        .send()
        .await;
    assert_eq!(wrong.status, 422);
    assert!(wrong.text().contains("own; choose another name"), "{}", wrong.text());
    let made = app.post("/custom-metrics").form(&form).by(&admin).send().await;
    assert_eq!((made.status, made.header("location")), (303, "/custom-metrics/jobs?done=saved"));
    app.until("web", "seen with jobs", |state| state.figures.custom.contains_key("jobs_waiting")).await;
    let page = app.get("/custom-metrics/jobs").by(&admin).send().await.text();
    assert!(page.contains("jobs_waiting") && page.contains("value=\"web\""), "{page}");
    assert!(app.get("/custom-metrics").by(&admin).send().await.text().contains("/custom-metrics/jobs"));
    let off = app.post("/custom-metrics/jobs").form(&form[..5]).by(&admin).send().await;
    assert_eq!(off.status, 303, "{}", off.text());
    assert!(app.get("/custom-metrics").by(&admin).send().await.text().contains("disabled"));
    let gone = app.post("/custom-metrics/jobs/remove").form(&[]).by(&admin).send().await;
    assert_eq!((gone.status, gone.header("location")), (303, "/custom-metrics?done=metric-removed"));
}
