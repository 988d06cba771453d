//! The kinds of actions against real sshd's, through the API: scripts, containers, packages, reboots, health, diagnostics.
//!
//! Docker, Podman, apt-get and reboot are fakes in the PATH of the daemon that tell what they were asked; each test that
//! uses one that could do harm first proves that it is the fake that would be called.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use roundsman::fleet::{ActionLoginEdit, LoginEdit, NewServer};
use roundsman::model::{Caller, Role, Secret};
use serde_json::{Value, json};
use support::app::{TestApp, Who, of_sshd};
use support::sshd::{PASSWORD, Sshd};
use support::{eventually, in_time};
use tempfile::TempDir;

const OPERATIONS: &str = "/api/v1/fleet/operations";
const BEFORE: &str = "11111111-1111-4111-8111-111111111111";
const AFTER: &str = "22222222-2222-4222-8222-222222222222";

/// What the sessions of a daemon find first: programs, and a place for temporary files.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::Builder::new().prefix("roundsman-acts-").tempdir().unwrap());
        for part in ["bin", "tmp"] {
            fs::create_dir(place.path(part)).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Lines of sshd_config(5).
    fn config(&self) -> String {
        let home = self.0.path().display();
        format!("SetEnv HOME={home} TMPDIR={home}/tmp PATH={home}/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A program that writes down how it was called, and says so.
    fn recorder(&self, name: &str) {
        let calls = self.path("calls").display().to_string();
        self.program(name, &format!("echo \"{name} $*\" >>{calls}; echo \"{name} was asked\""));
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn left_behind(&self) -> usize {
        fs::read_dir(self.path("tmp")).unwrap().count()
    }
}

async fn begin(app: &TestApp, who: &Who, kind: &str, parameters: Value) -> Value {
    let body = json!({ "operation_type": kind, "server_ids": ["web-1"], "parameters": parameters });
    app.post(OPERATIONS).by(who).json(&body).send().await.expect(202)
}

/// The operation at its end.
async fn ended(app: &TestApp, who: &Who, begun: &Value) -> Value {
    let path = format!("{OPERATIONS}/{}", begun["id"].as_str().unwrap());
    in_time("the end of an operation", async {
        loop {
            let now = app.get(&path).by(who).send().await.expect(200);
            if !matches!(now["status"].as_str(), Some("pending" | "running")) {
                return now;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

async fn run(app: &TestApp, who: &Who, kind: &str, parameters: Value) -> Value {
    let begun = begin(app, who, kind, parameters).await;
    ended(app, who, &begun).await
}

/// Fails unless `program` is the fake of this place for whatever runs there.
async fn is_fake(app: &TestApp, who: &Who, place: &Place, program: &str) {
    let found = run(app, who, "run_command", json!({ "command": format!("command -v {program}") })).await;
    let wanted = format!("{}\n", place.path("bin").join(program).display());
    assert_eq!(found["results"][0]["stdout"], wanted, "nothing is asked of the real {program}: {found}");
}

async fn with_place() -> (TestApp, Sshd, Place, Who) {
    let place = Place::new();
    let sshd = Sshd::start_with(&place.config()).await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let operator = app.token(Role::Operator).await;
    (app, sshd, place, operator)
}

#[tokio::test]
async fn a_script_runs_with_arguments_input_and_environment_and_leaves_nothing() {
    let (app, _sshd, place, operator) = with_place().await;
    let script = "#!/bin/sh\necho \"$# $2 $PLAIN ${#KEY}\"; tr a-z A-Z\nls -ld \"${0%/*}\" | cut -c 1-10; tr '\\0' ' ' </proc/$PPID/cmdline | grep -c 'h[u]nter' || :; exit 3\n";
    let parameters = json!({
        "script": script,
        "arguments": ["one", "two \"words\" $HOME"],
        "stdin": "shout\n",
        "environment": { "PLAIN": "seen", "KEY": { "secret": "hunter2" } },
        "label": "Say it",
    });
    let dry = json!({ "operation_type": "run_script", "server_ids": ["web-1"], "parameters": parameters, "dry_run": true });
    let planned = app.post(OPERATIONS).by(&operator).json(&dry).send().await.expect(200);
    let done = run(&app, &operator, "run_script", parameters).await;
    let result = &done["results"][0];
    assert_eq!(result["stdout"], "2 two \"words\" $HOME seen 7\nSHOUT\ndrwx------\n0\n", "{done}");
    assert_eq!((&result["exit_status"], &done["title"]), (&json!(3), &json!("Say it")));
    assert_eq!(result["command"], planned["targets"][0]["command"], "shown before and after");
    assert!(result["command"].as_str().unwrap().contains("SHA-256"));
    assert_eq!((&done["parameters"]["script"], place.left_behind()), (&json!(script), 0));
    let kept = app.get("/api/v1/fleet/servers/web-1/commands").by(&operator).send().await.text();
    assert!(!kept.contains("hunter2") && !done.to_string().contains("hunter2"));
    for (field, value) in [("interpreter", "sh; id"), ("script", " "), ("timeout_s", "0")] {
        let mut parameters = json!({ "script": "id" });
        parameters[field] = json!(value);
        let body =
            json!({ "operation_type": "run_script", "server_ids": ["web-1"], "parameters": parameters });
        let refused = app.post(OPERATIONS).by(&operator).json(&body).send().await.expect(422);
        assert_eq!(refused["field"], field, "{refused}");
    }
}

#[tokio::test]
async fn a_script_that_is_ended_at_its_limit_leaves_no_file() {
    let (app, _sshd, place, operator) = with_place().await;
    let parameters = json!({ "script": "echo begun; sleep 600", "timeout_s": 2 });
    let done = run(&app, &operator, "run_script", parameters).await;
    assert_eq!((&done["status"], &done["results"][0]["stdout"]), (&json!("failed"), &json!("begun\n")));
    eventually("the file of the script is gone", || place.left_behind() == 0).await;
}

#[tokio::test]
async fn a_script_runs_as_root_where_sudo_asks() {
    let (app, sshd) = (TestApp::start().await, Sshd::with_password("").await);
    let secret = || Secret::new(PASSWORD.to_owned());
    app.add(NewServer {
        name: Some("web-1".to_owned()),
        action_login: Some(ActionLoginEdit {
            username: Some("deploy".to_owned()),
            login: LoginEdit { password: Some(secret()), ..LoginEdit::default() },
        }),
        sudo_password: Some(secret()),
        ..of_sshd(&sshd)
    })
    .await;
    let operator = app.token(Role::Operator).await;
    let parameters = json!({ "script": "id -un; cat", "stdin": "its own\n", "sudo": true });
    let done = run(&app, &operator, "run_script", parameters).await;
    assert_eq!(done["results"][0]["stdout"], "root\nits own\n", "{done}");
    let plain = run(&app, &operator, "run_script", json!({ "script": "id -un" })).await;
    assert_eq!(plain["results"][0]["stdout"], "deploy\n", "{plain}");
}

#[tokio::test]
async fn containers_are_acted_on_by_the_command_that_was_shown() {
    let (app, _sshd, place, operator) = with_place().await;
    let mut wanted = Vec::new();
    for engine in ["docker", "podman"] {
        place.recorder(engine);
        for (kind, words) in [
            ("start_container", "start web"),
            ("stop_container", "stop web"),
            ("restart_container", "restart web"),
            ("pause_container", "pause web"),
            ("unpause_container", "unpause web"),
            ("remove_container", "rm web"),
            ("container_logs", "logs --timestamps --tail 200 web"),
        ] {
            let container = json!({ "engine": engine, "name": "web" });
            let done = run(&app, &operator, kind, json!({ "container": container })).await;
            let command = format!("{engine} {words}");
            assert_eq!((&done["operation_type"], &done["status"]), (&json!(kind), &json!("completed")));
            assert_eq!(done["results"][0]["command"], command);
            assert_eq!(done["results"][0]["stdout"], format!("{engine} was asked\n"));
            wanted.push(command);
        }
    }
    assert_eq!(place.calls(), wanted);
    let exec = json!({ "container": "web", "command": "id -un" });
    let done = run(&app, &operator, "container_exec", exec).await;
    assert_eq!(done["results"][0]["command"], "docker exec -i web /bin/sh -c 'id -un'");
    assert_eq!(place.calls().len(), wanted.len() + 1);
    for name in ["--all", "a b", "$(id)", ""] {
        let body = json!({ "action": "stop_container", "container": name });
        let path = "/api/v1/fleet/servers/web-1/actions";
        let refused = app.post(path).by(&operator).json(&body).send().await.expect(422);
        assert_eq!(refused["field"], "container", "{refused}");
    }
    let audit = app.get("/api/v1/audit").by(&app.token(Role::Admin).await).send().await.text();
    assert!(audit.contains("\"remove_container\"") && audit.contains("podman rm web"));
}

#[tokio::test]
async fn packages_are_updated_by_the_manager_that_is_there() {
    let (app, _sshd, place, operator) = with_place().await;
    place.recorder("apt-get");
    is_fake(&app, &operator, &place, "apt-get").await;
    let parameters = json!({ "packages": ["curl", "zlib1g"], "timeout_s": 60 });
    let done = run(&app, &operator, "deploy_update", parameters).await;
    assert_eq!((&done["operation_type"], &done["status"]), (&json!("update_packages"), &json!("completed")));
    let calls = place.calls();
    assert!(
        calls[0].ends_with(" update") && calls[1].ends_with("install --only-upgrade curl zlib1g"),
        "{calls:?}"
    );
    assert_eq!(done["parameters"]["packages"], json!(["curl", "zlib1g"]));
    place.program("apt-get", "echo 'E: no network' >&2; exit 100");
    let failed = run(&app, &operator, "update_packages", json!({ "timeout_s": 60 })).await;
    assert_eq!((&failed["status"], &failed["results"][0]["exit_status"]), (&json!("failed"), &json!(100)));
}

/// A server whose boot id is its own and whose reboot is a file that appears.
async fn rebooting() -> (TestApp, Sshd, Place, Who) {
    let place = Place::new();
    for name in ["reboot", "systemctl"] {
        place.recorder(name);
    }
    let sshd = Sshd::with_boot_id(&place.config(), BEFORE).await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    let operator = app.token(Role::Operator).await;
    for name in ["reboot", "systemctl"] {
        is_fake(&app, &operator, &place, name).await;
    }
    (app, sshd, place, operator)
}

fn was_asked(place: &Place) -> bool {
    place.calls().iter().any(|call| call == "reboot " || call == "systemctl reboot")
}

#[tokio::test]
async fn a_reboot_is_done_when_the_server_answers_from_another_boot() {
    let (app, mut sshd, place, operator) = rebooting().await;
    let begun = begin(&app, &operator, "reboot", json!({ "timeout_s": 50 })).await;
    eventually("the reboot is asked for", || was_asked(&place)).await;
    sshd.stop();
    sshd.set_boot_id(AFTER);
    sshd.restart().await;
    let done = ended(&app, &operator, &begun).await;
    assert_eq!(done["status"], "completed", "{done}");
    let said = done["results"][0]["stdout"].as_str().unwrap();
    assert!(said.contains(BEFORE) && said.contains(&format!("Boot {AFTER}: back after ")), "{said}");
}

#[tokio::test]
async fn a_server_that_never_goes_away_has_not_rebooted() {
    let (app, _sshd, place, operator) = rebooting().await;
    let begun = begin(&app, &operator, "reboot", json!({ "timeout_s": 10 })).await;
    eventually("the reboot is asked for", || was_asked(&place)).await;
    let done = ended(&app, &operator, &begun).await;
    assert_eq!(done["status"], "failed");
    let why = done["results"][0]["error"].as_str().unwrap();
    assert!(why.contains("never went away"), "{why}");
}

#[tokio::test]
async fn a_server_that_does_not_come_back_is_told_apart_from_one_that_never_went() {
    let (app, mut sshd, place, operator) = rebooting().await;
    let begun = begin(&app, &operator, "reboot", json!({ "timeout_s": 10 })).await;
    eventually("the reboot is asked for", || was_asked(&place)).await;
    sshd.stop();
    let done = ended(&app, &operator, &begun).await;
    assert_eq!(done["status"], "failed");
    let why = done["results"][0]["error"].as_str().unwrap();
    assert!(why.contains("did not come back within 10 s"), "{why}");
    assert!(done["results"][0]["stdout"].as_str().unwrap().contains("Gone after"));
}

#[tokio::test]
async fn a_reboot_that_is_refused_says_why_and_waits_for_nothing() {
    let (app, _sshd, place, operator) = rebooting().await;
    for name in ["reboot", "systemctl"] {
        place.program(name, "echo 'inhibited by backup' >&2; exit 1");
    }
    let done = run(&app, &operator, "reboot", json!({})).await;
    let why = done["results"][0]["error"].as_str().unwrap();
    assert!(why.contains("inhibited by backup") && why.contains("refuses"), "{why}");
}

#[tokio::test]
async fn a_health_check_reads_now_and_its_exit_status_is_the_health() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    app.services.fleet.ensure_local("here").await.unwrap();
    app.with_server("web-1", &sshd).await;
    let operator = app.token(Role::Operator).await;
    app.until("web-1", "read", |state| state.last_seen_at.is_some()).await;
    let done = run(&app, &operator, "health_check", json!({})).await;
    let result = &done["results"][0];
    let said = result["stdout"].as_str().unwrap();
    // The machine that tests run on may be full or have a failed service; what is said must be what is so.
    let status = match said.lines().next().unwrap() {
        "Health: healthy" => 0,
        "Health: degraded" => 1,
        "Health: critical" => 2,
        other => panic!("{other}: {done}"),
    };
    assert_eq!(result["exit_status"], status, "{done}");
    assert_eq!(done["status"], if status == 0 { "completed" } else { "failed" });
    assert!(said.contains("Memory: "), "{said}");
    let local = json!({ "action": "health_check" });
    app.post("/api/v1/fleet/servers/here/actions").by(&operator).json(&local).send().await.expect(202);
    let reboot = json!({ "action": "reboot" });
    let refused = app.post("/api/v1/fleet/servers/here/actions").by(&operator).json(&reboot).send().await;
    assert_eq!(refused.status, 409, "{}", refused.text());
}

/// The files of an archive, as tar lists them.
fn listed(archive: &Path) -> String {
    let listed = Command::new("tar").arg("-tzf").arg(archive).output().unwrap();
    assert!(listed.status.success());
    String::from_utf8(listed.stdout).unwrap()
}

#[tokio::test]
async fn diagnostics_are_kept_listed_downloaded_and_removed_by_those_who_act() {
    let (app, _sshd, place, operator) = with_place().await;
    let done = run(&app, &operator, "collect_diagnostics", json!({})).await;
    assert_eq!(done["status"], "completed", "{done}");
    assert_eq!(done["results"][0]["stdout"], "The archive is kept for 14 days.\n");
    assert_eq!(place.left_behind(), 0);
    let list = app.get("/api/v1/fleet/diagnostics").by(&operator).send().await.expect(200);
    let one = &list["items"][0];
    assert_eq!((&one["server_name"], &one["operation_id"]), (&json!("web-1"), &done["id"]));
    let url = one["url"].as_str().unwrap();
    let answer = app.get(url).by(&operator).send().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/gzip");
    assert!(answer.header("content-disposition").starts_with("attachment; filename=\"diagnostics-web-1-"));
    assert_eq!(one["size_bytes"], answer.body.len());
    let archive = place.path("archive");
    fs::write(&archive, &answer.body).unwrap();
    let files = listed(&archive);
    for name in
        ["uname", "os-release", "df", "free", "ps", "dmesg", "journal", "failed-units", "ip", "sockets"]
    {
        assert!(files.contains(&format!("diagnostics/{name}.txt")), "{files}");
    }
    let viewer = app.token(Role::Viewer).await;
    for path in [url, "/api/v1/fleet/diagnostics"] {
        app.get(path).by(&viewer).send().await.expect(403);
    }
    let stranger = Caller { organization: app.another_organization().await, ..Caller::roundsman() };
    assert!(app.services.operations.archives(&stranger).await.unwrap().is_empty());
    let (id, sid) = (done["id"].as_str().unwrap(), one["server_id"].as_str().unwrap());
    assert!(app.services.operations.archive(&stranger, id, sid).await.is_err());
    assert!(app.services.operations.remove_archive(&stranger, id, sid).await.is_err());

    let browser = app.login(Role::Operator).await;
    let offered = format!("/operations/{id}/diagnostics/{sid}");
    let page = async || app.get(&format!("/operations/{id}")).by(&browser).send().await.text();
    assert!(page().await.contains(&offered));
    app.call("DELETE", url).by(&operator).send().await.expect(204);
    assert!(!page().await.contains(&offered), "what was removed is not offered any more");
    app.get(url).by(&operator).send().await.expect(404);
    app.call("DELETE", url).by(&operator).send().await.expect(404);
    let list = app.get("/api/v1/fleet/diagnostics").by(&operator).send().await.expect(200);
    assert_eq!(list["items"], json!([]));
    let audit = app.get("/api/v1/audit").by(&app.token(Role::Admin).await).send().await.text();
    assert!(audit.contains("diagnostics.download") && audit.contains("diagnostics.remove"), "{audit}");
}

#[tokio::test]
async fn what_is_no_archive_or_too_large_is_not_kept() {
    let (app, _sshd, place, operator) = with_place().await;
    let collect = |script: &'static str| {
        place.program("gzip", script);
        run(&app, &operator, "collect_diagnostics", json!({}))
    };
    let garbage = collect("echo '<script>alert(1)</script>'").await;
    assert!(garbage["results"][0]["error"].as_str().unwrap().contains("no archive"), "{garbage}");
    let endless = collect("printf '\\037\\213'; head -c 9000000 /dev/zero").await;
    assert!(endless["results"][0]["error"].as_str().unwrap().contains("larger than"), "{endless}");
    let broken = collect("head -c 1000 /dev/zero; echo 'disk full' >&2; exit 1").await;
    assert_eq!(
        (&broken["results"][0]["exit_status"], &broken["results"][0]["stdout"]),
        (&json!(1), &json!(""))
    );
    let list = app.get("/api/v1/fleet/diagnostics").by(&operator).send().await.expect(200);
    assert_eq!((&list["items"], place.left_behind()), (&json!([]), 0));
}

#[tokio::test]
async fn a_page_names_what_a_dangerous_action_touches_and_asks_before_it_is_done() {
    let (app, _sshd, place, _) = with_place().await;
    place.recorder("docker");
    let operator = app.login(Role::Operator).await;
    let commands = app.get("/servers/web-1/commands").by(&operator).send().await.text();
    for kind in ["health_check", "collect_diagnostics", "update_packages", "reboot"] {
        assert!(commands.contains(&format!("/servers/web-1/act?action={kind}")), "{kind}");
    }
    let ask = |query: &str| app.get(&format!("/servers/web-1/act?{query}")).by(&operator).send();
    let reboot = ask("action=reboot").await.text();
    assert!(reboot.contains("Reboot web-1") && reboot.contains("may not come back"), "{reboot}");
    let remove = ask("action=remove_container&container=web&container_engine=docker").await;
    let text = remove.text();
    assert!(text.contains("docker rm web") && text.contains("gone for good"), "{text}");
    assert!(place.calls().is_empty(), "nothing is done by asking");
    let form = [("action", "remove_container"), ("container", "web"), ("container_engine", "docker")];
    let begun = app.post("/servers/web-1/act").by(&operator).form(&form).send().await;
    assert_eq!(begun.status, 303, "{}", begun.text());
    eventually("docker is asked", || place.calls() == ["docker rm web"]).await;
}
