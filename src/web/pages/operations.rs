//! Every operation of the organization, newest first, or those that a filter leaves; the filter stands in the address.

use askama::Template;

use crate::model::{OperationStatus, Role, TargetStatus, Timestamp};
use crate::operations::OperationView;
use crate::web::view::{self, Value, When};

use super::operation::Turn;
use super::operation_kinds::KINDS;
use super::remote::{Pager, took};
use super::{Badge, Choice, Chrome, Section, Viewer, capital};

/// Operations on a page.
pub const PER_PAGE: u32 = 50;
/// Servers of an operation that its row names.
const NAMED: usize = 3;
/// Kinds of operations that begin elsewhere than in the wizard.
const ELSEWHERE: [(&str, &str); 1] = [("rotate_key", "Rotate a key")];

/// What the list is narrowed to, as it stands in the address; empty is not narrowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    pub status: String,
    pub action: String,
    pub server: String,
    pub initiated_by: String,
}

impl ListQuery {
    #[must_use]
    pub fn of<'a>(given: impl Fn(&str) -> Option<&'a str>) -> Self {
        let text = |name: &str| given(name).unwrap_or_default().trim().to_owned();
        Self {
            status: text("status"),
            action: text("action"),
            server: text("server"),
            initiated_by: text("initiated_by"),
        }
    }

    #[must_use]
    pub fn is_filtered(&self) -> bool {
        *self != Self::default()
    }

    /// The address of a page of the same list.
    fn page(&self, page: u32) -> String {
        let pairs = [
            ("status", self.status.as_str()),
            ("action", &self.action),
            ("server", &self.server),
            ("initiated_by", &self.initiated_by),
        ];
        let page = page.to_string();
        let given = pairs.into_iter().filter(|(_, value)| !value.is_empty()).chain([("page", page.as_str())]);
        let query = serde_urlencoded::to_string(given.collect::<Vec<_>>()).unwrap_or_default();
        format!("/operations?{query}")
    }
}

/// `GET /operations`.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/operations.html")]
pub struct OperationsPage {
    pub chrome: Chrome,
    may_act: bool,
    query: ListQuery,
    is_filtered: bool,
    statuses: Vec<Choice>,
    actions: Vec<Choice>,
    rows: Vec<Row>,
    turn: Turn,
}

#[derive(Debug, Clone)]
struct Row {
    id: String,
    title: String,
    servers: String,
    badge: Badge,
    ended: usize,
    total: usize,
    who: String,
    when: When,
    took: Option<Value>,
}

impl OperationsPage {
    /// `fetched` are the rows of the pager's window.
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        fetched: &[OperationView],
        query: &ListQuery,
        pager: Pager,
        now: Timestamp,
    ) -> Self {
        let (pager, shown) = pager.split(fetched, PER_PAGE);
        let (before, after) = pager.turns();
        let live = Some("operations".to_owned());
        Self {
            chrome: Chrome::new("Operations", Section::Operations, live, viewer, now),
            may_act: viewer.role >= Role::Operator,
            is_filtered: query.is_filtered(),
            statuses: statuses(&query.status),
            actions: actions(&query.action),
            rows: shown.iter().map(|view| Row::new(view, now)).collect(),
            turn: Turn {
                before: before.map(|page| query.page(page)),
                after: after.map(|page| query.page(page)),
                words: ("Newer", "Older"),
                place: format!("Page {}", pager.page()),
            },
            query: query.clone(),
        }
    }
}

fn statuses(chosen: &str) -> Vec<Choice> {
    let all = OperationStatus::ALL.iter().map(|status| (status.name(), capital(status.name())));
    choices("Status: any", all, chosen)
}

fn actions(chosen: &str) -> Vec<Choice> {
    let all = KINDS.iter().map(|kind| (kind.word, kind.title)).chain(ELSEWHERE);
    choices("Action: any", all.map(|(word, title)| (word, title.to_owned())), chosen)
}

/// With "any" before them, and what was chosen by an old address even if it is none of them.
fn choices<'a>(any: &str, all: impl Iterator<Item = (&'a str, String)>, chosen: &str) -> Vec<Choice> {
    let mut choices = vec![Choice::of("", any, chosen)];
    choices.extend(all.map(|(value, text)| Choice::of(value, &text, chosen)));
    if !choices.iter().any(|choice| choice.selected) {
        choices.push(Choice::of(chosen, chosen, chosen));
    }
    choices
}

impl Row {
    fn new(view: &OperationView, now: Timestamp) -> Self {
        let operation = &view.operation;
        let is_final = |status: TargetStatus| status.is_final();
        Self {
            id: operation.id.to_string(),
            title: view::clean(&operation.title, view::CELL_CHARS),
            servers: names(view),
            badge: Badge::operation(operation.status),
            ended: view.targets.iter().filter(|target| is_final(target.target.status)).count(),
            total: view.targets.len(),
            who: view::clean(&operation.initiated_by, 80),
            when: When::new(Some(operation.created_at), now),
            took: super::operation_progress::duration_ms(operation).map(took),
        }
    }
}

fn names(view: &OperationView) -> String {
    let named: Vec<&str> =
        view.targets.iter().take(NAMED).map(|target| target.target.server_name.as_str()).collect();
    match view.targets.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::pages::samples::{now, operation, viewer};

    #[test]
    fn each_operation_says_what_who_where_and_how_far() {
        use TargetStatus::{Sent, Succeeded, Unreachable};
        let views = [operation(&[Succeeded, Sent, Unreachable, Sent])];
        let html =
            OperationsPage::new(&viewer(Role::Viewer), &views, &ListQuery::default(), Pager::of(None), now())
                .render()
                .unwrap();
        for text in
            ["Restart the service nginx", "web-0, web-1, web-2 and 1 more", "2 of 4", "Running", "anna"]
        {
            assert!(html.contains(text), "{text}");
        }
        assert!(!html.contains("Older"));
    }

    #[test]
    fn without_any_the_page_says_how_one_begins() {
        let none = ListQuery::default();
        let html =
            OperationsPage::new(&viewer(Role::Viewer), &[], &none, Pager::of(None), now()).render().unwrap();
        assert!(html.contains("Nothing was done yet"));
    }

    #[test]
    fn a_filter_stays_in_the_address_of_every_page_and_can_be_taken_away() {
        let views = vec![operation(&[TargetStatus::Failed]); 51];
        let query = ListQuery {
            status: "failed".to_owned(),
            server: "a&b".to_owned(),
            action: "gone_kind".to_owned(),
            ..ListQuery::default()
        };
        let html = OperationsPage::new(&viewer(Role::Viewer), &views, &query, Pager::of(Some("2")), now())
            .render()
            .unwrap();
        let older = "/operations?status=failed&#38;action=gone_kind&#38;server=a%26b&#38;page=3";
        assert!(html.contains(&format!("href=\"{older}\"")), "{html}");
        assert!(html.contains("page=1\"") && html.contains("<option value=\"failed\" selected>"));
        assert!(html.contains("<option value=\"gone_kind\" selected>") && html.contains(">Clear</a>"));
        let none = OperationsPage::new(&viewer(Role::Viewer), &[], &query, Pager::of(None), now());
        assert!(none.render().unwrap().contains("No operation fits"));
    }
}
