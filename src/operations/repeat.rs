//! Goes on after an end: the targets of an operation that did not succeed, or were never sent, as a new operation.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{OperationError, OperationView, Operations, Order, Strategy};
use crate::actions::{Action, ActionError, LISTS};
use crate::auth;
use crate::model::{Caller, Role, Selector, TargetStatus};
use crate::ssh::printable;
use crate::store::operations::{Operation, Target};

/// What a retry is about where nobody says: everything that was tried and did not succeed.
const TRIED: [TargetStatus; 3] = [TargetStatus::Failed, TargetStatus::Unreachable, TargetStatus::Unknown];

/// Which targets of an ended operation are tried again.
#[derive(Debug, Clone, Default)]
pub struct Again {
    /// In one of these states. None given: with servers named, whatever became of them; else those that failed, were unreachable
    /// or whose end was not seen.
    pub states: Vec<TargetStatus>,
    /// Only these, by name or id. None given: all of the operation.
    pub servers: BTreeSet<String>,
}

impl Again {
    /// What was never sent.
    const REST: [TargetStatus; 2] = [TargetStatus::Cancelled, TargetStatus::Skipped];

    fn means(&self, target: &Target) -> bool {
        let is_named = self.servers.contains(&target.server_name)
            || (!self.servers.is_empty() && self.servers.contains(&target.server.to_string()));
        let states = match (self.states.as_slice(), self.servers.is_empty()) {
            ([], true) => &TRIED[..],
            ([], false) => return is_named,
            (states, _) => states,
        };
        // What was cancelled while it ran was sent: by its state only what was not is meant.
        let is_left = !target.status.was_left_out() || target.record.is_none();
        let is_meant = self.servers.is_empty() || is_named;
        states.contains(&target.status) && is_left && is_meant
    }
}

/// As many of a name that is none as an answer repeats.
const NAME_CHARS: usize = 80;

/// A parameter of a JSON object as the text that a form would send.
pub fn parameter(members: &Map<String, Value>) -> impl Fn(&str) -> Option<String> + '_ {
    |name| match members.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        // Parameters with parts (environment, container) are read as JSON by the action.
        object @ Value::Object(_) => Some(object.to_string()),
        list @ Value::Array(_) if LISTS.contains(&name) => Some(list.to_string()),
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
    /// Begins a new operation with those targets of an ended one that are meant. What is sent twice may be done twice.
    ///
    /// # Errors
    /// [`OperationError::StillRunning`], [`OperationError::NoSuchTarget`], [`OperationError::NothingToRepeat`],
    /// [`OperationError::NotRepeatable`], and those of [`Operations::begin`].
    pub async fn retry(
        &self,
        caller: &Caller,
        id: &str,
        wanted: &Again,
    ) -> Result<OperationView, OperationError> {
        auth::require(caller, Role::Operator)?;
        let view = self.get(caller, id).await?;
        if self.find_running(view.operation.id).is_some() {
            return Err(OperationError::StillRunning);
        }
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
            let rest = Again { states: Again::REST.to_vec(), servers: BTreeSet::new() };
            return self.retry(caller, id, &rest).await;
        }
        self.set_paused(caller, &view, false).await?;
        self.get(caller, id).await
    }
}

/// The new operation; what can be begun again is what was stored whole.
fn again(view: &OperationView, wanted: &Again) -> Result<Order, OperationError> {
    let targets = view.targets.iter().map(|one| &one.target);
    let known: BTreeSet<String> =
        targets.flat_map(|target| [target.server_name.clone(), target.server.to_string()]).collect();
    if let Some(stranger) = wanted.servers.difference(&known).next() {
        return Err(OperationError::NoSuchTarget(printable::line(stranger.as_bytes(), NAME_CHARS)));
    }
    let servers: Vec<String> = view
        .targets
        .iter()
        .filter(|target| wanted.means(&target.target))
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

    fn parsed(kind: &str, pairs: &[(&str, &str)]) -> Action {
        let given =
            |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, text)| (*text).to_owned());
        Action::parse(kind, given).unwrap()
    }

    #[test]
    fn a_retry_is_about_states_or_servers_or_both_and_else_about_what_did_not_succeed() {
        let target = |name: &str, status| Target {
            position: 0,
            server: crate::model::ServerId::new(uuid::Uuid::from_u128(name.len() as u128)),
            server_name: name.to_owned(),
            status,
            command: None,
            error: None,
            record: None,
            batch: 0,
            started_at: None,
            completed_at: None,
        };
        let targets = [
            target("a", TargetStatus::Succeeded),
            target("bb", TargetStatus::Failed),
            target("ccc", TargetStatus::Unreachable),
            target("dddd", TargetStatus::Skipped),
        ];
        let meant = |states: &[TargetStatus], servers: &[&str]| -> Vec<&str> {
            let servers: BTreeSet<String> = servers.iter().map(|name| (*name).to_owned()).collect();
            let again = Again { states: states.to_vec(), servers };
            targets.iter().filter(|one| again.means(one)).map(|one| one.server_name.as_str()).collect()
        };
        assert_eq!(meant(&[], &[]), ["bb", "ccc"]);
        assert_eq!(meant(&[TargetStatus::Unreachable], &[]), ["ccc"]);
        assert_eq!(
            meant(&[], &["a", "dddd"]),
            ["a", "dddd"],
            "a server that is named is meant whatever became of it"
        );
        assert_eq!(meant(&[TargetStatus::Failed], &["a", "bb"]), ["bb"]);
        assert_eq!(meant(&[], &["00000000-0000-0000-0000-000000000003"]), ["ccc"]);
    }

    #[test]
    fn what_is_stored_of_an_action_gives_it_back() {
        let label = How { label: Some("Look".to_owned()), ..How::default() };
        let detached = How { detached: true, ..How::default() };
        for action in [
            Action::service("nginx", ServiceVerb::Restart).unwrap(),
            Action::watched_service("bot", ServiceVerb::Stop).unwrap(),
            Action::kill_process(77, 1234, Signal::Hup).unwrap(),
            Action::run_command("id; true", true, Some(Duration::from_secs(90))).unwrap(),
            Action::run_command("id", false, None).unwrap().run_like(label),
            parsed("enable_service", &[("service", "nginx")]),
            parsed(
                "remove_container",
                &[("container", "web"), ("container_engine", "podman"), ("force", "on")],
            ),
            parsed("container_logs", &[("container", "web"), ("lines", "7"), ("sudo", "true")]),
            parsed(
                "run_script",
                &[("script", "#!/bin/sh -e\nid"), ("arguments", "[a\n-b c"), ("timeout_s", "9")],
            ),
            parsed("run_script", &[("script", "id"), ("arguments", "[\"two\\nlines\"]")]),
            parsed("update_packages", &[("packages", "a b, c")]),
            parsed("update_packages", &[]),
            parsed("reboot", &[("timeout_s", "90")]),
            parsed("health_check", &[]),
            parsed("collect_diagnostics", &[("sudo", "on")]),
            Action::run_command("id", true, None).unwrap().run_like(detached),
        ] {
            let stored = action.stored();
            assert_eq!(stored_action(action.kind(), &stored).unwrap(), action);
        }
    }
}
