//! A table for people, then one line of JSON for programs.

use std::io::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Map, Value};

/// What a benchmark found, in the order in which it is shown.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<[String; 3]>,
    notes: Vec<String>,
    json: Map<String, Value>,
}

/// How a figure stands to its goal.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    None,
    Under(f64),
    AtLeast(f64),
}

impl Report {
    /// A figure with its name in the JSON line, its title, decimals for people and its goal.
    pub fn figure(&mut self, name: &str, title: &str, value: f64, goal: Goal) {
        let verdict = match goal {
            Goal::None => String::new(),
            Goal::Under(limit) if value < limit => format!("under {limit:.3}: yes"),
            Goal::Under(limit) => format!("under {limit:.3}: NO"),
            Goal::AtLeast(limit) if value >= limit => format!("at least {limit}: yes"),
            Goal::AtLeast(limit) => format!("at least {limit}: NO"),
        };
        let decimals = usize::from(value.fract().abs() > f64::EPSILON) * if value < 10.0 { 2 } else { 1 };
        self.rows.push([title.to_owned(), format!("{value:.decimals$}"), verdict]);
        self.json.insert(name.to_owned(), ((value * 1000.0).round() / 1000.0).into());
    }

    /// A whole number.
    pub fn count(&mut self, name: &str, title: &str, value: u64) {
        self.rows.push([title.to_owned(), value.to_string(), String::new()]);
        self.json.insert(name.to_owned(), value.into());
    }

    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// # Errors
    /// When standard output is closed.
    pub fn print(self) -> std::io::Result<()> {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_header(["figure", "value", "goal"]);
        for row in self.rows {
            table.add_row(row);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "{table}")?;
        for note in self.notes {
            writeln!(out, "note: {note}")?;
        }
        writeln!(out, "{}", Value::Object(self.json))
    }
}

/// Says on standard error what is going on.
pub fn progress(text: &str) {
    // Nobody can be told where standard error is closed.
    let _ = writeln!(std::io::stderr(), "bench: {text}");
}
