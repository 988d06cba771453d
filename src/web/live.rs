//! `GET /live`: keeps an open page true over one WebSocket.
//!
//! Each page has a task of its own. It renders the same partials as the page and sends only what changed;
//! a slow browser holds up nobody but itself.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, MissedTickBehavior};
use warp::ws::{Message, WebSocket};

use super::pages::operation_look::Look;
use super::pages::server::Tab;
use super::pages::{Fragment, Viewer, fleet as fleet_page};
use super::request::{Access, REVISIT, Request, still_welcome};
use super::routes::Route;
use crate::fleet::{ServerFilter, ServerState};
use crate::model::{Caller, Event, OperationId, Sample, ServerId, TaskId, Timestamp};
use crate::services::Services;

/// A browser that takes no message for so long is gone.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// Readings of a fleet that arrive close together travel in one message.
const GATHER: Duration = Duration::from_millis(40);
/// The counts of the whole fleet are sent at most this often.
const SUMMARY_EVERY: Duration = Duration::from_secs(1);
/// What an operation prints is gathered for so long: faster than this nobody reads.
const OPERATION_EVERY: Duration = Duration::from_millis(200);
/// The list of operations, and of the commands of a server, change at most this often while many run.
const LISTS_EVERY: Duration = Duration::from_secs(1);

/// A message from a page is a few numbers; a longer one is not read.
const SAID_BYTES: usize = 1024;

/// The routes of this file.
pub(super) fn routes() -> Vec<Route> {
    vec![Route::socket("/live", Access::VIEWER, attend)]
}

/// What a page shows.
enum View {
    Fleet(fleet_page::FleetQuery),
    Server {
        id: String,
        tab: Tab,
        query: Vec<(String, String)>,
    },
    /// Servers beside each other: their samples.
    Charts,
    Operations,
    Operation {
        id: OperationId,
        look: Look,
    },
    Tasks,
    Task(TaskId),
}

impl View {
    /// From `view=fleet&…`, `view=group:ID`, `view=server:ID:TAB&…`, `view=charts&server=…`, `view=operations`, `view=operation:ID`, `view=tasks` or `view=task:ID`. The page's
    /// own `view` comes as `page_view`. None: no page of ours asks like that.
    fn of(request: &Request) -> Option<Self> {
        let rest = request.query.iter().filter(|(name, _)| name != "view").cloned();
        let rest = rest.map(|(name, value)| match name.as_str() {
            "page_view" => ("view".to_owned(), value),
            _ => (name, value),
        });
        match request.query("view")?.split(':').collect::<Vec<_>>().as_slice() {
            ["fleet"] => Some(Self::Fleet(fleet_page::FleetQuery::from_pairs(rest))),
            ["group", id] => {
                let group = (*id).to_owned();
                Some(Self::Fleet(fleet_page::FleetQuery { group, ..fleet_page::FleetQuery::default() }))
            }
            ["server", id, tab] => {
                Some(Self::Server { id: (*id).to_owned(), tab: Tab::find(tab)?, query: rest.collect() })
            }
            ["charts"] => Some(Self::Charts),
            ["operations"] => Some(Self::Operations),
            ["operation", id] => {
                let look = Look::of(|name| request.query(name));
                Some(Self::Operation { id: id.parse().ok()?, look })
            }
            ["tasks"] => Some(Self::Tasks),
            ["task", id] => Some(Self::Task(id.parse().ok()?)),
            _ => None,
        }
    }
}

/// One message from a page.
#[derive(Deserialize)]
struct Said {
    /// Positions of the targets that are opened.
    open: Vec<u32>,
}

/// One message to a page.
#[derive(Default, Serialize)]
struct Update {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fragments: Vec<Fragment>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    samples: Vec<Value>,
    /// The page must be fetched again: what belongs on it changed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    reload: bool,
}

impl Update {
    const fn is_empty(&self) -> bool {
        self.fragments.is_empty() && self.samples.is_empty() && !self.reload
    }
}

/// What has happened since the last message.
#[derive(Default)]
struct Gathered {
    changed: HashSet<ServerId>,
    samples: Vec<Value>,
    reload: bool,
    summary_due: bool,
    /// Servers of the shown operation that changed, or servers on which a command did.
    acted_on: HashSet<ServerId>,
    /// What the page was made from may be old: everything on it that an operation changes.
    all_acted_on: bool,
}

impl Gathered {
    fn is_waiting(&self) -> bool {
        !self.changed.is_empty()
            || self.reload
            || self.summary_due
            || !self.acted_on.is_empty()
            || self.all_acted_on
            || !self.samples.is_empty()
    }
}

struct Attendant {
    services: Services,
    caller: Caller,
    viewer: Viewer,
    view: View,
    headers: HeaderMap,
    outgoing: SplitSink<WebSocket, Message>,
    /// Servers whose row the page has.
    shown: HashSet<ServerId>,
    /// Servers whose charts stand beside those of the page's own.
    beside: HashSet<ServerId>,
    summary_sent: Option<Instant>,
}

async fn attend(request: Request, services: Services, socket: WebSocket) {
    let Some(view) = View::of(&request) else { return };
    let Ok(viewer) = super::site::viewer(&request) else { return };
    let beside = beside(&request, &services, &view);
    let headers = request.headers;
    let Some(caller) = request.caller else { return };
    let mut events = services.fleet.subscribe();
    let (outgoing, mut incoming) = socket.split();
    let mut attendant = Attendant {
        services,
        caller,
        viewer,
        view,
        headers,
        outgoing,
        shown: HashSet::new(),
        beside,
        summary_sent: None,
    };
    attendant.shown = attendant.matching();
    attendant.look();
    let mut revisit = tokio::time::interval(REVISIT);
    revisit.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // An operation may have gone on, or ended, between the page and its socket; no event would tell.
    let mut gathered = Gathered { all_acted_on: attendant.shows_actions(), ..Gathered::default() };
    let mut send_at = gathered.is_waiting().then(Instant::now);
    loop {
        let due = send_at.unwrap_or_else(|| Instant::now() + REVISIT);
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => attendant.gather(&event, &mut gathered),
                Err(RecvError::Lagged(_)) => gathered.reload = true,
                Err(RecvError::Closed) => return,
            },
            said = incoming.next() => match said {
                Some(Ok(said)) if !said.is_close() => attendant.hear(&said),
                _ => return,
            },
            _ = revisit.tick() => {
                if !still_welcome(&attendant.headers, attendant.caller.from, &attendant.services).await {
                    return;
                }
                attendant.look();
            }
            () = tokio::time::sleep_until(due), if send_at.is_some() => {
                send_at = None;
                if !attendant.send(std::mem::take(&mut gathered)).await {
                    return;
                }
            }
        }
        if gathered.is_waiting() && send_at.is_none() {
            send_at = Some(Instant::now() + attendant.delay());
        }
    }
}

impl Attendant {
    const fn delay(&self) -> Duration {
        match self.view {
            View::Fleet(_) => GATHER,
            View::Server { tab: Tab::Commands, .. } | View::Operations | View::Tasks | View::Task(_) => {
                LISTS_EVERY
            }
            View::Charts | View::Server { .. } => Duration::ZERO,
            View::Operation { .. } => OPERATION_EVERY,
        }
    }

    const fn shows_actions(&self) -> bool {
        matches!(self.view, View::Operation { .. } | View::Server { tab: Tab::Commands, .. })
    }

    /// A page of an operation says which servers are opened on it: only their output is sent. Anything else is not ours.
    fn hear(&mut self, said: &Message) {
        let View::Operation { look, .. } = &mut self.view else { return };
        let Some(text) = said.to_str().ok().filter(|text| text.len() <= SAID_BYTES) else { return };
        if let Ok(Said { open }) = serde_json::from_str(text) {
            look.open(open.into_iter());
        }
    }

    /// Servers that belong on the page.
    fn matching(&self) -> HashSet<ServerId> {
        let View::Fleet(query) = &self.view else { return HashSet::new() };
        let states = self.services.fleet.list(&self.caller, &ServerFilter::default()).unwrap_or_default();
        query.select(&states).into_iter().map(|state| state.server.id).collect()
    }

    /// Somebody looks at details: they are read at every interval meanwhile.
    fn look(&self) {
        if let View::Server { id, tab: Tab::Processes | Tab::Services | Tab::Containers | Tab::Users, .. } =
            &self.view
            && let Err(error) = self.services.fleet.look(&self.caller, id)
        {
            tracing::debug!(%error, "an open page shows a server that is gone");
        }
    }

    fn concerns(&self, server: ServerId) -> bool {
        match &self.view {
            View::Fleet(_) => true,
            View::Server { id, .. } => *id == server.to_string(),
            View::Charts | View::Operations | View::Operation { .. } | View::Tasks | View::Task(_) => false,
        }
    }

    fn gather(&self, event: &Event, gathered: &mut Gathered) {
        if !event.concerns(self.caller.organization) {
            return;
        }
        if matches!(event, Event::History { .. }) {
            // The banner stands in the frame, which only the page itself renders.
            gathered.reload = true;
            return;
        }
        if let Event::Task { task, .. } = event {
            gathered.reload |=
                matches!(self.view, View::Tasks) || matches!(&self.view, View::Task(shown) if shown == task);
            return;
        }
        if let Event::Operation { operation, servers, .. } = event {
            match &self.view {
                View::Operations => gathered.reload = true,
                View::Operation { id, .. } if id == operation => {
                    gathered.acted_on.extend(servers.iter());
                }
                View::Server { tab: Tab::Commands, .. } => {
                    gathered.acted_on.extend(servers.iter().filter(|server| self.concerns(**server)));
                }
                _ => {}
            }
            return;
        }
        if let Event::Reading { server, at, samples, .. } = event
            && self.beside.contains(server)
        {
            gathered.samples.push(sampled(*server, *at, samples));
        }
        if !event.server().is_some_and(|server| self.concerns(server)) {
            return;
        }
        match event {
            Event::Reading { server, at, samples, .. } => {
                gathered.changed.insert(*server);
                gathered.summary_due = true;
                if matches!(self.view, View::Server { tab: Tab::Metrics, .. }) {
                    gathered.samples.push(sampled(*server, *at, samples));
                }
            }
            Event::Health { server, .. } => {
                gathered.changed.insert(*server);
                gathered.summary_due = true;
            }
            Event::ServerChanged { .. } | Event::ServerRemoved { .. } => gathered.reload = true,
            Event::Operation { .. } | Event::Task { .. } | Event::Transfer { .. } | Event::History { .. } => {
            }
        }
    }

    /// False: the browser is gone.
    async fn send(&mut self, gathered: Gathered) -> bool {
        let acted_on = self.render_actions(&gathered).await;
        let mut update = self.render(gathered);
        update.fragments.extend(acted_on);
        if update.is_empty() {
            return true;
        }
        let Ok(text) = serde_json::to_string(&update) else { return false };
        let sent = tokio::time::timeout(SEND_LIMIT, self.outgoing.send(Message::text(text))).await;
        matches!(sent, Ok(Ok(())))
    }

    /// The parts of the page that an operation changed.
    async fn render_actions(&self, gathered: &Gathered) -> Vec<Fragment> {
        if gathered.acted_on.is_empty() && !gathered.all_acted_on {
            return Vec::new();
        }
        match &self.view {
            View::Operation { id, look } => {
                let changed = (!gathered.all_acted_on).then_some(&gathered.acted_on);
                let (viewer, id) = (&self.viewer, id.to_string());
                let shown = (id.as_str(), look);
                super::site::fragments_of_operation(&self.services, &self.caller, viewer, shown, changed)
                    .await
            }
            View::Server { id, tab: Tab::Commands, query } => {
                super::site::command_fragments(&self.services, &self.caller, id, query).await
            }
            _ => Vec::new(),
        }
    }

    fn render(&mut self, gathered: Gathered) -> Update {
        let mut update = Update { samples: gathered.samples, reload: gathered.reload, ..Update::default() };
        let now = self.services.clock.now();
        for id in gathered.changed {
            // A server that was removed meanwhile sends an event of its own.
            let Ok(state) = self.services.fleet.get(&self.caller, &id.to_string()) else { continue };
            match &self.view {
                View::Fleet(query) => {
                    let belongs = query.matches(&state);
                    if belongs != self.shown.contains(&id) {
                        update.reload = true;
                    } else if belongs {
                        update.fragments.extend(fleet_page::row_fragments(&state, now));
                    }
                }
                View::Server { tab, query, .. } => {
                    update.fragments.extend(self.server_fragments(&state, *tab, query));
                }
                View::Charts | View::Operations | View::Operation { .. } | View::Tasks | View::Task(_) => {}
            }
        }
        if matches!(self.view, View::Fleet(_)) {
            if update.reload {
                self.shown = self.matching();
            }
            let due = self.summary_sent.is_none_or(|at| at.elapsed() >= SUMMARY_EVERY);
            if gathered.summary_due
                && due
                && let Ok(summary) = self.services.fleet.summary(&self.caller)
            {
                update.fragments.extend(fleet_page::summary_fragments(&summary));
                self.summary_sent = Some(Instant::now());
            }
        }
        update
    }

    fn server_fragments(&self, state: &ServerState, tab: Tab, query: &[(String, String)]) -> Vec<Fragment> {
        super::site::server_fragments(&self.services, &self.caller, state, tab, query)
    }
}

/// The servers that a page of charts names, as far as the caller may see them.
fn beside(request: &Request, services: &Services, view: &View) -> HashSet<ServerId> {
    let Some(caller) = &request.caller else { return HashSet::new() };
    if !matches!(view, View::Charts | View::Server { tab: Tab::Metrics, .. }) {
        return HashSet::new();
    }
    let pairs = request.query.iter().cloned();
    let named = super::pages::charts::ChartQuery::from_pairs(pairs).servers;
    named.iter().filter_map(|name| Some(services.fleet.get(caller, name).ok()?.server.id)).collect()
}

fn sampled(server: ServerId, at: Timestamp, samples: &[Sample]) -> Value {
    json!({ "server": server, "at": at.as_millis(), "values": values(samples) })
}

/// The samples of a reading by the names of their series, as pages and programs receive them.
pub(super) fn values(samples: &[Sample]) -> Map<String, Value> {
    samples.iter().map(|sample| (sample.key.to_string(), json!(sample.value))).collect()
}
