//! Adding many servers at once: text in one of the usual forms becomes a plan, line by line, and a plan is carried out.
//!
//! Reading and planning are pure: they open no file, look up no name and run nothing. What a text refers to (Include,
//! group_vars) comes through [`Files`], which only the command line has.

mod address;
mod detect;
mod found;
mod inventory;
mod job;
mod json;
mod lines;
mod plan;
mod settle;
mod ssh_config;
mod table;

pub use detect::Format;
pub use found::{Candidate, Entry, Files, Found, Local, Place};
pub use job::{Brought, Import, ImportJob, ImportState, ItemState, JobItem, Progress};
pub use plan::{Counts, KnownKey, KnownServer, Line, Login, Plan, Planned, Surroundings, Verdict};

pub(super) use job::Jobs;

use found::Findings;

/// Largest text that is read: 5,000 servers with everything that can be said of them stay below it.
pub const TEXT_BYTES: usize = 1024 * 1024;
/// Servers of one import: as many as one Roundsman looks after.
pub const SERVERS: usize = 5000;
/// Lines of a report; a text of 1 MiB could otherwise be half a million lines that are all wrong.
const REPORT_LINES: usize = 20_000;
/// Jump hosts on the way to one server; OpenSSH has no limit, and nobody needs more.
const HOPS: usize = 8;

/// What `text` says, entry by entry, in its order. Without `files`, what it refers to is named and not read.
#[must_use]
pub fn read(text: &str, format: Option<Format>, files: Option<&dyn Files>) -> (Format, Vec<Entry>) {
    let format = format.unwrap_or_else(|| detect::format_of(text));
    let mut findings = Findings::default();
    if text.len() > TEXT_BYTES {
        let message = format!("the text is larger than {TEXT_BYTES} bytes; import it in parts");
        findings.invalid(Place::line(1), "text", message);
        return (format, findings.into_entries());
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match format {
        Format::SshConfig => ssh_config::read(text, files, &mut findings),
        Format::AnsibleIni => inventory::read_ini(text, files, &mut findings),
        Format::AnsibleYaml => inventory::read_yaml(text, files, &mut findings),
        Format::Csv => table::read(text, &mut findings),
        Format::Json => json::read(text, &mut findings),
        Format::Lines => lines::read(text, &mut findings),
    }
    (format, findings.into_entries())
}

/// What would become of each entry, given what is there already. Pure.
#[must_use]
pub fn settle(format: Format, entries: Vec<Entry>, around: &Surroundings) -> Plan {
    settle::settle(format, entries, around)
}

/// Reading and settling in one; what pages and the API do with a pasted text.
#[must_use]
pub fn plan(text: &str, format: Option<Format>, around: &Surroundings) -> Plan {
    let (format, entries) = read(text, format, None);
    settle(format, entries, around)
}
