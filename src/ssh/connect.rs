//! From a target to a connection: name, TCP, banner, key exchange, host key, authentication.
//!
//! Each step has a time limit of its own, because the library has none. Nothing that is secret is sent before the
//! host key is the pinned one. Never retries and never paces: [`session`](super::session) does.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rand::RngExt as _;
use russh::client::{self, Handle};
use russh::{AlgorithmKind, Limits, Preferred, SshId, cipher};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::model::Layer;

use super::connection::Connection;
use super::error::{Cause, Endpoint, SshError};
use super::handler::{Gatekeeper, Observed};
use super::hostkey::{HostKey, KNOWN_ALGORITHMS, Verdict, judge_host_key};
use super::target::Target;
use super::wire::Wire;
use super::{auth, printable};

const CLIENT_ID: &str = concat!("SSH-2.0-Roundsman_", env!("CARGO_PKG_VERSION"));

/// What a server may say before its identification (RFC 4253, section 4.2, sets no limit; OpenSSH reads 8 KiB a line).
const MAX_GREETING_BYTES: usize = 8 * 1024;

/// How long sent data may stay unacknowledged before the kernel gives the connection up. Without it, retransmissions
/// go on for a quarter of an hour.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);

/// A dead peer is noticed after (`KEEPALIVE_MISSES` + 1) times this.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_MISSES: usize = 2;

/// The library's only timer over writes that are stuck; longer than the keepalives need to find a dead peer.
const INACTIVITY: Duration = Duration::from_secs(75);

/// Keys are exchanged again after this many hours, spread so that a fleet does not do it all at once.
const REKEY_HOURS: std::ops::Range<f64> = 6.0..12.0;
/// The most that one key may carry; the library allows no more (RFC 4253, section 9).
const REKEY_BYTES: usize = 1 << 30;

/// Largest packet that a server may send. The library keeps a buffer of this size for each connection; the default of
/// 32 KiB would be a sixth of all memory with thousands of servers, and a smaller packet costs a download little.
const MAX_PACKET_BYTES: u32 = 8 * 1024;

/// Connects and logs in. `progress` hears of each step as it begins.
///
/// # Errors
/// Every [`SshError`] that has a layer up to authentication. With `pinned: None` the result is
/// [`SshError::HostKeyUnknown`] with the key that was seen, and no credential has been sent.
pub async fn connect(
    target: &Target,
    progress: &mut (dyn FnMut(Layer) + Send),
) -> Result<Connection, SshError> {
    connect_through(None, target, progress).await
}

/// As [`connect`]; key exchange and login wait for a permit of `gate`. What comes before costs next to nothing and is where
/// dead servers stay: a gate around it would let them hold up the living.
pub(super) async fn connect_through(
    gate: Option<&Semaphore>,
    target: &Target,
    progress: &mut (dyn FnMut(Layer) + Send),
) -> Result<Connection, SshError> {
    let at = target.endpoint();
    let limit = target.connect_timeout;
    progress(Layer::Name);
    let addresses = resolve(&at, limit).await?;
    progress(Layer::Tcp);
    let socket = dial(&at, &addresses, limit).await?;
    progress(Layer::Banner);
    // Dropping this future must not leave the library's task behind, waiting for a frozen peer.
    let kill = CancellationToken::new();
    let cut_off = kill.clone().drop_guard();
    let (wire, server_id) = greet(&at, socket, limit, kill).await?;
    let _turn = match gate {
        // A closed gate means that everything is stopping, which ends this future as well.
        Some(gate) => gate.acquire().await.ok(),
        None => None,
    };
    progress(Layer::KeyExchange);
    let (mut handle, observed) = Box::pin(exchange_keys(&at, target, wire)).await?;
    progress(Layer::HostKey);
    progress(Layer::Authentication);
    let login = auth::log_in(&mut handle, &observed, target);
    match timeout(limit * 2, Box::pin(login)).await {
        Ok(outcome) => outcome?,
        Err(_) => return Err(late(&at, Layer::Authentication, limit * 2)),
    }
    Ok(Connection::new(handle, observed, at, cut_off.disarm(), server_id))
}

fn late(at: &Endpoint, layer: Layer, after: Duration) -> SshError {
    let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    SshError::TimedOut { at: Box::new(at.clone()), layer, after_ms }
}

fn failed(at: &Endpoint, layer: Layer, cause: Cause) -> SshError {
    SshError::Unreachable { at: Box::new(at.clone()), layer, cause }
}

async fn resolve(at: &Endpoint, limit: Duration) -> Result<Vec<SocketAddr>, SshError> {
    let found = timeout(limit, tokio::net::lookup_host((at.host.as_str(), at.port.get()))).await;
    let no_name = |detail: String| failed(at, Layer::Name, Cause::NoSuchName { detail });
    let addresses: Vec<_> = match found {
        Err(_) => return Err(late(at, Layer::Name, limit)),
        Ok(Err(error)) => return Err(no_name(printable::line(error.to_string().as_bytes(), 200))),
        Ok(Ok(addresses)) => addresses.collect(),
    };
    if addresses.is_empty() { Err(no_name("it has no address".to_owned())) } else { Ok(addresses) }
}

/// Tries the addresses in turn, each with its share of the time, and answers with the last failure.
async fn dial(at: &Endpoint, addresses: &[SocketAddr], limit: Duration) -> Result<TcpStream, SshError> {
    let share = limit / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let mut last = late(at, Layer::Tcp, limit);
    for address in addresses {
        match timeout(share, TcpStream::connect(address)).await {
            Err(_) => last = late(at, Layer::Tcp, share),
            Ok(Err(error)) => last = failed(at, Layer::Tcp, tcp_cause(&error)),
            Ok(Ok(socket)) => {
                tune(&socket).map_err(|error| failed(at, Layer::Tcp, tcp_cause(&error)))?;
                return Ok(socket);
            }
        }
    }
    Err(last)
}

/// Without `nodelay` every exec waits 42 ms for Nagle's algorithm.
fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    SockRef::from(socket).set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))
}

fn tcp_cause(error: &io::Error) -> Cause {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => Cause::Refused,
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::PermissionDenied | Kind::TimedOut => {
            Cause::NoRoute { detail: error.to_string() }
        }
        _ => Cause::Broken { detail: error.to_string() },
    }
}

/// Sends our identification and waits for the server's. Ours goes first: an HTTP server answers to it with an
/// error that names it, and says nothing otherwise.
async fn greet(
    at: &Endpoint,
    mut socket: TcpStream,
    limit: Duration,
    kill: CancellationToken,
) -> Result<(Wire, String), SshError> {
    let mut received = BytesMut::new();
    let outcome = timeout(limit, hear_greeting(&mut socket, &mut received)).await;
    let said = printable::line(&received, 120);
    let cause = match outcome {
        Ok(Ok((from, id))) => {
            let replay = Bytes::from(received).slice(from..);
            return Ok((Wire::new(socket, replay, CLIENT_ID.len() + 2, kill), id));
        }
        Err(_) if received.is_empty() => return Err(late(at, Layer::Banner, limit)),
        Err(_) => Cause::NotSsh { said },
        Ok(Err(NoBanner::Other)) => Cause::NotSsh { said },
        Ok(Err(NoBanner::HungUp)) => Cause::HungUp { said },
        Ok(Err(NoBanner::Io(error))) if error.kind() == io::ErrorKind::ConnectionReset => {
            Cause::HungUp { said }
        }
        Ok(Err(NoBanner::Io(error))) => Cause::Broken { detail: error.to_string() },
    };
    Err(failed(at, Layer::Banner, cause))
}

enum NoBanner {
    Other,
    HungUp,
    Io(io::Error),
}

/// Where in `received` the identification line begins, and its text.
async fn hear_greeting(socket: &mut TcpStream, received: &mut BytesMut) -> Result<(usize, String), NoBanner> {
    socket.write_all(format!("{CLIENT_ID}\r\n").as_bytes()).await.map_err(NoBanner::Io)?;
    loop {
        match greeting(received) {
            Greeting::Ssh2 { from, id } => return Ok((from, id)),
            Greeting::Other => return Err(NoBanner::Other),
            Greeting::NotYet => {}
        }
        if socket.read_buf(received).await.map_err(NoBanner::Io)? == 0 {
            return Err(NoBanner::HungUp);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Greeting {
    NotYet,
    Ssh2 { from: usize, id: String },
    Other,
}

/// Source: RFC 4253, section 4.2 (other lines may come first) and 5.1 (`SSH-1.99-` speaks SSH 2 too).
fn greeting(received: &[u8]) -> Greeting {
    let mut from = 0;
    for line in received.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b"HTTP/") || (line.starts_with(b"SSH-1.") && !line.starts_with(b"SSH-1.99-")) {
            return Greeting::Other;
        }
        let complete = line.ends_with(b"\n");
        if complete && (line.starts_with(b"SSH-2.0-") || line.starts_with(b"SSH-1.99-")) {
            return Greeting::Ssh2 { from, id: printable::line(line, 255) };
        }
        if complete {
            from += line.len();
        }
    }
    if received.len() > MAX_GREETING_BYTES { Greeting::Other } else { Greeting::NotYet }
}

async fn exchange_keys(
    at: &Endpoint,
    target: &Target,
    wire: Wire,
) -> Result<(Handle<Gatekeeper>, Observed), SshError> {
    let (gatekeeper, observed) = Gatekeeper::new(target.pinned.clone());
    let config = Arc::new(config(target.pinned.as_ref()));
    let limit = target.connect_timeout;
    match timeout(limit, client::connect_stream(config, wire, gatekeeper)).await {
        Ok(Ok(handle)) => Ok((handle, observed)),
        Ok(Err(error)) => Err(exchange_error(at, target.pinned.as_ref(), &observed, &error)),
        Err(_) => Err(late(at, Layer::KeyExchange, limit)),
    }
}

fn config(pinned: Option<&HostKey>) -> client::Config {
    let hours = rand::rng().random_range(REKEY_HOURS);
    client::Config {
        client_id: SshId::Standard(Cow::Borrowed(CLIENT_ID)),
        limits: Limits::new(REKEY_BYTES, REKEY_BYTES, Duration::from_secs_f64(hours * 3600.0)),
        keepalive_interval: Some(KEEPALIVE_INTERVAL),
        keepalive_max: KEEPALIVE_MISSES,
        inactivity_timeout: Some(INACTIVITY),
        maximum_packet_size: MAX_PACKET_BYTES,
        preferred: Preferred {
            key: Cow::Owned(HostKey::algorithms_first(pinned, KNOWN_ALGORITHMS)),
            cipher: Cow::Borrowed(if has_aes() { AES_FIRST } else { CHACHA_FIRST }),
            ..Preferred::DEFAULT
        },
        ..client::Config::default()
    }
}

const AES_FIRST: &[cipher::Name] = &[
    cipher::AES_128_GCM,
    cipher::AES_256_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];
const CHACHA_FIRST: &[cipher::Name] = &[
    cipher::CHACHA20_POLY1305,
    cipher::AES_128_GCM,
    cipher::AES_256_GCM,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

fn exchange_error(
    at: &Endpoint,
    pinned: Option<&HostKey>,
    observed: &Observed,
    error: &russh::Error,
) -> SshError {
    if let Some(seen) = observed.host_key.get() {
        let (at, seen) = (Box::new(at.clone()), Box::new(seen.clone()));
        match (judge_host_key(pinned, &seen), pinned) {
            (Verdict::Changed, Some(pinned)) => {
                return SshError::HostKeyChanged { at, pinned: Box::new(pinned.clone()), seen };
            }
            (Verdict::Unknown, _) => return SshError::HostKeyUnknown { at, seen },
            _ => {}
        }
    }
    let cause = match error {
        russh::Error::NoCommonAlgo { kind, theirs, .. } => Cause::NoCommonAlgorithm {
            kind: kind_name(kind).to_owned(),
            offered: printable::line(theirs.join(", ").as_bytes(), 300),
        },
        russh::Error::Disconnect | russh::Error::HUP => {
            Cause::HungUp { said: observed.reason.get().cloned().unwrap_or_default() }
        }
        russh::Error::IO(error)
            if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) =>
        {
            Cause::HungUp { said: String::new() }
        }
        other => Cause::Broken { detail: printable::line(other.to_string().as_bytes(), 200) },
    };
    failed(at, Layer::KeyExchange, cause)
}

const fn kind_name(kind: &AlgorithmKind) -> &'static str {
    match kind {
        AlgorithmKind::Kex => "key exchange",
        AlgorithmKind::Key => "host key",
        AlgorithmKind::Cipher => "cipher",
        AlgorithmKind::Compression => "compression",
        AlgorithmKind::Mac => "message authentication",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identification_is_found_after_other_lines_and_in_pieces() {
        let whole = b"Welcome\r\nSSH-2.0-OpenSSH_9.2p1 Debian\r\nkex";
        let id = "SSH-2.0-OpenSSH_9.2p1 Debian".to_owned();
        assert_eq!(greeting(whole), Greeting::Ssh2 { from: 9, id });
        for end in 0..38 {
            assert_eq!(greeting(&whole[..end]), Greeting::NotYet, "{end} bytes");
        }
    }

    #[test]
    fn other_protocols_and_endless_greetings_are_not_ssh() {
        assert_eq!(greeting(b"HTTP/1.1 400 Bad Request\r\n"), Greeting::Other);
        assert_eq!(greeting(b"SSH-1.5-old\r\n"), Greeting::Other);
        assert_eq!(greeting(&vec![b'x'; MAX_GREETING_BYTES + 1]), Greeting::Other);
        assert_eq!(greeting(&b"\n".repeat(MAX_GREETING_BYTES + 1)), Greeting::Other);
        assert_eq!(greeting(b"220 mail ESMTP\r\n"), Greeting::NotYet);
    }
}
