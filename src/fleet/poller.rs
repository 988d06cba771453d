//! One task a server: reads it on its own interval and keeps its entry true.
//!
//! A slow or dead server keeps nobody waiting but its own task.

mod arrival;
mod heavy;
mod http;
mod outage;
mod probe;
mod push;
mod served;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cadence::{CadenceBook, FACTS_EVERY, is_due};
use super::containers::ContainerWatch;
use super::counts::Counts;
use super::logins::LoginBook;
use super::registry::{Entry, Registry};
use crate::clock::Clock;
use crate::collect::http::{HttpFailure, HttpProbe};
use crate::collect::{ProbeError, rates};
use crate::history::History;
use crate::model::{Event, Layer, Reachability, Sections, Snapshot};
use crate::ssh::{Connection, Session, SessionState, SshError, Target};
use heavy::HeavyRest;
pub use outage::cannot_log_in;
use outage::{PROBE_PAUSE, back_again, probe_pause};
use probe::{AgentTrust, Probe};
pub use push::{Delivery, Report, delivery_queue};
pub use served::ServedAgent;

/// An open page says every few seconds that it is still there.
pub const LOOK_LASTS: Duration = Duration::from_secs(15);
/// Pending updates cost the server a second of CPU.
const PACKAGES_EVERY: Duration = Duration::from_hours(1);
/// Not at once: first metrics are to be on the page soon, and a fleet that starts must not ask all at the same time.
const PACKAGES_SPREAD: Duration = Duration::from_mins(10);
const PACKAGES_AFTER: Duration = Duration::from_secs(20);
/// The script gives a package manager 8 s for each of two questions.
const PACKAGES_LIMIT: Duration = Duration::from_secs(20);
/// The second reading of a server comes early, so that rates appear.
const SECOND_READING_AFTER: Duration = Duration::from_secs(1);
/// A reading is given one and a half intervals within these bounds: then two readings were missed.
const READING_LIMIT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(15));
/// Details of a machine with thousands of processes take longer than a short interval.
const DETAILS_LIMIT: Duration = Duration::from_secs(5);
/// A container engine that hangs is given up after 3 s for each question, two questions each.
const CONTAINERS_LIMIT: Duration = Duration::from_secs(10);

/// What all pollers share.
#[derive(Debug)]
pub struct Shared {
    pub registry: Arc<Registry>,
    pub logins: LoginBook,
    pub history: History,
    pub clock: Arc<dyn Clock>,
    pub events: broadcast::Sender<Event>,
    /// Dials at the same time.
    pub gate: Arc<Semaphore>,
    pub counts: Counts,
    pub cadence: CadenceBook,
    /// Start of the schedule; every server has a phase after it.
    pub epoch: Instant,
}

/// How the poller reaches its server.
#[derive(Debug)]
pub enum Way {
    Local,
    /// The server reports by itself.
    Push {
        inbox: tokio::sync::mpsc::Receiver<Delivery>,
    },
    /// Its API is asked.
    Http {
        /// Or why it cannot even be asked.
        probe: Result<Box<HttpProbe>, HttpFailure>,
    },
    /// `adopted` is a connection that enrolment has made already, so that a server sees one login.
    Ssh {
        target: Box<Target>,
        adopted: Option<Connection>,
        /// The server that carries its connection.
        jump: Option<Arc<Entry>>,
    },
}

/// The poller of one server.
#[derive(Debug)]
pub struct Poller {
    entry: Arc<Entry>,
    shared: Arc<Shared>,
    stop: CancellationToken,
    previous: Option<Arc<Snapshot>>,
    previous_processes: Option<rates::ProcessTimes>,
    containers: ContainerWatch,
    details_at: Option<Instant>,
    sockets_at: Option<Instant>,
    facts_at: Option<Instant>,
    packages_due: Instant,
    readings: u64,
    trust: AgentTrust,
    rest: HeavyRest,
}

/// Why a run of readings ended.
enum Ended {
    Stopped,
    Probe(ProbeError),
    Silent {
        after: Duration,
    },
    /// The server allows too few channels for a command beside the readings; the next reading is due then.
    GaveWay {
        until: Instant,
    },
    /// Another probe is to go on: an agent was deployed, removed, or is to be tried again.
    Another,
}

impl Poller {
    #[must_use]
    pub fn new(entry: Arc<Entry>, shared: Arc<Shared>, stop: CancellationToken) -> Self {
        let spread = f64::from(entry.live().server.number.0) * 0.618_033_988_749_895 % 1.0;
        Self {
            packages_due: Instant::now() + PACKAGES_AFTER + PACKAGES_SPREAD.mul_f64(spread),
            entry,
            shared,
            stop,
            previous: None,
            previous_processes: None,
            containers: ContainerWatch::new(),
            details_at: None,
            sockets_at: None,
            facts_at: None,
            readings: 0,
            trust: AgentTrust::default(),
            rest: HeavyRest::default(),
        }
    }

    /// Reads until stopped.
    pub async fn run(mut self, way: Way) {
        let stop = self.stop.clone();
        let work = async {
            match way {
                Way::Local => self.run_local().await,
                Way::Push { inbox } => self.run_push(inbox).await,
                Way::Http { probe } => self.run_http(probe).await,
                Way::Ssh { target, adopted, jump } => self.run_ssh(*target, adopted, jump).await,
            }
        };
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    }

    async fn run_local(&mut self) {
        loop {
            match self.readings(&mut Probe::Local(Box::default()), None).await {
                Ended::Stopped => return,
                // Nothing else comes over the way of this machine.
                Ended::GaveWay { .. } | Ended::Another => continue,
                Ended::Silent { after } => {
                    self.no_answer(None, format!("/proc did not answer within {} s", after.as_secs()));
                }
                Ended::Probe(error) => self.no_answer(None, error.to_string()),
            }
            self.pause(PROBE_PAUSE.0).await;
        }
    }

    async fn run_ssh(&mut self, target: Target, adopted: Option<Connection>, jump: Option<Arc<Entry>>) {
        let session = Session::resume(target, adopted, Arc::clone(&self.shared.gate), self.stop.clone());
        self.entry.set_session(session.clone(), &self.stop);
        let mut states = session.state();
        let mut logins = 0;
        let mut failures = 0_u32;
        self.set_connecting();
        loop {
            match session.connection().await {
                Err(error) => {
                    self.refused(&error);
                    if !self.next_attempt(&session, &mut states, jump.as_deref()).await {
                        return;
                    }
                }
                Ok(connection) => {
                    logins = self.count_logins(&session, logins);
                    let readings_before = self.readings;
                    let ended = self.read_over(&connection).await;
                    if self.readings > readings_before {
                        failures = 0;
                    }
                    if matches!(ended, Ok(Ended::Stopped)) {
                        return;
                    }
                    failures = self.after(ended, &connection, failures).await;
                }
            }
        }
    }

    /// Waits until there is a reason to ask the session again. False: the session has ended.
    async fn next_attempt(
        &self,
        session: &Session,
        states: &mut watch::Receiver<SessionState>,
        jump: Option<&Entry>,
    ) -> bool {
        let reason = tokio::select! {
            changed = states.changed() => return changed.is_ok(),
            () = self.entry.wake.notified() => "a check was asked for",
            () = back_again(jump) => "its jump host is back",
        };
        session.restart(reason).await;
        // Until the attempt has begun, the session still answers the last error.
        states.changed().await.is_ok()
    }

    /// What the end of a run of readings means. Answers how many failed in a row by now.
    async fn after(&mut self, ended: Result<Ended, SshError>, connection: &Connection, failures: u32) -> u32 {
        match ended {
            Ok(Ended::Silent { after }) => {
                let reason = format!(
                    "the server took connections but did not answer a reading within {:.0} s; \
                     Roundsman connects again by itself",
                    after.as_secs_f64()
                );
                self.no_answer(Some(Layer::Channel), reason);
                if self.carries_others() {
                    // Those behind it do well as long as the connection answers; the keepalives watch over that.
                    self.pause(probe_pause(failures)).await;
                    return failures + 1;
                }
                // Not a restart of the session, which could hit a newer connection; it dials again by itself.
                connection.kill();
                failures
            }
            Ok(Ended::GaveWay { until }) => {
                tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    () = self.entry.wake.notified() => {}
                    () = connection.closed() => {}
                }
                failures
            }
            Ok(Ended::Stopped | Ended::Another) => failures,
            // The session connects again by itself; only when it cannot is the server unreachable.
            Ok(Ended::Probe(_)) | Err(_) if connection.is_closed() => failures,
            Ok(Ended::Probe(error)) => {
                tracing::info!(server = %self.entry.server().name, %error, failures, "a reading failed");
                if failures > 0 {
                    self.no_answer(Some(Layer::Shell), error.to_string());
                    self.pause(probe_pause(failures)).await;
                }
                failures + 1
            }
            Err(error) => {
                if failures > 0 {
                    self.refused(&error);
                    self.pause(probe_pause(failures)).await;
                }
                failures + 1
            }
        }
    }

    fn carries_others(&self) -> bool {
        let organization = self.entry.server().organization;
        !self.shared.registry.behind(organization, self.entry.id).is_empty()
    }

    /// Opens the long-lived channel and reads over it until something ends that.
    async fn read_over(&mut self, connection: &Connection) -> Result<Ended, SshError> {
        let installed = self.entry.live().agent.clone();
        if let Some(agent) = self.trust.choose(installed.as_ref(), Instant::now())
            && let Some(ended) = self.read_by_agent(connection, agent).await?
        {
            return Ok(ended);
        }
        match Probe::shell(connection).await? {
            Ok(mut probe) => Ok(self.readings(&mut probe, Some(connection)).await),
            Err(ProbeError::TimedOut { after_ms }) => {
                Ok(Ended::Silent { after: Duration::from_millis(after_ms) })
            }
            Err(error) => Ok(Ended::Probe(error)),
        }
    }

    async fn pause(&self, span: Duration) {
        tokio::select! {
            () = tokio::time::sleep(span) => {}
            () = self.entry.wake.notified() => {}
        }
    }

    async fn readings(&mut self, probe: &mut Probe, connection: Option<&Connection>) -> Ended {
        loop {
            let started = Instant::now();
            let sections = self.sections(started);
            let mut limit = reading_limit(self.interval());
            if sections != Sections::BASE {
                limit = limit.max(DETAILS_LIMIT);
            }
            if sections.containers {
                limit = limit.max(CONTAINERS_LIMIT);
            }
            // Counted from the attempt: a section that hangs must not be asked for again at once.
            if sections.processes {
                self.details_at = Some(started);
            }
            if sections.sockets {
                self.sockets_at = Some(started);
            }
            if sections.facts {
                self.facts_at = Some(started);
            }
            if sections.packages {
                limit = limit.max(PACKAGES_LIMIT);
                self.packages_due = started + PACKAGES_EVERY;
            }
            match tokio::time::timeout(limit, probe.read(sections)).await {
                Ok(Ok(mut snapshot)) => {
                    let installed = {
                        let mut live = self.entry.live();
                        live.channels_allowed = connection.map(Connection::channels_allowed);
                        live.probe = Some(probe.kind());
                        live.agent.clone()
                    };
                    self.rest.came(sections);
                    snapshot.gaps.extend(self.trust.gap(probe, installed.as_ref()));
                    snapshot.gaps.extend(self.rest.gaps());
                    self.arrived(snapshot, sections, started);
                }
                Ok(Err(error)) => {
                    // A connection that was lost says nothing of what was asked over it.
                    if !connection.is_some_and(Connection::is_closed) {
                        self.rest.failed(sections, &error.to_string(), Instant::now());
                    }
                    return Ended::Probe(error);
                }
                Err(_) => {
                    let reason = format!("no answer within {:.0} s", limit.as_secs_f64());
                    self.rest.failed(sections, &reason, Instant::now());
                    return Ended::Silent { after: limit };
                }
            }
            if self.stop.is_cancelled() {
                return Ended::Stopped;
            }
            let next = self.next_reading(started);
            tokio::select! {
                () = tokio::time::sleep_until(next) => self.shared.counts.begun(next.elapsed()),
                () = self.entry.wake.notified() => {}
                () = lost(connection) => return Ended::Probe(ProbeError::Closed),
                () = wanted(connection) => return Ended::GaveWay { until: next },
            }
            let installed = self.entry.live().agent.clone();
            if self.trust.wants_another(probe, installed.as_ref(), Instant::now()) {
                return Ended::Another;
            }
        }
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(u64::from(self.entry.live().server.interval_ms))
    }

    fn sections(&self, now: Instant) -> Sections {
        let server = self.entry.server();
        let interval = Duration::from_millis(server.interval_ms.into());
        let due = |last: Option<Instant>, every| {
            last.is_none_or(|at| is_due(now.duration_since(at), interval, every))
        };
        // The second reading brings details again, so that processes have a CPU figure at once.
        let details = !self.rest.is_on(now)
            && (self.readings < 2
                || self.entry.is_looked_at(now)
                || due(self.details_at, self.shared.cadence.heavy(&server)));
        // Not with every reading while somebody looks: to go through all sockets costs as much as ten readings.
        let sockets = !self.rest.is_on(now) && due(self.sockets_at, self.shared.cadence.heavy(&server));
        let asked = self.entry.take_asked();
        let facts = asked || due(self.facts_at, FACTS_EVERY);
        Sections {
            processes: details,
            services: details,
            users: details,
            containers: details,
            facts,
            packages: asked || (self.readings >= 2 && now >= self.packages_due),
            sockets,
        }
    }

    /// Every server has its own phase within the interval, so that a fleet is not read in one burst.
    fn next_reading(&self, last: Instant) -> Instant {
        if self.readings == 1 {
            return last + SECOND_READING_AFTER.min(self.interval());
        }
        let interval = self.interval();
        let number = self.entry.live().server.number.0;
        next_in_phase(self.shared.epoch, interval, number, last)
    }

    fn set_connecting(&self) {
        let mut live = self.entry.live();
        if live.reachability == Reachability::Unknown {
            live.reachability = Reachability::Connecting;
        }
    }

    fn count_logins(&self, session: &Session, before: u64) -> u64 {
        let logins = session.logins();
        let new = logins.saturating_sub(before);
        self.shared.counts.logins(u32::try_from(new).unwrap_or(u32::MAX));
        self.shared.logins.count(&self.entry, new, self.shared.clock.now());
        logins
    }

    fn publish(&self, event: Event) {
        // No receiver means no open page; then there is nobody to tell.
        drop(self.shared.events.send(event));
    }
}

/// Ends when the connection does; never for a way that has none. A server with a long interval is not noticed as lost
/// only at its next reading.
async fn lost(connection: Option<&Connection>) {
    match connection {
        Some(connection) => connection.closed().await,
        None => std::future::pending().await,
    }
}

/// Ends when a command can only run in place of the readings; never for a way that has no connection.
async fn wanted(connection: Option<&Connection>) {
    match connection {
        Some(connection) => connection.readings_are_to_give_way().await,
        None => std::future::pending().await,
    }
}

fn reading_limit(interval: Duration) -> Duration {
    (interval * 3 / 2).clamp(READING_LIMIT.0, READING_LIMIT.1)
}

/// The first time after `last` that belongs to this server's phase, at least half an interval away.
fn next_in_phase(epoch: Instant, interval: Duration, number: u32, last: Instant) -> Instant {
    // The golden ratio spreads consecutive numbers evenly over the interval.
    let fraction = f64::from(number) * 0.618_033_988_749_895 % 1.0;
    let phase = interval.mul_f64(fraction);
    let earliest = last + interval / 2;
    let since = earliest.saturating_duration_since(epoch + phase);
    let periods = since.as_nanos().div_ceil(interval.as_nanos().max(1));
    epoch + phase + interval.saturating_mul(u32::try_from(periods).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_of_a_fleet_are_spread_over_the_interval() {
        let epoch = Instant::now();
        let interval = Duration::from_secs(5);
        let mut slots = [0_u32; 10];
        for number in 0..1000 {
            let at = next_in_phase(epoch, interval, number, epoch + Duration::from_secs(60));
            let offset = at.duration_since(epoch).as_millis() % 5000;
            slots[usize::try_from(offset / 500).unwrap()] += 1;
        }
        assert!(slots.iter().all(|count| (90..=110).contains(count)), "{slots:?}");
    }

    #[test]
    fn a_server_is_read_once_an_interval() {
        let epoch = Instant::now();
        let interval = Duration::from_secs(5);
        let mut at = next_in_phase(epoch, interval, 7, epoch);
        for _ in 0..20 {
            let next = next_in_phase(epoch, interval, 7, at);
            assert_eq!(next.duration_since(at), interval);
            at = next;
        }
    }

    #[test]
    fn two_missed_readings_are_noticed_within_three_intervals() {
        for seconds in [1, 5, 10] {
            let interval = Duration::from_secs(seconds);
            assert!(interval + reading_limit(interval) <= interval * 3);
        }
    }
}
