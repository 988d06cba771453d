//! The web: pages, live updates, the REST API and what serves them.
//!
//! Nothing here decides about servers; handlers ask a service and show its answer.

pub mod api;
pub mod assets;
mod error;
mod live;
pub mod pages;
mod request;
mod routes;
mod sentence;
mod serve;
mod site;
mod view;

pub use request::{Access, BODY_LIMIT_BYTES, COOKIE, Peer};
pub use routes::{Doc, Route};
pub use serve::{listen_control, serve};

use warp::filters::BoxedFilter;
use warp::reply::Response;

use crate::services::Services;

/// Every route of the product: the pages, the live socket, the API.
#[must_use]
pub fn table() -> Vec<Route> {
    let mut routes = site::routes();
    routes.extend(live::routes());
    routes.extend(api::routes());
    routes
}

/// The whole site as one filter that never rejects.
#[must_use]
pub fn site(services: &Services) -> BoxedFilter<(Response,)> {
    routes::filter(services, table())
}
