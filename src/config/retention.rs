//! `[retention]` of the configuration file: how long rows are kept, until an administrator sets it on the settings page.
//!
//! Names and bounds are those of [`Retention`]; a mistake is told with the place where it stands.

use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use crate::model::Retention;

/// Days as they stand in the file. None: the default holds.
type Days = Option<Spanned<u32>>;

/// The table as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    command_records_days: Days,
    operations_days: Days,
    audit_days: Days,
    raw_days: Days,
    m1_days: Days,
    m5_days: Days,
    m15_days: Days,
    h1_days: Days,
    d1_days: Days,
    archive: Option<Spanned<PathBuf>>,
}

impl Table {
    /// # Errors
    /// What cannot be kept to, and the bytes of the table's text where it stands. None: it is a default that does not
    /// go with what is written.
    pub(super) fn validated(&self) -> Result<Retention, (Option<Range<usize>>, String)> {
        let mut kept = Retention::default();
        let mut spans = Vec::new();
        let fields: [(&str, &Days, &mut u32); 9] = [
            ("command_records_days", &self.command_records_days, &mut kept.command_records_days),
            ("operations_days", &self.operations_days, &mut kept.operations_days),
            ("audit_days", &self.audit_days, &mut kept.audit_days),
            ("raw_days", &self.raw_days, &mut kept.raw_days),
            ("m1_days", &self.m1_days, &mut kept.m1_days),
            ("m5_days", &self.m5_days, &mut kept.m5_days),
            ("m15_days", &self.m15_days, &mut kept.m15_days),
            ("h1_days", &self.h1_days, &mut kept.h1_days),
            ("d1_days", &self.d1_days, &mut kept.d1_days),
        ];
        for (name, written, days) in fields {
            if let Some(written) = written {
                *days = *written.get_ref();
                spans.push((name, written.span()));
            }
        }
        if let Some(archive) = &self.archive {
            kept.archive = Some(archive.get_ref().clone());
            spans.push(("archive", archive.span()));
        }
        kept.validated().map_err(|error| {
            let span = spans.into_iter().find(|(name, _)| *name == error.field).map(|(_, span)| span);
            (span, format!("retention.{}: {}", error.field, error.message))
        })
    }
}
