//! The diagnostics that an operation brought: a list to download from, for those who act.

use std::collections::HashSet;

use askama::Template;
use askama::filters::HtmlSafe;

use crate::model::{Role, ServerId};
use crate::operations::OperationView;

use super::Viewer;

/// Servers in the list; the API has all.
const SHOWN: usize = 200;
/// With more servers than this the list is folded away.
const UNFOLDED: usize = 20;

/// Where the archives of an operation are.
#[derive(Debug, Clone, Template)]
#[template(path = "partials/operation_archives.html")]
pub(super) struct Archives {
    csrf_token: String,
    /// Name of the server, and where its archive is.
    rows: Vec<(String, String)>,
    total: usize,
    is_open: bool,
}

// askama wrote it and escaped what is in it.
impl HtmlSafe for Archives {}

impl Archives {
    /// None: it brought none that is still kept, or the viewer may not have them.
    pub(super) fn of(viewer: &Viewer, view: &OperationView) -> Option<Self> {
        if view.operation.kind != "collect_diagnostics" || viewer.role < Role::Operator {
            return None;
        }
        let kept: HashSet<ServerId> = view.archived.iter().copied().collect();
        let brought = || view.targets.iter().filter(|one| kept.contains(&one.target.server));
        let total = brought().count();
        let row = |target: &crate::store::operations::Target| {
            let address = format!("/operations/{}/diagnostics/{}", view.operation.id, target.server);
            (target.server_name.clone(), address)
        };
        (total > 0).then(|| Self {
            csrf_token: viewer.csrf_token.clone(),
            rows: brought().take(SHOWN).map(|one| row(&one.target)).collect(),
            total,
            is_open: total <= UNFOLDED,
        })
    }

    fn left_out(&self) -> usize {
        self.total - self.rows.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TargetStatus::{Failed, Succeeded};
    use crate::web::pages::samples::{operation, viewer};

    #[test]
    fn collected_diagnostics_are_offered_to_those_who_act() {
        let mut view = operation(&[Succeeded, Failed]);
        assert!(Archives::of(&viewer(Role::Admin), &view).is_none(), "another kind of operation");
        view.operation.kind = "collect_diagnostics".to_owned();
        assert!(Archives::of(&viewer(Role::Operator), &view).is_none(), "all were removed or have expired");
        view.archived = vec![view.targets[0].target.server];
        let address = |at: usize| {
            format!("/operations/{}/diagnostics/{}", view.operation.id, view.targets[at].target.server)
        };
        let html = Archives::of(&viewer(Role::Operator), &view).unwrap().render().unwrap();
        assert!(html.contains(&format!("href=\"{}\"", address(0))), "{html}");
        assert!(html.contains(&format!("action=\"{}/remove\"", address(0))), "{html}");
        assert!(!html.contains(&address(1)));
        assert!(Archives::of(&viewer(Role::Viewer), &view).is_none());
    }

    #[test]
    fn a_long_list_is_folded_and_counts_what_it_leaves_out() {
        let mut view = operation(&vec![Succeeded; SHOWN + 7]);
        view.operation.kind = "collect_diagnostics".to_owned();
        view.archived = view.targets.iter().map(|one| one.target.server).collect();
        let html = Archives::of(&viewer(Role::Operator), &view).unwrap().render().unwrap();
        assert!(html.contains("7 more") && !html.contains(" open"), "{html}");
    }
}
