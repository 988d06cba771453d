//! What the command line asks of the machine and the person it runs for: questions, password files, `df`.

use std::io::{self, BufRead, Read, Write};
use std::path::Path;
use std::process::Command;

use super::error::CliError;
use crate::model::Secret;

/// A password file or a key file is small; what is larger is something else.
const SMALL_FILE_BYTES: u64 = 64 * 1024;

/// A small text file, or standard input for `-`.
///
/// # Errors
/// [`CliError::Failed`] when it cannot be read, is too large or is no text.
pub(super) fn small_file(path: &Path) -> Result<Secret<String>, CliError> {
    let shown = path.display();
    let failed = |cause: String| CliError::failed(format!("cannot read {shown}: {cause}"));
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(|error| failed(error.to_string()))?)
    };
    let mut text = String::new();
    source.take(SMALL_FILE_BYTES + 1).read_to_string(&mut text).map_err(|error| failed(error.to_string()))?;
    if text.len() as u64 > SMALL_FILE_BYTES {
        return Err(failed("it is larger than 64 KiB".to_owned()));
    }
    Ok(Secret::new(text))
}

/// The first line of a file, which holds a password.
///
/// # Errors
/// [`CliError::Failed`] when it cannot be read or its first line is empty.
pub(super) fn password_file(path: &Path) -> Result<Secret<String>, CliError> {
    let text = small_file(path)?;
    match text.expose().lines().next() {
        Some(line) if !line.is_empty() => Ok(Secret::new(line.to_owned())),
        _ => Err(CliError::failed(format!(
            "the first line of {} is empty; it should be the password",
            path.display()
        ))),
    }
}

/// Asks on the terminal without showing the answer.
///
/// # Errors
/// [`CliError::Failed`] when there is no terminal.
pub(super) fn hidden_answer(question: &str) -> Result<Secret<String>, CliError> {
    rpassword::prompt_password(super::output::printable(question))
        .map(Secret::new)
        .map_err(|error| CliError::failed(format!("cannot ask on the terminal: {error}")))
}

/// Asks on the terminal; only `yes` and `y` are a yes.
///
/// # Errors
/// [`CliError::Failed`] when the terminal cannot be read.
pub(super) fn confirmed(question: &str) -> Result<bool, CliError> {
    let mut stderr = io::stderr().lock();
    stderr.write_all(super::output::printable(question).as_bytes())?;
    stderr.write_all(b" ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin()
        .lock()
        .take(SMALL_FILE_BYTES)
        .read_line(&mut answer)
        .map_err(|error| CliError::failed(format!("cannot read the answer: {error}")))?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "yes" | "y"))
}

/// Bytes that can still be written below `path`, as `df` says it. None: `df` did not say.
pub(super) fn free_bytes(path: &Path) -> Option<u64> {
    let output = Command::new("df").args(["-P", "-k", "--"]).arg(path).env("LC_ALL", "C").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let kilobytes: u64 = text.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_first_line_and_never_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "correct horse \nsecond\n").unwrap();
        assert_eq!(password_file(&path).unwrap().expose(), "correct horse ");
        std::fs::write(&path, "\nsecond\n").unwrap();
        assert!(password_file(&path).is_err());
        std::fs::write(&path, vec![b'x'; 70_000]).unwrap();
        assert!(password_file(&path).unwrap_err().to_string().contains("64 KiB"));
    }

    #[test]
    fn the_free_space_of_a_directory_is_known() {
        assert!(free_bytes(Path::new("/")).is_some());
        assert_eq!(free_bytes(Path::new("/nowhere/at/all")), None);
    }
}
