//! Rebooting: the command that asks for it. Waiting for the return is the fleet's business.

use std::time::Duration;

use serde::Serialize;

use super::{ActionError, Plan, Surroundings, invalid};
use crate::model::ServiceManager;

/// Long enough for a server that checks its memory first.
const DEFAULT_WAIT: Duration = Duration::from_secs(600);
/// Nothing boots faster than the shortest; what is not back after the longest needs a person.
const WAIT_RANGE: (u64, u64) = (10, 7200);

/// OpenRC runs under several inits. `reboot` talks to that of System V and to BusyBox's; OpenRC's own listens only to a program of
/// its own (openrc-shutdown(8)).
const OPENRC: &str =
    "case $(readlink /proc/1/exe) in */openrc-init) openrc-shutdown --reboot now ;; *) reboot ;; esac";

/// A reboot that waits for the return: another boot id over a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Reboot {
    /// From the command to the first answer of the new boot.
    pub timeout_ms: u64,
}

impl Reboot {
    /// From `timeout_s`: how long it may take.
    ///
    /// # Errors
    /// [`ActionError::Invalid`] for a number out of range.
    pub(super) fn parse(parameter: impl Fn(&str) -> Option<String>) -> Result<Self, ActionError> {
        let seconds = match parameter("timeout_s").filter(|text| !text.trim().is_empty()) {
            None => DEFAULT_WAIT.as_secs(),
            Some(text) => {
                let seconds = text.trim().parse().ok();
                let within = seconds.filter(|seconds| (WAIT_RANGE.0..=WAIT_RANGE.1).contains(seconds));
                within.ok_or_else(|| {
                    let (least, most) = WAIT_RANGE;
                    invalid("timeout_s", format!("a reboot is waited for {least} to {most} seconds"))
                })?
            }
        };
        Ok(Self { timeout_ms: seconds * 1000 })
    }

    #[must_use]
    pub const fn wait(self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// systemd's own word goes through logind and stops what has to be stopped; the others have `reboot` for that.
    ///
    /// # Errors
    /// Those of [`Plan::by_root_in_shell`].
    pub(super) fn plan(self, around: Surroundings) -> Result<Plan, ActionError> {
        let word = match around.service_manager {
            ServiceManager::Systemd => "systemctl reboot",
            ServiceManager::OpenRc => return Plan::by_root_in_shell(around, OPENRC.to_owned(), self.wait()),
            ServiceManager::SysV | ServiceManager::Unknown => "reboot",
        };
        Ok(Plan::by_root(around, word.to_owned(), self.wait()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Action;
    use super::super::tests::{ROOT, USER, given};
    use super::*;

    #[test]
    fn a_reboot_is_asked_for_in_the_words_of_the_service_manager() {
        let action = Action::parse("reboot", given(&[])).unwrap();
        assert_eq!(action.plan(ROOT).unwrap().command, "systemctl reboot");
        assert_eq!(action.plan(USER).unwrap().command, "sudo -n systemctl reboot");
        for manager in [ServiceManager::SysV, ServiceManager::Unknown] {
            let around = Surroundings { service_manager: manager, ..ROOT };
            assert_eq!(action.plan(around).unwrap().command, "reboot");
        }
        let openrc = |around| Surroundings { service_manager: ServiceManager::OpenRc, ..around };
        assert_eq!(action.plan(openrc(ROOT)).unwrap().command, OPENRC);
        let by_sudo = action.plan(openrc(USER)).unwrap();
        assert!(by_sudo.command.starts_with("sudo -n sh -c ") && by_sudo.sudo, "{}", by_sudo.command);
        assert!(action.danger().is_some());
    }

    #[test]
    fn the_wait_for_a_reboot_has_limits() {
        for bad in ["0", "9", "7201", "x", "-5"] {
            assert!(Action::parse("reboot", given(&[("timeout_s", bad)])).is_err(), "{bad}");
        }
        let long = Reboot::parse(given(&[("timeout_s", "900")])).unwrap();
        assert_eq!(long.wait(), Duration::from_secs(900));
    }
}
