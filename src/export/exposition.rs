//! Series as Prometheus names them, and the text in which it reads them.
//!
//! Knows nothing of servers; [`super::node`] and [`super::own`] say which series there are.
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::Write as _;

/// What a value means to Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// One metric name with what stands above its series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
}

impl Family {
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Counter }
    }

    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Gauge }
    }
}

/// Label names and values, in the order in which they are written.
pub type LabelPairs<'a> = &'a [(&'a str, &'a str)];

/// Takes series family by family: the series of one follow each other.
pub trait Sink {
    fn sample(&mut self, family: &Family, labels: LabelPairs<'_>, value: f64);
}

/// Writes the text format.
#[derive(Debug, Default)]
pub struct Text {
    text: String,
    family: &'static str,
}

impl Text {
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }

    fn label(&mut self, value: &str) {
        for c in value.chars() {
            match c {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                c => self.text.push(c),
            }
        }
    }
}

impl Sink for Text {
    fn sample(&mut self, family: &Family, labels: LabelPairs<'_>, value: f64) {
        // Writing to a String cannot fail.
        if self.family != family.name {
            self.family = family.name;
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            let _ = write!(
                self.text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n",
                name = family.name,
                help = family.help
            );
        }
        self.text.push_str(family.name);
        for (at, (name, value)) in labels.iter().enumerate() {
            let _ = write!(self.text, "{}{name}=\"", if at == 0 { '{' } else { ',' });
            self.label(value);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_label_stays_inside_its_quotes() {
        const UP: Family = Family::gauge("x_up", "Whether x is up.");
        let mut text = Text::default();
        text.sample(&UP, &[("name", "a\"} 1\nx_up{name=\"b\\")], 1.0);
        text.sample(&UP, &[], 0.5);
        assert_eq!(
            text.finish(),
            "# HELP x_up Whether x is up.\n# TYPE x_up gauge\n\
             x_up{name=\"a\\\"} 1\\nx_up{name=\\\"b\\\\\"} 1\nx_up 0.5\n"
        );
    }
}
