//! Fields of forms: a label, what was typed, and what is wrong with it.

use askama::Template;
use askama::filters::HtmlSafe;

use super::Choice;

/// Why one field was refused, in a sentence that says what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldProblem {
    /// The field's name in the form.
    pub field: String,
    pub sentence: String,
}

/// One `<input>`, `<textarea>` or `<select>` with its label.
#[derive(Debug, Clone, PartialEq, Eq, Template)]
#[template(path = "partials/field.html")]
pub struct Field {
    name: &'static str,
    label: &'static str,
    kind: Kind,
    value: String,
    placeholder: &'static str,
    hint: &'static str,
    max_chars: u32,
    is_required: bool,
    problem: Option<String>,
}

// askama wrote it and escaped what is in it.
impl HtmlSafe for Field {}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Line,
    Number { least: u32, most: u32 },
    Lines,
    Password,
    Choice(Vec<Choice>),
    Flag,
    Packed { most_bytes: u32 },
}

impl Field {
    /// A line of text of at most `max_chars`.
    #[must_use]
    pub fn line(name: &'static str, label: &'static str, value: &str, max_chars: u32) -> Self {
        Self {
            name,
            label,
            kind: Kind::Line,
            value: value.to_owned(),
            placeholder: "",
            hint: "",
            max_chars,
            is_required: false,
            problem: None,
        }
    }

    #[must_use]
    pub fn lines(name: &'static str, label: &'static str, value: &str, max_chars: u32) -> Self {
        Self { kind: Kind::Lines, ..Self::line(name, label, value, max_chars) }
    }

    #[must_use]
    pub fn number(name: &'static str, label: &'static str, value: &str, least: u32, most: u32) -> Self {
        Self { kind: Kind::Number { least, most }, ..Self::line(name, label, value, 10) }
    }

    /// Never filled in: what was typed does not come back.
    #[must_use]
    pub fn password(name: &'static str, label: &'static str) -> Self {
        Self { kind: Kind::Password, ..Self::line(name, label, "", 1024) }
    }

    /// One of several words.
    #[must_use]
    pub fn choice(name: &'static str, label: &'static str, choices: Vec<Choice>) -> Self {
        Self { kind: Kind::Choice(choices), ..Self::line(name, label, "", 0) }
    }

    /// A check box that sends `true`, or nothing.
    #[must_use]
    pub fn flag(name: &'static str, label: &'static str, is_set: bool) -> Self {
        Self { kind: Kind::Flag, ..Self::line(name, label, if is_set { "true" } else { "" }, 0) }
    }

    /// A file of at most `most_bytes`, sent in Base64; without scripts it is typed so. What was chosen comes back.
    #[must_use]
    pub fn packed(name: &'static str, label: &'static str, value: &str, most_bytes: u32) -> Self {
        // Base64 takes four signs for three bytes, and line ends may stand in what is pasted.
        let max_chars = most_bytes.div_ceil(3).saturating_mul(4) / 60 * 61 + 61;
        Self { kind: Kind::Packed { most_bytes }, ..Self::line(name, label, value, max_chars) }
    }

    /// What a chosen file says where its name is not known any more.
    fn packed_said(&self) -> String {
        let signs = self.value.bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != b'=').count();
        let bytes = u64::try_from(signs * 3 / 4).unwrap_or(u64::MAX);
        if bytes == 0 {
            String::new()
        } else {
            format!("{} bytes are chosen", super::super::view::whole(bytes))
        }
    }

    #[must_use]
    pub const fn hint(mut self, hint: &'static str) -> Self {
        self.hint = hint;
        self
    }

    #[must_use]
    pub const fn placeholder(mut self, placeholder: &'static str) -> Self {
        self.placeholder = placeholder;
        self
    }

    #[must_use]
    pub const fn required(mut self) -> Self {
        self.is_required = true;
        self
    }

    /// With what was found wrong with it, if anything was.
    #[must_use]
    pub fn judged(mut self, problems: &[FieldProblem]) -> Self {
        self.problem = problems
            .iter()
            .find(|problem| problem.field == self.name)
            .map(|problem| problem.sentence.clone());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_keeps_what_was_typed_and_says_what_is_wrong() {
        let problem = FieldProblem { field: "port".to_owned(), sentence: "'0' is not a port".to_owned() };
        let html = Field::line("port", "Port", "\"><script>", 10).required().judged(&[problem]).to_string();
        assert!(
            html.contains("value=\"&#34;&#62;&#60;script&#62;\"")
                && html.contains("&#39;0&#39; is not a port")
        );
        assert!(html.contains("aria-invalid=\"true\"") && html.contains("required"));
    }

    #[test]
    fn a_choice_and_a_check_box_keep_what_was_chosen() {
        let words = ["a", "b"].map(|word| Choice::of(word, word, "b"));
        let html = Field::choice("mode", "Mode", words.to_vec()).to_string();
        assert!(html.contains("<option value=\"b\" selected>") && html.contains("<option value=\"a\">"));
        assert!(Field::flag("sudo", "As root", true).to_string().contains("value=\"true\" checked"));
        assert!(!Field::flag("sudo", "As root", false).to_string().contains("checked"));
    }

    #[test]
    fn a_file_is_chosen_or_typed_in_base64_and_comes_back() {
        let html = Field::packed("content_base64", "A file", "AP8=", 1_048_576).to_string();
        for part in [
            "data-packed-into=\"content_base64\"",
            "data-most-bytes=\"1048576\"",
            "3 bytes",
            "AP8=</textarea>",
        ] {
            let part = part.replace("3 bytes", "2 bytes are chosen");
            assert!(html.contains(&part), "{part}: {html}");
        }
    }

    #[test]
    fn a_password_never_comes_back() {
        assert!(!Field::password("password", "Password").to_string().contains("value="));
    }
}
