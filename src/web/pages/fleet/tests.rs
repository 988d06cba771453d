//! What the fleet page shows, and how fast.

use std::time::Instant;

use super::*;
use crate::model::Role;
use crate::web::pages::samples::{Sample, large_fleet, now, small_fleet, summary, viewer};

fn page(role: Role, servers: &[ServerState], query: &[(&str, &str)]) -> String {
    let query = FleetQuery::from_pairs(query.iter().copied());
    FleetPage::new(&viewer(role), servers, &summary(servers), &query, now()).render().unwrap()
}

#[test]
fn every_server_is_shown_with_its_health_in_words() {
    for view in ["grid", "table"] {
        let html = page(Role::Viewer, &small_fleet(), &[("view", view)]);
        for text in ["web-1", "db-primary", "Unreachable", "Critical", "Maintenance", "Inactive", "86.4%"] {
            assert!(html.contains(text), "{view}: {text}");
        }
        assert!(html.contains("TCP: Connection refused on port 22"), "{view}");
        assert!(html.contains("title=\"unknown\">–"), "{view}");
    }
}

#[test]
fn an_unreachable_server_says_why_in_a_line_that_names_the_layer_once() {
    let cases = [
        (
            "10.0.0.3:22 cannot be reached, TCP: the connection was refused: nothing listens there. On the server run `systemctl start ssh`.",
            "TCP: the connection was refused: nothing listens there",
        ),
        (
            "10.0.0.3:22 did not answer in 5000 ms (TCP). Look at its firewall.",
            "TCP: 10.0.0.3:22 did not answer in 5000 ms (TCP)",
        ),
    ];
    for (reason, told) in cases {
        assert_eq!(trouble(&Sample::named("web-1").unreachable(reason).state()).as_deref(), Some(told));
    }
}

#[test]
fn only_an_administrator_is_offered_to_add_a_server() {
    assert!(page(Role::Admin, &small_fleet(), &[]).contains("href=\"/servers/new\""));
    assert!(!page(Role::Operator, &small_fleet(), &[]).contains("href=\"/servers/new\""));
    assert!(page(Role::Admin, &[], &[]).contains("No servers yet"));
    assert!(!page(Role::Viewer, &[], &[]).contains("href=\"/servers/new\""));
}

#[test]
fn filters_stay_in_the_form_and_say_how_many_they_leave() {
    let html = page(Role::Viewer, &small_fleet(), &[("region", "Helsinki"), ("search", "\"><b>")]);
    assert!(html.contains("0 of 10 servers"));
    assert!(html.contains("<option value=\"Helsinki\" selected>"));
    assert!(html.contains("value=\"&#34;&#62;&#60;b&#62;\""));
    let html = page(Role::Viewer, &small_fleet(), &[("tag", "gone")]);
    assert!(html.contains("<option value=\"gone\" selected>"));
}

#[test]
fn a_table_says_by_which_column_it_is_ordered() {
    let html = page(Role::Viewer, &small_fleet(), &[("view", "table"), ("sort", "cpu")]);
    assert!(html.contains("class=\"col-cpu\" aria-sort=\"descending\""));
    assert!(html.contains("href=\"/?sort=cpu&#38;order=asc&#38;view=table\""));
}

#[test]
fn hostile_text_is_text() {
    let servers = [Sample::named("evil").hostile().state()];
    for view in ["grid", "table"] {
        let html = page(Role::Admin, &servers, &[("view", view)]);
        assert!(!html.contains("<script>alert") && !html.contains("<img src=x"), "{view}");
        assert!(!html.contains('\u{1b}') && !html.contains('\u{202e}'), "{view}");
        assert!(html.contains("&#60;script&#62;alert"), "{view}");
    }
    for fragment in row_fragments(&servers[0], now()) {
        assert!(!fragment.html.contains("<script>"), "{}", fragment.id);
    }
}

#[test]
fn fragments_are_the_same_html_as_the_page() {
    let servers = small_fleet();
    let state = &servers[0];
    let fragments = row_fragments(state, now());
    let ids: Vec<&str> = fragments.iter().map(|fragment| fragment.id.as_str()).collect();
    assert_eq!(ids, [format!("card-{}", state.server.id), format!("row-{}", state.server.id)]);
    for (fragment, view) in fragments.iter().zip(["grid", "table"]) {
        assert!(fragment.html.contains(&format!("id=\"{}\"", fragment.id)));
        assert!(page(Role::Viewer, &servers, &[("view", view)]).contains(&fragment.html));
    }
    let part = summary_fragments(&summary(&servers));
    assert!(page(Role::Viewer, &servers, &[]).contains(&part[0].html));
}

#[test]
fn the_bar_of_healths_is_filled_to_the_end() {
    for count in [1, 3, 7, 1000] {
        let view = SummaryView::new(&summary(&large_fleet(count)));
        let end = view.parts.iter().map(|part| part.start + part.width).max().unwrap();
        assert_eq!(end, 1000, "{count} servers");
    }
    assert!(SummaryView::new(&Summary::default()).parts.iter().all(|part| part.width == 0));
}

/// The limit is that of an unoptimised build on a busy machine; a release build needs a small part of it.
#[test]
fn a_thousand_rows_are_rendered_fast() {
    let servers = large_fleet(1000);
    for view in ["table", "grid"] {
        let start = Instant::now();
        let html = page(Role::Viewer, &servers, &[("view", view)]);
        let elapsed = start.elapsed();
        println!("{view}: {} bytes in {elapsed:?}", html.len());
        assert!(html.matches("href=\"/servers/node-").count() == 1000, "{view}");
        assert!(elapsed.as_millis() < 2000, "{view}: {elapsed:?}");
        assert!(html.len() < 2_500_000, "{view}: {} bytes", html.len());
    }
}
