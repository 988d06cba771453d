//! Actions and operations against real sshd's: what is sent is recorded before it is sent, and the record says the truth.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use roundsman::actions::Action;
use roundsman::model::{Caller, OperationStatus, Role, ServiceVerb, Signal, TargetStatus};
use roundsman::operations::{NewOperation, OperationError, OperationView};
use serde_json::{Value, json};
use support::app::TestApp;
use support::processes::lives;
use support::program::Program;
use support::sshd::Sshd;
use support::{PATIENCE, eventually, in_time};

fn admin() -> Caller {
    Caller::roundsman()
}

fn command(text: &str) -> Action {
    Action::run_command(text, false, Some(Duration::from_secs(60))).unwrap()
}

/// Begins an action on servers and waits for its end.
async fn done(app: &TestApp, action: Action, servers: &[&str]) -> OperationView {
    let servers = servers.iter().map(|name| (*name).to_owned()).collect();
    let begun = app.services.operations.begin(&admin(), NewOperation { action, servers }).await.unwrap();
    ended(app, &begun).await
}

async fn ended(app: &TestApp, begun: &OperationView) -> OperationView {
    let id = begun.operation.id.to_string();
    in_time("the end of an operation", async {
        loop {
            let view = app.services.operations.get(&admin(), &id).await.unwrap();
            if !matches!(view.operation.status, OperationStatus::Pending | OperationStatus::Running) {
                return view;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Waits until the command of the only target was sent.
async fn sent(app: &TestApp, begun: &OperationView) {
    let id = begun.operation.id.to_string();
    in_time("the command is sent", async {
        while app.services.operations.get(&admin(), &id).await.unwrap().targets[0].target.status
            != TargetStatus::Sent
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

fn start_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_command_answers_with_output_status_record_and_audit_entry() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let view = done(&app, command("echo out; echo err >&2; exit 7"), &["web-1"]).await;
    assert_eq!(view.operation.status, OperationStatus::Failed);
    let record = view.targets[0].record.clone().unwrap();
    assert_eq!((record.stdout.as_str(), record.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(record.exit_status, Some(7));
    assert!(record.duration_ms.is_some());
    assert_eq!(record.command, "echo out; echo err >&2; exit 7");
    let records = app.services.operations.records(&admin(), "web-1", 10, 0).await.unwrap();
    assert_eq!(records, [record]);
    let audit = app.services.auth.audit(&admin(), 10, 0).await.unwrap();
    let entry = audit.iter().find(|entry| entry.action == "run_command").unwrap();
    assert_eq!((entry.subject.as_str(), entry.result.as_str()), ("web-1", "failed"));
    assert!(entry.detail.contains("exit status 7") && entry.detail.contains("echo out"), "{}", entry.detail);
    assert_eq!(sshd.logins(), 1, "actions share the connection of the readings");
}

#[tokio::test]
async fn a_process_is_killed_by_pid_and_start_time_and_a_reused_pid_is_not() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let mut child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
    let (pid, started) = (child.id(), start_ticks(child.id()));

    let other = Action::kill_process(pid.into(), started + 1, Signal::Kill).unwrap();
    let view = done(&app, other, &["web-1"]).await;
    assert_eq!(view.operation.status, OperationStatus::Failed);
    assert!(view.targets[0].record.as_ref().unwrap().stderr.contains("another one by now"));
    assert!(child.try_wait().unwrap().is_none());

    let meant = Action::kill_process(pid.into(), started, Signal::Kill).unwrap();
    let view = done(&app, meant, &["web-1"]).await;
    assert_eq!(view.operation.status, OperationStatus::Completed);
    child.wait().unwrap();
}

#[tokio::test]
async fn a_command_that_never_ends_is_ended_on_the_server_at_its_limit() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let endless =
        Action::run_command("echo $$; exec sleep 600", false, Some(Duration::from_secs(1))).unwrap();
    let view = done(&app, endless, &["web-1"]).await;
    let record = view.targets[0].record.clone().unwrap();
    assert_eq!(view.targets[0].target.status, TargetStatus::Failed);
    assert!(record.error.unwrap().contains("did not end within 1 s"));
    let pid: u32 = record.stdout.trim().parse().unwrap();
    eventually("the process is gone", || !lives(pid)).await;
}

#[tokio::test]
async fn output_without_end_is_kept_to_the_limit_and_counted() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let gigabyte = command("head -c 100000000 /dev/zero | tr '\\0' x; echo; yes | head -c 100000000");
    let view = done(&app, gigabyte, &["web-1"]).await;
    let record = view.targets[0].record.clone().unwrap();
    assert_eq!(record.exit_status, Some(0));
    assert_eq!(record.stdout.len(), 1024 * 1024);
    assert_eq!(record.stdout_dropped_bytes, 200_000_001 - 1024 * 1024);
}

#[tokio::test]
async fn a_command_that_waits_for_input_reads_its_end() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let view = done(&app, command("cat; echo read"), &["web-1"]).await;
    assert_eq!(view.targets[0].record.as_ref().unwrap().stdout, "read\n");
}

#[tokio::test]
async fn a_command_that_a_signal_ends_says_which() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let view = done(&app, command("kill -s USR1 $$"), &["web-1"]).await;
    let record = view.targets[0].record.clone().unwrap();
    assert_eq!((record.exit_status, record.signal.as_deref()), (None, Some("USR1")));
    assert_eq!(view.targets[0].target.status, TargetStatus::Failed);
}

#[tokio::test]
async fn hostile_output_is_recorded_as_text_only() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let view = done(&app, command("printf '\\033[2J<script>\\000\\377\\n'"), &["web-1"]).await;
    let stdout = view.targets[0].record.clone().unwrap().stdout;
    assert!(
        stdout.contains("<script>") && !stdout.contains('\u{1b}') && !stdout.contains('\0'),
        "{stdout:?}"
    );
}

#[tokio::test]
async fn unreachable_failed_and_succeeded_are_told_apart_over_several_servers() {
    let (good, mut dead) = (Sshd::start().await, Sshd::start().await);
    let app = TestApp::start().await;
    app.with_server("good", &good).await;
    app.with_server("dead", &dead).await;
    dead.kill_sessions();
    dead.stop();
    app.until("dead", "unreachable", |state| state.health == roundsman::model::Health::Unreachable).await;
    let view = done(&app, command("true"), &["good", "dead", "good"]).await;
    assert_eq!(view.targets.len(), 2, "a server named twice is acted on once");
    assert_eq!(view.operation.status, OperationStatus::Partial);
    let status = |name: &str| {
        view.targets.iter().find(|target| target.target.server_name == name).unwrap().target.status
    };
    assert_eq!((status("good"), status("dead")), (TargetStatus::Succeeded, TargetStatus::Unreachable));
}

#[tokio::test]
async fn a_server_lost_in_the_middle_leaves_unknown_and_not_failed() {
    let mut sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let new = NewOperation { action: command("sleep 30"), servers: vec!["web-1".to_owned()] };
    let begun = app.services.operations.begin(&admin(), new).await.unwrap();
    sent(&app, &begun).await;
    sshd.kill_sessions();
    sshd.stop();
    let view = ended(&app, &begun).await;
    assert_eq!(view.targets[0].target.status, TargetStatus::Unknown);
    assert!(view.targets[0].target.error.as_ref().unwrap().contains("may have run"));
}

#[tokio::test]
async fn the_same_action_is_not_begun_twice_at_once() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let new = || NewOperation { action: command("sleep 30"), servers: vec!["web-1".to_owned()] };
    let begun = app.services.operations.begin(&admin(), new()).await.unwrap();
    let again = app.services.operations.begin(&admin(), new()).await;
    assert!(matches!(again, Err(OperationError::AlreadyRunning { .. })), "{again:?}");
    let id = begun.operation.id.to_string();
    app.services.operations.cancel(&admin(), &id).await.unwrap();
    let view = ended(&app, &begun).await;
    assert_eq!(view.operation.status, OperationStatus::Cancelled);
    app.services.operations.begin(&admin(), NewOperation { action: command("true"), ..new() }).await.unwrap();
}

#[tokio::test]
async fn live_output_is_there_while_the_command_runs() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let new = NewOperation { action: command("echo first; sleep 30"), servers: vec!["web-1".to_owned()] };
    let begun = app.services.operations.begin(&admin(), new).await.unwrap();
    let id = begun.operation.id.to_string();
    in_time("live output", async {
        loop {
            let view = app.services.operations.get(&admin(), &id).await.unwrap();
            if view.targets[0].record.as_ref().is_some_and(|record| record.stdout == "first\n") {
                assert_eq!(view.operation.status, OperationStatus::Running);
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    app.services.operations.cancel(&admin(), &id).await.unwrap();
    let view = ended(&app, &begun).await;
    assert_eq!(view.operation.status, OperationStatus::Cancelled);
    assert_eq!(view.targets[0].record.as_ref().unwrap().stdout, "first\n", "what was printed stays");
}

#[tokio::test]
async fn the_api_acts_for_operators_and_refuses_viewers_and_shell_signs() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let (viewer, operator) = (app.token(Role::Viewer).await, app.token(Role::Operator).await);
    let path = "/api/v1/fleet/servers/web-1/actions";
    let body = json!({ "action": "run_command", "command": "echo hi", "timeout_s": 20 });
    app.post(path).by(&viewer).json(&body).send().await.expect(403);
    let begun = app.post(path).by(&operator).json(&body).send().await.expect(202);
    let id = begun["id"].as_str().unwrap().to_owned();
    let operation = in_time("the end", async {
        loop {
            let found =
                app.get(&format!("/api/v1/fleet/operations/{id}")).by(&viewer).send().await.expect(200);
            if found["status"] == "completed" {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(operation["results"][0]["stdout"], "hi\n");
    assert_eq!(operation["operation_type"], "run_command");
    assert_eq!((&operation["total_servers"], &operation["completed_servers"]), (&json!(1), &json!(1)));

    for service in ["a;id", "$(id)", "-h", "a b"] {
        let body = json!({ "action": "restart_service", "service": service });
        let refused = app.post(path).by(&operator).json(&body).send().await.expect(422);
        assert_eq!(refused["field"], "service");
    }
    let unknown = json!({ "operation_type": "run_command", "server_ids": ["nobody"], "parameters": { "command": "id" } });
    app.post("/api/v1/fleet/operations").by(&operator).json(&unknown).send().await.expect(404);
    let nowhere =
        json!({ "operation_type": "run_command", "server_ids": [], "parameters": { "command": "id" } });
    app.post("/api/v1/fleet/operations").by(&operator).json(&nowhere).send().await.expect(422);
    let dry = json!({ "operation_type": "run_command", "server_ids": ["web-1"], "parameters": { "command": "id" }, "dry_run": true });
    let planned = app.post("/api/v1/fleet/operations").by(&operator).json(&dry).send().await.expect(200);
    assert_eq!(planned["targets"][0]["command"], "id");
    let list = app.get("/api/v1/fleet/operations").by(&viewer).send().await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "a dry run leaves no operation");
    let commands = app.get("/api/v1/fleet/servers/web-1/commands").by(&viewer).send().await.expect(200);
    assert_eq!(commands["items"][0]["exit_status"], 0);
}

#[tokio::test]
async fn this_machine_is_not_acted_on_without_the_switch() {
    let app = TestApp::start().await;
    app.services.fleet.ensure_local("here").await.unwrap();
    let new = NewOperation { action: command("id"), servers: vec!["here".to_owned()] };
    let refused = app.services.operations.begin(&admin(), new).await;
    assert!(refused.unwrap_err().to_string().contains("allow_local_actions"));
}

#[tokio::test]
async fn a_service_is_restarted_by_the_command_that_was_shown() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    app.until("web-1", "known", |state| state.facts.is_some()).await;
    let new = NewOperation {
        action: Action::service("no-such-thing", ServiceVerb::Restart).unwrap(),
        servers: vec!["web-1".to_owned()],
    };
    let planned = app.services.operations.plan(&admin(), &new).unwrap();
    match &planned[0].plan {
        // On a machine with a service manager the service does not exist, and the failure is its own.
        Ok(plan) => {
            let view = done(&app, new.action, &["web-1"]).await;
            assert_eq!(view.targets[0].target.command.as_ref(), Some(&plan.command));
            assert_eq!(view.targets[0].target.status, TargetStatus::Failed);
        }
        Err(reason) => assert!(reason.contains("service manager"), "{reason}"),
    }
}

#[tokio::test]
async fn after_a_kill_of_the_program_the_record_says_that_the_end_was_not_seen() {
    let sshd = Sshd::start().await;
    let mut program = Program::start(&["--interval", "1s"]).await;
    let token = program.token("admin").await;
    let keys = program.get("/api/v1/keys", &token).await.1;
    sshd.authorize(keys["items"][0]["public_key"].as_str().unwrap());
    let target = format!("root@127.0.0.1:{}", sshd.port());
    let added = program.cli(&["add", &target, "--name", "web-1", "--accept-new"]).await;
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let body = json!({ "action": "run_command", "command": "sleep 600", "timeout_s": 600 });
    let http = support::program::client();
    let begun: Value = http
        .post(format!("http://{}/api/v1/fleet/servers/web-1/actions", program.address))
        .bearer_auth(&token)
        .json(&body)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let path = format!("/api/v1/fleet/operations/{}", begun["id"].as_str().unwrap());
    tokio::time::timeout(PATIENCE, async {
        while program.get(&path, &token).await.1["results"][0]["status"] != "sent" {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    })
    .await
    .unwrap();
    program.kill9().await;
    let program = program.restart().await;
    let operation = program.get(&path, &token).await.1;
    assert_eq!(operation["results"][0]["status"], "unknown");
    assert!(operation["results"][0]["error"].as_str().unwrap().contains("may have run"));
    assert_eq!(operation["status"], "failed");
    let commands = program.get("/api/v1/fleet/servers/web-1/commands", &token).await.1;
    assert!(commands["items"][0]["error"].as_str().unwrap().contains("may have run"));
    assert_eq!(commands["items"][0]["duration_ms"], Value::Null);
    sshd.kill_sessions();
}

#[tokio::test]
async fn exec_prints_what_the_command_prints_and_ends_as_it_ended() {
    let (one, two) = (Sshd::start().await, Sshd::start().await);
    let program = Program::start(&["--interval", "1s"]).await;
    let token = program.token("admin").await;
    let keys = program.get("/api/v1/keys", &token).await.1;
    for (name, sshd) in [("one", &one), ("two", &two)] {
        sshd.authorize(keys["items"][0]["public_key"].as_str().unwrap());
        let target = format!("root@127.0.0.1:{}", sshd.port());
        assert!(program.cli(&["add", &target, "--name", name, "--accept-new"]).await.status.success());
    }
    let single = program.cli(&["exec", "one", "--", "echo out; echo err >&2; exit 9"]).await;
    assert_eq!(single.status.code(), Some(9));
    assert_eq!((single.stdout.as_slice(), single.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));

    let same = program.cli(&["exec", "one", "two", "--", "echo", "same"]).await;
    assert_eq!(same.status.code(), Some(0));
    let text = String::from_utf8_lossy(&same.stdout);
    assert!(
        text.contains("one, two (2 servers): exit status 0") && text.matches("same").count() == 1,
        "{text}"
    );

    let none = program.cli(&["exec", "one", "two", "--", "false"]).await;
    assert_eq!(none.status.code(), Some(2));
    let some = format!("test \"$SSH_CONNECTION\" != \"${{SSH_CONNECTION% {}}}\"", one.port());
    assert_eq!(program.cli(&["exec", "one", "two", "--", &some]).await.status.code(), Some(1));
    let nobody = program.cli(&["exec", "three", "--", "id"]).await;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("there is no server 'three'"));
}
