//! A command and how it is to run: limits, input, environment, as whom, in which container.
//!
//! Builds the text of it; [`exec`](super::exec) runs it. What is secret never stands in the text: it goes over the
//! channel's standard input.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::model::Secret;
use crate::quote::{CannotQuote, quote};

use super::budget::Asker;
use super::error::SshError;
use super::exec::Piece;
use super::remote::{Ending, Marker, Raise};

/// Longer names are a mistake of a program.
const MAX_NAME_BYTES: usize = 128;
/// The variable that tells the processes of one command from all others.
const RUN: &str = "ROUNDSMAN_RUN";

/// Whether a command runs under sudo. A login as root needs none, and none is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Sudo {
    #[default]
    No,
    /// `sudo -n`: fails where it would ask for a password.
    NonInteractive,
    /// Answers sudo's one question, over the channel's standard input only.
    Password(Secret<String>),
}

/// What runs containers on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Docker,
    Podman,
}

/// Runs the command inside a container, which needs a `/bin/sh` there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerExec {
    pub engine: Engine,
    /// Its name or id.
    pub container: String,
}

impl ContainerExec {
    /// The command on the server that runs `inner`, shell text, in the container.
    ///
    /// # Errors
    /// A NUL byte in `inner`.
    pub fn wrap(&self, inner: &str) -> Result<String, CannotQuote> {
        self.line("", inner)
    }

    /// `run` stands in the environment of what runs inside, by which it is found again.
    fn marked(&self, run: &str, inner: &str) -> Result<String, CannotQuote> {
        self.line(&format!("-e {RUN}={} ", quote(run)?), inner)
    }

    fn line(&self, options: &str, inner: &str) -> Result<String, CannotQuote> {
        let engine = match self.engine {
            Engine::Docker => "docker",
            Engine::Podman => "podman",
        };
        Ok(format!("{engine} exec -i {options}{} /bin/sh -c {}", quote(&self.container)?, quote(inner)?))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Plain(String),
    Secret(Secret<String>),
}

/// A command and its limits.
#[derive(Debug, Clone)]
pub struct ExecRequest {
    /// POSIX shell text. Values in it were quoted by [`quote`]. With a container, what runs inside.
    pub command: String,
    /// None: the command reads the end of its input at once.
    pub stdin: Option<Vec<u8>>,
    /// From the start of the command, not of the wait for a free channel.
    pub timeout: Duration,
    /// How much of stdout is kept, and of stderr; the rest is counted.
    pub output_limit: usize,
    /// Receives the kept output while the command runs. A listener that is slow misses pieces; the command never waits for it.
    pub tap: Option<mpsc::Sender<Piece>>,
    environment: Vec<(String, Value)>,
    sudo: Sudo,
    run_as: Option<String>,
    container: Option<ContainerExec>,
    label: Option<String>,
    pub(super) asker: Asker,
}

impl ExecRequest {
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
    pub const DEFAULT_OUTPUT_LIMIT: usize = 1024 * 1024;

    #[must_use]
    pub fn new(command: impl Into<String>) -> Self {
        Self {
            command: command.into(),
            stdin: None,
            timeout: Self::DEFAULT_TIMEOUT,
            output_limit: Self::DEFAULT_OUTPUT_LIMIT,
            tap: None,
            environment: Vec::new(),
            sudo: Sudo::No,
            run_as: None,
            container: None,
            label: None,
            asker: Asker::default(),
        }
    }

    #[must_use]
    pub fn tap(mut self, tap: mpsc::Sender<Piece>) -> Self {
        self.tap = Some(tap);
        self
    }

    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    #[must_use]
    pub const fn output_limit(mut self, bytes: usize) -> Self {
        self.output_limit = bytes;
        self
    }

    /// A variable of the command's environment. Everybody on the server can read it while the command runs.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), Value::Plain(value.into())));
        self
    }

    /// As [`Self::env`], but the value stands in no process list: the shell reads it from its standard input, before the
    /// command's own. The command's environment holds it; the same user and root can read that.
    #[must_use]
    pub fn secret_env(mut self, name: impl Into<String>, value: Secret<String>) -> Self {
        self.environment.push((name.into(), Value::Secret(value)));
        self
    }

    #[must_use]
    pub fn sudo(mut self, sudo: Sudo) -> Self {
        self.sudo = sudo;
        self
    }

    /// Runs as this user instead of root (sudo) or of the login. A login that is not root uses sudo for it, without a
    /// password unless [`Self::sudo`] gives one.
    #[must_use]
    pub fn run_as(mut self, user: impl Into<String>) -> Self {
        self.run_as = Some(user.into());
        self
    }

    #[must_use]
    pub fn container(mut self, container: ContainerExec) -> Self {
        self.container = Some(container);
        self
    }

    /// What a person calls it; goes into records and logs, not to the server.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Who asks, where several wait for channels of one server: they take turns.
    #[must_use]
    pub const fn asker(mut self, asker: Asker) -> Self {
        self.asker = asker;
        self
    }

    #[must_use]
    pub fn label_text(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// What a command record shows as the command on the server: with the container's wrapping, without environment and
    /// sudo. The inner command is [`Self::command`].
    ///
    /// # Errors
    /// [`SshError::InvalidCommand`] for a NUL byte.
    pub fn recorded_command(&self) -> Result<String, SshError> {
        match &self.container {
            Some(container) => container.wrap(&self.command).map_err(|error| invalid(&error.to_string())),
            None => Ok(self.command.clone()),
        }
    }

    /// Whether nothing but its text says how it runs, so that any shell can run it.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let here = self.sudo == Sudo::No && self.run_as.is_none() && self.container.is_none();
        here && self.environment.is_empty() && self.stdin.is_none()
    }

    /// The text for the server.
    /// `login_is_silent`: nothing of the login shell has to be told apart on standard error.
    pub(super) fn plan(
        &self,
        marker: &Marker,
        login: &str,
        number: u32,
        login_is_silent: bool,
    ) -> Result<Plan, SshError> {
        self.check()?;
        let run = marker.run_word(number);
        let raise = self.raise(login);
        let marks_stderr = raise.is_some() || !login_is_silent;
        let text = self
            .text(marker, &run, raise.as_ref(), marks_stderr)
            .map_err(|error| invalid(&error.to_string()))?;
        let mut head = String::new();
        for (_, value) in &self.environment {
            if let Value::Secret(value) = value {
                escape_into(&mut head, value.expose());
                head.push('\n');
            }
        }
        Ok(Plan {
            line: text,
            head: Secret::new(head),
            raise,
            marks_stderr,
            run,
            container: self.container.clone(),
        })
    }

    fn text(
        &self,
        marker: &Marker,
        run: &str,
        raise: Option<&Raise>,
        marks_stderr: bool,
    ) -> Result<String, CannotQuote> {
        let mut script = String::new();
        for (name, value) in &self.environment {
            match value {
                Value::Plain(value) => script += &format!("{name}={}; export {name}\n", quote(value)?),
                // A command substitution drops line ends at the end; the dot keeps them.
                Value::Secret(_) => {
                    script += &format!(
                        "IFS= read -r {name} || exit 126; {name}=$(printf '%b.' \"${name}\"); {name}=${{{name}%.}}; export {name}\n"
                    );
                }
            }
        }
        script += &self.command;
        if let Some(container) = &self.container {
            script = format!("exec {}", container.marked(run, &script)?);
        }
        let mark = format!("{RUN}={run}; export {RUN}\n");
        if let Some(raise) = raise {
            // A variable that a shell sets is in the environment of its children only (proc(5), environ), and what su and
            // sudo run may be outside of the process group.
            script = marker.raised(raise, &format!("{mark}exec /bin/sh -c {}", quote(&script)?))?;
        } else {
            script.insert_str(0, &mark);
        }
        marker.wrap(&script, marks_stderr)
    }

    fn raise(&self, login: &str) -> Option<Raise> {
        let user = self.run_as.clone();
        match (login, user, &self.sudo) {
            (_, Some(user), _) if user == login => None,
            (_, None, Sudo::No) | ("root", None, _) => None,
            ("root", Some(user), _) => Some(Raise::Become(user)),
            (_, user, Sudo::Password(password)) => {
                Some(Raise::Sudo { user, password: Some(password.clone()) })
            }
            (_, user, _) => Some(Raise::Sudo { user, password: None }),
        }
    }

    fn check(&self) -> Result<(), SshError> {
        for (name, value) in &self.environment {
            let mut bytes = name.bytes();
            let starts = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
            let named = starts && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if !named || name.len() > MAX_NAME_BYTES {
                return Err(invalid("the name of an environment variable is made of letters, digits and _"));
            }
            let text = match value {
                Value::Plain(text) => text,
                Value::Secret(text) => text.expose(),
            };
            if text.contains('\0') {
                return Err(invalid(&format!("the value of {name} contains a NUL byte")));
            }
        }
        let word = |text: &str, others: &[u8]| {
            let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            let rest = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte));
            first && rest && text.len() <= MAX_NAME_BYTES
        };
        if self.run_as.as_deref().is_some_and(|user| !word(user, b"_.-$")) {
            return Err(invalid("the user to run as is not a user name"));
        }
        if self.container.as_ref().is_some_and(|container| !word(&container.container, b"_.-")) {
            return Err(invalid("the container is neither a name nor an id"));
        }
        if matches!(&self.sudo, Sudo::Password(password) if password.expose().contains(['\0', '\n', '\r'])) {
            return Err(invalid("the password for sudo holds a line end or a NUL byte"));
        }
        Ok(())
    }
}

fn invalid(cause: &str) -> SshError {
    SshError::InvalidCommand { cause: cause.to_owned() }
}

/// Text as one line that `printf %b` turns into the text again.
#[must_use]
pub fn escaped_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    escape_into(&mut line, text);
    line
}

/// One line that `printf %b` turns into `value` again.
fn escape_into(line: &mut String, value: &str) {
    for c in value.chars() {
        if c == '\\' || c.is_ascii_control() {
            line.push_str(&format!("\\0{:03o}", u32::from(c)));
        } else {
            line.push(c);
        }
    }
}

/// What is sent, and how it is ended.
pub(super) struct Plan {
    pub(super) line: String,
    /// Read from standard input before the command's own.
    pub(super) head: Secret<String>,
    pub(super) raise: Option<Raise>,
    /// The marker comes on standard error too.
    pub(super) marks_stderr: bool,
    run: String,
    container: Option<ContainerExec>,
}

impl Plan {
    pub(super) fn ending(&self, pid: u32) -> Option<Ending> {
        let inside = |script: &str| match &self.container {
            Some(container) => Ok(format!("{} </dev/null; ", container.wrap(script)?)),
            None => Ok(String::new()),
        };
        // All of it was quoted before.
        Ending::of_command(pid, &self.run, self.raise.as_ref(), inside).ok()
    }
}
