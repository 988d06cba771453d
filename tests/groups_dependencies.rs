//! Which service needs which: noted, refused as a circle, gone with its server, and an order to restart in.

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use roundsman::model::{Caller, Role, ServerId};
use serde_json::{Value, json};
use support::app::{Answer, TestApp, Who};

const PATH: &str = "/api/v1/fleet/dependencies";

async fn fleet() -> (TestApp, Who) {
    let app = TestApp::start().await;
    for name in ["web-1", "web-2", "db-1", "cache-1"] {
        app.with_inactive(name).await;
    }
    let admin = app.token(Role::Admin).await;
    (app, admin)
}

async fn note(app: &TestApp, who: &Who, service: (&str, &str), needs: (&str, &str)) -> Answer {
    let body = json!({
        "server_id": service.0, "service": service.1, "needs_server_id": needs.0, "needs_service": needs.1,
    });
    app.post(PATH).by(who).json(&body).send().await
}

fn id(app: &TestApp, name: &str) -> ServerId {
    app.state(name).server.id
}

#[tokio::test]
async fn servers_are_ordered_so_that_what_is_needed_comes_first() {
    let (app, admin) = fleet().await;
    for (service, needs) in [
        (("web-1", "nginx"), ("db-1", "postgresql")),
        (("web-2", "nginx.service"), ("db-1", "postgresql")),
        (("db-1", "postgresql"), ("cache-1", "redis")),
    ] {
        note(&app, &admin, service, needs).await.expect(201);
    }
    let app = app.restart().await;
    let servers = ["web-2", "cache-1", "web-1", "db-1"].map(|name| id(&app, name));
    let order = app.services.fleet.dependency_order(&Caller::roundsman(), &servers).unwrap();
    let [web_2, cache, web_1, db] = servers;
    assert_eq!(order, [vec![cache], vec![db], vec![web_2, web_1]]);
    let some = app.services.fleet.dependency_order(&Caller::roundsman(), &[web_1, cache]).unwrap();
    assert_eq!(some, [vec![web_1, cache]], "what is between them does not take part");
}

#[tokio::test]
async fn a_circle_is_refused_and_named() {
    let (app, admin) = fleet().await;
    note(&app, &admin, ("web-1", "nginx"), ("db-1", "postgresql")).await.expect(201);
    note(&app, &admin, ("db-1", "postgresql"), ("cache-1", "redis")).await.expect(201);
    let refused = note(&app, &admin, ("cache-1", "redis"), ("web-1", "nginx")).await.expect(422);
    let words = "redis on cache-1 needs nginx on web-1 needs postgresql on db-1 needs redis on cache-1";
    assert!(refused["detail"].as_str().unwrap().contains(words), "{refused}");
    note(&app, &admin, ("web-1", "nginx"), ("web-1", "nginx")).await.expect(422);
    note(&app, &admin, ("web-1", "nginx"), ("db-1", "postgresql")).await.expect(422);
    note(&app, &admin, ("cache-1", "redis"), ("web-1", "php-fpm")).await.expect(201);
    for (service, needs, status) in [
        (("web-1", "; reboot"), ("db-1", "postgresql"), 422),
        (("web-1", "nginx"), ("ghost", "postgresql"), 404),
    ] {
        note(&app, &admin, service, needs).await.expect(status);
    }
}

#[tokio::test]
async fn a_dependency_goes_when_it_is_removed_or_its_server_is() {
    let (app, admin) = fleet().await;
    let first = note(&app, &admin, ("web-1", "nginx"), ("db-1", "postgresql")).await.expect(201);
    note(&app, &admin, ("web-2", "nginx"), ("db-1", "postgresql")).await.expect(201);
    note(&app, &admin, ("web-2", "nginx"), ("cache-1", "redis")).await.expect(201);
    let listed = async || -> Vec<Value> {
        app.get(PATH).by(&admin).send().await.expect(200)["items"].as_array().unwrap().clone()
    };
    assert_eq!(listed().await.len(), 3);
    let one = format!("{PATH}/{}", first["id"].as_str().unwrap());
    let viewer = app.token(Role::Operator).await;
    app.call("DELETE", &one).by(&viewer).send().await.expect(403);
    app.call("DELETE", &one).by(&admin).send().await.expect(204);
    app.call("DELETE", &one).by(&admin).send().await.expect(404);
    app.call("DELETE", "/api/v1/fleet/servers/db-1").by(&admin).send().await.expect(204);
    let left = listed().await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["needs_server_name"], "cache-1");
    let organization = app.another_organization().await;
    let foreign = Caller { organization, ..Caller::roundsman() };
    assert!(app.services.fleet.dependencies(&foreign).unwrap().is_empty());
}
