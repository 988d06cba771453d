//! A rolling restart over hosts of three init systems: it stops where a host is not well, and is finished later.
//!
//! Run by `scripts/lab.sh test`, which starts the hosts.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod lab;
#[expect(dead_code, reason = "this program uses a part of the harness")]
mod program;

use lab::central::Central;
use lab::{Host, Lab, until};
use serde_json::{Value, json};

/// systemd three times, OpenRC, System V init; BusyBox has no services to restart.
const HOSTS: usize = 5;
const SERVICE: &str = "lab-web";
/// What makes the service of a host with systemd fail after it was started: `systemctl restart` itself succeeds.
const BREAK: &str = "mkdir -p /run/systemd/system/lab-web.service.d && printf '[Service]\\nExecStart=\\nExecStart=/bin/false\\nRestart=no\\n' \
    >/run/systemd/system/lab-web.service.d/broken.conf && systemctl daemon-reload";
/// What makes `systemctl restart` itself fail.
const REFUSE: &str = "mkdir -p /run/systemd/system/lab-web.service.d && printf '[Service]\\nExecStartPre=/bin/false\\nRestart=no\\n' \
    >/run/systemd/system/lab-web.service.d/broken.conf && systemctl daemon-reload";
const MEND: &str = "rm -rf /run/systemd/system/lab-web.service.d && systemctl daemon-reload && systemctl reset-failed lab-web; systemctl start lab-web";

/// A host whose service fails, until this is dropped.
struct Broken(Host);

impl Broken {
    fn by(host: Host, how: &str) -> Self {
        host.ssh(how);
        Self(host)
    }

    fn mend(&self) {
        self.0.ssh(MEND);
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        // A panic here would hide the test's own.
        drop(self.0.try_ssh(MEND));
    }
}

/// All hosts enrolled, read and healthy.
async fn healthy(lab: &Lab) -> Central {
    let central = Central::start();
    for host in lab.hosts() {
        central.enrol(&host);
    }
    for host in lab.hosts() {
        until(&format!("{} is healthy", host.name), async || {
            let facts = central.try_get(&format!("/api/v1/fleet/servers/{}/facts", host.name)).await;
            (facts.is_ok() && central.server(&host).await["health_status"] == "healthy").then_some(())
        })
        .await;
    }
    central
}

async fn ended(central: &Central, begun: &Value) -> Value {
    let path = format!("/api/v1/fleet/operations/{}", begun["id"].as_str().unwrap());
    until("the end of an operation", async || {
        let operation = central.get(&path).await;
        (!matches!(operation["status"].as_str(), Some("pending" | "running"))).then_some(operation)
    })
    .await
    .0
}

/// A restart of the service on all hosts, one after the other, each of which has to be well before the next.
async fn roll(central: &Central, hosts: &[Host]) -> Value {
    let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
    let body = json!({
        "operation_type": "restart_service",
        "server_ids": names,
        "parameters": { "service": SERVICE },
        "strategy": { "batches": [1], "health_gate_s": 25 },
    });
    let begun = central.post("/api/v1/fleet/operations", &body).await.unwrap();
    ended(central, &begun).await
}

fn statuses(operation: &Value) -> Vec<&str> {
    operation["results"].as_array().unwrap().iter().map(|one| one["status"].as_str().unwrap()).collect()
}

fn pids(hosts: &[Host]) -> Vec<Option<u32>> {
    hosts.iter().map(|host| host.service_pid(SERVICE)).collect()
}

#[tokio::test]
async fn a_rolling_restart_stops_at_the_host_that_is_not_well_and_a_retry_finishes_it() {
    let lab = Lab::up(HOSTS);
    let central = healthy(&lab).await;
    let hosts = lab.hosts();
    let before = pids(&hosts);
    let broken = Broken::by(lab.host(2), REFUSE);

    let stopped = roll(&central, &hosts).await;
    assert_eq!(statuses(&stopped), ["succeeded", "failed", "skipped", "skipped", "skipped"], "{stopped}");
    assert!(
        stopped["halted"].as_str().unwrap().contains("not healthy within 25 s after their batch: lab-2"),
        "{stopped}"
    );
    let then = pids(&hosts);
    assert!(then[0].is_some() && then[0] != before[0], "the first was restarted");
    assert_eq!(then[1], None, "the one that was made to fail is down");
    assert_eq!(then[2..], before[2..], "the rest is untouched");

    broken.mend();
    let retry = format!("/api/v1/fleet/operations/{}/retry", stopped["id"].as_str().unwrap());
    let begun = central.post(&retry, &json!({ "states": ["failed", "skipped"] })).await.unwrap();
    let finished = ended(&central, &begun).await;
    assert_eq!(statuses(&finished), ["succeeded"; 4], "{finished}");
    assert_eq!((&finished["status"], &finished["retry_of"]), (&json!("completed"), &stopped["id"]));
    let after = pids(&hosts);
    assert_eq!(after[0], then[0], "the first was not restarted again");
    assert!(
        after.iter().all(Option::is_some) && (2..HOSTS).all(|index| after[index] != before[index]),
        "{after:?}"
    );
}

#[tokio::test]
async fn a_restart_that_succeeds_and_leaves_a_failed_service_behind_does_not_pass_the_gate() {
    let lab = Lab::up(HOSTS);
    let central = healthy(&lab).await;
    let hosts = lab.hosts();
    let before = pids(&hosts);
    let broken = Broken::by(lab.host(2), BREAK);

    let stopped = roll(&central, &hosts).await;
    assert_eq!(statuses(&stopped), ["succeeded", "succeeded", "skipped", "skipped", "skipped"], "{stopped}");
    assert!(stopped["halted"].as_str().unwrap().contains("lab-2"), "{stopped}");
    assert_eq!(pids(&hosts)[2..], before[2..], "the rest is untouched");

    broken.mend();
    let resume = format!("/api/v1/fleet/operations/{}/resume", stopped["id"].as_str().unwrap());
    let begun = central.post(&resume, &json!({})).await.unwrap();
    let finished = ended(&central, &begun).await;
    assert_eq!(statuses(&finished), ["succeeded"; 3], "{finished}");
    assert!((2..HOSTS).all(|index| pids(&hosts)[index] != before[index]));
}
