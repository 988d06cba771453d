//! Custom metrics: the list, the form that defines or changes one, what a try came to, how each server does.

use askama::Template;

use crate::collect::custom::Parsed;
use crate::fleet::{CustomMetricState, DEFAULT_INTERVAL, DEFAULT_TIMEOUT, Trial};
use crate::model::{CustomMetric, Selector, Timestamp};
use crate::web::view::{self, When};

use super::form::{Field, FieldProblem};
use super::{Badge, Chrome, Section, Viewer};

/// Servers of one metric that a page lays out; the API has them all.
const ROWS_SHOWN: usize = 500;
/// Values of one server or of a try that a page lays out.
const VALUES_SHOWN: usize = 50;
const COMMAND_CHARS: u32 = 16 * 1024;
const LIST_CHARS: u32 = 4096;

/// What the form said, or what it says of a metric that there is.
#[derive(Debug, Clone, Default)]
pub struct CustomMetricForm {
    pub name: String,
    pub description: String,
    pub command: String,
    pub interval_s: String,
    pub timeout_s: String,
    pub all: bool,
    pub servers: String,
    pub groups: String,
    pub tags: String,
    pub regions: String,
    pub environments: String,
    pub sudo: bool,
    pub enabled: bool,
    pub try_server: String,
    pub problems: Vec<FieldProblem>,
    pub trial: Option<Trial>,
}

impl CustomMetricForm {
    /// For a metric that is to be defined.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            interval_s: DEFAULT_INTERVAL.as_secs().to_string(),
            timeout_s: DEFAULT_TIMEOUT.as_secs().to_string(),
            enabled: true,
            ..Self::default()
        }
    }

    #[must_use]
    pub fn of(metric: &CustomMetric) -> Self {
        let Selector { all, servers, groups, tags, regions, environments, .. } = &metric.selector;
        Self {
            name: metric.name.clone(),
            description: metric.description.clone(),
            command: metric.command.clone(),
            interval_s: metric.interval.as_secs().to_string(),
            timeout_s: metric.timeout.as_secs().to_string(),
            all: *all,
            servers: servers.join(" "),
            groups: groups.join(", "),
            tags: tags.join(" "),
            regions: regions.join(", "),
            environments: environments.join(", "),
            sudo: metric.sudo,
            enabled: metric.enabled,
            ..Self::default()
        }
    }
}

/// The form as both pages show it.
#[derive(Debug, Clone)]
struct FormView {
    action: String,
    name: Field,
    command: Field,
    description: Field,
    times: Vec<Field>,
    choices: Vec<Field>,
    try_server: Field,
    selector_problem: Option<String>,
    all: bool,
    sudo: bool,
    enabled: bool,
    trial: Option<TrialView>,
}

impl FormView {
    fn new(action: String, form: &CustomMetricForm) -> Self {
        let judged = |field: Field| field.judged(&form.problems);
        let selector = form.problems.iter().find(|problem| problem.field == "selector");
        Self {
            action,
            name: judged(
                Field::line("name", "Name", &form.name, 64)
                    .placeholder("llm_requests")
                    .hint("Names a value that the output gives no name.")
                    .required(),
            ),
            command: judged(
                Field::lines("command", "Command", &form.command, COMMAND_CHARS)
                    .placeholder("echo llm_requests $(wc -l </var/log/llm/requests.log)")
                    .hint("Prints lines of name and value, Prometheus text, JSON or Nagios performance data.")
                    .required(),
            ),
            description: judged(Field::line("description", "Description", &form.description, 500)),
            times: vec![
                judged(Field::number("interval_s", "Every … seconds", &form.interval_s, 5, 86_400)),
                judged(Field::number("timeout_s", "Ended after … seconds", &form.timeout_s, 1, 60)),
            ],
            choices: vec![
                judged(
                    Field::line("servers", "Servers", &form.servers, LIST_CHARS).placeholder("web-1 web-2"),
                ),
                judged(Field::line("tags", "Tags", &form.tags, LIST_CHARS).hint("Servers with all of them.")),
                judged(
                    Field::line("groups", "Groups", &form.groups, LIST_CHARS).hint("Separated by commas."),
                ),
                judged(Field::line("regions", "Regions", &form.regions, LIST_CHARS)),
                judged(Field::line("environments", "Environments", &form.environments, LIST_CHARS)),
            ],
            try_server: judged(
                Field::line("try_server", "Try it on", &form.try_server, 63).placeholder("a server"),
            ),
            selector_problem: selector.map(|problem| problem.sentence.clone()),
            all: form.all,
            sudo: form.sudo,
            enabled: form.enabled,
            trial: form.trial.as_ref().map(TrialView::new),
        }
    }
}

#[derive(Debug, Clone)]
struct TrialView {
    server: String,
    ended: String,
    is_problem: bool,
    stdout: String,
    stderr: String,
    format: Option<String>,
    values: Vec<(String, String)>,
    more: usize,
    notices: Vec<String>,
}

impl TrialView {
    fn new(trial: &Trial) -> Self {
        let took = view::milliseconds(Some(whole(trial.elapsed_ms))).text.unwrap_or_default();
        let ended = match (&trial.error, trial.exit_status) {
            (Some(error), _) => super::capital(&view::clean(error, view::TEXT_CHARS)),
            (None, Some(status)) => format!("It ended with status {status} after {took}."),
            (None, None) => format!("A signal ended it after {took}."),
        };
        let parsed = trial.parsed.as_ref();
        let found = |parsed: &Parsed| !parsed.values.is_empty();
        Self {
            server: trial.server_name.clone(),
            ended,
            is_problem: trial.error.is_some() || !parsed.is_some_and(found),
            stdout: trial.stdout.clone(),
            stderr: trial.stderr.clone(),
            format: parsed.filter(|parsed| found(parsed)).map(|parsed| parsed.format.to_string()),
            values: parsed.map(|parsed| pairs(&parsed.values)).unwrap_or_default(),
            more: parsed.map_or(0, |parsed| parsed.values.len().saturating_sub(VALUES_SHOWN)),
            notices: parsed.map(|parsed| cleaned(&parsed.notices)).unwrap_or_default(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "times are shown with three digits")]
const fn whole(count: u64) -> f64 {
    count as f64
}

fn pairs(values: &[crate::collect::custom::Reading]) -> Vec<(String, String)> {
    let pair = |one: &crate::collect::custom::Reading| {
        let name =
            if one.label.is_empty() { one.name.clone() } else { format!("{}{{{}}}", one.name, one.label) };
        (view::clean(&name, view::CELL_CHARS), format!("{}", one.value))
    };
    values.iter().take(VALUES_SHOWN).map(pair).collect()
}

fn cleaned(notices: &[String]) -> Vec<String> {
    notices.iter().map(|notice| view::clean(notice, view::TEXT_CHARS)).collect()
}

/// `GET /custom-metrics`, and the answer to its form. It sends to the same address: the fields of
/// [`CustomMetricForm`], and `try` when the command is only to be tried.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/custom_metrics.html")]
pub struct CustomMetricsPage {
    pub chrome: Chrome,
    rows: Vec<Row>,
    form: FormView,
    is_open: bool,
}

#[derive(Debug, Clone)]
struct Row {
    name: String,
    description: String,
    badge: Badge,
    every: String,
    meant: String,
    changed: When,
    who: String,
}

/// The state of a definition in a word; `failing` of `servers` had an error at their last run.
const fn badge(enabled: bool, failing: usize, servers: usize) -> Badge {
    let (class, icon, text) = match (enabled, failing) {
        (false, _) => ("is-neutral", "circle-pause", "disabled"),
        (true, _) if servers == 0 => ("is-unknown", "circle-dashed", "no server"),
        (true, 0) => ("is-healthy", "circle-check", "working"),
        (true, failing) if failing == servers => ("is-critical", "octagon-x", "failing"),
        (true, _) => ("is-degraded", "triangle-alert", "failing on some"),
    };
    Badge { class, icon, text }
}

impl CustomMetricsPage {
    /// Each metric with how many of its servers there are, and on how many the last run failed.
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        metrics: &[(std::sync::Arc<CustomMetric>, usize, usize)],
        form: &CustomMetricForm,
        now: Timestamp,
    ) -> Self {
        let row = |(metric, servers, failing): &(std::sync::Arc<CustomMetric>, usize, usize)| Row {
            name: metric.name.clone(),
            description: view::clean(&metric.description, view::TEXT_CHARS),
            badge: badge(metric.enabled, *failing, *servers),
            every: view::duration(Some(metric.interval.as_secs_f64())).text.unwrap_or_default(),
            meant: match servers {
                1 => "1 server".to_owned(),
                servers => format!("{servers} servers"),
            },
            changed: When::new(Some(metric.updated_at), now),
            who: view::clean(&metric.updated_by, 80),
        };
        Self {
            chrome: Chrome::new("Custom metrics", Section::Settings, None, viewer, now),
            rows: metrics.iter().map(row).collect(),
            is_open: metrics.is_empty() || !form.name.is_empty() || !form.command.is_empty(),
            form: FormView::new("/custom-metrics".to_owned(), form),
        }
    }
}

/// `GET /custom-metrics/{name}`, and the answer to its form; `/custom-metrics/{name}/remove` removes it.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/custom_metric.html")]
pub struct CustomMetricPage {
    pub chrome: Chrome,
    name: String,
    badge: Badge,
    servers: Vec<ServerRow>,
    left_out: usize,
    form: FormView,
}

#[derive(Debug, Clone)]
struct ServerRow {
    name: String,
    error: Option<String>,
    has_run: bool,
    ran: When,
    values: Vec<(String, String)>,
    more: usize,
    notices: Vec<String>,
    counted: String,
}

impl ServerRow {
    fn new(of: &CustomMetricState, now: Timestamp) -> Self {
        let state = &of.state;
        Self {
            name: of.server_name.clone(),
            error: state.error.as_deref().map(|error| view::clean(error, view::TEXT_CHARS)),
            has_run: state.last_run_at.is_some(),
            ran: When::new(state.last_run_at, now),
            values: pairs(&state.values),
            more: state.values.len().saturating_sub(VALUES_SHOWN),
            notices: cleaned(&state.notices),
            counted: format!("{} runs, {} failed", view::whole(state.runs), view::whole(state.failures)),
        }
    }
}

impl CustomMetricPage {
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        metric: &CustomMetric,
        servers: &[CustomMetricState],
        form: &CustomMetricForm,
        now: Timestamp,
    ) -> Self {
        let failing = servers.iter().filter(|one| one.state.error.is_some()).count();
        let title = format!("{} · Custom metrics", metric.name);
        Self {
            chrome: Chrome::new(&title, Section::Settings, None, viewer, now),
            name: metric.name.clone(),
            badge: badge(metric.enabled, failing, servers.len()),
            servers: servers.iter().take(ROWS_SHOWN).map(|one| ServerRow::new(one, now)).collect(),
            left_out: servers.len().saturating_sub(ROWS_SHOWN),
            form: FormView::new(format!("/custom-metrics/{}", metric.name), form),
        }
    }
}
