//! The Commands tab of a server: run one, and the records of those that it got.

use askama::Template;

use crate::actions::{Action, COMMAND_LIMIT_BYTES};
use crate::fleet::ServerState;
use crate::model::Timestamp;
use crate::store::operations::CommandRecord;
use crate::web::view::{self, Value, When};

use super::super::form::Field;
use super::super::remote::{Pager, Printed, exact, exit, took};
use super::super::{Badge, Choice, Chrome, Fragment, Viewer, capital};
use super::{Acting, ActionLink, Head, Tab};

/// Records on a page.
pub const RECORDS_PER_PAGE: u32 = 20;
/// Bytes of each output stream in the list; the page of the operation shows more.
const OUTPUT_BYTES: usize = 16 * 1024;
/// Time limits on offer, in seconds.
const TIME_LIMITS: [(&str, &str); 3] = [("60", "1 min"), ("600", "10 min"), ("3600", "1 h")];

/// As many variables as a command may have, of usual length.
const ENVIRONMENT_CHARS: u32 = 16_384;
/// [`STDIN_LIMIT_BYTES`](crate::actions::STDIN_LIMIT_BYTES) where every character is ASCII.
const STDIN_CHARS: u32 = 262_144;

/// What the form at `POST /servers/{id}/act` sends to run a command, as typed: a refused one comes back unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandForm {
    pub command: String,
    pub sudo: bool,
    /// Seconds; empty is the shortest on offer.
    pub timeout_s: String,
    pub run_as: String,
    /// `NAME=value` lines. Those that are secret, and the input, do not come back.
    pub environment: String,
    pub container: String,
    /// `docker` or `podman`.
    pub container_engine: String,
    pub label: String,
    /// It goes on without its connection.
    pub detached: bool,
}

impl CommandForm {
    /// From the decoded pairs of a posted form; a field that is not sent stays empty.
    #[must_use]
    pub fn from_pairs<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut form = Self::default();
        for (key, value) in pairs {
            let field = match key.as_ref() {
                "command" => &mut form.command,
                "sudo" => {
                    form.sudo = value.as_ref() == "true";
                    continue;
                }
                "detached" => {
                    form.detached = value.as_ref() == "true";
                    continue;
                }
                "timeout_s" => &mut form.timeout_s,
                "run_as" => &mut form.run_as,
                "environment" => &mut form.environment,
                "container" => &mut form.container,
                "container_engine" => &mut form.container_engine,
                "label" => &mut form.label,
                _ => continue,
            };
            value.as_ref().clone_into(field);
        }
        form
    }

    fn says_more(&self) -> bool {
        [&self.run_as, &self.environment, &self.container, &self.label].iter().any(|text| !text.is_empty())
    }
}

/// `GET /servers/{name}/commands`, and the answer to a command that was refused.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/server_commands.html")]
pub struct CommandsPage {
    pub chrome: Chrome,
    head: Head,
    acting: Acting,
    form: CommandForm,
    limits: Vec<Choice>,
    command_max_chars: usize,
    more: Vec<Field>,
    environment: Vec<Field>,
    stdin: Field,
    engines: Vec<Choice>,
    more_is_open: bool,
    /// Roundsman logs in as root, so nobody needs sudo.
    is_root: bool,
    user: String,
    deeds: Vec<ActionLink>,
    script: String,
    list: List,
}

impl CommandsPage {
    /// `fetched` are the records of the pager's window.
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        state: &ServerState,
        (acting, is_root): (Acting, bool),
        form: CommandForm,
        fetched: &[CommandRecord],
        pager: Pager,
        now: Timestamp,
    ) -> Self {
        Self {
            chrome: super::chrome(viewer, state, Tab::Commands, now),
            head: Head::new(state, Tab::Commands, now),
            acting,
            limits: TIME_LIMITS
                .iter()
                .map(|(value, text)| Choice::of(value, text, &form.timeout_s))
                .collect(),
            more: vec![
                Field::line("run_as", "As the user", &form.run_as, 64)
                    .placeholder("the login, or root with sudo"),
                Field::line("label", "What you call it", &form.label, 100).placeholder("the command itself"),
                Field::line("container", "In the container", &form.container, 128).placeholder("none"),
            ],
            environment: vec![
                Field::lines("environment", "Environment", &form.environment, ENVIRONMENT_CHARS)
                    .placeholder("NAME=value")
                    .hint("One NAME=value a line."),
                Field::lines("secret_environment", "Environment, secret", "", ENVIRONMENT_CHARS)
                    .placeholder("API_KEY=…")
                    .hint("Stands in no process list and in no record."),
            ],
            stdin: Field::lines("stdin", "Input", "", STDIN_CHARS)
                .hint("What the command reads from its standard input; only its length is recorded."),
            engines: [("docker", "Docker"), ("podman", "Podman")]
                .iter()
                .map(|(value, text)| Choice::of(value, text, &form.container_engine))
                .collect(),
            more_is_open: form.says_more(),
            form,
            command_max_chars: COMMAND_LIMIT_BYTES,
            is_root,
            user: match &state.way.action {
                Some(action) => action.username.clone(),
                None => state.server.username.clone().unwrap_or_else(|| "root".to_owned()),
            },
            deeds: deeds(state),
            script: format!("/operations/new?operation_type=run_script&server={}", state.server.name),
            list: List::new(fetched, pager, now),
        }
    }

    fn impediment(&self) -> Option<&str> {
        match &self.acting {
            Acting::Impossible(reason) => Some(reason),
            _ => None,
        }
    }
}

/// What is done to a whole server, each with a confirmation.
fn deeds(state: &ServerState) -> Vec<ActionLink> {
    let offered = [
        ("health_check", "Check its health", "activity"),
        ("collect_diagnostics", "Collect diagnostics", "arrow-down"),
        ("update_packages", "Update packages", "refresh-cw"),
        ("reboot", "Reboot", "rotate-cw"),
    ];
    // None of them needs a parameter.
    let link = |(kind, title, icon)| {
        Action::parse(kind, |_| None).ok().map(|action| ActionLink::new(state, &action, title, icon))
    };
    offered.into_iter().filter_map(link).collect()
}

#[derive(Debug, Template)]
#[template(path = "partials/records.html")]
struct ListPart {
    list: List,
}

/// The records, for open pages.
#[must_use]
pub fn records_fragment(fetched: &[CommandRecord], pager: Pager, now: Timestamp) -> Option<Fragment> {
    Fragment::render("records".to_owned(), &ListPart { list: List::new(fetched, pager, now) })
}

#[derive(Debug, Clone)]
struct List {
    rows: Vec<Row>,
    pager: Pager,
}

#[derive(Debug, Clone)]
struct Row {
    id: String,
    operation: Option<String>,
    label: String,
    badge: Badge,
    exit: Option<String>,
    took: Option<Value>,
    when: When,
    who: String,
    command: String,
    container_command: Option<String>,
    error: Option<String>,
    stdout: Option<Printed>,
    stderr: Option<Printed>,
}

impl List {
    fn new(fetched: &[CommandRecord], pager: Pager, now: Timestamp) -> Self {
        let (pager, shown) = pager.split(fetched, RECORDS_PER_PAGE);
        Self { rows: shown.iter().map(|record| Row::new(record, now)).collect(), pager }
    }
}

impl Row {
    fn new(record: &CommandRecord, now: Timestamp) -> Self {
        Self {
            id: record.id.to_string(),
            operation: record.operation_id.map(|id| id.to_string()),
            label: view::clean(&record.label, view::CELL_CHARS),
            badge: Badge::record(record),
            exit: exit(record),
            took: record.duration_ms.map(took),
            when: When::new(Some(record.started_at), now),
            who: view::clean(&record.initiated_by, 80),
            command: exact(&record.command),
            container_command: record.container_command.as_deref().map(exact),
            error: record.error.as_deref().map(|error| capital(&view::clean(error, view::TEXT_CHARS))),
            stdout: Printed::stdout(record, OUTPUT_BYTES),
            stderr: Printed::stderr(record, OUTPUT_BYTES),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Role;
    use crate::web::pages::samples::{Sample, now, record, viewer};

    fn page(acting: Acting, is_root: bool, records: &[CommandRecord]) -> String {
        let state = Sample::named("web-1").state();
        let form = CommandForm {
            command: "</textarea><script>".to_owned(),
            sudo: true,
            timeout_s: "600".to_owned(),
            ..CommandForm::default()
        };
        let viewer = viewer(Role::Operator);
        CommandsPage::new(&viewer, &state, (acting, is_root), form, records, Pager::of(None), now())
            .render()
            .unwrap()
    }

    #[test]
    fn who_may_act_finds_the_box_as_it_was_left() {
        let html = page(Acting::Possible, false, &[]);
        assert!(html.contains("Run on web-1") && html.contains("value=\"600\" selected"));
        assert!(html.contains("name=\"sudo\" value=\"true\" checked") && !html.contains("<script>\n"));
        assert!(html.contains("&#60;/textarea&#62;&#60;script&#62;"));
        assert!(!page(Acting::Possible, true, &[]).contains("name=\"sudo\""));
    }

    #[test]
    fn who_may_not_reads_why_or_sees_the_records_only() {
        let html =
            page(Acting::Impossible("set allow_local_actions = true".to_owned()), true, &[record("web-1")]);
        assert!(html.contains("set allow_local_actions = true") && !html.contains("<textarea"));
        let html = page(Acting::NotAllowed, true, &[record("web-1")]);
        assert!(!html.contains("<textarea") && html.contains("systemctl restart -- nginx.service"));
    }

    #[test]
    fn each_record_says_who_when_what_and_how_it_ended() {
        let lost = CommandRecord {
            id: crate::model::RecordId::new(uuid::Uuid::from_u128(8)),
            exit_status: None,
            duration_ms: None,
            error: Some("Roundsman stopped while the command ran".to_owned()),
            ..record("web-1")
        };
        let html = page(Acting::NotAllowed, true, &[record("web-1"), lost]);
        for text in [
            "Succeeded",
            "exit status 0",
            "1.24",
            "anna",
            "Restart the service nginx",
            "/operations/",
            "Unknown",
            "Roundsman stopped",
        ] {
            assert!(html.contains(text), "{text}");
        }
    }

    #[test]
    fn the_fragment_of_the_records_is_that_of_the_page() {
        let records = vec![record("web-1")];
        let fragment = records_fragment(&records, Pager::of(None), now()).unwrap();
        assert!(page(Acting::NotAllowed, true, &records).contains(fragment.html.trim()));
    }
}
