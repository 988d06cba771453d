//! The yardstick: runs the real program against thousands of servers and says what it costs and what it misses.
//!
//! `scripts/bench.sh` builds and calls it; `docs/benchmarks.md` says how to read the figures.

mod capture;
mod fleet;
mod generator;
mod history;
mod ledger;
mod product;
mod record;
mod recording;
mod report;
mod start;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "Measures Roundsman with a fleet of simulated servers")]
struct Arguments {
    /// The program to be measured.
    #[arg(long, global = true, default_value = "target/release/roundsman")]
    program: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What reading a fleet costs, and whether a reading is late or missed.
    Fleet(fleet::Options),
    /// How long a start takes, and what an idle program costs.
    Start(start::Options),
    /// What a sample costs in the history, and how fast charts are.
    History(history::Options),
    /// Writes a new recording of this machine: one answer of the shell probe, or with --seconds its metrics.
    Record {
        file: PathBuf,
        /// Records the metrics of this machine once a second for so long, as CSV.
        #[arg(long)]
        seconds: Option<u64>,
    },
}

/// `5s`, `1500ms`, or seconds.
fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no time; use for example 5s or 1500ms");
    let (digits, unit_ms) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 1),
        None => (text.strip_suffix('s').unwrap_or(text), 1000),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(unit_ms).filter(|&ms| ms > 0).map(Duration::from_millis).ok_or_else(wrong)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody can be told where standard error is closed.
            let _ = writeln!(std::io::stderr(), "bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match arguments.command {
            Command::Fleet(options) => fleet::run(&arguments.program, &options).await,
            Command::Start(options) => start::run(&arguments.program, &options).await,
            Command::History(options) => history::run(&options).await,
            Command::Record { file, seconds: Some(seconds) } => capture::capture(&file, seconds).await,
            Command::Record { file, seconds: None } => record::record(&file).await,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_with_and_without_unit() {
        assert_eq!(span("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(span("5"), Ok(Duration::from_secs(5)));
        assert_eq!(span("1500ms"), Ok(Duration::from_millis(1500)));
        for bad in ["", "s", "0", "1h", "-1"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }
}
