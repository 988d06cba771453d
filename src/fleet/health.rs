//! Health by written rules: pure functions from what was read to what is said of a server.
//!
//! The rules, from worst to best:
//! - unreachable: two readings were missed, or the connection closed and cannot be opened again; a server that reports by
//!   itself missed three heartbeats;
//! - critical: the host key changed; a filesystem is 97 % full or more; memory in use is 99 % or more;
//! - degraded: a filesystem is 90 % full or more; memory in use is 95 % or more; a service failed;
//! - of a server that is asked over HTTPS also what its API says: critical where it calls itself that or answers with a status
//!   of 500 or more, degraded where it calls itself that or one of its components is not well;
//! - healthy: none of these.
//!
//! A change between healthy, degraded and critical needs [`CONSECUTIVE`] readings in a row that say the same.
//! Becoming unreachable, and what the first reading afterwards says, counts at once.

use crate::model::{ApiHealth, Component, Filesystem, Health};

use super::state::Figures;

/// Readings in a row that must agree before the health of a reachable server changes.
pub const CONSECUTIVE: u32 = 3;

const DISK_DEGRADED_PERCENT: f64 = 90.0;
const DISK_CRITICAL_PERCENT: f64 = 97.0;
const MEMORY_DEGRADED_PERCENT: f64 = 95.0;
const MEMORY_CRITICAL_PERCENT: f64 = 99.0;
/// From where on a metric makes a server degraded, and critical.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    pub degraded: f64,
    pub critical: f64,
}

/// The thresholds of a metric, in its unit. None: health does not look at it.
#[must_use]
pub fn thresholds(metric: &str) -> Option<Thresholds> {
    match metric {
        "memory_percent" => {
            Some(Thresholds { degraded: MEMORY_DEGRADED_PERCENT, critical: MEMORY_CRITICAL_PERCENT })
        }
        "disk_percent" | "filesystem_percent" => {
            Some(Thresholds { degraded: DISK_DEGRADED_PERCENT, critical: DISK_CRITICAL_PERCENT })
        }
        _ => None,
    }
}

/// Failed services and filesystems that are named in full; the rest is counted.
const NAMED: usize = 3;

/// What one reading says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub health: Health,
    /// A sentence each; empty when healthy.
    pub reasons: Vec<String>,
}

/// Judges one reading of a reachable server.
#[must_use]
pub fn judge(figures: &Figures, filesystems: &[Filesystem], failed_services: &[String]) -> Verdict {
    let mut health = Health::Healthy;
    let mut reasons = Vec::new();
    let mut say = |worse: Health, reason: String| {
        health = worst(health, worse);
        reasons.push(reason);
    };
    for filesystem in filesystems {
        let Some(percent) = used_percent(filesystem) else { continue };
        if percent >= DISK_CRITICAL_PERCENT {
            say(Health::Critical, format!("{} is {percent:.0} % full", filesystem.mount));
        } else if percent >= DISK_DEGRADED_PERCENT {
            say(Health::Degraded, format!("{} is {percent:.0} % full", filesystem.mount));
        }
    }
    // Of a server that pushes plain figures nothing more is known.
    if let Some(percent) = figures.disk_percent.filter(|_| filesystems.is_empty()) {
        let reason = format!("its fullest filesystem is {percent:.0} % full");
        if percent >= DISK_CRITICAL_PERCENT {
            say(Health::Critical, reason);
        } else if percent >= DISK_DEGRADED_PERCENT {
            say(Health::Degraded, reason);
        }
    }
    if let Some(percent) = figures.memory_percent {
        if percent >= MEMORY_CRITICAL_PERCENT {
            say(Health::Critical, format!("{percent:.0} % of the memory is in use"));
        } else if percent >= MEMORY_DEGRADED_PERCENT {
            say(Health::Degraded, format!("{percent:.0} % of the memory is in use"));
        }
    }
    if let Some(reason) = failed_reason(failed_services) {
        say(Health::Degraded, reason);
    }
    Verdict { health, reasons }
}

/// The verdict with what the server's own API says of itself.
#[must_use]
pub fn with_api(mut verdict: Verdict, api: &ApiHealth) -> Verdict {
    if !matches!(api.health, Health::Degraded | Health::Critical) {
        return verdict;
    }
    verdict.health = worst(verdict.health, api.health);
    let word = if api.status.is_empty() { api.health.name() } else { api.status.as_str() };
    let mut reason = format!("its API says {word}");
    if api.http_status >= 500 {
        reason.push_str(&format!(" (status {})", api.http_status));
    }
    let unwell = |component: &&Component| matches!(component.health, Health::Degraded | Health::Critical);
    let named: Vec<String> = api
        .components
        .iter()
        .filter(unwell)
        .take(NAMED)
        .map(|component| match &component.error_message {
            Some(message) => format!("{} is {} ({message})", component.name, component.status),
            None => format!("{} is {}", component.name, component.status),
        })
        .collect();
    if !named.is_empty() {
        reason.push_str(": ");
        reason.push_str(&named.join(", "));
        let more = api.components.iter().filter(unwell).count().saturating_sub(NAMED);
        if more > 0 {
            reason.push_str(&format!(" and {more} more"));
        }
    }
    verdict.reasons.push(reason);
    verdict
}

fn failed_reason(failed: &[String]) -> Option<String> {
    let named = failed.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match failed.len() {
        0 => None,
        1 => Some(format!("the service {named} failed")),
        count if count <= NAMED => Some(format!("{count} services failed: {named}")),
        count => Some(format!("{count} services failed: {named} and {} more", count - NAMED)),
    }
}

/// As df shows it: used against what a user can use. None: an empty filesystem.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a percentage needs no more than 53 bits")]
pub fn used_percent(filesystem: &Filesystem) -> Option<f64> {
    let usable = filesystem.used_bytes.checked_add(filesystem.available_bytes)?;
    (usable > 0).then(|| filesystem.used_bytes as f64 * 100.0 / usable as f64)
}

const fn rank(health: Health) -> u8 {
    match health {
        Health::Unknown => 0,
        Health::Healthy => 1,
        Health::Degraded => 2,
        Health::Critical => 3,
        Health::Unreachable => 4,
    }
}

const fn worst(left: Health, right: Health) -> Health {
    if rank(left) >= rank(right) { left } else { right }
}

/// The health that is shown, and what would change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub shown: Verdict,
    /// A different health, and how many readings in a row have said it.
    candidate: Option<(Health, u32)>,
    /// What is shown does not come from a reading: the next one counts at once.
    unread: bool,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            shown: Verdict { health: Health::Unknown, reasons: Vec::new() },
            candidate: None,
            unread: true,
        }
    }
}

impl Standing {
    /// Takes in what a reading said. True: the shown health changed.
    pub fn reading(&mut self, verdict: Verdict) -> bool {
        let immediate = std::mem::take(&mut self.unread);
        if immediate || verdict.health == self.shown.health {
            let changed = verdict.health != self.shown.health;
            self.shown = verdict;
            self.candidate = None;
            return changed;
        }
        let seen = match self.candidate {
            Some((health, seen)) if health == verdict.health => seen + 1,
            _ => 1,
        };
        if seen >= CONSECUTIVE {
            self.shown = verdict;
            self.candidate = None;
            return true;
        }
        self.candidate = Some((verdict.health, seen));
        false
    }

    /// Takes in that no reading is possible. True: the shown health or its reason changed.
    pub fn no_reading(&mut self, health: Health, reason: String) -> bool {
        let next = Verdict { health, reasons: vec![reason] };
        self.candidate = None;
        self.unread = true;
        let changed = self.shown != next;
        self.shown = next;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filesystem(used: u64, available: u64) -> Filesystem {
        Filesystem {
            mount: "/var".to_owned(),
            size_bytes: used + available,
            used_bytes: used,
            available_bytes: available,
            ..Filesystem::default()
        }
    }

    fn verdict(health: Health) -> Verdict {
        Verdict { health, reasons: Vec::new() }
    }

    #[test]
    fn a_full_filesystem_and_a_failed_service_are_named() {
        let failed = ["nginx".to_owned()];
        let degraded = judge(&Figures::default(), &[filesystem(91, 9)], &failed);
        assert_eq!(degraded.health, Health::Degraded);
        assert_eq!(degraded.reasons, ["/var is 91 % full", "the service nginx failed"]);
        assert_eq!(judge(&Figures::default(), &[filesystem(98, 2)], &[]).health, Health::Critical);
        assert_eq!(judge(&Figures::default(), &[filesystem(50, 50)], &[]), verdict(Health::Healthy));
    }

    #[test]
    fn one_bad_reading_does_not_change_the_health_and_three_in_a_row_do() {
        let mut standing = Standing::default();
        assert!(standing.reading(verdict(Health::Healthy)));
        assert!(!standing.reading(verdict(Health::Degraded)));
        assert!(!standing.reading(verdict(Health::Degraded)));
        assert!(!standing.reading(verdict(Health::Healthy)));
        for _ in 1..CONSECUTIVE {
            assert!(!standing.reading(verdict(Health::Degraded)));
        }
        assert!(standing.reading(verdict(Health::Degraded)));
        assert_eq!(standing.shown.health, Health::Degraded);
    }

    #[test]
    fn unreachable_and_back_count_at_once() {
        let mut standing = Standing::default();
        standing.reading(verdict(Health::Healthy));
        assert!(standing.no_reading(Health::Unreachable, "refused".to_owned()));
        assert!(!standing.no_reading(Health::Unreachable, "refused".to_owned()));
        assert!(standing.reading(verdict(Health::Healthy)));
    }

    #[test]
    fn a_changed_host_key_is_over_with_the_first_reading_after_its_approval() {
        let mut standing = Standing::default();
        standing.reading(verdict(Health::Healthy));
        standing.no_reading(Health::Critical, "the host key has changed".to_owned());
        assert!(standing.reading(verdict(Health::Healthy)));
        assert_eq!(standing.shown, verdict(Health::Healthy));
    }
}
