//! Charts without a script: a drawing and a table of each, made by the server.

use askama::Template;
use askama::filters::HtmlSafe;

use crate::fleet::{Aggregate, Aggregated, MetricRange};
use crate::history::Point;
use crate::history::metric::{self, Unit};
use crate::model::Timestamp;
use crate::web::view::{self, Value};

use super::{Figure, Source};

/// Points of a drawing; a row of the table stands for [`POINTS_A_ROW`] of them.
pub const POINTS: usize = 96;
const POINTS_A_ROW: usize = 4;
/// Lines of one drawing; the colours of the sheet.
const LINES_MAX: usize = 10;
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 140.0;

/// One chart as drawing and table.
#[derive(Debug, Clone)]
pub struct ChartTable {
    pub(super) slug: String,
    pub(super) title: String,
    pub(super) drawing: Drawing,
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Row>,
    pub(super) left_out: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) time: String,
    /// Average and, where it says more, the greatest.
    pub(super) cells: Vec<(Value, Option<Value>)>,
}

/// Lines as SVG paths.
#[derive(Debug, Clone, Template)]
#[template(
    ext = "html",
    source = "<svg class=\"drawing\" viewBox=\"0 0 600 140\" preserveAspectRatio=\"none\" aria-hidden=\"true\">{% for (class, path) in paths %}<path class=\"{{ class }}\" d=\"{{ path }}\"/>{% endfor %}</svg>"
)]
pub(super) struct Drawing {
    paths: Vec<(String, String)>,
}

// askama wrote it; only numbers and classes of ours are in it.
impl HtmlSafe for Drawing {}

/// A line with its name.
#[derive(Debug)]
pub struct Line {
    pub title: String,
    pub points: Vec<Point>,
}

/// A value in its unit.
fn shown(unit: Unit, value: f64) -> Value {
    let value = Some(value);
    match unit {
        Unit::Percent => view::percent(value),
        Unit::Bytes => view::bytes(value),
        Unit::BytesPerSecond => view::rate(value),
        Unit::Milliseconds => view::milliseconds(value),
        Unit::Seconds => view::lapse(value),
        Unit::Number => view::number(value),
        Unit::Count => view::count(value),
        Unit::PerSecond => Value::of(format!("{}/s", view::number(value))),
        Unit::Celsius => Value::of(format!("{}\u{a0}°C", view::number(value))),
    }
}

impl ChartTable {
    /// The table of a figure. None: nothing was recorded.
    #[must_use]
    pub fn new(figure: &Figure, found: &[MetricRange], (from, to): (Timestamp, Timestamp)) -> Option<Self> {
        let ranges: Vec<&MetricRange> = figure
            .metric_names()
            .filter_map(|name| found.iter().find(|range| range.name.as_str() == name))
            .collect();
        let several_servers = ranges.iter().any(|range| range.servers.len() > 1);
        let mut lines = Vec::new();
        for range in &ranges {
            let title = range.known.map_or_else(|| range.name.as_str(), |known| known.title);
            for server in &range.servers {
                for (labels, points) in &server.series {
                    let label = view::clean(labels.as_str(), view::CELL_CHARS);
                    let words = [
                        if several_servers { server.name.as_str() } else { "" },
                        if label.is_empty() || ranges.len() > 1 { title } else { "" },
                        &label,
                    ];
                    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
                    lines.push(Line { title: words.join(" "), points: points.clone() });
                }
            }
        }
        Self::of_lines(figure, lines, (from, to))
    }

    /// The table of a figure over the fleet.
    #[must_use]
    pub fn of_aggregates(
        figure: &Figure,
        found: &[Aggregated],
        span: (Timestamp, Timestamp),
    ) -> Option<Self> {
        let metric =
            found.iter().find(|metric| figure.metric_names().any(|name| name == metric.name.as_str()))?;
        let lines = if figure.source == Source::Top.name() {
            metric
                .top
                .iter()
                .map(|one| Line {
                    title: format!("{} {}", one.name, view::clean(one.labels.as_str(), view::CELL_CHARS)),
                    points: one.points.clone(),
                })
                .collect()
        } else {
            let point = |(at, value): &(Timestamp, f64)| Point {
                at: *at,
                avg: *value,
                min: *value,
                max: *value,
                count: 1,
            };
            metric
                .aggregates
                .iter()
                .map(|(aggregate, points)| Line {
                    title: words(*aggregate),
                    points: points.iter().map(point).collect(),
                })
                .collect()
        };
        Self::of_lines(figure, lines, span)
    }

    /// As [`Self::new`], of lines that were put together elsewhere.
    #[must_use]
    pub fn of_lines(
        figure: &Figure,
        mut lines: Vec<Line>,
        (from, to): (Timestamp, Timestamp),
    ) -> Option<Self> {
        lines.retain(|line| !line.points.is_empty());
        let left_out = lines.len().saturating_sub(LINES_MAX);
        lines.truncate(LINES_MAX);
        if lines.is_empty() {
            return None;
        }
        let unit =
            figure.metric_names().next().and_then(metric::find).map_or(Unit::Number, |metric| metric.unit);
        let top = if figure.is_share {
            100.0
        } else {
            lines.iter().flat_map(|line| &line.points).map(|point| point.max).fold(f64::EPSILON, f64::max)
        };
        let paths = lines
            .iter()
            .enumerate()
            .map(|(index, line)| (format!("line-{index}"), path(&line.points, (from, to), top)));
        Some(Self {
            slug: figure.slug.clone(),
            title: figure.title.clone(),
            drawing: Drawing { paths: paths.collect() },
            columns: lines.iter().map(|line| line.title.clone()).collect(),
            rows: rows(&lines, unit, (from, to)),
            left_out,
        })
    }
}

fn words(aggregate: Aggregate) -> String {
    match aggregate {
        Aggregate::Avg => "Average".to_owned(),
        Aggregate::Max => "Highest".to_owned(),
        Aggregate::Min => "Lowest".to_owned(),
        Aggregate::Percentile(rank) => format!("{rank}th percentile"),
        other => other.to_string(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a place on a drawing needs few digits")]
fn path(points: &[Point], (from, to): (Timestamp, Timestamp), top: f64) -> String {
    let length_ms = (to.as_millis() - from.as_millis()).max(1);
    let step_ms = length_ms / i64::try_from(POINTS).unwrap_or(1) + 1;
    let mut text = String::with_capacity(points.len() * 12);
    let mut before: Option<i64> = None;
    for point in points {
        let at_ms = point.at.as_millis();
        let joined = before.is_some_and(|before| at_ms - before <= step_ms * 2);
        let x = (at_ms - from.as_millis()) as f64 / length_ms as f64 * WIDTH;
        let y = HEIGHT - (point.avg / top).clamp(0.0, 1.0) * (HEIGHT - 4.0) - 2.0;
        text.push_str(&format!("{}{x:.1} {y:.1}", if joined { " " } else { "M" }));
        before = Some(at_ms);
    }
    text
}

/// Newest first; a row without any value is left out.
fn rows(lines: &[Line], unit: Unit, (from, to): (Timestamp, Timestamp)) -> Vec<Row> {
    let length_ms = (to.as_millis() - from.as_millis()).max(1);
    let count = i64::try_from(POINTS / POINTS_A_ROW).unwrap_or(1);
    let width_ms = length_ms / count + 1;
    let mut rows = Vec::new();
    for index in (0..count).rev() {
        let begins = from.as_millis() + index * width_ms;
        let within = begins..begins + width_ms;
        let cells: Vec<(Value, Option<Value>)> = lines
            .iter()
            .map(|line| {
                let points = line.points.iter().filter(|point| within.contains(&point.at.as_millis()));
                folded(points).map_or((Value::default(), None), |(average, most)| {
                    let (average, most) = (shown(unit, average), shown(unit, most));
                    let more = (most != average).then_some(most);
                    (average, more)
                })
            })
            .collect();
        if cells.iter().any(|(value, _)| value.is_known()) {
            rows.push(Row { time: view::utc(Timestamp::from_millis(begins)), cells });
        }
    }
    rows
}

/// Average by samples, and the greatest.
fn folded<'a>(points: impl Iterator<Item = &'a Point>) -> Option<(f64, f64)> {
    let (mut sum, mut samples, mut most) = (0.0, 0.0, f64::NEG_INFINITY);
    for point in points {
        let weight = f64::from(point.count);
        sum += point.avg * weight;
        samples += weight;
        most = most.max(point.max);
    }
    (samples > 0.0).then(|| (sum / samples, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at_s: i64, value: f64) -> Point {
        Point { at: Timestamp::from_millis(at_s * 1000), avg: value, min: value, max: value + 1.0, count: 1 }
    }

    #[test]
    fn a_table_has_rows_where_there_are_values_and_its_drawing_a_gap_where_there_are_none() {
        let figure = Figure::new("CPU", &["cpu_percent"], Source::Servers).unwrap();
        let span = (Timestamp::from_millis(0), Timestamp::from_millis(9_600_000));
        let points = vec![point(0, 10.0), point(100, 20.0), point(9000, 30.0)];
        let line = Line { title: "web-1".to_owned(), points };
        let table = ChartTable::of_lines(&figure, vec![line], span).unwrap();
        assert_eq!(table.rows.len(), 2);
        assert_eq!(table.rows[1].cells[0].0, view::percent(Some(15.0)));
        assert_eq!(table.drawing.paths[0].1.matches('M').count(), 2);
        let empty = Line { title: String::new(), points: Vec::new() };
        assert!(ChartTable::of_lines(&figure, vec![empty], span).is_none());
    }
}
