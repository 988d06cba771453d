//! Live state in memory: one entry a server, written by its poller, read by everybody.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::acting::ActingSlot;
use super::cadence::Cadence;
use super::containers::LiveContainers;
use super::custom_run::Waiting;
use super::health::Standing;
use super::packed::{PackedProcesses, PackedServices};
use super::poller::Delivery;
use super::raw::RawReading;
use super::state::{Figures, HostKeyView, ServerState, UpdateState, UserTable};
use super::watched::LiveWatched;
use crate::history::History;
use crate::model::{
    ApiHealth, Caller, Facts, Filesystem, Findings, Gap, HttpSource, InstalledAgent, Interface,
    OrganizationId, ProbeKind, Reachability, Secret, SeriesKey, Server, ServerId, TcpStates, Timestamp,
    WayIn,
};
use crate::ssh::{HostKey, Session};
use crate::store::push::Pushing;

/// Points of a sparkline.
pub const SPARKLINE_POINTS: usize = 40;

/// Everything about one server that changes.
#[derive(Debug)]
pub struct Live {
    pub server: Arc<Server>,
    pub way: Arc<WayIn>,
    /// What the last preflight found.
    pub findings: Arc<Findings>,
    pub host_key: Option<HostKey>,
    pub offered_host_key: Option<HostKey>,
    pub standing: Standing,
    pub reachability: Reachability,
    pub last_seen_at: Option<Timestamp>,
    /// When the newest reading was asked for, and the newest that brought services. None: none yet, or it came unasked.
    pub asked_at: Option<tokio::time::Instant>,
    pub services_asked_at: Option<tokio::time::Instant>,
    pub last_health_check_at: Option<Timestamp>,
    pub figures: Arc<Figures>,
    /// The last reading as it came. None: none yet.
    pub raw: Option<RawReading>,
    pub facts: Option<Arc<Facts>>,
    pub filesystems: Arc<[Filesystem]>,
    pub interfaces: Arc<[Interface]>,
    pub tcp_states: Option<TcpStates>,
    pub gaps: Arc<[Gap]>,
    pub processes: Option<PackedProcesses>,
    pub services: Option<PackedServices>,
    /// Names of the services that failed, as of the last reading of services.
    pub failed_services: Vec<String>,
    pub users: Option<Arc<UserTable>>,
    pub updates: Option<Arc<UpdateState>>,
    pub containers: LiveContainers,
    pub watched: LiveWatched,
    /// Values of custom metrics that the next reading takes along.
    pub custom: Waiting,
    pub logins: LoginsOfDay,
    /// Channels that the server allows at once, as the present connection has learned. None: not over SSH, or not yet.
    pub channels_allowed: Option<usize>,
    /// What was deployed there.
    pub agent: Option<Arc<InstalledAgent>>,
    /// What a serve agent there asks for before it shows command lines. None: there is none.
    pub agent_token: Option<Secret<String>>,
    /// What the last reading came from. None: there was none.
    pub probe: Option<ProbeKind>,
    /// Of a server that reports by itself.
    pub push: Option<Arc<Pushing>>,
    /// Of a server that is asked over HTTPS: where its API is.
    pub http: Option<Arc<HttpSource>>,
    /// What its API said of itself last.
    pub api: Option<Arc<ApiHealth>>,
}

/// Logins counted by day, UTC.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoginsOfDay {
    day: i64,
    count: u32,
}

pub const DAY_MS: i64 = 24 * 3600 * 1000;

impl LoginsOfDay {
    pub fn add(&mut self, logins: u32, now: Timestamp) {
        let day = now.as_millis().div_euclid(DAY_MS);
        if day != self.day {
            *self = Self { day, count: 0 };
        }
        self.count = self.count.saturating_add(logins);
    }

    #[must_use]
    pub const fn today(self, now: Timestamp) -> u32 {
        if now.as_millis().div_euclid(DAY_MS) == self.day { self.count } else { 0 }
    }
}

/// One server: its live state and the strings to its poller.
#[derive(Debug)]
pub struct Entry {
    pub id: ServerId,
    live: Mutex<Live>,
    /// Somebody looks at the server's processes or services until then.
    pub looked_at: Mutex<Option<tokio::time::Instant>>,
    /// Wakes the poller: a check was asked for, or the interval changed.
    pub wake: Notify,
    /// Facts and pending updates are wanted with the next reading.
    asked: AtomicBool,
    /// Counts health checks (readings that arrived, attempts that failed).
    pub checks: watch::Sender<u64>,
    /// Held while the server is edited, approved or removed, so that one change does not undo another.
    pub changing: tokio::sync::Mutex<()>,
    /// Ends the present poller; replaced when another one starts.
    poller: Mutex<CancellationToken>,
    /// The session of the present poller. None: no poller, or not over SSH.
    session: watch::Sender<Option<Session>>,
    /// Where heartbeats go. None: nobody takes them in (inactive, or read by Roundsman).
    inbox: Mutex<Option<mpsc::Sender<Delivery>>>,
    /// The connection of the second identity.
    pub acting: ActingSlot,
}

impl Entry {
    #[must_use]
    pub fn new(server: Server, way: WayIn, host_key: Option<HostKey>, findings: Findings) -> Self {
        let live = Live {
            server: Arc::new(server),
            way: Arc::new(way),
            findings: Arc::new(findings),
            host_key,
            offered_host_key: None,
            standing: Standing::default(),
            reachability: Reachability::Unknown,
            last_seen_at: None,
            asked_at: None,
            services_asked_at: None,
            last_health_check_at: None,
            figures: Arc::default(),
            raw: None,
            facts: None,
            filesystems: Arc::from([]),
            interfaces: Arc::from([]),
            tcp_states: None,
            gaps: Arc::from([]),
            processes: None,
            services: None,
            failed_services: Vec::new(),
            users: None,
            updates: None,
            containers: LiveContainers::default(),
            watched: LiveWatched::default(),
            custom: Waiting::default(),
            logins: LoginsOfDay::default(),
            channels_allowed: None,
            agent: None,
            agent_token: None,
            probe: None,
            push: None,
            http: None,
            api: None,
        };
        Self {
            id: live.server.id,
            live: Mutex::new(live),
            looked_at: Mutex::new(None),
            wake: Notify::new(),
            asked: AtomicBool::new(false),
            checks: watch::Sender::new(0),
            changing: tokio::sync::Mutex::new(()),
            poller: Mutex::new(CancellationToken::new()),
            session: watch::Sender::new(None),
            inbox: Mutex::new(None),
            acting: ActingSlot::default(),
        }
    }

    /// Where heartbeats go.
    #[must_use]
    pub fn inbox(&self) -> Option<mpsc::Sender<Delivery>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_inbox(&self, inbox: Option<mpsc::Sender<Delivery>>) {
        *self.inbox.lock().unwrap_or_else(PoisonError::into_inner) = inbox;
    }

    /// The session of the present poller.
    #[must_use]
    pub fn session(&self) -> Option<Session> {
        self.session.borrow().clone()
    }

    /// Follows which session there is: it is another one after every change of the way.
    #[must_use]
    pub fn sessions(&self) -> watch::Receiver<Option<Session>> {
        self.session.subscribe()
    }

    /// Says which session the poller that `stop` ends has; nothing if another poller is in its place by now.
    pub fn set_session(&self, session: Session, stop: &CancellationToken) {
        let _in_step = self.poller.lock().unwrap_or_else(PoisonError::into_inner);
        if !stop.is_cancelled() {
            self.session.send_replace(Some(session));
        }
    }

    /// The live state; held for a few assignments, never across an await.
    pub fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[must_use]
    pub fn server(&self) -> Arc<Server> {
        Arc::clone(&self.live().server)
    }

    /// Ends the present poller and the connections, and gives the token of the next one.
    pub fn next_poller(&self, parent: &CancellationToken) -> CancellationToken {
        let token = parent.child_token();
        self.acting.close();
        self.set_inbox(None);
        let mut current = self.poller.lock().unwrap_or_else(PoisonError::into_inner);
        current.cancel();
        self.session.send_replace(None);
        current.clone_from(&token);
        token
    }

    pub fn stop_poller(&self) {
        self.acting.close();
        self.set_inbox(None);
        self.poller.lock().unwrap_or_else(PoisonError::into_inner).cancel();
        self.session.send_replace(None);
    }

    /// Wants facts and pending updates with the next reading, which comes at once.
    pub fn ask_for_facts(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Whether they were asked for since the last time.
    pub fn take_asked(&self) -> bool {
        self.asked.swap(false, Ordering::Relaxed)
    }

    /// Says that somebody looks at the details of this server right now.
    pub fn look(&self) {
        let now = tokio::time::Instant::now();
        let before = self.looked_at.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        if before.is_none_or(|at| now.duration_since(at) > super::poller::LOOK_LASTS) {
            self.wake.notify_one();
        }
    }

    /// Whether somebody said within [`LOOK_LASTS`](super::poller::LOOK_LASTS) that they look at its details.
    #[must_use]
    pub fn is_looked_at(&self, now: tokio::time::Instant) -> bool {
        let looked_at = *self.looked_at.lock().unwrap_or_else(PoisonError::into_inner);
        looked_at.is_some_and(|at| now.duration_since(at) <= super::poller::LOOK_LASTS)
    }

    /// The state as pages and API show it.
    #[must_use]
    pub fn state(&self, history: &History, now: Timestamp) -> ServerState {
        let live = self.live();
        let recent = |metric| history.recent(live.server.number, &SeriesKey::plain(metric), SPARKLINE_POINTS);
        let snapshot = live.raw.as_ref().map(|raw| &raw.snapshot);
        ServerState {
            server: Arc::clone(&live.server),
            health: live.standing.shown.health,
            health_reasons: live.standing.shown.reasons.clone(),
            reachability: live.reachability.clone(),
            last_seen_at: live.last_seen_at,
            last_health_check_at: live.last_health_check_at,
            figures: Arc::clone(&live.figures),
            facts: live.facts.clone(),
            filesystems: Arc::clone(&live.filesystems),
            interfaces: Arc::clone(&live.interfaces),
            tcp_states: live.tcp_states.clone(),
            gaps: match history.limited(live.server.number) {
                None => Arc::clone(&live.gaps),
                Some(limited) => {
                    live.gaps.iter().cloned().chain([super::findings::too_many_names(&limited)]).collect()
                }
            },
            updates: live.updates.clone(),
            watched: live.watched.here(),
            cpu_limit_x1000: snapshot.and_then(|snapshot| snapshot.cpu_limit_x1000),
            memory_limit_bytes: snapshot.and_then(|snapshot| snapshot.memory.as_ref()?.limit_bytes),
            logins_today: live.logins.today(now),
            way: Arc::clone(&live.way),
            jump: None,
            groups: Vec::new(),
            cadence: Cadence::default(),
            findings: Arc::clone(&live.findings),
            channels_allowed: live.channels_allowed,
            agent: live.agent.clone(),
            probe: live.probe,
            push: live.push.clone(),
            http: live.http.clone(),
            api: live.api.clone(),
            host_key: live.host_key.as_ref().map(HostKeyView::of),
            offered_host_key: live.offered_host_key.as_ref().map(HostKeyView::of),
            cpu_recent: recent("cpu_percent"),
            memory_recent: recent("memory_percent"),
        }
    }
}

/// All entries.
#[derive(Debug, Default)]
pub struct Registry {
    entries: RwLock<HashMap<ServerId, Arc<Entry>>>,
}

impl Registry {
    pub fn insert(&self, entry: Arc<Entry>) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).insert(entry.id, entry);
    }

    pub fn remove(&self, id: ServerId) -> Option<Arc<Entry>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }

    /// The server of the caller's organization with this id or name.
    #[must_use]
    pub fn find(&self, caller: &Caller, reference: &str) -> Option<Arc<Entry>> {
        self.find_in(caller.organization, reference)
    }

    /// The server of this organization with this id, name or number; a name is never only digits.
    #[must_use]
    pub fn find_in(&self, organization: OrganizationId, reference: &str) -> Option<Arc<Entry>> {
        let number = reference.parse::<u32>().ok();
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let found = match reference.parse::<ServerId>() {
            Ok(id) => entries.get(&id).cloned(),
            Err(_) => entries
                .values()
                .find(|entry| {
                    let live = entry.live();
                    live.server.organization == organization
                        && (live.server.name.as_str() == reference || number == Some(live.server.number.0))
                })
                .cloned(),
        };
        found.filter(|entry| entry.live().server.organization == organization)
    }

    #[must_use]
    pub fn get(&self, id: ServerId) -> Option<Arc<Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// The servers that are reached over this one, by name.
    #[must_use]
    pub fn behind(&self, organization: OrganizationId, jump: ServerId) -> Vec<Arc<Entry>> {
        let mut found: Vec<Arc<Entry>> = self
            .all()
            .into_iter()
            .filter(|entry| {
                let live = entry.live();
                live.way.jump == Some(jump) && live.server.organization == organization
            })
            .collect();
        found.sort_by_key(|entry| entry.server().name.clone());
        found
    }

    /// All servers of the caller's organization, by name.
    #[must_use]
    pub fn of(&self, caller: &Caller) -> Vec<Arc<Entry>> {
        let mut found: Vec<(String, Arc<Entry>)> = self
            .all()
            .into_iter()
            .filter_map(|entry| {
                let server = entry.server();
                (server.organization == caller.organization).then(|| (server.name.as_str().to_owned(), entry))
            })
            .collect();
        found.sort_by(|left, right| left.0.cmp(&right.0));
        found.into_iter().map(|(_, entry)| entry).collect()
    }

    #[must_use]
    pub fn all(&self) -> Vec<Arc<Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_counted_by_day() {
        let mut logins = LoginsOfDay::default();
        let monday = Timestamp::from_millis(20_000 * DAY_MS + 5);
        logins.add(1, monday);
        logins.add(2, monday);
        assert_eq!(logins.today(monday), 3);
        let tuesday = Timestamp::from_millis(20_001 * DAY_MS);
        assert_eq!(logins.today(tuesday), 0);
        logins.add(1, tuesday);
        assert_eq!(logins.today(tuesday), 1);
    }
}
