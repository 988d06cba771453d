//! The next command's channel, opened while this one runs: a round trip and a packet less for each command of a series.
//!
//! One a connection at most. It takes no place in the budget, so it is never in the way: whoever opens a channel takes it
//! first, and a server that refuses it is not asked again. It carries nothing until then, so nothing needs to read it; what a
//! hostile server sends on it fills its own connection and no other.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use russh::Channel;
use russh::client::Msg;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::{Connection, Shared};

/// Commands that follow each other within this are a series.
const SERIES_PAUSE: Duration = Duration::from_secs(2);
/// A spare that nobody took for this long is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(5);
/// A server that takes longer to open it is not helped by it.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// dropbear sometimes closes a channel that was opened while a command of another one ended.
const SERVERS: &str = "OpenSSH";

type Opening = Pin<Box<dyn Future<Output = Result<Channel<Msg>, russh::Error>> + Send>>;

#[derive(Default)]
pub(super) struct Spare(Mutex<State>);

#[derive(Default)]
struct State {
    last_command: Option<Instant>,
    channel: Option<(Channel<Msg>, Instant)>,
    is_opening: bool,
    /// The server wants no more channels than are needed.
    is_refused: bool,
    /// A task closes what nobody takes.
    is_kept: bool,
}

impl fmt::Debug for Spare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spare").field("is_open", &self.lock().channel.is_some()).finish_non_exhaustive()
    }
}

impl Spare {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self) -> Option<Channel<Msg>> {
        self.lock().channel.take().map(|(channel, _)| channel)
    }

    /// Whether the command that begins now is one of a series, and whether its successor still wants a channel.
    fn command_begins(&self, now: Instant, is_helped: bool) -> (bool, bool) {
        let mut state = self.lock();
        let last = state.last_command.replace(now);
        let is_near = last.is_some_and(|last| now.duration_since(last) <= SERIES_PAUSE);
        let is_series = is_helped && is_near && !state.is_refused;
        let is_due = is_series && !state.is_opening && state.channel.is_none();
        state.is_opening |= is_due;
        (is_series, is_due)
    }

    /// True: the caller keeps it, by closing what is not taken.
    fn put(&self, opened: Option<Channel<Msg>>) -> bool {
        let mut state = self.lock();
        state.is_opening = false;
        state.is_refused |= opened.is_none();
        state.channel = opened.map(|channel| (channel, Instant::now()));
        state.channel.is_some() && !std::mem::replace(&mut state.is_kept, true)
    }

    /// What has been there for too long, or when to look again. Neither: there is no spare any more.
    fn expired(&self, now: Instant) -> (Option<Channel<Msg>>, Option<Instant>) {
        let mut state = self.lock();
        match state.channel.take() {
            Some((channel, since)) if now < since + IDLE_LIMIT => {
                state.channel = Some((channel, since));
                (None, Some(since + IDLE_LIMIT))
            }
            found => {
                state.is_kept = false;
                (found.map(|(channel, _)| channel), None)
            }
        }
    }
}

/// An opening that has begun; its request is on the way before that of the command, in one packet with it.
///
/// Whoever runs the command polls it; dropped before the answer came, it goes on in a task of its own.
pub(super) struct Ahead {
    /// None: the answer came.
    opening: Option<Opening>,
    shared: Weak<Shared>,
}

impl Ahead {
    /// Begins to open the channel of the next command, where one is likely to come.
    pub(super) fn begin(connection: &Connection) -> Option<Self> {
        let shared = connection.shared();
        let is_helped = connection.server_id().contains(SERVERS) && connection.has_many_channels_left();
        let (is_series, is_due) = shared.spare.command_begins(Instant::now(), is_helped);
        shared.observed.ride.expect_more(is_series);
        if !is_due {
            return None;
        }
        let handle = Arc::clone(shared);
        let mut opening: Opening = Box::pin(async move { handle.handle.channel_open_session().await });
        match (&mut opening).now_or_never() {
            None => Some(Self { opening: Some(opening), shared: Arc::downgrade(shared) }),
            Some(opened) => {
                // Answered without the server: the connection is gone.
                shared.spare.put(opened.ok());
                None
            }
        }
    }

    /// Waits for the answer and keeps the channel. May be dropped and asked again; never ends twice.
    pub(super) async fn opened(&mut self) {
        let Some(opening) = &mut self.opening else { return std::future::pending().await };
        let opened = opening.await.ok();
        self.opening = None;
        settle(&self.shared, opened);
    }
}

impl Drop for Ahead {
    /// An opening that nobody waits for would keep its slot for ever.
    fn drop(&mut self) {
        // Without a runtime the program ends, and its connections with it.
        let (Some(mut opening), Ok(runtime)) = (self.opening.take(), Handle::try_current()) else { return };
        let shared = std::mem::take(&mut self.shared);
        runtime.spawn(async move {
            match timeout(OPEN_LIMIT, &mut opening).await {
                Ok(opened) => settle(&shared, opened.ok()),
                Err(_) => {
                    settle(&shared, None);
                    if let Ok(channel) = opening.await {
                        let _lost_is_as_good = channel.close().await;
                    }
                }
            }
        });
    }
}

fn settle(shared: &Weak<Shared>, opened: Option<Channel<Msg>>) {
    let is_ours_to_keep = shared.upgrade().is_some_and(|shared| shared.spare.put(opened));
    if is_ours_to_keep {
        tokio::spawn(keep(Weak::clone(shared)));
    }
}

/// Closes a spare that nobody takes; ends with it, or with the connection.
async fn keep(connection: Weak<Shared>) {
    let mut next = Instant::now() + IDLE_LIMIT;
    loop {
        sleep_until(next).await;
        let Some(shared) = connection.upgrade() else { return };
        let (expired, again) = shared.spare.expired(Instant::now());
        if let Some(channel) = expired {
            shared.count_local_close();
            let _lost_is_as_good = timeout(OPEN_LIMIT, channel.close()).await;
        }
        match again {
            Some(later) => next = later,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_series_of_commands_gets_a_channel_ahead() {
        let (spare, now) = (Spare::default(), Instant::now());
        assert_eq!(spare.command_begins(now, true), (false, false), "one command is no series");
        let now = now + SERIES_PAUSE * 2;
        assert_eq!(spare.command_begins(now, true), (false, false), "nor are two with a long pause");
        assert_eq!(spare.command_begins(now, false), (false, false), "this server is not helped by one");
        assert_eq!(spare.command_begins(now + SERIES_PAUSE, true), (true, true));
        assert_eq!(spare.command_begins(now + SERIES_PAUSE, true), (true, false), "one is on its way");
        assert!(!spare.put(None));
        assert_eq!(spare.command_begins(now + SERIES_PAUSE, true), (false, false), "the server refused one");
    }
}
