//! Running a command: POSIX shell text that a person wrote.

use std::time::Duration;

use super::{Action, ActionError, How, Plan, Surroundings, invalid};

/// Longest command that a person may send.
pub const COMMAND_LIMIT_BYTES: usize = 64 * 1024;
/// Time limits that a person may choose for a command.
pub const TIMEOUT_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
/// Time limit of a command when nobody chooses one.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

impl Action {
    /// # Errors
    /// [`ActionError::Invalid`] for an empty or too long command, a NUL in it, or a time limit out of range.
    pub fn run_command(command: &str, sudo: bool, timeout: Option<Duration>) -> Result<Self, ActionError> {
        if command.trim().is_empty() {
            return Err(invalid("command", "there is no command to run"));
        }
        if command.len() > COMMAND_LIMIT_BYTES {
            return Err(invalid(
                "command",
                format!("the command is longer than {COMMAND_LIMIT_BYTES} bytes; run it as a script"),
            ));
        }
        if command.contains('\0') {
            return Err(invalid("command", "the command holds a NUL character"));
        }
        let timeout_ms = in_range(timeout.unwrap_or(DEFAULT_TIMEOUT))?;
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
}

/// A time limit that a person may choose, in ms.
fn in_range(timeout: Duration) -> Result<u64, ActionError> {
    if !(TIMEOUT_RANGE.0..=TIMEOUT_RANGE.1).contains(&timeout) {
        return Err(invalid("timeout_s", "the time limit must be 1 to 86,400 seconds"));
    }
    Ok(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX))
}

/// `timeout_s`, in ms.
pub(super) fn timeout_ms(
    parameter: impl Fn(&str) -> Option<String>,
    default: Duration,
) -> Result<u64, ActionError> {
    in_range(timeout(parameter)?.unwrap_or(default))
}

fn timeout(parameter: impl Fn(&str) -> Option<String>) -> Result<Option<Duration>, ActionError> {
    let parsed = |text: String| {
        let seconds = text.trim().parse().map(Duration::from_secs);
        seconds.map_err(|_| invalid("timeout_s", format!("'{text}' is not a number of seconds")))
    };
    parameter("timeout_s").map(parsed).transpose()
}

/// Whether a box was ticked.
pub(super) fn is_said(parameter: impl Fn(&str) -> Option<String>, name: &str) -> bool {
    parameter(name).is_some_and(|text| matches!(text.as_str(), "true" | "on" | "1" | "yes"))
}

pub(super) fn parse(parameter: impl Fn(&str) -> Option<String>) -> Result<Action, ActionError> {
    let command = parameter("command").ok_or_else(|| invalid("command", "command is missing"))?;
    let sudo = is_said(&parameter, "sudo");
    let action = Action::run_command(&command, sudo, timeout(&parameter)?)?;
    Ok(action.run_like(How::parse(&parameter)?))
}

pub(super) fn title(command: &str, how: &How) -> String {
    if let Some(label) = &how.label {
        return label.clone();
    }
    let line = command.trim().lines().next().unwrap_or_default();
    let short: String = line.chars().take(60).collect();
    if short.len() < command.trim().len() { format!("Run {short} …") } else { format!("Run {short}") }
}

pub(super) fn plan(
    around: Surroundings,
    command: &str,
    sudo: bool,
    timeout_ms: u64,
    how: &How,
) -> Result<Plan, ActionError> {
    Plan::around(around, command, sudo, Duration::from_millis(timeout_ms), how)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ROOT, USER, given};
    use super::*;

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
        let action = Action::parse("run_command", given(&parameters)).unwrap();
        let plan = action.plan(USER).unwrap();
        assert_eq!(plan.command, "sudo -n -u ops -- sh -c \"docker exec -i web /bin/sh -c 'id -un'\"");
        assert_eq!((plan.container_command.as_deref(), plan.sudo), (Some("id -un"), true));
        assert_eq!(action.title(), "Who am I");
        let as_root = action.plan(ROOT).unwrap();
        assert!(as_root.command.starts_with("su -s /bin/sh ops -c "), "{}", as_root.command);
    }

    #[test]
    fn commands_without_sense_are_refused() {
        assert!(Action::run_command("  ", false, None).is_err());
        assert!(Action::run_command("a\0b", false, None).is_err());
        assert!(Action::run_command("x", false, Some(Duration::ZERO)).is_err());
    }
}
