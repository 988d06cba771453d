//! SSH keys that Roundsman keeps. No route gives the private half to anybody.

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply, no_content};
use super::operations::{OperationJson, planned};
use super::page;
use crate::actions::Action;
use crate::fleet::{ImportedKey, RotationScope};
use crate::model::Secret;
use crate::operations::NewOperation;
use crate::services::Services;
use crate::ssh::keyring::KeyKind;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/api/v1/keys", Access::VIEWER, list)
            .summary("SSH keys that Roundsman keeps, the default one first: public halves only")
            .query("limit", "entries on the page, 1 to 1000, 100 by default")
            .query("cursor", "next_cursor of the page before")
            .gives("KeyList"),
        Route::post("/api/v1/keys", Access::ADMIN, create)
            .summary("Makes a key; RSA takes seconds")
            .takes("KeyInput")
            .gives("Key")
            .status(201),
        Route::post("/api/v1/keys/import", Access::ADMIN, import)
            .summary("Keeps a private key, sealed: OpenSSH, PEM (PKCS#1, SEC1), PKCS#8 or PuTTY, with its passphrase")
            .takes("KeyImport")
            .gives("Key")
            .status(201),
        Route::get("/api/v1/keys/{id}", Access::VIEWER, get)
            .summary("One key with the servers that use it and the command that installs its public half")
            .gives("KeyDetail"),
        Route::new(Method::PATCH, "/api/v1/keys/{id}", Access::ADMIN, change)
            .summary("Renames a key, or makes it the one of new servers; who used the old default goes on with it")
            .takes("KeyPatch")
            .gives("Key"),
        Route::new(Method::DELETE, "/api/v1/keys/{id}", Access::ADMIN, delete)
            .summary("Forgets a key for good; refused while it is in use, saying where")
            .status(204),
        Route::new(Method::PUT, "/api/v1/keys/{id}/certificate", Access::ADMIN, attach)
            .summary("Gives a key the OpenSSH user certificate that is offered with it")
            .takes("CertificateInput")
            .gives("Key"),
        Route::new(Method::DELETE, "/api/v1/keys/{id}/certificate", Access::ADMIN, detach)
            .summary("Offers the key without a certificate from now on")
            .gives("Key"),
        Route::post("/api/v1/keys/{id}/rotate", Access::ADMIN, rotate)
            .summary(
                "Replaces the key by another one on its servers: installed, proven, kept, and only then the old one removed; \
                 answers the operation at once",
            )
            .takes("RotationInput")
            .gives("Operation")
            .status(202),
    ]
}

/// A key to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyInput {
    name: String,
    /// ed25519 (default), ecdsa or rsa-4096.
    kind: Option<String>,
}

/// A private key to be kept.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyImport {
    /// From the path or the comment by default.
    name: Option<String>,
    /// The text of the file.
    #[schema(value_type = String)]
    private_key: Secret<String>,
    #[schema(value_type = Option<String>)]
    passphrase: Option<Secret<String>>,
    /// Where it came from, so that an import that names this path finds the key.
    source_path: Option<String>,
}

/// Changes to a key; what is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyPatch {
    name: Option<String>,
    /// Only true means something: another key becomes the default by the same request for it.
    is_default: Option<bool>,
}

/// A user certificate.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateInput {
    /// The one line of a -cert.pub file.
    certificate: String,
}

/// The replacement of a key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotationInput {
    /// Name or id of the key that takes the place.
    to: String,
    /// Ids or names; all that use the key, and where a replacement was not finished, by default.
    #[serde(default)]
    servers: Vec<String>,
    /// Only servers with this tag.
    tag: Option<String>,
    /// Try the old key at the end, which has to be refused; such a login may count for fail2ban.
    #[serde(default)]
    verify_old: bool,
    /// Only say what would be sent where.
    #[serde(default)]
    dry_run: bool,
}

async fn rotate(request: Request, services: Services) -> Result<Response, Failure> {
    let RotationInput { to, servers, tag, verify_old, dry_run } = request.json()?;
    let (caller, scope) = (request.caller()?, RotationScope { servers, tag, verify_old });
    let (rotation, servers) = services.fleet.plan_rotation(caller, request.param(0), &to, &scope).await?;
    let new = NewOperation { action: Action::RotateKey(rotation), servers };
    if dry_run {
        let targets: Vec<Value> = services.operations.plan(caller, &new)?.iter().map(planned).collect();
        return json_reply(StatusCode::OK, &json!({ "dry_run": true, "targets": targets }));
    }
    let view = services.operations.begin(caller, new).await?;
    json_reply(StatusCode::ACCEPTED, &OperationJson::of(&view, true))
}

async fn list(request: Request, services: Services) -> Result<Response, Failure> {
    page(&request, services.fleet.keys(request.caller()?).await?)
}

async fn get(request: Request, services: Services) -> Result<Response, Failure> {
    json_reply(StatusCode::OK, &services.fleet.key(request.caller()?, request.param(0)).await?)
}

/// The kind of key that a word means.
pub(in crate::web) fn kind(word: Option<&str>) -> Result<KeyKind, Failure> {
    let Some(word) = word else { return Ok(KeyKind::default()) };
    KeyKind::parse(word).ok_or_else(|| Failure::invalid("kind must be ed25519, ecdsa or rsa-4096"))
}

async fn create(request: Request, services: Services) -> Result<Response, Failure> {
    let KeyInput { name, kind: word } = request.json()?;
    let kind = kind(word.as_deref())?;
    json_reply(StatusCode::CREATED, &services.fleet.create_key(request.caller()?, &name, kind).await?)
}

async fn import(request: Request, services: Services) -> Result<Response, Failure> {
    let KeyImport { name, private_key: text, passphrase, source_path } = request.json()?;
    let imported = ImportedKey { name, text, passphrase, source_path };
    json_reply(StatusCode::CREATED, &services.fleet.import_named_key(request.caller()?, imported).await?)
}

async fn change(request: Request, services: Services) -> Result<Response, Failure> {
    let KeyPatch { name, is_default } = request.json()?;
    let (caller, reference) = (request.caller()?, request.param(0));
    if is_default == Some(false) {
        return Err(Failure::invalid("a key stops being the default when another one becomes it"));
    }
    // By its id: the new name would not be found under the old one.
    let id = services.fleet.key(caller, reference).await?.key.id.to_string();
    if let Some(name) = name {
        services.fleet.rename_key(caller, &id, &name).await?;
    }
    if is_default == Some(true) {
        services.fleet.set_default_key(caller, &id).await?;
    }
    json_reply(StatusCode::OK, &services.fleet.key(caller, &id).await?.key)
}

async fn delete(request: Request, services: Services) -> Result<Response, Failure> {
    services.fleet.delete_key(request.caller()?, request.param(0)).await?;
    Ok(no_content())
}

async fn attach(request: Request, services: Services) -> Result<Response, Failure> {
    let CertificateInput { certificate } = request.json()?;
    let key = services.fleet.attach_certificate(request.caller()?, request.param(0), &certificate).await?;
    json_reply(StatusCode::OK, &key)
}

async fn detach(request: Request, services: Services) -> Result<Response, Failure> {
    json_reply(StatusCode::OK, &services.fleet.detach_certificate(request.caller()?, request.param(0)).await?)
}
