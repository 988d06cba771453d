//! The one place that quotes a word for a remote shell.
//!
//! Every command line that holds a value goes through here; nothing else joins strings into a command.

/// A value that no shell can take as a word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotQuote {
    /// A shell word ends at a NUL byte, so what follows it would be lost or run as something else.
    #[error("the text contains a NUL byte, which no shell accepts; remove it")]
    Nul,
}

/// `text` as one word of a POSIX shell command line, whatever it contains (line ends too).
///
/// # Errors
/// [`CannotQuote::Nul`]: the text holds a NUL byte.
pub fn quote(text: &str) -> Result<String, CannotQuote> {
    shlex::try_quote(text).map(std::borrow::Cow::into_owned).map_err(|_| CannotQuote::Nul)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn through_a_shell(text: &str) -> String {
        let script = format!("printf '%s.' {}", quote(text).unwrap());
        let output = Command::new("/bin/sh").arg("-c").arg(script).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_quoted_word_reaches_the_program_unchanged() {
        for text in
            ["", " ", "it's", "a\"b$HOME`id`!", "two\nlines\n", "*", "-n", "~", "\\", "ü€", "#x", "a;b&c|d"]
        {
            assert_eq!(through_a_shell(text), format!("{text}."), "{text:?}");
        }
    }

    #[test]
    fn a_nul_byte_is_refused() {
        assert_eq!(quote("a\0b"), Err(CannotQuote::Nul));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_text_survives_quoting(text in "[^\0]{0,40}") {
            prop_assert_eq!(shlex::split(&quote(&text).unwrap()), Some(vec![text]));
        }
    }
}
