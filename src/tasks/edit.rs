//! What a person may say of a task: checked here once, whoever asks.

use std::time::Duration;

use super::TaskError;
use super::owner::owner_of;
use super::schedule::Schedule;
use crate::actions::{Action, mask};
use crate::auth;
use crate::fleet::Fleet;
use crate::model::{Caller, Missed, Overlap, Selector, Task, TaskId, Timestamp};
use crate::operations::{OperationError, Strategy, stored_action};

/// The zone of a task for which nobody says one.
pub const DEFAULT_ZONE: &str = "UTC";
const NAME_CHARS: usize = 80;
/// Words of addresses.
const RESERVED: [&str; 4] = ["new", "preview", "schedule", "runs"];
const DESCRIPTION_CHARS: usize = 500;
/// A longer delay is another schedule.
const LONGEST_JITTER: Duration = Duration::from_secs(3600);
/// What is older than a week is nobody's any more.
const LONGEST_GRACE: Duration = Duration::from_secs(7 * 24 * 3600);
const DEFAULT_GRACE: Duration = Duration::from_secs(3600);
const MISSED_LIMIT: u32 = 100;
const DEFAULT_MISSED_LIMIT: u32 = 10;
const RETRIES: u32 = 10;
const LONGEST_RETRY_WAIT: Duration = Duration::from_secs(24 * 3600);
const DEFAULT_RETRY_WAIT: Duration = Duration::from_secs(60);

/// A new task, or what is to change of one: None leaves it as it is, or at its default.
#[derive(Debug, Clone, Default)]
pub struct TaskEdit {
    /// Needed for a new one, as are `cron`, `action` and `selector`.
    pub name: Option<String>,
    pub description: Option<String>,
    pub cron: Option<String>,
    pub time_zone: Option<String>,
    pub action: Option<Action>,
    pub selector: Option<Selector>,
    pub strategy: Option<Strategy>,
    /// Up to 3,600.
    pub jitter_s: Option<u64>,
    pub overlap: Option<Overlap>,
    pub missed: Option<Missed>,
    /// 1 to 100.
    pub missed_limit: Option<u32>,
    /// Up to a week.
    pub missed_grace_s: Option<u64>,
    /// Up to 10.
    pub retries: Option<u32>,
    /// Up to a day.
    pub retry_wait_s: Option<u64>,
    pub enabled: Option<bool>,
}

/// The zone of the machine, for tasks of programs that know no other; UTC where it has no name.
#[must_use]
pub fn machine_zone() -> String {
    let zone = jiff::tz::TimeZone::system();
    zone.iana_name().unwrap_or(DEFAULT_ZONE).to_owned()
}

impl TaskEdit {
    pub(super) fn create(
        self,
        id: TaskId,
        caller: &Caller,
        fleet: &Fleet,
        now: Timestamp,
    ) -> Result<Task, TaskError> {
        for (field, is_there, what) in [
            ("name", self.name.is_some(), "the name of the task"),
            ("cron", self.cron.is_some(), "its schedule, for example \"0 3 * * *\" or \"@daily\""),
            ("operation_type", self.action.is_some(), "what it does, for example \"restart_service\""),
            ("server_ids", self.selector.is_some(), "the servers that it is for"),
        ] {
            if !is_there {
                return Err(TaskError::invalid(field, format!("{field} is missing: {what}")));
            }
        }
        let task = Task {
            id,
            organization: caller.organization,
            name: String::new(),
            description: String::new(),
            cron: String::new(),
            time_zone: DEFAULT_ZONE.to_owned(),
            kind: String::new(),
            parameters: serde_json::Value::Null,
            selector: Selector::default(),
            strategy: serde_json::json!({}),
            jitter: Duration::ZERO,
            overlap: Overlap::Skip,
            missed: Missed::Skip,
            missed_limit: DEFAULT_MISSED_LIMIT,
            missed_grace: DEFAULT_GRACE,
            retries: 0,
            retry_wait: DEFAULT_RETRY_WAIT,
            enabled: true,
            owner: owner_of(caller)?,
            owner_name: String::new(),
            considered_at: now,
            created_at: now,
            updated_at: now,
        };
        self.apply(task, caller, fleet, now)
    }

    pub(super) fn apply(
        self,
        before: Task,
        caller: &Caller,
        fleet: &Fleet,
        now: Timestamp,
    ) -> Result<Task, TaskError> {
        let mut task = before.clone();
        if let Some(name) = self.name {
            task.name = checked_name(&name)?;
        }
        if let Some(description) = self.description {
            task.description = description.trim().to_owned();
            if task.description.chars().count() > DESCRIPTION_CHARS {
                let message = format!("a description has at most {DESCRIPTION_CHARS} characters");
                return Err(TaskError::invalid("description", message));
            }
        }
        task.cron = self.cron.unwrap_or(task.cron).trim().to_owned();
        let schedule = Schedule::parse(&task.cron, self.time_zone.as_deref().unwrap_or(&task.time_zone))?;
        schedule.zone_name().clone_into(&mut task.time_zone);
        if let Some(action) = self.action {
            task.parameters = parameters(&action)?;
            action.kind().clone_into(&mut task.kind);
        }
        // Whoever saves it answers for what it does: they must be allowed to do it.
        auth::require(caller, stored_action(&task.kind, &task.parameters)?.role())?;
        (task.owner, task.owner_name) = (owner_of(caller)?, caller.actor.to_string());
        if let Some(selector) = self.selector {
            task.selector = resolved(fleet, caller, selector)?;
        }
        if let Some(strategy) = self.strategy {
            strategy.check().map_err(OperationError::from)?;
            task.strategy = serde_json::to_value(&strategy)
                .map_err(|error| TaskError::invalid("strategy", error.to_string()))?;
        }
        task.jitter = span("jitter_s", self.jitter_s, task.jitter, LONGEST_JITTER)?;
        task.missed_grace = span("missed_grace_s", self.missed_grace_s, task.missed_grace, LONGEST_GRACE)?;
        task.retry_wait = span("retry_wait_s", self.retry_wait_s, task.retry_wait, LONGEST_RETRY_WAIT)?;
        task.overlap = self.overlap.unwrap_or(task.overlap);
        task.missed = self.missed.unwrap_or(task.missed);
        task.missed_limit = self.missed_limit.unwrap_or(task.missed_limit);
        if !(1..=MISSED_LIMIT).contains(&task.missed_limit) {
            let message = format!("1 to {MISSED_LIMIT} missed runs can be made up for");
            return Err(TaskError::invalid("missed_limit", message));
        }
        task.retries = self.retries.unwrap_or(task.retries);
        if task.retries > RETRIES {
            return Err(TaskError::invalid(
                "retries",
                format!("a run is tried again at most {RETRIES} times"),
            ));
        }
        task.enabled = self.enabled.unwrap_or(task.enabled);
        let is_other_time = task.cron != before.cron || task.time_zone != before.time_zone;
        if is_other_time || task.enabled && !before.enabled {
            task.considered_at = now;
        }
        task.updated_at = now;
        Ok(task)
    }
}

fn span(
    field: &'static str,
    given: Option<u64>,
    before: Duration,
    longest: Duration,
) -> Result<Duration, TaskError> {
    let span = given.map_or(before, Duration::from_secs);
    if span > longest {
        return Err(TaskError::invalid(field, format!("use 0 to {} seconds", longest.as_secs())));
    }
    Ok(span)
}

fn checked_name(name: &str) -> Result<String, TaskError> {
    let name = name.trim();
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '.' | '_' | '-');
    let is_name = name.chars().all(allowed)
        && name.len() <= NAME_CHARS
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !name.contains("  ");
    let message = if !is_name {
        format!(
            "a name is 1 to {NAME_CHARS} letters, digits, single blanks and . _ -, and begins with a letter or a digit"
        )
    } else if name.parse::<TaskId>().is_ok() || RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
        format!("'{name}' would be taken for something else; choose another name")
    } else {
        return Ok(name.to_owned());
    };
    Err(TaskError::invalid("name", message))
}

/// The action as it is stored: whole, and shown to everybody who sees the task.
fn parameters(action: &Action) -> Result<serde_json::Value, TaskError> {
    let secret = || {
        TaskError::invalid(
            "parameters",
            "a task is stored and shown, so it must not hold a secret: let the command read it from a file on the server",
        )
    };
    let value = serde_json::to_value(action).unwrap_or_default();
    let is_whole = stored_action(action.kind(), &value).is_ok_and(|stored| stored == *action);
    if is_whole && !holds_secret(&value) { Ok(value) } else { Err(secret()) }
}

fn holds_secret(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => mask(text) != *text,
        serde_json::Value::Array(items) => items.iter().any(holds_secret),
        serde_json::Value::Object(members) => members.values().any(holds_secret),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => false,
    }
}

/// With servers by id, so that renaming one changes nothing.
fn resolved(fleet: &Fleet, caller: &Caller, mut selector: Selector) -> Result<Selector, TaskError> {
    if selector.is_empty() {
        let message = "say which servers it is for: by name, group, tag, region, environment, health, or all";
        return Err(TaskError::invalid("server_ids", message));
    }
    // What it names has to be there now; what it chooses may come later.
    fleet.select(caller, &selector)?;
    for server in &mut selector.servers {
        *server = fleet.get(caller, server)?.server.id.to_string();
    }
    selector.servers.dedup();
    Ok(selector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_readable_and_cannot_be_taken_for_an_address() {
        for good in ["nightly", "Restart nginx nightly", "db-1.backup_2", "7"] {
            assert_eq!(checked_name(&format!(" {good} ")).unwrap(), good);
        }
        let long = "x".repeat(81);
        for bad in [
            "",
            "a  b",
            "-x",
            "a/b",
            "<b>",
            "ä",
            "new",
            "Preview",
            "a\nb",
            &long,
            "01890000-0000-7000-8000-000000000001",
        ] {
            assert!(checked_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_action_with_a_secret_is_refused_and_others_are_stored_whole() {
        let run = |command: &str| Action::run_command(command, true, None).unwrap();
        assert!(parameters(&run("apt-get update && apt-get -y upgrade")).is_ok());
        assert!(parameters(&run("mysqldump --password=hunter2 all")).is_err());
        let secret = |name: &str| match name {
            "command" => Some("backup".to_owned()),
            "secret_environment" => Some("KEY=x".to_owned()),
            _ => None,
        };
        assert!(parameters(&Action::parse("run_command", secret).unwrap()).is_err());
    }
}
