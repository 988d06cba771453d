//! A journal row: all values of all servers of about one second, as bytes.
//!
//! Layout: version (1 byte), CRC-32 of all that follows (4), earliest and latest time in it (ms, 8 bytes
//! each), then a tick after the other: server (bit 20: the tick came late), time (ms after the tick before),
//! number of values, and for each its series (step from the one before, lowest bit: a float) and value. Little endian, varints.
//! A row stands alone: no other row is needed to read it.

use super::series::{Kind, SeriesId};
use super::varint::{self, Reader};

const VERSION: u8 = 1;
/// Bytes of a row before its first tick.
pub(super) const FIXED_BYTES: usize = 1 + 4 + 8 + 8;

/// A row is closed at this size, so that one transaction never builds one huge blob.
pub(super) const ROW_BYTES: usize = 1 << 20;

/// A tick that came after a later one of its server. Server numbers have 20 bits.
const LATE: u32 = 1 << super::memory::SERVER_BITS;

/// Which server a tick is of, and whether it came after a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) server: u32,
    pub(super) late: bool,
}

/// One value in its stored form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) series: SeriesId,
    pub(super) kind: Kind,
    pub(super) raw: i64,
}

/// Earliest and latest time of a row, in ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first_ms: i64,
    pub(super) last_ms: i64,
}

/// A row that is being filled.
#[derive(Debug, Default)]
pub(super) struct RowBuilder {
    body: Vec<u8>,
    span: Option<Span>,
    before_ms: i64,
}

impl RowBuilder {
    pub(super) const fn is_empty(&self) -> bool {
        self.span.is_none()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.body.len()
    }

    pub(super) fn push(&mut self, source: Source, at_ms: i64, values: &[Value]) {
        if self.body.is_empty() {
            self.body.resize(FIXED_BYTES, 0);
        }
        let server = if source.late { source.server | LATE } else { source.server };
        varint::put(&mut self.body, u64::from(server));
        varint::put_signed(&mut self.body, at_ms.wrapping_sub(self.before_ms));
        self.before_ms = at_ms;
        varint::put(&mut self.body, values.len() as u64);
        let mut before = 0_i64;
        for value in values {
            let series = i64::from(value.series.0);
            let float = u64::from(value.kind == Kind::Float);
            varint::put(&mut self.body, varint::zigzag(series - before) << 1 | float);
            before = series;
            match value.kind {
                Kind::Integer => varint::put_signed(&mut self.body, value.raw),
                Kind::Float => self.body.extend_from_slice(&value.raw.to_le_bytes()),
            }
        }
        self.span = Some(match self.span {
            None => Span { first_ms: at_ms, last_ms: at_ms },
            Some(span) => Span { first_ms: span.first_ms.min(at_ms), last_ms: span.last_ms.max(at_ms) },
        });
    }

    /// None: nothing was pushed.
    pub(super) fn finish(mut self) -> Option<(Span, Vec<u8>)> {
        let span = self.span?;
        self.body.get_mut(5..13)?.copy_from_slice(&span.first_ms.to_le_bytes());
        self.body.get_mut(13..21)?.copy_from_slice(&span.last_ms.to_le_bytes());
        let crc = crc32fast::hash(self.body.get(5..)?);
        *self.body.first_mut()? = VERSION;
        self.body.get_mut(1..5)?.copy_from_slice(&crc.to_le_bytes());
        Some((span, self.body))
    }
}

/// The times of a row from its first [`FIXED_BYTES`]. Not covered by the checksum check.
pub(super) fn span_of(start: &[u8]) -> Option<Span> {
    let mut reader = Reader::new(start);
    if reader.byte()? != VERSION {
        return None;
    }
    reader.take(4)?;
    let span =
        Span { first_ms: i64::from_le_bytes(reader.array()?), last_ms: i64::from_le_bytes(reader.array()?) };
    Some(span)
}

/// Calls `tick(source, at_ms, values)` for each tick of a row. None: the row is damaged; what came
/// before the damage is not reported either, because the checksum is checked first.
pub(super) fn read(row: &[u8], mut tick: impl FnMut(Source, i64, &[Value])) -> Option<Span> {
    let mut reader = Reader::new(row);
    if reader.byte()? != VERSION {
        return None;
    }
    let crc = u32::from_le_bytes(reader.array()?);
    if crc32fast::hash(reader.rest()) != crc {
        return None;
    }
    let span = span_of(row)?;
    reader.take(FIXED_BYTES - 5)?;
    let mut values = Vec::new();
    let mut at_ms = 0_i64;
    while !reader.is_empty() {
        let server = u32::try_from(reader.unsigned()?).ok()?;
        at_ms = at_ms.wrapping_add(reader.signed()?);
        let count = reader.count(super::head::MAX_SERIES_PER_SERVER)?;
        values.clear();
        let mut series = 0_i64;
        for _ in 0..count {
            let head = reader.unsigned()?;
            series = series.checked_add(varint::unzigzag(head >> 1))?;
            let (kind, raw) = if head & 1 == 1 {
                (Kind::Float, i64::from_le_bytes(reader.array()?))
            } else {
                (Kind::Integer, reader.signed()?)
            };
            values.push(Value { series: SeriesId(u32::try_from(series).ok()?), kind, raw });
        }
        tick(Source { server: server & !LATE, late: server & LATE != 0 }, at_ms, &values);
    }
    Some(span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = Value> {
        (any::<u32>(), any::<bool>(), any::<i64>()).prop_map(|(id, float, raw)| Value {
            series: SeriesId(id),
            kind: if float { Kind::Float } else { Kind::Integer },
            raw,
        })
    }

    proptest! {
        #[test]
        fn a_row_comes_back_and_a_damaged_one_is_refused(
            ticks in proptest::collection::vec(
                (0_u32..LATE, any::<bool>(), any::<i64>(), proptest::collection::vec(value(), 0..20)), 1..20),
            at: prop::sample::Index, flip in 1_u8..,
        ) {
            let mut builder = RowBuilder::default();
            for (server, late, at_ms, values) in &ticks {
                builder.push(Source { server: *server, late: *late }, *at_ms, values);
            }
            let (span, mut row) = builder.finish().unwrap();
            let mut seen = Vec::new();
            let read_span = read(&row, |source, at_ms, values| {
                seen.push((source.server, source.late, at_ms, values.to_vec()));
            });
            prop_assert_eq!(read_span, Some(span));
            prop_assert_eq!(seen, ticks);
            let position = at.index(row.len());
            row[position] ^= flip;
            prop_assert_eq!(read(&row, |_, _, _| {}), None);
        }
    }
}
