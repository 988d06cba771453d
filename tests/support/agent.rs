//! The agent program, built when a test needs it.

use std::path::PathBuf;
use std::process::Command;

/// What `uname -m` says here.
pub(crate) fn architecture() -> String {
    let said = Command::new("uname").arg("-m").output().unwrap();
    String::from_utf8(said.stdout).unwrap().trim().to_owned()
}

/// The agent of this source tree. Building it again when nothing has changed takes a moment.
pub(crate) fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().find(|path| path.ends_with("debug")).unwrap();
    let target = profile.parent().unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--offline", "--package", "roundsman-agent", "--bin", "roundsman-agent"])
        .args(["--manifest-path", manifest, "--target-dir"])
        .arg(target)
        .status();
    assert!(built.unwrap().success());
    profile.join("roundsman-agent")
}
