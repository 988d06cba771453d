//! The pages for actions against a real sshd: confirmed by name, followed live, on record afterwards; hostile output is text.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};

use roundsman::fleet::ServerState;
use roundsman::model::{Caller, Event, Role};
use serde_json::Value;
use support::app::{Answer, TestApp, Who};
use support::in_time;
use support::processes::lives;
use support::socket::Socket;
use support::sshd::{Sshd, free_port};

/// A process that does nothing and holds so much memory that it is among those that a reading keeps. Gone with the test,
/// whatever becomes of it.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        let mut command = Command::new("bash");
        command.args(["-c", "x=$(head -c 60000000 /dev/zero | tr '\\0' x); read -r _", "patient-sleeper"]);
        // It waits for a line that never comes.
        Self(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // It may have been ended already; then there is nothing to end.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn page(app: &TestApp, path: &str, who: &Who) -> Answer {
    app.get(path).by(who).send().await
}

async fn ok(app: &TestApp, path: &str, who: &Who) -> String {
    let answer = page(app, path, who).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.text()
}

async fn act(app: &TestApp, server: &str, who: &Who, fields: &[(&str, &str)]) -> Answer {
    app.post(&format!("/servers/{server}/act")).by(who).form(fields).send().await
}

/// Begins it through the form; the address of its page.
async fn begun(app: &TestApp, server: &str, who: &Who, fields: &[(&str, &str)]) -> String {
    let answer = act(app, server, who, fields).await;
    assert_eq!(answer.status, 303, "{}", answer.text());
    let place = answer.header("location").to_owned();
    assert!(place.starts_with("/operations/"), "{place}");
    place
}

async fn run(app: &TestApp, who: &Who, command: &str) -> String {
    let fields = [("action", "run_command"), ("command", command), ("timeout_s", "60")];
    begun(app, "web-1", who, &fields).await
}

/// The page of an operation when it says this; an operation tells when it changes.
async fn until(app: &TestApp, path: &str, who: &Who, words: &str) -> String {
    let mut events = app.services.fleet.subscribe();
    in_time(words, async {
        loop {
            let text = ok(app, path, who).await;
            if text.contains(words) {
                return text;
            }
            while !matches!(events.recv().await, Ok(Event::Operation { .. }) | Err(_)) {}
        }
    })
    .await
}

async fn with_web_1() -> (TestApp, Sshd, ServerState) {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    app.with_server("web-1", &sshd).await;
    let state = app.until("web-1", "read", |state| state.facts.is_some()).await;
    (app, sshd, state)
}

/// The address where ending this process is confirmed, once a reading shows the process.
async fn end_link(app: &TestApp, who: &Who, pid: u32) -> String {
    let mut events = app.services.fleet.subscribe();
    let path = format!("/servers/web-1/processes?search={pid}");
    let mark = format!("/servers/web-1/act?action=kill_process&#38;pid={pid}&#38;");
    in_time("the process in a reading", async {
        loop {
            let text = ok(app, &path, who).await;
            if let Some(at) = text.find(&mark) {
                let link = text.get(at..).unwrap().split('"').next().unwrap();
                return link.replace("&#38;", "&");
            }
            while !matches!(events.recv().await, Ok(Event::Reading { .. }) | Err(_)) {}
        }
    })
    .await
}

fn field(address: &str, name: &str) -> String {
    let query = address.split_once('?').unwrap().1;
    let pairs: Vec<(String, String)> = serde_urlencoded::from_str(query).unwrap();
    pairs.into_iter().find(|(key, _)| key == name).unwrap().1
}

#[tokio::test]
async fn a_command_from_the_box_leads_to_its_operation_and_stays_on_record() {
    let (app, _sshd, _) = with_web_1().await;
    let operator = app.login(Role::Operator).await;
    let tab = ok(&app, "/servers/web-1/commands", &operator).await;
    assert!(tab.contains("Run on web-1") && tab.contains("No command was run here yet"));
    assert!(!tab.contains("name=\"sudo\""), "root needs no sudo");
    // As a browser sends two lines.
    let place = run(&app, &operator, "echo \"to $((40 + 2))\"\r\necho trouble >&2; exit 3").await;
    let text = until(&app, &place, &operator, "exit status 3").await;
    for words in ["to 42", "trouble", "Error output", "1 of 1", "Failed", "operator"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(text.contains("echo trouble &#62;&#38;2; exit 3"), "the exact command: {text}");
    let viewer = app.login(Role::Viewer).await;
    let tab = ok(&app, "/servers/web-1/commands", &viewer).await;
    assert!(tab.contains("to 42") && tab.contains("exit status 3") && tab.contains(&place), "{tab}");
    let list = ok(&app, "/operations", &viewer).await;
    assert!(list.contains(&place) && list.contains("1 of 1") && list.contains("web-1"), "{list}");
}

#[tokio::test]
async fn a_process_is_named_before_it_is_ended_and_gone_afterwards() {
    let (app, _sshd, _) = with_web_1().await;
    let operator = app.login(Role::Operator).await;
    let mut sleeper = Sleeper::start();
    let link = end_link(&app, &operator, sleeper.0.id()).await;
    let confirm = ok(&app, &link, &operator).await;
    for words in ["patient-sleeper", "root", "127.0.0.1", "Send TERM on web-1", "kill -s TERM", "signal=KILL"]
    {
        assert!(confirm.contains(words), "{words}: {confirm}");
    }
    let (pid, start) = (field(&link, "pid"), field(&link, "start_ticks"));
    assert!(
        ok(&app, &format!("{link}&signal=KILL"), &operator).await.contains("KILL ends the process at once")
    );
    let fields = [
        ("action", "kill_process"),
        ("pid", pid.as_str()),
        ("start_ticks", start.as_str()),
        ("signal", "TERM"),
    ];
    let place = begun(&app, "web-1", &operator, &fields).await;
    until(&app, &place, &operator, "exit status 0").await;
    let status = in_time("its end", tokio::task::spawn_blocking(move || sleeper.0.wait().unwrap())).await;
    assert_eq!(status.unwrap().signal(), Some(15));
}

#[tokio::test]
async fn a_reused_pid_is_told_before_and_spared_afterwards() {
    let (app, _sshd, _) = with_web_1().await;
    let operator = app.login(Role::Operator).await;
    let sleeper = Sleeper::start();
    let pid = sleeper.0.id();
    let link = end_link(&app, &operator, pid).await;
    let earlier = (field(&link, "start_ticks").parse::<u64>().unwrap() - 1).to_string();
    let address = format!("/servers/web-1/act?action=kill_process&pid={pid}&start_ticks={earlier}");
    assert!(ok(&app, &address, &operator).await.contains("another one by now"));
    let pid_text = pid.to_string();
    let fields = [
        ("action", "kill_process"),
        ("pid", pid_text.as_str()),
        ("start_ticks", earlier.as_str()),
        ("signal", "KILL"),
    ];
    let place = begun(&app, "web-1", &operator, &fields).await;
    let text = until(&app, &place, &operator, "exit status 4").await;
    assert!(text.contains("nothing was sent to it"), "{text}");
    assert!(lives(pid));
}

#[tokio::test]
async fn viewers_find_no_controls_and_are_refused() {
    let (app, _sshd, _) = with_web_1().await;
    let (viewer, operator) = (app.login(Role::Viewer).await, app.login(Role::Operator).await);
    let sleeper = Sleeper::start();
    let link = end_link(&app, &operator, sleeper.0.id()).await;
    for tab in ["processes", "services", "commands"] {
        let text = ok(&app, &format!("/servers/web-1/{tab}"), &viewer).await;
        // The processes of this machine may be called anything.
        assert!(!text.contains("/servers/web-1/act"), "{tab}");
    }
    assert_eq!(page(&app, &link, &viewer).await.status, 403);
    let fields = [("action", "run_command"), ("command", "id")];
    assert_eq!(act(&app, "web-1", &viewer, &fields).await.status, 403);
    let place = run(&app, &operator, "sleep 600").await;
    assert!(!ok(&app, &place, &viewer).await.contains("/cancel"));
    assert_eq!(app.post(&format!("{place}/cancel")).by(&viewer).send().await.status, 403);
    assert_eq!(app.post(&format!("{place}/cancel")).by(&operator).send().await.status, 303);
    until(&app, &place, &viewer, "Cancelled").await;
}

#[tokio::test]
async fn what_stands_in_the_way_comes_back_with_its_status_and_what_was_typed() {
    let (app, _sshd, _) = with_web_1().await;
    let operator = app.login(Role::Operator).await;
    let bad = page(&app, "/servers/web-1/act?action=stop_service&service=%24%28id%29", &operator).await;
    assert_eq!(bad.status, 422);
    assert!(bad.text().contains("is not a service name"), "{}", bad.text());
    let odd = act(&app, "web-1", &operator, &[("action", "format_disk")]).await;
    assert_eq!(odd.status, 422);
    let long = "x".repeat(70_000);
    let refused =
        act(&app, "web-1", &operator, &[("action", "run_command"), ("command", long.as_str())]).await;
    assert_eq!(refused.status, 422);
    assert!(
        refused.text().contains("longer than") && refused.text().contains(&long),
        "typed text is not lost"
    );
    assert_eq!(page(&app, "/servers/ghost/act?action=stop_service&service=x", &operator).await.status, 404);
    assert_eq!(page(&app, "/operations/ghost", &operator).await.status, 404);
    // Never read, so nothing is known that could stop a service there.
    app.with_unchecked("far", free_port()).await;
    let none = page(&app, "/servers/far/act?action=stop_service&service=nginx", &operator).await;
    assert_eq!(none.status, 409);
    let text = none.text();
    assert!(text.contains("No service manager") && !text.contains("name=\"service\""), "{text}");
    let fields = [("action", "stop_service"), ("service", "nginx")];
    assert_eq!(act(&app, "far", &operator, &fields).await.status, 409);
}

#[tokio::test]
async fn the_same_twice_at_once_is_refused_with_the_way_to_the_first() {
    let (app, _sshd, _) = with_web_1().await;
    let operator = app.login(Role::Operator).await;
    let place = run(&app, &operator, "sleep 600").await;
    let fields = [("action", "run_command"), ("command", "sleep 600"), ("timeout_s", "60")];
    let again = act(&app, "web-1", &operator, &fields).await;
    assert_eq!(again.status, 409);
    assert!(again.text().contains(&format!("href=\"{place}\"")), "{}", again.text());
    until(&app, &place, &operator, "Running").await;
    assert_eq!(app.post(&format!("{place}/cancel")).by(&operator).send().await.status, 303);
    until(&app, &place, &operator, "Cancelled").await;
    in_time("the operation is over", async {
        loop {
            let late = app.post(&format!("{place}/cancel")).by(&operator).send().await;
            if late.status == 409 {
                assert!(late.text().contains("ended already"), "{}", late.text());
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn fragments(socket: &mut Socket) -> Vec<(String, String)> {
    let message: Value = serde_json::from_str(&in_time("a message", socket.text()).await.unwrap()).unwrap();
    let list = message["fragments"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    list.iter().map(|fragment| (text(&fragment["id"]), text(&fragment["html"]))).collect()
}

/// Reads on until the part of the page with this id holds these words.
async fn hear(socket: &mut Socket, id: &str, words: &str) -> String {
    in_time(words, async {
        loop {
            for (found, html) in fragments(socket).await {
                if found == id && html.contains(words) {
                    return html;
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_open_page_hears_what_a_command_prints_while_it_runs_and_how_it_ends() {
    let (app, _sshd, _) = with_web_1().await;
    let operator = app.login(Role::Operator).await;
    let address = app.listen().await;
    let gate = app.data().join("gate");
    let command = format!("echo first; while [ ! -e {} ]; do sleep 0.05; done; echo second", gate.display());
    let place = run(&app, &operator, &command).await;
    let id = place.strip_prefix("/operations/").unwrap();
    assert!(ok(&app, &place, &operator).await.contains(&format!("data-live=\"operation:{id}\"")));
    let mut socket = app.socket(address, &format!("/live?view=operation:{id}"), &operator).await;
    let html = hear(&mut socket, "target-0", "\nfirst\n").await;
    assert!(html.contains("Running") && !html.contains("\nsecond\n"), "{html}");
    std::fs::write(&gate, "").unwrap();
    hear(&mut socket, "target-0", "exit status 0").await;
    // The page hears of the end even if it asks only afterwards.
    let mut late = app.socket(address, &format!("/live?view=operation:{id}"), &operator).await;
    let progress = hear(&mut late, "operation-progress", "Completed").await;
    assert!(progress.contains("1 of 1") && !progress.contains("/cancel"), "{progress}");
    assert!(!ok(&app, &place, &operator).await.contains("data-live"), "what has ended changes no more");
}

#[tokio::test]
async fn the_open_commands_tab_hears_of_new_records() {
    let (app, _sshd, state) = with_web_1().await;
    let operator = app.login(Role::Operator).await;
    let address = app.listen().await;
    let view = format!("/live?view=server:{}:commands", state.server.id);
    let mut socket = app.socket(address, &view, &operator).await;
    hear(&mut socket, "records", "No command was run here yet").await;
    run(&app, &operator, "echo heard").await;
    hear(&mut socket, "records", "exit status 0").await;
}

#[tokio::test]
async fn hostile_output_is_text_of_bounded_length() {
    let (app, _sshd, _) = with_web_1().await;
    let operator = app.login(Role::Operator).await;
    let command = "printf '\\033[31m</pre><script>alert(1)</script>\\033]0;x\\007\\n'; head -c 3000000 /dev/zero | tr '\\0' y; printf 'end'";
    let place = run(&app, &operator, command).await;
    let text = until(&app, &place, &operator, "exit status 0").await;
    assert!(text.contains("are not shown here") && text.contains("were not kept"));
    for text in [text, ok(&app, "/servers/web-1/commands", &operator).await] {
        assert!(!text.contains("<script>alert") && !text.contains('\u{1b}') && !text.contains('\u{7}'));
        assert!(text.len() < 400_000, "{} bytes", text.len());
    }
    let place = run(&app, &operator, "printf '</pre><script>alert(2)</script>'").await;
    let text = until(&app, &place, &operator, "exit status 0").await;
    assert!(
        text.contains("&#60;/pre&#62;&#60;script&#62;alert(2)") && !text.contains("<script>alert"),
        "{text}"
    );
}

#[tokio::test]
async fn where_nothing_can_be_run_the_page_says_why() {
    let app = TestApp::start().await;
    app.services.fleet.ensure_local("here").await.unwrap();
    let admin = app.login(Role::Admin).await;
    let text = ok(&app, "/servers/here/commands", &admin).await;
    assert!(text.contains("allow_local_actions = true") && !text.contains("<textarea"), "{text}");
    let refused = act(&app, "here", &admin, &[("action", "run_command"), ("command", "id")]).await;
    assert_eq!(refused.status, 409);
    assert!(refused.text().contains("allow_local_actions = true"), "{}", refused.text());
    let records = app.services.operations.records(&Caller::roundsman(), "here", 10, 0).await.unwrap();
    assert!(records.is_empty());
}
