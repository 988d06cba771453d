//! The whole program in this process, on a directory of its own: asked through its filter, or over TCP through its
//! accept loop.
//!
//! ```ignore
//! let app = TestApp::start().await;
//! let admin = app.token(Role::Admin).await;
//! let answer = app.get("/api/v1/fleet/summary").by(&admin).send().await;
//! assert_eq!(answer.status, 200);
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use roundsman::auth::{Auth, NewToken, Origin};
use roundsman::clock::{Clock, SystemClock};
use roundsman::export::{Export, Options, Sources};
use roundsman::fleet::{Fleet, FleetSettings, Identification, NewServer, Polling, ServerState};
use roundsman::history::History;
use roundsman::model::{Caller, OrganizationId, Rights, Role, Secret, ServerId, UserId};
use roundsman::operations::Operations;
use roundsman::services::Services;
use roundsman::store::Store;
use roundsman::store::users::{self, User};
use roundsman::tasks::Tasks;
use roundsman::vault::Vault;
use roundsman::web::{self, Peer};
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::in_time;
use super::socket::Socket;
use super::sshd::Sshd;

/// The password of everybody whom [`TestApp::login`] lets in.
pub(crate) const USER_PASSWORD: &str = "a long enough passphrase";
/// Where requests of tests seem to come from.
const BROWSER: &str = "127.0.0.1:40000";
const HOST: &str = "fleet.test";
const USER_AGENT: &str = "a test";

/// Who sends a request.
#[derive(Debug, Clone)]
pub(crate) enum Who {
    Nobody,
    Token(String),
    Browser { cookie: String, csrf: String },
}

/// Everything but the process.
pub(crate) struct TestApp {
    pub(crate) services: Services,
    pub(crate) store: Store,
    pub(crate) history: History,
    filter: BoxedFilter<(Response,)>,
    stop: CancellationToken,
    ssh_agent: Option<PathBuf>,
    dir: Arc<TempDir>,
}

fn new_dir() -> Arc<TempDir> {
    Arc::new(tempfile::Builder::new().prefix("roundsman-app-").tempdir().unwrap())
}

impl TestApp {
    /// With the clock of the machine; servers are read every second.
    pub(crate) async fn start() -> Self {
        Self::start_at(Arc::new(SystemClock)).await
    }

    pub(crate) async fn start_at(clock: Arc<dyn Clock>) -> Self {
        Self::start_with(clock, Options::default()).await
    }

    /// With these agents to deploy: the architecture and the file of each.
    pub(crate) async fn with_agents(agents: &[(&str, &Path)]) -> Self {
        let dir = new_dir();
        let place = dir.path().join("agents");
        std::fs::create_dir(&place).unwrap();
        for (architecture, file) in agents {
            std::fs::copy(file, place.join(format!("roundsman-agent-{architecture}"))).unwrap();
        }
        Self::start_in(dir, Arc::new(SystemClock), None, Options::default()).await
    }

    /// With an ssh-agent behind this socket.
    pub(crate) async fn with_agent(socket: &Path) -> Self {
        Self::start_in(new_dir(), Arc::new(SystemClock), Some(socket.to_owned()), Options::default()).await
    }

    /// With these options of exports; the data directory among them is the test's own.
    pub(crate) async fn start_with(clock: Arc<dyn Clock>, options: Options) -> Self {
        Self::start_in(new_dir(), clock, None, options).await
    }

    /// Stops everything and starts again on the same directory.
    pub(crate) async fn restart(self) -> Self {
        let agent = self.ssh_agent.clone();
        self.restart_with(agent).await
    }

    /// As [`TestApp::restart`], with another ssh-agent or none.
    pub(crate) async fn restart_with(self, ssh_agent: Option<PathBuf>) -> Self {
        in_time("the end of the tasks", self.services.tasks.stop()).await;
        in_time("the end of the actions", self.services.operations.stop()).await;
        in_time("the end of the fleet", self.services.fleet.stop()).await;
        in_time("the end of the history", self.history.clone().close()).await.unwrap();
        let (dir, clock) = (Arc::clone(&self.dir), Arc::clone(&self.services.clock));
        drop(self);
        Self::start_in(dir, clock, ssh_agent, Options::default()).await
    }

    async fn start_in(
        dir: Arc<TempDir>,
        clock: Arc<dyn Clock>,
        ssh_agent: Option<PathBuf>,
        options: Options,
    ) -> Self {
        let vault = Vault::open(dir.path(), None).unwrap();
        let store = Store::open(&dir.path().join("roundsman.db")).unwrap();
        let history = History::open(&dir.path().join("history.db"), Arc::clone(&clock)).unwrap();
        let auth = Auth::new(store.clone(), Arc::clone(&clock));
        let fleet = Fleet::start(
            store.clone(),
            vault.clone(),
            history.clone(),
            Arc::clone(&clock),
            FleetSettings {
                default_interval: Duration::from_secs(1),
                polling: Polling::On,
                ssh_agent: ssh_agent.clone(),
                agents: dir.path().join("agents"),
                allow_local_actions: false,
            },
        );
        let started_at = clock.now();
        let fleet = fleet.await.unwrap();
        let operations =
            Operations::start(store.clone(), fleet.clone(), Arc::clone(&clock), false).await.unwrap();
        let (tasks, on) = (Arc::clone(&clock), Polling::On);
        let tasks = Tasks::start(store.clone(), fleet.clone(), operations.clone(), tasks, on).await.unwrap();
        let sources = Sources {
            store: store.clone(),
            vault,
            history: history.clone(),
            fleet: fleet.clone(),
            clock: Arc::clone(&clock),
        };
        let options = Options { data: dir.path().to_owned(), ..options };
        let export = Export::new(sources, options).unwrap();
        export.start();
        let services = Services { auth, fleet, operations, tasks, export, clock, started_at };
        let filter = web::site(&services);
        Self { services, store, history, filter, stop: CancellationToken::new(), ssh_agent, dir }
    }

    pub(crate) fn filter(&self) -> BoxedFilter<(Response,)> {
        self.filter.clone()
    }

    /// The data directory.
    pub(crate) fn data(&self) -> &Path {
        self.dir.path()
    }

    /// A bearer token of this role.
    pub(crate) async fn token(&self, role: Role) -> Who {
        let caller = Caller::roundsman();
        let made = self.services.auth.create_token(&caller, &format!("test {role}"), role, None).await;
        Who::Token(made.unwrap().1.expose().clone())
    }

    /// A bearer token with which servers register themselves.
    pub(crate) async fn enrol_token(&self) -> Who {
        let new = NewToken::of("test enrol", Rights::Enrol);
        let made = self.services.auth.make_token(&Caller::roundsman(), new).await;
        Who::Token(made.unwrap().1.expose().clone())
    }

    /// A person of this role with a browser session: the cookie and the CSRF token that their page shows.
    pub(crate) async fn login(&self, role: Role) -> Who {
        let cookie = self.cookie(role).await;
        self.browser(cookie).await
    }

    async fn cookie(&self, role: Role) -> String {
        let password = || Secret::new(USER_PASSWORD.to_owned());
        self.services.auth.create_first_admin(password()).await.unwrap();
        let name = role.name();
        let known = self.store.read(|c| users::user_by_name(c, "admin")).await.unwrap().unwrap();
        if role != Role::Admin
            && self.store.read(move |c| users::user_by_name(c, name)).await.unwrap().is_none()
        {
            let id = UserId::new(self.services.clock.new_uuid());
            let user = User { id, name: name.to_owned(), role, ..known };
            self.store.write(move |tx| users::insert_user(tx, &user)).await.unwrap();
        }
        let origin = Origin { address: None, user_agent: USER_AGENT.to_owned() };
        let entered = self.services.auth.login(name, password(), &origin).await.unwrap();
        format!("{}={}", web::COOKIE, entered.cookie.expose())
    }

    async fn browser(&self, cookie: String) -> Who {
        let page = self.get("/").header("cookie", &cookie).send().await;
        assert_eq!(page.status, 200, "{}", page.text());
        let text = page.text();
        let (_, rest) = text.split_once("name=\"csrf-token\" content=\"").unwrap();
        let csrf = rest.split('"').next().unwrap().to_owned();
        Who::Browser { cookie, csrf }
    }

    pub(crate) fn call(&self, method: &str, path: &str) -> Call {
        let peer = Peer::Tcp(BROWSER.parse().unwrap());
        let request = Request::builder().method(method).uri(path).header("host", HOST).extension(peer);
        let changes = !matches!(method, "GET" | "HEAD");
        Call { filter: self.filter.clone(), request, body: Bytes::new(), changes }
    }

    pub(crate) fn get(&self, path: &str) -> Call {
        self.call("GET", path)
    }

    pub(crate) fn post(&self, path: &str) -> Call {
        self.call("POST", path)
    }

    /// Enrols a server over SSH with the key that the daemon knows; its host key is approved.
    pub(crate) async fn with_server(&self, name: &str, sshd: &Sshd) -> ServerState {
        self.add(NewServer { name: Some(name.to_owned()), ..of_sshd(sshd) }).await
    }

    pub(crate) async fn add(&self, new: NewServer) -> ServerState {
        in_time("enrolment", self.services.fleet.add(&Caller::roundsman(), new)).await.unwrap()
    }

    /// Enrols an address that nobody has looked at.
    pub(crate) async fn with_unchecked(&self, name: &str, port: u16) -> ServerState {
        self.add(NewServer {
            name: Some(name.to_owned()),
            hostname: "127.0.0.1".to_owned(),
            port: Some(port.into()),
            unchecked: true,
            interval_ms: Some(1000),
            ..NewServer::default()
        })
        .await
    }

    /// A server that is stored and not contacted.
    pub(crate) async fn with_inactive(&self, name: &str) {
        self.add(NewServer {
            name: Some(name.to_owned()),
            hostname: "127.0.0.1".to_owned(),
            port: Some(super::sshd::free_port().into()),
            status: Some(roundsman::model::Status::Inactive),
            unchecked: true,
            ..NewServer::default()
        })
        .await;
    }

    pub(crate) fn state(&self, name: &str) -> ServerState {
        self.services.fleet.get(&Caller::roundsman(), name).unwrap()
    }

    /// Waits for events until `condition` holds of the server.
    pub(crate) async fn until(
        &self,
        name: &str,
        what: &str,
        condition: impl Fn(&ServerState) -> bool,
    ) -> ServerState {
        let mut events = self.services.fleet.subscribe();
        let waiting = async {
            loop {
                let state = self.state(name);
                if condition(&state) {
                    return state;
                }
                // A lagging receiver has missed events, not the state that they led to.
                drop(events.recv().await);
            }
        };
        match tokio::time::timeout(super::PATIENCE, waiting).await {
            Ok(state) => state,
            Err(_) => panic!("waited in vain for {name} to be {what}; it is {:#?}", self.state(name)),
        }
    }

    /// A second organization, and in it a server that is stored and polled nowhere.
    pub(crate) async fn another_organization(&self) -> OrganizationId {
        let id = OrganizationId::new(self.services.clock.new_uuid());
        let sql = "INSERT INTO organizations (id, name, created_at) VALUES (?1, ?2, 0)";
        let insert = move |tx: &rusqlite::Transaction<'_>| {
            tx.execute(sql, [id.to_string(), format!("other {id}")])?;
            Ok::<_, roundsman::store::StoreError>(())
        };
        self.store.write(insert).await.unwrap();
        id
    }

    /// An inactive server of another organization: its id.
    pub(crate) async fn foreign_server(&self, name: &str) -> ServerId {
        let organization = self.another_organization().await;
        let caller = Caller { organization, ..Caller::roundsman() };
        let new = NewServer {
            name: Some(name.to_owned()),
            hostname: "127.0.0.1".to_owned(),
            status: Some(roundsman::model::Status::Inactive),
            unchecked: true,
            identification: Identification::PrivateKey {
                text: roundsman::ssh::keys::generate_ed25519("foreign").unwrap().0,
                passphrase: None,
                source_path: None,
            },
            port: Some(super::sshd::free_port().into()),
            ..NewServer::default()
        };
        self.services.fleet.add(&caller, new).await.unwrap().server.id
    }

    /// Opens a WebSocket over TCP at `address` (see [`TestApp::listen`]), as a page of ours or a program does.
    pub(crate) async fn socket(&self, address: SocketAddr, path: &str, who: &Who) -> Socket {
        in_time("a WebSocket", Socket::open(address, path, &identity(who, address))).await
    }

    /// As [`TestApp::socket`], over a connection that holds next to nothing while nobody reads it.
    pub(crate) async fn narrow_socket(&self, address: SocketAddr, path: &str, who: &Who) -> Socket {
        in_time("a WebSocket", Socket::open_narrow(address, path, &identity(who, address))).await
    }

    /// Serves on a free port of the loopback through the product's own accept loop, until the app is dropped.
    pub(crate) async fn listen(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let control = web::listen_control(&self.data().join("control.sock")).unwrap();
        tokio::spawn(web::serve(self.filter.clone(), vec![listener], control, self.stop.clone()));
        address
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The header lines that say who opens a WebSocket.
fn identity(who: &Who, address: SocketAddr) -> String {
    match who {
        Who::Nobody => String::new(),
        Who::Token(token) => format!("Authorization: Bearer {token}\r\n"),
        Who::Browser { cookie, .. } => format!("Cookie: {cookie}\r\nOrigin: http://{address}\r\n"),
    }
}

/// A server behind this daemon, read every second.
pub(crate) fn of_sshd(sshd: &Sshd) -> NewServer {
    NewServer {
        hostname: "127.0.0.1".to_owned(),
        port: Some(sshd.port().get().into()),
        identification: Identification::PrivateKey {
            text: sshd.client_key().clone(),
            passphrase: None,
            source_path: None,
        },
        host_key: Some(sshd.host_key().to_string()),
        interval_ms: Some(1000),
        ..NewServer::default()
    }
}

/// A request under construction.
#[must_use]
pub(crate) struct Call {
    filter: BoxedFilter<(Response,)>,
    request: http::request::Builder,
    body: Bytes,
    changes: bool,
}

impl Call {
    /// Under another name than the usual one.
    pub(crate) fn host(mut self, host: &str) -> Self {
        self.request.headers_mut().unwrap().insert("host", host.parse().unwrap());
        self
    }

    pub(crate) fn header(self, name: &str, value: &str) -> Self {
        Self { request: self.request.header(name, value), ..self }
    }

    /// A browser also says where a change comes from, and proves it.
    pub(crate) fn by(self, who: &Who) -> Self {
        let changes = self.changes;
        match who {
            Who::Nobody => self,
            Who::Token(token) => self.header("authorization", &format!("Bearer {token}")),
            Who::Browser { cookie, csrf } => {
                let call = self.header("cookie", cookie);
                if changes {
                    call.header("origin", &format!("http://{HOST}")).header("x-csrf-token", csrf)
                } else {
                    call
                }
            }
        }
    }

    pub(crate) fn from(self, address: &str) -> Self {
        let peer = Peer::Tcp(address.parse().unwrap());
        Self { request: self.request.extension(peer), ..self }
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.body("application/json", body.to_string())
    }

    pub(crate) fn form(self, pairs: &[(&str, &str)]) -> Self {
        let body = serde_urlencoded::to_string(pairs).unwrap();
        self.body("application/x-www-form-urlencoded", body)
    }

    pub(crate) fn body(self, media_type: &str, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self.header("content-type", media_type) }
    }

    pub(crate) async fn send(self) -> Answer {
        let request = self.request.body(Full::new(self.body)).unwrap();
        let Ok(response) = in_time("an answer", warp::service(self.filter).oneshot(request)).await;
        let (parts, body) = response.into_parts();
        let body = in_time("a body", body.collect()).await.unwrap().to_bytes();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Empty when it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The body, when the status is the expected one.
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        if self.body.is_empty() { Value::Null } else { self.json() }
    }
}
