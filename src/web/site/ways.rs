//! The way in to a server, out of a posted form.

use super::super::request::Form;
use super::DEFAULT_KEY;
use crate::fleet::{ActionLoginEdit, FleetError, LoginEdit};
use crate::model::{ActionLogin, LoginMethod, ProxyAddress, Secret};

fn invalid(field: &'static str, message: &str) -> FleetError {
    FleetError::Invalid { field, message: message.to_owned() }
}

/// The field of a form that a field of the service stands in.
pub(super) fn form_field(field: &str) -> &str {
    match field {
        "interval_ms" => "interval_seconds",
        "heavy_interval_ms" => "heavy_seconds",
        "connect_timeout_ms" => "connect_timeout_seconds",
        "action_login" => "action_username",
        "action_login.password" => "action_password",
        other => other,
    }
}

/// A password as it was typed; None when nothing was.
pub(super) fn secret(form: &Form, field: &str) -> Option<Secret<String>> {
    Some(form.text(field)).filter(|text| !text.is_empty()).map(|text| Secret::new(text.to_owned()))
}

/// Whether a password was typed into the address of a proxy.
pub(super) fn holds_password(proxy: &str) -> bool {
    ProxyAddress::parse(proxy).is_ok_and(|(_, password)| password.is_some())
}

/// The proxy with the password of the field beside it.
pub(super) fn proxy(form: &Form) -> Result<Option<Secret<String>>, FleetError> {
    let Some(text) = form.optional("proxy") else { return Ok(None) };
    let Some(password) = secret(form, "proxy_password") else { return Ok(Some(Secret::new(text))) };
    let (address, _) = ProxyAddress::parse(&text)?;
    let whole = address.with_password(&password);
    whole.map(Some).ok_or_else(|| {
        invalid("proxy", "a password needs a user: write the proxy as socks5://user@host:port")
    })
}

/// Seconds, with decimals; None for an empty field.
pub(super) fn connect_timeout_ms(form: &Form) -> Result<Option<u64>, FleetError> {
    let Some(text) = form.optional("connect_timeout_seconds") else { return Ok(None) };
    match text.parse::<f64>() {
        Ok(seconds) if (1.0..=120.0).contains(&seconds) => {
            let span = std::time::Duration::from_secs_f64(seconds);
            Ok(Some(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
        }
        _ => Err(invalid("connect_timeout_ms", "use a number of seconds from 1 to 120")),
    }
}

/// An identity out of fields that begin with `prefix`. `kept_key` is the field of the kept key.
pub(super) fn login(
    form: &Form,
    prefix: &str,
    kept_key: &str,
    agent_key_before: Option<&str>,
) -> Result<LoginEdit, FleetError> {
    let field = |name: &str| format!("{prefix}{name}");
    let method = match form.text(&field("identity")) {
        "agent" => LoginMethod::Agent,
        "password" => LoginMethod::Password,
        "kept" | "" => LoginMethod::Key,
        _ => return Err(invalid("login_method", "choose how Roundsman logs in")),
    };
    let key = form.optional(kept_key).unwrap_or_else(|| DEFAULT_KEY.to_owned());
    // The same key again needs no agent: it may be away while something else is edited.
    let agent_key = form.optional(&field("agent_key")).filter(|key| Some(key.as_str()) != agent_key_before);
    Ok(LoginEdit {
        method: Some(method),
        key: (method == LoginMethod::Key).then(|| Some(key).filter(|key| key != DEFAULT_KEY)),
        agent_key: agent_key.filter(|_| method == LoginMethod::Agent),
        password: secret(form, &field("password")).filter(|_| method == LoginMethod::Password),
    })
}

/// The second identity; None where no user is named.
pub(super) fn action_login(
    form: &Form,
    before: Option<&ActionLogin>,
) -> Result<Option<ActionLoginEdit>, FleetError> {
    let Some(username) = form.optional("action_username") else { return Ok(None) };
    let agent_key = before.and_then(|before| before.login.agent_key.as_deref());
    let login = login(form, "action_", "action_kept_key", agent_key)?;
    Ok(Some(ActionLoginEdit { username: Some(username), login }))
}
