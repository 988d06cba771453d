//! `deploy`: the agent to one or many servers, or away from them.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::answers::Look;
use super::client::Client;
use super::error::CliError;
use super::exec::show_plan;
use super::follow::{OnInterrupt, carry_out};
use super::operations::OPERATIONS;
use super::output::{Output, text};

const SERVERS: &str = "/api/v1/fleet/servers";

#[derive(Debug, Args)]
pub struct Deploy {
    /// Names or ids of the servers
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "tags"])]
    servers: Vec<String>,
    /// Every server that is reached over SSH
    #[arg(long, conflicts_with = "servers")]
    all: bool,
    /// Servers with this tag; may be given several times, then those with all of them
    #[arg(long = "tag", value_name = "TAG", conflicts_with = "servers")]
    tags: Vec<String>,
    /// How it works there: only while Roundsman reads, as a service on the server's loopback, or as one that reports
    #[arg(long, value_name = "stream|serve|push", default_value = "stream")]
    mode: String,
    /// Where a serve agent answers [default: 8083]
    #[arg(long, value_name = "PORT", conflicts_with = "remove")]
    port: Option<u16>,
    /// Where a push agent reports to: Roundsman, as the servers reach it
    #[arg(long, value_name = "URL", conflicts_with_all = ["remove", "port"])]
    url: Option<String>,
    /// Take the agent away: its service, its user, its files
    #[arg(long)]
    remove: bool,
    /// Only say what would be sent where
    #[arg(long)]
    dry_run: bool,
}

impl Deploy {
    pub(super) async fn run(self, client: &Client, output: &Output) -> Result<ExitCode, CliError> {
        let servers = self.chosen(client).await?;
        let (kind, parameters) = if self.remove {
            ("remove_agent", json!({}))
        } else {
            let mut parameters = json!({ "mode": self.mode });
            if let (Some(port), Some(members)) = (self.port, parameters.as_object_mut()) {
                members.insert("port".to_owned(), json!(port));
            }
            if let (Some(url), Some(members)) = (&self.url, parameters.as_object_mut()) {
                members.insert("url".to_owned(), json!(url));
            }
            ("deploy_agent", parameters)
        };
        let body = json!({
            "operation_type": kind, "server_ids": servers, "parameters": parameters, "dry_run": self.dry_run,
        });
        if self.dry_run {
            return show_plan(&client.post(OPERATIONS, &body).await?, output);
        }
        carry_out(client, &body, OnInterrupt::Cancel, Look::default(), output).await
    }

    async fn chosen(&self, client: &Client) -> Result<Vec<String>, CliError> {
        if !self.servers.is_empty() {
            return Ok(self.servers.clone());
        }
        let tags = self.tags.join(",");
        let query: Vec<(&str, &str)> = if tags.is_empty() { Vec::new() } else { vec![("tags", &tags)] };
        let found = client.all(SERVERS, &query).await?;
        let of_ssh = found.iter().filter(|server| text(server, "transport") == "ssh");
        let ids: Vec<String> = of_ssh.map(|server: &Value| text(server, "id").to_owned()).collect();
        if ids.is_empty() {
            return Err(CliError::usage("no server over SSH fits"));
        }
        Ok(ids)
    }
}
