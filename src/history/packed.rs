//! One column of a bucket in memory: values by tick as varint deltas, with gaps and repeats as runs.
//!
//! No times and no names: a tick is a position, a value is 64 bits.

use super::series::Kind;
use super::varint::{self, Reader};

/// Announces a run in the stream. A delta is never zero (that is a repeat), so zero is free.
const RUN: u64 = 0;

/// A column that grows at its end. A constant series takes no bytes, a noisy one 1 to 3 a value.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    kind: Kind,
    bytes: Vec<u8>,
    last: i64,
    /// Values equal to `last` that are not in `bytes` yet.
    repeats: u32,
    /// The first tick that is not covered.
    next_tick: u32,
    values: u32,
}

impl Packed {
    pub(super) const fn new(kind: Kind) -> Self {
        Self { kind, bytes: Vec::new(), last: 0, repeats: 0, next_tick: 0, values: 0 }
    }

    pub(super) const fn kind(&self) -> Kind {
        self.kind
    }

    /// The newest value and its tick.
    pub(super) fn last(&self) -> Option<(u32, i64)> {
        (self.values > 0).then(|| (self.next_tick.saturating_sub(1), self.last))
    }

    /// False: there is a value at this tick or a later one already.
    pub(super) fn push(&mut self, tick: u32, raw: i64) -> bool {
        let Some(gap) = tick.checked_sub(self.next_tick) else { return false };
        if gap > 0 || raw != self.last {
            self.flush_repeats();
        }
        self.make_room();
        if gap > 0 {
            varint::put(&mut self.bytes, RUN);
            varint::put(&mut self.bytes, u64::from(gap) << 1 | 1);
        }
        if raw == self.last {
            self.repeats += 1;
        } else {
            varint::put(&mut self.bytes, varint::delta(self.kind == Kind::Float, self.last, raw));
            self.last = raw;
        }
        self.next_tick = tick.saturating_add(1);
        self.values += 1;
        true
    }

    /// Values with their ticks, oldest first.
    pub(super) fn iter(&self) -> PackedIter<'_> {
        PackedIter {
            kind: self.kind,
            bytes: Reader::new(&self.bytes),
            last: 0,
            tick: 0,
            run: 0,
            tail: self.repeats,
        }
    }

    /// Bytes of memory, without the struct itself.
    pub(super) const fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    fn flush_repeats(&mut self) {
        if self.repeats > 0 {
            self.make_room();
            varint::put(&mut self.bytes, RUN);
            varint::put(&mut self.bytes, u64::from(self.repeats) << 1);
            self.repeats = 0;
        }
    }

    /// Grows by a quarter instead of doubling: there are tens of thousands of these.
    fn make_room(&mut self) {
        const LONGEST_ENTRY: usize = 24;
        if self.bytes.capacity() - self.bytes.len() < LONGEST_ENTRY && !self.bytes.is_empty() {
            self.bytes.reserve_exact(LONGEST_ENTRY + self.bytes.len() / 4);
        }
    }
}

/// See [`Packed::iter`].
#[derive(Debug)]
pub(super) struct PackedIter<'a> {
    kind: Kind,
    bytes: Reader<'a>,
    last: i64,
    tick: u32,
    run: u32,
    tail: u32,
}

impl Iterator for PackedIter<'_> {
    type Item = (u32, i64);

    fn next(&mut self) -> Option<(u32, i64)> {
        while self.run == 0 {
            if self.bytes.is_empty() {
                self.run = std::mem::take(&mut self.tail);
                if self.run == 0 {
                    return None;
                }
                break;
            }
            let token = self.bytes.unsigned()?;
            if token != RUN {
                self.last = varint::undelta(self.kind == Kind::Float, self.last, token);
                self.run = 1;
                break;
            }
            let run = self.bytes.unsigned()?;
            let length = u32::try_from(run >> 1).ok()?;
            if run & 1 == 1 {
                self.tick = self.tick.checked_add(length)?;
            } else {
                self.run = length;
            }
        }
        self.run -= 1;
        let tick = self.tick;
        self.tick += 1;
        Some((tick, self.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_pushed_comes_back(
            float: bool,
            steps in proptest::collection::vec((0_u32..3, prop_oneof![Just(0_i64), Just(7), any::<i64>()]), 0..200),
        ) {
            let mut packed = Packed::new(if float { Kind::Float } else { Kind::Integer });
            let mut expected = Vec::new();
            let mut tick = 0;
            for (gap, raw) in steps {
                tick += gap;
                prop_assert!(packed.push(tick, raw));
                expected.push((tick, raw));
                tick += 1;
            }
            prop_assert_eq!(packed.last(), expected.last().copied());
            prop_assert_eq!(packed.iter().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_second_value_for_a_tick_is_refused() {
        let mut packed = Packed::new(Kind::Integer);
        assert!(packed.push(3, 1));
        assert!(!packed.push(3, 2));
        assert!(!packed.push(0, 2));
        assert_eq!(packed.iter().collect::<Vec<_>>(), [(3, 1)]);
    }
}
