//! Adding a server that is asked over HTTPS, or one that reports by itself; and the token of the latter, shown once.

use askama::Template;

use crate::fleet::ServerState;
use crate::model::Timestamp;

use super::form::{Field, FieldProblem};
use super::{Chrome, Section, Viewer};

/// What a form of this file sends, as typed; a token is never here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddForm {
    pub name: String,
    pub api_url: String,
    pub api_ca: String,
    pub api_pin: String,
    pub hostname: String,
    pub username: String,
    pub port: String,
    pub description: String,
    pub region: String,
    pub environment: String,
    /// Separated by spaces or commas.
    pub tags: String,
    /// May have decimals.
    pub interval_seconds: String,
}

impl AddForm {
    /// The names of the fields.
    pub const FIELDS: [&'static str; 12] = [
        "name",
        "api_url",
        "api_ca",
        "api_pin",
        "hostname",
        "username",
        "port",
        "description",
        "region",
        "environment",
        "tags",
        "interval_seconds",
    ];

    /// From the decoded pairs of a posted form.
    #[must_use]
    pub fn from_pairs<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut form = Self::default();
        for (key, value) in pairs {
            let field = match key.as_ref() {
                "name" => &mut form.name,
                "api_url" => &mut form.api_url,
                "api_ca" => &mut form.api_ca,
                "api_pin" => &mut form.api_pin,
                "hostname" => &mut form.hostname,
                "username" => &mut form.username,
                "port" => &mut form.port,
                "description" => &mut form.description,
                "region" => &mut form.region,
                "environment" => &mut form.environment,
                "tags" => &mut form.tags,
                "interval_seconds" => &mut form.interval_seconds,
                _ => continue,
            };
            value.as_ref().trim().clone_into(field);
        }
        form
    }

    fn has_ssh(&self) -> bool {
        !self.hostname.is_empty() || !self.username.is_empty() || !self.port.is_empty()
    }
}

fn names(form: &AddForm) -> Vec<Field> {
    vec![
        Field::line("tags", "Tags", &form.tags, 1000).placeholder("web role:frontend"),
        Field::line("region", "Region", &form.region, 63).placeholder("eu-central"),
        Field::line("environment", "Environment", &form.environment, 63).placeholder("production"),
        Field::line("interval_seconds", "Every … seconds", &form.interval_seconds, 10).placeholder("5"),
    ]
}

fn ssh(form: &AddForm) -> Vec<Field> {
    vec![
        Field::line("hostname", "Address", &form.hostname, 255).placeholder("10.0.0.5"),
        Field::line("username", "User", &form.username, 63).placeholder("root"),
        Field::line("port", "Port", &form.port, 5).placeholder("22"),
    ]
}

fn judged(fields: Vec<Field>, problems: &[FieldProblem]) -> Vec<Field> {
    fields.into_iter().map(|field| field.judged(problems)).collect()
}

/// `GET /servers/new/http`, and the answer to a form that was refused.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/add_http.html")]
pub struct AddHttpPage {
    pub chrome: Chrome,
    api: Vec<Field>,
    trust: Vec<Field>,
    trust_is_open: bool,
    names: Vec<Field>,
    ssh: Vec<Field>,
    ssh_is_open: bool,
}

impl AddHttpPage {
    #[must_use]
    pub fn new(viewer: &Viewer, form: &AddForm, problems: &[FieldProblem], now: Timestamp) -> Self {
        let api = vec![
            Field::line("api_url", "Address of its API", &form.api_url, 1000)
                .placeholder("https://web-1.example.net:8443")
                .hint("What stands before /health and /api/v1/metrics/current; https only.")
                .required(),
            Field::password("api_token", "Token")
                .hint("Sent as a bearer token; kept encrypted and never shown."),
            Field::line("name", "Name", &form.name, 63).placeholder("from the address"),
        ];
        let trust = vec![
            Field::lines("api_ca", "Certificate authority", &form.api_ca, 64 * 1024)
                .placeholder("-----BEGIN CERTIFICATE-----")
                .hint("In place of the authorities of the machine that Roundsman runs on."),
            Field::line("api_pin", "Pinned certificate", &form.api_pin, 120).hint(
                "Its SHA-256, as openssl x509 -noout -fingerprint -sha256 prints it; no other is taken then.",
            ),
        ];
        let wrong = |names: &[&str]| problems.iter().any(|problem| names.contains(&problem.field.as_str()));
        Self {
            chrome: Chrome::new("Add a server over HTTPS", Section::Fleet, None, viewer, now),
            api: judged(api, problems),
            trust: judged(trust, problems),
            trust_is_open: !form.api_ca.is_empty()
                || !form.api_pin.is_empty()
                || wrong(&["api_ca", "api_pin"]),
            names: judged(names(form), problems),
            ssh: judged(ssh(form), problems),
            ssh_is_open: form.has_ssh() || wrong(&["hostname", "username", "port"]),
        }
    }
}

/// `GET /servers/new/push`, and the answer to a form that was refused.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/add_push.html")]
pub struct AddPushPage {
    pub chrome: Chrome,
    name: Field,
    names: Vec<Field>,
    ssh: Vec<Field>,
    ssh_is_open: bool,
    central: String,
}

impl AddPushPage {
    /// `central`: the address under which servers reach Roundsman, as far as the request tells it.
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        form: &AddForm,
        problems: &[FieldProblem],
        central: &str,
        now: Timestamp,
    ) -> Self {
        let wrong = |names: &[&str]| problems.iter().any(|problem| names.contains(&problem.field.as_str()));
        Self {
            chrome: Chrome::new("Add a server that reports", Section::Fleet, None, viewer, now),
            name: Field::line("name", "Name", &form.name, 63)
                .placeholder("edge-1")
                .required()
                .judged(problems),
            names: judged(names(form), problems),
            ssh: judged(ssh(form), problems),
            ssh_is_open: form.has_ssh() || wrong(&["hostname", "username", "port"]),
            central: central.to_owned(),
        }
    }
}

/// The token of a server that reports by itself, in the answer that makes it and in no other.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/push_token.html")]
pub struct PushTokenPage {
    pub chrome: Chrome,
    name: String,
    /// False: the server has another one already.
    is_first: bool,
    token: String,
    central: String,
    is_plain_http: bool,
    settings: String,
    deploy: String,
    run: String,
    curl: String,
}

impl PushTokenPage {
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        state: &ServerState,
        token: &str,
        is_first: bool,
        central: &str,
        now: Timestamp,
    ) -> Self {
        let name = state.server.name.to_string();
        let is_plain_http = central.starts_with("http://");
        let id = state.server.id;
        let insecure = if is_plain_http { " --insecure-http" } else { "" };
        Self {
            // Without a socket and without fetching itself: a second look would have no token any more.
            chrome: Chrome::new(&format!("Token of {name}"), Section::Fleet, None, viewer, now),
            is_first,
            settings: format!("umask 077; cat >{name}.token <<'END'\n{token}\nEND"),
            deploy: format!(
                "ROUNDSMAN_URL={central} ROUNDSMAN_TOKEN_FILE={name}.token ./deploy-agent.sh root@ADDRESS --mode push"
            ),
            run: format!(
                "ROUNDSMAN_URL={central} ROUNDSMAN_TOKEN_FILE={name}.token roundsman-agent push{insecure}"
            ),
            curl: format!(
                "printf 'Authorization: Bearer %s' \"$(cat {name}.token)\" | curl -fsS -H @- \
                 -d '{{\"cpu_percent\": 12.5, \"memory_percent\": 40}}' {central}/api/v1/fleet/servers/{id}/heartbeat"
            ),
            token: token.to_owned(),
            central: central.to_owned(),
            is_plain_http,
            name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Role;
    use crate::web::pages::samples::{Sample, now, viewer};

    #[test]
    fn a_refused_form_comes_back_with_what_was_typed_and_without_the_token() {
        let form = AddForm::from_pairs([
            ("api_url", "http://\"><script>"),
            ("api_token", "hunter2"),
            ("api_pin", "xx"),
        ]);
        let problem = FieldProblem { field: "api_url".to_owned(), sentence: "Plain http.".to_owned() };
        let html = AddHttpPage::new(&viewer(Role::Admin), &form, &[problem], now()).render().unwrap();
        assert!(html.contains("value=\"http://&#34;&#62;&#60;script&#62;\"") && html.contains("Plain http."));
        assert!(!html.contains("hunter2") && html.contains("<details class=\"more\" open>"));
    }

    #[test]
    fn the_token_is_on_its_page_once_and_never_an_argument_of_a_command() {
        let state = Sample::named("edge-1").state();
        let page = PushTokenPage::new(
            &viewer(Role::Admin),
            &state,
            "rdm_secret",
            true,
            "https://hub.example.net",
            now(),
        );
        for command in [&page.deploy, &page.run, &page.curl] {
            assert!(
                !command.contains("rdm_secret") && command.contains("https://hub.example.net"),
                "{command}"
            );
        }
        let html = page.render().unwrap();
        assert!(
            html.contains("rdm_secret") && html.contains("first heartbeat") && !html.contains("data-live")
        );
    }
}
