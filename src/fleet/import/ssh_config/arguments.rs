//! Arguments of the ssh program, as inventories pass them on: `-J gate -o ConnectTimeout=5`.

use super::options::{Meaning, Setting, meaning};
use super::syntax;
use crate::fleet::import::address::{self, Way};
use crate::fleet::import::found::{Candidate, word};

/// Why arguments are not taken over.
#[derive(Debug)]
pub(in crate::fleet::import) enum ArgumentsRefused {
    Invalid(String),
    Unsupported(String),
}

/// Takes over what `list` says of the way to the server. What has no meaning here is left out; what would change the way
/// and is not understood is refused.
pub(in crate::fleet::import) fn arguments(
    list: &str,
    candidate: &mut Candidate,
    remarks: &mut Vec<String>,
) -> Result<(), ArgumentsRefused> {
    let unclosed = || ArgumentsRefused::Invalid("a quotation mark is not closed".to_owned());
    let words = shlex::split(list).ok_or_else(unclosed)?;
    let mut words = words.into_iter();
    while let Some(argument) = words.next() {
        let Some(letter) = argument.strip_prefix('-').and_then(|rest| rest.chars().next()) else {
            return Err(ArgumentsRefused::Unsupported(format!("'{}' is not understood", word(&argument))));
        };
        if "46AaCfGgKkMNnqsTtVvXxYy".contains(letter) {
            continue;
        }
        let attached = argument.get(2..).unwrap_or_default().to_owned();
        let value = if attached.is_empty() { words.next().unwrap_or_default() } else { attached };
        match letter {
            'J' => candidate.jump = address::parse_hops(&value).map_err(ArgumentsRefused::Invalid)?,
            'i' => candidate.identities.push(value),
            'l' => candidate.user = Some(value),
            'p' => candidate.port = Some(value.parse().map_err(|_| not_a_port(&value))?),
            'o' => option(&value, candidate, remarks)?,
            'c' | 'm' | 'e' | 'E' | 'L' | 'R' | 'D' | 'S' | 'O' | 'w' | 'Q' => {}
            _ => return Err(ArgumentsRefused::Unsupported(format!("-{letter} is not understood"))),
        }
    }
    Ok(())
}

fn not_a_port(value: &str) -> ArgumentsRefused {
    ArgumentsRefused::Invalid(format!("'{}' is not a port", word(value)))
}

fn option(text: &str, candidate: &mut Candidate, remarks: &mut Vec<String>) -> Result<(), ArgumentsRefused> {
    let wrong = || ArgumentsRefused::Invalid(format!("'{}' is no option of ssh", word(text)));
    let (shown, rest) = syntax::keyword(text).ok_or_else(wrong)?;
    let words = syntax::split(rest).ok_or_else(wrong)?;
    match meaning(&shown.to_ascii_lowercase(), shown, &words, rest) {
        Meaning::Take(setting) => take(setting, candidate),
        Meaning::Quiet => Ok(()),
        Meaning::Note(note) if shown.eq_ignore_ascii_case("StrictHostKeyChecking") => {
            remarks.push(note);
            Ok(())
        }
        Meaning::Note(_) => Ok(()),
        Meaning::Unsupported(what) => Err(ArgumentsRefused::Unsupported(what)),
        Meaning::Invalid(message) => Err(ArgumentsRefused::Invalid(message)),
    }
}

fn take(setting: Setting, candidate: &mut Candidate) -> Result<(), ArgumentsRefused> {
    match setting {
        Setting::HostName(host) => candidate.host = host,
        Setting::User(user) => candidate.user = Some(user),
        Setting::Port(port) => candidate.port = Some(port.into()),
        Setting::ProxyJump(hops) => candidate.jump = hops,
        Setting::IdentityFile(file) => candidate.identities.push(file),
        Setting::CertificateFile(file) => candidate.certificate = Some(file),
        Setting::HostKeyAlias(alias) => candidate.host_key_alias = Some(alias),
        Setting::ConnectTimeout(limit) => {
            candidate.connect_timeout_ms = limit.map(|seconds| seconds.saturating_mul(1000));
        }
        Setting::ProxyCommand(command) => match address::way_of_command(&command) {
            Some(Way::Direct) => {}
            Some(Way::Jump(hops)) => candidate.jump = hops,
            Some(Way::Proxy(proxy)) => candidate.proxy = Some(proxy),
            None => {
                return Err(ArgumentsRefused::Unsupported(format!("ProxyCommand '{}'", word(&command))));
            }
        },
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(list: &str) -> (Candidate, Vec<String>) {
        let (mut candidate, mut remarks) = (Candidate::default(), Vec::new());
        arguments(list, &mut candidate, &mut remarks).unwrap();
        (candidate, remarks)
    }

    #[test]
    fn jump_hosts_are_found_in_every_usual_form() {
        for list in [
            "-J joe@gate:2222",
            "-Jjoe@gate:2222",
            "-o ProxyJump=joe@gate:2222",
            "-oProxyJump=joe@gate:2222",
            "-o ProxyCommand=\"ssh -W %h:%p -q -p 2222 joe@gate\"",
            "-C -o 'ProxyCommand ssh -p 2222 -W %h:%p joe@gate' -o ControlMaster=auto",
        ] {
            let (candidate, _) = taken(list);
            let hop = &candidate.jump[0];
            assert_eq!(
                (hop.user.as_deref(), hop.host.as_str(), hop.port),
                (Some("joe"), "gate", Some(2222)),
                "{list}"
            );
        }
        let (candidate, remarks) = taken("-i ~/.ssh/k -o ConnectTimeout=5 -o StrictHostKeyChecking=no");
        assert_eq!(
            (candidate.identities.as_slice(), candidate.connect_timeout_ms),
            (["~/.ssh/k".to_owned()].as_slice(), Some(5000))
        );
        assert!(remarks[0].contains("always checks host keys"), "{remarks:?}");
    }

    #[test]
    fn what_would_change_the_way_is_not_passed_over() {
        for list in [
            "-o ProxyCommand='cloudflared access ssh'",
            "-F other",
            "-o PKCS11Provider=/x.so",
            "-b 10.0.0.1",
            "elsewhere",
        ] {
            let refused = arguments(list, &mut Candidate::default(), &mut Vec::new());
            assert!(matches!(refused, Err(ArgumentsRefused::Unsupported(_))), "{list}: {refused:?}");
        }
    }
}
