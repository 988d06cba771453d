//! How an operation goes over its servers: the options that `exec`, `action`, `deploy` and `task` share.

use clap::Args;

use super::error::CliError;
use crate::config::parse_interval;
use crate::operations::{Share, Strategy, WhenBusy, parse_batches};

/// How an operation goes over its servers.
#[derive(Debug, Args)]
#[command(next_help_heading = "How it goes over them")]
pub(super) struct Rolling {
    /// Sizes of the batches as numbers or percents, for example 1,10%,50%; the last repeats
    #[arg(long, value_name = "SIZES", value_parser = batches)]
    batch: Option<Batches>,
    /// Pause between two batches
    #[arg(long, value_name = "TIME")]
    pause: Option<String>,
    /// Send nothing more once so many did not succeed: a number or a percent
    #[arg(long, value_name = "LIMIT")]
    max_failures: Option<Share>,
    /// Begin the next batch only when the servers of the last are healthy; stop if they are not after this time
    #[arg(long, value_name = "TIME")]
    health_gate: Option<String>,
    /// Commands at the same time
    #[arg(long, value_name = "N")]
    parallel: Option<u32>,
    /// Wait for what other operations do on a server
    #[arg(long)]
    queue: bool,
    /// First the servers that others need; those whose needs did not succeed get nothing. Makes the batches
    #[arg(long)]
    by_dependencies: bool,
}

/// Sizes of batches, as one argument.
#[derive(Debug, Clone)]
struct Batches(Vec<Share>);

fn batches(text: &str) -> Result<Batches, String> {
    parse_batches(text).map(Batches)
}

impl Rolling {
    pub(super) fn strategy(&self) -> Result<Strategy, CliError> {
        let seconds = |text: &Option<String>| {
            let text = text.as_deref();
            text.map(|text| parse_interval(text).map(|time| time.as_secs()).map_err(CliError::usage))
                .transpose()
        };
        let strategy = Strategy {
            parallelism: self.parallel,
            batches: self.batch.as_ref().map(|batches| batches.0.clone()).unwrap_or_default(),
            pause_s: seconds(&self.pause)?.unwrap_or(0),
            max_failures: self.max_failures,
            health_gate_s: seconds(&self.health_gate)?,
            when_busy: self.queue.then_some(WhenBusy::Queue),
            by_dependencies: self.by_dependencies,
        };
        strategy.check().map_err(|error| CliError::usage(error.to_string()))?;
        Ok(strategy)
    }
}
