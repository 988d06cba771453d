//! A metric that an administrator defined as a command.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{CustomMetricId, OrganizationId, Selector, Timestamp};

/// A command whose output is values, the servers that it runs on, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CustomMetric {
    pub id: CustomMetricId,
    #[serde(skip)]
    pub organization: OrganizationId,
    /// Unique in its organization. The name of a value that the output gives no name.
    pub name: String,
    pub description: String,
    /// POSIX shell text.
    pub command: String,
    /// It runs as root, by sudo where the login is not root's.
    pub sudo: bool,
    #[serde(rename = "interval_ms", serialize_with = "ms")]
    pub interval: Duration,
    /// The command is ended after this time.
    #[serde(rename = "timeout_ms", serialize_with = "ms")]
    pub timeout: Duration,
    pub selector: Selector,
    pub enabled: bool,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub updated_by: String,
}

fn ms<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}
