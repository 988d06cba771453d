//! The settings of a server: what it is called, how it is reached, its host key, and its removal.

use askama::Template;

use crate::fleet::{AgentOffer, ServerState};
use crate::model::{SecretKind, Status, Timestamp, Transport};

use super::super::form::{Field, FieldProblem};
use super::super::ways::{WaysFields, WaysForm, agent_key, identity_word, kept_key};
use super::super::{Choice, Chrome, KeptKey, Viewer, capital};
use super::agent::AgentPanel;
use super::{Head, HostKeys, Tab};

/// Longest text of a field; the service has limits of its own and judges.
const FIELD_MAX_CHARS: u32 = 1_000;

/// What the form at `POST /servers/{id}/configuration` sends, as typed: a field that was refused comes back
/// unchanged. The names of the fields are those of this struct.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigurationForm {
    pub name: String,
    pub description: String,
    pub hostname: String,
    pub port: String,
    pub username: String,
    pub region: String,
    pub environment: String,
    /// Separated by spaces or commas.
    pub tags: String,
    /// A line each: `key=value`.
    pub metadata: String,
    pub status: String,
    /// May have decimals.
    pub interval_seconds: String,
    /// May have decimals; empty: the default.
    pub heavy_seconds: String,
    /// `kept`, `agent` or `password`.
    pub identity: String,
    /// Id of the kept key to log in with; `default` for the default one.
    pub kept_key: String,
    /// Where the API of an http server is.
    pub api_url: String,
    /// PEM.
    pub api_ca: String,
    pub api_pin: String,
    pub ways: WaysForm,
}

impl ConfigurationForm {
    /// The form of a server as it is stored.
    #[must_use]
    pub fn of(state: &ServerState) -> Self {
        let server = &state.server;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let tags: Vec<&str> = server.tags.iter().map(|tag| tag.as_str()).collect();
        let metadata: Vec<String> =
            server.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect();
        Self {
            name: server.name.to_string(),
            description: server.description.clone(),
            hostname: text(&server.hostname),
            port: server.port.to_string(),
            username: text(&server.username),
            region: text(&server.region),
            environment: text(&server.environment),
            tags: tags.join(" "),
            metadata: metadata.join("\n"),
            status: server.status.name().to_owned(),
            interval_seconds: (f64::from(server.interval_ms) / 1000.0).to_string(),
            heavy_seconds: server
                .heavy_interval_ms
                .map(|millis| (f64::from(millis) / 1000.0).to_string())
                .unwrap_or_default(),
            identity: identity_word(&state.way.login).to_owned(),
            kept_key: kept_key(&state.way.login),
            api_url: state.http.as_ref().map(|http| http.url.to_string()).unwrap_or_default(),
            api_ca: state.http.as_ref().and_then(|http| http.ca_pem.clone()).unwrap_or_default(),
            api_pin: state
                .http
                .as_ref()
                .and_then(|http| http.pin)
                .map(|pin| pin.to_string())
                .unwrap_or_default(),
            ways: WaysForm::of(state),
        }
    }

    /// From the decoded pairs of a posted form; a field that is not sent stays empty. The password is not
    /// here: it goes to the service and never back to a page.
    #[must_use]
    pub fn from_pairs<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let pairs: Vec<(K, V)> = pairs.into_iter().collect();
        let ways = WaysForm::from_pairs(pairs.iter().map(|(key, value)| (key.as_ref(), value.as_ref())));
        let mut form = Self { identity: "kept".to_owned(), ways, ..Self::default() };
        for (key, value) in pairs {
            let field = match key.as_ref() {
                "name" => &mut form.name,
                "description" => &mut form.description,
                "hostname" => &mut form.hostname,
                "port" => &mut form.port,
                "username" => &mut form.username,
                "region" => &mut form.region,
                "environment" => &mut form.environment,
                "tags" => &mut form.tags,
                "metadata" => &mut form.metadata,
                "status" => &mut form.status,
                "interval_seconds" => &mut form.interval_seconds,
                "heavy_seconds" => &mut form.heavy_seconds,
                "identity" => &mut form.identity,
                "kept_key" => &mut form.kept_key,
                "api_url" => &mut form.api_url,
                "api_ca" => &mut form.api_ca,
                "api_pin" => &mut form.api_pin,
                _ => continue,
            };
            value.as_ref().trim().clone_into(field);
        }
        form
    }
}

/// `GET /servers/{name}/configuration`, and the answer to a form that was refused.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/server_configuration.html")]
pub struct ConfigurationPage {
    pub chrome: Chrome,
    head: Head,
    server_id: String,
    about: Vec<Field>,
    metadata: Field,
    /// Of a server that is asked over HTTPS.
    api: Vec<Field>,
    /// It reports by itself, so it has a token.
    reports: bool,
    reach: Vec<Field>,
    statuses: Vec<Choice>,
    is_ssh: bool,
    /// Roundsman's key was put there.
    has_key: bool,
    identities: Vec<Identity>,
    kept_keys: Vec<Choice>,
    agent_key: Field,
    password: Field,
    more: WaysFields,
    more_is_open: bool,
    keys: HostKeys,
    agent: Option<AgentPanel>,
}

/// A way to log in.
#[derive(Debug, Clone)]
struct Identity {
    value: &'static str,
    title: &'static str,
    is_chosen: bool,
}

impl ConfigurationPage {
    /// `kept` are the keys to choose from.
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        state: &ServerState,
        keys: &HostKeys,
        kept: &[KeptKey],
        form: &ConfigurationForm,
        problems: &[FieldProblem],
        now: Timestamp,
    ) -> Self {
        let mut chrome = super::chrome(viewer, state, Tab::Configuration, now);
        // A form that changes under the fingers of its writer helps nobody.
        chrome.live = None;
        let is_ssh = state.server.transport != Transport::Local;
        let judged = |field: Field| field.judged(problems);
        Self {
            chrome,
            head: Head::new(state, Tab::Configuration, now),
            server_id: state.server.id.to_string(),
            about: about(form).into_iter().map(judged).collect(),
            metadata: judged(
                Field::lines("metadata", "Metadata", &form.metadata, 20_000)
                    .placeholder("owner=ops")
                    .hint("One key=value a line."),
            ),
            api: api(form, state).into_iter().map(judged).collect(),
            reports: state.server.transport == Transport::Push,
            reach: reach(form, state.server.transport).into_iter().map(judged).collect(),
            statuses: Status::ALL
                .iter()
                .map(|status| Choice::of(status.name(), status_words(*status), &form.status))
                .collect(),
            is_ssh,
            has_key: state.server.transport == Transport::Ssh,
            identities: [
                ("kept", "A kept key"),
                ("agent", "A key of the ssh-agent"),
                ("password", "A kept password"),
            ]
            .map(|(value, title)| Identity { value, title, is_chosen: form.identity == value })
            .to_vec(),
            kept_keys: kept.iter().map(|key| Choice::of(&key.id, &key.name, &form.kept_key)).collect(),
            agent_key: judged(agent_key("agent_key", &form.ways.agent_key)),
            password: judged(if state.way.keeps(SecretKind::Password) {
                Field::password("password", "Password").hint("One is kept; leave this empty to keep it.")
            } else {
                Field::password("password", "Password").hint("Kept encrypted; a key is the better choice.")
            }),
            more: WaysFields::new(&form.ways, kept, Some(&state.way), problems),
            more_is_open: form.ways.is_used()
                || state.way.keeps(SecretKind::SudoPassword)
                || !problems.is_empty(),
            keys: keys.clone(),
            agent: AgentPanel::new(state, &AgentOffer::Unknown, None, now),
        }
    }

    /// With what can be deployed to the server, and where one that reports is to report to.
    #[must_use]
    pub fn offering(
        mut self,
        state: &ServerState,
        offer: &AgentOffer,
        central: &str,
        now: Timestamp,
    ) -> Self {
        self.agent = AgentPanel::new(state, offer, Some(central), now);
        self
    }

    fn title_of_status(choice: &Choice) -> String {
        capital(&choice.value)
    }
}

const fn status_words(status: Status) -> &'static str {
    match status {
        Status::Active => "Read and watched.",
        Status::Maintenance => "Read, but nobody is told of its troubles.",
        Status::Inactive => "Not contacted.",
    }
}

fn about(form: &ConfigurationForm) -> Vec<Field> {
    vec![
        Field::line("name", "Name", &form.name, 63)
            .required()
            .hint("Letters, digits, dots, dashes and underscores."),
        Field::line("description", "Description", &form.description, FIELD_MAX_CHARS),
        Field::line("environment", "Environment", &form.environment, 63).placeholder("production"),
        Field::line("region", "Region", &form.region, 63).placeholder("eu-central"),
        Field::line("tags", "Tags", &form.tags, FIELD_MAX_CHARS)
            .placeholder("web role:frontend")
            .hint("Separated by spaces."),
    ]
}

fn api(form: &ConfigurationForm, state: &ServerState) -> Vec<Field> {
    if state.server.transport != Transport::Http {
        return Vec::new();
    }
    let token = Field::password("api_token", "Token");
    vec![
        Field::line("api_url", "Address of its API", &form.api_url, FIELD_MAX_CHARS).required(),
        if state.way.keeps(SecretKind::ApiToken) {
            token.hint("One is kept; leave this empty to keep it. Another address needs it once more.")
        } else {
            token.hint("Sent as a bearer token; kept encrypted and never shown.")
        },
        Field::lines("api_ca", "Certificate authority", &form.api_ca, 64 * 1024)
            .placeholder("-----BEGIN CERTIFICATE-----")
            .hint("Empty: those of the machine that Roundsman runs on."),
        Field::line("api_pin", "Pinned certificate", &form.api_pin, 120)
            .hint("Its SHA-256; no other is taken then."),
    ]
}

fn reach(form: &ConfigurationForm, transport: Transport) -> Vec<Field> {
    let interval = Field::line("interval_seconds", "Read every … seconds", &form.interval_seconds, 10)
        .required()
        .hint("From 1 to 3600.");
    let heavy = Field::line("heavy_seconds", "Details every … seconds", &form.heavy_seconds, 10)
        .placeholder("the default")
        .hint(
            "Processes, services, containers, users; empty for the default of the settings. While somebody looks at them, they \
             come with every reading.",
        );
    let (address, user) = (
        Field::line("hostname", "Address", &form.hostname, 255),
        Field::line("username", "User", &form.username, 63),
    );
    match transport {
        Transport::Local => return vec![interval, heavy],
        Transport::Ssh => {}
        // Readings come another way; SSH is for actions, where there is a user for it.
        Transport::Http | Transport::Push => {
            let user = user.hint("With one, actions go over SSH; empty: there is no SSH address.");
            return vec![
                address,
                Field::number("port", "Port", &form.port, 1, 65_535),
                user,
                interval,
                heavy,
            ];
        }
    }
    vec![
        Field::line("hostname", "Address", &form.hostname, 255).required(),
        Field::number("port", "Port", &form.port, 1, 65_535).required(),
        Field::line("username", "User", &form.username, 63).required(),
        interval,
        heavy,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Role;
    use crate::web::pages::samples::{Sample, now, viewer};
    use crate::web::pages::server::HostKey;

    fn page(role: Role, state: &ServerState, keys: &HostKeys, problems: &[FieldProblem]) -> String {
        let form = ConfigurationForm::of(state);
        ConfigurationPage::new(&viewer(role), state, keys, &[], &form, problems, now()).render().unwrap()
    }

    fn changed() -> HostKeys {
        let key = |name: &str| HostKey {
            algorithm: "ssh-ed25519".to_owned(),
            fingerprint: format!("SHA256:{name}"),
            line: format!("ssh-ed25519 AAAA{name}"),
        };
        HostKeys { pinned: Some(key("old")), offered: Some(key("new")) }
    }

    #[test]
    fn a_changed_key_is_accepted_by_an_administrator_who_sees_both_fingerprints() {
        let state = Sample::named("a").state();
        let html = page(Role::Admin, &state, &changed(), &[]);
        assert!(html.contains("SHA256:old") && html.contains("SHA256:new"));
        assert!(html.contains("name=\"host_key\" value=\"ssh-ed25519 AAAAnew\""));
        assert!(!page(Role::Operator, &state, &changed(), &[]).contains("name=\"host_key\""));
    }

    #[test]
    fn who_may_not_edit_sees_the_settings_and_no_button() {
        let html = page(Role::Viewer, &Sample::named("a").state(), &HostKeys::default(), &[]);
        assert!(html.contains("<fieldset disabled>") && !html.contains("Save") && !html.contains("/remove"));
    }

    #[test]
    fn what_was_typed_comes_back_with_what_is_wrong() {
        let state = Sample::named("a").state();
        let form = ConfigurationForm::from_pairs([("name", " a b "), ("port", "0"), ("password", "hunter2")]);
        let problem = FieldProblem { field: "port".to_owned(), sentence: "'0' is not a port".to_owned() };
        let page = ConfigurationPage::new(
            &viewer(Role::Admin),
            &state,
            &HostKeys::default(),
            &[],
            &form,
            &[problem],
            now(),
        );
        let html = page.render().unwrap();
        assert!(
            html.contains("value=\"a b\"") && html.contains("is not a port") && !html.contains("hunter2")
        );
    }

    #[test]
    fn this_machine_has_no_address_to_edit() {
        let html = page(Role::Admin, &Sample::named("a").local().state(), &HostKeys::default(), &[]);
        assert!(!html.contains("name=\"hostname\"") && !html.contains("name=\"identity\""));
    }

    #[test]
    fn hostile_metadata_is_text() {
        let html = page(Role::Admin, &Sample::named("a").hostile().state(), &HostKeys::default(), &[]);
        assert!(!html.contains("<script>alert") && !html.contains("<img src=x"));
    }
}
