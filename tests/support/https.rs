//! An HTTPS server with an authority of its own, whose answers and certificate a test chooses.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// What it does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// Status, more header lines (each with its line end), body.
    Say(u16, String, String),
    /// Takes the request and says nothing.
    Silence,
}

impl Answer {
    pub(crate) fn json(value: &serde_json::Value) -> Self {
        Self::Say(200, String::new(), value.to_string())
    }

    pub(crate) fn status(status: u16, body: &str) -> Self {
        Self::Say(status, String::new(), body.to_owned())
    }
}

/// Heads of the requests that came, without their line ends.
type Seen = Arc<Mutex<Vec<String>>>;
type Answers = Arc<Mutex<BTreeMap<String, Answer>>>;

pub(crate) struct Https {
    pub(crate) address: SocketAddr,
    /// The authority's certificate.
    pub(crate) ca_pem: String,
    /// DER of the server's own.
    pub(crate) certificate: CertificateDer<'static>,
    answers: Answers,
    seen: Seen,
    task: JoinHandle<()>,
}

impl Drop for Https {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How the certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Valid,
    Expired,
    OfAnotherName,
    /// No TLS at all.
    Plain,
}

impl Https {
    pub(crate) async fn start() -> Self {
        Self::of(Kind::Valid).await
    }

    pub(crate) async fn of(kind: Kind) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), kind)
    }

    pub(crate) fn on(listener: TcpListener, kind: Kind) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        // Two authorities of one name would be taken for one.
        ca.distinguished_name
            .push(DnType::CommonName, format!("authority of port {}", listener.local_addr().unwrap().port()));
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = Issuer::new(ca, ca_key);
        let names = if kind == Kind::OfAnotherName { ["elsewhere.example"] } else { ["127.0.0.1"] };
        let mut leaf = CertificateParams::new(names.map(str::to_owned).to_vec()).unwrap();
        if kind == Kind::Expired {
            leaf.not_before = rcgen::date_time_ymd(2001, 1, 1);
            leaf.not_after = rcgen::date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = leaf.signed_by(&key, &issuer).unwrap().der().clone();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], private)
            .unwrap();
        let acceptor = (kind != Kind::Plain).then(|| TlsAcceptor::from(Arc::new(config)));
        let (answers, seen) = (Answers::default(), Seen::default());
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(serve(listener, acceptor, Arc::clone(&answers), Arc::clone(&seen)));
        Self { address, ca_pem, certificate, answers, seen, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(crate) fn answers(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    /// The heads of the requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(listener: TcpListener, acceptor: Option<TlsAcceptor>, answers: Answers, seen: Seen) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, answers, seen) = (acceptor.clone(), Arc::clone(&answers), Arc::clone(&seen));
        tokio::spawn(async move {
            // A client that turns away is what some tests are about.
            match acceptor {
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        connection(stream, &answers, &seen).await;
                    }
                }
                None => plain(stream, &seen).await,
            }
        });
    }
}

/// What an HTTP server says to whoever begins with TLS.
async fn plain(mut stream: TcpStream, seen: &Seen) {
    let mut chunk = [0; 4096];
    let count = stream.read(&mut chunk).await.unwrap_or_default();
    seen.lock().unwrap().push(String::from_utf8_lossy(&chunk[..count]).into_owned());
    let _gone = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
}

async fn connection<S>(mut stream: S, answers: &Answers, seen: &Seen)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut held = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = held.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk).await {
                Ok(count) if count > 0 && held.len() < 64 * 1024 => held.extend_from_slice(&chunk[..count]),
                _ => return,
            }
        };
        let head = String::from_utf8_lossy(&held[..end]).trim().to_owned();
        held.drain(..end);
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        seen.lock().unwrap().push(head);
        let answer = answers.lock().unwrap().get(&path).cloned();
        let (status, headers, body) = match answer {
            Some(Answer::Say(status, headers, body)) => (status, headers, body),
            Some(Answer::Silence) => std::future::pending().await,
            None => (404, String::new(), "nothing here".to_owned()),
        };
        let text = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len());
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}
