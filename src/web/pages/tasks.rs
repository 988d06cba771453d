//! Tasks: the list, one with its history, and the form that says what a task is.

use askama::Template;

use crate::model::{Cause, Missed, Overlap, Role, RunStatus, Task, TaskRun, Timestamp};
use crate::tasks::{CRON_CHARS, DEFAULT_ZONE, Preview, Schedule, TaskView};
use crate::web::view::{self, Value, When};

use super::form::{Field, FieldProblem};
use super::remote::{Pager, took};
use super::{Badge, Choice, Chrome, Section, Viewer};

/// Runs on a page.
pub const PER_PAGE: u32 = 50;
/// Servers that a row names.
const NAMED: usize = 3;
/// Kinds of actions for which the form has fields.
const KINDS: [(&str, &str); 5] = [
    ("run_command", "Run a command"),
    ("restart_service", "Restart a service"),
    ("start_service", "Start a service"),
    ("stop_service", "Stop a service"),
    ("reload_service", "Reload a service"),
];

/// What was filled in, as text; a field that is not there is empty.
#[derive(Debug, Clone, Default)]
pub struct TaskForm(pub Vec<(String, String)>);

impl TaskForm {
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.trim())
    }
}

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
            command: task.parameters.get("command").and_then(|text| text.as_str()).map(super::remote::exact),
            next: next.map(|(at, wall)| (wall.clone(), When::new(Some(*at), now))).collect(),
            runs: shown.iter().map(|run| RunRow::new(run, zone.as_ref(), now)).collect(),
            pager,
        }
    }
}

fn facts(view: &TaskView) -> Vec<(&'static str, String)> {
    let task = &view.task;
    let span = |span: std::time::Duration| view::duration(Some(span.as_secs_f64())).text.unwrap_or_default();
    let mut facts = vec![
        ("Does", view::clean(&view.title, view::TEXT_CHARS)),
        ("On", servers(view)),
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
    ];
    if task.retries > 0 {
        facts.push((
            "After a failure",
            format!("up to {} retries, {} apart", task.retries, span(task.retry_wait)),
        ));
    }
    if !task.jitter.is_zero() {
        facts.push(("Begins", format!("up to {} later than its time", span(task.jitter))));
    }
    if task.strategy.as_object().is_some_and(|strategy| strategy.keys().any(|key| key != "when_busy")) {
        facts.push(("Goes over its servers with", view::clean(&task.strategy.to_string(), view::TEXT_CHARS)));
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

/// `GET /tasks/new`, `GET /tasks/{id}/edit`, and the answers to their form.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/task_form.html")]
pub struct TaskFormPage {
    pub chrome: Chrome,
    /// None: it is to be made.
    task: Option<(String, String)>,
    action: String,
    form: TaskForm,
    kinds: Vec<Choice>,
    overlaps: Vec<Choice>,
    missed: Vec<Choice>,
    busy: Vec<Choice>,
    names: Vec<Field>,
    times: Vec<Field>,
    policy: Vec<Field>,
    enabled: bool,
    preview: Option<Preview>,
}

/// The form as a new task has it.
#[must_use]
pub fn empty_form() -> TaskForm {
    let pairs = [
        ("time_zone", DEFAULT_ZONE),
        ("jitter_s", "0"),
        ("missed_limit", "10"),
        ("missed_grace_s", "3600"),
        ("retries", "0"),
        ("retry_wait_s", "60"),
        ("enabled", "true"),
    ];
    TaskForm(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec())
}

/// The form as a task fills it.
#[must_use]
pub fn form_of(view: &TaskView) -> TaskForm {
    let Task { selector, parameters, strategy, .. } = &view.task;
    let task = &view.task;
    let word = |value: Option<&serde_json::Value>| match value {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(serde_json::Value::Number(number)) => number.to_string(),
        Some(serde_json::Value::Bool(value)) => value.to_string(),
        Some(serde_json::Value::Array(items)) => {
            let words =
                items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned));
            words.collect::<Vec<_>>().join(",")
        }
        _ => String::new(),
    };
    let timeout_s =
        parameters.get("timeout_ms").and_then(serde_json::Value::as_u64).map(|ms| ms.div_ceil(1000));
    let mut pairs = vec![
        ("name", task.name.clone()),
        ("description", task.description.clone()),
        ("cron", task.cron.clone()),
        ("time_zone", task.time_zone.clone()),
        ("operation_type", task.kind.clone()),
        ("service", word(parameters.get("name"))),
        ("command", word(parameters.get("command"))),
        ("sudo", word(parameters.get("sudo"))),
        ("timeout_s", timeout_s.map(|seconds| seconds.to_string()).unwrap_or_default()),
        ("server", view.server_names.join(" ")),
        ("group", selector.groups.join(", ")),
        ("tag", selector.tags.join(", ")),
        ("region", selector.regions.join(", ")),
        ("environment", selector.environments.join(", ")),
        ("all", selector.all.to_string()),
        ("jitter_s", task.jitter.as_secs().to_string()),
        ("overlap", task.overlap.to_string()),
        ("missed", task.missed.to_string()),
        ("missed_limit", task.missed_limit.to_string()),
        ("missed_grace_s", task.missed_grace.as_secs().to_string()),
        ("retries", task.retries.to_string()),
        ("retry_wait_s", task.retry_wait.as_secs().to_string()),
        ("enabled", task.enabled.to_string()),
    ];
    for name in ["batches", "parallelism", "max_failures", "pause_s", "health_gate_s", "when_busy"] {
        pairs.push((name, word(strategy.get(name))));
    }
    TaskForm(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

impl TaskFormPage {
    /// `task` by id and name; None: it is to be made.
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        task: Option<(String, String)>,
        form: TaskForm,
        problems: &[FieldProblem],
        now: Timestamp,
    ) -> Self {
        let kind = form.text("operation_type").to_owned();
        let mut kinds: Vec<Choice> =
            KINDS.iter().map(|(value, text)| Choice::of(value, text, &kind)).collect();
        if !kind.is_empty() && !kinds.iter().any(|choice| choice.selected) {
            kinds.push(Choice::of(&kind, &kind.replace('_', " "), &kind));
        }
        let chosen = |name: &str, choices: &[(&str, &str)]| {
            choices.iter().map(|(value, text)| Choice::of(value, text, form.text(name))).collect::<Vec<_>>()
        };
        let title = task.as_ref().map_or_else(|| "New task".to_owned(), |(_, name)| format!("Edit {name}"));
        let action =
            task.as_ref().map_or_else(|| "/tasks/new".to_owned(), |(id, _)| format!("/tasks/{id}/edit"));
        Self {
            chrome: Chrome::new(&title, Section::Tasks, None, viewer, now),
            kinds,
            overlaps: chosen(
                "overlap",
                &[
                    ("skip", "Leave it out"),
                    ("queue", "Begin it afterwards"),
                    ("allow", "Begin it beside the other"),
                ],
            ),
            missed: chosen(
                "missed",
                &[
                    ("skip", "Leave them out"),
                    ("once", "Make up for the last"),
                    ("all", "Make up for the last ones"),
                ],
            ),
            busy: chosen(
                "when_busy",
                &[
                    ("share", "Run beside it"),
                    ("queue", "Wait until it has ended"),
                    ("refuse", "Begin nothing"),
                ],
            ),
            names: name_fields(&form, problems),
            times: time_fields(&form, problems),
            policy: policy_fields(&form, problems),
            enabled: form.text("enabled") == "true",
            preview: None,
            task,
            action,
            form,
        }
    }

    /// With the next runs of what stands in it.
    #[must_use]
    pub fn previewed(mut self, preview: Option<Preview>) -> Self {
        self.preview = preview;
        self
    }
}

fn name_fields(form: &TaskForm, problems: &[FieldProblem]) -> Vec<Field> {
    let fields = vec![
        Field::line("name", "Name", form.text("name"), 80).placeholder("Nightly backup").required(),
        Field::line("description", "Description", form.text("description"), 500),
    ];
    fields.into_iter().map(|field| field.judged(problems)).collect()
}

fn time_fields(form: &TaskForm, problems: &[FieldProblem]) -> Vec<Field> {
    let cron_chars = u32::try_from(CRON_CHARS).unwrap_or(u32::MAX);
    let fields = vec![
        Field::line("cron", "Schedule", form.text("cron"), cron_chars)
            .placeholder("30 3 * * mon-fri")
            .hint("Minute, hour, day, month, weekday; or @hourly, @daily, @weekly, @monthly, @yearly.")
            .required(),
        Field::line("time_zone", "Time zone", form.text("time_zone"), 64)
            .placeholder("Europe/Berlin")
            .hint("Its changes of the clock are followed.")
            .required(),
    ];
    fields.into_iter().map(|field| field.judged(problems)).collect()
}

fn policy_fields(form: &TaskForm, problems: &[FieldProblem]) -> Vec<Field> {
    let number = |name: &'static str, label: &'static str, least: u32, most: u32| {
        Field::number(name, label, form.text(name), least, most)
    };
    let fields = vec![
        number("missed_limit", "At most so many missed ones", 1, 100),
        number("missed_grace_s", "Missed at most … seconds ago", 0, 604_800),
        number("retries", "Retries after a failure", 0, 10).hint("On the servers where it failed."),
        number("retry_wait_s", "Seconds before each", 0, 86_400),
        number("jitter_s", "Begins up to … seconds later", 0, 3600)
            .hint("Spreads tasks that share a time; the same for the same time."),
    ];
    fields.into_iter().map(|field| field.judged(problems)).collect()
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

    #[test]
    fn the_form_keeps_what_was_typed_and_says_what_is_wrong() {
        let form = form_of(&task());
        let problem = FieldProblem { field: "cron".to_owned(), sentence: "This never runs.".to_owned() };
        let page = TaskFormPage::new(&viewer(Role::Operator), None, form, &[problem], now());
        let html = page.render().unwrap();
        assert!(html.contains("This never runs.") && html.contains("30 3 * * mon-fri"), "{html}");
    }
}
