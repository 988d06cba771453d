//! Equal answers of an operation as one: what the most said, and how the others differ from it.

use crate::model::Role;
use crate::operations::{Cluster, OperationView, Side, TargetView, cluster_summary, clusters};
use crate::web::view;

use super::remote::Printed;
use super::{Badge, Viewer};

/// Servers that a cluster names.
const NAMED: usize = 8;
/// Clusters on a page; of more, the smallest are counted only.
const SHOWN: usize = 20;
/// Bytes of each stream of a cluster's answer: enough to recognise it, the servers have the rest.
const SAID_BYTES: usize = 8 * 1024;

/// Equal answers as one.
#[derive(Debug, Clone)]
pub(super) struct Folded {
    pub(super) summary: String,
    pub(super) outliers: Option<Outliers>,
    pub(super) clusters: Vec<Fold>,
    pub(super) left_out: usize,
}

/// All that did not end as the largest cluster did, for who may do something to them.
#[derive(Debug, Clone)]
pub(super) struct Outliers {
    pub(super) count: usize,
    /// With commas between.
    pub(super) names: String,
}

#[derive(Debug, Clone)]
pub(super) struct Fold {
    pub(super) number: usize,
    pub(super) badge: Badge,
    pub(super) ending: String,
    pub(super) count: usize,
    pub(super) names: String,
    /// All of its servers with commas between, for who may do something to them.
    pub(super) chosen: Option<String>,
    /// The answer of its first server, which is that of all.
    pub(super) said: Vec<Printed>,
    /// Class, mark and text of each line that differs from the largest.
    pub(super) diff: Vec<(&'static str, &'static str, String)>,
    pub(super) left_out: usize,
}

impl Folded {
    /// None: nothing has ended, or there is one server and so nothing to compare.
    pub(super) fn of(viewer: &Viewer, view: &OperationView) -> Option<Self> {
        let found = clusters(&view.targets);
        let summary = cluster_summary(&found, &view.targets).filter(|_| view.targets.len() > 1)?;
        let may_act = viewer.role >= Role::Operator;
        Some(Self {
            summary,
            outliers: if may_act { outliers(&found, view) } else { None },
            left_out: found.len().saturating_sub(SHOWN),
            clusters: (0..).zip(found.iter().take(SHOWN)).map(|one| Fold::of(one, view, may_act)).collect(),
        })
    }
}

fn members<'a>(cluster: &Cluster, view: &'a OperationView) -> Vec<&'a TargetView> {
    cluster.members.iter().filter_map(|index| view.targets.get(*index)).collect()
}

fn names(members: &[&TargetView]) -> String {
    members.iter().map(|one| one.target.server_name.as_str()).collect::<Vec<_>>().join(", ")
}

/// None: all said the same, or nobody answered, so nobody is the rule.
fn outliers(found: &[Cluster], view: &OperationView) -> Option<Outliers> {
    let (largest, others) = found.split_first().filter(|(_, others)| !others.is_empty())?;
    let first = *members(largest, view).first()?;
    first.record.as_ref()?.exit_status?;
    let all: Vec<&TargetView> = others.iter().flat_map(|cluster| members(cluster, view)).collect();
    Some(Outliers { count: all.len(), names: names(&all) })
}

impl Fold {
    fn of((number, cluster): (usize, &Cluster), view: &OperationView, may_act: bool) -> Self {
        let members = members(cluster, view);
        let more = members.len().saturating_sub(NAMED);
        let named = names(members.get(..members.len().min(NAMED)).unwrap_or_default());
        let record = members.first().and_then(|one| one.record.as_ref());
        let said =
            record.map(|record| [Printed::stdout(record, SAID_BYTES), Printed::stderr(record, SAID_BYTES)]);
        Self {
            number,
            badge: Badge::target(cluster.status),
            ending: view::clean(&cluster.ending, view::TEXT_CHARS),
            count: members.len(),
            chosen: may_act.then(|| names(&members)),
            names: if more > 0 { format!("{named} and {more} more") } else { named },
            said: said.into_iter().flatten().flatten().collect(),
            diff: cluster.diff.iter().map(|(side, line)| line_of(*side, line)).collect(),
            left_out: cluster.diff_left_out,
        }
    }
}

fn line_of(side: Side, line: &str) -> (&'static str, &'static str, String) {
    let class = match side {
        Side::Removed => "diff-removed",
        Side::Added => "diff-added",
        Side::Both => "diff-both",
    };
    (class, side.mark(), view::clean(line, view::TEXT_CHARS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TargetStatus;
    use crate::web::pages::samples::{operation, viewer};
    use TargetStatus::{Failed, Succeeded, Unreachable};

    fn said(texts: &[&str]) -> OperationView {
        let mut view = operation(&vec![Succeeded; texts.len()]);
        for (target, text) in view.targets.iter_mut().zip(texts) {
            target.record.as_mut().unwrap().stdout = (*text).to_owned();
        }
        view
    }

    #[test]
    fn who_differs_from_the_largest_is_chosen_with_one_press_by_those_who_act() {
        let mut view = said(&["6.1\n", "6.1\n", "5.10\n", "6.1\n"]);
        view.targets[3] = operation(&[Succeeded, Succeeded, Succeeded, Unreachable]).targets.remove(3);
        let folded = Folded::of(&viewer(Role::Operator), &view).unwrap();
        assert_eq!(folded.summary, "2 identical, 1 differs, 1 unreachable");
        let outliers = folded.outliers.unwrap();
        assert_eq!((outliers.count, outliers.names.as_str()), (2, "web-2, web-3"));
        assert_eq!(folded.clusters[0].chosen.as_deref(), Some("web-0, web-1"));
        assert_eq!(folded.clusters[1].diff[0], ("diff-removed", "-", "6.1".to_owned()));
        let folded = Folded::of(&viewer(Role::Viewer), &view).unwrap();
        assert!(folded.outliers.is_none() && folded.clusters.iter().all(|fold| fold.chosen.is_none()));
    }

    #[test]
    fn where_all_agree_or_nobody_answered_there_is_no_outlier() {
        let one = |view: &OperationView| Folded::of(&viewer(Role::Admin), view).unwrap().outliers;
        assert!(one(&said(&["a", "a"])).is_none());
        assert!(one(&operation(&[Unreachable, Unreachable])).is_none());
        assert!(one(&operation(&[Failed, Succeeded])).is_some());
        assert!(Folded::of(&viewer(Role::Admin), &operation(&[Succeeded])).is_none(), "nothing to compare");
    }

    #[test]
    fn of_very_many_answers_the_first_stand_there_and_the_rest_is_counted() {
        let texts: Vec<String> = (0..100).map(|number| format!("{number}\n")).collect();
        let view = said(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        let folded = Folded::of(&viewer(Role::Operator), &view).unwrap();
        assert_eq!((folded.clusters.len(), folded.left_out), (SHOWN, 100 - SHOWN));
    }
}
