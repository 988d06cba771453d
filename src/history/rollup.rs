//! Roll-ups as values: raw samples or finer roll-ups in, count, average, least and greatest a step out.
//!
//! Pure. A row in the file is a [`Chunk`] whose times are step numbers within the row, so that nothing in it
//! depends on when it was, and whose columns are four a series: count, average, average - least,
//! greatest - average. Numbers are in stored units (value times the scale of the series), the last three in
//! hundredths of them where the values are small whole numbers.

use std::collections::BTreeMap;

use super::chunk::{Chunk, Column};
use super::level::Level;
use super::series::{Kind, SeriesId};

/// Part of a column's number, lowest three bits: which of the four, and whether in hundredths.
const COUNT: u32 = 0;
const AVERAGE: u32 = 1;
const BELOW: u32 = 2;
const ABOVE: u32 = 3;
const HUNDREDTHS: u32 = 4;
const PART_BITS: u32 = 3;

/// A series whose values are all under this gets two more decimals in its averages, if it has none: a service
/// that failed for a minute of an hour is not 0.
const SMALL: f64 = 100_000.0;

/// Averages are rounded to the granularity of the values, a power of two from `COARSE` to `PAGE`: memory counts in
/// pages of 4096 bytes, and the bytes below say nothing and compress badly.
const COARSE: u64 = 64;
const PAGE: u64 = 4096;

/// The values of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Step {
    /// Within the row, from 0.
    pub(super) index: u32,
    pub(super) count: u32,
    pub(super) avg: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

/// One series of a row, in the order of time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rolled {
    pub(super) kind: Kind,
    pub(super) steps: Vec<Step>,
}

/// A row of one level while it is made. Series in order of their numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Row {
    pub(super) series: BTreeMap<SeriesId, Rolled>,
}

/// A stored value in stored units. Floats are what they are.
pub(super) fn number(kind: Kind, raw: i64) -> f64 {
    match kind {
        Kind::Integer => raw as f64,
        Kind::Float => f64::from_bits(raw.cast_unsigned()),
    }
}

impl Rolled {
    /// Adds what one time or one finer step said; times must not go back.
    fn add(&mut self, step: Step) {
        match self.steps.last_mut().filter(|last| last.index == step.index) {
            None => self.steps.push(step),
            Some(last) => {
                let count = last.count.saturating_add(step.count);
                let sum = last.avg.mul_add(f64::from(last.count), step.avg * f64::from(step.count));
                last.min = last.min.min(step.min);
                last.max = last.max.max(step.max);
                // Two huge floats may add up to infinity, and rounding must not leave what was measured.
                let avg = if sum.is_finite() { sum / f64::from(count) } else { last.avg };
                last.avg = avg.clamp(last.min, last.max);
                last.count = count;
            }
        }
    }
}

impl Row {
    fn add(&mut self, series: SeriesId, kind: Kind, step: Step) {
        self.series.entry(series).or_insert_with(|| Rolled { kind, steps: Vec::new() }).add(step);
    }

    /// Folds raw samples into the steps of a row of `level` that begins at `start_ms`; samples outside of it
    /// are left out.
    pub(super) fn add_samples(&mut self, level: Level, start_ms: i64, chunk: &Chunk) {
        for column in &chunk.columns {
            for (tick, raw) in column.ticks.iter().zip(&column.raw) {
                let Some(at_ms) = chunk.times_ms.get(*tick as usize) else { continue };
                let Some(index) = index_in(level, start_ms, *at_ms) else { continue };
                let value = number(column.kind, *raw);
                let step = Step { index, count: 1, avg: value, min: value, max: value };
                self.add(column.series, column.kind, step);
            }
        }
    }

    /// Folds the steps of a finer row, which begins at `finer_start_ms`.
    pub(super) fn add_row(
        &mut self,
        level: Level,
        start_ms: i64,
        finer: Level,
        finer_start_ms: i64,
        row: &Self,
    ) {
        for (series, rolled) in &row.series {
            for step in &rolled.steps {
                let at_ms = finer_start_ms + i64::from(step.index) * finer.step_ms();
                let Some(index) = index_in(level, start_ms, at_ms) else { continue };
                self.add(*series, rolled.kind, Step { index, ..*step });
            }
        }
    }

    /// Takes the steps of `fresh` from `first` to `last` (both included) in place of its own, and keeps the
    /// rest. A step of which `fresh` knows nothing stays.
    pub(super) fn overlay(&mut self, fresh: Self, first: u32, last: u32) {
        for (series, rolled) in fresh.series {
            let own =
                self.series.entry(series).or_insert_with(|| Rolled { kind: rolled.kind, steps: Vec::new() });
            let mut steps: BTreeMap<u32, Step> = own.steps.drain(..).map(|step| (step.index, step)).collect();
            let inside = rolled.steps.into_iter().filter(|step| (first..=last).contains(&step.index));
            steps.extend(inside.map(|step| (step.index, step)));
            own.steps.extend(steps.into_values());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.series.values().all(|rolled| rolled.steps.is_empty())
    }

    /// As it stands in the file. `whole` says of a series that its stored units are whole things (scale 1).
    pub(super) fn to_chunk(&self, whole: impl Fn(SeriesId) -> bool) -> Chunk {
        let mut indexes: Vec<u32> =
            self.series.values().flat_map(|rolled| rolled.steps.iter().map(|step| step.index)).collect();
        indexes.sort_unstable();
        indexes.dedup();
        let mut chunk =
            Chunk { times_ms: indexes.iter().map(|index| i64::from(*index)).collect(), columns: Vec::new() };
        for (series, rolled) in &self.series {
            let ticks: Vec<u32> = rolled
                .steps
                .iter()
                .filter_map(|step| indexes.binary_search(&step.index).ok()?.try_into().ok())
                .collect();
            let (hundredths, columns) = match rolled.kind {
                Kind::Integer => integer_columns(&rolled.steps, whole(*series)),
                Kind::Float => (false, float_columns(&rolled.steps)),
            };
            for (part, (kind, raw)) in (0_u32..).zip(columns) {
                let flag = if hundredths { HUNDREDTHS } else { 0 };
                let id = SeriesId(series.0 << PART_BITS | flag | part);
                chunk.columns.push(Column { series: id, kind, ticks: ticks.clone(), raw });
            }
        }
        chunk
    }

    /// None: the columns do not fit together.
    pub(super) fn of_chunk(chunk: &Chunk) -> Option<Self> {
        let mut row = Self::default();
        let index_of = |tick: &u32| u32::try_from(*chunk.times_ms.get(*tick as usize)?).ok();
        for parts in chunk.columns.chunk_by(|a, b| a.series.0 >> PART_BITS == b.series.0 >> PART_BITS) {
            let [counts, averages, below, above] = parts else { return None };
            let expected = [COUNT, AVERAGE, BELOW, ABOVE];
            if !parts.iter().zip(expected).all(|(column, part)| column.series.0 & 3 == part)
                || parts.iter().any(|column| column.ticks != counts.ticks)
            {
                return None;
            }
            let unit = if counts.series.0 & HUNDREDTHS == 0 { 1.0 } else { 100.0 };
            let mut steps = Vec::with_capacity(counts.raw.len());
            let values = averages.raw.iter().zip(&below.raw).zip(&above.raw);
            for ((tick, count), ((avg, below), above)) in counts.ticks.iter().zip(&counts.raw).zip(values) {
                let count = u32::try_from(*count).ok()?;
                let (avg, min, max) = match averages.kind {
                    Kind::Integer => (
                        *avg as f64 / unit,
                        avg.wrapping_sub(*below) as f64 / unit,
                        avg.wrapping_add(*above) as f64 / unit,
                    ),
                    kind @ Kind::Float => (number(kind, *avg), number(kind, *below), number(kind, *above)),
                };
                steps.push(Step { index: index_of(tick)?, count, avg, min, max });
            }
            let series = SeriesId(counts.series.0 >> PART_BITS);
            row.series.insert(series, Rolled { kind: averages.kind, steps });
        }
        Some(row)
    }
}

/// The series that a column of a stored row belongs to.
pub(super) const fn series_of_column(column: SeriesId) -> SeriesId {
    SeriesId(column.0 >> PART_BITS)
}

fn index_in(level: Level, start_ms: i64, at_ms: i64) -> Option<u32> {
    let offset_ms = at_ms.checked_sub(start_ms).filter(|offset| (0..level.span_ms()).contains(offset))?;
    u32::try_from(offset_ms / level.step_ms()).ok()
}

type Columns = [(Kind, Vec<i64>); 4];

fn counts(steps: &[Step]) -> Vec<i64> {
    steps.iter().map(|step| i64::from(step.count)).collect()
}

fn integer_columns(steps: &[Step], whole: bool) -> (bool, Columns) {
    let hundredths = whole && steps.iter().all(|step| step.max.abs() < SMALL && step.min.abs() < SMALL);
    let unit = if hundredths { 100.0 } else { 1.0 };
    let scaled = |value: f64| (value * unit).round() as i64;
    let grain = if hundredths { 1 } else { granularity(steps) };
    let mut columns = [Vec::new(), Vec::new(), Vec::new()];
    for step in steps {
        let (min, max) = (scaled(step.min), scaled(step.max));
        let avg = if grain >= COARSE {
            ((step.avg / grain as f64).round() * grain as f64) as i64
        } else {
            scaled(step.avg)
        };
        let avg = avg.clamp(min, max);
        for (column, value) in columns.iter_mut().zip([avg, avg.wrapping_sub(min), max.wrapping_sub(avg)]) {
            column.push(value);
        }
    }
    let [avg, below, above] = columns.map(|raw| (Kind::Integer, raw));
    (hundredths, [(Kind::Integer, counts(steps)), avg, below, above])
}

fn float_columns(steps: &[Step]) -> Columns {
    let bits = |value: fn(&Step) -> f64| {
        (Kind::Float, steps.iter().map(|step| value(step).to_bits().cast_signed()).collect())
    };
    [(Kind::Integer, counts(steps)), bits(|step| step.avg), bits(|step| step.min), bits(|step| step.max)]
}

/// The largest power of two, at most [`PAGE`], that divides all extremes.
fn granularity(steps: &[Step]) -> u64 {
    let extremes = steps.iter().flat_map(|step| [step.min, step.max]);
    let bits = extremes.fold(0, |bits, value| bits | value.abs() as u64);
    1 << (bits | PAGE).trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunk(kind: Kind, values: &[(i64, i64)]) -> Chunk {
        Chunk {
            times_ms: values.iter().map(|(at, _)| *at).collect(),
            columns: vec![Column {
                series: SeriesId(7),
                kind,
                ticks: (0..values.len() as u32).collect(),
                raw: values.iter().map(|(_, raw)| *raw).collect(),
            }],
        }
    }

    fn through_the_file(row: &Row, whole: bool) -> Row {
        let blob = row.to_chunk(|_| whole).encode(super::super::column::Effort::Thorough).unwrap();
        Row::of_chunk(&Chunk::decode(&blob, |_| true).unwrap()).unwrap()
    }

    #[test]
    fn a_step_has_count_average_and_both_extremes_and_a_gap_has_none() {
        let mut row = Row::default();
        let start = 10 * Level::Minute.span_ms();
        let values = [(start, 1), (start + 59_999, 4), (start + 180_000, 9), (start - 1, 99)];
        row.add_samples(Level::Minute, start, &chunk(Kind::Integer, &values[..3]));
        let steps = through_the_file(&row, true).series[&SeriesId(7)].steps.clone();
        assert_eq!(
            steps,
            [
                Step { index: 0, count: 2, avg: 2.5, min: 1.0, max: 4.0 },
                Step { index: 3, count: 1, avg: 9.0, min: 9.0, max: 9.0 }
            ]
        );
    }

    #[test]
    fn pages_stay_whole_and_extremes_exact() {
        let values: Vec<(i64, i64)> =
            (0..100).map(|tick| (tick * 5000, 4096 * (tick * 37 % 11 + 500_000))).collect();
        let mut row = Row::default();
        row.add_samples(Level::Minute, 0, &chunk(Kind::Integer, &values));
        let back = through_the_file(&row, true);
        for (stored, exact) in back.series[&SeriesId(7)].steps.iter().zip(&row.series[&SeriesId(7)].steps) {
            assert_eq!((stored.min, stored.max, stored.count), (exact.min, exact.max, exact.count));
            assert!((stored.avg - exact.avg).abs() <= 2048.0);
        }
    }

    proptest! {
        #[test]
        fn cascading_equals_rolling_up_at_once(
            steps in proptest::collection::vec((1_i64..40_000, -5000_i64..5000), 1..500), float: bool,
        ) {
            let kind = if float { Kind::Float } else { Kind::Integer };
            let mut at = 0;
            let values: Vec<(i64, i64)> = steps.iter().map(|(step, value)| {
                at += step;
                (at, if float { (*value as f64 / 7.0).to_bits().cast_signed() } else { *value })
            }).collect();
            let raw = chunk(kind, &values);
            let mut fine = Row::default();
            fine.add_samples(Level::Minute, 0, &raw);
            let fine = through_the_file(&fine, true);
            let mut cascaded = Row::default();
            cascaded.add_row(Level::FiveMinutes, 0, Level::Minute, 0, &fine);
            let mut direct = Row::default();
            let first_row = Chunk { times_ms: raw.times_ms.clone(), columns: raw.columns.clone() };
            direct.add_samples(Level::FiveMinutes, 0, &first_row);
            let limit = u32::try_from(Level::Minute.span_ms() / Level::FiveMinutes.step_ms()).unwrap();
            let wanted: Vec<Step> = direct.series.get(&SeriesId(7)).map(|rolled| rolled.steps.clone())
                .unwrap_or_default().into_iter().filter(|step| step.index < limit).collect();
            let found = cascaded.series.get(&SeriesId(7)).map(|rolled| rolled.steps.clone()).unwrap_or_default();
            prop_assert_eq!(found.len(), wanted.len());
            for (found, wanted) in found.iter().zip(&wanted) {
                prop_assert_eq!((found.index, found.count, found.min, found.max),
                    (wanted.index, wanted.count, wanted.min, wanted.max));
                prop_assert!((found.avg - wanted.avg).abs() < 0.02, "{} {}", found.avg, wanted.avg);
            }
        }
    }
}
