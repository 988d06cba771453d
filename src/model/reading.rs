//! What is computed from two snapshots and is not a sample.

use serde::Serialize;

use super::Process;

/// One process with its CPU use over the last interval.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProcessUsage {
    #[serde(flatten)]
    pub process: Process,
    /// Percent of one core. None: it was not in the snapshot before.
    pub cpu_percent: Option<f64>,
    /// Unix time in milliseconds. None: the boot time is not known.
    pub started_at_ms: Option<u64>,
}
