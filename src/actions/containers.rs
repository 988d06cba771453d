//! Containers: one verb, and its exact command for Docker and Podman, whose words are the same.

use std::time::Duration;

use serde::Serialize;

use super::commands::is_said;
use super::plan::quoted;
use super::{Action, ActionError, InContainer, Plan, Surroundings, how, invalid};

/// A container gets 10 s to stop by itself, and a loaded engine takes its time over the rest.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Lines of a log where nobody says how many.
const DEFAULT_LINES: u32 = 200;
/// More lines than this are for a download of the log; the output has its own limit.
const MOST_LINES: u32 = 10_000;

/// What is done to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerVerb {
    Start,
    Stop,
    Restart,
    /// Freezes its processes.
    Pause,
    Unpause,
    /// With what is in it and in no volume.
    Remove,
    /// The last lines that it printed.
    Logs,
}

impl ContainerVerb {
    pub const ALL: [Self; 7] =
        [Self::Start, Self::Stop, Self::Restart, Self::Pause, Self::Unpause, Self::Remove, Self::Logs];

    /// As operations spell it.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Start => "start_container",
            Self::Stop => "stop_container",
            Self::Restart => "restart_container",
            Self::Pause => "pause_container",
            Self::Unpause => "unpause_container",
            Self::Remove => "remove_container",
            Self::Logs => "container_logs",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Start => "Start the container",
            Self::Stop => "Stop the container",
            Self::Restart => "Restart the container",
            Self::Pause => "Pause the container",
            Self::Unpause => "Resume the container",
            Self::Remove => "Remove the container",
            Self::Logs => "Show the log of the container",
        }
    }
}

/// One thing to do to one container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct ContainerAction {
    pub container: InContainer,
    pub verb: ContainerVerb,
    /// The login may not speak to the engine, so root does. Podman's root has other containers than its users.
    pub sudo: bool,
    /// Removes it even while it runs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Of the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<u32>,
}

/// What a word for an action means, where it is one of these.
pub(super) fn verb_of(kind: &str) -> Option<ContainerVerb> {
    ContainerVerb::ALL.into_iter().find(|verb| verb.kind() == kind)
}

impl ContainerAction {
    /// From `container` (a name or id, or an object with engine and name), `container_engine`, `sudo`, `force`, `lines`.
    ///
    /// # Errors
    /// [`ActionError::Invalid`] names the parameter and what would be accepted.
    pub(super) fn parse(
        verb: ContainerVerb,
        parameter: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ActionError> {
        let container = how::container(&parameter)?
            .ok_or_else(|| invalid("container", "container is missing: the name or id of one container"))?;
        let lines = match (verb, parameter("lines").filter(|text| !text.trim().is_empty())) {
            (ContainerVerb::Logs, None) => Some(DEFAULT_LINES),
            (ContainerVerb::Logs, Some(text)) => {
                let lines = text.trim().parse().ok().filter(|lines| (1..=MOST_LINES).contains(lines));
                Some(lines.ok_or_else(|| invalid("lines", format!("lines is 1 to {MOST_LINES}")))?)
            }
            _ => None,
        };
        let force = verb == ContainerVerb::Remove && is_said(&parameter, "force");
        Ok(Self { container, verb, sudo: is_said(&parameter, "sudo"), force, lines })
    }

    pub(super) fn title(&self) -> String {
        format!("{} {}", self.verb.title(), self.container.name)
    }

    pub(super) const fn danger(&self) -> Option<&'static str> {
        match self.verb {
            ContainerVerb::Remove => Some(
                "The container is gone for good, with everything in it that lies in no volume. Its image stays.",
            ),
            ContainerVerb::Stop => Some("The container stays stopped until somebody starts it again."),
            ContainerVerb::Pause => Some("Everything in the container stands still until it is resumed."),
            _ => None,
        }
    }

    /// The parameters as [`Self::parse`] takes them.
    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("container", self.container.name.clone()),
            ("container_engine", self.container.engine.program().to_owned()),
        ];
        fields.extend(self.sudo.then(|| ("sudo", "true".to_owned())));
        fields.extend(self.force.then(|| ("force", "true".to_owned())));
        fields.extend(self.lines.map(|lines| ("lines", lines.to_string())));
        fields
    }

    pub(super) fn plan(&self, around: Surroundings) -> Result<Plan, ActionError> {
        let engine = self.container.engine.program();
        let name = quoted(&self.container.name)?;
        let command = match self.verb {
            ContainerVerb::Start => format!("{engine} start {name}"),
            ContainerVerb::Stop => format!("{engine} stop {name}"),
            ContainerVerb::Restart => format!("{engine} restart {name}"),
            ContainerVerb::Pause => format!("{engine} pause {name}"),
            ContainerVerb::Unpause => format!("{engine} unpause {name}"),
            ContainerVerb::Remove if self.force => format!("{engine} rm --force {name}"),
            ContainerVerb::Remove => format!("{engine} rm {name}"),
            ContainerVerb::Logs => {
                let lines = self.lines.unwrap_or(DEFAULT_LINES);
                format!("{engine} logs --timestamps --tail {lines} {name}")
            }
        };
        Ok(if self.sudo { Plan::by_root(around, command, TIMEOUT) } else { Plan::of_text(command, TIMEOUT) })
    }
}

/// `container_exec`: a command that has to name its container.
pub(super) fn parse_exec(parameter: impl Fn(&str) -> Option<String>) -> Result<Action, ActionError> {
    if parameter("container").is_none_or(|text| text.trim().is_empty()) {
        return Err(invalid("container", "container is missing: the name or id of one container"));
    }
    super::commands::parse(parameter)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ROOT, USER, given};
    use super::*;

    fn command(kind: &str, pairs: &[(&str, &str)], around: Surroundings) -> String {
        Action::parse(kind, given(pairs)).unwrap().plan(around).unwrap().command
    }

    #[test]
    fn both_engines_get_the_same_words() {
        for engine in ["docker", "podman"] {
            let said = |kind| command(kind, &[("container", "web.1"), ("container_engine", engine)], ROOT);
            for (kind, words) in [
                ("start_container", "start web.1"),
                ("stop_container", "stop web.1"),
                ("restart_container", "restart web.1"),
                ("pause_container", "pause web.1"),
                ("unpause_container", "unpause web.1"),
                ("remove_container", "rm web.1"),
                ("container_logs", "logs --timestamps --tail 200 web.1"),
            ] {
                assert_eq!(said(kind), format!("{engine} {words}"));
            }
        }
        let object = r#"{"engine": "podman", "name": "web"}"#;
        assert_eq!(
            command("remove_container", &[("container", object), ("force", "true")], ROOT),
            "podman rm --force web"
        );
        assert_eq!(
            command("container_logs", &[("container", "web"), ("lines", "5")], ROOT),
            "docker logs --timestamps --tail 5 web"
        );
    }

    #[test]
    fn a_container_is_acted_on_as_the_login_unless_root_is_asked_for() {
        assert_eq!(command("stop_container", &[("container", "web")], USER), "docker stop web");
        let root = [("container", "web"), ("sudo", "true")];
        assert_eq!(command("stop_container", &root, USER), "sudo -n docker stop web");
        assert_eq!(command("stop_container", &root, ROOT), "docker stop web");
        let exec = [("container", "web"), ("command", "id -un")];
        assert_eq!(command("container_exec", &exec, USER), "docker exec -i web /bin/sh -c 'id -un'");
    }

    #[test]
    fn names_of_containers_and_lines_are_validated() {
        for bad in ["", "--privileged", "a b", "$(id)", "a;b", "a/b", "ü"] {
            let refused = Action::parse("stop_container", given(&[("container", bad)]));
            assert!(matches!(refused, Err(ActionError::Invalid { field: "container", .. })), "{bad}");
        }
        for bad in ["0", "-1", "x", "10001"] {
            let refused = Action::parse("container_logs", given(&[("container", "web"), ("lines", bad)]));
            assert!(matches!(refused, Err(ActionError::Invalid { field: "lines", .. })), "{bad}");
        }
        assert!(Action::parse("container_exec", given(&[("command", "id")])).is_err());
        assert!(
            Action::parse("stop_container", given(&[("container", "a"), ("container_engine", "lxc")]))
                .is_err()
        );
    }
}
