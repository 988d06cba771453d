//! The containers of a server: what a reading brings becomes the table that pages show and the samples that are kept.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use super::packed::{pack, unpack};
use super::registry::Entry;
use super::{Fleet, FleetError};
use crate::auth;
use crate::collect::rates;
use crate::model::{Caller, Container, ContainerUsage, Gap, Role, Sample, Sections, Snapshot, Timestamp};
use crate::store::audit::{self, Entry as AuditEntry};
use crate::store::custom_metrics;

/// Longest beginning of a name; engines allow names of 255.
const PREFIX_CHARS: usize = 128;

/// Containers as they were last read, by name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ContainerTable {
    pub taken_at: Timestamp,
    /// Only containers whose name begins like this are looked at. Empty: all.
    pub prefix: String,
    pub containers: Vec<ContainerUsage>,
}

/// What is known of the containers of a server.
#[derive(Debug, Default)]
pub struct LiveContainers {
    /// The last table. None: none was read.
    table: Option<Packed>,
    /// When the sizes were asked for last. None: never.
    sizes_asked: Option<tokio::time::Instant>,
    /// The last reading asked and met no engine.
    no_engine: bool,
    prefix: Arc<str>,
    /// Bytes of the layer of its own, by id; read seldom.
    sizes: Arc<HashMap<String, u64>>,
}

impl LiveContainers {
    /// True once a span, where there are containers: their sizes are to be asked for now.
    pub fn sizes_are_due(&mut self, every: std::time::Duration) -> bool {
        let now = tokio::time::Instant::now();
        let is_due =
            self.table.is_some() && self.sizes_asked.is_none_or(|at| now.duration_since(at) >= every);
        if is_due {
            self.sizes_asked = Some(now);
        }
        is_due
    }

    /// The next reading takes them along.
    pub fn set_sizes(&mut self, sizes: HashMap<String, u64>) {
        self.sizes = Arc::new(sizes);
    }
}

/// A table at rest: there may be thousands, and hardly one is looked at.
#[derive(Debug)]
struct Packed(Box<[u8]>);

type Row = (Container, [Option<f64>; 5]);

impl Packed {
    fn of(taken_at: Timestamp, usages: Vec<ContainerUsage>) -> Option<Self> {
        let row = |usage: ContainerUsage| {
            let rates = [
                usage.cpu_percent,
                usage.rx_per_second,
                usage.tx_per_second,
                usage.block_read_per_second,
                usage.block_written_per_second,
            ];
            (usage.container, rates)
        };
        let rows: Vec<Row> = usages.into_iter().map(row).collect();
        pack(&(taken_at.as_millis(), rows)).map(Self)
    }

    fn open(&self, prefix: &str) -> Option<ContainerTable> {
        let (taken_at_ms, rows): (i64, Vec<Row>) = unpack(&self.0)?;
        let usage = |(container, [cpu, rx, tx, read, written]): Row| ContainerUsage {
            container,
            cpu_percent: cpu,
            rx_per_second: rx,
            tx_per_second: tx,
            block_read_per_second: read,
            block_written_per_second: written,
        };
        Some(ContainerTable {
            taken_at: Timestamp::from_millis(taken_at_ms),
            prefix: prefix.to_owned(),
            containers: rows.into_iter().map(usage).collect(),
        })
    }
}

/// What the readings of containers are compared with, held by the poller.
#[derive(Debug)]
pub struct ContainerWatch(Option<rates::ContainerCounts>);

impl ContainerWatch {
    pub const fn new() -> Self {
        Self(None)
    }

    /// Takes the containers out of a snapshot: their samples go to `samples`, their table to the entry.
    pub fn take(
        &mut self,
        snapshot: &mut Snapshot,
        sections: Sections,
        entry: &Entry,
        (samples, now): (&mut Vec<Sample>, Timestamp),
    ) {
        if !sections.containers {
            snapshot.containers = None;
            return;
        }
        let (prefix, sizes) = {
            let live = entry.live();
            (Arc::clone(&live.containers.prefix), Arc::clone(&live.containers.sizes))
        };
        if let Some(containers) = &mut snapshot.containers {
            containers.retain(|container| container.name.starts_with(&*prefix));
            for container in containers {
                container.size_bytes = container.size_bytes.or_else(|| sizes.get(&container.id).copied());
            }
        }
        let usages = rates::containers(self.0.as_ref(), snapshot);
        self.0 = rates::ContainerCounts::of(snapshot);
        snapshot.containers = None;
        let is_silent = snapshot.gaps.iter().any(|gap: &Gap| gap.section == "containers");
        if let Some(usages) = &usages {
            samples.extend(rates::container_samples(usages));
        }
        let mut live = entry.live();
        live.containers.no_engine = usages.is_none() && !is_silent;
        live.containers.table = usages.and_then(|usages| Packed::of(now, usages));
        if live.containers.table.is_none() && live.figures.containers_running.is_some() {
            Arc::make_mut(&mut live.figures).containers_running = None;
        }
    }
}

impl Fleet {
    /// The containers of a server as they were last read.
    ///
    /// # Errors
    /// [`FleetError::Unavailable`] while they have not been read, with the reason.
    pub fn containers(&self, caller: &Caller, reference: &str) -> Result<ContainerTable, FleetError> {
        auth::require(caller, Role::Viewer)?;
        {
            let entry = self.find(caller, reference)?;
            let live = entry.live();
            if live.containers.no_engine {
                return Err(FleetError::Unavailable(format!(
                    "the containers of {} are not known: neither Docker nor Podman runs there",
                    live.server.name
                )));
            }
        }
        self.detail(caller, reference, "containers", |entry| {
            let live = entry.live();
            live.containers.table.as_ref()?.open(&live.containers.prefix)
        })
    }

    /// The beginning of the names of the containers that are looked at. Empty: all.
    ///
    /// # Errors
    /// [`FleetError::NoSuchServer`].
    pub fn container_prefix(&self, caller: &Caller, reference: &str) -> Result<String, FleetError> {
        auth::require(caller, Role::Viewer)?;
        Ok(self.find(caller, reference)?.live().containers.prefix.to_string())
    }

    /// Looks only at containers whose name begins like this from now on; empty: at all.
    ///
    /// # Errors
    /// [`FleetError::Invalid`], [`FleetError::NoSuchServer`].
    pub async fn set_container_prefix(
        &self,
        caller: &Caller,
        reference: &str,
        prefix: &str,
    ) -> Result<(), FleetError> {
        auth::require(caller, Role::Admin)?;
        let prefix = prefix.trim();
        let may_stand = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if prefix.len() > PREFIX_CHARS || !prefix.chars().all(may_stand) {
            let message = format!(
                "names of containers begin with letters, digits, '_', '.' and '-'; at most {PREFIX_CHARS} characters"
            );
            return Err(FleetError::invalid("prefix", message));
        }
        let entry = self.find(caller, reference)?;
        let _alone = entry.changing.lock().await;
        self.find(caller, &entry.id.to_string())?;
        let (id, now) = (entry.id, self.inner.clock.now());
        let detail =
            if prefix.is_empty() { "all".to_owned() } else { format!("names beginning with {prefix}") };
        let record =
            AuditEntry::by(caller, "server.container-filter", entry.server().name.as_str()).detail(detail);
        let stored = prefix.to_owned();
        self.inner
            .store
            .write(move |tx| {
                custom_metrics::set_container_prefix(tx, id, &stored)?;
                audit::append(tx, now, &record)
            })
            .await?;
        entry.live().containers.prefix = Arc::from(prefix);
        entry.look();
        entry.wake.notify_one();
        self.server_changed(caller, id);
        Ok(())
    }

    pub(super) async fn load_container_prefixes(&self) -> Result<(), FleetError> {
        let prefixes = self.inner.store.read(custom_metrics::container_prefixes).await?;
        for (server, prefix) in prefixes {
            if let Some(entry) = self.inner.registry.get(server) {
                entry.live().containers.prefix = Arc::from(prefix);
            }
        }
        Ok(())
    }
}
