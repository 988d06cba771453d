//! Keys, certificates and agents, made with OpenSSH's own tools in a directory of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use roundsman::model::Secret;
use roundsman::ssh::HostKey;
use tempfile::TempDir;

use super::eventually;

/// A directory with keys in it.
pub(crate) struct KeyRing(TempDir);

impl KeyRing {
    pub(crate) fn new() -> Self {
        Self(tempfile::Builder::new().prefix("roundsman-keys-").tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn keygen(&self, words: &[&str]) {
        let mut keygen = Command::new("ssh-keygen");
        let made =
            keygen.current_dir(self.0.path()).arg("-q").args(words).stdin(Stdio::null()).output().unwrap();
        assert!(made.status.success(), "{words:?}: {}", String::from_utf8_lossy(&made.stderr));
    }

    /// A new key without a passphrase: `kind` is what `ssh-keygen -t` takes, with `-b` words after it.
    pub(crate) fn key(&self, name: &str, kind: &[&str]) {
        self.keygen(&[&["-N", "", "-C", "", "-f", name, "-t"], kind].concat());
    }

    /// Signs `key` with the authority `ca`: `NAME-cert.pub`.
    pub(crate) fn sign(&self, ca: &str, key: &str, words: &[&str]) {
        let public = format!("{key}.pub");
        self.keygen(&[&["-s", ca, "-I", key], words, &[public.as_str()]].concat());
    }

    pub(crate) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn private(&self, name: &str) -> Secret<String> {
        Secret::new(self.text(name))
    }

    pub(crate) fn public(&self, name: &str) -> HostKey {
        HostKey::parse(&self.text(&format!("{name}.pub"))).unwrap()
    }

    /// The certificate's line.
    pub(crate) fn certificate(&self, name: &str) -> String {
        self.text(&format!("{name}-cert.pub"))
    }
}

/// A running ssh-agent, ended with the test.
pub(crate) struct Agent {
    socket: PathBuf,
    child: Child,
}

impl Agent {
    /// With its socket in `ring`.
    pub(crate) async fn start(ring: &KeyRing) -> Self {
        let socket = ring.path("agent.sock");
        let mut command = Command::new("ssh-agent");
        command
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().expect("openssh-client is installed");
        eventually("the agent listens", || socket.exists()).await;
        Self { socket, child }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// `ssh-add` with these words. The passphrase that it may ask for is 'x'.
    pub(crate) fn add(&self, ring: &KeyRing, words: &[&str]) {
        let asker = ring.path("askpass");
        fs::write(&asker, "#!/bin/sh\necho x\n").unwrap();
        fs::set_permissions(&asker, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let mut add = Command::new("ssh-add");
        add.current_dir(ring.path("")).args(words).stdin(Stdio::null());
        add.env("SSH_AUTH_SOCK", &self.socket).env("SSH_ASKPASS", asker).env("SSH_ASKPASS_REQUIRE", "force");
        let done = add.output().unwrap();
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
