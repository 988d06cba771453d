//! The same samples in the files of Prometheus, made by its own tool from its own text format.

use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use roundsman::model::Sample;

use super::input::Input;

/// What a block of Prometheus may cover: a day, as its compaction makes of a day's blocks of two hours.
const BLOCK: &str = "24h";

/// Bytes of all files of Prometheus for these samples, by their number. None: there is no `promtool`.
///
/// # Errors
/// When the tool fails or the disk is full.
pub async fn bytes_per_sample(
    input: &Input,
    directory: &Path,
    servers: u32,
    ticks: usize,
    start_ms: i64,
    interval_ms: i64,
) -> anyhow::Result<Option<f64>> {
    let probe = tokio::process::Command::new("promtool").arg("--version").output().await;
    if !probe.is_ok_and(|output| output.status.success()) {
        return Ok(None);
    }
    let text = directory.join("samples.om");
    let blocks = directory.join("blocks");
    let samples = write(input, &text, servers, ticks, start_ms, interval_ms)?;
    let status = tokio::process::Command::new("promtool")
        .args(["tsdb", "create-blocks-from", "openmetrics", "--quiet"])
        .arg(format!("--max-block-duration={BLOCK}"))
        .args([&text, &blocks])
        .stdout(Stdio::null())
        .status()
        .await
        .context("running promtool")?;
    anyhow::ensure!(status.success(), "promtool failed");
    std::fs::remove_file(&text)?;
    let bytes = size(&blocks)?;
    std::fs::remove_dir_all(&blocks)?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    Ok(Some(bytes as f64 / samples as f64))
}

/// `OpenMetrics` wants all samples of one metric together.
fn write(
    input: &Input,
    path: &Path,
    servers: u32,
    ticks: usize,
    start_ms: i64,
    interval_ms: i64,
) -> anyhow::Result<u64> {
    let mut out = BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
    let mut samples = 0;
    let mut reading: Vec<Sample> = Vec::new();
    let mut done = Vec::new();
    for key in input.keys() {
        let name = key.metric.as_str();
        if done.contains(&name) {
            continue;
        }
        done.push(name);
        writeln!(out, "# TYPE {name} gauge")?;
        for server in 1..=servers {
            for tick in 0..ticks {
                input.reading(server, tick, &mut reading);
                let at_ms = start_ms + i64::try_from(tick)? * interval_ms;
                for sample in reading.iter().filter(|sample| sample.key.metric.as_str() == name) {
                    let label = sample.key.labels.as_str();
                    // What Roundsman keeps: two decimals at most.
                    let value = (sample.value * 100.0).round() / 100.0;
                    writeln!(
                        out,
                        "{name}{{instance=\"server-{server}\",label=\"{label}\"}} {value} {}.{:03}",
                        at_ms / 1000,
                        at_ms % 1000
                    )?;
                    samples += 1;
                }
            }
        }
    }
    writeln!(out, "# EOF")?;
    out.flush()?;
    Ok(samples)
}

fn size(directory: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let data = entry.metadata()?;
        bytes += if data.is_dir() { size(&entry.path())? } else { data.len() };
    }
    Ok(bytes)
}
