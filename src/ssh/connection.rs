//! One authenticated connection, shared by everything that runs on a server.
//!
//! Owns the channel budget and the kill switch. What runs over it is in [`exec`](super::exec) and
//! [`stream`](super::stream); whether there is to be another is for [`session`](super::session) to say.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use russh::Disconnect;
use russh::client::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::algorithms::Algorithms;
use super::error::{Endpoint, SshError};
use super::handler::{Gatekeeper, Observed};
use super::hostkey::HostKey;
use super::remote::Marker;

/// Channels open at once on a connection. OpenSSH allows 10 (MaxSessions); slots there become free a little late, and
/// [`RESCUES`] more are for ending commands.
pub const MAX_CHANNELS: usize = 8;
/// Commands at once. The rest of the budget is for long-lived channels, so that readings never wait for commands.
const MAX_COMMANDS: usize = 6;
/// Channels beyond the budget, for ending commands on a connection that is full.
const RESCUES: usize = 2;

/// The library keeps about 3.4 KB for each channel that was closed from this side, until the connection ends.
const MAX_LOCAL_CLOSES: u32 = 1000;

/// How long a polite goodbye may take before the socket is cut.
const GOODBYE: Duration = Duration::from_secs(2);

/// A handle of a connection; clones are the same connection. When the last is gone, so is the connection.
#[derive(Clone)]
pub struct Connection(Arc<Shared>);

pub(super) struct Shared {
    pub(super) handle: Handle<Gatekeeper>,
    pub(super) at: Endpoint,
    pub(super) marker: Marker,
    observed: Observed,
    kill: CancellationToken,
    server_id: String,
    channels: Arc<Semaphore>,
    commands: Arc<Semaphore>,
    pub(super) rescue: Arc<Semaphore>,
    /// Key exchanges and logins under way with servers behind this one.
    pub(super) handshakes: Arc<Semaphore>,
    local_closes: AtomicU32,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("at", &self.0.at).field("closed", &self.is_closed()).finish()
    }
}

impl Connection {
    pub(super) fn new(
        handle: Handle<Gatekeeper>,
        observed: Observed,
        at: Endpoint,
        kill: CancellationToken,
        server_id: String,
    ) -> Self {
        Self(Arc::new(Shared {
            handle,
            at,
            marker: Marker::random(&server_id),
            observed,
            kill,
            server_id,
            channels: Arc::new(Semaphore::new(MAX_CHANNELS)),
            commands: Arc::new(Semaphore::new(MAX_COMMANDS)),
            rescue: Arc::new(Semaphore::new(RESCUES)),
            handshakes: Arc::new(Semaphore::new(super::jump::MAX_HANDSHAKES)),
            local_closes: AtomicU32::new(0),
        }))
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }

    /// How the server's SSH daemon names itself, for a person: `SSH-2.0-OpenSSH_9.2p1`.
    #[must_use]
    pub fn server_id(&self) -> &str {
        &self.0.server_id
    }

    /// The host key that the server proved to have; it is the pinned one.
    #[must_use]
    pub fn host_key(&self) -> Option<&HostKey> {
        self.0.observed.host_key.get()
    }

    /// What both sides agreed on in the first key exchange.
    #[must_use]
    pub fn algorithms(&self) -> Algorithms {
        self.0.observed.negotiated.get().map(super::algorithms::Negotiated::names).unwrap_or_default()
    }

    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.observed.ended.is_cancelled() || self.0.kill.is_cancelled()
    }

    /// Waits until the connection has ended, from whichever side.
    pub async fn closed(&self) {
        tokio::select! {
            () = self.0.observed.ended.cancelled() => {}
            () = self.0.kill.cancelled() => {}
        }
    }

    /// The kill switch: reads and writes fail at once, also those that wait for a frozen server.
    pub fn kill(&self) {
        self.0.kill.cancel();
    }

    /// Says goodbye, waits a moment for the end, then cuts the socket.
    pub async fn close(&self) {
        let goodbye = async {
            let said = self.0.handle.disconnect(Disconnect::ByApplication, "", "").await;
            if said.is_ok() {
                self.0.observed.ended.cancelled().await;
            }
        };
        let _in_time = timeout(GOODBYE, goodbye).await;
        self.kill();
    }

    /// Whether so many channels were closed from this side that a new connection would be cheaper to keep.
    #[must_use]
    pub fn is_worn(&self) -> bool {
        self.0.local_closes.load(Ordering::Relaxed) >= MAX_LOCAL_CLOSES
    }

    pub(super) fn count_local_close(&self) {
        self.0.local_closes.fetch_add(1, Ordering::Relaxed);
    }

    /// Why it is closed, as an error.
    pub(super) fn lost(&self) -> SshError {
        SshError::Closed { at: Box::new(self.0.at.clone()), cause: self.why_closed() }
    }

    pub(super) fn why_closed(&self) -> String {
        match self.0.observed.reason.get() {
            Some(reason) if !reason.is_empty() => reason.clone(),
            _ if self.0.kill.is_cancelled() => "it was cut off from this side".to_owned(),
            _ => "the server closed it".to_owned(),
        }
    }

    /// Waits for its turn, first come first served.
    pub(super) async fn command_slot(&self) -> Result<OwnedSemaphorePermit, SshError> {
        self.slot(&self.0.commands).await
    }

    pub(super) async fn channel_slot(&self) -> Result<OwnedSemaphorePermit, SshError> {
        self.slot(&self.0.channels).await
    }

    /// Whether the channel that asks is the only one of the budget.
    pub(super) fn has_one_channel(&self) -> bool {
        self.0.channels.available_permits() + 1 >= MAX_CHANNELS
    }

    async fn slot(&self, semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, SshError> {
        tokio::select! {
            slot = Arc::clone(semaphore).acquire_owned() => slot.map_err(|_| self.lost()),
            () = self.closed() => Err(self.lost()),
        }
    }
}
