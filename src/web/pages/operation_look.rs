//! Which part of an operation a page shows: the state that is filtered by, the page, the servers that are opened. It stands
//! in the address, so a reload, a link and the live connection show the same.

use std::collections::BTreeSet;

use crate::model::TargetStatus;
use crate::operations::{OperationView, TargetView};

/// Servers on a page; more are on the next.
pub const TARGETS_PER_PAGE: usize = 1000;
/// With at most so many servers, all of them are opened from the start.
pub const UNFOLDED: usize = 20;
/// Servers that are opened at the same time; only their output is sent. A reader has one or two open.
const OPENED: usize = 20;

/// From the address of an operation's page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Only targets in this state.
    pub status: Option<TargetStatus>,
    /// From 0.
    page: usize,
    /// Positions of opened targets.
    opened: BTreeSet<u32>,
}

impl Look {
    /// From `status`, `page` and `open` (positions with commas); what cannot be read is not said.
    #[must_use]
    pub fn of<'a>(given: impl Fn(&str) -> Option<&'a str>) -> Self {
        let mut look = Self {
            status: given("status").and_then(|word| word.parse().ok()),
            page: given("page").and_then(|text| text.parse::<usize>().ok()).unwrap_or(1).saturating_sub(1),
            opened: BTreeSet::new(),
        };
        look.open(given("open").unwrap_or_default().split(',').filter_map(|text| text.parse().ok()));
        look
    }

    /// These are opened and no others.
    pub fn open(&mut self, positions: impl Iterator<Item = u32>) {
        self.opened = positions.take(OPENED).collect();
    }

    /// Whether the output of this target is shown, where the operation has so many.
    #[must_use]
    pub fn is_open(&self, position: u32, total: usize) -> bool {
        total <= UNFOLDED || self.opened.contains(&position)
    }

    /// Outputs on the page at most.
    #[must_use]
    pub fn outputs(&self, total: usize) -> usize {
        if total <= UNFOLDED { total } else { self.opened.len() }
    }

    /// The targets of the page, and how many there are on all pages.
    #[must_use]
    pub fn window<'a>(&self, view: &'a OperationView) -> (Vec<&'a TargetView>, usize) {
        let wanted = |one: &&TargetView| self.status.is_none_or(|status| one.target.status == status);
        let all: Vec<&TargetView> = view.targets.iter().filter(wanted).collect();
        let count = all.len();
        let start = self.page.saturating_mul(TARGETS_PER_PAGE);
        (all.into_iter().skip(start).take(TARGETS_PER_PAGE).collect(), count)
    }

    /// What stands behind the address of the operation to look at this state alone, or at all of them.
    #[must_use]
    pub fn filtered(status: Option<TargetStatus>) -> String {
        status.map(|status| format!("?status={status}")).unwrap_or_default()
    }

    /// The addresses of the pages before and after this one, where there are such.
    #[must_use]
    pub fn turns(&self, count: usize) -> (Option<String>, Option<String>) {
        let address = |page: usize| {
            let status = self.status.map(|status| format!("status={status}&")).unwrap_or_default();
            format!("?{status}page={}", page + 1)
        };
        let has_more = count > self.page.saturating_add(1).saturating_mul(TARGETS_PER_PAGE);
        (self.page.checked_sub(1).map(address), has_more.then(|| address(self.page + 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::pages::samples::operation;

    fn look(query: &str) -> Look {
        let pairs: Vec<(String, String)> = serde_urlencoded::from_str(query).unwrap();
        Look::of(|name| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()))
    }

    #[test]
    fn the_address_says_what_is_shown_and_nonsense_says_nothing() {
        let found = look("status=failed&page=2&open=3,5,x");
        assert_eq!((found.status, found.page), (Some(TargetStatus::Failed), 1));
        assert!(found.is_open(5, 100) && !found.is_open(4, 100) && found.is_open(4, 20));
        assert_eq!(look("status=odd&page=-1&open="), Look::default());
        let many: Vec<String> = (0..1000).map(|number: u32| number.to_string()).collect();
        assert_eq!(look(&format!("open={}", many.join(","))).outputs(1000), OPENED);
    }

    #[test]
    fn a_page_holds_a_thousand_targets_and_a_filter_counts_its_own() {
        let view = operation(&[&vec![TargetStatus::Succeeded; 2100][..], &[TargetStatus::Failed]].concat());
        let (shown, count) = look("page=3").window(&view);
        assert_eq!((shown.len(), count), (101, 2101));
        assert_eq!(look("page=3").turns(count), (Some("?page=2".to_owned()), None));
        let (failed, count) = look("status=failed").window(&view);
        assert_eq!((failed.len(), count), (1, 1));
        assert_eq!(look("status=failed").turns(count), (None, None));
        let (_, count) = look("").window(&view);
        assert_eq!(look("").turns(count), (None, Some("?page=2".to_owned())));
        assert!(look("page=18446744073709551615").window(&view).0.is_empty());
    }
}
