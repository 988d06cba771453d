//! A TCP connection through a proxy: SOCKS5 (RFC 1928, RFC 1929) or HTTP CONNECT (RFC 9110, section 9.3.6).
//!
//! Owns the words of both protocols on a socket that is connected already. The proxy resolves the name, because what a name
//! means is often known only on its side.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::error::Endpoint;
use super::printable;
use super::target::{Proxy, ProxyKind};
use super::way::Refusal;

/// The head of an HTTP answer. Proxies add a handful of lines.
const MAX_HEAD_BYTES: usize = 8 * 1024;

impl Proxy {
    /// `socks5://10.0.0.1:1080`, for sentences: without the login.
    #[must_use]
    pub fn address(&self) -> String {
        let scheme = match self.kind {
            ProxyKind::Socks5 => "socks5",
            ProxyKind::Http => "http",
        };
        format!("{scheme}://{}", self.endpoint())
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        let host = self.host.trim();
        let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        Endpoint { user: String::new(), host: host.to_owned(), port: self.port }
    }
}

/// Asks for a connection to `at`. What came after the answer belongs to the server and is handed back.
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    proxy: &Proxy,
    at: &Endpoint,
) -> Result<BytesMut, Refusal> {
    match proxy.kind {
        ProxyKind::Socks5 => socks5(socket, proxy, at).await.map(|()| BytesMut::new()),
        ProxyKind::Http => http_connect(socket, proxy, at).await,
    }
}

fn lost(error: &std::io::Error) -> Refusal {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof
        | std::io::ErrorKind::ConnectionReset
        | std::io::ErrorKind::BrokenPipe => Refusal::HungUp,
        _ => Refusal::NoConnection { said: error.to_string() },
    }
}

async fn send<S: AsyncWrite + Unpin>(socket: &mut S, bytes: &[u8]) -> Result<(), Refusal> {
    socket.write_all(bytes).await.map_err(|error| lost(&error))
}

async fn receive<const N: usize>(socket: &mut (impl AsyncRead + Unpin)) -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    socket.read_exact(&mut bytes).await.map_err(|error| lost(&error))?;
    Ok(bytes)
}

const SOCKS_VERSION: u8 = 5;
const NO_LOGIN: u8 = 0;
const WITH_PASSWORD: u8 = 2;
const CONNECT: u8 = 1;

async fn socks5<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    proxy: &Proxy,
    at: &Endpoint,
) -> Result<(), Refusal> {
    let methods: &[u8] = if proxy.login.is_some() {
        &[SOCKS_VERSION, 2, NO_LOGIN, WITH_PASSWORD]
    } else {
        &[SOCKS_VERSION, 1, NO_LOGIN]
    };
    send(socket, methods).await?;
    let [version, method] = receive(socket).await?;
    if version != SOCKS_VERSION {
        return Err(not_socks(&[version, method]));
    }
    match (method, &proxy.login) {
        (NO_LOGIN, _) => {}
        (WITH_PASSWORD, Some((user, password))) => {
            let mut login = vec![1];
            push_short(&mut login, user.as_bytes())?;
            push_short(&mut login, password.expose().as_bytes())?;
            let sent = send(socket, &login).await;
            zeroize::Zeroize::zeroize(&mut login);
            sent?;
            let [_, status] = receive(socket).await?;
            if status != 0 {
                return Err(Refusal::LoginRefused);
            }
        }
        (_, None) => return Err(Refusal::LoginWanted),
        (other, Some(_)) => {
            return Err(match other {
                0xff => Refusal::LoginRefused,
                _ => Refusal::NotSupported { said: format!("login method {other}") },
            });
        }
    }
    send(socket, &socks_request(at)?).await?;
    socks_answer(socket).await
}

fn not_socks(said: &[u8]) -> Refusal {
    Refusal::NotAProxy { said: printable::line(said, 40) }
}

/// A length byte and the bytes.
fn push_short(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Refusal> {
    let too_long = || Refusal::NotSupported { said: "a name over 255 bytes".to_owned() };
    out.push(u8::try_from(bytes.len()).map_err(|_| too_long())?);
    out.extend_from_slice(bytes);
    Ok(())
}

fn socks_request(at: &Endpoint) -> Result<Vec<u8>, Refusal> {
    let mut request = vec![SOCKS_VERSION, CONNECT, 0];
    match at.host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => {
            request.push(1);
            request.extend_from_slice(&address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            request.push(4);
            request.extend_from_slice(&address.octets());
        }
        Err(_) => {
            request.push(3);
            push_short(&mut request, at.host.as_bytes())?;
        }
    }
    request.extend_from_slice(&at.port.get().to_be_bytes());
    Ok(request)
}

async fn socks_answer<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut S) -> Result<(), Refusal> {
    let [version, reply, _, kind] = receive(socket).await?;
    if version != SOCKS_VERSION {
        return Err(not_socks(&[version, reply]));
    }
    if reply != 0 {
        return Err(socks_refusal(reply));
    }
    // The address that the proxy dialled from, which nobody needs.
    match kind {
        1 => receive::<6>(socket).await.map(drop),
        4 => receive::<18>(socket).await.map(drop),
        3 => {
            let [length] = receive(socket).await?;
            let mut rest = vec![0; usize::from(length) + 2];
            socket.read_exact(&mut rest).await.map(drop).map_err(|error| lost(&error))
        }
        other => Err(Refusal::NotSupported { said: format!("address kind {other}") }),
    }
}

/// RFC 1928, section 6.
fn socks_refusal(reply: u8) -> Refusal {
    match reply {
        1 => Refusal::NoConnection { said: "general failure".to_owned() },
        2 => Refusal::Forbidden,
        3 | 4 => Refusal::NoRoute,
        5 => Refusal::Refused,
        6 => Refusal::TimedOut,
        7 => Refusal::NotSupported { said: "command not supported".to_owned() },
        8 => Refusal::NotSupported { said: "address kind not supported".to_owned() },
        other => Refusal::NoConnection { said: format!("reply {other}") },
    }
}

async fn http_connect<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    proxy: &Proxy,
    at: &Endpoint,
) -> Result<BytesMut, Refusal> {
    if at.host.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(Refusal::NoSuchName);
    }
    let mut request = format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n");
    if let Some((user, password)) = &proxy.login {
        let mut login = format!("{user}:{}", password.expose());
        request += &format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(&login));
        zeroize::Zeroize::zeroize(&mut login);
    }
    request += "\r\n";
    let sent = send(socket, request.as_bytes()).await;
    zeroize::Zeroize::zeroize(&mut request);
    sent?;
    let mut received = BytesMut::new();
    loop {
        if let Some(end) = head_end(&received) {
            let head = received.split_to(end);
            return http_answer(&head, proxy.login.is_some()).map(|()| received);
        }
        if received.len() > MAX_HEAD_BYTES || !b"HTTP/1.".starts_with(received.get(..7).unwrap_or(&received))
        {
            return Err(Refusal::NotAProxy { said: printable::line(&received, 80) });
        }
        if socket.read_buf(&mut received).await.map_err(|error| lost(&error))? == 0 {
            return Err(match received.is_empty() {
                true => Refusal::HungUp,
                false => Refusal::NotAProxy { said: printable::line(&received, 80) },
            });
        }
    }
}

/// Where the head ends, after its empty line.
fn head_end(received: &[u8]) -> Option<usize> {
    memchr::memmem::find(received, b"\r\n\r\n").map(|at| at + 4).filter(|end| *end <= MAX_HEAD_BYTES)
}

fn http_answer(head: &[u8], with_login: bool) -> Result<(), Refusal> {
    let line = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = printable::line(line, 80);
    let mut words = line.split(' ');
    let status = words.next().filter(|word| word.starts_with("HTTP/1.")).and_then(|_| words.next());
    Err(match status.and_then(|status| status.parse::<u16>().ok()) {
        Some(200..=299) => return Ok(()),
        Some(407) if with_login => Refusal::LoginRefused,
        Some(407) => Refusal::LoginWanted,
        Some(401 | 403) => Refusal::Forbidden,
        Some(404) => Refusal::NoSuchName,
        Some(504) => Refusal::TimedOut,
        Some(400 | 405 | 501) => Refusal::NotSupported { said: line },
        Some(429) => Refusal::Full,
        Some(_) => Refusal::NoConnection { said: line },
        None => Refusal::NotAProxy { said: line },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::model::{Port, Secret};

    async fn asked(
        kind: ProxyKind,
        login: bool,
        host: &str,
        answers: &[&[u8]],
    ) -> (Result<BytesMut, Refusal>, Vec<u8>) {
        let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
        for answer in answers {
            theirs.write_all(answer).await.unwrap();
        }
        let login = login.then(|| ("me".to_owned(), Secret::new("pass".to_owned())));
        let proxy = Proxy { kind, host: "10.0.0.1".to_owned(), port: Port::of(1080).unwrap(), login };
        let at = Endpoint { user: String::new(), host: host.to_owned(), port: Port::SSH };
        theirs.shutdown().await.unwrap();
        let result = ask(&mut ours, &proxy, &at).await;
        drop(ours);
        let mut sent = Vec::new();
        theirs.read_to_end(&mut sent).await.unwrap();
        (result, sent)
    }

    const GRANTED: &[u8] = &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0];

    #[tokio::test]
    async fn socks5_lets_the_proxy_resolve_names_and_sends_addresses_as_they_are() {
        let (result, sent) = asked(ProxyKind::Socks5, false, "web.internal", &[&[5, 0], GRANTED]).await;
        assert_eq!(result.unwrap(), BytesMut::new());
        assert_eq!(sent, [&[5, 1, 0, 5, 1, 0, 3, 12][..], b"web.internal", &[0, 22]].concat());
        let (_, sent) = asked(ProxyKind::Socks5, false, "10.1.2.3", &[&[5, 0], GRANTED]).await;
        assert_eq!(sent[3..], [5, 1, 0, 1, 10, 1, 2, 3, 0, 22]);
        let (_, sent) = asked(ProxyKind::Socks5, false, "::1", &[&[5, 0], GRANTED]).await;
        assert_eq!(sent[3..7], [5, 1, 0, 4]);
    }

    #[tokio::test]
    async fn socks5_logs_in_where_the_proxy_wants_it() {
        let (result, sent) = asked(ProxyKind::Socks5, true, "::1", &[&[5, 2], &[1, 0], GRANTED]).await;
        result.unwrap();
        assert_eq!(sent[..13], [&[5, 2, 0, 2, 1, 2][..], b"me", &[4], b"pass"].concat());
        let cases: [(bool, &[&[u8]], Refusal); 5] = [
            (true, &[&[5, 2], &[1, 1]], Refusal::LoginRefused),
            (true, &[&[5, 0xff]], Refusal::LoginRefused),
            (false, &[&[5, 0xff]], Refusal::LoginWanted),
            (false, &[&[5, 2]], Refusal::LoginWanted),
            (false, &[b"HTTP/1.1 400 Bad"], Refusal::NotAProxy { said: "HT".to_owned() }),
        ];
        for (login, answers, expected) in cases {
            assert_eq!(asked(ProxyKind::Socks5, login, "web", answers).await.0, Err(expected));
        }
    }

    #[tokio::test]
    async fn every_reply_of_socks5_has_its_refusal() {
        for reply in 1..=255_u8 {
            let answer = [5, reply, 0, 1];
            let (result, _) = asked(ProxyKind::Socks5, false, "web", &[&[5, 0], &answer]).await;
            let expected = match reply {
                2 => Refusal::Forbidden,
                3 | 4 => Refusal::NoRoute,
                5 => Refusal::Refused,
                6 => Refusal::TimedOut,
                _ => result.clone().unwrap_err(),
            };
            assert_eq!(result, Err(expected));
        }
        let (result, _) = asked(ProxyKind::Socks5, false, "web", &[&[5, 0], &[5]]).await;
        assert_eq!(result, Err(Refusal::HungUp));
    }

    #[tokio::test]
    async fn http_connect_names_the_server_and_gives_back_what_came_after_the_answer() {
        let answer = b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\nSSH-2.0-x\r\n";
        let (result, sent) = asked(ProxyKind::Http, true, "::1", &[answer]).await;
        assert_eq!(result.unwrap(), b"SSH-2.0-x\r\n"[..]);
        let sent = String::from_utf8(sent).unwrap();
        assert_eq!(
            sent,
            "CONNECT [::1]:22 HTTP/1.1\r\nHost: [::1]:22\r\nProxy-Authorization: Basic bWU6cGFzcw==\r\n\r\n"
        );
    }

    #[tokio::test]
    async fn every_status_of_http_has_its_refusal_and_other_answers_are_no_proxy() {
        for (login, status, expected) in [
            (false, "407 Proxy Authentication Required", Refusal::LoginWanted),
            (true, "407 Proxy Authentication Required", Refusal::LoginRefused),
            (false, "403 Forbidden", Refusal::Forbidden),
            (false, "404 Not Found", Refusal::NoSuchName),
            (false, "504 Gateway Timeout", Refusal::TimedOut),
            (false, "405 Nope", Refusal::NotSupported { said: "HTTP/1.1 405 Nope".to_owned() }),
            (false, "502 Bad Gateway", Refusal::NoConnection { said: "HTTP/1.1 502 Bad Gateway".to_owned() }),
        ] {
            let answer = format!("HTTP/1.1 {status}\r\n\r\n");
            assert_eq!(asked(ProxyKind::Http, login, "web", &[answer.as_bytes()]).await.0, Err(expected));
        }
        for garbage in [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], b"HTTP/1.1", &[b'x'; 20_000], b"HTTP/1.x\r\n\r\n"] {
            let (result, _) = asked(ProxyKind::Http, false, "web", &[garbage]).await;
            assert!(matches!(result, Err(Refusal::NotAProxy { .. })), "{result:?}");
        }
        let endless = [&b"HTTP/1.1 200 OK\r\n"[..], &b"X: y\r\n".repeat(5000)].concat();
        let (result, _) = asked(ProxyKind::Http, false, "web", &[&endless]).await;
        assert!(matches!(result, Err(Refusal::NotAProxy { .. })), "{result:?}");
        assert_eq!(asked(ProxyKind::Http, false, "web", &[b""]).await.0, Err(Refusal::HungUp));
        let (result, sent) = asked(ProxyKind::Http, false, "a\r\nX: y", &[b""]).await;
        assert_eq!((result, sent.as_slice()), (Err(Refusal::NoSuchName), &b""[..]));
    }
}
