//! Series as the body of a remote-write request: protobuf, version 1, written by hand because the message has four
//! types and eight fields.
//!
//! Source: <https://prometheus.io/docs/specs/prw/remote_write_spec/>, `prometheus.WriteRequest`.

use super::super::exposition::{Family, LabelPairs, Sink};

/// Wire types of protobuf.
const FIXED64: u8 = 1;
const LENGTH: u8 = 2;

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(field << 3 | LENGTH);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// The series of one reading: each sample becomes one `TimeSeries` of a `WriteRequest`, so that blocks of several
/// readings put behind each other are one request.
#[derive(Debug)]
pub struct Block {
    /// On every series: which server it is of.
    common: Vec<(String, String)>,
    at_ms: i64,
    out: Vec<u8>,
    samples: usize,
    series: Vec<u8>,
    pair: Vec<u8>,
}

impl Block {
    #[must_use]
    pub const fn new(common: Vec<(String, String)>, at_ms: i64) -> Self {
        Self { common, at_ms, out: Vec::new(), samples: 0, series: Vec::new(), pair: Vec::new() }
    }

    /// The encoded series and how many there are.
    #[must_use]
    pub fn finish(self) -> (Vec<u8>, usize) {
        (self.out, self.samples)
    }
}

impl Sink for Block {
    fn sample(&mut self, family: &Family, labels: LabelPairs<'_>, value: f64) {
        let common = self.common.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut all: Vec<(&str, &str)> = labels.iter().copied().chain(common).collect();
        all.push(("__name__", family.name));
        // A label without a value is no label, and the receiver wants the names in order and each once.
        all.retain(|(_, value)| !value.is_empty());
        all.sort_by_key(|(name, _)| *name);
        all.dedup_by_key(|(name, _)| *name);
        self.series.clear();
        for (name, value) in all {
            self.pair.clear();
            bytes(&mut self.pair, 1, name.as_bytes());
            bytes(&mut self.pair, 2, value.as_bytes());
            bytes(&mut self.series, 1, &self.pair);
        }
        self.pair.clear();
        self.pair.push(1 << 3 | FIXED64);
        self.pair.extend_from_slice(&value.to_le_bytes());
        self.pair.push(2 << 3);
        varint(&mut self.pair, self.at_ms.cast_unsigned());
        bytes(&mut self.series, 2, &self.pair);
        bytes(&mut self.out, 1, &self.series);
        self.samples += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_the_bytes_that_the_specification_asks_for() {
        const UP: Family = Family::gauge("up", "");
        let mut block = Block::new(vec![("instance".to_owned(), "w".to_owned())], 300);
        block.sample(&UP, &[("a", "1"), ("empty", "")], 1.0);
        let (bytes, samples) = block.finish();
        assert_eq!(samples, 1);
        let mut series = Vec::<u8>::new();
        series.extend(b"\x0a\x0e\x0a\x08__name__\x12\x02up");
        series.extend(b"\x0a\x06\x0a\x01a\x12\x011");
        series.extend(b"\x0a\x0d\x0a\x08instance\x12\x01w");
        series.extend(b"\x12\x0c\x09\0\0\0\0\0\0\xf0\x3f\x10\xac\x02");
        let mut expected = vec![0x0a, u8::try_from(series.len()).unwrap()];
        expected.extend(series);
        assert_eq!(bytes, expected);
    }
}
