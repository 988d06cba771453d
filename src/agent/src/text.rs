//! Hostile text made harmless: cleaned, capped, cut into fields. Knows no file format.

/// The text of `bytes` without control characters, escape codes and direction overrides, at most
/// `limit` bytes long. Line breaks and tabs become spaces; what is not UTF-8 becomes U+FFFD.
#[must_use]
pub fn clean(bytes: &[u8], limit: usize) -> String {
    // Bytes that are cut away may be as many as they like; four to one leaves room for escape codes.
    let head = bytes.get(..bytes.len().min(limit.saturating_mul(4))).unwrap_or(bytes);
    if let Some(plain) = plain(head) {
        return plain.get(..limit.min(plain.len())).unwrap_or(plain).trim_ascii().to_owned();
    }
    let lossy = String::from_utf8_lossy(head);
    let mut out = String::with_capacity(lossy.len().min(limit));
    let mut chars = lossy.chars().peekable();
    while let Some(c) = chars.next() {
        let kept = match c {
            '\u{1b}' => {
                skip_escape(&mut chars);
                continue;
            }
            '\n' | '\r' | '\t' | '\u{b}' | '\u{c}' => ' ',
            c if c.is_control() || is_direction(c) => continue,
            c => c,
        };
        if out.len() + kept.len_utf8() > limit {
            break;
        }
        out.push(kept);
    }
    out.truncate(out.trim_end().len());
    let leading = out.len() - out.trim_start().len();
    out.drain(..leading);
    out
}

/// Nearly every text is printable ASCII, of which nothing has to go. `None`: this one is not.
fn plain(bytes: &[u8]) -> Option<&str> {
    let is_plain = bytes.iter().all(|byte| (b' '..=b'~').contains(byte));
    is_plain.then(|| std::str::from_utf8(bytes).ok()).flatten()
}

/// [`clean`], and `None` where nothing is left.
#[must_use]
pub fn clean_some(bytes: &[u8], limit: usize) -> Option<String> {
    Some(clean(bytes, limit)).filter(|text| !text.is_empty())
}

/// Characters that turn the direction of what follows: they make one name look like another.
const fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Skips the rest of an escape code after ESC: CSI up to its final byte, OSC and the like up to BEL or ESC \.
fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.next() {
        Some('[') => {
            for c in chars.by_ref() {
                if ('\u{40}'..='\u{7e}').contains(&c) {
                    return;
                }
            }
        }
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(c) = chars.next() {
                if c == '\u{7}' {
                    return;
                }
                if c == '\u{1b}' {
                    if chars.peek() == Some(&'\\') {
                        chars.next();
                    }
                    return;
                }
            }
        }
        _ => {}
    }
}

/// The lines of `bytes`, as text; a line that is not UTF-8 is given with replacements.
pub fn lines(bytes: &[u8]) -> impl Iterator<Item = std::borrow::Cow<'_, str>> {
    bytes.split(|&byte| byte == b'\n').map(String::from_utf8_lossy)
}

/// The first line of `bytes`, trimmed; `None`: empty.
#[must_use]
pub fn first_line(bytes: &[u8]) -> Option<String> {
    let line = bytes.split(|&byte| byte == b'\n').next()?;
    Some(String::from_utf8_lossy(line).trim().to_owned()).filter(|line| !line.is_empty())
}

/// A decimal with up to `digits` digits after the point, as an integer: `decimal("1.5", 2)` is 150.
/// More digits are cut off. `None`: not a decimal, or too large.
#[must_use]
pub fn decimal(text: &str, digits: usize) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    let mut value: u64 = whole.parse().ok()?;
    let mut after = fraction.bytes();
    for _ in 0..digits {
        let digit = match after.next() {
            Some(byte) if byte.is_ascii_digit() => u64::from(byte - b'0'),
            Some(_) => return None,
            None => 0,
        };
        value = value.checked_mul(10)?.checked_add(digit)?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_codes_and_control_characters_are_removed() {
        assert_eq!(clean(b"a\x1b[31mred\x1b[0m\x07b", 99), "aredb");
        assert_eq!(clean(b"x\x1b]0;title\x07y\x1b]8;;url\x1b\\z", 99), "xyz");
        assert_eq!(clean(b" two\nlines\t", 99), "two lines");
        assert_eq!(clean("a\u{202e}b\u{85}c".as_bytes(), 99), "abc");
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(clean("ää".as_bytes(), 3), "ä");
        assert_eq!(clean(&[b'x'; 5000], 256).len(), 256);
        for end in ["", "ä", "\t"] {
            assert_eq!(clean(format!("  one two  three{end}").as_bytes(), 7), "one t", "{end:?}");
        }
    }

    #[test]
    fn decimals_become_scaled_integers() {
        assert_eq!(decimal("0.07", 2), Some(7));
        assert_eq!(decimal("814.5", 3), Some(814_500));
        assert_eq!(decimal("3", 2), Some(300));
        assert_eq!(decimal("1.2.3", 2), None);
        assert_eq!(decimal("-1", 2), None);
        assert_eq!(decimal("99999999999999999999", 0), None);
    }
}
