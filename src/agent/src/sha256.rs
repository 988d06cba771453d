//! SHA-256 (FIPS 180-4), so that the program can say which file it is. For no secret: not constant in time.

use std::io::{self, Read};

const ROUNDS: [u32; 64] = [
    0x428a_2f98,
    0x7137_4491,
    0xb5c0_fbcf,
    0xe9b5_dba5,
    0x3956_c25b,
    0x59f1_11f1,
    0x923f_82a4,
    0xab1c_5ed5,
    0xd807_aa98,
    0x1283_5b01,
    0x2431_85be,
    0x550c_7dc3,
    0x72be_5d74,
    0x80de_b1fe,
    0x9bdc_06a7,
    0xc19b_f174,
    0xe49b_69c1,
    0xefbe_4786,
    0x0fc1_9dc6,
    0x240c_a1cc,
    0x2de9_2c6f,
    0x4a74_84aa,
    0x5cb0_a9dc,
    0x76f9_88da,
    0x983e_5152,
    0xa831_c66d,
    0xb003_27c8,
    0xbf59_7fc7,
    0xc6e0_0bf3,
    0xd5a7_9147,
    0x06ca_6351,
    0x1429_2967,
    0x27b7_0a85,
    0x2e1b_2138,
    0x4d2c_6dfc,
    0x5338_0d13,
    0x650a_7354,
    0x766a_0abb,
    0x81c2_c92e,
    0x9272_2c85,
    0xa2bf_e8a1,
    0xa81a_664b,
    0xc24b_8b70,
    0xc76c_51a3,
    0xd192_e819,
    0xd699_0624,
    0xf40e_3585,
    0x106a_a070,
    0x19a4_c116,
    0x1e37_6c08,
    0x2748_774c,
    0x34b0_bcb5,
    0x391c_0cb3,
    0x4ed8_aa4a,
    0x5b9c_ca4f,
    0x682e_6ff3,
    0x748f_82ee,
    0x78a5_636f,
    0x84c8_7814,
    0x8cc7_0208,
    0x90be_fffa,
    0xa450_6ceb,
    0xbef9_a3f7,
    0xc671_78f2,
];

const START: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

const BLOCK_BYTES: usize = 64;

/// The digest of everything that `source` gives, as 64 hexadecimal digits.
///
/// # Errors
/// Those of `source`.
pub fn hex(mut source: impl Read) -> io::Result<String> {
    let mut state = START;
    let mut total_bytes = 0_u64;
    loop {
        let mut block = [0; BLOCK_BYTES];
        let filled = fill(&mut source, &mut block)?;
        total_bytes += filled as u64;
        if filled == BLOCK_BYTES {
            mix(&mut state, &block);
            continue;
        }
        finish(&mut state, block, filled, total_bytes);
        return Ok(state.iter().flat_map(|word| word.to_be_bytes()).fold(String::new(), |mut text, byte| {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
            text
        }));
    }
}

fn fill(source: &mut impl Read, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The end of the message: a one bit, zeros, the length in bits.
fn finish(state: &mut [u32; 8], mut block: [u8; BLOCK_BYTES], filled: usize, total_bytes: u64) {
    if let Some(byte) = block.get_mut(filled) {
        *byte = 0x80;
    }
    if filled >= BLOCK_BYTES - 8 {
        mix(state, &block);
        block = [0; BLOCK_BYTES];
    }
    let length = total_bytes.wrapping_mul(8).to_be_bytes();
    for (place, byte) in block.iter_mut().skip(BLOCK_BYTES - 8).zip(length) {
        *place = byte;
    }
    mix(state, &block);
}

fn mix(state: &mut [u32; 8], block: &[u8; BLOCK_BYTES]) {
    let mut window = [0_u32; 16];
    for (word, bytes) in window.iter_mut().zip(block.chunks_exact(4)) {
        *word = bytes.iter().fold(0, |word, &byte| word << 8 | u32::from(byte));
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for constant in ROUNDS {
        // The window slides: its first word is that of this round, and the word 16 rounds on joins at its end.
        let [w0, w1, .., w9, _, _, _, _, w14, _] = window;
        let small_0 = w1.rotate_right(7) ^ w1.rotate_right(18) ^ (w1 >> 3);
        let small_1 = w14.rotate_right(17) ^ w14.rotate_right(19) ^ (w14 >> 10);
        let next = w0.wrapping_add(small_0).wrapping_add(w9).wrapping_add(small_1);
        window.rotate_left(1);
        if let Some(last) = window.last_mut() {
            *last = next;
        }
        let big_1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let choice = (e & f) ^ (!e & g);
        let first = h.wrapping_add(big_1).wrapping_add(choice).wrapping_add(constant).wrapping_add(w0);
        let big_0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let majority = (a & b) ^ (a & c) ^ (b & c);
        let second = big_0.wrapping_add(majority);
        (h, g, f, e, d, c, b, a) = (g, f, e, d.wrapping_add(first), c, b, a, first.wrapping_add(second));
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *word = word.wrapping_add(add);
    }
}

#[cfg(test)]
mod tests {
    use super::hex;

    /// From FIPS 180-4's examples, and lengths on both sides of the padding's edge.
    #[test]
    fn digests_are_those_of_the_standard() {
        let cases: [(&[u8], &str); 4] = [
            (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
            (&[b'a'; 64], "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb"),
        ];
        for (message, digest) in cases {
            assert_eq!(hex(message).unwrap(), digest);
        }
    }
}
