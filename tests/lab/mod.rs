//! The hosts of `scripts/lab.sh`, and a central program to look after them.
//!
//! ```ignore
//! let lab = Lab::up(2);
//! let central = Central::start();
//! central.enrol(&lab.host(1));
//! assert_eq!(lab.host(1).ssh("hostname"), "lab-1\n");
//! ```
//!
//! One test has the lab at a time; what it stopped or paused runs again when it ends.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "a harness that cannot do its work fails the test, and shows the program's log"
)]

pub(crate) mod acting;
pub(crate) mod agents;
pub(crate) mod central;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use roundsman::model::{Port, Secret};
use roundsman::ssh::{HostKey, Identity, Target};
use tokio::time::Instant;

/// Longer than anything may take on a loaded two-core machine; only a failing test waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// What nobody announces is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Running hosts, this test's alone while it lives.
pub(crate) struct Lab {
    count: usize,
    _alone: File,
}

/// What starts the services of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Init {
    Systemd,
    OpenRc,
    SysV,
    /// None that could be asked: BusyBox's init keeps its two programs running.
    BusyBox,
}

/// One host of the lab.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// `lab-1`
    pub(crate) name: String,
    /// `root@127.0.1.1`, with a port where it is not 22.
    pub(crate) address: String,
    pub(crate) init: Init,
    container: String,
}

impl Lab {
    /// At least `count` hosts, all units up.
    pub(crate) fn up(count: usize) -> Self {
        let state = state_directory();
        std::fs::create_dir_all(&state).unwrap();
        let alone = File::create(state.join("test.lock")).unwrap();
        alone.lock().unwrap();
        bring_up(count);
        let lab = Self { count, _alone: alone };
        for host in lab.hosts() {
            // What a test that was killed half-way may have left.
            host.start_services();
        }
        lab
    }

    /// The host `lab-NUMBER`, counted from 1.
    pub(crate) fn host(&self, number: usize) -> Host {
        assert!((1..=self.count).contains(&number), "the lab has {} hosts", self.count);
        let port = std::fs::read_to_string(state_directory().join("port")).unwrap();
        let port = if port.trim() == "22" { String::new() } else { format!(":{}", port.trim()) };
        Host {
            name: format!("lab-{number}"),
            address: format!("root@127.0.1.{number}{port}"),
            init: match number {
                4 => Init::OpenRc,
                5 => Init::SysV,
                6 => Init::BusyBox,
                _ => Init::Systemd,
            },
            container: format!("roundsman-lab-{number}"),
        }
    }

    pub(crate) fn hosts(&self) -> Vec<Host> {
        (1..=self.count).map(|number| self.host(number)).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // `up` starts what is stopped and wakes what is paused. A panic here would hide the test's own.
        let restored = up_command(self.count).output();
        if !restored.is_ok_and(|output| output.status.success()) {
            eprintln!("the hosts of the lab could not be started again");
        }
    }
}

impl Host {
    /// Runs a command on the host and answers its stdout; anything but exit 0 fails the test.
    pub(crate) fn ssh(&self, command: &str) -> String {
        let output = self.try_ssh(command);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: '{command}' failed: {stderr}", self.name);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Both services run, and nothing counts as failed.
    fn start_services(&self) {
        match self.init {
            Init::Systemd => self.ssh("systemctl reset-failed; systemctl start lab-web lab-worker"),
            Init::OpenRc => self.ssh("rc-service lab-web start && rc-service lab-worker start"),
            Init::SysV => self.ssh("service lab-web start && service lab-worker start"),
            Init::BusyBox => String::new(),
        };
    }

    /// `start` or `stop` of a service, by the host's own service manager.
    pub(crate) fn control(&self, verb: &str, service: &str) {
        match self.init {
            Init::Systemd => self.ssh(&format!("systemctl {verb} {service}")),
            Init::OpenRc => self.ssh(&format!("rc-service {service} {verb}")),
            _ => self.ssh(&format!("service {service} {verb}")),
        };
    }

    /// The process of a service. None: it does not run.
    pub(crate) fn service_pid(&self, service: &str) -> Option<u32> {
        let pid = match self.init {
            Init::Systemd => self.ssh(&format!("systemctl show --property=MainPID --value {service}")),
            _ => self.ssh(&format!(
                "p=$(cat /run/{service}.pid 2>/dev/null) && kill -0 $p 2>/dev/null && echo $p || echo 0"
            )),
        };
        pid.trim().parse().ok().filter(|pid| *pid != 0)
    }

    /// Runs a command on the host, whatever it ends with.
    pub(crate) fn try_ssh(&self, command: &str) -> Output {
        Command::new(lab_script_path()).args(["ssh", &self.name, command]).output().unwrap()
    }

    /// `docker VERB` of this host: stop, start, pause, unpause.
    pub(crate) fn docker(&self, verb: &str) {
        run(Command::new("docker").args([verb, &self.container]));
    }

    /// What is run with it is this host's.
    pub(crate) fn docker_with(&self, arguments: &[&str]) -> String {
        run(Command::new("docker").args(arguments).arg(&self.container))
    }

    /// Its name for Docker.
    pub(crate) fn container(&self) -> &str {
        &self.container
    }

    /// As root with the lab's own key; the host key is the one that the lab gave it.
    pub(crate) fn target(&self) -> Target {
        let (user, place) = self.address.split_once('@').unwrap();
        let (name, port) = place.split_once(':').unwrap_or((place, "22"));
        let public = state_directory().join(format!("hosts/{}/ssh_host_ed25519_key.pub", self.name));
        let key = Secret::new(std::fs::read_to_string(key_file()).unwrap());
        Target {
            pinned: Some(HostKey::parse(std::fs::read_to_string(public).unwrap().trim()).unwrap()),
            connect_timeout: PATIENCE,
            ..Target::new(name, Port::of(port.parse().unwrap()).unwrap(), user, Identity::Key(key))
        }
    }

    /// What `docker inspect` says with this template.
    pub(crate) fn inspect(&self, template: &str) -> String {
        run(Command::new("docker").args(["inspect", "--format", template, &self.container]))
    }
}

/// Starts what does not run of the first `count` hosts.
pub(crate) fn bring_up(count: usize) {
    run(&mut up_command(count));
}

/// Names the lab's own key, which is in place anyway, so that the script looks for no other.
fn up_command(count: usize) -> Command {
    let mut command = Command::new(lab_script_path());
    command.args(["up", &count.to_string()]);
    let key = state_directory().join("id_ed25519.pub");
    if key.exists() {
        command.arg("--authorize-file").arg(key);
    }
    command
}

/// Runs `scripts/lab.sh` and answers its stdout.
pub(crate) fn lab_script(arguments: &[&str]) -> String {
    run(Command::new(lab_script_path()).args(arguments))
}

fn lab_script_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lab.sh")
}

/// The lab's own key, which opens every host.
pub(crate) fn key_file() -> PathBuf {
    state_directory().join("id_ed25519")
}

/// As scripts/lab.sh has it.
fn state_directory() -> PathBuf {
    std::env::var_os("ROUNDSMAN_LAB_DIR")
        .map_or_else(|| PathBuf::from("/var/lib/roundsman-lab"), PathBuf::from)
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed: {stdout}{stderr}");
    stdout.trim_end().to_owned()
}

/// Looks until `found` has something, and says how long that took.
pub(crate) async fn until<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> (T, Duration) {
    let started = Instant::now();
    loop {
        if let Some(value) = found().await {
            return (value, started.elapsed());
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain for: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
