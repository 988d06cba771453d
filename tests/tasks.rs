//! Tasks on a scripted clock against real sshd's: they run when they should, once, and the history says what became of each run.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that fails says so by panicking")]

#[expect(dead_code, reason = "this program uses a part of the harness")]
mod support;

use std::sync::Arc;
use std::time::Duration;

use roundsman::actions::Action;
use roundsman::clock::{Clock as _, ManualClock};
use roundsman::model::{
    Actor, Caller, Cause, Event, Missed, OperationId, Overlap, Role, RunStatus, Selector, SessionId,
    TaskChange, TaskRun, Timestamp,
};
use roundsman::operations::OperationView;
use roundsman::store::{StoreError, tasks as rows, users};
use roundsman::tasks::{TaskEdit, TaskError, TaskView};
use support::app::TestApp;
use support::sshd::Sshd;
use support::{PATIENCE, in_time};

const MINUTE: Duration = Duration::from_secs(60);

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn admin() -> Caller {
    Caller::roundsman()
}

/// An app whose clock stands still.
async fn app_at(time: &str) -> (TestApp, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(at(time)));
    (TestApp::start_at(clock.clone()).await, clock)
}

fn edit(cron: &str, command: &str, server: &str) -> TaskEdit {
    TaskEdit {
        name: Some("nightly".to_owned()),
        cron: Some(cron.to_owned()),
        time_zone: Some("Europe/Berlin".to_owned()),
        action: Some(Action::run_command(command, false, Some(MINUTE)).unwrap()),
        selector: Some(Selector::of_servers(vec![server.to_owned()])),
        ..TaskEdit::default()
    }
}

async fn create(app: &TestApp, edit: TaskEdit) -> TaskView {
    app.services.tasks.create(&admin(), edit).await.unwrap()
}

/// The runs of the task in the order of their times.
async fn runs(app: &TestApp) -> Vec<TaskRun> {
    let mut runs = app.services.tasks.runs(&admin(), "nightly", 500, 0).await.unwrap();
    runs.reverse();
    runs
}

/// Sets the clock and waits until the history is as it should be.
async fn until(app: &TestApp, what: &str, condition: impl Fn(&[TaskRun]) -> bool) -> Vec<TaskRun> {
    let mut events = app.services.fleet.subscribe();
    app.services.tasks.look();
    let waiting = async {
        loop {
            let found = runs(app).await;
            if condition(&found) {
                return found;
            }
            drop(events.recv().await);
        }
    };
    match tokio::time::timeout(PATIENCE, waiting).await {
        Ok(found) => found,
        Err(_) => panic!("waited in vain for {what}; there are {:#?}", runs(app).await),
    }
}

fn all_ended(count: usize) -> impl Fn(&[TaskRun]) -> bool {
    move |runs| runs.len() == count && runs.iter().all(|run| run.status.is_final())
}

/// Hours and minutes in UTC with what became of the run.
fn told(runs: &[TaskRun]) -> Vec<(String, RunStatus)> {
    runs.iter().map(|run| (run.due_at.to_string()[11..16].to_owned(), run.status)).collect()
}

async fn operation(app: &TestApp, id: OperationId) -> OperationView {
    app.services.operations.get(&admin(), &id.to_string()).await.unwrap()
}

async fn operations(app: &TestApp) -> usize {
    app.services.operations.list(&admin(), 500, 0).await.unwrap().len()
}

#[tokio::test]
async fn a_task_runs_at_its_time_as_an_operation_and_nothing_before_it() {
    let sshd = Sshd::start().await;
    let (app, clock) = app_at("2026-11-21T08:00:30Z").await;
    app.with_server("web-1", &sshd).await;
    let mut events = app.services.fleet.subscribe();
    let view = create(&app, edit("1 9 * * *", "echo round", "web-1")).await;
    let next = &view.schedule.as_ref().unwrap().next_runs;
    assert_eq!((next.len(), next[0].0), (5, at("2026-11-21T08:01:00Z")));
    clock.set(at("2026-11-21T08:00:59Z"));
    app.services.tasks.look();
    clock.set(at("2026-11-21T08:01:00Z"));
    let found = until(&app, "the run", all_ended(1)).await;
    assert_eq!(
        (found[0].status, found[0].cause, found[0].attempt),
        (RunStatus::Completed, Cause::Schedule, 1)
    );
    assert_eq!(found[0].started_at, Some(at("2026-11-21T08:01:00Z")));
    let view = operation(&app, found[0].operation.unwrap()).await;
    assert_eq!(view.operation.initiated_by, "roundsman by the task nightly");
    assert_eq!(view.targets[0].record.as_ref().unwrap().stdout, "round\n");
    let of = app.services.tasks.of_operation(view.operation.id).await.unwrap();
    assert_eq!(of.as_deref(), Some("nightly"));
    let mut changes = Vec::new();
    in_time("the events", async {
        while changes.len() < 3 {
            if let Ok(Event::Task { change, .. }) = events.recv().await {
                changes.push(change);
            }
        }
    })
    .await;
    assert_eq!(changes, [TaskChange::Created, TaskChange::Started, TaskChange::Completed]);
}

#[tokio::test]
async fn a_task_every_minute_runs_each_minute_over_a_change_of_the_clock() {
    let sshd = Sshd::start().await;
    let (app, clock) = app_at("2027-03-28T00:56:30Z").await;
    app.with_server("web-1", &sshd).await;
    create(&app, edit("* * * * *", "true", "web-1")).await;
    for minute in 1..=7 {
        clock.advance(MINUTE);
        until(&app, "the next run", all_ended(minute)).await;
    }
    let expected: Vec<(String, RunStatus)> = ["00:57", "00:58", "00:59", "01:00", "01:01", "01:02", "01:03"]
        .map(|time| (time.to_owned(), RunStatus::Completed))
        .into();
    assert_eq!(told(&runs(&app).await), expected);
    // 02:30 does not exist on this day: the fixed one ran at 03:00, which is 01:00 in UTC.
    let fixed = TaskEdit { cron: Some("30 2 * * *".to_owned()), ..TaskEdit::default() };
    clock.set(at("2027-03-28T00:30:00Z"));
    app.services.tasks.edit(&admin(), "nightly", fixed).await.unwrap();
    clock.set(at("2027-03-28T01:00:20Z"));
    // The same time of the same task had its run before the clock was set back.
    app.services.tasks.look();
    clock.set(at("2027-03-29T00:30:10Z"));
    let found = until(&app, "the run of the day after", all_ended(8)).await;
    assert_eq!(found[7].due_at, at("2027-03-29T00:30:00Z"));
}

#[tokio::test]
async fn a_time_that_does_not_exist_runs_after_the_gap_and_one_that_comes_twice_runs_once() {
    let sshd = Sshd::start().await;
    let (app, clock) = app_at("2027-03-28T00:00:00Z").await;
    app.with_server("web-1", &sshd).await;
    create(&app, edit("30 2 * * *", "true", "web-1")).await;
    clock.set(at("2027-03-28T01:00:05Z"));
    let found = until(&app, "the run after the gap", all_ended(1)).await;
    assert_eq!(found[0].due_at, at("2027-03-28T01:00:00Z"));
    // Nothing at half past three, which is half past two of the day before by the sun.
    clock.set(at("2027-03-28T01:30:05Z"));
    app.services.tasks.look();
    clock.set(at("2027-10-31T00:00:00Z"));
    let found = until(&app, "the summer is told as missed", all_ended(2)).await;
    assert_eq!(found[1].status, RunStatus::Missed);
    clock.set(at("2027-10-31T00:30:05Z"));
    let found = until(&app, "the first half past two", all_ended(3)).await;
    assert_eq!((found[2].due_at, found[2].status), (at("2027-10-31T00:30:00Z"), RunStatus::Completed));
    clock.set(at("2027-10-31T01:30:05Z"));
    app.services.tasks.look();
    clock.set(at("2027-11-01T01:30:05Z"));
    let found = until(&app, "the next day", all_ended(4)).await;
    assert_eq!(found[3].due_at, at("2027-11-01T01:30:00Z"), "the second half past two was none");
}

#[tokio::test]
async fn a_downtime_is_told_left_out_or_made_up_for_by_the_store_of_the_last_run() {
    for (missed, expected) in [
        (Missed::Skip, vec![("08:10", RunStatus::Completed), ("08:40", RunStatus::Missed)]),
        (
            Missed::Once,
            vec![
                ("08:10", RunStatus::Completed),
                ("08:30", RunStatus::Missed),
                ("08:40", RunStatus::Completed),
            ],
        ),
        (
            Missed::All,
            vec![
                ("08:10", RunStatus::Completed),
                ("08:20", RunStatus::Missed),
                ("08:30", RunStatus::Completed),
                ("08:40", RunStatus::Completed),
            ],
        ),
    ] {
        let sshd = Sshd::start().await;
        let (app, clock) = app_at("2026-11-21T08:09:00Z").await;
        app.with_server("web-1", &sshd).await;
        let policy =
            TaskEdit { missed: Some(missed), missed_limit: Some(2), ..edit("*/10 * * * *", "true", "web-1") };
        create(&app, policy).await;
        clock.set(at("2026-11-21T08:10:00Z"));
        until(&app, "the run before the downtime", all_ended(1)).await;
        // Nobody looks while it is down.
        let stopped = app.services.tasks.clone();
        in_time("the end of the tasks", stopped.stop()).await;
        clock.set(at("2026-11-21T08:45:00Z"));
        let app = app.restart().await;
        app.until("web-1", "read", |state| state.figures.memory_percent.is_some()).await;
        let found = until(&app, "the downtime is told", all_ended(expected.len())).await;
        let expected: Vec<(String, RunStatus)> =
            expected.into_iter().map(|(time, status)| (time.to_owned(), status)).collect();
        assert_eq!(told(&found), expected, "{missed}");
        let missed_run = found.iter().find(|run| run.status == RunStatus::Missed).unwrap();
        assert!(missed_run.reason.as_ref().unwrap().contains("not running"), "{missed_run:?}");
    }
}

#[tokio::test]
async fn a_clock_that_is_set_back_repeats_nothing_and_one_that_jumps_ahead_counts_as_a_downtime() {
    let sshd = Sshd::start().await;
    let (app, clock) = app_at("2026-11-21T08:00:30Z").await;
    app.with_server("web-1", &sshd).await;
    create(&app, edit("* * * * *", "true", "web-1")).await;
    clock.set(at("2026-11-21T08:01:00Z"));
    until(&app, "the first run", all_ended(1)).await;
    clock.set(at("2026-11-21T07:59:30Z"));
    app.services.tasks.look();
    clock.set(at("2026-11-21T08:00:00Z"));
    until(&app, "a time that was none before", all_ended(2)).await;
    clock.set(at("2026-11-21T08:01:05Z"));
    app.services.tasks.look();
    clock.set(at("2026-11-21T08:02:00Z"));
    let found = until(&app, "the second minute", all_ended(3)).await;
    assert_eq!(operations(&app).await, 3, "08:01 came twice and ran once");
    assert_eq!(
        told(&found).iter().map(|(time, _)| time.as_str()).collect::<Vec<_>>(),
        ["08:00", "08:01", "08:02"]
    );
    clock.set(at("2026-11-21T12:00:00Z"));
    let found = until(&app, "the hours that were left out", all_ended(6)).await;
    assert_eq!(told(&found)[3].1, RunStatus::Missed);
    assert!(found[3].reason.as_ref().unwrap().contains("236 runs were missed"), "{found:?}");
}

/// A user of this name with a role, as a caller.
async fn user(app: &TestApp, role: Role) -> Caller {
    app.login(role).await;
    let name = role.name();
    let user = app.store.read(move |c| users::user_by_name(c, name)).await.unwrap().unwrap();
    let session = SessionId::new(app.services.clock.new_uuid());
    Caller {
        organization: user.organization,
        actor: Actor::User { id: user.id, name: user.name, session },
        role,
        from: None,
    }
}

#[tokio::test]
async fn an_owner_who_lost_the_right_makes_the_run_fail_with_the_reason() {
    let sshd = Sshd::start().await;
    let (app, clock) = app_at("2026-11-21T08:00:30Z").await;
    app.with_server("web-1", &sshd).await;
    let operator = user(&app, Role::Operator).await;
    app.services.tasks.create(&operator, edit("* * * * *", "true", "web-1")).await.unwrap();
    clock.advance(MINUTE);
    let found = until(&app, "a run as operator", all_ended(1)).await;
    let view = operation(&app, found[0].operation.unwrap()).await;
    assert_eq!(view.operation.initiated_by, "operator by the task nightly");
    let demote =
        |sql: &'static str| app.store.write(move |tx| Ok::<_, StoreError>(tx.execute(sql, []).map(drop)?));
    demote("UPDATE users SET role = 'viewer' WHERE name = 'operator'").await.unwrap();
    let mut events = app.services.fleet.subscribe();
    clock.advance(MINUTE);
    let found = until(&app, "a run as viewer", all_ended(2)).await;
    assert_eq!((found[1].status, found[1].operation), (RunStatus::Failed, None));
    assert!(found[1].reason.as_ref().unwrap().contains("needs the role operator"), "{found:?}");
    let failed = in_time("task.failed", async {
        loop {
            if let Ok(Event::Task { change: TaskChange::Failed, reason, .. }) = events.recv().await {
                return reason;
            }
        }
    });
    assert!(failed.await.unwrap().contains("operator"));
    demote("DELETE FROM users WHERE name = 'operator'").await.unwrap();
    clock.advance(MINUTE);
    let found = until(&app, "a run as nobody", all_ended(3)).await;
    assert!(found[2].reason.as_ref().unwrap().contains("no such user any more"), "{found:?}");
    assert_eq!(operations(&app).await, 1);
}

#[tokio::test]
async fn a_run_that_failed_is_tried_again_where_it_failed() {
    let (bad, good) = (Sshd::start().await, Sshd::start().await);
    let (app, clock) = app_at("2026-11-21T08:00:30Z").await;
    app.with_server("bad", &bad).await;
    app.with_server("good", &good).await;
    let flag = bad.path("was-here");
    let command = format!(
        "case $SSH_CONNECTION in *' {}') ;; *) exit 0;; esac; test -e {flag} || {{ touch {flag}; exit 4; }}",
        bad.port().get(),
        flag = flag.display()
    );
    let both = Selector::of_servers(vec!["bad".to_owned(), "good".to_owned()]);
    let policy = TaskEdit {
        selector: Some(both),
        retries: Some(2),
        retry_wait_s: Some(120),
        ..edit("1 9 * * *", &command, "bad")
    };
    create(&app, policy).await;
    clock.set(at("2026-11-21T08:01:00Z"));
    let found = until(&app, "the first attempt", |runs| runs.len() == 2 && runs[0].status.is_final()).await;
    assert_eq!((found[0].status, found[1].status), (RunStatus::Partial, RunStatus::Waiting));
    assert_eq!((found[1].attempt, found[1].start_at), (2, at("2026-11-21T08:03:00Z")));
    assert!(found[0].reason.as_ref().unwrap().starts_with("bad: "), "{found:?}");
    clock.set(at("2026-11-21T08:03:00Z"));
    let found = until(&app, "the second attempt", all_ended(2)).await;
    assert_eq!(found[1].status, RunStatus::Completed);
    let again = operation(&app, found[1].operation.unwrap()).await;
    assert_eq!(again.operation.retry_of, found[0].operation);
    assert_eq!(
        again.targets.iter().map(|view| view.target.server_name.as_str()).collect::<Vec<_>>(),
        ["bad"]
    );
}

/// A command that ends when a file appears.
fn waits_for(sshd: &Sshd) -> (String, std::path::PathBuf) {
    let file = sshd.path("go");
    (format!("while ! test -e {}; do sleep 0.05; done", file.display()), file)
}

#[tokio::test]
async fn a_run_due_while_the_last_one_runs_is_left_out_waits_or_begins_beside_it() {
    for overlap in [Overlap::Skip, Overlap::Queue, Overlap::Allow] {
        let sshd = Sshd::start().await;
        let (app, clock) = app_at("2026-11-21T08:00:30Z").await;
        app.with_server("web-1", &sshd).await;
        let (command, file) = waits_for(&sshd);
        create(&app, TaskEdit { overlap: Some(overlap), ..edit("* * * * *", &command, "web-1") }).await;
        clock.set(at("2026-11-21T08:01:00Z"));
        until(&app, "the first is under way", |runs| runs.len() == 1 && runs[0].status == RunStatus::Running)
            .await;
        clock.set(at("2026-11-21T08:02:00Z"));
        let second = |wanted: RunStatus| {
            move |runs: &[TaskRun]| {
                runs.len() == 2 && runs[1].status == wanted && runs[0].status == RunStatus::Running
            }
        };
        let expected = match overlap {
            Overlap::Skip => {
                let found = until(&app, "it is left out", second(RunStatus::Skipped)).await;
                assert!(found[1].reason.as_ref().unwrap().contains("had not ended"), "{found:?}");
                RunStatus::Skipped
            }
            Overlap::Queue => {
                until(&app, "it waits", |runs| second(RunStatus::Waiting)(runs) && runs[1].reason.is_some())
                    .await;
                // Whoever waits in line is not late.
                clock.advance(MINUTE * 3 / 4);
                RunStatus::Completed
            }
            Overlap::Allow => {
                until(&app, "both are under way", second(RunStatus::Running)).await;
                RunStatus::Completed
            }
        };
        let refused = app.services.tasks.run_now(&admin(), "nightly").await;
        if overlap == Overlap::Skip {
            assert!(matches!(refused, Err(TaskError::UnderWay { operation: Some(_) })), "{refused:?}");
            std::fs::write(&file, "").unwrap();
            let found = until(&app, "both ended", all_ended(2)).await;
            assert_eq!((found[0].status, found[1].status), (RunStatus::Completed, expected));
        } else {
            std::fs::write(&file, "").unwrap();
            let found = until(&app, "all ended", |runs| runs.iter().all(|run| run.status.is_final())).await;
            assert_eq!((found[0].status, found[1].status), (RunStatus::Completed, expected));
        }
    }
}

#[tokio::test]
async fn a_stop_between_taking_down_and_beginning_neither_forgets_a_run_nor_does_it_twice() {
    let sshd = Sshd::start().await;
    let (app, clock) = app_at("2026-11-21T08:00:30Z").await;
    app.with_server("web-1", &sshd).await;
    let file = sshd.path("lines");
    let view = create(&app, edit("* * * * *", &format!("echo x >>{}", file.display()), "web-1")).await;
    clock.set(at("2026-11-21T08:01:00Z"));
    let done = until(&app, "a run", all_ended(1)).await.remove(0);
    in_time("the end of the tasks", app.services.tasks.stop()).await;
    // As a kill leaves it: one run was taken down and an operation's id chosen for it, and nothing begun; of the other
    // the operation was begun, and nobody noted it.
    let chosen = TaskRun {
        id: roundsman::model::TaskRunId::new(clock.new_uuid()),
        due_at: at("2026-11-21T08:02:00Z"),
        start_at: at("2026-11-21T08:02:00Z"),
        status: RunStatus::Starting,
        operation: Some(OperationId::new(clock.new_uuid())),
        ended_at: None,
        ..done.clone()
    };
    let begun = TaskRun { status: RunStatus::Starting, ended_at: None, ..done.clone() };
    let (id, now) = (view.task.id, at("2026-11-21T08:02:00Z"));
    app.store
        .write(move |tx| {
            assert!(rows::insert_run(tx, &chosen)?);
            assert!(rows::advance_run(tx, &begun, RunStatus::Completed)?);
            let task = rows::by_id(tx, id)?.unwrap();
            assert!(rows::consider(tx, &task, now)?);
            Ok::<_, StoreError>(())
        })
        .await
        .unwrap();
    clock.set(at("2026-11-21T08:02:20Z"));
    let app = app.restart().await;
    app.until("web-1", "read", |state| state.figures.memory_percent.is_some()).await;
    let found = until(&app, "both have their end", all_ended(2)).await;
    assert_eq!(
        told(&found),
        [("08:01".to_owned(), RunStatus::Completed), ("08:02".to_owned(), RunStatus::Completed)]
    );
    assert_eq!(found[0].operation, done.operation);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "x\nx\n");
}

#[tokio::test]
async fn a_disabled_task_runs_only_when_somebody_says_so_and_misses_nothing() {
    let sshd = Sshd::start().await;
    let (app, clock) = app_at("2026-11-21T08:00:30Z").await;
    app.with_server("web-1", &sshd).await;
    let policy =
        TaskEdit { missed: Some(Missed::All), jitter_s: Some(3600), ..edit("* * * * *", "true", "web-1") };
    create(&app, policy).await;
    clock.set(at("2026-11-21T08:01:00Z"));
    let found = until(&app, "a run that waits for its delay", |runs| runs.len() == 1).await;
    assert!(found[0].start_at >= found[0].due_at && found[0].start_at <= at("2026-11-21T09:01:00Z"));
    app.services.tasks.set_enabled(&admin(), "nightly", false).await.unwrap();
    let found = until(&app, "it is given up", |runs| runs[0].status.is_final()).await;
    assert!(matches!(found[0].status, RunStatus::Cancelled | RunStatus::Completed), "{found:?}");
    clock.set(at("2026-11-21T10:00:30Z"));
    let run = app.services.tasks.run_now(&admin(), "nightly").await.unwrap();
    assert_eq!((run.cause, run.started_by.as_str()), (Cause::Manual, "roundsman"));
    until(&app, "the run by hand", all_ended(2)).await;
    let now = TaskEdit { jitter_s: Some(0), ..TaskEdit::default() };
    app.services.tasks.edit(&admin(), "nightly", now).await.unwrap();
    app.services.tasks.set_enabled(&admin(), "nightly", true).await.unwrap();
    clock.set(at("2026-11-21T10:01:00Z"));
    let found = until(&app, "the next minute", all_ended(3)).await;
    assert_eq!(
        told(&found)[2],
        ("10:01".to_owned(), RunStatus::Completed),
        "two hours of being off are not missed"
    );
}

#[tokio::test]
async fn a_server_that_is_removed_leaves_its_task_and_a_task_leaves_its_operations() {
    let sshd = Sshd::start().await;
    let (app, clock) = app_at("2026-11-21T08:00:30Z").await;
    app.with_server("web-1", &sshd).await;
    app.with_inactive("web-2").await;
    let both = Selector::of_servers(vec!["web-1".to_owned(), "web-2".to_owned()]);
    create(&app, TaskEdit { selector: Some(both), ..edit("* * * * *", "true", "web-1") }).await;
    app.services.fleet.remove(&admin(), "web-2").await.unwrap();
    clock.advance(MINUTE);
    let found = until(&app, "a run on the one that is left", all_ended(1)).await;
    assert_eq!(found[0].status, RunStatus::Completed);
    app.services.fleet.remove(&admin(), "web-1").await.unwrap();
    clock.advance(MINUTE);
    let found = until(&app, "a run on nothing", all_ended(2)).await;
    assert_eq!(found[1].status, RunStatus::Failed);
    assert!(found[1].reason.as_ref().unwrap().contains("is removed"), "{found:?}");
    app.services.tasks.remove(&admin(), "nightly").await.unwrap();
    assert!(matches!(app.services.tasks.get(&admin(), "nightly").await, Err(TaskError::NoSuchTask(_))));
    assert_eq!(operations(&app).await, 1);
}
