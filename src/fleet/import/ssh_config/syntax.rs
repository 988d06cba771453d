//! Lines of ssh_config: keyword, words, quotes, comments, and the files of Include.

use super::super::found::{Files, Findings, Place, VALUE_BYTES, word};
use super::glob::Pattern;
use super::options::{self, Meaning};
use super::resolve::Criterion;
use super::{INCLUDE_DEPTH, LINES, Statement};

/// Longer patterns are no host names (RFC 1035: 253) and only cost time.
const PATTERN_BYTES: usize = 1024;

/// Reads files into statements, and says what is wrong with which line.
pub(super) struct Reader<'a> {
    files: Option<&'a dyn Files>,
    findings: &'a mut Findings,
    lines: usize,
    /// Patterns of IgnoreUnknown so far.
    ignored: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(files: Option<&'a dyn Files>, findings: &'a mut Findings) -> Self {
        Self { files, findings, lines: 0, ignored: Vec::new() }
    }

    pub(super) fn statements(&mut self, text: &str, file: Option<&str>, depth: usize) -> Vec<Statement> {
        let mut statements = Vec::new();
        for (index, line) in text.lines().enumerate() {
            self.lines += 1;
            let at = Place::in_file(file, index + 1);
            if self.lines > LINES {
                self.findings.invalid(at, "text", format!("more than {LINES} lines in all files together"));
                return statements;
            }
            if self.findings.is_full() {
                return statements;
            }
            let line = line.trim_end_matches([' ', '\t', '\r', '\n', '\u{c}']);
            if let Some((keyword, rest)) = keyword(line) {
                statements.extend(self.statement(keyword, rest, at, depth));
            }
        }
        statements
    }

    fn statement(&mut self, shown: &str, rest: &str, at: Place, depth: usize) -> Option<Statement> {
        let keyword = shown.to_ascii_lowercase();
        if rest.is_empty() {
            self.findings.invalid(at, "line", format!("{} has no value", word(shown)));
            return None;
        }
        let Some(words) = split(rest) else {
            self.findings.invalid(at, "line", "a quotation mark is not closed");
            return None;
        };
        match keyword.as_str() {
            "host" => {
                if words.iter().any(|word| word.is_empty() || word.len() > PATTERN_BYTES) {
                    self.findings.invalid(at, "Host", "a name is empty or too long");
                    return Some(Statement::Host { at: Place::default(), patterns: Vec::new() });
                }
                Some(Statement::Host {
                    at,
                    patterns: words.iter().map(|word| Pattern::parse(word)).collect(),
                })
            }
            "match" => Some(Statement::Match { criteria: self.criteria(rest, at) }),
            "include" => self.include(&words, &at, depth),
            "ignoreunknown" => {
                self.ignored.extend(words.first().map(|list| list.to_ascii_lowercase()));
                None
            }
            _ if rest.len() > VALUE_BYTES => {
                let message = format!("{} has more than {VALUE_BYTES} bytes", word(shown));
                self.findings.invalid(at, "line", message);
                None
            }
            _ => self.option(&keyword, shown, &words, rest, at),
        }
    }

    fn option(
        &mut self,
        keyword: &str,
        shown: &str,
        words: &[String],
        rest: &str,
        at: Place,
    ) -> Option<Statement> {
        match options::meaning(keyword, shown, words, rest) {
            Meaning::Take(setting) => return Some(Statement::Set { at, setting }),
            Meaning::Quiet => {}
            Meaning::Note(text) => self.findings.note(at, text),
            // Servers that need the command are told apart when they are resolved.
            Meaning::Unsupported(what) if keyword == "proxycommand" => {
                self.findings.unsupported(at.clone(), what);
                let command = rest.trim_start_matches([' ', '\t', '=']).to_owned();
                return Some(Statement::Set { at, setting: options::Setting::ProxyCommand(command) });
            }
            Meaning::Unsupported(what) => self.findings.unsupported(at, what),
            Meaning::Invalid(message) => {
                if self.ignored.iter().any(|list| super::glob::list_matches(list, keyword)) {
                    self.findings.note(at, format!("'{}' is left out, as IgnoreUnknown says", word(shown)));
                } else {
                    self.findings.invalid(at, "line", message);
                }
            }
        }
        None
    }

    /// None: whether it applies is not known, so it does not.
    fn criteria(&mut self, rest: &str, at: Place) -> Option<Vec<Criterion>> {
        match criteria(rest) {
            Ok(criteria) => Some(criteria),
            Err(Refused::Unsupported(what)) => {
                let what = format!("Match {}: what stands below it is left out", word(&what));
                self.findings.unsupported(at, what);
                None
            }
            Err(Refused::Invalid(message)) => {
                self.findings.invalid(at, "Match", message);
                None
            }
        }
    }

    fn include(&mut self, patterns: &[String], at: &Place, depth: usize) -> Option<Statement> {
        let Some(files) = self.files else {
            let shown = word(patterns.first().map_or("", String::as_str));
            let what = format!(
                "Include {shown}: only the command line follows Include; run 'roundsman import --ssh-config' where the files are"
            );
            self.findings.unsupported(at.clone(), what);
            return None;
        };
        if depth >= INCLUDE_DEPTH {
            self.findings.invalid(
                at.clone(),
                "Include",
                format!("more than {INCLUDE_DEPTH} files one from another"),
            );
            return None;
        }
        let mut included = Vec::new();
        for pattern in patterns {
            match files.include(pattern) {
                Ok(found) => {
                    if found.is_empty() {
                        self.findings
                            .note(at.clone(), format!("Include {}: there is no such file", word(pattern)));
                    }
                    for (path, text) in found {
                        if self.lines > LINES {
                            break;
                        }
                        included.push(self.statements(&text, Some(&path), depth + 1));
                    }
                }
                Err(why) => self.findings.invalid(at.clone(), "Include", why),
            }
        }
        Some(Statement::Include { files: included })
    }
}

enum Refused {
    Unsupported(String),
    Invalid(String),
}

/// The conditions of a Match line, as match_cfg_line of OpenSSH reads them.
fn criteria(rest: &str) -> Result<Vec<Criterion>, Refused> {
    let mut rest = rest;
    let mut criteria = Vec::new();
    while let Some(attribute) = delimited(&mut rest)? {
        let (is_negated, name) = match attribute.strip_prefix('!') {
            Some(name) => (true, name.to_ascii_lowercase()),
            None => (false, attribute.to_ascii_lowercase()),
        };
        if name == "all" {
            if !criteria.is_empty() || delimited(&mut rest)?.is_some() {
                return Err(Refused::Invalid("'all' stands alone".to_owned()));
            }
            return Ok(vec![Criterion::All { is_negated }]);
        }
        if matches!(name.as_str(), "canonical" | "final") {
            return Err(Refused::Unsupported(name));
        }
        let Some(list) = delimited(&mut rest)? else {
            return Err(Refused::Invalid(format!("'{}' has no value", word(&attribute))));
        };
        if list.len() > PATTERN_BYTES {
            return Err(Refused::Invalid("a pattern is too long".to_owned()));
        }
        criteria.push(match name.as_str() {
            "host" => Criterion::Host { is_negated, list: list.to_ascii_lowercase() },
            "originalhost" => Criterion::OriginalHost { is_negated, list: list.to_ascii_lowercase() },
            "user" => Criterion::User { is_negated, list },
            "localuser" => Criterion::LocalUser { is_negated, list },
            "exec" | "localnetwork" | "tagged" | "version" | "sessiontype" | "command" => {
                return Err(Refused::Unsupported(name));
            }
            _ => return Err(Refused::Invalid(format!("'{}' is no condition", word(&attribute)))),
        });
    }
    if criteria.is_empty() {
        return Err(Refused::Invalid("Match has no condition".to_owned()));
    }
    Ok(criteria)
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

/// Keyword and the rest of a line. None: an empty line or a comment.
pub(super) fn keyword(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start_matches([' ', '\t']);
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    if let Some(quoted) = line.strip_prefix('"') {
        let (keyword, rest) = quoted.split_once('"').unwrap_or((quoted, ""));
        return Some((keyword, rest.trim_start_matches(is_blank)));
    }
    let end = line.find(|c| is_blank(c) || c == '=' || c == '"').unwrap_or(line.len());
    let (keyword, rest) = line.split_at(end);
    let rest = rest.trim_start_matches(is_blank);
    // One equals sign belongs to the keyword.
    let rest = rest.strip_prefix('=').unwrap_or(rest);
    Some((keyword, rest.trim_start_matches(is_blank)))
}

/// One word of a Match line: separated by blanks or one `=`, perhaps in double quotes; a `#` ends it all.
fn delimited(rest: &mut &str) -> Result<Option<String>, Refused> {
    let text = rest.trim_start_matches(is_blank);
    if text.is_empty() || text.starts_with('#') {
        *rest = "";
        return Ok(None);
    }
    if let Some(quoted) = text.strip_prefix('"') {
        let (word, after) = quoted
            .split_once('"')
            .ok_or_else(|| Refused::Invalid("a quotation mark is not closed".to_owned()))?;
        *rest = after;
        return Ok(Some(word.to_owned()));
    }
    let end = text.find(|c| is_blank(c) || c == '=').unwrap_or(text.len());
    let (word, after) = text.split_at(end);
    let after = after.trim_start_matches(is_blank);
    *rest = after.strip_prefix('=').unwrap_or(after);
    Ok(Some(word.to_owned()))
}

/// Words with quotes and escapes as argv_split of OpenSSH has them. None: a quotation mark is not closed.
pub(super) fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| is_blank(*c)).is_some() {}
        match chars.peek() {
            None | Some('#') => return Some(words),
            Some(_) => {}
        }
        let mut word = String::new();
        let mut quote = None;
        while let Some(c) = chars.next() {
            match c {
                '\\' => {
                    let escaped = chars
                        .next_if(|next| matches!(next, '\'' | '"' | '\\') || quote.is_none() && *next == ' ');
                    word.push(escaped.unwrap_or('\\'));
                }
                c if quote.is_none() && is_blank(c) => break,
                '"' | '\'' if quote.is_none() => quote = Some(c),
                c if quote == Some(c) => quote = None,
                c => word.push(c),
            }
        }
        if quote.is_some() {
            return None;
        }
        words.push(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_the_quotes_and_escapes_of_openssh() {
        let words = |text: &str| split(text).unwrap();
        assert_eq!(words(r#"a "b c" 'd "e' f\ g"#), ["a", "b c", "d \"e", "f g"]);
        assert_eq!(words("a #b c"), ["a"]);
        assert_eq!(words("a#b"), ["a#b"]);
        assert_eq!(words(r"a\\b \q"), ["a\\b", "\\q"]);
        assert_eq!(split("\"a"), None);
    }

    #[test]
    fn a_keyword_may_be_followed_by_an_equals_sign() {
        assert_eq!(keyword("  Port=22"), Some(("Port", "22")));
        assert_eq!(keyword("Port = 22"), Some(("Port", "22")));
        assert_eq!(keyword("\tUser joe"), Some(("User", "joe")));
        assert_eq!(keyword("\"User\" joe"), Some(("User", "joe")));
        assert_eq!(keyword("  # Host x"), None);
        assert_eq!(keyword("Host"), Some(("Host", "")));
    }
}
