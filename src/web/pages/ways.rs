//! The fields of forms for the way in to a server: jump host, proxy, time limit, the second identity, sudo.
//!
//! Passwords are never filled in: what was typed does not come back.

use askama::Template;
use askama::filters::HtmlSafe;

use crate::fleet::ServerState;
use crate::model::{Login, LoginMethod, ProxyAddress, SecretKind, WayIn};

use super::form::{Field, FieldProblem};
use super::{Choice, KeptKey};

/// Longest address of a proxy, as the service takes it.
const PROXY_CHARS: u32 = 1000;
/// A public key line of RSA with 16,384 bits.
const KEY_LINE_CHARS: u32 = 4000;

/// What the fields hold, as typed and without secrets. Their names are those of this struct.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WaysForm {
    pub agent_key: String,
    pub jump_host: String,
    /// Without its password, even if one was typed into it.
    pub proxy: String,
    /// May have decimals; empty is the default.
    pub connect_timeout_seconds: String,
    /// Empty: no second identity.
    pub action_username: String,
    /// `kept`, `agent` or `password`.
    pub action_identity: String,
    pub action_kept_key: String,
    pub action_agent_key: String,
}

impl WaysForm {
    /// The fields of a server as it is stored.
    #[must_use]
    pub fn of(state: &ServerState) -> Self {
        let way = &state.way;
        let text = |value: Option<String>| value.unwrap_or_default();
        let action = way.action.as_ref();
        let login = action.map(|action| &action.login);
        Self {
            agent_key: text(way.login.agent_key.clone()),
            jump_host: text(state.jump.as_ref().map(ToString::to_string)),
            proxy: text(way.proxy.as_ref().map(ToString::to_string)),
            connect_timeout_seconds: (f64::from(way.connect_timeout_ms) / 1000.0).to_string(),
            action_username: text(action.map(|action| action.username.clone())),
            action_identity: login.map_or("kept", identity_word).to_owned(),
            action_kept_key: login.map_or_else(|| DEFAULT_KEY.to_owned(), kept_key),
            action_agent_key: text(login.and_then(|login| login.agent_key.clone())),
        }
    }

    /// From the decoded pairs of a posted form; a field that is not sent stays empty.
    #[must_use]
    pub fn from_pairs<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut form = Self { action_identity: "kept".to_owned(), ..Self::default() };
        for (key, value) in pairs {
            let value = value.as_ref().trim();
            let field = match key.as_ref() {
                "agent_key" => &mut form.agent_key,
                "jump_host" => &mut form.jump_host,
                "proxy" => {
                    form.proxy = without_password(value);
                    continue;
                }
                "connect_timeout_seconds" => &mut form.connect_timeout_seconds,
                "action_username" => &mut form.action_username,
                "action_identity" if matches!(value, "kept" | "agent" | "password") => {
                    &mut form.action_identity
                }
                "action_kept_key" => &mut form.action_kept_key,
                "action_agent_key" => &mut form.action_agent_key,
                _ => continue,
            };
            value.clone_into(field);
        }
        form
    }

    /// The names of the fields, to take them out of a posted form.
    pub const FIELDS: [&'static str; 8] = [
        "agent_key",
        "jump_host",
        "proxy",
        "connect_timeout_seconds",
        "action_username",
        "action_identity",
        "action_kept_key",
        "action_agent_key",
    ];

    /// Name and value of each field, for a form that carries them on unseen.
    #[must_use]
    pub fn carried(&self) -> Vec<(&'static str, String)> {
        let values = [
            &self.agent_key,
            &self.jump_host,
            &self.proxy,
            &self.connect_timeout_seconds,
            &self.action_username,
            &self.action_identity,
            &self.action_kept_key,
            &self.action_agent_key,
        ];
        Self::FIELDS.into_iter().zip(values.into_iter().cloned()).collect()
    }

    /// Whether anything differs from the usual way, so that the fields are to be seen.
    #[must_use]
    pub fn is_used(&self) -> bool {
        let usual = f64::from(WayIn::DEFAULT_CONNECT_TIMEOUT_MS) / 1000.0;
        let limit = self.connect_timeout_seconds.as_str();
        let limited = !limit.is_empty() && limit != usual.to_string();
        limited || [&self.jump_host, &self.proxy, &self.action_username].iter().any(|text| !text.is_empty())
    }
}

/// What forms send for the default key.
const DEFAULT_KEY: &str = "default";

/// The word of a form for a method.
#[must_use]
pub const fn identity_word(login: &Login) -> &'static str {
    match login.method {
        LoginMethod::Key => "kept",
        LoginMethod::Agent => "agent",
        LoginMethod::Password => "password",
    }
}

#[must_use]
pub fn kept_key(login: &Login) -> String {
    login.key.map_or_else(|| DEFAULT_KEY.to_owned(), |key| key.to_string())
}

/// What may come back into a page of a proxy's address; of one that cannot be read, nothing that could hold a password.
fn without_password(typed: &str) -> String {
    match ProxyAddress::parse(typed) {
        Ok((address, _)) => address.to_string(),
        Err(_) if typed.contains('@') => String::new(),
        Err(_) => typed.to_owned(),
    }
}

/// The fields, ready to be shown.
#[derive(Debug, Clone, Template)]
#[template(path = "partials/ways.html")]
pub struct WaysFields {
    reach: Vec<Field>,
    action_username: Field,
    action_ways: Vec<ActionWay>,
    action_keys: Vec<Choice>,
    action_agent_key: Field,
    action_password: Field,
    sudo_password: Field,
    /// A sudo password is kept, so it can be forgotten.
    may_forget_sudo: bool,
}

// askama wrote it and escaped what is in it.
impl HtmlSafe for WaysFields {}

#[derive(Debug, Clone)]
struct ActionWay {
    value: &'static str,
    title: &'static str,
    is_chosen: bool,
}

impl WaysFields {
    /// `way` is what is stored, where there is something stored.
    #[must_use]
    pub fn new(form: &WaysForm, keys: &[KeptKey], way: Option<&WayIn>, problems: &[FieldProblem]) -> Self {
        let judged = |field: Field| field.judged(problems);
        let keeps = |kind: SecretKind| way.is_some_and(|way| way.keeps(kind));
        let kept = |field: Field, kind: SecretKind| {
            if keeps(kind) { field.hint("One is kept; leave this empty to keep it.") } else { field }
        };
        let chosen = if form.action_identity.is_empty() { "kept" } else { &form.action_identity };
        let action_way = |value, title| ActionWay { value, title, is_chosen: chosen == value };
        let proxy_password = Field::password("proxy_password", "Password of the proxy");
        Self {
            reach: vec![
                judged(
                    Field::line("jump_host", "Jump host", &form.jump_host, 63)
                        .placeholder("none")
                        .hint("An enrolled server over whose connection this one is reached."),
                ),
                judged(
                    Field::line(
                        "connect_timeout_seconds",
                        "Time limit of connecting, seconds",
                        &form.connect_timeout_seconds,
                        10,
                    )
                    .placeholder("10")
                    .hint("For each step: name, TCP, greeting, key exchange."),
                ),
                judged(
                    Field::line("proxy", "Proxy", &form.proxy, PROXY_CHARS)
                        .placeholder("socks5://user@10.0.0.1:1080")
                        .hint("socks5:// or http://, as this machine reaches it."),
                ),
                judged(kept(proxy_password, SecretKind::ProxyPassword)),
            ],
            action_username: judged(
                Field::line("action_username", "Another user for actions", &form.action_username, 63)
                    .placeholder("none: the same login does both")
                    .hint("Then the login above only reads, and its key may be limited to that."),
            ),
            action_ways: vec![
                action_way("kept", "A kept key"),
                action_way("agent", "A key of the ssh-agent"),
                action_way("password", "A kept password"),
            ],
            action_keys: keys
                .iter()
                .map(|key| Choice::of(&key.id, &key.name, &form.action_kept_key))
                .collect(),
            action_agent_key: judged(agent_key("action_agent_key", &form.action_agent_key)),
            action_password: judged(kept(
                Field::password("action_password", "Password of that user"),
                SecretKind::ActionPassword,
            )),
            sudo_password: judged(kept(
                Field::password("sudo_password", "Password for sudo, if it asks for one"),
                SecretKind::SudoPassword,
            )),
            may_forget_sudo: keeps(SecretKind::SudoPassword),
        }
    }
}

/// The field for a key of the agent.
#[must_use]
pub fn agent_key(name: &'static str, value: &str) -> Field {
    Field::line(name, "Key of the ssh-agent", value, KEY_LINE_CHARS)
        .placeholder("SHA256:… or ssh-ed25519 AAAA…")
        .hint("As ssh-add -l shows it; the agent has to hold it now.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_comes_back_whatever_was_typed_as_a_proxy() {
        for (typed, shown) in [
            ("socks5://me:hunter2@proxy:1080", "socks5://me@proxy:1080"),
            ("me:hunter2@proxy", ""),
            ("proxy:1080", "proxy:1080"),
        ] {
            let form = WaysForm::from_pairs([("proxy", typed), ("action_password", "hunter2")]);
            assert_eq!(form.proxy, shown);
            let html = WaysFields::new(&form, &[], None, &[]).render().unwrap();
            assert!(!html.contains("hunter2"));
        }
    }

    #[test]
    fn a_kept_sudo_password_can_be_forgotten_and_is_not_shown() {
        let way = WayIn { secrets: vec![SecretKind::SudoPassword], ..WayIn::default() };
        let html = WaysFields::new(&WaysForm::default(), &[], Some(&way), &[]).render().unwrap();
        assert!(html.contains("forget_sudo_password") && html.contains("One is kept"));
        let html = WaysFields::new(&WaysForm::default(), &[], None, &[]).render().unwrap();
        assert!(!html.contains("forget_sudo_password"));
    }
}
