//! Backup of the running instance, and the check of the audit log.

use http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, download, json as json_reply};
use crate::model::Secret;
use crate::services::{Services, VERSION};

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::post("/api/v1/backup", Access::ADMIN, backup)
            .summary("A backup of everything as a tar file (docs/backup.md); without the master key unless asked for")
            .takes("BackupInput"),
        Route::get("/api/v1/audit/verify", Access::ADMIN, verify)
            .summary("Checks the hash chain of the audit log: entries, first, last, broken_at")
            .gives("AuditChain"),
    ]
}

/// What the backup is to hold.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupInput {
    /// Bring the master key, sealed under the passphrase.
    #[serde(default)]
    include_master_key: bool,
    /// At least 12 characters.
    #[schema(value_type = Option<String>)]
    passphrase: Option<Secret<String>>,
}

async fn backup(request: Request, services: Services) -> Result<Response, Failure> {
    let input: BackupInput = request.json()?;
    let passphrase = match (input.include_master_key, input.passphrase) {
        (false, None) => None,
        (true, Some(passphrase)) => Some(passphrase),
        _ => return Err(Failure::invalid("include_master_key and passphrase belong together")),
    };
    let backup = services.export.backup(request.caller()?, passphrase, VERSION).await?;
    Ok(download("application/x-tar", "roundsman-backup.tar", backup.send()))
}

async fn verify(request: Request, services: Services) -> Result<Response, Failure> {
    json_reply(StatusCode::OK, &services.export.verify_audit(request.caller()?).await?)
}
