//! Services that are watched by their processes: over a real sshd, from the definition to start, stop and loss.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod program;
#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use program::Program;
use roundsman::model::Role;
use serde_json::{Value, json};
use support::app::{TestApp, Who};
use support::sshd::Sshd;

/// What the services of a server say of one of that name, as soon as it is in that state.
async fn in_state(app: &TestApp, who: &Who, name: &str, wanted: &str) -> Value {
    let deadline = tokio::time::Instant::now() + support::PATIENCE;
    let mut last = Value::Null;
    loop {
        // Whoever looks has details read at once, and with every reading.
        app.get("/servers/web/services").by(who).send().await;
        let answer = app.get("/api/v1/fleet/servers/web/services").by(who).send().await;
        if answer.status == 200 {
            let table: Value = serde_json::from_str(&answer.text()).unwrap();
            let found = table["services"].as_array().unwrap().iter().find(|one| one["name"] == name).cloned();
            if let Some(service) = found {
                if service["state"] == wanted {
                    return service;
                }
                last = service;
            }
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for {name} {wanted}: {last}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

async fn act(app: &TestApp, who: &Who, action: &str) {
    let body = json!({ "action": action, "service": "bot" });
    let begun = app.post("/api/v1/fleet/servers/web/actions").json(&body).by(who).send().await;
    assert!(begun.status < 300, "{action}: {}", begun.text());
}

#[tokio::test]
async fn a_watched_process_is_started_watched_lost_and_stopped_with_its_own_commands() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    let (admin, operator) = (app.token(Role::Admin).await, app.token(Role::Operator).await);
    app.with_server("web", &sshd).await;
    let mark = format!("roundsman-watched-{}", std::process::id());
    let stop = format!("pkill -f '^{mark} 600$'");
    let body = json!({
        "name": "bot", "description": "Trades", "keywords": [format!("{mark} 600")],
        "start_command": format!("setsid nohup bash -c 'exec -a {mark} sleep 600' >/dev/null 2>&1 </dev/null &"),
        "stop_command": stop, "selector": { "servers": ["web"] },
    });
    app.post("/api/v1/watched-services").json(&body).by(&operator).send().await.expect(403);
    let made = app.post("/api/v1/watched-services").json(&body).by(&admin).send().await.expect(201);
    assert_eq!((made["name"].as_str(), made["sudo"].as_bool()), (Some("bot"), Some(false)));
    app.post("/api/v1/watched-services").json(&body).by(&admin).send().await.expect(409);
    let resting = in_state(&app, &operator, "bot", "inactive").await;
    assert!(resting["main_pid"].is_null() && resting["description"] == "Trades", "{resting}");

    act(&app, &operator, "start_watched_service").await;
    let running = in_state(&app, &operator, "bot", "active").await;
    assert!(
        running["main_pid"].as_u64() > Some(1) && running["memory_bytes"].as_u64() > Some(0),
        "{running}"
    );
    assert!(running["since_ms"].as_u64() > Some(1_600_000_000_000), "{running}");
    let page = app.get("/servers/web/services?search=bot").by(&admin).send().await.text();
    assert!(
        page.contains("action=stop_watched_service") && page.contains("Watched by its processes"),
        "{page}"
    );

    // It goes without having been stopped from here: that is a failure, and the server says so.
    let killed = std::process::Command::new("sh").args(["-c", &stop]).status().unwrap();
    assert!(killed.success());
    in_state(&app, &operator, "bot", "failed").await;
    app.until("web", "failed service", |state| {
        state.figures.failed_services.is_some_and(|failed| failed >= 1.0)
    })
    .await;

    act(&app, &operator, "start_watched_service").await;
    in_state(&app, &operator, "bot", "active").await;
    act(&app, &operator, "stop_watched_service").await;
    in_state(&app, &operator, "bot", "inactive").await;

    let app = app.restart().await;
    let kept = app.get("/api/v1/watched-services/bot").by(&admin).send().await.expect(200);
    assert_eq!(kept["stop_command"], json!(stop));
    let change = json!({ "stop_command": "", "description": "Rests" });
    let changed =
        app.call("PATCH", "/api/v1/watched-services/bot").json(&change).by(&admin).send().await.expect(200);
    assert!(changed["stop_command"].is_null() && changed["description"] == "Rests", "{changed}");
    let body = json!({ "action": "stop_watched_service", "service": "bot" });
    let refused = app.post("/api/v1/fleet/servers/web/actions").json(&body).by(&operator).send().await;
    assert!(refused.status >= 400 && refused.text().contains("no command to stop it"), "{}", refused.text());
    app.call("DELETE", "/api/v1/watched-services/bot").by(&admin).send().await.expect(204);
    app.get("/api/v1/watched-services/bot").by(&admin).send().await.expect(404);
    let audit = app.get("/api/v1/audit").by(&admin).send().await.expect(200).to_string();
    for action in ["watched-service.add", "watched-service.edit", "watched-service.remove"] {
        assert!(audit.contains(action), "{action}: {audit}");
    }
}

#[tokio::test]
async fn the_form_on_the_page_watches_a_service_and_tells_what_is_wrong() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    let admin = app.login(Role::Admin).await;
    app.with_server("web", &sshd).await;
    let send = |pairs: &[(&str, &str)]| app.post("/servers/web/watched").form(pairs).by(&admin).send();
    let wrong = send(&[("name", "two words"), ("keywords", "a"), ("start_command", "<b>x")]).await;
    assert_eq!(wrong.status, 422);
    assert!(wrong.text().contains("A name is made of letters") && wrong.text().contains("&#60;b&#62;x"));
    let unknown = send(&[("name", "bot"), ("groups", "nobody")]).await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.text().contains("no group"), "{}", unknown.text());
    let done = send(&[("name", "bot"), ("keywords", "one\r\ntwo words"), ("stop_command", "true")]).await;
    assert_eq!(done.status, 303, "{}", done.text());
    let listed = app.get("/api/v1/watched-services").by(&admin).send().await.expect(200);
    let bot = &listed["items"][0];
    assert_eq!(bot["keywords"], json!(["one", "two words"]));
    assert_eq!(bot["selector"], json!({ "servers": ["web"] }));
    let done = app.post("/servers/web/watched/bot/remove").form(&[]).by(&admin).send().await;
    assert_eq!(done.status, 303, "{}", done.text());
    let listed = app.get("/api/v1/watched-services").by(&admin).send().await.expect(200);
    assert_eq!(listed["items"], json!([]));
}

#[tokio::test]
async fn a_watched_service_is_changed_on_its_page_and_keeps_where_it_is_watched() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    let (admin, operator) = (app.login(Role::Admin).await, app.token(Role::Operator).await);
    app.with_server("web", &sshd).await;
    let body = json!({
        "name": "bot", "keywords": ["one", "<two>"], "stop_command": "true", "sudo": true,
        "selector": { "all": true, "environments": ["production"] },
    });
    app.post("/api/v1/watched-services").json(&body).by(&admin).send().await.expect(201);
    app.get("/servers/web/services?watch=bot").by(&operator).send().await.expect(403);
    app.get("/servers/web/services?watch=nobody").by(&admin).send().await.expect(404);
    let page = app.get("/servers/web/services?watch=bot").by(&admin).send().await.text();
    assert!(page.contains("Change how bot is watched") && page.contains("one\n&#60;two&#62;"), "{page}");
    assert!(page.contains("action=\"/servers/web/watched/bot\""), "{page}");
    let send = |pairs: &[(&str, &str)]| app.post("/servers/web/watched/bot").form(pairs).by(&admin).send();
    let wrong = send(&[("name", "two words"), ("keywords", "a")]).await;
    assert_eq!(wrong.status, 422);
    assert!(
        wrong.text().contains("A name is made of letters")
            && wrong.text().contains("/servers/web/watched/bot")
    );
    let done = send(&[("name", "robot"), ("keywords", "three"), ("start_command", "true")]).await;
    assert_eq!(done.status, 303, "{}", done.text());
    let robot = app.get("/api/v1/watched-services/robot").by(&admin).send().await.expect(200);
    assert_eq!((&robot["keywords"], &robot["sudo"]), (&json!(["three"]), &json!(false)));
    assert!(robot["stop_command"].is_null() && robot["start_command"] == "true", "{robot}");
    assert_eq!(robot["selector"], json!({ "all": true, "environments": ["production"] }));
    let send = |pairs: &[(&str, &str)]| app.post("/servers/web/watched/robot").form(pairs).by(&admin).send();
    assert_eq!(send(&[("name", "robot"), ("tags", "eu")]).await.status, 303);
    let robot = app.get("/api/v1/watched-services/robot").by(&admin).send().await.expect(200);
    assert_eq!(robot["selector"], json!({ "all": true, "tags": ["eu"], "environments": ["production"] }));
}

#[test]
fn the_command_line_watches_a_service() {
    let program = Program::served();
    program.run(&["service", "create", "bot"]).refused(1, &["say on which servers"]);
    let made = program.run(&[
        "service",
        "create",
        "bot",
        "--keyword",
        "bot.py",
        "--keyword",
        "--live",
        "--start-with",
        "/opt/bot/start",
        "--description",
        "Trades",
        "--all",
        "--tag",
        "bots",
    ]);
    assert!(made.well().stdout.contains("bot is watched"));
    let shown = program.run(&["service", "show", "bot"]).well().stdout;
    for words in [
        "Trades",
        "by bot.py, --live",
        "every server; tags bots",
        "/opt/bot/start",
        "Stop    none",
        "the login",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    program.run(&["service", "edit", "bot", "--name", "robot", "--sudo", "--stop-with", "pkill bot"]).well();
    let robot = program.run(&["service", "show", "robot", "--json"]).well().json();
    assert_eq!((&robot["sudo"], &robot["stop_command"]), (&json!(true), &json!("pkill bot")));
    assert_eq!(
        (&robot["keywords"], &robot["selector"]["tags"]),
        (&json!(["bot.py", "--live"]), &json!(["bots"]))
    );
    let listed = program.run(&["service", "list"]).well().stdout;
    assert!(listed.starts_with("SERVICE") && listed.contains("robot"), "{listed}");
    program.run(&["service", "delete", "robot", "--yes"]).well();
    program.run(&["service", "show", "robot"]).refused(1, &["robot"]);
}

#[tokio::test]
async fn services_named_at_registration_are_watched_by_their_programs() {
    let app = TestApp::start().await;
    let (enrol, viewer) = (app.enrol_token().await, app.token(Role::Viewer).await);
    let body = json!({ "hostname": "pushed", "services": ["nginx", "redis-server", "cron"] });
    let made = app.post("/api/v1/fleet/register").by(&enrol).json(&body).send().await.expect(200);
    let token = Who::Token(made["token"].as_str().unwrap().to_owned());
    let path = format!("/api/v1/fleet/servers/{}/heartbeat", made["id"].as_str().unwrap());
    let services = || async {
        let table = app.get("/api/v1/fleet/servers/pushed/services").by(&viewer).send().await.expect(200);
        let state = |one: &Value| {
            let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
            (text("name"), text("state"))
        };
        table["services"].as_array().unwrap().iter().map(state).collect::<Vec<_>>()
    };
    let pair = |name: &str, state: &str| (name.to_owned(), state.to_owned());
    let figures = json!({ "cpu_percent": 5.0, "memory_percent": 10.0 });
    app.post(&path).by(&token).json(&figures).send().await.expect(200);
    let unknown = [pair("nginx", "unknown"), pair("redis-server", "unknown"), pair("cron", "unknown")];
    assert_eq!(services().await, unknown);
    let process = |pid: u32, name: &str, line: &str| json!({ "pid": pid, "state": "S", "name": name, "command_line": line, "rss_bytes": 4096, "threads": 1 });
    let reading = json!({ "readings": [{
        "taken_at_ms": app.services.clock.now().as_millis(), "boot_id": "0d2f8b9e-5b1c-4c53-9d2e-000000000001",
        "uptime_ms": 5000, "ticks_per_second": 100, "memory": { "total_bytes": 1000, "available_bytes": 600 },
        "processes": [process(1, "init", "/sbin/init"), process(9, "redis-server", "/usr/bin/redis-server *:6379")],
        "services": [{ "name": "nginx", "state": "active", "sub_state": "running" }],
    }] });
    app.post(&path).by(&token).json(&reading).send().await.expect(200);
    let known = [pair("nginx", "active"), pair("redis-server", "active"), pair("cron", "inactive")];
    assert_eq!(services().await, known);
}
