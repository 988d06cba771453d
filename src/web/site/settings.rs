//! Settings: the public key, tokens, one's own sessions and password, and what is kept for how long.

use std::time::Duration;

use http::StatusCode;
use warp::reply::Response;

use super::super::error::{Failure, problem};
use super::super::pages::form::FieldProblem;
use super::super::pages::keeping::{KeepingData, RetentionForm, TableRows};
use super::super::pages::settings::{SessionInfo, SettingsData, SettingsPage, TokenInfo};
use super::super::request::{Access, Request};
use super::super::routes::{Route, see_other};
use super::{done, doors, show, viewer};
use crate::auth::{AuthError, NewToken, PASSWORD_MIN_CHARS};
use crate::export::ExportError;
use crate::fleet::{FleetError, ServerFilter};
use crate::history::HistoryHealth;
use crate::model::{Actor, OrganizationId, Rights, Role, Secret, ServerNumber, WhenBusy};
use crate::services::Services;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/settings", Access::VIEWER, settings),
        Route::post("/settings/tokens", Access::ADMIN, create_token),
        Route::post("/settings/tokens/{id}/revoke", Access::ADMIN, revoke_token),
        Route::post("/settings/retention", Access::ADMIN, set_retention),
        Route::post("/settings/cadence", Access::ADMIN, set_cadence),
        Route::post("/settings/operations", Access::ADMIN, set_when_busy),
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
    retention: Option<RetentionForm>,
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
            // Those of single servers are on the pages of the servers.
            .filter(|token| token.revoked_at.is_none() && !matches!(token.rights, Rights::Server(_)))
            .map(|token| TokenInfo {
                id: token.id,
                name: token.name,
                rights: token.rights,
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
        heavy_seconds: match request.form() {
            Ok(form) if form.optional("heavy_seconds").is_some() => form.text("heavy_seconds").to_owned(),
            _ => (f64::from(services.fleet.default_heavy_interval_ms(caller)?) / 1000.0).to_string(),
        },
        when_busy: services.operations.when_busy(caller)?,
        keeping: keeping(request, services, retention).await?,
    };
    let mut page = SettingsPage::new(&viewer(request)?, &data, services.clock.now());
    page.chrome.notice = done(request);
    show(status, &page)
}

async fn settings(request: Request, services: Services) -> Result<Response, Failure> {
    answer(&request, &services, StatusCode::OK, Vec::new(), None, None).await
}

/// What is kept, as far as the caller may know: sizes and the form are for the administrators of the first
/// organization, who answer for the disk.
async fn keeping(
    request: &Request,
    services: &Services,
    form: Option<RetentionForm>,
) -> Result<KeepingData, Failure> {
    let caller = request.caller()?;
    let health = services.fleet.history_health(caller)?;
    if !caller.may(Role::Admin) || caller.organization != OrganizationId::DEFAULT {
        // Names and numbers of others' servers are not for everybody.
        return Ok(KeepingData {
            health: HistoryHealth { limited: Vec::new(), ..health },
            ..KeepingData::default()
        });
    }
    let states = services.fleet.list(caller, &ServerFilter::default())?;
    let name = |number: ServerNumber| {
        let found = states.iter().find(|state| state.server.number == number);
        found.map_or_else(|| format!("Server number {}", number.0), |state| state.server.name.to_string())
    };
    let tables = services.export.sizes(caller).await?.into_iter().map(|table| TableRows {
        table: table.table,
        rows: u64::try_from(table.rows).unwrap_or(0),
        size_bytes: table.size_bytes as f64,
        rows_last_day: table.rows_last_day.and_then(|rows| u64::try_from(rows).ok()),
    });
    Ok(KeepingData {
        limited: health.limited.iter().map(|limited| name(limited.server)).collect(),
        health,
        sizes: Some(services.fleet.history_sizes(caller).await?),
        removal: services.fleet.history_removal(caller)?,
        tables: tables.collect(),
        retention: Some(match form {
            Some(form) => form,
            None => RetentionForm::of(&services.export.retention(caller).await?),
        }),
    })
}

async fn set_retention(request: Request, services: Services) -> Result<Response, Failure> {
    let typed = RetentionForm::from_pairs(&request.form()?.pairs());
    let problems = match typed.read() {
        Err(problems) => problems,
        Ok(wanted) => match services.export.set_retention(request.caller()?, wanted).await {
            Ok(_) => return Ok(see_other("/settings?done=saved#history")),
            Err(ExportError::Retention(error)) => {
                vec![FieldProblem {
                    field: error.field.to_owned(),
                    sentence: doors::sentence(&error.message),
                }]
            }
            Err(ExportError::Invalid(sentence)) => {
                vec![FieldProblem { field: "archive".to_owned(), sentence: doors::sentence(&sentence) }]
            }
            Err(error) => return Err(error.into()),
        },
    };
    let form = RetentionForm { problems, ..typed };
    answer(&request, &services, StatusCode::UNPROCESSABLE_ENTITY, Vec::new(), None, Some(form)).await
}

async fn set_cadence(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let wanted = super::changing::interval_ms("heavy_seconds", form.text("heavy_seconds"));
    let outcome = match wanted {
        Ok(millis) => services.fleet.set_default_heavy_interval(request.caller()?, millis).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(_) => Ok(see_other("/settings?done=saved#cadence")),
        Err(FleetError::Invalid { message, .. }) => {
            let problem =
                FieldProblem { field: "heavy_seconds".to_owned(), sentence: doors::sentence(&message) };
            answer(&request, &services, StatusCode::UNPROCESSABLE_ENTITY, vec![problem], None, None).await
        }
        Err(error) => Err(error.into()),
    }
}

async fn set_when_busy(request: Request, services: Services) -> Result<Response, Failure> {
    let word = request.form()?;
    let wanted = WhenBusy::parse(word.text("when_busy"))
        .ok_or_else(|| Failure::invalid("when_busy is share, queue or refuse"))?;
    services.operations.set_when_busy(request.caller()?, wanted).await?;
    Ok(see_other("/settings?done=saved#operations"))
}

async fn create_token(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let rights = match form.text("role") {
        "enrol" => Rights::Enrol,
        role => Rights::Role(role.parse().map_err(|error| Failure::invalid(format!("{error}")))?),
    };
    let days: u32 = form
        .text("expires_days")
        .parse()
        .map_err(|_| Failure::invalid("choose after how many days the token ends"))?;
    let expires_at = (days > 0).then(|| services.clock.now() + DAY.saturating_mul(days));
    let new = NewToken { expires_at, ..NewToken::of(form.text("name"), rights) };
    match services.auth.make_token(request.caller()?, new).await {
        Ok((_, text)) => {
            answer(&request, &services, StatusCode::OK, Vec::new(), Some(text.expose().clone()), None).await
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
    answer(request, services, status, problems, None, None).await
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
