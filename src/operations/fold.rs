//! Equal outputs of an operation become one: "47 identical, 2 differ, 1 unreachable", with what the others say differently. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use similar::{Algorithm, ChangeTag, TextDiff};

use super::TargetView;
use crate::model::TargetStatus;

/// Lines of a difference that are shown; more is read on the servers' own pages.
const DIFF_LINES: usize = 200;
/// Bytes of each output that are compared line by line; whether outputs are equal is decided by all of them.
const COMPARED_BYTES: usize = 64 * 1024;
/// Clusters that get a difference: of hundreds, nobody reads them.
const COMPARED: usize = 20;
/// Hostile outputs may be slow to compare; what was not found by then is told less finely.
const COMPARE_LIMIT: Duration = Duration::from_millis(20);
/// Unchanged lines around a difference.
const CONTEXT_LINES: usize = 2;

/// A line of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Only the largest cluster has it.
    Removed,
    /// Only this cluster has it.
    Added,
    Both,
}

impl Side {
    /// As `diff -u` marks it.
    #[must_use]
    pub const fn mark(self) -> &'static str {
        match self {
            Self::Removed => "-",
            Self::Added => "+",
            Self::Both => " ",
        }
    }
}

/// Targets with the same end and the same words.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub status: TargetStatus,
    /// `exit status 0`, or why there is none.
    pub ending: String,
    /// Places among the targets that were given.
    pub members: Vec<usize>,
    /// How it differs from the first cluster; empty for the first, and where no command answered.
    pub diff: Vec<(Side, String)>,
    /// Lines of the difference that are left out.
    pub diff_left_out: usize,
}

/// Clusters of the targets that have ended, the largest with an answer first; those without an answer last.
#[must_use]
pub fn clusters(targets: &[TargetView]) -> Vec<Cluster> {
    let mut places: HashMap<(TargetStatus, String, &str, &str), usize> = HashMap::new();
    let mut found: Vec<Cluster> = Vec::new();
    for (index, view) in targets.iter().enumerate() {
        let status = view.target.status;
        if !status.is_final() {
            continue;
        }
        let (stdout, stderr) = words(view);
        let key = (status, ending(view), stdout, stderr);
        let place = *places.entry(key).or_insert_with_key(|(status, ending, ..)| {
            found.push(Cluster {
                status: *status,
                ending: ending.clone(),
                members: Vec::new(),
                diff: Vec::new(),
                diff_left_out: 0,
            });
            found.len() - 1
        });
        if let Some(cluster) = found.get_mut(place) {
            cluster.members.push(index);
        }
    }
    found.sort_by_key(|cluster| (!answered(cluster, targets), std::cmp::Reverse(cluster.members.len())));
    compare(&mut found, targets);
    found
}

fn words(view: &TargetView) -> (&str, &str) {
    view.record.as_ref().map_or(("", ""), |record| (record.stdout.as_str(), record.stderr.as_str()))
}

fn ending(view: &TargetView) -> String {
    match view.record.as_ref().and_then(|record| record.exit_status) {
        Some(status) => format!("exit status {status}"),
        None => view.target.error.clone().unwrap_or_else(|| view.target.status.name().to_owned()),
    }
}

fn first<'a>(cluster: &Cluster, targets: &'a [TargetView]) -> Option<&'a TargetView> {
    cluster.members.first().and_then(|index| targets.get(*index))
}

fn answered(cluster: &Cluster, targets: &[TargetView]) -> bool {
    first(cluster, targets)
        .and_then(|view| view.record.as_ref())
        .is_some_and(|record| record.exit_status.is_some())
}

fn compare(clusters: &mut [Cluster], targets: &[TargetView]) {
    let Some((reference, others)) = clusters.split_first_mut() else { return };
    if !answered(reference, targets) {
        return;
    }
    let expected = first(reference, targets).map(text).unwrap_or_default();
    for cluster in others.iter_mut().take(COMPARED) {
        if answered(cluster, targets) {
            let found = first(cluster, targets).map(text).unwrap_or_default();
            (cluster.diff, cluster.diff_left_out) = difference(&expected, &found);
        }
    }
}

/// Both outputs as they are compared.
fn text(view: &TargetView) -> String {
    let (stdout, stderr) = words(view);
    let mut text = head(stdout).to_owned();
    if !stderr.is_empty() {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(head(stderr));
    }
    text
}

fn head(text: &str) -> &str {
    let end = (0..=COMPARED_BYTES.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

/// Lines that differ with a few around them, and how many more there are.
fn difference(expected: &str, found: &str) -> (Vec<(Side, String)>, usize) {
    let diff = TextDiff::configure()
        .algorithm(Algorithm::Myers)
        .deadline(Instant::now() + COMPARE_LIMIT)
        .diff_lines(expected, found);
    let mut lines = Vec::new();
    let mut left_out = 0;
    for operation in diff.grouped_ops(CONTEXT_LINES).iter().flatten() {
        for change in diff.iter_changes(operation) {
            if lines.len() == DIFF_LINES {
                left_out += 1;
                continue;
            }
            let side = match change.tag() {
                ChangeTag::Delete => Side::Removed,
                ChangeTag::Insert => Side::Added,
                ChangeTag::Equal => Side::Both,
            };
            lines.push((side, change.value().trim_end_matches(['\n', '\r']).to_owned()));
        }
    }
    (lines, left_out)
}

/// "47 identical, 2 differ, 1 unreachable". None: nothing has ended.
#[must_use]
pub fn cluster_summary(clusters: &[Cluster], targets: &[TargetView]) -> Option<String> {
    let mut parts = Vec::new();
    let mut differ = 0;
    let mut by_status: Vec<(TargetStatus, usize)> = Vec::new();
    for (number, cluster) in clusters.iter().enumerate() {
        let count = cluster.members.len();
        if !answered(cluster, targets) {
            match by_status.iter_mut().find(|(status, _)| *status == cluster.status) {
                Some((_, sum)) => *sum += count,
                None => by_status.push((cluster.status, count)),
            }
        } else if number == 0 {
            parts.push(format!("{count} identical"));
        } else {
            differ += count;
        }
    }
    if differ > 0 {
        parts.push(format!("{differ} differ{}", if differ == 1 { "s" } else { "" }));
    }
    parts.extend(by_status.into_iter().map(|(status, count)| format!("{count} {status}")));
    (!parts.is_empty()).then(|| parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    use crate::model::{OrganizationId, RecordId, ServerId, Timestamp};
    use crate::store::operations::{CommandRecord, Target};
    use TargetStatus::{Sent, Succeeded, Unreachable};

    fn target(status: TargetStatus) -> TargetView {
        let server = ServerId::new(Uuid::nil());
        let target = Target {
            position: 0,
            server,
            server_name: "web".to_owned(),
            status,
            command: None,
            error: None,
            record: None,
            batch: 0,
            started_at: None,
            completed_at: None,
        };
        let record = CommandRecord {
            id: RecordId::new(Uuid::nil()),
            organization: OrganizationId::DEFAULT,
            server_id: server,
            server_name: "web".to_owned(),
            operation_id: None,
            initiated_by: "anna".to_owned(),
            label: String::new(),
            command: String::new(),
            container_command: None,
            started_at: Timestamp::from_millis(0),
            duration_ms: Some(1),
            exit_status: Some(0),
            signal: None,
            error: None,
            stdout: String::new(),
            stderr: String::new(),
            stdout_dropped_bytes: 0,
            stderr_dropped_bytes: 0,
            omitted_chars: 0,
        };
        TargetView { target, record: (status == Succeeded).then_some(record) }
    }

    fn said(texts: &[&str]) -> Vec<TargetView> {
        let mut targets = vec![target(Succeeded); texts.len()];
        for (target, text) in targets.iter_mut().zip(texts) {
            target.record.as_mut().unwrap().stdout = (*text).to_owned();
        }
        targets
    }

    #[test]
    fn equal_outputs_are_one_and_the_others_say_how_they_differ() {
        let mut targets = said(&["6.1\n", "a\n6.1\n", "6.1\n", "6.1\n"]);
        targets.extend([target(Unreachable), target(Sent)]);
        let found = clusters(&targets);
        assert_eq!(
            found.iter().map(|one| one.members.clone()).collect::<Vec<_>>(),
            [vec![0, 2, 3], vec![1], vec![4]]
        );
        assert_eq!(found[1].diff, [(Side::Added, "a".to_owned()), (Side::Both, "6.1".to_owned())]);
        assert_eq!(cluster_summary(&found, &targets).unwrap(), "3 identical, 1 differs, 1 unreachable");
    }

    #[test]
    fn hostile_outputs_are_compared_within_bounds() {
        let long = (0..100_000).map(|n| format!("{n}\n")).collect::<String>();
        let other = (0..100_000).map(|n| format!("{}\n", n * 7 % 99_991)).collect::<String>();
        let targets = said(&[&long, &long, &other]);
        let started = Instant::now();
        let found = clusters(&targets);
        assert!(found[1].diff.len() <= DIFF_LINES && found[1].diff_left_out > 0);
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    }

    #[test]
    fn nothing_that_ended_is_nothing_to_fold() {
        let targets = [target(Sent)];
        assert_eq!(cluster_summary(&clusters(&targets), &targets), None);
    }
}
