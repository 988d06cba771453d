//! Running a script: its text goes over standard input into a file that only the login can read, and that is removed
//! however the script ends.
//!
//! A file and not the interpreter's standard input, so that the script has a standard input of its own and nothing in it
//! eats the rest of the script. Neither the text nor the input stands in a process list.

use std::time::Duration;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::commands::{is_said, timeout_ms};
use super::plan::quoted;
use super::{ActionError, How, Plan, Surroundings, invalid, mask};
use crate::model::Secret;
use crate::ssh::escaped_line;

/// Longest script; more is a program to be uploaded.
pub const SCRIPT_LIMIT_BYTES: usize = 128 * 1024;
/// Time limit of a script when nobody chooses one: it does more than a command.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
const ARGUMENTS: usize = 100;
const ARGUMENT_BYTES: usize = 4096;
/// The interpreter and its options.
const INTERPRETER_WORDS: usize = 8;
const INTERPRETER_BYTES: usize = 256;
/// Digits of the checksum by which a person tells two scripts apart.
const SHOWN_DIGITS: usize = 12;

/// A script with what it is given.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Script {
    pub script: String,
    /// None: what stands behind `#!` on its first line, else `sh`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interpreter: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<String>,
    pub sudo: bool,
    pub timeout_ms: u64,
    #[serde(flatten)]
    pub how: Box<How>,
}

impl Script {
    /// From `script`, `interpreter`, `arguments` (a list, or a line each), `sudo`, `timeout_s`, and those of [`How`].
    ///
    /// # Errors
    /// [`ActionError::Invalid`] names the parameter and what would be accepted.
    pub(super) fn parse(parameter: impl Fn(&str) -> Option<String>) -> Result<Self, ActionError> {
        let script = parameter("script").filter(|text| !text.trim().is_empty());
        let script = script.ok_or_else(|| invalid("script", "there is no script to run"))?;
        if script.len() > SCRIPT_LIMIT_BYTES {
            let message =
                format!("the script is longer than {SCRIPT_LIMIT_BYTES} bytes; upload it as a file");
            return Err(invalid("script", message));
        }
        if script.contains('\0') {
            return Err(invalid("script", "the script holds a NUL character"));
        }
        let interpreter = parameter("interpreter").filter(|text| !text.trim().is_empty());
        let script = Self {
            interpreter: interpreter.map(|text| text.trim().to_owned()),
            arguments: arguments(parameter("arguments"))?,
            sudo: is_said(&parameter, "sudo"),
            timeout_ms: timeout_ms(&parameter, DEFAULT_TIMEOUT)?,
            how: Box::new(How::parse(&parameter)?),
            script,
        };
        script.interpreter_words()?;
        Ok(script)
    }

    fn interpreter_words(&self) -> Result<Vec<&str>, ActionError> {
        let first_line = self.script.lines().next().unwrap_or_default();
        let text = match (&self.interpreter, first_line.strip_prefix("#!")) {
            (Some(given), _) => given,
            (None, Some(behind)) if !behind.trim().is_empty() => behind,
            _ => "sh",
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let is_word = |word: &&str| {
            word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | '+' | '=' | '-'))
        };
        let valid = words.len() <= INTERPRETER_WORDS
            && text.len() <= INTERPRETER_BYTES
            && words.first().is_some_and(|first| !first.starts_with('-'))
            && words.iter().all(is_word);
        if valid {
            Ok(words)
        } else {
            Err(invalid(
                "interpreter",
                "the interpreter is a program with its options, such as sh, /usr/bin/python3 or perl -w",
            ))
        }
    }

    /// The parameters as [`Self::parse`] takes them, without what is secret.
    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields =
            vec![("script", self.script.clone()), ("timeout_s", self.timeout_ms.div_ceil(1000).to_string())];
        fields.extend(self.interpreter.clone().map(|program| ("interpreter", program)));
        if !self.arguments.is_empty() {
            fields.push(("arguments", serde_json::Value::from(self.arguments.clone()).to_string()));
        }
        fields.extend(self.sudo.then(|| ("sudo", "true".to_owned())));
        fields.extend(self.how.fields());
        fields
    }

    pub(super) fn title(&self) -> String {
        if let Some(label) = &self.how.label {
            return label.clone();
        }
        let program =
            self.interpreter_words().ok().and_then(|words| words.first().copied().map(str::to_owned));
        format!("Run a script with {}", program.unwrap_or_else(|| "sh".to_owned()))
    }

    pub(super) fn plan(&self, around: Surroundings) -> Result<Plan, ActionError> {
        let mut run = self.interpreter_words()?.join(" ");
        run.push_str(" \"$d/script\"");
        for argument in &self.arguments {
            run.push(' ');
            run.push_str(&quoted(argument)?);
        }
        // mktemp makes the directory for its owner only. The shell's own read and printf bring the text, because what
        // follows on standard input is the script's, and other programs read ahead.
        let inner = format!(
            "d=$(mktemp -d \"${{TMPDIR:-/tmp}}/roundsman.XXXXXX\") || exit 125; trap 'rm -rf \"$d\"' EXIT; trap 'exit 143' HUP INT TERM; \
             IFS= read -r s; printf '%b' \"$s\" >\"$d/script\" || exit 125; {run}"
        );
        let mut input = escaped_line(&self.script);
        input.push('\n');
        if let Some(own) = &self.how.stdin {
            input.push_str(own.expose());
        }
        let how = How { stdin: Some(Secret::new(input)), ..(*self.how).clone() };
        let timeout = Duration::from_millis(self.timeout_ms);
        let mut plan = Plan::around(around, &inner, self.sudo, timeout, &how)?;
        let digest: String = Sha256::digest(&self.script).iter().map(|byte| format!("{byte:02x}")).collect();
        plan.command.push_str(&format!(
            "\n# Over standard input: the script, {} bytes, SHA-256 {}…, as one line with its line ends escaped",
            self.script.len(),
            digest.get(..SHOWN_DIGITS).unwrap_or_default()
        ));
        Ok(plan)
    }

    /// As it may be stored and shown.
    pub(super) fn masked(&self) -> Self {
        let joined = self.arguments.join(" ");
        let shown = mask(&joined);
        // A secret may stand in the argument behind the one that says so.
        let arguments = if shown == joined { self.arguments.clone() } else { vec![shown] };
        Self { script: mask(&self.script), arguments, ..self.clone() }
    }
}

/// A JSON list of texts, or a line each.
fn arguments(given: Option<String>) -> Result<Vec<String>, ActionError> {
    let Some(text) = given else { return Ok(Vec::new()) };
    let listed = text.trim_start().starts_with('[').then(|| serde_json::from_str::<Vec<String>>(&text).ok());
    let arguments = listed.flatten().unwrap_or_else(|| {
        text.lines()
            .map(|line| line.trim_end_matches('\r').to_owned())
            .filter(|line| !line.is_empty())
            .collect()
    });
    if arguments.len() > ARGUMENTS {
        return Err(invalid("arguments", format!("a script has at most {ARGUMENTS} arguments")));
    }
    if arguments.iter().any(|one| one.len() > ARGUMENT_BYTES || one.contains('\0')) {
        let message = format!("an argument has at most {ARGUMENT_BYTES} bytes and no NUL character");
        return Err(invalid("arguments", message));
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::super::Action;
    use super::super::tests::{ROOT, USER, given};
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Action, ActionError> {
        Action::parse("run_script", given(pairs))
    }

    /// Runs the plan as the server's shell would, in a place of its own for temporary files; what is left there is counted.
    fn run(shell: &[&str], action: &Action) -> (String, Option<i32>, usize) {
        let place = tempfile::tempdir().unwrap();
        let plan = action.plan(ROOT).unwrap();
        let (program, rest) = shell.split_first().unwrap();
        let mut child = Command::new(program)
            .args(rest)
            .arg("-c")
            .arg(&plan.inner)
            .env("TMPDIR", place.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = plan.how.stdin.unwrap();
        child.stdin.take().unwrap().write_all(input.expose().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let left = std::fs::read_dir(place.path()).unwrap().count();
        (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code(), left)
    }

    #[test]
    fn a_script_gets_its_arguments_and_input_and_leaves_no_file_in_any_shell() {
        let script = "printf '%s\\n' \"$# $1|$2\" 'back\\slash %s \\n'; cat; exit 7\n";
        let action = parse(&[
            ("script", script),
            ("arguments", r#"["two words", "it's $HOME"]"#),
            ("stdin", "my input\n"),
        ])
        .unwrap();
        for shell in [&["dash"][..], &["bash"], &["busybox", "sh"]] {
            let (said, status, left) = run(shell, &action);
            assert_eq!(said, "2 two words|it's $HOME\nback\\slash %s \\n\nmy input\n", "{shell:?}");
            assert_eq!((status, left), (Some(7), 0), "{shell:?}");
        }
    }

    #[test]
    fn the_longest_script_arrives_whole() {
        let filler = "# a line of a long script \\ ' \" é\n";
        let mut script = filler.repeat((SCRIPT_LIMIT_BYTES - 20) / filler.len());
        script.push_str("echo the end\n");
        let (said, ..) = run(&["dash"], &parse(&[("script", &script)]).unwrap());
        assert_eq!(said, "the end\n");
        assert!(parse(&[("script", &"x".repeat(SCRIPT_LIMIT_BYTES + 1))]).is_err());
    }

    #[test]
    fn the_interpreter_is_the_one_that_is_said_or_that_the_script_names() {
        let with = |script: &str, interpreter: &str| {
            let action = parse(&[("script", script), ("interpreter", interpreter)]);
            action.map(|action| action.plan(ROOT).unwrap().inner)
        };
        let ends = |found: Result<String, ActionError>, end: &str| {
            let found = found.unwrap();
            assert!(found.ends_with(end), "{found}");
        };
        ends(with("echo", ""), "; sh \"$d/script\"");
        ends(with("#!/usr/bin/env python3\nprint()", ""), "; /usr/bin/env python3 \"$d/script\"");
        ends(with("#!/bin/sh\nx", "perl -w"), "; perl -w \"$d/script\"");
        for bad in ["sh; id", "$(id)", "-c", "a'b", "a\"b", "python3 | sh"] {
            let refused = with("echo", bad);
            assert!(matches!(refused, Err(ActionError::Invalid { field: "interpreter", .. })), "{bad}");
        }
        assert!(with("#!/bin/sh -c $(id)\n", "").is_err());
    }

    #[test]
    fn what_is_shown_of_a_script_is_its_command_and_checksum_and_secrets_are_masked() {
        let action = parse(&[
            ("script", "PASSWORD=hunter2 run\n"),
            ("arguments", "--token\nhunter3\n"),
            ("sudo", "true"),
        ])
        .unwrap();
        let plan = action.plan(USER).unwrap();
        assert!(plan.command.starts_with("sudo -n -- sh -c ") && plan.sudo, "{}", plan.command);
        assert!(plan.command.contains("21 bytes, SHA-256 "), "{}", plan.command);
        assert!(!plan.command.contains("hunter2"));
        let stored = action.stored().to_string();
        assert!(!stored.contains("hunter"), "{stored}");
        assert_eq!(action.title(), "Run a script with sh");
    }
}
