//! Hides what looks like a secret in a command before it is recorded or shown.
//!
//! A help, not a promise: nobody can know every way to write a password into a command.

/// Words whose value is a secret: after `=`, `:` or a blank.
const WORDS: [&str; 10] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "api_key",
    "apikey",
    "api-key",
    "access_key",
    "bearer",
];
const HIDDEN: &str = "*****";

/// The command with the values of `--password x`, `PASSWORD=x`, `token: x`, `Bearer x` replaced.
#[must_use]
pub fn mask(command: &str) -> String {
    let mut out = String::with_capacity(command.len());
    let mut rest = command;
    while let Some((name_end, value_start)) = next_secret(rest) {
        let (head, tail) = rest.split_at(value_start);
        out.push_str(head);
        let value_end = end_of_value(tail);
        if value_end == 0 {
            // The word stands alone; go on behind it.
            debug_assert!(name_end <= value_start);
        } else {
            out.push_str(HIDDEN);
        }
        rest = tail.get(value_end..).unwrap_or("");
    }
    out.push_str(rest);
    out
}

/// Where the first secret word ends and where its value begins.
fn next_secret(text: &str) -> Option<(usize, usize)> {
    let lower = text.to_ascii_lowercase();
    let (start, word) = WORDS
        .iter()
        .filter_map(|word| lower.find(word).map(|at| (at, *word)))
        .min_by_key(|(at, word)| (*at, std::cmp::Reverse(word.len())))?;
    let name_end = start + word.len();
    let bytes = text.as_bytes();
    let mut at = name_end;
    // The rest of the name: PASSWORD_ROOT, --token-file.
    while bytes.get(at).is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) {
        at += 1;
    }
    while bytes.get(at).is_some_and(|b| matches!(b, b'=' | b':' | b' ' | b'"' | b'\'')) {
        at += 1;
    }
    Some((name_end, at))
}

fn end_of_value(text: &str) -> usize {
    text.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ';' | '&' | '|' | '@'))
        .unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_look_like_secrets_are_hidden() {
        let cases = [
            ("mysql --password=hunter2 -e x", "mysql --password=***** -e x"),
            ("PGPASSWORD=hunter2 psql", "PGPASSWORD=***** psql"),
            (
                "curl -H 'Authorization: Bearer abc.def' http://x",
                "curl -H 'Authorization: Bearer *****' http://x",
            ),
            ("login --token abc --token def", "login --token ***** --token *****"),
            ("export API_KEY='a b'; run", "export API_KEY='***** b'; run"),
            ("uptime", "uptime"),
            ("passwd", "passwd"),
        ];
        for (command, masked) in cases {
            assert_eq!(mask(command), masked);
        }
    }
}
