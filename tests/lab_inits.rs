//! Every action on every init system: systemd, OpenRC, System V init, and BusyBox with dropbear, which has none to ask.
//!
//! Run by `scripts/lab.sh test`, which starts the hosts.

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod lab;
#[expect(dead_code, reason = "this program uses a part of the harness")]
mod program;

use lab::acting::{enrolled, operate, result};
use lab::{Host, Init, Lab, until};
use serde_json::{Value, json};

const HOSTS: usize = 6;
const SERVICE: &str = "lab-worker";

/// A service as its host shows it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    pid: Option<u32>,
    /// How often it was told to reload since the host was made.
    reloads: usize,
}

impl Seen {
    fn on(host: &Host) -> Self {
        let reloads = host.ssh(&format!("cat /run/{SERVICE}.reloads 2>/dev/null; true"));
        Self { pid: host.service_pid(SERVICE), reloads: reloads.lines().count() }
    }
}

/// An action on a service: its word, and what it did.
type Verb = (&'static str, fn(&Seen, &Seen) -> bool);

/// In an order in which each begins where the one before ended, and ends with a service that runs.
const VERBS: [Verb; 4] = [
    ("reload_service", |before, now| now.pid == before.pid && now.reloads > before.reloads),
    ("stop_service", |_, now| now.pid.is_none()),
    ("start_service", |_, now| now.pid.is_some()),
    ("restart_service", |before, now| now.pid.is_some() && now.pid != before.pid),
];

/// The exact command.
fn command(init: Init, verb: &str) -> Option<String> {
    match init {
        Init::Systemd => Some(format!("systemctl {verb} -- {SERVICE}.service")),
        Init::OpenRc => Some(format!("rc-service {SERVICE} {verb}")),
        Init::SysV => Some(format!("service {SERVICE} {verb}")),
        Init::BusyBox => None,
    }
}

#[tokio::test]
async fn every_action_on_a_service_does_what_it_says_on_every_init_system() {
    let lab = Lab::up(HOSTS);
    let central = enrolled(&lab).await;
    let hosts: Vec<Host> = lab.hosts();
    for (action, is_done) in VERBS {
        let before: Vec<Seen> = hosts.iter().map(Seen::on).collect();
        let operation = operate(&central, action, &hosts, json!({ "service": SERVICE })).await.unwrap();
        for (host, before) in hosts.iter().zip(&before) {
            let verb = action.strip_suffix("_service").unwrap();
            let result = result(&operation, host);
            let Some(command) = command(host.init, verb) else {
                assert!(result["error"].as_str().unwrap().contains("no service manager"), "{result}");
                continue;
            };
            assert_eq!(
                (&result["status"], &result["command"]),
                (&json!("succeeded"), &json!(command)),
                "{result}"
            );
            let what = format!("{action} on {}, where it was {before:?}", host.name);
            until(&what, async || is_done(before, &Seen::on(host)).then_some(())).await;
        }
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_is_said_by_every_init_system() {
    let lab = Lab::up(HOSTS);
    let central = enrolled(&lab).await;
    let hosts: Vec<Host> = lab.hosts().into_iter().filter(|host| host.init != Init::BusyBox).collect();
    let operation =
        operate(&central, "restart_service", &hosts, json!({ "service": "no-such" })).await.unwrap();
    for host in &hosts {
        let result = result(&operation, host);
        assert_eq!(result["status"], "failed", "{result}");
        assert!(result["stderr"].as_str().unwrap().contains("no-such"), "{result}");
    }
}

#[tokio::test]
async fn a_process_is_killed_on_every_kind_of_host_and_only_the_one_that_was_meant() {
    let lab = Lab::up(HOSTS);
    let central = enrolled(&lab).await;
    for host in lab.hosts() {
        let begun = host.ssh("setsid sleep 86399 >/dev/null 2>&1 </dev/null & sleep 1; echo $! $(cut -d ' ' -f 22 /proc/$!/stat)");
        // setsid may have forked; then the process is its child.
        let found = host.ssh("for p in /proc/[0-9]*; do [ \"$(tr '\\0' ' ' <$p/cmdline 2>/dev/null)\" = 'sleep 86399 ' ] && echo ${p#/proc/} $(cut -d ' ' -f 22 $p/stat); done; true");
        let (pid, start) = found.lines().next().unwrap_or(&begun).trim().split_once(' ').unwrap();
        let (pid, start): (u32, u64) = (pid.parse().unwrap(), start.parse().unwrap());
        let parameters = |start: u64| json!({ "pid": pid, "start_ticks": start, "signal": "KILL" });
        let one = std::slice::from_ref(&host);
        let other = operate(&central, "kill_process", one, parameters(start + 1)).await.unwrap();
        assert_eq!(other["results"][0]["exit_status"], 4, "{other}");
        assert!(host.try_ssh(&format!("kill -0 {pid}")).status.success());
        let killed = operate(&central, "kill_process", one, parameters(start)).await.unwrap();
        assert_eq!(killed["status"], "completed", "{}: {killed}", host.name);
        until("the process is gone", async || {
            (!host.try_ssh(&format!("kill -0 {pid}")).status.success()).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_command_and_a_file_reach_every_kind_of_host() {
    let lab = Lab::up(HOSTS);
    let central = enrolled(&lab).await;
    let hosts = lab.hosts();
    let operation = operate(&central, "run_command", &hosts, json!({ "command": "hostname" })).await.unwrap();
    for host in &hosts {
        assert_eq!(result(&operation, host)["stdout"], format!("{}\n", host.name), "{operation}");
    }
    let page = "/srv/lab-web/index.html";
    let before: Vec<String> =
        hosts.iter().map(|host| host.ssh(&format!("cat {page}; stat -c '%a %u %g' {page}"))).collect();
    let rejected =
        json!({ "path": page, "content": "no page\n", "validate": format!("grep -q '<title>' {page}") });
    let failed = operate(&central, "update_configuration", &hosts, rejected).await.unwrap();
    for (host, before) in hosts.iter().zip(&before) {
        assert_eq!(result(&failed, host)["exit_status"], 5, "{failed}");
        assert_eq!(host.ssh(&format!("cat {page}; stat -c '%a %u %g' {page}")), *before);
    }
    let template = json!({
        "path": "/etc/lab-name", "content": "{{ name }} {{ tags | join }}\n", "mode": "0640",
        "template": true, "validate": "grep -q \"^$(hostname) lab$\" /etc/lab-name",
    });
    let stored = operate(&central, "update_configuration", &hosts, template).await.unwrap();
    for host in &hosts {
        assert_eq!(result(&stored, host)["status"], "succeeded", "{stored}");
        assert_eq!(
            host.ssh("cat /etc/lab-name; stat -c %a /etc/lab-name; rm /etc/lab-name"),
            format!("{} lab\n640\n", host.name)
        );
    }
}

#[tokio::test]
async fn a_command_runs_inside_the_containers_of_two_hosts() {
    let lab = Lab::up(2);
    let central = enrolled(&lab).await;
    let hosts = lab.hosts();
    let parameters = json!({
        "command": "ls -d /bin/busybox /etc/debian_version 2>&1; id -u",
        "container": { "engine": "podman", "name": "lab-box" },
    });
    let operation = operate(&central, "run_command", &hosts, parameters).await.unwrap();
    for host in &hosts {
        let result = result(&operation, host);
        let printed = result["stdout"].as_str().unwrap();
        assert!(printed.starts_with("/bin/busybox\n") || printed.contains("\n/bin/busybox\n"), "{result}");
        assert!(
            printed.contains("No such file") && printed.ends_with("0\n"),
            "not the host's own files: {result}"
        );
        let containers = format!("/api/v1/fleet/servers/{}/containers", host.name);
        until("the container in the readings", async || {
            let table = central.try_get(&containers).await.ok()?;
            table.to_string().contains("lab-box").then_some(())
        })
        .await;
    }
}

/// Whether the service begins at boot, as the host's own tools tell it. None: there is no init system to ask.
fn begins_at_boot(host: &Host) -> Option<bool> {
    let question = match host.init {
        Init::Systemd => format!("systemctl is-enabled -q {SERVICE}"),
        Init::OpenRc => format!("rc-update show default | grep -q ' {SERVICE} '"),
        Init::SysV => format!("ls /etc/rc2.d/S[0-9][0-9]{SERVICE} >/dev/null 2>&1"),
        Init::BusyBox => return None,
    };
    Some(host.try_ssh(&question).status.success())
}

#[tokio::test]
async fn a_service_begins_at_boot_or_not_on_every_init_system() {
    let lab = Lab::up(HOSTS);
    let central = enrolled(&lab).await;
    let hosts: Vec<Host> = lab.hosts().into_iter().filter(|host| host.init != Init::BusyBox).collect();
    for (action, wanted) in [("disable_service", false), ("enable_service", true)] {
        let done = operate(&central, action, &hosts, json!({ "service": SERVICE })).await.unwrap();
        for host in &hosts {
            assert_eq!(result(&done, host)["status"], "succeeded", "{action} on {}: {done}", host.name);
            assert_eq!(begins_at_boot(host), Some(wanted), "{action} on {}", host.name);
            assert!(host.service_pid(SERVICE).is_some(), "it runs on, on {}", host.name);
        }
    }
}

#[tokio::test]
async fn a_script_a_health_check_and_diagnostics_do_what_they_say_on_every_kind_of_host() {
    let lab = Lab::up(HOSTS);
    let central = enrolled(&lab).await;
    let hosts = lab.hosts();
    let script = json!({
        "script": "#!/bin/sh\nprintf '%s|%s|%s\\n' \"$1\" \"$COLOUR\" \"$(hostname)\"\n",
        "arguments": ["two words"], "environment": { "COLOUR": "blue" },
    });
    let done = operate(&central, "run_script", &hosts, script).await.unwrap();
    for host in &hosts {
        assert_eq!(result(&done, host)["stdout"], format!("two words|blue|{}\n", host.name), "{done}");
    }
    let done = operate(&central, "health_check", &hosts, json!({})).await.unwrap();
    for host in &hosts {
        let result = result(&done, host);
        let said = result["stdout"].as_str().unwrap_or_default();
        // The machine below the lab may be full or busy: what is said is what the exit status tells.
        let words = ["Health: healthy", "Health: degraded", "Health: critical"];
        let exit_status = words.iter().position(|word| said.starts_with(word));
        assert_eq!(exit_status.map(|status| json!(status)), Some(result["exit_status"].clone()), "{result}");
    }
    let done = operate(&central, "collect_diagnostics", &hosts, json!({})).await.unwrap();
    let kept = central.get("/api/v1/fleet/diagnostics").await;
    for host in &hosts {
        assert_eq!(result(&done, host)["status"], "succeeded", "{}: {done}", host.name);
        let of_host = |one: &&Value| one["server_name"] == host.name.as_str();
        let archive = kept["items"].as_array().unwrap().iter().find(of_host).unwrap();
        assert!(archive["size_bytes"].as_u64().unwrap() > 500, "{archive}");
    }
}

/// A container of a host's Podman with a cgroup of its own, without which none can be paused.
struct Extra(Host);

impl Extra {
    const NAME: &str = "lab-extra";

    fn on(host: &Host) -> Self {
        let extra = Self(host.clone());
        host.try_ssh(&format!("podman rm -f -t 0 {}", Self::NAME));
        host.ssh(&format!("podman run -d --cgroups=enabled --stop-timeout 1 --name {} lab-box", Self::NAME));
        extra
    }

    fn state(&self) -> String {
        self.0.ssh(&format!("podman inspect -f '{{{{.State.Status}}}}' {}", Self::NAME)).trim().to_owned()
    }
}

impl Drop for Extra {
    fn drop(&mut self) {
        self.0.try_ssh(&format!("podman rm -f -t 0 {}", Self::NAME));
        self.0.try_ssh("rmdir /sys/fs/cgroup/libpod_parent /sys/fs/cgroup/*/libpod_parent 2>/dev/null");
    }
}

#[tokio::test]
async fn containers_of_two_hosts_are_stopped_started_paused_read_and_removed() {
    let lab = Lab::up(2);
    let central = enrolled(&lab).await;
    let hosts = lab.hosts();
    let extras: Vec<Extra> = hosts.iter().map(Extra::on).collect();
    let parameters = json!({ "container": { "engine": "podman", "name": Extra::NAME } });
    for (action, wanted) in [
        ("pause_container", "paused"),
        ("unpause_container", "running"),
        ("stop_container", "exited"),
        ("start_container", "running"),
        ("restart_container", "running"),
        ("container_logs", "running"),
        ("stop_container", "exited"),
    ] {
        let done = operate(&central, action, &hosts, parameters.clone()).await.unwrap();
        for extra in &extras {
            assert_eq!(result(&done, &extra.0)["status"], "succeeded", "{action}: {done}");
            assert_eq!(extra.state(), wanted, "{action} on {}", extra.0.name);
        }
    }
    let done = operate(&central, "remove_container", &hosts, parameters).await.unwrap();
    for extra in &extras {
        assert_eq!(result(&done, &extra.0)["status"], "succeeded", "{done}");
        let is_there = extra.0.try_ssh(&format!("podman container exists {}", Extra::NAME)).status.success();
        assert!(!is_there, "{}", extra.0.name);
    }
}
