//! The lines of the user's own known_hosts that may speak of one address.
//!
//! Only picks; whether a line matches is judged where host keys are judged.

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Larger files are read up to here; the server takes at most 1 MiB in a request.
const FILE_BYTES: u64 = 4 * 1024 * 1024;
/// What is sent at most, well under the limit of a request.
const SENT_BYTES: usize = 512 * 1024;

/// Lines of `~/.ssh/known_hosts` that may name `host`. None: there are none.
pub(super) fn lines_for(host: &str) -> Option<String> {
    let home = std::env::var_os("HOME").map(PathBuf::from)?;
    let text = read(&home.join(".ssh/known_hosts"))?;
    Some(pick(&text, host)).filter(|lines| !lines.is_empty())
}

/// Lines of `~/.ssh/known_hosts` that may name any of `hosts`, which are in small letters. None: there are none.
pub(super) fn lines_for_all(hosts: &HashSet<String>) -> Option<String> {
    let home = std::env::var_os("HOME").map(PathBuf::from)?;
    let text = read(&home.join(".ssh/known_hosts"))?;
    Some(pick_all(&text, hosts)).filter(|lines| !lines.is_empty())
}

/// A file that cannot be read says nothing, and then a person approves the key.
fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(FILE_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Hashed lines, marked lines and patterns may mean any host; plain ones are compared.
fn pick(text: &str, host: &str) -> String {
    let host = host.to_lowercase();
    let mut picked = String::new();
    for line in text.lines().map(str::trim) {
        let names = line.split_whitespace().next().unwrap_or_default().to_lowercase();
        let wanted = match names.as_bytes().first() {
            None | Some(b'#') => false,
            Some(b'@' | b'|') => true,
            Some(_) => names.contains(['*', '?', '!']) || names.contains(&host),
        };
        if wanted && picked.len() + line.len() < SENT_BYTES {
            picked.push_str(line);
            picked.push('\n');
        }
    }
    picked
}

/// The same for many hosts: names are compared whole, without brackets and port.
fn pick_all(text: &str, hosts: &HashSet<String>) -> String {
    let mut picked = String::new();
    for line in text.lines().map(str::trim) {
        let names = line.split_whitespace().next().unwrap_or_default().to_lowercase();
        let wanted = match names.as_bytes().first() {
            None | Some(b'#') => false,
            Some(b'@' | b'|') => true,
            Some(_) => {
                names.contains(['*', '?', '!']) || names.split(',').any(|name| hosts.contains(bare(name)))
            }
        };
        if wanted && picked.len() + line.len() < SENT_BYTES {
            picked.push_str(line);
            picked.push('\n');
        }
    }
    picked
}

/// `[name]:2222` is `name`.
fn bare(name: &str) -> &str {
    name.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(name, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_that_may_name_the_host_leave_the_machine() {
        let text = "# comment\nweb-1,10.0.0.5 ssh-ed25519 A\n[web-1]:2222 ssh-ed25519 B\ndb ssh-ed25519 C\n\
                    |1|salt|hash ssh-ed25519 D\n@cert-authority *.example.com ssh-ed25519 E\n*.lan ssh-ed25519 F\n";
        let picked = pick(text, "WEB-1");
        let keys: Vec<&str> = picked.lines().filter_map(|line| line.split_whitespace().last()).collect();
        assert_eq!(keys, ["A", "B", "D", "E", "F"]);
    }

    #[test]
    fn lines_for_many_hosts_are_picked_in_one_go() {
        let text = "web-1,10.0.0.5 ssh-ed25519 A\n[web-2]:2222 ssh-ed25519 B\ndb ssh-ed25519 C\n|1|s|h ssh-ed25519 D\n";
        let hosts = ["web-1", "web-2"].map(str::to_owned).into_iter().collect();
        let picked = pick_all(text, &hosts);
        let keys: Vec<&str> = picked.lines().filter_map(|line| line.split_whitespace().last()).collect();
        assert_eq!(keys, ["A", "B", "D"]);
    }
}
