//! The task of a server that reports by itself: takes in what arrives, and notices when nothing does.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Poller;
use super::arrival::{Arrival, verdict_of};
use crate::fleet::packed::PackedServices;
use crate::fleet::stamp::{Stamped, stamped};
use crate::fleet::state::ServiceTable;
use crate::fleet::watched::only_named;
use crate::history::metric;
use crate::model::{Gap, Reachability, Sample, Sections, Snapshot};

/// Heartbeats of one server that wait to be taken in; an agent sends one and waits for its answer.
const WAITING: usize = 8;
/// Intervals without a heartbeat after which a server is unreachable.
const MISSED: u32 = 3;

/// What one heartbeat says.
#[derive(Debug)]
pub enum Report {
    /// Oldest first. `sent_at_ms`: the server's clock when it sent them, Unix time.
    Readings { readings: Vec<Snapshot>, sent_at_ms: Option<u64> },
    /// Plain figures, of now.
    Figures(Vec<Sample>),
}

/// One heartbeat on its way to the task of its server.
#[derive(Debug)]
pub struct Delivery {
    pub report: Report,
    /// Gets what the server should know, once everything is kept. None: nothing.
    pub reply: oneshot::Sender<Option<String>>,
}

/// The way of heartbeats to the task of a server.
#[must_use]
pub fn delivery_queue() -> (mpsc::Sender<Delivery>, mpsc::Receiver<Delivery>) {
    mpsc::channel(WAITING)
}

impl Poller {
    /// Takes in heartbeats until stopped.
    pub(super) async fn run_push(&mut self, mut inbox: mpsc::Receiver<Delivery>) {
        let mut heard_at = Instant::now();
        let mut ever_heard = false;
        let mut is_missed = false;
        loop {
            let deadline = heard_at + self.interval() * MISSED;
            tokio::select! {
                delivery = inbox.recv() => {
                    let Some(Delivery { report, reply }) = delivery else { return };
                    let notice = self.take_report(report);
                    (heard_at, ever_heard, is_missed) = (Instant::now(), true, false);
                    // Whoever sent it may have hung up; what they sent is kept.
                    drop(reply.send(notice));
                }
                () = tokio::time::sleep_until(deadline), if !is_missed => {
                    is_missed = true;
                    self.no_answer(None, missed(ever_heard, self.interval()));
                }
                // Nobody can be asked: what is known is the answer.
                () = self.entry.wake.notified() => self.entry.checks.send_modify(|count| *count += 1),
            }
        }
    }

    fn take_report(&mut self, report: Report) -> Option<String> {
        match report {
            Report::Readings { readings, sent_at_ms } => self.take_readings(readings, sent_at_ms),
            Report::Figures(samples) => {
                self.take_figures(samples);
                None
            }
        }
    }

    /// Keeps readings under their own times; those that are known already (an answer got lost) are left out.
    fn take_readings(&mut self, mut readings: Vec<Snapshot>, sent_at_ms: Option<u64>) -> Option<String> {
        let now = self.shared.clock.now();
        let Stamped { mut at, notice } = stamped(&readings, sent_at_ms, now);
        let mut index = 0;
        readings.retain(|reading| {
            let is_new = !self.is_known(reading);
            if is_new {
                index += 1;
            } else {
                at.remove(index);
            }
            is_new
        });
        let newest = readings.len().checked_sub(1);
        for (index, (mut reading, at)) in readings.into_iter().zip(at).enumerate() {
            if let Some(reason) = &notice {
                reading.gaps.push(Gap { section: "clock".to_owned(), reason: reason.clone() });
            }
            let sections = Sections {
                processes: reading.processes.is_some(),
                services: reading.services.is_some(),
                users: reading.users.is_some(),
                facts: reading.facts.is_some(),
                containers: reading.containers.is_some(),
                packages: reading.updates.is_some(),
                sockets: reading.tcp_states.is_some(),
            };
            let is_newest = Some(index) == newest;
            self.take_in(reading, sections, Arrival { at, now, response_time_ms: None, is_newest });
        }
        notice
    }

    fn is_known(&self, reading: &Snapshot) -> bool {
        self.previous.as_ref().is_some_and(|previous| {
            previous.boot_id.is_some()
                && previous.boot_id == reading.boot_id
                && reading.uptime_ms.zip(previous.uptime_ms).is_some_and(|(new, old)| new <= old)
        })
    }

    fn take_figures(&mut self, samples: Vec<Sample>) {
        let now = self.shared.clock.now();
        self.take_values(samples, &Arrival { at: now, now, response_time_ms: None, is_newest: true });
    }

    /// Plain figures replace what was shown; custom metrics alone leave it as it is.
    pub(super) fn take_values(&mut self, samples: Vec<Sample>, arrival: &Arrival) {
        let now = arrival.now;
        self.readings += 1;
        self.shared.counts.reading();
        let number = self.entry.live().server.number;
        self.shared.history.append(number, now, &samples);
        let changed = {
            let mut live = self.entry.live();
            (live.last_seen_at, live.last_health_check_at) = (Some(now), Some(now));
            let shows = |sample: &Sample| {
                sample.key.labels.is_empty() && metric::find(sample.key.metric.as_str()).is_some()
            };
            if live.services.is_none() {
                live.services = only_named(&live)
                    .and_then(|services| PackedServices::of(ServiceTable { taken_at: now, services }));
            }
            if samples.iter().any(shows) {
                live.figures = std::sync::Arc::new(live.figures.after(&samples));
            }
            let verdict = verdict_of(&live);
            let changed = live.standing.reading(verdict);
            let was_reachable = live.reachability == Reachability::Reachable;
            live.reachability = Reachability::Reachable;
            changed || !was_reachable
        };
        self.tell(samples, arrival, changed);
    }
}

fn missed(ever_heard: bool, interval: Duration) -> String {
    let seconds = interval.as_secs_f64();
    if ever_heard {
        format!(
            "no heartbeat arrived for {MISSED} intervals of {seconds} s; see on the server whether the agent runs and can reach \
             Roundsman."
        )
    } else {
        format!(
            "no heartbeat has arrived since Roundsman waits for this server (one is due every {seconds} s); start the agent there."
        )
    }
}
