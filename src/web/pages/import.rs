//! Many servers at once: the paste box, what would become of each line, and how far the import is.

use askama::Template;

use crate::fleet::import::{Format, ImportState, ItemState, JobItem, Line, Plan, Planned, Progress, Verdict};
use crate::model::Timestamp;
use crate::web::view;

use super::form::Field;
use super::{Badge, Choice, Chrome, Section, Viewer};

/// Lines that the page shows; a browser is slow with more, and the API has them all.
const ROWS: usize = 1000;

/// Variables of an inventory that hold a password.
const PASSWORDS: [&str; 5] = [
    "ansible_password",
    "ansible_ssh_pass",
    "ansible_become_password",
    "ansible_become_pass",
    "ansible_sudo_pass",
];

/// What was typed; passwords that an inventory brings along are blanked when it is shown again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportForm {
    pub text: String,
    /// `auto`, or the name of a format.
    pub format: String,
    /// Separated by blanks or commas.
    pub tags: String,
    pub skip_invalid: bool,
    pub accept_new: bool,
    pub unchecked: bool,
}

/// `GET /import`, and the answer to its form.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/import.html")]
pub struct ImportPage {
    pub chrome: Chrome,
    form: ImportForm,
    formats: Vec<Choice>,
    tags: Field,
    plan: Option<PlanView>,
}

#[derive(Debug, Clone)]
struct PlanView {
    format: &'static str,
    counts: Vec<(Badge, usize)>,
    to_add: usize,
    wrong: usize,
    rows: Vec<Row>,
    left_out: usize,
}

#[derive(Debug, Clone)]
struct Row {
    line: String,
    badge: Badge,
    name: String,
    address: String,
    remarks: Vec<String>,
}

const ADD: Badge = Badge { class: "is-healthy", icon: "plus", text: "Add" };
const EXISTS: Badge = Badge { class: "is-neutral", icon: "check", text: "There already" };
const DUPLICATE: Badge = Badge { class: "is-neutral", icon: "copy", text: "Said twice" };
const WRONG: Badge = Badge { class: "is-critical", icon: "octagon-x", text: "Wrong" };
const UNSUPPORTED: Badge = Badge { class: "is-degraded", icon: "triangle-alert", text: "Not supported" };
const NOTE: Badge = Badge { class: "is-neutral", icon: "info", text: "Note" };

impl ImportPage {
    /// `plan` is what would become of the text. None: nobody asked yet.
    #[must_use]
    pub fn new(viewer: &Viewer, form: &ImportForm, plan: Option<&Plan>, now: Timestamp) -> Self {
        let mut formats = vec![Choice::of("auto", "Find out", &form.format)];
        formats.extend(Format::ALL.map(|format| Choice::of(format.name(), format.title(), &form.format)));
        Self {
            chrome: Chrome::new("Import servers", Section::Fleet, None, viewer, now),
            form: ImportForm { text: without_passwords(&form.text), ..form.clone() },
            formats,
            tags: Field::line("tags", "Tags for all of them", &form.tags, 1000).placeholder("customer-a eu"),
            plan: plan.map(PlanView::new),
        }
    }
}

/// The text with the values of variables such as `ansible_password` left out; they are not taken over anyway.
fn without_passwords(text: &str) -> String {
    text.split_inclusive('\n').map(without_password).collect()
}

/// A line up to its first password: what follows may be a part of it, whatever the quotes say.
fn without_password(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let found = PASSWORDS.iter().filter_map(|name| {
        let after = lower.find(name)? + name.len();
        let rest =
            lower.get(after..)?.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '\''));
        rest.starts_with(['=', ':']).then(|| lower.len() - rest.len() + 1)
    });
    let Some(end) = found.min() else { return line.to_owned() };
    let kept = line.get(..end).unwrap_or_default();
    let ending = if line.ends_with('\n') { "\n" } else { "" };
    format!("{kept}{ending}")
}

impl PlanView {
    fn new(plan: &Plan) -> Self {
        let counts = plan.counts();
        let all = [
            (ADD, counts.add),
            (EXISTS, counts.exists),
            (DUPLICATE, counts.duplicate),
            (WRONG, counts.invalid),
            (UNSUPPORTED, counts.unsupported),
            (NOTE, counts.notes),
        ];
        Self {
            format: plan.format.title(),
            counts: all.into_iter().filter(|(_, count)| *count > 0).collect(),
            to_add: counts.add,
            wrong: counts.invalid + counts.unsupported,
            rows: plan.lines.iter().take(ROWS).map(Row::new).collect(),
            left_out: plan.lines.len().saturating_sub(ROWS),
        }
    }
}

impl Row {
    fn new(line: &Line) -> Self {
        let clean = |text: &str| view::clean(text, view::TEXT_CHARS);
        let mut remarks: Vec<String> = Vec::new();
        let (mut name, mut address) = (String::new(), String::new());
        let badge = match &line.verdict {
            Verdict::Add { server } => {
                name.clone_from(&server.name);
                address = address_of(server);
                remarks.extend(server.jump_host.as_ref().map(|jump| format!("over {jump}")));
                remarks.extend(server.proxy.as_ref().map(|proxy| format!("through {proxy}")));
                if !server.tags.is_empty() {
                    remarks.push(format!("tags {}", server.tags.join(", ")));
                }
                ADD
            }
            Verdict::Exists { name: known } => {
                name.clone_from(known);
                EXISTS
            }
            Verdict::Duplicate { of, name: first } => {
                name.clone_from(first);
                remarks.push(format!("the same as in line {of}"));
                DUPLICATE
            }
            Verdict::Invalid { message, .. } => {
                remarks.push(message.clone());
                WRONG
            }
            Verdict::Unsupported { what } => {
                remarks.push(what.clone());
                UNSUPPORTED
            }
            Verdict::Note { text } => {
                remarks.push(text.clone());
                NOTE
            }
        };
        remarks.extend(line.remarks.iter().cloned());
        Self {
            line: clean(&line.at.to_string()),
            badge,
            name,
            address,
            remarks: remarks.iter().map(|remark| clean(remark)).collect(),
        }
    }
}

fn address_of(server: &Planned) -> String {
    let host = if server.hostname.contains(':') {
        format!("[{}]", server.hostname)
    } else {
        server.hostname.clone()
    };
    format!("{}@{host}:{}", server.username.as_deref().unwrap_or("root"), server.port)
}

/// `GET /import/{id}`.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/import_progress.html")]
pub struct ProgressPage {
    pub chrome: Chrome,
    id: String,
    title: &'static str,
    is_running: bool,
    is_interrupted: bool,
    ended: usize,
    total: usize,
    counts: Vec<(Badge, usize)>,
    rows: Vec<ItemRow>,
    left_out: usize,
}

#[derive(Debug, Clone)]
struct ItemRow {
    line: String,
    badge: Badge,
    name: String,
    address: String,
    is_there: bool,
    message: String,
}

const WAITING: Badge = Badge { class: "is-neutral", icon: "circle-dashed", text: "Waiting" };
const WORKING: Badge = Badge { class: "is-neutral", icon: "refresh-cw", text: "Looking" };
const ADDED: Badge = Badge { class: "is-healthy", icon: "circle-check", text: "Added" };
const UNCHECKED: Badge = Badge { class: "is-degraded", icon: "triangle-alert", text: "Unchecked" };
const FAILED: Badge = Badge { class: "is-critical", icon: "octagon-x", text: "Not added" };

impl ProgressPage {
    #[must_use]
    pub fn new(viewer: &Viewer, progress: &Progress, now: Timestamp) -> Self {
        let ended = progress.added + progress.unchecked + progress.failed;
        let counts = [(ADDED, progress.added), (UNCHECKED, progress.unchecked), (FAILED, progress.failed)];
        Self {
            chrome: Chrome::new("Import", Section::Fleet, None, viewer, now),
            id: progress.id.clone(),
            title: match progress.state {
                ImportState::Running => "Importing",
                ImportState::Completed => "Imported",
                ImportState::Interrupted => "Import interrupted",
            },
            is_running: progress.state == ImportState::Running,
            is_interrupted: progress.state == ImportState::Interrupted,
            ended,
            total: progress.total,
            counts: counts.into_iter().filter(|(_, count)| *count > 0).collect(),
            rows: progress.items.iter().take(ROWS).map(ItemRow::new).collect(),
            left_out: progress.items.len().saturating_sub(ROWS),
        }
    }
}

impl ItemRow {
    fn new(item: &JobItem) -> Self {
        let (badge, message) = match &item.state {
            ItemState::Waiting => (WAITING, String::new()),
            ItemState::Working => (WORKING, String::new()),
            ItemState::Added { .. } => (ADDED, String::new()),
            ItemState::Unchecked { .. } => {
                (UNCHECKED, "It was not reached, or its host key waits for approval on its page.".to_owned())
            }
            ItemState::Failed { message, .. } => (FAILED, message.clone()),
        };
        Self {
            line: view::clean(&item.at.to_string(), view::CELL_CHARS),
            badge,
            name: item.name.clone(),
            address: view::clean(&item.address, view::CELL_CHARS),
            is_there: matches!(item.state, ItemState::Added { .. } | ItemState::Unchecked { .. }),
            message: view::clean(&message, view::TEXT_CHARS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::import::{Surroundings, plan};
    use crate::model::Role;
    use crate::web::pages::samples::{now, viewer};

    #[test]
    fn a_hostile_text_is_shown_and_not_obeyed() {
        let form =
            ImportForm { text: "</textarea><script>x</script>:0\n".to_owned(), ..ImportForm::default() };
        let plan = plan(&form.text, Some(Format::Lines), &Surroundings::default());
        let html = ImportPage::new(&viewer(Role::Admin), &form, Some(&plan), now()).render().unwrap();
        assert!(!html.contains("<script>x") && !html.contains("</textarea><script"), "{html}");
        assert!(html.contains("Wrong") && html.contains("&#60;script&#62;x"));
    }

    #[test]
    fn a_pasted_password_does_not_come_back() {
        let text =
            "web-1 ansible_user=anna ansible_password='top hush' x=1\nansible_become_pass: \"hush\"\nweb-2\n";
        let form = ImportForm { text: text.to_owned(), ..ImportForm::default() };
        let html = ImportPage::new(&viewer(Role::Admin), &form, None, now()).render().unwrap();
        assert!(
            !html.contains("hush") && html.contains("ansible_user=anna") && html.contains("web-2"),
            "{html}"
        );
    }

    #[test]
    fn what_cannot_be_added_has_no_button_to_add_it() {
        let page = |text: &str| {
            let form = ImportForm { text: text.to_owned(), ..ImportForm::default() };
            let plan = plan(text, None, &Surroundings::default());
            ImportPage::new(&viewer(Role::Admin), &form, Some(&plan), now()).render().unwrap()
        };
        assert!(page("web-1\nweb-2\n").contains("Add 2 servers"));
        assert!(page("web-1\nbad:0\n").contains("Leave out"));
        assert!(!page("bad:0\n").contains("formaction"));
    }
}
