//! Text from a server, made safe for a person to read.
//!
//! Removes escape sequences, control characters and the characters that reorder text, and cuts at a limit. It
//! does not escape HTML: a page does that for every value.

/// One line of at most `max_chars`: line ends and tabs become spaces, runs of spaces one space.
#[must_use]
pub fn line(bytes: &[u8], max_chars: usize) -> String {
    let cleaned = clean(bytes);
    let words: Vec<&str> = cleaned.split_whitespace().collect();
    cut(&words.join(" "), max_chars)
}

/// Several lines of at most `max_chars` in all: line ends and tabs stay.
#[must_use]
pub fn text(bytes: &[u8], max_chars: usize) -> String {
    cut(&clean(bytes), max_chars)
}

fn cut(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn clean(bytes: &[u8]) -> String {
    let decoded = String::from_utf8_lossy(bytes);
    let mut kept = String::with_capacity(decoded.len());
    let mut chars = decoded.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            '\n' | '\t' => kept.push(c),
            _ if c.is_control() || reorders(c) => {}
            _ => kept.push(c),
        }
    }
    kept
}

/// Zero-width and direction marks, with which a line can be made to read as another (Unicode TR 36).
const fn reorders(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// After ESC: a control sequence (`[` … final byte), an operating system command (`]` … BEL or ESC `\`), or one character.
/// Source: ECMA-48.
fn skip_escape(chars: &mut std::str::Chars<'_>) {
    match chars.next() {
        Some('[') => {
            let _final_byte = chars.find(|c| ('\u{40}'..='\u{7e}').contains(c));
        }
        Some(']' | 'P' | '^' | '_') => {
            let mut previous = ' ';
            let _terminator = chars.find(|&c| {
                let ends = c == '\u{7}' || (previous == '\u{1b}' && c == '\\');
                previous = c;
                ends
            });
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_codes_and_control_characters_do_not_survive() {
        assert_eq!(line(b"\x1b[31mred\x1b[0m \x1b]0;title\x07ok\r\n\x00\x08x", 80), "red ok x");
        assert_eq!(line("a\u{202e}b\u{200b}c\u{9b}31m".as_bytes(), 80), "abc31m");
        assert_eq!(text(b"one\n\ttwo\x1bcthree", 80), "one\n\ttwothree");
    }

    #[test]
    fn binary_and_endless_text_is_cut() {
        assert_eq!(line(&[0xff, 0xfe, b'x'], 80), "\u{fffd}\u{fffd}x");
        assert_eq!(line("äöü".as_bytes(), 2), "äö…");
    }
}
