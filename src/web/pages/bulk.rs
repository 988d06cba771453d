//! What is about to be done to the servers that were chosen: which they are, what stands in the way, what is to be said yet.

use askama::Template;

use crate::fleet::ServerState;
use crate::model::Timestamp;
use crate::web::view;

use super::form::Field;
use super::{Badge, Choice, Chrome, Section, Viewer};

/// What the bulk bar offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    Run,
    Restart,
    Group,
    Tag,
    Maintenance,
    Active,
    Remove,
}

impl Deed {
    pub const ALL: [Self; 7] =
        [Self::Run, Self::Restart, Self::Group, Self::Tag, Self::Maintenance, Self::Active, Self::Remove];

    /// What the form sends as `do`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Restart => "restart",
            Self::Group => "group",
            Self::Tag => "tag",
            Self::Maintenance => "maintenance",
            Self::Active => "active",
            Self::Remove => "remove",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Run => "Run a command on",
            Self::Restart => "Restart a service on",
            Self::Group => "Groups of",
            Self::Tag => "Tags of",
            Self::Maintenance => "Maintenance for",
            Self::Active => "End the maintenance of",
            Self::Remove => "Remove",
        }
    }

    /// It is sent to the servers, so what stands in the way matters.
    #[must_use]
    pub const fn acts(self) -> bool {
        matches!(self, Self::Run | Self::Restart)
    }
}

/// One chosen server.
#[derive(Debug, Clone)]
struct Target {
    id: String,
    name: String,
    address: String,
    badge: Badge,
    impediment: Option<String>,
}

/// What would be sent, and to whom.
#[derive(Debug, Clone)]
pub struct Sent {
    /// None: nothing can be sent, for this reason.
    pub command: Result<String, String>,
    pub servers: Vec<String>,
}

#[derive(Debug, Clone)]
struct SentView {
    command: Option<String>,
    reason: String,
    servers: String,
    count: usize,
}

/// `POST /servers/bulk`, and `POST /servers/bulk/apply` where something was refused.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/bulk.html")]
pub struct BulkPage {
    pub chrome: Chrome,
    deed: &'static str,
    title: String,
    targets: Vec<Target>,
    impeded: usize,
    fields: Vec<Field>,
    groups: Vec<Choice>,
    /// What was said already and goes along.
    hidden: Vec<(String, String)>,
    /// Review of what is sent; empty: not asked yet.
    sent: Vec<SentView>,
    /// Servers that were not changed, with the reason.
    failed: Vec<(String, String)>,
    asks: Deed,
}

fn counted(count: usize) -> String {
    let shown = view::whole(u64::try_from(count).unwrap_or(u64::MAX));
    if count == 1 { "1 server".to_owned() } else { format!("{shown} servers") }
}

impl BulkPage {
    /// `targets` each with what stands in the way of acting on it.
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        deed: Deed,
        targets: &[(ServerState, Option<String>)],
        now: Timestamp,
    ) -> Self {
        let target = |(state, impediment): &(ServerState, Option<String>)| Target {
            id: state.server.id.to_string(),
            name: state.server.name.to_string(),
            address: view::clean(&super::fleet::address(state), view::CELL_CHARS),
            badge: Badge::health(state.health),
            impediment: impediment.clone().filter(|_| deed.acts()),
        };
        let targets: Vec<Target> = targets.iter().map(target).collect();
        let title = format!("{} {}", deed.title(), counted(targets.len()));
        let fields = match deed {
            Deed::Run => {
                vec![Field::lines("command", "Command", "", 16_384).placeholder("uptime").required()]
            }
            Deed::Restart => vec![Field::line("service", "Service", "", 128).placeholder("nginx").required()],
            Deed::Tag => vec![Field::line("tags", "Tags", "", 1000).placeholder("web, eu").required()],
            Deed::Remove => vec![
                Field::line("confirm", "How many servers are removed? Type the number to confirm", "", 6)
                    .required(),
            ],
            Deed::Group | Deed::Maintenance | Deed::Active => Vec::new(),
        };
        Self {
            chrome: Chrome::new(&title, Section::Fleet, None, viewer, now),
            deed: deed.name(),
            title,
            impeded: targets.iter().filter(|target| target.impediment.is_some()).count(),
            targets,
            fields,
            groups: Vec::new(),
            hidden: Vec::new(),
            sent: Vec::new(),
            failed: Vec::new(),
            asks: deed,
        }
    }

    /// The static groups that servers may be put into or taken out of.
    #[must_use]
    pub fn with_groups(mut self, names: impl Iterator<Item = String>) -> Self {
        self.groups = names.map(|name| Choice::of(&name, &name, "")).collect();
        self
    }

    /// Shows what would be sent instead of asking; `said` goes along to be done.
    #[must_use]
    pub fn review(mut self, said: Vec<(String, String)>, sent: Vec<Sent>) -> Self {
        self.fields = Vec::new();
        self.hidden = said;
        self.sent = sent
            .into_iter()
            .map(|sent| SentView {
                count: sent.servers.len(),
                servers: sent.servers.join(", "),
                reason: sent.command.as_ref().err().cloned().unwrap_or_default(),
                command: sent.command.ok(),
            })
            .collect();
        self
    }

    /// Tells which servers were not changed.
    #[must_use]
    pub fn with_failed(mut self, failed: Vec<(String, String)>) -> Self {
        self.failed = failed;
        self
    }

    fn can_be_sent(&self) -> bool {
        self.sent.iter().any(|sent| sent.command.is_some())
    }

    fn asks(&self, deed: &str) -> bool {
        self.asks.name() == deed
    }
}
