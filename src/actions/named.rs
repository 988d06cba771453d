//! Ending processes by their name: which ones it means is found on each server, in the one command that is sent.
//!
//! Never process 1, a thread of the kernel, or what carries the command itself. Each is looked at again, by its start time,
//! right before its signal.

use std::time::Duration;

use serde::Serialize;

use super::plan::quoted;
use super::{ActionError, Plan, Surroundings, invalid};
use crate::model::Signal;

const TIMEOUT: Duration = Duration::from_secs(60);
/// The kernel knows no more of a name (TASK_COMM_LEN in proc_pid_comm(5), without its end).
const NAME_BYTES: usize = 15;
const CONTAINING_BYTES: usize = 200;
/// Of useradd(8).
const USER_BYTES: usize = 32;
/// Where more are meant than anybody said, the name was too wide, and nothing is sent.
const DEFAULT_MOST: u32 = 20;
const MOST_RANGE: (u32, u32) = (1, 1000);

/// Exit status where there are more than was said; nothing was sent.
pub const TOO_MANY_PROCESSES: u32 = 5;

/// Every process of this name, perhaps narrowed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct NamedProcesses {
    /// The whole name, as `ps -o comm` and `top` show it.
    pub process: String,
    /// Only those whose command line contains this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub containing: Option<String>,
    /// Only those of this user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    pub signal: Signal,
    /// Only lists them.
    pub compare: bool,
    /// Nothing is sent where there are more.
    pub most: u32,
}

impl NamedProcesses {
    /// From `process`, `containing`, `user`, `signal`, `most` and `compare` (only look).
    ///
    /// # Errors
    /// [`ActionError::Invalid`] names the parameter and what would be accepted.
    pub(super) fn parse(
        signal: Signal,
        parameter: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ActionError> {
        let given =
            |name: &str| parameter(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let process = given("process").ok_or_else(|| {
            invalid("process", "say which: process, its name; or pid and start_ticks, from the process list")
        })?;
        let is_plain = |text: &str| !text.chars().any(char::is_control);
        if process.len() > NAME_BYTES || process.contains('/') || !is_plain(&process) {
            let why = format!(
                "the kernel knows the first {NAME_BYTES} bytes of a name, without its directory; give those, and more of it under containing"
            );
            return Err(invalid("process", why));
        }
        let containing = given("containing");
        if containing.as_ref().is_some_and(|text| text.len() > CONTAINING_BYTES || !is_plain(text)) {
            return Err(invalid("containing", format!("give one line of at most {CONTAINING_BYTES} bytes")));
        }
        let user = given("user");
        let is_user = |text: &String| {
            text.len() <= USER_BYTES && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        if user.as_ref().is_some_and(|text| !is_user(text)) {
            return Err(invalid("user", "this is not the name of a user"));
        }
        let (least, most) = MOST_RANGE;
        let most = given("most").map_or(Ok(DEFAULT_MOST), |text| {
            let number = text.parse().ok().filter(|number| (least..=most).contains(number));
            number.ok_or_else(|| invalid("most", format!("use a number from {least} to {most}")))
        })?;
        let compare =
            given("compare").is_some_and(|text| matches!(text.as_str(), "true" | "on" | "1" | "yes"));
        Ok(Self { process, containing, user, signal, compare, most })
    }

    pub(super) fn title(&self) -> String {
        if self.compare {
            format!("List the processes named {}", self.process)
        } else {
            format!("Send {} to the processes named {}", self.signal.name(), self.process)
        }
    }

    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![("process", self.process.clone())];
        fields.extend(self.containing.clone().map(|text| ("containing", text)));
        fields.extend(self.user.clone().map(|text| ("user", text)));
        fields.push(("signal", self.signal.name().to_owned()));
        fields.push(("most", self.most.to_string()));
        fields.extend(self.compare.then(|| ("compare", "true".to_owned())));
        fields
    }

    /// # Errors
    /// [`ActionError::Invalid`] for a NUL in a value.
    pub(super) fn plan(&self, around: Surroundings) -> Result<Plan, ActionError> {
        let signal = if self.compare { "" } else { self.signal.name() };
        let text = |value: &Option<String>| quoted(value.as_deref().unwrap_or_default());
        let words = format!(
            "name={}; containing={}; user={}; signal={signal}; most={}\n",
            quoted(&self.process)?,
            text(&self.containing)?,
            text(&self.user)?,
            self.most
        );
        Plan::by_root_in_shell(around, format!("{words}{SCRIPT}"), TIMEOUT)
    }
}

/// Field 22 of /proc/PID/stat is the start, field 4 the parent (proc_pid_stat(5)); what stands before the last parenthesis is
/// the name, which may hold anything. Processes without a command line are the kernel's.
const SCRIPT: &str = r#"stat_of() { s=$(cat "/proc/$1/stat" 2>/dev/null) && set -- ${s##*) } && parent=$2 started=${20}; }
own=' 1 '; p=$$
while [ "${p:-0}" -gt 1 ] && stat_of "$p"; do own="$own$p "; p=$parent; done
found=''; count=0
for d in /proc/[0-9]*; do
  n=''; { IFS= read -r n <"$d/comm"; } 2>/dev/null
  [ "$n" = "$name" ] || continue
  p=${d#/proc/}
  case $own in *" $p "*) continue ;; esac
  l=$(tr '\000' ' ' <"$d/cmdline" 2>/dev/null)
  [ "$l" ] || continue
  case $l in *"$containing"*) ;; *) continue ;; esac
  [ -z "$user" ] || { o=$(ls -ld "$d" 2>/dev/null) && set -- $o && [ "$3" = "$user" ]; } || continue
  stat_of "$p" || continue
  count=$((count + 1)); found="$found $p:$started"
  printf '%s %.200s\n' "$p" "$l"
done
if [ $count -eq 0 ]; then
  echo "no process is named $name${containing:+ with $containing in its command line}${user:+ and runs as $user}" >&2
  [ "$signal" ] || exit 0
  exit 3
fi
[ "$signal" ] || exit 0
[ $count -le "$most" ] || { echo "there are $count, and at most $most were expected; nothing was sent" >&2; exit 5; }
r=0
for f in $found; do
  p=${f%%:*}
  stat_of "$p" && [ "$started" = "${f#*:}" ] || { echo "$p has ended meanwhile" >&2; continue; }
  kill -s "$signal" "$p" || r=1
done
exit $r"#;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::{Child, Command, Output, Stdio};

    use super::super::tests::{ROOT, USER, given};
    use super::super::{Action, ActionError};

    const SHELLS: [&[&str]; 3] = [&["dash"], &["bash"], &["busybox", "sh"]];

    /// A process with a name that no other has, ended with the test.
    struct Named(Child);

    impl Named {
        fn start(place: &std::path::Path, name: &str, seconds: &str) -> Self {
            let program = place.join(name);
            if !program.exists() {
                symlink("/usr/bin/sleep", &program).unwrap();
            }
            Self(Command::new(program).arg(seconds).stdin(Stdio::null()).spawn().unwrap())
        }

        fn is_running(&mut self) -> bool {
            self.0.try_wait().unwrap().is_none()
        }
    }

    impl Drop for Named {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    fn run(shell: &[&str], pairs: &[(&str, &str)]) -> Output {
        let plan = Action::parse("kill_process", given(pairs)).unwrap().plan(ROOT).unwrap();
        let (program, rest) = shell.split_first().unwrap();
        Command::new(program).args(rest).arg("-c").arg(&plan.command).output().unwrap()
    }

    fn said(output: &Output) -> (Option<i32>, String, String) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    #[test]
    fn processes_of_a_name_are_listed_first_and_ended_then_in_any_shell() {
        let place = tempfile::tempdir().unwrap();
        let name = format!("rm-{}", std::process::id());
        for shell in SHELLS {
            let mut one = Named::start(place.path(), &name, "86391");
            let mut two = Named::start(place.path(), &name, "86392");
            let (status, listed, _) = said(&run(shell, &[("process", &name), ("compare", "true")]));
            assert_eq!((status, listed.lines().count()), (Some(0), 2), "{shell:?}: {listed}");
            assert!(one.is_running() && two.is_running());
            let narrowed = [("process", name.as_str()), ("containing", "86391"), ("user", "root")];
            let (status, listed, _) = said(&run(shell, &narrowed));
            assert_eq!(status, Some(0), "{shell:?}");
            assert_eq!(listed.trim_end(), format!("{} {}/{name} 86391", one.0.id(), place.path().display()));
            one.0.wait().unwrap();
            assert!(two.is_running());
            let foreign = said(&run(shell, &[("process", &name), ("user", "nobody")]));
            assert_eq!(foreign.0, Some(3), "{shell:?}: {}", foreign.2);
            assert!(foreign.2.contains("and runs as nobody") && two.is_running());
        }
    }

    #[test]
    fn more_than_were_expected_none_at_all_and_what_carries_the_command_get_nothing() {
        let place = tempfile::tempdir().unwrap();
        let name = format!("rn-{}", std::process::id());
        let mut both = ["86393", "86394"].map(|time| Named::start(place.path(), &name, time));
        for shell in SHELLS {
            let (status, listed, why) = said(&run(shell, &[("process", &name), ("most", "1")]));
            assert_eq!((status, listed.lines().count()), (Some(5), 2), "{shell:?}");
            assert!(why.contains("there are 2, and at most 1"), "{why}");
            let none = format!("{name}x");
            assert_eq!(said(&run(shell, &[("process", &none)])).0, Some(3), "{shell:?}");
            assert_eq!(said(&run(shell, &[("process", &none), ("compare", "on")])).0, Some(0), "{shell:?}");
            // The shell itself, and everything up to process 1, is left out.
            let own = std::fs::read_to_string("/proc/self/comm").unwrap();
            let listed = said(&run(shell, &[("process", own.trim()), ("compare", "on")])).1;
            let pid = std::process::id().to_string();
            assert!(listed.lines().all(|line| line.split(' ').next() != Some(&pid)), "{listed}");
        }
        assert!(both.iter_mut().all(Named::is_running));
    }

    #[test]
    fn names_of_processes_are_validated_and_stand_quoted() {
        for bad in ["", "a/b", "sixteen-bytes-xx", "a\nb"] {
            let refused = Action::parse("kill_process", given(&[("process", bad)]));
            assert!(matches!(refused, Err(ActionError::Invalid { field: "process", .. })), "{bad}");
        }
        for (field, bad) in [("user", "a b"), ("most", "0"), ("signal", "NONE")] {
            assert!(
                Action::parse("kill_process", given(&[("process", "a"), (field, bad)])).is_err(),
                "{bad}"
            );
        }
        let hostile = given(&[("process", "$(id);'\"`x"), ("containing", "*; rm")]);
        let action = Action::parse("kill_process", hostile).unwrap();
        let (status, listed, _) = {
            let plan = action.plan(ROOT).unwrap();
            said(&Command::new("dash").arg("-c").arg(&plan.command).output().unwrap())
        };
        assert_eq!((status, listed.as_str()), (Some(3), ""));
        assert!(action.plan(USER).unwrap().command.starts_with("sudo -n sh -c "));
        assert!(action.danger().is_some());
        let look = Action::parse("kill_process", given(&[("process", "a"), ("compare", "true")])).unwrap();
        assert!(look.danger().is_none() && look.title().starts_with("List"));
    }
}
