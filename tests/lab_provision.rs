//! `scripts/provision-server.sh` on a Debian host with systemd, and Roundsman as the user that it made.
//!
//! Run by `scripts/lab.sh test`, which starts the hosts.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod lab;
#[expect(dead_code, reason = "this program uses a part of the harness")]
mod program;

use std::path::Path;
use std::process::{Command, Stdio};

use lab::central::Central;
use lab::{Host, Lab, key_file, until};
use serde_json::json;

/// Runs the script with the lab's own key; what it said and its exit code.
fn provision(host: &Host, arguments: &[&str]) -> (String, Option<i32>) {
    let key = key_file();
    let address = host.address.strip_prefix("root@").unwrap();
    let (name, port) = address.rsplit_once(':').unwrap_or((address, "22"));
    let known_hosts = format!("UserKnownHostsFile={}", key.with_file_name("known_hosts").display());
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/provision-server.sh"))
        .args(arguments)
        .arg(format!("root@{name}"))
        .args(["--", "-p", port, "-o", "BatchMode=yes", "-o", &known_hosts, "-i"])
        .arg(&key)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (String::from_utf8(said).unwrap(), output.status.code())
}

#[tokio::test]
async fn a_provisioned_user_restarts_services_reads_the_journal_and_may_do_no_more() {
    let lab = Lab::up(1);
    let host = lab.host(1);
    let central = Central::start();
    let dir = tempfile::tempdir().unwrap();
    let public = dir.path().join("roundsman.pub");
    let key = central.cli(&["key", "show", "default", "--json"]);
    let key: serde_json::Value = serde_json::from_str(&key).unwrap();
    std::fs::write(&public, key.get("public_key").unwrap().as_str().unwrap()).unwrap();
    let arguments = ["--key", public.to_str().unwrap(), "--features", "read,services,logs"];
    let (said, code) = provision(&host, &arguments);
    assert_eq!(code, Some(0), "{said}");
    let (said, code) = provision(&host, &arguments);
    assert!(code == Some(0) && said.contains("Nothing had to be changed."), "{said}");

    let address = host.address.replace("root@", "roundsman@");
    central.cli(&["add", &address, "--name", &host.name, "--accept-new"]);
    until("the facts", async || {
        central.try_get(&format!("/api/v1/fleet/servers/{}/facts", host.name)).await.ok()
    })
    .await;
    let started = "systemctl show -p ExecMainStartTimestampMonotonic --value lab-web";
    let before = host.ssh(started);
    let body = json!({ "action": "restart_service", "service": "lab-web" });
    central.post(&format!("/api/v1/fleet/servers/{}/actions", host.name), &body).await.unwrap();
    until("a new start of the service", async || (host.ssh(started) != before).then_some(())).await;
    let journal = central.cli(&["exec", &host.name, "--", "journalctl -q -n 1 --no-pager -u lab-web"]);
    assert!(!journal.trim().is_empty());
    let refused = central.cli(&["exec", &host.name, "--", "sudo -n id 2>&1 || echo refused"]);
    assert!(refused.contains("refused"), "{refused}");

    // Its sessions are ended with the user, who would have to stay otherwise.
    let (said, code) = provision(&host, &["--key", public.to_str().unwrap(), "--remove"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!host.try_ssh("id roundsman").status.success());
    assert!(!host.try_ssh("ls /etc/sudoers.d/roundsman-roundsman").status.success());
}
