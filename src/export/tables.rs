//! Tables on their way out: which there are, who may have them, and how their rows are fetched in parts.

use std::collections::VecDeque;
use std::io;
use std::str::FromStr;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::format::{Format, Writer};
use super::{Export, ExportError};
use crate::auth;
use crate::fleet::{FleetError, ServerFilter, ServerState, Span};
use crate::history::metric;
use crate::model::{Caller, Role, Tag, shown};
use crate::store::export::{Position, StoredTable, rows_after};

/// Parts that wait for a slow reader.
const PARTS: usize = 4;
/// Rows fetched at once; command records hold up to 2 MiB of output each.
const ROWS: u32 = 500;
const RECORD_ROWS: u32 = 8;
/// Servers written at once.
const SERVERS: usize = 200;
/// Metrics of one export; more are several exports.
const METRICS: usize = 50;

/// What can be exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Servers,
    /// The figures of every server, as on the printable report.
    Report,
    Stored(StoredTable),
    Metrics,
}

impl Table {
    /// As in addresses and on the command line.
    pub const ALL: [(&'static str, Self); 8] = [
        ("servers", Self::Servers),
        ("report", Self::Report),
        ("operations", Self::Stored(StoredTable::Operations)),
        ("command_records", Self::Stored(StoredTable::CommandRecords)),
        ("audit", Self::Stored(StoredTable::Audit)),
        ("keys", Self::Stored(StoredTable::Keys)),
        ("users", Self::Stored(StoredTable::Users)),
        ("metrics", Self::Metrics),
    ];

    /// Who may have it: as on the pages that show it.
    const fn role(self) -> Role {
        match self {
            Self::Stored(StoredTable::Audit | StoredTable::Users) => Role::Admin,
            _ => Role::Viewer,
        }
    }
}

impl FromStr for Table {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, table)| table).ok_or_else(|| {
            let names = Self::ALL.map(|(name, _)| name).join(", ");
            format!("there is no table '{}'; there are {names}", shown(text, 40))
        })
    }
}

/// Which samples of which servers.
#[derive(Debug, Clone)]
pub struct MetricsWanted {
    pub metrics: Vec<String>,
    /// Its points are those of each series.
    pub span: Span,
}

/// What is asked for.
#[derive(Debug)]
pub struct Wanted {
    pub table: Table,
    pub format: Format,
    /// Of the tables of servers, and of metrics.
    pub filter: ServerFilter,
    /// Names or ids; empty: all that the filter leaves.
    pub servers: Vec<String>,
    /// For [`Table::Metrics`].
    pub metrics: Option<MetricsWanted>,
}

/// The text of an export in parts. An error in the last part means that what came before is not whole.
pub type Parts = mpsc::Receiver<io::Result<Bytes>>;

impl Export {
    /// Begins an export; its rows are fetched as fast as they are taken.
    ///
    /// # Errors
    /// [`ExportError::Auth`]; [`ExportError::Fleet`] for a server that is not there; [`ExportError::Invalid`].
    pub fn table(&self, caller: &Caller, wanted: Wanted) -> Result<Parts, ExportError> {
        auth::require(caller, wanted.table.role())?;
        let states = match wanted.table {
            Table::Stored(_) => Vec::new(),
            _ => self.states(caller, &wanted)?,
        };
        let rows = match wanted.table {
            Table::Servers => Rows::Servers(states),
            Table::Report => Rows::Report(states),
            Table::Stored(table) => Rows::Stored { table, after: None },
            Table::Metrics => {
                let asked = wanted.metrics.ok_or_else(|| {
                    ExportError::Invalid(
                        "say which metric is wanted; GET /api/v1/metrics lists them".to_owned(),
                    )
                })?;
                if !(1..=METRICS).contains(&asked.metrics.len()) {
                    return Err(ExportError::Invalid(format!("name 1 to {METRICS} metrics")));
                }
                self.require_metrics(caller, &states, &asked.metrics)?;
                let pairs = states
                    .iter()
                    .flat_map(|state| {
                        let name = state.server.name.to_string();
                        asked.metrics.iter().map(move |metric| (name.clone(), metric.clone()))
                    })
                    .collect();
                Rows::Metrics { pairs, asked }
            }
        };
        let (sender, parts) = mpsc::channel(PARTS);
        let (export, caller) = (self.clone(), caller.clone());
        tokio::spawn(async move {
            if let Err(error) = export.send(&caller, rows, wanted.format, &sender).await {
                tracing::warn!(%error, "an export broke off");
                // Nobody may be there to be told.
                drop(sender.send(Err(io::Error::other("the export broke off"))).await);
            }
        });
        Ok(parts)
    }

    fn states(&self, caller: &Caller, wanted: &Wanted) -> Result<Vec<ServerState>, ExportError> {
        let fleet = &self.inner.sources.fleet;
        if wanted.servers.is_empty() {
            return Ok(fleet.list(caller, &wanted.filter)?);
        }
        Ok(wanted.servers.iter().map(|name| fleet.get(caller, name)).collect::<Result<_, _>>()?)
    }

    /// A misspelt name is told before anything is sent.
    fn require_metrics(
        &self,
        caller: &Caller,
        states: &[ServerState],
        metrics: &[String],
    ) -> Result<(), ExportError> {
        let fleet = &self.inner.sources.fleet;
        for name in metrics {
            let has = |state: &ServerState| {
                let known = fleet.metric_names(caller, state.server.name.as_str());
                known.is_ok_and(|names| names.iter().any(|known| known.as_str() == name))
            };
            if metric::find(name).is_none() && !states.iter().any(has) {
                return Err(ExportError::Invalid(format!(
                    "there is no metric '{}'; GET /api/v1/metrics lists them",
                    shown(name, 80)
                )));
            }
        }
        Ok(())
    }

    async fn send(
        &self,
        caller: &Caller,
        mut rows: Rows,
        format: Format,
        parts: &mpsc::Sender<io::Result<Bytes>>,
    ) -> Result<(), ExportError> {
        let mut writer = Writer::new(format, rows.columns());
        let mut text = String::new();
        writer.begin(&mut text);
        while let Some(cells) = self.next(caller, &mut rows).await? {
            for row in &cells {
                writer.row(&mut text, row);
            }
            if !text.is_empty() && parts.send(Ok(std::mem::take(&mut text).into())).await.is_err() {
                // The reader has gone; nobody misses the rest.
                return Ok(());
            }
        }
        writer.end(&mut text);
        drop(parts.send(Ok(text.into())).await);
        Ok(())
    }

    /// The next rows. None: there are no more.
    async fn next(&self, caller: &Caller, rows: &mut Rows) -> Result<Option<Vec<Vec<Value>>>, ExportError> {
        match rows {
            Rows::Servers(states) => Ok(chunk(states, server_row)),
            Rows::Report(states) => Ok(chunk(states, report_row)),
            Rows::Stored { table, after } => {
                let (table, organization, from) = (*table, caller.organization, after.take());
                let limit = if table == StoredTable::CommandRecords { RECORD_ROWS } else { ROWS };
                let store = &self.inner.sources.store;
                let (found, last) =
                    store.read(move |c| rows_after(c, table, organization, from.as_ref(), limit)).await?;
                *after = last;
                Ok((!found.is_empty()).then_some(found))
            }
            Rows::Metrics { pairs, asked } => {
                let Some((server, metric)) = pairs.pop_front() else { return Ok(None) };
                let fleet = &self.inner.sources.fleet;
                let (servers, metrics) = ([server.clone()], [metric.clone()]);
                let ranges = match fleet.metric_ranges(caller, &servers, &metrics, asked.span).await {
                    Ok((_, ranges)) => ranges,
                    // Some other server has it; or this one was removed meanwhile.
                    Err(FleetError::NoSuchMetric { .. } | FleetError::NoSuchServer(_)) => Vec::new(),
                    Err(error) => return Err(error.into()),
                };
                let mut found = Vec::new();
                let series = ranges.into_iter().flat_map(|range| range.servers);
                for (label, points) in series.flat_map(|server| server.series) {
                    let label = (!label.is_empty()).then(|| label.as_str().to_owned());
                    found.extend(points.iter().map(|point| {
                        vec![
                            json!(server),
                            json!(metric),
                            json!(label),
                            json!(point.at),
                            json!(point.avg),
                            json!(point.min),
                            json!(point.max),
                        ]
                    }));
                }
                Ok(Some(found))
            }
        }
    }
}

/// What is still to be written.
enum Rows {
    Servers(Vec<ServerState>),
    Report(Vec<ServerState>),
    Stored { table: StoredTable, after: Option<Position> },
    Metrics { pairs: VecDeque<(String, String)>, asked: MetricsWanted },
}

impl Rows {
    fn columns(&self) -> Vec<&'static str> {
        match self {
            Self::Servers(_) => SERVER_COLUMNS.to_vec(),
            Self::Report(_) => REPORT_COLUMNS.to_vec(),
            Self::Stored { table, .. } => table.names(),
            Self::Metrics { .. } => vec!["server", "metric", "label", "at", "avg", "min", "max"],
        }
    }
}

fn chunk(states: &mut Vec<ServerState>, row: impl Fn(&ServerState) -> Vec<Value>) -> Option<Vec<Vec<Value>>> {
    let rest = states.split_off(SERVERS.min(states.len()));
    let now = std::mem::replace(states, rest);
    (!now.is_empty()).then(|| now.iter().map(row).collect())
}

const SERVER_COLUMNS: [&str; 17] = [
    "id",
    "name",
    "description",
    "hostname",
    "transport",
    "username",
    "port",
    "region",
    "environment",
    "tags",
    "metadata",
    "status",
    "health_status",
    "interval_ms",
    "last_seen_at",
    "created_at",
    "updated_at",
];

fn tags(state: &ServerState) -> Vec<&str> {
    state.server.tags.iter().map(Tag::as_str).collect()
}

fn server_row(state: &ServerState) -> Vec<Value> {
    let server = &state.server;
    vec![
        json!(server.id),
        json!(server.name.as_str()),
        json!(server.description),
        json!(server.hostname),
        json!(server.transport),
        json!(server.username),
        json!(server.port.get()),
        json!(server.region),
        json!(server.environment),
        json!(tags(state)),
        json!(server.metadata),
        json!(server.status),
        json!(state.health),
        json!(server.interval_ms),
        json!(state.last_seen_at),
        json!(server.created_at),
        json!(server.updated_at),
    ]
}

const REPORT_COLUMNS: [&str; 20] = [
    "name",
    "hostname",
    "region",
    "environment",
    "tags",
    "status",
    "health_status",
    "health_reasons",
    "last_seen_at",
    "cpu_percent",
    "memory_percent",
    "disk_percent",
    "load1",
    "uptime_seconds",
    "failed_services",
    "os_name",
    "kernel",
    "cpu_cores",
    "total_memory_bytes",
    "reboot_required",
];

fn report_row(state: &ServerState) -> Vec<Value> {
    let (server, figures, facts) = (&state.server, &state.figures, state.facts.as_deref());
    vec![
        json!(server.name.as_str()),
        json!(server.hostname),
        json!(server.region),
        json!(server.environment),
        json!(tags(state)),
        json!(server.status),
        json!(state.health),
        json!(state.health_reasons),
        json!(state.last_seen_at),
        json!(figures.cpu_percent),
        json!(figures.memory_percent),
        json!(figures.disk_percent),
        json!(figures.load1),
        json!(figures.uptime_seconds),
        json!(figures.failed_services),
        json!(facts.and_then(|facts| facts.os_name.as_deref())),
        json!(facts.and_then(|facts| facts.kernel.as_deref())),
        json!(facts.and_then(|facts| facts.cpu_cores)),
        json!(figures.memory_total_bytes),
        json!(facts.and_then(|facts| facts.reboot_required)),
    ]
}
