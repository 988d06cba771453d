//! The handlers of the pages: fetch from a service, fill the page's struct, answer.

mod acting;
mod adding;
mod bulk;
mod changing;
mod charts;
mod containers;
mod custom_metrics;
mod dependencies;
mod doors;
mod enrolling;
mod groups;
mod host_keys;
mod import;
mod keys;
mod looking;
mod operating;
mod operation_new;
mod settings;
mod tasks;
mod watched;
mod ways;

pub(super) use acting::impediment;
pub(super) use looking::server_fragments;
pub(super) use operating::{command_fragments, fragments_of_operation};

use askama::Template;
use http::StatusCode;
use warp::reply::Response;

use super::error::Failure;
use super::pages::form::FieldProblem;
use super::pages::{KeptKey, Notice, Viewer};
use super::request::Request;
use super::routes::{Route, html};
use crate::fleet::FleetError;
use crate::services::Services;

/// What a form sends for the default key.
const DEFAULT_KEY: &str = "default";

/// Every page and form of the site.
pub(super) fn routes() -> Vec<Route> {
    let mut routes = doors::routes();
    routes.extend(looking::routes());
    routes.extend(groups::routes());
    routes.extend(dependencies::routes());
    routes.extend(bulk::routes());
    routes.extend(charts::routes());
    routes.extend(containers::routes());
    routes.extend(custom_metrics::routes());
    routes.extend(enrolling::routes());
    routes.extend(adding::routes());
    routes.extend(import::routes());
    routes.extend(acting::routes());
    routes.extend(operating::routes());
    routes.extend(operation_new::routes());
    routes.extend(tasks::routes());
    routes.extend(changing::routes());
    routes.extend(keys::routes());
    routes.extend(host_keys::routes());
    routes.extend(settings::routes());
    routes.extend(watched::routes());
    routes
}

/// Renders a page.
fn show(status: StatusCode, page: &impl Template) -> Result<Response, Failure> {
    let text =
        page.render().map_err(|error| Failure::Internal(format!("a page was not rendered: {error}")))?;
    Ok(html(status, text))
}

/// Who looks at the page.
pub(super) fn viewer(request: &Request) -> Result<Viewer, Failure> {
    let caller = request.caller()?;
    Ok(Viewer {
        name: caller.actor.to_string(),
        role: caller.role,
        csrf_token: request.csrf_token.clone(),
        organization_name: "default".to_owned(),
        alarm: request.alarm.clone(),
    })
}

/// The kept keys as pages offer them, the default one first.
async fn kept_keys(request: &Request, services: &Services) -> Result<Vec<KeptKey>, Failure> {
    let keys = services.fleet.keys(request.caller()?).await?;
    Ok(keys
        .into_iter()
        .map(|key| KeptKey {
            id: if key.is_default { DEFAULT_KEY.to_owned() } else { key.id.to_string() },
            name: key.name,
            public_key: key.public_key,
        })
        .collect())
}

/// Tags as people write them: separated by blanks or commas.
fn tags(text: &str) -> Vec<String> {
    text.split([',', ' ', '\n', '\t']).filter(|tag| !tag.is_empty()).map(ToOwned::to_owned).collect()
}

/// What is wrong with which field of a form. None: it is not about a field.
fn field_problems(error: &FleetError) -> Option<Vec<FieldProblem>> {
    let (field, sentence) = match error {
        FleetError::Invalid { field, message } => (*field, message.clone()),
        FleetError::NameTaken(_) => ("name", error.to_string()),
        FleetError::NoSuchKey(_) => ("identity", error.to_string()),
        _ => return None,
    };
    let field = ways::form_field(field).to_owned();
    Some(vec![FieldProblem { field, sentence: doors::sentence(&sentence) }])
}

/// What was done before this page was asked for: `?done=WORD`, one of our own words only.
fn done(request: &Request) -> Option<Notice> {
    let text = match request.query("done")? {
        "saved" => "Saved.",
        "asked" => "The server is asked now; what it says appears here in a moment.",
        "watched" => "Watched from the next reading on.",
        "unwatched" => "No longer watched.",
        "added" => "The server is enrolled; its first readings are on the way.",
        "metric-removed" => "The metric is removed; what it has read stays in history.",
        "removed" => "The server and its history are removed. The audit log keeps what was done.",
        "cancelled" => "Cancelled: nothing more is sent, and what runs is being ended.",
        "archive-removed" => "The archive is removed. The record of the operation stays.",
        "host-key" => "The host key is approved.",
        "tested" => "The way there was tried step by step; what cannot be seen is listed below.",
        "password" => "Your password is changed; your other sessions are ended.",
        "token-revoked" => "The token is revoked.",
        "changed" => "The chosen servers are changed.",
        "grouped" => "The group is changed.",
        "group-made" => "The group is made.",
        "group-deleted" => "The group is deleted; its servers stay.",
        "key-made" => "The key is made. Put its line on the servers that it shall open.",
        "key-imported" => "The key is kept, encrypted.",
        "key-default" => "New servers use this key from now on.",
        "key-certificate" => "The certificate is attached; the next login offers it.",
        "key-certificate-removed" => "The key is offered without a certificate from now on.",
        "known-host-removed" => "The line is removed. Keys that were approved by it stay approved.",
        "key-deleted" => "The key is deleted.",
        "task-made" => "The task is made; it runs at its next time.",
        "task-on" => "The task is enabled; it runs at its next time.",
        "task-off" => "The task is disabled; what runs goes on.",
        "task-removed" => "The task is removed; operations that it began stay.",
        "session-revoked" => "The session is ended.",
        _ => return None,
    };
    Some(Notice::success(text.to_owned()))
}
