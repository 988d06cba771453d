//! Hides what looks like a secret in a command before it is recorded or shown.
//!
//! A help, not a promise: nobody can know every way to write a password into a command.

/// Words whose value is a secret: after `=`, `:` or a blank.
const WORDS: [&str; 11] = [
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
    "authorization: basic",
];
const HIDDEN: &str = "*****";

/// The command with the values of `--password x`, `PASSWORD='x y'`, `token: x`, `Bearer x` and of `://user:x@` replaced.
#[must_use]
pub fn mask(command: &str) -> String {
    let lower = command.to_ascii_lowercase();
    let mut out = String::with_capacity(command.len());
    let mut at = 0;
    while let Some(rest) = command.get(at..).filter(|rest| !rest.is_empty()) {
        let here = lower.get(at..).unwrap_or_default();
        let value = match WORDS.iter().find(|word| here.starts_with(**word)) {
            Some(word) => value_after_word(rest, word.len()),
            None => value_in_address(rest),
        };
        match value {
            Some((start, end)) => {
                out.push_str(rest.get(..start).unwrap_or_default());
                out.push_str(HIDDEN);
                at += end;
            }
            None => {
                let step = rest.chars().next().map_or(1, char::len_utf8);
                out.push_str(rest.get(..step).unwrap_or_default());
                at += step;
            }
        }
    }
    out
}

/// Where the value begins and ends after a secret word at the start of `text`. None: there is none.
fn value_after_word(text: &str, word_len: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut at = word_len;
    // The rest of the name: PASSWORD_ROOT, --token-file.
    while bytes.get(at).is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) {
        at += 1;
    }
    let name_end = at;
    while bytes.get(at).is_some_and(|b| matches!(b, b'=' | b':' | b' ')) {
        at += 1;
    }
    if at == name_end {
        return None;
    }
    let quote = bytes.get(at).copied().filter(|b| matches!(b, b'"' | b'\''));
    if quote.is_some() {
        at += 1;
    }
    let value = text.get(at..)?;
    let length = match quote {
        Some(quote) => value.find(char::from(quote)).unwrap_or(value.len()),
        None => value
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ';' | '&' | '|'))
            .unwrap_or(value.len()),
    };
    (length > 0).then_some((at, at + length))
}

/// The password of `://user:password@` at the start of `text`.
fn value_in_address(text: &str) -> Option<(usize, usize)> {
    let rest = text.strip_prefix("://")?;
    let authority = rest.split(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'')).next()?;
    let (login, _) = authority.rsplit_once('@')?;
    let (user, password) = login.split_once(':')?;
    let start = "://".len() + user.len() + 1;
    (!password.is_empty()).then_some((start, start + password.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_look_like_secrets_are_hidden() {
        let cases = [
            ("mysql --password=p@ssw0rd -e x", "mysql --password=***** -e x"),
            ("PGPASSWORD=hunter2 psql", "PGPASSWORD=***** psql"),
            (
                "curl -H 'Authorization: Bearer abc.def' http://x",
                "curl -H 'Authorization: Bearer *****' http://x",
            ),
            ("curl -H 'authorization: basic YWxh' x", "curl -H 'authorization: basic *****' x"),
            ("login --token abc --token def", "login --token ***** --token *****"),
            ("export API_KEY='a b'; run", "export API_KEY='*****'; run"),
            ("PASSWORD='correct horse' run", "PASSWORD='*****' run"),
            ("git clone https://me:s3cret@host/x", "git clone https://me:*****@host/x"),
            ("uptime; echo üß", "uptime; echo üß"),
            ("passwd", "passwd"),
        ];
        for (command, masked) in cases {
            assert_eq!(mask(command), masked);
        }
    }

    #[test]
    fn a_long_command_full_of_secrets_is_masked_quickly() {
        let command = "token=a ".repeat(8 * 1024);
        let begun = std::time::Instant::now();
        assert_eq!(mask(&command).matches(HIDDEN).count(), 8 * 1024);
        assert!(begun.elapsed() < std::time::Duration::from_secs(2));
    }
}
