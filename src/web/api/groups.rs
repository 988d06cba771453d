//! `/api/v1/fleet/groups` and `/api/v1/fleet/dependencies`.

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use warp::reply::Response;

use super::super::error::Failure;
use super::super::request::{Access, Request};
use super::super::routes::{Route, json as json_reply, no_content};
use super::page;
use super::servers::ServerJson;
use crate::fleet::{DependencyInput, DependencyView, GroupInput, GroupView};
use crate::model::{Selector, Timestamp};
use crate::services::Services;

/// The routes of this file.
pub fn routes() -> Vec<Route> {
    const LIST: &str = "/api/v1/fleet/groups";
    const ONE: &str = "/api/v1/fleet/groups/{id}";
    const SERVERS: &str = "/api/v1/fleet/groups/{id}/servers";
    const MEMBERS: &str = "/api/v1/fleet/groups/members";
    const DEPENDENCIES: &str = "/api/v1/fleet/dependencies";
    let paged = |route: Route| {
        route
            .query("limit", "entries on the page, 1 to 1000, 100 by default")
            .query("cursor", "next_cursor of the page before")
    };
    vec![
        paged(Route::get(LIST, Access::VIEWER, list))
            .summary("The groups, by name, with counts of their servers")
            .gives("GroupList"),
        Route::post(LIST, Access::ADMIN, create)
            .summary("Makes a group: static without conditions, dynamic with tags, regions, environments or health")
            .takes("GroupBody")
            .gives("Group")
            .status(201),
        Route::get(ONE, Access::VIEWER, get).summary("One group, by id or name").gives("Group"),
        Route::new(Method::PUT, ONE, Access::ADMIN, replace)
            .summary("Replaces what is said of a group; members that were chosen by hand stay")
            .takes("GroupBody")
            .gives("Group"),
        Route::new(Method::DELETE, ONE, Access::ADMIN, delete)
            .summary("Deletes a group; its servers and operations stay")
            .status(204),
        paged(Route::get(SERVERS, Access::VIEWER, servers))
            .summary("The servers of a group, by name")
            .gives("ServerList"),
        Route::post(SERVERS, Access::ADMIN, add)
            .summary("Puts servers into a static group: server_id, or server_ids")
            .takes("MembersInput")
            .gives("Group")
            .status(201),
        Route::new(Method::DELETE, "/api/v1/fleet/groups/{id}/servers/{name}", Access::ADMIN, take_out)
            .summary("Takes a server out of a static group")
            .status(204),
        Route::post(MEMBERS, Access::ADMIN, add_member)
            .summary("Puts a server into a static group")
            .takes("Membership")
            .gives("Membership")
            .status(201),
        Route::new(Method::DELETE, MEMBERS, Access::ADMIN, remove_member)
            .summary("Takes a server out of a static group")
            .takes("Membership")
            .status(204),
        paged(Route::get(DEPENDENCIES, Access::VIEWER, dependencies))
            .summary("Which service of which server needs which other, in the order in which they were noted")
            .gives("DependencyList"),
        Route::post(DEPENDENCIES, Access::ADMIN, add_dependency)
            .summary("Notes that a service needs another; a circle is refused and named")
            .takes("DependencyBody")
            .gives("Dependency")
            .status(201),
        Route::new(Method::DELETE, "/api/v1/fleet/dependencies/{id}", Access::ADMIN, remove_dependency)
            .summary("Forgets that a service needs another")
            .status(204),
    ]
}

/// A group as the API shows it.
#[derive(Debug, Serialize, ToSchema)]
pub struct GroupJson {
    id: String,
    organization_id: String,
    name: String,
    description: String,
    /// A word of the palette.
    color: String,
    /// static or dynamic.
    kind: String,
    tags: Vec<String>,
    regions: Vec<String>,
    environments: Vec<String>,
    health: Vec<String>,
    total_servers: u32,
    healthy_servers: u32,
    degraded_servers: u32,
    critical_servers: u32,
    unreachable_servers: u32,
    unknown_servers: u32,
    average_cpu_percent: Option<f64>,
    #[schema(value_type = String)]
    created_at: Timestamp,
    #[schema(value_type = String)]
    updated_at: Timestamp,
}

impl GroupJson {
    fn of(view: &GroupView) -> Self {
        let (group, summary) = (&view.group, &view.summary);
        let filter = group.filter.clone().unwrap_or_default();
        let Selector { tags, regions, environments, health, .. } = filter;
        Self {
            id: group.id.to_string(),
            organization_id: group.organization.to_string(),
            name: group.name.to_string(),
            description: group.description.clone(),
            color: group.colour.to_string(),
            kind: group.kind().to_owned(),
            tags,
            regions,
            environments,
            health: health.iter().map(ToString::to_string).collect(),
            total_servers: summary.total_servers,
            healthy_servers: summary.healthy_servers,
            degraded_servers: summary.degraded_servers,
            critical_servers: summary.critical_servers,
            unreachable_servers: summary.unreachable_servers,
            unknown_servers: summary.unknown_servers,
            average_cpu_percent: summary.average_cpu_percent,
            created_at: group.created_at,
            updated_at: group.updated_at,
        }
    }
}

/// What is said of a group.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupBody {
    name: String,
    #[serde(default)]
    description: Option<String>,
    /// grey, blue, teal, green, olive, amber, brown, red, pink, violet, or #rrggbb for the nearest of them.
    #[serde(default, alias = "colour")]
    color: Option<String>,
    /// All of them.
    #[serde(default)]
    tags: Option<Vec<String>>,
    /// One of them.
    #[serde(default)]
    regions: Option<Vec<String>>,
    /// One of them.
    #[serde(default)]
    environments: Option<Vec<String>>,
    /// One of them.
    #[serde(default)]
    health: Option<Vec<String>>,
}

impl From<GroupBody> for GroupInput {
    fn from(body: GroupBody) -> Self {
        Self {
            name: body.name,
            description: body.description.unwrap_or_default(),
            colour: body.color,
            tags: body.tags.unwrap_or_default(),
            regions: body.regions.unwrap_or_default(),
            environments: body.environments.unwrap_or_default(),
            health: body.health.unwrap_or_default(),
        }
    }
}

/// Servers for a group; ids or names.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MembersInput {
    server_id: Option<String>,
    #[serde(default)]
    server_ids: Vec<String>,
}

/// A server in a group; ids or names.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    group_id: String,
    server_id: String,
}

async fn list(request: Request, services: Services) -> Result<Response, Failure> {
    page(&request, services.fleet.groups(request.caller()?)?.iter().map(GroupJson::of).collect())
}

async fn create(request: Request, services: Services) -> Result<Response, Failure> {
    let input = request.json::<GroupBody>()?.into();
    let view = services.fleet.create_group(request.caller()?, &input).await?;
    json_reply(StatusCode::CREATED, &GroupJson::of(&view))
}

async fn get(request: Request, services: Services) -> Result<Response, Failure> {
    let (view, _) = services.fleet.group(request.caller()?, request.param(0))?;
    json_reply(StatusCode::OK, &GroupJson::of(&view))
}

async fn replace(request: Request, services: Services) -> Result<Response, Failure> {
    let input = request.json::<GroupBody>()?.into();
    let view = services.fleet.edit_group(request.caller()?, request.param(0), &input).await?;
    json_reply(StatusCode::OK, &GroupJson::of(&view))
}

async fn delete(request: Request, services: Services) -> Result<Response, Failure> {
    services.fleet.delete_group(request.caller()?, request.param(0)).await?;
    Ok(no_content())
}

async fn servers(request: Request, services: Services) -> Result<Response, Failure> {
    let (_, members) = services.fleet.group(request.caller()?, request.param(0))?;
    page(&request, members.iter().map(ServerJson::of).collect())
}

async fn add(request: Request, services: Services) -> Result<Response, Failure> {
    let MembersInput { server_id, mut server_ids } = request.json()?;
    server_ids.extend(server_id);
    let caller = request.caller()?;
    services.fleet.add_to_group(caller, request.param(0), &server_ids).await?;
    let (view, _) = services.fleet.group(caller, request.param(0))?;
    json_reply(StatusCode::CREATED, &GroupJson::of(&view))
}

async fn take_out(request: Request, services: Services) -> Result<Response, Failure> {
    let server = request.param(1).to_owned();
    services.fleet.remove_from_group(request.caller()?, request.param(0), &[server]).await?;
    Ok(no_content())
}

async fn add_member(request: Request, services: Services) -> Result<Response, Failure> {
    let Membership { group_id, server_id } = request.json()?;
    let caller = request.caller()?;
    let added = services.fleet.add_to_group(caller, &group_id, &[server_id]).await?;
    let (view, _) = services.fleet.group(caller, &group_id)?;
    let server_id = added.first().map(|state| state.server.id.to_string()).unwrap_or_default();
    json_reply(StatusCode::CREATED, &Membership { group_id: view.group.id.to_string(), server_id })
}

async fn remove_member(request: Request, services: Services) -> Result<Response, Failure> {
    let Membership { group_id, server_id } = request.json()?;
    services.fleet.remove_from_group(request.caller()?, &group_id, &[server_id]).await?;
    Ok(no_content())
}

/// A service that needs another.
#[derive(Debug, Serialize, ToSchema)]
pub struct DependencyJson {
    id: String,
    server_id: String,
    server_name: String,
    service: String,
    needs_server_id: String,
    needs_server_name: String,
    needs_service: String,
    #[schema(value_type = String)]
    created_at: Timestamp,
}

impl DependencyJson {
    fn of(view: &DependencyView) -> Self {
        let dependency = &view.dependency;
        Self {
            id: dependency.id.to_string(),
            server_id: dependency.server.to_string(),
            server_name: view.server.to_string(),
            service: dependency.service.clone(),
            needs_server_id: dependency.needs_server.to_string(),
            needs_server_name: view.needs_server.to_string(),
            needs_service: dependency.needs_service.clone(),
            created_at: dependency.created_at,
        }
    }
}

/// What is said of a dependency; servers by id or name.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DependencyBody {
    server_id: String,
    service: String,
    needs_server_id: String,
    needs_service: String,
}

async fn dependencies(request: Request, services: Services) -> Result<Response, Failure> {
    let found = services.fleet.dependencies(request.caller()?)?;
    page(&request, found.iter().map(DependencyJson::of).collect())
}

async fn add_dependency(request: Request, services: Services) -> Result<Response, Failure> {
    let DependencyBody { server_id, service, needs_server_id, needs_service } = request.json()?;
    let input = DependencyInput { server: server_id, service, needs_server: needs_server_id, needs_service };
    let view = services.fleet.add_dependency(request.caller()?, &input).await?;
    json_reply(StatusCode::CREATED, &DependencyJson::of(&view))
}

async fn remove_dependency(request: Request, services: Services) -> Result<Response, Failure> {
    services.fleet.remove_dependency(request.caller()?, request.param(0)).await?;
    Ok(no_content())
}
