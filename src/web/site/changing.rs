//! The Configuration tab of a server: edit it, approve its host key, remove it.

use http::StatusCode;
use warp::reply::Response;

use super::super::error::{Failure, problem};
use super::super::pages::Notice;
use super::super::pages::form::FieldProblem;
use super::super::pages::server::{ConfigurationForm, ConfigurationPage};
use super::super::pages::ways::WaysForm;
use super::super::request::{Access, Form, Request};
use super::super::routes::{Route, see_other};
use super::looking::{host_keys, overview_page};
use super::{done, field_problems, kept_keys, show, tags, viewer, ways};
use crate::fleet::{FleetError, HttpEdit, LoginEdit, Metadata, ServerEdit, ServerState, WayEdit};
use crate::model::{Secret, Transport};
use crate::services::Services;
use crate::ssh::preflight::Outcome;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/servers/{id}/configuration", Access::VIEWER, configuration),
        Route::post("/servers/{id}/configuration", Access::ADMIN, save),
        Route::post("/servers/{id}/host-key", Access::ADMIN, approve_host_key),
        Route::post("/servers/{id}/test", Access::OPERATOR, test),
        Route::post("/servers/{id}/remove", Access::ADMIN, remove),
    ]
}

async fn answer(
    request: &Request,
    services: &Services,
    status: StatusCode,
    state: &ServerState,
    form: &ConfigurationForm,
    problems: &[FieldProblem],
) -> Result<Response, Failure> {
    let kept = kept_keys(request, services).await?;
    let viewer = viewer(request)?;
    let keys = host_keys(state);
    let (offer, now) =
        (services.fleet.agent_offer(request.caller()?, request.param(0))?, services.clock.now());
    let mut page = ConfigurationPage::new(&viewer, state, &keys, &kept, form, problems, now).offering(
        state,
        &offer,
        &super::adding::central(request),
        now,
    );
    page.chrome.notice = done(request);
    show(status, &page)
}

async fn configuration(request: Request, services: Services) -> Result<Response, Failure> {
    let state = services.fleet.get(request.caller()?, request.param(0))?;
    let form = ConfigurationForm::of(&state);
    answer(&request, &services, StatusCode::OK, &state, &form, &[]).await
}

/// `key=value` lines.
fn metadata(text: &str) -> Result<Metadata, FleetError> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (key, value) = line.split_once('=').ok_or_else(|| FleetError::Invalid {
                field: "metadata",
                message: format!("'{line}' is not key=value"),
            })?;
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        })
        .collect()
}

/// Seconds, with decimals, as milliseconds.
pub(super) fn interval_ms(field: &'static str, text: &str) -> Result<u64, FleetError> {
    crate::config::parse_interval(text)
        .or_else(|message| match text.trim().parse::<f64>() {
            Ok(seconds) if (1.0..=3600.0).contains(&seconds) => {
                Ok(std::time::Duration::from_secs_f64(seconds))
            }
            _ => Err(message),
        })
        .map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
        .map_err(|message| FleetError::Invalid { field, message })
}

fn edit(form: &Form, state: &ServerState) -> Result<ServerEdit, FleetError> {
    let reports = matches!(state.server.transport, Transport::Push | Transport::Http);
    // Without a user, a server that reports by itself has no SSH address.
    let ssh = state.server.transport == Transport::Ssh || (reports && form.optional("username").is_some());
    let reach = |name: &str| Some(form.text(name).to_owned()).filter(|_| ssh);
    let port = reach("port").map(|text| crate::model::Port::parse(&text)).transpose()?;
    Ok(ServerEdit {
        name: Some(form.text("name").to_owned()),
        description: Some(form.text("description").to_owned()),
        hostname: reach("hostname"),
        port: port.map(|port| i64::from(port.get())),
        username: Some(form.text("username").to_owned()).filter(|_| ssh || reports),
        region: Some(form.optional("region")),
        environment: Some(form.optional("environment")),
        tags: Some(tags(form.text("tags"))),
        metadata: Some(metadata(form.text("metadata"))?),
        status: Some(form.text("status").parse()?),
        interval_ms: Some(interval_ms("interval_seconds", form.text("interval_seconds"))?),
        heavy_interval_ms: Some(
            form.optional("heavy_seconds").map(|text| interval_ms("heavy_seconds", &text)).transpose()?,
        ),
        login: if ssh {
            ways::login(form, "", "kept_key", state.way.login.agent_key.as_deref())?
        } else {
            LoginEdit::default()
        },
        way: if ssh { way(form, state)? } else { WayEdit::default() },
        http: http(form, state),
    })
}

/// Where the API is. An empty token stays the one that is kept.
fn http(form: &Form, state: &ServerState) -> HttpEdit {
    if state.server.transport != Transport::Http {
        return HttpEdit::default();
    }
    HttpEdit {
        url: Some(form.text("api_url").to_owned()),
        token: form.optional("api_token").map(|token| Some(Secret::new(token))),
        ca: Some(form.optional("api_ca")),
        pin: Some(form.optional("api_pin")),
    }
}

/// Every field is on the page, so an empty one means that there is to be none; only passwords that are not typed stay.
fn way(form: &Form, state: &ServerState) -> Result<WayEdit, FleetError> {
    let forget_sudo = form.text("forget_sudo_password") == "true";
    Ok(WayEdit {
        jump: Some(form.optional("jump_host")),
        proxy: Some(ways::proxy(form)?),
        connect_timeout_ms: Some(ways::connect_timeout_ms(form)?),
        action: Some(ways::action_login(form, state.way.action.as_ref())?),
        sudo_password: if forget_sudo { Some(None) } else { ways::secret(form, "sudo_password").map(Some) },
    })
}

const FIELDS: [&str; 17] = [
    "name",
    "description",
    "hostname",
    "port",
    "username",
    "region",
    "environment",
    "tags",
    "metadata",
    "status",
    "interval_seconds",
    "heavy_seconds",
    "identity",
    "kept_key",
    "api_url",
    "api_ca",
    "api_pin",
];

async fn save(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let caller = request.caller()?;
    let state = services.fleet.get(caller, request.param(0))?;
    let outcome = match edit(&form, &state) {
        Ok(edit) => services.fleet.edit(caller, request.param(0), edit).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(state) => Ok(see_other(&format!("/servers/{}/configuration?done=saved", state.server.name))),
        Err(error) => {
            let Some(problems) = field_problems(&error) else { return Err(error.into()) };
            let names = FIELDS.into_iter().chain(WaysForm::FIELDS);
            let typed = ConfigurationForm::from_pairs(names.map(|name| (name, form.text(name).to_owned())));
            let status = problem(&error.into()).status;
            answer(&request, &services, status, &state, &typed, &problems).await
        }
    }
}

async fn approve_host_key(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let line = form.text("host_key");
    let state = services.fleet.approve_host_key(request.caller()?, request.param(0), line).await?;
    Ok(see_other(&format!("/servers/{}?done=host-key", state.server.name)))
}

/// Tries the way there step by step and keeps what it finds.
async fn test(request: Request, services: Services) -> Result<Response, Failure> {
    request.form()?;
    let state = services.fleet.get(request.caller()?, request.param(0))?;
    let done = services.fleet.test(request.caller()?, request.param(0)).await?;
    let steps = done.steps.iter().chain(done.action_steps.iter().flatten());
    let failed = steps.into_iter().find(|step| step.outcome == Outcome::Failed);
    match failed {
        Some(step) => {
            let fix = step.fix.as_deref().unwrap_or_default();
            let said = format!("{}: {} {fix}", step.stage.title(), step.detail);
            let notice = Notice::problem(said.trim().to_owned());
            overview_page(&request, &services, &state, StatusCode::CONFLICT, Some(notice))
        }
        None => Ok(see_other(&format!("/servers/{}?done=tested#cannot-see", state.server.name))),
    }
}

async fn remove(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let state = services.fleet.get(request.caller()?, request.param(0))?;
    if form.text("confirm").trim() != state.server.name.as_str() {
        return Err(Failure::invalid(format!(
            "type the name '{}' to confirm; nothing was removed",
            state.server.name
        )));
    }
    services.fleet.remove(request.caller()?, request.param(0)).await?;
    Ok(see_other("/?done=removed"))
}
