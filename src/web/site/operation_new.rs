//! Begins an operation from a page: the form, what would be sent, and the button.

use http::StatusCode;
use sha2::{Digest as _, Sha256};
use warp::reply::Response;

use super::super::error::{Failure, problem};
use super::super::pages::Notice;
use super::super::pages::operation_new::{NewOperationPage, OperationForm};
use super::super::request::{Access, Request};
use super::super::routes::{Route, see_other};
use super::{doors, show, tags, viewer};
use crate::actions::Action;
use crate::model::Selector;
use crate::operations::{OperationError, Order, Planned, Strategy, parse_batches};
use crate::services::Services;

/// A command, and the names of a fleet.
const FORM_BYTES: usize = 512 * 1024;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/operations/new", Access::OPERATOR, empty),
        Route::post("/operations/review", Access::OPERATOR, review).body_limit(FORM_BYTES),
        Route::post("/operations/new", Access::OPERATOR, begin).body_limit(FORM_BYTES),
    ]
}

/// What the form says: what, on which servers, how.
pub(super) fn order(form: &OperationForm) -> Result<Order, Failure> {
    let filled = |name: &str| Some(form.text(name)).filter(|text| !text.is_empty()).map(ToOwned::to_owned);
    let kind = form.text("operation_type");
    let action = Action::parse(kind, filled).map_err(OperationError::from)?;
    let invalid = |what: &str, why: String| Failure::invalid(format!("{what}: {why}"));
    let number = |name: &str| {
        let text = filled(name);
        text.map(|text| text.parse::<u32>().map_err(|_| invalid(name, format!("'{text}' is not a number"))))
            .transpose()
    };
    let strategy = Strategy {
        parallelism: number("parallelism")?,
        batches: parse_batches(form.text("batches")).map_err(|why| invalid("batches", why))?,
        pause_s: number("pause_s")?.unwrap_or(0).into(),
        max_failures: filled("max_failures")
            .map(|text| text.parse().map_err(|why| invalid("stop after failures", why)))
            .transpose()?,
        health_gate_s: number("health_gate_s")?.map(u64::from),
        when_busy: filled("when_busy")
            .map(|word| serde_json::from_value(word.into()))
            .transpose()
            .map_err(|_| invalid("when_busy", "use share, queue or refuse".to_owned()))?
            .unwrap_or_default(),
    };
    let selector = Selector {
        all: form.text("all") == "true",
        servers: tags(form.text("server")),
        groups: tags(form.text("group")),
        tags: tags(form.text("tag")),
        regions: filled("region").into_iter().collect(),
        environments: filled("environment").into_iter().collect(),
        ..Selector::default()
    };
    Ok(Order { action, selector, strategy, retry_of: None })
}

/// What was looked at: the order and the commands on their servers. Anything that changes since makes another.
fn seal(order: &Order, planned: &[Planned]) -> String {
    let mut hash = Sha256::new();
    let parts = planned.iter().map(|one| {
        let what = one.plan.as_ref().map_or_else(Clone::clone, |plan| plan.command.clone());
        format!("{}\0{what}\0", one.server)
    });
    hash.update(format!("{:?}\0{:?}\0", order.action, order.strategy));
    parts.for_each(|part| hash.update(part));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn page(request: &Request, services: &Services, form: OperationForm) -> Result<NewOperationPage, Failure> {
    Ok(NewOperationPage::new(&viewer(request)?, form, services.clock.now()))
}

async fn empty(request: Request, services: Services) -> Result<Response, Failure> {
    let form = OperationForm(request.query.clone());
    show(StatusCode::OK, &page(&request, &services, form)?)
}

/// The form again, with what is wrong with it.
fn refused(
    request: &Request,
    services: &Services,
    form: OperationForm,
    failure: &Failure,
) -> Result<Response, Failure> {
    let problem = problem(failure);
    let mut page = page(request, services, form)?;
    page.chrome.notice = Some(Notice::problem(doors::sentence(&problem.detail)));
    show(problem.status, &page)
}

fn reviewed(
    request: &Request,
    services: &Services,
    form: &OperationForm,
) -> Result<(Order, Vec<Planned>), Failure> {
    let order = order(form)?;
    let planned = services.operations.plan_order(request.caller()?, &order)?;
    Ok((order, planned))
}

async fn review(request: Request, services: Services) -> Result<Response, Failure> {
    let form = OperationForm(request.form()?.pairs());
    match reviewed(&request, &services, &form) {
        Ok((order, planned)) => shown(&request, &services, form, &order, &planned, None),
        Err(failure) => refused(&request, &services, form, &failure),
    }
}

fn shown(
    request: &Request,
    services: &Services,
    form: OperationForm,
    order: &Order,
    planned: &[Planned],
    notice: Option<Notice>,
) -> Result<Response, Failure> {
    let sizes: Vec<usize> = order.strategy.split(planned.len()).iter().map(ExactSizeIterator::len).collect();
    let status = if notice.is_some() { StatusCode::CONFLICT } else { StatusCode::OK };
    let mut page = page(request, services, form)?.reviewed(planned, &sizes, seal(order, planned));
    page.chrome.notice = notice;
    show(status, &page)
}

async fn begin(request: Request, services: Services) -> Result<Response, Failure> {
    let form = OperationForm(request.form()?.pairs());
    let (order, planned) = match reviewed(&request, &services, &form) {
        Ok(found) => found,
        Err(failure) => return refused(&request, &services, form, &failure),
    };
    if form.text("seal") != seal(&order, &planned) {
        let notice = Notice::problem(
            "This is not what was shown: the form or the servers changed. Look again; nothing was sent."
                .to_owned(),
        );
        return shown(&request, &services, form, &order, &planned, Some(notice));
    }
    match services.operations.begin(request.caller()?, order).await {
        Ok(view) => Ok(see_other(&format!("/operations/{}", view.operation.id))),
        Err(error) => refused(&request, &services, form, &error.into()),
    }
}
