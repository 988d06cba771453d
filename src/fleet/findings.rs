//! What cannot be seen or done on a server, and why: from the stages of a preflight, and from what is known since.

use std::time::Duration;

use super::state::ServerState;
use crate::collect::{ShellProbe, shell};
use crate::model::{BlindSpot, Findings, Gap, SecretKind, Sections, Timestamp};
use crate::ssh::preflight::{Outcome, Stage, Step};
use crate::ssh::{Connection, ExecRequest};

/// A first reading of a loaded machine takes seconds.
const FIRST_READING_LIMIT: Duration = Duration::from_secs(20);
const TOOLS_LIMIT: Duration = Duration::from_secs(10);
/// The answer is one word.
const TOOLS_OUTPUT_BYTES: usize = 1024;

/// Where no shell answered: whether the readings come through all the same, as with a key that may do nothing else.
/// Then the stages say so.
pub(super) async fn look_for_readings(connection: &Connection, steps: &mut [Step]) {
    let Some(at) = steps.iter().position(|step| step.stage == Stage::Shell) else { return };
    if steps.get(at).is_none_or(|step| step.outcome != Outcome::Failed) || !can_be_read(connection).await {
        return;
    }
    for step in steps.iter_mut().skip(at) {
        let (outcome, detail) = match step.stage {
            Stage::Shell => (
                Outcome::Warning,
                "The key may take readings and nothing else; actions need an action login.",
            ),
            Stage::Proc => (Outcome::Passed, "A reading came through."),
            _ => (Outcome::Skipped, "This key may not ask."),
        };
        step.outcome = outcome;
        detail.clone_into(&mut step.detail);
        step.fix = None;
    }
}

async fn can_be_read(connection: &Connection) -> bool {
    let reading = async {
        let stream = connection.open(shell::COMMAND).await.ok()?;
        let mut probe = ShellProbe::start(stream).await.ok()?;
        probe.read(Sections::BASE).await.ok()
    };
    tokio::time::timeout(FIRST_READING_LIMIT, reading).await.is_ok_and(|reading| reading.is_some())
}

/// Whether the server can prove what it received. None: it can, or it does not say.
pub(super) async fn look_for_checksums(connection: &Connection) -> Option<BlindSpot> {
    const ASK: &str = "for t in sha256sum sha256 shasum openssl; do command -v $t >/dev/null 2>&1 && exit 0; done; \
                       busybox sha256sum /dev/null >/dev/null 2>&1 || echo none";
    let request = ExecRequest::new(ASK).timeout(TOOLS_LIMIT).output_limit(TOOLS_OUTPUT_BYTES);
    let output = connection.exec(request).await.ok()?;
    (output.stdout == b"none\n").then(|| BlindSpot {
        subject: "Checksums".to_owned(),
        reason: "There is no SHA-256 tool, so what is uploaded is checked by its size only.".to_owned(),
        fix: Some("apt-get install coreutils".to_owned()),
    })
}

/// What is worth keeping of the stages. With a second identity its word counts for sudo and Docker.
pub(super) fn findings(steps: &[Step], action: Option<&[Step]>, now: Timestamp) -> Findings {
    let step = |steps: &[Step], stage: Stage| steps.iter().find(|step| step.stage == stage).cloned();
    let readings_only = step(steps, Stage::Shell).is_some_and(|step| step.outcome == Outcome::Warning);
    let acting = |stage: Stage| match action {
        Some(action) => step(action, stage),
        None => step(steps, stage),
    };
    let looked_at = [
        step(steps, Stage::Shell).filter(|_| action.is_none() || !readings_only),
        step(steps, Stage::Proc),
        acting(Stage::Sudo),
        acting(Stage::Docker),
    ];
    let spots = looked_at
        .into_iter()
        .flatten()
        .filter(|step| matches!(step.outcome, Outcome::Failed | Outcome::Warning))
        .map(|step| BlindSpot { subject: step.stage.title().to_owned(), reason: step.detail, fix: step.fix })
        .collect();
    Findings { looked_at: Some(now), readings_only, spots }
}

/// Everything that is not seen or done on a server now: what the last preflight found, what the readings lack.
#[must_use]
pub fn blind_spots(state: &ServerState) -> Vec<BlindSpot> {
    let of_readings = state.gaps.iter().map(|gap| BlindSpot {
        subject: gap.section.clone(),
        reason: gap.reason.clone(),
        fix: fix_of(gap).map(ToOwned::to_owned),
    });
    let told_by_readings = |spot: &BlindSpot| {
        spot.subject == Stage::Proc.title() && state.gaps.iter().any(|gap| gap.section == "processes")
    };
    let answered =
        |spot: &BlindSpot| spot.subject == Stage::Sudo.title() && state.way.keeps(SecretKind::SudoPassword);
    let of_login = state.findings.spots.iter().filter(|spot| !told_by_readings(spot) && !answered(spot));
    of_login.cloned().chain(of_readings).collect()
}

/// The line that brings back a missing section.
fn fix_of(gap: &Gap) -> Option<&'static str> {
    let reason = gap.reason.as_str();
    match gap.section.as_str() {
        "processes" if reason.contains("hidepid") => Some("mount -o remount,hidepid=0 /proc"),
        _ => None,
    }
}
