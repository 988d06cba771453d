//! The tree of routes: one table that says path, method, access and handler of each.
//!
//! The table is the only source: the warp filter, the OpenAPI document and the test that walks every
//! route with every role are all made from it.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use percent_encoding::percent_decode_str;
use tokio::sync::mpsc;
use warp::filters::BoxedFilter;
use warp::reply::{Reply, Response};
use warp::ws::{WebSocket, Ws};
use warp::{Filter, Rejection};

use super::error::{self, Failure};
use super::request::{Access, BODY_LIMIT_BYTES, Head, Peer, Request, admit, require_same_origin};
use crate::model::shown;
use crate::services::Services;

/// Largest message that a page may send us over a WebSocket; pages send next to nothing.
const SOCKET_MESSAGE_LIMIT_BYTES: usize = 16 * 1024;

type Answer = Pin<Box<dyn Future<Output = Result<Response, Failure>> + Send>>;
type Handler = Arc<dyn Fn(Request, Services) -> Answer + Send + Sync>;
/// The body of an upload, as it comes.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send>>;
type Receiver = Arc<dyn Fn(Request, BodyStream, Services) -> Answer + Send + Sync>;
type Attendance = Pin<Box<dyn Future<Output = ()> + Send>>;
type Attendant = Arc<dyn Fn(Request, Services, WebSocket) -> Attendance + Send + Sync>;

/// What answers at a route.
#[derive(Clone)]
enum Action {
    Reply(Handler),
    /// The body is not read before the handler reads it.
    Upload(Receiver),
    Socket(Attendant),
}

/// What the OpenAPI document says of a route.
#[derive(Debug, Clone, Default)]
pub struct Doc {
    pub summary: &'static str,
    /// Query parameters with what they mean.
    pub query: Vec<(&'static str, &'static str)>,
    /// Name of the schema of the body.
    pub takes: Option<&'static str>,
    /// Name of the schema of the answer.
    pub gives: Option<&'static str>,
    /// Status of the answer when all went well.
    pub status: Option<u16>,
}

/// One route.
#[derive(Clone)]
pub struct Route {
    pub method: Method,
    /// Segments, `{name}` for a parameter, `{*name}` for all the rest.
    pub path: &'static str,
    pub access: Access,
    pub doc: Doc,
    /// Largest body that is read for it.
    pub body_limit_bytes: usize,
    action: Action,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({:?})", self.method, self.path, self.access)
    }
}

impl Route {
    pub fn new<F, A>(method: Method, path: &'static str, access: Access, handler: F) -> Self
    where
        F: Fn(Request, Services) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Response, Failure>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |request, services| Box::pin(handler(request, services)));
        let action = Action::Reply(handler);
        Self { method, path, access, doc: Doc::default(), body_limit_bytes: BODY_LIMIT_BYTES, action }
    }

    pub fn get<F, A>(path: &'static str, access: Access, handler: F) -> Self
    where
        F: Fn(Request, Services) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Response, Failure>> + Send + 'static,
    {
        Self::new(Method::GET, path, access, handler)
    }

    pub fn post<F, A>(path: &'static str, access: Access, handler: F) -> Self
    where
        F: Fn(Request, Services) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Response, Failure>> + Send + 'static,
    {
        Self::new(Method::POST, path, access, handler)
    }

    /// As [`Self::new`], for a body that is larger than what is held in memory. A browser proves where it comes from by
    /// its header, because the body is not looked into.
    pub fn upload<F, A>(method: Method, path: &'static str, access: Access, handler: F) -> Self
    where
        F: Fn(Request, BodyStream, Services) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Response, Failure>> + Send + 'static,
    {
        let handler: Receiver =
            Arc::new(move |request, body, services| Box::pin(handler(request, body, services)));
        let doc = Doc::default();
        Self {
            method,
            path,
            access,
            doc,
            body_limit_bytes: BODY_LIMIT_BYTES,
            action: Action::Upload(handler),
        }
    }

    /// A WebSocket: the Origin is checked and messages are bounded before `attendant` sees it.
    pub fn socket<F, A>(path: &'static str, access: Access, attendant: F) -> Self
    where
        F: Fn(Request, Services, WebSocket) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let attendant: Attendant =
            Arc::new(move |request, services, socket| Box::pin(attendant(request, services, socket)));
        let action = Action::Socket(attendant);
        let (method, doc) = (Method::GET, Doc::default());
        Self { method, path, access, doc, body_limit_bytes: BODY_LIMIT_BYTES, action }
    }

    #[must_use]
    pub const fn summary(mut self, summary: &'static str) -> Self {
        self.doc.summary = summary;
        self
    }

    #[must_use]
    pub const fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit_bytes = bytes;
        self
    }

    #[must_use]
    pub fn query(mut self, name: &'static str, meaning: &'static str) -> Self {
        self.doc.query.push((name, meaning));
        self
    }

    #[must_use]
    pub const fn takes(mut self, schema: &'static str) -> Self {
        self.doc.takes = Some(schema);
        self
    }

    #[must_use]
    pub const fn gives(mut self, schema: &'static str) -> Self {
        self.doc.gives = Some(schema);
        self
    }

    #[must_use]
    pub const fn status(mut self, status: u16) -> Self {
        self.doc.status = Some(status);
        self
    }
}

/// The whole site as one filter that never rejects.
#[must_use]
pub fn filter(services: &Services, routes: Vec<Route>) -> BoxedFilter<(Response,)> {
    let mut by_path: BTreeMap<&'static str, Vec<Route>> = BTreeMap::new();
    for route in routes {
        by_path.entry(route.path).or_default().push(route);
    }
    // Fixed segments before parameters, so that `/servers/new` is not taken for a server named new.
    let mut paths: Vec<_> = by_path.into_iter().collect();
    paths.sort_by_key(|(path, _)| path.split('/').map(specificity).collect::<Vec<_>>());
    let mut leaves: Vec<BoxedFilter<(Response,)>> = Vec::with_capacity(paths.len() + 1);
    for (path, routes) in paths {
        leaves.push(leaf(path, Arc::from(routes), services));
    }
    leaves.push(warp::path::full().map(|path: warp::path::FullPath| nothing_here(path.as_str())).boxed());
    tree(leaves)
}

fn specificity(segment: &str) -> u8 {
    match segment.as_bytes() {
        [b'{', b'*', ..] => 2,
        [b'{', ..] => 1,
        _ => 0,
    }
}

/// Joins filters as a balanced tree; a long flat chain costs minutes of compile time and a deep stack.
fn tree(mut leaves: Vec<BoxedFilter<(Response,)>>) -> BoxedFilter<(Response,)> {
    if leaves.len() > 1 {
        let right = leaves.split_off(leaves.len() / 2);
        return tree(leaves).or(tree(right)).unify().boxed();
    }
    leaves.pop().unwrap_or_else(|| warp::any().map(|| nothing_here("/")).boxed())
}

/// Matches one path template and yields its decoded parameters.
fn path_filter(template: &'static str) -> BoxedFilter<(Vec<String>,)> {
    let mut filter = warp::any().map(Vec::new).boxed();
    for segment in template.split('/').filter(|segment| !segment.is_empty()) {
        filter = match specificity(segment) {
            0 => filter.and(warp::path(segment)).boxed(),
            1 => filter.and(warp::path::param::<String>()).and_then(push_decoded).boxed(),
            _ => {
                return filter
                    .and(warp::path::tail())
                    .and_then(|params, tail: warp::path::Tail| push_decoded(params, tail.as_str().to_owned()))
                    .boxed();
            }
        };
    }
    filter.and(warp::path::end()).boxed()
}

/// Path parameters arrive percent-encoded; what does not decode to UTF-8 names nothing that exists.
async fn push_decoded(mut params: Vec<String>, raw: String) -> Result<Vec<String>, Rejection> {
    let decoded = percent_decode_str(&raw).decode_utf8().map_err(|_| warp::reject::not_found())?;
    params.push(decoded.into_owned());
    Ok(params)
}

fn leaf(path: &'static str, routes: Arc<[Route]>, services: &Services) -> BoxedFilter<(Response,)> {
    let services = services.clone();
    let raw_query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let upgrade = warp::ws().map(Some).or(warp::any().map(|| None)).unify();
    path_filter(path)
        .and(warp::method())
        .and(warp::path::full())
        .and(raw_query)
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional::<Peer>())
        .and(upgrade)
        .and(warp::body::stream())
        .then(
            move |params,
                  method,
                  path: warp::path::FullPath,
                  raw_query,
                  headers,
                  peer,
                  upgrade: Option<Ws>,
                  body| {
                let routes = Arc::clone(&routes);
                let services = services.clone();
                let head = Head { method, path: path.as_str().to_owned(), params, raw_query, headers, peer };
                async move {
                    let begun = tokio::time::Instant::now();
                    let http = services.export.clone();
                    let (path, headers) = (head.path.clone(), head.headers.clone());
                    let outcome = dispatch(&routes, head, body, upgrade, services).await;
                    let answer =
                        finish(outcome.unwrap_or_else(|failure| error::respond(&failure, &path, &headers)));
                    http.http().count(answer.status().as_u16(), begun.elapsed());
                    answer
                }
            },
        )
        .boxed()
}

async fn dispatch<B: Buf>(
    routes: &[Route],
    head: Head,
    body: impl Stream<Item = Result<B, warp::Error>> + Send + 'static,
    upgrade: Option<Ws>,
    services: Services,
) -> Result<Response, Failure> {
    // A HEAD is a GET whose body hyper does not send.
    let wanted = if head.method == Method::HEAD { Method::GET } else { head.method.clone() };
    let Some(route) = routes.iter().find(|route| route.method == wanted) else {
        let mut allowed: Vec<&str> = routes.iter().map(|route| route.method.as_str()).collect();
        allowed.sort_unstable();
        return Err(Failure::Method { allowed: allowed.join(", ") });
    };
    if let Action::Upload(handler) = &route.action {
        let nothing = futures_util::stream::empty::<Result<Bytes, warp::Error>>();
        let request = admit(head, nothing, route.access, route.body_limit_bytes, &services).await?;
        let body = body.map(|part| part.map(|mut part| part.copy_to_bytes(part.remaining())));
        return finished(tokio::spawn(handler(request, Box::pin(body), services)).await);
    }
    let request = admit(head, body, route.access, route.body_limit_bytes, &services).await?;
    match &route.action {
        // A task of its own: what was begun is brought to its end even if the client hangs up, else rows and
        // live state could part.
        Action::Reply(handler) => finished(tokio::spawn(handler(request, services)).await),
        Action::Upload(_) => Err(Failure::Internal("an upload came to the wrong place".to_owned())),
        Action::Socket(attendant) => {
            let upgrade = upgrade.ok_or(Failure::UpgradeRequired)?;
            require_same_origin(&request.headers)?;
            let attendant = Arc::clone(attendant);
            let upgrade = upgrade
                .max_message_size(SOCKET_MESSAGE_LIMIT_BYTES)
                .max_frame_size(SOCKET_MESSAGE_LIMIT_BYTES);
            Ok(upgrade.on_upgrade(move |socket| attendant(request, services, socket)).into_response())
        }
    }
}

fn finished(answer: Result<Result<Response, Failure>, tokio::task::JoinError>) -> Result<Response, Failure> {
    answer.unwrap_or_else(|error| Err(Failure::Internal(format!("a handler broke off: {error}"))))
}

fn nothing_here(path: &str) -> Response {
    let failure = Failure::NotFound(format!("there is nothing at {}", shown(path, 200)));
    finish(error::respond(&failure, path, &HeaderMap::new()))
}

/// Headers that every answer carries.
const HEADERS: [(header::HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (
        header::HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
];

fn finish(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // What a page shows belongs to the one who is logged in; only named assets may be kept.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// An HTML page.
#[must_use]
pub fn html(status: StatusCode, page: String) -> Response {
    with_type(status, "text/html; charset=utf-8", page.into())
}

/// A JSON answer.
///
/// # Errors
/// [`Failure::Internal`] when the value cannot be written as JSON.
pub fn json<T: serde::Serialize>(status: StatusCode, value: &T) -> Result<Response, Failure> {
    let text = serde_json::to_vec(value).map_err(|error| Failure::Internal(error.to_string()))?;
    Ok(with_type(status, "application/json", text.into()))
}

/// A body with its media type.
#[must_use]
pub fn with_type(status: StatusCode, media_type: &'static str, body: Bytes) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// A file in parts, as they come; the browser keeps it under `name`.
#[must_use]
pub fn download(
    media_type: &'static str,
    name: &str,
    mut parts: mpsc::Receiver<std::io::Result<Bytes>>,
) -> Response {
    let stream = futures_util::stream::poll_fn(move |context| parts.poll_recv(context));
    let mut response = warp::reply::stream(stream).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    response
}

/// A file that is in memory whole.
#[must_use]
pub fn download_whole(media_type: &'static str, name: &str, content: Vec<u8>) -> Response {
    let (parts, answer) = mpsc::channel(1);
    // The first message always finds its place, and the receiver is held here.
    drop(parts.try_send(Ok(content.into())));
    download(media_type, name, answer)
}

/// 204 without a body.
#[must_use]
pub fn no_content() -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// The path if it leads to a page of our own, else `/`. Browsers drop tabs and line breaks and read `\\` as `/`, so
/// `/<tab>/evil.example` would lead away.
#[must_use]
pub fn own_path(path: &str) -> &str {
    let own = path.starts_with('/')
        && !path.starts_with("//")
        && !path.contains('\\')
        && !path.chars().any(char::is_control);
    if own { path } else { "/" }
}

/// 303 to a page of our own; anything that could lead elsewhere leads to the first page.
#[must_use]
pub fn see_other(location: &str) -> Response {
    let target = own_path(location);
    let mut response = Response::default();
    *response.status_mut() = StatusCode::SEE_OTHER;
    let value = HeaderValue::from_str(target).unwrap_or(HeaderValue::from_static("/"));
    response.headers_mut().insert(header::LOCATION, value);
    response
}
