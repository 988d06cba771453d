//! Goes on after an end: the targets of an operation that did not succeed, or were never sent, as a new operation.

use serde_json::{Map, Value};

use super::{OperationError, OperationView, Operations, Order, Strategy};
use crate::actions::{Action, ActionError};
use crate::auth;
use crate::model::{Caller, Role, Selector, TargetStatus};
use crate::store::operations::Operation;

/// What a retry is about where nobody says: everything that was tried and did not succeed.
const TRIED: [TargetStatus; 3] = [TargetStatus::Failed, TargetStatus::Unreachable, TargetStatus::Unknown];

/// A parameter of a JSON object as the text that a form would send.
pub fn parameter(members: &Map<String, Value>) -> impl Fn(&str) -> Option<String> + '_ {
    |name| match members.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        // Parameters with parts (environment, container) are read as JSON by the action.
        object @ Value::Object(_) => Some(object.to_string()),
        // Older bodies name a list of services; one at a time is what an action does.
        Value::Array(items) => match items.as_slice() {
            [Value::String(text)] => Some(text.clone()),
            _ => None,
        },
        Value::Null => None,
    }
}

/// The action that a stored operation did, as far as what is stored says it.
///
/// # Errors
/// [`ActionError::Invalid`]: not all of it is there.
pub fn stored_action(kind: &str, parameters: &Value) -> Result<Action, ActionError> {
    let mut members = parameters.as_object().cloned().unwrap_or_default();
    if let Some(limit) = members.get("timeout_ms").and_then(Value::as_u64) {
        members.insert("timeout_s".to_owned(), limit.div_ceil(1000).into());
    }
    Action::parse(kind, parameter(&members))
}

impl Operations {
    /// Begins a new operation with those targets of an ended one that have one of these states; none given means those
    /// that failed, were unreachable, or whose end was not seen. What is sent twice may be done twice.
    ///
    /// # Errors
    /// [`OperationError::StillRunning`], [`OperationError::NothingToRepeat`], [`OperationError::NotRepeatable`], and those
    /// of [`Operations::begin`].
    pub async fn retry(
        &self,
        caller: &Caller,
        id: &str,
        wanted: &[TargetStatus],
    ) -> Result<OperationView, OperationError> {
        auth::require(caller, Role::Operator)?;
        let view = self.get(caller, id).await?;
        if self.find_running(view.operation.id).is_some() {
            return Err(OperationError::StillRunning);
        }
        let wanted = if wanted.is_empty() { &TRIED[..] } else { wanted };
        let order = again(&view, wanted)?;
        self.begin(caller, order).await
    }

    /// Lets a paused operation go on. Of one that has ended, what was never sent is begun as a new operation.
    ///
    /// # Errors
    /// As [`Self::retry`]; [`OperationError::NotPaused`] where it runs.
    pub async fn resume(&self, caller: &Caller, id: &str) -> Result<OperationView, OperationError> {
        auth::require(caller, Role::Operator)?;
        let view = self.get(caller, id).await?;
        if self.find_running(view.operation.id).is_none() {
            return self.retry(caller, id, &[TargetStatus::Cancelled, TargetStatus::Skipped]).await;
        }
        self.set_paused(caller, &view, false).await?;
        self.get(caller, id).await
    }

    /// Sends nothing more until [`Self::resume`]; what runs goes on.
    ///
    /// # Errors
    /// [`OperationError::Ended`]; [`OperationError::AlreadyPaused`].
    pub async fn pause(&self, caller: &Caller, id: &str) -> Result<OperationView, OperationError> {
        auth::require(caller, Role::Operator)?;
        let view = self.get(caller, id).await?;
        self.set_paused(caller, &view, true).await?;
        self.get(caller, id).await
    }
}

/// The new operation; what can be begun again is what was stored whole.
fn again(view: &OperationView, wanted: &[TargetStatus]) -> Result<Order, OperationError> {
    let servers: Vec<String> = view
        .targets
        .iter()
        // What was cancelled while it ran was sent: resuming is about what was not.
        .filter(|target| wanted.contains(&target.target.status))
        .filter(|target| !target.target.status.was_left_out() || target.target.record.is_none())
        .map(|target| target.target.server.to_string())
        .collect();
    if servers.is_empty() {
        return Err(OperationError::NothingToRepeat);
    }
    let Operation { kind, parameters, strategy, id, is_repeatable, .. } = &view.operation;
    if !is_repeatable {
        return Err(OperationError::NotRepeatable);
    }
    let strategy: Strategy = serde_json::from_value(strategy.clone()).unwrap_or_default();
    Ok(Order {
        action: stored_action(kind, parameters)?,
        selector: Selector::of_servers(servers),
        strategy,
        retry_of: Some(*id),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::actions::How;
    use crate::model::{ServiceVerb, Signal};

    #[test]
    fn what_is_stored_of_an_action_gives_it_back() {
        let label = How { label: Some("Look".to_owned()), ..How::default() };
        for action in [
            Action::service("nginx", ServiceVerb::Restart).unwrap(),
            Action::kill_process(77, 1234, Signal::Hup).unwrap(),
            Action::run_command("id; true", true, Some(Duration::from_secs(90))).unwrap(),
            Action::run_command("id", false, None).unwrap().run_like(label),
        ] {
            let stored = serde_json::to_value(&action).unwrap();
            assert_eq!(stored_action(action.kind(), &stored).unwrap(), action);
        }
    }
}
