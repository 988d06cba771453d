//! The ways in and out: set-up, login, logout, and the files that every page needs.

use http::{HeaderValue, StatusCode, header};
use warp::reply::Response;

use super::super::assets;
use super::super::error::{Failure, problem};
use super::super::pages::Notice;
use super::super::pages::doors::{LoginPage, SetupPage};
use super::super::request::{Access, COOKIE, Request};
use super::super::routes::{Route, own_path, see_other, with_type};
use super::show;
use crate::auth::{AuthError, LoggedIn, PASSWORD_MIN_CHARS, SESSION_IDLE};
use crate::model::Secret;
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/login", Access::Public, login_form),
        Route::post("/login", Access::Public, login),
        Route::post("/logout", Access::VIEWER, logout),
        Route::get("/setup/{secret}", Access::Public, setup_form),
        Route::post("/setup/{secret}", Access::Public, setup),
        Route::get("/static/{*file}", Access::Public, file),
        Route::get("/favicon.ico", Access::Public, favicon),
    ]
}

fn enter(logged_in: &LoggedIn, next: &str) -> Result<Response, Failure> {
    let cookie = format!(
        "{COOKIE}={}; Path=/; HttpOnly; SameSite=Lax; Max-Age={}",
        logged_in.cookie.expose(),
        SESSION_IDLE.as_secs()
    );
    let value = HeaderValue::from_str(&cookie).map_err(|error| Failure::Internal(error.to_string()))?;
    let mut response = see_other(next);
    response.headers_mut().insert(header::SET_COOKIE, value);
    Ok(response)
}

async fn login_form(request: Request, services: Services) -> Result<Response, Failure> {
    if request.caller.is_some() {
        return Ok(see_other("/"));
    }
    let notice = if services.auth.needs_setup().await? {
        Some(Notice::problem(
            "Nobody can log in yet: open the set-up address that Roundsman printed when it started. \
             It is valid for an hour; a restart prints a new one."
                .to_owned(),
        ))
    } else {
        None
    };
    let next = own_path(request.query("next").unwrap_or("/"));
    show(StatusCode::OK, &LoginPage::new("", "", next, notice))
}

async fn login(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let (username, next) = (form.text("username").trim(), own_path(form.text("next")));
    let password = Secret::new(form.text("password").to_owned());
    match services.auth.login(username, password, &request.origin()).await {
        Ok(logged_in) => enter(&logged_in, next),
        Err(error @ (AuthError::WrongPassword | AuthError::Throttled { .. })) => {
            let problem = problem(&Failure::Auth(error));
            let notice = Notice::problem(sentence(&problem.detail));
            let mut response = show(problem.status, &LoginPage::new("", username, next, Some(notice)))?;
            problem.say_when(&mut response);
            Ok(response)
        }
        Err(error) => Err(error.into()),
    }
}

async fn logout(request: Request, services: Services) -> Result<Response, Failure> {
    services.auth.logout(request.caller()?).await?;
    let mut response = see_other("/login");
    let gone = format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0");
    let value = HeaderValue::from_str(&gone).map_err(|error| Failure::Internal(error.to_string()))?;
    response.headers_mut().insert(header::SET_COOKIE, value);
    Ok(response)
}

async fn setup_form(request: Request, services: Services) -> Result<Response, Failure> {
    services.auth.check_setup(request.param(0)).await?;
    show(StatusCode::OK, &SetupPage::new("", request.param(0), "", PASSWORD_MIN_CHARS, None))
}

async fn setup(request: Request, services: Services) -> Result<Response, Failure> {
    let form = request.form()?;
    let (secret, username) = (request.param(0), form.text("username"));
    let again = |text: String, status| {
        let page = SetupPage::new("", secret, username, PASSWORD_MIN_CHARS, Some(Notice::problem(text)));
        show(status, &page)
    };
    if form.text("password") != form.text("password_again") {
        return again("The two passwords are not the same.".to_owned(), StatusCode::UNPROCESSABLE_ENTITY);
    }
    let password = Secret::new(form.text("password").to_owned());
    match services.auth.complete_setup(secret, username, password, &request.origin()).await {
        Ok(logged_in) => enter(&logged_in, "/"),
        Err(AuthError::Invalid(message)) => again(sentence(&message), StatusCode::UNPROCESSABLE_ENTITY),
        Err(error) => Err(error.into()),
    }
}

/// Error texts begin small so that they fit behind a colon; on a page they are sentences.
pub(super) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let mut sentence: String =
        chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect());
    if !sentence.ends_with(['.', '!', '?']) {
        sentence.push('.');
    }
    sentence
}

async fn file(request: Request, _: Services) -> Result<Response, Failure> {
    let asset = assets::find(request.param(0))
        .ok_or_else(|| Failure::NotFound("there is no such file".to_owned()))?;
    let known = request.headers.get(header::IF_NONE_MATCH).is_some_and(|tag| tag == asset.etag.as_str());
    let mut response = if known {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        with_type(StatusCode::OK, "application/octet-stream", asset.bytes.into_owned().into())
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, asset.content_type.as_str()),
        (header::ETAG, asset.etag.as_str()),
        (header::CACHE_CONTROL, asset.cache_control),
    ] {
        let value = HeaderValue::from_str(value).map_err(|error| Failure::Internal(error.to_string()))?;
        headers.insert(name, value);
    }
    Ok(response)
}

/// Browsers ask for it whatever a page says.
async fn favicon(_: Request, _: Services) -> Result<Response, Failure> {
    Ok(see_other(&format!("{}/icon.svg", assets::base())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_login_only_paths_of_our_own_are_followed() {
        assert_eq!(own_path("/servers/web-1"), "/servers/web-1");
        for foreign in [
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "/\t/evil.example",
            "/\n/evil.example",
            "",
        ] {
            assert_eq!(own_path(foreign), "/");
        }
    }

    #[test]
    fn error_texts_become_sentences() {
        assert_eq!(sentence("the name is taken"), "The name is taken.");
        assert_eq!(sentence("Done."), "Done.");
    }
}
