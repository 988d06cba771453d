//! `fanout`: one command on many real OpenSSH servers, by Roundsman's SSH layer and by the tools that people use.
//!
//! Every client gets the same servers, account, key and known_hosts, in one run, in turns. What a client's processes
//! use is measured from outside; the servers' own work is not in it.

mod client;
pub mod farm;
mod peers;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::Args;

use crate::report::{Goal, Report, progress};
use client::{Done, Host, Plan};
use farm::Farm;
use peers::{Cost, Peer};

/// What is measured.
#[derive(Debug, Args)]
pub struct Options {
    #[arg(long, default_value_t = 128)]
    servers: usize,
    /// Times that each client is run; the figures are medians.
    #[arg(long, default_value_t = 3)]
    times: usize,
    /// Commands on each server in a warm run.
    #[arg(long, default_value_t = 12)]
    rounds: usize,
    /// Where the Python peers are installed.
    #[arg(long, default_value = "target/bench-peers/bin")]
    peers: PathBuf,
    /// Where the scripts of the Python peers are.
    #[arg(long, default_value = "benches/fleet/peers")]
    scripts: PathBuf,
}

/// The process that [`run`] starts for Roundsman's own turn.
#[derive(Debug, Args)]
pub struct ClientOptions {
    plan: PathBuf,
}

/// # Errors
/// When a server does not answer as it should.
pub async fn run_client(options: &ClientOptions) -> anyhow::Result<()> {
    let done = client::run(&options.plan).await?;
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&done)?)?;
    Ok(())
}

/// What was measured of each client, by its name.
type Costs = BTreeMap<&'static str, Vec<Cost>>;

/// # Errors
/// When a peer is missing, fails, or gets a wrong answer.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let farm = Farm::start(options.servers)?;
    progress(&format!("{} servers listen; account {}", farm.addresses.len(), farm.user));
    let plan = Plan {
        hosts: farm
            .addresses
            .iter()
            .map(|address| Host { host: address.ip().to_string(), port: address.port() })
            .collect(),
        user: farm.user.clone(),
        key: farm.key.clone(),
        known_hosts: farm.known_hosts.clone(),
        host_key: farm.host_key.clone(),
        command: "echo ok".to_owned(),
        answer: "ok".to_owned(),
        rounds: 0,
    };
    let cold_plan = write_plan(farm.directory.path(), "cold.json", &plan)?;
    let warm_plan =
        write_plan(farm.directory.path(), "warm.json", &Plan { rounds: options.rounds, ..plan.clone() })?;
    let all = peers::Setting {
        farm: &farm,
        peers: &options.peers,
        scripts: &options.scripts,
        rounds: options.rounds,
    };
    let mut cold = Costs::new();
    let mut warm = Costs::new();
    for time in 0..options.times {
        for peer in Peer::ALL {
            if time > 0 && peer.is_slow() {
                continue;
            }
            progress(&format!("cold: {}", peer.name()));
            cold.entry(peer.name()).or_default().push(of_peer(peer, || all.cold(peer, &cold_plan))?);
        }
        for peer in Peer::WARM {
            progress(&format!("warm: {}", peer.name()));
            warm.entry(peer.name()).or_default().push(of_peer(peer, || all.warm(peer, &warm_plan))?);
        }
    }
    report(options, &cold, &warm)
}

/// Turns of a peer that may fail before the run does: on a busy machine one loses the answer of a server now and then.
const PEER_TURNS: usize = 3;

/// What `turn` measured. Roundsman's own may not fail once.
fn of_peer(peer: Peer, turn: impl Fn() -> anyhow::Result<Cost>) -> anyhow::Result<Cost> {
    let turns = if peer == Peer::Roundsman { 1 } else { PEER_TURNS };
    for left in (1..turns).rev() {
        match turn() {
            Ok(cost) => return Ok(cost),
            Err(error) => progress(&format!("{} failed, {left} more: {error:#}", peer.name())),
        }
    }
    turn()
}

fn write_plan(directory: &Path, name: &str, plan: &Plan) -> anyhow::Result<PathBuf> {
    let path = directory.join(name);
    std::fs::write(&path, serde_json::to_vec(plan)?)?;
    Ok(path)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// CPU of the client in seconds a command, wall seconds a command.
fn each(costs: &Costs, name: &str) -> anyhow::Result<(f64, f64)> {
    let costs = costs.get(name).with_context(|| format!("{name} was not run"))?;
    let cpu = costs.iter().map(|cost| cost.cpu_s / cost.commands).collect();
    let wall = costs.iter().map(|cost| cost.wall_s / cost.commands).collect();
    Ok((median(cpu), median(wall)))
}

/// The least of the peers' figures and who has it.
fn best(costs: &Costs, figure: fn((f64, f64)) -> f64) -> anyhow::Result<(&'static str, f64)> {
    let mut best: Option<(&'static str, f64)> = None;
    for name in costs.keys().filter(|name| **name != Peer::Roundsman.name()) {
        let value = figure(each(costs, name)?);
        if best.is_none_or(|(_, least)| value < least) {
            best = Some((name, value));
        }
    }
    best.context("no peer was run")
}

fn report(options: &Options, cold: &Costs, warm: &Costs) -> anyhow::Result<()> {
    let own = Peer::Roundsman.name();
    let mut report = Report::default();
    #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
    let servers = options.servers as f64;
    report.count("servers", "servers", options.servers as u64);
    for name in cold.keys() {
        let (cpu, wall) = each(cold, name)?;
        report.figure(
            &format!("cold_{name}_cpu_ms"),
            &format!("cold, {name}: client CPU a server, ms"),
            cpu * 1e3,
            Goal::None,
        );
        report.figure(
            &format!("cold_{name}_wall_s"),
            &format!("cold, {name}: all servers, s"),
            wall * servers,
            Goal::None,
        );
    }
    for name in warm.keys() {
        let (cpu, wall) = each(warm, name)?;
        report.figure(
            &format!("warm_{name}_cpu_us"),
            &format!("warm, {name}: client CPU a command, µs"),
            cpu * 1e6,
            Goal::None,
        );
        report.figure(
            &format!("warm_{name}_per_s"),
            &format!("warm, {name}: commands a second"),
            1.0 / wall,
            Goal::None,
        );
    }
    let (own_cpu, own_wall) = each(cold, own)?;
    let (cpu_peer, cpu) = best(cold, |(cpu, _)| cpu)?;
    let (wall_peer, wall) = best(cold, |(_, wall)| wall)?;
    report.figure(
        "cold_client_cpu_ratio_to_best_peer",
        &format!("cold CPU to {cpu_peer}'s"),
        own_cpu / cpu,
        Goal::Under(1.0 / 3.0),
    );
    report.figure(
        "cold_wall_ratio_to_best_peer",
        &format!("cold wall time to {wall_peer}'s"),
        own_wall / wall,
        Goal::Under(1.0),
    );
    let (warm_cpu, warm_wall) = each(warm, own)?;
    let (warm_peer, least) = best(warm, |(cpu, _)| cpu)?;
    report.figure(
        "warm_client_cpu_ratio_to_best_peer",
        &format!("warm CPU to {warm_peer}'s"),
        warm_cpu / least,
        Goal::Under(0.2),
    );
    report.figure("warm_commands_per_s", "warm commands a second", 1.0 / warm_wall, Goal::None);
    let (_, master) = each(warm, Peer::ControlMaster.name())?;
    report.figure(
        "warm_commands_ratio_to_controlmaster",
        "warm commands a second to ControlMaster's",
        master / warm_wall,
        Goal::AtLeast(2.0),
    );
    report.print()?;
    Ok(())
}

/// The JSON line that a client prints.
fn done(output: &str, servers: usize) -> anyhow::Result<Done> {
    let line = output.lines().last().context("a client printed nothing")?;
    let done: Done = serde_json::from_str(line).with_context(|| format!("a client printed {line:?}"))?;
    ensure!(done.commands >= servers, "a client ran only {} commands", done.commands);
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_medians_and_the_best_peer_is_the_least_of_the_others() {
        let cost = |cpu_s, wall_s| Cost { commands: 10.0, cpu_s, wall_s };
        let costs = Costs::from([
            (Peer::Roundsman.name(), vec![cost(1.0, 1.0)]),
            (Peer::Asyncssh.name(), vec![cost(9.0, 3.0), cost(5.0, 2.0), cost(4.0, 9.0)]),
            (Peer::Pssh.name(), vec![cost(7.0, 2.0)]),
        ]);
        assert_eq!(each(&costs, Peer::Asyncssh.name()).unwrap(), (0.5, 0.3));
        assert_eq!(best(&costs, |(cpu, _)| cpu).unwrap(), (Peer::Asyncssh.name(), 0.5));
        assert_eq!(best(&costs, |(_, wall)| wall).unwrap(), (Peer::Pssh.name(), 0.2));
    }
}
