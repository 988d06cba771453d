//! Bringing the agent to a server and taking it away: what is asked, and the commands that are part of it.
//!
//! The script that finds a place, makes the service and removes is one text, `scripts/agent/manage.sh`, which
//! `deploy-agent.sh` sends too. The order of the steps is the fleet's business.

use std::time::Duration;

use serde::Serialize;

use super::{ActionError, Plan, invalid};
use crate::model::AgentMode;
use crate::quote::quote;

/// A megabyte over a slow line, and a service manager that takes its time.
const TIMEOUT: Duration = Duration::from_secs(600);
/// Where a serve agent answers when nobody names a port.
pub const DEFAULT_PORT: u16 = 8083;
/// Below are ports that an unprivileged user cannot have.
const LOWEST_PORT: u16 = 1024;

/// Sent over standard input to `sh -s`, as `deploy-agent.sh` does.
pub const SCRIPT: &str = include_str!("../../scripts/agent/manage.sh");

/// The agent that a server is to have.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct AgentDeployment {
    pub mode: AgentMode,
    /// Where it reports to, for [`AgentMode::Push`]: `https://host[:port][/path]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Where it answers on the server's loopback, for [`AgentMode::Serve`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl AgentDeployment {
    /// From the words of a form or a request: mode, port and url; `stream` where no mode is given.
    ///
    /// # Errors
    /// [`ActionError::Invalid`] names the word and what would be accepted.
    pub fn parse(mode: Option<&str>, port: Option<&str>, url: Option<&str>) -> Result<Self, ActionError> {
        let mode = match mode {
            None | Some("") => AgentMode::Stream,
            Some(word) => word.parse::<AgentMode>().map_err(|error| invalid("mode", error.to_string()))?,
        };
        let given = port.map(str::trim).filter(|text| !text.is_empty());
        let port = match (mode, given) {
            (AgentMode::Stream | AgentMode::Push, None) => None,
            (AgentMode::Stream | AgentMode::Push, Some(_)) => {
                return Err(invalid("port", "only an agent in serve mode has a port; leave it out"));
            }
            (AgentMode::Serve, None) => Some(DEFAULT_PORT),
            (AgentMode::Serve, Some(text)) => {
                let port = text.parse::<u16>().ok().filter(|port| *port >= LOWEST_PORT);
                Some(port.ok_or_else(|| invalid("port", "port must be a number from 1024 to 65535"))?)
            }
        };
        let given = url.map(str::trim).filter(|text| !text.is_empty());
        let url = match (mode, given) {
            (AgentMode::Push, Some(text)) => Some(central(text)?),
            (AgentMode::Push, None) => {
                return Err(invalid(
                    "url",
                    "url is missing: the address of Roundsman as that server reaches it",
                ));
            }
            (_, None) => None,
            (_, Some(_)) => return Err(invalid("url", "only an agent in push mode reports to an address")),
        };
        Ok(Self { mode, url, port })
    }

    pub(super) fn title(&self) -> String {
        match (self.port, &self.url) {
            (Some(port), _) => format!("Deploy the agent as a service on 127.0.0.1:{port}"),
            (None, Some(url)) => format!("Deploy the agent as a service that reports to {url}"),
            (None, None) => "Deploy the agent".to_owned(),
        }
    }

    /// What is sent, for a person.
    pub(super) fn plan(&self) -> Plan {
        let mut text = "sh -s -- place SHA256 BYTES <scripts/agent/manage.sh\n\
             # Then the agent for the server's processor is uploaded to the place that it named, and:\n\
             sh -s -- finish PLACE SHA256 <scripts/agent/manage.sh\n"
            .to_owned();
        if let Some(port) = self.port {
            text.push_str(&format!(
                "# As root, with what it is to be asked with in a file:\nsh -s -- serve PLACE {port} PLACE.word <scripts/agent/manage.sh\n"
            ));
        }
        if let Some(url) = &self.url {
            text.push_str(&format!(
                "# As root, with {url} and what the server shows there in a file:\n\
                 sh -s -- push PLACE PLACE.env <scripts/agent/manage.sh\n"
            ));
        }
        text.push_str("# At last a reading is taken with it.");
        Plan::of_text(text, TIMEOUT)
    }
}

/// The address that an agent reports to; what goes into its file of settings holds nothing that a shell reads.
fn central(text: &str) -> Result<String, ActionError> {
    const URL_BYTES: usize = 500;
    let wrong = || invalid("url", "url must be https://HOST[:PORT][/PATH], or http on the server itself");
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~:/[]%".contains(c);
    let host = rest.split('/').next().unwrap_or_default();
    if text.len() > URL_BYTES || host.is_empty() || !rest.chars().all(plain) {
        return Err(wrong());
    }
    let is_loopback = ["127.0.0.1", "localhost", "[::1]"]
        .iter()
        .any(|here| host.strip_prefix(here).is_some_and(|port| port.is_empty() || port.starts_with(':')));
    match scheme {
        "https" => {}
        "http" if is_loopback => {}
        "http" => {
            return Err(invalid(
                "url",
                "http to another machine shows the token to everybody on the way; use https",
            ));
        }
        _ => return Err(wrong()),
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// What is sent to take the agent away, for a person.
pub(super) fn removal_plan() -> Plan {
    Plan::of_text("sh -s -- remove <scripts/agent/manage.sh".to_owned(), TIMEOUT)
}

/// The command that runs [`SCRIPT`] from its standard input with these words.
///
/// # Errors
/// [`ActionError::Invalid`] for a word that no shell takes.
pub fn manage(words: &[&str]) -> Result<String, ActionError> {
    let mut command = "sh -s --".to_owned();
    for word in words {
        command.push(' ');
        command.push_str(&quote(word).map_err(|error| invalid("path", error.to_string()))?);
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_ports_are_validated() {
        let parse = |mode, port| AgentDeployment::parse(mode, port, None);
        let push = |url| AgentDeployment::parse(Some("push"), None, Some(url));
        assert_eq!(push("https://hub.example.net/").unwrap().url.as_deref(), Some("https://hub.example.net"));
        assert!(push("http://127.0.0.1:9083").is_ok() && push("http://[::1]:9083").is_ok());
        for url in [
            "http://hub",
            "http://127.0.0.1.evil",
            "https://",
            "hub",
            "ftp://hub",
            "https://h u",
            "https://h;id",
            "https://$(id)",
        ] {
            assert!(push(url).is_err(), "{url}");
        }
        assert!(AgentDeployment::parse(Some("serve"), None, Some("https://hub")).is_err());
        assert_eq!(parse(None, None).unwrap().mode, AgentMode::Stream);
        assert_eq!(parse(Some("serve"), None).unwrap().port, Some(DEFAULT_PORT));
        assert_eq!(parse(Some("serve"), Some("9000")).unwrap().port, Some(9000));
        for (mode, port) in [
            (Some("push"), None),
            (Some("daemon"), None),
            (Some("stream"), Some("9000")),
            (Some("serve"), Some("80")),
            (Some("serve"), Some("x")),
        ] {
            assert!(parse(mode, port).is_err(), "{mode:?} {port:?}");
        }
    }
}
