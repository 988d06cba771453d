//! The agent program: reads the machine it runs on and prints what it read. Opens no port.

use std::io::Write as _;
use std::process::ExitCode;

use roundsman_agent::{Sections, json, local};

const USAGE: &str = "usage: roundsman-agent snapshot | version";

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let word = words.next();
    let text = match (word.as_deref().and_then(|word| word.to_str()), words.next()) {
        (Some("snapshot"), None) => json::to_json(&local::Reader::default().read(Sections::ALL)),
        (Some("version"), None) => format!("roundsman-agent {}", env!("CARGO_PKG_VERSION")),
        (None, _) => return refuse("what to do is missing"),
        (Some("snapshot" | "version"), Some(more)) => {
            return refuse(&format!("unexpected argument {more:?}"));
        }
        _ => return refuse(&format!("unknown command {:?}", word.unwrap_or_default())),
    };
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody reads standard output any more; perhaps somebody reads standard error.
            let _ = writeln!(std::io::stderr(), "roundsman-agent: cannot write: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Exit code 2, as for every wrong use.
fn refuse(what: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "roundsman-agent: {what}\n{USAGE}");
    ExitCode::from(2)
}
