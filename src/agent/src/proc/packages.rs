//! Pending updates, as the package manager tells them out of the lists that the machine has.

use crate::limits;
use crate::snapshot::Updates;
use crate::text::{clean, lines};

/// Defines the shell function `packages`, for any POSIX sh. It prints `MANAGER STATUS` and what the manager said, for
/// those that tell security apart then `security STATUS` and the same. It fetches nothing.
pub const SCRIPT: &str = include_str!("packages.sh");

/// Exit status of dnf and yum where updates are pending.
const DNF_PENDING: u32 = 100;

/// What [`SCRIPT`] printed.
///
/// # Errors
/// Why nothing is known, a sentence for a person. `Ok(None)`: there is no package manager that is known.
pub fn updates(output: &[u8]) -> Result<Option<Updates>, String> {
    let mut parts: Vec<(String, Option<u32>, Vec<String>)> = Vec::new();
    for line in lines(output) {
        let head = line.split_once(' ').filter(|(word, _)| MANAGERS.contains(word));
        match (head, parts.last_mut()) {
            (Some((word, status)), last) if last.is_none() || word == "security" => {
                parts.push((word.to_owned(), status.trim().parse().ok(), Vec::new()));
            }
            (_, Some((_, _, said))) => said.push(line.into_owned()),
            _ => {}
        }
    }
    let Some((manager, status, said)) = parts.first() else { return Ok(None) };
    let manager = clean(manager.as_bytes(), limits::TEXT_BYTES);
    if manager == "none" {
        return Ok(None);
    }
    let failed = |why: &str| Err(format!("{manager} does not say which updates are pending: {why}"));
    match status {
        None => return failed("it has no lists yet, or nobody may read them"),
        // timeout(1), and the same of BusyBox.
        Some(124 | 137 | 143) => return failed("it took too long"),
        Some(status) if !is_answer(&manager, *status) => {
            return failed(&format!("it ended with status {status}"));
        }
        Some(_) => {}
    }
    let counted = |wanted: fn(&str, &str) -> bool, said: &[String]| {
        let until = said.iter().take_while(|line| !line.starts_with("Obsoleting"));
        u64::try_from(until.filter(|line| wanted(&manager, line)).count()).ok()
    };
    let apart =
        parts.get(1).filter(|(_, status, _)| status.is_some_and(|status| is_answer(&manager, status)));
    let security = match manager.as_str() {
        "apt" => {
            counted(|_, line| is_pending("apt", line) && line.to_ascii_lowercase().contains("security"), said)
        }
        _ => apart.and_then(|(_, _, said)| counted(is_security, said)),
    };
    Ok(Some(Updates { pending: counted(is_pending, said), security, manager }))
}

const MANAGERS: [&str; 8] = ["apt", "dnf", "yum", "zypper", "apk", "pacman", "none", "security"];

fn is_answer(manager: &str, status: u32) -> bool {
    match manager {
        "dnf" | "yum" => matches!(status, 0 | DNF_PENDING),
        // pacman -Qu ends with 1 where nothing is pending.
        "pacman" => status <= 1,
        _ => status == 0,
    }
}

/// One line is one package.
fn is_pending(manager: &str, line: &str) -> bool {
    match manager {
        "apt" => line.starts_with("Inst "),
        "zypper" => line.starts_with("v ") || line.starts_with("v|"),
        "apk" => line.contains(" < "),
        "pacman" => line.contains(" -> ") && !line.contains("[ignored]"),
        _ => is_rpm(line),
    }
}

fn is_security(manager: &str, line: &str) -> bool {
    if manager == "zypper" {
        line.contains("| security")
    } else {
        line.contains("Sec.") || line.contains("ecurity")
    }
}

/// `name.arch  version  repository`, where long names may stand on a line of their own.
fn is_rpm(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    let named = words.next().is_some_and(|word| word.contains('.') && !word.ends_with('.'));
    named && !line.starts_with(' ') && matches!(words.count(), 0 | 2)
}
