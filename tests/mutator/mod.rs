//! A deterministic mutator, for tests that feed parsers what no machine says: the same seed gives the same inputs, so a failure
//! here is a failure everywhere. In place of cargo-fuzz, which needs a nightly toolchain.
#![expect(clippy::unwrap_used, reason = "a mutator that cannot mutate fails the test")]

/// A small generator (xorshift64*), so that nothing is needed for it.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// From 0 to one below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % end.max(1)
    }

    /// The input with one to six places cut, copied, replaced or made nonsense.
    pub(crate) fn mutate(&mut self, input: &[u8]) -> Vec<u8> {
        const WORDS: [&[u8]; 18] = [
            b"18446744073709551615",
            b"18446744073709551616",
            b"-1",
            b"NaN",
            b"1e999",
            b"\n",
            b"\0",
            b"\xff\xfe",
            b") R 1 ",
            b" - ",
            b"\\777",
            b"\x1b]0;",
            b"\r\n\r\n",
            b"{\"a\":[",
            b"==> /proc/1/stat <==\n",
            b"\n@N end 1\n",
            b"1e-400",
            b"\\ud800",
        ];
        let mut out = input.to_vec();
        for _ in 0..=self.below(6) {
            let at = self.below(out.len() + 1);
            let end = (at + self.below(40)).min(out.len());
            match self.below(5) {
                0 => drop(out.drain(at..end)),
                1 => drop(out.splice(at..at, WORDS.get(self.below(WORDS.len())).unwrap().iter().copied())),
                2 => {
                    let copy = out.get(at..end).unwrap().to_vec();
                    drop(out.splice(at..at, copy));
                }
                3 => out.truncate(at),
                _ => {
                    if let Some(byte) = out.get_mut(at) {
                        *byte = u8::try_from(self.below(256)).unwrap();
                    }
                }
            }
        }
        out
    }
}
