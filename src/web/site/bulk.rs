//! The bulk bar: what is to be done to the chosen servers, the confirmation, and the doing.

use std::collections::BTreeMap;

use http::StatusCode;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::pages::bulk::{BulkPage, Deed, Sent};
use super::super::request::{Access, Request};
use super::super::routes::{Route, see_other};
use super::acting::impediment;
use super::groups::all_of;
use super::{doors, show, tags, viewer};
use crate::actions::Action;
use crate::fleet::{BulkChange, BulkOutcome, ServerState};
use crate::model::{Role, Selector, ServiceVerb, Status};
use crate::operations::NewOperation;
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::post("/servers/bulk", Access::OPERATOR, confirm),
        Route::post("/servers/bulk/apply", Access::OPERATOR, apply),
    ]
}

/// What the form says.
struct Wanted {
    deed: Deed,
    servers: Vec<String>,
    pairs: Vec<(String, String)>,
}

impl Wanted {
    fn of(request: &Request) -> Result<Self, Failure> {
        let pairs = request.form()?.pairs();
        let word = all_of(&pairs, "do").pop().unwrap_or_default();
        let deed = Deed::ALL.into_iter().find(|deed| deed.name() == word);
        let deed = deed.ok_or_else(|| Failure::invalid("say what is to be done to the chosen servers"))?;
        let servers = all_of(&pairs, "server");
        if servers.is_empty() {
            return Err(Failure::invalid("no server was chosen; go back and tick some"));
        }
        if !deed.acts() {
            crate::auth::require(request.caller()?, Role::Admin)?;
        }
        Ok(Self { deed, servers, pairs })
    }

    fn text(&self, name: &str) -> String {
        all_of(&self.pairs, name).pop().unwrap_or_default().replace("\r\n", "\n")
    }

    /// What is to be sent. None: it was not said yet, or is not sent at all.
    fn action(&self) -> Result<Option<Action>, Failure> {
        let (command, service) = (self.text("command"), self.text("service"));
        Ok(match self.deed {
            Deed::Run if !command.trim().is_empty() => Some(Action::run_command(&command, false, None)?),
            Deed::Restart if !service.trim().is_empty() => {
                Some(Action::service(service.trim(), ServiceVerb::Restart)?)
            }
            _ => None,
        })
    }

    fn adds(&self) -> bool {
        self.text("how") != "remove"
    }
}

/// The chosen servers with what stands in the way of acting on them.
fn targets(
    request: &Request,
    services: &Services,
    wanted: &Wanted,
) -> Result<Vec<(ServerState, Option<String>)>, Failure> {
    let caller = request.caller()?;
    let states = services.fleet.select(caller, &Selector::of_servers(wanted.servers.clone()))?;
    let with_reason = |state: ServerState| {
        let reason = if wanted.deed.acts() { impediment(services, caller, &state) } else { None };
        (state, reason)
    };
    Ok(states.into_iter().map(with_reason).collect())
}

/// Equal commands together, with the servers that get them.
fn sent(
    request: &Request,
    services: &Services,
    action: Action,
    servers: &[String],
) -> Result<Vec<Sent>, Failure> {
    let new = NewOperation { action, servers: servers.to_vec() };
    let mut together: BTreeMap<(bool, String), Vec<String>> = BTreeMap::new();
    for planned in services.operations.plan(request.caller()?, &new)? {
        let key = match planned.plan {
            Ok(plan) => (false, plan.command),
            Err(reason) => (true, doors::sentence(&reason)),
        };
        together.entry(key).or_default().push(planned.name.to_string());
    }
    let parts = together.into_iter().map(|((is_reason, text), servers)| Sent {
        command: if is_reason { Err(text) } else { Ok(text) },
        servers,
    });
    Ok(parts.collect())
}

async fn confirm(request: Request, services: Services) -> Result<Response, Failure> {
    let wanted = Wanted::of(&request)?;
    let targets = targets(&request, &services, &wanted)?;
    let mut page = BulkPage::new(&viewer(&request)?, wanted.deed, &targets, services.clock.now());
    if wanted.deed == Deed::Group {
        let groups = services.fleet.groups(request.caller()?)?;
        let by_hand = groups.iter().filter(|view| view.group.filter.is_none());
        page = page.with_groups(by_hand.map(|view| view.group.name.to_string()));
    }
    if let Some(action) = wanted.action()? {
        let sent = sent(&request, &services, action, &wanted.servers)?;
        let said = ["command", "service"].map(|name| (name.to_owned(), wanted.text(name)));
        page = page.review(said.into_iter().filter(|(_, value)| !value.is_empty()).collect(), sent);
    }
    show(StatusCode::OK, &page)
}

async fn apply(request: Request, services: Services) -> Result<Response, Failure> {
    let wanted = Wanted::of(&request)?;
    let (caller, fleet) = (request.caller()?, &services.fleet);
    let change = match wanted.deed {
        Deed::Run | Deed::Restart => {
            let action = wanted.action()?.ok_or_else(|| Failure::invalid("there is nothing to run"))?;
            let new = NewOperation { action, servers: wanted.servers };
            let view = services.operations.begin(caller, new).await?;
            return Ok(see_other(&format!("/operations/{}", view.operation.id)));
        }
        Deed::Group => {
            let group = wanted.text("group");
            if wanted.adds() {
                fleet.add_to_group(caller, &group, &wanted.servers).await?;
            } else {
                fleet.remove_from_group(caller, &group, &wanted.servers).await?;
            }
            return Ok(see_other(&format!("/groups/{group}?done=grouped")));
        }
        Deed::Tag if wanted.adds() => BulkChange::AddTags(tags(&wanted.text("tags"))),
        Deed::Tag => BulkChange::RemoveTags(tags(&wanted.text("tags"))),
        Deed::Maintenance => BulkChange::Status(Status::Maintenance),
        Deed::Active => BulkChange::Status(Status::Active),
        Deed::Remove => {
            if wanted.text("confirm").trim() != wanted.servers.len().to_string() {
                let count = wanted.servers.len();
                return Err(Failure::invalid(format!("type {count} to confirm; nothing was removed")));
            }
            BulkChange::Remove
        }
    };
    let failed = failures(fleet.change_many(caller, &wanted.servers, &change).await?);
    if failed.is_empty() {
        return Ok(see_other("/?done=changed"));
    }
    let page = BulkPage::new(&viewer(&request)?, wanted.deed, &[], services.clock.now());
    show(StatusCode::CONFLICT, &page.with_failed(failed))
}

fn failures(outcomes: Vec<BulkOutcome>) -> Vec<(String, String)> {
    let failed = |outcome: BulkOutcome| {
        let error = outcome.result.err()?;
        Some((outcome.server.to_string(), super::super::error::problem(&error.into()).detail))
    };
    outcomes.into_iter().filter_map(failed).collect()
}
