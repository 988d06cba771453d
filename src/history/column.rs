//! The numbers of one column as bytes, in whichever encoding is the shortest:
//! constant, sparse changes, or pco; where it will be made anew soon, plain deltas in place of pco.
//!
//! Exact for every bit pattern. No names, no times, no checksum: that is the chunk's.

use pco::data_types::Number;
use pco::wrapped::{FileCompressor, FileDecompressor};
use pco::{ChunkConfig, DEFAULT_COMPRESSION_LEVEL};

use super::series::Kind;
use super::varint::{self, Reader};

/// Below this many values pco's own header costs more than it saves.
const PCO_FROM_VALUES: usize = 12;

/// What the bytes of a column are. The numbers stand in files: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Encoding {
    Constant = 0,
    Sparse = 1,
    /// Offset from the smallest value in 8, 16, 32 or 64 bits.
    Pco8 = 2,
    Pco16 = 3,
    Pco32 = 4,
    Pco64 = 5,
    ConstantFloat = 6,
    SparseFloat = 7,
    PcoFloat = 8,
    /// Another column of the chunk plus a number, or a number minus it.
    Shifted = 9,
    Mirrored = 10,
    /// Step from the value before.
    Delta = 11,
    DeltaFloat = 12,
}

/// How much work a column is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// For what becomes part of a larger chunk within hours: on 60 values pco takes five times as long as all the
    /// rest, to save a third.
    Quick,
    Thorough,
}

impl Encoding {
    pub(super) fn from_code(code: u8) -> Option<Self> {
        const ALL: [Encoding; 13] = [
            Encoding::Constant,
            Encoding::Sparse,
            Encoding::Pco8,
            Encoding::Pco16,
            Encoding::Pco32,
            Encoding::Pco64,
            Encoding::ConstantFloat,
            Encoding::SparseFloat,
            Encoding::PcoFloat,
            Encoding::Shifted,
            Encoding::Mirrored,
            Encoding::Delta,
            Encoding::DeltaFloat,
        ];
        ALL.get(usize::from(code)).copied()
    }

    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::ConstantFloat | Self::SparseFloat | Self::PcoFloat | Self::DeltaFloat => Kind::Float,
            _ => Kind::Integer,
        }
    }
}

/// Encodes at least one value.
pub(super) fn encode(
    kind: Kind,
    raw: &[i64],
    effort: Effort,
) -> Result<(Encoding, Vec<u8>), pco::errors::PcoError> {
    let float = kind == Kind::Float;
    let changes = raw.windows(2).filter(|pair| pair.first() != pair.last()).count();
    let first = raw.first().copied().unwrap_or(0);
    if changes == 0 {
        let mut bytes = Vec::new();
        put_value(&mut bytes, kind, first);
        return Ok((if float { Encoding::ConstantFloat } else { Encoding::Constant }, bytes));
    }
    let sparse = (if float { Encoding::SparseFloat } else { Encoding::Sparse }, encode_sparse(kind, raw));
    // A change takes two bytes and more; pco never needs as much as the densest of these.
    if raw.len() < PCO_FROM_VALUES {
        return Ok(sparse);
    }
    let packed = match effort {
        Effort::Quick => encode_deltas(kind, raw),
        Effort::Thorough => encode_pco(kind, raw)?,
    };
    Ok(if packed.1.len() < sparse.1.len() { packed } else { sparse })
}

/// None: the bytes are not what `encode` makes of `count` values.
pub(super) fn decode(encoding: Encoding, bytes: &[u8], count: usize) -> Option<Vec<i64>> {
    let mut reader = Reader::new(bytes);
    match encoding {
        Encoding::Constant | Encoding::ConstantFloat => {
            let value = take_value(&mut reader, encoding.kind())?;
            Some(vec![value; count])
        }
        // The chunk knows the other column.
        Encoding::Shifted | Encoding::Mirrored => None,
        Encoding::Delta | Encoding::DeltaFloat => {
            let mut last = 0;
            let kind = encoding.kind();
            (0..count)
                .map(|_| {
                    last = varint::undelta(kind == Kind::Float, last, reader.unsigned()?);
                    Some(last)
                })
                .collect()
        }
        Encoding::Sparse | Encoding::SparseFloat => decode_sparse(encoding.kind(), &mut reader, count),
        Encoding::Pco8 => decode_offsets::<u8>(reader, count),
        Encoding::Pco16 => decode_offsets::<u16>(reader, count),
        Encoding::Pco32 => decode_offsets::<u32>(reader, count),
        Encoding::Pco64 => decode_offsets::<u64>(reader, count),
        Encoding::PcoFloat => {
            let floats = decode_pco::<f64>(reader.rest(), count)?;
            Some(floats.into_iter().map(|float| float.to_bits().cast_signed()).collect())
        }
    }
}

fn put_value(out: &mut Vec<u8>, kind: Kind, raw: i64) {
    match kind {
        Kind::Integer => varint::put_signed(out, raw),
        Kind::Float => out.extend_from_slice(&raw.to_le_bytes()),
    }
}

fn take_value(reader: &mut Reader<'_>, kind: Kind) -> Option<i64> {
    match kind {
        Kind::Integer => reader.signed(),
        Kind::Float => reader.array().map(i64::from_le_bytes),
    }
}

/// Runs: how many times, then the value (integers as the step from the run before).
fn encode_sparse(kind: Kind, raw: &[i64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut before = 0_i64;
    for run in raw.chunk_by(|a, b| a == b) {
        let value = run.first().copied().unwrap_or(0);
        varint::put(&mut bytes, run.len() as u64);
        match kind {
            Kind::Integer => varint::put_signed(&mut bytes, value.wrapping_sub(before)),
            Kind::Float => put_value(&mut bytes, kind, value),
        }
        before = value;
    }
    bytes
}

fn decode_sparse(kind: Kind, reader: &mut Reader<'_>, count: usize) -> Option<Vec<i64>> {
    let mut raw = Vec::with_capacity(count);
    let mut value = 0_i64;
    while raw.len() < count {
        let run = reader.count(count - raw.len())?;
        let next = take_value(reader, kind)?;
        value = if kind == Kind::Integer { value.wrapping_add(next) } else { next };
        if run == 0 {
            return None;
        }
        raw.resize(raw.len() + run, value);
    }
    Some(raw)
}

fn encode_deltas(kind: Kind, raw: &[i64]) -> (Encoding, Vec<u8>) {
    let float = kind == Kind::Float;
    let mut bytes = Vec::with_capacity(raw.len() * 2);
    let mut last = 0;
    for value in raw {
        varint::put(&mut bytes, varint::delta(float, last, *value));
        last = *value;
    }
    (if float { Encoding::DeltaFloat } else { Encoding::Delta }, bytes)
}

fn encode_pco(kind: Kind, raw: &[i64]) -> Result<(Encoding, Vec<u8>), pco::errors::PcoError> {
    let mut bytes = Vec::new();
    if kind == Kind::Float {
        let floats: Vec<f64> = raw.iter().map(|bits| f64::from_bits(bits.cast_unsigned())).collect();
        put_pco(&mut bytes, &floats)?;
        return Ok((Encoding::PcoFloat, bytes));
    }
    let lowest = raw.iter().copied().min().unwrap_or(0);
    let offsets: Vec<u64> = raw.iter().map(|value| value.wrapping_sub(lowest).cast_unsigned()).collect();
    let widest = offsets.iter().copied().max().unwrap_or(0);
    varint::put_signed(&mut bytes, lowest);
    // A narrower type makes pco's own tables narrower: of 360 values that is a good part.
    let encoding = if widest <= u64::from(u8::MAX) {
        put_pco(&mut bytes, &offsets.iter().map(|offset| *offset as u8).collect::<Vec<_>>())?;
        Encoding::Pco8
    } else if widest <= u64::from(u16::MAX) {
        put_pco(&mut bytes, &offsets.iter().map(|offset| *offset as u16).collect::<Vec<_>>())?;
        Encoding::Pco16
    } else if widest <= u64::from(u32::MAX) {
        put_pco(&mut bytes, &offsets.iter().map(|offset| *offset as u32).collect::<Vec<_>>())?;
        Encoding::Pco32
    } else {
        put_pco(&mut bytes, &offsets)?;
        Encoding::Pco64
    };
    Ok((encoding, bytes))
}

fn put_pco<T: Number>(out: &mut Vec<u8>, numbers: &[T]) -> Result<(), pco::errors::PcoError> {
    let config =
        ChunkConfig::default().with_compression_level(DEFAULT_COMPRESSION_LEVEL).with_enable_8_bit(true);
    let file = FileCompressor::default();
    file.write_header(&mut *out)?;
    let mut chunk = file.chunk_compressor(numbers, &config)?;
    chunk.write_meta(&mut *out)?;
    chunk.write_page(0, out)?;
    Ok(())
}

fn decode_offsets<T: Number + Into<u64>>(mut reader: Reader<'_>, count: usize) -> Option<Vec<i64>> {
    let lowest = reader.signed()?;
    let offsets = decode_pco::<T>(reader.rest(), count)?;
    Some(offsets.into_iter().map(|offset| lowest.wrapping_add(offset.into().cast_signed())).collect())
}

fn decode_pco<T: Number>(bytes: &[u8], count: usize) -> Option<Vec<T>> {
    let (file, rest) = FileDecompressor::new(bytes).ok()?;
    let (mut chunk, rest) = file.chunk_decompressor::<T, _>(rest).ok()?;
    let mut page = chunk.page_decompressor(rest, count).ok()?;
    let mut numbers = vec![T::default(); count];
    let progress = page.read(&mut numbers).ok()?;
    (progress.finished && progress.n_processed == count).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Vec<i64>> {
        prop_oneof![
            proptest::collection::vec(any::<i64>(), 1..400),
            proptest::collection::vec(-5_i64..200, 1..400),
            proptest::collection::vec(prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(0)], 1..400),
            (any::<i64>(), 1_usize..400).prop_map(|(value, count)| vec![value; count]),
            proptest::collection::vec((0_i64..1 << 40).prop_map(|pages| pages * 4096), 1..400),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn every_bit_comes_back(raw in values(), float: bool) {
            let kind = if float { Kind::Float } else { Kind::Integer };
            let (encoding, bytes) = encode(kind, &raw, Effort::Thorough).unwrap();
            prop_assert_eq!(encoding.kind(), kind);
            prop_assert_eq!(decode(encoding, &bytes, raw.len()), Some(raw.clone()));
            let (encoding, bytes) = encode(kind, &raw, Effort::Quick).unwrap();
            prop_assert_eq!(encoding.kind(), kind);
            prop_assert_eq!(decode(encoding, &bytes, raw.len()), Some(raw));
        }

        #[test]
        fn bytes_that_are_no_column_never_panic(code in 0_u8..13, bytes: Vec<u8>, count in 0_usize..500) {
            if let Some(encoding) = Encoding::from_code(code) {
                let _ = decode(encoding, &bytes, count);
            }
        }

        #[test]
        fn a_changed_column_never_panics(
            raw in values(), float: bool, at: prop::sample::Index, flip in 1_u8.., count in 0_usize..500,
        ) {
            let (encoding, mut bytes) = encode(if float { Kind::Float } else { Kind::Integer }, &raw, Effort::Thorough).unwrap();
            let position = at.index(bytes.len());
            bytes[position] ^= flip;
            let _ = decode(encoding, &bytes, count);
            let _ = decode(encoding, &bytes, raw.len());
        }
    }

    #[test]
    fn a_constant_takes_a_few_bytes_and_a_rare_change_a_few_more() {
        let (encoding, bytes) = encode(Kind::Integer, &[16_000_000_000; 360], Effort::Thorough).unwrap();
        assert_eq!((encoding, bytes.len()), (Encoding::Constant, 5));
        let mut raw = [40_i64; 360];
        raw[100..].fill(41);
        let (encoding, bytes) = encode(Kind::Integer, &raw, Effort::Thorough).unwrap();
        assert_eq!((encoding, bytes.len()), (Encoding::Sparse, 5));
    }
}
