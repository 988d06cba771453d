//! Servers that are asked over HTTPS: added after one good answer, edited, tested.
//!
//! What the answers mean is in [`crate::collect::http`]; the token is opened here and given to the probe only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth;
use crate::collect::http::{HttpFailure, HttpProbe, HttpReading};
use crate::model::{
    ApiUrl, Caller, CertificatePin, Findings, HttpSource, InvalidHttpServer, Layer, Role, Secret, SecretKind,
    Server, Status, Transport, ca_pem,
};
use crate::ssh::preflight::{Outcome, Stage, Step};

use super::enrol::{Checked, name_from_address};
use super::input::{Metadata, ServerEdit};
use super::keys::free_name;
use super::registry::Entry;
use super::ways::{DecidedWay, SecretChange};
use super::{Fleet, FleetError, ServerState};

/// Whoever adds or tests a server waits this long for its API.
const TEST_LIMIT: Duration = Duration::from_secs(10);
/// Longest token; a JWT with many claims has two thousand.
const TOKEN_BYTES: usize = 4096;

/// A server with an API, to be added.
#[derive(Debug, Clone, Default)]
pub struct NewHttpServer {
    /// Made from the address when it is missing.
    pub name: Option<String>,
    /// That of the API when it is missing; with a user also where SSH reaches the server.
    pub hostname: Option<String>,
    /// `https://host[:port][/path]`
    pub api_url: String,
    pub api_token: Option<Secret<String>>,
    /// PEM, in place of the system's authorities.
    pub api_ca: Option<String>,
    /// SHA-256 of the only certificate that is taken.
    pub api_pin: Option<String>,
    pub port: Option<i64>,
    pub username: Option<String>,
    pub description: String,
    pub region: Option<String>,
    pub environment: Option<String>,
    pub tags: Vec<String>,
    pub metadata: Metadata,
    pub status: Option<Status>,
    pub interval_ms: Option<u64>,
    /// Store it even when its API does not answer now.
    pub unchecked: bool,
}

/// Changes to where an API is and how it proves itself. `None` leaves a part as it is; `Some(None)` removes it.
#[derive(Debug, Clone, Default)]
pub struct HttpEdit {
    pub url: Option<String>,
    pub token: Option<Option<Secret<String>>>,
    pub ca: Option<Option<String>>,
    pub pin: Option<Option<String>>,
}

impl HttpEdit {
    const fn is_none(&self) -> bool {
        self.url.is_none() && self.token.is_none() && self.ca.is_none() && self.pin.is_none()
    }
}

impl From<InvalidHttpServer> for FleetError {
    fn from(error: InvalidHttpServer) -> Self {
        let field = match &error {
            InvalidHttpServer::Url(_)
            | InvalidHttpServer::PlainHttp
            | InvalidHttpServer::MoreThanAnAddress => "api_url",
            InvalidHttpServer::Pin(_) => "api_pin",
            InvalidHttpServer::Ca => "api_ca",
            InvalidHttpServer::Token => "api_token",
        };
        Self::Invalid { field, message: error.to_string() }
    }
}

impl Fleet {
    /// Adds a server whose API Roundsman asks; it has to answer once, unless `unchecked` is said.
    ///
    /// # Errors
    /// [`FleetError::Preflight`] names the layer that failed and what to do; [`FleetError::Invalid`],
    /// [`FleetError::NameTaken`]. In each case nothing is stored.
    pub async fn add_http(&self, caller: &Caller, new: NewHttpServer) -> Result<ServerState, FleetError> {
        auth::require(caller, Role::Admin)?;
        let edit = HttpEdit {
            url: Some(new.api_url.clone()),
            token: new.api_token.clone().map(Some),
            ca: Some(new.api_ca.clone()),
            pin: Some(new.api_pin.clone()),
        };
        let mut decided = DecidedWay::default();
        let source = decide(None, &edit, &mut decided)?;
        let server = self.http_draft(caller, &new, &source)?;
        let token = decided.given(SecretKind::ApiToken).cloned();
        let probe = HttpProbe::new(source.clone(), token, &self.inner.http);
        // An address that may not be called is refused even where nobody looks at the answer.
        let probe = probe.map_err(|failure| not_reached(&failure, Duration::ZERO))?;
        if !new.unchecked && server.status != Status::Inactive {
            let started = Instant::now();
            probe.read(TEST_LIMIT).await.map_err(|failure| not_reached(&failure, started.elapsed()))?;
        }
        let stored =
            self.insert(caller, server, decided, None, Findings::default(), Some(source.clone())).await?;
        let entry = Arc::new(self.entry_of(stored)?);
        entry.live().http = Some(Arc::new(source));
        self.inner.registry.insert(Arc::clone(&entry));
        self.poll(&entry, None).await?;
        self.server_changed(caller, entry.id);
        Ok(self.state_of(&entry))
    }

    fn http_draft(
        &self,
        caller: &Caller,
        new: &NewHttpServer,
        source: &HttpSource,
    ) -> Result<Server, FleetError> {
        let hostname = new.hostname.as_deref().map(str::trim).filter(|host| !host.is_empty());
        let hostname = hostname.unwrap_or_else(|| source.url.host()).to_owned();
        let taken = |name: &str| self.inner.registry.find(caller, name).is_some();
        let name = match new.name.as_deref().map(str::trim).filter(|name| !name.is_empty()) {
            Some(name) if taken(name) => return Err(FleetError::NameTaken(name.to_owned())),
            Some(name) => name.to_owned(),
            None => free_name(&name_from_address(&hostname), taken),
        };
        let edit = ServerEdit {
            name: Some(name),
            description: Some(new.description.clone()),
            hostname: Some(hostname),
            port: new.port,
            username: new.username.clone(),
            region: Some(new.region.clone()),
            environment: Some(new.environment.clone()),
            tags: Some(new.tags.clone()),
            metadata: Some(new.metadata.clone()),
            status: new.status,
            interval_ms: new.interval_ms,
            ..ServerEdit::default()
        };
        let mut blank = self.blank(caller.organization)?;
        blank.transport = Transport::Http;
        edit.apply(&blank)
    }

    /// What an edit makes of where the API is. None: it stays, or the server has none.
    pub(super) fn decide_http(
        &self,
        server: &Server,
        before: Option<&HttpSource>,
        edit: &HttpEdit,
        decided: &mut DecidedWay,
    ) -> Result<Option<HttpSource>, FleetError> {
        if edit.is_none() {
            return Ok(None);
        }
        if server.transport != Transport::Http {
            return Err(FleetError::invalid("api_url", "only a server with the transport http has an API"));
        }
        let next = decide(before, edit, decided)?;
        self.inner
            .http
            .judge(&next)
            .map_err(|failure| FleetError::invalid("api_url", failure.to_string()))?;
        // Another place gets a token only from whoever means that place.
        let moves = before.is_some_and(|before| before.url != next.url);
        if moves && edit.token.is_none() && decided.way.keeps(SecretKind::ApiToken) {
            return Err(FleetError::invalid(
                "api_token",
                "give the token once more: it is sent to another address only by whoever knows it",
            ));
        }
        Ok(Some(next))
    }

    /// What asks the API of this server.
    pub(super) async fn http_probe(
        &self,
        entry: &Entry,
    ) -> Result<Result<HttpProbe, HttpFailure>, FleetError> {
        let (source, has_token) = {
            let live = entry.live();
            (live.http.clone(), live.way.keeps(SecretKind::ApiToken))
        };
        let source = source
            .ok_or_else(|| FleetError::Unavailable("the address of its API is not known".to_owned()))?;
        let token = if has_token { self.kept_secret(entry.id, SecretKind::ApiToken).await? } else { None };
        Ok(HttpProbe::new((*source).clone(), token, &self.inner.http))
    }

    /// Asks the API once and tells the stages of the way.
    pub(super) async fn test_http(&self, entry: &Entry) -> Result<Checked, FleetError> {
        let started = Instant::now();
        let outcome = match self.http_probe(entry).await? {
            Ok(probe) => probe.read(TEST_LIMIT).await,
            Err(failure) => Err(failure),
        };
        Ok(Checked { steps: steps(outcome.as_ref(), started.elapsed()), action_steps: None, seen: None })
    }
}

fn decide(
    before: Option<&HttpSource>,
    edit: &HttpEdit,
    decided: &mut DecidedWay,
) -> Result<HttpSource, FleetError> {
    let given = |text: &Option<String>| {
        text.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(ToOwned::to_owned)
    };
    let url = match (&edit.url, before) {
        (Some(text), _) => ApiUrl::parse(text)?,
        (None, Some(before)) => before.url.clone(),
        (None, None) => {
            return Err(FleetError::invalid("api_url", "api_url is missing: the https address of its API"));
        }
    };
    let ca_pem = match &edit.ca {
        Some(text) => given(text).map(|text| ca_pem(&text)).transpose()?,
        None => before.and_then(|before| before.ca_pem.clone()),
    };
    let pin = match &edit.pin {
        Some(text) => given(text).map(|text| CertificatePin::parse(&text)).transpose()?,
        None => before.and_then(|before| before.pin),
    };
    match &edit.token {
        None => {}
        Some(None) => decided.change(SecretKind::ApiToken, SecretChange::Remove),
        Some(Some(token)) => {
            let fits = (1..=TOKEN_BYTES).contains(&token.expose().len())
                && token.expose().bytes().all(|byte| byte.is_ascii_graphic());
            if !fits {
                return Err(InvalidHttpServer::Token.into());
            }
            decided.change(SecretKind::ApiToken, SecretChange::Set(token.clone()));
        }
    }
    Ok(HttpSource { url, ca_pem, pin })
}

/// What an edit changed, for the audit log; never the token.
pub(super) fn changes(before: Option<&HttpSource>, after: Option<&HttpSource>) -> Option<String> {
    let after = after?;
    let mut changed = Vec::new();
    if before.is_none_or(|before| before.url != after.url) {
        changed.push(format!("API at {}", after.url));
    }
    if before.is_some_and(|before| before.ca_pem != after.ca_pem) {
        changed.push(
            if after.ca_pem.is_some() { "authority of its own" } else { "the system's authorities" }
                .to_owned(),
        );
    }
    if before.map(|before| before.pin) != Some(after.pin) {
        changed.extend(after.pin.map_or_else(
            || before.map(|_| "no pinned certificate".to_owned()),
            |pin| Some(format!("certificate {pin}")),
        ));
    }
    (!changed.is_empty()).then(|| changed.join("; "))
}

fn not_reached(failure: &HttpFailure, took: Duration) -> FleetError {
    FleetError::Preflight { message: failure.to_string(), steps: steps(Err(failure), took) }
}

/// The stages of the way to an API, as far as one attempt saw them.
fn steps(outcome: Result<&HttpReading, &HttpFailure>, took: Duration) -> Vec<Step> {
    let place = outcome
        .err()
        .map(HttpFailure::layer)
        .and_then(|failed| Layer::HTTPS.iter().position(|layer| *layer == failed));
    let elapsed_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let step = |(at, layer): (usize, &Layer)| {
        let (stage, passed) = match layer {
            Layer::Name => (Stage::Name, "The name leads to an address."),
            Layer::Tcp => (Stage::Tcp, "The port accepts connections."),
            Layer::Tls => (Stage::Tls, "The certificate is valid."),
            Layer::Authentication => (Stage::Authentication, "The token is accepted."),
            _ => (Stage::Answer, "/health and /api/v1/metrics/current answer."),
        };
        let (outcome, detail) = match place.map(|place| at.cmp(&place)) {
            None | Some(std::cmp::Ordering::Less) => (Outcome::Passed, passed.to_owned()),
            Some(std::cmp::Ordering::Equal) => {
                (Outcome::Failed, outcome.err().map(ToString::to_string).unwrap_or_default())
            }
            Some(std::cmp::Ordering::Greater) => (Outcome::Skipped, String::new()),
        };
        let is_last = place.map_or(at + 1 == Layer::HTTPS.len(), |place| at == place);
        Step { stage, outcome, detail, fix: None, elapsed_ms: if is_last { elapsed_ms } else { 0 } }
    };
    Layer::HTTPS.iter().enumerate().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stages_tell_how_far_an_attempt_came() {
        let outcomes = |failure: HttpFailure| -> Vec<Outcome> {
            steps(Err(&failure), Duration::from_millis(5)).iter().map(|step| step.outcome).collect()
        };
        use Outcome::{Failed, Passed, Skipped};
        assert_eq!(outcomes(HttpFailure::Name("x".to_owned())), [Failed, Skipped, Skipped, Skipped, Skipped]);
        assert_eq!(outcomes(HttpFailure::NotTls("x".to_owned())), [Passed, Passed, Failed, Skipped, Skipped]);
        let denied = HttpFailure::Unauthorized { path: "/health", status: 401 };
        assert_eq!(outcomes(denied), [Passed, Passed, Passed, Failed, Skipped]);
        assert_eq!(outcomes(HttpFailure::TimedOut { after_ms: 5 }), [Passed, Passed, Passed, Passed, Failed]);
    }
}
