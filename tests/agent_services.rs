//! The agent as a service: systemd, OpenRC and SysV init, in serve and push mode, deployed over a real sshd.
//!
//! Each daemon has /etc, /run, /usr/local/bin and /var/lib of its own, so nothing of this machine is touched. SysV init is the
//! machine's own start-stop-daemon and update-rc.d; systemd and OpenRC, which run no services here, are scripts on the PATH that do
//! what their programs would do with the very file that was installed.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use roundsman::model::{Health, ProbeKind, Role};
use serde_json::{Value, json};
use support::app::{TestApp, Who};
use support::sshd::{Sshd, free_port};
use support::{agent, eventually, in_time, processes};

const SERVERS: &str = "/api/v1/fleet/servers";

/// A service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    Systemd,
    OpenRc,
    SysV,
}

/// Starts what the unit says as its user, with its file of settings, as systemd would.
const SYSTEMCTL: &str = r#"#!/bin/sh
unit=/etc/systemd/system/roundsman-agent.service pid=/run/roundsman-agent.pid
wants=/etc/systemd/system/multi-user.target.wants
of() { sed -n "s/^$1=//p" $unit; }
halt() { [ ! -e $pid ] || start-stop-daemon --stop --quiet --oknodo --retry 5 --pidfile $pid; rm -f $pid; }
case $1 in
    daemon-reload|status) ;;
    enable) [ "$(of WantedBy)" = multi-user.target ] && mkdir -p $wants && ln -sf $unit $wants/ ;;
    restart)
        halt
        file=$(of EnvironmentFile); file=${file#-}
        if [ -r "$file" ]; then set -a; . "$file"; set +a; fi
        STATE_DIRECTORY=/var/lib/$(of StateDirectory); export STATE_DIRECTORY
        mkdir -p "$STATE_DIRECTORY"; chown "$(of User)" "$STATE_DIRECTORY"
        set -- $(of ExecStart); program=$1; shift
        start-stop-daemon --start --quiet --background --make-pidfile --pidfile $pid --chuid "$(of User)" --exec "$program" -- "$@" ;;
    is-active) start-stop-daemon --status --pidfile $pid ;;
    stop) halt ;;
    disable) rm -f $wants/roundsman-agent.service ;;
    *) echo "systemctl: $*" >&2; exit 1 ;;
esac
"#;
/// Runs the service script's variables, as openrc-run would.
const RC_SERVICE: &str = r#"#!/bin/sh
[ "$1" != --quiet ] || shift
. "/etc/init.d/$1"
halt() { [ ! -e $pidfile ] || start-stop-daemon --stop --quiet --oknodo --retry 5 --pidfile $pidfile; rm -f $pidfile; }
case $2 in
    start) start-stop-daemon --start --quiet --background --make-pidfile --pidfile $pidfile --chuid $command_user --exec $command -- $command_args ;;
    stop) halt ;;
    *) exit 1 ;;
esac
"#;
const RC_UPDATE: &str = r#"#!/bin/sh
mkdir -p /etc/runlevels/default
case $1 in
    add) ln -sf "/etc/init.d/$2" /etc/runlevels/default/ ;;
    del) rm -f "/etc/runlevels/default/$2" ;;
esac
"#;

/// A daemon on a machine with this service manager. What it left running is ended with it.
struct Machine {
    sshd: Sshd,
}

impl Machine {
    async fn with(manager: Manager) -> Self {
        Self::of(manager, "").await
    }

    /// With more lines of sshd_config(5).
    async fn of(manager: Manager, config: &str) -> Self {
        let programs: &[(&str, &str)] = match manager {
            Manager::Systemd => &[("systemctl", SYSTEMCTL)],
            Manager::OpenRc => &[("rc-service", RC_SERVICE), ("rc-update", RC_UPDATE)],
            Manager::SysV => &[],
        };
        let run = if manager == Manager::Systemd { "mkdir -p /run/systemd/system" } else { "true" };
        let sshd = Sshd::with_mounts(config, |own| {
            let tools = own.join("tools");
            fs::create_dir(&tools).unwrap();
            for (name, text) in programs {
                fs::write(tools.join(name), text).unwrap();
                fs::set_permissions(tools.join(name), fs::Permissions::from_mode(0o755)).unwrap();
            }
            let own = own.display();
            // A user of this test's own: userdel refuses one that runs anything, be it in another test.
            let uid = 20_000 + std::process::id() % 40_000;
            let users = format!(
                "printf 'SYS_UID_MIN {uid}\\nSYS_UID_MAX {uid}\\nSYS_GID_MIN {uid}\\nSYS_GID_MAX {uid}\\n' >/etc/login.defs"
            );
            format!(
                "mkdir {own}/etc && cp -a /etc/. {own}/etc && mount --bind {own}/etc /etc && {users} && mount -t tmpfs none /run && \
                 mkdir -p /run/sshd && {run} && mount -t tmpfs none /usr/local/bin && \
                 for tool in {own}/tools/*; do [ ! -e \"$tool\" ] || cp \"$tool\" /usr/local/bin; done && mount -t tmpfs none /var/lib"
            )
        });
        Self { sshd: sshd.await }
    }

    /// A path as the machine sees it.
    fn path(&self, path: &str) -> PathBuf {
        self.sshd.root().join(path.trim_start_matches('/'))
    }

    fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.path("/run/roundsman-agent.pid")).ok()?.trim().parse().ok()
    }

    /// The user that runs the service is not root.
    fn runs_unprivileged(&self) {
        let pid = self.pid().unwrap();
        let uid = fs::metadata(format!("/proc/{pid}")).unwrap().uid();
        let passwd = fs::read_to_string(self.path("/etc/passwd")).unwrap();
        let user = passwd.lines().find(|line| line.starts_with("roundsman-agent:")).unwrap();
        assert_ne!(uid, 0);
        assert_eq!(user.split(':').nth(2).unwrap(), uid.to_string(), "{user}");
        assert!(user.ends_with("nologin"), "{user}");
    }

    /// What starts it at boot.
    fn starts_at_boot(&self, manager: Manager) -> bool {
        match manager {
            Manager::Systemd => fs::symlink_metadata(
                self.path("/etc/systemd/system/multi-user.target.wants/roundsman-agent.service"),
            )
            .is_ok(),
            Manager::OpenRc => {
                fs::symlink_metadata(self.path("/etc/runlevels/default/roundsman-agent")).is_ok()
            }
            Manager::SysV => fs::read_dir(self.path("/etc/rc2.d")).unwrap().flatten().any(|entry| {
                let name = entry.file_name().into_string().unwrap();
                name.starts_with('S') && name.ends_with("roundsman-agent")
            }),
        }
    }

    fn nothing_is_left(&self) {
        for path in [
            "/usr/local/bin/roundsman-agent",
            "/etc/systemd/system/roundsman-agent.service",
            "/etc/init.d/roundsman-agent",
            "/etc/roundsman",
            "/var/lib/roundsman-agent",
        ] {
            assert!(fs::symlink_metadata(self.path(path)).is_err(), "{path}");
        }
        let passwd = fs::read_to_string(self.path("/etc/passwd")).unwrap();
        assert!(!passwd.contains("roundsman-agent"));
        assert!(!self.sshd.home().join(".cache/roundsman").exists());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            processes::signal("KILL", &[pid]);
        }
    }
}

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

fn secret_of(path: &Path) -> String {
    fs::read_to_string(path).unwrap().trim().to_owned()
}

/// Deployed as a service, read through SSH with its command lines, and removed without a trace.
async fn served(manager: Manager) {
    let (app, machine) = (app().await, Machine::with(manager).await);
    app.with_server("web-1", &machine.sshd).await;
    let admin = app.token(Role::Admin).await;
    let port = free_port();
    let deploy = json!({ "mode": "serve", "port": port });
    let deployed = done(&app, &admin, &format!("{SERVERS}/web-1/deploy"), &deploy).await;
    assert_eq!(deployed["status"], "succeeded", "{deployed}");
    let said = deployed["stdout"].as_str().unwrap();
    assert!(said.contains(&format!("Service: 127.0.0.1:{port}")), "{said}");
    machine.runs_unprivileged();
    assert!(machine.starts_at_boot(manager));
    let read = |state: &roundsman::fleet::ServerState| state.probe == Some(ProbeKind::Agent);
    let state = app.until("web-1", "read by the agent", read).await;
    assert!(!state.gaps.iter().any(|gap| gap.section == "agent"), "{:?}", state.gaps);
    let token = machine.path("/etc/roundsman/agent.token");
    assert_eq!(fs::metadata(&token).unwrap().permissions().mode() & 0o777, 0o400);
    assert!(!deployed.to_string().contains(&secret_of(&token)), "the token is in no record");
    let command_lines = || async {
        let table = app.get(&format!("{SERVERS}/web-1/processes")).by(&admin).send().await;
        table.status == 200 && table.text().contains("--token-file")
    };
    in_time("a command line, which needs the token", async {
        while !command_lines().await {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    })
    .await;
    let logins = machine.sshd.logins();
    let app = app.restart().await;
    app.until("web-1", "read by the agent again", read).await;
    assert_eq!(machine.sshd.logins(), logins + 1, "its readings share the one connection");
    // The service dies: its file is started over SSH in its place, and the page says so.
    processes::signal("KILL", &[machine.pid().unwrap()]);
    app.until("web-1", "told of the service", |state| {
        state.gaps.iter().any(|gap| gap.section == "agent" && gap.reason.contains(&port.to_string()))
            || state.probe == Some(ProbeKind::Shell)
    })
    .await;
    let removed =
        done(&app, &admin, &format!("{SERVERS}/web-1/actions"), &json!({ "action": "remove_agent" })).await;
    assert_eq!(removed["status"], "succeeded", "{removed}");
    app.until("web-1", "read by the shell", |state| state.probe == Some(ProbeKind::Shell)).await;
    machine.nothing_is_left();
    assert!(!machine.starts_at_boot(manager));
}

#[tokio::test]
async fn on_systemd_the_agent_is_a_service_of_an_unprivileged_user_that_is_read_through_ssh() {
    Box::pin(served(Manager::Systemd)).await;
}

#[tokio::test]
async fn on_openrc_the_agent_is_a_service_of_an_unprivileged_user_that_is_read_through_ssh() {
    Box::pin(served(Manager::OpenRc)).await;
}

#[tokio::test]
async fn on_sysv_init_the_agent_is_a_service_of_an_unprivileged_user_that_is_read_through_ssh() {
    Box::pin(served(Manager::SysV)).await;
}

#[tokio::test]
async fn where_no_ports_are_forwarded_the_agent_is_started_over_ssh_and_the_page_says_why() {
    let app = app().await;
    let machine = Machine::of(Manager::SysV, "AllowTcpForwarding no").await;
    app.with_server("web-1", &machine.sshd).await;
    let admin = app.token(Role::Admin).await;
    let deploy = json!({ "mode": "serve", "port": free_port() });
    let deployed = done(&app, &admin, &format!("{SERVERS}/web-1/deploy"), &deploy).await;
    assert_eq!(deployed["status"], "succeeded", "{deployed}");
    let state = app
        .until("web-1", "read by the agent", |state| {
            state.probe == Some(ProbeKind::Agent) && state.gaps.iter().any(|gap| gap.section == "agent")
        })
        .await;
    let gap = state.gaps.iter().find(|gap| gap.section == "agent").unwrap();
    assert!(gap.reason.contains("started over SSH in place of its service"), "{}", gap.reason);
}

/// A server that reports, with an SSH address for actions.
async fn reporting(app: &TestApp, admin: &Who, sshd: &Sshd) -> String {
    let key = json!({ "name": "lab", "private_key": sshd.client_key().expose() });
    let key = app.post("/api/v1/keys/import").by(admin).json(&key).send().await;
    let body = json!({
        "name": "edge-1", "transport": "push", "hostname": "127.0.0.1", "port": sshd.port().get(), "username": "root",
        "interval_ms": 1000,
    });
    let made = app.post(SERVERS).by(admin).json(&body).send().await.expect(201);
    let base = format!("{SERVERS}/edge-1");
    app.call("PATCH", &base)
        .by(admin)
        .json(&json!({ "identity": key.json()["id"] }))
        .send()
        .await
        .expect(200);
    app.post(&format!("{base}/test")).by(admin).json(&json!({})).send().await.expect(200);
    let server = app.get(&base).by(admin).send().await.expect(200);
    let approval = json!({ "host_key": server["offered_host_key"] });
    app.post(&format!("{base}/host-key")).by(admin).json(&approval).send().await.expect(200);
    made["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_push_agent_is_deployed_over_ssh_with_a_token_of_its_own_and_reports() {
    let (app, machine) = (app().await, Machine::with(Manager::SysV).await);
    let admin = app.token(Role::Admin).await;
    let address = app.listen().await;
    let first = reporting(&app, &admin, &machine.sshd).await;
    let deploy = format!("{SERVERS}/edge-1/deploy");
    for (body, field) in [
        (json!({ "mode": "push" }), "url"),
        (json!({ "mode": "push", "url": "http://hub.example.net" }), "url"),
        (json!({ "mode": "push", "url": "https://$(id)" }), "url"),
        (json!({ "mode": "push", "url": "https://hub", "port": 9000 }), "port"),
    ] {
        let refused = app.post(&deploy).by(&admin).json(&body).send().await.expect(422);
        assert_eq!(refused["field"], field, "{refused}");
    }
    let wrong = done(&app, &admin, &deploy, &json!({ "mode": "stream" })).await;
    assert!(wrong["error"].as_str().unwrap().contains("reports by itself"), "{wrong}");
    let body = json!({ "mode": "push", "url": format!("http://{address}") });
    let deployed = done(&app, &admin, &deploy, &body).await;
    assert_eq!(deployed["status"], "succeeded", "{deployed}");
    machine.runs_unprivileged();
    assert!(machine.starts_at_boot(Manager::SysV));
    let settings = machine.path("/etc/roundsman/agent.env");
    assert_eq!(fs::metadata(&settings).unwrap().permissions().mode() & 0o777, 0o640);
    let text = secret_of(&settings);
    let token = text.lines().find_map(|line| line.strip_prefix("ROUNDSMAN_TOKEN=")).unwrap();
    assert_ne!(token, first, "another token than the one that a person saw");
    let listed = app.get("/api/v1/fleet/operations").by(&admin).send().await.text();
    assert!(
        listed.contains("deploy_agent") && !deployed.to_string().contains(token) && !listed.contains(token)
    );
    let state = app.until("edge-1", "heard", |state| state.health == Health::Healthy).await;
    assert!(state.figures.memory_percent.is_some(), "{:?}", state.figures);
    assert!(
        fs::metadata(machine.path("/var/lib/roundsman-agent/push.state")).is_ok(),
        "it keeps its registration"
    );
    let removed =
        done(&app, &admin, &format!("{SERVERS}/edge-1/actions"), &json!({ "action": "remove_agent" })).await;
    assert_eq!(removed["status"], "succeeded", "{removed}");
    machine.nothing_is_left();
}

/// `./deploy-agent.sh` against this machine.
fn script(machine: &Machine, dir: &Path, more: &[&str], environment: &[(&str, &str)]) -> Output {
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let sshd = &machine.sshd;
    let key = write("key", sshd.client_key().expose());
    let known_hosts =
        write("known_hosts", &format!("[127.0.0.1]:{} {}\n", sshd.port().get(), sshd.host_key()));
    fs::copy(agent::program(), dir.join(format!("roundsman-agent-{}", agent::architecture()))).unwrap();
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy-agent.sh"));
    command.args(["root@127.0.0.1", "--port", &sshd.port().get().to_string(), "--key"]).arg(key);
    command.arg("--known-hosts").arg(known_hosts).arg("--agents").arg(dir).args(more);
    command.envs(environment.iter().copied());
    command.stdin(Stdio::null()).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_installs_both_services_and_removes_them() {
    let (app, machine) = (app().await, Machine::with(Manager::SysV).await);
    let dir = tempfile::tempdir().unwrap();
    let text = |output: &Output| {
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let port = free_port().to_string();
    let served = script(&machine, dir.path(), &["--mode", "serve", "--serve-port", &port], &[]);
    assert!(
        served.status.success() && text(&served).contains(&format!("127.0.0.1:{port}")),
        "{}",
        text(&served)
    );
    machine.runs_unprivileged();
    let Who::Token(enrol) = app.enrol_token().await else { unreachable!() };
    let url = format!("http://{}", app.listen().await);
    let file = dir.path().join("token");
    fs::write(&file, &enrol).unwrap();
    let environment = [("ROUNDSMAN_URL", url.as_str()), ("ROUNDSMAN_TOKEN_FILE", file.to_str().unwrap())];
    let pushed = script(&machine, dir.path(), &["--mode", "push"], &environment);
    assert!(pushed.status.success() && text(&pushed).contains("reports to http://"), "{}", text(&pushed));
    assert!(!text(&pushed).contains(&enrol));
    let caller = roundsman::model::Caller::roundsman();
    eventually("the server has registered", || {
        let all = app.services.fleet.list(&caller, &roundsman::fleet::ServerFilter::default()).unwrap();
        all.iter().any(|state| state.health == Health::Healthy)
    })
    .await;
    let removed = script(&machine, dir.path(), &["--remove"], &[]);
    assert!(removed.status.success(), "{}", text(&removed));
    machine.nothing_is_left();
}

#[tokio::test]
async fn an_agent_that_somebody_else_keeps_is_read_through_ssh_and_left_alone() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    app.with_server("web-1", &sshd).await;
    let admin = app.token(Role::Admin).await;
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let file = dir.path().join("token");
    fs::write(&file, "kept-by-somebody\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let mut service = tokio::process::Command::new(agent::program())
        .args(["serve", "--port", &port.to_string(), "--token-file"])
        .arg(&file)
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let path = format!("{SERVERS}/web-1/agent");
    for (body, field) in [(json!({ "port": 0 }), "port"), (json!({ "port": port, "token": "a b" }), "token")]
    {
        let refused = app.call("PUT", &path).by(&admin).json(&body).send().await.expect(422);
        assert_eq!(refused["field"], field);
    }
    let operator = app.token(Role::Operator).await;
    app.call("PUT", &path).by(&operator).json(&json!({ "port": port })).send().await.expect(403);
    let wanted = json!({ "port": port, "token": "kept-by-somebody" });
    let shown = app.call("PUT", &path).by(&admin).json(&wanted).send().await.expect(200);
    assert_eq!((&shown["installed"]["port"], &shown["installed"]["path"]), (&json!(port), &json!("")));
    assert!(!shown.to_string().contains("kept-by-somebody"));
    app.until("web-1", "read by the agent", |state| state.probe == Some(ProbeKind::Agent)).await;
    let removed =
        done(&app, &admin, &format!("{SERVERS}/web-1/actions"), &json!({ "action": "remove_agent" })).await;
    assert_eq!(removed["status"], "succeeded", "{removed}");
    app.until("web-1", "read by the shell", |state| state.probe == Some(ProbeKind::Shell)).await;
    assert!(service.try_wait().unwrap().is_none(), "it is not Roundsman's to end");
    service.kill().await.unwrap();
    app.call("PUT", &path).by(&admin).json(&json!({ "port": port })).send().await.expect(200);
    let told = |state: &roundsman::fleet::ServerState| {
        state.probe == Some(ProbeKind::Shell) && state.gaps.iter().any(|gap| gap.section == "agent")
    };
    let state = app.until("web-1", "told of the service", told).await;
    assert_eq!(state.reachability, roundsman::model::Reachability::Reachable);
}
