//! Sentences for people that name commands between backticks, as our own errors and advice do: on a page those are code.
//!
//! Everything is text: what a server or a person put into the sentence is escaped, between backticks and outside.

use askama::Template;
use askama::filters::HtmlSafe;

/// A sentence on a page.
#[derive(Debug, Clone, Copy, Template)]
#[template(
    ext = "html",
    source = "{% for part in self.parts() %}{% if part.is_code %}<code>{{ part.text }}</code>{% else %}{{ part.text }}{% endif %}{% endfor %}"
)]
pub struct Sentence<'a> {
    text: &'a str,
}

// askama wrote it and escaped what is in it.
impl HtmlSafe for Sentence<'_> {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part<'a> {
    text: &'a str,
    is_code: bool,
}

/// For templates: `{{ crate::web::sentence::of(notice.text) }}`.
pub fn of<'a, T: AsRef<str> + ?Sized>(text: &'a T) -> Sentence<'a> {
    Sentence { text: text.as_ref() }
}

impl<'a> Sentence<'a> {
    /// A backtick without a partner, or with nothing to its partner, is only a backtick.
    fn parts(&self) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        let mut rest = self.text;
        while let Some((before, behind)) = rest.split_once('`') {
            let Some((code, after)) = behind.split_once('`') else { break };
            if code.trim().is_empty() || code.contains('\n') {
                break;
            }
            parts.push(Part { text: before, is_code: false });
            parts.push(Part { text: code, is_code: true });
            rest = after;
        }
        parts.push(Part { text: rest, is_code: false });
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_between_backticks_is_code() {
        assert_eq!(
            of("Look at `journalctl -u ssh`, then `ss -ltn`.").to_string(),
            "Look at <code>journalctl -u ssh</code>, then <code>ss -ltn</code>."
        );
        assert_eq!(of("nothing").to_string(), "nothing");
        assert_eq!(of(&String::new()).to_string(), "");
    }

    #[test]
    fn backticks_without_a_partner_stay_what_they_are() {
        for text in ["one ` alone", "``", "` `", "`two\nlines`"] {
            assert_eq!(of(text).to_string(), text);
        }
        assert_eq!(of("`a` and ` alone").to_string(), "<code>a</code> and ` alone");
    }

    #[test]
    fn hostile_text_is_text_on_both_sides_of_a_backtick() {
        let hostile = "<script>alert(1)</script> `<img src=x onerror=alert(1)>` \"'&</code>` <b>";
        let html = of(hostile).to_string();
        assert!(!html.contains("<script") && !html.contains("<img") && !html.contains("<b>"), "{html}");
        assert_eq!(html.matches('<').count(), 2, "only our own element: {html}");
        assert!(html.contains("<code>&#60;img src=x onerror=alert(1)&#62;</code>"), "{html}");
    }
}
