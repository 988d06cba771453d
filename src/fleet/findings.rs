//! What cannot be seen or done on a server, and why: from the stages of a preflight, and from what is known since.

use std::time::Duration;

use super::state::ServerState;
use crate::collect::{ShellProbe, shell};
use crate::history::Limited;
use crate::model::{BlindSpot, Findings, Gap, SecretKind, Sections, Timestamp, shown};
use crate::ssh::preflight::{Outcome, Stage, Step};
use crate::ssh::{Connection, ExecRequest, MAX_CHANNELS};

/// A first reading of a loaded machine takes seconds.
const FIRST_READING_LIMIT: Duration = Duration::from_secs(20);
const TOOLS_LIMIT: Duration = Duration::from_secs(10);
/// The answer is one word.
const TOOLS_OUTPUT_BYTES: usize = 1024;
/// A name of a series in a sentence: a server may have made it up.
const NAME_CHARS: usize = 80;

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
    of_login
        .cloned()
        .chain(few_channels(state.channels_allowed))
        .chain(clock_off(state.figures.clock_offset_seconds))
        .chain(of_readings)
        .collect()
}

/// A clock that is so wrong that logs, certificates and one-time codes suffer. Two machines that ask time servers agree
/// to far less; the way of a reading makes up for half a second.
const CLOCK_OFF_SECONDS: f64 = 5.0;

fn clock_off(seconds: Option<f64>) -> Option<BlindSpot> {
    let seconds = seconds.filter(|seconds| seconds.abs() >= CLOCK_OFF_SECONDS)?;
    let side = if seconds > 0.0 { "ahead of" } else { "behind" };
    Some(BlindSpot {
        subject: "Clock".to_owned(),
        reason: format!(
            "The server's clock is {:.0} s {side} that of Roundsman, so times in its logs are wrong, and logins with one-time \
             codes and certificates may fail.",
            seconds.abs()
        ),
        fix: Some("timedatectl set-ntp true".to_owned()),
    })
}

/// A server that allows fewer channels than Roundsman makes use of.
fn few_channels(allowed: Option<usize>) -> Option<BlindSpot> {
    let allowed = allowed.filter(|allowed| *allowed < MAX_CHANNELS)?;
    let reason = match allowed {
        0 | 1 => {
            "The server allows one session at a time (MaxSessions), so readings wait while a command runs."
                .to_owned()
        }
        allowed => format!(
            "The server allows {allowed} sessions at a time (MaxSessions), so commands wait for each other."
        ),
    };
    let fix = "sed -i '1i MaxSessions 10' /etc/ssh/sshd_config && sshd -t && systemctl reload ssh";
    Some(BlindSpot { subject: "Sessions".to_owned(), reason, fix: Some(fix.to_owned()) })
}

/// What is missing in the history of a server that brings more names of series than are kept.
pub(super) fn too_many_names(limited: &Limited) -> Gap {
    let names: Vec<String> = limited.names.iter().map(|name| shown(name, NAME_CHARS)).collect();
    let examples = if names.is_empty() { String::new() } else { format!(", such as {}", names.join(", ")) };
    Gap {
        section: "history".to_owned(),
        reason: format!(
            "The server sends more names of metrics and labels than are kept{examples}: {} values were dropped since \
             Roundsman started. Names that are gone make room after two days.",
            limited.dropped
        ),
    }
}

/// The line that brings back a missing section.
fn fix_of(gap: &Gap) -> Option<&'static str> {
    let reason = gap.reason.as_str();
    match gap.section.as_str() {
        "processes" if reason.contains("hidepid") => Some("mount -o remount,hidepid=0 /proc"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Labels, MetricName, SeriesKey, ServerNumber};

    fn step(stage: Stage, outcome: Outcome) -> Step {
        Step { stage, outcome, detail: format!("{stage:?}"), fix: Some("mend it".to_owned()), elapsed_ms: 1 }
    }

    #[test]
    fn what_failed_or_was_warned_of_is_kept_and_a_second_identity_speaks_for_sudo() {
        let now = Timestamp::from_millis(5);
        let main = [
            step(Stage::Shell, Outcome::Passed),
            step(Stage::Proc, Outcome::Warning),
            step(Stage::Sudo, Outcome::Warning),
        ];
        let subjects =
            |found: &Findings| found.spots.iter().map(|spot| spot.subject.clone()).collect::<Vec<_>>();
        let alone = findings(&main, None, now);
        assert_eq!(subjects(&alone), ["/proc", "sudo"]);
        assert_eq!((alone.readings_only, alone.looked_at), (false, Some(now)));
        let acting = [step(Stage::Sudo, Outcome::Passed), step(Stage::Docker, Outcome::Warning)];
        assert_eq!(subjects(&findings(&main, Some(&acting), now)), ["/proc", "Docker"]);
        let reading = [step(Stage::Shell, Outcome::Warning), step(Stage::Proc, Outcome::Passed)];
        assert!(findings(&reading, None, now).readings_only);
        assert_eq!(subjects(&findings(&reading, None, now)), ["Shell"]);
        assert!(subjects(&findings(&reading, Some(&acting), now)).iter().all(|subject| subject != "Shell"));
    }

    #[test]
    fn refused_names_are_told_and_cleaned() {
        let key =
            |label: &str| SeriesKey { metric: MetricName::known("core_percent"), labels: Labels::of(label) };
        let names = [key("a\u{1b}[31m"), key(&"b".repeat(500))];
        let names = names.iter().map(ToString::to_string).collect();
        let limited = Limited { server: ServerNumber(1), dropped: 12, names };
        let gap = too_many_names(&limited);
        assert_eq!(gap.section, "history");
        assert!(gap.reason.contains("12 values") && gap.reason.contains("core_percent"), "{}", gap.reason);
        assert!(gap.reason.len() < 600 && !gap.reason.contains(char::is_control), "{}", gap.reason);
    }

    #[test]
    fn a_clock_that_is_far_off_is_told_with_its_side() {
        assert_eq!(clock_off(None), None);
        assert_eq!(clock_off(Some(-4.9)), None);
        assert!(clock_off(Some(42.4)).is_some_and(|spot| spot.reason.contains("42 s ahead of")));
        assert!(clock_off(Some(-31_536_000.0)).is_some_and(|spot| spot.reason.contains("31536000 s behind")));
    }

    #[test]
    fn few_sessions_are_told_with_the_line_that_allows_more() {
        assert_eq!(few_channels(None), None);
        assert_eq!(few_channels(Some(MAX_CHANNELS)), None);
        assert!(few_channels(Some(1)).is_some_and(|spot| spot.reason.contains("one session")));
        assert!(
            few_channels(Some(2))
                .is_some_and(|spot| spot.fix.is_some_and(|fix| fix.contains("MaxSessions 10")))
        );
    }
}
