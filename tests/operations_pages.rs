//! Beginning operations from pages and following them, as a browser without scripts asks: each step for itself.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use roundsman::actions::Action;
use roundsman::fleet::GroupInput;
use roundsman::model::{Caller, OperationStatus, Role};
use roundsman::operations::{NewOperation, OperationView};
use serde_json::Value;
use support::app::{Answer, TestApp, Who};
use support::in_time;
use support::sshd::Sshd;

/// Three servers to which nothing can be done, and an operator.
async fn fleet() -> (TestApp, Who) {
    let app = TestApp::start().await;
    for name in ["web-1", "web-2", "db-1"] {
        app.with_inactive(name).await;
    }
    let operator = app.login(Role::Operator).await;
    (app, operator)
}

async fn send(app: &TestApp, path: &str, who: &Who, fields: &[(&str, &str)]) -> Answer {
    app.post(path).by(who).form(fields).send().await
}

async fn step(app: &TestApp, who: &Who, to: &str, fields: &[(&str, &str)]) -> (u16, String) {
    let answer = send(app, "/operations/review", who, &[fields, &[("to", to)]].concat()).await;
    (answer.status, answer.text())
}

fn hidden(name: &str, value: &str) -> String {
    format!("type=\"hidden\" name=\"{name}\" value=\"{value}\"")
}

fn seal_of(page: &str) -> String {
    page.split("name=\"seal\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

async fn ended(app: &TestApp, id: &str) -> OperationView {
    in_time("the end of an operation", async {
        loop {
            let view = app.services.operations.get(&Caller::roundsman(), id).await.unwrap();
            if !matches!(view.operation.status, OperationStatus::Pending | OperationStatus::Running) {
                return view;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

#[tokio::test]
async fn steps_are_left_in_both_directions_and_nothing_is_lost() {
    let (app, operator) = fleet().await;
    let input = GroupInput { name: "front".to_owned(), ..GroupInput::default() };
    app.services.fleet.create_group(&Caller::roundsman(), &input).await.unwrap();
    let members = ["web-1".to_owned(), "web-2".to_owned()];
    app.services.fleet.add_to_group(&Caller::roundsman(), "front", &members).await.unwrap();
    let said = [
        ("operation_type", "restart_service"),
        ("group", "front"),
        ("service", "nginx"),
        ("command", "typed before the kind was changed"),
        ("batches", "1"),
    ];
    let (status, page) = step(&app, &operator, "action", &said).await;
    assert_eq!(status, 200);
    assert!(
        page.contains("value=\"restart_service\" required checked") && page.contains("2 servers"),
        "{page}"
    );
    for (name, value) in &said[1..] {
        assert!(page.contains(&hidden(name, value)), "{name}: {page}");
    }
    let (_, page) = step(&app, &operator, "targets", &said).await;
    assert!(page.contains("name=\"group\" value=\"front\" checked") && page.contains(">web-2</a>"), "{page}");
    assert!(!page.contains(&hidden("group", "front")) && page.contains(&hidden("batches", "1")), "{page}");
    assert!(page.contains("nothing can be done to 2 of them") && page.contains("inactive"), "{page}");
    let (_, page) = step(&app, &operator, "parameters", &said).await;
    assert!(page.contains("name=\"service\" value=\"nginx\"") && page.contains(&hidden("group", "front")));
    let (_, page) = step(&app, &operator, "strategy", &said).await;
    assert!(
        page.contains("name=\"batches\" value=\"1\"") && page.contains("Restart the service nginx"),
        "{page}"
    );
    let preset = [&said[..], &[("preset", "one-by-one")]].concat();
    let (_, page) = step(&app, &operator, "confirm", &preset).await;
    assert!(page.contains("4. How") && page.contains("name=\"max_failures\" value=\"1\""), "{page}");
    let (status, page) = step(&app, &operator, "confirm", &said).await;
    assert_eq!(status, 200);
    assert!(
        page.contains("Nothing is sent to 2") && !page.contains("formaction=\"/operations/new\" data-busy")
    );
}

#[tokio::test]
async fn the_way_stops_at_the_first_step_that_does_not_hold_and_says_why() {
    let (app, operator) = fleet().await;
    let web = ("server", "web-1");
    for (fields, heading, words, expected) in [
        (vec![web], "1. What", "Choose what is to be done", 422),
        (vec![("operation_type", "deploy_agent"), web], "1. What", "Choose what is to be done", 422),
        (vec![("operation_type", "run_command")], "2. Which servers", "Say which servers", 422),
        (vec![("operation_type", "run_command"), ("server", "ghost")], "2. Which servers", "ghost", 404),
        (
            vec![("operation_type", "run_command"), ("tag", "nobody")],
            "2. Which servers",
            "No server is meant",
            422,
        ),
        (vec![("operation_type", "run_command"), ("health", "odd")], "2. Which servers", "odd", 422),
        (vec![("operation_type", "run_command"), web], "3. Details", "Command is missing", 422),
        (
            vec![("operation_type", "stop_service"), web, ("service", "$(id)")],
            "3. Details",
            "is not a service",
            422,
        ),
        (
            vec![("operation_type", "run_command"), web, ("command", "id"), ("batches", "0")],
            "4. How",
            "neither",
            422,
        ),
        (
            vec![("operation_type", "run_command"), web, ("command", "id"), ("pause_s", "x")],
            "4. How",
            "number",
            422,
        ),
    ] {
        let (status, page) = step(&app, &operator, "confirm", &fields).await;
        assert!(
            status == expected && page.contains(heading) && page.contains(words),
            "{status} {fields:?}: {page}"
        );
        assert!(page.contains("web-1") || !fields.contains(&web), "what was said is still there: {page}");
    }
    let asked =
        app.get("/operations/new?operation_type=run_command&server=ghost").by(&operator).send().await.text();
    assert!(asked.contains("2. Which servers") && asked.contains("ghost"), "{asked}");
    let anew = app.get("/operations/review").by(&operator).send().await;
    assert_eq!((anew.status, anew.header("location")), (303, "/operations/new"));
    let viewer = app.login(Role::Viewer).await;
    assert_eq!(step(&app, &viewer, "confirm", &[]).await.0, 403);
    assert_eq!(app.get("/operations/new").by(&viewer).send().await.status, 403);
}

#[tokio::test]
async fn what_is_dangerous_is_begun_only_after_it_was_typed() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    app.with_server("web-1", &sshd).await;
    app.until("web-1", "read", |state| state.facts.is_some()).await;
    let admin = app.login(Role::Admin).await;
    let said = [("operation_type", "remove_agent"), ("server", "web-1")];
    let (_, page) = step(&app, &admin, "confirm", &said).await;
    assert!(page.contains("data-must-equal=\"web-1\""), "{page}");
    let seal = seal_of(&page);
    let begin = async |typed: &str| {
        let fields = [&said[..], &[("seal", seal.as_str()), ("confirm", typed)]].concat();
        send(&app, "/operations/new", &admin, &fields).await
    };
    for typed in ["", "web-2", "1"] {
        let refused = begin(typed).await;
        assert_eq!(refused.status, 422);
        assert!(refused.text().contains("Type web-1 to confirm; nothing was sent"), "{}", refused.text());
    }
    assert!(app.services.operations.list(&Caller::roundsman(), 10, 0).await.unwrap().is_empty());
    let begun = begin("web-1").await;
    assert_eq!(begun.status, 303, "{}", begun.text());
    ended(&app, begun.header("location").rsplit('/').next().unwrap()).await;
}

#[tokio::test]
async fn an_open_page_hears_only_of_what_is_opened_on_it() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    app.with_server("web-1", &sshd).await;
    app.until("web-1", "read", |state| state.facts.is_some()).await;
    for number in 0..21 {
        app.with_inactive(&format!("idle-{number}")).await;
    }
    let operator = app.login(Role::Operator).await;
    let address = app.listen().await;
    let gate = app.data().join("gate");
    let text =
        format!("echo first; while [ ! -e {} ]; do sleep 0.1; echo tick; done; echo second", gate.display());
    let servers = (0..21).map(|number| format!("idle-{number}")).chain(["web-1".to_owned()]).collect();
    let action = Action::run_command(&text, false, None).unwrap();
    let view =
        app.services.operations.begin(&Caller::roundsman(), NewOperation { action, servers }).await.unwrap();
    let id = view.operation.id.to_string();
    let mut socket = app.socket(address, &format!("/live?view=operation:{id}"), &operator).await;
    let fragment = async |socket: &mut support::socket::Socket, words: &str| {
        in_time(words, async {
            loop {
                let message: Value = serde_json::from_str(&socket.text().await.unwrap()).unwrap();
                let parts = message["fragments"].as_array().cloned().unwrap_or_default();
                let own = parts.iter().find(|part| part["id"] == "target-21");
                let html = own.and_then(|part| part["html"].as_str()).unwrap_or_default().to_owned();
                if html.contains(words) {
                    return html;
                }
            }
        })
        .await
    };
    let closed = fragment(&mut socket, "Running").await;
    assert!(!closed.contains("first") && !closed.contains("target-body"), "{closed}");
    let part = app.get(&format!("/operations/{id}/targets/21")).by(&operator).send().await;
    assert!(part.status == 200 && part.text().contains("target-body"), "{}", part.text());
    assert_eq!(app.get(&format!("/operations/{id}/targets/22")).by(&operator).send().await.status, 404);
    // What is no message of ours changes nothing and ends nothing.
    socket.say(b"not json").await;
    socket.say(format!("{{\"open\":[{}]}}", vec!["1"; 2000].join(",")).as_bytes()).await;
    socket.say(b"{\"open\":[21]}").await;
    fragment(&mut socket, "first\ntick").await;
    std::fs::write(&gate, "").unwrap();
    let open = fragment(&mut socket, "exit status 0").await;
    assert!(open.contains("tick\nsecond"), "{open}");
    ended(&app, &id).await;
    let page =
        app.get(&format!("/operations/{id}?open=21&status=succeeded")).by(&operator).send().await.text();
    assert!(page.contains("tick\nsecond") && !page.contains(">idle-1<"), "{page}");
}

#[tokio::test]
async fn the_list_of_operations_is_narrowed_by_its_address() {
    let (app, operator) = fleet().await;
    let begin = async |text: &str, server: &str| {
        let new = NewOperation {
            action: Action::run_command(text, false, None).unwrap(),
            servers: vec![server.to_owned(), "db-1".to_owned()],
        };
        let view = app.services.operations.begin(&Caller::roundsman(), new).await.unwrap();
        ended(&app, &view.operation.id.to_string()).await
    };
    begin("echo first", "web-1").await;
    begin("echo second", "web-2").await;
    let list = async |query: &str| {
        let answer = app.get(&format!("/operations{query}")).by(&operator).send().await;
        let text = answer.text();
        (answer.status, text.contains("Run echo first"), text.contains("Run echo second"), text)
    };
    for (query, first, second) in [
        ("", true, true),
        ("?server=web-1", true, false),
        ("?server=db-1&status=failed&action=run_command", true, true),
        ("?status=completed", false, false),
        ("?action=restart_service", false, false),
        ("?initiated_by=nobody", false, false),
        ("?server=&status=&action=&initiated_by=", true, true),
    ] {
        let (status, has_first, has_second, text) = list(query).await;
        assert_eq!((status, has_first, has_second), (200, first, second), "{query}: {text}");
    }
    let (status, .., text) = list("?server=ghost").await;
    assert!(status == 404 && text.contains("ghost") && text.contains("No operation fits"), "{text}");
    assert_eq!(list("?status=odd").await.0, 422);
}

#[tokio::test]
async fn a_secret_variable_is_named_early_and_its_value_stands_on_no_page() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    app.with_server("web-1", &sshd).await;
    app.until("web-1", "read", |state| state.facts.is_some()).await;
    let operator = app.login(Role::Operator).await;
    let said = [
        ("operation_type", "run_command"),
        ("command", "printf '%s %s' \"$STAGE\" \"${#KEY}\""),
        ("variables", "STAGE=two words"),
        ("secret_names", "KEY"),
        ("server", "web-1"),
    ];
    let (_, page) = step(&app, &operator, "parameters", &said).await;
    assert!(
        page.contains("name=\"secret_names\" value=\"KEY\"") && page.contains("id=\"more-details\" open")
    );
    let (_, page) = step(&app, &operator, "confirm", &said).await;
    assert!(
        page.contains("type=\"password\" name=\"secret.KEY\"")
            && page.contains(&hidden("secret_names", "KEY"))
    );
    let seal = seal_of(&page);
    let begin = async |more: &[(&str, &str)]| {
        let fields = [&said[..], &[("seal", seal.as_str())], more].concat();
        send(&app, "/operations/new", &operator, &fields).await
    };
    let missing = begin(&[]).await;
    assert_eq!(missing.status, 422);
    assert!(missing.text().contains("Give the value of the secret variable KEY"), "{}", missing.text());
    let stale = [&said[..], &[("seal", "old"), ("secret.KEY", "hunter2-hunter2")]].concat();
    let stale = send(&app, "/operations/new", &operator, &stale).await;
    assert_eq!(stale.status, 409);
    assert!(!stale.text().contains("hunter2"), "{}", stale.text());
    let begun = begin(&[("secret.KEY", "hunter2-hunter2")]).await;
    assert_eq!(begun.status, 303, "{}", begun.text());
    let id = begun.header("location").rsplit('/').next().unwrap().to_owned();
    let view = ended(&app, &id).await;
    assert_eq!(view.targets[0].record.as_ref().unwrap().stdout, "two words 15");
    let shown = app.get(&format!("/operations/{id}")).by(&operator).send().await.text();
    assert!(shown.contains("two words 15") && !shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn a_command_from_the_page_of_a_server_runs_detached_where_it_is_said() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    app.with_server("web-1", &sshd).await;
    app.until("web-1", "read", |state| state.facts.is_some()).await;
    let operator = app.login(Role::Operator).await;
    let page = app.get("/servers/web-1/commands").by(&operator).send().await.text();
    assert!(page.contains("name=\"detached\""), "{page}");
    let fields = [("action", "run_command"), ("command", "echo alone"), ("detached", "true")];
    let begun = send(&app, "/servers/web-1/act", &operator, &fields).await;
    assert_eq!(begun.status, 303, "{}", begun.text());
    let view = ended(&app, begun.header("location").rsplit('/').next().unwrap()).await;
    assert_eq!(view.operation.parameters["detached"], true);
    assert_eq!(view.targets[0].record.as_ref().unwrap().stdout, "alone\n");
    let refused = [("action", "run_command"), ("command", "id"), ("detached", "true"), ("timeout_s", "x")];
    let refused = send(&app, "/servers/web-1/act", &operator, &refused).await;
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("name=\"detached\" value=\"true\" checked"), "{}", refused.text());
}

#[tokio::test]
async fn what_happens_where_operations_meet_is_set_by_administrators_while_it_runs() {
    const SETTING: &str = "/api/v1/settings/operations";
    let (app, operator) = fleet().await;
    let admin = app.login(Role::Admin).await;
    let set = async |word: &str, who: &Who| {
        send(&app, "/settings/operations", who, &[("when_busy", word)]).await.status
    };
    assert_eq!(app.get(SETTING).by(&operator).send().await.expect(200)["when_busy"], "share");
    assert_eq!((set("queue", &operator).await, set("wait", &admin).await), (403, 422));
    assert_eq!(set("queue", &admin).await, 303);
    assert_eq!(app.get(SETTING).by(&operator).send().await.expect(200)["when_busy"], "queue");
    let page = app.get("/settings").by(&admin).send().await.text();
    assert!(page.contains("name=\"when_busy\" value=\"queue\" checked"), "{page}");
    let put = app.call("PUT", SETTING).by(&admin).json(&serde_json::json!({ "when_busy": "refuse" }));
    assert_eq!(put.send().await.expect(200)["when_busy"], "refuse");
    let action = Action::run_command("id", false, None).unwrap();
    let both = vec!["web-1".to_owned(), "web-2".to_owned()];
    let new = NewOperation { action, servers: both };
    let begun = app.services.operations.begin(&Caller::roundsman(), new).await.unwrap();
    assert_eq!(begun.operation.strategy["when_busy"], "refuse", "an operation that says nothing itself");
    let audit = app.get("/api/v1/audit").by(&admin).send().await.text();
    assert!(audit.contains("refuse in place of queue"), "{audit}");
}

/// Begins what the last step of the wizard shows, and waits for its end.
async fn begun(app: &TestApp, who: &Who, fields: &[(&str, &str)]) -> OperationView {
    let (status, page) = step(app, who, "confirm", fields).await;
    assert_eq!(status, 200, "{page}");
    let seal = seal_of(&page);
    let sealed = [fields, &[("seal", seal.as_str()), ("confirm", "web-1")]].concat();
    let answer = send(app, "/operations/new", who, &sealed).await;
    assert_eq!(answer.status, 303, "{}", answer.text());
    ended(app, answer.header("location").rsplit('/').next().unwrap()).await
}

async fn acted_on() -> (TestApp, Sshd, Who) {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    app.with_server("web-1", &sshd).await;
    app.until("web-1", "read", |state| state.facts.is_some()).await;
    let operator = app.login(Role::Operator).await;
    (app, sshd, operator)
}

fn targets(view: &OperationView) -> Vec<&str> {
    view.targets.iter().map(|one| one.target.server_name.as_str()).collect()
}

#[tokio::test]
async fn what_is_done_again_is_chosen_on_the_page_by_result_and_by_server() {
    let (app, _sshd, operator) = acted_on().await;
    for name in ["web-2", "web-3"] {
        app.with_inactive(name).await;
    }
    let all = [("operation_type", "run_command"), ("command", "id"), ("all", "true")];
    let first = begun(&app, &operator, &all).await;
    let path = format!("/operations/{}", first.operation.id);
    let page = app.get(&path).by(&operator).send().await.text();
    assert!(page.contains("name=\"state\" value=\"unreachable\" checked"), "{page}");
    assert!(page.contains("name=\"server\" value=\"web-1\"") && page.contains("Do it again on these"));
    let retry = async |fields: &[(&str, &str)]| {
        send(&app, &format!("{path}/retry"), &operator, &[fields, &[("chosen", "true")]].concat()).await
    };
    for (fields, expected) in [
        (vec![("server", "web-1")], vec!["web-1"]),
        (vec![("state", "unreachable"), ("server", "web-2")], vec!["web-2"]),
        (vec![("state", "unreachable")], vec!["web-2", "web-3"]),
        (
            vec![("state", "unreachable"), ("state", "succeeded"), ("server", "web-1, web-3")],
            vec!["web-1", "web-3"],
        ),
    ] {
        let answer = retry(&fields).await;
        assert_eq!(answer.status, 303, "{fields:?}: {}", answer.text());
        let again = ended(&app, answer.header("location").rsplit('/').next().unwrap()).await;
        let mut names = targets(&again);
        names.sort_unstable();
        assert_eq!((names, again.operation.retry_of), (expected, Some(first.operation.id)), "{fields:?}");
    }
    for (fields, status, words) in [
        (vec![], 409, "No server of this operation"),
        (vec![("state", "failed")], 409, "No server of this operation"),
        (vec![("server", "ghost")], 422, "is no server of this operation"),
        (vec![("state", "odd")], 422, "odd"),
    ] {
        let refused = retry(&fields).await;
        assert_eq!(refused.status, status, "{fields:?}");
        assert!(refused.text().contains(words), "{fields:?}: {}", refused.text());
    }
}

#[tokio::test]
async fn processes_are_looked_for_by_their_name_and_ended_only_after_the_server_was_typed() {
    let (app, _sshd, operator) = acted_on().await;
    let place = tempfile::tempdir().unwrap();
    let name = format!("wz-{}", std::process::id());
    std::os::unix::fs::symlink("/usr/bin/sleep", place.path().join(&name)).unwrap();
    let mut process = std::process::Command::new(place.path().join(&name)).arg("86395").spawn().unwrap();
    let fields = [("operation_type", "kill_process"), ("server", "web-1"), ("process", name.as_str())];
    let look = [&fields[..], &[("compare", "true")]].concat();
    let (_, page) = step(&app, &operator, "confirm", &look).await;
    assert!(!page.contains("data-must-equal"), "looking ends nothing: {page}");
    let looked = begun(&app, &operator, &look).await;
    let listed = &looked.targets[0].record.as_ref().unwrap().stdout;
    assert!(listed.starts_with(&format!("{} ", process.id())) && listed.contains("86395"), "{listed}");
    assert!(process.try_wait().unwrap().is_none());
    let (_, page) = step(&app, &operator, "confirm", &fields).await;
    assert!(page.contains("data-must-equal=\"web-1\""), "{page}");
    let ended = begun(&app, &operator, &fields).await;
    assert_eq!(ended.operation.status, OperationStatus::Completed);
    process.wait().unwrap();
    let again = begun(&app, &operator, &fields).await;
    assert_eq!(again.targets[0].record.as_ref().unwrap().exit_status, Some(3), "there is none any more");
}

#[tokio::test]
async fn a_file_of_any_bytes_goes_through_every_step_of_the_wizard() {
    let (app, _sshd, operator) = acted_on().await;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    // What a form makes longest: in the plain alphabet each sign of this would be escaped.
    let bytes = vec![0xff_u8; 1024 * 1024];
    let packed = format!("{}_w==", "_".repeat(bytes.len() / 3 * 4));
    let fields = [
        ("operation_type", "upload_file"),
        ("server", "web-1"),
        ("path", path.to_str().unwrap()),
        ("content_base64", packed.as_str()),
    ];
    let (status, page) = step(&app, &operator, "strategy", &fields).await;
    assert_eq!(status, 200);
    assert!(page.contains(&hidden("content_base64", &packed)));
    let (_, page) = step(&app, &operator, "parameters", &fields).await;
    assert!(page.contains("1,048,576 bytes are chosen"));
    let stored = begun(&app, &operator, &fields).await;
    assert_eq!(stored.operation.status, OperationStatus::Completed);
    assert!(std::fs::read(&path).unwrap() == bytes, "the file is another");
    let twice = [&fields[..], &[("text", "and text")]].concat();
    let (status, page) = step(&app, &operator, "confirm", &twice).await;
    assert!(status == 422 && page.contains("given twice"), "{status}");
}
