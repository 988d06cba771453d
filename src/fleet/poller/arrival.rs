//! What becomes of a reading: samples, live state, events. Whoever read it, and when, is the poller's.

use std::sync::Arc;

use tokio::time::Instant;

use super::Poller;
use crate::collect::rates;
use crate::fleet::health::{Verdict, judge, with_api};
use crate::fleet::packed::{PackedProcesses, PackedServices};
use crate::fleet::raw::RawReading;
use crate::fleet::registry::Live;
use crate::fleet::state::{ProcessTable, ServiceTable, UpdateState, UserTable};
use crate::fleet::watched::add_watched;
use crate::model::{
    Event, Gap, Reachability, Sample, Sections, SeriesKey, Service, Snapshot, Timestamp, Transport,
};

/// Processes kept by CPU and by memory, each.
const TOP_PROCESSES: usize = 50;
/// Sections whose gaps stay on the page until the section is read again.
const DETAIL_SECTIONS: [&str; 7] =
    ["processes", "services", "users", "facts", "containers", "packages", "sockets"];
/// What a reading took is how wrong the comparison of two clocks can be; one that took longer says nothing.
const CLOCK_ROUND_TRIP_MS: f64 = 1000.0;

/// When and how a reading came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    /// The time under which it is kept.
    pub(super) at: Timestamp,
    /// The time of its arrival.
    pub(super) now: Timestamp,
    /// None: nobody asked for it.
    pub(super) response_time_ms: Option<f64>,
    /// False: a newer one came with it.
    pub(super) is_newest: bool,
}

impl Poller {
    pub(super) fn arrived(&mut self, snapshot: Snapshot, sections: Sections, started: Instant) {
        let now = self.shared.clock.now();
        let response_time_ms = Some(started.elapsed().as_secs_f64() * 1000.0);
        let has_services = snapshot.services.is_some();
        self.take_in(snapshot, sections, Arrival { at: now, now, response_time_ms, is_newest: true });
        let mut live = self.entry.live();
        live.asked_at = Some(started);
        if has_services {
            live.services_asked_at = Some(started);
        }
    }

    pub(super) fn take_in(&mut self, mut snapshot: Snapshot, sections: Sections, arrival: Arrival) {
        let now = arrival.now;
        add_watched(&mut self.entry.live(), &mut snapshot, sections);
        let mut samples = rates::samples(self.previous.as_deref(), &snapshot);
        samples.extend(
            arrival.response_time_ms.map(|value| Sample { key: SeriesKey::plain("response_time_ms"), value }),
        );
        if self.entry.live().server.transport != Transport::Local {
            let value = arrival.response_time_ms.and_then(|took_ms| clock_offset(&snapshot, now, took_ms));
            samples
                .extend(value.map(|value| Sample { key: SeriesKey::plain("clock_offset_seconds"), value }));
        }
        let times = rates::ProcessTimes::of(&snapshot);
        let processes = times.is_some().then(|| {
            let all = rates::processes(self.previous_processes.as_ref(), &mut snapshot);
            let total = all.len();
            ProcessTable { taken_at: now, total, processes: rates::top(all, TOP_PROCESSES) }
        });
        self.containers.take(&mut snapshot, sections, &self.entry, (&mut samples, now));
        samples.extend(self.entry.live().custom.take());
        self.readings += 1;
        self.shared.counts.reading();
        let number = self.entry.live().server.number;
        self.shared.history.append(number, arrival.at, &samples);
        self.previous_processes = times.or(self.previous_processes.take());
        let changed = self.keep(&mut snapshot, sections, &samples, processes, now);
        let snapshot = Arc::new(snapshot);
        self.previous = Some(Arc::clone(&snapshot));
        {
            let mut live = self.entry.live();
            live.raw = Some(RawReading::after(live.raw.as_ref(), now, snapshot));
        }
        self.tell(samples, &arrival, changed);
    }

    /// Says what arrived. Of buffered readings only the newest is news.
    pub(super) fn tell(&self, samples: Vec<Sample>, arrival: &Arrival, changed: bool) {
        let organization = self.entry.live().server.organization;
        if arrival.is_newest {
            let (server, at) = (self.entry.id, arrival.at);
            self.publish(Event::Reading { organization, server, at, samples: Arc::from(samples) });
        }
        if changed {
            self.publish_health(arrival.now);
        }
        self.entry.checks.send_modify(|count| *count += 1);
    }

    /// Takes a reading into the live state, and out of the snapshot what the next reading is not compared with.
    /// True: health or reachability changed.
    fn keep(
        &self,
        snapshot: &mut Snapshot,
        sections: Sections,
        samples: &[Sample],
        processes: Option<ProcessTable>,
        now: Timestamp,
    ) -> bool {
        let mut live = self.entry.live();
        live.last_seen_at = Some(now);
        live.last_health_check_at = Some(now);
        if live.server.transport == Transport::Ssh {
            live.offered_host_key = None;
        }
        live.figures = Arc::new(live.figures.after(samples));
        live.filesystems = Arc::from(std::mem::take(&mut snapshot.filesystems));
        live.interfaces = Arc::from(snapshot.interfaces.as_slice());
        live.gaps = merged_gaps(&live.gaps, &snapshot.gaps, sections);
        if let Some(facts) = snapshot.facts.take() {
            live.facts = Some(Arc::new(facts));
        }
        if let Some(table) = processes {
            live.processes = PackedProcesses::of(table);
        }
        if let Some(services) = snapshot.services.take() {
            live.failed_services = failed(&services);
            live.services = PackedServices::of(ServiceTable { taken_at: now, services });
        }
        if sections.sockets {
            live.tcp_states = snapshot.tcp_states.take();
        }
        if sections.packages {
            live.updates =
                snapshot.updates.take().map(|updates| Arc::new(UpdateState { taken_at: now, updates }));
        }
        if let Some(users) = snapshot.users.take() {
            live.users = Some(Arc::new(UserTable { taken_at: now, users }));
        }
        let verdict = verdict_of(&live);
        let changed = live.standing.reading(verdict);
        let was_reachable = live.reachability == Reachability::Reachable;
        live.reachability = Reachability::Reachable;
        changed || !was_reachable
    }
}

/// How far the server's clock is ahead of ours, in seconds: compared with the middle of the reading.
#[expect(clippy::cast_precision_loss, reason = "times of this century in milliseconds need 41 bits")]
fn clock_offset(snapshot: &Snapshot, now: Timestamp, took_ms: f64) -> Option<f64> {
    let theirs = snapshot.clock_ms.filter(|_| took_ms <= CLOCK_ROUND_TRIP_MS)?;
    let ours = now.as_millis() as f64 - took_ms / 2.0;
    Some((theirs as f64 - ours) / 1000.0)
}

pub(super) fn verdict_of(live: &Live) -> Verdict {
    let verdict = judge(&live.figures, &live.filesystems, &live.failed_services);
    match &live.api {
        Some(api) => with_api(verdict, api),
        None => verdict,
    }
}

fn failed(services: &[Service]) -> Vec<String> {
    services.iter().filter(|service| service.state == "failed").map(|service| service.name.clone()).collect()
}

fn merged_gaps(before: &[Gap], now: &[Gap], read: Sections) -> Arc<[Gap]> {
    let was_read = |section: &str| match section {
        "processes" => read.processes,
        "services" => read.services,
        "users" => read.users,
        "facts" => read.facts,
        "containers" => read.containers,
        "packages" => read.packages,
        "sockets" => read.sockets,
        _ => true,
    };
    let kept = before
        .iter()
        .filter(|gap| DETAIL_SECTIONS.contains(&gap.section.as_str()) && !was_read(&gap.section));
    now.iter().chain(kept).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_of_a_clock_is_that_at_the_middle_of_the_reading() {
        let now = Timestamp::from_millis(1_000_000);
        let said = |clock_ms| Snapshot { clock_ms, ..Snapshot::default() };
        // The reading took 200 ms, so its middle was at 999,900.
        assert_eq!(clock_offset(&said(Some(1_002_400)), now, 200.0), Some(2.5));
        assert_eq!(clock_offset(&said(Some(989_900)), now, 200.0), Some(-10.0));
        assert_eq!(clock_offset(&said(None), now, 200.0), None);
        assert_eq!(
            clock_offset(&said(Some(1)), now, 5000.0),
            None,
            "nobody knows when the clock was looked at"
        );
    }

    #[test]
    fn a_gap_of_a_section_stays_until_the_section_is_read_again() {
        let gap = |section: &str| Gap { section: section.to_owned(), reason: "why".to_owned() };
        let before = [gap("services"), gap("memory")];
        let base = merged_gaps(&before, &[], Sections::BASE);
        assert_eq!(base.as_ref(), [gap("services")]);
        assert!(merged_gaps(&before, &[], Sections::ALL).is_empty());
    }
}
