//! `/metrics` of Roundsman itself: what it does, how late it is, what failed, what it costs.
//!
//! Pure: values in, series out. Servers are those of the caller's organization; the rest is the whole program's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::exposition::{Family, Sink};
use super::process::Usage;
use super::remote_write::Sent;
use crate::fleet::{Counted, Summary};
use crate::history::HistoryHealth;
use crate::model::{Layer, Timestamp};
use crate::store::StoreCounts;

/// Answers of the web, by the first digit of their status.
#[derive(Debug, Default)]
pub struct HttpCounts {
    by_class: [AtomicU64; 5],
    duration_us: AtomicU64,
}

/// Answers with their class, and the time that all of them took together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCounted {
    pub by_class: Vec<(&'static str, u64)>,
    pub duration: Duration,
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl HttpCounts {
    /// One answer with this status after so long.
    pub fn count(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).checked_sub(1);
        if let Some(count) = class.and_then(|class| self.by_class.get(class)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.duration_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    #[must_use]
    pub fn now(&self) -> HttpCounted {
        let counts = self.by_class.iter().map(|count| count.load(Ordering::Relaxed));
        HttpCounted {
            by_class: CLASSES.into_iter().zip(counts).collect(),
            duration: Duration::from_micros(self.duration_us.load(Ordering::Relaxed)),
        }
    }
}

/// Everything that is shown.
#[derive(Debug)]
pub struct OwnView {
    pub version: &'static str,
    pub started_at: Timestamp,
    pub summary: Summary,
    pub counted: Counted,
    pub history: HistoryHealth,
    pub store: StoreCounts,
    /// Name of a file of the data directory with its size.
    pub files: Vec<(&'static str, u64)>,
    pub http: HttpCounted,
    /// None: there is no long-term store.
    pub sent: Option<Sent>,
    pub process: Usage,
}

#[expect(clippy::cast_precision_loss, reason = "a sample of Prometheus is a double")]
const fn number(value: u64) -> f64 {
    value as f64
}

impl OwnView {
    pub fn write(&self, sink: &mut impl Sink) {
        const BUILD: Family =
            Family::gauge("roundsman_build_info", "A metric with a constant '1' value labeled by version.");
        sink.sample(&BUILD, &[("version", self.version)], 1.0);
        self.servers(sink);
        self.readings(sink);
        self.history(sink);
        self.store(sink);
        self.web(sink);
        if let Some(sent) = &self.sent {
            remote_write(sent, sink);
        }
        const START: Family = Family::gauge(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
        );
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of this age fit a double")]
        sink.sample(&START, &[], self.started_at.as_millis() as f64 / 1000.0);
        self.process.write(sink);
    }

    fn servers(&self, sink: &mut impl Sink) {
        const SERVERS: Family = Family::gauge("roundsman_servers", "Servers by health.");
        let summary = &self.summary;
        for (health, count) in [
            ("healthy", summary.healthy_servers),
            ("degraded", summary.degraded_servers),
            ("critical", summary.critical_servers),
            ("unreachable", summary.unreachable_servers),
            ("unknown", summary.unknown_servers),
        ] {
            sink.sample(&SERVERS, &[("health", health)], f64::from(count));
        }
        const STATUS: Family = Family::gauge("roundsman_servers_by_status", "Servers by status.");
        for (status, count) in [
            ("active", summary.active_servers),
            ("maintenance", summary.maintenance_servers),
            ("inactive", summary.inactive_servers),
        ] {
            sink.sample(&STATUS, &[("status", status)], f64::from(count));
        }
    }

    fn readings(&self, sink: &mut impl Sink) {
        let counted = &self.counted;
        let totals = [
            (Family::counter("roundsman_readings_total", "Readings that arrived."), number(counted.readings)),
            (
                Family::counter("roundsman_late_readings_total", "Readings that began over a second late."),
                number(counted.late_readings),
            ),
            (
                Family::counter(
                    "roundsman_reading_lateness_seconds_total",
                    "Time between when readings were due and when they began.",
                ),
                counted.lateness.as_secs_f64(),
            ),
            (
                Family::counter("roundsman_ssh_logins_total", "SSH logins of the pollers."),
                number(counted.logins),
            ),
        ];
        for (family, value) in totals {
            sink.sample(&family, &[], value);
        }
        const FAILURES: Family = Family::counter(
            "roundsman_server_failures_total",
            "Attempts to reach or read a server that failed, by the layer that failed.",
        );
        for (layer, count) in &counted.failures {
            sink.sample(&FAILURES, &[("layer", layer_word(*layer))], number(*count));
        }
    }

    fn history(&self, sink: &mut impl Sink) {
        let history = &self.history;
        let failing = u64::from(history.last_error.is_some());
        for (family, value) in [
            (
                Family::gauge(
                    "roundsman_history_failing",
                    "Whether the history file took nothing last time.",
                ),
                failing,
            ),
            (
                Family::gauge(
                    "roundsman_history_behind_seconds",
                    "Seconds of values that are in memory only.",
                ),
                history.behind_s,
            ),
            (
                Family::gauge("roundsman_history_head_bytes", "Memory of the values that are not sealed."),
                history.head_bytes,
            ),
            (
                Family::counter(
                    "roundsman_history_damaged_rows_total",
                    "Rows of the history file that could not be read.",
                ),
                history.damaged_rows,
            ),
        ] {
            sink.sample(&family, &[], number(value));
        }
        const DROPPED: Family = Family::counter(
            "roundsman_history_dropped_samples_total",
            "Samples that were not kept, by reason.",
        );
        let dropped = &history.dropped;
        for (reason, count) in [
            ("not_storable", dropped.not_storable),
            ("out_of_order", dropped.out_of_order),
            ("bad_time", dropped.bad_time),
            ("over_limit", dropped.over_limit),
            ("unwanted", dropped.unwanted),
            ("lost", dropped.lost),
        ] {
            sink.sample(&DROPPED, &[("reason", reason)], number(count));
        }
    }

    fn store(&self, sink: &mut impl Sink) {
        for (family, value) in [
            (
                Family::counter("roundsman_store_writes_total", "Transactions on the control data."),
                self.store.writes,
            ),
            (
                Family::counter("roundsman_store_write_failures_total", "Transactions that were undone."),
                self.store.failures,
            ),
            (
                Family::gauge("roundsman_store_waiting_writes", "Transactions that wait for the writer."),
                self.store.waiting,
            ),
        ] {
            sink.sample(&family, &[], number(value));
        }
        const BYTES: Family = Family::gauge("roundsman_file_bytes", "Sizes of the data files.");
        for (file, bytes) in &self.files {
            sink.sample(&BYTES, &[("file", file)], number(*bytes));
        }
    }

    fn web(&self, sink: &mut impl Sink) {
        const REQUESTS: Family =
            Family::counter("roundsman_http_requests_total", "Answers by the class of their status.");
        for (class, count) in &self.http.by_class {
            sink.sample(&REQUESTS, &[("code", class)], number(*count));
        }
        const TOOK: Family = Family::counter(
            "roundsman_http_request_duration_seconds_total",
            "Time from the request to the head of the answer, all together.",
        );
        sink.sample(&TOOK, &[], self.http.duration.as_secs_f64());
    }
}

fn remote_write(sent: &Sent, sink: &mut impl Sink) {
    for (family, value) in [
        (
            Family::counter("roundsman_remote_write_samples_total", "Samples that the long-term store took."),
            sent.samples,
        ),
        (
            Family::counter(
                "roundsman_remote_write_dropped_samples_total",
                "Samples that were given up because the queue was full.",
            ),
            sent.dropped,
        ),
        (
            Family::counter(
                "roundsman_remote_write_refused_samples_total",
                "Samples that the long-term store refused for good.",
            ),
            sent.refused,
        ),
        (
            Family::counter("roundsman_remote_write_retries_total", "Requests that were sent again."),
            sent.retries,
        ),
        (Family::gauge("roundsman_remote_write_queued_samples", "Samples that wait."), sent.queued),
    ] {
        sink.sample(&family, &[], number(value));
    }
}

/// As the API spells a layer.
const fn layer_word(layer: Option<Layer>) -> &'static str {
    match layer {
        Some(Layer::Name) => "name",
        Some(Layer::Tcp) => "tcp",
        Some(Layer::Banner) => "banner",
        Some(Layer::KeyExchange) => "key_exchange",
        Some(Layer::HostKey) => "host_key",
        Some(Layer::Authentication) => "authentication",
        Some(Layer::Channel) => "channel",
        Some(Layer::Shell) => "shell",
        Some(Layer::Tls) => "tls",
        Some(Layer::Http) => "http",
        None => "other",
    }
}
