//! A backup of a running instance, and what becomes of it: restored, refused, examined.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod program;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use program::{Done, Program, text};

const PASSPHRASE: &str = "correct horse battery staple";

/// The program on another data directory of the same test.
fn on(program: &Program, data: &Path, arguments: &[&str]) -> Done {
    Done::of(program.bare(&[&["--data", text(data)], arguments].concat()).output().unwrap())
}

fn names(listed: &Done) -> Vec<String> {
    let json = listed.json();
    json.as_array().unwrap().iter().map(|server| server["name"].as_str().unwrap().to_owned()).collect()
}

/// What a directory holds, to say that it was not touched.
fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with("lock"))
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect();
    found.sort();
    found
}

/// A served program with a second server, which nobody contacts, and a backup of it.
fn backed_up(more: &[&str]) -> (Program, PathBuf) {
    let program = Program::served();
    let file = program.path("fleet.tar");
    // Asking takes as long as a reading, so this is a few rounds.
    let read = || {
        let listed = program.run(&["list", "--json"]).well().json();
        listed.pointer("/0/last_seen_at").is_some_and(|seen| !seen.is_null())
    };
    assert!((0..1000).any(|_| read()), "this machine is never read");
    program.run(&["token", "create", "--role", "viewer", "--name", "kept"]).well();
    program.run(&[&["backup", text(&file)], more].concat()).well();
    (program, file)
}

/// `master.key` of the program in a directory of its own.
fn with_key(program: &Program, name: &str) -> PathBuf {
    let data = program.path(name);
    fs::create_dir(&data).unwrap();
    fs::copy(program.data().join("master.key"), data.join("master.key")).unwrap();
    data
}

#[test]
fn a_backup_of_a_live_instance_restores_to_an_instance_that_runs() {
    let (mut program, file) = backed_up(&[]);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let leftovers = fs::read_dir(program.data()).unwrap().flatten();
    assert!(leftovers.filter(|e| e.file_name().to_string_lossy().starts_with("backup")).count() == 0);
    let log = program.run(&["audit", "list"]).well().stdout;
    assert!(log.contains("backup.create") && log.contains("without the master key"), "{log}");
    let before = names(&program.run(&["list", "--json"]).well());
    program.stop();

    let data = with_key(&program, "restored");
    let said = on(&program, &data, &["restore", text(&file)]).well().stdout;
    assert!(said.contains("serve --data"), "{said}");
    assert_eq!(names(&on(&program, &data, &["list", "--json"]).well()), before);
    let tokens = on(&program, &data, &["token", "list", "--json"]).well();
    assert!(tokens.stdout.contains("kept"), "{}", tokens.stdout);
    let verified = on(&program, &data, &["audit", "verify", "--json"]).well().json();
    assert!(verified["broken_at"].is_null() && verified["entries"].as_i64().unwrap() > 3, "{verified}");
    let listed = on(&program, &data, &["audit", "list"]).well().stdout;
    assert!(listed.contains("backup.restore"), "{listed}");
    // The history came along: the first readings are in its journal.
    let exported = on(&program, &data, &["doctor", "--integrity", "--json"]);
    let checks = exported.json();
    let samples = checks["checks"].as_array().unwrap().iter().find(|c| c["check"] == "samples").unwrap();
    assert!(samples["detail"].as_str().unwrap().split(' ').next().unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_backup_says_that_the_master_key_is_not_in_it_and_brings_it_under_a_passphrase_when_asked() {
    let program = Program::served();
    let (plain, sealed) = (program.path("plain.tar"), program.path("sealed.tar"));
    let said = program.run(&["backup", text(&plain)]).well().stdout;
    assert!(said.contains("NOT in it") && said.contains("--include-master-key"), "{said}");
    let short = program.file("short", "too short\n");
    let passphrase = program.file("passphrase", &format!("{PASSPHRASE}\n"));
    let including = ["--include-master-key", "--passphrase-file"];
    program.run(&["backup", text(&sealed), including[0]]).refused(2, &["--passphrase-file"]);
    program.run(&["backup", text(&sealed), including[0], including[1], text(&short)]).refused(1, &["12"]);
    program.run(&["backup", text(&sealed), including[0], including[1], text(&passphrase)]).well();
    program.run(&["backup", text(&sealed)]).refused(2, &["exists already"]);
    let key = fs::read_to_string(program.data().join("master.key")).unwrap();
    for file in [&plain, &sealed] {
        let bytes = fs::read(file).unwrap();
        assert!(!bytes.windows(key.trim().len()).any(|part| part == key.trim().as_bytes()));
    }

    let data = program.path("new");
    on(&program, &data, &["restore", text(&plain)]).refused(1, &["master key", "ROUNDSMAN_MASTER_KEY"]);
    assert!(!data.exists());
    on(&program, &data, &["restore", text(&sealed)]).refused(2, &["--passphrase-file"]);
    let wrong = program.file("wrong", "another passphrase\n");
    on(&program, &data, &["restore", text(&sealed), including[1], text(&wrong)])
        .refused(1, &["does not open with this passphrase"]);
    on(&program, &data, &["restore", text(&sealed), including[1], text(&passphrase)]).well();
    assert_eq!(fs::read_to_string(data.join("master.key")).unwrap(), key);
    assert!(!data.join("master.key.sealed").exists());
    let mut by_environment = program.bare(&["--data", text(&program.path("env")), "restore", text(&plain)]);
    Done::of(by_environment.env("ROUNDSMAN_MASTER_KEY", key.trim()).output().unwrap()).well();
    assert!(!program.path("env").join("master.key").exists(), "the environment keeps it");
}

#[test]
fn a_running_instance_a_full_directory_and_another_key_are_refused_and_left_alone() {
    let (mut program, file) = backed_up(&[]);
    program.run(&["restore", text(&file), "--force"]).refused(1, &["runs on", "stop it first"]);
    program.run(&["list"]).well();
    program.stop();
    program.run(&["restore", text(&file)]).refused(1, &["not empty", "--force"]);

    let other = program.path("other");
    fs::create_dir(&other).unwrap();
    let another_key = program.file("other/master.key", "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=\n");
    on(&program, &other, &["restore", text(&file)]).refused(1, &["do not open with the master key"]);
    assert_eq!(contents(&other), [(another_key.clone(), fs::read(&another_key).unwrap())]);

    fs::write(program.data().join("note"), "mine").unwrap();
    let kept = program.run(&["restore", text(&file), "--force", "--json"]).well().json();
    let kept = PathBuf::from(kept["kept"].as_str().unwrap());
    assert_eq!(fs::read_to_string(kept.join("note")).unwrap(), "mine");
    assert!(kept.join("history.db").exists() && !program.data().join("note").exists());
    program.run(&["list"]).well();
}

#[test]
fn a_damaged_backup_is_refused_before_anything_is_touched() {
    let (mut program, file) = backed_up(&[]);
    program.stop();
    let data = with_key(&program, "restored");
    let before = contents(&data);
    let whole = fs::read(&file).unwrap();
    let damaged = program.path("damaged.tar");
    let step = whole.len() / 12;
    for at in (0..12).map(|part| part * step + 700) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&damaged, &bytes).unwrap();
        let refused = on(&program, &data, &["restore", text(&damaged)]);
        assert_eq!(refused.code, 1, "byte {at}: {}", refused.stdout);
        assert_eq!(contents(&data), before, "byte {at}");
    }
    for length in [0, 100, 512, 5_000, whole.len() / 2, whole.len() - 3_000] {
        fs::write(&damaged, &whole[..length]).unwrap();
        on(&program, &data, &["restore", text(&damaged)]).refused(1, &["damaged"]);
        assert_eq!(contents(&data), before, "{length} bytes");
    }
    fs::write(&damaged, "this is a shopping list\n".repeat(100)).unwrap();
    on(&program, &data, &["restore", text(&damaged)]).refused(1, &["damaged or is no backup"]);
    on(&program, &data, &["restore", text(&program.path("nowhere"))]).refused(1, &["cannot read"]);
    assert_eq!(fs::read_dir(data.parent().unwrap()).unwrap().flatten().filter(hidden).count(), 0);
    on(&program, &data, &["restore", text(&file)]).well();
}

fn hidden(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with('.')
}

#[test]
fn doctor_with_integrity_finds_a_damaged_sample_a_changed_entry_and_a_foreign_key() {
    let (mut program, _) = backed_up(&[]);
    program.run(&["doctor", "--integrity"]).well();
    program.stop();
    let run = |sql: &str, file: &str| {
        let connection = rusqlite::Connection::open(program.data().join(file)).unwrap();
        connection.execute_batch(sql).unwrap();
    };
    run(
        "UPDATE j0 SET b = CAST(substr(b, 1, 8) || x'5a' || substr(b, 10) AS BLOB);
         UPDATE j1 SET b = CAST(substr(b, 1, 8) || x'5a' || substr(b, 10) AS BLOB);",
        "history.db",
    );
    run(
        "DROP TRIGGER audit_never_changes; UPDATE audit SET actor = 'nobody' WHERE sequence = 2;",
        "roundsman.db",
    );
    let key = program.data().join("master.key");
    fs::write(&key, "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=\n").unwrap();
    let found = program.run(&["doctor", "--integrity"]);
    assert_eq!(found.code, 1);
    for (check, detail) in
        [("samples", "damaged"), ("audit log", "broken at entry 2"), ("secrets", "key default")]
    {
        let line = found.stdout.lines().find(|line| line.starts_with(&format!("problem  {check}")));
        assert!(line.is_some_and(|line| line.contains(detail)), "{check}: {}", found.stdout);
    }
}
