//! The processes of a server, as the last reading that brought them saw them.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use askama::Template;

use crate::fleet::ServerState;
use crate::model::{Process, ProcessUsage, Timestamp};
use crate::web::view::{self, Value, When};

use super::super::{Chrome, Fragment, Viewer};
use super::{Acting, Head, Tab, head_fragment};

/// Rows of the table. A machine can run tens of thousands; nobody reads on, the filter finds them.
const ROWS_MAX: usize = 200;
/// Longest filter text that is kept.
const FILTER_MAX_CHARS: usize = 200;
/// Deeper levels of the tree are indented no further.
const DEPTH_MAX: usize = 12;
/// From this share of one core on, a process is marked.
const BUSY_PERCENT: f64 = 50.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProcessSort {
    #[default]
    Cpu,
    Memory,
    Pid,
    Name,
    User,
    Threads,
    Started,
}

impl ProcessSort {
    const ALL: [Self; 7] =
        [Self::Pid, Self::Name, Self::User, Self::Cpu, Self::Memory, Self::Threads, Self::Started];

    const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pid => "pid",
            Self::Name => "name",
            Self::User => "user",
            Self::Threads => "threads",
            Self::Started => "started",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Memory => "Memory",
            Self::Pid => "PID",
            Self::Name => "Process",
            Self::User => "User",
            Self::Threads => "Threads",
            Self::Started => "Running for",
        }
    }

    const fn starts_descending(self) -> bool {
        matches!(self, Self::Cpu | Self::Memory | Self::Threads | Self::Started)
    }

    const fn is_number(self) -> bool {
        !matches!(self, Self::Name | Self::User)
    }
}

/// The query of the page. Words that mean nothing are ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessQuery {
    /// Found in name, command line, user or as the whole pid.
    pub search: String,
    pub sort: ProcessSort,
    pub descending: bool,
    /// Children stand under their parents.
    pub tree: bool,
}

impl Default for ProcessQuery {
    fn default() -> Self {
        Self { search: String::new(), sort: ProcessSort::Cpu, descending: true, tree: false }
    }
}

impl ProcessQuery {
    /// From the decoded pairs of a query string.
    #[must_use]
    pub fn from_pairs<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut query = Self::default();
        let mut order = None;
        for (key, value) in pairs {
            let value = value.as_ref().trim();
            match key.as_ref() {
                "search" => query.search = value.chars().take(FILTER_MAX_CHARS).collect(),
                "sort" => {
                    query.sort =
                        ProcessSort::ALL.into_iter().find(|sort| sort.name() == value).unwrap_or_default();
                }
                "order" => order = Some(value == "desc"),
                "view" => query.tree = value == "tree",
                _ => {}
            }
        }
        query.descending = order.unwrap_or(query.sort.starts_descending());
        query
    }

    fn address_sorted_by(&self, sort: ProcessSort) -> String {
        let descending = if self.sort == sort { !self.descending } else { sort.starts_descending() };
        self.address(sort, descending, self.tree)
    }

    fn address(&self, sort: ProcessSort, descending: bool, tree: bool) -> String {
        let mut pairs = vec![("sort", sort.name()), ("order", if descending { "desc" } else { "asc" })];
        if !self.search.is_empty() {
            pairs.push(("search", &self.search));
        }
        if tree {
            pairs.push(("view", "tree"));
        }
        // Pairs of plain text cannot fail to encode.
        format!("?{}", serde_urlencoded::to_string(pairs).unwrap_or_default())
    }

    fn matches(&self, usage: &ProcessUsage) -> bool {
        let needle = self.search.to_lowercase();
        let process = &usage.process;
        let within = |text: &str| text.to_lowercase().contains(&needle);
        needle.is_empty()
            || within(&process.name)
            || process.command_line.as_deref().is_some_and(within)
            || process.user.as_deref().is_some_and(within)
            || process.pid.to_string() == needle
    }

    fn select<'a>(&self, processes: &'a [ProcessUsage]) -> Vec<&'a ProcessUsage> {
        let mut chosen: Vec<&ProcessUsage> = processes.iter().filter(|usage| self.matches(usage)).collect();
        self.sort(&mut chosen);
        chosen
    }

    fn sort(&self, chosen: &mut [&ProcessUsage]) {
        chosen.sort_by(|a, b| {
            let order = self.compare(a, b);
            let order = if self.descending { order.reverse() } else { order };
            order.then_with(|| b.process.rss_bytes.cmp(&a.process.rss_bytes))
        });
    }

    /// Every process that matches under its parents, and those that lead to one; siblings are sorted.
    fn tree<'a>(&self, processes: &'a [ProcessUsage]) -> Vec<Placed<'a>> {
        let parents: HashMap<u32, u32> =
            processes.iter().map(|usage| (usage.process.pid, usage.process.parent_pid)).collect();
        let matched: HashSet<u32> = self.select(processes).iter().map(|usage| usage.process.pid).collect();
        let mut shown = matched.clone();
        let mut rising: Vec<u32> = matched.iter().copied().collect();
        while let Some(pid) = rising.pop() {
            let parent = parents.get(&pid).copied().filter(|parent| parents.contains_key(parent));
            rising.extend(parent.filter(|parent| shown.insert(*parent)));
        }
        let mut sorted: Vec<&ProcessUsage> =
            processes.iter().filter(|usage| shown.contains(&usage.process.pid)).collect();
        self.sort(&mut sorted);
        let mut children: HashMap<u32, Vec<&ProcessUsage>> = HashMap::new();
        let mut roots = Vec::new();
        for usage in &sorted {
            let parent = usage.process.parent_pid;
            if shown.contains(&parent) && parent != usage.process.pid {
                children.entry(parent).or_default().push(usage);
            } else {
                roots.push(*usage);
            }
        }
        let mut placed = Vec::with_capacity(sorted.len());
        // After the roots, what a hostile server says to be its own ancestor: it would stand under nothing.
        for root in roots.into_iter().chain(sorted) {
            let mut waiting = vec![(root, 0)];
            while let Some((usage, depth)) = waiting.pop() {
                let pid = usage.process.pid;
                if !shown.remove(&pid) {
                    continue;
                }
                placed.push(Placed { usage, depth, matches: matched.contains(&pid) });
                let below = children.remove(&pid).unwrap_or_default();
                waiting.extend(below.into_iter().rev().map(|usage| (usage, depth + 1)));
            }
        }
        placed
    }

    fn compare(&self, a: &ProcessUsage, b: &ProcessUsage) -> Ordering {
        let (x, y) = (&a.process, &b.process);
        match self.sort {
            ProcessSort::Cpu => a.cpu_percent.unwrap_or(-1.0).total_cmp(&b.cpu_percent.unwrap_or(-1.0)),
            ProcessSort::Memory => x.rss_bytes.cmp(&y.rss_bytes),
            ProcessSort::Pid => x.pid.cmp(&y.pid),
            ProcessSort::Name => x.name.to_lowercase().cmp(&y.name.to_lowercase()),
            ProcessSort::User => x.user.cmp(&y.user).then(x.uid.cmp(&y.uid)),
            ProcessSort::Threads => x.threads.cmp(&y.threads),
            // Running longer is larger.
            ProcessSort::Started => y.start_ticks.cmp(&x.start_ticks),
        }
    }
}

/// A process with its place in the tree.
struct Placed<'a> {
    usage: &'a ProcessUsage,
    depth: usize,
    /// False: it only leads to one that matches.
    matches: bool,
}

/// `GET /servers/{name}/processes`.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/server_processes.html")]
pub struct ProcessesPage {
    pub chrome: Chrome,
    head: Head,
    search: String,
    sort_name: &'static str,
    order: &'static str,
    is_tree: bool,
    /// The same as a list, and as a tree.
    views: [String; 2],
    list: List,
}

impl ProcessesPage {
    /// `processes` None: no reading has brought any yet. `read_at`: when they were read.
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        state: &ServerState,
        acting: &Acting,
        processes: Option<&[ProcessUsage]>,
        read_at: Option<Timestamp>,
        query: &ProcessQuery,
        now: Timestamp,
    ) -> Self {
        Self {
            chrome: super::chrome(viewer, state, Tab::Processes, now),
            head: Head::new(state, Tab::Processes, now),
            search: query.search.clone(),
            sort_name: query.sort.name(),
            order: if query.descending { "desc" } else { "asc" },
            is_tree: query.tree,
            views: [false, true].map(|tree| query.address(query.sort, query.descending, tree)),
            list: List::new(state, acting, processes, read_at, query, now),
        }
    }
}

#[derive(Debug, Template)]
#[template(path = "partials/processes.html")]
struct ListPart {
    list: List,
}

/// Everything on the tab that changes, for open pages.
#[must_use]
pub fn processes_fragments(
    state: &ServerState,
    acting: &Acting,
    processes: Option<&[ProcessUsage]>,
    read_at: Option<Timestamp>,
    query: &ProcessQuery,
    now: Timestamp,
) -> Vec<Fragment> {
    let part = ListPart { list: List::new(state, acting, processes, read_at, query, now) };
    let body = Fragment::render("processes".to_owned(), &part);
    head_fragment(state, Tab::Processes, now).into_iter().chain(body).collect()
}

#[derive(Debug, Clone)]
struct List {
    /// None: not read yet.
    rows: Option<Vec<Row>>,
    columns: Vec<Column>,
    counted: String,
    read: When,
    /// Why some are missing.
    gap: Option<String>,
    is_tree: bool,
    has_actions: bool,
}

#[derive(Debug, Clone)]
struct Column {
    title: &'static str,
    class: &'static str,
    address: String,
    sorted: &'static str,
    is_number: bool,
}

#[derive(Debug, Clone)]
struct Row {
    /// As far as it is shown by an indent.
    depth: usize,
    /// From 1, for those who do not see the indent.
    level: usize,
    /// It is shown because it leads to one that matches.
    is_way: bool,
    pid: u32,
    parent_pid: u32,
    user: Value,
    name: String,
    command_line: Option<String>,
    state: &'static str,
    is_odd_state: bool,
    cpu: Value,
    is_busy: bool,
    memory: Value,
    threads: String,
    running_for: Value,
    /// Where ending it is confirmed.
    end_address: Option<String>,
}

impl List {
    fn new(
        state: &ServerState,
        acting: &Acting,
        processes: Option<&[ProcessUsage]>,
        read_at: Option<Timestamp>,
        query: &ProcessQuery,
        now: Timestamp,
    ) -> Self {
        let whole = |count: usize| view::whole(u64::try_from(count).unwrap_or(u64::MAX));
        let chosen: Option<Vec<Placed<'_>>> = processes.map(|processes| {
            if query.tree {
                return query.tree(processes);
            }
            let flat = |usage| Placed { usage, depth: 0, matches: true };
            query.select(processes).into_iter().map(flat).collect()
        });
        let counted = match (processes, &chosen) {
            (Some(all), Some(chosen)) if chosen.len() > ROWS_MAX => {
                format!("The first {} of {}; {} were read", ROWS_MAX, whole(chosen.len()), whole(all.len()))
            }
            (Some(all), Some(chosen)) if chosen.len() < all.len() => {
                format!("{} of {} that were read", whole(chosen.len()), whole(all.len()))
            }
            (Some(all), _) => format!("{} processes", whole(all.len())),
            (None, _) => String::new(),
        };
        Self {
            rows: chosen.map(|chosen| {
                let row = |placed: Placed<'_>| Row {
                    depth: placed.depth.min(DEPTH_MAX),
                    level: placed.depth + 1,
                    is_way: !placed.matches,
                    ..Row::new(state, acting, placed.usage, now)
                };
                chosen.into_iter().take(ROWS_MAX).map(row).collect()
            }),
            columns: ProcessSort::ALL.into_iter().map(|sort| Column::new(sort, query)).collect(),
            counted,
            read: When::new(read_at, now),
            gap: super::gap_reason(state, "processes"),
            is_tree: query.tree,
            has_actions: acting.is_possible(),
        }
    }
}

impl Column {
    fn new(sort: ProcessSort, query: &ProcessQuery) -> Self {
        let sorted = match (query.sort == sort, query.descending) {
            (false, _) => "",
            (true, true) => "descending",
            (true, false) => "ascending",
        };
        Self {
            title: sort.title(),
            class: sort.name(),
            address: query.address_sorted_by(sort),
            sorted,
            is_number: sort.is_number(),
        }
    }
}

impl Row {
    #[expect(clippy::cast_precision_loss, reason = "sizes and spans are shown with three digits")]
    fn new(state: &ServerState, acting: &Acting, usage: &ProcessUsage, now: Timestamp) -> Self {
        let process = &usage.process;
        let running_for = usage
            .started_at_ms
            .and_then(|started| i64::try_from(started).ok())
            .map(|started| now.since(Timestamp::from_millis(started)).as_secs() as f64);
        let user = process.user.clone().or_else(|| process.uid.map(|uid| uid.to_string()));
        Self {
            depth: 0,
            level: 1,
            is_way: false,
            pid: process.pid,
            parent_pid: process.parent_pid,
            user: Value::foreign(user.as_deref()),
            name: view::clean(&process.name, 64),
            command_line: process
                .command_line
                .as_deref()
                .map(|line| view::clean(line, view::TEXT_CHARS))
                .filter(|line| !line.is_empty()),
            state: state_words(process.state),
            is_odd_state: matches!(process.state, 'D' | 'Z' | 'T' | 't'),
            cpu: view::percent(usage.cpu_percent),
            is_busy: usage.cpu_percent.is_some_and(|percent| percent >= BUSY_PERCENT),
            memory: view::bytes(Some(process.rss_bytes as f64)),
            threads: view::whole(process.threads),
            running_for: view::duration(running_for),
            end_address: (acting.is_possible() && can_be_ended(process)).then(|| {
                format!(
                    "/servers/{}/act?action=kill_process&pid={}&start_ticks={}",
                    state.server.name, process.pid, process.start_ticks
                )
            }),
        }
    }
}

/// Not init, not what has ended already, and not what belongs to the kernel: its threads are children of pid 2 and
/// have no command line.
const fn can_be_ended(process: &Process) -> bool {
    let is_kernel = process.command_line.is_none() && (process.pid == 2 || process.parent_pid == 2);
    process.pid > 1 && !is_kernel && !matches!(process.state, 'Z' | 'X' | 'x')
}

/// Source: proc(5), field 3 of /proc/PID/stat.
const fn state_words(state: char) -> &'static str {
    match state {
        'R' => "running",
        'S' => "sleeping",
        'D' => "waiting for I/O",
        'Z' => "zombie",
        'T' => "stopped",
        't' => "traced",
        'I' => "idle",
        'X' | 'x' => "dead",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Role;
    use crate::web::pages::samples::{Sample, now, processes, viewer};

    fn pids(query: &[(&str, &str)]) -> Vec<u32> {
        let all = processes();
        let query = ProcessQuery::from_pairs(query.iter().copied());
        query.select(&all).iter().map(|usage| usage.process.pid).collect()
    }

    #[test]
    fn the_busiest_stand_first_and_the_filter_finds_by_every_word_of_a_row() {
        assert_eq!(pids(&[]).first(), Some(&812));
        assert_eq!(pids(&[("sort", "pid"), ("order", "asc")]).first(), Some(&1));
        assert_eq!(pids(&[("search", "POSTGRES")]), [812, 813]);
        assert_eq!(pids(&[("search", "990")]), [990]);
        assert_eq!(pids(&[("sort", "memory")]).first(), Some(&813));
    }

    #[test]
    fn in_the_tree_children_stand_under_their_parents_and_the_filter_keeps_the_way_to_a_match() {
        let usage = |pid: u32, parent_pid: u32, name: &str, cpu: f64| ProcessUsage {
            process: Process { pid, parent_pid, name: name.to_owned(), state: 'S', ..Process::default() },
            cpu_percent: Some(cpu),
            started_at_ms: None,
        };
        let all = [
            usage(30, 20, "worker", 90.0),
            usage(31, 20, "worker", 95.0),
            usage(20, 1, "nginx", 1.0),
            usage(40, 1, "cron", 2.0),
            usage(1, 0, "init", 0.5),
            // Processes of a hostile server may be their own parents, or each other's.
            usage(7, 7, "self", 0.4),
            usage(8, 9, "a", 0.3),
            usage(9, 8, "b", 0.2),
        ];
        let rows = |search: &str| {
            let query = ProcessQuery::from_pairs([("view", "tree"), ("search", search)]);
            query.tree(&all).iter().map(|at| (at.usage.process.pid, at.depth, at.matches)).collect::<Vec<_>>()
        };
        let (all_match, tree) = (true, [(1, 0), (40, 1), (20, 1), (31, 2), (30, 2), (7, 0), (8, 0), (9, 1)]);
        assert_eq!(rows(""), tree.map(|(pid, depth)| (pid, depth, all_match)));
        assert_eq!(rows("worker"), [(1, 0, false), (20, 1, false), (31, 2, true), (30, 2, true)]);
        let state = Sample::named("a").state();
        let query = ProcessQuery::from_pairs([("view", "tree"), ("search", "worker")]);
        let viewer = viewer(Role::Viewer);
        let page = ProcessesPage::new(&viewer, &state, &Acting::NotAllowed, Some(&all), None, &query, now());
        let html = page.render().unwrap();
        assert!(html.contains("depth-2") && html.contains("level 3") && html.contains("is-way"));
        assert!(html.contains("order=asc&#38;search=worker&#38;view=tree"), "sorting keeps the tree");
    }

    #[test]
    fn command_lines_of_a_hostile_server_are_text() {
        let state = Sample::named("a").state();
        let page = ProcessesPage::new(
            &viewer(Role::Viewer),
            &state,
            &Acting::NotAllowed,
            Some(&processes()),
            None,
            &ProcessQuery::default(),
            now(),
        );
        let html = page.render().unwrap();
        assert!(!html.contains("<script>alert") && !html.contains('\u{1b}'));
        assert!(html.contains("&#60;script&#62;alert") && html.contains("zombie"));
    }

    #[test]
    fn processes_that_were_never_read_are_said_to_be_so() {
        let state = Sample::named("a").gap("processes", "hidepid hides other users' processes.").state();
        let (viewer, query) = (viewer(Role::Viewer), ProcessQuery::default());
        let page = ProcessesPage::new(&viewer, &state, &Acting::NotAllowed, None, None, &query, now());
        let html = page.render().unwrap();
        assert!(!html.contains("have not been read yet") && html.contains("hidepid hides"));
        let state = Sample::named("a").state();
        let page = ProcessesPage::new(&viewer, &state, &Acting::NotAllowed, None, None, &query, now());
        assert!(page.render().unwrap().contains("have not been read yet"));
    }

    #[test]
    fn who_may_act_can_end_processes_but_not_the_kernel_s() {
        let state = Sample::named("a").state();
        let mut all = processes();
        let mut kernel = all[0].clone();
        kernel.process = Process { pid: 77, parent_pid: 2, command_line: None, ..kernel.process };
        all.push(kernel);
        let page = |acting: &Acting| {
            let (viewer, query) = (viewer(Role::Operator), ProcessQuery::default());
            ProcessesPage::new(&viewer, &state, acting, Some(&all), None, &query, now()).render().unwrap()
        };
        let html = page(&Acting::Possible);
        assert!(html.contains("/servers/a/act?action=kill_process&#38;pid=812&#38;start_ticks="));
        assert!(!html.contains("pid=77&") && !html.contains("pid=1&"));
        for none in [Acting::NotAllowed, Acting::Impossible("no SSH".to_owned())] {
            assert!(!page(&none).contains("/act?"));
        }
    }
}
