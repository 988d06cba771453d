//! Pages that show and change nothing: the fleet and one server, tab by tab.

use http::StatusCode;
use warp::reply::Response;

use super::super::api::chosen;
use super::super::error::Failure;
use super::super::pages::fleet::{FleetPage, FleetQuery};
use super::super::pages::report::ReportPage;
use super::super::pages::server::{
    FactsPage, HostKey, HostKeys, OverviewPage, ProcessQuery, ProcessesPage, ServiceQuery, ServicesPage, Tab,
    UsersPage, WatchForm, facts_fragments, head_fragment, overview_fragments, processes_fragments,
    services_fragments, users_fragments,
};
use super::super::pages::{Fragment, Notice};
use super::super::request::{Access, Request};
use super::super::routes::{Route, see_other};
use super::acting::acting;
use super::{done, show, viewer};
use crate::fleet::{HostKeyView, ServerFilter, ServerState, Summary};
use crate::model::Caller;
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/", Access::VIEWER, fleet),
        Route::get("/report", Access::VIEWER, report),
        Route::get("/servers/{id}", Access::VIEWER, overview),
        Route::get("/servers/{id}/processes", Access::VIEWER, processes),
        Route::get("/servers/{id}/services", Access::VIEWER, services_tab),
        Route::get("/servers/{id}/users", Access::VIEWER, users),
        Route::get("/servers/{id}/facts", Access::VIEWER, facts),
        Route::post("/servers/{id}/facts/refresh", Access::OPERATOR, refresh_facts),
    ]
}

fn pairs(request: &Request) -> impl Iterator<Item = (String, String)> {
    request.query.clone().into_iter()
}

fn host_key(view: &HostKeyView) -> HostKey {
    HostKey {
        algorithm: view.algorithm.clone(),
        fingerprint: view.fingerprint.clone(),
        line: view.line.clone(),
    }
}

pub(super) fn host_keys(state: &ServerState) -> HostKeys {
    HostKeys {
        pinned: state.host_key.as_ref().map(host_key),
        offered: state.offered_host_key.as_ref().map(host_key),
    }
}

async fn fleet(request: Request, services: Services) -> Result<Response, Failure> {
    let states = services.fleet.list(request.caller()?, &ServerFilter::default())?;
    let query = FleetQuery::from_pairs(pairs(&request));
    let summary = Summary::of(&states);
    let mut page = FleetPage::new(&viewer(&request)?, &states, &summary, &query, services.clock.now());
    page.chrome.notice = done(&request);
    show(StatusCode::OK, &page)
}

/// As on the fleet page, the query chooses the servers.
async fn report(request: Request, services: Services) -> Result<Response, Failure> {
    let states = chosen(&request, &services)?;
    show(StatusCode::OK, &ReportPage::new(&viewer(&request)?, &states, &request.query, services.clock.now()))
}

async fn overview(request: Request, services: Services) -> Result<Response, Failure> {
    let state = services.fleet.get(request.caller()?, request.param(0))?;
    overview_page(&request, &services, &state, StatusCode::OK, done(&request))
}

pub(super) fn overview_page(
    request: &Request,
    services: &Services,
    state: &ServerState,
    status: StatusCode,
    notice: Option<Notice>,
) -> Result<Response, Failure> {
    let mut page = OverviewPage::new(&viewer(request)?, state, &host_keys(state), services.clock.now());
    page.chrome.notice = notice;
    show(status, &page)
}

async fn processes(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let state = services.fleet.get(caller, request.param(0))?;
    services.fleet.look(caller, request.param(0))?;
    let table = services.fleet.processes(caller, request.param(0)).ok();
    let page = ProcessesPage::new(
        &viewer(&request)?,
        &state,
        &acting(&services, caller, &state),
        table.as_ref().map(|table| table.processes.as_slice()),
        table.as_ref().map(|table| table.taken_at),
        &ProcessQuery::from_pairs(pairs(&request)),
        services.clock.now(),
    );
    show(StatusCode::OK, &page)
}

async fn services_tab(request: Request, services: Services) -> Result<Response, Failure> {
    // Of one that is watched: its form, to be changed.
    let edited = match request.query("watch").filter(|name| !name.is_empty()) {
        Some(name) => Some(WatchForm::of(&*services.fleet.watched_service(request.caller()?, name)?)),
        None => None,
    };
    services_page(&request, &services, StatusCode::OK, edited.as_ref())
}

/// `form`: the form that watches a service, with what is wrong in it, or that of one that is edited.
pub(super) fn services_page(
    request: &Request,
    services: &Services,
    status: StatusCode,
    form: Option<&WatchForm>,
) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let state = services.fleet.get(caller, request.param(0))?;
    services.fleet.look(caller, request.param(0))?;
    let table = services.fleet.services(caller, request.param(0)).ok();
    let mut page = ServicesPage::new(
        &viewer(request)?,
        &state,
        &acting(services, caller, &state),
        table.as_ref().map(|table| table.services.as_slice()),
        table.as_ref().map(|table| table.taken_at),
        &ServiceQuery::from_pairs(pairs(request)),
        services.clock.now(),
    );
    page.chrome.notice = done(request);
    if let Some(form) = form {
        page.filled(&state, form);
    }
    show(status, &page)
}

async fn users(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let state = services.fleet.get(caller, request.param(0))?;
    services.fleet.look(caller, request.param(0))?;
    let table = services.fleet.users(caller, request.param(0)).ok();
    show(StatusCode::OK, &UsersPage::new(&viewer(&request)?, &state, table.as_deref(), services.clock.now()))
}

async fn facts(request: Request, services: Services) -> Result<Response, Failure> {
    let state = services.fleet.get(request.caller()?, request.param(0))?;
    let mut page = FactsPage::new(&viewer(&request)?, &state, services.clock.now());
    page.chrome.notice = done(&request);
    show(StatusCode::OK, &page)
}

async fn refresh_facts(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    services.fleet.refresh_facts(caller, request.param(0)).await?;
    let name = services.fleet.get(caller, request.param(0))?.server.name.clone();
    Ok(see_other(&format!("/servers/{name}/facts?done=asked")))
}

/// What changes on an open page of a server when a reading arrives.
pub(in crate::web) fn server_fragments(
    services: &Services,
    caller: &Caller,
    state: &ServerState,
    tab: Tab,
    query: &[(String, String)],
) -> Vec<Fragment> {
    let now = services.clock.now();
    let id = state.server.id.to_string();
    let pairs = query.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    match tab {
        Tab::Overview => overview_fragments(state, &host_keys(state), now),
        Tab::Metrics | Tab::Commands | Tab::Configuration => {
            head_fragment(state, tab, now).into_iter().collect()
        }
        Tab::Processes => {
            let table = services.fleet.processes(caller, &id).ok();
            let rows = table.as_ref().map(|table| table.processes.as_slice());
            let read_at = table.as_ref().map(|table| table.taken_at);
            processes_fragments(
                state,
                &acting(services, caller, state),
                rows,
                read_at,
                &ProcessQuery::from_pairs(pairs),
                now,
            )
        }
        Tab::Containers => super::containers::fragments(services, caller, state, query),
        Tab::Users => users_fragments(state, services.fleet.users(caller, &id).ok().as_deref(), now),
        Tab::Facts => facts_fragments(state, now),
        Tab::Services => {
            let table = services.fleet.services(caller, &id).ok();
            let rows = table.as_ref().map(|table| table.services.as_slice());
            let read_at = table.as_ref().map(|table| table.taken_at);
            services_fragments(
                state,
                &acting(services, caller, state),
                rows,
                read_at,
                &ServiceQuery::from_pairs(pairs),
                now,
            )
        }
    }
}
