//! `action`: any kind of action on one or many servers.
//!
//! The kind and its parameters are judged by [`crate::actions`]; what is dangerous names what it touches and asks.

use std::process::ExitCode;

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::{Map, json};

use super::answers::Look;
use super::client::Client;
use super::error::CliError;
use super::exec::show_plan;
use super::follow::{OnInterrupt, carry_out};
use super::machine::confirmed;
use super::operations::OPERATIONS;
use super::output::Output;
use super::parameters::{Environment, Parameters};
use super::rolling::Rolling;
use super::selection::{Selection, names};
use crate::actions::Action;
use crate::operations::parameter;

#[derive(Debug, Args)]
#[command(after_help = "docs/actions.md and docs/files.md say what each kind takes. Examples:\n  \
    roundsman action restart_service --service nginx --tag web --batch 1,25% --health-gate 2m\n  \
    roundsman action run_script web-1 --parameter-file script=fix.sh -p arguments=--all --env MODE=fast\n  \
    roundsman action update_configuration --group web -p path=/etc/motd --parameter-file content=motd -p sudo=true\n  \
    roundsman action reboot db-1 --dry-run")]
pub struct ActionCommand {
    /// What is done
    #[arg(value_name = "KIND", value_parser = PossibleValuesParser::new(Action::KINDS), hide_possible_values = true)]
    kind: String,
    /// Names or ids of the servers
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// The service, as its manager names it; the same as -p service=
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// The container, which is Docker's unless podman: stands before its name
    #[arg(long, value_name = "[ENGINE:]NAME")]
    container: Option<String>,
    /// As root with sudo, where the kind leaves the choice; the same as -p sudo=true
    #[arg(long)]
    sudo: bool,
    #[command(flatten)]
    parameters: Parameters,
    #[command(flatten)]
    environment: Environment,
    /// Let a command or script go on when the connection is lost or Roundsman restarts
    #[arg(long, visible_alias = "detached")]
    detach: bool,
    /// Only say what would be sent where
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before what is dangerous
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    look: Look,
    #[command(flatten)]
    selection: Selection,
    #[command(flatten)]
    rolling: Rolling,
}

impl ActionCommand {
    pub(super) async fn run(mut self, client: &Client, output: &Output) -> Result<ExitCode, CliError> {
        let parameters = self.parameters()?;
        let action = Action::parse(&self.kind, parameter(&parameters))
            .map_err(|error| CliError::usage(error.to_string()))?;
        self.selection.servers.append(&mut self.names);
        let selector = self.selection.selector();
        if selector.is_empty() {
            return Err(CliError::usage(
                "name servers, or choose them with --server, --group, --tag, --region, … or --all",
            ));
        }
        let body = json!({
            "operation_type": self.kind,
            "filter_criteria": selector,
            "strategy": self.rolling.strategy()?,
            "parameters": parameters,
            "dry_run": self.dry_run,
        });
        if self.dry_run {
            return show_plan(&client.post(OPERATIONS, &body).await?, output);
        }
        match action.danger() {
            Some(danger) if !self.yes => self.ask(client, &action.title(), danger, output).await?,
            _ => self.selection.announce(client, output).await?,
        }
        let on_interrupt = if self.detach { OnInterrupt::Leave } else { OnInterrupt::Cancel };
        carry_out(client, &body, on_interrupt, self.look, output).await
    }

    fn parameters(&self) -> Result<Map<String, serde_json::Value>, CliError> {
        let mut parameters = Map::new();
        if let Some(service) = &self.service {
            parameters.insert("service".to_owned(), json!(service));
        }
        if let Some(container) = &self.container {
            parameters.insert("container".to_owned(), super::exec::container(container));
        }
        if self.sudo {
            parameters.insert("sudo".to_owned(), json!(true));
        }
        if self.detach {
            parameters.insert("detached".to_owned(), json!(true));
        }
        self.environment.add_to(&mut parameters)?;
        self.parameters.add_to(&mut parameters)?;
        Ok(parameters)
    }

    /// Names what will be touched, and goes on only after a yes.
    async fn ask(&self, client: &Client, title: &str, danger: &str, output: &Output) -> Result<(), CliError> {
        let found = self.selection.preview(client).await?;
        output.remark(&format!("{title} on {}. {danger}", names(&found)))?;
        if !output.interactive {
            return Err(CliError::usage("nothing was done; say --yes if it is meant"));
        }
        if confirmed("Type yes to go on:")? { Ok(()) } else { Err(CliError::failed("nothing was done")) }
    }
}
