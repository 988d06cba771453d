//! The agent program as a child that a test talks to.

use std::process::Command;
use std::time::Duration;

/// Outer limit of whatever a test waits for; generous, for a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_roundsman-agent"))
}
