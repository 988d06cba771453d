//! The pages that people see: state in, HTML out.
//!
//! The struct of a page stands beside what fills it and holds display-ready values; its template branches
//! and loops. A part that changes while a page is open renders alone as a [`Fragment`], from the same
//! partial as the page. Nothing here reads a clock, asks a service or knows HTTP.

pub mod adding;
pub mod bulk;
pub mod charts;
pub mod custom_metrics;
pub mod dependencies;
pub mod doors;
pub mod enrol;
pub mod fleet;
pub mod form;
pub mod groups;
pub mod host_keys;
pub mod import;
pub mod keeping;
pub mod keys;
pub mod operation;
mod operation_archives;
mod operation_clusters;
pub mod operation_form;
pub mod operation_kinds;
pub mod operation_look;
pub mod operation_new;
pub mod operation_parameters;
mod operation_progress;
pub mod operation_where;
pub mod operations;
pub mod remote;
pub mod report;
pub mod server;
pub mod settings;
pub mod task_form;
pub mod tasks;
pub mod ways;

use askama::Template;
use askama::filters::HtmlSafe;
use serde::Serialize;

use crate::model::{Health, Role, Status, Timestamp};

use super::assets;

/// Who looks at a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Viewer {
    pub name: String,
    pub role: Role,
    /// Goes into every form as `csrf_token` and into the page's `<meta name="csrf-token">`.
    pub csrf_token: String,
    pub organization_name: String,
    /// What stands on every page until it is over: history is not written.
    pub alarm: Option<String>,
}

/// A part of an open page, to be replaced by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fragment {
    pub id: String,
    pub html: String,
}

impl Fragment {
    fn render(id: String, part: &impl Template) -> Option<Self> {
        match part.render() {
            Ok(html) => Some(Self { id, html: html.trim().to_owned() }),
            Err(error) => {
                tracing::error!(%error, fragment = %id, "a part of a page was not rendered");
                None
            }
        }
    }
}

/// What became of the request before this page, told once at its top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub kind: NoticeKind,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeKind {
    Success,
    Problem,
}

impl Notice {
    #[must_use]
    pub const fn success(text: String) -> Self {
        Self { kind: NoticeKind::Success, text }
    }

    #[must_use]
    pub const fn problem(text: String) -> Self {
        Self { kind: NoticeKind::Problem, text }
    }

    #[must_use]
    pub fn is_problem(&self) -> bool {
        self.kind == NoticeKind::Problem
    }
}

/// The entry of the navigation that a page belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    Fleet,
    Groups,
    Charts,
    Operations,
    Tasks,
    Keys,
    Settings,
}

/// What the frame around a page shows.
#[derive(Debug, Clone)]
pub struct Chrome {
    pub title: String,
    pub section: Section,
    /// What the page's WebSocket asks for (`fleet`, `group:ID`, `server:ID:TAB`, `charts`, `operations`, `operation:ID`, `tasks`, `task:ID`). None: nothing on it changes by itself.
    pub live: Option<String>,
    pub notice: Option<Notice>,
    pub viewer: Viewer,
    pub is_admin: bool,
    /// Where the files of this version are.
    pub assets: &'static str,
    /// When the page was made, Unix milliseconds: the browser counts relative times from here.
    pub now_ms: i64,
}

impl Chrome {
    fn new(title: &str, section: Section, live: Option<String>, viewer: &Viewer, now: Timestamp) -> Self {
        Self {
            title: title.to_owned(),
            section,
            live,
            notice: None,
            is_admin: viewer.role >= Role::Admin,
            viewer: viewer.clone(),
            assets: assets::base(),
            now_ms: now.as_millis(),
        }
    }

    fn in_fleet(&self) -> bool {
        self.section == Section::Fleet
    }

    /// Acts on servers, so the bulk bar is theirs.
    fn is_operator(&self) -> bool {
        self.viewer.role >= Role::Operator
    }

    fn in_groups(&self) -> bool {
        self.section == Section::Groups
    }

    fn in_charts(&self) -> bool {
        self.section == Section::Charts
    }

    fn in_operations(&self) -> bool {
        self.section == Section::Operations
    }

    fn in_tasks(&self) -> bool {
        self.section == Section::Tasks
    }

    fn in_keys(&self) -> bool {
        self.section == Section::Keys
    }

    fn in_settings(&self) -> bool {
        self.section == Section::Settings
    }
}

/// A word with an icon and a colour, never the colour alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Template)]
#[template(
    ext = "html",
    source = "<span class=\"badge {{ class }}\"><svg class=\"icon\" aria-hidden=\"true\"><use href=\"#i-{{ icon }}\"/></svg>{{ text }}</span>"
)]
pub struct Badge {
    class: &'static str,
    icon: &'static str,
    text: &'static str,
}

// askama wrote it; all three texts are ours.
impl HtmlSafe for Badge {}

impl Badge {
    #[must_use]
    pub const fn health(health: Health) -> Self {
        let (class, icon, text) = match health {
            Health::Healthy => ("is-healthy", "circle-check", "Healthy"),
            Health::Degraded => ("is-degraded", "triangle-alert", "Degraded"),
            Health::Critical => ("is-critical", "octagon-x", "Critical"),
            Health::Unreachable => ("is-unreachable", "unplug", "Unreachable"),
            Health::Unknown => ("is-unknown", "circle-question-mark", "Unknown"),
        };
        Self { class, icon, text }
    }

    /// None for `active`: the usual needs no badge.
    #[must_use]
    pub const fn status(status: Status) -> Option<Self> {
        match status {
            Status::Active => None,
            Status::Maintenance => Some(Self { class: "is-neutral", icon: "wrench", text: "Maintenance" }),
            Status::Inactive => Some(Self { class: "is-neutral", icon: "circle-pause", text: "Inactive" }),
        }
    }
}

/// A key to choose for logging in; its private half stays where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptKey {
    /// What the form sends.
    pub id: String,
    pub name: String,
    pub public_key: String,
}

/// One choice of a `<select>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub value: String,
    pub text: String,
    pub selected: bool,
}

impl Choice {
    fn of(value: &str, text: &str, current: &str) -> Self {
        Self { value: value.to_owned(), text: text.to_owned(), selected: value == current }
    }
}

/// A word with a capital, for a label.
fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod preview;
#[cfg(test)]
pub(crate) mod samples;
