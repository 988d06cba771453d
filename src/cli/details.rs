//! What `show --facts` and `show --users` print.

use serde_json::Value;

use super::output::{UNKNOWN, text};

/// Two columns, as the rest of `show`.
fn line(title: &str, value: &str) -> String {
    format!("{title:<14} {value}")
}

fn text_of(value: &Value, name: &str) -> String {
    match value.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => UNKNOWN.to_owned(),
    }
}

/// A line a fact.
pub(super) fn facts(facts: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for (title, name) in [
        ("Host name", "hostname"),
        ("System", "os_name"),
        ("Kernel", "kernel"),
        ("Architecture", "architecture"),
        ("Processor", "cpu_model"),
        ("Cores", "cpu_cores"),
        ("Virtualisation", "virtualisation"),
        ("Time zone", "timezone"),
        ("Clock offset", "clock_offset_seconds"),
        ("CPU limit", "cpu_limit_cores"),
    ] {
        lines.push(line(title, &text_of(facts, name)));
    }
    let addresses = facts.get("addresses").and_then(Value::as_array).into_iter().flatten();
    lines.extend(addresses.filter_map(Value::as_str).map(|address| line("Address", address)));
    if let Some(updates) = facts.get("updates").filter(|updates| updates.is_object()) {
        let told = format!(
            "{} pending, {} for security ({}, asked {})",
            text_of(updates, "pending"),
            text_of(updates, "security"),
            text_of(updates, "manager"),
            text_of(updates, "taken_at")
        );
        lines.push(line("Packages", &told));
    }
    lines
}

/// A line a session, then a line an account.
pub(super) fn users(users: &Value, facts: &Value) -> Vec<String> {
    let list = |of: &Value, name: &str| of.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let session = |user: &Value| {
        let from = [text(user, "terminal"), text(user, "remote_host")];
        let from: Vec<&str> = from.into_iter().filter(|part| !part.is_empty()).collect();
        line("Logged in", format!("{} {}", text(user, "name"), from.join(" from ")).trim_end())
    };
    let account = |one: &Value| {
        let is_administrator = one.get("is_administrator").and_then(Value::as_bool) == Some(true);
        let words = if is_administrator { ", administrator" } else { "" };
        line("May log in", &format!("{} ({}{words})", text(one, "name"), text(one, "shell")))
    };
    let sessions = list(users, "users");
    let accounts = list(facts, "accounts");
    sessions.iter().map(session).chain(accounts.iter().map(account)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn facts_and_users_are_lines_and_what_is_unknown_says_so() {
        let said = json!({
            "os_name": "Debian GNU/Linux 12", "cpu_cores": 4, "addresses": ["10.0.0.5"], "clock_offset_seconds": 0.25,
            "updates": { "pending": 3, "security": null, "manager": "apt", "taken_at": "2026-11-20T10:00:00Z" },
            "accounts": [{ "name": "ada", "shell": "/bin/bash", "is_administrator": true }],
        });
        let lines = facts(&said);
        for wanted in ["System         Debian GNU/Linux 12", "Cores          4", "Address        10.0.0.5"] {
            assert!(lines.iter().any(|line| line == wanted), "{wanted}: {lines:?}");
        }
        let packages =
            format!("Packages       3 pending, {UNKNOWN} for security (apt, asked 2026-11-20T10:00:00Z)");
        assert!(lines.contains(&packages) && lines.contains(&line("Kernel", UNKNOWN)), "{lines:?}");
        let logins =
            json!({ "users": [{ "name": "ada", "terminal": "pts/0", "remote_host": "203.0.113.9" }] });
        assert_eq!(
            users(&logins, &said),
            ["Logged in      ada pts/0 from 203.0.113.9", "May log in     ada (/bin/bash, administrator)"]
        );
    }
}
