//! All servers' heads, the dictionary and what waits for the journal, behind one lock.
//!
//! Everything here is quick and in memory; the disk is the writer's. Nothing here asks the time.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::chunk::Chunk;
use super::error::HistoryError;
use super::head::{BUCKET_MS, Moment, Refusal, Rows, Run, ServerHead, Ticks};
use super::journal::{ROW_BYTES, RowBuilder, Source, Span, Value};
use super::level::DAY_MS;
use super::metric;
use super::progress::Progress;
use super::series::{Changes, Dictionary, Series, SeriesId};
use crate::model::{MetricName, Sample, SeriesKey, Timestamp};

/// Bytes that may wait for the journal. When the disk is away for so long that more would wait (over
/// ten minutes of 1,000 servers), nothing waits any more: the journal is then written anew from the heads.
pub(super) const MAX_PENDING_BYTES: usize = 32 << 20;

/// A tick further ahead of the clock than this is refused: one wrong time would shut out its server's
/// values until the clock reaches it.
pub(super) const MAX_AHEAD_MS: i64 = 5 * 60 * 1000;

/// A tick older than this is refused: what is older is rolled up for good. An agent that reports after an
/// outage may be a day late.
pub(super) const MAX_LATE_MS: i64 = 24 * 3_600_000;

/// What came after its bucket's end waits so long for more of its kind before it joins what is sealed.
const LATE_WAIT_MS: i64 = BUCKET_MS / 2;

/// Servers that are named in the health because a limit cut them. More would be no help to anybody.
const MAX_LIMITED: usize = 16;
/// Names that are remembered of each: enough to see where they come from.
const MAX_REFUSED_NAMES: usize = 5;

/// Server numbers are 20 bits of a row's key.
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
    /// A time that the server had already, or a series twice in one tick.
    pub out_of_order: u64,
    /// Over 24 hours old.
    pub too_late: u64,
    /// Time before 1970, or over 5 minutes ahead of the clock.
    pub bad_time: u64,
    /// Beyond a limit: series of a server, names, ticks in a bucket.
    pub over_limit: u64,
    /// For a server that was removed, or after the end.
    pub unwanted: u64,
    /// Given up because the disk took nothing for hours.
    pub lost: u64,
}

/// What a limit of names cost a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) samples: u64,
    /// The first few of them.
    pub(super) names: Vec<SeriesKey>,
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
    pub(super) changes: Changes,
    /// Too much waited: the journal must be written anew from the heads.
    pub(super) rejournal: bool,
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) servers: HashMap<u32, ServerHead>,
    pub(super) dictionary: Dictionary,
    pub(super) dropped: Dropped,
    /// Samples that came after a later one of their server and were kept.
    pub(super) late: u64,
    /// Servers that reached a limit of names.
    pub(super) limited: HashMap<u32, Refused>,
    pub(super) progress: Progress,
    /// Counts the changes from one journal table to the other.
    pub(super) generation: u64,
    builder: RowBuilder,
    rows: Vec<PendingRow>,
    rejournal: bool,
    forgotten: HashSet<u32>,
    closed: bool,
    scratch: Vec<Value>,
}

impl Refused {
    const fn wants_names(&self) -> bool {
        self.names.len() < MAX_REFUSED_NAMES
    }

    fn add_names<'a>(&mut self, names: impl Iterator<Item = &'a SeriesKey>) {
        for name in names {
            if !self.wants_names() {
                return;
            }
            if !self.names.contains(name) {
                self.names.push(name.clone());
            }
        }
    }
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
        if at_ms < now.as_millis().saturating_sub(MAX_LATE_MS) {
            self.dropped.too_late += count;
            tracing::debug!(server, %at, "history: values that are over a day old are dropped");
            return;
        }
        let mut values = std::mem::take(&mut self.scratch);
        values.clear();
        self.store_all(server, now, samples, &mut values);
        let late = self.servers.get(&server).is_some_and(|head| head.is_late(at_ms));
        let over_limit = self.dropped.over_limit;
        let lost = self.push(server, at_ms, now.as_millis(), &mut values);
        if lost > 0 {
            self.dropped.lost += lost;
            tracing::warn!(
                server,
                samples = lost,
                "history: the disk took nothing for hours; the oldest values are lost"
            );
        }
        if self.dropped.over_limit > over_limit {
            self.note_names(server, samples, &values);
            tracing::debug!(server, %at, "history: values beyond the limits of a server are dropped");
        }
        if !values.is_empty() {
            self.late += if late { values.len() as u64 } else { 0 };
            self.enqueue(Source { server, late }, at_ms, &values);
        }
        self.scratch = values;
    }

    /// Turns samples into stored values, in their order; what cannot be stored is counted.
    fn store_all(&mut self, server: u32, now: Timestamp, samples: &[Sample], values: &mut Vec<Value>) {
        let today = now.as_millis().div_euclid(DAY_MS);
        let columns = self.servers.get(&server).map(ServerHead::newest_columns).unwrap_or_default();
        let (dictionary, dropped) = (&mut self.dictionary, &mut self.dropped);
        let stored = |series: &Series, sample: &Sample| (series.id, series.kind, series.store(sample.value));
        let mut refused = Vec::new();
        for (place, sample) in samples.iter().enumerate() {
            // Readings list their values in the same order each time.
            let likely = columns.get(place).and_then(|column| dictionary.get(column.series));
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
                None => dictionary.add(&sample.key, server, today).map(|series| stored(series, sample)),
            };
            match found {
                Some((series, kind, Some(raw))) => values.push(Value { series, kind, raw }),
                Some((_, _, None)) => dropped.not_storable += 1,
                None => refused.push(&sample.key),
            }
        }
        if !refused.is_empty() {
            self.note_limit(server, refused.len() as u64);
            if let Some(limited) = self.limited.get_mut(&server) {
                limited.add_names(refused.into_iter());
            }
        }
    }

    /// Notes which of the samples found no place in the bucket: those that are not among the values that did.
    fn note_names(&mut self, server: u32, samples: &[Sample], taken: &[Value]) {
        let dictionary = &self.dictionary;
        let Some(limited) = self.limited.get_mut(&server).filter(|limited| limited.wants_names()) else {
            return;
        };
        let taken: HashSet<SeriesId> = taken.iter().map(|value| value.series).collect();
        let refused = samples
            .iter()
            .filter(|sample| dictionary.find(&sample.key).is_some_and(|series| !taken.contains(&series.id)));
        limited.add_names(refused.map(|sample| &sample.key));
    }

    fn note_limit(&mut self, server: u32, samples: u64) {
        self.dropped.over_limit += samples;
        if let Some(limited) = self.limited.get_mut(&server) {
            limited.samples += samples;
        } else if self.limited.len() < MAX_LIMITED {
            self.limited.insert(server, Refused { samples, names: Vec::new() });
            tracing::warn!(
                server,
                "history: too many names of metrics and labels; new ones of this server are not kept"
            );
        }
    }

    fn push(&mut self, server: u32, at_ms: i64, now_ms: i64, values: &mut Vec<Value>) -> u64 {
        if values.is_empty() {
            return 0;
        }
        let moment = Moment { now_ms, generation: self.generation };
        let mut beyond = 0;
        let dropped = &mut self.dropped;
        let head = self.servers.entry(server).or_default();
        let lost = head.push(at_ms, moment, values, |why| match why {
            Refusal::OutOfOrder => dropped.out_of_order += 1,
            Refusal::OverLimit => beyond += 1,
        });
        if beyond > 0 {
            self.note_limit(server, beyond);
        }
        lost
    }

    /// A tick from the journal, at start.
    pub(super) fn restore(&mut self, source: Source, at_ms: i64, now_ms: i64, values: &[Value]) {
        let Source { server, late } = source;
        if self.forgotten.contains(&server) {
            return;
        }
        let sealed = self.servers.get(&server).is_some_and(|head| head.is_sealed(at_ms));
        // One that came late may be sealed too; it then meets itself there and counts once.
        if sealed && !late {
            return;
        }
        let mut known = std::mem::take(&mut self.scratch);
        known.clear();
        known.extend(values.iter().filter(|value| self.dictionary.get(value.series).is_some()));
        self.dropped.lost += self.push(server, at_ms, now_ms, &mut known);
        self.scratch = known;
    }

    fn enqueue(&mut self, source: Source, at_ms: i64, values: &[Value]) {
        if self.rejournal {
            return;
        }
        self.builder.push(source, at_ms, values);
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
            changes: self.dictionary.unsaved(),
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
        // Marked as late, so that a restart keeps all of them, whatever is sealed.
        let source = Source { server, late: true };
        for run in self.servers.get(&server).into_iter().flat_map(ServerHead::runs) {
            for row in Rows::of(&run.ticks.to_chunk()) {
                builder.push(source, row.at_ms, &row.values);
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

    /// Buckets to be sealed, at most `limit`, oldest first: those whose time has come, and every older one of their
    /// servers. A start takes what is sealed of a server for its oldest part, so wherever this list is cut off,
    /// nothing older than a sealed bucket stays.
    pub(super) fn due(&self, now: Timestamp, limit: usize) -> Vec<(u32, i64)> {
        let now_ms = now.as_millis();
        let mut due: Vec<(i64, u32)> = self
            .servers
            .iter()
            .flat_map(|(server, head)| {
                let newest =
                    head.runs().filter(|run| is_due(*server, run, now_ms)).map(|run| run.bucket).max();
                head.unsealed_buckets()
                    .filter(move |bucket| Some(*bucket) <= newest)
                    .map(|bucket| (bucket, *server))
            })
            .collect();
        due.sort_unstable();
        due.dedup();
        due.truncate(limit);
        due.into_iter().map(|(bucket, server)| (server, bucket)).collect()
    }

    pub(super) fn chunk(&self, server: u32, bucket: i64) -> Option<Chunk> {
        self.servers.get(&server)?.chunk(bucket)
    }

    /// The oldest bucket of a server that is not sealed.
    pub(super) fn oldest_unsealed_of(&self, server: u32) -> Option<i64> {
        self.servers.get(&server)?.unsealed_buckets().next()
    }

    /// The oldest journal table that holds something that is not sealed.
    pub(super) fn oldest_generation(&self) -> Option<u64> {
        self.servers.values().flat_map(ServerHead::runs).map(|run| run.generation).min()
    }

    pub(super) fn forget(&mut self, server: u32) {
        self.servers.remove(&server);
        self.progress.forget(server);
        self.limited.remove(&server);
        self.forgotten.insert(server);
    }

    pub(super) fn is_forgotten(&self, server: u32) -> bool {
        self.forgotten.contains(&server)
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Of values whose time is ahead of the clock none counts while there are others: a clock that was set
    /// back must not leave a page with what it said before.
    pub(super) fn latest(&self, server: u32, now: Timestamp) -> Vec<(SeriesKey, Timestamp, f64)> {
        let Some(head) = self.servers.get(&server) else { return Vec::new() };
        let ahead_ms = now.as_millis().saturating_add(MAX_AHEAD_MS);
        let rank = |at_ms: i64| (at_ms <= ahead_ms, at_ms);
        let mut order: Vec<SeriesId> = Vec::new();
        let mut latest: HashMap<SeriesId, (i64, i64)> = HashMap::new();
        for ticks in head.all().rev() {
            for column in ticks.columns() {
                let Some((tick, raw)) = column.last() else { continue };
                let Some(at_ms) = ticks.time_ms(tick) else { continue };
                let newest = latest.entry(column.series).or_insert_with(|| {
                    order.push(column.series);
                    (at_ms, raw)
                });
                if rank(at_ms) > rank(newest.0) {
                    *newest = (at_ms, raw);
                }
            }
        }
        let found = order.into_iter().filter_map(|id| {
            let (series, (at_ms, raw)) = (self.dictionary.get(id)?, *latest.get(&id)?);
            Some((series.key.clone(), Timestamp::from_millis(at_ms), series.restore(raw)))
        });
        found.collect()
    }

    /// The newest value of one series; as [`Self::latest`].
    pub(super) fn latest_one(
        &self,
        server: u32,
        series: &Series,
        now: Timestamp,
    ) -> Option<(Timestamp, f64)> {
        let head = self.servers.get(&server)?;
        let ahead_ms = now.as_millis().saturating_add(MAX_AHEAD_MS);
        let newest = head.all().filter_map(|ticks| {
            let (tick, raw) = ticks.column(series.id)?.last()?;
            Some((ticks.time_ms(tick)?, raw))
        });
        let (at_ms, raw) = newest.max_by_key(|(at_ms, _)| (*at_ms <= ahead_ms, *at_ms))?;
        Some((Timestamp::from_millis(at_ms), series.restore(raw)))
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
        if !values.is_sorted_by_key(|(at_ms, _)| *at_ms) {
            values.sort_by_key(|(at_ms, _)| *at_ms);
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
    pub(super) fn series_of(&self, metric: &MetricName) -> Vec<Series> {
        self.dictionary.of_metric(metric).cloned().collect()
    }

    /// The series of this name; None: nobody had it, but its metric is known.
    pub(super) fn known(&self, key: &SeriesKey) -> Result<Option<&Series>, HistoryError> {
        let found = self.dictionary.find(key);
        let is_known = found.is_some()
            || metric::find(key.metric.as_str()).is_some()
            || self.dictionary.of_metric(&key.metric).next().is_some();
        if is_known { Ok(found) } else { Err(HistoryError::UnknownMetric(key.metric.as_str().to_owned())) }
    }

    /// What is not sealed of some series from `from_ms` to `to_ms`, both included.
    pub(super) fn unsealed_values(
        &self,
        server: u32,
        wanted: &[Series],
        from_ms: i64,
        to_ms: i64,
    ) -> Unsealed {
        let mut unsealed = Unsealed::default();
        let Some(head) = self.servers.get(&server) else { return unsealed };
        unsealed.first_bucket = head.unsealed_buckets().next();
        for series in wanted {
            let mut values = Vec::new();
            for run in head.runs() {
                let of_run = run.ticks.values(series.id);
                values.extend(
                    of_run
                        .filter_map(|(tick, raw)| Some((run.ticks.time_ms(tick)?, raw)))
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
#[derive(Debug, Default)]
pub(super) struct Unsealed {
    /// The server's oldest bucket that is not sealed.
    pub(super) first_bucket: Option<i64>,
    /// Times (ms) and stored values by series, run after run.
    pub(super) values: Vec<(SeriesId, Vec<(i64, i64)>)>,
}

/// Whether a run of a bucket is to be sealed: some time after the end of its bucket, what came late after
/// some more, and at once what stands in a future that the clock was set back from.
fn is_due(server: u32, run: &Run, now_ms: i64) -> bool {
    let ahead_ms = now_ms.saturating_add(MAX_AHEAD_MS);
    let end_ms = (run.bucket + 1) * BUCKET_MS;
    if end_ms - BUCKET_MS > ahead_ms || run.begun_ms > ahead_ms {
        return true;
    }
    let late_ms =
        if run.begun_ms > end_ms + GRACE_MS { run.begun_ms + LATE_WAIT_MS } else { end_ms + GRACE_MS };
    now_ms >= late_ms + spread_ms(server, SPREAD_MS)
}

/// A moment of its own for each server, so that no second has much to do.
pub(super) fn spread_ms(server: u32, span_ms: i64) -> i64 {
    // Fibonacci hashing: neighbouring numbers land far apart.
    i64::from(server.wrapping_mul(2_654_435_769)) % span_ms
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
