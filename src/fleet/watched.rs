//! Watched services: definitions, where they apply, and what the processes of a reading say of them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Notify;

use super::registry::{Entry, Live};
use super::{Fleet, FleetError};
use crate::actions::{COMMAND_LIMIT_BYTES, mask};
use crate::auth;
use crate::collect::rates;
use crate::model::{
    Caller, OrganizationId, Process, Role, Sections, Selector, ServerId, Service, ServiceVerb, Snapshot,
    Timestamp, WatchedService, WatchedServiceId,
};
use crate::store::audit::{self, Entry as AuditEntry};
use crate::store::{StoreError, watched};

/// Definitions of one organization; more nobody keeps an eye on.
const DEFINITIONS: usize = 500;
const NAME_CHARS: usize = 64;
const DESCRIPTION_CHARS: usize = 500;
const KEYWORDS: usize = 10;
const KEYWORD_CHARS: usize = 200;
/// Which servers a selector means is found anew this often: tags, groups and health change.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);

/// A new definition, or what is to change of one: None leaves it as it is.
#[derive(Debug, Clone, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WatchedServiceEdit {
    /// Letters, digits and `: . _ @ -`; needed for a new one.
    pub name: Option<String>,
    pub description: Option<String>,
    /// All of them stand in the command line. None: the program is called as the service is.
    pub keywords: Option<Vec<String>>,
    /// POSIX shell text that returns, at most a minute later. Empty: none.
    pub start_command: Option<String>,
    pub stop_command: Option<String>,
    /// Run the commands as root: by sudo where the login is not root's.
    pub sudo: Option<bool>,
    /// The servers: all, servers, groups, tags, regions, environments, health, status. Needed for a new one.
    #[schema(value_type = Object)]
    pub selector: Option<Selector>,
}

/// What is watched on one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedHere {
    pub name: String,
    pub keywords: Vec<String>,
    /// What can be done to it from here.
    pub verbs: Vec<ServiceVerb>,
}

impl WatchedHere {
    fn of(watched: &WatchedService) -> Self {
        Self {
            name: watched.name.clone(),
            keywords: watched.keywords.clone(),
            verbs: [ServiceVerb::Restart, ServiceVerb::Stop, ServiceVerb::Start]
                .into_iter()
                .filter(|verb| watched.command(*verb).is_some())
                .collect(),
        }
    }
}

/// All definitions.
#[derive(Debug, Default)]
pub struct WatchBook {
    definitions: RwLock<Vec<Arc<WatchedService>>>,
    changed: Notify,
}

impl WatchBook {
    fn all(&self) -> Vec<Arc<WatchedService>> {
        self.definitions.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn of(&self, organization: OrganizationId) -> Vec<Arc<WatchedService>> {
        let mut found = self.all();
        found.retain(|one| one.organization == organization);
        found.sort_by(|left, right| left.name.cmp(&right.name));
        found
    }

    fn put(&self, watched: Arc<WatchedService>) {
        let mut definitions = self.definitions.write().unwrap_or_else(PoisonError::into_inner);
        definitions.retain(|one| one.id != watched.id);
        definitions.push(watched);
    }

    fn remove(&self, id: WatchedServiceId) {
        self.definitions.write().unwrap_or_else(PoisonError::into_inner).retain(|one| one.id != id);
    }
}

/// What is watched on one server, and what was seen of it.
#[derive(Debug, Default)]
pub struct LiveWatched {
    definitions: Arc<[Arc<WatchedService>]>,
    /// The same for pages, without the commands, which only administrators read.
    here: Arc<[WatchedHere]>,
    /// Names of those that ran at the last reading and were not stopped from here since.
    running: HashSet<String>,
    /// Names of those that were stopped from here and are not gone yet.
    stopping: HashSet<String>,
}

impl LiveWatched {
    pub fn here(&self) -> Arc<[WatchedHere]> {
        Arc::clone(&self.here)
    }

    pub fn definitions(&self) -> Arc<[Arc<WatchedService>]> {
        Arc::clone(&self.definitions)
    }

    /// It was started or stopped from here: nobody is to take the end of one that was stopped for a failure.
    pub fn acted(&mut self, name: &str, verb: ServiceVerb) {
        if verb == ServiceVerb::Stop {
            self.running.remove(name);
            self.stopping.insert(name.to_owned());
        } else {
            self.stopping.remove(name);
        }
    }

    /// A reading saw it so.
    fn seen(&mut self, name: &str, is_active: bool) {
        if !is_active {
            self.stopping.remove(name);
        } else if !self.stopping.contains(name) {
            self.running.insert(name.to_owned());
        }
    }
}

/// Adds the watched services to those that the service manager told; where it knows one of that name, its word counts.
/// One that ran and is gone without having been stopped from here has failed; one that was never seen is inactive.
pub(super) fn add_watched(live: &mut Live, snapshot: &mut Snapshot, sections: Sections) {
    // What a server pushes without services has no manager that could tell any.
    if !sections.services && live.push.is_none() {
        return;
    }
    let registered = live.push.as_ref().map(|pushing| pushing.services.clone()).unwrap_or_default();
    if live.watched.definitions.is_empty() && registered.is_empty() {
        return;
    }
    let managed: HashSet<String> =
        snapshot.services.iter().flatten().map(|service| service.name.clone()).collect();
    let Some(processes) = snapshot.processes.as_deref() else { return };
    let mut found = Vec::new();
    let definitions = Arc::clone(&live.watched.definitions);
    let plain = registered.iter().filter(|name| !definitions.iter().any(|one| one.name == **name));
    let plain: Vec<WatchedService> = plain.map(|name| of_registration(name)).collect();
    for watched in definitions.iter().map(Arc::as_ref).chain(&plain) {
        if managed.contains(&watched.name) {
            continue;
        }
        let service = judged(watched, processes, snapshot, live.watched.running.contains(&watched.name));
        live.watched.seen(&watched.name, service.state == "active");
        found.push(service);
    }
    snapshot.services.get_or_insert_default().extend(found);
}

/// What a server that pushes plain figures named when it registered: nothing is known of it. None: it named nothing.
pub(super) fn only_named(live: &Live) -> Option<Vec<Service>> {
    let registered = live.push.as_ref().map(|pushing| pushing.services.as_slice()).unwrap_or_default();
    let named =
        |name: &String| Service { name: name.clone(), state: "unknown".to_owned(), ..Service::default() };
    (!registered.is_empty()).then(|| registered.iter().map(named).collect())
}

/// What a server named when it registered: a program of that name, which nobody can start or stop from here.
fn of_registration(name: &str) -> WatchedService {
    WatchedService {
        id: WatchedServiceId::new(uuid::Uuid::nil()),
        organization: OrganizationId::DEFAULT,
        name: name.to_owned(),
        description: String::new(),
        keywords: Vec::new(),
        start_command: None,
        stop_command: None,
        sudo: false,
        selector: Selector::default(),
        created_at: Timestamp::from_millis(0),
        updated_at: Timestamp::from_millis(0),
        updated_by: String::new(),
    }
}

fn judged(watched: &WatchedService, processes: &[Process], snapshot: &Snapshot, ran: bool) -> Service {
    let own: Vec<&Process> = processes.iter().filter(|process| watched.owns(process)).collect();
    let oldest = own.iter().min_by_key(|process| process.start_ticks);
    let (state, sub_state) = match (own.len(), ran) {
        (0, true) => ("failed", "gone".to_owned()),
        (0, false) => ("inactive", "no process".to_owned()),
        (1, _) => ("active", "1 process".to_owned()),
        (count, _) => ("active", format!("{count} processes")),
    };
    let memory = own.iter().map(|process| process.rss_bytes).fold(0_u64, u64::saturating_add);
    Service {
        name: watched.name.clone(),
        description: watched.description.clone(),
        state: state.to_owned(),
        sub_state,
        enabled: None,
        main_pid: oldest.map(|process| process.pid),
        memory_bytes: (!own.is_empty()).then_some(memory),
        restarts: None,
        since_ms: oldest.and_then(|process| rates::started_at_ms(snapshot, process)),
    }
}

impl WatchedServiceEdit {
    fn apply(self, watched: &mut WatchedService) -> Result<(), FleetError> {
        if let Some(name) = self.name {
            watched.name = name.trim().to_owned();
        }
        if let Some(description) = self.description {
            watched.description = description.trim().to_owned();
        }
        if let Some(keywords) = self.keywords {
            let words = keywords.iter().map(|word| word.trim().to_owned()).filter(|word| !word.is_empty());
            watched.keywords = words.collect();
        }
        let text =
            |text: String| Some(text.replace("\r\n", "\n").trim().to_owned()).filter(|text| !text.is_empty());
        if let Some(command) = self.start_command {
            watched.start_command = text(command);
        }
        if let Some(command) = self.stop_command {
            watched.stop_command = text(command);
        }
        watched.sudo = self.sudo.unwrap_or(watched.sudo);
        watched.selector = self.selector.unwrap_or_else(|| watched.selector.clone());
        check(watched)
    }
}

/// # Errors
/// [`FleetError::Invalid`] names the field and says what would be accepted.
fn check(watched: &WatchedService) -> Result<(), FleetError> {
    let may_stand = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '.' | '_' | '@' | '-');
    let name = watched.name.as_str();
    if name.is_empty()
        || name.len() > NAME_CHARS
        || !name.chars().all(may_stand)
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        let message = format!(
            "a name is made of letters, digits and : . _ @ -, begins with a letter or digit and has at most {NAME_CHARS} characters"
        );
        return Err(FleetError::invalid("name", message));
    }
    if watched.description.chars().count() > DESCRIPTION_CHARS {
        let message = format!("a description has at most {DESCRIPTION_CHARS} characters");
        return Err(FleetError::invalid("description", message));
    }
    let too_long = |word: &String| word.chars().count() > KEYWORD_CHARS || word.chars().any(char::is_control);
    if watched.keywords.len() > KEYWORDS || watched.keywords.iter().any(too_long) {
        let message = format!("there are at most {KEYWORDS} keywords of at most {KEYWORD_CHARS} characters");
        return Err(FleetError::invalid("keywords", message));
    }
    for (field, command) in
        [("start_command", &watched.start_command), ("stop_command", &watched.stop_command)]
    {
        if command.as_ref().is_some_and(|text| text.len() > COMMAND_LIMIT_BYTES || text.contains('\0')) {
            let message = format!("a command is text of at most {COMMAND_LIMIT_BYTES} bytes");
            return Err(FleetError::invalid(field, message));
        }
    }
    if watched.selector.is_empty() {
        return Err(FleetError::invalid(
            "selector",
            "say on which servers: all, by name, by tag, by group, …",
        ));
    }
    Ok(())
}

impl Fleet {
    /// The watched services of the organization, by name.
    ///
    /// # Errors
    /// [`FleetError::Auth`]: commands may name what only administrators should read.
    pub fn watched_services(&self, caller: &Caller) -> Result<Vec<Arc<WatchedService>>, FleetError> {
        auth::require(caller, Role::Admin)?;
        Ok(self.inner.watched.of(caller.organization))
    }

    /// One by id or name.
    ///
    /// # Errors
    /// [`FleetError::NoSuchWatchedService`].
    pub fn watched_service(
        &self,
        caller: &Caller,
        reference: &str,
    ) -> Result<Arc<WatchedService>, FleetError> {
        let id: Option<WatchedServiceId> = reference.parse().ok();
        self.watched_services(caller)?
            .into_iter()
            .find(|one| Some(one.id) == id || one.name == reference)
            .ok_or_else(|| FleetError::NoSuchWatchedService(crate::model::shown(reference, 80)))
    }

    /// Watches a service from the next reading on.
    ///
    /// # Errors
    /// [`FleetError::Invalid`], [`FleetError::WatchedServiceNameTaken`], [`FleetError::NoSuchServer`] and
    /// [`FleetError::NoSuchGroup`] for what the selector names.
    pub async fn add_watched_service(
        &self,
        caller: &Caller,
        edit: WatchedServiceEdit,
    ) -> Result<Arc<WatchedService>, FleetError> {
        auth::require(caller, Role::Admin)?;
        if self.inner.watched.of(caller.organization).len() >= DEFINITIONS {
            let message = format!("there may be at most {DEFINITIONS} watched services");
            return Err(FleetError::invalid("name", message));
        }
        let now = self.inner.clock.now();
        let mut watched = WatchedService {
            id: WatchedServiceId::new(self.inner.clock.new_uuid()),
            organization: caller.organization,
            created_at: now,
            updated_at: now,
            updated_by: caller.actor.to_string(),
            ..of_registration("")
        };
        edit.apply(&mut watched)?;
        self.store_watched(caller, "watched-service.add", watched).await
    }

    /// # Errors
    /// As [`Self::add_watched_service`], and [`FleetError::NoSuchWatchedService`].
    pub async fn edit_watched_service(
        &self,
        caller: &Caller,
        reference: &str,
        edit: WatchedServiceEdit,
    ) -> Result<Arc<WatchedService>, FleetError> {
        let mut watched = (*self.watched_service(caller, reference)?).clone();
        edit.apply(&mut watched)?;
        watched.updated_at = self.inner.clock.now();
        watched.updated_by = caller.actor.to_string();
        self.store_watched(caller, "watched-service.edit", watched).await
    }

    async fn store_watched(
        &self,
        caller: &Caller,
        action: &str,
        watched: WatchedService,
    ) -> Result<Arc<WatchedService>, FleetError> {
        // What it names has to be there now; what it chooses may come later.
        self.select(caller, &watched.selector)?;
        let shown = |command: &Option<String>| command.as_deref().map_or_else(|| "none".to_owned(), mask);
        let detail = format!(
            "{}, start: {}, stop: {}",
            if watched.sudo { "as root" } else { "as the login" },
            shown(&watched.start_command),
            shown(&watched.stop_command)
        );
        let record = AuditEntry::by(caller, action, &watched.name).detail(detail);
        let (stored, now) = (watched.clone(), watched.updated_at);
        self.inner
            .store
            .write(move |tx| {
                watched::save(tx, &stored)?;
                audit::append(tx, now, &record)
            })
            .await
            .map_err(|error| match error {
                StoreError::Conflict => FleetError::WatchedServiceNameTaken(watched.name.clone()),
                other => FleetError::Store(other),
            })?;
        let watched = Arc::new(watched);
        self.inner.watched.put(Arc::clone(&watched));
        self.resolve_watched();
        Ok(watched)
    }

    /// # Errors
    /// [`FleetError::NoSuchWatchedService`].
    pub async fn remove_watched_service(&self, caller: &Caller, reference: &str) -> Result<(), FleetError> {
        let watched = self.watched_service(caller, reference)?;
        let (organization, id, now) = (caller.organization, watched.id, self.inner.clock.now());
        let record = AuditEntry::by(caller, "watched-service.remove", &watched.name);
        self.inner
            .store
            .write(move |tx| {
                watched::remove(tx, organization, id)?;
                audit::append(tx, now, &record)
            })
            .await?;
        self.inner.watched.remove(id);
        self.resolve_watched();
        Ok(())
    }

    /// An action on a watched service succeeded.
    pub(crate) fn watched_was_acted_on(&self, server: ServerId, name: &str, verb: ServiceVerb) {
        if let Some(entry) = self.inner.registry.get(server) {
            entry.live().watched.acted(name, verb);
            entry.look();
        }
    }

    /// Reads the definitions and finds again and again where they apply, until the fleet stops.
    pub(super) async fn start_watching(&self) -> Result<(), FleetError> {
        for watched in self.inner.store.read(watched::all).await? {
            self.inner.watched.put(Arc::new(watched));
        }
        self.resolve_watched();
        if self.inner.polling == super::Polling::On {
            let fleet = self.clone();
            self.inner.pollers.spawn(async move {
                let stop = fleet.inner.stop.clone();
                loop {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = fleet.inner.watched.changed.notified() => {}
                        () = tokio::time::sleep(RESOLVE_EVERY) => {}
                    }
                    fleet.resolve_watched();
                }
            });
        }
        Ok(())
    }

    /// Finds the servers of every definition and tells each server its own.
    fn resolve_watched(&self) {
        let mut wanted: HashMap<ServerId, Vec<Arc<WatchedService>>> = HashMap::new();
        for watched in self.inner.watched.all() {
            let caller = Caller { organization: watched.organization, ..Caller::roundsman() };
            match self.meant_by(&caller, &watched.selector) {
                Ok(servers) => {
                    for (server, _) in servers {
                        wanted.entry(server).or_default().push(Arc::clone(&watched));
                    }
                }
                Err(error) => {
                    tracing::warn!(watched = watched.name, %error, "the servers of a watched service cannot be told");
                }
            }
        }
        for entry in self.inner.registry.all() {
            tell(&entry, wanted.remove(&entry.id).unwrap_or_default());
        }
    }
}

fn tell(entry: &Entry, mut definitions: Vec<Arc<WatchedService>>) {
    definitions.sort_by(|left, right| left.name.cmp(&right.name));
    let mut live = entry.live();
    let is_same = live.watched.definitions.len() == definitions.len()
        && live.watched.definitions.iter().zip(&definitions).all(|(left, right)| Arc::ptr_eq(left, right));
    if is_same {
        return;
    }
    live.watched.running.retain(|name| definitions.iter().any(|one| one.name == *name));
    live.watched.here = definitions.iter().map(|one| WatchedHere::of(one)).collect();
    live.watched.definitions = definitions.into();
    drop(live);
    entry.look();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(name: &str, keyword: &str) -> WatchedService {
        WatchedService { keywords: vec![keyword.to_owned()], ..of_registration(name) }
    }

    fn snapshot(lines: &[(u32, u64, &str)]) -> Snapshot {
        let process = |(pid, start_ticks, line): &(u32, u64, &str)| Process {
            pid: *pid,
            start_ticks: *start_ticks,
            rss_bytes: 1000,
            state: 'S',
            command_line: Some((*line).to_owned()),
            ..Process::default()
        };
        Snapshot {
            taken_at_ms: Some(1_000_000),
            uptime_ms: Some(100_000),
            ticks_per_second: Some(100),
            processes: Some(lines.iter().map(process).collect()),
            ..Snapshot::default()
        }
    }

    #[test]
    fn processes_of_a_watched_service_make_its_state_memory_and_since() {
        let reading =
            snapshot(&[(7, 500, "python bot.py"), (8, 200, "python bot.py worker"), (9, 1, "other")]);
        let processes = reading.processes.as_deref().unwrap();
        let service = judged(&watched("bot", "bot.py"), processes, &reading, false);
        assert_eq!((service.state.as_str(), service.sub_state.as_str()), ("active", "2 processes"));
        assert_eq!(
            (service.main_pid, service.memory_bytes, service.since_ms),
            (Some(8), Some(2000), Some(902_000))
        );
    }

    #[test]
    fn one_that_ran_and_is_gone_has_failed_and_one_that_never_ran_is_inactive() {
        let reading = snapshot(&[]);
        let state = |ran| judged(&watched("bot", "bot.py"), &[], &reading, ran).state;
        assert_eq!((state(true).as_str(), state(false).as_str()), ("failed", "inactive"));
    }

    #[test]
    fn one_that_was_stopped_from_here_may_take_its_time_and_has_not_failed() {
        let mut live = LiveWatched::default();
        live.seen("bot", true);
        assert!(live.running.contains("bot"));
        live.acted("bot", ServiceVerb::Stop);
        live.seen("bot", true);
        assert!(!live.running.contains("bot"), "it is still ending");
        live.seen("bot", false);
        live.seen("bot", true);
        assert!(live.running.contains("bot"), "somebody started it again");
        live.acted("bot", ServiceVerb::Stop);
        live.acted("bot", ServiceVerb::Start);
        live.seen("bot", true);
        assert!(live.running.contains("bot"));
    }

    #[test]
    fn a_definition_without_servers_or_with_a_name_that_is_none_is_refused() {
        let refused = |edit: WatchedServiceEdit| match edit.apply(&mut of_registration("ok")) {
            Err(FleetError::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        let edit = WatchedServiceEdit::default;
        assert_eq!(refused(edit()), "selector");
        assert_eq!(refused(WatchedServiceEdit { name: Some("a b".to_owned()), ..edit() }), "name");
        assert_eq!(refused(WatchedServiceEdit { name: Some("-rf".to_owned()), ..edit() }), "name");
        let long = vec!["x".repeat(KEYWORD_CHARS + 1)];
        assert_eq!(refused(WatchedServiceEdit { keywords: Some(long), ..edit() }), "keywords");
        let nul = Some("a\0b".to_owned());
        assert_eq!(refused(WatchedServiceEdit { stop_command: nul, ..edit() }), "stop_command");
    }
}
