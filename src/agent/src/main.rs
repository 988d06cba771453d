//! The agent program: arguments, and which of its ways of working they mean.

use std::io::{self, Write as _};
use std::process::ExitCode;

use roundsman_agent::local::{self, Reader};
use roundsman_agent::{Sections, json, stream};

const USAGE: &str = "usage: roundsman-agent snapshot   print one reading as JSON
       roundsman-agent stream     answer request lines until standard input ends
       roundsman-agent version    print the version and the SHA-256 of this file";

/// Readings come after whatever the machine is there for.
const NICE: u8 = 10;

fn main() -> ExitCode {
    let arguments: Vec<_> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let (command, rest) =
        arguments.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    let done = match (command, rest.first()) {
        ("snapshot", None) => print(&json::to_json(&Reader::default().read(Sections::ALL))),
        ("stream", None) => answer(),
        ("version", None) => print(&version()),
        ("snapshot" | "stream" | "version", Some(more)) => {
            return refuse(&format!("unexpected argument {more:?}"));
        }
        ("", _) => return refuse("what to do is missing"),
        _ => return refuse(&format!("unknown command {command:?}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Perhaps somebody reads standard error.
            let _ = writeln!(io::stderr(), "roundsman-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}

fn version() -> String {
    let build = stream::build().unwrap_or_else(|| "unknown".to_owned());
    format!("roundsman-agent {} {build}", env!("CARGO_PKG_VERSION"))
}

fn answer() -> io::Result<()> {
    local::be_nice(NICE);
    stream::run(&Reader::default(), &mut io::stdin().lock(), &mut io::stdout().lock())
}

/// Exit code 2, as for every wrong use.
fn refuse(what: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "roundsman-agent: {what}\n{USAGE}");
    ExitCode::from(2)
}
