//! The form that says what a task is: when, what, on which servers, and how; what is done is asked as the wizard asks it.

use askama::Template;

use crate::actions::Action;
use crate::fleet::{GroupView, ServerState};
use crate::model::{Role, Task, Timestamp};
use crate::operations::stored_action;
use crate::tasks::{CRON_CHARS, DEFAULT_ZONE, Preview, TaskView};

use super::form::{Field, FieldProblem};
use super::operation_form::{ASKED, OperationForm, Step};
use super::operation_kinds::{offered, offered_as};
use super::operation_new::{Details, strategy_fields};
use super::operation_where::WhereForm;
use super::{Choice, Chrome, Section, Viewer};

/// What was filled in, as text; a field that is not there is empty.
#[derive(Debug, Clone, Default)]
pub struct TaskForm(pub Vec<(String, String)>);

impl TaskForm {
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.trim())
    }

    /// What is done where and how, in the words of the wizard.
    #[must_use]
    pub fn order(&self) -> OperationForm {
        OperationForm::of(self.0.clone())
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
    /// Under their headings.
    kinds: Vec<(&'static str, Vec<Choice>)>,
    about: Option<&'static str>,
    is_dangerous: bool,
    details: Details,
    places: WhereForm,
    ways: Vec<Field>,
    ways_is_open: bool,
    overlaps: Vec<Choice>,
    missed: Vec<Choice>,
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
        ("operation_type", "run_command"),
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

/// What an action was given, under the names of the form's fields.
fn action_pairs(task: &Task) -> Vec<(String, String)> {
    let Ok(action) = stored_action(&task.kind, &task.parameters) else { return Vec::new() };
    let is_file = matches!(action, Action::File(_));
    let mut pairs = Vec::new();
    for (name, value) in action.fields() {
        let (name, value) = match (name, is_file) {
            ("mode", true) => ("permissions", value),
            ("content_base64", true) => {
                let stored = task.parameters.get("content").and_then(serde_json::Value::as_str);
                ("text", stored.unwrap_or_default().to_owned())
            }
            ("environment", _) => ("variables", variables(task).unwrap_or(value)),
            ("arguments", _) => ("arguments", lines(&value).unwrap_or(value)),
            (name, _) => (name, value),
        };
        pairs.push((name.to_owned(), value));
    }
    pairs
}

/// Arguments that stand on a line each. None: one has several lines itself.
fn lines(list: &str) -> Option<String> {
    let arguments: Vec<String> = serde_json::from_str(list).ok()?;
    let is_plain = arguments.iter().all(|one| !one.contains('\n') && !one.is_empty());
    (is_plain && arguments.first().is_none_or(|one| !one.starts_with('['))).then(|| arguments.join("\n"))
}

/// The variables as JSON, where a value has several lines.
fn variables(task: &Task) -> Option<String> {
    let stored = task.parameters.get("environment")?;
    let has_lines = |value: &serde_json::Value| value.as_str().is_some_and(|text| text.contains('\n'));
    stored.as_object()?.values().any(has_lines).then(|| stored.to_string())
}

/// The form as a task fills it.
#[must_use]
pub fn form_of(view: &TaskView) -> TaskForm {
    let Task { selector, strategy, .. } = &view.task;
    let task = &view.task;
    let word = |value: Option<&serde_json::Value>| match value {
        Some(serde_json::Value::String(text)) => text.clone(),
        // Nothing said and nothing wanted are the same to a form.
        Some(serde_json::Value::Number(number)) if number.as_u64() != Some(0) => number.to_string(),
        Some(serde_json::Value::Bool(true)) => "true".to_owned(),
        Some(serde_json::Value::Array(items)) => {
            let words =
                items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned));
            words.collect::<Vec<_>>().join(",")
        }
        _ => String::new(),
    };
    let mut pairs = vec![
        ("name", task.name.clone()),
        ("description", task.description.clone()),
        ("cron", task.cron.clone()),
        ("time_zone", task.time_zone.clone()),
        ("operation_type", task.kind.clone()),
        ("server", view.server_names.join(", ")),
        ("tag", selector.tags.join(", ")),
        ("status", selector.status.map(|status| status.to_string()).unwrap_or_default()),
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
    let several = [
        ("group", selector.groups.clone()),
        ("region", selector.regions.clone()),
        ("environment", selector.environments.clone()),
        ("health", selector.health.iter().map(ToString::to_string).collect()),
    ];
    for (name, words) in several {
        pairs.extend(words.into_iter().map(|word| (name, word)));
    }
    let ways = ASKED.iter().filter(|(_, step)| *step == Step::Strategy);
    pairs.extend(ways.map(|(name, _)| (*name, word(strategy.get(name)))));
    let pairs = pairs.into_iter().map(|(name, value)| (name.to_owned(), value));
    TaskForm(pairs.chain(action_pairs(task)).collect())
}

/// The kinds that this role may ask for, and the one that the task has all the same.
fn kinds(role: Role, chosen: &str) -> Vec<(&'static str, Vec<Choice>)> {
    let mut families: Vec<(&'static str, Vec<Choice>)> = Vec::new();
    for kind in offered(role) {
        let choice = Choice::of(kind.word, kind.title, chosen);
        match families.iter_mut().find(|(title, _)| *title == kind.family) {
            Some((_, choices)) => choices.push(choice),
            None => families.push((kind.family, vec![choice])),
        }
    }
    let is_known = families.iter().any(|(_, choices)| choices.iter().any(|choice| choice.selected));
    if !is_known && !chosen.is_empty() {
        families.push(("As it is", vec![Choice::of(chosen, &chosen.replace('_', " "), chosen)]));
    }
    families
}

impl TaskFormPage {
    /// `task` by id and name; None: it is to be made. `all` are the servers and groups that there are.
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        task: Option<(String, String)>,
        form: &TaskForm,
        (servers, groups): (&[ServerState], &[GroupView]),
        problems: &[FieldProblem],
        now: Timestamp,
    ) -> Self {
        let order = form.order();
        let word = form.text("operation_type");
        let kind = offered_as(viewer.role, word);
        // What is secret is stored nowhere, so a task cannot have it.
        let asked = kind.into_iter().flat_map(|kind| kind.parameters).filter(|one| !one.is_secret);
        let chosen = |name: &str, choices: &[(&str, &str)]| {
            choices.iter().map(|(value, text)| Choice::of(value, text, form.text(name))).collect::<Vec<_>>()
        };
        let title = task.as_ref().map_or_else(|| "New task".to_owned(), |(_, name)| format!("Edit {name}"));
        let action =
            task.as_ref().map_or_else(|| "/tasks/new".to_owned(), |(id, _)| format!("/tasks/{id}/edit"));
        Self {
            chrome: Chrome::new(&title, Section::Tasks, None, viewer, now),
            kinds: kinds(viewer.role, word),
            about: kind.map(|kind| kind.about),
            is_dangerous: kind.is_some_and(|kind| kind.is_dangerous),
            details: Details::of(&order, asked, problems),
            places: WhereForm::new(&order, servers, groups),
            ways: strategy_fields(&order).into_iter().map(|field| field.judged(problems)).collect(),
            ways_is_open: ASKED.iter().any(|(name, step)| {
                *step == Step::Strategy
                    && (!order.text(name).is_empty() || problems.iter().any(|problem| problem.field == *name))
            }),
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
            names: name_fields(form, problems),
            times: time_fields(form, problems),
            policy: policy_fields(form, problems),
            enabled: form.text("enabled") == "true",
            preview: None,
            task,
            action,
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
    use crate::web::pages::operation_kinds::KINDS;
    use crate::web::pages::samples::{now, small_fleet, task, viewer};

    fn page(role: Role, form: &TaskForm, problems: &[FieldProblem]) -> String {
        TaskFormPage::new(&viewer(role), None, form, (&small_fleet(), &[]), problems, now()).render().unwrap()
    }

    #[test]
    fn the_form_keeps_what_was_typed_and_says_what_is_wrong() {
        let problem = FieldProblem { field: "cron".to_owned(), sentence: "This never runs.".to_owned() };
        let html = page(Role::Operator, &form_of(&task()), &[problem]);
        assert!(html.contains("This never runs.") && html.contains("30 3 * * mon-fri"), "{html}");
    }

    #[test]
    fn every_kind_of_action_has_its_fields_but_for_what_is_secret() {
        for kind in KINDS {
            let html =
                page(Role::Admin, &TaskForm(vec![("operation_type".to_owned(), kind.word.to_owned())]), &[]);
            assert!(html.contains(&format!("value=\"{}\" selected", kind.word)), "{}", kind.word);
            for parameter in kind.parameters {
                let asked = html.contains(&format!("name=\"{}\"", parameter.field_name));
                assert_eq!(asked, !parameter.is_secret, "{} of {}", parameter.field_name, kind.word);
            }
        }
        let html = page(Role::Operator, &empty_form(), &[]);
        assert!(!html.contains("deploy_agent"), "for administrators only");
    }

    #[test]
    fn no_field_of_a_task_is_called_like_a_parameter_of_an_action() {
        let own = ["name", "description", "cron", "overlap", "missed", "look"];
        let own = empty_form().0.into_iter().map(|(name, _)| name).chain(own.map(str::to_owned));
        for name in own.filter(|name| name != "operation_type") {
            assert!(!crate::web::pages::operation_kinds::is_asked(&name), "{name}");
            assert!(!ASKED.iter().any(|(asked, _)| *asked == name), "{name}");
        }
    }

    #[test]
    fn what_a_task_was_given_comes_back_whole() {
        let given: [(&str, &[(&str, &str)]); 6] = [
            ("run_command", &[("command", "id\ntrue"), ("detached", "true"), ("environment", "A=1\nB=2 3")]),
            (
                "run_script",
                &[("script", "#!/bin/sh\nid"), ("arguments", "[\"a b\",\"-c\"]"), ("run_as", "ops")],
            ),
            (
                "update_configuration",
                &[
                    ("path", "/etc/motd"),
                    ("content", "Hello\n"),
                    ("mode", "640"),
                    ("validate", "true"),
                    ("template", "true"),
                ],
            ),
            ("container_logs", &[("container", "web"), ("container_engine", "podman"), ("lines", "7")]),
            ("restart_service", &[("service", "nginx")]),
            ("deploy_agent", &[("mode", "serve"), ("port", "9090")]),
        ];
        for (kind, pairs) in given {
            let find =
                |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, text)| (*text).to_owned());
            let action = Action::parse(kind, find).unwrap();
            let mut view = task();
            (view.task.kind, view.task.parameters) = (kind.to_owned(), action.stored());
            let order = form_of(&view).order();
            let kind = offered_as(Role::Admin, kind).unwrap();
            let again = Action::parse(kind.word, |name| order.parameter(kind, name)).unwrap();
            assert_eq!(again, action);
        }
    }
}
