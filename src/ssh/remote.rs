//! The text that runs on the server around a command: a marker at its start, and the script that ends it.
//!
//! Pure: builds command lines and finds the marker in what comes back.
//!
//! A command line goes to the user's login shell. It replaces itself by `/bin/sh`, which first prints the marker and
//! its process id, then runs the command. So whatever the start-up files of the login shell printed stands before the
//! marker and is cut off, a login that runs no shell is known by the missing marker, and the process id is there when
//! the command has to be ended. OpenSSH makes a session and a process group for each command; dropbear only for each
//! connection, so there the shell takes one of its own with `setsid`, where the server has that.

use std::sync::atomic::{AtomicU32, Ordering};

use rand::Rng as _;

use crate::model::Secret;
use crate::quote::{CannotQuote, quote};

/// What separates the login shell's noise from the command's output. Made anew for each connection.
#[derive(Debug, Clone)]
pub(super) struct Marker {
    text: String,
    /// Printed by the shell that runs as another user.
    inner: String,
    /// What sudo asks with.
    prompt: String,
    /// The head of what stands in the environment of each command.
    run: String,
    own_group: bool,
}

/// Replaces itself by the script in `$1`, as the leader of a process group where there is a `setsid`.
const OWN_GROUP: &str =
    r#"if command -v setsid >/dev/null 2>&1; then exec setsid /bin/sh -c "$1"; fi; exec /bin/sh -c "$1""#;

impl Marker {
    /// `server_id`: how the server named itself (`SSH-2.0-dropbear_2022.83`).
    pub(super) fn random(server_id: &str) -> Self {
        let word = || {
            let mut bytes = [0_u8; 16];
            rand::rng().fill_bytes(&mut bytes);
            bytes.iter().fold("R".to_owned(), |text, byte| format!("{text}{byte:02x}"))
        };
        let own_group = server_id.to_ascii_lowercase().contains("dropbear");
        Self { text: word(), inner: word(), prompt: word(), run: word(), own_group }
    }

    /// The word by which the processes of one command are known: it stands in their environment. It stands whole in the
    /// command line too, so a shell that echoes its commands prints it: no marker is part of it.
    pub(super) fn run_word(&self, number: u32) -> String {
        format!("{}.{number}.", self.run)
    }

    pub(super) fn prompt(&self) -> &str {
        &self.prompt
    }

    /// The command line for the login shell. With `on_stderr` the marker goes there too.
    pub(super) fn wrap(&self, command: &str, on_stderr: bool) -> Result<String, CannotQuote> {
        // Written in two halves, so that a shell that echoes its commands (`set -v`) does not print it whole.
        let script = quote(&format!("{}\n{command}", announce(&self.text, on_stderr)))?;
        if self.own_group {
            let chosen = quote(OWN_GROUP)?;
            return Ok(format!("exec /bin/sh -c {chosen} sh {script}"));
        }
        Ok(format!("exec /bin/sh -c {script}"))
    }

    /// `script` as the user that `raise` leads to; it announces itself, because sudo may refuse it or ask before.
    pub(super) fn raised(&self, raise: &Raise, script: &str) -> Result<String, CannotQuote> {
        raise.line(&self.prompt, &format!("{}\n{script}", announce(&self.inner, true)))
    }
}

/// Prints a marker, in two halves, and the process id.
fn announce(marker: &str, on_stderr: bool) -> String {
    let (head, tail) = marker.split_at(marker.len() / 2);
    let stderr = if on_stderr { format!("; echo {head}''{tail} >&2") } else { String::new() };
    format!("echo {head}''{tail} $${stderr}")
}

/// How a script comes to run as another user than the login's.
#[derive(Debug, Clone)]
pub(super) enum Raise {
    /// root becomes this user; needs no sudo.
    Become(String),
    /// sudo, for root or for this user. With a password it asks for it on its standard error.
    Sudo { user: Option<String>, password: Option<Secret<String>> },
}

impl Raise {
    fn line(&self, prompt: &str, script: &str) -> Result<String, CannotQuote> {
        let script = quote(script)?;
        match self {
            Self::Become(user) => Ok(format!("exec su -s /bin/sh {} -c {script}", quote(user)?)),
            Self::Sudo { user, password } => {
                let asking =
                    if password.is_some() { format!("-S -p {}", quote(prompt)?) } else { "-n".to_owned() };
                let user = match user {
                    Some(user) => format!(" -u {}", quote(user)?),
                    None => String::new(),
                };
                Ok(format!("exec sudo {asking}{user} -- /bin/sh -c {script}"))
            }
        }
    }

    pub(super) const fn password(&self) -> Option<&Secret<String>> {
        match self {
            Self::Sudo { password, .. } => password.as_ref(),
            Self::Become(_) => None,
        }
    }
}

/// How one command is ended.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    pub(super) pid: u32,
    pub(super) line: String,
    /// What sudo is told; the line itself reads no input.
    pub(super) password: Option<Secret<String>>,
}

impl Ending {
    /// Ends process group `pid`, nothing else.
    pub(super) fn of_group(pid: u32) -> Self {
        Self { pid, line: in_shell(&end_script(pid, None)), password: None }
    }

    /// Ends process group `pid` and every process that has `run` in its environment, as the user that the command ran
    /// as; where `in_container` runs a script in the container of the command, there too.
    pub(super) fn of_command(
        pid: u32,
        run: &str,
        raise: Option<&Raise>,
        in_container: impl FnOnce(&str) -> Result<String, CannotQuote>,
    ) -> Result<Self, CannotQuote> {
        let inside = in_container(&end_script(NOBODY, Some(run)))?;
        let script = format!("{inside}{}", end_script(pid, Some(run)));
        let line = match raise {
            Some(raise) => raise.line("", &script)?,
            None => in_shell(&script),
        };
        Ok(Self { pid, line, password: raise.and_then(Raise::password).cloned() })
    }
}

fn in_shell(script: &str) -> String {
    // The scripts that end commands hold no NUL byte.
    format!("exec /bin/sh -c {}", quote(script).unwrap_or_default())
}

/// More than any process id can be (2^22, proc(5)).
const NOBODY: u32 = 99_999_999;

/// Ends process group `pid` (or, where the shell leads none, that process), and whatever has `run` in its environment,
/// because it may have left the group: asks with TERM, insists with KILL. `run` is written in two halves, because sudo
/// puts the whole command line into the environment (SUDO_COMMAND): the script would find itself and end first.
fn end_script(pid: u32, run: Option<&str>) -> String {
    let others = run.map_or_else(String::new, |run| {
        let (head, tail) = run.split_at(run.len() / 2);
        format!(
            " for p in $(grep -l {head}''{tail} /proc/[0-9]*/environ 2>/dev/null); do p=${{p#/proc/}}; \
             kill -$1 ${{p%/environ}} 2>/dev/null && s=0; done;"
        )
    });
    format!(
        "k() {{ kill -$1 -{pid} 2>/dev/null || kill -$1 {pid} 2>/dev/null; s=$?;{others} return $s; }}; k TERM || exit 0; \
         for i in 0.1 0.4 0.5 1; do sleep $i 2>/dev/null || sleep 1; k 0 || exit 0; done; k KILL"
    )
}

/// Commands in a row whose login shell says nothing on its standard error before it is taken for silent there.
const SILENT_COMMANDS: u32 = 3;

/// Whether a login shell's start-up files print to standard error. Where they never do, the marker is left out there: a
/// packet less for each command. Standard output always has it.
#[derive(Debug, Default)]
pub(super) struct LoginNoise(AtomicU32);

impl LoginNoise {
    pub(super) fn is_silent(&self) -> bool {
        let count = self.0.load(Ordering::Relaxed);
        (SILENT_COMMANDS..Self::NOISY).contains(&count)
    }

    /// What one command with the marker showed. One that was not silent is enough, for as long as the connection lasts.
    pub(super) fn learn(&self, is_noisy: bool) {
        if is_noisy {
            self.0.store(Self::NOISY, Ordering::Relaxed);
        } else {
            // Many at once may count too far, and NOISY is far away.
            let _unchanged_once_known = self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < SILENT_COMMANDS).then(|| count + 1)
            });
        }
    }

    const NOISY: u32 = u32::MAX;
}

/// More than this before the marker is no greeting but an attack, or an endless start-up file.
pub(super) const MAX_PRELUDE_BYTES: usize = 64 * 1024;

/// Looks for the marker at the start of an output.
#[derive(Debug)]
pub(super) struct Prelude {
    marker: String,
    held: Vec<u8>,
    /// Something stood before the marker.
    is_noisy: bool,
}

/// What one piece of output meant to a [`Prelude`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    NotYet,
    /// The command runs. `rest` is the first of its own output.
    Start {
        pid: Option<u32>,
        rest: Vec<u8>,
    },
    TooMuch,
}

impl Prelude {
    pub(super) fn of(marker: &Marker) -> Self {
        Self { marker: marker.text.clone(), held: Vec::new(), is_noisy: false }
    }

    /// Looks for what [`Marker::raised`] announces.
    pub(super) fn of_raised(marker: &Marker) -> Self {
        Self { marker: marker.inner.clone(), held: Vec::new(), is_noisy: false }
    }

    pub(super) fn feed(&mut self, data: &[u8]) -> Found {
        // The marker may lie across two pieces: look again at as much of the old as could begin it.
        let from = self.held.len().saturating_sub(self.marker.len() + MAX_PID_DIGITS + 2);
        self.held.extend_from_slice(data);
        let found = self.held.get(from..).and_then(|tail| self.line_in(tail, from));
        match found {
            Some((pid, start, end)) => {
                self.is_noisy = start > 0;
                let rest = self.held.split_off(end);
                self.held = Vec::new();
                Found::Start { pid, rest }
            }
            None if self.held.len() > MAX_PRELUDE_BYTES => Found::TooMuch,
            None => Found::NotYet,
        }
    }

    /// The pid, and where the marker's line begins and ends in all that is held.
    fn line_in(&self, tail: &[u8], from: usize) -> Option<(Option<u32>, usize, usize)> {
        let marker = self.marker.as_bytes();
        memchr::memmem::find_iter(tail, marker).find_map(|at| {
            let after = tail.get(at + marker.len()..)?;
            let end = after.iter().take(MAX_PID_DIGITS + 2).position(|&byte| byte == b'\n')?;
            let pid = std::str::from_utf8(after.get(..end)?).ok()?.trim().parse().ok().filter(|&pid| pid > 1);
            Some((pid, from + at, from + at + marker.len() + end + 1))
        })
    }

    pub(super) const fn is_noisy(&self) -> bool {
        self.is_noisy
    }

    /// What came before the marker, or instead of it.
    pub(super) fn held(&self) -> &[u8] {
        &self.held
    }
}

/// Linux process ids go up to 2^22 (proc(5), pid_max); a few more digits and a carriage return do no harm.
const MAX_PID_DIGITS: usize = 10;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn run(shell: &[&str], line: &str) -> (Vec<u8>, Vec<u8>, Option<i32>) {
        let output = Command::new(shell[0]).args(&shell[1..]).arg("-c").arg(line).output().unwrap();
        (output.stdout, output.stderr, output.status.code())
    }

    #[test]
    fn a_login_shell_is_silent_only_while_nothing_else_was_seen() {
        let noise = LoginNoise::default();
        for _ in 0..SILENT_COMMANDS {
            assert!(!noise.is_silent());
            noise.learn(false);
        }
        assert!(noise.is_silent());
        noise.learn(false);
        assert!(noise.is_silent());
        noise.learn(true);
        noise.learn(false);
        assert!(!noise.is_silent(), "one noise is enough");
    }

    #[test]
    fn every_login_shell_runs_the_command_after_the_marker() {
        for id in ["SSH-2.0-OpenSSH_9.2", "SSH-2.0-dropbear"] {
            for shell in [&["bash"][..], &["dash"], &["busybox", "ash"]] {
                let marker = Marker::random(id);
                let line = marker.wrap("echo \"it's $((1+1))\"; echo oops >&2; exit 3", true).unwrap();
                let (stdout, stderr, code) = run(shell, &line);
                let (mut out, mut err) = (Prelude::of(&marker), Prelude::of(&marker));
                let Found::Start { pid: Some(_), rest } = out.feed(&stdout) else { panic!("{shell:?}") };
                assert_eq!(rest, b"it's 2\n", "{shell:?}");
                let Found::Start { rest, .. } = err.feed(&stderr) else { panic!("{shell:?}") };
                assert_eq!(rest, b"oops\n", "{shell:?}");
                assert_eq!(code, Some(3), "{shell:?}");
            }
        }
    }

    #[test]
    fn a_command_that_does_not_parse_still_shows_the_marker() {
        let marker = Marker::random("SSH-2.0-OpenSSH_9.2");
        for shell in [&["bash"][..], &["dash"], &["busybox", "ash"]] {
            let (stdout, _, code) = run(shell, &marker.wrap("echo (", true).unwrap());
            assert!(matches!(Prelude::of(&marker).feed(&stdout), Found::Start { .. }), "{shell:?}");
            assert_ne!(code, Some(0));
        }
    }

    #[test]
    fn a_shell_that_echoes_its_commands_does_not_fake_the_marker() {
        let marker = Marker::random("SSH-2.0-OpenSSH_9.2");
        let run = marker.run_word(7);
        let line = marker.wrap(&format!("ROUNDSMAN_RUN={run}; echo hello"), true).unwrap();
        assert!(line.contains(&run) && !line.contains(&marker.text));
    }

    #[test]
    fn a_marker_inside_another_line_does_not_hide_the_one_that_counts() {
        let marker = Marker::random("");
        let text = &marker.text;
        let output = format!("RUN={text}.0.; export RUN\n{text} 4711\nhello");
        let Found::Start { pid, rest } = Prelude::of(&marker).feed(output.as_bytes()) else {
            panic!("hidden")
        };
        assert_eq!((pid, rest.as_slice()), (Some(4711), &b"hello"[..]));
    }

    #[test]
    fn what_ends_a_command_under_sudo_does_not_find_itself_by_its_own_command_line() {
        let run = Marker::random("SSH-2.0-OpenSSH_9.2").run_word(7);
        let raise = Raise::Sudo { user: None, password: None };
        let container = |script: &str| Ok(format!("docker exec web /bin/sh -c {}; ", quote(script)?));
        let ending = Ending::of_command(4711, &run, Some(&raise), container).unwrap();
        assert!(!ending.line.contains(&run));
    }

    #[test]
    fn the_marker_is_found_whole_in_pieces_and_after_a_greeting() {
        let marker = Marker::random("");
        let output = format!("Welcome!\n> {} 4711\r\nhello", marker.text).into_bytes();
        for size in [1, 2, 7, 20, output.len()] {
            let mut prelude = Prelude::of(&marker);
            let mut got = Vec::new();
            let mut seen_pid = None;
            for piece in output.chunks(size) {
                if seen_pid.is_some() {
                    got.extend_from_slice(piece);
                } else if let Found::Start { pid, rest } = prelude.feed(piece) {
                    seen_pid = pid;
                    got = rest;
                }
            }
            assert_eq!((seen_pid, got.as_slice()), (Some(4711), &b"hello"[..]), "pieces of {size}");
        }
    }

    #[test]
    fn an_endless_greeting_is_too_much() {
        let mut prelude = Prelude::of(&Marker::random(""));
        let piece = vec![b'x'; 32 * 1024];
        assert_eq!(prelude.feed(&piece), Found::NotYet);
        assert_eq!(prelude.feed(&piece), Found::NotYet);
        assert_eq!(prelude.feed(&piece), Found::TooMuch);
    }

    #[test]
    fn a_process_id_that_would_hit_everything_is_not_believed() {
        let marker = Marker::random("");
        for lie in ["0", "1", "-1", "99999999999"] {
            let line = format!("{} {lie}\n", marker.text);
            assert!(
                !matches!(Prelude::of(&marker).feed(line.as_bytes()), Found::Start { pid: Some(_), .. }),
                "{lie}"
            );
        }
    }
}
