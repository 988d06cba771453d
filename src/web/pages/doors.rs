//! The pages that need no login: login, first set-up, and the page of an error.

use askama::Template;

use crate::web::assets;

use super::Notice;

/// The frame around a page without navigation.
#[derive(Debug, Clone)]
pub struct DoorChrome {
    pub title: &'static str,
    pub assets: &'static str,
    pub notice: Option<Notice>,
}

impl DoorChrome {
    fn new(title: &'static str, notice: Option<Notice>) -> Self {
        Self { title, assets: assets::base(), notice }
    }
}

/// `GET /login`, and the answer to a login that was refused.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/login.html")]
pub struct LoginPage {
    pub chrome: DoorChrome,
    pub csrf_token: String,
    /// Kept when a login was refused; the password never is.
    pub username: String,
    /// Where to go afterwards: a path of ours, checked by the caller.
    pub next: String,
}

impl LoginPage {
    #[must_use]
    pub fn new(csrf_token: &str, username: &str, next: &str, notice: Option<Notice>) -> Self {
        Self {
            chrome: DoorChrome::new("Log in", notice),
            csrf_token: csrf_token.to_owned(),
            username: username.to_owned(),
            next: next.to_owned(),
        }
    }
}

/// `GET /setup/{secret}`: the administrator's first password.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/setup.html")]
pub struct SetupPage {
    pub chrome: DoorChrome,
    pub csrf_token: String,
    /// The last part of the address, posted back to it.
    pub secret: String,
    pub username: String,
    /// Shortest password that is accepted.
    pub password_min_chars: usize,
}

impl SetupPage {
    #[must_use]
    pub fn new(
        csrf_token: &str,
        secret: &str,
        username: &str,
        password_min_chars: usize,
        notice: Option<Notice>,
    ) -> Self {
        Self {
            chrome: DoorChrome::new("Set up", notice),
            csrf_token: csrf_token.to_owned(),
            secret: secret.to_owned(),
            username: if username.is_empty() { "admin".to_owned() } else { username.to_owned() },
            password_min_chars,
        }
    }
}

/// Any answer that is not what was asked for.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/error.html")]
pub struct ErrorPage {
    pub chrome: DoorChrome,
    /// The HTTP status.
    pub status: u16,
    /// What happened, one sentence.
    pub sentence: String,
    /// What the reader can do about it.
    pub advice: String,
}

impl ErrorPage {
    #[must_use]
    pub fn new(status: u16, sentence: &str, advice: &str) -> Self {
        Self {
            chrome: DoorChrome::new("Error", None),
            status,
            sentence: sentence.to_owned(),
            advice: advice.to_owned(),
        }
    }
}
