//! What pages with charts have in common: the range, what is compared, the figures that the browser fills.
//!
//! The address is the view: everything here is read from it and written back to it.

mod fleet;
mod table;

use askama::Template;
use askama::filters::HtmlSafe;

use crate::fleet::{ServerFilter, thresholds};
use crate::history::metric::{self, Unit};
use crate::model::Timestamp;

use super::Choice;

pub use fleet::{ChartsPage, Choosable, USUAL_METRICS};
pub use table::{ChartTable, POINTS as TABLE_POINTS};

/// The time ranges on offer: name in the address, words, length in seconds.
const RANGES: [(&str, &str, u32); 8] = [
    ("15m", "15 min", 900),
    ("1h", "1 h", 3600),
    ("6h", "6 h", 21_600),
    ("24h", "24 h", 86_400),
    ("7d", "7 d", 604_800),
    ("30d", "30 d", 2_592_000),
    ("90d", "90 d", 7_776_000),
    ("1y", "1 y", 31_536_000),
];
const DEFAULT_RANGE: &str = "1h";
/// Servers beside each other on one page.
const SERVERS_MAX: usize = 10;
const METRICS_MAX: usize = 12;
/// Longest name that is looked at.
const NAME_CHARS: usize = 63;

/// What a chart is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    Day,
    Week,
}

/// Several servers in one chart, or a chart each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    #[default]
    Overlay,
    Multiples,
}

/// The query of a page with charts. Words that mean nothing are ignored: an old link still opens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChartQuery {
    /// Index into [`RANGES`]. None: `from` and `to`, or the usual range.
    range: Option<usize>,
    /// Unix milliseconds, in order.
    fixed: Option<(i64, i64)>,
    compare: Option<Before>,
    pub layout: Layout,
    /// Names or ids: servers beside the page's own, or those of the page.
    pub servers: Vec<String>,
    pub metrics: Vec<String>,
    pub filter: ServerFilter,
    pub as_table: bool,
    /// Every pair as it came, for links that change one word.
    pairs: Vec<(String, String)>,
}

fn names(text: &str, most: usize) -> impl Iterator<Item = String> {
    text.split([',', ' '])
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(|name| name.chars().take(NAME_CHARS).collect())
        .take(most)
}

impl ChartQuery {
    /// From the decoded pairs of a query string.
    #[must_use]
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut query = Self::default();
        let (mut from, mut to) = (None, None);
        for (key, value) in pairs {
            let text = || Some(value.trim().to_owned()).filter(|text| !text.is_empty());
            match key.as_str() {
                "range" => query.range = RANGES.iter().position(|(name, ..)| *name == value),
                "from" => from = Timestamp::parse(&value),
                "to" => to = Timestamp::parse(&value),
                "compare" if value == "day" => query.compare = Some(Before::Day),
                "compare" if value == "week" => query.compare = Some(Before::Week),
                "layout" if value == "multiples" => query.layout = Layout::Multiples,
                "with" | "server" => query.servers.extend(names(&value, SERVERS_MAX)),
                "metric" => query.metrics.extend(names(&value, METRICS_MAX)),
                "view" => query.as_table = value == "table",
                "region" => query.filter.region = text(),
                "environment" => query.filter.environment = text(),
                "tag" => query.filter.tags.extend(text()),
                "health" => query.filter.health = value.parse().ok(),
                "status" => query.filter.status = value.parse().ok(),
                "search" => query.filter.search = text(),
                _ => {}
            }
            query.pairs.push((key, value));
        }
        query.servers.truncate(SERVERS_MAX);
        query.metrics.truncate(METRICS_MAX);
        let ordered = from.zip(to).filter(|(from, to)| from < to);
        query.fixed = ordered.map(|(from, to)| (from.as_millis(), to.as_millis()));
        query
    }

    /// From when to when.
    #[must_use]
    pub fn span(&self, now: Timestamp) -> (Timestamp, Timestamp) {
        if let Some((from, to)) = self.fixed {
            return (Timestamp::from_millis(from), Timestamp::from_millis(to));
        }
        let seconds = RANGES.get(self.range_index()).map_or(3600, |(.., seconds)| *seconds);
        (now - std::time::Duration::from_secs(seconds.into()), now)
    }

    fn range_index(&self) -> usize {
        self.range.or_else(|| RANGES.iter().position(|(name, ..)| *name == DEFAULT_RANGE)).unwrap_or(0)
    }

    /// This query with other words in it; None takes a word out.
    fn with(&self, words: &[(&str, Option<&str>)]) -> String {
        let kept = self.pairs.iter().filter(|(key, _)| words.iter().all(|(word, _)| word != key));
        let mut pairs: Vec<(&str, &str)> = kept.map(|(key, value)| (key.as_str(), value.as_str())).collect();
        pairs.extend(words.iter().filter_map(|(word, value)| Some((*word, (*value)?))));
        // Pairs of plain text cannot fail to encode.
        format!("?{}", serde_urlencoded::to_string(pairs).unwrap_or_default())
    }

    fn without_server(&self, gone: &str) -> String {
        let rest: Vec<&str> = self.servers.iter().map(String::as_str).filter(|name| *name != gone).collect();
        let rest = Some(rest.join(",")).filter(|rest| !rest.is_empty());
        let key = if self.pairs.iter().any(|(key, _)| key == "server") { "server" } else { "with" };
        self.with(&[(key, rest.as_deref())])
    }

    /// The filter as a query of the API.
    fn filter_query(&self) -> String {
        let words = ["region", "environment", "tag", "health", "status", "search"];
        let pairs: Vec<_> = self
            .pairs
            .iter()
            .filter(|(key, value)| words.contains(&key.as_str()) && !value.is_empty())
            .collect();
        serde_urlencoded::to_string(pairs).unwrap_or_default()
    }
}

/// One range to choose.
#[derive(Debug, Clone)]
pub struct RangeLink {
    name: &'static str,
    text: &'static str,
    seconds: u32,
    address: String,
    is_current: bool,
}

/// Where the values of a figure come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A line a series of each server.
    Servers,
    /// Average, spread and 95th percentile of many servers.
    Aggregate,
    /// The highest of many servers.
    Top,
}

impl Source {
    const fn name(self) -> &'static str {
        match self {
            Self::Servers => "servers",
            Self::Aggregate => "aggregate",
            Self::Top => "top",
        }
    }
}

/// One chart, empty until the browser fills it.
#[derive(Debug, Clone)]
pub struct Figure {
    slug: String,
    title: String,
    source: &'static str,
    unit: &'static str,
    metrics: String,
    /// Percent that cannot go over 100.
    is_share: bool,
    /// `90,97`: from where on health is degraded and critical.
    thresholds: String,
}

impl Figure {
    /// A figure of metrics that share a unit. None: there are none.
    #[must_use]
    pub fn new(title: &str, names: &[&str], source: Source) -> Option<Self> {
        let first = names.first()?;
        let unit = metric::find(first).map_or(Unit::Number, |metric| metric.unit);
        let levels = names.iter().find_map(|name| thresholds(name));
        Some(Self {
            slug: slug(title),
            title: title.to_owned(),
            source: source.name(),
            unit: unit.name(),
            metrics: names.join(","),
            // Percent of one core goes beyond a hundred.
            is_share: unit == Unit::Percent && *first != "container_cpu_percent",
            thresholds: levels.map_or_else(String::new, |at| format!("{},{}", at.degraded, at.critical)),
        })
    }

    /// The metrics that share this figure.
    pub fn metric_names(&self) -> impl Iterator<Item = &str> {
        self.metrics.split(',')
    }
}

fn slug(title: &str) -> String {
    let words = title.to_lowercase();
    let words: Vec<&str> =
        words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.join("-")
}

/// A server that is compared, with the address of the page without it.
#[derive(Debug, Clone)]
pub struct Compared {
    name: String,
    without: String,
}

/// The charts of a page and what stands above them.
#[derive(Debug, Clone, Template)]
#[template(path = "partials/charts.html")]
pub struct ChartSet {
    /// What the charts are about, in the names of files.
    place: String,
    /// Names, apart by commas.
    servers: String,
    filter: String,
    layout: &'static str,
    default_range: &'static str,
    ranges: Vec<RangeLink>,
    compare: Vec<Choice>,
    layouts: Vec<Choice>,
    compared: Vec<Compared>,
    /// Name of the field that takes more servers.
    servers_field: &'static str,
    /// Names to choose from.
    known_servers: Vec<String>,
    can_compare: bool,
    figures: Vec<Figure>,
    /// The page as tables and drawings of the server, and back.
    other_view: String,
    as_table: bool,
    /// In the table view: from when to when.
    span: String,
    tables: Vec<ChartTable>,
}

// askama wrote it and escaped what is in it.
impl HtmlSafe for ChartSet {}

/// What a page says of its charts.
#[derive(Debug)]
pub struct About<'a> {
    pub place: &'a str,
    /// Names of every server that is drawn.
    pub servers: &'a [String],
    /// The page is about this one; the others can be taken away.
    pub own: Option<&'a str>,
    pub known_servers: Vec<String>,
    pub figures: Vec<Figure>,
}

impl ChartSet {
    #[must_use]
    pub fn new(query: &ChartQuery, about: About<'_>, now: Timestamp) -> Self {
        let current = query.fixed.is_none().then(|| query.range_index());
        let ranges = RANGES.into_iter().enumerate().map(|(index, (name, text, seconds))| RangeLink {
            name,
            text,
            seconds,
            address: query.with(&[("range", Some(name)), ("from", None), ("to", None)]),
            is_current: current == Some(index),
        });
        let compare = match query.compare {
            None => "",
            Some(Before::Day) => "day",
            Some(Before::Week) => "week",
        };
        let layout = match query.layout {
            Layout::Overlay => "overlay",
            Layout::Multiples => "multiples",
        };
        let others = about.servers.iter().filter(|name| Some(name.as_str()) != about.own);
        let compared: Vec<Compared> =
            others.map(|name| Compared { name: name.clone(), without: query.without_server(name) }).collect();
        let (from, to) = query.span(now);
        Self {
            place: about.place.to_owned(),
            servers: about.servers.join(","),
            filter: query.filter_query(),
            layout,
            default_range: DEFAULT_RANGE,
            ranges: ranges.collect(),
            compare: [("", "Compare with…"), ("day", "the day before"), ("week", "the week before")]
                .map(|(value, text)| Choice::of(value, text, compare))
                .into(),
            layouts: [("overlay", "in one chart"), ("multiples", "a chart each")]
                .map(|(value, text)| Choice::of(value, text, layout))
                .into(),
            compared,
            servers_field: if about.own.is_some() { "with" } else { "server" },
            known_servers: about.known_servers,
            can_compare: !about.servers.is_empty(),
            figures: about.figures,
            other_view: query.with(&[("view", (!query.as_table).then_some("table"))]),
            as_table: query.as_table,
            tables: Vec::new(),
            span: format!("{} to {}", crate::web::view::utc(from), crate::web::view::utc(to)),
        }
    }
}

impl ChartSet {
    /// Tables in place of charts.
    #[must_use]
    pub const fn is_table(&self) -> bool {
        self.as_table
    }

    /// Fills the view as tables.
    pub fn set_tables(&mut self, table: impl Fn(&Figure) -> Option<ChartTable>) {
        self.tables = self.figures.iter().filter_map(table).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> ChartQuery {
        ChartQuery::from_pairs(serde_urlencoded::from_str::<Vec<(String, String)>>(text).unwrap())
    }

    #[test]
    fn an_address_names_a_range_or_two_times_and_nonsense_is_the_usual_hour() {
        let now = Timestamp::from_millis(1_795_168_800_000);
        let length = |text: &str| {
            let (from, to) = query(text).span(now);
            (to.as_millis() - from.as_millis()) / 1000
        };
        for (text, seconds) in [
            ("", 3600),
            ("range=24h", 86_400),
            ("range=forever", 3600),
            ("from=1795168800000&to=1795168860000", 60),
            ("from=1795168860000&to=1795168800000", 3600),
            ("from=x&to=y&range=7d", 604_800),
        ] {
            assert_eq!(length(text), seconds, "{text}");
        }
    }

    #[test]
    fn a_link_changes_one_word_of_the_view_and_keeps_the_others() {
        let query = query("range=6h&with=web-2,web-3&compare=day&hide=a%26b");
        assert_eq!(
            query.with(&[("range", Some("7d")), ("from", None)]),
            "?with=web-2%2Cweb-3&compare=day&hide=a%26b&range=7d"
        );
        assert!(query.without_server("web-2").contains("with=web-3"));
        assert_eq!(query.servers, ["web-2", "web-3"]);
    }
}
