//! Operations over many servers, batch by batch, against real sshd's: limits, gates, pauses, and what is done again.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::time::{Duration, Instant};

use roundsman::actions::Action;
use roundsman::model::{Caller, OperationStatus, Role, Selector, TargetStatus};
use roundsman::operations::{OperationError, OperationView, Order, Strategy, WhenBusy};
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
    let again = app.services.operations.retry(&admin(), &id, &[]).await.unwrap();
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
    let busy = |when_busy| Strategy { when_busy, ..Strategy::default() };
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
    assert!(page.contains("2 identical") && page.contains("2 batches"), "{page}");
    let wrong = post("/operations/review", filled("", String::new())).await;
    assert_eq!(wrong.status, 422);
}
