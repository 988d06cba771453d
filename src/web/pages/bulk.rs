//! What is about to be changed of the servers that were chosen: which they are, and what is to be said yet.
//!
//! What is sent to servers begins as an operation (`operation_new`).

use askama::Template;

use crate::fleet::ServerState;
use crate::model::Timestamp;
use crate::web::view;

use super::form::Field;
use super::{Badge, Choice, Chrome, Section, Viewer};

/// What the bulk bar changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    Group,
    Tag,
    Maintenance,
    Active,
    Remove,
}

impl Deed {
    pub const ALL: [Self; 5] = [Self::Group, Self::Tag, Self::Maintenance, Self::Active, Self::Remove];

    /// What the form sends as `do`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Tag => "tag",
            Self::Maintenance => "maintenance",
            Self::Active => "active",
            Self::Remove => "remove",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Group => "Groups of",
            Self::Tag => "Tags of",
            Self::Maintenance => "Maintenance for",
            Self::Active => "End the maintenance of",
            Self::Remove => "Remove",
        }
    }
}

/// One chosen server.
#[derive(Debug, Clone)]
struct Target {
    id: String,
    name: String,
    address: String,
    badge: Badge,
}

/// `POST /servers/bulk`, and `POST /servers/bulk/apply` where something was refused.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/bulk.html")]
pub struct BulkPage {
    pub chrome: Chrome,
    deed: &'static str,
    title: String,
    targets: Vec<Target>,
    fields: Vec<Field>,
    groups: Vec<Choice>,
    /// Servers that were not changed, with the reason.
    failed: Vec<(String, String)>,
    asks: Deed,
}

fn counted(count: usize) -> String {
    let shown = view::whole(u64::try_from(count).unwrap_or(u64::MAX));
    if count == 1 { "1 server".to_owned() } else { format!("{shown} servers") }
}

impl BulkPage {
    #[must_use]
    pub fn new(viewer: &Viewer, deed: Deed, targets: &[ServerState], now: Timestamp) -> Self {
        let target = |state: &ServerState| Target {
            id: state.server.id.to_string(),
            name: state.server.name.to_string(),
            address: view::clean(&super::fleet::address(state), view::CELL_CHARS),
            badge: Badge::health(state.health),
        };
        let targets: Vec<Target> = targets.iter().map(target).collect();
        let title = format!("{} {}", deed.title(), counted(targets.len()));
        let fields = match deed {
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
            targets,
            fields,
            groups: Vec::new(),
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

    /// Tells which servers were not changed.
    #[must_use]
    pub fn with_failed(mut self, failed: Vec<(String, String)>) -> Self {
        self.failed = failed;
        self
    }

    fn asks(&self, deed: &str) -> bool {
        self.asks.name() == deed
    }
}
