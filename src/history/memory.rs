//! All servers' heads, the dictionary and what waits for the journal, behind one lock.
//!
//! Everything here is quick and in memory; the disk is the writer's. Nothing here asks the time.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::chunk::Chunk;
use super::head::{BUCKET_MS, Refusal, Rows, ServerHead, Ticks};
use super::journal::{ROW_BYTES, RowBuilder, Span, Value};
use super::series::{Dictionary, Series, SeriesId};
use crate::model::{Labels, MetricName, Sample, SeriesKey, Timestamp};

/// Bytes that may wait for the journal. When the disk is away for so long that more would wait (over
/// ten minutes of 1,000 servers), nothing waits any more: the journal is then written anew from the heads.
pub(super) const MAX_PENDING_BYTES: usize = 32 << 20;

/// A tick further ahead of the clock than this is refused: one wrong time would shut out its server's
/// values until the clock reaches it.
pub(super) const MAX_AHEAD_MS: i64 = 5 * 60 * 1000;

/// New series that one server may bring while the program runs. A hostile server that makes up names
/// stops here and leaves the dictionary to the others.
const MAX_MINTED_PER_SERVER: u32 = 16_384;

/// Server numbers are 20 bits of a chunk's key.
pub(super) const SERVER_BITS: u32 = 20;

/// Buckets are sealed in this part of the next one, each server at a moment of its own.
const SPREAD_MS: i64 = BUCKET_MS / 4;

/// After a bucket's end, so that readings on their way still find it open.
const GRACE_MS: i64 = 5_000;

/// Values that were not kept, counted since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Dropped {
    /// NaN, infinite, or too large for 64 bits at the metric's scale.
    pub not_storable: u64,
    /// Not later than the newest tick of the server, or a series twice in one tick.
    pub out_of_order: u64,
    /// Time before 1970, or over 5 minutes ahead of the clock.
    pub bad_time: u64,
    /// Beyond a limit: series of a server, names, ticks in a bucket.
    pub over_limit: u64,
    /// For a server that was removed, or after the end.
    pub unwanted: u64,
    /// Given up because the disk took nothing for hours.
    pub lost: u64,
}

/// A journal row that waits for the disk.
#[derive(Debug)]
pub(super) struct PendingRow {
    pub(super) span: Span,
    pub(super) bytes: Vec<u8>,
}

/// What [`Memory::take_pending`] hands to the writer.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) rows: Vec<PendingRow>,
    pub(super) series: Vec<Series>,
    /// Too much waited: the journal must be written anew from the heads.
    pub(super) rejournal: bool,
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) servers: HashMap<u32, ServerHead>,
    pub(super) dictionary: Dictionary,
    pub(super) dropped: Dropped,
    builder: RowBuilder,
    rows: Vec<PendingRow>,
    rejournal: bool,
    forgotten: HashSet<u32>,
    closed: bool,
    scratch: Vec<Value>,
}

impl Memory {
    pub(super) fn append(&mut self, server: u32, at: Timestamp, now: Timestamp, samples: &[Sample]) {
        let at_ms = at.as_millis();
        let count = samples.len() as u64;
        if self.closed || self.forgotten.contains(&server) {
            self.dropped.unwanted += count;
            return;
        }
        if server >> SERVER_BITS != 0 {
            self.dropped.over_limit += count;
            return;
        }
        if at_ms < 0 || at_ms > now.as_millis().saturating_add(MAX_AHEAD_MS) {
            self.dropped.bad_time += count;
            tracing::debug!(server, %at, "history: values with an impossible time are dropped");
            return;
        }
        let head = self.servers.entry(server).or_default();
        if head.is_late(at_ms) {
            self.dropped.out_of_order += count;
            tracing::debug!(server, %at, samples = count, "history: late or repeated values are dropped");
            return;
        }
        let mut values = std::mem::take(&mut self.scratch);
        values.clear();
        store_all(head, &mut self.dictionary, &mut self.dropped, samples, &mut values);
        let over_limit = self.dropped.over_limit;
        let lost = push(head, &mut self.dropped, at_ms, &mut values);
        if lost > 0 {
            self.dropped.lost += lost;
            tracing::warn!(
                server,
                samples = lost,
                "history: the disk took nothing for hours; the oldest values are lost"
            );
        }
        if self.dropped.over_limit > over_limit {
            tracing::debug!(server, %at, "history: values beyond the limits of a server are dropped");
        }
        if !values.is_empty() {
            self.enqueue(server, at_ms, &values);
        }
        self.scratch = values;
    }

    /// A tick from the journal, at start.
    pub(super) fn restore(&mut self, server: u32, at_ms: i64, values: &[Value]) {
        if self.forgotten.contains(&server) {
            return;
        }
        let head = self.servers.entry(server).or_default();
        if head.is_late(at_ms) {
            return;
        }
        let mut known = std::mem::take(&mut self.scratch);
        known.clear();
        known.extend(values.iter().filter(|value| self.dictionary.get(value.series).is_some()));
        self.dropped.lost += push(head, &mut self.dropped, at_ms, &mut known);
        self.scratch = known;
    }

    fn enqueue(&mut self, server: u32, at_ms: i64, values: &[Value]) {
        if self.rejournal {
            return;
        }
        self.builder.push(server, at_ms, values);
        if self.builder.bytes() >= ROW_BYTES {
            self.finish_row();
        }
        let waiting: usize = self.rows.iter().map(|row| row.bytes.len()).sum();
        if waiting > MAX_PENDING_BYTES {
            self.overflow();
        }
    }

    /// Lets go of what waits for the journal: it will be written anew from the heads.
    pub(super) fn overflow(&mut self) {
        self.builder = RowBuilder::default();
        self.rows.clear();
        self.rejournal = true;
    }

    fn finish_row(&mut self) {
        if let Some((span, bytes)) = std::mem::take(&mut self.builder).finish() {
            self.rows.push(PendingRow { span, bytes });
        }
    }

    pub(super) fn take_pending(&mut self) -> Taken {
        self.finish_row();
        Taken {
            rows: std::mem::take(&mut self.rows),
            series: self.dictionary.unsaved(),
            rejournal: std::mem::take(&mut self.rejournal),
        }
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.rows.is_empty() || !self.builder.is_empty() || self.rejournal
    }

    /// Everything of one server that is not sealed, as journal rows.
    pub(super) fn journal_of(&self, server: u32) -> Vec<PendingRow> {
        let mut rows = Vec::new();
        let mut builder = RowBuilder::default();
        for ticks in self.servers.get(&server).into_iter().flat_map(ServerHead::all_unsealed) {
            for row in Rows::of(&ticks.to_chunk()) {
                builder.push(server, row.at_ms, &row.values);
                if builder.bytes() >= ROW_BYTES
                    && let Some((span, bytes)) = std::mem::take(&mut builder).finish()
                {
                    rows.push(PendingRow { span, bytes });
                }
            }
        }
        rows.extend(builder.finish().map(|(span, bytes)| PendingRow { span, bytes }));
        rows
    }

    /// Buckets whose time to be sealed has come, at most `limit`, oldest buckets first.
    pub(super) fn due(&self, now: Timestamp, limit: usize) -> Vec<(u32, i64)> {
        let mut due: Vec<(u32, i64)> = self
            .servers
            .iter()
            .flat_map(|(server, head)| head.unsealed_buckets().map(|bucket| (*server, bucket)))
            .filter(|(server, bucket)| now.as_millis() >= seal_at_ms(*server, *bucket))
            .collect();
        due.sort_unstable_by_key(|(server, bucket)| (*bucket, *server));
        due.truncate(limit);
        due
    }

    pub(super) fn chunk(&self, server: u32, bucket: i64) -> Option<Chunk> {
        self.servers.get(&server)?.unsealed(bucket).map(Ticks::to_chunk)
    }

    /// The oldest bucket of any server that is not sealed.
    pub(super) fn oldest_unsealed(&self) -> Option<i64> {
        self.servers.values().filter_map(|head| head.unsealed_buckets().next()).min()
    }

    pub(super) fn forget(&mut self, server: u32) {
        self.servers.remove(&server);
        self.forgotten.insert(server);
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn latest(&self, server: u32) -> Vec<(SeriesKey, Timestamp, f64)> {
        let Some(head) = self.servers.get(&server) else { return Vec::new() };
        let mut seen = HashSet::new();
        let mut latest = Vec::new();
        for ticks in head.all().rev() {
            for column in ticks.columns() {
                let Some((tick, raw)) = column.last() else { continue };
                let (Some(at_ms), Some(series)) = (ticks.time_ms(tick), self.dictionary.get(column.series))
                else {
                    continue;
                };
                if seen.insert(column.series) {
                    latest.push((series.key.clone(), Timestamp::from_millis(at_ms), series.restore(raw)));
                }
            }
        }
        latest
    }

    /// See [`super::History::recent`].
    pub(super) fn recent(&self, server: u32, key: &SeriesKey, count: usize) -> Vec<Option<f64>> {
        let (Some(head), Some(series)) = (self.servers.get(&server), self.dictionary.find(key)) else {
            return Vec::new();
        };
        let mut values: Vec<(i64, Option<f64>)> = Vec::new();
        for ticks in head.all() {
            let start = values.len();
            values.extend(ticks.times_ms().map(|at_ms| (at_ms, None)));
            for (tick, raw) in ticks.values(series.id) {
                if let Some(slot) = values.get_mut(start + tick as usize) {
                    slot.1 = Some(series.restore(raw));
                }
            }
        }
        let values = values.split_off(values.len().saturating_sub(count));
        let mut out = with_holes(&values);
        out.split_off(out.len().saturating_sub(count))
    }

    /// Numbers of the server's series in memory.
    pub(super) fn series_ids(&self, server: u32) -> Vec<SeriesId> {
        let columns =
            self.servers.get(&server).into_iter().flat_map(ServerHead::all).flat_map(Ticks::columns);
        let mut ids: Vec<SeriesId> = columns.map(|column| column.series).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Series of this metric, of whatever server.
    pub(super) fn series_of(&self, metric: &MetricName, labels: Option<&Labels>) -> Vec<Series> {
        match labels {
            Some(labels) => {
                let key = SeriesKey { metric: metric.clone(), labels: labels.clone() };
                self.dictionary.find(&key).cloned().into_iter().collect()
            }
            None => self.dictionary.of_metric(metric).cloned().collect(),
        }
    }

    /// What is not sealed of some series from `from_ms` to `to_ms`, both included.
    pub(super) fn unsealed_values(
        &self,
        server: u32,
        wanted: &[Series],
        from_ms: i64,
        to_ms: i64,
    ) -> Unsealed {
        let mut unsealed = Unsealed { first_ms: None, values: Vec::new() };
        let Some(head) = self.servers.get(&server) else { return unsealed };
        unsealed.first_ms = head.all_unsealed().find_map(|ticks| ticks.times_ms().next());
        for series in wanted {
            let mut values = Vec::new();
            for ticks in head.all_unsealed() {
                values.extend(
                    ticks
                        .values(series.id)
                        .filter_map(|(tick, raw)| Some((ticks.time_ms(tick)?, raw)))
                        .filter(|(at_ms, _)| (from_ms..=to_ms).contains(at_ms)),
                );
            }
            if !values.is_empty() {
                unsealed.values.push((series.id, values));
            }
        }
        unsealed
    }

    /// Bytes of memory that the heads take.
    pub(super) fn memory_bytes(&self) -> usize {
        self.servers.values().map(ServerHead::memory_bytes).sum()
    }
}

/// What the heads hold of a range.
#[derive(Debug)]
pub(super) struct Unsealed {
    /// Time of the server's first tick that is not sealed: from here on the head is complete.
    pub(super) first_ms: Option<i64>,
    /// Times (ms) and stored values by series.
    pub(super) values: Vec<(SeriesId, Vec<(i64, i64)>)>,
}

/// When a bucket of a server is sealed: spread, so that no second has much to do.
fn seal_at_ms(server: u32, bucket: i64) -> i64 {
    // Fibonacci hashing: neighbouring numbers land far apart.
    let mixed = server.wrapping_mul(2_654_435_769);
    (bucket + 1) * BUCKET_MS + GRACE_MS + i64::from(mixed) % SPREAD_MS
}

fn store_all(
    head: &mut ServerHead,
    dictionary: &mut Dictionary,
    dropped: &mut Dropped,
    samples: &[Sample],
    values: &mut Vec<Value>,
) {
    let stored = |series: &Series, sample: &Sample| (series.id, series.kind, series.store(sample.value));
    for (place, sample) in samples.iter().enumerate() {
        let likely = head.newest_columns().get(place).and_then(|column| dictionary.get(column.series));
        let known = match likely.filter(|series| series.key == sample.key) {
            Some(series) => Some(stored(series, sample)),
            None => dictionary.find(&sample.key).map(|series| stored(series, sample)),
        };
        let found = match known {
            Some(found) => Some(found),
            None if !sample.value.is_finite() => {
                dropped.not_storable += 1;
                continue;
            }
            None if head.minted >= MAX_MINTED_PER_SERVER => None,
            None => {
                head.minted += 1;
                dictionary.add(&sample.key).map(|series| stored(series, sample))
            }
        };
        match found {
            Some((series, kind, Some(raw))) => values.push(Value { series, kind, raw }),
            Some((_, _, None)) => dropped.not_storable += 1,
            None => dropped.over_limit += 1,
        }
    }
}

fn push(head: &mut ServerHead, dropped: &mut Dropped, at_ms: i64, values: &mut Vec<Value>) -> u64 {
    if values.is_empty() {
        return 0;
    }
    head.push(at_ms, values, |why| match why {
        Refusal::OutOfOrder => dropped.out_of_order += 1,
        Refusal::OverLimit => dropped.over_limit += 1,
    })
}

/// Puts one `None` where far more time passed between two ticks than is usual for them.
fn with_holes(values: &[(i64, Option<f64>)]) -> Vec<Option<f64>> {
    let step = |pair: &[(i64, Option<f64>)]| match pair {
        [(before, _), (after, _)] => after - before,
        _ => 0,
    };
    let mut steps: Vec<i64> = values.windows(2).map(step).collect();
    steps.sort_unstable();
    let usual = steps.get(steps.len() / 2).copied().unwrap_or(0);
    let mut out: Vec<Option<f64>> = values.first().map(|(_, value)| *value).into_iter().collect();
    for pair in values.windows(2) {
        if step(pair) > usual * 3 {
            out.push(None);
        }
        out.extend(pair.last().map(|(_, value)| *value));
    }
    out
}
