//! Databases of earlier versions become databases of this one, with everything that was in them.
//!
//! Each folder of `tests/fixtures/upgrade` is the dump of a database as an earlier program left it;
//! `scripts/dump-fixture.sh` makes one of a data directory.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod program;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use program::Program;
use roundsman::clock::ManualClock;
use roundsman::history::{self, History};
use roundsman::model::{
    Labels, MetricName, OrganizationId, Retention, SeriesKey, ServerNumber, Status, Timestamp,
};
use roundsman::store::{Store, StoreError, audit, backup, keys, servers, settings};
use roundsman::vault::Vault;
use rusqlite::Connection;

const CONTROL_2: &str = include_str!("fixtures/upgrade/control-2/roundsman.sql");
const KEY_OF_CONTROL_2: &str = include_str!("fixtures/upgrade/control-2/master.key");
const CONTROL_5: &str = include_str!("fixtures/upgrade/control-5/roundsman.sql");
const KEY_OF_CONTROL_5: &str = include_str!("fixtures/upgrade/control-5/master.key");
const CONTROL_11: &str = include_str!("fixtures/upgrade/control-11/roundsman.sql");
const KEY_OF_CONTROL_11: &str = include_str!("fixtures/upgrade/control-11/master.key");
const HISTORY_1: &str = include_str!("fixtures/upgrade/history-1/history.sql");
const HISTORY_2: &str = include_str!("fixtures/upgrade/history-2/history.sql");

fn load(path: &Path, sql: &str) {
    let connection = Connection::open(path).unwrap();
    connection.pragma_update(None, "journal_mode", "wal").unwrap();
    // A dump names tables before they are there.
    connection.pragma_update(None, "foreign_keys", "off").unwrap();
    connection.execute_batch(sql).unwrap();
}

fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test]
async fn control_data_of_schema_2_is_brought_up_to_date_after_a_copy_with_every_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("roundsman.db");
    load(&path, CONTROL_2);
    write_private(&dir.path().join("master.key"), KEY_OF_CONTROL_2);
    let before = fs::read_dir(dir.path()).unwrap().count();
    let store = Store::open(&path).unwrap();
    let known = backup::known_schema();
    assert_eq!(backup::schema(&path).unwrap(), i64::try_from(known).unwrap());
    assert_eq!(backup::integrity(&path).unwrap(), Vec::<String>::new());

    let stored = store.read(servers::all).await.unwrap();
    let mut names: Vec<&str> = stored.iter().map(|stored| stored.server.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["db-1", "vm"]);
    let db = &stored.iter().find(|stored| stored.server.name.as_str() == "db-1").unwrap();
    assert_eq!((db.server.hostname.as_deref(), db.server.port.get()), (Some("192.0.2.10"), 2222));
    assert!(db.host_key.as_ref().unwrap().starts_with("ssh-ed25519 AAAA"));
    let chain = store.read(audit::verify).await.unwrap();
    assert_eq!((chain.entries, chain.broken_at), (7, None));
    let vault = Vault::existing(dir.path(), None).unwrap().unwrap();
    let kept = store.read(|c| keys::list(c, OrganizationId::DEFAULT)).await.unwrap();
    assert_eq!(kept.len(), 1);
    for value in backup::sealed_values(&path).unwrap() {
        assert!(vault.open_sealed(&value.row, &value.sealed).is_ok(), "{}", value.what);
    }
    let record: Result<(String, i64), StoreError> = store
        .read(|c| {
            let sql = "SELECT stdout, exit_status FROM command_records";
            Ok(c.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?)
        })
        .await;
    assert_eq!(record.unwrap(), ("fixture\n".to_owned(), 3));

    let copy = dir.path().join(format!("roundsman.db.before-{known}"));
    assert_eq!(backup::schema(&copy).unwrap(), 2, "the copy is as it was");
    assert_eq!(backup::integrity(&copy).unwrap(), Vec::<String>::new());
    drop(store);
    let made = fs::read_dir(dir.path()).unwrap().flatten();
    let copies = made.filter(|file| file.file_name().to_string_lossy().contains(".before-")).count();
    assert_eq!(copies, 1, "{before} files before");
}

#[tokio::test]
async fn control_data_of_schema_5_is_brought_up_to_date_after_a_copy_with_every_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("roundsman.db");
    load(&path, CONTROL_5);
    write_private(&dir.path().join("master.key"), KEY_OF_CONTROL_5);
    let store = Store::open(&path).unwrap();
    let known = backup::known_schema();
    assert_eq!(backup::schema(&path).unwrap(), i64::try_from(known).unwrap());
    assert_eq!(backup::integrity(&path).unwrap(), Vec::<String>::new());
    let stored = store.read(servers::all).await.unwrap();
    let mut names: Vec<(&str, Status)> =
        stored.iter().map(|stored| (stored.server.name.as_str(), stored.server.status)).collect();
    names.sort_unstable_by_key(|(name, _)| *name);
    assert_eq!(names, [("db-1", Status::Inactive), ("vm", Status::Active)]);
    let chain = store.read(audit::verify).await.unwrap();
    assert_eq!((chain.entries, chain.broken_at), (8, None));
    let kept: Option<Retention> =
        store.read(|c| settings::get(c, OrganizationId::DEFAULT, settings::RETENTION)).await.unwrap();
    assert_eq!(kept, Some(Retention { raw_days: 7, ..Retention::default() }));
    assert_eq!(store.read(|c| keys::list(c, OrganizationId::DEFAULT)).await.unwrap().len(), 2);
    let vault = Vault::existing(dir.path(), None).unwrap().unwrap();
    for value in backup::sealed_values(&path).unwrap() {
        assert!(vault.open_sealed(&value.row, &value.sealed).is_ok(), "{}", value.what);
    }
    let copy = dir.path().join(format!("roundsman.db.before-{known}"));
    assert_eq!(backup::schema(&copy).unwrap(), 5, "the copy is as it was");
}

#[tokio::test]
async fn history_of_schema_1_is_read_to_its_last_value() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    load(&path, HISTORY_1);
    let start = Timestamp::from_millis(1_795_168_800_000);
    let end = Timestamp::from_millis(start.as_millis() + 419 * 10_000);
    let clock = Arc::new(ManualClock::at(end));
    let history = History::open(&path, clock).unwrap();
    assert_eq!(backup::schema(&path).unwrap(), i64::try_from(History::known_schema()).unwrap());
    let cpu =
        history.range(ServerNumber(1), &SeriesKey::plain("cpu_percent"), start, end, 5000).await.unwrap();
    let values: Vec<(i64, f64)> = cpu.iter().map(|point| (point.at.as_millis(), point.avg)).collect();
    assert_eq!(values.len(), 420);
    for (i, (at, value)) in (0_u32..).zip(&values) {
        assert_eq!(*value, f64::from(i % 200) / 2.0, "value {i}");
        // A point stands for a span of 838 ms.
        let offset = at - start.as_millis() - i64::from(i) * 10_000;
        assert!(offset.abs() < 1_000, "value {i} is {offset} ms off");
    }
    let custom =
        SeriesKey { metric: MetricName::custom("llm_cost_usd".to_owned()), labels: Labels::of("gpt") };
    let cost = history.range(ServerNumber(2), &custom, start, end, 5000).await.unwrap();
    assert_eq!(cost.len(), 420);
    assert_eq!(cost.last().unwrap().avg, 419.0 / 7.0);
    history.close().await.unwrap();
    let verified = history::verify(&path).unwrap();
    assert!(verified.rows > 0 && verified.damaged == 0, "{verified:?}");
    if History::known_schema() > 1 {
        let copy = dir.path().join(format!("history.db.before-{}", History::known_schema()));
        assert_eq!(backup::schema(&copy).unwrap(), 1, "the copy is as it was");
    }
}

#[tokio::test]
async fn history_of_schema_2_is_read_with_what_was_set_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.db");
    load(&path, HISTORY_2);
    assert_eq!(backup::schema(&path).unwrap(), 2);
    // A moment after its last reading.
    let clock = Arc::new(ManualClock::at(Timestamp::parse("2026-11-21T05:52:00Z").unwrap()));
    let history = History::open(&path, clock.clone()).unwrap();
    assert_eq!(history.retention().raw_days, 7);
    let (vm, start) = (ServerNumber(1), Timestamp::parse("2026-11-21T05:50:00Z").unwrap());
    let load = SeriesKey::plain("memory_percent");
    let points = history.range(vm, &load, start, Timestamp::parse("2026-11-21T05:52:00Z").unwrap(), 1000);
    let points = points.await.unwrap();
    assert!(points.len() >= 7, "{points:?}");
    assert!(points.iter().all(|point| point.avg > 0.0 && point.avg < 100.0), "{points:?}");
    assert_eq!(history.series(vm).len(), 56);
    assert_eq!((history.health().damaged_rows, history.health().dropped), (0, history::Dropped::default()));
    history.close().await.unwrap();
    let verified = history::verify(&path).unwrap();
    assert!(verified.rows > 0 && verified.damaged == 0, "{verified:?}");
}

#[test]
fn the_program_starts_on_the_data_of_an_earlier_release() {
    let mut program = Program::prepared();
    let data = program.data();
    fs::create_dir(&data).unwrap();
    load(&data.join("roundsman.db"), CONTROL_2);
    load(&data.join("history.db"), HISTORY_1);
    write_private(&data.join("master.key"), KEY_OF_CONTROL_2);
    for version in ["1", "2", "3"] {
        fs::write(data.join(format!("history.db.before-{version}")), "of long ago").unwrap();
    }
    program.start();
    let listed = program.run(&["list", "--json"]).well().json();
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    program.run(&["audit", "verify"]).well();
    let log = program.run(&["audit", "list"]).well().stdout;
    assert!(log.contains("token.create") && log.contains("server.add"), "{log}");
    let exported = program.run(&["export", "command_records", "--format", "json"]).well().json();
    assert_eq!(exported.get(0).unwrap()["stdout"], "fixture\n");
    assert!(!data.join("history.db.before-1").exists(), "two copies of each database are kept");
    assert!(data.join("history.db.before-3").exists());
    let newest = data.join(format!("roundsman.db.before-{}", backup::known_schema()));
    assert_eq!(backup::schema(&newest).unwrap(), 2);
}

/// What each migration is in the source, in order.
fn migrations() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/migrations");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read_to_string(file).unwrap()).collect()
}

/// A database as a program of `schema` had it that began with the data of the program with schema 2, and for schema 1 as one
/// that had all of it that schema 1 has a place for.
fn control_of_schema(schema: usize, path: &Path, migrations: &[String]) {
    if schema == 1 {
        let source = path.with_extension("source");
        load(&source, CONTROL_2);
        let connection = Connection::open(path).unwrap();
        connection.pragma_update(None, "foreign_keys", "off").unwrap();
        connection.execute_batch(migrations.first().unwrap()).unwrap();
        connection.execute("ATTACH ? AS later", [source.to_str().unwrap()]).unwrap();
        let names = "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
        let mut statement = connection.prepare(names).unwrap();
        let tables: Vec<String> =
            statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        for table in tables {
            let columns = "SELECT group_concat(name) FROM pragma_table_info(?)";
            let columns: String = connection.query_row(columns, [&table], |row| row.get(0)).unwrap();
            let copy = format!(
                "INSERT OR REPLACE INTO main.{table} ({columns}) SELECT {columns} FROM later.{table}"
            );
            connection.execute_batch(&copy).unwrap();
        }
        connection.pragma_update(None, "user_version", 1).unwrap();
        return;
    }
    load(path, CONTROL_2);
    let connection = Connection::open(path).unwrap();
    for migration in migrations.iter().take(schema).skip(2) {
        connection.execute_batch(migration).unwrap();
    }
    connection.pragma_update(None, "user_version", i64::try_from(schema).unwrap()).unwrap();
}

/// Names of tables with their columns, and the statements of the indexes.
fn shape(path: &Path) -> Vec<(String, String)> {
    let connection = Connection::open(path).unwrap();
    let sql = "SELECT m.name, coalesce((SELECT group_concat(c.name || ' ' || c.type || ' ' || c.\"notnull\") FROM \
               (SELECT * FROM pragma_table_info(m.name) ORDER BY name) c), '') FROM sqlite_master m ORDER BY m.name";
    let mut statement = connection.prepare(sql).unwrap();
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn control_data_of_every_earlier_schema_ends_as_a_new_database_with_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let migrations = migrations();
    assert_eq!(migrations.len(), backup::known_schema());
    let fresh = dir.path().join("fresh.db");
    drop(Store::open(&fresh).unwrap());
    for schema in 1..backup::known_schema() {
        let path = dir.path().join(format!("of-{schema}.db"));
        control_of_schema(schema, &path, &migrations);
        assert_eq!(backup::schema(&path).unwrap(), i64::try_from(schema).unwrap());
        let store = Store::open(&path).unwrap();
        assert_eq!(backup::integrity(&path).unwrap(), Vec::<String>::new(), "schema {schema}");
        assert_eq!(shape(&path), shape(&fresh), "schema {schema}");
        let mut names: Vec<String> = store
            .read(servers::all)
            .await
            .unwrap()
            .iter()
            .map(|stored| stored.server.name.to_string())
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["db-1", "vm"], "schema {schema}");
        let chain = store.read(audit::verify).await.unwrap();
        assert_eq!((chain.entries, chain.broken_at), (7, None), "schema {schema}");
        assert_eq!(store.read(|c| keys::list(c, OrganizationId::DEFAULT)).await.unwrap().len(), 1);
        let copy = dir.path().join(format!("of-{schema}.db.before-{}", backup::known_schema()));
        assert_eq!(backup::schema(&copy).unwrap(), i64::try_from(schema).unwrap(), "the copy is as it was");
    }
}

#[test]
fn the_program_shows_all_that_the_release_with_schema_11_kept() {
    let mut program = Program::prepared();
    let data = program.data();
    fs::create_dir(&data).unwrap();
    load(&data.join("roundsman.db"), CONTROL_11);
    write_private(&data.join("master.key"), KEY_OF_CONTROL_11);
    program.start();
    let names = |arguments: &[&str], member: &str| -> Vec<String> {
        let listed = program.run(arguments).well().json();
        let items = listed.get("items").unwrap_or(&listed).as_array().unwrap().clone();
        let mut names: Vec<String> =
            items.iter().map(|item| item[member].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&["list", "--json"], "name"), ["db-1", "edge-1", "vm"]);
    assert_eq!(names(&["group", "list", "--json"], "name"), ["databases", "production"]);
    assert_eq!(names(&["metric", "list", "--json"], "name"), ["queue_length"]);
    assert_eq!(names(&["key", "list", "--json"], "name"), ["default", "second"]);
    assert_eq!(names(&["op", "list", "--json"], "status"), ["failed"]);
    let tokens = program.run(&["token", "list"]).well().stdout;
    assert!(tokens.contains("machines") && tokens.contains("screen"), "{tokens}");
    program.run(&["audit", "verify"]).well();
    let checked = program.run(&["doctor", "--integrity", "--json"]).json();
    for wanted in ["roundsman.db", "history.db", "samples", "audit log", "secrets"] {
        let outcomes = checked["checks"].as_array().unwrap().iter().filter(|check| check["check"] == wanted);
        let outcomes: Vec<&serde_json::Value> = outcomes.map(|check| &check["outcome"]).collect();
        assert!(
            !outcomes.is_empty() && outcomes.iter().all(|outcome| **outcome == "ok"),
            "{wanted}: {checked}"
        );
    }
}
