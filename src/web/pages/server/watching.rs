//! The form that watches a service by its processes, on the page of services.

use crate::fleet::ServerState;
use crate::model::WatchedService;
use crate::web::view;

use super::super::form::{Field, FieldProblem};

const COMMAND_CHARS: u32 = 16 * 1024;
const LIST_CHARS: u32 = 4096;

/// What the form said.
#[derive(Debug, Clone, Default)]
pub struct WatchForm {
    /// The name of the one that is edited. None: a new one.
    pub edited: Option<String>,
    pub name: String,
    /// Separated by line breaks.
    pub keywords: String,
    pub description: String,
    pub start_command: String,
    pub stop_command: String,
    pub sudo: bool,
    pub tags: String,
    pub groups: String,
    pub problems: Vec<FieldProblem>,
}

impl WatchForm {
    /// The form of one that is watched already.
    #[must_use]
    pub fn of(watched: &WatchedService) -> Self {
        Self {
            edited: Some(watched.name.clone()),
            name: watched.name.clone(),
            keywords: watched.keywords.join("\n"),
            description: watched.description.clone(),
            start_command: watched.start_command.clone().unwrap_or_default(),
            stop_command: watched.stop_command.clone().unwrap_or_default(),
            sudo: watched.sudo,
            tags: watched.selector.tags.join(", "),
            groups: watched.selector.groups.join(", "),
            problems: Vec::new(),
        }
    }
}

/// The form as the page shows it.
#[derive(Debug, Clone)]
pub(super) struct WatchPart {
    /// The name of the one that is edited.
    pub(super) edited: Option<String>,
    /// Name and keywords.
    pub(super) here: Vec<(String, String)>,
    pub(super) name: Field,
    pub(super) keywords: Field,
    pub(super) description: Field,
    pub(super) start: Field,
    pub(super) stop: Field,
    pub(super) choices: Vec<Field>,
    pub(super) sudo: bool,
    pub(super) is_wrong: bool,
}

impl WatchPart {
    pub(super) fn new(state: &ServerState, form: &WatchForm) -> Self {
        let judged = |field: Field| field.judged(&form.problems);
        let here =
            state.watched.iter().map(|one| (one.name.clone(), view::clean(&one.keywords.join(" "), 120)));
        Self {
            edited: form.edited.clone(),
            here: here.collect(),
            name: judged(Field::line("name", "Name", &form.name, 64).placeholder("trading-bot").required()),
            keywords: judged(
                Field::lines("keywords", "Keywords", &form.keywords, LIST_CHARS)
                    .placeholder("bot.py")
                    .hint("One a line; all stand in the command line. None: the program is called as the service is."),
            ),
            description: judged(Field::line("description", "Description", &form.description, 500)),
            start: judged(
                Field::lines("start_command", "Start with", &form.start_command, COMMAND_CHARS)
                    .placeholder("cd /opt/bot && setsid nohup ./bot.py >>bot.log 2>&1 </dev/null &")
                    .hint("Has to return: what stays in the foreground is ended after a minute."),
            ),
            stop: judged(
                Field::lines("stop_command", "Stop with", &form.stop_command, COMMAND_CHARS)
                    .placeholder("pkill -f /opt/bot/bot.py"),
            ),
            choices: vec![
                judged(
                    Field::line("tags", "Servers with these tags", &form.tags, LIST_CHARS)
                        .hint("All of them, separated by commas."),
                ),
                judged(Field::line("groups", "Servers of these groups", &form.groups, LIST_CHARS).hint("Separated by commas.")),
            ],
            sudo: form.sudo,
            is_wrong: !form.problems.is_empty(),
        }
    }
}
