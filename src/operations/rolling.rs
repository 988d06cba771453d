//! Goes over the servers of an operation batch by batch: pause, failure limit, health gate.
//!
//! Decides what is sent when; how one command is sent and recorded is `fanout`'s.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::fanout::{self, Leg};
use super::{Operations, Planned, Running};
use crate::actions::Action;
use crate::model::{Caller, Event, OperationStatus, ServerId, Timestamp};
use crate::store::operations::{self as rows, Operation};

/// How often the health of the last batch's servers is looked at; it is in memory.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Servers that a sentence about missing health names.
const NAMED: usize = 5;

/// Whether more may be sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) paused: bool,
    /// Nothing more is sent, and why.
    pub(super) halted: Option<String>,
}

impl Control {
    /// Something may be sent now.
    pub(super) const fn allows(&self) -> bool {
        !self.paused && self.halted.is_none()
    }
}

/// The switch of a running operation.
#[derive(Debug)]
pub(super) struct Switch(watch::Sender<Control>);

impl Switch {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Control::default()))
    }

    pub(super) fn now(&self) -> Control {
        self.0.borrow().clone()
    }

    /// False: it stood so already.
    pub(super) fn pause(&self, paused: bool) -> bool {
        self.0.send_if_modified(|control| std::mem::replace(&mut control.paused, paused) != paused)
    }

    /// False: it was halted before, and that reason stays.
    fn halt(&self, why: &str) -> bool {
        self.0.send_if_modified(|control| {
            let first = control.halted.is_none();
            control.halted.get_or_insert_with(|| why.to_owned());
            first
        })
    }

    /// Waits until something may be sent. Err: nothing more is, and why.
    pub(super) async fn open(&self) -> Result<(), String> {
        let mut receiver = self.0.subscribe();
        loop {
            let Control { paused, halted } = receiver.borrow_and_update().clone();
            match halted {
                Some(why) => return Err(why),
                None if !paused => return Ok(()),
                None => {}
            }
            // The sender lives as long as this.
            if receiver.changed().await.is_err() {
                return Err("the operation is gone".to_owned());
            }
        }
    }
}

/// Runs an operation to its end.
pub(super) async fn run(
    operations: Operations,
    caller: Caller,
    operation: Operation,
    action: Action,
    planned: Vec<Planned>,
    running: Arc<Running>,
) {
    tracing::info!(operation = %operation.id, action = action.kind(), by = %caller.actor, targets = planned.len(), "an operation begins");
    let rolling = Rolling { operations, caller, operation, action, running };
    let batches = rolling.running.strategy.split(planned.len());
    for (number, batch) in batches.iter().enumerate() {
        rolling.send(&planned, batch.clone()).await;
        if number + 1 < batches.len() {
            rolling.between(&planned, batch.clone()).await;
        }
    }
    end(&rolling.operations, &rolling.operation, &rolling.running).await;
}

/// Writes how the whole ended, and forgets it.
pub(super) async fn end(operations: &Operations, operation: &Operation, running: &Running) {
    let status = OperationStatus::of(&running.ledger.statuses());
    let (id, now) = (operation.id, operations.inner.clock.now());
    if !matches!(status, OperationStatus::Pending | OperationStatus::Running) {
        fanout::persist(operations, "the end of an operation", || {
            move |tx| {
                rows::set_paused(tx, id, None)?;
                rows::set_status(tx, id, status, now)
            }
        })
        .await;
    }
    operations.forget(id);
    for target in running.ledger.targets().iter().take(1) {
        tell(operations, operation, target.server);
    }
    tracing::info!(operation = %id, %status, "an operation ended");
}

pub(super) fn tell(operations: &Operations, operation: &Operation, server: ServerId) {
    operations.inner.fleet.publish(Event::Operation {
        organization: operation.organization,
        operation: operation.id,
        server,
    });
}

/// Sends nothing more once the limit of failures is reached. Called while the place of the one that failed is still
/// held, so that nobody slips in.
pub(super) async fn watch_failures(operations: &Operations, operation: &Operation, running: &Running) {
    if running.strategy.max_failures.is_some()
        && let Some(why) = running.strategy.limit_reached(&running.ledger.statuses())
    {
        halt(operations, operation, running, &why).await;
    }
}

async fn halt(operations: &Operations, operation: &Operation, running: &Running, why: &str) {
    if !running.switch.halt(why) {
        return;
    }
    tracing::warn!(operation = %operation.id, why, "an operation sends nothing more");
    let (id, why) = (operation.id, Arc::<str>::from(why));
    fanout::persist(operations, "why an operation stopped", || {
        let why = Arc::clone(&why);
        move |tx| rows::set_halted(tx, id, &why)
    })
    .await;
}

struct Rolling {
    operations: Operations,
    caller: Caller,
    operation: Operation,
    action: Action,
    running: Arc<Running>,
}

impl Rolling {
    /// One batch, to the end of its last target.
    async fn send(&self, planned: &[Planned], batch: Range<usize>) {
        let mut legs = tokio::task::JoinSet::new();
        // What could not be planned has failed before it began.
        watch_failures(&self.operations, &self.operation, &self.running).await;
        for (position, planned) in (0_u32..).zip(planned).skip(batch.start).take(batch.len()) {
            let Ok(plan) = planned.plan.clone() else { continue };
            let leg = Leg {
                operations: self.operations.clone(),
                caller: self.caller.clone(),
                operation: self.operation.clone(),
                running: Arc::clone(&self.running),
                position,
                server: planned.server,
                name: planned.name.clone(),
                action: self.action.clone(),
                plan,
            };
            legs.spawn(leg.run());
        }
        while let Some(done) = legs.join_next().await {
            if let Err(error) = done {
                tracing::error!(operation = %self.operation.id, %error, "a target of an operation broke off");
            }
        }
    }

    /// What lies between two batches: the health of the last one's servers, and the pause.
    async fn between(&self, planned: &[Planned], batch: Range<usize>) {
        let (switch, cancel) = (&self.running.switch, &self.running.cancel);
        if switch.now().halted.is_some() || cancel.is_cancelled() {
            return;
        }
        let waiting = async {
            if let Some(limit) = self.running.strategy.health_gate_s {
                let servers: Vec<&Planned> = planned.iter().skip(batch.start).take(batch.len()).collect();
                self.wait_for_health(&servers, Duration::from_secs(limit)).await;
            }
            tokio::time::sleep(self.running.strategy.pause()).await;
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = waiting => {}
        }
    }

    /// Until each of them was read after its command and found healthy, or the limit is over.
    async fn wait_for_health(&self, servers: &[&Planned], limit: Duration) {
        let (since, until) = (self.operations.inner.clock.now(), Instant::now() + limit);
        loop {
            let waited_for: Vec<&str> = servers
                .iter()
                .filter(|planned| !self.is_healthy(planned.server, since))
                .map(|planned| planned.name.as_str())
                .collect();
            if waited_for.is_empty() {
                return;
            }
            if Instant::now() >= until {
                let named = waited_for.get(..waited_for.len().min(NAMED)).unwrap_or_default().join(", ");
                let more = waited_for.len().saturating_sub(NAMED);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                let why =
                    format!("not healthy within {} s after their batch: {named}{more}", limit.as_secs());
                return halt(&self.operations, &self.operation, &self.running, &why).await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A server that was removed meanwhile holds up nobody.
    fn is_healthy(&self, server: ServerId, since: Timestamp) -> bool {
        self.operations.inner.fleet.is_well_since(&self.caller, server, since).unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_paused_switch_opens_again_and_the_first_reason_to_halt_stays() {
        let switch = Arc::new(Switch::new());
        assert!(switch.pause(true) && !switch.pause(true));
        let waiting = tokio::spawn({
            let switch = Arc::clone(&switch);
            async move { switch.open().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        switch.pause(false);
        assert_eq!(waiting.await.unwrap(), Ok(()));
        assert!(switch.halt("the limit") && !switch.halt("another"));
        assert_eq!(switch.open().await, Err("the limit".to_owned()));
    }
}
