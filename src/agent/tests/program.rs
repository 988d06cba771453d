//! The agent as a program.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::process::{Command, Output};

fn agent(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_roundsman-agent")).args(arguments).output().unwrap()
}

#[test]
fn snapshot_prints_one_line_of_json() {
    let output = agent(&["snapshot"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1);
    assert!(text.starts_with("{\"taken_at_ms\":") && text.ends_with("}\n"));
    assert!(text.contains("\"processes\":[{\"pid\":"));
}

#[test]
fn version_names_program_and_version() {
    let output = agent(&["version"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with(concat!("roundsman-agent ", env!("CARGO_PKG_VERSION"), " ")));
}

#[test]
fn wrong_use_is_exit_code_2_and_a_sentence() {
    for wrong in [&[][..], &["dance"], &["snapshot", "now"]] {
        let output = agent(wrong);
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
        assert!(String::from_utf8(output.stderr).unwrap().contains("usage: roundsman-agent"));
    }
}
