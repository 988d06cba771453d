//! Who is logged in on a server, and who may log in.

use askama::Template;

use crate::fleet::{ServerState, UserTable};
use crate::model::{Account, LoggedInUser, Timestamp};
use crate::web::view::{self, Value, When};

use super::super::{Chrome, Fragment, Viewer};
use super::{Head, Tab, head_fragment};

/// Rows of each table; nobody reads on.
const ROWS_MAX: usize = 200;

/// `GET /servers/{name}/users`.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/server_users.html")]
pub struct UsersPage {
    pub chrome: Chrome,
    head: Head,
    list: List,
}

impl UsersPage {
    /// `users` None: no reading has brought any yet.
    #[must_use]
    pub fn new(viewer: &Viewer, state: &ServerState, users: Option<&UserTable>, now: Timestamp) -> Self {
        Self {
            chrome: super::chrome(viewer, state, Tab::Users, now),
            head: Head::new(state, Tab::Users, now),
            list: List::new(state, users, now),
        }
    }
}

#[derive(Debug, Template)]
#[template(path = "partials/users.html")]
struct ListPart {
    list: List,
}

/// Everything on the tab that changes, for open pages.
#[must_use]
pub fn users_fragments(state: &ServerState, users: Option<&UserTable>, now: Timestamp) -> Vec<Fragment> {
    let body = Fragment::render("users".to_owned(), &ListPart { list: List::new(state, users, now) });
    head_fragment(state, Tab::Users, now).into_iter().chain(body).collect()
}

#[derive(Debug, Clone)]
struct List {
    /// None: not read yet.
    sessions: Option<Vec<Session>>,
    counted: String,
    read: When,
    gap: Option<String>,
    /// None: the facts were not read yet.
    accounts: Option<Vec<AccountRow>>,
    left_out: usize,
}

#[derive(Debug, Clone)]
struct Session {
    name: String,
    terminal: Value,
    from: Value,
    since: When,
}

#[derive(Debug, Clone)]
struct AccountRow {
    name: String,
    full_name: Option<String>,
    uid: u32,
    shell: Value,
    home: Value,
    is_administrator: bool,
    sessions: usize,
}

impl List {
    fn new(state: &ServerState, users: Option<&UserTable>, now: Timestamp) -> Self {
        let sessions = users.map_or(&[][..], |table| table.users.as_slice());
        let people: std::collections::BTreeSet<&str> =
            sessions.iter().map(|user| user.name.as_str()).collect();
        let plural =
            |count: usize, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
        let accounts = state.facts.as_ref().map(|facts| facts.accounts.as_slice());
        Self {
            sessions: users
                .map(|_| sessions.iter().take(ROWS_MAX).map(|user| Session::new(user, now)).collect()),
            counted: match sessions.len() {
                0 => "Nobody is logged in".to_owned(),
                count => format!(
                    "{} of {}",
                    plural(count, "session", "sessions"),
                    plural(people.len(), "account", "accounts")
                ),
            },
            read: When::new(users.map(|table| table.taken_at), now),
            gap: super::gap_reason(state, "users"),
            accounts: accounts.map(|accounts| {
                accounts.iter().take(ROWS_MAX).map(|account| AccountRow::new(account, sessions)).collect()
            }),
            left_out: accounts.map_or(0, |accounts| accounts.len().saturating_sub(ROWS_MAX)),
        }
    }
}

impl Session {
    fn new(user: &LoggedInUser, now: Timestamp) -> Self {
        let since = user.since_ms.and_then(|at| i64::try_from(at).ok()).map(Timestamp::from_millis);
        Self {
            name: view::clean(&user.name, 64),
            terminal: Value::foreign(user.terminal.as_deref()),
            from: Value::foreign(user.remote_host.as_deref()),
            since: When::new(since, now),
        }
    }
}

impl AccountRow {
    fn new(account: &Account, sessions: &[LoggedInUser]) -> Self {
        Self {
            name: view::clean(&account.name, 64),
            full_name: account
                .full_name
                .as_deref()
                .map(|name| view::clean(name, 80))
                .filter(|name| !name.is_empty()),
            uid: account.uid,
            shell: Value::foreign(Some(&account.shell)),
            home: Value::foreign(Some(&account.home)),
            is_administrator: account.is_administrator,
            sessions: sessions.iter().filter(|user| user.name == account.name).count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Role;
    use crate::web::pages::samples::{Sample, now, user_table, viewer};

    fn html(state: &ServerState, users: Option<&UserTable>) -> String {
        UsersPage::new(&viewer(Role::Viewer), state, users, now()).render().unwrap()
    }

    #[test]
    fn sessions_and_accounts_that_may_log_in_are_shown_and_hostile_names_are_text() {
        let state = Sample::named("web-1").state();
        let html = html(&state, Some(&user_table()));
        for text in
            ["203.0.113.9", "pts/0", "2 sessions of 2 accounts", "Ada Lovelace", "/bin/bash", "administrator"]
        {
            assert!(html.contains(text), "{text}");
        }
        assert!(!html.contains("<b>deploy") && html.contains("&#60;b&#62;deploy"));
    }

    #[test]
    fn what_was_not_read_and_what_cannot_be_read_is_said() {
        let state = Sample::named("web-1").unread().state();
        assert!(html(&state, None).contains("have not been read yet"));
        let gap = Sample::named("web-1").gap("users", "keeps no list of logins").state();
        let html = html(&gap, None);
        assert!(html.contains("keeps no list of logins") && html.contains("ada"));
    }
}
