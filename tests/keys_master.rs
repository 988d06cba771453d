//! The master key is replaced as a whole or not at all, and never shown.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod program;

use std::os::unix::fs::PermissionsExt as _;

use program::{Program, text};

/// `head -c 32 /dev/zero | base64`, and the same of ones.
const NEW: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const OTHER: &str = "/////////////////////////////////////////w8=";

fn with_two_keys() -> Program {
    let mut program = Program::served();
    program.run(&["key", "create", "second"]).well();
    program.stop();
    program
}

fn master(program: &Program) -> String {
    std::fs::read_to_string(program.data().join("master.key")).unwrap()
}

fn sealed(program: &Program) -> Vec<Vec<u8>> {
    let database = rusqlite::Connection::open(program.data().join("roundsman.db")).unwrap();
    let mut statement = database.prepare("SELECT sealed_private FROM keys ORDER BY id").unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

/// A start reads the default key, so it fails under another master key.
fn starts(program: &mut Program) {
    program.start();
    program.run(&["key", "show", "second"]).well();
    program.stop();
}

#[test]
fn every_secret_is_sealed_with_the_new_master_key_and_the_old_one_is_of_no_use() {
    let mut program = with_two_keys();
    let file = program.file("new.key", &format!("{NEW}\n"));
    let (before, old) = (sealed(&program), master(&program));
    let done = program.run(&["key", "reseal", "--new-master-key-file", text(&file)]).well();
    assert!(done.stdout.contains("2 secrets"), "{}", done.stdout);
    assert!(!done.stdout.contains(NEW) && !done.stderr.contains(NEW) && !done.stderr.contains(old.trim()));
    assert_eq!(master(&program).trim(), NEW);
    let mode = std::fs::metadata(program.data().join("master.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!program.data().join("master.key.next").exists());
    let after = sealed(&program);
    assert!(before.iter().all(|value| !after.contains(value)));
    let whole = std::fs::read(program.data().join("roundsman.db")).unwrap();
    for value in &before {
        let tail = value.get(1..40).unwrap();
        assert!(
            !whole.windows(tail.len()).any(|window| window == tail),
            "the old sealed value is in the file"
        );
    }
    starts(&mut program);
    std::fs::write(program.data().join("master.key"), old).unwrap();
    program.run(&["key", "list"]).refused(1, &["does not open with this master key"]);
}

#[test]
fn a_crash_before_or_after_the_change_leaves_one_key_that_opens_everything() {
    // Before: the next key lies ready, nothing is sealed with it.
    let mut program = with_two_keys();
    let old = master(&program);
    program.file("data/master.key.next", &format!("{OTHER}\n"));
    starts(&mut program);
    assert_eq!(master(&program), old);
    assert!(!program.data().join("master.key.next").exists());
    // After: everything is sealed with it, and it was not put in its place yet.
    let file = program.file("new.key", NEW);
    program.run(&["key", "reseal", "--new-master-key-file", text(&file)]).well();
    std::fs::rename(program.data().join("master.key"), program.data().join("master.key.next")).unwrap();
    program.file("data/master.key", &old);
    starts(&mut program);
    assert_eq!(master(&program).trim(), NEW);
    assert!(!program.data().join("master.key.next").exists());
}

#[test]
fn a_master_key_that_cannot_be_used_changes_nothing() {
    let mut program = with_two_keys();
    let (before, old) = (sealed(&program), master(&program));
    let short = program.file("short", "AAAA\n");
    program.run(&["key", "reseal", "--new-master-key-file", text(&short)]).refused(1, &["not 32 bytes"]);
    let open = program.file("open", NEW);
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    program.run(&["key", "reseal", "--new-master-key-file", text(&open)]).refused(1, &["chmod 600"]);
    let missing = program.path("missing");
    program.run(&["key", "reseal", "--new-master-key-file", text(&missing)]).refused(1, &["cannot use"]);
    let file = program.file("new.key", NEW);
    program.start();
    program.run(&["key", "reseal", "--new-master-key-file", text(&file)]).refused(1, &["stop it first"]);
    program.stop();
    assert_eq!((sealed(&program), master(&program)), (before, old));
}

#[test]
fn a_master_key_from_outside_is_replaced_outside() {
    let program = with_two_keys();
    let file = program.file("new.key", NEW);
    program.run(&["key", "reseal", "--new-master-key-file", text(&file)]).well();
    // From now on it comes from the environment.
    std::fs::remove_file(program.data().join("master.key")).unwrap();
    let other = program.file("other.key", OTHER);
    let mut command = program.command(&["key", "reseal", "--new-master-key-file", text(&other)]);
    let done = program::Done::of(command.env("ROUNDSMAN_MASTER_KEY", NEW).output().unwrap()).well();
    assert!(done.stderr.contains("ROUNDSMAN_MASTER_KEY"), "{}", done.stderr);
    assert!(!program.data().join("master.key").exists() && !program.data().join("master.key.next").exists());
    let list = |key: &str| {
        program::Done::of(
            program.command(&["key", "list"]).env("ROUNDSMAN_MASTER_KEY", key).output().unwrap(),
        )
    };
    list(OTHER).well();
    list(NEW).refused(1, &["does not open with this master key"]);
}
