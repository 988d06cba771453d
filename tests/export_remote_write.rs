//! Remote-write to a long-term store that is slow, full, wrong or hostile.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use roundsman::clock::SystemClock;
use roundsman::config::{RemoteAuth, RemoteWrite};
use roundsman::export::Options;
use roundsman::model::Secret;
use support::app::TestApp;
use support::eventually;
use support::program::client;
use support::sshd::Sshd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What a store got.
#[derive(Debug, Clone)]
struct Got {
    head: String,
    series: Vec<u8>,
}

/// A store that gives these answers, one a request, and then takes everything.
struct Receiver {
    address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Receiver {
    async fn with(answers: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let got: Arc<Mutex<Vec<Got>>> = Arc::default();
        let answers: Vec<String> = answers.iter().map(ToString::to_string).collect();
        let kept = Arc::clone(&got);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let request = read(&mut stream).await;
                let at = {
                    let mut got = kept.lock().unwrap();
                    got.push(request);
                    got.len() - 1
                };
                let answer = answers.get(at).map_or("204 No Content", String::as_str);
                let text = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        });
        Self { address, got }
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
}

async fn read(stream: &mut TcpStream) -> Got {
    let mut bytes = Vec::new();
    let mut part = vec![0; 65_536];
    loop {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8(bytes.get(..end).unwrap().to_vec()).unwrap().to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let body = bytes.get(end + 4..).unwrap();
            if body.len() >= length.trim().parse().unwrap() {
                return Got { series: snap::raw::Decoder::new().decompress_vec(body).unwrap(), head };
            }
        }
        let count = stream.read(&mut part).await.unwrap();
        assert!(count > 0, "the request broke off");
        bytes.extend_from_slice(part.get(..count).unwrap());
    }
}

async fn sending_to(address: SocketAddr, auth: Option<RemoteAuth>, queue_samples: usize) -> (Sshd, TestApp) {
    // reqwest asks for a TLS provider even where it speaks plain HTTP.
    drop(client());
    let remote_write = RemoteWrite {
        url: format!("http://{address}/api/v1/write").parse().unwrap(),
        auth,
        ca_file: None,
        every: Duration::from_secs(1),
        queue_samples,
        allow_link_local: false,
    };
    let options = Options { remote_write: Some(remote_write), ..Options::default() };
    let app = TestApp::start_with(Arc::new(SystemClock), options).await;
    let sshd = Sshd::start().await;
    app.with_server("web-1", &sshd).await;
    (sshd, app)
}

fn holds(got: &Got, text: &str) -> bool {
    got.series.windows(text.len()).any(|part| part == text.as_bytes())
}

#[tokio::test]
async fn a_store_that_is_busy_is_asked_again_and_one_that_refuses_is_not() {
    let elsewhere = Receiver::with(&[]).await;
    let redirect = format!("302 Found\r\nLocation: http://{}/", elsewhere.address);
    let answers = [
        "503 Service Unavailable",
        "429 Too Many Requests\r\nRetry-After: 0",
        "204 No Content",
        "400 Bad Request",
        redirect.as_str(),
    ];
    let store = Receiver::with(&answers).await;
    let auth = RemoteAuth::Basic { username: "me".to_owned(), password: Secret::new("secret".to_owned()) };
    let (_sshd, app) = sending_to(store.address, Some(auth), 100_000).await;
    eventually("seven requests", || store.got().len() >= 7).await;
    let got = store.got();
    let first = got.first().unwrap();
    for header in [
        "post /api/v1/write http/1.1",
        "content-encoding: snappy",
        "content-type: application/x-protobuf",
        "x-prometheus-remote-write-version: 0.1.0",
        "authorization: basic bwu6c2vjcmv0",
    ] {
        assert!(first.head.contains(header), "{header} is not in {}", first.head);
    }
    for text in ["node_load1", "node_cpu_seconds_total", "instance", "web-1", "__name__"] {
        assert!(holds(first, text), "{text}");
    }
    let series: Vec<&[u8]> = got.iter().map(|got| got.series.as_slice()).collect();
    assert!(series.windows(2).take(2).all(|pair| pair[0] == pair[1]), "the same again, twice");
    assert!(series.windows(2).skip(2).take(4).all(|pair| pair[0] != pair[1]), "then never the same");
    eventually("the counts", || app.services.export.remote_write().unwrap().samples > 0).await;
    let sent = app.services.export.remote_write().unwrap();
    assert_eq!((sent.retries, sent.dropped), (2, 0), "{sent:?}");
    assert!(sent.refused > 50, "{sent:?}");
    assert!(elsewhere.got().is_empty(), "a redirect is not followed");
}

#[tokio::test]
async fn a_store_that_never_answers_delays_no_reading_and_fills_no_memory() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_sshd, app) = sending_to(silent.local_addr().unwrap(), None, 100).await;
    let first = app.until("web-1", "read", |state| state.last_seen_at.is_some()).await.last_seen_at;
    let begun = tokio::time::Instant::now();
    app.until("web-1", "read again", |state| state.last_seen_at > first).await;
    eventually("readings that do not fit are counted", || {
        app.services.export.remote_write().unwrap().dropped > 0
    })
    .await;
    let sent = app.services.export.remote_write().unwrap();
    assert!(sent.queued <= 100 && sent.samples == 0, "{sent:?}");
    // A reading that waited for the store would wait for its time limit of 30 s.
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_metadata_address_is_refused_unless_it_was_meant() {
    drop(client());
    let write = |allow_link_local| RemoteWrite {
        url: "http://169.254.169.254/latest".parse().unwrap(),
        auth: None,
        ca_file: None,
        every: Duration::from_secs(1),
        queue_samples: 1000,
        allow_link_local,
    };
    let refused = roundsman::export::remote_write::RemoteWriter::new(write(false)).unwrap_err();
    assert!(refused.to_string().contains("allow_link_local"), "{refused}");
    assert!(roundsman::export::remote_write::RemoteWriter::new(write(true)).is_ok());
}
