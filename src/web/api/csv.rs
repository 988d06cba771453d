//! Comma-separated values of charts (RFC 4180), safe to open in a spreadsheet.

/// A table in the making.
#[derive(Debug, Default)]
pub struct Csv {
    text: String,
}

impl Csv {
    #[must_use]
    pub fn with_header(columns: &[&str]) -> Self {
        let mut csv = Self::default();
        csv.row(columns.iter().map(|column| (*column).to_owned()));
        csv
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        for (index, cell) in cells.into_iter().enumerate() {
            if index > 0 {
                self.text.push(',');
            }
            self.text.push_str(&cell);
        }
        self.text.push_str("\r\n");
    }

    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }
}

/// Text as a cell. What a spreadsheet would take for a formula gets an apostrophe before it: labels come from servers.
#[must_use]
pub fn text(value: &str) -> String {
    let guarded = if value.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{value}")
    } else {
        value.to_owned()
    };
    if guarded.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", guarded.replace('"', "\"\""))
    } else {
        guarded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_of_a_server_is_neither_a_formula_nor_a_new_column() {
        for (value, cell) in [
            ("eth0", "eth0"),
            ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
            ("-1+1", "'-1+1"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"\n", "\"say \"\"hi\"\"\n\""),
        ] {
            assert_eq!(text(value), cell);
        }
    }

    #[test]
    fn rows_end_as_the_standard_says() {
        let mut csv = Csv::with_header(&["time", "value"]);
        csv.row(["a".to_owned(), "1".to_owned()]);
        assert_eq!(csv.into_text(), "time,value\r\na,1\r\n");
    }
}
