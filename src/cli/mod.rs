//! The command line: arguments in, a request to the server, an answer that a person or a program can read.
//!
//! Decides nothing by itself: every command asks the REST API, so its rules are the server's. `serve` is not done
//! here but by [`crate::app`].

mod action;
mod add;
mod alone;
mod answers;
mod audit;
mod backup;
mod cadence;
mod client;
mod connect;
mod cp;
mod dependencies;
mod deploy;
mod details;
mod doctor;
mod error;
mod exec;
mod export;
mod follow;
mod groups;
mod help;
mod host_keys;
mod import;
mod integrity;
mod keys;
mod known_hosts;
mod machine;
mod metrics;
mod operations;
mod output;
mod parameters;
mod private_key;
mod progress;
mod restore;
mod rolling;
mod selection;
mod servers;
mod tasks;
mod tokens;
mod users;
mod watched;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use connect::{NotOpened, Opened, Opening, Resealing, StandAlone};
pub use error::{CliError, report};
pub use selection::Selection;

use crate::config::Flags;
use crate::services::VERSION;
use connect::{Connected, connect};
use output::Output;

/// Looks after a fleet of Linux servers over SSH.
#[derive(Debug, Parser)]
#[command(name = "roundsman", version, about, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 refused or failed, 2 wrong use, 3 no Roundsman reached; \
    exec answers with the status of the command, or for several servers 0 all, 1 some, 2 none succeeded.\n\
    Without --url, commands talk to the Roundsman of this machine through its control socket, or open its data \
    directory themselves when it is not running.";

/// Options of every command.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// Data directory [default: of the running Roundsman, else /var/lib/roundsman as root and ./data for others]
    #[arg(long, global = true, value_name = "DIR", display_order = 100)]
    pub data: Option<PathBuf>,
    /// Address of a Roundsman elsewhere, beginning with https:// [env: ROUNDSMAN_URL]
    #[arg(long, global = true, value_name = "URL", display_order = 101)]
    pub url: Option<String>,
    /// Access token for --url; better in ROUNDSMAN_TOKEN or in the file that ROUNDSMAN_TOKEN_FILE names, where other users cannot see it
    #[arg(long, global = true, value_name = "TOKEN", display_order = 102)]
    pub token: Option<String>,
    /// Send the token over plain http to another machine, where whoever listens can read it
    #[arg(long, global = true, display_order = 103)]
    pub insecure_http: bool,
    /// Print JSON
    #[arg(long, global = true, display_order = 104)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run Roundsman: read the servers, serve the pages and the API
    Serve(Serve),
    /// Enrol a server
    Add(Box<add::Add>),
    /// Add many servers: from ssh_config, an Ansible inventory, CSV, JSON or lines of user@host
    Import(Box<import::Import>),
    /// List servers
    List(servers::List),
    /// Show one server
    Show(servers::Show),
    /// Remove a server and its history
    Remove(servers::Remove),
    /// How often servers are read: show it, or change it while Roundsman runs
    Cadence(cadence::Cadence),
    /// Run a command on one or many servers
    Exec(Box<exec::Exec>),
    /// Do anything else to servers: services, containers, scripts, files, packages, reboots, diagnostics
    Action(Box<action::ActionCommand>),
    /// Copy a file to servers or from them
    Cp(Box<cp::Cp>),
    /// Bring the agent to servers, which makes readings cheaper and richer, or take it away
    Deploy(deploy::Deploy),
    /// What became of operations
    #[command(subcommand)]
    Op(operations::OperationCommand),
    /// Operations on a schedule: list, add, edit, run, switch on and off
    #[command(subcommand)]
    Task(tasks::TaskCommand),
    /// Groups of servers
    #[command(subcommand)]
    Group(groups::GroupCommand),
    /// What a service needs of other servers; operations go in that order with --by-dependencies
    #[command(subcommand)]
    Dependency(dependencies::DependencyCommand),
    /// SSH keys that Roundsman keeps
    #[command(subcommand)]
    Key(keys::KeyCommand),
    /// Host keys of the servers: by whose word they are trusted, and what is weak
    HostKeys(host_keys::HostKeys),
    /// Lines of known_hosts files that Roundsman takes as approved, or refuses
    #[command(subcommand)]
    KnownHosts(host_keys::KnownHostsCommand),
    /// Custom metrics: commands whose output is values
    #[command(subcommand)]
    Metric(metrics::MetricCommand),
    /// Services that no service manager knows, watched by their processes
    #[command(subcommand)]
    Service(watched::ServiceCommand),
    /// Access tokens for the API
    #[command(subcommand)]
    Token(tokens::TokenCommand),
    /// People who log in
    #[command(subcommand)]
    User(users::UserCommand),
    /// Find out what is wrong with this installation, and how to put it right
    Doctor(doctor::Options),
    /// Write everything that is kept into one file, while Roundsman runs
    Backup(backup::Backup),
    /// Make a data directory out of a backup
    Restore(restore::RestoreCommand),
    /// Write a whole table as CSV or JSON
    Export(export::Export),
    /// Who did what, and whether the log of it is whole
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Print what a shell needs to complete the command line
    Completions(help::Completions),
    /// Print the manual page, or write one for each command
    Man(help::Man),
    /// Print the version
    Version,
}

/// Options of `serve`.
#[derive(Debug, Clone, Default, Args)]
pub struct Serve {
    /// Address and port to serve on; may be given several times [default: 127.0.0.1:9083]
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<String>,
    /// Configuration file [default: /etc/roundsman/config.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Allow addresses that other machines can reach, without TLS
    #[arg(long)]
    pub insecure_listen: bool,
    /// Time between two readings of a server, 1s to 1h [default: 5s]
    #[arg(long, value_name = "TIME")]
    pub interval: Option<String>,
    /// How log lines are written to stderr [default: text]
    #[arg(long, value_name = "text|json")]
    pub log_format: Option<String>,
    /// Directory of the agents that can be deployed [default: agents, beside this program]
    #[arg(long, value_name = "DIR")]
    pub agents: Option<PathBuf>,
}

impl Serve {
    /// What the command line said, for [`crate::config::Config::load`].
    #[must_use]
    pub fn flags(&self, global: &Global) -> Flags {
        Flags {
            config: self.config.clone(),
            data: global.data.clone(),
            listen: self.listen.clone(),
            insecure_listen: self.insecure_listen,
            interval: self.interval.clone(),
            log_format: self.log_format.clone(),
            agents: self.agents.clone(),
        }
    }
}

/// Does a command other than `serve`. `stand_alone` opens a data directory that no server runs on.
pub async fn run(arguments: Arguments, stand_alone: &dyn StandAlone) -> ExitCode {
    let output = Output::of_process(arguments.global.json);
    match command(arguments, stand_alone, &output).await {
        Ok(code) => code,
        Err(error) => report(&error, output.json),
    }
}

async fn command(
    arguments: Arguments,
    stand_alone: &dyn StandAlone,
    output: &Output,
) -> Result<ExitCode, CliError> {
    let Arguments { global, command } = arguments;
    let command = match command {
        Command::Version => return output.version(VERSION).map(|()| ExitCode::SUCCESS),
        Command::Doctor(options) => {
            return doctor::run(&global, &options, stand_alone, output).await.map(|()| ExitCode::SUCCESS);
        }
        Command::Restore(command) => {
            return command.run(&global, output).await.map(|()| ExitCode::SUCCESS);
        }
        Command::Key(keys::KeyCommand::Reseal(command)) => {
            return command.run(&global, stand_alone, output).await.map(|()| ExitCode::SUCCESS);
        }
        Command::Completions(command) => return command.run().map(|()| ExitCode::SUCCESS),
        Command::Man(command) => return command.run().map(|()| ExitCode::SUCCESS),
        Command::Exec(command) if command.is_alone() => return command.run_alone(output).await,
        Command::Serve(_) => return Err(CliError::usage("serve is not a command of a client")),
        command => command,
    };
    let Connected { client, opened } = connect(&global, stand_alone).await?;
    let mut code = ExitCode::SUCCESS;
    let done = match command {
        Command::Exec(command) => command.run(&client, output).await.map(|status| code = status),
        Command::Deploy(command) => command.run(&client, output).await.map(|status| code = status),
        Command::Op(command) => command.run(&client, output).await.map(|status| code = status),
        Command::Task(command) => command.run(&client, output).await.map(|status| code = status),
        Command::Add(command) => command.run(&client, output).await,
        Command::Import(command) => command.run(&client, output).await.map(|status| code = status),
        Command::List(command) => command.run(&client, output).await,
        Command::Show(command) => command.run(&client, output).await,
        Command::Remove(command) => command.run(&client, output).await,
        Command::Cadence(command) => command.run(&client, output).await,
        Command::Group(command) => command.run(&client, output).await,
        Command::Key(command) => command.run(&client, output).await.map(|status| code = status),
        Command::HostKeys(command) => command.run(&client, output).await,
        Command::KnownHosts(command) => command.run(&client, output).await.map(|status| code = status),
        Command::Cp(command) => command.run(&client, output).await.map(|status| code = status),
        Command::Action(command) => command.run(&client, output).await.map(|status| code = status),
        Command::Dependency(command) => command.run(&client, output).await,
        Command::Metric(command) => command.run(&client, output).await,
        Command::Service(command) => command.run(&client, output).await,
        Command::Token(command) => command.run(&client, output).await,
        Command::User(command) => command.run(&client, output).await,
        Command::Backup(command) => command.run(&client, output).await,
        Command::Export(command) => command.run(&client, output).await,
        Command::Audit(command) => command.run(&client, output).await,
        Command::Serve(_)
        | Command::Doctor(_)
        | Command::Restore(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Version => Ok(()),
    };
    if let Some(opened) = opened {
        opened.close().await;
    }
    done.map(|()| code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn global_options_may_stand_after_the_command() {
        let parsed =
            Arguments::try_parse_from(["roundsman", "list", "--json", "--data", "/srv/r", "--tag", "web"])
                .unwrap();
        assert!(parsed.global.json);
        assert_eq!(parsed.global.data, Some(PathBuf::from("/srv/r")));
    }
}
