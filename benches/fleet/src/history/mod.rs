//! `history`: what a sample costs on disk, in CPU and in writing, how fast charts are, how long a start takes.
//!
//! Drives the product's own history with a clock that is set, on the recording of a real machine.

mod input;
mod prometheus;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use roundsman::clock::{Clock as _, ManualClock};
use roundsman::history::{Aggregate, History, Level};
use roundsman::model::{SeriesKey, ServerNumber, Timestamp};

use crate::report::{Goal, Report, progress};
use input::Input;

/// The start of a row of every level.
const START_MS: i64 = 650 * 32 * DAY_MS;
const DAY_MS: i64 = 24 * 3_600_000;

/// Points of a day over the fleet: what a chart of it asks for, from the level of 5 minutes.
const DAY_POINTS: usize = 288;

/// Queries of each kind; the 99th percentile of them counts.
const QUERIES: u32 = 200;

/// What is measured.
#[derive(Debug, Args)]
pub struct Options {
    #[arg(long, default_value_t = 1000)]
    pub servers: u32,
    /// Series a server, as far as the recording has them.
    #[arg(long, default_value_t = 40)]
    pub series: usize,
    #[arg(long, default_value_t = 24)]
    pub hours: u32,
    /// Between two readings.
    #[arg(long, default_value = "10s", value_parser = crate::span)]
    pub interval: Duration,
    /// Another recording: CSV, first column time in ms, then one column a series.
    #[arg(long)]
    pub input: Option<PathBuf>,
    /// Servers whose samples Prometheus gets too.
    #[arg(long, default_value_t = 20)]
    pub prometheus_servers: u32,
}

/// # Errors
/// When the recording cannot be read, or the disk is full.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let interval_ms = i64::try_from(options.interval.as_millis())?;
    let input = Input::load(options.input.as_deref(), options.series, interval_ms)?;
    let directory = tempfile::Builder::new().prefix("roundsman-bench-history").tempdir()?;
    let ticks = usize::try_from(i64::from(options.hours) * 3_600_000 / interval_ms)?;
    let mut report = Report::default();
    report.count("servers", "servers", u64::from(options.servers));
    report.count("series_per_server", "series a server", u64::try_from(input.series())?);
    report.count("recording_rows", "rows of the recording", u64::try_from(input.recorded_rows)?);
    report.count("recording_step_ms", "time between them, ms", u64::try_from(input.recorded_step_ms)?);

    progress("Prometheus, the same samples");
    let (servers, path) = (options.prometheus_servers.min(options.servers), directory.path());
    let theirs = prometheus::bytes_per_sample(&input, path, servers, ticks, START_MS, interval_ms).await?;
    let fleet = Fleet { input, servers: options.servers, ticks, interval_ms };
    day(&fleet, directory.path(), &mut report).await?;
    match theirs {
        Some(bytes) => {
            report.figure("prometheus_bytes_per_sample", "Prometheus, bytes a sample", bytes, Goal::None);
        }
        None => {
            report.note("there is no promtool here (Debian package prometheus), so nothing to compare with")
        }
    }
    year(&fleet, directory.path(), &mut report).await?;
    report.print()?;
    Ok(())
}

struct Fleet {
    input: Input,
    servers: u32,
    ticks: usize,
    interval_ms: i64,
}

impl Fleet {
    fn all(&self) -> Vec<ServerNumber> {
        (1..=self.servers).map(ServerNumber).collect()
    }

    /// A server and a series that follow from a number.
    fn pick(&self, number: u32) -> (ServerNumber, SeriesKey) {
        let server = number.wrapping_mul(2_654_435_769) % self.servers + 1;
        let series = number as usize % self.input.series().max(1);
        let key = self.input.keys().get(series).cloned().unwrap_or_else(|| SeriesKey::plain("cpu_percent"));
        (ServerNumber(server), key)
    }
}

/// A day of readings: sizes, CPU, writing, charts of it.
async fn day(fleet: &Fleet, directory: &Path, report: &mut Report) -> anyhow::Result<()> {
    let path = directory.join("history.db");
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(START_MS)));
    progress("making the samples, without keeping them");
    let before = cpu()?;
    let mut reading = Vec::new();
    let mut samples = 0_u64;
    for tick in 0..fleet.ticks {
        for server in 1..=fleet.servers {
            fleet.input.reading(server, tick, &mut reading);
            samples += std::hint::black_box(&reading).len() as u64;
        }
    }
    let making = cpu()? - before;

    progress(&format!("keeping {samples} samples"));
    let history = History::open(&path, clock.clone())?;
    let (before, written) = (cpu()?, written()?);
    let began = Instant::now();
    let mut head_bytes = 0;
    for tick in 0..fleet.ticks {
        for server in 1..=fleet.servers {
            fleet.input.reading(server, tick, &mut reading);
            history.append(ServerNumber(server), clock.now(), &reading);
        }
        clock.advance(Duration::from_millis(fleet.interval_ms.unsigned_abs()));
        history.sync().await?;
        if tick % 64 == 0 {
            head_bytes = head_bytes.max(history.health().head_bytes);
        }
    }
    let spent = (cpu()? - before).saturating_sub(making);
    let wall = began.elapsed();
    let written = self::written()? - written;
    // Until all of the day is sealed, joined and rolled up.
    for _ in 0..120 {
        clock.advance(Duration::from_secs(60));
        for _ in 0..4 {
            history.sync().await?;
        }
    }
    let dropped = history.health().dropped;
    anyhow::ensure!(dropped == roundsman::history::Dropped::default(), "samples were dropped: {dropped:?}");
    let sizes = history.sizes().await?;
    history.close().await?;
    let file = std::fs::metadata(&path)?.len();
    let raw = sizes.levels.iter().find(|size| size.level == Level::Raw).context("no raw level")?.bytes;
    let rolled: u64 = sizes.levels.iter().map(|size| size.bytes).sum::<u64>() - raw;
    let a_sample = |bytes: u64| ratio(bytes, samples);
    report.count("samples", "samples", samples);
    report.figure(
        "bytes_per_sample",
        "bytes a sample: the whole file with free pages, without roll-ups",
        a_sample(file.saturating_sub(rolled)),
        Goal::Under(1.4),
    );
    report.figure("raw_bytes_per_sample", "of these, raw chunks", a_sample(raw), Goal::None);
    report.figure(
        "rollup_bytes_per_sample",
        "roll-ups of that day, by raw samples",
        a_sample(rolled),
        Goal::None,
    );
    let cpu_us = spent.as_secs_f64() * 1e6 / ratio(samples, 1);
    report.figure("cpu_us_per_sample", "CPU a sample, µs, with sealing and roll-ups", cpu_us, Goal::None);
    report.figure("written_bytes_per_sample", "bytes written a sample", a_sample(written), Goal::None);
    report.figure(
        "head_mib",
        "unsealed values in memory at most, MiB",
        ratio(head_bytes, 1 << 20),
        Goal::None,
    );
    report.figure("wall_s", "time that took, s", wall.as_secs_f64(), Goal::None);
    drop(history);
    charts_of_a_day(fleet, &path, &clock, report).await
}

async fn charts_of_a_day(
    fleet: &Fleet,
    path: &Path,
    clock: &Arc<ManualClock>,
    report: &mut Report,
) -> anyhow::Result<()> {
    progress("charts of a day");
    let history = History::open(path, clock.clone())?;
    let to = Timestamp::from_millis(START_MS + i64::try_from(fleet.ticks)? * fleet.interval_ms);
    let from = Timestamp::from_millis(to.as_millis() - DAY_MS);
    let mut raw = Times::default();
    let mut minutes = Times::default();
    for number in 0..QUERIES {
        let (server, key) = fleet.pick(number);
        raw.of(history.range(server, &key, from, to, 5000)).await?;
        minutes.of(history.range(server, &key, from, to, 1000)).await?;
    }
    minutes.report(report, "range_24h", "24 h of one series in 1,000 points", 20.0);
    raw.report(report, "range_24h_raw", "24 h of one series in 5,000 points", 20.0);
    let (mut latest, mut top, mut average) = (Times::default(), Times::default(), Times::default());
    let servers = fleet.all();
    for number in 0..QUERIES / 4 {
        let (_, key) = fleet.pick(number);
        let began = Instant::now();
        let found = history.latest_of(&servers, &key);
        latest.0.push(began.elapsed());
        std::hint::black_box(found);
    }
    let hour_ago = Timestamp::from_millis(to.as_millis() - 3_600_000);
    for number in 0..8 {
        let (_, key) = fleet.pick(number);
        top.of(history.aggregate(&servers, &key, Aggregate::TopN(10), hour_ago, to, 60)).await?;
        average.of(history.aggregate(&servers, &key, Aggregate::Avg, from, to, DAY_POINTS)).await?;
    }
    latest.report(report, "latest", "latest value of one series of the fleet", 50.0);
    report.figure(
        "latest_1000_ms",
        "the same, 99th percentile, ms",
        latest.quantile(0.99),
        Goal::Under(50.0),
    );
    average.report(report, "average_24h", "average of the fleet over 24 h in 288 points", f64::INFINITY);
    report.figure("aggregate_1000_ms", "the same, median, ms", average.quantile(0.5), Goal::None);
    top.report(report, "top10_1h", "top 10 of the fleet over an hour", f64::INFINITY);
    history.close().await?;
    Ok(())
}

/// A year of roll-ups: a month of some servers, put down as often as the year and the fleet need it.
async fn year(fleet: &Fleet, directory: &Path, report: &mut Report) -> anyhow::Result<()> {
    const MODEL_SERVERS: u32 = 10;
    const STEP_MS: i64 = 60_000;
    let path = directory.join("year.db");
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(START_MS)));
    progress("a month of some servers");
    let history = History::open(&path, clock.clone())?;
    let mut reading = Vec::new();
    for tick in 0..usize::try_from(32 * DAY_MS / STEP_MS)? {
        for server in 1..=MODEL_SERVERS.min(fleet.servers) {
            fleet.input.reading(server, tick, &mut reading);
            history.append(ServerNumber(server), clock.now(), &reading);
        }
        clock.advance(Duration::from_millis(STEP_MS.unsigned_abs()));
        if tick % 5 == 0 {
            history.sync().await?;
        }
    }
    for _ in 0..20 {
        clock.advance(Duration::from_secs(1800));
        history.sync().await?;
    }
    history.close().await?;
    drop(history);
    progress("the year of the whole fleet");
    spread_over_a_year(&path, MODEL_SERVERS.min(fleet.servers), fleet.servers)?;
    report.count("year_bytes", "history with a year, bytes", std::fs::metadata(&path)?.len());

    let mut starts = Times::default();
    for _ in 0..5 {
        let began = Instant::now();
        let history = History::open(&path, clock.clone())?;
        let latest = history.latest(ServerNumber(1));
        starts.0.push(began.elapsed());
        std::hint::black_box(latest);
        history.close().await?;
    }
    report.figure("start_ms", "opening it, median, ms", starts.quantile(0.5), Goal::Under(1000.0));

    let history = History::open(&path, clock.clone())?;
    let to = Timestamp::from_millis(START_MS + 32 * DAY_MS);
    let mut month = Times::default();
    let mut whole = Times::default();
    for number in 0..QUERIES {
        let (server, key) = fleet.pick(number);
        let back = |days: i64| Timestamp::from_millis(to.as_millis() - days * DAY_MS);
        month.of(history.range(server, &key, back(30), to, 1000)).await?;
        whole.of(history.range(server, &key, back(365), to, 1000)).await?;
    }
    month.report(report, "range_30d", "30 d of one series in 1,000 points", 20.0);
    whole.report(report, "range_1y", "a year of one series in 1,000 points", f64::INFINITY);
    progress("removing what has expired of it");
    let began = Instant::now();
    let removal = history.remove_expired().await?;
    let rows: u64 = removal.removed.iter().map(|removed| removed.rows).sum();
    report.count("removed_rows", "rows that had expired", rows);
    report.figure(
        "removal_s",
        "removing them, between the rounds, s",
        began.elapsed().as_secs_f64(),
        Goal::None,
    );
    history.close().await?;
    Ok(())
}

/// Rows of roll-ups carry no time but in their key, so that a copy under another key is another month.
fn spread_over_a_year(path: &Path, model: u32, servers: u32) -> anyhow::Result<()> {
    let db = rusqlite::Connection::open(path)?;
    db.execute_batch("PRAGMA synchronous = off; DELETE FROM long; DELETE FROM raw;")?;
    // Days to go back, and days of a row times four.
    for (table, days, quarters) in
        [("r1m", 2, 1), ("r5m", 30, 4), ("r15m", 92, 16), ("r1h", 384, 64), ("r1d", 384, 128)]
    {
        let rows_a_month = 128 / quarters;
        let last_row = (START_MS / DAY_MS) * 4 / quarters + rows_a_month - 1;
        let rows = days * 4 / quarters;
        let sql = format!(
            "WITH RECURSIVE server(s) AS (SELECT 1 UNION ALL SELECT s + 1 FROM server WHERE s < {servers}),
                            row(r) AS (SELECT 0 UNION ALL SELECT r + 1 FROM row WHERE r < {rows} - 1)
             INSERT OR IGNORE INTO {table} (k, b)
             SELECT (({last_row} - r) << 20) | s, m.b FROM row, server
             JOIN {table} AS m ON m.k = ((({last_row} - r % {rows_a_month}) << 20) | ((s - 1) % {model} + 1))"
        );
        db.execute_batch(&sql).with_context(|| format!("filling {table}"))?;
        db.execute_batch(&format!(
            "UPDATE totals SET (rows, bytes) = (SELECT count(*), sum(length(b)) FROM {table}) WHERE name = '{table}'"
        ))?;
    }
    db.execute_batch(
        "INSERT OR IGNORE INTO progress SELECT s.value, p.level, p.next_row FROM progress p,
             (SELECT DISTINCT k & 1048575 AS value FROM r1h) s WHERE p.server = 1;
         PRAGMA wal_checkpoint(TRUNCATE)",
    )?;
    Ok(())
}

/// How long some queries took.
#[derive(Debug, Default)]
struct Times(Vec<Duration>);

impl Times {
    async fn of<T>(
        &mut self,
        query: impl Future<Output = Result<T, roundsman::history::HistoryError>>,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        std::hint::black_box(query.await?);
        self.0.push(began.elapsed());
        Ok(())
    }

    /// In ms.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index of some hundreds"
    )]
    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let place = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
        sorted.get(place).copied().unwrap_or_default().as_secs_f64() * 1000.0
    }

    fn report(&self, report: &mut Report, name: &str, title: &str, goal_ms: f64) {
        let goal = if goal_ms.is_finite() { Goal::Under(goal_ms) } else { Goal::None };
        report.figure(
            &format!("{name}_p50_ms"),
            &format!("{title}, median, ms"),
            self.quantile(0.5),
            Goal::None,
        );
        report.figure(
            &format!("{name}_p99_ms"),
            &format!("{title}, 99th percentile, ms"),
            self.quantile(0.99),
            goal,
        );
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

/// CPU time of this process so far (proc(5), fields 14 and 15 of stat, in ticks of 10 ms).
fn cpu() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).context("/proc/self/stat")?;
    Ok(Duration::from_millis((user + system) * 10))
}

/// Bytes that this process had written to a disk so far (proc(5), `write_bytes` of io).
fn written() -> anyhow::Result<u64> {
    let io = std::fs::read_to_string("/proc/self/io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).context("/proc/self/io")?;
    Ok(line.trim().parse()?)
}
