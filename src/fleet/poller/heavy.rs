//! Heavy sections that cannot be read must not cost the base: after a reading with them failed, they rest for a while and the
//! page says why. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::{Gap, Sections};

/// The rest after one failure, twice as long each time: a service manager that hangs is often repaired within minutes, and a
/// machine with too many processes stays as it is.
const REST: (Duration, Duration) = (Duration::from_mins(1), Duration::from_mins(30));

/// What is known of how well the heavy sections of a server can be read.
#[derive(Debug, Default)]
pub(super) struct HeavyRest {
    failures: u32,
    until: Option<Instant>,
    /// Why, until a reading has said it.
    news: Option<String>,
}

impl HeavyRest {
    pub(super) fn is_on(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// A reading with these sections did not come.
    pub(super) fn failed(&mut self, sections: Sections, reason: &str, now: Instant) {
        if !has_details(sections) {
            return;
        }
        let rest = REST.0.saturating_mul(2_u32.saturating_pow(self.failures)).min(REST.1);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + rest);
        self.news = Some(format!(
            "the last reading with processes, services, users and containers failed ({reason}); they are left out for {} min, so \
             that the figures go on",
            rest.as_secs() / 60
        ));
    }

    /// A reading with these sections came.
    pub(super) fn came(&mut self, sections: Sections) {
        if has_details(sections) {
            *self = Self::default();
        }
    }

    /// What the next reading says of each section; said once, as a gap stays until its section is read.
    pub(super) fn gaps(&mut self) -> Vec<Gap> {
        let Some(reason) = self.news.take() else { return Vec::new() };
        let gap = |section: &str| Gap { section: section.to_owned(), reason: reason.clone() };
        ["processes", "services", "users", "containers"].map(gap).to_vec()
    }
}

const fn has_details(sections: Sections) -> bool {
    sections.processes || sections.services || sections.users || sections.containers || sections.sockets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn heavy_sections_that_fail_rest_longer_each_time_and_are_named_once() {
        let (mut rest, now) = (HeavyRest::default(), Instant::now());
        rest.failed(Sections::BASE, "lost", now);
        assert!(!rest.is_on(now) && rest.gaps().is_empty(), "the base is not their fault");
        rest.failed(Sections::ALL, "too much output", now);
        assert!(rest.is_on(now + Duration::from_secs(59)) && !rest.is_on(now + Duration::from_secs(60)));
        let gaps = rest.gaps();
        assert_eq!(gaps.len(), 4);
        assert!(gaps[0].reason.contains("too much output") && gaps[0].reason.contains("1 min"));
        assert!(rest.gaps().is_empty());
        rest.came(Sections::BASE);
        rest.failed(Sections::ALL, "again", now);
        assert!(rest.is_on(now + Duration::from_secs(119)));
        for _ in 0..99 {
            rest.failed(Sections::ALL, "again", now);
        }
        assert!(!rest.is_on(now + REST.1));
        rest.came(Sections::ALL);
        assert!(!rest.is_on(now));
    }
}
