//! The clients that are compared: how each is run, cold and warm, and what it used.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};

use super::done;
use super::farm::Farm;

/// Parallel processes of the clients that take such a number; asyncssh, parallel-ssh and Roundsman run all at once.
const AT_ONCE: &str = "64";
/// Ticks a second in /proc/PID/stat.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Roundsman,
    ParallelSsh,
    Asyncssh,
    Pssh,
    ClusterShell,
    OpenSsh,
    ControlMaster,
    Ansible,
}

/// What one run of a client took.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub commands: f64,
    /// User and system time of all its processes.
    pub cpu_s: f64,
    pub wall_s: f64,
}

impl Peer {
    pub const ALL: [Self; 8] = [
        Self::Roundsman,
        Self::ParallelSsh,
        Self::Asyncssh,
        Self::Pssh,
        Self::ClusterShell,
        Self::OpenSsh,
        Self::ControlMaster,
        Self::Ansible,
    ];
    /// Those that keep connections.
    pub const WARM: [Self; 4] = [Self::Roundsman, Self::ParallelSsh, Self::Asyncssh, Self::ControlMaster];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Roundsman => "roundsman",
            Self::ParallelSsh => "parallel_ssh",
            Self::Asyncssh => "asyncssh",
            Self::Pssh => "pssh",
            Self::ClusterShell => "clustershell",
            Self::OpenSsh => "openssh",
            Self::ControlMaster => "controlmaster",
            Self::Ansible => "ansible",
        }
    }

    /// Run once only.
    pub const fn is_slow(self) -> bool {
        matches!(self, Self::Ansible)
    }
}

/// Where everything is.
#[derive(Debug)]
pub struct Setting<'a> {
    pub farm: &'a Farm,
    pub peers: &'a Path,
    pub scripts: &'a Path,
    pub rounds: usize,
}

impl Setting<'_> {
    /// From nothing to every answer.
    ///
    /// # Errors
    /// When the client fails or a server is missing from its answers.
    pub fn cold(&self, peer: Peer, plan: &Path) -> anyhow::Result<Cost> {
        let servers = self.farm.addresses.len();
        if peer == Peer::ControlMaster {
            self.end_masters()?;
        }
        let (output, cpu_s, wall_s) = timed(&mut self.cold_command(peer, plan)?)?;
        let answers = match peer {
            Peer::Roundsman | Peer::ParallelSsh | Peer::Asyncssh => done(&output, servers)?.commands,
            _ => output.lines().filter(|line| line.split_whitespace().last() == Some("ok")).count(),
        };
        ensure!(answers == servers, "{} answered for {answers} of {servers} servers: {output}", peer.name());
        let masters = if peer == Peer::ControlMaster { self.masters_cpu_s()? } else { 0.0 };
        Ok(Cost { commands: count(servers), cpu_s: cpu_s + masters, wall_s })
    }

    /// Over connections that are kept; only the commands are timed. ControlMaster's were made by its cold run.
    ///
    /// # Errors
    /// As [`Self::cold`].
    pub fn warm(&self, peer: Peer, plan: &Path) -> anyhow::Result<Cost> {
        let servers = self.farm.addresses.len();
        if peer != Peer::ControlMaster {
            let output = timed(&mut self.cold_command(peer, plan)?)?.0;
            let done = done(&output, servers * self.rounds)?;
            let (cpu_s, wall_s) = done.cpu_s.zip(done.wall_s).context("a client measured nothing")?;
            return Ok(Cost { commands: count(done.commands), cpu_s, wall_s });
        }
        let hosts = self.hosts_file(self.rounds)?;
        let before = self.masters_cpu_s()?;
        let (output, cpu_s, wall_s) = timed(&mut self.ssh(&hosts, "no", &["echo", "ok"])?)?;
        let answers = output.lines().filter(|line| *line == "ok").count();
        ensure!(answers == servers * self.rounds, "ControlMaster answered {answers} times");
        let cpu_s = cpu_s + self.masters_cpu_s()? - before;
        Ok(Cost { commands: count(answers), cpu_s, wall_s })
    }

    fn cold_command(&self, peer: Peer, plan: &Path) -> anyhow::Result<Command> {
        let farm = self.farm;
        let hosts = self.hosts_file(1)?;
        let port = farm.addresses.first().map_or(22, |address| address.port()).to_string();
        let list: Vec<String> = farm.addresses.iter().map(|address| address.ip().to_string()).collect();
        let options = self.options();
        let mut command = match peer {
            Peer::Roundsman => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("fanout-client").arg(plan);
                command
            }
            Peer::ParallelSsh | Peer::Asyncssh => {
                let mut command = Command::new(self.peers.join("python"));
                command.arg(self.scripts.join(format!("{}_fanout.py", peer.name()))).arg(plan);
                command
            }
            Peer::Pssh => {
                let mut command = Command::new("parallel-ssh");
                command.arg("-h").arg(&hosts).args(["-i", "-p", AT_ONCE, "-l", &farm.user, "-x"]);
                command.arg(format!("-p {port} {}", options.join(" "))).args(["echo", "ok"]);
                command
            }
            Peer::ClusterShell => {
                let mut command = Command::new(self.peers.join("clush"));
                command.args(["-w", &list.join(","), "-f", AT_ONCE, "-l", &farm.user, "-o"]);
                command.arg(format!("-p {port} {}", options.join(" "))).args(["echo", "ok"]);
                command
            }
            Peer::OpenSsh | Peer::ControlMaster => {
                let mode = if peer == Peer::OpenSsh { "none" } else { "auto" };
                return self.ssh(&hosts, mode, &["echo", "ok"]);
            }
            Peer::Ansible => {
                let mut command = Command::new(self.peers.join("ansible"));
                command.args(["all", "-i", &format!("{},", list.join(",")), "-u", &farm.user, "-f", AT_ONCE]);
                command.args(["-m", "raw", "-a", "echo ok", "-e", &format!("ansible_port={port}")]);
                command.env("ANSIBLE_SSH_ARGS", format!("-o ControlMaster=no {}", options.join(" ")));
                command.env("ANSIBLE_HOME", farm.directory.path().join("ansible"));
                command
            }
        };
        command.env("LC_ALL", "C.UTF-8");
        Ok(command)
    }

    /// What every client of OpenSSH gets: no configuration of the machine, one key, host keys checked.
    fn options(&self) -> Vec<String> {
        let farm = self.farm;
        let mut options =
            vec!["-F".to_owned(), "none".to_owned(), "-i".to_owned(), farm.key.display().to_string()];
        for option in [
            "IdentitiesOnly=yes".to_owned(),
            "IdentityAgent=none".to_owned(),
            "BatchMode=yes".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            format!("UserKnownHostsFile={}", farm.known_hosts.display()),
            "GlobalKnownHostsFile=/dev/null".to_owned(),
            "LogLevel=ERROR".to_owned(),
        ] {
            options.extend(["-o".to_owned(), option]);
        }
        options
    }

    /// `ssh` once a line of `hosts`. `mode`: `none`, or ControlMaster's `auto` or `no`.
    fn ssh(&self, hosts: &Path, mode: &str, remote: &[&str]) -> anyhow::Result<Command> {
        let port = self.farm.addresses.first().context("no server")?.port();
        let mut command = Command::new("xargs");
        command.arg("-a").arg(hosts).args(["-P", AT_ONCE, "-I{}", "ssh"]).args(self.options());
        command.args(["-p", &port.to_string(), "-l", &self.farm.user]);
        if mode != "none" {
            command.args(["-o", &format!("ControlMaster={mode}"), "-o", "ControlPersist=300"]);
            command.arg("-S").arg(self.farm.directory.path().join("m-{}"));
        }
        command.arg("{}").args(remote);
        Ok(command)
    }

    fn hosts_file(&self, times: usize) -> anyhow::Result<std::path::PathBuf> {
        let path = self.farm.directory.path().join(format!("hosts-{times}"));
        let round: String = self.farm.addresses.iter().map(|address| format!("{}\n", address.ip())).collect();
        fs::write(&path, round.repeat(times))?;
        Ok(path)
    }

    fn end_masters(&self) -> anyhow::Result<()> {
        let hosts = self.hosts_file(1)?;
        let mut command = Command::new("xargs");
        let path = self.farm.directory.path().join("m-{}");
        command.arg("-a").arg(&hosts).args(["-P", "8", "-I{}", "ssh", "-F", "none", "-S"]).arg(path);
        command.args(["-O", "exit", "{}"]).stderr(Stdio::null());
        // Those that have no master yet say so with a failure.
        command.status().context("ending the masters")?;
        Ok(())
    }

    /// CPU time that the masters of this run have used so far. They are nobody's children, so nobody else counts it.
    fn masters_cpu_s(&self) -> anyhow::Result<f64> {
        let ours = self.farm.directory.path().display().to_string();
        let mut ticks = 0.0;
        for entry in fs::read_dir("/proc")?.flatten() {
            let directory = entry.path();
            let command = fs::read(directory.join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command);
            if !(command.contains("[mux]") && command.contains(&ours)) {
                continue;
            }
            let stat = fs::read_to_string(directory.join("stat")).unwrap_or_default();
            let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
            ticks += fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>();
        }
        Ok(ticks / TICKS_PER_SECOND)
    }
}

impl Drop for Setting<'_> {
    /// The masters would stay for minutes.
    fn drop(&mut self) {
        let _said_on_standard_error = self.end_masters();
    }
}

/// Runs a client to its end: what it printed, CPU seconds of it and its children, wall seconds.
/// bash's `time` counts the children that were waited for, to the millisecond.
fn timed(command: &mut Command) -> anyhow::Result<(String, f64, f64)> {
    let mut wrapped = Command::new("bash");
    wrapped.args(["-c", "TIMEFORMAT='%U %S'; time \"$@\"", "bash"]).arg(command.get_program());
    wrapped.args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            wrapped.env(name, value);
        }
    }
    let begun = Instant::now();
    let output = wrapped.stdin(Stdio::null()).output().context("starting bash")?;
    let wall_s = begun.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{} failed: {}", command.get_program().to_string_lossy(), said.trim());
    }
    let times = said.lines().last().context("bash said no times")?;
    let cpu_s = times.split_whitespace().filter_map(|time| time.replace(',', ".").parse::<f64>().ok()).sum();
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), cpu_s, wall_s))
}

#[expect(clippy::cast_precision_loss, reason = "some thousands")]
fn count(number: usize) -> f64 {
    number as f64
}
