//! `exec` without a Roundsman: straight to hosts over SSH, with the keys, the known_hosts and the configuration of whoever
//! runs it. Nothing is stored but host keys that were accepted.
//!
//! The command is built, judged and folded by the same code as an operation; only the ledger is missing.

mod hosts;
mod identities;
mod reach;
mod run;
mod trust;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{ArgGroup, Args};
use serde_json::{Map, Value, json};

use super::answers::Look;
use super::error::CliError;
use super::import::files::Machine;
use super::machine::{hidden_answer, password_file};
use super::output::{Output, printable};
use crate::actions::{Action, Plan, Surroundings};
use crate::config::parse_interval;
use crate::fleet::import::Candidate;
use crate::model::ServiceManager;
use crate::operations::{Strategy, parameter};
use hosts::Host;
use identities::{Identities, Named};
use reach::{Reach, Way};
use trust::Trust;

/// Straight to hosts, without a running Roundsman.
#[derive(Debug, Args)]
#[command(
    next_help_heading = "Without a Roundsman",
    group(ArgGroup::new("alone").args(["hosts", "ssh_config"]).multiple(true))
)]
pub(super) struct Alone {
    /// These hosts, over SSH from here: user@host:port with commas between
    #[arg(long, value_name = "HOST,…", value_delimiter = ',')]
    hosts: Vec<String>,
    /// Names are hosts of this configuration of OpenSSH, also with * and ?; --all means all of them [default: ~/.ssh/config]
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "~/.ssh/config")]
    ssh_config: Option<PathBuf>,
    /// Private key to log in with instead of those that ssh tries; may be given several times
    #[arg(short = 'i', long = "identity", value_name = "FILE", requires = "alone")]
    identities: Vec<PathBuf>,
    /// File whose first line is the passphrase of the keys
    #[arg(long, value_name = "FILE", requires = "alone")]
    passphrase_file: Option<PathBuf>,
    /// File whose first line is the password of the login, which is then offered instead of keys
    #[arg(long, value_name = "FILE", requires = "alone", conflicts_with_all = ["identities", "ask_password"])]
    password_file: Option<PathBuf>,
    /// Ask for the password of the login
    #[arg(long, requires = "alone", conflicts_with = "identities")]
    ask_password: bool,
    /// Compare host keys with this file [default: ~/.ssh/known_hosts and those of the system]
    #[arg(long, value_name = "FILE", requires = "alone")]
    known_hosts: Option<PathBuf>,
    /// Take the key of a host that is not known yet, and write it to known_hosts; one that has changed stays refused
    #[arg(long, requires = "alone")]
    accept_new: bool,
    /// Give each step of connecting this time, 1s to 1h [default: 10s]
    #[arg(long, value_name = "TIME", requires = "alone")]
    connect_timeout: Option<String>,
}

/// What is to be done.
pub(super) struct Job {
    /// Names behind the command's own word.
    pub(super) words: Vec<String>,
    pub(super) all: bool,
    /// Those of `run_command`.
    pub(super) parameters: Map<String, Value>,
    pub(super) strategy: Strategy,
    pub(super) look: Look,
    pub(super) dry_run: bool,
}

/// One host of a job.
struct Leg {
    name: String,
    way: Way,
    plan: Plan,
}

impl Alone {
    pub(super) const fn is_meant(&self) -> bool {
        !self.hosts.is_empty() || self.ssh_config.is_some()
    }

    /// # Errors
    /// [`CliError::Usage`] and [`CliError::Failed`] before anything is sent; what hosts answer is no error.
    pub(super) async fn run(self, job: Job, output: &Output) -> Result<std::process::ExitCode, CliError> {
        let action = Action::parse("run_command", parameter(&job.parameters))
            .map_err(|error| CliError::usage(error.to_string()))?;
        needs_no_roundsman(&job.strategy)?;
        let machine = Machine::new(None);
        let words = [self.hosts.as_slice(), &job.words].concat();
        let hosts = hosts::chosen(&words, self.ssh_config.as_deref(), job.all, &machine)?;
        let timeout = self.connect_timeout.as_deref().map(parse_interval).transpose();
        let timeout = timeout.map_err(CliError::usage)?;
        let trust = Trust::read(self.known_hosts.as_deref(), Path::new(machine.home()), self.accept_new)?;
        let reach = Reach::new(trust, timeout);
        let mut identities = Identities::of_user(&machine, self.named(job.dry_run)?, output).await;
        let legs = hosts
            .into_iter()
            .map(|host| leg(host, &action, &machine, &mut identities))
            .collect::<Result<Vec<_>, _>>()?;
        if job.dry_run {
            return show_plan(&legs, output);
        }
        run::run(Arc::new(legs), reach, &job, output).await
    }

    fn named(&self, dry_run: bool) -> Result<Named, CliError> {
        let password = match &self.password_file {
            Some(file) => Some(password_file(file)?),
            None if self.ask_password && !dry_run => Some(hidden_answer("Password of the login: ")?),
            None => None,
        };
        let passphrase_file = self.passphrase_file.clone();
        Ok(Named { files: self.identities.clone(), passphrase_file, password })
    }
}

fn needs_no_roundsman(strategy: &Strategy) -> Result<(), CliError> {
    let only = |option: &str| {
        Err(CliError::usage(format!(
            "{option} needs a Roundsman that knows the servers; leave out --hosts and --ssh-config"
        )))
    };
    match strategy {
        Strategy { health_gate_s: Some(_), .. } => only("--health-gate"),
        Strategy { when_busy: Some(_), .. } => only("--queue"),
        Strategy { by_dependencies: true, .. } => only("--by-dependencies"),
        _ => Ok(()),
    }
}

fn leg(
    host: Host,
    action: &Action,
    machine: &Machine,
    identities: &mut Identities<'_>,
) -> Result<Leg, CliError> {
    let way = way(host.at, machine, identities)?;
    let around = Surroundings {
        service_manager: ServiceManager::Unknown,
        is_root: way.user == "root",
        sudo_password: false,
    };
    let plan = action.plan(around).map_err(|error| CliError::usage(error.to_string()))?;
    Ok(Leg { name: host.name, way, plan })
}

fn way(mut at: Candidate, machine: &Machine, identities: &mut Identities<'_>) -> Result<Way, CliError> {
    let hops = std::mem::take(&mut at.jump);
    let hops = hops.into_iter().map(|hop| way(hop, machine, identities)).collect::<Result<Vec<_>, _>>()?;
    let user = at.user.clone().unwrap_or_else(|| machine.user().to_owned());
    let offers = identities.of(&at)?;
    let nothing = if offers.is_empty() { identities.nothing() } else { String::new() };
    Ok(Way { at, user, offers, nothing, hops })
}

fn show_plan(legs: &[Leg], output: &Output) -> Result<std::process::ExitCode, CliError> {
    let address = |way: &Way| {
        let port = way.at.port.unwrap_or(22);
        let host = if way.at.host.contains(':') { format!("[{}]", way.at.host) } else { way.at.host.clone() };
        format!("{}@{host}:{port}", way.user)
    };
    let whole = |leg: &Leg| {
        let hops = leg.way.hops.iter().map(|hop| format!(" by {}", address(hop)));
        format!("{}{}", address(&leg.way), hops.collect::<String>())
    };
    if output.json {
        let targets: Vec<Value> = legs
            .iter()
            .map(|leg| json!({ "server_name": leg.name, "address": whole(leg), "command": leg.plan.command }))
            .collect();
        output.value(&json!({ "dry_run": true, "targets": targets }))?;
    } else {
        let rows = legs.iter().map(|leg| vec![printable(&leg.name), whole(leg), leg.plan.command.clone()]);
        output.table(&["HOST", "ADDRESS", "WOULD BE SENT"], &[], rows.collect())?;
    }
    Ok(std::process::ExitCode::SUCCESS)
}
