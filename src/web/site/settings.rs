//! Settings: the public key, tokens, one's own sessions and password.

use std::time::Duration;

use http::StatusCode;
use warp::reply::Response;

use super::super::error::{Failure, problem};
use super::super::pages::form::FieldProblem;
use super::super::pages::settings::{SessionInfo, SettingsData, SettingsPage, TokenInfo};
use super::super::request::{Access, Request};
use super::super::routes::{Route, see_other};
use super::{done, doors, show, viewer};
use crate::auth::{AuthError, PASSWORD_MIN_CHARS};
use crate::model::{Actor, Role, Secret};
use crate::services::Services;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/settings", Access::VIEWER, settings),
        Route::post("/settings/tokens", Access::ADMIN, create_token),
        Route::post("/settings/tokens/{id}/revoke", Access::ADMIN, revoke_token),
        Route::post("/settings/password", Access::VIEWER, change_password),
        Route::post("/settings/sessions/{id}/revoke", Access::VIEWER, revoke_session),
    ]
}

async fn answer(
    request: &Request,
    services: &Services,
    status: StatusCode,
    problems: Vec<FieldProblem>,
    new_token: Option<String>,
) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let this_session = match caller.actor {
        Actor::User { session, .. } => Some(session),
        _ => None,
    };
    let tokens = if caller.may(Role::Admin) { services.auth.tokens(caller).await? } else { Vec::new() };
    let sessions = services.auth.sessions(caller).await?;
    let data = SettingsData {
        public_key: Some(services.fleet.default_public_key(caller.organization).await?),
        tokens: tokens
            .into_iter()
            .filter(|token| token.revoked_at.is_none())
            .map(|token| TokenInfo {
                id: token.id,
                name: token.name,
                role: token.role,
                created_at: token.created_at,
                expires_at: token.expires_at,
                last_used_at: token.last_used_at,
            })
            .collect(),
        new_token,
        sessions: sessions
            .into_iter()
            .map(|session| SessionInfo {
                id: session.id,
                address: session.address.unwrap_or_default(),
                user_agent: session.user_agent,
                created_at: session.created_at,
                last_seen_at: session.last_used_at,
                is_this_one: this_session == Some(session.id),
            })
            .collect(),
        problems,
        password_min_chars: PASSWORD_MIN_CHARS,
    };
    let mut page = SettingsPage::new(&viewer(request)?, &data, services.clock.now());
    page.chrome.notice = done(request);
    show(status, &page)
}

async fn settings(request: Request, services: Services) -> Result<Response, Failure> {
    answer(&request, &services, StatusCode::OK, Vec::new(), None).await
}

async fn create_token(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let role: Role = form.text("role").parse().map_err(|error| Failure::invalid(format!("{error}")))?;
    let days: u32 = form
        .text("expires_days")
        .parse()
        .map_err(|_| Failure::invalid("choose after how many days the token ends"))?;
    let expires_at = (days > 0).then(|| services.clock.now() + DAY.saturating_mul(days));
    match services.auth.create_token(request.caller()?, form.text("name"), role, expires_at).await {
        Ok((_, text)) => {
            answer(&request, &services, StatusCode::OK, Vec::new(), Some(text.expose().clone())).await
        }
        Err(error @ AuthError::Invalid(_)) => refused(&request, &services, "name", error).await,
        Err(error) => Err(error.into()),
    }
}

async fn refused(
    request: &Request,
    services: &Services,
    field: &str,
    error: AuthError,
) -> Result<Response, Failure> {
    let sentence = doors::sentence(&error.to_string());
    // A wrong old password is no missing login.
    let status = match error {
        AuthError::WrongPassword => StatusCode::UNPROCESSABLE_ENTITY,
        other => problem(&other.into()).status,
    };
    let problems = vec![FieldProblem { field: field.to_owned(), sentence }];
    answer(request, services, status, problems, None).await
}

async fn revoke_token(request: Request, services: Services) -> Result<Response, Failure> {
    let id = request.param(0).parse().map_err(|error| Failure::NotFound(format!("{error}")))?;
    services.auth.revoke_token(request.caller()?, id).await?;
    Ok(see_other("/settings?done=token-revoked"))
}

async fn change_password(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    if form.text("password") != form.text("password_again") {
        let error = AuthError::Invalid("the two new passwords are not the same".to_owned());
        return refused(&request, &services, "password_again", error).await;
    }
    let old = Secret::new(form.text("current_password").to_owned());
    let new = Secret::new(form.text("password").to_owned());
    match services.auth.change_password(request.caller()?, old, new).await {
        Ok(()) => Ok(see_other("/settings?done=password")),
        Err(error @ (AuthError::WrongPassword | AuthError::Throttled { .. })) => {
            refused(&request, &services, "current_password", error).await
        }
        Err(error @ AuthError::Invalid(_)) => refused(&request, &services, "password", error).await,
        Err(error) => Err(error.into()),
    }
}

async fn revoke_session(request: Request, services: Services) -> Result<Response, Failure> {
    let id = request.param(0).parse().map_err(|error| Failure::NotFound(format!("{error}")))?;
    services.auth.revoke_session(request.caller()?, id).await?;
    Ok(see_other("/settings?done=session-revoked"))
}
