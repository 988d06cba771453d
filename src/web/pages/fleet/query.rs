//! What the address of the fleet page asks for: filters, order and view. Pure: a list in, a list out.

use std::cmp::Ordering;

use crate::fleet::ServerState;
use crate::model::{Health, Status};

/// Longest filter text that is kept; a name has at most 63 characters.
const FILTER_MAX_CHARS: usize = 200;

/// How the servers are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum View {
    #[default]
    Grid,
    Table,
}

/// What the servers are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortKey {
    #[default]
    Name,
    /// The worst first.
    Health,
    Cpu,
    Memory,
    Disk,
    Network,
    Load,
    Uptime,
    Seen,
}

impl SortKey {
    pub const ALL: [Self; 9] = [
        Self::Name,
        Self::Health,
        Self::Cpu,
        Self::Memory,
        Self::Disk,
        Self::Network,
        Self::Load,
        Self::Uptime,
        Self::Seen,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Health => "health",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Network => "network",
            Self::Load => "load",
            Self::Uptime => "uptime",
            Self::Seen => "seen",
        }
    }

    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Name => "Server",
            Self::Health => "Health",
            Self::Cpu => "CPU",
            Self::Memory => "Memory",
            Self::Disk => "Disk",
            Self::Network => "Network",
            Self::Load => "Load",
            Self::Uptime => "Uptime",
            Self::Seen => "Last seen",
        }
    }

    /// Figures start with the largest, names with A.
    const fn starts_descending(self) -> bool {
        !matches!(self, Self::Name)
    }
}

/// The query of the fleet page. Words that mean nothing are ignored: an old address still opens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FleetQuery {
    /// Found in name, address, description, region, environment or a tag; case does not matter.
    pub search: String,
    pub region: String,
    pub environment: String,
    pub tag: String,
    /// Name or id.
    pub group: String,
    pub status: Option<Status>,
    pub health: Option<Health>,
    pub sort: SortKey,
    pub descending: bool,
    pub view: View,
}

impl FleetQuery {
    /// From the decoded pairs of a query string.
    #[must_use]
    pub fn from_pairs<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut query = Self::default();
        let mut order = None;
        for (key, value) in pairs {
            let value = value.as_ref().trim();
            let text = || value.chars().take(FILTER_MAX_CHARS).collect::<String>();
            match key.as_ref() {
                "search" | "q" => query.search = text(),
                "region" => query.region = text(),
                "environment" => query.environment = text(),
                "tag" => query.tag = text(),
                "group" => query.group = text(),
                "status" => query.status = value.parse().ok(),
                "health" => query.health = value.parse().ok(),
                "view" if value == "table" => query.view = View::Table,
                "sort" => {
                    query.sort =
                        SortKey::ALL.into_iter().find(|sort| sort.name() == value).unwrap_or_default();
                }
                "order" => order = Some(value == "desc"),
                _ => {}
            }
        }
        query.descending = order.unwrap_or(query.sort.starts_descending());
        query
    }

    /// Whether anything is filtered out at all.
    #[must_use]
    pub fn is_filtered(&self) -> bool {
        self.without_filters() != *self
    }

    /// The same order and view over all servers.
    #[must_use]
    pub fn without_filters(&self) -> Self {
        Self { sort: self.sort, descending: self.descending, view: self.view, ..Self::default() }
    }

    /// The same query ordered by a column, or turned round when it is ordered by it already.
    #[must_use]
    pub fn sorted_by(&self, sort: SortKey) -> Self {
        let descending = if self.sort == sort { !self.descending } else { sort.starts_descending() };
        Self { sort, descending, ..self.clone() }
    }

    /// The address of the fleet page with this query; what is usual is left out.
    #[must_use]
    pub fn address(&self) -> String {
        let query = self.query_string();
        if query.is_empty() { "/".to_owned() } else { format!("/?{query}") }
    }

    /// Without a question mark; what is usual is left out.
    #[must_use]
    pub fn query_string(&self) -> String {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for (key, value) in [
            ("search", &self.search),
            ("region", &self.region),
            ("environment", &self.environment),
            ("tag", &self.tag),
            ("group", &self.group),
        ] {
            if !value.is_empty() {
                pairs.push((key, value));
            }
        }
        pairs.extend(self.status.map(|status| ("status", status.name())));
        pairs.extend(self.health.map(|health| ("health", health.name())));
        if self.sort != SortKey::default() {
            pairs.push(("sort", self.sort.name()));
        }
        if self.descending != self.sort.starts_descending() {
            pairs.push(("order", if self.descending { "desc" } else { "asc" }));
        }
        if self.view == View::Table {
            pairs.push(("view", "table"));
        }
        // Pairs of plain text cannot fail to encode.
        serde_urlencoded::to_string(pairs).unwrap_or_default()
    }

    /// Whether a server passes the filters.
    #[must_use]
    pub fn matches(&self, state: &ServerState) -> bool {
        let server = &state.server;
        let same = |wanted: &str, value: Option<&String>| {
            wanted.is_empty() || value.is_some_and(|value| value == wanted)
        };
        same(&self.region, server.region.as_ref())
            && same(&self.environment, server.environment.as_ref())
            && self.status.is_none_or(|status| server.status == status)
            && self.health.is_none_or(|health| state.health == health)
            && (self.tag.is_empty() || server.tags.iter().any(|tag| tag.as_str() == self.tag))
            && (self.group.is_empty() || state.groups.iter().any(|group| group.is_called(&self.group)))
            && self.found_in(state)
    }

    fn found_in(&self, state: &ServerState) -> bool {
        if self.search.is_empty() {
            return true;
        }
        let server = &state.server;
        let needle = self.search.to_lowercase();
        let fields = [
            Some(server.name.as_str()),
            Some(server.description.as_str()),
            server.hostname.as_deref(),
            server.region.as_deref(),
            server.environment.as_deref(),
        ];
        let tags = server.tags.iter().map(|tag| Some(tag.as_str()));
        fields.into_iter().chain(tags).flatten().any(|field| field.to_lowercase().contains(&needle))
    }

    /// The servers that pass, in order. Unknown values come last whichever way it is ordered.
    #[must_use]
    pub fn select<'a>(&self, servers: &'a [ServerState]) -> Vec<&'a ServerState> {
        let mut chosen: Vec<&ServerState> = servers.iter().filter(|state| self.matches(state)).collect();
        chosen.sort_by(|a, b| self.compare(a, b).then_with(|| natural(a, b)));
        chosen
    }

    fn compare(&self, a: &ServerState, b: &ServerState) -> Ordering {
        let turned = |order: Ordering| if self.descending { order.reverse() } else { order };
        let key = match self.sort {
            SortKey::Name => return turned(natural(a, b)),
            SortKey::Health => return turned(severity(a).cmp(&severity(b))),
            SortKey::Seen => |state: &ServerState| {
                #[expect(clippy::cast_precision_loss, reason = "milliseconds of this age fit 53 bits")]
                state.last_seen_at.map(|at| at.as_millis() as f64)
            },
            SortKey::Cpu => |state: &ServerState| state.figures.cpu_percent,
            SortKey::Memory => |state: &ServerState| state.figures.memory_percent,
            SortKey::Disk => |state: &ServerState| state.figures.disk_percent,
            SortKey::Load => |state: &ServerState| state.figures.load1,
            SortKey::Uptime => |state: &ServerState| state.figures.uptime_seconds,
            SortKey::Network => |state: &ServerState| {
                let figures = &state.figures;
                figures.network_rx_bytes.zip(figures.network_tx_bytes).map(|(rx, tx)| rx + tx)
            },
        };
        match (key(a), key(b)) {
            (Some(a), Some(b)) => turned(a.total_cmp(&b)),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        }
    }
}

/// Larger is worse.
fn severity(state: &ServerState) -> u8 {
    match state.health {
        Health::Unreachable => 4,
        Health::Critical => 3,
        Health::Degraded => 2,
        Health::Unknown => 1,
        Health::Healthy => 0,
    }
}

/// By name, with runs of digits compared as numbers: `web-2` before `web-10`.
fn natural(a: &ServerState, b: &ServerState) -> Ordering {
    natural_text(a.server.name.as_str(), b.server.name.as_str())
}

/// Servers by name, as people count.
pub(in crate::web::pages) fn by_name(servers: &[ServerState]) -> impl Iterator<Item = &ServerState> {
    let mut sorted: Vec<&ServerState> = servers.iter().collect();
    sorted.sort_by(|a, b| natural(a, b));
    sorted.into_iter()
}

/// As people count, runs of digits compared as numbers.
pub(in crate::web::pages) fn natural_text(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let (digits_left, digits_right) = (leading_digits(left), leading_digits(right));
        if !digits_left.is_empty() && !digits_right.is_empty() {
            let (plain_left, plain_right) =
                (digits_left.trim_start_matches('0'), digits_right.trim_start_matches('0'));
            let order = plain_left.len().cmp(&plain_right.len()).then_with(|| plain_left.cmp(plain_right));
            if order.is_ne() {
                return order;
            }
            left = left.get(digits_left.len()..).unwrap_or("");
            right = right.get(digits_right.len()..).unwrap_or("");
            continue;
        }
        let (mut rest_left, mut rest_right) = (left.chars(), right.chars());
        match (rest_left.next(), rest_right.next()) {
            (None, None) => return a.cmp(b),
            (a, b) => {
                let order = a.map(|c| c.to_ascii_lowercase()).cmp(&b.map(|c| c.to_ascii_lowercase()));
                if order.is_ne() {
                    return order;
                }
            }
        }
        left = rest_left.as_str();
        right = rest_right.as_str();
    }
}

fn leading_digits(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::pages::samples::{Sample, now};

    fn query(pairs: &[(&str, &str)]) -> FleetQuery {
        FleetQuery::from_pairs(pairs.iter().copied())
    }

    fn names(query: &FleetQuery, servers: &[ServerState]) -> Vec<String> {
        query.select(servers).iter().map(|state| state.server.name.to_string()).collect()
    }

    fn fleet() -> Vec<ServerState> {
        vec![
            Sample::named("web-10").tag("web").region("fra").cpu(80.0).state(),
            Sample::named("web-2").tag("web").region("nyc").cpu(3.0).state(),
            Sample::named("db-1").tag("db").region("fra").environment("staging").unread().state(),
            Sample::named("cache").unreachable("no route").cpu(50.0).state(),
        ]
    }

    #[test]
    fn filters_narrow_together_and_search_looks_everywhere() {
        let servers = fleet();
        assert_eq!(names(&query(&[("region", "fra"), ("tag", "web")]), &servers), ["web-10"]);
        assert_eq!(names(&query(&[("search", "STAGING")]), &servers), ["db-1"]);
        assert_eq!(names(&query(&[("health", "unreachable")]), &servers), ["cache"]);
        assert_eq!(names(&query(&[("status", "inactive")]), &servers), Vec::<String>::new());
    }

    #[test]
    fn names_are_ordered_as_people_count() {
        assert_eq!(names(&query(&[]), &fleet()), ["cache", "db-1", "web-2", "web-10"]);
    }

    #[test]
    fn unknown_figures_come_last_in_both_directions() {
        let servers = fleet();
        assert_eq!(names(&query(&[("sort", "cpu")]), &servers), ["web-10", "cache", "web-2", "db-1"]);
        assert_eq!(
            names(&query(&[("sort", "cpu"), ("order", "asc")]), &servers),
            ["web-2", "cache", "web-10", "db-1"]
        );
        assert_eq!(names(&query(&[("sort", "health")]), &servers).first().unwrap(), "cache");
    }

    #[test]
    fn an_address_says_the_query_and_reads_back_the_same() {
        let given = query(&[("search", "a&b=<c>"), ("sort", "memory"), ("order", "asc"), ("view", "table")]);
        let address = given.address();
        assert_eq!(address, "/?search=a%26b%3D%3Cc%3E&sort=memory&order=asc&view=table");
        let pairs: Vec<(String, String)> =
            serde_urlencoded::from_str(address.trim_start_matches("/?")).unwrap();
        assert_eq!(FleetQuery::from_pairs(pairs), given);
        assert_eq!(query(&[]).address(), "/");
    }

    #[test]
    fn words_that_mean_nothing_are_ignored() {
        let odd = query(&[("sort", "zzz"), ("health", "<script>"), ("view", "cloud"), ("new", "1")]);
        assert_eq!(odd, FleetQuery::default());
        assert!(!odd.is_filtered());
        assert!(query(&[("search", &"x".repeat(5000))]).search.len() <= FILTER_MAX_CHARS);
    }

    #[test]
    fn choosing_the_same_column_turns_the_order_round() {
        let by_cpu = query(&[]).sorted_by(SortKey::Cpu);
        assert!(by_cpu.descending);
        assert!(!by_cpu.sorted_by(SortKey::Cpu).descending);
        assert!(now().as_millis() > 0);
    }
}
