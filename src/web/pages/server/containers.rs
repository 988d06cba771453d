//! The containers of a server as their engines describe them.

use askama::Template;

use crate::actions::{Action, ContainerVerb};
use crate::fleet::{ContainerTable, ServerState};
use crate::model::{Container, ContainerUsage, Timestamp};
use crate::web::view::{self, Value, When};

use super::super::form::{Field, FieldProblem};
use super::super::{Choice, Chrome, Fragment, Viewer};
use super::{Acting, ActionLink, Head, Tab, head_fragment};

/// Rows of the table; a packed host runs some hundreds.
const ROWS_MAX: usize = 500;
/// Longest filter text that is kept.
const FILTER_MAX_CHARS: usize = 200;
/// Ports that a row shows; the API has all.
const PORTS_SHOWN: usize = 4;
const STATES: [(&str, &str); 4] =
    [("running", "Running"), ("unhealthy", "Unhealthy"), ("changing", "Changing"), ("stopped", "Stopped")];

/// The query of the page. Words that mean nothing are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerQuery {
    /// Found in name or image.
    pub search: String,
    /// `running`, `unhealthy`, `changing`, `stopped`; empty: all.
    pub state: String,
}

impl ContainerQuery {
    /// From the decoded pairs of a query string.
    #[must_use]
    pub fn from_pairs<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut query = Self::default();
        for (key, value) in pairs {
            let value = value.as_ref().trim();
            match key.as_ref() {
                "search" => query.search = value.chars().take(FILTER_MAX_CHARS).collect(),
                "state" if STATES.iter().any(|(name, _)| *name == value) => {
                    value.clone_into(&mut query.state)
                }
                _ => {}
            }
        }
        query
    }

    fn matches(&self, container: &Container) -> bool {
        let needle = self.search.to_lowercase();
        let within = |text: &str| text.to_lowercase().contains(&needle);
        let tone = Tone::of(container);
        let in_state = match self.state.as_str() {
            "running" => container.state == "running",
            "unhealthy" => container.health.as_deref() == Some("unhealthy"),
            "changing" => tone == Tone::Changing,
            "stopped" => matches!(tone, Tone::Stopped | Tone::Failed) && container.state != "running",
            _ => true,
        };
        in_state && (needle.is_empty() || within(&container.name) || within(&container.image))
    }

    /// What needs a look first, then what runs, then what rests; by name within.
    fn select<'a>(&self, all: &'a [ContainerUsage]) -> Vec<&'a ContainerUsage> {
        let mut chosen: Vec<&ContainerUsage> =
            all.iter().filter(|one| self.matches(&one.container)).collect();
        chosen.sort_by_key(|one| (Tone::of(&one.container), one.container.name.to_lowercase()));
        chosen
    }
}

/// `GET /servers/{name}/containers`. Its form sends: `/servers/{name}/container-filter` prefix.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/server_containers.html")]
pub struct ContainersPage {
    pub chrome: Chrome,
    head: Head,
    search: String,
    states: Vec<Choice>,
    list: List,
    prefix: Field,
    is_wrong: bool,
}

impl ContainersPage {
    /// `table` Err: why there is none. `problems`: what is wrong with the form's prefix, which is then shown again.
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        state: &ServerState,
        acting: &Acting,
        table: Result<&ContainerTable, &str>,
        query: &ContainerQuery,
        (prefix, problems): (&str, &[FieldProblem]),
        now: Timestamp,
    ) -> Self {
        let mut states = vec![Choice::of("", "State: any", &query.state)];
        states.extend(STATES.iter().map(|(name, title)| Choice::of(name, title, &query.state)));
        Self {
            chrome: super::chrome(viewer, state, Tab::Containers, now),
            head: Head::new(state, Tab::Containers, now),
            search: query.search.clone(),
            states,
            list: List::new(state, acting, table, query, now),
            prefix: Field::line("prefix", "Only containers whose name begins with", prefix, 128)
                .hint("Empty: all. Others are neither shown nor kept in history from then on.")
                .judged(problems),
            is_wrong: !problems.is_empty(),
        }
    }
}

#[derive(Debug, Template)]
#[template(path = "partials/containers.html")]
struct ListPart {
    list: List,
}

/// Everything on the tab that changes, for open pages.
#[must_use]
pub fn containers_fragments(
    state: &ServerState,
    acting: &Acting,
    table: Result<&ContainerTable, &str>,
    query: &ContainerQuery,
    now: Timestamp,
) -> Vec<Fragment> {
    let part = ListPart { list: List::new(state, acting, table, query, now) };
    let body = Fragment::render("containers".to_owned(), &part);
    head_fragment(state, Tab::Containers, now).into_iter().chain(body).collect()
}

#[derive(Debug, Clone)]
struct List {
    /// None: not known.
    rows: Option<Vec<Row>>,
    counted: String,
    read: When,
    /// Why not all of them are known.
    gap: Option<String>,
    /// Why none is known.
    why: Option<String>,
    has_actions: bool,
}

#[derive(Debug, Clone)]
struct Row {
    name: String,
    image: String,
    tone: Tone,
    state: String,
    health: Option<String>,
    is_unhealthy: bool,
    cpu: Value,
    memory: Value,
    memory_limit: Option<String>,
    network: Option<(String, String)>,
    block: Option<(String, String)>,
    restarts: Value,
    has_restarts: bool,
    ports: Vec<String>,
    more_ports: usize,
    since: When,
    size: Option<String>,
    engine: String,
    actions: Vec<ActionLink>,
    /// Its history: the first chart that it has.
    charts: String,
}

/// What a state means to a reader; the order is that of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tone {
    Failed,
    Changing,
    Running,
    Stopped,
}

impl Tone {
    fn of(container: &Container) -> Self {
        match (container.state.as_str(), container.health.as_deref()) {
            ("running", Some("unhealthy")) | ("dead", _) => Self::Failed,
            ("running", Some("starting")) | ("restarting" | "removing" | "stopping", _) => Self::Changing,
            ("running", _) => Self::Running,
            // Ended by itself with an error; 137 and 143 are those of a stop.
            ("exited" | "stopped", _)
                if container.exit_code.is_some_and(|code| !matches!(code, 0 | 137 | 143)) =>
            {
                Self::Failed
            }
            _ => Self::Stopped,
        }
    }

    const fn class(self) -> &'static str {
        match self {
            Self::Failed => "is-critical",
            Self::Changing => "is-degraded",
            Self::Running => "is-healthy",
            Self::Stopped => "is-neutral",
        }
    }

    const fn icon(self) -> &'static str {
        match self {
            Self::Failed => "octagon-x",
            Self::Changing => "refresh-cw",
            Self::Running => "circle-check",
            Self::Stopped => "circle-minus",
        }
    }
}

/// What makes sense for a container in its state.
const fn verbs(tone: Tone, state: &str) -> &'static [ContainerVerb] {
    use ContainerVerb::{Logs, Pause, Remove, Restart, Start, Stop, Unpause};
    match (tone, state.as_bytes()) {
        (_, b"paused") => &[Unpause, Logs],
        (Tone::Running, _) | (Tone::Failed, b"running") => &[Restart, Pause, Stop, Logs],
        (Tone::Changing, _) => &[Restart, Stop, Logs],
        (Tone::Stopped | Tone::Failed, _) => &[Start, Logs, Remove],
    }
}

fn links(state: &ServerState, container: &Container, tone: Tone) -> Vec<ActionLink> {
    let link = |verb: &ContainerVerb| {
        let (title, icon) = match verb {
            ContainerVerb::Start => ("Start", "play"),
            ContainerVerb::Stop => ("Stop", "square"),
            ContainerVerb::Restart => ("Restart", "rotate-cw"),
            ContainerVerb::Pause => ("Pause", "circle-pause"),
            ContainerVerb::Unpause => ("Resume", "play"),
            ContainerVerb::Remove => ("Remove", "trash-2"),
            ContainerVerb::Logs => ("Log", "list"),
        };
        let said = |name: &str| match name {
            "container" => Some(container.name.clone()),
            "container_engine" => Some(container.engine.clone()),
            _ => None,
        };
        // A name that no action takes (an engine's answer may hold anything) has none.
        let action = Action::parse(verb.kind(), said).ok()?;
        Some(ActionLink::new(state, &action, title, icon))
    };
    verbs(tone, &container.state).iter().filter_map(link).collect()
}

impl List {
    fn new(
        state: &ServerState,
        acting: &Acting,
        table: Result<&ContainerTable, &str>,
        query: &ContainerQuery,
        now: Timestamp,
    ) -> Self {
        let whole = |count: usize| view::whole(u64::try_from(count).unwrap_or(u64::MAX));
        let gap = super::gap_reason(state, "containers");
        // The gap says it already, with the line that helps.
        let why = table.err().filter(|_| gap.is_none()).map(|why| view::clean(why, view::TEXT_CHARS));
        let known = table.ok().map(|table| (table, query.select(&table.containers)));
        let counted = known.as_ref().map(|(table, chosen)| {
            let all = table.containers.len();
            let running = table.containers.iter().filter(|one| one.container.state == "running").count();
            let filter = if table.prefix.is_empty() {
                String::new()
            } else {
                format!(" whose name begins with {}", table.prefix)
            };
            if chosen.len() < all || chosen.len() > ROWS_MAX {
                format!("{} of {} containers{filter}", whole(chosen.len().min(ROWS_MAX)), whole(all))
            } else {
                format!("{} containers{filter}: {} running", whole(all), whole(running))
            }
        });
        Self {
            counted: counted.unwrap_or_default(),
            read: When::new(known.as_ref().map(|(table, _)| table.taken_at), now),
            gap,
            why,
            has_actions: acting.is_possible(),
            rows: known.map(|(_, chosen)| {
                chosen.into_iter().take(ROWS_MAX).map(|one| Row::new(state, acting, one, now)).collect()
            }),
        }
    }
}

impl Row {
    #[expect(clippy::cast_precision_loss, reason = "sizes and counts are shown with three digits")]
    fn new(state: &ServerState, acting: &Acting, usage: &ContainerUsage, now: Timestamp) -> Self {
        let one = &usage.container;
        let tone = Tone::of(one);
        let is_running = one.state == "running";
        let ms = if is_running { one.started_ms } else { one.created_ms };
        let since = ms.and_then(|ms| i64::try_from(ms).ok()).map(Timestamp::from_millis);
        let text = |value: Value| value.text.unwrap_or_default();
        let pair = |first: Option<f64>, second: Option<f64>| {
            first
                .zip(second)
                .map(|(first, second)| (text(view::rate(Some(first))), text(view::rate(Some(second)))))
        };
        let state_text = match one.exit_code {
            Some(code) if !is_running => format!("{} ({code})", view::clean(&one.state, 40)),
            _ => view::clean(&one.state, 40),
        };
        Self {
            name: view::clean(&one.name, view::CELL_CHARS),
            image: view::clean(&one.image, view::CELL_CHARS),
            tone,
            state: state_text,
            health: one.health.as_deref().filter(|_| is_running).map(|health| view::clean(health, 40)),
            is_unhealthy: one.health.as_deref() == Some("unhealthy"),
            cpu: view::percent(usage.cpu_percent),
            memory: view::bytes(one.memory_bytes.map(|bytes| bytes as f64)),
            memory_limit: one.memory_limit_bytes.and_then(|bytes| view::bytes(Some(bytes as f64)).text),
            network: pair(usage.rx_per_second, usage.tx_per_second),
            block: pair(usage.block_read_per_second, usage.block_written_per_second),
            restarts: view::count(one.restarts.map(|restarts| restarts as f64)),
            has_restarts: one.restarts.is_some_and(|restarts| restarts > 0),
            ports: one.ports.iter().take(PORTS_SHOWN).map(|port| view::clean(port, 60)).collect(),
            more_ports: one.ports.len().saturating_sub(PORTS_SHOWN),
            since: When::new(since, now),
            size: one.size_bytes.and_then(|bytes| view::bytes(Some(bytes as f64)).text),
            engine: view::clean(&one.engine, 20),
            actions: if acting.is_possible() { links(state, one, tone) } else { Vec::new() },
            charts: format!("/servers/{}/metrics", state.server.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Role;
    use crate::web::pages::samples::{Sample, now, viewer};

    fn table() -> ContainerTable {
        let one = |name: &str, state: &str, health: Option<&str>, exit_code| ContainerUsage {
            container: Container {
                engine: "docker".to_owned(),
                id: "a".repeat(64),
                name: name.to_owned(),
                image: "nginx:1.27".to_owned(),
                state: state.to_owned(),
                health: health.map(str::to_owned),
                exit_code,
                ports: (1..=6).map(|port| format!("0.0.0.0:{port}->{port}/tcp")).collect(),
                ..Container::default()
            },
            cpu_percent: Some(12.5),
            rx_per_second: Some(2048.0),
            tx_per_second: Some(1024.0),
            block_read_per_second: None,
            block_written_per_second: None,
        };
        ContainerTable {
            taken_at: now(),
            prefix: String::new(),
            containers: vec![
                one("web", "running", Some("healthy"), None),
                one("db", "running", Some("unhealthy"), None),
                one("old", "exited", None, Some(0)),
                one("broken", "exited", None, Some(1)),
                one("<script>alert(1)</script>", "restarting", None, None),
            ],
        }
    }

    fn page(table: Result<&ContainerTable, &str>, query: &[(&str, &str)], role: Role) -> String {
        let query = ContainerQuery::from_pairs(query.iter().copied());
        let acting = if role == Role::Viewer { Acting::NotAllowed } else { Acting::Possible };
        let state = Sample::named("a").state();
        ContainersPage::new(&viewer(role), &state, &acting, table, &query, ("", &[]), now()).render().unwrap()
    }

    #[test]
    fn what_needs_a_look_stands_first_and_states_filter() {
        let names = |pairs: &[(&str, &str)]| -> Vec<String> {
            let all = table();
            let query = ContainerQuery::from_pairs(pairs.iter().copied());
            query.select(&all.containers).iter().map(|one| one.container.name.clone()).collect()
        };
        assert_eq!(names(&[])[..2], ["broken", "db"]);
        assert_eq!(names(&[("state", "unhealthy")]), ["db"]);
        assert_eq!(names(&[("state", "stopped")]), ["broken", "old"]);
        assert_eq!(names(&[("search", "WEB")]), ["web"]);
        assert_eq!(names(&[("state", "x")]).len(), 5);
    }

    #[test]
    fn the_page_shows_figures_in_words_and_hostile_text_as_text() {
        let html = page(Ok(&table()), &[], Role::Viewer);
        assert!(html.contains("unhealthy") && html.contains("exited (1)") && html.contains("12.5"), "{html}");
        assert!(html.contains("2 more"), "{html}");
        assert!(!html.contains("<script>alert") && html.contains("&#60;script&#62;alert"));
        assert!(!html.contains("container-filter"), "viewers cannot set the filter");
        assert!(page(Ok(&table()), &[], Role::Admin).contains("container-filter"));
    }

    #[test]
    fn what_can_be_done_fits_the_state_of_the_container() {
        let state = Sample::named("a").state();
        let all = table();
        let titles = |name: &str| -> Vec<&str> {
            let one = &all.containers.iter().find(|one| one.container.name == name).unwrap().container;
            links(&state, one, Tone::of(one)).iter().map(|link| link.title).collect()
        };
        assert_eq!(titles("web"), ["Restart", "Pause", "Stop", "Log"]);
        assert_eq!(titles("db"), ["Restart", "Pause", "Stop", "Log"]);
        assert_eq!(titles("old"), ["Start", "Log", "Remove"]);
        assert_eq!(titles("<script>alert(1)</script>"), [""; 0]);
        let html = page(Ok(&table()), &[], Role::Operator);
        assert!(html.contains(
            "/servers/a/act?action=remove_container&#38;container=old&#38;container_engine=docker"
        ));
        assert!(!page(Ok(&table()), &[], Role::Viewer).contains("/act?"));
    }

    #[test]
    fn a_reason_why_there_are_none_stands_on_the_page() {
        let html = page(Err("neither Docker nor Podman runs there"), &[], Role::Viewer);
        assert!(html.contains("neither Docker nor Podman runs there"), "{html}");
    }
}
