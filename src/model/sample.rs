//! Samples: one value of one metric at one time.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Name of a metric as in the catalogue ([`crate::history::metric`]): `cpu_percent`, `filesystem_used_bytes`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MetricName(Cow<'static, str>);

impl MetricName {
    #[must_use]
    pub const fn known(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    #[must_use]
    pub const fn custom(name: String) -> Self {
        Self(Cow::Owned(name))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Made by [`Self::custom`].
    #[must_use]
    pub const fn is_custom(&self) -> bool {
        matches!(self.0, Cow::Owned(_))
    }
}

impl fmt::Display for MetricName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What tells apart the series of one metric on one server: a core, a mount, an interface, …
/// Empty for a metric that has one series. The text is the label's value (`/var`, `eth0`, `3`);
/// the catalogue knows the label's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Labels(Option<Arc<str>>);

impl Labels {
    pub const NONE: Self = Self(None);

    #[must_use]
    pub fn of(value: &str) -> Self {
        if value.is_empty() { Self::NONE } else { Self(Some(Arc::from(value))) }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("")
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// One series of a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesKey {
    pub metric: MetricName,
    pub labels: Labels,
}

impl SeriesKey {
    /// The only series of a metric of the catalogue.
    #[must_use]
    pub const fn plain(metric: &'static str) -> Self {
        Self { metric: MetricName::known(metric), labels: Labels::NONE }
    }
}

impl fmt::Display for SeriesKey {
    /// `cpu_percent`, `interface_rx_bytes{eth0}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.labels.is_empty() {
            write!(f, "{}", self.metric)
        } else {
            write!(f, "{}{{{}}}", self.metric, self.labels.as_str())
        }
    }
}

/// One value of one series; the time is that of the reading it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub key: SeriesKey,
    /// In the unit of the catalogue; finite.
    pub value: f64,
}
