//! The program itself, run as a user runs it: a data directory of its own, a free port, gone with the test.
//!
//! Each test program uses a part of this, so it says
//! `#[expect(dead_code, reason = "this program uses a part of the harness")] mod program;`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a harness that cannot do its work fails the test, and shows the log"
)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_roundsman");
/// Longer than a start may take on a loaded two-core machine; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A home, a data directory and perhaps a server on it.
pub(crate) struct Program {
    dir: TempDir,
    server: Option<Child>,
    /// `http://127.0.0.1:PORT` of the last start.
    pub url: String,
    /// What the last start printed.
    pub greeting: String,
}

impl Program {
    /// Nothing runs yet.
    pub(crate) fn prepared() -> Self {
        let dir = tempfile::Builder::new().prefix("roundsman-cli-").tempdir().unwrap();
        fs::create_dir(dir.path().join("home")).unwrap();
        Self { dir, server: None, url: String::new(), greeting: String::new() }
    }

    pub(crate) fn served() -> Self {
        let mut program = Self::prepared();
        program.start();
        program
    }

    /// Starts the server and waits until it has said where it is.
    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
    }

    /// With more options of `serve`.
    pub(crate) fn start_with(&mut self, options: &[&str]) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let mut child = self
            .command(&[&["serve", "--listen", "127.0.0.1:0"], options].concat())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        self.server = Some(child);
        let (said, lines) = mpsc::channel();
        // Ends with the server, whose output it reads.
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    break;
                }
            }
        });
        self.greeting.clear();
        loop {
            let line = lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no address:\n{}", self.log()));
            self.greeting.push_str(&line);
            self.greeting.push('\n');
            if let Some(at) = line.find("http://") {
                let address: Vec<&str> = line.get(at..).unwrap().split('/').take(3).collect();
                self.url = address.join("/");
                return;
            }
        }
    }

    /// Ends the server as a service manager does.
    pub(crate) fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        let asked = Command::new("kill").args(["-TERM", &server.id().to_string()]).status().unwrap();
        assert!(asked.success());
        assert!(server.wait().unwrap().success(), "{}", self.log());
    }

    /// Ends the server as a power cut does.
    pub(crate) fn kill(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        server.kill().unwrap();
        server.wait().unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// A file below the directory of this test, for its user's eyes only.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// The program with an environment that holds nothing of the developer's, and `--data`.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let data = self.data();
        // In front: after `--` it would belong to a command for a server.
        self.bare(&[&["--data", text(&data)], arguments].concat())
    }

    /// As [`Program::command`], but it has to find the server by itself.
    pub(crate) fn bare(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("ROUNDSMAN_RUNTIME_DIR", self.path("run"))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        Done::of(self.command(arguments).output().unwrap())
    }

    /// As typed at a terminal, with these answers.
    pub(crate) fn at_terminal(&self, arguments: &[&str], answers: &str) -> String {
        let data = self.data();
        let words: Vec<String> = [PROGRAM, "--data", text(&data)]
            .iter()
            .chain(arguments)
            .map(|word| format!("'{word}'"))
            .collect();
        let mut script = Command::new("script")
            .args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"])
            .env("HOME", self.path("home"))
            .env("TERM", "dumb")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Kept open until the end: script hangs up the terminal when its own input ends.
        let mut keyboard = script.stdin.take().unwrap();
        keyboard.write_all(answers.as_bytes()).unwrap();
        let mut said = String::new();
        std::io::Read::read_to_string(&mut script.stdout.take().unwrap(), &mut said).unwrap();
        drop(keyboard);
        script.wait().unwrap();
        said
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of the server:\n{}", self.log());
        }
        self.kill();
    }
}

/// What a command said.
pub(crate) struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().expect("it ended by itself"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// It did what it should.
    #[track_caller]
    pub(crate) fn well(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// It refused with this code and a sentence that holds all these words.
    #[track_caller]
    pub(crate) fn refused(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "'{word}' is not in: {}", self.stderr);
        }
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
