//! Many servers at once by a paste box: what would become of each line, then adding them while the page tells how far it is.

use http::StatusCode;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::pages::Notice;
use super::super::pages::import::{ImportForm, ImportPage, ProgressPage};
use super::super::request::{Access, Form, Request};
use super::super::routes::{Route, see_other};
use super::{doors, show, tags, viewer};
use crate::fleet::FleetError;
use crate::fleet::import::{Format, Import, Plan, Surroundings, TEXT_BYTES};
use crate::services::Services;

/// A text of 1 MiB whose every character is percent-encoded, and the other fields.
const FORM_BYTES: usize = 3 * TEXT_BYTES + 64 * 1024;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/import", Access::ADMIN, form),
        Route::post("/import", Access::ADMIN, check).body_limit(FORM_BYTES),
        Route::post("/import/start", Access::ADMIN, start).body_limit(FORM_BYTES),
        Route::get("/import/{id}", Access::ADMIN, progress),
    ]
}

fn shown(form: &Form) -> ImportForm {
    ImportForm {
        text: form.text("text").replace("\r\n", "\n"),
        format: form.text("format").to_owned(),
        tags: form.text("tags").trim().to_owned(),
        skip_invalid: !form.text("skip_invalid").is_empty(),
        accept_new: !form.text("accept_new").is_empty(),
        unchecked: !form.text("unchecked").is_empty(),
    }
}

async fn plan(request: &Request, services: &Services, shown: &ImportForm) -> Result<Plan, Failure> {
    let format = Format::parse(&shown.format).map_err(|error| Failure::invalid(error.to_string()))?;
    let wishes = Surroundings { tags: tags(&shown.tags), ..Surroundings::default() };
    Ok(services.fleet.plan_import(request.caller()?, shown.text.clone(), format, wishes).await?)
}

fn answer(
    request: &Request,
    services: &Services,
    status: StatusCode,
    shown: &ImportForm,
    plan: Option<&Plan>,
    notice: Option<Notice>,
) -> Result<Response, Failure> {
    let mut page = ImportPage::new(&viewer(request)?, shown, plan, services.clock.now());
    page.chrome.notice = notice;
    show(status, &page)
}

async fn form(request: Request, services: Services) -> Result<Response, Failure> {
    answer(&request, &services, StatusCode::OK, &ImportForm::default(), None, None)
}

async fn check(request: Request, services: Services) -> Result<Response, Failure> {
    let shown = shown(&request.form()?);
    let plan = plan(&request, &services, &shown).await?;
    answer(&request, &services, StatusCode::OK, &shown, Some(&plan), None)
}

async fn start(request: Request, services: Services) -> Result<Response, Failure> {
    let shown = shown(&request.form()?);
    let import = Import {
        plan: plan(&request, &services, &shown).await?,
        skip_invalid: shown.skip_invalid,
        accept_new: shown.accept_new,
        unchecked: shown.unchecked,
        known_hosts: None,
        keys: Vec::new(),
    };
    let plan = import.plan.clone();
    match services.fleet.start_import(request.caller()?, import).await {
        Ok(id) => Ok(see_other(&format!("/import/{id}"))),
        Err(
            error @ (FleetError::ImportRefused { .. }
            | FleetError::Invalid { .. }
            | FleetError::Unavailable(_)),
        ) => {
            let notice = Notice::problem(doors::sentence(&error.to_string()));
            answer(&request, &services, StatusCode::UNPROCESSABLE_ENTITY, &shown, Some(&plan), Some(notice))
        }
        Err(error) => Err(error.into()),
    }
}

async fn progress(request: Request, services: Services) -> Result<Response, Failure> {
    let progress = services.fleet.import_progress(request.caller()?, request.param(0))?;
    show(StatusCode::OK, &ProgressPage::new(&viewer(&request)?, &progress, services.clock.now()))
}
