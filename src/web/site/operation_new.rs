//! Begins an operation from a page: one form in steps, what would be sent, and the button.

use http::StatusCode;
use sha2::{Digest as _, Sha256};
use warp::reply::Response;

use super::super::error::{Failure, problem};
use super::super::pages::Notice;
use super::super::pages::form::FieldProblem;
use super::super::pages::operation_form::{OperationForm, Step};
use super::super::pages::operation_kinds::{Kind, offered_as};
use super::super::pages::operation_new::{NewOperationPage, Preview, phrase};
use super::super::pages::operation_where::WhereForm;
use super::super::request::{Access, Request};
use super::super::routes::{Route, see_other};
use super::{acting::impediment, doors, show, tags, viewer};
use crate::actions::{Action, ActionError};
use crate::fleet::{ServerFilter, ServerState};
use crate::model::{Caller, InvalidServer, Selector};
use crate::operations::{
    InvalidStrategy, OperationError, Order, Planned, Strategy, TARGETS, batch_sizes, parse_batches,
};
use crate::services::Services;

/// A file of the largest size in Base64, a command, and the names of a fleet.
const FORM_BYTES: usize = 2 * 1024 * 1024;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::get("/operations/new", Access::OPERATOR, begun_with),
        Route::get("/operations/review", Access::OPERATOR, anew),
        Route::post("/operations/review", Access::OPERATOR, review).body_limit(FORM_BYTES),
        Route::post("/operations/new", Access::OPERATOR, begin).body_limit(FORM_BYTES),
    ]
}

/// What does not hold of a step, for the form.
#[derive(Debug, Clone)]
pub(super) struct Wrong {
    status: StatusCode,
    /// Empty: no field of its own.
    field: String,
    sentence: String,
}

impl Wrong {
    fn missing(sentence: &str) -> Self {
        Self { status: StatusCode::UNPROCESSABLE_ENTITY, field: String::new(), sentence: sentence.to_owned() }
    }

    fn of_field(field: &str, why: String) -> Self {
        let sentence = doors::sentence(&why);
        Self { status: StatusCode::UNPROCESSABLE_ENTITY, field: field.to_owned(), sentence }
    }

    fn notice(&self) -> Notice {
        Notice::problem(self.sentence.clone())
    }

    fn field_problem(&self) -> FieldProblem {
        FieldProblem { field: self.field.clone(), sentence: self.sentence.clone() }
    }
}

impl From<Wrong> for Failure {
    fn from(wrong: Wrong) -> Self {
        Self::Field { field: wrong.field, message: wrong.sentence }
    }
}

impl From<OperationError> for Wrong {
    fn from(error: OperationError) -> Self {
        let field = match &error {
            OperationError::Action(ActionError::Invalid { field, .. })
            | OperationError::Strategy(InvalidStrategy { field, .. }) => *field,
            _ => "",
        };
        let field = field.to_owned();
        let problem = problem(&error.into());
        Self { status: problem.status, field, sentence: doors::sentence(&problem.detail) }
    }
}

/// What a form says, each step for itself.
struct Draft {
    form: OperationForm,
    kind: Result<&'static Kind, Wrong>,
    servers: Result<(Selector, Vec<ServerState>), Wrong>,
    action: Result<Action, Wrong>,
    strategy: Result<Strategy, Wrong>,
}

impl Draft {
    fn of(caller: &Caller, services: &Services, form: OperationForm) -> Self {
        let word = form.text("operation_type");
        let kind = offered_as(caller.role, word);
        let kind = kind.ok_or_else(|| Wrong::missing("Choose what is to be done."));
        let action = kind.clone().and_then(|kind| {
            let action = Action::parse(kind.word, |name| form.parameter(kind, name));
            action.map_err(|error| OperationError::from(error).into())
        });
        Self { kind, servers: servers(caller, services, &form), action, strategy: strategy(&form), form }
    }

    fn secret_names(&self) -> Vec<&str> {
        self.kind.as_ref().map_or_else(|_| Vec::new(), |kind| self.form.secret_names(kind))
    }

    /// It is begun only after the servers were typed.
    fn is_dangerous(&self) -> bool {
        let only_looks = self.action.as_ref().is_ok_and(Action::only_looks);
        self.kind.as_ref().is_ok_and(|kind| kind.is_dangerous) && !only_looks
    }

    /// Why this step cannot be left. None: it holds.
    fn wrong(&self, step: Step) -> Option<&Wrong> {
        match step {
            Step::Action => self.kind.as_ref().err(),
            Step::Targets => self.servers.as_ref().err(),
            Step::Parameters => self.action.as_ref().err(),
            Step::Strategy => self.strategy.as_ref().err(),
            Step::Confirm => None,
        }
    }

    /// The first step before this one that does not hold.
    fn stop_before(&self, wanted: Step) -> Option<(Step, &Wrong)> {
        let before = Step::ALL.into_iter().take_while(|step| *step < wanted);
        before.into_iter().find_map(|step| Some((step, self.wrong(step)?)))
    }

    /// None: a step does not hold.
    fn order(&self) -> Option<Order> {
        let (selector, _) = self.servers.as_ref().ok()?;
        Some(Order {
            action: self.action.as_ref().ok()?.clone(),
            selector: selector.clone(),
            strategy: self.strategy.as_ref().ok()?.clone(),
            retry_of: None,
        })
    }
}

/// Which servers are meant, as the form says it.
pub(super) fn selector(form: &OperationForm) -> Result<Selector, Wrong> {
    let invalid = |error: InvalidServer| Wrong::of_field("", error.to_string());
    let listed = |name: &str| form.all(name).iter().flat_map(|text| tags(text)).collect::<Vec<_>>();
    let health =
        listed("health").iter().map(|word| word.parse().map_err(invalid)).collect::<Result<_, _>>()?;
    Ok(Selector {
        all: form.text("all") == "true",
        servers: listed("server"),
        groups: listed("group"),
        tags: listed("tag"),
        regions: form.all("region"),
        environments: form.all("environment"),
        health,
        status: Some(form.text("status"))
            .filter(|word| !word.is_empty())
            .map(|word| word.parse().map_err(invalid))
            .transpose()?,
    })
}

fn servers(
    caller: &Caller,
    services: &Services,
    form: &OperationForm,
) -> Result<(Selector, Vec<ServerState>), Wrong> {
    let selector = selector(form)?;
    if selector.is_empty() {
        return Err(Wrong::missing("Say which servers: by name, by what they are, or every one."));
    }
    let states = services.fleet.select(caller, &selector).map_err(OperationError::from)?;
    match states.len() {
        0 => Err(OperationError::NoneFits.into()),
        count if count > TARGETS => Err(OperationError::TooManyTargets.into()),
        _ => Ok((selector, states)),
    }
}

/// How it goes over them, as the form says it.
pub(super) fn strategy(form: &OperationForm) -> Result<Strategy, Wrong> {
    let filled = |name: &str| Some(form.text(name)).filter(|text| !text.is_empty());
    let number = |name: &str| {
        let parsed = |text: &str| text.parse::<u32>().map_err(|_| format!("'{text}' is not a number"));
        filled(name).map(parsed).transpose().map_err(|why| Wrong::of_field(name, why))
    };
    let strategy = Strategy {
        parallelism: number("parallelism")?,
        batches: parse_batches(form.text("batches")).map_err(|why| Wrong::of_field("batches", why))?,
        pause_s: number("pause_s")?.unwrap_or(0).into(),
        max_failures: filled("max_failures")
            .map(|text| text.parse().map_err(|why| Wrong::of_field("max_failures", why)))
            .transpose()?,
        health_gate_s: number("health_gate_s")?.map(u64::from),
        when_busy: filled("when_busy")
            .map(|word| serde_json::from_value(word.into()))
            .transpose()
            .map_err(|_| Wrong::of_field("when_busy", "use share, queue or refuse".to_owned()))?,
        by_dependencies: form.text("by_dependencies") == "true",
    };
    strategy.check().map_err(OperationError::from)?;
    Ok(strategy)
}

/// What was looked at: the order and the commands on their servers. Anything that changes since makes another.
fn seal(order: &Order, planned: &[Planned]) -> String {
    let mut hash = Sha256::new();
    let parts = planned.iter().map(|one| {
        let what = one.plan.as_ref().map_or_else(Clone::clone, |plan| plan.command.clone());
        format!("{}\0{what}\0", one.server)
    });
    hash.update(format!("{:?}\0{:?}\0", order.action, order.strategy));
    parts.for_each(|part| hash.update(part));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The servers with what stands in the way of acting on each.
fn preview(caller: &Caller, services: &Services, states: &[ServerState]) -> Preview {
    let with_reason = |state: &ServerState| (state.clone(), impediment(services, caller, state));
    Preview::of(&states.iter().map(with_reason).collect::<Vec<_>>())
}

/// The page of one step; `wrong` is why the way does not lead further.
fn page(
    request: &Request,
    services: &Services,
    draft: &Draft,
    step: Step,
    wrong: Option<&Wrong>,
) -> Result<NewOperationPage, Failure> {
    let caller = request.caller()?;
    let (form, kind) = (&draft.form, draft.kind.as_ref().ok().copied());
    let mut page = NewOperationPage::new(&viewer(request)?, step, form, kind, services.clock.now());
    if let Ok(action) = &draft.action {
        page = page.titled(&crate::actions::mask(&action.title()));
    }
    let problems: Vec<FieldProblem> = wrong.map(Wrong::field_problem).into_iter().collect();
    let mut is_told = false;
    if step == Step::Targets {
        let all = services.fleet.list(caller, &ServerFilter::default())?;
        page = page.asking_where(WhereForm::new(form, &all, &services.fleet.groups(caller)?));
    }
    page = match (&draft.servers, step, wrong) {
        (Ok((_, states)), ..) => page.with_preview(preview(caller, services, states)),
        (Err(_), Step::Targets, Some(wrong)) => {
            is_told = true;
            page.with_preview(Preview::refused(wrong.sentence.clone()))
        }
        (Err(_), Step::Targets, None) => page.with_preview(Preview::of(&[])),
        (Err(_), ..) => page,
    };
    if let (Step::Parameters, Some(kind)) = (step, kind) {
        is_told |= kind.parameters.iter().any(|asked| problems.iter().any(|one| one.field == asked.name));
        page = page.asking_details(form, kind, &problems);
    }
    if step == Step::Strategy {
        is_told |= problems.iter().any(|problem| !problem.field.is_empty());
        page = page.asking_how(form, &problems);
    }
    page.chrome.notice = wrong.filter(|_| !is_told).map(Wrong::notice);
    Ok(page)
}

/// The form from an address: at the first thing that it does not say.
async fn begun_with(request: Request, services: Services) -> Result<Response, Failure> {
    let draft = Draft::of(request.caller()?, &services, OperationForm::of(request.query.clone()));
    let asked = request.query("to").and_then(Step::parse).unwrap_or(Step::Parameters);
    let step = draft.stop_before(asked).map_or(asked, |(step, _)| step);
    if step == Step::Confirm {
        return confirm(&request, &services, &draft, None);
    }
    // A name that is not there is told; that nothing was said yet is no mistake.
    let is_named = selector(&draft.form).map_or(true, |selector| !selector.is_empty());
    let wrong = draft.wrong(step).filter(|_| step == Step::Targets && is_named);
    show(StatusCode::OK, &page(&request, &services, &draft, step, wrong)?)
}

/// Who reloads a step by its address begins anew: what was filled in is not in the address.
async fn anew(_: Request, _: Services) -> Result<Response, Failure> {
    Ok(see_other("/operations/new"))
}

async fn review(request: Request, services: Services) -> Result<Response, Failure> {
    let sent = request.form()?;
    let (preset, to) = (sent.text("preset").to_owned(), Step::parse(sent.text("to")));
    let to = to.or_else(|| request.query("to").and_then(Step::parse));
    let form = OperationForm::of(sent.pairs()).with_preset(&preset);
    let wanted = if preset.is_empty() { to.unwrap_or(Step::Confirm) } else { Step::Strategy };
    let draft = Draft::of(request.caller()?, &services, form);
    if let Some((step, wrong)) = draft.stop_before(wanted) {
        return show(wrong.status, &page(&request, &services, &draft, step, Some(wrong))?);
    }
    if wanted == Step::Confirm {
        return confirm(&request, &services, &draft, None);
    }
    // Looking which servers these are tells what is wrong with what was said about them, if anything was.
    let is_said = selector(&draft.form).map_or(true, |selector| !selector.is_empty());
    let wrong = draft.wrong(wanted).filter(|_| wanted == Step::Targets && is_said);
    show(StatusCode::OK, &page(&request, &services, &draft, wanted, wrong)?)
}

/// The last step; all before it hold.
fn confirm(
    request: &Request,
    services: &Services,
    draft: &Draft,
    wrong: Option<&Wrong>,
) -> Result<Response, Failure> {
    let order = draft.order().ok_or_else(|| Failure::invalid("the form does not say everything"))?;
    let planned = services.operations.plan_order(request.caller()?, &order)?;
    let sizes = batch_sizes(&planned);
    let secrets = draft.secret_names();
    let page = page(request, services, draft, Step::Confirm, wrong)?;
    let page = page.reviewed(&planned, &sizes, seal(&order, &planned), draft.is_dangerous(), &secrets);
    show(wrong.map_or(StatusCode::OK, |wrong| wrong.status), &page)
}

async fn begin(request: Request, services: Services) -> Result<Response, Failure> {
    let caller = request.caller()?;
    let sent = request.form()?;
    let (sealed, typed) = (sent.text("seal").to_owned(), sent.text("confirm").trim().to_owned());
    let draft = Draft::of(caller, &services, OperationForm::of(sent.pairs()));
    if let Some((step, wrong)) = draft.stop_before(Step::Confirm) {
        return show(wrong.status, &page(&request, &services, &draft, step, Some(wrong))?);
    }
    let order = draft.order().ok_or_else(|| Failure::invalid("the form does not say everything"))?;
    let planned = services.operations.plan_order(caller, &order)?;
    let refused = |status, sentence: String| {
        confirm(&request, &services, &draft, Some(&Wrong { status, field: String::new(), sentence }))
    };
    if sealed != seal(&order, &planned) {
        let why =
            "This is not what was shown: the form or the servers changed. Look again; nothing was sent.";
        return refused(StatusCode::CONFLICT, why.to_owned());
    }
    if let Some(name) = draft.secret_names().into_iter().find(|name| draft.form.secret(name).is_none()) {
        let why = format!("Give the value of the secret variable {name}; nothing was sent.");
        return refused(StatusCode::UNPROCESSABLE_ENTITY, why);
    }
    let expected = phrase(&planned);
    if draft.is_dangerous() && typed != expected {
        let why = format!("Type {expected} to confirm; nothing was sent.");
        return refused(StatusCode::UNPROCESSABLE_ENTITY, why);
    }
    match services.operations.begin(caller, order).await {
        Ok(view) => Ok(see_other(&format!("/operations/{}", view.operation.id))),
        Err(error) => {
            let wrong = Wrong::from(error);
            confirm(&request, &services, &draft, Some(&wrong))
        }
    }
}
