//! `user@host:port` in the ways that people write it, and ways through proxies as `ProxyCommand` says them.

use super::found::{Candidate, word};

/// Reads `[ssh://][user@]host[:port][/]`; an IPv6 address with a port stands in brackets.
///
/// # Errors
/// What is wrong, as a sentence.
pub(super) fn parse(text: &str) -> Result<Candidate, String> {
    let wrong = |why: &str| format!("'{}' is not user@host[:port]: {why}", word(text));
    let (is_uri, rest) = match text.get(..6) {
        Some(scheme) if scheme.eq_ignore_ascii_case("ssh://") => {
            (true, text.get(6..).unwrap_or_default().trim_end_matches('/'))
        }
        _ if text.contains("://") => return Err(wrong("only ssh:// is known")),
        _ => (false, text),
    };
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, rest),
    };
    // An address of RFC 3986 may carry a password and parameters; neither belongs here.
    let user = user.map(|user| if is_uri { user.split([';', ':']).next().unwrap_or_default() } else { user });
    let (host, port) = if let Some(inside) = rest.strip_prefix('[') {
        let (host, after) = inside.split_once(']').ok_or_else(|| wrong("the ] is missing"))?;
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return Err(wrong("after the ] only :port may follow")),
        }
    } else {
        match rest.split_once(':') {
            // More than one colon is an IPv6 address without a port.
            Some((_, after)) if after.contains(':') => (rest, None),
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        }
    };
    if host.is_empty() || user.is_some_and(str::is_empty) {
        return Err(wrong("the user or the host is missing"));
    }
    let port = match port {
        None => None,
        Some(port) => Some(
            port.parse::<u16>()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| wrong("a port is a number from 1 to 65535"))?,
        ),
    };
    Ok(Candidate {
        host: host.to_owned(),
        port: port.map(i64::from),
        user: user.map(str::to_owned),
        ..Candidate::default()
    })
}

/// `a,b,c` as in ProxyJump and `ssh -J`, in the order of the way. `none` is no hop.
///
/// # Errors
/// What is wrong with one of them.
pub(super) fn parse_hops(text: &str) -> Result<Vec<Candidate>, String> {
    let text = text.trim();
    if text.is_empty() || text.eq_ignore_ascii_case("none") {
        return Ok(Vec::new());
    }
    text.split(',').map(|hop| parse(hop.trim())).collect()
}

/// What a ProxyCommand comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    Direct,
    Jump(Vec<Candidate>),
    Proxy(String),
}

/// Understands the usual forms: `ssh -W %h:%p bastion` is a jump host, `nc -X 5 -x proxy:1080 %h %p` a proxy. None:
/// a command of its own, which Roundsman never runs.
pub(super) fn way_of_command(command: &str) -> Option<Way> {
    let command = command.trim();
    if command.is_empty() || command.eq_ignore_ascii_case("none") {
        return Some(Way::Direct);
    }
    let words = shlex::split(command)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let words = words.strip_prefix(&["exec"]).unwrap_or(&words);
    let (program, rest) = words.split_first()?;
    match program.rsplit('/').next()? {
        "ssh" => through_ssh(rest),
        "nc" | "netcat" | "nc.openbsd" => through_netcat(rest),
        "ncat" => through_ncat(rest),
        _ => None,
    }
}

fn through_ssh(words: &[&str]) -> Option<Way> {
    let (mut user, mut port, mut before, mut host) = (None, None, Vec::new(), None);
    let mut forwards = false;
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        match word {
            "-q" | "-x" | "-a" | "-T" | "-n" | "-4" | "-6" | "-C" => {}
            "-W" => forwards = is_destination(words.next()?),
            "-l" => user = Some(words.next()?.to_owned()),
            "-p" => port = Some(words.next()?.parse::<u16>().ok()?),
            "-J" => before = parse_hops(words.next()?).ok()?,
            _ => {
                if let Some(target) = word.strip_prefix("-W") {
                    forwards = is_destination(target);
                } else if let Some(number) = word.strip_prefix("-p") {
                    port = Some(number.parse::<u16>().ok()?);
                } else if word.starts_with('-') || host.is_some() {
                    return None;
                } else {
                    host = Some(parse(word).ok()?);
                }
            }
        }
    }
    let mut hop = host.filter(|_| forwards)?;
    // In ssh the option wins over what stands in the address only where the address says nothing.
    hop.user = hop.user.or(user);
    hop.port = hop.port.or(port.map(i64::from));
    before.push(hop);
    Some(Way::Jump(before))
}

fn is_destination(text: &str) -> bool {
    matches!(text, "%h:%p" | "[%h]:%p")
}

fn through_netcat(words: &[&str]) -> Option<Way> {
    let (mut kind, mut proxy, mut target) = ("socks5", None, Vec::new());
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        match word {
            "-X" => {
                kind = match words.next()? {
                    "5" => "socks5",
                    "connect" => "http",
                    _ => return None,
                };
            }
            "-x" => proxy = Some(words.next()?),
            "-w" => drop(words.next()?),
            "%h" | "%p" => target.push(word),
            _ => return None,
        }
    }
    (target == ["%h", "%p"]).then(|| proxy.map(|proxy| Way::Proxy(format!("{kind}://{proxy}")))).flatten()
}

fn through_ncat(words: &[&str]) -> Option<Way> {
    let (mut kind, mut proxy, mut target) = ("http", None, Vec::new());
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        match word {
            "--proxy-type" => {
                kind = match words.next()? {
                    "socks5" => "socks5",
                    "http" => "http",
                    _ => return None,
                };
            }
            "--proxy" => proxy = Some(words.next()?),
            "%h" | "%p" => target.push(word),
            _ => return None,
        }
    }
    (target == ["%h", "%p"]).then(|| proxy.map(|proxy| Way::Proxy(format!("{kind}://{proxy}")))).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(candidate: &Candidate) -> (Option<&str>, &str, Option<i64>) {
        (candidate.user.as_deref(), &candidate.host, candidate.port)
    }

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, expected) in [
            ("web-1", (None, "web-1", None)),
            ("deploy@web-1:2222", (Some("deploy"), "web-1", Some(2222))),
            ("root@[fd00::5]:22", (Some("root"), "fd00::5", Some(22))),
            ("fd00::5", (None, "fd00::5", None)),
            ("ssh://root@web-1:22/", (Some("root"), "web-1", Some(22))),
            ("ssh://joe;fingerprint=x@web", (Some("joe"), "web", None)),
            ("user@example.com@10.0.0.5", (Some("user@example.com"), "10.0.0.5", None)),
        ] {
            assert_eq!(short(&parse(text).unwrap()), expected, "{text}");
        }
        for bad in ["", "@host", "root@", "host:0", "host:99999", "host:ssh", "[::1", "[::1]22", "http://web"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_usual_proxy_commands_are_ways_and_others_are_not_run() {
        let hops = |command: &str| match way_of_command(command) {
            Some(Way::Jump(hops)) => hops.iter().map(|hop| format!("{:?}", short(hop))).collect(),
            other => vec![format!("{other:?}")],
        };
        assert_eq!(hops("ssh -W %h:%p bastion"), [r#"(None, "bastion", None)"#]);
        assert_eq!(
            hops("/usr/bin/ssh -q -p 2222 -W [%h]:%p joe@bastion"),
            [r#"(Some("joe"), "bastion", Some(2222))"#]
        );
        assert_eq!(
            hops("exec ssh -l joe -J first -W%h:%p second"),
            [r#"(None, "first", None)"#, r#"(Some("joe"), "second", None)"#]
        );
        assert_eq!(way_of_command("none"), Some(Way::Direct));
        assert_eq!(way_of_command("nc -X 5 -x p:1080 %h %p"), Some(Way::Proxy("socks5://p:1080".to_owned())));
        assert_eq!(
            way_of_command("nc -X connect -x p:3128 %h %p"),
            Some(Way::Proxy("http://p:3128".to_owned()))
        );
        for other in [
            "ssh bastion nc %h %p",
            "ssh -W other:22 bastion",
            "cloudflared access ssh --hostname %h",
            "ssh -o x -W %h:%p b",
            "'",
        ] {
            assert_eq!(way_of_command(other), None, "{other}");
        }
    }
}
