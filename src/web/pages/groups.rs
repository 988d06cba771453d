//! Groups: all of them with the servers to put in, one with its members, and the form that says what a group is.

use askama::Template;
use askama::filters::HtmlSafe;

use crate::fleet::{GroupInput, GroupView, ServerState};
use crate::model::{Colour, Group, Health, Role, Timestamp};
use crate::web::view::{self, Share};

use super::fleet::{ServerView, by_name};
use super::form::{Field, FieldProblem};
use super::{Badge, Choice, Chrome, Section, Viewer, capital};

/// Servers offered for putting into a group; of more, the fleet page chooses by filter.
const OFFERED: usize = 500;
/// Members that the page of a group shows; the fleet page has them all.
const SHOWN: usize = 500;

/// A group by name and colour, as a link.
#[derive(Debug, Clone, PartialEq, Eq, Template)]
#[template(
    ext = "html",
    source = "<a class=\"chip tone-{{ tone }}\" href=\"/groups/{{ name }}\">{{ name }}</a>"
)]
pub struct Chip {
    name: String,
    tone: &'static str,
}

// askama wrote it and escaped the name in it.
impl HtmlSafe for Chip {}

impl Chip {
    #[must_use]
    pub fn of(group: &Group) -> Self {
        Self { name: group.name.to_string(), tone: group.colour.name() }
    }
}

/// What chooses the members, as words.
fn conditions(group: &Group) -> Vec<(&'static str, String)> {
    let Some(filter) = &group.filter else { return Vec::new() };
    let health: Vec<&str> = filter.health.iter().map(|health| health.name()).collect();
    [
        ("all the tags", filter.tags.join(", ")),
        ("region", filter.regions.join(" or ")),
        ("environment", filter.environments.join(" or ")),
        ("health", health.join(" or ")),
    ]
    .into_iter()
    .filter(|(_, words)| !words.is_empty())
    .collect()
}

/// One group with its counts.
#[derive(Debug, Clone)]
struct Card {
    name: String,
    tone: &'static str,
    description: String,
    is_static: bool,
    conditions: Vec<(&'static str, String)>,
    total: String,
    noun: &'static str,
    health: Vec<(Badge, String)>,
    cpu: Share,
    memory: Share,
    disk: Share,
}

impl Card {
    fn new(view: &GroupView) -> Self {
        let (group, summary) = (&view.group, &view.summary);
        let counts = [
            (Health::Healthy, summary.healthy_servers),
            (Health::Degraded, summary.degraded_servers),
            (Health::Critical, summary.critical_servers),
            (Health::Unreachable, summary.unreachable_servers),
            (Health::Unknown, summary.unknown_servers),
        ];
        let present = counts.into_iter().filter(|(_, count)| *count > 0);
        Self {
            name: group.name.to_string(),
            tone: group.colour.name(),
            description: view::clean(&group.description, view::TEXT_CHARS),
            is_static: group.filter.is_none(),
            conditions: conditions(group),
            total: view::whole(summary.total_servers),
            noun: if summary.total_servers == 1 { "server" } else { "servers" },
            health: present.map(|(health, count)| (Badge::health(health), view::whole(count))).collect(),
            cpu: Share::of(summary.average_cpu_percent),
            memory: Share::of(summary.average_memory_percent),
            disk: Share::of(summary.average_disk_percent),
        }
    }
}

/// A server that may be put into a group.
#[derive(Debug, Clone)]
struct Offer {
    id: String,
    name: String,
    groups: Vec<Chip>,
}

impl Offer {
    fn new(state: &ServerState) -> Self {
        Self {
            id: state.server.id.to_string(),
            name: state.server.name.to_string(),
            groups: state.groups.iter().map(|group| Chip::of(group)).collect(),
        }
    }
}

/// `GET /groups`. Its form sends `/groups/members`: group, server (several).
#[derive(Debug, Clone, Template)]
#[template(path = "pages/groups.html")]
pub struct GroupsPage {
    pub chrome: Chrome,
    cards: Vec<Card>,
    /// Static groups, to put servers into.
    choices: Vec<Choice>,
    offers: Vec<Offer>,
    left_out: usize,
}

impl GroupsPage {
    #[must_use]
    pub fn new(viewer: &Viewer, groups: &[GroupView], servers: &[ServerState], now: Timestamp) -> Self {
        let by_hand = groups.iter().filter(|view| view.group.filter.is_none());
        let offered = if viewer.role >= Role::Admin { servers } else { &[] };
        Self {
            chrome: Chrome::new("Groups", Section::Groups, None, viewer, now),
            cards: groups.iter().map(Card::new).collect(),
            choices: by_hand
                .map(|view| Choice::of(view.group.name.as_str(), view.group.name.as_str(), ""))
                .collect(),
            offers: by_name(offered).take(OFFERED).map(Offer::new).collect(),
            left_out: offered.len().saturating_sub(OFFERED),
        }
    }
}

/// `GET /groups/{id}`. Its forms send `/groups/{id}/add` and `/groups/{id}/take-out`: server (several), and
/// `/groups/{id}/delete`: confirm.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/group.html")]
pub struct GroupPage {
    pub chrome: Chrome,
    card: Card,
    rows: Vec<ServerView>,
    left_out: usize,
    offers: Vec<Offer>,
}

impl GroupPage {
    /// `others` are servers that are not in the group.
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        view: &GroupView,
        members: &[ServerState],
        others: &[ServerState],
        now: Timestamp,
    ) -> Self {
        let live = format!("group:{}", view.group.id);
        let title = view.group.name.to_string();
        let row = |state: &ServerState| ServerView::new(state, super::fleet::View::Table, now);
        Self {
            chrome: Chrome::new(&title, Section::Groups, Some(live), viewer, now),
            card: Card::new(view),
            rows: by_name(members).take(SHOWN).map(row).collect(),
            left_out: members.len().saturating_sub(SHOWN),
            offers: by_name(others).take(OFFERED).map(Offer::new).collect(),
        }
    }
}

/// What was typed into the form of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupForm {
    pub name: String,
    pub description: String,
    pub colour: String,
    pub tags: String,
    pub regions: String,
    pub environments: String,
    pub health: Vec<String>,
}

impl GroupForm {
    /// From the pairs of the form.
    #[must_use]
    pub fn from_pairs(pairs: &[(String, String)]) -> Self {
        let text = |name: &str| {
            pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).unwrap_or_default()
        };
        Self {
            name: text("name"),
            description: text("description"),
            colour: text("color"),
            tags: text("tags"),
            regions: text("regions"),
            environments: text("environments"),
            health: pairs.iter().filter(|(key, _)| key == "health").map(|(_, value)| value.clone()).collect(),
        }
    }

    /// What is stored of a group.
    #[must_use]
    pub fn of(group: &Group) -> Self {
        let filter = group.filter.clone().unwrap_or_default();
        Self {
            name: group.name.to_string(),
            description: group.description.clone(),
            colour: group.colour.to_string(),
            tags: filter.tags.join(", "),
            regions: filter.regions.join("\n"),
            environments: filter.environments.join("\n"),
            health: filter.health.iter().map(ToString::to_string).collect(),
        }
    }

    /// Tags are separated by blanks or commas; regions and environments, which may hold both, stand on a line each.
    #[must_use]
    pub fn input(&self) -> GroupInput {
        let lines = |text: &str| -> Vec<String> {
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(ToOwned::to_owned).collect()
        };
        let words = |text: &str| -> Vec<String> {
            text.split([',', ' ', '\n', '\r', '\t'])
                .filter(|word| !word.is_empty())
                .map(ToOwned::to_owned)
                .collect()
        };
        GroupInput {
            name: self.name.clone(),
            // A line end that a browser sends has two characters.
            description: self.description.replace("\r\n", "\n"),
            colour: Some(self.colour.clone()),
            tags: words(&self.tags),
            regions: lines(&self.regions),
            environments: lines(&self.environments),
            health: self.health.clone(),
        }
    }
}

/// A check box or radio button.
#[derive(Debug, Clone)]
struct Pick {
    value: &'static str,
    title: String,
    is_chosen: bool,
}

/// `GET /groups/new` and `GET /groups/{id}/edit`: name, description, color, tags, regions, environments, health (several).
#[derive(Debug, Clone, Template)]
#[template(path = "pages/group_form.html")]
pub struct GroupFormPage {
    pub chrome: Chrome,
    /// None: a new group.
    group: Option<String>,
    action: String,
    fields: Vec<Field>,
    conditions: Vec<Field>,
    colours: Vec<Pick>,
    health: Vec<Pick>,
    is_dynamic: bool,
}

impl GroupFormPage {
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        group: Option<&str>,
        form: &GroupForm,
        problems: &[FieldProblem],
        now: Timestamp,
    ) -> Self {
        let title = group.map_or_else(|| "New group".to_owned(), |name| format!("Edit {name}"));
        let colour = Colour::parse(&form.colour).unwrap_or(Colour::Grey);
        let is_dynamic = [&form.tags, &form.regions, &form.environments].iter().any(|text| !text.is_empty())
            || !form.health.is_empty();
        Self {
            chrome: Chrome::new(&title, Section::Groups, None, viewer, now),
            group: group.map(ToOwned::to_owned),
            action: group.map_or_else(|| "/groups".to_owned(), |name| format!("/groups/{name}/edit")),
            fields: vec![
                Field::line("name", "Name", &form.name, 63).placeholder("web").required().judged(problems),
                Field::line("description", "Description", &form.description, 1000).judged(problems),
            ],
            conditions: vec![
                Field::line("tags", "All of these tags", &form.tags, 4096)
                    .placeholder("web, eu")
                    .judged(problems),
                Field::lines("regions", "One of these regions", &form.regions, 4096)
                    .hint("One on each line.")
                    .judged(problems),
                Field::lines("environments", "One of these environments", &form.environments, 4096)
                    .hint("One on each line.")
                    .judged(problems),
            ],
            colours: Colour::ALL
                .iter()
                .map(|option| Pick {
                    value: option.name(),
                    title: capital(option.name()),
                    is_chosen: *option == colour,
                })
                .collect(),
            health: Health::ALL
                .iter()
                .map(|option| Pick {
                    value: option.name(),
                    title: capital(option.name()),
                    is_chosen: form.health.iter().any(|word| word == option.name()),
                })
                .collect(),
            is_dynamic,
        }
    }
}
