//! From a target to a connection: name, TCP, banner, key exchange, host key, authentication.
//!
//! Each step has a time limit of its own, because the library has none. Nothing that is secret is sent before the
//! host key is the pinned one. Never retries and never paces: [`session`](super::session) does.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use russh::AlgorithmKind;
use russh::client::{self, Handle};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::model::Layer;

use super::banner::greet;
use super::connection::Connection;
use super::error::{Cause, Endpoint, SshError};
use super::handler::{Gatekeeper, Observed};
use super::hostkey::{HostKey, Verdict};
use super::target::{Proxy, Route, Target};
use super::way::{Hop, Refusal};
use super::wire::{Carrier, Kill, Wire};
use super::{auth, offer, printable, proxy};

/// How long sent data may stay unacknowledged before the kernel gives the connection up. Without it, retransmissions
/// go on for a quarter of an hour.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a key exchange and login may keep others from theirs. Both sides need some milliseconds of CPU; what takes longer is
/// the way there, or a server that stalls after its banner, and 64 such servers would hold up all others.
const TURN: Duration = Duration::from_millis(500);

/// A step on the way to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Leg {
    /// The jump host or the proxy.
    Route,
    Layer(Layer),
}

impl Leg {
    /// For who knows only layers: the way counts as the first.
    pub(super) const fn layer(self) -> Layer {
        match self {
            Self::Route => Layer::Name,
            Self::Layer(layer) => layer,
        }
    }
}

/// Connects and logs in. `progress` hears of each step as it begins.
///
/// # Errors
/// Every [`SshError`] that has a layer up to authentication. With `pinned: None` the result is
/// [`SshError::HostKeyUnknown`] with the key that was seen, unless one of `authorities` vouches for the host, and no
/// credential has been sent.
pub async fn connect(
    target: &Target,
    progress: &mut (dyn FnMut(Layer) + Send),
) -> Result<Connection, SshError> {
    let mut legs = |leg| match leg {
        Leg::Route => {}
        Leg::Layer(layer) => progress(layer),
    };
    connect_through(None, target, &mut legs).await
}

/// As [`connect`]; key exchange and login wait for a permit of `gate`. What comes before costs next to nothing and is where
/// dead servers stay: a gate around it would let them hold up the living.
pub(super) async fn connect_through(
    gate: Option<&Semaphore>,
    target: &Target,
    progress: &mut (dyn FnMut(Leg) + Send),
) -> Result<Connection, SshError> {
    let certificates = !target.authorities.is_empty();
    let mut furthest = None;
    let mut once = |leg: Leg| {
        if furthest.is_none_or(|furthest| leg > furthest) {
            furthest = Some(leg);
            progress(leg);
        }
    };
    let error = match Box::pin(attempt(gate, target, certificates, &mut once)).await {
        Ok(connection) => return Ok(connection),
        Err(error) => error,
    };
    // A server shows its certificate rather than its plain keys, where it has one and we ask. The pinned key may be among those.
    let pinned_may_be_hidden =
        matches!(error, SshError::HostKeyChanged { .. } | SshError::HostCertificateRefused { .. });
    if certificates && target.pinned.is_some() && pinned_may_be_hidden {
        return Box::pin(attempt(gate, target, false, &mut once)).await;
    }
    Err(error)
}

async fn attempt(
    gate: Option<&Semaphore>,
    target: &Target,
    certificates: bool,
    progress: &mut (dyn FnMut(Leg) + Send),
) -> Result<Connection, SshError> {
    let at = target.endpoint();
    let limit = target.connect_timeout;
    let Way { carrier, received, jump } = reach(target, &at, progress).await?;
    progress(Leg::Layer(Layer::Banner));
    // Dropping this future must not leave the library's task behind, waiting for a frozen peer.
    let kill = Kill::default();
    let (wire, server_id) = greet(&at, carrier, received, limit, &kill).await?;
    let behind = jump.as_ref().map(|jump| &*jump.shared().handshakes);
    let work = async {
        progress(Leg::Layer(Layer::KeyExchange));
        let (mut handle, observed) = exchange_keys(&at, target, certificates, wire).await?;
        progress(Leg::Layer(Layer::HostKey));
        progress(Leg::Layer(Layer::Authentication));
        let login = auth::log_in(&mut handle, &observed, target);
        match timeout(limit * 2, Box::pin(login)).await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(late(&at, Layer::Authentication, limit * 2)),
        }
        Ok((handle, observed))
    };
    let (handle, observed) = in_turn([behind, gate], Box::pin(work)).await?;
    Ok(Connection::new(handle, observed, at, kill, server_id))
}

/// Waits for a permit of each gate, in this order, and gives them back when the work is done or its turn is over.
async fn in_turn<T>(gates: [Option<&Semaphore>; 2], mut work: impl Future<Output = T> + Unpin) -> T {
    let mut permits = Vec::new();
    for gate in gates.into_iter().flatten() {
        // A closed gate means that everything is stopping, which ends this future as well.
        permits.extend(gate.acquire().await.ok());
    }
    match timeout(TURN, &mut work).await {
        Ok(done) => done,
        Err(_) => {
            drop(permits);
            work.await
        }
    }
}

/// A stream to a server, before its first word was looked at.
struct Way {
    carrier: Carrier,
    /// What the server said already.
    received: BytesMut,
    /// The connection that it runs over.
    jump: Option<Connection>,
}

async fn reach(
    target: &Target,
    at: &Endpoint,
    progress: &mut (dyn FnMut(Leg) + Send),
) -> Result<Way, SshError> {
    let limit = target.connect_timeout;
    match &target.route {
        Route::Direct => {
            progress(Leg::Layer(Layer::Name));
            let addresses = resolve(at, limit).await?;
            progress(Leg::Layer(Layer::Tcp));
            let socket = dial(at, &addresses, limit).await?;
            Ok(Way { carrier: Carrier::Tcp(socket), received: BytesMut::new(), jump: None })
        }
        Route::Proxy(proxy) => {
            progress(Leg::Route);
            let hop = Hop::Proxy(proxy.address());
            let socket = dial_proxy(proxy, limit).await.map_err(|error| on_the_way(&hop, error))?;
            let (socket, received) = through_proxy(socket, proxy, &hop, at, limit).await?;
            progress(Leg::Layer(Layer::Name));
            progress(Leg::Layer(Layer::Tcp));
            Ok(Way { carrier: Carrier::Tcp(socket), received, jump: None })
        }
        Route::Jump(host) => {
            progress(Leg::Route);
            let hop = Hop::JumpHost(printable::line(host.name().as_bytes(), 100));
            let jump = host.connection().await.map_err(|error| on_the_way(&hop, error))?;
            progress(Leg::Layer(Layer::Name));
            progress(Leg::Layer(Layer::Tcp));
            let tunnel = jump.open_tcp(&hop, at, limit).await?;
            Ok(Way { carrier: Carrier::Tunnel(tunnel), received: BytesMut::new(), jump: Some(jump) })
        }
    }
}

/// With several hops, the error that names the one that failed stays as it is.
fn on_the_way(hop: &Hop, error: SshError) -> SshError {
    if error.hop().is_some() {
        error
    } else {
        SshError::OnTheWay { hop: hop.clone(), error: Box::new(error) }
    }
}

async fn dial_proxy(proxy: &Proxy, limit: Duration) -> Result<TcpStream, SshError> {
    let at = proxy.endpoint();
    let addresses = resolve(&at, limit).await?;
    dial(&at, &addresses, limit).await
}

async fn through_proxy(
    mut socket: TcpStream,
    proxy: &Proxy,
    hop: &Hop,
    at: &Endpoint,
    limit: Duration,
) -> Result<(TcpStream, BytesMut), SshError> {
    let answer = timeout(limit, proxy::ask(&mut socket, proxy, at)).await;
    let refusal = match answer {
        Ok(Ok(received)) => return Ok((socket, received)),
        Ok(Err(refusal)) => refusal,
        Err(_) => Refusal::Silent,
    };
    Err(if refusal.is_about_the_hop() {
        SshError::HopRefuses { hop: hop.clone(), refusal }
    } else {
        let layer = if refusal == Refusal::NoSuchName { Layer::Name } else { Layer::Tcp };
        failed(at, layer, Cause::Relay { by: hop.clone(), refusal })
    })
}

pub(super) fn late(at: &Endpoint, layer: Layer, after: Duration) -> SshError {
    let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    SshError::TimedOut { at: Box::new(at.clone()), layer, after_ms }
}

pub(super) fn failed(at: &Endpoint, layer: Layer, cause: Cause) -> SshError {
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

async fn exchange_keys(
    at: &Endpoint,
    target: &Target,
    certificates: bool,
    wire: Wire,
) -> Result<(Handle<Gatekeeper>, Observed), SshError> {
    let (gatekeeper, observed) = Gatekeeper::new(target, Arc::clone(wire.ride()));
    let config = Arc::new(offer::config(target.pinned.as_ref(), certificates));
    let limit = target.connect_timeout;
    match timeout(limit, client::connect_stream(config, wire, gatekeeper)).await {
        Ok(Ok(handle)) => Ok((handle, observed)),
        Ok(Err(error)) => Err(exchange_error(at, target.pinned.as_ref(), &observed, &error)),
        Err(_) => Err(late(at, Layer::KeyExchange, limit)),
    }
}

fn exchange_error(
    at: &Endpoint,
    pinned: Option<&HostKey>,
    observed: &Observed,
    error: &russh::Error,
) -> SshError {
    if let (Some(seen), Some(verdict)) = (observed.host_key.get(), observed.verdict.get()) {
        let (at, seen) = (Box::new(at.clone()), Box::new(seen.clone()));
        match (verdict, pinned) {
            (Verdict::Changed, Some(pinned)) => {
                return SshError::HostKeyChanged { at, pinned: Box::new(pinned.clone()), seen };
            }
            (Verdict::Unknown, _) => return SshError::HostKeyUnknown { at, seen },
            (Verdict::Revoked, _) => return SshError::HostKeyRevoked { at, seen },
            (Verdict::CertificateRefused(problem), _) => {
                return SshError::HostCertificateRefused { at, seen, problem: Box::new(problem.clone()) };
            }
            (Verdict::Trusted | Verdict::Changed, _) => {}
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

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_long_gives_its_permits_back_and_goes_on() {
        let (behind, gate) = (Semaphore::new(1), Semaphore::new(1));
        let (finish, finished) = tokio::sync::oneshot::channel();
        let mut slow = Box::pin(in_turn([Some(&behind), Some(&gate)], Box::pin(finished)));
        assert!(timeout(TURN / 2, &mut slow).await.is_err());
        assert_eq!((behind.available_permits(), gate.available_permits()), (0, 0));
        let quick = in_turn([None, Some(&gate)], Box::pin(async { "done" }));
        assert_eq!(tokio::join!(timeout(TURN * 2, quick), timeout(TURN, &mut slow)).0, Ok("done"));
        assert_eq!((behind.available_permits(), gate.available_permits()), (1, 1));
        finish.send(()).unwrap();
        assert_eq!(slow.await, Ok(()));
    }
}
