//! Which servers are meant: the words of a selector as a form asks for them. Whether they mean anything is the fleet's business.

use std::collections::BTreeSet;

use askama::Template;
use askama::filters::HtmlSafe;

use super::form::Field;
use super::operation_form::OperationForm;
use super::{Choice, capital};
use crate::fleet::{GroupView, ServerState};
use crate::model::{Health, Status};

/// Regions and environments that can be ticked; more belong into groups and tags.
const WORDS: usize = 60;

/// A check box, with the colour of its group.
#[derive(Debug, Clone)]
struct Pick {
    value: String,
    title: String,
    tone: &'static str,
    is_chosen: bool,
}

/// The fields of the step "Which servers", and of a task.
#[derive(Debug, Clone, Template)]
#[template(path = "partials/operation_where.html")]
pub struct WhereForm {
    servers: String,
    groups: Vec<Pick>,
    /// Heading, field name, and the words; none where there is no word.
    words: Vec<(&'static str, &'static str, Vec<Pick>)>,
    fields: Vec<Field>,
    is_all: bool,
}

// askama wrote it and escaped what is in it.
impl HtmlSafe for WhereForm {}

impl WhereForm {
    /// `servers` are all that there are.
    #[must_use]
    pub fn new(form: &OperationForm, servers: &[ServerState], groups: &[GroupView]) -> Self {
        let region = |state: &ServerState| state.server.region.clone();
        let environment = |state: &ServerState| state.server.environment.clone();
        let chosen_health = form.all("health");
        let health = Health::ALL.iter().map(|option| Pick {
            value: option.name().to_owned(),
            title: capital(option.name()),
            tone: "",
            is_chosen: chosen_health.iter().any(|word| word == option.name()),
        });
        let words = vec![
            ("In one of these regions", "region", words(servers, region, &form.all("region"))),
            (
                "In one of these environments",
                "environment",
                words(servers, environment, &form.all("environment")),
            ),
            ("In one of these states of health", "health", health.collect()),
        ];
        let status = form.text("status");
        let statuses = Status::ALL.iter().map(|one| Choice::of(one.name(), &capital(one.name()), status));
        Self {
            servers: form.text("server").to_owned(),
            groups: group_picks(groups, &form.all("group")),
            words: words.into_iter().filter(|(_, _, picks)| !picks.is_empty()).collect(),
            fields: vec![
                Field::line("tag", "All of these tags", form.text("tag"), 1000).placeholder("web, eu"),
                Field::choice(
                    "status",
                    "Status",
                    std::iter::once(Choice::of("", "Any", status)).chain(statuses).collect(),
                ),
            ],
            is_all: form.text("all") == "true",
        }
    }
}

fn group_picks(groups: &[GroupView], chosen: &[String]) -> Vec<Pick> {
    let is_it =
        |view: &GroupView, word: &str| view.group.name.as_str() == word || view.group.id.to_string() == word;
    let mut picks: Vec<Pick> = groups
        .iter()
        .map(|view| Pick {
            value: view.group.name.to_string(),
            title: format!("{} ({})", view.group.name, view.summary.total_servers),
            tone: view.group.colour.name(),
            is_chosen: chosen.iter().any(|word| is_it(view, word)),
        })
        .collect();
    // One that is gone can still be taken away.
    let gone = chosen.iter().filter(|word| !groups.iter().any(|view| is_it(view, word)));
    picks.extend(gone.map(|word| Pick {
        value: word.clone(),
        title: word.clone(),
        tone: "grey",
        is_chosen: true,
    }));
    picks
}

/// Each word once, and what was chosen even if no server has it.
fn words(
    servers: &[ServerState],
    of: impl Fn(&ServerState) -> Option<String>,
    chosen: &[String],
) -> Vec<Pick> {
    let found = servers.iter().filter_map(of).collect::<BTreeSet<_>>();
    let rest = found.into_iter().filter(|word| !chosen.contains(word)).take(WORDS);
    let all: BTreeSet<String> = chosen.iter().cloned().chain(rest).collect();
    let pick =
        |word: String| Pick { is_chosen: chosen.contains(&word), title: word.clone(), value: word, tone: "" };
    all.into_iter().map(pick).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::pages::samples::small_fleet;

    #[test]
    fn several_regions_can_be_meant_and_what_is_gone_can_be_taken_away() {
        let pairs = [("region", "nowhere"), ("group", "old"), ("health", "degraded"), ("status", "inactive")];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let html = WhereForm::new(&OperationForm::of(pairs), &small_fleet(), &[]).to_string();
        for (name, value) in [("region", "nowhere"), ("group", "old"), ("health", "degraded")] {
            assert!(html.contains(&format!("name=\"{name}\" value=\"{value}\" checked")), "{name}: {html}");
        }
        assert!(html.contains("value=\"inactive\" selected"));
        let known = small_fleet().iter().find_map(|state| state.server.region.clone()).unwrap();
        assert!(html.contains(&format!("name=\"region\" value=\"{known}\"")), "{html}");
    }
}
