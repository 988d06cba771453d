//! Expiring values as text: CSV, compressed with gzip, one file a level and day.
//!
//! `raw-2026-11-21.csv.gz` has the columns time, server, metric, label, value; `1m-…` to `1d-…` have time, server,
//! metric, label, count, avg, min, max. The time is in ms since 1970, the server is its number. A file consists
//! of any number of gzip members, each complete; a line may be there twice where the program was killed between
//! writing and removing.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::Shared;
use super::chunk::Chunk;
use super::database::Table;
use super::error::HistoryError;
use super::level::Level;
use super::rollup::Row;
use super::series::{Series, SeriesId};

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
        if level == Level::Raw {
            let known = series_of(shared, chunk.columns.iter().map(|column| column.series));
            for column in &chunk.columns {
                let Some(series) = known.get(&column.series) else { continue };
                for (tick, raw) in column.ticks.iter().zip(&column.raw) {
                    let Some(at_ms) = chunk.times_ms.get(*tick as usize) else { continue };
                    start_line(text, *at_ms, server, series);
                    text.push_str(&format!("{}\n", series.restore(*raw)));
                }
            }
            return Ok(());
        }
        let rolled = Row::of_chunk(&chunk).unwrap_or_default().series;
        let known = series_of(shared, rolled.keys().copied());
        for (id, rolled) in rolled {
            let Some(series) = known.get(&id) else { continue };
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
            let mut file = Appending::open(&path).map_err(failed)?;
            let empty = file.before_bytes == 0;
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
            file.append(&bytes).map_err(failed)?;
        }
        Ok(())
    }
}

/// A file that grows by whole members only: behind half a member (full disk, kill) no tool reads on. While one is
/// written, a note beside the file (`….csv.gz.before`) says how long it was; whoever finds the note cuts the file there.
/// What is cut off was not removed from the history yet.
#[derive(Debug)]
struct Appending {
    file: File,
    note: PathBuf,
    before_bytes: u64,
}

impl Appending {
    fn open(path: &Path) -> io::Result<Self> {
        let file = private().create(true).append(true).open(path)?;
        let mut note = path.as_os_str().to_owned();
        note.push(".before");
        let mut appending = Self { file, note: note.into(), before_bytes: 0 };
        let noted = private().read(true).open(&appending.note).and_then(io::read_to_string);
        match noted {
            Ok(text) => {
                // A note that is cut short itself was not synced, so nothing was appended after it.
                let noted = text.strip_suffix('\n').and_then(|bytes| bytes.parse().ok());
                appending.before_bytes = noted.unwrap_or(u64::MAX);
                appending.cut()?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        appending.before_bytes = appending.file.metadata()?.len();
        Ok(appending)
    }

    /// The bytes are on the disk afterwards, or none of them.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.write(bytes);
        if written.is_err()
            && let Err(error) = self.cut()
        {
            tracing::warn!(%error, note = %self.note.display(), "history: half a member stays in the archive until the next try");
        }
        written
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut note = private().create(true).write(true).truncate(true).open(&self.note)?;
        note.write_all(format!("{}\n", self.before_bytes).as_bytes())?;
        note.sync_all()?;
        self.sync_directory()?;
        self.file.write_all(bytes)?;
        self.file.sync_all()?;
        std::fs::remove_file(&self.note)?;
        // Were the note to come back after a cut of power, it would take this member away.
        self.sync_directory()
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.note.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }

    fn cut(&self) -> io::Result<()> {
        if self.file.metadata()?.len() > self.before_bytes {
            self.file.set_len(self.before_bytes)?;
            self.file.sync_all()?;
        }
        match std::fs::remove_file(&self.note) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.sync_directory(),
        }
    }
}

/// For nobody else to read, and never through a link that somebody else put there.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    options
}

/// Copies: readings wait for the lock, and the text of a row takes a tenth of a second.
fn series_of(shared: &Shared, ids: impl Iterator<Item = SeriesId>) -> HashMap<SeriesId, Series> {
    let memory = shared.memory();
    ids.filter_map(|id| Some((id, memory.dictionary.get(id)?.clone()))).collect()
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

    #[test]
    fn the_archive_and_its_note_are_not_written_through_links() {
        for suffix in ["", ".before"] {
            let directory = tempfile::tempdir().unwrap();
            let name = "raw-2026-11-21.csv.gz";
            let target = directory.path().join("target");
            std::fs::write(&target, "0\n").unwrap();
            std::os::unix::fs::symlink(&target, directory.path().join(format!("{name}{suffix}"))).unwrap();
            let mut archive = Archive::new(directory.path().to_owned());
            archive.waiting.insert(name.to_owned(), "1\n".to_owned());
            let refused = archive.flush().unwrap_err();
            assert!(matches!(refused, HistoryError::Archive { .. }), "{refused}");
            assert_eq!(std::fs::read_to_string(&target).unwrap(), "0\n");
        }
    }

    #[test]
    fn half_a_member_is_cut_off_before_the_next_one() {
        use std::io::Read as _;
        let directory = tempfile::tempdir().unwrap();
        let name = "raw-2026-11-21.csv.gz";
        let flush = |line: &str| {
            let mut archive = Archive::new(directory.path().to_owned());
            archive.waiting.insert(name.to_owned(), line.to_owned());
            archive.flush().unwrap();
        };
        flush("1\n");
        let path = directory.path().join(name);
        let whole = std::fs::read(&path).unwrap();
        // As a kill in the midst of the next member leaves it.
        let half = whole.get(..whole.len() / 2).unwrap();
        std::fs::write(&path, [whole.as_slice(), half].concat()).unwrap();
        let note = directory.path().join(format!("{name}.before"));
        std::fs::write(&note, format!("{}\n", whole.len())).unwrap();
        flush("2\n");
        // A note that is cut short itself says nothing of the file.
        std::fs::write(&note, "1").unwrap();
        flush("3\n");
        let mut text = String::new();
        flate2::read::MultiGzDecoder::new(File::open(&path).unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "time,server,metric,label,value\n1\n2\n3\n");
        assert!(!note.exists());
    }
}
