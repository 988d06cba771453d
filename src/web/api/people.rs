//! Tokens, users, audit.

use std::time::Duration;

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply, no_content};
use super::{fetched_page, page, rows, window};
use crate::auth::NewToken;
use crate::model::{Rights, Role, Secret, Timestamp};
use crate::services::Services;
use crate::store::tokens::Token;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/api/v1/tokens", Access::ADMIN, tokens)
            .summary("Access tokens, newest first; never their secret")
            .query("limit", "entries on the page, 1 to 1000, 100 by default")
            .query("cursor", "next_cursor of the page before")
            .gives("TokenList"),
        Route::post("/api/v1/tokens", Access::ADMIN, create_token)
            .summary("Makes an access token; its text is in this answer only")
            .takes("TokenInput")
            .gives("NewToken")
            .status(201),
        Route::post("/api/v1/tokens/{id}/rotate", Access::ADMIN, rotate_token)
            .summary(
                "Another secret for a token, in this answer only; the present one ends after grace_seconds",
            )
            .takes("RotationOfToken")
            .gives("NewToken"),
        Route::new(Method::DELETE, "/api/v1/tokens/{id}", Access::ADMIN, revoke_token)
            .summary("Revokes a token at once")
            .status(204),
        Route::post("/api/v1/users/{name}/password", Access::ADMIN, reset_password)
            .summary("Sets a user's password; all their sessions end")
            .takes("PasswordInput")
            .status(204),
        Route::get("/api/v1/audit", Access::ADMIN, audit)
            .summary("Audit entries, newest first")
            .query("limit", "entries on the page, 1 to 1000, 100 by default")
            .query("cursor", "next_cursor of the page before")
            .gives("AuditList"),
    ]
}

/// A token without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenJson {
    id: String,
    name: String,
    /// None: it has a scope instead.
    #[schema(value_type = Option<String>)]
    role: Option<Role>,
    /// enrol or server; None: it has a role instead.
    scope: Option<String>,
    /// The server that it may report for, where the scope is server.
    server_id: Option<String>,
    /// Networks that may use it; empty: from anywhere.
    allowed_from: Vec<String>,
    requests_per_minute: Option<u32>,
    /// Until when the secret before the last rotation is accepted.
    #[schema(value_type = Option<String>)]
    previous_until: Option<Timestamp>,
    created_by: String,
    #[schema(value_type = String)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>)]
    expires_at: Option<Timestamp>,
    #[schema(value_type = Option<String>)]
    last_used_at: Option<Timestamp>,
    #[schema(value_type = Option<String>)]
    revoked_at: Option<Timestamp>,
}

impl From<Token> for TokenJson {
    fn from(token: Token) -> Self {
        Self {
            id: token.id.to_string(),
            name: token.name,
            role: token.rights.role(),
            scope: token.rights.role().is_none().then(|| token.rights.name().to_owned()),
            server_id: match token.rights {
                Rights::Server(id) => Some(id.to_string()),
                Rights::Role(_) | Rights::Enrol => None,
            },
            allowed_from: token.allowed_from.iter().map(ToString::to_string).collect(),
            requests_per_minute: token.requests_per_minute,
            previous_until: token.previous.map(|(_, until)| until),
            created_by: token.created_by,
            created_at: token.created_at,
            expires_at: token.expires_at,
            last_used_at: token.last_used_at,
            revoked_at: token.revoked_at,
        }
    }
}

/// A token to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenInput {
    /// For people; `token` by default.
    name: Option<String>,
    /// viewer, operator or admin; this or scope.
    #[schema(value_type = Option<String>)]
    role: Option<Role>,
    /// enrol: registers servers and reports for those, nothing else.
    scope: Option<String>,
    #[schema(value_type = Option<String>)]
    expires_at: Option<Timestamp>,
    /// Addresses and networks that may use it, for example 10.0.0.0/8; none: from anywhere.
    #[serde(default)]
    allowed_from: Vec<String>,
    requests_per_minute: Option<u32>,
}

impl TokenInput {
    fn new_token(self) -> Result<NewToken, Failure> {
        let rights = match (self.role, self.scope.as_deref()) {
            (Some(role), None) => Rights::Role(role),
            (None, Some("enrol")) => Rights::Enrol,
            (None, Some(_)) => return Err(Failure::invalid("scope may be enrol")),
            (Some(_), Some(_)) => return Err(Failure::invalid("a token has a role or a scope, not both")),
            (None, None) => {
                return Err(Failure::invalid("role is missing: viewer, operator or admin (or scope: enrol)"));
            }
        };
        Ok(NewToken {
            name: self.name.unwrap_or_else(|| "token".to_owned()),
            rights,
            expires_at: self.expires_at,
            allowed_from: self.allowed_from,
            requests_per_minute: self.requests_per_minute,
        })
    }
}

/// How a token is rotated.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotationOfToken {
    /// How long the present secret is still accepted; 0 by default, 2,678,400 (31 days) at most.
    #[serde(default)]
    grace_seconds: u64,
}

/// A new password.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasswordInput {
    #[schema(value_type = String)]
    password: Secret<String>,
}

async fn tokens(request: Request, services: Services) -> Result<Response, Failure> {
    let tokens = services.auth.tokens(request.caller()?).await?;
    page(&request, tokens.into_iter().map(TokenJson::from).collect())
}

async fn create_token(request: Request, services: Services) -> Result<Response, Failure> {
    let new = request.json::<TokenInput>()?.new_token()?;
    let (token, text) = services.auth.make_token(request.caller()?, new).await?;
    let body = json!({
        "id": token.id,
        "name": token.name,
        "role": token.rights.role(),
        "scope": token.rights.role().is_none().then(|| token.rights.name()),
        "expires_at": token.expires_at,
        "token": text.expose(),
    });
    json_reply(StatusCode::CREATED, &body)
}

async fn rotate_token(request: Request, services: Services) -> Result<Response, Failure> {
    let id = request.param(0).parse().map_err(|error| Failure::NotFound(format!("{error}")))?;
    let input: RotationOfToken =
        if request.body.is_empty() { RotationOfToken::default() } else { request.json()? };
    let grace = Duration::from_secs(input.grace_seconds);
    let text = services.auth.rotate_token(request.caller()?, id, grace).await?;
    json_reply(StatusCode::OK, &json!({ "id": id, "token": text.expose() }))
}

async fn revoke_token(request: Request, services: Services) -> Result<Response, Failure> {
    let id = request.param(0).parse().map_err(|error| Failure::NotFound(format!("{error}")))?;
    services.auth.revoke_token(request.caller()?, id).await?;
    Ok(no_content())
}

async fn reset_password(request: Request, services: Services) -> Result<Response, Failure> {
    let PasswordInput { password } = request.json()?;
    services.auth.reset_password(request.caller()?, request.param(0), password).await?;
    Ok(no_content())
}

async fn audit(request: Request, services: Services) -> Result<Response, Failure> {
    let window = window(&request)?;
    let (limit, offset) = rows(window);
    fetched_page(window, services.auth.audit(request.caller()?, limit, offset).await?)
}
