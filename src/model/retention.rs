//! How long what is kept is kept, as an administrator sets it on the settings page.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::shown;

/// Shortest and longest retention. A century is "for ever" on any disk and keeps every sum of days in range.
pub const RETENTION_DAYS: (u32, u32) = (1, 36_500);
/// Fewest days of each level of history: two rows of the level above it, so that a roll-up always finds what it is made
/// from. `history` has the same numbers from its own spans, and a test holds the two together.
const FEWEST_DAYS: [(&str, u32); 6] =
    [("raw_days", 2), ("m1_days", 2), ("m5_days", 8), ("m15_days", 32), ("h1_days", 64), ("d1_days", 64)];
/// Longest path of an archive: that of the kernel.
const PATH_BYTES: usize = 4096;

/// Days that rows of each kind are kept; what is missing in stored or sent JSON has its default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    pub command_records_days: u32,
    /// Counted from the end of an operation; one that has not ended stays.
    pub operations_days: u32,
    pub audit_days: u32,
    pub raw_days: u32,
    /// Roll-ups of 1, 5 and 15 minutes, an hour, a day.
    pub m1_days: u32,
    pub m5_days: u32,
    pub m15_days: u32,
    pub h1_days: u32,
    pub d1_days: u32,
    /// Directory into which control data is written before it is removed. None: it is removed only.
    pub archive: Option<PathBuf>,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            command_records_days: 5,
            operations_days: 365,
            audit_days: 365,
            raw_days: 5,
            m1_days: 15,
            m5_days: 30,
            m15_days: 90,
            h1_days: 365,
            d1_days: 5 * 365,
            archive: None,
        }
    }
}

/// A value that cannot be kept to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct InvalidRetention {
    pub field: &'static str,
    pub message: String,
}

impl Retention {
    /// Every number of days with its name, in the order of the page.
    #[must_use]
    pub const fn days(&self) -> [(&'static str, u32); 9] {
        [
            ("command_records_days", self.command_records_days),
            ("operations_days", self.operations_days),
            ("audit_days", self.audit_days),
            ("raw_days", self.raw_days),
            ("m1_days", self.m1_days),
            ("m5_days", self.m5_days),
            ("m15_days", self.m15_days),
            ("h1_days", self.h1_days),
            ("d1_days", self.d1_days),
        ]
    }

    /// Fewest days that a field can have.
    #[must_use]
    pub fn fewest_days(field: &str) -> u32 {
        FEWEST_DAYS.iter().find(|(name, _)| *name == field).map_or(RETENTION_DAYS.0, |(_, days)| *days)
    }

    /// Days from [`Self::fewest_days`] to the most of [`RETENTION_DAYS`]; a coarser level is kept at least as long as the finer one before it, or there
    /// would be a hole between them; the archive is an absolute path.
    ///
    /// # Errors
    /// The first field that cannot be kept to, with what would be accepted.
    pub fn validated(self) -> Result<Self, InvalidRetention> {
        let (_, most) = RETENTION_DAYS;
        for (field, days) in self.days() {
            let least = Self::fewest_days(field);
            if !(least..=most).contains(&days) {
                let message = format!("{days} is not a number of days from {least} to {most}");
                return Err(InvalidRetention { field, message });
            }
        }
        let [_, _, _, levels @ ..] = self.days();
        for pair in levels.windows(2) {
            if let [(finer, shorter), (field, days)] = *pair
                && days < shorter
            {
                let message =
                    format!("must be at least {shorter}, as long as {finer}, so that no time is left out");
                return Err(InvalidRetention { field, message });
            }
        }
        if let Some(path) = &self.archive {
            check_archive(path)?;
        }
        Ok(self)
    }
}

fn check_archive(path: &Path) -> Result<(), InvalidRetention> {
    let text = path.to_string_lossy();
    let absolute =
        path.is_absolute() && path.components().all(|part| part != std::path::Component::ParentDir);
    if absolute && text.len() < PATH_BYTES && !text.contains(char::is_control) {
        return Ok(());
    }
    let message = format!(
        "'{}' is not an absolute path without '..', such as /var/backups/roundsman",
        shown(&text, 80)
    );
    Err(InvalidRetention { field: "archive", message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_missing_fields_have_them() {
        let read: Retention = serde_json::from_str(r#"{"raw_days": 7}"#).unwrap();
        assert_eq!(read, Retention { raw_days: 7, ..Retention::default() });
        assert_eq!(read.clone().validated(), Ok(read));
        assert!(serde_json::from_str::<Retention>(r#"{"raw_dayz": 7}"#).is_err());
    }

    #[test]
    fn a_field_out_of_range_is_named() {
        let field = |retention: Retention| retention.validated().unwrap_err().field;
        assert_eq!(field(Retention { audit_days: 0, ..Retention::default() }), "audit_days");
        assert_eq!(field(Retention { d1_days: 40_000, ..Retention::default() }), "d1_days");
        assert_eq!(field(Retention { raw_days: 16, ..Retention::default() }), "m1_days");
        for bad in ["backups", "/srv/../etc", "/srv/\n"] {
            let archive = Some(PathBuf::from(bad));
            assert_eq!(field(Retention { archive, ..Retention::default() }), "archive", "{bad}");
        }
    }
}
