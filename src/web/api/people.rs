//! Tokens, users, audit.

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply, no_content};
use super::{fetched_page, page, rows, window};
use crate::model::{Role, Secret, Timestamp};
use crate::services::Services;
use crate::store::users::Token;

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
    #[schema(value_type = String)]
    role: Role,
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
            role: token.role,
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
    /// viewer, operator or admin.
    #[schema(value_type = String)]
    role: Role,
    #[schema(value_type = Option<String>)]
    expires_at: Option<Timestamp>,
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
    let TokenInput { name, role, expires_at } = request.json()?;
    let name = name.as_deref().unwrap_or("token");
    let (token, text) = services.auth.create_token(request.caller()?, name, role, expires_at).await?;
    let body = json!({
        "id": token.id,
        "name": token.name,
        "role": token.role,
        "expires_at": token.expires_at,
        "token": text.expose(),
    });
    json_reply(StatusCode::CREATED, &body)
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
