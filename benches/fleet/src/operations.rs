//! `operations`: one command on a whole fleet through warm sessions, the page of it, and how fast it is ended.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clap::Args;
use roundsman::model::Timestamp;
use serde_json::{Value, json};

use crate::fleet::{Running, Window};
use crate::generator::{ANSWERS, HANGS};
use crate::product::Product;
use crate::report::{Goal, Report, progress};

const OPERATIONS: &str = "/api/v1/fleet/operations";
/// Readings are few meanwhile, and what they cost is taken off.
const INTERVAL: Duration = Duration::from_secs(60);
/// After all servers are connected: the second readings and the first details are over.
const SETTLE: Duration = Duration::from_secs(10);
/// How long the program is watched doing nothing.
const IDLE: Duration = Duration::from_secs(5);
/// How often it is asked whether an operation has ended; its own rows say when.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Until as many commands hang as run at a time; the others wait for them.
const HANG: Duration = Duration::from_secs(2);
/// Longer than any of them may take.
const END_LIMIT: Duration = Duration::from_secs(120);
/// Goals of a page with a thousand servers, and of a cancellation.
const RENDER_LIMIT_MS: f64 = 100.0;
const CANCEL_LIMIT_MS: f64 = 1000.0;

/// What is measured.
#[derive(Debug, Args)]
pub struct Options {
    #[arg(long, default_value_t = 1000)]
    pub servers: usize,
    /// Operations of each kind; the median counts.
    #[arg(long, default_value_t = 5)]
    pub times: usize,
}

/// What one operation took.
struct Once {
    id: String,
    wall_ms: f64,
    cpu_us_per_target: f64,
    written_bytes_per_target: f64,
}

fn time_ms(operation: &Value, name: &str) -> anyhow::Result<i64> {
    let text =
        operation.get(name).and_then(Value::as_str).with_context(|| format!("no {name} in {operation}"))?;
    Ok(Timestamp::parse(text).with_context(|| format!("'{text}' is no time"))?.as_millis())
}

fn status(operation: &Value) -> &str {
    operation.get("status").and_then(Value::as_str).unwrap_or_default()
}

async fn begin(product: &Product, command: &str) -> anyhow::Result<String> {
    let body = json!({
        "operation_type": "run_command",
        // This machine itself is enrolled too, and is acted on only where it is allowed.
        "filter_criteria": { "environments": ["bench"] },
        "parameters": { "command": command, "timeout_s": 600 },
    });
    let begun = product.post(OPERATIONS, &body).await?;
    Ok(begun.get("id").and_then(Value::as_str).context("an operation without an id")?.to_owned())
}

/// The newest operation, without its results: cheap to ask for.
async fn newest(product: &Product) -> anyhow::Result<Value> {
    let list = product.get(&format!("{OPERATIONS}?limit=1")).await?;
    list.pointer("/items/0").cloned().context("no operation")
}

async fn ended(product: &Product) -> anyhow::Result<Value> {
    let begun = Instant::now();
    loop {
        let operation = newest(product).await?;
        if !matches!(status(&operation), "pending" | "running") {
            return Ok(operation);
        }
        if begun.elapsed() > END_LIMIT {
            bail!("an operation does not end: {operation}");
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds and counts far below 2^53")]
async fn once(product: &Product, targets: usize, idle_cpu: f64) -> anyhow::Result<Once> {
    let (before, begun) = (product.usage()?, Instant::now());
    let id = begin(product, ANSWERS).await?;
    let done = ended(product).await?;
    let (after, seconds) = (product.usage()?, begun.elapsed().as_secs_f64());
    if status(&done) != "completed" {
        bail!("an operation did not succeed: {done}");
    }
    let cpu = after.cpu_seconds - before.cpu_seconds - idle_cpu * seconds;
    let written = after.written_bytes - before.written_bytes;
    Ok(Once {
        id,
        wall_ms: (time_ms(&done, "completed_at")? - time_ms(&done, "created_at")?) as f64,
        cpu_us_per_target: 1e6 * cpu.max(0.0) / targets as f64,
        written_bytes_per_target: written as f64 / targets as f64,
    })
}

/// From the request to the end of the last target, in ms.
#[expect(clippy::cast_precision_loss, reason = "milliseconds far below 2^53")]
async fn cancelled(product: &Product) -> anyhow::Result<f64> {
    let id = begin(product, HANGS).await?;
    tokio::time::sleep(HANG).await;
    let asked = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    product.post(&format!("{OPERATIONS}/{id}/cancel"), &json!({})).await?;
    let done = ended(product).await?;
    if status(&done) != "cancelled" {
        bail!("an operation was not cancelled: {done}");
    }
    Ok((time_ms(&done, "completed_at")? - asked) as f64)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// # Errors
/// When something cannot be started, dies, or an operation ends otherwise than it should.
pub async fn run(program: &Path, options: &Options) -> anyhow::Result<()> {
    let mut running = Running::start(program, options.servers, INTERVAL).await?;
    tokio::time::sleep(SETTLE).await;
    let idle = Window::measure(&running.product, IDLE).await?;
    let times = options.times.max(1);
    let (mut ran, mut rendered, mut page_bytes, mut ends) = (Vec::new(), Vec::new(), 0, Vec::new());
    for number in 1..=times {
        let done = once(&running.product, options.servers, idle.cpu_percent() / 100.0).await?;
        progress(&format!("operation {number}: {} ms", done.wall_ms));
        let path = format!("/operations/{}", done.id);
        let asked = Instant::now();
        let page = running.product.page(&path).await?;
        rendered.push(asked.elapsed().as_secs_f64() * 1000.0);
        page_bytes = page.len();
        ran.push(done);
    }
    for number in 1..=times {
        let took = cancelled(&running.product).await?;
        progress(&format!("cancellation {number}: {took} ms"));
        ends.push(took);
    }
    let warnings = running.product.warnings();
    running.product.stop().await?;

    let of = |value: fn(&Once) -> f64| median(ran.iter().map(value).collect());
    let mut report = Report::default();
    report.count("servers", "servers", u64::try_from(options.servers)?);
    report.figure(
        "wall_ms_1000",
        "one command on all of them, median, ms",
        of(|one| one.wall_ms),
        Goal::None,
    );
    report.figure(
        "cpu_us_per_target",
        "CPU a server, readings taken off, µs",
        of(|one| one.cpu_us_per_target),
        Goal::None,
    );
    let written = of(|one| one.written_bytes_per_target);
    report.figure("written_bytes_per_target", "written to disk a server, bytes", written, Goal::None);
    report.figure(
        "render_1000_targets_ms",
        "its page, from the request to the last byte, median, ms",
        median(rendered),
        Goal::Under(RENDER_LIMIT_MS),
    );
    report.count("page_bytes", "its page, bytes", u64::try_from(page_bytes)?);
    report.figure(
        "cancel_ms",
        "from cancelling to the last end, median, ms",
        median(ends.clone()),
        Goal::Under(CANCEL_LIMIT_MS),
    );
    let worst = ends.iter().copied().fold(0.0, f64::max);
    report.figure("cancel_max_ms", "from cancelling to the last end, worst, ms", worst, Goal::None);
    warnings.iter().for_each(|warning| report.note(format!("the program warned: {warning}")));
    report.print()?;
    Ok(())
}
