//! The real program against real Debian hosts with systemd: enrolment, readings, and hosts that go and come back.
//!
//! Run by `scripts/lab.sh test`, which starts the hosts.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails says so by panicking"
)]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod lab;
#[expect(dead_code, reason = "this program uses a part of the harness")]
mod program;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use lab::central::Central;
use lab::{Host, Lab, bring_up, lab_script, until};
use serde_json::Value;

/// The default interval, on which the promises of unreachability rest.
const INTERVAL: Duration = Duration::from_secs(5);
/// A reading that comes later than this after the one before was missed or held up by somebody else's trouble.
const ON_TIME: Duration = Duration::from_millis(7500);
/// Time that an answer of the API and the next look take on a loaded machine.
const LOOKING: Duration = Duration::from_secs(1);
/// Readings come back by themselves within this, SPEC 7.2.
const BACK_WITHIN: Duration = Duration::from_mins(1);

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("no text at {pointer} of {value}"))
}

async fn until_health(central: &Central, host: &Host, health: &str) -> (Value, Duration) {
    until(&format!("{} is {health}", host.name), async || {
        let server = central.server(host).await;
        (text(&server, "/health_status") == health).then_some(server)
    })
    .await
}

/// A table of the server once it was read.
async fn table(central: &Central, host: &Host, name: &str) -> Value {
    let path = format!("/api/v1/fleet/servers/{}/{name}", host.name);
    until(&path, async || central.try_get(&path).await.ok()).await.0
}

#[tokio::test]
async fn enrolled_hosts_are_read_and_say_who_they_are() {
    let lab = Lab::up(3);
    let central = Central::start();
    for host in lab.hosts() {
        central.enrol(&host);
    }
    for host in lab.hosts() {
        let (server, _) = until(&format!("{} has rates", host.name), async || {
            let server = central.server(&host).await;
            server.pointer("/current/cpu_percent").and_then(Value::as_f64).map(|_| server)
        })
        .await;
        assert_eq!(text(&server, "/health_status"), "healthy", "{server}");
        assert_eq!(server["logins_today"], 1, "{server}");
        let facts = table(&central, &host, "facts").await;
        assert_eq!(text(&facts, "/hostname"), host.name);
        assert_eq!(text(&facts, "/os_id"), "debian");
        assert_eq!(text(&facts, "/service_manager"), "systemd");
        assert_eq!(text(&facts, "/architecture"), host.ssh("uname -m").trim());
    }
    let listed: Vec<Value> = serde_json::from_str(&central.cli(&["list", "--tag", "lab", "--json"])).unwrap();
    let names: Vec<&str> = listed.iter().map(|server| text(server, "/name")).collect();
    assert_eq!(names, ["lab-1", "lab-2", "lab-3"]);
}

#[tokio::test]
async fn a_host_that_knows_the_key_of_roundsman_needs_no_other() {
    let lab = Lab::up(1);
    let central = Central::start();
    let keys = central.get("/api/v1/keys").await;
    let own = keys["items"].as_array().unwrap().iter().find(|key| key["is_default"] == true).unwrap();
    lab_script(&["up", "1", "--authorize", text(own, "/public_key")]);
    let host = lab.host(1);
    central.cli(&["add", &host.address, "--name", &host.name, "--accept-new"]);
    until_health(&central, &host, "healthy").await;
}

/// Every service of the host that systemd has loaded or knows to be masked: name without suffix, active state.
fn systemctl_states(host: &Host) -> BTreeMap<String, String> {
    let units = host.ssh("systemctl list-units --type=service --all --plain --no-legend");
    let mut states = BTreeMap::new();
    for line in units.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // UNIT LOAD ACTIVE SUB DESCRIPTION
        if let [unit, "loaded" | "masked", active, ..] = fields[..] {
            states.insert(unit.trim_end_matches(".service").to_owned(), active.to_owned());
        }
    }
    states
}

fn api_states(services: &Value) -> BTreeMap<String, String> {
    let services = services["services"].as_array().unwrap();
    services.iter().map(|unit| (text(unit, "/name").to_owned(), text(unit, "/state").to_owned())).collect()
}

#[tokio::test]
async fn services_and_processes_agree_with_what_the_host_says() {
    let lab = Lab::up(1);
    let host = lab.host(1);
    let central = Central::start();
    central.enrol(&host);

    let services = table(&central, &host, "services").await;
    let shown = api_states(&services);
    let said = systemctl_states(&host);
    for name in ["lab-web", "lab-worker", "ssh", "systemd-journald"] {
        assert_eq!(shown.get(name).map(String::as_str), Some("active"), "{name} in {shown:?}");
    }
    // Units that come and go with a login or a timer may have changed between the two looks.
    let settled = |name: &str| !name.contains('@') && !name.starts_with("systemd-tmpfiles");
    for (name, state) in shown.iter().filter(|(name, _)| settled(name)) {
        assert_eq!(said.get(name), Some(state), "{name}");
    }

    let worker =
        services["services"].as_array().unwrap().iter().find(|unit| unit["name"] == "lab-worker").unwrap();
    let pid: u64 = host.ssh("systemctl show -p MainPID --value lab-worker").trim().parse().unwrap();
    assert_eq!(worker["main_pid"], pid);
    assert_eq!(text(worker, "/enabled"), "enabled");
    let processes = table(&central, &host, "processes").await;
    let found = processes["processes"].as_array().unwrap().iter().find(|process| process["pid"] == pid);
    assert!(found.is_some_and(|process| process.to_string().contains("lab-worker")), "{processes}");

    host.ssh("systemctl stop lab-web");
    let path = format!("/api/v1/fleet/servers/{}/services", host.name);
    until("lab-web is shown as inactive", async || {
        let shown = api_states(&central.get(&path).await);
        (shown.get("lab-web").map(String::as_str) == Some("inactive")).then_some(())
    })
    .await;
    assert_eq!(host.try_ssh("systemctl is-active lab-web").stdout, b"inactive\n");
    assert_eq!(text(&central.server(&host).await, "/health_status"), "healthy", "stopped is not failed");
    host.ssh("systemctl start lab-web");
}

#[tokio::test]
async fn a_failed_unit_degrades_its_host_by_name_until_it_is_reset() {
    let lab = Lab::up(2);
    let central = Central::start();
    for host in lab.hosts() {
        central.enrol(&host);
        until_health(&central, &host, "healthy").await;
    }
    let (broken, fine) = (lab.host(1), lab.host(2));
    broken.ssh("systemd-run --quiet --unit=lab-broken false");
    let (server, after) = until_health(&central, &broken, "degraded").await;
    assert!(server["health_reasons"].to_string().contains("lab-broken"), "{server}");
    assert!(after <= BACK_WITHIN, "degraded only after {after:?}");
    assert_eq!(text(&central.server(&fine).await, "/health_status"), "healthy");

    broken.ssh("systemctl reset-failed lab-broken");
    let (_, after) = until_health(&central, &broken, "healthy").await;
    assert!(after <= BACK_WITHIN, "healthy again only after {after:?}");
}

/// Remembers when a server was seen, and the longest time in between.
struct Watch {
    host: Host,
    last: Option<Timestamp>,
    longest: Duration,
}

impl Watch {
    const fn over(host: Host) -> Self {
        Self { host, last: None, longest: Duration::ZERO }
    }

    async fn look(&mut self, central: &Central) {
        let server = central.server(&self.host).await;
        assert_eq!(text(&server, "/health_status"), "healthy", "{} suffers too: {server}", self.host.name);
        let seen: Timestamp = text(&server, "/last_seen_at").parse().unwrap();
        if let Some(last) = self.last {
            self.longest = self.longest.max(Duration::try_from(seen.duration_since(last)).unwrap());
        }
        self.last = Some(seen);
    }
}

/// Takes lab-1 away with one docker verb and gives it back with another; the others must not notice.
async fn goes_and_comes_back(away: &str, back: &str) {
    let lab = Lab::up(3);
    let central = Central::start();
    for host in lab.hosts() {
        central.enrol(&host);
        until_health(&central, &host, "healthy").await;
    }
    let mut others = [Watch::over(lab.host(2)), Watch::over(lab.host(3))];
    let lost = lab.host(1);

    lost.docker(away);
    let (server, noticed) = until(&format!("{} is unreachable", lost.name), async || {
        for other in &mut others {
            other.look(&central).await;
        }
        let server = central.server(&lost).await;
        (text(&server, "/health_status") == "unreachable").then_some(server)
    })
    .await;
    assert!(noticed <= 3 * INTERVAL + LOOKING, "unreachable only {noticed:?} after docker {away}");
    assert!(!text(&server, "/reachability/reason").is_empty());

    // Long enough that another server's readings would show if they waited for the dead one.
    let watched = tokio::time::Instant::now();
    until("the others were watched", async || {
        for other in &mut others {
            other.look(&central).await;
        }
        (watched.elapsed() >= 4 * INTERVAL).then_some(())
    })
    .await;
    assert_eq!(text(&central.server(&lost).await, "/health_status"), "unreachable");
    for other in &others {
        let longest = other.longest;
        assert!(longest > Duration::ZERO && longest <= ON_TIME, "{}: {longest:?}", other.host.name);
    }

    lost.docker(back);
    let (server, returned) = until_health(&central, &lost, "healthy").await;
    assert!(returned <= BACK_WITHIN, "healthy only {returned:?} after docker {back}");
    assert!(server["logins_today"].as_u64().is_some_and(|logins| logins >= 2), "{server}");
}

#[tokio::test]
async fn a_stopped_host_is_unreachable_in_time_and_comes_back_by_itself() {
    goes_and_comes_back("stop", "start").await;
}

#[tokio::test]
async fn a_frozen_host_is_unreachable_in_time_and_comes_back_by_itself() {
    goes_and_comes_back("pause", "unpause").await;
}

#[test]
fn a_second_up_leaves_running_hosts_alone_and_brings_back_the_rest() {
    let lab = Lab::up(2);
    let (one, two) = (lab.host(1), lab.host(2));
    let before = (one.inspect("{{.Id}} {{.State.StartedAt}}"), two.inspect("{{.Id}}"));
    two.docker("stop");
    bring_up(2);
    assert_eq!((one.inspect("{{.Id}} {{.State.StartedAt}}"), two.inspect("{{.Id}}")), before);
    assert_eq!(two.ssh("systemctl is-system-running"), "running\n");
    let status = lab_script(&["status"]);
    assert!(status.lines().any(|line| line.starts_with("lab-2 ") && line.ends_with("running")), "{status}");
}

#[test]
fn hosts_have_identities_of_their_own() {
    let lab = Lab::up(2);
    for file in ["/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub", "/etc/hostname"] {
        let contents = lab.hosts().iter().map(|host| host.ssh(&format!("cat {file}"))).collect::<Vec<_>>();
        assert_ne!(contents[0], contents[1], "{file}");
    }
}
