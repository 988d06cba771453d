//! Every operation of the organization, newest first.

use askama::Template;

use crate::model::{Role, TargetStatus, Timestamp};
use crate::operations::OperationView;
use crate::web::view::{self, Value, When};

use super::remote::{Pager, took};
use super::{Badge, Chrome, Section, Viewer};

/// Operations on a page.
pub const PER_PAGE: u32 = 50;
/// Servers of an operation that its row names.
const NAMED: usize = 3;

/// `GET /operations`.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/operations.html")]
pub struct OperationsPage {
    pub chrome: Chrome,
    may_act: bool,
    rows: Vec<Row>,
    pager: Pager,
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
    pub fn new(viewer: &Viewer, fetched: &[OperationView], pager: Pager, now: Timestamp) -> Self {
        let (pager, shown) = pager.split(fetched, PER_PAGE);
        Self {
            chrome: Chrome::new(
                "Operations",
                Section::Operations,
                Some("operations".to_owned()),
                viewer,
                now,
            ),
            may_act: viewer.role >= Role::Operator,
            rows: shown.iter().map(|view| Row::new(view, now)).collect(),
            pager,
        }
    }
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
            OperationsPage::new(&viewer(Role::Viewer), &views, Pager::of(None), now()).render().unwrap();
        for text in
            ["Restart the service nginx", "web-0, web-1, web-2 and 1 more", "2 of 4", "Running", "anna"]
        {
            assert!(html.contains(text), "{text}");
        }
        assert!(!html.contains("Older"));
    }

    #[test]
    fn without_any_the_page_says_how_one_begins() {
        let html = OperationsPage::new(&viewer(Role::Viewer), &[], Pager::of(None), now()).render().unwrap();
        assert!(html.contains("Nothing was done yet"));
    }
}
