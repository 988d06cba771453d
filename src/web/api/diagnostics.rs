//! Diagnostics that operations collected: which there are, one to download, one to remove.

use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, download_whole, no_content};
use crate::model::Timestamp;
use crate::operations::ArchiveView;
use crate::services::Services;

const ARCHIVE: &str = "/api/v1/fleet/operations/{id}/diagnostics/{sid}";

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/api/v1/fleet/diagnostics", Access::OPERATOR, list)
            .summary("Archives of diagnostics that are kept, newest first")
            .query("limit", "entries on the page, 1 to 1000, 100 by default")
            .query("cursor", "next_cursor of the page before")
            .gives("DiagnosticsList"),
        Route::get(ARCHIVE, Access::OPERATOR, get)
            .summary("The archive (tar, gzip) that the operation brought from this server"),
        Route::new(http::Method::DELETE, ARCHIVE, Access::OPERATOR, remove)
            .summary("Removes an archive before its days are over")
            .status(204),
    ]
}

/// One archive.
#[derive(Debug, Serialize, ToSchema)]
pub struct DiagnosticsJson {
    operation_id: String,
    server_id: String,
    server_name: String,
    size_bytes: u64,
    #[schema(value_type = String)]
    collected_at: Timestamp,
    /// Where it is downloaded from.
    url: String,
}

impl From<ArchiveView> for DiagnosticsJson {
    fn from(view: ArchiveView) -> Self {
        let ArchiveView { operation, server, server_name, size_bytes, collected_at } = view;
        let url = format!("/api/v1/fleet/operations/{operation}/diagnostics/{server}");
        let (operation_id, server_id) = (operation.to_string(), server.to_string());
        Self { operation_id, server_id, server_name, size_bytes, collected_at, url }
    }
}

async fn list(request: Request, services: Services) -> Result<Response, Failure> {
    let archives = services.operations.archives(request.caller()?).await?;
    super::page(&request, archives.into_iter().map(DiagnosticsJson::from).collect())
}

async fn get(request: Request, services: Services) -> Result<Response, Failure> {
    let (id, server) = (request.param(0), request.param(1));
    let (name, content) = services.operations.archive(request.caller()?, id, server).await?;
    Ok(download_whole("application/gzip", &name, content))
}

async fn remove(request: Request, services: Services) -> Result<Response, Failure> {
    let (id, server) = (request.param(0), request.param(1));
    services.operations.remove_archive(request.caller()?, id, server).await?;
    Ok(no_content())
}
