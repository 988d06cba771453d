//! As much of HTTP/1 as the agent speaks: the head of a request that somebody sent, the head and body of an answer
//! that a central server sent, and addresses. Pure; what is not understood is refused.

use std::fmt;

/// Bytes of a request's head. Browsers send under 2 KB.
pub const REQUEST_HEAD_BYTES: usize = 8 * 1024;

/// Bytes of an answer, head and body. Those of the contract have under 300.
pub const ANSWER_BYTES: usize = 64 * 1024;

/// Headers of one head.
const HEADERS: usize = 64;

/// Bytes of an address.
const URL_BYTES: usize = 2048;

/// The head of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    pub method: &'a str,
    /// As sent, query and all.
    pub target: &'a str,
    pub host: &'a str,
    pub bearer: Option<&'a str>,
}

/// Parses what stands before the empty line. `None`: not HTTP/1, too many headers, no `Host` or two, or two
/// `Authorization`s.
#[must_use]
pub fn request(head: &[u8]) -> Option<Request<'_>> {
    let head = std::str::from_utf8(head).ok()?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || !matches!(version, "HTTP/1.0" | "HTTP/1.1") || !target.starts_with('/') {
        return None;
    }
    let (mut host, mut authorization) = (None, None);
    for (position, line) in lines.take_while(|line| !line.is_empty()).enumerate() {
        let (name, value) = line.split_once(':')?;
        if position >= HEADERS || name.contains([' ', '\t']) {
            return None;
        }
        let place = match name {
            name if name.eq_ignore_ascii_case("host") => &mut host,
            name if name.eq_ignore_ascii_case("authorization") => &mut authorization,
            _ => continue,
        };
        if place.replace(value.trim_matches([' ', '\t'])).is_some() {
            return None;
        }
    }
    let bearer = authorization.and_then(|value: &str| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    Some(Request { method, target, host: host?, bearer })
}

/// Whether a `Host` header names this machine itself. A page in a browser that was led here by a name of its own
/// (DNS rebinding) has another. The port may be any: that of a tunnel is.
#[must_use]
pub fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) if port.is_empty() || is_port(port.strip_prefix(':').unwrap_or("")) => address,
        Some(_) => return false,
        None => match host.split_once(':') {
            Some((name, port)) if is_port(port) => name,
            Some(_) => return false,
            None => host,
        },
    };
    name.eq_ignore_ascii_case("localhost") || matches!(name, "127.0.0.1" | "::1")
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// What a central server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Parses a whole answer of a server that closes when it has said it. `None`: not HTTP/1, cut short, or chunked
/// (which a request of HTTP/1.0 forbids).
#[must_use]
pub fn answer(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(bytes.get(..end)?).ok()?;
    let body = bytes.get(end + 4..)?;
    let mut lines = head.split("\r\n");
    let status = status_line(lines.next()?)?;
    let mut length = body.len();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return None;
        }
    }
    Some(Answer { status, body: body.get(..length)?.to_owned() })
}

/// `HTTP/1.1 200 OK`.
#[must_use]
pub fn status_line(line: &str) -> Option<u16> {
    let mut words = line.trim().split(' ');
    let version = words.next()?;
    let status: u16 = words.next()?.parse().ok()?;
    (version.starts_with("HTTP/") && (100..600).contains(&status)).then_some(status)
}

/// An address of a central server, without a slash at its end.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    pub is_tls: bool,
    /// Without brackets.
    pub host: String,
    pub port: u16,
    /// What stands before the paths of the contract: empty, or `/prefix`.
    pub prefix: String,
}

/// Why an address is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAUrl;

impl Url {
    /// `http[s]://HOST[:PORT][/PREFIX]`, visible ASCII without user, query, fragment, quotes and backslashes.
    ///
    /// # Errors
    /// Everything else.
    pub fn parse(text: &str) -> Result<Self, NotAUrl> {
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"\"'\\@?#<>`{}|^".contains(&byte);
        if text.len() > URL_BYTES || !text.bytes().all(plain) {
            return Err(NotAUrl);
        }
        let (scheme, rest) = text.split_once("://").ok_or(NotAUrl)?;
        let is_tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(NotAUrl),
        };
        let (place, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) if host.parse::<std::net::Ipv6Addr>().is_ok() => (host, port),
            Some(_) => return Err(NotAUrl),
            None => place.split_at(place.find(':').unwrap_or(place.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(digits) if is_port(digits) => digits.parse().map_err(|_| NotAUrl)?,
            None if port.is_empty() => {
                if is_tls {
                    443
                } else {
                    80
                }
            }
            _ => return Err(NotAUrl),
        };
        if host.is_empty() || port == 0 {
            return Err(NotAUrl);
        }
        Ok(Self { is_tls, host: host.to_owned(), port, prefix: prefix.trim_end_matches('/').to_owned() })
    }

    /// The host as it stands in an address: IPv6 in brackets.
    #[must_use]
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// Whether what is sent there stays on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(formatter, "{scheme}://{}{}", self.authority(), self.prefix)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_its_method_target_host_and_token() {
        let head =
            b"GET /api/all?x=1 HTTP/1.1\r\nhost:  localhost:8083 \r\nAuthorization: bearer abc\r\n\r\n";
        let parsed = request(head).unwrap();
        assert_eq!((parsed.method, parsed.target), ("GET", "/api/all?x=1"));
        assert_eq!((parsed.host, parsed.bearer), ("localhost:8083", Some("abc")));
        for wrong in [
            "",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/2\r\nHost: a\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        ] {
            assert_eq!(request(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn only_names_of_the_machine_itself_are_loopback() {
        for own in ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8083", "[::1]", "[::1]:65535"] {
            assert!(is_loopback_name(own), "{own}");
        }
        for foreign in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1:x",
            "localhost:",
            "[::1",
            "[::1]x",
            "localhost:99999",
            "127.0.0.1.nip.io",
        ] {
            assert!(!is_loopback_name(foreign), "{foreign}");
        }
    }

    #[test]
    fn an_answer_is_whole_or_none() {
        let whole = b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(answer(whole), Some(Answer { status: 200, body: b"{}".to_vec() }));
        assert_eq!(answer(b"HTTP/1.1 401 No\r\n\r\n").map(|answer| answer.status), Some(401));
        assert_eq!(answer(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n{}"), None);
        assert_eq!(answer(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0"), None);
        assert_eq!(answer(b"SSH-2.0-x\r\n\r\n"), None);
    }

    #[test]
    fn addresses_are_parsed_and_odd_ones_refused() {
        let url = Url::parse("https://rounds.example/base/").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.prefix.as_str()), ("rounds.example", 443, "/base"));
        assert_eq!(url.to_string(), "https://rounds.example:443/base");
        assert!(Url::parse("http://[::1]:9083").unwrap().is_loopback());
        assert!(Url::parse("http://127.9.9.9:9083").unwrap().is_loopback());
        assert!(!Url::parse("http://localhost.example").unwrap().is_loopback());
        for wrong in [
            "",
            "rounds.example",
            "ftp://a",
            "http://",
            "http://a:0",
            "http://a:x",
            "http://user@a",
            "http://a/?q",
            "http://a b",
            "https://a\"b",
            "https://a\\b",
            "http://[zz]",
            "http://a\n",
        ] {
            assert_eq!(Url::parse(wrong), Err(NotAUrl), "{wrong}");
        }
    }
}
