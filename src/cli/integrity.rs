//! `doctor --integrity`: every byte of the data directory that a checksum, a chain or a key can vouch for.
//!
//! Reads the files beside a running server, or without one; seconds for each gigabyte.

use std::path::Path;

use super::doctor::Finding;
use crate::config::{self, ENVIRONMENT};
use crate::history;
use crate::store::backup as copies;
use crate::vault::Vault;

const CONTROL: &str = "roundsman.db";
const HISTORY: &str = "history.db";
const RESTORE: &str = "stop Roundsman, keep a copy of the directory, and restore the last good backup";

/// Findings of all checks, one each.
pub(super) fn findings(data: &Path) -> Vec<Finding> {
    vec![database(data, CONTROL), database(data, HISTORY), chunks(data), audit(data), secrets(data)]
}

fn database(data: &Path, name: &'static str) -> Finding {
    match copies::integrity(&data.join(name)) {
        Ok(found) if found.is_empty() => Finding::ok(name, "whole, as SQLite's integrity_check says"),
        Ok(found) => Finding::problem(name, found.join("; "), RESTORE),
        Err(error) => Finding::problem(name, error.to_string(), RESTORE),
    }
}

fn chunks(data: &Path) -> Finding {
    const CHECK: &str = "samples";
    match history::verify(&data.join(HISTORY)) {
        Ok(found) if found.damaged == 0 && found.unreadable == 0 => {
            Finding::ok(CHECK, format!("{} rows, the checksum of each fits", found.rows))
        }
        Ok(found) => Finding::problem(
            CHECK,
            format!(
                "{} of {} rows are damaged, and {} places of the file cannot be read ({}); all other rows are read as before",
                found.damaged,
                found.rows,
                found.unreadable,
                found.named.join(", ")
            ),
            "look at the disk; a backup brings the damaged rows back",
        ),
        Err(error) => Finding::problem(CHECK, error.to_string(), RESTORE),
    }
}

fn audit(data: &Path) -> Finding {
    const CHECK: &str = "audit log";
    match copies::audit_chain(&data.join(CONTROL)) {
        Ok(chain) => match chain.broken_at {
            None => Finding::ok(CHECK, format!("{} entries, each continues the one before", chain.entries)),
            Some(broken) => Finding::problem(
                CHECK,
                format!("broken at entry {broken}: it was changed, or one before it was taken away"),
                "compare with the last backup, and find out who could write to the file",
            ),
        },
        Err(error) => Finding::problem(CHECK, error.to_string(), RESTORE),
    }
}

fn secrets(data: &Path) -> Finding {
    const CHECK: &str = "secrets";
    let fix = "put back the master key that sealed them";
    let given = match config::secret(ENVIRONMENT, "ROUNDSMAN_MASTER_KEY") {
        Ok(given) => given,
        Err(error) => return Finding::problem(CHECK, error.to_string(), fix),
    };
    let vault = match Vault::existing(data, given.as_ref()) {
        Ok(Some(vault)) => vault,
        Ok(None) => return Finding::problem(CHECK, "there is no master key to open them with", fix),
        Err(error) => return Finding::problem(CHECK, error.to_string(), fix),
    };
    match copies::sealed_values(&data.join(CONTROL)) {
        Err(error) => Finding::problem(CHECK, error.to_string(), RESTORE),
        Ok(values) => {
            let closed: Vec<&str> = values
                .iter()
                .filter(|value| vault.open_sealed(&value.row, &value.sealed).is_err())
                .map(|value| value.what.as_str())
                .collect();
            if closed.is_empty() {
                Finding::ok(CHECK, format!("{} stored secrets open with the master key", values.len()))
            } else {
                Finding::problem(
                    CHECK,
                    format!("do not open with the master key: {}", closed.join(", ")),
                    fix,
                )
            }
        }
    }
}
