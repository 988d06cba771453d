//! `doctor`: what is wrong with this installation, and how to put it right.
//!
//! Looks only; it changes nothing.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use jiff::fmt::rfc2822;
use serde::Serialize;
use serde_json::{Value, json};

use super::Global;
use super::client::{Client, segment};
use super::connect::{Connected, StandAlone, connect, data_of, is_undecided};
use super::error::CliError;
use super::integrity;
use super::machine::free_bytes;
use super::output::{Output, bytes, list, span, text};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config, ENVIRONMENT};
use crate::model::Timestamp;
use crate::services::VERSION;
use crate::store;

const DATABASES: [&str; 2] = ["roundsman.db", "history.db"];
const MIB: u64 = 1024 * 1024;
/// Below this the next hours of history may not fit.
const SPACE_PROBLEM_BYTES: u64 = 100 * MIB;
const SPACE_WARNING_BYTES: u64 = 1024 * MIB;
/// Certificates, tokens and charts tolerate a clock that is off by less.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(30);
/// No release of Roundsman is older, so an earlier date is a clock that was never set.
const EARLIEST_YEAR_MS: i64 = 1_767_225_600_000;
/// Samples reach the history within a second; this many missed intervals are a fault.
const HISTORY_INTERVALS: u64 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Ok,
    Warning,
    Problem,
}

impl Outcome {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    check: &'static str,
    outcome: Outcome,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, outcome: Outcome::Ok, detail: detail.into(), fix: None }
    }

    fn warning(check: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, outcome: Outcome::Warning, detail: detail.into(), fix: Some(fix.into()) }
    }

    pub(super) fn problem(check: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, outcome: Outcome::Problem, detail: detail.into(), fix: Some(fix.into()) }
    }
}

/// Options of `doctor`.
#[derive(Debug, Clone, Default, Args)]
pub struct Options {
    /// Configuration file of the server [default: /etc/roundsman/config.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Also read all data: both databases, the checksum of every sample, the audit chain, every stored secret
    #[arg(long)]
    integrity: bool,
}

pub(super) async fn run(
    global: &Global,
    options: &Options,
    stand_alone: &dyn StandAlone,
    output: &Output,
) -> Result<(), CliError> {
    let (mut findings, global) = configuration(global, options, ENVIRONMENT)?;
    let global = &global;
    if options.integrity && data_of(global)?.is_none() {
        return Err(CliError::usage(
            "--integrity reads the files of the data directory: run it on that machine",
        ));
    }
    if let Some(data) = data_of(global)?.filter(|data| data.exists()) {
        findings.extend(data_directory(&data));
        if options.integrity {
            findings.extend(integrity::findings(&data));
        }
    }
    match connect(global, stand_alone).await {
        Err(error @ CliError::Usage(_)) => return Err(error),
        Err(error) => findings.push(Finding::problem(
            "server",
            error.to_string(),
            "put this right first; the other checks need it",
        )),
        Ok(Connected { client, opened }) => {
            findings.extend(of_server(&client, opened.is_some()).await);
            if let Some(opened) = opened {
                opened.close().await;
            }
        }
    }
    show(&findings, output)?;
    let problems = findings.iter().filter(|finding| finding.outcome == Outcome::Problem).count();
    match problems {
        0 => Ok(()),
        1 => Err(CliError::failed("1 problem was found; its fix stands beside it")),
        count => {
            Err(CliError::failed(format!("{count} problems were found; the fix of each stands beside it")))
        }
    }
}

/// What the server's configuration says, and where it puts the data when nothing else names the place. The configuration of
/// a Roundsman elsewhere is not on this machine.
fn configuration(
    global: &Global,
    options: &Options,
    environment: config::Environment<'_>,
) -> Result<(Vec<Finding>, Global), CliError> {
    const CHECK: &str = "configuration";
    let mut global = global.clone();
    if options.config.is_none() && data_of(&global)?.is_none() {
        return Ok((Vec::new(), global));
    }
    let flags = config::Flags { config: options.config.clone(), ..config::Flags::default() };
    let config = match Config::load(&flags, environment) {
        Ok(config) => config,
        Err(error) => {
            let fix = "correct it; until then a start is refused";
            return Ok((vec![Finding::problem(CHECK, error.to_string(), fix)], global));
        }
    };
    let file = config::file_of(&flags, environment);
    let detail = match file.exists() {
        true => format!("{} is understood", file.display()),
        false => "the defaults; there is no configuration file".to_owned(),
    };
    let mut findings = vec![Finding::ok(CHECK, detail)];
    if let Some(archive) = config.retention.as_ref().and_then(|kept| kept.archive.as_ref())
        && !archive.is_dir()
    {
        findings.push(Finding::problem(
            "archive",
            format!("{} is not a directory, so nothing that has expired is removed", archive.display()),
            "make it, owned by the user that runs Roundsman and with mode 0700",
        ));
    }
    if is_undecided(&global)? {
        global.data = Some(config.data);
    }
    Ok((findings, global))
}

fn show(findings: &[Finding], output: &Output) -> Result<(), CliError> {
    if output.json {
        return output.value(&json!({ "checks": findings }));
    }
    for finding in findings {
        output.line(&format!("{:<8} {:<15} {}", finding.outcome.name(), finding.check, finding.detail))?;
        if let Some(fix) = &finding.fix {
            output.line(&format!("{:24} → {fix}", ""))?;
        }
    }
    Ok(())
}

fn data_directory(data: &Path) -> Vec<Finding> {
    let mut findings = vec![rights("data directory", data, 0o700), master_key(data), space(data)];
    findings.extend(DATABASES.iter().map(|name| database(name, &data.join(name))));
    findings.push(own_clock(SystemClock.now(), newest_write(data)));
    findings
}

/// Whether nobody but the owner may look inside.
fn rights(check: &'static str, path: &Path, wanted: u32) -> Finding {
    let shown = path.display();
    match std::fs::metadata(path) {
        Err(error) => Finding::problem(
            check,
            format!("{shown} cannot be looked at: {error}"),
            "run this as the user who runs Roundsman, or as root",
        ),
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => Finding::problem(
            check,
            format!("{shown} is open to other users (mode {:o})", meta.permissions().mode() & 0o777),
            format!("chmod {wanted:o} {shown}"),
        ),
        Ok(meta) => Finding::ok(check, format!("{shown} belongs to uid {} alone", meta.uid())),
    }
}

fn master_key(data: &Path) -> Finding {
    let path = data.join("master.key");
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Finding::warning(
            "master key",
            format!("there is no {}", path.display()),
            "fine if ROUNDSMAN_MASTER_KEY gives it; else put the file back, stored keys do not open without it",
        ),
        _ => rights("master key", &path, 0o600),
    }
}

fn space(data: &Path) -> Finding {
    let shown = data.display();
    let fix = "make room, or move the data directory to a larger disk";
    match free_bytes(data) {
        None => Finding::warning("disk space", "df does not say how much is free", format!("df -h {shown}")),
        Some(free) => {
            #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
            let detail = format!("{} free for {shown}", bytes(free as f64));
            match free {
                ..SPACE_PROBLEM_BYTES => Finding::problem("disk space", detail, fix),
                SPACE_PROBLEM_BYTES..SPACE_WARNING_BYTES => Finding::warning("disk space", detail, fix),
                _ => Finding::ok("disk space", detail),
            }
        }
    }
}

fn database(name: &'static str, path: &Path) -> Finding {
    if !path.exists() {
        return Finding::problem(
            name,
            format!("{} is missing", path.display()),
            "put it back from a copy, or start Roundsman for a new one",
        );
    }
    match store::quick_check(path) {
        Ok(()) => Finding::ok(name, "whole, as SQLite's quick_check says"),
        Err(error) => Finding::problem(
            name,
            error.to_string(),
            "stop Roundsman, keep a copy of the file, put back the last good one",
        ),
    }
}

/// Time of the newest write below the data directory, as the clock stood then.
fn newest_write(data: &Path) -> Option<SystemTime> {
    let files = std::fs::read_dir(data).ok()?;
    files.flatten().filter_map(|file| file.metadata().ok()?.modified().ok()).max()
}

/// A clock that stands before its own past makes gaps in every chart.
fn own_clock(now: Timestamp, newest: Option<SystemTime>) -> Finding {
    let fix = "set the clock and keep it set: timedatectl set-ntp true";
    let newest = newest
        .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
        .map(|since| Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)));
    match newest {
        _ if now.as_millis() < EARLIEST_YEAR_MS => {
            Finding::problem("clock", format!("the clock of this machine says {now}"), fix)
        }
        Some(newest) if newest.since(now) > CLOCK_TOLERANCE => Finding::problem(
            "clock",
            format!(
                "the clock stands {} before the last write to the data",
                span(newest.since(now).as_secs())
            ),
            fix,
        ),
        _ => Finding::ok("clock", format!("{now}")),
    }
}

async fn of_server(client: &Client, stand_alone: bool) -> Vec<Finding> {
    let answer = match client.get_with_date("/api/health").await {
        Ok(answer) => answer,
        Err(error) => {
            return vec![Finding::problem(
                "server",
                error.to_string(),
                "see whether Roundsman runs, and its log",
            )];
        }
    };
    let mut findings = vec![version(&client.place, text(&answer.body, "version"), stand_alone)];
    if let Some(finding) = answer.date.as_deref().and_then(their_clock) {
        findings.push(finding);
    }
    let servers = match client.all("/api/v1/fleet/servers", &[]).await {
        Ok(servers) => servers,
        Err(error) => {
            findings.push(Finding::problem("servers", error.to_string(), "use a token that may look"));
            return findings;
        }
    };
    if stand_alone {
        let detail = format!("{} enrolled; nothing is read while Roundsman is not running", servers.len());
        findings.push(Finding::warning("servers", detail, "start it with: roundsman serve"));
        return findings;
    }
    findings.push(history(client, &servers).await);
    findings.extend(servers.iter().filter_map(of_enrolled));
    let reached = servers.iter().filter(|server| is_reached(server)).count();
    findings.push(Finding::ok("servers", format!("{reached} of {} reached", servers.len())));
    findings
}

fn version(place: &str, theirs: &str, stand_alone: bool) -> Finding {
    if stand_alone {
        Finding::ok("server", format!("not running; its data can be opened ({place})"))
    } else if theirs == VERSION {
        Finding::ok("server", format!("Roundsman {theirs} answers at {place}"))
    } else {
        Finding::warning(
            "server",
            format!("Roundsman {theirs} answers at {place}, this program is {VERSION}"),
            "restart Roundsman after an upgrade, or use the program of the same version",
        )
    }
}

/// Compares the Date header with our own clock. None: there is nothing to say.
fn their_clock(date: &str) -> Option<Finding> {
    let theirs = rfc2822::parse(date).ok()?.timestamp().as_millisecond();
    let ours = SystemClock.now();
    let offset = Duration::from_millis(ours.as_millis().abs_diff(theirs));
    (offset > CLOCK_TOLERANCE).then(|| {
        Finding::warning(
            "clock",
            format!("the clocks of Roundsman and this machine are {} apart", span(offset.as_secs())),
            "set both by NTP: timedatectl set-ntp true",
        )
    })
}

fn is_reached(server: &Value) -> bool {
    server.pointer("/reachability/state").and_then(Value::as_str) == Some("reachable")
}

/// Whether the newest readings arrive in the history, asked of the first server that is read.
async fn history(client: &Client, servers: &[Value]) -> Finding {
    const CHECK: &str = "history";
    let Some(server) = servers.iter().find(|server| is_reached(server)) else {
        return Finding::ok(CHECK, "no server is reached now, so there is nothing to keep");
    };
    let name = text(server, "name");
    let newest = match newest_sample(client, name).await {
        Ok(newest) => newest,
        Err(error) => {
            return Finding::problem(CHECK, format!("{name}: {error}"), "see Roundsman's log");
        }
    };
    let interval_ms = server.get("interval_ms").and_then(Value::as_u64).unwrap_or(5000);
    let patience = Duration::from_millis(interval_ms * HISTORY_INTERVALS) + CLOCK_TOLERANCE;
    match newest {
        Some(at) if SystemClock.now().since(at) <= patience => {
            Finding::ok(CHECK, format!("kept: the newest sample of {name} is from {at}"))
        }
        Some(at) => Finding::problem(
            CHECK,
            format!("the newest sample of {name} is from {at}"),
            "see Roundsman's log and the disk space",
        ),
        None => Finding::warning(
            CHECK,
            format!("{name} has no samples yet"),
            "wait for a few readings and look again",
        ),
    }
}

/// Time of the newest sample of a metric that every server has.
async fn newest_sample(client: &Client, name: &str) -> Result<Option<Timestamp>, CliError> {
    let path = format!("/api/v1/fleet/servers/{}/metrics?metric=uptime_seconds&period=1h", segment(name)?);
    let answer = client.get(&path).await?;
    let points = answer.pointer("/series/0/points").and_then(Value::as_array);
    let newest = points.into_iter().flatten().filter_map(|point| {
        // A gap is a point without a value.
        point.get(1).filter(|value| !value.is_null())?;
        point.get(0)?.as_i64()
    });
    Ok(newest.max().map(Timestamp::from_millis))
}

/// What is wrong with one enrolled server. None: nothing that an administrator did not decide.
fn of_enrolled(server: &Value) -> Option<Finding> {
    if text(server, "status") == "inactive" {
        return None;
    }
    let name = text(server, "name");
    let reasons = list(server, "health_reasons");
    let detail = format!("{name} is {}: {reasons}", text(server, "health_status"));
    match text(server, "health_status") {
        "unreachable" => Some(Finding::problem(
            "unreachable",
            detail,
            format!("roundsman show {name} says which stage fails; the server's page can test each"),
        )),
        "critical" => {
            Some(Finding::problem("critical", detail, format!("look at it: roundsman show {name}")))
        }
        "degraded" => {
            Some(Finding::warning("degraded", detail, format!("look at it: roundsman show {name}")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_key_that_others_can_read_is_a_problem_with_its_fix() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        std::fs::write(&path, "x").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let found = master_key(dir.path());
        assert_eq!(found.outcome, Outcome::Problem);
        assert_eq!(found.fix, Some(format!("chmod 600 {}", path.display())));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(master_key(dir.path()).outcome, Outcome::Ok);
    }

    #[test]
    fn a_damaged_database_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.db");
        std::fs::write(
            &path,
            "this is no database, however long one looks at it, and it never was one at all",
        )
        .unwrap();
        assert_eq!(database("history.db", &path).outcome, Outcome::Problem);
        assert_eq!(database("history.db", &dir.path().join("gone.db")).outcome, Outcome::Problem);
    }

    #[test]
    fn a_clock_before_its_own_past_is_a_problem() {
        let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        assert_eq!(own_clock(at(1_800_000_010), Some(written)).outcome, Outcome::Ok);
        assert_eq!(own_clock(at(1_799_990_000), Some(written)).outcome, Outcome::Problem);
        assert_eq!(own_clock(at(86_400), None).outcome, Outcome::Problem);
    }

    #[test]
    fn an_unreachable_server_is_a_problem_and_an_inactive_one_is_not() {
        let server = |status: &str, health: &str| json!({ "name": "web-1", "status": status, "health_status": health, "health_reasons": ["tcp: refused"] });
        let found = of_enrolled(&server("active", "unreachable")).unwrap();
        assert_eq!(found.outcome, Outcome::Problem);
        assert!(found.detail.contains("tcp: refused"), "{}", found.detail);
        assert_eq!(of_enrolled(&server("inactive", "unreachable")), None);
        assert_eq!(of_enrolled(&server("active", "healthy")), None);
    }
}
