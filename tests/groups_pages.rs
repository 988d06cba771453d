//! The pages of groups, dependencies and the bulk bar, as a browser without scripts uses them.

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use roundsman::fleet::GroupInput;
use roundsman::model::{Caller, Event, Role, Status};
use support::app::{Answer, TestApp, Who};
use support::in_time;
use support::sshd::Sshd;

async fn fleet() -> (TestApp, Who) {
    let app = TestApp::start().await;
    for name in ["web-1", "web-2", "db-1"] {
        app.with_inactive(name).await;
    }
    let admin = app.login(Role::Admin).await;
    (app, admin)
}

async fn ok(app: &TestApp, path: &str, who: &Who) -> String {
    let answer = app.get(path).by(who).send().await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.text()
}

async fn send(app: &TestApp, path: &str, who: &Who, fields: &[(&str, &str)]) -> Answer {
    app.post(path).by(who).form(fields).send().await
}

/// Where a form that was taken leads to.
async fn done(app: &TestApp, path: &str, who: &Who, fields: &[(&str, &str)]) -> String {
    let answer = send(app, path, who, fields).await;
    assert_eq!(answer.status, 303, "{path}: {}", answer.text());
    answer.header("location").to_owned()
}

#[tokio::test]
async fn a_group_is_made_filled_edited_and_deleted_by_forms() {
    let (app, admin) = fleet().await;
    assert!(ok(&app, "/groups", &admin).await.contains("No groups yet"));
    let fields = [("name", "front"), ("description", "Faces <the> world"), ("color", "teal")];
    assert_eq!(done(&app, "/groups", &admin, &fields).await, "/groups/front?done=group-made");
    let page = ok(&app, "/groups/front", &admin).await;
    assert!(
        page.contains("Faces &#60;the&#62; world") && page.contains("No server is in this group"),
        "{page}"
    );
    let members = [("group", "front"), ("server", "web-1"), ("server", "web-2")];
    done(&app, "/groups/members", &admin, &members).await;
    let page = ok(&app, "/groups/front", &admin).await;
    assert!(page.contains("href=\"/servers/web-1\"") && !page.contains("href=\"/servers/db-1\""));
    let shown = ok(&app, "/?group=front", &admin).await;
    assert!(shown.contains("2 of 3 servers") && shown.contains("<option value=\"front\" selected>"));
    assert!(ok(&app, "/servers/web-1", &admin).await.contains("chip tone-teal\" href=\"/groups/front\""));
    let fields = [("name", "edge"), ("description", ""), ("color", "red")];
    assert_eq!(done(&app, "/groups/front/edit", &admin, &fields).await, "/groups/edge?done=saved");
    let refused = send(&app, "/groups", &admin, &[("name", "edge")]).await;
    assert_eq!(refused.status, 409);
    assert!(refused.text().contains("There is a group named &#39;edge&#39; already"), "{}", refused.text());
    let refused = send(&app, "/groups/edge/delete", &admin, &[("confirm", "front")]).await;
    assert_eq!(refused.status, 422);
    assert_eq!(
        done(&app, "/groups/edge/delete", &admin, &[("confirm", "edge")]).await,
        "/groups?done=group-deleted"
    );
    assert!(ok(&app, "/", &admin).await.contains("3 servers"));
}

#[tokio::test]
async fn chosen_servers_are_listed_before_they_are_changed() {
    let (app, admin) = fleet().await;
    let input = GroupInput { name: "front".to_owned(), ..GroupInput::default() };
    app.services.fleet.create_group(&Caller::roundsman(), &input).await.unwrap();
    let id = |name: &str| app.state(name).server.id.to_string();
    let (first, second) = (id("web-1"), id("web-2"));
    let chosen = [("server", first.as_str()), ("server", second.as_str())];
    let with = |more: &[(&'static str, &'static str)]| -> Vec<(&str, &str)> {
        chosen.iter().copied().chain(more.iter().copied()).collect()
    };
    let asked = send(&app, "/servers/bulk", &admin, &with(&[("do", "tag")])).await.text();
    assert!(
        asked.contains("Tags of 2 servers") && asked.contains("web-1") && !asked.contains("db-1"),
        "{asked}"
    );
    let apply = "/servers/bulk/apply";
    done(&app, apply, &admin, &with(&[("do", "tag"), ("tags", "eu, web"), ("how", "add")])).await;
    done(&app, apply, &admin, &with(&[("do", "tag"), ("tags", "eu"), ("how", "remove")])).await;
    let tags = app.state("web-1").server.tags.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(tags, ["web"]);
    let grouped = with(&[("do", "group"), ("group", "front"), ("how", "add")]);
    assert_eq!(done(&app, apply, &admin, &grouped).await, "/groups/front?done=grouped");
    assert_eq!(app.state("web-2").groups.len(), 1);
    done(&app, apply, &admin, &with(&[("do", "group"), ("group", "front"), ("how", "remove")])).await;
    assert!(app.state("web-2").groups.is_empty());
    done(&app, apply, &admin, &with(&[("do", "maintenance")])).await;
    assert_eq!(app.state("web-2").server.status, Status::Maintenance);
    assert_eq!(app.state("db-1").server.status, Status::Inactive);
    let refused = send(&app, apply, &admin, &with(&[("do", "remove"), ("confirm", "3")])).await;
    assert_eq!(refused.status, 422);
    done(&app, apply, &admin, &with(&[("do", "remove"), ("confirm", "2")])).await;
    assert!(ok(&app, "/", &admin).await.contains("1 server<"));
}

#[tokio::test]
async fn who_may_not_change_servers_is_not_offered_it_and_refused() {
    let (app, admin) = fleet().await;
    let (operator, viewer) = (app.login(Role::Operator).await, app.login(Role::Viewer).await);
    let page = ok(&app, "/", &operator).await;
    assert!(
        page.contains("value=\"restart_service\"") && !page.contains("value=\"maintenance\" class=\"small\""),
        "{page}"
    );
    assert!(!ok(&app, "/", &viewer).await.contains("id=\"bulk\""));
    let fields = [("do", "maintenance"), ("server", "web-1")];
    for path in ["/servers/bulk", "/servers/bulk/apply"] {
        assert_eq!(send(&app, path, &operator, &fields).await.status, 403, "{path}");
        assert_eq!(send(&app, path, &viewer, &fields).await.status, 403);
    }
    let run = [("operation_type", "run_command"), ("server", "web-1")];
    assert_eq!(send(&app, "/operations/review", &viewer, &run).await.status, 403);
    assert_eq!(send(&app, "/servers/bulk", &admin, &[("do", "tag")]).await.status, 422);
    let unknown = [("do", "fly"), ("server", "web-1")];
    assert_eq!(send(&app, "/servers/bulk", &admin, &unknown).await.status, 422);
}

#[tokio::test]
async fn a_command_for_chosen_servers_is_reviewed_and_then_run() {
    let (app, sshd) = (TestApp::start().await, Sshd::start().await);
    app.with_server("web-1", &sshd).await;
    app.until("web-1", "read", |state| state.facts.is_some()).await;
    app.with_inactive("web-2").await;
    let operator = app.login(Role::Operator).await;
    // As the bar sends it: the ticked servers and the kind of action.
    let chosen = [("operation_type", "run_command"), ("server", "web-1"), ("server", "web-2")];
    let asked = send(&app, "/operations/review?to=parameters", &operator, &chosen).await.text();
    assert!(
        asked.contains("nothing can be done to 1 of them") && asked.contains("name=\"command\""),
        "{asked}"
    );
    assert!(asked.contains("type=\"hidden\" name=\"server\" value=\"web-1, web-2\""), "{asked}");
    let command = ("command", "echo chosen-$((40+2))");
    let only = [("operation_type", "run_command"), ("server", "web-1"), command, ("to", "confirm")];
    let reviewed = send(&app, "/operations/review", &operator, &only).await.text();
    assert!(
        reviewed.contains("Exactly this is sent to 1") && reviewed.contains("echo chosen-$((40+2))"),
        "{reviewed}"
    );
    let seal = reviewed.split("name=\"seal\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let mut events = app.services.fleet.subscribe();
    let place = done(&app, "/operations/new", &operator, &[&only[..], &[("seal", seal)]].concat()).await;
    assert!(place.starts_with("/operations/"), "{place}");
    in_time("the output", async {
        while !ok(&app, &place, &operator).await.contains("chosen-42") {
            while !matches!(events.recv().await, Ok(Event::Operation { .. }) | Err(_)) {}
        }
    })
    .await;
}

#[tokio::test]
async fn dependencies_are_drawn_told_as_a_table_and_a_circle_comes_back_with_what_was_typed() {
    let (app, admin) = fleet().await;
    let nginx = [
        ("service", "nginx"),
        ("server", "web-1"),
        ("needs_service", "postgresql"),
        ("needs_server", "db-1"),
    ];
    done(&app, "/dependencies", &admin, &nginx).await;
    let page = ok(&app, "/dependencies", &admin).await;
    assert!(page.contains("<svg") && page.contains("aria-label=\"nginx on web-1\""), "{page}");
    let circle = [
        ("service", "postgresql"),
        ("server", "db-1"),
        ("needs_service", "nginx"),
        ("needs_server", "web-1"),
    ];
    let refused = send(&app, "/dependencies", &admin, &circle).await;
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("postgresql on db-1 needs nginx on web-1 needs postgresql on db-1"));
    assert!(refused.text().contains("name=\"service\" value=\"postgresql\""));
    let lost = [("service", "nginx"), ("server", "ghost"), ("needs_service", "x"), ("needs_server", "web-1")];
    assert_eq!(send(&app, "/dependencies", &admin, &lost).await.status, 404);
    let id = app.services.fleet.dependencies(&Caller::roundsman()).unwrap().first().unwrap().dependency.id;
    done(&app, &format!("/dependencies/{id}/remove"), &admin, &[]).await;
    assert!(ok(&app, "/dependencies", &admin).await.contains("No service is known to need another"));
}
