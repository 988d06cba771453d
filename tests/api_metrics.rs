//! History over the API: many servers and metrics at once, aggregates over the fleet, files, what happened, older
//! addresses, and every question that cannot be meant.
#![expect(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::time::Duration;

use roundsman::fleet::NewServer;
use roundsman::model::{
    Caller, Labels, MetricName, OperationId, OperationStatus, Role, Sample, SeriesKey, ServerNumber, Status,
    TargetStatus, Timestamp,
};
use roundsman::store;
use roundsman::store::operations::{self, Operation, Target};
use serde_json::{Value, json};
use support::app::{Answer, TestApp, Who};

const RANGES: &str = "/api/v1/fleet/metrics";
const AGGREGATED: &str = "/api/v1/fleet/metrics/aggregated";

fn plain(metric: &'static str, value: f64) -> Sample {
    Sample { key: SeriesKey::plain(metric), value }
}

fn labelled(metric: &'static str, label: &str, value: f64) -> Sample {
    Sample { key: SeriesKey { metric: MetricName::known(metric), labels: Labels::of(label) }, value }
}

fn custom(metric: &str, value: f64) -> Sample {
    let key = SeriesKey { metric: MetricName::custom(metric.to_owned()), labels: Labels::NONE };
    Sample { key, value }
}

/// A program with servers that nobody reads: their history is what a test appends.
struct Fixture {
    app: TestApp,
    viewer: Who,
    /// A whole second, an hour ago.
    start: Timestamp,
}

impl Fixture {
    async fn with_servers(names: &[&str]) -> Self {
        let app = TestApp::start().await;
        for name in names {
            app.with_inactive(name).await;
        }
        let viewer = app.token(Role::Viewer).await;
        let now_s = app.services.clock.now().as_millis() / 1000;
        Self { app, viewer, start: Timestamp::from_millis((now_s - 3600) * 1000) }
    }

    fn number(&self, name: &str) -> ServerNumber {
        self.app.state(name).server.number
    }

    fn at(&self, second: i64) -> Timestamp {
        Timestamp::from_millis(self.start.as_millis() + second * 1000)
    }

    fn append(&self, name: &str, second: i64, samples: &[Sample]) {
        self.app.history.append(self.number(name), self.at(second), samples);
    }

    async fn ask(&self, path: &str) -> Answer {
        self.app.get(path).by(&self.viewer).send().await
    }

    async fn json(&self, path: &str) -> Value {
        self.ask(path).await.expect(200)
    }

    /// `from=…&to=…` of these seconds after the start, both included.
    fn span(&self, from: i64, to: i64) -> String {
        format!("from={}&to={}", self.at(from).as_millis(), self.at(to).as_millis())
    }
}

fn averages(series: &Value) -> Vec<f64> {
    series["points"].as_array().unwrap().iter().map(|point| point[1].as_f64().unwrap()).collect()
}

#[tokio::test]
async fn samples_of_a_server_go_at_the_next_start_when_the_program_ended_at_its_removal() {
    let f = Fixture::with_servers(&["web-1", "web-2"]).await;
    for name in ["web-1", "web-2"] {
        f.append(name, 0, &[plain("cpu_percent", 5.0)]);
    }
    let (gone, kept, server) = (f.number("web-1"), f.number("web-2"), f.app.state("web-1").server.clone());
    let (from, to) = (f.at(-1), f.at(1));
    let metric = MetricName::known("cpu_percent");
    // As far as a removal comes that is killed before history is told.
    let removed = f.app.services.clock.now();
    f.app
        .store
        .write(move |tx| {
            store::servers::remove(tx, server.organization, server.id)?;
            store::settings::note_to_forget(tx, removed, server.number)
        })
        .await
        .unwrap();
    let app = f.app.restart().await;
    let found =
        async |number| app.history.range_all(number, &metric, from, to, 1).await.unwrap().series.len();
    assert_eq!((found(gone).await, found(kept).await), (0, 1));
    assert!(app.store.read(store::settings::to_forget).await.unwrap().is_empty());
}

#[tokio::test]
async fn several_servers_and_metrics_are_one_answer_in_the_order_of_the_question() {
    let f = Fixture::with_servers(&["web-1", "web-2"]).await;
    for second in 0..10 {
        f.append("web-1", second, &[plain("cpu_percent", 10.0), plain("load1", 1.5)]);
        f.append("web-2", second, &[plain("cpu_percent", 20.0), labelled("core_percent", "0", 7.0)]);
    }
    let path =
        format!("{RANGES}?server=web-2,web-1&metric=load1&metric=cpu_percent,core_percent&{}", f.span(0, 9));
    let answer = f.json(&path).await;
    let names: Vec<&str> =
        answer["metrics"].as_array().unwrap().iter().map(|one| one["metric"].as_str().unwrap()).collect();
    assert_eq!(names, ["load1", "cpu_percent", "core_percent"]);
    let cpu = &answer["metrics"][1];
    assert_eq!((&cpu["title"], &cpu["unit"]), (&json!("CPU"), &json!("percent")));
    assert_eq!(cpu["servers"][0]["server"], "web-2");
    assert_eq!(averages(&cpu["servers"][0]["series"][0]), [20.0; 10]);
    assert_eq!(averages(&cpu["servers"][1]["series"][0]), [10.0; 10]);
    assert_eq!(answer["metrics"][0]["servers"][0]["series"], json!([]), "web-2 has no load");
    assert_eq!(answer["metrics"][2]["servers"][0]["series"][0]["label"], "0");
    assert!(answer["span_ms"].as_i64().unwrap() > 0 && answer["level"].is_string(), "{answer}");
    // The same of one server stands under its own address.
    let own =
        f.json(&format!("/api/v1/fleet/servers/web-2/metrics?metric=cpu_percent&{}", f.span(0, 9))).await;
    assert_eq!(own["series"], cpu["servers"][0]["series"]);
    assert_eq!(own["level"], answer["level"]);
}

#[tokio::test]
async fn a_peak_is_in_the_greatest_of_its_span_and_a_gap_stays_a_gap() {
    let f = Fixture::with_servers(&["web-1"]).await;
    for second in (0..300).chain(600..900) {
        f.append("web-1", second, &[plain("cpu_percent", if second == 123 { 99.5 } else { 5.0 })]);
    }
    let path = format!("/api/v1/fleet/servers/web-1/metrics?metric=cpu_percent&points=30&{}", f.span(0, 899));
    let answer = f.json(&path).await;
    let points = answer["series"][0]["points"].as_array().unwrap();
    assert!(points.len() <= 31);
    let most = points.iter().map(|point| point[3].as_f64().unwrap()).fold(0.0, f64::max);
    assert!((most - 99.5).abs() < 0.01, "{most}");
    let times: Vec<i64> = points.iter().map(|point| point[0].as_i64().unwrap()).collect();
    let widest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(widest >= 240_000, "{times:?}");
}

#[tokio::test]
async fn a_question_that_cannot_be_meant_is_refused_with_what_would_be_right() {
    let f = Fixture::with_servers(&["web-1"]).await;
    f.append("web-1", 0, &[plain("cpu_percent", 1.0), custom("llm_requests", 4.0)]);
    let many = (0..51).map(|n| format!("s{n}")).collect::<Vec<_>>().join(",");
    for (query, status, word) in [
        ("server=web-1&metric=cpu_percent&points=0", 422, "1 to 5000"),
        ("server=web-1&metric=cpu_percent&points=5001", 422, "1 to 5000"),
        ("server=web-1&metric=cpu_percent&points=many", 422, "number of points"),
        ("server=web-1&metric=cpu_precent", 404, "cpu_percent"),
        ("server=web-1&metric=llm_request", 404, "llm_requests"),
        (
            "server=web-1&metric=cpu_percent&from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z",
            422,
            "before it begins",
        ),
        ("server=web-1&metric=cpu_percent&from=yesterday", 422, "RFC 3339"),
        ("server=web-1&metric=cpu_percent&period=1fortnight", 422, "24h"),
        ("server=web-1&metric=cpu_percent&format=xml", 422, "csv or json"),
        ("server=web-1", 422, "metrics"),
        ("metric=cpu_percent", 422, "servers"),
        ("server=ghost&metric=cpu_percent", 404, "ghost"),
        (&format!("server={many}&metric=cpu_percent"), 422, "1 to 50"),
    ] {
        let answer = f.ask(&format!("{RANGES}?{query}")).await;
        assert_eq!(answer.status, status, "{query}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(word), "{query}: {detail}");
    }
    let refused = f.ask("/api/v1/fleet/servers/web-1/metrics?metric=cpu_precent").await.expect(404);
    assert_eq!(refused["near"][0], "cpu_percent");
    assert_eq!(refused["type"], "urn:roundsman:problem:no-such-metric");
}

#[tokio::test]
async fn ten_years_are_answered_in_bounded_points() {
    let f = Fixture::with_servers(&["web-1"]).await;
    f.append("web-1", 0, &[plain("cpu_percent", 42.0)]);
    let answer =
        f.json("/api/v1/fleet/servers/web-1/metrics?metric=cpu_percent&period=10y&points=5000").await;
    assert_eq!(averages(&answer["series"][0]), [42.0]);
    let answer = f.json(&format!("{AGGREGATED}?metric=cpu_percent&time_range=10y&period=30d")).await;
    assert_eq!(answer["metrics"][0]["aggregates"][0]["points"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_file_has_every_value_and_no_formula() {
    let f = Fixture::with_servers(&["web-1"]).await;
    for second in 0..3 {
        let hostile = labelled("filesystem_percent", "=cmd|' /C calc'!A0", 50.0);
        f.append("web-1", second, &[plain("cpu_percent", 12.5), hostile]);
    }
    let query = format!("metric=cpu_percent,filesystem_percent&format=csv&{}", f.span(0, 2));
    let answer = f.ask(&format!("/api/v1/fleet/servers/web-1/metrics?{query}")).await;
    assert_eq!(answer.header("content-type"), "text/csv; charset=utf-8");
    assert_eq!(answer.header("content-disposition"), "attachment; filename=\"web-1_2_metrics.csv\"");
    let text = answer.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "time,server,metric,label,average,minimum,maximum,samples");
    assert_eq!(lines.len(), 1 + 6);
    assert!(lines[1].ends_with(",web-1,cpu_percent,,12.5,12.5,12.5,1"), "{}", lines[1]);
    assert!(lines[4].contains(",\"'=cmd|"), "{}", lines[4]);
    let query = format!("metric=cpu_percent&format=csv&aggregate=avg&points=1&{}", f.span(0, 2));
    let text = f.ask(&format!("{AGGREGATED}?{query}")).await.text();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.lines().nth(1).unwrap().ends_with(",cpu_percent,avg,,,12.5"), "{text}");
}

#[tokio::test]
async fn aggregates_are_over_the_servers_that_the_filter_accepts() {
    let f = Fixture::with_servers(&["a", "b", "c"]).await;
    let admin = f.app.token(Role::Admin).await;
    for (name, region, tag) in [("a", "eu", "web"), ("b", "eu", "db"), ("c", "us", "web")] {
        let body = json!({ "region": region, "tags": [tag] });
        let path = format!("/api/v1/fleet/servers/{name}");
        f.app.call("PATCH", &path).by(&admin).json(&body).send().await.expect(200);
    }
    for (name, value) in [("a", 10.0), ("b", 30.0), ("c", 80.0)] {
        for second in 0..60 {
            f.append(name, second, &[plain("cpu_percent", value)]);
        }
    }
    let span = f.span(0, 59);
    let ask = async |query: &str| {
        let path = format!("{AGGREGATED}?metric=cpu_percent&points=1&{span}&{query}");
        let answer = f.json(&path).await;
        let values: Vec<f64> = answer["metrics"][0]["aggregates"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["points"][0][1].as_f64().unwrap())
            .collect();
        (answer, values)
    };
    let (answer, values) = ask("aggregate=avg,sum,min,max,p50,p95,count&top=2").await;
    assert_eq!(values, [40.0, 120.0, 10.0, 80.0, 30.0, 75.0, 3.0]);
    let top = answer["metrics"][0]["top"].as_array().unwrap();
    assert_eq!((top.len(), &top[0]["server"], &top[0]["value"]), (2, &json!("c"), &json!(80.0)));
    assert_eq!((&answer["total_servers"], &answer["metrics"][0]["servers"]), (&json!(3), &json!(3)));
    for (filter, average) in [
        ("region=eu", 20.0),
        ("tag=web", 45.0),
        ("tag=web&region=eu", 10.0),
        ("server_ids=a,c", 45.0),
        ("server_ids=a,b,c&region=us", 80.0),
        ("search=B", 30.0),
    ] {
        assert_eq!(ask(&format!("aggregate=avg&{filter}")).await.1, [average], "{filter}");
    }
    let none = f.json(&format!("{AGGREGATED}?metric=cpu_percent&region=nowhere")).await;
    assert_eq!((&none["total_servers"], &none["metrics"][0]["servers"]), (&json!(0), &json!(0)));
}

#[tokio::test]
async fn aggregates_take_the_length_of_a_span_and_a_time_range() {
    let f = Fixture::with_servers(&["a"]).await;
    f.append("a", 0, &[plain("cpu_percent", 10.0), plain("memory_percent", 20.0)]);
    let answer = f.json(&format!("{AGGREGATED}?period=1h&time_range=24h")).await;
    let (from, to) = (answer["from"].as_str().unwrap(), answer["to"].as_str().unwrap());
    let length = Timestamp::parse(to).unwrap().since(Timestamp::parse(from).unwrap());
    assert_eq!(length, Duration::from_secs(24 * 3600));
    assert_eq!(answer["span_ms"], 3_600_000);
    assert_eq!(answer["metrics"].as_array().unwrap().len(), 4, "the usual metrics");
    for (query, word) in [
        ("aggregate=average,frequency", "frequency"),
        ("top=101", "100"),
        ("top=few", "number"),
        ("time_range=never", "period"),
        ("points=0", "1 to 5000"),
        ("metric=cpu_precent", "cpu_percent"),
        ("server_ids=ghost", "ghost"),
    ] {
        let answer = f.ask(&format!("{AGGREGATED}?{query}")).await;
        assert!(matches!(answer.status, 404 | 422), "{query}: {}", answer.text());
        assert!(answer.json()["detail"].as_str().unwrap().contains(word), "{query}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_custom_metric_is_asked_for_by_its_name() {
    let f = Fixture::with_servers(&["a", "b"]).await;
    for second in 0..5 {
        f.append("a", second, &[custom("llm_cost_usd", 0.000_25)]);
        f.append("b", second, &[plain("cpu_percent", 1.0)]);
    }
    let query = format!("metric=llm_cost_usd&{}", f.span(0, 4));
    let answer = f.json(&format!("{RANGES}?server=a,b&{query}")).await;
    let metric = &answer["metrics"][0];
    assert_eq!((&metric["title"], &metric["unit"]), (&json!("llm_cost_usd"), &json!("number")));
    assert_eq!(averages(&metric["servers"][0]["series"][0]), [0.000_25; 5]);
    let sum = f.json(&format!("{AGGREGATED}?aggregate=sum&points=1&{query}")).await;
    assert_eq!(sum["metrics"][0]["aggregates"][0]["points"][0][1], 0.000_25);
}

#[tokio::test]
async fn servers_of_others_are_neither_named_nor_counted() {
    let f = Fixture::with_servers(&["ours"]).await;
    let foreign = f.app.foreign_server("theirs").await;
    f.append("ours", 0, &[plain("cpu_percent", 1.0)]);
    for path in [
        format!("{RANGES}?server={foreign}&metric=cpu_percent"),
        format!("{AGGREGATED}?server_ids={foreign}"),
        format!("/api/v1/fleet/servers/{foreign}/timeline"),
        format!("/api/metrics/{foreign}"),
    ] {
        assert_eq!(f.ask(&path).await.status, 404, "{path}");
    }
    assert_eq!(f.json(AGGREGATED).await["total_servers"], 1);
    assert_eq!(f.json("/api/metrics/summary").await["total_servers"], 1);
}

/// An operation on one server, as it stands in the database when it is done.
async fn with_operation(f: &Fixture, name: &str, second: i64) -> OperationId {
    let id = OperationId::new(f.app.services.clock.new_uuid());
    let at = f.at(second);
    let organization = Caller::roundsman().organization;
    let server = f.app.state(name).server.id;
    let operation = Operation {
        id,
        organization,
        kind: "restart_service".to_owned(),
        title: "restart nginx".to_owned(),
        parameters: json!({}),
        initiated_by: "anna".to_owned(),
        status: OperationStatus::Pending,
        created_at: at,
        started_at: None,
        completed_at: None,
        selector: json!({}),
        strategy: json!({}),
        retry_of: None,
        is_repeatable: false,
        paused_at: None,
        halted: None,
    };
    let target = Target {
        position: 0,
        server,
        server_name: name.to_owned(),
        status: TargetStatus::Succeeded,
        command: None,
        error: None,
        record: None,
        batch: 0,
        started_at: None,
        completed_at: None,
    };
    let write = move |tx: &rusqlite::Transaction<'_>| {
        operations::insert(tx, &operation, &[target])?;
        operations::set_status(tx, id, OperationStatus::Completed, at)
    };
    f.app.store.write(write).await.unwrap();
    id
}

#[tokio::test]
async fn the_timeline_tells_operations_restarts_and_times_without_readings() {
    let f = Fixture::with_servers(&["web-1"]).await;
    for second in 0..100_u32 {
        f.append("web-1", second.into(), &[plain("uptime_seconds", f64::from(10_000 + second))]);
    }
    // Silent for 200 s, and restarted 20 s before it speaks again.
    for second in 300..400_u32 {
        f.append("web-1", second.into(), &[plain("uptime_seconds", f64::from(second - 280))]);
    }
    let id = with_operation(&f, "web-1", 50).await;
    with_operation(&f, "web-1", -90_000).await;
    let timeline = f.json(&format!("/api/v1/fleet/servers/web-1/timeline?{}", f.span(0, 399))).await;
    let items = timeline["items"].as_array().unwrap();
    let kinds: Vec<&str> = items.iter().map(|item| item["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["operation", "outage", "reboot"], "{timeline}");
    assert_eq!((&items[0]["operation_id"], &items[0]["status"]), (&json!(id), &json!("completed")));
    assert_eq!((&items[0]["title"], &items[0]["initiated_by"]), (&json!("restart nginx"), &json!("anna")));
    let second = |value: &Value| {
        let at = Timestamp::parse(value.as_str().unwrap()).unwrap();
        (at.as_millis() - f.start.as_millis()) / 1000
    };
    assert!((99..=101).contains(&second(&items[1]["at"])), "{timeline}");
    assert!((299..=301).contains(&second(&items[1]["until"])), "{timeline}");
    assert!((278..=282).contains(&second(&items[2]["at"])), "{timeline}");
    let reversed = f.ask("/api/v1/fleet/servers/web-1/timeline?from=20&to=10").await;
    assert_eq!(reversed.status, 422);
}

#[tokio::test]
async fn older_addresses_answer_in_the_older_shapes() {
    let f = Fixture::with_servers(&["web-1"]).await;
    let unreachable = NewServer {
        name: Some("gone".to_owned()),
        hostname: "127.0.0.1".to_owned(),
        port: Some(support::sshd::free_port().into()),
        unchecked: true,
        status: Some(Status::Active),
        ..NewServer::default()
    };
    f.app.add(unreachable).await;
    f.app.until("gone", "unreachable", |state| state.health.name() == "unreachable").await;
    let summary = f.json("/api/metrics/summary").await;
    for (field, value) in
        [("total_servers", 2), ("online_servers", 0), ("offline_servers", 1), ("unknown_servers", 1)]
    {
        assert_eq!(summary[field], value, "{field}: {summary}");
    }
    assert_eq!(summary["avg_cpu_percent"], Value::Null, "unknown is unknown, never 0");
    let first = &summary["servers"][0];
    for field in ["id", "name", "host", "status", "last_seen", "last_metrics"] {
        assert!(first.get(field).is_some(), "{field} is missing in {first}");
    }
    // The interval of a server that names none is a second here, so 250 readings are more than the last 200.
    let now = f.app.services.clock.now().as_millis() / 1000 - f.start.as_millis() / 1000;
    for second in now - 250..now {
        f.append("web-1", second, &[plain("cpu_percent", 25.0), custom("llm_requests", 3.0)]);
    }
    let number = f.number("web-1").0;
    for reference in ["web-1".to_owned(), number.to_string()] {
        let samples = f.json(&format!("/api/metrics/{reference}")).await;
        let rows = samples.as_array().unwrap_or_else(|| panic!("{samples} is no list"));
        assert!((190..=200).contains(&rows.len()), "{}", rows.len());
        assert_eq!((&rows[0]["cpu_percent"], &rows[0]["llm_requests"]), (&json!(25.0), &json!(3.0)));
        assert_eq!(rows[0]["server_id"], json!(f.app.state("web-1").server.id));
        let time = |row: &Value| Timestamp::parse(row["timestamp"].as_str().unwrap()).unwrap();
        assert!(rows.windows(2).all(|pair| time(&pair[0]) > time(&pair[1])), "the newest is first");
    }
    assert_eq!(f.ask("/api/metrics/99999").await.status, 404);
    assert_eq!(f.app.get("/api/metrics/summary").send().await.status, 401);
}
