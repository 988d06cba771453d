//! What one server said lately, in memory: the buckets that are not sealed, and a tail of those that are.
//!
//! Rule of time: a tick must be later than every tick of its server before it. No I/O, no clock.

use std::collections::{HashMap, VecDeque};

use super::chunk::{Chunk, Column};
use super::journal::Value;
use super::packed::Packed;
use super::series::SeriesId;

/// Span of a bucket: 360 ticks at the default interval of 5 s, enough for pco to learn a column and
/// small enough to keep in memory; at 1 s it is 1,800 ticks.
pub(super) const BUCKET_MS: i64 = 30 * 60 * 1000;

/// Series of one server in one bucket. A hostile server cannot take more memory than this many columns.
pub const MAX_SERIES_PER_SERVER: usize = 4096;

/// Ticks of one server in one bucket: four a second, where the shortest interval is one second.
pub(super) const MAX_TICKS: usize = 7200;

/// Buckets of one server that wait for the disk: 3 hours of trouble. Beyond, the oldest is lost.
pub(super) const MAX_UNSEALED: usize = 6;

/// Sealed ticks that stay in memory, so that sparklines have a past right after a bucket's end.
pub(super) const RECENT_TICKS: usize = 60;

/// The bucket that a time belongs to.
pub(super) const fn bucket_of(at_ms: i64) -> i64 {
    at_ms.div_euclid(BUCKET_MS)
}

/// Why a value or a whole tick was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    OutOfOrder,
    OverLimit,
}

/// One series of a [`Ticks`].
#[derive(Debug, Clone)]
pub(super) struct HeadColumn {
    pub(super) series: SeriesId,
    packed: Packed,
}

impl HeadColumn {
    /// The newest value: tick and stored form.
    pub(super) fn last(&self) -> Option<(u32, i64)> {
        self.packed.last()
    }
}

/// Ticks in a row with their values: a bucket, or the tail of sealed ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Ticks {
    base_ms: i64,
    /// After `base_ms`.
    offsets_ms: Vec<u32>,
    columns: Vec<HeadColumn>,
    place: HashMap<SeriesId, u32>,
}

impl Ticks {
    pub(super) fn len(&self) -> usize {
        self.offsets_ms.len()
    }

    pub(super) fn columns(&self) -> &[HeadColumn] {
        &self.columns
    }

    pub(super) fn time_ms(&self, tick: u32) -> Option<i64> {
        self.offsets_ms.get(tick as usize).map(|offset| self.base_ms + i64::from(*offset))
    }

    pub(super) fn times_ms(&self) -> impl DoubleEndedIterator<Item = i64> {
        self.offsets_ms.iter().map(|offset| self.base_ms + i64::from(*offset))
    }

    pub(super) fn column(&self, series: SeriesId) -> Option<&HeadColumn> {
        self.columns.get(*self.place.get(&series)? as usize)
    }

    /// Values of one series with their ticks.
    pub(super) fn values(&self, series: SeriesId) -> impl Iterator<Item = (u32, i64)> {
        self.column(series).into_iter().flat_map(|column| column.packed.iter())
    }

    /// Takes what fits; `refused` hears of the rest. False: nothing was taken.
    /// `values` holds afterwards what was taken.
    fn push(&mut self, at_ms: i64, values: &mut Vec<Value>, mut refused: impl FnMut(Refusal)) -> bool {
        if self.offsets_ms.is_empty() {
            self.base_ms = at_ms;
        }
        let offset = u32::try_from(at_ms - self.base_ms).ok();
        let (Some(offset), Ok(tick)) = (offset, u32::try_from(self.offsets_ms.len())) else {
            values.clear();
            refused(Refusal::OverLimit);
            return false;
        };
        let mut hint = 0;
        values.retain(|value| {
            // Readings list their values in the same order each time, so the next column is the likely one.
            let likely = self.columns.get(hint).is_some_and(|column| column.series == value.series);
            let place = if likely { Some(hint) } else { self.place_of(value) };
            let column = place.and_then(|place| Some((place, self.columns.get_mut(place)?)));
            let Some((place, column)) = column else {
                refused(Refusal::OverLimit);
                return false;
            };
            hint = place + 1;
            let taken = column.packed.push(tick, value.raw);
            if !taken {
                refused(Refusal::OutOfOrder);
            }
            taken
        });
        if values.is_empty() {
            return false;
        }
        self.offsets_ms.push(offset);
        true
    }

    fn place_of(&mut self, value: &Value) -> Option<usize> {
        if let Some(place) = self.place.get(&value.series) {
            return Some(*place as usize);
        }
        let place = self.columns.len();
        if place >= MAX_SERIES_PER_SERVER {
            return None;
        }
        self.place.insert(value.series, u32::try_from(place).ok()?);
        self.columns.push(HeadColumn { series: value.series, packed: Packed::new(value.kind) });
        Some(place)
    }

    /// As the codec wants it.
    pub(super) fn to_chunk(&self) -> Chunk {
        let columns = self.columns.iter().map(|column| {
            let (ticks, raw) = column.packed.iter().unzip();
            Column { series: column.series, kind: column.packed.kind(), ticks, raw }
        });
        Chunk { times_ms: self.times_ms().collect(), columns: columns.collect() }
    }

    /// The last `keep` ticks of `chunks` together, oldest chunk first.
    fn tail_of(chunks: &[Chunk], keep: usize) -> Self {
        let total: usize = chunks.iter().map(|chunk| chunk.times_ms.len()).sum();
        let mut skip = total.saturating_sub(keep);
        let mut tail = Self::default();
        let mut values = Vec::new();
        for chunk in chunks {
            for row in Rows::of(chunk) {
                if skip > 0 {
                    skip -= 1;
                    continue;
                }
                values.clear();
                values.extend_from_slice(&row.values);
                // A tick that does not fit (more than 49 days after the first) starts the tail anew.
                if !tail.push(row.at_ms, &mut values, |_| ()) {
                    tail = Self::default();
                }
            }
        }
        tail
    }

    fn samples(&self) -> u64 {
        self.columns.iter().map(|column| column.packed.iter().count() as u64).sum()
    }

    /// Bytes of memory.
    fn memory_bytes(&self) -> usize {
        let columns: usize = self.columns.iter().map(|column| column.packed.heap_bytes()).sum();
        columns
            + self.columns.capacity() * size_of::<HeadColumn>()
            + self.offsets_ms.capacity() * size_of::<u32>()
            + self.place.capacity() * (size_of::<(SeriesId, u32)>() + 1)
    }
}

/// A chunk turned from columns into ticks.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) at_ms: i64,
    pub(super) values: Vec<Value>,
}

/// See [`Row`].
#[derive(Debug)]
pub(super) struct Rows;

impl Rows {
    pub(super) fn of(chunk: &Chunk) -> Vec<Row> {
        let mut rows: Vec<Row> =
            chunk.times_ms.iter().map(|at_ms| Row { at_ms: *at_ms, values: Vec::new() }).collect();
        for column in &chunk.columns {
            for (tick, raw) in column.ticks.iter().zip(&column.raw) {
                if let Some(row) = rows.get_mut(*tick as usize) {
                    row.values.push(Value { series: column.series, kind: column.kind, raw: *raw });
                }
            }
        }
        rows
    }
}

/// One server.
#[derive(Debug, Default)]
pub(super) struct ServerHead {
    /// Sealed: on disk.
    recent: Ticks,
    /// By bucket, oldest first.
    unsealed: VecDeque<(i64, Ticks)>,
    last_ms: Option<i64>,
    /// Series that this server was the first to have.
    pub(super) minted: u32,
}

impl ServerHead {
    /// The columns of the newest bucket, as a hint where values are likely to go.
    pub(super) fn newest_columns(&self) -> &[HeadColumn] {
        self.unsealed.back().map_or(self.recent.columns(), |(_, ticks)| ticks.columns())
    }

    pub(super) fn is_late(&self, at_ms: i64) -> bool {
        self.last_ms.is_some_and(|last| at_ms <= last)
    }

    /// Takes one tick; afterwards `values` holds what was taken. Answers how many samples of the oldest
    /// bucket were lost to make room.
    pub(super) fn push(
        &mut self,
        at_ms: i64,
        values: &mut Vec<Value>,
        mut refused: impl FnMut(Refusal),
    ) -> u64 {
        if self.is_late(at_ms) {
            for _ in values.drain(..) {
                refused(Refusal::OutOfOrder);
            }
            return 0;
        }
        let bucket = bucket_of(at_ms);
        let mut lost = 0;
        if self.unsealed.back().is_none_or(|(newest, _)| *newest != bucket) {
            if self.unsealed.len() >= MAX_UNSEALED {
                lost = self.unsealed.pop_front().map_or(0, |(_, ticks)| ticks.samples());
            }
            self.unsealed.push_back((bucket, Ticks::default()));
        }
        if let Some((_, ticks)) = self.unsealed.back_mut() {
            if ticks.len() >= MAX_TICKS {
                for _ in values.drain(..) {
                    refused(Refusal::OverLimit);
                }
                return lost;
            }
            if ticks.push(at_ms, values, refused) {
                self.last_ms = Some(at_ms);
            } else if ticks.len() == 0 {
                self.unsealed.pop_back();
            }
        }
        lost
    }

    /// Buckets that are not sealed, oldest first.
    pub(super) fn unsealed_buckets(&self) -> impl Iterator<Item = i64> {
        self.unsealed.iter().map(|(bucket, _)| *bucket)
    }

    pub(super) fn unsealed(&self, bucket: i64) -> Option<&Ticks> {
        self.unsealed.iter().find(|(number, _)| *number == bucket).map(|(_, ticks)| ticks)
    }

    /// Everything that is not sealed, oldest first.
    pub(super) fn all_unsealed(&self) -> impl DoubleEndedIterator<Item = &Ticks> {
        self.unsealed.iter().map(|(_, ticks)| ticks)
    }

    /// Everything in memory, oldest first; the first may be empty.
    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = &Ticks> {
        std::iter::once(&self.recent).chain(self.all_unsealed())
    }

    /// `chunk` of this bucket is on disk: what is kept of it is a tail.
    /// Where ticks came in meanwhile, the bucket stays and is sealed again.
    pub(super) fn sealed(&mut self, bucket: i64, chunk: &Chunk) {
        let Some(position) = self.unsealed.iter().position(|(number, _)| *number == bucket) else { return };
        if self.unsealed.get(position).is_some_and(|(_, ticks)| ticks.len() == chunk.times_ms.len()) {
            self.unsealed.remove(position);
            self.recent = Ticks::tail_of(&[self.recent.to_chunk(), chunk.clone()], RECENT_TICKS);
        }
    }

    /// What the disk knows of this server, at start.
    pub(super) fn load_recent(&mut self, chunk: &Chunk) {
        self.recent = Ticks::tail_of(std::slice::from_ref(chunk), RECENT_TICKS);
        let last_ms = self.recent.times_ms().next_back();
        self.sealed_until(last_ms);
    }

    /// Ticks up to this time are on disk.
    pub(super) fn sealed_until(&mut self, at_ms: Option<i64>) {
        self.last_ms = self.last_ms.max(at_ms);
    }

    pub(super) fn has_recent(&self) -> bool {
        self.recent.len() > 0
    }

    /// Bytes of memory.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.all().map(Ticks::memory_bytes).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::super::series::Kind;
    use super::*;

    fn value(series: u32, raw: i64) -> Value {
        Value { series: SeriesId(series), kind: Kind::Integer, raw }
    }

    #[test]
    fn a_tick_that_is_not_later_than_the_last_is_refused() {
        let mut head = ServerHead::default();
        let mut refusals = Vec::new();
        head.push(1000, &mut vec![value(1, 5)], |why| refusals.push(why));
        head.push(1000, &mut vec![value(1, 6)], |why| refusals.push(why));
        head.push(999, &mut vec![value(1, 7)], |why| refusals.push(why));
        assert_eq!(refusals, [Refusal::OutOfOrder; 2]);
        assert_eq!(head.unsealed(0).unwrap().values(SeriesId(1)).collect::<Vec<_>>(), [(0, 5)]);
    }

    #[test]
    fn a_server_never_has_more_series_than_the_limit() {
        let mut head = ServerHead::default();
        let mut values: Vec<Value> = (1..=MAX_SERIES_PER_SERVER as u32 + 3).map(|id| value(id, 1)).collect();
        let mut refusals = 0;
        head.push(1, &mut values, |why| {
            assert_eq!(why, Refusal::OverLimit);
            refusals += 1;
        });
        assert_eq!((values.len(), refusals), (MAX_SERIES_PER_SERVER, 3));
    }

    #[test]
    fn a_sealed_bucket_leaves_a_tail_and_a_bucket_that_grew_meanwhile_stays() {
        let mut head = ServerHead::default();
        for tick in 0..100 {
            head.push(tick * 5000, &mut vec![value(1, tick)], |_| panic!("refused"));
        }
        let chunk = head.unsealed(0).unwrap().to_chunk();
        head.push(100 * 5000, &mut vec![value(1, 100)], |_| panic!("refused"));
        head.sealed(0, &chunk);
        assert_eq!(head.unsealed_buckets().collect::<Vec<_>>(), [0]);
        let chunk = head.unsealed(0).unwrap().to_chunk();
        head.sealed(0, &chunk);
        assert_eq!(head.unsealed_buckets().count(), 0);
        assert_eq!(head.recent.len(), RECENT_TICKS);
        assert_eq!(head.recent.values(SeriesId(1)).last(), Some((59, 100)));
    }

    #[test]
    fn a_disk_that_is_away_too_long_costs_the_oldest_bucket_and_it_is_counted() {
        let mut head = ServerHead::default();
        let mut lost = 0;
        for bucket in 0..=MAX_UNSEALED as i64 {
            lost += head.push(bucket * BUCKET_MS, &mut vec![value(1, bucket), value(2, 0)], |_| ());
        }
        assert_eq!(lost, 2);
        assert_eq!(head.unsealed_buckets().next(), Some(1));
    }
}
