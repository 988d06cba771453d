//! Host keys of the servers: by whose word each is trusted, what is weak, and the imported known_hosts lines.

use askama::Template;

use crate::fleet::{HostKeyReport, HostKeyState, ImportReport, KnownHostLine, LineOutcome};
use crate::model::Timestamp;
use crate::web::view::{self, Value, When};

use super::fleet::natural_text;
use super::form::{Field, FieldProblem};
use super::{Badge, Choice, Chrome, Section, Viewer};

/// Rows that a page lays out; the API and the CSV have them all.
const ROWS_SHOWN: usize = 1000;
pub(in crate::web) const LINES_SHOWN: usize = 200;
const TEXT_CHARS: u32 = 512 * 1024;

/// What the address asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostKeyQuery {
    /// Part of a name, an address or a fingerprint.
    pub search: String,
    /// A state, `attention`, or empty for all.
    pub show: String,
    /// `server`, `state`, `algorithm`, `cipher`.
    pub sort: String,
}

impl HostKeyQuery {
    /// From query pairs; what is unknown is left out.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut query = Self::default();
        for (name, value) in pairs {
            match name {
                "search" => query.search = value.trim().chars().take(100).collect(),
                "show" if SHOWS.iter().any(|(known, _)| *known == value) => value.clone_into(&mut query.show),
                "sort" if SORTS.contains(&value) => value.clone_into(&mut query.sort),
                _ => {}
            }
        }
        query
    }

    fn accepts(&self, row: &HostKeyReport) -> bool {
        let shown = match self.show.as_str() {
            "" => true,
            "attention" => row.needs_attention(),
            state => row.state.name() == state,
        };
        let fingerprint = |key: &Option<crate::fleet::HostKeyView>| {
            key.as_ref().is_some_and(|key| key.fingerprint.contains(&self.search))
        };
        shown
            && (self.search.is_empty()
                || row.server_name.contains(&self.search)
                || row.address.contains(&self.search)
                || fingerprint(&row.host_key)
                || fingerprint(&row.offered))
    }

    fn arrange(&self, rows: &mut [&HostKeyReport]) {
        let algorithm =
            |row: &HostKeyReport| row.host_key.as_ref().map(|key| (key.algorithm.clone(), row.bits));
        match self.sort.as_str() {
            "state" => rows.sort_by_key(|row| row.state),
            "algorithm" => rows.sort_by_key(|row| algorithm(row)),
            "cipher" => rows.sort_by(|left, right| left.cipher.cmp(&right.cipher)),
            _ => rows.sort_by(|left, right| natural_text(&left.server_name, &right.server_name)),
        }
    }
}

const SHOWS: [(&str, &str); 8] = [
    ("", "All"),
    ("attention", "To look at"),
    ("changed", "Changed"),
    ("revoked", "Revoked"),
    ("unapproved", "Not approved"),
    ("authority", "By an authority"),
    ("approved", "Approved"),
    ("unknown", "Not seen yet"),
];
const SORTS: [&str; 4] = ["server", "state", "algorithm", "cipher"];

/// `GET /host-keys`, and the answer to its forms. They send: `/host-keys/import` text, dry_run; `/host-keys/{id}/remove`.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/host_keys.html")]
pub struct HostKeysPage {
    pub chrome: Chrome,
    search: String,
    show: String,
    shows: Vec<Choice>,
    sorts: Vec<Column>,
    rows: Vec<Row>,
    total: usize,
    left_out: usize,
    lines: Vec<Line>,
    lines_left_out: usize,
    report: Option<Report>,
    text: Field,
}

#[derive(Debug, Clone)]
struct Column {
    title: &'static str,
    address: String,
    is_sorted: bool,
}

#[derive(Debug, Clone)]
struct Row {
    server: String,
    address: String,
    badge: Badge,
    kind: Value,
    fingerprint: Option<String>,
    /// The key that waits: fingerprint and line.
    offered: Option<(String, String)>,
    is_revoked: bool,
    negotiated: Option<String>,
    daemon: Value,
    shared: String,
    weaknesses: Vec<String>,
}

impl Row {
    fn new(row: &HostKeyReport) -> Self {
        let key = row.host_key.as_ref().or(row.offered.as_ref());
        let kind = key.map(|key| match row.bits {
            Some(bits) if key.algorithm == "ssh-rsa" => format!("{} {bits}", key.algorithm),
            _ => key.algorithm.clone(),
        });
        let negotiated = row.kex.as_ref().map(|kex| {
            let mut words = vec![kex.as_str()];
            words.extend(row.cipher.as_deref());
            words.extend(row.mac.as_deref().filter(|mac| *mac != "implicit"));
            words.join(" · ")
        });
        Self {
            server: row.server_name.clone(),
            address: view::clean(&row.address, view::CELL_CHARS),
            badge: badge(row.state, !row.weaknesses.is_empty()),
            kind: Value { text: kind },
            fingerprint: row.host_key.as_ref().map(|key| key.fingerprint.clone()),
            offered: row.offered.as_ref().map(|key| (key.fingerprint.clone(), key.line.clone())),
            is_revoked: row.state == HostKeyState::Revoked,
            negotiated,
            daemon: Value::foreign(row.daemon.as_deref()),
            shared: row.shared_with.join(", "),
            weaknesses: row.weaknesses.clone(),
        }
    }
}

const fn badge(state: HostKeyState, is_weak: bool) -> Badge {
    let (class, icon, text) = match state {
        HostKeyState::Authority if is_weak => ("is-degraded", "shield-alert", "By an authority, weak"),
        HostKeyState::Approved if is_weak => ("is-degraded", "shield-alert", "Approved, weak"),
        HostKeyState::Changed => ("is-critical", "shield-alert", "Changed"),
        HostKeyState::Revoked => ("is-critical", "octagon-x", "Revoked"),
        HostKeyState::Unapproved => ("is-degraded", "circle-question-mark", "Not approved"),
        HostKeyState::Unknown => ("is-unknown", "circle-dashed", "Not seen yet"),
        HostKeyState::Authority => ("is-healthy", "shield-check", "By an authority"),
        HostKeyState::Approved => ("is-healthy", "circle-check", "Approved"),
    };
    Badge { class, icon, text }
}

#[derive(Debug, Clone)]
struct Line {
    id: String,
    marker: &'static str,
    hosts: String,
    key: String,
    servers: String,
    when: When,
    who: String,
}

impl Line {
    fn new(line: &KnownHostLine, now: Timestamp) -> Self {
        Self {
            id: line.id.to_string(),
            marker: match line.marker.as_str() {
                "cert-authority" => "authority",
                "revoked" => "revoked",
                _ => "",
            },
            hosts: view::clean(&line.hosts, 120),
            key: format!("{} {}", line.algorithm, line.fingerprint),
            servers: line.servers.join(", "),
            when: When::new(Some(line.created_at), now),
            who: view::clean(&line.created_by, 80),
        }
    }
}

#[derive(Debug, Clone)]
struct Report {
    title: String,
    rows: Vec<ReportRow>,
    left_out: usize,
}

#[derive(Debug, Clone)]
struct ReportRow {
    line: usize,
    badge: Badge,
    what: String,
    detail: String,
}

impl Report {
    fn new(of: &ImportReport) -> Self {
        let verb = if of.dry_run { "would be added" } else { "added" };
        Self {
            title: format!(
                "{} {verb}, {} there already, {} approved, {} in conflict, {} not readable",
                of.added, of.already_there, of.approved, of.conflicts, of.unreadable
            ),
            rows: of
                .lines
                .iter()
                .take(ROWS_SHOWN)
                .map(|line| {
                    let (class, icon, text) = match line.outcome {
                        LineOutcome::Added => ("is-healthy", "plus", "Added"),
                        LineOutcome::AlreadyThere => ("is-neutral", "check", "There already"),
                        LineOutcome::Approved => ("is-healthy", "shield-check", "Approved"),
                        LineOutcome::Conflict => ("is-degraded", "triangle-alert", "Conflict"),
                        LineOutcome::Unreadable => ("is-critical", "x", "Not readable"),
                    };
                    let marker =
                        if line.marker.is_empty() { String::new() } else { format!("@{} ", line.marker) };
                    ReportRow {
                        line: line.line,
                        badge: Badge { class, icon, text },
                        what: view::clean(&format!("{marker}{} {}", line.hosts, line.fingerprint), 300),
                        detail: view::clean(&line.detail, view::TEXT_CHARS),
                    }
                })
                .collect(),
            left_out: of.lines.len().saturating_sub(ROWS_SHOWN),
        }
    }
}

/// What the forms of the page said.
#[derive(Debug, Clone, Default)]
pub struct KnownHostsForm {
    pub text: String,
    pub report: Option<ImportReport>,
    pub problems: Vec<FieldProblem>,
}

impl HostKeysPage {
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        report: &[HostKeyReport],
        (lines, lines_kept): (&[KnownHostLine], usize),
        query: &HostKeyQuery,
        form: &KnownHostsForm,
        now: Timestamp,
    ) -> Self {
        let mut accepted: Vec<&HostKeyReport> = report.iter().filter(|row| query.accepts(row)).collect();
        query.arrange(&mut accepted);
        let sort = if query.sort.is_empty() { "server" } else { &query.sort };
        let columns =
            [("Server", "server"), ("State", "state"), ("Key", "algorithm"), ("Connection", "cipher")];
        Self {
            chrome: Chrome::new("Host keys", Section::Keys, None, viewer, now),
            search: query.search.clone(),
            show: query.show.clone(),
            shows: SHOWS.iter().map(|(value, text)| Choice::of(value, text, &query.show)).collect(),
            sorts: columns
                .iter()
                .map(|(title, name)| Column {
                    title,
                    address: address(query, name),
                    is_sorted: *name == sort,
                })
                .collect(),
            rows: accepted.iter().take(ROWS_SHOWN).map(|row| Row::new(row)).collect(),
            total: report.len(),
            left_out: accepted.len().saturating_sub(ROWS_SHOWN),
            lines: lines.iter().take(LINES_SHOWN).map(|line| Line::new(line, now)).collect(),
            lines_left_out: lines_kept.saturating_sub(LINES_SHOWN),
            report: form.report.as_ref().map(Report::new),
            text: Field::lines("text", "Lines", &form.text, TEXT_CHARS)
                .placeholder("web-1.example.com ssh-ed25519 AAAA…")
                .hint("As in ~/.ssh/known_hosts: hashed names, patterns, @cert-authority and @revoked count.")
                .required()
                .judged(&form.problems),
        }
    }
}

fn address(query: &HostKeyQuery, sort: &str) -> String {
    let mut pairs = vec![("sort", sort)];
    if !query.search.is_empty() {
        pairs.push(("search", &query.search));
    }
    if !query.show.is_empty() {
        pairs.push(("show", &query.show));
    }
    format!("/host-keys?{}", serde_urlencoded::to_string(pairs).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Role;
    use crate::web::pages::samples::{host_keys, known_hosts, now, viewer};

    fn page(role: Role, query: &[(&str, &str)]) -> String {
        let query = HostKeyQuery::from_pairs(query.iter().copied());
        HostKeysPage::new(
            &viewer(role),
            &host_keys(),
            (&known_hosts(), known_hosts().len()),
            &query,
            &KnownHostsForm::default(),
            now(),
        )
        .render()
        .unwrap()
    }

    #[test]
    fn a_changed_key_can_be_accepted_by_an_administrator_only_and_a_revoked_one_by_nobody() {
        let html = page(Role::Admin, &[]);
        assert_eq!(html.matches("/host-key\"").count(), 1, "one button for the changed one: {html}");
        assert!(!page(Role::Operator, &[]).contains("/host-key\""));
    }

    #[test]
    fn rows_are_filtered_by_state_and_search_and_weak_ones_marked() {
        let weak = page(Role::Viewer, &[("show", "attention")]);
        assert!(weak.contains("The RSA key has only 1024 bits") && weak.contains("same key as web-3"));
        assert!(!weak.contains(">web-1<"), "{weak}");
        assert!(weak.contains("Approved, weak"), "a weak key is not shown as if all were well");
        let found = page(Role::Viewer, &[("search", "web-1")]);
        assert!(found.contains(">web-1<") && !found.contains(">db-1<"));
        assert!(page(Role::Viewer, &[("search", "\"><script>")]).contains("&#34;&#62;&#60;script&#62;"));
    }
}
