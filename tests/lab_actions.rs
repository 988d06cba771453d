//! Actions on real Debian hosts with systemd: what was asked for happened there, and stands in the records and the audit log.
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

/// Begins an action on a host and waits for its end.
async fn act(central: &Central, host: &Host, body: Value) -> Value {
    let begun = central.post(&format!("/api/v1/fleet/servers/{}/actions", host.name), &body).await.unwrap();
    ended(central, &begun).await
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

/// The service manager is known once the facts were read.
async fn known(central: &Central, host: &Host) {
    until("the facts", async || {
        central.try_get(&format!("/api/v1/fleet/servers/{}/facts", host.name)).await.ok()
    })
    .await;
}

async fn audited(central: &Central, action: &str, host: &Host) -> Value {
    let audit = central.get("/api/v1/audit?limit=200").await;
    let entries = audit["items"].as_array().unwrap();
    entries
        .iter()
        .find(|entry| entry["action"] == action && entry["subject"] == host.name.as_str())
        .unwrap()
        .clone()
}

#[tokio::test]
async fn one_command_on_three_hosts_prints_three_names() {
    let lab = Lab::up(3);
    let central = Central::start();
    let mut arguments = vec!["exec"];
    let hosts = lab.hosts();
    for host in &hosts {
        central.enrol(host);
        arguments.push(&host.name);
    }
    let printed = central.cli(&[&arguments[..], &["--", "hostname"]].concat());
    for host in &hosts {
        assert!(printed.lines().any(|line| line == host.name), "{printed}");
    }
}

#[tokio::test]
async fn a_restarted_service_has_a_new_start_and_its_record_says_who_what_and_how() {
    let lab = Lab::up(1);
    let central = Central::start();
    let host = lab.host(1);
    central.enrol(&host);
    known(&central, &host).await;
    let entered = || host.ssh("systemctl show --property=ActiveEnterTimestampMonotonic lab-web");
    let before = entered();
    let operation = act(&central, &host, json!({ "action": "restart_service", "service": "lab-web" })).await;
    assert_eq!(operation["status"], "completed", "{operation}");
    assert_ne!(entered(), before);
    let command = "systemctl restart -- lab-web.service";
    assert_eq!(operation["results"][0]["command"], command);
    let records = central.get(&format!("/api/v1/fleet/servers/{}/commands", host.name)).await;
    let record = &records["items"][0];
    assert_eq!((&record["command"], &record["exit_status"]), (&json!(command), &json!(0)));
    assert!(!record["initiated_by"].as_str().unwrap().is_empty() && record["started_at"].is_string());
    let entry = audited(&central, "restart_service", &host).await;
    assert_eq!(entry["result"], "succeeded");
    assert!(entry["detail"].as_str().unwrap().contains(command), "{entry}");
}

#[tokio::test]
async fn a_service_is_stopped_started_and_reloaded_or_says_why_not() {
    let lab = Lab::up(1);
    let central = Central::start();
    let host = lab.host(1);
    central.enrol(&host);
    known(&central, &host).await;
    let state = || host.try_ssh("systemctl is-active lab-worker");
    for (action, expected) in [("stop_service", "inactive\n"), ("start_service", "active\n")] {
        let operation = act(&central, &host, json!({ "action": action, "service": "lab-worker" })).await;
        assert_eq!(operation["status"], "completed", "{operation}");
        assert_eq!(String::from_utf8_lossy(&state().stdout), expected);
    }
    let missing =
        act(&central, &host, json!({ "action": "restart_service", "service": "no-such-thing" })).await;
    assert_eq!(missing["status"], "failed");
    assert!(missing["results"][0]["stderr"].as_str().unwrap().contains("not found"), "{missing}");
    let refused = central
        .post(
            &format!("/api/v1/fleet/servers/{}/actions", host.name),
            &json!({ "action": "restart_service", "service": "x; touch /tmp/owned" }),
        )
        .await;
    assert!(refused.unwrap_err().contains("422"));
    assert!(!host.try_ssh("test -e /tmp/owned").status.success());
}

#[tokio::test]
async fn a_killed_process_is_gone_from_its_host() {
    let lab = Lab::up(1);
    let central = Central::start();
    let host = lab.host(1);
    central.enrol(&host);
    let pid = host.ssh("setsid sleep 86399 >/dev/null 2>&1 </dev/null & echo $!");
    let pid: u64 = pid.trim().parse().unwrap();
    let (process, _) = until("the process in the list", async || {
        let table = central.try_get(&format!("/api/v1/fleet/servers/{}/processes", host.name)).await.ok()?;
        let rows = table["processes"].as_array()?;
        rows.iter().find(|row| row["command_line"].as_str() == Some("sleep 86399")).cloned()
    })
    .await;
    assert!(process["pid"].as_u64().unwrap() >= pid);
    let body = json!({
        "action": "kill_process",
        "pid": process["pid"],
        "start_ticks": process["start_ticks"],
        "signal": "KILL",
    });
    let operation = act(&central, &host, body.clone()).await;
    assert_eq!(operation["status"], "completed", "{operation}");
    assert!(!host.try_ssh("pgrep -f 'sleep 8639[9]'").status.success());
    let again = act(&central, &host, body).await;
    assert_eq!(again["status"], "failed");
    assert_eq!(audited(&central, "kill_process", &host).await["result"], "failed", "newest first");
}

#[tokio::test]
async fn a_host_lost_in_the_middle_is_unknown_and_the_others_finish() {
    let lab = Lab::up(2);
    let central = Central::start();
    for host in lab.hosts() {
        central.enrol(&host);
    }
    let body = json!({
        "operation_type": "run_command",
        "server_ids": ["lab-1", "lab-2"],
        "parameters": { "command": "sleep 15; hostname", "timeout_s": 120 },
    });
    let begun = central.post("/api/v1/fleet/operations", &body).await.unwrap();
    let path = format!("/api/v1/fleet/operations/{}", begun["id"].as_str().unwrap());
    until("both commands are sent", async || {
        let operation = central.get(&path).await;
        let results = operation["results"].as_array().unwrap();
        results.iter().all(|result| result["status"] == "sent").then_some(())
    })
    .await;
    lab.host(2).docker("kill");
    let operation = ended(&central, &begun).await;
    assert_eq!(operation["status"], "partial");
    let result = |name: &str| {
        let results = operation["results"].as_array().unwrap();
        results.iter().find(|result| result["server_name"] == name).unwrap().clone()
    };
    assert_eq!(result("lab-1")["stdout"], "lab-1\n");
    assert_eq!(result("lab-2")["status"], "unknown");
}
