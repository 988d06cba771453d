//! A health check as an action: a reading now, and what it says in words and as an exit status.

use tokio::sync::mpsc;

use super::steps::Report;
use super::{Fleet, ServerState, blind_spots};
use crate::model::{Caller, Health, ServerId};
use crate::ssh::{Output, Piece, printable};

/// A reason or a finding on one line; a server may have made up a part of it.
const LINE_CHARS: usize = 300;
/// Lines about what cannot be seen; the server's page has all.
const SPOTS: usize = 20;

impl Fleet {
    /// Reads a server now and tells its health with the reasons and what cannot be seen. Exit status as those of monitoring
    /// plug-ins: 0 healthy, 1 degraded, 2 critical or unreachable, 3 not known; stderr then has the reasons.
    pub async fn health_report(&self, caller: &Caller, server: ServerId, tap: mpsc::Sender<Piece>) -> Output {
        let mut report = Report::new(tap);
        match self.check(caller, &server.to_string()).await {
            Ok(state) => {
                tell(&state, &mut report);
                let status = status_of(state.health);
                let reasons = format!("{}: {}\n", state.health, state.health_reasons.join("; "));
                let stderr = if status == 0 { String::new() } else { cleaned(&reasons) + "\n" };
                report.ended(status, stderr.into_bytes())
            }
            Err(error) => report.ended(3, format!("{error}\n").into_bytes()),
        }
    }
}

const fn status_of(health: Health) -> u32 {
    match health {
        Health::Healthy => 0,
        Health::Degraded => 1,
        Health::Critical | Health::Unreachable => 2,
        Health::Unknown => 3,
    }
}

fn cleaned(text: &str) -> String {
    printable::line(text.trim_end().as_bytes(), LINE_CHARS)
}

fn tell(state: &ServerState, report: &mut Report) {
    report.say(&format!("Health: {}", state.health));
    for reason in &state.health_reasons {
        report.say(&format!("- {}", cleaned(reason)));
    }
    let figures = &state.figures;
    for (name, value) in [
        ("CPU", figures.cpu_percent),
        ("Memory", figures.memory_percent),
        ("Fullest filesystem", figures.disk_percent),
    ] {
        if let Some(percent) = value {
            report.say(&format!("{name}: {percent:.0} %"));
        }
    }
    let spots = blind_spots(state);
    for spot in spots.iter().take(SPOTS) {
        report.say(&format!("Not seen: {}: {}", cleaned(&spot.subject), cleaned(&spot.reason)));
    }
}
