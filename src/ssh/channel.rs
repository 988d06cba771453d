//! One channel with one command: opened whole, always read to its end, ended together with what it runs.
//!
//! The library's traps are kept in here. A channel that nobody reads blocks the whole connection, keepalives
//! included; a cancelled opening leaks a slot on the server; a dropped channel tells the server nothing; a closed one
//! leaves the command running.

use std::time::Duration;

use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Error};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::model::Layer;

use super::budget::{Place, Use};
use super::connection::Connection;
use super::error::SshError;
use super::remote::Ending;
use super::spare::Ahead;

/// A server that needs longer to open a channel does not answer; refusals are retried within it.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// Slots become free on the server a moment after a channel has ended.
const REFUSAL_PAUSE: Duration = Duration::from_millis(50);
const REFUSAL_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long refusals are believed to be late slots when no other channel of ours is open.
const REFUSED_ALONE_LIMIT: Duration = Duration::from_secs(2);
/// Refusals of one opening before they are taken for the server's limit: until then a slot may be late.
const REFUSALS_OF_A_LIMIT: u32 = 3;
/// Commands that were not begun, one after the other, before the server is believed to run none. dropbear sometimes closes
/// a channel that was opened while the command of another one was ending.
pub(super) const BEGINNINGS: u32 = 4;
/// TERM, two seconds, KILL, and the way there and back.
const END_LIMIT: Duration = Duration::from_secs(5);

/// An open channel on which a command was started.
pub(super) struct Running {
    pub(super) read: ChannelReadHalf,
    pub(super) write: ChannelWriteHalf<Msg>,
    /// The channel of the next command, where it was asked for together with this one's beginning.
    pub(super) ahead: Option<Ahead>,
    connection: Connection,
    _place: Place,
}

impl Running {
    /// Opens a channel within the budget and starts `line` on it. Call this from a task that is not cancelled; `stop` ends
    /// the wait for a place.
    pub(super) async fn start(
        connection: &Connection,
        line: String,
        kind: Use,
        stop: impl Future,
    ) -> Result<Self, SshError> {
        let mut first = false;
        let mut stop = std::pin::pin!(stop);
        loop {
            let mut place = tokio::select! {
                place = connection.place(kind, first) => place?,
                _ = &mut stop => return Err(connection.lost()),
            };
            let deadline = Instant::now() + OPEN_LIMIT;
            let Some(channel) = open(connection, deadline, &place).await? else {
                first = true;
                continue;
            };
            place.establish();
            let (read, write) = channel.split();
            let ahead = matches!(kind, Use::Command(_)).then(|| Ahead::begin(connection)).flatten();
            let running = Self { read, write, ahead, connection: connection.clone(), _place: place };
            let asked = timeout_at(deadline, running.write.exec(true, line)).await;
            return match asked {
                Ok(Ok(())) => Ok(running),
                Ok(Err(_)) => Err(connection.lost()),
                Err(_) => {
                    running.close_from_here().await;
                    Err(late(connection))
                }
            };
        }
    }

    /// Ends the command, then reads until the server closes the channel. Where it does not, or where the process id is not
    /// known (`None`), closes the channel from here.
    pub(super) async fn end(mut self, ending: Option<Ending>) {
        let patience = match ending {
            Some(ending) => {
                tokio::spawn(end_command(self.connection.clone(), ending));
                END_LIMIT
            }
            None => Duration::ZERO,
        };
        if !self.drain(patience).await {
            self.close_from_here().await;
        }
    }

    /// Says that no more input comes and gives the command time to end by itself, then ends it.
    pub(super) async fn end_politely(mut self, ending: Option<Ending>, patience: Duration) {
        let _lost_is_seen_below = timeout(patience, self.write.eof()).await;
        if !self.drain(patience).await {
            self.end(ending).await;
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

/// Opens a channel, trying again while the server refuses. None: its limit was learned, and the place is to be given back.
async fn open(
    connection: &Connection,
    deadline: Instant,
    place: &Place,
) -> Result<Option<Channel<Msg>>, SshError> {
    let mut pause = REFUSAL_PAUSE;
    let mut refusals = 0;
    let alone_until = Instant::now() + REFUSED_ALONE_LIMIT;
    loop {
        if let Some(channel) = connection.shared().spare.take() {
            return Ok(Some(channel));
        }
        let shared = std::sync::Arc::clone(connection.shared());
        let mut opening = Box::pin(async move { shared.handle.channel_open_session().await });
        match timeout_at(deadline, &mut opening).await {
            Ok(Ok(channel)) => return Ok(Some(channel)),
            Ok(Err(Error::ChannelOpenFailure(reason))) => {
                refusals += 1;
                if refusals >= REFUSALS_OF_A_LIMIT && place.refused() {
                    return Ok(None);
                }
                let give_up = if place.is_alone() { alone_until } else { deadline };
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

/// Ends a command over a channel of its own. Where the server allows none beside the command, over the next connection.
pub(super) async fn end_command(connection: Connection, ending: Ending) {
    match Running::start(&connection, ending.line.clone(), Use::Rescue, std::future::pending::<()>()).await {
        Ok(mut running) => {
            let tell = async {
                if let Some(password) = &ending.password {
                    running.write.data_bytes(format!("{}\n", password.expose())).await?;
                }
                running.write.eof().await
            };
            let _a_lost_channel_drains_at_once = timeout(END_LIMIT, tell).await;
            if !running.drain(END_LIMIT).await {
                running.close_from_here().await;
            }
        }
        Err(SshError::ChannelRefused { .. }) if connection.learned().is_some() => {
            connection.end_elsewhere(ending);
        }
        Err(error) => {
            let pid = ending.pid;
            tracing::warn!(server = %connection.shared().at, pid, %error, "a command could not be ended");
        }
    }
}
