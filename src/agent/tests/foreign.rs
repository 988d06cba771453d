//! The agent that `scripts/build-agents.sh` makes for aarch64, run by an emulator. Needs qemu-user-static, so only
//! `scripts/test.sh --all` runs it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

#[test]
fn the_agent_for_aarch64_is_small_and_answers_under_an_emulator() {
    let built = Command::new(root().join("scripts/build-agents.sh")).arg("aarch64").status().unwrap();
    assert!(built.success());
    let file = root().join("dist/agents/roundsman-agent-aarch64");
    let content = std::fs::read(&file).unwrap();
    assert!(content.len() < 1_310_720);
    // ELF, e_machine 183: elf(5).
    assert_eq!(content.get(18..20), Some(&[183, 0][..]));
    let mut agent = Command::new("qemu-aarch64-static")
        .arg(&file)
        .arg("stream")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    agent.stdin.take().unwrap().write_all(b"r 1 -puf\nr 2\n").unwrap();
    let output = agent.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let [greeting, full, base] = lines.as_slice() else { unreachable!("{text}") };
    assert!(greeting.starts_with("{\"name\":\"roundsman-agent\",") && greeting.contains("\"ticks\":100,"));
    assert!(full.starts_with("{\"request\":1,") && full.contains("\"processes\":[{\"pid\":1,"));
    assert!(base.starts_with("{\"request\":2,") && base.contains("\"memory\":{\"total_bytes\":"));
}
