//! What changes rarely on a server: system, hardware, addresses, clock, pending updates.

use askama::Template;

use crate::fleet::ServerState;
use crate::model::{Facts, Role, ServiceManager, Timestamp, Transport};
use crate::web::view::{self, Value, When};

use super::super::{Chrome, Fragment, Viewer};
use super::{Head, Tab, head_fragment};

/// `GET /servers/{name}/facts`. Its form sends to `/servers/{name}/facts/refresh`.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/server_facts.html")]
pub struct FactsPage {
    pub chrome: Chrome,
    head: Head,
    list: List,
    may_refresh: bool,
}

impl FactsPage {
    #[must_use]
    pub fn new(viewer: &Viewer, state: &ServerState, now: Timestamp) -> Self {
        Self {
            chrome: super::chrome(viewer, state, Tab::Facts, now),
            head: Head::new(state, Tab::Facts, now),
            list: List::new(state, now),
            may_refresh: viewer.role >= Role::Operator
                && matches!(state.server.transport, Transport::Ssh | Transport::Local),
        }
    }
}

#[derive(Debug, Template)]
#[template(path = "partials/facts.html")]
struct ListPart {
    list: List,
}

/// Everything on the tab that changes, for open pages.
#[must_use]
pub fn facts_fragments(state: &ServerState, now: Timestamp) -> Vec<Fragment> {
    let body = Fragment::render("facts".to_owned(), &ListPart { list: List::new(state, now) });
    head_fragment(state, Tab::Facts, now).into_iter().chain(body).collect()
}

#[derive(Debug, Clone)]
struct List {
    /// Empty: nothing was read yet.
    groups: Vec<Group>,
    updates: Updates,
    reboot_required: bool,
    /// How a container is judged.
    judged: Option<String>,
}

#[derive(Debug, Clone)]
struct Group {
    title: &'static str,
    icon: &'static str,
    facts: Vec<(&'static str, Value)>,
}

#[derive(Debug, Clone)]
struct Updates {
    pending: Value,
    security: Value,
    has_security: bool,
    manager: Value,
    read: Option<When>,
    gap: Option<String>,
}

impl List {
    fn new(state: &ServerState, now: Timestamp) -> Self {
        let facts = state.facts.as_deref();
        let known = state.updates.as_deref();
        #[expect(clippy::cast_precision_loss, reason = "a count of packages needs no 53 bits")]
        let count = |count: Option<u64>| view::count(count.map(|count| count as f64));
        let security = known.and_then(|known| known.updates.security);
        Self {
            groups: facts.map(|facts| groups(state, facts, now)).unwrap_or_default(),
            updates: Updates {
                pending: count(known.and_then(|known| known.updates.pending)),
                security: count(security),
                has_security: security.is_some_and(|count| count > 0),
                manager: Value::foreign(known.map(|known| known.updates.manager.as_str())),
                read: known.map(|known| When::new(Some(known.taken_at), now)),
                gap: super::gap_reason(state, "packages"),
            },
            reboot_required: facts.and_then(|facts| facts.reboot_required).unwrap_or(false),
            judged: judged(state),
        }
    }
}

/// By which limits the CPU and memory of a container are judged. None: by those of the machine.
pub(super) fn judged(state: &ServerState) -> Option<String> {
    #[expect(clippy::cast_precision_loss, reason = "limits are shown with three digits")]
    let memory = state.memory_limit_bytes.and_then(|limit| view::bytes(Some(limit as f64)).text);
    #[expect(clippy::cast_precision_loss, reason = "limits are shown with three digits")]
    let cores = state.cpu_limit_x1000.and_then(|limit| view::number(Some(limit as f64 / 1000.0)).text);
    match (cores, memory) {
        (None, None) => None,
        (Some(cores), None) => Some(format!("CPU is judged against this container's limit: {cores} cores.")),
        (None, Some(memory)) => Some(format!("Memory is judged against this container's limit: {memory}.")),
        (Some(cores), Some(memory)) => Some(format!(
            "CPU and memory are judged against this container's limits: {cores} cores and {memory}."
        )),
    }
}

pub(super) const fn manager_words(manager: ServiceManager) -> Option<&'static str> {
    match manager {
        ServiceManager::Systemd => Some("systemd"),
        ServiceManager::OpenRc => Some("OpenRC"),
        ServiceManager::SysV => Some("SysV init"),
        ServiceManager::Unknown => None,
    }
}

fn groups(state: &ServerState, facts: &Facts, now: Timestamp) -> Vec<Group> {
    let text = |value: &Option<String>| Value::foreign(value.as_deref());
    let figures = &state.figures;
    let machine = [facts.machine_vendor.as_deref(), facts.machine_model.as_deref()];
    let machine = machine.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let boot = figures
        .uptime_seconds
        .zip(state.last_seen_at)
        .map(|(uptime, seen)| seen - std::time::Duration::from_secs_f64(uptime.clamp(0.0, 1e10)));
    let virtualisation = facts.virtualisation.as_deref().map(|kind| match kind {
        "none" => "none (bare metal)",
        kind => kind,
    });
    let addresses =
        facts.addresses.iter().map(|address| ("Address", Value::foreign(Some(address)))).collect();
    vec![
        Group {
            title: "System",
            icon: "server",
            facts: vec![
                ("Host name", text(&facts.hostname)),
                ("System", text(&facts.os_name)),
                ("Version", text(&facts.os_version)),
                ("Kernel", text(&facts.kernel)),
                ("Architecture", text(&facts.architecture)),
                ("Service manager", Value::foreign(manager_words(facts.service_manager))),
                ("Virtualisation", Value::foreign(virtualisation)),
            ],
        },
        Group {
            title: "Hardware",
            icon: "cpu",
            facts: vec![
                ("Machine", Value::foreign(Some(&machine))),
                ("Processor", text(&facts.cpu_model)),
                ("Cores", view::count(facts.cpu_cores.map(f64::from))),
                ("Memory", view::bytes(figures.memory_total_bytes)),
            ],
        },
        Group {
            title: "Clock",
            icon: "clock",
            facts: vec![
                ("Booted", Value { text: boot.map(|at| view::relative(at, now)) }),
                ("Uptime", view::duration(figures.uptime_seconds)),
                ("Time zone", text(&facts.timezone)),
                ("Against Roundsman", Value { text: figures.clock_offset_seconds.map(offset_words) }),
            ],
        },
        Group { title: "Addresses", icon: "network", facts: addresses },
    ]
}

/// `0.2 s ahead`; what the way of a reading can make up for is none.
fn offset_words(seconds: f64) -> String {
    let span = view::duration(Some(seconds.abs())).text.unwrap_or_default();
    match seconds {
        seconds if seconds.abs() < 1.0 => "the same, to the second".to_owned(),
        seconds if seconds > 0.0 => format!("{span} ahead"),
        _ => format!("{span} behind"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fleet::UpdateState;
    use crate::web::pages::samples::{Sample, now, viewer};

    fn html(state: &ServerState, role: Role) -> String {
        FactsPage::new(&viewer(role), state, now()).render().unwrap()
    }

    #[test]
    fn facts_updates_and_the_clock_are_shown() {
        let mut state = Sample::named("web-1").state();
        let updates =
            crate::model::Updates { manager: "apt".to_owned(), pending: Some(12), security: Some(3) };
        state.updates = Some(Arc::new(UpdateState { taken_at: now(), updates }));
        let html = html(&state, Role::Operator);
        for text in [
            "6.1.0-32-amd64",
            "AMD EPYC",
            "2001:db8:12::14",
            "Europe/Berlin",
            "the same, to the second",
            "apt",
        ] {
            assert!(html.contains(text), "{text}");
        }
        assert!(html.contains(">12<") && html.contains(">3<") && html.contains("/facts/refresh"));
        assert!(html.contains("Waits for a reboot") && !html.contains("judged against"));
    }

    #[test]
    fn a_container_says_by_which_limits_it_is_judged() {
        let mut state = Sample::named("lxc").state();
        state.cpu_limit_x1000 = Some(1500);
        state.memory_limit_bytes = Some(512 << 20);
        let html = html(&state, Role::Viewer);
        assert!(html.contains("limits: 1.50 cores and 512"), "{html}");
        assert!(!html.contains("/facts/refresh"));
    }

    #[test]
    fn what_was_not_read_is_said_and_why_updates_are_not_known() {
        let state =
            Sample::named("new").unread().gap("packages", "apt does not say: it has no lists yet").state();
        let html = html(&state, Role::Viewer);
        assert!(html.contains("have not been read yet") && html.contains("it has no lists yet"));
        assert_eq!(offset_words(-90.0), "1\u{a0}min behind");
    }

    #[test]
    fn hostile_facts_are_text() {
        let html = html(&Sample::named("evil").hostile().state(), Role::Viewer);
        assert!(!html.contains("<script>alert") && !html.contains('\u{1b}'));
    }
}
