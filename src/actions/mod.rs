//! Actions: what may be done to a server, and the exact command that does it.
//!
//! Pure: validates and builds text, never runs anything. Every value that a person gave is validated and quoted here.

mod agents;
mod how;
mod mask;
mod rotation;

use std::time::Duration;

use serde::Serialize;

use crate::model::{Role, ServiceManager, ServiceVerb, Signal};
use crate::quote::quote;

pub use agents::{
    AgentDeployment, DEFAULT_PORT as AGENT_PORT, SCRIPT as AGENT_SCRIPT, manage as manage_agent,
};
pub use how::{ContainerEngine, How, InContainer, STDIN_LIMIT_BYTES, Variable};
pub use mask::mask;
pub use rotation::KeyRotation;

/// Longest command that a person may send.
pub const COMMAND_LIMIT_BYTES: usize = 64 * 1024;
/// Time limits that a person may choose for a command.
pub const TIMEOUT_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
/// Time limit of a command when nobody chooses one.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// A service may take its time to stop: systemd itself gives it 90 s.
const SERVICE_TIMEOUT: Duration = Duration::from_secs(120);
const KILL_TIMEOUT: Duration = Duration::from_secs(15);
const SERVICE_NAME_BYTES: usize = 256;

/// Exit status of the kill command when no such process exists.
pub const NO_SUCH_PROCESS: u32 = 3;
/// Exit status of the kill command when the pid belongs to another process by now.
pub const ANOTHER_PROCESS: u32 = 4;

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
    Service {
        name: String,
        verb: ServiceVerb,
    },
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
    /// Several steps with logins between them; only the fleet can do it.
    RotateKey(KeyRotation),
    /// An upload between several commands; only the fleet can do it.
    DeployAgent(AgentDeployment),
    /// Ends its use and leaves no file of it.
    RemoveAgent,
}

/// What of a server decides about the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surroundings {
    pub service_manager: ServiceManager,
    /// Roundsman logs in as root; otherwise what needs root runs under sudo.
    pub is_root: bool,
    /// sudo gets a kept password over its standard input; otherwise it must not ask (`sudo -n`).
    pub sudo_password: bool,
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
    fn of_text(command: String, timeout: Duration) -> Self {
        let inner = command.clone();
        Self { command, container_command: None, timeout, inner, sudo: false, how: How::default() }
    }

    /// For root, by sudo where that is needed.
    fn by_root(around: Surroundings, inner: String, timeout: Duration) -> Self {
        let sudo = !around.is_root;
        let command = if sudo { format!("{} {inner}", around.sudo_words()) } else { inner.clone() };
        Self { command, container_command: None, timeout, inner, sudo, how: How::default() }
    }
}

impl Surroundings {
    const fn sudo_words(self) -> &'static str {
        if self.sudo_password { "sudo" } else { "sudo -n" }
    }
}

impl Action {
    /// # Errors
    /// [`ActionError::Invalid`] for pid 0 and 1.
    pub fn kill_process(pid: i64, start_ticks: u64, signal: Signal) -> Result<Self, ActionError> {
        match u32::try_from(pid) {
            Ok(pid) if pid > 1 => Ok(Self::KillProcess { pid, start_ticks, signal }),
            _ => Err(invalid("pid", format!("{pid} is not a process that may be ended; use a pid above 1"))),
        }
    }

    /// # Errors
    /// [`ActionError::Invalid`] for what is not a unit name.
    pub fn service(name: &str, verb: ServiceVerb) -> Result<Self, ActionError> {
        let name = name.trim();
        let name = name.strip_suffix(".service").unwrap_or(name);
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '.' | '_' | '@' | '-' | '\\');
        let valid = (1..=SERVICE_NAME_BYTES).contains(&name.len())
            && name.chars().all(allowed)
            && !name.starts_with(['-', '.']);
        if valid {
            Ok(Self::Service { name: name.to_owned(), verb })
        } else {
            let shown: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
            Err(invalid(
                "service",
                format!("'{shown}' is not a service name: use letters, digits and : . _ @ - \\"),
            ))
        }
    }

    /// # Errors
    /// [`ActionError::Invalid`] for what is no name, and for a verb that watched services do not know.
    pub fn watched_service(name: &str, verb: ServiceVerb) -> Result<Self, ActionError> {
        match Self::service(name, verb)? {
            Self::Service { name, verb: ServiceVerb::Start | ServiceVerb::Stop | ServiceVerb::Restart } => {
                Ok(Self::WatchedService { name, verb })
            }
            _ => Err(invalid("operation_type", "a watched service is started, stopped or restarted")),
        }
    }

    /// # Errors
    /// [`ActionError::Invalid`] for an empty or too long command, a NUL in it, or a time limit out of range.
    pub fn run_command(command: &str, sudo: bool, timeout: Option<Duration>) -> Result<Self, ActionError> {
        let timeout = timeout.unwrap_or(DEFAULT_TIMEOUT);
        if command.trim().is_empty() {
            return Err(invalid("command", "there is no command to run"));
        }
        if command.len() > COMMAND_LIMIT_BYTES {
            return Err(invalid(
                "command",
                format!("the command is longer than {COMMAND_LIMIT_BYTES} bytes; upload a script instead"),
            ));
        }
        if command.contains('\0') {
            return Err(invalid("command", "the command holds a NUL character"));
        }
        if !(TIMEOUT_RANGE.0..=TIMEOUT_RANGE.1).contains(&timeout) {
            return Err(invalid("timeout_s", "the time limit must be 1 to 86,400 seconds"));
        }
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        Ok(Self::RunCommand { command: command.to_owned(), sudo, timeout_ms, how: Box::default() })
    }

    /// The same command, run differently.
    #[must_use]
    pub fn run_like(self, new: How) -> Self {
        match self {
            Self::RunCommand { command, sudo, timeout_ms, .. } => {
                Self::RunCommand { command, sudo, timeout_ms, how: Box::new(new) }
            }
            other => other,
        }
    }

    /// From the word for the action and its parameters, as forms and the API name them; older words are accepted.
    ///
    /// # Errors
    /// [`ActionError::Invalid`] names the parameter and what would be accepted.
    pub fn parse(kind: &str, parameter: impl Fn(&str) -> Option<String>) -> Result<Self, ActionError> {
        let number = |name: &'static str| {
            let text = parameter(name).ok_or_else(|| invalid(name, format!("{name} is missing")))?;
            text.trim().parse::<i64>().map_err(|_| invalid(name, format!("'{text}' is not a number")))
        };
        let verb = kind.strip_suffix("_services").or_else(|| kind.strip_suffix("_service"));
        match (kind, verb.and_then(ServiceVerb::parse)) {
            (_, Some(verb)) => {
                let name = ["service", "service_name", "name"].into_iter().find_map(&parameter);
                Self::service(
                    &name.ok_or_else(|| invalid("service", "service is missing: the name of one service"))?,
                    verb,
                )
            }
            ("start_watched_service" | "stop_watched_service" | "restart_watched_service", _) => {
                let verb = kind.split('_').next().and_then(ServiceVerb::parse).unwrap_or(ServiceVerb::Start);
                let name = ["service", "service_name", "name"].into_iter().find_map(&parameter);
                let missing = || invalid("service", "service is missing: the name of one watched service");
                Self::watched_service(&name.ok_or_else(missing)?, verb)
            }
            ("kill_process" | "kill", _) => {
                let start = u64::try_from(number("start_ticks")?).map_err(|_| {
                    invalid("start_ticks", "start_ticks must not be negative; it stands in the process list")
                })?;
                let signal = match parameter("signal") {
                    None => Signal::default(),
                    Some(text) => Signal::parse(&text).ok_or_else(|| {
                        invalid("signal", "use TERM, KILL, HUP, INT, QUIT, USR1, USR2, STOP or CONT")
                    })?,
                };
                Self::kill_process(number("pid")?, start, signal)
            }
            ("run_command" | "command", _) => {
                let command = parameter("command").ok_or_else(|| invalid("command", "command is missing"))?;
                let sudo = parameter("sudo")
                    .is_some_and(|text| matches!(text.as_str(), "true" | "on" | "1" | "yes"));
                let timeout =
                    match parameter("timeout_s") {
                        None => None,
                        Some(text) => Some(text.trim().parse().map(Duration::from_secs).map_err(|_| {
                            invalid("timeout_s", format!("'{text}' is not a number of seconds"))
                        })?),
                    };
                Ok(Self::run_command(&command, sudo, timeout)?.run_like(How::parse(&parameter)?))
            }
            ("deploy_agent" | "upgrade_agent", _) => {
                let (mode, port) = (parameter("mode"), parameter("port"));
                AgentDeployment::parse(mode.as_deref(), port.as_deref()).map(Self::DeployAgent)
            }
            ("remove_agent", _) => Ok(Self::RemoveAgent),
            _ => Err(invalid(
                "operation_type",
                "use kill_process, start_service, stop_service, restart_service, reload_service, start_watched_service, stop_watched_service, restart_watched_service, run_command, deploy_agent or remove_agent",
            )),
        }
    }

    /// As the API spells it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::KillProcess { .. } => "kill_process",
            Self::Service { verb, .. } => match verb {
                ServiceVerb::Start => "start_service",
                ServiceVerb::Stop => "stop_service",
                ServiceVerb::Restart => "restart_service",
                ServiceVerb::Reload => "reload_service",
            },
            Self::WatchedService { verb, .. } => match verb {
                ServiceVerb::Stop => "stop_watched_service",
                ServiceVerb::Restart => "restart_watched_service",
                _ => "start_watched_service",
            },
            Self::RunCommand { .. } => "run_command",
            Self::RotateKey(_) => "rotate_key",
            Self::DeployAgent(_) => "deploy_agent",
            Self::RemoveAgent => "remove_agent",
        }
    }

    /// Who may ask for it.
    #[must_use]
    pub const fn role(&self) -> Role {
        match self {
            Self::RotateKey(_) | Self::DeployAgent(_) | Self::RemoveAgent => Role::Admin,
            Self::KillProcess { .. }
            | Self::Service { .. }
            | Self::WatchedService { .. }
            | Self::RunCommand { .. } => Role::Operator,
        }
    }

    /// For a person: what it does and to what.
    #[must_use]
    pub fn title(&self) -> String {
        match self {
            Self::KillProcess { pid, signal, .. } => format!("Send {} to process {pid}", signal.name()),
            Self::Service { name, verb } => {
                let verb = match verb {
                    ServiceVerb::Start => "Start",
                    ServiceVerb::Stop => "Stop",
                    ServiceVerb::Restart => "Restart",
                    ServiceVerb::Reload => "Reload",
                };
                format!("{verb} the service {name}")
            }
            Self::WatchedService { name, verb } => {
                let verb = match verb {
                    ServiceVerb::Stop => "Stop",
                    ServiceVerb::Restart => "Restart",
                    _ => "Start",
                };
                format!("{verb} the watched service {name}")
            }
            Self::RunCommand { how, .. } if how.label.is_some() => how.label.clone().unwrap_or_default(),
            Self::RunCommand { command, .. } => {
                let line = command.trim().lines().next().unwrap_or_default();
                let short: String = line.chars().take(60).collect();
                if short.len() < command.trim().len() {
                    format!("Run {short} …")
                } else {
                    format!("Run {short}")
                }
            }
            Self::RotateKey(rotation) => rotation.title(),
            Self::DeployAgent(deployment) => deployment.title(),
            Self::RemoveAgent => "Remove the agent".to_owned(),
        }
    }

    /// The exact command for a server.
    ///
    /// # Errors
    /// [`ActionError::NotHere`] when nothing on the server can do it.
    pub fn plan(&self, around: Surroundings) -> Result<Plan, ActionError> {
        let quoted = |text: &str| quote(text).map_err(|error| invalid("command", error.to_string()));
        match self {
            Self::KillProcess { pid, start_ticks, signal } => {
                let script = kill_script(*pid, *start_ticks, *signal);
                let inner = if around.is_root { script } else { format!("sh -c {}", quoted(&script)?) };
                Ok(Plan::by_root(around, inner, KILL_TIMEOUT))
            }
            Self::Service { name, verb } => {
                let verb = verb.name();
                let inner = match around.service_manager {
                    ServiceManager::Systemd => {
                        format!("systemctl {verb} -- {}", quoted(&format!("{name}.service"))?)
                    }
                    ServiceManager::OpenRc => format!("rc-service {} {verb}", quoted(name)?),
                    ServiceManager::SysV => format!("service {} {verb}", quoted(name)?),
                    ServiceManager::Unknown => {
                        return Err(ActionError::NotHere(
                            "no service manager (systemd, OpenRC, SysV) is known on this server; it has none, or it was not read yet".to_owned(),
                        ));
                    }
                };
                Ok(Plan::by_root(around, inner, SERVICE_TIMEOUT))
            }
            // Only the fleet knows what is watched where.
            Self::WatchedService { name, .. } => {
                Err(ActionError::NotHere(format!("no service named {name} is watched there")))
            }
            Self::RunCommand { command, sudo, timeout_ms, how } => {
                let timeout = Duration::from_millis(*timeout_ms);
                run_plan(around, command, *sudo, timeout, how)
            }
            Self::RotateKey(rotation) => rotation.plan(),
            Self::DeployAgent(deployment) => Ok(deployment.plan()),
            Self::RemoveAgent => Ok(agents::removal_plan()),
        }
    }
}

/// The command with what is around it, written out; the values of its environment and its input are left out.
fn run_plan(
    around: Surroundings,
    inner: &str,
    sudo: bool,
    timeout: Duration,
    how: &How,
) -> Result<Plan, ActionError> {
    let quoted = |text: &str| quote(text).map_err(|error| invalid("command", error.to_string()));
    let sudo = !around.is_root && (sudo || how.run_as.is_some());
    let mut command = inner.to_owned();
    if let Some(container) = &how.container {
        let engine = match container.engine {
            ContainerEngine::Docker => "docker",
            ContainerEngine::Podman => "podman",
        };
        command = format!("{engine} exec -i {} /bin/sh -c {}", quoted(&container.name)?, quoted(&command)?);
    }
    command = match (&how.run_as, sudo) {
        (Some(user), true) => {
            format!("{} -u {} -- sh -c {}", around.sudo_words(), quoted(user)?, quoted(&command)?)
        }
        (Some(user), false) => format!("su -s /bin/sh {} -c {}", quoted(user)?, quoted(&command)?),
        (None, true) => format!("{} -- sh -c {}", around.sudo_words(), quoted(&command)?),
        (None, false) => command,
    };
    Ok(Plan {
        command,
        container_command: how.container.as_ref().map(|_| inner.to_owned()),
        timeout,
        inner: inner.to_owned(),
        sudo,
        how: how.clone(),
    })
}

/// Compares field 22 of /proc/PID/stat (proc(5)) before it signals. The name in field 2 may hold anything,
/// so everything up to the last parenthesis is cut off; what follows begins with field 3.
fn kill_script(pid: u32, start_ticks: u64, signal: Signal) -> String {
    let signal = signal.name();
    format!(
        "s=$(cat /proc/{pid}/stat 2>/dev/null) || {{ echo 'process {pid} does not exist (any more)' >&2; exit {NO_SUCH_PROCESS}; }}; \
         set -- ${{s##*) }}; \
         [ \"${{20}}\" = {start_ticks} ] || {{ echo 'process {pid} is another one by now; nothing was sent to it' >&2; exit {ANOTHER_PROCESS}; }}; \
         kill -s {signal} {pid}"
    )
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const ROOT: Surroundings =
        Surroundings { service_manager: ServiceManager::Systemd, is_root: true, sudo_password: false };
    const USER: Surroundings = Surroundings { is_root: false, ..ROOT };

    fn start_ticks(pid: u32) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap()
    }

    #[test]
    fn a_process_is_ended_only_if_it_is_the_one_that_was_meant() {
        for shell in [&["dash"][..], &["bash"], &["busybox", "sh"]] {
            let mut child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
            let pid = child.id();
            let started = start_ticks(pid);
            let run = |start: u64| {
                let action = Action::kill_process(pid.into(), start, Signal::Kill).unwrap();
                let plan = action.plan(ROOT).unwrap();
                let (program, rest) = shell.split_first().unwrap();
                Command::new(program).args(rest).arg("-c").arg(&plan.command).output().unwrap()
            };
            let wrong = run(started + 1);
            assert_eq!(wrong.status.code(), Some(4), "{shell:?}");
            assert!(String::from_utf8_lossy(&wrong.stderr).contains("another one by now"));
            let right = run(started);
            assert_eq!(right.status.code(), Some(0), "{shell:?}");
            child.wait().unwrap();
            assert_eq!(run(started).status.code(), Some(3), "{shell:?}");
        }
    }

    #[test]
    fn service_commands_fit_the_manager_and_the_user() {
        let action = Action::service("nginx.service", ServiceVerb::Restart).unwrap();
        let command = |around| action.plan(around).unwrap().command;
        assert_eq!(command(ROOT), "systemctl restart -- nginx.service");
        assert_eq!(command(USER), "sudo -n systemctl restart -- nginx.service");
        let open_rc = Surroundings { service_manager: ServiceManager::OpenRc, ..ROOT };
        assert_eq!(command(open_rc), "rc-service nginx restart");
        let sys_v = Surroundings { service_manager: ServiceManager::SysV, ..ROOT };
        assert_eq!(command(sys_v), "service nginx restart");
        let none = Surroundings { service_manager: ServiceManager::Unknown, ..ROOT };
        assert!(matches!(action.plan(none), Err(ActionError::NotHere(_))));
    }

    #[test]
    fn unit_names_with_shell_signs_are_refused() {
        for bad in ["", "a b", "a;id", "$(id)", "-h", "../x", "a'b", "a\"b", "a|b", "a\nb", "ü"] {
            assert!(Action::service(bad, ServiceVerb::Start).is_err(), "{bad}");
        }
        for good in ["nginx", "getty@tty1", "systemd-fsck@dev-disk-by\\x2duuid", "dbus-org.x.y"] {
            assert!(Action::service(good, ServiceVerb::Start).is_ok(), "{good}");
        }
    }

    #[test]
    fn sudo_wraps_the_whole_command() {
        let action = Action::run_command("echo 'a b' && id", true, None).unwrap();
        assert_eq!(action.plan(USER).unwrap().command, "sudo -n -- sh -c \"echo 'a b' && id\"");
        assert_eq!(action.plan(ROOT).unwrap().command, "echo 'a b' && id");
        let asked = Surroundings { sudo_password: true, ..USER };
        assert_eq!(action.plan(asked).unwrap().command, "sudo -- sh -c \"echo 'a b' && id\"");
    }

    #[test]
    fn a_command_in_a_container_as_another_user_is_shown_whole_and_its_inner_half_apart() {
        let parameters =
            [("command", "id -un"), ("container", "web"), ("run_as", "ops"), ("label", "Who am I")];
        let given =
            |name: &str| parameters.iter().find(|(key, _)| *key == name).map(|(_, text)| (*text).to_owned());
        let action = Action::parse("run_command", given).unwrap();
        let plan = action.plan(USER).unwrap();
        assert_eq!(plan.command, "sudo -n -u ops -- sh -c \"docker exec -i web /bin/sh -c 'id -un'\"");
        assert_eq!((plan.container_command.as_deref(), plan.sudo), (Some("id -un"), true));
        assert_eq!(action.title(), "Who am I");
        let as_root = action.plan(ROOT).unwrap();
        assert!(as_root.command.starts_with("su -s /bin/sh ops -c "), "{}", as_root.command);
    }

    #[test]
    fn older_words_for_actions_are_accepted_and_missing_parameters_named() {
        let with = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let restart = Action::parse("restart_services", with(&[("service_name", "nginx")])).unwrap();
        assert_eq!(restart, Action::service("nginx", ServiceVerb::Restart).unwrap());
        let missing = Action::parse("kill_process", with(&[("pid", "5")])).unwrap_err();
        assert!(missing.to_string().contains("start_ticks"), "{missing}");
        assert!(Action::parse("format_disk", with(&[])).is_err());
    }

    #[test]
    fn commands_without_sense_are_refused() {
        assert!(Action::run_command("  ", false, None).is_err());
        assert!(Action::run_command("a\0b", false, None).is_err());
        assert!(Action::run_command("x", false, Some(Duration::ZERO)).is_err());
        assert!(Action::kill_process(1, 5, Signal::Term).is_err());
        assert!(Action::kill_process(-1, 5, Signal::Term).is_err());
    }
}
