//! Which servers a query means, and `/api/v1/fleet/selection`: what would be touched, before anything is.

use super::super::error::Failure;
use super::super::request::Request;
use crate::fleet::{ServerFilter, ServerState};
use crate::model::{Health, Selector};
use crate::services::Services;

/// The filter that a query asks for.
pub(in crate::web) fn filter(request: &Request) -> Result<ServerFilter, Failure> {
    let text = |name: &str| request.query(name).filter(|text| !text.is_empty()).map(ToOwned::to_owned);
    let invalid = |error: crate::model::InvalidServer| Failure::invalid(error.to_string());
    let mut filter = ServerFilter {
        search: text("search"),
        region: text("region"),
        environment: text("environment"),
        health: text("health").map(|word| word.parse().map_err(invalid)).transpose()?,
        tags: request
            .query
            .iter()
            .filter(|(name, value)| matches!(name.as_str(), "tag" | "tags") && !value.is_empty())
            .flat_map(|(_, value)| value.split(',').map(|tag| tag.trim().to_owned()))
            .collect(),
        groups: request
            .query
            .iter()
            .filter(|(name, value)| name == "group" && !value.is_empty())
            .map(|(_, value)| value.clone())
            .collect(),
        status: None,
    };
    match text("status").as_deref() {
        None => {}
        // Older lists call the health of a server its status.
        Some("unreachable") => filter.health = Some(crate::model::Health::Unreachable),
        Some(word) => filter.status = Some(word.parse().map_err(invalid)?),
    }
    Ok(filter)
}

/// The words of a selector in a query: `server`, `group`, `tag` and `health`, each as often as is needed or with
/// commas, `region` and `environment` as often as is needed, `status`, and `all=true`.
pub(in crate::web) fn selector(request: &Request) -> Result<Selector, Failure> {
    // What is free text may hold a comma; a name cannot.
    let whole = |wanted: &str| -> Vec<String> {
        let given = request.query.iter().filter(|(name, value)| name == wanted && !value.trim().is_empty());
        given.map(|(_, value)| value.trim().to_owned()).collect()
    };
    let words = |names: &[&str]| -> Vec<String> {
        let given = request.query.iter().filter(|(name, _)| names.contains(&name.as_str()));
        given
            .flat_map(|(_, value)| value.split(','))
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .map(ToOwned::to_owned)
            .collect()
    };
    let invalid = |error: crate::model::InvalidServer| Failure::invalid(error.to_string());
    let mut health = words(&["health"])
        .iter()
        .map(|word| word.parse().map_err(invalid))
        .collect::<Result<Vec<Health>, Failure>>()?;
    let status = match request.query("status").unwrap_or_default() {
        "" => None,
        // Older lists call the health of a server its status.
        "unreachable" => {
            health.push(Health::Unreachable);
            None
        }
        word => Some(word.parse().map_err(invalid)?),
    };
    Ok(Selector {
        all: request.query("all") == Some("true"),
        servers: words(&["server", "server_ids"]),
        groups: words(&["group", "group_ids"]),
        tags: words(&["tag", "tags"]),
        regions: whole("region"),
        environments: whole("environment"),
        health,
        status,
    })
}

/// The servers that a query chooses: all of them where it names nothing.
pub(in crate::web) fn chosen(request: &Request, services: &Services) -> Result<Vec<ServerState>, Failure> {
    let (caller, selector) = (request.caller()?, selector(request)?);
    let search = request.query("search").filter(|text| !text.is_empty()).map(ToOwned::to_owned);
    let filter = ServerFilter { search, ..ServerFilter::default() };
    if selector.is_empty() {
        return Ok(services.fleet.list(caller, &filter)?);
    }
    let mut states = services.fleet.select(caller, &selector)?;
    states.retain(|state| filter.accepts(state));
    Ok(states)
}
