//! A recording of a machine's metrics as rows of values, and what a fleet like it would say.
//!
//! Pure, but for reading the file. Invents nothing but when each server was where in the recording, and how busy
//! its network and disks were.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use roundsman::history::metric::{self, Unit};
use roundsman::model::{Labels, MetricName, Sample, SeriesKey};

/// The committed recording; see `recording/README.md`.
const COMMITTED: &[u8] = include_bytes!("../../recording/machine-1s.csv.gz");

/// A recording of another machine may be this long: a day of 300 columns.
const LARGEST_BYTES: u64 = 512 << 20;

/// How a series becomes slower: what was read in between, or its mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thinning {
    Last,
    Mean,
}

/// A recording, thinned to the interval of the readings.
#[derive(Debug)]
pub struct Input {
    keys: Vec<SeriesKey>,
    /// Whether a busier server has more of it.
    scales: Vec<bool>,
    /// For each second within the interval that a reading may begin at: the rows from there on.
    phases: Vec<Vec<Vec<f64>>>,
    pub recorded_rows: usize,
    pub recorded_step_ms: i64,
}

impl Input {
    /// # Errors
    /// When the file cannot be read or is not of the form that `docs/benchmarks.md` describes.
    pub fn load(file: Option<&Path>, series: usize, interval_ms: i64) -> anyhow::Result<Self> {
        let mut text = String::new();
        match file {
            Some(path) => {
                let file =
                    std::fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
                file.take(LARGEST_BYTES).read_to_string(&mut text)?;
            }
            None => {
                flate2::read::GzDecoder::new(COMMITTED).read_to_string(&mut text)?;
            }
        }
        Self::parse(&text, series, interval_ms)
    }

    fn parse(text: &str, series: usize, interval_ms: i64) -> anyhow::Result<Self> {
        let mut lines = text.lines();
        let head = lines.next().context("the recording is empty")?;
        let names: Vec<&str> = head.split(',').skip(1).collect();
        let mut times = Vec::new();
        let mut rows: Vec<Vec<f64>> = Vec::new();
        for (number, line) in (2_usize..).zip(lines) {
            let (time, fields) =
                line.split_once(',').with_context(|| format!("line {number} has one field"))?;
            times.push(time.parse::<i64>().with_context(|| format!("line {number}: the time"))?);
            let values: Vec<f64> = fields
                .split(',')
                .map(|field| if field.is_empty() { Ok(f64::NAN) } else { field.parse() })
                .collect::<Result<_, _>>()
                .with_context(|| format!("line {number}"))?;
            if values.len() != names.len() {
                bail!("line {number} has {} values for {} columns", values.len(), names.len());
            }
            rows.push(values);
        }
        let mut steps: Vec<i64> =
            times.windows(2).filter_map(|pair| Some(pair.get(1)? - pair.first()?)).collect();
        steps.sort_unstable();
        let step_ms = steps.get(steps.len() / 2).copied().unwrap_or(0).max(1);
        let every = usize::try_from((interval_ms + step_ms / 2) / step_ms)?.max(1);
        if rows.len() < 2 * every {
            bail!("the recording is too short");
        }
        let mut wanted = choose(&names, &rows);
        wanted.truncate(series);
        let keys: Vec<SeriesKey> =
            wanted.iter().filter_map(|&at| names.get(at)).map(|name| key(name)).collect();
        let thinnings: Vec<Thinning> = keys.iter().map(thinning).collect();
        let phase = |start: usize| -> Vec<Vec<f64>> {
            let later = rows.get(start..).unwrap_or_default();
            let windows = later.chunks_exact(every);
            windows.map(|window| thinned(window, &wanted, &thinnings)).collect()
        };
        Ok(Self {
            scales: keys.iter().map(scales).collect(),
            keys,
            phases: (0..every).map(phase).collect(),
            recorded_rows: rows.len(),
            recorded_step_ms: step_ms,
        })
    }

    pub fn series(&self) -> usize {
        self.keys.len()
    }

    pub fn keys(&self) -> &[SeriesKey] {
        &self.keys
    }

    /// What a server says at its n-th reading. Each begins elsewhere in the recording; when it is over it goes on
    /// from the start, a second later within the interval, so that no two rounds are the same.
    pub fn reading(&self, server: u32, tick: usize, out: &mut Vec<Sample>) {
        out.clear();
        let mixed = usize::try_from(server.wrapping_mul(2_654_435_769) >> 8).unwrap_or(0);
        let length = self.phases.iter().map(Vec::len).min().unwrap_or(1).max(1);
        let place = mixed % length + tick;
        let phase = (mixed / length + place / length) % self.phases.len().max(1);
        let Some(row) = self.phases.get(phase).and_then(|rows| rows.get(place % length)) else { return };
        // Half as busy to twice as busy.
        let busy = 0.5 + f64::from(server % 97) / 64.0;
        for ((key, scales), value) in self.keys.iter().zip(&self.scales).zip(row) {
            if value.is_finite() {
                let value = if *scales { value * busy } else { *value };
                out.push(Sample { key: key.clone(), value });
            }
        }
    }
}

/// Columns in an order that begins with those that say most: a machine's idle interfaces come last, as far as 40
/// others are there. Constants stay among them as they do on a real server.
fn choose(names: &[&str], rows: &[Vec<f64>]) -> Vec<usize> {
    let silent =
        |at: &usize| rows.iter().all(|row| row.get(*at).is_none_or(|value| *value == 0.0 || value.is_nan()));
    let (silent, speaking): (Vec<usize>, Vec<usize>) = (0..names.len()).partition(silent);
    speaking.into_iter().chain(silent).collect()
}

fn key(name: &str) -> SeriesKey {
    let (name, label) = match name.split_once('{') {
        Some((name, label)) => (name, label.trim_end_matches('}')),
        None => (name, ""),
    };
    let metric = match metric::find(name) {
        Some(known) => MetricName::known(known.name),
        None => MetricName::custom(name.to_owned()),
    };
    SeriesKey { metric, labels: Labels::of(label) }
}

fn thinning(key: &SeriesKey) -> Thinning {
    let name = key.metric.as_str();
    let mean =
        ["cpu_", "core_", "pressure_"].iter().any(|prefix| name.starts_with(prefix)) || name.contains("busy");
    let rate =
        metric::find(name).is_some_and(|known| matches!(known.unit, Unit::BytesPerSecond | Unit::PerSecond));
    if mean || rate { Thinning::Mean } else { Thinning::Last }
}

fn scales(key: &SeriesKey) -> bool {
    metric::find(key.metric.as_str())
        .is_some_and(|known| matches!(known.unit, Unit::BytesPerSecond | Unit::PerSecond))
}

fn thinned(window: &[Vec<f64>], wanted: &[usize], thinnings: &[Thinning]) -> Vec<f64> {
    let column = |at: usize| {
        window.iter().filter_map(move |row| row.get(at).copied()).filter(|value| value.is_finite())
    };
    let value = |(&at, thinning): (&usize, &Thinning)| match thinning {
        Thinning::Last => column(at).next_back().unwrap_or(f64::NAN),
        Thinning::Mean => {
            let (count, sum) = column(at).fold((0_u32, 0.0), |(count, sum), value| (count + 1, sum + value));
            if count == 0 { f64::NAN } else { sum / f64::from(count) }
        }
    };
    wanted.iter().zip(thinnings).map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_is_thinned_by_mean_or_last_and_silent_columns_come_last() {
        let text = "time,interface_rx_bytes{lo},network_rx_bytes,uptime_seconds,load1\n\
                    0,0,10,1,0.5\n1000,0,20,2,\n2000,0,40,3,0.7\n3000,0,60,4,0.8\n4000,0,1,5,1\n5000,0,3,6,1\n";
        let input = Input::parse(text, 3, 2000).unwrap();
        let names: Vec<String> = input.keys().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["network_rx_bytes", "uptime_seconds", "load1"]);
        let first = input.phases[0][0].clone();
        assert_eq!(first[..2], [15.0, 2.0]);
        assert_eq!(first[2], 0.5);
        assert_eq!(input.phases[1][0][..2], [30.0, 3.0]);
        assert!(Input::parse("time,a\n0,1,2\n", 3, 1000).is_err());
        assert!(Input::parse("", 3, 1000).is_err());
    }
}
