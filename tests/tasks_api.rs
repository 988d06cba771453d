//! Tasks over the API, on the older addresses, on the pages, and what they tell over the WebSocket.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::sync::Arc;

use roundsman::clock::ManualClock;
use roundsman::model::{Caller, Role, Selector, Timestamp};
use roundsman::tasks::TaskEdit;
use serde_json::{Value, json};
use support::app::{TestApp, Who};
use support::in_time;
use support::sshd::Sshd;

const TASKS: &str = "/api/v1/tasks";

async fn app() -> (TestApp, Who) {
    let clock = Arc::new(ManualClock::at(Timestamp::parse("2026-11-21T08:00:00Z").unwrap()));
    let app = TestApp::start_at(clock).await;
    app.with_inactive("web-1").await;
    let operator = app.token(Role::Operator).await;
    (app, operator)
}

fn nightly() -> Value {
    json!({
        "name": "Nightly restart", "cron": "30 3 * * mon-fri", "time_zone": "europe/berlin",
        "operation_type": "restart_service", "parameters": { "service": "nginx" }, "server_ids": ["web-1"],
    })
}

async fn create(app: &TestApp, who: &Who, body: &Value) -> Value {
    app.post(TASKS).by(who).json(body).send().await.expect(201)
}

fn with(changes: Value) -> Value {
    let mut body = nightly();
    for (name, value) in changes.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

#[tokio::test]
async fn a_task_is_made_read_changed_and_removed_by_name_or_id() {
    let (app, who) = app().await;
    let made = create(&app, &who, &nightly()).await;
    assert_eq!(
        (&made["time_zone"], &made["schedule"]),
        (&json!("Europe/Berlin"), &json!("At 03:30, Monday to Friday"))
    );
    assert_eq!(made["next_runs"].as_array().unwrap().len(), 5);
    assert_eq!(made["next_runs"][0], "2026-11-23T02:30:00.000Z");
    assert_eq!(
        (&made["overlap"], &made["missed"], &made["retries"]),
        (&json!("skip"), &json!("skip"), &json!(0))
    );
    assert_eq!(
        (&made["owner"], &made["title"]),
        (&json!("token:test operator"), &json!("Restart the service nginx"))
    );
    assert_eq!(made["server_names"], json!(["web-1"]));
    let by_name = "/api/v1/tasks/Nightly%20restart";
    let by_id = format!("{TASKS}/{}", made["id"].as_str().unwrap());
    for path in [by_name, by_id.as_str()] {
        assert_eq!(app.get(path).by(&who).send().await.expect(200)["id"], made["id"]);
    }
    let change =
        json!({ "cron": "@daily", "parameters": { "service": "redis" }, "overlap": "queue", "jitter_s": 60 });
    let changed = app.call("PATCH", by_name).by(&who).json(&change).send().await.expect(200);
    assert_eq!((&changed["parameters"]["name"], &changed["overlap"]), (&json!("redis"), &json!("queue")));
    assert_eq!((&changed["server_ids"], &changed["name"]), (&made["server_ids"], &made["name"]));
    let off = app.post(&format!("{by_id}/disable")).by(&who).send().await.expect(200);
    assert_eq!((&off["enabled"], &off["next_runs"]), (&json!(false), &json!([])));
    assert_eq!(app.post(&format!("{by_id}/enable")).by(&who).send().await.expect(200)["enabled"], true);
    create(&app, &who, &with(json!({ "name": "another" }))).await;
    let list = app.get("/api/v1/tasks?limit=1").by(&who).send().await.expect(200);
    assert_eq!((&list["items"][0]["name"], &list["next_cursor"]), (&json!("Nightly restart"), &json!("1")));
    app.call("DELETE", by_name).by(&who).send().await.expect(204);
    app.get(&by_id).by(&who).send().await.expect(404);
    let admin = app.token(Role::Admin).await;
    let audit = app.get("/api/v1/audit?limit=100").by(&admin).send().await.expect(200);
    let done: Vec<&str> =
        audit["items"].as_array().unwrap().iter().filter_map(|entry| entry["action"].as_str()).collect();
    for action in ["task.create", "task.edit", "task.disable", "task.enable", "task.remove"] {
        assert!(done.contains(&action), "{action} is not in {done:?}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_task_is_named_and_nothing_is_stored() {
    let (app, who) = app().await;
    for (changes, field, says) in [
        (json!({ "name": "a/b" }), "name", "letters"),
        (json!({ "name": null }), "name", "missing"),
        (json!({ "cron": "0 0 30 2 *" }), "cron", "never runs"),
        (json!({ "cron": "0 0 * * * *" }), "cron", "seconds"),
        (json!({ "cron": "61 * * * *" }), "cron", "minute"),
        (json!({ "cron": "*,".repeat(200) }), "cron", "at most"),
        (json!({ "time_zone": "Berlin" }), "time_zone", "Europe/Berlin"),
        (json!({ "time_zone": "Mars/Olympus" }), "time_zone", "no time zone"),
        (json!({ "operation_type": "format_disk" }), "operation_type", "restart_service"),
        (json!({ "parameters": { "service": "a;b" } }), "service", "service name"),
        (json!({ "server_ids": [] }), "server_ids", "which servers"),
        (json!({ "jitter_s": 4000 }), "jitter_s", "3600"),
        (json!({ "retries": 11 }), "retries", "at most 10"),
        (json!({ "missed_limit": 0 }), "missed_limit", "100"),
        (json!({ "missed_grace_s": 700_000 }), "missed_grace_s", "604800"),
        (json!({ "strategy": { "health_gate_s": 0 } }), "health_gate_s", "seconds"),
        (json!({ "description": "x".repeat(501) }), "description", "500"),
        (
            json!({ "operation_type": "run_command", "parameters": { "command": "x --password=hunter2" } }),
            "parameters",
            "secret",
        ),
    ] {
        let refused = app.post(TASKS).by(&who).json(&with(changes.clone())).send().await.expect(422);
        assert_eq!(refused["field"], field, "{changes}: {refused}");
        assert!(refused["detail"].as_str().unwrap().contains(says), "{changes}: {refused}");
        assert!(!refused.to_string().contains("hunter2"));
    }
    for changes in [json!({ "overlap": "maybe" }), json!({ "unknown": 1 }), json!({ "missed": 5 })] {
        app.post(TASKS).by(&who).json(&with(changes)).send().await.expect(422);
    }
    app.post(TASKS).by(&who).json(&with(json!({ "server_ids": ["ghost"] }))).send().await.expect(404);
    assert_eq!(app.get(TASKS).by(&who).send().await.expect(200)["items"], json!([]));
    create(&app, &who, &nightly()).await;
    let taken = app.post(TASKS).by(&who).json(&nightly()).send().await.expect(409);
    assert_eq!(taken["field"], "name");
}

#[tokio::test]
async fn a_schedule_is_explained_before_it_is_saved() {
    let (app, _) = app().await;
    let viewer = app.token(Role::Viewer).await;
    let ask = |query: &'static str| app.get(&format!("/api/v1/tasks/schedule?{query}")).by(&viewer).send();
    let found = ask("cron=30%202%20*%20*%20*&time_zone=Europe/Berlin").await.expect(200);
    assert_eq!((&found["words"], &found["time_zone"]), (&json!("At 02:30"), &json!("Europe/Berlin")));
    assert_eq!(
        found["next_runs"][0],
        json!({ "at": "2026-11-22T01:30:00.000Z", "local": "Sun 2026-11-22 02:30 +01:00" })
    );
    assert_eq!(found["next_runs"].as_array().unwrap().len(), 5);
    assert_eq!(ask("cron=@daily").await.expect(200)["time_zone"], "UTC");
    assert_eq!(ask("cron=").await.expect(422)["field"], "cron");
    assert_eq!(ask("cron=@daily&time_zone=nowhere").await.expect(422)["field"], "time_zone");
}

#[tokio::test]
async fn viewers_change_nothing_operators_no_task_of_an_administrator_and_strangers_see_none() {
    let (app, operator) = app().await;
    let (viewer, admin) = (app.token(Role::Viewer).await, app.token(Role::Admin).await);
    app.post(TASKS).by(&viewer).json(&nightly()).send().await.expect(403);
    let deploy = with(json!({ "name": "agents", "operation_type": "deploy_agent", "parameters": {} }));
    app.post(TASKS).by(&operator).json(&deploy).send().await.expect(403);
    create(&app, &admin, &deploy).await;
    create(&app, &operator, &nightly()).await;
    for (who, task) in [(&viewer, "Nightly%20restart"), (&operator, "agents")] {
        let path = format!("{TASKS}/{task}");
        assert_eq!(app.get(&path).by(who).send().await.status, 200);
        for (method, path) in [
            ("PATCH", path.clone()),
            ("DELETE", path.clone()),
            ("POST", format!("{path}/run")),
            ("POST", format!("{path}/enable")),
            ("POST", format!("{path}/disable")),
        ] {
            app.call(method, &path).by(who).json(&json!({ "enabled": false })).send().await.expect(403);
        }
    }
    let edited =
        app.call("PATCH", "/api/v1/tasks/Nightly%20restart").by(&admin).json(&json!({ "retries": 1 }));
    assert_eq!(edited.send().await.expect(200)["owner"], "token:test admin", "who saves it answers for it");
    let organization = app.another_organization().await;
    let stranger = Caller { organization, ..Caller::roundsman() };
    assert!(app.services.tasks.list(&stranger).await.unwrap().is_empty());
    assert!(app.services.tasks.get(&stranger, "agents").await.is_err());
    assert!(app.services.tasks.run_now(&stranger, "agents").await.is_err());
    let foreign = TaskEdit {
        name: Some("mine".to_owned()),
        cron: Some("@daily".to_owned()),
        action: Some(roundsman::actions::Action::run_command("true", false, None).unwrap()),
        selector: Some(Selector::of_servers(vec!["web-1".to_owned()])),
        ..TaskEdit::default()
    };
    assert!(app.services.tasks.create(&stranger, foreign).await.is_err(), "a server of somebody else");
}

#[tokio::test]
async fn a_run_by_hand_is_told_over_the_websocket_and_its_history_leads_to_the_operation() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let operator = app.token(Role::Operator).await;
    let address = app.listen().await;
    let mut socket = app.socket(address, "/api/v1/events", &operator).await;
    let body = with(
        json!({ "name": "look", "operation_type": "run_command", "parameters": { "command": "echo seen" } }),
    );
    let made = create(&app, &operator, &body).await;
    let run = app.post("/api/v1/tasks/look/run").by(&operator).send().await.expect(202);
    assert_eq!((&run["cause"], &run["started_by"]), (&json!("manual"), &json!("token:test operator")));
    let mut told = Vec::new();
    in_time("the events of the task", async {
        while told.len() < 3 {
            let event: Value = serde_json::from_str(&socket.text().await.unwrap()).unwrap();
            if event["type"].as_str().unwrap().starts_with("task.") {
                assert_eq!((&event["task_id"], &event["name"]), (&made["id"], &json!("look")));
                told.push((event["type"].clone(), event["operation_id"].clone()));
            }
        }
    })
    .await;
    let operation = run["operation_id"].clone();
    assert_eq!(
        told,
        [
            (json!("task.created"), Value::Null),
            (json!("task.started"), operation.clone()),
            (json!("task.completed"), operation.clone()),
        ]
    );
    let runs = app.get("/api/v1/tasks/look/runs").by(&operator).send().await.expect(200);
    assert_eq!(
        (&runs["items"][0]["status"], &runs["items"][0]["operation_id"]),
        (&json!("completed"), &operation)
    );
    let path = format!("/api/v1/fleet/operations/{}", operation.as_str().unwrap());
    assert_eq!(app.get(&path).by(&operator).send().await.expect(200)["results"][0]["stdout"], "seen\n");
}

#[tokio::test]
async fn a_run_that_cannot_begin_says_why_and_the_history_keeps_it() {
    let (app, who) = app().await;
    create(&app, &who, &nightly()).await;
    let refused = app.post("/api/v1/tasks/Nightly%20restart/run").by(&who).send().await;
    assert_eq!(refused.status, 409, "{}", refused.text());
    let runs = app.get("/api/v1/tasks/Nightly%20restart/runs").by(&who).send().await.expect(200);
    assert_eq!(
        (&runs["items"][0]["status"], &runs["items"][0]["operation_id"]),
        (&json!("failed"), &Value::Null)
    );
    assert!(!runs["items"][0]["reason"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn older_programs_make_change_list_and_remove_tasks_of_the_local_server() {
    let app = TestApp::start().await;
    let operator = app.token(Role::Operator).await;
    let body = json!({
        "name": "restart-nginx", "cron_expression": "0 3 * * *", "action": "restart", "service_name": "nginx", "enabled": true,
    });
    let refused = app.post("/api/tasks").by(&operator).json(&body).send().await.expect(422);
    assert!(refused["detail"].as_str().unwrap().contains("not enrolled"), "{refused}");
    app.services.fleet.ensure_local("here").await.unwrap();
    assert_eq!(app.post("/api/tasks").json(&body).send().await.status, 401);
    let made = app.post("/api/tasks").by(&operator).json(&body).send().await.expect(201);
    for (name, value) in body.as_object().unwrap() {
        assert_eq!(&made[name], value, "{name}");
    }
    let list = app.get("/api/tasks").by(&operator).send().await.expect(200);
    assert_eq!((list.as_array().unwrap().len(), &list[0]["name"]), (1, &json!("restart-nginx")));
    let newer = app.get("/api/v1/tasks/restart-nginx").by(&operator).send().await.expect(200);
    assert_eq!(newer["server_names"], json!(["here"]));
    let path = "/api/tasks/restart-nginx";
    let change = json!({ "action": "stop", "enabled": false });
    let changed = app.call("PUT", path).by(&operator).json(&change).send().await.expect(200);
    assert_eq!((&changed["action"], &changed["service_name"]), (&json!("stop"), &json!("nginx")));
    assert_eq!((&changed["enabled"], &changed["next_run"]), (&json!(false), &Value::Null));
    for (body, field) in [
        (
            json!({ "name": "x", "cron_expression": "0 3 * * *", "action": "explode", "service_name": "a" }),
            "action",
        ),
        (json!({ "name": "x", "cron_expression": "0 3 * * *", "action": "start" }), "service_name"),
        (json!({ "name": "x", "action": "start", "service_name": "a" }), "cron"),
        (json!({ "name": "x", "cron_expression": "often", "action": "start", "service_name": "a" }), "cron"),
    ] {
        let refused = app.post("/api/tasks").by(&operator).json(&body).send().await.expect(422);
        assert_eq!(refused["field"], field, "{refused}");
    }
    assert_eq!(app.call("DELETE", path).by(&operator).send().await.expect(200)["success"], true);
    app.call("PUT", path).by(&operator).json(&change).send().await.expect(404);
}

#[tokio::test]
async fn the_pages_make_show_switch_and_remove_a_task_without_a_script() {
    let (app, _) = app().await;
    let browser = app.login(Role::Operator).await;
    let page = app.get("/tasks/new").by(&browser).send().await;
    assert!(page.status == 200 && page.text().contains("next five runs stand here"), "{}", page.text());
    let form = [
        ("name", "Clean up"),
        ("cron", "0 4 * * sun"),
        ("time_zone", "America/New_York"),
        ("operation_type", "run_command"),
        ("command", "find /tmp -mtime +9 -delete"),
        ("server", "web-1"),
        ("overlap", "queue"),
        ("missed", "once"),
        ("retries", "2"),
        ("batches", "1,50%"),
        ("enabled", "true"),
    ];
    let mut look = form.to_vec();
    look.push(("look", "1"));
    let looked = app.post("/tasks/new").by(&browser).form(&look).send().await;
    assert_eq!(looked.status, 200);
    assert!(looked.text().contains("At 04:00, Sunday") && looked.text().contains("2026-11-22 04:00 -05:00"));
    let mut wrong = form.to_vec();
    wrong[1].1 = "0 0 31 2 *";
    let refused = app.post("/tasks/new").by(&browser).form(&wrong).send().await;
    assert_eq!(refused.status, 422);
    assert!(
        refused.text().contains("never runs") && refused.text().contains("Clean up"),
        "{}",
        refused.text()
    );
    let made = app.post("/tasks/new").by(&browser).form(&form).send().await;
    assert_eq!(made.status, 303, "{}", made.text());
    let place = made.header("location").split('?').next().unwrap().to_owned();
    let page = app.get(&place).by(&browser).send().await.text();
    for text in
        ["Clean up", "At 04:00, Sunday", "find /tmp -mtime +9 -delete", "up to 2 retries", "web-1", "Run now"]
    {
        assert!(page.contains(text), "{text}: {page}");
    }
    let edit = app.get(&format!("{place}/edit")).by(&browser).send().await.text();
    assert!(edit.contains("value=\"1,50%\"") && edit.contains("value=\"America/New_York\""), "{edit}");
    let off = app.post(&format!("{place}/disable")).by(&browser).form(&[("list", "1")]).send().await;
    assert!(off.header("location").starts_with("/tasks?done="), "{}", off.header("location"));
    assert!(app.get("/tasks").by(&browser).send().await.text().contains("disabled"));
    let run = app.post(&format!("{place}/run")).by(&browser).form(&[]).send().await;
    assert_eq!(run.status, 303, "{}", run.text());
    assert!(run.header("location").starts_with("/operations/"), "{}", run.header("location"));
    let operation = app.get(run.header("location")).by(&browser).send().await.text();
    assert!(
        operation.contains(&format!("A run of the task <a href=\"{place}\">Clean up</a>")),
        "{operation}"
    );
    let viewer = app.login(Role::Viewer).await;
    let seen = app.get(&place).by(&viewer).send().await.text();
    assert!(!seen.contains("Run now") && seen.contains("At 04:00"), "{seen}");
    assert_eq!(app.post(&format!("{place}/remove")).by(&viewer).form(&[]).send().await.status, 403);
    assert_eq!(app.post(&format!("{place}/remove")).by(&browser).form(&[]).send().await.status, 303);
    assert_eq!(app.get(&place).by(&browser).send().await.status, 404);
}

#[tokio::test]
async fn the_form_has_a_field_for_everything_that_a_task_was_given() {
    let (app, _) = app().await;
    let admin = app.login(Role::Admin).await;
    let made = create(
        &app,
        &app.token(Role::Admin).await,
        &with(json!({
            "operation_type": "run_command", "server_ids": [],
            "parameters": { "command": "id", "run_as": "ops", "container": { "engine": "podman", "name": "web" },
                "environment": { "STAGE": "two words" }, "detached": true },
            "filter_criteria": { "all": true, "health": ["critical"], "regions": ["eu", "us"] },
            "strategy": { "by_dependencies": true },
        })),
    )
    .await;
    let place = format!("/tasks/{}/edit", made["id"].as_str().unwrap());
    let page = app.get(&place).by(&admin).send().await.text();
    let mut form = Vec::new();
    for (name, value) in
        [("run_as", "ops"), ("container", "web"), ("name", "Nightly restart"), ("time_zone", "Europe/Berlin")]
    {
        assert!(page.contains(&format!("name=\"{name}\" value=\"{value}\"")), "{name}: {page}");
        form.push((name, value));
    }
    for (name, value) in [("region", "eu"), ("region", "us"), ("health", "critical"), ("detached", "true")] {
        assert!(page.contains(&format!("name=\"{name}\" value=\"{value}\" checked")), "{name}: {page}");
        form.push((name, value));
    }
    assert!(page.contains("STAGE=two words") && page.contains("value=\"podman\" selected"), "{page}");
    assert!(page.contains("name=\"by_dependencies\" value=\"true\" checked"), "{page}");
    form.extend([
        ("cron", "@daily"),
        ("operation_type", "run_command"),
        ("command", "id -un"),
        ("variables", "STAGE=two words"),
        ("container_engine", "podman"),
        ("by_dependencies", "true"),
        ("all", "true"),
        ("enabled", "true"),
    ]);
    let saved = app.post(&place).by(&admin).form(&form).send().await;
    assert_eq!(saved.status, 303, "{}", saved.text());
    let path = format!("{TASKS}/{}", made["id"].as_str().unwrap());
    let after = app.get(&path).by(&admin).send().await.expect(200);
    assert_eq!(after["parameters"]["command"], "id -un");
    for same in ["run_as", "container", "environment", "detached"] {
        assert_eq!(after["parameters"][same], made["parameters"][same], "{same}");
    }
    assert_eq!(after["strategy"]["by_dependencies"], true);
    assert_eq!(
        after["filter_criteria"],
        json!({ "all": true, "health": ["critical"], "regions": ["eu", "us"] })
    );
}

#[tokio::test]
async fn a_task_of_any_kind_is_made_by_the_form_which_shows_the_fields_of_the_kind() {
    let (app, _) = app().await;
    let operator = app.login(Role::Operator).await;
    let asked = app.get("/tasks/new?operation_type=update_configuration").by(&operator).send().await.text();
    for name in ["path", "text", "validate", "reload", "permissions"] {
        assert!(asked.contains(&format!("name=\"{name}\"")), "{name}: {asked}");
    }
    let form = [
        ("name", "Message of the day"),
        ("cron", "@daily"),
        ("time_zone", "UTC"),
        ("operation_type", "update_configuration"),
        ("path", "/etc/motd"),
        ("text", "Hello {{ name }}\r\nsecond line"),
        ("template", "true"),
        ("validate", "test -s /etc/motd"),
        ("server", "web-1"),
    ];
    // Without a script a button asks for the fields of another kind; what is no schedule yet does not matter to it.
    let look = [("look", "fields"), ("operation_type", "run_script"), ("script", "id"), ("cron", "nonsense")];
    let looked = app.post("/tasks/new").by(&operator).form(&look).send().await;
    assert_eq!(looked.status, 200);
    assert!(looked.text().contains("name=\"interpreter\"") && !looked.text().contains("name=\"validate\""));
    let mut wrong = form.to_vec();
    wrong[4].1 = "relative";
    let refused = app.post("/tasks/new").by(&operator).form(&wrong).send().await;
    assert_eq!(refused.status, 422);
    assert!(
        refused.text().contains("is-wrong") && refused.text().contains("second line"),
        "{}",
        refused.text()
    );
    let made = app.post("/tasks/new").by(&operator).form(&form).send().await;
    assert_eq!(made.status, 303, "{}", made.text());
    let id = made.header("location").split(['/', '?']).nth(2).unwrap().to_owned();
    let task = app.get(&format!("{TASKS}/{id}")).by(&operator).send().await.expect(200);
    assert_eq!(task["operation_type"], "update_configuration");
    assert_eq!(task["parameters"]["content"], "Hello {{ name }}\nsecond line\n");
    assert_eq!(task["parameters"]["validate"], "test -s /etc/motd");
    let edit = app.get(&format!("/tasks/{id}/edit")).by(&operator).send().await.text();
    assert!(edit.contains("Hello {{ name }}\nsecond line") && edit.contains("test -s /etc/motd"), "{edit}");
    let forbidden =
        [("operation_type", "deploy_agent"), ("name", "x"), ("cron", "@daily"), ("server", "web-1")];
    let refused = app.post("/tasks/new").by(&operator).form(&forbidden).send().await;
    assert_eq!(refused.status, 422, "an operator is not offered what only administrators may do");
}
