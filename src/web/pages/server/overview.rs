//! The first tab of a server: its figures now, what is wrong, how it is reached, what cannot be seen.

use askama::Template;

use crate::fleet::{ServerState, blind_spots};
use crate::model::{
    Component, Facts, Filesystem, Interface, Layer, Login, LoginMethod, Reachability, Role, TcpStates,
    Timestamp, Transport,
};
use crate::web::view::{self, Share, Spark, Value, When};

use super::super::{Badge, Chrome, Fragment, Viewer, capital};
use super::{Head, HostKeys, Tab, head_fragment};

/// Rows that a page shows of what a server can have any number of; the rest is counted.
const ROWS_MAX: usize = 64;

/// `GET /servers/{name}`.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/server_overview.html")]
pub struct OverviewPage {
    pub chrome: Chrome,
    head: Head,
    overview: Overview,
    server_id: String,
    /// Whoever looks may try the way there step by step.
    may_test: bool,
}

impl OverviewPage {
    #[must_use]
    pub fn new(viewer: &Viewer, state: &ServerState, keys: &HostKeys, now: Timestamp) -> Self {
        Self {
            chrome: super::chrome(viewer, state, Tab::Overview, now),
            head: Head::new(state, Tab::Overview, now),
            overview: Overview::new(state, keys, now),
            server_id: state.server.id.to_string(),
            may_test: viewer.role >= Role::Operator
                && (state.server.ssh_host().is_some() || state.server.transport == Transport::Http),
        }
    }
}

#[derive(Debug, Template)]
#[template(path = "partials/overview.html")]
struct OverviewPart {
    overview: Overview,
}

/// Everything on the tab that changes, for open pages.
#[must_use]
pub fn overview_fragments(state: &ServerState, keys: &HostKeys, now: Timestamp) -> Vec<Fragment> {
    let part = OverviewPart { overview: Overview::new(state, keys, now) };
    let body = Fragment::render("overview".to_owned(), &part);
    head_fragment(state, Tab::Overview, now).into_iter().chain(body).collect()
}

#[derive(Debug, Clone)]
struct Overview {
    shares: Vec<ShareFigure>,
    figures: Vec<Figure>,
    reasons: Vec<String>,
    /// It reports by itself and has not yet.
    awaits_first: bool,
    /// Its API is asked, which tells no filesystems, interfaces and facts.
    is_api: bool,
    components: Vec<ComponentRow>,
    components_left_out: usize,
    way: Way,
    mounts: Vec<Mount>,
    mounts_left_out: usize,
    links: Vec<Link>,
    links_left_out: usize,
    /// State and count of TCP sockets; empty where they were not gone through.
    sockets: Vec<Fact>,
    sockets_every: String,
    facts: Vec<Fact>,
    facts_known: bool,
    reboot_required: bool,
    spots: Vec<Spot>,
    /// When the way was last tried step by step. None: this server has no such way, or nobody tried.
    tested: Option<When>,
    connection: Vec<Fact>,
    logins: Option<String>,
    fingerprint: Option<String>,
    key_changed: bool,
    name: String,
    checked: When,
}

/// A large figure with its bar and what it was a moment ago.
#[derive(Debug, Clone)]
struct ShareFigure {
    title: &'static str,
    icon: &'static str,
    class: &'static str,
    share: Share,
    detail: String,
    spark: Option<Spark>,
}

#[derive(Debug, Clone)]
struct Figure {
    title: &'static str,
    values: Vec<(&'static str, Value)>,
    is_trouble: bool,
}

#[derive(Debug, Clone)]
struct Mount {
    mount: String,
    device: String,
    share: Share,
    used: Value,
    size: Value,
    available: Value,
    inodes: Share,
}

#[derive(Debug, Clone)]
struct Link {
    name: String,
    received: Value,
    sent: Value,
    errors: String,
    has_errors: bool,
}

/// What cannot be seen or done, and the line that would change it.
#[derive(Debug, Clone)]
struct Spot {
    title: String,
    reason: String,
    fix: Option<String>,
    fix_id: String,
}

#[derive(Debug, Clone)]
struct Fact {
    title: String,
    value: Value,
}

impl Overview {
    fn new(state: &ServerState, keys: &HostKeys, now: Timestamp) -> Self {
        let facts = state.facts.as_deref();
        Self {
            shares: share_figures(state),
            figures: figures(state),
            reasons: state
                .health_reasons
                .iter()
                .take(ROWS_MAX)
                .map(|reason| view::clean(reason, view::TEXT_CHARS))
                .collect(),
            awaits_first: state.server.transport == Transport::Push && state.last_seen_at.is_none(),
            is_api: state.server.transport == Transport::Http,
            components: state.api.as_ref().map(|api| component_rows(&api.components)).unwrap_or_default(),
            components_left_out: state
                .api
                .as_ref()
                .map_or(0, |api| api.components.len().saturating_sub(ROWS_MAX)),
            way: Way::new(
                &state.reachability,
                if state.server.transport == Transport::Http { &Layer::HTTPS } else { &Layer::SSH },
                now,
            ),
            mounts: mounts(&state.filesystems),
            mounts_left_out: state.filesystems.len().saturating_sub(ROWS_MAX),
            links: state.interfaces.iter().take(ROWS_MAX).map(Link::new).collect(),
            links_left_out: state.interfaces.len().saturating_sub(ROWS_MAX),
            sockets: state.tcp_states.as_ref().map(sockets).unwrap_or_default(),
            sockets_every: every(state.cadence.heavy_interval_ms),
            facts: facts.map(|facts| fact_list(state, facts)).unwrap_or_default(),
            facts_known: facts.is_some(),
            reboot_required: facts.and_then(|facts| facts.reboot_required).unwrap_or(false),
            spots: blind_spots(state)
                .into_iter()
                .take(ROWS_MAX)
                .enumerate()
                .map(|(index, spot)| Spot {
                    title: capital(&view::clean(&spot.subject, 40)),
                    reason: view::clean(&spot.reason, view::TEXT_CHARS),
                    fix: spot.fix.as_deref().map(|fix| view::clean(fix, view::TEXT_CHARS)),
                    fix_id: format!("spot-fix-{index}"),
                })
                .collect(),
            tested: state.findings.looked_at.map(|at| When::new(Some(at), now)),
            connection: connection(state),
            logins: match state.server.transport {
                Transport::Ssh => Some(logins(state.logins_today)),
                _ => None,
            },
            fingerprint: keys.pinned.as_ref().map(|key| format!("{} {}", key.algorithm, key.fingerprint)),
            key_changed: keys.offered.is_some(),
            name: state.server.name.to_string(),
            checked: When::new(state.last_health_check_at, now),
        }
    }
}

fn share_figures(state: &ServerState) -> Vec<ShareFigure> {
    let figures = &state.figures;
    let of = |value: Option<f64>| view::bytes(value).text;
    let cores = state.facts.as_ref().and_then(|facts| facts.cpu_cores);
    let memory = of(figures.memory_used_bytes).zip(of(figures.memory_total_bytes));
    let fullest = state.filesystems.iter().max_by(|a, b| used_share(a).total_cmp(&used_share(b)));
    vec![
        ShareFigure {
            title: "CPU",
            icon: "cpu",
            class: "of-cpu",
            share: Share::of(figures.cpu_percent),
            detail: match cores {
                Some(1) => "1 core".to_owned(),
                Some(cores) => format!("{cores} cores"),
                None => String::new(),
            },
            spark: Some(Spark::area(&state.cpu_recent)),
        },
        ShareFigure {
            title: "Memory",
            icon: "memory-stick",
            class: "of-memory",
            share: Share::of(figures.memory_percent),
            detail: memory.map_or_else(String::new, |(used, total)| format!("{used} of {total}")),
            spark: Some(Spark::area(&state.memory_recent)),
        },
        ShareFigure {
            title: "Fullest filesystem",
            icon: "hard-drive",
            class: "of-disk",
            share: Share::of(figures.disk_percent),
            detail: fullest.map_or_else(String::new, |fs| view::clean(&fs.mount, 60)),
            spark: None,
        },
        ShareFigure {
            title: "Swap",
            icon: "layers",
            class: "of-swap",
            share: Share::of(figures.swap_percent),
            detail: String::new(),
            spark: None,
        },
    ]
}

fn figures(state: &ServerState) -> Vec<Figure> {
    let figures = &state.figures;
    let figure = |title, values| Figure { title, values, is_trouble: false };
    vec![
        figure(
            "Network",
            vec![("in", view::rate(figures.network_rx_bytes)), ("out", view::rate(figures.network_tx_bytes))],
        ),
        figure(
            "Disk",
            vec![
                ("read", view::rate(figures.disk_read_bytes)),
                ("written", view::rate(figures.disk_written_bytes)),
            ],
        ),
        figure(
            "Load 1, 5, 15 min",
            vec![
                ("", view::number(figures.load1)),
                ("", view::number(figures.load5)),
                ("", view::number(figures.load15)),
            ],
        ),
        figure("Uptime", vec![("", view::duration(figures.uptime_seconds))]),
        figure("Processes", vec![("", view::count(figures.processes))]),
        Figure {
            title: "Services",
            values: vec![
                ("active", view::count(figures.active_services)),
                ("failed", view::count(figures.failed_services)),
            ],
            is_trouble: figures.failed_services.is_some_and(|failed| failed > 0.0),
        },
        figure("Logged in", vec![("", view::count(figures.active_users))]),
        figure("A reading takes", vec![("", view::milliseconds(figures.response_time_ms))]),
    ]
}

/// Used of what can be used: as `df` counts, without root's reserve.
#[expect(clippy::cast_precision_loss, reason = "a share is shown with three digits")]
fn used_share(filesystem: &Filesystem) -> f64 {
    let usable = filesystem.used_bytes.saturating_add(filesystem.available_bytes);
    if usable == 0 { 0.0 } else { filesystem.used_bytes as f64 * 100.0 / usable as f64 }
}

fn mounts(filesystems: &[Filesystem]) -> Vec<Mount> {
    let mut sorted: Vec<&Filesystem> = filesystems.iter().collect();
    sorted.sort_by(|a, b| used_share(b).total_cmp(&used_share(a)));
    sorted.into_iter().take(ROWS_MAX).map(Mount::new).collect()
}

impl Mount {
    #[expect(clippy::cast_precision_loss, reason = "sizes are shown with three digits")]
    fn new(filesystem: &Filesystem) -> Self {
        let inodes = filesystem
            .inodes_total
            .filter(|total| *total > 0)
            .zip(filesystem.inodes_used)
            .map(|(total, used)| used as f64 * 100.0 / total as f64);
        let known = filesystem.used_bytes.saturating_add(filesystem.available_bytes) > 0;
        Self {
            mount: view::clean(&filesystem.mount, view::CELL_CHARS),
            device: view::clean(&format!("{} {}", filesystem.device, filesystem.fs_type), view::CELL_CHARS),
            share: Share::of(known.then(|| used_share(filesystem))),
            used: view::bytes(Some(filesystem.used_bytes as f64)),
            size: view::bytes(Some(filesystem.size_bytes as f64)),
            available: view::bytes(Some(filesystem.available_bytes as f64)),
            inodes: Share::of(inodes),
        }
    }
}

impl Link {
    #[expect(clippy::cast_precision_loss, reason = "totals are shown with three digits")]
    fn new(interface: &Interface) -> Self {
        let errors = [interface.rx_errors, interface.rx_dropped, interface.tx_errors, interface.tx_dropped]
            .into_iter()
            .fold(0_u64, u64::saturating_add);
        Self {
            name: view::clean(&interface.name, 40),
            received: view::bytes(Some(interface.rx_bytes as f64)),
            sent: view::bytes(Some(interface.tx_bytes as f64)),
            errors: view::whole(errors),
            has_errors: errors > 0,
        }
    }
}

/// What a person looks for always, and of the other states those that there are.
fn sockets(states: &TcpStates) -> Vec<Fact> {
    let shown = |(state, count): (&str, u64)| {
        let is_asked_for = matches!(state, "established" | "listen" | "close_wait");
        (is_asked_for || count > 0).then(|| Fact {
            title: state.to_uppercase().replace('_', "-"),
            value: Value::of(view::whole(count)),
        })
    };
    states.named().into_iter().filter_map(shown).collect()
}

fn fact_list(state: &ServerState, facts: &Facts) -> Vec<Fact> {
    let manager = super::facts::manager_words(facts.service_manager);
    let machine = [facts.machine_vendor.as_deref(), facts.machine_model.as_deref()];
    let machine = machine.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let virtualisation = facts.virtualisation.as_deref().map(|kind| match kind {
        "none" => "none (bare metal)",
        kind => kind,
    });
    let addresses = facts.addresses.iter().take(16).map(String::as_str).collect::<Vec<_>>().join(", ");
    let fact =
        |title: &str, value: Option<&str>| Fact { title: title.to_owned(), value: Value::foreign(value) };
    let mut list = vec![
        fact("Host name", facts.hostname.as_deref()),
        fact("System", facts.os_name.as_deref()),
        fact("Kernel", facts.kernel.as_deref()),
        fact("Architecture", facts.architecture.as_deref()),
        fact("Processor", facts.cpu_model.as_deref()),
        fact("Machine", Some(&machine)),
        fact("Virtualisation", virtualisation),
        fact("Service manager", manager),
        fact("Time zone", facts.timezone.as_deref()),
        fact("Addresses", Some(&addresses)),
    ];
    list.extend(super::facts::judged(state).map(|words| fact("Limits", Some(&words))));
    list
}

/// One part of a server as its API tells of it.
#[derive(Debug, Clone)]
struct ComponentRow {
    name: String,
    badge: Badge,
    status: String,
    took: Value,
    /// May be empty.
    error: String,
    details: String,
}

fn component_rows(components: &[Component]) -> Vec<ComponentRow> {
    let row = |component: &Component| ComponentRow {
        name: view::clean(&component.name, view::CELL_CHARS),
        badge: Badge::health(component.health),
        status: view::clean(&component.status, view::CELL_CHARS),
        took: view::milliseconds(
            component.response_time_ms.and_then(|ms| u32::try_from(ms).ok()).map(f64::from),
        ),
        error: component
            .error_message
            .as_deref()
            .map(|text| view::clean(text, view::TEXT_CHARS))
            .unwrap_or_default(),
        details: component
            .error_details
            .as_deref()
            .map(|text| view::clean(text, view::TEXT_CHARS))
            .unwrap_or_default(),
    };
    components.iter().take(ROWS_MAX).map(row).collect()
}

fn connection(state: &ServerState) -> Vec<Fact> {
    let fact = |title: &str, value: Value| Fact { title: title.to_owned(), value };
    let transport = match state.server.transport {
        Transport::Ssh => "SSH",
        Transport::Local => "This machine, read directly",
        Transport::Http => "HTTPS",
        Transport::Push => "Pushed by the server",
    };
    let mut facts = vec![
        fact("Transport", Value::of(transport.to_owned())),
        fact("Address", Value::foreign(Some(&super::super::fleet::address(state)))),
    ];
    let way = &state.way;
    if let Some(jump) = &state.jump {
        facts.push(fact("Over the jump host", Value::of(jump.to_string())));
    }
    if let Some(proxy) = &way.proxy {
        facts.push(fact("Through the proxy", Value::foreign(Some(&proxy.to_string()))));
    }
    if let Some(http) = &state.http {
        facts.push(fact("API", Value::foreign(Some(&http.url.to_string()))));
        let authority =
            if http.ca_pem.is_some() { "an authority of its own" } else { "the system's authorities" };
        facts.push(fact("Certificate by", Value::of(authority.to_owned())));
        facts.extend(http.pin.map(|pin| fact("Pinned certificate", Value::of(pin.to_string()))));
    }
    if let Some(version) = state.push.as_ref().and_then(|push| push.agent_version.as_deref()) {
        facts.push(fact("Agent", Value::foreign(Some(version))));
    }
    if state.server.transport == Transport::Ssh {
        facts.push(fact("Logs in with", Value::of(login_words(&way.login).to_owned())));
    }
    if let Some(action) = &way.action {
        let words = format!("as {}, {}", action.username, login_words(&action.login));
        facts.push(fact("Acts", Value::foreign(Some(&words))));
    }
    facts.extend([
        fact("Read every", view::duration(Some(f64::from(state.server.interval_ms) / 1000.0))),
        fact("Processes, services, containers, users", Value::of(heavy_words(state))),
        fact("System facts", Value::of(format!("every {}", every(state.cadence.facts_interval_ms)))),
    ]);
    facts
}

fn every(millis: u32) -> String {
    view::duration(Some(f64::from(millis) / 1000.0)).text.unwrap_or_default()
}

/// How often the heavy sections are read, and whether they come faster now.
fn heavy_words(state: &ServerState) -> String {
    let cadence = state.cadence;
    let by_default = if state.server.heavy_interval_ms.is_none() { " (the default)" } else { "" };
    let usual = format!("every {}{by_default}", every(cadence.heavy_interval_ms));
    if !cadence.is_looked_at || state.server.transport == Transport::Push {
        return usual;
    }
    format!("with every reading now, because somebody looks at them; else {usual}")
}

const fn login_words(login: &Login) -> &'static str {
    match (login.method, login.key) {
        (LoginMethod::Key, None) => "the default key",
        (LoginMethod::Key, Some(_)) => "a kept key",
        (LoginMethod::Agent, _) => "a key of the ssh-agent",
        (LoginMethod::Password, _) => "a kept password",
    }
}

fn logins(count: u32) -> String {
    match count {
        0 => "none today".to_owned(),
        1 => "1 today".to_owned(),
        count => format!("{} today", view::whole(count)),
    }
}

/// The way to a server, layer by layer, where it stops.
#[derive(Debug, Clone)]
struct Way {
    title: String,
    /// Empty when there is nothing to do.
    advice: String,
    since: Option<When>,
    is_broken: bool,
    steps: Vec<Step>,
}

#[derive(Debug, Clone)]
struct Step {
    title: &'static str,
    class: &'static str,
    icon: &'static str,
    /// For those who do not see the icon.
    outcome: &'static str,
}

impl Way {
    fn new(reachability: &Reachability, way: &[Layer], now: Timestamp) -> Self {
        let plain = |title: &str| Self {
            title: title.to_owned(),
            advice: String::new(),
            since: None,
            is_broken: false,
            steps: Vec::new(),
        };
        match reachability {
            Reachability::Unknown => plain("Not tried yet"),
            Reachability::Connecting => plain("Connecting…"),
            Reachability::Reachable => plain("Reachable"),
            Reachability::Unreachable { layer, reason, since } => Self {
                title: layer.map_or_else(
                    || "Unreachable".to_owned(),
                    |layer| format!("Unreachable: stops at {}", layer.title()),
                ),
                advice: view::clean(reason, view::TEXT_CHARS),
                since: Some(When::new(Some(*since), now)),
                is_broken: true,
                steps: layer.map(|layer| steps(way, layer)).unwrap_or_default(),
            },
        }
    }
}

/// The stages of the way up to the one that failed, and those behind it.
fn steps(way: &[Layer], failed: Layer) -> Vec<Step> {
    let place = way.iter().position(|layer| *layer == failed).unwrap_or(way.len());
    let step = |(at, layer): (usize, &Layer)| {
        let (class, icon, outcome) = match at.cmp(&place) {
            std::cmp::Ordering::Less => ("is-done", "check", "works"),
            std::cmp::Ordering::Equal => ("is-failed", "x", "fails"),
            std::cmp::Ordering::Greater => ("is-untried", "circle-dashed", "not tried"),
        };
        Step { title: layer.title(), class, icon, outcome }
    };
    way.iter().enumerate().map(step).collect()
}
