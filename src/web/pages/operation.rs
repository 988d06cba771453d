//! One operation: what is done, by whom, how far it is, and what every server answered.

use std::collections::HashSet;

use askama::Template;

use crate::model::{OperationStatus, Role, ServerId, TargetStatus, Timestamp};
use crate::operations::{Cluster, OperationView, Side, TargetView, cluster_summary, clusters};
use crate::store::operations::Operation;
use crate::web::view::{self, Value, When};

use super::remote::{Printed, exact, exit, took};
use super::{Badge, Chrome, Fragment, Section, Viewer, capital};

/// Bytes of one output stream that a page shows.
const OUTPUT_BYTES: usize = 200 * 1024;
/// Bytes of all output on a page: a browser must be able to lay it out.
const PAGE_OUTPUT_BYTES: usize = 2 * 1024 * 1024;
/// However many servers there are, so much of each stream is shown.
const LEAST_OUTPUT_BYTES: usize = 1024;
/// Servers that a page shows; of more, those that did not succeed come first.
const TARGETS_SHOWN: usize = 1000;
/// With more servers than this, the details of each are folded away.
const UNFOLDED: usize = 20;

/// `GET /operations/{id}`.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/operation.html")]
pub struct OperationPage {
    pub chrome: Chrome,
    progress: Progress,
    targets: Vec<Block>,
    left_out: usize,
}

impl OperationPage {
    #[must_use]
    pub fn new(viewer: &Viewer, view: &OperationView, now: Timestamp) -> Self {
        let progress = Progress::new(viewer, view, now);
        // What has ended does not change any more.
        let live = progress.is_running.then(|| format!("operation:{}", view.operation.id));
        let shown = shown(view);
        Self {
            chrome: Chrome::new(&progress.title, Section::Operations, live, viewer, now),
            left_out: view.targets.len() - shown.len(),
            targets: shown.into_iter().map(|target| Block::new(target, view.targets.len(), now)).collect(),
            progress,
        }
    }
}

fn shown(view: &OperationView) -> Vec<&TargetView> {
    let mut all: Vec<&TargetView> = view.targets.iter().collect();
    if all.len() > TARGETS_SHOWN {
        all.sort_by_key(|target| target.target.status == TargetStatus::Succeeded);
        all.truncate(TARGETS_SHOWN);
    }
    all
}

/// From the first command to the last answer. None: it has not ended, or nothing was sent.
pub(super) fn duration_ms(operation: &Operation) -> Option<u64> {
    let (started, completed) = (operation.started_at?, operation.completed_at?);
    u64::try_from(completed.since(started).as_millis()).ok()
}

#[derive(Debug, Template)]
#[template(path = "partials/operation_progress.html")]
struct ProgressPart {
    progress: Progress,
}

#[derive(Debug, Template)]
#[template(path = "partials/operation_target.html")]
struct TargetPart {
    target: Block,
}

/// The progress and the targets of these servers, for open pages. None: of all that the page shows.
#[must_use]
pub fn operation_fragments(
    viewer: &Viewer,
    view: &OperationView,
    changed: Option<&HashSet<ServerId>>,
    now: Timestamp,
) -> Vec<Fragment> {
    let progress = ProgressPart { progress: Progress::new(viewer, view, now) };
    let mut fragments: Vec<Fragment> =
        Fragment::render("operation-progress".to_owned(), &progress).into_iter().collect();
    let total = view.targets.len();
    for target in shown(view) {
        if changed.is_none_or(|changed| changed.contains(&target.target.server)) {
            let target = Block::new(target, total, now);
            fragments.extend(Fragment::render(format!("target-{}", target.position), &TargetPart { target }));
        }
    }
    fragments
}

#[derive(Debug, Clone)]
struct Progress {
    id: String,
    title: String,
    badge: Badge,
    is_running: bool,
    is_paused: bool,
    /// Why nothing more was sent.
    halted: Option<String>,
    /// "Batch 2 of 4", where there are several.
    batch: Option<String>,
    may_cancel: bool,
    /// A whole of one server has nothing to hold back.
    may_pause: bool,
    /// Servers that a retry would be about; 0: none, or it may not be done.
    retry: usize,
    /// Servers that were never sent to.
    rest: usize,
    retry_of: Option<String>,
    /// Set once it has ended.
    folded: Option<Folded>,
    csrf_token: String,
    who: String,
    when: When,
    took: Option<Value>,
    facts: Vec<(&'static str, String)>,
    ended: usize,
    total: usize,
    counts: Vec<(Badge, usize)>,
    /// Class, start and width in percent of each state's part of the bar.
    parts: Vec<(&'static str, String, String)>,
}

/// Equal answers as one.
#[derive(Debug, Clone)]
struct Folded {
    summary: String,
    clusters: Vec<Fold>,
}

#[derive(Debug, Clone)]
struct Fold {
    badge: Badge,
    ending: String,
    count: usize,
    names: String,
    /// The fleet page with these servers chosen by their names; None for too many to stand in an address.
    address: Option<String>,
    /// Class, mark and text of each line that differs from the largest.
    diff: Vec<(&'static str, &'static str, String)>,
    left_out: usize,
}

/// Servers that a cluster names.
const FOLD_NAMED: usize = 8;
/// Clusters on a page; of more, the smallest are counted only.
const FOLDS: usize = 20;

impl Folded {
    /// With one server there is nothing to compare.
    fn of(view: &OperationView) -> Option<Self> {
        let found = clusters(&view.targets);
        let summary = cluster_summary(&found, &view.targets).filter(|_| view.targets.len() > 1)?;
        Some(Self { summary, clusters: found.iter().take(FOLDS).map(|one| Fold::of(one, view)).collect() })
    }
}

impl Fold {
    fn of(cluster: &Cluster, view: &OperationView) -> Self {
        let members: Vec<&TargetView> =
            cluster.members.iter().filter_map(|index| view.targets.get(*index)).collect();
        let names: Vec<&str> = members.iter().map(|one| one.target.server_name.as_str()).collect();
        let more = names.len().saturating_sub(FOLD_NAMED);
        let named = names.get(..names.len().min(FOLD_NAMED)).unwrap_or_default().join(", ");
        Self {
            badge: Badge::target(cluster.status),
            ending: view::clean(&cluster.ending, view::TEXT_CHARS),
            count: names.len(),
            address: address_of(&names),
            names: if more > 0 { format!("{named} and {more} more") } else { named },
            diff: cluster.diff.iter().map(|(side, line)| line_of(*side, line)).collect(),
            left_out: cluster.diff_left_out,
        }
    }
}

/// Names that stand in an address at most: it stays under 8 KiB, whatever the names.
const ADDRESS_NAMES: usize = 120;

/// Where something is done to these servers. None: there are too many for an address.
fn address_of(names: &[&str]) -> Option<String> {
    // A name is letters, digits, dots and dashes.
    (names.len() <= ADDRESS_NAMES).then(|| format!("/operations/new?server={}", names.join(",")))
}

fn line_of(side: Side, line: &str) -> (&'static str, &'static str, String) {
    let class = match side {
        Side::Removed => "diff-removed",
        Side::Added => "diff-added",
        Side::Both => "diff-both",
    };
    (class, side.mark(), view::clean(line, view::TEXT_CHARS))
}

/// The order in which results are counted: from good to undecided.
const COUNTED: [TargetStatus; 8] = [
    TargetStatus::Succeeded,
    TargetStatus::Failed,
    TargetStatus::Unreachable,
    TargetStatus::Unknown,
    TargetStatus::Cancelled,
    TargetStatus::Skipped,
    TargetStatus::Sent,
    TargetStatus::Pending,
];

impl Progress {
    fn new(viewer: &Viewer, view: &OperationView, now: Timestamp) -> Self {
        let operation = &view.operation;
        let count = |status| view.targets.iter().filter(|target| target.target.status == status).count();
        let counts: Vec<(TargetStatus, usize)> = COUNTED
            .into_iter()
            .map(|status| (status, count(status)))
            .filter(|(_, count)| *count > 0)
            .collect();
        let is_running = matches!(operation.status, OperationStatus::Pending | OperationStatus::Running);
        let may_act = viewer.role >= Role::Operator;
        let repeatable = may_act && !is_running && operation.is_repeatable;
        let of = |wanted: &dyn Fn(&TargetView) -> bool| {
            view.targets.iter().filter(|target| wanted(target)).count()
        };
        Self {
            id: operation.id.to_string(),
            title: view::clean(&operation.title, view::CELL_CHARS),
            badge: Badge::operation(operation.status),
            is_running,
            is_paused: is_running && operation.paused_at.is_some(),
            halted: operation.halted.as_deref().map(|why| view::clean(why, view::TEXT_CHARS)),
            batch: batch(view),
            may_cancel: is_running && may_act,
            may_pause: is_running && may_act && view.targets.len() > 1,
            retry: if repeatable { of(&|one| one.target.status.is_failure()) } else { 0 },
            rest: if repeatable {
                of(&|one| one.target.status.was_left_out() && one.target.record.is_none())
            } else {
                0
            },
            retry_of: operation.retry_of.map(|id| id.to_string()),
            folded: if is_running { None } else { Folded::of(view) },
            csrf_token: viewer.csrf_token.clone(),
            who: view::clean(&operation.initiated_by, 80),
            when: When::new(Some(operation.created_at), now),
            took: duration_ms(operation).map(took),
            facts: facts(operation, view.targets.len()),
            ended: view.targets.iter().filter(|target| target.target.status.is_final()).count(),
            total: view.targets.len(),
            parts: parts(&counts, view.targets.len()),
            counts: counts.into_iter().map(|(status, count)| (Badge::target(status), count)).collect(),
        }
    }
}

/// Which batch is under way, where there are several.
fn batch(view: &OperationView) -> Option<String> {
    let last = view.targets.iter().map(|one| one.target.batch).max().filter(|last| *last > 0)?;
    let open = view.targets.iter().filter(|one| !one.target.status.is_final());
    let current = open.map(|one| one.target.batch).min();
    Some(match current {
        Some(current) => format!("Batch {} of {}", current + 1, last + 1),
        None => format!("{} batches", last + 1),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a share of at most ten thousand")]
fn parts(counts: &[(TargetStatus, usize)], total: usize) -> Vec<(&'static str, String, String)> {
    let mut start = 0_usize;
    let percent = |count: usize| format!("{:.2}", count as f64 * 100.0 / total.max(1) as f64);
    counts
        .iter()
        .filter(|(status, _)| *status != TargetStatus::Pending)
        .map(|(status, count)| {
            let part = (Badge::target(*status).class, percent(start), percent(*count));
            start += count;
            part
        })
        .collect()
}

/// The parameters of the action, in words. The command itself stands at each server.
fn facts(operation: &Operation, targets: usize) -> Vec<(&'static str, String)> {
    let Some(members) = operation.parameters.as_object() else { return Vec::new() };
    let text = |name: &str| members.get(name).and_then(|value| value.as_str()).map(ToOwned::to_owned);
    let number = |name: &str| members.get(name).and_then(serde_json::Value::as_u64);
    let mut facts = Vec::new();
    if let (Some(pid), Some(start)) = (number("pid"), number("start_ticks")) {
        facts.push(("Process", format!("{pid}, started at tick {start}")));
    }
    facts.extend(text("signal").map(|signal| ("Signal", signal)));
    facts.extend(text("name").map(|name| ("Service", name)));
    facts.extend(text("old_key").map(|key| ("Old key", view::clean(&key, view::CELL_CHARS))));
    facts.extend(text("new_key").map(|key| ("New key", view::clean(&key, view::CELL_CHARS))));
    if members.get("sudo").and_then(serde_json::Value::as_bool) == Some(true) {
        facts.push(("As", "root, through sudo".to_owned()));
    }
    if members.get("detached").and_then(serde_json::Value::as_bool) == Some(true) {
        facts.push(("Runs", "detached from its connection".to_owned()));
    }
    if let Some(limit) = number("timeout_ms") {
        facts.push(("Time limit", took(limit).text.unwrap_or_default()));
    }
    // With one server the same words stand right below.
    facts.extend(text("command").filter(|_| targets > 1).map(|command| ("Command", exact(&command))));
    facts
}

#[derive(Debug, Clone)]
struct Block {
    position: u32,
    server_id: String,
    name: String,
    badge: Badge,
    exit: Option<String>,
    took: Option<Value>,
    /// Set while it runs.
    since: Option<When>,
    command: Option<String>,
    error: Option<String>,
    stdout: Option<Printed>,
    stderr: Option<Printed>,
    /// It ended by itself and said nothing; of what was given up the last words may be lost.
    is_silent: bool,
    is_folded: bool,
}

impl Block {
    fn new(view: &TargetView, total: usize, now: Timestamp) -> Self {
        let (target, record) = (&view.target, view.record.as_ref());
        let most =
            (PAGE_OUTPUT_BYTES / total.clamp(1, TARGETS_SHOWN) / 2).clamp(LEAST_OUTPUT_BYTES, OUTPUT_BYTES);
        let stdout = record.and_then(|record| Printed::stdout(record, most));
        let stderr = record.and_then(|record| Printed::stderr(record, most));
        let exit = record.and_then(exit);
        let ended = target.status.is_final();
        Self {
            position: target.position,
            server_id: target.server.to_string(),
            name: target.server_name.clone(),
            badge: Badge::target(target.status),
            took: record.and_then(|record| record.duration_ms).map(took),
            since: record.filter(|_| !ended).map(|record| When::new(Some(record.started_at), now)),
            command: target.command.as_deref().map(exact),
            error: target
                .error
                .as_deref()
                .map(|error| view::clean(error, view::TEXT_CHARS))
                .filter(|error| exit.as_ref() != Some(error))
                .map(|error| capital(&error)),
            is_silent: exit.is_some() && stdout.is_none() && stderr.is_none(),
            exit,
            stdout,
            stderr,
            is_folded: total > UNFOLDED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::pages::samples::{now, operation, record, viewer};
    use TargetStatus::{Failed, Pending, Sent, Succeeded, Unreachable};

    fn page(role: Role, view: &OperationView) -> String {
        OperationPage::new(&viewer(role), view, now()).render().unwrap()
    }

    #[test]
    fn each_server_shows_its_command_its_end_and_its_words() {
        let mut view = operation(&[Succeeded, Failed, Unreachable]);
        view.targets[1].record.as_mut().unwrap().stderr = "unit not found".to_owned();
        view.targets[2].target.error = Some("no connection within 20 s".to_owned());
        let html = page(Role::Viewer, &view);
        for text in [
            "systemctl restart -- nginx.service",
            "exit status 0",
            "exit status 5",
            "unit not found",
            "No connection within 20 s",
            "3 of 3",
        ] {
            assert!(html.contains(text), "{text}");
        }
        assert_eq!(html.matches("exit status 5").count(), 2, "told by its server and by its cluster");
        assert!(!html.contains("data-live") && !html.contains("/cancel"));
    }

    #[test]
    fn what_runs_can_be_cancelled_by_those_who_act() {
        let view = operation(&[Succeeded, Sent, Pending]);
        let html = page(Role::Operator, &view);
        assert!(html.contains(&format!("/operations/{}/cancel", view.operation.id)));
        assert!(html.contains(&format!("data-live=\"operation:{}\"", view.operation.id)));
        assert!(!page(Role::Viewer, &view).contains("/cancel"));
    }

    #[test]
    fn fragments_are_those_of_the_page_and_only_of_what_changed() {
        let view = operation(&[Succeeded, Sent, Pending]);
        let html = page(Role::Operator, &view);
        let changed = HashSet::from([view.targets[1].target.server]);
        let fragments = operation_fragments(&viewer(Role::Operator), &view, Some(&changed), now());
        assert_eq!(
            fragments.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(),
            ["operation-progress", "target-1"]
        );
        for fragment in operation_fragments(&viewer(Role::Operator), &view, None, now()) {
            assert!(html.contains(fragment.html.trim()), "{}", fragment.id);
        }
    }

    #[test]
    fn a_page_of_many_servers_stays_small_and_folds_them() {
        let mut view = operation(&vec![Succeeded; 1500]);
        for target in &mut view.targets {
            let stdout = "a line of output\n".repeat(5000);
            target.record = Some(crate::store::operations::CommandRecord { stdout, ..record("web") });
        }
        view.targets[1499].target.status = Failed;
        let html = page(Role::Viewer, &view);
        assert!(html.len() < 6_000_000, "{}", html.len());
        assert!(html.contains("500 more servers") && html.contains("id=\"target-1499\""));
        assert!(html.contains("<details"));
    }

    #[test]
    fn hostile_output_is_text() {
        let mut view = operation(&[Failed]);
        let record = view.targets[0].record.as_mut().unwrap();
        record.stdout = "</pre><script>alert(1)</script>".to_owned();
        view.targets[0].target.command = Some("echo '<b>\u{202e}'".to_owned());
        let html = page(Role::Viewer, &view);
        assert!(
            !html.contains("<script>alert") && !html.contains("<b>\u{202e}") && html.contains("\\u{202e}")
        );
    }
}
