//! Keeps one server's connection: an actor that connects, waits, and connects again.
//!
//! Owns when to dial; [`connect`](super::connect()) owns how. A person's mistakes (host key, credentials) are tried again
//! seldom, so that nobody is locked out; a dead server often enough to be healthy within a minute of its return.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::model::Layer;

use super::budget::Learned;
use super::channel::end_command;
use super::connect::{Leg, connect_through};
use super::connection::Connection;
use super::error::{Endpoint, SshError};
use super::remote::Ending;
use super::target::Target;

/// The first wait, doubled with each failure; the actual wait is drawn between nothing and this (full jitter).
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Nothing at all would be a busy loop against a port that refuses.
const SHORTEST_WAIT: Duration = Duration::from_millis(250);
/// In the first minutes of an outage: a server that is back is seen within this and one reading.
const FRESH_CAP: Duration = Duration::from_secs(20);
const FRESH_FOR: Duration = Duration::from_mins(10);
/// Later, and for what only a person can change: fail2ban counts, and so do logs.
const STALE_CAP: Duration = Duration::from_mins(5);
/// A connection that lived this long proves that the server is well again.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// Orders to one session; each is handled at once, so a few are enough.
const ORDERS: usize = 8;

/// What a server's connection is doing, for whoever shows it.
#[derive(Debug, Clone)]
pub enum SessionState {
    /// On the way; `layer` is the step that runs.
    Connecting {
        layer: Layer,
    },
    Ready {
        since: Instant,
    },
    /// Failed; the next attempt comes by itself after `retry_in`.
    Backoff {
        error: Arc<SshError>,
        retry_in: Duration,
    },
    /// Only a person can change the outcome: the host key is unknown or changed, or the login was refused.
    Refused {
        error: Arc<SshError>,
        retry_in: Duration,
    },
    /// Roundsman is stopping, or the server was removed.
    Ended,
}

#[derive(Clone)]
enum Slot {
    Dialing,
    Up(Connection),
    Down(Arc<SshError>),
}

enum Order {
    Restart(String),
    Retarget(Box<Target>),
    Renew(Box<Target>),
}

/// The handle of one server's actor; clones are the same. When the last is gone, the connection is closed.
#[derive(Clone)]
pub struct Session {
    orders: mpsc::Sender<Order>,
    slot: watch::Receiver<Slot>,
    state: watch::Receiver<SessionState>,
    logins: Arc<AtomicU64>,
    pub(super) at: Endpoint,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("at", &self.at).field("state", &*self.state.borrow()).finish()
    }
}

impl Session {
    /// Begins to connect at once. `gate` limits how many exchange keys and log in at the same time, over all sessions;
    /// `token` ends it.
    #[must_use]
    pub fn start(target: Target, gate: Arc<Semaphore>, token: CancellationToken) -> Self {
        Self::resume(target, None, gate, token)
    }

    /// As [`Self::start`], but goes on with `adopted`, a connection that was made to this target already.
    #[must_use]
    pub fn resume(
        target: Target,
        adopted: Option<Connection>,
        gate: Arc<Semaphore>,
        token: CancellationToken,
    ) -> Self {
        let (orders, inbox) = mpsc::channel(ORDERS);
        let (slot_sender, slot) = watch::channel(Slot::Dialing);
        let (state_sender, state) = watch::channel(SessionState::Connecting { layer: Layer::Name });
        let logins = Arc::new(AtomicU64::new(0));
        let at = target.endpoint();
        let actor = Actor {
            target,
            gate,
            inbox,
            slot: slot_sender,
            state: state_sender,
            logins: Arc::clone(&logins),
            failures: 0,
            outage_since: None,
            learned: None,
            unended: Vec::new(),
        };
        tokio::spawn(actor.run(adopted, token));
        Self { orders, slot, state, logins, at }
    }

    /// The connection: at once when there is one, after the running attempt when there is one, and otherwise the last
    /// error without a wait.
    ///
    /// # Errors
    /// Why the last attempt failed; [`SshError::Closed`] when the session has ended.
    pub async fn connection(&self) -> Result<Connection, SshError> {
        let mut slot = self.slot.clone();
        loop {
            match &*slot.borrow_and_update() {
                Slot::Up(connection) if !connection.is_closed() => return Ok(connection.clone()),
                Slot::Down(error) => return Err((**error).clone()),
                Slot::Up(_) | Slot::Dialing => {}
            }
            if slot.changed().await.is_err() {
                return Err(ended(&self.at));
            }
        }
    }

    #[must_use]
    pub fn state(&self) -> watch::Receiver<SessionState> {
        self.state.clone()
    }

    /// Cuts the connection and dials at once; during a wait it only dials. After several restarts in a row that brought
    /// nothing, the waits of a failing server apply. Whoever gives up on a connection that it holds calls
    /// [`Connection::kill`] instead: that never hits a newer one, and the session dials just the same.
    pub async fn restart(&self, reason: &str) {
        let _an_ended_session_has_nothing_to_restart =
            self.orders.send(Order::Restart(reason.to_owned())).await;
    }

    /// Another address, identity or pinned key, by the operator: dials at once with it.
    pub async fn retarget(&self, target: Target) {
        let _an_ended_session_has_no_target = self.orders.send(Order::Retarget(Box::new(target))).await;
    }

    /// Another form of the same identity, such as a new certificate: the connection lives on, the next login uses it. A
    /// server that refused the old form is dialled at once.
    pub async fn renew(&self, target: Target) {
        let _an_ended_session_has_no_target = self.orders.send(Order::Renew(Box::new(target))).await;
    }

    /// Logins that the server has accepted since the start: one, when nothing broke.
    #[must_use]
    pub fn logins(&self) -> u64 {
        self.logins.load(Ordering::Relaxed)
    }

    /// Waits until the actor is gone and the connection closed, after its token was cancelled.
    pub async fn ended(&self) {
        self.orders.closed().await;
    }
}

fn ended(at: &Endpoint) -> SshError {
    SshError::Closed { at: Box::new(at.clone()), cause: "Roundsman no longer keeps it".to_owned() }
}

struct Actor {
    target: Target,
    gate: Arc<Semaphore>,
    inbox: mpsc::Receiver<Order>,
    slot: watch::Sender<Slot>,
    state: watch::Sender<SessionState>,
    logins: Arc<AtomicU64>,
    /// Attempts in a row that failed or whose connection did not last.
    failures: u32,
    outage_since: Option<Instant>,
    /// How many channels the server was found to allow.
    learned: Option<Learned>,
    /// Commands that the last connection could not end.
    unended: Vec<Ending>,
}

enum Next {
    Dial,
    Wait(SshError),
    /// Every handle is gone.
    End,
}

impl Actor {
    async fn run(mut self, adopted: Option<Connection>, token: CancellationToken) {
        tokio::select! {
            () = token.cancelled() => {}
            () = Box::pin(self.live(adopted)) => {}
        }
        let at = self.target.endpoint();
        let last = self.slot.send_replace(Slot::Down(Arc::new(ended(&at))));
        if let Slot::Up(connection) = last {
            connection.close().await;
        }
        self.state.send_replace(SessionState::Ended);
    }

    async fn live(&mut self, adopted: Option<Connection>) {
        let mut next = match adopted {
            Some(connection) => self.attend(connection).await,
            None => Next::Dial,
        };
        loop {
            next = match next {
                Next::Dial => match self.dial().await {
                    Ok(connection) => self.attend(connection).await,
                    Err(next) => next,
                },
                Next::Wait(error) => self.wait(error).await,
                Next::End => return,
            }
        }
    }

    /// One attempt. A new target interrupts it; a restart does not, it is under way already.
    async fn dial(&mut self) -> Result<Connection, Next> {
        self.slot.send_replace(Slot::Dialing);
        let (gate, state, target) = (Arc::clone(&self.gate), self.state.clone(), self.target.clone());
        state.send_replace(SessionState::Connecting { layer: Layer::Name });
        let attempt = async move {
            let mut progress =
                |leg: Leg| drop(state.send_replace(SessionState::Connecting { layer: leg.layer() }));
            connect_through(Some(&gate), &target, &mut progress).await
        };
        let mut attempt = Box::pin(attempt);
        loop {
            let order = tokio::select! {
                result = &mut attempt => return result.map_err(Next::Wait),
                order = self.inbox.recv() => order,
            };
            match order {
                None => return Err(Next::End),
                Some(Order::Restart(_)) => {}
                Some(Order::Retarget(target) | Order::Renew(target)) => {
                    self.take(*target);
                    return Err(Next::Dial);
                }
            }
        }
    }

    /// Until the connection ends or is to end.
    async fn attend(&mut self, connection: Connection) -> Next {
        let since = Instant::now();
        self.logins.fetch_add(1, Ordering::Relaxed);
        if let Some(learned) = self.learned {
            connection.remember(learned);
        }
        for ending in self.unended.drain(..) {
            tokio::spawn(end_command(connection.clone(), ending));
        }
        self.slot.send_replace(Slot::Up(connection.clone()));
        self.state.send_replace(SessionState::Ready { since });
        let order = loop {
            let order = tokio::select! {
                () = connection.closed() => Some(Order::Restart(connection.lost().to_string())),
                () = worn(&connection) => Some(Order::Restart("it has closed many channels".to_owned())),
                order = self.inbox.recv() => order,
            };
            match order {
                Some(Order::Renew(target)) => self.target = *target,
                other => break other,
            }
        };
        self.learned = connection.learned();
        self.unended = connection.take_unended();
        self.slot.send_replace(Slot::Dialing);
        match order {
            None => {
                connection.close().await;
                Next::End
            }
            Some(Order::Retarget(target) | Order::Renew(target)) => {
                connection.kill();
                self.take(*target);
                Next::Dial
            }
            Some(Order::Restart(reason)) => {
                tracing::info!(server = %self.target.endpoint(), reason, "connecting again");
                let lost = connection.lost();
                connection.kill();
                if since.elapsed() >= STABLE_AFTER {
                    self.forget_failures();
                }
                self.failures += 1;
                // The first loss is dialled at once; a connection that never lasts waits its turn.
                if self.failures == 1 { Next::Dial } else { Next::Wait(lost) }
            }
        }
    }

    async fn wait(&mut self, error: SshError) -> Next {
        let now = Instant::now();
        let outage = now.duration_since(*self.outage_since.get_or_insert(now));
        // Behind a jump host that is down an attempt costs nothing, and all are to follow it soon when it is back.
        let outage = if error.hop().is_some() { Duration::ZERO } else { outage };
        let random = rand::rng().random_range(0.0..1.0);
        let (error, refused) = (Arc::new(error.clone()), error.needs_a_person());
        let retry_in = if refused { seldom(random) } else { backoff(self.failures, outage, random) };
        self.failures = self.failures.saturating_add(1);
        let server = self.target.endpoint();
        tracing::debug!(%server, %error, retry_ms = u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX), "not connected");
        self.slot.send_replace(Slot::Down(Arc::clone(&error)));
        self.state.send_replace(if refused {
            SessionState::Refused { error, retry_in }
        } else {
            SessionState::Backoff { error, retry_in }
        });
        tokio::select! {
            () = sleep(retry_in) => Next::Dial,
            order = self.inbox.recv() => match order {
                None => Next::End,
                Some(Order::Restart(_)) => Next::Dial,
                Some(Order::Retarget(target) | Order::Renew(target)) => {
                    self.take(*target);
                    Next::Dial
                }
            }
        }
    }

    fn take(&mut self, target: Target) {
        self.target = target;
        self.learned = None;
        self.unended.clear();
        self.forget_failures();
    }

    fn forget_failures(&mut self) {
        self.failures = 0;
        self.outage_since = None;
    }
}

/// How often a connection is asked whether it is worn; it takes thousands of cut-off commands.
const WEAR_CHECK: Duration = Duration::from_mins(1);

async fn worn(connection: &Connection) {
    while !connection.is_worn() {
        sleep(WEAR_CHECK).await;
    }
}

/// The wait after `failures` in a row, `outage` into it; `random` is in 0..1.
fn backoff(failures: u32, outage: Duration, random: f64) -> Duration {
    let cap = if outage < FRESH_FOR { FRESH_CAP } else { STALE_CAP };
    let ceiling = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(failures)).min(cap);
    ceiling.mul_f64(random).max(SHORTEST_WAIT)
}

/// Between four and five minutes, so that a fleet with a wrong key does not knock in step.
fn seldom(random: f64) -> Duration {
    STALE_CAP.mul_f64(0.8 + 0.2 * random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_waits_are_short_and_drawn_between_nothing_and_the_doubled_last() {
        for (failures, ceiling) in [(0, 1), (1, 2), (2, 4), (3, 8), (4, 16)] {
            assert_eq!(backoff(failures, Duration::ZERO, 1.0), Duration::from_secs(ceiling));
            assert_eq!(backoff(failures, Duration::ZERO, 0.5), Duration::from_secs(ceiling) / 2);
            assert_eq!(backoff(failures, Duration::ZERO, 0.0), SHORTEST_WAIT);
        }
    }

    #[test]
    fn a_server_back_within_ten_minutes_is_tried_within_twenty_seconds() {
        for failures in 0..200 {
            assert!(backoff(failures, Duration::from_secs(599), 1.0) <= Duration::from_secs(20));
        }
    }

    #[test]
    fn a_long_outage_is_tried_every_few_minutes_and_refusals_too() {
        assert_eq!(backoff(100, FRESH_FOR, 1.0), Duration::from_mins(5));
        assert_eq!((seldom(0.0), seldom(1.0)), (Duration::from_mins(4), Duration::from_mins(5)));
    }
}
