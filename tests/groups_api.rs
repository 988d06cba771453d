//! Groups over the API and in selections: what they hold, who may change them, what stays when they go.
#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use roundsman::fleet::NewServer;
use roundsman::model::{Caller, Role, Selector, Status};
use serde_json::{Value, json};
use support::app::{TestApp, Who};
use support::sshd::free_port;

/// A server that is stored and not contacted.
async fn inactive(app: &TestApp, name: &str, tags: &[&str], region: &str) -> String {
    let new = NewServer {
        name: Some(name.to_owned()),
        hostname: "127.0.0.1".to_owned(),
        port: Some(free_port().into()),
        status: Some(Status::Inactive),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        region: Some(region.to_owned()),
        environment: Some("production".to_owned()),
        unchecked: true,
        ..NewServer::default()
    };
    app.add(new).await.server.id.to_string()
}

async fn fleet() -> (TestApp, Who) {
    let app = TestApp::start().await;
    inactive(&app, "web-1", &["web", "eu"], "fra").await;
    inactive(&app, "web-2", &["web"], "nyc").await;
    inactive(&app, "db-1", &["db", "eu"], "fra").await;
    let admin = app.token(Role::Admin).await;
    (app, admin)
}

async fn create(app: &TestApp, who: &Who, body: Value) -> Value {
    app.post("/api/v1/fleet/groups").by(who).json(&body).send().await.expect(201)
}

async fn names(app: &TestApp, who: &Who, path: &str) -> Vec<String> {
    let answer = app.get(path).by(who).send().await.expect(200);
    let items = answer["items"].as_array().unwrap();
    let name = |item: &Value| item["name"].as_str().or(item["server_name"].as_str()).unwrap().to_owned();
    items.iter().map(name).collect()
}

#[tokio::test]
async fn a_static_group_holds_what_is_put_in_by_name_or_id() {
    let (app, admin) = fleet().await;
    let body = json!({ "name": "front", "description": "Faces the world", "color": "#3b82f6" });
    let made = create(&app, &admin, body).await;
    assert_eq!(made["kind"], "static");
    assert_eq!(made["color"], "blue");
    assert_eq!(made["total_servers"], 0);
    let id = made["id"].as_str().unwrap();
    let web_2 = app.state("web-2").server.id.to_string();
    let path = "/api/v1/fleet/groups/front/servers";
    let filled = app.post(path).by(&admin).json(&json!({ "server_ids": ["web-1", web_2, "web-1"] }));
    assert_eq!(filled.send().await.expect(201)["total_servers"], 2);
    let by_id = format!("/api/v1/fleet/groups/{id}/servers");
    assert_eq!(names(&app, &admin, &by_id).await, ["web-1", "web-2"]);
    assert_eq!(names(&app, &admin, "/api/v1/fleet/servers?group=front&region=nyc").await, ["web-2"]);
    app.call("DELETE", &format!("{path}/web-1")).by(&admin).send().await.expect(204);
    assert_eq!(names(&app, &admin, path).await, ["web-2"]);
    let members = "/api/v1/fleet/groups/members";
    let both = json!({ "group_id": "front", "server_id": "db-1" });
    let membership = app.post(members).by(&admin).json(&both).send().await.expect(201);
    assert_eq!(membership["group_id"], id);
    assert_eq!(membership["server_id"], app.state("db-1").server.id.to_string());
    app.call("DELETE", members).by(&admin).json(&both).send().await.expect(204);
    assert_eq!(names(&app, &admin, path).await, ["web-2"]);
}

#[tokio::test]
async fn a_dynamic_group_follows_the_servers_and_is_not_filled_by_hand() {
    let (app, admin) = fleet().await;
    let made =
        create(&app, &admin, json!({ "name": "eu-web", "tags": ["web", "eu"], "regions": ["fra", "ams"] }))
            .await;
    assert_eq!(made["kind"], "dynamic");
    let path = "/api/v1/fleet/groups/eu-web/servers";
    assert_eq!(names(&app, &admin, path).await, ["web-1"]);
    let edit = json!({ "tags": ["web", "eu"], "region": "ams" });
    app.call("PATCH", "/api/v1/fleet/servers/web-2").by(&admin).json(&edit).send().await.expect(200);
    assert_eq!(names(&app, &admin, path).await, ["web-1", "web-2"]);
    let refused = app.post(path).by(&admin).json(&json!({ "server_id": "db-1" })).send().await.expect(409);
    assert!(refused["detail"].as_str().unwrap().contains("dynamic"), "{refused}");
    create(&app, &admin, json!({ "name": "lost", "health": ["unknown"] })).await;
    assert_eq!(names(&app, &admin, "/api/v1/fleet/groups/lost/servers").await.len(), 3);
    let group = |name: &str| Selector { groups: vec![name.to_owned()], ..Selector::default() };
    let both = Selector { tags: vec!["db".to_owned()], ..group("lost") };
    let chosen = app.services.fleet.select(&Caller::roundsman(), &both).unwrap();
    assert_eq!(chosen.iter().map(|state| state.server.name.as_str()).collect::<Vec<_>>(), ["db-1"]);
    assert!(app.services.fleet.select(&Caller::roundsman(), &group("nobody")).is_err());
}

#[tokio::test]
async fn what_is_wrong_with_a_group_is_named_and_nothing_is_stored() {
    let (app, admin) = fleet().await;
    create(&app, &admin, json!({ "name": "front" })).await;
    let many: Vec<String> = (0..65).map(|number| format!("t{number}")).collect();
    for (body, field) in [
        (json!({ "name": "a b" }), "name"),
        (json!({ "name": "members" }), "name"),
        (json!({ "name": "x", "color": "puce" }), "color"),
        (json!({ "name": "x", "tags": ["no tag"] }), "tags"),
        (json!({ "name": "x", "tags": many }), "tags"),
        (json!({ "name": "x", "health": ["fine"] }), "health"),
        (json!({ "name": "x", "description": "y".repeat(2000) }), "description"),
    ] {
        let refused = app.post("/api/v1/fleet/groups").by(&admin).json(&body).send().await.expect(422);
        assert_eq!(refused["field"], field, "{body}");
    }
    app.post("/api/v1/fleet/groups").by(&admin).json(&json!({ "name": "front" })).send().await.expect(409);
    assert_eq!(names(&app, &admin, "/api/v1/fleet/groups").await, ["front"]);
    let path = "/api/v1/fleet/groups/front/servers";
    let refused = app.post(path).by(&admin).json(&json!({ "server_ids": ["web-1", "ghost"] })).send().await;
    assert!(refused.expect(404)["detail"].as_str().unwrap().contains("ghost"));
    assert!(names(&app, &admin, path).await.is_empty(), "all or none");
    app.post(path).by(&admin).json(&json!({ "server_id": "web-1" })).send().await.expect(201);
    let filter = json!({ "name": "front", "tags": ["web"] });
    let refused =
        app.call("PUT", "/api/v1/fleet/groups/front").by(&admin).json(&filter).send().await.expect(422);
    assert!(refused["detail"].as_str().unwrap().contains("by hand"), "{refused}");
}

#[tokio::test]
async fn a_deleted_group_leaves_its_servers_and_a_removed_server_leaves_its_groups() {
    let (app, admin) = fleet().await;
    create(&app, &admin, json!({ "name": "front" })).await;
    let path = "/api/v1/fleet/groups/front/servers";
    app.post(path).by(&admin).json(&json!({ "server_ids": ["web-1", "web-2"] })).send().await.expect(201);
    app.call("DELETE", "/api/v1/fleet/servers/web-2").by(&admin).send().await.expect(204);
    assert_eq!(names(&app, &admin, path).await, ["web-1"]);
    let renamed = json!({ "name": "edge", "color": "teal" });
    app.call("PUT", "/api/v1/fleet/groups/front").by(&admin).json(&renamed).send().await.expect(200);
    let app = app.restart().await;
    let admin = app.token(Role::Admin).await;
    assert_eq!(names(&app, &admin, "/api/v1/fleet/groups/edge/servers").await, ["web-1"]);
    app.call("DELETE", "/api/v1/fleet/groups/edge").by(&admin).send().await.expect(204);
    app.get("/api/v1/fleet/groups/edge").by(&admin).send().await.expect(404);
    assert_eq!(names(&app, &admin, "/api/v1/fleet/servers").await, ["db-1", "web-1"]);
    let audit = app.get("/api/v1/audit?limit=100").by(&admin).send().await.expect(200);
    let done: Vec<&str> =
        audit["items"].as_array().unwrap().iter().filter_map(|entry| entry["action"].as_str()).collect();
    for action in ["group.create", "group.add-server", "group.edit", "group.delete"] {
        assert!(done.contains(&action), "{action} is not in {done:?}");
    }
}

#[tokio::test]
async fn a_group_of_another_organization_does_not_exist_and_viewers_change_none() {
    let (app, admin) = fleet().await;
    let organization = app.another_organization().await;
    let foreign = Caller { organization, ..Caller::roundsman() };
    let input = roundsman::fleet::GroupInput { name: "front".to_owned(), ..Default::default() };
    let theirs = app.services.fleet.create_group(&foreign, &input).await.unwrap().group.id.to_string();
    app.get("/api/v1/fleet/groups/front").by(&admin).send().await.expect(404);
    for (method, path) in [
        ("GET", format!("/api/v1/fleet/groups/{theirs}")),
        ("DELETE", format!("/api/v1/fleet/groups/{theirs}")),
        ("GET", format!("/api/v1/fleet/servers?group={theirs}")),
        ("GET", format!("/api/v1/fleet/selection?group={theirs}")),
    ] {
        app.call(method, &path).by(&admin).send().await.expect(404);
    }
    let put =
        app.call("PUT", &format!("/api/v1/fleet/groups/{theirs}")).by(&admin).json(&json!({ "name": "x" }));
    put.send().await.expect(404);
    create(&app, &admin, json!({ "name": "front" })).await;
    let own_server = app.services.fleet.add_to_group(&foreign, "front", &["web-1".to_owned()]).await;
    assert!(own_server.is_err(), "a server of this organization is none of theirs");
    for role in [Role::Viewer, Role::Operator] {
        let who = app.token(role).await;
        assert_eq!(names(&app, &who, "/api/v1/fleet/groups").await, ["front"]);
        app.post("/api/v1/fleet/groups").by(&who).json(&json!({ "name": "mine" })).send().await.expect(403);
        app.call("DELETE", "/api/v1/fleet/groups/front").by(&who).send().await.expect(403);
    }
}

#[tokio::test]
async fn a_selection_is_listed_with_what_stands_in_the_way_before_anything_runs() {
    let (app, admin) = fleet().await;
    let answer = app.get("/api/v1/fleet/selection?tag=web&limit=1").by(&admin).send().await.expect(200);
    assert_eq!(answer["count"], 2);
    assert_eq!(answer["impeded"], 2);
    assert_eq!(answer["items"][0]["server_name"], "web-1");
    assert!(answer["items"][0]["impediment"].as_str().unwrap().contains("inactive"), "{answer}");
    assert_eq!(answer["next_cursor"], "1");
    app.get("/api/v1/fleet/selection").by(&admin).send().await.expect(422);
    app.get("/api/v1/fleet/selection?server=ghost").by(&admin).send().await.expect(404);
    assert_eq!(
        names(&app, &admin, "/api/v1/fleet/selection?all=true&region=fra&server=web-2").await,
        ["web-2", "db-1", "web-1"]
    );
}
