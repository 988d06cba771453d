//! The fleet page: summary, filters, and every server as a card or a row of a table.

mod query;

use std::collections::BTreeSet;

use askama::Template;

use crate::fleet::{ServerState, Summary};
use crate::model::{Health, Reachability, Status, Timestamp, Transport};
use crate::web::view::{self, Share, Spark, Value, When};

use super::groups::Chip;
use super::{Badge, Choice, Chrome, Fragment, Section, Viewer, capital};

pub use query::{FleetQuery, SortKey, View};
pub(in crate::web::pages) use query::{by_name, natural_text};

/// `GET /`.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/fleet.html")]
pub struct FleetPage {
    pub chrome: Chrome,
    summary: SummaryView,
    filters: Filters,
    rows: Vec<ServerView>,
    /// `37 of 1,204 servers`.
    counted: String,
    /// There is no server at all.
    is_empty: bool,
    in_table: bool,
    columns: Vec<Column>,
}

impl FleetPage {
    /// `servers` are all that the viewer may see; the query chooses among them.
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        servers: &[ServerState],
        summary: &Summary,
        query: &FleetQuery,
        now: Timestamp,
    ) -> Self {
        let chosen = query.select(servers);
        let total = view::whole(u64::try_from(servers.len()).unwrap_or(u64::MAX));
        let noun = if servers.len() == 1 { "server" } else { "servers" };
        let counted = if query.is_filtered() {
            format!("{} of {total} {noun}", view::whole(u64::try_from(chosen.len()).unwrap_or(u64::MAX)))
        } else {
            format!("{total} {noun}")
        };
        Self {
            chrome: Chrome::new("Fleet", Section::Fleet, Some("fleet".to_owned()), viewer, now),
            summary: SummaryView::new(summary),
            filters: Filters::new(servers, query),
            rows: chosen.into_iter().map(|state| ServerView::new(state, query.view, now)).collect(),
            counted,
            is_empty: servers.is_empty(),
            in_table: query.view == View::Table,
            columns: SortKey::ALL.into_iter().map(|sort| Column::new(sort, query)).collect(),
        }
    }
}

/// The card and the row of one server, for open pages. A page replaces the one that it shows.
#[must_use]
pub fn row_fragments(state: &ServerState, now: Timestamp) -> Vec<Fragment> {
    let id = state.server.id;
    let card = Card { row: ServerView::new(state, View::Grid, now) };
    let row = Row { row: ServerView::new(state, View::Table, now) };
    [Fragment::render(format!("card-{id}"), &card), Fragment::render(format!("row-{id}"), &row)]
        .into_iter()
        .flatten()
        .collect()
}

/// The cards above the servers, for open pages.
#[must_use]
pub fn summary_fragments(summary: &Summary) -> Vec<Fragment> {
    let part = SummaryPart { summary: SummaryView::new(summary) };
    Fragment::render("fleet-summary".to_owned(), &part).into_iter().collect()
}

#[derive(Debug, Template)]
#[template(path = "partials/server_card.html")]
struct Card {
    row: ServerView,
}

#[derive(Debug, Template)]
#[template(path = "partials/server_row.html")]
struct Row {
    row: ServerView,
}

#[derive(Debug, Template)]
#[template(path = "partials/fleet_summary.html")]
struct SummaryPart {
    summary: SummaryView,
}

/// One server as the fleet page shows it.
#[derive(Debug, Clone)]
pub struct ServerView {
    pub id: String,
    pub name: String,
    pub address: String,
    pub description: String,
    pub badge: Badge,
    pub status: Option<Badge>,
    pub region: Option<String>,
    pub environment: Option<String>,
    pub tags: Vec<String>,
    pub groups: Vec<Chip>,
    pub cpu: Share,
    pub memory: Share,
    pub disk: Share,
    pub received: Value,
    pub sent: Value,
    pub load: Value,
    pub uptime: Value,
    pub seen: When,
    pub spark: Spark,
    /// The first reason why it is not healthy.
    pub trouble: Option<String>,
    /// The figures are from before the connection was lost.
    pub is_stale: bool,
}

impl ServerView {
    #[must_use]
    pub fn new(state: &ServerState, layout: View, now: Timestamp) -> Self {
        let (server, figures) = (&state.server, &state.figures);
        Self {
            id: server.id.to_string(),
            name: server.name.to_string(),
            address: view::clean(&address(state), view::CELL_CHARS),
            description: view::clean(&server.description, view::CELL_CHARS),
            badge: Badge::health(state.health),
            status: Badge::status(server.status),
            region: server.region.clone(),
            environment: server.environment.clone(),
            tags: server.tags.iter().map(ToString::to_string).collect(),
            groups: state.groups.iter().map(|group| Chip::of(group)).collect(),
            cpu: Share::of(figures.cpu_percent),
            memory: Share::of(figures.memory_percent),
            disk: Share::of(figures.disk_percent),
            received: view::rate(figures.network_rx_bytes),
            sent: view::rate(figures.network_tx_bytes),
            load: view::number(figures.load1),
            uptime: view::duration(figures.uptime_seconds),
            seen: When::new(state.last_seen_at, now),
            spark: match layout {
                View::Grid => Spark::area(&state.cpu_recent),
                View::Table => Spark::line(&state.cpu_recent),
            },
            trouble: trouble(state),
            is_stale: matches!(state.reachability, Reachability::Unreachable { .. })
                || server.status == Status::Inactive,
        }
    }
}

/// How a server is reached, in the form that `ssh` takes.
pub(in crate::web::pages) fn address(state: &ServerState) -> String {
    let server = &state.server;
    match (server.transport, &server.hostname) {
        (Transport::Local, _) => "this machine".to_owned(),
        (_, None) => server.transport.name().to_owned(),
        (Transport::Http, Some(host)) => host.clone(),
        (_, Some(host)) => {
            let user = server.username.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
            let shown_host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            match server.port.get() {
                22 => format!("{user}{host}"),
                port => format!("{user}{shown_host}:{port}"),
            }
        }
    }
}

/// What is wrong with a server in a line: the address stands beside it, and what to do about it on its own page.
pub(in crate::web::pages) fn trouble(state: &ServerState) -> Option<String> {
    let text = match &state.reachability {
        Reachability::Unreachable { layer: Some(layer), reason, .. } => {
            let told = reason.split_once(" cannot be reached, ").map_or(reason.as_str(), |(_, why)| why);
            let told = told.split_once(". ").map_or(told, |(first, _)| first).trim_end_matches('.');
            let named = told.strip_prefix(layer.title()).and_then(|rest| rest.strip_prefix(": "));
            format!("{}: {}", capital(layer.title()), named.unwrap_or(told))
        }
        Reachability::Unreachable { layer: None, reason, .. } => reason.clone(),
        _ => state.health_reasons.first()?.clone(),
    };
    Some(view::clean(&text, view::CELL_CHARS))
}

/// The cards above the servers.
#[derive(Debug, Clone)]
struct SummaryView {
    total: String,
    active: String,
    maintenance: String,
    inactive: String,
    parts: Vec<Part>,
    cpu: Share,
    memory: Share,
    disk: Share,
}

/// One health of the distribution bar.
#[derive(Debug, Clone)]
struct Part {
    name: &'static str,
    badge: Badge,
    count: String,
    is_none: bool,
    /// In thousandths of the bar.
    start: u64,
    width: u64,
}

impl SummaryView {
    fn new(summary: &Summary) -> Self {
        let counts = [
            (Health::Healthy, summary.healthy_servers),
            (Health::Degraded, summary.degraded_servers),
            (Health::Critical, summary.critical_servers),
            (Health::Unreachable, summary.unreachable_servers),
            (Health::Unknown, summary.unknown_servers),
        ];
        let all: u64 = counts.iter().map(|(_, count)| u64::from(*count)).sum();
        let thousandths = |count: u64| (count * 1000).checked_div(all).unwrap_or(0);
        let mut before = 0;
        let parts = counts.into_iter().map(|(health, count)| {
            let start = thousandths(before);
            before += u64::from(count);
            Part {
                name: health.name(),
                badge: Badge::health(health),
                count: view::whole(count),
                is_none: count == 0,
                start,
                width: thousandths(before) - start,
            }
        });
        Self {
            parts: parts.collect(),
            total: view::whole(summary.total_servers),
            active: view::whole(summary.active_servers),
            maintenance: view::whole(summary.maintenance_servers),
            inactive: view::whole(summary.inactive_servers),
            cpu: Share::of(summary.average_cpu_percent),
            memory: Share::of(summary.average_memory_percent),
            disk: Share::of(summary.average_disk_percent),
        }
    }
}

/// The form above the servers.
#[derive(Debug, Clone)]
struct Filters {
    search: String,
    selects: Vec<Select>,
    sorts: Vec<Choice>,
    sort_name: &'static str,
    order: &'static str,
    view_name: &'static str,
    is_filtered: bool,
    clear_address: String,
    grid_address: String,
    table_address: String,
}

#[derive(Debug, Clone)]
struct Select {
    name: &'static str,
    title: &'static str,
    choices: Vec<Choice>,
    is_used: bool,
}

impl Select {
    fn new(
        name: &'static str,
        title: &'static str,
        current: &str,
        values: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let mut choices = vec![Choice::of("", title, current)];
        choices.extend(values.into_iter().map(|(value, text)| Choice::of(&value, &text, current)));
        // A filter from an old address stays visible, so that it can be taken away.
        if !choices.iter().any(|choice| choice.selected) {
            choices.push(Choice::of(current, current, current));
        }
        Self { name, title, is_used: !current.is_empty(), choices }
    }
}

impl Filters {
    fn new(servers: &[ServerState], query: &FleetQuery) -> Self {
        let same = |values: BTreeSet<&str>| -> Vec<(String, String)> {
            values.into_iter().map(|value| (value.to_owned(), value.to_owned())).collect()
        };
        let regions = servers.iter().filter_map(|state| state.server.region.as_deref()).collect();
        let environments = servers.iter().filter_map(|state| state.server.environment.as_deref()).collect();
        let tags = servers.iter().flat_map(|state| &state.server.tags).map(|tag| tag.as_str()).collect();
        let groups =
            servers.iter().flat_map(|state| &state.groups).map(|group| group.name.as_str()).collect();
        let health = Health::ALL.iter().map(|health| (health.name().to_owned(), capital(health.name())));
        let status = Status::ALL.iter().map(|status| (status.name().to_owned(), capital(status.name())));
        Self {
            search: query.search.clone(),
            selects: vec![
                Select::new("health", "Health", query.health.map_or("", Health::name), health),
                Select::new("status", "Status", query.status.map_or("", Status::name), status),
                Select::new("region", "Region", &query.region, same(regions)),
                Select::new("environment", "Environment", &query.environment, same(environments)),
                Select::new("tag", "Tag", &query.tag, same(tags)),
                Select::new("group", "Group", &query.group, same(groups)),
            ],
            sorts: SortKey::ALL
                .into_iter()
                .map(|sort| {
                    let title = if sort == SortKey::Name { "name" } else { sort.title() };
                    Choice::of(sort.name(), &format!("By {title}"), query.sort.name())
                })
                .collect(),
            sort_name: query.sort.name(),
            order: if query.descending { "desc" } else { "asc" },
            view_name: if query.view == View::Table { "table" } else { "grid" },
            is_filtered: query.is_filtered(),
            clear_address: query.without_filters().address(),
            grid_address: FleetQuery { view: View::Grid, ..query.clone() }.address(),
            table_address: FleetQuery { view: View::Table, ..query.clone() }.address(),
        }
    }
}

/// A heading of the table, which orders it.
#[derive(Debug, Clone)]
struct Column {
    title: &'static str,
    class: &'static str,
    address: String,
    /// For `aria-sort`; empty: not ordered by this column.
    sorted: &'static str,
}

impl Column {
    fn new(sort: SortKey, query: &FleetQuery) -> Self {
        let sorted = match (query.sort == sort, query.descending) {
            (false, _) => "",
            (true, true) => "descending",
            (true, false) => "ascending",
        };
        Self { title: sort.title(), class: sort.name(), address: query.sorted_by(sort).address(), sorted }
    }
}

#[cfg(test)]
mod tests;
