//! Adding servers that are asked over HTTPS or report by themselves, by the form.

use http::{StatusCode, header};
use warp::reply::Response;

use super::super::error::{Failure, problem};
use super::super::pages::Notice;
use super::super::pages::adding::{AddForm, AddHttpPage, AddPushPage, PushTokenPage};
use super::super::pages::form::FieldProblem;
use super::super::request::{Access, Form, Request};
use super::super::routes::{Route, see_other};
use super::changing::interval_ms;
use super::{doors, field_problems, show, tags, viewer};
use crate::fleet::{FleetError, NewHttpServer, Registration, SshAddress};
use crate::model::{Port, Secret};
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/servers/new/http", Access::ADMIN, http_form),
        Route::post("/servers/new/http", Access::ADMIN, add_http),
        Route::get("/servers/new/push", Access::ADMIN, push_form),
        Route::post("/servers/new/push", Access::ADMIN, add_push),
        Route::post("/servers/{id}/push-token", Access::ADMIN, another_token),
    ]
}

/// The address under which the browser reaches Roundsman. It says so in `Origin` where it sends a form, and else only the
/// host, which is served without TLS where it is this machine itself.
pub(super) fn central(request: &Request) -> String {
    let of = |name| request.headers.get(name).and_then(|value| value.to_str().ok());
    let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-._:[]/".contains(c));
    let origin = of(header::ORIGIN)
        .filter(|origin| origin.starts_with("https://") || origin.starts_with("http://"))
        .filter(|origin| is_plain(origin));
    if let Some(origin) = origin {
        return origin.trim_end_matches('/').to_owned();
    }
    let host = of(header::HOST).filter(|host| is_plain(host)).unwrap_or("localhost:9083");
    let is_here = ["localhost", "127.0.0.1", "[::1]"].iter().any(|here| host.starts_with(here));
    format!("{}://{host}", if is_here { "http" } else { "https" })
}

fn typed(form: &Form) -> AddForm {
    AddForm::from_pairs(AddForm::FIELDS.map(|name| (name, form.text(name).to_owned())))
}

fn optional(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

fn interval(typed: &AddForm) -> Result<Option<u64>, FleetError> {
    optional(&typed.interval_seconds).map(|text| interval_ms("interval_seconds", &text)).transpose()
}

fn port(typed: &AddForm) -> Result<Option<i64>, FleetError> {
    let port = optional(&typed.port).map(|text| Port::parse(&text)).transpose()?;
    Ok(port.map(|port| i64::from(port.get())))
}

fn http_server(form: &Form, typed: &AddForm) -> Result<NewHttpServer, FleetError> {
    Ok(NewHttpServer {
        name: optional(&typed.name),
        hostname: optional(&typed.hostname),
        api_url: typed.api_url.clone(),
        api_token: form.optional("api_token").map(Secret::new),
        api_ca: optional(&typed.api_ca),
        api_pin: optional(&typed.api_pin),
        port: port(typed)?,
        username: optional(&typed.username),
        region: optional(&typed.region),
        environment: optional(&typed.environment),
        tags: tags(&typed.tags),
        interval_ms: interval(typed)?,
        ..NewHttpServer::default()
    })
}

fn registration(typed: &AddForm) -> Result<Registration, FleetError> {
    let ssh = optional(&typed.hostname).map(|host| {
        Ok::<_, FleetError>(SshAddress { host, port: port(typed)?, username: optional(&typed.username) })
    });
    Ok(Registration {
        name: optional(&typed.name),
        region: optional(&typed.region),
        environment: optional(&typed.environment),
        tags: tags(&typed.tags),
        interval_ms: interval(typed)?,
        ssh: ssh.transpose()?,
        ..Registration::default()
    })
}

async fn http_form(request: Request, services: Services) -> Result<Response, Failure> {
    let page = AddHttpPage::new(&viewer(&request)?, &AddForm::default(), &[], services.clock.now());
    show(StatusCode::OK, &page)
}

async fn add_http(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let typed = typed(&form);
    let added = match http_server(&form, &typed) {
        Ok(new) => services.fleet.add_http(request.caller()?, new).await,
        Err(error) => Err(error),
    };
    match added {
        Ok(state) => Ok(see_other(&format!("/servers/{}?done=added", state.server.name))),
        Err(error) => {
            let (problems, notice) = refusal(&error);
            if problems.is_empty() && notice.is_none() {
                return Err(error.into());
            }
            let mut page = AddHttpPage::new(&viewer(&request)?, &typed, &problems, services.clock.now());
            page.chrome.notice = notice;
            show(problem(&error.into()).status, &page)
        }
    }
}

/// What stands beside a field, or above the form.
fn refusal(error: &FleetError) -> (Vec<FieldProblem>, Option<Notice>) {
    match (field_problems(error), error) {
        (Some(problems), _) => (problems, None),
        (None, FleetError::Preflight { message, .. }) => {
            (Vec::new(), Some(Notice::problem(doors::sentence(message))))
        }
        (None, _) => (Vec::new(), None),
    }
}

async fn push_form(request: Request, services: Services) -> Result<Response, Failure> {
    let (viewer, now) = (viewer(&request)?, services.clock.now());
    show(StatusCode::OK, &AddPushPage::new(&viewer, &AddForm::default(), &[], &central(&request), now))
}

async fn add_push(request: Request, services: Services) -> Result<Response, Failure> {
    let typed = typed(&request.form()?);
    let added = match registration(&typed) {
        Ok(registration) => services.fleet.add_push(request.caller()?, registration).await,
        Err(error) => Err(error),
    };
    let (viewer, now) = (viewer(&request)?, services.clock.now());
    match added {
        Ok(registered) => {
            let token = registered.token.as_ref().map(|token| token.expose().as_str()).unwrap_or_default();
            let page = PushTokenPage::new(&viewer, &registered.state, token, true, &central(&request), now);
            show(StatusCode::CREATED, &page)
        }
        Err(error) => {
            let Some(problems) = field_problems(&error) else { return Err(error.into()) };
            let status = problem(&error.into()).status;
            show(status, &AddPushPage::new(&viewer, &typed, &problems, &central(&request), now))
        }
    }
}

async fn another_token(request: Request, services: Services) -> Result<Response, Failure> {
    request.form()?;
    let (caller, id) = (request.caller()?, request.param(0));
    let token = services.fleet.renew_push_token(caller, id).await?;
    let state = services.fleet.get(caller, id)?;
    let (viewer, now) = (viewer(&request)?, services.clock.now());
    let page = PushTokenPage::new(&viewer, &state, token.expose(), false, &central(&request), now);
    show(StatusCode::OK, &page)
}
