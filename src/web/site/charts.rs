//! Pages with charts: one server's, and those over the fleet. Values are fetched here only for the view as tables.

use std::collections::BTreeSet;

use http::StatusCode;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::pages::charts::{ChartQuery, ChartTable, ChartsPage, Choosable, TABLE_POINTS};
use super::super::pages::server::{MetricsPage, figures};
use super::super::request::{Access, Request};
use super::super::routes::Route;
use super::{show, viewer};
use crate::fleet::{Aggregate, AggregateQuery, ServerFilter, ServerState, Span};
use crate::model::Timestamp;
use crate::services::Services;

/// Servers that are offered to compare with; more are typed.
const OFFERED: usize = 200;

/// The highest of the fleet in the view as tables.
const TOP_IN_TABLE: usize = 5;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/servers/{id}/metrics", Access::VIEWER, of_server),
        Route::get("/charts", Access::VIEWER, of_fleet),
    ]
}

fn table_span(query: &ChartQuery, now: Timestamp) -> Span {
    let (from, to) = query.span(now);
    Span { from, to, points: TABLE_POINTS }
}

fn names_of(states: &[ServerState]) -> Vec<String> {
    states.iter().take(OFFERED).map(|state| state.server.name.to_string()).collect()
}

/// The names of these servers; those that do not exist (any more) are left out.
fn existing(services: &Services, request: &Request, references: &[String]) -> Result<Vec<String>, Failure> {
    let caller = request.caller()?;
    let found = references.iter().filter_map(|reference| services.fleet.get(caller, reference).ok());
    let mut names: Vec<String> = Vec::new();
    for name in found.map(|state| state.server.name.to_string()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

async fn of_server(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let now = services.clock.now();
    let state = services.fleet.get(caller, request.param(0))?;
    let mut query = ChartQuery::from_pairs(request.query.clone());
    query.servers = existing(&services, &request, &query.servers)?;
    let names = services.fleet.metric_names(caller, request.param(0))?;
    let known = names_of(&services.fleet.list(caller, &ServerFilter::default())?);
    let mut found = Vec::new();
    if query.as_table {
        let mut servers = vec![state.server.name.to_string()];
        let own = servers.clone();
        servers.extend(query.servers.iter().filter(|name| !own.contains(name)).cloned());
        let metrics: Vec<String> =
            figures(&names).iter().flat_map(|figure| figure.metric_names().map(ToOwned::to_owned)).collect();
        (_, found) =
            services.fleet.metric_ranges(caller, &servers, &metrics, table_span(&query, now)).await?;
    }
    let page = MetricsPage::new(&viewer(&request)?, &state, &query, &names, known, &found, now);
    show(StatusCode::OK, &page)
}

/// Every word that a filter may be set to.
fn choosable(states: &[ServerState]) -> Choosable {
    let mut regions = BTreeSet::new();
    let mut environments = BTreeSet::new();
    let mut tags = BTreeSet::new();
    for state in states {
        regions.extend(state.server.region.clone());
        environments.extend(state.server.environment.clone());
        tags.extend(state.server.tags.iter().map(ToString::to_string));
    }
    Choosable {
        regions: regions.into_iter().collect(),
        environments: environments.into_iter().collect(),
        tags: tags.into_iter().collect(),
        servers: names_of(states),
    }
}

/// The values of the view as tables.
async fn fill(
    request: &Request,
    services: &Services,
    query: &ChartQuery,
    page: &mut ChartsPage,
) -> Result<(), Failure> {
    let caller = request.caller()?;
    let span = table_span(query, services.clock.now());
    let within = (span.from, span.to);
    let metrics = query.metric_names();
    if !query.servers.is_empty() {
        let (_, found) = services.fleet.metric_ranges(caller, &query.servers, &metrics, span).await?;
        page.set.set_tables(|figure| ChartTable::new(figure, &found, within));
        return Ok(());
    }
    let asked = AggregateQuery {
        filter: query.filter.clone(),
        servers: Vec::new(),
        metrics,
        aggregates: vec![Aggregate::Avg, Aggregate::Percentile(95), Aggregate::Max],
        span,
        top: TOP_IN_TABLE,
    };
    let found = services.fleet.aggregated(caller, &asked).await?;
    page.set.set_tables(|figure| ChartTable::of_aggregates(figure, &found.metrics, within));
    Ok(())
}

async fn of_fleet(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let now = services.clock.now();
    let states = services.fleet.list(caller, &ServerFilter::default())?;
    let mut query = ChartQuery::from_pairs(request.query.clone());
    let asked = query.servers.len();
    query.servers = existing(&services, &request, &query.servers)?;
    let count = states.iter().filter(|state| query.filter.accepts(state)).count();
    let mut page = ChartsPage::new(&viewer(&request)?, &query, &choosable(&states), count, now);
    if query.as_table {
        fill(&request, &services, &query, &mut page).await?;
    }
    if query.servers.len() < asked {
        page.problem = Some("Not all of these servers exist; those that do are shown.".to_owned());
    }
    show(StatusCode::OK, &page)
}
