//! Runs the commands of custom metrics, each on its own time, over the connections that there are.
//!
//! What a command says goes to the live state; the next reading of the server takes it along to history, pages and
//! listeners. A command that fails is told where the metric is defined and is never an outage.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::custom::Trial;
use super::hands::Hand;
use super::registry::Entry;
use super::{Fleet, FleetError};
use crate::collect::custom::{self, Format, OUTPUT_BYTES, Parsed, Reading};
use crate::model::{
    Caller, CustomMetric, CustomMetricId, OrganizationId, Reachability, Sample, SeriesKey, Server, ServerId,
    Timestamp, Transport,
};
use crate::quote::quote;
use crate::ssh::{ExecRequest, Output, SshError, Sudo};
use crate::store::custom_metrics;

/// Commands at the same time over the whole fleet; each waits for its server, hardly for us.
const AT_ONCE: usize = 32;
/// How often it is asked which commands are due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Which servers a selector means is found anew this often: tags and health change.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// The first runs of a metric are spread over at most this.
const SPREAD: Duration = Duration::from_secs(10);
/// A connection that is not there by then is not waited for; the next run tries again.
const HAND_LIMIT: Duration = Duration::from_secs(15);
/// Custom values of one server over all metrics; a quarter of the series that history grants one server.
const VALUES_A_SERVER: usize = 2_000;
/// How much of an output a person is shown when a command is tried.
const SHOWN_CHARS: usize = 16 * 1024;
/// How much of an error is kept for the page.
const ERROR_CHARS: usize = 300;

/// How the last run of a metric on one server went.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RunState {
    /// None: it has not run yet.
    pub last_run_at: Option<Timestamp>,
    /// Why the last run brought nothing.
    pub error: Option<String>,
    pub exit_status: Option<u32>,
    pub elapsed_ms: Option<u64>,
    pub format: Option<Format>,
    pub values: Vec<Reading>,
    /// What of the output was left out, and why.
    pub notices: Vec<String>,
    /// Since Roundsman started or the metric was changed.
    pub runs: u64,
    pub failures: u64,
}

#[derive(Debug)]
struct Run {
    due: Instant,
    is_under_way: bool,
    state: RunState,
}

#[derive(Debug)]
struct Definition {
    metric: Arc<CustomMetric>,
    servers: Vec<ServerId>,
    resolved: Option<Instant>,
}

/// All custom metrics and how they do.
#[derive(Debug)]
pub struct CustomMetrics {
    definitions: RwLock<Vec<Definition>>,
    runs: Mutex<HashMap<(CustomMetricId, ServerId), Run>>,
    changed: Notify,
    permits: Arc<Semaphore>,
    allow_local: bool,
}

/// Values of custom metrics that wait for the next reading of their server.
#[derive(Debug, Default)]
pub struct Waiting(HashMap<SeriesKey, f64>);

impl Waiting {
    /// As samples of a reading; nothing waits any longer.
    pub fn take(&mut self) -> impl Iterator<Item = Sample> + use<> {
        std::mem::take(&mut self.0).into_iter().map(|(key, value)| Sample { key, value })
    }

    /// False: too much waits already.
    fn put(&mut self, sample: Sample) -> bool {
        let has_room = self.0.len() < VALUES_A_SERVER || self.0.contains_key(&sample.key);
        if has_room {
            self.0.insert(sample.key, sample.value);
        }
        has_room
    }
}

impl CustomMetrics {
    pub fn new(allow_local: bool) -> Self {
        Self {
            definitions: RwLock::default(),
            runs: Mutex::default(),
            changed: Notify::new(),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            allow_local,
        }
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<(CustomMetricId, ServerId), Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn of(&self, organization: OrganizationId) -> Vec<Arc<CustomMetric>> {
        let definitions = self.definitions.read().unwrap_or_else(PoisonError::into_inner);
        let of =
            definitions.iter().map(|one| &one.metric).filter(|metric| metric.organization == organization);
        of.cloned().collect()
    }

    /// Adds a definition, or puts it in the place of the one before.
    pub fn put(&self, metric: Arc<CustomMetric>) {
        let mut definitions = self.definitions.write().unwrap_or_else(PoisonError::into_inner);
        definitions.retain(|one| one.metric.id != metric.id);
        definitions.push(Definition { metric, servers: Vec::new(), resolved: None });
        drop(definitions);
        self.changed.notify_one();
    }

    pub fn remove(&self, id: CustomMetricId) {
        let mut definitions = self.definitions.write().unwrap_or_else(PoisonError::into_inner);
        definitions.retain(|one| one.metric.id != id);
    }

    pub fn state(&self, id: CustomMetricId, server: ServerId) -> RunState {
        self.runs().get(&(id, server)).map(|run| run.state.clone()).unwrap_or_default()
    }

    /// The definition is the one that is in force.
    fn is_current(&self, metric: &Arc<CustomMetric>) -> bool {
        let definitions = self.definitions.read().unwrap_or_else(PoisonError::into_inner);
        definitions.iter().any(|one| Arc::ptr_eq(&one.metric, metric))
    }

    /// What is due now, each marked as under way.
    fn begin_due(&self, now: Instant) -> Vec<(Arc<CustomMetric>, ServerId)> {
        let definitions = self.definitions.read().unwrap_or_else(PoisonError::into_inner);
        let mut runs = self.runs();
        let meant: HashSet<(CustomMetricId, ServerId)> = definitions
            .iter()
            .flat_map(|one| one.servers.iter().map(|server| (one.metric.id, *server)))
            .collect();
        runs.retain(|key, run| run.is_under_way || meant.contains(key));
        let mut due = Vec::new();
        for one in definitions.iter().filter(|one| one.metric.enabled) {
            let spread = one.metric.interval.min(SPREAD);
            for (place, server) in one.servers.iter().enumerate() {
                let run = runs.entry((one.metric.id, *server)).or_insert_with(|| Run {
                    // The first server at once, so that whoever defines a metric sees it work.
                    due: now + spread.mul_f64(share(place)),
                    is_under_way: false,
                    state: RunState::default(),
                });
                if !run.is_under_way && run.due <= now {
                    run.is_under_way = true;
                    run.due = now + one.metric.interval;
                    due.push((Arc::clone(&one.metric), *server));
                }
            }
        }
        due
    }

    fn ended(&self, metric: &Arc<CustomMetric>, server: ServerId, mut state: RunState) {
        let is_current = self.is_current(metric);
        let mut runs = self.runs();
        let Some(run) = runs.get_mut(&(metric.id, server)) else { return };
        run.is_under_way = false;
        if is_current {
            state.runs = run.state.runs + 1;
            state.failures = run.state.failures + u64::from(state.error.is_some());
            run.state = state;
        }
    }
}

/// Where in its span the run of a server lies; the golden ratio spreads them evenly, and the first is at its start.
fn share(place: usize) -> f64 {
    f64::from(u32::try_from(place).unwrap_or(u32::MAX)) * 0.618_033_988_749_895 % 1.0
}

/// A command that ran to its end.
#[derive(Debug)]
pub struct Ran {
    pub output: Output,
}

/// Runs a command once over the way for actions.
///
/// # Errors
/// Why it did not run to its end, a sentence for a person, with what it printed until then.
pub async fn run_once(
    fleet: &Fleet,
    caller: &Caller,
    server: ServerId,
    command: &str,
    sudo: bool,
    timeout: Duration,
) -> Result<Ran, (String, Option<Output>)> {
    let unable = |why: String| (why, None);
    let target =
        fleet.action_target(caller, &server.to_string()).map_err(|error| unable(error.to_string()))?;
    if target.transport == Transport::Local && !fleet.inner.custom.allow_local {
        return Err(unable(
            "commands on the machine that Roundsman runs on need allow_local_actions = true in the configuration file"
                .to_owned(),
        ));
    }
    if let Some(why) = target.impediment {
        return Err(unable(why));
    }
    let hand = tokio::time::timeout(HAND_LIMIT, fleet.hand(caller, server)).await;
    let hand =
        hand.map_err(|_| unable("there is no connection to the server".to_owned()))?.map_err(unable)?;
    let mut request = ExecRequest::new(command).timeout(timeout).output_limit(OUTPUT_BYTES + 1);
    if sudo && matches!(hand, Hand::Ssh(..)) {
        let kept = fleet.sudo_password(server).await.map_err(|error| unable(error.to_string()))?;
        request = request.sudo(kept.map_or(Sudo::NonInteractive, Sudo::Password));
    } else if sudo && !target.surroundings.is_root {
        let quoted = quote(command).map_err(|error| unable(error.to_string()))?;
        request.command = format!("sudo -n /bin/sh -c {quoted}");
    }
    match hand.exec(request).await {
        Ok(output) => Ok(Ran { output }),
        Err(SshError::CommandTimedOut { after_ms, partial }) => {
            Err((format!("it did not end within {} s and was ended", after_ms / 1000), Some(*partial)))
        }
        Err(error) => Err(unable(format!("{error} {}", error.advice()))),
    }
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// What a run came to. A command may end with any status as long as it brings values: those of Nagios do.
fn judge(ran: Result<Ran, (String, Option<Output>)>, name: &str, now: Timestamp) -> RunState {
    let mut state = RunState { last_run_at: Some(now), ..RunState::default() };
    let output = match ran {
        Ok(ran) => ran.output,
        Err((why, _)) => {
            state.error = Some(crate::ssh::printable::line(why.as_bytes(), ERROR_CHARS));
            return state;
        }
    };
    state.exit_status = output.exit_status;
    state.elapsed_ms = Some(milliseconds(output.wall));
    let parsed = custom::parse(&output.stdout, name);
    if parsed.values.is_empty() {
        let ended = match (output.exit_status, &output.signal) {
            (Some(0), _) => "it printed no value".to_owned(),
            (Some(status), _) => format!("it ended with status {status} and printed no value"),
            (None, signal) => format!("signal {} ended it", signal.as_deref().unwrap_or("unknown")),
        };
        let said = [&output.stderr, &output.stdout].into_iter().find(|bytes| !bytes.trim_ascii().is_empty());
        let said = said.map(|bytes| crate::ssh::printable::line(bytes.trim_ascii(), ERROR_CHARS));
        state.error = Some(said.map_or_else(|| ended.clone(), |said| format!("{ended}: {said}")));
    }
    state.format = Some(parsed.format);
    state.notices = parsed.notices;
    state.values = parsed.values;
    state
}

impl Trial {
    pub(super) fn of(server: &Server, ran: Result<Ran, (String, Option<Output>)>, name: &str) -> Self {
        let (output, error) = match ran {
            Ok(ran) => (Some(ran.output), None),
            Err((why, output)) => (output, Some(why)),
        };
        let text = |bytes: &[u8]| crate::ssh::printable::text(bytes, SHOWN_CHARS);
        let parsed: Option<Parsed> = match (&output, &error) {
            (Some(output), None) => Some(custom::parse(&output.stdout, name)),
            _ => None,
        };
        let output = output.unwrap_or_default();
        Self {
            server_id: server.id,
            server_name: server.name.to_string(),
            exit_status: output.exit_status,
            elapsed_ms: milliseconds(output.wall),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
            error,
            parsed,
        }
    }
}

impl Fleet {
    /// Reads the definitions from the store and runs them until the fleet stops.
    pub(super) async fn start_custom_metrics(&self) -> Result<(), FleetError> {
        for metric in self.inner.store.read(custom_metrics::all).await? {
            self.inner.custom.put(Arc::new(metric));
        }
        if self.inner.polling == super::Polling::On {
            let fleet = self.clone();
            self.inner.pollers.spawn(async move {
                let stop = fleet.inner.stop.clone();
                tokio::select! {
                    () = fleet.run_custom_metrics() => {}
                    () = stop.cancelled() => {}
                }
            });
        }
        Ok(())
    }

    async fn run_custom_metrics(&self) {
        loop {
            self.resolve_custom_metrics();
            for (metric, server) in self.inner.custom.begin_due(Instant::now()) {
                let (fleet, stop) = (self.clone(), self.inner.stop.clone());
                self.inner.pollers.spawn(async move {
                    tokio::select! {
                        () = fleet.run_custom_metric(&metric, server) => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.inner.custom.changed.notified() => {}
            }
        }
    }

    /// Finds which servers each metric is meant for, where that was not found for a while.
    fn resolve_custom_metrics(&self) {
        let now = Instant::now();
        let due: Vec<Arc<CustomMetric>> = {
            let definitions = self.inner.custom.definitions.read().unwrap_or_else(PoisonError::into_inner);
            let is_old = |at: Option<Instant>| at.is_none_or(|at| now.duration_since(at) >= RESOLVE_EVERY);
            definitions.iter().filter(|one| is_old(one.resolved)).map(|one| Arc::clone(&one.metric)).collect()
        };
        for metric in due {
            let servers = match self.meant_by(&as_roundsman(&metric), &metric.selector) {
                Ok(found) => found.into_iter().map(|(id, _)| id).collect(),
                Err(error) => {
                    tracing::warn!(metric = metric.name, %error, "the servers of a custom metric cannot be told");
                    Vec::new()
                }
            };
            let mut definitions =
                self.inner.custom.definitions.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(one) = definitions.iter_mut().find(|one| Arc::ptr_eq(&one.metric, &metric)) {
                one.servers = servers;
                one.resolved = Some(now);
            }
        }
    }

    async fn run_custom_metric(&self, metric: &Arc<CustomMetric>, server: ServerId) {
        let custom = &self.inner.custom;
        let Some(entry) = self.inner.registry.get(server) else {
            return custom.ended(metric, server, RunState::default());
        };
        let Ok(_permit) = Arc::clone(&custom.permits).acquire_owned().await else { return };
        let ran = if entry.live().reachability == Reachability::Reachable {
            let caller = as_roundsman(metric);
            run_once(self, &caller, server, &metric.command, metric.sudo, metric.timeout).await
        } else {
            Err(("it was not run, because the server cannot be read now".to_owned(), None))
        };
        let mut state = judge(ran, &metric.name, self.inner.clock.now());
        if custom.is_current(metric) {
            take_values(&entry, &custom.state(metric.id, server).values, &mut state);
        }
        custom.ended(metric, server, state);
    }

    /// Figures of a metric that changed or is gone are current no longer.
    pub(super) fn forget_custom_figures(&self, id: CustomMetricId) {
        let gone: Vec<(ServerId, Vec<Reading>)> = {
            let mut runs = self.inner.custom.runs();
            let keys: Vec<_> = runs.keys().filter(|(metric, _)| *metric == id).copied().collect();
            // A run that is under way finds no place any longer and says nothing.
            keys.into_iter().filter_map(|key| Some((key.1, runs.remove(&key)?.state.values))).collect()
        };
        for (server, values) in gone {
            if let Some(entry) = self.inner.registry.get(server) {
                drop_figures(&entry, &values, &[]);
            }
        }
    }
}

fn as_roundsman(metric: &CustomMetric) -> Caller {
    Caller { organization: metric.organization, ..Caller::roundsman() }
}

/// The values wait for the next reading; what the run before brought and this one does not is a figure no longer.
fn take_values(entry: &Entry, before: &[Reading], state: &mut RunState) {
    drop_figures(entry, before, &state.values);
    let mut live = entry.live();
    let untaken = state.values.iter().filter(|value| !live.custom.put(value.sample())).count();
    if untaken > 0 {
        let text = format!(
            "{untaken} values were not kept: this server has {VALUES_A_SERVER} custom values already"
        );
        state.notices.insert(0, text);
    }
}

fn drop_figures(entry: &Entry, before: &[Reading], now: &[Reading]) {
    let is_gone = |old: &&Reading| !now.iter().any(|new| new.name == old.name && new.label == old.label);
    let gone: Vec<&Reading> = before.iter().filter(is_gone).collect();
    if gone.is_empty() {
        return;
    }
    let mut live = entry.live();
    let figures = Arc::make_mut(&mut live.figures);
    let mut custom: BTreeMap<String, f64> = (*figures.custom).clone();
    custom.retain(|name, _| !gone.iter().any(|old| old.name == *name));
    figures.custom = Arc::new(custom);
}
