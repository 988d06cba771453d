//! Values as a person reads them: bytes, rates, percent, spans of time, bars and sparklines.
//!
//! Pure. Everything that a page shows passes through here; templates only branch and loop. Text that came
//! from a server goes through [`clean`] and is escaped by askama where it is printed.

use askama::Template;
use askama::filters::HtmlSafe;

use crate::model::Timestamp;

/// Longest text of a server in a table cell; longer ones are cut, the page must stay readable.
pub const CELL_CHARS: usize = 200;
/// Longest text of a server where it is the content (a command line, a reason).
pub const TEXT_CHARS: usize = 1_000;
/// Points of a sparkline in a table: one each three pixels of its width. Half of a row's bytes are these.
const LINE_POINTS: usize = 30;
/// Points of a sparkline in a card.
const AREA_POINTS: usize = 60;
/// Height of a sparkline in its own units.
const SPARK_HEIGHT: f64 = 32.0;
/// A sparkline of percent ends at least here, so that an idle machine looks idle.
const SPARK_TOP_PERCENT: f64 = 25.0;
/// From here on a share is worth a look, and from there on it is trouble.
const HIGH_PERCENT: f64 = 80.0;
const FULL_PERCENT: f64 = 92.0;

/// A value to show. Unknown is shown as a dash that says so, never as 0.
#[derive(Debug, Clone, PartialEq, Eq, Default, Template)]
#[template(
    ext = "html",
    source = "{% if let Some(text) = text %}{{ text }}{% else %}<span class=\"unknown\" title=\"unknown\">–</span>{% endif %}"
)]
pub struct Value {
    pub text: Option<String>,
}

// askama wrote it and escaped the text in it.
impl HtmlSafe for Value {}

impl Value {
    #[must_use]
    pub const fn of(text: String) -> Self {
        Self { text: Some(text) }
    }

    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.text.is_some()
    }

    /// Text that came from a server.
    #[must_use]
    pub fn foreign(text: Option<&str>) -> Self {
        let cleaned = text.map(|text| clean(text, CELL_CHARS)).filter(|text| !text.is_empty());
        Self { text: cleaned }
    }
}

fn shown(value: Option<f64>, format: impl FnOnce(f64) -> String) -> Value {
    Value { text: value.filter(|value| value.is_finite()).map(format) }
}

/// `37.2%`; `100%` without a decimal.
#[must_use]
pub fn percent(value: Option<f64>) -> Value {
    shown(value, |value| if value >= 99.95 { format!("{value:.0}%") } else { format!("{value:.1}%") })
}

/// Binary units with three digits: `1.50 GiB`, `15.0 GiB`, `150 GiB`.
#[must_use]
pub fn bytes(value: Option<f64>) -> Value {
    shown(value, byte_text)
}

/// Bytes a second: `1.20 MiB/s`.
#[must_use]
pub fn rate(value: Option<f64>) -> Value {
    shown(value, |value| format!("{}/s", byte_text(value)))
}

fn byte_text(value: f64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if value.abs() < 1023.5 {
        return format!("{value:.0}\u{a0}B");
    }
    let mut scaled = value;
    let mut unit = "B";
    for next in UNITS {
        if scaled.abs() < 1023.5 {
            break;
        }
        scaled /= 1024.0;
        unit = next;
    }
    let decimals = match scaled.abs() {
        size if size < 9.995 => 2,
        size if size < 99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.decimals$}\u{a0}{unit}")
}

/// A plain number with two decimals, as load averages are written.
#[must_use]
pub fn number(value: Option<f64>) -> Value {
    shown(value, |value| format!("{value:.2}"))
}

/// A whole number in groups of three: `1,204`.
#[must_use]
pub fn count(value: Option<f64>) -> Value {
    shown(value, |value| grouped(&format!("{value:.0}")))
}

/// A whole number in groups of three: `1,204`.
#[must_use]
pub fn whole(value: impl Into<u64>) -> String {
    grouped(&value.into().to_string())
}

fn grouped(digits: &str) -> String {
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && !out.ends_with('-') {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `0.4 ms`, `12 ms`, `1.20 s`.
#[must_use]
pub fn milliseconds(value: Option<f64>) -> Value {
    shown(value, |value| match value {
        value if value < 9.95 => format!("{value:.1}\u{a0}ms"),
        value if value < 999.5 => format!("{value:.0}\u{a0}ms"),
        value => format!("{:.2}\u{a0}s", value / 1000.0),
    })
}

/// The two largest units of a span given in seconds: `12 d 4 h`, `3 h 12 min`, `45 s`.
#[must_use]
pub fn duration(seconds: Option<f64>) -> Value {
    shown(seconds.filter(|seconds| *seconds >= 0.0), |seconds| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and a cast saturates"
        )]
        let whole = seconds.round() as u64;
        span(whole)
    })
}

/// Seconds that may be parts of one and less than nothing, as the offset of a clock is: `-0.25 s`, `3 min`.
#[must_use]
pub fn lapse(seconds: Option<f64>) -> Value {
    let hundredths = |seconds: f64| (seconds * 100.0).round() / 100.0;
    match seconds {
        Some(seconds) if seconds.abs() < 9.995 => {
            // Adding zero makes a positive one of the negative.
            Value::of(format!("{}\u{a0}s", hundredths(seconds) + 0.0))
        }
        Some(seconds) if seconds < 0.0 => Value::of(format!("-{}", duration(Some(-seconds)))),
        _ => duration(seconds),
    }
}

fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let (first, second) = match (days, hours, minutes) {
        (0, 0, 0) => ((seconds, "s"), None),
        (0, 0, minutes) => ((minutes, "min"), None),
        (0, hours, minutes) => ((hours, "h"), Some((minutes, "min"))),
        (days, hours, _) if days < 100 => ((days, "d"), Some((hours, "h"))),
        (days, ..) => ((days, "d"), None),
    };
    let mut text = format!("{}\u{a0}{}", grouped(&first.0.to_string()), first.1);
    if let Some((amount, unit)) = second.filter(|(amount, _)| *amount > 0) {
        text.push_str(&format!("\u{a0}{amount}\u{a0}{unit}"));
    }
    text
}

/// An instant as a `<time>` with words that the page keeps fresh. None: it never came.
#[derive(Debug, Clone, PartialEq, Eq, Template)]
#[template(
    ext = "html",
    source = "{% if let Some(at) = at %}<time datetime=\"{{ at }}\" title=\"{{ title }}\" data-relative>{{ words }}</time>{% else %}<span class=\"unknown\">never</span>{% endif %}"
)]
pub struct When {
    at: Option<Timestamp>,
    title: String,
    words: String,
}

// askama wrote it and escaped what is in it.
impl HtmlSafe for When {}

impl When {
    #[must_use]
    pub fn new(at: Option<Timestamp>, now: Timestamp) -> Self {
        Self {
            at,
            title: at.map(utc).unwrap_or_default(),
            words: at.map(|at| relative(at, now)).unwrap_or_default(),
        }
    }
}

/// `now`, `12 s ago`, `3 min ago`, `in 2 d`. `static/js/app.js` says the same words.
#[must_use]
pub fn relative(at: Timestamp, now: Timestamp) -> String {
    let (before, after) = (now.since(at).as_secs(), at.since(now).as_secs());
    let largest = |seconds: u64| match seconds {
        seconds if seconds < 60 => format!("{seconds}\u{a0}s"),
        seconds if seconds < 3600 => format!("{}\u{a0}min", seconds / 60),
        seconds if seconds < 86_400 => format!("{}\u{a0}h", seconds / 3600),
        seconds => format!("{}\u{a0}d", grouped(&(seconds / 86_400).to_string())),
    };
    match (before, after) {
        (0 | 1, 0) => "now".to_owned(),
        (before, 0) => format!("{}\u{a0}ago", largest(before)),
        (_, after) => format!("in\u{a0}{}", largest(after)),
    }
}

/// `2026-11-20 10:00:00 UTC`.
#[must_use]
pub fn utc(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.as_millis())
        .map_or_else(|_| at.to_string(), |time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// Text of a server, fit for a page: no control characters, no marks that turn the direction of writing,
/// at most `max_chars` characters.
#[must_use]
pub fn clean(text: &str, max_chars: usize) -> String {
    let printable = |c: &char| {
        !c.is_control()
            && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let mut kept = text.chars().map(|c| if matches!(c, '\n' | '\t') { ' ' } else { c }).filter(printable);
    let mut out: String = kept.by_ref().take(max_chars).collect();
    if kept.next().is_some() {
        out.push('…');
    }
    out.trim().to_owned()
}

/// How much a share should worry a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Unknown,
    Calm,
    High,
    Full,
}

impl Level {
    #[must_use]
    pub fn of_percent(value: Option<f64>) -> Self {
        match value {
            Some(value) if value >= FULL_PERCENT => Self::Full,
            Some(value) if value >= HIGH_PERCENT => Self::High,
            Some(value) if value.is_finite() => Self::Calm,
            _ => Self::Unknown,
        }
    }

    #[must_use]
    pub const fn class(self) -> &'static str {
        match self {
            Self::Unknown => "level-unknown",
            Self::Calm => "level-calm",
            Self::High => "level-high",
            Self::Full => "level-full",
        }
    }
}

/// A share of a whole with the bar that shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    pub value: Value,
    pub bar: Bar,
}

impl Share {
    #[must_use]
    pub fn of(percent_value: Option<f64>) -> Self {
        Self { value: percent(percent_value), bar: Bar::of(percent_value) }
    }
}

/// A horizontal bar from 0 to 100.
#[derive(Debug, Clone, PartialEq, Template)]
#[template(
    ext = "html",
    source = "<svg class=\"bar {{ level.class() }}\" aria-hidden=\"true\"><rect width=\"{{ width }}%\" height=\"5\"/></svg>"
)]
pub struct Bar {
    level: Level,
    width: String,
}

// askama wrote it; only a number and a class of ours are in it.
impl HtmlSafe for Bar {}

impl Bar {
    #[must_use]
    pub fn of(percent_value: Option<f64>) -> Self {
        let known = percent_value.filter(|value| value.is_finite());
        let width = known.map_or_else(|| "0".to_owned(), |value| format!("{:.1}", value.clamp(0.0, 100.0)));
        Self { level: Level::of_percent(percent_value), width }
    }
}

/// A sparkline: the last values of a series as two SVG paths.
#[derive(Debug, Clone, PartialEq, Eq, Template)]
#[template(
    ext = "html",
    source = "<svg class=\"spark\" viewBox=\"0 0 {{ width }} 32\" preserveAspectRatio=\"none\" aria-hidden=\"true\">{% if !area.is_empty() %}<path class=\"area\" d=\"{{ area }}\"/>{% endif %}<path{% if is_both %} class=\"both\"{% endif %} d=\"{{ line }}\"/></svg>"
)]
pub struct Spark {
    line: String,
    area: String,
    /// The line encloses the area as well: its ends lie outside of the drawing.
    is_both: bool,
    width: usize,
}

// askama wrote it; only numbers are in it.
impl HtmlSafe for Spark {}

impl Spark {
    /// Only the line, for tables of a thousand rows.
    #[must_use]
    pub fn line(percents: &[Option<f64>]) -> Self {
        let (runs, points) = spark_runs(percents, LINE_POINTS);
        let line = runs.iter().map(|run| path(run)).collect();
        Self { line, area: String::new(), is_both: false, width: points - 1 }
    }

    /// The line and the area under it.
    #[must_use]
    pub fn area(percents: &[Option<f64>]) -> Self {
        let (runs, points) = spark_runs(percents, AREA_POINTS);
        // The usual drawing has no gap: then one path does for both, which halves what a thousand cards weigh.
        if let [run] = runs.as_slice()
            && let [(0, first), .., (end, last)] = run.as_slice()
            && end + 1 == points
        {
            let inner = path(run).replacen('M', " ", 1);
            let line =
                format!("M-9 {SPARK_HEIGHT} -9 {first}{inner} {} {last} {} {SPARK_HEIGHT}", end + 9, end + 9);
            return Self { line, area: String::new(), is_both: true, width: *end };
        }
        let mut area = String::new();
        for run in &runs {
            if let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) {
                area.push_str(&format!("{} {last} {SPARK_HEIGHT} {first} {SPARK_HEIGHT}z", path(run)));
            }
        }
        let line = runs.iter().map(|run| path(run)).collect();
        Self { line, area, is_both: false, width: points - 1 }
    }
}

/// The points between gaps, the newest at the right edge, and how many fit the width. Several values share a
/// point when there are more of them than `points_max`.
fn spark_runs(percents: &[Option<f64>], points_max: usize) -> (Vec<Vec<(usize, f64)>>, usize) {
    let share = percents.len().div_ceil(points_max).max(1);
    let averages: Vec<Option<f64>> = percents.rchunks(share).rev().map(average).collect();
    let points = if share == 1 { points_max } else { averages.len() };
    let top = averages.iter().flatten().copied().fold(SPARK_TOP_PERCENT, f64::max);
    let offset = points - averages.len();
    let mut runs = vec![Vec::new()];
    for (index, value) in averages.iter().enumerate() {
        match (value, runs.last_mut()) {
            // One unit is kept free at both edges, or half of the stroke would be cut off.
            (Some(value), Some(run)) => {
                let height = (value.max(0.0) / top) * (SPARK_HEIGHT - 2.0);
                run.push((index + offset, (SPARK_HEIGHT - 1.0 - height).round()));
            }
            _ => runs.push(Vec::new()),
        }
    }
    runs.retain(|run| !run.is_empty());
    (runs, points)
}

#[expect(clippy::cast_precision_loss, reason = "a handful of values")]
fn average(values: &[Option<f64>]) -> Option<f64> {
    let known: Vec<f64> = values.iter().flatten().copied().filter(|value| value.is_finite()).collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

fn path(run: &[(usize, f64)]) -> String {
    let mut text = String::with_capacity(run.len() * 6);
    for (index, (x, y)) in run.iter().enumerate() {
        text.push_str(if index == 0 { "M" } else { " " });
        text.push_str(&format!("{x} {y}"));
    }
    // A single point has no length; round caps make a dot of it.
    if run.len() == 1 {
        text.push_str("h0");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: Value) -> String {
        value.text.unwrap_or_else(|| "–".to_owned()).replace('\u{a0}', " ")
    }

    #[test]
    fn numbers_read_as_a_person_writes_them() {
        let cases: &[(Value, &str)] = &[
            (percent(None), "–"),
            (percent(Some(f64::NAN)), "–"),
            (percent(Some(0.0)), "0.0%"),
            (percent(Some(37.26)), "37.3%"),
            (percent(Some(99.97)), "100%"),
            (bytes(Some(0.0)), "0 B"),
            (bytes(Some(1023.0)), "1023 B"),
            (bytes(Some(1024.0)), "1.00 KiB"),
            (bytes(Some(1023.7)), "1.00 KiB"),
            (bytes(Some(16_106_127_360.0)), "15.0 GiB"),
            (bytes(Some(1_048_064.0)), "1.00 MiB"),
            (bytes(Some(161_061_273_600.0)), "150 GiB"),
            (bytes(None), "–"),
            (rate(Some(1_258_291.0)), "1.20 MiB/s"),
            (number(Some(0.417)), "0.42"),
            (count(Some(1204.0)), "1,204"),
            (count(Some(12.0)), "12"),
            (count(Some(1_234_567.0)), "1,234,567"),
            (milliseconds(Some(0.44)), "0.4 ms"),
            (milliseconds(Some(12.4)), "12 ms"),
            (milliseconds(Some(1204.0)), "1.20 s"),
            (duration(Some(45.0)), "45 s"),
            (duration(Some(61.0)), "1 min"),
            (duration(Some(11_520.0)), "3 h 12 min"),
            (duration(Some(7200.0)), "2 h"),
            (duration(Some(1_052_000.0)), "12 d 4 h"),
            (duration(Some(34_560_000.0)), "400 d"),
            (duration(Some(-1.0)), "–"),
            (lapse(Some(-0.000_4)), "0 s"),
            (lapse(Some(-0.253)), "-0.25 s"),
            (lapse(Some(-61.0)), "-1 min"),
            (lapse(Some(11_520.0)), "3 h 12 min"),
            (lapse(None), "–"),
        ];
        for (value, expected) in cases {
            assert_eq!(text(value.clone()), *expected);
        }
    }

    #[test]
    fn times_are_told_relative_to_now() {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let ago = |seconds: i64| Timestamp::from_millis(now.as_millis() - seconds * 1000);
        let cases = [
            (0, "now"),
            (1, "now"),
            (12, "12 s ago"),
            (60, "1 min ago"),
            (7199, "1 h ago"),
            (200_000, "2 d ago"),
            (-90, "in 1 min"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(relative(ago(seconds), now).replace('\u{a0}', " "), expected);
        }
        assert_eq!(utc(now), "2023-11-14 22:13:20 UTC");
        assert!(
            When::new(Some(now), now).to_string().starts_with("<time datetime=\"2023-11-14T22:13:20.000Z\"")
        );
        assert!(When::new(None, now).to_string().contains("never"));
    }

    #[test]
    fn unknown_is_a_dash_that_says_so_and_never_zero() {
        assert_eq!(percent(None).to_string(), "<span class=\"unknown\" title=\"unknown\">–</span>");
        assert_eq!(Level::of_percent(None), Level::Unknown);
    }

    #[test]
    fn text_of_a_server_loses_what_a_page_must_not_carry() {
        assert_eq!(clean("a\u{1b}[31mred\u{7}\nb", 99), "a[31mred b");
        assert_eq!(clean("user\u{202e}gnp.exe", 99), "usergnp.exe");
        assert_eq!(clean(&"x".repeat(300), 10), format!("{}…", "x".repeat(10)));
        assert_eq!(Value::foreign(Some("<b>")).to_string(), "&#60;b&#62;");
        assert_eq!(Value::foreign(Some("\u{1}")), Value::default());
    }

    #[test]
    fn a_share_warns_by_class_and_stays_inside_its_bar() {
        for (value, class, width) in [
            (Some(12.34), "level-calm", "12.3"),
            (Some(80.0), "level-high", "80.0"),
            (Some(120.0), "level-full", "100.0"),
            (None, "level-unknown", "0"),
        ] {
            let bar = Bar::of(value).to_string();
            assert!(bar.contains(class) && bar.contains(&format!("width=\"{width}%\"")), "{bar}");
        }
    }

    #[test]
    fn a_sparkline_breaks_at_gaps_and_ends_at_the_right_edge() {
        let spark = Spark::line(&[Some(0.0), Some(100.0), None, Some(50.0)]);
        assert_eq!(spark.line, "M26 31 27 1M29 16h0");
        assert_eq!(Spark::line(&[]).line, "");
        assert!(Spark::line(&vec![Some(5.0); 500]).line.len() < LINE_POINTS * 6);
        assert_eq!(Spark::area(&[Some(0.0), Some(25.0)]).area, "M58 31 59 1 59 32 58 32z");
        let whole = Spark::area(&[Some(25.0); AREA_POINTS]);
        assert!(whole.is_both && whole.area.is_empty(), "one path is line and area");
        assert!(whole.line.starts_with("M-9 32 -9 1 0 1 1 1") && whole.line.ends_with(" 59 1 68 1 68 32"));
    }
}
