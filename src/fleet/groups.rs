//! Groups: made, changed, filled, and known in memory, so that asking for the members of one costs nothing.
//!
//! What is in memory is read anew within the transaction of every change, so it is never another thing than what is stored.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use super::input::{DESCRIPTION_CHARS, free_text, word};
use super::state::{ServerState, Summary};
use super::{Fleet, FleetError, ServerFilter};
use crate::auth;
use crate::model::{
    Caller, Colour, Event, Group, GroupId, GroupName, Health, InvalidGroup, OrganizationId, Role, Selector,
    Server, ServerId, Tag, shown,
};
use crate::store::audit::{self, Entry as AuditEntry};
use crate::store::{StoreError, Transaction, groups};

/// Groups of an organization at most: each dynamic one is compared with every server that a page shows.
const GROUPS: usize = 500;
/// Conditions of one kind in a filter: as many as a server has tags.
const CONDITIONS: usize = 64;
/// Servers added or taken out by one request: a fleet.
const MEMBERS_AT_ONCE: usize = 10_000;
/// Open pages of so many servers are told at once that their groups changed; the others show it with their next reading.
const TOLD: usize = 64;
/// Names of servers in an audit entry; the rest is counted.
const NAMED: usize = 20;

/// What is said of a group.
#[derive(Debug, Clone, Default)]
pub struct GroupInput {
    pub name: String,
    pub description: String,
    /// A word of the palette or `#rrggbb`; grey when it is missing.
    pub colour: Option<String>,
    /// Any of these makes the group a dynamic one.
    pub tags: Vec<String>,
    pub regions: Vec<String>,
    pub environments: Vec<String>,
    pub health: Vec<String>,
}

/// A group with what is known of its members now.
#[derive(Debug, Clone)]
pub struct GroupView {
    pub group: Arc<Group>,
    pub summary: Summary,
}

/// All groups with the members that were chosen by hand.
#[derive(Debug, Default)]
struct Held {
    /// By name.
    groups: Vec<Arc<Group>>,
    dynamic: Vec<Arc<Group>>,
    /// By name for each server.
    by_hand: HashMap<ServerId, Vec<Arc<Group>>>,
}

impl Held {
    fn of((stored, members): groups::Stored) -> Self {
        let all: Vec<Arc<Group>> = stored.into_iter().map(Arc::new).collect();
        let by_id: HashMap<GroupId, &Arc<Group>> = all.iter().map(|group| (group.id, group)).collect();
        let mut by_hand: HashMap<ServerId, Vec<Arc<Group>>> = HashMap::new();
        for (group, server) in members {
            if let Some(group) = by_id.get(&group).filter(|group| group.filter.is_none()) {
                by_hand.entry(server).or_default().push(Arc::clone(group));
            }
        }
        for of_server in by_hand.values_mut() {
            of_server.sort_by(|left, right| left.name.cmp(&right.name));
        }
        let dynamic = all.iter().filter(|group| group.filter.is_some()).cloned().collect();
        Self { groups: all, dynamic, by_hand }
    }
}

/// The groups of the fleet; one change at a time.
#[derive(Debug, Default)]
pub(super) struct GroupBook {
    held: RwLock<Arc<Held>>,
    changing: tokio::sync::Mutex<()>,
}

impl GroupBook {
    fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn keep(&self, held: Held) {
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(held);
    }

    /// The groups of a server of this health, by name.
    pub(super) fn of_server(&self, server: &Server, health: Health) -> Vec<Arc<Group>> {
        let held = self.held();
        let mut found = held.by_hand.get(&server.id).cloned().unwrap_or_default();
        let before = found.len();
        found.extend(
            held.dynamic
                .iter()
                .filter(|group| group.organization == server.organization)
                .filter(|group| group.filter.as_ref().is_some_and(|filter| filter.fits(server, health)))
                .cloned(),
        );
        if before > 0 && found.len() > before {
            found.sort_by(|left, right| left.name.cmp(&right.name));
        }
        found
    }

    fn of(&self, organization: OrganizationId) -> Vec<Arc<Group>> {
        self.held().groups.iter().filter(|group| group.organization == organization).cloned().collect()
    }
}

impl From<InvalidGroup> for FleetError {
    fn from(error: InvalidGroup) -> Self {
        let field = match &error {
            InvalidGroup::Name(_) => "name",
            InvalidGroup::Colour(_) => "color",
        };
        Self::Invalid { field, message: error.to_string() }
    }
}

impl GroupInput {
    /// The group with these values.
    fn apply(&self, group: &Group) -> Result<Group, FleetError> {
        let colour = self.colour.as_deref().map(str::trim).filter(|text| !text.is_empty());
        Ok(Group {
            name: GroupName::parse(self.name.trim())?,
            description: free_text("description", &self.description, DESCRIPTION_CHARS)?,
            colour: colour.map_or(Ok(Colour::Grey), Colour::parse)?,
            filter: self.filter()?,
            ..group.clone()
        })
    }

    /// None: nothing is said, the members are chosen by hand.
    fn filter(&self) -> Result<Option<Selector>, FleetError> {
        let words = |field: &'static str, list: &[String]| -> Result<Vec<String>, FleetError> {
            if list.len() > CONDITIONS {
                let message = format!("a group has at most {CONDITIONS} {field} in its filter");
                return Err(FleetError::invalid(field, message));
            }
            let mut words = Vec::new();
            for text in list {
                words.extend(word(field, Some(text))?);
            }
            words.sort();
            words.dedup();
            Ok(words)
        };
        let tags = words("tags", &self.tags)?;
        for tag in &tags {
            Tag::parse(tag)?;
        }
        let mut health = words("health", &self.health)?
            .iter()
            .map(|word| word.parse())
            .collect::<Result<Vec<Health>, _>>()?;
        health.sort_unstable();
        let filter = Selector {
            tags,
            regions: words("regions", &self.regions)?,
            environments: words("environments", &self.environments)?,
            health,
            ..Selector::default()
        };
        Ok(filter.chooses().then_some(filter))
    }
}

/// Names for an audit entry.
fn named(states: &[ServerState]) -> String {
    let names: Vec<&str> = states.iter().take(NAMED).map(|state| state.server.name.as_str()).collect();
    match states.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

impl Fleet {
    /// Reads the groups at the start.
    pub(super) async fn load_groups(&self) -> Result<(), FleetError> {
        let stored = self.inner.store.read(groups::all_with_members).await?;
        self.inner.groups.keep(Held::of(stored));
        Ok(())
    }

    pub(super) fn find_group(&self, caller: &Caller, reference: &str) -> Result<Arc<Group>, FleetError> {
        let all = self.inner.groups.of(caller.organization);
        all.into_iter()
            .find(|group| group.is_called(reference))
            .ok_or_else(|| FleetError::NoSuchGroup(shown(reference, 80)))
    }

    /// The groups of the caller's organization with what is known of their members, by name.
    ///
    /// # Errors
    /// [`FleetError::Auth`].
    pub fn groups(&self, caller: &Caller) -> Result<Vec<GroupView>, FleetError> {
        auth::require(caller, Role::Viewer)?;
        let states = self.list(caller, &ServerFilter::default())?;
        let mut members: HashMap<GroupId, Vec<&ServerState>> = HashMap::new();
        for state in &states {
            for group in &state.groups {
                members.entry(group.id).or_default().push(state);
            }
        }
        let view = |group: Arc<Group>| {
            let of_group = members.get(&group.id).map(Vec::as_slice).unwrap_or_default();
            GroupView { summary: Summary::of_these(of_group.iter().copied()), group }
        };
        Ok(self.inner.groups.of(caller.organization).into_iter().map(view).collect())
    }

    /// One group, by id or name, and its members by name.
    ///
    /// # Errors
    /// [`FleetError::NoSuchGroup`], also for a group of another organization.
    pub fn group(
        &self,
        caller: &Caller,
        reference: &str,
    ) -> Result<(GroupView, Vec<ServerState>), FleetError> {
        auth::require(caller, Role::Viewer)?;
        let group = self.find_group(caller, reference)?;
        let selector = Selector { groups: vec![group.id.to_string()], ..Selector::default() };
        let members = self.select(caller, &selector)?;
        Ok((GroupView { summary: Summary::of(&members), group }, members))
    }

    /// # Errors
    /// [`FleetError::Invalid`], [`FleetError::GroupNameTaken`].
    pub async fn create_group(&self, caller: &Caller, input: &GroupInput) -> Result<GroupView, FleetError> {
        auth::require(caller, Role::Admin)?;
        let _alone = self.inner.groups.changing.lock().await;
        if self.inner.groups.of(caller.organization).len() >= GROUPS {
            return Err(FleetError::invalid("name", format!("there are {GROUPS} groups, which is the most")));
        }
        let now = self.inner.clock.now();
        let blank = Group {
            id: GroupId::new(self.inner.clock.new_uuid()),
            organization: caller.organization,
            name: GroupName::parse(input.name.trim())?,
            description: String::new(),
            colour: Colour::Grey,
            filter: None,
            created_at: now,
            updated_at: now,
        };
        let group = input.apply(&blank)?;
        let id = group.id.to_string();
        self.save_group(caller, "group.create", group).await?;
        Ok(self.group(caller, &id)?.0)
    }

    /// Replaces what is said of a group; members that were chosen by hand stay.
    ///
    /// # Errors
    /// As [`Fleet::create_group`], and [`FleetError::NoSuchGroup`]. [`FleetError::Invalid`] for a filter on a group that has
    /// members chosen by hand.
    pub async fn edit_group(
        &self,
        caller: &Caller,
        reference: &str,
        input: &GroupInput,
    ) -> Result<GroupView, FleetError> {
        auth::require(caller, Role::Admin)?;
        let _alone = self.inner.groups.changing.lock().await;
        let before = self.find_group(caller, reference)?;
        let members = self.members_of(caller, before.id)?;
        let group = Group { updated_at: self.inner.clock.now(), ..input.apply(&before)? };
        if before.filter.is_none() && group.filter.is_some() && !members.is_empty() {
            let message = format!(
                "{} has {} members that were chosen by hand; take them out before a filter chooses them",
                before.name,
                members.len()
            );
            return Err(FleetError::invalid("tags", message));
        }
        self.save_group(caller, "group.edit", group).await?;
        self.tell(caller, members.iter().chain(&self.members_of(caller, before.id)?));
        Ok(self.group(caller, &before.id.to_string())?.0)
    }

    async fn save_group(&self, caller: &Caller, action: &str, group: Group) -> Result<(), FleetError> {
        let name = group.name.to_string();
        let detail = format!("{}, {}", group.kind(), group.colour);
        let record = AuditEntry::by(caller, action, &name).detail(detail);
        self.write_groups(record, move |tx| groups::save(tx, &group)).await.map_err(|error| match error {
            FleetError::Store(StoreError::Conflict) => FleetError::GroupNameTaken(name),
            other => other,
        })
    }

    /// Deletes a group. Its servers and what was done to them stay.
    ///
    /// # Errors
    /// [`FleetError::NoSuchGroup`].
    pub async fn delete_group(&self, caller: &Caller, reference: &str) -> Result<(), FleetError> {
        auth::require(caller, Role::Admin)?;
        let _alone = self.inner.groups.changing.lock().await;
        let group = self.find_group(caller, reference)?;
        let members = self.members_of(caller, group.id)?;
        let (organization, id) = (group.organization, group.id);
        let detail = format!("{} servers were in it", members.len());
        let record = AuditEntry::by(caller, "group.delete", group.name.as_str()).detail(detail);
        self.write_groups(record, move |tx| groups::delete(tx, organization, id)).await?;
        self.tell(caller, members.iter());
        Ok(())
    }

    /// Puts servers into a static group; those that are in it stay. Answers them.
    ///
    /// # Errors
    /// [`FleetError::NoSuchGroup`], [`FleetError::NoSuchServer`]; [`FleetError::Unavailable`] for a dynamic group. Nothing
    /// was changed then.
    pub async fn add_to_group(
        &self,
        caller: &Caller,
        reference: &str,
        servers: &[String],
    ) -> Result<Vec<ServerState>, FleetError> {
        self.change_members(caller, reference, servers, "group.add-server", groups::add_member).await
    }

    /// Takes servers out of a static group; those that are not in it are no error. Answers them.
    ///
    /// # Errors
    /// As [`Fleet::add_to_group`].
    pub async fn remove_from_group(
        &self,
        caller: &Caller,
        reference: &str,
        servers: &[String],
    ) -> Result<Vec<ServerState>, FleetError> {
        let take_out = |tx: &Transaction<'_>, organization, group, server, _| {
            groups::remove_member(tx, organization, group, server)
        };
        self.change_members(caller, reference, servers, "group.remove-server", take_out).await
    }

    async fn change_members<F>(
        &self,
        caller: &Caller,
        reference: &str,
        servers: &[String],
        action: &str,
        change: F,
    ) -> Result<Vec<ServerState>, FleetError>
    where
        F: Fn(
                &Transaction<'_>,
                OrganizationId,
                GroupId,
                ServerId,
                crate::model::Timestamp,
            ) -> Result<(), StoreError>
            + Send
            + 'static,
    {
        auth::require(caller, Role::Admin)?;
        let _alone = self.inner.groups.changing.lock().await;
        let group = self.find_group(caller, reference)?;
        if group.filter.is_some() {
            return Err(FleetError::Unavailable(format!(
                "{} is a dynamic group: its filter chooses the servers; change the filter, or the servers' tags",
                group.name
            )));
        }
        if servers.len() > MEMBERS_AT_ONCE {
            let message = format!("at most {MEMBERS_AT_ONCE} servers are added or taken out at once");
            return Err(FleetError::invalid("server_ids", message));
        }
        let states = self.select(caller, &Selector::of_servers(servers.to_vec()))?;
        if states.is_empty() {
            return Err(FleetError::invalid("server_ids", "say which servers"));
        }
        let ids: Vec<ServerId> = states.iter().map(|state| state.server.id).collect();
        let (organization, id, now) = (group.organization, group.id, self.inner.clock.now());
        let record = AuditEntry::by(caller, action, group.name.as_str()).detail(named(&states));
        self.write_groups(record, move |tx| {
            ids.into_iter().try_for_each(|server| change(tx, organization, id, server, now))
        })
        .await?;
        self.tell(caller, states.iter());
        Ok(states)
    }

    /// One transaction with its audit entry; what is in memory follows it.
    async fn write_groups<F>(&self, record: AuditEntry, change: F) -> Result<(), FleetError>
    where
        F: FnOnce(&Transaction<'_>) -> Result<(), StoreError> + Send + 'static,
    {
        let now = self.inner.clock.now();
        let stored = self.inner.store.write(move |tx| {
            change(tx)?;
            audit::append(tx, now, &record)?;
            groups::all_with_members(tx)
        });
        self.inner.groups.keep(Held::of(stored.await?));
        Ok(())
    }

    fn members_of(&self, caller: &Caller, group: GroupId) -> Result<Vec<ServerState>, FleetError> {
        self.select(caller, &Selector { groups: vec![group.to_string()], ..Selector::default() })
    }

    fn tell<'a>(&self, caller: &Caller, states: impl Iterator<Item = &'a ServerState>) {
        let changed: HashSet<ServerId> = states.map(|state| state.server.id).collect();
        for server in changed.into_iter().take(TOLD) {
            self.publish(Event::ServerChanged { organization: caller.organization, server });
        }
    }
}
