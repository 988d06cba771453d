//! What goes to the terminal: tables for people, JSON for programs, and never a control character of a server's.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table};
use serde_json::{Value, json};

use super::error::CliError;
use crate::clock::{Clock, SystemClock};
use crate::model::Timestamp;

/// Longest cell of a table, in characters; one server's description must not push the others off the screen.
const CELL_CHARS: usize = 120;
/// What is shown where a value is unknown.
pub(super) const UNKNOWN: &str = "–";

/// How the standard streams are to be used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    pub json: bool,
    colour: bool,
    /// A person sits there: tables may wrap, questions may be asked.
    pub interactive: bool,
}

impl Output {
    pub(super) fn of_process(json: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let interactive = io::stdin().is_terminal() && io::stderr().is_terminal() && !json;
        Self { json, colour: terminal && !no_colour, interactive }
    }

    /// One line on stdout, cleaned.
    pub(super) fn line(&self, text: &str) -> Result<(), CliError> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(printable(text).as_bytes())?;
        stdout.write_all(b"\n")?;
        Ok(stdout.flush()?)
    }

    /// A remark for a person, on stderr, so that stdout holds the result only.
    pub(super) fn remark(&self, text: &str) -> Result<(), CliError> {
        let mut stderr = io::stderr().lock();
        stderr.write_all(printable(text).as_bytes())?;
        Ok(stderr.write_all(b"\n")?)
    }

    pub(super) fn value(&self, value: &Value) -> Result<(), CliError> {
        let text =
            serde_json::to_string_pretty(value).map_err(|error| CliError::failed(error.to_string()))?;
        let mut stdout = io::stdout().lock();
        stdout.write_all(escape_json(&text).as_bytes())?;
        stdout.write_all(b"\n")?;
        Ok(stdout.flush()?)
    }

    pub(super) fn version(&self, version: &str) -> Result<(), CliError> {
        if self.json {
            self.value(&json!({ "version": version }))
        } else {
            self.line(&format!("roundsman {version}"))
        }
    }

    /// A table with a header; columns named in `right` hold numbers.
    pub(super) fn table(
        &self,
        header: &[&str],
        right: &[usize],
        rows: Vec<Vec<String>>,
    ) -> Result<(), CliError> {
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_content_arrangement(if io::stdout().is_terminal() {
            ContentArrangement::Dynamic
        } else {
            ContentArrangement::Disabled
        });
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(
            header
                .iter()
                .map(|title| self.styled(Cell::new(title), |cell| cell.add_attribute(Attribute::Bold))),
        );
        for row in rows {
            table.add_row(row.iter().map(|text| {
                let cell = Cell::new(clipped(&printable(text)));
                match colour_of(text) {
                    Some(colour) => self.styled(cell, |cell| cell.fg(colour)),
                    None => cell,
                }
            }));
        }
        for index in right {
            if let Some(column) = table.column_mut(*index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text = String::new();
        for line in table.lines() {
            let line = line.strip_prefix(' ').unwrap_or(&line);
            text.push_str(line.trim_end());
            text.push('\n');
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        Ok(stdout.flush()?)
    }

    fn styled(&self, cell: Cell, style: impl Fn(Cell) -> Cell) -> Cell {
        if self.colour { style(cell) } else { cell }
    }
}

fn colour_of(text: &str) -> Option<Color> {
    match text {
        "healthy" | "ok" => Some(Color::Green),
        "degraded" | "warning" => Some(Color::Yellow),
        "critical" | "unreachable" | "problem" => Some(Color::Red),
        "unknown" | UNKNOWN => Some(Color::DarkGrey),
        _ => None,
    }
}

fn clipped(text: &str) -> String {
    if text.chars().count() <= CELL_CHARS {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(CELL_CHARS - 1).collect();
    short.push('…');
    short
}

/// Controls (C0, DEL, C1: some terminals obey U+009B as an escape code) and marks that reorder text.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text that a terminal shows and does not obey; line breaks become spaces.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .filter_map(|c| match c {
            '\n' | '\t' => Some(' '),
            c if is_unsafe(c) => None,
            c => Some(c),
        })
        .collect()
}

/// JSON text without characters that a terminal would obey; serde_json escapes those below U+0020 only.
/// The line breaks of pretty printing stay: inside strings they are escaped already.
pub(super) fn escape_json(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && is_unsafe(c) {
            // Writing to a String cannot fail.
            let _ = write!(safe, "\\u{:04x}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    safe
}

/// A text member of an object, or nothing.
pub(super) fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A text member, or the sign for unknown.
pub(super) fn text_or_unknown(object: &Value, name: &str) -> String {
    match object.get(name) {
        Some(Value::String(text)) if !text.is_empty() => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => UNKNOWN.to_owned(),
    }
}

/// The texts of a list member, joined.
pub(super) fn list(object: &Value, name: &str) -> String {
    let items = object.get(name).and_then(Value::as_array);
    items.into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

/// A number member with one decimal and a unit.
pub(super) fn number(object: &Value, name: &str, unit: &str) -> String {
    object
        .get(name)
        .and_then(Value::as_f64)
        .map_or_else(|| UNKNOWN.to_owned(), |value| format!("{value:.1}{unit}"))
}

/// Bytes in binary units.
pub(super) fn bytes(value: f64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = value;
    let mut unit = UNITS[0];
    for next in UNITS.iter().skip(1) {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == UNITS[0] { format!("{value:.0} B") } else { format!("{value:.1} {unit}") }
}

/// Time since an RFC 3339 text, in its largest unit.
pub(super) fn ago(text: &str) -> String {
    Timestamp::parse(text).map_or_else(
        || UNKNOWN.to_owned(),
        |then| format!("{} ago", span(SystemClock.now().since(then).as_secs())),
    )
}

/// A number of seconds in its largest unit, with the next one where it matters.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_codes_of_a_server_never_reach_the_terminal() {
        let hostile = "web\u{1b}[2J\u{9b}31m\u{202e}\r\n\u{7}x";
        assert_eq!(printable(hostile), "web[2J31m x");
        let json = escape_json(&serde_json::to_string_pretty(&json!({ "name": hostile })).unwrap());
        assert!(json.chars().all(|c| c == '\n' || !is_unsafe(c)), "{json}");
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["name"], hostile);
    }

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(bytes(512.0), "512 B");
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(bytes(3.0 * 1024.0 * 1024.0 * 1024.0), "3.0 GiB");
        assert_eq!(span(59), "59 s");
        assert_eq!(span(3 * 3600 + 120), "3 h 2 min");
        assert_eq!(span(90_000), "1 d 1 h");
    }

    #[test]
    fn an_unknown_figure_is_not_zero() {
        assert_eq!(number(&json!({ "cpu_percent": null }), "cpu_percent", " %"), UNKNOWN);
        assert_eq!(number(&json!({ "cpu_percent": 0.0 }), "cpu_percent", " %"), "0.0 %");
    }
}
