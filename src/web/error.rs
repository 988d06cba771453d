//! The one place that turns an error into a status: problem details (RFC 9457) for programs, a page for people.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use warp::reply::Response;

use askama::Template as _;

use super::pages::doors::ErrorPage;
use super::routes::{html, see_other, with_type};
use crate::actions::ActionError;
use crate::auth::AuthError;
use crate::collect::pushed::BadField;
use crate::export::ExportError;
use crate::fleet::FleetError;
use crate::history::HistoryError;
use crate::operations::OperationError;
use crate::ssh::transfer::TransferError;
use crate::tasks::{InvalidSchedule, TaskError};

/// Why a request was not done.
#[derive(Debug)]
pub enum Failure {
    Auth(AuthError),
    Fleet(FleetError),
    Operation(OperationError),
    Task(TaskError),
    History(HistoryError),
    Export(ExportError),
    Invalid(String),
    /// A member of a body that programs send, by its path: `readings[3].memory.total_bytes`.
    Field {
        field: String,
        message: String,
    },
    NotFound(String),
    Method {
        allowed: String,
    },
    UpgradeRequired,
    CrossSite,
    TooLarge {
        limit_bytes: usize,
    },
    Slow,
    Internal(String),
}

impl Failure {
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }
}

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Self {
        Self::Auth(error)
    }
}

impl From<FleetError> for Failure {
    fn from(error: FleetError) -> Self {
        match error {
            FleetError::Auth(error) => Self::Auth(error),
            other => Self::Fleet(other),
        }
    }
}

impl From<OperationError> for Failure {
    fn from(error: OperationError) -> Self {
        match error {
            OperationError::Auth(error) => Self::Auth(error),
            OperationError::Fleet(error) => error.into(),
            other => Self::Operation(other),
        }
    }
}

impl From<TaskError> for Failure {
    fn from(error: TaskError) -> Self {
        match error {
            TaskError::Auth(error) => Self::Auth(error),
            TaskError::Fleet(error) => error.into(),
            TaskError::Operation(error) => error.into(),
            other => Self::Task(other),
        }
    }
}

impl From<InvalidSchedule> for Failure {
    fn from(error: InvalidSchedule) -> Self {
        Self::Task(error.into())
    }
}

impl From<BadField> for Failure {
    fn from(error: BadField) -> Self {
        Self::Field { message: error.to_string(), field: error.field }
    }
}

impl From<ActionError> for Failure {
    fn from(error: ActionError) -> Self {
        Self::Operation(error.into())
    }
}

impl From<HistoryError> for Failure {
    fn from(error: HistoryError) -> Self {
        Self::History(error)
    }
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Auth(error) => Self::Auth(error),
            ExportError::Fleet(error) => error.into(),
            ExportError::History(error) => Self::History(error),
            other => Self::Export(other),
        }
    }
}

/// A failure as it leaves the house.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    /// Last part of the problem's type address; a word that programs compare.
    pub kind: &'static str,
    /// One or two sentences for a person: what is wrong, what to do.
    pub detail: String,
    /// More members of the problem object.
    pub more: Map<String, Value>,
    retry_after_s: Option<u64>,
    allow: Option<String>,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, detail: detail.into(), more: Map::new(), retry_after_s: None, allow: None }
    }

    /// When to come back, where that is known.
    pub fn say_when(&self, response: &mut Response) {
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
    }

    fn with(mut self, name: &str, value: Value) -> Self {
        self.more.insert(name.to_owned(), value);
        self
    }
}

/// Says what a failure means to the outside. Causes that only an operator should see go to the log here, once.
#[must_use]
pub fn problem(failure: &Failure) -> Problem {
    match failure {
        Failure::Auth(error) => of_auth(error),
        Failure::Fleet(error) => of_fleet(error),
        Failure::Operation(error) => of_operation(error),
        Failure::Task(error) => of_task(error),
        Failure::History(error) => of_history(error),
        Failure::Export(error) => of_export(error),
        Failure::Invalid(message) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message),
        Failure::Field { field, message } => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message).with("field", json!(field))
        }
        Failure::NotFound(message) => Problem::new(StatusCode::NOT_FOUND, "not-found", message),
        Failure::Method { allowed } => {
            let detail = format!("this address answers {allowed} only");
            let mut problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail);
            problem.allow = Some(allowed.clone());
            problem
        }
        Failure::UpgradeRequired => Problem::new(
            StatusCode::UPGRADE_REQUIRED,
            "upgrade-required",
            "this address speaks WebSocket; send an upgrade request",
        ),
        Failure::CrossSite => Problem::new(
            StatusCode::FORBIDDEN,
            "cross-site",
            "the request did not come from a page of this Roundsman, or the page is too old; reload it and try again",
        ),
        Failure::TooLarge { limit_bytes } => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            format!("the body is larger than {limit_bytes} bytes"),
        ),
        Failure::Slow => {
            Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "the body took too long to arrive")
        }
        Failure::Internal(cause) => internal(cause),
    }
}

fn internal(cause: &str) -> Problem {
    tracing::error!(cause, "a request failed inside Roundsman");
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "Roundsman could not do this because of a fault of its own; its log says more",
    )
}

fn of_auth(error: &AuthError) -> Problem {
    let detail = error.to_string();
    match error {
        AuthError::Unauthenticated => Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail),
        AuthError::WrongPassword => Problem::new(StatusCode::UNAUTHORIZED, "wrong-password", detail),
        AuthError::Throttled { retry_after } => {
            let mut problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "throttled", detail);
            problem.retry_after_s = Some(retry_after.as_secs().max(1));
            problem
        }
        AuthError::Forbidden { needed, .. } => {
            Problem::new(StatusCode::FORBIDDEN, "forbidden", detail).with("needed_role", json!(needed.name()))
        }
        AuthError::OutOfScope { needed } => {
            Problem::new(StatusCode::FORBIDDEN, "forbidden", detail).with("needed_role", json!(needed.name()))
        }
        AuthError::NotItsServer | AuthError::NotFromHere => {
            Problem::new(StatusCode::FORBIDDEN, "forbidden", detail)
        }
        AuthError::TooOften { retry_after } => {
            let mut problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "throttled", detail);
            problem.retry_after_s = Some(retry_after.as_secs().max(1));
            problem
        }
        AuthError::SetupGone | AuthError::SetupExpired => {
            Problem::new(StatusCode::GONE, "setup-gone", detail)
        }
        AuthError::Invalid(_) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail),
        AuthError::NotFound(_) => Problem::new(StatusCode::NOT_FOUND, "not-found", detail),
        AuthError::Taken => Problem::new(StatusCode::CONFLICT, "conflict", detail),
        AuthError::Store(error) => internal(&error.to_string()),
    }
}

fn of_transfer(error: &TransferError, detail: String) -> Problem {
    match error {
        TransferError::Missing { .. } => Problem::new(StatusCode::NOT_FOUND, "no-such-file", detail),
        TransferError::TooLarge { .. } => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail),
        TransferError::Path { .. }
        | TransferError::Directory { .. }
        | TransferError::NoDirectory { .. }
        | TransferError::Refused { .. }
        | TransferError::Here { .. } => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "not-transferred", detail)
                .with("field", json!("path"))
        }
        TransferError::Ssh(_)
        | TransferError::Truncated { .. }
        | TransferError::Altered
        | TransferError::Stalled { .. }
        | TransferError::BrokenOff { .. } => Problem::new(StatusCode::BAD_GATEWAY, "broken-off", detail),
    }
}

fn of_fleet(error: &FleetError) -> Problem {
    let detail = error.to_string();
    match error {
        FleetError::Auth(error) => of_auth(error),
        FleetError::NoSuchServer(_)
        | FleetError::NoSuchKey(_)
        | FleetError::NoSuchKnownHost(_)
        | FleetError::NoSuchGroup(_)
        | FleetError::NoSuchDependency(_)
        | FleetError::NoSuchCustomMetric(_)
        | FleetError::NoSuchWatchedService(_)
        | FleetError::NoSuchImport(_) => Problem::new(StatusCode::NOT_FOUND, "not-found", detail),
        FleetError::NameTaken(_)
        | FleetError::KeyNameTaken(_)
        | FleetError::GroupNameTaken(_)
        | FleetError::WatchedServiceNameTaken(_)
        | FleetError::CustomMetricNameTaken(_) => Problem::new(StatusCode::CONFLICT, "name-taken", detail),
        FleetError::KeyInUse { .. } => Problem::new(StatusCode::CONFLICT, "in-use", detail),
        FleetError::NoSuchMetric { near, .. } => {
            Problem::new(StatusCode::NOT_FOUND, "no-such-metric", detail).with("near", json!(near))
        }
        FleetError::Invalid { field, .. } => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail).with("field", json!(field))
        }
        FleetError::ImportRefused { plan, .. } => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "import-refused", detail)
                .with("counts", json!(plan.counts()))
                .with("lines", json!(plan.lines))
        }
        FleetError::HostKeyUnknown { seen, steps } => {
            Problem::new(StatusCode::CONFLICT, "host-key-unknown", detail)
                .with("host_key", json!(seen.line))
                .with("fingerprint", json!(seen.fingerprint))
                .with("steps", json!(steps))
        }
        FleetError::Preflight { steps, .. } => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "preflight-failed", detail)
                .with("steps", json!(steps))
        }
        FleetError::InUse(_) => Problem::new(StatusCode::CONFLICT, "in-use", detail),
        FleetError::Transfer(error) => of_transfer(error, detail),
        FleetError::Unavailable(_) => Problem::new(StatusCode::CONFLICT, "unavailable", detail),
        FleetError::History(error) => of_history(error),
        FleetError::Store(_) | FleetError::Vault(_) => internal(&detail),
    }
}

fn of_operation(error: &OperationError) -> Problem {
    let detail = error.to_string();
    match error {
        OperationError::Auth(error) => of_auth(error),
        OperationError::Fleet(error) => of_fleet(error),
        OperationError::Action(ActionError::Invalid { field, .. }) => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail).with("field", json!(field))
        }
        OperationError::InvalidQuery { field, .. } => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail).with("field", json!(field))
        }
        OperationError::Strategy(error) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail)
            .with("field", json!(error.field)),
        OperationError::Action(ActionError::NotHere(_))
        | OperationError::Ended
        | OperationError::AlreadyPaused
        | OperationError::NotPaused
        | OperationError::StillRunning
        | OperationError::NothingToRepeat
        | OperationError::NotRepeatable => Problem::new(StatusCode::CONFLICT, "unavailable", detail),
        OperationError::NoTargets | OperationError::NoneFits | OperationError::TooManyTargets => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail)
                .with("field", json!("server_ids"))
        }
        OperationError::NoSuchTarget(_) => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail).with("field", json!("servers"))
        }
        OperationError::AlreadyRunning { operation, .. } | OperationError::Busy { operation, .. } => {
            Problem::new(StatusCode::CONFLICT, "already-running", detail)
                .with("operation_id", json!(operation))
        }
        OperationError::NoSuchOperation(_) | OperationError::NoSuchArchive => {
            Problem::new(StatusCode::NOT_FOUND, "not-found", detail)
        }
        OperationError::Store(_) | OperationError::Archive(_) => internal(&detail),
    }
}

fn of_task(error: &TaskError) -> Problem {
    let detail = error.to_string();
    match error {
        TaskError::Auth(error) => of_auth(error),
        TaskError::Fleet(error) => of_fleet(error),
        TaskError::Operation(error) => of_operation(error),
        TaskError::Invalid { field, .. } => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail).with("field", json!(field))
        }
        TaskError::NoSuchTask(_) => Problem::new(StatusCode::NOT_FOUND, "not-found", detail),
        TaskError::NameTaken(_) => {
            Problem::new(StatusCode::CONFLICT, "name-taken", detail).with("field", json!("name"))
        }
        TaskError::UnderWay { operation } => Problem::new(StatusCode::CONFLICT, "already-running", detail)
            .with("operation_id", json!(operation)),
        TaskError::Store(_) => internal(&detail),
    }
}

fn of_export(error: &ExportError) -> Problem {
    let detail = error.to_string();
    match error {
        ExportError::Auth(error) => of_auth(error),
        ExportError::Fleet(error) => of_fleet(error),
        ExportError::History(error) => of_history(error),
        ExportError::Invalid(_) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail),
        ExportError::Retention(error) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail)
            .with("field", json!(error.field)),
        // A scrape has to fail, so that Prometheus sees that the server is down.
        ExportError::NotRead(_) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail),
        ExportError::FirstOrganization => Problem::new(StatusCode::FORBIDDEN, "forbidden", detail),
        ExportError::Busy | ExportError::NoSpace { .. } => {
            Problem::new(StatusCode::CONFLICT, "unavailable", detail)
        }
        ExportError::SealedKey(_) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail)
            .with("field", json!("passphrase")),
        ExportError::Store(_) | ExportError::Vault(_) | ExportError::RemoteWrite(_) | ExportError::Io(_) => {
            internal(&detail)
        }
    }
}

fn of_history(error: &HistoryError) -> Problem {
    match error {
        HistoryError::BadPoints { .. }
        | HistoryError::BadRange
        | HistoryError::BadPercentile(_)
        | HistoryError::BadRetention { .. }
        | HistoryError::TooManyPoints { .. } => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", error.to_string())
        }
        HistoryError::UnknownMetric(_) => Problem::new(StatusCode::NOT_FOUND, "not-found", error.to_string()),
        other => internal(&other.to_string()),
    }
}

/// The failure as an answer: JSON under `/api` and for whoever asks for it, else a page.
/// A page that needs a login leads there.
#[must_use]
pub fn respond(failure: &Failure, path: &str, headers: &HeaderMap) -> Response {
    let problem = problem(failure);
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let program = path.starts_with("/api/")
        || matches!(path, "/live" | "/metrics")
        || accept.starts_with("application/json");
    let mut response = if let Some(procedure) = path.strip_prefix("/api/trpc/") {
        trpc_error(&problem, procedure)
    } else if program {
        problem_json(&problem)
    } else if matches!(failure, Failure::Auth(AuthError::Unauthenticated)) {
        let next: String =
            percent_encoding::utf8_percent_encode(path, percent_encoding::NON_ALPHANUMERIC).collect();
        see_other(&if path == "/" { "/login".to_owned() } else { format!("/login?next={next}") })
    } else {
        page(&problem)
    };
    problem.say_when(&mut response);
    let headers = response.headers_mut();
    if let Some(allow) = problem.allow.and_then(|allow| HeaderValue::from_str(&allow).ok()) {
        headers.insert(header::ALLOW, allow);
    }
    if problem.status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"roundsman\""));
    }
    response
}

fn page(problem: &Problem) -> Response {
    match ErrorPage::new(problem.status.as_u16(), &problem.detail, "").render() {
        Ok(text) => html(problem.status, text),
        Err(error) => {
            tracing::error!(%error, "the error page was not rendered");
            with_type(problem.status, "text/plain; charset=utf-8", problem.detail.clone().into())
        }
    }
}

/// The envelope in which clients of tRPC look for errors. Source: tRPC's error formatting (code numbers of JSON-RPC 2.0).
fn trpc_error(problem: &Problem, procedure: &str) -> Response {
    let (code, number) = match problem.status.as_u16() {
        401 => ("UNAUTHORIZED", -32001),
        403 => ("FORBIDDEN", -32003),
        404 => ("NOT_FOUND", -32004),
        405 => ("METHOD_NOT_SUPPORTED", -32005),
        408 => ("TIMEOUT", -32008),
        409 => ("CONFLICT", -32009),
        413 => ("PAYLOAD_TOO_LARGE", -32013),
        429 => ("TOO_MANY_REQUESTS", -32029),
        500.. => ("INTERNAL_SERVER_ERROR", -32603),
        _ => ("BAD_REQUEST", -32600),
    };
    let data = json!({
        "code": code,
        "httpStatus": problem.status.as_u16(),
        "path": crate::model::shown(procedure, 80),
        "field": problem.more.get("field"),
    });
    let body = json!({ "error": { "json": { "message": problem.detail, "code": number, "data": data } } });
    with_type(problem.status, "application/json", body.to_string().into())
}

fn problem_json(problem: &Problem) -> Response {
    let mut object = json!({
        "type": format!("urn:roundsman:problem:{}", problem.kind),
        "title": problem.status.canonical_reason().unwrap_or("Error"),
        "status": problem.status.as_u16(),
        "detail": problem.detail,
    });
    if let Some(members) = object.as_object_mut() {
        members.extend(problem.more.clone());
    }
    with_type(problem.status, "application/problem+json", object.to_string().into())
}
