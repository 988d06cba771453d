//! A reboot: the command is sent, the connection breaks as it should, and the server is back when it answers with another
//! boot id.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::steps::{Report, Stuck};
use super::{Fleet, Hand};
use crate::model::{Caller, ServerId};
use crate::ssh::{ExecRequest, Output, Piece, SshError, printable};

/// random(4): a new one at each boot.
const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";
/// The id has 36 characters.
const BOOT_ID_BYTES: usize = 64;
/// A server that answers at all answers this within it. What takes longer counts as no answer.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// `reboot` comes back at once or takes the connection with it.
const SEND_LIMIT: Duration = Duration::from_secs(60);
/// Stopping services takes systemd up to 90 s each, rarely more than one after another.
const LEAVE_LIMIT: Duration = Duration::from_secs(300);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const SAID_CHARS: usize = 300;

impl Fleet {
    /// Sends the reboot and waits until the server answers from another boot, `limit` at most. The output tells how long
    /// each part took; exit status 1: stderr says whether it never went away or never came back.
    pub async fn reboot(
        &self,
        caller: &Caller,
        server: ServerId,
        command: ExecRequest,
        limit: Duration,
        tap: mpsc::Sender<Piece>,
    ) -> Output {
        let mut report = Report::new(tap);
        let outcome = self.reboot_and_wait(caller, server, command, limit, &mut report).await;
        report.output(outcome)
    }

    async fn reboot_and_wait(
        &self,
        caller: &Caller,
        server: ServerId,
        command: ExecRequest,
        limit: Duration,
        report: &mut Report,
    ) -> Result<(), Stuck> {
        let asking = |cause: String| Stuck::at("Nothing was sent, because the boot is not known", cause);
        let hand = self.hand(caller, server).await.map_err(asking)?;
        let before = boot_id(&hand).await.map_err(asking)?;
        report.say(&format!("Boot {before}"));
        let started = Instant::now();
        send(&hand, command).await?;
        drop(hand);
        report.say("The reboot was asked for");
        let mut gone = None;
        loop {
            let seen = self.boot_of(caller, server).await;
            let elapsed = started.elapsed();
            let last = match seen {
                Ok(now) if now != before => {
                    report.say(&format!("Boot {now}: back after {:.1} s", elapsed.as_secs_f64()));
                    return Ok(());
                }
                Ok(_) if gone.is_none() && elapsed >= LEAVE_LIMIT => {
                    return Err(Stuck(format!(
                        "it never went away: {} s after the command it is still the same boot",
                        elapsed.as_secs()
                    )));
                }
                Ok(_) => Err("it answers, and it is still the same boot".to_owned()),
                Err(why) => {
                    if gone.is_none() {
                        gone = Some(elapsed);
                        report.say(&format!("Gone after {:.1} s", elapsed.as_secs_f64()));
                    }
                    Ok(why)
                }
            };
            if elapsed >= limit {
                let within = limit.as_secs();
                return Err(Stuck(match last {
                    Ok(why) => format!("it did not come back within {within} s: {why}"),
                    Err(still) => format!("it never went away within {within} s: {still}"),
                }));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Err: why there is no answer now.
    async fn boot_of(&self, caller: &Caller, server: ServerId) -> Result<String, String> {
        let asked = async { boot_id(&self.hand(caller, server).await?).await };
        let late = |_| Err(format!("it did not answer within {} s", ASK_LIMIT.as_secs()));
        tokio::time::timeout(ASK_LIMIT, asked).await.unwrap_or_else(late)
    }
}

async fn boot_id(hand: &Hand) -> Result<String, String> {
    let request = ExecRequest::new(BOOT_ID).timeout(ASK_LIMIT).output_limit(BOOT_ID_BYTES);
    let output = hand.exec(request).await.map_err(|error| error.to_string())?;
    let id = printable::line(&output.stdout, BOOT_ID_BYTES).trim().to_owned();
    if output.success() && id.len() == 36 { Ok(id) } else { Err("the server tells no boot id".to_owned()) }
}

/// The connection may end with the server before the command does: that is what a reboot looks like.
async fn send(hand: &Hand, command: ExecRequest) -> Result<(), Stuck> {
    match hand.exec(command.timeout(SEND_LIMIT)).await {
        Ok(output) if output.success() || output.exit_status.is_none() => Ok(()),
        Ok(output) => {
            let said = printable::line(&output.stderr, SAID_CHARS);
            let status = output.exit_status.unwrap_or_default();
            Err(Stuck(format!("the server refuses to reboot (exit status {status}): {said}")))
        }
        Err(SshError::Closed { .. } | SshError::TimedOut { .. } | SshError::CommandTimedOut { .. }) => Ok(()),
        Err(error) => Err(Stuck(format!("the reboot could not be sent: {error} {}", error.advice()))),
    }
}
