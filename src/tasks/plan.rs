//! Which times of a schedule have come, and what becomes of those that passed while nobody looked. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use super::schedule::{Schedule, delay};
use crate::model::{Cause, Missed, Overlap, RunStatus, Task, TaskRun, Timestamp};

/// A time that passed longer ago was missed: Roundsman was not running, or the machine slept. Nothing that runs is a minute late.
pub const LATE: Duration = Duration::from_secs(60);
/// Missed times are looked for so far back; those of a longer downtime are counted as "at least".
const LOOK_BACK: Duration = Duration::from_secs(7 * 24 * 3600);
/// Runs of one task that wait for the one under way, with [`Overlap::Queue`]; what comes more often is left out.
pub const QUEUED: usize = 10;

/// A run to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub due_at: Timestamp,
    pub start_at: Timestamp,
    pub cause: Cause,
    pub status: RunStatus,
    pub reason: Option<String>,
}

/// The runs that follow from the times after `task.considered_at` up to `now`.
#[must_use]
pub fn claims(task: &Task, schedule: &Schedule, now: Timestamp) -> Vec<Claim> {
    let look_back = now - LOOK_BACK;
    let from = task.considered_at.max(look_back);
    let limit = match task.missed {
        Missed::Skip => 0,
        Missed::Once => 1,
        Missed::All => usize::try_from(task.missed_limit).unwrap_or(usize::MAX),
    };
    let mut claims = Vec::new();
    let mut made_up: VecDeque<Timestamp> = VecDeque::new();
    let mut left_out = LeftOut::default();
    let mut at = from;
    while let Some(due) = schedule.next_after(at).filter(|due| *due <= now) {
        at = due;
        if now.since(due) <= LATE {
            let start_at = due + delay(task.id, due, task.jitter);
            claims.push(Claim {
                due_at: due,
                start_at,
                cause: Cause::Schedule,
                status: RunStatus::Waiting,
                reason: None,
            });
            continue;
        }
        if now.since(due) <= task.missed_grace {
            made_up.push_back(due);
        } else {
            left_out.add(due);
        }
        if made_up.len() > limit
            && let Some(oldest) = made_up.pop_front()
        {
            left_out.add(oldest);
        }
    }
    let again = made_up.into_iter().map(|due| Claim {
        due_at: due,
        start_at: now,
        cause: Cause::Missed,
        status: RunStatus::Waiting,
        reason: Some("its time had passed while Roundsman was not running".to_owned()),
    });
    let is_short = task.considered_at < look_back;
    let mut all: Vec<Claim> = left_out.claim(schedule, is_short).into_iter().chain(again).collect();
    all.append(&mut claims);
    all
}

/// Times that nothing is done about.
#[derive(Debug, Default)]
struct LeftOut {
    count: u32,
    span: Option<(Timestamp, Timestamp)>,
}

impl LeftOut {
    fn add(&mut self, due: Timestamp) {
        self.count += 1;
        let (first, last) = self.span.unwrap_or((due, due));
        self.span = Some((first.min(due), last.max(due)));
    }

    /// One entry for all of them.
    fn claim(&self, schedule: &Schedule, is_short: bool) -> Option<Claim> {
        let (first, last) = self.span?;
        let at_least = if is_short { "at least " } else { "" };
        let reason = if self.count == 1 && !is_short {
            "Roundsman was not running at that time".to_owned()
        } else {
            let (first, last) = (schedule.wall(first), schedule.wall(last));
            format!("Roundsman was not running: {at_least}{} runs were missed, {first} to {last}", self.count)
        };
        Some(Claim {
            due_at: last,
            start_at: last,
            cause: Cause::Missed,
            status: RunStatus::Missed,
            reason: Some(reason),
        })
    }
}

/// What is to happen with a run whose start has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    Start,
    /// It stays where it is until the run before it has ended.
    Wait,
    LeaveOut(RunStatus, String),
}

/// `before` are the unfinished runs of the same task that come before it.
#[must_use]
pub fn turn(task: &Task, run: &TaskRun, before: &[&TaskRun], now: Timestamp) -> Turn {
    let is_stale = now.since(run.start_at) > LATE && now.since(run.due_at) > LATE;
    // Whoever waited in line is not late by its own fault.
    let has_waited = run.reason.is_some();
    if is_stale {
        let made_up = has_waited || run.attempt > 1 || task.missed != Missed::Skip;
        if !made_up || now.since(run.due_at) > task.missed_grace {
            let reason = if has_waited {
                "it waited longer than runs of this task are made up for"
            } else {
                "Roundsman was not running when it was to begin"
            };
            return Turn::LeaveOut(RunStatus::Missed, reason.to_owned());
        }
    }
    let Some(busy) = before.last() else { return Turn::Start };
    // What is made up for goes one after the other; a retry belongs to the run before it.
    let overlap =
        if run.cause == Cause::Missed && busy.cause == Cause::Missed { Overlap::Queue } else { task.overlap };
    match overlap {
        Overlap::Allow => Turn::Start,
        Overlap::Queue if before.len() < QUEUED => Turn::Wait,
        Overlap::Queue => {
            Turn::LeaveOut(RunStatus::Skipped, format!("{QUEUED} runs before it had not ended"))
        }
        Overlap::Skip => Turn::LeaveOut(RunStatus::Skipped, "the run before it had not ended".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{OrganizationId, Owner, Selector, TaskId, TaskRunId};

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn task(cron: &str, missed: Missed, considered: &str) -> (Task, Schedule) {
        let considered = at(considered);
        let task = Task {
            id: TaskId::new(uuid::Uuid::from_u128(1)),
            organization: OrganizationId::DEFAULT,
            name: "nightly".to_owned(),
            description: String::new(),
            cron: cron.to_owned(),
            time_zone: "Europe/Berlin".to_owned(),
            kind: "run_command".to_owned(),
            parameters: serde_json::Value::Null,
            selector: Selector::default(),
            strategy: serde_json::Value::Null,
            jitter: Duration::ZERO,
            overlap: Overlap::Skip,
            missed,
            missed_limit: 3,
            missed_grace: Duration::from_secs(3600),
            retries: 0,
            retry_wait: Duration::ZERO,
            enabled: true,
            owner: Owner::Roundsman,
            owner_name: String::new(),
            considered_at: considered,
            created_at: considered,
            updated_at: considered,
        };
        (task, Schedule::parse(cron, "Europe/Berlin").unwrap())
    }

    fn found(cron: &str, missed: Missed, considered: &str, now: &str) -> Vec<(String, RunStatus)> {
        let (task, schedule) = task(cron, missed, considered);
        let claims = claims(&task, &schedule, at(now));
        claims.iter().map(|claim| (claim.due_at.to_string()[11..16].to_owned(), claim.status)).collect()
    }

    #[test]
    fn a_time_that_has_just_come_is_a_run_whatever_is_said_about_missed_ones() {
        use RunStatus::Waiting;
        for missed in [Missed::Skip, Missed::Once, Missed::All] {
            let runs = found("* * * * *", missed, "2026-11-21T08:00:00Z", "2026-11-21T08:01:30Z");
            assert_eq!(runs, [("08:01".to_owned(), Waiting)]);
            assert!(found("0 9 * * *", missed, "2026-11-21T08:00:00Z", "2026-11-21T08:01:00Z").is_empty());
        }
    }

    #[test]
    fn a_downtime_is_left_out_made_up_for_once_or_run_by_run() {
        use RunStatus::{Missed as M, Waiting as W};
        let run = |missed| {
            let (task, schedule) = task("*/10 * * * *", missed, "2026-11-21T08:00:00Z");
            claims(&task, &schedule, at("2026-11-21T09:35:00Z"))
                .into_iter()
                .map(|claim| (claim.due_at.to_string()[11..16].to_owned(), claim.status))
                .collect::<Vec<_>>()
        };
        let expect = |texts: &[(&str, RunStatus)]| {
            texts.iter().map(|(time, status)| ((*time).to_owned(), *status)).collect::<Vec<_>>()
        };
        assert_eq!(run(Missed::Skip), expect(&[("09:30", M)]));
        assert_eq!(run(Missed::Once), expect(&[("09:20", M), ("09:30", W)]));
        assert_eq!(run(Missed::All), expect(&[("09:00", M), ("09:10", W), ("09:20", W), ("09:30", W)]));
    }

    #[test]
    fn what_is_older_than_the_grace_is_not_made_up_for() {
        let runs = found("0 8 * * *", Missed::Once, "2026-11-21T00:00:00Z", "2026-11-21T09:00:00Z");
        assert_eq!(runs, [("07:00".to_owned(), RunStatus::Missed)]);
        let runs = found("0 8 * * *", Missed::Once, "2026-11-21T00:00:00Z", "2026-11-21T07:59:00Z");
        assert_eq!(runs, [("07:00".to_owned(), RunStatus::Waiting)]);
    }

    #[test]
    fn a_downtime_of_a_year_is_counted_within_bounds() {
        let (task, schedule) = task("* * * * *", Missed::All, "2025-11-21T08:00:00Z");
        let claims = claims(&task, &schedule, at("2026-11-21T08:00:00Z"));
        assert_eq!(
            claims.len(),
            1 + 3 + 2,
            "one for all that is left out, three made up for, two of the last minute"
        );
        let reason = claims[0].reason.clone().unwrap();
        assert!(reason.contains("at least 10"), "{reason}");
    }

    #[test]
    fn every_minute_over_a_change_of_the_clock_is_every_minute() {
        let (mut task, schedule) = task("* * * * *", Missed::Skip, "2027-03-28T00:00:00Z");
        let mut now = at("2027-03-28T00:00:30Z");
        let mut count = 0;
        for _ in 0..180 {
            let claims = claims(&task, &schedule, now);
            count += claims.len();
            task.considered_at = now;
            now = now + Duration::from_secs(60);
        }
        assert_eq!(count, 179, "none in the first half minute, then one a minute");
    }

    fn run(due: &str, cause: Cause, status: RunStatus) -> TaskRun {
        TaskRun {
            id: TaskRunId::new(uuid::Uuid::from_u128(2)),
            task: TaskId::new(uuid::Uuid::from_u128(1)),
            organization: OrganizationId::DEFAULT,
            due_at: at(due),
            attempt: 1,
            cause,
            status,
            start_at: at(due),
            operation: None,
            reason: None,
            started_by: String::new(),
            started_at: None,
            ended_at: None,
        }
    }

    #[test]
    fn a_run_that_comes_too_early_is_left_out_waits_or_begins_beside() {
        let (mut task, _) = task("* * * * *", Missed::Skip, "2026-11-21T08:00:00Z");
        let before = run("2026-11-21T08:01:00Z", Cause::Schedule, RunStatus::Running);
        let next = run("2026-11-21T08:02:00Z", Cause::Schedule, RunStatus::Waiting);
        let now = at("2026-11-21T08:02:01Z");
        assert_eq!(turn(&task, &next, &[], now), Turn::Start);
        assert!(matches!(turn(&task, &next, &[&before], now), Turn::LeaveOut(RunStatus::Skipped, _)));
        task.overlap = Overlap::Queue;
        assert_eq!(turn(&task, &next, &[&before], now), Turn::Wait);
        let line = vec![&before; QUEUED];
        assert!(matches!(turn(&task, &next, &line, now), Turn::LeaveOut(RunStatus::Skipped, _)));
        task.overlap = Overlap::Allow;
        assert_eq!(turn(&task, &next, &[&before], now), Turn::Start);
    }

    #[test]
    fn a_run_that_was_taken_down_and_not_begun_before_a_stop_follows_the_rule_for_missed_ones() {
        let (mut task, _) = task("* * * * *", Missed::Skip, "2026-11-21T08:00:00Z");
        let stale = run("2026-11-21T08:01:00Z", Cause::Schedule, RunStatus::Waiting);
        let now = at("2026-11-21T08:10:00Z");
        assert!(matches!(turn(&task, &stale, &[], now), Turn::LeaveOut(RunStatus::Missed, _)));
        task.missed = Missed::Once;
        assert_eq!(turn(&task, &stale, &[], now), Turn::Start);
        let long_after = at("2026-11-21T10:10:00Z");
        assert!(matches!(turn(&task, &stale, &[], long_after), Turn::LeaveOut(RunStatus::Missed, _)));
    }
}
