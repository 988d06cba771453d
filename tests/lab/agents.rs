//! The agent on hosts of the lab: brought there by the script, looked for, and looked for again when it should be gone.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sha2::{Digest as _, Sha256};

use super::{Host, Init, PATIENCE, key_file};

/// Where `scripts/build-agents.sh` puts them; `scripts/lab.sh test` runs it.
pub(crate) fn agents() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/agents")
}

/// The agent for this machine, which is that of its lab, with its SHA-256.
pub(crate) fn agent() -> (PathBuf, String) {
    let file = agents().join(format!("roundsman-agent-{}", std::env::consts::ARCH));
    let content = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let sha256 = Sha256::digest(content).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    (file, sha256)
}

/// What the script said, both outputs, and its exit code.
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) code: Option<i32>,
}

impl Said {
    #[track_caller]
    pub(crate) fn well(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.text);
        self.text
    }
}

impl Host {
    /// `./deploy-agent.sh` with these options, as somebody with the lab's key types it.
    pub(crate) fn deploy_agent(&self, options: &[&str]) -> Said {
        self.deploy_agent_with(options, &[])
    }

    pub(crate) fn deploy_agent_with(&self, options: &[&str], environment: &[(&str, &str)]) -> Said {
        let (place, port) = self.address.rsplit_once(':').unwrap_or((&self.address, "22"));
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy-agent.sh"));
        command.args([place, "--port", port, "--key"]).arg(key_file()).arg("--known-hosts");
        command.arg(key_file().with_file_name("known_hosts")).args(options);
        let output = command.envs(environment.iter().copied()).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        Said { text, code: output.status.code() }
    }

    /// Everything that an agent leaves on a host: files, links that start it, its user, its processes.
    pub(crate) fn traces_of_agents(&self) -> String {
        self.ssh(
            "ls -d /etc/systemd/system/roundsman* /etc/systemd/system/*/roundsman* /etc/init.d/roundsman* /etc/rc?.d/*roundsman* \
             /etc/runlevels/*/roundsman* /usr/local/bin/roundsman* /etc/roundsman* /var/lib/roundsman* /run/roundsman* \
             /run/openrc/*/roundsman* $HOME/.cache/roundsman* /tmp/roundsman* /var/tmp/roundsman* /dev/shm/roundsman* 2>/dev/null; \
             grep -s roundsman /etc/passwd /etc/group; \
             for p in /proc/[0-9]*; do case $(tr '\\0' ' ' <$p/cmdline 2>/dev/null) in */roundsman-agent*) \
             [ $p = /proc/$$ ] || echo $p ;; esac; done; true",
        )
    }

    /// The service as its process: pid and user.
    pub(crate) fn agent_service(&self) -> Option<(u32, String)> {
        let found = self.ssh(
            "for p in /proc/[0-9]*; do case $(tr '\\0' ' ' <$p/cmdline 2>/dev/null) in '/usr/local/bin/roundsman-agent '*) \
             echo ${p#/proc/} $(stat -c %U $p) ;; esac; done",
        );
        let (pid, user) = found.lines().next()?.split_once(' ')?;
        Some((pid.parse().ok()?, user.to_owned()))
    }

    /// What the service answers on the host's own loopback; empty where nobody listens.
    pub(crate) fn ask_agent(&self, path: &str) -> String {
        self.ssh(&format!(
            "bash -c 'exec 3<>/dev/tcp/127.0.0.1/8083 && printf \"GET {path} HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n\" >&3 \
             && timeout 20 cat <&3' 2>/dev/null; true"
        ))
    }

    pub(crate) fn restart_agent(&self) {
        match self.init {
            Init::Systemd => self.ssh("systemctl restart roundsman-agent"),
            Init::OpenRc => self.ssh("rc-service roundsman-agent restart"),
            Init::SysV => self.ssh("service roundsman-agent restart"),
            Init::BusyBox => String::new(),
        };
    }

    pub(crate) fn agent_starts_at_boot(&self) -> bool {
        let asked = match self.init {
            Init::Systemd => "systemctl is-enabled roundsman-agent",
            Init::OpenRc => "rc-update show default | grep roundsman-agent",
            Init::SysV => "ls /etc/rc2.d/S*roundsman-agent",
            Init::BusyBox => "false",
        };
        self.try_ssh(asked).status.success()
    }
}

/// A port of a host's loopback that leads to one of this machine's, as `ssh -R` makes it.
pub(crate) struct Tunnel(Child);

impl Tunnel {
    /// Waits until it stands.
    pub(crate) fn from(host: &Host, port: u16, to: u16) -> Self {
        let (place, ssh_port) = host.address.rsplit_once(':').unwrap_or((&host.address, "22"));
        let known_hosts =
            format!("UserKnownHostsFile={}", key_file().with_file_name("known_hosts").display());
        let child = Command::new("ssh")
            .args(["-N", "-F", "none", "-p", ssh_port, "-o", &known_hosts, "-o", "BatchMode=yes"])
            .args(["-o", "IdentitiesOnly=yes", "-o", "ExitOnForwardFailure=yes", "-i"])
            .arg(key_file())
            .args(["-R", &format!("127.0.0.1:{port}:127.0.0.1:{to}"), place])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let tunnel = Self(child);
        let started = std::time::Instant::now();
        while !host.try_ssh(&format!("bash -c ': >/dev/tcp/127.0.0.1/{port}' 2>/dev/null")).status.success() {
            assert!(started.elapsed() < PATIENCE, "no tunnel to {}", host.name);
        }
        tunnel
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // Only fails where it has ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
