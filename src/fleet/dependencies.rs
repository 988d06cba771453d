//! Which service of which server needs which other: kept, checked for cycles, and turned into an order.

use std::sync::{Arc, PoisonError, RwLock};

use super::{Fleet, FleetError};
use crate::actions::Action;
use crate::auth;
use crate::model::{
    Caller, Dependency, DependencyId, Role, ServerId, ServerName, ServiceVerb, cycle_through, layers, shown,
};
use crate::store::audit::{self, Entry as AuditEntry};
use crate::store::{StoreError, groups};

/// Dependencies of an organization at most; a drawing of more is no drawing.
const DEPENDENCIES: usize = 2_000;
/// Stations of a cycle that an error names.
const NAMED: usize = 12;

/// What is said of a dependency: `service` on `server` needs `needs_service` on `needs_server`. Servers by id or name.
#[derive(Debug, Clone, Default)]
pub struct DependencyInput {
    pub server: String,
    pub service: String,
    pub needs_server: String,
    pub needs_service: String,
}

/// A dependency with the names of its servers.
#[derive(Debug, Clone)]
pub struct DependencyView {
    pub dependency: Dependency,
    pub server: ServerName,
    pub needs_server: ServerName,
}

/// All dependencies, in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct DependencyBook {
    held: RwLock<Arc<Vec<Dependency>>>,
    changing: tokio::sync::Mutex<()>,
}

impl DependencyBook {
    fn held(&self) -> Arc<Vec<Dependency>> {
        Arc::clone(&self.held.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn keep(&self, held: Vec<Dependency>) {
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(held);
    }
}

fn service(field: &'static str, name: &str) -> Result<String, FleetError> {
    let name = name.trim();
    // A service that could not be restarted cannot take part in a rolling restart.
    Action::service(name, ServiceVerb::Restart)
        .map(|_| name.trim_end_matches(".service").to_owned())
        .map_err(|error| FleetError::invalid(field, error.to_string()))
}

impl Fleet {
    /// Reads the dependencies at the start.
    pub(super) async fn load_dependencies(&self) -> Result<(), FleetError> {
        let held = self.inner.store.read(groups::dependencies).await?;
        self.inner.dependencies.keep(held);
        Ok(())
    }

    /// The dependencies of the caller's organization, in the order in which they were made.
    ///
    /// # Errors
    /// [`FleetError::Auth`].
    pub fn dependencies(&self, caller: &Caller) -> Result<Vec<DependencyView>, FleetError> {
        auth::require(caller, Role::Viewer)?;
        let held = self.inner.dependencies.held();
        let name = |id: ServerId| self.inner.registry.get(id).map(|entry| entry.server().name.clone());
        let own = held.iter().filter(|dependency| dependency.organization == caller.organization);
        // Those of a server that was removed are gone from the store; memory follows with the next change.
        Ok(own
            .filter_map(|dependency| {
                Some(DependencyView {
                    server: name(dependency.server)?,
                    needs_server: name(dependency.needs_server)?,
                    dependency: dependency.clone(),
                })
            })
            .collect())
    }

    /// Notes that one service needs another.
    ///
    /// # Errors
    /// [`FleetError::NoSuchServer`]; [`FleetError::Invalid`] for what is no service, is noted already, or would close a
    /// cycle, which the sentence names.
    pub async fn add_dependency(
        &self,
        caller: &Caller,
        input: &DependencyInput,
    ) -> Result<DependencyView, FleetError> {
        auth::require(caller, Role::Admin)?;
        let _alone = self.inner.dependencies.changing.lock().await;
        let (server, needed) = (self.find(caller, &input.server)?, self.find(caller, &input.needs_server)?);
        let now = self.inner.clock.now();
        let new = Dependency {
            id: DependencyId::new(self.inner.clock.new_uuid()),
            organization: caller.organization,
            server: server.id,
            service: service("service", &input.service)?,
            needs_server: needed.id,
            needs_service: service("needs_service", &input.needs_service)?,
            created_at: now,
        };
        let view = DependencyView {
            server: server.server().name.clone(),
            needs_server: needed.server().name.clone(),
            dependency: new.clone(),
        };
        self.refuse_cycle(caller, &view)?;
        let subject = format!("{} on {}", new.service, view.server);
        let detail = format!("needs {} on {}", new.needs_service, view.needs_server);
        let record = AuditEntry::by(caller, "dependency.add", &subject).detail(detail);
        let written = self.inner.store.write(move |tx| {
            groups::add_dependency(tx, &new)?;
            audit::append(tx, now, &record)?;
            groups::dependencies(tx)
        });
        let held = written.await.map_err(|error| match error {
            StoreError::Conflict => FleetError::invalid("needs_service", "this is noted already"),
            other => FleetError::Store(other),
        })?;
        self.inner.dependencies.keep(held);
        Ok(view)
    }

    /// # Errors
    /// [`FleetError::NoSuchDependency`].
    pub async fn remove_dependency(&self, caller: &Caller, id: &str) -> Result<(), FleetError> {
        auth::require(caller, Role::Admin)?;
        let _alone = self.inner.dependencies.changing.lock().await;
        let unknown = || FleetError::NoSuchDependency(shown(id, 80));
        let known = self.dependencies(caller)?;
        let found = known.iter().find(|view| id.parse() == Ok(view.dependency.id)).ok_or_else(unknown)?;
        let subject = format!("{} on {}", found.dependency.service, found.server);
        let detail = format!("needed {} on {}", found.dependency.needs_service, found.needs_server);
        let record = AuditEntry::by(caller, "dependency.remove", &subject).detail(detail);
        let (organization, id, now) = (caller.organization, found.dependency.id, self.inner.clock.now());
        let written = self.inner.store.write(move |tx| {
            groups::remove_dependency(tx, organization, id)?;
            audit::append(tx, now, &record)?;
            groups::dependencies(tx)
        });
        self.inner.dependencies.keep(written.await.map_err(FleetError::Store)?);
        Ok(())
    }

    /// The servers in layers: what others need comes in an earlier layer. Duplicates come once. Servers whose services need
    /// each other both ways come in one layer.
    ///
    /// # Errors
    /// [`FleetError::Auth`].
    pub fn dependency_order(
        &self,
        caller: &Caller,
        servers: &[ServerId],
    ) -> Result<Vec<Vec<ServerId>>, FleetError> {
        let known = self.dependencies(caller)?;
        let edges: Vec<(ServerId, ServerId)> =
            known.iter().map(|view| (view.dependency.server, view.dependency.needs_server)).collect();
        Ok(layers(servers, &edges))
    }

    fn refuse_cycle(&self, caller: &Caller, new: &DependencyView) -> Result<(), FleetError> {
        let mut known = self.dependencies(caller)?;
        if known.len() >= DEPENDENCIES {
            let message = format!("there are {DEPENDENCIES} dependencies, which is the most");
            return Err(FleetError::invalid("service", message));
        }
        known.push(new.clone());
        let node = |server: &ServerName, service: &str| (server.clone(), service.to_owned());
        let edges: Vec<_> = known
            .iter()
            .map(|view| {
                let dependency = &view.dependency;
                (node(&view.server, &dependency.service), node(&view.needs_server, &dependency.needs_service))
            })
            .collect();
        let start = node(&new.server, &new.dependency.service);
        let Some(way) = cycle_through(&edges, &start) else { return Ok(()) };
        let mut stations: Vec<String> =
            way.iter().take(NAMED).map(|(server, service)| format!("{service} on {server}")).collect();
        if way.len() > NAMED {
            stations.push("…".to_owned());
        }
        let message = format!("this would be a circle: {}", stations.join(" needs "));
        Err(FleetError::invalid("needs_service", message))
    }
}
