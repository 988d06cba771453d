//! Adding a server: the form, and what the staged preflight found.

use askama::Template;

use crate::model::Timestamp;
use crate::ssh::keyring::paste_command;
use crate::web::view::{self, Value};

use super::form::{Field, FieldProblem};
use super::server::HostKey;
use super::ways::{WaysFields, WaysForm, agent_key};
use super::{Choice, Chrome, KeptKey, Section, Viewer};

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
    /// `kept`, `private_key`, `password` (once), `kept_password` or `agent`.
    pub identity: String,
    /// Id of the kept key to log in with; `default` for the default one.
    pub kept_key: String,
    pub ways: WaysForm,
    /// Which secrets were typed; they are asked for once more when the host key is approved.
    pub secrets: Vec<TypedSecret>,
}

/// A secret that the form takes and never gives back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypedSecret {
    Password,
    ProxyPassword,
    ActionPassword,
    SudoPassword,
}

impl TypedSecret {
    pub const ALL: [Self; 4] =
        [Self::Password, Self::ProxyPassword, Self::ActionPassword, Self::SudoPassword];

    /// The name of its field.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::ProxyPassword => "proxy_password",
            Self::ActionPassword => "action_password",
            Self::SudoPassword => "sudo_password",
        }
    }

    const fn once_more(self) -> &'static str {
        match self {
            Self::Password => "The password once more",
            Self::ProxyPassword => "The password of the proxy once more",
            Self::ActionPassword => "The password of the user for actions once more",
            Self::SudoPassword => "The password for sudo once more",
        }
    }
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
            kept_key: "default".to_owned(),
            ways: WaysForm::from_pairs::<&str, &str>([]),
            secrets: Vec::new(),
        }
    }
}

impl EnrolForm {
    /// From the decoded pairs of a posted form or of an address.
    #[must_use]
    pub fn from_pairs<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let pairs: Vec<(K, V)> = pairs.into_iter().collect();
        let ways = WaysForm::from_pairs(pairs.iter().map(|(key, value)| (key.as_ref(), value.as_ref())));
        let mut form = Self { ways, ..Self::default() };
        for (key, value) in pairs {
            let value = value.as_ref().trim();
            let field = match key.as_ref() {
                "hostname" => &mut form.hostname,
                "port" => &mut form.port,
                "username" => &mut form.username,
                "name" => &mut form.name,
                "tags" => &mut form.tags,
                "identity"
                    if matches!(value, "kept" | "private_key" | "password" | "kept_password" | "agent") =>
                {
                    &mut form.identity
                }
                "kept_key" => &mut form.kept_key,
                _ => continue,
            };
            value.clone_into(field);
        }
        form
    }

    /// What the approval carries on unseen.
    fn carried(&self) -> Vec<(&'static str, String)> {
        let own = [
            ("hostname", &self.hostname),
            ("port", &self.port),
            ("username", &self.username),
            ("name", &self.name),
            ("tags", &self.tags),
            ("identity", &self.identity),
            ("kept_key", &self.kept_key),
        ];
        own.into_iter().map(|(name, value)| (name, value.clone())).chain(self.ways.carried()).collect()
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
    kept_keys: Vec<Choice>,
    private_key: Field,
    passphrase: Field,
    password: Field,
    agent_key: Field,
    more: WaysFields,
    more_is_open: bool,
    carried: Vec<(&'static str, String)>,
    once_more: Vec<Field>,
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
        keys: &[KeptKey],
        preflight: Option<&Preflight>,
        now: Timestamp,
    ) -> Self {
        let judged = |field: Field| field.judged(problems);
        let public_key = keys.first().map_or("", |key| key.public_key.as_str());
        let can_add = preflight.is_some_and(|found| found.can_add);
        let more = ["jump_host", "proxy", "connect_timeout_seconds", "sudo_password"];
        let wrong = |field: &str| more.contains(&field) || field.starts_with("action_");
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
            kept_keys: keys.iter().map(|key| Choice::of(&key.id, &key.name, &form.kept_key)).collect(),
            private_key: judged(
                Field::lines("private_key", "Private key", "", 20_000)
                    .placeholder("-----BEGIN OPENSSH PRIVATE KEY-----")
                    .hint("Kept encrypted under Settings; the text of ~/.ssh/id_ed25519, for example."),
            ),
            passphrase: judged(Field::password("passphrase", "Its passphrase, if it has one")),
            password: judged(Field::password("password", "Password")),
            agent_key: judged(agent_key("agent_key", &form.ways.agent_key)),
            more: WaysFields::new(&form.ways, keys, None, problems),
            more_is_open: form.ways.is_used() || problems.iter().any(|problem| wrong(&problem.field)),
            carried: form.carried(),
            once_more: form
                .secrets
                .iter()
                .filter(|_| can_add)
                .map(|secret| judged(Field::password(secret.field(), secret.once_more()).required()))
                .collect(),
            ways: ways(&form.identity),
            public_key: public_key.to_owned(),
            paste_line: paste_command(public_key),
            result: preflight.map(ResultView::new),
            form: form.clone(),
        }
    }
}

fn ways(chosen: &str) -> Vec<Way> {
    let way = |value, title, text| Way { value, title, text, is_chosen: value == chosen };
    vec![
        way("kept", "A key that Roundsman keeps", "Put the line of “Let Roundsman in” on the server first."),
        way("password", "A password, once", "Used to install Roundsman’s key, then forgotten."),
        way(
            "kept_password",
            "A password, kept",
            "Encrypted, and used for every login; a key is the better choice.",
        ),
        way("agent", "A key of the ssh-agent", "Signed by the agent that Roundsman was started with."),
        way(
            "private_key",
            "Another private key",
            "One that the server accepts already; Roundsman keeps it encrypted.",
        ),
    ]
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

    fn kept() -> KeptKey {
        KeptKey { id: "default".to_owned(), name: "default".to_owned(), public_key: KEY.to_owned() }
    }

    fn page(form: &EnrolForm, found: Option<&Preflight>) -> String {
        EnrolPage::new(&viewer(Role::Admin), form, &[], &[kept()], found, now()).render().unwrap()
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
        let mut form = EnrolForm::from_pairs([("hostname", "root@10.0.0.5"), ("identity", "password")]);
        form.secrets = vec![TypedSecret::Password];
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
            paste_command("ssh-ed25519 AAAA it's; rm -rf /").contains("\"ssh-ed25519 AAAA it's; rm -rf /\"")
        );
    }

    #[test]
    fn the_line_to_paste_ends_the_line_before_it() {
        let page = EnrolPage::new(&viewer(Role::Admin), &EnrolForm::default(), &[], &[kept()], None, now());
        assert_eq!(page.paste_line, paste_command(KEY));
        assert!(page.paste_line.contains("|| echo >>"));
    }
}
