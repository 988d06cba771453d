//! known_hosts files that are taken in, and the report on what servers proved to be.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::process::Command;

use roundsman::fleet::NewServer;
use roundsman::model::{Caller, Health, Reachability, Role};
use serde_json::{Value, json};
use support::app::{TestApp, Who, of_sshd};
use support::sshd::Sshd;

async fn import(app: &TestApp, who: &Who, text: &str, dry_run: bool) -> Value {
    let body = json!({ "text": text, "dry_run": dry_run });
    app.post("/api/v1/host-keys/import").by(who).json(&body).send().await.expect(200)
}

async fn row(app: &TestApp, who: &Who, name: &str) -> Value {
    let rows = app.get("/api/v1/host-keys").by(who).send().await.expect(200);
    rows["items"].as_array().unwrap().iter().find(|row| row["server_name"] == name).unwrap().clone()
}

async fn known(app: &TestApp, who: &Who) -> Vec<Value> {
    let lines = app.get("/api/v1/host-keys/known").by(who).send().await.expect(200);
    lines["items"].as_array().unwrap().clone()
}

fn name_of(sshd: &Sshd) -> String {
    format!("[127.0.0.1]:{}", sshd.port().get())
}

fn other_key() -> String {
    let line = roundsman::ssh::keys::generate_ed25519("x").unwrap().1;
    line.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn body_of(sshd: &Sshd, name: &str) -> Value {
    json!({
        "name": name, "hostname": "127.0.0.1", "port": sshd.port().get(), "interval_ms": 1000,
        "private_key": sshd.client_key().expose(),
    })
}

#[tokio::test]
async fn every_line_is_reported_and_a_dry_run_changes_nothing() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    let admin = app.token(Role::Admin).await;
    app.with_server("web-1", &sshd).await;
    let (place, key, other) = (name_of(&sshd), sshd.host_key().to_string(), other_key());
    let hashed = include_str!("fixtures/known_hosts/hashed").lines().next().unwrap();
    let text = format!(
        "# a comment\n\n{place} {key} root@web\n{place} {other}\ndb.example.com {other}\n{hashed}\n@cert-authority *.example.com {other}\n\
         @revoked * {key}\nbroken line\n{place} {key}\n"
    );
    let dry = import(&app, &admin, &text, true).await;
    assert_eq!(
        (&dry["dry_run"], &dry["conflicts"], &dry["unreadable"]),
        (&json!(true), &json!(1), &json!(1)),
        "{dry}"
    );
    assert!(known(&app, &admin).await.is_empty());
    let text = text.replace(&format!("@revoked * {key}\n"), "");
    let done = import(&app, &admin, &text, false).await;
    let lines: Vec<(u64, &str)> = done["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (line["line"].as_u64().unwrap(), line["outcome"].as_str().unwrap()))
        .collect();
    assert_eq!(
        lines,
        [
            (3, "added"),
            (4, "conflict"),
            (5, "added"),
            (6, "added"),
            (7, "added"),
            (8, "unreadable"),
            (9, "already_there")
        ]
    );
    assert!(done["lines"][0]["detail"].as_str().unwrap().contains("the approved key of web-1"), "{done}");
    assert!(
        done["lines"][1]["detail"].as_str().unwrap().contains("another key is approved for web-1"),
        "{done}"
    );
    assert_eq!(known(&app, &admin).await.len(), 4);
    assert_eq!(app.state("web-1").host_key.unwrap().line, key, "a conflict changes nothing");
    let again = import(&app, &admin, &text, false).await;
    assert_eq!((&again["added"], &again["already_there"]), (&json!(0), &json!(5)), "{again}");
    let empty = app.post("/api/v1/host-keys/import").by(&admin).json(&json!({ "text": "# nothing\n" }));
    assert_eq!(empty.send().await.expect(422)["field"], "text");
    let audit = app.services.auth.audit(&Caller::roundsman(), 50, 0).await.unwrap();
    assert!(
        audit
            .iter()
            .any(|entry| entry.action == "known-hosts.import" && entry.detail.contains("1 authorities"))
    );
    let operator = app.token(Role::Operator).await;
    let refused = app.post("/api/v1/host-keys/import").by(&operator).json(&json!({ "text": text }));
    assert_eq!(refused.send().await.status, 403);
}

#[tokio::test]
async fn an_imported_key_counts_as_approved_when_its_server_is_enrolled() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    let admin = app.token(Role::Admin).await;
    // Hashed by ssh-keygen itself, as most files are.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("known_hosts");
    std::fs::write(&file, format!("{} {}\n", name_of(&sshd), sshd.host_key())).unwrap();
    assert!(
        Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(&file).output().unwrap().status.success()
    );
    let unknown = app.post("/api/v1/fleet/servers").by(&admin).json(&body_of(&sshd, "web-1")).send().await;
    assert_eq!(unknown.expect(409)["type"], "urn:roundsman:problem:host-key-unknown");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("|1|"), "{text}");
    import(&app, &admin, &text, false).await;
    let added =
        app.post("/api/v1/fleet/servers").by(&admin).json(&body_of(&sshd, "web-1")).send().await.expect(201);
    assert_eq!(added["host_key_fingerprint"], sshd.host_key().fingerprint());
    assert_eq!(sshd.logins(), 1);
    assert_eq!(row(&app, &admin, "web-1").await["state"], "approved");
}

#[tokio::test]
async fn an_import_approves_the_key_that_a_server_waits_with() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    let admin = app.token(Role::Admin).await;
    app.add(NewServer { name: Some("web-1".to_owned()), host_key: None, unchecked: true, ..of_sshd(&sshd) })
        .await;
    app.until("web-1", "waiting for approval", |state| state.offered_host_key.is_some()).await;
    assert_eq!(row(&app, &admin, "web-1").await["state"], "unapproved");
    let report = import(&app, &admin, &format!("{} {}\n", name_of(&sshd), sshd.host_key()), false).await;
    assert_eq!(
        (&report["approved"], &report["lines"][0]["servers"]),
        (&json!(1), &json!(["web-1"])),
        "{report}"
    );
    app.until("web-1", "read", |state| state.last_seen_at.is_some()).await;
    assert_eq!(app.state("web-1").host_key.unwrap().line, sshd.host_key().to_string());
}

#[tokio::test]
async fn a_revoked_key_is_refused_at_once_at_enrolment_and_for_approval() {
    let (app, sshd, fresh) = (TestApp::start().await, Sshd::start().await, Sshd::start().await);
    let admin = app.token(Role::Admin).await;
    app.with_server("web-1", &sshd).await;
    app.until("web-1", "read", |state| state.last_seen_at.is_some()).await;
    let text = format!("@revoked * {}\n@revoked 127.0.0.1 {}\n", sshd.host_key(), fresh.host_key());
    let report = import(&app, &admin, &text, false).await;
    assert_eq!(
        (&report["added"], &report["lines"][0]["servers"]),
        (&json!(2), &json!(["web-1"])),
        "{report}"
    );
    let state = app.until("web-1", "refused", |state| state.health == Health::Critical).await;
    let Reachability::Unreachable { reason, .. } = &state.reachability else { unreachable!("{state:?}") };
    assert!(reason.contains("revoked"), "{reason}");
    assert_eq!(row(&app, &admin, "web-1").await["state"], "revoked");
    let logins = sshd.logins();
    let approve = json!({ "host_key": sshd.host_key().to_string() });
    let approve =
        app.post("/api/v1/fleet/servers/web-1/host-key").by(&admin).json(&approve).send().await.expect(422);
    assert!(approve["detail"].as_str().unwrap().contains("revoked"), "{approve}");
    let mut body = body_of(&fresh, "web-2");
    for (name, value) in [("accept_new", json!(true)), ("host_key", json!(fresh.host_key().to_string()))] {
        body[name] = value;
        let refused = app.post("/api/v1/fleet/servers").by(&admin).json(&body).send().await;
        assert_eq!(refused.status, 422, "{name}: {}", refused.text());
        assert!(refused.text().contains("revoked"), "{}", refused.text());
    }
    assert_eq!((sshd.logins(), fresh.logins()), (logins, 0), "no credential went to either");
    // Whoever marked it by mistake takes the line back, and the server is read again.
    for line in known(&app, &admin).await {
        let path = format!("/api/v1/host-keys/known/{}", line["id"].as_str().unwrap());
        app.call("DELETE", &path).by(&admin).send().await.expect(204);
        app.call("DELETE", &path).by(&admin).send().await.expect(404);
    }
    app.until("web-1", "read again", |state| {
        state.health != Health::Critical && state.figures.cpu_percent.is_some()
    })
    .await;
}

#[tokio::test]
async fn an_imported_authority_vouches_for_servers_with_host_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let keygen = |words: &[&str]| {
        let done = Command::new("ssh-keygen").arg("-q").args(words).current_dir(dir.path()).status().unwrap();
        assert!(done.success(), "{words:?}");
    };
    for name in ["ca", "host"] {
        keygen(&["-t", "ed25519", "-N", "", "-f", name]);
    }
    keygen(&["-s", "ca", "-I", "web", "-h", "-n", "127.0.0.1", "-V", "-1d:+1d", "host.pub"]);
    let path = |name: &str| dir.path().join(name).display().to_string();
    let config = format!("HostKey {}\nHostCertificate {}", path("host"), path("host-cert.pub"));
    let (app, sshd) = (TestApp::start().await, Sshd::start_with(&config).await);
    let admin = app.token(Role::Admin).await;
    let ca = std::fs::read_to_string(path("ca.pub")).unwrap();
    import(&app, &admin, &format!("@cert-authority 127.0.* {ca}"), false).await;
    app.post("/api/v1/fleet/servers").by(&admin).json(&body_of(&sshd, "web-1")).send().await.expect(201);
    app.until("web-1", "read", |state| state.last_seen_at.is_some()).await;
    let shown = row(&app, &admin, "web-1").await;
    assert_eq!(shown["state"], "authority", "{shown}");
    assert_eq!(shown["host_key_algorithm"], "ssh-ed25519-cert-v01@openssh.com");
}

#[tokio::test]
async fn the_report_marks_weak_algorithms_and_keys_that_several_servers_share() {
    let dir = tempfile::tempdir().unwrap();
    let keygen = ["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", "host"];
    assert!(Command::new("ssh-keygen").args(keygen).current_dir(dir.path()).status().unwrap().success());
    let line = std::fs::read_to_string(dir.path().join("host.pub")).unwrap();
    let key = roundsman::ssh::HostKey::parse(&line).unwrap();
    let config = format!("HostKey {}\nHostKeyAlgorithms rsa-sha2-512", dir.path().join("host").display());
    let (app, sshd) = (TestApp::start().await, Sshd::start_with(&config).await);
    let admin = app.token(Role::Admin).await;
    for (name, hostname) in [("web-1", "127.0.0.1"), ("twin", "localhost")] {
        let (name, host_key) = (Some(name.to_owned()), Some(key.to_string()));
        app.add(NewServer { hostname: hostname.to_owned(), name, host_key, ..of_sshd(&sshd) }).await;
    }
    for name in ["web-1", "twin"] {
        app.until(name, "read", |state| state.last_seen_at.is_some()).await;
    }
    let shown = row(&app, &admin, "web-1").await;
    assert_eq!((&shown["host_key"]["algorithm"], &shown["bits"]), (&json!("ssh-rsa"), &json!(2048)));
    assert_eq!(shown["host_key_algorithm"], "rsa-sha2-512");
    assert!(["kex", "cipher", "mac"].iter().all(|name| shown[name].is_string()), "{shown}");
    assert!(shown["daemon"].as_str().unwrap().starts_with("SSH-2.0-OpenSSH"), "{shown}");
    assert_eq!(shown["shared_with"], json!(["twin"]));
    let weaknesses = shown["weaknesses"].to_string();
    assert!(weaknesses.contains("2048 bits; 3072 are recommended"), "{weaknesses}");
    let attention = app.get("/api/v1/host-keys?attention=true").by(&admin).send().await.expect(200);
    assert_eq!(attention["items"].as_array().unwrap().len(), 2);
    let none = app.get("/api/v1/host-keys?state=changed").by(&admin).send().await.expect(200);
    assert_eq!(none["items"], json!([]));
    let csv = app.get("/api/v1/host-keys?format=csv").by(&admin).send().await;
    assert_eq!(csv.header("content-type"), "text/csv; charset=utf-8");
    assert_eq!(csv.text().lines().count(), 3, "{}", csv.text());
    assert!(csv.text().contains(&key.fingerprint()));
}

#[tokio::test]
async fn the_page_shows_changed_keys_takes_approval_and_imports_lines() {
    let (app, mut sshd) = (TestApp::start().await, Sshd::start().await);
    let admin = app.login(Role::Admin).await;
    app.with_server("web-1", &sshd).await;
    app.until("web-1", "read", |state| state.last_seen_at.is_some()).await;
    sshd.reinstall().await;
    app.until("web-1", "changed", |state| state.offered_host_key.is_some()).await;
    let page = app.get("/host-keys?show=changed").by(&admin).send().await.text();
    assert!(page.contains("Compared: trust it") && page.contains(&sshd.host_key().fingerprint()), "{page}");
    let approved =
        app.post("/servers/web-1/host-key").by(&admin).form(&[("host_key", &sshd.host_key().to_string())]);
    assert_eq!(approved.send().await.status, 303);
    let text = format!("web.example.com {}\r\nnonsense\r\n", other_key());
    let looked = app
        .post("/host-keys/import")
        .by(&admin)
        .form(&[("text", text.as_str()), ("dry_run", "1")])
        .send()
        .await;
    assert!(
        looked.text().contains("1 would be added") && looked.text().contains("web.example.com ssh-ed25519"),
        "{}",
        looked.text()
    );
    let done = app.post("/host-keys/import").by(&admin).form(&[("text", text.as_str())]).send().await;
    assert!(done.text().contains("1 added") && done.text().contains("Not readable"), "{}", done.text());
    let id = app.services.fleet.known_hosts(&Caller::roundsman(), 0, 1).await.unwrap().0[0].id;
    let removed = app.post(&format!("/host-keys/{id}/remove")).by(&admin).form(&[]).send().await;
    assert_eq!(removed.header("location"), "/host-keys?done=known-host-removed");
    assert_eq!(app.get("/host-keys.csv").by(&admin).send().await.status, 200);
    let wrong = app.post("/host-keys/import").by(&admin).form(&[("text", " ")]).send().await;
    assert_eq!(wrong.status, 422);
}
