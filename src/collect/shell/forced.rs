//! The probe as a forced command: for a key of `authorized_keys` that may take readings and nothing else.
//!
//! Pure: makes the text of a script; who installs it where is no business of this module.

use super::SCRIPT;

/// Recognises the probe's start and takes the two random words of the connection; runs nothing of what it is sent.
const HEAD: &str = include_str!("forced.sh");

/// The script that answers [`ShellProbe`](super::ShellProbe) when sshd runs it in place of
/// [`COMMAND`](super::COMMAND), and refuses every other command. Stands alone; for any POSIX sh.
#[must_use]
pub fn forced_command() -> String {
    format!("{HEAD}{}", super::filled(&SCRIPT.replace("n=NONCE", "n=$NONCE")))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// A server is prepared by a script that has no Roundsman at hand, so what it installs is a file.
    #[test]
    fn the_script_that_is_installed_is_the_probe_of_this_version() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/readings.sh");
        let made = forced_command();
        if std::env::var_os("ROUNDSMAN_WRITE_READINGS").is_some() {
            fs::write(&path, &made).unwrap();
        }
        assert!(
            fs::read_to_string(&path).unwrap() == made,
            "scripts/readings.sh is not what the probe is now; run this test with ROUNDSMAN_WRITE_READINGS=1"
        );
    }

    #[test]
    fn the_end_of_the_script_that_is_skipped_is_its_last_line() {
        assert!(SCRIPT.ends_with("\nmain; exit 0\n") && SCRIPT.contains("\nn=NONCE\n"));
        assert_eq!(SCRIPT.matches("main; exit 0").count(), 1);
        assert!(HEAD.contains("'main; exit 0'"));
    }
}
