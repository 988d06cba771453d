//! The fleet report: every server with its figures, on a page that is made to be printed.

use askama::Template;

use crate::fleet::{ServerState, Summary};
use crate::model::Timestamp;
use crate::web::view::{self, Share, Value};

use super::fleet::{address, by_name, trouble};
use super::{Badge, Chrome, Section, Viewer};

/// `GET /report`.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/report.html")]
pub struct ReportPage {
    pub chrome: Chrome,
    made_at: String,
    total: String,
    parts: Vec<(&'static str, u32)>,
    cpu: Value,
    memory: Value,
    disk: Value,
    /// The same servers as a file.
    csv_address: String,
    rows: Vec<Row>,
}

#[derive(Debug, Clone)]
struct Row {
    name: String,
    address: String,
    place: String,
    tags: String,
    badge: Badge,
    status: Option<Badge>,
    trouble: Option<String>,
    cpu: Share,
    memory: Share,
    disk: Share,
    load: Value,
    uptime: Value,
    failed_services: Value,
    system: Value,
    kernel: Value,
    hardware: Value,
}

impl ReportPage {
    /// `query` is what chose the servers, for the file beside the page.
    #[must_use]
    pub fn new(viewer: &Viewer, states: &[ServerState], query: &[(String, String)], now: Timestamp) -> Self {
        let summary = Summary::of(states);
        let kept = query.iter().filter(|(name, _)| name != "format");
        let query = serde_urlencoded::to_string(kept.collect::<Vec<_>>()).unwrap_or_default();
        let and = if query.is_empty() { "" } else { "&" };
        Self {
            chrome: Chrome::new("Fleet report", Section::Fleet, None, viewer, now),
            made_at: view::utc(now),
            total: match summary.total_servers {
                1 => "1 server".to_owned(),
                total => format!("{} servers", view::whole(total)),
            },
            parts: vec![
                ("healthy", summary.healthy_servers),
                ("degraded", summary.degraded_servers),
                ("critical", summary.critical_servers),
                ("unreachable", summary.unreachable_servers),
                ("unknown", summary.unknown_servers),
            ],
            cpu: view::percent(summary.average_cpu_percent),
            memory: view::percent(summary.average_memory_percent),
            disk: view::percent(summary.average_disk_percent),
            csv_address: format!("/api/v1/export/report?format=csv{and}{query}"),
            rows: by_name(states).map(Row::new).collect(),
        }
    }
}

impl Row {
    fn new(state: &ServerState) -> Self {
        let (server, figures, facts) = (&state.server, &state.figures, state.facts.as_deref());
        let place = [server.region.as_deref(), server.environment.as_deref()];
        let tags: Vec<String> = server.tags.iter().map(ToString::to_string).collect();
        let cores = facts.and_then(|facts| facts.cpu_cores).map(|cores| match cores {
            1 => "1 core".to_owned(),
            cores => format!("{cores} cores"),
        });
        let memory = view::bytes(figures.memory_total_bytes).text;
        let hardware: Vec<String> = [cores, memory].into_iter().flatten().collect();
        Self {
            name: server.name.to_string(),
            address: view::clean(&address(state), view::CELL_CHARS),
            place: place.into_iter().flatten().collect::<Vec<_>>().join(" · "),
            tags: tags.join(", "),
            badge: Badge::health(state.health),
            status: Badge::status(server.status),
            trouble: trouble(state),
            cpu: Share::of(figures.cpu_percent),
            memory: Share::of(figures.memory_percent),
            disk: Share::of(figures.disk_percent),
            load: view::number(figures.load1),
            uptime: view::duration(figures.uptime_seconds),
            failed_services: view::count(figures.failed_services.filter(|count| *count > 0.0)),
            system: Value::foreign(facts.and_then(|facts| facts.os_name.as_deref())),
            kernel: Value::foreign(facts.and_then(|facts| facts.kernel.as_deref())),
            hardware: Value { text: (!hardware.is_empty()).then(|| hardware.join(", ")) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Role;
    use crate::web::pages::samples::{now, small_fleet, viewer};

    #[test]
    fn the_report_names_every_server_and_when_it_was_made() {
        let fleet = small_fleet();
        let query = [("region".to_owned(), "Helsinki & more".to_owned())];
        let html = ReportPage::new(&viewer(Role::Viewer), &fleet, &query, now()).render().unwrap();
        for state in &fleet {
            assert!(html.contains(state.server.name.as_str()), "{}", state.server.name);
        }
        assert!(html.contains("2026-11-20 10:00"), "when");
        assert!(html.contains("format=csv&#38;region=Helsinki+%26+more"), "the file of the same servers");
    }
}
