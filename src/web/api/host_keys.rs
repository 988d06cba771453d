//! Host keys of the fleet, and imported known_hosts lines. Approving one is a route of its server.

use std::fmt::Write as _;

use http::{HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use utoipa::ToSchema;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply, no_content, with_type};
use super::{page, window};
use crate::fleet::HostKeyReport;
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/api/v1/host-keys", Access::VIEWER, list)
            .summary("Host key of every server: by whose word it is trusted, what was negotiated, what is weak, who shares it")
            .query("state", "only those: changed, revoked, unapproved, unknown, authority, approved")
            .query("attention", "true: only those that a person should look at")
            .query("format", "csv for a table of all")
            .query("limit", "entries on the page, 1 to 1000, 100 by default")
            .query("cursor", "next_cursor of the page before")
            .gives("HostKeyList"),
        Route::post("/api/v1/host-keys/import", Access::ADMIN, import)
            .summary("Takes in the lines of a known_hosts file and reports on each; with dry_run nothing is changed")
            .takes("KnownHostsInput")
            .gives("KnownHostsReport"),
        Route::get("/api/v1/host-keys/known", Access::VIEWER, known)
            .summary("The imported known_hosts lines, newest first")
            .query("limit", "entries on the page, 1 to 1000, 100 by default")
            .query("cursor", "next_cursor of the page before")
            .gives("KnownHostList"),
        Route::new(Method::DELETE, "/api/v1/host-keys/known/{id}", Access::ADMIN, forget)
            .summary("Forgets one imported line; keys that were approved stay approved")
            .status(204),
    ]
}

/// Lines to be taken in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KnownHostsInput {
    /// As they stand in the file.
    text: String,
    /// Only say what would become of each.
    #[serde(default)]
    dry_run: bool,
}

async fn list(request: Request, services: Services) -> Result<Response, Failure> {
    let mut rows = services.fleet.host_keys(request.caller()?).await?;
    if let Some(state) = request.query("state") {
        rows.retain(|row| row.state.name() == state);
    }
    if request.query("attention") == Some("true") {
        rows.retain(HostKeyReport::needs_attention);
    }
    match request.query("format") {
        Some("csv") => Ok(csv(&rows)),
        None | Some("json") => page(&request, rows),
        Some(_) => Err(Failure::invalid("format must be json or csv")),
    }
}

async fn import(request: Request, services: Services) -> Result<Response, Failure> {
    let KnownHostsInput { text, dry_run } = request.json()?;
    let report = services.fleet.import_known_hosts(request.caller()?, &text, dry_run).await?;
    json_reply(StatusCode::OK, &report)
}

async fn known(request: Request, services: Services) -> Result<Response, Failure> {
    let (limit, start) = window(&request)?;
    let (items, total) = services.fleet.known_hosts(request.caller()?, start, limit).await?;
    let next_cursor = (total > start.saturating_add(limit)).then(|| (start + limit).to_string());
    json_reply(StatusCode::OK, &serde_json::json!({ "items": items, "next_cursor": next_cursor }))
}

async fn forget(request: Request, services: Services) -> Result<Response, Failure> {
    services.fleet.remove_known_host(request.caller()?, request.param(0)).await?;
    Ok(no_content())
}

/// The report as RFC 4180 text.
pub(in crate::web) fn csv(rows: &[HostKeyReport]) -> Response {
    let mut text = String::from(
        "server,address,state,algorithm,bits,fingerprint,offered_fingerprint,kex,host_key_algorithm,cipher,mac,daemon,\
         shared_with,weaknesses\r\n",
    );
    for row in rows {
        let key = row.host_key.as_ref();
        let fields = [
            row.server_name.clone(),
            row.address.clone(),
            row.state.name().to_owned(),
            key.map(|key| key.algorithm.clone()).unwrap_or_default(),
            row.bits.map(|bits| bits.to_string()).unwrap_or_default(),
            key.map(|key| key.fingerprint.clone()).unwrap_or_default(),
            row.offered.as_ref().map(|key| key.fingerprint.clone()).unwrap_or_default(),
            row.kex.clone().unwrap_or_default(),
            row.host_key_algorithm.clone().unwrap_or_default(),
            row.cipher.clone().unwrap_or_default(),
            row.mac.clone().unwrap_or_default(),
            row.daemon.clone().unwrap_or_default(),
            row.shared_with.join(" "),
            row.weaknesses.join(" "),
        ];
        let line: Vec<String> = fields.iter().map(|field| csv_field(field)).collect();
        // Writing to a String cannot fail.
        let _ = write!(text, "{}\r\n", line.join(","));
    }
    let mut response = with_type(StatusCode::OK, "text/csv; charset=utf-8", text.into());
    let name = HeaderValue::from_static("attachment; filename=\"host-keys.csv\"");
    response.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    response
}

/// Quoted where it must be. A field that a spreadsheet would take for a formula begins with an apostrophe: what a daemon
/// calls itself is not ours.
fn csv_field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_a_table_is_text_for_whoever_opens_it() {
        assert_eq!(csv_field("web-1"), "web-1");
        assert_eq!(csv_field("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(csv_field("=HYPERLINK(1)"), "'=HYPERLINK(1)");
    }
}
