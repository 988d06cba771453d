//! `fleet`: the cost of reading N servers every interval, and what the servers themselves saw of it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;

use crate::generator::Generator;
use crate::ledger::{Ledger, Outcome};
use crate::product::{Product, Usage, machine_seconds, own_usage};
use crate::report::{Goal, Report, progress};

/// After all servers are connected: the second readings, the first details and the first sealing are over.
const WARM_UP: Duration = Duration::from_secs(20);
/// Lateness that no reading may reach (SPEC 15.1).
const LATE_LIMIT_MS: f64 = 1000.0;
/// Above this share of all cores, the figures tell of the machine, not of the program.
const SATURATED_PERCENT: f64 = 90.0;

/// What is measured.
#[derive(Debug, Args)]
pub struct Options {
    #[arg(long, default_value_t = 1000)]
    pub servers: usize,
    /// Time between two readings of a server.
    #[arg(long, default_value = "5s", value_parser = crate::span)]
    pub interval: Duration,
    /// Length of the measurement.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
}

/// Goals of SPEC 15.1 for this many servers and this interval: percent of a core, MiB.
fn goals(options: &Options) -> (Goal, Goal) {
    match (options.servers, options.interval.as_millis()) {
        (1000, 5000) => (Goal::Under(10.0), Goal::Under(200.0)),
        (5000, 5000) => (Goal::Under(50.0), Goal::Under(900.0)),
        (1000, 1000) => (Goal::Under(50.0), Goal::None),
        _ => (Goal::None, Goal::None),
    }
}

/// A running fleet: the generator and the program that reads it.
#[derive(Debug)]
pub struct Running {
    pub product: Product,
    pub ledger: Arc<Ledger>,
}

impl Running {
    /// Starts both and waits until every server was read twice.
    ///
    /// # Errors
    /// When one of them does not start, or servers stay unread.
    pub async fn start(program: &Path, servers: usize, interval: Duration) -> anyhow::Result<Self> {
        let mut product = Product::new(program)?;
        product.start().await?;
        let ledger = Arc::new(Ledger::new(servers, interval));
        let generator = Generator::start(Arc::clone(&ledger), servers, &product.public_key().await?).await?;
        progress(&format!("enrolling {servers} servers (process {})", product.pid().unwrap_or(0)));
        product.enrol(&generator, interval).await?;
        let running = Self { product, ledger };
        running.all_read(servers, 2).await?;
        Ok(running)
    }

    /// Waits until every server was asked at least `times`.
    ///
    /// # Errors
    /// When some are not in time.
    pub async fn all_read(&self, servers: usize, times: u64) -> anyhow::Result<()> {
        let limit = Duration::from_secs(60) + Duration::from_millis(20) * u32::try_from(servers)?;
        let begun = Instant::now();
        while self.ledger.asked(times) < servers {
            if begun.elapsed() > limit {
                let asked = self.ledger.asked(times);
                let outcome = self.ledger.finish(begun, Instant::now());
                bail!(
                    "only {asked} of {servers} servers are read after {} s; {:?} {:?}",
                    limit.as_secs(),
                    outcome.complaints.first(),
                    self.product.warnings()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

/// What a window of time cost.
#[derive(Debug)]
pub struct Window {
    pub seconds: f64,
    pub before: Usage,
    pub after: Usage,
    pub generator_cpu_seconds: f64,
    /// Share of all cores that was busy, whoever kept them so.
    pub machine_percent: f64,
}

impl Window {
    /// # Errors
    /// When the program ends within it.
    pub async fn measure(product: &Product, length: Duration) -> anyhow::Result<Self> {
        let (before, own, machine, begun) =
            (product.usage()?, own_usage()?, machine_seconds()?, Instant::now());
        tokio::time::sleep(length).await;
        let seconds = begun.elapsed().as_secs_f64();
        let (after, own_after, machine_after) = (product.usage()?, own_usage()?, machine_seconds()?);
        Ok(Self {
            seconds,
            before,
            after,
            generator_cpu_seconds: own_after.cpu_seconds - own.cpu_seconds,
            machine_percent: 100.0 * (machine_after.0 - machine.0) / (machine_after.1 - machine.1).max(0.001),
        })
    }

    pub fn cpu_percent(&self) -> f64 {
        100.0 * (self.after.cpu_seconds - self.before.cpu_seconds) / self.seconds
    }
}

/// # Errors
/// When something cannot be started or dies.
pub async fn run(program: &Path, options: &Options) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut running = Running::start(program, options.servers, options.interval).await?;
    let connected = begun.elapsed();
    progress(&format!("all read after {:.1} s; warming up", connected.as_secs_f64()));
    tokio::time::sleep(WARM_UP).await;
    progress(&format!("measuring for {} s", options.seconds));
    let history_before = running.product.history_bytes();
    running.ledger.begin();
    let started = Instant::now();
    let window = Window::measure(&running.product, Duration::from_secs(options.seconds)).await?;
    let outcome = running.ledger.finish(started, Instant::now());
    let history_bytes = running.product.history_bytes().saturating_sub(history_before);
    let series = running.product.series_of("s00000").await?;
    let warnings = running.product.warnings();
    running.product.stop().await?;

    let mut report = Report::default();
    describe(&mut report, options, &window, &outcome);
    report.count("history_bytes", "history on disk grew by, bytes", history_bytes);
    report.count(
        "written_bytes",
        "written to disk, bytes",
        window.after.written_bytes - window.before.written_bytes,
    );
    report.count("series_per_server", "series kept of a server", u64::try_from(series)?);
    report.figure("connect_s", "all servers enrolled and read after, s", connected.as_secs_f64(), Goal::None);
    notes(&mut report, &window, &outcome, &warnings);
    report.print()?;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn describe(report: &mut Report, options: &Options, window: &Window, outcome: &Outcome) {
    let (cpu_goal, memory_goal) = goals(options);
    let requests = (outcome.requests as f64).max(1.0);
    let cpu_seconds = window.after.cpu_seconds - window.before.cpu_seconds;
    report.count("servers", "servers", options.servers as u64);
    report.figure("interval_s", "interval, s", options.interval.as_secs_f64(), Goal::None);
    report.figure("window_s", "measured for, s", window.seconds.round(), Goal::None);
    report.figure("cpu_percent_of_core", "CPU, % of one core", window.cpu_percent(), cpu_goal);
    report.figure("cpu_us_per_reading", "CPU a reading, µs", 1e6 * cpu_seconds / requests, Goal::None);
    report.figure("rss_mib", "memory, MiB", window.after.rss_mib, memory_goal);
    report.figure("rss_peak_mib", "memory at its peak, MiB", window.after.peak_rss_mib, Goal::None);
    report.count("readings", "readings", outcome.requests);
    report.figure("lateness_p50_ms", "late by, median, ms", outcome.late_ms(0.5), Goal::None);
    report.figure("lateness_p99_ms", "late by, 99 of 100, ms", outcome.late_ms(0.99), Goal::None);
    report.figure("lateness_max_ms", "late by, worst, ms", outcome.late_ms(1.0), Goal::Under(LATE_LIMIT_MS));
    report.figure("missed", "missed readings", outcome.missed as f64, Goal::Under(1.0));
    report.count("invalid_requests", "requests that make no sense", outcome.invalid);
    report.count("other_commands", "commands beside the probe (preflight)", outcome.other_commands);
    report.count("logins_min", "logins a server, fewest", outcome.logins.0);
    report.count("logins_max", "logins a server, most", outcome.logins.1);
    report.figure(
        "answer_bytes",
        "bytes an answer",
        (outcome.sent_bytes as f64 / requests).round(),
        Goal::None,
    );
    let generator = 100.0 * window.generator_cpu_seconds / window.seconds;
    report.figure(
        "generator_cpu_percent_of_core",
        "generator's own CPU, % of one core",
        generator,
        Goal::None,
    );
    report.figure("machine_busy_percent", "machine busy, % of all cores", window.machine_percent, Goal::None);
}

fn notes(report: &mut Report, window: &Window, outcome: &Outcome, warnings: &[String]) {
    if window.machine_percent > SATURATED_PERCENT {
        report.note("the machine was saturated; lateness tells of the machine, not of the program");
    }
    for complaint in outcome.complaints.iter().take(5) {
        report.note(format!("a server complains: {complaint}"));
    }
    for warning in warnings {
        report.note(format!("the program warned: {warning}"));
    }
}
