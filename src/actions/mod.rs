//! Actions: what may be done to a server, and the exact command that does it.
//!
//! Pure: validates and builds text, never runs anything. Every value that a person gave is validated and quoted here.
//! A file owns one kind; this one knows all of them by name.

mod agents;
mod commands;
mod containers;
mod diagnostics;
mod files;
mod files_template;
mod how;
mod mask;
mod named;
mod packages;
mod plan;
mod processes;
mod reboot;
mod rotation;
mod script;
mod services;

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::model::{Role, ServiceVerb, Signal};

pub use agents::{
    AgentDeployment, DEFAULT_PORT as AGENT_PORT, SCRIPT as AGENT_SCRIPT, manage as manage_agent,
};
pub use commands::{COMMAND_LIMIT_BYTES, DEFAULT_TIMEOUT, TIMEOUT_RANGE};
pub use containers::{ContainerAction, ContainerVerb};
pub use diagnostics::{ARCHIVE_LIMIT_BYTES, Diagnostics};
pub use files::{CONTENT_LIMIT_BYTES, FileChange, FileKind};
pub use files_template::TemplateValues;
pub use how::{ContainerEngine, How, InContainer, STDIN_LIMIT_BYTES, Variable};
pub use mask::mask;
pub use named::{NamedProcesses, TOO_MANY_PROCESSES};
pub use packages::PackageUpdate;
pub use plan::{Plan, Surroundings};
pub use processes::{ANOTHER_PROCESS, NO_SUCH_PROCESS};
pub use reboot::Reboot;
pub use rotation::KeyRotation;
pub use script::{SCRIPT_LIMIT_BYTES, Script};

/// Parameters that are lists: the text of one is a JSON list, or what a form says with lines or blanks between.
pub const LISTS: [&str; 2] = ["arguments", "packages"];

/// Why an action cannot be meant like this; says what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActionError {
    #[error("{message}")]
    Invalid { field: &'static str, message: String },
    /// This server has nothing that could do it.
    #[error("{0}")]
    NotHere(String),
}

fn invalid(field: &'static str, message: impl Into<String>) -> ActionError {
    ActionError::Invalid { field, message: message.into() }
}

/// One typed thing to do to a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Identified by pid and start time, so that a reused pid is never hit.
    KillProcess {
        pid: u32,
        start_ticks: u64,
        signal: Signal,
    },
    /// Found by their name on each server.
    KillNamed(NamedProcesses),
    Service {
        name: String,
        verb: ServiceVerb,
    },
    Container(ContainerAction),
    /// One that is watched by its processes; its commands are kept with it.
    WatchedService {
        name: String,
        verb: ServiceVerb,
    },
    /// POSIX shell text.
    RunCommand {
        command: String,
        sudo: bool,
        timeout_ms: u64,
        #[serde(flatten)]
        how: Box<How>,
    },
    RunScript(Box<Script>),
    UpdatePackages(PackageUpdate),
    /// A command, and the wait for another boot; only the fleet can do it.
    Reboot(Reboot),
    /// A reading, judged; only the fleet can do it.
    HealthCheck,
    /// Its output is an archive, which is kept.
    CollectDiagnostics(Diagnostics),
    /// Several steps with logins between them; only the fleet can do it.
    RotateKey(KeyRotation),
    /// An upload between several commands; only the fleet can do it.
    DeployAgent(AgentDeployment),
    /// Ends its use and leaves no file of it.
    RemoveAgent,
    /// Its command may differ from server to server; [`FileChange::plan`] makes it.
    File(Box<FileChange>),
}

impl Action {
    /// The words for actions that [`Self::parse`] takes, without the older ones.
    pub const KINDS: [&str; 29] = [
        "kill_process",
        "start_service",
        "stop_service",
        "restart_service",
        "reload_service",
        "enable_service",
        "disable_service",
        "start_watched_service",
        "stop_watched_service",
        "restart_watched_service",
        "start_container",
        "stop_container",
        "restart_container",
        "pause_container",
        "unpause_container",
        "remove_container",
        "container_logs",
        "container_exec",
        "run_command",
        "run_script",
        "update_packages",
        "reboot",
        "health_check",
        "collect_diagnostics",
        "upload_file",
        "upload_template",
        "update_configuration",
        "deploy_agent",
        "remove_agent",
    ];

    /// From the word for the action and its parameters, as forms and the API name them; older words are accepted.
    ///
    /// # Errors
    /// [`ActionError::Invalid`] names the parameter and what would be accepted.
    pub fn parse(kind: &str, parameter: impl Fn(&str) -> Option<String>) -> Result<Self, ActionError> {
        let verb = kind.strip_suffix("_services").or_else(|| kind.strip_suffix("_service"));
        if let Some(verb) = verb.and_then(ServiceVerb::parse) {
            return services::parse(verb, parameter);
        }
        if let Some(verb) = containers::verb_of(kind) {
            return ContainerAction::parse(verb, parameter).map(Self::Container);
        }
        match kind {
            "kill_process" | "kill" => processes::parse(parameter),
            "run_command" | "command" => commands::parse(parameter),
            "container_exec" => containers::parse_exec(parameter),
            "run_script" | "script" => {
                Script::parse(parameter).map(|script| Self::RunScript(Box::new(script)))
            }
            "start_watched_service" | "stop_watched_service" | "restart_watched_service" => {
                services::parse_watched(kind, parameter)
            }
            "update_packages" | "deploy_update" => PackageUpdate::parse(parameter).map(Self::UpdatePackages),
            "reboot" => Reboot::parse(parameter).map(Self::Reboot),
            "health_check" => Ok(Self::HealthCheck),
            "collect_diagnostics" => Ok(Self::CollectDiagnostics(Diagnostics::parse(parameter))),
            "deploy_agent" | "upgrade_agent" => {
                let (mode, port, url) = (parameter("mode"), parameter("port"), parameter("url"));
                AgentDeployment::parse(mode.as_deref(), port.as_deref(), url.as_deref())
                    .map(Self::DeployAgent)
            }
            "remove_agent" => Ok(Self::RemoveAgent),
            word if let Some(kind) = FileKind::parse(word) => {
                Ok(Self::File(Box::new(FileChange::parse(kind, parameter)?)))
            }
            _ => Err(invalid("operation_type", format!("use one of {}", Self::KINDS.join(", ")))),
        }
    }

    /// As the API spells it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::KillProcess { .. } | Self::KillNamed(_) => "kill_process",
            Self::Service { verb, .. } => services::kind(*verb),
            Self::Container(action) => action.verb.kind(),
            Self::WatchedService { verb, .. } => services::kind_of_watched(*verb),
            Self::RunCommand { .. } => "run_command",
            Self::RunScript(_) => "run_script",
            Self::UpdatePackages(_) => "update_packages",
            Self::Reboot(_) => "reboot",
            Self::HealthCheck => "health_check",
            Self::CollectDiagnostics(_) => "collect_diagnostics",
            Self::RotateKey(_) => "rotate_key",
            Self::DeployAgent(_) => "deploy_agent",
            Self::RemoveAgent => "remove_agent",
            Self::File(change) => change.kind.name(),
        }
    }

    /// Who may ask for it.
    #[must_use]
    pub const fn role(&self) -> Role {
        match self {
            Self::RotateKey(_) | Self::DeployAgent(_) | Self::RemoveAgent => Role::Admin,
            Self::KillProcess { .. }
            | Self::KillNamed(_)
            | Self::Service { .. }
            | Self::WatchedService { .. }
            | Self::Container(_)
            | Self::RunCommand { .. }
            | Self::RunScript(_)
            | Self::UpdatePackages(_)
            | Self::Reboot(_)
            | Self::HealthCheck
            | Self::CollectDiagnostics(_)
            | Self::File(_) => Role::Operator,
        }
    }

    /// For a person: what it does and to what.
    #[must_use]
    pub fn title(&self) -> String {
        match self {
            Self::KillProcess { pid, signal, .. } => format!("Send {} to process {pid}", signal.name()),
            Self::KillNamed(named) => named.title(),
            Self::Service { name, verb } => services::title(name, *verb),
            Self::Container(action) => action.title(),
            Self::RunCommand { command, how, .. } => commands::title(command, how),
            Self::RunScript(script) => script.title(),
            Self::UpdatePackages(update) => update.title(),
            Self::Reboot(_) => "Reboot".to_owned(),
            Self::HealthCheck => "Check the health".to_owned(),
            Self::CollectDiagnostics(_) => "Collect diagnostics".to_owned(),
            Self::WatchedService { name, verb } => services::title_of_watched(name, *verb),
            Self::RotateKey(rotation) => rotation.title(),
            Self::DeployAgent(deployment) => deployment.title(),
            Self::RemoveAgent => "Remove the agent".to_owned(),
            Self::File(change) => change.title(),
        }
    }

    /// What a person has to know before it is done; None where it can be undone or does nothing lasting.
    #[must_use]
    pub const fn danger(&self) -> Option<&'static str> {
        match self {
            Self::KillNamed(NamedProcesses { compare: true, .. }) => None,
            Self::KillProcess { signal, .. } | Self::KillNamed(NamedProcesses { signal, .. }) => match signal
            {
                Signal::Cont | Signal::Hup => None,
                Signal::Kill => Some(
                    "KILL ends the process at once: it cannot save anything, tidy up or end its children.",
                ),
                Signal::Stop => {
                    Some("STOP freezes the process until it gets CONT; whatever waits for it waits as long.")
                }
                _ => Some("The process may end."),
            },
            Self::Service { verb: ServiceVerb::Stop, .. } => {
                Some("The service stays stopped until it is started again or the server boots.")
            }
            Self::Container(action) => action.danger(),
            Self::UpdatePackages(_) => Some(
                "New versions replace those that are installed, and services may restart. It cannot be undone from here.",
            ),
            Self::Reboot(_) => Some(
                "Everything on the server ends, and nobody can work on it until it is back. It may not come back by itself.",
            ),
            Self::Service { .. }
            | Self::WatchedService { .. }
            | Self::RunCommand { .. }
            | Self::RunScript(_)
            | Self::HealthCheck
            | Self::CollectDiagnostics(_)
            | Self::RotateKey(_)
            | Self::DeployAgent(_)
            | Self::RemoveAgent
            | Self::File(_) => None,
        }
    }

    /// Nothing on a server changes: it tells what is there, or what would change.
    #[must_use]
    pub fn only_looks(&self) -> bool {
        match self {
            Self::KillNamed(named) => named.compare,
            Self::File(change) => change.compare,
            other => matches!(other, Self::HealthCheck),
        }
    }

    /// Where several things were done, the sentence that tells what went wrong says more than an exit status.
    #[must_use]
    pub const fn is_in_steps(&self) -> bool {
        matches!(
            self,
            Self::Reboot(_)
                | Self::HealthCheck
                | Self::CollectDiagnostics(_)
                | Self::RotateKey(_)
                | Self::DeployAgent(_)
                | Self::RemoveAgent
                | Self::File(_)
        )
    }

    /// The parameters, without the word for the action, as [`Self::parse`] takes them. Values that are secret are left out.
    #[must_use]
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::KillProcess { pid, start_ticks, signal } => vec![
                ("pid", pid.to_string()),
                ("start_ticks", start_ticks.to_string()),
                ("signal", signal.name().to_owned()),
            ],
            Self::KillNamed(named) => named.fields(),
            Self::Service { name, .. } | Self::WatchedService { name, .. } => vec![("service", name.clone())],
            Self::Container(action) => action.fields(),
            Self::RunCommand { command, sudo, timeout_ms, how } => {
                let mut fields = vec![("command", command.clone())];
                fields.extend(sudo.then(|| ("sudo", "true".to_owned())));
                fields.push(("timeout_s", timeout_ms.div_ceil(1000).to_string()));
                fields.extend(how.fields());
                fields
            }
            Self::RunScript(script) => script.fields(),
            Self::UpdatePackages(update) => update.fields(),
            Self::Reboot(reboot) => vec![("timeout_s", reboot.wait().as_secs().to_string())],
            Self::CollectDiagnostics(diagnostics) => {
                diagnostics.sudo.then(|| ("sudo", "true".to_owned())).into_iter().collect()
            }
            Self::DeployAgent(deployment) => {
                let mut fields = vec![("mode", deployment.mode.name().to_owned())];
                fields.extend(deployment.port.map(|port| ("port", port.to_string())));
                fields.extend(deployment.url.clone().map(|url| ("url", url)));
                fields
            }
            Self::File(change) => change.fields(),
            Self::HealthCheck | Self::RotateKey(_) | Self::RemoveAgent => Vec::new(),
        }
    }

    /// As it is stored: what looks like a secret is masked, and what is one is left out.
    #[must_use]
    pub fn stored(&self) -> Value {
        // Nothing in an action can fail to become JSON: its maps have texts for keys.
        let mut value = match self {
            Self::RunScript(script) => serde_json::to_value(Self::RunScript(Box::new(script.masked()))),
            other => serde_json::to_value(other),
        }
        .unwrap_or_default();
        if let (Self::RunCommand { command, .. }, Some(members)) = (self, value.as_object_mut()) {
            members.insert("command".to_owned(), mask(command).into());
        }
        value
    }

    /// The exact command for a server.
    ///
    /// # Errors
    /// [`ActionError::NotHere`] when nothing on the server can do it.
    pub fn plan(&self, around: Surroundings) -> Result<Plan, ActionError> {
        match self {
            Self::KillProcess { pid, start_ticks, signal } => {
                processes::plan(around, *pid, *start_ticks, *signal)
            }
            Self::KillNamed(named) => named.plan(around),
            Self::Service { name, verb } => services::plan(around, name, *verb),
            Self::Container(action) => action.plan(around),
            // Only the fleet knows what is watched where.
            Self::WatchedService { name, .. } => {
                Err(ActionError::NotHere(format!("no service named {name} is watched there")))
            }
            Self::RunCommand { command, sudo, timeout_ms, how } => {
                commands::plan(around, command, *sudo, *timeout_ms, how)
            }
            Self::RunScript(script) => script.plan(around),
            Self::UpdatePackages(update) => update.plan(around),
            Self::Reboot(reboot) => reboot.plan(around),
            Self::HealthCheck => Ok(Plan::of_text(HEALTH_CHECK.to_owned(), HEALTH_CHECK_TIMEOUT)),
            Self::CollectDiagnostics(diagnostics) => diagnostics.plan(around),
            Self::RotateKey(rotation) => rotation.plan(),
            Self::DeployAgent(deployment) => Ok(deployment.plan()),
            Self::RemoveAgent => Ok(agents::removal_plan()),
            Self::File(_) => {
                Err(ActionError::NotHere("a file is planned with what is known of its server".to_owned()))
            }
        }
    }
}

/// What is shown where nothing is sent but what every reading sends.
const HEALTH_CHECK: &str = "# A reading is taken now, as every few seconds, and judged.";
/// As long as the fleet waits for a reading, with room.
const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServiceManager;

    pub(super) const ROOT: Surroundings =
        Surroundings { service_manager: ServiceManager::Systemd, is_root: true, sudo_password: false };
    pub(super) const USER: Surroundings = Surroundings { is_root: false, ..ROOT };

    /// Parameters as a form sends them.
    pub(super) fn given<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn older_words_for_actions_are_accepted_and_missing_parameters_named() {
        let restart = Action::parse("restart_services", given(&[("service_name", "nginx")])).unwrap();
        assert_eq!(restart, Action::service("nginx", ServiceVerb::Restart).unwrap());
        let missing = Action::parse("kill_process", given(&[("pid", "5")])).unwrap_err();
        assert!(missing.to_string().contains("start_ticks"), "{missing}");
        assert!(Action::parse("format_disk", given(&[])).is_err());
    }

    #[test]
    fn every_kind_that_is_named_is_understood_and_names_itself() {
        let parameters = [
            ("pid", "77"),
            ("start_ticks", "5"),
            ("service", "nginx"),
            ("container", "web"),
            ("command", "id"),
            ("script", "id"),
            ("path", "/etc/motd"),
            ("content", "hello"),
        ];
        for kind in Action::KINDS {
            let action = Action::parse(kind, given(&parameters)).unwrap();
            let fields = action.fields();
            let pairs: Vec<(&str, &str)> =
                fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_eq!(Action::parse(action.kind(), given(&pairs)).unwrap(), action, "what a form carries");
            let wanted = if kind == "container_exec" { "run_command" } else { kind };
            assert_eq!(action.kind(), wanted);
            // These need what is known of one server.
            let is_planned_by_server = matches!(action, Action::WatchedService { .. } | Action::File(_));
            assert!(!action.title().is_empty(), "{kind}");
            assert_eq!(action.plan(ROOT).is_err(), is_planned_by_server, "{kind}");
        }
    }
}
