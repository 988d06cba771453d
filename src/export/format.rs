//! Rows as CSV or JSON, a row at a time.
//!
//! Cells may come from a hostile server and be opened in a spreadsheet: text that would be taken for a formula there
//! begins with an apostrophe in CSV.

use std::str::FromStr;

use serde_json::Value;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// RFC 4180 with a header line, UTF-8.
    #[default]
    Csv,
    /// One array of objects.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "csv" => Ok(Self::Csv),
            "json" => Ok(Self::Json),
            other => Err(format!("'{}' is not a format; use csv or json", crate::model::shown(other, 40))),
        }
    }
}

impl Format {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Json => "json",
        }
    }

    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8",
            Self::Json => "application/json",
        }
    }
}

/// Writes rows that all have the same columns.
#[derive(Debug)]
pub struct Writer {
    format: Format,
    columns: Vec<&'static str>,
    rows: u64,
}

impl Writer {
    #[must_use]
    pub const fn new(format: Format, columns: Vec<&'static str>) -> Self {
        Self { format, columns, rows: 0 }
    }

    /// What stands before the first row.
    pub fn begin(&self, out: &mut String) {
        match self.format {
            Format::Csv => {
                out.push_str(&self.columns.join(","));
                out.push_str("\r\n");
            }
            Format::Json => out.push('['),
        }
    }

    /// One row; a cell that is missing is empty.
    pub fn row(&mut self, out: &mut String, cells: &[Value]) {
        match self.format {
            Format::Csv => {
                for (at, _) in self.columns.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    csv_cell(out, cells.get(at).unwrap_or(&Value::Null));
                }
                out.push_str("\r\n");
            }
            Format::Json => {
                out.push_str(if self.rows == 0 { "\n" } else { ",\n" });
                let pairs = self.columns.iter().zip(cells);
                let object: serde_json::Map<String, Value> =
                    pairs.map(|(name, cell)| ((*name).to_owned(), cell.clone())).collect();
                out.push_str(&Value::Object(object).to_string());
            }
        }
        self.rows += 1;
    }

    pub fn end(&self, out: &mut String) {
        if self.format == Format::Json {
            out.push_str(if self.rows == 0 { "]\n" } else { "\n]\n" });
        }
    }
}

fn csv_cell(out: &mut String, cell: &Value) {
    match cell {
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) => out.push_str(&cell.to_string()),
        Value::String(text) => csv_text(out, text),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            let texts: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            csv_text(out, &texts.join("; "));
        }
        other => csv_text(out, &other.to_string()),
    }
}

fn csv_text(out: &mut String, text: &str) {
    // Tab and carriage return, too: spreadsheets skip them before they look.
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let quoted = formula || text.contains(['"', ',', '\r', '\n']);
    if !quoted {
        out.push_str(text);
        return;
    }
    out.push('"');
    if formula {
        out.push('\'');
    }
    for c in text.chars() {
        if c == '"' {
            out.push('"');
        }
        out.push(c);
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(format: Format, rows: &[Vec<Value>]) -> String {
        let mut writer = Writer::new(format, vec!["a", "b"]);
        let mut out = String::new();
        writer.begin(&mut out);
        for row in rows {
            writer.row(&mut out, row);
        }
        writer.end(&mut out);
        out
    }

    #[test]
    fn text_that_a_spreadsheet_would_run_is_only_text() {
        let rows = [
            vec![json!("=HYPERLINK(\"http://evil\")"), json!(-5)],
            vec![json!("@x"), json!("+1")],
            vec![json!("\t=1"), json!("-1")],
        ];
        assert_eq!(
            written(Format::Csv, &rows),
            "a,b\r\n\"'=HYPERLINK(\"\"http://evil\"\")\",-5\r\n\"'@x\",\"'+1\"\r\n\"'\t=1\",\"'-1\"\r\n"
        );
    }

    #[test]
    fn quotes_commas_and_line_breaks_stay_in_their_cell() {
        let rows = [vec![json!("a \"b\", c\nd"), json!(["web", "db"])], vec![Value::Null, json!({ "k": 1 })]];
        assert_eq!(
            written(Format::Csv, &rows),
            "a,b\r\n\"a \"\"b\"\", c\nd\",web; db\r\n,\"{\"\"k\"\":1}\"\r\n"
        );
    }

    #[test]
    fn json_is_one_array_whatever_the_number_of_rows() {
        for count in 0..3 {
            let rows = vec![vec![json!("=x"), Value::Null]; count];
            let read: Vec<Value> = serde_json::from_str(&written(Format::Json, &rows)).unwrap();
            assert_eq!(read, vec![json!({ "a": "=x", "b": null }); count]);
        }
    }
}
