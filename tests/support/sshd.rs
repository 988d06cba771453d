//! A private sshd or dropbear: own port, keys, log and (where asked for) accounts.
//!
//! ```ignore
//! let sshd = Sshd::start().await;
//! let connection = connect(&sshd.target(), &mut |_| {}).await.unwrap();
//! assert_eq!(sshd.logins(), 1);
//! ```
//!
//! Runs as root, as sshd wants to. Whatever it started is killed by process id when it is dropped.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use roundsman::model::{Port, Secret};
use roundsman::ssh::{HostKey, Identity, Target, keys};
use tempfile::TempDir;

use super::{eventually, processes};

/// The password of root and of 'deploy' where a daemon was started with accounts of its own.
pub(crate) const PASSWORD: &str = "correct horse";
/// `openssl passwd -6 -salt roundsman 'correct horse'`
const PASSWORD_HASH: &str =
    "$6$roundsman$IGhS8YJwikvcZw/TU5I9l/3W8KQjtd6cD.GxANuPS4S1v1OJpLmIAJxtyNzc7lk1q8E0OqpK/VRtkF09MW8dT0";

/// How often another port is tried when somebody else took the one that was free.
const PORT_TRIES: usize = 5;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    OpenSsh,
    Dropbear,
}

/// A running daemon.
pub(crate) struct Sshd {
    dir: TempDir,
    program: Program,
    port: u16,
    child: Option<Child>,
    client_key: Secret<String>,
    host_key: HostKey,
    own_accounts: bool,
    /// More of dropbear's command line.
    options: &'static str,
    /// The network namespace that it runs in, by the name that `ip netns` knows.
    namespace: Option<String>,
    /// Its sessions see the file `boot_id` of its directory as the kernel's.
    own_boot_id: bool,
}

impl Sshd {
    /// OpenSSH; root logs in with the key of [`Sshd::target`].
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// OpenSSH with more lines of sshd_config(5). They stand first, and the first setting wins.
    pub(crate) async fn start_with(config: &str) -> Self {
        Self::prepare(Program::OpenSsh, false, config).running().await
    }

    /// OpenSSH where root has [`PASSWORD`] as well.
    pub(crate) async fn with_password(config: &str) -> Self {
        Self::prepare(Program::OpenSsh, true, config).running().await
    }

    /// As [`Sshd::with_password`], with this line for 'deploy' in sudoers(5): `ALL=(ALL) ALL`.
    pub(crate) async fn with_sudo(rule: &str) -> Self {
        let sshd = Self::prepare(Program::OpenSsh, true, "");
        let lines = format!("Defaults timestamp_timeout=0\nroot ALL=(ALL) ALL\ndeploy {rule}\n");
        write(&sshd.path("sudoers"), &lines, 0o440);
        sshd.running().await
    }

    /// dropbear; root logs in with the key of [`Sshd::target`] or with [`PASSWORD`].
    pub(crate) async fn dropbear() -> Self {
        Self::dropbear_with("").await
    }

    /// dropbear with more options of its command line, each with a space before it.
    pub(crate) async fn dropbear_with(options: &'static str) -> Self {
        let mut dropbear = Self::prepare(Program::Dropbear, true, "");
        dropbear.options = options;
        dropbear.running().await
    }

    /// OpenSSH whose root has a login shell that runs `script` and then the command, as a login shell does.
    pub(crate) async fn with_login_shell(script: &str) -> Self {
        let sshd = Self::prepare(Program::OpenSsh, false, "");
        let shell = sshd.dir.path().join("shell");
        write(&shell, &format!("#!/bin/bash\n{script}\n"), 0o755);
        let config = fs::read_to_string(sshd.config()).unwrap();
        write(&sshd.config(), &format!("ForceCommand {}\n{config}", shell.display()), 0o600);
        sshd.running().await
    }

    /// OpenSSH in a network namespace, listening on this address there. Its target names that address.
    pub(crate) async fn in_namespace(namespace: &str, address: &str) -> Self {
        let mut sshd = Self::prepare(Program::OpenSsh, false, &format!("ListenAddress {address}"));
        sshd.namespace = Some(namespace.to_owned());
        sshd.running().await
    }

    /// OpenSSH with more lines of sshd_config(5), on a machine whose boot id is this until [`Sshd::set_boot_id`].
    pub(crate) async fn with_boot_id(config: &str, boot_id: &str) -> Self {
        let mut sshd = Self::prepare(Program::OpenSsh, false, config);
        sshd.own_boot_id = true;
        sshd.set_boot_id(boot_id);
        sshd.running().await
    }

    /// As after a boot. The file stays the same one, which is mounted.
    pub(crate) fn set_boot_id(&self, boot_id: &str) {
        write(&self.path("boot_id"), &format!("{boot_id}\n"), 0o644);
    }

    fn prepare(program: Program, own_accounts: bool, config: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("roundsman-sshd-").tempdir().unwrap();
        let (client_key, client_line) = keys::generate_ed25519("test client").unwrap();
        let (host_private, host_line) = keys::generate_ed25519("test host").unwrap();
        let path = |name: &str| dir.path().join(name);
        write(&path("host_key"), host_private.expose(), 0o600);
        for ssh_dir in ["home", "home/.ssh"] {
            fs::create_dir(path(ssh_dir)).unwrap();
            fs::set_permissions(path(ssh_dir), fs::Permissions::from_mode(0o700)).unwrap();
        }
        write(&path("home/.ssh/authorized_keys"), &format!("{client_line}\n"), 0o600);
        let mut sshd = Self {
            program,
            port: 0,
            child: None,
            client_key,
            host_key: HostKey::parse(&host_line).unwrap(),
            own_accounts,
            options: "",
            namespace: None,
            own_boot_id: false,
            dir,
        };
        write(&sshd.config(), &sshd.config_text(config), 0o600);
        if own_accounts {
            sshd.write_accounts();
        }
        if program == Program::Dropbear {
            let made = Command::new("dropbearkey")
                .args(["-t", "ed25519", "-f"])
                .arg(sshd.path("dropbear_key"))
                .stderr(Stdio::null())
                .output()
                .expect("dropbear-bin is installed");
            let text = String::from_utf8(made.stdout).unwrap();
            let line = text.lines().find(|line| line.starts_with("ssh-ed25519 ")).unwrap();
            sshd.host_key = HostKey::parse(line).unwrap();
        }
        sshd
    }

    fn config_text(&self, first: &str) -> String {
        let passwords = if self.own_accounts { "yes" } else { "no" };
        format!(
            "{first}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             SetEnv HOME={}\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication {passwords}\nKbdInteractiveAuthentication no\n\
             MaxStartups 200\nUseDNS no\nPrintMotd no\nPrintLastLog no\nLogLevel VERBOSE\n",
            self.path("host_key").display(),
            self.path("home/.ssh/authorized_keys").display(),
            // Not the developer's own: what stands in its .bashrc would run before every command.
            self.home().display(),
        )
    }

    /// Copies of the account files in which root has a password and a home in the test's directory, as has 'deploy', who
    /// may do nothing and write nowhere but with sudo, which asks for the password.
    fn write_accounts(&self) {
        let home = self.path("home");
        let replaced = |file: &str, line: String| {
            let text = fs::read_to_string(file).unwrap();
            let others = text.lines().filter(|other| !other.starts_with("root:"));
            std::iter::once(line.as_str()).chain(others).fold(String::new(), |all, line| all + line + "\n")
        };
        let passwd = replaced("/etc/passwd", format!("root:x:0:0:root:{}:/bin/sh", home.display()));
        let passwd = format!("{passwd}deploy:x:54321:54321::{}:/bin/sh\n", home.display());
        write(&self.path("passwd"), &passwd, 0o644);
        let shadow = replaced("/etc/shadow", format!("root:{PASSWORD_HASH}:19000:0:99999:7:::"));
        let shadow = format!("{shadow}deploy:{PASSWORD_HASH}:19000:0:99999:7:::\n");
        write(&self.path("shadow"), &shadow, 0o600);
        let sudoers = "Defaults !lecture\nroot ALL=(ALL:ALL) ALL\ndeploy ALL=(ALL:ALL) ALL\n";
        write(&self.path("sudoers"), sudoers, 0o440);
    }

    async fn running(mut self) -> Self {
        for _ in 0..PORT_TRIES {
            self.port = free_port();
            if self.try_start().await {
                return self;
            }
        }
        panic!("no daemon could be started:\n{}", self.log());
    }

    /// False: it ended before it listened.
    async fn try_start(&mut self) -> bool {
        let from = self.log().len();
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().expect("openssh-server and dropbear-bin are installed");
        let mut ended = false;
        // dropbear says that it is in the foreground after it has bound its port, and nothing else.
        let ready =
            if self.program == Program::OpenSsh { "Server listening on" } else { "Not backgrounding" };
        eventually("the daemon listens", || {
            ended = child.try_wait().unwrap().is_some();
            ended || self.log().get(from..).is_some_and(|log| log.contains(ready))
        })
        .await;
        self.child = Some(child);
        !ended
    }

    fn command(&self) -> Command {
        let program = match self.program {
            Program::OpenSsh => {
                fs::create_dir_all("/run/sshd").unwrap();
                format!("/usr/sbin/sshd -D -e -f {} -p {}", self.config().display(), self.port)
            }
            Program::Dropbear => {
                let key = self.path("dropbear_key");
                format!(
                    "/usr/sbin/dropbear -F -E -r {} -p 127.0.0.1:{} -P {}{}",
                    key.display(),
                    self.port,
                    self.path("pid").display(),
                    self.options
                )
            }
        };
        if self.own_boot_id {
            let script = format!(
                "mount --bind {} /proc/sys/kernel/random/boot_id && exec {program}",
                self.path("boot_id").display()
            );
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "/bin/sh", "-c", &script]);
            return command;
        }
        if !self.own_accounts {
            let entered = match &self.namespace {
                Some(name) => format!("ip netns exec {name} {program}"),
                None => program,
            };
            let mut words = entered.split(' ');
            let mut command = Command::new(words.next().unwrap());
            command.args(words);
            return command;
        }
        // The accounts exist only for this daemon: they are mounted over the real ones in a mount namespace of its own.
        let script = format!(
            "mount --bind {} /etc/passwd && mount --bind {} /etc/shadow && \
             if [ -e {2} ]; then mount --bind {2} /etc/sudoers; fi && exec {program}",
            self.path("passwd").display(),
            self.path("shadow").display(),
            self.path("sudoers").display()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "/bin/sh", "-c", &script]);
        command
    }

    pub(crate) fn port(&self) -> Port {
        Port::of(i64::from(self.port)).unwrap()
    }

    /// Root with the right key and the host key pinned.
    pub(crate) fn target(&self) -> Target {
        Target {
            pinned: Some(self.host_key.clone()),
            connect_timeout: Duration::from_secs(30),
            ..Target::new("127.0.0.1", self.port(), "root", Identity::Key(self.client_key.clone()))
        }
    }

    /// As [`Sshd::target`], with the password of a daemon that has accounts of its own.
    pub(crate) fn password_target(&self, password: &str) -> Target {
        Target { identity: Identity::Password(Secret::new(password.to_owned())), ..self.target() }
    }

    pub(crate) fn host_key(&self) -> &HostKey {
        &self.host_key
    }

    pub(crate) fn client_key(&self) -> &Secret<String> {
        &self.client_key
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Lets root log in with one more key.
    pub(crate) fn authorize(&self, public_line: &str) {
        let path = self.path("home/.ssh/authorized_keys");
        let keys = fs::read_to_string(&path).unwrap();
        write(&path, &format!("{keys}{public_line}\n"), 0o600);
    }

    /// Root's home for this daemon.
    pub(crate) fn home(&self) -> PathBuf {
        self.path("home")
    }

    fn config(&self) -> PathBuf {
        self.path("config")
    }

    /// What the daemon and its sessions logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read(self.path("log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Accepted logins, over restarts too.
    pub(crate) fn logins(&self) -> usize {
        // "Accepted key" and "Accepted certificate" only say that a signature would be welcome.
        let accepted = |line: &&str| match self.program {
            Program::OpenSsh => line.starts_with("Accepted ") && line.contains(" for "),
            Program::Dropbear => line.contains(" auth succeeded for "),
        };
        self.log().lines().filter(accepted).count()
    }

    /// Attempts to log in, right or wrong.
    pub(crate) fn login_attempts(&self) -> usize {
        let log = self.log();
        [
            "Accepted ",
            "Failed ",
            "Postponed ",
            "Invalid user",
            "userauth",
            " auth succeeded for ",
            "Bad password",
            "authenticating user",
        ]
        .iter()
        .map(|word| log.matches(word).count())
        .sum()
    }

    pub(crate) async fn wait_for_log(&self, text: &str) {
        eventually(&format!("'{text}' in the log"), || self.log().contains(text)).await;
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    /// Stops the daemon and every session, at once.
    pub(crate) fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // Stopped first, so that it cannot start another session meanwhile.
        processes::signal("STOP", &[child.id()]);
        processes::signal("KILL", &processes::descendants(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts again on the same port, with the same keys.
    pub(crate) async fn restart(&mut self) {
        self.stop();
        assert!(self.try_start().await, "the daemon did not start again:\n{}", self.log());
    }

    /// Starts again on the same port with another host key, as a reinstalled machine does.
    pub(crate) async fn reinstall(&mut self) {
        self.stop();
        let (private, line) = keys::generate_ed25519("another host").unwrap();
        write(&self.path("host_key"), private.expose(), 0o600);
        self.host_key = HostKey::parse(&line).unwrap();
        self.restart().await;
    }

    /// How many processes run for open connections.
    pub(crate) fn session_processes(&self) -> usize {
        self.session_pids().len()
    }

    /// What runs for open connections.
    pub(crate) fn session_pids(&self) -> Vec<u32> {
        processes::descendants(self.pid())
    }

    /// Ends the sessions and leaves the daemon.
    pub(crate) fn kill_sessions(&self) {
        processes::signal("KILL", &processes::descendants(self.pid()));
    }

    /// SIGSTOP to the daemon and to all that it started: nothing answers, nothing is closed.
    pub(crate) fn freeze(&self) {
        processes::signal("STOP", &[self.pid()]);
        processes::signal("STOP", &processes::descendants(self.pid()));
    }

    /// Freezes what runs for the open sessions; the daemon takes new ones.
    pub(crate) fn freeze_sessions(&self) {
        processes::signal("STOP", &processes::descendants(self.pid()));
    }

    pub(crate) fn thaw(&self) {
        processes::signal("CONT", &processes::descendants(self.pid()));
        processes::signal("CONT", &[self.pid()]);
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of the daemon on port {}:\n{}", self.port, self.log());
        }
        self.stop();
    }
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
