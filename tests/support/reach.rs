//! Ways to a server: jump hosts and small proxies in the test's own process.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use roundsman::model::{Port, Secret};
use roundsman::ssh::{Connection, JumpHost, Proxy, ProxyKind, Route, SshError, Target, connect};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// A jump host that is dialled for each connection through it.
#[derive(Debug)]
pub(crate) struct Bastion {
    name: &'static str,
    target: Target,
}

impl Bastion {
    pub(crate) fn route(name: &'static str, target: Target) -> Route {
        Route::Jump(Arc::new(Self { name, target }))
    }
}

impl JumpHost for Bastion {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn connection(&self) -> Pin<Box<dyn Future<Output = Result<Connection, SshError>> + Send + '_>> {
        Box::pin(async { connect(&self.target, &mut |_| {}).await })
    }
}

/// A SOCKS5 proxy without login that answers every request with this reply (RFC 1928, section 6) and hangs up.
pub(crate) async fn socks5_that_answers(reply: u8) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut hello = [0; 3];
            socket.read_exact(&mut hello).await.unwrap();
            socket.write_all(&[5, 0]).await.unwrap();
            let mut request = [0; 10];
            socket.read_exact(&mut request).await.unwrap();
            socket.write_all(&[5, reply, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
        }
    });
    port
}

/// A proxy that works, and what it was asked for.
pub(crate) struct WorkingProxy {
    kind: ProxyKind,
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

/// The login that a [`WorkingProxy`] wants where it wants one.
pub(crate) const PROXY_LOGIN: (&str, &str) = ("me", "proxy horse");

impl WorkingProxy {
    pub(crate) async fn start(kind: ProxyKind, with_login: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    match kind {
                        ProxyKind::Socks5 => serve_socks5(socket, with_login, &seen).await,
                        ProxyKind::Http => serve_http(socket, with_login, &seen).await,
                    }
                });
            }
        });
        Self { kind, port, asked }
    }

    pub(crate) fn route(&self, login: Option<(&str, &str)>) -> Route {
        Route::Proxy(Proxy {
            kind: self.kind,
            host: "127.0.0.1".to_owned(),
            port: Port::of(i64::from(self.port)).unwrap(),
            login: login.map(|(user, password)| (user.to_owned(), Secret::new(password.to_owned()))),
        })
    }

    /// Hosts and ports, as the proxy read them.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve_socks5(mut socket: TcpStream, with_login: bool, asked: &Mutex<Vec<String>>) {
    let [_, count] = read(&mut socket).await;
    let mut methods = vec![0; usize::from(count)];
    socket.read_exact(&mut methods).await.unwrap();
    let method = if with_login { 2 } else { 0 };
    if !methods.contains(&method) {
        socket.write_all(&[5, 0xff]).await.unwrap();
        return;
    }
    socket.write_all(&[5, method]).await.unwrap();
    if with_login {
        let [_] = read(&mut socket).await;
        let login = (short(&mut socket).await, short(&mut socket).await);
        let right = login == (PROXY_LOGIN.0.to_owned(), PROXY_LOGIN.1.to_owned());
        socket.write_all(&[1, u8::from(!right)]).await.unwrap();
        if !right {
            return;
        }
    }
    let [_, _, _, kind] = read(&mut socket).await;
    let host = match kind {
        1 => std::net::Ipv4Addr::from(read::<4>(&mut socket).await).to_string(),
        4 => std::net::Ipv6Addr::from(read::<16>(&mut socket).await).to_string(),
        _ => short(&mut socket).await,
    };
    let port = u16::from_be_bytes(read(&mut socket).await);
    asked.lock().unwrap().push(format!("{host} {port}"));
    let mut server = TcpStream::connect((resolved(&host), port)).await.unwrap();
    socket.write_all(&[5, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
    let _until_one_hangs_up = copy_bidirectional(&mut socket, &mut server).await;
}

async fn serve_http(mut socket: TcpStream, with_login: bool, asked: &Mutex<Vec<String>>) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(char::from(read::<1>(&mut socket).await[0]));
    }
    // base64 of the login.
    if with_login && !head.contains("\r\nProxy-Authorization: Basic bWU6cHJveHkgaG9yc2U=\r\n") {
        socket.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await.unwrap();
        return;
    }
    let address = head.split(' ').nth(1).unwrap();
    let (host, port) = address.rsplit_once(':').unwrap();
    asked.lock().unwrap().push(format!("{host} {port}"));
    let host = resolved(host.trim_matches(['[', ']']));
    let mut server = TcpStream::connect((host, port.parse().unwrap())).await.unwrap();
    socket.write_all(b"HTTP/1.1 200 Connection established\r\nVia: a test\r\n\r\n").await.unwrap();
    let _until_one_hangs_up = copy_bidirectional(&mut socket, &mut server).await;
}

/// A name that only the proxy knows.
fn resolved(host: &str) -> &str {
    if host == "web.internal" { "127.0.0.1" } else { host }
}

async fn read<const N: usize>(socket: &mut TcpStream) -> [u8; N] {
    let mut bytes = [0; N];
    socket.read_exact(&mut bytes).await.unwrap();
    bytes
}

async fn short(socket: &mut TcpStream) -> String {
    let [length] = read(socket).await;
    let mut bytes = vec![0; usize::from(length)];
    socket.read_exact(&mut bytes).await.unwrap();
    String::from_utf8(bytes).unwrap()
}
