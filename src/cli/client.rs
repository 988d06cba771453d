//! Requests to the REST API, over the control socket or an address.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, StatusCode, Url, header, redirect};
use serde_json::Value;

use super::error::CliError;
use crate::model::Secret;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Enrolment waits for a server that may be slow in each of its stages.
const ANSWER_LIMIT: Duration = Duration::from_secs(180);
/// A backup of years of a large fleet over a slow line.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// A list of 5,000 servers is about 10 MiB; an answer above this is not one of Roundsman's.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// Servers asked for at once when listing all.
const PAGE: usize = 500;
/// What may stand in a path segment as it is.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

/// Talks to one Roundsman.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<Secret<String>>,
    /// How a person would name it.
    pub place: String,
}

/// An answer with what doctor wants to know of it.
#[derive(Debug)]
pub(super) struct Answer {
    pub body: Value,
    /// The server's own clock, as the Date header says it.
    pub date: Option<String>,
}

impl Client {
    /// # Errors
    /// [`CliError::Failed`] when the path cannot be used.
    pub(super) fn to_socket(socket: &Path) -> Result<Self, CliError> {
        // No TLS over the socket: asking for no certificates keeps this working where the system has none.
        let http = builder().unix_socket(socket).tls_certs_only([]).no_proxy().build().map_err(unusable)?;
        let base = Url::parse("http://localhost/").map_err(|error| CliError::failed(error.to_string()))?;
        Ok(Self { http, base, token: None, place: socket.display().to_string() })
    }

    /// # Errors
    /// [`CliError::Usage`] for what is no address, and for one that would carry the token in clear.
    pub(super) fn to_url(text: &str, token: Secret<String>, insecure_http: bool) -> Result<Self, CliError> {
        let base = parse_url(text, insecure_http)?;
        let plain = base.scheme() == "http";
        let builder = if plain { builder().tls_certs_only([]).no_proxy() } else { builder() };
        let place = base.as_str().trim_end_matches('/').to_owned();
        Ok(Self { http: builder.build().map_err(unusable)?, base, token: Some(token), place })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, CliError> {
        Ok(self.ask(Method::GET, path, None).await?.body)
    }

    pub(super) async fn get_with_date(&self, path: &str) -> Result<Answer, CliError> {
        self.ask(Method::GET, path, None).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        Ok(self.ask(Method::POST, path, Some(body)).await?.body)
    }

    pub(super) async fn patch(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        Ok(self.ask(Method::PATCH, path, Some(body)).await?.body)
    }

    pub(super) async fn put(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        Ok(self.ask(Method::PUT, path, Some(body)).await?.body)
    }

    /// A DELETE that answers with what is left.
    pub(super) async fn delete_for(&self, path: &str) -> Result<Value, CliError> {
        Ok(self.ask(Method::DELETE, path, None).await?.body)
    }

    pub(super) async fn delete(&self, path: &str) -> Result<(), CliError> {
        self.ask(Method::DELETE, path, None).await.map(drop)
    }

    /// Writes the body of an answer to `sink` as it comes, however long it is: POST with a body, GET without.
    ///
    /// # Errors
    /// What the server refuses; [`CliError::Failed`] when the answer breaks off or cannot be written.
    pub(super) async fn download(
        &self,
        path: &str,
        body: Option<&Value>,
        sink: &mut impl Write,
    ) -> Result<(), CliError> {
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let mut response = self.send(method, path, body, DOWNLOAD_LIMIT).await?;
        let status = response.status();
        if !status.is_success() {
            let text = self.read(response).await?;
            let value = serde_json::from_slice(&text).map_err(|_| not_roundsman(&self.place))?;
            return Err(refused(status, value));
        }
        while let Some(part) = response.chunk().await.map_err(|error| {
            CliError::failed(format!("the answer broke off: {}; see Roundsman's log", root_cause(&error)))
        })? {
            sink.write_all(&part)?;
        }
        Ok(())
    }

    /// Sends `source`, of `size_bytes`, as the body of a PUT.
    ///
    /// # Errors
    /// What the server refuses; [`CliError::Failed`] when the connection breaks.
    pub(super) async fn upload(
        &self,
        path: &str,
        size_bytes: u64,
        source: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<Value, CliError> {
        let request = self.request(Method::PUT, path, DOWNLOAD_LIMIT)?;
        let request =
            request.header(header::CONTENT_LENGTH, size_bytes).body(reqwest::Body::wrap_stream(source));
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let text = self.read(response).await?;
        let value = serde_json::from_slice(&text).map_err(|_| not_roundsman(&self.place))?;
        if status.is_success() { Ok(value) } else { Err(refused(status, value)) }
    }

    /// All items of a paged list.
    ///
    /// # Errors
    /// Whatever a single page says.
    pub(super) async fn all(&self, path: &str, query: &[(&str, &str)]) -> Result<Vec<Value>, CliError> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let limit = PAGE.to_string();
            let mut pairs = query.to_vec();
            pairs.push(("limit", &limit));
            if let Some(cursor) = &cursor {
                pairs.push(("cursor", cursor));
            }
            let query =
                serde_urlencoded::to_string(&pairs).map_err(|error| CliError::failed(error.to_string()))?;
            let mut page = self.get(&format!("{path}?{query}")).await?;
            let Some(Value::Array(found)) = page.get_mut("items").map(Value::take) else {
                return Err(not_roundsman(&self.place));
            };
            let empty = found.is_empty();
            items.extend(found);
            let next = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
            // A cursor that leads nowhere new would ask for ever.
            if next.is_none() || empty || next == cursor {
                return Ok(items);
            }
            cursor = next;
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, CliError> {
        let response = self.send(method, path, body, ANSWER_LIMIT).await?;
        let status = response.status();
        let date =
            response.headers().get(header::DATE).and_then(|date| date.to_str().ok()).map(str::to_owned);
        let text = self.read(response).await?;
        if status == StatusCode::NO_CONTENT {
            return Ok(Answer { body: Value::Null, date });
        }
        if status.is_redirection() {
            return Err(CliError::failed(format!(
                "{} leads elsewhere (status {}); give the address where Roundsman itself answers",
                self.place,
                status.as_u16()
            )));
        }
        let value: Value = serde_json::from_slice(&text).map_err(|_| not_roundsman(&self.place))?;
        if status.is_success() { Ok(Answer { body: value, date }) } else { Err(refused(status, value)) }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        limit: Duration,
    ) -> Result<reqwest::Response, CliError> {
        let mut request = self.request(method, path, limit)?;
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await.map_err(|error| self.unreachable(&error))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        limit: Duration,
    ) -> Result<reqwest::RequestBuilder, CliError> {
        let url = self
            .base
            .join(path.trim_start_matches('/'))
            .map_err(|error| CliError::failed(error.to_string()))?;
        let request =
            self.http.request(method, url).header(header::ACCEPT, "application/json").timeout(limit);
        Ok(match &self.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        })
    }

    async fn read(&self, mut response: reqwest::Response) -> Result<Vec<u8>, CliError> {
        let mut text = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if text.len() + part.len() > ANSWER_BYTES {
                return Err(not_roundsman(&self.place));
            }
            text.extend_from_slice(&part);
        }
        Ok(text)
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        if error.is_timeout() {
            return CliError::Unreachable(format!("{} did not answer in time; look at its log", self.place));
        }
        CliError::Unreachable(format!(
            "cannot talk to {}: {}; is Roundsman running there?",
            self.place,
            root_cause(error)
        ))
    }
}

/// A name or id as one segment of a path.
///
/// # Errors
/// [`CliError::Usage`] for what would name another address: encoding does not hide `..` from a URL parser.
pub(super) fn segment(text: &str) -> Result<String, CliError> {
    if matches!(text, "" | "." | "..") {
        return Err(CliError::usage(format!("'{text}' is not a name")));
    }
    Ok(utf8_percent_encode(text, SEGMENT).to_string())
}

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .connect_timeout(CONNECT_LIMIT)
        .timeout(ANSWER_LIMIT)
        // A token goes to the address that was named and to no other.
        .redirect(redirect::Policy::none())
        .user_agent(concat!("roundsman/", env!("CARGO_PKG_VERSION")))
}

fn parse_url(text: &str, insecure_http: bool) -> Result<Url, CliError> {
    let wrong = || {
        CliError::usage(format!(
            "'{text}' is not the address of a Roundsman; use for example https://rounds.example.com"
        ))
    };
    let mut url = Url::parse(text).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(wrong());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(CliError::usage("give the token with ROUNDSMAN_TOKEN, not inside the address"));
    }
    if url.scheme() == "http" && !is_loopback(&url) && !insecure_http {
        return Err(CliError::usage(format!(
            "over {} the token could be read on its way: use https or an SSH tunnel, or say --insecure-http if the network is yours",
            url.as_str().trim_end_matches('/')
        )));
    }
    url.set_query(None);
    url.set_fragment(None);
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn unusable(error: reqwest::Error) -> CliError {
    CliError::failed(format!("cannot prepare a connection: {}", root_cause(&error)))
}

fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn not_roundsman(place: &str) -> CliError {
    CliError::failed(format!("what answers at {place} is not a Roundsman of this version"))
}

fn refused(status: StatusCode, body: Value) -> CliError {
    let kind = body
        .get("type")
        .and_then(Value::as_str)
        .and_then(|name| name.strip_prefix("urn:roundsman:problem:"))
        .map_or_else(|| status.as_u16().to_string(), str::to_owned);
    let detail = body
        .get("detail")
        .and_then(Value::as_str)
        .map_or_else(|| format!("Roundsman refused with status {}", status.as_u16()), str::to_owned);
    CliError::Refused { kind, detail, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_sent_in_clear_to_another_machine() {
        for safe in
            ["https://rounds.example.com", "http://127.0.0.1:9083", "http://[::1]:9083", "http://localhost"]
        {
            assert!(parse_url(safe, false).is_ok(), "{safe}");
        }
        let refused = parse_url("http://10.0.0.5:9083", false).unwrap_err();
        assert!(refused.to_string().contains("--insecure-http"), "{refused}");
        assert!(parse_url("http://127.0.0.1.example.com", false).is_err());
        assert!(parse_url("http://10.0.0.5:9083", true).is_ok());
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in ["rounds.example.com", "ftp://x", "http://", "https://user:secret@host"] {
            assert!(parse_url(bad, false).is_err(), "{bad}");
        }
        assert_eq!(parse_url("https://h/rounds?x=1", false).unwrap().as_str(), "https://h/rounds/");
    }

    #[test]
    fn a_name_cannot_leave_its_path_segment() {
        assert_eq!(segment("../tokens?x#y").unwrap(), "..%2Ftokens%3Fx%23y");
        assert_eq!(segment("web-1.example_com").unwrap(), "web-1.example_com");
        assert!(segment("..").is_err());
    }
}
