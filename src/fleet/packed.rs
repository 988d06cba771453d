//! Tables of details in memory, packed to a third: there are thousands of them, and hardly one is looked at.
//!
//! Packing and opening cost some microseconds; both happen once a reading of details or once a page.

use super::state::{ProcessTable, ServiceTable};
use crate::model::{Process, ProcessUsage, Service, Timestamp};

/// A [`ProcessTable`] at rest.
#[derive(Debug)]
pub struct PackedProcesses(Box<[u8]>);

/// Milliseconds, all processes, those that are kept with CPU percent and start.
type Processes = (i64, usize, Vec<(Process, Option<f64>, Option<u64>)>);

impl PackedProcesses {
    /// None: the table cannot be packed, which no table of ours does.
    pub fn of(table: ProcessTable) -> Option<Self> {
        let rows =
            table.processes.into_iter().map(|usage| (usage.process, usage.cpu_percent, usage.started_at_ms));
        let packed: Processes = (table.taken_at.as_millis(), table.total, rows.collect());
        pack(&packed).map(Self)
    }

    pub fn open(&self) -> Option<ProcessTable> {
        let (taken_at_ms, total, rows): Processes = unpack(&self.0)?;
        let usage =
            |(process, cpu_percent, started_at_ms)| ProcessUsage { process, cpu_percent, started_at_ms };
        Some(ProcessTable {
            taken_at: Timestamp::from_millis(taken_at_ms),
            total,
            processes: rows.into_iter().map(usage).collect(),
        })
    }
}

/// A [`ServiceTable`] at rest.
#[derive(Debug)]
pub struct PackedServices(Box<[u8]>);

type Services = (i64, Vec<Service>);

impl PackedServices {
    /// None: the table cannot be packed, which no table of ours does.
    pub fn of(table: ServiceTable) -> Option<Self> {
        let packed: Services = (table.taken_at.as_millis(), table.services);
        pack(&packed).map(Self)
    }

    pub fn open(&self) -> Option<ServiceTable> {
        let (taken_at_ms, services): Services = unpack(&self.0)?;
        Some(ServiceTable { taken_at: Timestamp::from_millis(taken_at_ms), services })
    }
}

pub(super) fn pack<T: serde::Serialize>(value: &T) -> Option<Box<[u8]>> {
    match postcard::to_stdvec(value) {
        Ok(bytes) => Some(bytes.into_boxed_slice()),
        Err(error) => {
            tracing::error!(%error, "a table of details cannot be packed; it stays unknown");
            None
        }
    }
}

pub(super) fn unpack<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    match postcard::from_bytes(bytes) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!(%error, "a packed table of details cannot be opened; it stays unknown");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_tables_open_as_they_were() {
        let process = |pid: u32| Process {
            pid,
            uid: (pid.is_multiple_of(2)).then_some(33),
            user: Some("www-data".to_owned()),
            state: 'S',
            name: "apache2".to_owned(),
            command_line: (pid.is_multiple_of(3)).then(|| "/usr/sbin/apache2 -k start".to_owned()),
            user_ticks: u64::MAX,
            ..Process::default()
        };
        let usage = |pid| ProcessUsage {
            process: process(pid),
            cpu_percent: Some(f64::from(pid) / 3.0),
            started_at_ms: Some(1_700_000_000_000),
        };
        let processes = ProcessTable {
            taken_at: Timestamp::from_millis(5),
            total: 400,
            processes: (1..80).map(usage).collect(),
        };
        let packed = PackedProcesses::of(processes.clone()).unwrap();
        let open = packed.open().unwrap();
        assert_eq!((open.taken_at, open.total), (processes.taken_at, processes.total));
        assert_eq!(open.processes, processes.processes);
        assert!(packed.0.len() < 80 * 100, "{} bytes", packed.0.len());

        let service =
            Service { name: "cron".to_owned(), enabled: Some("enabled".to_owned()), ..Service::default() };
        let services = ServiceTable { taken_at: Timestamp::from_millis(7), services: vec![service; 64] };
        let open = PackedServices::of(services.clone()).unwrap().open().unwrap();
        assert_eq!((open.taken_at, open.services), (services.taken_at, services.services));
    }
}
