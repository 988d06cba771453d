//! The part of the settings that says how much is kept, for how long, what goes next, and how history does.

use askama::Template;
use askama::filters::HtmlSafe;

use crate::history::{HistoryHealth, Level, Removal, Sizes};
use crate::model::{RETENTION_DAYS, Retention, Timestamp};
use crate::web::view::{self, Value, When};

use super::form::{Field, FieldProblem};

/// Longest path of an archive that the form takes.
const PATH_CHARS: u32 = 4096;
const DAY_MS: f64 = 86_400_000.0;
/// A name of a series in a sentence.
const NAME_CHARS: usize = 80;
/// From here on the share of names in use is worth a line.
const MANY_NAMES: f64 = 0.8;

/// One table of the control data.
#[derive(Debug, Clone, PartialEq)]
pub struct TableRows {
    pub table: String,
    pub rows: u64,
    pub size_bytes: f64,
    /// None: its rows do not say when they came.
    pub rows_last_day: Option<u64>,
}

/// What is known of what is kept. Sizes are for administrators; for others pass none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct KeepingData {
    pub health: HistoryHealth,
    /// Names of the servers that [`HistoryHealth::limited`] speaks of, in its order.
    pub limited: Vec<String>,
    pub sizes: Option<Sizes>,
    pub removal: Option<Removal>,
    pub tables: Vec<TableRows>,
    /// What is set, or what was sent and refused. None: not for this viewer.
    pub retention: Option<RetentionForm>,
}

/// The form as it is shown: what is set, or what was typed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetentionForm {
    /// In the order of [`Retention::days`].
    pub days: [String; 9],
    pub archive: String,
    pub problems: Vec<FieldProblem>,
}

impl RetentionForm {
    #[must_use]
    pub fn of(retention: &Retention) -> Self {
        Self {
            days: retention.days().map(|(_, days)| days.to_string()),
            archive: retention.archive.as_ref().map_or_else(String::new, |path| path.display().to_string()),
            problems: Vec::new(),
        }
    }

    /// From the pairs that the form sent; what is missing stays empty.
    #[must_use]
    pub fn from_pairs(pairs: &[(String, String)]) -> Self {
        let text = |name: &str| {
            pairs.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.trim()).to_owned()
        };
        Self {
            days: Retention::default().days().map(|(name, _)| text(name)),
            archive: text("archive"),
            problems: Vec::new(),
        }
    }

    /// What was meant.
    ///
    /// # Errors
    /// A sentence for each field that is no number, or for the first that cannot be kept to.
    pub fn read(&self) -> Result<Retention, Vec<FieldProblem>> {
        let mut problems = Vec::new();
        let mut retention = Retention {
            archive: Some(self.archive.clone()).filter(|path| !path.is_empty()).map(Into::into),
            ..Retention::default()
        };
        let fields: [(&'static str, &mut u32); 9] = [
            ("command_records_days", &mut retention.command_records_days),
            ("operations_days", &mut retention.operations_days),
            ("audit_days", &mut retention.audit_days),
            ("raw_days", &mut retention.raw_days),
            ("m1_days", &mut retention.m1_days),
            ("m5_days", &mut retention.m5_days),
            ("m15_days", &mut retention.m15_days),
            ("h1_days", &mut retention.h1_days),
            ("d1_days", &mut retention.d1_days),
        ];
        for ((name, place), text) in fields.into_iter().zip(&self.days) {
            match text.parse() {
                Ok(days) => *place = days,
                Err(_) => {
                    let sentence = format!("'{}' is not a number of days", view::clean(text, 40));
                    problems.push(FieldProblem { field: name.to_owned(), sentence });
                }
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        retention
            .validated()
            .map_err(|error| vec![FieldProblem { field: error.field.to_owned(), sentence: error.message }])
    }
}

#[derive(Debug, Clone)]
struct LevelRow {
    title: &'static str,
    field: Option<Field>,
    days: String,
    size: Value,
    a_day: Value,
    oldest: When,
    expected: Value,
}

#[derive(Debug, Clone)]
struct TableRow {
    title: String,
    field: Option<Field>,
    rows: String,
    size: Value,
    a_day: String,
}

/// A sentence about history with how much it matters.
#[derive(Debug, Clone)]
struct Line {
    icon: &'static str,
    class: &'static str,
    text: String,
}

/// The section of the page.
#[derive(Debug, Clone, Template)]
#[template(path = "partials/keeping.html")]
pub struct Keeping {
    csrf_token: String,
    lines: Vec<Line>,
    levels: Vec<LevelRow>,
    tables: Vec<TableRow>,
    archive: Option<Field>,
    total: Option<String>,
    next: Vec<String>,
    last: Option<(When, String)>,
}

// askama wrote it and escaped what is in it.
impl HtmlSafe for Keeping {}

const fn title(level: Level) -> &'static str {
    match level {
        Level::Raw => "Every reading",
        Level::Minute => "1 minute",
        Level::FiveMinutes => "5 minutes",
        Level::QuarterHour => "15 minutes",
        Level::Hour => "1 hour",
        Level::Day => "1 day",
    }
}

/// The name of a level's field, and its place in [`RetentionForm::days`].
const fn field_of(level: Level) -> (&'static str, usize) {
    match level {
        Level::Raw => ("raw_days", 3),
        Level::Minute => ("m1_days", 4),
        Level::FiveMinutes => ("m5_days", 5),
        Level::QuarterHour => ("m15_days", 6),
        Level::Hour => ("h1_days", 7),
        Level::Day => ("d1_days", 8),
    }
}

/// Tables whose rows go by themselves.
fn field_of_table(table: &str) -> Option<(&'static str, usize, &'static str)> {
    match table {
        "command_records" => Some(("command_records_days", 0, "Command records")),
        "operations" => Some(("operations_days", 1, "Operations")),
        "audit" => Some(("audit_days", 2, "Audit log")),
        _ => None,
    }
}

fn days_field(form: &RetentionForm, name: &'static str, place: usize) -> Field {
    let value = form.days.get(place).map_or("", String::as_str);
    let (least, most) = (Retention::fewest_days(name), RETENTION_DAYS.1);
    Field::number(name, "Days", value, least, most).required().judged(&form.problems)
}

impl Keeping {
    #[must_use]
    pub fn new(csrf_token: &str, data: &KeepingData, now: Timestamp) -> Self {
        let form = data.retention.as_ref();
        let levels = data.sizes.iter().flat_map(|sizes| &sizes.levels).map(|level| {
            let (name, place) = field_of(level.level);
            LevelRow {
                title: title(level.level),
                field: form.map(|form| days_field(form, name, place)),
                days: level.retention_days.to_string(),
                size: view::bytes(Some(level.bytes as f64)),
                a_day: view::bytes(Some(level.bytes_a_day)),
                oldest: When::new(level.oldest, now),
                expected: view::bytes(Some(level.expected_bytes)),
            }
        });
        let mut tables: Vec<TableRow> = Vec::new();
        for table in &data.tables {
            let kept = field_of_table(&table.table);
            tables.push(TableRow {
                title: kept.map_or_else(|| table.table.replace('_', " "), |(.., title)| title.to_owned()),
                field: kept.zip(form).map(|((name, place, _), form)| days_field(form, name, place)),
                rows: view::whole(table.rows),
                size: view::bytes(Some(table.size_bytes)),
                a_day: table.rows_last_day.map_or_else(String::new, view::whole),
            });
        }
        // What can be set stands first.
        tables.sort_by_key(|table| table.field.is_none());
        Self {
            csrf_token: csrf_token.to_owned(),
            lines: lines(data),
            levels: levels.collect(),
            tables,
            archive: form.map(|form| {
                Field::line("archive", "Archive directory", &form.archive, PATH_CHARS)
                    .placeholder("/var/backups/roundsman")
                    .hint("On the machine of Roundsman. What expires is written there first; empty: it only goes.")
                    .judged(&form.problems)
            }),
            total: data.sizes.as_ref().map(total),
            next: data.sizes.iter().flat_map(|sizes| next_run(sizes, now)).collect(),
            last: data.removal.as_ref().map(|removal| (When::new(Some(removal.at), now), removed(removal))),
        }
    }
}

fn total(sizes: &Sizes) -> String {
    let text = |bytes: u64| view::bytes(Some(bytes as f64)).text.unwrap_or_default();
    format!(
        "{} on disk, {} of it free for what comes; {} series.",
        text(sizes.file_bytes),
        text(sizes.free_bytes),
        view::whole(sizes.series)
    )
}

/// What has expired already, and when the next of it does.
fn next_run(sizes: &Sizes, now: Timestamp) -> Vec<String> {
    let over = sizes.levels.iter().filter_map(|level| {
        let oldest = level.oldest?;
        let days = now.since(oldest).as_millis() as f64 / DAY_MS - f64::from(level.retention_days);
        let bytes = view::bytes(Some(level.bytes_a_day * days)).text?;
        (days > 0.0).then(|| format!("{}: about {bytes}, {days:.1} days over its time", title(level.level)))
    });
    over.collect()
}

fn removed(removal: &Removal) -> String {
    if removal.removed.is_empty() {
        return "nothing had expired".to_owned();
    }
    let parts: Vec<String> = removal
        .removed
        .iter()
        .map(|one| {
            let bytes = view::bytes(Some(one.bytes as f64)).text.unwrap_or_default();
            let archived = if one.archived_to.is_some() { " (archived)" } else { "" };
            format!("{} {bytes}{archived}", title(one.level))
        })
        .collect();
    let more = if removal.more { "; the next run goes on" } else { "" };
    format!("{}{more}", parts.join(", "))
}

fn lines(data: &KeepingData) -> Vec<Line> {
    let health = &data.health;
    let bad = |text: String| Line { icon: "octagon-x", class: "is-failed", text };
    let warn = |text: String| Line { icon: "triangle-alert", class: "is-warning", text };
    let mut lines = Vec::new();
    if let Some(error) = &health.last_error {
        lines.push(bad(format!("The file takes nothing: {}.", error.trim_end_matches('.'))));
    }
    if let Some(error) = &health.removal_error {
        lines.push(bad(format!(
            "What has expired stays: {}. The next hourly run tries again.",
            view::clean(error, view::TEXT_CHARS).trim_end_matches('.')
        )));
    }
    if health.behind_s > 1 {
        lines.push(warn(format!("{} s of readings wait in memory.", view::whole(health.behind_s))));
    }
    if health.damaged_rows > 0 {
        let count = view::whole(health.damaged_rows);
        lines.push(bad(format!(
            "{count} damaged rows were skipped since the start; `roundsman doctor --integrity` lists them."
        )));
    }
    let dropped = &health.dropped;
    for (count, why) in [
        (dropped.lost, "were lost because the disk took nothing for hours"),
        (dropped.over_limit, "were over a limit of names or of values in a bucket"),
        (dropped.bad_time, "had a time before 1970 or ahead of the clock"),
        (dropped.too_late, "came more than a day late"),
        (dropped.out_of_order, "came twice"),
        (dropped.not_storable, "were no numbers that can be stored"),
    ] {
        if count > 0 {
            lines.push(warn(format!("{} values {why}.", view::whole(count))));
        }
    }
    for (limited, name) in health.limited.iter().zip(&data.limited) {
        let names: Vec<String> = limited.names.iter().map(|name| view::clean(name, NAME_CHARS)).collect();
        let examples =
            if names.is_empty() { String::new() } else { format!(", such as {}", names.join(", ")) };
        lines.push(warn(format!(
            "{name} sends more names of metrics and labels than are kept{examples}; {} values were dropped. Names that are gone make room after two days.",
            view::whole(limited.dropped)
        )));
    }
    if health.max_series > 0 && health.series as f64 > health.max_series as f64 * MANY_NAMES {
        lines.push(warn(format!("{} of {} names of series are in use.", health.series, health.max_series)));
    }
    if health.clock_steps > 0 {
        lines.push(warn(format!("The clock of this machine was set {} times.", health.clock_steps)));
    }
    if lines.is_empty() {
        lines.push(Line {
            icon: "circle-check",
            class: "is-passed",
            text: "Every reading is on disk within two seconds.".to_owned(),
        });
    }
    lines
}

#[cfg(test)]
pub(in crate::web::pages) mod tests {
    use super::*;
    use crate::history::{LevelSize, Limited};
    use crate::model::ServerNumber;
    use crate::web::pages::samples::{now, seconds_ago};

    fn level(level: Level, days: u32, oldest_days: i64) -> LevelSize {
        LevelSize {
            level,
            rows: 10,
            bytes: 5 << 20,
            oldest: Some(seconds_ago(oldest_days * 86_400)),
            newest: Some(now()),
            bytes_a_day: f64::from(1 << 20),
            retention_days: days,
            expected_bytes: f64::from(days << 20),
        }
    }

    pub(in crate::web::pages) fn data() -> KeepingData {
        let levels = vec![level(Level::Raw, 5, 7), level(Level::Minute, 15, 7)];
        KeepingData {
            sizes: Some(Sizes { levels, file_bytes: 12 << 20, free_bytes: 0, journal_rows: 3, series: 40 }),
            tables: vec![TableRows {
                table: "command_records".to_owned(),
                rows: 1204,
                size_bytes: 4096.0,
                rows_last_day: Some(17),
            }],
            retention: Some(RetentionForm::of(&Retention::default())),
            ..KeepingData::default()
        }
    }

    #[test]
    fn sizes_growth_and_what_the_next_run_removes_are_told() {
        let html = Keeping::new("token", &data(), now()).to_string().replace('\u{a0}', " ");
        for word in [
            "5.00 MiB",
            "1.00 MiB",
            "1,204",
            "Every reading: about 2.00 MiB, 2.0 days over",
            "12.0 MiB on disk",
        ] {
            assert!(html.contains(word), "{word}: {html}");
        }
        assert!(!html.contains("1 minute: about"));
    }

    #[test]
    fn trouble_of_history_is_told_in_sentences_and_its_absence_too() {
        let well = Keeping::new("token", &data(), now()).to_string();
        assert!(well.contains("on disk within two seconds"));
        let mut data = data();
        data.health.last_error = Some("database or disk is full".to_owned());
        data.health.behind_s = 40;
        data.health.dropped.lost = 12;
        data.health.removal_error =
            Some("expired values cannot be archived in /srv/old: read-only".to_owned());
        data.limited = vec!["web-1".to_owned()];
        let names = vec!["core_percent{x<b>}".to_owned()];
        data.health.limited = vec![Limited { server: ServerNumber(1), dropped: 5, names }];
        let html = Keeping::new("token", &data, now()).to_string();
        for word in [
            "disk is full",
            "40 s of readings wait",
            "12 values were lost",
            "What has expired stays: expired values cannot be archived in /srv/old: read-only.",
            "web-1 sends more names",
            "core_percent",
            "5 values were dropped",
        ] {
            assert!(html.contains(word), "{word}: {html}");
        }
        assert!(!html.contains("<b>"));
        assert!(!html.contains("on disk within two seconds"));
    }

    #[test]
    fn what_was_typed_comes_back_with_what_is_wrong_with_it() {
        let pairs = |raw: &str, minute: &str| {
            let mut pairs: Vec<(String, String)> = Retention::default()
                .days()
                .into_iter()
                .map(|(name, days)| (name.to_owned(), days.to_string()))
                .collect();
            for (name, value) in &mut pairs {
                match name.as_str() {
                    "raw_days" => raw.clone_into(value),
                    "m1_days" => minute.clone_into(value),
                    _ => {}
                }
            }
            RetentionForm::from_pairs(&pairs)
        };
        assert_eq!(pairs("7", "15").read().unwrap().raw_days, 7);
        assert_eq!(pairs("many", "15").read().unwrap_err()[0].field, "raw_days");
        let typed = pairs("16", "15");
        let form = RetentionForm { problems: typed.read().unwrap_err(), ..typed };
        let html = Keeping::new("token", &KeepingData { retention: Some(form), ..data() }, now()).to_string();
        assert!(html.contains("value=\"16\"") && html.contains("must be at least 16"), "{html}");
    }

    #[test]
    fn who_may_not_change_it_sees_no_form() {
        let html = Keeping::new("token", &KeepingData { retention: None, ..data() }, now()).to_string();
        assert!(!html.contains("<form") && html.contains("5.00"));
    }
}
