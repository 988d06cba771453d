//! `GET /charts`: metrics over the fleet, or of some servers beside each other.

use askama::Template;

use crate::history::metric;
use crate::model::{Health, Timestamp};

use super::super::{Choice, Chrome, Section, Viewer, capital};
use super::{About, ChartQuery, ChartSet, Figure, Source};

/// What the page shows while no metric is chosen.
pub const USUAL_METRICS: [&str; 4] = ["cpu_percent", "memory_percent", "disk_percent", "network_rx_bytes"];
/// Beside each other, some more of a few servers fit.
const USUAL_OF_SERVERS: [&str; 8] = [
    "cpu_percent",
    "memory_percent",
    "load1",
    "disk_percent",
    "network_rx_bytes",
    "network_tx_bytes",
    "disk_read_bytes",
    "disk_written_bytes",
];

/// What the filters offer.
#[derive(Debug, Clone, Default)]
pub struct Choosable {
    pub regions: Vec<String>,
    pub environments: Vec<String>,
    pub tags: Vec<String>,
    pub servers: Vec<String>,
}

/// The page.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/charts.html")]
pub struct ChartsPage {
    pub chrome: Chrome,
    pub set: ChartSet,
    metrics: Vec<Choice>,
    is_one_metric: bool,
    selects: Vec<Select>,
    servers: String,
    /// Words of the view that the filters do not name.
    kept: Vec<(String, String)>,
    is_filtered: bool,
    counted: String,
    /// Why there are no charts.
    pub problem: Option<String>,
}

#[derive(Debug, Clone)]
struct Select {
    name: &'static str,
    title: &'static str,
    is_used: bool,
    choices: Vec<Choice>,
}

impl Select {
    fn new<'a>(
        name: &'static str,
        title: &'static str,
        values: impl Iterator<Item = &'a str>,
        current: Option<&str>,
    ) -> Self {
        let current = current.unwrap_or("");
        let any = Choice::of("", &format!("{title}: any"), current);
        let all = std::iter::once(any).chain(values.map(|value| Choice::of(value, &capital(value), current)));
        Self { name, title, is_used: !current.is_empty(), choices: all.collect() }
    }
}

impl ChartsPage {
    /// `count`: servers that the filter accepts.
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        query: &ChartQuery,
        choosable: &Choosable,
        count: usize,
        now: Timestamp,
    ) -> Self {
        let is_fleet = query.servers.is_empty();
        let names = query.metric_names();
        let about = About {
            place: if is_fleet { "fleet" } else { "servers" },
            servers: &query.servers,
            own: None,
            known_servers: choosable
                .servers
                .iter()
                .filter(|name| !query.servers.contains(name))
                .cloned()
                .collect(),
            figures: names.iter().flat_map(|name| figures(name, is_fleet)).collect(),
        };
        let set = ChartSet::new(query, about, now);
        let filtered_words = ["metric", "region", "environment", "tag", "health", "server"];
        let one = query.metrics.first().map_or("", String::as_str);
        let filter = &query.filter;
        let live = (!is_fleet).then(|| "charts".to_owned());
        Self {
            chrome: Chrome::new("Charts", Section::Charts, live, viewer, now),
            metrics: metric_choices(one),
            is_one_metric: !one.is_empty(),
            selects: vec![
                Select::new("region", "Region", texts(&choosable.regions), filter.region.as_deref()),
                Select::new(
                    "environment",
                    "Environment",
                    texts(&choosable.environments),
                    filter.environment.as_deref(),
                ),
                Select::new("tag", "Tag", texts(&choosable.tags), filter.tags.first().map(String::as_str)),
                Select::new(
                    "health",
                    "Health",
                    Health::ALL.iter().map(|health| health.name()),
                    filter.health.map(Health::name),
                ),
            ],
            servers: query.servers.join(", "),
            kept: query
                .pairs
                .iter()
                .filter(|(key, _)| !filtered_words.contains(&key.as_str()))
                .cloned()
                .collect(),
            is_filtered: query
                .pairs
                .iter()
                .any(|(key, value)| filtered_words.contains(&key.as_str()) && !value.is_empty()),
            counted: match (is_fleet, count) {
                (false, _) => format!("{} beside each other", servers(query.servers.len())),
                (true, count) => format!("over {}", servers(count)),
            },
            set,
            problem: None,
        }
    }
}

impl ChartQuery {
    /// The metrics of the page: those that were chosen, or the usual ones.
    #[must_use]
    pub fn metric_names(&self) -> Vec<String> {
        if !self.metrics.is_empty() {
            return self.metrics.clone();
        }
        let usual: &[&str] = if self.servers.is_empty() { &USUAL_METRICS } else { &USUAL_OF_SERVERS };
        usual.iter().map(|name| (*name).to_owned()).collect()
    }
}

fn servers(count: usize) -> String {
    if count == 1 { "1 server".to_owned() } else { format!("{count} servers") }
}

fn texts(values: &[String]) -> impl Iterator<Item = &str> {
    values.iter().map(String::as_str)
}

fn title(name: &str) -> String {
    metric::find(name).map_or_else(|| name.to_owned(), |metric| metric.title.to_owned())
}

fn figures(name: &str, is_fleet: bool) -> Vec<Figure> {
    let title = title(name);
    let made = if is_fleet {
        vec![
            Figure::new(&format!("{title}, all servers"), &[name], Source::Aggregate),
            Figure::new(&format!("{title}, the highest"), &[name], Source::Top),
        ]
    } else {
        vec![Figure::new(&title, &[name], Source::Servers)]
    };
    made.into_iter().flatten().collect()
}

/// Titles that two metrics share are told apart by the name.
fn metric_choices(current: &str) -> Vec<Choice> {
    let mut choices = vec![Choice::of("", "CPU, memory, disk, network", current)];
    for one in metric::CATALOGUE {
        let twice = metric::CATALOGUE.iter().filter(|other| other.title == one.title).count() > 1;
        let unit = if twice { format!(" ({})", one.unit.name().replace('_', " ")) } else { String::new() };
        choices.push(Choice::of(one.name, &format!("{}{unit}", one.title), current));
    }
    if !current.is_empty() && metric::find(current).is_none() {
        choices.push(Choice::of(current, current, current));
    }
    choices
}
