//! Patterns of Host and Match: `*`, `?`, `!`.

use crate::ssh::known_hosts::glob;

/// One word of a Host line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) text: String,
    pub(super) is_negated: bool,
}

impl Pattern {
    pub(super) fn parse(word: &str) -> Self {
        match word.strip_prefix('!') {
            Some(text) => Self { text: text.to_owned(), is_negated: true },
            None => Self { text: word.to_owned(), is_negated: false },
        }
    }

    /// The name that it is, if it is no pattern.
    pub(super) fn name(&self) -> Option<&str> {
        (!self.is_negated && !self.text.contains(['*', '?'])).then_some(self.text.as_str())
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        glob(self.text.as_bytes(), name.as_bytes())
    }
}

/// A list as in `Match host a,*.b,!c`: something fits, and nothing that is negated does.
pub(super) fn list_matches(list: &str, text: &str) -> bool {
    let mut fits = false;
    for pattern in list.split(',').map(Pattern::parse) {
        if pattern.matches(text) {
            if pattern.is_negated {
                return false;
            }
            fits = true;
        }
    }
    fits
}
