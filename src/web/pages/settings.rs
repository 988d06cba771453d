//! Settings: the key that Roundsman keeps, tokens, one's sessions and password, what is kept, the version.

use askama::Template;

use crate::model::{Rights, Role, SessionId, Timestamp, TokenId, WhenBusy};
use crate::web::view::{self, When};

use super::form::{Field, FieldProblem};
use super::keeping::{Keeping, KeepingData};
use super::{Chrome, Section, Viewer, capital};

/// Lifetimes on offer for a token, in days; 0 is without end.
const LIFETIMES: [(u32, &str); 4] = [(30, "30 days"), (90, "90 days"), (365, "1 year"), (0, "No end")];

/// A token as it is listed; its secret is not known any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    pub id: TokenId,
    pub name: String,
    /// Its role, or its scope.
    pub rights: Rights,
    pub created_at: Timestamp,
    /// None: it does not end.
    pub expires_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
}

/// One login of the viewer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    pub id: SessionId,
    /// Where it came from, as text.
    pub address: String,
    /// As the browser named itself.
    pub user_agent: String,
    pub created_at: Timestamp,
    pub last_seen_at: Timestamp,
    pub is_this_one: bool,
}

/// What the settings page shows. Tokens are for administrators; for others pass none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SettingsData {
    /// One line as in authorized_keys. None: no key was made yet.
    pub public_key: Option<String>,
    pub tokens: Vec<TokenInfo>,
    /// The secret of a token that was made just now: shown this once.
    pub new_token: Option<String>,
    pub sessions: Vec<SessionInfo>,
    /// What is wrong with a form that was sent: `name` of a token, `current_password`, `password`, …
    pub problems: Vec<FieldProblem>,
    /// Shortest password that is accepted.
    pub password_min_chars: usize,
    pub keeping: KeepingData,
    /// Seconds between two readings of heavy sections, as they are or as they were typed.
    pub heavy_seconds: String,
    /// Where another operation is under way on a server.
    pub when_busy: WhenBusy,
}

/// `GET /settings`, and the answer to its forms. The forms send: `/settings/tokens` name, role, expires_days
/// (0: no end); `/settings/cadence` heavy_seconds; `/settings/operations` when_busy; `/settings/password` current_password, password, password_again.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/settings.html")]
pub struct SettingsPage {
    pub chrome: Chrome,
    public_key: Option<String>,
    new_token: Option<String>,
    tokens: Vec<TokenView>,
    token_name: Field,
    roles: Vec<(&'static str, String)>,
    lifetimes: Vec<(u32, &'static str)>,
    sessions: Vec<SessionView>,
    passwords: Vec<Field>,
    password_min_chars: usize,
    keeping: Keeping,
    heavy: Field,
    busy: Vec<BusyChoice>,
    version: &'static str,
}

#[derive(Debug, Clone)]
struct TokenView {
    id: String,
    name: String,
    role: &'static str,
    created: When,
    /// None: it does not end.
    expires: Option<When>,
    has_expired: bool,
    used: When,
}

#[derive(Debug, Clone)]
struct SessionView {
    id: String,
    address: String,
    browser: String,
    created: When,
    seen: When,
    is_this_one: bool,
}

impl SettingsPage {
    #[must_use]
    pub fn new(viewer: &Viewer, data: &SettingsData, now: Timestamp) -> Self {
        let judged = |field: Field| field.judged(&data.problems);
        Self {
            chrome: Chrome::new("Settings", Section::Settings, None, viewer, now),
            public_key: data.public_key.clone(),
            new_token: data.new_token.clone(),
            tokens: data.tokens.iter().map(|token| TokenView::new(token, now)).collect(),
            token_name: judged(Field::line("name", "Name", "", 63).placeholder("ci").required()),
            roles: Role::ALL
                .into_iter()
                .map(|role| (role.name(), capital(role.name())))
                .chain([(Rights::Enrol.name(), "Enrol: lets servers register and report".to_owned())])
                .collect(),
            lifetimes: LIFETIMES.to_vec(),
            sessions: data.sessions.iter().map(|session| SessionView::new(session, now)).collect(),
            passwords: [
                Field::password("current_password", "Current password"),
                Field::password("password", "New password"),
                Field::password("password_again", "The new one again"),
            ]
            .into_iter()
            .map(|field| judged(field.required()))
            .collect(),
            password_min_chars: data.password_min_chars,
            version: env!("CARGO_PKG_VERSION"),
            heavy: judged(
                Field::line("heavy_seconds", "Details every … seconds", &data.heavy_seconds, 10)
                    .required()
                    .hint("From 1 to 3600. A server may have a time of its own; while somebody looks, they come with every reading."),
            ),
            busy: WhenBusy::ALL.into_iter().map(|one| BusyChoice::new(one, data.when_busy)).collect(),
            keeping: Keeping::new(&viewer.csrf_token, &data.keeping, now),
        }
    }
}

/// What may happen where another operation is under way.
#[derive(Debug, Clone)]
struct BusyChoice {
    word: &'static str,
    title: &'static str,
    about: &'static str,
    is_chosen: bool,
}

impl BusyChoice {
    fn new(one: WhenBusy, current: WhenBusy) -> Self {
        let (title, about) = match one {
            WhenBusy::Share => {
                ("Run beside it", "Only what does the very same on a server is not begun a second time.")
            }
            WhenBusy::Queue => {
                ("Wait for it", "On each server an operation waits for those that began before it.")
            }
            WhenBusy::Refuse => {
                ("Refuse", "The new operation is not begun, and says which one is under way.")
            }
        };
        Self { word: one.name(), title, about, is_chosen: one == current }
    }
}

impl TokenView {
    fn new(token: &TokenInfo, now: Timestamp) -> Self {
        Self {
            id: token.id.to_string(),
            name: view::clean(&token.name, view::CELL_CHARS),
            role: token.rights.name(),
            created: When::new(Some(token.created_at), now),
            expires: token.expires_at.map(|at| When::new(Some(at), now)),
            has_expired: token.expires_at.is_some_and(|at| at <= now),
            used: When::new(token.last_used_at, now),
        }
    }
}

impl SessionView {
    fn new(session: &SessionInfo, now: Timestamp) -> Self {
        Self {
            id: session.id.to_string(),
            address: view::clean(&session.address, 60),
            browser: view::clean(&session.user_agent, view::CELL_CHARS),
            created: When::new(Some(session.created_at), now),
            seen: When::new(Some(session.last_seen_at), now),
            is_this_one: session.is_this_one,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::pages::samples::{now, settings, viewer};

    #[test]
    fn a_new_token_is_shown_once_and_listed_without_its_secret() {
        let data = SettingsData { new_token: Some("rm_secret".to_owned()), ..settings() };
        let html = SettingsPage::new(&viewer(Role::Admin), &data, now()).render().unwrap();
        assert_eq!(html.matches("rm_secret").count(), 1);
        assert!(html.contains("/revoke") && html.contains("expired"));
    }

    #[test]
    fn who_is_no_administrator_sees_no_tokens() {
        let html = SettingsPage::new(&viewer(Role::Operator), &settings(), now()).render().unwrap();
        assert!(!html.contains("/settings/tokens") && html.contains("/settings/password"));
    }

    #[test]
    fn the_name_of_a_browser_is_text() {
        let html = SettingsPage::new(&viewer(Role::Viewer), &settings(), now()).render().unwrap();
        assert!(!html.contains("<script>alert") && html.contains("&#60;script&#62;alert"));
    }
}
