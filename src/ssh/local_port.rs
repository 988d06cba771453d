//! A port of the server's own loopback, reached over the connection that is there already.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Connection;
use super::error::{Endpoint, SshError};
use super::jump::Tunnel;
use super::way::Hop;
use crate::model::Port;

/// A program on the server's loopback accepts at once.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// The bytes of one connection to such a port. Dropping it ends it.
pub struct LocalPort(Tunnel);

impl fmt::Debug for LocalPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalPort")
    }
}

impl Connection {
    /// Connects to this port of the server's 127.0.0.1. `name` is how a person knows the server.
    ///
    /// # Errors
    /// [`SshError::Unreachable`] where nothing listens or the server forwards no ports; [`SshError::TimedOut`],
    /// [`SshError::OnTheWay`]. The connection itself is as it was.
    pub async fn open_local_port(&self, name: &str, port: Port) -> Result<LocalPort, SshError> {
        let at = Endpoint { user: "root".to_owned(), host: "127.0.0.1".to_owned(), port };
        let tunnel = self.open_tcp(&Hop::Server(name.to_owned()), &at, OPEN_LIMIT).await?;
        Ok(LocalPort(tunnel))
    }
}

impl AsyncRead for LocalPort {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for LocalPort {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
