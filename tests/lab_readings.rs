//! Readings of real hosts: the shell probe, the agent and the hosts' own tools agree, metric by metric, service by service and
//! container by container.
//!
//! Run by `scripts/lab.sh test`, which builds the agent and starts the hosts.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says so by panicking"
)]

mod agreement;
#[expect(dead_code, reason = "this program uses a part of the harness")]
mod lab;
#[expect(dead_code, reason = "this program uses a part of the harness")]
mod program;

use std::process::{Command, Stdio};

use agreement::{Readings, agree, take_turns};
use lab::agents::agent;
use lab::central::Central;
use lab::{Host, Init, Lab, until};
use roundsman::collect::{AgentProbe, ShellProbe};
use roundsman::model::{Container, Sections, Service, ServiceManager, Snapshot};
use serde_json::{Value, json};

const HOSTS: usize = 6;
const CONTAINERS: Sections = Sections { containers: true, ..Sections::BASE };
const MIB: u64 = 1 << 20;

/// The agent in place for one test.
struct Brought(Host);

impl Brought {
    fn to(host: &Host) -> (Self, String) {
        host.deploy_agent(&[]).well();
        let file = host.ssh("ls ~/.cache/roundsman/roundsman-agent-*").trim().to_owned();
        (Self(host.clone()), file)
    }
}

impl Drop for Brought {
    fn drop(&mut self) {
        self.0.deploy_agent(&["--remove"]);
    }
}

async fn read(host: &Host, asked: Sections) -> Readings {
    let (_brought, file) = Brought::to(host);
    take_turns(&host.target(), &file, &agent().1, asked, |script| host.ssh(script)).await
}

#[tokio::test]
async fn shell_probe_agent_and_the_tools_of_each_kind_of_host_agree_metric_by_metric() {
    let lab = Lab::up(HOSTS);
    for number in [1, 4, 5, 6] {
        let readings = read(&lab.host(number), agreement::ASKED).await;
        agree(&readings);
    }
}

/// What a service manager says of a service: its state in our words, and the pid.
fn told_by_manager(host: &Host, service: &str) -> (String, Option<u32>) {
    let state = match host.init {
        Init::Systemd => host.ssh(&format!("systemctl is-active {service}; true")).trim().to_owned(),
        Init::OpenRc => {
            let status = host.try_ssh(&format!("rc-service {service} status"));
            // 0 started, 3 stopped, 32 crashed: rc-service(8), openrc-run(8).
            match status.status.code() {
                Some(0) => "active",
                Some(32) => "failed",
                _ => "inactive",
            }
            .to_owned()
        }
        _ => {
            let runs = host.try_ssh(&format!("service {service} status")).status.success();
            if runs { "active" } else { "inactive" }.to_owned()
        }
    };
    (state, host.service_pid(service))
}

fn service<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Service {
    let services = snapshot.services.as_deref().unwrap();
    services.iter().find(|one| one.name == name).unwrap_or_else(|| panic!("no {name} in {services:?}"))
}

/// All that both say of all services, but for what moves.
fn services_alike(readings: &Readings) {
    let fixed = |snapshot: &Snapshot| -> Vec<Service> {
        let services = snapshot.services.clone().unwrap();
        // A login starts and ends these two.
        let stays = |one: &Service| !one.name.contains('@') && !one.name.starts_with("session");
        let each = services.into_iter().filter(stays);
        each.map(|one| Service { memory_bytes: None, since_ms: None, ..one }).collect()
    };
    assert_eq!(fixed(&readings.shell), fixed(&readings.agent));
    for one in readings.shell.services.iter().flatten() {
        let Some(other) = readings.agent.services.iter().flatten().find(|other| other.name == one.name)
        else {
            continue;
        };
        if one.main_pid == other.main_pid {
            let near =
                one.since_ms.zip(other.since_ms).is_none_or(|(one, other)| one.abs_diff(other) <= 2_000);
            assert!(near && one.since_ms.is_some() == other.since_ms.is_some(), "{one:?} {other:?}");
            assert_eq!(one.memory_bytes.is_some(), other.memory_bytes.is_some(), "{}", one.name);
        }
    }
}

#[tokio::test]
async fn services_are_told_alike_by_both_probes_and_by_the_service_manager() {
    let lab = Lab::up(HOSTS);
    for (number, manager) in
        [(1, ServiceManager::Systemd), (4, ServiceManager::OpenRc), (5, ServiceManager::SysV)]
    {
        let host = lab.host(number);
        let asked = Sections { services: true, facts: true, ..Sections::BASE };
        for (verb, runs) in [("stop", false), ("start", true)] {
            host.control(verb, "lab-web");
            let readings = read(&host, asked).await;
            services_alike(&readings);
            for snapshot in [&readings.shell, &readings.agent] {
                assert_eq!(snapshot.facts.as_ref().unwrap().service_manager, manager);
                for name in ["lab-web", "lab-worker", "ssh"] {
                    let (state, pid) = told_by_manager(&host, name);
                    let one = service(snapshot, name);
                    assert_eq!(one.state, state, "{} {verb}: {one:?}", host.name);
                    if name != "ssh" {
                        assert_eq!(one.main_pid, pid, "{}: {one:?}", host.name);
                    }
                    assert_eq!(one.enabled.as_deref(), Some("enabled"), "{}: {one:?}", host.name);
                }
                assert_eq!(service(snapshot, "lab-web").state == "active", runs);
            }
        }
    }
}

fn container<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Container {
    let all = snapshot.containers.as_deref().unwrap_or_else(|| panic!("no containers: {:?}", snapshot.gaps));
    all.iter().find(|one| one.name == name).unwrap_or_else(|| panic!("no {name} in {all:?}"))
}

/// What does not move is the same, what only grows has grown.
fn containers_alike(shell: &Snapshot, agent: &Snapshot) {
    let fixed = |snapshot: &Snapshot| -> Vec<Container> {
        let each = snapshot.containers.clone().unwrap().into_iter();
        each.map(|one| Container {
            cpu_us: None,
            memory_bytes: None,
            rx_bytes: None,
            tx_bytes: None,
            block_read_bytes: None,
            block_written_bytes: None,
            // The list of the API has seconds, the program more.
            created_ms: one.created_ms.map(|ms| ms / 1000),
            ..one
        })
        .collect()
    };
    assert_eq!(fixed(shell), fixed(agent));
    for one in shell.containers.iter().flatten() {
        let other = container(agent, &one.name);
        let counters = |of: &Container| {
            [of.cpu_us, of.rx_bytes, of.tx_bytes, of.block_read_bytes, of.block_written_bytes]
        };
        for (first, second) in counters(one).into_iter().zip(counters(other)) {
            assert_eq!(first.is_some(), second.is_some(), "{one:?} {other:?}");
            assert!(first <= second, "{one:?} {other:?}");
        }
        let memory = one.memory_bytes.zip(other.memory_bytes);
        assert_eq!(memory.is_some(), one.memory_bytes.is_some() || other.memory_bytes.is_some());
        assert!(memory.is_none_or(|(one, other)| one.abs_diff(other) <= 64 * MIB), "{one:?} {other:?}");
    }
}

/// A container of a host's Podman with a cgroup of its own, which `lab-box` has not, that works all the time.
struct Busy(Host);

impl Busy {
    const NAME: &str = "lab-busy";

    fn on(host: &Host) -> Self {
        let busy = Self(host.clone());
        busy.end();
        host.ssh(&format!(
            "podman run -d --cgroups=enabled --memory 64m --name {} lab-box /bin/sh -c 'while :; do :; done'",
            Self::NAME
        ));
        busy
    }

    /// With what Podman leaves of a container's cgroup that it does not own.
    fn end(&self) {
        self.0.try_ssh(&format!("podman rm -f -t 0 {} 2>/dev/null", Self::NAME));
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.end();
        self.0.try_ssh("rmdir /sys/fs/cgroup/libpod_parent /sys/fs/cgroup/*/libpod_parent 2>/dev/null");
    }
}

#[tokio::test]
async fn containers_of_podman_are_read_alike_and_as_podman_says() {
    let lab = Lab::up(2);
    let host = lab.host(1);
    let busy = Busy::on(&host);
    host.ssh("podman start lab-box");
    let said = |what: &str| {
        host.ssh(&format!("podman inspect {} --format '{{{{{what}}}}}'", Busy::NAME)).trim().to_owned()
    };
    let before = podman_cpu_us(&host);
    let readings = read(&host, CONTAINERS).await;
    let after = podman_cpu_us(&host);
    containers_alike(&readings.shell, &readings.agent);
    for snapshot in [&readings.shell, &readings.agent] {
        assert_eq!(container(snapshot, "lab-box").state, "running");
        let one = container(snapshot, Busy::NAME);
        assert_eq!((one.engine.as_str(), one.state.as_str()), ("podman", said(".State.Status").as_str()));
        assert_eq!(
            (one.id.as_str(), one.image.as_str()),
            (said(".Id").as_str(), said(".ImageName").as_str())
        );
        let cpu_us = one.cpu_us.unwrap();
        assert!((before..=after).contains(&cpu_us), "{cpu_us} us of CPU, Podman says {before} to {after}");
        assert_eq!(one.memory_limit_bytes, Some(64 * MIB));
        assert!(one.memory_bytes.unwrap() < 64 * MIB, "{one:?}");
    }
    host.ssh(&format!("podman stop -t 0 {}", Busy::NAME));
    let stopped = read(&host, CONTAINERS).await;
    containers_alike(&stopped.shell, &stopped.agent);
    assert_eq!(container(&stopped.agent, Busy::NAME).state, "exited");
    drop(busy);
}

/// As `podman stats` has it: `1m2.345678s`, `3.95542ms`.
fn podman_cpu_us(host: &Host) -> u64 {
    let said = host.ssh(&format!("podman stats --no-stream --format json {}", Busy::NAME));
    let stats: Value = serde_json::from_str(&said).unwrap();
    let mut seconds = 0.0;
    let mut number = String::new();
    let mut unit = String::new();
    let mut add = |number: &mut String, unit: &mut String| {
        let of_unit = match unit.as_str() {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            _ => 1e-6,
        };
        seconds += number.parse::<f64>().unwrap_or(0.0) * of_unit;
        number.clear();
        unit.clear();
    };
    for c in stats[0]["cpu_time"].as_str().unwrap().chars() {
        if (c.is_ascii_digit() || c == '.') && !unit.is_empty() {
            add(&mut number, &mut unit);
        }
        if c.is_ascii_digit() || c == '.' { number.push(c) } else { unit.push(c) }
    }
    add(&mut number, &mut unit);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some minutes of CPU time")]
    let us = (seconds * 1e6) as u64;
    us
}

/// This machine by both probes: its Docker runs the lab.
async fn this_machine() -> (Snapshot, Snapshot) {
    let child = |program: &std::path::Path, arguments: &[&str]| {
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let pipes = tokio::io::join(child.stdout.take().unwrap(), child.stdin.take().unwrap());
        (child, pipes)
    };
    let (_shell, pipes) = child("sh".as_ref(), &[]);
    let mut by_shell = ShellProbe::start(pipes).await.unwrap();
    let (file, sha256) = agent();
    let (_agent, pipes) = child(&file, &["stream"]);
    let mut by_agent = AgentProbe::start(pipes, &sha256).await.unwrap();
    let shell = by_shell.read(CONTAINERS).await.unwrap();
    (shell, by_agent.read(CONTAINERS).await.unwrap())
}

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn containers_of_docker_are_read_alike_and_as_docker_says() {
    let lab = Lab::up(2);
    let (shell, agent) = this_machine().await;
    containers_alike(&shell, &agent);
    let mut listed: Vec<String> =
        docker(&["ps", "-a", "--format", "{{.Names}}"]).lines().map(str::to_owned).collect();
    listed.sort();
    for snapshot in [&shell, &agent] {
        let names: Vec<&str> = snapshot.containers.iter().flatten().map(|one| one.name.as_str()).collect();
        assert_eq!(names, listed);
        for host in lab.hosts() {
            let one = container(snapshot, host.container());
            let said = |what: &str| host.inspect(&format!("{{{{{what}}}}}"));
            assert_eq!((one.engine.as_str(), one.state.clone()), ("docker", said(".State.Status")));
            assert_eq!((one.id.clone(), one.image.clone()), (said(".Id"), said(".Config.Image")));
            assert_eq!(one.restarts.unwrap().to_string(), said(".RestartCount"));
            assert_eq!(one.memory_limit_bytes.unwrap().to_string(), said(".HostConfig.Memory"));
            assert!(one.labels.iter().any(|label| label == "dev.roundsman.lab=host"), "{one:?}");
            assert_eq!(one.ports.len(), 1, "{one:?}");
            // The network of the host, as the host itself counts it a moment later.
            let received: u64 =
                host.ssh("cat /sys/class/net/eth0/statistics/rx_bytes").trim().parse().unwrap();
            assert!(one.rx_bytes.unwrap() <= received, "{one:?}, now {received}");
            assert!(one.cpu_us.unwrap() > 0 && one.memory_bytes.unwrap() > MIB, "{one:?}");
        }
    }
}

#[tokio::test]
async fn containers_of_both_engines_are_restarted_from_here_and_the_page_follows() {
    let lab = Lab::up(3);
    let (host, other) = (lab.host(1), lab.host(3));
    let central = Central::acting_locally();
    central.enrol(&host);
    let servers = central.get("/api/v1/fleet/servers").await;
    let local =
        servers["items"].as_array().unwrap().iter().find(|one| one["transport"] == "local").unwrap().clone();
    let local = local["name"].as_str().unwrap();
    for (server, name, engine) in
        [(host.name.as_str(), "lab-box", "podman"), (local, other.container(), "docker")]
    {
        let path = format!("/api/v1/fleet/servers/{server}");
        let started = async || {
            until(&format!("{name} in the readings of {server}"), async || {
                let table = central.try_get(&format!("{path}/containers")).await.ok()?;
                let all = table["containers"].as_array()?.clone();
                let one = all.into_iter().find(|one| one["name"] == name)?;
                (one["state"] == "running" && one["engine"] == engine).then(|| one["started_ms"].as_u64())?
            })
            .await
            .0
        };
        let before = started().await;
        let body = json!({ "action": "restart_container", "container": { "engine": engine, "name": name } });
        let begun = central.post(&format!("{path}/actions"), &body).await.unwrap();
        let done = central.ended(&begun).await;
        assert_eq!(done["status"], "completed", "{done}");
        until("a new start", async || (started().await > before).then_some(())).await;
    }
}
