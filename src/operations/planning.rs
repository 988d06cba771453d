//! What would be done where, and in which order, before anything is sent.

use std::collections::HashMap;

use super::{NewOperation, OperationError, Operations, Order, Strategy, TARGETS};
use crate::actions::{Action, Plan};
use crate::auth;
use crate::fleet::ActionTarget;
use crate::model::{Caller, Role, Selector, ServerId, Transport};

/// One server of a new operation, with the command that it would get.
#[derive(Debug, Clone)]
pub struct Planned {
    pub server: ServerId,
    pub name: String,
    /// Err: why nothing can be sent to it.
    pub plan: Result<Plan, String>,
    /// From 0: with which batch it goes.
    pub batch: u32,
}

/// How many servers go together, batch by batch.
#[must_use]
pub fn batch_sizes(planned: &[Planned]) -> Vec<usize> {
    planned.chunk_by(|one, next| one.batch == next.batch).map(<[_]>::len).collect()
}

impl Operations {
    /// What would be sent where, without sending anything.
    ///
    /// # Errors
    /// [`OperationError::Fleet`] for an unknown server, [`OperationError::NoTargets`], [`OperationError::TooManyTargets`].
    pub fn plan(&self, caller: &Caller, new: &NewOperation) -> Result<Vec<Planned>, OperationError> {
        self.plan_order(caller, &new.clone().into())
    }

    /// As [`Self::plan`], in the order in which it would be sent.
    ///
    /// # Errors
    /// As [`Self::plan`], and [`OperationError::Strategy`].
    pub fn plan_order(&self, caller: &Caller, order: &Order) -> Result<Vec<Planned>, OperationError> {
        auth::require(caller, order.action.role())?;
        order.strategy.check()?;
        let targets = self.targets(caller, &order.selector)?;
        let planned: Vec<Planned> =
            targets.iter().map(|target| self.planned(caller, &order.action, target)).collect();
        if order.strategy.by_dependencies {
            return self.in_layers(caller, planned);
        }
        let batches = (0_u32..).zip(order.strategy.split(planned.len()));
        let numbers = batches.flat_map(|(number, batch)| std::iter::repeat_n(number, batch.len()));
        Ok(planned.into_iter().zip(numbers).map(|(one, batch)| Planned { batch, ..one }).collect())
    }

    fn targets(&self, caller: &Caller, selector: &Selector) -> Result<Vec<ActionTarget>, OperationError> {
        if selector.is_empty() {
            return Err(OperationError::NoTargets);
        }
        // Named twice, by id and by name perhaps: acted on once.
        let states = self.inner.fleet.select(caller, selector)?;
        if states.is_empty() {
            return Err(OperationError::NoneFits);
        }
        if states.len() > TARGETS {
            return Err(OperationError::TooManyTargets);
        }
        let target = |id: ServerId| Ok(self.inner.fleet.action_target(caller, &id.to_string())?);
        states.iter().map(|state| target(state.server.id)).collect()
    }

    fn planned(&self, caller: &Caller, action: &Action, target: &ActionTarget) -> Planned {
        let plan = match target.transport {
            Transport::Local if matches!(action, Action::DeployAgent(_) | Action::RemoveAgent) => {
                Err("this machine is read by Roundsman itself, which does what the agent does".to_owned())
            }
            Transport::Local if matches!(action, Action::Reboot(_)) => {
                Err("this is the machine that Roundsman runs on; reboot it by hand".to_owned())
            }
            // Nothing is done to it.
            Transport::Local if matches!(action, Action::HealthCheck) => {
                action.plan(target.surroundings).map_err(|error| error.to_string())
            }
            Transport::Local if matches!(action, Action::File(_)) => {
                Err("files of this machine are changed on it, not through Roundsman".to_owned())
            }
            Transport::Local if !self.inner.policy.allow_local => {
                Err("this is the machine that Roundsman runs on; whoever acts on it owns every key, so set \
                 allow_local_actions = true in the configuration file first"
                    .to_owned())
            }
            Transport::Local if !caller.may(Role::Admin) => {
                Err("this is the machine that Roundsman runs on; only an administrator acts on it".to_owned())
            }
            Transport::Ssh | Transport::Http | Transport::Push if target.impediment.is_some() => {
                Err(target.impediment.clone().unwrap_or_default())
            }
            Transport::Local | Transport::Ssh | Transport::Http | Transport::Push => match action {
                Action::File(change) => self
                    .template_values(caller, target.id)
                    .and_then(|values| Ok(change.plan(target.surroundings, &values)?))
                    .map_err(|error| error.to_string()),
                _ => target.plan(action).map_err(|error| error.to_string()),
            },
        };
        let plan = plan.and_then(|plan| match target.transport {
            Transport::Local if !plan.how.is_plain() => Err(
                "scripts, environment, input, another user, containers and detached runs are for servers over SSH; write them into the command here"
                    .to_owned(),
            ),
            _ => Ok(plan),
        });
        Planned { server: target.id, name: target.name.to_string(), plan, batch: 0 }
    }

    /// A batch for each layer of what the servers need of each other.
    fn in_layers(&self, caller: &Caller, planned: Vec<Planned>) -> Result<Vec<Planned>, OperationError> {
        let ids: Vec<ServerId> = planned.iter().map(|one| one.server).collect();
        let mut by_server: HashMap<ServerId, Planned> =
            planned.into_iter().map(|one| (one.server, one)).collect();
        let layers = self.inner.fleet.dependency_order(caller, &ids)?;
        let numbered =
            (0_u32..).zip(layers).flat_map(|(batch, layer)| layer.into_iter().map(move |id| (id, batch)));
        Ok(numbered.filter_map(|(id, batch)| Some(Planned { batch, ..by_server.remove(&id)? })).collect())
    }

    /// Which of these servers each of them needs to have succeeded first. Servers that need each other both ways go together
    /// and wait for nobody of them.
    pub(super) fn needs(
        &self,
        caller: &Caller,
        strategy: &Strategy,
        planned: &[Planned],
    ) -> Result<HashMap<ServerId, Vec<ServerId>>, OperationError> {
        let mut needs: HashMap<ServerId, Vec<ServerId>> = HashMap::new();
        if !strategy.by_dependencies {
            return Ok(needs);
        }
        let batches: HashMap<ServerId, u32> = planned.iter().map(|one| (one.server, one.batch)).collect();
        for view in self.inner.fleet.dependencies(caller)? {
            let (who, what) = (view.dependency.server, view.dependency.needs_server);
            if let (Some(own), Some(needed)) = (batches.get(&who), batches.get(&what))
                && needed < own
            {
                needs.entry(who).or_default().push(what);
            }
        }
        Ok(needs)
    }
}
