//! Ending a process: the one that was meant, never one that has its pid by now.

use std::time::Duration;

use super::{Action, ActionError, NamedProcesses, Plan, Surroundings, invalid};
use crate::model::Signal;

const TIMEOUT: Duration = Duration::from_secs(15);

/// Exit status of the kill command when no such process exists.
pub const NO_SUCH_PROCESS: u32 = 3;
/// Exit status of the kill command when the pid belongs to another process by now.
pub const ANOTHER_PROCESS: u32 = 4;

impl Action {
    /// # Errors
    /// [`ActionError::Invalid`] for pid 0 and 1.
    pub fn kill_process(pid: i64, start_ticks: u64, signal: Signal) -> Result<Self, ActionError> {
        match u32::try_from(pid) {
            Ok(pid) if pid > 1 => Ok(Self::KillProcess { pid, start_ticks, signal }),
            _ => Err(invalid("pid", format!("{pid} is not a process that may be ended; use a pid above 1"))),
        }
    }
}

/// One by `pid` and `start_ticks`, or those of a name.
pub(super) fn parse(parameter: impl Fn(&str) -> Option<String>) -> Result<Action, ActionError> {
    let is_said = |name: &str| parameter(name).is_some_and(|text| !text.trim().is_empty());
    let signal = match parameter("signal").filter(|text| !text.trim().is_empty()) {
        None => Signal::default(),
        Some(text) => Signal::parse(&text)
            .ok_or_else(|| invalid("signal", "use TERM, KILL, HUP, INT, QUIT, USR1, USR2, STOP or CONT"))?,
    };
    if !is_said("pid") && !is_said("start_ticks") {
        return NamedProcesses::parse(signal, parameter).map(Action::KillNamed);
    }
    if is_said("process") {
        return Err(invalid("process", "name a process or give its pid, not both"));
    }
    let number = |name: &'static str| {
        let text = parameter(name).ok_or_else(|| invalid(name, format!("{name} is missing")))?;
        text.trim().parse::<i64>().map_err(|_| invalid(name, format!("'{text}' is not a number")))
    };
    let start = u64::try_from(number("start_ticks")?).map_err(|_| {
        invalid("start_ticks", "start_ticks must not be negative; it stands in the process list")
    })?;
    Action::kill_process(number("pid")?, start, signal)
}

pub(super) fn plan(
    around: Surroundings,
    pid: u32,
    start_ticks: u64,
    signal: Signal,
) -> Result<Plan, ActionError> {
    Plan::by_root_in_shell(around, script(pid, start_ticks, signal), TIMEOUT)
}

/// Compares field 22 of /proc/PID/stat (proc(5)) before it signals. The name in field 2 may hold anything,
/// so everything up to the last parenthesis is cut off; what follows begins with field 3.
fn script(pid: u32, start_ticks: u64, signal: Signal) -> String {
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

    use super::super::tests::ROOT;
    use super::*;

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
    fn pids_of_everybody_and_of_nobody_are_refused() {
        assert!(Action::kill_process(1, 5, Signal::Term).is_err());
        assert!(Action::kill_process(-1, 5, Signal::Term).is_err());
    }
}
