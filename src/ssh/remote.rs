//! The text that runs on the server around a command: a marker at its start, and the script that ends it.
//!
//! Pure: builds command lines and finds the marker in what comes back.
//!
//! A command line goes to the user's login shell. It replaces itself by `/bin/sh`, which first prints the marker and
//! its process id, then runs the command. So whatever the start-up files of the login shell printed stands before the
//! marker and is cut off, a login that runs no shell is known by the missing marker, and the process id is there when
//! the command has to be ended. OpenSSH makes a session and a process group for each command; dropbear only for each
//! connection, so there the shell takes one of its own with `setsid`, where the server has that.

use rand::Rng as _;

use crate::quote::{CannotQuote, quote};

/// What separates the login shell's noise from the command's output. Made anew for each connection.
#[derive(Debug, Clone)]
pub(super) struct Marker {
    text: String,
    own_group: bool,
}

/// Replaces itself by the script in `$1`, as the leader of a process group where there is a `setsid`.
const OWN_GROUP: &str =
    r#"if command -v setsid >/dev/null 2>&1; then exec setsid /bin/sh -c "$1"; fi; exec /bin/sh -c "$1""#;

impl Marker {
    /// `server_id`: how the server named itself (`SSH-2.0-dropbear_2022.83`).
    pub(super) fn random(server_id: &str) -> Self {
        let mut bytes = [0_u8; 16];
        rand::rng().fill_bytes(&mut bytes);
        let text = bytes.iter().fold("R".to_owned(), |text, byte| format!("{text}{byte:02x}"));
        Self { text, own_group: server_id.to_ascii_lowercase().contains("dropbear") }
    }

    /// The command line for the login shell. With `on_stderr` the marker goes there too.
    pub(super) fn wrap(&self, command: &str, on_stderr: bool) -> Result<String, CannotQuote> {
        // Written in two halves, so that a shell that echoes its commands (`set -v`) does not print it whole.
        let (head, tail) = self.text.split_at(self.text.len() / 2);
        let stderr = if on_stderr { format!("; echo {head}''{tail} >&2") } else { String::new() };
        let script = quote(&format!("echo {head}''{tail} $${stderr}\n{command}"))?;
        if self.own_group {
            let chosen = quote(OWN_GROUP)?;
            return Ok(format!("exec /bin/sh -c {chosen} sh {script}"));
        }
        Ok(format!("exec /bin/sh -c {script}"))
    }
}

/// Ends process group `pid` (or, where the shell leads none, that process): asks with TERM, insists with KILL.
pub(super) fn end_group(pid: u32) -> String {
    format!(
        "exec /bin/sh -c 'k() {{ kill -$1 -{pid} 2>/dev/null || kill -$1 {pid} 2>/dev/null; }}; k TERM || exit 0; \
         for i in 0.1 0.4 0.5 1; do sleep $i 2>/dev/null || sleep 1; k 0 || exit 0; done; k KILL'"
    )
}

/// More than this before the marker is no greeting but an attack, or an endless start-up file.
pub(super) const MAX_PRELUDE_BYTES: usize = 64 * 1024;

/// Looks for the marker at the start of an output.
#[derive(Debug)]
pub(super) struct Prelude {
    marker: String,
    held: Vec<u8>,
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
        Self { marker: marker.text.clone(), held: Vec::new() }
    }

    pub(super) fn feed(&mut self, data: &[u8]) -> Found {
        // The marker may lie across two pieces: look again at as much of the old as could begin it.
        let from = self.held.len().saturating_sub(self.marker.len() + MAX_PID_DIGITS + 2);
        self.held.extend_from_slice(data);
        let found = self.held.get(from..).and_then(|tail| self.line_in(tail, from));
        match found {
            Some((pid, end)) => {
                let rest = self.held.split_off(end);
                self.held = Vec::new();
                Found::Start { pid, rest }
            }
            None if self.held.len() > MAX_PRELUDE_BYTES => Found::TooMuch,
            None => Found::NotYet,
        }
    }

    /// The pid, and where the marker's line ends in all that is held.
    fn line_in(&self, tail: &[u8], from: usize) -> Option<(Option<u32>, usize)> {
        let marker = self.marker.as_bytes();
        let at = tail.windows(marker.len()).position(|window| window == marker)?;
        let after = tail.get(at + marker.len()..)?;
        let end = after.iter().take(MAX_PID_DIGITS + 2).position(|&byte| byte == b'\n')?;
        let pid = std::str::from_utf8(after.get(..end)?).ok()?.trim().parse().ok().filter(|&pid| pid > 1);
        Some((pid, from + at + marker.len() + end + 1))
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
        let line = marker.wrap("echo hello", true).unwrap();
        assert!(!line.contains(&marker.text));
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
