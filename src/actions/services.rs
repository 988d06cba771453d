//! Services: one verb, and its exact command under systemd, OpenRC and SysV init.

use std::time::Duration;

use super::plan::quoted;
use super::{Action, ActionError, Plan, Surroundings, invalid};
use crate::model::{ServiceManager, ServiceVerb};

/// A service may take its time to stop: systemd itself gives it 90 s.
const TIMEOUT: Duration = Duration::from_secs(120);
const NAME_BYTES: usize = 256;

impl Action {
    /// # Errors
    /// [`ActionError::Invalid`] for what is not a unit name.
    pub fn service(name: &str, verb: ServiceVerb) -> Result<Self, ActionError> {
        let name = name.trim();
        let name = name.strip_suffix(".service").unwrap_or(name);
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '.' | '_' | '@' | '-' | '\\');
        let valid = (1..=NAME_BYTES).contains(&name.len())
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
}

/// `kind` is one of the words of [`kind_of_watched`].
pub(super) fn parse_watched(
    kind: &str,
    parameter: impl Fn(&str) -> Option<String>,
) -> Result<Action, ActionError> {
    let verb = kind.split('_').next().and_then(ServiceVerb::parse).unwrap_or(ServiceVerb::Start);
    let name = ["service", "service_name", "name"].into_iter().find_map(parameter);
    let missing = || invalid("service", "service is missing: the name of one watched service");
    Action::watched_service(&name.ok_or_else(missing)?, verb)
}

pub(super) const fn kind_of_watched(verb: ServiceVerb) -> &'static str {
    match verb {
        ServiceVerb::Stop => "stop_watched_service",
        ServiceVerb::Restart => "restart_watched_service",
        _ => "start_watched_service",
    }
}

pub(super) fn title_of_watched(name: &str, verb: ServiceVerb) -> String {
    match verb {
        ServiceVerb::Stop => format!("Stop the watched service {name}"),
        ServiceVerb::Restart => format!("Restart the watched service {name}"),
        _ => format!("Start the watched service {name}"),
    }
}

pub(super) fn parse(
    verb: ServiceVerb,
    parameter: impl Fn(&str) -> Option<String>,
) -> Result<Action, ActionError> {
    let name = ["service", "service_name", "name"].into_iter().find_map(parameter);
    Action::service(
        &name.ok_or_else(|| invalid("service", "service is missing: the name of one service"))?,
        verb,
    )
}

pub(super) const fn kind(verb: ServiceVerb) -> &'static str {
    match verb {
        ServiceVerb::Start => "start_service",
        ServiceVerb::Stop => "stop_service",
        ServiceVerb::Restart => "restart_service",
        ServiceVerb::Reload => "reload_service",
        ServiceVerb::Enable => "enable_service",
        ServiceVerb::Disable => "disable_service",
    }
}

pub(super) fn title(name: &str, verb: ServiceVerb) -> String {
    match verb {
        ServiceVerb::Start => format!("Start the service {name}"),
        ServiceVerb::Stop => format!("Stop the service {name}"),
        ServiceVerb::Restart => format!("Restart the service {name}"),
        ServiceVerb::Reload => format!("Reload the service {name}"),
        ServiceVerb::Enable => format!("Start the service {name} at boot"),
        ServiceVerb::Disable => format!("Do not start the service {name} at boot"),
    }
}

pub(super) fn plan(around: Surroundings, name: &str, verb: ServiceVerb) -> Result<Plan, ActionError> {
    let word = verb.name();
    let unit = quoted(name)?;
    let at_boot = matches!(verb, ServiceVerb::Enable | ServiceVerb::Disable);
    let inner = match around.service_manager {
        ServiceManager::Systemd => format!("systemctl {word} -- {}", quoted(&format!("{name}.service"))?),
        ServiceManager::OpenRc if verb == ServiceVerb::Enable => format!("rc-update add {unit} default"),
        ServiceManager::OpenRc if at_boot => {
            return Plan::by_root_in_shell(around, open_rc_not_at_boot(&unit), TIMEOUT);
        }
        ServiceManager::OpenRc => format!("rc-service {unit} {word}"),
        ServiceManager::SysV if at_boot => {
            return Plan::by_root_in_shell(around, sys_v_at_boot(&unit, verb), TIMEOUT);
        }
        ServiceManager::SysV => format!("service {unit} {word}"),
        ServiceManager::Unknown => {
            return Err(ActionError::NotHere(
                "no service manager (systemd, OpenRC, SysV) is known on this server; it has none, or it was not read yet".to_owned(),
            ));
        }
    };
    Ok(Plan::by_root(around, inner, TIMEOUT))
}

/// Out of every runlevel: a service of the runlevel boot would go on starting otherwise. `rc-update -a del` fails whenever one
/// runlevel does not have the service, so what counts is that none has it in the end.
fn open_rc_not_at_boot(unit: &str) -> String {
    format!(
        "rc-service --exists {unit} || {{ echo \"no service \"{unit} >&2; exit 1; }}; \
         rc-update -q -a del {unit}; ! ls -d /etc/runlevels/*/{unit} 2>/dev/null"
    )
}

/// Debian has update-rc.d(8), the Red Hat family chkconfig(8). `defaults` makes the links where there are none yet and
/// changes none that are there; `enable` turns those round that were disabled.
fn sys_v_at_boot(unit: &str, verb: ServiceVerb) -> String {
    let (debian, red_hat) = match verb {
        ServiceVerb::Disable => (format!("update-rc.d {unit} disable"), format!("chkconfig {unit} off")),
        _ => (
            format!("update-rc.d {unit} defaults && update-rc.d {unit} enable"),
            format!("chkconfig {unit} on"),
        ),
    };
    format!("if command -v update-rc.d >/dev/null; then {debian}; else {red_hat}; fi")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ROOT, USER};
    use super::*;

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
    fn starting_at_boot_is_switched_on_and_off_under_every_manager() {
        let command = |manager, verb| {
            let action = Action::service("cron", verb).unwrap();
            action.plan(Surroundings { service_manager: manager, ..ROOT }).unwrap().command
        };
        let (on, off) = (ServiceVerb::Enable, ServiceVerb::Disable);
        assert_eq!(command(ServiceManager::Systemd, on), "systemctl enable -- cron.service");
        assert_eq!(command(ServiceManager::Systemd, off), "systemctl disable -- cron.service");
        assert_eq!(command(ServiceManager::OpenRc, on), "rc-update add cron default");
        assert_eq!(
            command(ServiceManager::OpenRc, off),
            "rc-service --exists cron || { echo \"no service \"cron >&2; exit 1; }; \
             rc-update -q -a del cron; ! ls -d /etc/runlevels/*/cron 2>/dev/null"
        );
        assert_eq!(
            command(ServiceManager::SysV, on),
            "if command -v update-rc.d >/dev/null; then update-rc.d cron defaults && update-rc.d cron enable; else chkconfig cron on; fi"
        );
        assert_eq!(
            command(ServiceManager::SysV, off),
            "if command -v update-rc.d >/dev/null; then update-rc.d cron disable; else chkconfig cron off; fi"
        );
        let action = Action::service("cron", on).unwrap();
        let as_user = action.plan(Surroundings { service_manager: ServiceManager::SysV, ..USER }).unwrap();
        assert!(as_user.command.starts_with("sudo -n sh -c "), "{}", as_user.command);
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
}
