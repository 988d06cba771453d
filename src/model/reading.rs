//! What is computed from two snapshots and is not a sample.

use serde::Serialize;

use super::{Container, Process};

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

/// One container with its use over the last interval.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ContainerUsage {
    #[serde(flatten)]
    pub container: Container,
    /// Percent of one core. None, here and below: it did not run at the reading before, or its counters began anew.
    pub cpu_percent: Option<f64>,
    pub rx_per_second: Option<f64>,
    pub tx_per_second: Option<f64>,
    pub block_read_per_second: Option<f64>,
    pub block_written_per_second: Option<f64>,
}
