//! What was sent to a server and what it said, in the way that every page shows it: always as text.

use askama::Template;
use askama::filters::HtmlSafe;

use crate::model::{OperationStatus, TargetStatus};
use crate::store::operations::CommandRecord;
use crate::web::view::{self, Value};

use super::Badge;

/// The end of one output stream, with what is missing before and after it.
#[derive(Debug, Clone, PartialEq, Eq, Template)]
#[template(path = "partials/printed.html")]
pub(super) struct Printed {
    title: &'static str,
    server: String,
    is_error: bool,
    text: String,
    /// What stood before it and is not shown here.
    cut: Option<String>,
    /// What came after it and was never kept.
    dropped: Option<String>,
}

// askama wrote it and escaped what is in it.
impl HtmlSafe for Printed {}

impl Printed {
    /// None: the stream was empty.
    pub(super) fn stdout(record: &CommandRecord, most_bytes: usize) -> Option<Self> {
        Self::end_of(("Output", false), record, &record.stdout, record.stdout_dropped_bytes, most_bytes)
    }

    /// None: the stream was empty.
    pub(super) fn stderr(record: &CommandRecord, most_bytes: usize) -> Option<Self> {
        Self::end_of(("Error output", true), record, &record.stderr, record.stderr_dropped_bytes, most_bytes)
    }

    /// The end is kept: there stands what went wrong.
    fn end_of(
        (title, is_error): (&'static str, bool),
        record: &CommandRecord,
        text: &str,
        dropped_bytes: u64,
        most_bytes: usize,
    ) -> Option<Self> {
        if text.is_empty() && dropped_bytes == 0 {
            return None;
        }
        let from = start_of_end(text, most_bytes);
        let kept = text.get(from..).unwrap_or_default();
        Some(Self {
            title,
            server: record.server_name.clone(),
            is_error,
            text: kept.to_owned(),
            cut: (from > 0).then(|| format!("The first {} are not shown here.", size(from))),
            dropped: (dropped_bytes > 0).then(|| {
                format!(
                    "{} more came after the limit and were not kept.",
                    size(usize::try_from(dropped_bytes).unwrap_or(usize::MAX))
                )
            }),
        })
    }
}

/// Where the last `most_bytes` begin: at a line, if there is one.
fn start_of_end(text: &str, most_bytes: usize) -> usize {
    let Some(surplus) = text.len().checked_sub(most_bytes).filter(|surplus| *surplus > 0) else { return 0 };
    let at = (surplus..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    let rest = text.get(at..).unwrap_or_default();
    match rest.find('\n') {
        Some(line) if line + 1 < rest.len() => at + line + 1,
        _ => at,
    }
}

#[expect(clippy::cast_precision_loss, reason = "sizes are shown with three digits")]
fn size(bytes: usize) -> String {
    view::bytes(Some(bytes as f64)).text.unwrap_or_default()
}

/// A command as it was sent. What a reader could not see, or would see elsewhere than it stands, is written out:
/// `\u{1b}`.
pub(super) fn exact(command: &str) -> String {
    let hidden = |c: char| {
        (c.is_control() && !matches!(c, '\n' | '\t'))
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let mut out = String::with_capacity(command.len());
    for c in command.chars() {
        if hidden(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// `0.4 ms`, `1.20 s`, `3 min`.
#[expect(clippy::cast_precision_loss, reason = "spans are shown with three digits")]
pub(super) fn took(milliseconds: u64) -> Value {
    if milliseconds < 60_000 {
        view::milliseconds(Some(milliseconds as f64))
    } else {
        view::duration(Some(milliseconds as f64 / 1000.0))
    }
}

/// How a command ended, in words. None: that is not known (yet), or another sentence says it.
pub(super) fn exit(record: &CommandRecord) -> Option<String> {
    match (record.exit_status, &record.signal) {
        (Some(status), _) => Some(format!("exit status {status}")),
        (None, Some(signal)) => Some(format!("ended by signal {}", view::clean(signal, 40))),
        (None, None) => None,
    }
}

impl Badge {
    #[must_use]
    pub(super) const fn operation(status: OperationStatus) -> Self {
        let (class, icon, text) = match status {
            OperationStatus::Pending => ("is-neutral", "clock", "Pending"),
            OperationStatus::Running => ("is-running", "activity", "Running"),
            OperationStatus::Completed => ("is-healthy", "circle-check", "Completed"),
            OperationStatus::Failed => ("is-critical", "octagon-x", "Failed"),
            OperationStatus::Partial => ("is-degraded", "triangle-alert", "Partial"),
            OperationStatus::Cancelled => ("is-neutral", "circle-minus", "Cancelled"),
        };
        Self { class, icon, text }
    }

    #[must_use]
    pub(super) const fn target(status: TargetStatus) -> Self {
        let (class, icon, text) = match status {
            TargetStatus::Pending => ("is-neutral", "clock", "Pending"),
            TargetStatus::Sent => ("is-running", "activity", "Running"),
            TargetStatus::Succeeded => ("is-healthy", "circle-check", "Succeeded"),
            TargetStatus::Failed => ("is-critical", "octagon-x", "Failed"),
            TargetStatus::Unreachable => ("is-unreachable", "unplug", "Unreachable"),
            TargetStatus::Unknown => ("is-degraded", "circle-question-mark", "Unknown"),
            TargetStatus::Cancelled => ("is-neutral", "circle-minus", "Cancelled"),
            TargetStatus::Skipped => ("is-neutral", "circle-minus", "Skipped"),
        };
        Self { class, icon, text }
    }

    /// How a recorded command stands.
    pub(super) fn record(record: &CommandRecord) -> Self {
        match record {
            CommandRecord { exit_status: Some(0), .. } => Self::target(TargetStatus::Succeeded),
            CommandRecord { exit_status: Some(_), .. } | CommandRecord { signal: Some(_), .. } => {
                Self::target(TargetStatus::Failed)
            }
            CommandRecord { duration_ms: None, error: None, .. } => Self::target(TargetStatus::Sent),
            // Interrupted by a stop of Roundsman: how it ended was never seen.
            CommandRecord { duration_ms: None, .. } => Self::target(TargetStatus::Unknown),
            _ => Self { class: "is-neutral", icon: "circle-minus", text: "Not finished" },
        }
    }
}

/// Newer and older pages of a list, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Template)]
#[template(
    ext = "html",
    source = "{% if page > 1 || has_more %}<nav class=\"pager\" aria-label=\"Pages\">{% if page > 1 %}<a class=\"button small\" rel=\"prev\" href=\"?page={{ page - 1 }}\">Newer</a>{% endif %}<span class=\"soft\">Page {{ page }}</span>{% if has_more %}<a class=\"button small\" rel=\"next\" href=\"?page={{ page + 1 }}\">Older</a>{% endif %}</nav>{% endif %}"
)]
pub struct Pager {
    page: u32,
    has_more: bool,
}

// askama wrote it; only numbers are in it.
impl HtmlSafe for Pager {}

impl Pager {
    /// Pages beyond this one hold nothing: retention ends earlier.
    const MOST: u32 = 100_000;

    /// From the `page` of a query string; what is no number is the first page.
    #[must_use]
    pub fn of(text: Option<&str>) -> Self {
        let page = text.and_then(|text| text.parse().ok()).unwrap_or(1);
        Self { page: u32::clamp(page, 1, Self::MOST), has_more: false }
    }

    /// Limit and offset of the rows to fetch: one more than are shown, to know whether there are more.
    #[must_use]
    pub const fn window(self, per_page: u32) -> (u32, u32) {
        (per_page + 1, (self.page - 1).saturating_mul(per_page))
    }

    pub(super) const fn page(self) -> u32 {
        self.page
    }

    /// The pages before and after this one, where there are such.
    pub(super) fn turns(self) -> (Option<u32>, Option<u32>) {
        ((self.page > 1).then(|| self.page - 1), self.has_more.then(|| self.page + 1))
    }

    /// The fetched rows of this page, and the pager that knows whether there are more.
    pub(super) fn split<T>(mut self, fetched: &[T], per_page: u32) -> (Self, &[T]) {
        let most = usize::try_from(per_page).unwrap_or(usize::MAX);
        self.has_more = fetched.len() > most;
        (self, fetched.get(..most).unwrap_or(fetched))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::pages::samples::record;

    #[test]
    fn long_output_keeps_its_end_from_a_line_on_and_says_what_is_missing() {
        let lines: String = (0..1000).map(|number| format!("line {number} ünd\n")).collect();
        let mut record = record("web-1");
        record.stdout = lines;
        record.stdout_dropped_bytes = 5000;
        let printed = Printed::stdout(&record, 100).unwrap();
        assert!(printed.text.len() <= 100 && printed.text.ends_with("line 999 ünd\n"));
        assert!(printed.text.starts_with("line "));
        let html = printed.to_string().replace('\u{a0}', " ");
        assert!(
            html.contains("The first 13.5 KiB") && html.contains("4.88 KiB more came after the limit"),
            "{html}"
        );
        let one_line = "ü".repeat(500);
        assert!(start_of_end(&one_line, 99) == 902, "no boundary inside a character");
    }

    #[test]
    fn output_is_text_whatever_is_in_it() {
        let mut record = record("web-1");
        record.stderr = "</pre><script>alert(1)</script>".to_owned();
        let html = Printed::stderr(&record, 1000).unwrap().to_string();
        assert!(!html.contains("<script>") && html.contains("&#60;/pre&#62;&#60;script&#62;"), "{html}");
        record.stdout.clear();
        assert!(Printed::stdout(&record, 1000).is_none());
    }

    #[test]
    fn what_hides_in_a_command_is_written_out() {
        assert_eq!(exact("a\tb\nc"), "a\tb\nc");
        assert_eq!(exact("rm \u{202e}x\u{1b}[1A"), "rm \\u{202e}x\\u{1b}[1A");
    }

    #[test]
    fn a_pager_survives_any_number() {
        for (text, page) in
            [(None, 1), (Some("0"), 1), (Some("x"), 1), (Some("3"), 3), (Some("4294967295"), 100_000)]
        {
            assert_eq!(Pager::of(text).page, page);
        }
        assert_eq!(Pager::of(Some("3")).window(50), (51, 100));
        let (pager, rows) = Pager::of(None).split(&[1, 2, 3], 2);
        assert_eq!((pager.has_more, rows), (true, &[1, 2][..]));
    }
}
