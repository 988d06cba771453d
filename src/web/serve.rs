//! The accept loop: connections in, time limits and a ceiling on each, a polite end at shutdown.
//!
//! warp routes and extracts only: its own server has no limit on the time that a header may take.

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate as _, SizeAbove};
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::request::Peer;

/// Open connections at most; a page uses two or three.
const CONNECTIONS: usize = 1024;
/// Open connections on the control socket, apart from the others: whoever is on the machine gets in when browsers,
/// honest or not, have taken every place.
const CONTROL_CONNECTIONS: usize = 64;
/// Largest header of a request; browsers send a few kilobytes.
const HEADER_LIMIT_BYTES: usize = 64 * 1024;
/// A client that has not finished its header by then is stalled or hostile.
const HEADER_TIME_LIMIT: Duration = Duration::from_secs(10);
/// How long answers under way may take at shutdown.
const FAREWELL: Duration = Duration::from_secs(3);
/// After a failed accept (out of file handles) the loop pauses instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Smaller bodies gain nothing from compression.
const COMPRESS_ABOVE_BYTES: u64 = 1024;

/// Serves the site on every listener until `stop`, then lets answers under way finish.
pub async fn serve(
    site: BoxedFilter<(Response,)>,
    tcp: Vec<TcpListener>,
    control: UnixListener,
    stop: CancellationToken,
) {
    let server = Arc::new(Server {
        site,
        permits: Arc::new(Semaphore::new(CONNECTIONS)),
        control_permits: Arc::new(Semaphore::new(CONTROL_CONNECTIONS)),
        connections: TaskTracker::new(),
        stop: stop.clone(),
    });
    let mut loops = tokio::task::JoinSet::new();
    for listener in tcp {
        loops.spawn(accept_tcp(Arc::clone(&server), listener, stop.clone()));
    }
    loops.spawn(accept_control(Arc::clone(&server), control, stop.clone()));
    while loops.join_next().await.is_some() {}
    server.connections.close();
    if tokio::time::timeout(FAREWELL, server.connections.wait()).await.is_err() {
        tracing::info!("some browsers were still connected at the end");
    }
}

struct Server {
    site: BoxedFilter<(Response,)>,
    permits: Arc<Semaphore>,
    control_permits: Arc<Semaphore>,
    connections: TaskTracker,
    stop: CancellationToken,
}

async fn accept_tcp(server: Arc<Server>, listener: TcpListener, stop: CancellationToken) {
    loop {
        let Ok(permit) = Arc::clone(&server.permits).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "a browser's connection cannot be set to send at once");
                }
                server.connection(stream, Peer::Tcp(address), permit);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept_control(server: Arc<Server>, listener: UnixListener, stop: CancellationToken) {
    let owner = own_uid();
    loop {
        let Ok(permit) = Arc::clone(&server.control_permits).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a control connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match stream.peer_cred().map(|credentials| credentials.uid()) {
            Ok(uid) if uid == 0 || Some(uid) == owner => {
                server.connection(stream, Peer::Control { uid }, permit);
            }
            Ok(uid) => tracing::warn!(uid, "a control connection of another user was refused"),
            Err(error) => tracing::warn!(%error, "a control connection without credentials was refused"),
        }
    }
}

fn own_uid() -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").ok().map(|meta| meta.uid())
}

impl Server {
    fn connection<S>(&self, stream: S, peer: Peer, permit: tokio::sync::OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let compressible = SizeAbove::new(COMPRESS_ABOVE_BYTES)
            .and(NotForContentType::IMAGES)
            .and(NotForContentType::const_new("font/"));
        let site = tower::ServiceBuilder::new()
            .layer(CompressionLayer::new().compress_when(compressible))
            .service(warp::service(self.site.clone()));
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            let site = site.clone();
            async move { Ok::<_, Infallible>(site.oneshot(request).await.unwrap_or_else(|never| match never {})) }
        });
        // Without TLS no browser speaks HTTP/2, and hyper-util's telling it from HTTP/1 waits for the first bytes
        // without any limit.
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME_LIMIT)
            .max_buf_size(HEADER_LIMIT_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let stop = self.stop.clone();
        self.connections.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a browser's connection ended badly");
            }
            drop(permit);
        });
    }
}

/// Listens on the control socket: mode 0600, so that only the owner and root get as far as the credential check.
///
/// # Errors
/// The socket cannot be made at `path`.
pub fn listen_control(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
