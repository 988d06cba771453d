//! Pages with charts as the server makes them: the view in the address, tables without a script, live samples of
//! several servers, and the banner when history is not written.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::time::{Duration, Instant};

use roundsman::model::{Labels, MetricName, Role, Sample, SeriesKey, Timestamp};
use serde_json::Value;
use support::app::{TestApp, Who};
use support::in_time;
use support::socket::Socket;

fn samples(value: f64) -> Vec<Sample> {
    vec![
        Sample { key: SeriesKey::plain("cpu_percent"), value },
        Sample {
            key: SeriesKey {
                metric: MetricName::known("filesystem_percent"),
                labels: Labels::of("/srv/<b>data</b>"),
            },
            value: 91.0,
        },
        Sample {
            key: SeriesKey { metric: MetricName::custom("llm_requests".to_owned()), labels: Labels::NONE },
            value: 7.0,
        },
    ]
}

/// Servers that nobody reads, with half an hour of history that ends now.
async fn with_history(names: &[&str]) -> (TestApp, Who) {
    let app = TestApp::start().await;
    let now_ms = app.services.clock.now().as_millis();
    for name in names {
        app.with_inactive(name).await;
        let number = app.state(name).server.number;
        for step in 0..180_i64 {
            let at = Timestamp::from_millis(now_ms - (180 - step) * 10_000);
            app.history.append(number, at, &samples(if step == 90 { 97.0 } else { 20.0 }));
        }
    }
    let viewer = app.login(Role::Viewer).await;
    (app, viewer)
}

async fn page(app: &TestApp, who: &Who, path: &str) -> String {
    let answer = app.get(path).by(who).send().await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.text()
}

#[tokio::test]
async fn the_page_says_what_each_chart_draws_and_where_its_thresholds_are() {
    let (app, viewer) = with_history(&["web-1", "web-2"]).await;
    let html = page(&app, &viewer, "/servers/web-1/metrics?range=24h&with=web-2&compare=week").await;
    for part in [
        "data-servers=\"web-1,web-2\"",
        "data-metrics=\"load1,load5,load15\"",
        "data-thresholds=\"90,97\"",
        "data-metrics=\"llm_requests\"",
        "<option value=\"week\" selected",
        "aria-label=\"Without web-2\"",
        "data-range=\"1y\"",
    ] {
        assert!(html.contains(part), "{part}");
    }
    assert!(
        html.contains("range=24h\" data-range=\"24h\" data-seconds=\"86400\" aria-current=\"true\""),
        "{html}"
    );
    // A server that is gone is left out, and no words of the address become markup.
    let html = page(&app, &viewer, "/servers/web-1/metrics?with=ghost,%3Cscript%3E&range=%3Cscript%3E").await;
    assert!(html.contains("data-servers=\"web-1\"") && !html.contains("<script>"));
}

#[tokio::test]
async fn without_a_script_the_range_is_tables_and_drawings() {
    let (app, viewer) = with_history(&["web-1", "web-2"]).await;
    let html = page(&app, &viewer, "/servers/web-1/metrics?view=table&range=1h&with=web-2").await;
    for part in
        ["<svg class=\"drawing\"", "20.0%", "to 97.0%", "91.0%", "llm_requests", "web-2 CPU", "As charts"]
    {
        assert!(html.contains(part), "{part}");
    }
    assert!(html.contains("/srv/&#60;b&#62;data") && !html.contains("<b>data"), "labels of servers are text");
    assert!(!html.contains("uPlot"), "nothing of the charts is loaded");
    assert!(html.contains("range=24h"), "the ranges are links");
    let fleet = page(&app, &viewer, "/charts?view=table&range=1h").await;
    for part in ["95th percentile", "20.0%", "web-2", "over 2 servers"] {
        assert!(fleet.contains(part), "{part}");
    }
    let empty = page(&app, &viewer, "/charts?view=table&range=15m&metric=swap_percent").await;
    assert!(empty.contains("Nothing was recorded"));
    // The view with a script tells the way to the other one.
    let html = page(&app, &viewer, "/charts?range=6h").await;
    assert!(html.contains("<noscript>") && html.contains("range=6h&#38;view=table"), "{html}");
}

#[tokio::test]
async fn charts_of_the_fleet_follow_its_filters_and_name_servers_beside_each_other() {
    let (app, viewer) = with_history(&["web-1", "web-2", "db-1"]).await;
    let html = page(&app, &viewer, "/charts?metric=load1&health=unknown").await;
    assert!(html.contains("over 3 servers") && html.contains("data-filter=\"health=unknown\""), "{html}");
    assert!(html.contains("data-source=\"aggregate\" data-metrics=\"load1\""), "{html}");
    assert!(html.contains("data-source=\"top\" data-metrics=\"load1\""), "{html}");
    let html = page(&app, &viewer, "/charts?health=healthy").await;
    assert!(html.contains("over 0 servers"));
    let html = page(&app, &viewer, "/charts?server=web-1,db-1,ghost").await;
    assert!(html.contains("data-servers=\"web-1,db-1\"") && html.contains("Not all of these servers exist"));
}

async fn sampled(socket: &mut Socket) -> Value {
    loop {
        let text = in_time("a message", socket.text()).await.unwrap();
        let message: Value = serde_json::from_str(&text).unwrap();
        if let Some(sample) = message.pointer("/samples/0") {
            return sample.clone();
        }
    }
}

#[tokio::test]
async fn samples_of_servers_that_are_compared_arrive_on_the_open_page() {
    let app = TestApp::start().await;
    app.services.fleet.ensure_local("here").await.unwrap();
    app.with_inactive("web-1").await;
    let viewer = app.login(Role::Viewer).await;
    app.until("here", "read", |state| state.figures.cpu_percent.is_some()).await;
    let (own, other) = (app.state("web-1").server.id, app.state("here").server.id);
    let address = app.listen().await;
    for view in [format!("server:{own}:metrics&with=here"), "charts&server=here".to_owned()] {
        let mut socket = app.socket(address, &format!("/live?view={view}"), &viewer).await;
        let sample = sampled(&mut socket).await;
        assert_eq!(sample["server"], other.to_string(), "{view}");
        assert!(sample["values"]["cpu_percent"].is_number(), "{sample}");
    }
}

#[tokio::test]
async fn a_day_of_every_chart_of_a_server_is_asked_in_little_time_a_series() {
    let app = TestApp::start().await;
    app.with_inactive("web-1").await;
    let number = app.state("web-1").server.number;
    let now_ms = app.services.clock.now().as_millis();
    let names: Vec<String> = (0..40).map(|core| core.to_string()).collect();
    for step in 0..8640_i64 {
        let at = Timestamp::from_millis(now_ms - (8640 - step) * 10_000);
        let samples: Vec<Sample> = names
            .iter()
            .map(|core| Sample {
                key: SeriesKey { metric: MetricName::known("core_percent"), labels: Labels::of(core) },
                value: f64::from(u32::try_from((step * 7) % 100).unwrap()),
            })
            .collect();
        app.history.append(number, at, &samples);
    }
    let viewer = app.token(Role::Viewer).await;
    let path = "/api/v1/fleet/metrics?server=web-1&metric=core_percent&period=24h&points=600";
    let mut quickest = Duration::MAX;
    for _ in 0..3 {
        let started = Instant::now();
        let answer = app.get(path).by(&viewer).send().await.expect(200);
        quickest = quickest.min(started.elapsed());
        assert_eq!(answer["metrics"][0]["servers"][0]["series"].as_array().unwrap().len(), 40);
    }
    // SPEC 6.3 gives a series 20 ms; 40 of them are read, and this build is not even optimised.
    assert!(quickest < Duration::from_millis(40 * 20), "{quickest:?}");
}

fn retention<'a>(raw: &'a str, minutes: &'a str, archive: &'a str) -> [(&'a str, &'a str); 10] {
    [
        ("command_records_days", "9"),
        ("operations_days", "365"),
        ("audit_days", "365"),
        ("raw_days", raw),
        ("m1_days", minutes),
        ("m5_days", "30"),
        ("m15_days", "90"),
        ("h1_days", "365"),
        ("d1_days", "1825"),
        ("archive", archive),
    ]
}

#[tokio::test]
async fn how_long_everything_is_kept_is_set_on_the_page_and_both_stores_obey() {
    let (app, viewer) = with_history(&["web-1"]).await;
    let admin = app.login(Role::Admin).await;
    let html = page(&app, &admin, "/settings").await;
    for part in ["Every reading", "Command records", "name=\"raw_days\" value=\"5\"", "on disk", "Audit log"]
    {
        assert!(html.contains(part), "{part}");
    }
    let save =
        async |form: &[(&str, &str)]| app.post("/settings/retention").by(&admin).form(form).send().await;
    let saved = save(&retention("7", "20", "")).await;
    assert_eq!(
        (saved.status, saved.header("location")),
        (303, "/settings?done=saved#history"),
        "{}",
        saved.text()
    );
    assert_eq!(app.history.retention().raw_days, 7);
    let kept = app.get("/api/v1/settings/retention").by(&admin).send().await.expect(200);
    assert_eq!(
        (&kept["command_records_days"], &kept["raw_days"], &kept["m1_days"]),
        (&9.into(), &7.into(), &20.into())
    );
    for (form, field) in [
        (retention("many", "20", ""), "raw_days"),
        (retention("30", "20", ""), "m1_days"),
        (retention("1", "20", ""), "raw_days"),
        (retention("7", "20", "backups"), "archive"),
        (retention("7", "20", "/nowhere/to/be/found"), "archive"),
    ] {
        let refused = save(&form).await;
        assert_eq!(refused.status, 422, "{field}");
        let text = refused.text();
        let (_, rest) = text.split_once(&format!("name=\"{field}\"")).unwrap();
        assert!(rest.split("</label>").next().unwrap().contains("class=\"wrong\""), "{field}: {rest}");
    }
    assert_eq!(app.history.retention().raw_days, 7, "what was refused changed nothing");
    let audit = app.get("/api/v1/audit?limit=5").by(&admin).send().await.expect(200);
    assert!(audit.to_string().contains("retention.set"), "{audit}");
    let html = page(&app, &viewer, "/settings").await;
    assert!(!html.contains("raw_days") && html.contains("on disk within two seconds"));
    assert_eq!(app.post("/settings/retention").by(&viewer).form(&[]).send().await.status, 403);
}

#[tokio::test]
async fn everybody_is_told_on_every_page_while_history_cannot_be_written() {
    let (app, viewer) = with_history(&["web-1"]).await;
    let number = app.state("web-1").server.number;
    let blocker = rusqlite::Connection::open(app.data().join("history.db")).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    support::eventually("history says that it cannot be written", || {
        app.history.append(number, app.services.clock.now(), &samples(1.0));
        app.history.health().last_error.is_some()
    })
    .await;
    for path in ["/", "/servers/web-1", "/charts", "/settings"] {
        let html = page(&app, &viewer, path).await;
        assert!(html.contains("id=\"alarm\"") && html.contains("History is not written"), "{path}");
    }
    blocker.execute_batch("ROLLBACK").unwrap();
    support::eventually("history has caught up", || app.history.health().last_error.is_none()).await;
    assert!(!page(&app, &viewer, "/").await.contains("id=\"alarm\""));
}
