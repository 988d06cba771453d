//! Operations over many servers, batch by batch, against real sshd's: limits, gates, pauses, and what is done again.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::time::{Duration, Instant};

use roundsman::actions::Action;
use roundsman::fleet::DependencyInput;
use roundsman::model::{Caller, OperationStatus, Role, Selector, TargetStatus};
use roundsman::operations::{
    Again, OperationError, OperationView, Operations, Order, Policy, Strategy, WhenBusy,
};
use serde_json::json;
use support::app::TestApp;
use support::in_time;
use support::sshd::Sshd;
use tempfile::TempDir;

use TargetStatus::{Cancelled, Failed, Skipped, Succeeded, Unreachable};

fn admin() -> Caller {
    Caller::roundsman()
}

fn command(text: &str) -> Action {
    Action::run_command(text, false, Some(Duration::from_secs(60))).unwrap()
}

/// An app with servers web-0, web-1, … behind as many daemons.
async fn fleet(count: usize) -> (TestApp, Vec<Sshd>) {
    let app = TestApp::start().await;
    let mut daemons = Vec::new();
    for number in 0..count {
        let sshd = Sshd::start().await;
        app.with_server(&format!("web-{number}"), &sshd).await;
        daemons.push(sshd);
    }
    (app, daemons)
}

fn order(action: Action, strategy: Strategy) -> Order {
    let selector = Selector { all: true, ..Selector::default() };
    Order { action, selector, strategy, retry_of: None }
}

async fn get(app: &TestApp, id: &str) -> OperationView {
    app.services.operations.get(&admin(), id).await.unwrap()
}

async fn until(app: &TestApp, id: &str, what: &str, holds: impl Fn(&OperationView) -> bool) -> OperationView {
    in_time(what, async {
        loop {
            let view = get(app, id).await;
            if holds(&view) {
                return view;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

async fn ended(app: &TestApp, id: &str) -> OperationView {
    until(app, id, "the end of an operation", |view| {
        !matches!(view.operation.status, OperationStatus::Pending | OperationStatus::Running)
    })
    .await
}

async fn begin(app: &TestApp, order: Order) -> String {
    app.services.operations.begin(&admin(), order).await.unwrap().operation.id.to_string()
}

fn statuses(view: &OperationView) -> Vec<TargetStatus> {
    view.targets.iter().map(|target| target.target.status).collect()
}

fn one_by_one() -> Strategy {
    Strategy { batches: vec!["1".parse().unwrap()], ..Strategy::default() }
}

#[tokio::test]
async fn batches_go_one_after_the_other_and_the_failure_limit_stops_the_rest() {
    let (app, _daemons) = fleet(4).await;
    let shared = TempDir::new().unwrap();
    let seen = shared.path().join("seen");
    // The second server that runs it fails.
    let text = format!("echo x >>{0}; test $(wc -l <{0}) -ne 2", seen.display());
    let strategy = Strategy { max_failures: Some("1".parse().unwrap()), ..one_by_one() };
    let id = begin(&app, order(command(&text), strategy)).await;
    let view = ended(&app, &id).await;
    assert_eq!(statuses(&view), [Succeeded, Failed, Skipped, Skipped]);
    assert_eq!(view.operation.status, OperationStatus::Partial);
    assert_eq!(view.targets.iter().map(|one| one.target.batch).collect::<Vec<_>>(), [0, 1, 2, 3]);
    let why = view.targets[3].target.error.clone().unwrap();
    assert!(why.contains("1 server did not succeed, and the limit is 1"), "{why}");
    assert!(view.targets[1].target.started_at >= view.targets[0].target.completed_at);
    assert!(view.targets[3].target.started_at.is_none());
    assert_eq!(std::fs::read_to_string(&seen).unwrap(), "x\nx\n", "nothing reached the others");

    // What failed is tried again, then what was never sent.
    let again = app.services.operations.retry(&admin(), &id, &Again::default()).await.unwrap();
    assert_eq!(again.operation.retry_of.unwrap().to_string(), id);
    let again = ended(&app, &again.operation.id.to_string()).await;
    assert_eq!((again.targets.len(), statuses(&again)), (1, vec![Succeeded]));
    let rest = app.services.operations.resume(&admin(), &id).await.unwrap();
    let rest = ended(&app, &rest.operation.id.to_string()).await;
    assert_eq!(statuses(&rest), [Succeeded, Succeeded]);
}

#[tokio::test]
async fn the_failure_limit_lets_nobody_slip_in_where_one_runs_at_a_time() {
    let (app, _daemons) = fleet(3).await;
    let strategy =
        Strategy { parallelism: Some(1), max_failures: Some("1".parse().unwrap()), ..Strategy::default() };
    let id = begin(&app, order(command("exit 3"), strategy)).await;
    let view = ended(&app, &id).await;
    let count = |wanted| statuses(&view).iter().filter(|status| **status == wanted).count();
    assert_eq!((count(Failed), count(Skipped)), (1, 2));
}

#[tokio::test]
async fn a_paused_operation_sends_nothing_more_until_it_is_resumed() {
    let (app, _daemons) = fleet(3).await;
    let shared = TempDir::new().unwrap();
    let go = shared.path().join("go");
    let text = format!("until [ -e {} ]; do sleep 0.05; done", go.display());
    let id = begin(&app, order(command(&text), one_by_one())).await;
    until(&app, &id, "the first is sent", |view| statuses(view)[0] == TargetStatus::Sent).await;
    let paused = app.services.operations.pause(&admin(), &id).await.unwrap();
    assert!(paused.operation.paused_at.is_some());
    assert!(matches!(
        app.services.operations.pause(&admin(), &id).await.unwrap_err(),
        OperationError::AlreadyPaused
    ));
    std::fs::write(&go, "").unwrap();
    let view = until(&app, &id, "what runs ends", |view| statuses(view)[0] == Succeeded).await;
    assert_eq!(statuses(&view)[1..], [TargetStatus::Pending, TargetStatus::Pending]);
    app.services.operations.resume(&admin(), &id).await.unwrap();
    let view = ended(&app, &id).await;
    assert_eq!(view.operation.status, OperationStatus::Completed);
    assert!(view.operation.paused_at.is_none());
    assert!(matches!(
        app.services.operations.resume(&admin(), &id).await.unwrap_err(),
        OperationError::NothingToRepeat
    ));
}

#[tokio::test]
async fn a_cancelled_operation_ends_within_a_second_even_while_it_is_paused() {
    let (app, _daemons) = fleet(2).await;
    let id = begin(&app, order(command("sleep 60"), one_by_one())).await;
    until(&app, &id, "the first is sent", |view| statuses(view)[0] == TargetStatus::Sent).await;
    app.services.operations.pause(&admin(), &id).await.unwrap();
    let started = Instant::now();
    app.services.operations.cancel(&admin(), &id).await.unwrap();
    let view = ended(&app, &id).await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(statuses(&view), [Cancelled, Cancelled]);
    assert_eq!(view.operation.status, OperationStatus::Cancelled);
}

#[tokio::test]
async fn a_server_that_is_not_healthy_after_its_batch_stops_the_rest() {
    let (app, mut daemons) = fleet(3).await;
    // The first server is lost in the middle of its batch.
    let strategy = Strategy { health_gate_s: Some(3), ..one_by_one() };
    let id = begin(&app, order(command("sleep 60"), strategy)).await;
    until(&app, &id, "the first is sent", |view| statuses(view)[0] == TargetStatus::Sent).await;
    daemons[0].stop();
    let view = ended(&app, &id).await;
    assert_eq!(statuses(&view), [TargetStatus::Unknown, Skipped, Skipped]);
    let why = view.operation.halted.unwrap();
    assert!(why.contains("not healthy within 3 s") && why.contains("web-0"), "{why}");
}

#[tokio::test]
async fn healthy_servers_let_the_next_batch_begin() {
    let (app, _daemons) = fleet(2).await;
    let strategy = Strategy { health_gate_s: Some(60), ..one_by_one() };
    let id = begin(&app, order(command("true"), strategy)).await;
    assert_eq!(statuses(&ended(&app, &id).await), [Succeeded, Succeeded]);
}

#[tokio::test]
async fn a_server_removed_meanwhile_is_named_and_holds_up_nobody() {
    let (app, _daemons) = fleet(2).await;
    let shared = TempDir::new().unwrap();
    let go = shared.path().join("go");
    let text = format!("until [ -e {} ]; do sleep 0.05; done", go.display());
    let id = begin(&app, order(command(&text), one_by_one())).await;
    until(&app, &id, "the first is sent", |view| statuses(view)[0] == TargetStatus::Sent).await;
    app.services.fleet.remove(&admin(), "web-1").await.unwrap();
    std::fs::write(&go, "").unwrap();
    let view = ended(&app, &id).await;
    assert_eq!(statuses(&view), [Succeeded, Unreachable]);
    assert!(view.targets[1].target.error.as_ref().unwrap().contains("no server"));
}

#[tokio::test]
async fn another_operation_on_the_same_server_waits_or_is_refused_as_it_is_told() {
    let (app, _daemons) = fleet(1).await;
    let shared = TempDir::new().unwrap();
    let go = shared.path().join("go");
    let text = format!("until [ -e {} ]; do sleep 0.05; done", go.display());
    let first = begin(&app, order(command(&text), Strategy::default())).await;
    let busy = |when_busy| Strategy { when_busy: Some(when_busy), ..Strategy::default() };
    let refused =
        app.services.operations.begin(&admin(), order(command("true"), busy(WhenBusy::Refuse))).await;
    assert!(matches!(refused.unwrap_err(), OperationError::Busy { .. }));
    let queued = begin(&app, order(command("true"), busy(WhenBusy::Queue))).await;
    // One that shares goes by.
    let shares = begin(&app, order(command("id"), Strategy::default())).await;
    ended(&app, &shares).await;
    assert_eq!(statuses(&get(&app, &queued).await), [TargetStatus::Pending]);
    std::fs::write(&go, "").unwrap();
    let (first, queued) = (ended(&app, &first).await, ended(&app, &queued).await);
    assert!(queued.targets[0].target.started_at >= first.targets[0].target.completed_at);
}

#[tokio::test]
async fn operations_by_selector_answer_with_batches_clusters_and_what_was_meant() {
    let (app, _daemons) = fleet(3).await;
    let token = app.token(Role::Operator).await;
    let shared = TempDir::new().unwrap();
    let input = |more: serde_json::Value| {
        let mut body = json!({
            "operation_type": "run_command",
            "parameters": { "command": "echo $SSH_CONNECTION | cut -d' ' -f1; mkdir DIR 2>/dev/null && echo first" },
            "filter_criteria": { "all": true },
            "strategy": { "batches": [1, "100%"] },
        });
        let marker = shared.path().join("first").display().to_string();
        let text = body["parameters"]["command"].as_str().unwrap().replace("DIR", &marker);
        body["parameters"]["command"] = json!(format!("{text}; true"));
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let post = async |body: serde_json::Value| {
        app.post("/api/v1/fleet/operations").by(&token).json(&body).send().await
    };
    let plan = post(input(json!({ "dry_run": true }))).await.expect(200);
    assert_eq!(plan["batches"], json!([1, 2]));
    assert_eq!(plan["targets"].as_array().unwrap().len(), 3);
    let none = post(input(json!({ "filter_criteria": { "tags": ["nobody"] } }))).await.expect(422);
    assert!(none["detail"].as_str().unwrap().contains("no server is meant"), "{none}");
    post(input(json!({ "strategy": { "batches": ["0%"] } }))).await.expect(422);

    let begun = post(input(json!({}))).await.expect(202);
    let id = begun["id"].as_str().unwrap();
    ended(&app, id).await;
    let done = app.get(&format!("/api/v1/fleet/operations/{id}")).by(&token).send().await.expect(200);
    assert_eq!(done["filter_criteria"], json!({ "all": true }));
    assert_eq!(done["cluster_summary"], "2 identical, 1 differs");
    assert_eq!(done["clusters"][1]["server_names"], json!(["web-0"]));
    assert_eq!(done["clusters"][1]["diff"][1], "+first");
    assert_eq!((done["status"].as_str(), done["completed_servers"].as_u64()), (Some("completed"), Some(3)));
}

#[tokio::test]
async fn a_page_shows_what_would_be_sent_and_begins_exactly_that() {
    let (app, _daemons) = fleet(2).await;
    let who = app.login(Role::Operator).await;
    let filled = |command: &'static str, seal: String| {
        [
            ("operation_type", "run_command".to_owned()),
            ("command", command.to_owned()),
            ("server", "web-0, web-1".to_owned()),
        ]
        .into_iter()
        .chain([("batches", "1".to_owned()), ("when_busy", "share".to_owned()), ("seal", seal)])
        .collect::<Vec<_>>()
    };
    let post = async |path: &str, fields: Vec<(&'static str, String)>| {
        let pairs: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        app.post(path).by(&who).form(&pairs).send().await
    };
    let page = app.get("/operations/new?server=web-1").by(&who).send().await.text();
    assert!(page.contains("web-1") && page.contains("Nothing is sent before you have seen it"));
    let page = post("/operations/review", filled("echo hello", String::new())).await.text();
    assert!(
        page.contains("echo hello")
            && page.contains("Begin on 2 servers")
            && page.contains("batches of 1, then 1")
    );
    let seal = page.split("name=\"seal\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let another = post("/operations/new", filled("echo another", seal.clone())).await;
    assert_eq!(another.status, 409);
    assert!(app.services.operations.list(&admin(), 10, 0).await.unwrap().is_empty());
    let begun = post("/operations/new", filled("echo hello", seal)).await;
    assert_eq!(begun.status, 303, "{}", begun.text());
    let id = begun.header("location").rsplit('/').next().unwrap().to_owned();
    let view = ended(&app, &id).await;
    assert_eq!(statuses(&view), [Succeeded, Succeeded]);
    let page = app.get(&format!("/operations/{id}")).by(&who).send().await.text();
    assert!(page.contains("2 identical") && page.contains("Batch 2 of 2"), "{page}");
    let wrong = post("/operations/review", filled("", String::new())).await;
    assert_eq!(wrong.status, 422);
}

#[tokio::test]
async fn a_server_removed_while_its_command_runs_leaves_unknown_with_the_reason() {
    let (app, _daemons) = fleet(2).await;
    let shared = TempDir::new().unwrap();
    let go = shared.path().join("go");
    let text = format!("until [ -e {} ]; do sleep 0.05; done", go.display());
    let id = begin(&app, order(command(&text), Strategy::default())).await;
    let all_sent = |view: &OperationView| statuses(view).iter().all(|status| *status == TargetStatus::Sent);
    until(&app, &id, "both are sent", all_sent).await;
    app.services.fleet.remove(&admin(), "web-1").await.unwrap();
    until(&app, &id, "it is let go", |view| statuses(view)[1].is_final()).await;
    std::fs::write(&go, "").unwrap();
    let view = ended(&app, &id).await;
    assert_eq!(statuses(&view), [Succeeded, TargetStatus::Unknown]);
    let why = view.targets[1].target.error.clone().unwrap();
    assert!(why.contains("removed from Roundsman while it ran"), "{why}");
}

/// Makes web-0 need web-1, and web-1 need web-2.
async fn chained(app: &TestApp) {
    for (server, needs_server) in [("web-0", "web-1"), ("web-1", "web-2")] {
        let input = DependencyInput {
            server: server.to_owned(),
            service: "app".to_owned(),
            needs_server: needs_server.to_owned(),
            needs_service: "db".to_owned(),
        };
        app.services.fleet.add_dependency(&admin(), &input).await.unwrap();
    }
}

fn names(view: &OperationView) -> Vec<&str> {
    view.targets.iter().map(|one| one.target.server_name.as_str()).collect()
}

#[tokio::test]
async fn what_a_server_needs_goes_before_it_and_where_that_fails_it_gets_nothing() {
    let (app, daemons) = fleet(4).await;
    chained(&app).await;
    let strategy = || Strategy { by_dependencies: true, ..Strategy::default() };
    let id = begin(&app, order(command("sleep 0.2"), strategy())).await;
    let view = ended(&app, &id).await;
    assert_eq!(names(&view), ["web-2", "web-3", "web-1", "web-0"]);
    assert_eq!(view.targets.iter().map(|one| one.target.batch).collect::<Vec<_>>(), [0, 0, 1, 2]);
    for (before, after) in [(0, 2), (1, 2), (2, 3)] {
        let (before, after) = (&view.targets[before].target, &view.targets[after].target);
        assert!(after.started_at >= before.completed_at, "{before:?} {after:?}");
    }

    let fails = format!("case \"$SSH_CONNECTION\" in *' {}') exit 3;; esac", daemons[2].port());
    let id = begin(&app, order(command(&fails), strategy())).await;
    let view = ended(&app, &id).await;
    assert_eq!(statuses(&view), [Failed, Succeeded, Skipped, Skipped]);
    let why = |index: usize| view.targets[index].target.error.clone().unwrap();
    assert!(why(2).contains("it needs web-2, which did not succeed"), "{}", why(2));
    assert!(why(3).contains("it needs web-1, which got nothing either"), "{}", why(3));
    assert!(view.targets[2].record.is_none());
    // What was skipped can be gone on with, and keeps its order.
    let rest = app.services.operations.resume(&admin(), &id).await.unwrap();
    let rest = ended(&app, &rest.operation.id.to_string()).await;
    assert_eq!((names(&rest), statuses(&rest)), (vec!["web-1", "web-0"], vec![Succeeded, Succeeded]));
}

#[tokio::test]
async fn the_order_of_dependencies_is_shown_before_and_goes_with_no_other_batches() {
    let (app, _daemons) = fleet(3).await;
    chained(&app).await;
    let token = app.token(Role::Operator).await;
    let body = |strategy: serde_json::Value| {
        json!({
            "operation_type": "run_command",
            "parameters": { "command": "true" },
            "filter_criteria": { "all": true },
            "strategy": strategy,
            "dry_run": true,
        })
    };
    let post =
        async |strategy| app.post("/api/v1/fleet/operations").by(&token).json(&body(strategy)).send().await;
    let plan = post(json!({ "by_dependencies": true })).await.expect(200);
    assert_eq!(plan["batches"], json!([1, 1, 1]));
    assert_eq!(plan["targets"][0]["server_name"], "web-2");
    let refused = post(json!({ "by_dependencies": true, "batches": [1] })).await.expect(422);
    assert_eq!(refused["field"], "by_dependencies");
    let fields =
        [("operation_type", "run_command"), ("command", "id"), ("all", "true"), ("by_dependencies", "true")];
    let who = app.login(Role::Operator).await;
    let page = app.post("/operations/review").by(&who).form(&fields).send().await.text();
    assert!(page.contains("batches of 1, then 1, then 1"), "{page}");
}

#[tokio::test]
async fn a_pause_that_cannot_be_written_has_no_effect() {
    let (app, _daemons) = fleet(2).await;
    let shared = TempDir::new().unwrap();
    let go = shared.path().join("go");
    let text = format!("until [ -e {} ]; do sleep 0.05; done", go.display());
    let id = begin(&app, order(command(&text), one_by_one())).await;
    until(&app, &id, "the first is sent", |view| statuses(view)[0] == TargetStatus::Sent).await;
    let breaks = "CREATE TRIGGER full BEFORE UPDATE OF paused_at ON operations WHEN NEW.paused_at IS NOT NULL \
                  BEGIN SELECT RAISE(ABORT, 'the disk is full'); END";
    let broken = app.store.write(move |tx| Ok::<_, roundsman::store::StoreError>(tx.execute_batch(breaks)?));
    broken.await.unwrap();
    let refused = app.services.operations.pause(&admin(), &id).await.unwrap_err();
    assert!(matches!(refused, OperationError::Store(_)), "{refused:?}");
    std::fs::write(&go, "").unwrap();
    let view = ended(&app, &id).await;
    assert_eq!(statuses(&view), [Succeeded, Succeeded]);
    let audit = app.services.auth.audit(&admin(), 20, 0).await.unwrap();
    assert!(!audit.iter().any(|entry| entry.action == "operation.pause"));
}

#[tokio::test]
async fn what_happens_on_a_busy_server_is_what_is_configured_unless_it_is_said() {
    let (app, _daemons) = fleet(1).await;
    let policy = Policy { when_busy: WhenBusy::Refuse, ..Policy::default() };
    let clock = std::sync::Arc::clone(&app.services.clock);
    let (fleet, archives) = (app.services.fleet.clone(), tempfile::tempdir().unwrap());
    let started = Operations::start(app.store.clone(), fleet, clock, policy, archives.path().to_owned());
    let operations = started.await.unwrap();
    let first = operations.begin(&admin(), order(command("sleep 60"), Strategy::default())).await.unwrap();
    assert_eq!(first.operation.strategy["when_busy"], "refuse");
    let refused = operations.begin(&admin(), order(command("true"), Strategy::default())).await;
    assert!(matches!(refused.unwrap_err(), OperationError::Busy { .. }));
    let shares = Strategy { when_busy: Some(WhenBusy::Share), ..Strategy::default() };
    let second = operations.begin(&admin(), order(command("true"), shares)).await.unwrap();
    ended(&app, &second.operation.id.to_string()).await;
    operations.stop().await;
    ended(&app, &first.operation.id.to_string()).await;
}

#[tokio::test]
async fn operations_are_found_by_state_action_server_person_and_time() {
    let (app, _daemons) = fleet(2).await;
    let token = app.token(Role::Operator).await;
    let run = async |server: &str, text: &str| {
        let order = Order {
            selector: Selector::of_servers(vec![server.to_owned()]),
            ..order(command(text), Strategy::default())
        };
        let id = begin(&app, order).await;
        ended(&app, &id).await.operation
    };
    let (good, bad) = (run("web-0", "true").await, run("web-1", "false").await);
    let (good_id, bad_id) = (good.id.to_string(), bad.id.to_string());
    let found = async |query: &str| {
        let path = format!("/api/v1/fleet/operations?{query}");
        let page = app.get(&path).by(&token).send().await.expect(200);
        let ids =
            page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned());
        ids.map(|id| if id == good_id { "good" } else { "bad" }).collect::<Vec<_>>().join(" ")
    };
    assert_ne!(good_id, bad_id);
    assert_eq!(found("").await, "bad good");
    assert_eq!(found("status=failed,partial").await, "bad");
    assert_eq!(found("action=restart_service").await, "");
    assert_eq!(found("action=run_command&server=web-0").await, "good");
    assert_eq!(found("initiated_by=roundsman&limit=1").await, "bad");
    assert_eq!(found("initiated_by=anna").await, "");
    let at = bad.created_at.as_millis() + 1;
    assert_eq!(found(&format!("from={at}")).await, "");
    assert_eq!(found(&format!("to={at}&status=completed")).await, "good");
    // What was done to a server that is gone is found by its id.
    let id = app.state("web-0").server.id;
    app.services.fleet.remove(&admin(), "web-0").await.unwrap();
    assert_eq!(found(&format!("server={id}")).await, "good");
    let refused = app.get("/api/v1/fleet/operations?status=done").by(&token).send().await.expect(422);
    assert_eq!(refused["field"], "status");
    app.get("/api/v1/fleet/operations?server=nobody").by(&token).send().await.expect(404);
}
