//! `audit`: who did what, and whether the log of it is whole.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::Client;
use super::error::CliError;
use super::output::{Output, text, text_or_unknown};

/// Entries shown unless more are asked for.
const SHOWN: usize = 50;
const MOST: usize = 1000;

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Show the newest entries
    List(List),
    /// Check that no entry was changed or taken away
    Verify,
}

#[derive(Debug, Args)]
pub struct List {
    /// How many entries, 1 to 1000; 'roundsman export audit' gives all
    #[arg(long, default_value_t = SHOWN, value_parser = limit)]
    limit: usize,
}

fn limit(text: &str) -> Result<usize, String> {
    let number = text.parse::<usize>().ok().filter(|number| (1..=MOST).contains(number));
    number.ok_or_else(|| format!("use a number from 1 to {MOST}"))
}

impl AuditCommand {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<(), CliError> {
        match self {
            Self::List(list) => show(client, output, list.limit).await,
            Self::Verify => verify(client, output).await,
        }
    }
}

async fn show(client: &Client, output: &Output, limit: usize) -> Result<(), CliError> {
    let page = client.get(&format!("/api/v1/audit?limit={limit}")).await?;
    let entries = page.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    if output.json {
        return output.value(&json!(entries));
    }
    let row = |entry: &Value| {
        vec![
            text(entry, "at").to_owned(),
            text(entry, "actor").to_owned(),
            text_or_unknown(entry, "address"),
            text(entry, "action").to_owned(),
            text(entry, "subject").to_owned(),
            text(entry, "result").to_owned(),
            text(entry, "detail").to_owned(),
        ]
    };
    let header = ["AT", "WHO", "FROM", "ACTION", "SUBJECT", "RESULT", "DETAIL"];
    output.table(&header, &[], entries.iter().map(row).collect())
}

async fn verify(client: &Client, output: &Output) -> Result<(), CliError> {
    let chain = client.get("/api/v1/audit/verify").await?;
    let number = |name: &str| chain.get(name).and_then(Value::as_i64);
    if let Some(broken) = number("broken_at") {
        return Err(CliError::failed(format!(
            "the audit log is broken at entry {broken}: it was changed, or one before it was taken away"
        )));
    }
    if output.json {
        return output.value(&chain);
    }
    match (number("entries"), number("first"), number("last")) {
        (Some(entries), Some(first), Some(last)) => {
            output.line(&format!("The audit log is whole: {entries} entries, {first} to {last}."))
        }
        _ => output.line("The audit log is empty."),
    }
}
