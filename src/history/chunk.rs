//! A sealed chunk: all values of one server in one bucket of wall time, as one blob.
//!
//! Layout: version (1 byte), CRC-32 of all that follows (4 bytes, little endian), then varints: time of
//! the first tick (ms), of the last (ms after it), ticks, columns, patterns; the length and bytes of the
//! times; the patterns (which ticks have a value, as runs; pattern 0 is "all" and is not written); the
//! directory (series, encoding and pattern, length, for each column); the columns.
//! Reading one series skips the bytes of the others. It never panics on damaged bytes.

use std::collections::HashMap;

use super::column::{self, Encoding};
use super::head::MAX_TICKS;
use super::series::{Kind, SeriesId};
use super::varint::{self, Reader};

const VERSION: u8 = 1;
/// Bytes of a chunk that hold at least version, CRC, first and last time.
pub(super) const HEADER_BYTES: usize = 5 + 10 + 10;
/// Columns and patterns that a reader believes a chunk to have; twice what a server may have in one
/// bucket, because chunks are merged where values come late.
const MAX_COLUMNS: usize = 2 * super::head::MAX_SERIES_PER_SERVER;
/// Ticks that a reader believes a chunk to have: two full buckets, for the same reason.
const MAX_CHUNK_TICKS: usize = 2 * MAX_TICKS;

/// Why a chunk cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChunkError {
    #[error("the chunk is damaged: {0}")]
    Damaged(&'static str),
    #[error("the chunk has format {0}, this program knows {VERSION}")]
    UnknownFormat(u8),
    #[error("the values could not be compressed: {0}")]
    Compress(#[from] pco::errors::PcoError),
}

/// Values of one series; `ticks` are positions in [`Chunk::times_ms`], increasing, one a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) series: SeriesId,
    pub(super) kind: Kind,
    pub(super) ticks: Vec<u32>,
    pub(super) raw: Vec<i64>,
}

/// Times strictly increase.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Chunk {
    pub(super) times_ms: Vec<i64>,
    pub(super) columns: Vec<Column>,
}

impl Chunk {
    pub(super) fn encode(&self) -> Result<Vec<u8>, ChunkError> {
        let (Some(first), Some(last)) = (self.times_ms.first(), self.times_ms.last()) else {
            return Err(ChunkError::Damaged("it has no ticks"));
        };
        let mut columns: Vec<&Column> = self.columns.iter().filter(|column| !column.raw.is_empty()).collect();
        columns.sort_by_key(|column| column.series);

        let mut patterns: Vec<&[u32]> = Vec::new();
        let mut pattern_of: HashMap<&[u32], usize> = HashMap::new();
        let mut directory = Vec::new();
        let mut bodies = Vec::new();
        let mut before = 0;
        for column in &columns {
            let pattern = if column.ticks.len() == self.times_ms.len() {
                0
            } else {
                *pattern_of.entry(&column.ticks).or_insert_with(|| {
                    patterns.push(&column.ticks);
                    patterns.len()
                })
            };
            let (encoding, bytes) = column::encode(column.kind, &column.raw)?;
            varint::put(&mut directory, u64::from(column.series.0 - before));
            before = column.series.0;
            varint::put(&mut directory, (pattern as u64) << 4 | u64::from(encoding as u8));
            varint::put(&mut directory, bytes.len() as u64);
            bodies.extend_from_slice(&bytes);
        }

        let mut out = vec![VERSION, 0, 0, 0, 0];
        varint::put_signed(&mut out, *first);
        varint::put(&mut out, last.wrapping_sub(*first).cast_unsigned());
        varint::put(&mut out, self.times_ms.len() as u64);
        varint::put(&mut out, columns.len() as u64);
        varint::put(&mut out, patterns.len() as u64);
        self.put_times(&mut out, *first)?;
        for pattern in patterns {
            put_pattern(&mut out, pattern);
        }
        out.extend_from_slice(&directory);
        out.extend_from_slice(&bodies);
        let crc = out.get(5..).map_or(0, crc32fast::hash);
        if let Some(field) = out.get_mut(1..5) {
            field.copy_from_slice(&crc.to_le_bytes());
        }
        Ok(out)
    }

    /// False: so much that it would be refused when it is read.
    pub(super) fn fits(&self) -> bool {
        self.times_ms.len() <= MAX_CHUNK_TICKS && self.columns.len() <= MAX_COLUMNS
    }

    pub(super) fn samples(&self) -> u64 {
        self.columns.iter().map(|column| column.raw.len() as u64).sum()
    }

    /// Adds the ticks of `later` that are later than all of these.
    pub(super) fn extend(&mut self, later: Self) {
        let last = self.times_ms.last().copied().unwrap_or(i64::MIN);
        let skip = later.times_ms.partition_point(|time| *time <= last);
        let offset = self.times_ms.len();
        self.times_ms.extend(later.times_ms.iter().skip(skip));
        for column in later.columns {
            let from = column.ticks.partition_point(|tick| (*tick as usize) < skip);
            let ticks = column
                .ticks
                .iter()
                .skip(from)
                .filter_map(|tick| u32::try_from(*tick as usize - skip + offset).ok());
            let raw = column.raw.iter().skip(from).copied();
            match self.columns.iter_mut().find(|known| known.series == column.series) {
                Some(known) => {
                    known.ticks.extend(ticks);
                    known.raw.extend(raw);
                }
                None => self.columns.push(Column {
                    series: column.series,
                    kind: column.kind,
                    ticks: ticks.collect(),
                    raw: raw.collect(),
                }),
            }
        }
    }

    fn put_times(&self, out: &mut Vec<u8>, first: i64) -> Result<(), ChunkError> {
        let offsets: Vec<i64> = self.times_ms.iter().map(|time| time.wrapping_sub(first)).collect();
        let (encoding, bytes) = column::encode(Kind::Integer, &offsets)?;
        out.push(encoding as u8);
        varint::put(out, bytes.len() as u64);
        out.extend_from_slice(&bytes);
        Ok(())
    }

    /// Reads the columns that `wanted` says yes to, and all times.
    pub(super) fn decode(blob: &[u8], wanted: impl Fn(SeriesId) -> bool) -> Result<Self, ChunkError> {
        let body = check(blob)?;
        Self::decode_body(body, wanted).ok_or(ChunkError::Damaged("its parts do not fit together"))
    }

    fn decode_body(body: &[u8], wanted: impl Fn(SeriesId) -> bool) -> Option<Self> {
        let mut reader = Reader::new(body);
        let first = reader.signed()?;
        reader.unsigned()?;
        let ticks = reader.count(MAX_CHUNK_TICKS)?;
        let columns = reader.count(MAX_COLUMNS)?;
        let patterns = reader.count(MAX_COLUMNS)?;
        let encoding = Encoding::from_code(reader.byte()?)?;
        let length = reader.count(body.len())?;
        let offsets = column::decode(encoding, reader.take(length)?, ticks)?;
        let times_ms: Vec<i64> = offsets.into_iter().map(|offset| first.wrapping_add(offset)).collect();
        if !times_ms.is_sorted_by(|a, b| a < b) {
            return None;
        }
        let mut pattern_bytes = Vec::new();
        for _ in 0..patterns {
            pattern_bytes.push(skip_pattern(&mut reader, ticks)?);
        }
        let mut chunk = Self { times_ms, columns: Vec::new() };
        let mut directory = Vec::new();
        let mut series = 0_u32;
        for _ in 0..columns {
            series = series.checked_add(u32::try_from(reader.unsigned()?).ok()?)?;
            let tag = reader.unsigned()?;
            let length = reader.count(body.len())?;
            directory.push((SeriesId(series), tag, length));
        }
        for (series, tag, length) in directory {
            let bytes = reader.take(length)?;
            if !wanted(series) {
                continue;
            }
            let encoding = Encoding::from_code((tag & 0xf) as u8)?;
            let positions = match usize::try_from(tag >> 4).ok()?.checked_sub(1) {
                None => (0..u32::try_from(ticks).ok()?).collect(),
                Some(pattern) => read_pattern(pattern_bytes.get(pattern)?, ticks)?,
            };
            let raw = column::decode(encoding, bytes, positions.len())?;
            chunk.columns.push(Column { series, kind: encoding.kind(), ticks: positions, raw });
        }
        Some(chunk)
    }
}

/// Time of the last tick, from the first [`HEADER_BYTES`] of a chunk. Not covered by the CRC check.
pub(super) fn last_time_ms(start: &[u8]) -> Option<i64> {
    let mut reader = Reader::new(start);
    if reader.byte()? != VERSION {
        return None;
    }
    reader.take(4)?;
    let first = reader.signed()?;
    first.checked_add(i64::try_from(reader.unsigned()?).ok()?)
}

fn check(blob: &[u8]) -> Result<&[u8], ChunkError> {
    let (head, body) = blob.split_first_chunk::<5>().ok_or(ChunkError::Damaged("it is cut short"))?;
    let [version, a, b, c, d] = *head;
    if version != VERSION {
        return Err(ChunkError::UnknownFormat(version));
    }
    if crc32fast::hash(body) != u32::from_le_bytes([a, b, c, d]) {
        return Err(ChunkError::Damaged("its checksum is wrong"));
    }
    Ok(body)
}

/// Pairs of "ticks without, ticks with a value"; the number of pairs first.
fn put_pattern(out: &mut Vec<u8>, ticks: &[u32]) {
    let runs: Vec<&[u32]> = ticks.chunk_by(|a, b| a + 1 == *b).collect();
    varint::put(out, runs.len() as u64);
    let mut next = 0;
    for run in runs {
        let start = run.first().copied().unwrap_or(next);
        varint::put(out, u64::from(start.saturating_sub(next)));
        varint::put(out, run.len() as u64);
        next = run.last().map_or(start, |last| last + 1);
    }
}

/// The reader stands behind the pattern afterwards; what is returned reads it again.
fn skip_pattern<'a>(reader: &mut Reader<'a>, ticks: usize) -> Option<Reader<'a>> {
    let start = reader.clone();
    for _ in 0..reader.count(ticks)? {
        reader.unsigned()?;
        reader.unsigned()?;
    }
    Some(start)
}

fn read_pattern(pattern: &Reader<'_>, ticks: usize) -> Option<Vec<u32>> {
    let mut reader = pattern.clone();
    let mut positions = Vec::new();
    let mut next = 0_usize;
    for _ in 0..reader.count(ticks)? {
        next += reader.count(ticks - next)?;
        let end = next + reader.count(ticks - next)?;
        positions.extend((next..end).filter_map(|tick| u32::try_from(tick).ok()));
        next = end;
    }
    Some(positions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunks() -> impl Strategy<Value = Chunk> {
        let times = (any::<u32>(), proptest::collection::vec(1_i64..20_000, 1..60));
        let cell = prop_oneof![
            3 => (0_i64..50).prop_map(Some),
            1 => any::<i64>().prop_map(Some),
            1 => Just(None),
        ];
        let columns = proptest::collection::btree_map(
            any::<u32>(),
            (any::<bool>(), proptest::collection::vec(cell, 60)),
            0..6,
        );
        (times, columns).prop_map(|((start, steps), columns)| {
            let times_ms: Vec<i64> = steps
                .iter()
                .scan(i64::from(start), |time, step| {
                    *time += step;
                    Some(*time)
                })
                .collect();
            let columns = columns
                .into_iter()
                .map(|(id, (float, cells))| {
                    let present: Vec<(u32, i64)> = (0_u32..)
                        .zip(cells.into_iter().take(times_ms.len()))
                        .filter_map(|(tick, cell)| cell.map(|raw| (tick, raw)))
                        .collect();
                    let (ticks, raw) = present.into_iter().unzip();
                    Column {
                        series: SeriesId(id),
                        kind: if float { Kind::Float } else { Kind::Integer },
                        ticks,
                        raw,
                    }
                })
                .filter(|column: &Column| !column.raw.is_empty())
                .collect();
            Chunk { times_ms, columns }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        #[test]
        fn a_chunk_comes_back_as_it_was_with_its_gaps(chunk in chunks()) {
            let blob = chunk.encode().unwrap();
            prop_assert_eq!(last_time_ms(&blob[..blob.len().min(HEADER_BYTES)]), chunk.times_ms.last().copied());
            prop_assert_eq!(Chunk::decode(&blob, |_| true).unwrap(), chunk.clone());
            if let Some(column) = chunk.columns.first() {
                let one = Chunk::decode(&blob, |series| series == column.series).unwrap();
                prop_assert_eq!(&one.columns[..], std::slice::from_ref(column));
            }
        }

        #[test]
        fn a_changed_or_cut_chunk_is_refused_without_a_panic(
            chunk in chunks(), at: prop::sample::Index, flip in 1_u8.., cut: bool,
        ) {
            let mut blob = chunk.encode().unwrap();
            let position = at.index(blob.len());
            if cut { blob.truncate(position) } else { blob[position] ^= flip }
            prop_assert!(Chunk::decode(&blob, |_| true).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(blob: Vec<u8>) {
            prop_assert!(Chunk::decode(&blob, |_| true).is_err());
            let _ = last_time_ms(&blob);
        }
    }
}
