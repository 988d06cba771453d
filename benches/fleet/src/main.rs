//! The yardstick: runs the real program against thousands of servers and says what it costs and what it misses.
//!
//! `scripts/bench.sh` builds and calls it; `docs/benchmarks.md` says how to read the figures.

mod capture;
mod fanout;
mod fleet;
mod generator;
mod history;
mod ledger;
mod operations;
mod product;
mod record;
mod recording;
mod report;
mod sessions;
mod start;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// As in the program itself, whose layer is measured here.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    /// One command on many real servers, beside the tools that people use for it.
    Fanout(fanout::Options),
    /// Roundsman's own turn in `fanout`.
    #[command(hide = true)]
    FanoutClient(fanout::ClientOptions),
    /// What an open session costs, and what a dead address costs the others.
    Sessions(sessions::Options),
    /// Holds the sessions of `sessions`.
    #[command(hide = true)]
    SessionsHolder(sessions::HolderOptions),
    /// One command on a whole fleet: how long, at which cost, how fast its page and its end are.
    Operations(operations::Options),
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
    // A fan-out fits on one thread, and waking others would cost more than they save.
    let runtime = if matches!(arguments.command, Command::FanoutClient(_)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?
    } else {
        tokio::runtime::Builder::new_multi_thread().enable_all().build()?
    };
    runtime.block_on(async {
        match arguments.command {
            Command::Fleet(options) => fleet::run(&arguments.program, &options).await,
            Command::Start(options) => start::run(&arguments.program, &options).await,
            Command::Fanout(options) => tokio::task::block_in_place(|| fanout::run(&options)),
            Command::FanoutClient(options) => fanout::run_client(&options).await,
            Command::Sessions(options) => sessions::run(&arguments.program, &options).await,
            Command::SessionsHolder(options) => sessions::run_holder(&options).await,
            Command::Operations(options) => operations::run(&arguments.program, &options).await,
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
