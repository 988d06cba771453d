//! What of a server decides about a command, and the exact command that comes of it.
//!
//! Pure. How a plan becomes a request over SSH is the executor's business.

use std::time::Duration;

use super::{ActionError, ContainerEngine, How, invalid};
use crate::model::ServiceManager;
use crate::quote::quote;

/// What of a server decides about the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surroundings {
    pub service_manager: ServiceManager,
    /// Roundsman logs in as root; otherwise what needs root runs under sudo.
    pub is_root: bool,
    /// sudo gets a kept password over its standard input; otherwise it must not ask (`sudo -n`).
    pub sudo_password: bool,
}

impl Surroundings {
    pub(super) const fn sudo_words(self) -> &'static str {
        if self.sudo_password { "sudo" } else { "sudo -n" }
    }
}

/// The exact command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// POSIX shell text as it is shown and recorded: what anybody could type on the server to do the same.
    pub command: String,
    /// What runs inside the container, where it is one. [`Self::command`] then has the whole.
    pub container_command: Option<String>,
    pub timeout: Duration,
    /// The text without sudo and container, which are asked for apart.
    pub inner: String,
    /// It is to run as root, and the login is not root's.
    pub sudo: bool,
    pub how: How,
}

impl Plan {
    /// Text that says all there is.
    pub(super) fn of_text(command: String, timeout: Duration) -> Self {
        let inner = command.clone();
        Self { command, container_command: None, timeout, inner, sudo: false, how: How::default() }
    }

    /// One program and its words for root, by sudo where that is needed.
    pub(super) fn by_root(around: Surroundings, inner: String, timeout: Duration) -> Self {
        let sudo = !around.is_root;
        let command = if sudo { format!("{} {inner}", around.sudo_words()) } else { inner.clone() };
        Self { command, container_command: None, timeout, inner, sudo, how: How::default() }
    }

    /// Any shell text for root: sudo takes one program, so a shell goes around it.
    ///
    /// # Errors
    /// [`ActionError::Invalid`] for a NUL in it.
    pub(super) fn by_root_in_shell(
        around: Surroundings,
        script: String,
        timeout: Duration,
    ) -> Result<Self, ActionError> {
        let inner = if around.is_root { script } else { format!("sh -c {}", quoted(&script)?) };
        Ok(Self::by_root(around, inner, timeout))
    }

    /// The command with what is around it, written out; the values of its environment and its input are left out.
    ///
    /// # Errors
    /// [`ActionError::Invalid`] for a NUL in it.
    pub(super) fn around(
        around: Surroundings,
        inner: &str,
        sudo: bool,
        timeout: Duration,
        how: &How,
    ) -> Result<Self, ActionError> {
        let sudo = !around.is_root && (sudo || how.run_as.is_some());
        let mut command = inner.to_owned();
        if let Some(container) = &how.container {
            let engine = container.engine.program();
            command =
                format!("{engine} exec -i {} /bin/sh -c {}", quoted(&container.name)?, quoted(&command)?);
        }
        command = match (&how.run_as, sudo) {
            (Some(user), true) => {
                format!("{} -u {} -- sh -c {}", around.sudo_words(), quoted(user)?, quoted(&command)?)
            }
            (Some(user), false) => format!("su -s /bin/sh {} -c {}", quoted(user)?, quoted(&command)?),
            (None, true) => format!("{} -- sh -c {}", around.sudo_words(), quoted(&command)?),
            (None, false) => command,
        };
        Ok(Self {
            command,
            container_command: how.container.as_ref().map(|_| inner.to_owned()),
            timeout,
            inner: inner.to_owned(),
            sudo,
            how: how.clone(),
        })
    }
}

impl ContainerEngine {
    /// The name of its program, and of the word for it in requests.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }
}

pub(super) fn quoted(text: &str) -> Result<String, ActionError> {
    quote(text).map_err(|error| invalid("command", error.to_string()))
}
