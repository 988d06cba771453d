//! Collecting diagnostics: what is gathered on a server, each part within its own time and size, as one archive.
//!
//! Where the archive is kept is the business of operations.

use std::time::Duration;

use serde::Serialize;

use super::commands::is_said;
use super::{ActionError, Plan, Surroundings};

/// Most that a server sends; the parts are limited to less before they are compressed.
pub const ARCHIVE_LIMIT_BYTES: usize = 8 * 1024 * 1024;
/// The parts run at the same time and are not waited for longer than this.
const PARTS_LIMIT_S: u32 = 20;
/// Bytes of one part: some thousand lines.
const PART_BYTES: u32 = 512 * 1024;
/// The parts, packing, and a slow line.
const TIMEOUT: Duration = Duration::from_secs(180);

/// The parts of an archive: the name of its file, and what prints it. Each is tried in the order of what systems have.
const PARTS: [(&str, &str); 14] = [
    ("uname", "uname -a; uptime; date -u; cat /proc/version /proc/cmdline"),
    ("os-release", "cat /etc/os-release"),
    ("df", "df -PkT 2>/dev/null || df -Pk; df -Pi"),
    ("mounts", "cat /proc/mounts"),
    ("free", "free -m; cat /proc/meminfo"),
    ("pressure", "cat /proc/loadavg; cat /proc/pressure/cpu /proc/pressure/memory /proc/pressure/io"),
    ("ps", "ps -eo pid,ppid,user,stat,pcpu,pmem,rss,etime,args 2>/dev/null || ps"),
    ("dmesg", "dmesg | tail -n 2000"),
    (
        "journal",
        "journalctl --no-pager -n 2000 2>/dev/null || tail -n 2000 /var/log/messages /var/log/syslog",
    ),
    (
        "failed-units",
        "systemctl --no-pager --failed 2>/dev/null || rc-status --crashed 2>/dev/null || service --status-all",
    ),
    ("ip", "ip addr; ip route; ip -6 route"),
    ("sockets", "ss -tunap 2>/dev/null || netstat -tuna"),
    ("last", "last -n 50"),
    ("containers", "docker ps -a 2>/dev/null || podman ps -a"),
];

/// What is gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Diagnostics {
    /// As root: the kernel's messages and others' sockets often take that.
    pub sudo: bool,
}

impl Diagnostics {
    pub(super) fn parse(parameter: impl Fn(&str) -> Option<String>) -> Self {
        Self { sudo: is_said(parameter, "sudo") }
    }

    pub(super) fn plan(self, around: Surroundings) -> Result<Plan, ActionError> {
        if self.sudo {
            Plan::by_root_in_shell(around, script(), TIMEOUT)
        } else {
            Ok(Plan::of_text(script(), TIMEOUT))
        }
    }
}

/// The parts run beside each other and are not waited for beyond the limit, because no signal ends a process that hangs on a
/// dead network filesystem. What has not ended by then is asked to, and its file says so.
fn script() -> String {
    let mut parts = String::new();
    for (name, command) in PARTS {
        parts.push_str(&format!("part {name} '{command}'\n"));
    }
    format!(
        "\
d=$(mktemp -d \"${{TMPDIR:-/tmp}}/roundsman.XXXXXX\") || exit 125
trap 'rm -rf \"$d\"' EXIT; trap 'exit 143' HUP INT TERM
mkdir \"$d/diagnostics\" \"$d/open\" && cd \"$d\" || exit 125
LC_ALL=C; export LC_ALL; p=
part() {{
  : >open/$1
  {{ {{ echo \"\\$ $2\"; sh -c \"$2\"; echo \"(exit status $?)\"; }} 2>&1 | head -c {PART_BYTES} >diagnostics/$1.txt; rm -f open/$1; }} </dev/null >/dev/null 2>&1 &
  p=\"$p $!\"
}}
{parts}i=0
while [ -n \"$(ls open)\" ] && [ $i -lt {PARTS_LIMIT_S} ]; do sleep 1; i=$((i+1)); done
for n in $(ls open); do echo '(not ended after {PARTS_LIMIT_S} s)' >>diagnostics/$n.txt; done
[ -z \"$(ls open)\" ] || kill $p 2>/dev/null
command -v tar >/dev/null && command -v gzip >/dev/null || {{ echo 'tar and gzip are needed to pack what was gathered' >&2; exit 127; }}
tar -cf diagnostics.tar diagnostics && gzip -c diagnostics.tar"
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::Action;
    use super::super::tests::{ROOT, USER, given};
    use super::*;

    #[test]
    fn what_is_gathered_is_one_archive_in_any_shell_and_nothing_stays_behind() {
        for shell in [&["dash"][..], &["bash"], &["busybox", "sh"]] {
            let place = tempfile::tempdir().unwrap();
            let plan = Action::parse("collect_diagnostics", given(&[])).unwrap().plan(ROOT).unwrap();
            let (first, rest) = shell.split_first().unwrap();
            let output = Command::new(first)
                .args(rest)
                .arg("-c")
                .arg(&plan.command)
                .env("TMPDIR", place.path())
                .output()
                .unwrap();
            assert!(output.status.success(), "{shell:?}: {}", String::from_utf8_lossy(&output.stderr));
            assert!(output.stdout.len() < ARCHIVE_LIMIT_BYTES);
            assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "{shell:?}");
            let archive = place.path().join("archive");
            std::fs::write(&archive, &output.stdout).unwrap();
            let read = |name: &str| {
                let path = format!("diagnostics/{name}.txt");
                let packed = Command::new("tar").arg("-xzOf").arg(&archive).arg(path).output().unwrap();
                String::from_utf8_lossy(&packed.stdout).into_owned()
            };
            assert!(read("uname").contains("Linux") && read("uname").ends_with("(exit status 0)\n"));
            assert!(read("os-release").contains("ID=") && read("df").contains("/"), "{shell:?}");
            for (name, command) in PARTS {
                assert!(
                    read(name).starts_with(&format!("$ {command}\n")),
                    "{shell:?} {name}: {}",
                    read(name)
                );
            }
        }
    }

    #[test]
    fn parts_need_no_quoting_and_root_is_asked_for_only_where_it_is_said() {
        for (name, command) in PARTS {
            assert!(!command.contains('\''), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{name}");
        }
        let plan = |pairs: &[(&str, &str)]| {
            Action::parse("collect_diagnostics", given(pairs)).unwrap().plan(USER).unwrap()
        };
        assert!(!plan(&[]).sudo && plan(&[("sudo", "true")]).command.starts_with("sudo -n sh -c "));
    }
}
