//! The agent on servers over SSH: deployed, read, broken, upgraded, removed.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says so by panicking")]

mod agreement;
#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use agreement::{agree, take_turns};
use roundsman::fleet::blind_spots;
use roundsman::model::{ProbeKind, Role};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use support::app::{TestApp, Who};
use support::sshd::Sshd;
use support::{agent, eventually, in_time, processes};

const DEPLOY: &str = "/api/v1/fleet/servers/web-1/deploy";
const ACTIONS: &str = "/api/v1/fleet/servers/web-1/actions";

async fn app() -> TestApp {
    TestApp::with_agents(&[(&agent::architecture(), &agent::program())]).await
}

/// Begins an operation and answers the result of its one server at its end.
async fn done(app: &TestApp, who: &Who, path: &str, body: &Value) -> Value {
    let begun = app.post(path).by(who).json(body).send().await.expect(202);
    let path = format!("/api/v1/fleet/operations/{}", begun["id"].as_str().unwrap());
    in_time("the end of an operation", async {
        loop {
            let now = app.get(&path).by(who).send().await.expect(200);
            if !matches!(now["status"].as_str(), Some("pending" | "running")) {
                return now["results"][0].clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

fn said<'a>(result: &'a Value, name: &str) -> &'a str {
    result[name].as_str().unwrap_or_default()
}

/// The agent's files in the home of the login.
fn files(sshd: &Sshd) -> Vec<PathBuf> {
    let place = sshd.home().join(".cache/roundsman");
    fs::read_dir(place).map(|all| all.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}

/// Processes that run this file.
fn runs(file: &Path) -> Vec<u32> {
    let ids = fs::read_dir("/proc").unwrap().flatten();
    ids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.starts_with(file.to_str().unwrap().as_bytes()))
        })
        .collect()
}

async fn read_by(app: &TestApp, probe: ProbeKind) {
    app.until("web-1", probe.name(), |state| state.probe == Some(probe)).await;
}

#[tokio::test]
async fn a_deployed_agent_reads_is_current_the_second_time_and_leaves_nothing_behind() {
    let (app, sshd) = (app().await, Sshd::start().await);
    app.with_server("web-1", &sshd).await;
    let admin = app.token(Role::Admin).await;
    read_by(&app, ProbeKind::Shell).await;
    let first = done(&app, &admin, DEPLOY, &json!({})).await;
    assert_eq!(first["status"], "succeeded", "{first}");
    for step in ["Connection:", "Processor:", "Upload:", "SHA-256 is right", "Start:", "Verification:"] {
        assert!(said(&first, "stdout").contains(step), "{step}: {first}");
    }
    read_by(&app, ProbeKind::Agent).await;
    let file = files(&sshd).pop().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o700, 0o700));
    let second = done(&app, &admin, DEPLOY, &json!({ "mode": "stream" })).await;
    assert!(said(&second, "stdout").contains("already current"), "{second}");
    let shown = app.get("/api/v1/fleet/servers/web-1/agent").by(&admin).send().await.expect(200);
    assert_eq!((&shown["probe"], &shown["is_current"]), (&json!("agent"), &json!(true)), "{shown}");
    let app = app.restart().await;
    read_by(&app, ProbeKind::Agent).await;
    let removed = done(&app, &admin, ACTIONS, &json!({ "action": "remove_agent" })).await;
    assert_eq!(removed["status"], "succeeded", "{removed}");
    read_by(&app, ProbeKind::Shell).await;
    assert!(!file.exists() && !file.parent().unwrap().exists());
    eventually("no process of the agent", || runs(&file).is_empty()).await;
    assert_eq!(app.state("web-1").logins_today, 2, "one before and one after the restart");
}

#[tokio::test]
async fn an_agent_that_is_killed_or_altered_costs_no_outage_and_is_named() {
    let (app, sshd) = (app().await, Sshd::start().await);
    app.with_server("web-1", &sshd).await;
    let admin = app.token(Role::Admin).await;
    assert_eq!(done(&app, &admin, DEPLOY, &json!({})).await["status"], "succeeded");
    read_by(&app, ProbeKind::Agent).await;
    let file = files(&sshd).pop().unwrap();
    let whole = fs::read(&file).unwrap();
    // A running file cannot be written to, but replaced.
    fs::remove_file(&file).unwrap();
    fs::write(&file, "#!/bin/sh\necho pwned >&2; exec sleep 600\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
    let logins = sshd.logins();
    processes::signal("KILL", &runs(&file));
    let state = app.until("web-1", "read by the shell", |state| state.probe == Some(ProbeKind::Shell)).await;
    assert_eq!(state.reachability, roundsman::model::Reachability::Reachable);
    let told = |state: &_| blind_spots(state).iter().any(|spot| spot.subject == "agent");
    app.until("web-1", "told of the agent", told).await;
    assert_eq!(sshd.logins(), logins, "the connection stayed");
    let again = done(&app, &admin, DEPLOY, &json!({})).await;
    assert!(!said(&again, "stdout").contains("already current"), "{again}");
    assert_eq!(again["status"], "succeeded", "{again}");
    assert_eq!(fs::read(&file).unwrap(), whole);
    read_by(&app, ProbeKind::Agent).await;
    app.until("web-1", "no longer told of the agent", |state| !told(state)).await;
}

#[tokio::test]
async fn where_there_is_no_agent_for_the_processor_the_shell_probe_goes_on_and_the_page_says_so() {
    let app = TestApp::with_agents(&[("pdp11", Path::new("/bin/true"))]).await;
    let sshd = Sshd::start().await;
    app.with_server("web-1", &sshd).await;
    let admin = app.token(Role::Admin).await;
    app.until("web-1", "known", |state| state.facts.is_some()).await;
    let refused = done(&app, &admin, DEPLOY, &json!({})).await;
    let reason = format!("there is no agent for {}", agent::architecture());
    assert!(said(&refused, "error").contains(&reason), "{refused}");
    assert_eq!((refused["status"].as_str(), files(&sshd).len()), (Some("failed"), 0));
    let browser = app.login(Role::Admin).await;
    let page = app.get("/servers/web-1/configuration").by(&browser).send().await.text();
    assert!(page.contains("There is no agent for") && page.contains("pdp11"), "{page}");
    assert!(!page.contains("action=deploy_agent"), "nothing to deploy, so no button");
    assert_eq!(app.state("web-1").probe, Some(ProbeKind::Shell));
}

#[tokio::test]
async fn a_home_that_cannot_hold_it_is_passed_over_with_the_reason() {
    // A place of the test's own: the next ones would be those of every root login of this machine.
    let place = tempfile::tempdir().unwrap();
    let environment = format!("SetEnv HOME=/proc XDG_RUNTIME_DIR={}", place.path().display());
    let (app, sshd) = (app().await, Sshd::start_with(&environment).await);
    app.with_server("web-1", &sshd).await;
    let admin = app.token(Role::Admin).await;
    let deployed = done(&app, &admin, DEPLOY, &json!({})).await;
    assert_eq!(deployed["status"], "succeeded", "{deployed}");
    assert!(said(&deployed, "stdout").contains("Passed over /proc/.cache/roundsman: "), "{deployed}");
    let chosen = format!("Upload: {}/roundsman/roundsman-agent-", place.path().display());
    assert!(said(&deployed, "stdout").contains(&chosen), "{deployed}");
    read_by(&app, ProbeKind::Agent).await;
    let removed = done(&app, &admin, ACTIONS, &json!({ "action": "remove_agent" })).await;
    assert!(said(&removed, "stdout").contains("removed /"), "{removed}");
}

#[tokio::test]
async fn dropbear_hosts_are_deployed_to_as_well() {
    let (app, sshd) = (app().await, Sshd::dropbear().await);
    app.with_server("web-1", &sshd).await;
    let admin = app.token(Role::Admin).await;
    let deployed = done(&app, &admin, DEPLOY, &json!({})).await;
    assert_eq!(deployed["status"], "succeeded", "{deployed}");
    read_by(&app, ProbeKind::Agent).await;
    let file = files(&sshd).pop().unwrap();
    let removed = done(&app, &admin, ACTIONS, &json!({ "action": "remove_agent" })).await;
    assert_eq!(removed["status"], "succeeded", "{removed}");
    eventually("no process of the agent", || runs(&file).is_empty()).await;
}

#[tokio::test]
async fn only_an_administrator_deploys_and_a_wrong_mode_is_named() {
    let (app, sshd) = (app().await, Sshd::start().await);
    app.with_server("web-1", &sshd).await;
    let (admin, operator) = (app.token(Role::Admin).await, app.token(Role::Operator).await);
    app.post(DEPLOY).by(&operator).json(&json!({})).send().await.expect(403);
    app.post(ACTIONS).by(&operator).json(&json!({ "action": "deploy_agent" })).send().await.expect(403);
    let push = app.post(DEPLOY).by(&admin).json(&json!({ "mode": "push" })).send().await.expect(422);
    assert_eq!(push["field"], "url", "{push}");
    let planned = app.post(DEPLOY).by(&admin).json(&json!({ "mode": "serve", "dry_run": true })).send().await;
    let planned = planned.expect(200);
    assert!(planned["targets"][0]["command"].as_str().unwrap().contains("serve PLACE 8083"), "{planned}");
    assert!(files(&sshd).is_empty());
}

/// `./deploy-agent.sh` against this daemon, with its host key known or not.
fn script(sshd: &Sshd, dir: &Path, known: &str, more: &[&str]) -> Output {
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let key = write("key", sshd.client_key().expose());
    let known_hosts = write("known_hosts", known);
    fs::copy(agent::program(), dir.join(format!("roundsman-agent-{}", agent::architecture()))).unwrap();
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy-agent.sh"));
    command.args(["root@127.0.0.1", "--port", &sshd.port().get().to_string(), "--key"]).arg(key);
    command.arg("--known-hosts").arg(known_hosts).arg("--agents").arg(dir).args(more);
    command.stdin(Stdio::null()).output().unwrap()
}

#[tokio::test]
async fn the_script_deploys_is_current_the_second_time_removes_and_refuses_an_unknown_host_key() {
    let (sshd, dir) = (Sshd::start().await, tempfile::tempdir().unwrap());
    let known = format!("[127.0.0.1]:{} {}\n", sshd.port().get(), sshd.host_key());
    let text = |output: &Output| {
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let refused = script(&sshd, dir.path(), "", &[]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(files(&sshd).is_empty());
    let first = script(&sshd, dir.path(), &known, &[]);
    assert!(first.status.success() && text(&first).contains("a reading arrived"), "{}", text(&first));
    let file = files(&sshd).pop().unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o700);
    let second = script(&sshd, dir.path(), &known, &[]);
    assert!(second.status.success() && text(&second).contains("already current"), "{}", text(&second));
    let removed = script(&sshd, dir.path(), &known, &["--remove"]);
    assert!(removed.status.success() && text(&removed).contains("removed"), "{}", text(&removed));
    assert!(!file.exists() && runs(&file).is_empty());
}

#[test]
fn a_directory_that_is_noexec_full_or_somebody_elses_is_passed_over_with_the_reason() {
    let manage = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/agent/manage.sh");
    // All of it in a namespace of its own, and not below /tmp, which is covered in there.
    let inside = "set -e; mount -t tmpfs none /mnt; cd /mnt; mkdir home run good; mount -t tmpfs -o noexec none home; \
                  mount -t tmpfs -o size=64k none run; mount --bind good /tmp; mount -t tmpfs none /var/tmp; \
                  mkdir /var/tmp/roundsman-0; chown 1:1 /var/tmp/roundsman-0; \
                  HOME=/mnt/home XDG_CACHE_HOME= XDG_RUNTIME_DIR=/mnt/run exec sh -s -- place abc 1200000";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", inside])
        .stdin(fs::File::open(manage).unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let reasons: Vec<&str> = text.lines().filter(|line| line.starts_with("passed over")).collect();
    assert_eq!(reasons.len(), 3, "{text} {output:?}");
    assert!(reasons[0].contains("/home/.cache/roundsman: programs may not run there (noexec)"), "{text}");
    assert!(reasons[1].contains("/run/roundsman: it has no room"), "{text}");
    assert!(reasons[2].contains("it belongs to somebody else"), "{text}");
    assert!(text.contains("place /tmp/roundsman-0/roundsman-agent-abc"), "{text}");
}

#[tokio::test]
async fn shell_probe_agent_and_the_tools_of_this_machine_agree_metric_by_metric() {
    let sshd = Sshd::start().await;
    let file = agent::program();
    let hash = Sha256::digest(fs::read(&file).unwrap());
    let sha256 = hash.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let on_this_machine = |script: &str| {
        let output = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let file = file.to_str().unwrap();
    agree(&take_turns(&sshd.target(), file, &sha256, agreement::ASKED, on_this_machine).await);
}
