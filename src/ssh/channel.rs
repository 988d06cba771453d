//! One channel with one command: opened whole, always read to its end, ended together with what it runs.
//!
//! The library's traps are kept in here. A channel that nobody reads blocks the whole connection, keepalives
//! included; a cancelled opening leaks a slot on the server; a dropped channel tells the server nothing; a closed one
//! leaves the command running.

use std::time::Duration;

use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Error};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::model::Layer;

use super::connection::Connection;
use super::error::SshError;
use super::remote;

/// A server that needs longer to open a channel does not answer; refusals are retried within it.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// Slots become free on the server a moment after a channel has ended.
const REFUSAL_PAUSE: Duration = Duration::from_millis(50);
const REFUSAL_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long refusals are believed to be late slots when no other channel of ours is open.
const REFUSED_ALONE_LIMIT: Duration = Duration::from_secs(2);
/// TERM, two seconds, KILL, and the way there and back.
const END_LIMIT: Duration = Duration::from_secs(5);

/// An open channel on which a command was started.
pub(super) struct Running {
    pub(super) read: ChannelReadHalf,
    pub(super) write: ChannelWriteHalf<Msg>,
    connection: Connection,
    /// None for the rescue channel, which is beyond the budget.
    _slot: Option<OwnedSemaphorePermit>,
}

impl Running {
    /// Opens a channel within the budget and starts `line` on it. Call this from a task that is not cancelled.
    pub(super) async fn start(connection: &Connection, line: String) -> Result<Self, SshError> {
        let slot = connection.channel_slot().await?;
        Self::start_with(connection, line, Some(slot)).await
    }

    async fn start_with(
        connection: &Connection,
        line: String,
        slot: Option<OwnedSemaphorePermit>,
    ) -> Result<Self, SshError> {
        let deadline = Instant::now() + OPEN_LIMIT;
        let channel = open(connection, deadline).await?;
        let (read, write) = channel.split();
        let running = Self { read, write, connection: connection.clone(), _slot: slot };
        match timeout_at(deadline, running.write.exec(true, line)).await {
            Ok(Ok(())) => Ok(running),
            Ok(Err(_)) => Err(connection.lost()),
            Err(_) => {
                running.close_from_here().await;
                Err(late(connection))
            }
        }
    }

    /// Ends the command, then reads until the server closes the channel. Where it does not, or where the process id is not
    /// known, closes the channel from here.
    pub(super) async fn end(mut self, pid: Option<u32>) {
        let patience = match pid {
            Some(pid) => {
                tokio::spawn(end_group(self.connection.clone(), pid));
                END_LIMIT
            }
            None => Duration::ZERO,
        };
        if !self.drain(patience).await {
            self.close_from_here().await;
        }
    }

    /// Says that no more input comes and gives the command time to end by itself, then ends it.
    pub(super) async fn end_politely(mut self, pid: Option<u32>, patience: Duration) {
        let _lost_is_seen_below = timeout(patience, self.write.eof()).await;
        if !self.drain(patience).await {
            self.end(pid).await;
        }
    }

    /// Whether the channel ended within `limit`; what it still said is dropped.
    async fn drain(&mut self, limit: Duration) -> bool {
        let to_the_end = async {
            while let Some(message) = self.read.wait().await {
                if matches!(message, ChannelMsg::Close) {
                    break;
                }
            }
        };
        timeout(limit, to_the_end).await.is_ok()
    }

    /// Leaves the command as it is and closes the channel; the server may keep the slot for a moment.
    pub(super) async fn close_from_here(self) {
        self.connection.count_local_close();
        let _lost_is_as_good = timeout(END_LIMIT, self.write.close()).await;
    }
}

/// Opens a channel, trying again while the server refuses.
async fn open(connection: &Connection, deadline: Instant) -> Result<Channel<Msg>, SshError> {
    let mut pause = REFUSAL_PAUSE;
    let alone_until = Instant::now() + REFUSED_ALONE_LIMIT;
    loop {
        let shared = std::sync::Arc::clone(connection.shared());
        let mut opening = Box::pin(async move { shared.handle.channel_open_session().await });
        match timeout_at(deadline, &mut opening).await {
            Ok(Ok(channel)) => return Ok(channel),
            Ok(Err(Error::ChannelOpenFailure(reason))) => {
                let give_up = if connection.has_one_channel() { alone_until } else { deadline };
                if Instant::now() + pause >= give_up {
                    let cause = super::printable::line(format!("{reason:?}").as_bytes(), 200);
                    return Err(SshError::ChannelRefused {
                        at: Box::new(connection.shared().at.clone()),
                        cause,
                    });
                }
                sleep(pause).await;
                pause = (pause * 2).min(REFUSAL_PAUSE_MAX);
            }
            Ok(Err(_)) => return Err(connection.lost()),
            Err(_) => {
                // Let it finish: an opening that nobody waits for would keep its slot for ever.
                tokio::spawn(async move {
                    if let Ok(channel) = opening.await {
                        let _lost_is_as_good = channel.close().await;
                    }
                });
                return Err(late(connection));
            }
        }
    }
}

fn late(connection: &Connection) -> SshError {
    let after_ms = u64::try_from(OPEN_LIMIT.as_millis()).unwrap_or(u64::MAX);
    SshError::TimedOut { at: Box::new(connection.shared().at.clone()), layer: Layer::Channel, after_ms }
}

/// Ends a process group over a channel of its own.
async fn end_group(connection: Connection, pid: u32) {
    let Ok(_one_at_a_time) = std::sync::Arc::clone(&connection.shared().rescue).acquire_owned().await else {
        return;
    };
    match Running::start_with(&connection, remote::end_group(pid), None).await {
        Ok(mut running) => {
            if !running.drain(END_LIMIT).await {
                running.close_from_here().await;
            }
        }
        Err(error) => {
            tracing::warn!(server = %connection.shared().at, pid, %error, "a command could not be ended");
        }
    }
}
