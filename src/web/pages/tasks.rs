//! Tasks: the list, and one with its history.

use askama::Template;

use crate::model::{Cause, Missed, Overlap, Role, RunStatus, TaskRun, Timestamp};
use crate::tasks::{Schedule, TaskView};
use crate::web::view::{self, Value, When};

use super::remote::{Pager, took};
use super::{Badge, Chrome, Section, Viewer};

/// Runs on a page.
pub const PER_PAGE: u32 = 50;
/// Servers that a row names.
const NAMED: usize = 3;
impl Badge {
    #[must_use]
    pub(super) const fn run(status: RunStatus) -> Self {
        let (class, icon, text) = match status {
            RunStatus::Waiting => ("is-neutral", "clock", "Waiting"),
            RunStatus::Starting | RunStatus::Running => ("is-running", "activity", "Running"),
            RunStatus::Completed => ("is-healthy", "circle-check", "Completed"),
            RunStatus::Partial => ("is-degraded", "triangle-alert", "Partial"),
            RunStatus::Failed => ("is-critical", "octagon-x", "Failed"),
            RunStatus::Cancelled => ("is-neutral", "circle-minus", "Cancelled"),
            RunStatus::Skipped => ("is-neutral", "circle-pause", "Left out"),
            RunStatus::Missed => ("is-degraded", "circle-dashed", "Missed"),
        };
        Self { class, icon, text }
    }

    const fn enabled(enabled: bool) -> Self {
        let (class, icon, text) = if enabled {
            ("is-healthy", "circle-check", "Enabled")
        } else {
            ("is-neutral", "circle-pause", "Disabled")
        };
        Self { class, icon, text }
    }
}

/// `GET /tasks`.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/tasks.html")]
pub struct TasksPage {
    pub chrome: Chrome,
    may_act: bool,
    rows: Vec<Row>,
}

#[derive(Debug, Clone)]
struct Row {
    id: String,
    name: String,
    title: String,
    servers: String,
    /// In words, or why it means nothing any more.
    schedule: Result<String, String>,
    zone: String,
    next: Option<When>,
    last: Option<(Badge, When, Option<String>)>,
    enabled: bool,
}

impl TasksPage {
    #[must_use]
    pub fn new(viewer: &Viewer, tasks: &[TaskView], now: Timestamp) -> Self {
        Self {
            chrome: Chrome::new("Tasks", Section::Tasks, Some("tasks".to_owned()), viewer, now),
            may_act: viewer.role >= Role::Operator,
            rows: tasks.iter().map(|view| Row::new(view, now)).collect(),
        }
    }
}

impl Row {
    fn new(view: &TaskView, now: Timestamp) -> Self {
        let task = &view.task;
        let next = view.schedule.iter().flat_map(|found| &found.next_runs).map(|(at, _)| *at).next();
        Self {
            id: task.id.to_string(),
            name: task.name.clone(),
            title: view::clean(&view.title, view::CELL_CHARS),
            servers: servers(view),
            schedule: words(view),
            zone: task.time_zone.clone(),
            next: next.filter(|_| task.enabled).map(|at| When::new(Some(at), now)),
            last: view.last_run.as_ref().map(|run| {
                let operation = run.operation.map(|id| id.to_string());
                (
                    Badge::run(run.status),
                    When::new(Some(run.started_at.unwrap_or(run.due_at)), now),
                    operation,
                )
            }),
            enabled: task.enabled,
        }
    }
}

fn words(view: &TaskView) -> Result<String, String> {
    view.schedule.as_ref().map(|found| found.words.clone()).map_err(|why| view::clean(why, view::TEXT_CHARS))
}

/// The servers that are meant, in a few words.
fn servers(view: &TaskView) -> String {
    let selector = &view.task.selector;
    let mut parts: Vec<String> =
        view.server_names.iter().take(NAMED).map(|name| view::clean(name, 80)).collect();
    match view.server_names.len().saturating_sub(NAMED) {
        0 => {}
        more => parts.push(format!("{more} more")),
    }
    let health: Vec<String> = selector.health.iter().map(ToString::to_string).collect();
    let status: Vec<String> = selector.status.iter().map(ToString::to_string).collect();
    let lists = [
        ("group", &selector.groups),
        ("tag", &selector.tags),
        ("region", &selector.regions),
        ("environment", &selector.environments),
        ("health", &health),
        ("status", &status),
    ];
    let given = lists.into_iter().filter(|(_, words)| !words.is_empty());
    let conditions: Vec<String> = given
        .map(|(name, words)| format!("{name} {}", view::clean(&words.join(", "), view::CELL_CHARS)))
        .collect();
    match (selector.all, conditions.is_empty()) {
        (true, true) => parts.push("every server".to_owned()),
        (_, false) => parts.push(conditions.join(" and ")),
        (false, true) => {}
    }
    parts.join(", ")
}

/// `GET /tasks/{id}`.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/task.html")]
pub struct TaskPage {
    pub chrome: Chrome,
    may_act: bool,
    id: String,
    name: String,
    description: String,
    state: Badge,
    enabled: bool,
    schedule: Result<String, String>,
    facts: Vec<(&'static str, String)>,
    command: Option<String>,
    next: Vec<(String, When)>,
    runs: Vec<RunRow>,
    pager: Pager,
}

#[derive(Debug, Clone)]
struct RunRow {
    id: String,
    due: String,
    when: When,
    badge: Badge,
    operation: Option<String>,
    /// `retry 2`, `by hand`, …
    cause: Option<String>,
    reason: Option<String>,
    took: Option<Value>,
}

impl TaskPage {
    /// `fetched` are the rows of the pager's window.
    #[must_use]
    pub fn new(viewer: &Viewer, view: &TaskView, fetched: &[TaskRun], pager: Pager, now: Timestamp) -> Self {
        let task = &view.task;
        let (pager, shown) = pager.split(fetched, PER_PAGE);
        let zone = Schedule::parse(&task.cron, &task.time_zone).ok();
        let next = view.schedule.iter().flat_map(|found| &found.next_runs).filter(|_| task.enabled);
        let title = format!("{} · Tasks", task.name);
        let live = Some(format!("task:{}", task.id));
        Self {
            chrome: Chrome::new(&title, Section::Tasks, live, viewer, now),
            may_act: viewer.role >= Role::Operator,
            id: task.id.to_string(),
            name: task.name.clone(),
            description: view::clean(&task.description, view::TEXT_CHARS),
            state: Badge::enabled(task.enabled),
            enabled: task.enabled,
            schedule: words(view),
            facts: facts(view),
            command: ["command", "script", "content"]
                .iter()
                .find_map(|name| task.parameters.get(*name)?.as_str())
                .map(super::remote::exact),
            next: next.map(|(at, wall)| (wall.clone(), When::new(Some(*at), now))).collect(),
            runs: shown.iter().map(|run| RunRow::new(run, zone.as_ref(), now)).collect(),
            pager,
        }
    }
}

fn facts(view: &TaskView) -> Vec<(&'static str, String)> {
    let task = &view.task;
    let span = |span: std::time::Duration| view::duration(Some(span.as_secs_f64())).text.unwrap_or_default();
    let mut facts = vec![("Does", view::clean(&view.title, view::TEXT_CHARS)), ("On", servers(view))];
    facts.extend(super::operation_progress::said(&task.parameters));
    facts.extend(super::operation_progress::way(&task.strategy).map(|way| ("Goes over them", way)));
    facts.extend([
        ("Schedule", format!("{} in {}", view::clean(&task.cron, view::TEXT_CHARS), task.time_zone)),
        ("Acts as", view::clean(&task.owner_name, 80)),
        (
            "While the last run is under way",
            match task.overlap {
                Overlap::Skip => "the next is left out",
                Overlap::Queue => "the next waits for its end",
                Overlap::Allow => "the next begins beside it",
            }
            .to_owned(),
        ),
        (
            "Runs missed in a downtime",
            match task.missed {
                Missed::Skip => "are left out".to_owned(),
                Missed::Once => format!("the last is made up for within {}", span(task.missed_grace)),
                Missed::All => {
                    format!(
                        "the last {} are made up for within {}",
                        task.missed_limit,
                        span(task.missed_grace)
                    )
                }
            },
        ),
    ]);
    if task.retries > 0 {
        facts.push((
            "After a failure",
            format!("up to {} retries, {} apart", task.retries, span(task.retry_wait)),
        ));
    }
    if !task.jitter.is_zero() {
        facts.push(("Begins", format!("up to {} later than its time", span(task.jitter))));
    }
    facts
}

impl RunRow {
    fn new(run: &TaskRun, zone: Option<&Schedule>, now: Timestamp) -> Self {
        let cause = match (run.cause, run.attempt) {
            (_, attempt) if attempt > 1 => Some(format!("retry {}", attempt - 1)),
            (Cause::Manual, _) => Some(format!("by hand: {}", view::clean(&run.started_by, 80))),
            (Cause::Missed, _) if run.status != RunStatus::Missed => Some("made up for".to_owned()),
            _ => None,
        };
        let took_ms = run.started_at.zip(run.ended_at).map(|(from, to)| to.since(from).as_millis());
        Self {
            id: run.id.to_string(),
            due: zone.map_or_else(|| view::utc(run.due_at), |zone| zone.wall(run.due_at)),
            when: When::new(Some(run.started_at.unwrap_or(run.due_at)), now),
            badge: Badge::run(run.status),
            operation: run.operation.map(|id| id.to_string()),
            cause,
            reason: run.reason.as_deref().map(|reason| view::clean(reason, view::TEXT_CHARS)),
            took: took_ms.and_then(|ms| u64::try_from(ms).ok()).map(took),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::pages::samples::{now, task, task_runs, viewer};

    #[test]
    fn the_list_says_when_what_where_and_how_it_went() {
        let html = TasksPage::new(&viewer(Role::Operator), &[task()], now()).render().unwrap();
        for text in [
            "Nightly &#60;b&#62;",
            "At 03:30, Monday to Friday",
            "Europe/Berlin",
            "web-1, web-2",
            "Failed",
            "Disable",
        ] {
            assert!(html.contains(text), "{text}");
        }
        let html = TasksPage::new(&viewer(Role::Viewer), &[task()], now()).render().unwrap();
        assert!(!html.contains("Disable") && !html.contains("/tasks/new"));
        let html = TasksPage::new(&viewer(Role::Operator), &[], now()).render().unwrap();
        assert!(html.contains("No tasks yet"));
    }

    #[test]
    fn a_task_shows_its_next_runs_and_why_the_last_ones_were_as_they_were() {
        let runs = task_runs();
        let html =
            TaskPage::new(&viewer(Role::Operator), &task(), &runs, Pager::of(None), now()).render().unwrap();
        for text in [
            "+01:00",
            "retry 1",
            "by hand: anna",
            "the run before it had not ended",
            "Run now",
            "/operations/",
        ] {
            assert!(html.contains(text), "{text}");
        }
        assert!(!html.contains("<b>evil"), "{html}");
    }
}
