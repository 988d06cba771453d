//! JSON text to values, bounded: what container engines answer. Knows no engine.

/// Nesting of the deepest answer that an engine gives is 8.
const DEPTH: usize = 32;

/// Values of one text: 5,000 containers with forty values each.
const VALUES: usize = 400_000;

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    Null,
    Bool(bool),
    /// None: a fraction, or beyond 64 bits.
    Number(Option<i64>),
    Text(String),
    List(Vec<Json>),
    /// In the order of the text; a name may stand twice.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// The member of that name. None: there is none, or this is no object.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.iter().find(|(known, _)| known == name).map(|(_, value)| value),
            _ => None,
        }
    }

    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    #[must_use]
    pub const fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => *number,
            _ => None,
        }
    }

    /// The elements of a list; nothing for everything else.
    pub fn items(&self) -> impl Iterator<Item = &Self> {
        match self {
            Self::List(items) => items.as_slice(),
            _ => &[],
        }
        .iter()
    }

    /// The members of an object; nothing for everything else.
    pub fn members(&self) -> impl Iterator<Item = (&str, &Self)> {
        match self {
            Self::Object(members) => members.as_slice(),
            _ => &[],
        }
        .iter()
        .map(|(name, value)| (name.as_str(), value))
    }
}

/// The values that stand one after another in `text`. What follows the first fault is left out; false: there was one.
#[must_use]
pub fn documents(text: &[u8]) -> (Vec<Json>, bool) {
    let mut parser = Parser { text, at: 0, left: VALUES };
    let mut found = Vec::new();
    loop {
        parser.blanks();
        if parser.at >= text.len() {
            return (found, true);
        }
        match parser.value(0) {
            Some(value) => found.push(value),
            None => return (found, false),
        }
    }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    left: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while self.peek().is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn takes(&mut self, wanted: u8) -> bool {
        self.blanks();
        let is_there = self.peek() == Some(wanted);
        self.at += usize::from(is_there);
        is_there
    }

    fn word(&mut self, word: &str, value: Json) -> Option<Json> {
        let rest = self.text.get(self.at..)?;
        rest.starts_with(word.as_bytes()).then(|| {
            self.at += word.len();
            value
        })
    }

    fn value(&mut self, depth: usize) -> Option<Json> {
        self.left = self.left.checked_sub(1)?;
        if depth > DEPTH {
            return None;
        }
        self.blanks();
        match self.peek()? {
            b'{' => self.object(depth),
            b'[' => self.list(depth),
            b'"' => self.string().map(Json::Text),
            b't' => self.word("true", Json::Bool(true)),
            b'f' => self.word("false", Json::Bool(false)),
            b'n' => self.word("null", Json::Null),
            b'-' | b'0'..=b'9' => Some(self.number()),
            _ => None,
        }
    }

    fn object(&mut self, depth: usize) -> Option<Json> {
        self.at += 1;
        let mut members = Vec::new();
        if self.takes(b'}') {
            return Some(Json::Object(members));
        }
        loop {
            self.blanks();
            let name = (self.peek() == Some(b'"')).then(|| self.string()).flatten()?;
            if !self.takes(b':') {
                return None;
            }
            members.push((name, self.value(depth + 1)?));
            if self.takes(b'}') {
                return Some(Json::Object(members));
            }
            if !self.takes(b',') {
                return None;
            }
        }
    }

    fn list(&mut self, depth: usize) -> Option<Json> {
        self.at += 1;
        let mut items = Vec::new();
        if self.takes(b']') {
            return Some(Json::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.takes(b']') {
                return Some(Json::List(items));
            }
            if !self.takes(b',') {
                return None;
            }
        }
    }

    fn number(&mut self) -> Json {
        let start = self.at;
        while self
            .peek()
            .is_some_and(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E'))
        {
            self.at += 1;
        }
        let digits = self.text.get(start..self.at).and_then(|text| std::str::from_utf8(text).ok());
        Json::Number(digits.and_then(|digits| digits.parse().ok()))
    }

    /// From the quotation mark on.
    fn string(&mut self) -> Option<String> {
        self.at += 1;
        let mut bytes = Vec::new();
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return Some(String::from_utf8_lossy(&bytes).into_owned()),
                b'\\' => {
                    let escaped = self.escape()?;
                    bytes.extend_from_slice(escaped.encode_utf8(&mut [0; 4]).as_bytes());
                }
                byte => bytes.push(byte),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let byte = self.peek()?;
        self.at += 1;
        Some(match byte {
            b'n' => '\n',
            b't' => '\t',
            b'r' => '\r',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'u' => return self.unicode(),
            byte => char::from(byte),
        })
    }

    /// Half a surrogate pair becomes U+FFFD.
    fn unicode(&mut self) -> Option<char> {
        let first = self.hex()?;
        let is_pair = (0xd800..0xdc00).contains(&first)
            && self.text.get(self.at..).is_some_and(|rest| rest.starts_with(b"\\u"));
        if !is_pair {
            return Some(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        self.at += 2;
        let second = self.hex()?;
        let both = second.checked_sub(0xdc00).filter(|low| *low < 0x400);
        let code = both.map(|low| 0x1_0000 + ((first - 0xd800) << 10) + low);
        Some(code.and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        self.at += 4;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_one_after_another_are_read_with_escapes() {
        let (found, whole) = documents(br#" {"a":[1,-2.5,true,null],"b":"x\"\u00e9\ud83d\ude00\n"} [] "#);
        assert!(whole && found.len() == 2);
        let a: Vec<_> = found[0].get("a").unwrap().items().cloned().collect();
        assert_eq!(a, [Json::Number(Some(1)), Json::Number(None), Json::Bool(true), Json::Null]);
        assert_eq!(found[0].get("b").unwrap().text(), Some("x\"\u{e9}\u{1f600}\n"));
    }

    #[test]
    fn what_is_broken_or_too_deep_ends_the_text() {
        for text in ["{", "{\"a\"", "[1,", "\"a", "\"\\u12", "nul", "{\"a\" 1}", "?", &"[".repeat(100_000)] {
            let (found, whole) = documents(text.as_bytes());
            assert!(found.is_empty() && !whole, "{}", &text[..text.len().min(20)]);
        }
        assert_eq!(documents(b"1 {").0, [Json::Number(Some(1))]);
    }
}
