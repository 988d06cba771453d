//! Remote-write: passes every reading on to a long-term store of Prometheus' kind, under node_exporter's names.
//!
//! Listens to the events of the fleet and delays no reading: what the store does not take waits in a bounded queue,
//! whose oldest entries give way. Only the administrator's configuration file says where to.

mod encode;
mod queue;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::{StatusCode, header, redirect};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio_util::sync::CancellationToken;

use super::exposition::{Family, Sink as _};
use super::node::NodeView;
use crate::config::{RemoteAuth, RemoteWrite};
use crate::fleet::{Fleet, RawState};
use crate::model::{Event, Health, Server, ServerId, Timestamp};
use crate::outbound::{Guarded, is_refused};
use crate::ssh::printable;
use encode::Block;
use queue::{Batch, Queue};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Receivers answer within a second; one that does not is asked again.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Waits between attempts double from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// A Retry-After beyond this is not believed.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(300);
/// As much of a refusal as goes to the log.
const REFUSAL_BYTES: usize = 500;
/// A reading counts as due a little early, as readings are not exactly as long apart as they should be.
const DUE_EARLY: Duration = Duration::from_millis(500);

const UP: Family = Family::gauge("up", "Whether the server was read.");

/// Why remote-write cannot begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoteWriteError {
    #[error(
        "remote_write.url: {0} is a link-local or metadata address; set allow_link_local = true if it is meant"
    )]
    Refused(String),
    #[error("remote_write: {0}")]
    Client(String),
}

/// What became of the samples since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Sent {
    pub samples: u64,
    pub dropped: u64,
    pub refused: u64,
    pub retries: u64,
    pub queued: u64,
}

#[derive(Debug, Default)]
struct Counts {
    samples: AtomicU64,
    refused: AtomicU64,
    retries: AtomicU64,
    /// Readings that came while this task was too slow to see them.
    missed: AtomicU64,
}

/// The queue and its sender; clones are the same one.
#[derive(Debug, Clone)]
pub struct RemoteWriter {
    config: Arc<RemoteWrite>,
    http: reqwest::Client,
    queue: Arc<Queue>,
    counts: Arc<Counts>,
}

impl RemoteWriter {
    /// # Errors
    /// [`RemoteWriteError`]: the address may not be called, or the certificate authority cannot be used.
    pub fn new(config: RemoteWrite) -> Result<Self, RemoteWriteError> {
        let host = config.url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let literal = host.parse().ok();
        if !config.allow_link_local && literal.is_some_and(is_refused) {
            return Err(RemoteWriteError::Refused(host));
        }
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .timeout(ANSWER_LIMIT)
            // A redirect would carry credentials and readings to a place that nobody configured.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("roundsman/", env!("CARGO_PKG_VERSION")));
        if !config.allow_link_local {
            builder = builder.dns_resolver(Arc::new(Guarded));
        }
        let failed = |error: &dyn std::fmt::Display| RemoteWriteError::Client(error.to_string());
        if let Some(path) = &config.ca_file {
            let shown = path.display();
            let pem = std::fs::read(path)
                .map_err(|error| RemoteWriteError::Client(format!("cannot read {shown}: {error}")))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| failed(&error))?;
            builder = builder.tls_certs_only(certificates);
        } else if config.url.scheme() == "http" {
            builder = builder.tls_certs_only([]);
        }
        Ok(Self {
            http: builder.build().map_err(|error| failed(&error))?,
            queue: Arc::new(Queue::new(config.queue_samples)),
            counts: Arc::default(),
            config: Arc::new(config),
        })
    }

    #[must_use]
    pub fn sent(&self) -> Sent {
        let (queued, dropped) = self.queue.counts();
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Sent {
            samples: read(&self.counts.samples),
            dropped: dropped + read(&self.counts.missed),
            refused: read(&self.counts.refused),
            retries: read(&self.counts.retries),
            queued,
        }
    }

    /// Collects and sends until `stop`.
    pub async fn run(self, fleet: Fleet, stop: CancellationToken) {
        let events = fleet.subscribe();
        let collecting = self.collect(&fleet, events);
        let sending = self.send_all();
        tokio::select! {
            () = stop.cancelled() => {}
            () = collecting => {}
            () = sending => {}
        }
    }

    async fn collect(&self, fleet: &Fleet, mut events: Receiver<Event>) {
        let mut sent_at: HashMap<ServerId, Timestamp> = HashMap::new();
        loop {
            match events.recv().await {
                Ok(Event::Reading { server, at, .. }) => {
                    if is_due(sent_at.get(&server).copied(), at, self.config.every)
                        && let Some(state) = fleet.raw_of(server)
                    {
                        sent_at.insert(server, at);
                        self.push(&state);
                    }
                }
                Ok(Event::Health { server, health: Health::Unreachable, at, .. }) => {
                    if let Some(server) = fleet.server_of(server) {
                        self.push_down(&server, at);
                    }
                }
                Ok(Event::ServerRemoved { server, .. }) => {
                    sent_at.remove(&server);
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    self.counts.missed.fetch_add(missed, Ordering::Relaxed);
                    tracing::warn!(missed, "remote-write: events came faster than they could be looked at");
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn push(&self, state: &RawState) {
        let mut block = Block::new(identity(&state.server), state.reading.at.as_millis());
        block.sample(&UP, &[], 1.0);
        NodeView::of(state).write(&mut block);
        let (series, samples) = block.finish();
        self.queue.push(&series, samples);
    }

    fn push_down(&self, server: &Server, at: Timestamp) {
        let mut block = Block::new(identity(server), at.as_millis());
        block.sample(&UP, &[], 0.0);
        let (series, samples) = block.finish();
        self.queue.push(&series, samples);
    }

    async fn send_all(&self) {
        let mut told = None;
        loop {
            let batch = self.queue.take().await;
            self.send(&batch, &mut told).await;
        }
    }

    /// Until the receiver has taken the batch or refused it for good. `told` is what the log knows already.
    async fn send(&self, batch: &Batch, told: &mut Option<String>) {
        let body = match snap::raw::Encoder::new().compress_vec(&batch.series) {
            Ok(body) => bytes::Bytes::from(body),
            Err(error) => {
                tracing::error!(%error, "remote-write: a request could not be packed and is given up");
                self.counts.refused.fetch_add(batch.samples as u64, Ordering::Relaxed);
                return;
            }
        };
        let mut wait = BACKOFF.0;
        loop {
            let verdict = self.attempt(body.clone()).await;
            let (reason, pause) = match verdict {
                Verdict::Taken => {
                    if told.take().is_some() {
                        tracing::info!("remote-write: the long-term store takes samples again");
                    }
                    self.counts.samples.fetch_add(batch.samples as u64, Ordering::Relaxed);
                    return;
                }
                Verdict::Refused(reason) => {
                    self.counts.refused.fetch_add(batch.samples as u64, Ordering::Relaxed);
                    tell(
                        told,
                        &reason,
                        "remote-write: the long-term store refuses samples; they are given up",
                    );
                    return;
                }
                Verdict::Later(reason, after) => (reason, after.unwrap_or(wait)),
            };
            tell(told, &reason, "remote-write: the long-term store takes nothing now; samples wait");
            self.counts.retries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(pause).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    async fn attempt(&self, body: bytes::Bytes) -> Verdict {
        let mut request = self
            .http
            .post(self.config.url.clone())
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(header::CONTENT_ENCODING, "snappy")
            .header("X-Prometheus-Remote-Write-Version", "0.1.0")
            .body(body);
        request = match &self.config.auth {
            None => request,
            Some(RemoteAuth::Bearer(token)) => request.bearer_auth(token.expose()),
            Some(RemoteAuth::Basic { username, password }) => {
                request.basic_auth(username, Some(password.expose()))
            }
        };
        match request.send().await {
            Ok(response) => verdict(response).await,
            // Without the address: it stands in the configuration.
            Err(error) => Verdict::Later(root_cause(&error.without_url()), None),
        }
    }
}

/// What an answer means.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Taken,
    /// Sending it again would be refused again.
    Refused(String),
    /// Again, after so long where the receiver said so.
    Later(String, Option<Duration>),
}

async fn verdict(mut response: reqwest::Response) -> Verdict {
    let status = response.status();
    if status.is_success() {
        return Verdict::Taken;
    }
    let after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let after = after
        .and_then(|text| text.parse().ok())
        .map(Duration::from_secs)
        .map(|span| span.min(RETRY_AFTER_LIMIT));
    let mut text = Vec::new();
    // What cannot be read of a refusal is not needed.
    while text.len() < REFUSAL_BYTES
        && let Ok(Some(part)) = response.chunk().await
    {
        text.extend_from_slice(&part);
    }
    text.truncate(REFUSAL_BYTES);
    let reason = format!("status {}: {}", status.as_u16(), printable::line(&text, REFUSAL_BYTES));
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        Verdict::Later(reason, after)
    } else {
        Verdict::Refused(reason)
    }
}

/// Logs what was not said before; a receiver that refuses everything is one line, not one a second.
fn tell(told: &mut Option<String>, reason: &str, what: &str) {
    let kind: String = reason.chars().take(10).collect();
    if told.as_ref() != Some(&kind) {
        tracing::warn!(reason, "{what}");
        *told = Some(kind);
    }
}

fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// The labels that every series of a server carries.
fn identity(server: &Server) -> Vec<(String, String)> {
    let mut labels =
        vec![("instance".to_owned(), server.name.to_string()), ("job".to_owned(), "roundsman".to_owned())];
    if let Some(region) = &server.region {
        labels.push(("region".to_owned(), region.clone()));
    }
    if let Some(environment) = &server.environment {
        labels.push(("environment".to_owned(), environment.clone()));
    }
    labels
}

/// Whether a reading of a server is to be sent. A clock that was set back begins anew: it would be silence until it has
/// caught up.
fn is_due(last: Option<Timestamp>, at: Timestamp, every: Duration) -> bool {
    last.is_none_or(|last| at < last || at.since(last) + DUE_EARLY >= every)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_does_not_stop_the_sending() {
        let (hour, every) = (Timestamp::from_millis(3_600_000), Duration::from_secs(30));
        assert!(is_due(None, hour, every));
        assert!(!is_due(Some(hour), hour + Duration::from_secs(5), every));
        assert!(is_due(Some(hour), hour + Duration::from_secs(30), every));
        assert!(is_due(Some(hour), hour - Duration::from_secs(5), every));
    }
}
