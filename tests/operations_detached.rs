//! Commands that go on without their connection, against real daemons and with the real program killed in the middle.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use roundsman::actions::{Action, How, InContainer};
use roundsman::model::{Caller, OperationStatus, Secret, TargetStatus};
use roundsman::operations::{NewOperation, OperationView};
use serde_json::{Value, json};
use support::app::TestApp;
use support::processes::lives;
use support::program::{Program, client};
use support::sshd::Sshd;
use support::{eventually, in_time};
use tempfile::TempDir;

fn admin() -> Caller {
    Caller::roundsman()
}

fn detached(text: &str, limit: Duration) -> Action {
    let how = How { detached: true, ..How::default() };
    Action::run_command(text, false, Some(limit)).unwrap().run_like(how)
}

async fn begin(app: &TestApp, action: Action) -> String {
    let new = NewOperation { action, servers: vec!["web-1".to_owned()] };
    app.services.operations.begin(&admin(), new).await.unwrap().operation.id.to_string()
}

async fn until(app: &TestApp, id: &str, what: &str, holds: impl Fn(&OperationView) -> bool) -> OperationView {
    in_time(what, async {
        loop {
            let view = app.services.operations.get(&admin(), id).await.unwrap();
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

fn stdout(view: &OperationView) -> &str {
    view.targets[0].record.as_ref().map_or("", |record| record.stdout.as_str())
}

/// Directories of runs that are left in root's home.
fn left(sshd: &Sshd) -> usize {
    std::fs::read_dir(sshd.home().join(".cache/roundsman/runs")).map_or(0, Iterator::count)
}

/// Waits for a file, from a command.
fn until_there(path: &Path) -> String {
    format!("until [ -e {} ]; do sleep 0.05; done", path.display())
}

async fn answers_and_leaves_nothing(sshd: Sshd) {
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let id = begin(&app, detached("echo out; echo err >&2; exit 7", Duration::from_secs(60))).await;
    let view = ended(&app, &id).await;
    let record = view.targets[0].record.clone().unwrap();
    assert_eq!((record.stdout.as_str(), record.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!((record.exit_status, view.targets[0].target.status), (Some(7), TargetStatus::Failed));
    assert_eq!(view.operation.parameters["detached"], true);
    assert_eq!(record.command, "echo out; echo err >&2; exit 7");
    eventually("nothing is left", || left(&sshd) == 0).await;
    assert_eq!(sshd.logins(), 1);
}

#[tokio::test]
async fn a_detached_command_answers_with_output_and_status_and_leaves_nothing() {
    answers_and_leaves_nothing(Sshd::start().await).await;
}

#[tokio::test]
async fn a_detached_command_runs_behind_dropbear_too() {
    answers_and_leaves_nothing(Sshd::dropbear().await).await;
}

#[tokio::test]
async fn a_lost_connection_loses_nothing_of_a_detached_command() {
    let mut sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let shared = TempDir::new().unwrap();
    let go = shared.path().join("go");
    let text = format!("echo first; {}; echo last", until_there(&go));
    let id = begin(&app, detached(&text, Duration::from_secs(600))).await;
    until(&app, &id, "the first words", |view| stdout(view) == "first\n").await;
    sshd.kill_sessions();
    sshd.stop();
    app.until("web-1", "unreachable", |state| state.health == roundsman::model::Health::Unreachable).await;
    std::fs::write(&go, "").unwrap();
    sshd.restart().await;
    let view = ended(&app, &id).await;
    assert_eq!((stdout(&view), view.targets[0].target.status), ("first\nlast\n", TargetStatus::Succeeded));
    eventually("nothing is left", || left(&sshd) == 0).await;
}

#[tokio::test]
async fn a_cancelled_detached_command_is_ended_with_what_it_started() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let text = "echo $$; sleep 600 & echo $!; wait";
    let id = begin(&app, detached(text, Duration::from_secs(600))).await;
    let view = until(&app, &id, "both pids", |view| stdout(view).lines().count() == 2).await;
    let pids: Vec<u32> = stdout(&view).lines().map(|line| line.parse().unwrap()).collect();
    assert!(pids.iter().all(|pid| lives(*pid)));
    app.services.operations.cancel(&admin(), &id).await.unwrap();
    let view = ended(&app, &id).await;
    assert_eq!(view.operation.status, OperationStatus::Cancelled);
    assert_eq!(stdout(&view).lines().count(), 2, "what was printed stays");
    eventually("both are gone", || !pids.iter().any(|pid| lives(*pid))).await;
    eventually("nothing is left", || left(&sshd) == 0).await;
}

#[tokio::test]
async fn a_detached_command_over_its_time_limit_is_ended_and_its_output_is_kept_to_the_limit() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let text = "yes | head -c 3000000; echo $$ >&2; exec sleep 600";
    let id = begin(&app, detached(text, Duration::from_secs(3))).await;
    let view = ended(&app, &id).await;
    let (target, record) = (&view.targets[0].target, view.targets[0].record.clone().unwrap());
    assert_eq!(target.status, TargetStatus::Failed);
    assert!(target.error.as_ref().unwrap().contains("did not end within 3 s"), "{:?}", target.error);
    assert_eq!(record.stdout.len(), 1024 * 1024);
    assert_eq!(record.stdout_dropped_bytes, 3_000_000 - 1024 * 1024);
    let pid: u32 = record.stderr.lines().next().unwrap().parse().unwrap();
    eventually("the process is gone", || !lives(pid)).await;
}

#[tokio::test]
async fn a_detached_command_that_is_killed_without_a_trace_is_unknown() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let id = begin(&app, detached("echo here; sleep 600", Duration::from_secs(600))).await;
    let view = until(&app, &id, "its words", |view| stdout(view) == "here\n").await;
    let record = view.targets[0].record.as_ref().unwrap().id;
    let run = sshd.home().join(format!(".cache/roundsman/runs/{record}"));
    let pid = |name: &str| -> u32 {
        let text = std::fs::read_to_string(run.join(name)).unwrap();
        text.split(' ').next().unwrap().trim().parse().unwrap()
    };
    // What stands beside the command goes first, so that nobody notes an end.
    support::processes::signal("KILL", &marked(&record.to_string()));
    support::processes::signal("KILL", &[pid("child")]);
    let view = ended(&app, &id).await;
    let target = &view.targets[0].target;
    assert_eq!(target.status, TargetStatus::Unknown, "{target:?}");
    assert!(target.error.as_ref().unwrap().contains("left no exit status"), "{:?}", target.error);
    assert_eq!(stdout(&view), "here\n");
}

/// Processes that have the id of a run in their arguments.
fn marked(id: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&arguments).contains(id) {
            found.push(pid);
        }
    }
    found
}

#[tokio::test]
async fn a_detached_command_with_secrets_and_input_keeps_them_out_of_every_record() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let parameters = [
        ("command", "cat; printf %s \"$KEY\" | wc -c; printf %s \"$PLAIN\""),
        ("stdin", "from input\n"),
        ("secret_environment", "KEY=hunter2"),
        ("environment", "PLAIN=seen"),
        ("detached", "true"),
        ("timeout_s", "60"),
    ];
    let given =
        |name: &str| parameters.iter().find(|(key, _)| *key == name).map(|(_, text)| (*text).to_owned());
    let id = begin(&app, Action::parse("run_command", given).unwrap()).await;
    let view = ended(&app, &id).await;
    assert_eq!(stdout(&view), "from input\n7\nseen");
    assert!(!format!("{:?}", view.operation).contains("hunter2"));
    assert!(!view.operation.is_repeatable);
}

#[tokio::test]
async fn where_nothing_can_be_begun_the_reason_is_said() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let how = How {
        detached: true,
        container: Some(InContainer {
            engine: roundsman::actions::ContainerEngine::Docker,
            name: "none".into(),
        }),
        ..How::default()
    };
    let id = begin(&app, Action::run_command("true", false, None).unwrap().run_like(how)).await;
    let view = ended(&app, &id).await;
    assert_eq!(view.targets[0].target.status, TargetStatus::Failed);
    assert!(view.targets[0].target.error.as_ref().unwrap().contains("nothing was begun"));
}

#[tokio::test]
async fn a_clean_stop_leaves_detached_commands_running_and_the_next_start_takes_them_up() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let shared = TempDir::new().unwrap();
    let go = shared.path().join("go");
    let text = format!("echo first; {}; echo last; exit 4", until_there(&go));
    let id = begin(&app, detached(&text, Duration::from_secs(600))).await;
    until(&app, &id, "the first words", |view| stdout(view) == "first\n").await;
    let app = app.restart().await;
    let view = until(&app, &id, "it is found", |view| stdout(view) == "first\n").await;
    assert_eq!(view.operation.status, OperationStatus::Running);
    std::fs::write(&go, "").unwrap();
    let view = ended(&app, &id).await;
    let record = view.targets[0].record.as_ref().unwrap();
    assert_eq!((record.stdout.as_str(), record.exit_status), ("first\nlast\n", Some(4)));
    let audit = app.services.auth.audit(&admin(), 20, 0).await.unwrap();
    assert!(audit.iter().any(|entry| entry.action == "run_command" && entry.result == "failed"));
}

#[tokio::test]
async fn a_server_that_is_removed_while_nobody_looks_leaves_unknown() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let shared = TempDir::new().unwrap();
    let go = shared.path().join("go");
    let id = begin(&app, detached(&until_there(&go), Duration::from_secs(600))).await;
    until(&app, &id, "it is sent", |view| view.targets[0].target.status == TargetStatus::Sent).await;
    app.services.fleet.remove(&admin(), "web-1").await.unwrap();
    let view = ended(&app, &id).await;
    let target = &view.targets[0].target;
    assert_eq!(target.status, TargetStatus::Unknown);
    assert!(target.error.as_ref().unwrap().contains("removed"), "{:?}", target.error);
    std::fs::write(&go, "").unwrap();
}

/// The program with so many servers behind one daemon, and an administrator's token.
async fn program(sshd: &Sshd, count: usize) -> (Program, String) {
    let program = Program::start(&["--interval", "1s"]).await;
    let token = program.token("admin").await;
    let keys = program.get("/api/v1/keys", &token).await.1;
    sshd.authorize(keys["items"][0]["public_key"].as_str().unwrap());
    for number in 0..count {
        let body = json!({
            "name": format!("web-{number}"),
            "hostname": "127.0.0.1",
            "port": sshd.port(),
            "username": "root",
            "host_key": sshd.host_key().to_string(),
            "unchecked": true,
        });
        let (status, said) = post(&program, "/api/v1/fleet/servers", &token, &body).await;
        assert!(status < 300, "{said}");
    }
    (program, token)
}

async fn post(program: &Program, path: &str, token: &str, body: &Value) -> (u16, Value) {
    let sending =
        client().post(format!("http://{}{path}", program.address)).bearer_auth(token).json(body).send();
    let answer = in_time("an answer", sending).await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn until_api(
    program: &Program,
    token: &str,
    id: &str,
    what: &str,
    holds: impl Fn(&Value) -> bool,
) -> Value {
    let path = format!("/api/v1/fleet/operations/{id}");
    let waiting = async {
        loop {
            let found = program.get(&path, token).await.1;
            if holds(&found) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    in_time(what, waiting).await
}

fn count(operation: &Value, status: &str) -> usize {
    operation["results"].as_array().unwrap().iter().filter(|one| one["status"] == status).count()
}

fn has_ended(operation: &Value) -> bool {
    !matches!(operation["status"].as_str().unwrap(), "pending" | "running")
}

fn files(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[tokio::test]
async fn after_kill_9_a_detached_command_is_found_again_and_read_to_its_end() {
    let sshd = Sshd::start().await;
    let (mut program, token) = program(&sshd, 1).await;
    let shared = TempDir::new().unwrap();
    let go = shared.path().join("go");
    let body = json!({
        "operation_type": "run_command",
        "server_ids": ["web-0"],
        "parameters": {
            "command": format!("echo first; {}; echo last; exit 5", until_there(&go)),
            "detached": true,
            "timeout_s": 600,
        },
    });
    let reached = async {
        while program.get("/api/v1/fleet/servers/web-0", &token).await.1["health_status"] == "unknown" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    in_time("the first reading", reached).await;
    let begun = post(&program, "/api/v1/fleet/operations", &token, &body).await.1;
    let id = begun["id"].as_str().unwrap();
    let first = |found: &Value| found["results"][0]["stdout"] == "first\n";
    until_api(&program, &token, id, "the first words", first).await;
    program.kill9().await;
    std::fs::write(&go, "").unwrap();
    let program = program.restart().await;
    let done = until_api(&program, &token, id, "its end", has_ended).await;
    let result = &done["results"][0];
    assert_eq!((&result["status"], &result["exit_status"]), (&json!("failed"), &json!(5)), "{done}");
    assert_eq!(result["stdout"], "first\nlast\n");
    assert_eq!(result["error"], "exit status 5");
    let commands = program.get("/api/v1/fleet/servers/web-0/commands", &token).await.1;
    assert_eq!(commands["items"][0]["stdout"], "first\nlast\n");
    assert_eq!(commands["items"][0]["error"], Value::Null);
    eventually("nothing is left", || left(&sshd) == 0).await;
}

/// Each command leaves a file; from the sixth on they wait until they may end.
fn counting(ran: &Path, go: &Path) -> String {
    let (ran, go) = (ran.display(), go.display());
    format!(
        "mktemp -p {ran} >/dev/null; if [ $(ls {ran} | wc -l) -gt 5 ]; then until [ -e {go} ]; do sleep 0.1; done; fi"
    )
}

#[tokio::test]
async fn after_kill_9_in_the_middle_of_twenty_servers_every_target_is_true_and_the_rest_can_be_resumed() {
    let sshd = Sshd::start().await;
    let (mut program, token) = program(&sshd, 20).await;
    let reached = async {
        while program.get("/api/v1/fleet/summary", &token).await.1["unknown_servers"] != json!(0) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    in_time("the first readings", reached).await;
    let shared = TempDir::new().unwrap();
    let (ran, go): (PathBuf, PathBuf) = (shared.path().join("ran"), shared.path().join("go"));
    std::fs::create_dir(&ran).unwrap();
    let names: Vec<String> = (0..20).map(|number| format!("web-{number}")).collect();
    let body = json!({
        "operation_type": "run_command",
        "server_ids": names,
        "strategy": { "batches": [5] },
        "parameters": { "command": counting(&ran, &go), "timeout_s": 600 },
    });
    let begun = post(&program, "/api/v1/fleet/operations", &token, &body).await.1;
    let id = begun["id"].as_str().unwrap();
    eventually("the second batch runs", || files(&ran) == 10).await;
    program.kill9().await;

    let program = program.restart().await;
    let path = format!("/api/v1/fleet/operations/{id}");
    let found = program.get(&path, &token).await.1;
    assert_eq!(found["status"], "partial", "nothing runs for ever");
    let counts = ["succeeded", "unknown", "cancelled", "sent", "pending"].map(|status| count(&found, status));
    assert_eq!(counts, [5, 5, 10, 0, 0], "{found}");
    for result in found["results"].as_array().unwrap() {
        let words = match result["status"].as_str().unwrap() {
            "unknown" => "may have run",
            "cancelled" => "before this was sent",
            _ => continue,
        };
        assert!(result["error"].as_str().unwrap().contains(words), "{result}");
    }
    assert_eq!(files(&ran), 10, "what was not sent did not run");

    std::fs::write(&go, "").unwrap();
    let resumed = post(&program, &format!("{path}/resume"), &token, &json!({})).await.1;
    let rest = until_api(&program, &token, resumed["id"].as_str().unwrap(), "the rest", has_ended).await;
    assert_eq!((count(&rest, "succeeded"), &rest["status"]), (10, &json!("completed")), "{rest}");
    assert_eq!(files(&ran), 20);
    let again = post(&program, &format!("{path}/retry"), &token, &json!({})).await.1;
    let again = until_api(&program, &token, again["id"].as_str().unwrap(), "the unknown", has_ended).await;
    assert_eq!(count(&again, "succeeded"), 5);
    let verified = program.cli(&["audit", "verify"]).await;
    assert!(verified.status.success(), "{verified:?}");
}

#[tokio::test]
async fn the_command_line_lets_a_command_go_on_by_itself_and_shows_its_end() {
    let sshd = Sshd::start().await;
    let program = Program::start(&["--interval", "1s"]).await;
    let token = program.token("admin").await;
    let keys = program.get("/api/v1/keys", &token).await.1;
    sshd.authorize(keys["items"][0]["public_key"].as_str().unwrap());
    let target = format!("root@127.0.0.1:{}", sshd.port());
    assert!(program.cli(&["add", &target, "--name", "web-1", "--accept-new"]).await.status.success());
    let done = program.cli(&["exec", "web-1", "--detach", "--", "echo out; exit 6"]).await;
    assert_eq!((done.status.code(), done.stdout.as_slice()), (Some(6), &b"out\n"[..]), "{done:?}");
    let listed = program.cli(&["op", "list", "--server", "web-1", "--status", "failed", "--json"]).await;
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let none = program.cli(&["op", "list", "--status", "completed", "--json"]).await;
    assert_eq!(serde_json::from_slice::<Value>(&none.stdout).unwrap(), json!([]));
    let refused = program.cli(&["op", "list", "--status", "done"]).await;
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("use pending, running"));
}

#[tokio::test]
async fn a_detached_command_as_root_is_followed_with_the_password_that_is_kept_for_sudo() {
    use roundsman::fleet::{ActionLoginEdit, LoginEdit, NewServer};
    let sshd = Sshd::with_password("").await;
    let app = TestApp::start().await;
    let secret = || Secret::new(support::sshd::PASSWORD.to_owned());
    app.add(NewServer {
        name: Some("web-1".to_owned()),
        action_login: Some(ActionLoginEdit {
            username: Some("deploy".to_owned()),
            login: LoginEdit { password: Some(secret()), ..LoginEdit::default() },
        }),
        sudo_password: Some(secret()),
        ..support::app::of_sshd(&sshd)
    })
    .await;
    let how = How { detached: true, ..How::default() };
    let action = Action::run_command("id -un; exit 3", true, None).unwrap().run_like(how);
    let view = ended(&app, &begin(&app, action).await).await;
    assert_eq!(stdout(&view), "root\n", "{:?}", view.targets[0]);
    assert_eq!(view.targets[0].record.as_ref().unwrap().exit_status, Some(3));
}
