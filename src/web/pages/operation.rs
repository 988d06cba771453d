//! One operation: how far it is, and what every server answered. With many servers each is a line that opens; only what is
//! opened has its output on the page.

use std::collections::HashSet;

use askama::Template;
use askama::filters::HtmlSafe;

use crate::model::{ServerId, Task, Timestamp};
use crate::operations::{OperationView, TargetView};
use crate::web::view::{self, Value, When};

use super::operation_look::{Look, TARGETS_PER_PAGE, UNFOLDED};
use super::operation_progress::Progress;
use super::remote::{Printed, exact, exit, took};
use super::{Badge, Chrome, Fragment, Section, Viewer, capital};

/// Bytes of one output stream that a page shows.
const OUTPUT_BYTES: usize = 200 * 1024;
/// Bytes of all output on a page: a browser must be able to lay it out.
const PAGE_OUTPUT_BYTES: usize = 2 * 1024 * 1024;

/// `GET /operations/{id}`.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/operation.html")]
pub struct OperationPage {
    pub chrome: Chrome,
    progress: Progress,
    targets: Vec<Block>,
    is_folded: bool,
    turn: Turn,
    /// The text of a script; the commands of its targets tell its checksum.
    script: Option<String>,
    /// Id and name of the task that began it.
    task: Option<(String, String)>,
}

/// As it is stored: with what looks like a secret masked.
fn script_of(view: &OperationView) -> Option<String> {
    view.operation.parameters.get("script")?.as_str().map(exact)
}

impl OperationPage {
    #[must_use]
    pub fn new(viewer: &Viewer, view: &OperationView, look: &Look, now: Timestamp) -> Self {
        let progress = Progress::new(viewer, view, look, now);
        // What has ended does not change any more.
        let live = progress.is_running.then(|| format!("operation:{}", view.operation.id));
        let (shown, count) = look.window(view);
        let (before, after) = look.turns(count);
        Self {
            chrome: Chrome::new(&progress.title, Section::Operations, live, viewer, now),
            targets: shown.into_iter().map(|target| Block::new(target, view, look, now)).collect(),
            script: script_of(view),
            is_folded: view.targets.len() > UNFOLDED,
            turn: Turn {
                before,
                after,
                words: ("Servers before", "More servers"),
                place: format!("{count} servers, {TARGETS_PER_PAGE} on a page"),
            },
            task: None,
            progress,
        }
    }

    /// Begun by this task.
    #[must_use]
    pub fn begun_by(mut self, task: Option<&Task>) -> Self {
        self.task = task.map(|task| (task.id.to_string(), task.name.clone()));
        self
    }
}

/// The way to the pages before and after this one, each with what else stands in the address.
#[derive(Debug, Clone, PartialEq, Eq, Template)]
#[template(path = "partials/turn.html")]
pub(super) struct Turn {
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
    pub(super) words: (&'static str, &'static str),
    pub(super) place: String,
}

// askama wrote it and escaped the addresses in it.
impl HtmlSafe for Turn {}

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
    look: &Look,
    changed: Option<&HashSet<ServerId>>,
    now: Timestamp,
) -> Vec<Fragment> {
    let progress = ProgressPart { progress: Progress::new(viewer, view, look, now) };
    let mut fragments: Vec<Fragment> =
        Fragment::render("operation-progress".to_owned(), &progress).into_iter().collect();
    // A target that has left the state that is filtered by is still on the page, and says so.
    let shown = match (changed, look.status) {
        (Some(_), Some(_)) => view.targets.iter().take(TARGETS_PER_PAGE).collect(),
        _ => look.window(view).0,
    };
    for target in shown {
        if changed.is_none_or(|changed| changed.contains(&target.target.server)) {
            let id = format!("target-{}", target.target.position);
            let part = TargetPart { target: Block::new(target, view, look, now) };
            fragments.extend(Fragment::render(id, &part));
        }
    }
    fragments
}

/// One target with its command and its output. None: the operation has no such target.
#[must_use]
pub fn opened_target(view: &OperationView, position: &str, now: Timestamp) -> Option<String> {
    let position: u32 = position.parse().ok()?;
    let target = view.targets.iter().find(|one| one.target.position == position)?;
    let mut look = Look::default();
    look.open(std::iter::once(position));
    let part = TargetPart { target: Block::new(target, view, &look, now) };
    Fragment::render(format!("target-{position}"), &part).map(|fragment| fragment.html)
}

#[derive(Debug, Clone)]
struct Block {
    position: u32,
    server_id: String,
    name: String,
    badge: Badge,
    /// "Batch 2", where there are several.
    batch: Option<String>,
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
    /// Its command and output are there.
    is_open: bool,
}

impl Block {
    fn new(view: &TargetView, whole: &OperationView, look: &Look, now: Timestamp) -> Self {
        let (target, record) = (&view.target, view.record.as_ref());
        let total = whole.targets.len();
        let is_open = look.is_open(target.position, total);
        let most = (PAGE_OUTPUT_BYTES / look.outputs(total).max(1) / 2).min(OUTPUT_BYTES);
        let shown = record.filter(|_| is_open);
        let stdout = shown.and_then(|record| Printed::stdout(record, most));
        let stderr = shown.and_then(|record| Printed::stderr(record, most));
        let exit = record.and_then(exit);
        let ended = target.status.is_final();
        // They are numbered in the order of the targets.
        let has_batches = whole.targets.last().is_some_and(|one| one.target.batch > 0);
        Self {
            position: target.position,
            server_id: target.server.to_string(),
            name: target.server_name.clone(),
            badge: Badge::target(target.status),
            batch: has_batches.then(|| format!("Batch {}", target.batch + 1)),
            took: record.and_then(|record| record.duration_ms).map(took),
            since: record.filter(|_| !ended).map(|record| When::new(Some(record.started_at), now)),
            command: target.command.as_deref().filter(|_| is_open).map(exact),
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
            is_open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Role, TargetStatus};
    use crate::web::pages::samples::{now, operation, record, viewer};
    use TargetStatus::{Failed, Pending, Sent, Succeeded, Unreachable};

    fn page(role: Role, view: &OperationView) -> String {
        OperationPage::new(&viewer(role), view, &Look::default(), now()).render().unwrap()
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
        let fragments =
            operation_fragments(&viewer(Role::Operator), &view, &Look::default(), Some(&changed), now());
        assert_eq!(
            fragments.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(),
            ["operation-progress", "target-1"]
        );
        for fragment in operation_fragments(&viewer(Role::Operator), &view, &Look::default(), None, now()) {
            assert!(html.contains(fragment.html.trim()), "{}", fragment.id);
        }
    }

    fn opened(position: u32) -> Look {
        let mut look = Look::default();
        look.open(std::iter::once(position));
        look
    }

    /// A thousand servers of which most say the same at length, as an operation leaves them.
    fn thousand() -> OperationView {
        let states: Vec<TargetStatus> =
            (0..1000).map(|number| if number % 50 == 0 { Failed } else { Succeeded }).collect();
        let mut view = operation(&states);
        for (number, target) in view.targets.iter_mut().enumerate() {
            let stdout = format!("{}{}", "a line of output\n".repeat(100), number % 40 / 39);
            let exit_status = Some(u32::from(number % 50 == 0));
            target.record =
                Some(crate::store::operations::CommandRecord { stdout, exit_status, ..record("web") });
        }
        view
    }

    #[test]
    fn a_page_of_a_thousand_servers_renders_in_time_and_stays_small() {
        let view = thousand();
        let started = std::time::Instant::now();
        let html = page(Role::Operator, &view);
        let elapsed = started.elapsed();
        println!("1000 targets: {elapsed:?}, {} bytes", html.len());
        // A release build takes a few milliseconds of the 100 that are promised; this build is slower and not alone.
        assert!(elapsed < std::time::Duration::from_secs(3), "{elapsed:?}");
        assert!(html.len() < 1_000_000, "{}", html.len());
        assert_eq!(html.matches("class=\"target-row\"").count(), 1000);
        assert!(!html.contains("class=\"target-body\""), "nobody has opened any");
    }

    #[test]
    fn only_what_is_opened_has_its_output_on_the_page_and_in_its_fragments() {
        let view = thousand();
        let html = OperationPage::new(&viewer(Role::Viewer), &view, &opened(7), now()).render().unwrap();
        assert_eq!(html.matches("class=\"target-body\"").count(), 1);
        assert!(html.contains("id=\"body-7\"") && html.contains("href=\"?open=8#target-8\""));
        let changed = HashSet::from([view.targets[7].target.server, view.targets[8].target.server]);
        let fragments = operation_fragments(&viewer(Role::Viewer), &view, &opened(7), Some(&changed), now());
        let has_output: Vec<bool> =
            fragments.iter().skip(1).map(|one| one.html.contains("a line of output")).collect();
        assert_eq!(has_output, [true, false]);
        let one = opened_target(&view, "8", now()).unwrap();
        assert!(one.contains("a line of output") && one.contains("id=\"target-8\""));
        assert!(opened_target(&view, "1000", now()).is_none() && opened_target(&view, "x", now()).is_none());
    }

    #[test]
    fn a_state_is_shown_alone_and_a_target_that_leaves_it_is_told() {
        let mut view = thousand();
        let failed = Look::of(|name| (name == "status").then_some("failed"));
        let html = OperationPage::new(&viewer(Role::Viewer), &view, &failed, now()).render().unwrap();
        assert_eq!(html.matches("class=\"target-row\"").count(), 20);
        assert!(html.contains("?status=failed\" aria-current") && html.contains("Show all"));
        view.targets[50].target.status = Succeeded;
        let changed = HashSet::from([view.targets[50].target.server]);
        let fragments = operation_fragments(&viewer(Role::Viewer), &view, &failed, Some(&changed), now());
        assert!(fragments[1].id == "target-50" && fragments[1].html.contains("Succeeded"));
    }

    #[test]
    fn outputs_that_are_open_share_the_page() {
        let mut view = operation(&[Succeeded; 20]);
        for target in &mut view.targets {
            let stdout = "a line of output\n".repeat(50_000);
            target.record = Some(crate::store::operations::CommandRecord { stdout, ..record("web") });
        }
        let html = page(Role::Viewer, &view);
        assert!(html.len() < 2_500_000 && html.contains("are not shown here"), "{}", html.len());
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
