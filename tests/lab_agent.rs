//! The agent on real hosts with systemd, OpenRC, System V init and none: brought, served, upgraded, rebooted, removed, by
//! the script and by the program; and agents that report by themselves.
//!
//! Run by `scripts/lab.sh test`, which builds the agent and starts the hosts.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod lab;
#[expect(dead_code, reason = "this program uses a part of the harness")]
mod program;

use std::fs;
use std::io::Write as _;

use lab::agents::{Tunnel, agent, agents};
use lab::central::Central;
use lab::{Host, Init, Lab, bring_up, key_file, until};
use serde_json::{Value, json};

const HOSTS: usize = 6;
/// Where the central server is on a host that it is tunnelled to.
const HUB_PORT: u16 = 9083;
const SERVERS: &str = "/api/v1/fleet/servers";

/// One host of each init system that keeps services.
fn with_services(lab: &Lab) -> Vec<Host> {
    [1, 4, 5].map(|number| lab.host(number)).into()
}

/// A host whose test ended half-way keeps nothing of it for the next one.
struct Clean(Vec<Host>);

impl Clean {
    fn of(hosts: &[Host]) -> Self {
        let clean = Self(hosts.to_vec());
        clean.sweep();
        clean
    }

    fn sweep(&self) {
        for host in &self.0 {
            host.deploy_agent(&["--remove"]);
        }
    }

    fn nothing_is_left(&self) {
        for host in &self.0 {
            assert_eq!(host.traces_of_agents(), "", "{}", host.name);
        }
    }
}

impl Drop for Clean {
    fn drop(&mut self) {
        self.sweep();
    }
}

#[test]
fn the_script_brings_the_agent_to_every_kind_of_host_is_current_the_second_time_and_removes_it() {
    let lab = Lab::up(HOSTS);
    let hosts = [1, 4, 5, 6].map(|number| lab.host(number));
    let clean = Clean::of(&hosts);
    for host in &hosts {
        let first = host.deploy_agent(&[]).well();
        for step in ["Connection: ", "Processor: ", "Upload: ", "Start: ", "Verification: a reading arrived"]
        {
            assert!(first.contains(step) && !first.contains("current"), "{}: {first}", host.name);
        }
        let second = host.deploy_agent(&[]).well();
        assert!(second.contains("is already current"), "{}: {second}", host.name);
        let removed = host.deploy_agent(&["--remove"]).well();
        assert!(removed.contains("removed /root/.cache/roundsman/roundsman-agent-"), "{removed}");
    }
    clean.nothing_is_left();
    let refused = hosts[3].deploy_agent(&["--mode", "serve"]);
    assert!(refused.text.contains("no systemd, OpenRC or SysV init"), "{}", refused.text);
    assert_eq!(refused.code, Some(1));
    hosts[3].deploy_agent(&["--remove"]).well();
    clean.nothing_is_left();
}

/// An agent of another build: what stands behind the end of a program changes its hash and nothing that it does.
fn other_build() -> tempfile::TempDir {
    let (file, _) = agent();
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join(file.file_name().unwrap());
    fs::copy(&file, &other).unwrap();
    fs::OpenOptions::new().append(true).open(other).unwrap().write_all(b"another build").unwrap();
    dir
}

/// Runs as its user and answers on the loopback; the pid.
async fn serving(host: &Host) -> u32 {
    let what = format!("the service of {} answers", host.name);
    let (pid, _) = until(&what, async || {
        let (pid, user) = host.agent_service()?;
        let said = host.ask_agent("/api/health");
        (user == "roundsman-agent" && said.contains("\"roundsman-agent\"")).then_some(pid)
    })
    .await;
    assert!(host.agent_starts_at_boot(), "{}", host.name);
    pid
}

#[tokio::test]
async fn a_service_of_each_init_system_survives_restart_upgrade_and_reboot_and_is_removed_without_a_trace() {
    let lab = Lab::up(HOSTS);
    let hosts = with_services(&lab);
    let clean = Clean::of(&hosts);
    let other = other_build();
    for host in &hosts {
        host.deploy_agent(&["--mode", "serve"]).well();
        let first = serving(host).await;
        host.restart_agent();
        let second = serving(host).await;
        assert_ne!(first, second, "{}", host.name);
        let again = host.deploy_agent(&["--mode", "serve"]).well();
        assert!(again.contains("is already current"), "{again}");
        let before = host.ssh("sha256sum </usr/local/bin/roundsman-agent");
        let upgraded =
            host.deploy_agent(&["--mode", "serve", "--agents", other.path().to_str().unwrap()]).well();
        assert!(!upgraded.contains("current"), "{upgraded}");
        let third = serving(host).await;
        assert_ne!(second, third, "{}", host.name);
        assert_ne!(host.ssh("sha256sum </usr/local/bin/roundsman-agent"), before, "{}", host.name);
        assert_eq!(host.ssh("ls ~/.cache/roundsman").lines().count(), 1, "what was replaced is gone");
        host.docker("restart");
    }
    bring_up(HOSTS);
    for host in &hosts {
        serving(host).await;
        host.deploy_agent(&["--remove"]).well();
    }
    clean.nothing_is_left();
}

/// What the API says of the agent of a server.
async fn read_by(central: &Central, name: &str, probe: &str) {
    until(&format!("{name} is read by the {probe}"), async || {
        let shown = central.get(&format!("{SERVERS}/{name}/agent")).await;
        (shown["probe"] == probe).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_program_deploys_services_of_each_init_system_reads_them_through_ssh_and_removes_them() {
    let lab = Lab::up(HOSTS);
    let hosts = with_services(&lab);
    let clean = Clean::of(&hosts);
    let central = Central::with_agents();
    let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
    for host in &hosts {
        central.enrol(host);
        read_by(&central, &host.name, "shell").await;
    }
    central.cli(&[&["deploy"], &names[..], &["--mode", "serve"]].concat());
    for host in &hosts {
        read_by(&central, &host.name, "agent").await;
        assert_eq!(serving(host).await, host.agent_service().unwrap().0);
        // Without the token, which only Roundsman has, no command line is shown.
        assert!(!host.ask_agent("/api/processes").contains("bin/lab-worker"), "{}", host.name);
        assert_eq!(host.ssh("stat -c '%a %U' /etc/roundsman/agent.token"), "400 roundsman-agent\n");
        let path = format!("{SERVERS}/{}/processes", host.name);
        until("a command line, which needs the token", async || {
            let table = central.try_get(&path).await.ok()?;
            table.to_string().contains("--token-file /etc/roundsman/agent.token").then_some(())
        })
        .await;
    }
    // One that is killed: its supervisor starts it again, or its file is started over SSH; figures go on either way.
    for host in &hosts {
        let (pid, _) = host.agent_service().unwrap();
        host.ssh(&format!("kill -9 {pid}"));
        if host.init != Init::SysV {
            let what = format!("{} starts its agent again", host.name);
            until(&what, async || host.agent_service().filter(|(now, _)| *now != pid)).await;
        }
        assert_ne!(central.server(host).await["health_status"], "unreachable");
    }
    let second = central.try_cli(&[&["deploy"], &names[..1], &["--mode", "serve"]].concat()).well();
    assert!(second.stdout.contains("is already current"), "{}", second.stdout);
    central.cli(&[&["deploy"], &names[..], &["--remove"]].concat());
    for name in names {
        read_by(&central, name, "shell").await;
    }
    clean.nothing_is_left();
}

/// A server that reports, with an SSH address for the deployment.
async fn reporting(central: &Central, host: &Host, identity: &Value) -> String {
    let name = format!("{}-reports", host.name);
    let place = host.address.trim_start_matches("root@");
    let (address, port) = place.rsplit_once(':').unwrap_or((place, "22"));
    let body = json!({
        "name": name, "transport": "push", "hostname": address, "port": port.parse::<u16>().unwrap(),
        "username": "root", "interval_ms": 1000,
    });
    central.post(SERVERS, &body).await.unwrap();
    let path = format!("{SERVERS}/{name}");
    central.send("PATCH", &path, &json!({ "identity": identity })).await.unwrap();
    central.post(&format!("{path}/test"), &json!({})).await.unwrap();
    let server = central.get(&path).await;
    central
        .post(&format!("{path}/host-key"), &json!({ "host_key": server["offered_host_key"] }))
        .await
        .unwrap();
    name
}

/// Figures, tables and history of a server that reports are those of the same host over SSH.
async fn shown_alike(central: &Central, reports: &str, by_ssh: &str) {
    let figures = async |name: &str| {
        until(&format!("figures of {name}"), async || {
            let server = central.get(&format!("{SERVERS}/{name}")).await;
            let current = server["current"].clone();
            (server["health_status"] != "unreachable" && current["cpu_percent"].is_number())
                .then_some(current)
        })
        .await
        .0
    };
    let known = |value: &Value| -> Vec<String> {
        let figures = value.as_object().unwrap().iter();
        figures.filter(|(_, value)| !value.is_null()).map(|(name, _)| name.clone()).collect()
    };
    // Asked over SSH only: how long an answer takes and how far the clock is off. The service's user does not see root's containers.
    let of_ssh_only = ["response_time_ms", "clock_offset_seconds", "containers_running"];
    let ((one, other), _) = until(&format!("all figures of {reports}"), async || {
        let (one, other) = (figures(reports).await, figures(by_ssh).await);
        let of_one = known(&one);
        let mut missing = known(&other);
        missing.retain(|name| !of_one.contains(name) && !of_ssh_only.contains(&name.as_str()));
        (missing.is_empty() && other["active_services"].is_number()).then_some((one, other))
    })
    .await;
    let near = |name: &str| one[name].as_f64().unwrap() - other[name].as_f64().unwrap();
    assert!(near("memory_percent").abs() < 25.0 && near("disk_percent").abs() < 2.0, "{one} {other}");
    for table in ["facts", "services", "processes"] {
        let read = async |name: &str| {
            let path = format!("{SERVERS}/{name}/{table}");
            until(&path, async || central.try_get(&path).await.ok()).await.0
        };
        let (one, other) = (read(reports).await, read(by_ssh).await);
        if table == "facts" {
            for fact in ["hostname", "os_name", "kernel", "service_manager", "cpu_cores", "architecture"] {
                assert_eq!(one[fact], other[fact], "{fact}");
            }
        }
        assert!(
            one.to_string().contains("lab-w") && other.to_string().contains("lab-w") || table == "facts",
            "{table}"
        );
    }
    until("history", async || {
        let path = format!("{SERVERS}/{reports}/metrics?metric=memory_percent&period=1h");
        let answer = central.try_get(&path).await.ok()?;
        answer.to_string().contains("memory_percent").then_some(())
    })
    .await;
}

#[tokio::test]
async fn agents_of_each_init_system_report_to_the_central_server_and_show_what_ssh_shows() {
    let lab = Lab::up(HOSTS);
    let hosts = with_services(&lab);
    let clean = Clean::of(&hosts);
    let central = Central::with_agents();
    let key = json!({ "name": "lab", "private_key": fs::read_to_string(key_file()).unwrap() });
    let key = central.post("/api/v1/keys/import", &key).await.unwrap();
    for host in &hosts {
        let _tunnel = Tunnel::from(host, HUB_PORT, central.port());
        central.enrol(host);
        let name = reporting(&central, host, &key["id"]).await;
        let body = json!({ "mode": "push", "url": format!("http://127.0.0.1:{HUB_PORT}") });
        let begun = central.post(&format!("{SERVERS}/{name}/deploy"), &body).await.unwrap();
        let deployed = central.ended(&begun).await;
        assert_eq!(deployed["status"], "completed", "{}: {deployed}", host.name);
        shown_alike(&central, &name, &host.name).await;
        let (first, user) = host.agent_service().unwrap();
        assert_eq!(user, "roundsman-agent");
        assert!(host.agent_starts_at_boot());
        assert_eq!(host.ssh("stat -c '%a %U %G' /etc/roundsman/agent.env"), "640 root roundsman-agent\n");
        host.restart_agent();
        until("another process", async || host.agent_service().filter(|(pid, _)| *pid != first)).await;
        let path = format!("{SERVERS}/{name}");
        let seen = central.get(&path).await["last_seen_at"].clone();
        until("a heartbeat of it", async || (central.get(&path).await["last_seen_at"] != seen).then_some(()))
            .await;
        let begun =
            central.post(&format!("{path}/actions"), &json!({ "action": "remove_agent" })).await.unwrap();
        let removed = central.ended(&begun).await;
        assert_eq!(removed["status"], "completed", "{removed}");
    }
    clean.nothing_is_left();
}

#[tokio::test]
async fn the_script_installs_an_agent_that_registers_by_itself_with_an_enrol_token() {
    let lab = Lab::up(HOSTS);
    let host = lab.host(4);
    let clean = Clean::of(std::slice::from_ref(&host));
    let central = Central::with_agents();
    let _tunnel = Tunnel::from(&host, HUB_PORT, central.port());
    let token = central.cli(&["token", "create", "--scope", "enrol"]);
    let file = central.file("enrol", &token);
    let url = format!("http://127.0.0.1:{HUB_PORT}");
    let environment = [("ROUNDSMAN_URL", url.as_str()), ("ROUNDSMAN_TOKEN_FILE", file.to_str().unwrap())];
    let said = host.deploy_agent_with(&["--mode", "push"], &environment).well();
    assert!(!said.contains(token.trim()), "the token is shown to nobody");
    until("it has registered and reports", async || {
        let server = central.try_get(&format!("{SERVERS}/{}", host.name)).await.ok()?;
        (server["transport"] == "push" && server["current"]["cpu_percent"].is_number()).then_some(())
    })
    .await;
    assert!(!host.ssh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").contains(token.trim()));
    host.deploy_agent(&["--remove"]).well();
    clean.nothing_is_left();
    assert!(agents().is_dir());
}
