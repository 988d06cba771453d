//! How far an operation is: counts per state, batches, what can be done about it, and when it has ended, who said what.

use crate::model::{OperationStatus, Role, TargetStatus, Timestamp};
use crate::operations::{OperationView, Strategy, TargetView};
use crate::store::operations::Operation;
use crate::web::view::{self, Value, When};

use super::operation_archives::Archives;
use super::operation_clusters::Folded;
use super::operation_look::Look;
use super::remote::{exact, took};
use super::{Badge, Viewer};

/// Batches that are drawn; of more, those around the one that is under way.
const BATCHES: usize = 24;

/// From the first command to the last answer. None: it has not ended, or nothing was sent.
pub(super) fn duration_ms(operation: &Operation) -> Option<u64> {
    let (started, completed) = (operation.started_at?, operation.completed_at?);
    u64::try_from(completed.since(started).as_millis()).ok()
}

#[derive(Debug, Clone)]
pub(super) struct Progress {
    pub(super) id: String,
    pub(super) title: String,
    pub(super) badge: Badge,
    pub(super) is_running: bool,
    pub(super) is_paused: bool,
    /// Why nothing more was sent.
    pub(super) halted: Option<String>,
    pub(super) acts: Vec<Act>,
    /// Where it has ended and somebody may do it again on servers of their choice.
    pub(super) retry: Option<RetryForm>,
    pub(super) retry_of: Option<String>,
    /// Set once it has ended.
    pub(super) folded: Option<Folded>,
    pub(super) csrf_token: String,
    pub(super) who: String,
    pub(super) when: When,
    pub(super) took: Option<Value>,
    pub(super) facts: Vec<(&'static str, String)>,
    pub(super) ended: usize,
    pub(super) total: usize,
    pub(super) counts: Vec<Count>,
    pub(super) is_filtered: bool,
    /// Class, start and width in percent of each state's part of the bar.
    pub(super) parts: Vec<(&'static str, String, String)>,
    /// Empty: it has one batch.
    pub(super) batches: Vec<Batch>,
    pub(super) batch_count: u32,
    /// Diagnostics to download.
    pub(super) archives: Option<Archives>,
}

/// A button of the page.
#[derive(Debug, Clone)]
pub(super) struct Act {
    /// The last word of the address that it is sent to.
    pub(super) word: &'static str,
    /// Two buttons may be sent to one address.
    pub(super) id: &'static str,
    pub(super) text: String,
    pub(super) busy: &'static str,
    pub(super) is_dangerous: bool,
}

/// Servers in one state, and where they are shown alone.
#[derive(Debug, Clone)]
pub(super) struct Count {
    pub(super) badge: Badge,
    pub(super) count: usize,
    pub(super) address: String,
    pub(super) is_current: bool,
}

/// Servers that get their turn together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) number: u32,
    pub(super) ended: usize,
    pub(super) total: usize,
    pub(super) class: &'static str,
    pub(super) text: &'static str,
    pub(super) is_current: bool,
}

/// What is tried again: results by their states, narrowed to servers.
#[derive(Debug, Clone)]
pub(super) struct RetryForm {
    pub(super) states: Vec<RetryState>,
    /// Name and result of each. Empty: there are too many to tick, and their names are typed.
    pub(super) servers: Vec<(String, Badge)>,
}

#[derive(Debug, Clone)]
pub(super) struct RetryState {
    pub(super) word: &'static str,
    pub(super) badge: Badge,
    pub(super) count: usize,
    pub(super) is_chosen: bool,
}

impl RetryForm {
    /// Servers that can be ticked one by one.
    const TICKED: usize = 60;

    fn of(
        viewer: &Viewer,
        view: &OperationView,
        is_running: bool,
        counts: &[(TargetStatus, usize)],
    ) -> Option<Self> {
        let is_possible = viewer.role >= Role::Operator && !is_running && view.operation.is_repeatable;
        // Of one server there is nothing to choose.
        if !is_possible || view.targets.len() < 2 {
            return None;
        }
        let state = |(status, count): &(TargetStatus, usize)| RetryState {
            word: status.name(),
            badge: Badge::target(*status),
            count: *count,
            is_chosen: status.is_failure(),
        };
        let server = |one: &TargetView| (one.target.server_name.clone(), Badge::target(one.target.status));
        let few = view.targets.len() <= Self::TICKED;
        Some(Self {
            states: counts.iter().map(state).collect(),
            servers: if few { view.targets.iter().map(server).collect() } else { Vec::new() },
        })
    }
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
    pub(super) fn new(viewer: &Viewer, view: &OperationView, look: &Look, now: Timestamp) -> Self {
        let operation = &view.operation;
        let count = |status| view.targets.iter().filter(|target| target.target.status == status).count();
        let counts: Vec<(TargetStatus, usize)> = COUNTED
            .into_iter()
            .map(|status| (status, count(status)))
            .filter(|(_, count)| *count > 0)
            .collect();
        let is_running = matches!(operation.status, OperationStatus::Pending | OperationStatus::Running);
        let batches = batches(&view.targets);
        Self {
            id: operation.id.to_string(),
            title: view::clean(&operation.title, view::CELL_CHARS),
            badge: Badge::operation(operation.status),
            is_running,
            archives: Archives::of(viewer, view),
            is_paused: is_running && operation.paused_at.is_some(),
            halted: operation.halted.as_deref().map(|why| view::clean(why, view::TEXT_CHARS)),
            acts: if viewer.role >= Role::Operator { acts(view, is_running) } else { Vec::new() },
            retry: RetryForm::of(viewer, view, is_running, &counts),
            retry_of: operation.retry_of.map(|id| id.to_string()),
            folded: if is_running { None } else { Folded::of(viewer, view) },
            csrf_token: viewer.csrf_token.clone(),
            who: view::clean(&operation.initiated_by, 80),
            when: When::new(Some(operation.created_at), now),
            took: duration_ms(operation).map(took),
            facts: facts(operation, view.targets.len()),
            ended: view.targets.iter().filter(|target| target.target.status.is_final()).count(),
            total: view.targets.len(),
            parts: parts(&counts, view.targets.len()),
            is_filtered: look.status.is_some(),
            counts: counts
                .into_iter()
                .map(|(status, count)| Count {
                    badge: Badge::target(status),
                    count,
                    address: Look::filtered(Some(status)),
                    is_current: look.status == Some(status),
                })
                .collect(),
            batch_count: u32::try_from(batches.len()).unwrap_or(u32::MAX),
            batches: around_current(batches),
        }
    }
}

/// What can be done about it now.
fn acts(view: &OperationView, is_running: bool) -> Vec<Act> {
    let operation = &view.operation;
    let act = |word, id, text: &str, busy| Act { word, id, text: text.to_owned(), busy, is_dangerous: false };
    let mut acts = Vec::new();
    if is_running {
        // A whole of one server has nothing to hold back.
        if view.targets.len() > 1 {
            acts.push(if operation.paused_at.is_some() {
                act("resume", "resume", "Resume", "Resuming…")
            } else {
                act("pause", "pause", "Pause", "Pausing…")
            });
        }
        acts.push(Act { is_dangerous: true, ..act("cancel", "cancel", "Cancel", "Cancelling…") });
    } else if operation.is_repeatable {
        let of = |wanted: &dyn Fn(&TargetView) -> bool| view.targets.iter().filter(|one| wanted(one)).count();
        let retry = of(&|one| one.target.status.is_failure());
        let rest = of(&|one| one.target.status.was_left_out() && one.target.record.is_none());
        if retry > 0 {
            acts.push(act("retry", "retry", &format!("Retry {retry} that did not succeed"), "Beginning…"));
        }
        if rest > 0 {
            acts.push(act("resume", "rest", &format!("Go on with {rest} not sent"), "Beginning…"));
        }
    }
    acts
}

/// Every batch with how far it is; none where there is one.
fn batches(targets: &[TargetView]) -> Vec<Batch> {
    let last = targets.iter().map(|one| one.target.batch).max().unwrap_or(0);
    if last == 0 {
        return Vec::new();
    }
    let mut by_batch: Vec<Vec<TargetStatus>> = vec![Vec::new(); usize::try_from(last).unwrap_or(0) + 1];
    for one in targets {
        let place = usize::try_from(one.target.batch).unwrap_or(usize::MAX);
        if let Some(batch) = by_batch.get_mut(place) {
            batch.push(one.target.status);
        }
    }
    let current = by_batch.iter().position(|batch| batch.iter().any(|status| !status.is_final()));
    let batch = |(number, (place, statuses)): (u32, (usize, &Vec<TargetStatus>))| {
        let (class, text) = batch_words(statuses);
        Batch {
            number,
            ended: statuses.iter().filter(|status| status.is_final()).count(),
            total: statuses.len(),
            class,
            text,
            is_current: current == Some(place),
        }
    };
    (1..).zip(by_batch.iter().enumerate()).map(batch).collect()
}

fn batch_words(statuses: &[TargetStatus]) -> (&'static str, &'static str) {
    let any = |wanted: &dyn Fn(&TargetStatus) -> bool| statuses.iter().any(wanted);
    let all = |wanted: &dyn Fn(&TargetStatus) -> bool| statuses.iter().all(wanted);
    if all(&|status| *status == TargetStatus::Pending) {
        ("is-neutral", "waits")
    } else if any(&|status| !status.is_final()) {
        ("is-running", "under way")
    } else if any(&|status| status.is_failure()) {
        ("is-critical", "with failures")
    } else if all(&|status| *status == TargetStatus::Succeeded) {
        ("is-healthy", "succeeded")
    } else {
        ("is-neutral", "not sent")
    }
}

fn around_current(batches: Vec<Batch>) -> Vec<Batch> {
    let current = batches.iter().position(|batch| batch.is_current).unwrap_or(batches.len());
    let start = current.saturating_sub(BATCHES / 2).min(batches.len().saturating_sub(BATCHES));
    batches.into_iter().skip(start).take(BATCHES).collect()
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

/// The parameters of the action and the way over the servers, in words. The command itself stands at each server.
fn facts(operation: &Operation, targets: usize) -> Vec<(&'static str, String)> {
    let mut facts = said(&operation.parameters);
    facts.extend(way(&operation.strategy).map(|way| ("Way", way)));
    // With one server the same words stand right below.
    let command = operation.parameters.get("command").and_then(serde_json::Value::as_str);
    facts.extend(command.filter(|_| targets > 1).map(|command| ("Command", exact(command))));
    facts
}

/// The parameters of an action as they are stored, in words; without the text that it runs or puts down.
pub(super) fn said(parameters: &serde_json::Value) -> Vec<(&'static str, String)> {
    let Some(members) = parameters.as_object() else { return Vec::new() };
    let text = |name: &str| members.get(name).and_then(|value| value.as_str()).map(ToOwned::to_owned);
    let number = |name: &str| members.get(name).and_then(serde_json::Value::as_u64);
    let mut facts = Vec::new();
    if let (Some(pid), Some(start)) = (number("pid"), number("start_ticks")) {
        facts.push(("Process", format!("{pid}, started at tick {start}")));
    }
    facts.extend(text("signal").map(|signal| ("Signal", signal)));
    facts.extend(text("name").map(|name| ("Service", name)));
    if let Some(container) = members.get("container").and_then(|one| one.get("name")?.as_str()) {
        facts.push(("Container", view::clean(container, view::CELL_CHARS)));
    }
    for (name, title) in [
        ("path", "File"),
        ("validate", "Validated by"),
        ("reload", "Reloaded by"),
        ("owner", "Owner"),
        ("run_as", "As the user"),
        ("process", "Processes named"),
        ("containing", "Command line with"),
        ("user", "Of the user"),
        ("interpreter", "Interpreter"),
    ] {
        facts.extend(text(name).map(|value| (title, view::clean(&value, view::CELL_CHARS))));
    }
    if let Some(variables) = members.get("environment").and_then(|one| one.as_object()) {
        let names: Vec<&str> = variables.keys().map(String::as_str).collect();
        facts.push(("Variables", view::clean(&names.join(", "), view::CELL_CHARS)));
    }
    let list = |name: &str| {
        let items = members.get(name)?.as_array()?.iter().filter_map(serde_json::Value::as_str);
        Some(view::clean(&items.collect::<Vec<_>>().join(" "), view::TEXT_CHARS))
    };
    facts.extend(list("arguments").map(|arguments| ("Arguments", arguments)));
    facts.extend(list("packages").map(|packages| ("Packages", packages)));
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
    facts
}

/// How it goes over its servers, in words. None: all at once.
pub(super) fn way(stored: &serde_json::Value) -> Option<String> {
    let strategy: Strategy = serde_json::from_value(stored.clone()).ok()?;
    let mut words = Vec::new();
    if !strategy.batches.is_empty() {
        let sizes: Vec<String> = strategy.batches.iter().map(ToString::to_string).collect();
        words.push(format!("batches of {}", sizes.join(", ")));
    }
    if strategy.by_dependencies {
        words.push("in the order of dependencies".to_owned());
    }
    words.extend(strategy.parallelism.map(|count| format!("{count} at the same time")));
    if strategy.pause_s > 0 {
        words.push(format!("{} s between batches", strategy.pause_s));
    }
    words.extend(
        strategy.health_gate_s.map(|limit| format!("healthy within {limit} s before the next batch")),
    );
    words.extend(strategy.max_failures.map(|limit| format!("stops after failures: {limit}")));
    (!words.is_empty()).then(|| words.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::pages::samples::{now, operation, viewer};
    use TargetStatus::{Failed, Pending, Sent, Skipped, Succeeded};

    fn in_batches(states: &[(u32, TargetStatus)]) -> OperationView {
        let mut view = operation(&states.iter().map(|(_, status)| *status).collect::<Vec<_>>());
        for (target, (batch, _)) in view.targets.iter_mut().zip(states) {
            target.target.batch = *batch;
        }
        view
    }

    fn progress(view: &OperationView) -> Progress {
        Progress::new(&viewer(Role::Operator), view, &Look::default(), now())
    }

    #[test]
    fn each_batch_says_how_far_it_is_and_which_is_under_way() {
        let view = in_batches(&[(0, Succeeded), (1, Succeeded), (1, Sent), (2, Pending), (2, Pending)]);
        let told: Vec<(u32, usize, usize, &str, bool)> = progress(&view)
            .batches
            .iter()
            .map(|batch| (batch.number, batch.ended, batch.total, batch.text, batch.is_current))
            .collect();
        let expected =
            [(1, 1, 1, "succeeded", false), (2, 1, 2, "under way", true), (3, 0, 2, "waits", false)];
        assert_eq!(told, expected);
        let halted = progress(&in_batches(&[(0, Failed), (1, Skipped)]));
        assert_eq!((halted.batches[0].text, halted.batches[1].text), ("with failures", "not sent"));
        assert!(progress(&operation(&[Succeeded, Sent])).batches.is_empty(), "one batch is no batches");
    }

    #[test]
    fn of_a_thousand_batches_those_around_the_current_one_are_drawn() {
        let states: Vec<(u32, TargetStatus)> =
            (0..1000).map(|number| (number, if number < 500 { Succeeded } else { Pending })).collect();
        let progress = progress(&in_batches(&states));
        assert_eq!((progress.batches.len(), progress.batch_count), (BATCHES, 1000));
        assert!(progress.batches.iter().any(|batch| batch.is_current && batch.number == 501));
    }

    #[test]
    fn what_runs_is_paused_and_cancelled_and_what_has_ended_is_tried_again() {
        let words =
            |view: &OperationView| progress(view).acts.into_iter().map(|act| act.id).collect::<Vec<_>>();
        assert_eq!(words(&operation(&[Succeeded, Sent])), ["pause", "cancel"]);
        assert_eq!(words(&operation(&[Sent])), ["cancel"], "one server has nothing to hold back");
        let mut paused = operation(&[Succeeded, Sent]);
        paused.operation.paused_at = Some(now());
        assert_eq!(words(&paused), ["resume", "cancel"]);
        assert_eq!(words(&operation(&[Succeeded, Failed, Skipped])), ["retry", "rest"]);
        let mut secret = operation(&[Failed]);
        secret.operation.is_repeatable = false;
        assert!(words(&secret).is_empty());
        let view = operation(&[Succeeded, Sent]);
        assert!(Progress::new(&viewer(Role::Viewer), &view, &Look::default(), now()).acts.is_empty());
    }

    #[test]
    fn what_is_tried_again_can_be_chosen_by_state_and_by_server() {
        let form = progress(&operation(&[Succeeded, Failed, Skipped])).retry.unwrap();
        let states: Vec<(&str, usize, bool)> =
            form.states.iter().map(|one| (one.word, one.count, one.is_chosen)).collect();
        assert_eq!(states, [("succeeded", 1, false), ("failed", 1, true), ("skipped", 1, false)]);
        assert_eq!(form.servers.len(), 3);
        let many = operation(&[Failed; RetryForm::TICKED + 1]);
        assert!(progress(&many).retry.unwrap().servers.is_empty(), "their names are typed");
        assert!(
            progress(&operation(&[Failed])).retry.is_none()
                && progress(&operation(&[Failed, Sent])).retry.is_none()
        );
        let viewer = viewer(Role::Viewer);
        let look = Look::default();
        assert!(Progress::new(&viewer, &operation(&[Failed, Failed]), &look, now()).retry.is_none());
    }

    #[test]
    fn the_way_over_the_servers_is_told_in_words() {
        let stored = serde_json::json!({ "batches": [1, "10%"], "pause_s": 5, "max_failures": 1, "health_gate_s": 60 });
        assert_eq!(
            way(&stored).unwrap(),
            "batches of 1, 10%; 5 s between batches; healthy within 60 s before the next batch; stops after failures: 1"
        );
        assert_eq!(way(&serde_json::json!({})), None);
    }
}
