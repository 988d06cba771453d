//! `token`: access tokens for the API.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, segment};
use super::error::CliError;
use super::output::{Output, UNKNOWN, ago, text};
use crate::clock::{Clock, SystemClock};
use crate::model::{Role, Timestamp};

const TOKENS: &str = "/api/v1/tokens";
const DAY_S: u64 = 86_400;
/// A century; a longer life is a mistake in the unit.
const LONGEST_DAYS: u64 = 36_500;

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it; it is shown this once
    Create(Create),
    /// List the tokens, without the tokens themselves
    List,
    /// Give a token another secret and print it; it is shown this once
    Rotate(Rotate),
    /// Make a token worthless
    Revoke(Revoke),
}

#[derive(Debug, Args)]
pub struct Create {
    /// viewer sees, operator also acts, admin also changes
    #[arg(
        long,
        value_name = "admin|operator|viewer",
        required_unless_present = "scope",
        conflicts_with = "scope"
    )]
    role: Option<Role>,
    /// enrol: servers register themselves with it and report; it opens nothing else
    #[arg(long, value_parser = ["enrol"])]
    scope: Option<String>,
    /// What the token is for
    #[arg(long)]
    name: Option<String>,
    /// How long it is valid, for example 90d or 12h [default: until it is revoked]
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// Address or network that may use it, for example 10.0.0.0/8; may be given several times [default: any]
    #[arg(long, value_name = "NETWORK")]
    allow_from: Vec<String>,
    /// Requests a minute at most [default: no limit]
    #[arg(long, value_name = "NUMBER")]
    rate: Option<u32>,
}

#[derive(Debug, Args)]
pub struct Rotate {
    /// Id of the token, as 'token list' shows it
    id: String,
    /// How long the present secret is still accepted, for example 24h [default: not at all]
    #[arg(long, value_name = "TIME")]
    grace: Option<String>,
}

#[derive(Debug, Args)]
pub struct Revoke {
    /// Id of the token, as 'token list' shows it
    id: String,
}

impl TokenCommand {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        match self {
            Self::Create(command) => command.run(client, output).await,
            Self::List => show(client, output).await,
            Self::Rotate(command) => {
                let grace_s = match &command.grace {
                    Some(text) => lifetime("--grace", text)?.as_secs(),
                    None => 0,
                };
                let path = format!("{TOKENS}/{}/rotate", segment(&command.id)?);
                printed(&client.post(&path, &json!({ "grace_seconds": grace_s })).await?, output)
            }
            Self::Revoke(command) => {
                client.delete(&format!("{TOKENS}/{}", segment(&command.id)?)).await?;
                if output.json {
                    output.value(&json!({ "revoked": command.id }))
                } else {
                    output.line(&format!("Revoked {}.", command.id))
                }
            }
        }
    }
}

impl Create {
    async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        let expires_at = match &self.expires {
            Some(text) => Some(SystemClock.now() + lifetime("--expires", text)?),
            None => None,
        };
        let name = self.name.unwrap_or_else(|| "command line".to_owned());
        let body = json!({
            "name": name,
            "role": self.role,
            "scope": self.scope,
            "expires_at": expires_at,
            "allowed_from": self.allow_from,
            "requests_per_minute": self.rate,
        });
        printed(&client.post(TOKENS, &body).await?, output)
    }
}

fn printed(token: &Value, output: &Output) -> Result<(), CliError> {
    if output.json {
        return output.value(token);
    }
    // Only the token: scripts take it with $(…).
    output.line(text(token, "token"))
}

async fn show(client: &Client, output: &Output) -> Result<(), CliError> {
    let tokens = client.all(TOKENS, &[]).await?;
    if output.json {
        return output.value(&Value::Array(tokens));
    }
    let rows = tokens
        .iter()
        .map(|token| {
            let used = text(token, "last_used_at");
            vec![
                text(token, "id").to_owned(),
                text(token, "name").to_owned(),
                match text(token, "role") {
                    "" => text(token, "scope").to_owned(),
                    role => role.to_owned(),
                },
                if used.is_empty() { UNKNOWN.to_owned() } else { ago(used) },
                state(token),
            ]
        })
        .collect();
    output.table(&["ID", "NAME", "ROLE", "USED", "VALID"], &[], rows)
}

/// Until when the token opens the door.
fn state(token: &Value) -> String {
    let expires = text(token, "expires_at");
    if !text(token, "revoked_at").is_empty() {
        "revoked".to_owned()
    } else if expires.is_empty() {
        "until revoked".to_owned()
    } else if Timestamp::parse(expires).is_some_and(|end| end <= SystemClock.now()) {
        "expired".to_owned()
    } else {
        format!("until {expires}")
    }
}

/// `90d`, `12h`, `2w`, at least an hour.
fn lifetime(option: &str, text: &str) -> Result<Duration, CliError> {
    let wrong =
        || CliError::usage(format!("{option}: '{text}' is not a time; use for example 90d, 12h or 2w"));
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..).unwrap_or_default() {
        "h" => 3600,
        "d" => DAY_S,
        "w" => 7 * DAY_S,
        _ => return Err(wrong()),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(unit))
        .filter(|seconds| (1..=LONGEST_DAYS * DAY_S).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_needs_a_unit() {
        assert_eq!(lifetime("--expires", "90d").unwrap(), Duration::from_secs(90 * DAY_S));
        assert_eq!(lifetime("--expires", "12h").unwrap(), Duration::from_secs(12 * 3600));
        for bad in ["90", "0d", "-1d", "d", "99999999999999999999d", "200000d", "soon", "5ü"] {
            assert!(lifetime("--expires", bad).is_err(), "{bad}");
        }
    }
}
