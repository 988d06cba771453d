//! A new operation: what, on which servers, how; then exactly what would be sent, and the button that begins it.

use askama::Template;

use super::{Choice, Chrome, Section, Viewer};
use crate::model::Timestamp;
use crate::operations::Planned;
use crate::web::view;

/// Servers that the review names one by one; more are counted.
const REVIEWED: usize = 500;

/// What was filled in, as text; a field that is not there is empty.
#[derive(Debug, Clone, Default)]
pub struct OperationForm(pub Vec<(String, String)>);

impl OperationForm {
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.trim())
    }
}

/// `GET /operations/new` and `POST /operations/review`.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/operation_new.html")]
pub struct NewOperationPage {
    pub chrome: Chrome,
    form: OperationForm,
    kinds: Vec<Choice>,
    busy: Vec<Choice>,
    review: Option<Review>,
}

#[derive(Debug, Clone)]
struct Review {
    /// What was looked at; what is begun must be the same.
    seal: String,
    total: usize,
    impossible: usize,
    /// "1, then 4, then 5", where there are several.
    batches: Option<String>,
    rows: Vec<Row>,
    left_out: usize,
}

#[derive(Debug, Clone)]
struct Row {
    batch: usize,
    id: String,
    name: String,
    command: Option<String>,
    error: Option<String>,
}

impl NewOperationPage {
    #[must_use]
    pub fn new(viewer: &Viewer, form: OperationForm, now: Timestamp) -> Self {
        let kind = form.text("operation_type").to_owned();
        let kinds = [
            ("run_command", "Run a command"),
            ("restart_service", "Restart a service"),
            ("start_service", "Start a service"),
            ("stop_service", "Stop a service"),
            ("reload_service", "Reload a service"),
        ];
        let busy = [
            ("", "As it is configured"),
            ("share", "Run beside it"),
            ("queue", "Wait until it has ended"),
            ("refuse", "Begin nothing"),
        ];
        let when_busy = form.text("when_busy").to_owned();
        Self {
            chrome: Chrome::new("New operation", Section::Operations, None, viewer, now),
            kinds: kinds.iter().map(|(value, text)| Choice::of(value, text, &kind)).collect(),
            busy: busy.iter().map(|(value, text)| Choice::of(value, text, &when_busy)).collect(),
            form,
            review: None,
        }
    }

    /// With what would be sent where.
    #[must_use]
    pub fn reviewed(mut self, planned: &[Planned], sizes: &[usize], seal: String) -> Self {
        let batch_of =
            sizes.iter().enumerate().flat_map(|(number, size)| std::iter::repeat_n(number + 1, *size));
        let rows: Vec<Row> =
            planned.iter().zip(batch_of).take(REVIEWED).map(|(one, batch)| Row::new(one, batch)).collect();
        let named: Vec<String> = sizes.iter().take(10).map(ToString::to_string).collect();
        let more = if sizes.len() > named.len() { ", …" } else { "" };
        self.review = Some(Review {
            seal,
            total: planned.len(),
            impossible: planned.iter().filter(|one| one.plan.is_err()).count(),
            batches: (sizes.len() > 1).then(|| format!("{}{more}", named.join(", then "))),
            left_out: planned.len() - rows.len(),
            rows,
        });
        self
    }
}

impl Row {
    fn new(planned: &Planned, batch: usize) -> Self {
        let command = planned.plan.as_ref().ok().map(|plan| crate::actions::mask(&plan.command));
        Self {
            batch,
            id: planned.server.to_string(),
            name: planned.name.clone(),
            command: command.as_deref().map(super::remote::exact),
            error: planned.plan.as_ref().err().map(|why| view::clean(why, view::TEXT_CHARS)),
        }
    }
}
