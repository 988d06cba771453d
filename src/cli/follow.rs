//! Waits for the end of an operation: the output of a single server as it comes, of several how far they are.
//!
//! Who interrupts the wait cancels what was begun, as with ssh; what is detached goes on.

use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::answers::{Look, exit_code, results, show_all};
use super::client::{Client, segment};
use super::error::CliError;
use super::operations::OPERATIONS;
use super::output::{Output, printable, text};
use super::progress::Progress;

/// How often a running operation is asked for: quick at first, because most commands are.
const ASK_EVERY: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
];

/// What becomes of an operation when its person presses Ctrl-C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnInterrupt {
    Cancel,
    /// It was begun to go on by itself.
    Leave,
}

/// Begins an operation, follows it to its end and shows what came of it.
pub(super) async fn carry_out(
    client: &Client,
    body: &Value,
    on_interrupt: OnInterrupt,
    look: Look,
    output: &Output,
) -> Result<std::process::ExitCode, CliError> {
    let begun = client.post(OPERATIONS, body).await?;
    let single = results(&begun).len() == 1 && !output.json;
    let done = follow(client, begun, single, on_interrupt).await?;
    if output.json {
        output.value(&done)?;
    } else if !single {
        show_all(&done, look, output)?;
    }
    Ok(exit_code(&done))
}

fn has_ended(operation: &Value) -> bool {
    !matches!(text(operation, "status"), "pending" | "running")
}

/// Waits for the end; shows the output of a single server as it comes.
///
/// # Errors
/// What the server refuses; [`CliError::Failed`] when the wait was interrupted and the operation goes on.
pub(super) async fn follow(
    client: &Client,
    begun: Value,
    live: bool,
    on_interrupt: OnInterrupt,
) -> Result<Value, CliError> {
    let id = text(&begun, "id").to_owned();
    let path = format!("{OPERATIONS}/{}", segment(&id)?);
    let number = |operation: &Value, name: &str| operation.get(name).and_then(Value::as_u64).unwrap_or(0);
    let mut progress = Progress::of_servers(results(&begun).len());
    let mut operation = begun;
    let mut shown = Shown::default();
    let mut waits = ASK_EVERY.iter();
    let mut wait = ASK_EVERY[0];
    let mut interrupts = Interrupts { cancelled: false };
    loop {
        let ended = has_ended(&operation);
        match results(&operation) {
            [result] if live => shown.show(result, ended)?,
            [_] => {}
            _ => {
                let failed = number(&operation, "failed_servers");
                let remark = if failed > 0 { format!(", {failed} failed") } else { String::new() };
                progress.at(number(&operation, "completed_servers"), remark);
            }
        }
        if ended {
            return Ok(operation);
        }
        wait = waits.next().copied().unwrap_or(wait);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            said = tokio::signal::ctrl_c() => {
                said.map_err(|error| CliError::failed(format!("no signals can be received: {error}")))?;
                interrupts.one(client, &path, &id, on_interrupt).await?;
            }
        }
        operation = client.get(&path).await?;
    }
}

struct Interrupts {
    cancelled: bool,
}

impl Interrupts {
    async fn one(
        &mut self,
        client: &Client,
        path: &str,
        id: &str,
        on_interrupt: OnInterrupt,
    ) -> Result<(), CliError> {
        if on_interrupt == OnInterrupt::Leave {
            return Err(CliError::failed(format!(
                "it goes on; look at it with 'roundsman op show {id}', end it with 'roundsman op cancel {id}'"
            )));
        }
        if self.cancelled {
            return Err(CliError::failed(format!(
                "operation {id} is being cancelled; look at it with 'roundsman op show {id}'"
            )));
        }
        self.cancelled = true;
        match client.post(&format!("{path}/cancel"), &json!({})).await {
            // It may have ended in the meantime, which the next look at it tells.
            Ok(_) | Err(CliError::Refused { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// What of a single server's output is on the terminal already.
#[derive(Default)]
pub(super) struct Shown {
    stdout: String,
    stderr: String,
}

impl Shown {
    /// Shows what came since, in whole lines.
    ///
    /// # Errors
    /// The output is closed.
    pub(super) fn add(&mut self, stdout: &str, stderr: &str) -> Result<(), CliError> {
        self.stdout.push_str(stdout);
        self.stderr.push_str(stderr);
        let mut out = std::io::stdout().lock();
        out.write_all(stdout.as_bytes())?;
        out.flush()?;
        Ok(std::io::stderr().lock().write_all(stderr.as_bytes())?)
    }

    /// # Errors
    /// The output is closed.
    pub(super) fn show(&mut self, result: &Value, ended: bool) -> Result<(), CliError> {
        let new = fresh(&mut self.stdout, text(result, "stdout"), ended);
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(new.as_bytes())?;
        stdout.flush()?;
        let new = fresh(&mut self.stderr, text(result, "stderr"), ended);
        let mut stderr = std::io::stderr().lock();
        stderr.write_all(new.as_bytes())?;
        if ended {
            for (name, stream) in
                [("stdout_dropped_bytes", "output"), ("stderr_dropped_bytes", "error output")]
            {
                if let Some(dropped @ 1..) = result.get(name).and_then(Value::as_u64) {
                    writeln!(stderr, "roundsman: {dropped} more bytes of {stream} were not kept")?;
                }
            }
            if result.get("exit_status").is_none_or(Value::is_null) {
                let error = match text(result, "error") {
                    "" => text(result, "status"),
                    error => error,
                };
                let name = printable(text(result, "server_name"));
                writeln!(stderr, "roundsman: {name}: {}", printable(error))?;
            }
        }
        Ok(())
    }
}

/// What is to be added to `shown` now: whole lines while the command runs, everything at its end. While it runs the
/// server keeps the end of a long output only; what cannot be joined to what was shown waits for the end.
fn fresh(shown: &mut String, whole: &str, ended: bool) -> String {
    let Some(rest) = whole.strip_prefix(shown.as_str()) else {
        return if ended { whole.to_owned() } else { String::new() };
    };
    let upto = if ended { rest.len() } else { rest.rfind('\n').map_or(0, |at| at + 1) };
    let new = rest.get(..upto).unwrap_or_default().to_owned();
    shown.push_str(&new);
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_output_is_shown_line_by_line_and_nothing_twice() {
        let mut shown = String::new();
        assert_eq!(fresh(&mut shown, "one\ntw", false), "one\n");
        assert_eq!(fresh(&mut shown, "one\ntwo\n", false), "two\n");
        assert_eq!(fresh(&mut shown, "one\ntwo\nthree", true), "three");
    }
}
