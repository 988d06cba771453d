//! One request as handlers see it: parameters, query, body, and who asks.
//!
//! The door is here: a handler runs only after [`admit`] has found the caller and their role is enough.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Method, header};
use serde::de::DeserializeOwned;
use subtle::ConstantTimeEq;

use super::error::Failure;
use crate::auth::{self, AuthError, Bearer, Origin};
use crate::model::{Actor, Caller, OrganizationId, Reporter, Role, Scope, shown};
use crate::services::Services;

/// Largest request body where a route says nothing else; the largest honest one is a private key or a form.
pub const BODY_LIMIT_BYTES: usize = 1024 * 1024;
/// Largest body from somebody without a login: a name and a password.
const PUBLIC_BODY_LIMIT_BYTES: usize = 16 * 1024;
/// A body that takes longer is a stalled or hostile client.
const BODY_TIME_LIMIT: Duration = Duration::from_secs(15);
/// As much of the JSON parser's sentence as is passed on; it names the place at its end when it is of usual length.
const JSON_ERROR_CHARS: usize = 600;
/// How often an open WebSocket asks whether what it was opened with is still good.
pub const REVISIT: Duration = Duration::from_secs(8);
/// Name of the session cookie.
pub const COOKIE: &str = "roundsman_session";

/// Where a connection comes from; set by the accept loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    /// The control socket in the data directory: root or the owner of the process.
    Control {
        uid: u32,
    },
}

/// What a route asks of its caller. Every route states one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Answers without login.
    Public,
    Role(Role),
    /// Whoever may report about servers: a token with the scope `enrol`, the token of a server, or an administrator.
    /// Which servers, the service decides.
    Reporter,
}

impl Access {
    pub const VIEWER: Self = Self::Role(Role::Viewer);
    pub const OPERATOR: Self = Self::Role(Role::Operator);
    pub const ADMIN: Self = Self::Role(Role::Admin);
}

/// One admitted request.
#[derive(Debug)]
pub struct Request {
    pub method: Method,
    pub path: String,
    /// Decoded path parameters, in the order of the template.
    pub params: Vec<String>,
    /// Decoded query pairs, in their order.
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub address: Option<IpAddr>,
    /// None: a public route without login.
    pub caller: Option<Caller>,
    /// On routes of [`Access::Reporter`].
    pub reporter: Option<Reporter>,
    /// For forms of the caller's browser session; empty for tokens and the control socket.
    pub csrf_token: String,
    /// What everybody who is logged in is to know on every page: history is not written.
    pub alarm: Option<String>,
}

impl Request {
    /// # Errors
    /// [`AuthError::Unauthenticated`] on a public route without login.
    pub fn caller(&self) -> Result<&Caller, Failure> {
        self.caller.as_ref().ok_or(Failure::Auth(AuthError::Unauthenticated))
    }

    /// # Errors
    /// [`AuthError::Unauthenticated`] on a route that is not for reporters.
    pub fn reporter(&self) -> Result<&Reporter, Failure> {
        self.reporter.as_ref().ok_or(Failure::Auth(AuthError::Unauthenticated))
    }

    /// The path parameter at `index` of the template; empty when the template has fewer.
    #[must_use]
    pub fn param(&self, index: usize) -> &str {
        self.params.get(index).map_or("", String::as_str)
    }

    /// The first query parameter of this name.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// [`Failure::Invalid`] says what is wrong and where.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        if self.body.is_empty() {
            return Err(Failure::invalid("the request has no body; send a JSON object"));
        }
        // serde would take an array for an object, field by field in the order of our source.
        if self.body.trim_ascii_start().first() != Some(&b'{') {
            return Err(Failure::invalid("the body is not what is expected here: send a JSON object"));
        }
        serde_json::from_slice(&self.body)
            // The parser repeats what it does not know, however long that is.
            .map_err(|error| shown(&error.to_string(), JSON_ERROR_CHARS))
            .map_err(|error| Failure::invalid(format!("the body is not what is expected here: {error}")))
    }

    /// The body as a browser form.
    ///
    /// # Errors
    /// [`Failure::Invalid`] when it is not one.
    pub fn form(&self) -> Result<Form, Failure> {
        serde_urlencoded::from_bytes::<Vec<(String, String)>>(&self.body)
            .map(Form)
            .map_err(|_| Failure::invalid("the form cannot be read"))
    }

    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin { address: self.address, user_agent: header_text(&self.headers, header::USER_AGENT) }
    }
}

/// The pairs of a browser form.
#[derive(Debug)]
pub struct Form(Vec<(String, String)>);

impl Form {
    /// The field's text; empty when it is missing.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str())
    }

    /// Every field in its order.
    #[must_use]
    pub fn pairs(self) -> Vec<(String, String)> {
        self.0
    }

    /// The field's text without blanks around it; None when nothing is left.
    #[must_use]
    pub fn optional(&self, name: &str) -> Option<String> {
        Some(self.text(name).trim()).filter(|text| !text.is_empty()).map(ToOwned::to_owned)
    }
}

/// What was known of a request before its caller was.
#[derive(Debug)]
pub struct Head {
    pub method: Method,
    pub path: String,
    pub params: Vec<String>,
    pub raw_query: String,
    pub headers: HeaderMap,
    pub peer: Option<Peer>,
}

impl Head {
    /// Asks for something and changes nothing.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }
}

fn header_text(headers: &HeaderMap, name: header::HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// Reads the body up to its limits.
///
/// # Errors
/// [`Failure::TooLarge`] or [`Failure::Slow`].
async fn read_body<S, B, E>(stream: S, limit_bytes: usize) -> Result<Bytes, Failure>
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
{
    let reading = async {
        let mut stream = std::pin::pin!(stream);
        let mut body = BytesMut::new();
        while let Some(part) = stream.next().await {
            let mut part = part.map_err(|_| Failure::invalid("the body broke off"))?;
            if body.len() + part.remaining() > limit_bytes {
                return Err(Failure::TooLarge { limit_bytes });
            }
            body.extend_from_slice(&part.copy_to_bytes(part.remaining()));
        }
        Ok(body.freeze())
    };
    tokio::time::timeout(BODY_TIME_LIMIT, reading).await.unwrap_or(Err(Failure::Slow))
}

/// Finds the caller and checks that the route's access is met.
///
/// # Errors
/// [`Failure::Auth`] when the caller is unknown or their role too low; [`Failure::CrossSite`] when a
/// browser sends a change without proof that it comes from our own page.
pub async fn admit<S, B, E>(
    head: Head,
    body: S,
    access: Access,
    body_limit_bytes: usize,
    services: &Services,
) -> Result<Request, Failure>
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
{
    let address = match head.peer {
        Some(Peer::Tcp(address)) => Some(address.ip()),
        _ => None,
    };
    let safe = head.is_safe();
    let Identified { caller, reporter, csrf_token, by_cookie } = identify(&head, address, services).await?;
    if !safe && (by_cookie || access == Access::Public) {
        require_same_origin(&head.headers)?;
    }
    let reporter = reporter_of(access, caller.as_ref(), reporter)?;
    // Only now: whoever has not been let in makes us hold nothing, or no more than a name and a password.
    let body = match (safe, access) {
        (true, _) => Bytes::new(),
        (false, Access::Public) => read_body(body, PUBLIC_BODY_LIMIT_BYTES).await?,
        (false, Access::Role(_) | Access::Reporter) => read_body(body, body_limit_bytes).await?,
    };
    if !safe && by_cookie {
        require_csrf(&head.headers, &body, &csrf_token)?;
    }
    let query = serde_urlencoded::from_str(&head.raw_query)
        .map_err(|_| Failure::invalid("the query of the address cannot be read"))?;
    let for_a_person = !head.path.starts_with("/api/");
    let alarm =
        caller.as_ref().filter(|_| for_a_person).and_then(|caller| services.fleet.history_alarm(caller));
    Ok(Request {
        alarm,
        method: head.method,
        path: head.path,
        params: head.params,
        query,
        headers: head.headers,
        body,
        address,
        caller,
        reporter,
        csrf_token,
    })
}

/// Whether what the route asks for is met, and who reports where it is a route for that.
fn reporter_of(
    access: Access,
    caller: Option<&Caller>,
    reporter: Option<Reporter>,
) -> Result<Option<Reporter>, AuthError> {
    match (access, caller, reporter) {
        (Access::Public, ..) => Ok(None),
        (Access::Role(role), Some(caller), _) => auth::require(caller, role).map(|()| None),
        (Access::Role(needed), None, Some(_)) => Err(AuthError::OutOfScope { needed }),
        (Access::Reporter, None, Some(reporter)) => Ok(Some(reporter)),
        (Access::Reporter, Some(caller), _) => {
            auth::require(caller, Role::Admin)?;
            let (organization, actor) = (caller.organization, caller.actor.clone());
            Ok(Some(Reporter { organization, actor, scope: Scope::Admin, from: caller.from }))
        }
        (Access::Role(_) | Access::Reporter, None, None) => Err(AuthError::Unauthenticated),
    }
}

/// Who asks, as far as the header tells.
struct Identified {
    caller: Option<Caller>,
    reporter: Option<Reporter>,
    /// Empty for tokens and the control socket.
    csrf_token: String,
    /// A browser sends cookies with whatever a page asks for: changes need proof of which page that was.
    by_cookie: bool,
}

impl Identified {
    const fn without_cookie(caller: Option<Caller>) -> Self {
        Self { caller, reporter: None, csrf_token: String::new(), by_cookie: false }
    }
}

async fn identify(head: &Head, address: Option<IpAddr>, services: &Services) -> Result<Identified, Failure> {
    if let Some(Peer::Control { uid }) = head.peer {
        return Ok(Identified::without_cookie(Some(system_caller(uid))));
    }
    if let Some(value) = head.headers.get(header::AUTHORIZATION) {
        let token = bearer_token(value).ok_or(AuthError::Unauthenticated)?;
        return Ok(match services.auth.bearer(token, address).await? {
            Bearer::Caller(caller) => Identified::without_cookie(Some(caller)),
            Bearer::Reporter(reporter) => {
                Identified { reporter: Some(reporter), ..Identified::without_cookie(None) }
            }
        });
    }
    let Some(cookie) = session_cookie(&head.headers) else { return Ok(Identified::without_cookie(None)) };
    let Some(found) = services.auth.session(&cookie, address).await? else {
        return Ok(Identified::without_cookie(None));
    };
    let caller = Some(found.caller);
    Ok(Identified { caller, reporter: None, csrf_token: found.csrf_token, by_cookie: true })
}

fn bearer_token(authorization: &HeaderValue) -> Option<&str> {
    let (scheme, token) = authorization.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Whether the session or the token that a WebSocket was opened with is still good: a logout or a revocation ends
/// what is open, too. The control socket needs neither.
pub async fn still_welcome(headers: &HeaderMap, address: Option<IpAddr>, services: &Services) -> bool {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let Some(token) = bearer_token(value) else { return false };
        return matches!(services.auth.bearer(token, address).await, Ok(Bearer::Caller(_)));
    }
    match session_cookie(headers) {
        Some(cookie) => matches!(services.auth.session(&cookie, address).await, Ok(Some(_))),
        None => true,
    }
}

/// Someone on the machine itself, who could read the database and the keys anyway.
fn system_caller(uid: u32) -> Caller {
    Caller {
        organization: OrganizationId::DEFAULT,
        actor: Actor::System { uid, name: format!("uid {uid}") },
        role: Role::Admin,
        from: None,
    }
}

/// The value of our cookie.
#[must_use]
pub fn session_cookie(headers: &HeaderMap) -> Option<String> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value.to_owned())
}

/// A browser says where a change was asked for: it must be one of our own pages.
/// Programs send neither header; they carry a token, which no foreign page can know.
///
/// # Errors
/// [`Failure::CrossSite`].
pub fn require_same_origin(headers: &HeaderMap) -> Result<(), Failure> {
    let site = header_text(headers, header::HeaderName::from_static("sec-fetch-site"));
    if !site.is_empty() && site != "same-origin" && site != "none" {
        return Err(Failure::CrossSite);
    }
    let origin = header_text(headers, header::ORIGIN);
    let host = header_text(headers, header::HOST);
    let same = origin.split_once("://").is_some_and(|(_, place)| place.eq_ignore_ascii_case(&host));
    if origin.is_empty() || same { Ok(()) } else { Err(Failure::CrossSite) }
}

fn require_csrf(headers: &HeaderMap, body: &Bytes, expected: &str) -> Result<(), Failure> {
    let header = header_text(headers, header::HeaderName::from_static("x-csrf-token"));
    let given = if header.is_empty() {
        serde_urlencoded::from_bytes::<Vec<(String, String)>>(body)
            .ok()
            .and_then(|pairs| pairs.into_iter().find(|(name, _)| name == "csrf_token"))
            .map(|(_, value)| value)
            .unwrap_or_default()
    } else {
        header
    };
    if bool::from(given.as_bytes().ct_eq(expected.as_bytes())) { Ok(()) } else { Err(Failure::CrossSite) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_foreign_page_cannot_ask_for_changes() {
        let own = [("host", "fleet:9083"), ("origin", "http://fleet:9083")];
        assert!(require_same_origin(&headers(&own)).is_ok());
        assert!(require_same_origin(&headers(&[("host", "fleet:9083")])).is_ok());
        for foreign in ["http://evil.example", "null", "http://fleet:9084", "http://fleet:9083.evil.example"]
        {
            assert!(require_same_origin(&headers(&[("host", "fleet:9083"), ("origin", foreign)])).is_err());
        }
        assert!(require_same_origin(&headers(&[("sec-fetch-site", "cross-site")])).is_err());
    }

    #[test]
    fn our_cookie_is_found_among_others() {
        let found = session_cookie(&headers(&[("cookie", "a=b; roundsman_session=x.y; c=d")]));
        assert_eq!(found.as_deref(), Some("x.y"));
        assert_eq!(session_cookie(&headers(&[("cookie", "not_roundsman_session=x")])), None);
    }
}
