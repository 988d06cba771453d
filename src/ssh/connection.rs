//! One authenticated connection, shared by everything that runs on a server.
//!
//! Owns the way to a place in the channel budget, and the kill switch. What runs over it is in [`exec`](super::exec) and
//! [`stream`](super::stream); whether there is to be another is for [`session`](super::session) to say.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::Disconnect;
use russh::client::Handle;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::algorithms::Algorithms;
use super::budget::{Budget, Learned, Place, Use};
use super::error::{Endpoint, SshError};
use super::handler::{Gatekeeper, Observed};
use super::hostkey::HostKey;
use super::remote::{Ending, LoginNoise, Marker};
use super::spare::Spare;
use super::wire::Kill;

/// How long a command waits while what stays open holds every channel that the server allows. Readings give way within
/// a reading's time.
const SHUT_OUT_LIMIT: Duration = Duration::from_secs(20);
/// How long the end of a command waits for a channel; readings give way for it.
const RESCUE_LIMIT: Duration = Duration::from_secs(3);
/// Commands that could not be ended on this connection; each connection that is full of commands has few.
const MAX_UNENDED: usize = 16;

/// The library keeps about 3.4 KB for each channel that was closed from this side, until the connection ends.
const MAX_LOCAL_CLOSES: u32 = 1000;

/// How long a polite goodbye may take before the socket is cut.
const GOODBYE: Duration = Duration::from_secs(2);

/// A handle of a connection; clones are the same connection. When the last is gone, so is the connection.
#[derive(Clone)]
pub struct Connection(Arc<Shared>);

pub(super) struct Shared {
    /// Before the handle, whose end would wait for a frozen server.
    kill: Kill,
    pub(super) handle: Handle<Gatekeeper>,
    pub(super) at: Endpoint,
    pub(super) marker: Marker,
    pub(super) observed: Observed,
    server_id: String,
    budget: Arc<Budget>,
    /// Key exchanges and logins under way with servers behind this one.
    pub(super) handshakes: Arc<Semaphore>,
    /// Commands that run on although they were to end: the server allows no channel to end them with.
    unended: Mutex<Vec<Ending>>,
    local_closes: AtomicU32,
    runs: AtomicU32,
    pub(super) spare: Spare,
    pub(super) login_noise: LoginNoise,
}

impl Shared {
    pub(super) fn count_local_close(&self) {
        self.local_closes.fetch_add(1, Ordering::Relaxed);
    }

    /// A number for one command of this connection.
    pub(super) fn next_run(&self) -> u32 {
        self.runs.fetch_add(1, Ordering::Relaxed)
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
        kill: Kill,
        server_id: String,
    ) -> Self {
        Self(Arc::new(Shared {
            handle,
            at,
            marker: Marker::random(&server_id),
            observed,
            kill,
            server_id,
            budget: Budget::new(),
            handshakes: Arc::new(Semaphore::new(super::jump::MAX_HANDSHAKES)),
            unended: Mutex::default(),
            local_closes: AtomicU32::new(0),
            runs: AtomicU32::new(0),
            spare: Spare::default(),
            login_noise: LoginNoise::default(),
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
        self.0.observed.ended.is_cancelled() || self.0.kill.is_cut()
    }

    /// Waits until the connection has ended, from whichever side.
    pub async fn closed(&self) {
        tokio::select! {
            () = self.0.observed.ended.cancelled() => {}
            () = self.0.kill.is_used() => {}
        }
    }

    /// The kill switch: reads and writes fail at once, also those that wait for a frozen server.
    pub fn kill(&self) {
        self.0.kill.cut();
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
        self.0.count_local_close();
    }

    /// Whether the server allows many more channels than are open, so that one that is not needed yet is no harm.
    pub(super) fn has_many_channels_left(&self) -> bool {
        self.0.budget.has_many_left()
    }

    /// Why it is closed, as an error.
    pub(super) fn lost(&self) -> SshError {
        SshError::Closed { at: Box::new(self.0.at.clone()), cause: self.why_closed() }
    }

    pub(super) fn why_closed(&self) -> String {
        match self.0.observed.reason.get() {
            Some(reason) if !reason.is_empty() => reason.clone(),
            _ if self.0.kill.is_cut() => "it was cut off from this side".to_owned(),
            _ => "the server closed it".to_owned(),
        }
    }

    /// How many channels at once the server is believed to allow; lower than [`MAX_CHANNELS`](super::MAX_CHANNELS) when
    /// it has refused one.
    #[must_use]
    pub fn channels_allowed(&self) -> usize {
        self.0.budget.cap()
    }

    /// Waits until a command can only run when the channel of the readings gives way: the server allows too few. Whoever
    /// reads closes its stream then, between two readings, and asks for another when the next reading is due.
    pub async fn readings_are_to_give_way(&self) {
        self.0.budget.readings_are_to_give_way().await;
    }

    pub(super) fn learned(&self) -> Option<Learned> {
        self.0.budget.learned()
    }

    /// What an earlier connection to the same server has learned.
    pub(super) fn remember(&self, learned: Learned) {
        self.0.budget.remember(learned);
    }

    /// Waits for a place. `first`: it had one, and the server refused the channel.
    pub(super) async fn place(&self, kind: Use, first: bool) -> Result<Place, SshError> {
        let mut waiting = self.0.budget.queue(kind, first);
        if let Ok(place) = waiting.try_recv() {
            return if self.is_closed() { Err(self.lost()) } else { Ok(place) };
        }
        loop {
            let begun = self.0.budget.commands_begun();
            tokio::select! {
                place = &mut waiting => return place.map_err(|_| self.lost()),
                () = self.closed() => return Err(self.lost()),
                () = sleep(RESCUE_LIMIT), if kind == Use::Rescue => return Err(self.shut_out()),
                () = sleep(SHUT_OUT_LIMIT), if matches!(kind, Use::Command(_)) => {
                    if self.0.budget.commands_are_shut_out() && self.0.budget.commands_begun() == begun {
                        return Err(self.shut_out());
                    }
                }
            }
        }
    }

    fn shut_out(&self) -> SshError {
        let cause = match self.channels_allowed() {
            1 => {
                "MaxSessions is 1 there, and another use of this connection holds the one channel".to_owned()
            }
            cap => format!("it allows {cap} at once, and all are held by what stays open"),
        };
        SshError::ChannelRefused { at: Box::new(self.0.at.clone()), cause }
    }

    /// Gives the connection up for the sake of a command that only a new one can end.
    pub(super) fn end_elsewhere(&self, ending: Ending) {
        {
            let mut unended = self.0.unended.lock().unwrap_or_else(PoisonError::into_inner);
            if unended.len() < MAX_UNENDED {
                unended.push(ending);
            }
        }
        self.kill();
    }

    /// What [`Self::end_elsewhere`] left.
    pub(super) fn take_unended(&self) -> Vec<Ending> {
        std::mem::take(&mut self.0.unended.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
