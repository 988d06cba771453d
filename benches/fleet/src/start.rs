//! `start`: how long a start with a fleet and its history takes, and what a program with little to do costs.

use std::path::Path;
use std::time::Duration;

use clap::Args;

use crate::fleet::{Running, Window};
use crate::report::{Goal, Report, progress};

const INTERVAL: Duration = Duration::from_secs(5);
/// Between the second reading of every server and the measurement.
const SETTLE: Duration = Duration::from_secs(20);
/// Servers of the idle program (SPEC 15.3).
const IDLE_SERVERS: usize = 10;

/// What is measured.
#[derive(Debug, Args)]
pub struct Options {
    /// Servers that the program finds at its start.
    #[arg(long, default_value_t = 1000)]
    pub servers: usize,
    /// How long history is gathered before the starts.
    #[arg(long, default_value_t = 60)]
    pub history_seconds: u64,
    /// Starts; the median counts.
    #[arg(long, default_value_t = 5)]
    pub starts: usize,
    /// Length of the idle measurement.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
}

/// # Errors
/// When something cannot be started or dies.
pub async fn run(program: &Path, options: &Options) -> anyhow::Result<()> {
    let mut fleet = Running::start(program, options.servers, INTERVAL).await?;
    progress(&format!("gathering history for {} s", options.history_seconds));
    tokio::time::sleep(Duration::from_secs(options.history_seconds)).await;
    let mut starts = Vec::with_capacity(options.starts);
    for number in 1..=options.starts.max(1) {
        fleet.product.stop().await?;
        let took = fleet.product.start().await?;
        progress(&format!("start {number}: {} ms", took.as_millis()));
        starts.push(took);
    }
    let history_bytes = fleet.product.history_bytes();
    fleet.product.stop().await?;
    drop(fleet);
    starts.sort_unstable();
    let median = starts.get(starts.len() / 2).copied().unwrap_or_default();
    let worst = starts.last().copied().unwrap_or_default();

    let mut idle = Running::start(program, IDLE_SERVERS, INTERVAL).await?;
    tokio::time::sleep(SETTLE).await;
    progress(&format!("idle with {IDLE_SERVERS} servers for {} s", options.seconds));
    let window = Window::measure(&idle.product, Duration::from_secs(options.seconds)).await?;
    idle.product.stop().await?;

    let mut report = Report::default();
    report.count("servers", "servers at the start", u64::try_from(options.servers)?);
    report.count("history_bytes", "history at the start, bytes", history_bytes);
    report.figure(
        "start_ms",
        "start to first answer, median, ms",
        median.as_secs_f64() * 1000.0,
        Goal::Under(1000.0),
    );
    report.figure(
        "start_max_ms",
        "start to first answer, worst, ms",
        worst.as_secs_f64() * 1000.0,
        Goal::None,
    );
    report.figure("idle_cpu_percent", "idle CPU, % of one core", window.cpu_percent(), Goal::Under(1.0));
    report.figure("idle_rss_mib", "idle memory, MiB", window.after.rss_mib, Goal::Under(50.0));
    report.count("idle_threads", "idle threads", window.after.threads);
    report.figure(
        "machine_busy_percent",
        "machine busy meanwhile, % of all cores",
        window.machine_percent,
        Goal::None,
    );
    report.print()?;
    Ok(())
}
