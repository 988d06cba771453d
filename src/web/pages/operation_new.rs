//! A new operation, step by step: what, on which servers, with what, how; then exactly what would be sent, and the button that
//! begins it. Works without scripts; whatever was filled in goes along in both directions.

use askama::Template;

use super::form::{Field, FieldProblem};
use super::operation_form::{OperationForm, PRESETS, Preset, Step};
use super::operation_kinds::{Kind, offered};
use super::operation_parameters::Parameter;
use super::operation_where::WhereForm;
use super::{Badge, Choice, Chrome, Section, Viewer, capital};
use crate::fleet::ServerState;
use crate::model::Timestamp;
use crate::operations::Planned;
use crate::web::view;

/// Servers that a preview or the review names one by one; more are counted.
const NAMED: usize = 500;
/// Different commands that the review shows; with a template each server has its own.
const COMMANDS: usize = 50;
/// Servers that stand beside one command.
const BESIDE: usize = 12;
/// Sizes of batches that are told.
const SIZES: usize = 10;

/// `GET /operations/new` and `POST /operations/review`.
#[derive(Debug, Clone, Template)]
#[template(path = "pages/operation_new.html")]
pub struct NewOperationPage {
    pub chrome: Chrome,
    steps: Vec<StepView>,
    /// The step that is shown.
    at: &'static str,
    number: usize,
    title: &'static str,
    back: Option<&'static str>,
    next: Option<&'static str>,
    hidden: Vec<(String, String)>,
    /// What is settled already, in words.
    said: Vec<(&'static str, String)>,
    families: Vec<Family>,
    where_form: Option<WhereForm>,
    preview: Option<Preview>,
    fields: Vec<Field>,
    /// Below a fold; open where something was said in them.
    more: Vec<Field>,
    more_is_open: bool,
    presets: Vec<Preset>,
    review: Option<Review>,
}

#[derive(Debug, Clone)]
struct StepView {
    number: usize,
    name: &'static str,
    title: &'static str,
    is_current: bool,
    is_past: bool,
}

/// Kinds of actions under one heading.
#[derive(Debug, Clone)]
struct Family {
    title: &'static str,
    kinds: Vec<KindView>,
}

#[derive(Debug, Clone)]
struct KindView {
    word: &'static str,
    title: &'static str,
    about: &'static str,
    is_chosen: bool,
}

/// The servers that are meant now.
#[derive(Debug, Clone, Template)]
#[template(path = "partials/operation_preview.html")]
pub struct Preview {
    total: usize,
    impeded: usize,
    rows: Vec<PreviewRow>,
    left_out: usize,
    /// Why no server can be told.
    problem: Option<String>,
}

// askama wrote it and escaped what is in it.
impl askama::filters::HtmlSafe for Preview {}

#[derive(Debug, Clone)]
struct PreviewRow {
    name: String,
    address: String,
    badge: Badge,
    impediment: Option<String>,
}

#[derive(Debug, Clone)]
struct Review {
    /// What was looked at; what is begun must be the same.
    seal: String,
    total: usize,
    impossible: usize,
    /// "1, then 4, then 5", where there are several.
    batches: Option<String>,
    commands: Vec<Together>,
    commands_left_out: usize,
    rows: Vec<Row>,
    left_out: usize,
    /// What is to be typed before it can be begun: the name of the server, or how many they are.
    phrase: Option<String>,
    /// Names of variables whose values are asked for here.
    secrets: Vec<String>,
}

/// Servers that get the same, or nothing for the same reason.
#[derive(Debug, Clone)]
struct Together {
    command: Option<String>,
    reason: Option<String>,
    count: usize,
    names: String,
}

#[derive(Debug, Clone)]
struct Row {
    batch: u32,
    name: String,
    is_possible: bool,
}

/// What is to be typed before something dangerous is begun.
#[must_use]
pub fn phrase(planned: &[Planned]) -> String {
    match planned {
        [one] => one.name.clone(),
        several => several.len().to_string(),
    }
}

impl Preview {
    /// `servers` each with what stands in the way of acting on it.
    #[must_use]
    pub fn of(servers: &[(ServerState, Option<String>)]) -> Self {
        let row = |(state, impediment): &(ServerState, Option<String>)| PreviewRow {
            name: state.server.name.to_string(),
            address: view::clean(&super::fleet::address(state), view::CELL_CHARS),
            badge: Badge::health(state.health),
            impediment: impediment.clone(),
        };
        Self {
            total: servers.len(),
            impeded: servers.iter().filter(|(_, impediment)| impediment.is_some()).count(),
            rows: servers.iter().take(NAMED).map(row).collect(),
            left_out: servers.len().saturating_sub(NAMED),
            problem: None,
        }
    }

    #[must_use]
    pub const fn refused(why: String) -> Self {
        Self { total: 0, impeded: 0, rows: Vec::new(), left_out: 0, problem: Some(why) }
    }
}

impl NewOperationPage {
    /// A page of one step, with what was filled in and is not asked in it. The step's own part comes by the other functions.
    #[must_use]
    pub fn new(
        viewer: &Viewer,
        step: Step,
        form: &OperationForm,
        kind: Option<&Kind>,
        now: Timestamp,
    ) -> Self {
        let steps = (1..).zip(Step::ALL).map(|(number, one)| StepView {
            number,
            name: one.name(),
            title: one.title(),
            is_current: one == step,
            is_past: one < step,
        });
        let steps: Vec<StepView> = steps.collect();
        Self {
            chrome: Chrome::new("New operation", Section::Operations, None, viewer, now),
            number: steps.iter().find(|one| one.is_current).map_or(1, |one| one.number),
            steps,
            at: step.name(),
            title: step.title(),
            back: step.before().map(Step::name),
            next: step.after().map(Step::name),
            hidden: form.elsewhere(step, kind),
            said: kind.map(|kind| ("What", kind.title.to_owned())).into_iter().collect(),
            families: if step == Step::Action { families(viewer, form) } else { Vec::new() },
            where_form: None,
            preview: None,
            fields: Vec::new(),
            more: Vec::new(),
            more_is_open: false,
            presets: if step == Step::Strategy { PRESETS.to_vec() } else { Vec::new() },
            review: None,
        }
    }

    /// What is done in the action's own words.
    #[must_use]
    pub fn titled(mut self, title: &str) -> Self {
        self.said.retain(|(name, _)| *name != "What");
        self.said.insert(0, ("What", view::clean(title, view::CELL_CHARS)));
        self
    }

    /// Asks which servers.
    #[must_use]
    pub fn asking_where(mut self, form: WhereForm) -> Self {
        self.where_form = Some(form);
        self
    }

    /// With the servers that are meant.
    #[must_use]
    pub fn with_preview(mut self, preview: Preview) -> Self {
        let count = preview.total;
        // Where they are chosen, the number changes with every choice.
        if preview.problem.is_none() && self.where_form.is_none() {
            let noun = if count == 1 { "server" } else { "servers" };
            self.said.push(("Where", format!("{} {noun}", view::whole(count as u64))));
        }
        self.preview = Some(preview);
        self
    }

    /// Asks what this kind of action has to be told.
    #[must_use]
    pub fn asking_details(mut self, form: &OperationForm, kind: &Kind, problems: &[FieldProblem]) -> Self {
        let details = Details::of(form, kind.parameters.iter(), problems);
        (self.fields, self.more, self.more_is_open) = (details.fields, details.more, details.more_is_open);
        self
    }

    /// Asks how it goes over the servers.
    #[must_use]
    pub fn asking_how(mut self, form: &OperationForm, problems: &[FieldProblem]) -> Self {
        let fields = strategy_fields(form).into_iter().map(|field| field.judged(problems));
        self.fields = fields.collect();
        self
    }

    /// With what would be sent where.
    #[must_use]
    pub fn reviewed(
        mut self,
        planned: &[Planned],
        sizes: &[usize],
        seal: String,
        is_dangerous: bool,
        secrets: &[&str],
    ) -> Self {
        let row = |one: &Planned| Row {
            batch: one.batch + 1,
            name: one.name.clone(),
            is_possible: one.plan.is_ok(),
        };
        let rows: Vec<Row> = planned.iter().take(NAMED).map(row).collect();
        let mut commands = together(planned);
        let commands_left_out = commands.len().saturating_sub(COMMANDS);
        commands.truncate(COMMANDS);
        let named: Vec<String> = sizes.iter().take(SIZES).map(ToString::to_string).collect();
        let more = if sizes.len() > named.len() { ", …" } else { "" };
        self.review = Some(Review {
            seal,
            total: planned.len(),
            impossible: planned.iter().filter(|one| one.plan.is_err()).count(),
            batches: (sizes.len() > 1).then(|| format!("{}{more}", named.join(", then "))),
            commands,
            commands_left_out,
            left_out: planned.len() - rows.len(),
            rows,
            phrase: is_dangerous.then(|| phrase(planned)),
            secrets: secrets.iter().map(|name| (*name).to_owned()).collect(),
        });
        self
    }
}

/// What a kind of action asks, as it is typed.
#[derive(Debug, Clone, Default)]
pub(super) struct Details {
    pub(super) fields: Vec<Field>,
    /// Below a fold.
    pub(super) more: Vec<Field>,
    /// Something is said or wrong there.
    pub(super) more_is_open: bool,
}

impl Details {
    pub(super) fn of(
        form: &OperationForm,
        parameters: impl Iterator<Item = &'static Parameter>,
        problems: &[FieldProblem],
    ) -> Self {
        let mut details = Self::default();
        for one in parameters {
            let typed = form.typed(one.field_name);
            let field = one.asked(typed, problems);
            if one.is_more {
                details.more_is_open |=
                    !typed.is_empty() || problems.iter().any(|problem| problem.field == one.name);
                details.more.push(field);
            } else {
                details.fields.push(field);
            }
        }
        details
    }
}

fn families(viewer: &Viewer, form: &OperationForm) -> Vec<Family> {
    let chosen = form.text("operation_type");
    let mut families: Vec<Family> = Vec::new();
    for kind in offered(viewer.role) {
        let view = KindView {
            word: kind.word,
            title: kind.title,
            about: kind.about,
            is_chosen: kind.word == chosen,
        };
        match families.iter_mut().find(|family| family.title == kind.family) {
            Some(family) => family.kinds.push(view),
            None => families.push(Family { title: kind.family, kinds: vec![view] }),
        }
    }
    families
}

/// How it goes over its servers; names as [`crate::operations::Strategy`] has them.
pub(super) fn strategy_fields(form: &OperationForm) -> Vec<Field> {
    let busy = [
        ("", "As it is configured"),
        ("share", "Run beside it"),
        ("queue", "Wait until it has ended"),
        ("refuse", "Begin nothing"),
    ];
    let when_busy = form.text("when_busy");
    vec![
        Field::line("batches", "Batches", form.text("batches"), 200)
            .placeholder("1,10%,50%")
            .hint("Sizes, as numbers or percents; the last repeats. Empty: all at once."),
        Field::number("parallelism", "Servers at the same time", form.text("parallelism"), 1, 1000)
            .hint("Within a batch. Empty: as many as Roundsman runs."),
        Field::line("max_failures", "Stop after failures", form.text("max_failures"), 20)
            .placeholder("1 or 10%")
            .hint("Failed, unreachable or unknown; then nothing more is sent."),
        Field::number("pause_s", "Seconds between batches", form.text("pause_s"), 0, 43_200),
        Field::number("health_gate_s", "Seconds to become healthy", form.text("health_gate_s"), 1, 43_200)
            .hint("The next batch waits until the last one’s servers are healthy, at most so long."),
        Field::flag(
            "by_dependencies",
            "In the order of dependencies",
            form.text("by_dependencies") == "true",
        )
        .hint("What others need comes first; this makes the batches."),
        Field::choice(
            "when_busy",
            "Where another operation runs",
            busy.iter().map(|(value, text)| Choice::of(value, text, when_busy)).collect(),
        ),
    ]
}

/// Equal commands together with their servers, in the order in which they are first met; what cannot be done last.
fn together(planned: &[Planned]) -> Vec<Together> {
    let mut places: std::collections::HashMap<(bool, &str), usize> = std::collections::HashMap::new();
    let mut found: Vec<(Together, Vec<&str>)> = Vec::new();
    for one in planned {
        let key = match &one.plan {
            Ok(plan) => (true, plan.command.as_str()),
            Err(why) => (false, why.as_str()),
        };
        let place = *places.entry(key).or_insert_with(|| {
            let exact = |text: &str| super::remote::exact(&crate::actions::mask(text));
            let both = Together {
                command: one.plan.as_ref().ok().map(|plan| exact(&plan.command)),
                reason: one.plan.as_ref().err().map(|why| capital(&view::clean(why, view::TEXT_CHARS))),
                count: 0,
                names: String::new(),
            };
            found.push((both, Vec::new()));
            found.len() - 1
        });
        if let Some((both, names)) = found.get_mut(place) {
            both.count += 1;
            if names.len() < BESIDE {
                names.push(&one.name);
            }
        }
    }
    found.sort_by_key(|(both, _)| both.command.is_none());
    let named = |(mut both, names): (Together, Vec<&str>)| {
        let more = both.count - names.len();
        both.names = names.join(", ");
        if more > 0 {
            both.names.push_str(&format!(" and {more} more"));
        }
        both
    };
    found.into_iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actions::{Action, Surroundings};
    use crate::model::{Role, ServerId, ServiceManager};
    use crate::web::pages::operation_kinds::KINDS;
    use crate::web::pages::samples::{now, small_fleet, viewer};

    fn planned(names: &[&str], command: &str) -> Vec<Planned> {
        let around =
            Surroundings { service_manager: ServiceManager::Systemd, is_root: true, sudo_password: false };
        let plan = Action::run_command(command, false, None).unwrap().plan(around).unwrap();
        let one = |name: &&str| Planned {
            server: ServerId::new(uuid::Uuid::nil()),
            name: (*name).to_owned(),
            plan: Ok(plan.clone()),
            batch: 0,
        };
        names.iter().map(one).collect()
    }

    fn form(pairs: &[(&str, &str)]) -> OperationForm {
        OperationForm::of(
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        )
    }

    #[test]
    fn equal_commands_stand_together_and_what_cannot_be_done_comes_last() {
        let mut all = planned(&["a", "b"], "id");
        all.extend(planned(&["c"], "uptime"));
        let mut impossible = planned(&["d"], "id");
        impossible[0].plan = Err("it is inactive".to_owned());
        all.splice(0..0, impossible);
        let found = together(&all);
        let told: Vec<(Option<&str>, usize, &str)> =
            found.iter().map(|one| (one.command.as_deref(), one.count, one.names.as_str())).collect();
        assert_eq!(told, [(Some("id"), 2, "a, b"), (Some("uptime"), 1, "c"), (None, 1, "d")]);
        assert_eq!(found[2].reason.as_deref(), Some("It is inactive"));
    }

    #[test]
    fn what_is_dangerous_asks_for_the_name_or_the_number() {
        assert_eq!(phrase(&planned(&["web-1"], "id")), "web-1");
        assert_eq!(phrase(&planned(&["web-1", "web-2"], "id")), "2");
        let kind = KINDS.iter().find(|kind| kind.is_dangerous);
        let form = form(&[("operation_type", "stop_service"), ("service", "nginx")]);
        let page = NewOperationPage::new(&viewer(Role::Operator), Step::Confirm, &form, kind, now());
        let all = planned(&["web-1", "web-2"], "id");
        let asked =
            page.clone().reviewed(&all, &[2], "seal".to_owned(), true, &["API_KEY"]).render().unwrap();
        assert!(
            asked.contains("name=\"secret.API_KEY\"")
                && asked.contains("data-must-equal=\"2\"")
                && asked.contains("name=\"service\" value=\"nginx\"")
        );
        let harmless = page.reviewed(&all, &[2], "seal".to_owned(), false, &[]).render().unwrap();
        assert!(!harmless.contains("data-must-equal"));
    }

    #[test]
    fn a_page_of_ten_thousand_servers_stays_small() {
        let names: Vec<String> = (0..10_000).map(|number| format!("web-{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let page = NewOperationPage::new(&viewer(Role::Operator), Step::Confirm, &form(&[]), None, now());
        let html =
            page.reviewed(&planned(&names, "id"), &[10_000], "seal".to_owned(), false, &[]).render().unwrap();
        assert!(html.contains("9500 more") && html.len() < 200_000, "{}", html.len());
    }

    #[test]
    fn what_was_typed_is_text_on_every_step() {
        let hostile = "\"><script>alert(1)</script>";
        let form = form(&[
            ("operation_type", "run_command"),
            ("command", hostile),
            ("server", hostile),
            ("group", hostile),
            ("region", hostile),
            ("batches", hostile),
        ]);
        let kind = &KINDS[0];
        for step in Step::ALL {
            let page = NewOperationPage::new(&viewer(Role::Admin), step, &form, Some(kind), now())
                .titled(hostile)
                .asking_where(WhereForm::new(&form, &small_fleet(), &[]))
                .with_preview(Preview::refused(hostile.to_owned()))
                .asking_details(&form, kind, &[])
                .reviewed(&planned(&["a"], hostile), &[1], String::new(), true, &[hostile]);
            let html = page.render().unwrap();
            assert!(!html.contains("<script>alert") && html.contains("alert(1)"), "{step:?}");
        }
    }
}
