//! `/api/v1/import`: what a list of servers would come to, and adding them. Reads no file and runs nothing: what a text
//! refers to is named, a path is the name of a key.

use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply};
use crate::fleet::import::{Brought, Entry, Format, Import, Plan, Surroundings};
use crate::model::Secret;
use crate::services::Services;

/// A text of 1 MiB as JSON, or what the command line has read of 5,000 servers, with known_hosts lines and keys.
const BODY_BYTES: usize = 6 * 1024 * 1024;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::post("/api/v1/import", Access::ADMIN, import)
            .summary("What a list of servers would come to (dry_run), or adds them; 202 with the id to ask for the progress")
            .takes("ImportInput")
            .gives("ImportReport")
            .status(202)
            .body_limit(BODY_BYTES),
        Route::get("/api/v1/import/{id}", Access::ADMIN, progress)
            .summary("Where an import stands, server by server")
            .gives("ImportProgress"),
    ]
}

/// A list of servers, and what is to be done with it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportInput {
    /// ssh_config, an Ansible inventory, CSV, JSON or lines, at most 1 MiB.
    text: Option<String>,
    /// auto, ssh_config, ansible_ini, ansible_yaml, csv, json or lines.
    format: Option<String>,
    /// In place of `text`: what `roundsman import` has read on its machine.
    #[schema(value_type = Option<Vec<Object>>)]
    entries: Option<Vec<Entry>>,
    /// Only say what would become of each line.
    #[serde(default)]
    dry_run: bool,
    /// Leave out lines that cannot be imported instead of adding nothing.
    #[serde(default)]
    skip_invalid: bool,
    /// Approve whatever host keys the servers show now.
    #[serde(default)]
    accept_new: bool,
    /// Store servers that cannot be reached now, or whose host key is not approved yet.
    #[serde(default)]
    unchecked: bool,
    /// For every server.
    #[serde(default)]
    tags: Vec<String>,
    /// For servers that name no user; root by default.
    username: Option<String>,
    /// known_hosts lines; keys that they name are approved.
    known_hosts: Option<String>,
    /// Private keys that entries name by their path.
    #[serde(default)]
    keys: Vec<ImportKey>,
}

/// A private key that comes along; kept, sealed, when a server needs it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportKey {
    /// As the entries name it.
    source_path: String,
    /// Not needed for a dry run.
    #[schema(value_type = Option<String>)]
    private_key: Option<Secret<String>>,
    #[schema(value_type = Option<String>)]
    passphrase: Option<Secret<String>>,
    /// The OpenSSH user certificate that is offered with it.
    certificate: Option<String>,
}

async fn plan(request: &Request, services: &Services, input: &mut ImportInput) -> Result<Plan, Failure> {
    let format = input.format.as_deref().map_or(Ok(None), Format::parse);
    let format = format.map_err(|error| Failure::invalid(error.to_string()))?;
    let wishes = Surroundings {
        brought: input.keys.iter().map(|key| key.source_path.clone()).collect(),
        tags: std::mem::take(&mut input.tags),
        username: input.username.take(),
        ..Surroundings::default()
    };
    let caller = request.caller()?;
    Ok(match (input.text.take(), input.entries.take()) {
        (Some(text), None) => services.fleet.plan_import(caller, text, format, wishes).await?,
        (None, Some(entries)) => {
            let format = format.unwrap_or(Format::Json);
            services.fleet.plan_entries(caller, format, entries, wishes).await?
        }
        _ => return Err(Failure::invalid("give either text or entries")),
    })
}

async fn import(request: Request, services: Services) -> Result<Response, Failure> {
    let mut input: ImportInput = request.json()?;
    let plan = plan(&request, &services, &mut input).await?;
    let mut report = json!({
        "format": plan.format.name(),
        "is_clean": plan.is_clean(),
        "counts": plan.counts(),
        "lines": plan.lines,
    });
    if input.dry_run {
        return json_reply(StatusCode::OK, &report);
    }
    let keys = input.keys.into_iter().map(brought).collect::<Result<_, Failure>>()?;
    let import = Import {
        plan,
        skip_invalid: input.skip_invalid,
        accept_new: input.accept_new,
        unchecked: input.unchecked,
        known_hosts: input.known_hosts.map(Into::into),
        keys,
    };
    let id = services.fleet.start_import(request.caller()?, import).await?;
    if let Some(members) = report.as_object_mut() {
        members.insert("id".to_owned(), json!(id));
    }
    json_reply(StatusCode::ACCEPTED, &report)
}

fn brought(key: ImportKey) -> Result<Brought, Failure> {
    let private_key =
        key.private_key.ok_or_else(|| Failure::invalid("a key comes without its private_key"))?;
    Ok(Brought {
        source_path: key.source_path,
        private_key,
        passphrase: key.passphrase,
        certificate: key.certificate,
    })
}

async fn progress(request: Request, services: Services) -> Result<Response, Failure> {
    json_reply(StatusCode::OK, &services.fleet.import_progress(request.caller()?, request.param(0))?)
}
