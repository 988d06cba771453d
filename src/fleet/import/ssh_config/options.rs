//! The options of ssh_config: those that are taken over, those that Roundsman does in its own way, those it cannot.

use super::super::address;
use super::super::found::{Candidate, word};

/// An option that is taken over.
#[derive(Debug)]
pub(super) enum Setting {
    HostName(String),
    User(String),
    Port(u16),
    /// Empty: `none`.
    ProxyJump(Vec<Candidate>),
    ProxyCommand(String),
    IdentityFile(String),
    CertificateFile(String),
    HostKeyAlias(String),
    /// None: no limit of its own.
    ConnectTimeout(Option<u64>),
}

/// What an option comes to.
#[derive(Debug)]
pub(super) enum Meaning {
    Take(Setting),
    /// Read, and nothing follows from it.
    Quiet,
    Note(String),
    Unsupported(String),
    Invalid(String),
}

const TAKEN: &[&str] = &[
    "hostname",
    "user",
    "port",
    "proxyjump",
    "proxycommand",
    "identityfile",
    "certificatefile",
    "hostkeyalias",
    "connecttimeout",
    "identitiesonly",
    "identityagent",
];

/// Without these a server may be out of reach, or be another one.
const UNSUPPORTED: &[&str] = &[
    "addressfamily",
    "bindaddress",
    "bindinterface",
    "canonicaldomains",
    "canonicalizehostname",
    "canonicalizepermittedcnames",
    "knownhostscommand",
    "pkcs11provider",
    "proxyusefdpass",
    "securitykeyprovider",
    "smartcarddevice",
    "tag",
];

/// What Roundsman does in its own way, or what is about sitting at a terminal.
const OWN_WAY: &[&str] = &[
    "addkeystoagent",
    "batchmode",
    "canonicalizefallbacklocal",
    "canonicalizemaxdots",
    "casignaturealgorithms",
    "challengeresponseauthentication",
    "channeltimeout",
    "checkhostip",
    "cipher",
    "ciphers",
    "clearallforwardings",
    "compression",
    "compressionlevel",
    "connectionattempts",
    "controlmaster",
    "controlpath",
    "controlpersist",
    "dsaauthentication",
    "dynamicforward",
    "enableescapecommandline",
    "enablesshkeysign",
    "escapechar",
    "exitonforwardfailure",
    "fallbacktorsh",
    "fingerprinthash",
    "forkafterauthentication",
    "forwardagent",
    "forwardx11",
    "forwardx11timeout",
    "forwardx11trusted",
    "gatewayports",
    "globalknownhostsfile",
    "gssapiauthentication",
    "gssapiclientidentity",
    "gssapidelegatecredentials",
    "gssapikexalgorithms",
    "gssapikeyexchange",
    "gssapirenewalforcesrekey",
    "gssapiserveridentity",
    "gssapitrustdns",
    "hashknownhosts",
    "hostbasedacceptedalgorithms",
    "hostbasedauthentication",
    "hostbasedkeytypes",
    "hostkeyalgorithms",
    "ignoreunknown",
    "ipqos",
    "kbdinteractiveauthentication",
    "kbdinteractivedevices",
    "kexalgorithms",
    "localcommand",
    "localforward",
    "loglevel",
    "logverbose",
    "macs",
    "nohostauthenticationforlocalhost",
    "numberofpasswordprompts",
    "obscurekeystroketiming",
    "passwordauthentication",
    "permitlocalcommand",
    "permitremoteopen",
    "preferredauthentications",
    "protocol",
    "pubkeyacceptedalgorithms",
    "pubkeyacceptedkeytypes",
    "pubkeyauthentication",
    "refuseconnection",
    "rekeylimit",
    "remotecommand",
    "remoteforward",
    "requesttty",
    "requiredrsasize",
    "revokedhostkeys",
    "rhostsrsaauthentication",
    "rsaauthentication",
    "sendenv",
    "serveralivecountmax",
    "serveraliveinterval",
    "sessiontype",
    "setenv",
    "stdinnull",
    "streamlocalbindmask",
    "streamlocalbindunlink",
    "stricthostkeychecking",
    "syslogfacility",
    "tcpkeepalive",
    "tunnel",
    "tunneldevice",
    "updatehostkeys",
    "useblacklistedkeys",
    "usekeychain",
    "useprivilegedport",
    "userknownhostsfile",
    "useroaming",
    "usersh",
    "verifyhostkeydns",
    "versionaddendum",
    "visualhostkey",
    "warnweakcrypto",
    "xauthlocation",
];

/// Whether a word opens a line of ssh_config.
pub(in crate::fleet::import) fn is_keyword(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    let word = word.as_str();
    matches!(word, "host" | "match" | "include")
        || TAKEN.contains(&word)
        || UNSUPPORTED.contains(&word)
        || OWN_WAY.contains(&word)
}

/// What `keyword` with `words` means; `raw` is the rest of its line as it stands, for options that take commands.
pub(super) fn meaning(keyword: &str, shown: &str, words: &[String], raw: &str) -> Meaning {
    let raw = raw.trim_start_matches([' ', '\t', '=']);
    match keyword {
        "proxycommand" => return proxy_command(raw),
        "proxyjump" => {
            let value = raw.split('#').next().unwrap_or_default().trim();
            return address::parse_hops(value)
                .map_or_else(Meaning::Invalid, |hops| Meaning::Take(Setting::ProxyJump(hops)));
        }
        _ => {}
    }
    if UNSUPPORTED.contains(&keyword) {
        return unsupported(keyword, shown, words);
    }
    if OWN_WAY.contains(&keyword) {
        return own_way(keyword, shown, words);
    }
    if !TAKEN.contains(&keyword) {
        return Meaning::Invalid(format!("'{}' is no option of ssh_config", word(shown)));
    }
    let (Some(value), None) = (words.first().filter(|value| !value.is_empty()), words.get(1)) else {
        return Meaning::Invalid(format!("{} takes one value", word(shown)));
    };
    taken(keyword, value)
}

fn taken(keyword: &str, value: &str) -> Meaning {
    let text = value.to_owned();
    Meaning::Take(match keyword {
        "hostname" => Setting::HostName(text),
        "user" => Setting::User(text),
        "identityfile" => Setting::IdentityFile(text),
        "certificatefile" => Setting::CertificateFile(text),
        "hostkeyalias" => Setting::HostKeyAlias(text),
        "port" => match value.parse::<u16>() {
            Ok(port) if port > 0 => Setting::Port(port),
            _ => return Meaning::Invalid(format!("'{}' is not a port", word(value))),
        },
        "connecttimeout" => match seconds(value) {
            Some(limit) => Setting::ConnectTimeout(limit),
            None => return Meaning::Invalid(format!("'{}' is not a time", word(value))),
        },
        // Roundsman offers one identity and no other, whatever this says.
        "identitiesonly" => return Meaning::Quiet,
        _ => {
            return Meaning::Note(format!(
                "IdentityAgent {}: Roundsman uses the ssh-agent that it was started with, where a server says so",
                word(value)
            ));
        }
    })
}

fn proxy_command(raw: &str) -> Meaning {
    match address::way_of_command(raw) {
        Some(_) => Meaning::Take(Setting::ProxyCommand(raw.to_owned())),
        None => Meaning::Unsupported(format!(
            "ProxyCommand '{}': Roundsman runs no commands for a connection; 'ssh -W %h:%p HOST' and nc with a proxy are understood",
            word(raw)
        )),
    }
}

fn unsupported(keyword: &str, shown: &str, words: &[String]) -> Meaning {
    let value = words.first().map(|value| value.to_ascii_lowercase()).unwrap_or_default();
    let harmless = match keyword {
        "addressfamily" => value == "any",
        "canonicalizehostname" | "proxyusefdpass" => value == "no",
        "pkcs11provider" | "knownhostscommand" => value == "none",
        _ => false,
    };
    if harmless {
        return Meaning::Quiet;
    }
    Meaning::Unsupported(format!("{} is not supported", word(shown)))
}

fn own_way(keyword: &str, shown: &str, words: &[String]) -> Meaning {
    let value = words.first().map(|value| value.to_ascii_lowercase()).unwrap_or_default();
    let shown = word(shown);
    Meaning::Note(match (keyword, value.as_str()) {
        ("stricthostkeychecking", "no" | "off" | "accept-new") => {
            format!(
                "{shown} {value}: Roundsman always checks host keys; --accept-new approves unknown ones once"
            )
        }
        ("userknownhostsfile" | "globalknownhostsfile", _) => {
            format!("{shown}: host keys are compared with ~/.ssh/known_hosts only")
        }
        ("remotecommand" | "requesttty" | "sessiontype", _) => format!("{shown} is not taken over"),
        _ => format!("{shown} has no meaning for Roundsman"),
    })
}

/// A time as in sshd_config(5), TIME FORMATS. `Some(None)`: `none`, or 0, which is no limit as well.
fn seconds(text: &str) -> Option<Option<u64>> {
    if text.eq_ignore_ascii_case("none") {
        return Some(None);
    }
    let (mut total, mut number, mut has_number) = (0_u64, 0_u64, false);
    for c in text.chars() {
        if let Some(digit) = c.to_digit(10) {
            number = number.checked_mul(10)?.checked_add(digit.into())?;
            has_number = true;
            continue;
        }
        let unit = match c.to_ascii_lowercase() {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return None,
        };
        if !has_number {
            return None;
        }
        total = total.checked_add(number.checked_mul(unit)?)?;
        (number, has_number) = (0, false);
    }
    total = total.checked_add(number)?;
    (!text.is_empty()).then_some(Some(total).filter(|seconds| *seconds > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_openssh_writes_them() {
        for (text, expected) in [
            ("30", Some(Some(30))),
            ("1m30s", Some(Some(90))),
            ("1M", Some(Some(60))),
            ("none", Some(None)),
            ("0", Some(None)),
            ("", None),
            ("soon", None),
            ("s", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }

    #[test]
    fn every_option_has_one_meaning() {
        let mut all: Vec<&str> = [TAKEN, UNSUPPORTED, OWN_WAY].concat();
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(is_keyword("HOST") && is_keyword("proxyJump") && !is_keyword("web"));
    }
}
