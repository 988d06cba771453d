//! What one server said lately, in memory: the buckets that are not sealed, and a tail of those that are.
//!
//! Ticks usually come in order. One that does not (a late heartbeat, a clock that was set back) begins a further
//! run of its bucket; the runs of a bucket become one when it is sealed. No I/O, no clock.

use std::collections::{HashMap, VecDeque};

use super::chunk::{Chunk, Column};
use super::journal::Value;
use super::packed::Packed;
use super::series::SeriesId;

/// Span of a bucket: 120 ticks at the default interval of 5 s. It bounds what is in memory and in the journal;
/// six hours of chunks become one later ([`super::level`]), so the file does not pay for it.
pub(super) const BUCKET_MS: i64 = 10 * 60 * 1000;

/// Buckets that one chunk may reach into: files of the first version have chunks of 30 minutes.
pub(super) const CHUNK_BUCKETS: i64 = 3;

/// Series of one server in one bucket. A hostile server cannot take more memory than this many columns.
pub const MAX_SERIES_PER_SERVER: usize = 4096;

/// Ticks of one server in one bucket: four a second, where the shortest interval is one second.
pub(super) const MAX_TICKS: usize = 2400;

/// Runs of one server that wait for the disk: 3 hours of trouble, or a day of late heartbeats a few hours at a
/// time. Beyond, the oldest is lost.
pub(super) const MAX_UNSEALED: usize = 18;

/// Runs of one bucket before they are made one. Late heartbeats in order need one.
const MAX_RUNS: usize = 4;

/// Values of a bucket whose runs are made one at once: more would take so long that one server that sends
/// nothing in order could hold up the others. Beyond, its late ticks are refused.
const MAX_MERGED_VALUES: u64 = 200_000;

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

    fn last_ms(&self) -> Option<i64> {
        self.times_ms().next_back()
    }

    fn has_time(&self, at_ms: i64) -> bool {
        let offset = u32::try_from(at_ms - self.base_ms);
        offset.is_ok_and(|offset| self.offsets_ms.binary_search(&offset).is_ok())
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
            + size_of::<Run>()
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

/// Ticks in order within one bucket.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) bucket: i64,
    /// Journal table (see [`super::memory::Memory::generation`]) that was written when the run began: its first
    /// values are there or in a later one.
    pub(super) generation: u64,
    /// When it began.
    pub(super) begun_ms: i64,
    pub(super) ticks: Ticks,
}

/// When a tick arrives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) now_ms: i64,
    pub(super) generation: u64,
}

/// One server.
#[derive(Debug, Default)]
pub(super) struct ServerHead {
    /// Sealed: on disk.
    recent: Ticks,
    /// By bucket, oldest first; within a bucket in the order in which they began.
    unsealed: VecDeque<Run>,
    /// The newest tick ever.
    last_ms: Option<i64>,
    /// Newest tick of what was sealed when the program started.
    sealed_until_ms: Option<i64>,
}

impl ServerHead {
    /// The columns of the newest bucket, as a hint where values are likely to go.
    pub(super) fn newest_columns(&self) -> &[HeadColumn] {
        self.unsealed.back().map_or(self.recent.columns(), |run| run.ticks.columns())
    }

    /// Not after every tick before it.
    pub(super) fn is_late(&self, at_ms: i64) -> bool {
        self.last_ms.is_some_and(|last| at_ms <= last)
    }

    /// Takes one tick; afterwards `values` holds what was taken. Answers how many samples of the oldest
    /// bucket were lost to make room.
    pub(super) fn push(
        &mut self,
        at_ms: i64,
        moment: Moment,
        values: &mut Vec<Value>,
        mut refused: impl FnMut(Refusal),
    ) -> u64 {
        let mut lost = 0;
        let place = match self.place_of(at_ms) {
            Ok(Some(place)) => Ok(place),
            Ok(None) => self.begin_run(bucket_of(at_ms), moment, &mut lost),
            Err(why) => Err(why),
        };
        let run = match place {
            Ok(place) => self.unsealed.get_mut(place).filter(|run| run.ticks.len() < MAX_TICKS),
            Err(Refusal::OutOfOrder) => {
                values.drain(..).for_each(|_| refused(Refusal::OutOfOrder));
                return lost;
            }
            Err(Refusal::OverLimit) => None,
        };
        let Some(run) = run else {
            values.drain(..).for_each(|_| refused(Refusal::OverLimit));
            return lost;
        };
        if run.ticks.push(at_ms, values, refused) {
            self.last_ms = self.last_ms.max(Some(at_ms));
        } else {
            self.unsealed.retain(|run| run.ticks.len() > 0);
        }
        lost
    }

    /// The run that this time can follow; None: it needs a new one.
    fn place_of(&mut self, at_ms: i64) -> Result<Option<usize>, Refusal> {
        let bucket = bucket_of(at_ms);
        let is_next = |run: &Run| run.bucket == bucket && run.ticks.last_ms().is_none_or(|last| last < at_ms);
        if self.unsealed.back().is_some_and(is_next)
            && self.unsealed.iter().rev().nth(1).is_none_or(|before| before.bucket != bucket)
        {
            return Ok(Some(self.unsealed.len() - 1));
        }
        let runs = self.unsealed.iter().enumerate().filter(|(_, run)| run.bucket == bucket);
        let mut place = None;
        let mut count = 0;
        for (index, run) in runs {
            if run.ticks.has_time(at_ms) {
                return Err(Refusal::OutOfOrder);
            }
            count += 1;
            // The fullest fit keeps the others open for what comes earlier.
            let last = run.ticks.last_ms();
            if last < Some(at_ms) && place.is_none_or(|(_, best)| last > best) {
                place = Some((index, last));
            }
        }
        if place.is_none() && count >= MAX_RUNS {
            self.join_runs(bucket)?;
        }
        Ok(place.map(|(index, _)| index))
    }

    fn begin_run(&mut self, bucket: i64, moment: Moment, lost: &mut u64) -> Result<usize, Refusal> {
        if self.unsealed.len() >= MAX_UNSEALED {
            if self.unsealed.front().is_none_or(|oldest| oldest.bucket >= bucket) {
                return Err(Refusal::OverLimit);
            }
            *lost += self.unsealed.pop_front().map_or(0, |run| run.ticks.samples());
        }
        let place = self.unsealed.iter().take_while(|run| run.bucket <= bucket).count();
        let Moment { now_ms: begun_ms, generation } = moment;
        self.unsealed.insert(place, Run { bucket, generation, begun_ms, ticks: Ticks::default() });
        Ok(place)
    }

    fn join_runs(&mut self, bucket: i64) -> Result<(), Refusal> {
        let of_bucket = || self.unsealed.iter().filter(|run| run.bucket == bucket);
        if of_bucket().map(|run| run.ticks.samples()).sum::<u64>() > MAX_MERGED_VALUES {
            return Err(Refusal::OverLimit);
        }
        let generation = of_bucket().map(|run| run.generation).min().unwrap_or(0);
        let begun_ms = of_bucket().map(|run| run.begun_ms).min().unwrap_or(0);
        let Some(chunk) = self.chunk(bucket) else { return Ok(()) };
        let ticks = Ticks::tail_of(&[chunk], usize::MAX);
        self.unsealed.retain(|run| run.bucket != bucket);
        let place = self.unsealed.iter().take_while(|run| run.bucket < bucket).count();
        self.unsealed.insert(place, Run { bucket, generation, begun_ms, ticks });
        Ok(())
    }

    /// Buckets that are not sealed, oldest first, each once.
    pub(super) fn unsealed_buckets(&self) -> impl Iterator<Item = i64> {
        let mut before = None;
        self.unsealed
            .iter()
            .map(|run| run.bucket)
            .filter(move |bucket| before.replace(*bucket) != Some(*bucket))
    }

    /// All that is not sealed of a bucket, in the order of time. None: nothing.
    pub(super) fn chunk(&self, bucket: i64) -> Option<Chunk> {
        let mut runs = self.unsealed.iter().filter(|run| run.bucket == bucket);
        let first = runs.next()?.ticks.to_chunk();
        Some(runs.fold(first, |chunk, run| Chunk::merged(chunk, run.ticks.to_chunk())))
    }

    /// Everything that is not sealed, by bucket.
    pub(super) fn runs(&self) -> impl DoubleEndedIterator<Item = &Run> {
        self.unsealed.iter()
    }

    /// Everything in memory, oldest first; the first may be empty.
    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = &Ticks> {
        std::iter::once(&self.recent).chain(self.unsealed.iter().map(|run| &run.ticks))
    }

    /// `chunk` of this bucket is on disk: what is kept of it is a tail.
    /// Where ticks came in meanwhile, the bucket stays and is sealed again.
    /// A tail from beyond `ahead_ms` (a clock that was set back) makes room for what is real.
    pub(super) fn sealed(&mut self, bucket: i64, chunk: &Chunk, ahead_ms: i64) {
        let runs = self.unsealed.iter().filter(|run| run.bucket == bucket);
        let ticks: usize = runs.map(|run| run.ticks.len()).sum();
        if ticks != chunk.times_ms.len() {
            return;
        }
        self.unsealed.retain(|run| run.bucket != bucket);
        let newest = self.recent.last_ms();
        if newest > Some(ahead_ms) {
            self.recent = Ticks::default();
        }
        if chunk.times_ms.last().copied() > self.recent.last_ms() {
            self.recent =
                Ticks::tail_of(&[Chunk::merged(self.recent.to_chunk(), chunk.clone())], RECENT_TICKS);
        }
    }

    /// A chunk from before what is in memory, at start.
    pub(super) fn load_recent(&mut self, chunk: Chunk) {
        self.sealed_until(chunk.times_ms.last().copied());
        self.recent = Ticks::tail_of(&[Chunk::merged(self.recent.to_chunk(), chunk)], RECENT_TICKS);
    }

    /// Ticks up to this time are on disk, but for those that came late.
    pub(super) fn sealed_until(&mut self, at_ms: Option<i64>) {
        self.sealed_until_ms = self.sealed_until_ms.max(at_ms);
        self.last_ms = self.last_ms.max(at_ms);
    }

    /// Whether a tick of the journal that did not come late is on disk already.
    pub(super) fn is_sealed(&self, at_ms: i64) -> bool {
        self.sealed_until_ms.is_some_and(|until| at_ms <= until)
    }

    pub(super) fn ticks_in_memory(&self) -> usize {
        self.all().map(Ticks::len).sum()
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

    const NOW: Moment = Moment { now_ms: 0, generation: 0 };

    fn push(head: &mut ServerHead, at_ms: i64, raw: i64) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        head.push(at_ms, NOW, &mut vec![value(1, raw)], |why| refusals.push(why));
        refusals
    }

    fn values(head: &ServerHead, bucket: i64) -> Vec<(i64, i64)> {
        let chunk = head.chunk(bucket).unwrap();
        chunk.times_ms.into_iter().zip(chunk.columns[0].raw.clone()).collect()
    }

    #[test]
    fn late_ticks_find_their_place_and_a_repeated_one_is_refused() {
        let mut head = ServerHead::default();
        for at in [1000, 5000, 2000, 3000, 4000, 1500] {
            assert_eq!(push(&mut head, at, at), []);
        }
        for at in [1000, 3000, 5000] {
            assert_eq!(push(&mut head, at, 0), [Refusal::OutOfOrder]);
        }
        let wanted = [1000, 1500, 2000, 3000, 4000, 5000].map(|at| (at, at));
        assert_eq!(values(&head, 0), wanted);
    }

    #[test]
    fn a_bucket_in_any_order_is_kept_whole() {
        let mut head = ServerHead::default();
        for at in (0..100).rev() {
            assert_eq!(push(&mut head, at * 7 % 100, at), []);
        }
        assert_eq!(values(&head, 0).len(), 100);
        assert!(head.runs().count() <= MAX_RUNS);
    }

    #[test]
    fn a_server_never_has_more_series_than_the_limit() {
        let mut head = ServerHead::default();
        let mut values: Vec<Value> = (1..=MAX_SERIES_PER_SERVER as u32 + 3).map(|id| value(id, 1)).collect();
        let mut refusals = 0;
        head.push(1, NOW, &mut values, |why| {
            assert_eq!(why, Refusal::OverLimit);
            refusals += 1;
        });
        assert_eq!((values.len(), refusals), (MAX_SERIES_PER_SERVER, 3));
    }

    #[test]
    fn a_sealed_bucket_leaves_a_tail_and_a_bucket_that_grew_meanwhile_stays() {
        let mut head = ServerHead::default();
        for tick in 0..100 {
            assert_eq!(push(&mut head, tick * 5000, tick), []);
        }
        let chunk = head.chunk(0).unwrap();
        assert_eq!(push(&mut head, 100 * 5000, 100), []);
        head.sealed(0, &chunk, i64::MAX);
        assert_eq!(head.unsealed_buckets().collect::<Vec<_>>(), [0]);
        let chunk = head.chunk(0).unwrap();
        head.sealed(0, &chunk, i64::MAX);
        assert_eq!(head.unsealed_buckets().count(), 0);
        assert_eq!(head.recent.len(), RECENT_TICKS);
        assert_eq!(head.recent.values(SeriesId(1)).last(), Some((59, 100)));
    }

    #[test]
    fn a_disk_that_is_away_too_long_costs_the_oldest_bucket_and_it_is_counted() {
        let mut head = ServerHead::default();
        let mut lost = 0;
        for bucket in 0..=MAX_UNSEALED as i64 {
            lost += head.push(bucket * BUCKET_MS, NOW, &mut vec![value(1, bucket), value(2, 0)], |_| ());
        }
        assert_eq!(lost, 2);
        assert_eq!(head.unsealed_buckets().next(), Some(1));
    }
}
