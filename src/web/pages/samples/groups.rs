//! Groups and dependencies for the tests of the pages.

use std::sync::Arc;

use uuid::Uuid;

use super::seconds_ago;
use crate::fleet::DependencyView;
use crate::model::{
    Colour, Dependency, DependencyId, Group, GroupId, GroupName, Health, OrganizationId, Selector, ServerId,
    ServerName,
};

pub(crate) fn group(name: &str, colour: Colour, is_dynamic: bool) -> Arc<Group> {
    let filter = Selector {
        tags: vec!["db".to_owned()],
        regions: vec!["Frankfurt".to_owned(), "Helsinki".to_owned()],
        health: vec![Health::Critical],
        ..Selector::default()
    };
    Arc::new(Group {
        id: GroupId::new(Uuid::from_u128(name.len() as u128)),
        organization: OrganizationId::DEFAULT,
        name: GroupName::parse(name).unwrap(),
        description: "What faces the world, <b>all</b> of it".to_owned(),
        colour,
        filter: is_dynamic.then_some(filter),
        created_at: seconds_ago(500),
        updated_at: seconds_ago(50),
    })
}

pub(crate) fn dependencies() -> Vec<DependencyView> {
    let one = |number: u128, (service, server): (&str, &str), (needs, on): (&str, &str)| DependencyView {
        dependency: Dependency {
            id: DependencyId::new(Uuid::from_u128(number)),
            organization: OrganizationId::DEFAULT,
            server: ServerId::new(Uuid::from_u128(number + 100)),
            service: service.to_owned(),
            needs_server: ServerId::new(Uuid::from_u128(number + 200)),
            needs_service: needs.to_owned(),
            created_at: seconds_ago(60),
        },
        server: ServerName::parse(server).unwrap(),
        needs_server: ServerName::parse(on).unwrap(),
    };
    vec![
        one(1, ("nginx", "web-1"), ("app", "app-1")),
        one(2, ("nginx", "web-2"), ("app", "app-1")),
        one(3, ("app", "app-1"), ("postgresql", "db-primary")),
        one(4, ("app", "app-1"), ("redis-server-of-the-sessions", "cache")),
        one(5, ("postgresql", "db-replica"), ("postgresql", "db-primary")),
    ]
}
