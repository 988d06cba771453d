//! The pages of custom metrics.

use std::sync::Arc;

use http::StatusCode;
use warp::reply::Response;

use super::super::error::{Failure, problem};
use super::super::pages::custom_metrics::{CustomMetricForm, CustomMetricPage, CustomMetricsPage};
use super::super::pages::form::FieldProblem;
use super::super::request::{Access, Form, Request};
use super::super::routes::{Route, see_other};
use super::{done, field_problems, show, tags, viewer};
use crate::fleet::{CustomMetricEdit, FleetError};
use crate::model::{CustomMetric, Selector};
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/custom-metrics", Access::ADMIN, list),
        Route::post("/custom-metrics", Access::ADMIN, add),
        Route::get("/custom-metrics/{id}", Access::ADMIN, metric),
        Route::post("/custom-metrics/{id}", Access::ADMIN, change),
        Route::post("/custom-metrics/{id}/remove", Access::ADMIN, remove),
    ]
}

async fn list(request: Request, services: Services) -> Result<Response, Failure> {
    list_page(&request, &services, StatusCode::OK, &CustomMetricForm::empty())
}

async fn metric(request: Request, services: Services) -> Result<Response, Failure> {
    let metric = services.fleet.custom_metric(request.caller()?, request.param(0))?;
    page(&request, &services, StatusCode::OK, &metric, &CustomMetricForm::of(&metric))
}

async fn add(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let mut shown = typed(&form);
    let status = if form.optional("try").is_some() {
        attempt(&request, &services, &form, &mut shown).await?
    } else {
        match services.fleet.add_custom_metric(request.caller()?, edit(&form, &Selector::default())).await {
            Ok(metric) => return Ok(saved(&metric)),
            Err(error) => refused(error, &mut shown)?,
        }
    };
    list_page(&request, &services, status, &shown)
}

async fn change(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let metric = services.fleet.custom_metric(caller, request.param(0))?;
    let form = request.form()?;
    let mut shown = typed(&form);
    let status = if form.optional("try").is_some() {
        attempt(&request, &services, &form, &mut shown).await?
    } else {
        let edit = edit(&form, &metric.selector);
        match services.fleet.edit_custom_metric(caller, request.param(0), edit).await {
            Ok(metric) => return Ok(saved(&metric)),
            Err(error) => refused(error, &mut shown)?,
        }
    };
    page(&request, &services, status, &metric, &shown)
}

async fn remove(request: Request, services: Services) -> Result<Response, Failure> {
    services.fleet.remove_custom_metric(request.caller()?, request.param(0)).await?;
    Ok(see_other("/custom-metrics?done=metric-removed"))
}

fn saved(metric: &CustomMetric) -> Response {
    see_other(&format!("/custom-metrics/{}?done=saved", metric.name))
}

/// Runs the command once; what it came to, or what is wrong with it, goes to the form.
async fn attempt(
    request: &Request,
    services: &Services,
    form: &Form,
    shown: &mut CustomMetricForm,
) -> Result<StatusCode, Failure> {
    let edit = edit(form, &Selector::default());
    match services.fleet.try_custom_metric(request.caller()?, &edit, form.text("try_server").trim()).await {
        Ok(trial) => {
            shown.trial = Some(trial);
            Ok(StatusCode::OK)
        }
        Err(error @ FleetError::NoSuchServer(_)) => {
            let sentence = super::doors::sentence(&error.to_string());
            shown.problems = vec![FieldProblem { field: "try_server".to_owned(), sentence }];
            Ok(StatusCode::UNPROCESSABLE_ENTITY)
        }
        Err(error) => refused(error, shown),
    }
}

/// The status of the refusal; what is wrong goes to the fields.
fn refused(error: FleetError, shown: &mut CustomMetricForm) -> Result<StatusCode, Failure> {
    let about = |field: &str| {
        let sentence = super::doors::sentence(&error.to_string());
        Some(vec![FieldProblem { field: field.to_owned(), sentence }])
    };
    let problems = match &error {
        FleetError::CustomMetricNameTaken(_) => about("name"),
        FleetError::NoSuchServer(_) => about("servers"),
        FleetError::NoSuchGroup(_) => about("groups"),
        FleetError::Invalid { field: "interval_ms", .. } => about("interval_s"),
        FleetError::Invalid { field: "timeout_ms", .. } => about("timeout_s"),
        other => field_problems(other),
    };
    let Some(problems) = problems else { return Err(error.into()) };
    shown.problems = problems;
    Ok(problem(&error.into()).status)
}

fn typed(form: &Form) -> CustomMetricForm {
    let text = |name: &str| form.text(name).to_owned();
    let is_set = |name: &str| form.optional(name).is_some();
    CustomMetricForm {
        name: text("name"),
        description: text("description"),
        command: text("command"),
        interval_s: text("interval_s"),
        timeout_s: text("timeout_s"),
        all: is_set("all"),
        servers: text("servers"),
        groups: text("groups"),
        tags: text("tags"),
        regions: text("regions"),
        environments: text("environments"),
        sudo: is_set("sudo"),
        enabled: is_set("enabled"),
        try_server: text("try_server"),
        ..CustomMetricForm::default()
    }
}

/// What the form says. Conditions that it has no field for stay as they are.
fn edit(form: &Form, before: &Selector) -> CustomMetricEdit {
    let names = |name: &str| -> Vec<String> {
        let words = form.text(name).split(',').map(str::trim).filter(|word| !word.is_empty());
        words.map(str::to_owned).collect()
    };
    // A number that is none is out of range, which is then said.
    let ms = |name: &str| {
        form.optional(name)
            .map(|text| text.parse::<u64>().ok().and_then(|s| s.checked_mul(1000)).unwrap_or(0))
    };
    CustomMetricEdit {
        name: Some(form.text("name").to_owned()),
        description: Some(form.text("description").to_owned()),
        command: Some(form.text("command").to_owned()),
        sudo: Some(form.optional("sudo").is_some()),
        interval_ms: ms("interval_s"),
        timeout_ms: ms("timeout_s"),
        selector: Some(Selector {
            all: form.optional("all").is_some(),
            servers: tags(form.text("servers")),
            groups: names("groups"),
            tags: tags(form.text("tags")),
            regions: names("regions"),
            environments: names("environments"),
            health: before.health.clone(),
            status: before.status,
        }),
        enabled: Some(form.optional("enabled").is_some()),
    }
}

fn list_page(
    request: &Request,
    services: &Services,
    status: StatusCode,
    form: &CustomMetricForm,
) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let mut rows: Vec<(Arc<CustomMetric>, usize, usize)> = Vec::new();
    for metric in services.fleet.custom_metrics(caller)? {
        let states = services.fleet.custom_metric_states(caller, &metric.id.to_string())?;
        let failing = states.iter().filter(|one| one.state.error.is_some()).count();
        rows.push((metric, states.len(), failing));
    }
    let mut page = CustomMetricsPage::new(&viewer(request)?, &rows, form, services.clock.now());
    page.chrome.notice = done(request);
    show(status, &page)
}

fn page(
    request: &Request,
    services: &Services,
    status: StatusCode,
    metric: &CustomMetric,
    form: &CustomMetricForm,
) -> Result<Response, Failure> {
    let states = services.fleet.custom_metric_states(request.caller()?, &metric.id.to_string())?;
    let mut page = CustomMetricPage::new(&viewer(request)?, metric, &states, form, services.clock.now());
    page.chrome.notice = done(request);
    show(status, &page)
}
