//! Tables as files, `/metrics` at its door, and rows that have had their time.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use roundsman::clock::{Clock, ManualClock, SystemClock};
use roundsman::export::Options;
use roundsman::fleet::{Metadata, NewServer};
use roundsman::model::{
    Caller, OperationId, OperationStatus, OrganizationId, RecordId, Retention, Role, ServerId, Timestamp,
};
use roundsman::store::audit::{self, Entry};
use roundsman::store::operations::{self, CommandRecord, Operation};
use serde_json::{Value, json};
use support::app::{TestApp, Who};
use support::eventually;
use support::sshd::Sshd;

const TABLES: [&str; 7] = ["servers", "report", "operations", "command_records", "audit", "keys", "users"];

async fn export(app: &TestApp, who: &Who, table: &str, format: &str) -> String {
    let answer = app.get(&format!("/api/v1/export/{table}?format={format}")).by(who).send().await;
    assert_eq!(answer.status, 200, "{table}: {}", answer.text());
    let file = format!("attachment; filename=\"roundsman-{}.{format}\"", table.split('?').next().unwrap());
    assert_eq!(answer.header("content-disposition"), file);
    answer.text()
}

#[tokio::test]
async fn every_table_is_exported_as_csv_and_json_to_those_who_may_see_it_and_without_secrets() {
    let app = TestApp::start().await;
    app.with_inactive("web-1").await;
    app.foreign_server("theirs").await;
    app.login(Role::Admin).await;
    let (admin, viewer) = (app.token(Role::Admin).await, app.token(Role::Viewer).await);
    for table in TABLES {
        let csv = export(&app, &admin, table, "csv").await;
        let rows: Vec<Value> = serde_json::from_str(&export(&app, &admin, table, "json").await).unwrap();
        let header = csv.lines().next().unwrap();
        if let Some(first) = rows.first() {
            let first = first.as_object().unwrap();
            assert!(header.split(',').all(|name| first.contains_key(name)), "{table}: {header}");
            assert!(csv.lines().count() > rows.len(), "{table}: {csv}");
        }
        for secret in ["argon2", "PRIVATE KEY", "sealed", "secret_hash", "theirs", "password_hash"] {
            assert!(!csv.contains(secret), "{table} tells {secret}: {csv}");
        }
        let answer = app.get(&format!("/api/v1/export/{table}")).by(&viewer).send().await;
        let wanted = if matches!(table, "audit" | "users") { 403 } else { 200 };
        assert_eq!(answer.status, wanted, "{table}");
    }
    for (path, status) in [
        ("/api/v1/export/tokens", 404),
        ("/api/v1/export/servers?format=xml", 422),
        ("/api/v1/export/metrics", 422),
        ("/api/v1/export/servers?server=nobody", 404),
    ] {
        assert_eq!(app.get(path).by(&admin).send().await.status, status, "{path}");
    }
}

#[tokio::test]
async fn a_cell_that_a_spreadsheet_would_run_is_only_text() {
    let app = TestApp::start().await;
    app.add(NewServer {
        name: Some("web-1".to_owned()),
        hostname: "127.0.0.1".to_owned(),
        description: "=cmd|' /C calc'!A0".to_owned(),
        status: Some(roundsman::model::Status::Inactive),
        metadata: Metadata::default(),
        unchecked: true,
        ..NewServer::default()
    })
    .await;
    let viewer = app.token(Role::Viewer).await;
    let csv = export(&app, &viewer, "servers", "csv").await;
    assert!(csv.contains("\"'=cmd|' /C calc'!A0\""), "{csv}");
    let rows: Vec<Value> = serde_json::from_str(&export(&app, &viewer, "servers", "json").await).unwrap();
    assert_eq!(rows.first().unwrap()["description"], "=cmd|' /C calc'!A0");
}

#[tokio::test]
async fn a_table_of_many_parts_comes_whole_and_in_order() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    let now = app.services.clock.now();
    app.store
        .write(move |tx| {
            for number in 0..2_345 {
                audit::append(tx, now, &Entry::by(&Caller::roundsman(), "test", &number.to_string()))?;
            }
            Ok::<_, roundsman::store::StoreError>(())
        })
        .await
        .unwrap();
    let rows: Vec<Value> = serde_json::from_str(&export(&app, &admin, "audit", "json").await).unwrap();
    let sequences: Vec<i64> = rows.iter().map(|row| row["sequence"].as_i64().unwrap()).collect();
    assert!(rows.len() > 2_345 && sequences.iter().zip(1..).all(|(found, wanted)| *found == wanted));
}

#[tokio::test]
async fn samples_are_exported_by_server_metric_and_time() {
    let sshd = Sshd::start().await;
    let app = TestApp::start().await;
    app.with_server("web-1", &sshd).await;
    app.until("web-1", "read twice", |state| state.figures.cpu_percent.is_some()).await;
    let viewer = app.token(Role::Viewer).await;
    let table = "metrics?metric=cpu_percent&metric=memory_percent&server=web-1&period=15m";
    let answer = app.get(&format!("/api/v1/export/{table}&format=json")).by(&viewer).send().await;
    let rows: Vec<Value> = serde_json::from_str(&answer.text()).unwrap();
    for metric in ["cpu_percent", "memory_percent"] {
        let row = rows.iter().find(|row| row["metric"] == metric).unwrap();
        assert_eq!(row["server"], "web-1");
        assert!(
            row["avg"].as_f64().unwrap() >= 0.0 && Timestamp::parse(row["at"].as_str().unwrap()).is_some()
        );
    }
}

#[tokio::test]
async fn metrics_need_a_login_unless_this_machine_was_let_in_without() {
    let app = TestApp::start().await;
    assert_eq!(app.get("/metrics").send().await.status, 401);
    let viewer = app.token(Role::Viewer).await;
    let own = app.get("/metrics").by(&viewer).send().await.text();
    assert!(own.contains("roundsman_http_requests_total{code=\"4xx\"} 1\n"), "{own}");
    assert!(own.contains("roundsman_servers{health=\"healthy\"} 0\n"), "{own}");
    assert_eq!(app.get("/metrics?target=nobody").by(&viewer).send().await.status, 404);
    app.with_inactive("web-1").await;
    assert_eq!(app.get("/metrics?target=web-1").by(&viewer).send().await.status, 503);

    let options = Options { metrics_without_login: true, ..Options::default() };
    let open = TestApp::start_with(Arc::new(SystemClock), options).await;
    let local = || open.get("/metrics").host("localhost:9083");
    assert_eq!(local().send().await.status, 200);
    assert_eq!(local().from("10.0.0.9:4000").send().await.status, 401);
    assert_eq!(local().header("x-forwarded-for", "127.0.0.1").send().await.status, 401);
    // A foreign page's own name that leads to this machine.
    assert_eq!(open.get("/metrics").host("rebound.example:9083").send().await.status, 401);
    assert_eq!(open.get("/api/v1/sd").send().await.status, 401);
    assert_eq!(local().by(&Who::Token("rdm_wrong".to_owned())).send().await.status, 401);
}

#[tokio::test]
async fn targets_carry_the_labels_that_relabelling_needs() {
    let app = TestApp::start().await;
    let new = |name: &str, region: &str| NewServer {
        name: Some(name.to_owned()),
        hostname: "127.0.0.1".to_owned(),
        port: Some(support::sshd::free_port().into()),
        region: Some(region.to_owned()),
        environment: Some("production".to_owned()),
        tags: vec!["web".to_owned(), "edge".to_owned()],
        unchecked: true,
        ..NewServer::default()
    };
    app.add(new("web-1", "eu")).await;
    app.add(new("web-2", "us")).await;
    app.with_inactive("old").await;
    let viewer = app.token(Role::Viewer).await;
    let all = app.get("/api/v1/sd").by(&viewer).send().await.expect(200);
    assert_eq!(all.as_array().unwrap().len(), 2, "{all}");
    let found = app.get("/api/v1/sd?region=us").by(&viewer).send().await.expect(200);
    assert_eq!(found.as_array().unwrap().len(), 1);
    let labels = &found.get(0).unwrap()["labels"];
    assert_eq!(found.get(0).unwrap()["targets"], json!(["fleet.test"]));
    for (name, value) in [
        ("__metrics_path__", "/metrics"),
        ("__param_target", "web-2"),
        ("instance", "web-2"),
        ("region", "us"),
        ("environment", "production"),
        ("tags", ",edge,web,"),
    ] {
        assert_eq!(labels[name], value, "{name}");
    }
}

/// A finished operation and its record, of so many days ago.
async fn old_work(app: &TestApp, days: u32) -> OperationId {
    let then = app.services.clock.now() - Duration::from_secs(24 * 3600) * days;
    let clock = ManualClock::at(then);
    let (operation, record) = (OperationId::new(clock.new_uuid()), RecordId::new(clock.new_uuid()));
    let server = ServerId::new(clock.new_uuid());
    let organization = OrganizationId::DEFAULT;
    app.store
        .write(move |tx| {
            let row = Operation {
                id: operation,
                organization,
                kind: "run_command".to_owned(),
                title: format!("of {days} days ago"),
                parameters: json!({ "command": "id" }),
                initiated_by: "anna".to_owned(),
                status: OperationStatus::Pending,
                created_at: then,
                started_at: None,
                completed_at: None,
                selector: json!({}),
                strategy: json!({}),
                retry_of: None,
                is_repeatable: false,
                paused_at: None,
                halted: None,
            };
            operations::insert(tx, &row, &[])?;
            operations::set_status(tx, operation, OperationStatus::Completed, then)?;
            let record = CommandRecord {
                id: record,
                organization,
                server_id: server,
                server_name: "web-1".to_owned(),
                operation_id: Some(operation),
                initiated_by: "anna".to_owned(),
                label: String::new(),
                command: "id".to_owned(),
                container_command: None,
                started_at: then,
                duration_ms: Some(5),
                exit_status: Some(0),
                signal: None,
                error: None,
                stdout: "uid=0".to_owned(),
                stderr: String::new(),
                stdout_dropped_bytes: 0,
                stderr_dropped_bytes: 0,
                omitted_chars: 0,
            };
            operations::insert_record(tx, &record)?;
            operations::complete_record(tx, &record)?;
            audit::append(tx, then, &Entry::by(&Caller::roundsman(), "test", &format!("{days} days")))
        })
        .await
        .unwrap();
    operation
}

fn lines(path: &std::path::Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn rows_are_removed_when_their_time_is_over_archived_first_and_the_audit_chain_stays_whole() {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_795_168_800_000)));
    let app = TestApp::start_at(clock.clone()).await;
    // In the order of time, as a chain is.
    for days in [500, 400, 40, 4] {
        old_work(&app, days).await;
    }
    let kept_operation = old_work(&app, 0).await;
    let admin = app.token(Role::Admin).await;
    let archive = app.data().join("archive");
    let wanted = Retention { archive: Some(archive.clone()), ..Retention::default() };
    let path = "/api/v1/settings/retention";
    let put = |body: &Value| app.call("PUT", path).by(&admin).json(body).send();
    let refused = put(&json!(wanted)).await;
    assert_eq!(refused.status, 422, "the archive is not there yet: {}", refused.text());
    fs::create_dir(&archive).unwrap();
    put(&json!(wanted)).await.expect(200);
    assert_eq!(put(&json!({ "audit_days": 0 })).await.json()["field"], "audit_days");

    let removed = app.services.export.remove_expired().await.unwrap();
    assert_eq!((removed.command_records, removed.operations), (3, 2));
    // Everything before the first entry that is young enough; the chain itself began today with the entry of the key.
    let chain = app.services.export.verify_audit(&Caller::roundsman()).await.unwrap();
    assert_eq!(chain.broken_at, None, "{chain:?}");
    let again = app.services.export.remove_expired().await.unwrap();
    assert_eq!((again.command_records, again.operations), (0, 0));

    let records = lines(&archive.join("roundsman-command_records-2026-11-20.jsonl"));
    assert_eq!(records.len(), 3);
    assert!(records.iter().all(|record| record["stdout"] == "uid=0"));
    let operations = lines(&archive.join("roundsman-operations-2026-11-20.jsonl"));
    assert_eq!(operations.len(), 2);
    assert_eq!(operations.first().unwrap()["parameters"]["command"], "id");
    let shown = app.get(&format!("/api/v1/fleet/operations/{kept_operation}")).by(&admin).send().await;
    assert_eq!(shown.status, 200, "{}", shown.text());

    // A year and a few days later every entry of today goes, and the chain accounts for them.
    clock.advance(Duration::from_secs(370 * 24 * 3600));
    let later = app.services.export.remove_expired().await.unwrap();
    assert!(later.audit_entries >= 7, "{later:?}");
    let chain = app.services.export.verify_audit(&Caller::roundsman()).await.unwrap();
    assert!(chain.broken_at.is_none() && chain.first.unwrap() > 7, "{chain:?}");
    let archived = lines(&archive.join("roundsman-audit-2027-11-25.jsonl"));
    assert_eq!(archived.len(), later.audit_entries);
    assert!(archived.iter().any(|entry| entry["action"] == "retention.set"));

    let sizes = app.get("/api/v1/settings/sizes").by(&admin).send().await.expect(200);
    let audit = sizes["items"].as_array().unwrap().iter().find(|size| size["table"] == "audit").unwrap();
    assert!(audit["size_bytes"].as_i64().unwrap() >= 4096 && audit["rows"].as_i64().unwrap() > 0, "{audit}");
}

#[tokio::test]
async fn the_settings_page_wins_over_the_configuration_file_and_the_file_over_the_defaults() {
    let configured = Retention { raw_days: 7, operations_days: 30, ..Retention::default() };
    let options = Options { retention: Some(configured.clone()), ..Options::default() };
    let app = TestApp::start_with(Arc::new(SystemClock), options).await;
    let admin = app.token(Role::Admin).await;
    let shown = app.get("/api/v1/settings/retention").by(&admin).send().await.expect(200);
    assert_eq!(serde_json::from_value::<Retention>(shown).unwrap(), configured);
    assert_eq!(app.history.retention().raw_days, 7, "history obeys it");

    let wanted = Retention { raw_days: 9, ..configured };
    app.services.export.set_retention(&Caller::roundsman(), wanted.clone()).await.unwrap();
    let of_file = roundsman::history::Retention { raw_days: 7, ..app.history.retention() };
    app.history.set_default_retention(of_file, None).unwrap();
    assert_eq!(app.history.retention().raw_days, 9);
    // The file says nothing any more, and what was set holds.
    let app = app.restart().await;
    let shown = app.get("/api/v1/settings/retention").by(&admin).send().await.expect(200);
    assert_eq!(serde_json::from_value::<Retention>(shown).unwrap(), wanted);
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_does_not_take_everything_in_one_round() {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_795_168_800_000)));
    let app = TestApp::start_at(clock.clone()).await;
    for days in [9, 8, 1, 0] {
        old_work(&app, days).await;
    }
    let export = &app.services.export;
    assert_eq!(export.remove_expired_by_clock().await.unwrap().command_records, 2);
    clock.advance(Duration::from_secs(3 * 366 * 24 * 3600));
    let first = export.remove_expired_by_clock().await.unwrap();
    assert_eq!((first.command_records, first.operations), (2, 2), "the oldest and a day and a little more");
    old_work(&app, 3 * 366 - 30).await;
    old_work(&app, 3 * 366 - 33).await;
    let second = export.remove_expired_by_clock().await.unwrap();
    assert_eq!((second.command_records, second.operations), (1, 2), "a younger record stays");
}

#[tokio::test]
async fn nothing_is_removed_that_cannot_be_archived() {
    let app = TestApp::start().await;
    old_work(&app, 10).await;
    let archive = app.data().join("archive");
    fs::create_dir(&archive).unwrap();
    let wanted = Retention { archive: Some(archive.clone()), ..Retention::default() };
    app.services.export.set_retention(&Caller::roundsman(), wanted).await.unwrap();
    fs::remove_dir(&archive).unwrap();
    app.services.export.remove_expired().await.unwrap_err();
    fs::create_dir(&archive).unwrap();
    assert_eq!(app.services.export.remove_expired().await.unwrap().command_records, 1);
}

#[tokio::test]
async fn a_backup_is_for_administrators_of_the_first_organization_and_one_at_a_time() {
    let app = TestApp::start().await;
    let (admin, operator) = (app.token(Role::Admin).await, app.token(Role::Operator).await);
    let ask = |who: &Who| app.post("/api/v1/backup").by(who).json(&json!({})).send();
    assert_eq!(ask(&operator).await.status, 403);
    let other = Caller { organization: app.another_organization().await, ..Caller::roundsman() };
    assert!(app.services.export.backup(&other, None, "test").await.is_err());
    let first = app.services.export.backup(&Caller::roundsman(), None, "test").await.unwrap();
    let second = ask(&admin).await;
    assert_eq!(second.status, 409, "{}", second.text());
    drop(first);
    let third = ask(&admin).await;
    assert_eq!((third.status, third.header("content-type")), (200, "application/x-tar"));
    assert!(third.body.len() > 100_000, "{}", third.body.len());
    let stage = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("backup-");
    let none = || !fs::read_dir(app.data()).unwrap().flatten().any(|entry| stage(&entry));
    eventually("the copies are gone", none).await;
}
