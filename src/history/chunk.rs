//! A sealed chunk: all values of one server in one bucket of wall time, as one blob.
//!
//! Layout: version (1 byte), CRC-32 of all that follows (4 bytes, little endian), then varints: time of
//! the first tick (ms), of the last (ms after it), ticks, columns, patterns; the length and bytes of the
//! times; the patterns (which ticks have a value, as runs; pattern 0 is "all" and is not written); the
//! directory (series, encoding and pattern, length, for each column); the columns. A column that goes with an earlier
//! one of its pattern (the only disk and all disks; used and available memory) is its distance and the constant.
//! Reading one series skips the bytes of the others. It never panics on damaged bytes.

use std::collections::{BTreeMap, HashMap};

use super::column::{self, Effort, Encoding};
use super::head::MAX_TICKS;
use super::level::Level;
use super::series::{Kind, SeriesId};
use super::varint::{self, Reader};

const VERSION: u8 = 1;
/// Bytes of a chunk that hold at least version, CRC, first and last time.
pub(super) const HEADER_BYTES: usize = 5 + 10 + 10;
/// Series that a row may have, of whatever level: twice what a server may have in one bucket, because rows are
/// joined.
pub(super) const MAX_SERIES_PER_ROW: usize = 2 * super::head::MAX_SERIES_PER_SERVER;
/// Columns and patterns that a reader believes a chunk to have: four a series in roll-ups.
const MAX_COLUMNS: usize = 4 * MAX_SERIES_PER_ROW;
/// Ticks that a reader believes a chunk to have: six hours of full buckets; the first version had 7,200 a chunk.
const MAX_CHUNK_TICKS: usize = MAX_TICKS * (Level::Minute.span_ms() / super::head::BUCKET_MS) as usize;

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

impl Column {
    /// The same values at other ticks, only at those wanted.
    fn moved(self, places: &[u32], wanted: impl Fn(u32) -> bool) -> Self {
        let values = self.ticks.iter().zip(&self.raw);
        let moved = values
            .filter_map(|(tick, raw)| Some((*places.get(*tick as usize)?, *raw)))
            .filter(|(place, _)| wanted(*place));
        let (ticks, raw) = moved.unzip();
        Self { ticks, raw, ..self }
    }

    /// Both together; they have no tick in common.
    fn joined(mut self, other: Self) -> Self {
        let in_order = self.ticks.last() < other.ticks.first();
        self.ticks.extend(other.ticks);
        self.raw.extend(other.raw);
        if in_order {
            return self;
        }
        let mut values: Vec<(u32, i64)> = self.ticks.into_iter().zip(self.raw).collect();
        values.sort_unstable_by_key(|(tick, _)| *tick);
        let (ticks, raw) = values.into_iter().unzip();
        Self { ticks, raw, ..self }
    }
}

/// Times strictly increase.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Chunk {
    pub(super) times_ms: Vec<i64>,
    pub(super) columns: Vec<Column>,
}

impl Chunk {
    pub(super) fn encode(&self, effort: Effort) -> Result<Vec<u8>, ChunkError> {
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
        let mut links = Links::default();
        for (place, column) in columns.iter().enumerate() {
            let pattern = if column.ticks.len() == self.times_ms.len() {
                0
            } else {
                *pattern_of.entry(&column.ticks).or_insert_with(|| {
                    patterns.push(&column.ticks);
                    patterns.len()
                })
            };
            let link = if effort == Effort::Thorough { links.find(place, pattern, column) } else { None };
            let (encoding, bytes) = match link {
                Some(link) => link,
                None => column::encode(column.kind, &column.raw, effort)?,
            };
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
        self.times_ms.len() <= MAX_CHUNK_TICKS && self.columns.len() <= MAX_SERIES_PER_ROW
    }

    pub(super) fn samples(&self) -> u64 {
        self.columns.iter().map(|column| column.raw.len() as u64).sum()
    }

    /// Both together in the order of time. Of a time that both have, `first` counts.
    pub(super) fn merged(first: Self, second: Self) -> Self {
        if first.times_ms.last() < second.times_ms.first() {
            return first.followed_by(second);
        }
        let mut times_ms = first.times_ms.clone();
        times_ms.extend_from_slice(&second.times_ms);
        times_ms.sort_unstable();
        times_ms.dedup();
        let mut columns: BTreeMap<SeriesId, Column> = BTreeMap::new();
        let mut places = first.places_in(&times_ms);
        for column in first.columns {
            columns.insert(column.series, column.moved(&places, |_| true));
        }
        let known = places;
        places = second.places_in(&times_ms);
        let is_known = |place: u32| known.binary_search(&place).is_ok();
        for column in second.columns {
            let moved = column.moved(&places, |place| !is_known(place));
            match columns.remove(&moved.series) {
                Some(before) => {
                    columns.insert(moved.series, before.joined(moved));
                }
                None if moved.raw.is_empty() => {}
                None => {
                    columns.insert(moved.series, moved);
                }
            }
        }
        Self { times_ms, columns: columns.into_values().collect() }
    }

    /// `later` is wholly later.
    fn followed_by(mut self, later: Self) -> Self {
        let offset = u32::try_from(self.times_ms.len()).unwrap_or(u32::MAX);
        self.times_ms.extend(later.times_ms);
        let places = self.columns.iter().enumerate().map(|(place, column)| (column.series, place));
        let places: HashMap<SeriesId, usize> = places.collect();
        for mut column in later.columns {
            column.ticks.iter_mut().for_each(|tick| *tick = tick.saturating_add(offset));
            match places.get(&column.series).and_then(|place| self.columns.get_mut(*place)) {
                Some(known) => {
                    known.ticks.extend(column.ticks);
                    known.raw.extend(column.raw);
                }
                None => self.columns.push(column),
            }
        }
        self
    }

    /// Where each of its ticks is in `times_ms`, which has them all.
    fn places_in(&self, times_ms: &[i64]) -> Vec<u32> {
        let mut place = 0_usize;
        let place_of = |time: &i64| {
            while times_ms.get(place).is_some_and(|other| other < time) {
                place += 1;
            }
            u32::try_from(place).unwrap_or(u32::MAX)
        };
        self.times_ms.iter().map(place_of).collect()
    }

    fn put_times(&self, out: &mut Vec<u8>, first: i64) -> Result<(), ChunkError> {
        let offsets: Vec<i64> = self.times_ms.iter().map(|time| time.wrapping_sub(first)).collect();
        let (encoding, bytes) = column::encode(Kind::Integer, &offsets, Effort::Thorough)?;
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
        let mut stored = Vec::new();
        for (series, tag, length) in directory {
            let encoding = Encoding::from_code((tag & 0xf) as u8)?;
            let pattern = usize::try_from(tag >> 4).ok()?;
            stored.push(Stored { series, encoding, pattern, bytes: reader.take(length)? });
        }
        for (place, column) in stored.iter().enumerate() {
            let Stored { series, encoding, pattern, .. } = *column;
            if !wanted(series) {
                continue;
            }
            let positions: Vec<u32> = match pattern.checked_sub(1) {
                None => (0..u32::try_from(ticks).ok()?).collect(),
                Some(pattern) => read_pattern(pattern_bytes.get(pattern)?, ticks)?,
            };
            let raw = match encoding {
                Encoding::Shifted | Encoding::Mirrored => {
                    chunk.linked(&stored, place, column, positions.len())?
                }
                _ => column::decode(encoding, column.bytes, positions.len())?,
            };
            chunk.columns.push(Column { series, kind: encoding.kind(), ticks: positions, raw });
        }
        Some(chunk)
    }

    /// A column that goes with an earlier one, which may be read already.
    fn linked(
        &self,
        stored: &[Stored<'_>],
        place: usize,
        column: &Stored<'_>,
        count: usize,
    ) -> Option<Vec<i64>> {
        let mut reader = Reader::new(column.bytes);
        let back = reader.count(place)?;
        let constant = reader.signed()?;
        let other = stored.get(place.checked_sub(back)?).filter(|other| other.pattern == column.pattern)?;
        let apply = |value: i64| match column.encoding {
            Encoding::Mirrored => constant.wrapping_sub(value),
            _ => constant.wrapping_add(value),
        };
        let known = self.columns.binary_search_by_key(&other.series, |known| known.series).ok();
        match known.and_then(|known| self.columns.get(known)) {
            Some(known) => Some(known.raw.iter().map(|value| apply(*value)).collect()),
            // An encoding that is a link itself is refused there: nobody is led in a circle.
            None => {
                Some(column::decode(other.encoding, other.bytes, count)?.into_iter().map(apply).collect())
            }
        }
    }
}

/// A column as it stands in a chunk.
#[derive(Debug, Clone, Copy)]
struct Stored<'a> {
    series: SeriesId,
    encoding: Encoding,
    pattern: usize,
    bytes: &'a [u8],
}

/// Columns that others can be told by, found by pattern and checksum of their steps.
#[derive(Debug, Default)]
struct Links<'a>(HashMap<(usize, u32), (usize, &'a [i64])>);

impl<'a> Links<'a> {
    /// The column as a link. None: it goes with none before it, and others may be told by it.
    fn find(&mut self, place: usize, pattern: usize, column: &'a Column) -> Option<(Encoding, Vec<u8>)> {
        let raw = &column.raw;
        let steps = |raw: &[i64], sign: i64| {
            let mut crc = crc32fast::Hasher::new();
            for pair in raw.windows(2) {
                if let [before, after] = pair {
                    crc.update(&after.wrapping_sub(*before).wrapping_mul(sign).to_le_bytes());
                }
            }
            crc.finalize()
        };
        let is_constant = raw.iter().all(|value| raw.first() == Some(value));
        if column.kind == Kind::Float || is_constant {
            return None;
        }
        let own = steps(raw, 1);
        let constant_of = |other: &[i64], combine: fn(i64, i64) -> i64| {
            let constant = combine(*raw.first()?, *other.first()?);
            let pairs = || raw.iter().zip(other);
            let same = raw.len() == other.len() && pairs().all(|(a, b)| combine(*a, *b) == constant);
            same.then_some(constant)
        };
        let shifted = self
            .0
            .get(&(pattern, own))
            .and_then(|(at, other)| Some((Encoding::Shifted, *at, constant_of(other, i64::wrapping_sub)?)));
        let mirrored = || {
            let (at, other) = self.0.get(&(pattern, steps(raw, -1)))?;
            Some((Encoding::Mirrored, *at, constant_of(other, i64::wrapping_add)?))
        };
        let Some((encoding, at, constant)) = shifted.or_else(mirrored) else {
            self.0.entry((pattern, own)).or_insert((place, raw));
            return None;
        };
        let mut bytes = Vec::new();
        varint::put(&mut bytes, (place - at) as u64);
        varint::put_signed(&mut bytes, constant);
        Some((encoding, bytes))
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

    /// Every value of a chunk by time and series.
    fn cells(chunk: &Chunk) -> BTreeMap<(i64, u32), i64> {
        let cells = chunk.columns.iter().flat_map(|column| {
            column
                .ticks
                .iter()
                .zip(&column.raw)
                .map(|(tick, raw)| ((chunk.times_ms[*tick as usize], column.series.0), *raw))
        });
        cells.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        #[test]
        fn two_chunks_become_one_in_the_order_of_time_and_the_first_counts(
            mut first in chunks(), mut second in chunks(), shift in -100_000_i64..100_000,
        ) {
            // Close together, and a few series in common, so that ticks interleave and meet.
            let (base, other) = (first.times_ms[0], second.times_ms[0]);
            first.times_ms.iter_mut().for_each(|time| *time = (*time - base) / 1000 * 1000);
            first.times_ms.dedup();
            second.times_ms.iter_mut().for_each(|time| *time = (*time - other + shift) / 1000 * 1000);
            second.times_ms.dedup();
            for (chunk, step) in [(&mut first, 1), (&mut second, 2)] {
                let ticks = chunk.times_ms.len() as u32;
                for (index, column) in chunk.columns.iter_mut().enumerate() {
                    column.series = SeriesId(index as u32 * step);
                    column.kind = Kind::Integer;
                    let kept = column.ticks.partition_point(|tick| *tick < ticks);
                    column.ticks.truncate(kept);
                    column.raw.truncate(kept);
                }
                chunk.columns.retain(|column| !column.raw.is_empty());
            }
            let mut wanted = cells(&second);
            wanted.retain(|(time, _), _| !first.times_ms.contains(time));
            wanted.extend(cells(&first));
            let merged = Chunk::merged(first, second);
            prop_assert!(merged.times_ms.is_sorted_by(|a, b| a < b));
            prop_assert!(merged.columns.iter().all(|column| column.ticks.is_sorted_by(|a, b| a < b)));
            prop_assert_eq!(cells(&merged), wanted);
        }

        #[test]
        fn a_chunk_comes_back_as_it_was_with_its_gaps(mut chunk in chunks(), quick: bool, mirror: bool) {
            let effort = if quick { Effort::Quick } else { Effort::Thorough };
            // A column that goes with another.
            if let Some(mut twin) = chunk.columns.first().cloned() && twin.series.0 < u32::MAX - 9 {
                twin.series.0 += 1;
                twin.raw.iter_mut().for_each(|raw| *raw = if mirror { 77_i64.wrapping_sub(*raw) } else { raw.wrapping_add(5) });
                chunk.columns.insert(1, twin);
                chunk.columns.dedup_by_key(|column| column.series);
            }
            let blob = chunk.encode(effort).unwrap();
            prop_assert_eq!(last_time_ms(&blob[..blob.len().min(HEADER_BYTES)]), chunk.times_ms.last().copied());
            prop_assert_eq!(Chunk::decode(&blob, |_| true).unwrap(), chunk.clone());
            for column in &chunk.columns {
                let one = Chunk::decode(&blob, |series| series == column.series).unwrap();
                prop_assert_eq!(&one.columns[..], std::slice::from_ref(column));
            }
        }

        #[test]
        fn a_changed_or_cut_chunk_is_refused_without_a_panic(
            chunk in chunks(), at: prop::sample::Index, flip in 1_u8.., cut: bool,
        ) {
            let mut blob = chunk.encode(Effort::Thorough).unwrap();
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
