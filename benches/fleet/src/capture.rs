//! Records what this machine's metrics do, second by second, as the product's own local probe sees them.
//!
//! The form is that of `--input`: a first column `time` (milliseconds since 1970), then one column a series, named
//! `metric` or `metric{label}`; an empty field is a gap. Never part of a measurement.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use roundsman::clock::{Clock as _, SystemClock};
use roundsman::collect::{LocalProbe, rates};
use roundsman::model::{Sample, Sections, SeriesKey};
use tokio::time::{Instant, MissedTickBehavior};

const STEP: Duration = Duration::from_secs(1);
/// A day; a recording that somebody forgot ends.
const LONGEST_SECONDS: u64 = 86_400;
/// Readings before the columns are fixed: the first has no rates.
const WARM_UP: usize = 3;

/// What a reading costs the machine stays small: no tables, as in most readings of a server.
const SECTIONS: Sections = Sections::BASE;

/// Writes a reading a second to `file` for `seconds`. What was written stays if it is interrupted.
///
/// # Errors
/// When the time is over a day, this machine cannot be read or the file cannot be written.
pub async fn capture(file: &Path, seconds: u64) -> anyhow::Result<()> {
    if seconds > LONGEST_SECONDS {
        bail!("a recording lasts at most {LONGEST_SECONDS} s");
    }
    let file = std::fs::File::create(file).with_context(|| format!("creating {}", file.display()))?;
    let mut out = std::io::BufWriter::new(file);
    let mut probe = LocalProbe::new();
    let mut previous = None;
    let mut columns: Vec<SeriesKey> = Vec::new();
    let mut ticks = tokio::time::interval(STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut readings = 0;
    while Instant::now() < end {
        ticks.tick().await;
        let started = Instant::now();
        let snapshot = probe.read(SECTIONS).await.context("reading this machine")?;
        let now = SystemClock.now().as_millis();
        let mut samples = rates::samples(previous.as_ref(), &snapshot);
        let value = started.elapsed().as_secs_f64() * 1000.0;
        samples.push(Sample { key: SeriesKey::plain("response_time_ms"), value });
        previous = Some(snapshot);
        readings += 1;
        if readings < WARM_UP {
            continue;
        }
        if columns.is_empty() {
            columns = samples.iter().map(|sample| sample.key.clone()).collect();
            let names: Vec<String> = columns.iter().map(ToString::to_string).collect();
            writeln!(out, "time,{}", names.join(","))?;
        }
        writeln!(out, "{now},{}", row(&columns, &samples))?;
        out.flush()?;
    }
    Ok(())
}

/// Two decimals: what the catalogue keeps of the finest metric.
fn row(columns: &[SeriesKey], samples: &[Sample]) -> String {
    let field = |key: &SeriesKey| {
        let sample = samples.iter().find(|sample| &sample.key == key);
        sample.map_or_else(String::new, |sample| ((sample.value * 100.0).round() / 100.0).to_string())
    };
    columns.iter().map(field).collect::<Vec<_>>().join(",")
}
