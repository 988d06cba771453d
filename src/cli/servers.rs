//! `list`, `show` and `remove`.

use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, segment};
use super::error::CliError;
use super::output::{self, Output, UNKNOWN, ago, list, number, text, text_or_unknown};
use super::selection::Selection;

const SERVERS: &str = "/api/v1/fleet/servers";

#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    selection: Selection,
    /// Only servers with this in their name, address or description
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
}

impl List {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        let mut query = self.selection.query();
        query.extend(self.search.as_deref().map(|text| ("search", text)));
        let servers = client.all(SERVERS, &query).await?;
        if output.json {
            return output.value(&Value::Array(servers));
        }
        if servers.is_empty() {
            return output.remark(if query.is_empty() {
                "There are no servers yet; add one with 'roundsman add root@ADDRESS'."
            } else {
                "No server fits."
            });
        }
        let header = ["NAME", "HEALTH", "CPU", "MEMORY", "DISK", "LOAD", "ADDRESS", "TAGS", "SEEN"];
        output.table(&header, &[2, 3, 4, 5], servers.iter().map(row).collect())
    }
}

fn row(server: &Value) -> Vec<String> {
    let current = server.get("current").unwrap_or(&Value::Null);
    vec![
        text(server, "name").to_owned(),
        shown_health(server),
        number(current, "cpu_percent", " %"),
        number(current, "memory_percent", " %"),
        number(current, "disk_percent", " %"),
        number(current, "load1", ""),
        address(server),
        list(server, "tags"),
        ago(text(server, "last_seen_at")),
    ]
}

/// The health, or the status where that says more.
fn shown_health(server: &Value) -> String {
    match text(server, "status") {
        status @ ("inactive" | "maintenance") => status.to_owned(),
        _ => text_or_unknown(server, "health_status"),
    }
}

pub(super) fn address(server: &Value) -> String {
    if text(server, "transport") == "local" {
        return "this machine".to_owned();
    }
    let host = text(server, "hostname");
    let port = server.get("port").and_then(Value::as_u64).unwrap_or(22);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let user = text(server, "username");
    let at = if user.is_empty() { host } else { format!("{user}@{host}") };
    if port == 22 { at } else { format!("{at}:{port}") }
}

#[derive(Debug, Args)]
pub struct Show {
    /// Name or id of the server
    name: String,
    /// System, hardware, addresses, pending updates
    #[arg(long)]
    facts: bool,
    /// Who is logged in, and who may log in
    #[arg(long)]
    users: bool,
}

impl Show {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        let server = client.get(&format!("{SERVERS}/{}", segment(&self.name)?)).await?;
        let path = format!("{SERVERS}/{}", segment(&self.name)?);
        let facts =
            if self.facts || self.users { Some(client.get(&format!("{path}/facts")).await?) } else { None };
        let users = if self.users { Some(client.get(&format!("{path}/users")).await?) } else { None };
        if output.json {
            let mut answer = server;
            for (name, part) in [("facts", facts), ("users", users)] {
                if let (Some(part), Some(members)) = (part, answer.as_object_mut()) {
                    members.insert(name.to_owned(), part);
                }
            }
            return output.value(&answer);
        }
        for (title, value) in details(&server) {
            output.line(&format!("{title:<14} {value}"))?;
        }
        if let Some(facts) = facts.as_ref().filter(|_| self.facts) {
            super::details::facts(facts).into_iter().try_for_each(|line| output.line(&line))?;
        }
        if let (Some(users), Some(facts)) = (&users, &facts) {
            super::details::users(users, facts).into_iter().try_for_each(|line| output.line(&line))?;
        }
        let spots = blind_spots(&server);
        if !spots.is_empty() {
            output.line("Cannot be seen or done:")?;
        }
        spots.iter().try_for_each(|line| output.line(line))
    }
}

fn details(server: &Value) -> Vec<(&'static str, String)> {
    let current = server.get("current").unwrap_or(&Value::Null);
    let reachability = server.get("reachability").unwrap_or(&Value::Null);
    let mut lines = vec![
        ("Name", text_or_unknown(server, "name")),
        ("Id", text_or_unknown(server, "id")),
        ("Address", address(server)),
        ("Health", health_with_reasons(server)),
        ("Reachability", reachability_line(reachability)),
        ("Status", text_or_unknown(server, "status")),
        ("Last seen", ago(text(server, "last_seen_at"))),
    ];
    for (title, name) in
        [("Description", "description"), ("Region", "region"), ("Environment", "environment")]
    {
        if !text(server, name).is_empty() {
            lines.push((title, text(server, name).to_owned()));
        }
    }
    let tags = list(server, "tags");
    if !tags.is_empty() {
        lines.push(("Tags", tags));
    }
    lines.extend(way_in(server));
    let rate =
        |name| current.get(name).and_then(Value::as_f64).map_or_else(|| UNKNOWN.to_owned(), output::bytes);
    let uptime = current.get("uptime_seconds").and_then(Value::as_f64);
    lines.extend([
        ("CPU", number(current, "cpu_percent", " %")),
        ("Memory", format!("{} of {}", number(current, "memory_percent", " %"), rate("memory_total_bytes"))),
        ("Fullest disk", number(current, "disk_percent", " %")),
        ("Load", number(current, "load1", "")),
        ("Network", format!("{}/s in, {}/s out", rate("network_rx_bytes"), rate("network_tx_bytes"))),
        ("Uptime", uptime.map_or_else(|| UNKNOWN.to_owned(), |seconds| output::span(whole(seconds)))),
        ("Services", services(current)),
        ("Updates", updates(current)),
        ("Interval", interval(server)),
        ("Details", super::cadence::details(server)),
        ("Host key", text_or_unknown(server, "host_key_fingerprint")),
        ("Logins today", text_or_unknown(server, "logins_today")),
    ]);
    lines
}

/// How it is reached and who acts there, where that is not the usual.
fn way_in(server: &Value) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    for (title, name) in [("Jump host", "jump_host"), ("Proxy", "proxy")] {
        if !text(server, name).is_empty() {
            lines.push((title, text(server, name).to_owned()));
        }
    }
    if text(server, "transport") == "ssh" {
        lines.push(("Logs in with", login_words(server)));
    }
    if let Some(action) = server.get("action_login").filter(|action| action.is_object()) {
        lines.push(("Acts as", format!("{}, {}", text(action, "username"), login_words(action))));
    }
    if server.get("has_sudo_password").and_then(Value::as_bool) == Some(true) {
        lines.push(("sudo", "its password is kept".to_owned()));
    }
    lines
}

fn login_words(login: &Value) -> String {
    match (text(login, "login_method"), text(login, "identity")) {
        ("key", "default") => "the default key".to_owned(),
        ("key", id) => format!("the kept key {id}"),
        ("agent", _) => "a key of the ssh-agent".to_owned(),
        ("password", _) => "a kept password".to_owned(),
        (other, _) => other.to_owned(),
    }
}

/// A line each, with the line that would change it.
fn blind_spots(server: &Value) -> Vec<String> {
    let spots = server.get("blind_spots").and_then(Value::as_array).into_iter().flatten();
    spots
        .flat_map(|spot| {
            let fix = Some(text(spot, "fix")).filter(|fix| !fix.is_empty()).map(|fix| format!("    → {fix}"));
            [Some(format!("  {}: {}", text(spot, "subject"), text(spot, "reason"))), fix]
        })
        .flatten()
        .collect()
}

fn health_with_reasons(server: &Value) -> String {
    let health = text_or_unknown(server, "health_status");
    let reasons = list(server, "health_reasons");
    if reasons.is_empty() { health } else { format!("{health}: {reasons}") }
}

fn reachability_line(reachability: &Value) -> String {
    let state = text_or_unknown(reachability, "state");
    let parts = [text(reachability, "layer"), text(reachability, "reason")];
    let said: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    if said.is_empty() { state } else { format!("{state} ({})", said.join(": ")) }
}

fn services(current: &Value) -> String {
    let count = |name| current.get(name).and_then(Value::as_f64).map(whole);
    match (count("active_services"), count("total_services"), count("failed_services")) {
        (Some(active), Some(total), failed) => {
            format!("{active} of {total} active, {} failed", failed.unwrap_or(0))
        }
        _ => UNKNOWN.to_owned(),
    }
}

fn updates(current: &Value) -> String {
    let count = |name| current.get(name).and_then(Value::as_f64).map(whole);
    match (count("pending_updates"), count("pending_security_updates")) {
        (None, _) => UNKNOWN.to_owned(),
        (Some(pending), None) => format!("{pending} pending"),
        (Some(pending), Some(security)) => format!("{pending} pending, {security} for security"),
    }
}

fn interval(server: &Value) -> String {
    server
        .get("interval_ms")
        .and_then(Value::as_f64)
        .map_or_else(|| UNKNOWN.to_owned(), |millis| format!("{} s", millis / 1000.0))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count or a span, shown whole")]
const fn whole(value: f64) -> u64 {
    value as u64
}

#[derive(Debug, Args)]
pub struct Remove {
    /// Name or id of the server
    name: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Remove {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        let path = format!("{SERVERS}/{}", segment(&self.name)?);
        if !self.yes {
            if !output.interactive {
                return Err(CliError::usage(
                    "removing a server deletes its history; add --yes if that is wanted",
                ));
            }
            let server = client.get(&path).await?;
            let question =
                format!("Remove {} ({}) and its history? [yes/no] ", text(&server, "name"), address(&server));
            if !super::machine::confirmed(&question)? {
                return Err(CliError::failed("nothing was removed"));
            }
        }
        client.delete(&path).await?;
        if output.json {
            output.value(&json!({ "removed": self.name }))
        } else {
            output.line(&format!(
                "Removed {}. Roundsman's public key is still in its authorized_keys.",
                self.name
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_as_it_is_given_to_add() {
        let server = |host: &str, port: u16| json!({ "transport": "ssh", "hostname": host, "port": port, "username": "root" });
        assert_eq!(address(&server("10.0.0.5", 22)), "root@10.0.0.5");
        assert_eq!(address(&server("fd00::5", 2222)), "root@[fd00::5]:2222");
        assert_eq!(address(&json!({ "transport": "local" })), "this machine");
    }

    #[test]
    fn the_way_in_and_what_cannot_be_seen_are_shown() {
        let server = json!({
            "transport": "ssh", "jump_host": "bastion", "login_method": "key", "identity": "default",
            "action_login": { "username": "deploy", "login_method": "agent" }, "has_sudo_password": true,
            "blind_spots": [{ "subject": "processes", "reason": "hidepid", "fix": "mount -o remount,hidepid=0 /proc" }],
        });
        let lines = details(&server);
        for line in [
            ("Jump host", "bastion".to_owned()),
            ("Logs in with", "the default key".to_owned()),
            ("Acts as", "deploy, a key of the ssh-agent".to_owned()),
        ] {
            assert!(lines.contains(&line), "{line:?}");
        }
        assert_eq!(blind_spots(&server), ["  processes: hidepid", "    → mount -o remount,hidepid=0 /proc"]);
    }

    #[test]
    fn an_unreachable_server_says_which_layer_failed() {
        let lines = details(&json!({
            "health_status": "unreachable", "health_reasons": ["connection refused"],
            "reachability": { "state": "unreachable", "layer": "tcp", "reason": "connection refused" },
        }));
        assert!(lines.contains(&("Reachability", "unreachable (tcp: connection refused)".to_owned())));
        assert!(lines.contains(&("CPU", UNKNOWN.to_owned())));
    }
}
