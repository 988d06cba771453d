//! The pages of one server: what is above all of them, and a module a tab.

mod acting;
mod agent;
mod commands;
mod configuration;
mod containers;
mod facts;
mod metrics;
mod overview;
mod processes;
mod services;
mod users;
mod watching;

use askama::Template;

use crate::actions::Action;
use crate::fleet::ServerState;
use crate::model::{Reachability, Timestamp};
use crate::web::view::{self, When};

use super::groups::Chip;
use super::{Badge, Chrome, Fragment, Section, Viewer};

pub use acting::{Asked, ConfirmPage};
pub use commands::{CommandForm, CommandsPage, RECORDS_PER_PAGE, records_fragment};
pub use configuration::{ConfigurationForm, ConfigurationPage};
pub use containers::{ContainerQuery, ContainersPage, containers_fragments};
pub use facts::{FactsPage, facts_fragments};
pub use metrics::{MetricsPage, figures};
pub use overview::{OverviewPage, overview_fragments};
pub use processes::{ProcessQuery, ProcessSort, ProcessesPage, processes_fragments};
pub use services::{ServiceQuery, ServicesPage, services_fragments};
pub use users::{UsersPage, users_fragments};
pub use watching::WatchForm;

/// Where an action is confirmed.
#[derive(Debug, Clone)]
struct ActionLink {
    title: &'static str,
    icon: &'static str,
    address: String,
}

impl ActionLink {
    fn new(state: &ServerState, action: &Action, title: &'static str, icon: &'static str) -> Self {
        let mut pairs = vec![("action", action.kind().to_owned())];
        pairs.extend(action.fields());
        // Pairs of plain text cannot fail to encode.
        let query = serde_urlencoded::to_string(pairs).unwrap_or_default();
        Self { title, icon, address: format!("/servers/{}/act?{query}", state.server.name) }
    }
}

/// The tabs of a server, in the order of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tab {
    Overview,
    Metrics,
    Processes,
    Services,
    Containers,
    Users,
    Facts,
    Commands,
    Configuration,
}

impl Tab {
    pub const ALL: [Self; 9] = [
        Self::Overview,
        Self::Metrics,
        Self::Processes,
        Self::Services,
        Self::Containers,
        Self::Users,
        Self::Facts,
        Self::Commands,
        Self::Configuration,
    ];

    /// The last part of the address and of what the page's WebSocket asks for.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overview => "overview",
            Self::Metrics => "metrics",
            Self::Processes => "processes",
            Self::Services => "services",
            Self::Containers => "containers",
            Self::Users => "users",
            Self::Facts => "facts",
            Self::Commands => "commands",
            Self::Configuration => "configuration",
        }
    }

    /// The tab of that name, as in `data-live="server:ID:TAB"`.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tab| tab.name() == name)
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Metrics => "Metrics",
            Self::Processes => "Processes",
            Self::Services => "Services",
            Self::Containers => "Containers",
            Self::Users => "Users",
            Self::Facts => "Facts",
            Self::Commands => "Commands",
            Self::Configuration => "Configuration",
        }
    }

    const fn icon(self) -> &'static str {
        match self {
            Self::Overview => "gauge",
            Self::Metrics => "chart-line",
            Self::Processes => "list",
            Self::Services => "layers",
            Self::Containers => "layout-grid",
            Self::Users => "users",
            Self::Facts => "info",
            Self::Commands => "terminal",
            Self::Configuration => "sliders-horizontal",
        }
    }
}

/// A key by which a server proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// `ssh-ed25519`
    pub algorithm: String,
    /// `SHA256:…`
    pub fingerprint: String,
    /// As in a known_hosts file without the name: `ssh-ed25519 AAAA…`.
    pub line: String,
}

/// The key that is trusted, and another one where the server showed another one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostKeys {
    pub pinned: Option<HostKey>,
    pub offered: Option<HostKey>,
}

/// Whether the one who looks at a server may do something to it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acting {
    Possible,
    /// Why not, and what would change that.
    Impossible(String),
    /// The viewer's role only sees.
    NotAllowed,
}

impl Acting {
    fn is_possible(&self) -> bool {
        *self == Self::Possible
    }
}

/// What stands above the tabs.
#[derive(Debug, Clone)]
pub(super) struct Head {
    name: String,
    address: String,
    description: String,
    badge: Badge,
    status: Option<Badge>,
    region: Option<String>,
    environment: Option<String>,
    tags: Vec<String>,
    groups: Vec<Chip>,
    seen: When,
    never_seen: bool,
    /// Why nothing new arrives.
    unreachable: Option<String>,
    tabs: Vec<TabLink>,
}

#[derive(Debug, Clone)]
struct TabLink {
    title: &'static str,
    icon: &'static str,
    address: String,
    is_current: bool,
}

impl Head {
    fn new(state: &ServerState, current: Tab, now: Timestamp) -> Self {
        let server = &state.server;
        let link = |tab: Tab| TabLink {
            title: tab.title(),
            icon: tab.icon(),
            address: match tab {
                Tab::Overview => format!("/servers/{}", server.name),
                tab => format!("/servers/{}/{}", server.name, tab.name()),
            },
            is_current: tab == current,
        };
        Self {
            name: server.name.to_string(),
            address: view::clean(&super::fleet::address(state), view::CELL_CHARS),
            description: view::clean(&server.description, view::TEXT_CHARS),
            badge: Badge::health(state.health),
            status: Badge::status(server.status),
            region: server.region.clone(),
            environment: server.environment.clone(),
            tags: server.tags.iter().map(ToString::to_string).collect(),
            groups: state.groups.iter().map(|group| Chip::of(group)).collect(),
            seen: When::new(state.last_seen_at, now),
            never_seen: state.last_seen_at.is_none(),
            unreachable: match &state.reachability {
                // The overview tells it at length.
                Reachability::Unreachable { reason, .. } if current != Tab::Overview => {
                    Some(view::clean(reason, view::TEXT_CHARS))
                }
                _ => None,
            },
            tabs: Tab::ALL.into_iter().map(link).collect(),
        }
    }
}

#[derive(Debug, Template)]
#[template(path = "partials/server_head.html")]
struct HeadPart {
    head: Head,
}

/// What stands above the tabs, for open pages.
#[must_use]
pub fn head_fragment(state: &ServerState, tab: Tab, now: Timestamp) -> Option<Fragment> {
    Fragment::render("server-head".to_owned(), &HeadPart { head: Head::new(state, tab, now) })
}

fn chrome(viewer: &Viewer, state: &ServerState, tab: Tab, now: Timestamp) -> Chrome {
    let title = match tab {
        Tab::Overview => state.server.name.to_string(),
        tab => format!("{} · {}", state.server.name, tab.title()),
    };
    let live = format!("server:{}:{}", state.server.id, tab.name());
    Chrome::new(&title, Section::Fleet, Some(live), viewer, now)
}

/// Why a section of this server's readings is missing or not whole.
fn gap_reason(state: &ServerState, section: &str) -> Option<String> {
    let gap = state.gaps.iter().find(|gap| gap.section == section)?;
    Some(view::clean(&gap.reason, view::TEXT_CHARS))
}

#[cfg(test)]
mod tests;
