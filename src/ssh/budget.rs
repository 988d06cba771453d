//! Who may open a channel next, and how many channels the server allows.
//!
//! Owns the places of one connection and the queue for them: readings first, then the callers of commands in turn. Learns
//! the server's limit (MaxSessions) from its refusals. Never talks to the server.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

/// Channels open at once on a connection. OpenSSH allows 10 (MaxSessions); slots there become free a little late, and
/// [`RESCUES`] more are for ending commands.
pub const MAX_CHANNELS: usize = 8;
/// Channels beyond the budget, for ending commands on a connection that is full.
const RESCUES: usize = 2;
/// A learned limit is tried upward again after this long, when somebody waits: an administrator may have raised it.
const RAISE_AFTER: Duration = Duration::from_mins(10);

/// Who waits for channels. Commands of different askers take turns; those of one asker come in their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asker(pub u128);

/// What a channel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Ends a command; comes before everything.
    Rescue,
    /// The one that readings come over.
    Readings,
    /// Any other that stays open.
    Stream,
    Command(Asker),
}

/// How many channels a server was found to allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Learned {
    pub(super) channels: usize,
    at: Instant,
}

/// The places of one connection.
pub(super) struct Budget {
    state: Mutex<State>,
    /// Whether somebody waits for the place of the readings.
    wanted: watch::Sender<bool>,
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("cap", &self.cap()).finish_non_exhaustive()
    }
}

/// A place for one channel, free again when it is dropped.
pub(super) struct Place {
    budget: Arc<Budget>,
    kind: Use,
    established: bool,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Place {
    /// The server has opened the channel.
    pub(super) fn establish(&mut self) {
        self.established = true;
        let mut state = self.budget.lock();
        state.established += 1;
        state.proven = state.proven.max(state.established);
        state.commands_begun += u64::from(matches!(self.kind, Use::Command(_)));
    }

    /// The server refuses the channel and goes on refusing it. True: as many are open as it allows; the caller gives this
    /// place back and waits for another. False: fewer of ours are open than it allowed before, so one there ends late.
    pub(super) fn refused(&self) -> bool {
        let mut state = self.budget.lock();
        let found = state.proven.max(1);
        let lower = state.established > 0 && found < state.allowed();
        if lower {
            state.learned = Some(Learned { channels: found, at: Instant::now() });
        }
        lower || (state.learned.is_some() && state.established >= state.cap())
    }

    /// Whether no other channel of this connection is open.
    pub(super) fn is_alone(&self) -> bool {
        self.budget.lock().established == 0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut state = self.budget.lock();
            if self.kind == Use::Readings && state.wants_readings_place() {
                state.commands_turn = true;
            }
            state.established -= usize::from(self.established);
            let count = state.count(self.kind);
            *count = count.saturating_sub(1);
        }
        self.budget.serve();
    }
}

type Waiter = oneshot::Sender<Place>;

#[derive(Default)]
struct State {
    learned: Option<Learned>,
    /// The most that were open at once: the server allows at least these.
    proven: usize,
    established: usize,
    commands_begun: u64,
    /// Readings gave way: they come back after one command.
    commands_turn: bool,
    rescues: usize,
    readings: usize,
    streams: usize,
    commands: usize,
    waiting_rescues: VecDeque<Waiter>,
    waiting_readings: VecDeque<Waiter>,
    waiting_streams: VecDeque<Waiter>,
    waiting_commands: VecDeque<(Asker, VecDeque<Waiter>)>,
}

impl State {
    fn count(&mut self, kind: Use) -> &mut usize {
        match kind {
            Use::Rescue => &mut self.rescues,
            Use::Readings => &mut self.readings,
            Use::Stream => &mut self.streams,
            Use::Command(_) => &mut self.commands,
        }
    }

    fn cap(&self) -> usize {
        self.learned.map_or(MAX_CHANNELS, |learned| learned.channels.min(MAX_CHANNELS))
    }

    /// With those for rescues, which stand beyond the cap until a limit is known.
    fn allowed(&self) -> usize {
        if self.learned.is_some() { self.cap() } else { MAX_CHANNELS + RESCUES }
    }

    fn used(&self) -> usize {
        let rescues = if self.learned.is_some() { self.rescues } else { 0 };
        rescues + self.readings + self.streams + self.commands
    }

    fn admits(&self, kind: Use) -> bool {
        let (cap, free) = (self.cap(), self.used() < self.cap());
        match kind {
            Use::Rescue if self.learned.is_none() => self.rescues < RESCUES,
            Use::Rescue | Use::Readings => free,
            Use::Stream => free && self.streams + 1 < cap.max(2),
            Use::Command(_) => free && self.commands < command_share(cap),
        }
    }

    /// The next that may open a channel.
    fn next(&mut self) -> Option<(Use, Waiter)> {
        self.forget_the_gone();
        self.raise();
        if self.admits(Use::Rescue)
            && let Some(waiter) = self.waiting_rescues.pop_front()
        {
            return Some((Use::Rescue, waiter));
        }
        let after_a_command = self.commands_turn && !self.waiting_commands.is_empty();
        if !after_a_command
            && self.admits(Use::Readings)
            && let Some(waiter) = self.waiting_readings.pop_front()
        {
            return Some((Use::Readings, waiter));
        }
        if self.admits(Use::Command(Asker::default()))
            && let Some((asker, mut queue)) = self.waiting_commands.pop_front()
        {
            self.commands_turn = false;
            let waiter = queue.pop_front();
            if !queue.is_empty() {
                self.waiting_commands.push_back((asker, queue));
            }
            return waiter.map(|waiter| (Use::Command(asker), waiter));
        }
        if self.admits(Use::Stream)
            && let Some(waiter) = self.waiting_streams.pop_front()
        {
            return Some((Use::Stream, waiter));
        }
        None
    }

    fn forget_the_gone(&mut self) {
        for queue in [&mut self.waiting_rescues, &mut self.waiting_readings, &mut self.waiting_streams] {
            queue.retain(|waiter| !waiter.is_closed());
        }
        for (_, queue) in &mut self.waiting_commands {
            queue.retain(|waiter| !waiter.is_closed());
        }
        self.waiting_commands.retain(|(_, queue)| !queue.is_empty());
    }

    fn anybody_waits(&self) -> bool {
        !(self.waiting_rescues.is_empty()
            && self.waiting_readings.is_empty()
            && self.waiting_streams.is_empty()
            && self.waiting_commands.is_empty())
    }

    fn raise(&mut self) {
        let now = Instant::now();
        let full = self.anybody_waits() && self.used() >= self.cap();
        if let Some(learned) = &mut self.learned
            && full
            && learned.channels < MAX_CHANNELS
            && now.duration_since(learned.at) >= RAISE_AFTER
        {
            *learned = Learned { channels: learned.channels + 1, at: now };
        }
    }

    fn wants_readings_place(&self) -> bool {
        let full = self.readings > 0 && self.used() >= self.cap();
        full && (!self.waiting_rescues.is_empty()
            || (self.commands == 0 && !self.waiting_commands.is_empty()))
    }

    fn enqueue(&mut self, kind: Use, waiter: Waiter, first: bool) {
        let queue = match kind {
            Use::Rescue => &mut self.waiting_rescues,
            Use::Readings => &mut self.waiting_readings,
            Use::Stream => &mut self.waiting_streams,
            Use::Command(asker) => {
                let at = self.waiting_commands.iter().position(|(other, _)| *other == asker);
                match at.and_then(|at| self.waiting_commands.get_mut(at)) {
                    Some((_, queue)) if first => queue.push_front(waiter),
                    Some((_, queue)) => queue.push_back(waiter),
                    None if first => self.waiting_commands.push_front((asker, VecDeque::from([waiter]))),
                    None => self.waiting_commands.push_back((asker, VecDeque::from([waiter]))),
                }
                return;
            }
        };
        if first { queue.push_front(waiter) } else { queue.push_back(waiter) }
    }
}

/// How many of `cap` channels commands may use: the others are for what stays open, so that readings never wait for
/// commands. Of one, they take turns with it.
const fn command_share(cap: usize) -> usize {
    match cap {
        0 | 1 => 1,
        2 | 3 => cap - 1,
        _ => cap - 2,
    }
}

impl Budget {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), wanted: watch::Sender::new(false) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place in the queue; `first` for who had a place and was refused by the server.
    pub(super) fn queue(self: &Arc<Self>, kind: Use, first: bool) -> oneshot::Receiver<Place> {
        let (sender, receiver) = oneshot::channel();
        self.lock().enqueue(kind, sender, first);
        self.serve();
        receiver
    }

    /// Hands free places to who waits.
    fn serve(self: &Arc<Self>) {
        loop {
            let (next, wanted) = {
                let mut state = self.lock();
                let next = state.next();
                if let Some((kind, _)) = &next {
                    *state.count(*kind) += 1;
                }
                (next, state.wants_readings_place())
            };
            self.wanted.send_if_modified(|before| std::mem::replace(before, wanted) != wanted);
            let Some((kind, waiter)) = next else { return };
            let place = Place { budget: Arc::clone(self), kind, established: false };
            // Who has gone meanwhile gives the place back by dropping it.
            drop(waiter.send(place));
        }
    }

    /// Whether no command runs: what stays open holds every channel that the server allows.
    pub(super) fn commands_are_shut_out(&self) -> bool {
        let state = self.lock();
        state.commands == 0 && state.used() >= state.cap()
    }

    /// How many commands have begun so far.
    pub(super) fn commands_begun(&self) -> u64 {
        self.lock().commands_begun
    }

    pub(super) fn cap(&self) -> usize {
        self.lock().cap()
    }

    /// Whether no limit was found and less than half of the places are taken.
    pub(super) fn has_many_left(&self) -> bool {
        let state = self.lock();
        state.learned.is_none() && state.used() < MAX_CHANNELS / 2
    }

    pub(super) fn learned(&self) -> Option<Learned> {
        self.lock().learned
    }

    pub(super) fn remember(&self, learned: Learned) {
        self.lock().learned.get_or_insert(learned);
    }

    /// Waits until a command can only run when the channel of the readings gives way.
    pub(super) async fn readings_are_to_give_way(&self) {
        // The sender lives as long as this borrow of it.
        let mut wanted = self.wanted.subscribe();
        drop(wanted.wait_for(|wanted| *wanted).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(receiver: &mut oneshot::Receiver<Place>) -> Option<Place> {
        receiver.try_recv().ok()
    }

    fn open(budget: &Arc<Budget>, kind: Use) -> Place {
        let mut place = now(&mut budget.queue(kind, false)).unwrap();
        place.establish();
        place
    }

    const fn command(asker: u128) -> Use {
        Use::Command(Asker(asker))
    }

    #[tokio::test]
    async fn commands_leave_room_for_what_stays_open() {
        let budget = Budget::new();
        let commands: Vec<_> = (0..6).map(|_| open(&budget, command(0))).collect();
        assert!(now(&mut budget.queue(command(0), false)).is_none());
        let _readings = open(&budget, Use::Readings);
        let _stream = open(&budget, Use::Stream);
        let _rescues = [open(&budget, Use::Rescue), open(&budget, Use::Rescue)];
        assert!(now(&mut budget.queue(Use::Rescue, false)).is_none());
        drop(commands);
    }

    #[tokio::test]
    async fn one_greedy_caller_does_not_starve_another() {
        let budget = Budget::new();
        let running: Vec<_> = (0..6).map(|_| open(&budget, command(1))).collect();
        let mut greedy: Vec<_> = (0..100).map(|_| budget.queue(command(1), false)).collect();
        let mut other = budget.queue(command(2), false);
        let mut running = running.into_iter();
        drop(running.next());
        let _first = now(&mut greedy[0]).unwrap();
        assert!(now(&mut other).is_none());
        drop(running.next());
        assert!(now(&mut other).is_some(), "the second place that becomes free is the other's");
    }

    #[tokio::test]
    async fn readings_come_before_commands_that_waited_longer() {
        let budget = Budget::new();
        budget.remember(Learned { channels: 1, at: Instant::now() });
        let running = open(&budget, command(1));
        let mut waiting = budget.queue(command(1), false);
        let mut readings = budget.queue(Use::Readings, false);
        drop(running);
        let readings = now(&mut readings).unwrap();
        assert!(now(&mut waiting).is_none());
        tokio::time::timeout(Duration::from_secs(5), budget.readings_are_to_give_way()).await.unwrap();
        let mut again = budget.queue(Use::Readings, false);
        drop(readings);
        let command = now(&mut waiting).unwrap();
        assert!(now(&mut again).is_none());
        drop(command);
        assert!(now(&mut again).is_some());
    }

    #[tokio::test]
    async fn a_refusal_lowers_the_limit_to_what_was_open_and_no_further() {
        let budget = Budget::new();
        let first = open(&budget, Use::Readings);
        let second = open(&budget, command(0));
        let third = now(&mut budget.queue(command(0), false)).unwrap();
        assert!(third.refused());
        drop(third);
        assert_eq!(budget.learned().unwrap().channels, 2);
        drop(second);
        let again = now(&mut budget.queue(command(0), false)).unwrap();
        assert!(!again.refused(), "two were open at once: a slot is late");
        assert_eq!(budget.cap(), 2);
        drop(first);
    }

    #[tokio::test]
    async fn a_refusal_with_nothing_open_teaches_nothing() {
        let budget = Budget::new();
        let place = now(&mut budget.queue(command(0), false)).unwrap();
        assert!(place.is_alone() && !place.refused());
        assert_eq!(budget.cap(), MAX_CHANNELS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_learned_limit_is_tried_upward_after_a_while_when_somebody_waits() {
        let budget = Budget::new();
        budget.remember(Learned { channels: 1, at: Instant::now() });
        let _readings = open(&budget, Use::Readings);
        assert!(now(&mut budget.queue(command(0), false)).is_none());
        tokio::time::advance(RAISE_AFTER).await;
        let place = now(&mut budget.queue(command(0), false)).unwrap();
        assert!(place.refused());
        drop(place);
        assert!(now(&mut budget.queue(command(0), false)).is_none());
        assert_eq!(budget.cap(), 1);
    }

    #[tokio::test]
    async fn who_gave_up_waiting_takes_no_place() {
        let budget = Budget::new();
        budget.remember(Learned { channels: 1, at: Instant::now() });
        let running = open(&budget, command(1));
        drop(budget.queue(command(1), false));
        let mut waiting = budget.queue(command(1), false);
        drop(running);
        assert!(now(&mut waiting).is_some());
    }
}
