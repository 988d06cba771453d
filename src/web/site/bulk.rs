//! The bulk bar: what is to be changed of the chosen servers, the confirmation, and the change. What is sent to servers
//! begins as an operation (`operation_new`).

use http::StatusCode;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::pages::bulk::{BulkPage, Deed};
use super::super::request::{Access, Request};
use super::super::routes::{Route, see_other};
use super::groups::all_of;
use super::{show, tags, viewer};
use crate::fleet::{BulkChange, BulkOutcome};
use crate::model::{Selector, Status};
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    vec![
        Route::post("/servers/bulk", Access::ADMIN, confirm),
        Route::post("/servers/bulk/apply", Access::ADMIN, apply),
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
        Ok(Self { deed, servers, pairs })
    }

    fn text(&self, name: &str) -> String {
        all_of(&self.pairs, name).pop().unwrap_or_default().replace("\r\n", "\n")
    }

    fn adds(&self) -> bool {
        self.text("how") != "remove"
    }
}

async fn confirm(request: Request, services: Services) -> Result<Response, Failure> {
    let wanted = Wanted::of(&request)?;
    let selector = Selector::of_servers(wanted.servers.clone());
    let targets = services.fleet.select(request.caller()?, &selector)?;
    let mut page = BulkPage::new(&viewer(&request)?, wanted.deed, &targets, services.clock.now());
    if wanted.deed == Deed::Group {
        let groups = services.fleet.groups(request.caller()?)?;
        let by_hand = groups.iter().filter(|view| view.group.filter.is_none());
        page = page.with_groups(by_hand.map(|view| view.group.name.to_string()));
    }
    show(StatusCode::OK, &page)
}

async fn apply(request: Request, services: Services) -> Result<Response, Failure> {
    let wanted = Wanted::of(&request)?;
    let (caller, fleet) = (request.caller()?, &services.fleet);
    let change = match wanted.deed {
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
