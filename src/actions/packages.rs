//! Updating packages: which manager a server has is found on the server, in the one command that is sent.

use std::time::Duration;

use serde::Serialize;

use super::commands::timeout_ms;
use super::{ActionError, Plan, Surroundings, invalid};

/// A slow mirror and a kernel take their time.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3600);
/// More names are a list for a script.
const PACKAGES: usize = 200;
const NAME_BYTES: usize = 128;

/// Refreshes the lists and brings packages up to date.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct PackageUpdate {
    /// None named: all that are installed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
    pub timeout_ms: u64,
}

impl PackageUpdate {
    /// From `packages` (a list, or names with blanks or commas between) and `timeout_s`.
    ///
    /// # Errors
    /// [`ActionError::Invalid`] names the parameter and what would be accepted.
    pub(super) fn parse(parameter: impl Fn(&str) -> Option<String>) -> Result<Self, ActionError> {
        let text = ["packages", "package"].into_iter().find_map(&parameter).unwrap_or_default();
        let listed =
            text.trim_start().starts_with('[').then(|| serde_json::from_str::<Vec<String>>(&text).ok());
        let packages = listed.flatten().unwrap_or_else(|| {
            text.split(|c: char| c.is_whitespace() || c == ',').map(str::to_owned).collect()
        });
        let packages: Vec<String> = packages.into_iter().filter(|name| !name.is_empty()).collect();
        if packages.len() > PACKAGES {
            return Err(invalid("packages", format!("name at most {PACKAGES} packages, or none for all")));
        }
        if let Some(wrong) = packages.iter().find(|name| !is_name(name)) {
            let shown: String = wrong.chars().filter(|c| !c.is_control()).take(80).collect();
            return Err(invalid("packages", format!("'{shown}' is not the name of a package")));
        }
        Ok(Self { packages, timeout_ms: timeout_ms(&parameter, DEFAULT_TIMEOUT)? })
    }

    pub(super) fn title(&self) -> String {
        match self.packages.as_slice() {
            [] => "Update all packages".to_owned(),
            [one] => format!("Update the package {one}"),
            several => format!("Update {} packages", several.len()),
        }
    }

    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![("timeout_s", self.timeout_ms.div_ceil(1000).to_string())];
        if !self.packages.is_empty() {
            fields.push(("packages", self.packages.join(" ")));
        }
        fields
    }

    pub(super) fn plan(&self, around: Surroundings) -> Result<Plan, ActionError> {
        Plan::by_root_in_shell(around, self.script(), Duration::from_millis(self.timeout_ms))
    }

    /// Names were validated: no sign in them means anything to a shell.
    fn script(&self) -> String {
        let names = self.packages.join(" ");
        let (apt, others) = if names.is_empty() {
            ("upgrade".to_owned(), String::new())
        } else {
            (format!("install --only-upgrade {names}"), format!(" {names}"))
        };
        SCRIPT.replace("@APT@", &apt).replace("@NAMES@", &others)
    }
}

/// apt keeps changed configuration files and waits two minutes for another one's lock. zypper's 102 and 103 say that it
/// succeeded and wants a restart (zypper(8)). pacman knows no partial upgrade: named packages come with all others.
const SCRIPT: &str = "\
if command -v apt-get >/dev/null 2>&1; then
  export DEBIAN_FRONTEND=noninteractive APT_LISTCHANGES_FRONTEND=none NEEDRESTART_MODE=l UCF_FORCE_CONFFOLD=1
  apt-get -o DPkg::Lock::Timeout=120 update &&
  apt-get -y -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold @APT@
elif command -v dnf >/dev/null 2>&1; then dnf -y --refresh upgrade@NAMES@
elif command -v yum >/dev/null 2>&1; then yum -y update@NAMES@
elif command -v zypper >/dev/null 2>&1; then
  zypper --non-interactive refresh && { zypper --non-interactive update@NAMES@; r=$?; case $r in 102|103) r=0;; esac; (exit $r); }
elif command -v apk >/dev/null 2>&1; then apk update && apk upgrade@NAMES@
elif command -v pacman >/dev/null 2>&1; then pacman -Syu --noconfirm@NAMES@
else echo 'no package manager is known here (apt, dnf, yum, zypper, apk, pacman)' >&2; exit 127
fi </dev/null
r=$?
if [ -e /run/reboot-required ] || [ -e /var/run/reboot-required ]; then echo 'The server wants a reboot.'; fi
exit $r";

fn is_name(name: &str) -> bool {
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    // A version or a repository may stand with a name: nginx=1.2-3~bpo, libc6:i386, extra/zlib.
    let others = |c: char| c.is_ascii_alphanumeric() || "+-._:=~/@".contains(c);
    first && name.len() <= NAME_BYTES && name.chars().all(others)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::process::Command;

    use super::super::tests::{ROOT, USER, given};
    use super::super::{Action, ActionError};

    fn update(packages: &str) -> Result<Action, ActionError> {
        Action::parse("update_packages", given(&[("packages", packages)]))
    }

    /// Stands for a manager that refreshes well and then ends with zypper's 102.
    const RESTART_WANTED: u8 = 255;

    /// A program that tells what it was asked, and ends so.
    fn program(place: &Path, name: &str, status: u8) {
        let end = if status == RESTART_WANTED {
            "case \"$*\" in *refresh) exit 0;; *) exit 102;; esac".to_owned()
        } else {
            format!("exit {status}")
        };
        let text =
            format!("#!/bin/sh\necho \"{name} $*\" ${{DEBIAN_FRONTEND:+\"($DEBIAN_FRONTEND)\"}}\n{end}\n");
        let path = place.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What is run where only this manager is installed. The managers are fakes that tell their arguments.
    fn run(shell: &[&str], manager: &str, status: u8, packages: &str) -> (String, Option<i32>) {
        let place = tempfile::tempdir().unwrap();
        if !manager.is_empty() {
            program(place.path(), manager, status);
        }
        let plan = update(packages).unwrap().plan(ROOT).unwrap();
        let (first, rest) = shell.split_first().unwrap();
        let output = Command::new(Path::new("/usr/bin").join(first))
            .args(rest)
            .arg("-c")
            .arg(&plan.command)
            .env_remove("DEBIAN_FRONTEND")
            .env("PATH", place.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<&str> = said.lines().filter(|line| !line.contains("wants a reboot")).collect();
        (lines.join("\n"), output.status.code())
    }

    #[test]
    fn each_package_manager_gets_its_own_words_in_any_shell() {
        let apt = "-y -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold";
        let cases = [
            (
                "apt-get",
                format!(
                    "apt-get -o DPkg::Lock::Timeout=120 update (noninteractive)\napt-get {apt} upgrade (noninteractive)"
                ),
                format!(
                    "apt-get -o DPkg::Lock::Timeout=120 update (noninteractive)\napt-get {apt} install --only-upgrade curl zlib1g (noninteractive)"
                ),
            ),
            ("dnf", "dnf -y --refresh upgrade".to_owned(), "dnf -y --refresh upgrade curl zlib1g".to_owned()),
            ("yum", "yum -y update".to_owned(), "yum -y update curl zlib1g".to_owned()),
            (
                "zypper",
                "zypper --non-interactive refresh\nzypper --non-interactive update".to_owned(),
                "zypper --non-interactive refresh\nzypper --non-interactive update curl zlib1g".to_owned(),
            ),
            ("apk", "apk update\napk upgrade".to_owned(), "apk update\napk upgrade curl zlib1g".to_owned()),
            (
                "pacman",
                "pacman -Syu --noconfirm".to_owned(),
                "pacman -Syu --noconfirm curl zlib1g".to_owned(),
            ),
        ];
        for shell in [&["dash"][..], &["bash"], &["busybox", "sh"]] {
            for (manager, all, named) in &cases {
                assert_eq!(run(shell, manager, 0, ""), (all.clone(), Some(0)), "{shell:?}");
                assert_eq!(run(shell, manager, 0, "curl, zlib1g"), (named.clone(), Some(0)), "{shell:?}");
            }
        }
    }

    #[test]
    fn an_update_that_fails_says_so_and_no_manager_is_told() {
        let (said, status) = run(&["dash"], "apt-get", 100, "");
        assert_eq!((said.lines().count(), status), (1, Some(100)), "a failed refresh updates nothing");
        assert_eq!(run(&["dash"], "zypper", 102, "").1, Some(102), "a refresh has no such success");
        assert_eq!(run(&["dash"], "zypper", RESTART_WANTED, "").1, Some(0));
        assert_eq!(run(&["dash"], "dnf", 1, "").1, Some(1));
        assert_eq!(run(&["dash"], "", 0, "").1, Some(127));
    }

    #[test]
    fn names_of_packages_are_validated_and_the_update_runs_as_root() {
        for bad in ["a;b", "$(id)", "-y", "a|b", "--help", "a'b", "a&", "*"] {
            let refused = update(bad);
            assert!(matches!(refused, Err(ActionError::Invalid { field: "packages", .. })), "{bad}");
        }
        assert!(update("nginx=1.2-3~bpo12+1 libc6:i386 g++").is_ok());
        let plan = update("").unwrap().plan(USER).unwrap();
        assert!(plan.command.starts_with("sudo -n sh -c ") && plan.sudo, "{}", plan.command);
        assert_eq!(
            Action::parse("deploy_update", given(&[("package", "nginx")])).unwrap(),
            update("nginx").unwrap()
        );
    }
}
