//! An http server as a probe: `/health` and `/api/v1/metrics/current` of its API, over verified TLS, with a bearer token.
//!
//! The token is sent only to an address that was checked before the connection, and only after the certificate was; no
//! redirect is followed. What comes is bounded, and [`mapping`] makes of it what every server has.

pub mod mapping;
mod tls;

use std::error::Error;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use reqwest::{StatusCode, header, redirect};
use roundsman_agent::text::clean;
use rustls::client::danger::ServerCertVerifier;
use serde_json::Value;

use crate::model::{ApiHealth, HttpSource, Layer, Sample, Secret};
use crate::outbound::{Guarded, NoAddress, Open, is_refused};
use tls::Certificates;

/// A name and three attempts of TCP on the other side of the world.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// `/health` of an API with a hundred components.
const HEALTH_BYTES: usize = 256 * 1024;
/// Two hundred figures with their surroundings.
const METRICS_BYTES: usize = 1024 * 1024;
/// As much of an answer that makes no sense as a person is shown.
const SAID_BYTES: usize = 120;
const HEALTH: &str = "health";
const METRICS: &str = "api/v1/metrics/current";

/// What one reading brought.
#[derive(Debug)]
pub struct HttpReading {
    pub health: ApiHealth,
    pub samples: Vec<Sample>,
    /// Members that were left out, with the reason.
    pub left_out: Vec<(String, String)>,
    /// Of `/health`, as the check of reachability.
    pub response_time: Duration,
}

/// Why there is no reading; each text says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpFailure {
    #[error("{0}. Correct the address of the API, or the name server.")]
    Name(String),
    #[error(
        "{0} is a link-local or metadata address, which Roundsman does not call; if it is meant, set allow_link_local_servers = true \
         in the configuration file"
    )]
    Refused(String),
    #[error(
        "no connection: {0}. See whether the API runs and listens there, and whether a firewall lets Roundsman through."
    )]
    Tcp(String),
    #[error("the certificate is not taken: {reason}. {fix}")]
    Certificate { reason: String, fix: &'static str },
    #[error(
        "the certificate is not the pinned one; it has the SHA-256 {seen}. If it was renewed on purpose, pin that one; if not, somebody stands between."
    )]
    OtherCertificate { seen: String },
    #[error(
        "it does not speak TLS there ({0}). Give the address of its https port; Roundsman sends no token over plain http."
    )]
    NotTls(String),
    #[error(
        "Roundsman cannot judge certificates: {0}. Install the package ca-certificates on its machine, or give the API's authority."
    )]
    NoAuthorities(String),
    #[error(
        "{path} answers {status}: the token is not accepted. Give a token that may read /health and /api/v1/metrics/current."
    )]
    Unauthorized { path: &'static str, status: u16 },
    #[error(
        "{path} answers {status}, a redirect, which is not followed because the token would go along. Give the address that it leads to."
    )]
    Redirect { path: &'static str, status: u16 },
    #[error(
        "{path} answers {status}{said}. See the log of the API; the address of the API is the part before {path}."
    )]
    Status { path: &'static str, status: u16, said: String },
    #[error(
        "the answer of {path} is no JSON: {reason}. See whether the address leads to the API and not to a page before it."
    )]
    BadJson { path: &'static str, reason: String },
    #[error("the answer of {path} is longer than {limit_bytes} bytes; that is no reading.")]
    TooLarge { path: &'static str, limit_bytes: usize },
    #[error(
        "no answer within {after_ms} ms. The API is too slow, or something on the way drops what is sent; a longer interval gives it more time."
    )]
    TimedOut { after_ms: u64 },
    #[error("the connection broke off: {0}. Roundsman asks again by itself.")]
    BrokenOff(String),
}

impl HttpFailure {
    /// Where on the way it stopped.
    #[must_use]
    pub const fn layer(&self) -> Layer {
        match self {
            Self::Name(_) | Self::Refused(_) => Layer::Name,
            Self::Tcp(_) => Layer::Tcp,
            Self::Certificate { .. }
            | Self::OtherCertificate { .. }
            | Self::NotTls(_)
            | Self::NoAuthorities(_) => Layer::Tls,
            Self::Unauthorized { .. } => Layer::Authentication,
            Self::Redirect { .. }
            | Self::Status { .. }
            | Self::BadJson { .. }
            | Self::TooLarge { .. }
            | Self::TimedOut { .. }
            | Self::BrokenOff(_) => Layer::Http,
        }
    }
}

/// What all http servers share.
#[derive(Debug, Default)]
pub struct HttpRules {
    /// Also call link-local and metadata addresses.
    pub allow_link_local: bool,
    /// The system's authorities: a few hundred, so they are read once, when the first server needs them.
    system: OnceLock<Arc<dyn ServerCertVerifier>>,
}

impl HttpRules {
    #[must_use]
    pub fn new(allow_link_local: bool) -> Self {
        Self { allow_link_local, system: OnceLock::new() }
    }

    /// Whether an address given as a number may be called; names are looked at when they are resolved.
    ///
    /// # Errors
    /// [`HttpFailure::Refused`].
    pub fn judge(&self, source: &HttpSource) -> Result<(), HttpFailure> {
        let literal = source.url.host().parse::<IpAddr>().ok();
        if !self.allow_link_local && literal.is_some_and(is_refused) {
            return Err(HttpFailure::Refused(source.url.host().to_owned()));
        }
        Ok(())
    }
}

/// The API of one server. Keeps its connection between two readings.
#[derive(Debug)]
pub struct HttpProbe {
    client: reqwest::Client,
    source: HttpSource,
    token: Option<Secret<String>>,
    certificates: Arc<Certificates>,
}

impl HttpProbe {
    /// # Errors
    /// [`HttpFailure::Refused`], [`HttpFailure::Certificate`] for an authority that is none,
    /// [`HttpFailure::NoAuthorities`]; nothing was sent yet.
    pub fn new(
        source: HttpSource,
        token: Option<Secret<String>>,
        rules: &HttpRules,
    ) -> Result<Self, HttpFailure> {
        rules.judge(&source)?;
        let certificates = Arc::new(Certificates::of(&source, &rules.system)?);
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(&certificates)?)
            .https_only(true)
            .connect_timeout(CONNECT_LIMIT)
            // A redirect would carry the token to a place that nobody configured.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(1)
            .user_agent(concat!("roundsman/", env!("CARGO_PKG_VERSION")));
        builder = if rules.allow_link_local {
            builder.dns_resolver(Arc::new(Open))
        } else {
            builder.dns_resolver(Arc::new(Guarded))
        };
        let client = builder.build().map_err(|error| HttpFailure::NoAuthorities(root_cause(&error)))?;
        Ok(Self { client, source, token, certificates })
    }

    /// Asks both addresses, within `limit` together.
    ///
    /// # Errors
    /// [`HttpFailure`] says which layer failed and what to do. Trying again is safe.
    pub async fn read(&self, limit: Duration) -> Result<HttpReading, HttpFailure> {
        let late =
            |_| HttpFailure::TimedOut { after_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX) };
        tokio::time::timeout(limit, self.both()).await.map_err(late)?
    }

    async fn both(&self) -> Result<HttpReading, HttpFailure> {
        let started = Instant::now();
        let (status, health) = self.ask("/health", HEALTH, HEALTH_BYTES).await?;
        let response_time = started.elapsed();
        let health = mapping::health(&health, status.as_u16());
        let (status, metrics) = self.ask("/api/v1/metrics/current", METRICS, METRICS_BYTES).await?;
        if !status.is_success() {
            return Err(refused("/api/v1/metrics/current", status, &metrics.to_string()));
        }
        let mapping::Mapped { samples, left_out } = mapping::metrics(&metrics);
        Ok(HttpReading { health, samples, left_out, response_time })
    }

    /// The JSON of one address. A status of 5xx with JSON is an answer: how an API says that it is not well.
    async fn ask(
        &self,
        shown: &'static str,
        path: &str,
        limit_bytes: usize,
    ) -> Result<(StatusCode, Value), HttpFailure> {
        let mut request =
            self.client.get(self.source.url.at(path)).header(header::ACCEPT, "application/json");
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose());
        }
        let mut response = request.send().await.map_err(|error| self.failure(&error))?;
        let status = response.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(HttpFailure::Unauthorized { path: shown, status: status.as_u16() });
        }
        if status.is_redirection() {
            return Err(HttpFailure::Redirect { path: shown, status: status.as_u16() });
        }
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|error| self.failure(&error))? {
            if body.len() + part.len() > limit_bytes {
                return Err(HttpFailure::TooLarge { path: shown, limit_bytes });
            }
            body.extend_from_slice(&part);
        }
        match serde_json::from_slice(&body) {
            Ok(value) if status.is_success() || status.is_server_error() => Ok((status, value)),
            Err(error) if status.is_success() => {
                let reason = format!("{error}; it begins with {:?}", clean(&body, SAID_BYTES));
                Err(HttpFailure::BadJson { path: shown, reason })
            }
            _ => Err(refused(shown, status, &String::from_utf8_lossy(&body))),
        }
    }

    /// What an error of the client means; the chain of its causes says it.
    fn failure(&self, error: &reqwest::Error) -> HttpFailure {
        if let Some(seen) = self.certificates.take_other() {
            return HttpFailure::OtherCertificate { seen };
        }
        for cause in causes(error) {
            if let Some(error) = cause.downcast_ref::<NoAddress>() {
                return match error {
                    NoAddress::Unknown { .. } => HttpFailure::Name(error.to_string()),
                    NoAddress::Refused { name } => HttpFailure::Refused(name.clone()),
                };
            }
            if let Some(error) = cause.downcast_ref::<rustls::Error>() {
                return tls::failure(error);
            }
        }
        let cause = root_cause(error);
        match error {
            error if error.is_connect() => HttpFailure::Tcp(if error.is_timeout() {
                format!("nothing answers within {} s, neither TCP nor TLS", CONNECT_LIMIT.as_secs())
            } else {
                cause
            }),
            _ => HttpFailure::BrokenOff(cause),
        }
    }
}

fn refused(path: &'static str, status: StatusCode, body: &str) -> HttpFailure {
    let said = clean(body.as_bytes(), SAID_BYTES);
    let said = if said.is_empty() { said } else { format!(" ({said})") };
    HttpFailure::Status { path, status: status.as_u16(), said }
}

/// The error and what it was caused by, those inside of `io::Error` too, which names only the causes behind its own.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let current = next?;
        let inner = current.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => current.source(),
        };
        Some(current)
    })
}

/// The innermost words, cleaned: the outer ones repeat the address.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let last = causes(error).last().map(ToString::to_string).unwrap_or_default();
    clean(last.as_bytes(), 200)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ApiUrl;

    #[test]
    fn metadata_addresses_are_refused_before_anything_is_called() {
        let source = |url: &str| HttpSource { url: ApiUrl::parse(url).unwrap(), ca_pem: None, pin: None };
        let (strict, open) = (HttpRules::new(false), HttpRules::new(true));
        for url in [
            "https://169.254.169.254",
            "https://[fd00:ec2::254]/x",
            "https://[::ffff:169.254.169.254]",
            "https://2852039166",
        ] {
            assert!(matches!(strict.judge(&source(url)), Err(HttpFailure::Refused(_))), "{url}");
            assert_eq!(open.judge(&source(url)), Ok(()));
        }
        assert_eq!(strict.judge(&source("https://10.0.0.5")), Ok(()));
    }
}
