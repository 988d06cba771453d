//! The handlers of the pages: fetch from a service, fill the page's struct, answer.

mod doors;
mod looking;

pub(super) use looking::server_fragments;

use askama::Template;
use http::StatusCode;
use warp::reply::Response;

use super::error::Failure;
use super::pages::{Notice, Viewer};
use super::request::Request;
use super::routes::{Route, html};

/// Every page and form of the site.
pub(super) fn routes() -> Vec<Route> {
    let mut routes = doors::routes();
    routes.extend(looking::routes());
    routes
}

/// Renders a page.
fn show(status: StatusCode, page: &impl Template) -> Result<Response, Failure> {
    let text = page.render().map_err(|error| Failure::Internal(format!("a page was not rendered: {error}")))?;
    Ok(html(status, text))
}

/// Who looks at the page.
fn viewer(request: &Request) -> Result<Viewer, Failure> {
    let caller = request.caller()?;
    Ok(Viewer {
        name: caller.actor.to_string(),
        role: caller.role,
        csrf_token: request.csrf_token.clone(),
        organization_name: "default".to_owned(),
    })
}

/// What was done before this page was asked for: `?done=WORD`, one of our own words only.
fn done(request: &Request) -> Option<Notice> {
    let text = match request.query("done")? {
        "saved" => "Saved.",
        "added" => "The server is enrolled; its first readings are on the way.",
        "removed" => "The server and its history are removed. The audit log keeps what was done.",
        "host-key" => "The host key is approved.",
        "password" => "Your password is changed; your other sessions are ended.",
        "token-revoked" => "The token is revoked.",
        "session-revoked" => "The session is ended.",
        _ => return None,
    };
    Some(Notice::success(text.to_owned()))
}
