//! Variable-length integers (LEB128, zigzag for signed ones) and a bounds-checked reader.
//!
//! Knows nothing of what the numbers mean. Reading never panics: a short or overlong input is `None`.

/// Bytes that the longest 64-bit number takes.
const LONGEST: u32 = 10;

pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, zigzag(value));
}

/// Small numbers of either sign become small unsigned ones.
pub(super) const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

pub(super) const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// What is to be put for a value after another; 0 only for the same value.
pub(super) const fn delta(float: bool, last: i64, raw: i64) -> u64 {
    if float {
        // Floats that hold whole numbers end in zero bits; turned around these are short varints.
        (raw ^ last).cast_unsigned().swap_bytes()
    } else {
        zigzag(raw.wrapping_sub(last))
    }
}

pub(super) const fn undelta(float: bool, last: i64, delta: u64) -> i64 {
    if float { last ^ delta.swap_bytes().cast_signed() } else { last.wrapping_add(unzigzag(delta)) }
}

/// Reads from the front of a slice. `None`: the input ended or is no valid number.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything that was not read.
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    pub(super) fn unsigned(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for position in 0..LONGEST {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if position == LONGEST - 1 && bits > 1 {
                return None;
            }
            value |= bits << (7 * position);
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn signed(&mut self) -> Option<i64> {
        self.unsigned().map(unzigzag)
    }

    /// A count or length; `None` also where it is over `limit`.
    pub(super) fn count(&mut self, limit: usize) -> Option<usize> {
        usize::try_from(self.unsigned()?).ok().filter(|count| *count <= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_comes_back(unsigned: u64, signed: i64) {
            let mut bytes = Vec::new();
            put(&mut bytes, unsigned);
            put_signed(&mut bytes, signed);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.unsigned(), Some(unsigned));
            prop_assert_eq!(reader.signed(), Some(signed));
            prop_assert!(reader.is_empty());
        }
    }

    #[test]
    fn an_overlong_or_cut_number_is_refused() {
        assert_eq!(Reader::new(&[0xff; 11]).unsigned(), None);
        assert_eq!(Reader::new(&[0x80, 0x80]).unsigned(), None);
        assert_eq!(
            Reader::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]).unsigned(),
            None
        );
    }
}
