//! The page of the servers' host keys and of imported known_hosts lines.

use http::StatusCode;
use warp::reply::Response;

use super::super::api::host_keys::csv;
use super::super::error::{Failure, problem};
use super::super::pages::host_keys::{HostKeyQuery, HostKeysPage, KnownHostsForm, LINES_SHOWN};
use super::super::request::{Access, Request};
use super::super::routes::{Route, see_other};
use super::{done, field_problems, show, viewer};
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/host-keys", Access::VIEWER, host_keys),
        Route::get("/host-keys.csv", Access::VIEWER, table),
        Route::post("/host-keys/import", Access::ADMIN, import),
        Route::post("/host-keys/{id}/remove", Access::ADMIN, remove),
    ]
}

async fn answer(
    request: &Request,
    services: &Services,
    status: StatusCode,
    form: &KnownHostsForm,
) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let report = services.fleet.host_keys(caller).await?;
    let lines = services.fleet.known_hosts(caller, 0, LINES_SHOWN).await?;
    let pairs = request.query.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let query = HostKeyQuery::from_pairs(pairs);
    let mut page = HostKeysPage::new(
        &viewer(request)?,
        &report,
        (&lines.0, lines.1),
        &query,
        form,
        services.clock.now(),
    );
    page.chrome.notice = done(request);
    show(status, &page)
}

async fn host_keys(request: Request, services: Services) -> Result<Response, Failure> {
    answer(&request, &services, StatusCode::OK, &KnownHostsForm::default()).await
}

async fn table(request: Request, services: Services) -> Result<Response, Failure> {
    Ok(csv(&services.fleet.host_keys(request.caller()?).await?))
}

async fn import(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let (text, dry_run) = (form.text("text"), form.optional("dry_run").is_some());
    match services.fleet.import_known_hosts(request.caller()?, text, dry_run).await {
        Ok(report) => {
            // What was only looked at is imported by the next press of a button.
            let text = if dry_run { text.to_owned() } else { String::new() };
            let form = KnownHostsForm { text, report: Some(report), ..KnownHostsForm::default() };
            answer(&request, &services, StatusCode::OK, &form).await
        }
        Err(error) => {
            let Some(problems) = field_problems(&error) else { return Err(error.into()) };
            let status = problem(&error.into()).status;
            let form = KnownHostsForm { text: text.to_owned(), report: None, problems };
            answer(&request, &services, status, &form).await
        }
    }
}

async fn remove(request: Request, services: Services) -> Result<Response, Failure> {
    services.fleet.remove_known_host(request.caller()?, request.param(0)).await?;
    Ok(see_other("/host-keys?done=known-host-removed"))
}
