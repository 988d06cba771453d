//! What the pages of one server show.

use super::*;
use crate::model::{Health, Role};
use crate::web::pages::samples::{Sample, now, viewer};

fn keys() -> HostKeys {
    let key = |fingerprint: &str| HostKey {
        algorithm: "ssh-ed25519".to_owned(),
        fingerprint: fingerprint.to_owned(),
        line: format!("ssh-ed25519 AAAA{fingerprint}"),
    };
    HostKeys { pinned: Some(key("SHA256:pinned")), offered: Some(key("SHA256:offered")) }
}

fn overview(state: &ServerState) -> String {
    OverviewPage::new(&viewer(Role::Viewer), state, &HostKeys { offered: None, ..keys() }, now())
        .render()
        .unwrap()
}

#[test]
fn the_overview_shows_figures_facts_filesystems_and_the_key() {
    let html = overview(&Sample::named("web-1").state());
    for text in
        ["6.1.0-32-amd64", "/var/lib/postgresql", "SHA256:pinned", "8 cores", "eth0", "1 today", "Healthy"]
    {
        assert!(html.contains(text), "{text}");
    }
    assert!(html.contains("data-live=\"server:"));
}

#[test]
fn an_unreachable_server_says_which_layer_failed_and_what_to_do() {
    let html = overview(&Sample::named("web-1").unreachable("Nothing listens on port 22.").state());
    assert!(html.contains("Unreachable: stops at TCP"));
    assert!(html.contains("Nothing listens on port 22."));
    assert!(html.contains("<span class=\"sr\">: fails</span>"));
}

#[test]
fn what_is_unknown_is_a_dash() {
    let html = overview(&Sample::named("new").unread().state());
    assert!(html.contains("title=\"unknown\">–") && !html.contains("0.0%") && html.contains("never seen"));
}

#[test]
fn gaps_and_reasons_are_told() {
    let state = Sample::named("a")
        .gap("processes", "hidepid hides them.")
        .health(Health::Critical, "Disk full.")
        .state();
    let html = overview(&state);
    assert!(
        html.contains("What cannot be seen")
            && html.contains("hidepid hides them.")
            && html.contains("Disk full.")
    );
}

#[test]
fn a_changed_host_key_is_the_first_thing_on_the_page() {
    let state = Sample::named("a").state();
    let html = OverviewPage::new(&viewer(Role::Admin), &state, &keys(), now()).render().unwrap();
    assert!(html.contains("The host key has changed") && html.contains("/servers/a/configuration#host-key"));
}

#[test]
fn hostile_text_on_an_overview_is_text() {
    let html = overview(&Sample::named("evil").hostile().state());
    assert!(!html.contains("<script>alert") && !html.contains("<img src=x") && !html.contains('\u{1b}'));
    assert!(html.len() < 120_000, "{} bytes", html.len());
}

#[test]
fn fragments_of_the_overview_are_those_of_the_page() {
    let state = Sample::named("web-1").state();
    let quiet = HostKeys { offered: None, ..keys() };
    let html = overview(&state);
    for fragment in overview_fragments(&state, &quiet, now()) {
        assert!(html.contains(fragment.html.trim()), "{}", fragment.id);
    }
}
