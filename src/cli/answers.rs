//! What servers answered: equal answers as one, and the status that a script sees.
//!
//! Which answers are equal is decided by [`crate::operations::clusters`] alone, here as on the pages.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::error::CliError;
use super::output::{Output, list, printable, text};
use crate::operations::{TargetView, cluster_summary, clusters};

/// As ssh answers when it could not run the command at all.
const NOT_RUN: u8 = 255;

/// How answers are shown.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Look {
    /// Show the output of each server, also where it is the same
    #[arg(long)]
    no_fold: bool,
    /// Of answers that differ from the most frequent one, show the lines that differ
    #[arg(long, conflicts_with = "no_fold")]
    diff: bool,
}

impl Look {
    /// Every server by itself.
    pub(super) const EACH: Self = Self { no_fold: true, diff: false };
}

pub(super) fn results(operation: &Value) -> &[Value] {
    items(operation, "results")
}

fn items<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    object.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Targets that no Roundsman keeps, in the words of the API.
pub(super) fn operation_of(targets: &[TargetView], halted: Option<&str>) -> Value {
    let folded = clusters(targets);
    let results: Vec<Value> = targets.iter().map(result_of).collect();
    let clusters: Vec<Value> = folded
        .iter()
        .map(|cluster| {
            let names: Vec<&str> = cluster
                .members
                .iter()
                .filter_map(|index| Some(targets.get(*index)?.target.server_name.as_str()))
                .collect();
            let diff: Vec<String> =
                cluster.diff.iter().map(|(side, line)| format!("{}{line}", side.mark())).collect();
            json!({
                "status": cluster.status.name(),
                "ending": cluster.ending,
                "server_names": names,
                "diff": diff,
                "diff_left_out": cluster.diff_left_out,
            })
        })
        .collect();
    json!({
        "total_servers": targets.len(),
        "halted": halted,
        "results": results,
        "clusters": clusters,
        "cluster_summary": cluster_summary(&folded, targets),
    })
}

/// One target in the words of the API.
pub(super) fn result_of(view: &TargetView) -> Value {
    let (target, record) = (&view.target, view.record.as_ref());
    json!({
        "server_name": target.server_name,
        "status": target.status.name(),
        "command": target.command,
        "exit_status": record.and_then(|record| record.exit_status),
        "signal": record.and_then(|record| record.signal.as_deref()),
        "stdout": record.map(|record| record.stdout.as_str()),
        "stderr": record.map(|record| record.stderr.as_str()),
        "stdout_dropped_bytes": record.map_or(0, |record| record.stdout_dropped_bytes),
        "stderr_dropped_bytes": record.map_or(0, |record| record.stderr_dropped_bytes),
        "duration_ms": record.and_then(|record| record.duration_ms),
        "started_at": target.started_at,
        "batch": target.batch,
        "error": target.error,
    })
}

/// Everything that was answered; equal answers once, unless that is not wanted or the operation has not ended.
pub(super) fn show_all(operation: &Value, look: Look, output: &Output) -> Result<(), CliError> {
    let folded = items(operation, "clusters");
    if look.no_fold || folded.is_empty() {
        for result in results(operation) {
            block(&printable(text(result, "server_name")), &ending(result), result)?;
        }
    } else {
        for (number, cluster) in folded.iter().enumerate() {
            show(cluster, results(operation), look.diff && number > 0)?;
        }
    }
    if let Some(reason) = operation.get("halted").and_then(Value::as_str) {
        output.remark(&format!("Nothing more was sent: {reason}."))?;
    }
    match text(operation, "cluster_summary") {
        summary if folded.len() > 1 && !summary.is_empty() => output.remark(summary),
        _ => Ok(()),
    }
}

fn show(cluster: &Value, results: &[Value], only_diff: bool) -> Result<(), CliError> {
    let members = items(cluster, "server_names");
    let first = members.first().and_then(Value::as_str).unwrap_or_default();
    let Some(result) = results.iter().find(|result| text(result, "server_name") == first) else {
        return Ok(());
    };
    let count = if members.len() > 1 { format!(" ({} servers)", members.len()) } else { String::new() };
    let names = format!("{}{count}", printable(&list(cluster, "server_names")));
    let diff = items(cluster, "diff");
    if !only_diff || diff.is_empty() {
        return block(&names, &ending(result), result);
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "── {names}: {}; differs:", ending(result))?;
    for line in diff.iter().filter_map(Value::as_str) {
        writeln!(stdout, "{}", printable(line))?;
    }
    if let Some(more @ 1..) = cluster.get("diff_left_out").and_then(Value::as_u64) {
        writeln!(stdout, "({more} more lines)")?;
    }
    Ok(stdout.flush()?)
}

fn block(names: &str, ending: &str, result: &Value) -> Result<(), CliError> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "── {names}: {ending}")?;
    for name in ["stdout", "stderr"] {
        let said = text(result, name);
        if !said.is_empty() {
            stdout.write_all(said.as_bytes())?;
            if !said.ends_with('\n') {
                writeln!(stdout)?;
            }
        }
        if let Some(dropped @ 1..) = number(result, &format!("{name}_dropped_bytes")) {
            writeln!(stdout, "({dropped} more bytes of {name} were not kept)")?;
        }
    }
    if let Some(omitted @ 1..) = number(result, "omitted_chars") {
        let rest = "they stand among the server's commands";
        writeln!(
            stdout,
            "({omitted} more characters, left out here because there are many servers; {rest})"
        )?;
    }
    Ok(stdout.flush()?)
}

fn number(object: &Value, name: &str) -> Option<u64> {
    object.get(name).and_then(Value::as_u64)
}

/// How a target ended, in a few words. Of several steps, the sentence says more than the status.
fn ending(result: &Value) -> String {
    let error = printable(text(result, "error"));
    match (result.get("exit_status").and_then(Value::as_u64), error.as_str()) {
        (Some(status), "") => format!("exit status {status}"),
        (Some(status), error) if error == format!("exit status {status}") => error.to_owned(),
        (Some(status), error) => format!("exit status {status}, {error}"),
        (None, "") => text(result, "status").to_owned(),
        (None, error) => format!("{}: {error}", text(result, "status")),
    }
}

/// Of one server what its command said; of several 0 when all succeeded, 1 when some did, 2 when none did.
pub(super) fn exit_code(operation: &Value) -> ExitCode {
    let results = results(operation);
    if let [result] = results {
        let status = result.get("exit_status").and_then(Value::as_u64);
        return ExitCode::from(status.and_then(|status| u8::try_from(status).ok()).unwrap_or(NOT_RUN));
    }
    of_several(results.iter().map(|result| text(result, "status") == "succeeded"))
}

/// 0 when all succeeded, 1 when some did, 2 when none did.
pub(super) fn of_several(succeeded: impl Iterator<Item = bool>) -> ExitCode {
    let (mut well, mut badly) = (0_usize, 0_usize);
    for one in succeeded {
        if one { well += 1 } else { badly += 1 }
    }
    ExitCode::from(match (well, badly) {
        (_, 0) => 0,
        (0, _) => 2,
        _ => 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(statuses: &[(&str, Option<u64>)]) -> Value {
        let results: Vec<Value> = statuses
            .iter()
            .map(|(status, exit)| json!({ "status": status, "exit_status": exit, "server_name": "a" }))
            .collect();
        json!({ "status": "completed", "results": results })
    }

    #[test]
    fn one_server_answers_with_the_status_of_the_command_and_several_with_all_some_none() {
        let code = |statuses: &[(&str, Option<u64>)]| format!("{:?}", exit_code(&operation(statuses)));
        let expected = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(code(&[("failed", Some(7))]), expected(7));
        assert_eq!(code(&[("unreachable", None)]), expected(255));
        assert_eq!(code(&[("succeeded", Some(0)), ("succeeded", Some(0))]), expected(0));
        assert_eq!(code(&[("succeeded", Some(0)), ("failed", Some(1))]), expected(1));
        assert_eq!(code(&[("unreachable", None), ("failed", Some(1))]), expected(2));
    }

    #[test]
    fn an_ending_says_the_status_once_and_the_sentence_where_there_is_one() {
        let said = |exit: Option<u64>, error: Option<&str>| {
            ending(&json!({ "status": "failed", "exit_status": exit, "error": error }))
        };
        assert_eq!(said(Some(0), None), "exit status 0");
        assert_eq!(said(Some(7), Some("exit status 7")), "exit status 7");
        assert_eq!(said(Some(5), Some("the validation failed")), "exit status 5, the validation failed");
        assert_eq!(said(None, Some("no route")), "failed: no route");
    }
}
