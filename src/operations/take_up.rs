//! Takes up what went on while there was no Roundsman: finds the detached commands of operations that a stop left running.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::fanout::{self, Leg};
use super::ledger::Ledger;
use super::rolling::{self, Switch};
use super::{OperationError, Operations, Running, repeat};
use crate::actions::{Action, Plan};
use crate::model::{Caller, TargetStatus};
use crate::store::audit::{self, Entry};
use crate::store::operations::{self as rows, CommandRecord, Operation, Target};

impl Operations {
    /// Follows what still runs of this operation to its end.
    ///
    /// # Errors
    /// [`OperationError::Store`]; what is stored stays as it is.
    pub(super) async fn take_up(
        &self,
        operation: Operation,
        targets: Vec<Target>,
    ) -> Result<(), OperationError> {
        let wanted = targets.clone();
        let records = self.inner.store.read(move |c| rows::records_of_operation(c, &wanted)).await?;
        let records: HashMap<_, _> = records.into_iter().map(|record| (record.id, record)).collect();
        let caller = Caller { organization: operation.organization, ..Caller::roundsman() };
        let action = repeat::stored_action(&operation.kind, &operation.parameters);
        let left: Vec<Target> =
            targets.iter().filter(|target| target.status == TargetStatus::Sent).cloned().collect();
        let keys = action.iter().flat_map(|action| left.iter().map(|one| (one.server, action.clone())));
        let running = Arc::new(Running {
            number: self.inner.begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            cancel: self.inner.stop.child_token(),
            switch: Switch::new(),
            strategy: serde_json::from_value(operation.strategy.clone()).unwrap_or_default(),
            permits: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            keys: keys.collect::<HashSet<_>>(),
            ledger: Ledger::new(targets),
            needs: HashMap::new(),
            changing: tokio::sync::Mutex::default(),
        });
        {
            let mut all = self.inner.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            all.insert(operation.id, Arc::clone(&running));
        }
        tracing::info!(operation = %operation.id, targets = left.len(), "looking for what went on by itself");
        let mut legs = Vec::new();
        for target in left {
            let record = target.record.and_then(|id| records.get(&id).cloned());
            let leg = Taken {
                operations: self.clone(),
                caller: caller.clone(),
                operation: operation.clone(),
                action: action.clone().map_err(|error| error.to_string()),
                running: Arc::clone(&running),
            };
            legs.push(leg.go_on(target, record));
        }
        let own = self.clone();
        self.inner.tasks.spawn(async move {
            let mut going = tokio::task::JoinSet::new();
            legs.into_iter().for_each(|leg| drop(going.spawn(leg)));
            while let Some(done) = going.join_next().await {
                if let Err(error) = done {
                    tracing::error!(operation = %operation.id, %error, "a target of an operation broke off");
                }
            }
            rolling::end(&own, &operation, &running).await;
        });
        Ok(())
    }
}

struct Taken {
    operations: Operations,
    caller: Caller,
    operation: Operation,
    /// Err: what is stored of it is not understood.
    action: Result<Action, String>,
    running: Arc<Running>,
}

impl Taken {
    async fn go_on(self, target: Target, record: Option<CommandRecord>) {
        let plan = self.plan(&target);
        let leg = |plan: Plan, action: Action| Leg {
            operations: self.operations.clone(),
            caller: self.caller.clone(),
            operation: self.operation.clone(),
            running: Arc::clone(&self.running),
            position: target.position,
            server: target.server,
            name: target.server_name.clone(),
            action,
            plan,
        };
        match (plan, record) {
            (Ok((action, plan)), Some(record)) => {
                self.running.ledger.sent(target.position, &record);
                let _place = Arc::clone(&self.operations.inner.detached).acquire_owned().await;
                leg(plan, action).follow_to_its_end(record, true).await;
            }
            (plan, record) => {
                let why = plan.err().unwrap_or_else(|| "its record is gone".to_owned());
                self.lose(&target, record, &why).await;
            }
        }
    }

    /// Its end will not be seen.
    async fn lose(&self, target: &Target, record: Option<CommandRecord>, why: &str) {
        let reason = format!("what went on without Roundsman cannot be looked for: {why}");
        let mut entry = Entry::by(&self.caller, &self.operation.kind, &target.server_name)
            .detail(format!("{reason}; operation {}", self.operation.id));
        TargetStatus::Unknown.name().clone_into(&mut entry.result);
        let record = record.map(|record| CommandRecord { error: Some(reason.clone()), ..record });
        let (id, position, now) = (self.operation.id, target.position, self.operations.inner.clock.now());
        let outcome = Arc::new((record, reason, entry));
        fanout::persist(&self.operations, "the end of a command", || {
            let outcome = Arc::clone(&outcome);
            move |tx| {
                let (record, reason, entry) = &*outcome;
                if let Some(record) = record {
                    rows::complete_record(tx, record)?;
                }
                rows::set_target_ended(tx, id, position, TargetStatus::Unknown, Some(reason), now)?;
                audit::append(tx, now, entry)
            }
        })
        .await;
        self.running.ledger.finished(target.position, TargetStatus::Unknown, Some(&outcome.1));
    }

    /// As it was sent: how to reach what runs, not what runs, which is not stored whole where it holds a secret.
    fn plan(&self, target: &Target) -> Result<(Action, Plan), String> {
        let action = self.action.clone()?;
        let server = self.operations.inner.fleet.action_target(&self.caller, &target.server.to_string());
        let server = server.map_err(|_| "its server was removed from Roundsman".to_owned())?;
        let plan = action.plan(server.surroundings).map_err(|error| error.to_string())?;
        Ok((action, plan))
    }
}
