//! Expiring values as text: CSV, compressed with gzip, one file a level and day.
//!
//! `raw-2026-11-21.csv.gz` has the columns time, server, metric, label, value; `1m-…` to `1d-…` have time, server,
//! metric, label, count, avg, min, max. The time is in ms since 1970, the server is its number. A file consists
//! of any number of gzip members, each complete; a line may be there twice where the program was killed between
//! writing and removing.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::Shared;
use super::chunk::Chunk;
use super::database::Table;
use super::error::HistoryError;
use super::level::Level;
use super::rollup::Row;
use super::series::Series;

/// Text that waits before it is written: one row of a busy server is about this.
const FULL_BYTES: usize = 8 << 20;

/// Where the archive goes, and what waits to be written there.
#[derive(Debug)]
pub(super) struct Archive {
    directory: PathBuf,
    waiting: BTreeMap<String, String>,
}

impl Archive {
    pub(super) const fn new(directory: PathBuf) -> Self {
        Self { directory, waiting: BTreeMap::new() }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.values().map(String::len).sum::<usize>() >= FULL_BYTES
    }

    /// Adds the values of one row. One that is damaged is reported and has nothing to give.
    pub(super) fn add(
        &mut self,
        shared: &Shared,
        table: Table,
        row: i64,
        server: u32,
        blob: &[u8],
    ) -> Result<(), HistoryError> {
        let level = table.level();
        let start_ms = row * table.span_ms();
        let name = format!("{}-{}.csv.gz", level.name(), date(start_ms)?);
        let chunk = match Chunk::decode(blob, |_| true) {
            Ok(chunk) => chunk,
            Err(error) => {
                shared.damaged(table, row, server, &error);
                return Ok(());
            }
        };
        let text = self.waiting.entry(name).or_default();
        let memory = shared.memory();
        let series_of = |id| memory.dictionary.get(id);
        if level == Level::Raw {
            for column in &chunk.columns {
                let Some(series) = series_of(column.series) else { continue };
                for (tick, raw) in column.ticks.iter().zip(&column.raw) {
                    let Some(at_ms) = chunk.times_ms.get(*tick as usize) else { continue };
                    start_line(text, *at_ms, server, series);
                    text.push_str(&format!("{}\n", series.restore(*raw)));
                }
            }
            return Ok(());
        }
        for (id, rolled) in Row::of_chunk(&chunk).unwrap_or_default().series {
            let Some(series) = series_of(id) else { continue };
            for step in rolled.steps {
                let [avg, min, max] = [step.avg, step.min, step.max].map(|value| series.unscale(value));
                start_line(text, start_ms + i64::from(step.index) * level.step_ms(), server, series);
                text.push_str(&format!("{},{avg},{min},{max}\n", step.count));
            }
        }
        Ok(())
    }

    /// Everything that was added is on the disk afterwards.
    pub(super) fn flush(&mut self) -> Result<(), HistoryError> {
        let directory = self.directory.clone();
        let failed = |cause| HistoryError::Archive { path: directory.clone(), cause };
        std::fs::create_dir_all(&self.directory).map_err(failed)?;
        for (name, text) in std::mem::take(&mut self.waiting) {
            let path = self.directory.join(&name);
            let mut file =
                OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
            let empty = file.metadata().map_err(failed)?.len() == 0;
            let mut member = GzEncoder::new(Vec::new(), Compression::default());
            let head = if name.starts_with(Level::Raw.name()) {
                "time,server,metric,label,value\n"
            } else {
                "time,server,metric,label,count,avg,min,max\n"
            };
            if empty {
                member.write_all(head.as_bytes()).map_err(failed)?;
            }
            member.write_all(text.as_bytes()).map_err(failed)?;
            let bytes = member.finish().map_err(failed)?;
            file.write_all(&bytes).map_err(failed)?;
            file.sync_all().map_err(failed)?;
        }
        Ok(())
    }
}

fn date(at_ms: i64) -> Result<String, HistoryError> {
    let time = jiff::Timestamp::from_millisecond(at_ms)
        .map_err(|error| HistoryError::Start(std::io::Error::other(error)))?;
    Ok(time.strftime("%Y-%m-%d").to_string())
}

fn start_line(text: &mut String, at_ms: i64, server: u32, series: &Series) {
    let (metric, label) = (field(series.key.metric.as_str()), field(series.key.labels.as_str()));
    text.push_str(&format!("{at_ms},{server},{metric},{label},"));
}

/// RFC 4180. Control characters go: a label is a server's word.
fn field(value: &str) -> String {
    let clean: String = value.chars().filter(|char| !char.is_control()).collect();
    if clean.contains([',', '"']) { format!("\"{}\"", clean.replace('"', "\"\"")) } else { clean }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_break_a_line() {
        assert_eq!(field("/var"), "/var");
        assert_eq!(field("a,b\n\"c\""), "\"a,b\"\"c\"\"\"");
    }
}
