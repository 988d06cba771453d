//! Adding a server by the form: check the way there, approve the host key, add.

use http::StatusCode;
use warp::reply::Response;

use super::super::error::{Failure, problem};
use super::super::pages::Notice;
use super::super::pages::enrol::{
    EnrolForm, EnrolPage, Outcome as ShownOutcome, Preflight, PreflightStep, TypedSecret,
};
use super::super::pages::form::FieldProblem;
use super::super::pages::server::HostKey;
use super::super::pages::ways::WaysForm;
use super::super::request::{Access, Form, Request};
use super::super::routes::{Route, see_other};
use super::{DEFAULT_KEY, doors, field_problems, kept_keys, show, tags, viewer, ways};
use crate::fleet::{FleetError, HostKeyView, Identification, NewServer};
use crate::model::Secret;
use crate::services::Services;
use crate::ssh::preflight::{Outcome, Stage, Step};

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/servers/new", Access::ADMIN, form),
        Route::post("/servers/preflight", Access::ADMIN, preflight),
        Route::post("/servers", Access::ADMIN, add),
    ]
}

/// The address field takes `user@host:port` too; fields of their own win.
struct Address {
    user: Option<String>,
    host: String,
    port: Option<String>,
}

impl Address {
    fn parse(text: &str) -> Self {
        let text = text.trim().trim_start_matches("ssh://").trim_end_matches('/');
        let (user, rest) = match text.rsplit_once('@') {
            Some((user, rest)) => (Some(user.to_owned()), rest),
            None => (None, text),
        };
        let bracketed = rest.strip_prefix('[').and_then(|inner| inner.split_once(']'));
        let (host, port) = match bracketed {
            Some((host, after)) => (host, after.strip_prefix(':')),
            None => match rest.split_once(':') {
                // More than one colon is an IPv6 address without a port.
                Some((host, port)) if !port.contains(':') => (host, Some(port)),
                _ => (rest, None),
            },
        };
        Self { user, host: host.to_owned(), port: port.map(ToOwned::to_owned) }
    }
}

fn shown(form: &Form) -> EnrolForm {
    let own = ["hostname", "port", "username", "name", "tags", "identity", "kept_key"];
    let names = own.into_iter().chain(WaysForm::FIELDS);
    let mut shown = EnrolForm::from_pairs(names.map(|name| (name, form.text(name).to_owned())));
    let typed = |secret: TypedSecret| match secret {
        TypedSecret::Password if !matches!(shown.identity.as_str(), "password" | "kept_password") => false,
        TypedSecret::ProxyPassword if ways::holds_password(form.text("proxy")) => true,
        secret => !form.text(secret.field()).is_empty(),
    };
    shown.secrets = TypedSecret::ALL.into_iter().filter(|secret| typed(*secret)).collect();
    shown
}

fn new_server(form: &Form, shown: &EnrolForm) -> Result<NewServer, FleetError> {
    let address = Address::parse(&shown.hostname);
    let port = Some(shown.port.clone()).filter(|port| !port.is_empty()).or(address.port);
    let port = port.map(|text| crate::model::Port::parse(&text)).transpose()?;
    let identification = match shown.identity.as_str() {
        "password" => Identification::PasswordOnce(Secret::new(form.text("password").to_owned())),
        "kept_password" => Identification::Password(Secret::new(form.text("password").to_owned())),
        "agent" => Identification::Agent(shown.ways.agent_key.clone()),
        _ if shown.kept_key == DEFAULT_KEY || shown.kept_key.is_empty() => Identification::DefaultKey,
        _ => Identification::KeptKey(shown.kept_key.clone()),
    };
    Ok(NewServer {
        name: form.optional("name"),
        hostname: address.host,
        port: port.map(|port| i64::from(port.get())),
        username: form.optional("username").or(address.user),
        tags: tags(&shown.tags),
        identification,
        jump_host: form.optional("jump_host"),
        proxy: ways::proxy(form)?,
        connect_timeout_ms: ways::connect_timeout_ms(form)?,
        action_login: ways::action_login(form, None)?,
        sudo_password: ways::secret(form, "sudo_password"),
        host_key: form.optional("host_key"),
        ..NewServer::default()
    })
}

async fn answer(
    request: &Request,
    services: &Services,
    status: StatusCode,
    shown: &EnrolForm,
    problems: &[FieldProblem],
    preflight: Option<&Preflight>,
    notice: Option<Notice>,
) -> Result<Response, Failure> {
    let keys = kept_keys(request, services).await?;
    let viewer = viewer(request)?;
    let mut page = EnrolPage::new(&viewer, shown, problems, &keys, preflight, services.clock.now());
    page.chrome.notice = notice;
    show(status, &page)
}

async fn form(request: Request, services: Services) -> Result<Response, Failure> {
    answer(&request, &services, StatusCode::OK, &EnrolForm::default(), &[], None, None).await
}

/// A private key that was pasted is kept first: it must not travel back into the page.
async fn keep_pasted_key(
    request: &Request,
    services: &Services,
    form: &Form,
    shown: &mut EnrolForm,
) -> Result<(), FleetError> {
    if shown.identity != "private_key" {
        return Ok(());
    }
    let text = Secret::new(form.text("private_key").replace("\r\n", "\n"));
    let passphrase = form.optional("passphrase").map(Secret::new);
    let caller = request.caller.as_ref().ok_or(crate::auth::AuthError::Unauthenticated)?;
    let key = services.fleet.import_key(caller, &text, passphrase.as_ref()).await?;
    "kept".clone_into(&mut shown.identity);
    shown.kept_key = key.id.to_string();
    Ok(())
}

async fn preflight(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let mut shown = shown(&form);
    let checked = async {
        keep_pasted_key(&request, &services, &form, &mut shown).await?;
        let new = new_server(&form, &shown)?;
        let caller = request.caller.as_ref().ok_or(crate::auth::AuthError::Unauthenticated)?;
        services.fleet.preflight(caller, &new).await
    }
    .await;
    match checked {
        Ok(checked) => {
            let found = found(&checked.steps, checked.seen.as_ref());
            answer(&request, &services, StatusCode::OK, &shown, &[], Some(&found), None).await
        }
        Err(error) => refused(&request, &services, &shown, error).await,
    }
}

async fn add(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let mut shown = shown(&form);
    let added = async {
        keep_pasted_key(&request, &services, &form, &mut shown).await?;
        let new = new_server(&form, &shown)?;
        let caller = request.caller.as_ref().ok_or(crate::auth::AuthError::Unauthenticated)?;
        services.fleet.add(caller, new).await
    }
    .await;
    match added {
        Ok(state) => Ok(see_other(&format!("/servers/{}?done=added", state.server.name))),
        Err(error) => refused(&request, &services, &shown, error).await,
    }
}

/// The form again, with what is wrong beside the field or among the steps.
async fn refused(
    request: &Request,
    services: &Services,
    shown: &EnrolForm,
    error: FleetError,
) -> Result<Response, Failure> {
    if let Some(problems) = field_problems(&error) {
        let status = problem(&error.into()).status;
        return answer(request, services, status, shown, &problems, None, None).await;
    }
    let (found, text) = match &error {
        FleetError::HostKeyUnknown { seen, steps } => (found(steps, Some(seen)), None),
        FleetError::Preflight { message, steps } => (found(steps, None), Some(doors::sentence(message))),
        _ => return Err(error.into()),
    };
    let status = problem(&error.into()).status;
    answer(request, services, status, shown, &[], Some(&found), text.map(Notice::problem)).await
}

/// The steps as the page shows them. What waits for approval is no failure; what comes after it was not tried.
fn found(steps: &[Step], seen: Option<&HostKeyView>) -> Preflight {
    let failed = steps.iter().any(|step| step.outcome == Outcome::Failed);
    let known_from = steps
        .iter()
        .find(|step| step.stage == Stage::HostKey && step.outcome == Outcome::Passed)
        .map(|_| "the approved keys".to_owned());
    Preflight {
        steps: steps.iter().map(shown_step).collect(),
        host_key: seen.map(|key| HostKey {
            algorithm: key.algorithm.clone(),
            fingerprint: key.fingerprint.clone(),
            line: key.line.clone(),
        }),
        host_key_known_from: known_from,
        can_add: !failed && seen.is_some(),
    }
}

fn shown_step(step: &Step) -> PreflightStep {
    PreflightStep {
        title: step.stage.title().to_owned(),
        outcome: match step.outcome {
            Outcome::Passed => ShownOutcome::Passed,
            Outcome::Warning | Outcome::NeedsApproval => ShownOutcome::Warning,
            Outcome::Failed => ShownOutcome::Failed,
            Outcome::Skipped => ShownOutcome::NotTried,
        },
        detail: step.detail.clone(),
        fix: step.fix.clone(),
        took_ms: u32::try_from(step.elapsed_ms)
            .ok()
            .filter(|_| step.outcome != Outcome::Skipped)
            .map(f64::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_field_takes_user_host_and_port() {
        let cases = [
            ("root@10.0.0.5", Some("root"), "10.0.0.5", None),
            ("deploy@web-1.example.net:2222", Some("deploy"), "web-1.example.net", Some("2222")),
            ("[fd00::5]:22", None, "fd00::5", Some("22")),
            ("fd00::5", None, "fd00::5", None),
            ("ssh://root@web-1/", Some("root"), "web-1", None),
        ];
        for (text, user, host, port) in cases {
            let address = Address::parse(text);
            assert_eq!(
                (address.user.as_deref(), address.host.as_str(), address.port.as_deref()),
                (user, host, port),
                "{text}"
            );
        }
    }
}
