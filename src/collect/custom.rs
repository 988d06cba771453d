//! The output of a custom metric's command to values. Pure; the output is hostile and bounded.
//!
//! Four formats, detected: JSON, the Prometheus text format, Nagios performance data, lines of `name value`. A lone
//! number is a value under the metric's own name. Sources: prometheus.io "Exposition formats", the Monitoring Plugins
//! Development Guidelines, section "Performance data".

use std::collections::HashSet;
use std::fmt;

use serde::Serialize;
use serde_json::Value as Json;

use crate::history::metric;
use crate::model::{Labels, MetricName, Sample, SeriesKey, shown};

/// Bytes of output that are looked at; two hundred values with long labels fit ten times.
pub const OUTPUT_BYTES: usize = 256 * 1024;
/// Values of one run. Each is a series of its own in history, on every server that the metric runs on.
pub const VALUES: usize = 200;
/// Longest name of a value.
pub const NAME_CHARS: usize = 80;
/// Longest text of a label.
const LABEL_CHARS: usize = 200;
/// What was left out is told for so many lines, the rest is counted.
const NOTICES: usize = 10;
/// Nesting of JSON from which on nothing is a figure any more.
const DEPTH: usize = 8;

/// What the output turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    Lines,
    Prometheus,
    Json,
    Nagios,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lines => "lines of name and value",
            Self::Prometheus => "Prometheus text",
            Self::Json => "JSON",
            Self::Nagios => "Nagios performance data",
        })
    }
}

/// One value of the output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reading {
    pub name: String,
    /// Empty: the value has no label.
    pub label: String,
    pub value: f64,
}

impl Reading {
    /// As history keeps it.
    #[must_use]
    pub fn sample(&self) -> Sample {
        let metric = MetricName::custom(self.name.clone());
        Sample { key: SeriesKey { metric, labels: Labels::of(&self.label) }, value: self.value }
    }
}

/// What was found in the output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Parsed {
    pub format: Format,
    pub values: Vec<Reading>,
    /// What was left out and why, a sentence each.
    pub notices: Vec<String>,
}

/// Reads the output of a command. `own_name` names a value that has no name.
#[must_use]
pub fn parse(output: &[u8], own_name: &str) -> Parsed {
    let head = output.get(..OUTPUT_BYTES).unwrap_or(output);
    let text = String::from_utf8_lossy(head);
    let text = text.trim_start_matches('\u{feff}').trim();
    let format = detect(text);
    let mut found = Found::new(own_name);
    if head.len() < output.len() {
        found.notice(format!("the output is longer than {OUTPUT_BYTES} bytes; the rest was left out"));
    }
    match format {
        Format::Json => json(text, &mut found),
        Format::Prometheus => text.lines().for_each(|line| prometheus(line.trim(), &mut found)),
        Format::Nagios => nagios(text, &mut found),
        Format::Lines => text.lines().for_each(|line| plain(line.trim(), &mut found)),
    }
    found.finish(format)
}

fn detect(text: &str) -> Format {
    if text.starts_with(['{', '[']) {
        return Format::Json;
    }
    let is_exposition = |line: &str| {
        let line = line.trim_start();
        line.starts_with("# TYPE ")
            || line.starts_with("# HELP ")
            || line.split_once('{').is_some_and(|(name, rest)| is_name(name) && rest.contains('}'))
    };
    if text.lines().any(is_exposition) {
        return Format::Prometheus;
    }
    if text.lines().any(|line| line.split_once('|').is_some_and(|(_, data)| data.contains('='))) {
        return Format::Nagios;
    }
    Format::Lines
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':'))
}

/// Values as they are found, each series once.
struct Found<'a> {
    own_name: &'a str,
    values: Vec<Reading>,
    seen: HashSet<(String, String)>,
    notices: Vec<String>,
    untold: usize,
    surplus: usize,
}

impl<'a> Found<'a> {
    fn new(own_name: &'a str) -> Self {
        let (values, notices) = (Vec::new(), Vec::new());
        Self { own_name, values, seen: HashSet::new(), notices, untold: 0, surplus: 0 }
    }

    fn notice(&mut self, text: String) {
        if self.notices.len() < NOTICES {
            self.notices.push(text);
        } else {
            self.untold += 1;
        }
    }

    fn value(&mut self, name: &str, label: &str, value: f64) {
        let said = shown(name, 60);
        let name: String =
            name.trim().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let name = if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name };
        if name.chars().all(|c| c == '_') || name.len() > NAME_CHARS {
            return self
                .notice(format!("'{said}' is no name: letters, digits and '_', at most {NAME_CHARS}"));
        }
        if metric::find(&name).is_some() {
            return self
                .notice(format!("{name} is a metric of Roundsman's own; give the value another name"));
        }
        if !value.is_finite() {
            return self.notice(format!("{name} is not a number that can be kept"));
        }
        let label = crate::ssh::printable::text(label.as_bytes(), LABEL_CHARS).replace('\n', " ");
        if self.seen.contains(&(name.clone(), label.clone())) {
            return self.notice(format!("{name} came twice; the first value counts"));
        }
        if self.values.len() >= VALUES {
            self.surplus += 1;
            return;
        }
        self.seen.insert((name.clone(), label.clone()));
        self.values.push(Reading { name, label, value });
    }

    fn finish(mut self, format: Format) -> Parsed {
        if self.untold > 0 {
            self.notices.push(format!("{} more lines were left out", self.untold));
        }
        if self.surplus > 0 {
            let text = format!("more than {VALUES} values: {} were left out", self.surplus);
            self.notices.insert(0, text);
        }
        Parsed { format, values: self.values, notices: self.notices }
    }
}

fn number(text: &str) -> Option<f64> {
    // Rust takes `inf` and `nan`; the words of Prometheus are theirs too.
    text.trim().parse::<f64>().ok()
}

/// `name value`, `name=value`, `name: value`, or a value alone.
fn plain(line: &str, found: &mut Found<'_>) {
    if line.is_empty() || line.starts_with('#') {
        return;
    }
    if let Some(value) = number(line) {
        let name = found.own_name.to_owned();
        return found.value(&name, "", value);
    }
    let cut = line.rsplit_once(|c: char| c.is_whitespace() || matches!(c, '=' | ':'));
    match cut.and_then(|(name, value)| Some((name, number(value)?))) {
        Some((name, value)) => {
            found.value(
                name.trim_end_matches(|c: char| c.is_whitespace() || matches!(c, '=' | ':')),
                "",
                value,
            );
        }
        None => found.notice(format!("'{}' is no name with a number", shown(line, 60))),
    }
}

/// `name{label="value",…} value [timestamp]`. Histograms and summaries are their single series.
fn prometheus(line: &str, found: &mut Found<'_>) {
    if line.is_empty() || line.starts_with('#') {
        return;
    }
    let Some((name, label, rest)) = exposition(line) else {
        return found.notice(format!("'{}' is no line of the Prometheus text format", shown(line, 60)));
    };
    match rest.split_whitespace().next().and_then(number) {
        Some(value) => found.value(name, &label, value),
        None => found.notice(format!("'{}' has no number", shown(line, 60))),
    }
}

/// Name, the labels as one text, and what follows them.
fn exposition(line: &str) -> Option<(&str, String, &str)> {
    let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, rest) = line.split_at(end);
    let Some(mut rest) = rest.trim_start().strip_prefix('{') else {
        return Some((name, String::new(), rest));
    };
    let mut labels: Vec<(&str, String)> = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ', '\t']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((name, joined(&labels), after));
        }
        let (label, after) = rest.split_once('=')?;
        let (value, after) = quoted(after.trim_start().strip_prefix('"')?)?;
        labels.push((label.trim(), value));
        rest = after;
    }
}

/// One label is its value; several say their names.
fn joined(labels: &[(&str, String)]) -> String {
    match labels {
        [(_, value)] => value.clone(),
        many => many.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "),
    }
}

/// The text up to the closing quotation mark, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            c => value.push(c),
        }
    }
    None
}

/// `TEXT | 'label'=value[unit];warn;crit;min;max …`; once a line has a bar, what follows is data too.
fn nagios(text: &str, found: &mut Found<'_>) {
    let first = text.lines().next().and_then(|line| line.split_once('|')).map(|(_, data)| data);
    let after: String = text.lines().skip(1).collect::<Vec<_>>().join("\n");
    let long = after.split_once('|').map(|(_, data)| data.to_owned());
    for data in first.map(str::to_owned).into_iter().chain(long) {
        perfdata(&data, found);
    }
}

fn perfdata(data: &str, found: &mut Found<'_>) {
    let mut rest = data.trim_start();
    while !rest.is_empty() {
        let (label, after) = match rest.strip_prefix('\'') {
            Some(inside) => match inside.split_once("'=") {
                Some((label, after)) => (label, after),
                None => return found.notice(format!("'{}' is no performance data", shown(rest, 60))),
            },
            None => match rest.split_once('=') {
                Some((label, after)) => (label.rsplit(char::is_whitespace).next().unwrap_or(label), after),
                None => return found.notice(format!("'{}' is no performance data", shown(rest, 60))),
            },
        };
        let end = after.find(char::is_whitespace).unwrap_or(after.len());
        let (item, following) = after.split_at(end);
        let measured = item.split(';').next().unwrap_or_default();
        let digits = measured.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '-' | '+' | ','));
        let (value, unit) = measured.split_at(digits.unwrap_or(measured.len()));
        match (number(&value.replace(',', ".")), factor(unit)) {
            (Some(value), Some(factor)) => found.value(label, "", value * factor),
            // U stands for a value that is not known.
            _ if measured == "U" => {}
            _ => found.notice(format!("'{}' has no number with a known unit", shown(item, 60))),
        }
        rest = following.trim_start();
    }
}

/// Units become seconds and bytes. None: no unit of the guidelines.
fn factor(unit: &str) -> Option<f64> {
    Some(match unit {
        "" | "s" | "%" | "c" | "B" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        "ns" => 1e-9,
        "KB" => 1024.0,
        "MB" => 1_048_576.0,
        "GB" => 1_073_741_824.0,
        "TB" => 1_099_511_627_776.0,
        _ => return None,
    })
}

/// Every number of a document under the names that lead to it, joined by `_`.
fn json(text: &str, found: &mut Found<'_>) {
    // One document, or one a line.
    for document in serde_json::Deserializer::from_str(text).into_iter::<Json>() {
        match document {
            Ok(document) => numbers(&document, "", 0, found),
            Err(error) => return found.notice(format!("the output is no JSON: {error}")),
        }
    }
}

fn numbers(value: &Json, path: &str, depth: usize, found: &mut Found<'_>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}_{name}") };
    match value {
        Json::Number(number) => {
            let name = if path.is_empty() { found.own_name.to_owned() } else { path.to_owned() };
            found.value(&name, "", number.as_f64().unwrap_or(f64::NAN));
        }
        _ if depth >= DEPTH => {}
        Json::Object(members) => {
            members.iter().for_each(|(name, value)| numbers(value, &below(name), depth + 1, found));
        }
        Json::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                let name = if path.is_empty() { found.own_name.to_owned() } else { path.to_owned() };
                numbers(value, &format!("{name}_{index}"), depth + 1, found);
            }
        }
        Json::Null | Json::Bool(_) | Json::String(_) => {}
    }
}
