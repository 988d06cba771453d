//! Enrolment by password: one login with it, to install the public key.
//!
//! Keeps neither password nor connection. Whether the key then works is for the caller to try, by connecting with it.

use std::time::Duration;

use super::connect::connect;
use super::error::SshError;
use super::exec::ExecRequest;
use super::keys;
use super::printable;
use super::target::Target;

/// Writing one line takes no time; a home directory on a network may have to be mounted first.
const INSTALL_LIMIT: Duration = Duration::from_secs(30);

/// Logs in as `target` says (with a password, and with the host key that a person approved) and puts `public_line` into the
/// user's `authorized_keys`. Safe to repeat.
///
/// # Errors
/// What [`connect`] and [`exec`](super::Connection::exec) answer; [`SshError::RemoteFailed`] when the file could not be
/// written; [`SshError::KeyUnreadable`] when `public_line` is not a public key.
pub async fn enrol_with_password(target: &Target, public_line: &str) -> Result<(), SshError> {
    let command = keys::authorized_keys_install_command(public_line)?;
    let connection = connect(target, &mut |_| {}).await?;
    let result = connection.exec(ExecRequest::new(command).timeout(INSTALL_LIMIT)).await;
    connection.close().await;
    let output = result?;
    if output.success() {
        return Ok(());
    }
    Err(SshError::RemoteFailed {
        what: "Installing the public key",
        exit_status: output.exit_status.map_or_else(|| "unknown".to_owned(), |status| status.to_string()),
        said: printable::line(&output.stderr, 300),
    })
}
