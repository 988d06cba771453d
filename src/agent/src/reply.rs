//! As much of reading JSON as the answers of a central server need: strings and whole numbers of one object.
//!
//! Pure. Values of other kinds are skipped; what is no JSON object is no answer.

/// Objects and lists within each other; the contract has one level.
const DEPTH: usize = 16;

/// The strings and numbers of a flat object, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply(Vec<(String, Value)>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Text(String),
    Number(u64),
    Other,
}

impl Reply {
    /// `None`: not one JSON object, or followed by something.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut text = Text { rest: std::str::from_utf8(bytes).ok()? };
        text.expect('{')?;
        let mut fields = Vec::new();
        if !text.take('}') {
            loop {
                let name = text.string()?;
                text.expect(':')?;
                fields.push((name, text.value(DEPTH)?));
                if text.take('}') {
                    break;
                }
                text.expect(',')?;
            }
        }
        text.space();
        text.rest.is_empty().then_some(Self(fields))
    }

    /// A string by its name.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|(field, value)| match value {
            Value::Text(text) if field == name => Some(text.as_str()),
            _ => None,
        })
    }

    /// A whole number that is not negative.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.0.iter().find_map(|(field, value)| match value {
            Value::Number(number) if field == name => Some(*number),
            _ => None,
        })
    }
}

struct Text<'a> {
    rest: &'a str,
}

impl Text<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
    }

    fn take(&mut self, wanted: char) -> bool {
        self.space();
        let after = self.rest.strip_prefix(wanted);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn expect(&mut self, wanted: char) -> Option<()> {
        self.take(wanted).then_some(())
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        let depth = depth.checked_sub(1)?;
        self.space();
        match self.rest.chars().next()? {
            '"' => self.string().map(Value::Text),
            '[' => self.list(depth),
            '{' => self.object(depth),
            _ => self.word(),
        }
    }

    fn list(&mut self, depth: usize) -> Option<Value> {
        self.expect('[')?;
        if self.take(']') {
            return Some(Value::Other);
        }
        loop {
            self.value(depth)?;
            if self.take(']') {
                return Some(Value::Other);
            }
            self.expect(',')?;
        }
    }

    fn object(&mut self, depth: usize) -> Option<Value> {
        self.expect('{')?;
        if self.take('}') {
            return Some(Value::Other);
        }
        loop {
            self.string()?;
            self.expect(':')?;
            self.value(depth)?;
            if self.take('}') {
                return Some(Value::Other);
            }
            self.expect(',')?;
        }
    }

    /// A number, `true`, `false` or `null`.
    fn word(&mut self) -> Option<Value> {
        let end = self.rest.find([',', '}', ']', ' ', '\t', '\r', '\n']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        if matches!(word, "true" | "false" | "null") {
            return Some(Value::Other);
        }
        let is_number = word.starts_with(|c: char| c == '-' || c.is_ascii_digit())
            && word.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
        is_number.then(|| match word.parse() {
            Ok(number) if word.bytes().all(|byte| byte.is_ascii_digit()) => Value::Number(number),
            _ => Value::Other,
        })
    }

    fn string(&mut self) -> Option<String> {
        self.expect('"')?;
        let mut out = String::new();
        let mut chars = self.rest.chars();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => out.push(match chars.next()? {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'u' => {
                        let code =
                            (0..4).try_fold(0, |code, _| Some(code << 4 | chars.next()?.to_digit(16)?))?;
                        // Halves of a pair are in none of the fields that are read.
                        char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
                    }
                    plain @ ('"' | '\\' | '/') => plain,
                    _ => return None,
                }),
                c if c < ' ' => return None,
                c => out.push(c),
            }
        }
        self.rest = chars.as_str();
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name_among_others() {
        let text = r#" {"x":[1,{"id":"no"},[]],"id":"a\"\u0041\/","n":null,"interval_ms": 5000 ,"f":-1.5e3}"#;
        let reply = Reply::parse(text.as_bytes()).unwrap();
        assert_eq!(reply.text("id"), Some("a\"A/"));
        assert_eq!(reply.number("interval_ms"), Some(5000));
        assert_eq!((reply.number("f"), reply.text("n"), reply.number("id")), (None, None, None));
        assert_eq!(Reply::parse(b"{}"), Some(Reply::default()));
    }

    #[test]
    fn what_is_no_object_is_no_answer() {
        let deep = "{\"a\":".to_owned() + &"[".repeat(100_000);
        for wrong in
            ["", "[]", "{", "{\"a\"}", "{\"a\":1,}", "{\"a\":1}x", "{\"a\":\"\n\"}", "{\"a\":\"\\q\"}", &deep]
        {
            assert_eq!(Reply::parse(wrong.as_bytes()), None);
        }
    }
}
