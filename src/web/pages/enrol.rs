//! Adding a server: the form, and what the staged preflight found.

use askama::Template;

use crate::model::Timestamp;
use crate::web::view::{self, Value};

use super::form::{Field, FieldProblem};
use super::server::HostKey;
use super::{Chrome, Section, Viewer};

/// What the form sends to `POST /servers/preflight` and `POST /servers`, as typed. The password is not here:
/// it goes to the service and never back to a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolForm {
    /// `host`, `user@host` or `user@host:port`.
    pub hostname: String,
    pub port: String,
    pub username: String,
    /// Empty: taken from the address.
    pub name: String,
    /// Separated by spaces or commas.
    pub tags: String,
    /// `kept`, `key_file` or `password`.
    pub identity: String,
    pub key_file: String,
}

impl Default for EnrolForm {
    fn default() -> Self {
        Self {
            hostname: String::new(),
            port: String::new(),
            username: String::new(),
            name: String::new(),
            tags: String::new(),
            identity: "kept".to_owned(),
            key_file: String::new(),
        }
    }
}

impl EnrolForm {
    /// From the decoded pairs of a posted form or of an address.
    #[must_use]
    pub fn from_pairs<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut form = Self::default();
        for (key, value) in pairs {
            let value = value.as_ref().trim();
            let field = match key.as_ref() {
                "hostname" => &mut form.hostname,
                "port" => &mut form.port,
                "username" => &mut form.username,
                "name" => &mut form.name,
                "tags" => &mut form.tags,
                "identity" if matches!(value, "kept" | "key_file" | "password") => &mut form.identity,
                "key_file" => &mut form.key_file,
                _ => continue,
            };
            value.clone_into(field);
        }
        form
    }
}

/// How one step of the preflight ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    /// It works, with something missing.
    Warning,
    Failed,
    /// Not tried, because an earlier step failed or is waited for.
    NotTried,
}

impl Outcome {
    const fn class(self) -> &'static str {
        match self {
            Self::Passed => "is-passed",
            Self::Warning => "is-warning",
            Self::Failed => "is-failed",
            Self::NotTried => "is-untried",
        }
    }

    const fn icon(self) -> &'static str {
        match self {
            Self::Passed => "circle-check",
            Self::Warning => "triangle-alert",
            Self::Failed => "octagon-x",
            Self::NotTried => "circle-dashed",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Warning => "passed with a warning",
            Self::Failed => "failed",
            Self::NotTried => "not tried",
        }
    }
}

/// One step of the preflight.
#[derive(Debug, Clone, PartialEq)]
pub struct PreflightStep {
    pub title: String,
    pub outcome: Outcome,
    /// What was seen; may be empty.
    pub detail: String,
    /// What to do, ready to be copied into a shell or to be read.
    pub fix: Option<String>,
    pub took_ms: Option<f64>,
}

/// What the preflight found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Preflight {
    pub steps: Vec<PreflightStep>,
    /// The key that the server showed. None: it did not come that far.
    pub host_key: Option<HostKey>,
    /// Where that key is known from (`/root/.ssh/known_hosts`). None: nobody knows it yet.
    pub host_key_known_from: Option<String>,
    /// The server may be added with this key.
    pub can_add: bool,
}

/// `GET /servers/new`, and the answer to a preflight or to an addition that was refused.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/enrol.html")]
pub struct EnrolPage {
    pub chrome: Chrome,
    form: EnrolForm,
    address: Field,
    places: Vec<Field>,
    names: Vec<Field>,
    key_file: Field,
    password: Field,
    approval_password: Option<Field>,
    ways: Vec<Way>,
    public_key: String,
    paste_line: String,
    result: Option<ResultView>,
}

#[derive(Debug, Clone)]
struct Way {
    value: &'static str,
    title: &'static str,
    text: &'static str,
    is_chosen: bool,
}

#[derive(Debug, Clone)]
struct ResultView {
    title: &'static str,
    is_good: bool,
    steps: Vec<StepView>,
    host_key: Option<HostKey>,
    known_from: Option<String>,
    can_add: bool,
}

#[derive(Debug, Clone)]
struct StepView {
    title: String,
    outcome: Outcome,
    detail: String,
    fix: Option<String>,
    fix_id: String,
    took: Value,
}

impl EnrolPage {
    /// `public_key` is the key that Roundsman keeps, one line as in authorized_keys.
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        form: &EnrolForm,
        problems: &[FieldProblem],
        public_key: &str,
        preflight: Option<&Preflight>,
        now: Timestamp,
    ) -> Self {
        let judged = |field: Field| field.judged(problems);
        let asks_password = form.identity == "password" && preflight.is_some_and(|found| found.can_add);
        Self {
            chrome: Chrome::new("Add server", Section::Fleet, None, viewer, now),
            address: judged(
                Field::line("hostname", "Address", &form.hostname, 320)
                    .placeholder("root@10.0.0.5 or deploy@web-1.example.net:2222")
                    .required(),
            ),
            places: vec![
                judged(Field::line("username", "User", &form.username, 63).placeholder("from the address")),
                judged(Field::line("port", "Port", &form.port, 5).placeholder("22")),
            ],
            names: vec![
                judged(Field::line("name", "Name", &form.name, 63).placeholder("from the address")),
                judged(Field::line("tags", "Tags", &form.tags, 1000).placeholder("web role:frontend")),
            ],
            key_file: judged(
                Field::line("key_file", "Path of the key file", &form.key_file, 1000)
                    .placeholder("/root/.ssh/id_ed25519"),
            ),
            password: judged(Field::password("password", "Password")),
            approval_password: asks_password
                .then(|| judged(Field::password("password", "The password once more").required())),
            ways: ways(&form.identity),
            public_key: public_key.to_owned(),
            paste_line: paste_line(public_key),
            result: preflight.map(ResultView::new),
            form: form.clone(),
        }
    }
}

fn ways(chosen: &str) -> Vec<Way> {
    let way = |value, title, text| Way { value, title, text, is_chosen: value == chosen };
    vec![
        way(
            "kept",
            "Roundsman’s key is there already",
            "Put the line of “Let Roundsman in” on the server first.",
        ),
        way("password", "A password, once", "Used to install Roundsman’s key, then forgotten."),
        way("key_file", "A key file", "A private key on the machine that runs Roundsman."),
    ]
}

/// The command that lets Roundsman in when it is pasted into a shell of the server.
fn paste_line(public_key: &str) -> String {
    let quoted = shlex::try_quote(public_key).unwrap_or_default();
    format!(
        "umask 077; mkdir -p ~/.ssh && touch ~/.ssh/authorized_keys && echo {quoted} >> ~/.ssh/authorized_keys"
    )
}

impl ResultView {
    fn new(found: &Preflight) -> Self {
        let failed = found.steps.iter().any(|step| step.outcome == Outcome::Failed);
        let title = match (failed, found.can_add, &found.host_key_known_from) {
            (true, ..) => "It stops on the way",
            (false, true, None) => "Is this the right server?",
            (false, true, Some(_)) => "Ready",
            (false, false, _) => "Not ready yet",
        };
        Self {
            title,
            is_good: !failed,
            steps: found.steps.iter().enumerate().map(|(index, step)| StepView::new(index, step)).collect(),
            host_key: found.host_key.clone(),
            known_from: found.host_key_known_from.clone(),
            can_add: found.can_add,
        }
    }
}

impl StepView {
    fn new(index: usize, step: &PreflightStep) -> Self {
        Self {
            title: view::clean(&step.title, view::CELL_CHARS),
            outcome: step.outcome,
            detail: view::clean(&step.detail, view::TEXT_CHARS),
            fix: step.fix.as_deref().map(|fix| view::clean(fix, view::TEXT_CHARS)),
            fix_id: format!("fix-{index}"),
            took: view::milliseconds(step.took_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Role;
    use crate::web::pages::samples::{now, preflight, viewer};

    const KEY: &str = "ssh-ed25519 AAAAC3Nz roundsman@hub";

    fn page(form: &EnrolForm, found: Option<&Preflight>) -> String {
        EnrolPage::new(&viewer(Role::Admin), form, &[], KEY, found, now()).render().unwrap()
    }

    #[test]
    fn the_form_shows_our_key_and_the_line_to_paste() {
        let html = page(&EnrolForm::default(), None);
        assert!(
            html.contains(KEY)
                && html.contains("authorized_keys")
                && html.contains("action=\"/servers/preflight\"")
        );
        assert!(!html.contains("name=\"host_key\""));
    }

    #[test]
    fn an_unknown_key_is_approved_by_a_button_that_carries_it() {
        let form = EnrolForm::from_pairs([("hostname", "root@10.0.0.5"), ("identity", "password")]);
        let html = page(&form, Some(&preflight(true)));
        assert!(html.contains("SHA256:") && html.contains("name=\"host_key\" value=\"ssh-ed25519 AAAA"));
        assert!(html.contains("The password once more") && html.contains("value=\"root@10.0.0.5\""));
    }

    #[test]
    fn a_step_that_failed_says_how_to_mend_it_and_nothing_can_be_added() {
        let html = page(&EnrolForm::default(), Some(&preflight(false)));
        assert!(html.contains("It stops on the way") && html.contains("data-copy=\"fix-"));
        assert!(!html.contains("name=\"host_key\""));
    }

    #[test]
    fn a_key_comment_cannot_break_out_of_the_line_to_paste() {
        assert!(
            paste_line("ssh-ed25519 AAAA it's; rm -rf /").contains("\"ssh-ed25519 AAAA it's; rm -rf /\"")
        );
    }
}
