//! Custom metrics: commands whose output is values, defined by an administrator for chosen servers.
//!
//! Here are the definitions and what people do with them; [`super::custom_run`] runs them.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::custom_run::{RunState, run_once};
use super::{Fleet, FleetError};
use crate::actions::mask;
use crate::auth;
use crate::collect::custom::Parsed;
use crate::history::metric;
use crate::model::{Caller, CustomMetric, CustomMetricId, Role, Selector, ServerId};
use crate::store::audit::{self, Entry as AuditEntry};
use crate::store::{StoreError, custom_metrics};

/// Definitions of one organization. Each runs on its own; more than this nobody keeps an eye on.
const METRICS: usize = 200;
/// Longest command; a longer one belongs into a script on the server.
const COMMAND_BYTES: usize = 16 * 1024;
const DESCRIPTION_CHARS: usize = 500;
const NAME_CHARS: usize = 64;
/// How often a metric may run: a command costs the server more than a reading does.
pub const INTERVALS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_hours(24));
pub const TIMEOUTS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
pub const DEFAULT_INTERVAL: Duration = Duration::from_mins(1);
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// A new metric, or what is to change of one: None leaves it as it is, or at its default.
#[derive(Debug, Clone, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CustomMetricEdit {
    /// Lowercase letters, digits and `_`; needed for a new one.
    pub name: Option<String>,
    pub description: Option<String>,
    /// POSIX shell text; needed for a new one.
    pub command: Option<String>,
    /// Run as root: by sudo where the login is not root's.
    pub sudo: Option<bool>,
    /// 5,000 to 86,400,000; 60,000 by default. Values join the next reading of the server.
    pub interval_ms: Option<u64>,
    /// 1,000 to 60,000 and at most the interval; 10,000 by default.
    pub timeout_ms: Option<u64>,
    /// The servers: all, servers, groups, tags, regions, environments, health, status. Needed for a new one.
    #[schema(value_type = Object)]
    pub selector: Option<Selector>,
    pub enabled: Option<bool>,
}

/// What a command came to on one server, tried once.
#[derive(Debug, Clone, Serialize)]
pub struct Trial {
    pub server_id: ServerId,
    pub server_name: String,
    /// None: it was ended by a signal, or did not run to its end.
    pub exit_status: Option<u32>,
    pub elapsed_ms: u64,
    /// Cleaned for a page.
    pub stdout: String,
    pub stderr: String,
    /// Why it did not run to its end.
    pub error: Option<String>,
    pub parsed: Option<Parsed>,
}

/// One server that a metric is meant for, and how the last run went there.
#[derive(Debug, Clone, Serialize)]
pub struct CustomMetricState {
    pub server_id: ServerId,
    pub server_name: String,
    #[serde(flatten)]
    pub state: RunState,
}

impl CustomMetricEdit {
    fn apply(self, metric: &mut CustomMetric) -> Result<(), FleetError> {
        if let Some(name) = self.name {
            metric.name = name.trim().to_owned();
        }
        if let Some(description) = self.description {
            metric.description = description.trim().to_owned();
        }
        if let Some(command) = self.command {
            metric.command = command.replace("\r\n", "\n").trim().to_owned();
        }
        metric.sudo = self.sudo.unwrap_or(metric.sudo);
        metric.interval = self.interval_ms.map_or(metric.interval, Duration::from_millis);
        metric.timeout = self.timeout_ms.map_or(metric.timeout, Duration::from_millis);
        metric.selector = self.selector.unwrap_or_else(|| metric.selector.clone());
        metric.enabled = self.enabled.unwrap_or(metric.enabled);
        check(metric)
    }
}

/// # Errors
/// [`FleetError::Invalid`] names the field and says what would be accepted.
fn check(metric: &CustomMetric) -> Result<(), FleetError> {
    let name = metric.name.as_str();
    let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
        && name.len() <= NAME_CHARS;
    if !is_name {
        let message = format!(
            "a name is a lowercase letter, then letters, digits and '_', at most {NAME_CHARS} characters"
        );
        return Err(FleetError::invalid("name", message));
    }
    if metric::find(name).is_some() {
        let message = format!("{name} is a metric of Roundsman's own; choose another name");
        return Err(FleetError::invalid("name", message));
    }
    if metric.description.chars().count() > DESCRIPTION_CHARS {
        let message = format!("a description has at most {DESCRIPTION_CHARS} characters");
        return Err(FleetError::invalid("description", message));
    }
    check_command(&metric.command)?;
    if !(INTERVALS.0..=INTERVALS.1).contains(&metric.interval) {
        return Err(FleetError::invalid("interval_ms", "a metric is read every 5 seconds to every 24 hours"));
    }
    if !(TIMEOUTS.0..=TIMEOUTS.1).contains(&metric.timeout) || metric.timeout > metric.interval {
        return Err(FleetError::invalid(
            "timeout_ms",
            "a command may take 1 second to 1 minute, and not longer than the time between two runs",
        ));
    }
    if metric.selector.is_empty() {
        return Err(FleetError::invalid("selector", "say on which servers it runs: all, by name, by tag, …"));
    }
    Ok(())
}

fn check_command(command: &str) -> Result<(), FleetError> {
    if command.trim().is_empty() {
        return Err(FleetError::invalid("command", "the command is missing"));
    }
    if command.len() > COMMAND_BYTES || command.contains('\0') {
        let message =
            format!("a command is text of at most {COMMAND_BYTES} bytes; put a longer one into a script");
        return Err(FleetError::invalid("command", message));
    }
    Ok(())
}

impl Fleet {
    /// The custom metrics of the organization, by name.
    ///
    /// # Errors
    /// [`FleetError::Auth`]: commands may name what only administrators should read.
    pub fn custom_metrics(&self, caller: &Caller) -> Result<Vec<Arc<CustomMetric>>, FleetError> {
        auth::require(caller, Role::Admin)?;
        let mut found = self.inner.custom.of(caller.organization);
        found.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(found)
    }

    /// One by id or name.
    ///
    /// # Errors
    /// [`FleetError::NoSuchCustomMetric`].
    pub fn custom_metric(&self, caller: &Caller, reference: &str) -> Result<Arc<CustomMetric>, FleetError> {
        let id: Option<CustomMetricId> = reference.parse().ok();
        self.custom_metrics(caller)?
            .into_iter()
            .find(|metric| Some(metric.id) == id || metric.name == reference)
            .ok_or_else(|| FleetError::NoSuchCustomMetric(crate::model::shown(reference, 80)))
    }

    /// Defines a metric; it runs from now on unless it is not enabled.
    ///
    /// # Errors
    /// [`FleetError::Invalid`], [`FleetError::CustomMetricNameTaken`], [`FleetError::NoSuchServer`] for what the selector names.
    pub async fn add_custom_metric(
        &self,
        caller: &Caller,
        edit: CustomMetricEdit,
    ) -> Result<Arc<CustomMetric>, FleetError> {
        auth::require(caller, Role::Admin)?;
        if self.inner.custom.of(caller.organization).len() >= METRICS {
            return Err(FleetError::invalid(
                "name",
                format!("there may be at most {METRICS} custom metrics"),
            ));
        }
        let now = self.inner.clock.now();
        let mut metric = CustomMetric {
            id: CustomMetricId::new(self.inner.clock.new_uuid()),
            organization: caller.organization,
            name: String::new(),
            description: String::new(),
            command: String::new(),
            sudo: false,
            interval: DEFAULT_INTERVAL,
            timeout: DEFAULT_TIMEOUT,
            selector: Selector::default(),
            enabled: true,
            created_at: now,
            updated_at: now,
            updated_by: caller.actor.to_string(),
        };
        edit.apply(&mut metric)?;
        self.store_custom_metric(caller, "custom-metric.add", metric).await
    }

    /// Changes a metric; what it reads from now on follows the change.
    ///
    /// # Errors
    /// As [`Self::add_custom_metric`], and [`FleetError::NoSuchCustomMetric`].
    pub async fn edit_custom_metric(
        &self,
        caller: &Caller,
        reference: &str,
        edit: CustomMetricEdit,
    ) -> Result<Arc<CustomMetric>, FleetError> {
        let mut metric = (*self.custom_metric(caller, reference)?).clone();
        edit.apply(&mut metric)?;
        metric.updated_at = self.inner.clock.now();
        metric.updated_by = caller.actor.to_string();
        self.store_custom_metric(caller, "custom-metric.edit", metric).await
    }

    async fn store_custom_metric(
        &self,
        caller: &Caller,
        action: &str,
        metric: CustomMetric,
    ) -> Result<Arc<CustomMetric>, FleetError> {
        // What it names has to be there now; what it chooses may come later.
        self.select(caller, &metric.selector)?;
        let record = AuditEntry::by(caller, action, &metric.name).detail(audit_detail(&metric));
        let (stored, now) = (metric.clone(), metric.updated_at);
        self.inner
            .store
            .write(move |tx| {
                custom_metrics::save(tx, &stored)?;
                audit::append(tx, now, &record)
            })
            .await
            .map_err(|error| match error {
                StoreError::Conflict => FleetError::CustomMetricNameTaken(metric.name.clone()),
                other => FleetError::Store(other),
            })?;
        let metric = Arc::new(metric);
        self.inner.custom.put(Arc::clone(&metric));
        self.forget_custom_figures(metric.id);
        Ok(metric)
    }

    /// Removes a metric. What it has read stays in history as long as everything there does.
    ///
    /// # Errors
    /// [`FleetError::NoSuchCustomMetric`].
    pub async fn remove_custom_metric(&self, caller: &Caller, reference: &str) -> Result<(), FleetError> {
        let metric = self.custom_metric(caller, reference)?;
        let (organization, id, now) = (caller.organization, metric.id, self.inner.clock.now());
        let record = AuditEntry::by(caller, "custom-metric.remove", &metric.name);
        self.inner
            .store
            .write(move |tx| {
                custom_metrics::remove(tx, organization, id)?;
                audit::append(tx, now, &record)
            })
            .await?;
        self.inner.custom.remove(id);
        self.forget_custom_figures(id);
        Ok(())
    }

    /// How the metric does on each server that it is meant for, by name.
    ///
    /// # Errors
    /// [`FleetError::NoSuchCustomMetric`]; [`FleetError::NoSuchServer`] when one that it names is gone.
    pub fn custom_metric_states(
        &self,
        caller: &Caller,
        reference: &str,
    ) -> Result<Vec<CustomMetricState>, FleetError> {
        let metric = self.custom_metric(caller, reference)?;
        let states = self.meant_by(caller, &metric.selector)?;
        let state = |(server_id, server_name): (ServerId, String)| CustomMetricState {
            state: self.inner.custom.state(metric.id, server_id),
            server_id,
            server_name,
        };
        let mut found: Vec<CustomMetricState> = states.into_iter().map(state).collect();
        found.sort_by(|left, right| left.server_name.cmp(&right.server_name));
        Ok(found)
    }

    /// The servers of a selector; servers and groups that it names and that were removed since are left out. Without its
    /// last group its other conditions mean nobody: they only narrowed.
    pub(super) fn meant_by(
        &self,
        caller: &Caller,
        selector: &Selector,
    ) -> Result<Vec<(ServerId, String)>, FleetError> {
        let mut selector = selector.clone();
        selector.servers.retain(|reference| self.find(caller, reference).is_ok());
        let by_group = !selector.groups.is_empty();
        selector.groups.retain(|reference| self.group(caller, reference).is_ok());
        if by_group && selector.groups.is_empty() {
            selector = Selector::of_servers(selector.servers);
        }
        let states = self.select(caller, &selector)?;
        Ok(states.into_iter().map(|state| (state.server.id, state.server.name.to_string())).collect())
    }

    /// Runs a command once on one server and says what its output means; nothing is kept but the audit entry.
    ///
    /// # Errors
    /// [`FleetError::Invalid`], [`FleetError::NoSuchServer`]. A command that cannot run is no error but what is told.
    pub async fn try_custom_metric(
        &self,
        caller: &Caller,
        edit: &CustomMetricEdit,
        reference: &str,
    ) -> Result<Trial, FleetError> {
        auth::require(caller, Role::Admin)?;
        let command = edit.command.clone().unwrap_or_default().replace("\r\n", "\n");
        check_command(&command)?;
        let timeout = edit.timeout_ms.map_or(DEFAULT_TIMEOUT, Duration::from_millis);
        if !(TIMEOUTS.0..=TIMEOUTS.1).contains(&timeout) {
            return Err(FleetError::invalid("timeout_ms", "a command may take 1 second to 1 minute"));
        }
        let entry = self.find(caller, reference)?;
        let name = edit.name.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| "value".to_owned());
        let detail = format!(
            "{}: {}",
            if edit.sudo == Some(true) { "as root" } else { "as its login" },
            mask(&command)
        );
        let record = AuditEntry::by(caller, "custom-metric.try", entry.server().name.as_str()).detail(detail);
        let now = self.inner.clock.now();
        self.inner.store.write(move |tx| audit::append(tx, now, &record)).await?;
        let ran = run_once(self, caller, entry.id, &command, edit.sudo.unwrap_or(false), timeout).await;
        Ok(Trial::of(&entry.server(), ran, &name))
    }
}

fn audit_detail(metric: &CustomMetric) -> String {
    format!(
        "{}, every {} s, {}: {}",
        if metric.enabled { "enabled" } else { "disabled" },
        metric.interval.as_secs(),
        if metric.sudo { "as root" } else { "as the login" },
        mask(&metric.command)
    )
}
