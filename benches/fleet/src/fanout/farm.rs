//! Real OpenSSH daemons on loopback addresses of their own, and the account that is logged in to.
//!
//! Ends and removes only what it made.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use roundsman::ssh::keys;
use tempfile::TempDir;

/// sshd takes at most 16 ListenAddress lines.
const ADDRESSES_A_DAEMON: usize = 16;
/// How long the daemons may take until all of them listen.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A running farm; dropped, its daemons end and its account is removed.
#[derive(Debug)]
pub struct Farm {
    pub user: String,
    pub addresses: Vec<SocketAddr>,
    pub key: PathBuf,
    pub known_hosts: PathBuf,
    /// The host key of all of them as an OpenSSH line.
    pub host_key: String,
    pub directory: TempDir,
    daemons: Vec<Child>,
    account: bool,
}

impl Drop for Farm {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            let _gone_is_as_good = daemon.kill();
            let _gone_is_as_good = daemon.wait();
        }
        if self.account {
            let _said_on_standard_error = Command::new("userdel").arg("-f").arg(&self.user).status();
        }
    }
}

impl Farm {
    /// Starts `servers` daemons' worth of addresses.
    ///
    /// # Errors
    /// When not run as root, or a program is missing.
    pub fn start(servers: usize) -> anyhow::Result<Self> {
        ensure!(is_root(), "this benchmark makes an account for its logins and has to run as root");
        fs::create_dir_all("/run/sshd").context("making /run/sshd")?;
        let directory = tempfile::Builder::new().prefix("roundsman-fanout-").tempdir()?;
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
        let (host_private, host_key) = keys::generate_ed25519("host")?;
        let (private, public) = keys::generate_ed25519("client")?;
        let key = directory.path().join("client");
        write_private(&key, private.expose())?;
        fs::write(directory.path().join("client.pub"), &public)?;
        write_private(&directory.path().join("host"), host_private.expose())?;
        fs::write(directory.path().join("authorized_keys"), &public)?;
        let user = format!("rmb{}", std::process::id());
        let home = directory.path().join("home");
        fs::create_dir(&home)?;
        run(Command::new("useradd").args(["-M", "-s", "/bin/sh", "-d"]).arg(&home).arg(&user))?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let addresses: Vec<SocketAddr> =
            (0..servers).map(|server| SocketAddr::from((address(server), port))).collect();
        let known_hosts = directory.path().join("known_hosts");
        let mut farm = Self {
            user,
            addresses,
            key,
            known_hosts,
            host_key,
            directory,
            daemons: Vec::new(),
            account: true,
        };
        // A locked account may not log in even with a key where PAM is not asked.
        run(Command::new("usermod").args(["-p", "*"]).arg(&farm.user))?;
        run(Command::new("chown").arg(&farm.user).arg(&home))?;
        farm.write_known_hosts()?;
        farm.start_daemons(port)?;
        Ok(farm)
    }

    fn write_known_hosts(&self) -> anyhow::Result<()> {
        let mut text = String::new();
        for address in &self.addresses {
            writeln!(text, "[{}]:{} {}", address.ip(), address.port(), self.host_key.trim())?;
        }
        fs::write(&self.known_hosts, text)?;
        Ok(())
    }

    fn start_daemons(&mut self, port: u16) -> anyhow::Result<()> {
        let place = self.directory.path().to_owned();
        for (number, addresses) in self.addresses.chunks(ADDRESSES_A_DAEMON).enumerate() {
            let mut text = format!(
                "Port {port}\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized_keys\nPidFile none\nStrictModes no\n\
                 UsePAM no\nUseDNS no\nPrintMotd no\nPrintLastLog no\nLogLevel QUIET\nMaxStartups 1000\nMaxSessions 10\n\
                 Subsystem sftp internal-sftp\n",
                place.display()
            );
            for address in addresses {
                writeln!(text, "ListenAddress {}", address.ip())?;
            }
            let config = place.join(format!("sshd-{number}.conf"));
            fs::write(&config, text)?;
            let daemon = Command::new("/usr/sbin/sshd")
                .args(["-D", "-f"])
                .arg(&config)
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context("starting sshd")?;
            self.daemons.push(daemon);
        }
        let begun = Instant::now();
        for address in &self.addresses {
            while TcpStream::connect(address).is_err() {
                ensure!(begun.elapsed() < START_LIMIT, "sshd does not listen on {address}");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }
}

fn address(server: usize) -> Ipv4Addr {
    let octet = |value: usize| u8::try_from(value % 250 + 1).unwrap_or(1);
    Ipv4Addr::new(127, 77, octet(server / 250), octet(server))
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(())
}

/// Runs a command that has to succeed.
///
/// # Errors
/// What it said when it did not.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
