//! The door: who gets in where, and what every answer carries.

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use roundsman::auth::SETUP_VALID;
use roundsman::clock::{Clock, ManualClock, SystemClock};
use roundsman::model::Role;
use roundsman::web::{self, Access, BODY_LIMIT_BYTES, Route};
use support::app::{Answer, TestApp, USER_PASSWORD, Who};
use support::in_time;

/// An address of this route that names nothing that exists.
fn address(route: &Route) -> String {
    route.path.replace("{*file}", "nothing.css").replace("{id}", "ghost").replace("{name}", "ghost")
}

fn is_page(path: &str) -> bool {
    !path.starts_with("/api/") && path != "/live"
}

async fn ask(app: &TestApp, route: &Route, who: &Who) -> Answer {
    app.call(route.method.as_str(), &address(route)).by(who).send().await
}

fn assert_headers(answer: &Answer, what: &str) {
    let policy = answer.header("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"),
        "{what}: {policy}"
    );
    assert!(!policy.contains("unsafe"), "{what}: {policy}");
    assert!(policy.contains("frame-ancestors 'none'"), "{what}: {policy}");
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
    ] {
        assert_eq!(answer.header(name), value, "{what}");
    }
    assert_ne!(answer.header("cache-control"), "", "{what}");
}

#[tokio::test]
async fn without_login_only_the_doors_health_and_static_files_answer() {
    let app = TestApp::start().await;
    let public: Vec<&str> =
        ["/login", "/setup/{secret}", "/static/{*file}", "/favicon.ico", "/api/health", "/metrics"].into();
    for route in web::table() {
        let answer = ask(&app, &route, &Who::Nobody).await;
        assert_headers(&answer, &format!("{route:?}"));
        if route.access == Access::Public {
            assert!(public.contains(&route.path), "{route:?} answers without login");
            assert_ne!(answer.status, 403, "{route:?}");
            assert!(!answer.header("location").starts_with("/login"), "{route:?}");
        } else if is_page(route.path) {
            assert_eq!(answer.status, 303, "{route:?}");
            assert!(answer.header("location").starts_with("/login"), "{route:?}");
        } else {
            assert_eq!(answer.status, 401, "{route:?}");
            // Clients of tRPC look for errors in an envelope of their own.
            let trpc = route.path.starts_with("/api/trpc/");
            let media_type = if trpc { "application/json" } else { "application/problem+json" };
            assert_eq!(answer.header("content-type"), media_type, "{route:?}");
            assert!(answer.header("www-authenticate").starts_with("Bearer"), "{route:?}");
        }
    }
}

async fn walk(app: &TestApp, who: &Who, role: Role) {
    for route in web::table() {
        // Ending one's session is a test of its own.
        let needed = match route.access {
            Access::Role(needed) => needed,
            Access::Reporter => Role::Admin,
            Access::Public => continue,
        };
        if route.path == "/logout" {
            continue;
        }
        let answer = ask(app, &route, who).await;
        assert_headers(&answer, &format!("{route:?}"));
        if role >= needed {
            assert!(!matches!(answer.status, 401 | 403), "{route:?} as {role}: {}", answer.text());
            assert!(answer.status < 500, "{route:?} as {role}: {}", answer.text());
            assert!(!answer.header("location").starts_with("/login"), "{route:?} as {role}");
        } else {
            assert_eq!(answer.status, 403, "{route:?} as {role}");
            assert!(answer.text().contains(needed.name()), "{route:?} as {role}: {}", answer.text());
        }
    }
}

#[tokio::test]
async fn every_route_asks_for_its_role_of_a_token() {
    let app = TestApp::start().await;
    for role in Role::ALL {
        walk(&app, &app.token(role).await, role).await;
    }
}

#[tokio::test]
async fn a_token_that_reports_opens_nothing_but_the_routes_for_reports() {
    let app = TestApp::start().await;
    let enrol = app.enrol_token().await;
    let body = serde_json::json!({ "hostname": "pusher" });
    let made = app.post("/api/v1/fleet/register").by(&enrol).json(&body).send().await.expect(200);
    let own = Who::Token(made["token"].as_str().unwrap().to_owned());
    for (who, what) in [(&enrol, "enrol"), (&own, "a server's own")] {
        for route in web::table() {
            let answer = ask(&app, &route, who).await;
            match route.access {
                Access::Role(needed) => {
                    assert_eq!(answer.status, 403, "{route:?} with {what} token: {}", answer.text());
                    assert!(answer.text().contains(needed.name()), "{route:?}: {}", answer.text());
                }
                // The server is a ghost and there is no body: that is looked at, so the door is open.
                Access::Reporter => {
                    assert!(matches!(answer.status, 404 | 422), "{route:?}: {}", answer.text());
                }
                Access::Public => assert!(answer.status < 500, "{route:?}"),
            }
        }
    }
}

#[tokio::test]
async fn every_route_asks_for_its_role_of_a_browser() {
    let app = TestApp::start().await;
    for role in Role::ALL {
        walk(&app, &app.login(role).await, role).await;
    }
}

#[tokio::test]
async fn routes_that_change_things_are_never_open_to_viewers() {
    let own = ["/logout", "/settings/password", "/settings/sessions/{id}/revoke"];
    for route in web::table() {
        if route.method != Method::GET && !own.contains(&route.path) && route.access != Access::Public {
            assert_ne!(route.access, Access::VIEWER, "{route:?}");
        }
    }
}

#[tokio::test]
async fn a_change_without_the_page_s_token_or_from_a_foreign_page_is_refused() {
    let app = TestApp::start().await;
    let Who::Browser { cookie, csrf } = app.login(Role::Admin).await else { unreachable!() };
    for route in web::table().iter().filter(|route| route.method != Method::GET) {
        let path = address(route);
        let call = || app.call(route.method.as_str(), &path).header("cookie", &cookie);
        let own = "http://fleet.test";
        for call in [
            call().header("origin", own),
            call().header("origin", own).header("x-csrf-token", "wrong"),
            call().header("origin", "https://evil.example").header("x-csrf-token", &csrf),
            call().header("origin", "null").header("x-csrf-token", &csrf),
            call().header("sec-fetch-site", "cross-site").header("x-csrf-token", &csrf),
        ] {
            assert_eq!(call.send().await.status, 403, "{route:?}");
        }
    }
    let still_in = app.get("/settings").header("cookie", &cookie).send().await;
    assert_eq!(still_in.status, 200);
}

#[tokio::test]
async fn the_token_of_a_form_field_counts_as_well() {
    let app = TestApp::start().await;
    let Who::Browser { cookie, csrf } = app.login(Role::Admin).await else { unreachable!() };
    let form = [("csrf_token", csrf.as_str()), ("name", "ci"), ("role", "viewer"), ("expires_days", "1")];
    let made = app.post("/settings/tokens").header("cookie", &cookie).form(&form).send().await;
    assert_eq!(made.status, 200, "{}", made.text());
    assert!(made.text().contains("rdm_"));
}

#[tokio::test]
async fn a_login_that_a_foreign_page_sends_is_refused() {
    let app = TestApp::start().await;
    let form = [("username", "admin"), ("password", USER_PASSWORD)];
    let answer = app.post("/login").header("origin", "https://evil.example").form(&form).send().await;
    assert_eq!(answer.status, 403);
    assert_eq!(answer.header("set-cookie"), "");
}

#[tokio::test]
async fn web_sockets_are_refused_to_foreign_pages() {
    let app = TestApp::start().await;
    let admin = app.login(Role::Admin).await;
    for path in ["/live?view=fleet", "/api/v1/events"] {
        let upgrade = || {
            app.get(path)
                .by(&admin)
                .header("connection", "upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        };
        for origin in
            ["https://evil.example", "null", "http://fleet.test.evil.example", "http://fleet.test:1"]
        {
            assert_eq!(upgrade().header("origin", origin).send().await.status, 403, "{path} from {origin}");
        }
        assert_eq!(upgrade().header("origin", "http://fleet.test").send().await.status, 101, "{path}");
        assert_eq!(app.get(path).by(&admin).send().await.status, 426, "{path}");
    }
}

#[tokio::test]
async fn an_unknown_address_is_404_in_the_reader_s_language() {
    let app = TestApp::start().await;
    let admin = app.login(Role::Admin).await;
    for path in ["/api/v1/nothing", "/api/", "/api/v1/fleet/servers/a/b/c"] {
        let answer = app.get(path).by(&admin).send().await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
        assert_eq!(answer.json()["type"], "urn:roundsman:problem:not-found");
        assert_headers(&answer, path);
    }
    for path in [
        "/nothing",
        "/servers/ghost",
        "/%ff",
        "/servers/%ff%fe",
        "/servers/%zz",
        "/static/..%2f..%2fCargo.toml",
    ] {
        let answer = app.get(path).by(&admin).send().await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "text/html; charset=utf-8", "{path}");
        assert_headers(&answer, path);
    }
    let answer = app.get("/api/v1/fleet/servers/%ff").by(&admin).send().await;
    assert_eq!(answer.json()["status"], 404);
}

#[tokio::test]
async fn what_an_address_holds_is_never_markup_on_the_page() {
    let app = TestApp::start().await;
    let admin = app.login(Role::Admin).await;
    for path in [
        "/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "/servers/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "/?search=%22%3E%3Cscript%3Ealert(1)",
    ] {
        let answer = app.get(path).by(&admin).send().await;
        assert!(!answer.text().contains("<script>alert"), "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_wrong_method_names_the_right_ones() {
    let app = TestApp::start().await;
    for (method, path, allow) in [
        ("DELETE", "/api/v1/fleet/servers", "GET, POST"),
        ("POST", "/api/v1/fleet/servers/x", "DELETE, GET, PATCH, PUT"),
        ("PUT", "/login", "GET, POST"),
        ("OPTIONS", "/", "GET"),
    ] {
        let answer = app.call(method, path).send().await;
        assert_eq!((answer.status, answer.header("allow")), (405, allow), "{method} {path}");
    }
}

#[tokio::test]
async fn head_answers_like_get_without_a_body() {
    let app = TestApp::start().await;
    let address = app.listen().await;
    let client = support::program::client();
    for path in ["/login", "/api/health", "/", "/nothing"] {
        let url = format!("http://{address}{path}");
        let get = in_time("GET", client.get(&url).send()).await.unwrap();
        let head = in_time("HEAD", client.head(&url).send()).await.unwrap();
        assert_eq!(get.status(), head.status(), "{path}");
        for name in ["content-type", "location", "content-security-policy", "cache-control"] {
            assert_eq!(get.headers().get(name), head.headers().get(name), "{path} {name}");
        }
        assert!(in_time("no body", head.bytes()).await.unwrap().is_empty(), "{path}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_and_one_at_the_limit_is_read() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    let send = |bytes: usize| {
        app.post("/api/v1/fleet/servers").by(&admin).body("application/json", vec![b' '; bytes]).send()
    };
    let answer = send(BODY_LIMIT_BYTES + 1).await;
    assert_eq!(answer.status, 413);
    assert!(answer.json()["detail"].as_str().unwrap().contains("1048576"));
    assert_eq!(send(BODY_LIMIT_BYTES).await.status, 422);
}

#[tokio::test]
async fn broken_json_is_answered_with_what_and_where() {
    let app = TestApp::start().await;
    let admin = app.token(Role::Admin).await;
    for (body, word) in [
        ("", "no body"),
        ("{", "line 1"),
        ("[]", "JSON object"),
        ("[\"web-1\", \"10.0.0.1\"]", "JSON object"),
        ("{\"hostname\": 7}", "string"),
        ("{\"hostname\": \"a\", \"colour\": \"red\"}", "colour"),
        ("{\"hostname\": \"\\ud800\"}", "line 1"),
        ("\u{feff}{}", "JSON object"),
    ] {
        let answer = app.post("/api/v1/fleet/servers").by(&admin).body("application/json", body).send().await;
        assert_eq!(answer.status, 422, "{body}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(word), "{body}: {detail}");
    }
    let nested = "[".repeat(100_000);
    let answer = app.post("/api/v1/fleet/servers").by(&admin).body("application/json", nested).send().await;
    assert_eq!(answer.status, 422);
}

fn setup_form<'a>(password: &'a str, again: &'a str) -> [(&'a str, &'a str); 3] {
    [("username", "ada"), ("password", password), ("password_again", again)]
}

#[tokio::test]
async fn the_set_up_address_makes_one_administrator_and_is_gone() {
    let app = TestApp::start().await;
    let secret = app.services.auth.begin_setup().await.unwrap().unwrap();
    let path = format!("/setup/{}", secret.expose());
    assert_eq!(app.get(&path).send().await.status, 200);
    for (form, word) in
        [(setup_form(USER_PASSWORD, "another"), "not the same"), (setup_form("short", "short"), "haracters")]
    {
        let answer = app.post(&path).form(&form).send().await;
        assert_eq!(answer.status, 422, "{}", answer.text());
        assert!(answer.text().contains(word), "{}", answer.text());
        assert!(!answer.text().contains(USER_PASSWORD));
    }
    let entered = app.post(&path).form(&setup_form(USER_PASSWORD, USER_PASSWORD)).send().await;
    assert_eq!((entered.status, entered.header("location")), (303, "/"), "{}", entered.text());
    assert!(entered.header("set-cookie").contains(web::COOKIE));
    assert_eq!(app.get(&path).send().await.status, 410);
    let again = app.post(&path).form(&setup_form(USER_PASSWORD, USER_PASSWORD)).send().await;
    assert_eq!((again.status, again.header("set-cookie")), (410, ""));
    assert!(app.services.auth.begin_setup().await.unwrap().is_none());
}

#[tokio::test]
async fn the_set_up_address_ends_after_an_hour() {
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let app = TestApp::start_at(Arc::<ManualClock>::clone(&clock)).await;
    let secret = app.services.auth.begin_setup().await.unwrap().unwrap();
    let path = format!("/setup/{}", secret.expose());
    clock.advance(SETUP_VALID - Duration::from_secs(1));
    assert_eq!(app.get(&path).send().await.status, 200);
    clock.advance(Duration::from_secs(1));
    let late = app.post(&path).form(&setup_form(USER_PASSWORD, USER_PASSWORD)).send().await;
    assert_eq!(late.status, 410);
    assert!(late.text().contains("older than an hour"), "{}", late.text());
    assert!(app.services.auth.needs_setup().await.unwrap());
}

#[tokio::test]
async fn a_restart_replaces_the_set_up_address() {
    let app = TestApp::start().await;
    let first = app.services.auth.begin_setup().await.unwrap().unwrap();
    let second = app.services.auth.begin_setup().await.unwrap().unwrap();
    assert_eq!(app.get(&format!("/setup/{}", first.expose())).send().await.status, 410);
    assert_eq!(app.get(&format!("/setup/{}", second.expose())).send().await.status, 200);
}

#[tokio::test]
async fn guessing_is_slowed_down_for_the_guesser_only() {
    let app = TestApp::start().await;
    app.login(Role::Admin).await;
    let log_in = |password: &str, from: &str| {
        app.post("/login")
            .from(from)
            .form(&[("username", "admin"), ("password", password), ("next", "/")])
            .send()
    };
    let mut statuses = Vec::new();
    let mut last = None;
    for _ in 0..7 {
        let answer = log_in("a wrong password", "127.0.0.2:5").await;
        statuses.push(answer.status);
        last = Some(answer);
    }
    let last = last.unwrap();
    assert_eq!(statuses[..5], [401; 5]);
    assert_eq!(last.status, 429, "{statuses:?}");
    assert!(last.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert!(last.text().contains("Too many failed attempts"), "{}", last.text());
    assert!(!last.text().contains("a wrong password"));
    assert_eq!(log_in(USER_PASSWORD, "127.0.0.2:6").await.status, 429);
    assert_eq!(log_in(USER_PASSWORD, "127.0.0.3:5").await.status, 303);
}

#[tokio::test]
async fn an_unknown_name_and_a_wrong_password_read_the_same() {
    let app = TestApp::start().await;
    app.login(Role::Admin).await;
    let mut pages = Vec::new();
    for name in ["admin", "nobod"] {
        let form = [("username", name), ("password", "a wrong password")];
        let answer = app.post("/login").form(&form).send().await;
        assert_eq!(answer.status, 401);
        pages.push(answer.text().replace(name, "NAME"));
    }
    assert_eq!(pages[0], pages[1]);
}

#[tokio::test]
async fn the_session_cookie_is_kept_from_scripts_and_foreign_pages() {
    let app = TestApp::start().await;
    app.login(Role::Admin).await;
    let form = [("username", "admin"), ("password", USER_PASSWORD), ("next", "//evil.example")];
    let answer = app.post("/login").form(&form).send().await;
    assert_eq!((answer.status, answer.header("location")), (303, "/"));
    let cookie = answer.header("set-cookie");
    for flag in ["HttpOnly", "SameSite=Lax", "Path=/", "Max-Age="] {
        assert!(cookie.contains(flag), "{cookie}");
    }
}

#[tokio::test]
async fn a_stolen_half_of_a_cookie_opens_nothing() {
    let app = TestApp::start().await;
    let Who::Browser { cookie, .. } = app.login(Role::Admin).await else { unreachable!() };
    let (id, _) = cookie.split_once('.').unwrap();
    for forged in [id.to_owned(), format!("{id}."), format!("{id}.AAAA"), format!("{}=a.b", web::COOKIE)] {
        assert_eq!(app.get("/").header("cookie", &forged).send().await.status, 303, "{forged}");
    }
    for header in ["Bearer", "Bearer ", "Basic YWRtaW46YWRtaW4=", "Bearer rdm_x_y", "rdm_"] {
        let answer = app.get("/api/v1/fleet/servers").header("authorization", header).send().await;
        assert_eq!(answer.status, 401, "{header}");
    }
}

#[tokio::test]
async fn logout_ends_the_session_and_what_it_has_open() {
    let app = TestApp::start().await;
    app.services.fleet.ensure_local("here").await.unwrap();
    let (who, other) = (app.login(Role::Viewer).await, app.login(Role::Viewer).await);
    let address = app.listen().await;
    let mut live = app.socket(address, "/live?view=fleet", &who).await;
    let mut events = app.socket(address, "/api/v1/events", &who).await;
    let mut stays = app.socket(address, "/live?view=fleet", &other).await;
    for socket in [&mut live, &mut events, &mut stays] {
        in_time("a first message", socket.text()).await.unwrap();
    }
    let left = app.post("/logout").by(&who).send().await;
    assert_eq!((left.status, left.header("location")), (303, "/login"));
    assert!(left.header("set-cookie").contains("Max-Age=0"));
    assert_eq!(app.get("/").by(&who).send().await.status, 303);
    assert_eq!(app.get("/").by(&other).send().await.status, 200);
    in_time("the live page ends", async { while live.text().await.is_some() {} }).await;
    in_time("the events end", async { while events.text().await.is_some() {} }).await;
    in_time("the other page goes on", stays.text()).await.unwrap();
}

#[tokio::test]
async fn a_revoked_token_ends_the_events_that_it_opened() {
    let app = TestApp::start().await;
    app.services.fleet.ensure_local("here").await.unwrap();
    let admin = app.token(Role::Admin).await;
    let address = app.listen().await;
    let mut events = app.socket(address, "/api/v1/events", &admin).await;
    in_time("a first message", events.text()).await.unwrap();
    let list = app.get("/api/v1/tokens").by(&admin).send().await.expect(200);
    let path = format!("/api/v1/tokens/{}", list["items"][0]["id"].as_str().unwrap());
    app.call("DELETE", &path).by(&admin).send().await.expect(204);
    in_time("the events end", async { while events.text().await.is_some() {} }).await;
}

#[tokio::test]
async fn a_revoked_token_and_an_expired_one_open_nothing() {
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let app = TestApp::start_at(Arc::<ManualClock>::clone(&clock)).await;
    let admin = app.token(Role::Admin).await;
    let expires = clock.now() + Duration::from_secs(60);
    let body = serde_json::json!({ "name": "short", "role": "fleet:viewer", "expires_at": expires });
    let made = app.post("/api/v1/tokens").by(&admin).json(&body).send().await.expect(201);
    let short = Who::Token(made["token"].as_str().unwrap().to_owned());
    let status = async |who: &Who| app.get("/api/v1/fleet/summary").by(who).send().await.status;
    assert_eq!(status(&short).await, 200);
    clock.advance(Duration::from_secs(60));
    assert_eq!(status(&short).await, 401);
    let list = app.get("/api/v1/tokens").by(&admin).send().await;
    assert!(!list.text().contains("rdm_"), "{}", list.text());
    let own = list.json()["items"].as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned();
    app.call("DELETE", &format!("/api/v1/tokens/{own}")).by(&admin).send().await.expect(204);
    assert_eq!(status(&admin).await, 401);
}

#[tokio::test]
async fn a_body_is_not_read_for_whoever_only_pretends_to_be_logged_in() {
    let app = TestApp::start().await;
    let large = vec![b'x'; 2 * 1024 * 1024];
    // 413 would mean that the body was read before the login was looked at.
    for (name, value) in
        [("cookie", "roundsman_session=made.up"), ("authorization", "Bearer rdm_made_up"), ("x-none", "-")]
    {
        let call =
            app.post("/api/v1/fleet/servers").header(name, value).body("application/json", large.clone());
        assert_eq!(call.send().await.status, 401, "{name}");
    }
    let form = app.post("/login").body("application/x-www-form-urlencoded", vec![b'x'; 20 * 1024]);
    assert_eq!(form.send().await.status, 413);
}
