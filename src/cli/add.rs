//! `add`: enrols a server, with its host key approved by whoever sits at the terminal.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};

use super::client::Client;
use super::error::CliError;
use super::machine::{confirmed, hidden_answer, password_file};
use super::output::{Output, text};
use super::servers::address;
use super::{known_hosts, private_key};
use crate::config::parse_interval;
use crate::model::{ProxyAddress, Secret};

/// What belongs to servers over SSH only.
const OF_SSH: [&str; 12] = [
    "identity",
    "password_file",
    "ask_password",
    "keep_password",
    "agent_key",
    "jump",
    "proxy",
    "action_user",
    "ask_sudo_password",
    "connect_timeout",
    "accept_new",
    "passphrase_file",
];

#[derive(Debug, Args)]
pub struct Add {
    /// user@host[:port]; root and port 22 where nothing else is said, IPv6 as root@[fd00::5]:22
    address: String,
    /// ADDRESS is that of an API, https://host[:port][/path], which Roundsman asks for its figures
    #[arg(long, conflicts_with = "push", conflicts_with_all = OF_SSH)]
    http: bool,
    /// File whose first line is the token that the API asks for; - is standard input
    #[arg(long, value_name = "FILE", requires = "http")]
    api_token_file: Option<PathBuf>,
    /// File with the authorities (PEM) that are trusted for it in place of the system's
    #[arg(long, value_name = "FILE", requires = "http")]
    api_ca_file: Option<PathBuf>,
    /// SHA-256 of the only certificate that is taken from it
    #[arg(long, value_name = "SHA256", requires = "http")]
    api_pin: Option<String>,
    /// ADDRESS is the name of a server that reports by itself; its token is printed, once
    #[arg(long, conflicts_with_all = OF_SSH)]
    push: bool,
    /// Name of the server [default: its address]
    #[arg(long)]
    name: Option<String>,
    /// Private key file that opens the server; Roundsman keeps it encrypted [default: Roundsman's own key]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["password_file", "ask_password"])]
    identity: Option<PathBuf>,
    /// File whose first line is the passphrase of --identity; - is standard input
    #[arg(long, value_name = "FILE", requires = "identity")]
    passphrase_file: Option<PathBuf>,
    /// File whose first line is the password: used once to install Roundsman's key; - is standard input
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Ask for the password, use it once to install Roundsman's key, forget it
    #[arg(long, conflicts_with = "password_file")]
    ask_password: bool,
    /// Keep the password, encrypted, and log in with it every time
    #[arg(long)]
    keep_password: bool,
    /// Log in with this key of the ssh-agent that Roundsman was started with: its SHA256:… fingerprint or its public line
    #[arg(long, value_name = "KEY", conflicts_with_all = ["identity", "password_file", "ask_password"])]
    agent_key: Option<String>,
    /// Reach it over the connection of this enrolled server
    #[arg(long, value_name = "NAME", conflicts_with = "proxy")]
    jump: Option<String>,
    /// Reach it through socks5://user@host:port or http://user@host:port; a password is asked for with --ask-proxy-password
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// Ask for the proxy's password and keep it, encrypted
    #[arg(long, requires = "proxy")]
    ask_proxy_password: bool,
    /// Another user for actions; the login above then only reads
    #[arg(long, value_name = "USER")]
    action_user: Option<String>,
    /// Kept key of that user, by name or id [default: Roundsman's own key]
    #[arg(long, value_name = "KEY", requires = "action_user")]
    action_key: Option<String>,
    /// Key of the ssh-agent for that user
    #[arg(long, value_name = "KEY", requires = "action_user", conflicts_with = "action_key")]
    action_agent_key: Option<String>,
    /// Ask for the password of that user and keep it, encrypted
    #[arg(long, requires = "action_user", conflicts_with_all = ["action_key", "action_agent_key"])]
    ask_action_password: bool,
    /// Ask for the password that sudo wants and keep it, encrypted
    #[arg(long)]
    ask_sudo_password: bool,
    /// Time limit of each step of connecting, 1s to 2m [default: 10s]
    #[arg(long, value_name = "TIME")]
    connect_timeout: Option<String>,
    /// Approve the host key that the server shows now; only where nobody can stand between
    #[arg(long)]
    accept_new: bool,
    /// Tag of the server; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    #[arg(long)]
    region: Option<String>,
    /// production, staging, development or a word of your own
    #[arg(long)]
    environment: Option<String>,
    #[arg(long)]
    description: Option<String>,
    /// Time between two readings, 1s to 1h [default: 5s]
    #[arg(long, value_name = "TIME")]
    interval: Option<String>,
}

impl Add {
    pub(super) async fn run(self: Box<Self>, client: &Client, output: &Output) -> Result<(), CliError> {
        if self.http {
            return self.run_http(client, output).await;
        }
        if self.push {
            return self.run_push(client, output).await;
        }
        let mut body = self.body(output)?;
        let server = match enrol(client, &body).await {
            Err(CliError::Refused { kind, body: problem, .. })
                if kind == "host-key-unknown" && output.interactive =>
            {
                approve(&problem, output)?;
                body.insert("host_key".to_owned(), json!(text(&problem, "host_key")));
                enrol(client, &body).await
            }
            other => other,
        };
        let server = server.map_err(|error| explained(error, output))?;
        if output.json {
            return output.value(&server);
        }
        checklist(&server, output)?;
        output.line(&format!(
            "Added {} ({}), host key {}. Its first figures are there in a moment: roundsman show {}",
            text(&server, "name"),
            address(&server),
            text(&server, "host_key_fingerprint"),
            text(&server, "name"),
        ))
    }

    fn body(&self, output: &Output) -> Result<Map<String, Value>, CliError> {
        let Address { user, host, port } = parse_address(&self.address)?;
        let mut body = self.about()?;
        let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
        set("hostname", json!(host));
        set("port", json!(port));
        set("username", json!(user));
        set("accept_new", json!(self.accept_new));
        if let Some(lines) = known_hosts::lines_for(&host) {
            set("known_hosts", json!(lines));
        }
        if let Some(path) = &self.identity {
            let key = private_key::read(path, self.passphrase_file.as_deref(), output)?;
            set("private_key", json!(key.text.expose()));
            set("source_path", json!(key.source_path));
            if let Some(passphrase) = key.passphrase {
                set("passphrase", json!(passphrase.expose()));
            }
        }
        if let Some(path) = &self.password_file {
            set("password", json!(password_file(path)?.expose()));
        } else if self.ask_password {
            set("password", json!(hidden_answer(&format!("Password of {user}@{host}: "))?.expose()));
        } else if self.keep_password {
            return Err(CliError::usage("--keep-password needs --ask-password or --password-file"));
        }
        if self.keep_password {
            set("login_method", json!("password"));
        }
        self.way(&mut body, &format!("{user}@{host}"))?;
        Ok(body)
    }

    /// What is said of any server, however it is read.
    fn about(&self) -> Result<Map<String, Value>, CliError> {
        let mut body = Map::new();
        let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
        set("tags", json!(self.tags));
        let optional = [
            ("name", &self.name),
            ("region", &self.region),
            ("environment", &self.environment),
            ("description", &self.description),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                set(name, json!(value));
            }
        }
        if let Some(text) = &self.interval {
            let span =
                parse_interval(text).map_err(|message| CliError::usage(format!("--interval: {message}")))?;
            set("interval_ms", json!(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)));
        }
        Ok(body)
    }

    /// A server whose API is asked.
    async fn run_http(&self, client: &Client, output: &Output) -> Result<(), CliError> {
        let mut body = self.about()?;
        let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
        set("transport", json!("http"));
        set("api_url", json!(self.address));
        if let Some(path) = &self.api_token_file {
            set("api_token", json!(password_file(path)?.expose()));
        }
        if let Some(path) = &self.api_ca_file {
            let pem = std::fs::read_to_string(path)
                .map_err(|error| CliError::usage(format!("cannot read {}: {error}", path.display())))?;
            set("api_ca", json!(pem));
        }
        if let Some(pin) = &self.api_pin {
            set("api_pin", json!(pin));
        }
        let server = enrol(client, &body).await.map_err(|error| explained(error, output))?;
        if output.json {
            return output.value(&server);
        }
        output.line(&format!(
            "Added {name} ({}). Its first figures are there in a moment: roundsman show {name}",
            text(&server, "api_url"),
            name = text(&server, "name"),
        ))
    }

    /// A server that reports by itself. Its token goes to standard output, alone, so that it can go into a file.
    async fn run_push(&self, client: &Client, output: &Output) -> Result<(), CliError> {
        let mut body = self.about()?;
        body.entry("name").or_insert_with(|| json!(self.address));
        body.insert("transport".to_owned(), json!("push"));
        let server = enrol(client, &body).await?;
        if output.json {
            return output.value(&server);
        }
        output.remark(&format!(
            "Added {}. Its token is the next line and is not shown again; start the agent there with it in the file that \
             ROUNDSMAN_TOKEN_FILE names (docs/push.md).",
            text(&server, "name")
        ))?;
        output.line(text(&server, "token"))
    }

    /// What leads there, and who acts there.
    fn way(&self, body: &mut Map<String, Value>, at: &str) -> Result<(), CliError> {
        let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
        if let Some(key) = &self.agent_key {
            set("agent_key", json!(key));
        }
        if let Some(name) = &self.jump {
            set("jump_host", json!(name));
        }
        if let Some(text) = &self.proxy {
            set("proxy", json!(self.proxy_with_password(text)?.expose()));
        }
        if let Some(text) = &self.connect_timeout {
            let span = parse_interval(text)
                .map_err(|message| CliError::usage(format!("--connect-timeout: {message}")))?;
            set("connect_timeout_ms", json!(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)));
        }
        if let Some(user) = &self.action_user {
            let mut action = Map::from_iter([("username".to_owned(), json!(user))]);
            let chosen = [("identity", &self.action_key), ("agent_key", &self.action_agent_key)];
            for (name, value) in chosen {
                action.extend(value.as_ref().map(|value| (name.to_owned(), json!(value))));
            }
            if self.ask_action_password {
                let password = hidden_answer(&format!("Password of the action user {user}: "))?;
                action.insert("password".to_owned(), json!(password.expose()));
            }
            set("action_login", Value::Object(action));
        }
        if self.ask_sudo_password {
            let password = hidden_answer(&format!("Password for sudo at {at}: "))?;
            set("sudo_password", json!(password.expose()));
        }
        Ok(())
    }

    fn proxy_with_password(&self, text: &str) -> Result<Secret<String>, CliError> {
        let (address, inside) =
            ProxyAddress::parse(text).map_err(|error| CliError::usage(error.to_string()))?;
        if inside.is_some() {
            return Err(CliError::usage(
                "a password in --proxy can be seen by everybody on this machine; leave it out and add --ask-proxy-password",
            ));
        }
        if !self.ask_proxy_password {
            return Ok(Secret::new(text.to_owned()));
        }
        let password = hidden_answer(&format!("Password of the proxy {address}: "))?;
        address.with_password(&password).ok_or_else(|| {
            CliError::usage("--ask-proxy-password needs a user: --proxy socks5://user@host:port")
        })
    }
}

async fn enrol(client: &Client, body: &Map<String, Value>) -> Result<Value, CliError> {
    client.post("/api/v1/fleet/servers", &Value::Object(body.clone())).await
}

/// Shows the key and asks.
fn approve(problem: &Value, output: &Output) -> Result<(), CliError> {
    checklist(problem, output)?;
    output.remark(&format!("The server shows the key {}", text(problem, "fingerprint")))?;
    output.remark(
        "Compare it with what the server itself says: for f in /etc/ssh/ssh_host_*_key.pub; do ssh-keygen -lf $f; done",
    )?;
    if confirmed("Is it the same key? [yes/no]")? {
        Ok(())
    } else {
        Err(CliError::failed("the host key was not approved; nothing was added"))
    }
}

/// The error with its checklist on stderr and what to do on the command line.
fn explained(error: CliError, output: &Output) -> CliError {
    let CliError::Refused { kind, detail, body } = error else { return error };
    if !output.json
        && let Err(closed) = checklist(&body, output)
    {
        return closed;
    }
    let detail = if kind == "host-key-unknown" {
        let fingerprint = text(&body, "fingerprint");
        format!(
            "the host key {fingerprint} is not approved yet: compare it with the server's own and run this on a terminal \
             to approve it, or add --accept-new where nobody can stand between"
        )
    } else {
        detail
    };
    CliError::Refused { kind, detail, body }
}

/// The stages of a preflight, one a line, on stderr.
fn checklist(object: &Value, output: &Output) -> Result<(), CliError> {
    for step in object.get("steps").and_then(Value::as_array).into_iter().flatten() {
        let mark = match text(step, "outcome") {
            "passed" => "✓",
            "failed" => "✗",
            "warning" => "!",
            "needs_approval" => "?",
            _ => "-",
        };
        output.remark(&format!(
            "  {mark} {:<14} {}",
            text(step, "stage").replace('_', " "),
            text(step, "detail")
        ))?;
        let fix = text(step, "fix");
        if !fix.is_empty() {
            output.remark(&format!("{:19}→ {fix}", ""))?;
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Address {
    user: String,
    host: String,
    port: u16,
}

/// `[user@]host[:port]`; an IPv6 address with a port stands in brackets.
fn parse_address(text: &str) -> Result<Address, CliError> {
    let wrong = |why: &str| CliError::usage(format!("'{text}' is not user@host[:port]: {why}"));
    let (user, rest) = text.rsplit_once('@').unwrap_or(("root", text));
    let (host, port) = if let Some(inside) = rest.strip_prefix('[') {
        let (host, after) = inside.split_once(']').ok_or_else(|| wrong("the ] is missing"))?;
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return Err(wrong("after the ] only :port may follow")),
        }
    } else {
        match rest.split_once(':') {
            // More than one colon is an IPv6 address without a port.
            Some((_, after)) if after.contains(':') => (rest, None),
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        }
    };
    if user.is_empty() || host.is_empty() {
        return Err(wrong("the user or the host is missing"));
    }
    let port = match port {
        None => 22,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| wrong("a port is a number from 1 to 65535"))?,
    };
    Ok(Address { user: user.to_owned(), host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_ssh_users_write_them() {
        let parsed = |text: &str| parse_address(text).map(|a| (a.user, a.host, a.port)).unwrap();
        let expect = |user: &str, host: &str, port| (user.to_owned(), host.to_owned(), port);
        assert_eq!(parsed("web-1"), expect("root", "web-1", 22));
        assert_eq!(parsed("deploy@web-1:2222"), expect("deploy", "web-1", 2222));
        assert_eq!(parsed("root@[fd00::5]:22"), expect("root", "fd00::5", 22));
        assert_eq!(parsed("fd00::5"), expect("root", "fd00::5", 22));
        assert_eq!(parsed("user@example.com@10.0.0.5"), expect("user@example.com", "10.0.0.5", 22));
    }

    #[test]
    fn an_address_that_cannot_be_meant_is_wrong_use() {
        for bad in ["", "@host", "root@", "host:0", "host:99999", "host:ssh", "root@[fd00::5", "[::1]22"] {
            assert_eq!(parse_address(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }
}
