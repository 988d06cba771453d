//! `/api/v1/fleet/servers/{id}/file`: a file up or down. Nothing is kept here on the way.

use std::io;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::{Method, StatusCode, header};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::io::StreamReader;
use utoipa::ToSchema;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{BodyStream, Route, download as file_answer, json as json_reply};
use crate::fleet::FleetError;
use crate::services::Services;
use crate::ssh::transfer::{Transferred, Upload};

const FILE: &str = "/api/v1/fleet/servers/{id}/file";
/// Larger files are for tools that go on where they broke off.
const LIMIT_BYTES: u64 = 16 * 1024 * 1024 * 1024;
/// Bytes between the server and a slow client; the transfer waits when it is full.
const BUFFER_BYTES: usize = 256 * 1024;
/// Parts of an answer that wait for the client.
const PARTS: usize = 4;
/// Bytes of one part.
const PART_BYTES: usize = 64 * 1024;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get(FILE, Access::ADMIN, get)
            .summary("A file of the server, as it is; broken off where its SHA-256 is not the server's")
            .query("path", "where it lies; relative paths start in the login directory"),
        Route::upload(Method::PUT, FILE, Access::ADMIN, put)
            .summary("Stores the body as a file of the server: under a temporary name, checked, then renamed")
            .query("path", "where it is to lie")
            .query(
                "mode",
                "permission bits in octal, such as 644; otherwise those of the file that it replaces",
            )
            .gives("StoredFile"),
    ]
}

fn path(request: &Request) -> Result<String, Failure> {
    request.query("path").map(str::to_owned).ok_or_else(|| Failure::invalid("say ?path= of the file"))
}

async fn put(request: Request, body: BodyStream, services: Services) -> Result<Response, Failure> {
    let size_bytes = request
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok())
        .filter(|size| *size <= LIMIT_BYTES)
        .ok_or_else(|| Failure::invalid(format!("send Content-Length, at most {LIMIT_BYTES} bytes")))?;
    let mode = match request.query("mode") {
        None => None,
        Some(text) => Some(
            u32::from_str_radix(text, 8)
                .ok()
                .filter(|mode| *mode <= 0o7777)
                .ok_or_else(|| Failure::invalid("mode is octal, such as 644"))?,
        ),
    };
    let upload = Upload { path: path(&request)?, size_bytes, mode };
    let mut source = StreamReader::new(body.map_err(|_| io::Error::other("the body broke off")));
    let done = services.fleet.upload(request.caller()?, request.param(0), &mut source, &upload).await?;
    let Transferred { size_bytes, sha256, hash_checked } = done;
    json_reply(StatusCode::OK, &StoredFile { size_bytes, sha256, hash_checked })
}

/// What was stored.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoredFile {
    pub size_bytes: u64,
    /// Hexadecimal, of what went over the wire.
    pub sha256: String,
    /// False: the server has no tool for it, only the size was compared.
    pub hash_checked: bool,
}

async fn get(request: Request, services: Services) -> Result<Response, Failure> {
    let path = path(&request)?;
    let name: String = path.rsplit('/').next().unwrap_or_default().chars().filter(|c| is_plain(*c)).collect();
    let name = if name.is_empty() { "file".to_owned() } else { name };
    let caller = request.caller()?.clone();
    let reference = request.param(0).to_owned();
    let (mut far, mut near) = tokio::io::duplex(BUFFER_BYTES);
    let transfer = tokio::spawn(async move {
        services.fleet.download(&caller, &reference, &path, LIMIT_BYTES, &mut far).await
    });
    // What cannot be brought at all is an answer with a status, not a file that breaks off.
    let first = part(&mut near).await.map_err(|error| Failure::Internal(error.to_string()))?;
    let (parts, answer) = mpsc::channel(PARTS);
    if first.is_empty() {
        transfer.await.map_err(|error| Failure::Internal(error.to_string()))??;
    } else {
        tokio::spawn(hand_over(first, near, transfer, parts));
    }
    Ok(file_answer("application/octet-stream", &name, answer))
}

/// Passes the file on. A transfer that fails in the middle breaks the answer off, so that nobody takes it for whole.
async fn hand_over(
    mut next: Bytes,
    mut near: DuplexStream,
    transfer: JoinHandle<Result<Transferred, FleetError>>,
    parts: mpsc::Sender<io::Result<Bytes>>,
) {
    while !next.is_empty() {
        if parts.send(Ok(next)).await.is_err() {
            // The client is gone; so is the sink, which ends the transfer.
            return;
        }
        next = match part(&mut near).await {
            Ok(part) => part,
            Err(_) => Bytes::new(),
        };
    }
    let failure = match transfer.await {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::warn!(error = failure, "a file could not be brought whole");
    // A client that is gone needs no telling.
    drop(parts.send(Err(io::Error::other(failure))).await);
}

/// In a header of the answer, between quotes.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ' ' | '+')
}

async fn part(from: &mut DuplexStream) -> io::Result<Bytes> {
    let mut part = vec![0; PART_BYTES];
    let count = from.read(&mut part).await?;
    part.truncate(count);
    Ok(part.into())
}
