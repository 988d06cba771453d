//! Servers that report by themselves: who may register and report, what becomes of what they say.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use roundsman::clock::{Clock, ManualClock, SystemClock};
use roundsman::model::{Health, Reachability, Role, SeriesKey, Timestamp};
use serde_json::{Value, json};
use support::app::{Answer, TestApp, Who};
use support::program::Program;
use support::{agent, eventually};

const BOOT: &str = "0d2f8b9e-5b1c-4c53-9d2e-000000000001";

/// A server with a script in place of the agent.
struct Pusher {
    id: String,
    token: Who,
    boot_at_ms: i64,
    /// Readings that no answer has confirmed.
    buffer: Vec<Value>,
}

impl Pusher {
    async fn register(app: &TestApp, enrol: &Who, hostname: &str) -> Self {
        let body = json!({
            "hostname": hostname, "agent_version": "1.2.3", "interval_ms": 1000,
            "facts": { "hostname": hostname, "os_name": "Debian GNU/Linux 12", "cpu_cores": 4 },
        });
        let made = app.post("/api/v1/fleet/register").by(enrol).json(&body).send().await.expect(200);
        Self {
            id: made["id"].as_str().unwrap().to_owned(),
            token: Who::Token(made["token"].as_str().unwrap().to_owned()),
            boot_at_ms: 0,
            buffer: Vec::new(),
        }
    }

    /// One reading at this time of the server's clock: a quarter of the CPU is busy.
    fn read(&mut self, at: Timestamp) {
        if self.boot_at_ms == 0 {
            self.boot_at_ms = at.as_millis() - 1_000_000;
        }
        let uptime_ms = at.as_millis() - self.boot_at_ms;
        self.buffer.push(reading(at, uptime_ms));
    }

    async fn send(&self, app: &TestApp) -> Answer {
        let body = json!({ "readings": self.buffer });
        let path = format!("/api/v1/fleet/servers/{}/heartbeat", self.id);
        app.post(&path).by(&self.token).json(&body).send().await
    }

    /// Sends what is buffered; what was accepted is forgotten.
    async fn push(&mut self, app: &TestApp) -> Value {
        let answer = self.send(app).await.expect(200);
        assert_eq!(answer["accepted"], json!(self.buffer.len()));
        self.buffer.clear();
        answer
    }
}

fn reading(at: Timestamp, uptime_ms: i64) -> Value {
    let ticks = uptime_ms / 10;
    json!({
        "taken_at_ms": at.as_millis(), "boot_id": BOOT, "uptime_ms": uptime_ms, "ticks_per_second": 100,
        "cpu": {
            "user_ticks": ticks / 4, "nice_ticks": 0, "system_ticks": 0, "idle_ticks": ticks - ticks / 4,
            "iowait_ticks": 0, "irq_ticks": 0, "softirq_ticks": 0, "steal_ticks": 0,
        },
        "memory": { "total_bytes": 1_000_000, "available_bytes": 600_000 },
        "filesystems": [{
            "mount": "/", "device": "/dev/vda1", "fs_type": "ext4", "size_bytes": 1000, "used_bytes": 400,
            "available_bytes": 600,
        }],
        "processes": [{ "pid": 1, "state": "S", "name": "init", "rss_bytes": 4096, "threads": 1 }],
        "services": [{ "name": "nginx", "state": "active", "sub_state": "running" }],
        "users": [],
    })
}

fn now() -> Timestamp {
    SystemClock.now()
}

async fn values(app: &TestApp, name: &str, metric: &'static str, from: Timestamp) -> Vec<(i64, f64)> {
    let number = app.state(name).server.number;
    let to = app.services.clock.now() + Duration::from_secs(1);
    let points = app.history.range(number, &SeriesKey::plain(metric), from, to, 1000).await.unwrap();
    points.iter().map(|point| (point.at.as_millis(), point.avg)).collect()
}

#[tokio::test]
async fn a_registered_server_shows_the_same_figures_and_history_as_one_over_ssh() {
    let app = TestApp::start().await;
    let mut pusher = Pusher::register(&app, &app.enrol_token().await, "Web-7.Example.com").await;
    let begun = now() - Duration::from_secs(10);
    for second in [0, 4, 8] {
        pusher.read(begun + Duration::from_secs(second));
    }
    let answer = pusher.push(&app).await;
    assert_eq!(answer["interval_ms"], 1000);
    assert!(answer.get("notice").is_none(), "{answer}");
    let state = app.state("web-7.example.com");
    assert_eq!((state.health, &state.reachability), (Health::Healthy, &Reachability::Reachable));
    let cpu = state.figures.cpu_percent.unwrap();
    assert!((24.0..=26.0).contains(&cpu), "{cpu}");
    assert_eq!((state.figures.memory_percent, state.figures.disk_percent), (Some(40.0), Some(40.0)));
    assert_eq!(state.figures.active_services, Some(1.0));
    assert_eq!(state.facts.as_ref().unwrap().os_name.as_deref(), Some("Debian GNU/Linux 12"));
    let admin = app.token(Role::Admin).await;
    let base = "/api/v1/fleet/servers/web-7.example.com";
    let server = app.get(base).by(&admin).send().await.expect(200);
    assert_eq!((&server["transport"], &server["version"]), (&json!("push"), &json!("1.2.3")));
    let processes = app.get(&format!("{base}/processes")).by(&admin).send().await.expect(200);
    assert_eq!(processes["processes"][0]["name"], "init");
    let services = app.get(&format!("{base}/services")).by(&admin).send().await.expect(200);
    assert_eq!(services["services"][0]["name"], "nginx");
    let times: Vec<i64> = values(&app, "web-7.example.com", "memory_percent", begun - Duration::from_secs(1))
        .await
        .into_iter()
        .map(|(at, _)| at / 1000)
        .collect();
    assert_eq!(times.len(), 3, "each under its own time: {times:?}");
    let page = app.get("/servers/web-7.example.com").by(&app.login(Role::Admin).await).send().await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains("Pushed by the server"), "{}", page.text());
}

#[tokio::test]
async fn a_known_host_name_is_the_same_server_and_another_token_is_refused_and_audited() {
    let app = TestApp::start().await;
    let (first, second) = (app.enrol_token().await, app.enrol_token().await);
    let one = Pusher::register(&app, &first, "web-1").await;
    let again = Pusher::register(&app, &first, "WEB-1").await;
    assert_eq!(one.id, again.id);
    let Who::Token(old) = &one.token else { unreachable!() };
    let Who::Token(new) = &again.token else { unreachable!() };
    assert_ne!(old, new, "another secret of the same token");
    for pusher in [&one, &again] {
        assert_eq!(pusher.send(&app).await.status, 200, "the one before is accepted for a while");
    }
    let body = json!({ "hostname": "web-1" });
    let refused = app.post("/api/v1/fleet/register").by(&second).json(&body).send().await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    let other = Pusher::register(&app, &second, "web-2").await;
    for (who, id, status) in [
        (&first, &one.id, 200),
        (&second, &one.id, 403),
        (&other.token, &one.id, 403),
        (&first, &other.id, 403),
        (&one.token, &other.id, 403),
    ] {
        let path = format!("/api/v1/fleet/servers/{id}/heartbeat");
        let answer = app.post(&path).by(who).json(&json!({ "cpu_percent": 1 })).send().await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    let admin = app.token(Role::Admin).await;
    let audit = app.get("/api/v1/audit").by(&admin).send().await.expect(200);
    let refused: Vec<&Value> =
        audit["items"].as_array().unwrap().iter().filter(|entry| entry["result"] == "refused").collect();
    assert!(refused.iter().any(|entry| entry["subject"] == "web-1"), "{audit}");
    let taken = app.get("/api/v1/fleet/servers").by(&admin).send().await.expect(200);
    assert_eq!(taken["items"].as_array().unwrap().len(), 2);
    assert!(!taken.to_string().contains("rdm_"));
}

#[tokio::test]
async fn a_server_registers_with_its_own_token_and_keeps_it() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    let body = json!({ "name": "edge-1", "transport": "push", "tags": ["edge"], "interval_ms": 2000 });
    let made = app.post("/api/v1/fleet/servers").by(&admin).json(&body).send().await.expect(201);
    let token = made["token"].as_str().unwrap().to_owned();
    let own = Who::Token(token.clone());
    let body = json!({ "hostname": "box.local", "tags": ["new"], "metadata": { "rack": 7 } });
    let answer = app.post("/api/v1/fleet/register").by(&own).json(&body).send().await.expect(200);
    assert_eq!((&answer["id"], &answer["token"]), (&made["id"], &json!(token)));
    let server = app.get("/api/v1/fleet/servers/edge-1").by(&admin).send().await.expect(200);
    assert_eq!((&server["tags"], &server["metadata"]["rack"]), (&json!(["edge", "new"]), &json!("7")));
    let path = format!("/api/v1/fleet/servers/{}/heartbeat", made["id"].as_str().unwrap());
    let heard = app.post(&path).by(&own).json(&json!({ "cpu_percent": 1 })).send().await.expect(200);
    assert_eq!(heard["interval_ms"], 2000, "what an administrator set is what the agent keeps to");
    let renewed =
        app.post("/api/v1/fleet/servers/edge-1/token").by(&admin).json(&json!({})).send().await.expect(200);
    assert_ne!(renewed["token"], json!(token));
    app.call("DELETE", "/api/v1/fleet/servers/edge-1").by(&admin).send().await.expect(204);
    assert_eq!(app.post(&path).by(&own).json(&json!({})).send().await.status, 401, "its token went with it");
}

#[tokio::test]
async fn no_heartbeat_is_lost_while_roundsman_is_stopped() {
    let clock = Arc::new(ManualClock::at(now()));
    let app = TestApp::start_at(Arc::<ManualClock>::clone(&clock)).await;
    let mut pusher = Pusher::register(&app, &app.enrol_token().await, "web-1").await;
    let begun = clock.now();
    pusher.read(clock.now());
    pusher.push(&app).await;
    // Roundsman stops; the server goes on reading every 5 s for a minute.
    let stopped = app;
    for _ in 0..12 {
        clock.advance(Duration::from_secs(5));
        pusher.read(clock.now());
    }
    let app = stopped.restart().await;
    pusher.push(&app).await;
    let kept = values(&app, "web-1", "memory_percent", begun).await;
    let seconds: Vec<i64> = kept.iter().map(|(at, _)| (at - begun.as_millis() + 500) / 1000).collect();
    assert_eq!(seconds, (0..=12).map(|number| number * 5).collect::<Vec<_>>());
    let rates = values(&app, "web-1", "cpu_percent", begun).await;
    assert_eq!(rates.len(), 11, "a rate between each two of those that were buffered: {rates:?}");
    assert!(rates.iter().all(|(_, cpu)| (24.0..=26.0).contains(cpu)), "{rates:?}");
}

#[tokio::test]
async fn a_heartbeat_sent_twice_counts_once() {
    let app = TestApp::start().await;
    let mut pusher = Pusher::register(&app, &app.enrol_token().await, "web-1").await;
    let begun = now() - Duration::from_secs(20);
    pusher.read(begun);
    pusher.read(begun + Duration::from_secs(5));
    // The answer of the first one gets lost.
    assert_eq!(pusher.send(&app).await.status, 200);
    pusher.read(begun + Duration::from_secs(10));
    pusher.push(&app).await;
    assert_eq!(values(&app, "web-1", "memory_percent", begun).await.len(), 3);
    assert_eq!(values(&app, "web-1", "cpu_percent", begun).await.len(), 2);
}

#[tokio::test]
async fn three_missed_intervals_make_a_server_unreachable_and_the_next_heartbeat_brings_it_back() {
    let app = TestApp::start().await;
    let mut pusher = Pusher::register(&app, &app.enrol_token().await, "web-1").await;
    pusher.read(now());
    pusher.push(&app).await;
    assert_eq!(app.state("web-1").health, Health::Healthy);
    let heard = tokio::time::Instant::now();
    let state = app.until("web-1", "unreachable", |state| state.health == Health::Unreachable).await;
    assert!(heard.elapsed() >= Duration::from_millis(2900), "{:?}", heard.elapsed());
    let Reachability::Unreachable { reason, .. } = &state.reachability else { panic!("{state:?}") };
    assert!(reason.contains("3 intervals of 1 s"), "{reason}");
    pusher.read(now());
    pusher.push(&app).await;
    assert_eq!(app.state("web-1").health, Health::Healthy);
}

#[tokio::test]
async fn a_clock_one_year_off_is_said_clearly_and_nothing_is_lost() {
    let app = TestApp::start().await;
    let enrol = app.enrol_token().await;
    let year = Duration::from_secs(365 * 86_400);
    for (name, at) in [("ahead", now() + year), ("behind", now() - year)] {
        let mut pusher = Pusher::register(&app, &enrol, name).await;
        let begun = now() - Duration::from_secs(30);
        for second in [0, 5, 10] {
            pusher.read(at + Duration::from_secs(second));
        }
        let answer = pusher.push(&app).await;
        let notice = answer["notice"].as_str().unwrap();
        assert!(notice.contains(&format!("365 days {name}")), "{notice}");
        assert_eq!(values(&app, name, "memory_percent", begun).await.len(), 3, "{name}");
        let state = app.state(name);
        assert!(state.gaps.iter().any(|gap| gap.section == "clock" && gap.reason == notice), "{state:?}");
    }
}

#[tokio::test]
async fn hostile_bodies_are_refused_with_the_bad_field_and_change_nothing() {
    let app = TestApp::start().await;
    let pusher = Pusher::register(&app, &app.enrol_token().await, "web-1").await;
    let path = format!("/api/v1/fleet/servers/{}/heartbeat", pusher.id);
    let post = |body: String| app.post(&path).by(&pusher.token).body("application/json", body).send();
    let reading = |part: &str| format!("{{\"readings\":[{{{part}}}]}}");
    for (body, field) in [
        (reading("\"uptime_ms\":-1"), "readings[0].uptime_ms"),
        (reading("\"uptime_ms\":99999999999999999999"), "readings[0].uptime_ms"),
        (reading("\"memory\":{\"total_bytes\":1.5}"), "readings[0].memory.total_bytes"),
        (reading("\"interfaces\":[{\"name\":5}]"), "readings[0].interfaces"),
        (reading(&format!("\"cores\":[{}]", vec!["{}"; 5000].join(","))), "readings[0].cores"),
        (format!("{{\"readings\":[{}]}}", vec!["{}"; 721].join(",")), "readings"),
        ("{\"readings\":{}}".to_owned(), "readings"),
        ("{\"cpu_percent\":101}".to_owned(), "cpu_percent"),
        ("{\"cpu_percent\":\"NaN\"}".to_owned(), "cpu_percent"),
        ("{\"metrics\":{\"<script>\":1}}".to_owned(), "metrics.<script>"),
    ] {
        let answer = post(body.clone()).await;
        assert_eq!(answer.status, 422, "{body}: {}", answer.text());
        assert_eq!(answer.json()["field"], field, "{}", answer.text());
    }
    for body in ["{\"cpu_percent\":NaN}", "{\"cpu_percent\":1e999}", "[1]", "", "{\"readings\":[[[["] {
        assert_eq!(post(body.to_owned()).await.status, 422, "{body}");
    }
    assert_eq!(post(" ".repeat(4 * 1024 * 1024 + 1)).await.status, 413);
    assert_eq!(app.state("web-1").last_seen_at, None);
    let long = "x".repeat(100_000);
    let hostile = json!({ "readings": [{
        "boot_id": long, "taken_at_ms": 0,
        "processes": [{ "pid": 9, "state": "S", "name": "\u{1b}[2J<script>\n)", "command_line": long }],
    }] });
    assert_eq!(post(hostile.to_string()).await.status, 200);
    let admin = app.token(Role::Admin).await;
    let table = app.get("/api/v1/fleet/servers/web-1/processes").by(&admin).send().await.expect(200);
    assert_eq!(table["processes"][0]["name"], "<script> )");
    assert!(table.to_string().len() < 4000, "{}", table.to_string().len());
    assert_eq!(app.state("web-1").figures.memory_percent, None, "unknown is unknown");
}

#[tokio::test]
async fn plain_figures_become_samples_and_custom_metrics() {
    let app = TestApp::start().await;
    let pusher = Pusher::register(&app, &app.enrol_token().await, "web-1").await;
    let path = format!("/api/v1/fleet/servers/{}/heartbeat", pusher.id);
    let body = json!({
        "cpu_percent": 12.5, "memory_percent": 40, "disk_percent": 98, "network_rx_bytes": 1000, "llm_requests": 7,
        "swap_percent": null,
    });
    let heard = app.post(&path).by(&pusher.token).json(&body).send().await.expect(200);
    assert_eq!(heard["accepted"], 5);
    let state = app.state("web-1");
    assert_eq!((state.figures.cpu_percent, state.figures.swap_percent), (Some(12.5), None));
    assert_eq!(state.health, Health::Critical, "{:?}", state.health_reasons);
    let only_custom = json!({ "metrics": { "llm_cost_usd": 0.25 } });
    app.post(&path).by(&pusher.token).json(&only_custom).send().await.expect(200);
    assert_eq!(app.state("web-1").figures.cpu_percent, Some(12.5), "custom metrics alone replace nothing");
    let names = app
        .services
        .fleet
        .metric_names(&roundsman::model::Caller::roundsman(), "web-1")
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    for name in ["cpu_percent", "llm_requests", "llm_cost_usd", "network_rx_bytes"] {
        assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
    }
}

#[tokio::test]
async fn actions_on_a_server_without_an_ssh_address_say_why_they_cannot_be() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    let mut pusher = Pusher::register(&app, &app.enrol_token().await, "web-1").await;
    pusher.read(now());
    pusher.push(&app).await;
    let act = json!({ "action": "restart_service", "service": "nginx" });
    let path = "/api/v1/fleet/servers/web-1/actions";
    let refused = app.post(path).by(&admin).json(&act).send().await;
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(refused.text().contains("no SSH address"), "{}", refused.text());
    let page = app.get("/servers/web-1/commands").by(&app.login(Role::Admin).await).send().await;
    assert!(page.text().contains("no SSH address"), "{}", page.text());
}

#[tokio::test]
async fn a_pushing_server_with_an_ssh_address_acts_over_ssh_while_its_readings_come_their_own_way() {
    let app = TestApp::start().await;
    let sshd = support::sshd::Sshd::start().await;
    let admin = app.token(Role::Admin).await;
    let mut pusher = Pusher::register(&app, &app.enrol_token().await, "web-1").await;
    pusher.read(now());
    pusher.push(&app).await;
    let key = json!({ "name": "lab", "private_key": sshd.client_key().expose() });
    let key = app.post("/api/v1/keys/import").by(&admin).json(&key).send().await;
    assert!(key.status < 300, "{}", key.text());
    let base = "/api/v1/fleet/servers/web-1";
    let way = json!({
        "hostname": "127.0.0.1", "port": sshd.port().get(), "username": "root", "identity": key.json()["id"],
    });
    app.call("PATCH", base).by(&admin).json(&way).send().await.expect(200);
    let test = app.post(&format!("{base}/test")).by(&admin).json(&json!({})).send().await.expect(200);
    assert_eq!(test["ok"], false, "its host key is not approved yet");
    let server = app.get(base).by(&admin).send().await.expect(200);
    let approval = json!({ "host_key": server["offered_host_key"] });
    app.post(&format!("{base}/host-key")).by(&admin).json(&approval).send().await.expect(200);
    let act = json!({ "action": "run_command", "command": "echo by-ssh" });
    let begun = app.post(&format!("{base}/actions")).by(&admin).json(&act).send().await.expect(202);
    let path = format!("/api/v1/fleet/operations/{}", begun["id"].as_str().unwrap());
    let mut events = app.services.fleet.subscribe();
    let done = support::in_time("the action", async {
        loop {
            let view = app.get(&path).by(&admin).send().await.expect(200);
            if !matches!(view["status"].as_str().unwrap(), "pending" | "running") {
                return view;
            }
            drop(tokio::time::timeout(Duration::from_millis(200), events.recv()).await);
        }
    });
    let done = done.await;
    assert_eq!(done["status"], "completed", "{done}");
    assert_eq!(done["results"][0]["stdout"], "by-ssh\n");
    pusher.read(now());
    pusher.push(&app).await;
    assert_eq!(app.state("web-1").health, Health::Healthy);
}

#[tokio::test]
async fn the_form_adds_a_server_whose_token_is_shown_once_and_its_page_waits_for_the_first_heartbeat() {
    let app = TestApp::start().await;
    let admin = app.login(Role::Admin).await;
    let form = app.get("/servers/new/push").by(&admin).send().await;
    assert!(form.status == 200 && form.text().contains("https://fleet.test"), "{}", form.text());
    let send = |name: &'static str| {
        let pairs = [("name", name), ("tags", "edge far"), ("region", "attic"), ("interval_seconds", "1")];
        app.post("/servers/new/push").by(&admin).form(&pairs).send()
    };
    let refused = send("no name").await;
    assert!(refused.status == 422 && refused.text().contains("is not a server name"), "{}", refused.text());
    let made = send("edge-1").await;
    assert_eq!(made.status, 201, "{}", made.text());
    let page = made.text();
    let (_, rest) = page.split_once("id=\"push-token\">").unwrap();
    let token = rest.split('<').next().unwrap().to_owned();
    assert!(
        token.starts_with("rdm_") && page.contains("deploy-agent.sh") && page.contains("/heartbeat"),
        "{page}"
    );
    assert!(!page.contains("data-live"), "a page that fetches itself again would lose the token");
    let overview = || async { app.get("/servers/edge-1").by(&admin).send().await.text() };
    let waiting = overview().await;
    assert!(waiting.contains("Waiting for its first heartbeat") && !waiting.contains(&token), "{waiting}");
    assert_eq!(send("edge-1").await.status, 409, "the name is taken");
    let path = format!("/api/v1/fleet/servers/{}/heartbeat", app.state("edge-1").server.id);
    let beat =
        |token: String| app.post(&path).by(&Who::Token(token)).json(&json!({ "cpu_percent": 12.5 })).send();
    beat(token.clone()).await.expect(200);
    let heard = overview().await;
    assert!(!heard.contains("Waiting for its first heartbeat") && heard.contains("12.5"), "{heard}");
    let id = app.state("edge-1").server.id;
    let renewed = app.post(&format!("/servers/{id}/push-token")).by(&admin).form(&[]).send().await;
    let page = renewed.text();
    assert!(renewed.status == 200 && page.contains("accepted for an hour more"), "{page}");
    let (_, rest) = page.split_once("id=\"push-token\">").unwrap();
    let fresh = rest.split('<').next().unwrap().to_owned();
    assert_ne!(token, fresh);
    for token in [token, fresh] {
        assert_eq!(beat(token).await.status, 200, "both are accepted for a while");
    }
    let viewer = app.login(Role::Viewer).await;
    assert_eq!(app.get("/servers/new/push").by(&viewer).send().await.status, 403);
    assert_eq!(app.post(&format!("/servers/{id}/push-token")).by(&viewer).form(&[]).send().await.status, 403);
}

#[tokio::test]
async fn the_token_before_a_rotation_ends_with_its_grace() {
    let clock = Arc::new(ManualClock::at(now()));
    let app = TestApp::start_at(Arc::<ManualClock>::clone(&clock)).await;
    let admin = app.token(Role::Admin).await;
    let first = Pusher::register(&app, &app.enrol_token().await, "web-1").await;
    let renewed = app
        .post(&format!("/api/v1/fleet/servers/{}/token", first.id))
        .by(&admin)
        .json(&json!({}))
        .send()
        .await;
    let fresh = Who::Token(renewed.expect(200)["token"].as_str().unwrap().to_owned());
    let path = format!("/api/v1/fleet/servers/{}/heartbeat", first.id);
    let beat = |who: &Who| app.post(&path).by(who).json(&json!({ "cpu_percent": 1 })).send();
    clock.advance(Duration::from_secs(59 * 60));
    assert_eq!((beat(&first.token).await.status, beat(&fresh).await.status), (200, 200));
    clock.advance(Duration::from_secs(2 * 60));
    assert_eq!((beat(&first.token).await.status, beat(&fresh).await.status), (401, 200));
}

#[tokio::test]
async fn a_token_is_refused_from_elsewhere_and_when_it_comes_too_often() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    let make = |more: Value| {
        let mut body = json!({ "name": "limited", "scope": "enrol" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        app.post("/api/v1/tokens").by(&admin).json(&body).send()
    };
    let text = |made: Value| Who::Token(made["token"].as_str().unwrap().to_owned());
    let register = json!({ "hostname": "web-1" });
    let elsewhere = text(make(json!({ "allowed_from": ["10.0.0.0/8"] })).await.expect(201));
    let refused = app.post("/api/v1/fleet/register").by(&elsewhere).json(&register).send().await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    let here =
        text(make(json!({ "allowed_from": ["127.0.0.0/8"], "requests_per_minute": 2 })).await.expect(201));
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let answer = app.post("/api/v1/fleet/register").by(&here).json(&register).send().await;
        statuses.push((answer.status, answer.headers.contains_key("retry-after")));
    }
    assert_eq!(statuses, [(200, false), (200, false), (429, true)]);
}

/// Leads to the central server where it runs, and nowhere while it is stopped: its port is another one after a restart.
struct Relay {
    url: String,
    to: Arc<Mutex<Option<SocketAddr>>>,
    refused: Arc<AtomicUsize>,
}

impl Relay {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (to, refused) = (Arc::<Mutex<Option<SocketAddr>>>::default(), Arc::<AtomicUsize>::default());
        let (target, count) = (Arc::clone(&to), Arc::clone(&refused));
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let to = *target.lock().unwrap();
                let Some(to) = to else {
                    count.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                tokio::spawn(async move {
                    if let Ok(mut far) = tokio::net::TcpStream::connect(to).await {
                        let _either_may_end = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Self { url, to, refused }
    }

    fn leads_to(&self, to: Option<SocketAddr>) {
        *self.to.lock().unwrap() = to;
    }
}

/// The times of the readings since `from`, in ms.
async fn times(program: &Program, token: &str, from: i64) -> Vec<i64> {
    // One range for the whole test: the times of points are those of equal parts of the range.
    let range = format!("from={from}&to={}&points=5000", from + 600_000);
    let path = format!("/api/v1/fleet/servers/edge-1/metrics?metric=memory_percent&{range}");
    let (status, body) = program.get(&path, token).await;
    if status != 200 {
        return Vec::new();
    }
    let points = body["series"][0]["points"].as_array().cloned().unwrap_or_default();
    points.iter().map(|point| point[0].as_i64().unwrap()).collect()
}

/// How long the central server is away: the agent tries after 1, 2 and 4 s.
const OUTAGE: Duration = Duration::from_secs(6);

#[tokio::test]
async fn a_real_agent_loses_no_reading_while_the_central_server_is_stopped() {
    let (mut program, relay) = (Program::start(&["--interval", "1s"]).await, Relay::start().await);
    relay.leads_to(Some(program.address));
    let enrol = program.cli(&["token", "create", "--scope", "enrol"]).await;
    let enrol = String::from_utf8(enrol.stdout).unwrap().trim().to_owned();
    let admin = program.token("admin").await;
    let dir = tempfile::tempdir().unwrap();
    let mut pusher = tokio::process::Command::new(agent::program())
        .args(["push", "--url", &relay.url, "--name", "edge-1", "--interval", "1", "--state-file"])
        .arg(dir.path().join("push.state"))
        .env("ROUNDSMAN_TOKEN", &enrol)
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let from = now().as_millis() - 60_000;
    let until = async |program: &Program, what: &str, enough: &dyn Fn(&[i64]) -> bool| {
        support::in_time(what, async {
            loop {
                let times = times(program, &admin, from).await;
                if enough(&times) {
                    return times;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await
    };
    until(&program, "three readings", &|times| times.len() >= 3).await;
    relay.leads_to(None);
    let (_, code, log) = program.terminate().await;
    assert_eq!(code, Some(0), "{log}");
    let stopped = now().as_millis();
    let refused = Arc::clone(&relay.refused);
    let begun = tokio::time::Instant::now();
    eventually("the agent tries in vain", || {
        refused.load(Ordering::Relaxed) >= 3 && begun.elapsed() >= OUTAGE
    })
    .await;
    let program = program.restart().await;
    relay.leads_to(Some(program.address));
    let back = now().as_millis();
    let kept = until(&program, "readings from after the outage", &|times| {
        times.last().is_some_and(|last| *last > back + 1500)
    })
    .await;
    let buffered = kept.iter().filter(|at| (stopped..back).contains(*at)).count();
    let expected = usize::try_from((back - stopped) / 1000).unwrap();
    assert!(buffered + 1 >= expected, "{buffered} of {expected} readings of the outage: {kept:?}");
    // The first reading comes before the registration, the next after it, however long that takes.
    let settled = kept.get(1..).unwrap();
    let gaps: Vec<i64> = settled.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(gaps.iter().all(|gap| *gap < 3000), "{gaps:?}");
    pusher.kill().await.unwrap();
}
